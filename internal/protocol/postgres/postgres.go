package postgres

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Config is what a Protocol needs to know.
type Config struct {
	Listener   string      // name of the listener, for the records
	TLS        *tls.Config // of the agents' leg; nil is plain, which only loopback and unix sockets may be
	Understand func(resource string) Understander
	Changed    func(resource string) // called when a command changed what its database holds; may be nil; must not block
	Limits     Limits
	Logger     *slog.Logger
}

// Limits bound what one agent can cost. Zero values are the defaults.
type Limits struct {
	Message int64         // longest Query, Parse or Bind, bytes; default 64 MiB
	Memory  int64         // for all messages past 64 KiB together, bytes; default 256 MiB, at least Message
	Flight  int           // commands of one session that await an answer; default 4096
	Login   time.Duration // from the first byte to the session; default 30 s
	Drain   time.Duration // for the outcomes of commands whose agent has gone; default 5 s
	Frame   time.Duration // for a frame past 64 KiB to come in, besides its time at 256 KiB/s; default 30 s
	Silence time.Duration // until a peer whose system acknowledges nothing is lost; default 3 min
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.Message, 64<<20)
	set(&l.Memory, 256<<20)
	l.Message = min(l.Message, 1<<30-headerSize)
	l.Memory = max(l.Memory, l.Message+headerSize)
	if l.Flight <= 0 {
		l.Flight = 4096
	}
	if l.Login <= 0 {
		l.Login = 30 * time.Second
	}
	if l.Drain <= 0 {
		l.Drain = 5 * time.Second
	}
	if l.Frame <= 0 {
		l.Frame = 30 * time.Second
	}
	if l.Silence <= 0 {
		l.Silence = 3 * time.Minute
	}
	return l
}

// Protocol implements protocol.Protocol.
type Protocol struct {
	cfg     Config
	memory  *semaphore.Weighted // of Limits.Memory
	cancels cancels
	portal  string // a name that no agent's portal has
}

var _ protocol.Protocol = (*Protocol)(nil)

// New returns a Protocol. It panics without an Understander, which only a
// mistake in wiring can leave out.
func New(cfg Config) *Protocol {
	if cfg.Understand == nil {
		panic("postgres: no Understander")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.TLS = agentTLS(cfg.TLS)
	cfg.Limits = cfg.Limits.withDefaults()
	return &Protocol{
		cfg:    cfg,
		memory: semaphore.NewWeighted(cfg.Limits.Memory),
		portal: "refused by the access gateway " + rand.Text(),
	}
}

// Name implements protocol.Protocol.
func (p *Protocol) Name() string { return "postgres" }

// Serve implements protocol.Protocol. The connection is an agent's until its
// session ends, or it is one CancelRequest.
func (p *Protocol) Serve(ctx context.Context, agent net.Conn, g protocol.Gate) error {
	defer agent.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	login, stop := context.WithTimeout(ctx, p.cfg.Limits.Login)
	defer stop()
	// A login that hangs, or a gateway that stops, must not wait for the peer;
	// which may still be told why.
	unhang := context.AfterFunc(login, func() {
		agent.SetReadDeadline(time.Unix(1, 0))               //nolint:errcheck // a closed connection needs no deadline
		agent.SetWriteDeadline(time.Now().Add(expelTimeout)) //nolint:errcheck // as above
	})

	l, err := p.greet(login, agent)
	if err != nil || l == nil {
		return err
	}
	c, err := p.open(login, l, g)
	if err != nil || c == nil {
		return err
	}
	if !unhang() {
		return c.close("login timed out", context.Cause(login))
	}
	return c.run(ctx)
}

// leg is the agent's connection during the login.
type leg struct {
	net.Conn
	tls *tls.ConnectionState
	*startup
}

// greet takes a connection up to its StartupMessage. It returns nil when that
// never comes because the connection served its purpose.
func (p *Protocol) greet(ctx context.Context, agent net.Conn) (*leg, error) {
	l := &leg{Conn: agent}
	first, err := p.begin(ctx, l)
	if err != nil {
		return nil, unasked(err)
	}
	asked := make(map[uint32]bool) // requests are answered once
	for {
		code, rest, err := readStartup(first)
		first = l
		if err != nil {
			return nil, unasked(err)
		}
		if code == sslRequest || code == gssRequest {
			if asked[code] || len(rest) != 0 {
				return nil, violation("unexpected SSLRequest or GSSENCRequest")
			}
			asked[code] = true
		}
		switch code {
		case sslRequest:
			if l.tls != nil {
				return nil, violation("SSLRequest within TLS")
			}
			if err := p.answer(ctx, l); err != nil {
				return nil, err
			}
			continue
		case gssRequest:
			if _, err := l.Write([]byte{'N'}); err != nil {
				return nil, fmt.Errorf("answering GSSENCRequest: %w", err)
			}
			continue
		case cancelRequest:
			return nil, p.cancels.route(ctx, rest, agent.RemoteAddr())
		}
		l.startup, err = parseStartup(code, rest)
		if err != nil {
			return nil, l.refuse(fatal(codeProtocol, err.Error(), "connect with a client that speaks PostgreSQL protocol 3"), err)
		}
		if l.negotiate {
			if _, err := l.Write(l.appendNegotiate(nil)); err != nil {
				return nil, fmt.Errorf("negotiating the protocol version: %w", err)
			}
		}
		return l, nil
	}
}

// unasked is err of a connection that has asked for nothing yet: one that only
// looks whether somebody answers is none.
func unasked(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("reading startup: %w", err)
}

// open logs an agent in and connects it. It returns nil when the agent hangs
// up instead of showing a password.
func (p *Protocol) open(ctx context.Context, l *leg, g protocol.Gate) (*conn, error) {
	sess, err := p.login(ctx, l, g)
	if err != nil || sess == nil {
		return nil, err
	}
	c := newConn(p, l, sess)
	if err := c.connect(ctx); err != nil {
		var f *failure
		if !errors.As(err, &f) {
			f = fatal(codeUnreachable, "the resource cannot be reached", "ask the gateway's operator; the reason is in the gateway's log")
		}
		return nil, c.close(f.message, l.refuse(f, err))
	}
	return c, nil
}

// login proves an agent to the gate: by its certificate, or by a token where it
// shows none or one that isn't of an enrolled key.
func (p *Protocol) login(ctx context.Context, l *leg, g protocol.Gate) (protocol.Session, error) {
	c := protocol.Credential{User: l.user, TLS: l.tls, Client: l.RemoteAddr(), Listener: p.cfg.Listener}
	t := protocol.Target{Protocol: p.Name(), Resource: l.database, Database: l.database}
	if l.tls != nil && len(l.tls.PeerCertificates) > 0 {
		c.Method = "certificate"
		sess, err := g.Open(ctx, c, t)
		if !errors.Is(err, protocol.ErrUnknownCertificate) {
			return sess, l.refused(err)
		}
	}
	var err error
	c.Method = "token"
	if c.Secret, err = l.password(); err != nil {
		if errors.Is(err, io.EOF) { // psql without a password hangs up to ask for one
			return nil, nil
		}
		return nil, err
	}
	sess, err := g.Open(ctx, c, t)
	return sess, l.refused(err)
}

// password asks the agent for its password.
func (l *leg) password() (string, error) {
	if l.tls == nil && !local(l.RemoteAddr()) {
		return "", l.refuse(fatal(codeTLSRequired, "this gateway asks for a password only over TLS", "connect with sslmode=require or better"), nil)
	}
	if _, err := l.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}); err != nil { // AuthenticationCleartextPassword
		return "", fmt.Errorf("asking for a password: %w", err)
	}
	token, err := readPassword(l)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", l.refuse(fatal(codeProtocol, "a password was expected", ""), err)
	}
	return token, err
}

// refused tells the agent what the gate has against it, if anything.
func (l *leg) refused(err error) error {
	if err == nil {
		return nil
	}
	return l.refuse(refusal(err), nil)
}

// refuse tells the agent why there will be no session, and returns what the
// log should know.
func (l *leg) refuse(f *failure, err error) error {
	if err == nil {
		err = f
	}
	if _, werr := l.Write(f.append(nil)); werr != nil {
		return errors.Join(err, werr)
	}
	return err
}

// local reports whether a peer is on this machine, where a password may go in
// the clear.
func local(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// failingFrames is what the gateway sends to make the server fail in a denied
// command's stead: an Execute of a portal that doesn't exist, with a Sync
// when the agent's own doesn't follow.
func (p *Protocol) failingFrames(sync bool) []byte {
	b := []byte{'E', 0, 0, 0, 0}
	b = append(append(b, p.portal...), 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	if sync {
		b = append(b, syncFrame...)
	}
	return b
}

var syncFrame = []byte{'S', 0, 0, 0, 4}
