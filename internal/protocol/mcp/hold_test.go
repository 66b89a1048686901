package mcp_test

import (
	"context"
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

// holdCalls lets calls of a tool wait for people.
func (g *gateway) holdCalls(tool string) (asked chan *evidence.Command, answer chan evidence.Decision) {
	asked, answer = make(chan *evidence.Command, 8), make(chan evidence.Decision)
	g.Hold = func(c *evidence.Command) <-chan evidence.Decision {
		if len(c.Checks) == 0 || c.Checks[0].Object != tool {
			return nil
		}
		asked <- c
		return answer
	}
	return asked, answer
}

var approved = evidence.Decision{Effect: evidence.Allow, Approval: prototest.Request}

// The official SDK waits, is told why, and gives up when its caller does.
func TestTheOfficialSDKWaitsForPeople(t *testing.T) {
	servers(t, mcp.Resource{AcceptAll: true}, func(t *testing.T, start func() *gateway) {
		g := start()
		asked, answer := g.holdCalls("echo")
		told := make(chan string, 8)
		cs := connect(t, g, &sdk.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
			told <- r.Params.Message
		}})
		params := &sdk.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}}
		params.SetProgressToken("token-1")
		type result struct {
			res *sdk.CallToolResult
			err error
		}
		done := make(chan result, 1)
		ask := func(ctx context.Context) {
			res, err := cs.CallTool(ctx, params)
			done <- result{res, err}
		}
		go ask(t.Context())
		first := <-asked
		if msg := <-told; !strings.Contains(msg, "exhibit approval show "+prototest.Request) {
			t.Errorf("the agent is told %q", msg)
		}
		answer <- approved
		if got := <-done; got.err != nil || got.res.IsError || !strings.Contains(fmt.Sprintf("%+v", got.res.Content[0]), "hello") {
			t.Errorf("%+v", got)
		}

		// The same again is the same, whatever its id and token.
		params.SetProgressToken("token-2")
		ctx, cancel := context.WithCancel(t.Context())
		go ask(ctx)
		second := <-asked
		if string(first.Exact) != "tools/call" || string(second.Exact) != "tools/call" || !slices.Equal(first.Params[0], second.Params[0]) {
			t.Errorf("%s %s and %s %s are to be approved each", first.Exact, first.Params, second.Exact, second.Params)
		}
		cancel()
		if got := <-done; got.err == nil {
			t.Errorf("it was cancelled: %+v", got.res)
		}
		g.has(`call * "tools/call echo" mcp:call[echo]: denied`, `call write "tools/call echo" mcp:call[echo]: denied`)
	})
}

func TestAClientThatTakesNoStreamGetsItsAnswerAsJSON(t *testing.T) {
	g := startGateway(t, (&script{tools: toolA}).start(t), mcp.Resource{AcceptAll: true})
	asked, answer := g.holdCalls("a")
	for _, accept := range []string{"application/json", "application/json, text/event-stream"} {
		for name, d := range map[string]evidence.Decision{"done": approved, "refused": {Effect: evidence.Deny, Reason: "bob has refused it", Approval: prototest.Request}} {
			go func() { <-asked; answer <- d }()
			got, err := g.agent().do("POST", "/svc", ask(7, "tools/call", `{"name":"a"}`), "Accept", accept)
			if err != nil || got.status != http.StatusOK {
				t.Fatalf("%+v, %v", got, err)
			}
			stream := strings.Contains(accept, "event-stream")
			if is := strings.HasPrefix(got.header.Get("Content-Type"), "text/event-stream"); is != stream || strings.HasPrefix(got.body, "{") == stream {
				t.Errorf("%s, %s: %+v", accept, name, got)
			}
			if !strings.Contains(got.body, `"id":7`) || strings.Contains(got.body, "bob has refused it") != (name == "refused") {
				t.Errorf("%s, %s: %s", accept, name, got.body)
			}
		}
	}
}

// When a server answers by a status of HTTP alone, the agent that waited has an
// answer all the same.
func TestAServersFailureAfterTheWait(t *testing.T) {
	s := &script{tools: toolA}
	s.answer = func(w http.ResponseWriter, _ *http.Request, _, method string) bool {
		if method == "tools/call" {
			http.Error(w, "<html>", http.StatusInternalServerError)
		}
		return method == "tools/call"
	}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	asked, answer := g.holdCalls("a")
	go func() { <-asked; answer <- approved }()
	got, err := g.agent().do("POST", "/svc", ask(7, "tools/call", `{"name":"a"}`))
	if err != nil || !strings.Contains(got.body, `"error"`) || !strings.Contains(got.body, "500") || strings.Contains(got.body, "<html>") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAnAnswerPastItsBytesIsWithheld(t *testing.T) {
	s := &script{tools: toolA}
	s.answer = func(w http.ResponseWriter, _ *http.Request, id, method string) bool {
		if method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":%q}]}}`, id, strings.Repeat("x", 1000))
		return true
	}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	g.Decide = func(c *evidence.Command) evidence.Decision {
		return evidence.Decision{Effect: evidence.Allow, Rules: []string{"modest"}, Obligations: &evidence.Obligations{Bytes: 500}}
	}
	body := g.agent().must(t, ask(7, "tools/call", `{"name":"a"}`))
	if !strings.Contains(body, `"error"`) || !strings.Contains(body, "500 bytes") || strings.Contains(body, "xxx") {
		t.Errorf("the agent sees %.300s", body)
	}
	g.has(`call write "tools/call a" mcp:call[a]: cancelled ` + protocol.ExcessBytes)
}

func TestACallPastItsTimeIsAnError(t *testing.T) {
	s := &script{tools: toolA}
	s.answer = func(_ http.ResponseWriter, r *http.Request, _, method string) bool {
		if method == "tools/call" {
			<-r.Context().Done()
		}
		return method == "tools/call"
	}
	g := startGateway(t, s.start(t), mcp.Resource{AcceptAll: true})
	g.Decide = func(c *evidence.Command) evidence.Decision {
		return evidence.Decision{Effect: evidence.Allow, Obligations: &evidence.Obligations{Millis: 100}}
	}
	start := time.Now()
	body := g.agent().must(t, ask(7, "tools/call", `{"name":"a"}`))
	if !strings.Contains(body, `"id":7,"error"`) || !strings.Contains(body, "100ms") || time.Since(start) > 5*time.Second {
		t.Errorf("after %v the agent sees %s", time.Since(start), body)
	}
	// Nobody knows what the server has done.
	g.has(`call write "tools/call a" mcp:call[a]: in_doubt ` + protocol.ExcessTime)
}
