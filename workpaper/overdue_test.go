package workpaper_test

import (
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func state(t *testing.T, s *workpaper.Summary, id string) *workpaper.Test {
	t.Helper()
	for _, test := range s.Tests {
		if test.ID == id {
			return test
		}
	}
	t.Fatalf("no test %s", id)
	return nil
}

// An alert has to be looked at within seven days; before they are over there is
// nothing to say.
func TestAlertsAreHeardInTime(t *testing.T) {
	const day = 24 * packtest.Hour
	for _, c := range []struct {
		name       string
		ack, end   int64 // after the alert; 0 is never
		want       workpaper.State
		population uint64
	}{
		{"not over yet", 0, 6 * day, workpaper.NoOccurrence, 0},
		{"never", 0, 8 * day, workpaper.Fail, 1},
		{"in time", 6 * day, 8 * day, workpaper.Pass, 1},
		{"late", 8 * day, 9 * day, workpaper.Fail, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, s := packtest.Shop()
			s.Close()
			raised := g.Now
			at := g.Own(evidence.Alert, evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: s.ID(), Text: "look"})
			g.Stop()
			if c.ack > 0 {
				g.Now = raised + c.ack
				g.Boot()
				d := &evidence.Draft{Head: evidence.Head{Type: evidence.AlertAck, Of: at},
					Body: evidence.EncodeBody(evidence.AlertAckBody{Disposition: evidence.AlertExpected, By: packtest.Alice})}
				g.OwnRecord(d)
				g.Stop()
			}
			g.Now = raised + c.end
			g.Boot()
			g.Stop()
			_, sum := fold(t, g, evidence.Position{})
			if got := state(t, sum, "alert.heard"); got.State != c.want || got.Population != c.population {
				t.Errorf("%s over %d, want %s over %d", got.State, got.Population, c.want, c.population)
			}
		})
	}
}

// A reading of evidence is a row with who read what.
func TestReadingsOfEvidenceAreListed(t *testing.T) {
	g, s := packtest.Shop()
	s.Close()
	at := g.Own(evidence.PackExport, evidence.ReadBody{Purpose: "SOC 2", Object: "pack", Level: "L1", From: "2027-01-01", To: "2027-02-01", By: packtest.Alice})
	g.Stop()
	c, sum := fold(t, g, evidence.Position{})
	if got := state(t, sum, "evidence.readers"); got.State != workpaper.Pass {
		t.Errorf("state %s: %v", got.State, got.Exceptions)
	}
	rows, table := c["evidence_access"].Rows, c["evidence_access"]
	if len(rows) != 1 {
		t.Fatalf("rows %q", rows)
	}
	for column, want := range map[string]string{"pos": at.String(), "kind": "pack.export", "reader": packtest.Alice.Person.ID, "purpose": "SOC 2", "object": "pack", "to": "2027-02-01"} {
		if got := rows[0][table.Column(column)]; got != want {
			t.Errorf("%s is %q, want %q", column, got, want)
		}
	}
}
