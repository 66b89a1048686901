package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// stateFile is the file "state": it carries the directory's lock, and the floor,
// a place below which everything was synced. The floor is only a witness against
// damage, so it is brought up to date when the journal is opened and closed.
//
// It has two slots, a page apart, written in turns so that a torn write spares
// the other. A slot is, little endian: uint64 turn, from 1; uint64 floor; uint32
// CRC-32C of both.
type stateFile struct {
	f    file
	turn uint64
}

const (
	stateName = "state"
	slotSize  = 20
	slotGap   = 4096
)

func openState(dir string) (*stateFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, stateName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &stateFile{f: osFile{f}}, nil
}

func (s *stateFile) Close() error { return s.f.Close() }

// floor reads the newest valid slot. A file without any is that of a journal
// whose creation was interrupted.
func (s *stateFile) floor() (LSN, error) {
	b := make([]byte, slotGap+slotSize)
	n, err := s.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading journal state: %w", err)
	}
	var floor LSN
	for _, slot := range [][]byte{b[:slotSize], b[slotGap:]} {
		turn := binary.LittleEndian.Uint64(slot)
		if binary.LittleEndian.Uint32(slot[16:]) == crc32.Checksum(slot[:16], castagnoli) && turn > s.turn {
			s.turn, floor = turn, LSN(binary.LittleEndian.Uint64(slot[8:]))
		}
	}
	if s.turn == 0 && len(bytes.Trim(b[:n], "\x00")) > 0 {
		return 0, &CorruptError{Segment: stateName, Reason: "neither of its slots is valid"}
	}
	return floor, nil
}

func (s *stateFile) setFloor(floor LSN) error {
	s.turn++
	b := binary.LittleEndian.AppendUint64(nil, s.turn)
	b = binary.LittleEndian.AppendUint64(b, uint64(floor))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, err := s.f.WriteAt(b, int64(s.turn%2)*slotGap)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing journal state: %w", err)
	}
	return nil
}
