package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Apply returns the registry after one more record. Records that are not
// control records leave it as it is. An error means that the change may not be
// made (wraps one of the sentinels above, or evidence.ErrBody); r stays good
// either way.
func (r *Registry) Apply(h evidence.Head, body []byte) (*Registry, error) {
	if !h.Type.IsControl() {
		return r, nil
	}
	if h.Pos.IsZero() {
		return nil, fmt.Errorf("%s %w: its record has no position", h.Type, ErrInvalid)
	}
	next := *r
	var err error
	switch h.Type {
	case evidence.AgentCreate:
		err = decodeAnd(body, func(b evidence.AgentBody) error { return next.createAgent(h, b) })
	case evidence.AgentDisable:
		err = decodeAnd(body, func(b evidence.DisableBody) error { return next.disableAgent(h, b) })
	case evidence.CredentialEnroll:
		err = decodeAnd(body, func(b evidence.CredentialBody) error { return next.enroll(h, b) })
	case evidence.CredentialRevoke:
		err = decodeAnd(body, func(b evidence.RevokeBody) error { return next.revoke(h, b) })
	case evidence.GrantCreate:
		err = decodeAnd(body, func(b evidence.GrantBody) error { return next.createGrant(h, b) })
	case evidence.GrantRemove:
		err = decodeAnd(body, func(b evidence.RevokeBody) error { return next.removeGrant(h, b) })
	case evidence.PolicyChange:
		err = decodeAnd(body, next.changePolicy)
	case evidence.ConfigChange:
		err = decodeAnd(body, next.changeConfig)
	case evidence.LogKey: // ledger.Keys folds it; here it changes nobody's rights
		err = decodeAnd(body, func(b evidence.LogKeyBody) error { return person(b.By) })
	default:
		// A control record that this version doesn't fold would leave it with a
		// registry that is wrong without saying so.
		err = fmt.Errorf("type %w", ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Type, err)
	}
	return &next, nil
}

func decodeAnd[T any](body []byte, apply func(T) error) error {
	var b T
	if err := evidence.DecodeBody(body, &b); err != nil {
		return err
	}
	return apply(b)
}

func (r *Registry) createAgent(h evidence.Head, b evidence.AgentBody) error {
	switch _, exists := r.agents.get(b.Agent); {
	case !evidence.ValidName(b.Agent):
		return fmt.Errorf("agent id %.80q %w: want 1 to 128 of A-Z a-z 0-9 . _ : @ / + -", b.Agent, ErrInvalid)
	case exists:
		return fmt.Errorf("agent %s %w: ids are never used twice", b.Agent, ErrDuplicate)
	case b.Owner.ID == "":
		return fmt.Errorf("agent %s %w: it has no owner; name the person who answers for it", b.Agent, ErrInvalid)
	case b.Purpose == "":
		return fmt.Errorf("agent %s %w: it has no purpose; say what it is for", b.Agent, ErrInvalid)
	case b.Expires != 0 && b.Expires <= h.Time:
		return fmt.Errorf("agent %s %w: it expires before it begins", b.Agent, ErrInvalid)
	}
	if err := cmp.Or(sameAgent(h, b.Agent), person(b.By)); err != nil {
		return err
	}
	r.agents = r.agents.with(b.Agent, &agentState{
		Agent:      Agent{AgentBody: b, Created: h.Pos, CreatedAt: h.Time},
		attributes: agentAttributes(b),
	})
	return nil
}

func (r *Registry) disableAgent(h evidence.Head, b evidence.DisableBody) error {
	a, err := r.serving(b.Agent)
	if err := cmp.Or(err, sameAgent(h, b.Agent), someone(b.By)); err != nil {
		return err
	}
	next := *a
	next.Disabled, next.DisabledAt, next.DisabledBy, next.DisabledFor = h.Pos, h.Time, b.By, b.Reason
	r.agents = r.agents.with(b.Agent, &next)
	return nil
}

func (r *Registry) enroll(h evidence.Head, b evidence.CredentialBody) error {
	_, err := r.serving(b.Agent)
	if err := cmp.Or(err, sameAgent(h, b.Agent), person(b.By)); err != nil {
		return err
	}
	_, idTaken := r.credentials.get(b.ID)
	owner, keyTaken := r.keys.get(b.Thumbprint)
	thumbprint, err := Thumbprint(b.PublicKey)
	if err != nil {
		return fmt.Errorf("credential %.80q %w: %w", b.ID, ErrInvalid, err)
	}
	switch {
	case !evidence.ValidName(b.ID) || strings.HasPrefix(b.ID, TokenPrefix):
		return fmt.Errorf("credential id %.80q %w: want a name that doesn't begin with %s", b.ID, ErrInvalid, TokenPrefix)
	case idTaken:
		return fmt.Errorf("credential %s %w", b.ID, ErrDuplicate)
	case b.Kind != "key":
		return fmt.Errorf("credential %s %w: only keys are enrolled, not kind %.40q", b.ID, ErrInvalid, b.Kind)
	case b.Thumbprint != thumbprint:
		return fmt.Errorf("credential %s %w: its thumbprint is not that of its public key (RFC 7638)", b.ID, ErrInvalid)
	case keyTaken:
		return fmt.Errorf("key of credential %s %w: it was enrolled for %s; make a new key", b.ID, ErrDuplicate, owner.Agent)
	case b.NotAfter <= h.Time || b.NotAfter <= b.NotBefore:
		return fmt.Errorf("credential %s %w: it ends before it begins", b.ID, ErrInvalid)
	}
	c := &Credential{CredentialBody: b, Enrolled: h.Pos, EnrolledAt: h.Time}
	r.credentials = r.credentials.with(b.ID, c)
	r.keys = r.keys.with(b.Thumbprint, c)
	return nil
}

func (r *Registry) revoke(h evidence.Head, b evidence.RevokeBody) error {
	if err := someone(b.By); err != nil {
		return err
	}
	c, known := r.credentials.get(b.ID)
	isToken := strings.HasPrefix(b.ID, TokenPrefix) && evidence.ValidName(b.ID)
	switch {
	case !known && !isToken:
		return fmt.Errorf("credential %.80q %w", b.ID, ErrUnknown)
	case known && !c.Revoked.IsZero():
		return fmt.Errorf("credential %s %w: it was revoked by %s", b.ID, ErrRetired, c.Revoked)
	}
	next := Credential{CredentialBody: evidence.CredentialBody{ID: b.ID, Agent: h.Agent, Kind: "token"}}
	if known {
		next = *c
	}
	next.Revoked, next.RevokedAt, next.RevokedBy, next.RevokedFor = h.Pos, h.Time, b.By, b.Reason
	r.credentials = r.credentials.with(b.ID, &next)
	if known {
		r.keys = r.keys.with(next.Thumbprint, &next)
	}
	return nil
}

func (r *Registry) createGrant(h evidence.Head, b evidence.GrantBody) error {
	a, err := r.serving(b.Agent)
	if err := cmp.Or(err, sameAgent(h, b.Agent), sameResource(h, b.Resource), person(b.By)); err != nil {
		return err
	}
	id := h.Pos.String()
	_, taken := r.grants.get(id)
	_, hasResource := r.resources[b.Resource]
	switch {
	case taken:
		return fmt.Errorf("grant %s %w", id, ErrDuplicate)
	case !hasResource:
		return fmt.Errorf("resource %.80q %w; the configuration has %s", b.Resource, ErrUnknown, listNames(slices.Sorted(maps.Keys(r.resources))))
	case r.policy == nil:
		return fmt.Errorf("role %.80q %w: no policy is in force", b.Role, ErrUnknown)
	case !r.policy.HasRole(b.Role):
		return fmt.Errorf("role %.80q %w; the policy has %s", b.Role, ErrUnknown, listNames(r.policy.roles))
	case b.Expires <= h.Time:
		return fmt.Errorf("grant %w: it expires before it begins", ErrInvalid)
	case a.Expires != 0 && h.Time >= a.Expires:
		return fmt.Errorf("agent %s %w: it has expired", b.Agent, ErrRetired)
	}
	g := &Grant{GrantBody: b, ID: id, Created: h.Pos, CreatedAt: h.Time}
	r.grants = r.grants.with(id, g)
	r.agents = r.agents.with(b.Agent, a.withGrant(g))
	return nil
}

func (r *Registry) removeGrant(h evidence.Head, b evidence.RevokeBody) error {
	if err := someone(b.By); err != nil {
		return err
	}
	g, ok := r.grants.get(b.ID)
	if !ok {
		return fmt.Errorf("grant %.80q %w", b.ID, ErrUnknown)
	}
	if !g.Removed.IsZero() {
		return fmt.Errorf("grant %s %w: it was removed by %s", b.ID, ErrRetired, g.Removed)
	}
	if err := cmp.Or(sameAgent(h, g.Agent), sameResource(h, g.Resource)); err != nil {
		return err
	}
	next := *g
	next.Removed, next.RemovedAt, next.RemovedBy, next.RemovedFor = h.Pos, h.Time, b.By, b.Reason
	r.grants = r.grants.with(b.ID, &next)
	if a, ok := r.agents.get(g.Agent); ok {
		r.agents = r.agents.with(g.Agent, a.withoutGrant(g))
	}
	return nil
}

func (r *Registry) changePolicy(b evidence.PolicyBody) error {
	if b.Before != r.Policy() {
		return fmt.Errorf("policy change %w: it replaces %.12q, in force is %.12q", ErrStale, b.Before, r.Policy())
	}
	if err := someone(b.By); err != nil {
		return err
	}
	if want := Digest(b.Files, b.Actions); b.Digest != want {
		return fmt.Errorf("policy digest %w: its files give %s", ErrInvalid, want)
	}
	p, err := Compile(b.Files, b.Actions)
	if err != nil {
		return err
	}
	r.policy, r.policyBody = p, b
	return nil
}

func (r *Registry) changeConfig(b evidence.ConfigBody) error {
	if b.Before != r.Config() {
		return fmt.Errorf("config change %w: it replaces %.12q, in force is %.12q", ErrStale, b.Before, r.Config())
	}
	if b.Digest == "" {
		return fmt.Errorf("config change %w: it has no digest", ErrInvalid)
	}
	if err := someone(b.By); err != nil {
		return err
	}
	resources := make(map[string]*resourceState, len(b.Resources))
	for _, res := range b.Resources {
		switch _, twice := resources[res.Name]; {
		case !evidence.ValidName(res.Name) || strings.Contains(res.Name, "/"):
			// The slash parts resource and object in the ids of Cedar objects.
			return fmt.Errorf("resource name %.80q %w: want 1 to 128 of A-Z a-z 0-9 . _ : @ + -", res.Name, ErrInvalid)
		case twice:
			return fmt.Errorf("resource %s %w", res.Name, ErrDuplicate)
		case res.Protocol == "":
			return fmt.Errorf("resource %s %w: it has no protocol", res.Name, ErrInvalid)
		}
		resources[res.Name] = &resourceState{Resource: res, entity: cedar.Entity{
			UID: resourceUID(res.Name), Attributes: resourceAttributes(res),
		}}
	}
	r.resources, r.config = resources, b
	return nil
}

// Thumbprint returns the RFC 7638 thumbprint, with SHA-256, of an Ed25519 public
// key given as the base64url of its 32 bytes (the "x" of RFC 8037).
func Thumbprint(publicKey string) (string, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(publicKey)
	if err != nil || len(raw) != 32 {
		return "", errors.New("its public key is not the 32 bytes of an Ed25519 key in base64url")
	}
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + publicKey + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// serving returns an agent that is not retired.
func (r *Registry) serving(id string) (*agentState, error) {
	a, ok := r.agents.get(id)
	if !ok {
		return nil, fmt.Errorf("agent %.80q %w", id, ErrUnknown)
	}
	if !a.Disabled.IsZero() {
		return nil, fmt.Errorf("agent %s %w: it was retired by %s", id, ErrRetired, a.Disabled)
	}
	return a, nil
}

// withGrant keeps the latest expiry first, so that deciding stops at the first
// grant that is over.
func (a *agentState) withGrant(g *Grant) *agentState {
	next := *a
	next.grants = maps.Clone(a.grants)
	if next.grants == nil {
		next.grants = make(map[string][]*Grant)
	}
	old := a.grants[g.Resource]
	at, _ := slices.BinarySearchFunc(old, g.Expires, func(o *Grant, expires int64) int {
		return cmp.Compare(expires, o.Expires)
	})
	next.grants[g.Resource] = slices.Insert(slices.Clone(old), at, g)
	return &next
}

func (a *agentState) withoutGrant(g *Grant) *agentState {
	next := *a
	next.grants = maps.Clone(a.grants)
	next.grants[g.Resource] = slices.DeleteFunc(slices.Clone(a.grants[g.Resource]), func(o *Grant) bool {
		return o.ID == g.ID
	})
	return &next
}

// A head that names somebody else than its body would let a listing by heads
// disagree with the registry.

func sameAgent(h evidence.Head, agent string) error {
	if h.Agent != "" && h.Agent != agent {
		return fmt.Errorf("record %w: its head names agent %s, its body %.80q", ErrInvalid, h.Agent, agent)
	}
	return nil
}

func sameResource(h evidence.Head, resource string) error {
	if h.Resource != "" && h.Resource != resource {
		return fmt.Errorf("record %w: its head names resource %s, its body %.80q", ErrInvalid, h.Resource, resource)
	}
	return nil
}

// person: rights are given by people.
func person(by evidence.By) error {
	if by.Person.ID == "" {
		return fmt.Errorf("record %w: it names no person who did it", ErrInvalid)
	}
	return nil
}

// someone: rights may also be taken away by the gateway itself.
func someone(by evidence.By) error {
	if by.Person.ID == "" && by.Via == "" {
		return fmt.Errorf("record %w: it says nothing of who did it", ErrInvalid)
	}
	return nil
}

func listNames(names []string) string {
	const most = 12
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
