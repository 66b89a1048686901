package main

import (
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newLogKeys(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "keys", Short: "The keys that sign the log, and those that did", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				keys, err := c.LogKeys(cmd.Context())
				if err != nil {
					return err
				}
				return a.logKeys(keys)
			})
		},
	}
}

func (a *app) logKeys(keys api.LogKeys) error {
	t := workpaper.Table{Name: "keys", Columns: columns("id", "status", "since", "position", "by", "reason", "key")}
	for _, k := range keys.Keys {
		row := []string{k.ID, k.Status, "", "", "", "", k.Key}
		last := k.From
		if k.Until != nil {
			last = k.Until
		}
		if k.Revoked != nil {
			last = k.Revoked
		}
		if last != nil {
			row[2], row[3], row[4], row[5] = stamp(last.Time), last.Position, last.By.Person.ID, last.Reason
		}
		t.Rows = append(t.Rows, row)
	}
	return a.show(keys, t)
}

func newRotateKey(a *app) *cobra.Command {
	var r api.KeyRotation
	c := &cobra.Command{
		Use: "rotate-key [--reason TEXT]", Short: "Have a new key sign the log", Args: exactly(),
		Long: `Makes a new key, records that it takes the place of the one that signs the log,
signed by both, and has it sign from there on. The old key is gone from the
keystore then. Agents notice nothing.

An auditor who has the old key goes on with it: packs lead from it to the new one.
A witness does not: it knows logs by their keys, and refuses until its operator
has the new one. --prepare makes the key and says it, and does no more, so that
you can give it to witnesses first.`,
		Example: `  exhibit log rotate-key --prepare
  exhibit log rotate-key --reason "yearly"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				keys, err := c.RotateLogKey(cmd.Context(), r)
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(keys)
				}
				a.rotated(keys)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&r.Prepare, "prepare", false, "only make the key")
	c.Flags().StringVar(&r.Reason, "reason", "", "why; stands in the record")
	return c
}

func (a *app) rotated(keys api.LogKeys) {
	k := keys.Keys[len(keys.Keys)-1]
	switch k.Status {
	case "prepared":
		a.say("Made the key %s, which signs nothing yet", k.ID)
	case "recorded":
		a.say("Key %s takes over by record %s; it signs as soon as that is sealed (exhibit log status)", k.ID, k.From.Position)
	default:
		a.say("Key %s signs the log since %s", k.ID, k.From.Position)
	}
	a.say("Give it to the operators of your witnesses, with the log's name %s, and to auditors:", keys.Origin)
	a.say("  %s", k.Key)
}

func newRevokeKey(a *app) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use: "revoke-key KEY --reason TEXT", Short: "Say that a key of the log is not to be believed any more", Args: exactly("KEY"),
		Long: `Records that others may have a key that signed the log before. KEY is its id or the
whole verifier key. The key that signs can't be revoked: rotate it first.

Auditors who have no other key than this one need the new one from you, by the
way they got the old: what the revoked key said of its successor proves nothing to
them any more, unless they kept a checkpoint since, or demand witnesses.`,
		Example: `  exhibit log revoke-key 0a1b2c3d --reason "keystore was copied, INC-17"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if why == "" {
				return usagef("%s needs --reason", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				keys, err := c.RevokeLogKey(cmd.Context(), api.KeyRevocation{Key: args[0], Reason: why})
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(keys)
				}
				for _, k := range keys.Keys {
					if k.ID == args[0] || k.Key == args[0] {
						a.say("Key %s is revoked by record %s", k.ID, k.Revoked.Position)
					}
				}
				a.say("Auditors who have only that key need the one in force: exhibit log keys")
				return nil
			})
		},
	}
	c.Flags().StringVar(&why, "reason", "", "why; stands in the record")
	return c
}
