package evidence

// What is known from outside the gateway: who has left, and what upstreams say
// of themselves. A gateway can't find that out from what goes through it.

// Kinds of import.snapshot whose data tests and populations are made from. Data
// is a JSON array, of the rows named beside the kind.
const (
	ImportPeople      = "people"               // PersonRow: people of the configuration, and owners
	ImportConnections = "postgres.connections" // ConnectionRow: sessions that a server's log says were let in
	ImportCounters    = "postgres.counters"    // CounterRow: a server's count of them
	ImportPrivileges  = "postgres.privileges"  // PrivilegeRow: what the gateway's account may do by itself; params has its role
	ImportConfig      = "postgres.config"      // ConfigRow: how a server lets people in, and what it logs of them; params has, by kind of row, what the account can't read of it
	ImportTickets     = "tickets"              // TicketRow: what access and changes cite, or some of it
	ImportRequests    = "kubernetes.requests"  // RequestRow: requests that a cluster's audit log has
	ImportRights      = "kubernetes.rights"    // RightRow: who may do what in a cluster; params has the gateway's account, where it is known
)

// What a PersonRow says of a person.
const (
	PersonActive = "active"
	PersonLeft   = "left"
)

// PersonRow is a person as the personnel or identity system knows them. Of
// people who aren't the gateway's none is kept.
type PersonRow struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Left   int64  `json:"left_at,omitempty"` // when they left, as the source says; 0 isn't known
}

// What a TicketRow says of a ticket's approval.
const (
	TicketApproved = "approved"
	TicketPending  = "pending" // nobody has approved it yet
	TicketRefused  = "refused"
)

// TicketRow is a ticket as the system that has it knows it. Its texts are
// nobody's business here: of them, as of everything else in the row, the digest
// tells. People are those whom the gateway knows, by its ids for them; others
// are left out. Times are microseconds since the epoch.
type TicketRow struct {
	ID        string   `json:"id"`
	Status    string   `json:"status,omitempty"` // in the source's words
	Created   int64    `json:"created_at"`
	Closed    int64    `json:"closed_at,omitempty"`   // 0 is open
	Approval  string   `json:"approval,omitempty"`    // one of the above; "" isn't known
	Approved  int64    `json:"approved_at,omitempty"` // 0 isn't known
	Requester string   `json:"requester,omitempty"`
	Approvers []string `json:"approvers,omitempty"`
	Assignee  string   `json:"assignee,omitempty"`
	Digest    string   `json:"row_digest"` // SHA-256, hex, of the row in the file
}

// LeaveBody says that a person has left, or is back. Agents that have nobody
// left who answers for them are suspended by it. The head's Of is the snapshot
// that says so, in the same write.
type LeaveBody struct {
	Person string `json:"person"`
	Left   int64  `json:"left_at,omitempty"` // as the source says
	By     By     `json:"by"`
}

// OwnerBody gives an agent another owner. It goes on if it was suspended.
type OwnerBody struct {
	Agent  string `json:"agent"`
	Owner  Person `json:"owner"`
	Backup Person `json:"backup_owner,omitzero"`
	Reason string `json:"reason"`
	By     By     `json:"by"`
}

// Direct is somebody who may connect to an upstream without the gateway, and
// why.
type Direct struct {
	User   string `json:"user,omitempty"`  // of the upstream; "" is any
	Group  string `json:"group,omitempty"` // of a cluster, in which the user is; "" is any
	From   string `json:"from,omitempty"`  // an address or a prefix, "local" for a unix socket; "" is anywhere
	Reason string `json:"reason"`
}

// Cluster is how the gateway appears in a Kubernetes cluster's audit log.
type Cluster struct {
	Account  string     `json:"account,omitempty"` // user of the gateway's own account; "" isn't known
	Prefix   string     `json:"user_prefix"`       // put before an agent's id, as which the gateway asks
	Groups   []string   `json:"groups,omitempty"`  // that agents are in there
	Unlogged []Unlogged `json:"unlogged,omitempty"`
}

// Unlogged are requests that a cluster's audit policy leaves out, and why.
type Unlogged struct {
	Verb     string `json:"verb,omitempty"`     // "" is any
	Resource string `json:"resource,omitempty"` // resource.group, or the path of what is no resource; "" is any
	Reason   string `json:"reason"`
}

// OwnUpstreamBody is a connection that the gateway made for itself, on the
// resource in the head.
type OwnUpstreamBody struct {
	Purpose string `json:"purpose"`
	Local   string `json:"local"`
	Remote  string `json:"remote"`
	PID     uint32 `json:"pid,omitempty"`
	Text    string `json:"text,omitempty"` // the one request on it, verb and resource.group, where its audit id is the record's position
}

// RequestRow is what a cluster's audit log says of a request at one of its
// stages, or of several whose ids aren't the gateway's.
type RequestRow struct {
	ID          string   `json:"id,omitempty"` // audit id; "" is of several
	User        string   `json:"user"`         // who asked
	Groups      []string `json:"groups,omitempty"`
	As          string   `json:"as,omitempty"` // for whom: impersonation
	AsGroups    []string `json:"as_groups,omitempty"`
	From        string   `json:"from,omitempty"` // address of the connection
	Verb        string   `json:"verb,omitempty"`
	Resource    string   `json:"resource,omitempty"` // resource.group
	Namespace   string   `json:"namespace,omitempty"`
	Name        string   `json:"name,omitempty"`
	Subresource string   `json:"subresource,omitempty"`
	Path        string   `json:"path,omitempty"`  // of what is no resource
	Stage       string   `json:"stage,omitempty"` // StageStarted or StagePanic; "" is complete
	Code        int      `json:"code,omitempty"`  // of the answer
	At          int64    `json:"at"`              // when it came in; of several, the first
	Until       int64    `json:"until,omitempty"` // of several, when the last came in
	N           int      `json:"n,omitempty"`     // how many; 0 is one
}

// Stages of a request that an audit log tells beside its end.
const (
	StageStarted = "ResponseStarted" // it is answered for as long as it lasts: a watch, an exec
	StagePanic   = "Panic"
)

// Count is how many requests a row tells of.
func (r *RequestRow) Count() int { return max(1, r.N) }

// Object is what a request is for, as records write it.
func (r *RequestRow) Object() string {
	if r.Resource == "" {
		return r.Path
	}
	o := r.Resource
	switch {
	case r.Name != "":
		o += "/" + r.Namespace + "/" + r.Name
	case r.Namespace != "":
		o += "/" + r.Namespace
	}
	if r.Subresource != "" {
		o += "/" + r.Subresource
	}
	return o
}

// ConnectionRow is a session that an upstream's log says was let in.
type ConnectionRow struct {
	Session  string `json:"session"` // as the upstream names it
	User     string `json:"user"`
	Database string `json:"database,omitempty"`
	Client   string `json:"client,omitempty"` // addr:port; "" is a unix socket
	PID      uint32 `json:"pid"`
	Start    int64  `json:"start"` // of its backend, to the second
	At       int64  `json:"at"`    // when it was let in
}

// CounterRow is how many sessions a database has had, by its server.
type CounterRow struct {
	Database string `json:"database"`
	Sessions int64  `json:"sessions"`
	Reset    int64  `json:"reset_at,omitempty"` // when the count began; 0 isn't known
	Started  int64  `json:"started_at"`         // when the server did
}

// PrivilegeRow is what a role of an upstream may do.
type PrivilegeRow struct {
	Role string `json:"role"`
	// Object is schema.name of a table, a view or their like; "" is the role itself.
	Object string `json:"object,omitempty"`
	// Privileges are, of an object, "owner", "select", "insert", "update", "delete"
	// and "truncate"; of a role "superuser", "createrole", "createdb", "bypassrls",
	// "replication", and "member" where the account is one of it.
	Privileges []string `json:"privileges"`
}

// ConfigRow is a line of what decides who gets in to a server. Its key is unique
// within its kind. No secret is in it: of a command that tells one there is a
// digest, of a password nothing.
type ConfigRow struct {
	Kind  string `json:"kind"` // one of the below
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Kinds of ConfigRow.
const (
	ConfigRule    = "hba"     // of pg_hba_file_rules, in their order: whom from where, and how they prove themselves
	ConfigSetting = "setting" // of pg_settings: its value, where that is from, whether another waits for a restart
	ConfigRole    = "role"    // of pg_roles: its attributes
	ConfigMember  = "member"  // of pg_auth_members: member, role and grantor, with its options
)

// ConfigKinds returns the kinds of ConfigRow.
func ConfigKinds() []string { return []string{ConfigRule, ConfigSetting, ConfigRole, ConfigMember} }

// RightRow is a rule of a cluster's RBAC as it is bound to one subject.
type RightRow struct {
	Kind      string   `json:"kind"`                // SubjectUser, SubjectGroup or SubjectAccount
	Subject   string   `json:"subject"`             // of a service account namespace/name
	Namespace string   `json:"namespace,omitempty"` // where it holds; "" is everywhere
	Verbs     []string `json:"verbs"`
	Resources []string `json:"resources,omitempty"` // resource.group with subresource, like pods/exec; * is any
	Names     []string `json:"names,omitempty"`     // none is all
	Paths     []string `json:"paths,omitempty"`     // beside the API
	By        string   `json:"by"`                  // binding and role
}

// Kinds of subjects.
const (
	SubjectUser    = "User"
	SubjectGroup   = "Group"
	SubjectAccount = "ServiceAccount"
)

// ReconBody is what holding an upstream's sessions, or a cluster's requests,
// against the gateway's gave. It stands in one write with the import that its
// head's Of names, and with that of counters, if there are any.
type ReconBody struct {
	From        int64 `json:"from"` // what the upstream's log covers
	To          int64 `json:"to"`
	Logged      int   `json:"logged"`  // sessions that the log has: the sum of the four below
	Gateway     int   `json:"gateway"` // of them the sessions of agents
	Own         int   `json:"own"`     // the gateway's own
	Allowed     int   `json:"allowed"` // those of others who may
	Unexplained int   `json:"unexplained"`
	Missing     int   `json:"missing"` // sessions of the gateway that the log doesn't have
	// Unlogged is how many commands the log lacks because the cluster leaves such
	// out.
	Unlogged int `json:"unlogged,omitempty"`
	// Counted is how many sessions the server's counters say there were since they
	// were last read, and Compared how many the log has of that time.
	Counted  int64 `json:"counted,omitempty"`
	Compared int64 `json:"compared,omitempty"`
	// Tie says how they compare, one of the below.
	Tie string `json:"tie"`
	// Keys are of the sessions unexplained and missing, of which the first
	// MaxReconKeys are named.
	Keys []ReconKey `json:"keys,omitempty"`
	By   By         `json:"by,omitzero"` // who asked for it; nobody where it was due
}

// MaxReconKeys is how many sessions a recon.run names.
const MaxReconKeys = 1000

// How a log and counters compare.
const (
	TieNone      = "none"      // no counters were read, or not twice
	Tied         = "tied"      // they say the same, but for what was on its way
	Untied       = "untied"    // they don't
	TieRestarted = "restarted" // the server started between the two readings
	TieReset     = "reset"     // somebody set the counters back between the two
)

// Classes of an upstream's session.
const (
	ReconGateway     = "gateway"
	ReconOwn         = "own"
	ReconAllowed     = "allowed"
	ReconUnexplained = "unexplained"
	ReconMissing     = "missing" // the gateway has it, and the log hasn't
)

// ReconKey names a session that wants explaining.
type ReconKey struct {
	Class   string   `json:"class"`             // ReconUnexplained or ReconMissing
	Session string   `json:"session,omitempty"` // as the upstream names it; of a request, its audit id
	User    string   `json:"user,omitempty"`
	Text    string   `json:"text,omitempty"` // of a request: what was asked
	Why     string   `json:"why,omitempty"`  // of a request with an id of the gateway's: what doesn't fit
	Client  string   `json:"client,omitempty"`
	PID     uint32   `json:"pid,omitempty"`
	Of      Position `json:"of,omitzero"` // of a missing one, its session, command or own connection
}
