package kubernetes_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// gateway is the protocol between agents and a server, with a Gate that allows
// everything unless it is told otherwise.
type gateway struct {
	*prototest.Gate
	t       *testing.T
	address string
}

// startGateway puts a gateway before a server that handler is.
func startGateway(t *testing.T, handler http.HandlerFunc, r kubernetes.Resource) *gateway {
	t.Helper()
	up := httptest.NewServer(handler)
	t.Cleanup(up.Close)
	return startGatewayTo(t, protocol.Upstream{Address: up.Listener.Addr().String(), Header: bearer("account")}, r)
}

func bearer(token string) func(context.Context) (string, string, error) {
	return func(context.Context) (string, string, error) { return "Authorization", "Bearer " + token, nil }
}

func startGatewayTo(t *testing.T, up protocol.Upstream, r kubernetes.Resource) *gateway {
	t.Helper()
	g := &gateway{Gate: &prototest.Gate{Upstream: up}, t: t}
	p := newProtocol(r, slog.New(slog.DiscardHandler), time.Minute)
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
		}
		l.Close()
		cancel()
		wg.Wait()
	})
	return g
}

func (g *gateway) dial() net.Conn {
	g.t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

func (g *gateway) agent(version int) *agent { return newAgent(g.dial(), prototest.Token, version) }

// last is the command that began last, once it has ended.
func (g *gateway) last() *prototest.Exchange {
	g.t.Helper()
	sessions := g.Sessions()
	if len(sessions) == 0 {
		g.t.Fatal("no session")
	}
	exchanges := sessions[len(sessions)-1].Exchanges()
	if len(exchanges) == 0 {
		g.t.Fatal("no command")
	}
	return exchanges[len(exchanges)-1]
}

// raw asks in bytes that no client would write, and reads the status of the
// answer.
func (g *gateway) raw(request string) (status int, body string) {
	g.t.Helper()
	conn := g.dial()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	head, content, _ := strings.Cut(request, "\n\n")
	head = strings.ReplaceAll(head, "\n", "\r\n")
	fmt.Fprintf(conn, "%s\r\nHost: kube\r\nAuthorization: Bearer %s\r\n\r\n%s", head, prototest.Token, content)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		g.t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		g.t.Fatalf("%q: %v", request, err)
	}
	return resp.StatusCode, string(b)
}

// The cluster is told who asks by the gateway alone, and its log leads to the
// record.
func TestTheClusterKnowsWhoAsks(t *testing.T) {
	var seen http.Header
	g := startGateway(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		fmt.Fprint(w, "{}")
	}, kubernetes.Resource{UserPrefix: "agent:", Groups: []string{"agents", "fleet"}, Extra: true})
	for version := 1; version <= 2; version++ {
		got, err := g.agent(version).do("GET", "/api/v1/pods", "", "Audit-ID", "forged", "X-Remote-User", "root", "X-Remote-Extra-Scopes", "all", "X-Forwarded-For", "10.0.0.1")
		if err != nil || got.Status != http.StatusOK {
			t.Fatalf("%+v, %v", got, err)
		}
		for name, want := range map[string]string{
			"Impersonate-User": "agent:agent-1", "Impersonate-Group": "agents fleet", "Authorization": "Bearer account",
			"Impersonate-Extra-Exhibit-Session": g.Sessions()[0].ID(), "Impersonate-Extra-Exhibit-Ticket": "T-1", "Impersonate-Extra-Exhibit-Principal": "",
			"Audit-Id": g.last().Position().String(), "X-Remote-User": "", "X-Remote-Extra-Scopes": "", "X-Forwarded-For": "",
		} {
			if got := strings.Join(seen[name], " "); got != want {
				t.Errorf("HTTP/%d: %s is %q, want %q", version, name, got, want)
			}
		}
	}
	if s := g.last().Shape; !slices.Contains(s.Facts["stripped"].([]string), "x-remote-user") {
		t.Errorf("what was taken off is not on record: %v", s.Facts)
	}
	for _, name := range []string{"Impersonate-User", "Impersonate-Group", "impersonate-uid", "Impersonate-Extra-x", "Impersonate_User"} {
		seen = nil
		status, body := g.raw("GET /api/v1/pods HTTP/1.1\n" + name + ": system:admin")
		x := g.last()
		if status != http.StatusForbidden || seen != nil || !x.Skipped() || x.Shape.Checks[0].Action != "kubernetes:impersonate" || !strings.Contains(body, `"reason":"Forbidden"`) {
			t.Errorf("%s: %d %s, %+v", name, status, body, x.Shape)
		}
	}
}

// A refusal is a Status, as the API's own are.
func TestRefusals(t *testing.T) {
	g := startGateway(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, kubernetes.Resource{})
	g.Decide = func(c *evidence.Command) evidence.Decision {
		if c.Verb == evidence.VerbWrite {
			return evidence.Decision{Effect: evidence.Deny, Rules: []string{"no-writes"}, Reason: "rule no-writes forbids it; hint: don't"}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
	status := func(got answer) (s metav1.Status) {
		t.Helper()
		if err := json.Unmarshal([]byte(got.Body), &s); err != nil || s.Kind != "Status" || s.APIVersion != "v1" || s.Status != metav1.StatusFailure || int(s.Code) != got.Status || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v: %+v", err, got)
		}
		return s
	}
	for version := 1; version <= 2; version++ {
		got, err := g.agent(version).do("DELETE", "/api/v1/namespaces/shop/pods/web", "")
		if err != nil {
			t.Fatal(err)
		}
		s := status(got)
		want := []metav1.StatusCause{{Type: "ExhibitCommand", Message: g.last().Position().String()}, {Type: "ExhibitRule", Message: "no-writes"}}
		if s.Reason != metav1.StatusReasonForbidden || !strings.Contains(s.Message, "rule no-writes forbids it; hint: don't") || !slices.Equal(s.Details.Causes, want) {
			t.Errorf("%+v", s)
		}
	}
	a := g.agent(1)
	a.token = "another"
	got, err := a.do("GET", "/version", "")
	if err != nil {
		t.Fatal(err)
	}
	if s := status(got); s.Reason != metav1.StatusReasonUnauthorized {
		t.Errorf("%+v", s)
	}
	got, err = g.agent(1).do("POST", "/api/v1/namespaces/shop/pods", strings.Repeat(" ", kubernetes.MaxContent+1))
	if err != nil {
		t.Fatal(err)
	}
	if s := status(got); s.Reason != metav1.StatusReasonRequestEntityTooLarge || !g.last().Skipped() {
		t.Errorf("%+v", s)
	}
}

// What is on record of contents: those of Secrets nowhere, large ones digested.
func TestWhatIsKeptOfContents(t *testing.T) {
	var got []byte
	g := startGateway(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		fmt.Fprint(w, "{}")
	}, kubernetes.Resource{})
	large := `{"kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`
	for _, c := range []struct {
		method, path, content, text string
		kept                        bool
	}{
		{"POST", "/api/v1/namespaces/shop/configmaps", `{"kind":"ConfigMap","metadata":{"name":"c"}}`, "create configmaps/shop/c", true},
		{"POST", "/api/v1/namespaces/shop/configmaps", large, "create configmaps/shop/c", false},
		{"POST", "/api/v1/namespaces/shop/secrets", `{"kind":"Secret","metadata":{"name":"s"},"stringData":{"a":"hunter2"}}`, "create secrets/shop/s", false},
		{"PUT", "/api/v1/namespaces/shop/secrets/s", `{"kind":"Secret","metadata":{"name":"s"},"stringData":{"a":"hunter2"}}`, "update secrets/shop/s", false},
		{"POST", "/api/v1/namespaces/shop/secrets", `hunter2`, "create secrets/shop", false},
	} {
		for version := 1; version <= 2; version++ {
			if err := g.agent(version).ask(c.method, c.path, c.content); err != nil || string(got) != c.content {
				t.Errorf("%s: %v, %.100q came", c.text, err, got)
			}
			x := g.last()
			kept := len(x.Params) == 1 && string(x.Params[0]) == c.content
			if x.Text != c.text || kept != c.kept || !c.kept && (len(x.Params) > 0 || x.Observed(evidence.ToUpstream) != uint64(len(c.content))) {
				t.Errorf("%s: %q, %d kept, %d observed", c.text, x.Text, len(x.Params), x.Observed(evidence.ToUpstream))
			}
			if bytes.Contains(x.Raw, []byte("hunter2")) {
				t.Errorf("%s: the value of a Secret is on record", c.text)
			}
		}
	}
}

// A watch streams, event by event, and ends as the server ends it.
func TestAWatchStreams(t *testing.T) {
	const event = `{"type":"ADDED"}`
	for version := 1; version <= 2; version++ {
		next := make(chan bool)
		g := startGateway(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json;stream=watch")
			for {
				select {
				case more := <-next:
					if !more {
						return
					}
				case <-r.Context().Done():
					return
				}
				fmt.Fprintln(w, event)
				w.(http.Flusher).Flush()
			}
		}, kubernetes.Resource{})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gateway.test/api/v1/pods?watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+prototest.Token)
		go func() { next <- true }()
		resp, err := g.agent(version).client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		events := bufio.NewScanner(resp.Body)
		for i := range 3 {
			if !events.Scan() || events.Text() != event {
				t.Errorf("HTTP/%d: event %d is %q, %v", version, i, events.Text(), events.Err())
			}
			next <- i < 2
		}
		if events.Scan() || events.Err() != nil {
			t.Errorf("HTTP/%d: the end: %q, %v", version, events.Text(), events.Err())
		}
		resp.Body.Close()
		if o := g.last().Outcome(); o.Class != evidence.OK || o.Reply != 3*uint64(len(event)+1) || g.last().Text != "watch pods" {
			t.Errorf("HTTP/%d: %+v of %s", version, o, g.last().Text)
		}
	}
}
