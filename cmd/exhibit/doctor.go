package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/upstream"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// What doctor says of a thing. It fails what would keep the gateway from
// working, and warns of what will hurt later.
const (
	stateOK   = "ok"
	stateWarn = "warn"
	stateFail = "fail"
)

// finding is one line of doctor's.
type finding struct {
	State   string `json:"state"`
	Check   string `json:"check"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Thresholds of doctor's.
const (
	slowSync    = 10 * time.Millisecond
	badSync     = 200 * time.Millisecond
	lowDisk     = 5 << 30
	emptyDisk   = 1 << 30
	dialTimeout = 5 * time.Second
	expiresSoon = 30 * 24 * time.Hour
)

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the configuration and the machine, and say what to do", GroupID: groupGateway, Args: exactly(),
		Long: `Checks the configuration, the permissions of keys and secrets, policies, the
clock, the disk and how fast it makes things durable, whether the upstreams answer
and whether the listeners' addresses are free. It changes nothing.

Each line is ok, warn or fail, with what to do. Exits with 1 when any is fail.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{}
			d.examine(cmd.Context(), a)
			return a.showFindings(d.findings)
		},
	}
}

func (a *app) showFindings(list []finding) error {
	failed := false
	t := workpaper.Table{Name: "doctor", Columns: columns("state", "check", "message", "hint")}
	for _, f := range list {
		failed = failed || f.State == stateFail
		t.Rows = append(t.Rows, []string{f.State, f.Check, f.Message, f.Hint})
		if a.json || a.csv {
			continue
		}
		a.say("%-4s  %s: %s", f.State, f.Check, f.Message)
		if f.Hint != "" {
			a.say("      %s", f.Hint)
		}
	}
	if a.json || a.csv {
		if err := a.show(list, t); err != nil {
			return err
		}
	}
	if failed {
		return errSilent
	}
	return nil
}

// doctor collects findings.
type doctor struct {
	findings []finding
	running  bool // a gateway answers at the configured socket
}

func (d *doctor) ok(check, format string, args ...any) {
	d.findings = append(d.findings, finding{stateOK, check, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, message, hint string) {
	d.findings = append(d.findings, finding{stateWarn, check, message, hint})
}

func (d *doctor) fail(check, message, hint string) {
	d.findings = append(d.findings, finding{stateFail, check, message, hint})
}

func (d *doctor) examine(ctx context.Context, a *app) {
	c, err := a.loadConfig()
	if err != nil {
		d.config(err)
		return
	}
	d.ok("configuration", "%s is valid", c.File())
	d.gateway(ctx, c)
	d.people(c)
	d.rights(c)
	d.keystore(c)
	d.secrets(c)
	d.certificates(c)
	d.policies(c)
	d.clock()
	d.disk(c)
	for _, r := range c.Resources {
		d.upstream(ctx, r)
	}
	d.witnesses(ctx, c)
	d.timestamps(ctx, c)
	d.addresses(ctx, c)
}

// witnesses checks that those that cosign the log answer. The gateway works
// without, so that it is no failure.
func (d *doctor) witnesses(ctx context.Context, c *config.Config) {
	list, err := witnessesOf(c.Log)
	if err != nil {
		d.fail("witnesses", err.Error(), "the witness's operator gives you its verifier key")
		return
	}
	if len(list) == 0 {
		d.warn("witnesses", "none: against yourself the evidence holds only for what an auditor keeps", "add witnesses of other parties under log.witnesses")
	}
	for _, w := range list {
		check := "witness " + w.Key.Name()
		if err := w.Reach(ctx); err != nil {
			d.warn(check, err.Error(), "see log.witnesses; until it answers nothing new is cosigned")
			continue
		}
		d.ok(check, "answers at %s", w.URL)
	}
}

// timestamps has each time stamp authority stamp something that means nothing.
// The gateway works without them, but not with a file of roots that isn't one.
func (d *doctor) timestamps(ctx context.Context, c *config.Config) {
	s, err := stampingOf(c.Log.Timestamps)
	if err != nil {
		d.fail("time stamps", err.Error(), "the authority's operator publishes its root certificates")
		return
	}
	for _, a := range s.Authorities {
		check := "authority " + a.URL
		stamp, err := a.Try(ctx, s.Timeout)
		if err != nil {
			d.warn(check, err.Error(), "see log.timestamps; until it stamps, when the log was is your word")
			continue
		}
		d.ok(check, "stamps, as %s under policy %s", workpaper.Visible(stamp.Authority), stamp.Policy)
	}
}

func (d *doctor) config(err error) {
	var list configErrors
	if errors.As(err, &list) {
		for _, e := range list.Errors {
			d.fail("configuration", e.Error(), e.Hint)
		}
		return
	}
	hint := ""
	var h hinted
	if errors.As(err, &h) {
		hint = h.hint
	}
	d.fail("configuration", err.Error(), hint)
}

// gateway finds out whether one runs already: its files and addresses are then
// in use by right.
func (d *doctor) gateway(ctx context.Context, c *config.Config) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	client := api.NewUnixClient(c.Admin.Socket)
	defer client.Close()
	v, err := client.Version(ctx)
	if err != nil {
		d.ok("gateway", "none runs at %s", c.Admin.Socket)
		return
	}
	d.running = true
	d.ok("gateway", "%s runs, version %s", v.Gateway, v.Version)
}

func (d *doctor) people(c *config.Config) {
	if _, ok := c.PersonByUID(uint32(os.Getuid())); ok {
		d.ok("people", "you are one of %d", len(c.People))
	} else {
		d.warn("people", fmt.Sprintf("your uid %d is nobody's", os.Getuid()), fmt.Sprintf("in %s, add it to the uids of a person under people, to use the admin socket", c.File()))
	}
	if len(c.Auditors) == 0 {
		d.warn("auditors", "none: only this gateway can ever open sealed statements", "add an auditor's age recipient under auditors; sessions before that stay as they are")
	}
}

// rights looks for what nobody could approve. It asks the registry, which
// decides it.
func (d *doctor) rights(c *config.Config) {
	b := c.Evidence()
	b.By = evidence.By{Via: "doctor"}
	r, err := decision.New().Apply(evidence.Head{
		Type: evidence.ConfigChange, Pos: evidence.Position{Gateway: c.Gateway, Boot: 1},
	}, evidence.EncodeBody(b))
	if err != nil {
		d.fail("rights", err.Error(), "")
		return
	}
	if !r.Separated() {
		hint := "set rights.separation to required"
		if len(c.People) == 1 {
			hint = "name a second person under people, then set rights.separation to required"
		}
		d.warn("rights", "grants and policies need no second person: what one does alone is on record as an exception", hint)
		return
	}
	good := true
	unmet := func(what string, ask evidence.ApprovalRequestBody, hint string) {
		if stuck := unanswered(r, ask); len(stuck) > 0 {
			good = false
			d.warn("rights", fmt.Sprintf("nobody can approve %s that %s asks for", what, strings.Join(stuck, " or ")), hint)
		}
	}
	for _, res := range c.Resources {
		unmet("grants on "+res.Name, evidence.ApprovalRequestBody{
			Kind: evidence.ApproveGrant, Grant: &evidence.GrantScope{Resource: res.Name},
			Needs: []evidence.ApprovalNeed{{Group: evidence.GroupResource, Count: 1}},
		}, fmt.Sprintf("name other approvers of %s, or leave out owner and approvers for anyone to approve", res.Name))
	}
	unmet("policies", evidence.ApprovalRequestBody{
		Kind: evidence.ApprovePolicy, Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}},
	}, "put a second person into a group of rights.policy_approvers")
	if good {
		d.ok("rights", "grants and policies need a second person, and there always is one")
	}
}

// unanswered are the people whose request nobody else could approve.
func unanswered(r *decision.Registry, ask evidence.ApprovalRequestBody) (stuck []string) {
	for _, who := range r.People() {
		ask.By.Person.ID = who
		if !slices.ContainsFunc(r.People(), func(other string) bool { return len(r.Groups(&ask, other)) > 0 }) {
			stuck = append(stuck, who)
		}
	}
	return stuck
}

// approvals looks for rules that want more people than there are.
func (d *doctor) approvals(c *config.Config, p evidence.PolicyBody) {
	compiled, err := decision.Compile(p.Files, p.Actions)
	if err != nil {
		return // policies has said so
	}
	for _, rule := range compiled.Rules() {
		for _, need := range rule.Obliges.Approval {
			n := 0
			for _, person := range c.People {
				if slices.Contains(person.Groups, need.Group) {
					n++
				}
			}
			if n < need.Count {
				d.warn("policies", fmt.Sprintf("rule %s wants the approval of %d of %s, and there are %d: what it permits is refused", rule.ID, need.Count, need.Group, n),
					"put people into the group under people, with groups: ["+need.Group+"]")
			}
		}
	}
}

// keystore checks the gateway's own keys.
func (d *doctor) keystore(c *config.Config) {
	dir := filepath.Join(c.Data, "keystore")
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.fail("keys", fmt.Sprintf("%s is missing", dir), "exhibit init makes a gateway's keys; if this one ran before, restore them from your backup")
		return
	case err != nil:
		d.fail("keys", err.Error(), "run doctor as the gateway's user")
		return
	}
	good := true
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			good = false
			path := filepath.Join(dir, e.Name())
			d.fail("keys", fmt.Sprintf("%s has mode %04o: others can reach it", path, info.Mode().Perm()), "chmod 600 "+path)
		}
	}
	if info, err := os.Stat(c.Data); err == nil && info.Mode().Perm()&0o027 != 0 {
		d.warn("keys", fmt.Sprintf("the data folder has mode %04o", info.Mode().Perm()), "chmod 700 "+c.Data)
	}
	if good {
		d.ok("keys", "%s, closed to others", count(len(entries), "file"))
	}
}

// secrets checks that what the configuration refers to is there, and closed to
// others.
func (d *doctor) secrets(c *config.Config) {
	for _, r := range c.Resources {
		check := "password of " + r.Name
		s := r.Upstream.Password
		if s.IsZero() {
			d.ok(check, "none is configured")
			continue
		}
		if _, err := s.Read(); err != nil {
			hint := "the file must be readable by the gateway's user"
			if s.Env != "" {
				hint = "set it in the environment that exhibit serve starts in"
			}
			d.fail(check, err.Error(), hint)
			continue
		}
		if s.File != "" {
			if err := config.CheckPermissions(s.File); err != nil {
				d.warn(check, err.Error(), "chmod 640 "+s.File+" or less")
				continue
			}
		}
		d.ok(check, "can be read")
	}
}

// certificates checks what the gateway shows to others.
func (d *doctor) certificates(c *config.Config) {
	type pair struct{ check, cert, key string }
	var pairs []pair
	if h := c.Admin.HTTPS; h.Address != "" {
		pairs = append(pairs, pair{"certificate of admin.https", h.Cert, h.Key})
	}
	for _, l := range c.Listeners {
		if l.TLS.Cert != "" {
			pairs = append(pairs, pair{"certificate of listener " + l.Name, l.TLS.Cert, l.TLS.Key})
		}
	}
	for _, r := range c.Resources {
		if t := r.Upstream.TLS; t.Cert != "" {
			pairs = append(pairs, pair{"certificate for " + r.Name, t.Cert, t.Key})
		}
	}
	for _, p := range pairs {
		t, err := tls.LoadX509KeyPair(p.cert, p.key)
		if err != nil {
			d.fail(p.check, err.Error(), "")
			continue
		}
		if err := config.CheckPermissions(p.key); err != nil {
			d.warn(p.check, err.Error(), "chmod 640 "+p.key+" or less")
		}
		leaf, err := x509.ParseCertificate(t.Certificate[0])
		switch left := time.Until(leaf.NotAfter); {
		case err != nil:
			d.fail(p.check, err.Error(), "")
		case left <= 0:
			d.fail(p.check, "it expired at "+stamp(leaf.NotAfter), "renew it")
		case left < expiresSoon:
			d.warn(p.check, "it expires at "+stamp(leaf.NotAfter), "renew it")
		default:
			d.ok(p.check, "valid until %s", stamp(leaf.NotAfter))
		}
	}
}

func (d *doctor) policies(c *config.Config) {
	p, err := policy.Load(c.Policies, vocabulary)
	if err == nil {
		d.ok("policies", "%s, digest %.12s", count(len(p.Files), "file"), p.Digest)
		d.approvals(c, p)
		return
	}
	problems := policy.Problems(err)
	for _, e := range problems {
		d.fail("policies", e.Error(), "")
	}
	if len(problems) == 0 {
		d.fail("policies", err.Error(), "")
	}
}

// clock checks that the time is kept, as far as the system says.
func (d *doctor) clock() {
	synced, known := clockSynchronised()
	switch {
	case time.Now().Year() < 2026:
		d.fail("clock", "it says "+stamp(time.Now()), "set the clock: grants and certificates depend on it")
	case !known:
		d.warn("clock", "the system doesn't say whether it is synchronised", "check that NTP runs: every record carries this clock's time")
	case !synced:
		d.warn("clock", "it is not synchronised", "run chrony or systemd-timesyncd: every record carries this clock's time")
	default:
		d.ok("clock", "synchronised")
	}
}

// disk checks the folder that everything durable lies in.
func (d *doctor) disk(c *config.Config) {
	free, volatile, err := diskOf(c.Data)
	switch {
	case err != nil:
		d.fail("disk", err.Error(), "exhibit init makes the data folder")
		return
	case volatile != "":
		d.warn("disk", fmt.Sprintf("the data folder lies on %s", volatile), "use a local disk: what is durable must survive loss of power")
	}
	switch gib := float64(free) / (1 << 30); {
	case free < emptyDisk:
		d.fail("disk", fmt.Sprintf("%.1f GiB are free", gib), "make room: the gateway refuses commands that it can't record")
	case free < lowDisk:
		d.warn("disk", fmt.Sprintf("%.1f GiB are free", gib), "watch it: the gateway refuses commands that it can't record")
	default:
		d.ok("disk", "%.1f GiB are free", gib)
	}
	took, err := syncTime(c.Data)
	switch {
	case err != nil:
		d.fail("sync", err.Error(), "the gateway's user must be able to write to "+c.Data)
	case took > badSync:
		d.fail("sync", fmt.Sprintf("making 4 KiB durable takes %v", took), "every command would wait that long: use a faster disk, or one with a power-safe cache")
	case took > slowSync:
		d.warn("sync", fmt.Sprintf("making 4 KiB durable takes %v", took), "every command waits that long unless it shares the wait with others")
	default:
		d.ok("sync", "making 4 KiB durable takes %v", took)
	}
}

// syncTime is the median time of appending 4 KiB and making it durable.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return 0, fmt.Errorf("measuring how fast the disk syncs: %w", err)
	}
	var times []time.Duration
	b := make([]byte, 4096)
	for range 15 {
		start := time.Now()
		_, err := f.Write(b)
		if err := errors.Join(err, f.Sync()); err != nil {
			return 0, errors.Join(fmt.Errorf("measuring how fast the disk syncs: %w", err), f.Close(), os.Remove(f.Name()))
		}
		times = append(times, time.Since(start))
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return 0, fmt.Errorf("measuring how fast the disk syncs: %w", err)
	}
	slices.Sort(times)
	return times[len(times)/2].Round(10 * time.Microsecond), nil
}

// upstream connects as the gateway would.
func (d *doctor) upstream(ctx context.Context, r config.Resource) {
	check := "resource " + r.Name
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if len(r.MCP.Command) > 0 {
		d.program(check, r)
		return
	}
	if r.Protocol != "postgres" {
		d.service(ctx, check, r)
		return
	}
	server, err := connectPostgres(ctx, r.Upstream)
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		d.ok(check, "%s answers, version %s", r.Upstream.Address, server)
	case errors.As(err, &pgErr):
		d.fail(check, fmt.Sprintf("%s refuses: %s (%s)", r.Upstream.Address, pgErr.Message, pgErr.Code), "check database, user and password of its upstream, and the server's pg_hba.conf")
	default:
		d.fail(check, fmt.Sprintf("%s can't be reached: %v", r.Upstream.Address, err), "check its upstream's address and tls, and whether the server runs")
	}
}

// program looks for what the gateway would start, and reads its environment.
func (d *doctor) program(check string, r config.Resource) {
	path, err := exec.LookPath(r.MCP.Command[0])
	if err == nil {
		_, err = environment(r.MCP.Env)
	}
	if err != nil {
		d.fail(check, fmt.Sprintf("its server can't be started: %v", err), "check its mcp.command and mcp.env")
		return
	}
	d.ok(check, "%s can be started", path)
}

// service connects to a resource of a protocol above HTTP, reads its credential
// and asks nothing.
func (d *doctor) service(ctx context.Context, check string, r config.Resource) {
	where := cmp.Or(r.Upstream.Address, r.Upstream.Kubeconfig)
	target, err := targetOf(r.Upstream)
	if err == nil {
		err = reach(ctx, target)
	}
	if err != nil {
		d.fail(check, fmt.Sprintf("%s can't be reached: %v", where, err), "check its upstream's address, tls and credential, and whether the server runs")
		return
	}
	d.ok(check, "%s takes connections", where)
}

func reach(ctx context.Context, target *upstream.Target) error {
	up, err := target.Upstream()
	if err != nil {
		return err
	}
	if up.Header != nil {
		if _, _, err := up.Header(ctx); err != nil {
			return err
		}
	}
	network := "tcp"
	if strings.HasPrefix(up.Address, "/") {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, up.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if up.TLS == nil {
		return nil
	}
	return tls.Client(conn, up.TLS).HandshakeContext(ctx)
}

func connectPostgres(ctx context.Context, u config.Upstream) (server string, err error) {
	target, err := targetOf(u)
	if err != nil {
		return "", err
	}
	up, err := target.Upstream()
	if err != nil {
		return "", err
	}
	conn, err := postgres.Connect(ctx, up, map[string]string{"application_name": "exhibit doctor"})
	if err != nil {
		var dial *net.OpError
		if errors.As(err, &dial) {
			err = dial.Err // without the addresses that pgconn was made to believe
		}
		return "", err
	}
	server = workpaper.Visible(conn.ParameterStatus("server_version"))
	return server, conn.Close(ctx)
}

// addresses checks that the gateway could listen.
func (d *doctor) addresses(ctx context.Context, c *config.Config) {
	if d.running {
		d.ok("addresses", "in use by the running gateway")
		return
	}
	at := map[string]string{c.Metrics.Address: "metrics", c.Admin.HTTPS.Address: "admin.https", c.Admin.Socket: "admin.socket"}
	for _, l := range c.Listeners {
		at[l.Address] = "listener " + l.Name
	}
	delete(at, "")
	addresses := make([]string, 0, len(at))
	for a := range at {
		addresses = append(addresses, a)
	}
	slices.Sort(addresses)
	for _, a := range addresses {
		if err := free(ctx, a); err != nil {
			d.fail(at[a], fmt.Sprintf("%s can't be listened at: %v", a, err), "stop what holds the address, or configure another")
			continue
		}
		d.ok(at[a], "%s is free", a)
	}
}

// free reports whether an address could be listened at. A socket in the file
// system is free when nothing answers there; it isn't made, lest its folder be.
func free(ctx context.Context, address string) error {
	if strings.HasPrefix(address, "/") {
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", address)
		if err == nil {
			return errors.Join(errors.New("something answers there"), c.Close())
		}
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return err
	}
	return l.Close()
}
