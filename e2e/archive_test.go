package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/ledger"
)

// onItsOwnDisk moves the stopped gateway's archive to a small disk of its own:
// ext4 in a file, which can be frozen.
func (w *world) onItsOwnDisk() {
	w.t.Helper()
	if os.Geteuid() != 0 {
		w.t.Skip("a disk of the archive's own takes root")
	}
	needs(w.t, "mkfs.ext4", "fsfreeze")
	image, archive, away := w.path("disk"), w.path("data/archive"), w.path("away")
	w.ok(os.WriteFile(image, nil, 0o600))
	w.ok(os.Truncate(image, 64<<20))
	if out, err := w.run("mkfs.ext4", "-q", "-O", "^has_journal", image); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	w.ok(os.Rename(archive, away))
	w.ok(os.Mkdir(archive, 0o700))
	if out, err := w.run("mount", "-o", "loop", image, archive); err != nil {
		w.t.Skipf("this machine mounts no file as a disk: %v\n%s", err, out)
	}
	w.t.Cleanup(func() {
		if w.serve != nil {
			_ = w.serve.Process.Kill()
			<-w.served
		}
		if err := syscall.Unmount(archive, syscall.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	if out, err := w.run("cp", "-a", away+"/.", archive); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// archiveFaults are what can befall an archive while agents work. Each breaks it
// and returns what mends it.
var archiveFaults = map[string]struct {
	says   string // exhibit log status, of the cause
	strike func(w *world) (mend func())
}{
	"read-only": {"read-only file system", func(w *world) func() {
		w.remount("data/archive", "ro")
		return func() { w.remount("data/archive", "rw") }
	}},
	"full": {"no space left on device", func(w *world) func() {
		return w.fill("data/archive")
	}},
	"hanging": {"has taken", func(w *world) func() {
		thaw := sync.OnceFunc(func() { _ = exec.Command("fsfreeze", "-u", w.path("data/archive")).Run() }) // also when the test is over
		w.t.Cleanup(thaw)
		if out, err := w.run("fsfreeze", "-f", w.path("data/archive")); err != nil {
			w.t.Fatalf("%v\n%s", err, out)
		}
		return thaw
	}},
	"moved away": {"is not where it was", func(w *world) func() {
		w.ok(os.Rename(w.path("data/archive"), w.path("elsewhere")))
		return func() { w.ok(os.Rename(w.path("elsewhere"), w.path("data/archive"))) }
	}},
	"unmounted": {"is not where it was", func(w *world) func() {
		w.ok(syscall.Unmount(w.path("data/archive"), syscall.MNT_DETACH))
		return func() {
			if out, err := w.run("mount", "-o", "loop", w.path("disk"), w.path("data/archive")); err != nil {
				w.t.Fatalf("%v\n%s", err, out)
			}
		}
	}},
}

// TestAnArchiveThatFails breaks the archive while agents work. They go on until
// as much waits as may, are told why no further, and once the archive is back
// are let in by itself. Whoever looks is told how far behind the log is, and
// why; rights can be taken away all the while.
func TestAnArchiveThatFails(t *testing.T) {
	t.Parallel()
	for name, fault := range archiveFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c string) string {
				return strings.Replace(c, "max_unsealed_bytes: 1GiB", "max_unsealed_bytes: 16MiB", 1)
			})
			grant := w.grant("idle", "reader")
			if name != "moved away" {
				w.stop(syscall.SIGTERM)
				w.onItsOwnDisk()
				w.start()
			}
			w.asks(1)
			w.must("log", "fsck")
			sealed := w.sealing().Blocks
			mend := fault.strike(w)

			// Sessions go on, old ones and new ones.
			c := w.connect()
			for range 3 {
				_, err := c.Exec(t.Context(), "select 1")
				w.ok(err)
				w.asks(1)
			}
			w.until(60*time.Second, "the status says why nothing is sealed", func() bool { return strings.Contains(w.sealing().Problem, fault.says) })
			s, m := w.sealing(), w.metrics(t.Context())
			if s.Blocks > sealed+1 || s.Unsealed == 0 || s.Age == 0 {
				t.Errorf("status %+v", s)
			}
			if out, err := w.exhibit("log", "status"); err == nil || !strings.Contains(out, fault.says) {
				t.Errorf("log status: %v\n%s", err, out)
			}
			if m["exhibit_log_unsealed_bytes"] == 0 || m["exhibit_log_unsealed_seconds"] == 0 || m[`exhibit_log_failing_seconds{at="archive"}`] == 0 || m["exhibit_ready"] != 1 {
				t.Errorf("the metrics are %v", m)
			}

			// Until too much waits.
			long := strings.Repeat("x", 256<<10)
			var err error
			for n := 0; err == nil && n < 1000; n++ {
				_, err = c.Exec(t.Context(), "select length($1)", long)
			}
			if err == nil || !strings.Contains(err.Error(), "evidence cannot be sealed: access has stopped") {
				t.Errorf("a session that went on was told %v", err)
			}
			_, err = pgx.Connect(t.Context(), w.url("bot", "sslmode=disable", "--ticket", "T-1"))
			if err == nil || !strings.Contains(err.Error(), "evidence cannot be sealed: no new session is opened") {
				t.Errorf("who came then was told %v", err)
			}
			if m := w.metrics(t.Context()); m["exhibit_ready"] != 0 || m["exhibit_log_unsealed_bytes"] < 16<<20 {
				t.Errorf("the metrics are %v", m)
			}
			w.must("grant", "revoke", grant, "--reason", "while nothing is sealed")

			mend()
			w.until(60*time.Second, "agents are let in again", func() bool {
				c, err := pgx.Connect(t.Context(), w.url("bot", "sslmode=disable", "--ticket", "T-1"))
				return err == nil && c.Ping(t.Context()) == nil && c.Close(t.Context()) == nil
			})
			w.passes()
			if s := w.sealing(); s.Problem != "" {
				t.Errorf("status %+v", s)
			}
			if m := w.metrics(t.Context()); m[`exhibit_log_failing_seconds{at="archive"}`] != 0 {
				t.Errorf("the metrics are %v", m)
			}
			for _, d := range w.did("--agent", "bot") {
				if d.Outcome != "ok" && d.Outcome != "denied" && !strings.HasPrefix(d.Text, "SELECT length") {
					t.Errorf("%s ended %q", d.Text, d.Outcome)
				}
			}
		})
	}
}

// sealing is what log status says of it.
type sealing struct {
	Blocks   uint64
	Unsealed int64   `json:"unsealed_bytes"`
	Age      float64 `json:"unsealed_age_seconds"`
	Problem  string
}

func (w *world) sealing() (s sealing) {
	w.t.Helper()
	out, _ := w.exhibit("log", "status", "--json") // 1 when there is a problem
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		w.t.Fatalf("log status: %v\n%s", err, out)
	}
	return s
}

// TestAnArchiveThatLies alters blocks behind the gateway's back: a byte of one,
// and one that is put in another's place. The gateway goes on, and fsck names
// both.
func TestAnArchiveThatLies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 4 { // packs seal what there is: a block each
		w.asks(1)
		w.must("pack", "create", "--from", "2020-01-01", "--to", "2100-01-01", "-o", w.path(fmt.Sprintf("pack-%d.zip", n)))
	}
	block := func(n uint64) string {
		return filepath.Join(w.path("data/archive"), filepath.FromSlash(ledger.BlockPath(n)))
	}
	flipped, err := os.ReadFile(block(1))
	w.ok(err)
	other, err := os.ReadFile(block(2))
	w.ok(err)
	flipped[len(flipped)/2] ^= 1
	for n, content := range map[uint64][]byte{1: flipped, 3: other} {
		w.ok(os.Remove(block(n)))
		w.ok(os.WriteFile(block(n), content, 0o400))
	}
	out, err := w.exhibit("log", "fsck")
	if err == nil || !slices.Equal(blocksNamed(out), []string{"block 1", "block 3"}) {
		t.Errorf("fsck: %v\n%s", err, out)
	}
	w.asks(1) // it has no part in what agents do
	if out, err := w.exhibit("did", "--agent", "bot"); err == nil || !strings.Contains(out, "run exhibit log fsck") {
		t.Errorf("reading it: %v\n%s", err, out)
	}
	if s := w.sealing(); s.Problem != "" {
		t.Errorf("status %+v", s)
	}
}

// blocksNamed are the blocks that findings are about.
func blocksNamed(report string) (named []string) {
	for line := range strings.Lines(report) {
		if where, _, ok := strings.Cut(line, ": "); ok && strings.HasPrefix(where, "block ") && !slices.Contains(named, where) {
			named = append(named, where)
		}
	}
	return named
}
