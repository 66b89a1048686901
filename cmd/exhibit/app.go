package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/connect"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// verbs are the commands, in the order that help lists them.
var verbs = []func(*app) *cobra.Command{
	newInit, newServe, newDoctor, newReload, newDemo,
	newAgent, newEnroll, newCredential, newGrant, newPolicy, newApproval, newKill,
	newConnect, newRun, newToken, newKube, newCertificate,
	newWho, newAllowed, newDid, newReplay, newExplain, newSuggest, newSessions, newAlert,
	newImport, newReconcile, newLog, newBackup, newRestore, newReady, newPack, newExport, newPush, newVerify, newSample, newUnseal,
	newConfig, newMCP, newOpenAPI, newVersion,
}

// The groups of verbs.
const (
	groupGateway  = "gateway"
	groupRights   = "rights"
	groupAgent    = "agent"
	groupEvidence = "evidence"
)

// app is what every verb has: where it reads and writes, and the flags that
// all of them share.
type app struct {
	in       io.Reader
	out      io.Writer
	err      io.Writer
	terminal bool // out is one
	width    int  // of the terminal
	color    bool // out shows colours and is asked to
	unicode  bool // out shows more than ASCII
	progress bool // err is a terminal

	configFile, data, socket string
	url, cert, key, ca       string
	json, csv                bool
}

// std is the app of a process.
func std() *app {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	fd := int(os.Stdout.Fd())
	if a.terminal = term.IsTerminal(fd); a.terminal {
		if w, _, err := term.GetSize(fd); err == nil {
			a.width = w
		}
		a.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		a.unicode = unicodeLocale()
	}
	a.progress = term.IsTerminal(int(os.Stderr.Fd()))
	return a
}

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// usage is a mistake on the command line.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

// errSilent is a failure that has been told already.
var errSilent = errors.New("failed")

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, a *app) int {
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var own exitCode
	if errors.As(err, &own) {
		return int(own)
	}
	code := exitFailed
	if isUsage(err) {
		code = exitUsage
	}
	if !errors.Is(err, errSilent) {
		a.complain(cmd, err)
	}
	return code
}

// isUsage reports whether err is about the command line.
func isUsage(err error) bool {
	var u usage
	return errors.As(err, &u)
}

// complain writes an error and its hint.
func (a *app) complain(cmd *cobra.Command, err error) {
	message, hint := err.Error(), hintOf(err)
	if hint == "" && isUsage(err) {
		hint = cmd.CommandPath() + " --help shows how it is used"
	}
	for i, line := range strings.Split(message, "\n") {
		if i == 0 {
			line = "error: " + line
		}
		fmt.Fprintln(a.err, workpaper.Visible(line))
	}
	if hint != "" {
		fmt.Fprintln(a.err, "hint: "+workpaper.Visible(hint))
	}
}

// hintOf is the advice that an error has with it.
func hintOf(err error) string {
	var h hinted
	var c *connect.Error
	var p *api.Problem
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &c):
		return c.Hint
	case errors.As(err, &p):
		return p.Hint
	}
	return ""
}

const rootLong = `Exhibit is an access gateway for agents: it decides each command, writes the
evidence before it passes the command on, and hands an auditor a pack that
proves itself offline.

Flags that all verbs share can be set in the environment: --socket as
EXHIBIT_SOCKET, --config as EXHIBIT_CONFIG, and so on.

Exit codes: 0 done, 1 failed (or found something wrong), 2 wrong usage.`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "exhibit", Short: "Access gateway for agents, with evidence", Long: rootLong,
		SilenceErrors: true, SilenceUsage: true,
		DisableSuggestions: true, // they come as a hint
		PersistentPreRunE:  func(cmd *cobra.Command, _ []string) error { return a.check(cmd) },
		Args:               known,
		RunE:               func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.AddGroup(&cobra.Group{ID: groupGateway, Title: "Running a gateway:"},
		&cobra.Group{ID: groupRights, Title: "Who may do what:"},
		&cobra.Group{ID: groupAgent, Title: "Where an agent runs:"},
		&cobra.Group{ID: groupEvidence, Title: "What happened, and its proof:"})
	f := root.PersistentFlags()
	f.StringVar(&a.configFile, "config", "", "configuration file (default exhibit.yaml here, then /etc/exhibit/exhibit.yaml)")
	f.StringVar(&a.data, "data", "", "data folder of the gateway (default: as configured)")
	f.StringVar(&a.socket, "socket", "", "admin socket of the gateway (default: as configured)")
	f.StringVar(&a.url, "url", "", "https:// address of the gateway, instead of the socket")
	f.StringVar(&a.cert, "cert", "", "with --url: file of your client certificate")
	f.StringVar(&a.key, "cert-key", "", "with --url: file of its key")
	f.StringVar(&a.ca, "ca", "", "with --url, connect, run and kube: file of the authority of the gateway's certificate")
	f.BoolVar(&a.json, "json", false, "print JSON")
	f.BoolVar(&a.csv, "csv", false, "print tables as CSV")
	for _, v := range verbs {
		root.AddCommand(v(a))
	}
	return root
}

// targets are the flags that say which gateway is meant, the most specific
// first.
var targets = []string{"url", "socket", "data", "config"}

// check looks at what all verbs share, and takes from the environment what the
// command line doesn't set. A target on the command line outranks more specific
// ones in the environment: who names a gateway means that one.
func (a *app) check(cmd *cobra.Command) error {
	var err error
	flags := cmd.Root().PersistentFlags()
	outranked := func(name string) bool {
		i := slices.Index(targets, name)
		return i >= 0 && slices.ContainsFunc(targets[i:], flags.Changed)
	}
	flags.VisitAll(func(f *pflag.Flag) {
		name := "EXHIBIT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := os.Getenv(name); v != "" && !f.Changed && !outranked(f.Name) {
			if e := f.Value.Set(v); e != nil {
				err = usagef("%s: %w", name, e)
			}
		}
	})
	if err != nil {
		return err
	}
	if a.json && a.csv {
		return usagef("--json and --csv exclude each other")
	}
	return nil
}

// group is a command that only has others.
func group(id, use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, GroupID: id, Args: known, DisableSuggestions: true}
	var names []string
	for _, s := range subs {
		c.AddCommand(s)
		names = append(names, s.Name())
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return usage{hinted{fmt.Errorf("%s needs a command", cmd.CommandPath()), "one of " + strings.Join(names, ", ")}}
	}
	return c
}

// known refuses the arguments of a command that only has others: no other has
// that name.
func known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return usage{hinted{err, "did you mean " + strings.Join(like, " or ") + "?"}}
	}
	return usage{err}
}

// exactly wants the named arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		case len(args) > len(names):
			return usagef("%s: %q is too much", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// atMost wants the named argument, or none.
func atMost(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s wants one %s: %q is too much", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}

// systemConfig is where packages put the configuration.
const systemConfig = "/etc/exhibit/exhibit.yaml"

// configPath is the configuration file that counts.
func (a *app) configPath() (string, error) {
	if a.configFile != "" {
		return a.configFile, nil
	}
	for _, path := range []string{"exhibit.yaml", systemConfig} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", hinted{errors.New("there is no configuration file"), "name it with --config or EXHIBIT_CONFIG, or make one with exhibit init"}
}

// loadConfig reads the configuration.
func (a *app) loadConfig() (*config.Config, error) {
	path, err := a.configPath()
	if err != nil {
		return nil, err
	}
	c, err := config.Load(path)
	var list config.Errors
	if errors.As(err, &list) {
		return nil, configErrors{list}
	}
	if err != nil {
		return nil, err
	}
	if a.data != "" {
		data, err := filepath.Abs(a.data)
		if err != nil {
			return nil, fmt.Errorf("finding the data folder: %w", err)
		}
		if c.Admin.Socket == filepath.Join(c.Data, "admin.sock") {
			c.Admin.Socket = filepath.Join(data, "admin.sock")
		}
		c.Data = data
	}
	return c, nil
}

// configErrors introduces the errors of a file.
type configErrors struct{ config.Errors }

func (e configErrors) Error() string {
	return fmt.Sprintf("the configuration has %s:\n%s", count(len(e.Errors), "error"), e.Errors.Error())
}

// adminSocket is the socket to ask.
func (a *app) adminSocket() (string, error) {
	switch {
	case a.socket != "":
		return a.socket, nil
	case a.data != "":
		return filepath.Join(a.data, "admin.sock"), nil
	}
	c, err := a.loadConfig()
	if errors.Is(err, fs.ErrPermission) {
		return "", hinted{err, "name the gateway's socket with --socket or EXHIBIT_SOCKET"}
	}
	if err != nil {
		return "", err
	}
	return c.Admin.Socket, nil
}

// ask calls f with a client of the running gateway.
func (a *app) ask(f func(*api.Client) error) error {
	c, where, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return sought(f(c), where)
}

// sought adds to the error of a gateway that isn't there where it was looked for.
func sought(err error, where string) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return hinted{err, fmt.Sprintf("does the gateway run (exhibit serve)? It was sought at %s", where)}
	case errors.Is(err, syscall.EACCES):
		return hinted{err, "the folder of the socket keeps you out; admin.socket in the configuration can put it elsewhere"}
	}
	return err
}

func (a *app) client() (c *api.Client, where string, err error) {
	if a.url == "" {
		where, err = a.adminSocket()
		if err != nil {
			return nil, "", err
		}
		return api.NewUnixClient(where), where, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13}
	if a.cert != "" || a.key != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return nil, "", fmt.Errorf("reading your client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	if t.RootCAs, err = a.roots(); err != nil {
		return nil, "", err
	}
	c, err = api.NewHTTPSClient(a.url, t)
	if err != nil {
		return nil, "", usage{err}
	}
	return c, a.url, nil
}

// roots are the authorities that a gateway's certificate may be of; nil is the
// system's.
func (a *app) roots() (*x509.CertPool, error) {
	if a.ca == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", a.ca)
	}
	return pool, nil
}

// version is that of this binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
