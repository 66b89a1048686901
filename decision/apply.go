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
	if h.Type == evidence.StateSnapshot { // which says what is, and changes nothing
		if err := decodeAnd(body, r.snapshot); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Type, err)
		}
		return r, nil
	}
	next := *r
	next.summary = new(summary)
	var err error
	switch h.Type {
	case evidence.AgentCreate:
		err = decodeAnd(body, func(b evidence.AgentBody) error { return next.createAgent(h, b) })
	case evidence.AgentDisable:
		err = decodeAnd(body, func(b evidence.DisableBody) error { return next.disableAgent(h, b) })
	case evidence.OwnerChange:
		err = decodeAnd(body, func(b evidence.OwnerBody) error { return next.own(h, b) })
	case evidence.PersonLeave:
		err = decodeAnd(body, func(b evidence.LeaveBody) error { return next.leave(h, b) })
	case evidence.PersonReturn:
		err = decodeAnd(body, next.comeBack)
	case evidence.CredentialEnroll:
		err = decodeAnd(body, func(b evidence.CredentialBody) error { return next.enroll(h, b) })
	case evidence.CredentialRevoke:
		err = decodeAnd(body, func(b evidence.RevokeBody) error { return next.revoke(h, b) })
	case evidence.GrantCreate:
		err = decodeAnd(body, func(b evidence.GrantBody) error { return next.createGrant(h, b) })
	case evidence.GrantRemove:
		err = decodeAnd(body, func(b evidence.RevokeBody) error { return next.removeGrant(h, b) })
	case evidence.ApprovalRequest:
		err = decodeAnd(body, func(b evidence.ApprovalRequestBody) error { return next.request(h, b) })
	case evidence.ApprovalDecision:
		err = decodeAnd(body, func(b evidence.ApprovalDecisionBody) error { return next.decideApproval(h, b) })
	case evidence.ApprovalUse:
		err = decodeAnd(body, func(b evidence.ApprovalUseBody) error { return next.useApproval(h, b) })
	case evidence.PolicyChange:
		err = decodeAnd(body, func(b evidence.PolicyBody) error { return next.changePolicy(h, b) })
	case evidence.ConfigChange:
		err = decodeAnd(body, next.changeConfig)
	case evidence.LogHold:
		err = decodeAnd(body, func(b evidence.HoldBody) error { return next.hold(h, b) })
	case evidence.Redaction:
		err = decodeAnd(body, func(b evidence.RedactionBody) error { return next.redact(h, b) })
	case evidence.Disposal:
		err = decodeAnd(body, func(b evidence.DisposalBody) error { return next.dispose(h, b) })
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
	case r.abandoned(b.Owner, b.Backup):
		return fmt.Errorf("owner %s %w: they left by %s", b.Owner.ID, ErrRetired, r.left[b.Owner.ID].Noticed)
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
	scope := evidence.GrantScope{Agent: b.Agent, Role: b.Role, Resource: b.Resource, Starts: b.Starts, Expires: b.Expires, Renews: b.Renews}
	id := h.Pos.String()
	_, taken := r.grants.get(id)
	if taken {
		return fmt.Errorf("grant %s %w", id, ErrDuplicate)
	}
	if err := cmp.Or(sameAgent(h, b.Agent), sameResource(h, b.Resource), person(b.By), r.grantable(h, scope, b.Ticket)); err != nil {
		return err
	}
	switch {
	case b.Request != "":
		if err := r.grantRequested(h, b, scope); err != nil {
			return err
		}
	case r.Separated():
		return fmt.Errorf("grant %w: another person must have approved it", ErrSeparation)
	}
	g := &Grant{GrantBody: b, ID: id, Created: h.Pos, CreatedAt: h.Time}
	a, _ := r.agents.get(b.Agent)
	r.grants = r.grants.with(id, g)
	r.agents = r.agents.with(b.Agent, a.withGrant(g))
	return nil
}

// ErrSeparation is wrapped when one person would do what needs two.
var ErrSeparation = errors.New("needs two people")

// grantRequested checks a grant against the request that it is made of.
func (r *Registry) grantRequested(h evidence.Head, b evidence.GrantBody, scope evidence.GrantScope) error {
	asked, ok := r.approvals.get(b.Request)
	if !ok {
		return fmt.Errorf("request %.80q %w", b.Request, ErrUnknown)
	}
	a, err := r.approved(b.Request, evidence.ApproveGrant, asked.Digest, h.Time)
	if err != nil {
		return err
	}
	if scope != a.grantScope() || b.Ticket != a.Ticket {
		return fmt.Errorf("grant %w: it is not what was approved as %s", ErrInvalid, a.ID)
	}
	r.use(a, h, h.Pos.String())
	return nil
}

// grantable checks that a grant could be made.
func (r *Registry) grantable(h evidence.Head, s evidence.GrantScope, ticket string) error {
	a, err := r.serving(s.Agent)
	if err != nil {
		return err
	}
	switch _, hasResource := r.resources[s.Resource]; {
	case !hasResource:
		return fmt.Errorf("resource %.80q %w; the configuration has %s", s.Resource, ErrUnknown, listNames(slices.Sorted(maps.Keys(r.resources))))
	case r.policy == nil:
		return fmt.Errorf("role %.80q %w: no policy is in force", s.Role, ErrUnknown)
	case !r.policy.HasRole(s.Role):
		return fmt.Errorf("role %.80q %w; the policy has %s", s.Role, ErrUnknown, listNames(r.policy.roles))
	case s.Expires <= h.Time || s.Expires <= s.Starts:
		return fmt.Errorf("grant %w: it expires before it begins", ErrInvalid)
	case a.Expires != 0 && h.Time >= a.Expires:
		return fmt.Errorf("agent %s %w: it has expired", s.Agent, ErrRetired)
	case ticket == "" && r.policy.wantsTicket(s.Role):
		return fmt.Errorf("grant of role %s %w: policy wants a ticket for it", s.Role, ErrInvalid)
	}
	if s.Renews == "" {
		return nil
	}
	old, ok := r.grants.get(s.Renews)
	switch {
	case !ok:
		return fmt.Errorf("grant %.80q %w: there is nothing to renew", s.Renews, ErrUnknown)
	case old.Agent != s.Agent || old.Role != s.Role || old.Resource != s.Resource:
		return fmt.Errorf("grant %w: it renews %s, which is another agent's, role's or resource's", ErrInvalid, old.ID)
	case !old.Removed.IsZero():
		return fmt.Errorf("grant %s %w: it was removed by %s and can't be renewed", old.ID, ErrRetired, old.Removed)
	}
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

func (r *Registry) changePolicy(h evidence.Head, b evidence.PolicyBody) error {
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
	if err := r.policyApproved(h, b); err != nil {
		return err
	}
	r.policy, r.policyBody = p, b
	r.bundles = maps.Clone(r.bundles)
	if r.bundles == nil {
		r.bundles = make(map[string]evidence.Position)
	}
	r.bundles[b.Digest] = h.Pos
	return nil
}

// policyApproved: a bundle counts when two people wanted it. So did they when
// it was in force before, which one person may go back to; and the first one
// has nobody before it.
func (r *Registry) policyApproved(h evidence.Head, b evidence.PolicyBody) error {
	switch at, was := r.bundles[b.Digest]; {
	case b.Request != "":
		a, err := r.approved(b.Request, evidence.ApprovePolicy, b.Digest, h.Time)
		if err != nil {
			return err
		}
		if a.Policy.Before != b.Before {
			return fmt.Errorf("policy change %w: request %s was made from %.12q", ErrStale, a.ID, a.Policy.Before)
		}
		r.use(a, h, b.Digest)
	case b.Back != "":
		if !was || at.String() != b.Back {
			return fmt.Errorf("policy change %w: %.80q did not put its bundle in force", ErrInvalid, b.Back)
		}
	case slices.Equal(b.Files, r.policyBody.Files):
		// Only the actions differ, which come from the gateway's own version.
	case r.Separated() && r.policy != nil:
		return fmt.Errorf("policy change %w: another person must have approved it", ErrSeparation)
	}
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
	return r.setConfig(b)
}

// setConfig puts what a configuration says in the place of what is.
func (r *Registry) setConfig(b evidence.ConfigBody) error {
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
	if err := r.setPeople(b); err != nil {
		return err
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
