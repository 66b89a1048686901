package postgres

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// template is a pgconn configuration with nothing taken from the gateway's
// environment; pgconn insists on having parsed one itself.
var template = sync.OnceValues(func() (*pgconn.Config, error) {
	return pgconn.ParseConfig("host=127.0.0.1 port=5432 user=none password=none dbname=none sslmode=disable target_session_attrs=any " +
		"sslnegotiation=postgres sslcertmode=allow channel_binding=prefer require_auth='' min_protocol_version=3.0 max_protocol_version=3.0")
})

// connect connects c to its upstream, records what that is, and answers the
// agent's startup.
func (c *conn) connect(ctx context.Context) error {
	params, f := c.startup.upstreamParams()
	if f != nil {
		return f
	}
	h, facts, err := c.dial(ctx, c.sess.Upstream(), params)
	if err != nil {
		return fmt.Errorf("connecting to the upstream: %w", err)
	}
	c.up, c.upPID, c.upKey, c.upTLS = h.Conn, h.PID, h.SecretKey, h.TLSConfig
	c.q.status = h.TxStatus
	if err := c.sess.Connected(ctx, facts); err != nil {
		return refusal(err)
	}
	for name, value := range h.ParameterStatuses {
		c.q.following.Parameter(name, value)
	}
	c.key = c.p.cancels.mint(c, c.startup.minor)

	b := []byte{'R', 0, 0, 0, 8, 0, 0, 0, 0} // AuthenticationOk
	b = appendParameterStatus(b, h.ParameterStatuses)
	b = append(b, 'K', 0, 0, 0, byte(4+len(c.key)))
	b = append(b, c.key...)
	b = appendReady(b, h.TxStatus)
	return c.writeAgent(b)
}

// factsQueries are what the gateway itself asks of a server, once per session:
// what texts will depend on, and which server it is. The second is for servers
// that keep their identifier to themselves.
var factsQueries = []string{
	"SELECT " + knownToAll + ", (SELECT system_identifier FROM pg_catalog.pg_control_system())" + ownBackend,
	"SELECT " + knownToAll + ownBackend,
}

const (
	knownToAll = `pg_catalog.current_setting('search_path'), current_user, ` +
		`pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_stat_get_backend_start(s)), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
	ownBackend = " FROM pg_catalog.pg_stat_get_backend_idset() s WHERE pg_catalog.pg_stat_get_backend_pid(s) OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)

// Connect connects to an upstream as sessions do, with settings of its own.
func Connect(ctx context.Context, up protocol.Upstream, params map[string]string) (*pgconn.PgConn, error) {
	cfg, err := config(up, params)
	if err != nil {
		return nil, err
	}
	cfg.MaxProtocolMessageBodyLen = maxAnswer
	return pgconn.ConnectConfig(ctx, cfg)
}

// maxAnswer bounds a message of a server until its session begins.
const maxAnswer = 1 << 20

// dial makes the upstream connection and learns what it leads to.
func (c *conn) dial(ctx context.Context, up protocol.Upstream, params map[string]string) (*pgconn.HijackedConn, evidence.SessionUpstreamBody, error) {
	var facts evidence.SessionUpstreamBody
	pg, err := Connect(ctx, up, params)
	if err != nil {
		return nil, facts, err
	}
	if err := c.inquire(ctx, pg, &facts); err != nil {
		pg.Close(ctx)
		return nil, facts, err
	}
	h, err := pg.Hijack()
	if err != nil {
		return nil, facts, err
	}
	if n := h.Frontend.ReadBufferLen(); n > 0 {
		h.Conn.Close()
		return nil, facts, violation("%d bytes from the upstream that nobody asked for", n)
	}
	facts.Local, facts.Remote = h.Conn.LocalAddr().String(), h.Conn.RemoteAddr().String()
	facts.Server, facts.PID = h.ParameterStatuses["server_version"], h.PID
	if t, ok := h.Conn.(*tls.Conn); ok {
		s := t.ConnectionState()
		facts.TLS = tls.VersionName(s.Version) + " " + tls.CipherSuiteName(s.CipherSuite)
		if len(s.PeerCertificates) > 0 {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			facts.Peer = hex.EncodeToString(sum[:])
		}
	}
	return h, facts, nil
}

// maxAsked bounds how often a server is asked about itself.
const maxAsked = 10

// inquire asks the server about itself until nobody but us reads from it. Where
// a write takes long, pgconn reads in the background, and that read may outlive
// the answer: it would take the first bytes that are meant for the agent. The
// next answer ends it. So would pgconn's own ping, which no record knows of.
func (c *conn) inquire(ctx context.Context, pg *pgconn.PgConn, facts *evidence.SessionUpstreamBody) error {
	for range maxAsked {
		if err := c.ask(ctx, pg, facts); err != nil {
			return err
		}
		if quiet(pg) {
			return nil
		}
	}
	return fmt.Errorf("asking the server about itself: writes to it are slow, %d in a row", maxAsked)
}

// quiet reports whether pgconn reads nothing by itself: with a context that is
// over SyncConn can only look.
func quiet(pg *pgconn.PgConn) bool {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	return pg.SyncConn(over) == nil
}

func config(up protocol.Upstream, params map[string]string) (*pgconn.Config, error) {
	base, err := template()
	if err != nil {
		return nil, err
	}
	cfg := base.Copy()
	cfg.Host, cfg.Database, cfg.User, cfg.Password = "upstream", up.Database, up.User, up.Password
	cfg.TLSConfig, cfg.Fallbacks, cfg.RuntimeParams = upstreamTLS(up), nil, params
	if up.TLS == nil {
		// Whoever holds the address while the server is down is told no secret.
		cfg.RequireAuth = "!password"
	}
	cfg.MaxProtocolVersion = up.Version
	if up.Direct {
		cfg.SSLNegotiation = "direct"
	}
	if up.Bound {
		cfg.ChannelBinding = "require"
	}
	// The address is dialled as configured: pgconn only sees its name.
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"upstream"}, nil }
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, network(up), up.Address)
	}
	return cfg, nil
}

func network(up protocol.Upstream) string {
	if strings.HasPrefix(up.Address, "/") {
		return "unix"
	}
	return "tcp"
}

// dial makes all connections to upstreams.
var dial = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4,
}}).DialContext

// upstreamTLS is the TLS of an upstream, which says that PostgreSQL is meant. A
// server that gets TLS at once must agree; of those asked before, the older ones
// know nothing of it.
func upstreamTLS(up protocol.Upstream) *tls.Config {
	if up.TLS == nil {
		return nil
	}
	c := up.TLS.Clone()
	c.NextProtos = []string{alpn}
	if !up.Direct {
		return c
	}
	verify := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != alpn {
			return violation("the server took direct TLS without the application protocol %s", alpn)
		}
		if verify == nil {
			return nil
		}
		return verify(s)
	}
	return c
}

// ask asks the server about itself. The frames are the gateway's own, and are
// recorded as such before they go.
func (c *conn) ask(ctx context.Context, pg *pgconn.PgConn, facts *evidence.SessionUpstreamBody) error {
	var err error
	for _, q := range factsQueries {
		if err := c.note(ctx, protocol.Note{Kind: "setup", Gateway: true, Frames: 1, Bytes: headerSize + len(q) + 1, Detail: q}); err != nil {
			return refusal(err)
		}
		var results []*pgconn.Result
		results, err = pg.Exec(ctx, q).ReadAll()
		if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
			continue // it won't say so much
		}
		row := results[0].Rows[0]
		c.q.following = sql.NewSession(string(row[1]), string(row[0]))
		facts.Start = string(row[2])
		if len(row) > 3 {
			facts.System = string(row[3])
		}
		return nil
	}
	return fmt.Errorf("asking the server about itself: %w", err)
}
