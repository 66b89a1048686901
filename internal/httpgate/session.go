package httpgate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// sessionKey is a credential at a resource. The secret itself isn't kept.
type sessionKey struct {
	credential [sha256.Size]byte
	resource   string
}

// digestOf stands for a credential where it isn't kept.
func digestOf(cred protocol.Credential) [sha256.Size]byte {
	if cred.Method == "certificate" {
		return sha256.Sum256(cred.TLS.PeerCertificates[0].Raw)
	}
	return sha256.Sum256([]byte(cred.Secret))
}

// entry is a session, or one that is being opened.
type entry struct {
	ready chan struct{} // closed when s or err is set
	s     *Session
	err   error
}

// Session is an agent's session. Handlers may use it until they return.
type Session struct {
	protocol.Session
	Route Route

	server *Server
	key    sessionKey
	ctx    context.Context // done when the session must end
	cancel context.CancelCauseFunc
	up     upstream
	basic  string // Authorization field for the upstream; "" is none

	sent, replied atomic.Uint64 // bytes, to the upstream and to the agent
	requests      atomic.Uint64
	told          atomic.Bool // which fields are added

	mu       sync.Mutex
	refs     int       // requests that run
	last     time.Time // when the last one ended
	leaving  string    // why it ends; "" while it doesn't
	drained  chan struct{}
	assertOK time.Time // until when assert may be sent
	assert   string
	named    bool // the upstream was recorded

	over   chan struct{}            // the Handler ends it
	agents map[*connection]struct{} // that it was served on; under the server's mu
	part   io.Closer                // the Handler's own
}

// Part returns the Handler's own part of the session, which is made when it is
// asked for first. It is closed when the session ends, after the last request
// and before the end is recorded.
func (s *Session) Part(make func() io.Closer) io.Closer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.part == nil {
		s.part = make()
	}
	return s.part
}

// End ends the session from the Handler's side: when it returns the next request
// opens another one, and those that run are cut short.
func (s *Session) End(reason string) {
	s.leave(reason, true)
	select {
	case s.over <- struct{}{}:
	default: // it ends already
	}
}

// closePart closes what Part made.
func (s *Session) closePart() {
	s.mu.Lock()
	part := s.part
	s.mu.Unlock()
	if part == nil {
		return
	}
	if err := part.Close(); err != nil {
		s.server.log.Error("a session does not end in good order", "session", s.ID(), "error", err)
	}
}

// session returns the session of a credential at a route's resource, with one
// more request in it. It is opened if there is none.
func (c *connection) session(ctx context.Context, cred protocol.Credential, route Route) (*Session, error) {
	key := sessionKey{digestOf(cred), route.Resource}
	for {
		c.mu.Lock()
		e := c.sessions[key]
		if e == nil {
			e = &entry{ready: make(chan struct{})}
			c.sessions[key] = e
			c.mu.Unlock()
			c.open(ctx, e, key, cred, route)
			return e.s, e.err
		}
		c.mu.Unlock()
		select {
		case <-e.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if e.err != nil { // of another request: this one tries itself
			continue
		}
		if !e.s.acquire() { // it ends, or its credential has expired: the gate is asked again
			c.forget(key, e)
			continue
		}
		if e.s.enter(c) {
			if err := c.gate.Join(ctx, cred, e.s); err != nil {
				e.s.release()
				return nil, err
			}
		}
		return e.s, nil
	}
}

// open opens a session and gives it to e.
func (c *connection) open(ctx context.Context, e *entry, key sessionKey, cred protocol.Credential, route Route) {
	defer close(e.ready)
	// Others may wait for this session: it doesn't go with the request that came
	// first.
	ps, err := c.gate.Open(context.WithoutCancel(ctx), cred, protocol.Target{Protocol: c.cfg.Protocol, Resource: route.Resource})
	if err != nil {
		e.err = err
		c.forget(key, e)
		return
	}
	s := &Session{
		Session: ps, Route: route, server: c.Server, key: key, refs: 1,
		drained: make(chan struct{}), over: make(chan struct{}, 1), agents: make(map[*connection]struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.up, s.basic = newUpstream(s), basicOf(ps.Upstream())
	c.mu.Lock()
	s.agents[c] = struct{}{}
	e.s = s
	c.mu.Unlock()
	go s.watch(e)
}

// enter notes that s is served on c, and reports whether that is new.
func (s *Session) enter(c *connection) bool {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if _, known := s.agents[c]; known {
		return false
	}
	s.agents[c] = struct{}{}
	return true
}

// left forgets a connection that has ended.
func (s *Server) left(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.sessions {
		if e.s != nil {
			delete(e.s.agents, c)
			delete(e.s.agents, c.joined)
		}
	}
}

// disconnect ends the connections that the session was served on, as the end
// of a session does everywhere. Answers under way are still written.
func (s *Session) disconnect() {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for c := range s.agents {
		c.cancel()
	}
}

func (s *Server) forget(key sessionKey, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[key] == e {
		delete(s.sessions, key)
	}
}

// acquire counts one more request, unless the session ends.
func (s *Session) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving != "" || s.expired(time.Now()) {
		return false
	}
	s.refs++
	return true
}

func (s *Session) expired(now time.Time) bool {
	until := s.Identity().Expires
	return !until.IsZero() && !now.Before(until)
}

func (s *Session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	if s.refs--; s.refs == 0 && s.leaving != "" {
		close(s.drained)
	}
}

// leave keeps new requests out, and reports whether none runs. Without now,
// it does so only when none has for long enough.
func (s *Session) leave(reason string, now bool) (left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving != "" { // it does already
		return true
	}
	if !now && s.refs > 0 {
		return false
	}
	s.leaving = reason
	if s.refs == 0 {
		close(s.drained)
	}
	return true
}

// watch ends the session when it is to end.
func (s *Session) watch(e *entry) {
	idle := s.server.cfg.Limits.Idle
	for {
		select {
		case <-s.Done():
			s.leave(reasonOf(s.Cause()), true)
			defer s.disconnect()
		case <-s.over:
		case <-time.After(s.patience(idle)):
			reason := "idle"
			if s.expired(time.Now()) {
				reason = "the credential has expired"
			} else if s.patience(idle) > 0 {
				continue
			}
			if !s.leave(reason, false) {
				continue
			}
		}
		break
	}
	s.server.forget(s.key, e)
	s.cancel(s.Cause()) // what still runs
	<-s.drained
	s.closePart()
	s.up.close()
	if err := s.Close(protocol.SessionEnd{
		Reason: s.reason(), Frames: map[string]uint64{"request": s.requests.Load()}, Bytes: s.sent.Load(), Reply: s.replied.Load(),
	}); err != nil {
		s.server.log.Error("the end of a session cannot be recorded", "session", s.ID(), "error", err)
	}
}

// patience is how long to wait before asking again whether the session is idle.
func (s *Session) patience(idle time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := idle
	if s.refs == 0 {
		wait = time.Until(s.last.Add(idle))
	}
	if until := s.Identity().Expires; !until.IsZero() {
		wait = min(wait, max(time.Until(until), 0))
		if s.refs > 0 { // it ends with the last of them
			wait = max(wait, time.Second)
		}
	}
	return wait
}

func (s *Session) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

func reasonOf(cause error) string {
	if cause == nil {
		return "ended"
	}
	return cause.Error()
}

// Reached records an upstream connection that was made for the session.
func (s *Session) Reached(ctx context.Context, b evidence.SessionUpstreamBody) error {
	s.mu.Lock()
	first := !s.named
	s.named = true
	s.mu.Unlock()
	if first {
		return s.Connected(ctx, b)
	}
	return s.Note(ctx, protocol.Note{Kind: "upstream", Gateway: true, Detail: b.Local + " to " + b.Remote})
}

// assertion is the JWT that tells the upstream for whom the gateway asks.
func (s *Session) assertion() (string, error) {
	if s.server.cfg.Assert == nil || !s.Route.Identity {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.assertOK) {
		return s.assert, nil
	}
	jwt, until, err := s.server.cfg.Assert(s.Identity(), s.ID(), s.Route.Resource)
	if err != nil {
		return "", fmt.Errorf("making the identity for the upstream: %w", err)
	}
	s.assert, s.assertOK = jwt, until
	return jwt, nil
}

// Context returns a context that is done when the request's agent has gone or
// the session must end.
func (s *Session) Context(r *http.Request) (context.Context, context.CancelFunc) {
	if l, ok := r.Context().(*life); ok {
		return l.with(s), func() {}
	}
	return s.join(r.Context())
}

// join returns a context that is done with ctx, or when the session must end.
func (s *Session) join(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// malformed records a request that has no normal form as skipped, since it is
// passed on in no case, whatever policy says.
func (s *Session) malformed(w http.ResponseWriter, r *http.Request, cause error) {
	s.Skip(w, r, &evidence.Shape{
		Path: "http", Parse: evidence.ParseOpaque, Verb: evidence.VerbOpaque,
		Checks: []evidence.Check{{Action: s.server.cfg.Protocol + ":malformed"}},
	}, &Failure{Status: http.StatusBadRequest, Reason: cause.Error(), Hint: "send the request in its plain form"})
}

// Skip records a request as one that is passed on in no case, and refuses it.
func (s *Session) Skip(w http.ResponseWriter, r *http.Request, shape *evidence.Shape, f *Failure) {
	raw := []byte(r.Method + " " + r.RequestURI + " " + r.Proto)
	exchanges, err := s.Begin(r.Context(), &evidence.Command{Shape: shape, Raw: raw, Frames: 1, Bytes: len(raw), Skip: true})
	if err != nil {
		s.server.refuse(w, r, refusalOf(err, ""))
		return
	}
	f.ID = exchanges[0].Position().String()
	s.server.refuse(w, r, f)
}
