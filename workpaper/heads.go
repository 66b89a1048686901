package workpaper

import "slices"

// SealedCell stands in the cells that a body would tell, where bodies are
// withheld. Numbers are empty.
const SealedCell = "▮ sealed"

// headColumns are the columns that heads alone tell, of the populations that
// heads tell of at all. Totals are sums of those.
var headColumns = map[string][]string{
	authnTable: {"authn_pos", "at", "outcome", "agent_id", "resource"},
	sessionsTable: {"session_id", "state", "agent_id", "resource", "decision", "started_at", "ended_at", "end_pos", "carried_in",
		"commands", "denied", "skipped", "errors", "in_doubt", "rows", "bytes_up", "bytes_down", "unattributed_bytes"},
	commandsTable: {"command_id", "at", "session_id", "agent_id", "resource", "verb", "of", "decision", "outcome", "code", "rows",
		"bytes_up", "bytes_down", "frames", "duration_us", "ended_at", "end_pos"},
	denialsTable: {"pos", "at", "kind", "session_id", "agent_id", "resource", "verb", "decision", "bytes_to_upstream"},
}

// headTotals are the control totals that heads tell, beside all of authn.
var headTotals = map[string][]string{
	"records":     {"in the range"},
	"decisions":   {"allow", "deny", "error"},
	authnTable:    {"succeeded", "failed"},
	sessionsTable: {"carried in", "started (+)", "ended (-)", "open at closing (=)", "refused", "ended by a crash"},
	commandsTable: {"carried in", "asked (+)", "ended (-)", "open at closing (=)", "in doubt"},
}

// headTests are the tests that rest on heads alone.
var headTests = []string{"record.sequence", "record.ordinal", "command.pairing", "session.pairing", "command.order", "session.bytes", "session.attribution", "decision.denials"}

// HeadPopulations returns the populations of a pack without bodies.
func HeadPopulations() []Table {
	return slices.DeleteFunc(Populations(), func(t Table) bool { return headColumns[t.Name] == nil && t.Name != totalsTable })
}

// NewHeadFold returns a fold of records whose bodies are withheld. Its rows are
// those of HeadPopulations, with what heads tell, and its tests those that heads
// allow; there are no listings.
func NewHeadFold(out Out) *Fold {
	f := NewFold(out)
	f.told = make(map[string][]string)
	for _, t := range HeadPopulations() {
		cells := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			switch {
			case slices.Contains(headColumns[t.Name], c.Name):
				cells[i] = toldCell
			case c.Kind != Number:
				cells[i] = SealedCell
			}
		}
		f.told[t.Name] = cells
	}
	return f
}

// toldCell marks a column that heads tell.
const toldCell = "told"

// headCells leaves of a row what heads tell; false is no row.
func (f *Fold) headCells(table string, cells []string) bool {
	if table == totalsTable {
		return slices.Contains(headTotals[cells[0]], cells[1])
	}
	told, ok := f.told[table]
	for i := range told {
		if told[i] != toldCell {
			cells[i] = told[i]
		}
	}
	return ok
}

// headTest takes back what a test found that bodies are needed for.
func headTest(t *Test) {
	if !slices.Contains(headTests, t.ID) && t.State != NotTested {
		*t = Test{ID: t.ID, Of: t.Of, Title: t.Title, State: NotTested, Note: "Bodies are withheld at level L0"}
	}
}
