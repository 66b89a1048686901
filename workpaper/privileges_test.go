package workpaper_test

import (
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Each state that the test of privileges can have, with what the closing listing
// then says of the account.
func TestTheStatesOfTheTestOfPrivileges(t *testing.T) {
	row := func(role, object string, privileges ...string) evidence.PrivilegeRow {
		return evidence.PrivilegeRow{Role: role, Object: object, Privileges: append([]string{}, privileges...)}
	}
	reads := row("app", "public.orders", "select")
	for _, c := range []struct {
		what  string
		agent string // its role here
		rows  []evidence.PrivilegeRow
		want  workpaper.State
		says  string
		lists string
	}{
		{"nobody asked", "reader", nil, workpaper.NotTested, "Effective privilege: gateway policy only", "gateway policy only"},
		{"an account that only reads", "reader", []evidence.PrivilegeRow{row("app", ""), reads}, workpaper.Pass, "", "select"},
		{"one that writes", "reader", []evidence.PrivilegeRow{row("app", ""), reads, row("app", "public.log", "insert")}, workpaper.Fail, "can write 1 objects, among them public.log", "select insert"},
		{"one that owns", "reader", []evidence.PrivilegeRow{row("app", ""), row("app", "public.orders", "owner", "select")}, workpaper.Fail, "owns or can write 1 objects", "owner select"},
		{"a superuser", "reader", []evidence.PrivilegeRow{row("app", "", "superuser"), reads}, workpaper.Fail, "is a superuser", "superuser select"},
		{"a member of one", "reader", []evidence.PrivilegeRow{row("app", ""), row("boss", "", "superuser", "member"), reads}, workpaper.Fail, "a member of one", "boss:superuser boss:member select"},
		{"an agent that may write", "writer", []evidence.PrivilegeRow{row("app", ""), row("app", "public.orders", "owner", "select")}, workpaper.Pass, "", "owner select"},
	} {
		g := packtest.New()
		g.Boot()
		g.Organise("billing-bot", c.agent)
		if c.rows != nil {
			g.ImportPrivileges("app", c.rows)
		}
		g.Beat()
		_, s := fold(t, g, evidence.Position{})
		p := test(t, s, "import.privileges")
		text := p.Note
		for _, e := range p.Exceptions {
			text += e.Text
		}
		if p.State != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, p.State, text, c.want, c.says)
		}
		closing := s.Listings[1]
		for _, r := range closing.Rows {
			if got := r[closing.Column("upstream_privileges")]; got != c.lists {
				t.Errorf("%s: the listing says %q, want %q", c.what, got, c.lists)
			}
		}
		if len(closing.Rows) == 0 {
			t.Errorf("%s: nothing is listed", c.what)
		}
	}
	g := packtest.New()
	g.Boot()
	g.ImportPrivileges("app", []evidence.PrivilegeRow{row("app", "")})
	g.Beat()
	if _, s := fold(t, g, evidence.Position{}); test(t, s, "import.privileges").State != workpaper.NoOccurrence {
		t.Error("without an agent there is something to test")
	}
}
