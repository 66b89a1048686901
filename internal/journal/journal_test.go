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
