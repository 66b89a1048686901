package workpaper

import (
	"testing"
	"time"
)

func micro(text string) int64 {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t.UnixMicro()
}

func TestQuartersEndWithTheirLastMicrosecond(t *testing.T) {
	for from, want := range map[string]struct{ end, name string }{
		"2026-01-01T00:00:00Z": {"2026-04-01T00:00:00Z", "2026-Q1"},
		"2026-03-31T23:59:59Z": {"2026-04-01T00:00:00Z", "2026-Q1"},
		"2026-04-01T00:00:00Z": {"2026-07-01T00:00:00Z", "2026-Q2"},
		"2026-09-30T12:00:00Z": {"2026-10-01T00:00:00Z", "2026-Q3"},
		"2026-12-31T23:59:59Z": {"2027-01-01T00:00:00Z", "2026-Q4"},
	} {
		if end := quarterAfter(micro(from)); end != micro(want.end) || quarterName(end) != want.name {
			t.Errorf("%s ends %s with %s, want %s with %s", from, quarterName(end), time.UnixMicro(end).UTC(), want.name, want.end)
		}
	}
}

// A clock that is set back ends no quarter twice, and one that is set far ahead
// makes no end of listings.
func TestAQuarterEndsOnce(t *testing.T) {
	f := NewFold(OutFunc(func(string, []string) error { return nil }))
	f.quarterEnd = quarterAfter(micro("2026-02-01T00:00:00Z"))
	for _, at := range []string{"2026-03-01T00:00:00Z", "2026-04-02T00:00:00Z", "2026-03-30T00:00:00Z", "2026-04-03T00:00:00Z"} {
		f.endQuarters(micro(at))
	}
	if len(f.quarters) != 1 || f.quarters[0].Name != "access@2026-Q1" {
		t.Errorf("%d quarters have ended, want the first of 2026", len(f.quarters))
	}
	f.endQuarters(micro("2226-01-01T00:00:00Z"))
	if len(f.quarters) != maxQuarters {
		t.Errorf("%d listings, want %d at most", len(f.quarters), maxQuarters)
	}
}
