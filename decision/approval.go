package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Approval is a request for an approval with everything that people said of it.
type Approval struct {
	evidence.ApprovalRequestBody
	ID        string             `json:"id"` // position of its record, as text
	Asked     evidence.Position  `json:"asked"`
	AskedAt   int64              `json:"asked_at"`
	Decisions []ApprovalDecision `json:"decisions,omitempty"` // in the order of their records
	Used      evidence.Position  `json:"used,omitzero"`       // of the record that used it; zero until then
	UsedAt    int64              `json:"used_at,omitempty"`
	UsedBy    string             `json:"used_by,omitempty"` // the grant, the policy's digest, or the command
}

// ApprovalDecision is what one person said.
type ApprovalDecision struct {
	evidence.ApprovalDecisionBody
	Decided   evidence.Position `json:"decided"`
	DecidedAt int64             `json:"decided_at"`
}

// The states of a request.
const (
	ApprovalPending   = "pending"
	ApprovalApproved  = "approved" // and not used yet
	ApprovalDenied    = "denied"
	ApprovalWithdrawn = "withdrawn"
	ApprovalExpired   = "expired"
	ApprovalUsed      = "used"
)

// maxRequestLife bounds how long a request can wait, and what it approves can
// wait to be used.
const maxRequestLife = 90 * 24 * time.Hour

// ScopeDigest names what a grant would give: SHA-256, in hex, of its JSON as
// evidence.EncodeBody writes it.
func ScopeDigest(s evidence.GrantScope) string {
	sum := sha256.Sum256(evidence.EncodeBody(s))
	return hex.EncodeToString(sum[:])
}

// Approval returns the request with an id.
func (r *Registry) Approval(id string) (Approval, bool) { return deref(r.approvals.get(id)) }

// Approvals returns all requests ever made, in the order of their records.
func (r *Registry) Approvals() []Approval {
	return derefAll(r.approvals.sorted(func(a, b *Approval) int { return comparePositions(a.Asked, b.Asked) }))
}

// State says where a request stands at a time. A person who no longer is in a
// group has no say in it, whatever they said before.
func (r *Registry) State(a *Approval, t int64) string {
	switch {
	case !a.Used.IsZero():
		return ApprovalUsed
	case a.said(evidence.Withdrawn):
		return ApprovalWithdrawn
	case a.said(evidence.Refused):
		return ApprovalDenied
	case t >= a.Expires:
		return ApprovalExpired
	case r.short(a) == "":
		return ApprovalApproved
	}
	return ApprovalPending
}

func (a *Approval) said(what string) bool {
	return slices.ContainsFunc(a.Decisions, func(d ApprovalDecision) bool { return d.Decision == what })
}

// short says what a request still lacks, or "".
func (r *Registry) short(a *Approval) string {
	for _, need := range a.Needs {
		have := 0
		for i := range a.Decisions {
			d := &a.Decisions[i]
			if d.Decision == evidence.Approved && slices.Contains(r.Groups(&a.ApprovalRequestBody, d.By.Person.ID), need.Group) {
				have++
			}
		}
		if have < need.Count {
			return fmt.Sprintf("%d of %d of %s", have, need.Count, need.Group)
		}
	}
	return ""
}

// Groups returns of the groups that a request needs those that a person stands
// for now. Who asked stands for none.
func (r *Registry) Groups(b *evidence.ApprovalRequestBody, person string) (groups []string) {
	if person == b.By.Person.ID {
		return nil
	}
	for _, need := range b.Needs {
		if r.inGroup(b, need.Group, person) {
			groups = append(groups, need.Group)
		}
	}
	return groups
}

func (r *Registry) inGroup(b *evidence.ApprovalRequestBody, group, person string) bool {
	own, is := r.people[person]
	if !is {
		return false
	}
	any := func(groups []string) bool {
		return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(own, g) })
	}
	switch group {
	case evidence.GroupResource:
		if b.Grant == nil {
			return false
		}
		res, ok := r.resources[b.Grant.Resource]
		if !ok {
			return false
		}
		if res.Owner == "" && len(res.Approvers) == 0 {
			return true // nobody answers for it: any second person does
		}
		return res.Owner == person || any(res.Approvers)
	case evidence.GroupPolicy:
		return len(r.config.PolicyApprovers) == 0 || any(r.config.PolicyApprovers)
	}
	return slices.Contains(own, group)
}

// Separated reports whether grants and policies need two people.
func (r *Registry) Separated() bool { return r.config.Separation == evidence.SeparationRequired }

func (r *Registry) request(h evidence.Head, b evidence.ApprovalRequestBody) error {
	id := h.Pos.String()
	_, taken := r.approvals.get(id)
	switch {
	case taken:
		return fmt.Errorf("request %s %w", id, ErrDuplicate)
	case len(b.Needs) == 0:
		return fmt.Errorf("request %w: it needs nobody's approval", ErrInvalid)
	case b.Expires <= h.Time || b.Expires > h.Time+maxRequestLife.Microseconds():
		return fmt.Errorf("request %w: want it to expire within %d days", ErrInvalid, int(maxRequestLife.Hours()/24))
	}
	for i, n := range b.Needs {
		if !evidence.ValidName(n.Group) || n.Count < 1 || i > 0 && b.Needs[i-1].Group >= n.Group {
			return fmt.Errorf("request %w: its needs are not groups in order, each with a number", ErrInvalid)
		}
	}
	if err := cmp.Or(person(b.By), r.requested(h, &b)); err != nil {
		return err
	}
	r.approvals = r.approvals.with(id, &Approval{ApprovalRequestBody: b, ID: id, Asked: h.Pos, AskedAt: h.Time})
	return nil
}

// requested checks what a request asks for.
func (r *Registry) requested(h evidence.Head, b *evidence.ApprovalRequestBody) error {
	switch {
	case b.Kind == evidence.ApproveErasure && b.Erasure != nil && b.Grant == nil && b.Policy == nil && b.Command == nil:
		if b.Digest != ErasureDigest(*b.Erasure) {
			return fmt.Errorf("request %w: its digest is not that of what it asks", ErrInvalid)
		}
		return r.erasable(h, *b.Erasure)
	case b.Kind == evidence.ApproveDisposal && b.Disposal != nil && b.Erasure == nil && b.Grant == nil && b.Policy == nil && b.Command == nil:
		if b.Digest != DisposalDigest(*b.Disposal) {
			return fmt.Errorf("request %w: its digest is not that of what it asks", ErrInvalid)
		}
		return r.disposable(h, b.Disposal)
	case b.Erasure != nil || b.Disposal != nil:
	case b.Kind == evidence.ApproveGrant && b.Grant != nil && b.Policy == nil && b.Command == nil:
		if b.Digest != ScopeDigest(*b.Grant) {
			return fmt.Errorf("request %w: its digest is not that of what it asks", ErrInvalid)
		}
		if err := cmp.Or(sameAgent(h, b.Grant.Agent), sameResource(h, b.Grant.Resource)); err != nil {
			return err
		}
		return r.grantable(h, *b.Grant, b.Ticket)
	case b.Kind == evidence.ApprovePolicy && b.Policy != nil && b.Grant == nil && b.Command == nil:
		return r.proposed(b)
	case b.Kind == evidence.ApproveCommand && b.Command != nil && b.Grant == nil && b.Policy == nil:
		if b.Digest == "" {
			return fmt.Errorf("request %w: it has no digest", ErrInvalid)
		}
		return cmp.Or(sameAgent(h, b.Command.Agent), sameResource(h, b.Command.Resource))
	}
	return fmt.Errorf("request %w: of kind %.40q, it asks for something else", ErrInvalid, b.Kind)
}

func (r *Registry) proposed(b *evidence.ApprovalRequestBody) error {
	p := b.Policy
	if p.Before != r.Policy() {
		return fmt.Errorf("proposal %w: it was made from %.12q, in force is %.12q", ErrStale, p.Before, r.Policy())
	}
	if want := Digest(p.Files, p.Actions); b.Digest != want {
		return fmt.Errorf("proposal %w: its files give the digest %s", ErrInvalid, want)
	}
	_, err := Compile(p.Files, p.Actions)
	return err
}

func (r *Registry) decideApproval(h evidence.Head, b evidence.ApprovalDecisionBody) error {
	a, ok := r.approvals.get(b.Request)
	if !ok {
		return fmt.Errorf("request %.80q %w", b.Request, ErrUnknown)
	}
	if err := person(b.By); err != nil {
		return err
	}
	who := b.By.Person.ID
	switch state := r.State(a, h.Time); {
	case b.Digest != a.Digest:
		return fmt.Errorf("decision %w: it is about something else than request %s asks", ErrStale, a.ID)
	case b.Decision == evidence.Withdrawn && who != a.By.Person.ID:
		return fmt.Errorf("decision %w: only %s can withdraw the request", ErrInvalid, a.By.Person.ID)
	case b.Decision == evidence.Withdrawn && state == ApprovalApproved:
		// What is approved and not used can still be withdrawn.
	case state != ApprovalPending:
		return fmt.Errorf("request %s %w: it is %s", a.ID, ErrRetired, state)
	case b.Decision == evidence.Approved || b.Decision == evidence.Refused:
		if err := r.mayApprove(a, b); err != nil {
			return err
		}
	case b.Decision != evidence.Withdrawn:
		return fmt.Errorf("decision %.40q %w: want %s, %s or %s", b.Decision, ErrInvalid, evidence.Approved, evidence.Refused, evidence.Withdrawn)
	}
	if b.Expires != 0 && (a.Grant == nil || b.Expires <= h.Time || b.Expires > a.Grant.Expires) {
		return fmt.Errorf("decision %w: an approval can only let a grant end earlier than asked", ErrInvalid)
	}
	next := *a
	next.Decisions = append(slices.Clone(a.Decisions), ApprovalDecision{ApprovalDecisionBody: b, Decided: h.Pos, DecidedAt: h.Time})
	r.approvals = r.approvals.with(a.ID, &next)
	return nil
}

// ErrSelfApproval is wrapped when a person would approve what they asked for.
var ErrSelfApproval = errors.New("nobody approves their own request")

// ErrNotApproved is wrapped when what needs an approval would be done without.
var ErrNotApproved = errors.New("is not approved")

// ErrNoApprover is wrapped when a person has no say in a request.
var ErrNoApprover = errors.New("is no approver of it")

func (r *Registry) mayApprove(a *Approval, b evidence.ApprovalDecisionBody) error {
	who := b.By.Person.ID
	groups := r.Groups(&a.ApprovalRequestBody, who)
	switch {
	case who == a.By.Person.ID:
		return fmt.Errorf("%w: %s asked for %s; another person must answer", ErrSelfApproval, who, a.ID)
	case len(groups) == 0:
		return fmt.Errorf("%s %w: request %s needs %s", who, ErrNoApprover, a.ID, needs(a.Needs))
	case !slices.Equal(groups, b.Groups):
		return fmt.Errorf("decision %w: it counts %s for %q, and is for %q", ErrInvalid, who, b.Groups, groups)
	case slices.ContainsFunc(a.Decisions, func(d ApprovalDecision) bool { return d.By.Person.ID == who }):
		return fmt.Errorf("decision %w: %s has answered request %s", ErrDuplicate, who, a.ID)
	}
	return nil
}

func needs(list []evidence.ApprovalNeed) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = n.Group
		if n.Count > 1 {
			texts[i] = fmt.Sprintf("%d of %s", n.Count, n.Group)
		}
	}
	return listNames(texts)
}

// approved returns the request with an id when it may be used now.
func (r *Registry) approved(id, kind, digest string, t int64) (*Approval, error) {
	a, ok := r.approvals.get(id)
	switch {
	case !ok:
		return nil, fmt.Errorf("request %.80q %w", id, ErrUnknown)
	case a.Kind != kind:
		return nil, fmt.Errorf("request %s %w: it is about a %s", id, ErrInvalid, a.Kind)
	case a.Digest != digest:
		return nil, fmt.Errorf("request %s %w: it is about something else", id, ErrStale)
	}
	switch state := r.State(a, t); state {
	case ApprovalApproved:
		return a, nil
	case ApprovalPending:
		return nil, fmt.Errorf("request %s %w: it has %s", id, ErrNotApproved, r.short(a))
	default:
		return nil, fmt.Errorf("request %s %w: it is %s", id, ErrRetired, state)
	}
}

// use marks a request as used.
func (r *Registry) use(a *Approval, h evidence.Head, by string) {
	next := *a
	next.Used, next.UsedAt, next.UsedBy = h.Pos, h.Time, by
	r.approvals = r.approvals.with(a.ID, &next)
}

func (r *Registry) useApproval(h evidence.Head, b evidence.ApprovalUseBody) error {
	if h.Of.IsZero() {
		return fmt.Errorf("use of request %.80q %w: it names no command", b.Request, ErrInvalid)
	}
	a, err := r.approved(b.Request, evidence.ApproveCommand, b.Digest, h.Time)
	if err := cmp.Or(err, sameCommand(h, a)); err != nil {
		return err
	}
	r.use(a, h, h.Of.String())
	return nil
}

func sameCommand(h evidence.Head, a *Approval) error {
	if a == nil {
		return nil
	}
	return cmp.Or(sameAgent(h, a.Command.Agent), sameResource(h, a.Command.Resource))
}

// grantScope is what an approved request gives: what was asked, or less.
func (a *Approval) grantScope() evidence.GrantScope {
	s := *a.Grant
	for _, d := range a.Decisions {
		if d.Decision == evidence.Approved && d.Expires != 0 {
			s.Expires = min(s.Expires, d.Expires)
		}
	}
	return s
}

// GrantOf returns the grant that an approved request makes.
func (a *Approval) GrantOf(by evidence.By) evidence.GrantBody {
	s := a.grantScope()
	return evidence.GrantBody{
		Agent: s.Agent, Role: s.Role, Resource: s.Resource, Ticket: a.Ticket, Reason: a.Reason,
		Starts: s.Starts, Expires: s.Expires, Renews: s.Renews, Request: a.ID, By: by,
	}
}

// setPeople reads who is in which group.
func (r *Registry) setPeople(b evidence.ConfigBody) error {
	people := make(map[string][]string, len(b.People))
	for _, m := range b.People {
		if _, twice := people[m.ID]; twice || m.ID == "" {
			return fmt.Errorf("person %.80q %w", m.ID, ErrDuplicate)
		}
		people[m.ID] = m.Groups
	}
	switch b.Separation {
	case "", evidence.SeparationReported, evidence.SeparationRequired:
	default:
		return fmt.Errorf("separation %.40q %w", b.Separation, ErrInvalid)
	}
	r.people = people
	return nil
}

// People returns the ids of the people of the configuration in force, sorted.
func (r *Registry) People() []string { return slices.Sorted(maps.Keys(r.people)) }
