package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newPolicy(a *app) *cobra.Command {
	return group(groupRights, "policy", "Write, test, propose and activate policies", newPolicyTest(a), newPolicyBacktest(a), newPolicyPropose(a),
		newApprove(a, evidence.ApprovePolicy), newDeny(a, evidence.ApprovePolicy), newPolicyActivate(a), newPolicyRollback(a), newPolicyList(a), newPolicyShow(a), newPolicyDiff(a), newPolicySchema(a))
}

// policyFolder is the folder that a verb is about: its argument, or the
// configured one.
func (a *app) policyFolder(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	c, err := a.loadConfig()
	if err != nil {
		return "", hinted{fmt.Errorf("which policy folder? %w", err), "name it"}
	}
	return c.Policies, nil
}

// policyErrors introduces what is wrong with a folder.
func policyErrors(what string, err error) error {
	var b strings.Builder
	for _, p := range policy.Problems(err) {
		plain := *p
		plain.Hint = ""
		b.WriteString("\n" + plain.Error())
		if p.Hint != "" {
			b.WriteString("\n    hint: " + p.Hint)
		}
	}
	if b.Len() == 0 {
		return err
	}
	return fmt.Errorf("%s:%s", what, b.String())
}

// readPolicies loads a folder with its tests.
func readPolicies(dir string) (b evidence.PolicyBody, tests []evidence.File, err error) {
	if b, err = policy.Load(dir, vocabulary); err != nil {
		return b, nil, policyErrors("the policies cannot be used", err)
	}
	tests, err = policy.LoadTests(dir)
	return b, tests, err
}

func newPolicyTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "test [FOLDER]", Short: "Check policies and run the tests beside them", Args: atMost("FOLDER"),
		Long: `Checks the policies of a folder (by default the configured one), against the
schema too, and runs the tests in its .test.yaml files. No gateway is asked. Exits
with 1 when a test fails or anything can't be used.`,
		Example: `  exhibit policy test
  exhibit policy test ./policies --json`,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.policyFolder(args)
			if err != nil {
				return err
			}
			began := time.Now()
			b, tests, err := readPolicies(dir)
			if err != nil {
				return err
			}
			report, err := policy.Test(b, tests, vocabulary)
			if err != nil {
				return policyErrors("the tests cannot be run", err)
			}
			return a.testReport(dir, report, time.Since(began))
		},
	}
}

func (a *app) testReport(dir string, r policy.Report, took time.Duration) error {
	if a.json {
		if err := a.writeJSON(r); err != nil {
			return err
		}
	}
	for _, t := range r.Results {
		if t.Wrong != "" {
			a.say("--- FAIL: %s:%d: %s", t.File, t.Line, t.Name)
			a.say("    %s", t.Wrong)
		}
	}
	if len(r.Untested) > 0 && !a.json {
		fmt.Fprintln(a.err, workpaper.Visible("no test rests on: "+strings.Join(r.Untested, ", ")))
	}
	if r.Failed > 0 {
		a.say("FAIL  %s  %d of %s", dir, r.Failed, count(len(r.Results), "test"))
		return errSilent
	}
	a.say("ok    %s  %s  %s", dir, count(len(r.Results), "test"), took.Round(time.Millisecond))
	return nil
}

func newPolicyPropose(a *app) *cobra.Command {
	var n api.NewProposal
	var expires string
	c := &cobra.Command{
		Use: "propose [FOLDER]", Short: "Ask for the approval of the policies in a folder", Args: atMost("FOLDER"),
		Long: `Checks the policies of a folder (by default the configured one), runs the tests
beside them, decides the commands of the last days again under them, and asks for
an approval of exactly these files. A failing test is a refusal. Once another
person has approved them, exhibit policy activate puts them in force.`,
		Example: `  exhibit policy propose --ticket SEC-12 --reason "support may read refunds"
  exhibit policy propose ./policies --days 30`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.policyFolder(args)
			if err != nil {
				return err
			}
			if n.Expires, err = until(expires); err != nil {
				return err
			}
			b, tests, err := readPolicies(dir)
			if err != nil {
				return err
			}
			n.Files, n.Tests = b.Files, tests
			return a.ask(func(c *api.Client) error {
				progress, done := a.tracker()
				p, err := c.ProposePolicy(cmd.Context(), n, progress)
				done()
				if err != nil {
					return err
				}
				return a.proposed(p)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Ticket, "ticket", "", "ticket that asks for it")
	f.StringVar(&n.Reason, "reason", "", "why; stands in the record")
	f.StringVar(&expires, "expires", "", "until when it can be approved and activated: a date, a time or a duration (default rights.request_ttl)")
	f.IntVar(&n.Days, "days", 7, "days of recorded commands to decide again; 0 is none")
	return c
}

func (a *app) proposed(p api.Proposed) error {
	if a.json {
		return a.writeJSON(p)
	}
	if err := a.text(p.Diff); err != nil {
		return err
	}
	a.say("%s passed.", count(p.Tests, "test"))
	if len(p.Untested) > 0 {
		a.say("No test rests on: %s", strings.Join(p.Untested, ", "))
	}
	if p.Backtest != nil {
		if err := a.backtest(*p.Backtest); err != nil {
			return err
		}
	}
	a.say("Proposal %s of policy %.12s, until %s.", p.Request, p.Digest, stamp(p.Expires))
	a.say("Next: another person looks at it (exhibit approval show %s) and approves it (exhibit policy approve %[1]s); then: exhibit policy activate %[1]s", p.Request)
	return nil
}

func newPolicyBacktest(a *app) *cobra.Command {
	var n api.NewProposal
	c := &cobra.Command{
		Use: "backtest [FOLDER]", Short: "Decide recorded commands again, under the policies in a folder", Args: atMost("FOLDER"),
		Long: `Decides the commands of the last days again as if the policies of a folder had
been in force: with the agents, grants and resources of their own moments. Shows
whose commands would have been decided otherwise. The reading is recorded.`,
		Example: `  exhibit policy backtest --days 30`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.policyFolder(args)
			if err != nil {
				return err
			}
			if n.Days < 1 {
				return usagef("--days %d: want at least one", n.Days)
			}
			b, _, err := readPolicies(dir)
			if err != nil {
				return err
			}
			n.Files = b.Files
			return a.ask(func(c *api.Client) error {
				progress, done := a.tracker()
				r, err := c.Backtest(cmd.Context(), n, progress)
				done()
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(r)
				}
				return a.backtest(r)
			})
		},
	}
	c.Flags().IntVar(&n.Days, "days", 7, "days of recorded commands")
	return c
}

func (a *app) backtest(r api.BacktestReport) error {
	a.say("Of %s in %s %d would be decided otherwise.", count(int(r.Commands), "command"), count(r.Days, "day"), r.Differ)
	for _, d := range r.Agents {
		a.say("%s: %d would be refused, %d would be allowed", d.Agent, d.Refused, d.Allowed)
		for _, e := range d.Examples {
			text := e.Text
			if text == "" {
				text = checksText(e.Checks)
			}
			a.say("  %s  %s on %s: %s, would be %s", e.Position, text, e.Resource, e.Was, e.Would)
			if e.Reason != "" {
				a.say("      %s", e.Reason)
			}
		}
	}
	return nil
}

func newPolicyActivate(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "activate PROPOSAL", Short: "Put an approved proposal in force", Args: exactly("PROPOSAL"),
		Long: `Puts a proposal in force that was approved. It counts for the next command of
every session. What was made from another bundle than the one in force is
refused: propose it again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				p, err := c.ActivatePolicy(cmd.Context(), args[0])
				return a.changed(p, err)
			})
		},
	}
}

func (a *app) changed(p api.PolicyChange, err error) error {
	if err != nil {
		return err
	}
	a.say("In force: policy %.12s, record %s", p.Digest, p.Position)
	return a.jsonOnly(p)
}

func newPolicyRollback(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "rollback [CHANGE] --reason TEXT", Short: "Go back to policies that were in force", Args: atMost("CHANGE"),
		Long: `Puts a bundle in force that was in force before: by the position of its change or
the beginning of its digest (exhibit policy list), by default the one before. One
person may do this, since an emergency has no second one; it is on record as what
it is. It counts for the next command.`,
		Example: `  exhibit policy rollback --reason "the bots of billing are locked out"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("%s needs --reason: it stands in the record", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				p, err := c.RollbackPolicy(cmd.Context(), strings.Join(args, ""), reason)
				return a.changed(p, err)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; stands in the record")
	return c
}

func newPolicyList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List every change of policy, and open proposals", Args: exactly(), Aliases: []string{"ls"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				h, err := c.Policies(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(h, policyTable(h))
			})
		},
	}
}

func policyTable(h api.PolicyHistory) workpaper.Table {
	t := workpaper.Table{Name: "policies", Columns: columns("policy", "record", "status", "digest", "activated", "by", "proposed_by", "approved_by", "rollback_of", "tests", "differ", "ticket", "expires")}
	names := func(list []api.Change) string {
		var ids []string
		for _, c := range list {
			ids = append(ids, c.By.Person.ID)
		}
		return strings.Join(ids, " ")
	}
	for _, c := range h.Changes {
		status, proposed := "replaced", ""
		if c.InForce {
			status = "in force"
		}
		if c.Proposed != nil {
			proposed = c.Proposed.By.Person.ID
		}
		t.Rows = append(t.Rows, []string{fmt.Sprintf("%.12s", c.Digest), c.Position, status, c.Digest, stamp(c.Activated.Time),
			cmp.Or(c.Activated.By.Person.ID, c.Activated.By.Via), proposed, names(c.Approved), c.Rollback, "", "", "", ""})
	}
	for _, p := range h.Open {
		status, differ := p.Status, ""
		if p.Stale {
			status = "outdated"
		}
		if p.Backtest != nil {
			differ = fmt.Sprintf("%d/%d", p.Backtest.Differ, p.Backtest.Commands)
		}
		t.Rows = append(t.Rows, []string{fmt.Sprintf("%.12s", p.Digest), p.Request, status, p.Digest, "", "", p.Proposed.By.Person.ID,
			names(p.Approved), "", fmt.Sprint(p.Tests), differ, p.Ticket, stamp(p.Expires)})
	}
	return t
}

func newPolicyShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show [POLICY]", Short: "Show policies: those in force, or others", Args: atMost("POLICY"),
		Long: `Shows the policies in force, or those that a digest (or its beginning) names, or
the position of a change or of a proposal.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error { return a.document(c.PolicyAt(cmd.Context(), strings.Join(args, ""))) })
		},
	}
}

func newPolicyDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "diff [A] [B]", Short: "Show how policies differ",
		Long: `Shows how policies differ: from those in force to those of the configured folder,
or to A, or from A to B. A and B are folders, digests or their beginnings, or
positions of changes or proposals.`,
		Example: `  exhibit policy diff
  exhibit policy diff gw1.4.17
  exhibit policy diff 3f9a51 ./policies`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usagef("%s: %q is too much", cmd.CommandPath(), args[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := "", ""
			switch len(args) {
			case 0:
				var err error
				if to, err = a.policyFolder(nil); err != nil {
					return err
				}
			case 1:
				to = args[0]
			default:
				from, to = args[0], args[1]
			}
			return a.ask(func(c *api.Client) error {
				var bundles [2]evidence.PolicyBody
				for i, ref := range []string{from, to} {
					if info, err := os.Stat(ref); err == nil && info.IsDir() {
						if bundles[i], _, err = readPolicies(ref); err != nil {
							return err
						}
						continue
					}
					d, err := c.PolicyAt(cmd.Context(), ref)
					if err != nil {
						return err
					}
					bundles[i] = evidence.PolicyBody{Digest: d.Digest, Files: d.Files, Actions: d.Actions}
				}
				return a.policyDiff(bundles[0], bundles[1])
			})
		},
	}
}

func (a *app) policyDiff(from, to evidence.PolicyBody) error {
	d := api.Diff{Before: from.Digest, After: to.Digest, Diff: policy.Diff(from, to)}
	if a.json {
		return a.writeJSON(d)
	}
	if d.Diff == "" {
		a.say("They are the same: %.12s", to.Digest)
	}
	return a.text(d.Diff)
}

func newPolicySchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the Cedar schema that policies are checked against", Args: exactly(),
		Long: `Prints the Cedar schema of everything that policies can name: entities with their
attributes, actions, and the facts that each can ask for. Labels are those of the
configured resources, if there is a configuration. No gateway is asked.`,
		RunE: func(*cobra.Command, []string) error {
			var labels []string
			if c, err := a.loadConfig(); err == nil {
				for _, r := range c.EvidenceResources() {
					for name := range r.Labels {
						labels = append(labels, name)
					}
				}
			}
			slices.Sort(labels)
			text, err := vocabulary.Schema(slices.Compact(labels))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.out, text)
			return err
		},
	}
}
