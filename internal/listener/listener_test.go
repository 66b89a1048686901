package listener

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// echo answers each line with itself; some lines mean something.
type echo struct{}

func (echo) Name() string { return "echo" }

func (echo) Serve(ctx context.Context, agent net.Conn, g protocol.Gate) error {
	stop := context.AfterFunc(ctx, func() { agent.Close() })
	defer stop()
	lines := bufio.NewScanner(agent)
	for lines.Scan() {
		switch lines.Text() {
		case "open":
			if _, err := g.Open(ctx, protocol.Credential{}, protocol.Target{}); err != nil {
				return err
			}
		case "panic":
			panic("quoting a secret: hunter2")
		}
		if _, err := fmt.Fprintln(agent, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

type gate struct{ err error }

func (gate) Join(context.Context, protocol.Credential, protocol.Session) error { return nil }

func (g gate) Open(context.Context, protocol.Credential, protocol.Target) (protocol.Session, error) {
	return nil, g.err
}

// start runs a listener until the test ends, or stop is called; stop returns
// what Run did.
func start(t *testing.T, c Config, p protocol.Protocol, g protocol.Gate) (l *Listener, stop func() error) {
	t.Helper()
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Grace == 0 {
		c.Grace = 10 * time.Millisecond
	}
	l, err := Listen(c, p, g)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ran })
	t.Cleanup(func() { _ = stop() }) // for the tests that don't look at it
	return l, stop
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	return dialFrom(t, l, nil)
}

func dialFrom(t *testing.T, l *Listener, from net.Addr) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: from}
	conn, err := d.DialContext(t.Context(), l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// say sends a line and returns the answer.
func say(conn net.Conn, line string) (string, error) {
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func wantAnswer(t *testing.T, conn net.Conn) {
	t.Helper()
	if got, err := say(conn, "hello"); err != nil || got != "hello" {
		t.Errorf("answer: %q, %v", got, err)
	}
}

func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	b, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 {
		t.Errorf("want a closed connection, got %q, %v", b, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestPlainListeningNeedsLoopback(t *testing.T) {
	for address, loopback := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		"/run/x.sock": true, "./x.sock": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "example.com:1": false, "localhost.evil:1": false,
	} {
		err := CheckAddress(address, false)
		if (err == nil) != loopback {
			t.Errorf("%s without TLS: %v", address, err)
		}
		if err != nil && !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s: no hint in %v", address, err)
		}
		if err := CheckAddress(address, true); err != nil {
			t.Errorf("%s with TLS: %v", address, err)
		}
	}
	for _, address := range []string{"", "127.0.0.1", "1"} {
		if CheckAddress(address, true) == nil {
			t.Errorf("%q passes for an address", address)
		}
	}
	if _, err := Listen(Config{Address: "0.0.0.0:0"}, echo{}, gate{}); err == nil {
		t.Error("Listen on all addresses without TLS succeeded")
	}
}

func TestLimits(t *testing.T) {
	refuse := func(_ context.Context, conn net.Conn, r *protocol.Refusal) {
		if errors.Is(r, protocol.ErrTooMany) {
			fmt.Fprintln(conn, r.Reason)
		}
	}
	elsewhere := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	for _, c := range []struct {
		name     string
		c        Config
		want     string
		shared   bool // also for other sources
		passes   bool // once the first connection has ended
		atOnceOK int
	}{
		{"all", Config{MaxConns: 2, Refuse: refuse}, "too many connections", true, true, 2},
		{"per source", Config{MaxPerSource: 2, Refuse: refuse}, "too many connections from this address", false, true, 2},
		{"rate", Config{SourceRate: 2, Refuse: refuse}, "too many new connections from this address", false, false, 2},
		{"without a word", Config{MaxConns: 2}, "", true, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, _ := start(t, c.c, echo{}, gate{})
			var first net.Conn
			for range c.atOnceOK {
				first = dial(t, l)
				wantAnswer(t, first)
			}
			got, err := io.ReadAll(dial(t, l))
			if strings.TrimSpace(string(got)) != c.want || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("one too many is told %q (%v), want %q", got, err, c.want)
			}
			if s := l.Stats(); s.Accepted != 3 || s.Refused != 1 || s.Active != 2 {
				t.Errorf("stats %+v", s)
			}
			if c.shared {
				wantRefused := dialFrom(t, l, elsewhere)
				if b, _ := io.ReadAll(wantRefused); strings.TrimSpace(string(b)) != c.want {
					t.Errorf("from elsewhere: %q, want %q", b, c.want)
				}
			} else {
				wantAnswer(t, dialFrom(t, l, elsewhere))
			}
			if c.passes {
				first.Close()
				eventually(t, "the place of a connection that ended is not given to another", func() bool {
					got, err := say(dial(t, l), "hello")
					return err == nil && got == "hello"
				})
			}
		})
	}
}

func TestConnectionsWithoutASessionMakeRoom(t *testing.T) {
	l, _ := start(t, Config{MaxPending: 4}, echo{}, gate{})
	elsewhere := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	session := dialFrom(t, l, elsewhere)
	if got, err := say(session, "open"); err != nil || got != "open" {
		t.Fatalf("%q, %v", got, err)
	}
	one := dial(t, l)
	wantAnswer(t, one)
	var flood []net.Conn
	for range 20 {
		flood = append(flood, dialFrom(t, l, elsewhere))
	}
	eventually(t, "those that wait in vain don't make room", func() bool { return l.Stats().Active == 1+4 })
	another := dial(t, l)
	wantAnswer(t, another)
	// Whoever isn't of the flood stays, and so does who has a session.
	wantAnswer(t, one)
	wantAnswer(t, session)
	closed := 0
	for _, conn := range flood {
		if _, err := say(conn, "hello"); err != nil {
			closed++
		}
	}
	if s := l.Stats(); closed != 18 || s.Refused != 18 || s.Accepted != 23 {
		t.Errorf("%d were closed, stats %+v", closed, s)
	}
}

func TestSourceOfIPv6IsItsNetwork(t *testing.T) {
	a := source(&net.TCPAddr{IP: net.ParseIP("2001:db8::1")})
	b := source(&net.TCPAddr{IP: net.ParseIP("2001:db8::ffff:2"), Zone: "eth0"})
	c := source(&net.TCPAddr{IP: net.ParseIP("2001:db8:0:1::1")})
	d := source(&net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1")})
	e := source(&net.TCPAddr{IP: net.ParseIP("10.0.0.1")})
	if a != b || a == c || d != e || d.Bits() != 32 {
		t.Errorf("%v %v %v %v %v", a, b, c, d, e)
	}
}

func TestPanicStaysInItsConnection(t *testing.T) {
	var log lockedBuffer
	l, stop := start(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, echo{}, gate{})
	other := dial(t, l)
	wantAnswer(t, other)
	conn := dial(t, l)
	fmt.Fprintln(conn, "panic")
	wantClosed(t, conn)
	wantAnswer(t, other)
	if s := l.Stats(); s.Panicked != 1 {
		t.Errorf("stats %+v", s)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "echo.Serve") || strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log should name the place and not the words:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSessionMustOpenInTime(t *testing.T) {
	c := Config{Handshake: 100 * time.Millisecond}
	l, _ := start(t, c, echo{}, gate{})
	opened := dial(t, l)
	if _, err := say(opened, "open"); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, dial(t, l))
	time.Sleep(c.Handshake)
	wantAnswer(t, opened)

	l, _ = start(t, c, echo{}, gate{err: errors.New("no")})
	refused := dial(t, l)
	fmt.Fprintln(refused, "open")
	wantClosed(t, refused)
}

func TestStopWaitsAndThenEnds(t *testing.T) {
	l, stop := start(t, Config{Grace: 200 * time.Millisecond}, echo{}, gate{})
	stays, leaves := dial(t, l), dial(t, l)
	wantAnswer(t, stays)
	wantAnswer(t, leaves)
	stopped := make(chan error)
	began := time.Now()
	go func() { stopped <- stop() }()
	eventually(t, "still accepting", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	wantAnswer(t, leaves)
	leaves.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("stopped after %v, within the grace period, with a connection open", took)
	}
	wantClosed(t, stays)
	if s := l.Stats(); s.Active != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestStopWithoutConnectionsIsAtOnce(t *testing.T) {
	_, stop := start(t, Config{Grace: time.Hour}, echo{}, gate{})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTLSFirst(t *testing.T) {
	cert, pool := certificate(t)
	l, _ := start(t, Config{Handshake: 500 * time.Millisecond, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, echo{}, gate{})
	conn := tls.Client(dial(t, l), &tls.Config{RootCAs: pool, ServerName: "gateway.test"})
	wantAnswer(t, conn)
	wantClosed(t, dial(t, l)) // says nothing
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"gateway.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestUnixSocket(t *testing.T) {
	t.Chdir(t.TempDir()) // whose path may be too long for a socket
	const path = "./s"
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, stop := start(t, Config{Address: path, Mode: 0o600}, echo{}, gate{})
	wantAnswer(t, dial(t, l))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Listen(Config{Address: path}, echo{}, gate{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v, want EADDRINUSE", err)
	}
	wantAnswer(t, dial(t, l))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Address: path}, echo{}, gate{}); err == nil {
		t.Error("a file was taken for a socket")
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}
