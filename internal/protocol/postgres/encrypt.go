package postgres

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
)

// alpn names PostgreSQL in a TLS handshake (IANA, "TLS Application-Layer
// Protocol Negotiation (ALPN) Protocol IDs").
const alpn = "postgresql"

// agentTLS is c with what is asked of the agents' leg. A certificate may be
// anybody's: the gate knows which keys count. A session ticket would let in
// whoever holds it, in place of that key.
func agentTLS(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.NextProtos = []string{alpn}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.SessionTicketsDisabled = true
	c.ClientAuth = tls.RequestClientCert
	return c
}

// handshakeRecord is the first byte of a TLS handshake (RFC 8446 section 5.1).
// No startup packet is so long that it begins with it.
const handshakeRecord = 0x16

// begin finds out whether an agent begins with TLS, as it may since PostgreSQL
// 17 (sslnegotiation=direct), and returns where its first packet is read from.
func (p *Protocol) begin(ctx context.Context, l *leg) (io.Reader, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(l, first); err != nil {
		return nil, err
	}
	switch {
	case first[0] != handshakeRecord:
		return io.MultiReader(bytes.NewReader(first), l), nil
	case p.cfg.TLS == nil:
		return nil, violation("a TLS handshake where no TLS is configured")
	}
	l.Conn = &ahead{Conn: l.Conn, first: first}
	if err := p.encrypt(ctx, l); err != nil {
		return nil, err
	}
	// Without it, what was meant for a server of another protocol could end up
	// here; SSLRequest says as much.
	if l.tls.NegotiatedProtocol != alpn {
		return nil, violation("direct TLS without the application protocol %s", alpn)
	}
	return l, nil
}

// ahead is a connection of which the first byte has been read.
type ahead struct {
	net.Conn
	first []byte
}

func (a *ahead) Read(b []byte) (int, error) {
	if len(a.first) == 0 {
		return a.Conn.Read(b)
	}
	n := copy(b, a.first)
	a.first = a.first[n:]
	return n, nil
}

// NetConn returns the connection beneath.
func (a *ahead) NetConn() net.Conn { return a.Conn }

// socket returns the connection beneath all layers.
func socket(c net.Conn) net.Conn {
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = layer.NetConn()
	}
}

// answer answers an SSLRequest. Nothing was read beyond the request, so
// nothing that came in the clear can be taken for something encrypted.
func (p *Protocol) answer(ctx context.Context, l *leg) error {
	answer := byte('N')
	if p.cfg.TLS != nil {
		answer = 'S'
	}
	if _, err := l.Write([]byte{answer}); err != nil {
		return fmt.Errorf("answering SSLRequest: %w", err)
	}
	if p.cfg.TLS == nil {
		return nil
	}
	return p.encrypt(ctx, l)
}

// encrypt lets an agent's handshake come to its end.
func (p *Protocol) encrypt(ctx context.Context, l *leg) error {
	t := tls.Server(l.Conn, p.cfg.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS with the agent: %w", err)
	}
	state := t.ConnectionState()
	l.Conn, l.tls = t, &state
	return nil
}
