package main

import (
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/verify"
)

func newSample(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "sample PACK --population NAME --seed TEXT -n NUMBER", Short: "Draw a sample of a pack's population, offline", GroupID: groupEvidence,
		DisableFlagParsing: true, // it is the command line of exhibit-verify sample, to the letter
		RunE: func(_ *cobra.Command, args []string) error {
			if code := verify.SampleMain("exhibit sample", "exhibit verify", args, a.out, a.err); code != exitOK {
				return exitCode(code)
			}
			return nil
		},
	}
}
