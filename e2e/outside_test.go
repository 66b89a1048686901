package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// withBob is a second person, who has no account here, in a world where one
// person may do everything.
func withBob(c string) string {
	return strings.Replace(c, "\n  # - {id: bob@example.com, uids: [1001], groups: [dba]}", "\n  - {id: bob@example.com}", 1)
}

// The owner of an agent leaves: its session ends within a second, it is refused,
// and goes on once somebody else answers for it.
func TestAccessEndsWhenTheOwnerLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withBob)
	c := w.connect()
	if _, err := c.Exec(t.Context(), "select 1"); err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		w.ok(os.WriteFile(w.path(name), []byte(text), 0o600))
		return w.path(name)
	}
	yesterday := time.Now().Add(-2 * time.Hour).UTC().Format(time.RFC3339)
	people := file("people.csv", "email,name,left_at\nALICE@example.com,Alice,"+yesterday+"\nbob@example.com,Bob,\nmallory@example.com,Mallory,\n")
	url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = c.Exec(t.Context(), "select pg_sleep(60)")
		ended <- time.Now()
	}()
	time.Sleep(300 * time.Millisecond) // so that it is upstream
	if out, err := w.exhibit("import", "people", people, "--source", "HR"); err == nil || !strings.Contains(out, `there is no column "id"`) {
		t.Errorf("without the name of the column: %v\n%s", err, out)
	}
	out := w.must("import", "people", people, "--source", "HR", "--query", "all workers", "--column-id", "email")
	told := time.Now()
	if !strings.Contains(out, "alice@example.com left "+yesterday+". Suspended: bot, idle") || !strings.Contains(out, "3 rows of people (2 kept)") {
		t.Errorf("the import says\n%s", out)
	}
	select {
	case at := <-ended:
		if late := at.Sub(told); late > 5*time.Second { // a second, and the machine
			t.Errorf("its session ended %v after the import", late)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("its session goes on")
	}
	if out, err := w.exhibit("token", "bot", "--key", w.path("bot.key")); err == nil {
		t.Errorf("a suspended agent gets a token:\n%s", out)
	}
	cmd := exec.CommandContext(t.Context(), "psql", "-X", url, "-c", "select 1")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a suspended agent is let in by the token that it has:\n%s", out)
	}
	w.must("agent", "owner", "bot", "--owner", "bob@example.com", "--reason", "Alice left")
	if out, err := w.psql("-c", "select 1"); err != nil {
		t.Errorf("with another owner: %v\n%s", err, out)
	}
	report, err := w.pack()
	if err != nil || !strings.Contains(report, "import.people") {
		t.Errorf("the pack: %v\n%s", err, report)
	}
	w.until(time.Second, "nothing of a stranger is kept", func() bool {
		out, _ := w.run("unzip", "-p", w.packed)
		return !strings.Contains(out, "mallory")
	})
}

// logged is a world whose PostgreSQL logs its sessions, and whose gateway finds
// that log.
func logged(t *testing.T, every string, edit ...func(string) string) *world {
	t.Helper()
	return newWorldWith(t, "", []string{"logging_collector=on", "log_destination=csvlog", "log_connections=on", "log_disconnections=on",
		"log_timezone=UTC", "lc_messages=C", "log_filename=%Y-%m-%d_%H%M%S.log"},
		append([]func(string) string{func(c string) string {
			return strings.Replace(c, "    durability: power\n", "    durability: power\n    reconcile: {log: postgres/data/log/*.csv, format: csvlog, every: "+every+"}\n"+
				"    direct:\n      - {user: monitor, from: 127.0.0.1, reason: measures the server}\n", 1)
		}}, edit...)...)
}

// run is what exhibit reconcile says.
type reconciled struct {
	Logged, Gateway, Own, Allowed, Unexplained, Missing int
	Tie                                                 string
	Counted, Compared                                   int64
	Sessions                                            []struct {
		Class, User, Client string
		PID                 int
	}
}

func (w *world) reconcile() (r reconciled) {
	w.t.Helper()
	out, err := w.exhibit("reconcile", "orders", "--json") // fails when something is unexplained
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		w.t.Fatalf("exhibit reconcile: %v\n%s", err, out)
	}
	if r.Logged != r.Gateway+r.Own+r.Allowed+r.Unexplained {
		w.t.Errorf("the classes don't add up: %+v", r)
	}
	return r
}

// direct connects to the server without the gateway, and returns from where.
func (w *world) direct(user, password, addr string) string {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), fmt.Sprintf("postgres://%s:%s@%s/orders?sslmode=disable&default_query_exec_mode=simple_protocol", user, password, addr))
	w.ok(err)
	_, err = c.Exec(w.t.Context(), "select 1")
	w.ok(err)
	from := c.PgConn().Conn().LocalAddr().String()
	w.ok(c.Close(context.Background()))
	return from
}

// A thousand sessions come through the gateway, and some others do not: those,
// and no more, are found, whatever the server went through meanwhile.
func TestWhatGoesAroundTheGatewayIsFound(t *testing.T) {
	w := logged(t, "0s")
	w.ok(w.db.Exec(t.Context(), "orders", "create role monitor login password 'm'"))
	w.reconcile() // from here on

	const sessions, at, every = 1000, 16, 200
	began := time.Now()
	url := w.url("bot", "sslmode=disable&default_query_exec_mode=simple_protocol", "--ticket", "T-1")
	var hidden []string
	var next atomic.Int64
	var mu sync.Mutex
	var running sync.WaitGroup
	for range at {
		running.Go(func() {
			for n := next.Add(1); n <= sessions; n = next.Add(1) {
				c, err := pgx.Connect(t.Context(), url)
				if err == nil {
					_, err = c.Exec(t.Context(), "select 1")
					err = errors.Join(err, c.Close(context.Background()))
				}
				if err != nil {
					t.Errorf("session %d: %v", n, err)
					return
				}
				if n%every == 0 {
					from := w.direct("app", upstreamSecret, w.db.Addr)
					mu.Lock()
					hidden = append(hidden, from)
					mu.Unlock()
				}
			}
		})
	}
	running.Wait()
	t.Logf("%d sessions through the gateway in %v", sessions, time.Since(began).Round(time.Millisecond))
	hidden = append(hidden, w.direct("postgres", w.db.Password, w.db.Addr)) // a superuser
	w.direct("monitor", "m", w.db.Addr)                                     // who may
	time.Sleep(6 * time.Second)                                             // so that none of them is on its way when the counters are read
	began = time.Now()
	r := w.reconcile()
	t.Logf("reconciled in %v: %+v", time.Since(began).Round(time.Millisecond), r)
	if r.Gateway != sessions || r.Allowed != 1 || r.Unexplained != len(hidden) || r.Missing != 0 || r.Tie != "tied" || r.Own == 0 {
		t.Errorf("found %+v, want %d sessions of agents and %d unexplained", r, sessions, len(hidden))
	}
	found := make(map[string]bool)
	for _, s := range r.Sessions {
		found[s.Client] = true
	}
	for _, from := range hidden {
		if !found[from] {
			t.Errorf("who connected from %s isn't among those found", from)
		}
	}
	w.until(20*time.Second, "an alert is raised", func() bool { return strings.Contains(w.must("alert", "list"), "upstream.bypass") })

	// A pooler is somebody else, too.
	pooler := w.pgbouncer()
	w.direct("app", upstreamSecret, pooler)
	if r := w.reconcile(); r.Unexplained != 1 || r.Sessions[0].User != "app" {
		t.Errorf("through a pooler: %+v", r)
	}

	// Counters that somebody sets back, and a server that starts again.
	w.ok(w.db.Exec(t.Context(), "orders", "select pg_stat_reset()"))
	if r := w.reconcile(); r.Tie != "reset" {
		t.Errorf("after the counters were set back: %+v", r)
	}
	w.ok(w.db.Restart(t.Context()))
	if out, err := w.psql("-c", "select 1"); err != nil {
		t.Errorf("after the restart: %v\n%s", err, out)
	}
	if r := w.reconcile(); r.Tie != "restarted" || r.Gateway == 0 {
		t.Errorf("after a restart: %+v", r)
	}
	report, err := w.pack()
	if err == nil || !strings.Contains(report, "import.connections") || !strings.Contains(report, hidden[0]) {
		t.Errorf("the pack: %v\n%s", err, report)
	}
	for _, wrong := range []string{"the records before it say", "NOT", "is not the file"} {
		if strings.Contains(report, wrong) {
			t.Errorf("the verifier finds more: %s", report)
		}
	}
}

// pgbouncer starts a pooler before the server and returns its address.
func (w *world) pgbouncer() string {
	w.t.Helper()
	needs(w.t, "pgbouncer")
	addr, err := pgserver.FreeAddr()
	w.ok(err)
	host, port, _ := strings.Cut(addr, ":")
	upHost, upPort, _ := strings.Cut(w.db.Addr, ":")
	dir := w.path("pgbouncer")
	w.ok(os.Mkdir(dir, 0o755))
	w.ok(os.WriteFile(filepath.Join(dir, "users"), []byte(fmt.Sprintf("%q %q\n", "app", upstreamSecret)), 0o644))
	w.ok(os.WriteFile(filepath.Join(dir, "ini"), []byte(fmt.Sprintf(`[databases]
orders = host=%s port=%s dbname=orders
[pgbouncer]
listen_addr = %s
listen_port = %s
unix_socket_dir =
auth_type = plain
auth_file = %s
pool_mode = session
`, upHost, upPort, host, port, filepath.Join(dir, "users"))), 0o644))
	cmd := exec.CommandContext(context.Background(), "pgbouncer", "-q", filepath.Join(dir, "ini"))
	if u, err := user.Lookup("postgres"); err == nil && os.Getuid() == 0 { // it refuses root
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		w.ok(err)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid)}}
	}
	w.ok(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w.until(20*time.Second, "the pooler answers", func() bool {
		c, err := pgx.Connect(w.t.Context(), fmt.Sprintf("postgres://app:%s@%s/orders?sslmode=disable&default_query_exec_mode=simple_protocol", upstreamSecret, addr))
		if err != nil {
			return false
		}
		_ = c.Close(context.Background())
		return true
	})
	return addr
}

// Somebody goes around the gateway: within a minute there is an alert, though
// nobody asks.
func TestABypassRaisesAnAlertByItself(t *testing.T) {
	t.Parallel()
	w := logged(t, "10s")
	time.Sleep(15 * time.Second) // until the log was looked at once
	from := w.direct("app", upstreamSecret, w.db.Addr)
	began := time.Now()
	w.until(time.Minute, "an alert is raised", func() bool { return strings.Contains(w.must("alert", "list"), from) })
	t.Logf("an alert %v after the connection", time.Since(began).Round(time.Millisecond))
}

// An agent that may only read goes through an account that owns the tables: the
// pack says so, and what the account may do by itself.
func TestWhatTheAccountMayDoByItselfIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.grant("idle", "reader")
	if out := w.must("import", "roles", "orders"); !strings.Contains(out, "postgres.privileges") {
		t.Errorf("the import says\n%s", out)
	}
	// Somebody opens the server to everybody, and another change has a ticket.
	w.ok(w.db.Exec(t.Context(), "orders", "create role intruder login superuser"))
	if out := w.must("import", "roles", "orders"); !strings.Contains(out, "not readable for the gateway's account, of hba: permission denied for") {
		t.Errorf("the import says\n%s", out)
	}
	w.ok(w.db.Exec(t.Context(), "orders", "create role planned", "alter role app login", "grant planned to intruder"))
	w.must("import", "roles", "orders", "--ticket", "OPS-7")
	report, err := w.pack()
	if err == nil || !strings.Contains(report, `role "intruder" of orders was added: "superuser login inherit", and the import names no ticket`) || strings.Contains(report, `role "planned" of orders`) {
		t.Errorf("of the server's configuration the pack says: %v\n%s", err, report)
	}
	changes, unzipped := w.run("unzip", "-p", w.packed, "pop/upstream_config.csv")
	if unzipped != nil || !strings.Contains(changes, ",member,intruder in planned by ") || !strings.Contains(changes, ",added,OPS-7,") {
		t.Errorf("the changes: %v\n%.2000s", unzipped, changes)
	}
	if err == nil || !strings.Contains(report, "agent idle may only read orders, and the account app there owns or can write 1 objects, among them public.t") {
		t.Errorf("the pack: %v\n%s", err, report)
	}
	if strings.Contains(report, "agent bot may only read") {
		t.Error("so does an agent that may write")
	}
	listing, err := w.run("unzip", "-p", w.packed, "listings/access@closing.csv")
	if err != nil || !strings.Contains(listing, "owner select insert update delete truncate") {
		t.Errorf("the listing: %v\n%.2000s", err, listing)
	}
}

// TestTheAuditorsWalkthrough is the guide's "Three tests that you can run live":
// at an hour of the auditor's choosing an agent runs a statement with a word that
// they made up, one that its role forbids, and goes to the database directly. The
// pack has the first two, what is sealed of the first opens for the auditor
// alone, and reconciliation has the third.
func TestTheAuditorsWalkthrough(t *testing.T) {
	t.Parallel()
	w := logged(t, "0s")
	w.reconcile()
	auditor, err := age.GenerateX25519Identity()
	w.ok(err)

	word := fmt.Sprintf("quince-%d", time.Now().UnixNano())
	if out, err := w.psql("-c", "select '"+word+"' as word"); err != nil || !strings.Contains(out, word) {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := w.psql("-c", "drop table t"); err == nil || !strings.Contains(out, "refused by the access gateway") {
		t.Fatalf("what is forbidden: %v\n%s", err, out)
	}
	from := w.direct("app", upstreamSecret, w.db.Addr)
	w.reconcile()

	report, err := w.pack()
	if err == nil || !strings.Contains(report, "import.connections") || !strings.Contains(report, from) {
		t.Errorf("the verifier says nothing of who went around the gateway: %v\n%s", err, report)
	}
	var asked command
	for _, c := range w.did() {
		switch {
		case strings.Contains(c.Text, word):
			t.Errorf("the word is in the clear: %q", c.Text)
		case strings.HasPrefix(c.Text, "SELECT ?"):
			asked = c
		}
	}
	if asked.Outcome != "ok" {
		t.Fatalf("the statement with the word: %+v of %+v", asked, w.did())
	}
	if out, err := exec.CommandContext(t.Context(), "grep", "-rlaF", word, w.path("data"), w.packed).CombinedOutput(); err == nil {
		t.Errorf("the word is in the clear in\n%s", out)
	}
	if denied := w.table("denials"); len(denied) != 1 || !strings.Contains(denied[0]["text"], "DROP TABLE") || denied[0]["verb"] != "admin" {
		t.Errorf("refused: %v", denied)
	}
	unexplained := 0
	for _, r := range w.table("recon") {
		if r["class"] == "unexplained" && r["client"] == from {
			unexplained++
		}
	}
	if unexplained != 1 {
		t.Errorf("who went around the gateway is %d times in recon", unexplained)
	}

	// The auditor picks the row and has it opened.
	sample, answer := w.path("sample.json"), w.path("answer.age")
	if out, err := w.run(exhibitVerify, "sample", w.packed, "--population", "commands", "--pick", asked.ID, "--recipient", auditor.Recipient().String(), "-o", sample); err != nil {
		t.Fatalf("drawing: %v\n%s", err, out)
	}
	w.must("unseal", sample, "--pack", w.packed, "--reader", "J. Doe, Audit LLP", "--purpose", "walkthrough", "-o", answer)
	sealed, err := os.Open(answer)
	w.ok(err)
	defer sealed.Close()
	opened, err := age.Decrypt(sealed, auditor)
	w.ok(err)
	text, err := io.ReadAll(opened)
	w.ok(err)
	if !bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString([]byte("select '" + word + "' as word"))[:20])) {
		t.Errorf("what was opened hasn't the word:\n%.2000s", text)
	}
	plain := w.path("answer.jsonl")
	w.ok(os.WriteFile(plain, text, 0o600))
	out, _ := w.run(exhibitVerify, w.packed, "--trust", w.path("trust.json"), "--sample", sample, "--answer", plain) // fails for the third test's sake
	for _, check := range []string{"sample.drawn", "sample.sealed", "sample.order"} {
		_, passed, _ := strings.Cut(out, "Passed")
		if !strings.Contains(passed, check) {
			t.Errorf("%s does not pass:\n%s", check, out)
		}
	}
}
