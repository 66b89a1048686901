package evidence

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
	SessionNote     Type = "session.note"     // NoteBody: frames of the session itself, or of the gateway's own
	SessionEnd      Type = "session.end"      // SessionEndBody

	CommandIntent Type = "command.intent" // IntentBody; sealed: IntentSealed
	CommandResult Type = "command.result" // ResultBody, often absent; sealed: ResultSealed
	TxEnd         Type = "tx.end"         // TxEndBody
	Resolution    Type = "resolution"     // ResolutionBody

	AgentCreate      Type = "identity.create"   // AgentBody; control
	AgentDisable     Type = "identity.disable"  // DisableBody; control
	CredentialEnroll Type = "credential.enroll" // CredentialBody; control: a key of an agent
	CredentialRevoke Type = "credential.revoke" // RevokeBody; control
	CredentialIssue  Type = "credential.issue"  // CredentialBody: a short-lived token
	GrantCreate      Type = "grant.create"      // GrantBody; control
	GrantRemove      Type = "grant.remove"      // RevokeBody; control
	PolicyChange     Type = "policy.change"     // PolicyBody; control
	ConfigChange     Type = "config.change"     // ConfigBody; control

	ImportSnapshot Type = "import.snapshot" // ImportBody: a catalogue read from an upstream
	Alert          Type = "alert"           // AlertBody
	EvidenceRead   Type = "evidence.read"   // ReadBody
	PackExport     Type = "pack.export"     // ReadBody

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
		GrantCreate, GrantRemove, PolicyChange, ConfigChange, LogKey:
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
		AgentDisable, CredentialRevoke, GrantRemove:
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
	// Until is when the decision could change by itself (a grant expires), in
	// microseconds since the epoch; 0 is never. It is not recorded: replay
	// derives it again.
	Until int64 `json:"-"`
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
	Name   string   // of the prepared statement or portal; sealed, since agents choose it
	Frames int      // protocol frames that ask it
	Bytes  int      // their bytes
	Of     Position // intent that prepared it, if one did
	Skip   bool     // recorded as skipped: it will not be forwarded
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
