package journal

import "fmt"

// Append adds payloads to the stream, next to each other and in this order, and
// returns the place just past the last: what to Wait for. It copies them and does
// no IO; it blocks while MaxPending bytes await their write, or while the next
// segment is being allocated.
func (j *Journal) Append(payloads ...[]byte) (LSN, error) { return j.append(false, payloads) }

// AppendReserved is Append for what must be kept even on a full disk.
func (j *Journal) AppendReserved(payloads ...[]byte) (LSN, error) { return j.append(true, payloads) }

func (j *Journal) append(reserved bool, payloads [][]byte) (LSN, error) {
	var size int64
	for _, p := range payloads {
		if len(p) == 0 {
			return 0, ErrEmpty
		}
		size += frameHead + int64(len(p))
	}
	if size > j.o.MaxPending {
		return 0, fmt.Errorf("%w: %d bytes with overhead, at most %d", ErrTooLarge, size, j.o.MaxPending)
	}
	j.mu.Lock()
	if err := j.admit(size, reserved); err != nil {
		j.mu.Unlock()
		return 0, err
	}
	for _, p := range payloads {
		j.pending = appendFrame(j.pending, p)
	}
	j.end += LSN(size)
	end, wake := j.end, !j.dirty && size > 0
	if wake {
		j.dirty = true
	}
	j.mu.Unlock()
	if wake {
		poke(j.wake)
	}
	return end, nil
}

// admit waits until size more bytes may be pending, and places them.
func (j *Journal) admit(size int64, reserved bool) error {
	for {
		switch {
		case j.err != nil:
			return j.err
		case j.closed:
			return ErrClosed
		case len(j.pending) > 0 && int64(len(j.pending))+size > j.o.MaxPending:
			j.relieve()
		default:
			placed, err := j.place(size, reserved)
			if placed || err != nil {
				return err
			}
		}
		j.space.Wait()
	}
}

// place finds size bytes that are already allocated on disk, so that a full disk
// is an error of Append and never of a write. False means: wait for the preparer.
func (j *Journal) place(size int64, reserved bool) (bool, error) {
	switch {
	case size <= j.room && (reserved || j.full == nil || !j.inReserve):
		j.room -= size
		return true, nil
	case j.full == nil && j.spare != nil:
		j.follow(j.spare, size, false)
		j.spare = nil
		return true, nil
	case j.full == nil:
		return false, nil
	case reserved && j.reserve != nil && size <= j.reserve.size-segmentHead:
		j.follow(j.reserve, size, true)
		j.reserve = nil
		return true, nil
	}
	return false, j.full
}

// follow lets the stream go on in s, with a first size bytes.
func (j *Journal) follow(s *segment, size int64, reserve bool) {
	j.cuts = append(j.cuts, cut{j.end, s})
	j.room = s.size - segmentHead - size
	j.inReserve = reserve
	poke(j.prepare)
}

// relieve has the pending frames written for appenders that are blocked, since
// Append does no IO itself.
func (j *Journal) relieve() {
	if j.draining {
		return
	}
	j.draining = true
	j.running.Go(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		_ = j.waitWritten(j.end) // a failure is in j.err, where the appenders look
		j.draining = false
		j.space.Broadcast()
	})
}
