package prototest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// PathServer is the path of commands that a server asks of an agent, in
// protocols that know such: nothing of them goes upstream.
const PathServer = "server"

// Token is the secret that a Gate takes, unless it is told otherwise.
const Token = "prototest-token-9f31c2"

// Gate is a protocol.Gate that keeps what it is told and answers as told. Set
// its exported fields before use.
type Gate struct {
	Upstream protocol.Upstream
	Token    string    // what Credential.Secret must be; Token by default
	Expires  time.Time // of the credentials of sessions; zero is never

	// UpstreamOf says where each target leads, instead of Upstream.
	UpstreamOf func(protocol.Target) protocol.Upstream

	// Certificate says whether a certificate is an agent's; nil knows none.
	Certificate func(*x509.Certificate) bool

	// Decide decides a command; nil allows everything.
	Decide func(*evidence.Command) evidence.Decision
	// Hold says whether a command that may wait waits for people, whose answer it
	// returns: a decision, or nothing for as long as they have none. Nil holds none.
	Hold func(*evidence.Command) <-chan evidence.Decision
	// Refuse, Begin, Note, EndTransaction, Keep and End fail what they are named
	// after. Begin runs before anything is recorded.
	Refuse         func(protocol.Credential, protocol.Target) error
	Begin          func([]*evidence.Command) error
	Note           func(protocol.Note) error
	EndTransaction func(protocol.Transaction) error
	Keep           func(*Exchange, evidence.Direction, []evidence.Piece) error
	End            func(*Exchange, evidence.Outcome) error

	mu       sync.Mutex
	sessions []*Session
	opened   []protocol.Credential
	targets  []protocol.Target
}

// Open implements protocol.Gate.
func (g *Gate) Open(_ context.Context, c protocol.Credential, t protocol.Target) (protocol.Session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.Method == "certificate" && (g.Certificate == nil || !g.Certificate(c.TLS.PeerCertificates[0])) {
		return nil, protocol.ErrUnknownCertificate
	}
	g.opened, g.targets = append(g.opened, c), append(g.targets, t)
	if c.Method != "certificate" && c.Secret != cmp.Or(g.Token, Token) {
		return nil, &protocol.Refusal{Kind: protocol.ErrAuthentication, Reason: "wrong token"}
	}
	if g.Refuse != nil {
		if err := g.Refuse(c, t); err != nil {
			return nil, err
		}
	}
	s := &Session{Target: t, gate: g, n: len(g.sessions) + 1, done: make(chan struct{}), closed: make(chan struct{})}
	g.sessions = append(g.sessions, s)
	return s, nil
}

// Join implements protocol.Gate.
func (g *Gate) Join(_ context.Context, c protocol.Credential, s protocol.Session) error {
	if c.Method != "certificate" && c.Secret != cmp.Or(g.Token, Token) {
		return errors.New("prototest: a session is joined with another token than it was opened with")
	}
	return s.Note(context.Background(), protocol.Note{Kind: "connection"})
}

// Opened returns the credentials and targets that were shown, in order.
func (g *Gate) Opened() ([]protocol.Credential, []protocol.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.opened), slices.Clone(g.targets)
}

// Sessions returns the sessions opened so far.
func (g *Gate) Sessions() []*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.sessions)
}

// Session is a protocol.Session of a Gate.
type Session struct {
	Target protocol.Target

	gate   *Gate
	n      int
	done   chan struct{}
	closed chan struct{}

	mu        sync.Mutex
	cause     error
	upstream  evidence.SessionUpstreamBody
	exchanges []*Exchange
	notes     []protocol.Note
	ends      []protocol.Transaction
	alerts    []evidence.AlertBody
	end       *protocol.SessionEnd
	faults    []string
}

// ID implements protocol.Session.
func (s *Session) ID() string { return s.position(0).String() }

func (s *Session) position(seq int) evidence.Position {
	return evidence.Position{Gateway: "test", Boot: uint64(s.n), Seq: uint64(seq)}
}

// Identity implements protocol.Session.
func (s *Session) Identity() protocol.Identity {
	return protocol.Identity{Agent: "agent-1", Ticket: "T-1", Expires: s.gate.Expires}
}

// Upstream implements protocol.Session.
func (s *Session) Upstream() protocol.Upstream {
	if s.gate.UpstreamOf != nil {
		return s.gate.UpstreamOf(s.Target)
	}
	return s.gate.Upstream
}

// Request is the id of the request that a command is said to wait for.
const Request = "test.1.1000000"

// hold lets a command wait for people. It returns what was decided, or nil for
// one that doesn't wait.
func (s *Session) hold(ctx context.Context, cmds []*evidence.Command) *evidence.Decision {
	if len(cmds) != 1 || cmds[0].Wait == nil || cmds[0].Skip || s.gate.Hold == nil {
		return nil
	}
	answer := s.gate.Hold(cmds[0])
	if answer == nil {
		return nil
	}
	cmds[0].Wait(Request, time.Now().Add(time.Minute))
	d := evidence.Decision{Effect: evidence.Deny, Reason: "it needs the approval of people", Approval: Request}
	select {
	case d = <-answer:
	case <-ctx.Done():
	case <-s.done:
	}
	return &d
}

// Begin implements protocol.Session.
func (s *Session) Begin(ctx context.Context, cmds ...*evidence.Command) ([]protocol.Exchange, error) {
	if s.gate.Begin != nil {
		if err := s.gate.Begin(cmds); err != nil {
			return nil, err
		}
	}
	held := s.hold(ctx, cmds)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return nil, s.cause
	}
	s.open("Begin")
	out := make([]protocol.Exchange, len(cmds))
	refused := false
	for i, c := range cmds {
		if c.Frames <= 0 || c.Bytes <= 0 && c.Path != PathServer && c.Verb != evidence.VerbSession {
			s.fault("a command of %d frames and %d bytes", c.Frames, c.Bytes)
		}
		x := &Exchange{Command: *c, s: s, pos: s.position(len(s.exchanges) + 1), decision: evidence.Decision{Effect: evidence.Allow}}
		x.Raw = slices.Clone(c.Raw)
		x.Encoding = slices.Clone(c.Encoding)
		x.Params = slices.Clone(c.Params)
		for i, p := range x.Params {
			x.Params[i] = slices.Clone(p)
		}
		if s.gate.Decide != nil {
			x.decision = s.gate.Decide(&x.Command)
		}
		if held != nil {
			x.decision = *held
		}
		switch {
		case refused || c.Skip:
			x.skipped = true
			x.outcome = &evidence.Outcome{Class: evidence.Skipped}
		case x.decision.Effect != evidence.Allow:
			refused = true
			x.outcome = &evidence.Outcome{Class: evidence.Denied}
		}
		s.exchanges = append(s.exchanges, x)
		out[i] = x
	}
	return out, nil
}

// May implements protocol.Session, by what Decide says of such a command.
func (s *Session) May(checks ...evidence.Check) bool {
	if s.gate.Decide == nil {
		return true
	}
	return s.gate.Decide(&evidence.Command{Shape: &evidence.Shape{Checks: checks}}).Effect == evidence.Allow
}

// open checks that the session is; s.mu is held.
func (s *Session) open(what string) {
	if s.end != nil {
		s.fault("%s after Close", what)
	}
}

func (s *Session) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// Note implements protocol.Session.
func (s *Session) Note(_ context.Context, n protocol.Note) error {
	if s.gate.Note != nil {
		if err := s.gate.Note(n); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open("Note")
	s.notes = append(s.notes, n)
	return nil
}

// EndTransaction implements protocol.Session.
func (s *Session) EndTransaction(_ context.Context, t protocol.Transaction) error {
	if s.gate.EndTransaction != nil {
		if err := s.gate.EndTransaction(t); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open("EndTransaction")
	within := 0
	for _, x := range s.exchanges {
		if x.pos.Before(t.First) || t.Last.Before(x.pos) {
			continue
		}
		within++
		if x.outcome == nil && t.Result != "unknown" {
			s.fault("%s of a transaction before the end of %s", t.Result, x.pos)
		}
	}
	if within < t.Commands || t.Commands < 1 {
		s.fault("a transaction of %d commands from %s to %s, where there are %d", t.Commands, t.First, t.Last, within)
	}
	s.ends = append(s.ends, t)
	return nil
}

// Transactions returns the ends of transactions so far.
func (s *Session) Transactions() []protocol.Transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ends)
}

// Alert implements protocol.Session.
func (s *Session) Alert(_ context.Context, b evidence.AlertBody) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open("Alert")
	if !slices.ContainsFunc(s.exchanges, func(x *Exchange) bool { return x.pos == b.Trigger }) {
		s.fault("an alert about %s, which is no command of the session", b.Trigger)
	}
	s.alerts = append(s.alerts, b)
	return nil
}

// Alerts returns the alerts so far.
func (s *Session) Alerts() []evidence.AlertBody {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.alerts)
}

// Connected implements protocol.Session.
func (s *Session) Connected(_ context.Context, b evidence.SessionUpstreamBody) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open("Connected")
	s.upstream = b
	return nil
}

// Done implements protocol.Session.
func (s *Session) Done() <-chan struct{} { return s.done }

// Cause implements protocol.Session.
func (s *Session) Cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Kill ends the session from the gateway's side.
func (s *Session) Kill(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = cause
		close(s.done)
	}
}

// Close implements protocol.Session.
func (s *Session) Close(end protocol.SessionEnd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return nil
	}
	s.end = &end
	for _, x := range s.exchanges {
		if x.outcome == nil {
			x.outcome = &evidence.Outcome{Class: evidence.InDoubt}
		}
	}
	close(s.closed)
	return nil
}

// Wait returns how the session ended.
func (s *Session) Wait(timeout time.Duration) (protocol.SessionEnd, error) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case <-s.closed:
	case <-late.C:
		select {
		case <-s.closed: // both: it was in time
		default:
			return protocol.SessionEnd{}, errors.New("the session was not closed in time")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.end, nil
}

// Connection returns what the protocol said of the upstream.
func (s *Session) Connection() evidence.SessionUpstreamBody {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upstream
}

// Exchanges returns the commands so far, with how they stand.
func (s *Session) Exchanges() []*Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.exchanges)
}

// Notes returns the notes so far.
func (s *Session) Notes() []protocol.Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes)
}

// Faults returns what the protocol did that its contract forbids. Call it once
// the session has ended: it then also does the sum of the bytes.
func (s *Session) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := slices.Clone(s.faults)
	if s.end == nil {
		return append(faults, "the session was not closed")
	}
	if sum := s.bytes(); sum != s.end.Bytes {
		faults = append(faults, fmt.Sprintf("the session says that it forwarded %d bytes; its records hold %d", s.end.Bytes, sum))
	}
	return faults
}

// bytes is the sum that docs/spec/record.md, "Bytes", asks for; s.mu is held.
func (s *Session) bytes() (sum uint64) {
	for _, x := range s.exchanges {
		if x.decision.Effect == evidence.Allow && !x.skipped {
			sum += uint64(x.Command.Bytes)
		}
		sum += x.observed[evidence.ToUpstream]
	}
	for _, n := range s.notes {
		sum += uint64(n.Bytes)
	}
	return sum
}

// Trace is what happened, one line for each command: its path, its text, and
// how it ended. Tests compare it as a whole.
func (s *Session) Trace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, x := range s.exchanges {
		outcome := "open"
		if o := x.outcome; o != nil {
			outcome = string(o.Class)
			if o.Code != "" {
				outcome += " " + o.Code
			}
			if o.Rows > 0 {
				outcome += fmt.Sprintf(" rows=%d", o.Rows)
			}
		}
		fmt.Fprintf(&b, "%s %q: %s\n", x.Path, x.Raw, outcome)
	}
	return b.String()
}

// Exchange is a protocol.Exchange of a Session.
type Exchange struct {
	evidence.Command
	s        *Session
	pos      evidence.Position
	decision evidence.Decision
	skipped  bool

	// Under s.mu.
	outcome  *evidence.Outcome
	observed [2]uint64
	digests  [2][]byte
	kept     [2][]evidence.Piece
}

// Decision implements protocol.Exchange.
func (x *Exchange) Decision() *evidence.Decision { return &x.decision }

// Skipped implements protocol.Exchange.
func (x *Exchange) Skipped() bool { return x.skipped }

// Position implements protocol.Exchange.
func (x *Exchange) Position() evidence.Position { return x.pos }

// Observe implements protocol.Exchange.
func (x *Exchange) Observe(d evidence.Direction, b []byte) error {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.outcome != nil {
		x.s.fault("Observe of %s after its end", x.pos)
	}
	x.observed[d] += uint64(len(b))
	sum := sha256.Sum256(append(x.digests[d], b...))
	x.digests[d] = sum[:]
	return nil
}

// Keep implements protocol.Exchange.
func (x *Exchange) Keep(_ context.Context, d evidence.Direction, pieces ...evidence.Piece) error {
	if x.s.gate.Keep != nil {
		if err := x.s.gate.Keep(x, d, pieces); err != nil {
			return err
		}
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.outcome != nil {
		x.s.fault("Keep of %s after its end", x.pos)
	}
	for _, p := range pieces {
		x.kept[d] = append(x.kept[d], evidence.Piece{Stream: p.Stream, Data: bytes.Clone(p.Data)})
	}
	return nil
}

// Kept returns the content of one of the command's streams that was recorded.
func (x *Exchange) Kept(d evidence.Direction, stream string) string {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	var b strings.Builder
	for _, p := range x.kept[d] {
		if p.Stream == stream {
			b.Write(p.Data)
		}
	}
	return b.String()
}

// End implements protocol.Exchange.
func (x *Exchange) End(_ context.Context, o evidence.Outcome) error {
	if x.s.gate.End != nil {
		if err := x.s.gate.End(x, o); err != nil {
			return err
		}
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.open("End")
	if x.outcome != nil {
		x.s.fault("End of %s, %s, after %s", x.pos, o.Class, x.outcome.Class)
	}
	if o.Code != "" && !evidence.ValidName(o.Code) {
		x.s.fault("End of %s with the code %q, which no record can hold", x.pos, o.Code)
	}
	x.outcome = &o
	return nil
}

// Outcome returns how the command ended, or nil.
func (x *Exchange) Outcome() *evidence.Outcome {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	return x.outcome
}

// Observed returns how many bytes streamed within the command.
func (x *Exchange) Observed(d evidence.Direction) uint64 {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	return x.observed[d]
}
