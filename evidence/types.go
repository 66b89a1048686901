package evidence

import "time"

// Type says what a record is about. The names follow docs/spec/record.md,
// which also maps them to OCSF classes.
type Type string

// The types of record.
const (
	GatewayStart Type = "gateway.start" // GatewayStartBody
	GatewayStop  Type = "gateway.stop"  // GatewayStopBody
	Heartbeat    Type = "heartbeat"     // HeartbeatBody
	TimeStep     Type = "time.step"     // TimeStepBody
	RecordingGap Type = "recording.gap" // GapBody

	Authn           Type = "authn"            // AuthnBody; sealed: AuthnSealed
	SessionStart    Type = "session.start"    // SessionStartBody; connecting is a command: it carries a decision
	SessionUpstream Type = "session.upstream" // SessionUpstreamBody
	OwnUpstream     Type = "gateway.upstream" // OwnUpstreamBody: a connection that the gateway made for itself
	SessionNote     Type = "session.note"     // NoteBody: frames of the session itself, or of the gateway's own
	SessionEnd      Type = "session.end"      // SessionEndBody

	CommandIntent  Type = "command.intent"  // IntentBody; sealed: IntentSealed
	CommandContent Type = "command.content" // ContentBody; sealed: ContentSealed: what flowed within a command, piece by piece
	CommandResult  Type = "command.result"  // ResultBody, often absent; sealed: ResultSealed
	TxEnd          Type = "tx.end"          // TxEndBody
	Resolution     Type = "resolution"      // ResolutionBody

	AgentCreate      Type = "identity.create"       // AgentBody; control
	AgentDisable     Type = "identity.disable"      // DisableBody; control
	CredentialEnroll Type = "credential.enroll"     // CredentialBody; control: a key of an agent
	CredentialRevoke Type = "credential.revoke"     // RevokeBody; control
	CredentialIssue  Type = "credential.issue"      // CredentialBody: a short-lived token
	GrantCreate      Type = "grant.create"          // GrantBody; control
	GrantRemove      Type = "grant.remove"          // RevokeBody; control
	ApprovalRequest  Type = "approval.request"      // ApprovalRequestBody; control
	ApprovalDecision Type = "approval.decision"     // ApprovalDecisionBody; control
	ApprovalUse      Type = "approval.use"          // ApprovalUseBody; control: what a command was let through by
	PolicyChange     Type = "policy.change"         // PolicyBody; control
	ConfigChange     Type = "config.change"         // ConfigBody; control
	StateSnapshot    Type = "state.snapshot"        // SnapshotBody; control: what the control records before it fold to
	OwnerChange      Type = "identity.owner_change" // OwnerBody; control
	PersonLeave      Type = "person.leave"          // LeaveBody; control: agents without owner are suspended
	PersonReturn     Type = "person.return"         // LeaveBody; control

	ImportSnapshot Type = "import.snapshot" // ImportBody: of an upstream, or of something else outside
	ReconRun       Type = "recon.run"       // ReconBody: an upstream's sessions held against the gateway's
	SessionKill    Type = "session.kill"    // KillBody
	Alert          Type = "alert"           // AlertBody
	AlertAck       Type = "alert.ack"       // AlertAckBody
	EvidenceRead   Type = "evidence.read"   // ReadBody
	PackExport     Type = "pack.export"     // ReadBody
	PackMade       Type = "pack.made"       // PackMadeBody

	LogHold   Type = "log.hold"  // HoldBody; control: nothing is erased while one stands
	Redaction Type = "redaction" // RedactionBody; control: what is sealed of a session is erased
	Disposal  Type = "disposal"  // DisposalBody; control: blocks past their retention are deleted

	LogKey     Type = "log.key"     // LogKeyBody; control: who signs the log
	LogBackup  Type = "log.backup"  // BackupBody
	LogRestore Type = "log.restore" // RestoreBody
)

// IsControl reports whether records of type t change who may do what, which is
// also which key may speak for the log. Blocks that hold one are chained, so
// that the registry folds without the rest.
func (t Type) IsControl() bool {
	switch t {
	case AgentCreate, AgentDisable, CredentialEnroll, CredentialRevoke,
		GrantCreate, GrantRemove, ApprovalRequest, ApprovalDecision, ApprovalUse,
		PolicyChange, ConfigChange, StateSnapshot, LogKey, LogHold, Redaction, Disposal, OwnerChange, PersonLeave, PersonReturn:
		return true
	}
	return false
}

// IsEnding reports whether records of type t end something, or take a right
// away. They may use the space reserved for a full disk: what is going on must
// be able to end, and to be stopped.
func (t Type) IsEnding() bool {
	switch t {
	case CommandResult, TxEnd, Resolution, SessionEnd, SessionNote, GatewayStop, RecordingGap,
		AgentDisable, CredentialRevoke, GrantRemove, PersonLeave, SessionKill:
		return true
	}
	return false
}

// Direction is where observed bytes flow.
type Direction uint8

// The two directions.
const (
	ToUpstream Direction = iota
	ToAgent
)

// Verb classes, weakest first; a command has the class of its strongest check.
const (
	VerbSession = "session"
	VerbConnect = "connect"
	VerbRead    = "read"
	VerbWrite   = "write"
	VerbAdmin   = "admin"
	VerbOpaque  = "opaque" // not understood
)

// Check is one authorization question: may this be done to that? Action is
// "protocol:action" (a Cedar Action id), Object the thing's name within its
// resource, "" for the resource itself.
type Check struct {
	Action string `json:"action"`
	Object string `json:"object,omitempty"`
}

// Facts are what policy may ask about besides agent, action and object. Values
// are bool, string, int64 or []string. They are coarse on purpose: equal facts
// share one decision.
type Facts map[string]any

// Decision is what policy said of one command, with what it said it by. It is
// a pure function of the checks, the facts, the time and the registry at the
// intent's own position.
type Decision struct {
	Effect Effect   `json:"effect"`
	Rules  []string `json:"rules,omitempty"`  // ids of the deciding policies, sorted
	Grants []string `json:"grants,omitempty"` // ids of the grants that put the agent in their roles, sorted
	Policy string   `json:"policy,omitempty"` // digest of the policy bundle
	Reason string   `json:"reason,omitempty"` // of a refusal, for the agent to read
	// Obligations are what the rules ask beside their yes, the strictest of all.
	// A command that is refused for want of an approval has them too.
	Obligations *Obligations `json:"obligations,omitempty"`
	Approval    string       `json:"approval,omitempty"` // the approved request that this command used
	Limit       string       `json:"limit,omitempty"`    // the limit that refused it, of those below
	// Until is when the decision could change by itself (a grant expires), in
	// microseconds since the epoch; 0 is never. It is not recorded: replay
	// derives it again.
	Until int64 `json:"-"`
}

// Obligations are what policy asks of commands that it allows. Zero is no such
// obligation.
type Obligations struct {
	Approval []ApprovalNeed `json:"approval,omitempty"` // by group
	Rows     int64          `json:"rows,omitempty"`     // that one command may return or change
	Bytes    int64          `json:"bytes,omitempty"`    // that one command may return
	Millis   int64          `json:"ms,omitempty"`       // that one command may take
	Commands int64          `json:"commands,omitempty"` // of the agent, in an hour of the clock (UTC)
	Writes   int64          `json:"writes,omitempty"`   // likewise, of those that aren't reads
	Alert    []string       `json:"alert,omitempty"`    // names of the alerts to raise, sorted
}

// The limits that can refuse a command that the rules allow: those that count
// an agent's commands.
const (
	LimitCommands = "commands"
	LimitWrites   = "writes"
)

// ApprovalNeed says how many people of a group must say yes.
type ApprovalNeed struct {
	Group string `json:"group"`
	Count int    `json:"count"`
}

// Approvals and limits bind each thing that an agent does once. These paths are
// of commands that are not that yet, or no more: they prepare another, fetch what
// one began that was bound already, or come before all.
const (
	PathPrepare = "prepare"
	PathFetch   = "fetch"
	PathConnect = "connect"
)

// Unbound reports whether approvals and counts pass over commands of a path.
func Unbound(path string) bool {
	return path == PathPrepare || path == PathFetch || path == PathConnect
}

// Parse says how much of a command was understood.
type Parse string

// The degrees of understanding.
const (
	ParseFull    Parse = "full"
	ParsePartial Parse = "partial"
	ParseOpaque  Parse = "opaque"
)

// Command is what an agent asks of a system, as its protocol understood it.
// Shape holds what repeats; Raw and Params are sealed.
type Command struct {
	*Shape
	Raw    []byte   // the exact text, or nil when Shape.Prepared names it; sealed
	Params [][]byte // bound values, nil for NULL; sealed
	// Encoding is how the values are to be read, in the protocol's own bytes; nil
	// is the usual way. Sealed. PostgreSQL: the format codes of the Bind or
	// FunctionCall as they stand there, behind their number, and after them the
	// types of the Parse in the same way, if it names any.
	Encoding []byte
	Name     string   // of the prepared statement or portal; sealed, since agents choose it
	Frames   int      // protocol frames that ask it
	Bytes    int      // their bytes
	Of       Position // intent that prepared it, if one did
	Skip     bool     // recorded as skipped: it will not be forwarded

	// Exact is the text that Raw would be, where Of names the command that has
	// it. It is not recorded: what people approve is digested over it.
	Exact []byte
	// Streams says that content comes with the command which neither Raw nor
	// Params hold: people can't approve what they haven't seen.
	Streams bool
	// Wait, when set, says that the agent can wait until people have approved
	// the command. It is called once when that begins, with the id of the
	// request and when it ends, to tell the agent; Begin goes on after it. Where
	// it is nil a command that needs an approval is refused at once: in the
	// middle of a transaction or behind others nobody may wait.
	Wait func(request string, until time.Time)
}

// Shape is the part of a command that is equal for equal statements. It is
// immutable, so that protocols cache it and the path caches by its address.
type Shape struct {
	Path   string // how it came: "simple", "prepare", "execute", "extended", ...
	Parse  Parse
	Verb   string // verb class
	Text   string // normalized: no comments, literals, or names outside the catalogue
	Checks []Check
	Facts  Facts
}

// Outcome is how a command ended.
type Outcome struct {
	Class  OutcomeClass
	Code   string // SQLSTATE or like
	Rows   uint64
	Reply  uint64 // bytes towards the agent
	Detail string // the upstream's words; sealed
}
