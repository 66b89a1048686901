package journal

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/failpoint"
)

// Wait returns nil once everything below lsn is as safe as l says. One of those
// who wait does the work for all. After a write or sync has failed, nothing that
// was not safe before will ever be.
func (j *Journal) Wait(lsn LSN, l Level) error {
	if l == Written && j.written.Load() >= uint64(lsn) || j.synced.Load() >= uint64(lsn) {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if lsn > j.end {
		return fmt.Errorf("waiting for journal place %d: it ends at %d", lsn, j.end)
	}
	if l == Written {
		return j.waitWritten(lsn)
	}
	return j.waitSynced(lsn)
}

// waitWritten is called with mu held.
func (j *Journal) waitWritten(lsn LSN) error {
	for j.written.Load() < uint64(lsn) {
		switch {
		case j.err != nil:
			return j.err
		case !j.writing:
			j.writePending()
		default:
			j.writes.wait(lsn <= j.writingTo)
		}
	}
	if !j.writing {
		j.writes.pass()
	}
	return nil
}

// waitSynced is called with mu held.
func (j *Journal) waitSynced(lsn LSN) error {
	for j.synced.Load() < uint64(lsn) {
		switch {
		case j.err != nil:
			return j.err
		case !j.syncing:
			j.syncAll()
		default:
			j.syncs.wait(lsn <= j.syncingTo)
		}
	}
	if !j.syncing {
		j.syncs.pass()
	}
	return nil
}

// writePending writes all pending frames. It is called with mu held and gives it
// up meanwhile.
func (j *Journal) writePending() {
	j.writing, j.writingTo = true, math.MaxUint64 // whoever comes before the batch is taken is in it
	j.gather(&j.writes)
	buf, from, cuts := j.pending, j.pendingFrom, j.cuts
	j.writingTo = j.end
	j.pending, j.pendingFrom, j.cuts = j.idle, j.end, j.idleCuts
	j.space.Broadcast()
	j.mu.Unlock()

	err := j.write(buf, from, cuts)
	failpoint.Hit("written")

	j.mu.Lock()
	j.writing = false
	j.idleCuts = cuts[:0]
	if j.idle = buf[:0]; cap(buf) > keepBuffer {
		j.idle = nil
	}
	if err != nil || j.err != nil {
		j.fail(err)
		return
	}
	j.written.Store(uint64(j.writingTo))
	j.writes.done()
}

// gather gives those who are about to append a chance to be in the batch that
// the caller is to lead, when the last one was shared: fewer and larger batches.
func (j *Journal) gather(t *turnstile) {
	if !t.shared {
		return
	}
	j.mu.Unlock()
	runtime.Gosched()
	j.mu.Lock()
}

// keepBuffer is the largest buffer kept for later batches.
const keepBuffer = 1 << 20

// write puts a batch of frames into the segments they were placed in. Only the
// holder of the writing role calls it.
func (j *Journal) write(buf []byte, from LSN, cuts []cut) error {
	stamp(buf, from, LSN(j.synced.Load()))
	for i, c := range cuts {
		n := c.at - from
		if err := j.active.write(buf[:n], j.active.offset(from)); err != nil {
			return err
		}
		if err := j.rotate(c); err != nil {
			return err
		}
		cuts[i] = cut{} // keeps no segment alive
		buf, from = buf[n:], c.at
	}
	return j.active.write(buf, j.active.offset(from))
}

// rotate ends the active segment and begins the next. The next one exists only
// once all before it is synced: recovery relies on that.
func (j *Journal) rotate(c cut) error {
	if err := j.active.seal(); err != nil {
		return err
	}
	failpoint.Hit("segment ended")
	if err := c.next.begin(j.dir, c.at); err != nil {
		return err
	}
	failpoint.Hit("segment begun")
	j.mu.Lock()
	j.segments = append(j.segments[:len(j.segments):len(j.segments)], c.next) // readers hold the old slice
	j.active = c.next
	if j.err == nil {
		j.written.Store(uint64(c.at))
		j.synced.Store(uint64(c.at))
	}
	j.mu.Unlock()
	return nil
}

// syncAll writes and syncs everything appended so far. It is called with mu held
// and gives it up meanwhile.
func (j *Journal) syncAll() {
	j.syncing, j.syncingTo = true, math.MaxUint64
	j.gather(&j.syncs)
	if err := j.waitWritten(j.end); err != nil {
		j.syncing = false
		j.syncs.all()
		return
	}
	to := j.written.Load()
	active := j.active
	j.syncingTo = LSN(to)
	j.mu.Unlock()

	err := active.sync()
	failpoint.Hit("synced")

	j.mu.Lock()
	j.syncing = false
	if err != nil || j.err != nil {
		j.fail(err)
		return
	}
	j.synced.Store(max(to, j.synced.Load())) // a rotation may have been faster
	j.syncs.done()
}

// fail makes err final. What the disk holds after a failed write or sync is not
// known, and asking again does not tell: the kernel drops pages that it could
// not write, so what was written and not synced is in doubt again. A later
// failure, or success, changes nothing.
func (j *Journal) fail(err error) {
	if j.err == nil {
		j.err = fmt.Errorf("journal has failed: %w", err)
		j.written.Store(j.synced.Load())
	}
	j.writes.all()
	j.syncs.all()
	j.space.Broadcast()
}

// flusher syncs what nobody waits for, early enough that the sync itself fits
// into SyncWithin too, and stays out of the way of those who sync anyway.
func (j *Journal) flusher() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-j.wake:
		}
		for due, more := j.End(), true; more; {
			timer.Reset(j.o.SyncWithin * 3 / 4)
			select {
			case <-j.stop:
				return
			case <-timer.C:
			}
			due, more = j.flush(due)
		}
	}
}

// flush syncs up to due, and returns up to where to sync next time.
func (j *Journal) flush(due LSN) (LSN, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.waitSynced(due)
	if err != nil || uint64(j.end) == j.synced.Load() {
		j.dirty = false
		return 0, false
	}
	return j.end, true
}

// turnstile lets goroutines wait for the batch that is under way, or for the one
// after it, so that each is woken once: when its batch is done, or to lead the
// next. All methods are called with the lock held.
type turnstile struct {
	turn   uint
	waited bool // someone waited since the last turn
	shared bool // someone waited during it
	conds  [2]sync.Cond
}

func (t *turnstile) init(l sync.Locker) {
	t.conds[0].L, t.conds[1].L = l, l
}

// wait waits for the batch under way, or else the next. The caller looks again
// at what it waits for: waking promises nothing.
func (t *turnstile) wait(underWay bool) {
	t.waited = true
	turn := t.turn
	if !underWay {
		turn++
	}
	t.conds[turn&1].Wait()
}

// done wakes those of the batch under way, and a leader for the next.
func (t *turnstile) done() {
	t.conds[t.turn&1].Broadcast()
	t.turn++
	t.shared, t.waited = t.waited, false
	t.pass()
}

// pass wakes one of those who wait for a batch that nobody leads yet.
func (t *turnstile) pass() { t.conds[t.turn&1].Signal() }

func (t *turnstile) all() {
	t.conds[0].Broadcast()
	t.conds[1].Broadcast()
}
