package workpaper

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Summary is what a fold says once the range has ended.
type Summary struct {
	First, Last       evidence.Position
	OpenedAt, EndedAt int64 // times of the first and last record, microseconds since the epoch
	Records           uint64
	Listings          []Table
	Controls          []Table // the control matrix and the exceptions of its tests
	Tests             []*Test
	Uncovered         uint64 // commands that were allowed and not understood
	Allowed, Refused  uint64 // decisions
	Told, Untold      uint64 // sessions with a transcript, if transcripts were asked for, and those without
}

// ErrEmpty is returned by Close when no record was folded.
var ErrEmpty = errors.New("the range holds no records")

// Close ends the range: it writes the rows of everything still open, of the
// registry and of the control totals, and concludes the tests.
func (f *Fold) Close() (*Summary, error) {
	if f.records == 0 {
		return nil, ErrEmpty
	}
	for len(f.tokens.due) > 0 {
		if err := f.tokenRow(f.tokens.next()); err != nil {
			return nil, err
		}
	}
	at, err := f.closing()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.approvalRows(), f.usedRows(), f.retentionRows(), f.totalRows(&at)); err != nil {
		return nil, err
	}
	s := &Summary{
		First: f.first, Last: f.last, OpenedAt: f.openedAt, EndedAt: f.lastTime, Records: f.records,
		Tests: f.tests.all(), Uncovered: f.counts.opaque, Allowed: f.counts.allowed, Refused: f.counts.denied + f.counts.failed,
		Told: uint64(f.telling.notable + f.telling.ordinary), Untold: f.telling.untold,
	}
	f.tests.approvals.unseparated(f.counts.unseparated)
	f.tests.tickets.corroborated(&f.tickets)
	f.tests.config.configured(&f.upstreamConfigs)
	for _, t := range s.Tests {
		if f.told != nil {
			headTest(t)
		}
		t.Conclude()
	}
	s.Controls = controlTables(s.Tests)
	if f.told != nil {
		return s, nil
	}
	s.Listings = Listings()
	s.Listings[0].Rows = accessRows(f.opening, f.openedAt, nil)
	s.Listings[1].Rows = accessRows(f.registry, f.lastTime, f.outside.accounts)
	s.Listings = slices.Insert(s.Listings, 1, f.quarters...)
	return s, nil
}

// closing is what the end of a range finds.
type closing struct {
	openCommands, openSessions uint64
	agents, keys, grants       rollForward
}

// closing writes the rows of what is open and of the registry, and makes the
// tests that are about how things stand at the end.
func (f *Fold) closing() (at closing, err error) {
	if at.openCommands, err = f.openCommands(); err != nil {
		return at, err
	}
	if at.openSessions, err = f.openSessions(); err != nil {
		return at, err
	}
	if at.agents, err = f.agentRows(); err != nil {
		return at, err
	}
	if at.keys, err = f.keyRows(); err != nil {
		return at, err
	}
	if at.grants, err = f.grantRows(); err != nil {
		return at, err
	}
	err = errors.Join(f.alertRows(), f.terminationRows(), f.ticketRows(), f.bootRow(f.boot))
	f.place(nil)
	f.testPrivileges()
	return at, err
}

// unseparated notes changes that needed no second person: where there was no
// other, nothing was tested.
func (t *Test) unseparated(n uint64) {
	if n == 0 {
		return
	}
	t.Note = fmt.Sprintf("%d changes were made while the configuration asked for no second person; sod_violations lists those by one", n)
	if t.Population == 0 {
		t.State = NotTested
	}
}

// rollForward is opening + added - removed - expired = closing.
type rollForward struct{ opening, added, removed, expired, closing uint64 }

func (f *Fold) agentRows() (roll rollForward, err error) {
	for _, a := range f.registry.Agents() {
		f.tests.owner.Population++
		if a.Owner.ID == "" {
			f.tests.owner.Except(a.Created, "agent %s has no owner", a.Agent)
		}
		was, existed := f.opening.Agent(a.Agent)
		roll.count(existed, existed && was.Registered(f.openedAt), a.Registered(f.lastTime), !a.Disabled.IsZero())
		status := "active"
		switch {
		case !a.Disabled.IsZero():
			status = "retired"
		case !a.Registered(f.lastTime):
			status = "expired"
		case !a.Suspended.IsZero():
			status = "suspended"
			f.counts.suspended++
		}
		act := f.activity[a.Agent]
		if act == nil {
			act = &activity{}
		}
		if err := f.row(agentsTable, a.Agent, a.Name, a.Purpose, a.Model, a.Owner.ID, a.Owner.Name, a.Owner.Email, a.Backup.ID, a.Team, a.Env, status,
			FormatTime(a.Expires), FormatTime(a.CreatedAt), pos(a.Created), a.By.Person.ID, a.By.Via,
			FormatTime(a.DisabledAt), pos(a.Disabled), a.DisabledBy.Person.ID, a.DisabledBy.Via, a.DisabledFor,
			count(act.sessions), count(act.commands), count(act.denied), FormatTime(act.last)); err != nil {
			return roll, err
		}
	}
	return roll, nil
}

// count adds one thing that ends by removal or by expiry.
func (r *rollForward) count(existed, wasActive, isActive, removed bool) {
	switch {
	case wasActive:
		r.opening++
	case !existed:
		r.added++
	default:
		return // had ended before the range
	}
	switch {
	case isActive:
		r.closing++
	case removed:
		r.removed++
	default:
		r.expired++
	}
}

func (f *Fold) grantRows() (roll rollForward, err error) {
	for _, g := range f.registry.Grants() {
		was, existed := f.opening.Grant(g.ID)
		roll.count(existed, existed && was.Active(f.openedAt), g.Active(f.lastTime), !g.Removed.IsZero())
		status := "active"
		switch {
		case !g.Removed.IsZero():
			status = "removed"
		case f.lastTime < g.Starts:
			status = "waiting"
		case !g.Active(f.lastTime):
			status = "expired"
		}
		u := f.grantUses[g.ID]
		if u == nil {
			u = &uses{}
		}
		if status == "active" {
			f.unusedGrant(g.Created, g.ID, max(g.CreatedAt, g.Starts), u)
		}
		a, p := f.approvalOf(&g)
		if err := f.row(grantsTable, g.ID, g.Agent, g.Role, g.Resource, g.Ticket, g.Reason, g.Request, FormatTime(a.AskedAt), a.By.Person.ID, a.By.Via,
			FormatTime(p.at), pos(p.last), join(p.approvers), join(p.groups), g.Renews, FormatTime(g.Starts), FormatTime(g.CreatedAt), pos(g.Created), FormatTime(g.Expires), status,
			FormatTime(g.RemovedAt), pos(g.Removed), g.RemovedBy.Person.ID, g.RemovedBy.Via, g.RemovedFor,
			count(u.n), FormatTime(u.at), pos(u.last)); err != nil {
			return roll, err
		}
	}
	return roll, nil
}

func (f *Fold) keyRows() (roll rollForward, err error) {
	before := make(map[string]*decision.Credential)
	for _, c := range f.opening.Credentials() {
		before[c.ID] = &c
	}
	for _, c := range f.registry.Credentials() {
		if c.Enrolled.IsZero() {
			continue // a token, in the rows above if it was issued in the range
		}
		was := before[c.ID]
		roll.count(was != nil, was != nil && was.Active(f.openedAt), c.Active(f.lastTime), !c.Revoked.IsZero())
		u := f.keyUses[c.ID]
		if u == nil {
			u = &uses{}
		}
		f.oldKey(c.ID, c.EnrolledAt, u)
		if err := f.row(credentialsTable, c.ID, c.Agent, c.Kind, c.Thumbprint, c.Issuer, FormatTime(c.NotBefore), FormatTime(c.NotAfter),
			c.Principal, c.Ticket, FormatTime(c.EnrolledAt), pos(c.Enrolled), c.By.Person.ID, c.By.Via,
			FormatTime(c.RevokedAt), pos(c.Revoked), c.RevokedBy.Person.ID, c.RevokedFor, count(u.n), FormatTime(u.at), pos(u.last)); err != nil {
			return roll, err
		}
	}
	return roll, nil
}

func (f *Fold) totalRows(at *closing) error {
	c, agents, keys, grants := &f.counts, &at.agents, &at.keys, &at.grants
	for _, t := range []struct {
		table, measure string
		value          uint64
	}{
		{"records", "in the range", f.records},
		{agentsTable, "in service at opening", agents.opening}, {agentsTable, "registered (+)", agents.added},
		{agentsTable, "retired (-)", agents.removed}, {agentsTable, "expired (-)", agents.expired}, {agentsTable, "in service at closing (=)", agents.closing}, {agentsTable, "of them suspended", c.suspended},
		{grantsTable, "standing at opening", grants.opening}, {grantsTable, "made (+)", grants.added},
		{grantsTable, "removed (-)", grants.removed}, {grantsTable, "expired (-)", grants.expired}, {grantsTable, "standing at closing (=)", grants.closing},
		{approvalsTable, "asked for", c.approvalsAsked}, {approvalsTable, "decisions of people", c.approvalsDecided}, {approvalsTable, "used by commands", c.approvalsUsed},
		{rightsTable, "rules of clusters", f.outside.rules},
		{reconTable, "sessions in logs of upstreams", f.recon.logged}, {reconTable, "of agents (-)", f.recon.ofAgents}, {reconTable, "of the gateway itself (-)", f.recon.own},
		{reconTable, "of others who may (-)", f.recon.allowed}, {reconTable, "unexplained (=)", f.recon.unexplained}, {reconTable, "missing in the log", f.recon.missing},
		{reconRequestsTable, "requests in audit logs of clusters", f.recon.asked.logged}, {reconRequestsTable, "of agents (-)", f.recon.asked.ofAgents}, {reconRequestsTable, "of the gateway itself (-)", f.recon.asked.own},
		{reconRequestsTable, "of others who may (-)", f.recon.asked.allowed}, {reconRequestsTable, "unexplained (=)", f.recon.asked.unexplained}, {reconRequestsTable, "missing in the log", f.recon.asked.missing},
		{reconRunsTable, "reconciliations", f.recon.runs},
		{ticketsTable, "cited, with their uses up to an import", f.tickets.cites()}, {ticketsTable, "corroborated (-)", f.tickets.sums[ticketCorroborated]}, {ticketsTable, "with exceptions (-)", f.tickets.excepted()},
		{ticketsTable, "used after the newest import (-)", f.tickets.sums[ticketAfterImport]}, {ticketsTable, "too many to be held (-)", f.tickets.sums[ticketNotHeld]}, {ticketsTable, "without an import (=)", f.tickets.sums[ticketNoImport]},
		{upstreamConfigTable, "differences between imports", f.upstreamConfigs.ticketed + f.upstreamConfigs.unticketed}, {upstreamConfigTable, "under a ticket (-)", f.upstreamConfigs.ticketed},
		{upstreamConfigTable, "without one (=)", f.upstreamConfigs.unticketed}, {upstreamConfigTable, "kinds that couldn't be read, or not all, by import", f.upstreamConfigs.unread},
		{terminationsTable, "leavers and retired agents", uint64(len(f.outside.ended))}, {"imports", "of something outside", c.imports},
		{sodTable, "changes by one person", c.violations}, {killsTable, "by people", c.kills},
		{credentialsTable, "keys in force at opening", keys.opening}, {credentialsTable, "keys enrolled (+)", keys.added}, {credentialsTable, "keys revoked (-)", keys.removed},
		{credentialsTable, "keys expired (-)", keys.expired}, {credentialsTable, "keys in force at closing (=)", keys.closing},
		{credentialsTable, "tokens issued", c.tokensIssued}, {credentialsTable, "revocations", c.credentialsRevoked},
		{authnTable, "succeeded", c.authnOK}, {authnTable, "failed", c.authnFailed},
		{sessionsTable, "carried in", c.sessionsCarried}, {sessionsTable, "started (+)", c.sessionsStarted}, {sessionsTable, "ended (-)", c.sessionsEnded},
		{sessionsTable, "open at closing (=)", at.openSessions}, {sessionsTable, "refused", c.sessionsRefused}, {sessionsTable, "ended by a crash", c.crashed},
		{commandsTable, "carried in", c.commandsCarried}, {commandsTable, "asked (+)", c.commands}, {commandsTable, "ended (-)", c.commandsEnded},
		{commandsTable, "open at closing (=)", at.openCommands}, {commandsTable, "in doubt", c.commandsInDoubt}, {commandsTable, "allowed though opaque", c.opaque},
		{transactionsTable, "ended", c.transactions}, {resolutionsTable, "commands resolved", c.resolutions},
		{"decisions", "allow", c.allowed}, {"decisions", "deny", c.denied}, {"decisions", "error", c.failed},
		{changesTable, "policy", c.policyChanges}, {changesTable, "configuration", c.configChanges}, {changesTable, "keys of the log", c.keyChanges}, {changesTable, "legal holds", c.holds}, {changesTable, "sessions erased", c.erased},
		{uptimeTable, "boots begun", c.boots}, {uptimeTable, "recording gaps", c.gaps}, {uptimeTable, "microseconds between boots", c.down},
		{alertsTable, "raised", c.alerts}, {alertsTable, "acknowledgements", c.acks},
		{readersTable, "reads", c.reads}, {readersTable, "records opened", c.unsealed}, {readersTable, "exports", c.exports}, {readersTable, "packs made", c.packs},
		{retentionTable, "disposals", c.disposals}, {retentionTable, "blocks disposed of", c.disposedBlocks},
		{"records", "backups", c.backups}, {"records", "restores", c.restores},
	} {
		if err := f.row(totalsTable, t.table, t.measure, count(t.value)); err != nil {
			return err
		}
	}
	return nil
}

// Access is the access listing of a registry at time t, in microseconds since
// the epoch.
func Access(r *decision.Registry, t int64) Table {
	return Table{Name: "access", Columns: accessColumns(), Rows: accessRows(r, t, nil)}
}

// accessRows lists who could do what under a registry at a time, and what the
// gateway's accounts could, where that is known.
func accessRows(r *decision.Registry, t int64, accounts map[string]*account) [][]string {
	var rows [][]string
	for _, a := range r.Access(t) {
		tickets, approvers := behind(r, a.Grants)
		agent, _ := r.Agent(a.Agent)
		expires := int64(0)
		for _, id := range a.Grants {
			if g, ok := r.Grant(id); ok {
				expires = max(expires, g.Expires)
			}
		}
		role, privileges := accounts[a.Resource].cells(a.Agent, a.Object)
		rows = append(rows, []string{a.Agent, agent.Owner.ID, a.Role, a.Resource, a.Object, a.Action, a.Effect,
			obligations(&a.Obliges), join(a.Grants), strings.Join(tickets, " "), strings.Join(approvers, " "), strings.Join(a.Permits, " "), strings.Join(a.Forbids, " "), FormatTime(expires), r.Policy(), role, privileges})
	}
	return rows
}

// behind are the tickets of grants, and who approved them. What one person gave
// alone was approved by nobody.
func behind(r *decision.Registry, grants []string) (tickets, approvers []string) {
	add := func(list *[]string, v string) {
		if v != "" && !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	for _, id := range grants {
		g, _ := r.Grant(id)
		add(&tickets, g.Ticket)
		a, _ := r.Approval(g.Request)
		for _, d := range a.Decisions {
			if d.Decision == evidence.Approved {
				add(&approvers, d.By.Person.ID)
			}
		}
	}
	return tickets, approvers
}

// obligations says in a line what rules ask of the commands that they permit, as
// their annotations do.
func obligations(o *evidence.Obligations) string {
	var list []string
	for _, n := range o.Approval {
		list = append(list, fmt.Sprintf("approval=%s:%d", n.Group, n.Count))
	}
	for _, n := range []struct {
		name string
		v    int64
	}{{"max_rows", o.Rows}, {"max_bytes", o.Bytes}, {"max_commands_per_hour", o.Commands}, {"max_writes_per_hour", o.Writes}} {
		if n.v > 0 {
			list = append(list, fmt.Sprintf("%s=%d", n.name, n.v))
		}
	}
	switch {
	case o.Millis > 0 && o.Millis%1000 == 0:
		list = append(list, fmt.Sprintf("max_time=%ds", o.Millis/1000))
	case o.Millis > 0:
		list = append(list, fmt.Sprintf("max_time=%dms", o.Millis))
	}
	for _, name := range o.Alert {
		list = append(list, "alert="+name)
	}
	return strings.Join(list, " ")
}
