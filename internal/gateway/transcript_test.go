package gateway

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// day is the records of a synthetic day: two agents, a block that commits, a
// refusal, a crash with a command in doubt that is resolved later.
func day(t *testing.T) (list []*evidence.Record) {
	t.Helper()
	err := packtest.Day().Records(func(r *evidence.Record) error {
		c := *r
		list = append(list, &c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// short writes an entry as its place and what it is.
func short(e *api.Entry) string {
	switch {
	case e.Start != nil:
		return "session " + e.Session + " of " + e.Agent
	case e.Upstream != nil:
		return "upstream"
	case e.Command != nil:
		return e.Position + " " + e.Command.Outcome
	case e.Transaction != nil:
		return fmt.Sprintf("%s %s to %s", e.Transaction.Result, e.Transaction.First, e.Transaction.Last)
	case e.Note != nil:
		return "note " + e.Note.Kind
	case e.Alert != nil:
		return "alert " + e.Alert.Rule
	case e.Resolution != nil:
		return e.Resolution.Of + " " + e.Resolution.Result
	case e.End != nil:
		return "end: " + e.End.Reason
	}
	return "nothing"
}

// told is the transcript of some records, live from the cut-th on.
func told(t *testing.T, q api.Did, records []*evidence.Record, cut int) (lines []string, tr *transcript) {
	t.Helper()
	tr = newTranscript(q)
	if q.Session != "" {
		var err error
		if tr.only, err = evidence.ParsePosition(q.Session); err != nil {
			t.Fatal(err)
		}
	}
	feed := func(list []*evidence.Record) {
		for _, r := range list {
			if err := tr.record(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	tell := func(e api.Entry) error { lines = append(lines, short(&e)); return nil }
	feed(records[:cut])
	if cut == len(records) {
		if err := tr.close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.tellAll(tell); err != nil {
		t.Fatal(err)
	}
	feed(records[cut:])
	return lines, tr
}

func starts(records []*evidence.Record, agent string) (list []evidence.Position) {
	for _, r := range records {
		if r.Head.Type == evidence.SessionStart && (agent == "" || r.Head.Agent == agent) {
			list = append(list, r.Head.Pos)
		}
	}
	return list
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestATranscriptIsToldSessionBySession(t *testing.T) {
	records := day(t)
	all, _ := told(t, api.Did{}, records, len(records))
	var sessions []string
	for _, l := range all {
		if strings.HasPrefix(l, "session ") {
			sessions = append(sessions, l)
		}
	}
	if got, want := len(sessions), len(starts(records, "")); got != want {
		t.Errorf("%d sessions, the log has %d", got, want)
	}
	var single []string
	for _, s := range starts(records, "") {
		lines, tr := told(t, api.Did{Session: s.String()}, records, len(records))
		if !tr.ended {
			t.Errorf("session %s has not ended", s)
		}
		single = append(single, lines...)
	}
	compare(t, "all sessions", all, single)
}

// Who follows from the beginning, or from anywhere, is told the same.
func TestFollowingTellsTheSame(t *testing.T) {
	records := day(t)
	for _, s := range starts(records, "") {
		whole, _ := told(t, api.Did{Session: s.String()}, records, len(records))
		for cut := range records {
			live, _ := told(t, api.Did{Session: s.String()}, records, cut)
			slices.Sort(live) // what overlaps is told as it ends
			want := slices.Sorted(slices.Values(whole))
			if !slices.Equal(live, want) {
				compare(t, fmt.Sprintf("session %s, live from record %d on", s, cut), live, want)
				return
			}
		}
	}
}

func TestATransactionIsToldBehindItsLastCommand(t *testing.T) {
	records := day(t)
	lines, _ := told(t, api.Did{Session: starts(records, "report-bot")[0].String()}, records, len(records))
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "commit ") })
	if i < 1 || lines[i] != "commit gw1.1.62 to gw1.1.66" || lines[i-1] != "gw1.1.66 ok" {
		t.Errorf("%d in\n%s", i, strings.Join(lines, "\n"))
	}
}

func TestADoubtIsResolvedAfterItsSession(t *testing.T) {
	records := day(t)
	lost := starts(records, "report-bot")[1]
	lines, tr := told(t, api.Did{Session: lost.String()}, records, len(records))
	n := len(lines)
	if n < 3 || !strings.HasSuffix(lines[n-3], " in_doubt") || !strings.HasPrefix(lines[n-2], "end: ") || !strings.HasSuffix(lines[n-1], " rolled_back") {
		t.Errorf("ends with\n%s", strings.Join(lines[max(0, n-3):], "\n"))
	}
	if !tr.complete() {
		t.Error("there is more to come")
	}
}

func TestAnAlertIsToldBehindItsCommand(t *testing.T) {
	g, s := packtest.Shop()
	at, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
	s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.Alert},
		Body: evidence.EncodeBody(evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: at, Text: "look"})})
	s.End(at, evidence.OK)
	tr := newTranscript(api.Did{})
	if err := g.Records(tr.record); err != nil {
		t.Fatal(err)
	}
	var lines []string
	if err := tr.tellAll(func(e api.Entry) error { lines = append(lines, short(&e)); return nil }); err != nil {
		t.Fatal(err)
	}
	compare(t, "ends with", lines[max(0, len(lines)-2):], []string{at.String() + " ok", "alert grammar-killed"})
}

func TestOnlySomeCommandsAreTold(t *testing.T) {
	records := day(t)
	denied, _ := told(t, api.Did{Agent: "billing-bot", Outcomes: []string{"denied"}}, records, len(records))
	var want []string
	for _, r := range records {
		if r.Head.Type == evidence.CommandIntent && r.Head.Outcome == evidence.Denied {
			want = append(want, r.Head.Pos.String()+" denied")
		}
	}
	var got []string
	for _, l := range denied {
		if strings.HasSuffix(l, " denied") {
			got = append(got, l)
		}
	}
	compare(t, "what was denied", got, want)
	writes, _ := told(t, api.Did{Verbs: []string{"admin"}}, records, len(records))
	for _, l := range writes {
		if strings.HasPrefix(l, "commit") || strings.HasPrefix(l, "note") {
			t.Errorf("%q is told with verbs that it has none of", l)
		}
	}
}

func TestThePeriodIsOfCommands(t *testing.T) {
	records := day(t)
	tr := newTranscript(api.Did{})
	tr.from, tr.to = packtest.Noon+100*packtest.Second, packtest.Noon+130*packtest.Second
	for _, r := range records {
		if err := tr.record(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range tr.lines {
		if l.cmd != nil {
			n++
			if at := l.cmd.intent.Time; at < tr.from || at >= tr.to {
				t.Errorf("%s was asked at %s", l.at, time.UnixMicro(at).UTC())
			}
		}
	}
	want := 0
	for _, r := range day(t) {
		if r.Head.Type == evidence.CommandIntent && r.Head.Time >= tr.from && r.Head.Time < tr.to {
			want++
		}
	}
	if n != want || n < 20 {
		t.Errorf("%d commands of %d", n, want)
	}
}

// However much there is, the newest commands are kept and no more lines than
// stand in a proportion to them.
func TestTheNewestAreKept(t *testing.T) {
	g, s := packtest.Shop()
	var want []string
	for i := range 100 {
		at, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
		s.End(at, evidence.OK)
		if i >= 93 {
			want = append(want, at.String()+" ok")
		}
		for range 50 {
			s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.SessionNote, Frames: 1, Bytes: 5},
				Body: evidence.EncodeBody(evidence.NoteBody{Kind: "sync", Origin: "agent"})})
		}
	}
	for _, table := range []bool{true, false} {
		tr := newTranscript(api.Did{Range: api.Range{Limit: 7}})
		tr.table = table
		if err := g.Records(func(r *evidence.Record) error {
			if len(tr.lines) > 2*tr.most() {
				t.Fatalf("%d lines are held", len(tr.lines))
			}
			return tr.record(r)
		}); err != nil {
			t.Fatal(err)
		}
		if err := tr.close(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range tr.rows() {
			got = append(got, row[0]+" "+row[10])
		}
		if !tr.more || len(got) == 0 || table && len(got) != 7 {
			t.Fatalf("more %t, %q", tr.more, got)
		}
		compare(t, "the newest", got, want[len(want)-len(got):])
	}
}

// The rows are those of the auditor's table of commands.
func TestRowsAreTheWorkpapers(t *testing.T) {
	records := day(t)
	tr := newTranscript(api.Did{})
	commands := population("commands")
	want := make(map[string][]string)
	fold := workpaper.NewFold(workpaper.OutFunc(func(table string, cells []string) error {
		if table == commands.Name {
			want[cells[0]] = slices.Clone(cells)
		}
		return nil
	}))
	for _, r := range records {
		if err := tr.record(r); err != nil {
			t.Fatal(err)
		}
		if err := fold.Record(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fold.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tr.close(); err != nil {
		t.Fatal(err)
	}
	rows := tr.rows()
	if len(rows) != len(want) || len(rows) < 30 {
		t.Fatalf("%d rows, the workpaper has %d", len(rows), len(want))
	}
	committed, resolved := 0, 0
	for _, row := range rows {
		for i, column := range didColumns {
			at := commands.Column(column)
			if at >= 0 && row[i] != want[row[0]][at] {
				t.Errorf("%s of %s is %q, in the workpaper %q", column, row[0], row[i], want[row[0]][at])
			}
		}
		if row[18] == "commit" && row[17] != "" {
			committed++
		}
		if row[19] == "rolled_back" && row[10] == "in_doubt" {
			resolved++
		}
	}
	if committed != 3 || resolved != 1 {
		t.Errorf("%d commands of a block, %d resolved", committed, resolved)
	}
	if p := (&transcript{}).rows(); !reflect.DeepEqual(p, [][]string{}) {
		t.Errorf("no rows are %v", p)
	}
}
