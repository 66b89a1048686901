package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// server is a PostgreSQL of the test's own.
type server struct {
	address  string
	password string
}

// sharedServer is started once for all tests of the package.
var sharedServer struct {
	once sync.Once
	s    *server
	err  error
	stop func()
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == grammar.Argument {
		grammar.Main()
	}
	code := m.Run()
	if sharedServer.stop != nil {
		sharedServer.stop()
	}
	os.Exit(code)
}

// startServer returns a running PostgreSQL with the database "app" and the
// role "gateway", whose password only the gateway knows.
func startServer(t testing.TB) *server {
	t.Helper()
	bin := findServer(t)
	sharedServer.once.Do(func() {
		sharedServer.s, sharedServer.stop, sharedServer.err = runServer(bin)
	})
	if sharedServer.err != nil {
		t.Fatal(sharedServer.err)
	}
	return sharedServer.s
}

// findServer returns the folder of PostgreSQL's programs.
func findServer(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err == nil && len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("PostgreSQL is missing; install it: apt-get install postgresql")
	}
	t.Skip("PostgreSQL is missing; install it: apt-get install postgresql")
	return ""
}

func runServer(bin string) (*server, func(), error) {
	dir, err := os.MkdirTemp("", "exhibit-postgres-")
	if err != nil {
		return nil, nil, err
	}
	cred, err := serverUser(dir)
	if err != nil {
		return nil, nil, err
	}
	data := filepath.Join(dir, "data")
	pwfile := filepath.Join(dir, "password")
	s := &server{password: "upstream-secret-5d1e"}
	if err := os.WriteFile(pwfile, []byte(s.password), 0o644); err != nil {
		return nil, nil, err
	}
	initdb := exec.CommandContext(context.Background(), filepath.Join(bin, "initdb"), "-D", data, "-U", "gateway", "--pwfile", pwfile,
		"-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync")
	initdb.SysProcAttr = cred
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	s.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var log bytes.Buffer
	run := exec.CommandContext(context.Background(), filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port), "-h", "127.0.0.1",
		"-k", dir, "-c", "fsync=off", "-c", "max_connections=100", "-c", "max_prepared_transactions=2")
	run.SysProcAttr, run.Dir, run.Stderr = cred, dir, &log
	if err := run.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		run.Process.Signal(syscall.SIGINT) //nolint:errcheck // the wait tells
		run.Wait()                         //nolint:errcheck // it was told to go
		os.RemoveAll(dir)
	}
	if err := s.setUp(); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%w: %s", err, log.String())
	}
	return s, stop, nil
}

// serverUser lets the server run as somebody else when the test is root's,
// which PostgreSQL refuses.
func serverUser(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		Pdeathsig:  syscall.SIGKILL,
	}, os.Chmod(dir, 0o755)
}

func freePort() (int, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *server) url(database string) string {
	return fmt.Sprintf("postgres://gateway:%s@%s/%s?sslmode=disable", s.password, s.address, database)
}

// setUp waits for the server and makes its database.
func (s *server) setUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.url("postgres"))
		if err == nil {
			_, err = c.Exec(ctx, "CREATE DATABASE app")
			c.Close(ctx)
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sql runs statements on the server, not through the gateway.
func (s *server) sql(t testing.TB, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.url("app"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	for _, text := range statements {
		if _, err := c.Exec(t.Context(), text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

// count returns the number that a query on the server yields.
func (s *server) count(t testing.TB, query string) (n int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.url("app"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	if err := c.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// numbers returns those that a query on the server yields.
func (s *server) numbers(t testing.TB, query string) []int {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.url("app"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	rows, err := c.Query(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	n, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// upstream is the server as the gateway sees it.
func (s *server) upstream() protocol.Upstream {
	return protocol.Upstream{Address: s.address, Database: "app", User: "gateway", Password: s.password}
}

// words understands a text by its words: what mentions "forbidden" may not be
// done.
type words struct{}

var (
	allowed   = shapes("postgres:select")
	forbidden = shapes("postgres:forbidden")
)

func shapes(action string) map[string]*sql.Understanding {
	m := make(map[string]*sql.Understanding)
	for _, path := range []string{"simple", "prepare", "extended", "execute", "fetch"} {
		m[path] = &sql.Understanding{Shape: &evidence.Shape{
			Path: path, Parse: evidence.ParseFull, Verb: evidence.VerbRead,
			Checks: []evidence.Check{{Action: action}},
		}}
	}
	return m
}

func (words) Understand(_ context.Context, text, path string, _ sql.Env) *sql.Understanding {
	if strings.Contains(text, "forbidden") {
		return forbidden[path]
	}
	return allowed[path]
}

func (words) Execute(u *sql.Understanding, _ func(string) *sql.Understanding) *sql.Understanding {
	return u
}

// decide refuses what words calls forbidden.
func decide(c *evidence.Command) evidence.Decision {
	for _, check := range c.Checks {
		if check.Action == "postgres:forbidden" {
			return evidence.Decision{Effect: evidence.Deny, Rules: []string{"no-forbidden-things"}, Reason: "that is forbidden"}
		}
	}
	return evidence.Decision{Effect: evidence.Allow}
}

// gateway is a Protocol on a port of its own.
type gateway struct {
	*prototest.Gate
	p       *postgres.Protocol
	address string
}

// startGateway serves cfg in front of s until the test ends.
func startGateway(t testing.TB, s *server, cfg postgres.Config) *gateway {
	t.Helper()
	if cfg.Understand == nil {
		cfg.Understand = func(string) postgres.Understander { return words{} }
	}
	g := &gateway{Gate: &prototest.Gate{Upstream: s.upstream(), Decide: decide}, p: postgres.New(cfg)}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if err := g.p.Serve(ctx, c, g.Gate); err != nil {
					t.Logf("serve: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
		for _, s := range g.Sessions() {
			for _, f := range s.Faults() {
				t.Errorf("session %s: %s", s.ID(), f)
			}
		}
	})
	return g
}

func (g *gateway) url() string {
	return fmt.Sprintf("postgres://agent-1:%s@%s/app?sslmode=disable", prototest.Token, g.address)
}

// connect connects as an agent, with pgx.
func (g *gateway) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), g.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// last returns the newest session, once it has ended.
func (g *gateway) last(t testing.TB) *prototest.Session {
	t.Helper()
	all := g.Sessions()
	if len(all) == 0 {
		t.Fatal("no session")
	}
	s := all[len(all)-1]
	if _, err := s.Wait(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return s
}

// psql runs psql through the gateway and returns what it prints.
func (g *gateway) psql(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return g.psqlOf(t, "sslmode=disable", args...)
}

// psqlOf runs psql with more connection options of libpq's.
func (g *gateway) psqlOf(t testing.TB, options string, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is missing; install it: apt-get install postgresql-client")
	}
	host, port, err := net.SplitHostPort(g.address)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("host=%s port=%s user=agent-1 dbname=app %s", host, port, options)
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"-X", "-A", "-t", at}, args...)...)
	cmd.Env = append(cmd.Environ(), "PGPASSWORD="+prototest.Token)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
