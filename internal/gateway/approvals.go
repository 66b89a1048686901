package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
)

// DefaultRequestTTL is how long a request for an approval waits.
const DefaultRequestTTL = 72 * time.Hour

// Holds knows the commands that wait for an approval.
type Holds interface {
	// Held returns the exact text and the values of the command that waits for a
	// request; false when none does.
	Held(request string) (raw []byte, params [][]byte, ok bool)
}

// sameConfig reports whether two configurations say the same. The text alone
// doesn't tell: what a key that is left out stands for is the program's.
func sameConfig(a, b evidence.ConfigBody) bool {
	plain := func(b evidence.ConfigBody) []byte {
		b.Before, b.Diff, b.By = "", "", evidence.By{}
		return evidence.EncodeBody(b)
	}
	return bytes.Equal(plain(a), plain(b))
}

// RequestGrant implements api.Approvals.
func (g *Gateway) RequestGrant(ctx context.Context, n api.NewGrantRequest, by evidence.By) (api.Approval, error) {
	if n.Renews != "" {
		old, ok := g.registry().Grant(n.Renews)
		if !ok {
			return api.Approval{}, api.NotFound(fmt.Sprintf("there is no grant %.80q to renew", n.Renews), "exhibit grant list shows all")
		}
		n.Agent, n.Role, n.Resource = cmp.Or(n.Agent, old.Agent), cmp.Or(n.Role, old.Role), cmp.Or(n.Resource, old.Resource)
		n.Ticket = cmp.Or(n.Ticket, old.Ticket)
	}
	if n.Agent == "" || n.Role == "" || n.Resource == "" {
		return api.Approval{}, api.Invalid("a grant puts an agent in a role on a resource: all three are needed", "")
	}
	registry := g.registry()
	body := g.grantRequest(n, by)
	if unanswerable(registry, &body) {
		return api.Approval{}, nobodyAnswers(registry, n, by)
	}
	pos, err := g.control(ctx, about(registry, evidence.ApprovalRequest, n.Agent, n.Resource), body)
	if err != nil {
		return api.Approval{}, err
	}
	return g.approval(pos.String())
}

// grantRequest is the request for a grant.
func (g *Gateway) grantRequest(n api.NewGrantRequest, by evidence.By) evidence.ApprovalRequestBody {
	scope := evidence.GrantScope{
		Agent: n.Agent, Role: n.Role, Resource: n.Resource,
		Starts: micros(n.Starts), Expires: micros(n.Expires), Renews: n.Renews,
	}
	return evidence.ApprovalRequestBody{
		Kind: evidence.ApproveGrant, Digest: decision.ScopeDigest(scope), Grant: &scope,
		Needs:  []evidence.ApprovalNeed{{Group: evidence.GroupResource, Count: 1}},
		Ticket: n.Ticket, Reason: n.Reason,
		Expires: min(g.requestEnds(), scope.Expires), By: by,
	}
}

// requestEnds is when a request that is made now expires.
func (g *Gateway) requestEnds() int64 {
	return g.clock.now().Add(cmp.Or(g.live.Load().RequestTTL, DefaultRequestTTL)).UnixMicro()
}

// answerers are the people who could say yes to a request.
func answerers(r *decision.Registry, b *evidence.ApprovalRequestBody) (ids []string) {
	for _, id := range r.People() {
		if len(r.Groups(b, id)) > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// unanswerable reports whether a request for a grant would wait in vain.
func unanswerable(r *decision.Registry, b *evidence.ApprovalRequestBody) bool {
	_, ok := r.Resource(b.Grant.Resource)
	return ok && len(answerers(r, b)) == 0
}

// nobodyAnswers says that a request would wait in vain, and what to do.
func nobodyAnswers(r *decision.Registry, n api.NewGrantRequest, by evidence.By) error {
	message := fmt.Sprintf("nobody could approve it: %s asks, and nobody else approves grants on %s", by.Person.ID, n.Resource)
	if !r.Separated() {
		return api.Invalid(message, "one person may do it alone here, on record as that: "+addCommand(n))
	}
	return api.Invalid(message, "name an owner or approvers of the resource in the configuration, then exhibit reload")
}

// requestCommand is the command line that asks for what one person can't give
// alone; addCommand the one that gives it.
func requestCommand(n api.NewGrant) string {
	return shell("exhibit grant request", "--agent", n.Agent, "--role", n.Role, "--resource", n.Resource,
		"--until", n.Expires.UTC().Format(time.RFC3339), "--ticket", n.Ticket, "--reason", n.Reason)
}

func addCommand(n api.NewGrantRequest) string {
	return shell("exhibit grant add", "--agent", n.Agent, "--role", n.Role, "--resource", n.Resource,
		"--expires", n.Expires.UTC().Format(time.RFC3339), "--ticket", n.Ticket, "--reason", n.Reason)
}

// shell writes a command line with flags that have a value.
func shell(command string, flags ...string) string {
	for i := 0; i < len(flags); i += 2 {
		v := flags[i+1]
		switch {
		case v == "":
			continue
		case !evidence.ValidName(v):
			v = "'" + strings.ReplaceAll(v, "'", `'\''`) + "'"
		}
		command += " " + flags[i] + " " + v
	}
	return command
}

// Approvals implements api.Approvals.
func (g *Gateway) Approvals(_ context.Context, q api.ApprovalQuery) ([]api.Approval, error) {
	list := []api.Approval{}
	registry, now := g.registry(), g.clock.now().UnixMicro()
	for _, a := range registry.Approvals() {
		state := registry.State(&a, now)
		open := state == decision.ApprovalPending || state == decision.ApprovalApproved
		if q.Kind != "" && a.Kind != q.Kind || !open && !q.All {
			continue
		}
		out := g.apiApproval(registry, &a)
		if out.Policy != nil {
			p := *out.Policy
			p.Files, p.Actions, p.Diff = nil, nil, ""
			out.Policy = &p
		}
		list = append(list, out)
	}
	return list, nil
}

// Approval implements api.Approvals. What is sealed is shown to those who can
// answer, and to the owner of the agent that asks, and to no others.
func (g *Gateway) Approval(ctx context.Context, id string, by evidence.By) (api.Approval, error) {
	registry := g.registry()
	a, ok := registry.Approval(id)
	if !ok {
		return api.Approval{}, noApproval(id)
	}
	out := g.apiApproval(registry, &a)
	if out.Command == nil || g.holds == nil {
		return out, nil
	}
	raw, params, waits := g.holds.Held(id)
	out.Command.Waits = waits
	if who := by.Person.ID; !waits || who != a.By.Person.ID && len(registry.Groups(&a.ApprovalRequestBody, who)) == 0 {
		return out, nil
	}
	if _, err := g.readAt(ctx, "L2", "approval", "request "+id, by); err != nil {
		return api.Approval{}, err
	}
	out.Command.Statement, out.Command.Values = raw, params
	return out, nil
}

func (g *Gateway) approval(id string) (api.Approval, error) {
	registry := g.registry()
	a, ok := registry.Approval(id)
	if !ok {
		return api.Approval{}, noApproval(id)
	}
	return g.apiApproval(registry, &a), nil
}

func noApproval(id string) error {
	return api.NotFound(fmt.Sprintf("there is no request %.80q", id), "exhibit approval list --all shows all")
}

// AnswerApproval implements api.Approvals.
func (g *Gateway) AnswerApproval(ctx context.Context, id, what string, n api.Answer, by evidence.By) (api.Approval, error) {
	// Two who approve at once must not both leave the grant to the other.
	g.answering.Lock()
	defer g.answering.Unlock()
	registry := g.registry()
	a, ok := registry.Approval(id)
	if !ok {
		return api.Approval{}, noApproval(id)
	}
	body := evidence.ApprovalDecisionBody{
		Request: id, Digest: cmp.Or(n.Digest, a.Digest), Decision: what, Reason: n.Reason, Expires: micros(n.Expires), By: by,
	}
	if what != evidence.Withdrawn {
		body.Groups = registry.Groups(&a.ApprovalRequestBody, by.Person.ID)
	}
	agent, resource := subjectOf(&a)
	drafts := []*evidence.Draft{{Head: about(registry, evidence.ApprovalDecision, agent, resource), Body: evidence.EncodeBody(body)}}
	if a.Kind == evidence.ApproveGrant {
		grant, err := g.grantBy(registry, drafts[0], id, by)
		if err != nil {
			return api.Approval{}, g.unanswered(registry, &a, err)
		}
		if grant != nil {
			drafts = append(drafts, grant)
		}
	}
	if err := g.controlAll(ctx, drafts...); err != nil {
		return api.Approval{}, g.unanswered(registry, &a, err)
	}
	return g.approval(id)
}

// subjectOf is whom and what a request is about; a policy is about all.
func subjectOf(a *decision.Approval) (agent, resource string) {
	switch {
	case a.Grant != nil:
		return a.Grant.Agent, a.Grant.Resource
	case a.Command != nil:
		return a.Command.Agent, a.Command.Resource
	}
	return "", ""
}

// grantBy makes the grant that an answer completes, or nil. It tries the answer
// without recording it.
func (g *Gateway) grantBy(r *decision.Registry, answer *evidence.Draft, id string, by evidence.By) (*evidence.Draft, error) {
	h := answer.Head
	h.Pos = evidence.Position{Gateway: g.opened.Name, Boot: g.recorder.Boot(), Seq: g.recorder.Count()}
	h.Time = g.clock.now().UnixMicro()
	next, err := r.Apply(h, answer.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", recorder.ErrRefused, err)
	}
	a, _ := next.Approval(id)
	if next.State(&a, h.Time) != decision.ApprovalApproved {
		return nil, nil
	}
	b := a.GrantOf(by)
	return &evidence.Draft{Head: about(r, evidence.GrantCreate, b.Agent, b.Resource), Body: evidence.EncodeBody(b)}, nil
}

// unanswered says why a person's answer doesn't count.
func (g *Gateway) unanswered(r *decision.Registry, a *decision.Approval, err error) error {
	switch message := strings.TrimPrefix(plainRefusal(err), string(evidence.ApprovalDecision)+": "); {
	case errors.Is(err, decision.ErrSelfApproval), errors.Is(err, decision.ErrNoApprover):
		hint := "nobody can approve it as the configuration stands"
		if who := answerers(r, &a.ApprovalRequestBody); len(who) > 0 {
			hint = "it can be approved by " + strings.Join(who, ", ")
		}
		return api.Forbidden(message, hint)
	case errors.Is(err, decision.ErrRetired), errors.Is(err, decision.ErrDuplicate), errors.Is(err, decision.ErrStale):
		return api.Conflict(message, "exhibit approval show "+a.ID)
	}
	return g.problem(err)
}

func (g *Gateway) apiApproval(r *decision.Registry, a *decision.Approval) api.Approval {
	out := api.Approval{
		ID: a.ID, Kind: a.Kind, Status: r.State(a, g.clock.now().UnixMicro()), Digest: a.Digest, Policy: a.Policy, Erasure: a.Erasure, Disposal: a.Disposal,
		Needs: needsOf(r, a), Ticket: a.Ticket, Expires: moment(a.Expires), Asked: askedBy(a),
	}
	if s := a.Grant; s != nil {
		out.Grant = &api.GrantScope{
			Agent: s.Agent, Role: s.Role, Resource: s.Resource,
			Starts: moment(s.Starts), Expires: moment(s.Expires), Renews: s.Renews,
		}
	}
	if c := a.Command; c != nil {
		agent, _ := r.Agent(c.Agent)
		out.Command = &api.HeldCommand{
			Session: c.Session.String(), Agent: c.Agent, Owner: agent.Owner, Resource: c.Resource, Verb: c.Verb, Text: c.Text,
			Checks: slices.Concat([]evidence.Check{}, c.Checks), Facts: c.Facts, Rules: slices.Concat([]string{}, c.Rules),
		}
	}
	for _, d := range a.Decisions {
		out.Answers = append(out.Answers, api.ApprovalAnswer{
			Decision: d.Decision, Groups: d.Groups, Expires: moment(d.Expires), Change: decidedBy(&d),
		})
	}
	if !a.Used.IsZero() {
		out.Used = &api.ApprovalUse{Position: a.Used.String(), Time: moment(a.UsedAt), By: a.UsedBy}
	}
	return out
}

// needsOf says what a request needs, and who could still say it.
func needsOf(r *decision.Registry, a *decision.Approval) []api.RequestNeed {
	needs := []api.RequestNeed{}
	stands := func(person, group string) bool {
		return slices.Contains(r.Groups(&a.ApprovalRequestBody, person), group)
	}
	for _, n := range a.Needs {
		need := api.RequestNeed{Group: n.Group, Count: n.Count, People: []string{}}
		answered := make(map[string]bool)
		for _, d := range a.Decisions {
			answered[d.By.Person.ID] = true
			if d.Decision == evidence.Approved && stands(d.By.Person.ID, n.Group) {
				need.Have++
			}
		}
		for _, id := range r.People() {
			if !answered[id] && stands(id, n.Group) {
				need.People = append(need.People, id)
			}
		}
		needs = append(needs, need)
	}
	return needs
}

func askedBy(a *decision.Approval) api.Change {
	return api.Change{Position: a.Asked.String(), Time: moment(a.AskedAt), By: a.By, Reason: a.Reason}
}

func decidedBy(d *decision.ApprovalDecision) api.Change {
	return api.Change{Position: d.Decided.String(), Time: moment(d.DecidedAt), By: d.By, Reason: d.Reason}
}

// Wish is what an agent asks people for.
type Wish struct {
	Agent, Session string
	Role, Resource string
	Lasts          time.Duration
	Ticket, Reason string
}

// Wished is what became of it.
type Wished struct {
	Request   string
	Before    bool // it was asked for already
	Expires   time.Time
	Approvers []string
}

// What one agent can make people look at.
const (
	maxWishes     = 5  // of its requests that wait
	maxAttempts   = 20 // in an hour, whatever comes of them
	attemptWindow = time.Hour
)

// wishes are the requests that agents made, and how often they tried: all
// requests ever made are too many to look at for whoever can ask in a loop.
type wishes struct {
	mu  sync.Mutex
	ids map[string][]string // of requests that may still wait, by agent; nil until they are needed
	did map[string]attempts
}

type attempts struct {
	since time.Time
	n     int
}

// viaAgent begins how an agent asked for something itself.
const viaAgent = "agent "

// Wish asks people for a grant in the name of an agent. Who asks is its owner,
// so that another person must answer. What it says of names that it can't know
// is the same whether there are such or not.
func (g *Gateway) Wish(ctx context.Context, w Wish) (Wished, error) {
	g.wishes.mu.Lock()
	defer g.wishes.mu.Unlock()
	registry, now := g.registry(), g.clock.now()
	agent, ok := registry.Agent(w.Agent)
	if !ok {
		return Wished{}, api.NotFound("there is no such agent", "")
	}
	if !g.wishes.attempt(w.Agent, now) {
		return Wished{}, api.Conflict(fmt.Sprintf("you have asked %d times within an hour", maxAttempts), "people answer when they can: go on with what you may do")
	}
	waiting := g.wishes.waiting(registry, w.Agent, now.UnixMicro())
	for _, a := range waiting {
		if a.Grant.Role == w.Role && a.Grant.Resource == w.Resource && a.Ticket == w.Ticket {
			return Wished{Request: a.ID, Before: true, Expires: moment(a.Expires), Approvers: answerers(registry, &a.ApprovalRequestBody)}, nil
		}
	}
	if len(waiting) >= maxWishes {
		return Wished{}, api.Conflict(fmt.Sprintf("%d of your requests wait for an answer already", len(waiting)), "ask again once people have answered; "+waiting[0].ID+" is the first of them")
	}
	body := g.grantRequest(api.NewGrantRequest{
		Agent: w.Agent, Role: w.Role, Resource: w.Resource, Expires: now.Add(w.Lasts), Ticket: w.Ticket, Reason: w.Reason,
	}, evidence.By{Person: agent.Owner, Via: viaAgent + w.Agent + ", session " + w.Session})
	if unanswerable(registry, &body) {
		return Wished{}, api.Invalid("nobody but your owner could approve it", "ask "+agent.Owner.ID+" for it")
	}
	d := &evidence.Draft{Head: about(registry, evidence.ApprovalRequest, w.Agent, w.Resource), Body: evidence.EncodeBody(body)}
	switch err := g.controlAll(ctx, d); {
	case errors.Is(err, recorder.ErrRefused): // its words name what there is
		return Wished{}, api.Invalid("there is no such role or resource, or it can't be granted so (some roles need a ticket)", "ask your owner, "+agent.Owner.ID+", which there are")
	case err != nil:
		return Wished{}, api.Unavailable("the request can't be recorded now", "ask again later")
	}
	id := d.Head.Pos.String()
	g.wishes.ids[w.Agent] = append(g.wishes.ids[w.Agent], id)
	return Wished{Request: id, Expires: moment(body.Expires), Approvers: answerers(registry, &body)}, nil
}

// attempt counts one try of an agent's; false is one too many.
func (w *wishes) attempt(agent string, now time.Time) bool {
	if w.did == nil {
		w.did = make(map[string]attempts)
	}
	a := w.did[agent]
	if d := now.Sub(a.since); d >= attemptWindow || d < 0 {
		a = attempts{since: now}
	}
	a.n++
	w.did[agent] = a
	return a.n <= maxAttempts
}

// waiting are an agent's own requests that still wait.
func (w *wishes) waiting(r *decision.Registry, agent string, now int64) (list []decision.Approval) {
	if w.ids == nil {
		w.ids = make(map[string][]string)
		for _, a := range r.Approvals() {
			if a.Grant != nil && strings.HasPrefix(a.By.Via, viaAgent) && r.State(&a, now) == decision.ApprovalPending {
				w.ids[a.Grant.Agent] = append(w.ids[a.Grant.Agent], a.ID)
			}
		}
	}
	ids := w.ids[agent][:0]
	for _, id := range w.ids[agent] {
		if a, ok := r.Approval(id); ok && r.State(&a, now) == decision.ApprovalPending {
			ids, list = append(ids, id), append(list, a)
		}
	}
	w.ids[agent] = ids
	return list
}
