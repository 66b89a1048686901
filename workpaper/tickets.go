package workpaper

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

const ticketsTable = "tickets"

// ticketClass is what imports say of the uses of a ticket.
type ticketClass uint8

const (
	ticketCorroborated ticketClass = iota
	ticketUnknown                  // no import has it
	ticketCreatedAfter             // it was created after its use
	ticketClosedBefore             // it was closed before its use
	ticketUnapproved               // it wasn't approved when it was used
	ticketOtherPeople              // it names others than the records
	ticketAfterImport              // it was used after the newest import was taken
	ticketNoImport                 // the range has none
	ticketNotHeld                  // more were cited before an import than are held
	ticketClasses
)

func (c ticketClass) String() string {
	return [ticketClasses]string{"corroborated", "unknown", "created_after", "closed_before", "unapproved", "other_people", "after_import", "no_import", "not_held"}[c]
}

// told reports whether something is known of the uses.
func (c ticketClass) told() bool { return c < ticketAfterImport }

const (
	notCorroborated = "Ticket content not corroborated"
	maxTicketText   = 1000              // bytes of an id; what is longer is in no import
	maxTickets      = 1 << 18           // held until an import tells of them
	maxTicketBytes  = 96 << 20          // of them
	ticketOverhead  = 256               // of one
	ticketSkew      = int64(60_000_000) // by which clocks, and times to the minute, may be off
)

// tickets are those cited that no import has told of yet.
type tickets struct {
	cited    map[string]*ticket
	most     int   // that are held
	bytes    int   // of those that are
	imported bool  // the range has an import
	taken    int64 // when the newest of them was taken
	sums     [ticketClasses]uint64
}

// ticket is a ticket with its uses since the import before.
type ticket struct {
	id              string
	uses            [4]uint64 // by kind
	first, last     evidence.Position
	firstAt, lastAt int64
	// People who are on record for every use that has such; nil is no use that has.
	asked, approved []string
	seen            *ticketSeen // what an import says that was taken between first and last
}

// Kinds of use.
const (
	ofSession = iota // a session that was let in
	ofGrant
	ofRequest // for an approval
	ofPolicy
)

// ticketSeen is a row of an import.
type ticketSeen struct {
	Import evidence.Position
	Taken  int64
	Row    evidence.TicketRow
}

func newTickets() tickets {
	return tickets{cited: make(map[string]*ticket), most: maxTickets}
}

// add holds a ticket.
func (s *tickets) add(t *ticket) {
	s.cited[t.id] = t
	s.bytes += t.size()
}

// drop forgets one.
func (s *tickets) drop(t *ticket) {
	delete(s.cited, t.id)
	s.bytes -= t.size()
}

// size is about how much memory a ticket takes.
func (t *ticket) size() int {
	n := ticketOverhead + len(t.id)
	if t.seen != nil {
		r := &t.seen.Row
		n += ticketOverhead + len(r.Status) + len(r.Approval) + len(r.Requester) + len(r.Assignee) + len(r.Digest)
		for _, p := range r.Approvers {
			n += len(p) + 16
		}
	}
	return n
}

// cite adds a use of a ticket by a record. Asked are those who may have asked
// for it in the ticket, approved those who approved what the record does; nil is
// nobody whom a ticket could name.
func (f *Fold) cite(h *evidence.Head, id string, kind int, asked, approved []string) error {
	if id == "" {
		return nil
	}
	if len(id) > maxTicketText {
		id = strings.ToValidUTF8(id[:maxTicketText], "") + "…"
	}
	t := f.tickets.cited[id]
	if t == nil {
		if len(f.tickets.cited) >= f.tickets.most || f.tickets.bytes > maxTicketBytes {
			if err := f.forgetTickets(); err != nil {
				return err
			}
		}
		t = &ticket{id: strings.Clone(id), first: h.Pos, firstAt: h.Time}
		f.tickets.add(t)
	}
	t.uses[kind]++
	t.last, t.lastAt = h.Pos, h.Time
	t.asked, t.approved = common(t.asked, asked), common(t.approved, approved)
	return nil
}

// common are those of both lists, where nil is everybody.
func common(a, b []string) []string {
	switch {
	case b == nil:
		return a
	case a == nil:
		return b
	}
	return slices.DeleteFunc(slices.Clone(a), func(p string) bool { return !slices.Contains(b, p) })
}

// forgetTickets makes room: the tickets that were not cited for the longest time
// are concluded with what is known.
func (f *Fold) forgetTickets() error {
	all := slices.SortedFunc(maps.Values(f.tickets.cited), func(a, b *ticket) int { return comparePositions(a.last, b.last) })
	for _, t := range all[:max(1, len(all)/16)] {
		class, why := f.untold(t)
		if !class.told() {
			class, why = ticketNotHeld, ""
		}
		if err := f.concluded(t, class, why, t.first); err != nil {
			return err
		}
		f.tickets.drop(t)
	}
	return nil
}

// citing folds the ticket of a change of rights that the registry admits, or of
// a request for one.
func (f *Fold) citing(r *evidence.Record) error {
	switch h := &r.Head; h.Type {
	case evidence.GrantCreate:
		if b := readable[evidence.GrantBody](r); b != nil && b.Request != "" {
			a, _ := f.registry.Approval(b.Request)
			return f.cite(h, b.Ticket, ofGrant, f.answering(b.Agent, a.By.Person.ID), decidedBy(&a).approvers)
		} else if b != nil {
			return f.cite(h, b.Ticket, ofGrant, f.answering(b.Agent, b.By.Person.ID), nil)
		}
	case evidence.ApprovalRequest: // what comes of it once it is approved cites it again
		if b := readable[evidence.ApprovalRequestBody](r); b != nil {
			agent, _, _ := asksFor(&decision.Approval{ApprovalRequestBody: *b})
			return f.cite(h, b.Ticket, ofRequest, f.answering(agent, b.By.Person.ID), nil)
		}
	case evidence.PolicyChange:
		if b := readable[evidence.PolicyBody](r); b != nil && b.Request != "" {
			a, _ := f.registry.Approval(b.Request)
			return f.cite(h, a.Ticket, ofPolicy, f.answering("", a.By.Person.ID), decidedBy(&a).approvers)
		}
	}
	return nil
}

// answering are the people whom a ticket may name as its requester: who asked the
// gateway, and who answers for the agent.
func (f *Fold) answering(agent, asker string) []string {
	var list []string
	a, _ := f.registry.Agent(agent)
	for _, p := range []string{asker, a.Owner.ID, a.Backup.ID} {
		if p != "" && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// importedTickets holds the tickets cited against an import. Those that it tells
// of are concluded, unless it was taken before their last use and finds nothing
// wrong.
func (f *Fold) importedTickets(h *evidence.Head, b *evidence.ImportBody) error {
	list, ok := rows[evidence.TicketRow](f, h, b)
	if !ok {
		return nil
	}
	taken := min(cmp.Or(b.Extracted, h.Time), h.Time)
	if !f.tickets.imported {
		f.tests.tickets.State, f.tests.tickets.Note = "", ""
	}
	f.tickets.imported, f.tickets.taken = true, max(f.tickets.taken, taken)
	for i := range list {
		t := f.tickets.cited[list[i].ID]
		if t == nil || t.firstAt > taken {
			continue
		}
		class, why, at := t.held(&list[i])
		f.tickets.bytes -= t.size()
		t.seen = &ticketSeen{h.Pos, taken, list[i]}
		f.tickets.bytes += t.size()
		if class == ticketCorroborated && t.lastAt > taken {
			continue // of the last use a later import has to tell
		}
		if err := f.concluded(t, class, why, at); err != nil {
			return err
		}
		f.tickets.drop(t)
	}
	return nil
}

// held holds the uses of a ticket against a row of an import. It says at which
// use something is wrong.
func (t *ticket) held(r *evidence.TicketRow) (class ticketClass, why string, at evidence.Position) {
	switch {
	case r.Created > t.firstAt+ticketSkew:
		return ticketCreatedAfter, "created at " + FormatTime(r.Created), t.first
	case r.Closed != 0 && r.Closed < t.lastAt-ticketSkew:
		return ticketClosedBefore, "closed at " + FormatTime(r.Closed), t.last
	case r.Approval == evidence.TicketRefused || r.Approval == evidence.TicketPending:
		return ticketUnapproved, "its approval is " + r.Approval, t.first
	case r.Approved > t.firstAt+ticketSkew:
		return ticketUnapproved, "approved at " + FormatTime(r.Approved), t.first
	case r.Requester != "" && t.asked != nil && !slices.Contains(t.asked, r.Requester):
		return ticketOtherPeople, fmt.Sprintf("requested by %.200s, on record are %s", r.Requester, among(t.asked)), t.first
	case len(r.Approvers) > 0 && t.approved != nil && !slices.ContainsFunc(r.Approvers, func(p string) bool { return slices.Contains(t.approved, p) }):
		return ticketOtherPeople, fmt.Sprintf("approved by %.200s, on record are %s", strings.Join(r.Approvers, " "), among(t.approved)), t.first
	}
	return ticketCorroborated, "", t.first
}

func among(list []string) string {
	if len(list) == 0 {
		return "no others for all of its uses"
	}
	return fmt.Sprintf("%.400s", strings.Join(list, " "))
}

// untold is what is known of a ticket that no import has concluded.
func (f *Fold) untold(t *ticket) (class ticketClass, why string) {
	switch {
	case !f.tickets.imported:
		return ticketNoImport, ""
	case t.seen != nil:
		return ticketAfterImport, "corroborated up to " + FormatTime(t.seen.Taken)
	case t.firstAt > f.tickets.taken:
		return ticketAfterImport, ""
	}
	return ticketUnknown, ""
}

// concluded writes the row of a ticket and counts it.
func (f *Fold) concluded(t *ticket, class ticketClass, why string, at evidence.Position) error {
	f.tickets.sums[class]++
	test := &f.tests.tickets
	if class.told() {
		test.Population++
	}
	switch {
	case class == ticketUnknown:
		test.Except(at, "cites ticket %.200q, which no import knows", t.id)
	case class.told() && class != ticketCorroborated:
		test.Except(at, "cites ticket %.200q: %s, %s", t.id, strings.ReplaceAll(class.String(), "_", " "), why)
	}
	s := t.seen
	if s == nil {
		s = &ticketSeen{}
	}
	r := &s.Row
	return f.row(ticketsTable, pos(t.first), FormatTime(t.firstAt), pos(t.last), FormatTime(t.lastAt), t.id, class.String(), why,
		count(t.uses[ofSession]), count(t.uses[ofGrant]), count(t.uses[ofRequest]), count(t.uses[ofPolicy]), join(t.asked), join(t.approved),
		pos(s.Import), FormatTime(s.Taken), r.Status, FormatTime(r.Created), FormatTime(r.Closed), r.Approval, FormatTime(r.Approved),
		r.Requester, join(r.Approvers), r.Assignee, r.Digest)
}

// ticketRows concludes what no import has told of.
func (f *Fold) ticketRows() error {
	for _, t := range slices.SortedFunc(maps.Values(f.tickets.cited), func(a, b *ticket) int { return comparePositions(a.first, b.first) }) {
		class, why := f.untold(t)
		if err := f.concluded(t, class, why, t.first); err != nil {
			return err
		}
	}
	return nil
}

// corroborated notes what wasn't tested, and that nothing was where that is so.
func (t *Test) corroborated(s *tickets) {
	later, unheld := s.sums[ticketAfterImport], s.sums[ticketNotHeld]
	if !s.imported || later+unheld == 0 {
		return
	}
	if t.Population == 0 {
		t.State = NotTested
	}
	var list []string
	if later > 0 {
		list = append(list, fmt.Sprintf("%d tickets were used after the newest import was taken", later))
	}
	if unheld > 0 {
		list = append(list, fmt.Sprintf("%d were too many to be held until an import", unheld))
	}
	t.Note = strings.Join(list, "; ")
}

// excepted counts the rows that are exceptions.
func (s *tickets) excepted() (n uint64) {
	for c := ticketUnknown; c.told(); c++ {
		n += s.sums[c]
	}
	return n
}

// cites counts all rows.
func (s *tickets) cites() (n uint64) {
	for _, c := range s.sums {
		n += c
	}
	return n
}
