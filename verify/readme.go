package verify

import (
	"encoding/base64"
	"fmt"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Readme returns what a pack says first of itself: README.html, README.pdf and
// the first tab of summary.xlsx are its renderings. It depends on the manifest
// (but for the list of files) and what the records say, so that a verifier can
// write it again: nothing in it is the operator's own words.
func Readme(m *Manifest, s *workpaper.Summary) *workpaper.Document {
	d := &workpaper.Document{Title: "Access evidence", Subtitle: m.Organisation}
	head := func(s string) { d.Add(workpaper.Block{Heading: s}) }
	text := func(format string, args ...any) { d.Add(workpaper.Block{Text: fmt.Sprintf(format, args...)}) }
	list := func(items ...string) { d.Add(workpaper.Block{List: items}) }

	text("What autonomous agents did through the gateway %s, who they were and what they were allowed to do, from the log %s. This is management's evidence, not an auditor's opinion.", m.Gateway, m.Origin)
	head("Scope")
	d.Add(workpaper.Block{Table: facts(m, s)})

	head("Evidence boundary")
	text("A gateway sees what goes through it. From inside it cannot be shown that nothing went around it, nor who left the organisation. The records are complete: every record of the range is in this pack, at least by its head, and positions have no holes.")
	text("Against everyone without the log's key it proves that these records are the log's, in this order, with none left out; that the tables are what the records say; that every decision follows from policy and grants of its moment. Against the operator, who holds the key, it proves that only with witnesses or checkpoints that you kept from earlier visits in your trust file; without either this is operator-only integrity.")

	head("Known gaps")
	list(gaps(m.Params.Level, s)...)
	head("Complementary controls, outside the boundary")
	text("These are the organisation's to show, and nothing here speaks of them:")
	list("Physical access to machines and media.", "Vulnerability management and patching.", "Screening, training and departure of staff.",
		"Governance of the agents' prompts and models.", "Ways to the same systems that do not lead through this gateway.",
		"Whether roles and purposes are sensible: the records say who approved them, not whether they should have.")

	head("How to verify")
	d.Add(workpaper.Block{Code: "exhibit-verify PACK --trust trust.json"})
	text("Get the trust file, which holds the log's key, from the organisation by a way that does not lead through whoever gave you this pack. The verifier needs no network. The format is written down (docs/spec/pack.md in the source), so you may write your own.")
	text("It makes every table, this page and every cell of summary.xlsx again from the records and compares them. README.pdf is derived from this page: the verifier checks that it is the file in the signed manifest, and not what it says.")

	head("Control tests")
	results := workpaper.TestTable(s.Tests)
	d.Add(workpaper.Block{Table: &results})
	text("no_occurrence means that there was nothing to test, and not_tested that an input is missing: neither is a pass. Exceptions are in tests.jsonl and in the tab exceptions of summary.xlsx.")

	head("Files")
	list(fileTexts(m.Params.Level)...)

	head("Glossary")
	d.Add(workpaper.Block{Table: pairs(
		"Agent", "a program that acts by itself. It has an owner, who is a person.",
		"Command", "what an agent asks of a system: a statement, a request, a tool call, opening a connection.",
		"Decision", "allow, deny or error, by rules of the policy in force and grants that stood.",
		"Grant", "puts one agent in one role on one resource until it expires.",
		"Position", "where a record stands: gateway.boot.number, such as gw1.3.118. Positions order and have no holes.",
		"In doubt", "the outcome of a command that nobody saw end, as after a crash or a lost connection.",
		"Sealed", "kept under a key of its session and withheld here; the record commits to it, so that it cannot be changed.",
		"Opaque", "not understood, and allowed by a rule that says so.",
		"Checkpoint", "the log's signed size and root. What it covers cannot be changed without showing.")})
	return d
}

// fileTexts say what the files of a pack of a level are.
func fileTexts(level string) []string {
	all := []string{
		"summary.xlsx: the populations, listings and tests as tabs of one workbook, with an index.",
		"pop/: the populations, as CSV for people and spreadsheets and as JSON lines without loss. pop/totals.csv ties them together.",
		"controls/: the matrix, which tests stand behind which criterion and what they came to; and each of their exceptions.",
		"tests.jsonl: the control tests and their exceptions.",
	}
	if level != Heads {
		all = append(all,
			"listings/: who could do what at the first and at the last record of the range, and at the end of each quarter (UTC) between.",
			"transcripts/: what a session did, in order, as a page, as text and as JSON lines. ▮ sealed marks what is withheld.",
			"policies/, config/: every text that was in force.",
			"seeds.jsonl: what opens the proof of bodies.")
	}
	if level == Full {
		all = append(all, "sealed.jsonl: statements as they were asked, parameters and errors, each with what opens its proof.")
	}
	return append(all,
		"raw/, log/: the records and their proof.",
		"manifest.json, manifest.sig: every file with its digest, signed with the log's key.")
}

// facts say what the pack is of.
func facts(m *Manifest, s *workpaper.Summary) *workpaper.Table {
	return pairs(
		"Organisation", m.Organisation,
		"Gateway", m.Gateway,
		"Log", m.Origin,
		"Period asked for", m.Params.From+" to "+m.Params.To,
		"Records", fmt.Sprintf("%d, from %s (%s) to %s (%s)", s.Records, s.First, workpaper.FormatTime(s.OpenedAt), s.Last, workpaper.FormatTime(s.EndedAt)),
		"Decisions", fmt.Sprintf("%d allowed, %d refused", s.Allowed, s.Refused),
		"Blocks", fmt.Sprintf("%d to %d of a log of %d", m.Range.FirstBlock, m.Range.LastBlock, m.Tree.Size),
		"Root of the log", base64.StdEncoding.EncodeToString(m.Tree.Root),
		"Level", m.Params.Level+": "+LevelText(m.Params.Level),
		"Made by", m.Params.By.Person.ID,
		"Made with", "exhibit "+m.Generator.Version)
}

// pairs are rows of names and values.
func pairs(cells ...string) *workpaper.Table {
	t := &workpaper.Table{Columns: []workpaper.Column{{Name: "item"}, {Name: "value"}}}
	for i := 0; i+1 < len(cells); i += 2 {
		t.Rows = append(t.Rows, cells[i:i+2])
	}
	return t
}

// gaps are what the pack doesn't show and might be thought to.
func gaps(level string, s *workpaper.Summary) (list []string) {
	for _, t := range s.Tests {
		if t.State == workpaper.NotTested {
			list = append(list, fmt.Sprintf("%s: not tested. %s.", t.Title, t.Note))
		}
	}
	if s.Untold > 0 {
		list = append(list, fmt.Sprintf("%d of %d sessions have a transcript: the first in which something was refused, approved, in doubt, opaque, administrative or raised an alert, and the first of others. "+
			"What the other %d did is in pop/commands, under their session_id; the organisation can print any with: exhibit did SESSION.", s.Told, s.Told+s.Untold, s.Untold))
	}
	opaque := "Which commands were allowed though not understood (opaque) is withheld."
	if level != Heads {
		opaque = fmt.Sprintf("%d commands were allowed though not understood (opaque); their content is uncovered.", s.Uncovered)
	}
	return append(list,
		"Text is not effect: triggers, functions with their owner's rights and foreign tables act beyond what a statement names.",
		opaque)
}
