package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"exhibit": main})
}

// The scripts run the real command line. Where they need a gateway, `gateway`
// starts one that answers from memory, behind a real socket.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"gateway": startGateway,
			"exits":   exits,
			"free":    freeAddress,
			"taken":   takenAddress,
			"appears": appears,
			"sockets": socketFolder,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("UID", strconv.Itoa(os.Getuid()))
			packs, err := filepath.Abs("../../verify/testdata") // published test vectors
			e.Setenv("PACKS", packs)
			return err
		},
	})
}

// exits CODE COMMAND... wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// free NAME... sets variables to addresses that nothing listens at.
func freeAddress(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, l.Addr().String())
		ts.Check(l.Close())
	}
}

// taken NAME sets a variable to an address that is in use.
func takenAddress(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, l.Addr().String())
		ts.Defer(func() { ts.Check(l.Close()) })
	}
}

// appears FILE waits until a program in the background has written something.
func appears(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: appears FILE")
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(ts.MkAbs(args[0])); err == nil && info.Size() > 0 {
			return
		}
	}
	ts.Fatalf("nothing appears in %s", args[0])
}

// sockets NAME sets a variable to a folder for sockets, whose paths are short.
func socketFolder(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		dir, err := os.MkdirTemp("", "exhibit-cli-")
		ts.Check(err)
		ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
		ts.Setenv(name, dir)
	}
}

// gateway [stranger|https] starts a gateway that answers from memory. To a
// stranger nobody is known; with https, alice.pem and eve.pem are clients'
// certificates, of which it knows one.
func startGateway(ts *testscript.TestScript, _ bool, args []string) {
	how := strings.Join(args, " ")
	g := newMemory(how == "stranger")
	h, err := api.New(api.Options{
		Services: api.Services{
			Agents: g, Credentials: g, Tokens: g, Grants: g, Questions: g, Log: g, Control: g, Packs: g, Sessions: g, Policies: g, Approvals: g, Imports: g, Readiness: g,
		},
		People: g, ConfigFile: "/etc/exhibit/exhibit.yaml", Version: api.Version{Version: "v1", Gateway: "gw1", Origin: "example.com/gw1"},
	})
	ts.Check(err)
	listen := listenSocket
	if how == "https" {
		listen = listenHTTPSFor
	}
	l := listen(ts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, l, h) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
}

func listenSocket(ts *testscript.TestScript) net.Listener {
	// Not in $WORK: the path of a socket is short.
	dir, err := os.MkdirTemp("", "exhibit-cli-")
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	path := filepath.Join(dir, "s")
	l, err := api.ListenUnix(context.Background(), path)
	ts.Check(err)
	ts.Setenv("EXHIBIT_SOCKET", path)
	return l
}

func listenHTTPSFor(ts *testscript.TestScript) net.Listener {
	ca := issue(ts, "authority", nil)
	server := issue(ts, "localhost", ca)
	issue(ts, "alice", ca)
	issue(ts, "eve", ca)
	pem, err := os.ReadFile(ts.MkAbs("authority.pem"))
	ts.Check(err)
	config, err := api.TLSConfig(*server, pem)
	ts.Check(err)
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv("EXHIBIT_URL", "https://localhost:"+port)
	ts.Setenv("EXHIBIT_CA", "authority.pem")
	return tls.NewListener(l, config)
}

// issue makes NAME.pem and NAME.key, signed by an authority or, without one,
// by itself.
func issue(ts *testscript.TestScript, name string, by *tls.Certificate) *tls.Certificate {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, EmailAddresses: []string{name + "@example.com"},
		IsCA: by == nil, BasicConstraintsValid: true,
	}
	parent, signer := t, crypto.Signer(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, signer)
	ts.Check(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	ts.Check(os.WriteFile(ts.MkAbs(name+".pem"), certPEM, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(name+".key"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	ts.Check(err)
	return &pair
}

var (
	alice = evidence.Person{ID: "alice@example.com", Name: "Alice Example"}
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

// memory is a gateway without a log. Agents called "hostile" carry what a
// terminal or a spreadsheet would obey.
type memory struct {
	strangers bool // nobody is known
	mu        sync.Mutex
	agents    []api.Agent
	keys      map[string]api.Credential
	public    map[string]string
	grants    []api.Grant
	asserted  *identity.Assertions
}

func newMemory(strangers bool) *memory {
	return &memory{
		strangers: strangers, keys: map[string]api.Credential{}, public: map[string]string{},
		asserted: identity.NewAssertions("gw1", time.Now().Add(-time.Hour)),
	}
}

func (g *memory) PersonByUID(uint32) (evidence.Person, bool) { return alice, !g.strangers }
func (g *memory) PersonByCertificate(emails, _ []string) (evidence.Person, bool) {
	return alice, slices.Contains(emails, alice.ID)
}

func (g *memory) change(by evidence.By, reason string) api.Change {
	return api.Change{Position: "gw1.1.7", Time: noon, By: evidence.By{Person: by.Person, Via: "unix"}, Reason: reason}
}

func (g *memory) AddAgent(_ context.Context, n api.NewAgent, by evidence.By) (api.Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.agents {
		if a.ID == n.ID {
			return api.Agent{}, api.Conflict("there is an agent "+n.ID+" already", "ids are never used again")
		}
	}
	a := api.Agent{ID: n.ID, Purpose: n.Purpose, Owner: evidence.Person{ID: n.Owner}, Team: n.Team, Expires: n.Expires, Status: "active", Created: g.change(by, "")}
	g.agents = append(g.agents, a)
	return a, nil
}

func (g *memory) Agents(context.Context) ([]api.Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]api.Agent(nil), g.agents...), nil
}

func (g *memory) RetireAgent(_ context.Context, id, reason string, by evidence.By) (api.Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.agents {
		if a := &g.agents[i]; a.ID == id {
			c := g.change(by, reason)
			a.Status, a.Disabled = "retired", &c
			return *a, nil
		}
	}
	return api.Agent{}, api.NotFound("there is no agent "+id, "exhibit agent list shows all")
}

func (g *memory) ChangeOwner(_ context.Context, id string, n api.NewOwner, by evidence.By) (api.Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.agents {
		if a := &g.agents[i]; a.ID == id {
			a.Owner, a.Status = evidence.Person{ID: n.Owner}, "active"
			return *a, nil
		}
	}
	return api.Agent{}, api.NotFound("there is no agent "+id, "exhibit agent list shows all")
}

func (g *memory) Reconcile(_ context.Context, resource string, _ evidence.By) (api.Reconciliation, error) {
	if resource != "orders" {
		return api.Reconciliation{}, api.NotFound("there is no resource "+resource, "")
	}
	return api.Reconciliation{Position: "gw1.1.40", Resource: resource, From: noon.Add(-time.Minute), To: noon, Logged: 5, Gateway: 2, Own: 1, Allowed: 1, Unexplained: 1,
		Tie: "tied", Counted: 5, Compared: 5, Sessions: []evidence.ReconKey{{Class: "unexplained", User: "app" + hostile, Client: "192.0.2.9:40001", PID: 7}}}, nil
}

func (g *memory) ImportPrivileges(_ context.Context, resource, ticket string, _ evidence.By) (api.Import, error) {
	out := api.Import{Position: "gw1.1.41", Kind: "postgres.privileges", Rows: 12, Kept: 9, Digest: "fedcba9876543210",
		Config: &api.ConfigImport{Position: "gw1.1.42", Rows: 87, Digest: "89abcdef01234567"}}
	if ticket == "" {
		out.Config.Unread = map[string]string{"hba": "permission denied for view pg_hba_file_rules" + hostile}
	}
	return out, nil
}

// Import has everybody in the file leave on the day before.
func (g *memory) Import(_ context.Context, n api.NewImport, _ evidence.By) (api.Import, error) {
	lines := strings.Split(strings.TrimSpace(string(n.Data)), "\n")
	if len(lines) < 2 {
		return api.Import{}, api.Invalid("the input can't be read: line 1, column 1: the file is empty", "nothing was imported; mend the file and try again")
	}
	out := api.Import{Position: "gw1.1.30", Kind: n.Kind, Rows: len(lines) - 1, Kept: 1, Digest: "0123456789abcdef", File: n.Format + " " + n.Source + " " + n.Query + fmt.Sprint(n.Params)}
	for _, l := range lines[1:] {
		out.Left = append(out.Left, api.Leaver{Person: l, Left: noon.Add(-24 * time.Hour), Position: "gw1.1.31", Suspended: []string{"reporter"}})
	}
	return out, nil
}

func (g *memory) EnrollKey(_ context.Context, k api.NewKey, by evidence.By) (api.Credential, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	public, err := base64.RawURLEncoding.DecodeString(k.PublicKey)
	if err != nil {
		return api.Credential{}, err
	}
	thumb := identity.Thumbprint(ed25519.PublicKey(public))
	c := api.Credential{
		ID: "key_1", Agent: k.Agent, Kind: "key", Thumbprint: thumb, NotAfter: k.Expires,
		Status: "active", Audience: "gw1", Created: g.change(by, ""),
	}
	g.keys[thumb], g.public[thumb] = c, k.PublicKey
	return c, nil
}

func (g *memory) Credentials(context.Context, string) (list []api.Credential, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.keys {
		list = append(list, c)
	}
	return list, nil
}

func (g *memory) RevokeCredential(_ context.Context, id, reason string, by evidence.By) (api.Credential, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for thumb, c := range g.keys {
		if c.ID == id {
			change := g.change(by, reason)
			c.Status, c.Revoked = "revoked", &change
			delete(g.public, thumb)
			g.keys[thumb] = c
			return c, nil
		}
	}
	return api.Credential{}, api.NotFound("there is no credential "+id, "")
}

// Agent, Key and Revoked are what identity asks of the registry.
func (g *memory) Agent(id string) (decision.Agent, bool) {
	return decision.Agent{AgentBody: evidence.AgentBody{Agent: id}}, true
}

func (g *memory) Key(thumb string) (decision.Credential, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	public, ok := g.public[thumb]
	return decision.Credential{CredentialBody: evidence.CredentialBody{
		ID: "key_1", Agent: g.keys[thumb].Agent, Thumbprint: thumb, PublicKey: public, NotAfter: time.Now().Add(time.Hour).UnixMicro(),
	}}, ok
}

func (g *memory) Revoked(string) bool { return false }

func (g *memory) IssueToken(_ context.Context, r api.TokenRequest) (api.Token, error) {
	a, err := g.asserted.Verify(r.Assertion, g, time.Now())
	if err != nil {
		return api.Token{}, api.Unauthorized("the assertion is not valid", "enroll the key: exhibit enroll")
	}
	token := strings.Join([]string{"token", a.Agent, r.Ticket, r.OnBehalfOf}, "|")
	return api.Token{AccessToken: token, TokenType: "Bearer", ExpiresIn: 900, ID: "gw1.1.9"}, nil
}

func (g *memory) AddGrant(_ context.Context, n api.NewGrant, by evidence.By) (api.Grant, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.Role == "emperor" {
		return api.Grant{}, api.Invalid("no policy has a role emperor", "exhibit policy show")
	}
	gr := api.Grant{
		ID: fmt.Sprintf("gw1.1.%d", 20+len(g.grants)), Agent: n.Agent, Role: n.Role, Resource: n.Resource,
		Expires: n.Expires, Ticket: n.Ticket, Status: "active", Created: g.change(by, n.Reason),
	}
	g.grants = append(g.grants, gr)
	return gr, nil
}

func (g *memory) Grants(context.Context, string) ([]api.Grant, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]api.Grant(nil), g.grants...), nil
}

func (g *memory) RevokeGrant(_ context.Context, id, reason string, by evidence.By) (api.Grant, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.grants {
		if gr := &g.grants[i]; gr.ID == id {
			c := g.change(by, reason)
			gr.Status, gr.Removed = "removed", &c
			return *gr, nil
		}
	}
	return api.Grant{}, api.NotFound("there is no grant "+id, "exhibit grant list shows all")
}

const hostile = "=1+1\x1b]0;owned\x07\u202e\u009b31m"

func (g *memory) Who(_ context.Context, resource string, _ api.Range, _ evidence.By) (api.Table, error) {
	t := api.Table{Name: "who", Columns: []string{"agent", "sessions"}}
	switch resource {
	case "orders":
		t.Rows = [][]string{{"reporter", "3"}, {"migrator-with-a-name", "12"}}
		t.More = true
	case "hostile":
		t.Rows = [][]string{{hostile, "1"}}
	}
	return t, nil
}

func (g *memory) Allowed(_ context.Context, agent string, at api.Moment, _ evidence.By) (api.Table, error) {
	return api.Table{Name: "allowed", Columns: []string{"agent", "at"}, Rows: [][]string{{agent, at.String()}}}, nil
}

func (g *memory) Did(_ context.Context, q api.Did, _ evidence.By) (api.Table, error) {
	return api.Table{
		Name: "did", Columns: []string{"session", "agent", "from", "to", "limit", "verbs", "outcomes"},
		Rows: [][]string{{q.Session, q.Agent, q.Range.From.String(), q.Range.To.String(), strconv.Itoa(q.Range.Limit),
			strings.Join(q.Verbs, " "), strings.Join(q.Outcomes, " ")}},
	}, nil
}

// Recording implements api.Questions.
func (g *memory) Recording(_ context.Context, command evidence.Position, _ evidence.By, w io.Writer) (api.Recording, error) {
	_, err := io.WriteString(w, "{\"version\":2}\n")
	return api.Recording{Command: command.String(), Pieces: 1, Left: 2048}, err
}

func (g *memory) Transcript(_ context.Context, q api.Did, _ evidence.By, tell func(api.Entry) error) (api.Transcript, error) {
	for _, e := range course(q.Agent == "hostile") {
		if err := tell(e); err != nil {
			return api.Transcript{}, err
		}
	}
	return api.Transcript{More: q.Range.Limit == 2, Stopped: q.Range.Limit == 3}, nil
}

func (g *memory) Explain(_ context.Context, q api.Explain, _ evidence.By) (api.Explanation, error) {
	e := api.Explanation{
		Effect: "allow", Verb: "read", Parse: "full", Text: "SELECT * FROM customers", Policy: "abc",
		Checks: []evidence.Check{{Action: "postgres:select", Object: "public.customers"}}, Rules: []string{"reader"}, Grants: []string{"gw1.1.20"},
	}
	if strings.Contains(q.Statement, "delete") {
		e.Effect, e.Reason, e.Rules, e.Grants = "deny", "nothing permits it", nil, nil
	}
	return e, nil
}

func (g *memory) ExplainDecision(_ context.Context, at evidence.Position, _ evidence.By) (api.Explanation, error) {
	e := api.Explanation{Position: at.String(), Time: noon, Agent: "reporter", Resource: "orders", Effect: "deny", Reason: "no rule lets it",
		Checks: []evidence.Check{{Action: "postgres:insert", Object: "public.orders"}}, Roles: []string{"reader"}, Answers: []api.Answered{{
			Check: evidence.Check{Action: "postgres:insert", Object: "public.orders"}, Effect: "deny",
			Missed: []api.RuleSaid{{ID: "writer", File: "roles.cedar", Line: 31, Description: "Changes data, for a ticket."}}}}}
	if at.Seq == 666 {
		e.Differs = `{"effect":"allow"}`
	}
	return e, nil
}

// Readiness has something to do only before 2027.
func (g *memory) Readiness(_ context.Context, q api.ReadinessQuery, _ evidence.By) (api.ReadinessReport, error) {
	r := api.ReadinessReport{
		Ready: true, From: noon, Position: "gw1.1.9", Time: noon, Allowed: 7, Refused: 2, Tests: []*workpaper.Test{},
		Concerns: []workpaper.Concern{{Kind: workpaper.ConcernExpiring, Subject: "gw1.1.9", Criteria: []string{"CC6.3"}, Text: "grant gw1.1.9 ends within " + q.Soon.String()}},
		Criteria: []workpaper.Standing{{Criterion: "CC6.1", About: "Access", Pass: 3, NotTested: 1}},
	}
	if q.From.Year() < 2027 {
		r.Ready = false
		r.Concerns = append([]workpaper.Concern{{Kind: workpaper.ConcernAlert, Blocks: true, Subject: "gw1.1.4", Criteria: []string{"CC4.1", "CC7.3"},
			Text: "nobody has said what \x1b[2Jdenials.burst was", Next: "exhibit alert ack gw1.1.4 --as ..."}}, r.Concerns...)
		r.Criteria[0].Fail, r.Criteria[0].Failing = 1, []string{"alert.heard"}
	}
	return r, nil
}

func (g *memory) Suggest(_ context.Context, agent string, _ api.Range, _ evidence.By) (api.Suggestion, error) {
	return api.Suggestion{Agent: agent, Commands: 3, Used: []api.UsedPair{}, Cedar: "permit (...);\n", Diff: "-has\n+used\n",
		Unused: []api.UnusedGrant{{ID: "gw1.1.9", Role: "reader", Resource: "orders", Expires: noon}}}, nil
}

func (g *memory) Policies(context.Context) (api.PolicyHistory, error) {
	by := api.Change{Position: "gw1.1.4", Time: noon, By: evidence.By{Person: alice, Via: "test"}}
	return api.PolicyHistory{
		Changes: []api.PolicyChange{
			{Position: "gw1.1.4", Digest: "0123456789abcdef", Activated: by},
			{Position: "gw1.1.8", Digest: "fedcba9876543210", Activated: by, Proposed: &by, Approved: []api.Change{by}, InForce: true, Request: "gw1.1.6"},
		},
		Open: []api.OpenProposal{{Request: "gw1.1.9", Status: "pending", Digest: "aaaabbbbccccdddd", Proposed: by, Tests: 4, Expires: noon,
			Backtest: &evidence.Backtest{Days: 7, Commands: 100, Differ: 3}}},
	}, nil
}

func (g *memory) PolicyAt(ctx context.Context, ref string) (api.Document, error) {
	if ref == "none" {
		return api.Document{}, api.NotFound("no change of policy is none", "exhibit policy list shows positions and digests")
	}
	return g.Policy(ctx)
}

func (g *memory) ProposePolicy(_ context.Context, p api.NewProposal, _ evidence.By, progress func(api.Progress)) (api.Proposed, error) {
	progress(api.Progress{Stage: "deciding", Done: 1})
	if p.Reason == "bad" {
		return api.Proposed{}, api.Invalid("1 of 2 tests fail", "nothing was proposed", api.Detail{Message: "a.test.yaml:3: a reader reads: it is deny"})
	}
	report := &api.BacktestReport{Days: p.Days, Commands: 100, Differ: 2, Agents: []policy.Differences{{Agent: "bot", Refused: 2,
		Examples: []policy.Difference{{Position: "gw1.1.5", Resource: "orders", Text: "DROP TABLE t", Was: "allow", Would: "deny", Reason: "no rule lets bot"}}}}}
	return api.Proposed{Request: "gw1.1.9", Digest: "aaaabbbbccccdddd", Diff: "+new rule\n", Tests: len(p.Tests), Untested: []string{"reader"}, Backtest: report, Expires: noon}, nil
}

func (g *memory) Backtest(_ context.Context, p api.NewProposal, _ evidence.By, _ func(api.Progress)) (api.BacktestReport, error) {
	return api.BacktestReport{Days: p.Days, Commands: uint64(len(p.Files)), Agents: []policy.Differences{}}, nil
}

func (g *memory) ActivatePolicy(_ context.Context, request string, _ evidence.By) (api.PolicyChange, error) {
	if request != "gw1.1.9" {
		return api.PolicyChange{}, api.Conflict("request "+request+" has ended: it is used", "")
	}
	return api.PolicyChange{Position: "gw1.1.12", Digest: "aaaabbbbccccdddd"}, nil
}

func (g *memory) RollbackPolicy(_ context.Context, change, reason string, _ evidence.By) (api.PolicyChange, error) {
	return api.PolicyChange{Position: "gw1.1.13", Digest: "0123456789abcdef", Rollback: change, Activated: api.Change{Reason: reason}}, nil
}

func (g *memory) LogStatus(context.Context) (api.LogStatus, error) {
	return api.LogStatus{
		Sinks: []api.Sink{
			{Name: "siem", To: "siem.example.com", Delivered: "gw1.1.9"},
			{Name: "lines", To: "/var/log/events.jsonl", Records: 9, Seconds: 61.2, Problem: "no space left on device", Since: noon},
		},
		Origin: "example.com/gw1", Blocks: 7, Published: noon, Position: "gw1.1.9", UnsealedBytes: 120, UnsealedAge: 0.5,
		Quorum: 1, Witnessed: 7, Witnesses: []api.Witness{
			{Name: "one.example", Blocks: 7, Cosigned: noon},
			{Name: "two.example", Blocks: 1, Behind: 6, Problem: "it answers with 500", Since: noon},
		},
		Stamped: 5, StampedAt: noon, Authorities: []api.Authority{
			{URL: "http://tsa.example", Blocks: 5, Behind: 2, Stamped: noon},
			{URL: "http://other.example", Behind: 7, Problem: "it answers another request than this one (nonce)", Since: noon},
		}}, nil
}

func (g *memory) Flush(ctx context.Context) (api.LogStatus, error) { return g.LogStatus(ctx) }

func (g *memory) LogKeys(context.Context) (api.LogKeys, error) {
	by := evidence.By{Person: evidence.Person{ID: "alice@example.com"}}
	from := &api.Change{Position: "gw1.1.9", Time: noon, By: by, Reason: "yearly"}
	return api.LogKeys{Origin: "example.com/gw1", Keys: []api.LogKey{
		{ID: "0a1b2c3d", Key: "example.com/gw1+0a1b2c3d+AYq", Status: "replaced", Blocks: 3, Until: from},
		{ID: "4e5f6071", Key: "example.com/gw1+4e5f6071+ABB", Status: "in force", From: from},
	}}, nil
}

func (g *memory) RotateLogKey(ctx context.Context, _ api.KeyRotation, _ evidence.By) (api.LogKeys, error) {
	return g.LogKeys(ctx)
}

func (g *memory) RevokeLogKey(ctx context.Context, r api.KeyRevocation, _ evidence.By) (api.LogKeys, error) {
	keys, err := g.LogKeys(ctx)
	if r.Key != keys.Keys[0].ID {
		return api.LogKeys{}, api.Conflict("key "+r.Key+" is in force, and a log without a key signs nothing", "put another in its place first: exhibit log rotate-key")
	}
	keys.Keys[0].Status, keys.Keys[0].Revoked = "revoked", &api.Change{Position: "gw1.1.12", Time: noon, Reason: r.Reason}
	return keys, err
}

func (g *memory) Backup(ctx context.Context, _ api.Backup, _ evidence.By) (api.LogStatus, error) {
	return g.LogStatus(ctx)
}

func (g *memory) Fsck(context.Context, []ledger.Checkpoint, func(api.Progress)) (api.FsckReport, error) {
	return api.FsckReport{Blocks: 7, Records: 120, Bytes: 9000, Root: "r", Problems: []api.Finding{{Where: "block 3", Message: "its digest differs"}}}, nil
}

func (g *memory) Config(context.Context) (api.Document, error) {
	return api.Document{Digest: "c1", Files: []evidence.File{{Name: "exhibit.yaml", Text: "gateway: gw1\n"}}}, nil
}

func (g *memory) Policy(context.Context) (api.Document, error) {
	return api.Document{Digest: "p1", Files: []evidence.File{{Name: "a.cedar", Text: "permit (\n\tprincipal);\n"}, {Name: "b.cedar", Text: "forbid\n"}}}, nil
}

func (g *memory) Reload(_ context.Context, dry bool, _ evidence.By) (api.Reload, error) {
	return api.Reload{
		Config: api.Diff{Before: "c1", After: "c1"}, Policy: api.Diff{Before: "p1", After: "p2", Diff: "-old\n+new\n"},
		Applied: !dry, Restart: []string{"listeners"},
	}, nil
}

func (g *memory) CreatePack(_ context.Context, r api.PackRequest, _ evidence.By, w io.Writer, progress func(api.Progress)) (api.Pack, error) {
	if !r.From.Position.IsZero() {
		return api.Pack{}, api.NotFound("there is no record "+r.From.String(), "")
	}
	progress(api.Progress{Stage: "packing blocks", Done: 1, Total: 2})
	if r.Recipient != "" {
		_, err := fmt.Fprintf(w, "a pack of %s for %s", r.Level, r.Recipient)
		return api.Pack{}, err
	}
	if _, err := w.Write([]byte("a pack")); err != nil {
		return api.Pack{}, err
	}
	if r.Purpose == "break" {
		return api.Pack{}, errors.New("block 3 is damaged")
	}
	p := api.Pack{From: "gw1.1.0", To: "gw1.1.9", Records: 10, Blocks: 1, Bytes: 6, Digest: "d", Made: "gw1.1.11"}
	switch {
	case r.Purpose != "interrupted":
	case r.Restart:
		p.Again = "the mark doesn't fit: it is damaged"
	default:
		p.Resumed = 7
	}
	return p, nil
}

func (g *memory) Holds(context.Context) ([]api.Hold, error) {
	by := api.Change{Position: "gw1.1.20", Time: noon, By: evidence.By{Person: evidence.Person{ID: "alice@example.com"}}, Reason: "litigation"}
	lifted := by
	lifted.Reason = "closed"
	return []api.Hold{{ID: "gw1.1.20", Matter: "case 12", Status: "standing", Placed: by}, {ID: "gw1.1.21", Status: "lifted", Placed: by, Lifted: &lifted}}, nil
}

func (g *memory) PlaceHold(ctx context.Context, _ api.NewHold, _ evidence.By) (api.Hold, error) {
	list, err := g.Holds(ctx)
	return list[0], err
}

func (g *memory) LiftHold(ctx context.Context, id, _ string, _ evidence.By) (api.Hold, error) {
	list, err := g.Holds(ctx)
	if id != list[1].ID {
		return api.Hold{}, api.NotFound("hold "+id+" unknown", "")
	}
	return list[1], err
}

func (g *memory) Erase(_ context.Context, e api.Erasure, _ evidence.By) (api.Erased, error) {
	switch {
	case e.Session == "gw1.1.30":
		return api.Erased{}, api.Invalid("session gw1.1.30 is under a legal hold: gw1.1.20, placed by alice@example.com", "")
	case e.Request == "":
		return api.Erased{Session: e.Session, Request: "gw1.1.40"}, nil
	}
	return api.Erased{Session: e.Session, Position: "gw1.1.41"}, nil
}

func (g *memory) PlanDisposal(ctx context.Context) (api.DisposalPlan, error) {
	holds, err := g.Holds(ctx)
	run := api.DisposalRun{First: 100, Last: 299, Blocks: 180, Records: 9000, Bytes: 3 << 20, Control: 19, Kept: 1, Digest: "d"}
	return api.DisposalPlan{DisposalRun: run, Retention: 39_312_000, Before: noon, From: noon.Add(-time.Hour), To: noon, Held: holds[:1]}, err
}

func (g *memory) Dispose(ctx context.Context, d api.Disposal, _ evidence.By) (api.Disposed, error) {
	plan, err := g.PlanDisposal(ctx)
	switch {
	case d.Reason == "held":
		return api.Disposed{}, api.Invalid("what is in blocks 100 to 299 is under a legal hold: gw1.1.20, placed by alice@example.com", "")
	case d.Request == "":
		return api.Disposed{DisposalRun: plan.DisposalRun, Request: "gw1.1.50"}, err
	}
	return api.Disposed{DisposalRun: plan.DisposalRun, Position: "gw1.1.51"}, err
}

func (g *memory) UnsealSample(_ context.Context, r api.UnsealRequest, _ evidence.By, w io.Writer) (api.Unsealed, error) {
	if r.Reader == "break" {
		return api.Unsealed{}, api.Unavailable("the read cannot be recorded, so nothing is opened", "")
	}
	_, err := fmt.Fprintln(w, "an answer to", r.Sample, "for", r.Recipient, r.Records)
	return api.Unsealed{Made: "gw1.2.5", Read: "gw1.2.9", Records: len(r.Records), Blocks: 9}, err
}

func (g *memory) ExportOCSF(_ context.Context, r api.Range, _ evidence.By, w io.Writer, _ func(api.Progress)) (api.Export, error) {
	if !r.To.IsZero() {
		if _, err := io.WriteString(w, `{"class_uid":60`); err != nil {
			return api.Export{}, err
		}
		return api.Export{}, errors.New("the archive cannot be read")
	}
	_, err := io.WriteString(w, "{\"class_uid\":6002}\n{\"class_uid\":0}\n")
	return api.Export{Events: 2, From: "gw1.1.0", To: "gw1.1.1"}, err
}

func (g *memory) Sessions(context.Context) ([]api.Session, error) {
	return []api.Session{{ID: "gw1.1.30", Agent: "reporter", Resource: "orders", Client: "127.0.0.1:50000", Since: noon, Commands: 5}}, nil
}

// Every command says what it is for, and every one that takes arguments or
// needs flags shows an example or is plain from its usage line.
func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if c.HasParent() && c.Parent().HasParent() == false && c.GroupID == "" {
			t.Errorf("%s stands in no group", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&app{out: io.Discard, err: io.Discard}))
}

// JSON that is shown on a terminal holds nothing that the terminal obeys, and
// still means the same.
func TestEscapeHidden(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 漢\n":  "plain é 漢\n",
		"\u009b31m":    `\u009b31m`,
		"\u202eabc":    `\u202eabc`,
		"\U000e0041":   `\udb40\udc41`,
		"a\u00a0b\x7f": `a\u00a0b\u007f`,
	} {
		if got := escapeHidden(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
