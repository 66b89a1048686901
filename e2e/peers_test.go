package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// grown measures the gateway while something goes on.
type grown struct {
	w      *world
	before map[string]float64
}

func (w *world) measure() grown { return grown{w, w.metrics(w.t.Context())} }

// within logs by how much the gateway has grown, and expects no more than some
// bytes.
func (g grown) within(what string, bytes float64) {
	g.w.t.Helper()
	now := g.w.metrics(g.w.t.Context())
	for _, m := range measures {
		g.w.t.Logf("%s: %-30s %.0f, before %.0f", what, m.name, now[m.name], g.before[m.name])
	}
	const rss = "process_resident_memory_bytes"
	if now[rss] > g.before[rss]+bytes {
		g.w.t.Errorf("%s: %s grew by %.0f, want at most %.0f", what, rss, now[rss]-g.before[rss], bytes)
	}
}

// crowd opens connections at once, sends each the same and keeps all of them.
func crowd(ctx context.Context, address string, n int, first string) []net.Conn {
	var mu sync.Mutex
	var conns []net.Conn
	var all sync.WaitGroup
	left := atomic.Int64{}
	left.Store(int64(n))
	for range 50 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
				if err != nil {
					continue
				}
				_, _ = io.WriteString(c, first) // it may be closed already
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return conns
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// TestFiveThousandConnections has 5,000 strangers connect at once, to say
// nothing, or half of a startup, or one byte at a time. Whoever is in stays in,
// who has a credential gets in, and memory is bounded.
func TestFiveThousandConnections(t *testing.T) {
	s := newServices(t)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 12_000 {
		t.Skipf("5,000 connections take 12,000 files; the limit is %d", limit.Cur)
	}
	token := s.token("bot", "--ticket", "T-1")
	inside := s.connect()
	serves := func(what string) {
		t.Helper()
		if _, err := inside.Exec(t.Context(), "select 1"); err != nil {
			t.Errorf("%s: who was in: %v", what, err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
		defer stop()
		c, err := pgx.Connect(ctx, s.url("bot", "sslmode=disable", "--ticket", "T-1"))
		if err != nil {
			t.Errorf("%s: who wants in: %v", what, err)
			return
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
		if status, body := s.curl(token, "/site/echo/7"); status != "200" {
			t.Errorf("%s: a request: %s %s", what, status, body)
		}
	}
	strangers := 5000
	if testing.Short() {
		strangers = 1000
	}
	serves("before")
	g := s.measure()
	for _, c := range []struct{ name, address, first string }{
		{"silent, to PostgreSQL", s.listen, ""},
		{"half a startup, to PostgreSQL", s.listen, "\x00\x00\x00\x40\x00\x03\x00\x00user\x00bo"},
		{"half a head, to HTTP", s.web, "GET /site/echo/1 HTTP/1.1\r\nHost: x\r\nX-A: "},
	} {
		conns := crowd(t.Context(), c.address, strangers, c.first)
		if len(conns) < strangers*9/10 {
			t.Errorf("%s: only %d could connect", c.name, len(conns))
		}
		g.within(c.name, 96<<20)
		serves(c.name)
		closeAll(conns)
	}

	// The slow ones send a byte now and then, and never come to an end.
	for name, address := range map[string]string{"PostgreSQL": s.listen, "HTTP": s.web} {
		conns := crowd(t.Context(), address, 300, "")
		text := "GET /site/echo/1 HTTP/1.1\r\nX-Slow: "
		if name == "PostgreSQL" {
			text = "\x00\x00\x10\x00\x00\x03\x00\x00user\x00"
		}
		text += strings.Repeat("a", 40)
		for i := range text {
			for _, c := range conns {
				_, _ = c.Write([]byte{text[i]})
			}
			time.Sleep(30 * time.Millisecond)
		}
		g.within("a byte at a time, to "+name, 96<<20)
		serves("a byte at a time, to " + name)
		closeAll(conns)
	}
	s.ok(inside.Close(t.Context()))
	s.until(60*time.Second, "nobody is left", func() bool {
		return s.metrics(t.Context())["go_goroutines"] < g.before["go_goroutines"]+20
	})
	s.passes()
}

// relay stands between the gateway and the server, and breaks.
type relay struct {
	net.Listener
	to      string
	mu      sync.Mutex
	conns   []net.Conn
	swallow atomic.Bool  // what comes from the server
	cutAt   atomic.Int64 // bytes of the server's until all is cut; 0 is never
	away    atomic.Bool
}

func (w *world) throughRelay() *relay {
	w.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(w.t.Context(), "tcp", "127.0.0.1:0")
	w.ok(err)
	r := &relay{Listener: l, to: w.db.Addr}
	w.t.Cleanup(func() { _ = l.Close(); r.cut() })
	go r.run()
	w.stop(syscall.SIGTERM)
	w.edit(func(c string) string { return strings.ReplaceAll(c, w.db.Addr, l.Addr().String()) })
	w.start()
	return r
}

func (r *relay) run() {
	for {
		agent, err := r.Accept()
		if err != nil {
			return
		}
		if r.away.Load() {
			_ = agent.Close()
			continue
		}
		server, err := net.Dial("tcp", r.to) //nolint:noctx // ends with the relay
		if err != nil {
			_ = agent.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, agent, server)
		r.mu.Unlock()
		go func() { _, _ = io.Copy(server, agent); _ = server.Close() }()
		go r.back(agent, server)
	}
}

func (r *relay) back(agent, server net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := server.Read(b)
		if err != nil {
			_ = agent.Close()
			return
		}
		if r.swallow.Load() {
			continue
		}
		if at := r.cutAt.Load(); at > 0 && r.cutAt.Add(int64(-n)) <= 0 {
			_, _ = agent.Write(b[:min(int64(n), at)])
			r.cutAt.Store(0)
			r.cut()
			return
		}
		if _, err := agent.Write(b[:n]); err != nil {
			return
		}
	}
}

// cut ends all that goes through, without a word.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	closeAll(r.conns)
	r.conns = nil
}

// TestAServerThatBreaks loses the server in the middle of a statement and of a
// result, by a break and by silence, and away for good and back. What has no
// answer is in doubt and never done, the agent learns, nobody else is harmed,
// and once the server is back all goes on.
func TestAServerThatBreaks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.throughRelay()
	g := w.measure()
	last := func() command {
		t.Helper()
		all := w.did("--agent", "bot")
		return all[len(all)-1]
	}
	ended := func(what, want string) {
		t.Helper()
		w.until(60*time.Second, what+": the command has an outcome", func() bool { o := last().Outcome; return o != "" && o != "open" })
		if got := last(); got.Outcome != want {
			t.Errorf("%s: the outcome is %q (%s), want %q", what, got.Outcome, got.Text, want)
		}
	}
	run := func(c *pgx.Conn, ctx context.Context, text string) error {
		_, err := c.Exec(ctx, text, pgx.QueryExecModeSimpleProtocol)
		return err
	}

	c := w.connect()
	failed := make(chan error, 1)
	go func() { failed <- run(c, t.Context(), "insert into t values (900, 'x') returning pg_sleep(30)") }()
	w.until(60*time.Second, "the statement runs", func() bool { return w.serverSaw("values (900") })
	r.cut()
	if err := <-failed; err == nil {
		t.Error("cut in mid-statement: the agent was told of success")
	}
	ended("cut in mid-statement", "in_doubt")

	c = w.connect()
	r.cutAt.Store(64 << 10)
	if err := run(c, t.Context(), "select i, repeat('x', 1000) from generate_series(1, 5000) i"); err == nil {
		t.Error("cut in mid-result: the agent was told of success")
	}
	ended("cut in mid-result", "in_doubt")

	c = w.connect()
	r.swallow.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	if err := run(c, ctx, "insert into t values (901, 'x')"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("swallowed: %v", err)
	}
	r.swallow.Store(false)
	ended("swallowed, and the agent has gone", "in_doubt")
	r.cut()

	r.away.Store(true)
	if _, err := pgx.Connect(t.Context(), w.url("bot", "sslmode=disable", "--ticket", "T-1")); err == nil {
		t.Error("let in without a server")
	}
	r.away.Store(false)
	if _, err := w.connect().Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("back again: %v", err)
	}
	g.within("a server that breaks", 64<<20)
	w.passes()
}
