package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Backtest decides recorded commands again, as if another bundle had been in
// force: with the agents, grants and resources of their own positions. Connecting
// is a command too.
//
// What a limit of commands an hour would have refused isn't counted: a command
// that was refused for one is refused again where the bundle has one.
type Backtest struct {
	// From is the time from which commands count.
	From int64
	// Start returns the session.start of a session that began before the first
	// record; nil when there is none.
	Start func(evidence.Position) (*evidence.Record, error)

	bundle   *decision.Policy
	registry *decision.Registry // of the newest record
	with     *decision.Registry // the same, with the bundle
	sessions map[evidence.Position]*asker
	askers   map[string]*asker // by their encoding
	intents  map[string]*evidence.IntentBody
	size     int // bytes of the keys of intents
	verdicts map[verdictKey]verdict

	commands, differ uint64
	agents           map[string]*Differences
}

// asker is what a session contributes to its decisions.
type asker struct {
	Agent    string         `json:"a"`
	Resource string         `json:"r"`
	Context  evidence.Facts `json:"c"`
}

type verdictKey struct {
	asker  *asker
	intent *evidence.IntentBody
}

// verdict is what the bundle says of equal commands, from when until when.
type verdict struct {
	from, until int64
	decision    evidence.Decision
}

// Differences are the commands of one agent that would be decided otherwise.
type Differences struct {
	Agent    string       `json:"agent"`
	Allowed  uint64       `json:"allowed,omitempty" doc:"that were refused"`
	Refused  uint64       `json:"refused,omitempty" doc:"that were allowed"`
	Examples []Difference `json:"examples" doc:"a few"`
}

// Difference is a command that would be decided otherwise.
type Difference struct {
	Position string           `json:"position"`
	Resource string           `json:"resource"`
	Text     string           `json:"text,omitempty" doc:"without literals"`
	Checks   []evidence.Check `json:"checks"`
	Was      evidence.Effect  `json:"was"`
	Would    evidence.Effect  `json:"would"`
	Rules    []string         `json:"rules,omitempty" doc:"of the decision that it would be"`
	Reason   string           `json:"reason,omitempty" doc:"of the refusal, as it was or would be"`
}

// Bounds on what a backtest holds. Agents choose what they ask, and how many
// different things.
const (
	maxIntents  = 32 << 20 // bytes of bodies
	maxVerdicts = 1 << 18
	maxAskers   = 1 << 16
	maxAgents   = 1000 // with differences that are told apart
	maxExamples = 3    // of an agent, each of another shape
)

// NewBacktest returns a backtest of a bundle. Registry is that of the position
// of the first record.
func NewBacktest(bundle *decision.Policy, registry *decision.Registry) *Backtest {
	return &Backtest{
		bundle: bundle, registry: registry, with: registry.With(bundle),
		sessions: make(map[evidence.Position]*asker), askers: make(map[string]*asker),
		intents: make(map[string]*evidence.IntentBody), verdicts: make(map[verdictKey]verdict),
		agents: make(map[string]*Differences),
	}
}

// Record takes the next record of the log.
func (b *Backtest) Record(r *evidence.Record) error {
	h := &r.Head
	switch {
	case h.Type.IsControl():
		next, err := b.registry.Apply(*h, r.Body)
		if err != nil {
			return fmt.Errorf("record %s: %w", h.Pos, err)
		}
		b.registry, b.with = next, next.With(b.bundle)
		clear(b.verdicts)
	case h.Type == evidence.SessionStart:
		return b.start(r, true)
	case h.Type == evidence.SessionEnd:
		delete(b.sessions, h.Of)
	case h.Type == evidence.CommandIntent && h.Time >= b.From && h.Outcome != evidence.Skipped:
		return b.intent(r)
	}
	return nil
}

// Commands is how many were decided so far.
func (b *Backtest) Commands() uint64 { return b.commands }

// start decides a connection and remembers the session.
func (b *Backtest) start(r *evidence.Record, counts bool) error {
	h := &r.Head
	var body evidence.SessionStartBody
	if err := evidence.DecodeBody(r.Body, &body); err != nil {
		return fmt.Errorf("record %s: %w", h.Pos, err)
	}
	if h.Effect == evidence.Allow && h.Outcome == "" {
		b.sessions[h.Pos] = b.asker(asker{h.Agent, h.Resource, body.Context})
	}
	// What the gateway refused by itself (limits, no upstream) is not policy's.
	if counts && h.Time >= b.From && body.Policy != "" {
		d := b.with.Decide(decision.Request{Agent: h.Agent, Resource: h.Resource, Time: h.Time, Checks: body.Checks,
			Session: body.Context, Path: evidence.PathConnect})
		b.compare(h, &evidence.IntentBody{Text: "(connect)", Checks: body.Checks, Decision: body.Decision}, &d)
	}
	return nil
}

// asker returns the one pointer for a and its equals.
func (b *Backtest) asker(a asker) *asker {
	key := string(evidence.EncodeBody(a))
	if known, ok := b.askers[key]; ok {
		return known
	}
	if len(b.askers) >= maxAskers {
		clear(b.askers)
	}
	b.askers[key] = &a
	return &a
}

// of returns the asker of a session.
func (b *Backtest) of(session evidence.Position) (*asker, error) {
	if a, ok := b.sessions[session]; ok || b.Start == nil {
		return a, nil
	}
	r, err := b.Start(session)
	if err != nil || r == nil {
		return nil, err
	}
	if err := b.start(r, false); err != nil {
		return nil, err
	}
	return b.sessions[session], nil
}

func (b *Backtest) intent(r *evidence.Record) error {
	h := &r.Head
	a, err := b.of(h.Session)
	if err != nil || a == nil {
		return err
	}
	in, ok := b.intents[string(r.Body)]
	if !ok {
		in = &evidence.IntentBody{}
		if err := evidence.DecodeBody(r.Body, in); err != nil {
			return fmt.Errorf("record %s: %w", h.Pos, err)
		}
		if b.size += len(r.Body) + 512; b.size > maxIntents {
			clear(b.intents)
			clear(b.verdicts)
			b.size = len(r.Body)
		}
		b.intents[string(r.Body)] = in
	}
	key := verdictKey{a, in}
	v, ok := b.verdicts[key]
	if !ok || h.Time < v.from || v.until != 0 && h.Time >= v.until {
		v = b.decide(a, in, h.Time)
		if len(b.verdicts) >= maxVerdicts {
			clear(b.verdicts)
		}
		b.verdicts[key] = v
	}
	b.compare(h, in, &v.decision)
	return nil
}

// decide asks the bundle. An approval or a limit that the recorded decision
// rested on counts where the bundle asks for it.
func (b *Backtest) decide(a *asker, in *evidence.IntentBody, t int64) verdict {
	q := decision.Request{Agent: a.Agent, Resource: a.Resource, Time: t, Checks: in.Checks,
		Session: a.Context, Command: in.Facts, Path: in.Path}
	d := b.with.Decide(q)
	if o := d.Obligations; o != nil {
		limited := in.Limit == evidence.LimitCommands && o.Commands > 0 || in.Limit == evidence.LimitWrites && o.Writes > 0
		switch {
		case in.Approval != "" && len(o.Approval) > 0:
			q.Approval = in.Approval
			d = b.with.Decide(q)
		case limited && d.Effect == evidence.Allow:
			q.Limit = in.Limit
			d = b.with.Decide(q)
		}
	}
	return verdict{t, d.Until, d}
}

// compare counts a command, and how it differs.
func (b *Backtest) compare(h *evidence.Head, in *evidence.IntentBody, d *evidence.Decision) {
	b.commands++
	was, would := in.Effect == evidence.Allow, d.Effect == evidence.Allow
	if was == would {
		return
	}
	b.differ++
	of := b.agents[h.Agent]
	if of == nil {
		if len(b.agents) >= maxAgents {
			return // it is in the total
		}
		of = &Differences{Agent: h.Agent, Examples: []Difference{}}
		b.agents[h.Agent] = of
	}
	reason := d.Reason
	if would {
		of.Allowed++
		reason = in.Reason
	} else {
		of.Refused++
	}
	alike := func(e Difference) bool {
		return e.Text == in.Text && slices.Equal(e.Checks, in.Checks) && e.Would == d.Effect
	}
	if len(of.Examples) < maxExamples && !slices.ContainsFunc(of.Examples, alike) {
		of.Examples = append(of.Examples, Difference{Position: h.Pos.String(), Resource: h.Resource, Text: in.Text, Checks: in.Checks,
			Was: in.Effect, Would: d.Effect, Rules: d.Rules, Reason: reason})
	}
}

// Agents are the differences found so far, of the agents with the most first.
func (b *Backtest) Agents() []Differences {
	list := make([]Differences, 0, len(b.agents))
	for _, d := range b.agents {
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b Differences) int {
		return cmp.Or(cmp.Compare(b.Allowed+b.Refused, a.Allowed+a.Refused), cmp.Compare(a.Agent, b.Agent))
	})
	return list
}

// Summary is what of a backtest stands on record.
func (b *Backtest) Summary(days int) *evidence.Backtest {
	out := &evidence.Backtest{Days: days, Commands: b.commands, Differ: b.differ}
	for _, d := range b.Agents() {
		out.Agents = append(out.Agents, evidence.BacktestByAgent{Agent: d.Agent, Allowed: d.Allowed, Refused: d.Refused})
	}
	return out
}
