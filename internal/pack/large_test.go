package pack_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// writeLog writes a log of so many commands: sessions of a hundred, each asking
// statements of its own among common ones, some of them refused.
func writeLog(folder packtest.Folder, commands int) error {
	g := folder.New()
	g.PerBlock = 4000
	g.Boot()
	g.Organise("billing-bot", "reader")
	var s *packtest.Session
	agent := "billing-bot"
	for i := range commands {
		if i%100 == 0 {
			if s != nil {
				s.Close()
			}
			if i%100_000 == 0 {
				agent = "bot-" + strconv.Itoa(i) // one now and then: grants end
				g.Organise(agent, "reader")
			}
			s = g.Open(agent, "orders")
		}
		switch {
		case i%1000 == 999:
			g.Now += 2 * packtest.Second // slower than what asks for an alert
			s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
		case i%10 == 0:
			s.Do(fmt.Sprintf("SELECT total FROM public.orders WHERE customer = ? AND region = ? -- %d", i), "postgres:select", "public.orders")
		default:
			s.Do(fmt.Sprintf("SELECT id, total FROM public.orders WHERE id = ? LIMIT %d", i%20), "postgres:select", "public.orders")
		}
	}
	s.Close()
	g.Stop()
	return folder.Save(g)
}

func largeParams(t testing.TB) pack.Params {
	return pack.Params{From: at(0), To: at(1 << 31), By: packtest.Alice, Organisation: "Example Ltd", Temp: t.TempDir()}
}

// What is live while a pack is made depends on what is open at once, not on how
// long the log is.
func TestMemoryDoesNotGrowWithTheLog(t *testing.T) {
	peak := func(commands int) uint64 {
		folder := packtest.Folder(t.TempDir())
		if err := writeLog(folder, commands); err != nil {
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

// logFolder tells TestLargeLog where to write, and of how many commands;
// keepFolder where logs and packs of benchmarks stay.
const logFolder, logCommands, keepFolder = "EXHIBIT_LARGE_LOG", "EXHIBIT_LARGE_LOG_COMMANDS", "EXHIBIT_LARGE_KEEP"

// TestLargeLog is the process that writes the log of a benchmark, so that its
// memory isn't counted.
func TestLargeLog(t *testing.T) {
	folder := os.Getenv(logFolder)
	if folder == "" {
		t.Skip("it is part of BenchmarkCreate")
	}
	commands, err := strconv.Atoi(os.Getenv(logCommands))
	if err != nil {
		t.Fatal(err)
	}
	if err := writeLog(packtest.Folder(folder), commands); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkCreate makes packs of logs on disk: how many records a second, and
// the most memory that the process had, with marks as a gateway sets them. Those
// of millions of commands want
//
//	go test ./internal/pack -run '^$' -bench Create/1e.07 -benchtime 1x -timeout 2h
//
// A folder in EXHIBIT_LARGE_KEEP has log and pack of each afterwards, and the log
// from before is used again: exhibit-verify can be measured with the pack.
func BenchmarkCreate(b *testing.B) {
	for _, commands := range []float64{1e5, 1e6, 3e6, 1e7} {
		b.Run(fmt.Sprintf("%.0e", commands), func(b *testing.B) {
			if commands > 1e5 && b.N > 1 {
				b.Skip("-benchtime 1x")
			}
			dir, name := b.TempDir(), os.DevNull
			if keep := os.Getenv(keepFolder); keep != "" {
				dir, name = filepath.Join(keep, strconv.Itoa(int(commands))), filepath.Join(keep, strconv.Itoa(int(commands))+".zip")
			}
			if _, err := os.Stat(filepath.Join(dir, ledger.CheckpointPath)); err != nil {
				cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestLargeLog$", "-test.timeout=2h")
				cmd.Env = append(os.Environ(), logFolder+"="+dir, logCommands+"="+strconv.Itoa(int(commands)))
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			}
			debug.FreeOSMemory()
			_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak begins here; elsewhere there is none
			var records, bytes int64
			began, before := time.Now(), processor(b)
			b.ResetTimer()
			for range b.N {
				f, err := os.Create(name)
				if err != nil {
					b.Fatal(err)
				}
				out, p := &sized{w: f}, largeParams(b)
				p.Keep = pack.Keeping{Dir: filepath.Join(b.TempDir(), "kept"), Request: "all of it", Every: 30 * time.Second}
				res, err := pack.Create(b.Context(), packtest.Folder(dir).Source(), p, out)
				if err := errors.Join(err, f.Close()); err != nil {
					b.Fatal(err)
				}
				records, bytes = records+int64(res.Manifest.Range.Records), out.n
			}
			b.ReportMetric(float64(records)/time.Since(began).Seconds(), "records/s")
			if spent := processor(b) - before; spent > 0 {
				b.ReportMetric(float64(records)/spent, "records/cpu-s")
			}
			b.ReportMetric(float64(bytes)/float64(1<<20), "MiB-of-pack")
			if status, err := os.ReadFile("/proc/self/status"); err == nil {
				if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
					kib, _ := strconv.ParseFloat(string(m[1]), 64)
					b.ReportMetric(kib/1024, "MiB-peak-RSS")
				}
			}
		})
	}
}

type sized struct {
	w io.Writer
	n int64
}

func (s *sized) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.n += int64(n)
	return n, err
}

// processor is how many seconds this process has had of one, in the hundredths
// of Linux; 0 elsewhere.
func processor(b *testing.B) float64 {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return (user + system) / 100
}
