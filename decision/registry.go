package decision

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What Apply refuses is wrapped around one of these.
var (
	ErrUnknown   = errors.New("names something that is not there")
	ErrDuplicate = errors.New("is there already")
	ErrRetired   = errors.New("has ended")
	ErrStale     = errors.New("was made for an older state")
	ErrInvalid   = errors.New("is not valid")
	ErrPolicy    = errors.New("policy cannot be used")
)

// TokenPrefix begins the id of every token that the gateway issues. Tokens are
// not in the registry, since issuing one changes no rights, but they can be
// revoked by an id of this form.
const TokenPrefix = "tok_"

// Registry is what all control records up to one position say: an immutable
// snapshot, safe for concurrent use.
type Registry struct {
	agents      shards[*agentState]
	credentials shards[*Credential]
	keys        shards[*Credential] // by thumbprint
	grants      shards[*Grant]
	approvals   shards[*Approval]
	people      map[string][]string // groups by id
	resources   map[string]*resourceState
	policy      *Policy // nil until the first policy.change
	policyBody  evidence.PolicyBody
	bundles     map[string]evidence.Position // every bundle that was in force, by digest, with its newest change
	config      evidence.ConfigBody          // in force; zero until the first config.change
	holds       []Hold                       // never changed in place
	erased      []Erased                     // likewise
	disposed    []Disposed                   // likewise
	left        map[string]Leaver            // people who have left, by id; never changed in place
	summary     *summary                     // of exactly this registry
}

// Agent is a registered agent and, once it is retired, how.
type Agent struct {
	evidence.AgentBody
	Created     evidence.Position `json:"created"`
	CreatedAt   int64             `json:"created_at"`        // microseconds since the epoch
	Disabled    evidence.Position `json:"disabled,omitzero"` // zero while the agent is in service
	DisabledAt  int64             `json:"disabled_at,omitempty"`
	DisabledBy  evidence.By       `json:"disabled_by,omitzero"`
	DisabledFor string            `json:"disabled_for,omitempty"` // the reason given
	Suspended   evidence.Position `json:"suspended,omitzero"`     // zero while somebody answers for the agent
	SuspendedAt int64             `json:"suspended_at,omitempty"`
}

// Grant puts an agent in a role on a resource until it expires or is removed.
type Grant struct {
	evidence.GrantBody
	ID         string            `json:"id"` // position of its record, as text
	Created    evidence.Position `json:"created"`
	CreatedAt  int64             `json:"created_at"`
	Removed    evidence.Position `json:"removed,omitzero"` // zero while it stands
	RemovedAt  int64             `json:"removed_at,omitempty"`
	RemovedBy  evidence.By       `json:"removed_by,omitzero"`
	RemovedFor string            `json:"removed_for,omitempty"`
}

// Credential is an enrolled key, or a token that was revoked.
type Credential struct {
	evidence.CredentialBody
	Enrolled   evidence.Position `json:"enrolled,omitzero"` // zero for a token
	EnrolledAt int64             `json:"enrolled_at,omitempty"`
	Revoked    evidence.Position `json:"revoked,omitzero"` // zero while it is good
	RevokedAt  int64             `json:"revoked_at,omitempty"`
	RevokedBy  evidence.By       `json:"revoked_by,omitzero"`
	RevokedFor string            `json:"revoked_for,omitempty"`
}

// agentState is an agent with what deciding needs of it.
type agentState struct {
	Agent
	attributes cedar.Record
	grants     map[string][]*Grant // standing ones by resource, the latest expiry first
}

type resourceState struct {
	evidence.Resource
	entity cedar.Entity
}

// New returns the registry before any record: it knows nobody and allows
// nothing.
func New() *Registry { return &Registry{summary: new(summary)} }

// Agent returns the agent with an id, in service or retired.
func (r *Registry) Agent(id string) (Agent, bool) {
	a, ok := r.agents.get(id)
	if !ok {
		return Agent{}, false
	}
	return a.Agent, true
}

// Agents returns all agents ever registered, by id.
func (r *Registry) Agents() []Agent {
	states := r.agents.sorted(byID(func(a *agentState) string { return a.Agent.Agent }))
	all := make([]Agent, len(states))
	for i, a := range states {
		all[i] = a.Agent
	}
	return all
}

// Grant returns the grant with an id, standing or not.
func (r *Registry) Grant(id string) (Grant, bool) { return deref(r.grants.get(id)) }

// Grants returns all grants ever made, in the order of their records.
func (r *Registry) Grants() []Grant {
	return derefAll(r.grants.sorted(func(a, b *Grant) int { return comparePositions(a.Created, b.Created) }))
}

// Credential returns the credential with an id: an enrolled key, or a token
// that was revoked.
func (r *Registry) Credential(id string) (Credential, bool) { return deref(r.credentials.get(id)) }

// Key returns the enrolled key with an RFC 7638 thumbprint. It may be revoked
// or expired, and its agent retired.
func (r *Registry) Key(thumbprint string) (Credential, bool) { return deref(r.keys.get(thumbprint)) }

// Revoked reports whether the credential with an id was revoked.
func (r *Registry) Revoked(id string) bool {
	c, ok := r.credentials.get(id)
	return ok && !c.Revoked.IsZero()
}

// Credentials returns all keys ever enrolled and all tokens revoked, by id.
func (r *Registry) Credentials() []Credential {
	return derefAll(r.credentials.sorted(byID(func(c *Credential) string { return c.ID })))
}

// Resource returns the resource with a name.
func (r *Registry) Resource(name string) (evidence.Resource, bool) {
	s, ok := r.resources[name]
	if !ok {
		return evidence.Resource{}, false
	}
	return s.Resource, true
}

// Resources returns the resources of the configuration in force, by name.
func (r *Registry) Resources() []evidence.Resource {
	all := make([]evidence.Resource, 0, len(r.resources))
	for _, name := range slices.Sorted(maps.Keys(r.resources)) {
		all = append(all, r.resources[name].Resource)
	}
	return all
}

// Policy returns the digest of the policy bundle in force, or "".
func (r *Registry) Policy() string {
	if r.policy == nil {
		return ""
	}
	return r.policy.digest
}

// Bundle returns the policy bundle in force as its record holds it, and the
// same compiled; nil before the first.
func (r *Registry) Bundle() (evidence.PolicyBody, *Policy) { return r.policyBody, r.policy }

// With returns the registry as it would be if p were in force and all else as
// it is: to ask what a bundle would decide, of the past too.
func (r *Registry) With(p *Policy) *Registry {
	next := *r
	next.policy, next.policyBody, next.summary = p, evidence.PolicyBody{Digest: p.digest}, new(summary)
	return &next
}

// InForce returns the newest change that put the bundle with a digest in force.
func (r *Registry) InForce(digest string) (evidence.Position, bool) {
	p, ok := r.bundles[digest]
	return p, ok
}

// Config returns the digest of the configuration in force, or "".
func (r *Registry) Config() string { return r.config.Digest }

// ConfigBody returns the configuration in force as its record holds it.
func (r *Registry) ConfigBody() evidence.ConfigBody { return r.config }

// Active reports whether a may act at time t.
func (a *Agent) Active(t int64) bool { return a.Registered(t) && a.Suspended.IsZero() }

// Registered reports whether a is in service at time t, suspended or not.
func (a *Agent) Registered(t int64) bool {
	return a.Disabled.IsZero() && (a.Expires == 0 || t < a.Expires)
}

// Active reports whether g stands at time t.
func (g *Grant) Active(t int64) bool { return g.Removed.IsZero() && g.Starts <= t && t < g.Expires }

// Active reports whether c is good at time t.
func (c *Credential) Active(t int64) bool {
	return c.Revoked.IsZero() && c.NotBefore <= t && t < c.NotAfter
}

func comparePositions(a, b evidence.Position) int {
	return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Seq, b.Seq))
}

func deref[T any](p *T, ok bool) (v T, _ bool) {
	if !ok {
		return v, false
	}
	return *p, true
}

func derefAll[T any](ps []*T) []T {
	all := make([]T, len(ps))
	for i, p := range ps {
		all[i] = *p
	}
	return all
}
