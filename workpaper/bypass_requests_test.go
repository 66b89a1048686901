package workpaper_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// audited is a log of two commands for a cluster, whose audit log has them, a
// kubelet, and whatever else.
func audited(others func(g *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow, edit func(*evidence.ReconBody)) *packtest.Gateway {
	g, s := packtest.Cluster()
	from := g.Now - 20*packtest.Second
	rows := []evidence.RequestRow{s.Get("pods", "web"), s.Get("deployments", "web"), g.Kubelet()}
	s.Get("events", "e1") // the log leaves it out
	s.Close()
	rows = others(g, rows)
	for range 4 {
		g.Now += 30 * packtest.Second
		g.Beat()
	}
	g.Audit(from, rows, edit)
	g.Beat()
	return g
}

func TestRequestsOfAClusterAreToldApart(t *testing.T) {
	c, s := fold(t, audited(func(g *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow {
		return append(rows, evidence.RequestRow{ID: "b1", User: "system:apiserver", From: "::1", At: g.Now})
	}, nil), evidence.Position{})
	if ids := failed(s); len(ids) > 0 {
		t.Errorf("failed: %q", ids)
	}
	if b := test(t, s, "import.connections"); b.State != workpaper.Pass || b.Population != 10 || b.Note != "of 1 commands clusters are said to log nothing" {
		t.Errorf("the test is %+v", b)
	}
	for object, want := range map[string]string{"pods/shop/web": "gateway", "deployments/shop/web": "gateway"} {
		if got := c.cell(t, "recon_requests", "object", object, "class"); got != want {
			t.Errorf("%s is %q", object, got)
		}
	}
	for user, want := range map[string]string{"system:node:n1": "kubelets", "system:apiserver": "the API server itself"} {
		if got := c.cell(t, "recon_requests", "user", user, "reason"); got != want {
			t.Errorf("%s may for %q", user, got)
		}
	}
	if c.total(t, "recon_requests", "requests in audit logs of clusters") != 10 || c.total(t, "recon_requests", "of agents (-)") != 2 || c.total(t, "recon_requests", "of others who may (-)") != 8 {
		t.Errorf("totals: %q", c["totals"].Rows)
	}
}

// What an audit log can say, and what is found of it.
func TestWhatGoesAroundTheGatewayToACluster(t *testing.T) {
	add := func(row func(g *packtest.Gateway, ours evidence.RequestRow) evidence.RequestRow) func(*packtest.Gateway, []evidence.RequestRow) []evidence.RequestRow {
		return func(g *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow {
			return append(rows, row(g, rows[0]))
		}
	}
	// Instead of the gateway's own entry there is somebody's with its id.
	instead := func(change func(*evidence.RequestRow)) func(*packtest.Gateway, []evidence.RequestRow) []evidence.RequestRow {
		return func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow {
			change(&rows[0])
			return rows
		}
	}
	same := func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow { return rows }
	for what, c := range map[string]struct {
		others func(*packtest.Gateway, []evidence.RequestRow) []evidence.RequestRow
		edit   func(*evidence.ReconBody)
		says   string // of an exception; "" is that there is none
	}{
		"nothing": {others: same},
		"an administrator": {others: add(func(g *packtest.Gateway, _ evidence.RequestRow) evidence.RequestRow {
			return g.Direct("admin", "203.0.113.9")
		}),
			says: "user admin asked the cluster of prod from 203.0.113.9"},
		"a node from elsewhere": {others: add(func(g *packtest.Gateway, _ evidence.RequestRow) evidence.RequestRow {
			r := g.Kubelet()
			r.From = "203.0.113.9"
			return r
		}), says: "(7 requests), and not through the gateway"},
		"somebody who may, as an agent": {others: add(func(g *packtest.Gateway, _ evidence.RequestRow) evidence.RequestRow {
			r := g.Direct("system:apiserver", "::1")
			r.As = "exhibit:billing-bot"
			return r
		}), says: "as exhibit:billing-bot"},
		"a copied id": {others: add(func(_ *packtest.Gateway, ours evidence.RequestRow) evidence.RequestRow { return ours }), says: "its id is there twice"},
		"a copied id, from another user who may": {others: add(func(_ *packtest.Gateway, ours evidence.RequestRow) evidence.RequestRow {
			ours.User, ours.As, ours.AsGroups = "system:apiserver", "", nil
			return ours
		}), says: "its id is there twice"},
		"an id that isn't used yet": {others: add(func(_ *packtest.Gateway, ours evidence.RequestRow) evidence.RequestRow {
			ours.ID = "gw1.1.9999"
			return ours
		}), says: "its id is of no command that the log lacks"},
		"an id ahead of the command, by another user":    {others: instead(func(r *evidence.RequestRow) { r.User = "admin" }), says: "another user carries its id"},
		"an id ahead of the command, as another agent":   {others: instead(func(r *evidence.RequestRow) { r.As = "exhibit:other" }), says: "it was asked as somebody else"},
		"an id ahead of the command, in another group":   {others: instead(func(r *evidence.RequestRow) { r.AsGroups = []string{"system:masters"} }), says: "it was asked as somebody else"},
		"an id ahead of the command, as nobody":          {others: instead(func(r *evidence.RequestRow) { r.As, r.AsGroups = "", nil }), says: "it was asked as somebody else"},
		"an impersonation that the cluster refused":      {others: instead(func(r *evidence.RequestRow) { r.As, r.AsGroups, r.Code = "", nil, 403 })},
		"an id ahead of the command, with another verb":  {others: instead(func(r *evidence.RequestRow) { r.Verb = "delete" }), says: "it asks for something else"},
		"an id ahead of the command, for another object": {others: instead(func(r *evidence.RequestRow) { r.Name = "db" }), says: "it asks for something else"},
		"an id ahead of the command, with a subresource": {others: instead(func(r *evidence.RequestRow) { r.Subresource = "exec" }), says: "it asks for something else"},
		"an id ahead of the command, long before":        {others: instead(func(r *evidence.RequestRow) { r.At -= packtest.Hour }), says: "it was asked at another time"},
		"a request that lasts": {others: func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow {
			started := rows[0]
			started.Stage = evidence.StageStarted
			return append([]evidence.RequestRow{started}, rows...)
		}},
		"one that ends as another": {others: func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow {
			started := rows[0]
			started.Stage = evidence.StageStarted
			rows[0].At += packtest.Millisecond
			return append([]evidence.RequestRow{started}, rows...)
		}, says: "its id is there twice"},
		"a command that the log lacks": {others: func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow { return rows[1:] }, says: "the audit log of prod lacks gw1.1."},
		"a run that hides one": {others: add(func(g *packtest.Gateway, _ evidence.RequestRow) evidence.RequestRow {
			return g.Direct("admin", "203.0.113.9")
		}),
			edit: func(b *evidence.ReconBody) { b.Unexplained, b.Allowed, b.Keys = 0, b.Allowed+1, nil }, says: "the log and the records before it say 10 logged"},
		"a run that says nothing is missing": {others: func(_ *packtest.Gateway, rows []evidence.RequestRow) []evidence.RequestRow { return rows[1:] },
			edit: func(b *evidence.ReconBody) { b.Missing, b.Keys = 0, nil }, says: "1 missing"},
		"a run that takes somebody for the agent": {others: instead(func(r *evidence.RequestRow) { r.User = "admin" }),
			edit: func(b *evidence.ReconBody) { b.Unexplained, b.Gateway, b.Missing, b.Keys = 0, 2, 0, nil }, says: "another user carries its id"},
	} {
		_, s := fold(t, audited(c.others, c.edit), evidence.Position{})
		b := test(t, s, "import.connections")
		text := ""
		for _, e := range b.Exceptions {
			text += e.Text + "\n"
		}
		if failed := b.State == workpaper.Fail; failed != (c.says != "") || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, %q; want %q", what, b.State, text, c.says)
		}
	}
}

// A pack of a later part of the log finds the same as one of all of it, and so
// does a fold that was kept between any two records.
func TestRunsOverAClusterAreMadeAgainFromAnyPlace(t *testing.T) {
	g, s := packtest.Cluster()
	from := g.Now - 20*packtest.Second
	var later []evidence.RequestRow
	for i := range 6 {
		first, lasts := s.Get("pods", fmt.Sprint("p", i)), s.Get("pods", fmt.Sprint("l", i))
		started := lasts
		started.Stage = evidence.StageStarted
		s.Get("pods", "missing")
		s.Get("events", "e")
		rows := append([]evidence.RequestRow{first, started, g.Kubelet()}, later...)
		later = []evidence.RequestRow{lasts}
		if i == 3 {
			rows = append(rows, first, g.Direct("admin", "203.0.113.9"))
		}
		g.Now += 30 * packtest.Second
		to := g.Now
		pos := g.Audit(from, rows, nil)
		from = to
		b, rule := evidence.ReconBody{}, ""
		if err := g.Records(func(r *evidence.Record) error {
			if r.Head.Pos == pos {
				return evidence.DecodeBody(r.Body, &b)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		switch {
		case b.Unexplained > 0:
			rule = workpaper.RuleBypass
		case b.Missing > 0:
			rule = workpaper.RuleUntied
		}
		if rule != "" {
			g.Own(evidence.Alert, evidence.AlertBody{Rule: rule, Severity: "high", Trigger: pos, Text: "look"})
		}
	}
	s.Close()
	g.Beat()
	_, all := fold(t, g, evidence.Position{})
	whole := test(t, all, "import.connections")
	if whole.Failed < 4 {
		t.Fatalf("too little is found: %+v", whole)
	}
	var records []evidence.Record
	if err := g.Records(func(r *evidence.Record) error { records = append(records, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		_, part := fold(t, g, records[i].Head.Pos)
		b := test(t, part, "import.connections")
		for _, e := range b.Exceptions {
			if strings.Contains(e.Text, "the records before it say") {
				t.Errorf("from %s: %s", records[i].Head.Pos, e.Text)
			}
		}
	}
	plain, kept := workpaper.NewRunning(), workpaper.NewRunning()
	for i := range records {
		if err := plain.Record(&records[i]); err != nil {
			t.Fatal(err)
		}
		if err := kept.Record(&records[i]); err != nil {
			t.Fatal(err)
		}
		kept = keep(t, kept)
	}
	for _, r := range []*workpaper.Running{plain, kept} {
		got, err := r.Readiness(workpaper.Ask{Now: g.Now})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range got.Tests {
			if b.ID == "import.connections" && (b.Failed != whole.Failed || b.Note != whole.Note) {
				t.Errorf("a fold that goes on has %d exceptions and %q, one at once %d and %q", b.Failed, b.Note, whole.Failed, whole.Note)
			}
		}
	}
}
