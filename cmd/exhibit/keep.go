package main

import (
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
