package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

func by(id string) evidence.By { return evidence.By{Person: evidence.Person{ID: id}, Via: "test"} }

var (
	asker = packtest.Alice
	bob   = by("bob@example.com")
	carol = by("carol@example.com")
	dave  = by("dave@example.com")
)

// separated makes rights need two people: Bob owns orders, Carol and Dave are
// dba, and dba approve grants on it too.
func separated(s *Settings) {
	s.Config.Separation = evidence.SeparationRequired
	s.Config.People = []evidence.Member{
		{ID: asker.Person.ID}, {ID: bob.Person.ID}, {ID: carol.Person.ID, Groups: []string{"dba"}}, {ID: dave.Person.ID, Groups: []string{"dba"}},
	}
	s.Config.Resources[0].Owner, s.Config.Resources[0].Approvers = bob.Person.ID, []string{"dba"}
}

func wanted() api.NewGrantRequest {
	return api.NewGrantRequest{
		Agent: "bot", Role: "reader", Resource: "orders", Ticket: "OPS-1", Reason: "it's due",
		Expires: time.Now().Add(8 * time.Hour).UTC().Truncate(time.Second),
	}
}

func (w *world) request(n api.NewGrantRequest) api.Approval {
	w.t.Helper()
	r, err := w.RequestGrant(w.t.Context(), n, asker)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) answer(id, what string, by evidence.By) (api.Approval, error) {
	return w.AnswerApproval(w.t.Context(), id, what, api.Answer{Reason: "because"}, by)
}

// status wants a problem.
func (w *world) status(what string, err error, status int, says string) {
	w.t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != status || !strings.Contains(p.Message+"\n"+p.Hint, says) {
		w.t.Errorf("%s: %v (%+v), want %d with %q", what, err, p, status, says)
	}
}

func TestAGrantIsAskedForAndApproved(t *testing.T) {
	w := newWorld(t, separated)
	ctx := t.Context()
	_, err := w.AddGrant(ctx, api.NewGrant{Agent: "bot", Role: "reader", Resource: "orders", Expires: wanted().Expires, Ticket: "OPS-1", Reason: "it's due"}, asker)
	w.status("alone", err, http.StatusForbidden, "exhibit grant request --agent bot --role reader --resource orders --until "+
		wanted().Expires.Format(time.RFC3339)+` --ticket OPS-1 --reason 'it'\''s due'`)
	r := w.request(wanted())
	if r.Status != "pending" || len(r.Needs) != 1 || !slices.Equal(r.Needs[0].People, []string{bob.Person.ID, carol.Person.ID, dave.Person.ID}) ||
		r.Asked.By != asker || !r.Expires.Equal(wanted().Expires) {
		t.Errorf("the request: %+v", r)
	}
	_, err = w.answer(r.ID, evidence.Approved, asker)
	w.status("self-approval", err, http.StatusForbidden, "nobody approves their own request")
	w.status("self-approval", err, http.StatusForbidden, "it can be approved by bob@example.com, carol@example.com, dave@example.com")
	_, err = w.answer(r.ID, evidence.Approved, by("mallory"))
	w.status("a stranger", err, http.StatusForbidden, "is no approver of it")
	_, err = w.answer(r.ID, evidence.Withdrawn, bob)
	w.status("another's withdrawal", err, http.StatusUnprocessableEntity, "only alice@example.com can withdraw")
	_, err = w.AnswerApproval(ctx, r.ID, evidence.Approved, api.Answer{Digest: "of-another"}, bob)
	w.status("another digest", err, http.StatusConflict, "something else")
	if n := w.count(evidence.GrantCreate) + w.count(evidence.ApprovalDecision); n != 0 {
		t.Errorf("%d records of what was refused", n)
	}

	earlier := wanted().Expires.Add(-time.Hour)
	r, err = w.AnswerApproval(ctx, r.ID, evidence.Approved, api.Answer{Expires: earlier, Reason: "an hour less"}, bob)
	if err != nil || r.Status != "used" || r.Used == nil || len(r.Answers) != 1 || r.Needs[0].Have != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	grants, err := w.Grants(ctx, "bot")
	if err != nil || len(grants) != 1 {
		t.Fatalf("%+v, %v", grants, err)
	}
	g := grants[0]
	if g.ID != r.Used.By || g.Request != r.ID || !g.Expires.Equal(earlier) || g.Ticket != "OPS-1" || g.Asked.By != asker || g.Created.By != bob ||
		len(g.Approvals) != 1 || g.Approvals[0].By != bob || g.Approvals[0].Reason != "an hour less" {
		t.Errorf("the grant: %+v", g)
	}
	_, err = w.answer(r.ID, evidence.Approved, carol)
	w.status("a second approval", err, http.StatusConflict, "it is used")

	// The decision and the grant stand next to each other.
	decided, _ := evidence.ParsePosition(r.Answers[0].Position)
	made, _ := evidence.ParsePosition(g.ID)
	if made.Seq != decided.Seq+1 {
		t.Errorf("decided at %s, made at %s", decided, made)
	}
}

func TestARequestThatNobodyCouldApprove(t *testing.T) {
	one := func(s *Settings) {
		s.Config.People = []evidence.Member{{ID: asker.Person.ID}}
		s.Config.Separation = evidence.SeparationReported
	}
	w := newWorld(t, one)
	n := wanted()
	_, err := w.RequestGrant(t.Context(), n, asker)
	w.status("one person", err, http.StatusUnprocessableEntity, "exhibit grant add --agent bot --role reader --resource orders --expires ")
	if _, err := w.AddGrant(t.Context(), api.NewGrant{Agent: n.Agent, Role: n.Role, Resource: n.Resource, Expires: n.Expires}, asker); err != nil {
		t.Errorf("one person, reported: %v", err)
	}

	w = newWorld(t, separated, func(s *Settings) { s.Config.Resources[0].Approvers = nil })
	_, err = w.RequestGrant(t.Context(), wanted(), bob)
	w.status("the only owner", err, http.StatusUnprocessableEntity, "name an owner or approvers")
	for what, change := range map[string]func(*api.NewGrantRequest){
		"no such agent": func(n *api.NewGrantRequest) { n.Agent = "nobody" }, "no such resource": func(n *api.NewGrantRequest) { n.Resource = "nothing" },
		"no such role": func(n *api.NewGrantRequest) { n.Role = "emperor" }, "no such grant": func(n *api.NewGrantRequest) { n.Renews = "gw1.1.1" },
	} {
		n := wanted()
		change(&n)
		_, err := w.RequestGrant(t.Context(), n, asker)
		w.status(what, err, http.StatusNotFound, "there")
	}
	n = wanted()
	n.Role = ""
	_, err = w.RequestGrant(t.Context(), n, asker)
	w.status("no role", err, http.StatusUnprocessableEntity, "all three")
	if n := w.count(evidence.ApprovalRequest); n != 0 {
		t.Errorf("%d requests are on record", n)
	}
}

func TestARenewalKnowsWhatWas(t *testing.T) {
	w := newWorld(t, separated)
	r := w.request(wanted())
	r, err := w.answer(r.ID, evidence.Approved, bob)
	if err != nil {
		t.Fatal(err)
	}
	later := api.NewGrantRequest{Renews: r.Used.By, Starts: wanted().Expires, Expires: wanted().Expires.Add(time.Hour)}
	next := w.request(later)
	if g := next.Grant; g.Agent != "bot" || g.Role != "reader" || g.Resource != "orders" || next.Ticket != "OPS-1" {
		t.Errorf("asked for %+v", next)
	}
	if next, err = w.answer(next.ID, evidence.Approved, carol); err != nil {
		t.Fatal(err)
	}
	g, err := w.grant(next.Used.By)
	if err != nil || g.Status != "upcoming" || g.Renews != r.Used.By || !g.Starts.Equal(later.Starts) {
		t.Errorf("%+v, %v", g, err)
	}
	// What was removed is not gone on from.
	last := w.request(api.NewGrantRequest{Renews: r.Used.By, Expires: later.Expires})
	if _, err := w.RevokeGrant(t.Context(), r.Used.By, "enough", asker); err != nil {
		t.Fatal(err)
	}
	_, err = w.answer(last.ID, evidence.Approved, carol)
	w.status("of a removed grant", err, http.StatusConflict, "can't be renewed")
	if got, err := w.approval(last.ID); err != nil || got.Status != "pending" || len(got.Answers) > 0 {
		t.Errorf("the decision stands without its grant: %+v, %v", got, err)
	}
}

func TestRequestsAreListed(t *testing.T) {
	w := newWorld(t, separated)
	first, second := w.request(wanted()), w.request(wanted())
	third := w.request(wanted())
	if _, err := w.answer(first.ID, evidence.Refused, bob); err != nil {
		t.Fatal(err)
	}
	if _, err := w.answer(second.ID, evidence.Withdrawn, asker); err != nil {
		t.Fatal(err)
	}
	_, err := w.answer(second.ID, evidence.Approved, bob)
	w.status("what was withdrawn", err, http.StatusConflict, "withdrawn")
	_, err = w.answer(first.ID, evidence.Approved, carol)
	w.status("what was denied", err, http.StatusConflict, "denied")
	list := func(q api.ApprovalQuery) (ids []string) {
		all, err := w.Approvals(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			ids = append(ids, a.ID+" "+a.Status)
		}
		return ids
	}
	if got, want := list(api.ApprovalQuery{}), []string{third.ID + " pending"}; !slices.Equal(got, want) {
		t.Errorf("open are %q, want %q", got, want)
	}
	if got, want := list(api.ApprovalQuery{Kind: "grant", All: true}), []string{first.ID + " denied", second.ID + " withdrawn", third.ID + " pending"}; !slices.Equal(got, want) {
		t.Errorf("all are %q, want %q", got, want)
	}
	if got := list(api.ApprovalQuery{Kind: "policy", All: true}); len(got) > 0 {
		t.Errorf("proposals: %q", got)
	}
	_, err = w.Approval(t.Context(), "gw1.1.999", asker)
	w.status("one that isn't", err, http.StatusNotFound, "approval list")
}

// Whatever comes at once, one thing comes of it.
func TestOneOutcomeOfARace(t *testing.T) {
	w := newWorld(t, separated)
	ctx := context.Background()
	for i := range 12 {
		var all sync.WaitGroup
		var errs [2]error
		race := func(do ...func() error) {
			for i, f := range do {
				all.Go(func() { errs[i] = f() })
			}
			all.Wait()
		}
		say := func(id, what string, by evidence.By) func() error {
			return func() error {
				_, err := w.AnswerApproval(ctx, id, what, api.Answer{Reason: "race"}, by)
				return err
			}
		}
		grants := w.count(evidence.GrantCreate)
		r := w.request(wanted())
		made := 1
		switch i % 3 {
		case 0: // two approvers
			race(say(r.ID, evidence.Approved, bob), say(r.ID, evidence.Approved, carol))
		case 1: // a yes and a withdrawal
			race(say(r.ID, evidence.Approved, bob), say(r.ID, evidence.Withdrawn, asker))
			if errs[0] != nil {
				made = 0
			}
		case 2: // a yes and a no
			race(say(r.ID, evidence.Approved, bob), say(r.ID, evidence.Refused, carol))
			if errs[0] != nil {
				made = 0
			}
		}
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("race %d: %v and %v", i, errs[0], errs[1])
		}
		for _, err := range errs {
			if err != nil && problemStatus(err) != http.StatusConflict {
				t.Errorf("race %d: who comes too late is told %v", i, err)
			}
		}
		got, err := w.approval(r.ID)
		if err != nil || len(got.Answers) != 1 || (got.Status == "used") != (made == 1) || w.count(evidence.GrantCreate) != grants+made {
			t.Errorf("race %d: %+v, %v; %d grants, %d before", i, got, err, w.count(evidence.GrantCreate), grants)
		}
	}
}

// A renewal that is approved while what it goes on from is revoked: either it
// was made before, or it isn't made.
func TestApproveAndRevokeAtOnce(t *testing.T) {
	w := newWorld(t, separated)
	for i := range 8 {
		old := w.request(wanted())
		old, err := w.answer(old.ID, evidence.Approved, bob)
		if err != nil {
			t.Fatal(err)
		}
		next := w.request(api.NewGrantRequest{Renews: old.Used.By, Expires: wanted().Expires.Add(time.Hour)})
		var all sync.WaitGroup
		var approved, revoked error
		all.Go(func() { next, approved = w.answer(next.ID, evidence.Approved, carol) })
		all.Go(func() { _, revoked = w.RevokeGrant(context.Background(), old.Used.By, "race", asker) })
		all.Wait()
		if revoked != nil {
			t.Errorf("%d: revoking: %v", i, revoked)
		}
		gone, _ := w.registry().Grant(old.Used.By)
		switch {
		case approved == nil:
			if made, _ := w.registry().Grant(next.Used.By); !made.Created.Before(gone.Removed) {
				t.Errorf("%d: made at %s, after %s", i, made.Created, gone.Removed)
			}
		case problemStatus(approved) != http.StatusConflict:
			t.Errorf("%d: %v", i, approved)
		}
	}
}

func TestARequestExpires(t *testing.T) {
	c := &setClock{}
	w := newWorld(t, separated, clocked(c), func(s *Settings) { s.RequestTTL = time.Hour })
	r := w.request(wanted())
	c.step(time.Hour + time.Second)
	_, err := w.answer(r.ID, evidence.Approved, bob)
	w.status("too late", err, http.StatusConflict, "it is expired")
	if open, err := w.Approvals(t.Context(), api.ApprovalQuery{}); err != nil || len(open) > 0 {
		t.Errorf("open are %+v, %v", open, err)
	}
}

// held is a command that waits.
type held struct{ request string }

func (h *held) Held(request string) ([]byte, [][]byte, bool) {
	return []byte("delete from t where id = $1"), [][]byte{[]byte("7")}, request == h.request
}

// askCommand records a request for a command, as the path does.
func (w *world) askCommand(needs ...evidence.ApprovalNeed) string {
	w.t.Helper()
	_, start := w.open()
	pos, err := w.control(w.t.Context(), evidence.Head{Type: evidence.ApprovalRequest, Agent: "bot", Resource: "orders"}, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveCommand, Digest: "keyed", Needs: needs, Expires: time.Now().Add(time.Hour).UnixMicro(),
		By:      evidence.By{Person: asker.Person, Via: "agent bot"},
		Command: &evidence.HeldCommand{Session: start, Agent: "bot", Resource: "orders", Verb: evidence.VerbWrite, Text: "DELETE FROM t WHERE id = $1", Checks: []evidence.Check{{Action: "postgres:delete", Object: "public.t"}}, Rules: []string{"cleaner"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return pos.String()
}

func TestACommandIsShownToWhoAnswersForIt(t *testing.T) {
	w := newWorld(t, separated)
	id := w.askCommand(evidence.ApprovalNeed{Group: "dba", Count: 2})
	h := &held{}
	w.holds = h
	r, err := w.Approval(t.Context(), id, carol)
	if err != nil || r.Command == nil || r.Command.Waits || r.Command.Statement != nil || r.Command.Owner.ID != asker.Person.ID || w.count(evidence.EvidenceRead) != 0 {
		t.Errorf("one that doesn't wait: %+v, %v", r, err)
	}
	h.request = id
	r, err = w.Approval(t.Context(), id, bob)
	if err != nil || !r.Command.Waits || r.Command.Statement != nil || r.Command.Values != nil || w.count(evidence.EvidenceRead) != 0 {
		t.Errorf("to who has no say in it: %+v, %v", r.Command, err)
	}
	if r, err = w.Approval(t.Context(), id, asker); err != nil || r.Command.Statement == nil {
		t.Errorf("to the agent's owner: %+v, %v", r.Command, err)
	}
	r, err = w.Approval(t.Context(), id, carol)
	if err != nil || !r.Command.Waits || string(r.Command.Statement) != "delete from t where id = $1" || len(r.Command.Values) != 1 {
		t.Errorf("one that waits: %+v, %v", r, err)
	}
	var read evidence.ReadBody
	err = w.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		if r.Head.Type == evidence.EvidenceRead {
			read = evidence.ReadBody{}
			return evidence.DecodeBody(r.Body, &read)
		}
		return nil
	})
	if err != nil || read.Level != "L2" || read.Object != "request "+id || read.By != carol {
		t.Errorf("on record is %+v, %v", read, err)
	}

	if r, err = w.answer(id, evidence.Approved, carol); err != nil || r.Status != "pending" || r.Needs[0].Have != 1 || !slices.Equal(r.Needs[0].People, []string{dave.Person.ID}) {
		t.Errorf("after one of two: %+v, %v", r, err)
	}
	_, err = w.answer(id, evidence.Approved, carol)
	w.status("the same person again", err, http.StatusConflict, "has answered")
	_, err = w.answer(id, evidence.Approved, bob)
	w.status("another group", err, http.StatusForbidden, "is no approver of it")
	if r, err = w.answer(id, evidence.Approved, dave); err != nil || r.Status != "approved" || r.Used != nil {
		t.Errorf("after both: %+v, %v", r, err)
	}
}

// Who was taken out of a group by a reload has no say any more, whatever they
// said before.
func TestAnApproverThatIsGoneCountsNoMore(t *testing.T) {
	w := newWorld(t, separated)
	id := w.askCommand(evidence.ApprovalNeed{Group: "dba", Count: 1})
	if r, err := w.answer(id, evidence.Approved, carol); err != nil || r.Status != "approved" {
		t.Fatalf("%+v, %v", r, err)
	}
	s := w.opened
	s.Config.Digest, s.Config.People = "config-2", slices.Clone(s.Config.People)
	s.Config.People[2].Groups = nil
	w.changed.Store(&s)
	if _, err := w.Reload(t.Context(), false, asker); err != nil {
		t.Fatal(err)
	}
	r, err := w.approval(id)
	if err != nil || r.Status != "pending" || r.Needs[0].Have != 0 || !slices.Equal(r.Needs[0].People, []string{dave.Person.ID}) {
		t.Errorf("%+v, %v", r, err)
	}
	use := evidence.Head{Type: evidence.ApprovalUse, Agent: "bot", Resource: "orders", Of: w.recorder.Last()}
	if _, err := w.control(t.Context(), use, evidence.ApprovalUseBody{Request: id, Digest: "keyed"}); err == nil {
		t.Error("it was used")
	}
	if r, err := w.answer(id, evidence.Approved, dave); err != nil || r.Status != "approved" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := w.control(t.Context(), use, evidence.ApprovalUseBody{Request: id, Digest: "keyed"}); err != nil {
		t.Errorf("used: %v", err)
	}
}

// The same text can mean something else to a newer gateway.
func TestAConfigurationThatMeansSomethingElseIsRecorded(t *testing.T) {
	w := newWorld(t)
	was := w.count(evidence.ConfigChange)
	if _, err := w.Reload(t.Context(), false, asker); err != nil || w.count(evidence.ConfigChange) != was {
		t.Errorf("the same again: %v, %d records", err, w.count(evidence.ConfigChange)-was)
	}
	s := w.opened
	separated(&s)
	w.changed.Store(&s)
	if _, err := w.Reload(t.Context(), false, asker); err != nil || w.count(evidence.ConfigChange) != was+1 || !w.registry().Separated() {
		t.Errorf("another meaning: %v, %d records", err, w.count(evidence.ConfigChange)-was)
	}
}

func TestAllowedSaysWhatItRestsOn(t *testing.T) {
	w := newWorld(t, separated, func(s *Settings) {
		s.Policy.Files = []evidence.File{{Name: "roles.cedar", Text: `
@id("reader") @max_rows("100") permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);
@id("slow") @max_rows("500") @max_time("1500ms") @approval("dba:2") @alert("look") permit (principal in Role::"reader", action in Action::"read", resource);
`}}
		s.Policy.Digest = decision.Digest(s.Policy.Files, s.Policy.Actions)
	})
	r := w.request(wanted())
	r, err := w.answer(r.ID, evidence.Approved, carol)
	if err != nil {
		t.Fatal(err)
	}
	table, err := w.Allowed(t.Context(), "bot", api.Moment{}, asker)
	if err != nil || len(table.Rows) != 2 {
		t.Fatalf("%+v, %v", table, err)
	}
	for _, cells := range table.Rows {
		row := map[string]string{}
		for i, c := range table.Columns {
			row[c] = cells[i]
		}
		want := "max_rows=100"
		if row["action"] == "postgres:select" {
			want = "approval=dba:2 max_rows=100 max_time=1500ms alert=look"
		}
		if row["obligations"] != want || row["grants"] != r.Used.By || row["tickets"] != "OPS-1" || row["approved_by"] != carol.Person.ID {
			t.Errorf("%v, want the obligations %q", row, want)
		}
	}
}

func wish(role string) Wish {
	return Wish{Agent: "bot", Session: "gw1.1.9", Role: role, Resource: "orders", Lasts: time.Hour, Ticket: "OPS-1", Reason: "I was refused"}
}

func TestAnAgentAsksForAccess(t *testing.T) {
	w := newWorld(t, separated)
	ctx := t.Context()
	got, err := w.Wish(ctx, wish("reader"))
	if err != nil || got.Before || !slices.Equal(got.Approvers, []string{bob.Person.ID, carol.Person.ID, dave.Person.ID}) {
		t.Fatalf("%+v, %v", got, err)
	}
	r, err := w.approval(got.Request)
	if err != nil || r.Asked.By.Person.ID != asker.Person.ID || r.Asked.By.Via != "agent bot, session gw1.1.9" || r.Asked.Reason != "I was refused" {
		t.Errorf("%+v, %v", r, err)
	}
	again, err := w.Wish(ctx, wish("reader"))
	if err != nil || !again.Before || again.Request != got.Request {
		t.Errorf("again: %+v, %v", again, err)
	}
	_, err = w.answer(got.Request, evidence.Approved, asker)
	w.status("its owner", err, http.StatusForbidden, "nobody approves their own request")

	// Names that aren't there are told from none that are.
	for what, change := range map[string]func(*Wish){
		"role": func(w *Wish) { w.Role = "emperor" }, "resource": func(w *Wish) { w.Resource = "nothing" },
	} {
		n := wish("writer")
		change(&n)
		_, err := w.Wish(ctx, n)
		w.status(what, err, http.StatusUnprocessableEntity, "there is no such role or resource")
		if strings.Contains(fmt.Sprint(err), "reader") || strings.Contains(fmt.Sprint(err), "orders") {
			t.Errorf("%s: it is told %v", what, err)
		}
	}
	if _, err := w.answer(got.Request, evidence.Approved, bob); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Wish(ctx, wish("reader")); err != nil || got.Before {
		t.Errorf("once it was answered: %+v, %v", got, err)
	}
}

func TestAnAgentFloodsNobody(t *testing.T) {
	w := newWorld(t, separated)
	ctx := t.Context()
	ask := func(ticket string) (Wished, error) {
		n := wish("reader")
		n.Ticket = ticket
		return w.Wish(ctx, n)
	}
	var first string
	for i := range maxWishes {
		got, err := ask(fmt.Sprint("OPS-", i))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got.Request
		}
	}
	_, err := ask("OPS-99")
	w.status("one more", err, http.StatusConflict, "wait for an answer")

	// A gateway that starts knows what waits.
	w.wishes = wishes{}
	_, err = ask("OPS-99")
	w.status("after a start", err, http.StatusConflict, "wait for an answer")
	if _, err := w.answer(first, evidence.Refused, bob); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("OPS-99"); err != nil {
		t.Errorf("after an answer: %v", err)
	}
	for range maxAttempts {
		_, err = ask("OPS-99")
	}
	w.status("without pause", err, http.StatusConflict, "within an hour")
	if n := w.count(evidence.ApprovalRequest); n != maxWishes+1 {
		t.Errorf("%d requests are on record", n)
	}
}

func TestAnAgentThatOnlyItsOwnerCouldAnswer(t *testing.T) {
	w := newWorld(t, func(s *Settings) { s.Config.People = []evidence.Member{{ID: asker.Person.ID}} })
	_, err := w.Wish(t.Context(), wish("reader"))
	w.status("asks", err, http.StatusUnprocessableEntity, "ask "+asker.Person.ID)
}

func TestKillingWhatIsNotThere(t *testing.T) {
	w := newWorld(t)
	for what, k := range map[string]api.KillRequest{
		"a session that never was": {Session: "gw1.1.9", Reason: "x"},
		"an agent without":         {Agent: "bot", Reason: "x"},
		"an agent that isn't":      {Agent: "nobody", Reason: "x"},
	} {
		_, err := w.Kill(t.Context(), k, asker)
		w.status(what, err, http.StatusNotFound, "exhibit")
	}
	if n := w.count(evidence.SessionKill); n != 0 {
		t.Errorf("%d kills are on record", n)
	}
}
