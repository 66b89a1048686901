package main

import (
	"context"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
)

// The requests of the gateway that answers from memory: Bob's for a grant, a
// proposal of his, and a command of an agent that writes what a terminal would
// obey.

var bob = evidence.By{Person: evidence.Person{ID: "bob@example.com"}, Via: "unix"}

func (g *memory) requests() []api.Approval {
	need := []api.RequestNeed{{Group: "resource", Count: 1, People: []string{alice.ID}}}
	asked := api.Change{Position: "gw1.1.40", Time: noon, By: bob, Reason: "the report is due"}
	grant := api.Approval{
		ID: "gw1.1.40", Kind: "grant", Status: "pending", Digest: "d40", Needs: need, Ticket: "OPS-7", Expires: noon.AddDate(0, 0, 3), Asked: asked,
		Grant: &api.GrantScope{Agent: "reporter", Role: "reader", Resource: "orders", Expires: noon.AddDate(0, 0, 1)},
	}
	wished := grant
	wished.ID, wished.Asked.By.Via, wished.Asked.Reason = "gw1.1.41", "agent reporter, session gw1.1.30", hostile
	policy := api.Approval{
		ID: "gw1.1.42", Kind: "policy", Status: "pending", Digest: "0123456789abcdef", Expires: noon.AddDate(0, 0, 3), Asked: asked,
		Needs:  []api.RequestNeed{{Group: "policy", Count: 2, Have: 1, People: []string{}}},
		Policy: &evidence.Proposal{Before: "fedcba9876543210", Diff: "-old\n+new " + hostile + "\nstatus  approved\n", Tests: 3, Backtest: &evidence.Backtest{Days: 7, Commands: 1200, Differ: 2}},
		Answers: []api.ApprovalAnswer{{Decision: "approve", Groups: []string{"policy"}, Change: api.Change{
			Position: "gw1.1.45", Time: noon, By: evidence.By{Person: evidence.Person{ID: "carol"}, Via: "unix"}, Reason: "fine",
		}}},
	}
	held := api.Approval{
		ID: "gw1.1.43", Kind: "command", Status: "pending", Digest: "d43", Expires: noon.AddDate(0, 0, 1), Asked: asked,
		Needs: []api.RequestNeed{{Group: "dba", Count: 1, People: []string{alice.ID}}},
		Command: &api.HeldCommand{
			Session: "gw1.1.30", Agent: "reporter", Owner: bob.Person, Resource: "orders", Verb: "write", Text: "DELETE FROM public.customers WHERE id = $1",
			Checks: []evidence.Check{{Action: "postgres:delete", Object: "public.customers"}}, Facts: evidence.Facts{"where": true, "ticket": "OPS-7"}, Rules: []string{"cleaners"},
		},
	}
	return []api.Approval{grant, wished, policy, held}
}

func (g *memory) RequestGrant(_ context.Context, n api.NewGrantRequest, by evidence.By) (api.Approval, error) {
	if n.Agent == "orphan" {
		return api.Approval{}, api.Invalid("nobody could approve it", "exhibit grant add")
	}
	r := g.requests()[0]
	r.Asked.By, r.Ticket = by, n.Ticket
	r.Grant = &api.GrantScope{Agent: n.Agent, Role: n.Role, Resource: n.Resource, Starts: n.Starts, Expires: n.Expires, Renews: n.Renews}
	r.Needs[0].People = []string{bob.Person.ID}
	return r, nil
}

func (g *memory) Approvals(_ context.Context, q api.ApprovalQuery) (list []api.Approval, _ error) {
	for _, r := range g.requests() {
		if q.Kind == "" || q.Kind == r.Kind {
			list = append(list, r)
		}
	}
	if q.All {
		r := g.requests()[0]
		r.ID, r.Status = "gw1.1.39", "denied"
		list = append(list, r)
	}
	return list, nil
}

func (g *memory) Approval(_ context.Context, id string, _ evidence.By) (api.Approval, error) {
	for _, r := range g.requests() {
		if r.ID != id {
			continue
		}
		if c := r.Command; c != nil {
			c.Waits, c.Statement = true, []byte("delete from customers\n  where id = $1 -- "+hostile)
			c.Values = [][]byte{[]byte("42"), nil, {}}
		}
		return r, nil
	}
	return api.Approval{}, api.NotFound("there is no request "+id, "exhibit approval list --all shows all")
}

func (g *memory) AnswerApproval(ctx context.Context, id, what string, n api.Answer, by evidence.By) (api.Approval, error) {
	r, err := g.Approval(ctx, id, by)
	if err != nil {
		return r, err
	}
	switch {
	case what == evidence.Withdrawn:
		return r, api.Invalid("only bob@example.com can withdraw the request", "")
	case what == evidence.Refused:
		r.Status = "denied"
	case r.Grant != nil:
		r.Status, r.Used = "used", &api.ApprovalUse{By: "gw1.1.51"}
		r.Answers = []api.ApprovalAnswer{{Decision: what, Expires: n.Expires}}
	case r.Policy != nil:
		r.Status, r.Needs[0].Have = "approved", 2
	}
	return r, nil
}

func (g *memory) Kill(_ context.Context, k api.KillRequest, _ evidence.By) (api.Killed, error) {
	if k.Session != "" && k.Session != "gw1.1.30" {
		return api.Killed{}, api.NotFound("no session "+k.Session+" is open", "exhibit sessions shows those that are")
	}
	return api.Killed{Position: "gw1.1.60", Agent: "reporter", Sessions: []string{"gw1.1.30"}}, nil
}
