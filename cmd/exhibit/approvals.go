package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

const approvalLong = `What waits for a second person: grants, policies, and single commands of agents.
Nobody approves what they asked for themselves. A request says whose approval it
needs; an owner and groups of people are named in the configuration.`

func newApproval(a *app) *cobra.Command {
	c := group(groupRights, "approval", "See and answer what waits for a second person",
		newRequests(a, "list", ""), newApprovalShow(a), newApprove(a, ""), newDeny(a, ""), newWithdraw(a, ""))
	c.Long = approvalLong
	return c
}

// newRequests lists requests of a kind, or of all.
func newRequests(a *app, use, kind string) *cobra.Command {
	q := api.ApprovalQuery{Kind: kind}
	what := "requests for an approval"
	if kind != "" {
		what = "requests for a " + kind
	}
	c := &cobra.Command{
		Use: use, Short: "List " + what + " that are open", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				list, err := c.Approvals(cmd.Context(), q)
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "requests", Columns: columns("request", "kind", "status", "what", "ticket", "asked by", "asked", "expires", "needs")}
				for _, r := range list {
					needs := ""
					if r.Status == "pending" {
						needs = strings.Join(needsText(&r), "; ")
					}
					t.Rows = append(t.Rows, []string{r.ID, r.Kind, r.Status, summary(&r), r.Ticket, asker(&r), stamp(r.Asked.Time), stamp(r.Expires), needs})
				}
				return a.show(list, t)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&q.All, "all", false, "those that have ended too")
	if kind == "" {
		kinds := []string{evidence.ApproveGrant, evidence.ApprovePolicy, evidence.ApproveCommand, evidence.ApproveErasure, evidence.ApproveDisposal}
		f.StringVar(&q.Kind, "kind", "", "only of this kind: "+strings.Join(kinds[:4], ", ")+" or "+kinds[4])
		a.complete(c, "kind", cobra.FixedCompletions(kinds, cobra.ShellCompDirectiveNoFileComp))
	}
	return c
}

// summary says in a line what a request asks.
func summary(r *api.Approval) string {
	switch {
	case r.Grant != nil:
		return fmt.Sprintf("%s as %s on %s until %s", r.Grant.Agent, r.Grant.Role, r.Grant.Resource, stamp(r.Grant.Expires))
	case r.Policy != nil:
		return fmt.Sprintf("policy %.12s in place of %.12s", r.Digest, r.Policy.Before)
	case r.Erasure != nil:
		return fmt.Sprintf("erase what is sealed of session %s: %s", r.Erasure.Session, r.Erasure.Basis)
	case r.Disposal != nil:
		return fmt.Sprintf("dispose of %d blocks of the log, %d to %d: %s", r.Disposal.Blocks, r.Disposal.First, r.Disposal.Last, r.Disposal.Reason)
	case r.Command != nil:
		return fmt.Sprintf("%s on %s: %s", r.Command.Agent, r.Command.Resource, r.Command.Text)
	}
	return ""
}

// asker names who asks; an agent's wish is in the name of its owner.
func asker(r *api.Approval) string {
	if agent, ok := strings.CutPrefix(r.Asked.By.Via, "agent "); ok {
		return r.Asked.By.Person.ID + " (" + agent + ")"
	}
	return r.Asked.By.Person.ID
}

// needsText says of each need what is there and who could say the rest.
func needsText(r *api.Approval) (lines []string) {
	for _, n := range r.Needs {
		who := "nobody else can say it"
		if len(n.People) > 0 {
			who = strings.Join(n.People, ", ") + " can say it"
		}
		if n.Have >= n.Count {
			who = "done"
		}
		lines = append(lines, fmt.Sprintf("%d of %d of %s: %s", n.Have, n.Count, n.Group, who))
	}
	return lines
}

func newApprovalShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show REQUEST", Short: "Show one request, with all that there is to see", Args: exactly("REQUEST"),
		Long: `Shows a request with all that it takes to answer it. The exact text and values
of a command that waits are sealed in the record: they are shown to who can answer
it, and to the agent's owner, and that they were is on record too.`,
		Example:           `  exhibit approval show gw1.3.118`,
		ValidArgsFunction: a.requests(""),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				r, err := c.Approval(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.request(&r)
			})
		},
	}
}

// request shows all of a request.
func (a *app) request(r *api.Approval) error {
	pairs := []string{"request", r.ID, "kind", r.Kind, "status", r.Status, "asked", change(&r.Asked), "ticket", r.Ticket}
	var texts []passage
	switch {
	case r.Grant != nil:
		g := r.Grant
		pairs = append(pairs, "agent", g.Agent, "role", g.Role, "resource", g.Resource,
			"from", stamp(g.Starts), "until", stamp(g.Expires), "renews", g.Renews)
	case r.Policy != nil:
		p := r.Policy
		pairs = append(pairs, "in place of", p.Before, "tests passed", fmt.Sprint(p.Tests), "decided again", backtest(p.Backtest))
		texts = append(texts, passage{"what changes", p.Diff})
	case r.Command != nil:
		c := r.Command
		pairs = append(pairs, "agent", c.Agent, "its owner", person(c.Owner), "resource", c.Resource, "session", c.Session,
			"verb", c.Verb, "text", c.Text, "checks", checksText(c.Checks), "facts", factsText(c.Facts),
			"rules", strings.Join(c.Rules, ", "), "the agent", waits(c.Waits))
		texts = append(texts, exact(c)...)
	}
	pairs = append(pairs, "digest", r.Digest, "expires", stamp(r.Expires))
	for _, line := range needsText(r) {
		pairs = append(pairs, "needs", line)
	}
	for _, w := range r.Answers {
		line := w.Decision + " " + change(&w.Change)
		if !w.Expires.IsZero() {
			line = w.Decision + " until " + stamp(w.Expires) + ", " + change(&w.Change)
		}
		pairs = append(pairs, "answer", line)
	}
	if r.Used != nil {
		pairs = append(pairs, "used", fmt.Sprintf("%s for %s, record %s", stamp(r.Used.Time), r.Used.By, r.Used.Position))
	}
	if err := a.fields(r, pairs...); err != nil || a.json || a.csv {
		return err
	}
	return writePassages(a.out, texts)
}

// passage is a text of several lines that somebody else wrote.
type passage struct{ title, text string }

// writePassages marks each line, so that none can pass for one of ours.
func writePassages(w io.Writer, list []passage) error {
	for _, p := range list {
		if p.text == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s:\n", p.title); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		for line := range strings.Lines(p.text) {
			if _, err := fmt.Fprintf(w, "  | %s\n", workpaper.Visible(strings.TrimSuffix(line, "\n"))); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
	}
	return nil
}

// exact is the sealed text and the values of a command that waits.
func exact(c *api.HeldCommand) (list []passage) {
	list = append(list, passage{"exact text", string(c.Statement)})
	for i, v := range c.Values {
		title := fmt.Sprintf("value %d", i+1)
		switch {
		case v == nil:
			list = append(list, passage{title, "NULL (no value)"})
		case len(v) == 0:
			list = append(list, passage{title, "(empty)"})
		default:
			list = append(list, passage{fmt.Sprintf("%s, %s", title, count(len(v), "byte")), string(v)})
		}
	}
	return list
}

func waits(yes bool) string {
	if yes {
		return "waits for the answer"
	}
	return "was refused, and may ask again once it is approved"
}

func backtest(b *evidence.Backtest) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%s of the last %s, of which %d would differ", count(int(b.Commands), "command"), count(b.Days, "day"), b.Differ)
}

func newApprove(a *app, kind string) *cobra.Command {
	var n api.Answer
	var earlier string
	c := &cobra.Command{
		Use: "approve REQUEST", Short: "Say yes to a request of somebody else's", Args: exactly("REQUEST"),
		Long: `Says yes to a request that another person made, or an agent that isn't yours.
The last approval that a grant needs makes it; a command that waits goes on. A
policy is put in force by who asked for it, once it is approved.`,
		Example:           "  exhibit " + verbOf(kind) + " approve gw1.3.118 --reason \"agreed in the stand-up\"",
		ValidArgsFunction: a.requests(kind),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if n.Expires, err = until(earlier); err != nil {
				return err
			}
			return a.respond(cmd, args[0], evidence.Approved, n)
		},
	}
	c.Flags().StringVar(&n.Reason, "reason", "", "why; stands in the record")
	if kind == evidence.ApproveGrant {
		c.Flags().StringVar(&earlier, "until", "", "let the grant end earlier than asked: a date, a time or a duration from now")
	}
	return c
}

func newDeny(a *app, kind string) *cobra.Command {
	var n api.Answer
	c := &cobra.Command{
		Use: "deny REQUEST --reason TEXT", Short: "Say no to a request", Args: exactly("REQUEST"),
		Example:           "  exhibit " + verbOf(kind) + " deny gw1.3.118 --reason \"the ticket is closed\"",
		ValidArgsFunction: a.requests(kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n.Reason == "" {
				return usagef("%s needs --reason: it stands in the record", cmd.CommandPath())
			}
			return a.respond(cmd, args[0], evidence.Refused, n)
		},
	}
	c.Flags().StringVar(&n.Reason, "reason", "", "why; stands in the record")
	return c
}

func newWithdraw(a *app, kind string) *cobra.Command {
	var n api.Answer
	c := &cobra.Command{
		Use: "withdraw REQUEST", Short: "Take back your own request, or your agent's", Args: exactly("REQUEST"),
		ValidArgsFunction: a.requests(kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.respond(cmd, args[0], evidence.Withdrawn, n)
		},
	}
	c.Flags().StringVar(&n.Reason, "reason", "", "why; stands in the record")
	return c
}

func verbOf(kind string) string {
	if kind == "" {
		return "approval"
	}
	return kind
}

// respond says something of a request and what came of it.
func (a *app) respond(cmd *cobra.Command, id, what string, n api.Answer) error {
	return a.ask(func(c *api.Client) error {
		r, err := c.AnswerApproval(cmd.Context(), id, what, n)
		if err != nil {
			return err
		}
		switch {
		case r.Status == "used" && r.Grant != nil:
			g := *r.Grant
			for _, w := range r.Answers {
				if !w.Expires.IsZero() && w.Expires.Before(g.Expires) {
					g.Expires = w.Expires
				}
			}
			a.say("Approved. Grant %s: %s", r.Used.By, summary(&api.Approval{Grant: &g}))
		case r.Status == "approved" && r.Policy != nil:
			a.say("Approved: %s can be put in force now.", summary(&r))
		case r.Status == "pending":
			a.say("Noted. It needs more: %s", strings.Join(needsText(&r), "; "))
		default:
			a.say("Request %s is %s: %s", r.ID, r.Status, summary(&r))
		}
		return a.jsonOnly(r)
	})
}

// requests completes the ids of what is open.
func (a *app) requests(kind string) cobra.CompletionFunc {
	return a.completions(func(ctx context.Context, c *api.Client) (ids []string, err error) {
		list, err := c.Approvals(ctx, api.ApprovalQuery{Kind: kind})
		for _, r := range list {
			ids = append(ids, cobra.CompletionWithDesc(r.ID, workpaper.Visible(summary(&r))))
		}
		return ids, err
	})
}

func newGrantRequest(a *app) *cobra.Command {
	var n api.NewGrantRequest
	var lasts, ends, from string
	c := &cobra.Command{
		Use: "request --agent AGENT --role ROLE --resource RESOURCE --for DURATION", Short: "Ask for a grant that another person approves", Args: exactly(),
		Long: `Asks for a grant. The resource's owner or one of its approvers makes it with
exhibit grant approve; nobody approves what they asked for themselves. Where the
configuration names neither, anyone else approves.

With --renew, agent, role, resource and ticket are those of the grant before.`,
		Example: `  exhibit grant request --agent reporter --role reader --resource orders --for 8h --ticket OPS-123
  exhibit grant request --agent reporter --role reader --resource orders --from 2026-12-01 --until 2026-12-05
  exhibit grant request --renew gw1.3.118 --for 168h --reason "the migration takes another week"`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case n.Renews == "" && (n.Agent == "" || n.Role == "" || n.Resource == ""):
				return usagef("%s needs --agent, --role and --resource, or --renew", cmd.CommandPath())
			case (lasts == "") == (ends == ""):
				return usagef("%s needs one of --for, like 8h, and --until, like 2026-12-31", cmd.CommandPath())
			}
			if n.Starts, err = until(from); err != nil {
				return err
			}
			if n.Expires, err = until(ends); err != nil {
				return err
			}
			if lasts != "" {
				d, err := time.ParseDuration(lasts)
				if err != nil || d <= 0 {
					return usagef("--for %q is not a duration like 8h", lasts)
				}
				begin := n.Starts
				if begin.IsZero() {
					begin = time.Now()
				}
				n.Expires = begin.Add(d).UTC().Truncate(time.Second)
			}
			return a.ask(func(c *api.Client) error {
				r, err := c.RequestGrant(cmd.Context(), n)
				if err != nil {
					return err
				}
				a.say("Request %s: %s", r.ID, summary(&r))
				a.say("Needs %s. Until %s: exhibit grant approve %s", strings.Join(needsText(&r), "; "), stamp(r.Expires), r.ID)
				return a.jsonOnly(r)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Agent, "agent", "", "the agent")
	f.StringVar(&n.Role, "role", "", "the role, as policies name it")
	f.StringVar(&n.Resource, "resource", "", "the resource, as the configuration names it")
	f.StringVar(&lasts, "for", "", "how long it lasts, like 8h")
	f.StringVar(&ends, "until", "", "or when it ends: a date or a time")
	f.StringVar(&from, "from", "", "when it begins: a date or a time (default: once it is approved)")
	f.StringVar(&n.Renews, "renew", "", "the grant that it goes on from")
	f.StringVar(&n.Ticket, "ticket", "", "ticket that asks for it")
	f.StringVar(&n.Reason, "reason", "", "why; stands in the record")
	return c
}

func newKill(a *app) *cobra.Command {
	var k api.KillRequest
	c := &cobra.Command{
		Use: "kill [SESSION] --reason TEXT", Short: "End a session, or all of an agent's, at once", GroupID: groupRights, Args: atMost("SESSION"),
		Long: `Ends a session, or with --agent all that an agent has open: what runs is
cancelled, and the agent is told that the operator ended it, not who and not why.

It may connect again while its grants last: to keep it out, revoke those, or
retire the agent.`,
		Example: `  exhibit kill gw1.3.118 --reason "reads more than its ticket says"
  exhibit kill --agent reporter --reason "it loops"`,
		ValidArgsFunction: a.completions(liveSessions),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				k.Session = args[0]
			}
			switch {
			case (k.Session == "") == (k.Agent == ""):
				return usagef("%s needs one of SESSION and --agent", cmd.CommandPath())
			case k.Reason == "":
				return usagef("%s needs --reason: it stands in the record", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.Kill(cmd.Context(), k)
				if err != nil {
					return err
				}
				a.say("Ended %s of %s: %s. Record %s", count(len(out.Sessions), "session"), out.Agent, strings.Join(out.Sessions, ", "), out.Position)
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&k.Agent, "agent", "", "end all sessions of this agent")
	c.Flags().StringVar(&k.Reason, "reason", "", "why; stands in the record")
	a.complete(c, "agent", a.completions(agentIDs))
	return c
}

func liveSessions(ctx context.Context, c *api.Client) (ids []string, err error) {
	list, err := c.Sessions(ctx)
	for _, s := range list {
		ids = append(ids, cobra.CompletionWithDesc(s.ID, s.Agent+" on "+s.Resource))
	}
	return ids, err
}

func agentIDs(ctx context.Context, c *api.Client) (ids []string, err error) {
	list, err := c.Agents(ctx)
	for _, g := range list {
		ids = append(ids, cobra.CompletionWithDesc(g.ID, g.Purpose))
	}
	return ids, err
}

func checksText(list []evidence.Check) string {
	texts := make([]string, len(list))
	for i, k := range list {
		texts[i] = strings.TrimSpace(k.Action + " " + k.Object)
	}
	return strings.Join(texts, ", ")
}

func factsText(facts evidence.Facts) string {
	texts := make([]string, 0, len(facts))
	for name, v := range facts {
		texts = append(texts, fmt.Sprintf("%s=%v", name, v))
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}
