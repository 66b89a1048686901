package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
)

func newExport(a *app) *cobra.Command {
	return group(groupEvidence, "export", "Evidence in the forms of others", newExportOCSF(a))
}

func newExportOCSF(a *app) *cobra.Command {
	var w window
	var output string
	c := &cobra.Command{
		Use: "ocsf [--from WHEN] [--to WHEN] [-o FILE]", Short: "Records as OCSF events, one a line", Args: exactly(),
		Long: `Writes the records of a range, or of the whole log, as events of the Open
Cybersecurity Schema Framework 1.8.0: one JSON object a line, in the order of the
log, heads and bodies only. docs/spec/ocsf.md has the mapping. That you read them
is recorded. The same records give the same bytes, and metadata.uid names each.

For events as they happen configure sinks (docs/guides/siem.md).`,
		Example: `  exhibit export ocsf --from 2026-11-01 --to 2026-12-01 -o november.jsonl
  exhibit export ocsf --from 1h | jq 'select(.action_id == 2)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := w.parse()
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				if output == "" {
					return a.exportTo(cmd, c, r, a.out)
				}
				return newFile(output, func(f io.Writer) error { return a.exportTo(cmd, c, r, f) })
			})
		},
	}
	w.flags(c)
	if err := c.Flags().MarkHidden("limit"); err != nil {
		panic(err)
	}
	c.Flags().StringVarP(&output, "output", "o", "", "file to write; must not exist (default: standard output)")
	return c
}

func (a *app) exportTo(cmd *cobra.Command, c *api.Client, r api.Range, w io.Writer) error {
	progress, done := a.tracker()
	out := bufio.NewWriter(w)
	e, err := c.ExportOCSF(cmd.Context(), r, out, progress)
	done()
	if err := errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if e.Events == 0 {
		fmt.Fprintln(a.err, "the log holds no records of the range")
		return nil
	}
	fmt.Fprintf(a.err, "%s, %s to %s\n", count(int(e.Events), "event"), e.From, e.To)
	return nil
}

// newFile writes a file that must not exist: beside it first and renamed at the
// end, so that one that was cut off is never taken for whole.
func newFile(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); err == nil {
		return hinted{fmt.Errorf("%s exists", name), "nothing is overwritten: choose another name"}
	}
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("creating %s: %w", name, err)
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, name)
}
