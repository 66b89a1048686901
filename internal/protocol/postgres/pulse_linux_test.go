package postgres_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// vanish makes the system behind a connection's end take nothing of it any
// more, acknowledgements included, as if its cable had been cut: a filter drops
// every segment.
func vanish(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}

func TestAnAgentWhoseMachineVanishes(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Silence: 2 * time.Second, Drain: time.Second}})
	f := dialRaw(t, g)
	f.query("select pg_sleep(1), 'an answer that nobody acknowledges'").send()
	f.query("select pg_sleep(60)").send()
	vanish(t, f.conn)
	// Its session ends, rather than hold its place and its locks for a quarter
	// of an hour.
	x := g.last(t).Exchanges()
	if x[0].Outcome().Class != evidence.OK || x[1].Outcome().Class != evidence.InDoubt {
		t.Errorf("outcomes are %+v, %+v", x[0].Outcome(), x[1].Outcome())
	}
}

// wire is a relay before a server that a test can do things to.
type wire struct {
	address string
	conns   chan net.Conn // the gateway's side of each connection
}

func startWire(t *testing.T, s *server) *wire {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{address: l.Addr().String(), conns: make(chan net.Conn, 1000)}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			w.conns <- in
			out, err := new(net.Dialer).DialContext(context.Background(), "tcp", s.address)
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
	return w
}

func TestAServerWhoseMachineVanishes(t *testing.T) {
	s := startServer(t)
	w := startWire(t, s)
	g := startGatewayTo(t, s.at(w.address), postgres.Config{Limits: postgres.Limits{Silence: 2 * time.Second}})
	f := dialRaw(t, g)
	vanish(t, <-w.conns)
	f.query("select 1").send()
	f.expect(".")
	session := g.last(t)
	if end, _ := session.Wait(0); end.Reason != "upstream closed" {
		t.Errorf("it ended because of %q", end.Reason)
	}
	if o := session.Exchanges()[0].Outcome(); o.Class != evidence.InDoubt {
		t.Errorf("outcome is %+v", o)
	}
}

// A peer that is there and only doesn't read is none that vanished.
func TestAnAgentThatPausesIsNotLost(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Silence: 2 * time.Second, Drain: time.Second}})
	f := dialRaw(t, g)
	f.query("select repeat('x', 1000) from generate_series(1, 20000)").send()
	time.Sleep(6 * time.Second) // three times as long as a silence may last
	f.expectUntil('Z')
	f.terminate()
	if o := g.last(t).Exchanges()[0].Outcome(); o.Class != evidence.OK {
		t.Errorf("outcome is %+v", o)
	}
}

func TestAFloodOfCancelRequestsIsBounded(t *testing.T) {
	s := startServer(t)
	w := startWire(t, s)
	g := startGatewayTo(t, s.at(w.address), postgres.Config{})
	c := g.connect(t)
	<-w.conns
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "select pg_sleep(60)")
		done <- err
	}()
	for s.count(t, "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	const flood = 200
	sent := make(chan struct{}, flood)
	for range flood {
		go func() {
			_ = c.PgConn().CancelRequest(t.Context()) // which of them get through is chance
			sent <- struct{}{}
		}()
	}
	for range flood {
		<-sent
	}
	if err := <-done; code(err) != "57014" {
		t.Errorf("the command: %v", err)
	}
	c.Close(t.Context())
	cancels := 0
	for _, n := range g.last(t).Notes() {
		if n.Kind == "cancel" {
			cancels++
		}
	}
	if n := len(w.conns); n != cancels || n > flood/2 {
		t.Errorf("%d cancel requests became %d connections and %d notes", flood, n, cancels)
	}
}

func TestACancelRequestOfNobodysCostsNothing(t *testing.T) {
	s := startServer(t)
	w := startWire(t, s)
	g := startGatewayTo(t, s.at(w.address), postgres.Config{})
	c := g.connect(t)
	<-w.conns
	key := c.PgConn().SecretKey()
	pid := string([]byte{byte(c.PgConn().PID() >> 24), byte(c.PgConn().PID() >> 16), byte(c.PgConn().PID() >> 8), byte(c.PgConn().PID())})
	wrong := string([]byte{key[0] ^ 1, key[1], key[2], key[3]})
	for _, request := range []string{"", "1", pid, pid + string(key[:3]), pid + wrong, pid + string(key) + "\x00", pid + string(make([]byte, 256)), "\x00\x00\x00\x01" + string(key)} {
		if answer := g.hostile(t, startupPacket(80877102, request)); len(answer) > 0 {
			t.Errorf("%q was answered with %q", request, answer)
		}
	}
	if len(w.conns) != 0 {
		t.Errorf("%d connections to the server", len(w.conns))
	}
	c.Close(t.Context())
	for _, n := range g.last(t).Notes() {
		if n.Kind == "cancel" {
			t.Errorf("on record: %+v", n)
		}
	}
}

// Peers that don't read hold little memory, and no session past its end.
func TestSlowReaders(t *testing.T) {
	s := startServer(t)
	s.sql(t, "create table if not exists slow_reader (t text)")
	leg, client := testTLS(t)
	endless := "select repeat('x', 1000) from generate_series(1, 1000000000)"
	for name, c := range map[string]struct {
		cfg  postgres.Config
		slow func(t *testing.T, g *gateway)
	}{
		"an agent": {postgres.Config{}, func(t *testing.T, g *gateway) {
			dialRaw(t, g).query(endless).send()
		}},
		"an agent over TLS": {postgres.Config{TLS: leg}, func(t *testing.T, g *gateway) {
			conn, err := g.connectTLS(client, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.PgConn().SyncConn(t.Context()); err != nil {
				t.Fatal(err)
			}
			h, err := conn.PgConn().Hijack()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.Conn.Close() })
			(&raw{t: t, conn: h.Conn}).query(endless).send()
		}},
		"a server": {postgres.Config{}, func(t *testing.T, g *gateway) {
			f := dialRaw(t, g)
			f.query("copy slow_reader from stdin").send()
			f.expect("G")
			s.halt(t)
			f.data(string(make([]byte, 60_000)))
			if err := f.conn.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for { // until nobody takes more
				if _, err := f.conn.Write(f.out); err != nil {
					break
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGateway(t, s, c.cfg)
			before := heap()
			c.slow(t, g)
			time.Sleep(time.Second)
			if grown := heap() - before; grown > 16<<20 {
				t.Errorf("%d bytes more are held", grown)
			}
			start := time.Now()
			g.Sessions()[0].Kill(&protocol.Refusal{Kind: protocol.ErrDenied, Reason: "the grant was removed"})
			g.last(t)
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("the session's end took %v", took)
			}
		})
	}
}

func TestALargeFrameThatStandsStill(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Frame: time.Second, Message: 1 << 20, Memory: 1 << 20}})
	stalled := dialRaw(t, g)
	stalled.bytes([]byte("Q\x00\x0f\xff\x00select ")...).send()
	time.Sleep(200 * time.Millisecond)
	// Another's waits for the memory, and not for ever.
	f := dialRaw(t, g)
	f.query("select '" + strings.Repeat("x", 900_000) + "'").send()
	f.expectUntil('Z')
	f.terminate()
	stalled.expect("E .")
	g.last(t)
}
