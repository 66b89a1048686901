package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/ledger"
)

var update = flag.Bool("update", false, "rewrite golden files")

var alice = evidence.Person{ID: "alice@example.com", Name: "Alice", Email: "alice@example.com"}

// people knows one uid and one e-mail address, both Alice's.
type people struct{ uid uint32 }

func (p people) PersonByUID(uid uint32) (evidence.Person, bool) { return alice, uid == p.uid }

func (p people) PersonByCertificate(emails, _ []string) (evidence.Person, bool) {
	return alice, len(emails) == 1 && emails[0] == alice.Email
}

// gateway answers what a test tells it to and notes what it was asked.
type gateway struct {
	asked  []any
	answer any
	err    error
	pack   []byte
}

func ask[T any](g *gateway, asked ...any) (T, error) {
	g.asked = append(g.asked, asked...)
	out, _ := g.answer.(T)
	return out, g.err
}

func (g *gateway) services() Services {
	return Services{g, g, g, g, g, g, g, g, g, g, g, g, g, g}
}

func (g *gateway) AddAgent(_ context.Context, a NewAgent, by evidence.By) (Agent, error) {
	return ask[Agent](g, a, by)
}
func (g *gateway) Agents(context.Context) ([]Agent, error) { return ask[[]Agent](g) }
func (g *gateway) RetireAgent(_ context.Context, id, reason string, by evidence.By) (Agent, error) {
	return ask[Agent](g, id, reason, by)
}
func (g *gateway) ChangeOwner(_ context.Context, id string, n NewOwner, by evidence.By) (Agent, error) {
	return ask[Agent](g, id, n, by)
}
func (g *gateway) Import(_ context.Context, n NewImport, by evidence.By) (Import, error) {
	return ask[Import](g, n, by)
}
func (g *gateway) Reconcile(_ context.Context, resource string, by evidence.By) (Reconciliation, error) {
	return ask[Reconciliation](g, resource, by)
}
func (g *gateway) ImportPrivileges(_ context.Context, resource, ticket string, by evidence.By) (Import, error) {
	return ask[Import](g, resource, ticket, by)
}
func (g *gateway) EnrollKey(_ context.Context, k NewKey, by evidence.By) (Credential, error) {
	return ask[Credential](g, k, by)
}
func (g *gateway) Credentials(_ context.Context, agent string) ([]Credential, error) {
	return ask[[]Credential](g, agent)
}
func (g *gateway) RevokeCredential(_ context.Context, id, reason string, by evidence.By) (Credential, error) {
	return ask[Credential](g, id, reason, by)
}
func (g *gateway) IssueToken(_ context.Context, r TokenRequest) (Token, error) {
	return ask[Token](g, r)
}
func (g *gateway) AddGrant(_ context.Context, n NewGrant, by evidence.By) (Grant, error) {
	return ask[Grant](g, n, by)
}
func (g *gateway) Grants(_ context.Context, agent string) ([]Grant, error) {
	return ask[[]Grant](g, agent)
}
func (g *gateway) RevokeGrant(_ context.Context, id, reason string, by evidence.By) (Grant, error) {
	return ask[Grant](g, id, reason, by)
}
func (g *gateway) Who(_ context.Context, resource string, r Range, by evidence.By) (Table, error) {
	return ask[Table](g, resource, r, by)
}
func (g *gateway) Allowed(_ context.Context, agent string, at Moment, by evidence.By) (Table, error) {
	return ask[Table](g, agent, at, by)
}
func (g *gateway) Did(_ context.Context, q Did, by evidence.By) (Table, error) {
	return ask[Table](g, q, by)
}
func (g *gateway) Transcript(ctx context.Context, q Did, by evidence.By, tell func(Entry) error) (Transcript, error) {
	if e, ok := g.answer.(Entry); ok {
		if err := tell(e); err != nil {
			return Transcript{}, err
		}
	}
	if left, ok := g.answer.(chan struct{}); ok {
		if err := tell(Entry{}); err != nil {
			return Transcript{}, err
		}
		<-ctx.Done()
		close(left)
		return Transcript{}, ctx.Err()
	}
	_, err := ask[Table](g, q, by)
	return Transcript{More: true}, err
}
func (g *gateway) Explain(_ context.Context, q Explain, by evidence.By) (Explanation, error) {
	return ask[Explanation](g, q, by)
}
func (g *gateway) ExplainDecision(_ context.Context, at evidence.Position, by evidence.By) (Explanation, error) {
	return ask[Explanation](g, at, by)
}
func (g *gateway) Suggest(_ context.Context, agent string, r Range, by evidence.By) (Suggestion, error) {
	return ask[Suggestion](g, agent, r, by)
}
func (g *gateway) Policies(context.Context) (PolicyHistory, error) { return ask[PolicyHistory](g) }
func (g *gateway) PolicyAt(_ context.Context, ref string) (Document, error) {
	return ask[Document](g, ref)
}
func (g *gateway) ProposePolicy(_ context.Context, p NewProposal, by evidence.By, progress func(Progress)) (Proposed, error) {
	progress(Progress{Stage: "deciding", Done: 1})
	return ask[Proposed](g, p, by)
}
func (g *gateway) Backtest(_ context.Context, p NewProposal, by evidence.By, progress func(Progress)) (BacktestReport, error) {
	progress(Progress{Stage: "deciding", Done: 1})
	return ask[BacktestReport](g, p, by)
}
func (g *gateway) ActivatePolicy(_ context.Context, request string, by evidence.By) (PolicyChange, error) {
	return ask[PolicyChange](g, request, by)
}
func (g *gateway) RollbackPolicy(_ context.Context, change, reason string, by evidence.By) (PolicyChange, error) {
	return ask[PolicyChange](g, change, reason, by)
}
func (g *gateway) LogStatus(context.Context) (LogStatus, error) { return ask[LogStatus](g) }
func (g *gateway) Flush(context.Context) (LogStatus, error)     { return ask[LogStatus](g) }
func (g *gateway) LogKeys(context.Context) (LogKeys, error)     { return ask[LogKeys](g) }
func (g *gateway) RotateLogKey(_ context.Context, r KeyRotation, by evidence.By) (LogKeys, error) {
	return ask[LogKeys](g, r, by)
}
func (g *gateway) RevokeLogKey(_ context.Context, r KeyRevocation, by evidence.By) (LogKeys, error) {
	return ask[LogKeys](g, r, by)
}
func (g *gateway) Holds(context.Context) ([]Hold, error) { return ask[[]Hold](g) }
func (g *gateway) PlaceHold(_ context.Context, n NewHold, by evidence.By) (Hold, error) {
	return ask[Hold](g, n, by)
}
func (g *gateway) LiftHold(_ context.Context, id, reason string, by evidence.By) (Hold, error) {
	return ask[Hold](g, id, reason, by)
}
func (g *gateway) Erase(_ context.Context, e Erasure, by evidence.By) (Erased, error) {
	return ask[Erased](g, e, by)
}
func (g *gateway) PlanDisposal(context.Context) (DisposalPlan, error) { return ask[DisposalPlan](g) }
func (g *gateway) Dispose(_ context.Context, d Disposal, by evidence.By) (Disposed, error) {
	return ask[Disposed](g, d, by)
}
func (g *gateway) Backup(_ context.Context, b Backup, by evidence.By) (LogStatus, error) {
	return ask[LogStatus](g, b, by)
}
func (g *gateway) Fsck(_ context.Context, known []ledger.Checkpoint, progress func(Progress)) (FsckReport, error) {
	progress(Progress{Stage: "blocks", Done: 1, Total: 2})
	return ask[FsckReport](g, known)
}
func (g *gateway) Config(context.Context) (Document, error) { return ask[Document](g) }
func (g *gateway) Policy(context.Context) (Document, error) { return ask[Document](g) }
func (g *gateway) Reload(_ context.Context, dry bool, by evidence.By) (Reload, error) {
	return ask[Reload](g, dry, by)
}
func (g *gateway) Recording(_ context.Context, command evidence.Position, by evidence.By, w io.Writer) (Recording, error) {
	if _, err := io.WriteString(w, "cast"); err != nil {
		return Recording{}, err
	}
	return ask[Recording](g, command, by)
}
func (g *gateway) ExportOCSF(_ context.Context, r Range, by evidence.By, w io.Writer, progress func(Progress)) (Export, error) {
	progress(Progress{Stage: "exporting", Done: 1})
	if _, err := io.WriteString(w, "{\"class_uid\":0}\n"); err != nil {
		return Export{}, err
	}
	return ask[Export](g, r, by)
}

func (g *gateway) CreatePack(_ context.Context, r PackRequest, by evidence.By, w io.Writer, progress func(Progress)) (Pack, error) {
	progress(Progress{Stage: "select", Done: 1})
	if _, err := w.Write(g.pack); err != nil {
		return Pack{}, err
	}
	return ask[Pack](g, r, by)
}
func (g *gateway) UnsealSample(_ context.Context, r UnsealRequest, by evidence.By, w io.Writer) (Unsealed, error) {
	if _, err := w.Write(g.pack); err != nil {
		return Unsealed{}, err
	}
	return ask[Unsealed](g, r, by)
}
func (g *gateway) Alerts(_ context.Context, r Range, open bool, _ evidence.By) ([]Alert, error) {
	return ask[[]Alert](g, r, open)
}
func (g *gateway) AcknowledgeAlert(_ context.Context, id string, n NewAcknowledgement, _ evidence.By) (Alert, error) {
	return ask[Alert](g, id, n)
}
func (g *gateway) Readiness(_ context.Context, q ReadinessQuery, _ evidence.By) (ReadinessReport, error) {
	return ask[ReadinessReport](g, q)
}
func (g *gateway) Sessions(context.Context) ([]Session, error) { return ask[[]Session](g) }
func (g *gateway) Kill(_ context.Context, k KillRequest, by evidence.By) (Killed, error) {
	return ask[Killed](g, k, by)
}
func (g *gateway) RequestGrant(_ context.Context, n NewGrantRequest, by evidence.By) (Approval, error) {
	return ask[Approval](g, n, by)
}
func (g *gateway) Approvals(_ context.Context, q ApprovalQuery) ([]Approval, error) {
	return ask[[]Approval](g, q)
}
func (g *gateway) Approval(_ context.Context, id string, by evidence.By) (Approval, error) {
	return ask[Approval](g, id, by)
}
func (g *gateway) AnswerApproval(_ context.Context, id, what string, n Answer, by evidence.By) (Approval, error) {
	return ask[Approval](g, id, what, n, by)
}

// start serves g on a real unix socket until the test ends.
func start(t *testing.T, g *gateway, p People) (socket string, metrics *prometheus.Registry) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenUnix(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	metrics = prometheus.NewRegistry()
	serve(t, l, g, p, metrics)
	return socket, metrics
}

func serve(t *testing.T, l net.Listener, g *gateway, p People, metrics prometheus.Registerer) {
	t.Helper()
	h, err := New(Options{
		Services: g.services(), People: p, ConfigFile: "/etc/exhibit/exhibit.yaml", Registerer: metrics,
		Version: Version{Version: "v1.2.3", Gateway: "gw1", Origin: "example.com/gw1"},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
}

func me() people { return people{uid: uint32(os.Getuid())} }

// do posts without the client's help.
func do(t *testing.T, c *Client, path, body string, h http.Header) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

func wantProblem(t *testing.T, err error, status int, message, hint string) {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a problem", err)
	}
	if p.Status != status || !strings.Contains(p.Error(), message) || !strings.Contains(p.Hint, hint) {
		t.Errorf("got %d %q, hint %q; want %d with %q, hint %q", p.Status, p.Error(), p.Hint, status, message, hint)
	}
}

// Every change carries the person whose process sent it.
func TestChangesCarryThePerson(t *testing.T) {
	g := &gateway{}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	ctx := t.Context()
	_, via, _ := identifySelf(t)
	by := evidence.By{Person: alice, Via: via}
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	key := NewKey{Agent: "a", PublicKey: identity.FormatPublicKey(make([]byte, 32))}
	grant := NewGrant{Agent: "a", Role: "reader", Resource: "orders", Expires: expires, Ticket: "T-1"}
	agent := NewAgent{ID: "spiffe://example.com/a", Purpose: "reports", Owner: alice.ID}
	known := []ledger.Checkpoint{{Origin: "example.com/gw1", Size: 7, Root: evidence.Hash{1}, Extensions: []string{}}}
	wanted := NewGrantRequest{Agent: "a", Role: "reader", Resource: "orders", Starts: expires.Add(-time.Minute), Expires: expires, Renews: "gw1.1.3", Ticket: "T-1"}
	explain := Explain{Agent: "a", Resource: "orders", Statement: "select 1"}
	proposal := NewProposal{Files: []evidence.File{{Name: "a.cedar", Text: "permit"}}, Tests: []evidence.File{{Name: "a.test.yaml", Text: "tests: []"}}, Ticket: "T-1", Reason: "why", Expires: expires, Days: 7}
	followed := Did{Session: "gw1.1.9", Range: Range{Limit: 5}, Verbs: []string{"read", "write"}, Outcomes: []string{"denied"}, Follow: true}
	for _, test := range []struct {
		name string
		call func() error
		want []any
	}{
		{"add agent", func() error { _, err := c.AddAgent(ctx, agent); return err }, []any{agent, by}},
		{"retire agent", func() error { _, err := c.RetireAgent(ctx, "spiffe://example.com/a", "gone"); return err }, []any{"spiffe://example.com/a", "gone", by}},
		{"enroll", func() error { _, err := c.EnrollKey(ctx, key); return err }, []any{key, by}},
		{"revoke credential", func() error { _, err := c.RevokeCredential(ctx, "gw1.1.2", "lost"); return err }, []any{"gw1.1.2", "lost", by}},
		{"grant", func() error { _, err := c.AddGrant(ctx, grant); return err }, []any{grant, by}},
		{"revoke grant", func() error { _, err := c.RevokeGrant(ctx, "gw1.1.3", "done"); return err }, []any{"gw1.1.3", "done", by}},
		{"rotate the log's key", func() error {
			_, err := c.RotateLogKey(ctx, KeyRotation{Prepare: true, Reason: "yearly"})
			return err
		}, []any{KeyRotation{Prepare: true, Reason: "yearly"}, by}},
		{"revoke a key of the log", func() error {
			_, err := c.RevokeLogKey(ctx, KeyRevocation{Key: "0a1b2c3d", Reason: "copied"})
			return err
		}, []any{KeyRevocation{Key: "0a1b2c3d", Reason: "copied"}, by}},
		{"backup", func() error { _, err := c.Backup(ctx, Backup{Recipients: []string{"age1x"}}); return err }, []any{Backup{Recipients: []string{"age1x"}}, by}},
		{"fsck", func() error { _, err := c.Fsck(ctx, known, nil); return err }, []any{known}},
		{"request grant", func() error { _, err := c.RequestGrant(ctx, wanted); return err }, []any{wanted, by}},
		{"approvals", func() error { _, err := c.Approvals(ctx, ApprovalQuery{Kind: "grant", All: true}); return err }, []any{ApprovalQuery{Kind: "grant", All: true}}},
		{"approval", func() error { _, err := c.Approval(ctx, "gw1.1.4"); return err }, []any{"gw1.1.4", by}},
		{"approve", func() error {
			_, err := c.AnswerApproval(ctx, "gw1.1.4", evidence.Approved, Answer{Expires: expires, Digest: "d"})
			return err
		}, []any{"gw1.1.4", evidence.Approved, Answer{Expires: expires, Digest: "d"}, by}},
		{"deny", func() error {
			_, err := c.AnswerApproval(ctx, "gw1.1.4", evidence.Refused, Answer{Reason: "no"})
			return err
		}, []any{"gw1.1.4", evidence.Refused, Answer{Reason: "no"}, by}},
		{"withdraw", func() error { _, err := c.AnswerApproval(ctx, "gw1.1.4", evidence.Withdrawn, Answer{}); return err }, []any{"gw1.1.4", evidence.Withdrawn, Answer{}, by}},
		{"kill", func() error { _, err := c.Kill(ctx, KillRequest{Agent: "a", Reason: "loops"}); return err }, []any{KillRequest{Agent: "a", Reason: "loops"}, by}},
		{"reload", func() error { _, err := c.Reload(ctx, true); return err }, []any{true, by}},
		{"readiness", func() error { _, err := c.Readiness(ctx, "2026-01-01", "30"); return err },
			[]any{ReadinessQuery{From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Soon: 30 * 24 * time.Hour}}},
		{"who", func() error { _, err := c.Who(ctx, "orders", Range{Limit: 5}); return err }, []any{"orders", Range{Limit: 5}, by}},
		{"allowed", func() error { _, err := c.Allowed(ctx, "a", Moment{Time: expires}); return err }, []any{"a", Moment{Time: expires}, by}},
		{"did", func() error {
			_, err := c.Did(ctx, Did{Session: "gw1.1.9", Agent: "a", Range: Range{From: Moment{Position: evidence.Position{Gateway: "gw1", Boot: 1, Seq: 4}}}})
			return err
		}, []any{Did{Session: "gw1.1.9", Agent: "a", Range: Range{From: Moment{Position: evidence.Position{Gateway: "gw1", Boot: 1, Seq: 4}}, Limit: 1000}}, by}},
		{"transcript", func() error { return transcript(ctx, c, followed) }, []any{followed, by}},
		{"explain", func() error { _, err := c.Explain(ctx, explain); return err }, []any{explain, by}},
		{"explain decision", func() error { _, err := c.ExplainDecision(ctx, "gw1.1.4"); return err }, []any{evidence.Position{Gateway: "gw1", Boot: 1, Seq: 4}, by}},
		{"recording", func() error { _, err := c.Recording(ctx, "gw1.1.4", io.Discard); return err }, []any{evidence.Position{Gateway: "gw1", Boot: 1, Seq: 4}, by}},
		{"suggest", func() error { _, err := c.Suggest(ctx, "a", Range{From: Moment{Time: expires}}); return err }, []any{"a", Range{From: Moment{Time: expires}}, by}},
		{"propose", func() error { _, err := c.ProposePolicy(ctx, proposal, nil); return err }, []any{proposal, by}},
		{"backtest", func() error { _, err := c.Backtest(ctx, proposal, nil); return err }, []any{proposal, by}},
		{"activate", func() error { _, err := c.ActivatePolicy(ctx, "gw1.1.5"); return err }, []any{"gw1.1.5", by}},
		{"roll back", func() error { _, err := c.RollbackPolicy(ctx, "gw1.1.6", "bad"); return err }, []any{"gw1.1.6", "bad", by}},
		{"policy", func() error { _, err := c.PolicyAt(ctx, "abc/def"); return err }, []any{"abc/def"}},
		{"pack", func() error {
			_, err := c.CreatePack(ctx, PackRequest{From: Moment{Time: expires}, To: Moment{Time: expires}, Purpose: "audit"}, io.Discard, nil)
			return err
		}, []any{PackRequest{From: Moment{Time: expires}, To: Moment{Time: expires}, Purpose: "audit"}, by}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g.asked = nil
			if err := test.call(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(g.asked, test.want) {
				t.Errorf("asked %+v, want %+v", g.asked, test.want)
			}
		})
	}
}

func transcript(ctx context.Context, c *Client, q Did) error {
	_, err := c.Transcript(ctx, q, func(Entry) error { return nil })
	return err
}

func identifySelf(t *testing.T) (evidence.Person, string, error) {
	t.Helper()
	ctx := context.WithValue(t.Context(), connKey{}, peer{uid: uint32(os.Getuid()), unix: true})
	by, err := identify(ctx, nil, me(), "")
	return by.Person, by.Via, err
}

// What can't be meant is refused before anyone is asked.
func TestAnswersHaveAShape(t *testing.T) {
	g := &gateway{}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	ctx := t.Context()
	_, err := c.AnswerApproval(ctx, "gw1.1.4", evidence.Refused, Answer{})
	wantProblem(t, err, 422, "needs a reason", "")
	_, err = c.AnswerApproval(ctx, "gw1.1.4", evidence.Withdrawn, Answer{Expires: time.Now()})
	wantProblem(t, err, 422, "only what is approved has an end", "")
	_, err = c.AnswerApproval(ctx, "gw1.1.4", "shrug", Answer{})
	wantProblem(t, err, 404, "", "")
	_, err = c.RequestGrant(ctx, NewGrantRequest{Agent: "a", Role: "r", Resource: "o", Expires: time.Now().Add(-time.Minute)})
	wantProblem(t, err, 422, "expired already", "")
	for _, k := range []KillRequest{{Reason: "x"}, {Agent: "a", Session: "gw1.1.4", Reason: "x"}} {
		_, err = c.Kill(ctx, k)
		wantProblem(t, err, 422, "one of session and agent", "")
	}
	_, err = c.Kill(ctx, KillRequest{Agent: "a"})
	wantProblem(t, err, 422, "body.reason", "")
	if len(g.asked) != 0 {
		t.Errorf("the service was asked %v", g.asked)
	}
}

// Reading returns what the service says.
func TestReading(t *testing.T) {
	g := &gateway{}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	now := time.Now().UTC().Truncate(time.Microsecond)
	agents := []Agent{
		{ID: "a", Purpose: "p", Owner: alice, Status: "active", Created: Change{Position: "gw1.1.4", Time: now, By: evidence.By{Person: alice, Via: "x"}}},
		{ID: "b/c d", Purpose: "p", Owner: alice, Status: "retired", Created: Change{Time: now}, Disabled: &Change{Time: now, Reason: "gone"}},
	}
	g.answer = agents
	if got, err := c.Agents(t.Context()); err != nil || !reflect.DeepEqual(got, agents) {
		t.Errorf("agents: %+v, %v", got, err)
	}
	if got, err := c.Agent(t.Context(), "b/c d"); err != nil || !reflect.DeepEqual(got, agents[1]) {
		t.Errorf("agent: %+v, %v", got, err)
	}
	_, err := c.Agent(t.Context(), "x")
	wantProblem(t, err, 404, `no agent "x"`, "agent list")

	status := LogStatus{Origin: "example.com/gw1", Blocks: 7, Published: now, Quorum: 1, Witnesses: []Witness{{Name: "witness.example.org", Blocks: 6, Behind: 1, Since: now}},
		Sinks:   []Sink{{Name: "siem", To: "siem.example.com", Delivered: "gw1.1.9", Records: 3, Seconds: 2.5, Problem: "it answers 503", Since: now}},
		Stamped: 6, StampedAt: now, Authorities: []Authority{{URL: "http://tsa.example.org", Blocks: 6, Behind: 1, Stamped: now}}}
	g.answer = status
	if got, err := c.LogStatus(t.Context()); err != nil || !reflect.DeepEqual(got, status) {
		t.Errorf("status: %+v, %v", got, err)
	}
	if got, err := c.Flush(t.Context()); err != nil || !reflect.DeepEqual(got, status) {
		t.Errorf("flush: %+v, %v", got, err)
	}
	g.answer = nil
	if got, err := c.Sessions(t.Context()); err != nil || got == nil || len(got) != 0 {
		t.Errorf("sessions: %#v, %v", got, err)
	}
	looked := Alert{ID: "gw1.1.9", Time: now, Rule: "denials.burst", Severity: "medium", Text: "look",
		Acknowledged: &Acknowledgement{Disposition: "incident", Incident: "INC-1", Change: Change{Position: "gw1.1.10", Time: now}}}
	g.answer = []Alert{looked}
	if got, err := c.Alerts(t.Context(), Range{Limit: 5}, true); err != nil || !reflect.DeepEqual(got, g.answer) {
		t.Errorf("alerts: %+v, %v", got, err)
	}
	g.answer = looked
	if got, err := c.AcknowledgeAlert(t.Context(), "gw1.1.9", NewAcknowledgement{Disposition: "incident", Incident: "INC-1"}); err != nil || !reflect.DeepEqual(got, looked) {
		t.Errorf("acknowledged: %+v, %v", got, err)
	}
	if _, err := c.AcknowledgeAlert(t.Context(), "gw1.1.9", NewAcknowledgement{Disposition: "whatever"}); err == nil {
		t.Error("a disposition that there isn't is taken")
	}
	table := Table{Name: "who", Columns: []string{"agent"}, Rows: [][]string{{"a"}}}
	g.answer = table
	if got, err := c.Who(t.Context(), "orders", Range{}); err != nil || !reflect.DeepEqual(got, table) {
		t.Errorf("who: %+v, %v", got, err)
	}
}

// A uid that no person has is refused everything but a token, and told where
// to change that.
func TestUnknownUID(t *testing.T) {
	g := &gateway{answer: Token{AccessToken: "t", TokenType: "Bearer", ExpiresIn: 60}}
	socket, _ := start(t, g, people{uid: uint32(os.Getuid()) + 1})
	c := NewUnixClient(socket)
	defer c.Close()
	_, err := c.Agents(t.Context())
	wantProblem(t, err, 403, "is nobody here", "in /etc/exhibit/exhibit.yaml, add")
	_, err = c.CreatePack(t.Context(), PackRequest{}, io.Discard, nil)
	wantProblem(t, err, 403, "is nobody here", "uids")
	if len(g.asked) != 0 {
		t.Errorf("the service was asked %v", g.asked)
	}
	if _, err := c.IssueToken(t.Context(), TokenRequest{Assertion: "x"}); err != nil {
		t.Errorf("a token: %v", err)
	}
	if v, err := c.Version(t.Context()); err != nil || v.Gateway != "gw1" {
		t.Errorf("version: %v, %v", v, err)
	}
}

// The token endpoint speaks OAuth, tells strangers nothing of a failure, and
// passes on who asked.
func TestToken(t *testing.T) {
	g := &gateway{answer: Token{AccessToken: "secret", TokenType: "Bearer", ExpiresIn: 900, ID: "gw1.1.7"}}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	tok, err := c.IssueToken(t.Context(), TokenRequest{Assertion: "a.b.c", Ticket: "T-1", OnBehalfOf: "bob"})
	if err != nil || tok.AccessToken != "secret" {
		t.Fatalf("%+v, %v", tok, err)
	}
	r, _ := g.asked[0].(TokenRequest)
	if r.Assertion != "a.b.c" || r.Ticket != "T-1" || r.OnBehalfOf != "bob" || !strings.HasPrefix(r.Client, "unix uid=") {
		t.Errorf("asked %+v", r)
	}

	post := func(form string) (int, http.Header, map[string]any) {
		t.Helper()
		status, header, b := do(t, c, "/v1/token", form, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return status, header, m
	}
	good := url.Values{"grant_type": {grantType}, "client_assertion_type": {assertionType}, "client_assertion": {"x"}}.Encode()
	if _, header, m := post(good); header.Get("Cache-Control") != "no-store" || m["token_type"] != "Bearer" || m["expires_in"] != 900.0 {
		t.Errorf("%v %v", header, m)
	}
	for form, code := range map[string]string{
		"grant_type=password":                         "unsupported_grant_type",
		"grant_type=" + grantType:                     "invalid_request",
		good + "&client_assertion=y":                  "invalid_request",
		"grant_type=%zz":                              "invalid_request",
		good + "&ticket=" + strings.Repeat("x", 1001): "invalid_request",
	} {
		if status, header, m := post(form); status != 400 || m["error"] != code || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%.40q: %d %v", form, status, m)
		}
	}
	g.err = Unauthorized("the assertion is not valid", "")
	if status, _, m := post(good); status != 401 || m["error"] != "invalid_client" {
		t.Errorf("%d %v", status, m)
	}
	g.err = errors.New("journal: disk /dev/sdb is broken")
	if status, _, m := post(good); status != 500 || strings.Contains(m["detail"].(string), "sdb") {
		t.Errorf("a stranger is told %v", m)
	}
}

// What is wrong with a request is a problem that names the field and doesn't
// echo the value.
func TestProblems(t *testing.T) {
	g := &gateway{}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	_, err := c.AddAgent(t.Context(), NewAgent{ID: "no spaces please", Owner: "x"})
	wantProblem(t, err, 422, "body.id", "")
	wantProblem(t, err, 422, "body.purpose", "")
	if strings.Contains(err.Error(), "no spaces please") {
		t.Errorf("the value is echoed: %v", err)
	}
	_, err = c.EnrollKey(t.Context(), NewKey{Agent: "a", PublicKey: strings.Repeat("!", 43)})
	wantProblem(t, err, 422, "Ed25519", "exhibit enroll")
	_, err = c.AddGrant(t.Context(), NewGrant{Agent: "a", Role: "r", Resource: "o", Expires: time.Now().Add(-time.Hour)})
	wantProblem(t, err, 422, "expired", "")
	_, err = call[Table](t.Context(), c, "GET", "/v1/did?from=yesterday", nil)
	wantProblem(t, err, 422, "not a moment", "2026-11-22")
	_, err = call[Table](t.Context(), c, "GET", "/v1/did?form=2026-01-01", nil)
	wantProblem(t, err, 422, "form", "")
	_, err = call[Agent](t.Context(), c, "POST", "/v1/agents", map[string]string{"id": "a", "purpose": "p", "owner": "o", "admin": "yes"})
	wantProblem(t, err, 422, "body.admin", "")
	for contentType, want := range map[string]int{"text/plain": 415, "application/x-www-form-urlencoded": 415, "application/json": 413} {
		body := `{"id":"a"}`
		if want == 413 {
			body = strings.Repeat(" ", maxBody+1)
		}
		if status, _, b := do(t, c, "/v1/agents", body, http.Header{"Content-Type": {contentType}}); status != want {
			t.Errorf("%s: %d %s", contentType, status, b)
		}
	}
	if len(g.asked) != 0 {
		t.Errorf("the service was asked %v", g.asked)
	}
	g.err = Invalid("the new configuration has errors", "nothing was changed", Detail{"exhibit.yaml:3:1", "unknown key", "did you mean data?"})
	_, err = c.Reload(t.Context(), false)
	wantProblem(t, err, 422, "exhibit.yaml:3:1: unknown key\n    hint: did you mean data?", "nothing was changed")
	g.err = errors.New("reading the archive: input/output error")
	_, err = c.Config(t.Context())
	wantProblem(t, err, 500, "input/output error", "")
}

// A pack arrives whole with its result, or the client is told that it didn't.
func TestStreams(t *testing.T) {
	g := &gateway{pack: make([]byte, 3*maxData+7)}
	if _, err := rand.Read(g.pack); err != nil {
		t.Fatal(err)
	}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	g.answer = Pack{Records: 9, Digest: "d"}
	var got bytes.Buffer
	var seen []Progress
	p, err := c.CreatePack(t.Context(), PackRequest{}, &got, func(p Progress) { seen = append(seen, p) })
	if err != nil || p.Records != 9 || !bytes.Equal(got.Bytes(), g.pack) || len(seen) != 1 {
		t.Errorf("%+v, %v, %d bytes, %v", p, err, got.Len(), seen)
	}
	g.err = errors.New("block 7 is damaged")
	_, err = c.CreatePack(t.Context(), PackRequest{}, io.Discard, nil)
	wantProblem(t, err, 500, "block 7 is damaged", "")

	g.err, g.answer = nil, FsckReport{Blocks: 3, Problems: []Finding{{"block 1", "bad digest"}}}
	report, err := c.Fsck(t.Context(), nil, nil)
	if err != nil || report.Blocks != 3 || len(report.Problems) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	entry := Entry{Position: "gw1.1.9", Session: "gw1.1.2", Command: &Command{Text: "SELECT ?", Decision: evidence.Allow, Outcome: "ok", Rows: 3}}
	g.answer = entry
	var told []Entry
	transcribed, err := c.Transcript(t.Context(), Did{Session: "gw1.1.2"}, func(e Entry) error { told = append(told, e); return nil })
	if err != nil || !transcribed.More || !reflect.DeepEqual(told, []Entry{entry}) {
		t.Errorf("%+v, %v, %+v", transcribed, err, told)
	}
	enough := errors.New("enough")
	if _, err := c.Transcript(t.Context(), Did{}, func(Entry) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a transcript that nobody wants more of: %v", err)
	}
	wantProblem(t, transcript(t.Context(), c, Did{Session: "nonsense"}), 422, "not a position", "exhibit sessions")
	wantProblem(t, transcript(t.Context(), c, Did{Verbs: []string{"fly"}}), 422, "validation failed", "")
	wantProblem(t, transcript(t.Context(), c, Did{Follow: true, Range: Range{To: Moment{Time: time.Now()}}}), 422, "has no end yet", "leave out to")
	if _, err := readEvents(strings.NewReader(`{"data":"aGk="}`+"\n"), func(Event) error { return nil }); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a stream without a result: %v", err)
	}
	_, err = call[Event](t.Context(), c, "POST", "/v1/packs", map[string]string{"from": "x", "to": ""})
	wantProblem(t, err, 422, "not a moment", "")
}

// Who follows and leaves is found out though nothing is sent to them.
func TestAFollowerLeaves(t *testing.T) {
	left := make(chan struct{})
	g := &gateway{answer: left}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Transcript(ctx, Did{Follow: true}, func(Entry) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("following ended with %v", err)
	}
	select {
	case <-left:
	case <-time.After(30 * time.Second):
		t.Fatal("the service was not told")
	}
}

// Nothing may happen for longer than one event may take, with either version
// of HTTP.
func TestAStreamMayPause(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e := &events{w: w, rc: http.NewResponseController(w), limit: 100 * time.Millisecond, began: true}
			for range 3 {
				if err := e.send(Event{Entry: &Entry{}}); err != nil {
					t.Errorf("HTTP/2 %t: %v", http2, err)
				}
				time.Sleep(300 * time.Millisecond)
			}
			_ = e.send(Event{Transcript: &Transcript{More: true}}) // the client says whether it came
		}))
		s.EnableHTTP2 = http2
		s.StartTLS()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.ProtoMajor == 2; got != http2 {
			t.Errorf("version %s", resp.Proto)
		}
		n := 0
		end, err := readEvents(resp.Body, func(Event) error { n++; return nil })
		if err := errors.Join(err, resp.Body.Close()); err != nil || n != 3 || end.Transcript == nil {
			t.Errorf("HTTP/2 %t: %d events, %+v, %v", http2, n, end, err)
		}
		s.Close()
	}
}

// A page in a person's browser can't make changes with their certificate.
func TestForeignOrigin(t *testing.T) {
	g := &gateway{}
	socket, _ := start(t, g, me())
	c := NewUnixClient(socket)
	defer c.Close()
	status, _, _ := do(t, c, "/v1/reload", "{}", http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}})
	if status != http.StatusForbidden || len(g.asked) != 0 {
		t.Errorf("status %d, asked %v", status, g.asked)
	}
}

// Over the network a person is known by a certificate of the right authority
// that names them; an agent without one gets a token and nothing else.
func TestHTTPS(t *testing.T) {
	ca := newAuthority(t)
	other := newAuthority(t)
	config, err := TLSConfig(ca.issue(t, "localhost", ""), ca.pem)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{answer: Token{AccessToken: "t"}}
	serve(t, tls.NewListener(inner, config), g, people{uid: 1 << 30}, nil)
	client := func(certs ...tls.Certificate) *Client {
		roots, err := pool(ca.pem)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(inner.Addr().String())
		c, err := NewHTTPSClient("https://localhost:"+port, &tls.Config{RootCAs: roots, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	if _, err := client(ca.issue(t, "alice", alice.Email)).Reload(t.Context(), false); err != nil {
		t.Error(err)
	}
	if b, _ := g.asked[1].(evidence.By); b.Person != alice || !strings.HasPrefix(b.Via, "client certificate ") {
		t.Errorf("by %+v", b)
	}
	_, err = client(ca.issue(t, "eve", "eve@example.com")).Reload(t.Context(), false)
	wantProblem(t, err, 401, "names nobody", "exhibit.yaml")
	_, err = client().Reload(t.Context(), false)
	wantProblem(t, err, 401, "certificate is needed", "client_ca")
	if _, err := client(other.issue(t, "alice", alice.Email)).Reload(t.Context(), false); err == nil {
		t.Error("a certificate of another authority passes")
	}
	if _, err := client().IssueToken(t.Context(), TokenRequest{Assertion: "x"}); err != nil {
		t.Errorf("token: %v", err)
	}
	if _, err := NewHTTPSClient("http://localhost:1", nil); err == nil {
		t.Error("plain HTTP passes")
	}
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name, email string) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if email != "" {
		tmpl.EmailAddresses = []string{email}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// The document is part of the interface: a change of it is reviewed.
func TestOpenAPI(t *testing.T) {
	got, err := OpenAPI("v0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	golden := "testdata/openapi.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the OpenAPI document changed: review it and run go test -update ./internal/api")
	}
	socket, _ := start(t, &gateway{}, people{uid: 1 << 30})
	c := NewUnixClient(socket)
	defer c.Close()
	resp, err := c.send(t.Context(), "GET", "/openapi.json", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	served, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(served), `"version": "v1.2.3"`) {
		t.Errorf("served %d bytes, %v", len(served), err)
	}
}

func TestOps(t *testing.T) {
	socket, metrics := start(t, &gateway{}, me())
	c := NewUnixClient(socket)
	defer c.Close()
	if _, err := c.Sessions(t.Context()); err != nil {
		t.Fatal(err)
	}
	var unready error
	h := Ops(metrics, func() error { return unready })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `exhibit_api_requests_total{code="200",operation="list-sessions"} 1`) {
		t.Errorf("metrics: %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 200 || body != "ok\n" {
		t.Errorf("ready: %d %s", code, body)
	}
	unready = errors.New("the journal is full")
	if code, body := get("/readyz"); code != 503 || body != "the journal is full\n" {
		t.Errorf("not ready: %d %s", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("healthy: %d", code)
	}
}

// A socket that a crash left is replaced; one that answers isn't.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s", "admin.sock")
	l, err := ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("a second listener: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(t.Context(), path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}
