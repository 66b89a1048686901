package e2e

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var (
	soak    = flag.Duration("soak", 30*time.Second, "how long TestSoak runs")
	soakCSV = flag.String("soakcsv", "", "file that TestSoak writes its samples to")
)

// measures are what must not grow with time, and what each may grow by: what
// is cached fills up at first.
var measures = []struct {
	name  string
	slack float64
}{
	{"go_goroutines", 20},
	{"process_open_fds", 20},
	{"go_memstats_heap_inuse_bytes", 32 << 20},
	{"process_resident_memory_bytes", 64 << 20},
}

// TestSoak lets agents come, do a bit of everything and go, and compares the
// gateway's size in the second third of the time with the last.
func TestSoak(t *testing.T) {
	length := *soak
	if testing.Short() {
		length = 6 * time.Second
	}
	w := newWorld(t)
	w.prepareMarks()
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	end, _ := ctx.Deadline()
	over := func() bool { return time.Now().After(end) } // which a connection may know before ctx does
	var agents sync.WaitGroup
	for range 16 {
		agents.Go(func() {
			url, until := "", time.Time{}
			for ctx.Err() == nil {
				if time.Now().After(until) { // a token is good for many visits
					url, until = w.url("bot", "sslmode=disable", "--ticket", "T-1"), time.Now().Add(5*time.Minute)
				}
				if err := w.visit(ctx, url, 50); err != nil && !over() {
					t.Errorf("an agent: %v", err)
					return
				}
			}
		})
	}
	var samples []map[string]float64
	keep := w.samples(*soakCSV)
	for tick := time.NewTicker(min(length/60, 10*time.Second)); ; {
		select {
		case <-tick.C:
			samples = append(samples, w.metrics(t.Context()))
			keep(samples[len(samples)-1])
			continue
		case <-ctx.Done():
		}
		tick.Stop()
		break
	}
	agents.Wait()
	for _, m := range measures {
		values := make([]float64, len(samples))
		for i, s := range samples {
			values[i] = s[m.name]
		}
		third := len(values) / 3
		before, after := slices.Max(values[third:2*third]), slices.Max(values[2*third:])
		t.Logf("%-30s at most %.0f, then %.0f", m.name, before, after)
		if before == 0 || after > before*1.25+m.slack {
			t.Errorf("%s grew from %.0f to %.0f", m.name, before, after)
		}
	}
	w.stop(syscall.SIGTERM)
	began := time.Now()
	w.start() // which takes as long after an hour as after a minute
	t.Logf("started again in %v", time.Since(began).Round(time.Millisecond))
	w.accounts()
}

// columns are what a soak's samples say, with what each is called in the
// gateway's metrics where it is from there.
var columns = []struct{ name, metric string }{
	{"seconds", ""},
	{"commands", "exhibit_commands_total"},
	{"sessions", "exhibit_sessions"},
	{"goroutines", "go_goroutines"},
	{"descriptors", "process_open_fds"},
	{"heap_bytes", "go_memstats_heap_inuse_bytes"},
	{"resident_bytes", "process_resident_memory_bytes"},
	{"grammar_resident_bytes", ""}, // of the process that parses
	{"journal_bytes", ""},
	{"archive_bytes", ""},
	{"unsealed_seconds", "exhibit_log_unsealed_seconds"},
}

// samples returns what writes a sample to a file, if there is to be one.
func (w *world) samples(name string) (keep func(map[string]float64)) {
	w.t.Helper()
	if name == "" {
		return func(map[string]float64) {}
	}
	f, err := os.Create(name)
	w.ok(err)
	w.t.Cleanup(func() { w.ok(f.Close()) })
	out, began := csv.NewWriter(f), time.Now()
	write := func(cell func(name, metric string) string) {
		w.t.Helper()
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = cell(c.name, c.metric)
		}
		w.ok(out.Write(row))
		out.Flush()
		w.ok(out.Error())
	}
	write(func(name, _ string) string { return name })
	return func(m map[string]float64) {
		w.t.Helper()
		own := map[string]float64{
			"seconds":                math.Round(time.Since(began).Seconds()),
			"grammar_resident_bytes": w.childrenResident(),
			"journal_bytes":          w.size("data/journal"),
			"archive_bytes":          w.size("data/archive"),
		}
		write(func(name, metric string) string {
			v, ok := own[name]
			if !ok {
				v = m[metric]
			}
			return strconv.FormatFloat(v, 'f', -1, 64)
		})
	}
}

// size is how much disk the files of a folder take that is being worked in.
func (w *world) size(folder string) (bytes float64) {
	w.t.Helper()
	w.ok(filepath.WalkDir(w.path(folder), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				bytes += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		return err
	}))
	return bytes
}

// childrenResident is the resident memory of the gateway's children.
func (w *world) childrenResident() (bytes float64) {
	w.t.Helper()
	out, err := w.run("ps", "-o", "rss=", "--ppid", strconv.Itoa(w.serve.Process.Pid))
	if err != nil {
		w.t.Fatalf("ps: %v\n%s", err, out)
	}
	for _, kib := range strings.Fields(out) {
		n, err := strconv.ParseFloat(kib, 64)
		w.ok(err)
		bytes += n * 1024
	}
	return bytes
}

// visit is an agent that comes, does n things and goes.
func (w *world) visit(ctx context.Context, url string, n int) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	for range n {
		if err := act(ctx, c, w.marks.Add(1)); err != nil && sqlstate(err) == "" {
			return err
		}
	}
	return nil
}

// metrics reads what the gateway says of itself.
func (w *world) metrics(ctx context.Context) map[string]float64 {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.ops+"/metrics", nil)
	w.ok(err)
	resp, err := http.DefaultClient.Do(req)
	w.ok(err)
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	w.ok(errors.Join(lines.Err(), present(values)))
	return values
}

func present(values map[string]float64) error {
	for _, m := range measures {
		if _, ok := values[m.name]; !ok {
			return fmt.Errorf("the gateway does not say %s", m.name)
		}
	}
	return nil
}
