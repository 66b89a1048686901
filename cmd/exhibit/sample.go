package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
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

func newUnseal(a *app) *cobra.Command {
	var packFile, output string
	var r api.UnsealRequest
	c := &cobra.Command{
		Use: "unseal SAMPLE --pack FILE --reader NAME --purpose TEXT", Short: "Open what is sealed of an auditor's sample", GroupID: groupEvidence, Args: exactly("SAMPLE"),
		Long: `Answers an auditor's sample with the sealed parts of its rows, and of no others:
statements as they were asked, their parameters, errors as the upstream said them.
The sample is drawn again first, so that it is what its seed says.

That the parts leave is recorded, with reader and purpose, before any is opened.
The answer is encrypted to the auditor's age recipient; neither you nor this
program sees it.`,
		Example: `  exhibit unseal samples/commands-39368922eca1.json --pack h1.zip \
    --reader "J. Doe, Audit LLP" --purpose "SOC 2 fieldwork, sample 3"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if packFile == "" || r.Reader == "" || r.Purpose == "" {
				return usagef("%s needs --pack, --reader and --purpose", cmd.CommandPath())
			}
			if err := unsealRequest(args[0], packFile, &r); err != nil {
				return err
			}
			if output == "" {
				output = strings.TrimSuffix(args[0], ".json") + ".answer.age"
			}
			return a.ask(func(c *api.Client) error { return a.unseal(cmd.Context(), c, r, output) })
		},
	}
	f := c.Flags()
	f.StringVar(&packFile, "pack", "", "the pack that the sample was drawn of")
	f.StringVar(&r.Reader, "reader", "", "who gets the answer; stands in the record")
	f.StringVar(&r.Purpose, "purpose", "", "what for; stands in the record")
	f.StringVar(&r.Recipient, "recipient", "", "age recipient of the reader (default: as the sample says)")
	f.StringVarP(&output, "output", "o", "", "file to write (default: SAMPLE with .answer.age); must not exist")
	return c
}

// unsealRequest makes the request of a sample that is what its seed draws.
func unsealRequest(sampleFile, packFile string, r *api.UnsealRequest) error {
	text, err := os.ReadFile(sampleFile)
	if err != nil {
		return fmt.Errorf("reading the sample: %w", err)
	}
	s, err := verify.ParseSample(text)
	if err != nil {
		return fmt.Errorf("%s: %w", sampleFile, err)
	}
	pack, closer, err := verify.Open(packFile)
	if err != nil {
		return err
	}
	m, err := verify.CheckSample(pack, s)
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	digest := s.Digest()
	r.ID, r.Sample, r.Manifest = s.ID, hex.EncodeToString(digest[:]), s.Pack.Manifest
	r.TreeSize, r.Last, r.Recipient = m.Tree.Size, m.Range.Last.String(), cmp.Or(r.Recipient, s.Recipient)
	if r.Recipient == "" {
		return hinted{errors.New("the sample has no recipient that the answer could be encrypted to"), "the auditor makes one with age-keygen; name it with --recipient"}
	}
	for _, row := range s.Rows {
		for _, pos := range row.Records {
			r.Records = append(r.Records, pos.String())
		}
	}
	return nil
}

// unseal writes to a file beside the output and renames it at the end.
func (a *app) unseal(ctx context.Context, c *api.Client, r api.UnsealRequest, output string) error {
	if _, err := os.Lstat(output); err == nil {
		return hinted{fmt.Errorf("%s exists", output), "an answer is never overwritten: choose another name"}
	}
	part := output + ".part"
	w, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("creating the answer's file: %w", err)
	}
	u, err := c.UnsealSample(ctx, r, w)
	err = errors.Join(err, w.Sync(), w.Close())
	if err == nil {
		err = os.Rename(part, output)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	a.say("Wrote %s: %s, for %s alone", output, count(u.Records, "record"), r.Reader)
	a.say("On record as %s; the pack's digest has been since %s", u.Read, u.Made)
	return a.jsonOnly(u)
}
