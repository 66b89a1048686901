package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// The programs under test, built once.
var exhibit, exhibitVerify string

// atOnce is how many tests run at once, unless -parallel says otherwise: most of
// them wait for processes, clocks and disks. A few run by themselves, without
// t.Parallel: those that measure time or memory, and those that load the machine.
const atOnce = "6"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "exhibit-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	exhibit, exhibitVerify = filepath.Join(dir, "exhibit"), filepath.Join(dir, "exhibit-verify")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", dir, "../cmd/exhibit", "../cmd/exhibit-verify").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// world is a database, a gateway before it, and two agents: bot may read and,
// under a ticket, write; idle has no grant.
type world struct {
	t      *testing.T
	dir    string
	db     *pgserver.Server
	listen string
	ops    string // where metrics are
	serve  *exec.Cmd
	served chan struct{}
	packed string // the newest pack

	program string       // that serves; "" is exhibit
	marks   atomic.Int64 // that load has made
	before  int64        // bytes of the server's log before there were any
}

// secrets that must turn up nowhere.
const (
	upstreamSecret = "upstream-canary-7d1f"
	literalSecret  = "literal-canary-93ab"
)

// newWorld starts a world, with the PostgreSQL that pgserver.Programs finds. Edit changes the configuration before the start.
func newWorld(t *testing.T, edit ...func(config string) string) *world {
	t.Helper()
	return newWorldOn(t, "", edit...)
}

// newWorldOn starts one with the PostgreSQL of a major version.
func newWorldOn(t *testing.T, major string, edit ...func(config string) string) *world {
	t.Helper()
	return newWorldWith(t, major, nil, edit...)
}

// newWorldWith starts one whose PostgreSQL has settings of its own.
func newWorldWith(t *testing.T, major string, settings []string, edit ...func(config string) string) *world {
	t.Helper()
	needs(t, "psql", "pgbench")
	dir, err := os.MkdirTemp("", "exhibit-e2e-") //nolint:usetesting // PostgreSQL runs as another user, whom t.TempDir keeps out
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL runs as another user
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	t.Cleanup(w.end)
	w.db, err = pgserver.StartVersion(t.Context(), major, filepath.Join(dir, "postgres"), settings...)
	missing(t, err)
	w.ok(w.db.Exec(t.Context(), "postgres", "create role app login password '"+upstreamSecret+"'", "create database orders owner app"))
	w.ok(w.db.Exec(t.Context(), "orders", "set role app", "create table t (id int primary key, v text)",
		"insert into t select i, 'row ' || i from generate_series(1, 100) i"))
	w.ok(os.WriteFile(w.path("pw"), []byte(upstreamSecret+"\n"), 0o600))
	w.listen, err = pgserver.FreeAddr()
	w.ok(err)
	w.must("init", dir, "--person", "alice@example.com", "--resource", "orders", "--upstream", w.db.Addr,
		"--database", "orders", "--user", "app", "--password-file", w.path("pw"), "--listen", w.listen, "--origin", "e2e.example/gw1")
	w.ops, err = pgserver.FreeAddr()
	w.ok(err)
	w.edit(func(c string) string { return strings.Replace(c, "127.0.0.1:9464", w.ops, 1) })
	for _, e := range edit {
		w.edit(e)
	}
	w.start()
	for _, agent := range []string{"bot", "idle"} {
		w.must("agent", "add", agent, "--owner", "alice@example.com", "--purpose", "to be tested")
		w.must("enroll", agent, "--key", w.path(agent+".key"))
	}
	w.grant("bot", "reader")
	w.grant("bot", "writer")
	return w
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skipf("%v (scripts/setup.sh installs it)", err)
		}
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) edit(f func(string) string) {
	w.t.Helper()
	b, err := os.ReadFile(w.path("exhibit.yaml"))
	w.ok(err)
	w.ok(os.WriteFile(w.path("exhibit.yaml"), []byte(f(string(b))), 0o644))
}

// start starts the gateway and waits until it answers.
func (w *world) start(env ...string) {
	w.t.Helper()
	w.launch(env...)
	w.until(60*time.Second, "the gateway answers", func() bool {
		_, err := w.exhibit("log", "status")
		return err == nil
	})
}

// launch starts the gateway.
func (w *world) launch(env ...string) {
	w.t.Helper()
	log, err := os.OpenFile(w.path("gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	w.ok(err)
	defer log.Close()
	w.serve = exec.CommandContext(context.Background(), cmp.Or(w.program, exhibit), "serve", "--config", w.path("exhibit.yaml"))
	w.serve.Stderr, w.serve.Env = log, append(os.Environ(), env...)
	w.ok(w.serve.Start())
	served := make(chan struct{})
	w.served = served
	cmd := w.serve
	go func() { _ = cmd.Wait(); close(served) }() // how it ended is in ProcessState
}

// stop ends the gateway by a signal.
func (w *world) stop(sig syscall.Signal) {
	w.t.Helper()
	w.ok(w.serve.Process.Signal(sig))
	select {
	case <-w.served:
	case <-time.After(60 * time.Second):
		w.t.Fatal("the gateway does not end")
	}
}

func (w *world) end() {
	if w.serve != nil {
		select {
		case <-w.served:
		default:
			w.stop(syscall.SIGTERM)
		}
	}
	if w.db != nil {
		if err := w.db.Stop(); err != nil {
			w.t.Error(err)
		}
	}
	if w.t.Failed() {
		log, _ := os.ReadFile(w.path("gateway.log"))
		w.t.Logf("the gateway's log ends:\n%s", log[max(0, len(log)-4000):])
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// exhibit runs a verb and returns what it prints on either stream.
func (w *world) exhibit(args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), exhibit, args...)
	if args[0] != "init" && args[0] != "verify" {
		cmd.Env = append(os.Environ(), "EXHIBIT_CONFIG="+w.path("exhibit.yaml"), "EXHIBIT_SOCKET="+w.path("data/admin.sock"))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err := w.exhibit(args...)
	if err != nil {
		w.t.Fatalf("exhibit %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// grant gives a grant and returns its id.
func (w *world) grant(agent, role string, resource ...string) string {
	w.t.Helper()
	var g struct{ ID string }
	w.ok(json.Unmarshal([]byte(w.must("grant", "add", "--agent", agent, "--role", role, "--resource", append(resource, "orders")[0], "--for", "12h", "--json")), &g))
	return g.ID
}

func (w *world) token(agent string, args ...string) string {
	w.t.Helper()
	return strings.TrimSpace(w.must(append([]string{"token", agent, "--key", w.path(agent + ".key")}, args...)...))
}

// url is where an agent connects.
func (w *world) url(agent, options string, token ...string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/orders?%s", agent, w.token(agent, token...), w.listen, options)
}

// connect connects as bot, under a ticket.
func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), w.url("bot", "sslmode=disable", "--ticket", "T-1"))
	w.ok(err)
	w.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// psql runs psql as bot, under a ticket.
func (w *world) psql(args ...string) (string, error) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "psql", append([]string{"-X", w.url("bot", "sslmode=disable", "--ticket", "T-1")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// tool is the path of a tool that the tests need; scripts/tool.sh makes it.
func (w *world) tool(name string) string {
	w.t.Helper()
	out, err := exec.CommandContext(w.t.Context(), "../scripts/tool.sh", name).Output()
	if err != nil && os.Getenv("CI") == "" {
		w.t.Skipf("scripts/tool.sh %s: %v", name, err)
	}
	w.ok(err)
	return strings.TrimSpace(string(out))
}

// run runs another client.
func (w *world) run(args ...string) (string, error) {
	out, err := exec.CommandContext(w.t.Context(), args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// command is a row of exhibit did.
type command struct {
	ID       string `json:"command_id"`
	Session  string `json:"session_id"`
	Agent    string `json:"agent_id"`
	Verb     string `json:"verb"`
	Text     string `json:"text"`
	Decision string `json:"decision"`
	Reason   string `json:"deny_reason"`
	Outcome  string `json:"outcome"`
	Code     string `json:"code"`
	Rows     string `json:"rows"`
	Tx       string `json:"tx"`
	TxResult string `json:"tx_result"`
}

// did asks what an agent did.
func (w *world) did(args ...string) (list []command) {
	w.t.Helper()
	var table struct {
		Columns []string
		Rows    [][]string
	}
	w.ok(json.Unmarshal([]byte(w.must(append([]string{"did", "--json", "--limit", "100000"}, args...)...)), &table))
	for _, row := range table.Rows {
		fields := map[string]string{}
		for i, c := range table.Columns {
			fields[c] = row[i]
		}
		b, err := json.Marshal(fields)
		w.ok(err)
		var c command
		w.ok(json.Unmarshal(b, &c))
		list = append(list, c)
	}
	return list
}

// pack makes a pack of everything and returns what the verifier says of it.
func (w *world) pack() (report string, err error) {
	w.t.Helper()
	w.must("log", "fsck")
	name := w.path(fmt.Sprintf("pack-%d.zip", time.Now().UnixNano()))
	day := 24 * time.Hour
	now := time.Now().UTC()
	w.packed = name
	w.must("pack", "create", "--from", now.Add(-day).Format(time.DateOnly), "--to", now.Add(day).Format(time.DateOnly), "-o", name)
	out, err := exec.CommandContext(w.t.Context(), exhibitVerify, name, "--trust", w.path("trust.json")).CombinedOutput()
	return string(out), err
}

// passes packs and verifies.
func (w *world) passes() {
	w.t.Helper()
	if report, err := w.pack(); err != nil {
		w.t.Errorf("the pack does not pass: %v\n%s", err, report)
	}
}

func (w *world) until(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// major is the server's major version.
func (w *world) major() int {
	w.t.Helper()
	major, _, _ := strings.Cut(w.db.Version, ".")
	n, err := strconv.Atoi(major)
	w.ok(err)
	return n
}

// keep returns how what is printed through the gateway differs.
func (w *world) keep(name string, direct, through []byte) string {
	w.t.Helper()
	a, b := w.path(name+".direct"), w.path(name+".gateway")
	w.ok(os.WriteFile(a, direct, 0o644))
	w.ok(os.WriteFile(b, through, 0o644))
	out, _ := exec.CommandContext(w.t.Context(), "diff", "-U3", a, b).Output() // fails when they differ
	return "through the gateway it differs:\n" + string(out[:min(len(out), 8<<10)])
}

// serverSaw reports whether the server's own log has a text.
func (w *world) serverSaw(text string) bool {
	w.t.Helper()
	b, err := os.ReadFile(w.db.Log)
	w.ok(err)
	return bytes.Contains(b, []byte(text))
}

// sqlstate is the code of a server's error.
func sqlstate(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}
