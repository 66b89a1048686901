package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// lost is a session of the boot before that a crash ended with a command in
// doubt.
type lost struct {
	start evidence.Head
	protocol.Lost
}

// How far a lost session is looked into.
const (
	maxTrail     = 4096             // commands since its last transaction ended
	resolveFor   = 15 * time.Minute // an upstream that can't be reached
	resolvePause = 5 * time.Second
)

// ResolveWith says who finds out about commands in doubt of a protocol's
// resources. Call it before Run.
func (g *Gateway) ResolveWith(name string, r protocol.Resolver) {
	if g.resolvers == nil {
		g.resolvers = make(map[string]protocol.Resolver)
	}
	g.resolvers[name] = r
}

// resolve finds out what became of the commands that a crash left in doubt,
// and records it. It is in nobody's way: what can't be found out stays in doubt.
func (g *Gateway) resolve(ctx context.Context) error {
	if len(g.doubtful) == 0 || len(g.resolvers) == 0 {
		return nil
	}
	list, err := g.trace(ctx)
	if err != nil {
		g.log.Error("looking for what a crash left in doubt", "cause", err)
		return nil
	}
	for _, l := range list {
		if err := g.resolveSession(ctx, l); err != nil && ctx.Err() == nil {
			g.log.Warn("commands stay in doubt", "session", l.start.Pos.String(), "cause", err)
		}
	}
	return nil
}

// resolveSession asks the upstream of one session, again while it can't be
// reached.
func (g *Gateway) resolveSession(ctx context.Context, l *lost) error {
	resource, ok := (*g.resources.Load())[l.start.Resource]
	if !ok {
		return fmt.Errorf("resource %s is no longer configured", l.start.Resource)
	}
	resolver := g.resolvers[resource.Protocol]
	if resolver == nil {
		return nil
	}
	found := func(of evidence.Position, b evidence.ResolutionBody) error {
		g.log.Info("a command in doubt is resolved", "command", of.String(), "result", b.Result, "how", b.How)
		_, err := g.recorder.Own().Record(ctx, 0, evidence.Process, &evidence.Draft{
			Head: evidence.Head{Type: evidence.Resolution, Agent: l.start.Agent, Resource: l.start.Resource, Of: of},
			Body: evidence.EncodeBody(b),
		})
		return err
	}
	ctx, stop := context.WithTimeout(ctx, resolveFor)
	defer stop()
	for {
		up, err := resource.Upstream()
		if err == nil {
			if err = resolver.Resolve(ctx, up, &l.Lost, found); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(resolvePause):
		}
	}
}

// trace reads what the boots before left once more, for the sessions in doubt alone.
func (g *Gateway) trace(ctx context.Context) ([]*lost, error) {
	sessions := make(map[evidence.Position]*lost)
	var list []*lost
	from := g.recorder.Last()
	for _, start := range g.doubtful {
		l := &lost{start: start}
		sessions[start.Pos], list = l, append(list, l)
		if start.Pos.Before(from) {
			from = start.Pos
		}
	}
	err := g.readFrom(ctx, from, func(r *evidence.Record) error {
		if r.Head.Pos.Boot == g.recorder.Boot() {
			return errFound
		}
		if l := sessions[r.Head.Session]; l != nil {
			return l.add(r)
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return list, err
}

func (l *lost) add(r *evidence.Record) error {
	h := &r.Head
	switch h.Type {
	case evidence.SessionUpstream:
		return evidence.DecodeBody(r.Body, &l.Upstream)
	case evidence.CommandIntent:
		if h.Outcome != "" {
			return nil // it never went upstream
		}
		var b evidence.IntentBody
		if err := evidence.DecodeBody(r.Body, &b); err != nil {
			return err
		}
		if len(l.Commands) >= maxTrail {
			l.Commands, l.Cut = append(l.Commands[:0], l.Commands[maxTrail/2:]...), true
		}
		l.Commands = append(l.Commands, protocol.LostCommand{
			Position: h.Pos, Verb: h.Verb, Parse: b.Parse, Checks: b.Checks, Outcome: evidence.InDoubt,
		})
	case evidence.CommandResult:
		for i := len(l.Commands) - 1; i >= 0; i-- {
			if l.Commands[i].Position == h.Of {
				l.Commands[i].Outcome = h.Outcome
				break
			}
		}
	case evidence.TxEnd:
		var b evidence.TxEndBody
		if err := evidence.DecodeBody(r.Body, &b); err != nil {
			return err
		}
		for len(l.Commands) > 0 && !b.Last.Before(l.Commands[0].Position) {
			l.Commands, l.Cut = l.Commands[1:], false
		}
	}
	return nil
}
