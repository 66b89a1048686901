package verify

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Readme returns README.md of a pack. It depends on the manifest (but for the
// list of files) and what the records say, so that a verifier can write it
// again: nothing in it is the operator's own words.
func Readme(m *Manifest, s *workpaper.Summary) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	text := func(s string) string {
		return strings.NewReplacer("`", "'", "|", "/", "<", "(", ">", ")").Replace(workpaper.Visible(s))
	}

	line("# Access evidence: %s\n", text(m.Organisation))
	line("Access of autonomous agents through gateway `%s`, from the log `%s`. This is management's evidence, not an auditor's opinion.\n", m.Gateway, m.Origin)
	line("| | |\n|---|---|")
	line("| Period asked for | %s to %s |", text(m.Params.From), text(m.Params.To))
	line("| Records | %d, from `%s` (%s) to `%s` (%s) |", s.Records, s.First, workpaper.FormatTime(s.OpenedAt), s.Last, workpaper.FormatTime(s.EndedAt))
	line("| Blocks | %d to %d of a log of %d |", m.Range.FirstBlock, m.Range.LastBlock, m.Tree.Size)
	line("| Level | %s: %s |", m.Params.Level, LevelText(m.Params.Level))
	line("| Made by | %s, with exhibit %s |\n", text(m.Params.By.Person.ID), text(m.Generator.Version))

	line("## How to verify\n")
	line("    exhibit-verify PACK --trust trust.json\n")
	line("Get the trust file, which holds the log's key, from the organisation by a way that doesn't lead through whoever gave you this pack. The verifier needs no network. The format is written down (docs/spec/pack.md in the source), so you may write your own.\n")

	line("## What it proves, and against whom\n")
	line("Against everyone without the log's key: that these records are the log's, in this order, with none left out; that the tables are what the records say; that every decision follows from policy and grants of its moment.\n")
	line("Against the operator, who holds the key, only with witnesses or checkpoints kept from earlier visits in the trust file. Without either this is **operator-only integrity**.\n")

	line("## Boundary and known gaps\n")
	line("A gateway sees what goes through it. From inside it cannot be shown that nothing went around it, nor who left the organisation.\n")
	for _, t := range s.Tests {
		if t.State == workpaper.NotTested {
			line("- %s: not tested. %s.", t.Title, t.Note)
		}
	}
	line("- Text is not effect: triggers, functions with their owner's rights and foreign tables act beyond what a statement names.")
	if m.Params.Level == Heads {
		line("- Which commands were allowed though not understood (opaque) is withheld.")
	} else {
		line("- %d commands were allowed though not understood (opaque); their content is uncovered.", s.Uncovered)
	}
	line("- Complementary controls that are not shown here: physical access, vulnerability management, screening of staff, governance of prompts and models.\n")

	line("## Control tests\n")
	line("| test | state | population | exceptions |\n|---|---|---|---|")
	for _, t := range s.Tests {
		line("| `%s` %s | %s | %d %s | %d |", t.ID, t.Title, t.State, t.Population, t.Of, t.Failed)
	}
	line("\n`no_occurrence` means that there was nothing to test. Exceptions are listed in `tests.jsonl`.\n")

	line("## Files\n")
	line("- `pop/`: populations, as CSV for people and spreadsheets and as JSON lines without loss. `pop/totals.csv` ties them together.")
	if m.Params.Level != Heads {
		line("- `listings/`: who could do what at the first and at the last record of the range.")
		line("- `policies/`, `config/`: every text that was in force.")
	}
	line("- `raw/`, `log/`, `seeds.jsonl`: the records and their proof. `sealed.jsonl`: what was sealed of them, at level L3.")
	return b.Bytes()
}
