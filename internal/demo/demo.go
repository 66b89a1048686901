// Package demo plays a day of two agents on a real PostgreSQL behind a real
// gateway, on this machine alone: it starts both, works as the agents would
// with ordinary clients, kills the gateway once, asks the three questions,
// packs the evidence, verifies the pack and shows that an altered one fails.
//
// In flows a folder; out flow the commands it runs, what they print, and a
// line for each thing that must hold. It runs the exhibit program itself, so
// every command it shows can be typed.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// Config says where the demo plays.
type Config struct {
	Program string // path of exhibit
	Folder  string // must not exist, or be empty; kept
	Out     io.Writer
}

// ErrNotHeld means that something that must hold did not.
var ErrNotHeld = errors.New("not everything held")

// day is the demo while it runs.
type day struct {
	Config
	db      *pgserver.Server
	listen  string // where agents connect
	web     string // and over HTTP
	billing *billing
	tools   string // and those of MCP
	desk    *desk
	gateway *exec.Cmd
	broken  []string // what didn't hold
	act     int
}

// Run plays the demo. It is nil only if everything held.
func Run(ctx context.Context, c Config) (err error) {
	d := &day{Config: c}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	for _, act := range []func(context.Context) error{
		d.rights, d.reads, d.writes, d.prepared, d.copies, d.forbidden, d.services, d.mcpTools, d.stranger, d.crash, d.questions, d.evidence,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return d.conclude()
}

func (d *day) prepare(ctx context.Context) error {
	if err := os.MkdirAll(d.Folder, 0o755); err != nil {
		return err
	}
	d.title("A database with something worth keeping, and a gateway before it")
	d.say("Everything of this demo is in %s and stays there.", d.Folder)
	var err error
	if d.db, err = pgserver.Start(ctx, filepath.Join(d.Folder, "postgres")); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	d.say("PostgreSQL %s listens on %s. The account that the gateway will use owns the tables: without the gateway it could drop them.", d.db.Version, d.db.Addr)
	secret := "of-the-upstream-" + time.Now().Format("150405.000000")
	if err := os.WriteFile(d.path("upstream.password"), []byte(secret+"\n"), 0o600); err != nil {
		return err
	}
	if err := d.db.Exec(ctx, "postgres", "create role shop login password '"+secret+"'", "create database orders owner shop"); err != nil {
		return err
	}
	if err := d.db.Exec(ctx, "orders", "set role shop",
		"create schema shop", "create table shop.invoices (id int primary key, customer text not null, cents bigint not null, paid bool not null default false)",
		"insert into shop.invoices select i, 'customer ' || i, i * 100 from generate_series(1, 1000) i",
		"create table shop.payments (invoice int references shop.invoices, at timestamptz not null default now())"); err != nil {
		return err
	}
	if d.listen, err = pgserver.FreeAddr(); err != nil {
		return err
	}
	if _, err := d.exhibit(ctx, "init", d.Folder, "--organisation", "Demo Ltd", "--origin", "demo.example/gw1", "--person", "ada@demo.example",
		"--resource", "orders", "--upstream", d.db.Addr, "--database", "orders", "--user", "shop",
		"--password-file", d.path("upstream.password"), "--listen", d.listen); err != nil {
		return err
	}
	if err := d.ownMetrics(); err != nil {
		return err
	}
	if d.billing, err = startBilling(ctx); err != nil {
		return fmt.Errorf("starting a service: %w", err)
	}
	if d.web, err = pgserver.FreeAddr(); err != nil {
		return err
	}
	if d.desk, err = startDesk(ctx); err != nil {
		return fmt.Errorf("starting an MCP server: %w", err)
	}
	if d.tools, err = pgserver.FreeAddr(); err != nil {
		return err
	}
	if err := errors.Join(d.addBilling(), d.addDesk()); err != nil {
		return err
	}
	return d.serve(ctx)
}

// ownMetrics moves the metrics off their default port, where a gateway that is
// no demo may be listening.
func (d *day) ownMetrics() error {
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return err
	}
	return d.configure(func(text []byte) []byte { return bytes.Replace(text, []byte("127.0.0.1:9464"), []byte(addr), 1) })
}

// rights registers two agents, each with an owner, a key and a grant.
func (d *day) rights(ctx context.Context) error {
	d.title("Two agents, each with an owner, a key and a grant that ends")
	for _, a := range []struct{ id, purpose, role, ticket string }{
		{"reporter", "weekly revenue report", "reader", "OPS-1"},
		{"biller", "marks invoices as paid", "writer", "OPS-2"},
	} {
		for _, args := range [][]string{
			{"agent", "add", a.id, "--owner", "ada@demo.example", "--purpose", a.purpose},
			{"enroll", a.id, "--key", d.path(a.id + ".key")},
			{"grant", "add", "--agent", a.id, "--role", a.role, "--resource", "orders", "--for", "8h", "--ticket", a.ticket},
		} {
			if _, err := d.exhibit(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *day) reads(ctx context.Context) error {
	d.title("The reporter reads, and may do nothing else")
	out, err := d.psql(ctx, "reporter", "", "select count(*), sum(cents) from shop.invoices")
	d.must(err == nil && strings.Contains(out, "50050000"), "a read passes")
	out, err = d.psql(ctx, "reporter", "", "update shop.invoices set paid = true where id = 1")
	d.must(err != nil && strings.Contains(out, "refused"), "a write of a reader is refused, and says by what")
	out, err = d.exhibit(ctx, "explain", "--agent", "reporter", "--resource", "orders", "delete from shop.invoices")
	d.must(err != nil && strings.Contains(out, "deny"), "explain says beforehand what would be refused")
	return nil
}

func (d *day) writes(ctx context.Context) error {
	d.title("The biller writes, under a ticket")
	out, err := d.psql(ctx, "biller", "", "update shop.invoices set paid = true where id = 42")
	d.must(err != nil && strings.Contains(out, "refused"), "without a ticket in its token it may not")
	out, err = d.psql(ctx, "biller", "OPS-2", "update shop.invoices set paid = true where id = 42")
	d.must(err == nil && strings.Contains(out, "UPDATE 1"), "with one it may")
	out, err = d.psql(ctx, "biller", "OPS-2", "update shop.invoices set paid = true")
	d.must(err != nil && strings.Contains(out, "refused"), "an UPDATE without a WHERE is refused by a guardrail")
	return nil
}

// prepared uses the extended protocol, by pgbench.
func (d *day) prepared(ctx context.Context) error {
	d.title("A prepared statement, a hundred times (pgbench)")
	script := d.path("lookup.sql")
	if err := os.WriteFile(script, []byte("\\set id random(1, 1000)\nselect customer from shop.invoices where id = :id;\n"), 0o644); err != nil {
		return err
	}
	out, err := d.client(ctx, "reporter", "", "pgbench", "-n", "-M", "prepared", "-c", "4", "-t", "25", "-f", script)
	d.must(err == nil && strings.Contains(out, "100/100"), "a hundred executions of four clients pass")
	return nil
}

func (d *day) copies(ctx context.Context) error {
	d.title("COPY, both ways")
	if err := os.WriteFile(d.path("payments.csv"), []byte("42\n43\n44\n"), 0o644); err != nil {
		return err
	}
	out, err := d.psql(ctx, "biller", "OPS-2", `\copy shop.payments (invoice) from '`+d.path("payments.csv")+`'`)
	d.must(err == nil && strings.Contains(out, "COPY 3"), "rows in, digested under the session's key")
	out, err = d.psql(ctx, "reporter", "", `\copy shop.payments to '`+d.path("out.csv")+`'`)
	d.must(err == nil && strings.Contains(out, "COPY 3"), "rows out")
	return nil
}

func (d *day) forbidden(ctx context.Context) error {
	d.title("A forbidden DROP in the middle of a transaction")
	out, err := d.psql(ctx, "biller", "OPS-2", "begin", "insert into shop.payments (invoice) values (99)", "drop table shop.invoices cascade", "commit")
	d.must(err == nil && strings.Contains(out, "refused") && strings.Contains(out, "ROLLBACK"), "the transaction fails as if the server had refused")
	out, err = d.psql(ctx, "reporter", "", "select count(*) from shop.payments where invoice = 99")
	d.must(err == nil && strings.Contains(out, "0"), "nothing before the DROP was committed by accident")
	log, err := os.ReadFile(d.db.Log)
	d.must(err == nil && !bytes.Contains(log, []byte("drop table")), "the server's own log never saw the DROP")
	return nil
}

func (d *day) stranger(ctx context.Context) error {
	d.title("A login that fails")
	out, err := d.run(ctx, []string{"PGPASSWORD=guess"}, d.psqlArgs("reporter", "select 1")...)
	d.must(err != nil && strings.Contains(out, "authentication failed"), "a guessed token opens nothing, and is on record")
	return nil
}

// crash kills the gateway under a running statement.
func (d *day) crash(ctx context.Context) error {
	d.title("kill -9 of the gateway under a running statement, and its restart")
	token, err := d.token(ctx, "reporter", "")
	if err != nil {
		return err
	}
	args := d.psqlArgs("reporter", "select count(*) from generate_series(1, 300000000)")
	d.say("$ %s &", strings.Join(args, " "))
	long := exec.CommandContext(ctx, args[0], args[1:]...)
	long.Env = append(os.Environ(), "PGPASSWORD="+token)
	if err := long.Start(); err != nil {
		return err
	}
	if err := d.until(ctx, "the statement runs on the server", func() bool {
		log, err := os.ReadFile(d.db.Log)
		return err == nil && bytes.Contains(log, []byte("generate_series(1, 300000000)"))
	}); err != nil {
		return err
	}
	d.say("$ kill -9 %d", d.gateway.Process.Pid)
	if err := d.gateway.Process.Kill(); err != nil {
		return err
	}
	_ = d.gateway.Wait() // killed, as intended
	d.must(long.Wait() != nil, "the agent's statement failed with its connection")
	if err := d.serve(ctx); err != nil {
		return err
	}
	out, err := d.exhibit(ctx, "did", "--agent", "reporter", "--limit", "2")
	d.must(err == nil && strings.Contains(out, "in doubt"), "nobody saw how the statement ended, and the record says so: in doubt, never ok")
	out, err = d.psql(ctx, "reporter", "", "select 'back' as again")
	d.must(err == nil && strings.Contains(out, "back"), "agents work again")
	return nil
}

func (d *day) questions(ctx context.Context) error {
	d.title("Who accessed this system, what were they allowed to do, what did they do")
	for _, q := range []struct {
		args []string
		want string
	}{
		{[]string{"who", "orders"}, "biller"},
		{[]string{"allowed", "biller"}, "postgres:update"},
		{[]string{"did", "--agent", "biller"}, "DROP TABLE"},
	} {
		out, err := d.exhibit(ctx, q.args...)
		if err != nil {
			return err
		}
		d.must(strings.Contains(out, q.want), "exhibit "+q.args[0]+" answers")
	}
	return nil
}

func (d *day) evidence(ctx context.Context) error {
	d.title("The pack, verified offline; and an altered one")
	pack := d.path("evidence.zip")
	from := time.Now().UTC().Add(-24 * time.Hour).Format(time.DateOnly)
	to := time.Now().UTC().Add(24 * time.Hour).Format(time.DateOnly)
	if _, err := d.exhibit(ctx, "log", "fsck"); err != nil {
		return err
	}
	if _, err := d.exhibit(ctx, "pack", "create", "--from", from, "--to", to, "-o", pack); err != nil {
		return err
	}
	out, err := d.exhibit(ctx, "verify", pack, "--trust", d.path("trust.json"))
	d.must(err == nil && strings.HasPrefix(out, "PASS"), "the pack passes")
	altered := d.path("altered.zip")
	if err := alter(pack, altered); err != nil {
		return err
	}
	d.say("One byte of the pack's list of commands is altered.")
	out, err = d.exhibit(ctx, "verify", altered, "--trust", d.path("trust.json"))
	d.must(err != nil && strings.HasPrefix(out, "FAIL") && strings.Contains(out, "commands.csv"), "the verifier finds it")
	return nil
}

// conclude says whether everything held.
func (d *day) conclude() error {
	d.title("In the end")
	if len(d.broken) > 0 {
		for _, what := range d.broken {
			d.say("NOT HELD: %s", what)
		}
		return ErrNotHeld
	}
	d.say("Everything held. The folder is kept: %s", d.Folder)
	d.say("Verify again: %s verify %s --trust %s", d.Program, d.path("evidence.zip"), d.path("trust.json"))
	return nil
}

// end stops what the demo started.
func (d *day) end() error {
	var errs []error
	if d.gateway != nil && d.gateway.ProcessState == nil {
		errs = append(errs, d.gateway.Process.Signal(syscall.SIGTERM), d.gateway.Wait())
	}
	if d.db != nil {
		errs = append(errs, d.db.Stop())
	}
	if d.billing != nil {
		errs = append(errs, d.billing.Close())
	}
	if d.desk != nil {
		errs = append(errs, d.desk.Close())
	}
	return errors.Join(errs...)
}

// serve starts the gateway and waits until it answers.
func (d *day) serve(ctx context.Context) error {
	log, err := os.OpenFile(d.path("gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.say("$ exhibit serve --config %s 2>>%s &", d.path("exhibit.yaml"), d.path("gateway.log"))
	// Not bound to ctx: it is ended in good order, by end.
	d.gateway = exec.CommandContext(context.WithoutCancel(ctx), d.Program, "serve", "--config", d.path("exhibit.yaml"))
	d.gateway.Stdout, d.gateway.Stderr = log, log
	d.gateway.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.gateway.Start(); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	return d.until(ctx, "the gateway answers", func() bool {
		return d.command(ctx, nil, d.Program, "--config", d.path("exhibit.yaml"), "log", "status").Run() == nil
	})
}

// until waits for something that must come soon.
func (d *day) until(ctx context.Context, what string, ok func() bool) error {
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) || ctx.Err() != nil {
			log, _ := os.ReadFile(d.path("gateway.log"))
			return fmt.Errorf("waited in vain until %s; the gateway's log ends:\n%s", what, log[max(0, len(log)-2000):])
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// exhibit runs a verb and shows it.
func (d *day) exhibit(ctx context.Context, args ...string) (string, error) {
	shown := append([]string{"exhibit"}, args...)
	if args[0] != "init" && args[0] != "verify" {
		args = append(slices.Clone(args), "--config", d.path("exhibit.yaml"))
	}
	return d.show(shown, d.command(ctx, nil, append([]string{d.Program}, args...)...))
}

// psql runs statements as an agent, each in its own message.
func (d *day) psql(ctx context.Context, agent, ticket string, statements ...string) (string, error) {
	token, err := d.token(ctx, agent, ticket)
	if err != nil {
		return "", err
	}
	return d.run(ctx, []string{"PGPASSWORD=" + token}, d.psqlArgs(agent, statements...)...)
}

func (d *day) psqlArgs(agent string, statements ...string) []string {
	host, port, _ := strings.Cut(d.listen, ":")
	args := []string{"psql", "-X", "-h", host, "-p", port, "-U", agent, "-d", "orders"}
	for _, s := range statements {
		args = append(args, "-c", s)
	}
	return args
}

// client runs another client as an agent.
func (d *day) client(ctx context.Context, agent, ticket string, args ...string) (string, error) {
	token, err := d.token(ctx, agent, ticket)
	if err != nil {
		return "", err
	}
	host, port, _ := strings.Cut(d.listen, ":")
	return d.run(ctx, []string{"PGPASSWORD=" + token}, append(args, "-h", host, "-p", port, "-U", agent, "orders")...)
}

// token is a fresh token of an agent. Its text is shown nowhere.
func (d *day) token(ctx context.Context, agent, ticket string) (string, error) {
	args := []string{d.Program, "token", agent, "--key", d.path(agent + ".key"), "--config", d.path("exhibit.yaml")}
	if ticket != "" {
		args = append(args, "--ticket", ticket)
	}
	out, err := d.command(ctx, nil, args...).Output()
	if err != nil {
		return "", fmt.Errorf("getting a token for %s: %w", agent, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *day) run(ctx context.Context, env []string, args ...string) (string, error) {
	return d.show(args, d.command(ctx, env, args...))
}

func (d *day) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// mostLines and mostColumns bound what is shown of one command's output; what
// is cut can be seen by typing the command.
const (
	mostLines   = 24
	mostColumns = 200
)

// show runs a command and shows it with what it prints.
func (d *day) show(shown []string, cmd *exec.Cmd) (string, error) {
	for i, a := range shown {
		if strings.ContainsAny(a, " *()'\\=;") {
			shown[i] = `"` + a + `"`
		}
	}
	d.say("$ %s", strings.Join(shown, " "))
	b, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	for i, l := range lines {
		if i == mostLines {
			d.say("    ... %d more lines", len(lines)-i)
			break
		}
		if len(l) > mostColumns {
			l = l[:mostColumns-3] + "..."
		}
		d.say("    %s", l)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return string(b), fmt.Errorf("running %s: %w", shown[0], err)
	}
	return string(b), err
}

func (d *day) title(text string) {
	d.act++
	fmt.Fprintf(d.Out, "\n== %d. %s\n", d.act, text)
}

func (d *day) say(format string, args ...any) { fmt.Fprintf(d.Out, "   "+format+"\n", args...) }

// must notes whether something that must hold does.
func (d *day) must(ok bool, what string) {
	if ok {
		d.say("held: %s", what)
		return
	}
	d.say("NOT HELD: %s", what)
	d.broken = append(d.broken, what)
}

func (d *day) path(name string) string { return filepath.Join(d.Folder, name) }
