package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// A bundle comes in force in one of five ways, and package decision holds each
// to its rules: as the first of a gateway, from the folder; by a reload of the
// folder, where one person may; by the activation of a proposal that was
// approved; by going back; or with the actions of a newer gateway, under the
// same files.

// standing is the bundle that counts under s: that of the folder, or the one in
// force. Then why says why the folder's isn't loaded; it is "" when there is
// nothing to load.
func standing(registry *decision.Registry, s *Settings) (b evidence.PolicyBody, why string) {
	before, p := registry.Bundle()
	if p == nil || slices.Equal(before.Files, s.Policy.Files) {
		return s.Policy, ""
	}
	kept := before
	// The actions are the gateway's own, and not of the folder.
	if _, err := decision.Compile(before.Files, s.Vocabulary.Actions); err == nil && s.Vocabulary.Actions != nil {
		kept = evidence.PolicyBody{Files: before.Files, Actions: s.Vocabulary.Actions, Digest: decision.Digest(before.Files, s.Vocabulary.Actions)}
	}
	_, was := registry.InForce(s.Policy.Digest)
	switch {
	case s.Unread != nil:
		return kept, "it cannot be used: " + strings.Join(strings.Fields(s.Unread.Error()), " ")
	case needsTwo(registry, s):
		return kept, "another person must approve it"
	case was && (before.Request != "" || before.Back != ""):
		return kept, "it was replaced by a bundle that people activated"
	}
	return s.Policy, ""
}

// needsTwo reports whether a policy needs two people, by what is in force or by
// what would be.
func needsTwo(registry *decision.Registry, s *Settings) bool {
	return registry.Separated() || s.Config.Separation == evidence.SeparationRequired
}

// usable is why s can't be put in force: its policy folder can't be read, and it
// is needed.
func usable(registry *decision.Registry, s *Settings) error {
	if s.Unread != nil && (registry.Policy() == "" || !needsTwo(registry, s)) {
		return s.Unread
	}
	return nil
}

// stale reports whether the folder's bundle is one that was in force: nobody
// edited it, it was left behind.
func stale(registry *decision.Registry, s *Settings) bool {
	_, was := registry.InForce(s.Policy.Digest)
	return was && s.Unread == nil
}

// edited is what a reload says of a folder that it doesn't load; nil when there
// is nothing to say.
func edited(registry *decision.Registry, s *Settings, why string) *api.Edited {
	if why == "" {
		return nil
	}
	before, _ := registry.Bundle()
	e := &api.Edited{Why: why, Hint: "exhibit policy propose asks for the approval of what is in the folder",
		Diff: api.Diff{Before: registry.Policy(), After: s.Policy.Digest}}
	if s.Unread == nil {
		e.Diff.Diff = policy.Diff(before, s.Policy)
	} else {
		e.Hint = "mend it: exhibit policy test"
	}
	if stale(registry, s) {
		e.Hint = "the folder holds an older bundle: exhibit policy rollback goes back to it, exhibit policy show prints what is in force"
	}
	return e
}

const (
	watchPause = 20 * time.Second // between two looks at the policy folder
	editPause  = time.Minute      // for a person who edits to reload
	alertEdit  = workpaper.RuleHandEdited
)

// watched is what was seen of the policy folder.
type watched struct {
	mu      sync.Mutex
	seen    map[string]time.Duration // by digest or error, when first
	alerted map[string]bool
}

// watchFolder looks at the policy folder again and again.
func (g *Gateway) watchFolder(ctx context.Context) error {
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			g.lookAtFolder()
		}
	}
}

// lookAtFolder raises an alert, once for each content, when the policy folder
// holds what isn't in force and was not before. Where a reload would load it, a
// person has some time to do so.
func (g *Gateway) lookAtFolder() {
	s := *g.live.Load()
	if s.Folder == nil {
		return
	}
	s.Policy, s.Unread = s.Folder()
	g.compareFolder(&s, false)
}

// compareFolder is lookAtFolder of what was read. At the start nobody is waited
// for.
func (g *Gateway) compareFolder(s *Settings, start bool) {
	registry := g.registry()
	before, _ := registry.Bundle()
	g.folder.mu.Lock()
	defer g.folder.mu.Unlock()
	if slices.Equal(before.Files, s.Policy.Files) && s.Unread == nil || stale(registry, s) {
		clear(g.folder.seen)
		return
	}
	what, text := s.Policy.Digest, fmt.Sprintf("the files in the policy folder (%.12s) are not the policy in force (%.12s): they are not loaded until they are proposed and approved", s.Policy.Digest, registry.Policy())
	if s.Unread != nil {
		first, _, _ := strings.Cut(s.Unread.Error(), "\n")
		what, text = s.Unread.Error(), fmt.Sprintf("the files in the policy folder cannot be used, and the policy in force (%.12s) stays: %.300s", registry.Policy(), first)
	} else if !registry.Separated() {
		text = fmt.Sprintf("the files in the policy folder (%.12s) are not the policy in force (%.12s), and nobody reloaded them", s.Policy.Digest, registry.Policy())
	}
	now := g.clock.elapsed()
	since, known := g.folder.seen[what]
	if !known {
		since = now
		g.folder.seen[what] = since
	}
	if g.folder.alerted[what] || !start && !registry.Separated() && now-since < editPause {
		return
	}
	g.folder.alerted[what] = true
	g.log.Warn("the policy folder was edited", "folder", fmt.Sprintf("%.12s", s.Policy.Digest), "in_force", fmt.Sprintf("%.12s", registry.Policy()))
	g.Alert(alertEdit, "medium", text)
}

// proposal is the request for a policy.
func proposal(p *evidence.Proposal, digest string, by evidence.By) evidence.ApprovalRequestBody {
	return evidence.ApprovalRequestBody{
		Kind: evidence.ApprovePolicy, Digest: digest, Policy: p, Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, By: by,
	}
}

// ProposePolicy implements api.Policies.
func (g *Gateway) ProposePolicy(ctx context.Context, n api.NewProposal, by evidence.By, progress func(api.Progress)) (api.Proposed, error) {
	b, p, err := g.bundle(n.Files)
	if err != nil {
		return api.Proposed{}, err
	}
	registry := g.registry()
	before, _ := registry.Bundle()
	if slices.Equal(b.Files, before.Files) {
		return api.Proposed{}, api.Conflict("this bundle is in force already", "")
	}
	if body := proposal(nil, b.Digest, by); len(answerers(registry, &body)) == 0 {
		hint := "name people and, if you like, rights.policy_approvers in the configuration, then exhibit reload"
		if !registry.Separated() {
			hint = "one person may put policies in force alone here, on record as that: exhibit reload"
		}
		return api.Proposed{}, api.Invalid(fmt.Sprintf("nobody could approve it: %s asks, and nobody else approves policies", by.Person.ID), hint)
	}
	report, err := g.test(b, n.Tests)
	if err != nil {
		return api.Proposed{}, err
	}
	prop := &evidence.Proposal{Before: registry.Policy(), Files: b.Files, Actions: b.Actions, Diff: policy.Diff(before, b), Tests: len(report.Results)}
	out := api.Proposed{Digest: b.Digest, Before: prop.Before, Diff: prop.Diff, Tests: prop.Tests, Untested: report.Untested, Expires: n.Expires}
	if n.Days > 0 {
		bt, err := g.backtest(ctx, p, b.Digest, n.Days, by, progress)
		if err != nil {
			return api.Proposed{}, err
		}
		prop.Backtest, out.Backtest = bt.Summary(n.Days), backtestReport(bt, n.Days)
	}
	if out.Expires.IsZero() {
		out.Expires = moment(g.requestEnds())
	}
	body := proposal(prop, b.Digest, by)
	body.Ticket, body.Reason, body.Expires = n.Ticket, n.Reason, micros(out.Expires)
	pos, err := g.control(ctx, evidence.Head{Type: evidence.ApprovalRequest}, body)
	out.Request = pos.String()
	return out, err
}

// bundle compiles files that somebody sent.
func (g *Gateway) bundle(files []evidence.File) (evidence.PolicyBody, *decision.Policy, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b evidence.File) int { return strings.Compare(a.Name, b.Name) })
	b, err := policy.Bundle(files, g.live.Load().Vocabulary)
	if err != nil {
		return b, nil, policyInvalid("the policies cannot be used", policy.Problems(err), err)
	}
	p, err := decision.Compile(b.Files, b.Actions)
	return b, p, err
}

// test runs tests that somebody sent. All must pass.
func (g *Gateway) test(b evidence.PolicyBody, files []evidence.File) (policy.Report, error) {
	report, err := policy.Test(b, files, g.live.Load().Vocabulary)
	if err != nil {
		return report, policyInvalid("the tests cannot be run", policy.Problems(err), err)
	}
	if report.Failed == 0 {
		return report, nil
	}
	var details []api.Detail
	for _, r := range report.Results {
		if r.Wrong != "" {
			details = append(details, api.Detail{Message: fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Name, r.Wrong)})
		}
	}
	return report, api.Invalid(fmt.Sprintf("%d of %d tests fail", report.Failed, len(report.Results)), "nothing was proposed: mend the rules or the tests", details...)
}

func policyInvalid(what string, problems []*decision.LoadError, err error) error {
	if len(problems) == 0 {
		return api.Invalid(what+": "+err.Error(), "nothing was proposed")
	}
	var details []api.Detail
	for _, p := range problems {
		plain := *p
		plain.Hint = ""
		details = append(details, api.Detail{Message: plain.Error(), Hint: p.Hint})
	}
	return api.Invalid(what, "nothing was proposed", details...)
}

// Backtest implements api.Policies.
func (g *Gateway) Backtest(ctx context.Context, n api.NewProposal, by evidence.By, progress func(api.Progress)) (api.BacktestReport, error) {
	b, p, err := g.bundle(n.Files)
	if err != nil {
		return api.BacktestReport{}, err
	}
	bt, err := g.backtest(ctx, p, b.Digest, n.Days, by, progress)
	if err != nil {
		return api.BacktestReport{}, err
	}
	return *backtestReport(bt, n.Days), nil
}

func backtestReport(bt *policy.Backtest, days int) *api.BacktestReport {
	s := bt.Summary(days)
	return &api.BacktestReport{Days: days, Commands: s.Commands, Differ: s.Differ, Agents: bt.Agents()}
}

// backtest decides the commands of the last days again, up to the record that
// says so: it is a reading of evidence.
func (g *Gateway) backtest(ctx context.Context, p *decision.Policy, digest string, days int, by evidence.By, progress func(api.Progress)) (*policy.Backtest, error) {
	upTo, err := g.read(ctx, "backtest", fmt.Sprintf("%d days under policy %s", days, digest), by)
	if err != nil {
		return nil, err
	}
	from := g.clock.now().AddDate(0, 0, -days).UnixMicro()
	var bt *policy.Backtest
	n := 0
	err = g.since(ctx, from, upTo, func(rec *evidence.Record) (err error) {
		if bt == nil {
			if bt, err = g.newBacktest(ctx, p, rec.Head.Pos, from); err != nil {
				return err
			}
		}
		if n++; n%1024 == 0 {
			progress(api.Progress{Stage: "deciding recorded commands again", Done: bt.Commands()})
		}
		return bt.Record(rec)
	})
	if err != nil {
		return nil, err
	}
	if bt == nil {
		bt = policy.NewBacktest(p, g.registry())
	}
	return bt, nil
}

// newBacktest begins with the registry of a position.
func (g *Gateway) newBacktest(ctx context.Context, p *decision.Policy, first evidence.Position, from int64) (*policy.Backtest, error) {
	registry, err := g.registryBefore(ctx, first)
	if err != nil {
		return nil, err
	}
	bt := policy.NewBacktest(p, registry)
	bt.From = from
	bt.Start = func(pos evidence.Position) (rec *evidence.Record, err error) {
		rec, err = g.recordAt(ctx, pos)
		if err == nil && rec.Head.Type != evidence.SessionStart {
			rec = nil
		}
		return rec, err
	}
	return bt, nil
}

// registryBefore is the registry that a record at a position was made under.
func (g *Gateway) registryBefore(ctx context.Context, pos evidence.Position) (*decision.Registry, error) {
	fold := decision.NewFold(nil)
	err := g.sealer.ScanControl(ctx, nil, func(r *evidence.Record) (err error) {
		if !r.Head.Pos.Before(pos) {
			return errFound
		}
		return fold.Apply(r.Head, r.Body)
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return fold.Registry(), nil
}

// ActivatePolicy implements api.Policies.
func (g *Gateway) ActivatePolicy(ctx context.Context, request string, by evidence.By) (api.PolicyChange, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	registry := g.registry()
	a, ok := registry.Approval(request)
	switch {
	case !ok || a.Policy == nil:
		return api.PolicyChange{}, api.NotFound(fmt.Sprintf("there is no proposal %.80q", request), "exhibit policy list shows those that wait")
	case !a.Used.IsZero():
		return api.PolicyChange{}, api.Conflict(fmt.Sprintf("proposal %s is used: record %s put it in force", a.ID, a.Used), "exhibit policy rollback goes back to a bundle that was in force")
	case a.Policy.Before != registry.Policy():
		return api.PolicyChange{}, api.Conflict(fmt.Sprintf("proposal %s was made from policy %.12s, and %.12s is in force by now", a.ID, a.Policy.Before, registry.Policy()),
			"what it would change is no longer what was approved: exhibit policy propose")
	}
	return g.change(ctx, evidence.PolicyBody{
		Digest: a.Digest, Before: a.Policy.Before, Files: a.Policy.Files, Actions: a.Policy.Actions, Diff: a.Policy.Diff, Request: a.ID, By: by,
	})
}

// RollbackPolicy implements api.Policies.
func (g *Gateway) RollbackPolicy(ctx context.Context, change, reason string, by evidence.By) (api.PolicyChange, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	now, _ := g.registry().Bundle()
	if change == "" {
		change = now.Before
	}
	if change == "" {
		return api.PolicyChange{}, api.Conflict("the bundle in force is the first: there is nothing to go back to", "")
	}
	_, b, err := g.findChange(ctx, change)
	if err != nil {
		return api.PolicyChange{}, err
	}
	if b.Digest == now.Digest {
		return api.PolicyChange{}, api.Conflict("that bundle is in force", "exhibit policy list shows the others")
	}
	newest, _ := g.registry().InForce(b.Digest)
	return g.change(ctx, evidence.PolicyBody{
		Digest: b.Digest, Before: now.Digest, Files: b.Files, Actions: b.Actions, Diff: policy.Diff(now, b), Back: newest.String(), Reason: reason, By: by,
	})
}

// change records a change of policy, and after it one to the gateway's own
// actions where the bundle was made for those of another version.
func (g *Gateway) change(ctx context.Context, b evidence.PolicyBody) (api.PolicyChange, error) {
	first, err := g.policyChange(&b)
	if err != nil {
		return api.PolicyChange{}, err
	}
	drafts := []*evidence.Draft{first}
	if own := g.live.Load().Vocabulary.Actions; own != nil {
		next := evidence.PolicyBody{Digest: decision.Digest(b.Files, own), Before: b.Digest, Files: b.Files, Actions: own, By: b.By}
		if _, err := decision.Compile(b.Files, own); err == nil && next.Digest != b.Digest {
			next.Diff = policy.Diff(b, next)
			second, err := g.policyChange(&next)
			if err != nil {
				return api.PolicyChange{}, err
			}
			drafts = append(drafts, second)
		}
	}
	if err := g.recorder.Control(ctx, drafts...); err != nil {
		return api.PolicyChange{}, g.problem(err)
	}
	g.gate.Sweep()
	return g.apiPolicyChange(&first.Head, &b), nil
}

// policyChange signs a bundle that is about to be put in force, by the key that
// the records have in force: also while it isn't in its place yet.
func (g *Gateway) policyChange(b *evidence.PolicyBody) (*evidence.Draft, error) {
	due, key := g.logKeys.Load().Current().Text, g.material.log
	if next := g.material.next; next != nil && next.verifier == due {
		key = *next
	}
	if err := ledger.SignPolicy(g.opened.Origin, b, key); err != nil {
		return nil, err
	}
	return &evidence.Draft{Head: evidence.Head{Type: evidence.PolicyChange}, Body: evidence.EncodeBody(*b)}, nil
}

// signedPolicy wants the bundle in force to be one that a gateway of this log
// put there: whoever can write the journal, and no more, can't.
func (g *Gateway) signedPolicy(registry *decision.Registry) error {
	b, p := registry.Bundle()
	if p == nil {
		return nil
	}
	at, _ := registry.InForce(b.Digest)
	if err := g.logKeys.Load().OpenPolicy(at, &b); err != nil {
		return fmt.Errorf("the policies in force can't be relied on: %w; something else than this gateway wrote them (exhibit log fsck)", err)
	}
	return nil
}

// Policies implements api.Policies.
func (g *Gateway) Policies(ctx context.Context) (api.PolicyHistory, error) {
	out := api.PolicyHistory{Changes: []api.PolicyChange{}, Open: []api.OpenProposal{}}
	err := g.policyChanges(ctx, func(h *evidence.Head, b *evidence.PolicyBody) error {
		out.Changes = append(out.Changes, g.apiPolicyChange(h, b))
		return nil
	})
	if err != nil {
		return out, err
	}
	if n := len(out.Changes); n > 0 {
		out.Changes[n-1].InForce = true
	}
	registry, now := g.registry(), g.clock.now().UnixMicro()
	for _, a := range registry.Approvals() {
		state := registry.State(&a, now)
		if a.Policy == nil || state != decision.ApprovalPending && state != decision.ApprovalApproved {
			continue
		}
		by, approved := proposedBy(&a)
		out.Open = append(out.Open, api.OpenProposal{
			Request: a.ID, Status: state, Stale: a.Policy.Before != registry.Policy(), Digest: a.Digest, Before: a.Policy.Before, Ticket: a.Ticket,
			Proposed: by, Approved: approved, Tests: a.Policy.Tests, Backtest: a.Policy.Backtest, Expires: moment(a.Expires),
		})
	}
	return out, nil
}

// proposedBy is who asked for something and who approved it.
func proposedBy(a *decision.Approval) (asked api.Change, approved []api.Change) {
	asked = askedBy(a)
	for _, d := range a.Decisions {
		if d.Decision == evidence.Approved {
			approved = append(approved, decidedBy(&d))
		}
	}
	return asked, approved
}

func (g *Gateway) apiPolicyChange(h *evidence.Head, b *evidence.PolicyBody) api.PolicyChange {
	out := api.PolicyChange{
		Position: h.Pos.String(), Digest: b.Digest, Before: b.Before, Request: b.Request, Rollback: b.Back,
		Activated: api.Change{Position: h.Pos.String(), Time: moment(h.Time), By: b.By, Reason: b.Reason},
		InForce:   b.Digest == g.registry().Policy(),
	}
	if a, ok := g.registry().Approval(b.Request); ok {
		proposed, approved := proposedBy(&a)
		out.Proposed, out.Approved = &proposed, approved
	}
	return out
}

// policyChanges calls f for every change of policy, in order.
func (g *Gateway) policyChanges(ctx context.Context, f func(*evidence.Head, *evidence.PolicyBody) error) error {
	if err := g.synced(); err != nil {
		return err
	}
	err := g.sealer.ScanControl(ctx, nil, func(r *evidence.Record) error {
		if r.Head.Type != evidence.PolicyChange {
			return nil
		}
		var b evidence.PolicyBody
		if err := evidence.DecodeBody(r.Body, &b); err != nil {
			return err
		}
		return f(&r.Head, &b)
	})
	if err != nil && !errors.Is(err, errFound) {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// findChange finds the change that a person means: by position, or by the
// beginning of its bundle's digest, the newest.
func (g *Gateway) findChange(ctx context.Context, ref string) (h evidence.Head, found evidence.PolicyBody, err error) {
	digests := make(map[string]bool)
	byDigest := isDigest(ref)
	err = g.policyChanges(ctx, func(at *evidence.Head, b *evidence.PolicyBody) error {
		if at.Pos.String() != ref && !(byDigest && strings.HasPrefix(b.Digest, ref)) {
			return nil
		}
		digests[b.Digest] = true
		h, found = *at, *b
		return nil
	})
	switch {
	case err != nil:
		return h, found, err
	case len(digests) == 0:
		return h, found, api.NotFound(fmt.Sprintf("no change of policy is %.80q", ref), "exhibit policy list shows positions and digests")
	case len(digests) > 1:
		return h, found, api.Invalid(fmt.Sprintf("%.80q begins the digests of %d bundles", ref, len(digests)), "write more of it")
	}
	return h, found, nil
}

// isDigest reports whether a text can be the beginning of a digest that people
// write.
func isDigest(ref string) bool {
	_, err := hex.DecodeString(ref[:len(ref)&^1])
	return err == nil && len(ref) >= 6 && len(ref) <= 64
}

// PolicyAt implements api.Policies.
func (g *Gateway) PolicyAt(ctx context.Context, ref string) (api.Document, error) {
	if ref == "" {
		return g.Policy(ctx)
	}
	if a, ok := g.registry().Approval(ref); ok && a.Policy != nil {
		return api.Document{Digest: a.Digest, Files: a.Policy.Files, Actions: a.Policy.Actions}, nil
	}
	h, b, err := g.findChange(ctx, ref)
	if err == nil {
		return api.Document{Digest: b.Digest, Since: h.Pos.String(), Files: b.Files, Actions: b.Actions}, nil
	}
	if isDigest(ref) { // of a proposal that was never in force
		for _, a := range g.registry().Approvals() {
			if a.Policy != nil && strings.HasPrefix(a.Digest, ref) {
				return api.Document{Digest: a.Digest, Files: a.Policy.Files, Actions: a.Policy.Actions}, nil
			}
		}
	}
	return api.Document{}, err
}

// recordAt returns the record at a position, without its sealed part.
func (g *Gateway) recordAt(ctx context.Context, pos evidence.Position) (*evidence.Record, error) {
	rec, err := g.find(ctx, pos)
	switch {
	case err != nil:
		return nil, g.gone(err)
	case rec == nil:
		return nil, api.NotFound(fmt.Sprintf("there is no record %s", pos), "")
	}
	return rec, nil
}

// find is recordAt, with nil where there is no record, and seal's errors.
func (g *Gateway) find(ctx context.Context, pos evidence.Position) (*evidence.Record, error) {
	var rec *evidence.Record
	_, err := g.sealer.ReadFrom(pos).Next(ctx, func(r *evidence.Record) error {
		rec = r
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	if rec != nil && rec.Head.Pos != pos {
		return nil, nil
	}
	return rec, nil
}
