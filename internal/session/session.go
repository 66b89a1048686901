package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Session is one agent on one upstream connection.
type Session struct {
	gate     *Gate
	chain    Chain
	id       string
	start    evidence.Position
	agent    string
	resource string
	client   string
	who      Principal
	began    time.Time
	upstream protocol.Upstream
	facts    evidence.Facts // of the session, in every decision
	checks   []evidence.Check
	relaxed  bool // reads need only survive the process

	commands, denied atomic.Uint64
	proven           atomic.Uint64 // registry version that the credential was last looked up in

	done  chan struct{}
	cause error // set before done is closed

	mu        sync.Mutex
	leaving   error // why the session ends as soon as it is idle
	beginning int   // calls of Begin under way
	ended     bool  // done is closed
	closed    bool  // session.end is recorded
	open      map[*exchange]struct{}
	checked   uint64 // registry version that the right to connect was last checked under
	until     int64  // when that answer may change by itself, 0 is never

	alerts map[string]quiet // by rule; under mu

	shapes  shapeCache
	digests sync.Pool // of digest
}

// quiet is a time in which alerts of a rule are counted and not recorded.
type quiet struct {
	until   time.Time
	skipped int
}

var _ protocol.Session = (*Session)(nil)

func newSession(g *Gate, chain Chain, st *starting, up protocol.Upstream, who Principal, t protocol.Target) *Session {
	s := &Session{
		gate: g, chain: chain, id: st.draft.Head.Pos.String(), start: st.draft.Head.Pos,
		agent: who.Agent, resource: t.Resource, client: st.body.Client, who: who,
		began: st.began, upstream: up,
		facts: st.body.Context, checks: st.body.Checks,
		relaxed: st.body.Durability == "process",
		done:    make(chan struct{}),
		until:   st.body.Until,
	}
	return s
}

// ID implements protocol.Session.
func (s *Session) ID() string { return s.id }

// Identity implements protocol.Session.
func (s *Session) Identity() protocol.Identity {
	return protocol.Identity{Agent: s.agent, Principal: s.who.OnBehalf, Ticket: s.who.Ticket, Expires: s.who.Expires}
}

// Upstream implements protocol.Session.
func (s *Session) Upstream() protocol.Upstream { return s.upstream }

// Done implements protocol.Session.
func (s *Session) Done() <-chan struct{} { return s.done }

// Cause implements protocol.Session.
func (s *Session) Cause() error {
	select {
	case <-s.done:
		return s.cause
	default:
		return nil
	}
}

// end asks the protocol to end the session.
func (s *Session) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended, s.cause = true, cause
		close(s.done)
	}
}

// leave lets the session end once nothing of it is open: what runs may finish,
// what comes is refused.
func (s *Session) leave(cause error) {
	s.mu.Lock()
	s.leaving = cause
	idle := s.idle()
	s.mu.Unlock()
	if idle {
		s.end(cause)
	}
}

// idle reports whether nothing runs; s.mu is held.
func (s *Session) idle() bool { return s.beginning == 0 && len(s.open) == 0 }

// depart ends a session that was told to leave.
func (s *Session) depart() {
	s.mu.Lock()
	cause := s.leaving
	s.mu.Unlock()
	s.end(cause)
}

// courtesy is how long after its last outcome a leaving session ends, so that
// the agent sees that outcome first.
const courtesy = 100 * time.Millisecond

// mayBegin is why no command may begin any more. When it is nil, begun must
// follow.
func (s *Session) mayBegin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cause := s.leaving
	if s.ended {
		cause = s.cause
	}
	if cause == nil {
		s.beginning++
		return nil
	}
	var r *protocol.Refusal
	if errors.As(cause, &r) {
		return r
	}
	return &protocol.Refusal{Kind: protocol.ErrUnavailable, Reason: cause.Error(), Hint: "connect again"}
}

// Begin implements protocol.Session. It is the path: decide, write down, be
// sure, and only then let pass.
func (s *Session) Begin(ctx context.Context, cmds ...*evidence.Command) ([]protocol.Exchange, error) {
	if err := s.mayBegin(); err != nil {
		return nil, err
	}
	b := newBatch(len(cmds))
	batch, drafts := b.exchanges, b.drafts
	for i, c := range cmds {
		batch[i].s = s
		batch[i].draft.Sealed = s.seal(b.sealed(i), c)
		drafts[i] = &batch[i].draft
	}
	for {
		registry, version := s.gate.Recorder.State()
		if r := s.unproven(registry, version, s.gate.Now().UnixMicro()); r != nil {
			s.end(r)
			s.begun(nil)
			return nil, r
		}
		durability := s.decide(b, cmds, registry, version)
		failpoint.Hit("decided")
		if b.want != nil {
			again, err := s.seek(ctx, b.want, cmds)
			if err != nil {
				return nil, s.failed(err)
			}
			if again {
				continue
			}
			x := &batch[b.want.i]
			x.decision = b.want.words(x.decision)
		}
		stale, err := s.chain.Record(ctx, version, durability, b.placed()...)
		if err != nil {
			return nil, s.failed(err)
		}
		if !stale {
			break
		}
	}
	failpoint.Hit("recorded")
	out := s.begun(b)
	if err := s.raise(ctx, batch); err != nil {
		return nil, err
	}
	return out, nil
}

// failed ends a session of which something could not be recorded.
func (s *Session) failed(err error) error {
	r := unrecordable(err)
	s.end(r)
	s.begun(nil)
	return r
}

// seal makes the sealed part of a command, in room or elsewhere. What is too
// large to keep is digested under the session's secret, like content that
// streams.
func (s *Session) seal(room []byte, c *evidence.Command) []byte {
	if c.Size() <= evidence.MaxSealed {
		return evidence.AppendIntentSealed(room, c)
	}
	return evidence.EncodeBody(evidence.LeaveOut(c, s.chain.Digester()))
}

// decide decides each command of a batch under one registry and writes its
// head and body. It returns how durable the batch must be.
func (s *Session) decide(b *batch, cmds []*evidence.Command, registry *decision.Registry, version uint64) evidence.Durability {
	durability := evidence.Process
	now := s.gate.Now()
	refused := false
	before := cmp.Or(b.want, b.had)
	b.uses, b.want, b.ahead = b.uses[:0], nil, counted{}
	for i, c := range cmds {
		x := &b.exchanges[i]
		d := s.shapes.decided(c.Shape, version, now.UnixMicro(), func() decided { return s.ask(registry, c.Shape, now, "", "") })
		x.skipped = refused || c.Skip
		x.draft.Counts, x.draft.OverLimit, x.draft.Commands, x.draft.Writes = d.counts, false, 0, 0
		if d.decision.Obligations != nil && d.counts && !x.skipped {
			d = s.bind(b, i, c, d, before, registry, now)
		}
		x.began, x.decision = now, &d.decision
		x.draft.Body = d.body
		x.draft.Head = evidence.Head{
			Type: evidence.CommandIntent, Time: now.UnixMicro(), Agent: s.agent, Resource: s.resource,
			Verb: c.Verb, Effect: d.decision.Effect, Of: c.Of,
			Frames: uint64(c.Frames), Bytes: uint64(c.Bytes),
		}
		switch {
		case x.skipped:
			x.draft.Head.Outcome = evidence.Skipped
			continue
		case d.decision.Effect != evidence.Allow:
			x.draft.Head.Outcome = evidence.Denied
			refused = true
			continue
		case !s.relaxed || c.Verb != evidence.VerbRead && c.Verb != evidence.VerbSession || d.decision.Approval != "":
			durability = evidence.Power
		}
		if d.counts {
			b.ahead.add(c.Verb)
		}
	}
	return durability
}

// ask asks policy about a shape and encodes the body that equal shapes share.
func (s *Session) ask(registry *decision.Registry, shape *evidence.Shape, now time.Time, approval, limit string) decided {
	d := registry.Decide(decision.Request{
		Agent: s.agent, Resource: s.resource, Time: now.UnixMicro(),
		Checks: shape.Checks, Session: s.facts, Command: shape.Facts, Path: shape.Path,
		Approval: approval, Limit: limit,
	})
	return decided{counts: !evidence.Unbound(shape.Path), decision: d, body: evidence.EncodeBody(evidence.IntentBody{
		Path: shape.Path, Parse: shape.Parse, Text: shape.Text,
		Checks: shape.Checks, Facts: shape.Facts, Decision: d,
	})}
}

// counted are commands of an hour, and the writes among them.
type counted struct{ commands, writes int64 }

func (c *counted) add(verb string) {
	c.commands++
	if writes(verb) {
		c.writes++
	}
}

// writes reports whether a verb class is one that limits of writes bind.
func writes(verb string) bool { return verb != evidence.VerbRead && verb != evidence.VerbSession }

// bind decides again a command that its rules hold to something: its agent may
// have reached a limit, or people may have approved it. What is known already of
// the batch's wish for an approval is w.
func (s *Session) bind(b *batch, i int, c *evidence.Command, d *decided, w *want, registry *decision.Registry, now time.Time) *decided {
	o, x := d.decision.Obligations, &b.exchanges[i]
	if limit := s.reached(o, c.Verb, b.ahead, now); limit != "" {
		x.draft.OverLimit = true
		again := s.ask(registry, c.Shape, now, "", limit)
		d = &again
	}
	x.draft.Commands, x.draft.Writes = o.Commands, o.Writes
	if x.draft.OverLimit || len(o.Approval) == 0 {
		return d
	}
	digest := s.gate.digest(s.agent, s.resource, c)
	if w == nil || w.digest != digest || w.i != i {
		w = &want{i: i, digest: digest, needs: o.Approval, rules: d.decision.Rules}
	}
	for _, u := range b.uses {
		if u.digest == digest {
			w.settled, w.reason = true, "the same command before it has used its approval"
		}
	}
	a, state := s.gate.find(registry, digest, o.Approval, c, now.UnixMicro())
	if state == decision.ApprovalApproved && !w.settled {
		again := s.ask(registry, c.Shape, now, a.ID, "")
		if again.decision.Effect == evidence.Allow {
			b.had = w // another command may be quicker to use it
			b.uses = append(b.uses, use{i, digest, evidence.Draft{
				Head: evidence.Head{Type: evidence.ApprovalUse, Time: now.UnixMicro(), Agent: s.agent, Resource: s.resource},
				Body: evidence.EncodeBody(evidence.ApprovalUseBody{Request: a.ID, Digest: digest}),
			}})
			return &again
		}
	}
	if w.state = state; state != "" {
		w.asked = &a
	}
	b.want = w
	return d
}

// reached returns the limit of an hour that one more command would exceed.
func (s *Session) reached(o *evidence.Obligations, verb string, ahead counted, now time.Time) string {
	if o.Commands == 0 && o.Writes == 0 {
		return ""
	}
	commands, written := s.gate.Recorder.Counted(s.agent, now.UnixMicro())
	switch {
	case o.Commands > 0 && commands+ahead.commands >= o.Commands:
		return evidence.LimitCommands
	case o.Writes > 0 && writes(verb) && written+ahead.writes >= o.Writes:
		return evidence.LimitWrites
	}
	return ""
}

// raise raises the alerts that the rules of commands ask for.
func (s *Session) raise(ctx context.Context, batch []exchange) error {
	for i := range batch {
		x := &batch[i]
		if x.decision.Obligations == nil || x.skipped {
			continue
		}
		for _, name := range x.decision.Obligations.Alert {
			text := "a command was let through whose rules ask to raise this alert"
			if x.decision.Effect != evidence.Allow {
				text = "a command was refused whose rules ask to raise this alert"
			}
			if err := s.Alert(ctx, evidence.AlertBody{Rule: name, Severity: "high", Trigger: x.pos, Text: text}); err != nil {
				return err
			}
		}
	}
	return nil
}

// May implements protocol.Session.
func (s *Session) May(checks ...evidence.Check) bool {
	if s.Cause() != nil {
		return false
	}
	registry, _ := s.gate.Recorder.State()
	d := registry.Decide(decision.Request{
		Agent: s.agent, Resource: s.resource, Time: s.gate.Now().UnixMicro(), Checks: checks, Session: s.facts,
		Path: evidence.PathConnect, // what needs an approval can be had
	})
	return d.Effect == evidence.Allow
}

// begun makes the recorded commands of a batch exchanges; nil is a batch that
// could not be recorded.
func (s *Session) begun(b *batch) []protocol.Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beginning--
	if b == nil {
		return nil
	}
	for i := range b.exchanges {
		x := &b.exchanges[i]
		x.pos = x.draft.Head.Pos
		x.draft.Sealed = nil
		s.commands.Add(1)
		s.gate.commands.Add(1)
		switch x.draft.Head.Outcome {
		case "":
			if s.open == nil {
				s.open = make(map[*exchange]struct{})
			}
			s.open[x] = struct{}{}
		case evidence.Denied:
			s.denied.Add(1)
			s.gate.refused.Add(1)
		}
		b.out[i] = x
	}
	if s.leaving != nil && s.idle() { // all of it was refused
		time.AfterFunc(courtesy, s.depart)
	}
	return b.out
}

// Note implements protocol.Session.
func (s *Session) Note(ctx context.Context, n protocol.Note) error {
	body := evidence.NoteBody{Kind: n.Kind, Origin: "agent", Detail: n.Detail}
	if n.Gateway {
		body.Origin = "gateway"
	}
	return s.record(ctx, evidence.Process, &evidence.Draft{
		Head: evidence.Head{
			Type: evidence.SessionNote, Agent: s.agent, Resource: s.resource, Verb: evidence.VerbSession,
			Frames: uint64(n.Frames), Bytes: uint64(n.Bytes),
		},
		Body: evidence.EncodeBody(body),
	})
}

// EndTransaction implements protocol.Session.
func (s *Session) EndTransaction(ctx context.Context, t protocol.Transaction) error {
	return s.record(ctx, evidence.Process, &evidence.Draft{
		Head: evidence.Head{Type: evidence.TxEnd, Agent: s.agent, Resource: s.resource, Of: t.First},
		Body: evidence.EncodeBody(evidence.TxEndBody{
			Result: t.Result, Block: t.Block, First: t.First, Last: t.Last, Commands: t.Commands, ID: t.ID,
		}),
	})
}

// alertInterval is how often one rule raises an alert in one session.
const alertInterval = time.Minute

// Alert implements protocol.Session.
func (s *Session) Alert(ctx context.Context, b evidence.AlertBody) error {
	now := s.gate.Now()
	s.mu.Lock()
	q := s.alerts[b.Rule]
	if now.Before(q.until) {
		q.skipped++
		s.alerts[b.Rule] = q
		s.mu.Unlock()
		return nil
	}
	if s.alerts == nil {
		s.alerts = make(map[string]quiet)
	}
	s.alerts[b.Rule] = quiet{until: now.Add(alertInterval)}
	s.mu.Unlock()
	if q.skipped > 0 {
		b.Text = fmt.Sprintf("%s (and %d more of the session's commands since the last such alert)", b.Text, q.skipped)
	}
	return s.record(ctx, evidence.Process, &evidence.Draft{
		Head: evidence.Head{Type: evidence.Alert, Agent: s.agent, Resource: s.resource},
		Body: evidence.EncodeBody(b),
	})
}

// Connected implements protocol.Session.
func (s *Session) Connected(ctx context.Context, b evidence.SessionUpstreamBody) error {
	return s.record(ctx, evidence.Process, &evidence.Draft{
		Head: evidence.Head{Type: evidence.SessionUpstream, Agent: s.agent, Resource: s.resource},
		Body: evidence.EncodeBody(b),
	})
}

// record records what holds no decision. A failure ends the session.
func (s *Session) record(ctx context.Context, d evidence.Durability, drafts ...*evidence.Draft) error {
	if _, err := s.chain.Record(ctx, 0, d, drafts...); err != nil {
		r := unrecordable(err)
		s.end(r)
		return r
	}
	return nil
}

// errClosed is the cause of a session that its protocol closed.
var errClosed = errors.New("the session is closed")

// Close implements protocol.Session.
func (s *Session) Close(end protocol.SessionEnd) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var drafts []*evidence.Draft
	for x := range s.open {
		drafts = append(drafts, x.result(evidence.Outcome{Class: evidence.InDoubt}))
	}
	s.open = nil
	s.mu.Unlock()
	s.end(errClosed)
	defer s.gate.leave(s)
	drafts = append(drafts, &evidence.Draft{
		Head: evidence.Head{
			Type: evidence.SessionEnd, Agent: s.agent, Resource: s.resource, Of: s.start,
			Bytes: end.Bytes, Reply: end.Reply, Micros: micros(s.gate.Now().Sub(s.began)),
		},
		Body: evidence.EncodeBody(evidence.SessionEndBody{
			Reason: end.Reason, Commands: s.commands.Load(), Denied: s.denied.Load(), Frames: end.Frames,
		}),
	})
	return s.record(context.Background(), evidence.Process, drafts...)
}

// unproven says that the token, or the key behind it, which the session rests
// on was revoked; nil while they stand. Policy doesn't ask about them, so each
// new registry is asked once.
func (s *Session) unproven(registry *decision.Registry, version uint64, now int64) *protocol.Refusal {
	if s.proven.Load() == version {
		return nil
	}
	key, enrolled := registry.Key(s.who.Key)
	if registry.Revoked(s.who.Credential) || enrolled && !key.Active(now) {
		return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "the right to this session has ended: its credential was revoked"}
	}
	s.proven.Store(version)
	return nil
}

// recheck ends the session when its credential was revoked or its agent may no
// longer connect.
func (s *Session) recheck(registry *decision.Registry, version uint64, now int64) {
	if r := s.unproven(registry, version, now); r != nil {
		s.end(r)
		return
	}
	s.mu.Lock()
	same := s.checked == version && (s.until == 0 || now < s.until)
	s.mu.Unlock()
	if same {
		return
	}
	d := registry.Decide(decision.Request{
		Agent: s.agent, Resource: s.resource, Time: now, Checks: s.checks, Session: s.facts,
		Path: evidence.PathConnect,
	})
	if d.Effect != evidence.Allow {
		s.end(&protocol.Refusal{Kind: protocol.ErrDenied, Reason: "the right to this session has ended: " + d.Reason})
		return
	}
	s.mu.Lock()
	s.checked, s.until = version, d.Until
	s.mu.Unlock()
}

func (s *Session) live() Live {
	return Live{
		ID: s.id, Agent: s.agent, Resource: s.resource, Principal: s.who.OnBehalf, Ticket: s.who.Ticket,
		Client: s.client, Since: s.began, Commands: s.commands.Load(), Denied: s.denied.Load(),
	}
}
