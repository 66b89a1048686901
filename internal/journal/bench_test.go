package journal

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkCommit is one append of a 600-byte record and the wait for it, by so
// many writers at once. ns/op is the time between commits of all writers
// together; p50 is what one of them waits.
func BenchmarkCommit(b *testing.B) {
	for _, level := range []Level{Written, Synced} {
		for _, writers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", [...]string{"written", "synced"}[level], writers), func(b *testing.B) {
				benchmarkCommit(b, writers, level)
			})
		}
	}
}

func benchmarkCommit(b *testing.B, writers int, level Level) {
	j := mustOpen(b, b.TempDir(), Options{})
	payload := make([]byte, 600)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				lsn, err := j.Append(payload)
				if err == nil {
					err = j.Wait(lsn, level)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if err := j.Release(j.SyncedTo()); err != nil {
		b.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	j := mustOpen(b, b.TempDir(), Options{})
	payload := make([]byte, 600)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		lsn, err := j.Append(payload)
		if err == nil && lsn%(8<<20) < 612 {
			err = j.Release(j.SyncedTo())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	j := mustOpen(b, b.TempDir(), Options{})
	payload := make([]byte, 600)
	const n = 100_000
	for range n {
		if _, err := j.Append(payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Wait(j.End(), Synced); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n * int64(len(payload)))
	for b.Loop() {
		if _, err := j.Read(0, func(LSN, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
