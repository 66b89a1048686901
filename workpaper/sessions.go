package workpaper

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// session is one that hasn't ended.
type session struct {
	start    evidence.Position
	at       int64
	head     evidence.Head
	body     *evidence.SessionStartBody // nil when it couldn't be read
	asker    *Asker                     // nil with it
	agent    string
	resource string
	key      string // thumbprint of the enrolled key behind its credential, if the authn is in the range
	carried  bool   // started before the range
	active   bool   // has a record in the range
	upstream *evidence.SessionUpstreamBody
	connKey  upstreamKey
	n        uint64 // ordinal of its last record; 0 isn't known
	retired  int64  // when its agent was retired or suspended, while it was open
	ending   *termination
	gap      bool
	course   course

	open       []evidence.Position // intents without an outcome, in order
	transacted evidence.Position   // last command of the last transaction that ended

	commands, denied, skipped, errors, doubts, opaque uint64
	rows, reply, bytes                                uint64
	checkedAt                                         uint64 // 1 + registry version under which it was last found admitted
}

// newSession returns the session of a session.start; without a body, the head
// alone says what it is.
func (f *Fold) newSession(r *evidence.Record, b *evidence.SessionStartBody) *session {
	s := &session{start: r.Head.Pos, at: r.Head.Time, head: r.Head, body: b, agent: r.Head.Agent, resource: r.Head.Resource}
	if b != nil {
		s.asker = f.asker(Asker{s.agent, s.resource, b.Context})
	}
	return s
}

// maxAskers bounds how many different askers are told apart by their pointers.
const maxAskers = 1 << 16

// asker returns the one pointer for a and its equals.
func (f *Fold) asker(a Asker) *Asker {
	key := string(evidence.EncodeBody(a)) // keys of maps are sorted
	if known, ok := f.askers[key]; ok {
		return known
	}
	if len(f.askers) >= maxAskers {
		clear(f.askers)
	}
	f.askers[key] = &a
	return &a
}

func (s *session) credential() string {
	if s.body == nil {
		return ""
	}
	return s.body.Credential
}

// upstreamKey tells one connection to an upstream from all others.
type upstreamKey struct{ local, remote string }

func (f *Fold) addSession(s *session) error {
	if len(f.sessions) >= maxSessions {
		return fmt.Errorf("%w: %d sessions", ErrTooMuch, maxSessions)
	}
	f.sessions[s.start] = s
	return nil
}

// belongs returns the session of a record, after checking that it is of the
// same agent and resource. It is nil when there is none that it can be of.
func (f *Fold) belongs(h *evidence.Head) *session {
	f.tests.attribution.Population++
	s := f.sessions[h.Session]
	if s == nil {
		f.tests.attribution.Except(h.Pos, "%s of session %q, which is not open", h.Type, h.Session)
		return nil
	}
	if !s.active {
		s.active = true
		if s.carried {
			f.counts.sessionsCarried++
			f.tests.sessionPairing.Population++
		}
	}
	if h.Agent != "" && h.Agent != s.agent || h.Resource != "" && h.Resource != s.resource {
		f.tests.attribution.Except(h.Pos, "is of agent %s on %s, its session of %s on %s", h.Agent, h.Resource, s.agent, s.resource)
	}
	return s
}

func (f *Fold) sessionStart(r *evidence.Record) error {
	h := &r.Head
	var b evidence.SessionStartBody
	readable := &b
	if !f.decode(r, &b) {
		b, readable = evidence.SessionStartBody{}, nil
	}
	s := f.newSession(r, readable)
	s.active, s.n = true, h.N
	if h.Effect == evidence.Allow && h.Outcome == "" {
		f.counts.sessionsStarted++
		f.tests.sessionPairing.Population++
		f.admitted(h, s, &b)
	} else {
		f.counts.sessionsRefused++
	}
	if a := f.activityOf(s.agent); h.Effect == evidence.Allow {
		a.sessions++
		a.last = h.Time
	}
	if err := f.startDecision(r, s, &b); err != nil {
		return err
	}
	if h.Effect == evidence.Allow && h.Outcome == "" {
		if err := f.cite(h, b.Ticket, ofSession, nil, nil); err != nil {
			return err
		}
		if h.Session != h.Pos {
			f.tests.attribution.Except(h.Pos, "starts session %s, and a session's id is the position of its start", h.Session)
		}
		return f.addSession(s)
	}
	if h.Effect == evidence.Allow || h.Outcome != evidence.Denied {
		f.tests.sessionPairing.Except(h.Pos, "has effect %q and outcome %q", h.Effect, h.Outcome)
	}
	f.tests.denials.Population++
	if err := f.sessionRow(s, "refused", nil, nil); err != nil {
		return err
	}
	return f.row(denialsTable, pos(h.Pos), f.clock.format(h.Time), "session", pos(h.Pos), h.Agent, h.Resource, h.Verb, "", checksCell(b.Checks),
		string(h.Effect), join(b.Rules), b.Policy, b.Reason, b.Client, "0")
}

// admitted makes the tests of a session that was let in.
func (f *Fold) admitted(h *evidence.Head, s *session, b *evidence.SessionStartBody) {
	f.tests.registered.Population++
	f.tests.owner.Population++
	f.tests.authentication.Population++
	f.tests.enforce.Population++
	f.tests.principal.Population++
	f.tests.encrypted.Population++
	a, ok := f.registry.Agent(h.Agent)
	switch {
	case !ok:
		f.tests.registered.Except(h.Pos, "agent %q is not registered", h.Agent)
	case !a.Active(h.Time):
		f.tests.registered.Except(h.Pos, "agent %s was retired, suspended or expired", h.Agent)
	case b.Owner != a.Owner || b.Owner.ID == "":
		f.tests.owner.Except(h.Pos, "names owner %q, the registry %q", b.Owner.ID, a.Owner.ID)
	}
	if b.Agent != h.Agent && f.told == nil {
		f.tests.attribution.Except(h.Pos, "its head names agent %s, its body %.80q", h.Agent, b.Agent)
	}
	if self := b.PType == "self"; !self && b.PType != "human" && b.PType != "system" || self != (b.Principal == "") {
		f.tests.principal.Except(h.Pos, "acts for %.80q, which is %.40q", b.Principal, b.PType)
	}
	if b.TLS == "" && !local(b.Client) {
		f.tests.encrypted.Except(h.Pos, "its agent connected from %.80q in the clear", b.Client)
	}
	proof, ok := f.authns.take(b.Authn)
	switch at, err := evidence.ParsePosition(b.Authn); {
	case ok && proof.agent == h.Agent && proof.credential == b.Credential:
		s.key = proof.key
	case ok:
		f.tests.authentication.Except(h.Pos, "cites authentication %s, which is of %s with credential %.80q", b.Authn, proof.agent, proof.credential)
	case err != nil || !f.beforeRange(at):
		f.tests.authentication.Except(h.Pos, "cites no authentication that succeeded and was not used: %.80q", b.Authn)
	}
	if b.Mode != "enforce" {
		f.tests.enforce.Except(h.Pos, "ran in mode %.40q", b.Mode)
	}
}

// beforeRange reports whether p stands before the range, where this fold
// doesn't see it.
func (f *Fold) beforeRange(p evidence.Position) bool {
	return f.first.Gateway == p.Gateway && p.Before(f.first)
}

// startDecision checks the decision to let a session in, and hands it on. A
// refusal of the gateway's own (limits, no upstream) is not policy's: it has
// the effect error and cites none.
func (f *Fold) startDecision(r *evidence.Record, s *session, b *evidence.SessionStartBody) error {
	h := &r.Head
	if f.told != nil {
		f.countDecision(h, &b.Decision)
		return nil
	}
	if s.body == nil || h.Effect == evidence.Error && b.Policy == "" {
		f.counts.failed++
		return nil
	}
	f.countDecision(h, &b.Decision)
	if h.Effect == evidence.Allow {
		f.tests.grantCited.Population++
		list, until, standing := f.lookUpGrants(b.Grants, h.Agent)
		if !standing || h.Time >= until {
			f.exceptGrants(h, b.Grants)
		}
		for _, u := range list {
			u.add(h)
			u.did(b.Checks)
		}
		f.stillAdmitted(h, s)
	}
	if f.Decided == nil {
		return nil
	}
	return f.Decided(&Decided{
		Head: h, Registry: f.registry, Version: f.version, Recorded: &b.Decision, Asker: s.asker,
		Request: decision.Request{Agent: h.Agent, Resource: h.Resource, Time: h.Time, Checks: b.Checks, Session: b.Context, Path: evidence.PathConnect},
	})
}

// intent counts a command of the session.
func (s *session) intent(h *evidence.Head, in *intent) {
	s.commands++
	if in.Parse == evidence.ParseOpaque && h.Effect == evidence.Allow {
		s.opaque++
	}
	switch h.Outcome {
	case evidence.Denied:
		s.denied++
	case evidence.Skipped:
		s.skipped++
	default:
		s.bytes += h.Bytes
		s.asked(h.Pos)
	}
}

func (s *session) result(h *evidence.Head) {
	s.rows += h.Rows
	s.reply += h.Reply
	s.bytes += h.Bytes
	s.settled(h.Of)
	switch h.Outcome {
	case evidence.Failed, evidence.Cancelled:
		s.errors++
	case evidence.Skipped:
		s.skipped++
	case evidence.InDoubt:
		s.doubts++
	}
}

// ofSession folds records that belong to a session and aren't commands.
func (f *Fold) ofSession(r *evidence.Record) error {
	s := f.belongs(&r.Head)
	if s == nil {
		return nil
	}
	switch r.Head.Type {
	case evidence.SessionNote:
		s.bytes += r.Head.Bytes
	case evidence.SessionUpstream:
		f.connected(r, s)
	case evidence.TxEnd:
		return f.transaction(r, s)
	case evidence.SessionEnd:
		return f.sessionEnd(r, s)
	}
	return nil
}

func (f *Fold) connected(r *evidence.Record, s *session) {
	var b evidence.SessionUpstreamBody
	if !f.decode(r, &b) {
		return
	}
	f.tests.connection.Population++
	if s.upstream != nil {
		f.tests.connection.Except(r.Head.Pos, "is the second upstream connection of session %s", s.start)
		return
	}
	f.tests.encrypted.Population++
	if b.TLS == "" && !local(b.Local) && !local(b.Remote) {
		f.tests.encrypted.Except(r.Head.Pos, "session %s went to %.80q in the clear", s.start, b.Remote)
	}
	s.upstream, s.connKey = &b, upstreamKey{b.Local, b.Remote}
	if b.Local == "" {
		return // a unix socket has no address of its own
	}
	if other, taken := f.upstreams[s.connKey]; taken {
		f.tests.connection.Except(r.Head.Pos, "is from %s to %s, as is session %s at the same time", b.Local, b.Remote, other)
		return
	}
	f.upstreams[s.connKey] = s.start
}

func (f *Fold) sessionEnd(r *evidence.Record, s *session) error {
	h := &r.Head
	f.counts.sessionsEnded++
	var b evidence.SessionEndBody
	ok := f.decode(r, &b)
	if h.Of != s.start {
		f.tests.sessionPairing.Except(h.Pos, "ends session %s and belongs to %s", h.Of, s.start)
	}
	switch {
	case h.Outcome == evidence.InDoubt:
		f.counts.crashed++ // nobody counted the bytes
	case !s.carried && (ok || f.told != nil):
		f.accounts(h, s, &b)
	}
	if s.retired != 0 {
		f.tests.lag.Population++
		if lag := h.Time - s.retired; lag > 2e6 {
			f.tests.lag.Except(h.Pos, "session %s ended %d ms after its agent was retired or suspended", s.start, lag/1000)
		}
		s.ending.sessionEnded(h)
	}
	if f.upstreams[s.connKey] == s.start {
		delete(f.upstreams, s.connKey)
	}
	delete(f.sessions, s.start)
	return f.sessionRow(s, "ended", h, &b)
}

// accounts ties the totals of session.end to the session's records.
func (f *Fold) accounts(h *evidence.Head, s *session, b *evidence.SessionEndBody) {
	f.tests.bytes.Population++
	f.tests.totals.Population++
	if h.Bytes != s.bytes {
		f.tests.bytes.Except(h.Pos, "%d bytes were forwarded in session %s, its records have %d", h.Bytes, s.start, s.bytes)
	}
	if f.told != nil {
		return // the body counts them
	}
	if b.Commands != s.commands || b.Denied != s.denied {
		f.tests.totals.Except(h.Pos, "counts %d commands and %d denied in session %s, its records are %d and %d", b.Commands, b.Denied, s.start, s.commands, s.denied)
	}
}

// retired marks the sessions that a retirement must end.
func (f *Fold) retired(r *evidence.Record) error {
	f.tests.afterRevoke.Population++
	var b evidence.DisableBody
	if !f.decode(r, &b) {
		return nil
	}
	return f.terminated(&termination{kind: "agent", subject: b.Agent, pos: r.Head.Pos, at: r.Head.Time, stopped: []string{b.Agent}})
}

func (f *Fold) sessionRow(s *session, state string, end *evidence.Head, eb *evidence.SessionEndBody) error {
	b, u := cmp.Or(s.body, &evidence.SessionStartBody{}), cmp.Or(s.upstream, &evidence.SessionUpstreamBody{})
	pid, ended, endPos, reason, unattributed := "", "", "", "", ""
	reply := s.reply
	if u.PID != 0 {
		pid = strconv.FormatUint(uint64(u.PID), 10)
	}
	if end != nil {
		ended, endPos, reason = f.clock.format(end.Time), pos(end.Pos), eb.Reason
		reply = max(reply, end.Reply)
		if !s.carried && end.Outcome != evidence.InDoubt {
			unattributed = strconv.FormatInt(int64(end.Bytes)-int64(s.bytes), 10)
		}
	}
	cells := []string{pos(s.start), state, s.agent, b.Owner.ID, b.Owner.Email, b.Principal, b.PType, b.Ticket,
		b.Credential, b.Authn, s.resource, b.Protocol, b.Client, b.Listener, b.TLS, b.Upstream, b.User, b.Database,
		u.Local, u.Remote, pid, u.Start, u.TLS, u.Peer, u.System, u.Server, b.Durability, b.Mode,
		string(s.head.Effect), join(b.Rules), join(b.Grants), b.Policy, b.Reason,
		f.clock.format(s.at), ended, endPos, reason, yes(s.carried),
		count(s.commands), count(s.denied), count(s.skipped), count(s.errors), count(s.doubts), count(s.opaque),
		count(s.rows), count(s.bytes), count(reply), unattributed, yes(s.gap || end != nil && end.Outcome == evidence.InDoubt)}
	if err := f.row(sessionsTable, cells...); err != nil {
		return err
	}
	return f.tell(s, state, cells)
}

// openSessions writes the rows of sessions that are open at the end.
func (f *Fold) openSessions() (open uint64, err error) {
	for _, p := range slices.SortedFunc(maps.Keys(f.sessions), comparePositions) {
		s := f.sessions[p]
		if !s.active {
			continue // began before the range, which never speaks of it
		}
		open++
		if s.start.Boot != f.last.Boot && (f.boot == nil || f.boot.records > recoveryGrace) {
			f.tests.sessionPairing.Except(p, "is open, and the boot that held it has ended")
		}
		if s.retired != 0 {
			f.tests.lag.Population++
			if lag := f.lastTime - s.retired; lag > 2e6 {
				f.tests.lag.Except(p, "is open %d ms after its agent was retired or suspended", lag/1000)
			}
		}
		if err := f.sessionRow(s, "open", nil, nil); err != nil {
			return open, err
		}
	}
	return open, nil
}

// recoveryGrace is how many records of a boot may pass before it has ended
// what the boot before left open; a range may end while it is at that.
const recoveryGrace = 1 << 16

func comparePositions(a, b evidence.Position) int {
	return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Seq, b.Seq))
}
