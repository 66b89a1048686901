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
	Verdict    string             `json:"verdict"` // "pass", "fail"
	Manifest   *Manifest          `json:"-"`
	Summary    string             `json:"summary"`
	Pack       *PackInfo          `json:"pack,omitempty"`
	Integrity  string             `json:"integrity"` // who could have altered the evidence unseen
	Stamped    string             `json:"stamped"`   // by when the evidence was there, whatever the operator's clock says
	Stamps     *Stamps            `json:"stamps,omitempty"`
	Checks     []*Check           `json:"checks"`
	Checkpoint *ledger.Checkpoint `json:"-"` // verified; nil when it wasn't
	Remember   string             `json:"checkpoint,omitempty"`
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

// WriteText writes the report for a person.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s: %s", strings.ToUpper(r.Verdict), r.Summary)
	line("")
	if p := r.Pack; p != nil {
		line("Organisation  %s", workpaper.Visible(p.Organisation))
		line("Log           %s, gateway %s", p.Origin, p.Gateway)
		line("Period        %s to %s", workpaper.Visible(p.Params.From), workpaper.Visible(p.Params.To))
		line("Records       %d, from %s to %s, in %d blocks", p.Range.Records, p.Range.First, p.Range.Last, p.Blocks)
		line("Made by       %s, exhibit %s", workpaper.Visible(p.Params.By.Person.ID), workpaper.Visible(p.Generator.Version))
		line("Integrity     %s", r.Integrity)
		line("Stamped       %s", workpaper.Visible(r.Stamped))
		line("")
	}
	for _, part := range []struct {
		state workpaper.State
		title string
	}{
		{workpaper.Fail, "FAILED"}, {workpaper.Pass, "Passed"}, {workpaper.NoOccurrence, "Did not occur in the period (not tested by operation)"},
		{workpaper.NotTested, "Not tested"},
	} {
		list := r.having(part.state)
		if len(list) == 0 {
			continue
		}
		line("%s", part.title)
		for _, c := range list {
			c.text(line)
		}
		line("")
	}
	if r.Remember != "" && r.Verdict == "pass" {
		line("Keep this checkpoint for the next visit (--remember writes it to the trust file):")
		line("  %s", strings.ReplaceAll(strings.TrimSuffix(r.Remember, "\n"), "\n", "\n  "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Check) text(line func(string, ...any)) {
	switch c.State {
	case workpaper.Pass:
		line("  %-22s %s (%s: %d)", c.ID, c.Title, c.Of, c.Population)
	case workpaper.Fail:
		line("  %-22s %s", c.ID, c.Title)
		line("  %-22s %s (%s: %d)", "", plural(int(c.Failed), "exception", "exceptions"), c.Of, c.Population)
	default:
		line("  %-22s %s", c.ID, c.Title)
	}
	if c.Note != "" {
		line("  %-22s %s", "", workpaper.Visible(c.Note))
	}
	for _, e := range c.Exceptions[:min(len(c.Exceptions), shownExceptions)] {
		line("    %s", workpaper.Visible(strings.TrimSpace(e.Position+" "+e.Text)))
	}
	if hidden := int(c.Failed) - shownExceptions; hidden > 0 {
		line("    and %d more (--json lists up to %d)", hidden, workpaper.MaxExceptions)
	}
}
