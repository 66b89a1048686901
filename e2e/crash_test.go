package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var kills = flag.Int("kills", 12, "how often TestKillsUnderLoad kills the gateway, if three quarters of -timeout are enough for that")

// moments are the failpoints of the path, of sealing, and of a start after a
// crash, and how often each is passed before it strikes.
var moments = []struct {
	name  string
	times []int
	start bool // passed by a start after a crash
}{
	{"session started", []int{1, 5}, false},
	{"decided", []int{1, 60}, false},
	{"placed", []int{40, 200}, false},
	{"written", []int{40, 200}, false},
	{"synced", []int{10, 90}, false},
	{"recorded", []int{1, 90}, false},
	{"forwarded", []int{2, 120}, false},
	{"answered", []int{1, 90}, false},
	{"ended", []int{1, 90}, false},
	{"replied", []int{3, 120}, false},
	{"block stored", []int{1, 2}, false},
	{"leaf added", []int{1, 2}, false},
	{"checkpoint published", []int{1, 2}, false},
	{"released", []int{1, 2}, false},
	{"keys made", []int{1}, true},
	{"boot recorded", []int{1}, true},
	{"recovered one", []int{1, 2}, true},
}

// TestACrashAtEachMoment lets the gateway die where it hurts most, under load,
// and asks the server what it executed.
func TestACrashAtEachMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.program = failing(t)
	w.prepareMarks()
	w.stop(syscall.SIGTERM)
	for _, m := range moments {
		for i, n := range m.times {
			if testing.Short() && i > 0 {
				continue
			}
			at := fmt.Sprintf("EXHIBIT_FAILPOINT=%s@%d", m.name, n)
			if m.start {
				w.start()
				load := w.load(8)
				time.Sleep(100 * time.Millisecond)
				w.stop(syscall.SIGKILL)
				load()
				w.launch(at)
				w.dies(at)
			} else {
				w.start(at)
				load := w.load(8)
				w.dies(at)
				load()
			}
			w.start()
			w.passes()
			w.stop(syscall.SIGTERM)
		}
	}
	w.start()
	if w.accounts()["in_doubt"] == 0 {
		t.Error("no kill left anything in doubt: they came at no bad moment")
	}
}

// TestKillsUnderLoad kills the gateway at moments that nobody chose.
func TestKillsUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.prepareMarks()
	rounds, sessions := *kills, 32
	if testing.Short() {
		rounds, sessions = 2, 8
	}
	began := time.Now()
	end, limited := t.Deadline()
	for round := range rounds {
		if limited && time.Until(end) < end.Sub(began)/4 { // the rest is for the accounts
			t.Logf("%d kills only: there was no time for %d", round, rounds)
			break
		}
		before := w.marks.Load()
		load := w.load(sessions)
		w.underWay(before)
		time.Sleep(rand.N(500 * time.Millisecond)) //nolint:gosec // not a secret
		w.stop(syscall.SIGKILL)
		load()
		w.start()
	}
	w.passes()
	if w.accounts()["in_doubt"] == 0 {
		t.Error("no kill left anything in doubt: they came at no bad moment")
	}
}

// TestGracefulStopsUnderLoad ends the gateway in good order while agents do a
// bit of everything.
func TestGracefulStopsUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.prepareMarks()
	for range 3 {
		before := w.marks.Load()
		load := w.load(16)
		w.underWay(before)
		time.Sleep(300 * time.Millisecond)
		w.stop(syscall.SIGTERM)
		load()
		if code := w.serve.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the gateway ended with %d", code)
		}
		w.start()
	}
	if n := w.accounts()["in_doubt"]; n > 0 {
		t.Errorf("%d commands are in doubt after stops in good order", n)
	}
}

// failing builds the gateway with its failpoints.
func failing(t *testing.T) string {
	t.Helper()
	name := filepath.Join(filepath.Dir(exhibit), "exhibit-failpoint")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "failpoint", "-o", name, "../cmd/exhibit").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return name
}

// dies waits until the gateway has killed itself.
func (w *world) dies(why string) {
	w.t.Helper()
	select {
	case <-w.served:
	case <-time.After(60 * time.Second):
		w.t.Fatalf("the gateway never came to %s", why)
	}
	if status, ok := w.serve.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		w.t.Fatalf("%s: the gateway ended otherwise: %s", why, w.serve.ProcessState)
	}
}

func (w *world) prepareMarks() {
	w.t.Helper()
	w.ok(w.db.Exec(w.t.Context(), "orders", "set role app",
		"create table marks (n bigint primary key)", "create table block_marks (n bigint primary key)"))
	log, err := os.Stat(w.db.Log)
	w.ok(err)
	w.before = log.Size()
}

// load lets agents do a bit of everything until the gateway is gone, and
// returns what waits for them. What has to be found again names a table of
// marks.
func (w *world) load(agents int) (wait func()) {
	w.t.Helper()
	url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
	var all sync.WaitGroup
	for range agents {
		all.Go(func() {
			c, err := pgx.Connect(w.t.Context(), url)
			if err != nil {
				return
			}
			defer c.Close(context.Background())
			for err == nil {
				err = act(w.t.Context(), c, w.marks.Add(1))
				if sqlstate(err) != "" && !c.IsClosed() {
					err = nil // refused, or failed as it should
				}
			}
		})
	}
	return all.Wait
}

// underWay waits until agents have done enough since a mark for some of each kind
// to have come to its end: where all is slow they would still be logging in.
func (w *world) underWay(since int64) {
	w.t.Helper()
	w.until(60*time.Second, "agents have done some work", func() bool { return w.marks.Load() >= since+64 })
}

// act is one thing that an agent does.
func act(ctx context.Context, c *pgx.Conn, n int64) error {
	exec := func(text string, args ...any) error {
		_, err := c.Exec(ctx, text, args...)
		return err
	}
	switch n % 8 {
	case 0, 1:
		return exec("select count(*) from marks where n = $1", n)
	case 2:
		return exec(fmt.Sprintf("select %d from marks limit 1", n), pgx.QueryExecModeSimpleProtocol)
	case 3, 4:
		return exec("insert into marks values ($1)", n)
	case 5:
		return exec("drop table marks")
	case 6:
		b := &pgx.Batch{}
		b.Queue("insert into marks values ($1)", -2*n)
		b.Queue("select n from marks limit 2")
		b.Queue("insert into marks values ($1)", -2*n-1)
		return c.SendBatch(ctx, b).Close()
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, "insert into block_marks values ($1)", n); err != nil {
		return err
	}
	if n%16 < 8 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}

var executedMark = regexp.MustCompile(`\[(\d+)\] LOG:  (?:statement|execute [^:]*): .*marks`)

// executed is how many of the statements each process of the server executed,
// by its own log.
func (w *world) executed() map[string]int {
	w.t.Helper()
	log, err := os.Open(w.db.Log)
	w.ok(err)
	defer log.Close()
	_, err = log.Seek(w.before, io.SeekStart)
	w.ok(err)
	executed := map[string]int{}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if m := executedMark.FindSubmatch(lines.Bytes()); m != nil {
			executed[string(m[1])]++
		}
	}
	w.ok(lines.Err())
	return executed
}

// accounts compares the pack with what the server says: it executed nothing
// that isn't on record before, what is on record as done was done, and only
// what is in doubt may be either.
func (w *world) accounts() (outcomes map[string]int) {
	w.t.Helper()
	w.passes()
	executed := w.executed()
	process := map[string]string{}
	for s := range w.rows("sessions") {
		process[s["session_id"]] = s["upstream_pid"]
		if s["state"] == "open" {
			w.t.Errorf("session %s is open", s["session_id"])
		}
	}
	type sums struct{ done, doubt, failed int }
	asked := map[string]*sums{} // by the server's process, whose number may come again
	var inserts sums
	outcomes = map[string]int{}
	for c := range w.rows("commands") {
		outcomes[c["outcome"]]++
		if c["path"] == "prepare" || !strings.Contains(c["text"], "marks") {
			continue
		}
		s := asked[process[c["session_id"]]]
		if s == nil {
			s = &sums{}
			asked[process[c["session_id"]]] = s
		}
		insert := strings.HasPrefix(c["text"], "INSERT INTO marks") && strings.HasSuffix(c["text"], "marks VALUES ($1)")
		switch c["outcome"] {
		case "ok":
			s.done++
			if insert {
				inserts.done++
			}
		case "error", "cancelled":
			s.failed++
		case "in_doubt":
			s.doubt++
			if insert {
				inserts.doubt++
			}
		}
	}
	if rows := w.count("select count(*) from marks"); rows < inserts.done || rows > inserts.done+inserts.doubt {
		w.t.Errorf("the server has %d marks; %d are on record as inserted, %d as in doubt", rows, inserts.done, inserts.doubt)
	}
	w.t.Logf("%d sessions, %d processes of the server, outcomes %v", len(process), len(executed), outcomes)
	for pid, s := range asked {
		n := executed[pid]
		if n < s.done || n > s.done+s.failed+s.doubt {
			w.t.Errorf("process %s of the server executed %d, on record are %d done, %d failed, %d in doubt", pid, n, s.done, s.failed, s.doubt)
		}
		delete(executed, pid)
	}
	for pid, n := range executed {
		w.t.Errorf("process %s of the server executed %d statements that no session asked", pid, n)
	}
	if outcomes["ok"] == 0 || outcomes["denied"] == 0 || outcomes["open"] > 0 || outcomes[""] > 0 {
		w.t.Errorf("outcomes %v", outcomes)
	}
	w.blocks()
	return outcomes
}

// count asks the server itself.
func (w *world) count(query string) (n int) {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), w.db.URL("orders"))
	w.ok(err)
	defer c.Close(context.Background())
	w.ok(c.QueryRow(w.t.Context(), query).Scan(&n))
	return n
}

// blocks compares the rows that blocks left with how they ended.
func (w *world) blocks() {
	w.t.Helper()
	rows, committed := w.count("select count(*) from block_marks"), 0
	ends := map[string]int{}
	for tx := range w.rows("transactions") {
		ends[tx["result"]]++
		if n, err := strconv.Atoi(tx["commands"]); err != nil || n < 1 {
			w.t.Errorf("a transaction of %q commands", tx["commands"])
		}
		if tx["result"] == "commit" && tx["block"] == "yes" {
			committed++
		}
	}
	doubts := 0
	for c := range w.rows("commands") {
		if c["outcome"] == "in_doubt" && strings.HasPrefix(c["text"], "COMMIT") {
			doubts++
		}
	}
	w.t.Logf("transactions ended %v; %d rows of blocks, %d commits in doubt", ends, rows, doubts)
	if rows < committed || rows > committed+doubts || committed == 0 {
		w.t.Errorf("the server has %d rows of blocks; %d were committed, of %d it is not known", rows, committed, doubts)
	}
}
