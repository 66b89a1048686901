package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
)

// asServer makes this program a server over its standard input and output.
const asServer = "EXHIBIT_TEST_MCP_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		fmt.Fprintln(os.Stderr, "the server begins")
		if err := sdkServer().Run(context.Background(), &sdk.StdioTransport{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type text struct {
	Text string `json:"text,omitempty"`
}

func say(s string) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: s}}}
}

// sdkServer is a server of the official SDK with a little of everything.
func sdkServer() *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: "everything", Version: "1"}, &sdk.ServerOptions{
		CompletionHandler: func(context.Context, *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
			return &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{"a"}}}, nil
		},
		SubscribeHandler:   func(context.Context, *sdk.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *sdk.UnsubscribeRequest) error { return nil },
	})
	tool := func(name string, h func(context.Context, *sdk.CallToolRequest, text) (*sdk.CallToolResult, error)) {
		sdk.AddTool(s, &sdk.Tool{Name: name, Description: "does " + name}, func(ctx context.Context, r *sdk.CallToolRequest, in text) (*sdk.CallToolResult, any, error) {
			res, err := h(ctx, r, in)
			return res, nil, err
		})
	}
	tool("echo", func(_ context.Context, _ *sdk.CallToolRequest, in text) (*sdk.CallToolResult, error) {
		return say("you said " + in.Text), nil
	})
	tool("drop", func(context.Context, *sdk.CallToolRequest, text) (*sdk.CallToolResult, error) {
		return say("dropped"), nil
	})
	tool("fail", func(context.Context, *sdk.CallToolRequest, text) (*sdk.CallToolResult, error) {
		return nil, fmt.Errorf("it failed")
	})
	tool("slow", func(ctx context.Context, r *sdk.CallToolRequest, _ text) (*sdk.CallToolResult, error) {
		if err := r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "begun", Progress: 1}); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Second):
			return say("late"), nil
		}
	})
	tool("ask", func(ctx context.Context, r *sdk.CallToolRequest, in text) (*sdk.CallToolResult, error) {
		res, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "your name?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}}}})
		if err != nil {
			return nil, err
		}
		return say(fmt.Sprint(res.Action, " ", res.Content["name"])), nil
	})
	tool("ask-more", func(_ context.Context, r *sdk.CallToolRequest, _ text) (*sdk.CallToolResult, error) {
		if len(r.Params.InputResponses) == 0 {
			return &sdk.CallToolResult{InputRequests: sdk.InputRequestMap{"name": &sdk.ElicitParams{
				Message: "your name?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}}},
			}}}, nil
		}
		return say("thank you"), nil
	})
	tool("stop", func(context.Context, *sdk.CallToolRequest, text) (*sdk.CallToolResult, error) {
		os.Exit(3)
		return nil, nil
	})
	s.AddPrompt(&sdk.Prompt{Name: "greet"}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{Role: "user", Content: &sdk.TextContent{Text: "hello"}}}}, nil
	})
	read := func(_ context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: r.Params.URI, Text: "content"}}}, nil
	}
	s.AddResource(&sdk.Resource{Name: "readme", URI: "file:///readme"}, read)
	s.AddResource(&sdk.Resource{Name: "secret", URI: "file:///secret"}, read)
	s.AddResourceTemplate(&sdk.ResourceTemplate{Name: "note", URITemplate: "note://{id}/text"}, read)
	return s
}

// serve serves a server of the SDK over HTTP.
func serve(t *testing.T, s *sdk.Server, o *sdk.StreamableHTTPOptions) string {
	t.Helper()
	h := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, o))
	t.Cleanup(h.Close)
	return h.Listener.Addr().String()
}

// itself starts this program as a server.
func itself(r mcp.Resource) mcp.Resource {
	r.Command = &mcp.Command{Args: []string{os.Args[0]}, Env: func() ([]string, error) { return []string{asServer + "=1"}, nil }}
	return r
}

// connect connects a client of the SDK through a gateway.
func connect(t *testing.T, g *gateway, o *sdk.ClientOptions) *sdk.ClientSession {
	t.Helper()
	if o == nil {
		o = &sdk.ClientOptions{}
	}
	o.ElicitationHandler = func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
		return &sdk.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
	}
	cs, err := sdk.NewClient(&sdk.Implementation{Name: "client", Version: "1"}, o).Connect(t.Context(),
		&sdk.StreamableClientTransport{Endpoint: g.url, HTTPClient: g.client()}, &sdk.ClientSessionOptions{ProtocolVersion: g.version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cs.Close() })
	return cs
}

func call(t *testing.T, cs *sdk.ClientSession, tool, arg string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := cs.CallTool(ctx, &sdk.CallToolParams{Name: tool, Arguments: text{arg}})
	if err != nil {
		return "error: " + err.Error()
	}
	s := ""
	for _, c := range r.Content {
		s += c.(*sdk.TextContent).Text
	}
	if r.IsError {
		s = "is error: " + s
	}
	return s
}

// servers are the ways in which a server of the SDK can be reached.
func servers(t *testing.T, r mcp.Resource, run func(t *testing.T, start func() *gateway)) {
	t.Run("2025-11-25", func(t *testing.T) {
		run(t, func() *gateway { return startGateway(t, serve(t, sdkServer(), nil), r) })
	})
	for _, version := range []string{"2025-03-26", "2025-06-18"} {
		t.Run(version, func(t *testing.T) {
			run(t, func() *gateway {
				g := startGateway(t, serve(t, sdkServer(), nil), r)
				g.version = version
				return g
			})
		})
	}
	t.Run("2026-07-28", func(t *testing.T) {
		run(t, func() *gateway {
			return startGateway(t, serve(t, sdkServer(), &sdk.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true}), r)
		})
	})
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		t.Run("stdio "+version, func(t *testing.T) {
			run(t, func() *gateway {
				g := startGateway(t, "", itself(r))
				g.version = version
				return g
			})
		})
	}
}

func TestTheOfficialSDKWorksThroughTheGateway(t *testing.T) {
	servers(t, mcp.Resource{AcceptAll: true}, func(t *testing.T, start func() *gateway) {
		g := start()
		g.Decide = refuse("drop", "file:///secret")
		cs := connect(t, g, nil)
		ctx := t.Context()
		tools, err := cs.ListTools(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range tools.Tools {
			names = append(names, tool.Name)
		}
		if got := strings.Join(names, " "); got != "ask ask-more echo fail slow stop" {
			t.Errorf("the agent sees %s", got)
		}
		for tool, want := range map[string]string{
			"echo": "you said hi", "fail": "is error: it failed", "drop": "is error: refused by the access gateway: not here*", "none": "is error: refused by the access gateway: the server lists no such tool*",
		} {
			if got := call(t, cs, tool, "hi"); got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, want[:len(want)-1])) {
				t.Errorf("%s says %q, want %q", tool, got, want)
			}
		}
		if p, err := cs.GetPrompt(ctx, &sdk.GetPromptParams{Name: "greet"}); err != nil || len(p.Messages) != 1 {
			t.Errorf("prompt: %+v, %v", p, err)
		}
		res, err := cs.ListResources(ctx, nil)
		if err != nil || len(res.Resources) != 1 || res.Resources[0].URI != "file:///readme" {
			t.Errorf("resources: %+v, %v", res, err)
		}
		for uri, allowed := range map[string]bool{"file:///readme": true, "note://7/text": true, "file:///secret": false} {
			if r, err := cs.ReadResource(ctx, &sdk.ReadResourceParams{URI: uri}); (err == nil) != allowed {
				t.Errorf("%s: %+v, %v", uri, r, err)
			}
		}
		if _, err := cs.Complete(ctx, &sdk.CompleteParams{Ref: &sdk.CompleteReference{Type: "ref/prompt", Name: "greet"}, Argument: sdk.CompleteParamsArgument{Name: "x"}}); err != nil {
			t.Error(err)
		}
		for _, want := range []string{
			`call write "tools/call echo" mcp:call[echo]: ok`,
			`call write "tools/call fail" mcp:call[fail]: error tool_error`,
			`call write "tools/call drop" mcp:call[drop]: denied`,
			`call opaque "tools/call ?" mcp:call[?] mcp:held[?]: skipped`,
			`call read "prompts/get greet" mcp:get_prompt[greet]: ok`,
			`call read "resources/read file:///readme" mcp:read_resource[file:///readme]: ok`,
			`call read "resources/read note://{id}/text" mcp:read_resource[note://{id}/text]: ok`,
			`call read "resources/read file:///secret" mcp:read_resource[file:///secret]: denied`,
			`call read "completion/complete greet" mcp:complete[greet]: ok`,
			`call read "tools/list" mcp:list[]: ok`,
		} {
			g.has(want)
		}
		if len(g.imports) != 1 || g.imports[0].Kind != "mcp.tools" || g.imports[0].Rows != 7 {
			t.Errorf("on record: %+v", g.imports)
		}
	})
}

func TestWhatAServerAsksIsDecided(t *testing.T) {
	servers(t, mcp.Resource{AcceptAll: true}, func(t *testing.T, start func() *gateway) {
		for _, allowed := range []bool{true, false} {
			g := start()
			if !allowed {
				g.Decide = refuse("mcp:elicitation")
			}
			cs := connect(t, g, nil)
			want := map[string]string{"ask": "accept Ada", "ask-more": "thank you"}
			if cs.InitializeResult().ProtocolVersion >= "2026-07-28" {
				delete(want, "ask") // a stateless server can't
			}
			for tool, want := range want {
				got := call(t, cs, tool, "")
				if (got == want) != allowed || !allowed && !strings.Contains(got, "the access gateway refuses") {
					t.Errorf("allowed: %v; %s says %q", allowed, tool, got)
				}
			}
			outcome := "ok*"
			if !allowed {
				outcome = "denied"
			}
			g.has(`server admin *`)
			for _, x := range g.Sessions()[0].Exchanges() {
				if l := line(x); x.Path == "server" && !strings.Contains(l, "mcp:elicitation[]: "+strings.TrimSuffix(outcome, "*")) {
					t.Error(l)
				}
			}
		}
	})
}

func TestCancellationEndsTheCommand(t *testing.T) {
	servers(t, mcp.Resource{AcceptAll: true}, func(t *testing.T, start func() *gateway) {
		g := start()
		begun := make(chan struct{}, 1)
		cs := connect(t, g, &sdk.ClientOptions{ProgressNotificationHandler: func(context.Context, *sdk.ProgressNotificationClientRequest) { begun <- struct{}{} }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			p := &sdk.CallToolParams{Name: "slow", Arguments: text{}}
			p.SetProgressToken("p1")
			_, err := cs.CallTool(ctx, p)
			done <- err
		}()
		select {
		case <-begun:
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Second):
			t.Fatal("no progress")
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("it was not cancelled")
		}
		// The server's own word on it may be faster than the agent's.
		g.has(`call write "tools/call slow" mcp:call[slow]: cancelled`, `call write "tools/call slow" mcp:call[slow]: error tool_error`)
		if got := call(t, cs, "echo", "after"); got != "you said after" {
			t.Errorf("after it: %s", got)
		}
	})
}

func TestASessionOfTheServerBelongsToWhoseItIs(t *testing.T) {
	for _, upstream := range []string{"http", "stdio"} {
		t.Run(upstream, func(t *testing.T) {
			var g *gateway
			if upstream == "http" {
				g = startGateway(t, serve(t, sdkServer(), nil), mcp.Resource{AcceptAll: true})
			} else {
				g = startGateway(t, "", itself(mcp.Resource{AcceptAll: true}))
				g.version = "2025-11-25"
			}
			cs := connect(t, g, nil)
			id := cs.ID()
			if id == "" {
				t.Fatal("the client has no session")
			}
			ping := `{"jsonrpc":"2.0","id":901,"method":"ping"}`
			if got, err := g.agent().do("POST", "/svc", ping, "Mcp-Session-Id", id); err != nil || got.status != http.StatusOK {
				t.Errorf("its own agent: %+v, %v", got, err)
			}
			g.Gate.Token = "another-agents-token"
			other := g.agent()
			other.token = g.Gate.Token
			for _, method := range []string{"POST", "GET", "DELETE"} {
				content := ""
				if method == "POST" {
					content = ping
				}
				if got, err := other.do(method, "/svc", content, "Mcp-Session-Id", id); err != nil || got.status != http.StatusNotFound {
					t.Errorf("another agent's %s: %+v, %v", method, got, err)
				}
			}
		})
	}
}

func TestAServerThatEndsLeavesItsCommandInDoubt(t *testing.T) {
	for version, then := range map[string]string{"2025-11-25": "error: *", "2026-07-28": "you said x"} {
		t.Run(version, func(t *testing.T) {
			g := startGateway(t, "", itself(mcp.Resource{AcceptAll: true}))
			g.version = version
			cs := connect(t, g, nil)
			if got := call(t, cs, "stop", ""); !strings.Contains(got, "may or may not have done") {
				t.Errorf("the agent is told %q", got)
			}
			g.has(`call write "tools/call stop" mcp:call[stop]: in_doubt`)
			first := g.Sessions()[0]
			if !strings.Contains(trace(first), "ended by itself: exit status 3") {
				t.Errorf("no record says how it ended:\n%s", trace(first))
			}
			// Where requests stand for themselves, the next one is of another
			// session with another server. Otherwise the server's session is over.
			if got := call(t, cs, "echo", "x"); got != then && !(then == "error: *" && strings.HasPrefix(got, "error: ")) {
				t.Errorf("afterwards: %q, want %q", got, then)
			}
			for _, x := range first.Exchanges()[1:] {
				if strings.Contains(line(x), "echo") {
					t.Errorf("a server was started again within a session: %s", line(x))
				}
			}
			if again := connect(t, g, nil); call(t, again, "echo", "x") != "you said x" {
				t.Error("a new session has no server")
			}
		})
	}
}

func TestTheGatewayTellsAnAgentAboutItself(t *testing.T) {
	g := startGateway(t, (&script{tools: toolA + "," + toolB}).start(t), mcp.Resource{AcceptAll: true})
	g.Decide = refuse("b", "mcp:sampling")
	a := g.agent()
	a.must(t, ask(1, "tools/call", `{"name":"a"}`))
	a.must(t, ask(2, "tools/call", `{"name":"b"}`))
	g.url += mcp.OwnPath
	before := len(g.Sessions()[0].Exchanges())
	for _, version := range []string{"2025-11-25", "2026-07-28"} {
		g.version = version
		cs := connect(t, g, nil)
		for tool, want := range map[string][]string{
			"whoami":        {`"agent":"agent-1"`, `"ticket":"T-1"`, `"resource":"svc"`, `"session":"test.1.0"`},
			"what_may_i_do": {`"tools":["a"]`, `"call"`, `"list"`},
			"what_did_i_do": {`"outcome":"ok","request":"tools/call a"`, `"outcome":"refused: not here","request":"tools/call b"`, `"id":"test.1.`},
			"how_to_ask":    {"for a grant for agent-1"},
		} {
			got := call(t, cs, tool, "")
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s: %s says %s, without %s", version, tool, got, w)
				}
			}
			if strings.Contains(got, "sampling") {
				t.Errorf("%s says %s", tool, got)
			}
		}
	}
	if got, err := g.agent().do("POST", "/svc"+mcp.OwnPath, ask(1, "ping", "{}"), "Authorization", "Bearer x"); err != nil || got.status != http.StatusUnauthorized {
		t.Errorf("without a token: %+v, %v", got, err)
	}
	if after := len(g.Sessions()[0].Exchanges()); after != before {
		t.Errorf("%d commands", after-before)
	}
}

// An agent may have many sessions at once. One that is in use isn't given up for
// another: that is refused, before the server hears of it, until one has ended.
func TestManySessionsOfAnAgent(t *testing.T) {
	g := startGateway(t, serve(t, sdkServer(), nil), mcp.Resource{AcceptAll: true})
	all := make([]*sdk.ClientSession, mcp.MaxConversations)
	for i := range all {
		all[i] = connect(t, g, nil)
	}
	another := func() (*sdk.ClientSession, error) {
		return sdk.NewClient(&sdk.Implementation{Name: "client", Version: "1"}, nil).Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: g.url, HTTPClient: g.client()}, nil)
	}
	if _, err := another(); err == nil || !strings.Contains(err.Error(), "too many sessions") && !strings.Contains(err.Error(), "Too Many Requests") {
		t.Errorf("one too many: %v", err)
	}
	for i, cs := range all {
		if said := call(t, cs, "echo", "hi"); said != "you said hi" {
			t.Fatalf("session %d: %s", i, said)
		}
	}
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	cs, err := another()
	if err != nil {
		t.Fatalf("after one has ended: %v", err)
	}
	if err := cs.Close(); err != nil {
		t.Error(err)
	}
}
