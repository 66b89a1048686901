package journal

import (
	"errors"
	"fmt"
	"time"
)

// preparer keeps a spare and a reserve at hand, so that the stream goes on into
// space that is already allocated. On a full disk it tries again from time to
// time, and whenever segments have been released.
func (j *Journal) preparer() {
	retry := time.NewTicker(j.o.retry)
	defer retry.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.prepare:
		case <-retry.C:
			if j.Full() == nil {
				continue
			}
		}
		j.fillUp()
	}
}

// fillUp allocates what is missing. The reserve comes first: without it no more
// ordinary frames are taken than fit into the segment being written.
func (j *Journal) fillUp() {
	var err error
	if j.o.ReserveBytes > 0 {
		err = j.fill(&j.reserve, reserveSuffix, j.o.ReserveBytes)
	}
	if err == nil {
		err = j.fill(&j.spare, spareSuffix, j.o.SegmentBytes)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.full = nil; err != nil {
		j.full = fmt.Errorf("%w: %w", ErrFull, err)
	}
	j.space.Broadcast()
}

func (j *Journal) fill(place **segment, suffix string, size int64) error {
	j.mu.Lock()
	missing := *place == nil
	j.mu.Unlock()
	if !missing {
		return nil
	}
	s, err := j.allocate(suffix, size)
	if err != nil {
		return err
	}
	j.mu.Lock()
	*place = s
	j.mu.Unlock()
	return nil
}

// allocate makes a file of zeros that owns its disk space. One that could not be
// had whole is removed: it would keep others from the rest of the disk.
func (j *Journal) allocate(suffix string, size int64) (*segment, error) {
	j.allocated++
	s := &segment{name: fmt.Sprintf("%d%s", j.allocated, suffix), size: size, found: size}
	var err error
	if s.f, err = j.dir.create(s.name); err != nil {
		return nil, err
	}
	err = s.f.Allocate(size)
	if err == nil {
		err = s.f.Sync()
	}
	if err == nil {
		return s, nil
	}
	return nil, errors.Join(fmt.Errorf("allocating %d bytes: %w", size, err), s.f.Close(), j.dir.remove(s.name))
}
