package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newAgent(a *app) *cobra.Command {
	return group(groupRights, "agent", "Register, list and retire agents, and change their owners", newAgentAdd(a), newAgentList(a), newAgentShow(a), newAgentOwner(a), newAgentRetire(a))
}

func newAgentAdd(a *app) *cobra.Command {
	var n api.NewAgent
	var expires string
	c := &cobra.Command{
		Use: "add AGENT --purpose TEXT --owner PERSON", Short: "Register an agent", Args: exactly("AGENT"),
		Long: `Registers an agent. Its id names it for ever and is its user name in the
protocols. The owner is a person of the configuration who is accountable for it.`,
		Example: `  exhibit agent add reporter --purpose "weekly revenue report" --owner alice@example.com`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			n.ID = args[0]
			if n.Purpose == "" || n.Owner == "" {
				return usagef("%s needs --purpose and --owner", cmd.CommandPath())
			}
			if n.Expires, err = until(expires); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.AddAgent(cmd.Context(), n)
				if err != nil {
					return err
				}
				a.say("Registered agent %s at %s. Next: exhibit enroll %s --key %s.key", out.ID, out.Created.Position, out.ID, filepath.Base(out.ID))
				return a.jsonOnly(out)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Purpose, "purpose", "", "what it is for, in a sentence an auditor understands")
	f.StringVar(&n.Owner, "owner", "", "id of the accountable person")
	f.StringVar(&n.Backup, "backup-owner", "", "id of a second person")
	f.StringVar(&n.Name, "name", "", "name for people to read")
	f.StringVar(&n.Team, "team", "", "team it belongs to")
	f.StringVar(&n.Env, "env", "", "environment, like production")
	f.StringVar(&n.Model, "model", "", "model and version that drives it")
	f.StringVar(&expires, "expires", "", "when its registration ends: a date, a time or a duration like 720h")
	return c
}

// jsonOnly prints what was made for programs; people have been told in words.
func (a *app) jsonOnly(v any) error {
	if a.json {
		return a.writeJSON(v)
	}
	return nil
}

func newAgentList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all agents, retired ones too", Args: exactly(), Aliases: []string{"ls"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				agents, err := c.Agents(cmd.Context())
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "agents", Columns: columns("agent", "status", "owner", "purpose", "expires", "created", "position")}
				for _, g := range agents {
					t.Rows = append(t.Rows, []string{g.ID, g.Status, g.Owner.ID, g.Purpose, stamp(g.Expires), stamp(g.Created.Time), g.Created.Position})
				}
				return a.show(agents, t)
			})
		},
	}
}

func newAgentShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show AGENT", Short: "Show one agent", Args: exactly("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				g, err := c.Agent(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.fields(g, "agent", g.ID, "status", g.Status, "name", g.Name, "purpose", g.Purpose,
					"owner", person(g.Owner), "backup owner", person(g.Backup), "team", g.Team, "env", g.Env, "model", g.Model,
					"expires", stamp(g.Expires), "created", change(&g.Created), "suspended", change(g.Suspended), "retired", change(g.Disabled))
			})
		},
	}
}

func person(p evidence.Person) string {
	if p.Name == "" {
		return p.ID
	}
	return p.Name + " (" + p.ID + ")"
}

func change(c *api.Change) string {
	if c == nil {
		return ""
	}
	s := fmt.Sprintf("%s by %s (%s), record %s", stamp(c.Time), person(c.By.Person), c.By.Via, c.Position)
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// ender is a command that ends something for a reason.
func ender[T any](a *app, use, short, long, argument string, end func(*cobra.Command, *api.Client, string, string) (T, error)) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: use + " " + argument + " --reason TEXT", Short: short, Long: long, Args: exactly(argument),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("%s needs --reason: it stands in the record", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				out, err := end(cmd, c, args[0], reason)
				if err != nil {
					return err
				}
				a.say("Done: %s %s", use, args[0])
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; stands in the record")
	return c
}

func newAgentRetire(a *app) *cobra.Command {
	return ender(a, "retire", "Retire an agent for good",
		"Retires an agent for good: its next command is refused, its live sessions end\nwithin a second, and its id is never used again.", "AGENT",
		func(cmd *cobra.Command, c *api.Client, id, reason string) (api.Agent, error) {
			return c.RetireAgent(cmd.Context(), id, reason)
		})
}

func newCredential(a *app) *cobra.Command {
	return group(groupRights, "credential", "List and revoke keys and tokens", newCredentialList(a),
		ender(a, "revoke", "End a key with all its tokens, or one token", "", "CREDENTIAL",
			func(cmd *cobra.Command, c *api.Client, id, reason string) (api.Credential, error) {
				return c.RevokeCredential(cmd.Context(), id, reason)
			}))
}

func newCredentialList(a *app) *cobra.Command {
	var agent string
	c := &cobra.Command{
		Use: "list", Short: "List enrolled keys, revoked ones too", Args: exactly(), Aliases: []string{"ls"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				list, err := c.Credentials(cmd.Context(), agent)
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "credentials", Columns: columns("credential", "agent", "kind", "status", "from", "until", "position")}
				for _, k := range list {
					t.Rows = append(t.Rows, []string{k.ID, k.Agent, k.Kind, k.Status, stamp(k.NotBefore), stamp(k.NotAfter), k.Created.Position})
				}
				return a.show(list, t)
			})
		},
	}
	c.Flags().StringVar(&agent, "agent", "", "only of this agent")
	return c
}

func newGrant(a *app) *cobra.Command {
	return group(groupRights, "grant", "Put agents in roles on resources",
		newGrantRequest(a), newRequests(a, "requests", evidence.ApproveGrant),
		newApprove(a, evidence.ApproveGrant), newDeny(a, evidence.ApproveGrant), newWithdraw(a, evidence.ApproveGrant),
		newGrantAdd(a), newGrantList(a),
		ender(a, "revoke", "Remove a grant; it counts for the next command", "", "GRANT",
			func(cmd *cobra.Command, c *api.Client, id, reason string) (api.Grant, error) {
				return c.RevokeGrant(cmd.Context(), id, reason)
			}))
}

func newGrantAdd(a *app) *cobra.Command {
	var n api.NewGrant
	var lasts, expires string
	c := &cobra.Command{
		Use: "add AGENT ROLE RESOURCE --for DURATION", Short: "Put an agent in a role on a resource for a while",
		Long: `Puts an agent in a role on a resource until the grant expires. A grant without
end can't be made. What a role may do is said by the policies.

This is one person's doing, and on record as that. Where rights need two people
it is refused: exhibit grant request asks for what another person approves.

The three can also be given as --agent, --role and --resource.`,
		Example: `  exhibit grant add reporter reader orders --for 8h --ticket OPS-123
  exhibit grant add reporter reader orders --expires 2026-12-31
  exhibit grant add --agent reporter --role reader --resource orders --for 8h`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				if err := exactly("AGENT", "ROLE", "RESOURCE")(cmd, args); err != nil {
					return err
				}
				if n.Agent+n.Role+n.Resource != "" {
					return usagef("%s wants arguments or flags, not both", cmd.CommandPath())
				}
				n.Agent, n.Role, n.Resource = args[0], args[1], args[2]
			}
			switch {
			case n.Agent == "" || n.Role == "" || n.Resource == "":
				return usagef("%s needs AGENT, ROLE and RESOURCE", cmd.CommandPath())
			case (lasts == "") == (expires == ""):
				return usagef("%s needs one of --for, like 8h, and --expires, like 2026-12-31", cmd.CommandPath())
			}
			if n.Expires, err = until(lasts + expires); err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.AddGrant(cmd.Context(), n)
				if err != nil {
					return err
				}
				a.say("Grant %s: %s is %s on %s until %s", out.ID, out.Agent, out.Role, out.Resource, stamp(out.Expires))
				return a.jsonOnly(out)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Agent, "agent", "", "the agent")
	f.StringVar(&n.Role, "role", "", "the role, as policies name it")
	f.StringVar(&n.Resource, "resource", "", "the resource, as the configuration names it")
	f.StringVar(&lasts, "for", "", "how long it lasts, like 8h")
	f.StringVar(&expires, "expires", "", "or when it ends: a date or a time")
	f.StringVar(&n.Ticket, "ticket", "", "ticket that asks for it")
	f.StringVar(&n.Reason, "reason", "", "why; stands in the record")
	return c
}

func newGrantList(a *app) *cobra.Command {
	var agent string
	c := &cobra.Command{
		Use: "list", Short: "List grants, ended ones too", Args: exactly(), Aliases: []string{"ls"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				list, err := c.Grants(cmd.Context(), agent)
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "grants", Columns: columns("grant", "agent", "role", "resource", "status", "starts", "expires", "ticket", "asked by", "approved by", "request", "by")}
				for _, g := range list {
					asked := ""
					if g.Asked != nil {
						asked = g.Asked.By.Person.ID
					}
					var approved []string
					for _, p := range g.Approvals {
						approved = append(approved, p.By.Person.ID)
					}
					t.Rows = append(t.Rows, []string{g.ID, g.Agent, g.Role, g.Resource, g.Status, stamp(g.Starts), stamp(g.Expires), g.Ticket,
						asked, strings.Join(approved, ", "), g.Request, g.Created.By.Person.ID})
				}
				return a.show(list, t)
			})
		},
	}
	c.Flags().StringVar(&agent, "agent", "", "only of this agent")
	return c
}

// until reads when something ends: a duration from now, a time or a date. The
// empty text is never.
func until(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d).UTC().Truncate(time.Second), nil
	}
	m, err := api.ParseMoment(s)
	if err != nil || m.Time.IsZero() {
		return time.Time{}, usagef("%q is not a duration like 8h, a date or a time (RFC 3339)", s)
	}
	return m.Time, nil
}

func newEnroll(a *app) *cobra.Command {
	var file, expires string
	c := &cobra.Command{
		Use: "enroll AGENT --key FILE", Short: "Make an agent's key and register its public half", GroupID: groupRights,
		Long: `Makes an Ed25519 key in a new file that only you can read, and registers its
public half for the agent. The private half never leaves the file. When the file
holds a key already, that one is registered.

The agent exchanges signatures of this key for short-lived tokens (exhibit token),
or shows a client certificate of it (exhibit certificate).`,
		Example: `  exhibit enroll reporter --key reporter.key
  exhibit token reporter --key reporter.key`,
		Args: exactly("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("%s needs --key FILE", cmd.CommandPath())
			}
			expires, err := until(expires)
			if err != nil {
				return err
			}
			key, err := keyFor(file)
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				public := identity.FormatPublicKey(key.Public().(ed25519.PublicKey))
				out, err := c.EnrollKey(cmd.Context(), api.NewKey{Agent: args[0], PublicKey: public, Expires: expires})
				if err != nil {
					return err
				}
				if err := annotate(file, out); err != nil {
					return err
				}
				a.say("Enrolled %s for %s. Next: exhibit token %s --key %s", out.ID, out.Agent, out.Agent, file)
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&file, "key", "", "file of the key")
	c.Flags().StringVar(&expires, "expires", "", "when the key ends: a date, a time or a duration like 720h")
	return c
}

func keyFor(file string) (ed25519.PrivateKey, error) {
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return identity.CreateKey(file)
	}
	return identity.ReadKey(file)
}

// noteAudience and its like begin the lines that stand before the key in its
// file, where RFC 7468 section 2 leaves room for explanations.
const (
	noteAudience   = "audience: "
	noteAgent      = "agent: "
	noteCredential = "credential: "
)

// annotate writes before the key whose it is and for which gateway, so that
// `exhibit token` asks the right one and no other can use what it signs.
func annotate(file string, c api.Credential) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("noting the gateway in the key file: %w", err)
	}
	i := bytes.Index(text, []byte("-----BEGIN"))
	if i < 0 {
		return fmt.Errorf("%s holds no key", file)
	}
	var b bytes.Buffer
	for _, note := range []string{noteAgent + c.Agent, noteCredential + c.ID, noteAudience + c.Audience} {
		b.WriteString(workpaper.Visible(note) + "\n")
	}
	b.Write(text[i:])
	tmp, err := os.CreateTemp(filepath.Dir(file), ".exhibit-key-") // mode 0600
	if err != nil {
		return fmt.Errorf("noting the gateway in the key file: %w", err)
	}
	_, err = tmp.Write(b.Bytes())
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("noting the gateway in the key file: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// noted returns what annotate wrote.
func noted(file, name string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("reading the key file: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 16<<10))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("reading the key file: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", nil
}

// agentKey is what verbs are told that get tokens for an agent.
type agentKey struct {
	file, audience string
	ticket, behalf string
}

func (k *agentKey) flags(f *pflag.FlagSet) {
	f.StringVar(&k.file, "key", os.Getenv("EXHIBIT_KEY"), "file of the agent's key (EXHIBIT_KEY)")
	f.StringVar(&k.ticket, "ticket", "", "ticket or run that the agent works on; stands in every session of the token")
	f.StringVar(&k.behalf, "for", "", "whom the agent works for")
	f.StringVar(&k.audience, "audience", "", "the gateway that is asked (default: as noted in the key file)")
}

// request signs a request for a token. The key is read each time, so that a new
// one in its place counts.
func (k *agentKey) request(agent string) (api.TokenRequest, error) {
	audience := k.audience
	if audience == "" {
		var err error
		if audience, err = noted(k.file, noteAudience); err != nil {
			return api.TokenRequest{}, err
		}
	}
	if audience == "" {
		return api.TokenRequest{}, hinted{fmt.Errorf("%s doesn't say for which gateway the key is", k.file), "name the gateway with --audience, or enroll the key again"}
	}
	key, err := identity.ReadKey(k.file)
	if err != nil {
		return api.TokenRequest{}, err
	}
	assertion, err := identity.Assert(key, agent, audience, time.Now())
	return api.TokenRequest{Assertion: assertion, Ticket: k.ticket, OnBehalfOf: k.behalf}, err
}

func newToken(a *app) *cobra.Command {
	var key agentKey
	c := &cobra.Command{
		Use: "token [AGENT] --key FILE", Short: "Exchange a signature of an agent's key for a short-lived token", GroupID: groupAgent,
		Long: `Signs an assertion with the agent's key (RFC 7523), exchanges it for a
short-lived token and prints that. The token is the agent's password in the
protocols; it needs no person and can be asked for by the agent itself.

exhibit connect and exhibit run spare clients the token.`,
		Example: `  PGPASSWORD=$(exhibit token --key reporter.key --ticket OPS-123) \
    psql -h 127.0.0.1 -p 6433 -U reporter orders`,
		Args: atMost("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := tokenAgent(cmd, key.file, args)
			if err != nil {
				return err
			}
			r, err := key.request(agent)
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				t, err := c.IssueToken(cmd.Context(), r)
				if err != nil {
					return err
				}
				if a.json {
					return a.writeJSON(t)
				}
				_, err = fmt.Fprintln(a.out, workpaper.Visible(t.AccessToken))
				return err
			})
		},
	}
	key.flags(c.Flags())
	return c
}

func newCertificate(a *app) *cobra.Command {
	var file, expires string
	c := &cobra.Command{
		Use: "certificate [AGENT] --key FILE", Short: "Make a client certificate of an agent's key", GroupID: groupAgent,
		Long: `Makes a certificate that an agent's key signs itself, and prints it (PEM). An
agent that shows it to a listener over TLS is let in without a token while the key
is enrolled and the certificate lasts. It asks no gateway and needs no person.

Only the key counts: a certificate that an authority of your own issues for it
does as well. A session by certificate works on no ticket and for nobody else;
where policies want either, use a token.`,
		Example: `  exhibit certificate --key reporter.key > reporter.crt
  psql "host=gateway.example.com port=6433 user=reporter dbname=orders \
    sslmode=verify-full sslcert=reporter.crt sslkey=reporter.key"`,
		Args: atMost("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := tokenAgent(cmd, file, args)
			if err != nil {
				return err
			}
			until, err := until(expires)
			if err != nil {
				return err
			}
			if !until.After(time.Now()) {
				return usagef("--expires %q: the certificate would have expired already", expires)
			}
			key, err := identity.ReadKey(file)
			if err != nil {
				return err
			}
			der, err := identity.IssueCertificate(key, agent, time.Now(), until)
			if err != nil {
				return err
			}
			return pem.Encode(a.out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
		},
	}
	c.Flags().StringVar(&file, "key", os.Getenv("EXHIBIT_KEY"), "file of the agent's key (EXHIBIT_KEY)")
	c.Flags().StringVar(&expires, "expires", "720h", "when the certificate ends: a date, a time or a duration")
	return c
}

func tokenAgent(cmd *cobra.Command, file string, args []string) (string, error) {
	if file == "" {
		return "", usagef("%s needs --key FILE", cmd.CommandPath())
	}
	if len(args) == 1 {
		return args[0], nil
	}
	agent, err := noted(file, noteAgent)
	if err == nil && agent == "" {
		err = usagef("%s doesn't say whose key it is: name the AGENT", file)
	}
	return agent, err
}
