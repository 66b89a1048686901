package workpaper

import (
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Results that the end of a transaction and a resolution can have.
var (
	txResults       = []string{"commit", "rollback", "prepare", "unknown"}
	resolvedResults = []string{"committed", "rolled_back", "unknown"}
)

// transaction folds how commands of a session that stand or fall together
// ended.
func (f *Fold) transaction(r *evidence.Record, s *session) error {
	h := &r.Head
	f.counts.transactions++
	f.tests.transactions.Population++
	var b evidence.TxEndBody
	if !f.decode(r, &b) {
		return nil
	}
	open := len(s.open) > 0 && !b.Last.Before(s.open[0])
	switch {
	case !slices.Contains(txResults, b.Result):
		f.tests.transactions.Except(h.Pos, "ends a transaction with %.40q", b.Result)
	case h.Of != b.First || b.Last.Before(b.First) || !b.Last.Before(h.Pos) || !s.start.Before(b.First):
		f.tests.transactions.Except(h.Pos, "ends a transaction from %s to %s, which are no commands of session %s in order", b.First, b.Last, s.start)
	case b.First.Before(s.transacted): // the command that ended one may begin the next
		f.tests.transactions.Except(h.Pos, "ends a transaction from %s, and one up to %s has ended before", b.First, s.transacted)
	case open && b.Result != "unknown":
		f.tests.transactions.Except(h.Pos, "ends a transaction up to %s, and command %s has not ended", b.Last, s.open[0])
	case b.Commands < 1 || !s.carried && uint64(b.Commands) > s.commands:
		f.tests.transactions.Except(h.Pos, "ends a transaction of %d commands, session %s has had %d", b.Commands, s.start, s.commands)
	}
	s.transacted = b.Last
	return f.row(transactionsTable, pos(h.Pos), f.clock.format(h.Time), pos(s.start), s.agent, s.resource,
		b.Result, yes(b.Block), pos(b.First), pos(b.Last), strconv.Itoa(b.Commands), b.ID)
}

// asked notes that a command of the session is open, so that a transaction
// that ends before one of its commands shows.
func (s *session) asked(p evidence.Position) { s.open = append(s.open, p) }

// settled notes that it has ended. Commands end in the order asked but for
// few, so the search is short.
func (s *session) settled(p evidence.Position) {
	if i := slices.Index(s.open, p); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// doubtful remembers a command in doubt until a resolution names it.
func (f *Fold) doubtful(c *command) {
	if len(f.doubts) < maxDoubts {
		f.doubts[c.head.Pos] = doubt{c.head.Agent, c.head.Resource, c.head.Session}
	}
}

// doubt is of a command that nobody saw the end of.
type doubt struct {
	agent, resource string
	session         evidence.Position
}

// maxDoubts bounds those remembered: the oldest boots of a long range crashed
// with no more open than a gateway carries.
const maxDoubts = 1 << 20

// resolution folds what was found out later about a command in doubt. One that
// was asked and lost before the range is believed.
func (f *Fold) resolution(r *evidence.Record) error {
	h := &r.Head
	f.counts.resolutions++
	f.tests.resolutions.Population++
	var b evidence.ResolutionBody
	if !f.decode(r, &b) {
		return nil
	}
	d, known := f.doubts[h.Of]
	switch {
	case !slices.Contains(resolvedResults, b.Result):
		f.tests.resolutions.Except(h.Pos, "resolves %s with %.40q", h.Of, b.Result)
	case !known && !f.beforeRange(h.Of):
		f.tests.resolutions.Except(h.Pos, "resolves %s, which is not a command in doubt", h.Of)
	case known && (h.Agent != d.agent || h.Resource != d.resource):
		f.tests.resolutions.Except(h.Pos, "is of agent %s on %s, command %s of %s on %s", h.Agent, h.Resource, h.Of, d.agent, d.resource)
	}
	delete(f.doubts, h.Of)
	return f.row(resolutionsTable, pos(h.Pos), f.clock.format(h.Time), pos(h.Of), pos(d.session), h.Agent, h.Resource, b.Result, b.How, b.ID)
}
