package journal

import (
	"errors"
	"fmt"
	"os"
	"sort"
)

// Read calls fn for each frame from from, which must be where a frame begins, up
// to SyncedTo. next is the place just past the frame; payload is valid during the
// call. Read returns where to go on: past the last frame for which fn returned
// nil. It may run while others append; Release may end it with ErrReleased.
func (j *Journal) Read(from LSN, fn func(next LSN, payload []byte) error) (LSN, error) {
	j.mu.Lock()
	segments, to := j.segments, LSN(j.synced.Load())
	j.mu.Unlock()
	switch {
	case from < segments[0].base:
		return from, fmt.Errorf("reading journal at %d: %w: it begins at %d", from, ErrReleased, segments[0].base)
	case from > to:
		return from, fmt.Errorf("reading journal at %d: it is synced up to %d", from, to)
	}
	i := sort.Search(len(segments), func(i int) bool { return segments[i].base > from }) - 1
	for ; from < to; i++ {
		end := to
		if i+1 < len(segments) {
			end = min(end, segments[i+1].base)
		}
		next, err := segments[i].read(from, end, fn)
		if err != nil {
			return next, err
		}
		from = next
	}
	return from, nil
}

func (s *segment) read(from, to LSN, fn func(LSN, []byte) error) (LSN, error) {
	f := frames{r: s.f, off: s.offset(from), to: s.offset(to), at: from}
	for f.at < to {
		at := f.at
		fr, err := f.next()
		if errors.Is(err, os.ErrClosed) {
			return at, fmt.Errorf("reading journal at %d: %w", at, ErrReleased)
		}
		if err != nil {
			return at, damage(s, &f, err, "no valid frame begins here")
		}
		if err := fn(f.at, fr.payload); err != nil {
			return at, err
		}
	}
	return f.at, nil
}
