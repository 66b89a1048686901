package workpaper_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// test is the test with an id.
func test(t *testing.T, s *workpaper.Summary, id string) *workpaper.Test {
	t.Helper()
	i := slices.IndexFunc(s.Tests, func(t *workpaper.Test) bool { return t.ID == id })
	if i < 0 {
		t.Fatalf("there is no test %s", id)
	}
	return s.Tests[i]
}

// cell is a cell of the one row of a table in which a column has a value.
func (c collect) cell(t *testing.T, table, column, value, want string) string {
	t.Helper()
	for _, row := range c[table].Rows {
		if row[c[table].Column(column)] == value {
			return row[c[table].Column(want)]
		}
	}
	t.Fatalf("no row of %s has %s %q: %q", table, column, value, c[table].Rows)
	return ""
}

func TestALeaversAccessIsShownToEndInTime(t *testing.T) {
	c, s := fold(t, packtest.Departure(), evidence.Position{})
	if ids := failed(s); len(ids) > 0 {
		t.Errorf("failed: %q", ids)
	}
	if l := test(t, s, "import.people"); l.State != workpaper.Pass || l.Population != 1 {
		t.Errorf("leavers: %+v", l)
	}
	if l := test(t, s, "access.lag"); l.State != workpaper.Pass || l.Population != 1 {
		t.Errorf("the session that was open: %+v", l)
	}
	for column, want := range map[string]string{
		"subject_kind": "person", "owned_agents": "billing-bot", "stopped_agents": "billing-bot", "sessions_open": "1",
		"lag_seconds": "3600", "limit_seconds": "86400",
	} {
		if got := c.cell(t, "terminations", "subject", packtest.Alice.Person.ID, column); got != want {
			t.Errorf("%s is %q, want %q", column, got, want)
		}
	}
	last := c.cell(t, "terminations", "subject", packtest.Alice.Person.ID, "last_command_pos")
	noticed := c.cell(t, "terminations", "subject", packtest.Alice.Person.ID, "noticed_pos")
	a, err1 := evidence.ParsePosition(last)
	b, err2 := evidence.ParsePosition(noticed)
	if err1 != nil || err2 != nil || !a.Before(b) {
		t.Errorf("the last command is %q, and the leaving was noticed by %q: what came with the next owner is not of this", last, noticed)
	}
	if got := c.cell(t, "agents", "agent_id", "billing-bot", "status"); got != "active" {
		t.Errorf("with its next owner the agent is %q", got)
	}
}

// Each state that the test of leavers can have.
func TestTheStatesOfTheTestOfLeavers(t *testing.T) {
	shop := func(then func(*packtest.Gateway)) *packtest.Gateway {
		g, s := packtest.Shop()
		s.Close()
		then(g)
		g.Beat()
		return g
	}
	active := evidence.PersonRow{ID: packtest.Alice.Person.ID, Status: evidence.PersonActive}
	for _, c := range []struct {
		what string
		log  *packtest.Gateway
		want workpaper.State
		says string
	}{
		{"nobody imported people", shop(func(*packtest.Gateway) {}), workpaper.NotTested, "Leaver population: not provided"},
		{"nobody left", shop(func(g *packtest.Gateway) { g.ImportPeople(active) }), workpaper.NoOccurrence, ""},
		{"in time", shop(func(g *packtest.Gateway) { g.ImportPeople(g.Left(60)) }), workpaper.Pass, ""},
		{"at a time that nobody knows", shop(func(g *packtest.Gateway) {
			g.ImportPeople(evidence.PersonRow{ID: packtest.Alice.Person.ID, Status: evidence.PersonLeft})
		}), workpaper.Pass, "lag is not known"},
		{"too late", shop(func(g *packtest.Gateway) { g.ImportPeople(g.Left(86_401)) }), workpaper.Fail, "86401 s after they left"},
		{"and nothing took note", shop(func(g *packtest.Gateway) {
			g.Import(evidence.ImportPeople, "", []evidence.PersonRow{g.Left(60)}, 1)
		}), workpaper.Fail, "nothing took note of it"},
		{"an owner isn't among them", shop(func(g *packtest.Gateway) { g.ImportPeople() }), workpaper.Fail, "is not among the people"},
		{"somebody came back", shop(func(g *packtest.Gateway) { g.ImportPeople(g.Left(60)); g.ImportPeople(active) }), workpaper.Pass, ""},
	} {
		_, s := fold(t, c.log, evidence.Position{})
		l := test(t, s, "import.people")
		text := l.Note
		for _, e := range l.Exceptions {
			text += e.Text
		}
		if l.State != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, l.State, text, c.want, c.says)
		}
	}
}
