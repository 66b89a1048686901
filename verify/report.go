package verify

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// The kinds of check. If one of integrity fails, the pack is not to be relied
// on. If one of control fails, the evidence is sound and shows an exception. If
// one of sampling fails, that says nothing of the pack.
const (
	Integrity = "integrity"
	Control   = "control"
	Sampling  = "sampling"
)

// Check is one thing that was checked, over the whole of its population.
type Check struct {
	Kind string `json:"kind"`
	workpaper.Test
	made bool // it was come to
}

func (c *Check) except(format string, args ...any) { c.Except(evidence.Position{}, format, args...) }

// Report is what a verifier says of a pack.
type Report struct {
	Verdict   string    `json:"verdict"` // "pass", "fail"
	Manifest  *Manifest `json:"-"`
	Summary   string    `json:"summary"`
	Pack      *PackInfo `json:"pack,omitempty"`
	Integrity string    `json:"integrity"` // who could have altered the evidence unseen
	Stamped   string    `json:"stamped"`   // by when the evidence was there, whatever the operator's clock says
	Stamps    *Stamps   `json:"stamps,omitempty"`
	Checks    []*Check  `json:"checks"`
	// Criteria is what checks and control tests come to, criterion by criterion.
	Criteria   []workpaper.Standing `json:"criteria"`
	Checkpoint *ledger.Checkpoint   `json:"-"` // verified; nil when it wasn't
	Remember   string               `json:"checkpoint,omitempty"`
}

// PackInfo is what a pack is about, by its signed manifest.
type PackInfo struct {
	Organisation string    `json:"organisation"`
	Origin       string    `json:"origin"`
	Gateway      string    `json:"gateway"`
	Generator    Generator `json:"generator"`
	Params       Params    `json:"params"`
	Range        Range     `json:"range"`
	Blocks       uint64    `json:"blocks"`
	TreeSize     uint64    `json:"tree_size"`
}

// Exit codes of the command.
const (
	ExitPass     = 0
	ExitFail     = 1
	ExitUnusable = 2 // nothing could be said: no pack, no trust
)

// ExitCode is the exit code for the report.
func (r *Report) ExitCode() int {
	if r.Verdict == "pass" {
		return ExitPass
	}
	return ExitFail
}

// Failed returns the checks that failed.
func (r *Report) Failed() []*Check { return r.having(workpaper.Fail) }

func (r *Report) having(s workpaper.State) (list []*Check) {
	for _, c := range r.Checks {
		if c.State == s {
			list = append(list, c)
		}
	}
	return list
}

// conclude sets states, verdict and summary.
func (r *Report) conclude() {
	integrity, control, sampling := 0, 0, 0
	for _, c := range r.Checks {
		switch {
		case c.Kind == Control:
		case c.Failed > 0:
			c.State = workpaper.Fail
		case !c.made && c.Note == "":
			c.State, c.Note = workpaper.NotTested, "The verifier did not get that far"
		default:
			c.Conclude()
		}
		switch {
		case c.State != workpaper.Fail:
		case c.Kind == Integrity:
			integrity++
		case c.Kind == Control:
			control++
		default:
			sampling++
		}
	}
	tests := make([]*workpaper.Test, len(r.Checks))
	for i, c := range r.Checks {
		tests[i] = &c.Test
	}
	r.Criteria = workpaper.Standings(tests)
	r.Verdict = "fail"
	switch {
	case integrity > 0:
		r.Summary = fmt.Sprintf("This pack is not to be relied on: %s.", plural(integrity, "check of its integrity failed", "checks of its integrity failed"))
	case control > 0:
		r.Summary = fmt.Sprintf("The evidence is sound, and %s.", plural(control, "control test has exceptions", "control tests have exceptions"))
	case sampling > 0:
		r.Summary = fmt.Sprintf("The evidence is sound, no control test has exceptions, and %s.", plural(sampling, "check of samples failed", "checks of samples failed"))
	default:
		r.Verdict, r.Summary = "pass", "The evidence is sound, and no control test has exceptions."
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// shownExceptions is how many exceptions of a check the text shows.
const shownExceptions = 20

// WriteText writes the report for a person: the verdict, what was looked at,
// what is wrong, what nobody knows, and then what is well.
func (r *Report) WriteText(w io.Writer) error {
	var p printer
	p.line("%s: %s", strings.ToUpper(r.Verdict), r.Summary)
	p.line("")
	if r.Pack != nil {
		p.pack(r)
	}
	p.counts(r)
	p.failures(r.Failed())
	p.untested(r.having(workpaper.NotTested))
	p.list("Did not occur in the period (so nothing is known of how these work)", r.having(workpaper.NoOccurrence))
	p.list("Passed, each over the whole of its population", r.having(workpaper.Pass))
	p.criteria(r.Criteria)
	if r.Remember != "" && r.Verdict == "pass" {
		p.line("Keep this checkpoint for the next visit (--remember writes it to the trust file):")
		p.line("  %s", strings.ReplaceAll(strings.TrimSuffix(r.Remember, "\n"), "\n", "\n  "))
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// printer writes the parts of a report.
type printer struct{ strings.Builder }

func (p *printer) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *printer) pack(r *Report) {
	i := r.Pack
	p.line("Organisation  %s", workpaper.Visible(i.Organisation))
	p.line("Log           %s, gateway %s", i.Origin, i.Gateway)
	p.line("Period        %s to %s", workpaper.Visible(i.Params.From), workpaper.Visible(i.Params.To))
	p.line("Records       %d, from %s to %s, in %s", i.Range.Records, i.Range.First, i.Range.Last, plural(int(i.Blocks), "block", "blocks"))
	p.line("Made by       %s, exhibit %s", workpaper.Visible(i.Params.By.Person.ID), workpaper.Visible(i.Generator.Version))
	p.line("Integrity     %s", r.Integrity)
	p.line("Stamped       %s", workpaper.Visible(r.Stamped))
	p.line("")
}

// counts says how many checks of each kind came to what.
func (p *printer) counts(r *Report) {
	p.line("Checked")
	for _, kind := range []struct{ kind, of string }{
		{Integrity, "checks of the evidence: is it whole, unaltered, and what the tables say"},
		{Control, "control tests: did the controls work, by the records"},
	} {
		n, by := 0, make(map[workpaper.State]int)
		for _, c := range r.Checks {
			if c.Kind == kind.kind {
				n++
				by[c.State]++
			}
		}
		if n > 0 {
			p.line("  %d %s", n, kind.of)
			p.line("     %d passed, %d failed, %d had nothing to look at, %d could not be made", by[workpaper.Pass], by[workpaper.Fail], by[workpaper.NoOccurrence], by[workpaper.NotTested])
		}
	}
	p.line("")
}

// failures shows the checks that failed, each with its exceptions in context.
func (p *printer) failures(list []*Check) {
	if len(list) == 0 {
		return
	}
	p.line("FAILED")
	for _, c := range list {
		p.line("  %s", c.Title)
		p.line("  %s: %s among %d %s.%s", c.ID, plural(int(c.Failed), "exception", "exceptions"), c.Population, c.Of, where(c))
		if c.Note != "" {
			p.line("  %s", workpaper.Visible(c.Note))
		}
		for _, e := range c.Exceptions[:min(len(c.Exceptions), shownExceptions)] {
			p.exception(&e)
		}
		if hidden := int(c.Failed) - shownExceptions; hidden > 0 {
			p.line("    and %d more (--json lists up to %d)", hidden, workpaper.MaxExceptions)
		}
		p.line("")
	}
}

// where says which criteria a failing check is about, and where its population
// is.
func where(c *Check) string {
	var text string
	if criteria := workpaper.CriteriaOf(c.ID); len(criteria) > 0 {
		text = " Of " + strings.Join(criteria, ", ") + "."
	}
	if file := workpaper.PopulationFile(c.ID); c.Kind == Control && file != "" {
		text += " All of them are in " + file + "."
	}
	return text
}

// exception shows what a check stumbled over: first the record, then what is
// wrong with it.
func (p *printer) exception(e *workpaper.Exception) {
	var about []string
	for _, part := range []string{e.At, e.Position, e.Type} {
		if part != "" {
			about = append(about, part)
		}
	}
	if e.Agent != "" {
		about = append(about, "of "+e.Agent)
	}
	if e.Resource != "" {
		about = append(about, "on "+e.Resource)
	}
	if e.Session != "" && e.Session != e.Position {
		about = append(about, "in session "+e.Session)
	}
	if e.At == "" { // nothing but a position: one line is enough
		p.line("    - %s", workpaper.Visible(strings.TrimSpace(e.Position+" "+e.Text)))
		return
	}
	p.line("    - %s", workpaper.Visible(strings.Join(about, " ")))
	p.line("      %s", workpaper.Visible(e.Text))
}

// untested says what the report doesn't say, and why: checks that could not be
// made, and controls that nothing tests.
func (p *printer) untested(list []*Check) {
	p.line("Not tested, and why")
	for _, c := range list {
		p.line("  %s", c.Title)
		p.line("  %s: %s", c.ID, workpaper.Visible(c.Note))
	}
	for _, c := range workpaper.Controls() {
		if c.Absent != "" && len(c.Checks) == 0 {
			p.line("  %s", c.About)
			p.line("  %s: %s", c.ID, c.Absent)
		}
	}
	p.line("")
}

func (p *printer) list(title string, list []*Check) {
	if len(list) == 0 {
		return
	}
	p.line("%s", title)
	for _, c := range list {
		population := ""
		if c.Population > 0 {
			population = fmt.Sprintf(" (%d %s)", c.Population, c.Of)
		}
		p.line("  %-21s %s%s", c.ID, c.Title, population)
		if c.Note != "" {
			p.line("  %-21s %s", "", workpaper.Visible(c.Note))
		}
	}
	p.line("")
}

// criteria sums up, criterion by criterion. What could not be made counts: a
// criterion isn't well because nobody looked.
func (p *printer) criteria(list []workpaper.Standing) {
	p.line("By criterion (controls/matrix.csv has the rows behind these numbers)")
	p.line("  %-5s  %6s %6s %9s %10s", "", "passed", "failed", "no cases", "not tested")
	for _, s := range list {
		p.line("  %-5s  %6d %6d %9d %10d  %s", s.Criterion, s.Pass, s.Fail, s.NoOccurrence, s.NotTested, s.About)
		if len(s.Failing) > 0 {
			p.line("  %-5s  failed: %s", "", strings.Join(s.Failing, ", "))
		}
	}
	p.line("")
	p.line("What the organisation shows by other means stands in the matrix as left_to_entity.")
	p.line("This is management's evidence, tested by a program. It is no auditor's opinion.")
	p.line("")
}
