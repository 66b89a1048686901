package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func mustOpen(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil && !errors.Is(err, ErrClosed) && j.Err() == nil {
			t.Error(err)
		}
	})
	return j
}

func mustAppend(t testing.TB, j *Journal, payloads ...string) LSN {
	t.Helper()
	var b [][]byte
	for _, p := range payloads {
		b = append(b, []byte(p))
	}
	lsn, err := j.Append(b...)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

func readAll(t testing.TB, j *Journal, from LSN) []string {
	t.Helper()
	var got []string
	end, err := j.Read(from, func(_ LSN, p []byte) error {
		got = append(got, string(p))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := j.SyncedTo(); end != want {
		t.Errorf("Read ended at %d, synced to %d", end, want)
	}
	return got
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d frames, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("frame %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

func TestFramesComeOutAsTheyWentIn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, dir, Options{SegmentBytes: 4 << 10, ReserveBytes: -1})
	var want []string
	for i := range 1000 {
		p := fmt.Sprintf("payload %d", i)
		want = append(want, p)
		lsn := mustAppend(t, j, p)
		if err := j.Wait(lsn, Level(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Wait(j.End(), Synced); err != nil {
		t.Fatal(err)
	}
	equal(t, readAll(t, j, 0), want)
	end := j.End()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir, Options{SegmentBytes: 4 << 10, ReserveBytes: -1})
	if j.End() != end || j.SyncedTo() != end || j.Recovered().Cut != 0 || j.Recovered().Frames != 1000 {
		t.Errorf("reopened at %d, synced to %d, %+v; want %d", j.End(), j.SyncedTo(), j.Recovered(), end)
	}
	equal(t, readAll(t, j, 0), want)
}

func TestWhatNobodyWaitsForIsSyncedSoon(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	for range 3 {
		lsn := mustAppend(t, j, "x")
		deadline := time.Now().Add(5 * time.Second)
		for j.SyncedTo() < lsn {
			if time.Now().After(deadline) {
				t.Fatal("not synced in the background")
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestManyWriters(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{SegmentBytes: 64 << 10})
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 300 {
				lsn, err := j.Append(fmt.Appendf(nil, "%d %d", w, i), []byte("second"))
				if err == nil {
					err = j.Wait(lsn, Level((w+i)%2))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := j.Wait(j.End(), Synced); err != nil {
		t.Fatal(err)
	}
	next := make([]int, 32)
	got := readAll(t, j, 0)
	if len(got) != 32*300*2 {
		t.Fatalf("%d frames", len(got))
	}
	for n := 0; n < len(got); n += 2 {
		var w, i int
		if _, err := fmt.Sscanf(got[n], "%d %d", &w, &i); err != nil || got[n+1] != "second" {
			t.Fatalf("frames %d: %q %q", n, got[n], got[n+1])
		}
		if next[w] != i {
			t.Fatalf("writer %d: got %d, want %d", w, i, next[w])
		}
		next[w]++
	}
}

func TestReadWhileOthersWriteAndRelease(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{SegmentBytes: 16 << 10})
	const frames = 20_000
	go func() {
		for i := range frames {
			lsn, err := j.Append(fmt.Appendf(nil, "%d", i))
			if err == nil && i%64 == 0 {
				err = j.Wait(lsn, Written)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	next, at := 0, LSN(0)
	deadline := time.Now().Add(time.Minute)
	for next < frames {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d frames read", next, frames)
		}
		var err error
		at, err = j.Read(at, func(_ LSN, p []byte) error {
			if string(p) != fmt.Sprint(next) {
				return fmt.Errorf("frame %d: %q", next, p)
			}
			next++
			return nil
		})
		if err == nil {
			err = j.Release(at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if j.First() == 0 || j.First() > at {
		t.Errorf("after releasing up to %d the journal begins at %d", at, j.First())
	}
	if _, err := j.Read(0, func(LSN, []byte) error { return nil }); !errors.Is(err, ErrReleased) {
		t.Errorf("Read of released frames: %v, want ErrReleased", err)
	}
}

func TestReadGoesOnWhereItStopped(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	if err := j.Wait(mustAppend(t, j, "a", "b", "c"), Synced); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	var got []string
	at, err := j.Read(0, func(_ LSN, p []byte) error {
		if got = append(got, string(p)); len(got) == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v, want the callback's error", err)
	}
	equal(t, append(got[:1], readAll(t, j, at)...), []string{"a", "b", "c"})
	for _, at := range []LSN{1, j.End() - 1} {
		if _, err := j.Read(at, func(LSN, []byte) error { return nil }); err == nil {
			t.Errorf("Read(%d), where no frame begins, succeeded", at)
		}
	}
	if _, err := j.Read(j.End()+1, nil); err == nil {
		t.Error("Read past the end succeeded")
	}
	if err := j.Wait(j.End()+1, Written); err == nil {
		t.Error("Wait past the end succeeded")
	}
	if err := j.Release(j.End() + 1); err == nil {
		t.Error("Release past the end succeeded")
	}
}

func TestPayloadsThatDoNotFit(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{SegmentBytes: 8 << 10, MaxPending: 4 << 10})
	for _, c := range []struct {
		payloads [][]byte
		want     error
	}{
		{[][]byte{nil}, ErrEmpty},
		{[][]byte{[]byte("x"), {}}, ErrEmpty},
		{[][]byte{make([]byte, 4<<10-frameHead)}, nil},
		{[][]byte{make([]byte, 4<<10-frameHead+1)}, ErrTooLarge},
		{[][]byte{make([]byte, 2<<10), make([]byte, 2<<10)}, ErrTooLarge},
		{nil, nil},
	} {
		before := j.End()
		lsn, err := j.Append(c.payloads...)
		if !errors.Is(err, c.want) {
			t.Errorf("Append: %v, want %v", err, c.want)
		}
		if err != nil && j.End() != before || err == nil && j.End() != lsn {
			t.Errorf("the stream went from %d to %d, Append said %d", before, j.End(), lsn)
		}
	}
	for _, o := range []Options{{SegmentBytes: 100}, {SegmentBytes: 2 << 30}, {ReserveBytes: 5}, {MaxPending: 3}, {SyncWithin: -1}} {
		if j, err := Open(t.TempDir(), o); err == nil {
			j.Close()
			t.Errorf("Open with %+v succeeded", o)
		}
	}
}

func TestCommitDoesNotAllocate(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	payload := make([]byte, 600)
	if n := testing.AllocsPerRun(1000, func() {
		lsn, err := j.Append(payload)
		if err == nil {
			err = j.Wait(lsn, Written)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations for each commit", n)
	}
}
