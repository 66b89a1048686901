package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// control records one change of rights and lets it count at once, also for
// sessions that are open.
func (g *Gateway) control(ctx context.Context, h evidence.Head, body any) (evidence.Position, error) {
	d := &evidence.Draft{Head: h, Body: evidence.EncodeBody(body)}
	if err := g.controlAll(ctx, d); err != nil {
		return evidence.Position{}, g.problem(err)
	}
	return d.Head.Pos, nil
}

// controlAll records changes of rights, all or none.
func (g *Gateway) controlAll(ctx context.Context, drafts ...*evidence.Draft) error {
	err := g.recorder.Control(ctx, drafts...)
	if err == nil {
		g.gate.Sweep()
	}
	return err
}

func (g *Gateway) registry() *decision.Registry { return g.recorder.State().Registry }

// person returns the configured person with an id.
func (g *Gateway) person(id string) (evidence.Person, error) {
	for _, p := range g.live.Load().People {
		if p.ID == id {
			return p, nil
		}
	}
	return evidence.Person{}, api.Invalid(fmt.Sprintf("there is no person %q", id), "an owner is a named person: add them to `people` in the configuration, then `exhibit reload`")
}

// AddAgent implements api.Agents.
func (g *Gateway) AddAgent(ctx context.Context, a api.NewAgent, by evidence.By) (api.Agent, error) {
	owner, err := g.person(a.Owner)
	if err != nil {
		return api.Agent{}, err
	}
	var backup evidence.Person
	if a.Backup != "" {
		if backup, err = g.person(a.Backup); err != nil {
			return api.Agent{}, err
		}
	}
	_, err = g.control(ctx, evidence.Head{Type: evidence.AgentCreate, Agent: a.ID}, evidence.AgentBody{
		Agent: a.ID, Name: a.Name, Purpose: a.Purpose, Owner: owner, Backup: backup,
		Team: a.Team, Env: a.Env, Model: a.Model, Expires: micros(a.Expires), By: by,
	})
	if err != nil {
		return api.Agent{}, err
	}
	return g.agent(a.ID)
}

// Agents implements api.Agents.
func (g *Gateway) Agents(context.Context) ([]api.Agent, error) {
	list := []api.Agent{}
	for _, a := range g.registry().Agents() {
		list = append(list, g.apiAgent(a))
	}
	return list, nil
}

// RetireAgent implements api.Agents.
func (g *Gateway) RetireAgent(ctx context.Context, id, reason string, by evidence.By) (api.Agent, error) {
	_, err := g.control(ctx, evidence.Head{Type: evidence.AgentDisable, Agent: known(g.registry(), id)},
		evidence.DisableBody{Agent: id, Reason: reason, By: by})
	if err != nil {
		return api.Agent{}, err
	}
	return g.agent(id)
}

func (g *Gateway) agent(id string) (api.Agent, error) {
	a, ok := g.registry().Agent(id)
	if !ok {
		return api.Agent{}, api.NotFound(fmt.Sprintf("there is no agent %q", id), "exhibit agent list shows all")
	}
	return g.apiAgent(a), nil
}

// known returns id when it names an agent: a head holds no other.
func known(r *decision.Registry, id string) string {
	if _, ok := r.Agent(id); ok {
		return id
	}
	return ""
}

func (g *Gateway) apiAgent(a decision.Agent) api.Agent {
	out := api.Agent{
		ID: a.Agent, Name: a.Name, Purpose: a.Purpose, Owner: a.Owner, Backup: a.Backup,
		Team: a.Team, Env: a.Env, Model: a.Model, Expires: moment(a.Expires), Status: "active",
		Created: api.Change{Position: a.Created.String(), Time: moment(a.CreatedAt), By: a.By},
	}
	switch {
	case !a.Disabled.IsZero():
		out.Status = "retired"
		out.Disabled = &api.Change{Position: a.Disabled.String(), Time: moment(a.DisabledAt), By: a.DisabledBy, Reason: a.DisabledFor}
	case !a.Registered(g.clock.now().UnixMicro()):
		out.Status = "expired"
	case !a.Suspended.IsZero():
		out.Status = "suspended"
		l, _ := g.registry().Leaver(a.Owner.ID)
		out.Suspended = &api.Change{Position: a.Suspended.String(), Time: moment(a.SuspendedAt), By: l.By, Reason: "nobody answers for it"}
	}
	return out
}

// AddGrant implements api.Grants.
func (g *Gateway) AddGrant(ctx context.Context, n api.NewGrant, by evidence.By) (api.Grant, error) {
	d := &evidence.Draft{
		Head: about(g.registry(), evidence.GrantCreate, n.Agent, n.Resource),
		Body: evidence.EncodeBody(evidence.GrantBody{
			Agent: n.Agent, Role: n.Role, Resource: n.Resource, Ticket: n.Ticket, Reason: n.Reason,
			Expires: micros(n.Expires), By: by,
		}),
	}
	switch err := g.controlAll(ctx, d); {
	case errors.Is(err, decision.ErrSeparation):
		return api.Grant{}, api.Forbidden("a grant needs two people here: one asks for it, another approves it", "ask for it: "+requestCommand(n))
	case err != nil:
		return api.Grant{}, g.problem(err)
	}
	return g.grant(d.Head.Pos.String())
}

// about is the head of a change of rights: it names what there is only.
func about(r *decision.Registry, typ evidence.Type, agent, resource string) evidence.Head {
	h := evidence.Head{Type: typ, Agent: known(r, agent)}
	if res, ok := r.Resource(resource); ok {
		h.Resource = res.Name
	}
	return h
}

// Grants implements api.Grants.
func (g *Gateway) Grants(_ context.Context, agent string) ([]api.Grant, error) {
	list := []api.Grant{}
	for _, gr := range g.registry().Grants() {
		if agent == "" || gr.Agent == agent {
			list = append(list, g.apiGrant(gr))
		}
	}
	return list, nil
}

// RevokeGrant implements api.Grants.
func (g *Gateway) RevokeGrant(ctx context.Context, id, reason string, by evidence.By) (api.Grant, error) {
	head := evidence.Head{Type: evidence.GrantRemove}
	if gr, ok := g.registry().Grant(id); ok {
		head.Agent, head.Resource = gr.Agent, gr.Resource
	}
	if _, err := g.control(ctx, head, evidence.RevokeBody{ID: id, Reason: reason, By: by}); err != nil {
		return api.Grant{}, err
	}
	return g.grant(id)
}

func (g *Gateway) grant(id string) (api.Grant, error) {
	gr, ok := g.registry().Grant(id)
	if !ok {
		return api.Grant{}, api.NotFound(fmt.Sprintf("there is no grant %q", id), "exhibit grant list shows all")
	}
	return g.apiGrant(gr), nil
}

func (g *Gateway) apiGrant(gr decision.Grant) api.Grant {
	out := api.Grant{
		ID: gr.ID, Agent: gr.Agent, Role: gr.Role, Resource: gr.Resource, Ticket: gr.Ticket,
		Starts: moment(gr.Starts), Expires: moment(gr.Expires), Renews: gr.Renews, Status: "active",
		Created: api.Change{Position: gr.Created.String(), Time: moment(gr.CreatedAt), By: gr.By, Reason: gr.Reason},
	}
	if asked, ok := g.registry().Approval(gr.Request); ok {
		out.Request, out.Asked = asked.ID, new(askedBy(&asked))
		for _, d := range asked.Decisions {
			if d.Decision == evidence.Approved {
				out.Approvals = append(out.Approvals, decidedBy(&d))
			}
		}
	}
	now := g.clock.now().UnixMicro()
	switch {
	case !gr.Removed.IsZero():
		out.Status = "removed"
		out.Removed = &api.Change{Position: gr.Removed.String(), Time: moment(gr.RemovedAt), By: gr.RemovedBy, Reason: gr.RemovedFor}
	case now < gr.Starts:
		out.Status = "upcoming"
	case !gr.Active(now):
		out.Status = "expired"
	}
	return out
}

// forever is the end of a key that has none: 9999-12-31, which every reader of
// dates holds.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// EnrollKey implements api.Credentials.
func (g *Gateway) EnrollKey(ctx context.Context, k api.NewKey, by evidence.By) (api.Credential, error) {
	public, err := identity.ParsePublicKey(k.PublicKey)
	if err != nil {
		return api.Credential{}, api.Invalid(err.Error(), "")
	}
	thumbprint := identity.Thumbprint(public)
	until := k.Expires
	if until.IsZero() {
		until = forever
	}
	id := "key_" + thumbprint
	_, err = g.control(ctx, evidence.Head{Type: evidence.CredentialEnroll, Agent: known(g.registry(), k.Agent)}, evidence.CredentialBody{
		ID: id, Agent: k.Agent, Kind: "key", Thumbprint: thumbprint, PublicKey: k.PublicKey,
		Issuer: g.opened.Name, NotBefore: g.clock.now().UnixMicro(), NotAfter: micros(until), By: by,
	})
	if err != nil {
		return api.Credential{}, err
	}
	return g.credential(id)
}

// Credentials implements api.Credentials.
func (g *Gateway) Credentials(_ context.Context, agent string) ([]api.Credential, error) {
	all := g.registry().Credentials()
	slices.SortFunc(all, func(a, b decision.Credential) int {
		return cmp.Or(cmp.Compare(a.EnrolledAt, b.EnrolledAt), cmp.Compare(a.ID, b.ID))
	})
	list := []api.Credential{}
	for _, c := range all {
		if agent == "" || c.Agent == agent {
			list = append(list, g.apiCredential(c))
		}
	}
	return list, nil
}

// RevokeCredential implements api.Credentials.
func (g *Gateway) RevokeCredential(ctx context.Context, id, reason string, by evidence.By) (api.Credential, error) {
	head := evidence.Head{Type: evidence.CredentialRevoke}
	if c, ok := g.registry().Credential(id); ok {
		head.Agent = c.Agent
	}
	if _, err := g.control(ctx, head, evidence.RevokeBody{ID: id, Reason: reason, By: by}); err != nil {
		return api.Credential{}, err
	}
	return g.credential(id)
}

func (g *Gateway) credential(id string) (api.Credential, error) {
	c, ok := g.registry().Credential(id)
	if !ok {
		return api.Credential{}, api.NotFound(fmt.Sprintf("there is no credential %q", id), "exhibit credential list shows all")
	}
	return g.apiCredential(c), nil
}

func (g *Gateway) apiCredential(c decision.Credential) api.Credential {
	out := api.Credential{
		ID: c.ID, Agent: c.Agent, Kind: c.Kind, Thumbprint: c.Thumbprint,
		NotBefore: moment(c.NotBefore), NotAfter: moment(c.NotAfter), Status: "active", Audience: g.opened.Name,
		Created: api.Change{Position: c.Enrolled.String(), Time: moment(c.EnrolledAt), By: c.By},
	}
	switch {
	case !c.Revoked.IsZero():
		out.Status = "revoked"
		out.Revoked = &api.Change{Position: c.Revoked.String(), Time: moment(c.RevokedAt), By: c.RevokedBy, Reason: c.RevokedFor}
	case !c.Active(g.clock.now().UnixMicro()):
		out.Status = "expired"
	}
	return out
}

// Sessions implements api.Sessions.
func (g *Gateway) Sessions(context.Context) ([]api.Session, error) {
	live := g.gate.Sessions()
	slices.SortFunc(live, func(a, b session.Live) int { return cmp.Compare(a.Since.UnixMicro(), b.Since.UnixMicro()) })
	list := []api.Session{}
	for _, s := range live {
		list = append(list, api.Session{
			ID: s.ID, Agent: s.Agent, Resource: s.Resource, Principal: s.Principal, Ticket: s.Ticket,
			Client: s.Client, Since: s.Since, Commands: s.Commands, Denied: s.Denied,
		})
	}
	return list, nil
}

// errKilled is why a killed session ends. Its agent is told as much, and not by
// whom nor what for.
var errKilled = &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "killed: the session was ended by the operator"}

// Kill implements api.Sessions. Access ends even where the record of it can't
// be written: it is never safer to let it go on.
func (g *Gateway) Kill(ctx context.Context, k api.KillRequest, by evidence.By) (api.Killed, error) {
	if k.Agent != "" {
		if _, err := g.agent(k.Agent); err != nil {
			return api.Killed{}, err
		}
	}
	live, err := g.Sessions(ctx)
	if err != nil {
		return api.Killed{}, err
	}
	out := api.Killed{Agent: k.Agent}
	body := evidence.KillBody{Agent: k.Agent, Reason: k.Reason, By: by}
	head := evidence.Head{Type: evidence.SessionKill, Agent: k.Agent}
	for _, s := range live {
		if s.ID != k.Session && s.Agent != k.Agent {
			continue
		}
		start, err := evidence.ParsePosition(s.ID)
		if err != nil {
			return api.Killed{}, fmt.Errorf("session %s: %w", s.ID, err)
		}
		if k.Session != "" {
			head.Agent, head.Resource, head.Of, out.Agent = s.Agent, s.Resource, start, s.Agent
		}
		body.Sessions, out.Sessions = append(body.Sessions, start), append(out.Sessions, s.ID)
	}
	switch {
	case len(out.Sessions) == 0 && k.Agent != "":
		return api.Killed{}, api.NotFound(k.Agent+" has no open session", "to keep it out: exhibit grant revoke, exhibit agent retire")
	case len(out.Sessions) == 0:
		return api.Killed{}, api.NotFound(fmt.Sprintf("no session %.80q is open: it has ended, or it never was", k.Session), "exhibit sessions shows those that are")
	}
	d := &evidence.Draft{Head: head, Body: evidence.EncodeBody(body)}
	_, err = g.recorder.Own().Record(ctx, 0, evidence.Power, d)
	g.gate.Kill(errKilled, out.Sessions...)
	if err != nil {
		return api.Killed{}, fmt.Errorf("the sessions were ended, but that could not be recorded: %w", err)
	}
	out.Position = d.Head.Pos.String()
	return out, nil
}

// micros is t as records have it; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// moment undoes micros.
func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
