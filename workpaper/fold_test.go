package workpaper_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

var update = flag.Bool("update", false, "write testdata")

// collect keeps the rows of a fold.
type collect map[string]*workpaper.Table

func newCollect() collect {
	c := make(collect)
	for _, t := range workpaper.Populations() {
		c[t.Name] = &t
	}
	return c
}

func (c collect) Row(table string, cells []string) error {
	c[table].Rows = append(c[table].Rows, append([]string(nil), cells...))
	return nil
}

// total is a control total.
func (c collect) total(t *testing.T, table, measure string) uint64 {
	t.Helper()
	for _, r := range c["totals"].Rows {
		if r[0] == table && r[1] == measure {
			n, err := strconv.ParseUint(r[2], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no total %s, %s", table, measure)
	return 0
}

// fold folds the log from the record at which the period begins.
func fold(t *testing.T, g *packtest.Gateway, from evidence.Position) (collect, *workpaper.Summary) {
	t.Helper()
	c := newCollect()
	f := workpaper.NewFold(c)
	err := g.Records(func(r *evidence.Record) error {
		if r.Head.Pos.Before(from) {
			return f.Opening(r)
		}
		return f.Record(r)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func failed(s *workpaper.Summary) (ids []string) {
	for _, t := range s.Tests {
		if t.State == workpaper.Fail {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

// middle is where Day's second minute begins.
var middle = evidence.Position{Gateway: "gw1", Boot: 1, Seq: 17}

func TestTables(t *testing.T) {
	c, s := fold(t, packtest.Day(), middle)
	if ids := failed(s); len(ids) > 0 {
		t.Errorf("tests with exceptions: %v", ids)
	}
	for _, l := range slices.Concat(s.Listings, s.Controls) {
		c[l.Name] = &l
	}
	for name, table := range c {
		var b bytes.Buffer
		if err := table.WriteCSV(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".csv", b.Bytes())
	}
	var b bytes.Buffer
	if err := workpaper.WriteTests(&b, s.Tests); err != nil {
		t.Fatal(err)
	}
	golden(t, "tests.jsonl", b.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v\nhint: go test ./workpaper -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// Whatever is carried in and added is ended or carried out, wherever the period
// is cut.
func TestTotalsRollForward(t *testing.T) {
	g := packtest.Day()
	var positions []evidence.Position
	if err := g.Records(func(r *evidence.Record) error {
		positions = append(positions, r.Head.Pos)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, from := range positions {
		c, s := fold(t, g, from)
		for _, table := range []string{"sessions", "commands"} {
			added := "started (+)"
			if table == "commands" {
				added = "asked (+)"
			}
			if c.total(t, table, "carried in")+c.total(t, table, added) != c.total(t, table, "ended (-)")+c.total(t, table, "open at closing (=)") {
				t.Errorf("from %s: %s don't add up: %v", from, table, c["totals"].Rows)
			}
		}
		rows := c.total(t, "commands", "carried in") + c.total(t, "commands", "asked (+)")
		if uint64(len(c["commands"].Rows)) != rows {
			t.Errorf("from %s: %d rows of commands, totals say %d", from, len(c["commands"].Rows), rows)
		}
		for _, table := range []struct{ name, opening, added, closing string }{
			{"agents", "in service at opening", "registered (+)", "in service at closing (=)"},
			{"grants", "standing at opening", "made (+)", "standing at closing (=)"},
		} {
			total := func(m string) uint64 { return c.total(t, table.name, m) }
			removed := "removed (-)"
			if table.name == "agents" {
				removed = "retired (-)"
			}
			if total(table.opening)+total(table.added) != total(removed)+total("expired (-)")+total(table.closing) {
				t.Errorf("from %s: %s don't roll forward: %v", from, table.name, c["totals"].Rows)
			}
		}
		for _, l := range s.Listings {
			for _, row := range l.Rows {
				if row[l.Column("effect")] == "" || row[l.Column("policy_digest")] == "" {
					t.Errorf("from %s: %s has a row without effect or policy: %q", from, l.Name, row)
				}
			}
		}
		// A period that begins within a boot lacks its gateway.start only if the
		// opening does.
		if ids := failed(s); len(ids) > 0 {
			t.Errorf("from %s: %v", from, ids)
		}
	}
}

// Changes of the log's keys are changes; what is done with the log is counted.
func TestTheLogsKeysAndCopies(t *testing.T) {
	g, s := packtest.Shop()
	s.Close()
	_, first := packtest.LogKey("packtest log key")
	_, second := packtest.LogKey("second log key")
	rotated := g.Rotate("second log key")
	revoked := g.Revoke("packtest log key")
	g.Own(evidence.LogBackup, evidence.BackupBody{Keys: true, Recipients: []string{"age1x"}, By: packtest.Alice})
	g.Own(evidence.LogRestore, evidence.RestoreBody{Blocks: 3, By: evidence.By{Via: "exhibit restore, uid 7"}})
	g.Own(evidence.EvidenceRead, evidence.ReadBody{Purpose: "question", Object: "who", Level: "L1", By: packtest.Alice})
	c, sum := fold(t, g, evidence.Position{})
	if ids := failed(sum); len(ids) > 0 {
		t.Errorf("failed: %q", ids)
	}
	want := [][]string{
		{rotated.String(), "log.key", first, second, "rotate", "yearly", packtest.Alice.Person.ID},
		{revoked.String(), "log.key", first, second, "revoke", "copied", packtest.Alice.Person.ID},
	}
	table := c["changes"]
	var got [][]string
	for _, r := range table.Rows {
		if r[table.Column("kind")] != "log.key" {
			continue
		}
		var row []string
		for _, name := range []string{"change_pos", "kind", "before_digest", "after_digest", "version", "diff", "activated_by"} {
			row = append(row, r[table.Column(name)])
		}
		got = append(got, row)
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("changes %q, want %q", got, want)
	}
	for _, n := range []struct {
		table, measure string
		want           uint64
	}{{"changes", "keys of the log", 2}, {"records", "backups", 1}, {"records", "restores", 1}, {"evidence_access", "reads", 1}} {
		if got := c.total(t, n.table, n.measure); got != n.want {
			t.Errorf("%s, %s: %d, want %d", n.table, n.measure, got, n.want)
		}
	}
}

func TestHolesAreFound(t *testing.T) {
	g := packtest.Day()
	gone := evidence.Position{Gateway: "gw1", Boot: 1, Seq: 40}
	c := newCollect()
	f := workpaper.NewFold(c)
	if err := g.Records(func(r *evidence.Record) error {
		if r.Head.Pos == gone {
			return nil
		}
		return f.Record(r)
	}); err != nil {
		t.Fatal(err)
	}
	s, err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	ids := strings.Join(failed(s), " ")
	if !strings.Contains(ids, "record.sequence") || !strings.Contains(ids, "record.ordinal") {
		t.Errorf("a record left out is found by %q", ids)
	}
}

func TestOneCommandEndsATransactionAndBeginsTheNext(t *testing.T) {
	g, s := packtest.Shop()
	first, chain := s.Block("SELECT ?", "postgres:select", "public.orders")
	s.Commit(first, chain)
	_, last := s.Block("SELECT ?", "postgres:select", "public.orders")
	s.Commit(chain, last)
	s.Commit(last, last)
	s.Close()
	if _, sum := fold(t, g, evidence.Position{}); len(failed(sum)) > 0 {
		t.Errorf("failed: %v", failed(sum))
	}
}

// What the clock was set by is no silence, and doesn't hide any.
func TestAStepOfTheClockIsNoSilence(t *testing.T) {
	const hour = packtest.Hour
	step := func(g *packtest.Gateway, by int64) {
		g.Own(evidence.TimeStep, evidence.TimeStepBody{StepMicros: by})
	}
	for name, c := range map[string]struct {
		happens func(g *packtest.Gateway)
		silent  bool
	}{
		"set forward": {func(g *packtest.Gateway) { g.Now += hour; step(g, hour) }, false},
		"forward, others come first": {func(g *packtest.Gateway) {
			g.Now += hour
			g.Beat()
			g.Now -= packtest.Millisecond * 3
			g.Beat()
			step(g, hour)
		}, false},
		"set back":           {func(g *packtest.Gateway) { g.Now -= hour; step(g, -hour) }, false},
		"forward and back":   {func(g *packtest.Gateway) { g.Now += hour; step(g, hour); g.Now -= hour; step(g, -hour) }, false},
		"silence":            {func(g *packtest.Gateway) { g.Now += hour; g.Beat() }, true},
		"silence to the end": {func(g *packtest.Gateway) { g.Now += hour }, true},
		"a step too late": {func(g *packtest.Gateway) {
			g.Now += hour
			g.Beat()
			g.Now += 6 * packtest.Second
			g.Beat()
			step(g, hour)
		}, true},
		"a step of too little":      {func(g *packtest.Gateway) { g.Now += hour; step(g, hour/2) }, true},
		"hidden by a step back":     {func(g *packtest.Gateway) { step(g, -hour) }, true},
		"hidden, others come first": {func(g *packtest.Gateway) { g.Now -= hour / 2; g.Beat(); step(g, -hour) }, true},
	} {
		g, s := packtest.Shop()
		s.Close()
		g.Now += 10 * packtest.Second
		g.Beat()
		c.happens(g)
		g.Beat()
		_, sum := fold(t, g, evidence.Position{})
		if got := slices.Contains(failed(sum), "gateway.liveness"); got != c.silent || len(failed(sum)) > 1 {
			t.Errorf("%s: failed %v", name, failed(sum))
		}
	}
}

func TestStatesOfATest(t *testing.T) {
	for _, c := range []struct {
		test workpaper.Test
		want workpaper.State
	}{
		{workpaper.Test{Population: 3}, workpaper.Pass},
		{workpaper.Test{}, workpaper.NoOccurrence},
		{workpaper.Test{Population: 3, Failed: 1}, workpaper.Fail},
		{workpaper.Test{State: workpaper.NotTested}, workpaper.NotTested},
		{workpaper.Test{State: workpaper.NotTested, Failed: 1}, workpaper.Fail},
	} {
		if c.test.Conclude(); c.test.State != c.want {
			t.Errorf("%+v, want %s", c.test, c.want)
		}
	}
}

func TestExceptionsAreCountedBeyondTheirList(t *testing.T) {
	var test workpaper.Test
	for range workpaper.MaxExceptions + 5 {
		test.Except(middle, "again")
	}
	if test.Failed != workpaper.MaxExceptions+5 || len(test.Exceptions) != workpaper.MaxExceptions {
		t.Errorf("%d counted, %d listed", test.Failed, len(test.Exceptions))
	}
}

func TestEmptyRangeIsNoRange(t *testing.T) {
	if _, err := workpaper.NewFold(newCollect()).Close(); !errors.Is(err, workpaper.ErrEmpty) {
		t.Errorf("got %v", err)
	}
}

func TestRowsThatCannotBeWrittenEndTheFold(t *testing.T) {
	full := errors.New("disk full")
	f := workpaper.NewFold(workpaper.OutFunc(func(string, []string) error { return full }))
	if err := packtest.Day().Records(f.Record); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// A hostile body must not get a fold off its feet.
func FuzzFold(f *testing.F) {
	for _, typ := range []evidence.Type{evidence.SessionStart, evidence.CommandIntent, evidence.CommandResult, evidence.PolicyChange, evidence.Authn, evidence.GatewayStart, evidence.CredentialIssue} {
		f.Add(string(typ), []byte(`{}`), uint64(3), uint64(2))
	}
	f.Fuzz(func(t *testing.T, typ string, body []byte, seq, of uint64) {
		fold := workpaper.NewFold(newCollect())
		for i, outcome := range []evidence.OutcomeClass{"", evidence.OK, evidence.Denied, evidence.InDoubt} {
			p := evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq + uint64(i)}
			r := evidence.Record{Body: body, Head: evidence.Head{
				Pos: p, Type: evidence.Type(typ), Time: int64(seq) * 7919, N: of, Session: evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq},
				Of: evidence.Position{Gateway: "gw1", Boot: 1, Seq: of}, Outcome: outcome, Effect: evidence.Allow, HasBody: len(body) > 0,
			}}
			if err := fold.Record(&r); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := fold.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
