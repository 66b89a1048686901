package mcp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// gateway is a Protocol before a server, and the gate that it asks.
type gateway struct {
	*prototest.Gate
	t       *testing.T
	address string
	url     string
	version string // that clients ask for; "" is the newest

	resource atomic.Pointer[mcp.Resource]
	endpoint atomic.Pointer[mcp.Endpoint]

	mu      sync.Mutex
	imports []evidence.ImportBody
}

// startGateway starts a gateway before a server at an address; "" is one that
// the resource says how to start.
func startGateway(t *testing.T, upstream string, r mcp.Resource) *gateway {
	t.Helper()
	return startGatewayLogging(t, upstream, r, slog.DiscardHandler)
}

// startGatewayAsking starts one where agents can ask people for access.
func startGatewayAsking(t *testing.T, ask func(context.Context, mcp.Wish) (mcp.Wished, error)) *gateway {
	t.Helper()
	return startGatewayLogging(t, (&script{}).start(t), mcp.Resource{AcceptAll: true}, slog.DiscardHandler, func(c *mcp.Config) { c.Ask = ask })
}

// lockedBuffer is a buffer that many may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func startGatewayLogging(t *testing.T, upstream string, r mcp.Resource, log slog.Handler, edit ...func(*mcp.Config)) *gateway {
	t.Helper()
	g := &gateway{Gate: &prototest.Gate{Upstream: protocol.Upstream{Address: upstream}}, t: t}
	r.Resource, r.Prefix, r.Endpoint = "svc", "/svc", "/mcp"
	g.resource.Store(&r)
	c := mcp.Config{
		Resources:   func() []mcp.Resource { return []mcp.Resource{*g.resource.Load()} },
		Definitions: mcp.NewDefinitions(mcp.DefinitionsConfig{Record: g.record, Logger: slog.New(log)}),
		Issuer:      func() string { return "https://issuer.example" },
		Limits:      httpgate.Limits{Idle: time.Minute}, Logger: slog.New(log),
	}
	for _, e := range edit {
		e(&c)
	}
	g.listen(mcp.New(c))
	g.url = "http://" + g.address + "/svc"
	return g
}

// startEndpoint starts a gateway before servers that are one endpoint, at /all:
// each is a resource of its own, at an address or as the resource says. One of
// the name x is the resource r-x.
func startEndpoint(t *testing.T, upstreams map[string]string, resources map[string]mcp.Resource) *gateway {
	t.Helper()
	g := &gateway{t: t, Gate: &prototest.Gate{UpstreamOf: func(to protocol.Target) protocol.Upstream {
		return protocol.Upstream{Address: upstreams[strings.TrimPrefix(to.Resource, "r-")]}
	}}}
	var list []mcp.Resource
	e := mcp.Endpoint{Prefix: "/all"}
	for _, name := range slices.Sorted(maps.Keys(upstreams)) {
		r, ok := resources[name]
		if !ok {
			r.AcceptAll = true
		}
		r.Resource, r.Prefix, r.Endpoint = "r-"+name, "/"+name, "/mcp"
		list = append(list, r)
		e.Members = append(e.Members, mcp.Member{Name: name, Resource: r.Resource})
	}
	g.endpoint.Store(&e)
	g.listen(mcp.New(mcp.Config{
		Resources:   func() []mcp.Resource { return list },
		Endpoints:   func() []mcp.Endpoint { return []mcp.Endpoint{*g.endpoint.Load()} },
		Definitions: mcp.NewDefinitions(mcp.DefinitionsConfig{Record: g.record, Logger: slog.New(slog.DiscardHandler)}),
		Issuer:      func() string { return "https://issuer.example" },
		Limits:      httpgate.Limits{Idle: time.Minute}, Logger: slog.New(slog.DiscardHandler),
	}))
	g.url = "http://" + g.address + "/all"
	return g
}

// listen serves a protocol until the test ends.
func (g *gateway) listen(p *mcp.Protocol) {
	t := g.t
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if err := p.Serve(ctx, c, g.Gate); err != nil {
					t.Logf("serve: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		for _, s := range g.Sessions() {
			s.Kill(context.Canceled)
			if _, err := s.Wait(10 * time.Second); err != nil {
				t.Error(err)
			}
			for _, f := range s.Faults() {
				t.Errorf("session %s: %s", s.ID(), f)
			}
			if t.Failed() {
				t.Logf("session %s\n%s", s.ID(), trace(s))
			}
		}
		l.Close()
		cancel()
		wg.Wait()
	})
}

func (g *gateway) record(_ context.Context, _ string, b evidence.ImportBody) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.imports = append(g.imports, b)
	return nil
}

// client is an HTTP client that shows a token.
func (g *gateway) client() *http.Client { return &http.Client{Transport: bearer(prototest.Token)} }

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// agent is a client that says each byte itself.
func (g *gateway) agent() *agent {
	g.t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	a := newAgent(conn, prototest.Token)
	g.t.Cleanup(func() { a.Close(); conn.Close() })
	return a
}

// line writes a command as a line.
func line(x *prototest.Exchange) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %q", x.Path, x.Verb, x.Text)
	for _, c := range x.Checks {
		fmt.Fprintf(&b, " %s[%s]", c.Action, c.Object)
	}
	outcome := "open"
	if o := x.Outcome(); o != nil {
		outcome = strings.TrimSpace(string(o.Class) + " " + o.Code)
	}
	return b.String() + ": " + outcome
}

// trace is what a session did, a line for each command.
func trace(s *prototest.Session) string {
	var b strings.Builder
	for _, x := range s.Exchanges() {
		b.WriteString(line(x) + "\n")
	}
	for _, n := range s.Notes() {
		fmt.Fprintf(&b, "note %s %s\n", n.Kind, n.Detail)
	}
	for _, a := range s.Alerts() {
		fmt.Fprintf(&b, "alert %s: %s\n", a.Rule, a.Text)
	}
	return b.String()
}

// has waits for a command that is written like want, which may end in "*".
func (g *gateway) has(want ...string) {
	g.t.Helper()
	is := func(l string) bool {
		return slices.ContainsFunc(want, func(w string) bool {
			prefix, any := strings.CutSuffix(w, "*")
			return l == w || any && strings.HasPrefix(l, prefix)
		})
	}
	for range 300 {
		for _, s := range g.Sessions() {
			if slices.ContainsFunc(s.Exchanges(), func(x *prototest.Exchange) bool { return is(line(x)) }) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Errorf("there is no command %s", strings.Join(want, " or "))
}

// refuse decides that commands with one of the actions, or on one of the
// objects, are denied.
func refuse(what ...string) func(*evidence.Command) evidence.Decision {
	return func(c *evidence.Command) evidence.Decision {
		for _, k := range c.Checks {
			if slices.Contains(what, k.Action) || slices.Contains(what, k.Object) {
				return evidence.Decision{Effect: evidence.Deny, Reason: "not here", Rules: []string{"test"}}
			}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
}
