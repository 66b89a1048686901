package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
)

// Import implements api.Imports.
func (g *Gateway) Import(ctx context.Context, n api.NewImport, by evidence.By) (api.Import, error) {
	in := reconcile.Input{Source: n.Source, Format: n.Format, Query: n.Query, Params: n.Params, Data: n.Data}
	now := g.clock.now()
	if n.Extracted.After(now) {
		return api.Import{}, api.Invalid("it says that it was taken in the future", "extracted is when it was taken from its source")
	}
	var body evidence.ImportBody
	var err error
	switch n.Kind {
	case evidence.ImportPeople:
		body, err = reconcile.People(in, g.knownPerson(), now.UnixMicro())
	case evidence.ImportTickets:
		body, err = reconcile.Tickets(in, g.knownPerson())
	case evidence.ImportConnections:
		var out api.Import
		out, err = g.importConnections(ctx, n, in, by)
		if !errors.Is(err, reconcile.ErrInput) {
			return out, err
		}
	case evidence.ImportRights:
		var out api.Import
		out, err = g.importRights(ctx, n, in, by)
		if !errors.Is(err, reconcile.ErrInput) {
			return out, err
		}
	case evidence.ImportRequests:
		var out api.Import
		out, err = g.importRequests(ctx, n, in, by)
		if !errors.Is(err, reconcile.ErrInput) {
			return out, err
		}
	default:
		return api.Import{}, api.Invalid(fmt.Sprintf("nothing of the kind %.40q is imported", n.Kind), "")
	}
	switch {
	case errors.Is(err, reconcile.ErrInput):
		return api.Import{}, api.Invalid(err.Error(), "nothing was imported; mend the file and try again")
	case err != nil:
		return api.Import{}, err
	}
	body.Extracted, body.By = micros(n.Extracted), by
	return g.recordImport(ctx, &body)
}

// recordImport records an import with what follows from it, all or none. What
// follows is looked for again when the registry has changed meanwhile.
func (g *Gateway) recordImport(ctx context.Context, body *evidence.ImportBody) (api.Import, error) {
	for {
		state := g.recorder.State()
		drafts := []*evidence.Draft{{Head: evidence.Head{Type: evidence.ImportSnapshot}, Body: evidence.EncodeBody(body)}}
		changes, err := changesOfPeople(state.Registry, body)
		if err != nil {
			return api.Import{}, err
		}
		drafts = append(drafts, changes...)
		stale, err := g.recorder.Own().Record(ctx, state.Version, evidence.Power, drafts...)
		if stale {
			continue
		}
		if err != nil {
			return api.Import{}, g.problem(err)
		}
		g.gate.Sweep()
		return g.apiImport(body, drafts), nil
	}
}

// knownPerson tells under which id the gateway has a person: by id or e-mail
// address, whatever their case.
func (g *Gateway) knownPerson() reconcile.Known {
	ids := make(map[string]string)
	add := func(p evidence.Person) {
		for _, name := range []string{p.Email, p.ID} { // an id is sooner one's own
			if name != "" {
				ids[strings.ToLower(name)] = p.ID
			}
		}
	}
	for _, a := range g.registry().Agents() {
		add(a.Owner)
		add(a.Backup)
	}
	for _, p := range g.live.Load().People {
		add(p)
	}
	return func(id string) (string, bool) {
		own, ok := ids[strings.ToLower(id)]
		return own, ok
	}
}

// changesOfPeople are the control records of who has left, or is back, by an
// import of people.
func changesOfPeople(r *decision.Registry, b *evidence.ImportBody) (drafts []*evidence.Draft, err error) {
	if b.Kind != evidence.ImportPeople {
		return nil, nil
	}
	var people []evidence.PersonRow
	if err := evidence.DecodeBody(b.Data, &people); err != nil {
		return nil, err
	}
	for _, p := range people {
		_, gone := r.Leaver(p.ID)
		left := p.Status == evidence.PersonLeft
		if gone == left || !r.Knows(p.ID) {
			continue
		}
		typ := evidence.PersonReturn
		if left {
			typ = evidence.PersonLeave
		}
		drafts = append(drafts, &evidence.Draft{Head: evidence.Head{Type: typ}, Body: evidence.EncodeBody(evidence.LeaveBody{Person: p.ID, Left: p.Left, By: b.By})})
	}
	return drafts, nil
}

func (g *Gateway) apiImport(b *evidence.ImportBody, drafts []*evidence.Draft) api.Import {
	out := api.Import{Position: drafts[0].Head.Pos.String(), Kind: b.Kind, Rows: b.Rows, Kept: b.Rows, Digest: b.Digest, File: b.File}
	if b.Kept > 0 {
		out.Kept = b.Kept
	}
	for _, d := range drafts[1:] {
		p := decoded[evidence.LeaveBody](d.Body)
		if d.Head.Type == evidence.PersonReturn {
			out.Back = append(out.Back, p.Person)
			continue
		}
		l := api.Leaver{Person: p.Person, Left: moment(p.Left), Position: d.Head.Pos.String()}
		for _, a := range g.registry().Agents() {
			if a.Suspended == d.Head.Pos {
				l.Suspended = append(l.Suspended, a.Agent)
			}
		}
		out.Left = append(out.Left, l)
	}
	return out
}

// ChangeOwner implements api.Agents.
func (g *Gateway) ChangeOwner(ctx context.Context, id string, n api.NewOwner, by evidence.By) (api.Agent, error) {
	owner, err := g.person(n.Owner)
	if err != nil {
		return api.Agent{}, err
	}
	var backup evidence.Person
	if n.Backup != "" {
		if backup, err = g.person(n.Backup); err != nil {
			return api.Agent{}, err
		}
	}
	_, err = g.control(ctx, evidence.Head{Type: evidence.OwnerChange, Agent: known(g.registry(), id)},
		evidence.OwnerBody{Agent: id, Owner: owner, Backup: backup, Reason: n.Reason, By: by})
	if err != nil {
		return api.Agent{}, err
	}
	return g.agent(id)
}
