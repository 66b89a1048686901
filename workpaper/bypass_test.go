package workpaper_test

import (
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// around is a log of three sessions at the upstream: one of an agent, one of the
// gateway's own, and one from an address, with a run over them.
func around(client string, then func(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow)) *packtest.Gateway {
	g, s := packtest.Shop()
	g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-direct", Before: g.Registry.Config(), Text: "direct\n", By: packtest.Alice,
		Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres", Durability: "power", Direct: []evidence.Direct{
			{User: "app", From: "192.0.2.0/24", Reason: "nightly backup"}, {From: "local", Reason: "the database's own people"}}}}})
	from := g.Now - 10*packtest.Second
	rows := []evidence.ConnectionRow{g.Logged(s), g.OwnConnection(7001), g.LoggedFrom(client, 7002)}
	s.Close()
	g.Now += 20 * packtest.Second
	then(g, from, rows)
	g.Beat()
	return g
}

func plainly(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow) {
	g.Reconcile(from, rows, nil, nil)
}

func TestSessionsOfAnUpstreamAreToldApart(t *testing.T) {
	c, s := fold(t, around("192.0.2.9:5000", plainly), evidence.Position{})
	if ids := failed(s); len(ids) > 0 {
		t.Errorf("failed: %q", ids)
	}
	if b := test(t, s, "import.connections"); b.State != workpaper.Pass || b.Population != 3 {
		t.Errorf("the test is %+v", b)
	}
	for client, want := range map[string][2]string{
		"198.51.100.1:1025": {"gateway", ""}, "198.51.100.1:61001": {"own", "catalogue"}, "192.0.2.9:5000": {"allowed", "nightly backup"},
	} {
		if got := c.cell(t, "recon", "client", client, "class"); got != want[0] {
			t.Errorf("%s is %q, want %q", client, got, want[0])
		}
		if got := c.cell(t, "recon", "client", client, "reason"); got != want[1] {
			t.Errorf("%s has the reason %q, want %q", client, got, want[1])
		}
	}
	if c.total(t, "recon", "sessions in logs of upstreams") != 3 || c.total(t, "recon", "of agents (-)") != 1 || c.total(t, "recon", "unexplained (=)") != 0 {
		t.Errorf("totals: %q", c["totals"].Rows)
	}
}

// Each state that the test of bypasses can have, and what it finds.
func TestTheStatesOfTheTestOfBypasses(t *testing.T) {
	const second = packtest.Second
	for _, c := range []struct {
		what string
		log  *packtest.Gateway
		want workpaper.State
		says string
	}{
		{"no log was imported", around("192.0.2.9:5000", func(*packtest.Gateway, int64, []evidence.ConnectionRow) {}), workpaper.NotTested, "Bypass: untested"},
		{"nobody connected", func() *packtest.Gateway {
			g := packtest.New()
			g.Boot()
			g.Organise("billing-bot", "reader")
			g.Reconcile(g.Now-second, nil, nil, nil)
			g.Beat()
			return g
		}(), workpaper.NoOccurrence, ""},
		{"who may", around("192.0.2.9:5000", plainly), workpaper.Pass, ""},
		{"over a unix socket", around("", plainly), workpaper.Pass, ""},
		{"somebody else", around("203.0.113.9:5000", plainly), workpaper.Fail, "user app was let in to orders from 203.0.113.9:5000"},
		{"the log lacks a session", around("192.0.2.9:5000", func(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow) {
			g.Reconcile(from, rows[1:], nil, nil)
		}), workpaper.Fail, "lacks gw1.1."},
		{"the run leaves one out", around("203.0.113.9:5000", func(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow) {
			g.Reconcile(from, rows, nil, func(b *evidence.ReconBody) { b.Unexplained, b.Allowed, b.Keys = 0, 1, nil })
		}), workpaper.Fail, "the log and the records before it say 3 logged, 1 of agents, 1 own, 0 allowed, 1 unexplained"},
		{"nothing held it against the gateway's", around("192.0.2.9:5000", func(g *packtest.Gateway, _ int64, rows []evidence.ConnectionRow) {
			g.Import(evidence.ImportConnections, "orders", rows, 3)
		}), workpaper.Fail, "nothing held it against"},
		{"counters that agree", around("192.0.2.9:5000", counting(packtest.Counted(5, 1, 1), packtest.Counted(6, 1, 1))), workpaper.Pass, ""},
		{"counters that don't", around("192.0.2.9:5000", counting(packtest.Counted(5, 1, 1), packtest.Counted(9, 1, 1))), workpaper.Fail, "say 4 sessions, its log has 1"},
		{"counters set back", around("192.0.2.9:5000", counting(packtest.Counted(5, 1, 1), packtest.Counted(1, 2, 1))), workpaper.Fail, "were set back"},
		{"a server that was started", around("192.0.2.9:5000", counting(packtest.Counted(5, 1, 1), packtest.Counted(1, 2, 2))), workpaper.Pass, ""},
		{"a time of which nothing is known", around("192.0.2.9:5000", func(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow) {
			g.Reconcile(from, rows, nil, nil)
			g.Now += 30 * second
			g.Reconcile(g.Now-10*second, nil, nil, nil)
		}), workpaper.Pass, "of 20 s between the windows nothing is known"},
	} {
		_, s := fold(t, c.log, evidence.Position{})
		b := test(t, s, "import.connections")
		text := b.Note
		for _, e := range b.Exceptions {
			text += e.Text
		}
		if b.State != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, b.State, text, c.want, c.says)
		}
	}
}

// counting reads counters before and after a session of somebody who may.
func counting(before, after []evidence.CounterRow) func(*packtest.Gateway, int64, []evidence.ConnectionRow) {
	return func(g *packtest.Gateway, from int64, rows []evidence.ConnectionRow) {
		g.Reconcile(from, rows, before, nil)
		from = g.Now
		g.Now += 20 * packtest.Second
		later := g.LoggedFrom("192.0.2.9:5001", 7003)
		g.Now += 20 * packtest.Second
		g.Reconcile(from, []evidence.ConnectionRow{later}, after, nil)
	}
}
