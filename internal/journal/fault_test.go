package journal

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// workload appends until something fails or n frames are in, and returns how
// many frames were promised at each level.
func workload(j *Journal, n int) (promised [2]int, err error) {
	for i := range n {
		level := Level(i % 2)
		lsn, err := j.Append(payload(i, 300))
		if err == nil {
			err = j.Wait(lsn, level)
		}
		if err != nil {
			return promised, err
		}
		promised[level] = i + 1
	}
	return promised, nil
}

var small = Options{SegmentBytes: 4 << 10, ReserveBytes: 4 << 10, SyncWithin: time.Hour, retry: time.Millisecond}

func with(o Options, d *memory) Options {
	o.dir = d
	return o
}

func contents(t testing.TB, j *Journal) [][]byte {
	t.Helper()
	var got [][]byte
	if _, err := j.Read(j.First(), func(_ LSN, p []byte) error {
		got = append(got, bytes.Clone(p))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

// Whichever call of the file system fails, and however: no call succeeds after
// it that promises more, and what was promised is there after a crash.
func TestEveryFaultIsFinalAndLosesNoPromise(t *testing.T) {
	faults := map[string]func(size int) (int, error){
		"fails":         func(int) (int, error) { return 0, syscall.EIO },
		"fails midway":  func(size int) (int, error) { return size / 2, syscall.EIO },
		"is short":      func(size int) (int, error) { return size / 2, nil },
		"lies and dies": func(size int) (int, error) { return size, syscall.EIO },
	}
	const frames = 40
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			for _, op := range []string{"write", "sync", "rename", "syncdir"} {
				for nth := 1; ; nth++ {
					if !oneFault(t, op, nth, frames, fault) {
						break
					}
				}
			}
		})
	}
}

// oneFault lets the nth call of op fail, and says whether there was one.
func oneFault(t *testing.T, op string, nth, frames int, fault func(int) (int, error)) bool {
	d, dir := newMemory(), t.TempDir()
	j, err := Open(dir, with(small, d))
	if err != nil {
		t.Fatal(err)
	}
	seen, hit := 0, false
	d.mu.Lock()
	d.fault = func(o, name string, _, size int) (int, error) {
		// Spares are made in the background; failing to is no failure.
		if o != op || op == "sync" && !strings.HasSuffix(name, segmentSuffix) {
			return size, nil
		}
		if seen++; seen != nth {
			return size, nil
		}
		n, err := fault(size)
		hit = err != nil || n < size
		return n, err
	}
	d.mu.Unlock()
	promised, err := workload(j, frames)
	d.mu.Lock()
	d.fault = nil
	wasHit := hit
	d.mu.Unlock()
	if (err != nil) != wasHit {
		t.Fatalf("%s %d: fault %v, error %v", op, nth, wasHit, err)
	}
	if wasHit {
		if _, err := j.Append([]byte("x")); err == nil || j.Err() == nil {
			t.Errorf("%s %d: Append after it: %v, Err: %v", op, nth, err, j.Err())
		}
		if err := j.Wait(j.End(), Written); err == nil {
			t.Errorf("%s %d: Wait after it succeeded", op, nth)
		}
		if _, err := j.AppendReserved([]byte("x")); err == nil {
			t.Errorf("%s %d: AppendReserved after it succeeded", op, nth)
		}
	}
	for level, after := range []*memory{d.killed(), d.unplugged(func() bool { return seen%2 == 0 })} {
		j2, _, err := crashed(t, after, dir, small)
		if err != nil {
			t.Fatalf("%s %d: recovery: %v", op, nth, err)
		}
		got := contents(t, j2)
		if len(got) < promised[level] {
			t.Errorf("%s %d: %d frames after the crash, %d were promised", op, nth, len(got), promised[level])
		}
		for i := range got {
			if !bytes.Equal(got[i], payload(i, 300)) {
				t.Fatalf("%s %d: frame %d is not what was appended", op, nth, i)
			}
		}
		if err := j2.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := j.Close(); (err != nil) != wasHit {
		t.Errorf("%s %d: Close: %v", op, nth, err)
	}
	return wasHit
}

func TestShortWriteIsNamed(t *testing.T) {
	d := newMemory()
	j := mustOpen(t, t.TempDir(), with(small, d))
	d.mu.Lock()
	d.fault = func(op, _ string, _, size int) (int, error) { return size - 1, nil }
	d.mu.Unlock()
	if err := j.Wait(mustAppend(t, j, "x"), Written); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("got %v, want io.ErrShortWrite", err)
	}
}

// A failed sync must fail for everyone, also for those who only wanted to know
// afterwards: the kernel reports it once.
func TestFailedSyncIsNotForgotten(t *testing.T) {
	d := newMemory()
	j := mustOpen(t, t.TempDir(), with(small, d))
	d.mu.Lock()
	d.fault = func(op, _ string, _, size int) (int, error) {
		if op == "sync" {
			return 0, syscall.EIO
		}
		return size, nil
	}
	d.mu.Unlock()
	lsn := mustAppend(t, j, "x")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := j.Wait(lsn, Synced); !errors.Is(err, syscall.EIO) {
				t.Errorf("got %v, want EIO", err)
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	d.fault = nil
	d.mu.Unlock()
	if err := j.Wait(lsn, Synced); !errors.Is(err, syscall.EIO) {
		t.Errorf("once the disk is well again: %v, want EIO", err)
	}
	if j.SyncedTo() >= lsn {
		t.Error("it counts as synced")
	}
}

func TestFullDiskKeepsRoomForWhatMustBeKept(t *testing.T) {
	d, dir := newMemory(), t.TempDir()
	d.capacity = 4 * small.SegmentBytes // two written, a spare, the reserve
	j := mustOpen(t, dir, with(small, d))
	n := 0
	fill := func(append func(...[]byte) (LSN, error)) {
		t.Helper()
		for {
			lsn, err := append(payload(n, 300))
			if errors.Is(err, ErrFull) && errors.Is(err, syscall.ENOSPC) {
				return
			}
			if err == nil {
				err = j.Wait(lsn, Synced)
			}
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	fill(j.Append)
	ordinary := n
	if _, err := j.Append(payload(n, 300)); !errors.Is(err, ErrFull) {
		t.Errorf("Append on a full disk: %v, want ErrFull", err)
	}
	if j.Full() == nil || j.Err() != nil {
		t.Errorf("Full: %v, Err: %v", j.Full(), j.Err())
	}
	fill(j.AppendReserved)
	if kept := n - ordinary; kept < 10 {
		t.Errorf("the reserve took %d frames of 300 bytes, want at least 10", kept)
	}

	// A process that starts on the full disk is no worse off.
	j2, _, err := crashed(t, d.unplugged(func() bool { return false }), dir, small)
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, j2); len(got) != n {
		t.Errorf("%d frames after a power loss, want %d", len(got), n)
	}
	if _, err := j2.Append(payload(n, 300)); !errors.Is(err, ErrFull) {
		t.Errorf("Append after it: %v, want ErrFull", err)
	}
	if err := j2.Close(); err != nil {
		t.Error(err)
	}

	if err := j.Release(j.SyncedTo()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for j.Full() != nil {
		if time.Now().After(deadline) {
			t.Fatalf("still full once frames are released: %v", j.Full())
		}
		time.Sleep(time.Millisecond)
	}
	if err := j.Wait(mustAppend(t, j, "again"), Synced); err != nil {
		t.Error(err)
	}
}

func TestSmallFramesDoNotEatTheReserve(t *testing.T) {
	d := newMemory()
	d.capacity = 4 * small.SegmentBytes
	dir := t.TempDir()
	j := mustOpen(t, dir, with(small, d))
	for {
		if _, err := j.Append(payload(0, 3000)); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.AppendReserved(payload(0, 3000)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(payload(0, 9)); !errors.Is(err, ErrFull) {
		t.Errorf("Append into the reserve: %v, want ErrFull", err)
	}
	lsn, err := j.AppendReserved(payload(0, 9))
	if err == nil {
		err = j.Wait(lsn, Synced)
	}
	if err != nil {
		t.Fatal(err)
	}

	// Nor do they after a restart on the full disk.
	j, _, err = crashed(t, d.killed(), dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if _, err := j.Append(payload(0, 9)); !errors.Is(err, ErrFull) {
		t.Errorf("Append into the reserve after a restart: %v, want ErrFull", err)
	}
	if _, err := j.AppendReserved(payload(0, 9)); err != nil {
		t.Error(err)
	}
}

// Appenders that nobody waits for are blocked, not buffered, while the disk is
// slow; and go on when it is done.
func TestPendingIsBounded(t *testing.T) {
	d := newMemory()
	o := with(small, d)
	o.MaxPending = 1000
	j := mustOpen(t, t.TempDir(), o)
	hold := make(chan struct{})
	d.mu.Lock()
	d.fault = func(op, name string, _, size int) (int, error) {
		if op == "write" && strings.HasSuffix(name, segmentSuffix) {
			d.mu.Unlock()
			<-hold
			d.mu.Lock()
		}
		return size, nil
	}
	d.mu.Unlock()
	appended := make(chan LSN, 100)
	go func() {
		defer close(appended)
		for i := range 20 {
			lsn, err := j.Append(payload(i, 300))
			if err != nil {
				t.Error(err)
				return
			}
			appended <- lsn
		}
	}()
	time.Sleep(50 * time.Millisecond)
	if n := len(appended); n > 6 {
		t.Errorf("%d frames of 312 bytes were taken, with 2 x 1000 bytes for them", n)
	}
	close(hold)
	var last LSN
	for last = range appended {
	}
	if err := j.Wait(last, Synced); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, j); len(got) != 20 {
		t.Errorf("%d frames, want 20", len(got))
	}
}

func TestCloseFreesBlockedAppenders(t *testing.T) {
	d := newMemory()
	d.capacity = 3 * small.SegmentBytes
	o := with(small, d)
	o.ReserveBytes = -1
	j, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	d.mu.Lock()
	d.fault = func(op, _ string, _, size int) (int, error) {
		if op == "create" { // the preparer never gets anywhere
			d.mu.Unlock()
			<-hold
			d.mu.Lock()
		}
		return size, nil
	}
	d.mu.Unlock()
	blocked := make(chan error)
	go func() {
		for {
			if _, err := j.Append(payload(0, 1000)); err != nil {
				blocked <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(hold)
	}()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if err := <-blocked; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFull) {
		t.Errorf("blocked Append: %v, want ErrClosed", err)
	}
	if _, err := j.Append([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v, want ErrClosed", err)
	}
	if err := j.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v, want ErrClosed", err)
	}
}

func TestFailedOpenLeavesTheDirectoryToOthers(t *testing.T) {
	d, dir := newMemory(), t.TempDir()
	for _, op := range []string{"create", "write", "sync", "rename", "syncdir", "allocate"} {
		d.fault = func(o, _ string, _, size int) (int, error) {
			if o == op {
				return 0, syscall.EIO
			}
			return size, nil
		}
		if j, err := Open(dir, with(small, d)); err == nil {
			t.Errorf("Open succeeded though %s fails", op)
			j.Close()
		} else if !errors.Is(err, syscall.EIO) {
			t.Errorf("Open with a failing %s: %v", op, err)
		}
	}
	d.fault = nil
	j := mustOpen(t, dir, with(small, d))
	if err := j.Wait(mustAppend(t, j, "x"), Synced); err != nil {
		t.Fatal(err)
	}
	names, _ := d.list()
	slices.Sort(names)
	if len(names) != 3 {
		t.Errorf("left behind: %v", names)
	}
}

// A slow disk holds up those who append and costs no memory: what they want to
// append stays with them.
func TestASlowDiskIsBackPressure(t *testing.T) {
	d := newMemory()
	o := Options{SegmentBytes: 4 << 20, MaxPending: 1 << 20, ReserveBytes: -1, dir: d}
	j := mustOpen(t, t.TempDir(), o)
	var writes atomic.Int64
	d.mu.Lock()
	d.fault = func(op, name string, _, size int) (int, error) {
		if (op == "write" || op == "sync") && strings.HasSuffix(name, segmentSuffix) {
			d.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			d.mu.Lock()
			writes.Add(1)
		}
		return size, nil
	}
	d.mu.Unlock()
	const agents, size = 500, 64 << 10
	shared := make([]byte, size) // what an agent waits with is its own; the journal's copies are counted
	before, most := heap(), uint64(0)
	var appended atomic.Int64
	held := int64(0) // by the journal, of what is not written
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range agents {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				lsn, err := j.Append(shared)
				if err != nil {
					t.Error(err)
					return
				}
				appended.Add(size)
				if err := j.Wait(lsn, Synced); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 15 {
		time.Sleep(100 * time.Millisecond)
		most = max(most, heap())
		held = max(held, int64(j.End())-int64(j.written.Load()))
		// The log itself is in memory here: let go of what is safe.
		if err := j.Release(j.SyncedTo()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	all.Wait()
	t.Logf("%d agents with %d bytes each on a disk of 50 ms: %d bytes appended in %d writes and syncs, the journal held %d of them and the heap grew by %d at most",
		agents, size, appended.Load(), writes.Load(), held, most-min(most, before))
	if writes.Load() < 5 {
		t.Errorf("only %d writes and syncs: nothing was tested", writes.Load())
	}
	if held > 2*o.MaxPending {
		t.Errorf("%d bytes were taken and not written, want at most %d", held, 2*o.MaxPending)
	}
	// Twice MaxPending, the segments of this disk with their synced copies, and slack.
	if limit := uint64(2*o.MaxPending + 8*2*o.SegmentBytes + 16<<20); most > before+limit {
		t.Errorf("the heap grew by %d, want at most %d", most-before, limit)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
