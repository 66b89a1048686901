package verify

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxDirectory bounds the central directory of a zip file. archive/zip reads
// all of it into memory, whatever is in it.
const maxDirectory = maxFiles * 128

var errZip = errors.New("not a zip file that can be read")

// maxBookDirectory bounds that of a workbook, which has some dozens of parts.
const maxBookDirectory = 1 << 20

// checkDirectory refuses a zip file whose directory is too large to be that of
// a pack, or of what else it is. It goes by the end record (APPNOTE 4.3.14 to 4.3.16), as archive/zip
// does: the directory lies between where the record says that it begins, or as
// far before the record as it says that it is long, and the record.
func checkDirectory(r io.ReaderAt, size, limit int64) error {
	tail := make([]byte, min(size, 1<<16+22))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", errZip, err)
	}
	at := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if at < 0 || len(tail)-at < 22 {
		return fmt.Errorf("%w: it has no end record", errZip)
	}
	end := size - int64(len(tail)) + int64(at)
	length, offset := int64(binary.LittleEndian.Uint32(tail[at+12:])), int64(binary.LittleEndian.Uint32(tail[at+16:]))
	if length == 1<<32-1 || offset == 1<<32-1 || binary.LittleEndian.Uint16(tail[at+10:]) == 1<<16-1 {
		var err error
		if length, offset, err = zip64End(r, tail[:at], length, offset); err != nil {
			return err
		}
	}
	if length < 0 || offset < 0 || end-min(offset, end-length) > limit {
		return fmt.Errorf("%w: its directory is larger than %d MiB", errZip, limit>>20)
	}
	return nil
}

// zip64End reads the zip64 end record, where the end record points to one.
func zip64End(r io.ReaderAt, before []byte, length, offset int64) (int64, int64, error) {
	if len(before) < 20 || !bytes.HasPrefix(before[len(before)-20:], []byte("PK\x06\x07")) {
		return length, offset, nil
	}
	at := int64(binary.LittleEndian.Uint64(before[len(before)-12:]))
	var rec [56]byte
	if at < 0 {
		return 0, 0, fmt.Errorf("%w: its zip64 end record is nowhere", errZip)
	}
	if _, err := r.ReadAt(rec[:], at); err != nil || !bytes.HasPrefix(rec[:], []byte("PK\x06\x06")) {
		return 0, 0, fmt.Errorf("%w: its zip64 end record is not where it should be", errZip)
	}
	return int64(binary.LittleEndian.Uint64(rec[40:])), int64(binary.LittleEndian.Uint64(rec[48:])), nil
}

// OpenZip opens a zip file as a pack.
func OpenZip(r io.ReaderAt, size int64) (*zip.Reader, error) { return openZip(r, size, maxDirectory) }

func openZip(r io.ReaderAt, size, limit int64) (*zip.Reader, error) {
	if err := checkDirectory(r, size, limit); err != nil {
		return nil, err
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errZip, err)
	}
	return z, nil
}
