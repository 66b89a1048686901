// Package journal keeps opaque payloads safe: bytes go in through Append, are
// durable when Wait says so, and come out in the same order through Read, also
// after a crash. It is the write-ahead part of the gateway: what it could not
// keep is not forwarded.
//
// Payloads become frames of one endless stream, cut into segment files. Writers
// copy into a pending buffer; one of those who wait writes, or syncs, for all of
// them. docs/spec/journal.md has the format and what each crash leaves behind.
package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// LSN is a place in the stream of frames: a byte offset that outlives segments.
type LSN uint64

// Level says what a frame survives.
type Level int

const (
	Written Level = iota // the process: the operating system has it
	Synced               // power loss: the disk says that it has it
)

var (
	// ErrLocked: another process has the journal open.
	ErrLocked = errors.New("journal is in use by another process")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrFull: the disk has no room for another segment. Nothing is lost, and
	// Append works again once there is room.
	ErrFull = errors.New("no disk space left for the journal")
	// ErrTooLarge: the payloads of one call exceed MaxPending or a segment.
	ErrTooLarge = errors.New("payload is too large for the journal")
	// ErrEmpty: a payload has no bytes.
	ErrEmpty = errors.New("empty payload")
	// ErrReleased: the frames asked for have been released.
	ErrReleased = errors.New("released from the journal")
)

// CorruptError is damage to frames that had been safe, which no crash explains.
type CorruptError struct {
	Segment string // file name
	Offset  int64  // in the file
	LSN     LSN
	Reason  string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal segment %s is damaged at offset %d (LSN %d): %s", e.Segment, e.Offset, e.LSN, e.Reason)
}

// Options tune a journal. Zero values mean the defaults.
type Options struct {
	SegmentBytes int64         // size of a segment file, allocated ahead; 64 MiB, at least 4 KiB
	MaxPending   int64         // bytes that may await their write; 16 MiB, at most a segment. Twice that is held at most
	SyncWithin   time.Duration // whatever is appended is synced after that time at the latest; 5 ms
	ReserveBytes int64         // space kept for AppendReserved on a full disk; 8 MiB; negative is none

	retry time.Duration   // between attempts to find space on a full disk
	dir   directory       // stands in for the file system in tests
	state func(file) file // stands in for the content of the state file in tests
}

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.SegmentBytes, 64<<20)
	setDefault(&o.MaxPending, min(16<<20, o.SegmentBytes-segmentHead))
	setDefault(&o.ReserveBytes, 8<<20)
	if o.SyncWithin == 0 {
		o.SyncWithin = 5 * time.Millisecond
	}
	if o.retry == 0 {
		o.retry = time.Second
	}
	o.MaxPending = min(o.MaxPending, o.SegmentBytes-segmentHead)
	switch {
	case o.SegmentBytes < 4<<10 || o.SegmentBytes > 1<<30:
		return o, fmt.Errorf("segment size of %d bytes: want 4 KiB to 1 GiB", o.SegmentBytes)
	case o.ReserveBytes > 0 && o.ReserveBytes < 4<<10 || o.ReserveBytes > 1<<30:
		return o, fmt.Errorf("reserve of %d bytes: want 4 KiB to 1 GiB, or none", o.ReserveBytes)
	case o.MaxPending < frameHead+1:
		return o, fmt.Errorf("%d bytes of pending frames hold no frame", o.MaxPending)
	case o.SyncWithin < 0:
		return o, fmt.Errorf("sync within %v: want a positive time", o.SyncWithin)
	}
	return o, nil
}

func setDefault(v *int64, d int64) {
	if *v == 0 {
		*v = d
	}
}

// Journal is an open journal. Its methods are safe for concurrent use.
//
// Two roles move the stream forward, each held by at most one goroutine at a
// time: the one that writes, and the one that syncs. Files are written by the
// holder of the writing role alone.
type Journal struct {
	o     Options
	dir   directory
	state *stateFile

	written atomic.Uint64 // LSN: below it everything survives the process
	synced  atomic.Uint64 // LSN: below it everything survives power loss

	mu          sync.Mutex
	err         error // the first failed write or sync: final
	closed      bool
	end         LSN    // end of the stream, pending frames included
	pending     []byte // frames not yet taken by a writer
	pendingFrom LSN
	idle        []byte // the other buffer, while nobody writes
	cuts        []cut  // places among the pending frames where a new segment begins
	idleCuts    []cut
	segments    []*segment // in order
	active      *segment   // the last: the one being written. Changed by the writer alone
	space       sync.Cond  // pending was taken, or room was found or refused
	draining    bool       // a goroutine is on its way to relieve blocked appenders
	dirty       bool       // the flusher knows that there is something to sync

	writing   bool
	writingTo LSN
	writes    turnstile
	syncing   bool
	syncingTo LSN
	syncs     turnstile

	// The segment where the stream will end once all pending frames are
	// written, and what lies ready to follow it.
	room      int64 // bytes left in it
	inReserve bool  // it was the reserve, or has to serve as one
	spare     *segment
	reserve   *segment
	allocated uint64 // numbers the files of spare and reserve
	full      error  // why spare or reserve could not be had; nil when all is well

	recovery Recovery
	wake     chan struct{} // to the flusher: dirty was set
	prepare  chan struct{} // to the preparer: spare or reserve was taken, or space freed
	stop     chan struct{}
	running  sync.WaitGroup
}

// Open locks dir, making it when it is missing, and recovers the journal in it:
// a torn tail that was never promised is cut (Recovered says what), and all
// that remains is synced. Damage to frames that were safe is a *CorruptError.
func Open(dir string, o Options) (*Journal, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if o.dir == nil {
		if o.dir, err = openDirectory(dir); err != nil {
			return nil, fmt.Errorf("opening journal: %w", err)
		}
	}
	state, err := openState(dir)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if o.state != nil {
		state.f = o.state(state.f)
	}
	j := &Journal{
		o: o, dir: o.dir, state: state,
		wake:    make(chan struct{}, 1),
		prepare: make(chan struct{}, 1),
		stop:    make(chan struct{}),
	}
	j.space.L = &j.mu
	j.writes.init(&j.mu)
	j.syncs.init(&j.mu)
	if err := j.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal: %w", err), j.closeFiles())
	}
	j.running.Go(j.flusher)
	j.running.Go(j.preparer)
	return j, nil
}

// Recovered says what Open found and cut.
func (j *Journal) Recovered() Recovery { return j.recovery }

// First is the place of the oldest frame still held.
func (j *Journal) First() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.segments[0].base
}

// End is the place just past everything appended.
func (j *Journal) End() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// SyncedTo is the place below which everything survives power loss.
func (j *Journal) SyncedTo() LSN { return LSN(j.synced.Load()) }

// Err is the failure that made the journal useless, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Full is why ordinary appends are, or will soon be, refused with ErrFull; nil
// when there is space.
func (j *Journal) Full() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.full
}

// Close syncs what was appended and gives the directory free. Its error means
// that something appended may be lost.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	j.closed = true
	j.space.Broadcast()
	err := j.waitSynced(j.end)
	floor := j.end
	j.mu.Unlock()
	close(j.stop)
	j.running.Wait()
	j.awaitRoles()
	if err == nil {
		err = j.state.setFloor(floor)
	}
	if err = errors.Join(err, j.closeFiles()); err != nil {
		return fmt.Errorf("closing journal: %w", err)
	}
	return nil
}

// awaitRoles waits until nobody writes or syncs. After a failure someone still
// may, and would do so to closed files.
func (j *Journal) awaitRoles() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.writing {
		j.writes.wait(true)
	}
	for j.syncing {
		j.syncs.wait(true)
	}
}

func (j *Journal) closeFiles() error {
	var errs []error
	for _, s := range append(j.segments, j.spare, j.reserve) {
		if s != nil {
			errs = append(errs, s.f.Close())
		}
	}
	return errors.Join(append(errs, j.state.Close())...)
}

// Release gives up the frames below before: they are kept elsewhere. Whole
// segments below it are deleted, oldest first, so that a crash leaves no hole.
func (j *Journal) Release(before LSN) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if before > LSN(j.synced.Load()) {
		return fmt.Errorf("releasing journal up to %d: only %d is synced", before, j.synced.Load())
	}
	gone := false
	for len(j.segments) > 1 && j.segments[1].base <= before {
		s := j.segments[0]
		if err := errors.Join(j.dir.remove(s.name), s.f.Close()); err != nil {
			return fmt.Errorf("releasing journal up to %d: %w", before, err)
		}
		j.segments = append(j.segments[:0:0], j.segments[1:]...)
		gone = true
	}
	if !gone {
		return nil
	}
	poke(j.prepare)
	if err := j.dir.sync(); err != nil {
		return fmt.Errorf("releasing journal up to %d: %w", before, err)
	}
	return nil
}

// poke wakes the reader of c, or leaves word for it.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
