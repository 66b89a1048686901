package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/verify"
)

// exitCode ends the process with a code of a command's own.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newVerify(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "verify PACK --trust FILE [--tsa-ca FILE] [--sample FILE] [--json] [--remember]", Short: "Check an evidence pack offline", GroupID: groupEvidence,
		DisableFlagParsing: true, // it is the command line of exhibit-verify, to the letter
		RunE: func(_ *cobra.Command, args []string) error {
			if code := verify.Main("exhibit verify", args, a.out, a.err); code != exitOK {
				return exitCode(code)
			}
			return nil
		},
	}
}

func newFsck(a *app) *cobra.Command {
	var offline bool
	var known string
	c := &cobra.Command{
		Use: "fsck", Short: "Re-derive everything in the archive and the log", Args: exactly(),
		Long: `Reads every block of the archive and derives the log from it again: digests,
record hashes, sequences, tree and checkpoint. Exits with 1 when anything differs.

With --offline the data folder is read without a gateway. That needs the right to
read it, and can be done while the gateway runs. --known holds the log against
checkpoints that somebody kept, for example an auditor.`,
		Example: `  exhibit log fsck --known trust.json
  exhibit log fsck --offline --data /var/lib/exhibit --known trust.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			progress, done := a.tracker()
			report, err := a.fsck(cmd.Context(), offline, known, progress)
			done()
			if err != nil {
				return err
			}
			return a.fsckReport(report)
		},
	}
	c.Flags().StringVar(&known, "known", "", knownUsage)
	c.Flags().BoolVar(&offline, "offline", false, "read the data folder instead of asking the gateway")
	return c
}

func (a *app) fsck(ctx context.Context, offline bool, knownFile string, progress func(api.Progress)) (report api.FsckReport, err error) {
	known, err := knownOf(knownFile)
	if err != nil {
		return report, err
	}
	if !offline {
		err = a.ask(func(c *api.Client) error {
			report, err = c.Fsck(ctx, known, progress)
			return err
		})
		return report, err
	}
	data := a.data
	if data == "" {
		c, err := a.loadConfig()
		if err != nil {
			return report, err
		}
		data = c.Data
	}
	report, err = gateway.Fsck(ctx, data, known, progress)
	if errors.Is(err, gateway.ErrKeystore) {
		err = hinted{err, "name the gateway's data folder with --data"}
	}
	return report, err
}
