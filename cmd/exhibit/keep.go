package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newHold(a *app) *cobra.Command {
	var n api.NewHold
	add := &cobra.Command{
		Use: "add --reason TEXT", Short: "Place a legal hold", Args: exactly(),
		Long:    `Nothing that is sealed is erased while a hold stands. It is on record, with your name.`,
		Example: `  exhibit log hold add --reason "litigation" --matter "case 12"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n.Reason == "" {
				return usagef("%s needs --reason", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error { return a.holds(c.PlaceHold(cmd.Context(), n)) })
		},
	}
	add.Flags().StringVar(&n.Reason, "reason", "", "why; stands in the record")
	add.Flags().StringVar(&n.Matter, "matter", "", "the case or the like")
	var why string
	release := &cobra.Command{
		Use: "release HOLD --reason TEXT", Short: "Lift a legal hold", Args: exactly("HOLD"),
		Example: `  exhibit log hold release gw1.3.118 --reason "case closed"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if why == "" {
				return usagef("%s needs --reason", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error { return a.holds(c.LiftHold(cmd.Context(), args[0], why)) })
		},
	}
	release.Flags().StringVar(&why, "reason", "", "why; stands in the record")
	list := &cobra.Command{
		Use: "list", Short: "List legal holds, lifted ones too", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				list, err := c.Holds(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(list, holdTable(list...))
			})
		},
	}
	return group("", "hold", "Keep everything from being erased", add, release, list)
}

func (a *app) holds(h api.Hold, err error) error {
	if err != nil {
		return err
	}
	return a.show(h, holdTable(h))
}

func holdTable(list ...api.Hold) workpaper.Table {
	t := workpaper.Table{Name: "holds", Columns: columns("hold", "status", "matter", "reason", "placed by", "placed", "lifted by", "lifted", "lifted for")}
	for _, h := range list {
		row := []string{h.ID, h.Status, h.Matter, h.Placed.Reason, h.Placed.By.Person.ID, stamp(h.Placed.Time), "", "", ""}
		if h.Lifted != nil {
			row[6], row[7], row[8] = h.Lifted.By.Person.ID, stamp(h.Lifted.Time), h.Lifted.Reason
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func newErase(a *app) *cobra.Command {
	var e api.Erasure
	c := &cobra.Command{
		Use: "erase SESSION --basis TEXT", Short: "Destroy what is sealed of a session, for good", Args: exactly("SESSION"),
		Long: `Destroys the key of a session that has ended, and so the statements, parameters and
errors that are sealed under it. Heads, bodies and every proof stand; packs say of
the session that it was erased. That is recorded first.

Where rights need two people another one approves it (exhibit approval approve), and
then --request does it. Under a legal hold nothing is erased.

Packs with sealed parts, answers to samples and backups of the keys that were made
before keep their copies.`,
		Example: `  exhibit log erase gw1.3.118 --basis "request of the person concerned, ticket 7"
  exhibit log erase gw1.3.118 --basis "request of the person concerned, ticket 7" --request gw1.3.140`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.Basis == "" {
				return usagef("%s needs --basis", cmd.CommandPath())
			}
			e.Session = args[0]
			return a.ask(func(c *api.Client) error {
				out, err := c.Erase(cmd.Context(), e)
				if err != nil {
					return err
				}
				if out.Position == "" {
					a.say("Asked as %s: another person approves it with exhibit approval approve %s", out.Request, out.Request)
				} else {
					a.say("What is sealed of session %s is erased, on record as %s", out.Session, out.Position)
				}
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&e.Basis, "basis", "", "why it may, or must, be erased; stands in the record")
	c.Flags().StringVar(&e.Request, "request", "", "the approved request for it")
	return c
}

func newDispose(a *app) *cobra.Command {
	var d api.Disposal
	var yes bool
	c := &cobra.Command{
		Use: "dispose [--yes --reason TEXT]", Short: "Delete blocks past their retention, for good", Args: exactly(),
		Long: `Shows which blocks of the log are past the retention of the configuration
(log.retention), and what holds them; with --yes they are deleted. That is recorded
and published first, with the digest of what goes.

Blocks with changes of rights stay whatever their age, and so do those that later
records refer to. All headers, the tree and its checkpoints stay: the log still proves
what is left, and that nothing but what is on record is gone.

Where rights need two people another one approves it (exhibit approval approve), and
then --request does it. Under a legal hold nothing is deleted. Backups and packs that
were made before keep their copies.`,
		Example: `  exhibit log dispose
  exhibit log dispose --yes --reason "retention schedule 2026"
  exhibit log dispose --yes --request gw1.3.140`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !yes && (d.Reason != "" || d.Request != ""):
				return usagef("%s only shows what would go: --yes deletes it", cmd.CommandPath())
			case yes && d.Reason == "" && d.Request == "":
				return usagef("%s --yes needs --reason, or the --request that was approved", cmd.CommandPath())
			case !yes:
				return a.ask(func(c *api.Client) error { return a.plan(c.PlanDisposal(cmd.Context())) })
			}
			return a.ask(func(c *api.Client) error { return a.disposed(c.Dispose(cmd.Context(), d)) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "delete it, or ask for that")
	c.Flags().StringVar(&d.Reason, "reason", "", "why; stands in the record")
	c.Flags().StringVar(&d.Request, "request", "", "the approved request for it")
	return c
}

func (a *app) plan(p api.DisposalPlan, err error) error {
	if err != nil {
		return err
	}
	t := workpaper.Table{Name: "disposal", Columns: columns("blocks", "from", "to", "delete", "records", "bytes", "stay: rights", "stay: referred to")}
	if p.Blocks > 0 {
		t.Rows = append(t.Rows, []string{fmt.Sprintf("%d to %d", p.First, p.Last), stamp(p.From), stamp(p.To), fmt.Sprint(p.Blocks), fmt.Sprint(p.Records), fmt.Sprint(p.Bytes),
			fmt.Sprint(p.Control), fmt.Sprint(p.Kept)})
	}
	if err := a.show(p, t); err != nil {
		return err
	}
	switch {
	case p.Retention == 0:
		a.say("The log is kept for ever: log.retention isn't set")
	case p.Blocks == 0:
		a.say("Nothing that can go is older than %s", stamp(p.Before))
	default:
		a.say("These are of before %s; --yes deletes them", stamp(p.Before))
	}
	for _, h := range p.Held {
		a.say("Legal hold %s stands (%s): nothing is deleted", h.ID, h.Placed.Reason)
	}
	return nil
}

func (a *app) disposed(out api.Disposed, err error) error {
	if err != nil {
		return err
	}
	if out.Position == "" {
		a.say("Asked as %s: another person approves it with exhibit approval approve %s", out.Request, out.Request)
	} else {
		a.say("%d of blocks %d to %d are deleted, on record as %s", out.Blocks, out.First, out.Last, out.Position)
	}
	return a.jsonOnly(out)
}
