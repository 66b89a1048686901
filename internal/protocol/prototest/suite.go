package prototest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Harness is what the suite has to know of a protocol.
type Harness struct {
	// New returns the protocol. It logs to log.
	New func(t *testing.T, log *slog.Logger) protocol.Protocol
	// Upstream returns a running server, reached by TCP and without TLS.
	Upstream func(t *testing.T) protocol.Upstream
	// Login speaks as an agent, on a connection to the protocol that Login
	// closes when it fails, and shows token.
	Login func(conn net.Conn, token string) (Agent, error)
	// Denied reports whether a command is what Agent.Denied asks.
	Denied func(*evidence.Command) bool
	// Content is in what Agent.Allowed asks, as a constant. It must be sealed.
	Content string
}

// Agent asks things of a server through the protocol under test. Its methods
// give up after some seconds.
type Agent interface {
	Allowed() error  // asks for something; nil means that the answer was a success
	Denied() error   // asks for something that the Gate refuses; returns the protocol's error
	Slow() error     // asks for something that takes some seconds
	Oversize() error // sends more at once than the protocol takes; returns how it was answered
	Close() error    // takes leave
}

// grace is how long a session may take to end once it must.
const grace = 10 * time.Second

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"NothingIsForwardedBeforeBeginReturns", nothingBeforeBegin},
		{"NothingIsShownBeforeEndReturns", nothingBeforeEnd},
		{"DenialForwardsNothingAndTheSessionGoesOn", denial},
		{"RecorderDownForwardsNothing", recorderDown},
		{"UnrecordedOutcomeIsNoSuccess", unrecordedOutcome},
		{"WrongTokenReachesNoServer", wrongToken},
		{"RefusedConnectionReachesNoServer", refused},
		{"AgentVanishes", agentVanishes},
		{"UpstreamVanishes", upstreamVanishes},
		{"OversizeFramesAreRefused", oversize},
		{"KilledSessionEndsWithinASecond", killed},
		{"StoppingGatewayEndsSessions", stopping},
		{"NothingSecretIsRecordedOrLogged", nothingSecret},
		{"EveryByteIsAccountedFor", everyByte},
		{"HeldCommandGoesOnceApproved", heldAndApproved},
		{"HeldCommandIsRefusedAndTheSessionGoesOn", heldAndRefused},
		{"AgentLeavesWhileItsCommandIsHeld", heldAndLeft},
		{"SessionEndsWhileItsCommandIsHeld", heldAndKilled},
		{"AnswerPastItsBytesIsStopped", pastBytes},
		{"CommandPastItsTimeIsStopped", pastTime},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			w := newWorld(t, h)
			test.run(t, w)
			w.stop()
			w.check(t)
			noLeak(t, before)
		})
	}
}

// world is one protocol between agents and a server.
type world struct {
	h      Harness
	gate   *Gate
	relay  *relay
	log    syncBuffer
	l      net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

func newWorld(t *testing.T, h Harness) *world {
	t.Helper()
	up := h.Upstream(t)
	w := &world{h: h, relay: startRelay(t, up.Address)}
	up.Address = w.relay.l.Addr().String()
	w.gate = &Gate{Upstream: up, Decide: func(c *evidence.Command) evidence.Decision {
		if h.Denied(c) {
			return evidence.Decision{Effect: evidence.Deny, Rules: []string{"prototest"}, Reason: "not in this suite"}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}}
	var err error
	if w.l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p := h.New(t, log)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.wg.Go(func() {
		for {
			c, err := w.l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() {
				if err := p.Serve(ctx, c, w.gate); err != nil {
					log.Error("serve", "err", err)
				}
			})
		}
	})
	t.Cleanup(w.stop)
	return w
}

// stop ends everything that the world runs, and waits.
func (w *world) stop() {
	w.once.Do(func() {
		w.l.Close()
		w.cancel()
		w.wg.Wait()
		w.relay.l.Close()
		w.relay.cut()
		w.relay.wg.Wait()
	})
}

// check does what every test ends with.
func (w *world) check(t *testing.T) {
	t.Helper()
	for _, s := range w.gate.Sessions() {
		if _, err := s.Wait(grace); err != nil { // some sessions outlive their connection, for a while
			t.Errorf("session %s: %v", s.ID(), err)
		}
		for _, f := range s.Faults() {
			t.Errorf("session %s: %s", s.ID(), f)
		}
	}
	w.noSecrets(t)
}

// noSecrets looks for secrets where anybody may read.
func (w *world) noSecrets(t *testing.T) {
	t.Helper()
	places := map[string]string{"the log": w.log.String()}
	for _, s := range w.gate.Sessions() {
		places["the note of "+s.ID()] = fmt.Sprintf("%+v %+v", s.Notes(), s.Connection())
		if end, err := s.Wait(grace); err == nil {
			places["the end of "+s.ID()] = end.Reason
		}
		for _, x := range s.Exchanges() {
			places["the body of "+x.Position().String()] = fmt.Sprintf("%+v", *x.Shape)
		}
	}
	for where, text := range places {
		for _, secret := range []string{Token, w.gate.Upstream.Password, w.h.Content} {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("%s holds %q: %s", where, secret, text)
			}
		}
	}
}

func noLeak(t *testing.T, before int) {
	t.Helper()
	var n int
	for range 100 {
		if n = runtime.NumGoroutine(); n <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines leaked:\n%s", n-before, stacks[:runtime.Stack(stacks, true)])
}

// agent logs an agent in.
func (w *world) agent(t *testing.T) Agent {
	t.Helper()
	a, err := w.login(Token)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) login(token string) (Agent, error) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.l.Addr().String())
	if err != nil {
		return nil, err
	}
	return w.h.Login(conn, token)
}

// session waits for the end of the only session.
func (w *world) session(t *testing.T) (*Session, protocol.SessionEnd) {
	t.Helper()
	all := w.gate.Sessions()
	if len(all) != 1 {
		t.Fatalf("%d sessions", len(all))
	}
	end, err := all[0].Wait(grace)
	if err != nil {
		t.Fatal(err)
	}
	return all[0], end
}

func nothingBeforeBegin(t *testing.T, w *world) {
	var before, early int64
	w.gate.Begin = func([]*evidence.Command) error {
		before = w.relay.forwarded.Load()
		time.Sleep(50 * time.Millisecond)
		early += w.relay.forwarded.Load() - before
		return nil
	}
	a := w.agent(t)
	defer a.Close()
	for range 3 {
		if err := a.Allowed(); err != nil {
			t.Error(err)
		}
		if w.relay.forwarded.Load() == before {
			t.Error("nothing was forwarded at all")
		}
	}
	if early != 0 {
		t.Errorf("%d bytes were forwarded while Begin ran", early)
	}
}

func nothingBeforeEnd(t *testing.T, w *world) {
	var ended time.Time
	w.gate.End = func(*Exchange, evidence.Outcome) error {
		time.Sleep(50 * time.Millisecond)
		ended = time.Now()
		return nil
	}
	a := w.agent(t)
	defer a.Close()
	for range 3 {
		if err := a.Allowed(); err != nil {
			t.Error(err)
		}
		if seen := time.Now(); ended.IsZero() || seen.Before(ended) {
			t.Error("the agent saw the end before it was recorded")
		}
		ended = time.Time{}
	}
}

func denial(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	if err := a.Allowed(); err != nil {
		t.Error(err)
	}
	before := w.relay.forwarded.Load()
	if err := a.Denied(); err == nil {
		t.Error("the agent saw no error")
	}
	if n := w.relay.forwarded.Load() - before; n != 0 {
		t.Errorf("%d bytes of a denied command were forwarded", n)
	}
	if err := a.Allowed(); err != nil {
		t.Errorf("after the denial: %v", err)
	}
}

var errDisk = &protocol.Refusal{Kind: protocol.ErrUnrecordable, Reason: "the disk is full", Hint: "wait"}

func recorderDown(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	before := w.relay.forwarded.Load()
	w.gate.Begin = func([]*evidence.Command) error {
		w.gate.Sessions()[0].Kill(errDisk) // as a session does
		return errDisk
	}
	if err := a.Allowed(); err == nil {
		t.Error("the agent saw no error")
	}
	s, _ := w.session(t)
	if n := w.relay.forwarded.Load() - before; n != 0 {
		t.Errorf("%d bytes were forwarded without a record", n)
	}
	if n := len(s.Exchanges()); n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

func unrecordedOutcome(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	w.gate.End = func(*Exchange, evidence.Outcome) error {
		w.gate.Sessions()[0].Kill(errDisk) // as a session does
		return errDisk
	}
	if err := a.Allowed(); err == nil {
		t.Error("the agent was told of a success that is not on record")
	}
	s, _ := w.session(t)
	for _, x := range s.Exchanges() {
		if o := x.Outcome(); o.Class != evidence.InDoubt {
			t.Errorf("%s is %s", x.Position(), o.Class)
		}
	}
}

func wrongToken(t *testing.T, w *world) {
	if a, err := w.login("no token at all"); err == nil {
		a.Close()
		t.Error("the agent was let in")
	}
	if n := w.relay.accepted.Load(); n != 0 {
		t.Errorf("%d connections to the server", n)
	}
}

func refused(t *testing.T, w *world) {
	w.gate.Refuse = func(protocol.Credential, protocol.Target) error {
		return &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "no grant", Hint: "ask for one"}
	}
	if a, err := w.login(Token); err == nil {
		a.Close()
		t.Error("the agent was let in")
	}
	if n := w.relay.accepted.Load(); n != 0 {
		t.Errorf("%d connections to the server", n)
	}
}

func agentVanishes(t *testing.T, w *world) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.h.Login(conn, Token)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Allowed(); err != nil {
		t.Error(err)
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Error(err)
	}
	conn.Close()
	s, end := w.session(t)
	if end.Reason == "" {
		t.Error("the session ended without a reason")
	}
	for _, x := range s.Exchanges() {
		if x.Outcome().Class != evidence.OK {
			t.Errorf("%s is %s", x.Position(), x.Outcome().Class)
		}
	}
}

func upstreamVanishes(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	w.gate.Begin = func([]*evidence.Command) error {
		w.relay.vanish.Store(true)
		return nil
	}
	if err := a.Allowed(); err == nil {
		t.Error("the agent saw a success")
	}
	s, _ := w.session(t)
	for _, x := range s.Exchanges() {
		if x.Outcome().Class != evidence.InDoubt {
			t.Errorf("%s is %s", x.Position(), x.Outcome().Class)
		}
	}
}

func oversize(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	before := w.relay.forwarded.Load()
	if err := a.Oversize(); err == nil {
		t.Error("it was let through")
	}
	if n := w.relay.forwarded.Load() - before; n != 0 {
		t.Errorf("%d bytes were forwarded", n)
	}
}

func killed(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	start := time.Now()
	w.gate.Sessions()[0].Kill(errors.New("the agent was retired"))
	w.session(t)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if err := a.Allowed(); err == nil {
		t.Error("a killed session went on")
	}
}

func stopping(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	if err := a.Allowed(); err != nil {
		t.Error(err)
	}
	w.cancel()
	w.session(t)
}

func nothingSecret(t *testing.T, w *world) {
	a := w.agent(t)
	if err := a.Allowed(); err != nil {
		t.Error(err)
	}
	if err := a.Denied(); err == nil {
		t.Error("no denial")
	}
	a.Close()
	s, _ := w.session(t)
	sealed := false
	for _, x := range s.Exchanges() {
		sealed = sealed || bytes.Contains(x.Raw, []byte(w.h.Content))
		for _, p := range x.Params {
			sealed = sealed || bytes.Contains(p, []byte(w.h.Content))
		}
	}
	if !sealed {
		t.Errorf("no sealed part holds %q", w.h.Content)
	}
}

func everyByte(t *testing.T, w *world) {
	a := w.agent(t)
	s := w.gate.Sessions()[0]
	// The login is pgconn's or its like, and not forwarded from anybody.
	before := w.relay.forwarded.Load()
	var setUp uint64
	for _, n := range s.Notes() {
		setUp += uint64(n.Bytes)
	}
	for range 5 {
		if err := a.Allowed(); err != nil {
			t.Error(err)
		}
		if err := a.Denied(); err == nil {
			t.Error("no denial")
		}
	}
	a.Close()
	_, end := w.session(t)
	want := end.Bytes - setUp
	for range 100 { // the last bytes may still be on their way
		if uint64(w.relay.forwarded.Load()-before) >= want {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := uint64(w.relay.forwarded.Load() - before); got != want {
		t.Errorf("the server received %d bytes, the session says %d", got, want)
	}
}

// held is a command that waits for people.
type held struct {
	begun  chan *evidence.Command
	answer chan evidence.Decision
}

// hold lets what agents ask for from now on wait, and has one of them ask.
func (w *world) hold(t *testing.T, a Agent) (h *held, done chan error) {
	t.Helper()
	h = &held{make(chan *evidence.Command, 1), make(chan evidence.Decision)}
	w.gate.Hold = func(c *evidence.Command) <-chan evidence.Decision {
		if evidence.Unbound(c.Path) || c.Path == PathServer || c.Verb == evidence.VerbSession {
			return nil
		}
		h.begun <- c
		return h.answer
	}
	done = make(chan error, 1)
	go func() { done <- a.Allowed() }()
	select {
	case c := <-h.begun:
		if c.Exact == nil && c.Raw == nil {
			t.Error("nobody can tell what is to be approved")
		}
	case err := <-done:
		t.Fatalf("nothing was held: %v", err)
	case <-time.After(grace):
		t.Fatal("nothing was held in time")
	}
	return h, done
}

// nothingGoes checks that nothing is forwarded, or answered, for a while.
func (w *world) nothingGoes(t *testing.T, done chan error) {
	t.Helper()
	before := w.relay.forwarded.Load()
	select {
	case err := <-done:
		t.Errorf("the agent was answered while its command was held: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if n := w.relay.forwarded.Load() - before; n != 0 {
		t.Errorf("%d bytes of a held command were forwarded", n)
	}
}

func heldAndApproved(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	h, done := w.hold(t, a)
	w.nothingGoes(t, done)
	h.answer <- evidence.Decision{Effect: evidence.Allow, Approval: Request}
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.gate.Hold = nil
	if err := a.Allowed(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func heldAndRefused(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	h, done := w.hold(t, a)
	w.nothingGoes(t, done)
	h.answer <- evidence.Decision{Effect: evidence.Deny, Reason: "somebody has refused it", Approval: Request}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "somebody has refused it") {
		t.Errorf("the agent saw: %v", err)
	}
	w.gate.Hold = nil
	if err := a.Allowed(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func heldAndLeft(t *testing.T, w *world) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.h.Login(conn, Token)
	if err != nil {
		t.Fatal(err)
	}
	_, done := w.hold(t, a)
	before := w.relay.forwarded.Load()
	conn.Close()
	s, _ := w.session(t)
	if err := <-done; err == nil {
		t.Error("an agent that has gone saw a success")
	}
	all := s.Exchanges() // the held one is the last, or the session ended before it was recorded
	for _, x := range all[max(0, len(all)-1):] {
		if x.Wait != nil && x.Decision().Effect == evidence.Allow {
			t.Errorf("%s was let through for nobody", x.Position())
		}
	}
	// A goodbye may have been passed on, and no more.
	if n := w.relay.forwarded.Load() - before; n > 16 {
		t.Errorf("%d bytes were forwarded for nobody", n)
	}
}

func heldAndKilled(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	_, done := w.hold(t, a)
	start := time.Now()
	w.gate.Sessions()[0].Kill(errors.New("the agent was retired"))
	w.session(t)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if err := <-done; err == nil {
		t.Error("the agent saw a success")
	}
}

// oblige sets a limit to what agents ask for from now on, and returns the
// outcome of what one did.
func (w *world) oblige(t *testing.T, o evidence.Obligations, ask func() error) *evidence.Outcome {
	t.Helper()
	free := w.gate.Decide
	var bound *Exchange
	w.gate.Decide = func(c *evidence.Command) evidence.Decision {
		d := free(c)
		if !evidence.Unbound(c.Path) && c.Path != PathServer && c.Verb != evidence.VerbSession {
			d.Obligations = &o
		}
		return d
	}
	if err := ask(); err == nil {
		t.Error("the agent saw a success")
	}
	w.gate.Decide = free
	for _, x := range w.gate.Sessions()[0].Exchanges() {
		if x.Decision().Obligations != nil {
			bound = x
		}
	}
	if bound == nil || bound.Outcome() == nil {
		t.Fatal("what exceeded a limit has no outcome")
	}
	return bound.Outcome()
}

func pastBytes(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	o := w.oblige(t, evidence.Obligations{Bytes: 1}, a.Allowed)
	if o.Code != protocol.ExcessBytes {
		t.Errorf("its outcome is %+v", o)
	}
	if err := a.Allowed(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func pastTime(t *testing.T, w *world) {
	a := w.agent(t)
	defer a.Close()
	start := time.Now()
	o := w.oblige(t, evidence.Obligations{Millis: 200}, a.Slow)
	if o.Code != protocol.ExcessTime || o.Class == evidence.OK {
		t.Errorf("its outcome is %+v", o)
	}
	if took := time.Since(start); took < 200*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := a.Allowed(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// syncBuffer is a buffer that many may write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
