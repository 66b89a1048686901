package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Resource is a cluster behind the gateway.
type Resource struct {
	httpgate.Route
	Hosts      []string // in lower case, without port, whose requests are meant for it
	UserPrefix string   // put before an agent's id, as which the gateway asks
	Groups     []string // that agents are in there
	Extra      bool     // the cluster is also told session, principal and ticket
}

// Config is what a Protocol needs.
type Config struct {
	Listener  string
	Resources func() []Resource // in force now
	Limits    httpgate.Limits
	Logger    *slog.Logger
}

// Protocol is Kubernetes on one listener.
type Protocol struct {
	resources func() []Resource
	server    *httpgate.Server
	limits    httpgate.Limits
	commands  commands
	large     *semaphore.Weighted // bytes of contents that are looked at
}

var _ protocol.Protocol = (*Protocol)(nil)

const (
	maxSealed   = 64 << 10         // bytes of a content that is on record; what is larger is digested
	maxLarge    = 96 << 20         // bytes of larger contents that are looked at, at once
	contentTime = 30 * time.Second // for a content to arrive
)

// New returns the Protocol of a listener.
func New(c Config) *Protocol {
	p := &Protocol{resources: c.Resources, limits: c.Limits, large: semaphore.NewWeighted(maxLarge)}
	p.server = httpgate.New(httpgate.Config{
		Protocol: Name, Listener: c.Listener, Handler: handler{p}, Route: p.route,
		Fields: p.impersonated, Mark: "Audit-Id", Limits: c.Limits, Logger: c.Logger,
	})
	return p
}

// Name implements protocol.Protocol.
func (p *Protocol) Name() string { return Name }

// Serve implements protocol.Protocol.
func (p *Protocol) Serve(ctx context.Context, agent net.Conn, g protocol.Gate) error {
	return p.server.Serve(ctx, agent, g)
}

// route finds the cluster that a request is meant for.
func (p *Protocol) route(host, path string) (httpgate.Route, bool) {
	r := httpgate.Find(p.resources(), func(r *Resource) ([]string, string) { return r.Hosts, r.Prefix }, host, path)
	if r == nil {
		return httpgate.Route{}, false
	}
	return r.Route, true
}

// resource finds a cluster by its name.
func (p *Protocol) resource(name string) *Resource {
	list := p.resources()
	for i := range list {
		if list[i].Resource == name {
			return &list[i]
		}
	}
	return nil
}

// impersonated are the fields by which the cluster is told for whom the gateway
// asks (https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/).
func (p *Protocol) impersonated(s *httpgate.Session) []httpgate.Field {
	r := p.resource(s.Route.Resource)
	if r == nil { // a reload took it away since: as nobody
		r = &Resource{}
	}
	id := s.Identity()
	list := []httpgate.Field{{Name: "Impersonate-User", Value: r.UserPrefix + id.Agent}}
	for _, g := range r.Groups {
		list = append(list, httpgate.Field{Name: "Impersonate-Group", Value: g})
	}
	if r.Extra {
		for _, f := range []httpgate.Field{{Name: "Session", Value: s.ID()}, {Name: "Principal", Value: id.Principal}, {Name: "Ticket", Value: id.Ticket}} {
			if f.Value != "" {
				list = append(list, httpgate.Field{Name: "Impersonate-Extra-Exhibit-" + f.Name, Value: f.Value})
			}
		}
	}
	return list
}

// handler keeps Serve of httpgate apart from that of protocol.
type handler struct{ *Protocol }

// Serve implements httpgate.Handler.
func (h handler) Serve(w http.ResponseWriter, r *httpgate.Request, s *httpgate.Session) {
	p := h.Protocol
	if p.resource(s.Route.Resource) == nil { // a reload took it away since
		p.Refuse(w, r.Request, &httpgate.Failure{Status: http.StatusForbidden, Reason: "the cluster is not configured any more", Hint: "Ask the gateway's operator."})
		return
	}
	if slices.ContainsFunc(r.Stripped, func(name string) bool { return strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "impersonate-") }) {
		s.Skip(w, r.Request, refused(Name+":impersonate"), &httpgate.Failure{
			Status: http.StatusForbidden, Reason: "only the gateway says for whom it asks: Impersonate-* is refused", Hint: "Leave out --as and its like.",
		})
		return
	}
	a := asked{method: r.Method, path: r.Path, query: r.Query, stripped: strings.Join(r.Stripped, " ")}
	if r.ContentLength != 0 {
		a.media = mediaOf(r.Header.Get("Content-Type"))
	}
	c := p.commands.of(&a)
	switch {
	case streams[c.action]:
		p.stream(w, r, s, c)
	case r.Switch != "":
		s.Skip(w, r.Request, refused(Name+":upgrade"), &httpgate.Failure{
			Status: http.StatusBadRequest, Reason: "only exec, attach, port-forward and proxy lead to another protocol", Hint: "Send the request without Upgrade; a watch streams as it is.",
		})
	case r.ContentLength == 0:
		s.Forward(w, r, nil, &evidence.Command{Shape: c.Shape})
	default:
		p.withContent(w, r, s, &a)
	}
}

// refused is the shape of what is never passed on.
func refused(action string) *evidence.Shape {
	return &evidence.Shape{Path: "http", Parse: evidence.ParseOpaque, Verb: evidence.VerbOpaque, Checks: []evidence.Check{{Action: action}}}
}

var errTooLarge = errors.New("the content is larger than API servers take")

// withContent passes on a request that is understood with its content.
func (p *Protocol) withContent(w http.ResponseWriter, r *httpgate.Request, s *httpgate.Session, a *asked) {
	weight := r.ContentLength
	if weight < 0 || weight > MaxContent {
		weight = MaxContent
	}
	if weight > maxSealed {
		if err := p.large.Acquire(r.Context(), weight); err != nil {
			panic(http.ErrAbortHandler) // the agent has gone
		}
		defer p.large.Release(weight)
	}
	var err error
	if a.content, err = read(w, r); errors.Is(err, errTooLarge) {
		s.Skip(w, r.Request, understand(a).Shape, &httpgate.Failure{
			Status: http.StatusRequestEntityTooLarge, Reason: err.Error(), Hint: "Nothing was passed on.",
		})
		return
	} else if err != nil { // the agent has gone, or says less than it promised
		panic(http.ErrAbortHandler)
	}
	c := p.commands.of(a)
	r.ContentLength = int64(len(a.content))
	if c.secret || len(a.content) > maxSealed {
		// Digested and counted as it goes, and kept nowhere.
		r.Body = io.NopCloser(bytes.NewReader(a.content))
		s.Forward(w, r, nil, &evidence.Command{Shape: c.Shape})
		return
	}
	s.Forward(w, r, a.content, &evidence.Command{Shape: c.Shape})
}

// read reads a request's content.
func read(w http.ResponseWriter, r *httpgate.Request) ([]byte, error) {
	if r.ContentLength > MaxContent {
		return nil, errTooLarge
	}
	late := http.NewResponseController(w)
	if err := late.SetReadDeadline(time.Now().Add(contentTime)); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, MaxContent+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxContent {
		return nil, errTooLarge
	}
	return b, late.SetReadDeadline(time.Time{})
}
