// Package listener brings agents' connections in: it accepts them within limits
// and hands each to a protocol, with the gate through which that opens sessions.
// What goes on in a connection stays in it, a panic too.
package listener

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Config says where and how to listen. Zero values mean the defaults.
type Config struct {
	Name    string      // for the log
	Address string      // host:port, or the path of a unix socket
	Mode    fs.FileMode // of a unix socket; 0660

	// TLS, when set, begins every connection with a handshake. A protocol that
	// negotiates TLS by itself gets plain connections instead, and NegotiatesTLS
	// says that it lets nobody in without, except on loopback and unix sockets.
	TLS           *tls.Config
	NegotiatesTLS bool

	MaxConns     int           // open at the same time; 1024
	MaxPending   int           // of those, without a session; one more takes the place of another; 256
	MaxPerSource int           // open from one address (IPv6: /64); no limit of its own
	SourceRate   int           // new within a second from one address (IPv6: /64); no limit
	Handshake    time.Duration // until a session must be open; 15 s
	Grace        time.Duration // for connections to end by themselves when Run is to end; 10 s

	// Refuse tells a peer in its protocol's words that it's turned away, and
	// returns by the connection's deadline. The listener closes the connection.
	Refuse func(context.Context, net.Conn, *protocol.Refusal)

	Log *slog.Logger // slog.Default
}

// Stats counts connections.
type Stats struct {
	Accepted uint64 // taken from the system, those refused included
	Refused  uint64 // over a limit, or had to make room
	Panicked uint64
	Active   int
}

// Listener accepts connections for one protocol.
type Listener struct {
	c        Config
	log      *slog.Logger
	listener net.Listener
	protocol protocol.Protocol
	gate     protocol.Gate

	accepted, refused, panicked atomic.Uint64

	mu       sync.Mutex
	conns    map[net.Conn]netip.Prefix // being served, by where from
	pending  map[net.Conn]bool         // of those, the ones without a session
	sources  map[netip.Prefix]int      // how many of them
	second   time.Time                 // when recent began
	recent   map[netip.Prefix]int      // accepted since
	warned   bool                      // of a refusal since
	refusing int
	serving  sync.WaitGroup
}

const (
	refuseWithin = 3 * time.Second
	maxRefusing  = 64              // beyond it, a peer is turned away without a word
	endWithin    = 5 * time.Second // for a protocol to return once its context is done, and again once its connection is closed
)

// Listen begins to listen. Connections wait until Run.
func Listen(c Config, p protocol.Protocol, g protocol.Gate) (*Listener, error) {
	c.Name = cmp.Or(c.Name, c.Address)
	c.Mode = cmp.Or(c.Mode, 0o660)
	c.MaxConns = cmp.Or(c.MaxConns, 1024)
	c.MaxPending = cmp.Or(c.MaxPending, 256)
	c.Handshake = cmp.Or(c.Handshake, 15*time.Second)
	c.Grace = cmp.Or(c.Grace, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	secure := c.TLS != nil || c.NegotiatesTLS
	if err := CheckAddress(c.Address, secure); err != nil {
		return nil, err
	}
	l, err := listen(c.Address, c.Mode)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.Address, err)
	}
	// A name may lead elsewhere than it says.
	if err := CheckAddress(l.Addr().String(), secure); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Listener{
		c: c, log: c.Log.With("listener", c.Name, "protocol", p.Name()),
		listener: l, protocol: p, gate: g,
		conns:   map[net.Conn]netip.Prefix{},
		pending: map[net.Conn]bool{},
		sources: map[netip.Prefix]int{},
		recent:  map[netip.Prefix]int{},
	}, nil
}

// CheckAddress refuses an address from which credentials would cross a network
// in the clear: only loopback and unix sockets may go without TLS.
func CheckAddress(address string, secure bool) error {
	if isPath(address) {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listening on %q: want host:port or the path of a unix socket: %w", address, err)
	}
	ip, err := netip.ParseAddr(host)
	if secure || host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	return fmt.Errorf("listening on %s without TLS: tokens and data would cross the network in the clear (hint: configure TLS for this listener, or listen on 127.0.0.1 or a unix socket)", address)
}

func isPath(address string) bool { return strings.ContainsRune(address, '/') }

func listen(address string, mode fs.FileMode) (net.Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4,
	}}
	if !isPath(address) {
		return config.Listen(context.Background(), "tcp", address)
	}
	if err := removeStale(address); err != nil {
		return nil, err
	}
	l, err := config.Listen(context.Background(), "unix", address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket of a process that did not end in good order.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket (hint: choose another path, or remove it)", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).Dial("unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err == nil {
		err = errors.Join(fmt.Errorf("%s: %w", path, syscall.EADDRINUSE), conn.Close())
	}
	return err
}

// Name is the listener's name, for the log and for metrics.
func (l *Listener) Name() string { return l.c.Name }

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Close stops listening. Run does so by itself.
func (l *Listener) Close() error { return l.listener.Close() }

// Stats counts connections so far.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		Accepted: l.accepted.Load(), Refused: l.refused.Load(), Panicked: l.panicked.Load(),
		Active: len(l.conns),
	}
}

// Run serves until ctx is done. Then it accepts no more, gives connections Grace
// to end by themselves, and ends those that don't. Its error is that it couldn't
// go on, or couldn't end them.
func (l *Listener) Run(ctx context.Context) error {
	// Connections outlive ctx by the grace period.
	conns, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	unblock := context.AfterFunc(ctx, func() {
		if err := l.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			l.log.Error("closing the listener", "error", err)
		}
	})
	defer unblock()
	err := l.accept(conns)
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, l.drain(end))
}

// accept returns when the listener is closed. Whatever else goes wrong (no file
// descriptors, most likely) may pass.
func (l *Listener) accept(ctx context.Context) error {
	const least, most = 5 * time.Millisecond, time.Second
	pause := least
	for {
		conn, err := l.listener.Accept()
		switch {
		case err == nil:
			pause = least
			l.admit(ctx, conn)
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting connections: %w", err)
		default:
			l.log.Error("accepting connections", "error", err, "pause", pause)
			time.Sleep(pause)
			pause = min(2*pause, most)
		}
	}
}

func (l *Listener) admit(ctx context.Context, conn net.Conn) {
	l.accepted.Add(1)
	from := source(conn.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	why := l.over(from)
	switch {
	case why == "":
		if len(l.pending) >= l.c.MaxPending {
			l.makeRoom()
		}
		l.conns[conn], l.pending[conn] = from, true
		l.sources[from]++
		l.serving.Go(func() {
			defer l.leave(conn)
			l.contain(conn, func() { l.serve(ctx, conn) })
		})
		return
	case l.c.Refuse != nil && l.refusing < maxRefusing:
		l.refusing++
		l.serving.Go(func() {
			defer l.refusalDone()
			l.contain(conn, func() { l.refuse(ctx, conn, why) })
		})
	default:
		l.close(conn)
	}
	l.refusal(conn, why)
}

// makeRoom closes a connection that has no session yet, at random among those
// of the source with the most: whoever keeps many waiting keeps nobody else out.
func (l *Listener) makeRoom() {
	var one net.Conn
	of := map[netip.Prefix]int{}
	for conn := range l.pending { // in no order
		from := l.conns[conn]
		if of[from]++; one == nil || of[from] > of[l.conns[one]] {
			one = conn
		}
	}
	delete(l.pending, one)
	l.close(one)
	l.refusal(one, "too many connections without a session")
}

// refusal counts a connection that was turned away.
func (l *Listener) refusal(conn net.Conn, why string) {
	refused := l.refused.Add(1)
	if !l.warned { // once a second: a flood of connections must not become one of lines
		l.warned = true
		l.log.Warn("connection refused", "client", conn.RemoteAddr(), "reason", why, "refused so far", refused)
	}
}

// source is what limits count as one: an address, or the network that one IPv6
// host usually has to itself. All of a unix socket is one source without limits.
func source(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// over says which limit one more connection from there would exceed.
func (l *Listener) over(from netip.Prefix) string {
	if now := time.Now(); now.Sub(l.second) >= time.Second {
		l.second, l.warned = now, false
		clear(l.recent)
	}
	if l.c.SourceRate > 0 && from.IsValid() {
		l.recent[from]++
	}
	switch {
	case len(l.conns) >= l.c.MaxConns:
		return "too many connections"
	case !from.IsValid():
		return ""
	case l.c.MaxPerSource > 0 && l.sources[from] >= l.c.MaxPerSource:
		return "too many connections from this address"
	case l.c.SourceRate > 0 && l.recent[from] > l.c.SourceRate:
		return "too many new connections from this address"
	}
	return ""
}

func (l *Listener) leave(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.conns[conn]
	delete(l.conns, conn)
	delete(l.pending, conn)
	if l.sources[from]--; l.sources[from] == 0 {
		delete(l.sources, from)
	}
}

func (l *Listener) refusalDone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusing--
}

// contain runs f, closes conn after it, and keeps a panic from everyone else's
// connections. What the panic says may quote the peer, so only its kind and
// place are logged.
func (l *Listener) contain(conn net.Conn, f func()) {
	defer l.close(conn)
	defer func() {
		if p := recover(); p != nil {
			l.panicked.Add(1)
			l.log.Error("connection panicked", "client", conn.RemoteAddr(), "kind", fmt.Sprintf("%T", p), "stack", stack())
		}
	}()
	f()
}

// stack names the functions on the stack, without their arguments.
func stack() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var b strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s:%d\n", f.Function, f.Line)
		if !more {
			return b.String()
		}
	}
}

func (l *Listener) close(conn net.Conn) {
	if err := conn.Close(); err != nil && !ordinary(err) {
		l.log.Debug("closing a connection", "client", conn.RemoteAddr(), "error", err)
	}
}

func (l *Listener) serve(ctx context.Context, conn net.Conn) {
	g := &handshake{Gate: l.gate, in: func() { l.settled(conn) }, late: time.AfterFunc(l.c.Handshake, func() {
		l.log.Info("no session was opened in time", "client", conn.RemoteAddr(), "within", l.c.Handshake)
		l.close(conn)
	})}
	defer g.late.Stop()
	agent := conn
	if l.c.TLS != nil {
		t := tls.Server(conn, l.c.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			l.log.Info("TLS handshake failed", "client", conn.RemoteAddr(), "error", err)
			return
		}
		agent = t
	}
	if err := l.protocol.Serve(ctx, agent, g); err != nil && !ordinary(err) {
		l.log.Info("connection ended", "client", conn.RemoteAddr(), "error", err)
	}
}

// handshake is the gate of a connection that is closed unless a session opens
// in time. It closes by itself rather than by a deadline, which the protocol may
// set for its own ends.
type handshake struct {
	protocol.Gate
	late *time.Timer
	in   func() // told of the session
}

func (h *handshake) Open(ctx context.Context, c protocol.Credential, t protocol.Target) (protocol.Session, error) {
	s, err := h.Gate.Open(ctx, c, t)
	if err == nil {
		h.late.Stop()
		h.in()
	}
	return s, err
}

func (h *handshake) Join(ctx context.Context, c protocol.Credential, s protocol.Session) error {
	err := h.Gate.Join(ctx, c, s)
	if err == nil {
		h.late.Stop()
		h.in()
	}
	return err
}

// settled is told that a connection has a session.
func (l *Listener) settled(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, conn)
}

func (l *Listener) refuse(ctx context.Context, conn net.Conn, why string) {
	ctx, cancel := context.WithTimeout(ctx, refuseWithin)
	defer cancel()
	if err := conn.SetDeadline(time.Now().Add(refuseWithin)); err != nil {
		return // it is gone already
	}
	peer := conn
	if l.c.TLS != nil {
		peer = tls.Server(conn, l.c.TLS)
	}
	l.c.Refuse(ctx, peer, &protocol.Refusal{Kind: protocol.ErrTooMany, Reason: why, Hint: "try again later"})
}

// ordinary says that a connection ended as connections do.
func ordinary(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// drain waits for all connections to end: at first by themselves, then by end,
// at last by closing them.
func (l *Listener) drain(end context.CancelFunc) error {
	done := make(chan struct{})
	go func() {
		l.serving.Wait()
		close(done)
	}()
	if within(done, l.c.Grace) {
		return nil
	}
	end()
	if within(done, endWithin) {
		return nil
	}
	l.mu.Lock()
	for conn := range l.conns {
		l.close(conn)
	}
	l.mu.Unlock()
	if within(done, endWithin) {
		return nil
	}
	return fmt.Errorf("listener %s: %d connections did not end", l.c.Name, l.Stats().Active)
}

func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
