package connect

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// dialTimeout bounds the way to a gateway, TLS included.
const dialTimeout = 10 * time.Second

// alpn names PostgreSQL in a TLS handshake (IANA, "TLS Application-Layer
// Protocol Negotiation (ALPN) Protocol IDs").
const alpn = "postgresql"

// gateway is a gateway's listener for PostgreSQL.
type gateway struct {
	network, address string
	tls              *tls.Config
	direct           bool // TLS at once, without an SSLRequest
	demand           bool // TLS, on this machine too
}

func newGateway(r Resource, config *tls.Config, demand bool) *gateway {
	config = config.Clone()
	config.NextProtos = []string{alpn}
	g := &gateway{network: "tcp", address: r.gateway.Host, tls: config, direct: r.direct, demand: demand || r.direct}
	if r.gateway.Host == "" {
		g.network, g.address = "unix", r.gateway.Path
	}
	return g
}

// dial connects: over TLS, unless the gateway is on this machine and offers
// none.
func (g *gateway) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, g.network, g.address)
	if err != nil {
		return nil, unreachable(err)
	}
	if g.network == "unix" {
		return c, nil
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	secured, err := g.secure(ctx, c)
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		c.Close()
		return nil, unreachable(err)
	}
	return secured, nil
}

// secure begins TLS on a connection (PostgreSQL documentation, "SSL Session
// Encryption"). Of the answer in the clear just one byte is read, so nothing
// that somebody slipped in behind it is taken for the gateway's.
func (g *gateway) secure(ctx context.Context, c net.Conn) (net.Conn, error) {
	if !g.direct {
		offered, err := offersTLS(c)
		switch {
		case err != nil:
			return nil, err
		case !offered && !g.demand && onThisMachine(c.RemoteAddr()):
			return c, nil
		case !offered:
			return nil, failure("the gateway's listener needs a certificate: tls in its configuration", "the gateway offers no TLS")
		}
	}
	t := tls.Client(c, g.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with the gateway: %w", err)
	}
	return t, nil
}

func offersTLS(c net.Conn) (bool, error) {
	if _, err := c.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, sslRequest)); err != nil {
		return false, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return false, err
	}
	if answer[0] != 'S' && answer[0] != 'N' {
		return false, errors.New("what answers speaks no PostgreSQL")
	}
	return answer[0] == 'S', nil
}

func onThisMachine(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
