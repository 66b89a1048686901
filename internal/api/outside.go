package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Imports take in what is known outside the gateway.
type Imports interface {
	// Import records a snapshot of something outside, with what follows from it:
	// of people who have left, the suspension of agents for which nobody answers
	// any more. Invalid when the input can't be read; nothing of it is then
	// imported.
	Import(ctx context.Context, n NewImport, by evidence.By) (Import, error)
	// ImportPrivileges asks a resource's upstream what the gateway's account there
	// may do by itself, and of a database how its server lets people in. Ticket is
	// that under which what has changed there was changed; it may be empty.
	ImportPrivileges(ctx context.Context, resource, ticket string, by evidence.By) (Import, error)
	// Reconcile holds the sessions of a resource's upstream against the gateway's,
	// from the server's log and counters, now.
	Reconcile(ctx context.Context, resource string, by evidence.By) (Reconciliation, error)
}

// NewImport is something to import.
type NewImport struct {
	Kind      string            `json:"kind" enum:"people,postgres.connections,tickets,kubernetes.requests,kubernetes.rights" doc:"what it is"`
	Format    string            `json:"format" enum:"csv,json,scim,jira,audit" doc:"how it is written"`
	Resource  string            `json:"resource,omitempty" maxLength:"128" doc:"the resource that it is of"`
	Source    string            `json:"source" minLength:"1" maxLength:"1000" doc:"which system it is from; stands in the record"`
	Query     string            `json:"query" minLength:"1" maxLength:"10000" doc:"what that system was asked, exactly; stands in the record"`
	Params    map[string]string `json:"params,omitempty" doc:"of the query, and names of columns: id, status, left_at of people; id, status, created_at, closed_at, requester, approver, assignee, approval, approved_at of tickets"`
	Extracted time.Time         `json:"extracted,omitzero" doc:"when it was taken from there; default: now"`
	Data      []byte            `json:"data" doc:"the file, base64"`
}

// Import is what was imported.
type Import struct {
	Position string   `json:"position" doc:"of its record"`
	Kind     string   `json:"kind"`
	Rows     int      `json:"rows" doc:"that the file has"`
	Kept     int      `json:"kept" doc:"of them in the record"`
	Digest   string   `json:"digest" doc:"of what is kept: SHA-256, hex"`
	File     string   `json:"file_digest" doc:"of the file: SHA-256, hex"`
	Left     []Leaver `json:"left,omitempty" doc:"people who have left since the import before"`
	Back     []string `json:"back,omitempty" doc:"people who are back"`

	Reconciled *Reconciliation `json:"reconciled,omitempty" doc:"of connections: what they were found to be"`
	Config     *ConfigImport   `json:"config,omitempty" doc:"of the account at a database: what was imported with it"`
}

// ConfigImport is the import of how a server lets people in.
type ConfigImport struct {
	Position string            `json:"position" doc:"of its record"`
	Rows     int               `json:"rows"`
	Digest   string            `json:"digest" doc:"of them: SHA-256, hex"`
	Unread   map[string]string `json:"unread,omitempty" doc:"by kind of row: what of it the gateway's account could not read, and why"`
}

// Reconciliation is what holding an upstream's sessions against the gateway's
// gave.
type Reconciliation struct {
	Position    string              `json:"position" doc:"of its record"`
	Resource    string              `json:"resource"`
	Of          string              `json:"of" enum:"sessions,requests" doc:"what the log is of: sessions of a database, requests to a cluster"`
	From        time.Time           `json:"from" doc:"what the upstream's log covers"`
	To          time.Time           `json:"to"`
	Logged      int                 `json:"logged" doc:"sessions, or requests, that the log has: the sum of the four below"`
	Gateway     int                 `json:"gateway" doc:"of them, those of agents"`
	Own         int                 `json:"own" doc:"the gateway's own"`
	Allowed     int                 `json:"allowed" doc:"those of others who may"`
	Unexplained int                 `json:"unexplained"`
	Missing     int                 `json:"missing" doc:"sessions, or commands, of the gateway that the log doesn't have"`
	Unlogged    int                 `json:"unlogged,omitempty" doc:"commands that the cluster is said to log nothing of"`
	Tie         string              `json:"tie" enum:"none,tied,untied,restarted,reset" doc:"how log and counters compare"`
	Counted     int64               `json:"counted" doc:"sessions by the server's counters since they were last read"`
	Compared    int64               `json:"compared" doc:"sessions that the log has of that time"`
	Sessions    []evidence.ReconKey `json:"sessions" doc:"those unexplained and missing"`
}

// What a log is of.
const (
	OfSessions = "sessions"
	OfRequests = "requests"
)

// Leaver is a person who has left.
type Leaver struct {
	Person    string    `json:"person"`
	Left      time.Time `json:"left,omitzero" doc:"as the source says"`
	Position  string    `json:"position" doc:"of the record that takes note of it"`
	Suspended []string  `json:"suspended,omitempty" doc:"agents for which nobody answers any more"`
}

// NewOwner is who answers for an agent from now on.
type NewOwner struct {
	Owner  string `json:"owner" minLength:"1" doc:"id of the person; one of the configuration's people"`
	Backup string `json:"backup_owner,omitempty" doc:"id of a second person"`
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record"`
}

// importPath is where files come in, so that it takes more than the others.
const (
	importPath = "/v1/imports"
	maxImport  = 48 << 20

	importTimeout = 2 * time.Minute
)

func (a *routes) registerOutside() {
	type owning struct {
		Agent string `path:"agent" doc:"id of the agent"`
		Body  NewOwner
	}
	handle(a, operation{id: "change-owner", method: http.MethodPost, path: "/v1/agents/{agent}/owner", tag: "agents", summary: "Give an agent another owner; a suspended one goes on"},
		func(ctx context.Context, in *owning) (*body[Agent], error) {
			out, err := a.Services.Agents.ChangeOwner(ctx, in.Agent, in.Body, by(ctx))
			return &body[Agent]{out}, err
		})
	type one struct {
		Resource string `path:"resource"`
	}
	handle(a, operation{id: "reconcile", method: http.MethodPost, path: "/v1/resources/{resource}/reconcile", tag: "imports", summary: "Hold the sessions of an upstream against the gateway's, now"},
		func(ctx context.Context, in *one) (*body[Reconciliation], error) {
			out, err := a.Services.Imports.Reconcile(ctx, in.Resource, by(ctx))
			return &body[Reconciliation]{out}, err
		})
	type asking struct {
		Resource string `path:"resource"`
		Ticket   string `query:"ticket" maxLength:"1000" doc:"under which what has changed there was changed; stands in the record"`
	}
	handle(a, operation{id: "import-privileges", method: http.MethodPost, path: "/v1/resources/{resource}/privileges", tag: "imports", summary: "Import what the gateway's account at an upstream may do by itself, and how a database lets people in"},
		func(ctx context.Context, in *asking) (*body[Import], error) {
			out, err := a.Services.Imports.ImportPrivileges(ctx, in.Resource, in.Ticket, by(ctx))
			return &body[Import]{out}, err
		})
	handle(a, operation{id: "import", method: http.MethodPost, path: importPath, tag: "imports", summary: "Import what is known outside the gateway"},
		func(ctx context.Context, in *body[NewImport]) (*body[Import], error) {
			out, err := a.Services.Imports.Import(ctx, in.Body, by(ctx))
			return &body[Import]{out}, err
		})
}

// Reconcile holds the sessions of a resource's upstream against the gateway's.
func (c *Client) Reconcile(ctx context.Context, resource string) (Reconciliation, error) {
	return call[Reconciliation](ctx, c, http.MethodPost, "/v1/resources/"+segment(resource)+"/reconcile", nil)
}

// ImportPrivileges asks a resource's upstream what the gateway's account there
// may do by itself, and of a database how its server lets people in.
func (c *Client) ImportPrivileges(ctx context.Context, resource, ticket string) (Import, error) {
	path := "/v1/resources/" + segment(resource) + "/privileges"
	if ticket != "" {
		path += "?ticket=" + url.QueryEscape(ticket)
	}
	return call[Import](ctx, c, http.MethodPost, path, nil)
}

// ChangeOwner gives an agent another owner.
func (c *Client) ChangeOwner(ctx context.Context, id string, n NewOwner) (Agent, error) {
	return call[Agent](ctx, c, http.MethodPost, "/v1/agents/"+segment(id)+"/owner", n)
}

// Import imports what is known outside the gateway.
func (c *Client) Import(ctx context.Context, n NewImport) (Import, error) {
	return call[Import](ctx, c, http.MethodPost, importPath, n)
}
