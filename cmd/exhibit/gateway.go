package main

import (
	"cmp"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newReload(a *app) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "reload", Short: "Read configuration and policies again", GroupID: groupGateway, Args: exactly(),
		Long: `Makes the gateway read its configuration and policies again and put them in
force, as a whole or not at all, and shows what changed. The change is recorded
with your name.`,
		Example: `  exhibit reload --dry-run
  exhibit reload`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				r, err := c.Reload(cmd.Context(), dry)
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(r)
				}
				return a.showReload(r, dry)
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only show what would change")
	return c
}

func (a *app) showReload(r api.Reload, dry bool) error {
	for _, d := range []api.Diff{r.Config, r.Policy} {
		if err := a.text(d.Diff); err != nil {
			return err
		}
	}
	switch {
	case r.Config.Diff == "" && r.Policy.Diff == "":
		a.say("Nothing changed.")
	case dry:
		a.say("Nothing was put in force: this was a dry run.")
	default:
		a.say("In force: configuration %.12s, policy %.12s", r.Config.After, r.Policy.After)
	}
	if e := r.Edited; e != nil {
		a.say("The policy folder differs from the policy in force and is not loaded: %s.", e.Why)
		a.say("Next: %s", e.Hint)
	}
	if len(r.Restart) > 0 {
		a.say("These count from the next start on: %s", strings.Join(r.Restart, ", "))
	}
	return nil
}

// text writes text of several lines.
func (a *app) text(s string) error {
	for line := range strings.Lines(s) {
		line = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")
		if _, err := fmt.Fprintln(a.out, workpaper.Visible(line)); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}

func newConfig(a *app) *cobra.Command {
	show := &cobra.Command{
		Use: "show", Short: "Show the configuration in force", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error { return a.document(c.Config(cmd.Context())) })
		},
	}
	check := &cobra.Command{
		Use: "check", Short: "Check the configuration file", Args: exactly(),
		Long: `Checks the configuration file and names everything that is wrong with it. It looks
at nothing but the file; exhibit doctor looks at the machine too.`,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.loadConfig()
			if err != nil {
				return err
			}
			a.say("The configuration is valid. Digest %s", c.Digest())
			return a.jsonOnly(map[string]string{"digest": c.Digest()})
		},
	}
	return group(groupGateway, "config", "Check the configuration, or show what is in force", check, show)
}

func (a *app) document(d api.Document, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(d)
	}
	for _, f := range d.Files {
		if len(d.Files) > 1 {
			a.say("# --- %s", f.Name)
		}
		if err := a.text(f.Text); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.err, "digest", d.Digest)
	return nil
}

func newLog(a *app) *cobra.Command {
	status := &cobra.Command{
		Use: "status", Short: "How far the log is", Args: exactly(),
		Long: "Shows the log's size and what waits to be sealed. Exits with 1 when something\nkeeps records from being sealed; a witness, a time stamp authority or a\nsink that lags is shown and is no failure.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				s, err := c.LogStatus(cmd.Context())
				if err != nil {
					return err
				}
				age := time.Duration(s.UnsealedAge * float64(time.Second)).Round(time.Millisecond)
				pairs := []string{"origin", s.Origin, "key", s.Key, "blocks", fmt.Sprint(s.Blocks), "root", s.Root,
					"published", stamp(s.Published), "newest record", s.Position, "newest sealed", s.Sealed,
					"unsealed bytes", fmt.Sprint(s.UnsealedBytes), "unsealed for", age.String(), "problem", s.Problem}
				err = a.fields(s, append(append(pairs, witnessFields(s)...), append(stampFields(s), sinkFields(s)...)...)...)
				if err == nil && s.Problem != "" {
					return errSilent
				}
				return err
			})
		},
	}
	return group(groupEvidence, "log", "Look after the log", status, newFsck(a), newLogKeys(a), newRotateKey(a), newRevokeKey(a), newHold(a), newErase(a), newDispose(a))
}

// witnessFields are a line about the quorum and one for each witness.
func witnessFields(s api.LogStatus) (pairs []string) {
	if len(s.Witnesses) == 0 {
		return []string{"witnesses", "none: operator-only integrity"}
	}
	pairs = []string{"witnessed", fmt.Sprintf("%d of %d blocks, by a quorum of %d of %d", s.Witnessed, s.Blocks, s.Quorum, len(s.Witnesses))}
	for _, w := range s.Witnesses {
		text := fmt.Sprintf("has seen %s, %d behind", count(int(w.Blocks), "block"), w.Behind)
		switch {
		case w.Problem != "":
			text += fmt.Sprintf("; not cosigning since %s: %s", stamp(w.Since), w.Problem)
			if w.Hint != "" {
				text += "; " + w.Hint
			}
		case !w.Cosigned.IsZero():
			text += "; cosigned " + stamp(w.Cosigned)
		}
		pairs = append(pairs, "witness "+w.Name, text)
	}
	return pairs
}

// stampFields are a line about the newest stamp and one for each authority.
func stampFields(s api.LogStatus) (pairs []string) {
	if len(s.Authorities) == 0 {
		return nil
	}
	text := fmt.Sprintf("%d of %d blocks", s.Stamped, s.Blocks)
	if !s.StampedAt.IsZero() {
		text += ", which existed not later than " + stamp(s.StampedAt)
	}
	pairs = []string{"stamped", text}
	for _, t := range s.Authorities {
		text := fmt.Sprintf("has stamped %s, %d behind", count(int(t.Blocks), "block"), t.Behind)
		switch {
		case t.Problem != "":
			text += fmt.Sprintf("; not stamping since %s: %s", stamp(t.Since), t.Problem)
		case !t.Stamped.IsZero():
			text += "; stamped " + stamp(t.Stamped)
		}
		pairs = append(pairs, "authority "+t.URL, text)
	}
	return pairs
}

// sinkFields are a line for each sink.
func sinkFields(s api.LogStatus) (pairs []string) {
	for _, k := range s.Sinks {
		text := fmt.Sprintf("%s: delivered up to %s, %d behind", k.To, cmp.Or(k.Delivered, "nothing"), k.Records)
		if k.Seconds >= 1 {
			text += fmt.Sprintf(" (%s)", time.Duration(k.Seconds*float64(time.Second)).Round(time.Second))
		}
		if k.Problem != "" {
			text += fmt.Sprintf("; takes nothing since %s: %s", stamp(k.Since), k.Problem)
		}
		pairs = append(pairs, "sink "+k.Name, text)
	}
	return pairs
}

func (a *app) fsckReport(r api.FsckReport) error {
	if a.json {
		if err := a.writeJSON(r); err != nil {
			return err
		}
	} else {
		a.say("%s, %s, %d bytes; root %s", count(int(r.Blocks), "block"), count(int(r.Records), "record"), r.Bytes, r.Root)
		if r.Disposed > 0 {
			a.say("%s more were disposed of, on record; their headers are in the tree", count(int(r.Disposed), "block"))
		}
		for _, p := range r.Problems {
			a.say("%s: %s", p.Where, p.Message)
		}
		if len(r.Problems) == 0 {
			a.say("Everything is in order.")
		}
	}
	if len(r.Problems) > 0 {
		return errSilent
	}
	return nil
}

func newOpenAPI(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "openapi", Short: "Print the OpenAPI 3.1 document of the gateway's API", GroupID: groupGateway, Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			b, err := api.OpenAPI(version())
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", GroupID: groupGateway, Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if a.json {
				return a.writeJSON(v)
			}
			a.say("exhibit %s (%s, %s)", v["version"], v["go"], v["platform"])
			return nil
		},
	}
}
