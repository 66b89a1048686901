package decision

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// state is a part of a registry as a snapshot holds it. Lists go on from part
// to part, each in the order that the methods of Registry give; what there is
// one of stands in the first.
type state struct {
	Config      *evidence.ConfigBody         `json:"config,omitempty"`
	Policy      *evidence.PolicyBody         `json:"policy,omitempty"`
	Bundles     map[string]evidence.Position `json:"bundles,omitempty"`
	Agents      []Agent                      `json:"agents,omitempty"`
	Credentials []Credential                 `json:"credentials,omitempty"`
	Grants      []Grant                      `json:"grants,omitempty"`
	Approvals   []Approval                   `json:"approvals,omitempty"`
	Holds       []Hold                       `json:"holds,omitempty"`
	Erased      []Erased                     `json:"erased,omitempty"`
	Disposed    []Disposed                   `json:"disposed,omitempty"`
	Left        []Leaver                     `json:"left,omitempty"`
}

// snapshotPart is about how many bytes one part of a snapshot has.
const snapshotPart = 256 << 10

// maxSnapshotParts bounds a snapshot: some ten million grants.
const maxSnapshotParts = 1 << 14

// Snapshot returns the bodies of the records that hold all of r, in order.
// Equal registries give equal bytes.
func (r *Registry) Snapshot() []evidence.SnapshotBody {
	var parts [][]byte
	one := state{Bundles: r.bundles}
	if r.config.Digest != "" {
		one.Config = &r.config
	}
	if r.policy != nil {
		one.Policy = &r.policyBody
	}
	parts = append(parts, evidence.EncodeBody(one))
	parts = appendParts(parts, r.Agents(), func(l []Agent) state { return state{Agents: l} })
	parts = appendParts(parts, r.Credentials(), func(l []Credential) state { return state{Credentials: l} })
	parts = appendParts(parts, r.Grants(), func(l []Grant) state { return state{Grants: l} })
	parts = appendParts(parts, r.Approvals(), func(l []Approval) state { return state{Approvals: l} })
	parts = appendParts(parts, r.holds, func(l []Hold) state { return state{Holds: l} })
	parts = appendParts(parts, r.erased, func(l []Erased) state { return state{Erased: l} })
	parts = appendParts(parts, r.disposed, func(l []Disposed) state { return state{Disposed: l} })
	parts = appendParts(parts, r.Leavers(), func(l []Leaver) state { return state{Left: l} })

	digest := sha256.New()
	for _, p := range parts {
		digest.Write(p)
	}
	sum := hex.EncodeToString(digest.Sum(nil))
	bodies := make([]evidence.SnapshotBody, len(parts))
	for i, p := range parts {
		bodies[i] = evidence.SnapshotBody{Digest: sum, Part: i + 1, Parts: len(parts), Data: p}
	}
	return bodies
}

// appendParts cuts a list into parts. How long one is depends on what the first
// of its entries takes, which is a function of the list alone.
func appendParts[T any](parts [][]byte, list []T, of func([]T) state) [][]byte {
	for len(list) > 0 {
		n := min(len(list), 1+snapshotPart/len(evidence.EncodeBody(list[0])))
		parts = append(parts, evidence.EncodeBody(of(list[:n])))
		list = list[n:]
	}
	return parts
}

// summary is the digests of the parts of a registry's snapshot. They are made
// when first wanted, and stand for the megabytes.
type summary struct {
	once  sync.Once
	parts [][sha256.Size]byte
}

// snapshot checks a part against the registry that it should be one of.
func (r *Registry) snapshot(b evidence.SnapshotBody) error {
	r.summary.once.Do(func() {
		for _, own := range r.Snapshot() {
			r.summary.parts = append(r.summary.parts, sha256.Sum256(evidence.EncodeBody(own)))
		}
	})
	sums := r.summary.parts
	if b.Part < 1 || b.Part > len(sums) || sha256.Sum256(evidence.EncodeBody(b)) != sums[b.Part-1] {
		return fmt.Errorf("part %d of %d %w: it is not what the records before it fold to", b.Part, b.Parts, ErrStale)
	}
	return nil
}

// Restore returns the registry that a snapshot holds: the one that folding all
// records before it gives.
func Restore(parts []evidence.SnapshotBody) (*Registry, error) {
	if len(parts) == 0 || len(parts) > maxSnapshotParts {
		return nil, fmt.Errorf("snapshot of %d parts %w", len(parts), ErrInvalid)
	}
	digest := sha256.New()
	f := Fold{registry: folding()}
	for i, p := range parts {
		if p.Part != i+1 || p.Parts != len(parts) || p.Digest != parts[0].Digest {
			return nil, fmt.Errorf("snapshot %w: part %d of %d stands where part %d of %d belongs", ErrInvalid, p.Part, p.Parts, i+1, len(parts))
		}
		digest.Write(p.Data)
		var s state
		d := json.NewDecoder(bytes.NewReader(p.Data))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return nil, fmt.Errorf("snapshot %w: %w", ErrInvalid, err)
		}
		if err := f.registry.restore(&s); err != nil {
			return nil, fmt.Errorf("snapshot %w: %w", ErrInvalid, err)
		}
	}
	if hex.EncodeToString(digest.Sum(nil)) != parts[0].Digest {
		return nil, fmt.Errorf("snapshot %w: its parts are not those of its digest", ErrInvalid)
	}
	return f.Registry(), nil
}

// restore adds one part to a registry that is being folded.
func (r *Registry) restore(s *state) error {
	if s.Bundles != nil {
		r.bundles = maps.Clone(s.Bundles)
	}
	if s.Config != nil {
		if err := r.setConfig(*s.Config); err != nil {
			return err
		}
	}
	if s.Policy != nil {
		p, err := Compile(s.Policy.Files, s.Policy.Actions)
		if err != nil {
			return err
		}
		r.policy, r.policyBody = p, *s.Policy
	}
	for _, a := range s.Agents {
		r.agents = r.agents.with(a.Agent, &agentState{Agent: a, attributes: agentAttributes(a.AgentBody)})
	}
	for _, c := range s.Credentials {
		r.credentials = r.credentials.with(c.ID, &c)
		if c.Thumbprint != "" {
			r.keys = r.keys.with(c.Thumbprint, &c)
		}
	}
	for _, g := range s.Grants {
		r.grants = r.grants.with(g.ID, &g)
		if a, ok := r.agents.get(g.Agent); ok && g.Removed.IsZero() {
			r.agents = r.agents.with(g.Agent, a.withGrant(&g))
		}
	}
	for _, a := range s.Approvals {
		r.approvals = r.approvals.with(a.ID, &a)
	}
	r.holds = append(r.holds, s.Holds...)
	r.erased = append(r.erased, s.Erased...)
	r.disposed = append(r.disposed, s.Disposed...)
	for _, l := range s.Left {
		if r.left == nil {
			r.left = make(map[string]Leaver)
		}
		r.left[l.Person] = l
	}
	return nil
}

// Fold folds records one after another into one registry, in place: what a
// start and a verifier do with many thousands of them.
type Fold struct{ registry *Registry }

// NewFold returns a fold that goes on from r, which stays as it is; nil is none.
func NewFold(r *Registry) *Fold {
	if r == nil {
		return &Fold{folding()}
	}
	return &Fold{r.thaw()}
}

// Apply adds one more record, as Registry.Apply does. After an error the fold
// is as it was.
func (f *Fold) Apply(h evidence.Head, body []byte) error {
	next, err := f.registry.Apply(h, body)
	if err == nil {
		f.registry = next
	}
	return err
}

// Registry returns what was folded so far. The fold must not go on after it.
func (f *Fold) Registry() *Registry {
	r := *f.registry
	r.summary = new(summary)
	r.agents.own, r.credentials.own, r.keys.own, r.grants.own, r.approvals.own = false, false, false, false, false
	f.registry = nil
	return &r
}

func folding() *Registry { return New().thaw() }

// thaw returns a copy of r whose tables are its own.
func (r *Registry) thaw() *Registry {
	next := *r
	next.summary = new(summary)
	next.agents, next.credentials, next.keys = r.agents.thaw(), r.credentials.thaw(), r.keys.thaw()
	next.grants, next.approvals = r.grants.thaw(), r.approvals.thaw()
	return &next
}
