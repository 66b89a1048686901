package mcp

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Resource is a server behind the gateway.
type Resource struct {
	httpgate.Route
	Hosts    []string // in lower case, without port, whose requests are meant for it
	Endpoint string   // the path that messages go to upstream

	Command *Command // starts the server; nil is one that is reached over HTTP

	Tools            map[string]string // digests of accepted definitions, by the tools' names
	AcceptAll        bool              // accept whatever the server defines
	TrustAnnotations bool              // a tool that says it only reads is a read
	Match            []string          // JSON pointers (RFC 6901) into arguments; policy sees their values
	Message          int               // bytes of one message, either way; 8 MiB
}

// DefaultMessage bounds a message.
const DefaultMessage = 8 << 20

// Config is what a Protocol needs.
type Config struct {
	Listener    string
	Resources   func() []Resource // in force now
	Endpoints   func() []Endpoint // in force now, of such resources; nil is none
	Definitions *Definitions
	Issuer      func() string // the URL of who issues tokens to agents; "" is none to be found by a client
	Assert      func(id protocol.Identity, session, audience string) (jwt string, until time.Time, err error)
	Keys        func() []byte
	Ask         func(context.Context, Wish) (Wished, error) // asks people for access; nil is a gateway where agents can't
	Limits      httpgate.Limits
	Logger      *slog.Logger
}

// Protocol is MCP on one listener.
type Protocol struct {
	cfg    Config
	log    *slog.Logger
	server *httpgate.Server
	own    http.Handler
	shapes shapes
	joints joints
}

var _ protocol.Protocol = (*Protocol)(nil)

// New returns the Protocol of a listener.
func New(c Config) *Protocol {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Issuer == nil {
		c.Issuer = func() string { return "" }
	}
	if c.Endpoints == nil {
		c.Endpoints = func() []Endpoint { return nil }
	}
	p := &Protocol{cfg: c, log: c.Logger, own: newOwn()}
	p.server = httpgate.New(httpgate.Config{
		Protocol: Name, Listener: c.Listener, Handler: handler{p}, Route: p.route, Open: p.open, Joined: p.joined,
		Assert: c.Assert, Keys: c.Keys, Limits: c.Limits, Logger: c.Logger,
	})
	return p
}

// Name implements protocol.Protocol.
func (p *Protocol) Name() string { return Name }

// Serve implements protocol.Protocol.
func (p *Protocol) Serve(ctx context.Context, agent net.Conn, g protocol.Gate) error {
	return p.server.Serve(ctx, agent, g)
}

// route finds the resource that a request is meant for.
func (p *Protocol) route(host, path string) (httpgate.Route, bool) {
	r := find(p.cfg.Resources(), host, path)
	if r == nil {
		return httpgate.Route{}, false
	}
	return r.Route, true
}

func find(resources []Resource, host, path string) *Resource {
	return httpgate.Find(resources, func(r *Resource) ([]string, string) { return r.Hosts, r.Prefix }, host, path)
}

// resource finds a resource by its name.
func (p *Protocol) resource(name string) *Resource {
	for _, r := range p.cfg.Resources() {
		if r.Resource == name {
			if r.Message <= 0 {
				r.Message = DefaultMessage
			}
			return &r
		}
	}
	return nil
}

// idle is how long a session without requests lasts.
func (p *Protocol) idle() time.Duration { return cmp.Or(p.cfg.Limits.Idle, 5*time.Minute) }

// handler keeps Serve of httpgate apart from that of protocol.
type handler struct{ *Protocol }

// Refuse implements httpgate.Handler.
func (p *Protocol) Refuse(w http.ResponseWriter, r *http.Request, f *httpgate.Failure) {
	if f.Status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", `Bearer resource_metadata="`+p.metadataURL(r)+`"`)
	}
	httpgate.Problem(w, f)
}

// Serve implements httpgate.Handler.
func (h handler) Serve(w http.ResponseWriter, r *httpgate.Request, s *httpgate.Session) {
	p := h.Protocol
	res := p.resource(s.Route.Resource)
	if res == nil { // a reload took it away since
		p.Refuse(w, r.Request, &httpgate.Failure{Status: http.StatusForbidden, Reason: "the resource is not configured any more", Hint: "ask the gateway's operator"})
		return
	}
	ctx, cancel := s.Context(r.Request)
	defer cancel()
	t := &turn{p: p, w: w, r: r, s: s, res: res, ctx: ctx}
	t.part = s.Part(partOf).(*part)
	if stray, ok := ctx.Value(strayKey{}).(*stray); ok {
		t.stray(stray)
		return
	}
	t.serve()
}
