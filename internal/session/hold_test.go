package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

func writeShape(action string) *evidence.Shape {
	return &evidence.Shape{Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbWrite, Text: strings.ToUpper(action),
		Checks: []evidence.Check{{Action: "postgres:" + action, Object: "public.t"}}}
}

// remove is a command that people must approve.
func remove(text string, params ...string) *evidence.Command {
	c := &evidence.Command{Shape: writeShape("delete"), Raw: []byte(text)}
	for _, p := range params {
		c.Params = append(c.Params, []byte(p))
	}
	return c
}

func one(t *testing.T, s protocol.Session, c *evidence.Command) *evidence.Decision {
	t.Helper()
	return begin(t, s, c)[0].Decision()
}

// requests returns the requests on record, in order.
func (f *fixture) requests() []decision.Approval {
	r, _ := f.State()
	return r.Approvals()
}

// answer lets a person answer the request with an id.
func (f *fixture) answer(t *testing.T, id, person, what string) {
	t.Helper()
	r, _ := f.State()
	a, ok := r.Approval(id)
	if !ok {
		t.Fatalf("no request %q", id)
	}
	b := evidence.ApprovalDecisionBody{Request: id, Digest: a.Digest, Decision: what, Reason: "because",
		By: evidence.By{Person: evidence.Person{ID: person}, Via: "test"}}
	if what != evidence.Withdrawn {
		b.Groups = []string{"dba"}
	}
	f.control(t, evidence.ApprovalDecision, b)
	f.gate.Sweep()
}

// intents returns, of the intents on record, effect and approval.
func (f *fixture) intents(t *testing.T) (all []string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, d := range f.records {
		if d.Head.Type != evidence.CommandIntent {
			continue
		}
		var b evidence.IntentBody
		if err := json.Unmarshal(d.Body, &b); err != nil {
			t.Fatal(err)
		}
		text := string(b.Effect)
		if b.Approval != "" {
			use := f.records[i+1]
			if use.Head.Type != evidence.ApprovalUse || use.Head.Of != d.Head.Pos {
				t.Errorf("behind the intent %s that uses an approval stands %+v", d.Head.Pos, use.Head)
			}
			text += " by " + b.Approval
		}
		all = append(all, text)
	}
	return all
}

func TestACommandThatNeedsPeopleLeadsToARequest(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	d := one(t, s, remove("delete from t where id = 's3cret'"))
	asked := f.requests()
	if len(asked) != 1 || d.Effect != evidence.Deny || d.Approval != asked[0].ID || !strings.Contains(d.Reason, asked[0].ID) {
		t.Fatalf("%d requests, decision %+v", len(asked), d)
	}
	a := asked[0]
	if a.By.Person.ID != "alice@example.com" || !strings.Contains(a.By.Via, "bot") || !strings.Contains(a.By.Via, s.ID()) {
		t.Errorf("it is asked by %+v", a.By)
	}
	if a.Command == nil || a.Command.Text != "DELETE" || a.Command.Session.String() != s.ID() || fmt.Sprint(a.Needs, a.Command.Rules) != "[{dba 1}] [delete]" {
		t.Errorf("it asks %+v, %+v", a.ApprovalRequestBody, a.Command)
	}
	for _, r := range f.records {
		if strings.Contains(string(r.Body), "s3cret") {
			t.Errorf("%s holds the text in the clear", r.Head.Type)
		}
	}
	raw, _, ok := f.gate.Held(a.ID)
	if !ok || string(raw) != "delete from t where id = 's3cret'" {
		t.Errorf("people are shown %q, %t", raw, ok)
	}
	// What is recorded is what a replay makes: no request's id is in it.
	var b evidence.IntentBody
	if err := json.Unmarshal(f.records[len(f.records)-1].Body, &b); err != nil || b.Approval != "" || strings.Contains(b.Reason, a.ID) {
		t.Errorf("recorded is %+v, %v", b.Decision, err)
	}

	again := one(t, s, remove("delete from t where id = 's3cret'"))
	if n := len(f.requests()); n != 1 || again.Approval != a.ID {
		t.Errorf("asked again: %d requests, %+v", n, again)
	}
	f.answer(t, a.ID, "bob@example.com", evidence.Approved)
	if d := one(t, s, remove("delete from t where id = 's3cret'")); d.Effect != evidence.Allow || d.Approval != a.ID {
		t.Errorf("approved: %+v", d)
	}
	if got := fmt.Sprint(f.intents(t)); got != "[deny deny allow by "+a.ID+"]" {
		t.Errorf("intents %s", got)
	}
	if d := one(t, s, remove("delete from t where id = 's3cret'")); d.Effect != evidence.Deny || len(f.requests()) != 2 {
		t.Errorf("an approval was used twice: %+v", d)
	}
}

// What is approved is that text with those values, and nothing else.
func TestAnApprovalIsOfOneExactCommand(t *testing.T) {
	null := remove("x")
	null.Params = [][]byte{nil}
	binary := remove("x", "1")
	binary.Encoding = []byte{0, 1, 0, 1}
	prepared := remove("")
	prepared.Raw, prepared.Exact = nil, []byte("x")
	commands := []*evidence.Command{
		remove("x"), remove("x "), remove("x", ""), remove("x", "1"), remove("x", "1", "2"), remove("x", "12"), remove("x1"), null, binary,
	}
	f := newFixture(t, session.Limits{})
	f.gate.Holds.Open = 100
	s := f.open(t)
	seen := make(map[string]int)
	for i, c := range commands {
		id := one(t, s, c).Approval
		if j, again := seen[id]; again || id == "" {
			t.Errorf("commands %d and %d share request %q", i, j, id)
		}
		seen[id] = i
	}
	if id := one(t, s, prepared).Approval; id == "" || seen[id] != 0 {
		t.Errorf("a prepared statement of the same text is request %q", id)
	}
}

func TestAnAgentWaitsForPeople(t *testing.T) {
	for _, test := range []struct {
		name   string
		meet   func(t *testing.T, f *fixture, id string, leave func())
		effect evidence.Effect
		after  time.Duration
		says   string
	}{
		{"approved", func(t *testing.T, f *fixture, id string, _ func()) {
			f.answer(t, id, "bob@example.com", evidence.Approved)
		}, evidence.Allow, time.Minute, ""},
		{"refused", func(t *testing.T, f *fixture, id string, _ func()) {
			f.answer(t, id, "bob@example.com", evidence.Refused)
		}, evidence.Deny, time.Minute, "bob@example.com has refused request"},
		{"withdrawn", func(t *testing.T, f *fixture, id string, _ func()) {
			f.answer(t, id, "alice@example.com", evidence.Withdrawn)
		}, evidence.Deny, time.Minute, "doesn't count any more"},
		{"the agent leaves", func(_ *testing.T, _ *fixture, _ string, leave func()) { leave() }, evidence.Deny, time.Minute, "doesn't wait any more"},
		{"nobody answers", func(*testing.T, *fixture, string, func()) {}, evidence.Deny, 10 * time.Minute, "nobody has answered within 10m0s"},
		{"the grant is removed", func(t *testing.T, f *fixture, _ string, _ func()) {
			f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), By: evidence.By{Via: "test"}})
			f.gate.Sweep()
		}, evidence.Deny, time.Minute, "no rule lets bot"},
		{"the gateway stops", func(_ *testing.T, f *fixture, _ string, _ func()) {
			f.gate.Stop(errors.New("stopping"), time.Hour)
		}, evidence.Deny, time.Minute, "the session ends"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, session.Limits{})
				f.began = time.Now()
				s := f.open(t)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				c := remove("delete from t")
				var told string
				c.Wait = func(request string, until time.Time) {
					told = request
					if want := start.Add(10 * time.Minute); !until.Equal(want) {
						t.Errorf("it says it waits until %s, not %s", until, want)
					}
				}
				var d *evidence.Decision
				done := make(chan struct{})
				go func() {
					defer close(done)
					x, err := s.Begin(ctx, c)
					if err != nil {
						t.Error(err)
						return
					}
					d = x[0].Decision()
					if d.Effect != evidence.Allow && s.Cause() != nil { // else Stop would wait for it
						s.Close(protocol.SessionEnd{Reason: "test"})
					}
				}()
				time.Sleep(time.Minute)
				synctest.Wait()
				if told == "" || told != f.requests()[0].ID || slices.Contains(f.types(), string(evidence.CommandIntent)) {
					t.Fatalf("while it waits: told of %q, records %s", told, f.types())
				}
				go test.meet(t, f, told, leave)
				<-done
				if took := time.Since(f.began); took != test.after {
					t.Errorf("it took %v", took)
				}
				if d.Effect != test.effect || !strings.Contains(d.Reason, test.says) {
					t.Errorf("decision %+v", d)
				}
				if n := len(f.intents(t)); n != 1 {
					t.Errorf("%d intents", n)
				}
				s.Close(protocol.SessionEnd{Reason: "test"})
				time.Sleep(time.Second) // Stop returns
			})
		})
	}
}

func TestARequestExpiresWhileItsAgentWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, session.Limits{})
		f.began = time.Now()
		f.gate.Holds.Life = time.Minute
		s := f.open(t)
		c := remove("delete from t")
		c.Wait = func(string, time.Time) {}
		if d := one(t, s, c); d.Effect != evidence.Deny || time.Since(f.began) != time.Minute {
			t.Errorf("after %v: %+v", time.Since(f.began), d)
		}
		id := f.requests()[0].ID
		if r, _ := f.State(); r.State(&f.requests()[0], start.Add(time.Minute).UnixMicro()) != decision.ApprovalExpired {
			t.Error("it has not expired")
		}
		if d := one(t, s, remove("delete from t")); d.Approval == id {
			t.Error("a request that has expired is asked for again")
		}
	})
}

func TestOnlyACommandThatStandsAloneWaits(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	c := remove("delete from t")
	c.Wait = func(string, time.Time) { t.Error("it waits") }
	x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")}, c, &evidence.Command{Shape: selectShape("public.t")})
	if d := x[1].Decision(); x[0].Decision().Effect != evidence.Allow || d.Effect != evidence.Deny || d.Approval == "" || !x[2].Skipped() {
		t.Errorf("decisions %+v %+v", x[0].Decision(), d)
	}
}

// Preparing is not doing.
func TestAPreparedCommandNeedsNobodyUntilItRuns(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	shape := *writeShape("delete")
	shape.Path = evidence.PathPrepare
	if d := one(t, s, &evidence.Command{Shape: &shape, Raw: []byte("x")}); d.Effect != evidence.Allow || len(f.requests()) != 0 {
		t.Errorf("%+v", d)
	}
}

func TestARefusalStands(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	id := one(t, s, remove("x")).Approval
	f.answer(t, id, "bob@example.com", evidence.Refused)
	for range 2 {
		if d := one(t, s, remove("x")); d.Approval != id || !strings.Contains(d.Reason, "bob@example.com has refused request "+id+": because") {
			t.Errorf("%+v", d)
		}
	}
	if n := len(f.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestOpenRequestsAreBounded(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	for i := range 16 {
		one(t, s, remove(fmt.Sprint(i)))
	}
	if d := one(t, s, remove("one more")); d.Effect != evidence.Deny || d.Approval != "" || !strings.Contains(d.Reason, "16 open requests") {
		t.Errorf("%+v", d)
	}
	f.answer(t, f.requests()[3].ID, "alice@example.com", evidence.Withdrawn)
	if d := one(t, s, remove("one more")); d.Approval == "" {
		t.Errorf("after one was withdrawn: %+v", d)
	}
	if _, _, kept := f.gate.Held(f.requests()[3].ID); kept {
		t.Error("the text of a request that was withdrawn is kept")
	}
}

func TestContentThatNobodyHasSeenIsNotApproved(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	c := remove("PUT /t")
	c.Streams = true
	if d := one(t, s, c); d.Effect != evidence.Deny || len(f.requests()) != 0 || !strings.Contains(d.Reason, "stream") {
		t.Errorf("%d requests, %+v", len(f.requests()), d)
	}
}

func TestOneApprovalLetsOneOfTwoSessionsPass(t *testing.T) {
	for range 50 {
		f := newFixture(t, session.Limits{})
		id := one(t, f.open(t), remove("x")).Approval
		f.answer(t, id, "bob@example.com", evidence.Approved)
		var passed [4]bool
		var wg sync.WaitGroup
		for i := range passed {
			s := f.open(t)
			wg.Go(func() {
				x, err := s.Begin(context.Background(), remove("x"))
				passed[i] = err == nil && x[0].Decision().Effect == evidence.Allow
			})
		}
		wg.Wait()
		n := 0
		for _, p := range passed {
			if p {
				n++
			}
		}
		if uses := strings.Count(fmt.Sprint(f.types()), string(evidence.ApprovalUse)); n != 1 || uses != 1 {
			t.Fatalf("%d of them passed, with %d uses", n, uses)
		}
	}
}

func TestTwoThatWaitForOneApprovalAreNotBothLetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, session.Limits{})
		f.began = time.Now()
		effects := make(chan evidence.Effect, 2)
		for range 2 {
			s := f.open(t)
			go func() {
				c := remove("x")
				c.Wait = func(string, time.Time) {}
				effects <- one(t, s, c).Effect
			}()
		}
		synctest.Wait()
		if n := len(f.requests()); n != 1 {
			t.Fatalf("%d requests", n)
		}
		f.answer(t, f.requests()[0].ID, "bob@example.com", evidence.Approved)
		got := []evidence.Effect{<-effects, <-effects}
		slices.Sort(got)
		if fmt.Sprint(got) != "[allow deny]" || len(f.requests()) != 1 {
			t.Errorf("effects %v, %d requests", got, len(f.requests()))
		}
	})
}

// What happens between the decision and its record counts.
func TestARaceWithAnApprovalIsLost(t *testing.T) {
	for name, meanwhile := range map[string]func(*testing.T, *fixture){
		"the grant is revoked": func(t *testing.T, f *fixture) {
			f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), By: evidence.By{Via: "test"}})
		},
		"the approver leaves the group": func(t *testing.T, f *fixture) {
			r, _ := f.State()
			b := r.ConfigBody()
			b.Digest, b.Before = "c2", "c1"
			b.People = []evidence.Member{{ID: "alice@example.com"}, {ID: "bob@example.com"}, {ID: "carol@example.com", Groups: []string{"dba"}}}
			f.control(t, evidence.ConfigChange, b)
		},
		"the approval is withdrawn": func(t *testing.T, f *fixture) {
			f.answer(t, f.requests()[0].ID, "alice@example.com", evidence.Withdrawn)
		},
		"another uses it": func(t *testing.T, f *fixture) {
			if d := one(t, f.open(t), remove("x")); d.Effect != evidence.Allow {
				t.Errorf("the other: %+v", d)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, session.Limits{})
			s := f.open(t)
			id := one(t, s, remove("x")).Approval
			f.answer(t, id, "bob@example.com", evidence.Approved)
			f.before = func() { meanwhile(t, f) }
			if d := one(t, s, remove("x")); d.Effect != evidence.Deny {
				t.Errorf("it passed all the same: %+v", d)
			}
		})
	}
}

func TestAnApprovalOutlivesARestart(t *testing.T) {
	f := newFixture(t, session.Limits{})
	id := one(t, f.open(t), remove("x")).Approval
	f.answer(t, id, "bob@example.com", evidence.Approved)
	f.gate = session.NewGate(f.gate.Config)
	if d := one(t, f.open(t), remove("x")); d.Effect != evidence.Allow || d.Approval != id {
		t.Errorf("after the restart: %+v", d)
	}
}

func TestTheTextOfAnOpenRequestIsThereAgainOnceItIsAsked(t *testing.T) {
	f := newFixture(t, session.Limits{})
	id := one(t, f.open(t), remove("x", "1")).Approval
	f.gate = session.NewGate(f.gate.Config)
	if _, _, ok := f.gate.Held(id); ok {
		t.Error("it outlived the restart in the clear")
	}
	one(t, f.open(t), remove("x", "1"))
	if raw, params, ok := f.gate.Held(id); !ok || string(raw) != "x" || len(params) != 1 || string(params[0]) != "1" {
		t.Errorf("%q %q %t", raw, params, ok)
	}
}

func TestAnotherGatewaysKeyFindsNoApproval(t *testing.T) {
	f := newFixture(t, session.Limits{})
	id := one(t, f.open(t), remove("x")).Approval
	f.answer(t, id, "bob@example.com", evidence.Approved)
	c := f.gate.Config
	c.Holds.Key[0]++
	f.gate = session.NewGate(c)
	if d := one(t, f.open(t), remove("x")); d.Effect != evidence.Deny || d.Approval == id {
		t.Errorf("%+v", d)
	}
}

func TestTheSameCommandTwiceInOneBatchUsesOneApproval(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	id := one(t, s, remove("x")).Approval
	f.answer(t, id, "bob@example.com", evidence.Approved)
	x := begin(t, s, remove("x"), remove("x"))
	if x[0].Decision().Effect != evidence.Allow || x[1].Decision().Effect != evidence.Deny {
		t.Errorf("%+v %+v", x[0].Decision(), x[1].Decision())
	}
	f.intents(t)
}

func TestLimitsOfAnHour(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	ask := func(c ...*evidence.Command) (effects []string) {
		for _, x := range begin(t, s, c...) {
			d := x.Decision()
			text := string(d.Effect)
			if x.Skipped() {
				text = "skipped"
			}
			if d.Limit != "" {
				text += " " + d.Limit
			}
			effects = append(effects, text)
		}
		return effects
	}
	insert := func() *evidence.Command { return &evidence.Command{Shape: writeShape("insert")} }
	counted := func() *evidence.Command {
		c := &evidence.Command{Shape: writeShape("count")}
		c.Verb = evidence.VerbRead
		return c
	}
	expect := func(got []string, want string) {
		t.Helper()
		if fmt.Sprint(got) != "["+want+"]" {
			t.Errorf("effects %v, want [%s]", got, want)
		}
	}
	expect(ask(insert(), insert(), insert(), insert()), "allow allow deny writes skipped")
	if r := begin(t, s, insert())[0].Decision().Reason; !strings.Contains(r, "2 writes an hour") || !strings.Contains(r, "full hour") {
		t.Errorf("reason %q", r)
	}
	expect(ask(counted()), "allow")
	expect(ask(&evidence.Command{Shape: selectShape("public.t")}), "allow") // of no limit; it counts all the same
	expect(ask(counted()), "deny commands")
	shape := *writeShape("insert")
	shape.Path = evidence.PathPrepare
	expect(ask(&evidence.Command{Shape: &shape}), "allow")

	f.now = start.Add(59*time.Minute + 59*time.Second)
	expect(ask(insert()), "deny writes")
	f.control(t, evidence.GrantCreate, evidence.GrantBody{Agent: "bot", Role: "reader", Resource: "orders",
		Expires: start.Add(3 * time.Hour).UnixMicro(), By: evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}})
	f.now = start.Add(time.Hour)
	expect(ask(insert()), "allow")
	f.now = start.Add(30 * time.Minute) // the clock was set back
	expect(ask(insert()), "deny writes")
}

func TestALimitIsExactAmongManySessions(t *testing.T) {
	f := newFixture(t, session.Limits{})
	var wg sync.WaitGroup
	for range 8 {
		s := f.open(t)
		wg.Go(func() {
			for range 4 {
				x, err := s.Begin(context.Background(), &evidence.Command{Shape: writeShape("insert")})
				if err != nil || x[0].Decision().Effect != evidence.Allow && x[0].Decision().Limit != evidence.LimitWrites {
					t.Errorf("%+v, %v", x, err)
				}
			}
		})
	}
	wg.Wait()
	if n := strings.Count(fmt.Sprint(f.intents(t)), "allow"); n != 2 {
		t.Errorf("%d of 2 passed", n)
	}
}

func TestAnOtherLimitIsReachedMeanwhile(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s, other := f.open(t), f.open(t)
	begin(t, s, &evidence.Command{Shape: writeShape("insert")})
	f.before = func() { begin(t, other, &evidence.Command{Shape: writeShape("insert")}) }
	if d := one(t, s, &evidence.Command{Shape: writeShape("insert")}); d.Limit != evidence.LimitWrites {
		t.Errorf("the last one was used up between decision and record: %+v", d)
	}
}

func TestRulesRaiseAlerts(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s := f.open(t)
	x := begin(t, s, &evidence.Command{Shape: writeShape("update")}, &evidence.Command{Shape: writeShape("truncate")}, &evidence.Command{Shape: writeShape("update")})
	begin(t, s, &evidence.Command{Shape: writeShape("update")}) // within the minute: counted with the next
	var got []string
	for _, d := range f.records {
		var b evidence.AlertBody
		if d.Head.Type == evidence.Alert {
			if err := json.Unmarshal(d.Body, &b); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s %s %s", b.Rule, b.Severity, b.Trigger))
		}
	}
	want := []string{"watched high " + x[0].Position().String(), "trapped high " + x[1].Position().String()}
	if !slices.Equal(got, want) {
		t.Errorf("alerts %q, want %q", got, want)
	}
}

// A session without any right ends, whatever took it away, and its next command
// is refused before that.
func TestWhatTakesRightsAwayCountsForTheNextCommand(t *testing.T) {
	by := evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}
	for name, take := range map[string]func(*testing.T, *fixture){
		"revoked": func(t *testing.T, f *fixture) {
			f.control(t, evidence.GrantRemove, evidence.RevokeBody{ID: f.grant.String(), By: by})
		},
		"retired": func(t *testing.T, f *fixture) {
			f.control(t, evidence.AgentDisable, evidence.DisableBody{Agent: "bot", Reason: "test", By: by})
		},
		"expired": func(_ *testing.T, f *fixture) { f.now = start.Add(time.Hour) },
		"policy": func(t *testing.T, f *fixture) {
			r, _ := f.State()
			b := policyBody(t, by)
			b.Files[0].Text = `@id("none") permit (principal in Role::"nobody", action, resource);`
			b.Before, b.Digest = r.Policy(), decision.Digest(b.Files, b.Actions)
			f.control(t, evidence.PolicyChange, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, session.Limits{})
			s := f.open(t)
			running := begin(t, s, &evidence.Command{Shape: selectShape("public.t")})[0]
			take(t, f)
			x := begin(t, s, &evidence.Command{Shape: selectShape("public.t")}, &evidence.Command{Shape: selectShape("public.t")})
			if x[0].Decision().Effect != evidence.Deny || !x[1].Skipped() {
				t.Errorf("the next: %+v", x[0].Decision())
			}
			f.gate.Sweep()
			if s.Cause() == nil {
				t.Error("the session goes on, and with it what it runs")
			}
			if err := running.End(t.Context(), evidence.Outcome{Class: evidence.Cancelled}); err != nil {
				t.Error(err)
			}
		})
	}
}
