package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
)

func newImport(a *app) *cobra.Command {
	return group(groupEvidence, "import", "Import what is known outside the gateway: people who left, tickets, logs and accounts of upstreams", newImportPeople(a), newImportTickets(a), newImportRoles(a), newImportConnections(a), newImportRequests(a))
}

// importing is a verb that imports a file of a kind.
type importing struct {
	kind, short, long, example string
	formats                    []string // the first is that of a file whose name says nothing
	columns                    []string // that flags may name
	resource                   *string  // where it must be of one
	utc                        *bool    // whether times without a zone are in UTC
}

func (a *app) importer(i importing, told func(api.Import)) *cobra.Command {
	n := api.NewImport{Kind: i.kind, Params: map[string]string{}}
	var extracted string
	columns := make(map[string]*string)
	c := &cobra.Command{
		Short: i.short, Long: i.long, Example: i.example, Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if n.Source == "" {
				return usagef("%s needs --source: which system the file is from", cmd.CommandPath())
			}
			if i.resource != nil {
				if n.Resource = *i.resource; n.Resource == "" {
					return usagef("%s needs --resource: what it is of", cmd.CommandPath())
				}
			}
			if n.Data, err = a.readFile(args[0]); err != nil {
				return err
			}
			if n.Format == "" {
				n.Format = formatOf(args[0], i.formats)
			}
			if n.Query == "" {
				n.Query = "file " + filepath.Base(args[0])
			}
			if extracted != "" {
				m, err := api.ParseMoment(extracted)
				if err != nil || m.Time.IsZero() {
					return usagef("--extracted is a date or a time, not %q", extracted)
				}
				n.Extracted = m.Time
			}
			if i.utc != nil && *i.utc {
				n.Params[reconcile.ParamZone] = "UTC"
			}
			for name, v := range columns {
				if *v != "" {
					n.Params[name] = *v
				}
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.Import(cmd.Context(), n)
				if err != nil {
					return err
				}
				a.say("Imported %s of %s (%d kept) at %s. Digest %.12s", count(out.Rows, "row"), out.Kind, out.Kept, out.Position, out.Digest)
				told(out)
				return a.jsonOnly(out)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Source, "source", "", "which system the file is from; stands in the record")
	f.StringVar(&n.Query, "query", "", "what that system was asked, exactly; stands in the record (default: the file's name)")
	f.StringVar(&n.Format, "format", "", "how it is written: "+strings.Join(i.formats, " or ")+" (default: by the file's name)")
	f.StringVar(&extracted, "extracted", "", "when it was taken from there: a date or a time (default: now)")
	for _, name := range i.columns {
		columns[name] = f.String("column-"+strings.ReplaceAll(name, "_", "-"), "", "name of the column that holds "+name)
	}
	return c
}

// maxImportFile is what the gateway takes, as base64 and with what stands around
// it.
const maxImportFile = 34 << 20

// readFile reads a file that is imported, or what - stands for.
func (a *app) readFile(name string) ([]byte, error) {
	r := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading the file: %w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxImportFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the file: %w", err)
	}
	if len(b) > maxImportFile {
		return nil, hinted{fmt.Errorf("%s is larger than %d bytes", name, maxImportFile), "import it in parts"}
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return b, nil
}

func formatOf(file string, formats []string) string {
	if ext := strings.TrimPrefix(filepath.Ext(file), "."); ext == "json" {
		for _, f := range formats {
			if f != "csv" {
				return f
			}
		}
	}
	return formats[0]
}

func newImportPeople(a *app) *cobra.Command {
	c := a.importer(importing{
		kind: evidence.ImportPeople, formats: []string{"csv", "scim"}, columns: []string{"id", "status", "left_at"},
		short: "Import people, to find who has left",
		long: `Imports everyone whom the personnel or identity system knows: a CSV file with the
columns id (or e-mail address), left_at and, if there is one, status; or an export
of a SCIM 2.0 service (a ListResponse with all users). Of people whom the gateway
doesn't know nothing but their number is kept.

Who has left is taken note of, and agents for which nobody answers any more, owner
and backup owner both gone, are suspended: their next command is refused and their
live sessions end within a second. exhibit agent owner gives one a new owner.`,
		example: `  exhibit import people people.csv --source Workday --query "report Active and Terminated Workers"
  exhibit import people users.json --source Okta --query "GET /scim/v2/Users"`,
	}, func(out api.Import) {
		for _, l := range out.Left {
			when := "at an unknown time"
			if !l.Left.IsZero() {
				when = l.Left.Format(time.RFC3339)
			}
			a.say("%s left %s. Suspended: %s", l.Person, when, orNone(l.Suspended))
		}
		for _, p := range out.Back {
			a.say("%s is back. Nothing resumes by itself: exhibit agent owner", p)
		}
	})
	c.Use = "people FILE --source TEXT"
	return c
}

func newImportTickets(a *app) *cobra.Command {
	var utc bool
	c := a.importer(importing{
		kind: evidence.ImportTickets, formats: []string{reconcile.CSV, reconcile.JSON, reconcile.Jira}, columns: reconcile.TicketColumns, utc: &utc,
		short: "Import tickets, to hold against them what grants, requests, policies and sessions cite",
		long: `Imports tickets from the system that has them: a CSV file with the columns id,
status, created_at and closed_at and, where there are such, requester, approver,
assignee, approval and approved_at; JSON, an array of objects with such keys (or one
under tickets, or result as ServiceNow has it); or the answer to a search of Jira
(--format jira), with all its issues. --column-... says where they are under other
names, in JSON with dots: fields.customfield_10040.

Of a ticket are kept its id, status, times, the state of its approval, those people
whom the gateway knows, and a digest of the rest. A pack holds what cites tickets
against the first import that was taken after it: whether they exist, were open and
approved by then, and name the same people. An export may have a part of them only:
what no import knows is an exception.`,
		example: `  exhibit import tickets tickets.csv --source ServiceNow --query "sc_request, opened since 2026-01-01" \
    --column-id number --column-status state --column-created-at opened_at --utc
  exhibit import tickets issues.json --format jira --source Jira --query "project = OPS order by created" \
    --column-approver fields.customfield_10040`,
	}, func(api.Import) {})
	c.Use = "tickets FILE --source TEXT"
	c.Flags().BoolVar(&utc, "utc", false, "times that name no zone are in UTC")
	return c
}

func newImportConnections(a *app) *cobra.Command {
	var resource string
	c := a.importer(importing{
		kind: evidence.ImportConnections, formats: []string{"csv", "json"}, resource: &resource,
		short: "Import a server's log of its sessions, to find what went around the gateway",
		long: `Imports the log of a PostgreSQL server in the format csvlog (csv) or jsonlog (json)
and holds the sessions that the server let in against the gateway's. Nothing of the
log is kept but who was let in, from where and when. Import logs in the order in
which they were written, within two days.

The server must log connections (log_connections), in English (lc_messages) and UTC
(log_timezone), and addresses rather than names (log_hostname off).`,
		example: `  exhibit import connections postgresql-2026-11-22.csv --resource orders --source "csvlog of db1"`,
	}, func(out api.Import) {
		if out.Reconciled != nil {
			a.sayReconciled(out.Reconciled)
		}
	})
	c.Use = "connections FILE --resource RESOURCE --source TEXT"
	c.Flags().StringVar(&resource, "resource", "", "the resource whose server wrote the log")
	return c
}

func newImportRequests(a *app) *cobra.Command {
	var resource string
	c := a.importer(importing{
		kind: evidence.ImportRequests, formats: []string{"audit"}, resource: &resource,
		short: "Import a cluster's audit log, to find what went around the gateway",
		long: `Imports the audit log of a Kubernetes API server (--audit-log-path, or what a webhook
was sent, a line each) and holds its requests against the commands that the gateway
passed on. Of requests of those who may ask directly nothing is kept but their number,
who asked and from where. Import logs in the order in which they were written, within
a day.

The configuration must say who the gateway is at the cluster (kubernetes.account).`,
		example: `  exhibit import requests audit.log --resource prod --source "audit log of prod"`,
	}, func(out api.Import) {
		if out.Reconciled != nil {
			a.sayReconciled(out.Reconciled)
		}
	})
	c.Use = "requests FILE --resource RESOURCE --source TEXT"
	c.Flags().StringVar(&resource, "resource", "", "the resource whose API server wrote the log")
	return c
}

func newImportRoles(a *app) *cobra.Command {
	var resource, file, ticket string
	rights := a.importer(importing{kind: evidence.ImportRights, formats: []string{"json"}, resource: &resource}, func(api.Import) {})
	c := &cobra.Command{
		Use: "roles RESOURCE", Short: "Import what the gateway's account at an upstream may do, and how that lets people in", Args: exactly("RESOURCE"),
		Long: `Asks the server of a resource, by the gateway's own account, what that account may
do there: of PostgreSQL its attributes, the roles that it is a member of, and what it
owns, reads and writes; of Kubernetes the roles and bindings of the cluster, and so
what agents, the account and everybody else may do. The access listings of a pack then
have it beside what policy allows, and agents that only read by policy where the
upstream lets them write are exceptions.

Of PostgreSQL it also takes in how the server lets people in and what it logs of them,
as far as the account sees that: pg_hba.conf, roles, memberships and settings. What
differs from the import before is listed in a pack, and an exception unless --ticket
says under which ticket it was changed.

Where the gateway's account may not read the roles of a cluster, bring them:
kubectl get clusterroles,roles,clusterrolebindings,rolebindings -A -o json`,
		Example: `  exhibit import roles orders
  exhibit import roles orders --ticket OPS-4711
  exhibit import roles prod --file rbac.json --source "kubectl, as alice"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				if ticket != "" {
					return usagef("%s takes --ticket where it asks a server, not with --file", cmd.CommandPath())
				}
				resource = args[0]
				return rights.RunE(cmd, []string{file})
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.ImportPrivileges(cmd.Context(), args[0], ticket)
				if err != nil {
					return err
				}
				a.say("Imported %s of %s (%d kept) at %s. Digest %.12s", count(out.Rows, "row"), out.Kind, out.Kept, out.Position, out.Digest)
				a.sayConfig(out.Config)
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&file, "file", "", "a file that has a cluster's roles and bindings, instead of asking")
	c.Flags().StringVar(&ticket, "ticket", "", "under which ticket the server was changed since the import before; stands in the record")
	c.Flags().AddFlagSet(rights.Flags())
	return c
}

// sayConfig says what was imported of a server's configuration, and what could
// not be.
func (a *app) sayConfig(c *api.ConfigImport) {
	if c == nil {
		return
	}
	a.say("Imported %s of %s at %s. Digest %.12s", count(c.Rows, "row"), evidence.ImportConfig, c.Position, c.Digest)
	for _, kind := range slices.Sorted(maps.Keys(c.Unread)) {
		a.say("not readable for the gateway's account, of %s: %s", kind, c.Unread[kind])
	}
}

func newReconcile(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "reconcile RESOURCE", Short: "Find out whether anything went around the gateway", GroupID: groupEvidence, Args: exactly("RESOURCE"),
		Long: `Reads what is new in the log of the resource's server, and its counters, and holds
the sessions that it let in against the gateway's; or what is new in the audit log of
a cluster, against the commands that the gateway passed on. Where the log is stands in
the configuration, under reconcile of the resource; the gateway then does it by itself
as often as that says. Exits with 1 when something is unexplained.`,
		Example: "  exhibit reconcile orders",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				out, err := c.Reconcile(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				a.sayReconciled(&out)
				if err := a.jsonOnly(out); err != nil {
					return err
				}
				if len(out.Sessions) > 0 {
					return errSilent
				}
				return nil
			})
		},
	}
}

func (a *app) sayReconciled(r *api.Reconciliation) {
	what := "session"
	if r.Of == api.OfRequests {
		what = "request"
	}
	a.say("%s of %s from %s to %s: %d of agents, %d the gateway's own, %d of others who may, %d unexplained. Record %s",
		count(r.Logged, what), r.Resource, stamp(r.From), stamp(r.To), r.Gateway, r.Own, r.Allowed, r.Unexplained, r.Position)
	switch r.Tie {
	case evidence.Tied, evidence.Untied:
		a.say("The server's counters say %d and its log has %d: %s", r.Counted, r.Compared, r.Tie)
	case evidence.TieRestarted:
		a.say("The server was started since its counters were last read: they say nothing")
	case evidence.TieReset:
		a.say("The server's counters were set back: somebody did that")
	}
	if r.Unlogged > 0 {
		a.say("%s passed on that the cluster is said to log nothing of", count(r.Unlogged, "command"))
	}
	for _, k := range r.Sessions {
		switch {
		case r.Of != api.OfRequests:
		case k.Class == evidence.ReconMissing:
			a.say("missing in the log: %s", k.Of)
			continue
		default:
			a.say("unexplained: %s from %s: %s%s", k.User, k.Client, k.Text, because(k.Why))
			continue
		}
		from := k.Client
		if from == "" {
			from = "a unix socket"
		}
		if k.Class == evidence.ReconMissing {
			a.say("missing in the log: %s from %s, process %d", k.Of, from, k.PID)
			continue
		}
		a.say("unexplained: user %s from %s, process %d", k.User, from, k.PID)
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

func newAgentOwner(a *app) *cobra.Command {
	var n api.NewOwner
	c := &cobra.Command{
		Use: "owner AGENT --owner PERSON --reason TEXT", Short: "Give an agent another owner", Args: exactly("AGENT"),
		Long: `Gives an agent another owner, who is a person of the configuration and has not
left. One that was suspended because nobody answered for it goes on.`,
		ValidArgsFunction: a.completions(agentIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n.Owner == "" || n.Reason == "" {
				return usagef("%s needs --owner and --reason", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.ChangeOwner(cmd.Context(), args[0], n)
				if err != nil {
					return err
				}
				a.say("%s answers for agent %s, which is %s", person(out.Owner), out.ID, out.Status)
				return a.jsonOnly(out)
			})
		},
	}
	c.Flags().StringVar(&n.Owner, "owner", "", "id of the accountable person")
	c.Flags().StringVar(&n.Backup, "backup-owner", "", "id of a second person")
	c.Flags().StringVar(&n.Reason, "reason", "", "why; stands in the record")
	return c
}
