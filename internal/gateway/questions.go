package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/session"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// The questions are answered from the log up to the newest record: there is no
// table that could say something else. That costs a read of the log, or of the
// part of it that a session is in.

// Columns of the answers, by the workpapers' names.
var (
	whoColumns = []string{"session_id", "started_at", "agent_id", "owner_id", "principal", "ticket", "client",
		"decision", "deny_reason", "commands", "denied", "rows", "ended_at", "end_reason", "state"}
	allowedColumns = []string{"role_id", "resource", "object", "action", "effect", "obligations", "grants", "tickets", "approved_by", "permits", "forbids", "expires_at"}
)

// Who implements api.Questions. Its rows are those of the auditor's table of
// sessions, by the same fold.
func (g *Gateway) Who(ctx context.Context, resource string, r api.Range, by evidence.By) (api.Table, error) {
	if _, ok := g.registry().Resource(resource); !ok {
		return api.Table{}, api.NotFound(fmt.Sprintf("there is no resource %q", resource), "exhibit config show lists resources")
	}
	if _, err := g.read(ctx, "question", "who "+resource, by); err != nil {
		return api.Table{}, err
	}
	from, to, err := g.times(ctx, r)
	if err != nil {
		return api.Table{}, err
	}
	sessions := population("sessions")
	of, at := sessions.Column("resource"), sessions.Column("started_at")
	out := api.Table{Name: "who", Columns: whoColumns, Rows: [][]string{}}
	fold := workpaper.NewFold(workpaper.OutFunc(func(table string, cells []string) error {
		if table != sessions.Name || cells[of] != resource ||
			from != 0 && cells[at] < workpaper.FormatTime(from) || to != 0 && cells[at] >= workpaper.FormatTime(to) {
			return nil
		}
		row := make([]string, len(whoColumns))
		for i, name := range whoColumns {
			row[i] = cells[sessions.Column(name)]
		}
		if out.Rows = append(out.Rows, row); len(out.Rows) >= 2*mostRows {
			out.Rows, out.More = newest(out.Rows, mostRows), true
		}
		return nil
	}))
	if err := g.foldAll(ctx, fold); err != nil {
		return api.Table{}, err
	}
	kept := newest(out.Rows, most(r))
	out.More = out.More || len(kept) < len(out.Rows)
	out.Rows = kept
	return out, nil
}

// times are the ends of a range in microseconds since the epoch; 0 is open.
func (g *Gateway) times(ctx context.Context, r api.Range) (from, to int64, err error) {
	for _, end := range []struct {
		at api.Moment
		to *int64
	}{{r.From, &from}, {r.To, &to}} {
		at, err := g.timeOf(ctx, end.at)
		if err != nil {
			return 0, 0, err
		}
		if !at.IsZero() {
			*end.to = at.UnixMicro()
		}
	}
	return from, to, nil
}

// mostRows bounds an answer.
const mostRows = 100_000

// most is how many rows a range asks for.
func most(r api.Range) int {
	if r.Limit > 0 {
		return min(mostRows, r.Limit)
	}
	return mostRows
}

// read records that a person read evidence, and returns the place of that
// record: the answer has everything before it.
func (g *Gateway) read(ctx context.Context, purpose, object string, by evidence.By) (evidence.Position, error) {
	return g.readAt(ctx, "L1", purpose, object, by)
}

func (g *Gateway) readAt(ctx context.Context, level, purpose, object string, by evidence.By) (evidence.Position, error) {
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.EvidenceRead},
		Body: evidence.EncodeBody(evidence.ReadBody{Purpose: purpose, Object: object, Level: level, By: by}),
	}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return evidence.Position{}, api.Unavailable("the read cannot be recorded, so nothing is shown", "")
	}
	return d.Head.Pos, nil
}

func (g *Gateway) foldAll(ctx context.Context, fold *workpaper.Fold) error {
	whole, _, err := g.sealer.Whole()
	if err == nil {
		err = g.sealer.ScanOpening(ctx, fold.Opening)
	}
	if err == nil {
		err = g.sealer.Scan(ctx, whole, fold.Record)
	}
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if _, err := fold.Close(); err != nil && !errors.Is(err, workpaper.ErrEmpty) {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// newest returns the last n rows in the order of the positions that they begin
// with.
func newest(rows [][]string, n int) [][]string {
	key := func(row []string) evidence.Position {
		p, _ := evidence.ParsePosition(row[0]) // made by this gateway; zero sorts first
		return p
	}
	slices.SortStableFunc(rows, func(a, b []string) int { return comparePositions(key(a), key(b)) })
	return rows[max(0, len(rows)-n):]
}

func population(name string) workpaper.Table {
	for _, t := range workpaper.Populations() {
		if t.Name == name {
			return t
		}
	}
	panic("gateway: no population " + name)
}

// Allowed implements api.Questions.
func (g *Gateway) Allowed(ctx context.Context, agent string, at api.Moment, _ evidence.By) (api.Table, error) {
	registry, t, err := g.registryAt(ctx, at)
	if err != nil {
		return api.Table{}, err
	}
	if _, ok := registry.Agent(agent); !ok {
		return api.Table{}, api.NotFound(fmt.Sprintf("there was no agent %q then", agent), "exhibit agent list shows all")
	}
	table := workpaper.Access(registry, t)
	out := api.Table{Name: "allowed", Columns: allowedColumns, Rows: [][]string{}}
	who := table.Column("agent_id")
	for _, cells := range table.Rows {
		if cells[who] != agent {
			continue
		}
		row := make([]string, len(allowedColumns))
		for i, c := range allowedColumns {
			row[i] = cells[table.Column(c)]
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// registryAt folds the registry as it was at a moment, and returns the moment's
// time.
func (g *Gateway) registryAt(ctx context.Context, at api.Moment) (*decision.Registry, int64, error) {
	if at.IsZero() {
		return g.registry(), g.clock.now().UnixMicro(), nil
	}
	t := at.Time
	if !at.Position.IsZero() {
		var err error
		if t, err = g.timeOf(ctx, at); err != nil {
			return nil, 0, err
		}
	}
	fold := decision.NewFold(nil)
	err := g.sealer.ScanControl(ctx, nil, func(r *evidence.Record) (err error) {
		if at.Position.IsZero() && r.Head.Time > t.UnixMicro() || !at.Position.IsZero() && at.Position.Before(r.Head.Pos) {
			return errFound
		}
		return fold.Apply(r.Head, r.Body)
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, 0, fmt.Errorf("reading the log: %w", err)
	}
	return fold.Registry(), t.UnixMicro(), nil
}

// Explain implements api.Questions. It asks nothing of the upstream and records
// nothing: nothing was asked for.
func (g *Gateway) Explain(ctx context.Context, q api.Explain, _ evidence.By) (api.Explanation, error) {
	registry := g.registry()
	if _, err := g.agent(q.Agent); err != nil {
		return api.Explanation{}, err
	}
	r, ok := registry.Resource(q.Resource)
	if !ok {
		return api.Explanation{}, api.NotFound(fmt.Sprintf("there is no resource %q", q.Resource), "exhibit config show lists resources")
	}
	explainer := g.explain[r.Protocol]
	if explainer == nil {
		return api.Explanation{}, api.NotFound("nothing of the protocol "+r.Protocol+" can be explained here", "")
	}
	shape, err := explainer.Explain(ctx, q.Resource, q.Statement)
	if err != nil {
		return api.Explanation{}, err
	}
	request := decision.Request{
		Agent: q.Agent, Resource: q.Resource, Time: g.clock.now().UnixMicro(), Checks: shape.Checks,
		Session: session.Facts(r.Protocol, session.Principal{Ticket: q.Ticket, Type: identity.Self}, true), Command: shape.Facts, Path: shape.Path,
	}
	e := registry.Explain(request)
	out := explanation(&e, &request)
	out.Verb, out.Parse, out.Text = shape.Verb, string(shape.Parse), shape.Text
	return out, nil
}
