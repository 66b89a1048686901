package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/connect"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// connectGrace is how long requests may take to end when connect does.
const connectGrace = 5 * time.Second

// connectForms says how resources are written; connect and run share it.
const connectForms = `Each resource is written RESOURCE=GATEWAY[,LOCAL]:

  RESOURCE  its name in the gateway's configuration
  GATEWAY   the gateway's listener: postgres://HOST:PORT, or
            https://HOST[:PORT][/PATH] (mcp:// is the same). Of a gateway on this
            machine also postgres:///PATH of its socket and http://HOST:PORT
  LOCAL     where clients find it: a PORT of 127.0.0.1, HOST:PORT of loopback, or
            a path (for PostgreSQL the folder of the socket, clients' host)

EXHIBIT_CONNECT holds the resources that are not on the command line, with spaces
between them. The token is asked for as exhibit token does: at --url, or at
--socket of a gateway on this machine.

TLS to the gateway is always verified, by the system's authorities or --ca. Only
a gateway on this machine that offers no TLS is spoken to without.`

// connecting is what connect and run are told.
type connecting struct {
	*app
	key               agentKey
	agent, serverName string
}

func (c *connecting) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	c.key.flags(f)
	f.StringVar(&c.agent, "agent", "", "the agent's id (default: as noted in the key file)")
	f.StringVar(&c.serverName, "server-name", "", "name that the gateway's certificate must have (default: the address's host); also demands TLS on this machine")
	cmd.ValidArgsFunction = completeResource
}

// completeResource offers the protocols behind the name of a resource.
func completeResource(_ *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || strings.Contains(rest, "://") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{name + "=postgres://", name + "=https://", name + "=mcp://"}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

func newConnect(a *app) *cobra.Command {
	c := &connecting{app: a}
	cmd := &cobra.Command{
		Use: "connect RESOURCE=GATEWAY[,LOCAL]... --key FILE", Short: "Open local ports and sockets that reach resources as an agent", GroupID: groupAgent,
		Long: `Opens a port of loopback or a unix socket for each resource, and adds TLS to the
gateway and a fresh token to what comes in there: ordinary clients work with no
password, no certificate and no knowledge of the gateway. PostgreSQL clients may
give any user, database and password, and take no TLS (sslmode disable or prefer).

Whoever reaches such an end acts as the agent. A unix socket serves processes of
the same user only; a port serves every user of this machine.

` + connectForms + `

It runs until it is interrupted (SIGINT, SIGTERM) and then exits with 0. Its log
goes to standard error.`,
		Example: `  exhibit connect --key reporter.key --url https://gateway.example.com:8443 \
    orders=postgres://gateway.example.com:6433,15432
  psql -h 127.0.0.1 -p 15432 orders

  exhibit connect --key reporter.key --ticket OPS-123 \
    orders=postgres://gateway.example.com:6433,/run/reporter \
    tools=https://gateway.example.com:8081/tools,127.0.0.1:18080`,
		RunE: func(cmd *cobra.Command, args []string) error {
			resources, err := c.resources(cmd, args)
			if err != nil {
				return err
			}
			for i := range resources {
				if err := orLocal(&resources[i], "0"); err != nil {
					return err
				}
			}
			ends, done, err := c.open(cmd, resources, connectGrace, slog.LevelInfo)
			if err != nil {
				return err
			}
			defer done()
			if err := c.announce(ends.List()); err != nil {
				return errors.Join(err, ends.Close())
			}
			return ends.Serve(cmd.Context())
		},
	}
	c.flags(cmd)
	return cmd
}

// orLocal gives a resource a local end unless it has one.
func orLocal(r *connect.Resource, local string) error {
	if r.HasLocal() {
		return nil
	}
	return r.SetLocal(local)
}

// resources are those that the command line or the environment names.
func (c *connecting) resources(cmd *cobra.Command, args []string) ([]connect.Resource, error) {
	if len(args) == 0 {
		args = strings.Fields(os.Getenv("EXHIBIT_CONNECT"))
	}
	if len(args) == 0 {
		return nil, usagef("%s: RESOURCE=GATEWAY is missing", cmd.CommandPath())
	}
	var list []connect.Resource
	seen := map[string]bool{}
	for _, arg := range args {
		r, err := connect.ParseResource(arg)
		if err != nil {
			return nil, usage{err}
		}
		if seen[r.Name] {
			return nil, usagef("%s: resource %s is there twice", cmd.CommandPath(), r.Name)
		}
		seen[r.Name] = true
		list = append(list, r)
	}
	return list, nil
}

// open opens the local ends. The caller calls done when they have ended.
func (c *connecting) open(cmd *cobra.Command, resources []connect.Resource, grace time.Duration, level slog.Level) (ends *connect.Ends, done func(), err error) {
	var named []string
	if c.agent != "" {
		named = []string{c.agent}
	}
	agent, err := tokenAgent(cmd, c.key.file, named)
	if err != nil {
		return nil, nil, err
	}
	roots, err := c.roots()
	if err != nil {
		return nil, nil, err
	}
	client, where, err := c.gatewayAPI()
	if err != nil {
		return nil, nil, err
	}
	ends, err = connect.Open(cmd.Context(), connect.Config{
		Agent: agent, Resources: resources,
		Issuer: issuer{key: c.key, agent: agent, client: client, where: where},
		TLS:    &tls.Config{RootCAs: roots, ServerName: c.serverName}, Demand: c.serverName != "",
		Grace: grace, Log: slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		client.Close()
	}
	return ends, client.Close, err
}

// gatewayAPI is a client of where tokens are issued. An agent's machine has no
// configuration of a gateway, so nobody should be sent to look for one.
func (c *connecting) gatewayAPI() (*api.Client, string, error) {
	if c.url == "" && c.socket == "" && c.data == "" {
		if _, err := c.configPath(); err != nil {
			return nil, "", hinted{errors.New("it isn't said where the gateway issues tokens"),
				"name its API with --url https://HOST:PORT (EXHIBIT_URL), or with --socket FILE on its own machine"}
		}
	}
	return c.client()
}

// issuer gets an agent's tokens from a gateway's API.
type issuer struct {
	key    agentKey
	agent  string
	client *api.Client
	where  string
}

// IssueToken implements connect.Issuer.
func (i issuer) IssueToken(ctx context.Context) (connect.Token, error) {
	r, err := i.key.request(i.agent)
	if err != nil {
		return connect.Token{}, &connect.Error{Reason: err.Error(), Hint: hintOf(err)}
	}
	t, err := i.client.IssueToken(ctx, r)
	if err != nil {
		err = sought(err, i.where)
		return connect.Token{}, &connect.Error{Reason: err.Error(), Hint: hintOf(err)}
	}
	return connect.Token{Secret: t.AccessToken, Life: time.Duration(t.ExpiresIn) * time.Second}, nil
}

// announced is an end as programs are told it.
type announced struct {
	Resource string `json:"resource"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	URL      string `json:"url"`
	Example  string `json:"example"`
}

// announce says where the ends are.
func (c *connecting) announce(ends []connect.End) error {
	list := make([]announced, len(ends))
	for i, e := range ends {
		list[i] = announced{Resource: e.Resource, Protocol: e.Protocol, Address: e.Addr.String(), URL: e.URL(), Example: e.Example()}
		c.say("%s is at %s: %s", e.Resource, e.Addr, e.Example())
	}
	return c.jsonOnly(list)
}

func newRun(a *app) *cobra.Command {
	c := &connecting{app: a}
	var tcp bool
	cmd := &cobra.Command{
		Use: "run RESOURCE=GATEWAY[,LOCAL]... --key FILE -- COMMAND [ARG]...", Short: "Run a program that reaches resources as an agent", GroupID: groupAgent,
		Long: `Opens local ends as exhibit connect does, runs a program that finds them in its
environment, and ends them with it. PostgreSQL is offered on unix sockets in a
new folder that is yours alone, unless --tcp or LOCAL say otherwise; HTTP on free
ports of 127.0.0.1.

` + connectForms + `

The program's environment is this one, with

  PGHOST, PGPORT, PGUSER, PGDATABASE, PGSSLMODE, DATABASE_URL
                            of the first PostgreSQL resource
  <RESOURCE>_DATABASE_URL   of each PostgreSQL resource
  <RESOURCE>_URL            of each HTTP or MCP resource

(RESOURCE in upper case, with _ for all but letters and digits), and without what
could lead it elsewhere or give the key away: other connection variables of libpq
(PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLCERT, ...), EXHIBIT_*, and whatever holds
the path of the key.

Signals are passed on. The exit code is the program's, 128 and the signal's number
if a signal ended it, 127 if it wasn't found, 126 if it can't be run, and 125 if
the local ends couldn't be opened.`,
		Example: `  exhibit run --key reporter.key --url https://gateway.example.com:8443 \
    orders=postgres://gateway.example.com:6433 -- psql -c "select 1"

  exhibit run --key reporter.key --ticket OPS-123 \
    orders=postgres://gateway.example.com:6433 \
    tools=mcp://gateway.example.com:8081/tools -- python report.py`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 || dash == len(args) {
				return usagef("%s: -- and the COMMAND are missing", cmd.CommandPath())
			}
			resources, err := c.resources(cmd, args[:dash])
			if err != nil {
				return err
			}
			return c.run(cmd, resources, tcp, args[dash:])
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&tcp, "tcp", !connect.UnixSockets, "offer PostgreSQL on ports of 127.0.0.1 instead of unix sockets")
	return cmd
}

// run runs a program with resources at hand.
func (c *connecting) run(cmd *cobra.Command, resources []connect.Resource, tcp bool, program []string) error {
	// Looked for first: without it no token is needed.
	path, err := exec.LookPath(program[0])
	if err != nil {
		return c.fail(cmd, connect.NotRun(err), err)
	}
	folder, err := os.MkdirTemp("", "exhibit-run-") // mode 0700
	if err != nil {
		return c.fail(cmd, connect.ExitNotTried, err)
	}
	defer os.RemoveAll(folder)
	if err := placeEnds(resources, folder, tcp); err != nil {
		return err
	}
	ends, done, err := c.open(cmd, resources, 0, slog.LevelWarn)
	if isUsage(err) {
		return err
	}
	if err != nil {
		return c.fail(cmd, connect.ExitNotTried, err)
	}
	defer done()
	code, err := c.runWith(cmd.Context(), ends, path, program)
	if err != nil {
		return c.fail(cmd, code, err)
	}
	return exitCode(code)
}

// runWith runs a program while the ends are served.
func (c *connecting) runWith(ctx context.Context, ends *connect.Ends, path string, program []string) (code int, err error) {
	env, err := connect.Environ(os.Environ(), ends.List(), c.key.file)
	if err != nil {
		return connect.ExitNotTried, errors.Join(err, ends.Close())
	}
	// Signals, of which ctx is one, are for the program to act on.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- ends.Serve(serving) }()
	child := exec.CommandContext(context.WithoutCancel(ctx), path, program[1:]...)
	child.Args[0], child.Env = program[0], env
	child.Stdin, child.Stdout, child.Stderr = c.in, c.out, c.err
	code, err = connect.RunChild(ctx, child)
	stop()
	if e := <-served; e != nil {
		fmt.Fprintln(c.err, "error: "+workpaper.Visible(e.Error()))
	}
	return code, err
}

// fail complains and exits with a code.
func (c *connecting) fail(cmd *cobra.Command, code int, err error) error {
	c.complain(cmd, err)
	return exitCode(code)
}

// placeEnds says where the local ends of run are: sockets in the folder are told
// apart by their ports.
func placeEnds(resources []connect.Resource, folder string, tcp bool) error {
	for i := range resources {
		local := "0"
		if resources[i].Protocol == connect.Postgres && !tcp {
			local = filepath.Join(folder, fmt.Sprintf(".s.PGSQL.%d", 5432+i))
		}
		if err := orLocal(&resources[i], local); err != nil {
			return usage{err}
		}
	}
	return nil
}
