package workpaper_test

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// made is all that a fold gave, one line after another.
type made struct {
	rows map[string][]string
	told []string
}

// folding folds a log whose range begins with its nth record, and lets the fold
// go on from what was kept after each record that again says.
func folding(t *testing.T, g *packtest.Gateway, nth int, heads bool, again func(n int) bool) string {
	t.Helper()
	m := made{rows: make(map[string][]string)}
	begin := func() *workpaper.Fold {
		out := workpaper.OutFunc(func(table string, cells []string) error {
			m.rows[table] = append(m.rows[table], strings.Join(cells, "|"))
			return nil
		})
		if heads {
			return workpaper.NewHeadFold(out)
		}
		f := workpaper.NewFold(out)
		f.Told = func(t *workpaper.Transcript) error {
			return t.Each(func(name string, write func(io.Writer) error) error {
				var b strings.Builder
				err := write(&b)
				m.told = append(m.told, name, b.String())
				return err
			})
		}
		return f
	}
	f, n := begin(), 0
	err := g.Records(func(r *evidence.Record) error {
		n++
		if heads {
			r.Body = nil
		}
		if n < nth {
			return f.Opening(r)
		}
		if err := f.Record(r); err != nil || !again(n) {
			return err
		}
		var b bytes.Buffer
		if err := f.Keep(&b); err != nil {
			return err
		}
		f = begin()
		return f.Resume(&b)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range slices.Sorted(maps.Keys(m.rows)) {
		all.WriteString(table + "\n" + strings.Join(m.rows[table], "\n") + "\n")
	}
	all.WriteString(strings.Join(m.told, "\n"))
	all.WriteString(shown(t, s.Tests))
	for _, list := range s.Listings {
		if err := list.WriteCSV(&all); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// A pack's fold may be kept after any record, and gone on with: rows,
// transcripts, tests and listings are those of one that was never interrupted.
func TestAFoldGoesOnFromWhatWasKept(t *testing.T) {
	all := logs()
	all["departure"] = packtest.Departure()
	for name, g := range all {
		records := 0
		if err := g.Records(func(*evidence.Record) error { records++; return nil }); err != nil {
			t.Fatal(err)
		}
		for _, from := range []int{1, records / 3} {
			for _, heads := range []bool{false, true} {
				want := folding(t, g, from, heads, func(int) bool { return false })
				got := folding(t, g, from, heads, func(int) bool { return true })
				if got != want {
					i := 0
					for i < min(len(got), len(want)) && got[i] == want[i] {
						i++
					}
					t.Errorf("%s from record %d, heads alone %t: gone on with, it has\n%.400s\nit should be\n%.400s", name, from, heads, got[max(0, i-150):], want[max(0, i-150):])
				}
			}
		}
	}
}

func TestWhatWasntKeptIsNoFold(t *testing.T) {
	if err := workpaper.NewFold(newCollect()).Keep(io.Discard); err == nil {
		t.Error("nothing was folded, and it was kept")
	}
	for _, text := range []string{"", "{}", `{"Fold":{},"Rows":{}}`, "x"} {
		if err := workpaper.NewFold(newCollect()).Resume(strings.NewReader(text)); err == nil {
			t.Errorf("went on from %q", text)
		}
	}
}
