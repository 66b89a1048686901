package pack_test

import (
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

func largeParams(t testing.TB) pack.Params {
	return pack.Params{From: at(0), To: at(1 << 31), By: packtest.Alice, Organisation: "Example Ltd", Temp: t.TempDir()}
}

// What is live while a pack is made depends on what is open at once, not on how
// long the log is.
func TestMemoryDoesNotGrowWithTheLog(t *testing.T) {
	peak := func(commands int) uint64 {
		folder := packtest.Folder(t.TempDir())
		if err := folder.Fill(commands); err != nil {
			t.Fatal(err)
		}
		p := largeParams(t)
		dir := p.Temp
		var most, before uint64
		var m runtime.MemStats
		p.Progress = func(p pack.Progress) {
			if p.Records-before < 10_000 {
				return
			}
			before = p.Records
			if left := spooled(t, dir); runtime.GOOS == "linux" && left > 0 {
				t.Errorf("%d files would stay behind, were this process killed", left)
			}
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
		if _, err := pack.Create(t.Context(), folder.Source(), p, io.Discard); err != nil {
			t.Fatal(err)
		}
		return most
	}
	short, long := peak(10_000), peak(50_000)
	t.Logf("live: %d KiB with 10,000 commands, %d KiB with 50,000", short>>10, long>>10)
	if long > short+24<<20 { // what is cached of statements grows up to its bound
		t.Errorf("five times the log took %d KiB instead of %d", long>>10, short>>10)
	}
}

// spooled counts the files in a folder for spooling.
func spooled(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
