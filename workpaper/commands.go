package workpaper

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// command is one that hasn't ended.
type command struct {
	head    evidence.Head
	intent  *intent
	carried bool // asked before the range
}

// intent is a decoded IntentBody with its cells. Equal commands share one.
type intent struct {
	evidence.IntentBody
	ok     bool
	path   string
	parse  string
	checks string
	rules  string
	grants string
	// Totals of the grants cited, looked up once per registry.
	uses     []*uses
	agent    string // for whom the grants were looked up
	version  uint64 // of the registry under which they were
	until    int64  // when the first of them expires
	standing bool
}

// bodyCache decodes each distinct intent body once. Agents choose how many
// distinct ones there are, so it is emptied when it is full.
type bodyCache struct {
	intents map[string]*intent
	size    int
}

const maxBodyCache = 32 << 20 // bytes of keys

func newBodyCache() bodyCache { return bodyCache{intents: make(map[string]*intent)} }

func (c *bodyCache) intent(r *evidence.Record) *intent {
	if in, ok := c.intents[string(r.Body)]; ok {
		return in
	}
	in := &intent{}
	in.ok = evidence.DecodeBody(r.Body, &in.IntentBody) == nil
	if !in.ok {
		in.IntentBody = evidence.IntentBody{}
	}
	in.path, in.parse = in.Path, string(in.Parse)
	in.checks, in.rules, in.grants = checksCell(in.Checks), join(in.Rules), join(in.Grants)
	if c.size += len(r.Body) + 512; c.size > maxBodyCache {
		clear(c.intents)
		c.size = len(r.Body)
	}
	c.intents[string(r.Body)] = in
	return in
}

// checksCell is "action object; action object".
func checksCell(checks []evidence.Check) string {
	var b []byte
	for i, c := range checks {
		if i > 0 {
			b = append(b, "; "...)
		}
		b = append(b, c.Action...)
		if c.Object != "" {
			b = append(append(b, ' '), c.Object...)
		}
	}
	return string(b)
}

func (f *Fold) addCommand(c *command) error {
	if len(f.commands) >= maxCommands {
		return fmt.Errorf("%w: %d commands", ErrTooMuch, maxCommands)
	}
	f.commands[c.head.Pos] = c
	return nil
}

func (f *Fold) intent(r *evidence.Record) error {
	h := &r.Head
	f.counts.commands++
	f.tests.pairing.Population++
	f.tests.writeAhead.Population++
	f.tests.bodies.Population++
	in := f.bodies.intent(r)
	if !in.ok {
		f.tests.bodies.Except(h.Pos, "its body is not that of a command.intent")
	}
	s := f.belongs(h)
	if s != nil {
		s.intent(h, in)
		a := f.activityOf(s.agent)
		a.commands++
		if h.Effect == evidence.Allow {
			a.lastAllowed, a.lastAllowedAt = h.Pos, h.Time
		}
		if h.Outcome == evidence.Denied {
			a.denied++
		}
	}
	if in.Parse == evidence.ParseOpaque && h.Effect == evidence.Allow {
		f.counts.opaque++
	}
	if err := f.decision(r, s, in); err != nil {
		return err
	}
	f.limited(h, in)
	if in.Approval != "" && h.Effect == evidence.Allow {
		f.approving = &approving{h.Pos, in.Approval}
	}
	f.asksCluster(h, in)
	c := command{head: *h, intent: in}
	switch h.Outcome {
	case "":
		if h.Effect != evidence.Allow {
			f.tests.denials.Population++
			f.tests.denials.Except(h.Pos, "has effect %q and did not end with its intent", h.Effect)
		}
		return f.addCommand(&c)
	case evidence.Denied, evidence.Skipped:
		f.counts.commandsEnded++
		if h.Outcome == evidence.Denied && h.Effect == evidence.Allow {
			f.tests.denials.Except(h.Pos, "was allowed, and its outcome is denied")
		}
		if err := f.denial(r, s, in); err != nil {
			return err
		}
	default:
		f.counts.commandsEnded++
		f.tests.writeAhead.Except(h.Pos, "an intent cannot have the outcome %q", h.Outcome)
	}
	return f.commandRows(&c, h)
}

// decision checks what an intent says of policy and grants, and hands it on
// for replay.
func (f *Fold) decision(r *evidence.Record, s *session, in *intent) error {
	h := &r.Head
	d := &in.Decision
	f.countDecision(h, d)
	if h.Effect == evidence.Allow {
		if len(in.Checks) > 0 {
			f.cited(h, in)
		}
		f.stillAdmitted(h, s)
	}
	if f.Decided == nil || s == nil || s.body == nil {
		return nil
	}
	return f.Decided(&Decided{
		Head: h, Registry: f.registry, Version: f.version, Recorded: d, Asker: s.asker,
		Request: decision.Request{
			Agent: s.agent, Resource: s.resource, Time: h.Time, Checks: in.Checks, Session: s.body.Context, Command: in.Facts,
			Path: in.Path, Approval: in.Approval, Limit: in.Limit,
		},
	})
}

func (f *Fold) countDecision(h *evidence.Head, d *evidence.Decision) {
	f.tests.policyCited.Population++
	switch h.Effect {
	case evidence.Allow:
		f.counts.allowed++
	case evidence.Deny:
		f.counts.denied++
	default:
		f.counts.failed++
	}
	if d.Effect != h.Effect {
		f.tests.policyCited.Except(h.Pos, "its head says %q, its body %q", h.Effect, d.Effect)
	}
	if d.Policy != f.registry.Policy() {
		f.tests.policyCited.Except(h.Pos, "cites policy %.80q, in force is %.80q", d.Policy, f.registry.Policy())
	}
}

// cited checks the grants that an allowed intent rests on, and counts their
// use. What it finds of equal bodies holds until the registry changes.
func (f *Fold) cited(h *evidence.Head, in *intent) {
	f.tests.grantCited.Population++
	if in.uses == nil || in.version != f.version || in.agent != h.Agent {
		in.uses, in.until, in.standing = f.lookUpGrants(in.Grants, h.Agent)
		in.version, in.agent = f.version, h.Agent
	}
	if !in.standing || h.Time >= in.until {
		f.exceptGrants(h, in.Grants)
	}
	for _, u := range in.uses {
		u.add(h)
		u.touch(in)
	}
}

// lookUpGrants returns the counters of grants, the time when the first of them
// expires, and whether all of them stand for the agent.
func (f *Fold) lookUpGrants(ids []string, agent string) (list []*uses, until int64, standing bool) {
	list, until, standing = make([]*uses, 0, len(ids)), 1<<62, len(ids) > 0
	for _, id := range ids {
		g, ok := f.registry.Grant(id)
		if !ok || !g.Removed.IsZero() || agent != "" && g.Agent != agent {
			standing = false
			continue
		}
		until = min(until, g.Expires)
		list = append(list, f.useOf(f.grantUses, id))
	}
	return list, until, standing
}

func (f *Fold) exceptGrants(h *evidence.Head, ids []string) {
	if len(ids) == 0 {
		f.tests.grantCited.Except(h.Pos, "was allowed and cites no grant")
	}
	for _, id := range ids {
		g, ok := f.registry.Grant(id)
		switch {
		case !ok:
			f.tests.grantCited.Except(h.Pos, "cites grant %.80q, which was never made", id)
		case !g.Removed.IsZero():
			f.tests.grantCited.Except(h.Pos, "cites grant %s, removed by %s", id, g.Removed)
			f.tests.afterRevoke.Except(h.Pos, "was allowed by grant %s after %s removed it", id, g.Removed)
		case h.Agent != "" && g.Agent != h.Agent:
			f.tests.grantCited.Except(h.Pos, "is of agent %s and cites grant %s of %s", h.Agent, id, g.Agent)
		case h.Time >= g.Expires:
			f.tests.grantCited.Except(h.Pos, "cites grant %s, which expired at %s", id, FormatTime(g.Expires))
		}
	}
}

// stillAdmitted checks that nothing was allowed to an agent that was retired or
// suspended, or on a credential that was revoked.
func (f *Fold) stillAdmitted(h *evidence.Head, s *session) {
	if s == nil || s.checkedAt == f.version+1 {
		return
	}
	switch a, ok := f.registry.Agent(s.agent); {
	case ok && !a.Disabled.IsZero():
		f.tests.afterRevoke.Except(h.Pos, "was allowed after %s retired agent %s", a.Disabled, s.agent)
		return
	case ok && !a.Suspended.IsZero():
		f.tests.afterRevoke.Except(h.Pos, "was allowed after %s suspended agent %s", a.Suspended, s.agent)
		return
	}
	if id := s.credential(); id != "" && f.registry.Revoked(id) {
		f.tests.afterRevoke.Except(h.Pos, "was allowed after credential %s of its session was revoked", id)
		return
	}
	if key, ok := f.registry.Key(s.key); ok && !key.Revoked.IsZero() {
		f.tests.afterRevoke.Except(h.Pos, "was allowed after key %s, which its session rests on, was revoked", key.ID)
		return
	}
	s.checkedAt = f.version + 1
}

func (f *Fold) result(r *evidence.Record) error {
	h := &r.Head
	f.tests.writeAhead.Population++
	if r.Head.HasBody {
		var b evidence.ResultBody
		f.decode(r, &b)
	}
	if f.recon.requests != nil {
		f.recon.requests.Result(h)
	}
	s := f.belongs(h)
	c := f.commands[h.Of]
	if c == nil {
		f.tests.pairing.Except(h.Pos, "is the result of %s, which is not an open command", h.Of)
		return nil
	}
	delete(f.commands, h.Of)
	if c.carried {
		f.counts.commandsCarried++
		f.tests.pairing.Population++
	}
	f.counts.commandsEnded++
	if s != nil {
		s.result(h)
	}
	if c.head.Session != h.Session {
		f.tests.attribution.Except(h.Pos, "belongs to session %s, its intent %s to %s", h.Session, h.Of, c.head.Session)
	}
	switch h.Outcome {
	case evidence.OK, evidence.Failed, evidence.Cancelled, evidence.Skipped, evidence.Denied:
		if h.Pos.Boot != h.Of.Boot {
			f.tests.writeAhead.Except(h.Pos, "has outcome %q in another boot than its intent", h.Outcome)
		}
	case evidence.InDoubt:
		f.counts.commandsInDoubt++
		f.doubtful(c)
	default:
		f.tests.writeAhead.Except(h.Pos, "has no outcome that a command can have: %q", h.Outcome)
	}
	return f.commandRows(c, h)
}

// content checks that what flowed within a command stands between its intent and
// its end.
func (f *Fold) content(r *evidence.Record) error {
	h := &r.Head
	var b evidence.ContentBody
	f.decode(r, &b)
	f.belongs(h)
	switch c := f.commands[h.Of]; {
	case c == nil:
		f.tests.attribution.Except(h.Pos, "is content of %s, which is not an open command", h.Of)
	case c.head.Session != h.Session:
		f.tests.attribution.Except(h.Pos, "belongs to session %s, its intent %s to %s", h.Session, h.Of, c.head.Session)
	}
	return nil
}

// commandRows writes the row of a command that ended with the record end; a
// nil end leaves it open.
func (f *Fold) commandRows(c *command, end *evidence.Head) error {
	h, in := &c.head, c.intent
	cells := f.commandRow[:0]
	cells = append(cells, pos(h.Pos), f.clock.format(h.Time), pos(h.Session), h.Agent, h.Resource, h.Verb, in.path, in.parse, in.Text, in.checks,
		pos(h.Of), string(h.Effect), in.rules, in.grants, in.Policy, in.Reason, in.Approval, in.Limit)
	switch {
	case end == nil:
		cells = append(cells, "open", "", "", count(h.Bytes), "", count(h.Frames), "", "", "")
	case end == h || end.Pos == h.Pos:
		cells = append(cells, string(h.Outcome), h.Code, count(h.Rows), "0", count(h.Reply), count(h.Frames), count(h.Micros),
			cells[1], cells[0])
	default:
		cells = append(cells, string(end.Outcome), end.Code, count(end.Rows), count(h.Bytes+end.Bytes), count(end.Reply), count(h.Frames+end.Frames),
			strconv.FormatUint(end.Micros, 10), f.clock.format(end.Time), pos(end.Pos))
	}
	f.commandRow = cells
	f.tellCommand(c, cells)
	return f.row(commandsTable, cells...)
}

// openCommands writes the rows of commands that are open at the end.
func (f *Fold) openCommands() (open uint64, err error) {
	for _, p := range slices.SortedFunc(maps.Keys(f.commands), comparePositions) {
		c := f.commands[p]
		if c.carried {
			continue // the range never speaks of it
		}
		if _, ok := f.sessions[c.head.Session]; !ok {
			f.tests.pairing.Except(p, "has no outcome, and its session has ended")
		}
		open++
		if err := f.commandRows(c, nil); err != nil {
			return open, err
		}
	}
	return open, nil
}

// denial writes the row of a refused command.
func (f *Fold) denial(r *evidence.Record, s *session, in *intent) error {
	h := &r.Head
	if h.Outcome != evidence.Denied {
		return nil
	}
	f.tests.denials.Population++
	f.refusals[[2]string{h.Agent, h.Resource}]++
	client := ""
	if s != nil && s.body != nil {
		client = s.body.Client
	}
	return f.row(denialsTable, pos(h.Pos), f.clock.format(h.Time), "command", pos(h.Session), h.Agent, h.Resource, h.Verb, in.Text, in.checks,
		string(h.Effect), in.rules, in.Policy, in.Reason, client, "0")
}
