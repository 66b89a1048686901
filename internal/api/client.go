package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/ledger"
)

var typeEvent = reflect.TypeFor[Event]()

// Client speaks with a gateway. Its errors are *Problem where the gateway
// answered.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds what is read of an answer, and of one line of a stream.
const maxAnswer = 256 << 20

// NewUnixClient returns a client of the gateway behind a socket.
func NewUnixClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{base: "http://exhibit", http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// NewHTTPSClient returns a client of the gateway at base, like
// https://gateway.example.com:8443. config holds the client's certificate and
// whom it trusts.
func NewHTTPSClient(base string, config *tls.Config) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the https:// address of a gateway", base)
	}
	return &Client{
		base: strings.TrimSuffix(base, "/"),
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig: config, ForceAttemptHTTP2: true,
			DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		}},
	}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func pool(pem []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the authority's file")
	}
	return p, nil
}

// send sends a request and returns the answer when it isn't a problem.
func (c *Client) send(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking the gateway: %w", err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which a socket doesn't have
		}
		return nil, fmt.Errorf("asking the gateway: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	p := &Problem{Title: resp.Status, Status: resp.StatusCode}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(p)
	if errors.Join(err, resp.Body.Close()) != nil {
		return nil, problem(resp.StatusCode, "the gateway answered "+resp.Status, "")
	}
	return nil, p
}

// call asks for one JSON answer.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (out T, err error) {
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return out, fmt.Errorf("asking the gateway: %w", err)
		}
	}
	resp, err := c.send(ctx, method, path, "application/json", body)
	if err != nil {
		return out, err
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return out, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return out, nil
}

func items[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	out, err := call[struct {
		Items []T `json:"items"`
	}](ctx, c, http.MethodGet, path, nil)
	return out.Items, err
}

// events asks for an answer that streams, and returns its result. Each event
// before it goes to on.
func (c *Client) events(ctx context.Context, method, path string, in any, on func(Event) error) (Event, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return Event{}, fmt.Errorf("asking the gateway: %w", err)
		}
	}
	resp, err := c.send(ctx, method, path, "application/json", body)
	if err != nil {
		return Event{}, err
	}
	e, err := readEvents(resp.Body, on)
	return e, errors.Join(err, resp.Body.Close())
}

func readEvents(r io.Reader, on func(Event) error) (Event, error) {
	for d := json.NewDecoder(r); ; {
		var e Event
		if err := d.Decode(&e); err != nil {
			return Event{}, fmt.Errorf("the gateway's answer was cut off: %w", err)
		}
		switch {
		case e.Problem != nil:
			return Event{}, e.Problem
		case e.Data == nil && e.Progress == nil && e.Entry == nil:
			return e, nil
		}
		if err := on(e); err != nil {
			return Event{}, err
		}
	}
}

// told gives progress to whom it concerns; nil is nobody.
func told(progress func(Progress), e Event) {
	if progress != nil && e.Progress != nil {
		progress(*e.Progress)
	}
}

func segment(s string) string { return url.PathEscape(s) }

// AddAgent registers an agent.
func (c *Client) AddAgent(ctx context.Context, a NewAgent) (Agent, error) {
	return call[Agent](ctx, c, http.MethodPost, "/v1/agents", a)
}

// Agents returns all agents.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	return items[Agent](ctx, c, "/v1/agents")
}

// Agent returns one agent.
func (c *Client) Agent(ctx context.Context, id string) (Agent, error) {
	return call[Agent](ctx, c, http.MethodGet, "/v1/agents/"+segment(id), nil)
}

// RetireAgent disables an agent for good.
func (c *Client) RetireAgent(ctx context.Context, id, why string) (Agent, error) {
	return call[Agent](ctx, c, http.MethodPost, "/v1/agents/"+segment(id)+"/retire", reason{why})
}

// EnrollKey registers the public half of an agent's key.
func (c *Client) EnrollKey(ctx context.Context, k NewKey) (Credential, error) {
	return call[Credential](ctx, c, http.MethodPost, "/v1/credentials", k)
}

// Credentials returns the keys of an agent, or of all.
func (c *Client) Credentials(ctx context.Context, agent string) ([]Credential, error) {
	return items[Credential](ctx, c, "/v1/credentials?"+query("agent", agent))
}

// RevokeCredential ends a key and its tokens, or a token.
func (c *Client) RevokeCredential(ctx context.Context, id, why string) (Credential, error) {
	return call[Credential](ctx, c, http.MethodPost, "/v1/credentials/"+segment(id)+"/revoke", reason{why})
}

// IssueToken exchanges an assertion for a token. r.Client is not sent.
func (c *Client) IssueToken(ctx context.Context, r TokenRequest) (Token, error) {
	form := query("grant_type", grantType, "client_assertion_type", assertionType,
		"client_assertion", r.Assertion, "ticket", r.Ticket, "on_behalf_of", r.OnBehalfOf)
	resp, err := c.send(ctx, http.MethodPost, "/v1/token", "application/x-www-form-urlencoded", []byte(form))
	if err != nil {
		return Token{}, err
	}
	var t Token
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&t)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return Token{}, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return t, nil
}

// AddGrant puts an agent in a role on a resource.
func (c *Client) AddGrant(ctx context.Context, g NewGrant) (Grant, error) {
	return call[Grant](ctx, c, http.MethodPost, "/v1/grants", g)
}

// Grants returns the grants of an agent, or of all.
func (c *Client) Grants(ctx context.Context, agent string) ([]Grant, error) {
	return items[Grant](ctx, c, "/v1/grants?"+query("agent", agent))
}

// RevokeGrant removes a grant.
func (c *Client) RevokeGrant(ctx context.Context, id, why string) (Grant, error) {
	return call[Grant](ctx, c, http.MethodPost, "/v1/grants/"+segment(id)+"/revoke", reason{why})
}

// RequestGrant asks for a grant.
func (c *Client) RequestGrant(ctx context.Context, g NewGrantRequest) (Approval, error) {
	return call[Approval](ctx, c, http.MethodPost, "/v1/grants/requests", g)
}

// Approvals returns requests.
func (c *Client) Approvals(ctx context.Context, q ApprovalQuery) ([]Approval, error) {
	all := ""
	if q.All {
		all = "true"
	}
	return items[Approval](ctx, c, "/v1/approvals?"+query("kind", q.Kind, "all", all))
}

// Approval returns one request with all that there is to see.
func (c *Client) Approval(ctx context.Context, id string) (Approval, error) {
	return call[Approval](ctx, c, http.MethodGet, "/v1/approvals/"+segment(id), nil)
}

// AnswerApproval says yes or no to a request, or takes it back.
func (c *Client) AnswerApproval(ctx context.Context, id, what string, a Answer) (Approval, error) {
	return call[Approval](ctx, c, http.MethodPost, "/v1/approvals/"+segment(id)+"/"+what, a)
}

// Who lists who reached a resource.
func (c *Client) Who(ctx context.Context, resource string, r Range) (Table, error) {
	return call[Table](ctx, c, http.MethodGet, "/v1/who/"+segment(resource)+"?"+r.query(), nil)
}

// Allowed lists what an agent may do.
func (c *Client) Allowed(ctx context.Context, agent string, at Moment) (Table, error) {
	return call[Table](ctx, c, http.MethodGet, "/v1/allowed/"+segment(agent)+"?"+query("at", at.String()), nil)
}

// Did lists commands.
func (c *Client) Did(ctx context.Context, q Did) (Table, error) {
	return call[Table](ctx, c, http.MethodGet, "/v1/did?"+q.query(), nil)
}

// Transcript tells of commands session by session.
func (c *Client) Transcript(ctx context.Context, q Did, tell func(Entry) error) (Transcript, error) {
	follow := ""
	if q.Follow {
		follow = "&follow=true"
	}
	e, err := c.events(ctx, http.MethodGet, "/v1/transcript?"+q.query()+follow, nil, func(e Event) error {
		if e.Entry == nil {
			return nil
		}
		return tell(*e.Entry)
	})
	if err != nil {
		return Transcript{}, err
	}
	if e.Transcript == nil {
		return Transcript{}, errors.New("the gateway's answer has no result")
	}
	return *e.Transcript, nil
}

func (q Did) query() string {
	return query("session", q.Session, "agent", q.Agent, "verb", strings.Join(q.Verbs, ","), "outcome", strings.Join(q.Outcomes, ",")) + "&" + q.Range.query()
}

// Recording writes what flowed within a command, as an asciicast.
func (c *Client) Recording(ctx context.Context, command string, w io.Writer) (Recording, error) {
	e, err := c.events(ctx, http.MethodGet, "/v1/recordings/"+segment(command), nil, func(e Event) error {
		_, err := w.Write(e.Data)
		return err
	})
	if err == nil && e.Recording == nil {
		err = errors.New("the gateway's answer has no result")
	}
	if err != nil {
		return Recording{}, err
	}
	return *e.Recording, nil
}

// Explain says what would be decided.
func (c *Client) Explain(ctx context.Context, q Explain) (Explanation, error) {
	return call[Explanation](ctx, c, http.MethodPost, "/v1/explain", q)
}

// ExplainDecision says why a recorded decision was made.
func (c *Client) ExplainDecision(ctx context.Context, position string) (Explanation, error) {
	return call[Explanation](ctx, c, http.MethodGet, "/v1/decisions/"+segment(position), nil)
}

// Suggest says which rules would have allowed what an agent did.
func (c *Client) Suggest(ctx context.Context, agent string, r Range) (Suggestion, error) {
	return call[Suggestion](ctx, c, http.MethodGet, "/v1/suggest/"+segment(agent)+"?"+query("from", r.From.String(), "to", r.To.String()), nil)
}

// Policies lists the changes of policy, and the proposals that wait.
func (c *Client) Policies(ctx context.Context) (PolicyHistory, error) {
	return call[PolicyHistory](ctx, c, http.MethodGet, "/v1/policies", nil)
}

// PolicyAt returns a bundle that is, was or may be in force.
func (c *Client) PolicyAt(ctx context.Context, ref string) (Document, error) {
	return call[Document](ctx, c, http.MethodGet, "/v1/policies/bundle?"+query("ref", ref), nil)
}

// ProposePolicy asks for the approval of a bundle.
func (c *Client) ProposePolicy(ctx context.Context, p NewProposal, progress func(Progress)) (Proposed, error) {
	e, err := c.events(ctx, http.MethodPost, "/v1/policies/proposals", p, func(e Event) error {
		told(progress, e)
		return nil
	})
	if err == nil && e.Proposed == nil {
		err = errors.New("the gateway's answer has no result")
	}
	if err != nil {
		return Proposed{}, err
	}
	return *e.Proposed, nil
}

// Backtest decides recorded commands again, under another bundle.
func (c *Client) Backtest(ctx context.Context, p NewProposal, progress func(Progress)) (BacktestReport, error) {
	e, err := c.events(ctx, http.MethodPost, "/v1/policies/backtest", p, func(e Event) error {
		told(progress, e)
		return nil
	})
	if err == nil && e.Backtest == nil {
		err = errors.New("the gateway's answer has no result")
	}
	if err != nil {
		return BacktestReport{}, err
	}
	return *e.Backtest, nil
}

// ActivatePolicy puts an approved proposal in force.
func (c *Client) ActivatePolicy(ctx context.Context, request string) (PolicyChange, error) {
	return call[PolicyChange](ctx, c, http.MethodPost, "/v1/policies/activate", map[string]string{"request": request})
}

// RollbackPolicy goes back to a bundle that was in force.
func (c *Client) RollbackPolicy(ctx context.Context, change, why string) (PolicyChange, error) {
	return call[PolicyChange](ctx, c, http.MethodPost, "/v1/policies/rollback", map[string]string{"change": change, "reason": why})
}

// LogStatus says how far the log is.
func (c *Client) LogStatus(ctx context.Context) (LogStatus, error) {
	return call[LogStatus](ctx, c, http.MethodGet, "/v1/log", nil)
}

// Flush seals everything that was recorded.
func (c *Client) Flush(ctx context.Context) (LogStatus, error) {
	return call[LogStatus](ctx, c, http.MethodPost, "/v1/log/flush", struct{}{})
}

// LogKeys lists the keys that sign the log, and those that did.
func (c *Client) LogKeys(ctx context.Context) (LogKeys, error) {
	return call[LogKeys](ctx, c, http.MethodGet, "/v1/log/keys", nil)
}

// RotateLogKey puts a new key in the place of the one that signs the log.
func (c *Client) RotateLogKey(ctx context.Context, r KeyRotation) (LogKeys, error) {
	return call[LogKeys](ctx, c, http.MethodPost, "/v1/log/keys/rotate", r)
}

// RevokeLogKey says that a key that went is not to be believed any more.
func (c *Client) RevokeLogKey(ctx context.Context, r KeyRevocation) (LogKeys, error) {
	return call[LogKeys](ctx, c, http.MethodPost, "/v1/log/keys/revoke", r)
}

// Backup records that the log is about to be copied, and seals everything.
func (c *Client) Backup(ctx context.Context, b Backup) (LogStatus, error) {
	return call[LogStatus](ctx, c, http.MethodPost, "/v1/log/backup", b)
}

// Fsck re-derives everything in the archive and the log, and holds it against
// checkpoints that somebody kept.
func (c *Client) Fsck(ctx context.Context, known []ledger.Checkpoint, progress func(Progress)) (FsckReport, error) {
	var in checking
	for _, cp := range known {
		in.Known = append(in.Known, cp.Text())
	}
	e, err := c.events(ctx, http.MethodPost, "/v1/log/fsck", in, func(e Event) error {
		told(progress, e)
		return nil
	})
	if err != nil {
		return FsckReport{}, err
	}
	if e.Fsck == nil {
		return FsckReport{}, errors.New("the gateway's answer has no report")
	}
	return *e.Fsck, nil
}

// Config returns the configuration in force.
func (c *Client) Config(ctx context.Context) (Document, error) {
	return call[Document](ctx, c, http.MethodGet, "/v1/config", nil)
}

// Policy returns the policies in force.
func (c *Client) Policy(ctx context.Context) (Document, error) {
	return call[Document](ctx, c, http.MethodGet, "/v1/policy", nil)
}

// Reload reads configuration and policies again.
func (c *Client) Reload(ctx context.Context, dry bool) (Reload, error) {
	return call[Reload](ctx, c, http.MethodPost, "/v1/reload", map[string]bool{"dry": dry})
}

// CreatePack writes a pack to w.
func (c *Client) CreatePack(ctx context.Context, r PackRequest, w io.Writer, progress func(Progress)) (Pack, error) {
	in := newPack{From: r.From.String(), To: r.To.String(), Purpose: r.Purpose, Level: r.Level, Recipient: r.Recipient, Restart: r.Restart}
	e, err := c.events(ctx, http.MethodPost, "/v1/packs", in, func(e Event) error {
		told(progress, e)
		if _, err := w.Write(e.Data); err != nil {
			return fmt.Errorf("writing the gateway's answer: %w", err)
		}
		return nil
	})
	if err != nil {
		return Pack{}, err
	}
	if e.Pack == nil {
		return Pack{}, errors.New("the gateway's answer has no result")
	}
	return *e.Pack, nil
}

// ExportOCSF writes the records of a range to w as OCSF events.
func (c *Client) ExportOCSF(ctx context.Context, r Range, w io.Writer, progress func(Progress)) (Export, error) {
	in := map[string]string{"from": r.From.String(), "to": r.To.String()}
	maps.DeleteFunc(in, func(_, v string) bool { return v == "" })
	e, err := c.events(ctx, http.MethodPost, "/v1/export/ocsf", in, func(e Event) error {
		told(progress, e)
		if _, err := w.Write(e.Data); err != nil {
			return fmt.Errorf("writing the gateway's answer: %w", err)
		}
		return nil
	})
	if err != nil {
		return Export{}, err
	}
	if e.Export == nil {
		return Export{}, errors.New("the gateway's answer has no result")
	}
	return *e.Export, nil
}

// Sessions returns the live sessions.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	return items[Session](ctx, c, "/v1/sessions")
}

// Kill ends sessions at once.
func (c *Client) Kill(ctx context.Context, k KillRequest) (Killed, error) {
	return call[Killed](ctx, c, http.MethodPost, "/v1/sessions/kill", k)
}

// Alerts returns alerts, or those that nobody has acknowledged.
func (c *Client) Alerts(ctx context.Context, r Range, open bool) ([]Alert, error) {
	only := ""
	if open {
		only = "&open=true"
	}
	return items[Alert](ctx, c, "/v1/alerts?"+r.query()+only)
}

// AcknowledgeAlert says what an alert was found to be.
func (c *Client) AcknowledgeAlert(ctx context.Context, id string, n NewAcknowledgement) (Alert, error) {
	return call[Alert](ctx, c, http.MethodPost, "/v1/alerts/"+segment(id)+"/acknowledge", n)
}

// Version says which gateway answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return call[Version](ctx, c, http.MethodGet, "/v1/version", nil)
}

// query encodes pairs of names and values, without those that are empty.
func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v.Encode()
}

func (r Range) query() string {
	limit := ""
	if r.Limit > 0 {
		limit = fmt.Sprint(r.Limit)
	}
	return query("from", r.From.String(), "to", r.To.String(), "limit", limit)
}
