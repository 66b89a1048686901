package workpaper_test

import (
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// What two imports of a server's configuration don't have alike stands in a row,
// and is an exception unless the later one names a ticket.
func TestChangesOfAServersConfiguration(t *testing.T) {
	row := func(kind, key, value string) evidence.ConfigRow {
		return evidence.ConfigRow{Kind: kind, Key: key, Value: value}
	}
	app, admins := row("hba", "host user=app", "scram-sha-256"), row("hba", "local user=all", "peer")
	logs := row("setting", "log_connections", "on, from configuration file")
	type read struct {
		ticket string
		unread map[string]string
		rows   []evidence.ConfigRow
	}
	of := func(rows ...evidence.ConfigRow) read { return read{rows: rows} }
	under := func(ticket string, r read) read { r.ticket = ticket; return r }
	without := func(kind string, r read) read { r.unread = map[string]string{kind: "permission denied"}; return r }
	for _, c := range []struct {
		what  string
		reads []read
		want  workpaper.State
		says  string   // the note, or the first exception
		rows  []string // class, kind, key, before, after and ticket, with | between
	}{
		{"nobody asked", nil, workpaper.NotTested, "no two imports to compare", nil},
		{"asked once", []read{of(app, logs)}, workpaper.NotTested, "imported once only, with nothing to compare: orders", nil},
		{"nothing has changed", []read{of(app, logs), of(app, logs)}, workpaper.NoOccurrence, "", nil},
		{"a rule before others", []read{of(app, admins), of(row("hba", "host user=all", "trust"), app, admins)}, workpaper.Fail,
			`hba "host user=all" of orders was added: "trust, rule 1 of 3", and the import names no ticket`, []string{"added|hba|host user=all||trust, rule 1 of 3|"}},
		{"a rule less", []read{of(app, admins), of(admins)}, workpaper.Fail, "was removed", []string{"removed|hba|host user=app|scram-sha-256, rule 1 of 2||"}},
		{"another order", []read{of(app, admins), of(admins, app)}, workpaper.Fail, "stand in another order", []string{"moved|hba||host user=app|local user=all|"}},
		{"the order of settings says nothing", []read{of(logs, row("setting", "ssl", "on")), of(row("setting", "ssl", "on"), logs)}, workpaper.NoOccurrence, "", nil},
		{"a setting", []read{of(logs), of(row("setting", "log_connections", "off, from user"))}, workpaper.Fail,
			`setting "log_connections" of orders was changed from "on, from configuration file" to "off, from user", and the import names no ticket`,
			[]string{"changed|setting|log_connections|on, from configuration file|off, from user|"}},
		{"a membership, under a ticket", []read{of(logs), under("OPS-7", of(logs, row("member", "app in admins", "member")))}, workpaper.Pass, "",
			[]string{"added|member|app in admins||member|OPS-7"}},
		{"what can't be read", []read{without("hba", of(logs)), without("hba", of(logs))}, workpaper.NoOccurrence,
			"not tested, since the gateway's account can't read it: hba of orders (permission denied)",
			[]string{"unreadable|hba|||permission denied|", "unreadable|hba|||permission denied|"}},
		{"what can't be read any more", []read{of(app), without("hba", of())}, workpaper.Fail, "can't be read any more", []string{"unreadable|hba|||permission denied|"}},
		{"what was changed meanwhile", []read{of(app), under("OPS-1", without("hba", of())), of(admins)}, workpaper.Fail, "was added",
			[]string{"unreadable|hba|||permission denied|OPS-1", "added|hba|local user=all||peer, rule 1 of 1|", "removed|hba|host user=app|scram-sha-256, rule 1 of 1||"}},
		{"a part of the settings", []read{without("setting", of(logs)), without("setting", of(row("setting", "log_connections", "off")))}, workpaper.Fail, "was changed",
			[]string{"unreadable|setting|||permission denied|", "unreadable|setting|||permission denied|", "changed|setting|log_connections|on, from configuration file|off|"}},
	} {
		g := packtest.New()
		g.Boot()
		g.Organise("billing-bot", "reader")
		for _, r := range c.reads {
			g.ImportConfig(r.ticket, r.unread, r.rows...)
		}
		g.Beat()
		out, s := fold(t, g, evidence.Position{})
		p := test(t, s, "import.config")
		text := p.Note
		for _, e := range p.Exceptions {
			text += e.Text
		}
		if p.State != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, p.State, text, c.want, c.says)
		}
		var rows []string
		for _, r := range out["upstream_config"].Rows {
			rows = append(rows, strings.Join([]string{r[8], r[4], r[5], r[6], r[7], r[9]}, "|"))
		}
		if strings.Join(rows, "\n") != strings.Join(c.rows, "\n") {
			t.Errorf("%s: the rows are\n%s\nwant\n%s", c.what, strings.Join(rows, "\n"), strings.Join(c.rows, "\n"))
		}
	}
}
