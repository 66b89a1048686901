package ocsf

import (
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// class is a class of the schema. The category is in its number.
type class struct {
	uid  int
	name string
}

var (
	base         = class{0, "Base Event"}
	detection    = class{2004, "Detection Finding"}
	account      = class{3001, "Account Change"}
	authenticate = class{3002, "Authentication"}
	entities     = class{3004, "Entity Management"}
	userAccess   = class{3005, "User Access Management"}
	configState  = class{5019, "Device Config State Change"}
	lifecycle    = class{6002, "Application Lifecycle"}
	apiActivity  = class{6003, "API Activity"}
	datastore    = class{6005, "Datastore Activity"}
	appError     = class{6008, "Application Error"}
	ownActor     = map[int]bool{3001: true, 3002: true, 3004: true, 3005: true, 5019: true, 6003: true, 6005: true} // the others have one by the profile host
	databases    = map[string]int{"postgres": 1}                                                                    // protocols of 6005, with the type of database
)

// activity is what happened, within a class.
type activity struct {
	id   int
	name string
}

const other = 99

// severity_id and status_id.
const (
	unknown       = 0
	informational = 1
	low           = 2
	medium        = 3
	high          = 4

	success = 1
	failure = 2
)

// mapping says what a type of record becomes. What reaches a system within a
// session gets its class from the system.
type mapping struct {
	class    class
	activity activity
	fill     func(*maker) error
}

// mappings are those of all types of record (docs/spec/ocsf.md).
var mappings = map[evidence.Type]mapping{
	evidence.GatewayStart: {lifecycle, activity{3, "Start"}, (*maker).gatewayStart},
	evidence.GatewayStop:  {lifecycle, activity{4, "Stop"}, (*maker).gatewayStop},
	evidence.LogRestore:   {lifecycle, activity{other, "Restore"}, (*maker).logRestore},
	evidence.Heartbeat:    {base, activity{other, "Heartbeat"}, (*maker).heartbeat},
	evidence.TimeStep:     {configState, activity{1, "Log"}, (*maker).timeStep},
	evidence.RecordingGap: {appError, activity{1, "General Error"}, (*maker).gap},

	evidence.Authn:       {authenticate, activity{1, "Logon"}, (*maker).authn},
	evidence.SessionEnd:  {authenticate, activity{2, "Logoff"}, (*maker).sessionEnd},
	evidence.SessionKill: {authenticate, activity{2, "Logoff"}, (*maker).sessionKill},

	evidence.SessionStart:    {datastore, activity{3, "Connect"}, (*maker).sessionStart},
	evidence.SessionUpstream: {datastore, activity{3, "Connect"}, (*maker).sessionUpstream},
	evidence.SessionNote:     {datastore, activity{other, "Session Note"}, (*maker).sessionNote},
	evidence.CommandIntent:   {datastore, activity{other, "Command"}, (*maker).commandIntent},
	evidence.CommandResult:   {datastore, activity{other, "Command"}, (*maker).commandResult},
	evidence.CommandContent:  {datastore, activity{other, "Command Content"}, (*maker).commandContent},
	evidence.TxEnd:           {datastore, activity{other, "Transaction End"}, (*maker).txEnd},
	evidence.Resolution:      {datastore, activity{other, "Resolution"}, (*maker).resolution},

	evidence.AgentCreate:      {account, activity{1, "Create"}, (*maker).agentCreate},
	evidence.AgentDisable:     {account, activity{5, "Disable"}, (*maker).agentDisable},
	evidence.CredentialEnroll: {entities, activity{1, "Create"}, (*maker).credential},
	evidence.CredentialIssue:  {entities, activity{1, "Create"}, (*maker).credential},
	evidence.CredentialRevoke: {entities, activity{4, "Delete"}, (*maker).credentialRevoke},
	evidence.GrantCreate:      {userAccess, activity{1, "Assign Privileges"}, (*maker).grantCreate},
	evidence.GrantRemove:      {userAccess, activity{2, "Revoke Privileges"}, (*maker).grantRemove},
	evidence.ApprovalRequest:  {entities, activity{1, "Create"}, (*maker).approvalRequest},
	evidence.ApprovalDecision: {entities, activity{10, "Activate"}, (*maker).approvalDecision},
	evidence.ApprovalUse:      {entities, activity{10, "Activate"}, (*maker).approvalUse},
	evidence.PolicyChange:     {entities, activity{3, "Update"}, (*maker).policyChange},
	evidence.ConfigChange:     {entities, activity{3, "Update"}, (*maker).configChange},
	evidence.LogKey:           {entities, activity{3, "Update"}, (*maker).logKey},
	evidence.LogHold:          {entities, activity{3, "Update"}, (*maker).logHold},
	evidence.Redaction:        {entities, activity{4, "Delete"}, (*maker).redaction},
	evidence.Disposal:         {entities, activity{4, "Delete"}, (*maker).disposal},
	evidence.StateSnapshot:    {base, activity{other, "Registry Snapshot"}, (*maker).stateSnapshot},

	evidence.OwnerChange:  {entities, activity{3, "Update"}, (*maker).ownerChange},
	evidence.PersonLeave:  {entities, activity{3, "Update"}, (*maker).person},
	evidence.PersonReturn: {entities, activity{3, "Update"}, (*maker).person},
	evidence.OwnUpstream:  {base, activity{other, "Own Connection"}, (*maker).ownUpstream},
	evidence.ReconRun:     {base, activity{other, "Reconciliation"}, (*maker).reconRun},

	evidence.ImportSnapshot: {base, activity{other, "Import"}, (*maker).importSnapshot},
	evidence.Alert:          {detection, activity{1, "Create"}, (*maker).alert},
	evidence.AlertAck:       {detection, activity{3, "Close"}, (*maker).alertAck},
	evidence.EvidenceRead:   {apiActivity, activity{2, "Read"}, (*maker).evidenceRead},
	evidence.PackExport:     {apiActivity, activity{2, "Read"}, (*maker).evidenceRead},
	evidence.PackMade:       {apiActivity, activity{2, "Read"}, (*maker).packMade},
	evidence.LogBackup:      {apiActivity, activity{2, "Read"}, (*maker).logBackup},
}

// What commands are, weakest first: a command that is several things is the last
// of them here.
var (
	datastoreOrder = []activity{{4, "Query"}, {1, "Read"}, {5, "Write"}, {6, "Create"}, {2, "Update"}, {7, "Delete"}}
	datastoreKinds = map[string]string{
		"select": "Query", "explain": "Query", "show": "Query", "fetch": "Query", "copy_out": "Read",
		"insert": "Write", "copy_in": "Write", "create": "Create",
		"update": "Update", "merge": "Update", "alter": "Update", "delete": "Delete", "truncate": "Delete", "drop": "Delete",
	}
	apiOrder = []activity{{2, "Read"}, {3, "Update"}, {1, "Create"}, {4, "Delete"}}
	apiKinds = map[string]string{
		"get": "Read", "head": "Read", "options": "Read", "query": "Read", "list": "Read", "watch": "Read",
		"post": "Create", "create": "Create", "put": "Update", "patch": "Update", "update": "Update",
		"delete": "Delete", "deletecollection": "Delete",
	}
)

// activityOf is what a command is: by its actions or, where the schema has no
// word for them, by its class of verb.
func activityOf(protocol, verb string, checks []evidence.Check) activity {
	order, kinds, write := apiOrder, apiKinds, activity{3, "Update"}
	if _, ok := databases[protocol]; ok {
		order, kinds, write = datastoreOrder, datastoreKinds, activity{5, "Write"}
	}
	best := -1
	for _, c := range checks {
		_, action, _ := strings.Cut(c.Action, ":")
		// What a session does with itself, like SET, is no use of the data.
		if verb == evidence.VerbSession || kinds[action] == "" {
			continue
		}
		for i, a := range order {
			if a.name == kinds[action] {
				best = max(best, i)
			}
		}
	}
	switch {
	case best >= 0:
		return order[best]
	case verb == evidence.VerbRead:
		return order[0]
	case verb == evidence.VerbWrite:
		return write
	case len(checks) > 0 && checks[0].Action != "":
		return activity{other, checks[0].Action}
	}
	return activity{other, orElse(verb, "Command")}
}

// mostOperation bounds the name of an operation: it is remembered until it ends.
const mostOperation = 1 << 10

// operationOf is a command in a few words.
func operationOf(b *evidence.IntentBody) string {
	switch {
	case b.Text != "":
		return cut(b.Text, mostOperation)
	case len(b.Checks) > 0 && b.Checks[0].Action != "":
		return b.Checks[0].Action
	}
	return orElse(b.Path, "unknown")
}
