package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// A frame is, little endian:
//
//	0  uint32  CRC-32C of the frame's LSN (uint64) and of all that follows
//	4  uint32  length of the payload, at least 1
//	8  uint32  lag: how far below this frame everything was synced when it was written
//	12         payload
//
// The LSN makes a frame valid in one place only. The lag proves to recovery that
// what lies further below had reached the disk. A length of zero is space that
// was never written.
const frameHead = 12

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSum is the checksum of frame b, which stands at at.
func frameSum(at LSN, b []byte) uint32 {
	sum := ^uint32(0)
	for range 8 { // by hand, because crc32.Update would put the eight bytes on the heap
		sum = castagnoli[byte(sum)^byte(at)] ^ sum>>8
		at >>= 8
	}
	return crc32.Update(^sum, castagnoli, b[4:])
}

// appendFrame adds a frame to b whose checksum and lag are still to be filled in.
func appendFrame(b, payload []byte) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

// stamp completes the frames in b, the first of which stands at at, with their
// lag behind synced and their checksums.
func stamp(b []byte, at, synced LSN) {
	for len(b) > 0 {
		n := frameHead + int(binary.LittleEndian.Uint32(b[4:]))
		binary.LittleEndian.PutUint32(b[8:], uint32(at-synced))
		binary.LittleEndian.PutUint32(b, frameSum(at, b[:n]))
		b = b[n:]
		at += LSN(n)
	}
}

var (
	errNoFrame  = errors.New("nothing was written here")
	errBadFrame = errors.New("not a valid frame")
)

// frame is one that was found.
type frame struct {
	payload []byte
	proven  LSN // everything below was synced when this frame was written
}

// checkFrame looks for a frame at at, where b begins; need is how long b must be
// to tell.
func checkFrame(b []byte, at LSN) (f frame, need int64, err error) {
	if len(b) < frameHead {
		return frame{}, frameHead, errBadFrame
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	lag := LSN(binary.LittleEndian.Uint32(b[8:]))
	switch {
	case n == 0 && lag == 0 && binary.LittleEndian.Uint32(b) == 0:
		return frame{}, frameHead, errNoFrame
	case n == 0 || lag > at:
		return frame{}, frameHead, errBadFrame
	case int64(len(b)) < frameHead+n:
		return frame{}, frameHead + n, errBadFrame
	case binary.LittleEndian.Uint32(b) != frameSum(at, b[:frameHead+n]):
		return frame{}, frameHead + n, errBadFrame
	}
	return frame{payload: b[frameHead : frameHead+n], proven: at - lag}, frameHead + n, nil
}

// frames walks over the frames of a segment.
type frames struct {
	r   io.ReaderAt
	off int64 // in r, of the next frame
	to  int64 // in r, where to stop
	at  LSN   // of the next frame
	buf []byte
	win []byte // part of buf that holds what r has at off
}

// next returns the frame at f.at and moves past it. It returns io.EOF at the
// end, and errNoFrame or errBadFrame without moving. The payload is valid until
// the following call.
func (f *frames) next() (frame, error) {
	if f.off == f.to {
		return frame{}, io.EOF
	}
	fr, need, err := checkFrame(f.win, f.at)
	for err != nil && int64(len(f.win)) < need {
		if need > f.to-f.off {
			return frame{}, f.short()
		}
		if err := f.fill(need); err != nil {
			return frame{}, err
		}
		fr, need, err = checkFrame(f.win, f.at)
	}
	if err != nil {
		return frame{}, err
	}
	f.off, f.at, f.win = f.off+need, f.at+LSN(need), f.win[need:]
	return fr, nil
}

// short says what lies in a rest that is too short for the frame it announces:
// a rest of zeros is space that no frame fitted into.
func (f *frames) short() error {
	if f.to-f.off >= frameHead {
		return errBadFrame
	}
	if err := f.fill(f.to - f.off); err != nil {
		return err
	}
	for _, b := range f.win {
		if b != 0 {
			return errBadFrame
		}
	}
	return errNoFrame
}

// fill reads ahead so that the window has at least need bytes.
func (f *frames) fill(need int64) error {
	if int64(cap(f.buf)) < need {
		f.buf = make([]byte, max(need, min(readAhead, f.to-f.off)))
	}
	b := f.buf[:min(int64(cap(f.buf)), f.to-f.off)]
	have := copy(b, f.win)
	n, err := f.r.ReadAt(b[have:], f.off+int64(have))
	if f.win = b[:have+n]; int64(len(f.win)) >= need {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

const readAhead = 256 << 10
