package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Recovery is what Open found.
type Recovery struct {
	First, End LSN
	Frames     uint64 // between them

	// What was cut off at End: bytes of a write that a crash had interrupted.
	// None of it was ever reported as synced; what was reported as written is
	// among it only after a crash of the operating system.
	Cut     int64
	Lost    int    // whole frames in it, behind the damage
	Segment string // file that was cut
	Offset  int64  // where in the file
}

// recover loads what the directory holds, brings it in order, and leaves the
// journal ready to write. Every step may be repeated after a crash within it.
func (j *Journal) recover() error {
	floor, err := j.state.floor()
	if err != nil {
		return err
	}
	if err := j.load(); err != nil {
		return err
	}
	if len(j.segments) == 0 {
		if floor > 0 {
			return fmt.Errorf("the journal reached up to %d, but its segments are gone", floor)
		}
		if err := j.create(); err != nil {
			return err
		}
	}
	last := len(j.segments) - 1
	j.active = j.segments[last]
	for i, s := range j.segments[:last] {
		if err := j.check(s, j.segments[i+1].base); err != nil {
			return err
		}
	}
	end, err := j.recoverTail(j.active, floor)
	if err != nil {
		return err
	}
	j.recovery.First, j.recovery.End = j.segments[0].base, end
	j.end, j.pendingFrom, j.room = end, end, j.active.size-j.active.offset(end)
	j.written.Store(uint64(end))
	j.synced.Store(uint64(end))
	if err := j.state.setFloor(end); err != nil {
		return err
	}
	j.fillUp()
	// Without a reserve the rest of the segment has to serve as one.
	j.inReserve = j.o.ReserveBytes > 0 && j.reserve == nil
	return nil
}

// load opens the segments, and adopts a spare and a reserve of the right size.
func (j *Journal) load() error {
	names, err := j.dir.list()
	if err != nil {
		return err
	}
	slices.Sort(names) // 16 digits each: the order of the stream
	for _, name := range names {
		if _, ok := parseSegmentName(name); ok {
			s, err := openSegment(j.dir, name)
			if err != nil {
				return err
			}
			j.segments = append(j.segments, s)
			continue
		}
		number, suffix, _ := strings.Cut(name, ".")
		switch "." + suffix {
		case spareSuffix:
			err = j.adopt(&j.spare, number, name, j.o.SegmentBytes)
		case reserveSuffix:
			err = j.adopt(&j.reserve, number, name, j.o.ReserveBytes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) adopt(place **segment, number, name string, want int64) error {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return fmt.Errorf("%s does not belong in a journal: remove it", name)
	}
	j.allocated = max(j.allocated, n)
	f, size, err := j.dir.open(name)
	if err != nil {
		return err
	}
	if *place == nil && size == want {
		*place = &segment{name: name, f: f, size: size, found: size}
		return nil
	}
	return errors.Join(f.Close(), j.dir.remove(name))
}

// create makes the first segment of a new journal.
func (j *Journal) create() error {
	s := j.spare
	if s == nil {
		var err error
		if s, err = j.allocate(spareSuffix, j.o.SegmentBytes); err != nil {
			return err
		}
	}
	j.spare = nil
	j.segments = []*segment{s}
	return s.begin(j.dir, 0)
}

// check walks over a segment that is followed by another: it was synced before
// that one came to be, so it must be whole and lead there.
func (j *Journal) check(s *segment, next LSN) error {
	f := frames{r: s.f, off: segmentHead, to: s.size, at: s.base}
	for f.at < next {
		if _, err := f.next(); err != nil {
			return damage(s, &f, err, fmt.Sprintf("the next segment begins at %d", next))
		}
		j.recovery.Frames++
	}
	if f.at > next {
		return &CorruptError{s.name, f.off, f.at, fmt.Sprintf("the next segment begins at %d already", next)}
	}
	return nil
}

// damage makes an error of what a walk met where a frame had to be.
func damage(s *segment, f *frames, err error, why string) error {
	if errors.Is(err, errBadFrame) || errors.Is(err, errNoFrame) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{s.name, f.off, f.at, why}
	}
	return fmt.Errorf("reading journal segment %s: %w", s.name, err)
}

// recoverTail finds the end of the stream in the last segment.
//
// A crash may leave any part of what was written since the last sync: pages
// reach the disk in any order. So the stream ends at the first frame that is not
// whole, unless something proves that this frame had been synced: the floor, or
// the lag of a later frame.
func (j *Journal) recoverTail(s *segment, floor LSN) (LSN, error) {
	proven := max(s.base, floor)
	f := frames{r: s.f, off: segmentHead, to: s.found, at: s.base}
	for {
		fr, err := f.next()
		if err == nil {
			proven = max(proven, fr.proven)
			j.recovery.Frames++
			continue
		}
		if errors.Is(err, io.EOF) || errors.Is(err, errNoFrame) || errors.Is(err, errBadFrame) {
			break
		}
		return 0, fmt.Errorf("reading journal segment %s: %w", s.name, err)
	}
	rest, err := readRest(s.f, f.off, s.found)
	if err != nil {
		return 0, fmt.Errorf("reading journal segment %s: %w", s.name, err)
	}
	lost, later := search(rest, f.at)
	if proven = max(proven, later); proven > f.at {
		return 0, &CorruptError{s.name, f.off, f.at, fmt.Sprintf("no valid frame, but everything below %d had been synced", proven)}
	}
	if len(rest) > 0 {
		j.recovery.Cut, j.recovery.Lost, j.recovery.Segment, j.recovery.Offset = int64(len(rest)), lost, s.name, f.off
	}
	return f.at, j.settle(s, proven, f.at, len(rest))
}

// readRest returns what lies in f from off on, without trailing zeros.
func readRest(f file, off, size int64) ([]byte, error) {
	var rest []byte
	b := make([]byte, readAhead)
	for at := off; at < size; at += int64(len(b)) {
		b = b[:min(int64(len(b)), size-at)]
		if _, err := f.ReadAt(b, at); err != nil {
			return nil, err
		}
		n := len(b)
		for n > 0 && b[n-1] == 0 {
			n--
		}
		if n == 0 {
			continue
		}
		rest = append(rest, make([]byte, at-off-int64(len(rest)))...)
		rest = append(rest, b[:n]...)
	}
	return rest, nil
}

// search looks for whole frames at any place in b, which begins at at with none,
// and returns how many there are and what the best of them proves.
//
// Bytes made for it could have it sum half of b at every place, so its work has
// an end. It finds accidents; someone who can write the file can also end it
// cleanly.
func search(b []byte, at LSN) (n int, proven LSN) {
	work := int64(searchWork)
	for i := 1; i+frameHead < len(b) && work > 0; {
		f, size, err := checkFrame(b[i:], at+LSN(i))
		if size <= int64(len(b)-i) {
			work -= size
		}
		if err != nil {
			i++
			continue
		}
		n++
		proven = max(proven, f.proven)
		i += int(size)
	}
	return n, proven
}

const searchWork = 16 << 30 // bytes: some seconds

// settle makes the tail fit to go on: what is not proven to be on disk is
// written once more, since a sync that fails leaves pages in memory that look
// written and are not; what was cut becomes zeros, so that it is never taken for
// frames behind a later tear; what the file lost of its length is given back.
func (j *Journal) settle(s *segment, proven, end LSN, cut int) error {
	b := make([]byte, int(end-proven)+cut)
	if end > proven {
		if _, err := s.f.ReadAt(b[:end-proven], s.offset(proven)); err != nil {
			return fmt.Errorf("reading journal segment %s: %w", s.name, err)
		}
	}
	if err := s.write(b, s.offset(proven)); err != nil {
		return err
	}
	if err := s.f.Allocate(s.size); err != nil {
		return fmt.Errorf("allocating journal segment %s: %w", s.name, err)
	}
	return s.sync()
}
