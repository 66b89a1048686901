package prototest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// relay stands before the server, counts what a protocol forwards, and can be
// cut.
type relay struct {
	l         net.Listener
	target    string
	forwarded atomic.Int64 // bytes
	accepted  atomic.Int64 // connections
	vanish    atomic.Bool  // the server's next answer is lost, and its connection with it

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func startRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, target: target}
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		l.Close()
		r.cut()
		r.wg.Wait()
	})
	return r
}

func (r *relay) serve() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		r.accepted.Add(1)
		s, err := new(net.Dialer).DialContext(context.Background(), "tcp", r.target)
		if err != nil {
			c.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, c, s)
		r.mu.Unlock()
		r.wg.Go(func() { r.pump(s, c, &r.forwarded) })
		r.wg.Go(func() { r.pump(c, s, nil) })
	}
}

func (r *relay) pump(to, from net.Conn, count *atomic.Int64) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if count != nil {
			count.Add(int64(n))
		} else if n > 0 && r.vanish.Load() {
			from.Close()
			return
		}
		if _, werr := to.Write(b[:n]); werr != nil || err != nil {
			if err == nil || errors.Is(err, io.EOF) {
				from.Close()
			}
			return
		}
	}
}

// cut breaks all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0) //nolint:errcheck // it is closed next, gracefully at worst
		}
		c.Close()
	}
	r.conns = nil
}
