// Package api is how people and agents speak with a running gateway: REST with
// an OpenAPI 3.1 document made from the code, over a unix socket or HTTPS.
//
// A request flows in; the package finds out which person sent it (by the peer
// credentials of the socket, or the client certificate), checks its shape, and
// calls the one-resource interface in this file that answers it. What flows
// out is JSON, or a problem (RFC 9457) with a hint. Client is the other end,
// for the command line.
package api

import (
	"context"
	"io"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Services is what the API needs of the gateway. Each method is called from
// many goroutines. A change has been recorded and is durable when the method
// that makes it returns nil. Errors made with NotFound, Invalid and their like
// reach the caller as they are; any other is a failure of the gateway.
//
// Where a method takes an evidence.By, that person asked for it; the service
// records them with the change, or with the reading of evidence.
type Services struct {
	Agents      Agents
	Credentials Credentials
	Tokens      Tokens
	Grants      Grants
	Questions   Questions
	Log         Log
	Control     Control
	Packs       Packs
	Sessions    Sessions
	Alerts      Alerts
	Readiness   Readiness
	Policies    Policies
	Approvals   Approvals
	Imports     Imports
}

// Agents are the registered agents.
type Agents interface {
	// AddAgent registers an agent; Conflict when the id was ever used.
	AddAgent(ctx context.Context, a NewAgent, by evidence.By) (Agent, error)
	// Agents returns all agents, retired ones too, ordered by id.
	Agents(ctx context.Context) ([]Agent, error)
	// RetireAgent disables an agent for good. Its next command is refused and
	// its live sessions end within a second.
	RetireAgent(ctx context.Context, id, reason string, by evidence.By) (Agent, error)
	// ChangeOwner gives an agent another owner. One that was suspended because
	// nobody answered for it goes on.
	ChangeOwner(ctx context.Context, id string, n NewOwner, by evidence.By) (Agent, error)
}

// NewAgent is an agent to register.
type NewAgent struct {
	ID      string    `json:"id" maxLength:"128" pattern:"^[A-Za-z0-9._:@/+-]+$" doc:"names the agent for ever; it is also the user name in the protocols" example:"reporter"`
	Name    string    `json:"name,omitempty" maxLength:"200" doc:"for people to read"`
	Purpose string    `json:"purpose" minLength:"1" maxLength:"1000" doc:"what it is for, in a sentence an auditor understands"`
	Owner   string    `json:"owner" minLength:"1" doc:"id of the person who is accountable for it; one of the configuration's people"`
	Backup  string    `json:"backup_owner,omitempty" doc:"id of a second person"`
	Team    string    `json:"team,omitempty" maxLength:"200"`
	Env     string    `json:"env,omitempty" maxLength:"200" example:"production"`
	Model   string    `json:"model,omitempty" maxLength:"200" doc:"model and version that drives it"`
	Expires time.Time `json:"expires,omitzero" doc:"when its registration ends by itself"`
}

// Agent is a registered agent.
type Agent struct {
	ID        string          `json:"id"`
	Name      string          `json:"name,omitempty"`
	Purpose   string          `json:"purpose"`
	Owner     evidence.Person `json:"owner"`
	Backup    evidence.Person `json:"backup_owner,omitzero"`
	Team      string          `json:"team,omitempty"`
	Env       string          `json:"env,omitempty"`
	Model     string          `json:"model,omitempty"`
	Expires   time.Time       `json:"expires,omitzero"`
	Status    string          `json:"status" enum:"active,suspended,expired,retired"`
	Created   Change          `json:"created"`
	Disabled  *Change         `json:"disabled,omitempty"`
	Suspended *Change         `json:"suspended,omitempty" doc:"since nobody answers for it"`
}

// Change says where in the log, when, by whom and why something changed.
type Change struct {
	Position string      `json:"position" doc:"of the record, gateway.boot.seq"`
	Time     time.Time   `json:"time"`
	By       evidence.By `json:"by"`
	Reason   string      `json:"reason,omitempty"`
}

// Credentials are enrolled keys and the tokens issued under them.
type Credentials interface {
	// EnrollKey registers the public half of an agent's Ed25519 key. NotFound
	// when there is no such active agent, Conflict when the key is enrolled.
	EnrollKey(ctx context.Context, k NewKey, by evidence.By) (Credential, error)
	// Credentials returns the keys of one agent, or of all when agent is "",
	// revoked ones too, in the order of their enrolment.
	Credentials(ctx context.Context, agent string) ([]Credential, error)
	// RevokeCredential ends a key and every token issued under it, or a token.
	RevokeCredential(ctx context.Context, id, reason string, by evidence.By) (Credential, error)
}

// NewKey is a key to enroll.
type NewKey struct {
	Agent     string    `json:"agent" minLength:"1" maxLength:"128"`
	PublicKey string    `json:"public_key" minLength:"43" maxLength:"43" doc:"the 32 bytes of an Ed25519 public key (RFC 8032) in base64url without padding, like x of a JWK (RFC 8037)"`
	Expires   time.Time `json:"expires,omitzero" doc:"when the key ends by itself"`
}

// Credential is an enrolled key, or a token.
type Credential struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Kind       string    `json:"kind" enum:"key,token"`
	Thumbprint string    `json:"thumbprint" doc:"of the key (RFC 7638, SHA-256)"`
	NotBefore  time.Time `json:"not_before,omitzero"`
	NotAfter   time.Time `json:"not_after,omitzero"`
	Status     string    `json:"status" enum:"active,expired,revoked"`
	Audience   string    `json:"audience" doc:"aud of the assertions that its holder signs"`
	Created    Change    `json:"created"`
	Revoked    *Change   `json:"revoked,omitempty"`
}

// Tokens exchanges an assertion for a token.
type Tokens interface {
	// IssueToken checks the assertion and returns a short-lived token of the
	// agent. Unauthorized when the assertion doesn't prove an enrolled, valid
	// key; its message must tell a stranger nothing. The attempt is recorded
	// either way.
	IssueToken(ctx context.Context, r TokenRequest) (Token, error)
}

// TokenRequest asks for a token (RFC 6749 section 4.4 with the client
// authentication of RFC 7523 section 2.2).
type TokenRequest struct {
	Assertion  string // a JWT, EdDSA: iss and sub the agent's id, aud, iat, exp, jti; kid the key's thumbprint
	Ticket     string // for which ticket or run
	OnBehalfOf string // for whom (RFC 8693 calls them the subject)
	Client     string // the peer's address, or "unix uid=1000"
}

// Token is the answer of a token endpoint (RFC 6749 section 5.1).
type Token struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type" enum:"Bearer"`
	ExpiresIn   int64  `json:"expires_in" doc:"seconds"`
	ID          string `json:"credential" doc:"id of the token, as records name it"`
}

// Grants put agents in roles on resources.
type Grants interface {
	// AddGrant puts an agent in a role on a resource until it expires. Invalid
	// when the agent, role or resource doesn't exist.
	AddGrant(ctx context.Context, g NewGrant, by evidence.By) (Grant, error)
	// Grants returns the grants of one agent, or of all when agent is "",
	// removed and expired ones too, in the order of their creation.
	Grants(ctx context.Context, agent string) ([]Grant, error)
	// RevokeGrant removes a grant. It counts for the next command.
	RevokeGrant(ctx context.Context, id, reason string, by evidence.By) (Grant, error)
}

// NewGrant is a grant to make.
type NewGrant struct {
	Agent    string    `json:"agent" minLength:"1" maxLength:"128"`
	Role     string    `json:"role" minLength:"1" maxLength:"128"`
	Resource string    `json:"resource" minLength:"1" maxLength:"128"`
	Expires  time.Time `json:"expires" doc:"a grant without end can't be made"`
	Ticket   string    `json:"ticket,omitempty" maxLength:"200"`
	Reason   string    `json:"reason,omitempty" maxLength:"1000"`
}

// Grant is a grant.
type Grant struct {
	ID       string    `json:"id" doc:"the position of its record"`
	Agent    string    `json:"agent"`
	Role     string    `json:"role"`
	Resource string    `json:"resource"`
	Starts   time.Time `json:"starts,omitzero" doc:"absent when it began with its record"`
	Expires  time.Time `json:"expires"`
	Ticket   string    `json:"ticket,omitempty"`
	Renews   string    `json:"renews,omitempty" doc:"the grant that it goes on from"`
	Status   string    `json:"status" enum:"upcoming,active,expired,removed"`
	Created  Change    `json:"created"`
	Removed  *Change   `json:"removed,omitempty"`

	Request   string   `json:"request,omitempty" doc:"that asked for it; absent when one person made it alone"`
	Asked     *Change  `json:"asked,omitempty" doc:"by whom it was asked for"`
	Approvals []Change `json:"approvals,omitempty" doc:"by whom it was approved"`
}

// Approvals are what people are asked to say yes to: grants, policies, and
// single commands.
type Approvals interface {
	// RequestGrant asks for a grant. Invalid when it couldn't be made, or when
	// there is nobody who could approve it.
	RequestGrant(ctx context.Context, g NewGrantRequest, by evidence.By) (Approval, error)
	// Approvals returns requests in the order in which they were made, without
	// the files of policies.
	Approvals(ctx context.Context, q ApprovalQuery) ([]Approval, error)
	// Approval returns one with all that there is to see; of a command that
	// waits its exact text too, for who can answer it and for the agent's owner.
	// The reading of that is recorded.
	Approval(ctx context.Context, id string, by evidence.By) (Approval, error)
	// AnswerApproval records what a person says of a request: one of
	// evidence.Approved, Refused and Withdrawn. The last approval that a grant
	// needs makes it. Forbidden when the person has no say in it, Conflict when
	// it has ended.
	AnswerApproval(ctx context.Context, id, what string, a Answer, by evidence.By) (Approval, error)
}

// NewGrantRequest is a grant that is asked for. Of a renewal agent, role,
// resource and ticket are those of the grant before, unless they are given.
type NewGrantRequest struct {
	Agent    string    `json:"agent,omitempty" maxLength:"128"`
	Role     string    `json:"role,omitempty" maxLength:"128"`
	Resource string    `json:"resource,omitempty" maxLength:"128"`
	Starts   time.Time `json:"starts,omitzero" doc:"default: once it is approved"`
	Expires  time.Time `json:"expires" doc:"a grant without end can't be made"`
	Renews   string    `json:"renews,omitempty" maxLength:"128" doc:"id of the grant that it goes on from"`
	Ticket   string    `json:"ticket,omitempty" maxLength:"200"`
	Reason   string    `json:"reason,omitempty" maxLength:"1000"`
}

// ApprovalQuery says which requests are asked for.
type ApprovalQuery struct {
	Kind string // "" is all
	All  bool   // those that have ended too
}

// Answer is what a person says of a request beside yes or no.
type Answer struct {
	Reason  string    `json:"reason,omitempty" maxLength:"1000" doc:"stands in the record; a refusal needs one"`
	Expires time.Time `json:"expires,omitzero" doc:"with a yes to a grant: an earlier end than was asked for"`
	Digest  string    `json:"digest,omitempty" maxLength:"128" doc:"of the request that was looked at; refused when it is another's"`
}

// Approval is a request with everything that people said of it.
type Approval struct {
	ID      string             `json:"id" doc:"the position of its record"`
	Kind    string             `json:"kind" enum:"grant,policy,command,erasure,disposal"`
	Status  string             `json:"status" enum:"pending,approved,denied,withdrawn,expired,used"`
	Digest  string             `json:"digest" doc:"of what is asked"`
	Grant   *GrantScope        `json:"grant,omitempty"`
	Policy  *evidence.Proposal `json:"policy,omitempty"`
	Command *HeldCommand       `json:"command,omitempty"`

	Erasure *evidence.ErasureScope `json:"erasure,omitempty"`

	Disposal *evidence.DisposalScope `json:"disposal,omitempty"`

	Needs   []RequestNeed    `json:"needs" doc:"all of them"`
	Ticket  string           `json:"ticket,omitempty"`
	Expires time.Time        `json:"expires" doc:"of the request, and of what it approved and isn't used yet"`
	Asked   Change           `json:"asked"`
	Answers []ApprovalAnswer `json:"answers,omitempty"`
	Used    *ApprovalUse     `json:"used,omitempty"`
}

// GrantScope is what a grant would give.
type GrantScope struct {
	Agent    string    `json:"agent"`
	Role     string    `json:"role"`
	Resource string    `json:"resource"`
	Starts   time.Time `json:"starts,omitzero"`
	Expires  time.Time `json:"expires"`
	Renews   string    `json:"renews,omitempty"`
}

// HeldCommand is a command that needs an approval. Its exact text is sealed:
// Statement and Values are of one that waits, for who can answer it.
type HeldCommand struct {
	Session   string           `json:"session"`
	Agent     string           `json:"agent"`
	Owner     evidence.Person  `json:"owner" doc:"of the agent"`
	Resource  string           `json:"resource"`
	Verb      string           `json:"verb"`
	Text      string           `json:"text,omitempty" doc:"the statement without literals"`
	Checks    []evidence.Check `json:"checks"`
	Facts     evidence.Facts   `json:"facts,omitempty"`
	Rules     []string         `json:"rules" doc:"that want the approval, or stand beside such"`
	Waits     bool             `json:"waits" doc:"the agent waits for the answer"`
	Statement []byte           `json:"statement,omitempty" doc:"the exact text, base64"`
	Values    [][]byte         `json:"values,omitempty" doc:"bound values, base64; null is NULL"`
}

// RequestNeed is how many people of a group must say yes.
type RequestNeed struct {
	Group  string   `json:"group" doc:"of people; resource is its owner and approvers, policy those who approve policies"`
	Count  int      `json:"count"`
	Have   int      `json:"have"`
	People []string `json:"people" doc:"ids of those who could still say it"`
}

// ApprovalAnswer is what one person said.
type ApprovalAnswer struct {
	Decision string    `json:"decision" enum:"approve,deny,withdraw"`
	Groups   []string  `json:"groups,omitempty" doc:"for which it counts"`
	Expires  time.Time `json:"expires,omitzero" doc:"an earlier end of the grant than was asked for"`
	Change
}

// ApprovalUse says what an approval was used for.
type ApprovalUse struct {
	Position string    `json:"position" doc:"of the record"`
	Time     time.Time `json:"time"`
	By       string    `json:"by" doc:"the grant, the digest of the policy, or the command"`
}

// Questions answers the three questions from the log. Every call is a reading
// of evidence, and recorded as such.
type Questions interface {
	// Who lists who reached a resource.
	Who(ctx context.Context, resource string, r Range, by evidence.By) (Table, error)
	// Allowed lists what an agent may do, or could at an earlier moment.
	Allowed(ctx context.Context, agent string, at Moment, by evidence.By) (Table, error)
	// Did lists commands.
	Did(ctx context.Context, q Did, by evidence.By) (Table, error)
	// Transcript tells the same session by session, with what surrounds the
	// commands. With q.Follow it goes on as records are made, until the session
	// has ended, ctx is done or the gateway stops; tell may take its time.
	Transcript(ctx context.Context, q Did, by evidence.By, tell func(Entry) error) (Transcript, error)
	// Explain says what would be decided, and why, and does nothing.
	Explain(ctx context.Context, q Explain, by evidence.By) (Explanation, error)
	// ExplainDecision makes a recorded decision again, that of a command or of a
	// connection, from what the log holds, and says why it was made.
	ExplainDecision(ctx context.Context, at evidence.Position, by evidence.By) (Explanation, error)
	// Recording writes what flowed within a command, so that it can be played: as
	// an asciicast (version 2). That is read in its sealed part.
	Recording(ctx context.Context, command evidence.Position, by evidence.By, w io.Writer) (Recording, error)
	// Suggest says which rules would have allowed what an agent did.
	Suggest(ctx context.Context, agent string, r Range, by evidence.By) (Suggestion, error)
}

// Recording is what was written of a command.
type Recording struct {
	Command string `json:"command"`
	Pieces  int    `json:"pieces" doc:"that it consists of"`
	Left    uint64 `json:"left_out,omitempty" doc:"bytes of content that were digested and not kept"`
	Open    bool   `json:"open,omitempty" doc:"the command has not ended yet"`
}

// Moment is a point in the log: a position, a time, or when both are zero, now.
type Moment struct {
	Position evidence.Position
	Time     time.Time
}

// IsZero reports whether m is now.
func (m Moment) IsZero() bool { return m.Position.IsZero() && m.Time.IsZero() }

// Range is what lies between two moments: From is part of it and To is not; a
// zero one is open. Limit is the most rows to return, the newest ones.
type Range struct {
	From, To Moment
	Limit    int
}

// Table is columns and rows, as a workpaper has them.
type Table struct {
	Name    string     `json:"name"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	More    bool       `json:"more,omitempty" doc:"older rows were left out"`
}

// Did says which commands are asked for: those of a session, of an agent or,
// when both are "", all. Session is the position of its session.start or of any
// record in it. Verbs and Outcomes, unless empty, are the only ones wanted.
type Did struct {
	Session, Agent  string
	Range           Range
	Verbs, Outcomes []string
	Follow          bool
}

// Entry is one line of a transcript. Exactly one of the fields from Start on is
// set. A command is told when it has ended; one that is open is told as "open",
// and again when it ends.
type Entry struct {
	Position string    `json:"position" doc:"of the record; of a command, of its intent"`
	Session  string    `json:"session"`
	Time     time.Time `json:"time"`
	Agent    string    `json:"agent,omitempty"`
	Resource string    `json:"resource,omitempty"`

	Start       *evidence.SessionStartBody    `json:"start,omitempty" doc:"a session began, or was refused"`
	Upstream    *evidence.SessionUpstreamBody `json:"upstream,omitempty" doc:"it was connected"`
	Command     *Command                      `json:"command,omitempty"`
	Transaction *Transaction                  `json:"transaction,omitempty" doc:"commands ended as one"`
	Note        *evidence.NoteBody            `json:"note,omitempty" doc:"of the session itself, or of the gateway's own"`
	Alert       *evidence.AlertBody           `json:"alert,omitempty" doc:"asks a person to look"`
	Resolution  *Resolution                   `json:"resolution,omitempty" doc:"found out later about a command in doubt"`
	End         *evidence.SessionEndBody      `json:"end,omitempty"`
}

// Command is a command and how it ended. Its statement is sealed; Text is what
// isn't.
type Command struct {
	Verb      string           `json:"verb"`
	Path      string           `json:"path,omitempty"`
	Parse     evidence.Parse   `json:"parse,omitempty"`
	Text      string           `json:"text,omitempty" doc:"the statement without literals"`
	Checks    []evidence.Check `json:"checks,omitempty"`
	Of        string           `json:"of,omitempty" doc:"the command that prepared it"`
	Decision  evidence.Effect  `json:"decision"`
	Rules     []string         `json:"rules,omitempty"`
	Grants    []string         `json:"grants,omitempty"`
	Reason    string           `json:"deny_reason,omitempty"`
	Outcome   string           `json:"outcome" enum:"ok,error,denied,skipped,cancelled,in_doubt,open"`
	Code      string           `json:"code,omitempty"`
	Rows      uint64           `json:"rows"`
	BytesUp   uint64           `json:"bytes_up"`
	BytesDown uint64           `json:"bytes_down"`
	Streamed  uint64           `json:"streamed,omitempty" doc:"bytes of stream content, both directions"`
	Micros    uint64           `json:"duration_us"`
}

// Transaction is how the commands from First to Last ended.
type Transaction struct {
	Result   string `json:"result" enum:"commit,rollback,prepare,unknown"`
	Block    bool   `json:"block" doc:"opened by a command; otherwise it is a pipeline"`
	First    string `json:"first"`
	Last     string `json:"last"`
	Commands int    `json:"commands"`
	ID       string `json:"xid,omitempty" doc:"the upstream's own id, where it is known"`
}

// Resolution says later what a command in doubt did.
type Resolution struct {
	Of     string `json:"of"`
	Result string `json:"result"`
	How    string `json:"how"`
}

// Transcript is how a transcript ended.
type Transcript struct {
	More    bool `json:"more,omitempty" doc:"older commands were left out"`
	Stopped bool `json:"stopped,omitempty" doc:"the gateway stops; there may be more to come"`
}

// Explain asks what would be decided of a statement now.
type Explain struct {
	Agent     string `json:"agent" minLength:"1" maxLength:"128"`
	Resource  string `json:"resource" minLength:"1" maxLength:"128"`
	Statement string `json:"statement" minLength:"1" maxLength:"262144" doc:"in the resource's own language"`
	Ticket    string `json:"ticket,omitempty" maxLength:"200" doc:"the ticket that the session would carry"`
}

// Explanation is a decision and why it is so: one that wasn't acted on, or one
// on record, made again.
type Explanation struct {
	Position string    `json:"position,omitempty" doc:"of the recorded decision"`
	Time     time.Time `json:"time,omitzero" doc:"likewise"`
	Agent    string    `json:"agent,omitempty" doc:"likewise"`
	Resource string    `json:"resource,omitempty" doc:"likewise"`
	Differs  string    `json:"differs,omitempty" doc:"what the record says, where it isn't what is decided again"`

	Effect string           `json:"effect" enum:"allow,deny,error"`
	Reason string           `json:"reason,omitempty"`
	Verb   string           `json:"verb"`
	Parse  string           `json:"parse" enum:"full,partial,opaque" doc:"how much of the statement was understood"`
	Text   string           `json:"text,omitempty" doc:"the statement without literals"`
	Checks []evidence.Check `json:"checks" doc:"what was asked of the policy"`
	Facts  evidence.Facts   `json:"facts,omitempty" doc:"what else the policy could ask about"`
	Rules  []string         `json:"rules,omitempty" doc:"the policies that decided"`
	Grants []string         `json:"grants,omitempty" doc:"the grants that put the agent in its roles"`
	Policy string           `json:"policy" doc:"digest of the policies"`

	Obligations *evidence.Obligations `json:"obligations,omitempty" doc:"what the rules ask beside their yes"`
	Approval    string                `json:"approval,omitempty" doc:"the approved request that it used"`
	Limit       string                `json:"limit,omitempty" doc:"the limit that it had reached"`
	Roles       []string              `json:"roles,omitempty" doc:"that the agent held on the resource"`
	Answers     []Answered            `json:"answers,omitempty" doc:"what the rules said of each check"`
}

// Answered is what the rules said of one check.
type Answered struct {
	evidence.Check
	Effect  string     `json:"effect" enum:"allow,deny,error"`
	Permits []RuleSaid `json:"permits,omitempty" doc:"rules that permit it"`
	Forbids []RuleSaid `json:"forbids,omitempty" doc:"rules that forbid it"`
	Missed  []RuleSaid `json:"missed,omitempty" doc:"rules about it that would permit it under other conditions"`
	Failed  []RuleSaid `json:"failed,omitempty" doc:"rules that could not be evaluated"`
}

// RuleSaid is a rule that had a say.
type RuleSaid struct {
	ID          string `json:"id"`
	Description string `json:"description,omitempty"`
	Hint        string `json:"hint,omitempty"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Text        string `json:"text" doc:"in Cedar"`
	Failure     string `json:"failure,omitempty" doc:"why it could not be evaluated"`
}

// Suggestion is what an agent did, as rules that allow just that, beside those
// that it has.
type Suggestion struct {
	Agent    string        `json:"agent"`
	Commands uint64        `json:"commands" doc:"allowed ones, in the range"`
	Used     []UsedPair    `json:"used" doc:"what they asked for"`
	Cedar    string        `json:"cedar" doc:"rules that allow that and nothing else"`
	Diff     string        `json:"diff,omitempty" doc:"unified, from the rules of the roles that it has"`
	Unused   []UnusedGrant `json:"unused,omitempty" doc:"grants that none of them needed"`
	More     bool          `json:"more,omitempty" doc:"it did more different things than are told apart"`
}

// UsedPair is an action on an object that an agent used.
type UsedPair struct {
	Resource string `json:"resource"`
	Action   string `json:"action"`
	Object   string `json:"object,omitempty"`
	Commands uint64 `json:"commands"`
}

// UnusedGrant is a grant that stands and wasn't needed.
type UnusedGrant struct {
	ID       string    `json:"id"`
	Role     string    `json:"role"`
	Resource string    `json:"resource"`
	Expires  time.Time `json:"expires"`
}

// Policies are the bundles of rules: which were in force, and which somebody
// proposes. Saying yes to one is an approval like any other.
type Policies interface {
	// Policies lists every change of policy, the newest last, and the proposals
	// that wait.
	Policies(ctx context.Context) (PolicyHistory, error)
	// PolicyAt returns a bundle by (the beginning of) its digest, or by the
	// position of a change or a proposal; "" is the one in force.
	PolicyAt(ctx context.Context, ref string) (Document, error)
	// ProposePolicy compiles a bundle, runs its tests, decides recorded commands
	// again under it, and asks for its approval. Invalid, with Details, when it
	// can't be used or a test fails.
	ProposePolicy(ctx context.Context, p NewProposal, by evidence.By, progress func(Progress)) (Proposed, error)
	// Backtest only decides recorded commands again.
	Backtest(ctx context.Context, p NewProposal, by evidence.By, progress func(Progress)) (BacktestReport, error)
	// ActivatePolicy puts an approved proposal in force. Conflict when another
	// bundle than it was made from is in force by now.
	ActivatePolicy(ctx context.Context, request string, by evidence.By) (PolicyChange, error)
	// RollbackPolicy goes back to a bundle that was in force: that of a change, or
	// when it is "", the one before. One person may do that; it is on record.
	RollbackPolicy(ctx context.Context, change, reason string, by evidence.By) (PolicyChange, error)
}

// NewProposal is a bundle to propose, or to try.
type NewProposal struct {
	Files   []evidence.File `json:"files" minItems:"1" doc:"all of the bundle's .cedar files"`
	Tests   []evidence.File `json:"tests,omitempty" doc:"the .test.yaml files beside them"`
	Ticket  string          `json:"ticket,omitempty" maxLength:"200"`
	Reason  string          `json:"reason,omitempty" maxLength:"1000"`
	Expires time.Time       `json:"expires,omitzero" doc:"of the proposal; default: as configured"`
	Days    int             `json:"days,omitempty" minimum:"0" maximum:"366" doc:"of recorded commands to decide again; 0 is none"`
}

// Proposed is a proposal that was recorded.
type Proposed struct {
	Request  string          `json:"request" doc:"position of its record; what is approved"`
	Digest   string          `json:"digest"`
	Before   string          `json:"before" doc:"digest of the bundle that it would replace"`
	Diff     string          `json:"diff"`
	Tests    int             `json:"tests" doc:"that passed"`
	Untested []string        `json:"untested,omitempty" doc:"rules that no test rests on"`
	Backtest *BacktestReport `json:"backtest,omitempty"`
	Expires  time.Time       `json:"expires"`
}

// BacktestReport is what a bundle would have decided otherwise.
type BacktestReport struct {
	Days     int                  `json:"days"`
	Commands uint64               `json:"commands" doc:"that were decided again"`
	Differ   uint64               `json:"differ"`
	Agents   []policy.Differences `json:"agents" doc:"those with differences, the most first"`
}

// PolicyHistory is every bundle that was in force, and those that may be next.
type PolicyHistory struct {
	Changes []PolicyChange `json:"changes"`
	Open    []OpenProposal `json:"open"`
}

// PolicyChange is a bundle that was put in force.
type PolicyChange struct {
	Position  string   `json:"position" doc:"of its record"`
	Digest    string   `json:"digest"`
	Before    string   `json:"before,omitempty" doc:"digest of the bundle that it replaced"`
	InForce   bool     `json:"in_force"`
	Activated Change   `json:"activated"`
	Request   string   `json:"request,omitempty" doc:"the proposal; absent when one person did it alone"`
	Proposed  *Change  `json:"proposed,omitempty"`
	Approved  []Change `json:"approved,omitempty"`
	Rollback  string   `json:"rollback_of,omitempty" doc:"position of the change whose bundle it goes back to"`
}

// OpenProposal is a proposal that is neither used nor over.
type OpenProposal struct {
	Request  string             `json:"request"`
	Status   string             `json:"status" enum:"pending,approved"`
	Stale    bool               `json:"stale,omitempty" doc:"another bundle is in force than it was made from: it can't be activated"`
	Digest   string             `json:"digest"`
	Before   string             `json:"before"`
	Ticket   string             `json:"ticket,omitempty"`
	Proposed Change             `json:"proposed"`
	Approved []Change           `json:"approved,omitempty"`
	Tests    int                `json:"tests"`
	Backtest *evidence.Backtest `json:"backtest,omitempty"`
	Expires  time.Time          `json:"expires"`
}

// Log is the gateway's transparency log.
type Log interface {
	LogStatus(ctx context.Context) (LogStatus, error)
	// Flush returns when everything recorded before is sealed.
	Flush(ctx context.Context) (LogStatus, error)
	// Fsck re-derives everything that the archive and the log hold. What is
	// wrong is in the report; the error is for what kept it from looking.
	// It is held against checkpoints that somebody kept, too.
	Fsck(ctx context.Context, known []ledger.Checkpoint, progress func(Progress)) (FsckReport, error)
	LogKeys(ctx context.Context) (LogKeys, error)
	// RotateLogKey puts a new key in the place of the one that signs the log.
	RotateLogKey(ctx context.Context, r KeyRotation, by evidence.By) (LogKeys, error)
	// RevokeLogKey says that a key that went is not to be believed any more.
	RevokeLogKey(ctx context.Context, r KeyRevocation, by evidence.By) (LogKeys, error)
	// Backup records that the log is about to be copied, and returns when that
	// record is sealed with everything before it.
	Backup(ctx context.Context, b Backup, by evidence.By) (LogStatus, error)
	// Holds returns legal holds, lifted ones too, in the order of their records.
	Holds(ctx context.Context) ([]Hold, error)
	PlaceHold(ctx context.Context, n NewHold, by evidence.By) (Hold, error)
	LiftHold(ctx context.Context, id, reason string, by evidence.By) (Hold, error)
	// Erase destroys what is sealed of a session that has ended; Invalid under a
	// legal hold. Where two people are needed and no request is named it asks for
	// the other one.
	Erase(ctx context.Context, e Erasure, by evidence.By) (Erased, error)
	// PlanDisposal says what is past its retention; Dispose deletes it, or asks for
	// another person where two are needed and no request is named.
	PlanDisposal(ctx context.Context) (DisposalPlan, error)
	Dispose(ctx context.Context, d Disposal, by evidence.By) (Disposed, error)
}

// LogKeys are the keys that signed the log, and sign it, the oldest first.
type LogKeys struct {
	Origin string   `json:"origin"`
	Keys   []LogKey `json:"keys"`
}

// LogKey is one key of the log.
type LogKey struct {
	ID      string  `json:"id" doc:"8 hexadecimal digits"`
	Key     string  `json:"key" doc:"verifier key (C2SP signed-note)"`
	Status  string  `json:"status" enum:"prepared,recorded,in force,replaced,revoked" doc:"recorded: it signs as soon as its record is sealed"`
	Blocks  uint64  `json:"blocks,omitempty" doc:"most that it signed for"`
	From    *Change `json:"from,omitempty" doc:"what put it in force; none for the first"`
	Until   *Change `json:"until,omitempty"`
	Revoked *Change `json:"revoked,omitempty"`
}

// KeyRotation asks for a new key of the log.
type KeyRotation struct {
	Prepare bool   `json:"prepare,omitempty" doc:"only make the key, to be given to witnesses before it signs"`
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"stands in the record"`
}

// KeyRevocation names a key of the log that went.
type KeyRevocation struct {
	Key    string `json:"key" minLength:"8" maxLength:"512" doc:"its id, or the verifier key"`
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record"`
}

// Backup says what is about to be copied.
type Backup struct {
	Recipients []string `json:"recipients,omitempty" maxItems:"100" doc:"age recipients that the keys are encrypted to; none: no keys"`
}

// LogStatus says how far the log is.
type LogStatus struct {
	Origin        string    `json:"origin"`
	Key           string    `json:"key" doc:"verifier key of its checkpoints (C2SP signed-note)"`
	Blocks        uint64    `json:"blocks"`
	Root          string    `json:"root" doc:"of the tree, base64"`
	Published     time.Time `json:"published,omitzero" doc:"when the newest checkpoint was"`
	Position      string    `json:"position" doc:"of the newest record"`
	Sealed        string    `json:"sealed,omitempty" doc:"position of the newest record in a block"`
	UnsealedBytes int64     `json:"unsealed_bytes"`
	UnsealedAge   float64   `json:"unsealed_age_seconds" doc:"of the oldest record that waits"`
	Problem       string    `json:"problem,omitempty" doc:"what keeps records from being sealed"`

	Quorum    int       `json:"quorum,omitempty" doc:"cosignatures that a checkpoint needs"`
	Witnessed uint64    `json:"witnessed,omitempty" doc:"blocks that a quorum of witnesses has cosigned"`
	Witnesses []Witness `json:"witnesses,omitempty"`

	Stamped     uint64      `json:"stamped,omitempty" doc:"blocks of the newest checkpoint with a time stamp"`
	StampedAt   time.Time   `json:"stamped_at,omitzero" doc:"that it existed not later than"`
	Authorities []Authority `json:"timestamp_authorities,omitempty"`

	Sinks []Sink `json:"sinks,omitempty"`
}

// Sink is how far the log has been delivered.
type Sink struct {
	Name      string    `json:"name"`
	To        string    `json:"to"`
	Delivered string    `json:"delivered,omitempty" doc:"position up to which it has everything"`
	Records   uint64    `json:"behind_records" doc:"sealed ones that it has not taken"`
	Seconds   float64   `json:"behind_seconds" doc:"age of the oldest record that is being delivered"`
	Problem   string    `json:"problem,omitempty" doc:"why it takes none"`
	Since     time.Time `json:"since,omitzero" doc:"when that began"`
}

// Witness is how far a witness has followed the log.
type Witness struct {
	Name     string    `json:"name" doc:"of its key"`
	URL      string    `json:"url"`
	Blocks   uint64    `json:"blocks" doc:"that it has seen"`
	Behind   uint64    `json:"behind" doc:"blocks that it has not seen"`
	Cosigned time.Time `json:"cosigned,omitzero" doc:"when it last did since the gateway's start"`
	Problem  string    `json:"problem,omitempty" doc:"why it does not cosign"`
	Hint     string    `json:"hint,omitempty" doc:"what to do about it"`
	Since    time.Time `json:"since,omitzero" doc:"when it stopped"`
}

// Authority is how far a time stamp authority has stamped the log.
type Authority struct {
	URL     string    `json:"url"`
	Blocks  uint64    `json:"blocks" doc:"of the newest checkpoint that it has stamped"`
	Behind  uint64    `json:"behind" doc:"blocks that came since"`
	Stamped time.Time `json:"stamped,omitzero" doc:"when that was, by its clock"`
	Problem string    `json:"problem,omitempty" doc:"why it does not stamp"`
	Since   time.Time `json:"since,omitzero" doc:"when it stopped"`
}

// FsckReport is what fsck found.
type FsckReport struct {
	Blocks   uint64    `json:"blocks"`
	Records  uint64    `json:"records"`
	Bytes    uint64    `json:"bytes"`
	Root     string    `json:"root,omitempty"`
	Disposed uint64    `json:"disposed,omitempty" doc:"blocks that a disposal on record has deleted"`
	Problems []Finding `json:"problems"`
}

// Finding is one thing that fsck found to be wrong.
type Finding struct {
	Where   string `json:"where"`
	Message string `json:"message"`
}

// Control is what is in force.
type Control interface {
	Config(ctx context.Context) (Document, error)
	Policy(ctx context.Context) (Document, error)
	// Reload reads the configuration and the policies again and puts them in
	// force: both as a whole, or neither. Invalid, with Details, says why not.
	// dry only says what would change.
	Reload(ctx context.Context, dry bool, by evidence.By) (Reload, error)
}

// Document is a set of texts in force.
type Document struct {
	Digest string          `json:"digest"`
	Since  string          `json:"since,omitempty" doc:"position of the record that put it in force"`
	Files  []evidence.File `json:"files"`
	// Actions are those that policies can name, with what each stands in.
	Actions map[string][]string `json:"actions,omitempty"`
}

// Reload is what reloading changed. A part without Diff is as it was.
type Reload struct {
	Config  Diff `json:"config"`
	Policy  Diff `json:"policy"`
	Applied bool `json:"applied"`
	// Restart names the keys whose change counts only from the next start.
	Restart []string `json:"restart,omitempty"`
	// Edited is how the policy folder differs from what stays in force.
	Edited *Edited `json:"edited,omitempty"`
}

// Edited is a difference of the policy folder that isn't loaded.
type Edited struct {
	Diff
	Why  string `json:"why"`
	Hint string `json:"hint"`
}

// Diff is the change of a set of texts.
type Diff struct {
	Before string `json:"before" doc:"digest"`
	After  string `json:"after" doc:"digest"`
	Diff   string `json:"diff,omitempty" doc:"unified"`
}

// Packs makes evidence packs, and hands out evidence in the forms of others.
type Packs interface {
	// CreatePack writes a pack to w, and says how far it is. The export is
	// recorded before the first byte leaves. The same request of the same person
	// goes on where it was interrupted.
	CreatePack(ctx context.Context, r PackRequest, by evidence.By, w io.Writer, progress func(Progress)) (Pack, error)
	// UnsealSample writes what is sealed of a sample to w, encrypted to the
	// auditor. That is recorded, and in the log, before anything is opened.
	UnsealSample(ctx context.Context, r UnsealRequest, by evidence.By, w io.Writer) (Unsealed, error)
	// ExportOCSF writes the records of a range to w as events, one a line. The
	// read is recorded before the first byte leaves.
	ExportOCSF(ctx context.Context, r Range, by evidence.By, w io.Writer, progress func(Progress)) (Export, error)
}

// Export is what was written.
type Export struct {
	Events uint64 `json:"events"`
	From   string `json:"from,omitempty" doc:"position of the first record"`
	To     string `json:"to,omitempty" doc:"position of the last record"`
}

// PackRequest says what a pack holds.
type PackRequest struct {
	From      Moment
	To        Moment
	Purpose   string
	Level     string // "L0", "L1" or "L3"; "" is L1
	Recipient string // age recipient that the pack is encrypted to; L3 needs one
	Restart   bool   // begins again, where the same request was interrupted
}

// Progress is how far something long is. Total is 0 while it isn't known.
type Progress struct {
	Stage string `json:"stage"`
	Done  uint64 `json:"done"`
	Total uint64 `json:"total,omitempty"`

	Records uint64 `json:"records,omitempty" doc:"read so far"`
}

// Pack is a pack that was written.
type Pack struct {
	From    string `json:"from" doc:"position of its first record"`
	To      string `json:"to" doc:"position of its last record"`
	Records uint64 `json:"records"`
	Blocks  uint64 `json:"blocks"`
	Bytes   uint64 `json:"bytes"`
	Digest  string `json:"digest" doc:"SHA-256 of its bytes, hex"`

	Manifest string `json:"manifest" doc:"SHA-256 of its manifest, hex"`
	Made     string `json:"made" doc:"position of the record that has that"`

	Cosignatures int    `json:"cosignatures" doc:"of witnesses, under its checkpoint"`
	Unwitnessed  string `json:"unwitnessed,omitempty" doc:"why it lacks a quorum of them"`
	Stamps       int    `json:"stamps,omitempty" doc:"checkpoints with time stamps in it"`

	Resumed uint64 `json:"resumed,omitempty" doc:"records of which it went on where the same request was interrupted"`
	Again   string `json:"again,omitempty" doc:"why it began again instead"`
}

// Sessions are the live ones.
type Sessions interface {
	// Sessions returns what is connected now, ordered by position.
	Sessions(ctx context.Context) ([]Session, error)
	// Kill ends sessions at once, and records it. NotFound when none is open.
	Kill(ctx context.Context, k KillRequest, by evidence.By) (Killed, error)
}

// KillRequest says which sessions end: one, or all of an agent.
type KillRequest struct {
	Session string `json:"session,omitempty" maxLength:"128" doc:"position of its session.start"`
	Agent   string `json:"agent,omitempty" maxLength:"128" doc:"or all that this agent has open"`
	Reason  string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record; agents aren't told"`
}

// Killed is what was ended.
type Killed struct {
	Position string   `json:"position" doc:"of the record"`
	Agent    string   `json:"agent"`
	Sessions []string `json:"sessions"`
}

// Session is a live session.
type Session struct {
	ID        string    `json:"id" doc:"position of its session.start"`
	Agent     string    `json:"agent"`
	Resource  string    `json:"resource"`
	Principal string    `json:"principal,omitempty"`
	Ticket    string    `json:"ticket,omitempty"`
	Client    string    `json:"client"`
	Since     time.Time `json:"since"`
	Commands  uint64    `json:"commands"`
	Denied    uint64    `json:"denied"`
}

// Alerts are what asked people to look.
type Alerts interface {
	// Alerts returns alerts in the order of their records: all, or those that
	// nobody has acknowledged.
	Alerts(ctx context.Context, r Range, open bool, by evidence.By) ([]Alert, error)
	// AcknowledgeAlert records that a person looked, and what they found.
	// Conflict when somebody has.
	AcknowledgeAlert(ctx context.Context, id string, n NewAcknowledgement, by evidence.By) (Alert, error)
}

// Alert asks people to look.
type Alert struct {
	ID           string           `json:"id" doc:"the position of its record"`
	Time         time.Time        `json:"time"`
	Rule         string           `json:"rule"`
	Severity     string           `json:"severity" enum:"low,medium,high"`
	Agent        string           `json:"agent,omitempty"`
	Resource     string           `json:"resource,omitempty"`
	Session      string           `json:"session,omitempty"`
	Trigger      string           `json:"trigger,omitempty" doc:"position of the record that it is about"`
	Text         string           `json:"text"`
	Acknowledged *Acknowledgement `json:"acknowledged,omitempty"`
}

// Acknowledgement is what a person found.
type Acknowledgement struct {
	Disposition string `json:"disposition" enum:"expected,false_positive,incident"`
	Incident    string `json:"incident,omitempty"`
	Change
}

// NewAcknowledgement is an acknowledgement to record.
type NewAcknowledgement struct {
	Disposition string `json:"disposition" enum:"expected,false_positive,incident" doc:"expected: it was meant to happen; false_positive: it was not what the rule looks for; incident: it is being dealt with"`
	Incident    string `json:"incident,omitempty" maxLength:"200" doc:"id of the incident, where it is kept"`
	Reason      string `json:"reason,omitempty" maxLength:"1000"`
}

// Version says which gateway this is.
type Version struct {
	Version string `json:"version"`
	Gateway string `json:"gateway"`
	Origin  string `json:"origin"`
}
