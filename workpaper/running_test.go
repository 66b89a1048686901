package workpaper_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// shown are tests as a pack would show them.
func shown(t *testing.T, tests []*workpaper.Test) string {
	t.Helper()
	var b bytes.Buffer
	if err := workpaper.WriteTests(&b, tests); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func keep(t *testing.T, r *workpaper.Running) *workpaper.Running {
	t.Helper()
	var b bytes.Buffer
	if err := r.Keep(&b); err != nil {
		t.Fatal(err)
	}
	resumed, err := workpaper.Resume(&b)
	if err != nil {
		t.Fatal(err)
	}
	if resumed.Last() != r.Last() {
		t.Fatalf("goes on after %s, not %s", resumed.Last(), r.Last())
	}
	return resumed
}

// logs of every kind of thing that a fold can hold open.
func logs() map[string]*packtest.Gateway {
	burst := func() *packtest.Gateway {
		g, s := packtest.Shop()
		for range 25 {
			s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
		}
		s.Close()
		g.Stop()
		return g
	}
	days := func() *packtest.Gateway {
		g, s := packtest.Shop()
		g.Own(evidence.Alert, evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: s.ID(), Text: "look"})
		s.Close()
		g.Own(evidence.RecordingGap, evidence.GapBody{Cause: "disk full"})
		for range 12 {
			g.Stop()
			g.Now += 24 * packtest.Hour
			g.Boot()
		}
		g.Own(evidence.RecordingGap, evidence.GapBody{Cause: "disk full again"})
		g.Stop()
		return g
	}
	// Lies, each of which shows by what was open when it was told.
	lies := func() *packtest.Gateway {
		g, s := packtest.Shop()
		early, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		s.Do("SELECT ?", "postgres:select", "public.orders")
		s.Commit(early, early)
		s.End(early, evidence.OK)
		token := g.Token("billing-bot")
		key, _ := g.Registry.Credential("billing-bot-key")
		g.Now += 2 * packtest.Hour
		g.OwnRecord(&evidence.Draft{Head: evidence.Head{Type: evidence.Authn, Agent: "billing-bot", Outcome: evidence.OK}, Body: evidence.EncodeBody(evidence.AuthnBody{
			Protocol: "postgres", Method: "token", Credential: token, Key: key.Thumbprint, Client: "192.0.2.9:40000", Listener: "postgres",
		})})
		g.Own(evidence.CredentialRevoke, evidence.RevokeBody{ID: key.ID, Reason: "copied", By: packtest.Alice})
		s.Do("SELECT ?", "postgres:select", "public.orders")
		g.Change = func(d *evidence.Draft) {
			if d.Head.Type == evidence.Heartbeat {
				d.Head.N += 5
			}
		}
		g.Beat()
		s.Close()
		g.Stop()
		return g
	}
	tickets := func() *packtest.Gateway { // cited before, around and after imports, one of them of a part
		g := packtest.Ticketed()
		list := g.Tickets()
		g.ImportTickets(0, list[0])
		g.ImportTickets(packtest.Second/2, list[1:]...)
		for _, ticket := range []string{"OPS-9", "OPS-10"} {
			g.Ticket = ticket
			g.Open("billing-bot", "orders").Close()
		}
		g.ImportTickets(packtest.Hour, list...)
		g.ImportTickets(0, list[2])
		g.Open("billing-bot", "orders").Close()
		g.Stop()
		return g
	}
	configs := func() *packtest.Gateway { // of a server, read in whole and in part, changed with a ticket and without
		g, s := packtest.Shop()
		row := func(key, value string) evidence.ConfigRow {
			return evidence.ConfigRow{Kind: evidence.ConfigRule, Key: key, Value: value}
		}
		g.ImportConfig("", nil, row("a", "peer"), row("b", "trust"))
		g.ImportConfig("OPS-1", map[string]string{evidence.ConfigRole: "refused"}, row("b", "trust"), row("a", "peer"), row("c", "md5"))
		g.ImportConfig("", map[string]string{evidence.ConfigRule: "refused"})
		g.ImportConfig("", nil, row("a", "trust"))
		s.Close()
		g.Stop()
		return g
	}
	return map[string]*packtest.Gateway{"configs": configs(), "tickets": tickets(), "day": packtest.Day(), "burst": burst(), "days": days(), "lies": lies()}
}

// The state is a cache: kept and gone on with after every record, deleted and
// made again from the log, or never kept, it gives the tests that a pack of the
// whole log has.
func TestReadinessIsWhatAPackShows(t *testing.T) {
	for name, g := range logs() {
		_, sum := fold(t, g, evidence.Position{})
		want := shown(t, sum.Tests)
		whole, kept := workpaper.NewRunning(), workpaper.NewRunning()
		err := g.Records(func(r *evidence.Record) error {
			if err := whole.Record(r); err != nil {
				return err
			}
			if err := kept.Record(r); err != nil {
				return err
			}
			if _, err := whole.Readiness(workpaper.Ask{}); err != nil { // asking changes nothing
				return err
			}
			kept = keep(t, kept)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for how, r := range map[string]*workpaper.Running{"never kept": whole, "kept after every record": kept} {
			got, err := r.Readiness(workpaper.Ask{})
			if err != nil {
				t.Fatal(err)
			}
			if text := shown(t, got.Tests); text != want {
				t.Errorf("%s, %s: its tests are\n%s\nof a pack\n%s", name, how, text, want)
			}
			if got.Allowed != sum.Allowed || got.Refused != sum.Refused || got.Opaque != sum.Uncovered {
				t.Errorf("%s, %s: %d allowed, %d refused, %d opaque; a pack has %d, %d and %d", name, how, got.Allowed, got.Refused, got.Opaque, sum.Allowed, sum.Refused, sum.Uncovered)
			}
		}
	}
}

// A period begins with any day: what was found before isn't in it.
func TestReadinessOfAPeriod(t *testing.T) {
	r := workpaper.NewRunning()
	g := logs()["days"]
	if err := g.Records(r.Record); err != nil {
		t.Fatal(err)
	}
	gaps := func(from int64) *workpaper.Test {
		got, err := keep(t, r).Readiness(workpaper.Ask{From: from})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(got.Tests, func(t *workpaper.Test) bool { return t.ID == "gateway.gaps" })
		return got.Tests[i]
	}
	const day = 24 * packtest.Hour
	for _, c := range []struct {
		from int64
		want []string
	}{
		{0, []string{"disk full; 0 sessions affected", "disk full again; 0 sessions affected"}},
		{packtest.Noon, []string{"disk full; 0 sessions affected", "disk full again; 0 sessions affected"}}, // days count whole
		{packtest.Noon + day, []string{"disk full again; 0 sessions affected"}},
		{packtest.Noon + 12*day, []string{"disk full again; 0 sessions affected"}},
	} {
		test := gaps(c.from)
		var got []string
		for _, e := range test.Exceptions {
			got = append(got, e.Text)
		}
		if !slices.Equal(got, c.want) || test.Failed != uint64(len(c.want)) || test.State != workpaper.Fail {
			t.Errorf("from %s: %d exceptions %q, want %q", workpaper.FormatTime(c.from), test.Failed, got, c.want)
		}
	}
}

// What needs attention is said with what to do, and what blocks comes first.
func TestReadinessSaysWhatToDo(t *testing.T) {
	g, s := packtest.Shop()
	g.Own(evidence.Alert, evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: s.ID(), Text: "look"})
	g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-2", Before: g.Registry.Config(), Text: "people: [bob]\n", By: packtest.Bob,
		Resources: g.Registry.Resources(), People: []evidence.Member{{ID: packtest.Bob.Person.ID}}})
	s.Ask("SELECT ?", "postgres:select", "public.orders")
	s.Close()
	g.Beat()
	r := workpaper.NewRunning()
	if err := g.Records(r.Record); err != nil {
		t.Fatal(err)
	}
	got, err := r.Readiness(workpaper.Ask{Now: g.Now, Soon: 14 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if got.Ready() {
		t.Error("is ready, with an alert that nobody has looked at")
	}
	var kinds []string
	for _, f := range got.Concerns {
		kinds = append(kinds, f.Kind)
		if len(f.Criteria) == 0 || f.Text == "" || f.Subject == "" {
			t.Errorf("says too little: %+v", f)
		}
	}
	if want := []string{"alert", "owner", "test", "expiring", "expiring"}; !slices.Equal(kinds, want) {
		t.Errorf("concerns %q, want %q: %+v", kinds, want, got.Concerns)
	}
	if f := got.Concerns[0]; !strings.HasPrefix(f.Next, "exhibit alert ack gw1.1.") {
		t.Errorf("of an alert it says to do %q", f.Next)
	}
	quiet, err := r.Readiness(workpaper.Ask{Now: g.Now, Soon: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(quiet.Concerns); n != 3 {
		t.Errorf("%d concerns when nothing ends soon: %+v", n, quiet.Concerns)
	}
}

// What can't be gone on with is refused.
func TestAStateThatIsNoneIsRefused(t *testing.T) {
	r := workpaper.NewRunning()
	if err := r.Keep(&bytes.Buffer{}); err == nil {
		t.Error("an empty fold is kept")
	}
	if err := packtest.Day().Records(r.Record); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Keep(&b); err != nil {
		t.Fatal(err)
	}
	var other map[string]any
	if err := json.Unmarshal(b.Bytes(), &other); err != nil {
		t.Fatal(err)
	}
	delete(other["Fold"].(map[string]any)["Tests"].(map[string]any), "command.pairing") // of a program without that test
	without, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cut short": b.String()[:b.Len()/2], "of another program": string(without), "empty": "{}"} {
		if _, err := workpaper.Resume(strings.NewReader(text)); err == nil {
			t.Errorf("%s: a fold goes on from it", name)
		}
	}
}
