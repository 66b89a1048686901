package workpaper_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func TestWhatIsCitedIsHeldAgainstTheTickets(t *testing.T) {
	g := packtest.Ticketed()
	at := g.ImportTickets(0, g.Tickets()...)
	g.Beat()
	c, s := fold(t, g, evidence.Position{})
	if ids := failed(s); len(ids) > 0 {
		t.Errorf("failed: %q", ids)
	}
	if l := test(t, s, "import.tickets"); l.State != workpaper.Pass || l.Population != 3 || l.Note != "" {
		t.Errorf("tickets: %+v", l)
	}
	for ticket, want := range map[string]map[string]string{
		"OPS-1": {"grants": "1", "sessions": "0", "asked_by": packtest.Alice.Person.ID, "approved_by": ""},
		"OPS-7": {"grants": "1", "requests": "1", "approved_by": packtest.Bob.Person.ID, "approvers": packtest.Bob.Person.ID},
		"OPS-9": {"sessions": "1", "asked_by": "", "requester": packtest.Alice.Person.ID, "status": "Done"},
	} {
		want["class"], want["import_pos"] = "corroborated", at.String()
		for column, value := range want {
			if got := c.cell(t, "tickets", "ticket", ticket, column); got != value {
				t.Errorf("%s: %s is %q, want %q", ticket, column, got, value)
			}
		}
	}
}

// Each class that a ticket can have, with the state of the test.
func TestTheClassesOfTickets(t *testing.T) {
	with := func(ticket int, change func(*evidence.TicketRow, *packtest.Gateway)) func(*packtest.Gateway) {
		return func(g *packtest.Gateway) {
			list := g.Tickets()
			change(&list[ticket], g)
			g.ImportTickets(0, list...)
		}
	}
	for _, c := range []struct {
		what, ticket, class string
		then                func(*packtest.Gateway)
		want                workpaper.State
		says                string
	}{
		{"nobody imported tickets", "OPS-1", "no_import", func(*packtest.Gateway) {}, workpaper.NotTested, "Ticket content not corroborated"},
		{"an import doesn't have it", "OPS-9", "unknown", func(g *packtest.Gateway) { g.ImportTickets(0, g.Tickets()[:2]...) }, workpaper.Fail, `"OPS-9", which no import knows`},
		{"two have a part each", "OPS-9", "corroborated", func(g *packtest.Gateway) {
			g.ImportTickets(0, g.Tickets()[:2]...)
			g.ImportTickets(0, g.Tickets()[2])
		}, workpaper.Pass, ""},
		{"taken before anything", "OPS-9", "after_import", func(g *packtest.Gateway) { g.ImportTickets(packtest.Hour, g.Tickets()...) }, workpaper.NotTested, "3 tickets were used after the newest import"},
		{"created only then", "OPS-9", "created_after", with(2, func(r *evidence.TicketRow, g *packtest.Gateway) { r.Created = g.Now + packtest.Hour }), workpaper.Fail, "created after"},
		{"created by another clock", "OPS-9", "corroborated", with(2, func(r *evidence.TicketRow, g *packtest.Gateway) { r.Created = g.Now + 50*packtest.Second }), workpaper.Pass, ""},
		{"closed before", "OPS-7", "closed_before", with(1, func(r *evidence.TicketRow, g *packtest.Gateway) { r.Closed = g.Now - packtest.Hour }), workpaper.Fail, "closed before"},
		{"closed later", "OPS-7", "corroborated", with(1, func(r *evidence.TicketRow, g *packtest.Gateway) { r.Closed = g.Now }), workpaper.Pass, ""},
		{"refused", "OPS-7", "unapproved", with(1, func(r *evidence.TicketRow, _ *packtest.Gateway) { r.Approval = evidence.TicketRefused }), workpaper.Fail, "its approval is refused"},
		{"approved later", "OPS-7", "unapproved", with(1, func(r *evidence.TicketRow, g *packtest.Gateway) { r.Approved = g.Now + packtest.Hour }), workpaper.Fail, "approved at"},
		{"no word of an approval", "OPS-7", "corroborated", with(1, func(r *evidence.TicketRow, _ *packtest.Gateway) { r.Approval, r.Approved = "", 0 }), workpaper.Pass, ""},
		{"another asked", "OPS-7", "other_people", with(1, func(r *evidence.TicketRow, _ *packtest.Gateway) { r.Requester = packtest.Bob.Person.ID }), workpaper.Fail, "requested by"},
		{"another approved", "OPS-7", "other_people", with(1, func(r *evidence.TicketRow, _ *packtest.Gateway) { r.Approvers = []string{packtest.Alice.Person.ID} }), workpaper.Fail, "approved by"},
		{"whom nobody can compare", "OPS-9", "corroborated", with(2, func(r *evidence.TicketRow, _ *packtest.Gateway) {
			r.Requester, r.Approvers = packtest.Bob.Person.ID, []string{packtest.Bob.Person.ID}
		}), workpaper.Pass, ""},
		{"used again once it was taken", "OPS-9", "after_import", func(g *packtest.Gateway) {
			taken := g.Now
			g.Now += packtest.Hour
			g.Open("billing-bot", "orders").Close()
			g.ImportTickets(g.Now-taken, g.Tickets()...)
		}, workpaper.Pass, "1 tickets were used after the newest import"},
		{"used again once it was closed", "OPS-9", "closed_before", func(g *packtest.Gateway) {
			list, taken := g.Tickets(), g.Now
			list[2].Closed = g.Now
			g.Now += packtest.Hour
			g.Open("billing-bot", "orders").Close()
			g.ImportTickets(g.Now-taken, list...)
		}, workpaper.Fail, "closed before"},
	} {
		g := packtest.Ticketed()
		c.then(g)
		g.Beat()
		tables, s := fold(t, g, evidence.Position{})
		l := test(t, s, "import.tickets")
		text := l.Note
		for _, e := range l.Exceptions {
			text += e.Text
			if e.Position == "" {
				t.Errorf("%s: an exception without a position", c.what)
			}
		}
		if l.State != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, l.State, text, c.want, c.says)
		}
		if got := tables.cell(t, "tickets", "ticket", c.ticket, "class"); got != c.class {
			t.Errorf("%s: %s is %q, want %q", c.what, c.ticket, got, c.class)
		}
		sum := uint64(0)
		for _, row := range tables["totals"].Rows {
			if row[0] == "tickets" && row[1] != "cited, with their uses up to an import" {
				n, err := strconv.ParseUint(row[2], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
		if sum != uint64(len(tables["tickets"].Rows)) {
			t.Errorf("%s: the totals are of %d rows, there are %d", c.what, sum, len(tables["tickets"].Rows))
		}
	}
}

// Each use counts: what fits the first doesn't excuse the next.
func TestEveryUseOfATicketCounts(t *testing.T) {
	g := packtest.Ticketed()
	g.Own(evidence.AgentCreate, evidence.AgentBody{Agent: "other-bot", Purpose: "x", Owner: packtest.Bob.Person, By: packtest.Bob})
	s := g.Request("other-bot", "reader") // by Alice as well, under the same ticket
	list := g.Tickets()
	list[1].Requester = packtest.Bob.Person.ID // who answers for the second agent alone
	g.ImportTickets(0, list...)
	_ = s
	c, _ := fold(t, g, evidence.Position{})
	if got := c.cell(t, "tickets", "ticket", "OPS-7", "class"); got != "other_people" {
		t.Errorf("a requester of one of its uses is %q for all", got)
	}
}
