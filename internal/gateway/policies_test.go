package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// proposals makes a gateway where people propose.
func proposals(separation string) func(*Settings) {
	return func(s *Settings) {
		s.Vocabulary = policy.Vocabulary{Actions: packtest.Actions}
		s.Config.Separation = separation
		s.Config.People = []evidence.Member{{ID: packtest.Alice.Person.ID, Groups: []string{"security"}}, {ID: bob.Person.ID, Groups: []string{"security"}}, {ID: "carol@example.com"}}
		s.Config.PolicyApprovers = []string{"security"}
	}
}

// files is the synthetic policy with something behind it.
func files(more string) []evidence.File {
	return []evidence.File{{Name: "roles.cedar", Text: packtest.Policy + more}}
}

// bundleOf is what a folder with files holds.
func bundleOf(files []evidence.File) evidence.PolicyBody {
	return evidence.PolicyBody{Digest: decision.Digest(files, packtest.Actions), Files: files, Actions: packtest.Actions}
}

func quiet(api.Progress) {}

func (w *world) propose(more string, by evidence.By) api.Proposed {
	w.t.Helper()
	p, err := w.ProposePolicy(w.t.Context(), api.NewProposal{Files: files(more), Reason: "for a test"}, by, quiet)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) approve(id string, by evidence.By) {
	w.t.Helper()
	if _, err := w.answer(id, evidence.Approved, by); err != nil {
		w.t.Fatal(err)
	}
}

func alertsOf(t *testing.T, g *Gateway) (texts []string) {
	t.Helper()
	if err := g.synced(); err != nil {
		t.Fatal(err)
	}
	err := g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
		if r.Head.Type != evidence.Alert {
			return nil
		}
		var b evidence.AlertBody
		err := evidence.DecodeBody(r.Body, &b)
		if b.Rule == alertEdit {
			texts = append(texts, b.Text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestAPolicyIsProposedByOneAndApprovedByAnother(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationRequired))
	ctx := t.Context()
	was := w.registry().Policy()
	p := w.propose("// nothing\n", packtest.Alice)
	if p.Before != was || p.Tests != 0 || !slices.Equal(p.Untested, []string{"cleaner", "reader", "sampler", "writer"}) || !strings.Contains(p.Diff, "+// nothing") {
		t.Errorf("%+v", p)
	}
	if _, err := w.ActivatePolicy(ctx, p.Request, packtest.Alice); problemStatus(err) != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), "it has 0 of 1 of policy") {
		t.Errorf("before anybody said yes: %v", err)
	}
	for who, by := range map[string]evidence.By{"who asked": packtest.Alice, "no approver": carol} {
		if _, err := w.answer(p.Request, evidence.Approved, by); problemStatus(err) != http.StatusForbidden {
			t.Errorf("%s: %v", who, err)
		}
	}
	h, err := w.Policies(ctx)
	if err != nil || len(h.Open) != 1 || h.Open[0].Status != decision.ApprovalPending || h.Open[0].Proposed.By != packtest.Alice {
		t.Fatalf("%+v, %v", h.Open, err)
	}
	w.approve(p.Request, bob)
	if w.registry().Policy() != was {
		t.Error("the approval put it in force")
	}
	c, err := w.ActivatePolicy(ctx, p.Request, packtest.Alice)
	if err != nil || w.registry().Policy() != p.Digest || !c.InForce || c.Proposed == nil || len(c.Approved) != 1 || c.Approved[0].By != bob {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := w.ActivatePolicy(ctx, p.Request, packtest.Alice); problemStatus(err) != http.StatusConflict {
		t.Errorf("a second time: %v", err)
	}
	h, err = w.Policies(ctx)
	if err != nil || len(h.Open) != 0 || len(h.Changes) != 2 || h.Changes[0].InForce || !h.Changes[1].InForce || h.Changes[1].Request != p.Request {
		t.Errorf("%+v, %v", h, err)
	}
	for _, ref := range []string{"", p.Digest[:8], c.Position, p.Request} {
		if d, err := w.PolicyAt(ctx, ref); err != nil || d.Digest != p.Digest || len(d.Files) != 1 {
			t.Errorf("%q: %s, %v", ref, d.Digest, err)
		}
	}
	if d, err := w.PolicyAt(ctx, was[:10]); err != nil || d.Digest != was {
		t.Errorf("the one before: %s, %v", d.Digest, err)
	}
	if _, err := w.PolicyAt(ctx, "nothing"); problemStatus(err) != http.StatusNotFound {
		t.Errorf("%v", err)
	}
	if _, err := w.ProposePolicy(ctx, api.NewProposal{Files: files("// nothing\n")}, bob, quiet); problemStatus(err) != http.StatusConflict {
		t.Errorf("the same again: %v", err)
	}
}

func TestWhatCannotBeProposed(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationRequired))
	test := func(expect string) []evidence.File {
		return []evidence.File{{Name: "a.test.yaml", Text: "tests:\n  - {name: readers write, roles: [reader], do: postgres:insert public.t, expect: " + expect + "}\n"}}
	}
	for what, tc := range map[string]struct {
		p    api.NewProposal
		says string
	}{
		"a failing test":      {api.NewProposal{Files: files("// x"), Tests: test("allow")}, "a.test.yaml:2: readers write: it is deny, and allow was expected"},
		"a test that is none": {api.NewProposal{Files: files("// x"), Tests: test("maybe")}, "it expects \"maybe\""},
		"no policy":           {api.NewProposal{Files: files("permit (principal")}, "cannot be read as Cedar"},
		"a misspelt name":     {api.NewProposal{Files: files(`@id("x") forbid (principal, action, resource) when { context has tiket };`)}, "did you mean context.ticket?"},
		"an old end":          {api.NewProposal{Files: files("// x"), Expires: time.Now().Add(-time.Hour)}, "expire within"},
	} {
		_, err := w.ProposePolicy(t.Context(), tc.p, packtest.Alice, quiet)
		var p *api.Problem
		if !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %v", what, err)
			continue
		}
		text := p.Error()
		for _, d := range p.Details {
			text += "\n" + d.Message + " " + d.Hint
		}
		if !strings.Contains(text, tc.says) {
			t.Errorf("%s\n got %s\nwant %s", what, text, tc.says)
		}
	}
	if n := w.count(evidence.ApprovalRequest); n != 0 {
		t.Errorf("%d were recorded", n)
	}
	p, err := w.ProposePolicy(t.Context(), api.NewProposal{Files: files("// x"), Tests: test("deny")}, packtest.Alice, quiet)
	if err != nil || p.Tests != 1 || !slices.Contains(p.Untested, "writer") {
		t.Errorf("%+v, %v", p, err)
	}
}

// Where nobody else could say yes a proposal would wait in vain.
func TestAProposalThatNobodyCouldApprove(t *testing.T) {
	for separation, hint := range map[string]string{evidence.SeparationRequired: "rights.policy_approvers", evidence.SeparationReported: "exhibit reload"} {
		w := newWorld(t, proposals(separation), func(s *Settings) { s.Config.People = s.Config.People[:1] })
		_, err := w.ProposePolicy(t.Context(), api.NewProposal{Files: files("// x")}, packtest.Alice, quiet)
		var p *api.Problem
		if !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity || !strings.Contains(p.Hint, hint) {
			t.Errorf("%s: %v", separation, err)
		}
	}
}

// Of two proposals that were made from one bundle, one comes in force, whoever
// is first.
func TestTwoProposalsOnOneBase(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationRequired))
	a, b := w.propose("// a\n", packtest.Alice), w.propose("// b\n", bob)
	w.approve(a.Request, bob)
	w.approve(b.Request, packtest.Alice)
	var wg sync.WaitGroup
	var done atomic.Int32
	errs := make(chan error, 16)
	for i := range 16 {
		id := []string{a.Request, b.Request}[i%2]
		wg.Go(func() {
			_, err := w.ActivatePolicy(t.Context(), id, packtest.Alice)
			if err == nil {
				done.Add(1)
				return
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if problemStatus(err) != http.StatusConflict {
			t.Error(err)
		}
	}
	if done.Load() != 1 || w.count(evidence.PolicyChange) != 2 {
		t.Errorf("%d activations, %d changes", done.Load(), w.count(evidence.PolicyChange))
	}
	h, err := w.Policies(t.Context())
	if err != nil || len(h.Open) != 1 || !h.Open[0].Stale {
		t.Errorf("%+v, %v", h.Open, err)
	}
}

// Where two people are needed, what somebody writes into the folder counts for
// nothing, at a reload, at a start and in between, and is noticed once.
func TestAHandEditIsNotLoaded(t *testing.T) {
	var s Settings
	folder := bundleOf(files(""))
	w := newWorld(t, proposals(evidence.SeparationRequired), func(settings *Settings) {
		settings.Folder = func() (evidence.PolicyBody, error) { return folder, nil }
		s = *settings
	})
	was := w.registry().Policy()
	w.lookAtFolder()
	if got := alertsOf(t, w.Gateway); len(got) != 0 {
		t.Errorf("before: %q", got)
	}
	folder = bundleOf(files("// by hand\n"))
	for range 3 {
		w.lookAtFolder()
	}
	if got := alertsOf(t, w.Gateway); len(got) != 1 || !strings.Contains(got[0], folder.Digest[:12]) {
		t.Errorf("edited: %q", got)
	}
	edit := s
	edit.Policy = folder
	w.changed.Store(&edit)
	for _, dry := range []bool{true, false} {
		r, err := w.Reload(t.Context(), dry, packtest.Alice)
		if err != nil || r.Policy.Diff != "" || r.Edited == nil || !strings.Contains(r.Edited.Hint, "exhibit policy propose") || !strings.Contains(r.Edited.Diff.Diff, "+// by hand") {
			t.Errorf("reload: %+v, %v", r, err)
		}
	}
	if w.registry().Policy() != was {
		t.Error("the reload loaded it")
	}
	// Another edit is another alert, and so is one that can't be read.
	folder = bundleOf(files("// by hand, again\n"))
	w.lookAtFolder()
	broken := edit
	broken.Policy, broken.Unread = evidence.PolicyBody{}, errors.New("the policies cannot be used:\nroles.cedar:1:1: what")
	w.changed.Store(&broken)
	if r, err := w.Reload(t.Context(), false, packtest.Alice); err != nil || r.Edited == nil || !strings.Contains(r.Edited.Why, "roles.cedar:1:1: what") {
		t.Errorf("reload of what can't be read: %+v, %v", r, err)
	}
	if got := alertsOf(t, w.Gateway); len(got) != 3 {
		t.Errorf("three edits: %q", got)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]Settings{"edited": edit, "broken": broken} {
		g, err := Open(t.Context(), at, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before := len(alertsOf(t, g))
		if g.registry().Policy() != was || before < 4 {
			t.Errorf("%s: after a start %.12s is in force, alerts %d", name, g.registry().Policy(), before)
		}
		if err := g.Abandon(); err != nil {
			t.Fatal(err)
		}
	}
}

// A newer gateway brings its actions to the policy in force, not to the folder's.
func TestANewerGatewayBringsItsActions(t *testing.T) {
	var s Settings
	w := newWorld(t, proposals(evidence.SeparationRequired), func(settings *Settings) { s = *settings })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	newer := map[string][]string{"postgres:merge": {"write"}}
	for k, v := range packtest.Actions {
		newer[k] = v
	}
	edited := files("// by hand\n")
	s.Vocabulary.Actions = newer
	s.Policy = evidence.PolicyBody{Files: edited, Actions: newer, Digest: decision.Digest(edited, newer)}
	g, err := Open(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := g.registry().Bundle()
	if b.Digest != decision.Digest(files(""), newer) {
		t.Errorf("in force is %.12s", b.Digest)
	}
	if err := g.Abandon(); err != nil {
		t.Fatal(err)
	}
}

// skipping is a clock that can be turned on.
type skipping struct {
	system
	skipped atomic.Int64
}

func (c *skipping) elapsed() time.Duration {
	return c.system.elapsed() + time.Duration(c.skipped.Load())
}

// Where one person may do it, a reload loads the folder; what nobody reloads is
// noticed after a while.
func TestAHandEditThatNobodyReloads(t *testing.T) {
	clock := &skipping{}
	var s Settings
	folder := bundleOf(files(""))
	w := newWorld(t, proposals(evidence.SeparationReported), func(settings *Settings) {
		settings.clock = clock
		settings.Folder = func() (evidence.PolicyBody, error) { return folder, nil }
		s = *settings
	})
	alerts := func(want int) {
		t.Helper()
		w.lookAtFolder()
		if got := alertsOf(t, w.Gateway); len(got) != want {
			t.Errorf("%q, want %d", got, want)
		}
	}
	edit := func(more string) {
		folder = bundleOf(files(more))
		next := s
		next.Policy = folder
		w.changed.Store(&next)
	}
	edit("// one\n")
	alerts(0)
	clock.skipped.Add(int64(editPause) / 2)
	alerts(0)
	if r, err := w.Reload(t.Context(), false, packtest.Alice); err != nil || r.Edited != nil || w.registry().Policy() != folder.Digest {
		t.Errorf("%+v, %v", r, err)
	}
	clock.skipped.Add(int64(editPause) * 2)
	alerts(0)
	edit("// two\n")
	alerts(0)
	clock.skipped.Add(int64(editPause))
	alerts(1)
	alerts(1)
}

// One person goes back at once, says why, and no start undoes it.
func TestARollback(t *testing.T) {
	for _, separation := range []string{evidence.SeparationRequired, evidence.SeparationReported} {
		t.Run(separation, func(t *testing.T) {
			var s Settings
			w := newWorld(t, proposals(separation), func(settings *Settings) { s = *settings })
			ctx := t.Context()
			first := w.registry().Policy()
			if _, err := w.RollbackPolicy(ctx, "", "at once", bob); problemStatus(err) != http.StatusConflict {
				t.Errorf("to before the first: %v", err)
			}
			p := w.propose("// worse\n", packtest.Alice)
			w.approve(p.Request, bob)
			if _, err := w.ActivatePolicy(ctx, p.Request, packtest.Alice); err != nil {
				t.Fatal(err)
			}
			c, err := w.RollbackPolicy(ctx, "", "it locks out the bots", bob)
			if err != nil || w.registry().Policy() != first || c.Rollback == "" || c.Activated.Reason != "it locks out the bots" || c.Activated.By != bob {
				t.Errorf("%+v, %v", c, err)
			}
			h, err := w.Policies(ctx)
			if err != nil || len(h.Changes) != 3 || h.Changes[2].Rollback != h.Changes[0].Position {
				t.Errorf("%+v, %v", h.Changes, err)
			}
			if _, err := w.RollbackPolicy(ctx, h.Changes[2].Position, "again", bob); problemStatus(err) != http.StatusConflict {
				t.Errorf("to what is in force: %v", err)
			}
			if _, err := w.RollbackPolicy(ctx, "gw1.9.9", "nowhere", bob); problemStatus(err) != http.StatusNotFound {
				t.Errorf("to nowhere: %v", err)
			}
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			s.Policy = bundleOf(files("// worse\n")) // as the folder still has it
			g, err := Open(ctx, s, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if g.registry().Policy() != first {
				t.Error("the start undid it")
			}
			if got := alertsOf(t, g); len(got) != 0 {
				t.Errorf("nobody edited anything: %q", got)
			}
			if err := g.Abandon(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// decided records a session of bot and its commands, as they are decided.
func (w *world) decided(actions ...string) (positions []evidence.Position) {
	w.t.Helper()
	c, err := w.recorder.NewChain()
	if err != nil {
		w.t.Fatal(err)
	}
	facts := evidence.Facts{"protocol": "postgres", "tls": true}
	ask := func(path, action, object string) (evidence.Decision, []evidence.Check) {
		checks := []evidence.Check{{Action: action, Object: object}}
		return w.registry().Decide(decision.Request{Agent: "bot", Resource: "orders", Time: time.Now().UnixMicro(), Checks: checks, Session: facts, Path: path}), checks
	}
	d, checks := ask(evidence.PathConnect, "postgres:connect", "")
	start := w.put(c, evidence.Head{Type: evidence.SessionStart, Key: c.Key(), Effect: d.Effect, Verb: evidence.VerbConnect},
		evidence.SessionStartBody{Agent: "bot", Context: facts, Checks: checks, Decision: d})
	positions = append(positions, start.Pos)
	for _, a := range actions {
		d, checks := ask("simple", a, "public.t")
		h := evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: d.Effect}
		if d.Effect != evidence.Allow {
			h.Outcome = evidence.Denied
		}
		at := w.put(c, h, evidence.IntentBody{Path: "simple", Parse: evidence.ParseFull, Text: a + " ?", Checks: checks, Decision: d})
		positions = append(positions, at.Pos)
		if d.Effect == evidence.Allow {
			w.put(c, evidence.Head{Type: evidence.CommandResult, Of: at.Pos, Outcome: evidence.OK}, evidence.ResultBody{})
		}
	}
	w.end(c, start.Pos)
	return positions
}

func (w *world) role(role string) api.Grant {
	w.t.Helper()
	g, err := w.AddGrant(w.t.Context(), api.NewGrant{Agent: "bot", Role: role, Resource: "orders", Expires: time.Now().Add(time.Hour)}, packtest.Alice)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// A proposal is shown what it would have decided otherwise, before anybody
// approves it.
func TestAProposalIsBacktested(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationReported))
	w.role("writer")
	w.decided("postgres:select", "postgres:insert", "postgres:drop", "postgres:select")
	p, err := w.ProposePolicy(t.Context(), api.NewProposal{Days: 7, Files: []evidence.File{{Name: "roles.cedar", Text: `@id("writer")
permit (principal in Role::"writer", action in [Action::"read", Action::"admin", Action::"connect"], resource);
@id("reader") permit (principal in Role::"reader", action, resource);`}}}, packtest.Alice, quiet)
	if err != nil {
		t.Fatal(err)
	}
	b := p.Backtest
	if b == nil || b.Commands != 5 || b.Differ != 2 || len(b.Agents) != 1 || b.Agents[0].Allowed != 1 || b.Agents[0].Refused != 1 || len(b.Agents[0].Examples) != 2 {
		t.Errorf("%+v", b)
	}
	a, _ := w.registry().Approval(p.Request)
	if got := a.Policy.Backtest; got == nil || got.Differ != 2 || got.Days != 7 || got.Agents[0] != (evidence.BacktestByAgent{Agent: "bot", Allowed: 1, Refused: 1}) {
		t.Errorf("on record is %+v", got)
	}
	if w.count(evidence.EvidenceRead) != 1 {
		t.Error("the reading is not on record")
	}
}

// Why is answered from the log, also of what was decided under other rights.
func TestAnyDecisionCanBeExplained(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationReported))
	ctx := t.Context()
	g := w.role("reader")
	at := w.decided("postgres:select", "postgres:insert")
	if _, err := w.RevokeGrant(ctx, g.ID, "over", packtest.Alice); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		effect, says string
		permits      int
	}{{"allow", "", 1}, {"allow", "", 1}, {"deny", "roles here: reader", 0}} {
		e, err := w.ExplainDecision(ctx, at[i], packtest.Alice)
		if err != nil || e.Effect != want.effect || !strings.Contains(e.Reason, want.says) || e.Differs != "" || !slices.Equal(e.Roles, []string{"reader"}) ||
			len(e.Answers) != 1 || len(e.Answers[0].Permits) != want.permits || e.Position != at[i].String() || e.Agent != "bot" {
			t.Errorf("%s: %+v, %v", at[i], e, err)
		}
		if want.permits == 1 && (e.Answers[0].Permits[0].File != "roles.cedar" || !slices.Equal(e.Grants, []string{g.ID})) {
			t.Errorf("%s: %+v", at[i], e.Answers[0].Permits)
		}
	}
	if _, err := w.ExplainDecision(ctx, evidence.Position{Gateway: "gw1", Boot: 1}, packtest.Alice); problemStatus(err) != http.StatusNotFound {
		t.Errorf("a start of the gateway: %v", err)
	}
}

func TestTheLeastThatAnAgentNeeds(t *testing.T) {
	w := newWorld(t, proposals(evidence.SeparationReported))
	ctx := t.Context()
	used, spare := w.role("writer"), w.role("reader")
	w.decided("postgres:insert", "postgres:insert", "postgres:drop")
	s, err := w.Suggest(ctx, "bot", api.Range{}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if s.Commands != 3 || len(s.Used) != 2 || s.Used[1] != (api.UsedPair{Resource: "orders", Action: "postgres:insert", Object: "public.t", Commands: 2}) {
		t.Errorf("%+v", s)
	}
	// Connecting cited both grants, so none is unused.
	if len(s.Unused) != 0 {
		t.Errorf("unused %+v", s.Unused)
	}
	if !strings.Contains(s.Diff, `-@id("writer")`) || !strings.Contains(s.Diff, `+  action in [Action::"postgres:insert"]`) {
		t.Error(s.Diff)
	}
	third := w.role("reader")
	if s, err = w.Suggest(ctx, "bot", api.Range{}, packtest.Alice); err != nil || len(s.Unused) != 1 || s.Unused[0].ID != third.ID {
		t.Errorf("%+v, %v (grants %s, %s)", s.Unused, err, used.ID, spare.ID)
	}
	// A range begins where it says, in a block or behind all of them.
	if err := w.sealer.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	between := api.Moment{Time: time.Now()}
	w.decided("postgres:select")
	for _, flushed := range []bool{false, true} {
		if flushed {
			if err := w.sealer.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		s, err := w.Suggest(ctx, "bot", api.Range{From: between}, packtest.Alice)
		if err != nil || s.Commands != 2 || len(s.Used) != 2 || s.Used[1].Action != "postgres:select" {
			t.Errorf("flushed %t: %+v, %v", flushed, s.Used, err)
		}
	}
	later := api.Moment{Time: time.Now().Add(time.Hour)}
	if s, err := w.Suggest(ctx, "bot", api.Range{From: later}, packtest.Alice); err != nil || s.Commands != 0 || s.Cedar != "" {
		t.Errorf("of the future: %+v, %v", s, err)
	}
	if _, err := w.Suggest(ctx, "nobody", api.Range{}, packtest.Alice); problemStatus(err) != http.StatusNotFound {
		t.Error(err)
	}
}

// Who can write the journal, and has not the log's key, puts no policy in force.
func TestAPolicyThatTheGatewayDidNotSignIsNotServed(t *testing.T) {
	w := newWorld(t)
	change := func(more string) {
		t.Helper()
		b := bundleOf(files(more))
		b.Before, b.By = w.registry().Policy(), packtest.Alice
		d, err := w.policyChange(&b)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.recorder.Control(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	change("// by the first key\n")
	if _, err := w.RotateLogKey(t.Context(), api.KeyRotation{Reason: "yearly"}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	w.again() // on what the key before signed
	change("// by the second key\n")
	w.again()

	forged := bundleOf(files("// by nobody\n"))
	forged.Before, forged.By = w.registry().Policy(), packtest.Alice
	stranger, _ := packtest.LogKey("another key")
	if err := ledger.SignPolicy(w.opened.Origin, &forged, stranger); err != nil {
		t.Fatal(err)
	}
	if err := w.recorder.Control(t.Context(), &evidence.Draft{Head: evidence.Head{Type: evidence.PolicyChange}, Body: evidence.EncodeBody(forged)}); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.opened, nil, slog.New(slog.DiscardHandler)); !errors.Is(err, ledger.ErrUnsigned) {
		t.Errorf("it is served: %v", err)
	}
}

// BenchmarkBacktest decides a log of a million commands on disk again, as
// `exhibit policy backtest` has it done.
func BenchmarkBacktest(b *testing.B) {
	const commands, shapes = 1_000_000, 200
	w := newWorld(b, holding, func(s *Settings) {
		s.Vocabulary = policy.Vocabulary{Actions: packtest.Actions}
		s.Policy = bundleOf(files("")) // without limits
		s.Config.Resources[0].Durability = "process"
	})
	w.grantAs("reader")
	s := w.session(w.agentKey())
	var asked [shapes]*evidence.Command
	for i := range asked {
		asked[i] = &evidence.Command{Shape: &evidence.Shape{
			Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbRead, Text: fmt.Sprintf("SELECT a FROM public.t%d WHERE id = ?", i),
			Checks: []evidence.Check{{Action: "postgres:select", Object: fmt.Sprintf("public.t%d", i)}},
		}, Raw: fmt.Appendf(nil, "select a from t%d where id = 1", i)}
	}
	for i := range commands {
		w.ask(s, asked[i%shapes])
	}
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		b.Fatal(err)
	}
	if _, err := w.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	proposal := api.NewProposal{Days: 30, Files: []evidence.File{{Name: "roles.cedar", Text: `@id("reader") permit (principal in Role::"writer", action in Action::"connect", resource);`}}}
	b.ResetTimer()
	for b.Loop() {
		report, err := w.Backtest(b.Context(), proposal, packtest.Alice, quiet)
		if err != nil || report.Commands < commands || report.Differ < commands {
			b.Fatalf("%+v, %v", report, err)
		}
	}
	b.ReportMetric(float64(commands*b.N)/b.Elapsed().Seconds(), "commands/s")
}
