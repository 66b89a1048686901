package mcp

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// OwnPath is where the gateway is a server itself, below a resource's prefix: it
// tells an agent about itself. Nothing of it goes upstream, and nothing of it is
// more than the agent's own.
const OwnPath = "/.well-known/exhibit/mcp"

// turnKey finds the turn of a request.
type turnKey struct{}

// newOwn returns the gateway's own server. Its requests stand for themselves.
func newOwn() http.Handler {
	return sdk.NewStreamableHTTPHandler(func(r *http.Request) *sdk.Server {
		t, ok := r.Context().Value(turnKey{}).(*turn)
		if !ok {
			return nil
		}
		return t.ownServer()
	}, &sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true, PropagateRequestCancellation: true})
}

// serveOwn serves a request to the gateway itself.
func (t *turn) serveOwn() {
	t.p.own.ServeHTTP(t.w, t.r.WithContext(context.WithValue(t.ctx, turnKey{}, t)))
}

func (t *turn) ownServer() *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: "exhibit", Version: "1"}, nil)
	ownTool(s, "whoami", "Who you are to the access gateway, and which resource this is.", t.whoami)
	ownTool(s, "what_may_i_do", "What you may do with this resource now: kinds of requests, and tools that you have listed. Rules may still forbid a call because of its arguments.", t.whatMayIDo)
	ownTool(s, "what_did_i_do", "The last requests of your session at this resource, each with its id on record and how it ended.", t.whatDidIDo)
	ownTool(s, "how_to_ask", "What to do when the access gateway refuses something that your work needs.", t.howToAsk)
	if t.p.cfg.Ask != nil {
		no, closed := false, false
		sdk.AddTool(s, &sdk.Tool{
			Name: "request_access", Description: "Ask people for a role on a resource, for as long as your work needs it. It gives you nothing by itself: a person must approve it. Asking again for the same gives the same request.",
			Annotations: &sdk.ToolAnnotations{DestructiveHint: &no, IdempotentHint: true, OpenWorldHint: &closed},
		}, t.requestAccess)
	}
	return s
}

type nobody struct{}

// ownTool adds a tool that takes nothing and changes nothing.
func ownTool[Out any](s *sdk.Server, name, description string, answer func() Out) {
	closed := false
	sdk.AddTool(s, &sdk.Tool{
		Name: name, Description: description,
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &closed},
	}, func(context.Context, *sdk.CallToolRequest, nobody) (*sdk.CallToolResult, Out, error) {
		return nil, answer(), nil
	})
}

type whoami struct {
	Agent     string `json:"agent"`
	Principal string `json:"principal,omitempty" jsonschema:"for whom you act, when it isn't yourself"`
	Ticket    string `json:"ticket,omitempty" jsonschema:"that your token names"`
	Resource  string `json:"resource"`
	Session   string `json:"session" jsonschema:"its id on record"`
	Expires   string `json:"expires,omitempty" jsonschema:"when your token ends"`
}

func (t *turn) whoami() whoami {
	id := t.s.Identity()
	w := whoami{Agent: id.Agent, Principal: id.Principal, Ticket: id.Ticket, Resource: t.res.Resource, Session: t.s.ID()}
	if !id.Expires.IsZero() {
		w.Expires = id.Expires.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return w
}

type mayDo struct {
	Requests []string `json:"requests" jsonschema:"actions that need no particular object"`
	Tools    []string `json:"tools" jsonschema:"of those that the server was last seen to list"`
}

func (t *turn) whatMayIDo() mayDo {
	m := mayDo{Requests: []string{}, Tools: []string{}}
	for action := range Actions {
		switch {
		case slices.Contains([]string{Name + ":held", Name + ":malformed"}, action):
		case t.s.May(evidence.Check{Action: action}):
			m.Requests = append(m.Requests, strings.TrimPrefix(action, Name+":"))
		}
	}
	slices.Sort(m.Requests)
	for _, tool := range sorted(t.p.cfg.Definitions.known(t.res.Resource)) {
		if t.shown("tools", &entry{name: tool.Name, tool: tool}) {
			m.Tools = append(m.Tools, tool.Name)
		}
	}
	return m
}

type didDo struct {
	Requests []did `json:"requests" jsonschema:"the newest last"`
}

func (t *turn) whatDidIDo() didDo { return didDo{Requests: t.part.recent()} }

type asking struct {
	Advice string `json:"advice"`
}

func (t *turn) howToAsk() asking {
	first := ""
	if t.p.cfg.Ask != nil {
		first = "Use the tool request_access, if you know the role that your work needs: its answer says who can approve it. Or: "
	}
	return asking{first + "Ask the owner of the resource " + t.res.Resource + " for a grant for " + t.s.Identity().Agent +
		", and name the id of the refusal: it stands in the refusal and in what_did_i_do. If it says that a ticket is needed, use a token that names the ticket you work on (exhibit token --ticket). " +
		"If it says that nobody has accepted a tool, the gateway's operator reviews it with exhibit mcp tools " + t.res.Resource + ". Don't try to reach the resource by another way."}
}

// Wish is access that an agent asks people for.
type Wish struct {
	Agent, Session string
	Role, Resource string
	Lasts          time.Duration
	Ticket, Reason string
}

// Wished is what became of a Wish.
type Wished struct {
	Request   string // its id on record
	Before    bool   // it was asked for already
	Expires   time.Time
	Approvers []string // ids of the people who can approve it
}

// wanted is a wish as an agent writes it.
type wanted struct {
	Role     string `json:"role" jsonschema:"as the policies name it, like reader"`
	Resource string `json:"resource,omitempty" jsonschema:"default: this one"`
	For      string `json:"for" jsonschema:"how long you need it, like 30m or 8h; at most 720h"`
	Ticket   string `json:"ticket,omitempty" jsonschema:"that asks for your work; default: that of your token"`
	Reason   string `json:"reason" jsonschema:"what you need it for, for people to read; name the id of the refusal, if there was one"`
}

// wishTold is what an agent is told about its wish.
type wishTold struct {
	Request   string   `json:"request" jsonschema:"its id: people find it by that"`
	Status    string   `json:"status"`
	Approvers []string `json:"approvers" jsonschema:"who can approve it"`
	Expires   string   `json:"expires" jsonschema:"until when it waits for an answer"`
	Advice    string   `json:"advice"`
}

// longestWish bounds what an agent asks for; people can ask for more.
const longestWish = 720 * time.Hour

func (t *turn) requestAccess(ctx context.Context, _ *sdk.CallToolRequest, in wanted) (*sdk.CallToolResult, wishTold, error) {
	lasts, err := time.ParseDuration(in.For)
	resource := cmp.Or(in.Resource, t.res.Resource)
	switch {
	case err != nil || lasts < time.Minute || lasts > longestWish:
		return nil, wishTold{}, errors.New("for is how long you need it, from 1m to 720h, like 8h")
	case !evidence.ValidName(in.Role) || !evidence.ValidName(resource):
		return nil, wishTold{}, errors.New("role and resource are names: 1 to 128 of A-Z, a-z, 0-9 and ._:@/+-")
	case in.Reason == "" || len(in.Reason) > 1000 || len(in.Ticket) > 200:
		return nil, wishTold{}, errors.New("reason has 1 to 1000 characters, ticket at most 200")
	}
	id := t.s.Identity()
	w, err := t.p.cfg.Ask(ctx, Wish{
		Agent: id.Agent, Session: t.s.ID(), Role: in.Role, Resource: resource, Lasts: lasts,
		Ticket: cmp.Or(in.Ticket, id.Ticket), Reason: in.Reason,
	})
	if err != nil {
		return nil, wishTold{}, err
	}
	out := wishTold{
		Request: w.Request, Status: "waits for approval", Approvers: w.Approvers, Expires: w.Expires.UTC().Format("2006-01-02 15:04:05 UTC"),
		Advice: "Go on with what you may do. Once it is approved, what was refused is allowed without anything more from you.",
	}
	if w.Before {
		out.Status = "was asked for before, and still waits for approval"
	}
	return nil, out, nil
}
