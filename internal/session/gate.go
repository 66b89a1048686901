// Package session is the path itself: who, may they, write it down, is it
// durable, pass it on, how did it end.
//
// In flow an agent's credential and commands, from a protocol; out flow
// decisions, once they are recorded. A Gate opens sessions, a Session begins
// commands, an exchange ends one. Nothing is allowed that is not on record
// first: a record that could not be written is a command that is not sent.
package session

import (
	"context"
	"crypto/tls"
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

// Chain records the drafts of one key scope, in order. Version is that of the
// registry that the drafts were decided under, 0 when they hold no decision;
// stale means that another is in force by now and nothing was recorded. Nil
// means as durable as asked.
type Chain interface {
	Record(ctx context.Context, version uint64, d evidence.Durability, drafts ...*evidence.Draft) (stale bool, err error)
	Digester() evidence.Digester
	Key() uint64
}

// Recorder is where records go and where the registry in force comes from.
type Recorder interface {
	State() (registry *decision.Registry, version uint64)
	Own() Chain
	NewChain() (Chain, error)
}

// Authenticator proves who a peer is. Its error has a code for the record, by
// a Code method; its text may name what the peer claimed and is sealed. Of
// protocol.ErrUnknownCertificate there is no record.
type Authenticator interface {
	Authenticate(protocol.Credential, *decision.Registry, time.Time) (Principal, error)
}

// Upstreams leads to configured resources.
type Upstreams interface {
	Upstream(resource string) (protocol.Upstream, error)
}

// Principal is an authenticated peer: the agent, and for whom it acts.
type Principal struct {
	Agent      string
	Credential string // id of the token or certificate
	Key        string // thumbprint of the enrolled key behind it
	TokenHash  string
	Ticket     string
	OnBehalf   string    // the person or system it acts for; "" is itself
	Type       string    // "self", "human", "system"
	Expires    time.Time // of the credential
}

// Limits bound what one gateway carries.
type Limits struct {
	Sessions         int // in all
	SessionsPerAgent int
}

// Config is what a Gate needs.
type Config struct {
	Recorder      Recorder
	Authenticator Authenticator
	Upstreams     Upstreams
	// Ready is non-nil when no new access may be given, because sealing is too
	// far behind.
	Ready  func() error
	Limits Limits
	// FailurePause is how long a peer that failed to prove itself waits for its
	// answer; see DefaultFailurePause.
	FailurePause time.Duration
	Now          func() time.Time
}

// Gate opens sessions and knows those that are open.
type Gate struct {
	Config

	commands, refused atomic.Uint64

	mu       sync.Mutex
	sessions map[string]*Session // by id
	byAgent  map[string]int
	total    int // sessions open, or about to be
	stopping error
}

var _ protocol.Gate = (*Gate)(nil)

// NewGate returns a gate without sessions.
func NewGate(c Config) *Gate {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	return &Gate{Config: c, sessions: make(map[string]*Session), byAgent: make(map[string]int)}
}

// Open implements protocol.Gate: it proves who the peer is, decides whether it
// may connect to the target, and records both before it returns.
func (g *Gate) Open(ctx context.Context, c protocol.Credential, t protocol.Target) (protocol.Session, error) {
	registry, _ := g.Recorder.State()
	now := g.Now()
	who, err := g.Authenticator.Authenticate(c, registry, now)
	switch {
	case errors.Is(err, protocol.ErrUnknownCertificate):
		return nil, err
	case err != nil:
		return nil, g.refuseAuthn(ctx, c, t, now, err)
	}
	authn, err := g.recordAuthn(ctx, c, t, who, now)
	if err != nil {
		return nil, unrecordable(err)
	}
	if err := g.reserve(who.Agent); err != nil {
		return nil, g.refuse(ctx, g.start(c, t, who, authn, now), protocol.ErrTooMany, err.Error(),
			"end a session first, or ask for a higher limit")
	}
	s, err := g.open(ctx, c, t, who, authn)
	if err != nil {
		g.release(who.Agent)
		return nil, err
	}
	return s, nil
}

// Join implements protocol.Gate. The credential was proved when the session
// was opened, and the session asks for each command whether it still counts.
func (g *Gate) Join(ctx context.Context, c protocol.Credential, s protocol.Session) error {
	return s.Note(ctx, protocol.Note{Kind: "connection", Gateway: true, Detail: addrText(c)})
}

// open decides whether who may connect and, if so, starts its session.
func (g *Gate) open(ctx context.Context, c protocol.Credential, t protocol.Target, who Principal, authn evidence.Position) (*Session, error) {
	start := g.start(c, t, who, authn, g.Now())
	if err := g.Ready(); err != nil {
		return nil, g.refuse(ctx, start, protocol.ErrUnrecordable, "evidence cannot be sealed: no new session is opened", err.Error())
	}
	up, err := g.Upstreams.Upstream(t.Resource)
	if err != nil {
		return nil, g.refuse(ctx, start, protocol.ErrDenied, fmt.Sprintf("%s may not connect to this resource", who.Agent), hintAsk(who.Agent))
	}
	start.body.Upstream, start.body.User, start.body.Database = up.Address, up.User, up.Database
	chain, err := g.Recorder.NewChain()
	if err != nil {
		return nil, unrecordable(err)
	}
	for {
		registry, version := g.Recorder.State()
		start.decide(registry, t)
		if start.body.Effect != evidence.Allow {
			return nil, g.refuse(ctx, start, protocol.ErrDenied, start.body.Reason, hintAsk(who.Agent))
		}
		start.draft.Head.Key = chain.Key()
		stale, err := chain.Record(ctx, version, evidence.Power, start.finish())
		if err != nil {
			return nil, unrecordable(err)
		}
		if !stale {
			break
		}
	}
	failpoint.Hit("session started")
	s := newSession(g, chain, start, up, who, t)
	g.enter(s)
	return s, nil
}

// starting is a session.start on its way.
type starting struct {
	draft evidence.Draft
	body  evidence.SessionStartBody
	asked string // the resource as the peer named it
	began time.Time
}

func (g *Gate) start(c protocol.Credential, t protocol.Target, who Principal, authn evidence.Position, now time.Time) *starting {
	registry, _ := g.Recorder.State()
	agent, _ := registry.Agent(who.Agent)
	st := &starting{asked: t.Resource, began: now}
	st.draft.Head = evidence.Head{
		Type: evidence.SessionStart, Time: now.UnixMicro(), Agent: who.Agent, Verb: evidence.VerbConnect,
	}
	durability := "power"
	if r, ok := registry.Resource(t.Resource); ok {
		st.draft.Head.Resource = r.Name
		durability = r.Durability
	}
	st.body = evidence.SessionStartBody{
		Protocol: t.Protocol, Agent: who.Agent, Owner: agent.Owner,
		Principal: who.OnBehalf, PType: who.Type, Ticket: who.Ticket, Credential: who.Credential,
		Authn: authn.String(), Client: addrText(c), Listener: c.Listener, TLS: tlsText(c.TLS),
		Durability: durability, Mode: "enforce",
		Context: Facts(t.Protocol, who, c.TLS != nil),
		Checks:  []evidence.Check{{Action: t.Protocol + ":connect"}},
	}
	return st
}

// Facts are the facts of a session that all its decisions see.
func Facts(protocol string, who Principal, tls bool) evidence.Facts {
	return evidence.Facts{
		"protocol": protocol, "ticket": who.Ticket,
		"principal": who.OnBehalf, "principal_type": who.Type, "tls": tls,
	}
}

// decide asks policy under registry.
func (st *starting) decide(registry *decision.Registry, t protocol.Target) {
	st.body.Decision = registry.Decide(decision.Request{
		Agent: st.body.Agent, Resource: t.Resource, Time: st.draft.Head.Time,
		Checks: st.body.Checks, Session: st.body.Context, Path: evidence.PathConnect,
	})
	st.draft.Head.Effect = st.body.Effect
}

func (st *starting) finish() *evidence.Draft {
	st.draft.Body = evidence.EncodeBody(st.body)
	return &st.draft
}

// refuse records a session that was not to be, in the boot's own scope since
// it has none, and returns what to tell the agent.
func (g *Gate) refuse(ctx context.Context, st *starting, kind error, reason, hint string) error {
	st.body.Reason = reason
	if st.body.Effect != evidence.Deny {
		st.body.Effect = evidence.Error
	}
	st.draft.Head.Effect, st.draft.Head.Outcome = st.body.Effect, evidence.Denied
	if st.draft.Head.Resource == "" {
		st.draft.Sealed = evidence.EncodeBody(evidence.AuthnSealed{User: st.body.Agent, Database: clip(st.asked)})
	}
	if _, err := g.Recorder.Own().Record(ctx, 0, evidence.Process, st.finish()); err != nil {
		return unrecordable(err)
	}
	return &protocol.Refusal{Kind: kind, Reason: reason, Hint: hint}
}

func (g *Gate) recordAuthn(ctx context.Context, c protocol.Credential, t protocol.Target, who Principal, now time.Time) (evidence.Position, error) {
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.Authn, Time: now.UnixMicro(), Agent: who.Agent, Outcome: evidence.OK},
		Body: evidence.EncodeBody(evidence.AuthnBody{
			Protocol: t.Protocol, Method: c.Method, Credential: who.Credential, Key: who.Key,
			TokenHash: who.TokenHash, Client: addrText(c), Listener: c.Listener,
		}),
	}
	_, err := g.Recorder.Own().Record(ctx, 0, evidence.Process, d)
	return d.Head.Pos, err
}

// DefaultFailurePause is how long a peer that failed to prove itself waits for
// its answer. Each attempt is a record: whoever guesses must not fill the journal
// faster than connections are limited.
const DefaultFailurePause = time.Second

// refuseAuthn records a failed attempt: its cause in the clear, what the peer
// claimed sealed. The peer is told neither, and that not at once.
func (g *Gate) refuseAuthn(ctx context.Context, c protocol.Credential, t protocol.Target, now time.Time, cause error) error {
	code := "rejected"
	var coded interface{ Code() string }
	if errors.As(cause, &coded) {
		code = coded.Code()
	}
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.Authn, Time: now.UnixMicro(), Outcome: evidence.Denied, Code: code},
		Body: evidence.EncodeBody(evidence.AuthnBody{
			Protocol: t.Protocol, Method: c.Method, Client: addrText(c), Listener: c.Listener, Failure: code,
		}),
		Sealed: evidence.EncodeBody(evidence.AuthnSealed{
			User: clip(c.User), Database: clip(t.Database), Detail: clip(cause.Error()),
		}),
	}
	if registry, _ := g.Recorder.State(); known(registry, c.User) {
		d.Head.Agent = c.User
	}
	if _, err := g.Recorder.Own().Record(ctx, 0, evidence.Process, d); err != nil {
		return unrecordable(err)
	}
	Pause(ctx, g.FailurePause)
	hint := "get a fresh token with `exhibit token`, and use the agent's id as user name"
	if c.Method == "certificate" {
		hint = "show a certificate that hasn't expired, of a key that is enrolled for the agent whose id is the user name; or none, and a token"
	}
	return &protocol.Refusal{Kind: protocol.ErrAuthentication, Reason: "authentication failed", Hint: hint}
}

// Pause waits, but for nobody who has gone.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func known(r *decision.Registry, agent string) bool {
	_, ok := r.Agent(agent)
	return ok
}

// reserve takes a place for one more session of agent.
func (g *Gate) reserve(agent string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopping != nil:
		return g.stopping
	case g.Limits.Sessions > 0 && g.total >= g.Limits.Sessions:
		return fmt.Errorf("the gateway has %d sessions, its limit", g.total)
	case g.Limits.SessionsPerAgent > 0 && g.byAgent[agent] >= g.Limits.SessionsPerAgent:
		return fmt.Errorf("%s has %d sessions, its limit", agent, g.byAgent[agent])
	}
	g.total++
	g.byAgent[agent]++
	return nil
}

func (g *Gate) release(agent string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.byAgent[agent]--; g.byAgent[agent] == 0 {
		delete(g.byAgent, agent)
	}
}

// enter makes s known to Sweep and Kill. If the gateway began to stop since
// its place was reserved, the session ends like the others.
func (g *Gate) enter(s *Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions[s.id] = s
	if g.stopping != nil {
		s.end(g.stopping)
	}
}

func (g *Gate) leave(s *Session) {
	g.mu.Lock()
	delete(g.sessions, s.id)
	g.mu.Unlock()
	g.release(s.agent)
}

// OpenSessions is the number of open sessions.
func (g *Gate) OpenSessions() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}

// Commands is the number of commands asked for so far.
func (g *Gate) Commands() uint64 { return g.commands.Load() }

// Refused is the number of commands that policy refused so far.
func (g *Gate) Refused() uint64 { return g.refused.Load() }

// Live describes an open session.
type Live struct {
	ID        string
	Agent     string
	Resource  string
	Principal string // for whom the agent acts; "" is itself
	Ticket    string
	Client    string
	Since     time.Time
	Commands  uint64
	Denied    uint64
}

// Sessions returns the sessions open now, in no order.
func (g *Gate) Sessions() []Live {
	g.mu.Lock()
	defer g.mu.Unlock()
	live := make([]Live, 0, len(g.sessions))
	for _, s := range g.sessions {
		live = append(live, s.live())
	}
	return live
}

// Sweep ends the sessions whose agent may no longer connect: it was retired,
// its grant was revoked or has expired, or policy changed. It is cheap when
// nothing did.
func (g *Gate) Sweep() {
	registry, version := g.Recorder.State()
	now := g.Now().UnixMicro()
	for _, s := range g.all() {
		s.recheck(registry, version, now)
	}
}

func (g *Gate) all() []*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*Session, 0, len(g.sessions))
	for _, s := range g.sessions {
		list = append(list, s)
	}
	return list
}

// Kill ends sessions at once, for a cause that their agents are told.
func (g *Gate) Kill(cause error, ids ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		if s := g.sessions[id]; s != nil {
			s.end(cause)
		}
	}
}

// Run sweeps twice a second until ctx is done, so that no session outlives its
// rights by more than a second, and none goes on while evidence can't be
// sealed.
func (g *Gate) Run(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.Sweep()
			g.holdUnready()
		}
	}
}

// holdUnready ends all sessions when access may not go on.
func (g *Gate) holdUnready() {
	err := g.Ready()
	if err == nil {
		return
	}
	cause := &protocol.Refusal{Kind: protocol.ErrUnrecordable, Reason: "evidence cannot be sealed: access has stopped", Hint: err.Error()}
	for _, s := range g.all() {
		s.end(cause)
	}
}

// Stop refuses new sessions and commands, with cause as what agents are told,
// lets those that run finish for as long as grace, and then ends all sessions.
func (g *Gate) Stop(cause error, grace time.Duration) {
	g.mu.Lock()
	g.stopping = cause
	g.mu.Unlock()
	for _, s := range g.all() {
		s.leave(cause)
	}
	for end := time.Now().Add(grace); g.OpenSessions() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	for _, s := range g.all() {
		s.end(cause)
	}
}

func unrecordable(err error) error {
	return &protocol.Refusal{
		Kind: protocol.ErrUnrecordable, Reason: "the record of this access cannot be written, so there is no access",
		Hint: "the gateway's operator finds the cause in its log and with `exhibit doctor`",
	}
}

func hintAsk(agent string) string {
	return fmt.Sprintf("ask for a grant, which the resource's owner approves: exhibit grant request --agent %s --role ROLE --resource RESOURCE --for 8h --ticket TICKET", agent)
}

func addrText(c protocol.Credential) string {
	if c.Client == nil {
		return ""
	}
	if c.Client.Network() == "unix" {
		return "unix"
	}
	return c.Client.String()
}

func tlsText(s *tls.ConnectionState) string {
	if s == nil {
		return ""
	}
	return tls.VersionName(s.Version) + " " + tls.CipherSuiteName(s.CipherSuite)
}

// clip bounds what a peer can make us keep.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		return s[:most]
	}
	return s
}
