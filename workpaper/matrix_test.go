package workpaper_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Every test of a fold is evidence of a control, and what a control rests on is
// a test that there is.
func TestEveryTestIsInTheMatrix(t *testing.T) {
	tests := make(map[string]bool)
	for _, test := range workpaper.TestCatalogue() {
		tests[test.ID] = false
	}
	for _, c := range workpaper.Controls() {
		for _, id := range c.Tests {
			if _, ok := tests[id]; !ok {
				t.Errorf("control %s rests on test %s, which there is not", c.ID, id)
			}
			tests[id] = true
		}
		if (len(c.Tests) == 0) != (c.Absent != "") {
			t.Errorf("control %s has %d tests and says why there is none: %q", c.ID, len(c.Tests), c.Absent)
		}
	}
	for id, used := range tests {
		if !used {
			t.Errorf("test %s is evidence of no control (workpaper/matrix_catalogue.go)", id)
		}
	}
}

// Every criterion, artifact and reference of the catalogue is one that there is,
// and is used.
func TestCatalogueHoldsTogether(t *testing.T) {
	criteria, artifacts, ids := make(map[string]bool), map[string]bool{"": true}, make(map[string]bool)
	for _, c := range workpaper.Criteria() {
		criteria[c.ID] = false
	}
	for _, a := range workpaper.Artifacts() {
		artifacts[a.ID] = false
		table, isPopulation := strings.CutPrefix(a.File, "pop/")
		if isPopulation && !slices.ContainsFunc(workpaper.Populations(), func(p workpaper.Table) bool { return p.Name == table }) {
			t.Errorf("artifact %s is in %s, which no pack has", a.ID, a.File)
		}
	}
	if len(artifacts) != 1+22 {
		t.Errorf("there are %d artifacts, not 22", len(artifacts)-1)
	}
	for _, c := range workpaper.Controls() {
		if ids[c.ID] {
			t.Errorf("two controls are %s", c.ID)
		}
		ids[c.ID] = true
		if _, ok := artifacts[c.Artifact]; !ok {
			t.Errorf("control %s is of artifact %q, which there is not", c.ID, c.Artifact)
		}
		artifacts[c.Artifact] = true
		if len(c.Criteria) == 0 || len(c.NIST) == 0 || len(c.ISO) == 0 || c.Left == "" {
			t.Errorf("control %s lacks criteria, a cross-walk, or what is left to the entity", c.ID)
		}
		for _, cr := range c.Criteria {
			if _, ok := criteria[cr]; !ok {
				t.Errorf("control %s is of criterion %q, which there is not", c.ID, cr)
			}
			criteria[cr] = true
		}
		for _, id := range c.Tests {
			known := strings.HasPrefix(id, "import.") || workpaper.PopulationFile(id) != ""
			if !known {
				t.Errorf("the population of %s is in no file", id)
			}
		}
	}
	for what, used := range map[string]map[string]bool{"criterion": criteria, "artifact": artifacts} {
		for id, is := range used {
			if !is {
				t.Errorf("%s %s has no control", what, id)
			}
		}
	}
}

// No row of the matrix is green over an empty population, whatever the log: one
// in which nothing happened has not one pass but those over its own records.
func TestNothingPassesOverNothing(t *testing.T) {
	idle := packtest.New()
	idle.Boot()
	idle.Stop()
	for name, g := range map[string]*packtest.Gateway{"idle": idle, "busy": packtest.Day()} {
		_, s := fold(t, g, evidence.Position{})
		m := s.Controls[0]
		state, population, test := m.Column("state"), m.Column("population"), m.Column("test")
		for _, row := range m.Rows {
			if row[state] == string(workpaper.Pass) && (row[population] == "0" || row[population] == "" || row[test] == "") {
				t.Errorf("%s: passes over nothing: %q", name, row)
			}
		}
	}
	for _, test := range []workpaper.Test{{}, {State: workpaper.Pass}, {State: workpaper.NotTested}, {State: workpaper.NoOccurrence}} {
		test.Conclude()
		if test.State == workpaper.Pass {
			t.Errorf("a test of nothing passed: %+v", test)
		}
	}
}

// What fails shows in each row of its test, with its number and where its
// exceptions are listed, and nowhere else.
func TestExceptionsAreInTheirRows(t *testing.T) {
	g := packtest.New()
	g.Boot()
	g.Organise("bot-a", "reader")
	s := g.Open("bot-a", "orders")
	s.Ask("SELECT 1", "postgres:select", "public.t") // and nobody ever says how it ended
	s.Close()
	g.Stop()
	_, sum := fold(t, g, evidence.Position{})
	m, list := sum.Controls[0], sum.Controls[1]
	rows := 0
	for _, row := range m.Rows {
		failed := row[m.Column("test")] == "command.pairing"
		if got := row[m.Column("state")] == "fail"; got != failed {
			t.Errorf("row fails: %t; %q", got, row)
		}
		if !failed {
			continue
		}
		rows++
		if row[m.Column("exceptions")] != "1" || row[m.Column("exceptions_file")] != "controls/exceptions.csv" || row[m.Column("population_file")] != "pop/commands.csv" {
			t.Errorf("row of a failure: %q", row)
		}
	}
	if rows < 2 {
		t.Errorf("%d rows of command.pairing", rows)
	}
	if len(list.Rows) != 1 || list.Rows[0][0] != "command.pairing" || list.Rows[0][2] == "" {
		t.Errorf("exceptions: %q", list.Rows)
	}
	for _, st := range workpaper.Standings(sum.Tests) {
		want := 0
		if slices.Contains([]string{"CC6.1", "CC7.2", "PI1.3"}, st.Criterion) {
			want = 1
		}
		if st.Fail != want || st.Exceptions != uint64(want) {
			t.Errorf("%s has %d failing tests, want %d: %v", st.Criterion, st.Fail, want, st.Failing)
		}
	}
}

// The specification has the catalogue, so that another verifier can write the
// same matrix.
func TestTheSpecificationHasTheCatalogue(t *testing.T) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	list := func(l []string) string { return strings.Join(l, ", ") }
	line("# The catalogue of controls\n")
	line("Which tests and checks stand behind which criterion ([pack.md](pack.md#controls)). Texts are those of `controls/matrix`, to the letter. Written by `go test ./workpaper -update` from `workpaper/matrix_catalogue.go`; a change of it is reviewed here.\n")
	line("## Criteria\n")
	line("In the order of the matrix. Numbers are those of the AICPA's Trust Services Criteria, the words our own.\n")
	line("| criterion | about | left to the entity |\n|---|---|---|")
	for _, c := range workpaper.Criteria() {
		line("| %s | %s | %s |", c.ID, c.About, c.Left)
	}
	line("\n## Artifacts\n")
	line("| artifact | about | file |\n|---|---|---|")
	for _, a := range workpaper.Artifacts() {
		file := "none yet"
		if a.File != "" {
			file = "`" + a.File + "`"
		}
		line("| %s | %s | %s |", a.ID, a.About, file)
	}
	line("\n## Controls\n")
	line("In the order of the matrix. `note` is that of a control without tests.\n")
	for _, c := range workpaper.Controls() {
		line("### %s\n\n%s\n", c.ID, c.About)
		for _, part := range [][2]string{
			{"artifact", c.Artifact}, {"criteria", list(c.Criteria)}, {"tests", list(c.Tests)}, {"verifier_checks", list(c.Checks)}, {"note", c.Absent},
			{"nist_800_53", list(c.NIST)}, {"iso_27001", list(c.ISO)}, {"left_to_entity", c.Left},
		} {
			if part[1] != "" {
				line("- %s: %s", part[0], part[1])
			}
		}
		line("")
	}
	line("## Populations of tests\n")
	line("| test | population_file |\n|---|---|")
	for _, test := range workpaper.TestCatalogue() {
		if file := workpaper.PopulationFile(test.ID); file != "" {
			line("| `%s` | `%s` |", test.ID, file)
		}
	}
	const path = "../docs/spec/controls.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not the catalogue: review it and run go test ./workpaper -update (%v)", path, err)
	}
}
