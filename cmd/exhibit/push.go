package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/export/push"
	"github.com/exhibit-gateway/exhibit/verify"
)

func newPush(a *app) *cobra.Command {
	return group(groupEvidence, "push", "Put what people read of a pack into an evidence library", newPushVanta(a), newPushDrata(a), newPushSecureframe(a))
}

const pushLong = `

What is uploaded is the pack's summary.xlsx and README.pdf, under names that hold
the pack's digest; nothing else of the pack leaves. What is there already is left
alone, so a push can be repeated. The pack itself goes to the auditor, who checks
it with exhibit verify.

The token is read from %[1]s or from the file that --token-file names.`

// pushing is what all pushes have.
type pushing struct {
	*app
	tokenFile, base string
	dry             bool
}

func (p *pushing) flags(c *cobra.Command, base string) {
	f := c.Flags()
	f.StringVar(&p.tokenFile, "token-file", "", "file of the API token")
	f.StringVar(&p.base, "api", base, "address of the API, where it isn't this")
	f.BoolVar(&p.dry, "dry-run", false, "say what would be uploaded, and upload nothing")
}

func newPushVanta(a *app) *cobra.Command {
	p, document := &pushing{app: a}, ""
	c := &cobra.Command{
		Use: "vanta PACK --document ID", Short: "Attach them to a Vanta document, and submit it", Args: exactly("PACK"),
		Long: "Uploads to a Vanta document, which is a request for evidence such as\naccess-reviews, and submits the document." + fmt.Sprintf(pushLong, "EXHIBIT_VANTA_TOKEN"),
		Example: `  exhibit push vanta h1.zip --document access-reviews --dry-run
  EXHIBIT_VANTA_TOKEN=... exhibit push vanta h1.zip --document access-reviews`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd, args[0], "EXHIBIT_VANTA_TOKEN", "document "+document, func(a push.Account) (push.Library, error) { return push.Vanta(a, document) })
		},
	}
	p.flags(c, push.VantaAPI)
	c.Flags().StringVar(&document, "document", "", "id of the document, as its address in Vanta ends")
	return c
}

func newPushDrata(a *app) *cobra.Command {
	p, item := &pushing{app: a}, push.DrataItem{}
	c := &cobra.Command{
		Use: "drata PACK --workspace NUMBER --owner NUMBER", Short: "Make Drata evidence of them", Args: exactly("PACK"),
		Long: "Uploads to Drata's evidence library and makes one item of evidence of both\nfiles." + fmt.Sprintf(pushLong, "EXHIBIT_DRATA_TOKEN"),
		Example: `  exhibit push drata h1.zip --workspace 1 --owner 12 --control 31 --control 44
  exhibit push drata h1.zip --workspace 1 --owner 12 --api https://public-api.eu.drata.com/public/v2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd, args[0], "EXHIBIT_DRATA_TOKEN", fmt.Sprintf("workspace %d", item.Workspace), func(a push.Account) (push.Library, error) { return push.Drata(a, item) })
		},
	}
	p.flags(c, push.DrataAPI)
	f := c.Flags()
	f.Int64Var(&item.Workspace, "workspace", 0, "number of the workspace")
	f.Int64Var(&item.Owner, "owner", 0, "number of the user who owns the evidence")
	f.Int64SliceVar(&item.Controls, "control", nil, "number of a control that it is evidence for; may be repeated")
	return c
}

func newPushSecureframe(a *app) *cobra.Command {
	p, test := &pushing{app: a}, ""
	c := &cobra.Command{
		Use: "secureframe PACK --test ID", Short: "Attach them to a Secureframe test", Args: exactly("PACK"),
		Long: "Uploads to a Secureframe test. Secureframe can't be asked what a test has: where\nno answer comes, look there before you push again." + fmt.Sprintf(pushLong, "EXHIBIT_SECUREFRAME_TOKEN") +
			" It is the\nAPI key and its secret, with a space between.",
		Example: `  exhibit push secureframe h1.zip --test 0b7d1c62-6f5b-4f6e-9a55-3a8f2f1f6d10 --token-file /etc/exhibit/secureframe.token`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd, args[0], "EXHIBIT_SECUREFRAME_TOKEN", "test "+test, func(a push.Account) (push.Library, error) { return push.Secureframe(a, test) })
		},
	}
	p.flags(c, push.SecureframeAPI)
	c.Flags().StringVar(&test, "test", "", "id of the test")
	return c
}

// pushed is what a push came to.
type pushed struct {
	Pack     string      `json:"pack"` // digest of its manifest
	To       string      `json:"to"`
	Files    []push.Done `json:"files"`
	Evidence string      `json:"evidence,omitempty"`
}

func (p *pushing) run(cmd *cobra.Command, path, env, to string, library func(push.Account) (push.Library, error)) error {
	pack, closer, err := verify.Open(path)
	if err != nil {
		return err
	}
	defer closer.Close()
	set, err := push.Of(pack)
	if err != nil {
		return err
	}
	token := config.Secret{File: p.tokenFile}
	if p.tokenFile == "" {
		token.Env = env
	}
	progress, done := p.tracker()
	stage := ""
	account := push.Account{Base: p.base, Token: token.Read, Progress: func(n, total int64) {
		progress(api.Progress{Stage: stage, Done: uint64(n), Total: uint64(total)})
	}}
	stage = "uploading to " + cmd.Name()
	l, err := library(account)
	if err != nil {
		return usage{err}
	}
	out := pushed{Pack: set.ID, To: cmd.Name() + " " + to}
	if p.dry {
		for _, f := range set.Files {
			p.say("Would upload %s (%d bytes, SHA-256 %s) to %s.", f.Name, f.Bytes, f.SHA256, out.To)
			out.Files = append(out.Files, push.Done{Name: f.Name})
		}
		return p.jsonOnly(out)
	}
	out.Files, out.Evidence, err = push.Push(cmd.Context(), l, set)
	done()
	for _, f := range out.Files {
		if f.Had {
			p.say("%s is there already.", f.Name)
		} else {
			p.say("Uploaded %s.", f.Name)
		}
	}
	if err != nil {
		return advised(err, env)
	}
	p.say("It is evidence of %s.", cmp.Or(out.Evidence, to))
	return p.jsonOnly(out)
}

// advised adds what to do about a push that failed.
func advised(err error, env string) error {
	var refused *push.Refusal
	switch {
	case errors.Is(err, push.ErrUnclear):
		return hinted{err, "push again: what is there already is left alone where the library can be asked"}
	case errors.As(err, &refused) && refused.Hint != "":
		return hinted{err, refused.Hint}
	case errors.As(err, &refused):
		return err
	}
	return hinted{err, "the token is read from " + env + " or --token-file"}
}
