package mcp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
)

// An agent asks people for access, in its own name and for its own ticket; what
// they couldn't read or mean doesn't reach them.
func TestAnAgentAsksPeopleForAccess(t *testing.T) {
	var wishes []mcp.Wish
	g := startGatewayAsking(t, func(_ context.Context, w mcp.Wish) (mcp.Wished, error) {
		if w.Role == "emperor" {
			return mcp.Wished{}, errors.New("there is no such role or resource")
		}
		wishes = append(wishes, w)
		return mcp.Wished{Request: "gw1.1.9", Before: len(wishes) > 1, Expires: time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC), Approvers: []string{"bob@example.com"}}, nil
	})
	g.url += mcp.OwnPath
	cs := connect(t, g, nil)
	ask := func(args map[string]any) string {
		t.Helper()
		r, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "request_access", Arguments: args})
		if err != nil {
			return "error: " + err.Error()
		}
		text := ""
		for _, c := range r.Content {
			text += c.(*sdk.TextContent).Text
		}
		if r.IsError {
			text = "error: " + text
		}
		return text
	}
	for _, c := range []struct {
		args map[string]any
		want []string
	}{
		{map[string]any{"role": "writer", "for": "8h", "reason": "test.1.4 was refused"}, []string{`"request":"gw1.1.9"`, `"approvers":["bob@example.com"]`, `"status":"waits for approval"`, "2026-12-01 09:00:00 UTC"}},
		{map[string]any{"role": "reader", "resource": "orders", "ticket": "T-2", "for": "30m", "reason": "r"}, []string{"was asked for before"}},
		{map[string]any{"role": "emperor", "for": "8h", "reason": "r"}, []string{"error: ", "no such role"}},
		{map[string]any{"role": "reader", "for": "a while", "reason": "r"}, []string{"error: ", "like 8h"}},
		{map[string]any{"role": "reader", "for": "-8h", "reason": "r"}, []string{"error: ", "like 8h"}},
		{map[string]any{"role": "reader", "for": "1000h", "reason": "r"}, []string{"error: ", "from 1m to 720h"}},
		{map[string]any{"role": "a role", "for": "8h", "reason": "r"}, []string{"error: ", "are names"}},
		{map[string]any{"role": "reader", "for": "8h", "reason": strings.Repeat("r", 1001)}, []string{"error: ", "at most 200"}},
		{map[string]any{"role": "reader", "for": "8h"}, []string{"error: "}},
	} {
		got := ask(c.args)
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%v: %s, without %q", c.args, got, w)
			}
		}
	}
	want := []mcp.Wish{
		{Agent: "agent-1", Session: "test.1.0", Role: "writer", Resource: "svc", Lasts: 8 * time.Hour, Ticket: "T-1", Reason: "test.1.4 was refused"},
		{Agent: "agent-1", Session: "test.1.0", Role: "reader", Resource: "orders", Lasts: 30 * time.Minute, Ticket: "T-2", Reason: "r"},
	}
	if fmt.Sprint(wishes) != fmt.Sprint(want) {
		t.Errorf("people are asked\n%v, want\n%v", wishes, want)
	}
	if got := call(t, cs, "how_to_ask", ""); !strings.Contains(got, "request_access") {
		t.Errorf("how_to_ask says %s", got)
	}
	if n := len(g.Sessions()[0].Exchanges()); n != 0 {
		t.Errorf("%d commands", n)
	}
}

// Where agents can't ask, there is no such tool.
func TestAGatewayWhereAgentsCannotAsk(t *testing.T) {
	g := startGateway(t, (&script{}).start(t), mcp.Resource{AcceptAll: true})
	g.url += mcp.OwnPath
	cs := connect(t, g, nil)
	list, err := cs.ListTools(t.Context(), nil)
	if err != nil || len(list.Tools) != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	if got := call(t, cs, "how_to_ask", ""); strings.Contains(got, "request_access") {
		t.Errorf("how_to_ask says %s", got)
	}
}
