package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/exhibit-gateway/exhibit/internal/api"
)

// The values of --verb and --outcome.
var (
	verbClasses = []string{"session", "connect", "read", "write", "admin", "opaque"}
	outcomes    = []string{"ok", "error", "denied", "skipped", "cancelled", "in_doubt", "open"}
)

func newDid(a *app) *cobra.Command {
	var w window
	var q api.Did
	var denied, full bool
	c := &cobra.Command{
		Use: "did [SESSION]", Short: "What was done", GroupID: groupEvidence, Args: atMost("SESSION"),
		Long: `Prints sessions as they went: who it was and where it led, then a line for each
command with its time, how long it took, how it ended and its rows. What stood
or fell together is bracketed, and ends with commit or rollback. A refusal has
its reason. SESSION is a session's id, or that of any record in it: the hint of
a refusal has one. Statements are shown without constants; the whole text is
sealed, and in the hands of your auditor.

With --json or --csv it is a table of commands, with tx and tx_result for those
of a transaction.`,
		Example: `  exhibit did gw1.3.118
  exhibit did gw1.3.118 --follow
  exhibit did --agent reporter --since 2h
  exhibit did --agent reporter --from 2026-11-22 --denied
  exhibit did --verb write,admin --outcome error,in_doubt --csv > trouble.csv`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Range, err = w.parse(); err != nil {
				return err
			}
			q.Session = strings.Join(args, "")
			if denied {
				q.Outcomes = append(q.Outcomes, "denied")
			}
			if q.Follow && (a.csv || w.to != "") {
				return usagef("--follow has no end yet: it can't be with --csv or --to")
			}
			if q.Follow && q.Session == "" && !cmd.Flag("limit").Changed {
				q.Range.Limit = followedBefore
			}
			return a.ask(func(c *api.Client) error { return a.did(cmd.Context(), c, q, full) })
		},
		ValidArgsFunction: a.completions(liveSessions),
	}
	f := c.Flags()
	f.StringVar(&q.Agent, "agent", "", "only of this agent")
	f.StringSliceVar(&q.Verbs, "verb", nil, "only of these kinds: "+strings.Join(verbClasses, ", "))
	f.StringSliceVar(&q.Outcomes, "outcome", nil, "only those that ended so: "+strings.Join(outcomes, ", "))
	f.BoolVar(&denied, "denied", false, "only what was refused")
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on as it happens, until the session has ended; of agents it begins with the last 10 commands")
	f.BoolVar(&full, "full", false, "on a terminal, show long statements whole")
	w.flags(c)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name { // as journalctl and docker call them
		case "since":
			name = "from"
		case "until":
			name = "to"
		}
		return pflag.NormalizedName(name)
	})
	a.complete(c, "agent", a.completions(agentIDs))
	a.complete(c, "verb", cobra.FixedCompletions(verbClasses, cobra.ShellCompDirectiveNoFileComp))
	a.complete(c, "outcome", cobra.FixedCompletions(outcomes, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// completions asks the gateway for what an argument can be. A shell that can't
// complete is silent about it.
func (a *app) completions(list func(context.Context, *api.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 || a.check(cmd) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var ids []string
		err := a.ask(func(c *api.Client) (err error) { ids, err = list(ctx, c); return err })
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("exhibit: " + err.Error()) // there is no such flag
	}
}

// followedBefore is how much of the past is shown of who is followed for what
// comes.
const followedBefore = 10

func (a *app) did(ctx context.Context, c *api.Client, q api.Did, full bool) error {
	if (a.json || a.csv) && !q.Follow {
		return a.answer(c.Did(ctx, q))
	}
	w := bufio.NewWriter(a.out)
	p := &printer{a: a, w: w, whole: q.Session != "", live: q.Follow, full: full}
	tell := p.entry
	if a.json {
		tell = a.jsonLine
	}
	t, err := c.Transcript(ctx, q, func(e api.Entry) error {
		if err := tell(&e); err != nil || !q.Follow {
			return err
		}
		return w.Flush()
	})
	if q.Follow && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // Ctrl-C is how following ends
	}
	if err == nil {
		err = p.close()
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	switch {
	case t.Stopped:
		return hinted{errors.New("the gateway stops"), "follow again once it runs"}
	case t.More && !q.Follow:
		fmt.Fprintln(a.err, "older commands were left out: raise --limit, or narrow the range")
	case !p.told && !a.json:
		fmt.Fprintln(a.err, "nothing to show")
	}
	return nil
}

// jsonLine writes an entry as a line of JSON.
func (a *app) jsonLine(e *api.Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if _, err := fmt.Fprintln(a.out, escapeHidden(string(b))); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
