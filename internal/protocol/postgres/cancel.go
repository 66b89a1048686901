package postgres

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// cancelTimeout bounds the connection that carries a cancel to the upstream.
const cancelTimeout = 5 * time.Second

// cancels finds the session that a cancel key belongs to. The secrets in them are
// the gateway's own, so the server's never leave it.
type cancels struct {
	mu   sync.Mutex
	keys map[string]*conn
}

// mint makes a key for c: the process id that the server gave, which
// notifications and the server's views name too, and a secret of 4 bytes, or of
// 32 in protocol 3.2.
func (t *cancels) mint(c *conn, minor int) []byte {
	secret := 4
	if minor >= 2 {
		secret = 32
	}
	key := append(binary.BigEndian.AppendUint32(nil, c.upPID), make([]byte, secret)...)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys == nil {
		t.keys = make(map[string]*conn)
	}
	for {
		rand.Read(key[4:])
		if _, taken := t.keys[string(key)]; !taken {
			t.keys[string(key)] = c
			return key
		}
	}
}

func (t *cancels) drop(key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.keys, string(key))
}

// route takes a CancelRequest's key to its session. A key of nobody's is not
// answered, and neither is any other: the requester learns nothing.
func (t *cancels) route(ctx context.Context, key []byte, from net.Addr) error {
	t.mu.Lock()
	c := t.keys[string(key)]
	t.mu.Unlock()
	if c == nil {
		return fmt.Errorf("cancel request from %s names no session", from)
	}
	return c.requested(ctx, protocol.Note{Kind: "cancel", Detail: "from " + from.String()})
}

// requested cancels as an agent asks for it. However often that is, one request
// is on its way and one waits; what would wait behind that asks for the same.
func (c *conn) requested(ctx context.Context, n protocol.Note) error {
	if c.giveUp(errCancelled) { // nothing of it is at the server
		n.Frames = 1
		return c.note(ctx, n)
	}
	select {
	case c.cancelling <- struct{}{}:
	default:
		return nil
	}
	c.cancelMu.Lock()
	defer c.cancelMu.Unlock()
	defer func() { <-c.cancelling }() // before the next one's turn: only who waits keeps others out
	return c.cancel(ctx, n)
}

// cancel asks the server to cancel what it does for c, on a connection of its
// own (PostgreSQL documentation, "Canceling Requests in Progress").
func (c *conn) cancel(ctx context.Context, n protocol.Note) error {
	ctx, stop := context.WithTimeout(ctx, cancelTimeout)
	defer stop()
	packet := binary.BigEndian.AppendUint32(nil, uint32(12+len(c.upKey)))
	packet = binary.BigEndian.AppendUint32(packet, cancelRequest)
	packet = binary.BigEndian.AppendUint32(packet, c.upPID)
	packet = append(packet, c.upKey...)

	conn, err := c.redial(ctx)
	if err != nil {
		return fmt.Errorf("carrying a cancel request: %w", err)
	}
	defer conn.Close()
	n.Frames, n.Bytes = 1, len(packet)
	if err := c.note(ctx, n); err != nil {
		return fmt.Errorf("recording a cancel request: %w", err)
	}
	if _, err := conn.Write(packet); err != nil {
		return fmt.Errorf("carrying a cancel request: %w", err)
	}
	// The server closes the connection once the signal is sent.
	_, _ = conn.Read(packet[:1])
	return nil
}

// redial connects to the very server that c is connected to, encrypted if c is.
func (c *conn) redial(ctx context.Context) (net.Conn, error) {
	up := c.sess.Upstream()
	address := up.Address
	if network(up) == "tcp" { // a name may lead to several
		address = c.up.RemoteAddr().String()
	}
	conn, err := dial(ctx, network(up), address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if c.upTLS == nil {
		return conn, nil
	}
	if !up.Direct {
		err = askForTLS(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := tls.Client(conn, c.upTLS)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// askForTLS sends a server an SSLRequest.
func askForTLS(conn net.Conn) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, sslRequest)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := conn.Read(answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return violation("the server refuses TLS for a cancel request")
	}
	return nil
}
