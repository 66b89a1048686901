package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// of waits for a command of one resource that is written like want, which may
// end in "*".
func (g *gateway) of(resource, want string) {
	g.t.Helper()
	prefix, any := strings.CutSuffix(want, "*")
	for range 300 {
		for _, s := range g.Sessions() {
			if s.Target.Resource == resource && slices.ContainsFunc(s.Exchanges(), func(x *prototest.Exchange) bool {
				l := line(x)
				return l == want || any && strings.HasPrefix(l, prefix)
			}) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Errorf("%s has no command %s", resource, want)
}

// lines are the commands of a resource.
func (g *gateway) lines(resource string) (list []string) {
	for _, s := range g.Sessions() {
		if s.Target.Resource == resource {
			for _, x := range s.Exchanges() {
				list = append(list, line(x))
			}
		}
	}
	return list
}

// pairs are two servers of the SDK as one endpoint, in each way in which the two
// can be reached.
func pairs(t *testing.T, run func(t *testing.T, start func() *gateway)) {
	stateless := &sdk.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true}
	for _, version := range []string{"2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"} {
		t.Run("two over HTTP, "+version, func(t *testing.T) {
			run(t, func() *gateway {
				var o *sdk.StreamableHTTPOptions
				if version == "2026-07-28" {
					o = stateless
				}
				g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), o), "right": serve(t, sdkServer(), o)}, nil)
				g.version = version
				return g
			})
		})
	}
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run("HTTP and stdio, "+version, func(t *testing.T) {
			run(t, func() *gateway {
				var o *sdk.StreamableHTTPOptions
				if version == "2026-07-28" {
					o = stateless
				}
				g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), o), "right": ""}, map[string]mcp.Resource{"right": itself(mcp.Resource{AcceptAll: true})})
				g.version = version
				return g
			})
		})
	}
}

func TestServersAreOneEndpoint(t *testing.T) {
	pairs(t, func(t *testing.T, start func() *gateway) {
		g := start()
		g.Decide = refuse("drop", "file:///secret")
		cs := connect(t, g, nil)
		if got := cs.InitializeResult().ProtocolVersion; got != g.version {
			t.Errorf("the session is of revision %s, want %s", got, g.version)
		}
		ctx := t.Context()
		var names []string
		for tool, err := range cs.Tools(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, tool.Name)
		}
		want := "left__ask left__ask-more left__echo left__fail left__slow left__stop right__ask right__ask-more right__echo right__fail right__slow right__stop exhibit__how_to_ask exhibit__what_did_i_do exhibit__what_may_i_do exhibit__whoami"
		if got := strings.Join(names, " "); got != want {
			t.Errorf("the agent sees %s\nwant %s", got, want)
		}
		for tool, want := range map[string]string{
			"left__echo": "you said hi", "right__echo": "you said hi", "right__fail": "is error: it failed", "left__drop": "is error: refused by the access gateway: not here*",
			"right__none": "is error: refused by the access gateway: the server lists no such tool*",
			"echo":        "is error: refused by the access gateway: no member*", "other__echo": "is error: refused by the access gateway: no member*",
			"left____echo": "is error: refused by the access gateway: the server lists no such tool*", "__echo": "is error: refused by the access gateway: no member*",
		} {
			if got := call(t, cs, tool, "hi"); got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, want[:len(want)-1])) {
				t.Errorf("%s says %q, want %q", tool, got, want)
			}
		}
		prompts, err := cs.ListPrompts(ctx, nil)
		if err != nil || len(prompts.Prompts) != 2 || prompts.Prompts[1].Name != "right__greet" {
			t.Errorf("prompts: %+v, %v", prompts, err)
		}
		if p, err := cs.GetPrompt(ctx, &sdk.GetPromptParams{Name: "right__greet"}); err != nil || len(p.Messages) != 1 {
			t.Errorf("prompt: %+v, %v", p, err)
		}
		res, err := cs.ListResources(ctx, nil)
		if err != nil || len(res.Resources) != 2 || res.Resources[0].URI != "left+file:///readme" || res.Resources[1].URI != "right+file:///readme" {
			t.Errorf("resources: %+v, %v", res, err)
		}
		templates, err := cs.ListResourceTemplates(ctx, nil)
		if err != nil || len(templates.ResourceTemplates) != 2 || templates.ResourceTemplates[0].URITemplate != "left+note://{id}/text" {
			t.Errorf("templates: %+v, %v", templates, err)
		}
		for uri, allowed := range map[string]bool{"left+file:///readme": true, "right+note://7/text": true, "left+file:///secret": false, "file:///readme": false, "other+file:///readme": false} {
			r, err := cs.ReadResource(ctx, &sdk.ReadResourceParams{URI: uri})
			if (err == nil) != allowed || allowed && r.Contents[0].URI != uri {
				t.Errorf("%s: %+v, %v", uri, r, err)
			}
		}
		for _, ref := range []*sdk.CompleteReference{{Type: "ref/prompt", Name: "left__greet"}, {Type: "ref/resource", URI: "right+note://{id}/text"}} {
			if _, err := cs.Complete(ctx, &sdk.CompleteParams{Ref: ref, Argument: sdk.CompleteParamsArgument{Name: "x"}}); err != nil {
				t.Errorf("%+v: %v", ref, err)
			}
		}
		for resource, all := range map[string][]string{
			"r-left": {
				`call write "tools/call echo" mcp:call[echo]: ok`, `call write "tools/call drop" mcp:call[drop]: denied`, `call read "tools/list" mcp:list[]: ok`,
				`call read "resources/read file:///readme" mcp:read_resource[file:///readme]: ok`, `call read "resources/read file:///secret" mcp:read_resource[file:///secret]: denied`,
				`call read "completion/complete greet" mcp:complete[greet]: ok`, `http opaque "" mcp:malformed[]: skipped`,
			},
			"r-right": {
				`call write "tools/call echo" mcp:call[echo]: ok`, `call write "tools/call fail" mcp:call[fail]: error tool_error`, `call opaque "tools/call ?" mcp:call[?] mcp:held[?]: skipped`,
				`call read "prompts/get greet" mcp:get_prompt[greet]: ok`, `call read "resources/read note://{id}/text" mcp:read_resource[note://{id}/text]: ok`,
				`call read "completion/complete note://{id}/text" mcp:complete[note://{id}/text]: ok`,
			},
		} {
			for _, want := range all {
				g.of(resource, want)
			}
		}
		for _, l := range append(g.lines("r-left"), g.lines("r-right")...) {
			if strings.Contains(l, "__") || strings.Contains(l, "left") || strings.Contains(l, "right") {
				t.Errorf("the record knows the endpoint's name of it: %s", l)
			}
		}
		if got := len(g.Sessions()); got != 2 {
			t.Errorf("%d sessions", got)
		}
	})
}

func TestWhatMembersAskComesFromWhoAsks(t *testing.T) {
	pairs(t, func(t *testing.T, start func() *gateway) {
		g := start()
		var asked []string
		o := &sdk.ClientOptions{ElicitationHandler: func(_ context.Context, r *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			asked = append(asked, r.Params.Message)
			return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		}}
		cs := connectAs(t, g, g.url, o)
		tool, want := "ask", "accept Ada"
		if g.version >= "2026-07-28" || g.version < "2025-06-18" { // the one can't, the other doesn't
			tool, want = "ask-more", "thank you"
		}
		if g.version < "2026-07-28" && tool == "ask-more" {
			t.Skip("this revision has no questions")
		}
		for _, member := range []string{"right", "left"} {
			if got := call(t, cs, member+"__"+tool, ""); got != want {
				t.Errorf("%s: %s", member, got)
			}
		}
		if strings.Join(asked, "|") != "right: your name?|left: your name?" {
			t.Errorf("the agent's user was asked %q", asked)
		}
		for _, resource := range []string{"r-left", "r-right"} {
			g.of(resource, `server admin *`)
			if tool == "ask" {
				g.of(resource, `answer admin "" mcp:elicitation[]: ok*`)
			}
		}
	})
}

func TestCancellationAndProgressReachTheRightMember(t *testing.T) {
	pairs(t, func(t *testing.T, start func() *gateway) {
		g := start()
		progress := make(chan any, 4)
		cs := connectAs(t, g, g.url, &sdk.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
			progress <- r.Params.ProgressToken
		}})
		ends := make(map[string]func() error)
		for _, member := range []string{"left", "right"} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				p := &sdk.CallToolParams{Name: member + "__slow", Arguments: text{}}
				p.SetProgressToken("of " + member)
				_, err := cs.CallTool(ctx, p)
				done <- err
			}()
			select {
			case token := <-progress:
				if token != "of "+member {
					t.Errorf("progress of %v", token)
				}
			case err := <-done:
				t.Fatal(err)
			case <-time.After(10 * time.Second):
				t.Fatal("no progress")
			}
			ends[member] = func() error { cancel(); return <-done }
		}
		if err := ends["right"](); err == nil {
			t.Error("it was not cancelled")
		}
		g.of("r-right", `call write "tools/call slow" mcp:call[slow]: *`)
		for range 100 {
			if !slices.Contains(g.lines("r-right"), `call write "tools/call slow" mcp:call[slow]: open`) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if lines := g.lines("r-right"); slices.Contains(lines, `call write "tools/call slow" mcp:call[slow]: open`) || slices.Contains(lines, `call write "tools/call slow" mcp:call[slow]: in_doubt`) {
			t.Errorf("of the cancelled one is on record\n%s", strings.Join(lines, "\n"))
		}
		g.of("r-left", `call write "tools/call slow" mcp:call[slow]: open`)
		if err := ends["left"](); err == nil {
			t.Error("it was not cancelled")
		}
		if got := call(t, cs, "right__echo", "after"); got != "you said after" {
			t.Errorf("after it: %s", got)
		}
	})
}

// connectAs connects a client of the SDK with its own handlers.
func connectAs(t *testing.T, g *gateway, url string, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	cs, err := sdk.NewClient(&sdk.Implementation{Name: "client", Version: "1"}, o).Connect(t.Context(),
		&sdk.StreamableClientTransport{Endpoint: url, HTTPClient: g.client()}, &sdk.ClientSessionOptions{ProtocolVersion: g.version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cs.Close() })
	return cs
}

func TestAMemberThatIsDownFailsNoOther(t *testing.T) {
	for name, c := range map[string]struct {
		gone, refused bool
		says          string
	}{
		"it is down":                 {true, false, "the resource cannot be reached"},
		"the agent may not reach it": {false, true, "no grant"},
	} {
		t.Run(name, func(t *testing.T) {
			up := map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}
			if c.gone {
				up["left"] = freeAddress(t)
			}
			g := startEndpoint(t, up, nil)
			g.version = "2025-11-25"
			if c.refused {
				g.Refuse = func(_ protocol.Credential, to protocol.Target) error {
					if to.Resource == "r-left" {
						return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "no grant"}
					}
					return nil
				}
			}
			said := make(chan string, 8)
			cs := connectAs(t, g, g.url, &sdk.ClientOptions{LoggingMessageHandler: func(_ context.Context, r *sdk.LoggingMessageRequest) { //nolint:staticcheck // deprecated, and in use
				said <- fmt.Sprint(r.Params.Logger, " ", r.Params.Data)
			}})
			for i := range 2 {
				tools, err := cs.ListTools(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, tool := range tools.Tools {
					if strings.HasPrefix(tool.Name, "left") {
						t.Errorf("the agent sees %s", tool.Name)
					}
				}
				if len(tools.Tools) != 11 || !strings.Contains(fmt.Sprint(tools.Meta["exhibit/left_out"]), c.says) {
					t.Errorf("%d tools, %v", len(tools.Tools), tools.Meta)
				}
				if i == 0 {
					select {
					case got := <-said:
						if !strings.Contains(got, "exhibit left has no part in tools/list: ") || !strings.Contains(got, c.says) {
							t.Errorf("the agent is told %s", got)
						}
					case <-time.After(5 * time.Second):
						t.Error("the agent isn't told")
					}
				}
			}
			if got := call(t, cs, "right__echo", "x"); got != "you said x" {
				t.Errorf("the other one: %s", got)
			}
			if got := call(t, cs, "left__echo", "x"); !strings.Contains(got, c.says) {
				t.Errorf("asked by name: %s", got)
			}
			if len(said) > 0 {
				t.Errorf("the agent is told again: %s", <-said)
			}
		})
	}
}

func TestAMemberMayComeLateAndForget(t *testing.T) {
	address := freeAddress(t)
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": address}, nil)
	g.version = "2025-11-25"
	cs := connectAs(t, g, g.url, nil)
	if got := call(t, cs, "right__echo", "x"); !strings.Contains(got, "cannot be reached") {
		t.Errorf("before it is there: %s", got)
	}
	for _, first := range []bool{true, false} { // the second server doesn't know the sessions of the first
		h := http.Server{Addr: address, Handler: sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return sdkServer() }, nil), ReadHeaderTimeout: time.Second}
		go func() { _ = h.ListenAndServe() }()
		awaitListener(t, address)
		if got := call(t, cs, "right__echo", "x"); got != "you said x" {
			t.Errorf("first: %v; %s", first, got)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := call(t, cs, "left__echo", "x"); got != "you said x" {
		t.Errorf("the other one: %s", got)
	}
}

func TestASessionOfAnEndpointBelongsToWhoseItIs(t *testing.T) {
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}, nil)
	a := g.agent()
	session := a.begin(t, "/all", "2025-11-25")
	ping := ask(901, "ping", `{}`)
	if got, err := a.do("POST", "/all", ping, "Mcp-Session-Id", session); err != nil || got.status != http.StatusOK {
		t.Errorf("its own agent: %+v, %v", got, err)
	}
	// A member's own session is none of the endpoint's, nor the other way round.
	if got, err := a.do("POST", "/left", ping, "Mcp-Session-Id", session); err != nil || got.status != http.StatusNotFound {
		t.Errorf("at a member: %+v, %v", got, err)
	}
	g.Gate.Token = "another-agents-token"
	other := g.agent()
	other.token = g.Gate.Token
	for _, method := range []string{"POST", "GET", "DELETE"} {
		content := ""
		if method == "POST" {
			content = ping
		}
		if got, err := other.do(method, "/all", content, "Mcp-Session-Id", session); err != nil || got.status != http.StatusNotFound {
			t.Errorf("another agent's %s: %+v, %v", method, got, err)
		}
	}
	g.Gate.Token = ""
	if got, err := a.do("DELETE", "/all", "", "Mcp-Session-Id", session); err != nil || got.status != http.StatusOK {
		t.Errorf("the end: %+v, %v", got, err)
	}
	if got, err := a.do("POST", "/all", ping, "Mcp-Session-Id", session); err != nil || got.status != http.StatusNotFound {
		t.Errorf("after it: %+v, %v", got, err)
	}
	for _, resource := range []string{"r-left", "r-right"} {
		g.of(resource, `http session "DELETE" mcp:close[]: ok*`)
	}
}

func TestNobodyReachesAnEndpointWithoutACredential(t *testing.T) {
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}, nil)
	for _, token := range []string{"", "wrong"} {
		a := g.agent()
		a.token = token
		got, err := a.do("POST", "/all", ask(1, "initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a","version":"1"}}`))
		where := `Bearer resource_metadata="http://localhost/.well-known/oauth-protected-resource/all"`
		if err != nil || got.status != http.StatusUnauthorized || got.header.Get("Www-Authenticate") != where {
			t.Errorf("%q: %+v, %v", token, got, err)
		}
	}
	if _, targets := g.Opened(); len(targets) != 1 { // one failed login is one record, however many members there are
		t.Errorf("the gate was asked for %+v", targets)
	}
	if got, err := g.agent().do("GET", "/.well-known/oauth-protected-resource/all", ""); err != nil || got.status != http.StatusOK || !strings.Contains(got.body, `"resource":"http://localhost/all"`) {
		t.Errorf("%+v, %v", got, err)
	}
	g.Refuse = func(protocol.Credential, protocol.Target) error {
		return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "no grant"}
	}
	if got, err := g.agent().do("POST", "/all", ask(1, "ping", `{}`)); err != nil || got.status != http.StatusForbidden || !strings.Contains(got.body, "no grant") {
		t.Errorf("of an agent that may reach no member: %+v, %v", got, err)
	}
}

func TestMessagesToAnEndpointThatReachNobody(t *testing.T) {
	s, o := &script{tools: toolA}, &script{tools: toolA}
	g := startEndpoint(t, map[string]string{"left": s.start(t), "right": o.start(t)}, map[string]mcp.Resource{"left": {AcceptAll: true, Message: 1000}, "right": {AcceptAll: true, Message: 1000}})
	a := g.agent()
	for name, c := range map[string]struct {
		content string
		fields  []string
		status  int
		says    string
	}{
		"not JSON":            {"{", nil, 400, "-32700"},
		"a name twice":        {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"left__a","name":"right__a"}}`, nil, 400, "-32600"},
		"a name in capitals":  {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"left__a","NAME":"right__a"}}`, nil, 400, "-32600"},
		"another name":        {ask(1, "tools/call", `{"name":"left__a"}`), []string{"Mcp-Method", "tools/call", "Mcp-Name", "a"}, 400, "-32020"},
		"another type":        {ask(1, "ping", "{}"), []string{"Content-Type", "text/plain"}, 415, ""},
		"too large":           {ask(1, "ping", `{"x":"`+strings.Repeat("x", 70<<10)+`"}`), nil, 413, ""},
		"no such session":     {ask(1, "ping", "{}"), []string{"Mcp-Session-Id", "session-1"}, 404, ""},
		"an answer to none":   {`{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 400, "-32600"},
		"an answer to nobody": {`{"jsonrpc":"2.0","id":"other.n1","result":{}}`, nil, 400, "-32600"},
		"nobody's prompt":     {ask(1, "prompts/get", `{"name":"other__p"}`), nil, 200, "-32602"},
		"a task":              {ask(1, "tasks/get", `{"taskId":"x"}`), nil, 200, "-32601"},
		"an unknown method":   {ask(1, "x/y", `{}`), nil, 200, "-32601"},
		"a forged cursor":     {ask(1, "tools/list", `{"cursor":"eyJvdGhlciI6IngifQ"}`), nil, 200, "-32602"},
		"a bad cursor":        {ask(1, "tools/list", `{"cursor":"?"}`), nil, 200, "-32602"},
		"a notification":      {`{"jsonrpc":"2.0","method":"notifications/x"}`, nil, 202, ""},
		"a bad batch":         {"[" + ask(1, "ping", "{}") + "," + ask(1, "ping", "{}") + "]", nil, 400, "twice in the batch"},
	} {
		got, err := a.do("POST", "/all", c.content, c.fields...)
		if err != nil || got.status != c.status || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, path := range []string{"/all/other", "/all?x=1", "/all" + mcp.OwnPath} {
		if got, err := a.do("POST", path, ask(1, "ping", "{}")); err != nil || got.status != http.StatusNotFound {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	if got := append(s.received(), o.received()...); len(got) > 0 {
		t.Errorf("the servers got %q", got)
	}
	lines := g.lines("r-left")
	for _, l := range lines {
		if l != `http opaque "" mcp:malformed[]: skipped` {
			t.Error(l)
		}
	}
	if len(lines) != 19 {
		t.Errorf("%d are on record", len(lines))
	}
}

func TestCursorsOfAnEndpointSayForWhomTheyAre(t *testing.T) {
	paged := func(tools ...string) *script {
		s := &script{}
		s.answer = func(w http.ResponseWriter, r *http.Request, id, method string) bool {
			if method != "tools/list" {
				return false
			}
			got := s.received()
			page, next := 0, ""
			for i := range tools {
				if strings.Contains(got[len(got)-1], fmt.Sprintf(`"cursor":"page %d"`, i)) {
					page = i
				}
			}
			if page+1 < len(tools) {
				next = fmt.Sprintf(`,"nextCursor":"page %d"`, page+1)
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":%q,"inputSchema":{"type":"object"}}]%s}}`, id, tools[page], next)
			return true
		}
		return s
	}
	g := startEndpoint(t, map[string]string{"left": paged("a", "b", "c").start(t), "right": paged("a", "b").start(t)}, nil)
	a := g.agent()
	var pages []string
	cursor := ""
	for range 5 {
		got := a.must2(t, "/all", ask(1, "tools/list", "{"+cursor+"}"))
		var names []string
		for _, part := range strings.Split(got, `"name":"`)[1:] {
			if name, _, _ := strings.Cut(part, `"`); !strings.HasPrefix(name, "exhibit") {
				names = append(names, name)
			}
		}
		pages = append(pages, strings.Join(names, " "))
		_, next, more := strings.Cut(got, `"nextCursor":"`)
		if !more {
			break
		}
		next, _, _ = strings.Cut(next, `"`)
		cursor = `"cursor":"` + next + `"`
	}
	if got := strings.Join(pages, "|"); got != "left__a right__a|left__b right__b|left__c" {
		t.Errorf("the pages are %s", got)
	}
}

// must2 is must at another path.
func (a *agent) must2(t *testing.T, path, content string, fields ...string) string {
	t.Helper()
	got, err := a.do("POST", path, content, fields...)
	if err != nil || got.status != http.StatusOK {
		t.Fatalf("%s: %+v, %v", content, got, err)
	}
	return got.body
}

func TestAMemberCannotSpeakForAnother(t *testing.T) {
	s, o := &script{tools: toolA}, &script{tools: toolA}
	arrived, proceed := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		if method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":\"t\",\"progress\":1}}\n\n")
		w.(http.Flusher).Flush()
		close(arrived)
		<-proceed
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"of left\"}]}}\n\n", id)
		return true
	}
	o.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		if method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, m := range []string{
			`"method":"notifications/progress","params":{"progressToken":"t","progress":66}`,
			`"method":"notifications/message","params":{"logger":"left","data":"x"}`,
			`"method":"notifications/resources/updated","params":{"uri":"left+file:///a"}`,
			`"method":"notifications/unheard_of","params":{}`,
			`"id":1,"result":{"content":[{"type":"text","text":"of right"}]}`,
			`"id":7,"method":"roots/list"`,
			`"id":` + id + `,"result":{"Content":[],"content":[{"type":"resource_link","uri":"left+file:///a","URI":"left+file:///b","name":"n"},{"type":"resource","resource":{"uri":"x","text":""}}]}`,
		} {
			fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",%s}\n\n", m)
		}
		return true
	}
	g := startEndpoint(t, map[string]string{"left": s.start(t), "right": o.start(t)}, nil)
	a, b := g.agent(), g.agent()
	got, err := a.do("POST", "/all", ask(0, "initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}`))
	if err == nil { // neither server says which revision it speaks
		if got.status != http.StatusOK || !strings.Contains(got.body, "names no revision") {
			t.Errorf("%+v", got)
		}
	}
	initialized := func(w http.ResponseWriter, id string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}}`, id)
	}
	for _, s := range []*script{s, o} {
		first := s.answer
		s.mu.Lock()
		s.answer = func(w http.ResponseWriter, r *http.Request, id, method string) bool {
			if method == "initialize" {
				initialized(w, id)
				return true
			}
			return first(w, r, id, method)
		}
		s.mu.Unlock()
	}
	session := a.begin(t, "/all", "2025-11-25")
	left := make(chan string, 1)
	go func() {
		got, err := a.do("POST", "/all", ask(1, "tools/call", `{"name":"left__a","_meta":{"progressToken":"t"}}`), "Mcp-Session-Id", session)
		if err != nil {
			t.Error(err)
		}
		left <- got.body
	}()
	<-arrived
	right := b.must2(t, "/all", ask(2, "tools/call", `{"name":"right__a"}`), "Mcp-Session-Id", session)
	for _, never := range []string{`"progress":66`, "of right", `"logger":"left"`, "unheard_of", `"Content"`, `"URI"`, `"uri":"left+`, `"id":7`} {
		if strings.Contains(right, never) {
			t.Errorf("the agent hears %s in %s", never, right)
		}
	}
	for _, hears := range []string{`"logger":"right/left"`, `"uri":"right+left+file:///a"`, `"uri":"right+x"`, `"id":"right.n7"`, `"exhibit/member":"right"`} {
		if !strings.Contains(right, hears) {
			t.Errorf("the agent doesn't hear %s in %s", hears, right)
		}
	}
	// The id of a request in flight is one at the whole endpoint.
	if got, err := b.do("POST", "/all", ask(1, "tools/call", `{"name":"right__a"}`), "Mcp-Session-Id", session); err != nil || got.status != http.StatusBadRequest || !strings.Contains(got.body, "in flight") {
		t.Errorf("%+v, %v", got, err)
	}
	close(proceed)
	if got := <-left; !strings.Contains(got, "of left") || !strings.Contains(got, `"progress":1`) {
		t.Errorf("the agent hears %s", got)
	}
	// The answer finds who has asked, and nobody else.
	if got, err := b.do("POST", "/all", `{"jsonrpc":"2.0","id":"left.n7","result":{}}`, "Mcp-Session-Id", session); err != nil || got.status == http.StatusAccepted {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := b.do("POST", "/all", `{"jsonrpc":"2.0","id":"right.n7","result":{"roots":[]}}`, "Mcp-Session-Id", session); err != nil || got.status >= 300 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := o.received(); !slices.Contains(got, `POST {"jsonrpc":"2.0","id":7,"result":{"roots":[]}}`) {
		t.Errorf("the server got %q", got)
	}
}

func TestTheGatewaysOwnToolsAreThereOnce(t *testing.T) {
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		o := &sdk.StreamableHTTPOptions{Stateless: version == "2026-07-28"}
		g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), o), "right": serve(t, sdkServer(), o)}, nil)
		g.version = version
		g.Decide = refuse("drop")
		cs := connectAs(t, g, g.url, nil)
		if got := call(t, cs, "left__drop", ""); !strings.Contains(got, "not here") {
			t.Errorf("%s", got)
		}
		ask := func(tool, member string) string {
			t.Helper()
			p := &sdk.CallToolParams{Name: "exhibit__" + tool, Arguments: map[string]any{}}
			if member != "" {
				p.Arguments = map[string]any{"member": member}
			}
			r, err := cs.CallTool(t.Context(), p)
			if err != nil {
				t.Fatalf("%s: %v", tool, err)
			}
			return r.Content[0].(*sdk.TextContent).Text
		}
		for question, want := range map[[2]string]string{
			{"whoami", "right"}: `"resource":"r-right"`, {"whoami", ""}: `"resource":"r-left"`,
			{"what_did_i_do", "left"}: "tools/call drop", {"how_to_ask", "left"}: "Ask the owner of the resource r-left", {"whoami", "other"}: "no such member",
		} {
			if got := ask(question[0], question[1]); !strings.Contains(got, want) {
				t.Errorf("%v: %s", question, got)
			}
		}
		if got := ask("what_did_i_do", "right"); strings.Contains(got, "drop") {
			t.Errorf("%s", got)
		}
	}
}

func TestListsChangeForTheWholeEndpoint(t *testing.T) {
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			o := &sdk.StreamableHTTPOptions{Stateless: version == "2026-07-28"}
			right := sdkServer()
			g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), o), "right": serve(t, right, o)}, nil)
			g.version = version
			changed := make(chan struct{}, 8)
			cs := connectAs(t, g, g.url, &sdk.ClientOptions{ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { changed <- struct{}{} }})
			if _, err := cs.ListTools(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			g.of("r-right", map[string]string{"2025-11-25": `http session "GET" mcp:listen[]: *`, "2026-07-28": `call session "subscriptions/listen" mcp:listen[]: *`}[version])
			time.Sleep(200 * time.Millisecond) // until the server has it
			sdk.AddTool(right, &sdk.Tool{Name: "new"}, func(context.Context, *sdk.CallToolRequest, text) (*sdk.CallToolResult, any, error) {
				return say("new"), nil, nil
			})
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
				t.Fatal("the agent isn't told")
			}
			if got := call(t, cs, "right__new", ""); got != "new" {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestUpdatesOfAResourceBearItsMember(t *testing.T) {
	right := sdkServer()
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, right, nil)}, nil)
	g.version = "2025-11-25"
	updated := make(chan string, 8)
	cs := connectAs(t, g, g.url, &sdk.ClientOptions{ResourceUpdatedHandler: func(_ context.Context, r *sdk.ResourceUpdatedNotificationRequest) { updated <- r.Params.URI }})
	if err := cs.Subscribe(t.Context(), &sdk.SubscribeParams{URI: "right+file:///readme"}); err != nil {
		t.Fatal(err)
	}
	g.of("r-right", `call read "resources/subscribe file:///readme" mcp:subscribe[file:///readme]: ok`)
	for range 20 {
		if err := right.ResourceUpdated(t.Context(), &sdk.ResourceUpdatedNotificationParams{URI: "file:///readme"}); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-updated:
			if got != "right+file:///readme" {
				t.Errorf("%s", got)
			}
			if err := cs.Unsubscribe(t.Context(), &sdk.UnsubscribeParams{URI: "right+file:///readme"}); err != nil {
				t.Error(err)
			}
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
	t.Error("the agent isn't told")
}

func TestMembersAgreeOnARevision(t *testing.T) {
	o := &sdk.StreamableHTTPOptions{Stateless: true}
	old := &script{tools: toolA}
	old.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		switch method {
		case "initialize":
			w.Header().Set("Mcp-Session-Id", "old")
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"1"}}}`, id)
			return true
		case "server/discover":
			http.Error(w, "no such method", http.StatusBadRequest)
			return true
		}
		return false
	}
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), o), "old": old.start(t)}, nil)
	g.version = "2026-07-28"
	cs := connectAs(t, g, g.url, nil)
	if got := cs.InitializeResult().ProtocolVersion; got != "2025-06-18" {
		t.Errorf("the session is of revision %s", got)
	}
	if got := call(t, cs, "left__echo", "x"); got != "you said x" {
		t.Errorf("%s", got)
	}
	if got := call(t, cs, "old__a", ""); got != "" {
		t.Errorf("%s", got)
	}
}

func TestAMemberOfAnUnknownRevisionTakesNoOtherWithIt(t *testing.T) {
	odd := &script{tools: toolA}
	odd.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		if method == "initialize" {
			w.Header().Set("Mcp-Session-Id", "odd")
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"1999-01-01","capabilities":{"tools":{}}}}`, id)
		}
		return method == "initialize"
	}
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "odd": odd.start(t)}, nil)
	g.version = "2025-11-25"
	cs := connectAs(t, g, g.url, nil)
	if got := cs.InitializeResult(); got.ProtocolVersion != "2025-11-25" || !strings.Contains(fmt.Sprint(got.Meta), "1999-01-01") {
		t.Errorf("the session is of revision %s, %v", got.ProtocolVersion, got.Meta)
	}
	if got := call(t, cs, "left__echo", "x"); got != "you said x" {
		t.Errorf("%s", got)
	}
	if got := odd.received(); got[len(got)-1] != "DELETE " {
		t.Errorf("its session was left: %q", got)
	}
}

func TestABatchToAnEndpointIsTakenApart(t *testing.T) {
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}, nil)
	g.Decide = refuse("drop")
	a := g.agent()
	session := a.begin(t, "/all", "2025-03-26")
	answers := answersIn(t, a.must2(t, "/all", "["+strings.Join([]string{
		ask(1, "tools/call", `{"name":"left__echo","arguments":{"text":"hi"}}`), ask(2, "tools/call", `{"name":"right__drop"}`),
		ask(3, "tools/call", `{"name":"other__x"}`), ask(4, "tools/list", `{}`), `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`,
	}, ",")+"]", "Mcp-Session-Id", session))
	for id, want := range map[string]string{"1": "you said hi", "2": "not here", "3": "no member of this endpoint", "4": `"name":"right__echo"`} {
		if !strings.Contains(answers[id], want) {
			t.Errorf("%s is answered by %s, without %s", id, answers[id], want)
		}
	}
	g.of("r-left", `call write "tools/call echo" mcp:call[echo]: ok`)
	g.of("r-right", `call write "tools/call drop" mcp:call[drop]: denied`)
}

func TestAStreamOfAMemberMayBeTakenUp(t *testing.T) {
	member := func(n string) *script {
		s := &script{tools: toolA}
		s.answer = func(w http.ResponseWriter, r *http.Request, id, method string) bool {
			switch {
			case method == "initialize":
				w.Header().Set("Mcp-Session-Id", "session-"+n)
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}}`, id)
				return true
			case method == "tools/call":
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprint(w, "id: e1\nretry: 10\ndata: \n\n")
				return true
			case r.Method == http.MethodGet && r.Header.Get("Last-Event-Id") == "e1":
				w.Header().Set("Content-Type", "text/event-stream")
				// It answers another member's request as well.
				fmt.Fprint(w, "id: e2\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\nid: e3\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"content\":[]}}\n\n")
				return true
			}
			return false
		}
		return s
	}
	g := startEndpoint(t, map[string]string{"left": member("1").start(t), "right": member("2").start(t)}, nil)
	a := g.agent()
	session := a.begin(t, "/all", "2025-11-25")
	for id, name := range []string{"", "left__a", "right__a"} {
		if name == "" {
			continue
		}
		if got := a.must2(t, "/all", ask(id, "tools/call", `{"name":"`+name+`"}`), "Mcp-Session-Id", session); got != "id: "+name[:len(name)-3]+":e1\nretry: 10\ndata: \n\n" {
			t.Errorf("the stream begins with %q", got)
		}
	}
	for range 2 { // the agent may have lost it on its way
		got, err := a.do("GET", "/all", "", "Mcp-Session-Id", session, "Last-Event-Id", "right:e1")
		if err != nil || got.body != "id: right:e2\ndata: \n\nid: right:e3\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"content\":[]}}\n\n" {
			t.Errorf("taken up: %+v, %v", got, err)
		}
	}
	g.of("r-right", `call write "tools/call a" mcp:call[a]: ok`)
	g.of("r-left", `call write "tools/call a" mcp:call[a]: open`)
	if got, err := a.do("GET", "/all", "", "Mcp-Session-Id", session, "Last-Event-Id", "e1"); err != nil || got.status != http.StatusBadRequest {
		t.Errorf("nobody's event: %+v, %v", got, err)
	}
}

func TestASessionOfAnEndpointEndsWithTheAgents(t *testing.T) {
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": ""}, map[string]mcp.Resource{"right": itself(mcp.Resource{AcceptAll: true})})
	g.version = "2025-11-25"
	cs := connectAs(t, g, g.url, nil)
	if got := call(t, cs, "right__echo", "x"); got != "you said x" {
		t.Fatal(got)
	}
	g.Refuse = func(protocol.Credential, protocol.Target) error {
		return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "retired"}
	}
	for _, s := range g.Sessions() {
		s.Kill(errors.New("the agent was retired"))
		if _, err := s.Wait(5 * time.Second); err != nil {
			t.Error(err)
		}
	}
	if got := call(t, cs, "right__echo", "x"); !strings.HasPrefix(got, "error: ") {
		t.Errorf("afterwards: %s", got)
	}
}

func TestAnEndpointThatChangesBeginsAnew(t *testing.T) {
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}, nil)
	a := g.agent()
	session := a.begin(t, "/all", "2025-11-25")
	e := *g.endpoint.Load()
	e.Members = e.Members[:1]
	g.endpoint.Store(&e)
	if got, err := a.do("POST", "/all", ask(1, "tools/list", "{}"), "Mcp-Session-Id", session); err != nil || got.status != http.StatusNotFound {
		t.Errorf("of the one that it was: %+v, %v", got, err)
	}
	session = a.begin(t, "/all", "2025-11-25")
	if got := a.must2(t, "/all", ask(1, "tools/list", "{}"), "Mcp-Session-Id", session); !strings.Contains(got, "left__echo") || strings.Contains(got, "right") {
		t.Errorf("it lists %s", got)
	}
	e.Prefix = "/elsewhere"
	g.endpoint.Store(&e)
	if got, err := a.do("POST", "/elsewhere", ask(2, "ping", "{}"), "Mcp-Session-Id", session); err != nil || got.status != http.StatusNotFound {
		t.Errorf("where it is now: %+v, %v", got, err)
	}
}

func TestARightThatEndsAtOneMemberEndsNothingAtAnother(t *testing.T) {
	s, o := &script{tools: toolA}, &script{tools: toolA}
	arrived, proceed := make(chan struct{}), make(chan struct{})
	o.answer = func(_ http.ResponseWriter, _ *http.Request, _, method string) bool {
		if method == "tools/call" {
			close(arrived)
			<-proceed
		}
		return false
	}
	g := startEndpoint(t, map[string]string{"left": s.start(t), "right": o.start(t)}, nil)
	a := g.agent() // one connection, on which both were asked
	a.must2(t, "/all", ask(1, "tools/call", `{"name":"left__a"}`))
	done := make(chan string, 1)
	go func() {
		got, err := a.do("POST", "/all", ask(2, "tools/call", `{"name":"right__a"}`))
		done <- fmt.Sprint(got.body, err)
	}()
	<-arrived
	for _, s := range g.Sessions() {
		if s.Target.Resource == "r-left" {
			s.Kill(errors.New("the grant was revoked"))
			if _, err := s.Wait(5 * time.Second); err != nil {
				t.Error(err)
			}
		}
	}
	close(proceed)
	if got := <-done; !strings.Contains(got, `"content":[]`) {
		t.Errorf("the other member's call ends with %s", got)
	}
	g.of("r-right", `call write "tools/call a" mcp:call[a]: ok`)
}

func TestWhoMayNotReachTheFirstMemberIsNotRefusedThereAgainAndAgain(t *testing.T) {
	s := &script{tools: toolA}
	g := startEndpoint(t, map[string]string{"left": s.start(t), "right": s.start(t)}, nil)
	g.Refuse = func(_ protocol.Credential, to protocol.Target) error {
		if to.Resource == "r-left" {
			return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "no grant"}
		}
		return nil
	}
	a := g.agent()
	for range 5 {
		a.must2(t, "/all", ask(1, "tools/call", `{"name":"right__a"}`))
		a.must2(t, "/all", ask(1, "tools/list", `{}`))
	}
	_, targets := g.Opened()
	refused := 0
	for _, to := range targets {
		if to.Resource == "r-left" {
			refused++
		}
	}
	if refused != 2 { // at the door, and for the first list
		t.Errorf("it was refused %d times", refused)
	}
}

func TestAListIsNoLargerThanAMessage(t *testing.T) {
	big := func(name string) *script {
		return &script{tools: `{"name":"` + name + `","description":"` + strings.Repeat("x", 40<<10) + `","inputSchema":{}}`}
	}
	r := mcp.Resource{AcceptAll: true, Message: 64 << 10}
	g := startEndpoint(t, map[string]string{"a": big("a").start(t), "b": big("b").start(t), "c": (&script{tools: toolA}).start(t)}, map[string]mcp.Resource{"a": r, "b": r, "c": r})
	got := g.agent().must2(t, "/all", ask(1, "tools/list", `{}`))
	if len(got) > 64<<10 || !strings.Contains(got, `"a__a"`) || strings.Contains(got, `"b__b"`) || !strings.Contains(got, `"c__a"`) || !strings.Contains(got, `"exhibit/left_out":{"b":"with its part the list would be too large`) {
		t.Errorf("%d bytes, %.200s ... %s", len(got), got, got[len(got)-300:])
	}
}

func TestWhatIsKeptOfASessionIsBounded(t *testing.T) {
	s := &script{tools: toolA}
	g := startEndpoint(t, map[string]string{"left": s.start(t)}, nil)
	a := g.agent()
	if got, err := a.do("POST", "/all", ask(1, "initialize", `{"protocolVersion":"2025-11-25","x":"`+strings.Repeat("x", 70<<10)+`"}`)); err != nil || got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v, %v", got, err)
	}
	if got := s.received(); len(got) > 0 {
		t.Errorf("the server got %q", got)
	}
	s.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		if method != "initialize" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}`, id)
		return true
	}
	// None that is in use goes for another, which is refused.
	first := a.begin(t, "/all", "2025-11-25")
	for range mcp.MaxConversations - 1 {
		a.begin(t, "/all", "2025-11-25")
	}
	if got, err := a.do("POST", "/all", ask(1, "initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}`)); err != nil || !strings.Contains(got.body, "too many sessions") {
		t.Errorf("one too many: %+v, %v", got, err)
	}
	if got, err := a.do("POST", "/all", ask(1, "ping", "{}"), "Mcp-Session-Id", first); err != nil || got.status != http.StatusOK {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNothingIsDecidedAtTheEndpoint(t *testing.T) {
	// What counts is each member's: its tools, what is matched, its words.
	r := mcp.Resource{AcceptAll: true, Match: []string{"/text"}}
	g := startEndpoint(t, map[string]string{"left": serve(t, sdkServer(), nil), "right": serve(t, sdkServer(), nil)}, map[string]mcp.Resource{"left": r, "right": {Tools: map[string]string{"echo": strings.Repeat("0", 64)}}})
	g.version = "2025-11-25"
	g.Decide = func(c *evidence.Command) evidence.Decision {
		if c.Facts["/text"] == "secret" {
			return evidence.Decision{Effect: evidence.Deny, Reason: "it is secret"}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
	cs := connectAs(t, g, g.url, nil)
	for tool, want := range map[string]string{"left__echo": "it is secret", "right__echo": "the server has changed this tool since it was accepted"} {
		if got := call(t, cs, tool, "secret"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", tool, got)
		}
	}
}
