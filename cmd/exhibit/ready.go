package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newReady(a *app) *cobra.Command {
	var from string
	var soon int
	c := &cobra.Command{
		Use: "ready", Short: "What an auditor would find today", GroupID: groupEvidence, Args: exactly(),
		Long: `Says what a pack up to now would show: control tests with exceptions, agents whose
owner has gone, alerts that nobody has looked at; and what will show later: grants
and keys that end soon, grants that nobody uses, keys without an end. Then, for
each criterion, what the tests of its controls come to.

Exits with 1 when something blocks: an auditor would see an exception. What ends
soon, or isn't used, doesn't block.

The gateway keeps the answer ready as the log grows, so asking is cheap. It is no
evidence: that is a pack, whose verifier makes every test again.`,
		Example: `  exhibit ready
  exhibit ready --from 2026-01-01 --soon 30
  exhibit ready --json | jq '.concerns[] | select(.blocks)'
  exhibit ready > /dev/null || mail -s "evidence needs attention" soc2@example.com < /dev/null`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if soon < 0 {
				return usagef("--soon is a number of days ahead, and %d is none", soon)
			}
			return a.ask(func(c *api.Client) error {
				r, err := c.Readiness(cmd.Context(), from, strconv.Itoa(soon))
				if err != nil {
					return err
				}
				if err := a.showReady(&r); err != nil {
					return err
				}
				if !r.Ready {
					return errSilent
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&from, "from", "", "first day that counts, a date (default: the log's first)")
	c.Flags().IntVar(&soon, "soon", 14, "days ahead in which an end is worth a word")
	return c
}

func (a *app) showReady(r *api.ReadinessReport) error {
	t := workpaper.Table{Name: "ready", Columns: columns("criterion", "passed", "failed", "no cases", "not tested", "about", "failing")}
	for i := range t.Columns[1:5] {
		t.Columns[1+i].Kind = workpaper.Number
	}
	for _, s := range r.Criteria {
		t.Rows = append(t.Rows, []string{s.Criterion, strconv.Itoa(s.Pass), strconv.Itoa(s.Fail), strconv.Itoa(s.NoOccurrence), strconv.Itoa(s.NotTested),
			s.About, strings.Join(s.Failing, ", ")})
	}
	if a.json || a.csv {
		return a.show(r, t)
	}
	blocking := 0
	for _, f := range r.Concerns {
		if f.Blocks {
			blocking++
		}
	}
	if r.Ready {
		a.say("READY: a pack up to now would show no exception.")
	} else {
		a.say("NOT READY: %s to do before a pack up to now would show no exception.", count(blocking, "thing"))
	}
	a.say("From %s up to record %s of %s: %d decisions allowed, %d refused.", stamp(r.From), r.Position, stamp(r.Time), r.Allowed, r.Refused)
	a.say("")
	a.concerns("To do", r.Concerns[:blocking])
	a.concerns("Worth a look", r.Concerns[blocking:])
	return a.show(r, t)
}

// shownConcerns is how many concerns of a kind people are shown.
const shownConcerns = 50

func (a *app) concerns(title string, list []workpaper.Concern) {
	if len(list) == 0 {
		return
	}
	a.say("%s", title)
	for _, f := range list[:min(len(list), shownConcerns)] {
		a.say("  %-8s  %s (%s)", f.Kind, f.Text, strings.Join(f.Criteria, ", "))
		if f.Next != "" {
			a.say("            next: %s", f.Next)
		}
	}
	if more := len(list) - shownConcerns; more > 0 {
		a.say("  and %d more: --json lists all", more)
	}
	a.say("")
}
