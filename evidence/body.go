package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The bodies below are JSON objects, stored and committed to as the exact
// bytes written. Times are microseconds since the epoch unless said otherwise.

// Person is a human being who is accountable for something.
type Person struct {
	ID    string `json:"id"` // stable, e.g. "alice@example.com"
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
}

// By says who did something and how they were known.
type By struct {
	Person Person `json:"person"`
	Via    string `json:"via"` // e.g. "unix peer uid 1000", "gateway"
}

// GatewayStartBody opens a boot.
type GatewayStartBody struct {
	Previous  Position `json:"previous"` // last record of the boot before; zero on the first
	Clean     bool     `json:"clean"`    // the boot before ended with gateway.stop
	Version   string   `json:"version"`
	Binary    string   `json:"binary"` // sha256 of the executable, hex
	Config    string   `json:"config"` // digest of the configuration it will run with; a change follows where it is new
	Policy    string   `json:"policy"` // digest of the policy bundle, likewise
	FailMode  string   `json:"fail_mode"`
	Heartbeat int64    `json:"heartbeat_s"` // longest silence, seconds
	Host      string   `json:"host"`
	Origin    string   `json:"origin"` // of the log
	LogKey    string   `json:"log_key"`
}

// GatewayStopBody closes a boot in good order.
type GatewayStopBody struct {
	Reason string `json:"reason"`
	Open   int    `json:"open"` // sessions cut off
}

// HeartbeatBody shows that the gateway ran while nothing happened.
type HeartbeatBody struct {
	Sessions int    `json:"sessions"`
	Mono     int64  `json:"mono_us"` // monotonic clock since boot
	Accepted uint64 `json:"accepted"`
}

// TimeStepBody records that the wall clock moved against the monotonic one.
type TimeStepBody struct {
	StepMicros int64 `json:"step_us"`
}

// GapBody admits that something passed unrecorded, or may have.
type GapBody struct {
	Cause    string     `json:"cause"`
	Sessions []Position `json:"sessions,omitempty"`
}

// AuthnBody is one attempt to prove an identity.
type AuthnBody struct {
	Protocol   string `json:"protocol"`
	Method     string `json:"method"` // "token", "certificate"
	Credential string `json:"credential,omitempty"`
	Key        string `json:"key,omitempty"` // enrolled key behind the credential
	TokenHash  string `json:"token_hash,omitempty"`
	Client     string `json:"client"` // addr:port, or "unix uid=..."
	Listener   string `json:"listener"`
	Failure    string `json:"failure,omitempty"` // code of the reason
}

// AuthnSealed is what an unproven peer claimed.
type AuthnSealed struct {
	User     string `json:"user"`
	Database string `json:"database,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// SessionStartBody holds every fact of a session that doesn't change, and the
// decision to let it connect.
type SessionStartBody struct {
	Protocol   string  `json:"protocol"`
	Agent      string  `json:"agent"`
	Owner      Person  `json:"owner"` // as of this position
	Principal  string  `json:"principal"`
	PType      string  `json:"principal_type"` // "self", "human", "system"
	Ticket     string  `json:"ticket,omitempty"`
	Credential string  `json:"credential"`
	Authn      string  `json:"authn"` // position of the authn record
	Client     string  `json:"client"`
	Listener   string  `json:"listener"`
	TLS        string  `json:"tls,omitempty"` // version and cipher of the agent's leg
	Upstream   string  `json:"upstream"`      // configured address
	User       string  `json:"upstream_user"`
	Database   string  `json:"database,omitempty"`
	Durability string  `json:"durability"`   // of reads: "power" or "process"
	Mode       string  `json:"enforce_mode"` // "enforce"
	Context    Facts   `json:"context"`      // facts that every decision of the session sees
	Checks     []Check `json:"checks"`
	Decision
}

// SessionUpstreamBody is what the upstream is, once connected.
type SessionUpstreamBody struct {
	Local  string `json:"local"`
	Remote string `json:"remote"`
	Server string `json:"server,omitempty"` // version
	System string `json:"system,omitempty"` // identifier of the database system
	PID    uint32 `json:"pid,omitempty"`
	Start  string `json:"start,omitempty"` // backend start
	TLS    string `json:"tls,omitempty"`
	Peer   string `json:"peer,omitempty"` // sha256 of the upstream's certificate, hex
}

// NoteBody accounts for frames that belong to the session and to no command,
// and for those that the gateway made itself.
type NoteBody struct {
	Kind   string `json:"kind"`   // "sync", "cancel", "terminate", "denial", "setup", ...
	Origin string `json:"origin"` // "agent" or "gateway"
	Detail string `json:"detail,omitempty"`
}

// SessionEndBody closes a session.
type SessionEndBody struct {
	Reason   string            `json:"reason"`
	Commands uint64            `json:"commands"`
	Denied   uint64            `json:"denied"`
	Frames   map[string]uint64 `json:"frames,omitempty"` // by frame type, towards the upstream
}

// IntentBody is a command and its decision. It holds only what is equal for
// equal statements.
type IntentBody struct {
	Path   string  `json:"path"`
	Parse  Parse   `json:"parse"`
	Text   string  `json:"text,omitempty"`
	Checks []Check `json:"checks"`
	Facts  Facts   `json:"facts,omitempty"`
	Decision
}

// IntentSealed is the command as it was asked.
type IntentSealed struct {
	Raw    []byte   `json:"raw,omitempty"`
	Params [][]byte `json:"params,omitempty"`
	// Encoding is as in Command.
	Encoding []byte `json:"encoding,omitempty"`
	Name     string `json:"name,omitempty"`
	// Left is what was too large to keep, as its keyed digest.
	Left []LeftOut `json:"left_out,omitempty"`
}

// MaxSealed is how many bytes of a command's text and values are kept. Of a
// command with more, the larger parts are left out.
const MaxSealed = 4 << 20

// LeftOut stands for a part of a command that was too large to keep.
type LeftOut struct {
	Part   string `json:"part"` // "raw" or "params"
	Count  int    `json:"count,omitempty"`
	Bytes  uint64 `json:"bytes"`
	Digest string `json:"digest"` // keyed; of params, each behind its length as 8 bytes big endian, all ones for NULL
}

// LeaveOut returns the sealed part of a command with more than MaxSealed bytes:
// its values become a digest, and its text too if it alone is too large.
func LeaveOut(c *Command, digester Digester) IntentSealed {
	s := IntentSealed{Raw: c.Raw, Encoding: c.Encoding, Name: c.Name}
	if len(c.Raw) > MaxSealed {
		d := digester.New()
		d.Write(c.Raw) //nolint:errcheck // a hash takes everything
		s.Raw, s.Left = nil, append(s.Left, LeftOut{Part: "raw", Bytes: uint64(len(c.Raw)), Digest: base64.RawURLEncoding.EncodeToString(d.Sum(nil))})
	}
	if len(c.Params) == 0 {
		return s
	}
	left, d := LeftOut{Part: "params", Count: len(c.Params)}, digester.New()
	for _, p := range c.Params {
		n := uint64(len(p))
		if p == nil {
			n = math.MaxUint64
		}
		d.Write(binary.BigEndian.AppendUint64(nil, n)) //nolint:errcheck // as above
		d.Write(p)                                     //nolint:errcheck // as above
		left.Bytes += uint64(len(p))
	}
	left.Digest = base64.RawURLEncoding.EncodeToString(d.Sum(nil))
	s.Left = append(s.Left, left)
	return s
}

// Size is the bytes of a command's text and values.
func (c *Command) Size() int {
	n := len(c.Raw)
	for _, p := range c.Params {
		n += len(p)
	}
	return n
}

// AppendIntentSealed appends the sealed part of a command to b, the bytes that
// EncodeBody would give of its IntentSealed, without the cost: it is made for
// every command of no more than MaxSealed bytes. It appends nothing when there
// is nothing to seal.
func AppendIntentSealed(b []byte, c *Command) []byte {
	if len(c.Raw) == 0 && len(c.Params) == 0 && len(c.Encoding) == 0 && c.Name == "" {
		return b
	}
	b = append(b, '{')
	sep := ""
	if len(c.Raw) > 0 {
		b = appendBase64(append(b, `"raw":`...), c.Raw)
		sep = ","
	}
	if len(c.Params) > 0 {
		b = append(append(b, sep...), `"params":[`...)
		for i, p := range c.Params {
			if i > 0 {
				b = append(b, ',')
			}
			if p == nil {
				b = append(b, `null`...)
			} else {
				b = appendBase64(b, p)
			}
		}
		b = append(b, ']')
		sep = ","
	}
	if len(c.Encoding) > 0 {
		b = appendBase64(append(append(b, sep...), `"encoding":`...), c.Encoding)
		sep = ","
	}
	if c.Name != "" {
		b = append(append(b, sep...), `"name":`...)
		b = append(b, EncodeBody(c.Name)...)
	}
	return append(b, '}')
}

func appendBase64(b, p []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, p)
	return append(b, '"')
}

// ContentBody is content that flowed within a command, recorded before it went
// on: what an agent typed, and what a terminal showed. The head's of names the
// command; its bytes and reply stay with the command's result, which has them in
// sum.
type ContentBody struct {
	To     string `json:"to"`                 // "upstream" or "agent"
	Bytes  uint64 `json:"bytes"`              // of all pieces
	Digest string `json:"digest"`             // keyed, of all pieces in order
	Left   bool   `json:"left_out,omitempty"` // the pieces weren't kept: the command has more content than that
}

// ContentSealed is the content itself.
type ContentSealed struct {
	Pieces []Piece `json:"pieces"`
}

// Piece is content of one of a command's streams.
type Piece struct {
	Stream string `json:"stream"` // "stdin", "stdout", "stderr", "error" or "resize"
	Data   []byte `json:"data"`
}

// MaxContent is how many bytes of content are kept of one command, in each
// direction.
const MaxContent = 16 << 20

// ResultBody holds what was observed of a stream.
type ResultBody struct {
	Streamed uint64 `json:"streamed,omitempty"` // bytes of stream content, both directions
	Digest   string `json:"digest,omitempty"`   // keyed digest of the content
}

// AppendResultBody appends the bytes that EncodeBody would give of a ResultBody,
// without the cost: it is made for every response. Digest is in base64url.
func AppendResultBody(b []byte, streamed uint64, digest []byte) []byte {
	b = append(b, '{')
	sep := ""
	if streamed > 0 {
		b = strconv.AppendUint(append(b, `"streamed":`...), streamed, 10)
		sep = ","
	}
	if len(digest) > 0 {
		b = append(append(append(append(b, sep...), `"digest":"`...), digest...), '"')
	}
	return append(b, '}')
}

// ResultSealed is the upstream's own words about a failure.
type ResultSealed struct {
	Detail string `json:"detail"`
}

// TxEndBody says how commands that stand or fall together ended: those of its
// session with an intent from First to Last. A block always has one; an
// implicit transaction, a pipeline up to its Sync, only when commands with the
// outcome ok were rolled back, or a COMMIT or ROLLBACK ended it before its Sync,
// since otherwise their own outcomes say it. Commands counts all intents of the
// session from First to Last, those that were denied or skipped among them.
type TxEndBody struct {
	Result   string   `json:"result"` // "commit", "rollback", "prepare" or "unknown"
	Block    bool     `json:"block"`  // between BEGIN and COMMIT, or their like
	First    Position `json:"first"`
	Last     Position `json:"last"`
	Commands int      `json:"commands"`
	ID       string   `json:"xid,omitempty"` // the upstream's own id of it, where it is known
}

// ResolutionBody says later what an in_doubt was.
type ResolutionBody struct {
	Result string `json:"result"`        // "committed", "rolled_back" or "unknown"
	How    string `json:"how"`           // what that was concluded from
	ID     string `json:"xid,omitempty"` // the upstream's own id of the transaction
}

// AgentBody registers an agent.
type AgentBody struct {
	Agent   string `json:"agent"`
	Name    string `json:"name,omitempty"`
	Purpose string `json:"purpose"`
	Owner   Person `json:"owner"`
	Backup  Person `json:"backup_owner,omitzero"`
	Team    string `json:"team,omitempty"`
	Env     string `json:"env,omitempty"`
	Model   string `json:"model,omitempty"`
	Expires int64  `json:"expires,omitempty"`
	By      By     `json:"by"`
}

// DisableBody retires an agent.
type DisableBody struct {
	Agent  string `json:"agent"`
	Reason string `json:"reason"`
	By     By     `json:"by"`
}

// CredentialBody issues a credential: an enrolled key, or a token under one.
type CredentialBody struct {
	ID         string `json:"id"`
	Agent      string `json:"agent"`
	Kind       string `json:"kind"`       // "key" or "token"
	Thumbprint string `json:"thumbprint"` // RFC 7638, of the key
	PublicKey  string `json:"public_key,omitempty"`
	Issuer     string `json:"issuer"`
	NotBefore  int64  `json:"not_before"`
	NotAfter   int64  `json:"not_after"`
	Ticket     string `json:"ticket,omitempty"`
	Principal  string `json:"principal,omitempty"`
	By         By     `json:"by"`
}

// RevokeBody ends a credential or a grant.
type RevokeBody struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
	By     By     `json:"by"`
}

// GrantBody puts an agent in a role on a resource until it expires. The
// grant's id is the position of its record.
type GrantBody struct {
	Agent    string `json:"agent"`
	Role     string `json:"role"`
	Resource string `json:"resource"`
	Ticket   string `json:"ticket,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Starts   int64  `json:"starts,omitempty"` // 0 is at once
	Expires  int64  `json:"expires"`
	Renews   string `json:"renews,omitempty"`  // the grant that it goes on from
	Request  string `json:"request,omitempty"` // the approved request that asked for it
	By       By     `json:"by"`                // of a request, whose approval was the last one needed
}

// The kinds of request for an approval.
const (
	ApproveGrant   = "grant"
	ApprovePolicy  = "policy"
	ApproveCommand = "command"
	ApproveErasure = "erasure"

	ApproveDisposal = "disposal"
)

// ApprovalRequestBody asks people to approve one exact thing. The request's id
// is the position of its record. One of Grant, Policy, Command, Erasure and
// Disposal is set, as Kind says.
type ApprovalRequestBody struct {
	Kind    string        `json:"kind"`
	Digest  string        `json:"digest"` // of what is asked: of a grant ScopeDigest, of a policy its bundle's, of a command keyed
	Grant   *GrantScope   `json:"grant,omitempty"`
	Policy  *Proposal     `json:"policy,omitempty"`
	Command *HeldCommand  `json:"command,omitempty"`
	Erasure *ErasureScope `json:"erasure,omitempty"`

	Disposal *DisposalScope `json:"disposal,omitempty"`

	Needs   []ApprovalNeed `json:"needs"` // all of them
	Ticket  string         `json:"ticket,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Expires int64          `json:"expires"` // of the request and of what is approved and not yet used
	By      By             `json:"by"`      // who asks; for an agent, its owner
}

// Groups that aren't in the configuration's people: they depend on what is
// asked.
const (
	GroupResource = "resource" // the resource's owner, and people of its approvers' groups
	GroupPolicy   = "policy"   // people of the groups that approve policies; anyone when there are none
)

// GrantScope is what a grant would give. A grant that is made of it gives this
// or, when an approver said so, ends earlier.
type GrantScope struct {
	Agent    string `json:"agent"`
	Role     string `json:"role"`
	Resource string `json:"resource"`
	Starts   int64  `json:"starts,omitempty"`
	Expires  int64  `json:"expires"`
	Renews   string `json:"renews,omitempty"`
}

// Proposal is a policy bundle that somebody wants in force, with what was found
// out about it when it was proposed.
type Proposal struct {
	Before  string              `json:"before"` // digest of what it was made from
	Files   []File              `json:"files"`
	Actions map[string][]string `json:"actions"`
	Diff    string              `json:"diff,omitempty"`
	Tests   int                 `json:"tests"` // that stand beside the policies and passed
	// Backtest is how many recorded commands were decided again, over how many
	// days, and of how many the decision would differ.
	Backtest *Backtest `json:"backtest,omitempty"`
}

// Backtest is what a proposal would have changed.
type Backtest struct {
	Days     int               `json:"days"`
	Commands uint64            `json:"commands"`
	Differ   uint64            `json:"differ"`
	Agents   []BacktestByAgent `json:"agents,omitempty"` // those with differences, the most first
}

// BacktestByAgent counts the differences of one agent.
type BacktestByAgent struct {
	Agent   string `json:"agent"`
	Allowed uint64 `json:"allowed,omitempty"` // that were refused
	Refused uint64 `json:"refused,omitempty"` // that were allowed
}

// HeldCommand is a command that waits for people, or was refused until they
// have approved it. Digest of the request binds its exact text and values under
// a key of the gateway.
type HeldCommand struct {
	Session  Position `json:"session"`
	Agent    string   `json:"agent"`
	Resource string   `json:"resource"`
	Verb     string   `json:"verb"`
	Text     string   `json:"text,omitempty"` // normalized
	Checks   []Check  `json:"checks"`
	Facts    Facts    `json:"facts,omitempty"`
	Rules    []string `json:"rules"` // that want the approval, or stand beside such
}

// What a person can say of a request.
const (
	Approved  = "approve"
	Refused   = "deny"
	Withdrawn = "withdraw" // by who asked
)

// ApprovalDecisionBody is what one person said of a request.
type ApprovalDecisionBody struct {
	Request  string   `json:"request"`
	Digest   string   `json:"digest"` // of the request: what the person saw
	Decision string   `json:"decision"`
	Groups   []string `json:"groups,omitempty"`  // of the needs, those that the person stands for
	Expires  int64    `json:"expires,omitempty"` // an earlier end of the grant than was asked for
	Reason   string   `json:"reason,omitempty"`
	By       By       `json:"by"`
}

// ApprovalUseBody says that the command which its head's Of names was let
// through by an approved request. It stands next to that command's intent. No
// request is used twice.
type ApprovalUseBody struct {
	Request string `json:"request"`
	Digest  string `json:"digest"`
}

// File is a named text.
type File struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// PolicyBody activates a policy bundle: its whole text, so that the log alone
// replays every decision.
type PolicyBody struct {
	Digest  string              `json:"digest"`
	Before  string              `json:"before,omitempty"`
	Files   []File              `json:"files"`   // sorted by name
	Actions map[string][]string `json:"actions"` // action id to the actions it stands in
	Diff    string              `json:"diff,omitempty"`
	Request string              `json:"request,omitempty"`  // the approved request that proposed it
	Back    string              `json:"rollback,omitempty"` // the change that it goes back to: position of its record
	Reason  string              `json:"reason,omitempty"`   // why it goes back: nobody asked for that before
	By      By                  `json:"by"`
	// Signature is a line of a signed note, by the key of the log in force: this
	// gateway put the bundle in force (ledger.PolicyStatement).
	Signature string `json:"signature"`
}

// Resource is a system that agents reach through the gateway.
type Resource struct {
	Name       string            `json:"name"`
	Protocol   string            `json:"protocol"`
	Labels     map[string]string `json:"labels,omitempty"`
	Durability string            `json:"durability"`
	Owner      string            `json:"owner,omitempty"`     // id of the person who answers for it
	Approvers  []string          `json:"approvers,omitempty"` // groups whose people approve grants on it, beside the owner
	Direct     []Direct          `json:"direct,omitempty"`    // who else may connect to it
	Cluster    *Cluster          `json:"cluster,omitempty"`   // of the protocol kubernetes
}

// Whether rights need two people.
const (
	// SeparationRequired refuses a grant or a policy that another person has not
	// approved.
	SeparationRequired = "required"
	// SeparationReported lets one person do both, and shows each such change as
	// an exception.
	SeparationReported = "reported"
)

// Member is a person with the groups that they approve for.
type Member struct {
	ID     string   `json:"id"`
	Groups []string `json:"groups,omitempty"`
}

// ConfigBody puts a configuration in force. Its text holds references to
// secrets and never a secret.
type ConfigBody struct {
	Digest    string     `json:"digest"`
	Before    string     `json:"before,omitempty"`
	Text      string     `json:"text"`
	Diff      string     `json:"diff,omitempty"`
	Resources []Resource `json:"resources"`
	People    []Member   `json:"people,omitempty"`
	// Separation is one of the above; "" stands for reported.
	Separation      string   `json:"separation,omitempty"`
	PolicyApprovers []string `json:"policy_approvers,omitempty"` // groups
	// LeaverLimit is within how many seconds of a person's leaving their agents'
	// access must have ended; 0 is DefaultLeaverLimit.
	LeaverLimit int64 `json:"leaver_limit_s,omitempty"`
	// Retention is for how many seconds blocks of the log are kept; 0 is for ever.
	Retention int64 `json:"retention_s,omitempty"`
	By        By    `json:"by"`
}

// DefaultLeaverLimit is a day, in seconds.
const DefaultLeaverLimit = 86_400

// SnapshotBody is one part of the registry at the position of its first part:
// what all control records before that fold to. The parts stand next to each
// other. Whoever has them needs none of the records before.
type SnapshotBody struct {
	Digest string          `json:"digest"` // SHA-256, hex, of the data of all parts, one after another
	Part   int             `json:"part"`   // from 1
	Parts  int             `json:"parts"`
	Data   json.RawMessage `json:"data"` // docs/spec/record.md
}

// ImportBody is a snapshot of something outside.
type ImportBody struct {
	Kind      string            `json:"kind"` // "postgres.catalogue", ...
	Source    string            `json:"source"`
	Query     string            `json:"query"`                  // that the source was asked, exactly
	Params    map[string]string `json:"params,omitempty"`       // of it
	Extracted int64             `json:"extracted_at,omitempty"` // by the source, where it isn't the record's own time
	Rows      int               `json:"rows"`                   // that the source had
	Kept      int               `json:"kept,omitempty"`         // of them in data, where that isn't all
	Digest    string            `json:"digest"`                 // SHA-256, hex, of data
	File      string            `json:"file_digest,omitempty"`  // SHA-256, hex, of the file that was imported
	Data      json.RawMessage   `json:"data,omitempty"`
	Ticket    string            `json:"ticket,omitempty"` // under which what it finds changed was changed, as who imported it says
	By        By                `json:"by,omitzero"`      // who imported it; nobody where the gateway did by itself
}

// The rules by which a gateway raises alerts of itself. Those of policies have
// other names.
const (
	AlertDenials    = "denials.burst"      // an agent was refused too often
	AlertAuthn      = "authn.burst"        // too many attempts to prove an identity failed
	AlertShared     = "credential.shared"  // a key was used from two hosts
	AlertGap        = "recording.gap"      // something passed unrecorded, or may have
	AlertClock      = "clock.step"         // the wall clock was set
	AlertSeparation = "separation.lowered" // rights no longer need two people
	AlertRollback   = "policy.rollback"    // one person went back to an earlier policy
	AlertHandEdited = "policy.edited"      // the policies in the folder are not those in force
	AlertBypass     = "upstream.bypass"    // something went around the gateway
	AlertUntied     = "upstream.untied"    // an upstream's log and its counters don't say the same as the gateway
)

// AlertBody asks a person to look.
type AlertBody struct {
	Rule     string   `json:"rule"`
	Severity string   `json:"severity"` // "low", "medium", "high"
	Trigger  Position `json:"trigger"`
	Text     string   `json:"text"`
}

// KillBody says that a person ended sessions: those named, which are all of the
// agent's when Agent is set.
type KillBody struct {
	Agent    string     `json:"agent,omitempty"`
	Sessions []Position `json:"sessions"`
	Reason   string     `json:"reason"`
	By       By         `json:"by"`
}

// What a person found an alert to be.
const (
	AlertExpected      = "expected"
	AlertFalsePositive = "false_positive"
	AlertIncident      = "incident"
)

// AlertAckBody says that a person looked at the alert that its head's Of names.
type AlertAckBody struct {
	Disposition string `json:"disposition"`
	Incident    string `json:"incident,omitempty"` // its id elsewhere
	Reason      string `json:"reason,omitempty"`
	By          By     `json:"by"`
}

// ReadBody says who read evidence, or exported it.
type ReadBody struct {
	Purpose string `json:"purpose"`
	Object  string `json:"object"`
	Level   string `json:"level"` // "L0", "L1", "L2", "L3"
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	By      By     `json:"by"`
	// Of sealed parts that leave the gateway: who gets them, for which sample of
	// which pack, and of which records.
	Reader    string     `json:"reader,omitempty"`
	Recipient string     `json:"recipient,omitempty"` // age recipient that they are encrypted to
	Sample    string     `json:"sample,omitempty"`    // its digest, hex
	Manifest  string     `json:"manifest,omitempty"`  // of the pack, SHA-256, hex
	Records   []Position `json:"records,omitempty"`
}

// PackMadeBody says that the pack of the export that its head's Of names was
// written, and which it is: populations that were digested before anybody could
// draw of them.
type PackMadeBody struct {
	Manifest string `json:"manifest"` // SHA-256 of manifest.json, hex
	Level    string `json:"level"`
	Records  uint64 `json:"records"` // in its range
	By       By     `json:"by"`
}

// The changes of a legal hold.
const (
	HoldPlaced = "place"
	HoldLifted = "lift"
)

// HoldBody places a legal hold or lifts one. Nothing is erased while one stands.
type HoldBody struct {
	Change string `json:"change"`
	Hold   string `json:"hold,omitempty"`   // that is lifted: the position of the record that placed it
	Matter string `json:"matter,omitempty"` // the case or the like
	Reason string `json:"reason"`
	By     By     `json:"by"`
}

// ErasureScope is what an erasure would destroy: the secret of a session.
type ErasureScope struct {
	Session Position `json:"session"`
	Slot    uint64   `json:"slot"`  // of its secret in the key file of its boot
	Basis   string   `json:"basis"` // why it may, or must, be erased
}

// RedactionBody says that a session's secret is destroyed: what is sealed of it
// is erased, its bodies can't be held against their heads any more, and every
// other proof stands. It is on record before it is done.
type RedactionBody struct {
	Session Position `json:"session"`
	Slot    uint64   `json:"slot"`
	Basis   string   `json:"basis"`
	Request string   `json:"request,omitempty"` // the approved request for it
	By      By       `json:"by"`
}

// DisposalScope is what a disposal deletes: blocks of the log that are past
// their retention. It goes on after the block that the disposal before ended
// with. Blocks with control records stay, whatever their age: what was allowed
// at any later time follows from them. They aren't named, since headers say it.
type DisposalScope struct {
	First     uint64   `json:"first"`              // block that it begins with
	Last      uint64   `json:"last"`               // and ends with
	Kept      []uint64 `json:"kept,omitempty"`     // of these, without control records and still referred to; in order
	Released  []uint64 `json:"released,omitempty"` // that disposals before kept and this one deletes; in order
	Digest    Hash     `json:"digest"`             // RFC 6962 tree hash over the headers of blocks First to Last, deleted or not
	End       string   `json:"end"`                // header of block Last, exactly
	Blocks    uint64   `json:"blocks"`             // deleted
	Records   uint64   `json:"records"`            // in those
	Bytes     uint64   `json:"bytes"`              // of their files
	Retention int64    `json:"retention_s"`        // of the configuration by which they may go
	Reason    string   `json:"reason"`
}

// DisposalBody says that blocks are deleted. It is on record, and in a published
// checkpoint, before the first of them goes.
type DisposalBody struct {
	DisposalScope
	Size    uint64 `json:"size"`              // of a checkpoint that was published before and covers them
	Root    Hash   `json:"root"`              // its root
	Request string `json:"request,omitempty"` // the approved request for it
	By      By     `json:"by"`
}

// LogKeyBody changes the keys of the log's checkpoints. Keys are verifier keys
// of C2SP signed-note. The signatures make it a statement that stands by itself
// (docs/spec/log.md).
type LogKeyBody struct {
	Change     string   `json:"change"`     // "rotate": New takes the place of Old; "revoke": Old is not to be believed any more
	Old        string   `json:"old"`        // of a rotation the key in force before
	New        string   `json:"new"`        // the key in force after it; of a revocation also before
	Size       uint64   `json:"size"`       // of a checkpoint that was published before
	Root       Hash     `json:"root"`       // its root
	Signatures []string `json:"signatures"` // lines of a signed note: of a rotation by Old and New, of a revocation by New
	Reason     string   `json:"reason,omitempty"`
	By         By       `json:"by"`
}

// BackupBody says that the log is being copied: everything up to this record,
// and further. One that was made while no gateway ran has everything before the
// boot that records it, and its own time.
type BackupBody struct {
	Made       int64    `json:"made,omitempty"`       // when, if no gateway ran then
	Keys       bool     `json:"keys"`                 // those of the gateway and of sessions too
	Recipients []string `json:"recipients,omitempty"` // age recipients that they are encrypted to
	By         By       `json:"by"`
}

// RestoreBody says that the data folder was made of a backup since the boot
// before.
type RestoreBody struct {
	Made     int64  `json:"made"`     // when the backup was, as it says
	Restored int64  `json:"restored"` // when it was put in place
	Blocks   uint64 `json:"blocks"`   // of the log that was restored
	Root     Hash   `json:"root"`     // of its tree
	Keys     bool   `json:"keys"`     // came out of the backup
	By       By     `json:"by"`       // whose account did it
}

// ErrBody is wrapped by every failure to decode a body.
var ErrBody = errors.New("not a record body")

// EncodeBody returns the JSON of a body or a sealed part, on one line and
// without HTML escapes. It panics on values that JSON cannot hold, which only
// a mistake in this module can make.
func EncodeBody(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("evidence: encoding a body: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// DecodeBody decodes a body into v. Unknown keys, duplicate keys, floats and
// trailing bytes are refused, so that two readers can't read two things.
func DecodeBody(b []byte, v any) error {
	if err := checkJSON(b); err != nil {
		return fmt.Errorf("%w: %w", ErrBody, err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrBody, err)
	}
	return nil
}

// UnmarshalJSON keeps facts to the values that they may hold.
func (f *Facts) UnmarshalJSON(b []byte) error {
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return err
	}
	for k, v := range m {
		switch v := v.(type) {
		case bool, string:
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return fmt.Errorf("fact %q: %w", k, err)
			}
			m[k] = n
		case []any:
			list := make([]string, len(v))
			for i, e := range v {
				s, ok := e.(string)
				if !ok {
					return fmt.Errorf("fact %q: a list holds strings only", k)
				}
				list[i] = s
			}
			m[k] = list
		default:
			return fmt.Errorf("fact %q: a fact is a bool, string, integer or list of strings", k)
		}
	}
	*f = m
	return nil
}

// checkJSON refuses what encoding/json lets by: duplicate keys, numbers that
// aren't integers, and anything after the value.
func checkJSON(b []byte) error {
	if plainJSON(b) {
		return nil
	}
	return checkTokens(b)
}

// plainJSON reports whether b is beyond doubt what checkTokens takes. It is made
// for the bodies that gateways write, of which a start and a verifier read
// hundreds of thousands; whatever is unusual is not for it to judge.
func plainJSON(b []byte) bool {
	if !json.Valid(b) {
		return false
	}
	const mostKeys = 64
	var (
		keys   [mostKeys][]byte  // of the objects that are open, the innermost last
		begins [maxDepth + 1]int // where theirs begin, of each container; -1 is an array
		n      int               // keys
		depth  int
		isKey  bool // the next string is one
	)
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
			begins[depth], isKey = n, c == '{'
			if c == '[' {
				begins[depth] = -1
			}
		case '}', ']':
			if begins[depth] >= 0 {
				n = begins[depth]
			}
			depth, isKey = depth-1, false
		case ',':
			isKey = depth > 0 && begins[depth] >= 0
		case '"':
			end, plain := stringEnd(b, i)
			if isKey {
				key := b[i+1 : end]
				if !plain || n == mostKeys || slices.ContainsFunc(keys[begins[depth]:n], func(k []byte) bool { return bytes.EqualFold(k, key) }) {
					return false
				}
				keys[n] = key
				n, isKey = n+1, false
			}
			i = end
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			from := i
			for i+1 < len(b) && (b[i+1] >= '0' && b[i+1] <= '9') {
				i++
			}
			if i-from > 17 || i+1 < len(b) && (b[i+1] == '.' || b[i+1] == 'e' || b[i+1] == 'E') {
				return false // too long to be an integer for certain, or none
			}
		}
	}
	return true
}

// stringEnd returns where the string ends that begins at i, and whether it is
// ASCII without escapes.
func stringEnd(b []byte, i int) (end int, plain bool) {
	plain = true
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
			plain = false
		}
		plain = plain && b[i] < 0x80
	}
	return i, plain
}

func checkTokens(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the value")
	}
	return nil
}

// maxDepth bounds the nesting of a body; the deepest type above has five.
const maxDepth = 16

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return errors.New("nested too deeply")
	}
	switch t := t.(type) {
	case json.Number:
		if _, err := t.Int64(); err != nil {
			return fmt.Errorf("number %q is not an integer", t)
		}
	case json.Delim:
		var seen map[string]bool
		if t == '{' {
			seen = make(map[string]bool)
		}
		for d.More() {
			if seen != nil {
				k, err := d.Token()
				if err != nil {
					return err
				}
				// encoding/json matches keys without regard to case, so two
				// spellings of one key are two values of one field.
				key := strings.ToLower(fmt.Sprint(k))
				if seen[key] {
					return fmt.Errorf("duplicate key %q", key)
				}
				seen[key] = true
			}
			if err := checkValue(d, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil
}
