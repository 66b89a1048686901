package workpaper

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// The rules of separation that a change can break, or make use of.
const (
	sodGrant    = "grant.unapproved"    // a grant by one person
	sodPolicy   = "policy.unapproved"   // a policy by one person
	sodRollback = "policy.rollback"     // back to an earlier one, by one person
	sodLowered  = "separation.lowered"  // a configuration that no longer asks for two
	sodOwnAgent = "approver.owns_agent" // who approved answers for the agent
)

const dayMicros = int64(86_400_000_000)

// separation looks at a control record of the range for who did it. Before is
// the registry that it was applied to.
func (f *Fold) separation(r *evidence.Record, before *decision.Registry) error {
	switch r.Head.Type {
	case evidence.GrantCreate:
		var b evidence.GrantBody
		if evidence.DecodeBody(r.Body, &b) == nil { // else the change isn't valid
			return f.grantSeparation(&r.Head, &b, before)
		}
	case evidence.PolicyChange:
		var b evidence.PolicyBody
		if evidence.DecodeBody(r.Body, &b) == nil {
			return f.policySeparation(&r.Head, &b, before)
		}
	case evidence.ConfigChange:
		if before.Separated() && !f.registry.Separated() {
			by := f.registry.ConfigBody().By
			return f.violation(&r.Head, sodLowered, by, "rights no longer need two people")
		}
	}
	return nil
}

func (f *Fold) grantSeparation(h *evidence.Head, b *evidence.GrantBody, before *decision.Registry) error {
	f.separated(h, before, b.Request != "")
	if b.Request == "" {
		return f.violation(h, sodGrant, b.By, "role "+b.Role)
	}
	agent, _ := f.registry.Agent(b.Agent)
	a, _ := f.registry.Approval(b.Request)
	for _, d := range a.Decisions {
		if d.Decision == evidence.Approved && d.By.Person.ID == agent.Owner.ID {
			return f.violation(h, sodOwnAgent, d.By, "role "+b.Role+", request "+b.Request)
		}
	}
	return nil
}

func (f *Fold) policySeparation(h *evidence.Head, b *evidence.PolicyBody, before *decision.Registry) error {
	bundle, _ := before.Bundle()
	switch {
	case before.Policy() == "" || slices.Equal(b.Files, bundle.Files):
		return nil // the first one, or another version's actions
	case b.Back != "" && b.Request == "":
		return f.violation(h, sodRollback, b.By, "back to "+b.Back)
	}
	f.separated(h, before, b.Request != "")
	if b.Request == "" {
		return f.violation(h, sodPolicy, b.By, "policy "+b.Digest)
	}
	return nil
}

// separated counts a change that needs two people where they are required.
func (f *Fold) separated(h *evidence.Head, before *decision.Registry, approved bool) {
	if !before.Separated() {
		f.counts.unseparated++
		return
	}
	f.tests.approvals.Population++
	if !approved {
		f.tests.approvals.Except(h.Pos, "no other person approved it")
	}
}

func (f *Fold) violation(h *evidence.Head, rule string, by evidence.By, text string) error {
	f.counts.violations++
	return f.row(sodTable, pos(h.Pos), f.clock.format(h.Time), rule, string(h.Type), by.Person.ID, by.Via, h.Agent, h.Resource, text)
}

// refusedChange files a change that the registry doesn't admit under the test
// that says why.
func (f *Fold) refusedChange(h *evidence.Head, err error) {
	for _, separation := range []error{decision.ErrSelfApproval, decision.ErrNoApprover, decision.ErrNotApproved, decision.ErrSeparation} {
		if errors.Is(err, separation) {
			f.tests.approvals.Population++
			f.tests.approvals.Except(h.Pos, "%.300s", err)
			return
		}
	}
	f.tests.change.Except(h.Pos, "%.300s", err)
}

// used checks that what a command was let through by is marked as used right
// after it, unless the range parts the two.
func (f *Fold) used(r *evidence.Record) {
	h := &r.Head
	waiting := f.approving
	f.approving = nil
	switch {
	case h.Type == evidence.ApprovalUse:
		f.tests.approvalUse.Population++
		var b evidence.ApprovalUseBody
		f.decode(r, &b)
		if f.records == 1 {
			return // its command is before the range
		}
		if waiting == nil || h.Of != waiting.pos || b.Request != waiting.request {
			f.tests.approvalUse.Except(h.Pos, "marks request %.80q as used by %s, which is not the command before it that cites it", b.Request, h.Of)
		}
	case waiting != nil:
		f.tests.approvalUse.Population++
		f.tests.approvalUse.Except(waiting.pos, "cites request %.80q, and nothing marks it as used", waiting.request)
	}
}

// approving is a command that cites an approval.
type approving struct {
	pos     evidence.Position
	request string
}

const hourMicros = int64(3_600_000_000)

// keptHours is for how many hours of the clock commands are remembered: longer
// than any clock is set back.
const keptHours = 48

// hours counts what agents were allowed in hours of the clock.
type hours struct {
	byHour map[int64]map[string]*hourCount
	newest int64
	from   int64 // the first hour that the range has whole
}

type hourCount struct{ commands, writes int64 }

// limited checks an intent against the limits on its agent's commands, and
// counts it.
func (f *Fold) limited(h *evidence.Head, in *intent) {
	if evidence.Unbound(in.Path) {
		return
	}
	hour := h.Time / hourMicros
	c := f.hours.of(hour, h.Agent)
	write := h.Verb != evidence.VerbRead && h.Verb != evidence.VerbSession
	if o := in.Obligations; o != nil && (o.Commands > 0 || o.Writes > 0) && hour >= f.hours.from && h.Outcome != evidence.Skipped {
		f.tests.limits.Population++
		commands := o.Commands > 0 && c.commands >= o.Commands
		writes := o.Writes > 0 && write && c.writes >= o.Writes
		rightly := in.Limit == evidence.LimitCommands && commands || in.Limit == evidence.LimitWrites && writes
		switch {
		case in.Limit != "" && !rightly:
			f.tests.limits.Except(h.Pos, "was refused for the limit of %s, of which the hour had seen %d commands and %d writes", in.Limit, c.commands, c.writes)
		case h.Effect == evidence.Allow && (commands || writes):
			f.tests.limits.Except(h.Pos, "was allowed after %d commands and %d writes in its hour", c.commands, c.writes)
		}
	}
	if h.Effect != evidence.Allow || h.Outcome == evidence.Skipped {
		return
	}
	c.commands++
	if write {
		c.writes++
	}
}

func (l *hours) of(hour int64, agent string) *hourCount {
	if hour > l.newest {
		l.newest = hour
		maps.DeleteFunc(l.byHour, func(old int64, _ map[string]*hourCount) bool { return old < hour-keptHours })
	}
	agents := l.byHour[hour]
	if agents == nil {
		agents = make(map[string]*hourCount)
		l.byHour[hour] = agents
	}
	c := agents[agent]
	if c == nil {
		c = &hourCount{}
		agents[agent] = c
	}
	return c
}

// people is who decided a request, and in which groups.
type people struct {
	approvers, groups, deniers []string
	at                         int64
	last                       evidence.Position
}

func decidedBy(a *decision.Approval) (p people) {
	for _, d := range a.Decisions {
		who := d.By.Person.ID
		if d.Decision == evidence.Approved {
			p.approvers = append(p.approvers, who)
			for _, g := range d.Groups {
				if !slices.Contains(p.groups, g) {
					p.groups = append(p.groups, g)
				}
			}
		} else {
			p.deniers = append(p.deniers, who)
		}
		p.at, p.last = d.DecidedAt, d.Decided
	}
	return p
}

func (f *Fold) approvalRows() error {
	for _, a := range f.registry.Approvals() {
		agent, resource, asks := asksFor(&a)
		p := decidedBy(&a)
		needs := make([]string, len(a.Needs))
		for i, n := range a.Needs {
			needs[i] = n.Group + ":" + strconv.Itoa(n.Count)
		}
		if err := f.row(approvalsTable, a.ID, FormatTime(a.AskedAt), a.Kind, a.Digest, agent, resource, asks, a.Ticket, a.Reason,
			a.By.Person.ID, a.By.Via, strings.Join(needs, " "), FormatTime(a.Expires), f.registry.State(&a, f.lastTime),
			join(p.approvers), join(p.groups), join(p.deniers), FormatTime(p.at), pos(p.last), FormatTime(a.UsedAt), pos(a.Used), a.UsedBy); err != nil {
			return err
		}
	}
	return nil
}

// asksFor says what a request asks for.
func asksFor(a *decision.Approval) (agent, resource, text string) {
	switch {
	case a.Grant != nil:
		text = "role " + a.Grant.Role + " until " + FormatTime(a.Grant.Expires)
		if a.Grant.Starts != 0 {
			text += " from " + FormatTime(a.Grant.Starts)
		}
		return a.Grant.Agent, a.Grant.Resource, text
	case a.Policy != nil:
		text = fmt.Sprintf("%d files in place of %.12s, %d tests", len(a.Policy.Files), a.Policy.Before, a.Policy.Tests)
		if b := a.Policy.Backtest; b != nil {
			text += fmt.Sprintf(", %d of %d commands of %d days differ", b.Differ, b.Commands, b.Days)
		}
		return "", "", text
	case a.Disposal != nil:
		return "", "", fmt.Sprintf("to dispose of blocks %d to %d of the log", a.Disposal.First, a.Disposal.Last)
	case a.Erasure != nil:
		return "", "", "to erase session " + pos(a.Erasure.Session)
	case a.Command != nil:
		return a.Command.Agent, a.Command.Resource, a.Command.Text
	}
	return "", "", ""
}

// approvalOf is the request that a grant was made of, and who approved it.
func (f *Fold) approvalOf(g *decision.Grant) (a decision.Approval, p people) {
	if g.Request == "" {
		a.By, a.AskedAt = g.By, g.CreatedAt
		return a, p
	}
	a, _ = f.registry.Approval(g.Request)
	return a, decidedBy(&a)
}

// usedRows writes what of each grant that stood in the range was used.
func (f *Fold) usedRows() error {
	for _, g := range f.registry.Grants() {
		end := min(g.Expires, f.lastTime)
		if !g.Removed.IsZero() {
			end = min(end, g.RemovedAt)
		}
		began := max(g.CreatedAt, g.Starts)
		if end < f.openedAt || began > f.lastTime {
			continue
		}
		u := f.grantUses[g.ID]
		if u == nil {
			u = &uses{}
		}
		granted := f.registry.RoleActions(g.Role, g.Resource)
		touched := slices.Sorted(maps.Keys(u.actions))
		unused := slices.DeleteFunc(granted, func(a string) bool { return u.actions[a] })
		if err := f.row(usedTable, g.ID, g.Agent, g.Role, g.Resource, FormatTime(g.CreatedAt), FormatTime(g.Expires),
			strconv.FormatInt(max(0, end-began)/dayMicros, 10), count(u.n), FormatTime(u.at),
			strconv.Itoa(len(touched)+len(unused)), strconv.Itoa(len(touched)), strings.Join(touched, " "), strings.Join(unused, " "),
			count(f.refusals[[2]string{g.Agent, g.Resource}])); err != nil {
			return err
		}
	}
	return nil
}

// killed writes the row of sessions that a person ended.
func (f *Fold) killed(r *evidence.Record) error {
	h := &r.Head
	f.counts.kills++
	var b evidence.KillBody
	if !f.decode(r, &b) {
		return nil
	}
	sessions := make([]string, len(b.Sessions))
	for i, s := range b.Sessions {
		sessions[i] = pos(s)
	}
	return f.row(killsTable, pos(h.Pos), f.clock.format(h.Time), b.By.Person.ID, b.By.Via, b.Agent, join(sessions), b.Reason)
}
