package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pgserver"
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
	sharedServer.once.Do(func() {
		sharedServer.s, sharedServer.stop, sharedServer.err = runServer()
	})
	missing(t, sharedServer.err)
	return sharedServer.s
}

// missing fails a test, or skips it at home where no server is installed.
func missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, pgserver.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func runServer() (_ *server, stop func(), err error) {
	dir, err := os.MkdirTemp("", "exhibit-postgres-")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL runs as another user
		return nil, nil, err
	}
	ctx := context.Background()
	pg, err := pgserver.Start(ctx, filepath.Join(dir, "postgres"), "fsync=off", "log_statement=none", "max_prepared_transactions=2")
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() {
		pg.Stop() //nolint:errcheck // the tests are over
		os.RemoveAll(dir)
	}
	s := &server{address: pg.Addr, password: "upstream-secret-5d1e"}
	err = pg.Exec(ctx, "postgres", "CREATE ROLE gateway SUPERUSER LOGIN PASSWORD '"+s.password+"'", "CREATE DATABASE app OWNER gateway")
	if err != nil {
		stop()
		return nil, nil, err
	}
	return s, stop, nil
}

// TestOnPostgreSQL18 runs all tests of the package again, with a newer server
// than the one that most systems have.
func TestOnPostgreSQL18(t *testing.T) {
	if testing.Short() || os.Getenv("EXHIBIT_PG") != "" {
		t.Skip("slow, and not within itself")
	}
	t.Parallel()
	_, err := pgserver.ProgramsOf("18")
	missing(t, err)
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=30m")
	again.Env = append(os.Environ(), "EXHIBIT_PG=18")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func (s *server) url(database string) string {
	return fmt.Sprintf("postgres://gateway:%s@%s/%s?sslmode=disable", s.password, s.address, database)
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

// at is the server as the gateway sees it at another address.
func (s *server) at(address string) protocol.Upstream {
	up := s.upstream()
	up.Address = address
	return up
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
	for _, path := range []string{"simple", "prepare", "extended", "execute", "fetch", "function"} {
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

func (words) Execute(u *sql.Understanding, _ func(string, sql.Env) *sql.Understanding) *sql.Understanding {
	return u
}

func (words) Inner(*sql.Prepared, sql.Env) *sql.Understanding { return allowed["execute"] }

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
	return startGatewayTo(t, s.upstream(), cfg)
}

// startGatewayTo serves cfg in front of whatever up leads to.
func startGatewayTo(t testing.TB, up protocol.Upstream, cfg postgres.Config) *gateway {
	t.Helper()
	if cfg.Understand == nil {
		cfg.Understand = func(string) postgres.Understander { return words{} }
	}
	g := &gateway{Gate: &prototest.Gate{Upstream: up, Decide: decide}, p: postgres.New(cfg)}
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
	if _, err := s.Wait(time.Minute); err != nil {
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
	host, port, err := net.SplitHostPort(g.address)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("host=%s port=%s user=agent-1 dbname=app %s", host, port, options)
	return psqlAt(t, at, []string{"PGPASSWORD=" + prototest.Token}, args...)
}

// psqlAt runs psql with nothing but what it is told.
func psqlAt(t testing.TB, at string, env []string, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is missing; install it: apt-get install postgresql-client")
	}
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"-X", "-w", "-A", "-t", at}, args...)...)
	cmd.Env = append(cmd.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// halt keeps a backend that copies from going on until the test ends.
func (s *server) halt(t *testing.T) {
	t.Helper()
	pid := s.count(t, "select pid from pg_stat_activity where query ilike 'copy%' and state = 'active'")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) }) //nolint:errcheck // it may have ended
}

// heap is the memory in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
