package workpaper

import (
	"slices"
	"strings"
)

const (
	matrixTable     = "matrix"
	exceptionsTable = "exceptions"
)

// ControlTables returns the tables about controls, without rows: the control
// matrix, and what its tests stumbled over.
func ControlTables() []Table {
	return []Table{
		{Name: matrixTable, Columns: columns("criterion:n", "criterion_about", "control:n", "control_about", "artifact:n", "artifact_about",
			"test:n", "test_about", "state:n", "population_file", "population_of", "population:#", "exceptions:#", "exceptions_file", "note",
			"verifier_checks", "nist_800_53", "iso_27001", "left_to_entity")},
		{Name: exceptionsTable, Columns: columns("test:n", "number:#", "position:n", "at:t", "type:n", "agent_id:n", "resource:n", "session_id:n", "text")},
	}
}

// exceptionsFile is where the rows of the second of them are in a pack.
const exceptionsFile = "controls/" + exceptionsTable + ".csv"

// controlTables are both with the rows that concluded tests give.
func controlTables(tests []*Test) []Table {
	tables := ControlTables()
	tables[0].Rows, tables[1].Rows = matrixRows(tests), exceptionRows(tests)
	return tables
}

// matrixRows has a row for each criterion, control and test, and one for each
// criterion and control that no test is for. The state of a row is the test's,
// so that nothing passes here which hasn't passed there.
func matrixRows(tests []*Test) (rows [][]string) {
	byID := make(map[string]*Test, len(tests))
	for _, t := range tests {
		byID[t.ID] = t
	}
	controls := Controls()
	for _, cr := range Criteria() {
		for i := range controls {
			c := &controls[i]
			if !slices.Contains(c.Criteria, cr.ID) {
				continue
			}
			for _, id := range c.Tests {
				if t := byID[id]; t != nil {
					rows = append(rows, c.row(&cr, t))
				}
			}
			if len(c.Tests) == 0 {
				rows = append(rows, c.row(&cr, &Test{State: NotTested, Note: c.Absent}))
			}
		}
	}
	return rows
}

func (c *Control) row(cr *Criterion, t *Test) []string {
	file, exceptions, population, failed := "", "", "", ""
	if t.ID != "" {
		file, population, failed = PopulationFile(t.ID), count(t.Population), count(t.Failed)
	}
	if t.Failed > 0 {
		exceptions = exceptionsFile
	}
	return []string{cr.ID, cr.About, c.ID, c.About, c.Artifact, artifactAbout(c.Artifact), t.ID, t.Title, string(t.State),
		file, t.Of, population, failed, exceptions, t.Note, join(c.Checks), strings.Join(c.NIST, "; "), strings.Join(c.ISO, "; "), c.Left}
}

func artifactAbout(id string) string {
	for _, a := range Artifacts() {
		if a.ID == id {
			return a.About
		}
	}
	return ""
}

func exceptionRows(tests []*Test) (rows [][]string) {
	for _, t := range tests {
		for i, e := range t.Exceptions {
			rows = append(rows, []string{t.ID, count(uint64(i + 1)), e.Position, e.At, e.Type, e.Agent, e.Resource, e.Session, e.Text})
		}
	}
	return rows
}

// CriteriaOf returns the criteria of the controls that a test, or a verifier's
// check, stands behind.
func CriteriaOf(test string) (ids []string) {
	for _, cr := range Criteria() {
		if slices.ContainsFunc(Controls(), func(c Control) bool {
			return slices.Contains(c.Criteria, cr.ID) && (slices.Contains(c.Tests, test) || slices.Contains(c.Checks, test))
		}) {
			ids = append(ids, cr.ID)
		}
	}
	return ids
}

// Standing is what the tests of a criterion's controls came to. There is no one
// word for it: a criterion whose tests all passed is as good as those that
// nobody could make.
type Standing struct {
	Criterion    string   `json:"criterion"`
	About        string   `json:"about"`
	Pass         int      `json:"pass"`
	Fail         int      `json:"fail"`
	NoOccurrence int      `json:"no_occurrence"`
	NotTested    int      `json:"not_tested"`
	Exceptions   uint64   `json:"exceptions"`
	Failing      []string `json:"failing,omitempty"`  // tests with exceptions
	Untested     []string `json:"untested,omitempty"` // tests, and controls that have none
	Left         string   `json:"left_to_entity"`
}

// Standings says of each criterion what concluded tests say of it. Among them
// may be a verifier's checks, which count where a control names them.
func Standings(tests []*Test) []Standing {
	byID := make(map[string]*Test, len(tests))
	for _, t := range tests {
		byID[t.ID] = t
	}
	controls := Controls()
	var list []Standing
	for _, cr := range Criteria() {
		s, seen := Standing{Criterion: cr.ID, About: cr.About, Left: cr.Left}, make(map[string]bool)
		for i := range controls {
			if slices.Contains(controls[i].Criteria, cr.ID) {
				s.add(&controls[i], byID, seen)
			}
		}
		list = append(list, s)
	}
	return list
}

// add counts the tests of a control, each once for a criterion.
func (s *Standing) add(c *Control, tests map[string]*Test, seen map[string]bool) {
	made := 0
	for _, id := range slices.Concat(c.Tests, c.Checks) {
		t := tests[id]
		if t == nil {
			continue
		}
		made++
		if seen[id] {
			continue
		}
		seen[id] = true
		switch t.State {
		case Pass:
			s.Pass++
		case Fail:
			s.Fail++
			s.Exceptions += t.Failed
			s.Failing = append(s.Failing, id)
		case NoOccurrence:
			s.NoOccurrence++
		default:
			s.NotTested++
			s.Untested = append(s.Untested, id)
		}
	}
	if made == 0 {
		s.NotTested++
		s.Untested = append(s.Untested, c.ID)
	}
}
