package gateway

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/policy"
)

// explanation is a decision for people.
func explanation(e *decision.Explanation, q *decision.Request) api.Explanation {
	out := api.Explanation{
		Effect: string(e.Effect), Reason: e.Reason, Checks: q.Checks, Facts: q.Command, Rules: e.Rules, Grants: e.Grants, Policy: e.Policy,
		Obligations: e.Obligations, Approval: e.Approval, Limit: e.Limit, Roles: e.Roles,
	}
	for _, c := range e.Checks {
		a := api.Answered{Check: c.Check, Effect: string(c.Effect), Permits: rulesSaid(c.Permits), Forbids: rulesSaid(c.Forbids), Missed: rulesSaid(c.Missed)}
		for _, f := range c.Failures {
			said := ruleSaid(f.Rule)
			said.Failure = f.Text
			a.Failed = append(a.Failed, said)
		}
		out.Answers = append(out.Answers, a)
	}
	return out
}

func rulesSaid(rules []decision.Rule) (list []api.RuleSaid) {
	for _, r := range rules {
		list = append(list, ruleSaid(r))
	}
	return list
}

func ruleSaid(r decision.Rule) api.RuleSaid {
	return api.RuleSaid{ID: r.ID, Description: r.Description, Hint: r.Hint, File: r.File, Line: r.Line, Text: r.Text}
}

// ExplainDecision implements api.Questions.
func (g *Gateway) ExplainDecision(ctx context.Context, at evidence.Position, by evidence.By) (api.Explanation, error) {
	h, err := g.headAt(ctx, at)
	if err != nil {
		return api.Explanation{}, err
	}
	if h.Type != evidence.CommandIntent && h.Type != evidence.SessionStart {
		return api.Explanation{}, api.NotFound(fmt.Sprintf("record %s is a %s, which holds no decision", at, h.Type), "exhibit did shows the positions of commands")
	}
	if _, err := g.read(ctx, "question", "explain "+at.String(), by); err != nil {
		return api.Explanation{}, err
	}
	q, in, err := g.askedAt(ctx, at)
	if err != nil {
		return api.Explanation{}, err
	}
	out := api.Explanation{Effect: string(in.Effect), Reason: in.Reason, Checks: in.Checks}
	if h.Type == evidence.CommandIntent || in.Policy != "" { // else the gateway itself refused
		registry, err := g.registryBefore(ctx, at)
		if err != nil {
			return api.Explanation{}, err
		}
		e := registry.Explain(*q)
		out = explanation(&e, q)
		e.Until = 0
		if !reflect.DeepEqual(in.Decision, e.Decision) {
			out.Differs = string(evidence.EncodeBody(in.Decision))
		}
	}
	out.Position, out.Time, out.Agent, out.Resource = at.String(), moment(h.Time), h.Agent, h.Resource
	out.Verb, out.Parse, out.Text = h.Verb, string(in.Parse), in.Text
	return out, nil
}

// askedAt rebuilds what was asked of policy at a position: of a command from its
// own record and that of its session.
func (g *Gateway) askedAt(ctx context.Context, at evidence.Position) (*decision.Request, *evidence.IntentBody, error) {
	rec, err := g.recordAt(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	h := &rec.Head
	q := &decision.Request{Agent: h.Agent, Resource: h.Resource, Time: h.Time}
	start := rec
	in := &evidence.IntentBody{}
	if h.Type == evidence.CommandIntent {
		if err := evidence.DecodeBody(rec.Body, in); err != nil {
			return nil, nil, err
		}
		if start, err = g.recordAt(ctx, h.Session); err != nil {
			return nil, nil, err
		}
	}
	var s evidence.SessionStartBody
	if err := evidence.DecodeBody(start.Body, &s); err != nil {
		return nil, nil, err
	}
	if h.Type == evidence.SessionStart {
		in = &evidence.IntentBody{Path: evidence.PathConnect, Parse: evidence.ParseFull, Checks: s.Checks, Decision: s.Decision}
	}
	q.Checks, q.Session, q.Command, q.Path, q.Approval, q.Limit = in.Checks, s.Context, in.Facts, in.Path, in.Approval, in.Limit
	return q, in, nil
}

// Suggest implements api.Questions.
func (g *Gateway) Suggest(ctx context.Context, agent string, r api.Range, by evidence.By) (api.Suggestion, error) {
	if _, err := g.agent(agent); err != nil {
		return api.Suggestion{}, err
	}
	from, to, err := g.times(ctx, r)
	if err != nil {
		return api.Suggestion{}, err
	}
	upTo, err := g.read(ctx, "question", "suggest "+agent, by)
	if err != nil {
		return api.Suggestion{}, err
	}
	used := &policy.Used{Agent: agent}
	needed := make(map[string]bool) // grants
	add := func(resource string, checks []evidence.Check, d *evidence.Decision) {
		used.Add(resource, checks)
		for _, id := range d.Grants {
			needed[id] = true
		}
	}
	err = g.since(ctx, from, upTo, func(rec *evidence.Record) error {
		h := &rec.Head
		if h.Agent != agent || h.Effect != evidence.Allow || h.Outcome != "" || h.Time < from || to != 0 && h.Time >= to {
			return nil
		}
		switch h.Type {
		case evidence.CommandIntent:
			var in evidence.IntentBody
			if err := evidence.DecodeBody(rec.Body, &in); err != nil {
				return err
			}
			add(h.Resource, in.Checks, &in.Decision)
		case evidence.SessionStart:
			var s evidence.SessionStartBody
			if err := evidence.DecodeBody(rec.Body, &s); err != nil {
				return err
			}
			add(h.Resource, s.Checks, &s.Decision)
		}
		return nil
	})
	if err != nil {
		return api.Suggestion{}, err
	}
	return g.suggestion(used, needed), nil
}

// suggestion holds what was used against what the agent has.
func (g *Gateway) suggestion(used *policy.Used, needed map[string]bool) api.Suggestion {
	out := api.Suggestion{Agent: used.Agent, Commands: used.Commands, Used: []api.UsedPair{}, Cedar: used.Cedar(), More: used.More}
	pairs, commands := used.Pairs()
	for i, p := range pairs {
		out.Used = append(out.Used, api.UsedPair{Resource: p.Resource, Action: p.Action, Object: p.Object, Commands: commands[i]})
	}
	registry, now := g.registry(), g.clock.now().UnixMicro()
	var roles []string
	for _, gr := range registry.Grants() {
		if gr.Agent != used.Agent || !gr.Active(now) {
			continue
		}
		if !slices.Contains(roles, gr.Role) {
			roles = append(roles, gr.Role)
		}
		if !needed[gr.ID] {
			out.Unused = append(out.Unused, api.UnusedGrant{ID: gr.ID, Role: gr.Role, Resource: gr.Resource, Expires: moment(gr.Expires)})
		}
	}
	if _, p := registry.Bundle(); p != nil {
		out.Diff = used.Diff(p, roles)
	}
	return out
}

// since calls f for the records from about a time on, up to a position; 0 is all
// of them.
func (g *Gateway) since(ctx context.Context, from int64, upTo evidence.Position, f func(*evidence.Record) error) error {
	if err := g.synced(); err != nil {
		return err
	}
	r, err := g.sealer.ReadSince(from)
	if err != nil {
		return err
	}
	for n := 1; n > 0; {
		n, err = r.Next(ctx, func(rec *evidence.Record) error {
			if upTo.Before(rec.Head.Pos) {
				return errFound
			}
			return f(rec)
		})
		if errors.Is(err, errFound) {
			return nil
		}
		if err != nil {
			return g.gone(fmt.Errorf("reading the log: %w", err))
		}
	}
	return nil
}
