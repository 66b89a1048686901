package workpaper_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// told folds a log and returns its transcripts by session.
func told(t *testing.T, g *packtest.Gateway) (map[string]*workpaper.Transcript, []string, *workpaper.Summary) {
	t.Helper()
	f := workpaper.NewFold(workpaper.OutFunc(func(string, []string) error { return nil }))
	byID, order := make(map[string]*workpaper.Transcript), []string(nil)
	f.Told = func(tr *workpaper.Transcript) error {
		byID[tr.Session] = tr
		order = append(order, tr.Session)
		return nil
	}
	if err := g.Records(f.Record); err != nil {
		t.Fatal(err)
	}
	s, err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return byID, order, s
}

func shop() *packtest.Gateway {
	g := packtest.New()
	g.Boot()
	g.Organise("billing-bot", "reader")
	return g
}

func TestTranscriptTellsWhatASessionDidInOrder(t *testing.T) {
	g := packtest.Day()
	all, _, s := told(t, g)
	if s.Untold != 0 || s.Told != uint64(len(all)) {
		t.Errorf("%d told and %d not, of %d", s.Told, s.Untold, len(all))
	}
	tr := all["gw1.1.88"] // in which people said yes and no
	if tr == nil {
		t.Fatalf("there are %v", all)
	}
	var got []string
	for _, r := range tr.Lines.Rows {
		got = append(got, strings.TrimSpace(strings.Join([]string{r[0], r[2], r[6], r[12], r[20]}, " ")))
	}
	want := []string{
		"gw1.1.89 connected", "gw1.1.90 command deny denied ▮ sealed", "gw1.1.91 approval asked",
		"gw1.1.93 command allow ok ▮ sealed", "gw1.1.96 approval asked", "gw1.1.99 ended by a person",
	}
	for i := range got {
		got[i] = strings.Join(strings.Fields(got[i]), " ")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRefusedSessionsHaveNoTranscript(t *testing.T) {
	g := shop()
	if s := g.Open("billing-bot", "payroll"); s != nil {
		t.Fatal("it was let in")
	}
	if all, _, s := told(t, g); len(all) != 0 || s.Untold != 0 {
		t.Errorf("%d transcripts, %d sessions without", len(all), s.Untold)
	}
}

func TestSessionsThatSomebodyShouldLookAtAreToldFirst(t *testing.T) {
	g := shop()
	var odd []string
	for i := range 150 {
		s := g.Open("billing-bot", "orders")
		s.Do("SELECT ?", "postgres:select", "public.orders")
		if i >= 140 {
			s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
			odd = append(odd, s.ID().String())
		}
		s.Close()
	}
	_, order, s := told(t, g)
	if len(order) != 110 || s.Told != 110 || s.Untold != 40 {
		t.Fatalf("%d transcripts; the summary says %d, and %d without", len(order), s.Told, s.Untold)
	}
	for _, id := range odd {
		if !slices.Contains(order, id) {
			t.Errorf("session %s had a refusal and has no transcript", id)
		}
	}
}

func TestLongSessionsAreCutAndSaySo(t *testing.T) {
	g := shop()
	s := g.Open("billing-bot", "orders")
	for i := range 2_500 {
		s.Do(fmt.Sprintf("SELECT %d", i), "postgres:select", "public.orders")
	}
	s.Do("SELECT "+strings.Repeat("x, ", 10_000), "postgres:select", "public.orders")
	s.Close()
	all, order, _ := told(t, g)
	tr := all[order[0]]
	size := 0
	for _, r := range tr.Lines.Rows {
		for _, cell := range r {
			size += len(cell)
		}
	}
	if tr.Left+len(tr.Lines.Rows) != 2_502 || size > 256<<10 { // one line is the connection's
		t.Errorf("%d lines of %d bytes, %d left out", len(tr.Lines.Rows), size, tr.Left)
	}
	for _, write := range []func(io.Writer) error{tr.WriteHTML, tr.WriteText} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%d more lines", tr.Left); !strings.Contains(b.String(), want) {
			t.Errorf("it doesn't say %q", want)
		}
	}
}

func TestOpenSessionsHaveATranscript(t *testing.T) {
	g := shop()
	s := g.Open("billing-bot", "orders")
	p, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
	all, _, _ := told(t, g)
	tr := all[s.ID().String()]
	if tr == nil || len(tr.Lines.Rows) != 2 || tr.Lines.Rows[1][0] != p.String() || tr.Lines.Rows[1][12] != "open" {
		t.Errorf("got %+v", tr)
	}
}
