package workpaper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Running is a fold of a whole log that never ends: it says at any time what a
// pack of any period up to now would show. What tests find is summed up by the
// day, so that a period begins with any day; what is open, and the registry, is
// the fold's. All of it can be kept and gone on with (Keep, Resume).
type Running struct {
	fold *Fold
	day  int64 // of the newest record, in days since the epoch
	days []daySum
}

// daySum is what the tests of one day found.
type daySum struct {
	Day    int64
	Tests  map[string]dayTest
	Counts keptCounts
}

type dayTest struct {
	Population uint64      `json:",omitempty"`
	Failed     uint64      `json:",omitempty"`
	Exceptions []Exception `json:",omitempty"`
}

// maxPerDay is how many exceptions of a test are kept of a day that is over.
// All are counted.
const maxPerDay = 100

// NewRunning returns a fold of a log from its first record, or from the first
// after those that were disposed of.
func NewRunning() *Running {
	f := NewFold(OutFunc(func(string, []string) error { return nil }))
	f.quarterEnd = never // nobody asks it for listings
	return &Running{fold: f}
}

// Last is the newest record that was folded; zero is none.
func (r *Running) Last() evidence.Position { return r.fold.last }

// Opening folds a record from before what is left of the log whole.
func (r *Running) Opening(rec *evidence.Record) error { return r.fold.Opening(rec) }

// Record folds the next record of the log.
func (r *Running) Record(rec *evidence.Record) error {
	if day := rec.Head.Time / dayMicros; day > r.day {
		r.turn(day)
	}
	return r.fold.Record(rec)
}

// turn ends a day. A clock that is set back begins no new one.
func (r *Running) turn(day int64) {
	f := r.fold
	if f.records > 0 {
		s := daySum{Day: r.day, Tests: make(map[string]dayTest)}
		for _, t := range f.tests.all() {
			if t.Population > 0 || t.Failed > 0 {
				s.Tests[t.ID] = dayTest{t.Population, t.Failed, slices.Clone(t.Exceptions[:min(len(t.Exceptions), maxPerDay)])}
			}
			t.Population, t.Failed, t.Exceptions, t.placed = 0, 0, nil, 0
		}
		c := &f.counts
		s.Counts = keptCounts{c.unseparated, c.opaque, c.allowed, c.denied, c.failed}
		c.unseparated, c.opaque, c.allowed, c.denied, c.failed = 0, 0, 0, 0, 0
		r.days = append(r.days, s)
	}
	r.day = day
}

type keptRunning struct {
	Day  int64
	Days []daySum
	Fold *keptFold
}

// Keep writes what Resume goes on from.
func (r *Running) Keep(w io.Writer) error {
	if r.fold.records == 0 {
		return ErrEmpty
	}
	if err := writeJSON(w, keptRunning{r.day, r.days, r.fold.keep()}); err != nil {
		return fmt.Errorf("keeping a fold: %w", err)
	}
	return nil
}

// Resume reads what Keep of the same program wrote. The next record is the one
// after Last.
func Resume(from io.Reader) (*Running, error) {
	var k keptRunning
	d := json.NewDecoder(from)
	if err := d.Decode(&k); err != nil {
		return nil, fmt.Errorf("going on with a fold: %w", err)
	}
	if k.Fold == nil {
		return nil, errors.New("going on with a fold: nothing was kept")
	}
	f, err := k.Fold.resume()
	if err != nil {
		return nil, err
	}
	f.quarterEnd = never
	return &Running{fold: f, day: k.Day, days: k.Days}, nil
}

// Kinds of what needs attention.
const (
	ConcernTest     = "test"     // a control test has exceptions
	ConcernOwner    = "owner"    // an agent's owner isn't among the people of the configuration
	ConcernAlert    = "alert"    // nobody has said what it was
	ConcernExpiring = "expiring" // something ends soon
	ConcernUnused   = "unused"   // a grant stands that wasn't used lately
	ConcernEndless  = "endless"  // a key without an end that matters
)

// Concern is something that a pack would show, or that will show in a later
// one.
type Concern struct {
	Kind     string   `json:"kind"`
	Blocks   bool     `json:"blocks"`   // an auditor would see an exception
	Subject  string   `json:"subject"`  // id of a test, an agent, a grant, a key, an alert
	Criteria []string `json:"criteria"` // that it is about
	Text     string   `json:"text"`
	Next     string   `json:"next,omitempty"` // what to do
}

// Readiness is what a pack up to now would show.
type Readiness struct {
	From     int64 // first microsecond of the first day that counts
	Last     evidence.Position
	At       int64 // of the newest record
	Records  uint64
	Allowed  uint64
	Refused  uint64
	Opaque   uint64
	Tests    []*Test
	Criteria []Standing
	Concerns []Concern // those that block first
}

// Ready reports whether nothing blocks.
func (r *Readiness) Ready() bool {
	return !slices.ContainsFunc(r.Concerns, func(f Concern) bool { return f.Blocks })
}

// Ask says what is looked for.
type Ask struct {
	From int64         // in microseconds since the epoch: its day (UTC) is the first that counts; 0 is the log's first
	Now  int64         // the time, for what ends soon
	Soon time.Duration // what soon is
}

// Readiness says what a pack from a day up to now would show. It changes
// nothing.
func (r *Running) Readiness(ask Ask) (*Readiness, error) {
	if r.fold.records == 0 {
		return nil, ErrEmpty
	}
	f := r.fold.look()
	if _, err := f.closing(); err != nil {
		return nil, err
	}
	out := &Readiness{From: max(ask.From-ask.From%dayMicros, f.openedAt), Last: f.last, At: f.lastTime, Records: f.records, Tests: f.tests.all()}
	c := f.counts
	sum := keptCounts{c.unseparated, c.opaque, c.allowed, c.denied, c.failed}
	for i := len(r.days) - 1; i >= 0 && r.days[i].Day >= ask.From/dayMicros; i-- {
		r.days[i].addTo(out.Tests, &sum)
	}
	out.Allowed, out.Refused, out.Opaque = sum.Allowed, sum.Denied+sum.Failed, sum.Opaque
	f.tests.approvals.unseparated(sum.Unseparated)
	f.tests.tickets.corroborated(&f.tickets)
	f.tests.config.configured(&f.upstreamConfigs)
	for _, t := range out.Tests {
		t.Conclude()
	}
	out.Criteria = Standings(out.Tests)
	out.Concerns = f.concerns(&ask, out.Tests)
	return out, nil
}

// addTo adds a day that is over to what later ones found. Of the exceptions the
// newest are kept.
func (s *daySum) addTo(tests []*Test, sum *keptCounts) {
	for _, t := range tests {
		d, ok := s.Tests[t.ID]
		if !ok {
			continue
		}
		t.Population += d.Population
		t.Failed += d.Failed
		all := slices.Concat(d.Exceptions, t.Exceptions)
		t.Exceptions = all[max(0, len(all)-MaxExceptions):]
	}
	sum.Unseparated += s.Counts.Unseparated
	sum.Opaque += s.Counts.Opaque
	sum.Allowed += s.Counts.Allowed
	sum.Denied += s.Counts.Denied
	sum.Failed += s.Counts.Failed
}

// look is a copy of f that can be closed while f goes on.
func (f *Fold) look() *Fold {
	g, tests := *f, *f.tests
	g.tests = &tests
	g.out = OutFunc(func(string, []string) error { return nil })
	g.commandRow = nil
	for _, t := range g.tests.all() {
		t.all = &g.excepted
		t.Exceptions = slices.Clip(t.Exceptions) // what is added isn't f's
	}
	if f.boot != nil {
		boot := *f.boot
		g.boot = &boot
	}
	return &g
}

// unusedSoon is after how long a grant that wasn't used is worth a look: well
// before its test fails.
const unusedSoon = MaxUnused / 3

// endless is how far away an end is that nobody will live to see.
const endless = 10 * 365 * dayMicros

func (f *Fold) concerns(ask *Ask, tests []*Test) (list []Concern) {
	add := func(kind string, blocks bool, subject, test, next, format string, args ...any) {
		list = append(list, Concern{kind, blocks, subject, CriteriaOf(test), fmt.Sprintf(format, args...), next})
	}
	for _, t := range tests {
		if t.State == Fail {
			add(ConcernTest, true, t.ID, t.ID, "", "%s: %d exceptions among %d %s", t.Title, t.Failed, t.Population, t.Of)
		}
	}
	soon := ask.Now + ask.Soon.Microseconds()
	people := f.registry.ConfigBody().People
	known := func(id string) bool {
		return len(people) == 0 || slices.ContainsFunc(people, func(m evidence.Member) bool { return m.ID == id })
	}
	for _, a := range f.registry.Agents() {
		switch {
		case !a.Active(ask.Now):
		case a.Owner.ID == "" || !known(a.Owner.ID):
			add(ConcernOwner, true, a.Agent, "agent.owner", "register it anew for somebody who is there, and retire this one",
				"agent %s belongs to %q, who is not among the people of the configuration", a.Agent, a.Owner.ID)
		case a.Expires > 0 && a.Expires <= soon:
			add(ConcernExpiring, false, a.Agent, "agent.registered", "", "agent %s ends at %s", a.Agent, FormatTime(a.Expires))
		}
	}
	for i := range f.alerts {
		if a := &f.alerts[i]; a.heard == 0 {
			add(ConcernAlert, true, pos(a.pos), "alert.heard", "exhibit alert ack "+pos(a.pos)+" --as ...", "nobody has said what %s of %s was", a.rule, FormatTime(a.at))
		}
	}
	for _, g := range f.registry.Grants() {
		if !g.Active(ask.Now) {
			continue
		}
		used := f.openedAt
		if u := f.grantUses[g.ID]; u != nil {
			used = u.at
		}
		quiet := ask.Now - max(used, g.CreatedAt, g.Starts)
		what := "grant " + g.ID + " (" + g.Role + " of " + g.Agent + " on " + g.Resource + ")"
		if quiet >= unusedSoon {
			add(ConcernUnused, false, g.ID, "grant.unused", "exhibit grant revoke "+g.ID+" --reason unused", "%s was not used for %s", what, days(quiet))
		} else if g.Expires <= soon {
			add(ConcernExpiring, false, g.ID, "decision.grants", "", "%s ends at %s", what, FormatTime(g.Expires))
		}
	}
	for _, c := range f.registry.Credentials() {
		switch {
		case c.Enrolled.IsZero() || !c.Active(ask.Now):
		case c.NotAfter <= soon:
			add(ConcernExpiring, false, c.ID, "authn.credential", "", "key %s of %s ends at %s", c.ID, c.Agent, FormatTime(c.NotAfter))
		case c.NotAfter-ask.Now > endless:
			add(ConcernEndless, false, c.ID, "credential.age", "enroll another key with an end, and revoke this one", "key %s of %s has no end", c.ID, c.Agent)
		}
	}
	slices.SortStableFunc(list, func(a, b Concern) int {
		if a.Blocks != b.Blocks {
			if a.Blocks {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Kind, b.Kind)
	})
	return list
}

func days(t int64) string {
	return strconv.FormatInt(t/dayMicros, 10) + " days"
}
