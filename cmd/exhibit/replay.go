package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
)

func newReplay(a *app) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "replay COMMAND", Short: "What was typed and shown in a command", GroupID: groupEvidence, Args: exactly("COMMAND"),
		Long: `Writes what flowed within a command that ran a program, as an asciicast: what
was typed, what was shown, sizes of the terminal and when. asciinema play shows
it, and so does every other player of the format.

COMMAND is the position of an exec or attach, as exhibit did --json shows it.
What is written is the sealed part of the record: that you read it is on record.`,
		Example: `  exhibit replay gw1.3.118 --output session.cast
  asciinema play session.cast`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) (err error) {
				var w io.Writer = a.out
				if output != "" {
					f, err := os.OpenFile(output, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
					if err != nil {
						return err
					}
					defer func() { err = errors.Join(err, f.Close()) }()
					w = f
				}
				r, err := c.Recording(cmd.Context(), args[0], w)
				if err != nil {
					return err
				}
				if r.Left > 0 {
					fmt.Fprintf(a.err, "of %s, %s were not kept: the record has their digest\n", r.Command, size(r.Left))
				}
				if r.Open {
					fmt.Fprintf(a.err, "%s has not ended yet\n", r.Command)
				}
				return nil
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file to write (default: standard output)")
	return c
}
