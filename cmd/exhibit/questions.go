package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// window is the flags of a range of the log.
type window struct {
	from, to string
	limit    int
}

func (w *window) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.from, "from", "", "from this date, time (RFC 3339) or position on, or for so long (2h)")
	f.StringVar(&w.to, "to", "", "up to this date, time or position, or until so long ago")
	f.IntVar(&w.limit, "limit", 1000, "most rows; the newest are kept")
}

func (w *window) parse() (api.Range, error) {
	from, err1 := moment(w.from)
	to, err2 := moment(w.to)
	if err := errors.Join(err1, err2); err != nil {
		return api.Range{}, usage{err}
	}
	return api.Range{From: from, To: to, Limit: w.limit}, nil
}

// moment reads a moment, or how long ago one was.
func moment(s string) (api.Moment, error) {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return api.Moment{Time: time.Now().Add(-d).UTC()}, nil
	}
	return api.ParseMoment(s)
}

// answer shows a table of the gateway's.
func (a *app) answer(t api.Table, err error) error {
	if err != nil {
		return err
	}
	if err := a.show(t, asTable(t)); err != nil {
		return err
	}
	if t.More && !a.json {
		fmt.Fprintln(a.err, "older rows were left out: raise --limit, or narrow the range")
	}
	return nil
}

func newWho(a *app) *cobra.Command {
	var w window
	c := &cobra.Command{
		Use: "who RESOURCE", Short: "Who accessed this system", GroupID: groupEvidence, Args: exactly("RESOURCE"),
		Example: `  exhibit who orders
  exhibit who orders --from 2026-11-01 --to 2026-12-01 --csv > november.csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := w.parse()
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error { return a.answer(c.Who(cmd.Context(), args[0], r)) })
		},
	}
	w.flags(c)
	return c
}

func newAllowed(a *app) *cobra.Command {
	var at string
	c := &cobra.Command{
		Use: "allowed AGENT", Short: "What an agent is allowed to do", GroupID: groupEvidence, Args: exactly("AGENT"),
		Example: `  exhibit allowed reporter
  exhibit allowed reporter --at 2026-11-01T12:00:00Z
  exhibit allowed reporter --at gw1.3.118`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := api.ParseMoment(at)
			if err != nil {
				return usage{err}
			}
			return a.ask(func(c *api.Client) error { return a.answer(c.Allowed(cmd.Context(), args[0], m)) })
		},
	}
	c.Flags().StringVar(&at, "at", "", "at this date, time (RFC 3339) or position instead of now")
	return c
}

func newExplain(a *app) *cobra.Command {
	var q api.Explain
	c := &cobra.Command{
		Use: "explain DECISION | --agent AGENT --resource RESOURCE STATEMENT", Short: "Why a command was decided so, or how one would be", GroupID: groupEvidence,
		Long: `Explains a recorded decision, rule by rule: that of a command, or of a session that
was let in or refused, by its position (exhibit did). It is made again from what
the log holds of that moment. Exits with 1 when the record says otherwise.

With --agent and --resource, says what would be decided if the agent asked for a
statement now, and sends nothing. A statement of - is read from standard input.
Exits with 1 when it would be refused.`,
		Example: `  exhibit explain gw1.3.118
  exhibit explain --agent reporter --resource orders "select * from customers"
  exhibit explain --agent biller --resource orders --ticket OPS-2 - < migration.sql`,
		Args: exactly("DECISION or STATEMENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Agent == "" && q.Resource == "" && q.Ticket == "" {
				if _, err := evidence.ParsePosition(args[0]); err == nil {
					return a.ask(func(c *api.Client) error { return a.explained(c.ExplainDecision(cmd.Context(), args[0])) })
				}
			}
			if q.Agent == "" || q.Resource == "" {
				return usage{hinted{fmt.Errorf("%s needs --agent and --resource to explain a statement", cmd.CommandPath()),
					"a decision on record is named by its position, like gw1.3.118; exhibit did shows them"}}
			}
			if q.Statement = args[0]; q.Statement == "-" {
				b, err := io.ReadAll(io.LimitReader(a.in, 1<<20))
				if err != nil {
					return fmt.Errorf("reading the statement: %w", err)
				}
				q.Statement = string(b)
			}
			return a.ask(func(c *api.Client) error {
				e, err := c.Explain(cmd.Context(), q)
				if err != nil {
					return err
				}
				if err := a.explanation(e); err != nil {
					return err
				}
				if e.Effect != "allow" {
					return errSilent
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&q.Agent, "agent", "", "who would ask")
	c.Flags().StringVar(&q.Resource, "resource", "", "of what")
	c.Flags().StringVar(&q.Ticket, "ticket", "", "as if the session carried this ticket")
	return c
}

func (a *app) explained(e api.Explanation, err error) error {
	if err != nil {
		return err
	}
	if err := a.explanation(e); err != nil {
		return err
	}
	if e.Differs != "" {
		fmt.Fprintln(a.err, "the record does not hold what is decided again from it: let exhibit log fsck look at the log")
		return errSilent
	}
	return nil
}

func (a *app) explanation(e api.Explanation) error {
	list := func(l []string) string { return strings.Join(l, ", ") }
	obligations := ""
	if e.Obligations != nil {
		obligations = string(evidence.EncodeBody(e.Obligations))
	}
	err := a.fields(e, "decision", e.Position, "at", stamp(e.Time), "agent", e.Agent, "resource", e.Resource,
		"effect", e.Effect, "reason", e.Reason, "verb", e.Verb, "understood", e.Parse, "text", e.Text,
		"checks", checksText(e.Checks), "facts", factsText(e.Facts), "roles", list(e.Roles), "rules", list(e.Rules), "grants", list(e.Grants),
		"obligations", obligations, "approval", e.Approval, "limit", e.Limit, "policy", e.Policy, "on record", e.Differs)
	if err != nil || a.json || a.csv {
		return err
	}
	for _, c := range e.Answers {
		a.say("%s: %s", checksText([]evidence.Check{c.Check}), c.Effect)
		for _, kind := range []struct {
			what  string
			rules []api.RuleSaid
		}{{"permitted by", c.Permits}, {"forbidden by", c.Forbids}, {"failed in", c.Failed}, {"not under the conditions of", c.Missed}} {
			for _, r := range kind.rules {
				a.say("  %s %s (%s:%d)  %s", kind.what, r.ID, r.File, r.Line, cmp.Or(r.Failure, r.Description))
			}
		}
	}
	return nil
}

func newSuggest(a *app) *cobra.Command {
	var w window
	c := &cobra.Command{
		Use: "suggest AGENT", Short: "The least that would have allowed what an agent did", GroupID: groupEvidence, Args: exactly("AGENT"),
		Long: `Prints rules, in Cedar, that allow just what an agent did in a range, action by
action and object by object; how they differ from the rules of the roles that it
has; and grants that it didn't need. They are a draft: give the roles names that
say what they are for, test and propose them.`,
		Example: `  exhibit suggest reporter --from 2026-11-01`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := w.parse()
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				s, err := c.Suggest(cmd.Context(), args[0], r)
				if err != nil {
					return err
				}
				return a.suggestion(s)
			})
		},
	}
	w.flags(c)
	if err := c.Flags().MarkHidden("limit"); err != nil {
		panic(err)
	}
	return c
}

func (a *app) suggestion(s api.Suggestion) error {
	if a.json {
		return a.writeJSON(s)
	}
	a.say("// %s of %s were allowed.", count(int(s.Commands), "command"), s.Agent)
	if s.More {
		fmt.Fprintln(a.err, "it did more different things than are told apart: narrow the range")
	}
	if err := a.text(s.Cedar); err != nil {
		return err
	}
	if s.Diff != "" {
		a.say("// From the rules of the roles that it has:")
		if err := a.text(s.Diff); err != nil {
			return err
		}
	}
	for _, g := range s.Unused {
		a.say("// Not needed: grant %s (%s on %s, until %s). exhibit grant revoke %s --reason unused", g.ID, g.Role, g.Resource, stamp(g.Expires), g.ID)
	}
	return nil
}

func newSessions(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "sessions", Short: "Who is connected now", GroupID: groupEvidence, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				list, err := c.Sessions(cmd.Context())
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "sessions", Columns: columns("session", "agent", "resource", "client", "since", "commands", "denied", "ticket", "for")}
				t.Columns[5].Kind, t.Columns[6].Kind = workpaper.Number, workpaper.Number
				for _, s := range list {
					t.Rows = append(t.Rows, []string{s.ID, s.Agent, s.Resource, s.Client, stamp(s.Since), fmt.Sprint(s.Commands), fmt.Sprint(s.Denied), s.Ticket, s.Principal})
				}
				return a.show(list, t)
			})
		},
	}
}

func newPack(a *app) *cobra.Command {
	var from, to, output, purpose, level, recipient string
	var restart bool
	create := &cobra.Command{
		Use: "create --from WHEN --to WHEN -o FILE", Short: "Make an evidence pack", Args: exactly(),
		Long: `Makes a pack of everything from one moment up to another: dates, times (RFC 3339)
or positions. The export itself is recorded. An auditor checks the pack offline
with exhibit verify, or with exhibit-verify.

Levels: L0 discloses heads alone (who, when, what kind, how it ended), L1 bodies
as well (normalised statements), L3 everything that is sealed, encrypted to one
age recipient. L2 is L1 with what is sealed of a sample: see exhibit unseal.

A long one that is interrupted, by whatever, goes on when the same person gives the
same command again, within a week; not one of L3.`,
		Example: `  exhibit pack create --from 2026-01-01 --to 2026-07-01 -o h1.zip --purpose "SOC 2, first half"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" || output == "" {
				return usagef("%s needs --from, --to and --output", cmd.CommandPath())
			}
			r, err := (&window{from: from, to: to}).parse()
			if err != nil {
				return err
			}
			if level == "L2" {
				return usage{hinted{errors.New("a pack of level L2 is one of L1 with the answer to a sample beside it"), "exhibit unseal answers a sample"}}
			}
			req := api.PackRequest{From: r.From, To: r.To, Purpose: purpose, Level: level, Recipient: recipient, Restart: restart}
			return a.ask(func(c *api.Client) error { return a.createPack(cmd, c, req, output) })
		},
	}
	f := create.Flags()
	f.StringVar(&from, "from", "", "first moment of the pack: a date, a time or a position")
	f.StringVar(&to, "to", "", "moment just past the pack")
	f.StringVarP(&output, "output", "o", "", "file to write; must not exist")
	f.StringVar(&purpose, "purpose", "", "what for; stands in the record of the export")
	f.StringVar(&level, "level", "L1", "what it discloses: L0, L1 or L3")
	f.StringVar(&recipient, "recipient", "", "age recipient that it is encrypted to; L3 needs one")
	f.BoolVar(&restart, "restart", false, "begin again, where the same command was interrupted")
	return group(groupEvidence, "pack", "Make evidence packs", create)
}

// createPack writes a pack to a new file.
func (a *app) createPack(cmd *cobra.Command, c *api.Client, r api.PackRequest, output string) error {
	var p api.Pack
	err := newFile(output, func(w io.Writer) (err error) {
		progress, done := a.tracker()
		defer done()
		p, err = c.CreatePack(cmd.Context(), r, w, progress)
		return err
	})
	if err != nil {
		return err
	}
	a.say("Wrote %s: %s to %s, %d records in %d blocks, %d bytes", output, p.From, p.To, p.Records, p.Blocks, p.Bytes)
	switch {
	case p.Resumed > 0:
		a.say("It went on where it was interrupted, after %d records", p.Resumed)
	case p.Again != "":
		a.say("It began again, since it could not go on where it was interrupted: %s", p.Again)
	}
	a.say("SHA-256 %s", p.Digest)
	a.say("The digest of its manifest is in the log as %s, from which samples can be drawn", p.Made)
	if p.Cosignatures > 0 {
		a.say("Its checkpoint is cosigned by %s", count(p.Cosignatures, "witness"))
	} else {
		a.say("Operator-only integrity, but for checkpoints that an auditor keeps: %s", cmp.Or(p.Unwitnessed, "no witness cosigned it"))
	}
	if p.Stamps > 0 {
		a.say("It holds %s with a time stamp", count(p.Stamps, "checkpoint"))
	}
	a.say("Check it: exhibit verify %s --trust trust.json", output)
	return a.jsonOnly(p)
}
