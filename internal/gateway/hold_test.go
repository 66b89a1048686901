package gateway

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// heldPolicy lets readers read, twice an hour, and writers write what people have
// approved.
const heldPolicy = `@id("reader") @max_commands_per_hour("3")
permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);

@id("writer") @approval("dba")
permit (principal in Role::"writer", action in Action::"write", resource);
`

func holding(s *Settings) {
	files := []evidence.File{{Name: "roles.cedar", Text: heldPolicy}}
	s.Policy = evidence.PolicyBody{Digest: decision.Digest(files, packtest.Actions), Files: files, Actions: packtest.Actions}
	s.Config.People = []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: "bob@example.com", Groups: []string{"dba"}}}
	s.People = append(s.People, evidence.Person{ID: "bob@example.com"})
	s.TokenTTL = 10 * time.Minute
	s.Resources[0].Upstream = func() (protocol.Upstream, error) { return protocol.Upstream{Address: "127.0.0.1:5432"}, nil }
}

func (w *world) grantAs(role string) {
	w.t.Helper()
	_, err := w.AddGrant(w.t.Context(), api.NewGrant{Agent: "bot", Role: role, Resource: "orders", Ticket: "OPS-1", Expires: time.Now().Add(time.Hour)}, packtest.Alice)
	if err != nil {
		w.t.Fatal(err)
	}
}

// bobSays records what bob says of a request.
func (w *world) bobSays(id, what string) {
	w.t.Helper()
	a, ok := w.registry().Approval(id)
	if !ok {
		w.t.Fatalf("no request %q", id)
	}
	_, err := w.control(w.t.Context(), evidence.Head{Type: evidence.ApprovalDecision}, evidence.ApprovalDecisionBody{
		Request: id, Digest: a.Digest, Decision: what, Groups: []string{"dba"},
		By: evidence.By{Person: evidence.Person{ID: "bob@example.com"}, Via: "test"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) session(key ed25519.PrivateKey) protocol.Session {
	w.t.Helper()
	token, err := w.token(key, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := w.enter(token)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) ask(s protocol.Session, c *evidence.Command) *evidence.Decision {
	w.t.Helper()
	x, err := s.Begin(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := x[0].Decision(); d.Effect == evidence.Allow {
		if err := x[0].End(w.t.Context(), evidence.Outcome{Class: evidence.OK}); err != nil {
			w.t.Fatal(err)
		}
	}
	return x[0].Decision()
}

func insertInto(text string) *evidence.Command {
	return &evidence.Command{Raw: []byte(text), Shape: &evidence.Shape{
		Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbWrite, Text: "INSERT INTO public.t VALUES (?)",
		Checks: []evidence.Check{{Action: "postgres:insert", Object: "public.t"}},
	}}
}

// restart ends the gateway in good order and begins its next boot, which runs.
func (w *world) restart() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	g, err := Open(w.t.Context(), w.opened, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.Gateway = g
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stopped := false
	w.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
}

// An approval is used once, also in the boot after the one that it was given in,
// and a verifier finds all of it again.
func TestAnApprovalOutlivesARestartAndIsReplayed(t *testing.T) {
	w := newWorld(t, holding)
	w.grantAs("reader")
	w.grantAs("writer")
	key := w.agentKey()
	s := w.session(key)
	first := w.ask(s, insertInto("insert into t values (1)"))
	w.bobSays(first.Approval, evidence.Approved)
	raw, _, ok := w.gate.Held(first.Approval)
	if !ok || string(raw) != "insert into t values (1)" {
		t.Errorf("bob was shown %q", raw)
	}
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}

	w.restart()
	s = w.session(key)
	if d := w.ask(s, insertInto("insert into t values (2)")); d.Effect != evidence.Deny || d.Approval == first.Approval {
		t.Errorf("another command: %+v", d)
	}
	if d := w.ask(s, insertInto("insert into t values (1)")); d.Effect != evidence.Allow || d.Approval != first.Approval {
		t.Errorf("the approved one: %+v", d)
	}
	if d := w.ask(s, insertInto("insert into t values (1)")); d.Effect != evidence.Deny {
		t.Errorf("and again: %+v", d)
	}

	// One that waits goes on as soon as bob says yes.
	waits := make(chan string, 1)
	c := insertInto("insert into t values (3)")
	c.Wait = func(request string, _ time.Time) { waits <- request }
	go func() { w.bobSays(<-waits, evidence.Approved) }()
	began := time.Now()
	if d := w.ask(s, c); d.Effect != evidence.Allow {
		t.Errorf("the one that waits: %+v", d)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it went on after %v", took)
	}
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}
	if n := w.count(evidence.ApprovalUse); n != 2 {
		t.Errorf("%d uses", n)
	}
	w.packPasses(time.Now().Add(time.Minute), 20)
}

func TestTheCountsOfAnHourOutliveARestart(t *testing.T) {
	if left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)); left < time.Minute {
		time.Sleep(left) // the hour would end under the test
	}
	w := newWorld(t, holding, func(s *Settings) { s.Sealing.BlockBytes = 1 }) // a block for each record
	w.grantAs("reader")
	key := w.agentKey()
	ask := func(s protocol.Session, want string) {
		t.Helper()
		if d := w.ask(s, &evidence.Command{Shape: readAll, Raw: []byte("select 1")}); string(d.Effect)+d.Limit != want {
			t.Errorf("%+v, want %s", d, want)
		}
	}
	s := w.session(key)
	ask(s, "allow")
	prepare := *readAll
	prepare.Path = evidence.PathPrepare
	w.ask(s, &evidence.Command{Shape: &prepare, Raw: []byte("select 1")})
	ask(s, "allow")
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.restart()
	}
	s = w.session(key)
	ask(s, "allow")
	ask(s, "denycommands")
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Fatal(err)
	}
	w.packPasses(time.Now().Add(time.Minute), 20)
}
