package recorder

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/keys"
)

// Past is what the boots before left behind: the fold of their records, in
// order, that tells the next boot where to go on and what to end.
type Past struct {
	Last     evidence.Position // of the last record; zero when there is none
	Clean    bool              // it was a gateway.stop
	sessions map[evidence.Position]*openSession
}

type openSession struct {
	start   evidence.Head
	n       uint64
	intents map[evidence.Position]evidence.Head
}

// Add folds one record.
func (p *Past) Add(h evidence.Head) error {
	if !p.Last.IsZero() && !p.Last.Before(h.Pos) {
		return fmt.Errorf("record %s follows %s: the journal is out of order", h.Pos, p.Last)
	}
	p.Last, p.Clean = h.Pos, h.Type == evidence.GatewayStop
	if h.Session.IsZero() {
		return nil
	}
	if h.Type == evidence.SessionStart && h.Effect == evidence.Allow {
		if p.sessions == nil {
			p.sessions = make(map[evidence.Position]*openSession)
		}
		p.sessions[h.Pos] = &openSession{start: h, intents: make(map[evidence.Position]evidence.Head)}
	}
	s := p.sessions[h.Session]
	if s == nil {
		return nil
	}
	s.n = h.N
	switch h.Type {
	case evidence.CommandIntent:
		if h.Outcome == "" {
			s.intents[h.Pos] = h
		}
	case evidence.CommandResult:
		delete(s.intents, h.Of)
	case evidence.SessionEnd:
		delete(p.sessions, h.Session)
	}
	return nil
}

// Open is the number of sessions that nothing ended.
func (p *Past) Open() int { return len(p.sessions) }

// Doubtful returns the sessions with a command that nothing ended.
func (p *Past) Doubtful() []evidence.Head {
	var starts []evidence.Head
	for _, s := range p.sessions {
		if len(s.intents) > 0 {
			starts = append(starts, s.start)
		}
	}
	return starts
}

// Scopes opens the scope of a slot of any boot.
type Scopes interface {
	Scope(boot, slot uint64) (*keys.Scope, error)
}

// Recover ends what a crash left open: every intent without an outcome becomes
// in_doubt, since nobody saw how it ended, and every session ends. It returns
// the number of commands in doubt.
func (r *Recorder) Recover(ctx context.Context, p *Past, scopes Scopes) (doubts int, err error) {
	for _, s := range inOrder(maps.Values(p.sessions), func(s *openSession) evidence.Position { return s.start.Pos }) {
		n, err := r.endSession(ctx, s, scopes)
		if err != nil {
			return doubts, fmt.Errorf("ending session %s after a crash: %w", s.start.Pos, err)
		}
		doubts += n
		failpoint.Hit("recovered one")
	}
	return doubts, nil
}

func (r *Recorder) endSession(ctx context.Context, s *openSession, scopes Scopes) (int, error) {
	scope, err := scopes.Scope(s.start.Pos.Boot, s.start.Key)
	if err != nil {
		return 0, err
	}
	c := r.Resume(scope, s.start.Pos, s.n)
	var drafts []*evidence.Draft
	for _, h := range inOrder(maps.Values(s.intents), func(h evidence.Head) evidence.Position { return h.Pos }) {
		drafts = append(drafts, &evidence.Draft{Head: evidence.Head{
			Type: evidence.CommandResult, Of: h.Pos, Outcome: evidence.InDoubt,
		}})
	}
	doubts := len(drafts)
	drafts = append(drafts, &evidence.Draft{
		Head: evidence.Head{
			Type: evidence.SessionEnd, Agent: s.start.Agent, Resource: s.start.Resource,
			Of: s.start.Pos, Outcome: evidence.InDoubt,
		},
		Body: evidence.EncodeBody(evidence.SessionEndBody{Reason: "gateway crashed"}),
	})
	_, err = c.Record(ctx, 0, evidence.Power, drafts...)
	return doubts, err
}

func inOrder[T any](seq func(func(T) bool), pos func(T) evidence.Position) []T {
	return slices.SortedFunc(seq, func(a, b T) int {
		p, q := pos(a), pos(b)
		return cmp.Or(cmp.Compare(p.Boot, q.Boot), cmp.Compare(p.Seq, q.Seq))
	})
}
