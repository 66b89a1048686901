package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"sync"
)

// A segment file begins with a header, little endian:
//
//	 0  16 bytes  magic
//	16  uint64    LSN of the first frame
//	24  uint64    size of the file
//	32            zeros
//	60  uint32    CRC-32C of the bytes before
//
// Frames follow without gaps, then zeros. The file's name is the LSN in 16
// hexadecimal digits and ".segment"; until it holds the header under that name
// it is a ".spare" or ".reserve", numbered in decimal.
const (
	segmentHead  = 64
	segmentMagic = "exhibit journal\n"

	segmentSuffix = ".segment"
	spareSuffix   = ".spare"
	reserveSuffix = ".reserve"
)

type segment struct {
	name string
	f    file
	base LSN
	size int64 // of the file; all of it is allocated

	found int64 // size of the file when it was opened: less if someone cut it

	mu     sync.Mutex // one sync at a time
	sealed bool       // it is complete and synced
	failed error      // what its sync said: the kernel reports a lost write once only
}

// cut is a place in the stream where a new segment begins.
type cut struct {
	at   LSN
	next *segment
}

func segmentName(base LSN) string { return fmt.Sprintf("%016x%s", uint64(base), segmentSuffix) }

func parseSegmentName(name string) (LSN, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(hex, 16, 64)
	return LSN(n), ok && err == nil && segmentName(LSN(n)) == name
}

func (s *segment) offset(at LSN) int64 { return segmentHead + int64(at-s.base) }

func (s *segment) write(b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	n, err := s.f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("writing journal segment %s: %w", s.name, err)
	}
	return nil
}

// sync makes all that was written before the call survive power loss.
func (s *segment) sync() error { return s.syncAs(false) }

// seal is the last sync.
func (s *segment) seal() error { return s.syncAs(true) }

func (s *segment) syncAs(last bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed || s.failed != nil {
		return s.failed
	}
	if err := s.f.Sync(); err != nil {
		s.failed = fmt.Errorf("syncing journal segment %s: %w", s.name, err)
		return s.failed
	}
	s.sealed = last
	return nil
}

// begin turns a spare or reserve into the segment that starts at base. Frames
// may be written to it once this has returned nil; a crash before that leaves a
// spare, or a segment without frames.
func (s *segment) begin(d directory, base LSN) error {
	h := make([]byte, segmentHead)
	copy(h, segmentMagic)
	binary.LittleEndian.PutUint64(h[16:], uint64(base))
	binary.LittleEndian.PutUint64(h[24:], uint64(s.size))
	binary.LittleEndian.PutUint32(h[60:], crc32.Checksum(h[:60], castagnoli))
	s.base = base
	if err := s.write(h, 0); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	name := segmentName(base)
	if err := d.rename(s.name, name); err != nil {
		return err
	}
	s.name = name
	return d.sync()
}

// openSegment opens a segment that was begun.
func openSegment(d directory, name string) (*segment, error) {
	f, size, err := d.open(name)
	if err != nil {
		return nil, err
	}
	s := &segment{name: name, f: f, found: size}
	if err := s.readHeader(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *segment) readHeader() error {
	h := make([]byte, segmentHead)
	if _, err := s.f.ReadAt(h, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading journal segment %s: %w", s.name, err)
	}
	named, _ := parseSegmentName(s.name)
	s.base, s.size = LSN(binary.LittleEndian.Uint64(h[16:])), int64(binary.LittleEndian.Uint64(h[24:]))
	switch {
	case !bytes.HasPrefix(h, []byte(segmentMagic)), binary.LittleEndian.Uint32(h[60:]) != crc32.Checksum(h[:60], castagnoli):
		return &CorruptError{s.name, 0, named, "it has no valid header"}
	case s.base != named:
		return &CorruptError{s.name, 0, named, fmt.Sprintf("its header is that of %s", segmentName(s.base))}
	case s.size < segmentHead || s.found > s.size:
		return &CorruptError{s.name, 0, named, fmt.Sprintf("the file has %d bytes, its header says %d", s.found, s.size)}
	}
	return nil
}
