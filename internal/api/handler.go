package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Options is what New needs.
type Options struct {
	Services   Services
	People     People
	Version    Version
	ConfigFile string                // named in hints
	Registerer prometheus.Registerer // nil: no metrics
	Log        *slog.Logger          // of failures at the token endpoint; nil: slog.Default()
}

// New returns the API, to be given to Serve.
func New(o Options) (http.Handler, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	mux := http.NewServeMux()
	a := &routes{Options: o, api: humago.New(mux, document(o.Version.Version)), requests: newRequests()}
	a.register()
	spec, err := render(a.api)
	if err != nil {
		return nil, err
	}
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(spec) // the client has gone; there is nobody to tell
	})
	if o.Registerer != nil {
		if err := a.requests.register(o.Registerer); err != nil {
			return nil, fmt.Errorf("registering the API's metrics: %w", err)
		}
	}
	// Client certificates go along with whatever a browser is talked into
	// sending, so requests of foreign origin are refused.
	return http.NewCrossOriginProtection().Handler(bounded(mux, func(r *http.Request) error {
		_, err := identify(r.Context(), r.TLS, o.People, o.ConfigFile)
		return err
	})), nil
}

// OpenAPI returns the OpenAPI 3.1 document, indented.
func OpenAPI(version string) ([]byte, error) {
	a := &routes{api: humago.New(http.NewServeMux(), document(version)), requests: newRequests()}
	a.register()
	return render(a.api)
}

func render(a huma.API) ([]byte, error) {
	b, err := json.Marshal(a.OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("rendering the OpenAPI document: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, fmt.Errorf("rendering the OpenAPI document: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func document(version string) huma.Config {
	c := huma.DefaultConfig("Exhibit", version)
	c.Info.Description = "The operator's interface of an Exhibit gateway. Over the admin socket, callers are known by their uid; over HTTPS by client certificate. Every change is recorded with the person who made it."
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil
	c.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"person": {Type: "mutualTLS", Description: "a client certificate of a person; on the admin socket, the peer's uid"},
	}
	c.Security = []map[string][]string{{"person": {}}}
	return c
}

// bounded keeps what strangers can make the API hold to a fixed size. It reads
// the body itself, because a deadline that stays on the connection would cut
// off an answer that takes long.
func bounded(h http.Handler, person func(*http.Request) error) http.Handler {
	slots, importing := make(chan struct{}, maxRequests), make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "1")
			writeProblem(w, problem(http.StatusServiceUnavailable, "too many requests at once", "try again"))
			return
		}
		most, wait := int64(maxBody), bodyTimeout
		if r.URL.Path == importPath { // a file, from somebody who is known, and one at a time
			if err := person(r); err != nil {
				writeProblem(w, asProblem(err))
				return
			}
			select {
			case importing <- struct{}{}:
				defer func() { <-importing }()
			default:
				w.Header().Set("Retry-After", "1")
				writeProblem(w, problem(http.StatusServiceUnavailable, "something else is being imported", "try again"))
				return
			}
			most, wait = maxImport, importTimeout
		}
		body, p := readBody(w, r, most, wait)
		if p != nil {
			writeProblem(w, p)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(w, r)
	})
}

func readBody(w http.ResponseWriter, r *http.Request, most int64, wait time.Duration) ([]byte, *Problem) {
	c := http.NewResponseController(w)
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, problem(http.StatusInternalServerError, "the connection has no deadline", "")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, problem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d bytes", most), "")
		}
		return nil, problem(http.StatusBadRequest, "the request's body didn't arrive", "")
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, problem(http.StatusInternalServerError, "the connection has no deadline", "")
	}
	return body, nil
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone; there is nobody to tell
}

// routes are the operations and what they need.
type routes struct {
	Options
	api      huma.API
	requests *requests
}

// body is an answer.
type body[T any] struct{ Body T }

// list is an answer of several.
type list[T any] struct {
	Body struct {
		Items []T `json:"items"`
	}
}

func listOf[T any](items []T, err error) (*list[T], error) {
	out := &list[T]{}
	out.Body.Items = items
	if items == nil {
		out.Body.Items = []T{}
	}
	return out, err
}

// operation is one line of the API.
type operation struct {
	id, method, path, tag, summary string
	public                         bool
}

type byKey struct{}

// by returns the person behind a request; identifying has put them there.
func by(ctx context.Context) evidence.By {
	b, _ := ctx.Value(byKey{}).(evidence.By)
	return b
}

// handle registers an operation. Only a public one runs without a person.
func handle[I, O any](a *routes, op operation, f func(context.Context, *I) (*O, error)) {
	o := huma.Operation{
		OperationID: op.id, Method: op.method, Path: op.path, Summary: op.summary, Tags: []string{op.tag},
		MaxBodyBytes: maxImport, BodyReadTimeout: -1, // readBody has bounded it
		Middlewares: huma.Middlewares{a.measure, a.identifying},
		Errors:      []int{http.StatusForbidden, http.StatusUnauthorized, http.StatusUnprocessableEntity},
	}
	if op.public {
		o.Middlewares = huma.Middlewares{a.measure}
		o.Security = []map[string][]string{}
		o.Errors = nil
	}
	if op.method == http.MethodPost && !op.public {
		o.Errors = append(o.Errors, http.StatusConflict)
	}
	huma.Register(a.api, o, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, asProblem(err)
		}
		return out, nil
	})
}

func (a *routes) identifying(ctx huma.Context, next func(huma.Context)) {
	b, err := identify(ctx.Context(), ctx.TLS(), a.People, a.ConfigFile)
	if err != nil {
		p := asProblem(err)
		ctx.SetHeader("Content-Type", p.ContentType(""))
		ctx.SetStatus(p.Status)
		_ = json.NewEncoder(ctx.BodyWriter()).Encode(p) // the client has gone; there is nobody to tell
		return
	}
	next(huma.WithValue(ctx, byKey{}, b))
}

func (a *routes) measure(ctx huma.Context, next func(huma.Context)) {
	start := time.Now()
	next(ctx)
	a.requests.observe(ctx.Operation().OperationID, ctx.Status(), time.Since(start))
}

func (a *routes) register() {
	a.registerAgents()
	a.registerCredentials()
	a.registerToken()
	a.registerGrants()
	a.registerQuestions()
	a.registerReasons()
	a.registerLog()
	a.registerControl()
	a.registerPolicies()
	a.registerPacks()
	a.registerSamples()
	a.registerKeeping()
	a.registerDisposal()
	a.registerAlerts()
	a.registerReadiness()
	handle(a, operation{id: "list-sessions", method: "GET", path: "/v1/sessions", tag: "sessions", summary: "Live sessions"},
		func(ctx context.Context, _ *struct{}) (*list[Session], error) {
			return listOf(a.Services.Sessions.Sessions(ctx))
		})
	handle(a, operation{id: "kill-sessions", method: "POST", path: "/v1/sessions/kill", tag: "sessions", summary: "End a session, or all of an agent's, at once"},
		func(ctx context.Context, in *body[KillRequest]) (*body[Killed], error) {
			if (in.Body.Session == "") == (in.Body.Agent == "") {
				return nil, Invalid("it is one of session and agent that ends", "name a session, or an agent for all of its sessions")
			}
			out, err := a.Services.Sessions.Kill(ctx, in.Body, by(ctx))
			return &body[Killed]{out}, err
		})
	a.registerApprovals()
	a.registerOutside()
	handle(a, operation{id: "version", method: "GET", path: "/v1/version", tag: "control", summary: "Which gateway this is", public: true},
		func(context.Context, *struct{}) (*body[Version], error) { return &body[Version]{a.Version}, nil })
}

func (a *routes) registerAgents() {
	type one struct {
		Agent string `path:"agent" doc:"id of the agent"`
	}
	type retirement struct {
		Agent string `path:"agent" doc:"id of the agent"`
		Body  reason
	}
	handle(a, operation{id: "add-agent", method: "POST", path: "/v1/agents", tag: "agents", summary: "Register an agent"},
		func(ctx context.Context, in *body[NewAgent]) (*body[Agent], error) {
			out, err := a.Services.Agents.AddAgent(ctx, in.Body, by(ctx))
			return &body[Agent]{out}, err
		})
	handle(a, operation{id: "list-agents", method: "GET", path: "/v1/agents", tag: "agents", summary: "All agents, retired ones too"},
		func(ctx context.Context, _ *struct{}) (*list[Agent], error) {
			return listOf(a.Services.Agents.Agents(ctx))
		})
	handle(a, operation{id: "show-agent", method: "GET", path: "/v1/agents/{agent}", tag: "agents", summary: "One agent"},
		func(ctx context.Context, in *one) (*body[Agent], error) {
			agents, err := a.Services.Agents.Agents(ctx)
			if err != nil {
				return nil, err
			}
			for _, g := range agents {
				if g.ID == in.Agent {
					return &body[Agent]{g}, nil
				}
			}
			return nil, NotFound(fmt.Sprintf("there is no agent %.128q", in.Agent), "exhibit agent list shows all")
		})
	handle(a, operation{id: "retire-agent", method: "POST", path: "/v1/agents/{agent}/retire", tag: "agents", summary: "Retire an agent for good"},
		func(ctx context.Context, in *retirement) (*body[Agent], error) {
			out, err := a.Services.Agents.RetireAgent(ctx, in.Agent, in.Body.Reason, by(ctx))
			return &body[Agent]{out}, err
		})
}

// reason is the body of everything that ends something.
type reason struct {
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record"`
}

// ofAgent filters a list.
type ofAgent struct {
	Agent string `query:"agent" doc:"only of this agent"`
}

// ending ends the thing with an id.
type ending struct {
	ID   string `path:"id"`
	Body reason
}

func (a *routes) registerCredentials() {
	handle(a, operation{id: "enroll-key", method: "POST", path: "/v1/credentials", tag: "credentials", summary: "Enroll the public half of an agent's key"},
		func(ctx context.Context, in *body[NewKey]) (*body[Credential], error) {
			if _, err := identity.ParsePublicKey(in.Body.PublicKey); err != nil {
				return nil, Invalid(err.Error(), "exhibit enroll makes a key and enrolls it")
			}
			out, err := a.Services.Credentials.EnrollKey(ctx, in.Body, by(ctx))
			return &body[Credential]{out}, err
		})
	handle(a, operation{id: "list-credentials", method: "GET", path: "/v1/credentials", tag: "credentials", summary: "Enrolled keys, revoked ones too"},
		func(ctx context.Context, in *ofAgent) (*list[Credential], error) {
			return listOf(a.Services.Credentials.Credentials(ctx, in.Agent))
		})
	handle(a, operation{id: "revoke-credential", method: "POST", path: "/v1/credentials/{id}/revoke", tag: "credentials", summary: "End a key and its tokens, or a token"},
		func(ctx context.Context, in *ending) (*body[Credential], error) {
			out, err := a.Services.Credentials.RevokeCredential(ctx, in.ID, in.Body.Reason, by(ctx))
			return &body[Credential]{out}, err
		})
}

func (a *routes) registerGrants() {
	handle(a, operation{id: "add-grant", method: "POST", path: "/v1/grants", tag: "grants", summary: "Put an agent in a role on a resource for a while"},
		func(ctx context.Context, in *body[NewGrant]) (*body[Grant], error) {
			if !in.Body.Expires.After(time.Now()) {
				return nil, Invalid("the grant would have expired already", "expires lies in the future")
			}
			out, err := a.Services.Grants.AddGrant(ctx, in.Body, by(ctx))
			return &body[Grant]{out}, err
		})
	handle(a, operation{id: "list-grants", method: "GET", path: "/v1/grants", tag: "grants", summary: "Grants, ended ones too"},
		func(ctx context.Context, in *ofAgent) (*list[Grant], error) {
			return listOf(a.Services.Grants.Grants(ctx, in.Agent))
		})
	handle(a, operation{id: "revoke-grant", method: "POST", path: "/v1/grants/{id}/revoke", tag: "grants", summary: "Remove a grant"},
		func(ctx context.Context, in *ending) (*body[Grant], error) {
			out, err := a.Services.Grants.RevokeGrant(ctx, in.ID, in.Body.Reason, by(ctx))
			return &body[Grant]{out}, err
		})
}

func (a *routes) registerApprovals() {
	type one struct {
		ID string `path:"id"`
	}
	type query struct {
		Kind string `query:"kind" enum:"grant,policy,command,erasure" doc:"only of this kind"`
		All  bool   `query:"all" doc:"those that have ended too"`
	}
	type answering struct {
		ID   string `path:"id"`
		Body Answer
	}
	handle(a, operation{id: "request-grant", method: "POST", path: "/v1/grants/requests", tag: "approvals", summary: "Ask for a grant that another person must approve"},
		func(ctx context.Context, in *body[NewGrantRequest]) (*body[Approval], error) {
			if !in.Body.Expires.After(time.Now()) {
				return nil, Invalid("the grant would have expired already", "expires lies in the future")
			}
			out, err := a.Services.Approvals.RequestGrant(ctx, in.Body, by(ctx))
			return &body[Approval]{out}, err
		})
	handle(a, operation{id: "list-approvals", method: "GET", path: "/v1/approvals", tag: "approvals", summary: "What waits for an approval, or for its use"},
		func(ctx context.Context, in *query) (*list[Approval], error) {
			return listOf(a.Services.Approvals.Approvals(ctx, ApprovalQuery{Kind: in.Kind, All: in.All}))
		})
	handle(a, operation{id: "show-approval", method: "GET", path: "/v1/approvals/{id}", tag: "approvals", summary: "One request, with all that there is to see"},
		func(ctx context.Context, in *one) (*body[Approval], error) {
			out, err := a.Services.Approvals.Approval(ctx, in.ID, by(ctx))
			return &body[Approval]{out}, err
		})
	for _, o := range []struct{ what, summary string }{
		{evidence.Approved, "Say yes to a request"}, {evidence.Refused, "Say no to a request"}, {evidence.Withdrawn, "Take back one's own request"},
	} {
		what := o.what
		handle(a, operation{id: what + "-approval", method: "POST", path: "/v1/approvals/{id}/" + what, tag: "approvals", summary: o.summary},
			func(ctx context.Context, in *answering) (*body[Approval], error) {
				switch {
				case what == evidence.Refused && in.Body.Reason == "":
					return nil, Invalid("a refusal needs a reason: it stands in the record", "")
				case what != evidence.Approved && !in.Body.Expires.IsZero():
					return nil, Invalid("only what is approved has an end", "")
				}
				out, err := a.Services.Approvals.AnswerApproval(ctx, in.ID, what, in.Body, by(ctx))
				return &body[Approval]{out}, err
			})
	}
}

func parseRange(from, to string, limit int) (Range, error) {
	first, err := ParseMoment(from)
	if err != nil {
		return Range{}, err
	}
	last, err := ParseMoment(to)
	if err != nil {
		return Range{}, err
	}
	return Range{From: first, To: last, Limit: limit}, nil
}

// ParseMoment reads a position, a time (RFC 3339) or a date, which is its
// midnight in UTC. The empty text is the zero Moment.
func ParseMoment(s string) (Moment, error) {
	if s == "" {
		return Moment{}, nil
	}
	if p, err := evidence.ParsePosition(s); err == nil {
		return Moment{Position: p}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return Moment{Time: t.UTC()}, nil
		}
	}
	return Moment{}, Invalid(fmt.Sprintf("%.80q is not a moment", s), "write a date (2026-11-22), a time (2026-11-22T09:30:00Z) or a position (gw1.3.118)")
}

func (m Moment) String() string {
	switch {
	case !m.Position.IsZero():
		return m.Position.String()
	case !m.Time.IsZero():
		return m.Time.Format(time.RFC3339Nano)
	}
	return ""
}

func (a *routes) registerQuestions() {
	type who struct {
		Resource string `path:"resource"`
		From     string `query:"from" doc:"date, time (RFC 3339) or position; of the range"`
		To       string `query:"to" doc:"date, time (RFC 3339) or position; just past the range"`
		Limit    int    `query:"limit" default:"1000" minimum:"1" maximum:"100000" doc:"most rows; the newest are kept"`
	}
	type allowed struct {
		Agent string `path:"agent"`
		At    string `query:"at" doc:"date, time (RFC 3339) or position; default: now"`
	}
	handle(a, operation{id: "who", method: "GET", path: "/v1/who/{resource}", tag: "questions", summary: "Who accessed this system"},
		func(ctx context.Context, in *who) (*body[Table], error) {
			r, err := parseRange(in.From, in.To, in.Limit)
			if err != nil {
				return nil, err
			}
			return table(a.Services.Questions.Who(ctx, in.Resource, r, by(ctx)))
		})
	handle(a, operation{id: "allowed", method: "GET", path: "/v1/allowed/{agent}", tag: "questions", summary: "What an agent is allowed to do"},
		func(ctx context.Context, in *allowed) (*body[Table], error) {
			at, err := ParseMoment(in.At)
			if err != nil {
				return nil, err
			}
			return table(a.Services.Questions.Allowed(ctx, in.Agent, at, by(ctx)))
		})
	handle(a, operation{id: "did", method: "GET", path: "/v1/did", tag: "questions", summary: "What was done"},
		func(ctx context.Context, in *DidQuery) (*body[Table], error) {
			q, err := in.parse()
			if err != nil {
				return nil, err
			}
			return table(a.Services.Questions.Did(ctx, q, by(ctx)))
		})
	type transcript struct {
		DidQuery
		Follow bool `query:"follow" doc:"go on as records are made, until the session has ended"`
	}
	stream(a, operation{id: "transcript", method: "GET", path: "/v1/transcript", tag: "questions", summary: "What was done, session by session and with what surrounds it"},
		func(ctx context.Context, in *transcript, s *events) error {
			q, err := in.parse()
			if err != nil {
				return err
			}
			if q.Follow = in.Follow; q.Follow && !q.Range.To.IsZero() {
				return Invalid("what is followed has no end yet", "leave out to, or follow")
			}
			t, err := a.Services.Questions.Transcript(ctx, q, by(ctx), func(e Entry) error { return s.send(Event{Entry: &e}) })
			s.event = Event{Transcript: &t}
			return err
		})
	type recording struct {
		Command string `path:"command" doc:"its position"`
	}
	stream(a, operation{id: "recording", method: "GET", path: "/v1/recordings/{command}", tag: "questions", summary: "What flowed within a command, to be played; an asciicast streams as data events"},
		func(ctx context.Context, in *recording, s *events) error {
			at, err := evidence.ParsePosition(in.Command)
			if err != nil {
				return Invalid(err.Error(), "exhibit did shows the positions of commands with --json")
			}
			r, err := a.Services.Questions.Recording(ctx, at, by(ctx), s)
			s.event = Event{Recording: &r}
			return err
		})
	handle(a, operation{id: "explain", method: "POST", path: "/v1/explain", tag: "questions", summary: "What would be decided, and why"},
		func(ctx context.Context, in *body[Explain]) (*body[Explanation], error) {
			out, err := a.Services.Questions.Explain(ctx, in.Body, by(ctx))
			if out.Checks == nil {
				out.Checks = []evidence.Check{}
			}
			return &body[Explanation]{out}, err
		})
}

func (a *routes) registerReasons() {
	type one struct {
		Position string `path:"position" doc:"of a command, or of the start of a session"`
	}
	type ofRange struct {
		Agent string `path:"agent"`
		From  string `query:"from" doc:"date, time (RFC 3339) or position; of the range"`
		To    string `query:"to" doc:"date, time (RFC 3339) or position; just past the range"`
	}
	handle(a, operation{id: "explain-decision", method: "GET", path: "/v1/decisions/{position}", tag: "questions", summary: "Why a recorded decision was made"},
		func(ctx context.Context, in *one) (*body[Explanation], error) {
			pos, err := evidence.ParsePosition(in.Position)
			if err != nil {
				return nil, Invalid(err.Error(), "exhibit did shows the positions of commands")
			}
			out, err := a.Services.Questions.ExplainDecision(ctx, pos, by(ctx))
			if out.Checks == nil {
				out.Checks = []evidence.Check{}
			}
			return &body[Explanation]{out}, err
		})
	handle(a, operation{id: "suggest", method: "GET", path: "/v1/suggest/{agent}", tag: "questions", summary: "The least that would have allowed what an agent did"},
		func(ctx context.Context, in *ofRange) (*body[Suggestion], error) {
			r, err := parseRange(in.From, in.To, 0)
			if err != nil {
				return nil, err
			}
			out, err := a.Services.Questions.Suggest(ctx, in.Agent, r, by(ctx))
			if out.Used == nil {
				out.Used = []UsedPair{}
			}
			return &body[Suggestion]{out}, err
		})
}

func (a *routes) registerPolicies() {
	type reference struct {
		Ref string `query:"ref" maxLength:"128" doc:"beginning of its digest, or position of a change or a proposal; default: in force"`
	}
	type activation struct {
		Body struct {
			Request string `json:"request" minLength:"1" maxLength:"128" doc:"position of the proposal"`
		}
	}
	type rollback struct {
		Body struct {
			Change string `json:"change,omitempty" maxLength:"128" doc:"position of the change to go back to; default: the one before"`
			Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record"`
		}
	}
	handle(a, operation{id: "list-policies", method: "GET", path: "/v1/policies", tag: "policies", summary: "Every change of policy, and the proposals that wait"},
		func(ctx context.Context, _ *struct{}) (*body[PolicyHistory], error) {
			out, err := a.Services.Policies.Policies(ctx)
			return &body[PolicyHistory]{out}, err
		})
	handle(a, operation{id: "show-policy-at", method: "GET", path: "/v1/policies/bundle", tag: "policies", summary: "A bundle that is, was or may be in force"},
		func(ctx context.Context, in *reference) (*body[Document], error) {
			out, err := a.Services.Policies.PolicyAt(ctx, in.Ref)
			return &body[Document]{out}, err
		})
	stream(a, operation{id: "propose-policy", method: "POST", path: "/v1/policies/proposals", tag: "policies", summary: "Check, test and backtest a bundle, and ask for its approval"},
		func(ctx context.Context, in *body[NewProposal], s *events) error {
			out, err := a.Services.Policies.ProposePolicy(ctx, in.Body, by(ctx), s.progress)
			s.event = Event{Proposed: &out}
			return err
		})
	stream(a, operation{id: "backtest-policy", method: "POST", path: "/v1/policies/backtest", tag: "policies", summary: "Decide recorded commands again, under another bundle"},
		func(ctx context.Context, in *body[NewProposal], s *events) error {
			out, err := a.Services.Policies.Backtest(ctx, in.Body, by(ctx), s.progress)
			s.event = Event{Backtest: &out}
			return err
		})
	handle(a, operation{id: "activate-policy", method: "POST", path: "/v1/policies/activate", tag: "policies", summary: "Put an approved proposal in force"},
		func(ctx context.Context, in *activation) (*body[PolicyChange], error) {
			out, err := a.Services.Policies.ActivatePolicy(ctx, in.Body.Request, by(ctx))
			return &body[PolicyChange]{out}, err
		})
	handle(a, operation{id: "rollback-policy", method: "POST", path: "/v1/policies/rollback", tag: "policies", summary: "Go back to a bundle that was in force"},
		func(ctx context.Context, in *rollback) (*body[PolicyChange], error) {
			out, err := a.Services.Policies.RollbackPolicy(ctx, in.Body.Change, in.Body.Reason, by(ctx))
			return &body[PolicyChange]{out}, err
		})
}

// DidQuery is the query of what was done. It is exported because it is embedded,
// and huma looks at exported fields only.
type DidQuery struct {
	Session string   `query:"session" doc:"position of its session.start, or of any record in it"`
	Agent   string   `query:"agent"`
	From    string   `query:"from" doc:"date, time (RFC 3339) or position; of the range"`
	To      string   `query:"to" doc:"date, time (RFC 3339) or position; just past the range"`
	Verb    []string `query:"verb" enum:"session,connect,read,write,admin,opaque" doc:"only these"`
	Outcome []string `query:"outcome" enum:"ok,error,denied,skipped,cancelled,in_doubt,open" doc:"only these"`
	Limit   int      `query:"limit" default:"1000" minimum:"1" maximum:"100000" doc:"most commands; the newest are kept"`
}

func (d *DidQuery) parse() (Did, error) {
	r, err := parseRange(d.From, d.To, d.Limit)
	if err != nil {
		return Did{}, err
	}
	if d.Session != "" {
		if _, err := evidence.ParsePosition(d.Session); err != nil {
			return Did{}, Invalid(err.Error(), "a session's id is the position of its start; exhibit who and exhibit sessions show them")
		}
	}
	return Did{Session: d.Session, Agent: d.Agent, Range: r, Verbs: d.Verb, Outcomes: d.Outcome}, nil
}

func table(t Table, err error) (*body[Table], error) {
	if t.Rows == nil {
		t.Rows = [][]string{}
	}
	return &body[Table]{t}, err
}

func (a *routes) registerLog() {
	handle(a, operation{id: "log-status", method: "GET", path: "/v1/log", tag: "log", summary: "How far the log is"},
		func(ctx context.Context, _ *struct{}) (*body[LogStatus], error) {
			out, err := a.Services.Log.LogStatus(ctx)
			return &body[LogStatus]{out}, err
		})
	handle(a, operation{id: "log-flush", method: "POST", path: "/v1/log/flush", tag: "log", summary: "Seal everything that was recorded"},
		func(ctx context.Context, _ *struct{}) (*body[LogStatus], error) {
			out, err := a.Services.Log.Flush(ctx)
			return &body[LogStatus]{out}, err
		})
	stream(a, operation{id: "log-fsck", method: "POST", path: "/v1/log/fsck", tag: "log", summary: "Re-derive everything in the archive and the log"},
		func(ctx context.Context, in *body[checking], s *events) error {
			known, err := in.Body.checkpoints()
			if err != nil {
				return err
			}
			report, err := a.Services.Log.Fsck(ctx, known, s.progress)
			if report.Problems == nil {
				report.Problems = []Finding{}
			}
			s.event = Event{Fsck: &report}
			return err
		})
	handle(a, operation{id: "log-keys", method: "GET", path: "/v1/log/keys", tag: "log", summary: "The keys that sign the log, and those that did"},
		func(ctx context.Context, _ *struct{}) (*body[LogKeys], error) {
			out, err := a.Services.Log.LogKeys(ctx)
			return &body[LogKeys]{out}, err
		})
	handle(a, operation{id: "rotate-log-key", method: "POST", path: "/v1/log/keys/rotate", tag: "log", summary: "Put a new key in the place of the one that signs the log"},
		func(ctx context.Context, in *body[KeyRotation]) (*body[LogKeys], error) {
			out, err := a.Services.Log.RotateLogKey(ctx, in.Body, by(ctx))
			return &body[LogKeys]{out}, err
		})
	handle(a, operation{id: "revoke-log-key", method: "POST", path: "/v1/log/keys/revoke", tag: "log", summary: "Say that a key of the log that went is not to be believed any more"},
		func(ctx context.Context, in *body[KeyRevocation]) (*body[LogKeys], error) {
			out, err := a.Services.Log.RevokeLogKey(ctx, in.Body, by(ctx))
			return &body[LogKeys]{out}, err
		})
	handle(a, operation{id: "log-backup", method: "POST", path: "/v1/log/backup", tag: "log", summary: "Record that the log is about to be copied, and seal everything"},
		func(ctx context.Context, in *body[Backup]) (*body[LogStatus], error) {
			out, err := a.Services.Log.Backup(ctx, in.Body, by(ctx))
			return &body[LogStatus]{out}, err
		})
}

// checking asks to check the log.
type checking struct {
	Known []string `json:"known,omitempty" maxItems:"1000" doc:"texts of checkpoints that the log must have grown from (C2SP tlog-checkpoint)"`
}

func (c *checking) checkpoints() (list []ledger.Checkpoint, err error) {
	for _, text := range c.Known {
		cp, err := ledger.ParseCheckpoint(text)
		if err != nil {
			return nil, Invalid(fmt.Sprintf("a known checkpoint: %v", err), "")
		}
		list = append(list, cp)
	}
	return list, nil
}

// reloading asks to reload.
type reloading struct {
	Dry bool `json:"dry,omitempty" doc:"only say what would change"`
}

func (a *routes) registerControl() {
	handle(a, operation{id: "show-config", method: "GET", path: "/v1/config", tag: "control", summary: "The configuration in force"},
		func(ctx context.Context, _ *struct{}) (*body[Document], error) {
			out, err := a.Services.Control.Config(ctx)
			return &body[Document]{out}, err
		})
	handle(a, operation{id: "show-policy", method: "GET", path: "/v1/policy", tag: "control", summary: "The policies in force"},
		func(ctx context.Context, _ *struct{}) (*body[Document], error) {
			out, err := a.Services.Control.Policy(ctx)
			return &body[Document]{out}, err
		})
	handle(a, operation{id: "reload", method: "POST", path: "/v1/reload", tag: "control", summary: "Read configuration and policies again, as a whole or not at all"},
		func(ctx context.Context, in *body[reloading]) (*body[Reload], error) {
			out, err := a.Services.Control.Reload(ctx, in.Body.Dry, by(ctx))
			return &body[Reload]{out}, err
		})
}

// newPack asks for a pack.
type newPack struct {
	From    string `json:"from" doc:"date, time (RFC 3339) or position; part of the pack"`
	To      string `json:"to" doc:"date, time (RFC 3339) or position; just past the pack"`
	Purpose string `json:"purpose,omitempty" maxLength:"1000" doc:"stands in the record of the export"`

	Level     string `json:"level,omitempty" enum:"L0,L1,L3" doc:"of disclosure: heads, and bodies (default), and sealed parts"`
	Recipient string `json:"recipient,omitempty" maxLength:"4000" doc:"age recipient that the pack is encrypted to; L3 needs one, and a purpose"`
	Restart   bool   `json:"restart,omitempty" doc:"begin again, where the same request was interrupted"`
}

func (a *routes) registerPacks() {
	stream(a, operation{id: "create-pack", method: "POST", path: "/v1/packs", tag: "packs", summary: "Make an evidence pack; its bytes stream as data events"},
		func(ctx context.Context, in *body[newPack], s *events) error {
			from, err := ParseMoment(in.Body.From)
			if err != nil {
				return err
			}
			to, err := ParseMoment(in.Body.To)
			if err != nil {
				return err
			}
			r := PackRequest{From: from, To: to, Purpose: in.Body.Purpose, Level: in.Body.Level, Recipient: in.Body.Recipient, Restart: in.Body.Restart}
			pack, err := a.Services.Packs.CreatePack(ctx, r, by(ctx), s, s.progress)
			s.event = Event{Pack: &pack}
			return err
		})
	type exporting struct {
		From string `json:"from,omitempty" doc:"date, time (RFC 3339) or position; of the range"`
		To   string `json:"to,omitempty" doc:"date, time (RFC 3339) or position; just past the range"`
	}
	stream(a, operation{id: "export-ocsf", method: "POST", path: "/v1/export/ocsf", tag: "packs", summary: "The records of a range as OCSF events (JSON Lines), streamed as data events"},
		func(ctx context.Context, in *body[exporting], s *events) error {
			r, err := parseRange(in.Body.From, in.Body.To, 0)
			if err != nil {
				return err
			}
			export, err := a.Services.Packs.ExportOCSF(ctx, r, by(ctx), s, s.progress)
			s.event = Event{Export: &export}
			return err
		})
}

// requests counts and times what is asked. Times are sums without quantiles:
// people ask seldom, and each operation's buckets would be a dozen series.
type requests struct {
	total   *prometheus.CounterVec
	seconds *prometheus.SummaryVec
}

func newRequests() *requests {
	return &requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "exhibit_api_requests_total", Help: "Requests to the API.",
		}, []string{"operation", "code"}),
		seconds: prometheus.NewSummaryVec(prometheus.SummaryOpts{
			Name: "exhibit_api_request_duration_seconds", Help: "How long requests to the API took.",
		}, []string{"operation"}),
	}
}

func (r *requests) register(to prometheus.Registerer) error {
	return errors.Join(to.Register(r.total), to.Register(r.seconds))
}

func (r *requests) observe(op string, status int, took time.Duration) {
	r.total.WithLabelValues(op, strconv.Itoa(status)).Inc()
	r.seconds.WithLabelValues(op).Observe(took.Seconds())
}

func (a *routes) registerAlerts() {
	type which struct {
		From  string `query:"from" doc:"date, time (RFC 3339) or position; of the range"`
		To    string `query:"to" doc:"date, time (RFC 3339) or position; just past the range"`
		Limit int    `query:"limit" default:"1000" minimum:"1" maximum:"100000" doc:"most alerts; the newest are kept"`
		Open  bool   `query:"open" doc:"only those that nobody has acknowledged"`
	}
	type acknowledging struct {
		ID   string `path:"id"`
		Body NewAcknowledgement
	}
	handle(a, operation{id: "list-alerts", method: "GET", path: "/v1/alerts", tag: "alerts", summary: "What asked people to look"},
		func(ctx context.Context, in *which) (*list[Alert], error) {
			r, err := parseRange(in.From, in.To, in.Limit)
			if err != nil {
				return nil, err
			}
			return listOf(a.Services.Alerts.Alerts(ctx, r, in.Open, by(ctx)))
		})
	handle(a, operation{id: "acknowledge-alert", method: "POST", path: "/v1/alerts/{id}/acknowledge", tag: "alerts", summary: "Say what an alert was found to be"},
		func(ctx context.Context, in *acknowledging) (*body[Alert], error) {
			out, err := a.Services.Alerts.AcknowledgeAlert(ctx, in.ID, in.Body, by(ctx))
			return &body[Alert]{out}, err
		})
}
