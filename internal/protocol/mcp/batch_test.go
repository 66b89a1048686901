package mcp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
)

// begin initializes a session of a server of the SDK, in a revision.
func (a *agent) begin(t *testing.T, path, version string) (session string) {
	t.Helper()
	got, err := a.do("POST", path, ask(0, "initialize", fmt.Sprintf(`{"protocolVersion":%q,"capabilities":{"elicitation":{}},"clientInfo":{"name":"a","version":"1"}}`, version)))
	if err != nil || got.status != http.StatusOK || !strings.Contains(got.body, `"protocolVersion":"`+version+`"`) {
		t.Fatalf("initialize: %+v, %v", got, err)
	}
	session = got.header.Get("Mcp-Session-Id")
	if got, err := a.do("POST", path, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "Mcp-Session-Id", session); err != nil || got.status != http.StatusAccepted {
		t.Fatalf("initialized: %+v, %v", got, err)
	}
	return session
}

// answers are the answers in a text, by id: an array, or a stream of events.
func answersIn(t *testing.T, text string) map[string]string {
	t.Helper()
	var all []json.RawMessage
	if json.Unmarshal([]byte(text), &all) != nil {
		for line := range strings.SplitSeq(text, "\n") {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				all = append(all, json.RawMessage(data))
			}
		}
	}
	found := make(map[string]string)
	for _, one := range all {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.Unmarshal(one, &m); err != nil {
			t.Fatalf("%s: %v", one, err)
		}
		if m.Method == "" {
			found[string(m.ID)] = string(one)
		}
	}
	return found
}

func TestEachMessageOfABatchIsDecidedByItself(t *testing.T) {
	for _, upstream := range []string{"http", "stdio"} {
		t.Run(upstream, func(t *testing.T) {
			var g *gateway
			if upstream == "http" {
				g = startGateway(t, serve(t, sdkServer(), nil), mcp.Resource{AcceptAll: true})
			} else {
				g = startGateway(t, "", itself(mcp.Resource{AcceptAll: true}))
			}
			g.Decide = refuse("drop")
			a := g.agent()
			session := a.begin(t, "/svc", "2025-03-26")
			got := a.must(t, "["+strings.Join([]string{
				`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`,
				ask(1, "tools/call", `{"name":"echo","arguments":{"text":"hi"}}`),
				ask(2, "tools/call", `{"name":"drop"}`),
				ask(3, "tools/call", `{"name":"nothing"}`),
				ask(4, "resources/read", `{"uri":"file:///readme"}`),
				ask(5, "x/y", `{}`),
			}, " ,\n")+"]", "Mcp-Session-Id", session)
			answers := answersIn(t, got)
			for id, want := range map[string]string{"1": "you said hi", "2": "not here", "3": "the server lists no such tool", "4": `"text":"content"`, "5": `"error"`} {
				if !strings.Contains(answers[id], want) {
					t.Errorf("%s is answered by %s, without %s", id, answers[id], want)
				}
			}
			if len(answers) != 5 {
				t.Errorf("%d answers in %s", len(answers), got)
			}
			for _, want := range []string{
				`call write "tools/call echo" mcp:call[echo]: ok`, `call write "tools/call drop" mcp:call[drop]: denied`,
				`call opaque "tools/call ?" mcp:call[?] mcp:held[?]: skipped`, `call read "resources/read file:///readme" mcp:read_resource[file:///readme]: ok`,
				`call session "notifications/roots/list_changed" mcp:notify[]: ok*`,
			} {
				g.has(want)
			}
			for _, x := range g.Sessions()[0].Exchanges() {
				if strings.Contains(string(x.Raw), "[{") {
					t.Errorf("on record is %s", x.Raw)
				}
			}
			// A batch without requests has no answers.
			if got, err := a.do("POST", "/svc", `[{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}]`, "Mcp-Session-Id", session); err != nil || got.status != http.StatusAccepted || got.body != "" {
				t.Errorf("%+v, %v", got, err)
			}
			// One of one request is answered by an array of one.
			if got := a.must(t, "["+ask(6, "ping", "{}")+"]", "Mcp-Session-Id", session); upstream == "http" && !strings.Contains(got, `"id":6`) {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestABatchOfPlainAnswersIsAnArray(t *testing.T) {
	s := &script{tools: toolA}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	got := g.agent().must(t, " [ "+ask(1, "ping", "{}")+" ]")
	if got != `[{"jsonrpc":"2.0","id":1,"result":{"content":[]}}]` {
		t.Errorf("%s", got)
	}
	if got := s.received(); len(got) != 1 || got[0] != "POST "+ask(1, "ping", "{}") {
		t.Errorf("the server got %q", got)
	}
}

func TestBatchesThatAreRefused(t *testing.T) {
	s := &script{tools: toolA}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	a := g.agent()
	many := strings.Repeat(ask(1, "ping", "{}")+",", 33)
	for name, c := range map[string]struct {
		content string
		fields  []string
		says    string
	}{
		"of a later revision": {"[" + ask(1, "ping", "{}") + "]", []string{"Mcp-Protocol-Version", "2025-06-18"}, "only revision 2025-03-26"},
		"of a stateless one":  {"[" + ask(1, "ping", `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`) + "]", nil, "stands in no batch"},
		"an initialize":       {"[" + ask(1, "initialize", "{}") + "]", nil, "stands in no batch"},
		"empty":               {" []", nil, "between 1 and 32"},
		"too many":            {"[" + many[:len(many)-1] + "]", nil, "between 1 and 32"},
		"an id twice":         {"[" + ask(1, "ping", "{}") + "," + ask(1, "ping", "{}") + "]", nil, "twice in the batch"},
		"a batch in a batch":  {"[[" + ask(1, "ping", "{}") + "]]", nil, "not a JSON-RPC 2.0 message"},
		"a bad one":           {"[" + ask(1, "ping", "{}") + `,{"jsonrpc":"2.0","id":2,"method":"x","method":"y"}]`, nil, "twice in an object"},
		"a method for all":    {"[" + ask(1, "ping", "{}") + "]", []string{"Mcp-Method", "ping"}, "header field"},
	} {
		got, err := a.do("POST", "/svc", c.content, c.fields...)
		if err != nil || got.status != http.StatusBadRequest || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := a.do("POST", "/svc", "["+ask(1, "ping", "{}")+"]", "Mcp-Session-Id", "session-9"); err != nil || got.status != http.StatusNotFound {
		t.Errorf("of no session: %+v, %v", got, err)
	}
	if got := s.received(); len(got) > 0 {
		t.Errorf("the server got %q", got)
	}
	for _, x := range g.Sessions()[0].Exchanges() {
		if l := line(x); l != `http opaque "" mcp:malformed[]: skipped` {
			t.Error(l)
		}
	}
}

func TestAMessageOfABatchMayBeCancelled(t *testing.T) {
	s := &script{tools: toolA}
	arrived, cancelled := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, _ *http.Request, _, method string) bool {
		switch method {
		case "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
			w.(http.Flusher).Flush()
			close(arrived)
			<-cancelled
			return true
		case "notifications/cancelled":
			defer close(cancelled)
		}
		return false
	}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	a, b := g.agent(), g.agent()
	a.must(t, ask(0, "initialize", "{}"))
	done := make(chan string)
	go func() {
		got, err := a.do("POST", "/svc", "["+ask(1, "tools/call", `{"name":"a"}`)+","+ask(2, "ping", "{}")+"]", "Mcp-Session-Id", "session-1")
		if err != nil {
			t.Error(err)
		}
		done <- got.body
	}()
	<-arrived
	// The id is in flight, in a batch or not.
	if got, err := b.do("POST", "/svc", ask(1, "ping", "{}"), "Mcp-Session-Id", "session-1"); err != nil || got.status != http.StatusBadRequest {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := b.do("POST", "/svc", `[{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}]`, "Mcp-Session-Id", "session-1"); err != nil || got.status != http.StatusAccepted {
		t.Errorf("%+v, %v", got, err)
	}
	select {
	case got := <-done:
		if answers := answersIn(t, got); len(answers) != 1 || answers["2"] == "" {
			t.Errorf("the agent sees %s", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the batch has no end")
	}
	g.has(`call write "tools/call a" mcp:call[a]: cancelled`)
	g.has(`call session "ping" mcp:ping[]: ok`)
}
