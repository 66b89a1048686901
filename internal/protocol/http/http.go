package http

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Resource is a service behind the gateway.
type Resource struct {
	httpgate.Route
	Hosts      []string    // in lower case, without port, whose requests are meant for it
	Operations *Operations // nil names none
	Match      []string    // JSON pointers (RFC 6901) into contents; policy sees their values
}

// Config is what a Protocol needs.
type Config struct {
	Listener  string
	Resources func() []Resource // in force now
	Assert    func(id protocol.Identity, session, audience string) (jwt string, until time.Time, err error)
	Keys      func() []byte
	Limits    httpgate.Limits
	Logger    *slog.Logger
}

// Protocol is HTTP on one listener.
type Protocol struct {
	resources func() []Resource
	server    *httpgate.Server
	shapes    shapes
}

var _ protocol.Protocol = (*Protocol)(nil)

// New returns the Protocol of a listener.
func New(c Config) *Protocol {
	p := &Protocol{resources: c.Resources}
	p.server = httpgate.New(httpgate.Config{
		Protocol: Name, Listener: c.Listener, Handler: handler{p}, Route: p.route,
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
	r := httpgate.Find(p.resources(), func(r *Resource) ([]string, string) { return r.Hosts, r.Prefix }, host, path)
	if r == nil {
		return httpgate.Route{}, false
	}
	return r.Route, true
}

// resource finds a resource by its name.
func (p *Protocol) resource(name string) *Resource {
	list := p.resources()
	for i := range list {
		if list[i].Resource == name {
			return &list[i]
		}
	}
	return nil
}

// Refuse implements httpgate.Handler.
func (p *Protocol) Refuse(w http.ResponseWriter, r *http.Request, f *httpgate.Failure) {
	if httpgate.IsGRPC(r) {
		httpgate.GRPCFailure(w, f)
		return
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
	content, err := s.Content(w, r)
	if err != nil { // the agent has gone, or says less than it promised
		panic(http.ErrAbortHandler)
	}
	a := asked{
		method: r.Method, path: r.Path, query: r.Query, upgrade: r.Upgrade, grpc: r.GRPC(),
		stripped: strings.Join(r.Stripped, " "), media: r.Header.Get("Content-Type"), content: content, length: r.ContentLength,
	}
	s.Forward(w, r, content, &evidence.Command{Shape: p.shapes.of(res, &a)})
}

// handler keeps Serve of httpgate apart from that of protocol.
type handler struct{ *Protocol }

// asked is what a request's shape depends on.
type asked struct {
	method, path, query string
	upgrade, grpc       bool
	stripped            string
	media               string
	content             []byte
	length              int64
}

// shapeKey is all that the shapes of requests without matched values depend on.
type shapeKey struct {
	route    *route // nil names none
	method   string
	call     string // of gRPC
	query    string // names, joined
	upgrade  bool
	media    string
	stripped string
}

// shapes keeps shapes, so that equal requests share one.
type shapes struct {
	mu sync.Mutex
	m  map[shapeKey]*evidence.Shape
}

// maxShapes bounds what is kept; who asks more different things starts over.
const maxShapes = 4096

// of returns the shape of what is asked of a resource.
func (c *shapes) of(res *Resource, a *asked) *evidence.Shape {
	k := shapeKey{method: a.method, upgrade: a.upgrade, media: mediaOf(a), stripped: a.stripped}
	if a.grpc {
		k.call = callOf(a.path)
	} else {
		k.route = res.Operations.find(a.method, a.path)
		k.query = queryOf(k.route, a.query)
	}
	c.mu.Lock()
	s := c.m[k]
	if s == nil {
		if c.m == nil || len(c.m) >= maxShapes {
			c.m = make(map[shapeKey]*evidence.Shape)
		}
		s = k.shape(a.grpc)
		c.m[k] = s
	}
	c.mu.Unlock()
	if len(res.Match) == 0 {
		return s
	}
	return matched(s, res.Match, a)
}

// shape makes the shape.
func (k *shapeKey) shape(grpc bool) *evidence.Shape {
	s := &evidence.Shape{Path: "http", Parse: evidence.ParseFull, Facts: evidence.Facts{"method": k.method}}
	if actionOf(k.method) == Name+":other" {
		s.Facts["method"] = "other"
	}
	fact := func(name, v string) {
		if v != "" {
			s.Facts[name] = v
		}
	}
	switch {
	case grpc && k.call != "":
		action := Name + ":grpc"
		if service, _, _ := strings.Cut(k.call, "/"); isInfo(service) {
			action = Name + ":grpc_info"
		}
		s.Path, s.Text = "grpc", k.call
		s.Checks = []evidence.Check{{Action: action, Object: k.call}}
	case k.route != nil:
		s.Checks = []evidence.Check{{Action: actionOf(k.method), Object: k.route.Path}}
		s.Text = k.method + " " + k.route.Path
		fact("route", k.route.Path)
		fact("operation", k.route.ID)
	default:
		s.Parse = evidence.ParseOpaque
		s.Checks = []evidence.Check{{Action: actionOf(k.method)}, {Action: Name + ":opaque"}}
	}
	if k.query != "" {
		s.Facts["query"] = strings.Split(k.query, "&")
		if s.Text != "" {
			s.Text += "?" + k.query
		}
	}
	if k.upgrade {
		s.Path, s.Parse = "websocket", evidence.ParseOpaque
		s.Checks = append(s.Checks, evidence.Check{Action: Name + ":websocket", Object: s.Checks[0].Object})
	}
	fact("content_type", k.media)
	if k.stripped != "" {
		s.Facts["stripped"] = strings.Split(k.stripped, " ")
	}
	s.Verb = classOf(s.Checks)
	return s
}

// queryOf returns the names of a query's parameters, sorted, each once, and
// joined: those that the route declares, and "*" for others.
func queryOf(r *route, query string) string {
	if query == "" {
		return ""
	}
	var names []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if name == "" {
			continue
		}
		if r == nil || !slices.Contains(r.Query, name) {
			name = "*"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, "&")
}

// media are the types of content that records name; others are "other".
var media = []string{
	"application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "application/xml", "text/xml",
	"application/octet-stream", "application/x-ndjson", "application/merge-patch+json", "application/json-patch+json", "application/graphql",
	"application/yaml", "text/csv",
}

func mediaOf(a *asked) string {
	if a.media == "" || a.length == 0 || a.grpc {
		return ""
	}
	if slices.Contains(media, a.media) { // as most are written
		return a.media
	}
	t, _, err := mime.ParseMediaType(a.media)
	if err != nil || !slices.Contains(media, t) {
		return "other"
	}
	return t
}

// call is the path of a gRPC call: "/" package "." service "/" method.
var call = regexp.MustCompile(`^/([A-Za-z_][A-Za-z0-9_.]{0,254}/[A-Za-z_][A-Za-z0-9_]{0,127})$`)

// callOf returns service and method of a gRPC call, or "".
func callOf(path string) string {
	if m := call.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return ""
}

// isInfo reports whether a gRPC service only tells about others.
func isInfo(service string) bool {
	switch service {
	case "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection":
		return true
	}
	return false
}

// Understand returns the shape of a request, written as an agent would tell it
// to somebody: a method, a path with its query, and behind a space a JSON
// content if there is one. It is for explaining.
func Understand(res Resource, text string) (*evidence.Shape, error) {
	method, rest, ok := strings.Cut(strings.TrimSpace(text), " ")
	target, content, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if !ok || target == "" || target[0] != '/' {
		return nil, fmt.Errorf("%q is not a request: want METHOD /path[?query] [JSON], or GRPC /package.Service/Method", text)
	}
	path, query, _ := strings.Cut(target, "?")
	path, err := httpgate.NormalPath(path)
	if err != nil {
		return nil, err
	}
	a := asked{method: strings.ToUpper(method), path: path, query: query, length: int64(len(content))}
	if a.grpc = a.method == "GRPC"; a.grpc {
		a.method = http.MethodPost
	}
	if content != "" {
		if !json.Valid([]byte(content)) {
			return nil, fmt.Errorf("the content of %q is not JSON", text)
		}
		a.content, a.media = []byte(content), "application/json"
	}
	return new(shapes).of(&res, &a), nil
}
