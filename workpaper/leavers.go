package workpaper

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const terminationsTable = "terminations"

// outside is what the imports of the range say, and what must follow from them.
type outside struct {
	people    evidence.Position // the newest import of people; zero without
	awaited   map[string]string // of it: status by person that a record must take note of
	said      map[string]evidence.PersonRow
	undated   uint64 // leavers of whom the source doesn't say when
	ended     []*termination
	suspended map[string]*termination // by agent, while it is
	accounts  map[string]*account     // by resource: as the newest import says
	rules     uint64                  // of clusters
}

// maxTerminations bounds the leavers and retired agents of one range.
const maxTerminations = 1 << 18

// termination is a person who left, or an agent that was retired.
type termination struct {
	kind, subject  string
	left           int64 // 0 isn't known
	pos            evidence.Position
	at             int64
	source         evidence.Position
	owned, stopped []string // agents; those that it stopped
	sessions       uint64   // that were open
	lastEnd        evidence.Position
	lastEndAt      int64
	last           evidence.Position // the last command of the agents that it stopped, until they went on
	lastAt         int64
	limit          int64
}

// imported folds a snapshot of something outside.
func (f *Fold) imported(r *evidence.Record) error {
	h := &r.Head
	f.counts.imports++
	var b evidence.ImportBody
	if !f.decode(r, &b) {
		return nil
	}
	f.tests.imports.Population++
	if len(b.Data) > 0 {
		if sum := sha256.Sum256(b.Data); hex.EncodeToString(sum[:]) != b.Digest {
			f.tests.imports.Except(h.Pos, "its data is not that of digest %.80q", b.Digest)
		}
	}
	switch b.Kind {
	case evidence.ImportPeople:
		f.importedPeople(h, &b)
	case evidence.ImportPrivileges:
		f.importedPrivileges(h, &b)
	case evidence.ImportConfig:
		return f.importedConfig(h, &b)
	case evidence.ImportConnections, evidence.ImportCounters:
		f.importedConnections(h, &b)
	case evidence.ImportTickets:
		return f.importedTickets(h, &b)
	case evidence.ImportRights:
		return f.importedRights(h, &b)
	case evidence.ImportRequests:
		f.importedRequests(h, &b)
	}
	return nil
}

// rows decodes the rows of an import and holds them against their number.
func rows[T any](f *Fold, h *evidence.Head, b *evidence.ImportBody) (list []T, ok bool) {
	if err := evidence.DecodeBody(b.Data, &list); err != nil {
		f.tests.imports.Except(h.Pos, "its data has no rows of the kind %.80q: %.200s", b.Kind, err)
		return nil, false
	}
	if n := cmp.Or(b.Kept, b.Rows); n != len(list) && (b.Kept != 0 || len(list) != 0) {
		f.tests.imports.Except(h.Pos, "says that %d rows were kept and has %d", n, len(list))
	}
	return list, true
}

func (f *Fold) importedPeople(h *evidence.Head, b *evidence.ImportBody) {
	o := &f.outside
	list, ok := rows[evidence.PersonRow](f, h, b)
	if !ok {
		return
	}
	f.tests.leavers.State, f.tests.leavers.Note = "", ""
	o.people, o.awaited, o.said = h.Pos, make(map[string]string), make(map[string]evidence.PersonRow, len(list))
	for _, p := range list {
		o.said[p.ID] = p
		_, gone := f.registry.Leaver(p.ID)
		if f.registry.Knows(p.ID) && gone != (p.Status == evidence.PersonLeft) {
			o.awaited[p.ID] = p.Status
		}
	}
	for _, a := range f.registry.Agents() {
		if !a.Registered(h.Time) {
			continue
		}
		for _, person := range []string{a.Owner.ID, a.Backup.ID} {
			if _, listed := o.said[person]; person != "" && !listed {
				f.tests.leavers.Except(h.Pos, "%.200s, who answers for %s, is not among the people", person, a.Agent)
			}
		}
	}
}

// noticed checks that what an import of people says was taken note of in the
// same write, before the record that follows.
func (f *Fold) noticed(h *evidence.Head) {
	o := &f.outside
	if len(o.awaited) == 0 || h.Type == evidence.PersonLeave || h.Type == evidence.PersonReturn || h.Pos == o.people {
		return
	}
	for _, person := range slices.Sorted(maps.Keys(o.awaited)) {
		f.tests.leavers.Except(o.people, "says that %.200s is %s, and nothing took note of it", person, o.awaited[person])
	}
	o.awaited = nil
}

// leaves folds a control record that says who has left, or is back. Left is
// whether they were gone before it.
func (f *Fold) leaves(r *evidence.Record) error {
	h, o := &r.Head, &f.outside
	var b evidence.LeaveBody
	if readable := evidence.DecodeBody(r.Body, &b) == nil; !readable {
		return nil // change.valid has the exception
	}
	status := evidence.PersonLeft
	if h.Type == evidence.PersonReturn {
		status = evidence.PersonActive
	}
	if row := o.said[b.Person]; o.awaited[b.Person] != status || h.Of != o.people || row.Left != b.Left {
		f.tests.leavers.Except(h.Pos, "says that %.200s is %s, and the import %q before it does not", b.Person, status, h.Of)
	}
	delete(o.awaited, b.Person)
	if h.Type == evidence.PersonReturn {
		return nil
	}
	t := &termination{kind: "person", subject: b.Person, left: b.Left, pos: h.Pos, at: h.Time, source: h.Of, limit: f.leaverLimit()}
	for _, a := range f.registry.Agents() {
		if !a.Disabled.IsZero() || a.Owner.ID != b.Person && a.Backup.ID != b.Person {
			continue
		}
		t.owned = append(t.owned, a.Agent)
		if a.Suspended == h.Pos {
			t.stopped = append(t.stopped, a.Agent)
		}
	}
	f.tests.leavers.Population++
	f.tests.afterRevoke.Population += uint64(min(len(t.stopped), 1))
	switch {
	case len(t.stopped) == 0:
	case t.left == 0:
		o.undated++
	case t.lag() > t.limit:
		f.tests.leavers.Except(h.Pos, "access of %.200s's agents ended %d s after they left, the limit is %d s", b.Person, t.lag(), t.limit)
	}
	return f.terminated(t)
}

func (f *Fold) leaverLimit() int64 {
	return cmp.Or(f.registry.ConfigBody().LeaverLimit, evidence.DefaultLeaverLimit)
}

// lag is for how many seconds access outlived the person's leaving.
func (t *termination) lag() int64 { return max(0, (t.at-t.left)/1e6) }

// terminated keeps a row and marks the sessions that must end with it.
func (f *Fold) terminated(t *termination) error {
	o := &f.outside
	if len(o.ended) >= maxTerminations {
		return fmt.Errorf("%w: %d leavers and retired agents", ErrTooMuch, maxTerminations)
	}
	o.ended = append(o.ended, t)
	if o.suspended == nil {
		o.suspended = make(map[string]*termination)
	}
	for _, agent := range t.stopped {
		o.suspended[agent] = t
	}
	for _, s := range f.sessions {
		if s.retired == 0 && slices.Contains(t.stopped, s.agent) {
			s.retired, s.ending = t.at, t
			t.sessions++
		}
	}
	return nil
}

// resumed folds a change of owner: the agent may go on.
func (f *Fold) resumed(r *evidence.Record) {
	if t := f.outside.suspended[r.Head.Agent]; t != nil {
		t.used(f.activity[r.Head.Agent])
		delete(f.outside.suspended, r.Head.Agent)
	}
}

// used takes in what an agent did last.
func (t *termination) used(a *activity) {
	if a != nil && t.last.Before(a.lastAllowed) {
		t.last, t.lastAt = a.lastAllowed, a.lastAllowedAt
	}
}

// sessionEnded takes in the end of a session that was open.
func (t *termination) sessionEnded(h *evidence.Head) { t.lastEnd, t.lastEndAt = h.Pos, h.Time }

func (f *Fold) terminationRows() error {
	o := &f.outside
	for agent, t := range o.suspended {
		t.used(f.activity[agent])
	}
	if o.undated > 0 {
		f.tests.leavers.Note = fmt.Sprintf("of %d leavers the source does not say when they left: their lag is not known", o.undated)
	}
	for _, t := range o.ended {
		lag, limit := "", ""
		if t.kind == "person" {
			limit = strconv.FormatInt(t.limit, 10)
			if t.left != 0 {
				lag = strconv.FormatInt(t.lag(), 10)
			}
		}
		if err := f.row(terminationsTable, t.kind, t.subject, FormatTime(t.left), pos(t.source), FormatTime(t.at), pos(t.pos),
			strings.Join(t.owned, " "), strings.Join(t.stopped, " "), count(t.sessions), FormatTime(t.lastEndAt), pos(t.lastEnd),
			FormatTime(t.lastAt), pos(t.last), lag, limit); err != nil {
			return err
		}
	}
	return nil
}
