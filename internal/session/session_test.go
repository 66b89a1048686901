package session_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// book is a recorder that keeps drafts in memory, folds the registry, and
// fails when it is told to.
type book struct {
	mu       sync.Mutex
	registry *decision.Registry
	version  uint64
	records  []evidence.Draft
	fail     error
	// before runs once, just before the next record is placed.
	before func()
}

func (b *book) State() (*decision.Registry, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.registry, b.version
}
func (b *book) Own() session.Chain               { return &chain{b: b} }
func (b *book) NewChain() (session.Chain, error) { return &chain{b: b, own: true}, nil }
func (b *book) types() (t []string) {
	return b.list(func(d evidence.Draft) string { return string(d.Head.Type) })
}
func (b *book) outcomes() (t []string) {
	return b.list(func(d evidence.Draft) string { return string(d.Head.Outcome) })
}
func (b *book) list(f func(evidence.Draft) string) (t []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.records {
		t = append(t, f(d))
	}
	return t
}

// control applies a change of rights.
func (b *book) control(t *testing.T, typ evidence.Type, body any) evidence.Position {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	d := evidence.Draft{Head: evidence.Head{Type: typ, Pos: b.next(), Time: start.UnixMicro()}, Body: evidence.EncodeBody(body)}
	r, err := b.registry.Apply(d.Head, d.Body)
	if err != nil {
		t.Fatalf("%s: %v", typ, err)
	}
	b.registry, b.version = r, b.version+1
	b.records = append(b.records, d)
	return d.Head.Pos
}

func (b *book) next() evidence.Position {
	return evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(len(b.records))}
}

type chain struct {
	b       *book
	own     bool
	session evidence.Position
}

func (c *chain) Key() uint64                 { return 7 }
func (c *chain) Digester() evidence.Digester { return evidence.NewDigester(&evidence.Secret{1}) }
func (c *chain) Record(_ context.Context, version uint64, _ evidence.Durability, drafts ...*evidence.Draft) (bool, error) {
	c.b.mu.Lock()
	before := c.b.before
	c.b.before = nil
	c.b.mu.Unlock()
	if before != nil {
		before()
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.fail != nil {
		return false, c.b.fail
	}
	if version != 0 && version != c.b.version {
		return true, nil
	}
	registry, placed := c.b.registry, len(c.b.records)
	undo := func() { c.b.records = c.b.records[:placed] }
	for i, d := range drafts {
		d.Head.Pos = c.b.next()
		if c.own && d.Head.Type == evidence.SessionStart {
			c.session = d.Head.Pos
		}
		d.Head.Session = c.session
		if d.Head.Type == evidence.ApprovalUse {
			d.Head.Of = drafts[i-1].Head.Pos
		}
		if version != 0 && c.b.contradicts(d) {
			undo()
			return true, nil
		}
		if d.Head.Type.IsControl() {
			next, err := registry.Apply(d.Head, d.Body)
			if err != nil {
				undo()
				return false, err
			}
			registry = next
		}
		c.b.records = append(c.b.records, *d)
	}
	if registry != c.b.registry {
		c.b.registry, c.b.version = registry, c.b.version+1
	}
	return false, nil
}

// contradicts reports whether the records before a draft say otherwise of its
// limits than it does itself.
func (b *book) contradicts(d *evidence.Draft) bool {
	if d.Head.Type != evidence.CommandIntent || d.Head.Outcome == evidence.Skipped {
		return false
	}
	commands, written := b.counted(d.Head.Agent, d.Head.Time)
	over := d.Commands > 0 && commands >= d.Commands || d.Writes > 0 && d.Head.Verb == evidence.VerbWrite && written >= d.Writes
	return over != d.OverLimit
}

func (b *book) Counted(agent string, t int64) (commands, written int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counted(agent, t)
}

// counted counts as docs/spec/record.md says it.
func (b *book) counted(agent string, t int64) (commands, written int64) {
	hour := func(t int64) time.Time { return time.UnixMicro(t).UTC().Truncate(time.Hour) }
	for _, d := range b.records {
		h, body := d.Head, evidence.IntentBody{}
		if h.Type != evidence.CommandIntent || h.Agent != agent || hour(h.Time) != hour(t) || h.Effect != evidence.Allow || h.Outcome == evidence.Skipped {
			continue
		}
		if json.Unmarshal(d.Body, &body) != nil || evidence.Unbound(body.Path) {
			continue
		}
		commands++
		if h.Verb == evidence.VerbWrite {
			written++
		}
	}
	return commands, written
}

// door authenticates whoever knows the password.
type door struct{}

type failure string

func (f failure) Error() string { return "claimed with " + string(f) }
func (f failure) Code() string  { return "bad_signature" }

func (door) Authenticate(c protocol.Credential, _ *decision.Registry, _ time.Time) (session.Principal, error) {
	if c.Method == "certificate" {
		return session.Principal{}, protocol.ErrUnknownCertificate
	}
	if c.Secret != "token" {
		return session.Principal{}, failure(c.Secret)
	}
	return session.Principal{Agent: c.User, Credential: "tok_1", Type: "self"}, nil
}

type upstreams struct{}

func (upstreams) Upstream(name string) (protocol.Upstream, error) {
	if name != "orders" {
		return protocol.Upstream{}, errors.New("no such resource")
	}
	return protocol.Upstream{Address: "127.0.0.1:5432", User: "app", Password: "hunter2"}, nil
}

var start = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

const rules = `
@id("connect") permit (principal in Role::"reader", action in Action::"connect", resource);
@id("read")    permit (principal in Role::"reader", action in Action::"read", resource);
@id("no-pg")   forbid (principal, action, resource) when { resource == Object::"orders/secret.keys" };
@id("delete") @approval("dba") permit (principal in Role::"reader", action == Action::"postgres:delete", resource);
@id("insert") @max_writes_per_hour("2") permit (principal in Role::"reader", action == Action::"postgres:insert", resource);
@id("count") @max_commands_per_hour("4") permit (principal in Role::"reader", action == Action::"postgres:count", resource);
@id("watch") @alert("watched") permit (principal in Role::"reader", action == Action::"postgres:update", resource);
@id("trap") @alert("trapped") forbid (principal, action == Action::"postgres:truncate", resource);
`

type fixture struct {
	*book
	gate  *session.Gate
	grant evidence.Position
	now   time.Time
	began time.Time // when it isn't zero, time goes on from start

	unready atomic.Pointer[error]
}

func newFixture(t *testing.T, limits session.Limits) *fixture {
	t.Helper()
	f := &fixture{book: &book{registry: decision.New(), version: 1}, now: start}
	by := evidence.By{Person: evidence.Person{ID: "alice@example.com", Name: "Alice"}, Via: "test"}
	f.control(t, evidence.ConfigChange, evidence.ConfigBody{Digest: "c1", Text: "x", By: by,
		Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres", Durability: "process"}},
		People:    []evidence.Member{{ID: "alice@example.com"}, {ID: "bob@example.com", Groups: []string{"dba"}}, {ID: "carol@example.com", Groups: []string{"dba"}}}})
	f.control(t, evidence.PolicyChange, policyBody(t, by))
	f.control(t, evidence.AgentCreate, evidence.AgentBody{Agent: "bot", Purpose: "test", Owner: by.Person, By: by})
	f.grant = f.control(t, evidence.GrantCreate, evidence.GrantBody{Agent: "bot", Role: "reader", Resource: "orders",
		Expires: start.Add(time.Hour).UnixMicro(), By: by})
	f.gate = session.NewGate(session.Config{
		Recorder: f.book, Authenticator: door{}, Upstreams: upstreams{}, Limits: limits,
		Now: func() time.Time {
			if !f.began.IsZero() {
				return start.Add(time.Since(f.began))
			}
			return f.now
		},
		Ready: func() error {
			if err := f.unready.Load(); err != nil {
				return *err
			}
			return nil
		},
	})
	return f
}

func policyBody(t *testing.T, by evidence.By) evidence.PolicyBody {
	t.Helper()
	b := evidence.PolicyBody{
		Files: []evidence.File{{Name: "rules.cedar", Text: rules}},
		Actions: map[string][]string{
			"postgres:connect": {"connect"}, "postgres:select": {"read"}, "postgres:drop": {"admin"},
			"postgres:delete": {"write"}, "postgres:insert": {"write"}, "postgres:update": {"write"}, "postgres:truncate": {"write"},
			"postgres:count": {}, "write": {},
			"connect": {}, "read": {}, "admin": {},
		},
		By: by,
	}
	b.Digest = decision.Digest(b.Files, b.Actions)
	return b
}

func (f *fixture) open(t *testing.T) protocol.Session {
	t.Helper()
	s, err := f.tryOpen("bot", "token", "orders")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *fixture) tryOpen(user, secret, resource string) (protocol.Session, error) {
	return f.gate.Open(context.Background(), protocol.Credential{
		User: user, Secret: secret, Method: "token", Listener: "pg",
		Client: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711},
	}, protocol.Target{Protocol: "postgres", Resource: resource, Database: resource})
}

func TestWhoFailsToProveItselfWaitsForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, session.Limits{})
		f.gate.FailurePause = time.Minute
		began, answered := time.Now(), make(chan error)
		go func() {
			_, err := f.tryOpen("bot", "guess", "orders")
			answered <- err
		}()
		synctest.Wait()
		if out := f.outcomes(); out[len(out)-1] != string(evidence.Denied) {
			t.Errorf("while the peer waits, the attempt is on record as %q", out[len(out)-1])
		}
		if err := <-answered; !errors.Is(err, protocol.ErrAuthentication) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if _, err := f.tryOpen("bot", "token", "orders"); err != nil || time.Since(began) != time.Minute {
			t.Errorf("an agent that proves itself waited: %s, %v", time.Since(began), err)
		}
	})
}

func selectShape(object string) *evidence.Shape {
	return &evidence.Shape{Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbRead, Text: "SELECT ?",
		Checks: []evidence.Check{{Action: "postgres:select", Object: object}}, Facts: evidence.Facts{"statements": int64(1)}}
}

func dropShape() *evidence.Shape {
	return &evidence.Shape{Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbAdmin, Text: "DROP TABLE public.t",
		Checks: []evidence.Check{{Action: "postgres:drop", Object: "public.t"}}}
}

func begin(t *testing.T, s protocol.Session, cmds ...*evidence.Command) []protocol.Exchange {
	t.Helper()
	x, err := s.Begin(context.Background(), cmds...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestACommandIsOnRecordBeforeItMayPass(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t"), Raw: []byte("select 1"), Frames: 1, Bytes: 14})
	if x[0].Decision().Effect != evidence.Allow || x[0].Skipped() {
		t.Fatalf("decision %+v", x[0].Decision())
	}
	intent := f.records[len(f.records)-1]
	if intent.Head.Type != evidence.CommandIntent || intent.Head.Effect != evidence.Allow || intent.Head.Bytes != 14 || intent.Head.Session.String() != s.ID() {
		t.Fatalf("the last record is %+v", intent.Head)
	}
	var body evidence.IntentBody
	if err := evidence.DecodeBody(intent.Body, &body); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(body.Grants, body.Rules) != fmt.Sprintf("[%s] [read]", f.grant) {
		t.Errorf("grants and rules: %v %v", body.Grants, body.Rules)
	}
	if err := x[0].End(context.Background(), evidence.Outcome{Class: evidence.OK, Rows: 1, Reply: 60}); err != nil {
		t.Fatal(err)
	}
	result := f.records[len(f.records)-1].Head
	if result.Type != evidence.CommandResult || result.Of != intent.Head.Pos || result.Outcome != evidence.OK || result.Rows != 1 {
		t.Errorf("the result is %+v", result)
	}
	if err := x[0].End(context.Background(), evidence.Outcome{Class: evidence.OK}); err == nil {
		t.Error("a command ended twice")
	}
}

func TestWhatMayBeShownIsAskedWithoutARecord(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	before := len(f.records)
	ask := func(action, object string) bool { return s.May(evidence.Check{Action: action, Object: object}) }
	if !ask("postgres:select", "public.t") || ask("postgres:select", "secret.keys") || ask("postgres:drop", "public.t") {
		t.Error("the answers are not those of policy")
	}
	if s.May(evidence.Check{Action: "postgres:select", Object: "public.t"}, evidence.Check{Action: "postgres:drop", Object: "public.t"}) {
		t.Error("one of the checks is refused")
	}
	if len(f.records) != before {
		t.Errorf("%d records", len(f.records)-before)
	}
	f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), By: evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}})
	if ask("postgres:select", "public.t") {
		t.Error("the grant is gone")
	}
	if err := s.Close(protocol.SessionEnd{Reason: "test"}); err != nil || ask("postgres:select", "public.t") {
		t.Errorf("after the session's end: %v", err)
	}
}

func TestARefusedCommandEndsWithItsIntentAndTakesTheRestAlong(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s,
		&evidence.Command{Shape: selectShape("public.t")},
		&evidence.Command{Shape: dropShape()},
		&evidence.Command{Shape: selectShape("public.t")})
	if got := fmt.Sprintf("%s %s %t", x[0].Decision().Effect, x[1].Decision().Effect, x[2].Skipped()); got != "allow deny true" {
		t.Errorf("effects: %s", got)
	}
	out := f.outcomes()
	if got := fmt.Sprint(out[len(out)-3:]); got != "[ denied skipped]" {
		t.Errorf("outcomes %s", got)
	}
	if !strings.Contains(x[1].Decision().Reason, "postgres:drop") {
		t.Errorf("reason %q does not say what was refused", x[1].Decision().Reason)
	}
}

func TestARevocationCountsForTheNextCommand(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	shape := selectShape("public.t")
	begin(t, s, &evidence.Command{Shape: shape})
	// The revocation lands between the decision and its record.
	f.before = func() {
		f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), Reason: "test", By: evidence.By{Via: "test"}})
	}
	x := begin(t, s, &evidence.Command{Shape: shape})
	if x[0].Decision().Effect != evidence.Deny {
		t.Errorf("a command recorded after the revocation was decided %s", x[0].Decision().Effect)
	}
	f.gate.Sweep()
	select {
	case <-s.Done():
	default:
		t.Error("the session outlived the right to connect")
	}
	if _, err := s.Begin(context.Background(), &evidence.Command{Shape: shape}); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("Begin on an ended session: %v", err)
	}
}

func TestARevokedCredentialEndsItsSessions(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	shape := selectShape("public.t")
	begin(t, s, &evidence.Command{Shape: shape})
	// The revocation lands between the decision and its record.
	f.before = func() {
		f.control(t, evidence.CredentialRevoke, evidence.RevokeBody{ID: "tok_1", Reason: "test", By: evidence.By{Via: "test"}})
	}
	n := len(f.records)
	if _, err := s.Begin(t.Context(), &evidence.Command{Shape: shape}); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("a command after its credential was revoked: %v", err)
	}
	if len(f.records) != n+1 || s.Cause() == nil {
		t.Errorf("%d records since, cause %v", len(f.records)-n, s.Cause())
	}
}

func TestAnExpiredGrantEndsTheSession(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	shape := selectShape("public.t")
	f.now = start.Add(59 * time.Minute)
	if x := begin(t, s, &evidence.Command{Shape: shape}); x[0].Decision().Effect != evidence.Allow {
		t.Fatal("refused before the grant expired")
	}
	f.now = start.Add(time.Hour)
	if x := begin(t, s, &evidence.Command{Shape: shape}); x[0].Decision().Effect != evidence.Deny {
		t.Error("allowed by an expired grant")
	}
	f.gate.Sweep()
	if s.Cause() == nil {
		t.Error("the session outlived its grant")
	}
}

func TestAlertsOfARuleAreOneAMinute(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
	raise := func(rule string) {
		t.Helper()
		if err := s.Alert(t.Context(), evidence.AlertBody{Rule: rule, Severity: "low", Trigger: x.Position(), Text: "look"}); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		raise("a")
	}
	raise("b")
	f.now = f.now.Add(time.Minute)
	raise("a")
	var got []string
	for _, d := range f.records {
		if d.Head.Type != evidence.Alert {
			continue
		}
		var b evidence.AlertBody
		if err := json.Unmarshal(d.Body, &b); err != nil {
			t.Fatal(err)
		}
		if b.Trigger != x.Position() || d.Head.Agent != "bot" || d.Head.Resource != "orders" {
			t.Errorf("an alert of %+v about %s", d.Head, b.Trigger)
		}
		got = append(got, b.Rule+": "+b.Text)
	}
	want := []string{"a: look", "b: look", "a: look (and 4 more of the session's commands since the last such alert)"}
	if !slices.Equal(got, want) {
		t.Errorf("alerts %q", got)
	}
}

func TestNoRecordNoAccess(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	f.fail = errors.New("no space left on device")
	_, err := s.Begin(context.Background(), &evidence.Command{Shape: selectShape("public.t")})
	if !errors.Is(err, protocol.ErrUnrecordable) {
		t.Errorf("Begin without a record: %v", err)
	}
	if s.Cause() == nil {
		t.Error("the session goes on without records")
	}
	if _, err := f.tryOpen("bot", "token", "orders"); !errors.Is(err, protocol.ErrUnrecordable) {
		t.Errorf("Open without a record: %v", err)
	}
}

func TestAFailedLoginIsEvidenceAndSaysNothing(t *testing.T) {
	f := newFixture(t, session.Limits{})
	n := len(f.records)
	_, err := f.tryOpen("bot", "s3cret-password", "orders")
	var r *protocol.Refusal
	if !errors.As(err, &r) || !errors.Is(err, protocol.ErrAuthentication) || strings.Contains(r.Reason+r.Hint, "s3cret") {
		t.Fatalf("refusal %v", err)
	}
	got := f.records[n:]
	if len(got) != 1 || got[0].Head.Type != evidence.Authn || got[0].Head.Code != "bad_signature" || got[0].Head.Agent != "bot" {
		t.Fatalf("records %+v", got)
	}
	if strings.Contains(string(got[0].Body), "s3cret") {
		t.Error("a secret lies in a body")
	}
}

func TestACertificateOfNobodysIsNoLogin(t *testing.T) {
	f := newFixture(t, session.Limits{})
	n := len(f.records)
	_, err := f.gate.Open(t.Context(), protocol.Credential{User: "bot", Method: "certificate"}, protocol.Target{Protocol: "postgres", Resource: "orders"})
	if !errors.Is(err, protocol.ErrUnknownCertificate) || len(f.records) != n || f.gate.OpenSessions() != 0 {
		t.Errorf("%v, %d records, %d sessions", err, len(f.records)-n, f.gate.OpenSessions())
	}
}

func TestARefusedConnectionIsEvidence(t *testing.T) {
	for name, c := range map[string]struct{ resource string }{"unknown resource": {"nowhere\x1b[31m"}, "no grant": {"orders"}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, session.Limits{})
			f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), Reason: "test", By: evidence.By{Via: "test"}})
			_, err := f.tryOpen("bot", "token", c.resource)
			if !errors.Is(err, protocol.ErrDenied) {
				t.Fatalf("Open: %v", err)
			}
			last := f.records[len(f.records)-1]
			if last.Head.Type != evidence.SessionStart || last.Head.Outcome != evidence.Denied || !last.Head.Session.IsZero() {
				t.Errorf("the record is %+v", last.Head)
			}
			if strings.Contains(string(last.Body), "nowhere") {
				t.Error("what the peer asked for lies in the clear")
			}
		})
	}
}

func TestLimitsAreRefusalsOnRecord(t *testing.T) {
	f := newFixture(t, session.Limits{Sessions: 10, SessionsPerAgent: 2})
	a := f.open(t)
	f.open(t)
	if _, err := f.tryOpen("bot", "token", "orders"); !errors.Is(err, protocol.ErrTooMany) {
		t.Fatalf("the third session: %v", err)
	}
	if last := f.records[len(f.records)-1].Head; last.Type != evidence.SessionStart || last.Outcome != evidence.Denied {
		t.Errorf("the record is %+v", last)
	}
	if err := a.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}
	f.open(t)
}

func TestClosingLeavesNothingOpen(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	begin(t, s, &evidence.Command{Shape: selectShape("public.t")})
	for range 2 { // the second does nothing
		if err := s.Close(protocol.SessionEnd{Reason: "upstream closed", Bytes: 10, Frames: map[string]uint64{"Q": 1}}); err != nil {
			t.Fatal(err)
		}
	}
	types, outs := f.types(), f.outcomes()
	if got := fmt.Sprint(types[len(types)-2:], outs[len(outs)-2:]); got != "[command.result session.end] [in_doubt ]" {
		t.Errorf("the last records are %s", got)
	}
	if len(f.gate.Sessions()) != 0 {
		t.Error("a closed session is still live")
	}
}

func TestStreamsAreCountedAndDigestedUnderAKey(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
	for _, part := range []string{"row 1\n", "row 2\n"} {
		if err := x.Observe(evidence.ToUpstream, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.End(context.Background(), evidence.Outcome{Class: evidence.OK}); err != nil {
		t.Fatal(err)
	}
	last := f.records[len(f.records)-1]
	var body evidence.ResultBody
	if err := json.Unmarshal(last.Body, &body); err != nil {
		t.Fatal(err)
	}
	if last.Head.Bytes != 12 || body.Streamed != 12 || len(body.Digest) != 43 {
		t.Errorf("head bytes %d, body %+v", last.Head.Bytes, body)
	}
}

// Digests are used again by later commands, and nothing of one shows in another.
func TestEachCommandHasItsOwnDigests(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	digest := func(content string) string {
		h := evidence.NewDigester(&evidence.Secret{1}).New()
		h.Write([]byte(content)) //nolint:errcheck // a hash takes everything
		return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	for i := range 4 {
		x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
		up, down := fmt.Sprint("asked ", i), fmt.Sprint("answered ", i)
		for dir, content := range map[evidence.Direction]string{evidence.ToUpstream: up, evidence.ToAgent: down} {
			if err := x.Observe(dir, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.End(context.Background(), evidence.Outcome{Class: evidence.OK}); err != nil {
			t.Fatal(err)
		}
		if err := x.Observe(evidence.ToUpstream, []byte("too late")); err != nil {
			t.Fatal(err)
		}
		var body evidence.ResultBody
		if err := json.Unmarshal(f.records[len(f.records)-1].Body, &body); err != nil {
			t.Fatal(err)
		}
		if want := digest(up) + digest(down); body.Digest != want {
			t.Errorf("command %d: digest %s, want %s", i, body.Digest, want)
		}
	}
}

func TestSessionsEndWhenEvidenceCannotBeSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, session.Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		go f.gate.Run(ctx)
		s := f.open(t)
		time.Sleep(time.Second)
		if s.Cause() != nil {
			t.Fatalf("ended for no reason: %v", s.Cause())
		}
		full := errors.New("the archive is full")
		f.unready.Store(&full)
		time.Sleep(time.Second)
		if !errors.Is(s.Cause(), protocol.ErrUnrecordable) {
			t.Errorf("cause %v", s.Cause())
		}
		_, err := f.tryOpen("bot", "token", "orders")
		if !errors.Is(err, protocol.ErrUnrecordable) {
			t.Errorf("a new session: %v", err)
		}
		for _, told := range []error{s.Cause(), err} { // agents are told no more than they need
			var r *protocol.Refusal
			if !errors.As(told, &r) || strings.Contains(r.Reason+r.Hint, full.Error()) || !strings.Contains(r.Hint, "log status") {
				t.Errorf("an agent is told %+v", told)
			}
		}
		cancel()
		synctest.Wait()
	})
}

func TestStoppingEndsSessionsAndOpensNone(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	cause := errors.New("the gateway is shutting down")
	f.gate.Stop(cause, 0)
	if !errors.Is(s.Cause(), cause) {
		t.Errorf("cause %v", s.Cause())
	}
	if _, err := f.tryOpen("bot", "token", "orders"); err == nil {
		t.Error("a session opened while stopping")
	}
}

func TestWhatRunsMayFinishWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, session.Limits{})
		s := f.open(t)
		x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
		cause := errors.New("the gateway is shutting down")
		stopped := make(chan struct{})
		go func() { f.gate.Stop(cause, 10*time.Second); close(stopped) }()
		time.Sleep(time.Second)
		if s.Cause() != nil {
			t.Fatal("a session ended under its command")
		}
		if _, err := s.Begin(t.Context(), &evidence.Command{Shape: selectShape("public.t")}); !errors.Is(err, protocol.ErrUnavailable) {
			t.Errorf("a new command: %v", err)
		}
		if err := x.End(t.Context(), evidence.Outcome{Class: evidence.OK}); err != nil {
			t.Error(err)
		}
		<-s.Done()
		if err := s.Close(protocol.SessionEnd{Reason: "stopped"}); err != nil {
			t.Error(err)
		}
		<-stopped
		out := f.outcomes()
		if got := out[len(out)-2]; got != "ok" {
			t.Errorf("the command ended %q", got)
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	f := newFixture(&testing.T{}, session.Limits{})
	s, err := f.tryOpen("bot", "token", "orders")
	if err != nil {
		b.Fatal(err)
	}
	cmd := &evidence.Command{Shape: selectShape("public.t"), Params: [][]byte{[]byte("12345")}, Frames: 5, Bytes: 60}
	b.ReportAllocs()
	for b.Loop() {
		x, err := s.Begin(context.Background(), cmd)
		if err != nil {
			b.Fatal(err)
		}
		if err := x[0].End(context.Background(), evidence.Outcome{Class: evidence.OK}); err != nil {
			b.Fatal(err)
		}
		f.records = f.records[:0]
	}
}

// A decision is one of its own time: what was decided before the clock was set
// back isn't what a verifier finds for the time after.
func TestADecisionIsNotKeptForATimeBeforeIt(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	shape := selectShape("public.t")
	effect := func(now time.Time) evidence.Effect {
		f.now = now
		return begin(t, s, &evidence.Command{Shape: shape})[0].Decision().Effect
	}
	for _, at := range []struct {
		now  time.Time
		want evidence.Effect
	}{
		{start, evidence.Allow},
		{start.Add(2 * time.Hour), evidence.Deny}, // the grant has expired
		{start.Add(time.Minute), evidence.Allow},
		{start.Add(2 * time.Hour), evidence.Deny},
	} {
		if got := effect(at.now); got != at.want {
			t.Errorf("at %s: %s, want %s", at.now.Format(time.TimeOnly), got, at.want)
		}
	}
}

func TestNothingTookLessThanNoTime(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})
	f.now = start.Add(-time.Hour)
	if err := x[0].End(context.Background(), evidence.Outcome{Class: evidence.OK}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.records[len(f.records)-2:] {
		if r.Head.Micros != 0 {
			t.Errorf("%s took %d microseconds while the clock was set back", r.Head.Type, r.Head.Micros)
		}
	}
}

// Content that must be read again later is on record before it goes on, in
// order, and before its command's end.
func TestContentIsKeptBeforeItGoesOn(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
	typed := []evidence.Piece{{Stream: "stdin", Data: []byte("ls\n")}, {Stream: "resize", Data: []byte("{}")}}
	if err := x.Keep(context.Background(), evidence.ToUpstream, typed...); err != nil {
		t.Fatal(err)
	}
	r := f.records[len(f.records)-1]
	var body evidence.ContentBody
	if err := evidence.DecodeBody(r.Body, &body); err != nil {
		t.Fatal(err)
	}
	h := evidence.NewDigester(&evidence.Secret{1}).New()
	h.Write([]byte("ls\n{}")) //nolint:errcheck // a hash takes everything
	if want := (evidence.ContentBody{To: "upstream", Bytes: 5, Digest: base64.RawURLEncoding.EncodeToString(h.Sum(nil))}); body != want {
		t.Errorf("the body is %+v, want %+v", body, want)
	}
	if r.Head.Type != evidence.CommandContent || r.Head.Of != x.Position() || r.Head.Bytes != 0 {
		t.Errorf("the head is %+v", r.Head)
	}
	large := evidence.Piece{Stream: "stdout", Data: make([]byte, evidence.MaxContent)}
	for range 2 {
		if err := x.Keep(context.Background(), evidence.ToAgent, large); err != nil {
			t.Fatal(err)
		}
	}
	kept, left := f.records[len(f.records)-2], f.records[len(f.records)-1]
	if len(kept.Sealed) == 0 || len(left.Sealed) != 0 || !strings.Contains(string(left.Body), `"left_out":true`) {
		t.Errorf("of much content %d bytes were kept, then %d, with the body %s", len(kept.Sealed), len(left.Sealed), left.Body)
	}
	if err := x.End(context.Background(), evidence.Outcome{Class: evidence.OK}); err != nil {
		t.Fatal(err)
	}
	if err := x.Keep(context.Background(), evidence.ToAgent, typed...); err == nil {
		t.Error("content of a command that has ended was recorded")
	}
}
