package httpgate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Route is where requests of a host, or below a path, lead.
type Route struct {
	Resource string
	Prefix   string // of the path, without a slash at its end; taken off before the request goes on
	Host     string // that the upstream is asked for; "" is the one of its address
	Base     string // of the upstream's paths, without a slash at its end
	HTTP2    bool   // the upstream speaks HTTP/2, as gRPC needs
	Identity bool   // the upstream is told for whom the gateway asks
}

// Find returns the resource that a request is meant for, or nil: by host and,
// among those of one host, by the longest prefix. Meant says which requests a
// resource wants; without hosts, those that no other names.
func Find[R any](resources []R, meant func(*R) (hosts []string, prefix string), host, path string) *R {
	var best *R
	var bestNamed bool
	var bestPrefix string
	for i := range resources {
		r := &resources[i]
		hosts, prefix := meant(r)
		named := slices.Contains(hosts, host)
		rest, below := strings.CutPrefix(path, prefix)
		if len(hosts) > 0 && !named || !below || rest != "" && rest[0] != '/' {
			continue
		}
		if best == nil || named && !bestNamed || named == bestNamed && len(prefix) > len(bestPrefix) {
			best, bestNamed, bestPrefix = r, named, prefix
		}
	}
	return best
}

// Handler is a protocol above HTTP.
type Handler interface {
	// Serve answers one request in a session. The request is in its normal form.
	Serve(w http.ResponseWriter, r *Request, s *Session)
	// Refuse tells an agent why it isn't served, in the protocol's own words.
	Refuse(w http.ResponseWriter, r *http.Request, f *Failure)
}

// Config is what a Server needs.
type Config struct {
	Protocol string // as in decisions' actions
	Listener string
	Handler  Handler
	// Route finds where a request leads. Path is in its normal form; host is in
	// lower case and without port.
	Route func(host, path string) (Route, bool)
	// Assert makes the JWT by which an upstream learns for whom the gateway asks,
	// and until when it may be used. Nil tells upstreams nothing.
	Assert func(id protocol.Identity, session, audience string) (jwt string, until time.Time, err error)
	// Keys is the JWK set (RFC 7517) that such JWTs are checked with.
	Keys func() []byte
	// Fields are added to each request of a session, besides the credential. Nil
	// adds none.
	Fields func(*Session) []Field
	// Mark names a field that is added with the position of each command, so that
	// the upstream's own log names it. "" adds none.
	Mark string
	// Open serves what needs no credential, and reports whether it did. It may
	// be nil.
	Open func(w http.ResponseWriter, r *http.Request) bool
	// Joined serves what is meant for several resources at once, and reports
	// whether it did. It may be nil.
	Joined func(w http.ResponseWriter, r *http.Request, by *Caller) bool
	Limits Limits
	Logger *slog.Logger
}

// Field is one field of a message.
type Field struct{ Name, Value string }

// Caller is who shows a credential, of which nothing is known yet.
type Caller struct {
	c    *connection
	cred protocol.Credential
}

// Credential stands for the credential.
func (c *Caller) Credential() [sha256.Size]byte { return digestOf(c.cred) }

// Serve serves a request at a route as if the caller had made it by itself: in
// the session of the credential, which is opened if there is none. When that
// session must end the connection does not, since it serves others as well. It
// must return before the request that it is made for has been served.
func (c *Caller) Serve(w http.ResponseWriter, r *http.Request, route Route) {
	c.c.joined.serveAt(w, r, c.cred, route, r.URL.Path)
}

// Limits bound what agents can ask for.
type Limits struct {
	Header int           // bytes of a request's fields; 64 KiB
	Sealed int           // bytes of a request's content that is kept; what is larger is digested; 64 KiB
	Idle   time.Duration // until a session without requests ends; 5 min
	Login  time.Duration // for a request's fields to arrive; 15 s
}

// Server serves one listener. It is safe for concurrent use.
type Server struct {
	cfg Config
	log *slog.Logger

	mu       sync.Mutex
	sessions map[sessionKey]*entry
}

// New returns a Server.
func New(c Config) *Server {
	c.Limits.Header = cmp.Or(c.Limits.Header, 64<<10)
	c.Limits.Sealed = cmp.Or(c.Limits.Sealed, 64<<10)
	c.Limits.Idle = cmp.Or(c.Limits.Idle, 5*time.Minute)
	c.Limits.Login = cmp.Or(c.Limits.Login, 15*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Server{cfg: c, log: c.Logger, sessions: make(map[sessionKey]*entry)}
}

// connection is an agent's.
type connection struct {
	*Server
	gate     protocol.Gate
	agent    net.Conn
	handlers sync.WaitGroup
	closed   chan struct{} // by the HTTP server, or given away to a handler
	once     sync.Once
	cancel   context.CancelFunc
	joined   *connection // as which it serves several resources at once
}

// Serve implements protocol.Protocol but for the name.
func (s *Server) Serve(ctx context.Context, agent net.Conn, g protocol.Gate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{Server: s, gate: g, agent: agent, cancel: cancel, closed: make(chan struct{})}
	c.joined = &connection{Server: s, gate: g, agent: agent, cancel: func() {}}
	defer s.left(c)
	err := c.run(ctx)
	cancel()
	return errors.Join(err, ignoreClosed(agent.Close()))
}

// run serves plain requests, and leaves the connection to net/http with the
// first that isn't.
func (c *connection) run(ctx context.Context) error {
	if t, ok := c.agent.(*tls.Conn); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
		return c.standard(ctx, t)
	}
	if rest := newPlain(ctx, c).serve(); rest != nil {
		return c.standard(ctx, rest)
	}
	return nil
}

// standard serves a connection by net/http's server.
func (c *connection) standard(ctx context.Context, agent net.Conn) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           c,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250, SendPingTimeout: 30 * time.Second},
		ReadHeaderTimeout: c.cfg.Limits.Login,
		IdleTimeout:       2 * c.cfg.Limits.Idle,
		MaxHeaderBytes:    c.cfg.Limits.Header,
		ErrorLog:          slog.NewLogLogger(quiet{c.log.Handler()}, slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				c.once.Do(func() { close(c.closed) })
			}
		},
	}
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(written)
		// Requests that run end with ctx; those that were answered are written.
		late, cancel := context.WithTimeout(context.Background(), courtesy)
		defer cancel()
		if srv.Shutdown(late) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(&oneConn{conn: agent, closed: c.closed, shut: make(chan struct{})})
	if !stop() {
		<-written
	}
	c.handlers.Wait()
	if errors.Is(err, errNoMore) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// courtesy is how long what is being answered may take when a connection ends.
const courtesy = time.Second

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// errNoMore ends the HTTP server of a connection.
var errNoMore = errors.New("the connection has been served")

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	given  bool
	closed <-chan struct{}
	shut   chan struct{} // by the HTTP server, which waits until nothing accepts any more
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	select {
	case <-l.closed:
	case <-l.shut:
	}
	return nil, errNoMore
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.shut) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// quiet drops what net/http says about a peer: it may quote it.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	return q.Handler.Handle(ctx, slog.NewRecord(r.Time, r.Level, "an HTTP connection went wrong", 0))
}

// Paths that the gateway answers itself. Below a route's prefix, or at a host.
const (
	KeysPath    = "/.well-known/exhibit/jwks.json"
	SessionPath = "/.well-known/exhibit/session"
)

// ServeHTTP serves one request: whose, where to, in one form, and then it is
// the Handler's.
func (c *connection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.handlers.Add(1)
	defer c.handlers.Done()
	if c.cfg.Open != nil && c.cfg.Open(w, r) {
		return
	}
	if r.URL.Path == KeysPath && c.cfg.Keys != nil {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Write(c.cfg.Keys()) //nolint:errcheck // the agent has gone
		return
	}
	cred, ok := c.credential(r)
	if !ok {
		c.refuse(w, r, &Failure{Status: http.StatusUnauthorized, Reason: "a token is needed", Hint: "get one with `exhibit token` and send it as Authorization: Bearer"})
		return
	}
	if c.cfg.Joined != nil && c.cfg.Joined(w, r, &Caller{c, cred}) {
		return
	}
	path, _, malformed := splitTarget(r)
	if malformed != nil { // it won't be passed on, but whose resource it was meant for shows
		path, _, _ = strings.Cut(r.RequestURI, "?")
	}
	route, found := c.cfg.Route(hostOf(r.Host), path)
	if !found {
		// What was asked for is sealed: it may be anything.
		_, err := c.gate.Open(r.Context(), cred, protocol.Target{Protocol: c.cfg.Protocol, Resource: r.Host + path})
		c.refuse(w, r, refusalOf(err, "this gateway leads nowhere from there"))
		return
	}
	c.serveAt(w, r, cred, route, path)
}

// serveAt serves a request at a route, in the session of a credential.
func (c *connection) serveAt(w http.ResponseWriter, r *http.Request, cred protocol.Credential, route Route, path string) {
	s, err := c.session(r.Context(), cred, route)
	if err != nil {
		c.refuse(w, r, refusalOf(err, ""))
		return
	}
	defer s.release()
	if path == route.Prefix+SessionPath {
		s.describe(w)
		return
	}
	req, err := normalise(r, route.Prefix)
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	c.cfg.Handler.Serve(w, req, s)
}

// hostOf is a Host field without port, in lower case.
func hostOf(host string) string {
	if strings.IndexByte(host, ':') >= 0 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// credential is what a request shows: a bearer token (RFC 6750 section 2.1), or
// the certificate of its connection.
func (c *connection) credential(r *http.Request) (protocol.Credential, bool) {
	cred := protocol.Credential{Method: "token", TLS: r.TLS, Client: c.agent.RemoteAddr(), Listener: c.cfg.Listener}
	if fields := r.Header["Authorization"]; len(fields) == 1 {
		scheme, token, _ := strings.Cut(fields[0], " ")
		if strings.EqualFold(scheme, "bearer") {
			cred.Secret = strings.TrimSpace(token)
			return cred, cred.Secret != ""
		}
	} else if len(fields) == 0 && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		cred.Method = "certificate"
		return cred, true
	}
	return cred, false
}

// TLS returns what a listener's TLS needs beyond its certificate: both versions
// of HTTP, and certificates of agents that have one. By whom those were issued
// doesn't matter.
func TLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	c.ClientAuth = tls.RequestClientCert
	return c
}

// describe says to an agent who it is here.
func (s *Session) describe(w http.ResponseWriter) {
	id := s.Identity()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(evidence.EncodeBody(map[string]string{ //nolint:errcheck // the agent has gone
		"session": s.ID(), "agent": id.Agent, "principal": id.Principal, "ticket": id.Ticket, "resource": s.Route.Resource,
	}), '\n'))
}
