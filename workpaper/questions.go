package workpaper

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// The three questions are folds too: feed them the records of a log, in log
// order from its first, and ask for the answer at the end.

// Period bounds a question in time, in microseconds since the epoch. A zero
// bound is none.
type Period struct{ From, To int64 }

func (p Period) before(t int64) bool { return t < p.From }
func (p Period) after(t int64) bool  { return p.To != 0 && t > p.To }

// asked is a fold over a period.
type asked struct {
	fold   *Fold
	period Period
	begun  bool
}

// record folds a record: into the opening, into the period, or not at all.
// Once the period began the order of the log decides, whatever a clock says.
func (a *asked) record(r *evidence.Record) error {
	switch {
	case !a.begun && a.period.before(r.Head.Time):
		return a.fold.Opening(r)
	case a.period.after(r.Head.Time):
		return nil
	}
	a.begun = true
	return a.fold.Record(r)
}

func (a *asked) close() error {
	if !a.begun {
		return nil
	}
	_, err := a.fold.Close()
	return err
}

// Accessor is one agent that reached for a resource.
type Accessor struct {
	Agent, Owner                        string // the owner as of its last session
	Sessions, Refused, Commands, Denied uint64
	Rows                                uint64
	First, Last                         string // times of its first and last session
}

// Who answers who accessed a resource.
type Who struct {
	asked
	resource string
	agents   map[string]*Accessor
}

// NewWho asks about a resource; "" asks about all.
func NewWho(resource string, p Period) *Who {
	w := &Who{resource: resource, agents: make(map[string]*Accessor)}
	w.asked = asked{fold: NewFold(OutFunc(w.row)), period: p}
	return w
}

// Record folds the next record.
func (w *Who) Record(r *evidence.Record) error { return w.record(r) }

func (w *Who) row(table string, cells []string) error {
	if table != sessionsTable {
		return nil
	}
	s := rowOf(sessionsTable, cells)
	if w.resource != "" && s("resource") != w.resource {
		return nil
	}
	a := w.agents[s("agent_id")]
	if a == nil {
		a = &Accessor{Agent: s("agent_id"), First: s("started_at")}
		w.agents[a.Agent] = a
	}
	a.Owner = cmp.Or(s("owner_id"), a.Owner)
	a.First, a.Last = min(a.First, s("started_at")), max(a.Last, s("started_at"))
	if s("state") == "refused" {
		a.Refused++
		return nil
	}
	a.Sessions++
	a.Commands += number(s("commands"))
	a.Denied += number(s("denied"))
	a.Rows += number(s("rows"))
	return nil
}

// Answer returns the agents, by id.
func (w *Who) Answer() ([]Accessor, error) {
	if err := w.close(); err != nil {
		return nil, err
	}
	var list []Accessor
	for _, id := range slices.Sorted(maps.Keys(w.agents)) {
		list = append(list, *w.agents[id])
	}
	return list, nil
}

// AccessorTable is an answer as a table.
func AccessorTable(list []Accessor) *Table {
	t := &Table{Name: "who", Columns: columns("agent_id:n", "owner_id", "sessions:#", "refused:#", "commands:#", "denied:#", "rows:#", "first_session_at:t", "last_session_at:t")}
	for _, a := range list {
		t.Rows = append(t.Rows, []string{a.Agent, a.Owner, count(a.Sessions), count(a.Refused), count(a.Commands), count(a.Denied), count(a.Rows), a.First, a.Last})
	}
	return t
}

// Allowed answers what an agent was allowed to do at a time.
type Allowed struct {
	agent    string
	at       int64
	done     bool
	registry *decision.Registry
}

// NewAllowed asks about an agent, "" about all, at a time in microseconds since
// the epoch.
func NewAllowed(agent string, at int64) *Allowed {
	return &Allowed{agent: agent, at: at, registry: decision.New()}
}

// Record folds the next record; control records are all that it needs. What
// stands behind the first change made after the time asked about is not folded:
// order is that of the log.
func (a *Allowed) Record(r *evidence.Record) error {
	if !r.Head.Type.IsControl() || a.done {
		return nil
	}
	if r.Head.Time > a.at {
		a.done = true
		return nil
	}
	next, err := a.registry.Apply(r.Head, r.Body)
	if err != nil {
		return fmt.Errorf("folding %s: %w", r.Head.Pos, err)
	}
	a.registry = next
	return nil
}

// Answer returns what was allowed.
func (a *Allowed) Answer() []decision.AccessRow {
	return slices.DeleteFunc(a.registry.Access(a.at), func(r decision.AccessRow) bool { return a.agent != "" && r.Agent != a.agent })
}

// Table is the answer as a table, that of a pack's listings.
func (a *Allowed) Table() *Table {
	t := &Table{Name: "allowed", Columns: accessColumns()}
	for _, r := range accessRows(a.registry, a.at) {
		if a.agent == "" || r[0] == a.agent {
			t.Rows = append(t.Rows, r)
		}
	}
	return t
}

// Deed is one thing that an agent did or tried.
type Deed struct {
	At, Position, Session, Agent, Resource string
	What                                   string // "command", "session", "authn"
	Verb, Text, Checks                     string
	Decision, Reason                       string
	Outcome, Code, Rows                    string
}

// Did answers what was done in one session or by one agent.
type Did struct {
	asked
	session, agent string
	emit           func(Deed) error
}

// NewDid asks about the session or, if that is "", about the agent; "" for both
// asks about everything. Deeds come as they end.
func NewDid(session, agent string, p Period, emit func(Deed) error) *Did {
	d := &Did{session: session, agent: agent, emit: emit}
	d.asked = asked{fold: NewFold(OutFunc(d.row)), period: p}
	return d
}

// Record folds the next record.
func (d *Did) Record(r *evidence.Record) error { return d.record(r) }

// Close emits what is still open.
func (d *Did) Close() error { return d.close() }

func (d *Did) row(table string, cells []string) error {
	if table != commandsTable && table != sessionsTable && table != denialsTable {
		return nil
	}
	c := rowOf(table, cells)
	deed := Deed{Session: c("session_id"), Agent: c("agent_id"), Resource: c("resource"), Decision: c("decision"), Reason: c("deny_reason")}
	if d.session != "" && deed.Session != d.session || d.session == "" && d.agent != "" && deed.Agent != d.agent {
		return nil
	}
	switch table {
	case commandsTable:
		deed.What, deed.At, deed.Position = "command", c("at"), c("command_id")
		deed.Verb, deed.Text, deed.Checks = c("verb"), c("text"), c("checks")
		deed.Outcome, deed.Code, deed.Rows = c("outcome"), c("code"), c("rows")
	case sessionsTable:
		deed.What, deed.At, deed.Position = "session", c("started_at"), c("session_id")
		deed.Outcome, deed.Rows, deed.Text = c("state"), c("rows"), c("end_reason")
	case denialsTable:
		if c("kind") != "authn" {
			return nil // it has a row of its own
		}
		deed.What, deed.At, deed.Position, deed.Outcome = "authn", c("at"), c("pos"), "denied"
	}
	return d.emit(deed)
}

// DeedColumns are the columns of deeds as a table.
func DeedColumns() []Column {
	return columns("at:t", "position:n", "what:n", "session_id:n", "agent_id:n", "resource:n", "verb:n", "text", "checks", "decision:n", "reason", "outcome:n", "code:n", "rows:#")
}

// Cells are the cells of a deed, under DeedColumns.
func (d *Deed) Cells() []string {
	return []string{d.At, d.Position, d.What, d.Session, d.Agent, d.Resource, d.Verb, d.Text, d.Checks, d.Decision, d.Reason, d.Outcome, d.Code, d.Rows}
}

// columnIndex finds cells by the names of their columns.
var columnIndex = func() map[string]map[string]int {
	all := make(map[string]map[string]int)
	for _, t := range Populations() {
		all[t.Name] = make(map[string]int)
		for i, c := range t.Columns {
			all[t.Name][c.Name] = i
		}
	}
	return all
}()

// rowOf returns a function that gives the cells of a row by name.
func rowOf(table string, cells []string) func(column string) string {
	index := columnIndex[table]
	return func(column string) string { return cells[index[column]] }
}

func number(cell string) (n uint64) {
	for _, c := range cell {
		n = n*10 + uint64(c-'0')
	}
	return n
}
