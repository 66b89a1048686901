package decision

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Leaver is a person who has left.
type Leaver struct {
	evidence.LeaveBody
	Noticed   evidence.Position `json:"noticed"` // record that says so
	NoticedAt int64             `json:"noticed_at"`
	Import    evidence.Position `json:"import"` // the snapshot that it was taken from
}

// Leaver returns when a person left, while they are gone.
func (r *Registry) Leaver(person string) (Leaver, bool) {
	l, ok := r.left[person]
	return l, ok
}

// Leavers returns the people who have left, by id.
func (r *Registry) Leavers() []Leaver {
	all := make([]Leaver, 0, len(r.left))
	for _, id := range slices.Sorted(maps.Keys(r.left)) {
		all = append(all, r.left[id])
	}
	return all
}

// Knows reports whether a person is one of the configuration, or answers for an
// agent.
func (r *Registry) Knows(person string) bool {
	if slices.ContainsFunc(r.config.People, func(m evidence.Member) bool { return m.ID == person }) {
		return true
	}
	return len(r.agents.where(func(a *agentState) bool { return a.Owner.ID == person || a.Backup.ID == person })) > 0
}

// abandoned reports whether nobody is left who answers for an agent.
func (r *Registry) abandoned(owner, backup evidence.Person) bool {
	_, gone := r.left[owner.ID]
	_, both := r.left[backup.ID]
	return gone && (backup.ID == "" || both)
}

// leave takes note that a person has left, and suspends the agents for which
// nobody answers any more. Rights end by it, so the gateway may do it alone.
func (r *Registry) leave(h evidence.Head, b evidence.LeaveBody) error {
	_, gone := r.left[b.Person]
	if err := someone(b.By); err != nil {
		return err
	}
	switch {
	case b.Person == "":
		return fmt.Errorf("leaver %w: they have no id", ErrInvalid)
	case !r.Knows(b.Person):
		return fmt.Errorf("person %.80q %w", b.Person, ErrUnknown)
	case gone:
		return fmt.Errorf("person %s %w: they left by %s", b.Person, ErrRetired, r.left[b.Person].Noticed)
	}
	r.left = maps.Clone(r.left)
	if r.left == nil {
		r.left = make(map[string]Leaver)
	}
	r.left[b.Person] = Leaver{LeaveBody: b, Noticed: h.Pos, NoticedAt: h.Time, Import: h.Of}
	for _, a := range r.agents.where(func(a *agentState) bool { return a.Owner.ID == b.Person || a.Backup.ID == b.Person }) {
		if !a.Disabled.IsZero() || !a.Suspended.IsZero() || !r.abandoned(a.Owner, a.Backup) {
			continue
		}
		next := *a
		next.Suspended, next.SuspendedAt = h.Pos, h.Time
		r.agents = r.agents.with(a.Agent.Agent, &next)
	}
	return nil
}

// comeBack takes note that a person is back. It resumes nothing: somebody has to
// say who answers for the agents now.
func (r *Registry) comeBack(b evidence.LeaveBody) error {
	if err := someone(b.By); err != nil {
		return err
	}
	if _, gone := r.left[b.Person]; !gone {
		return fmt.Errorf("leaver %.80q %w", b.Person, ErrUnknown)
	}
	r.left = maps.Clone(r.left)
	delete(r.left, b.Person)
	return nil
}

// own gives an agent another owner, which ends its suspension.
func (r *Registry) own(h evidence.Head, b evidence.OwnerBody) error {
	a, err := r.serving(b.Agent)
	if err := cmp.Or(err, sameAgent(h, b.Agent), person(b.By)); err != nil {
		return err
	}
	switch _, gone := r.left[b.Owner.ID]; {
	case b.Owner.ID == "":
		return fmt.Errorf("agent %s %w: it would have no owner", b.Agent, ErrInvalid)
	case gone:
		return fmt.Errorf("owner %s %w: they left by %s", b.Owner.ID, ErrRetired, r.left[b.Owner.ID].Noticed)
	case b.Reason == "":
		return fmt.Errorf("change of owner of %s %w: it says no reason", b.Agent, ErrInvalid)
	}
	next := *a
	next.Owner, next.Backup = b.Owner, b.Backup
	next.Suspended, next.SuspendedAt = evidence.Position{}, 0
	next.attributes = agentAttributes(next.AgentBody)
	r.agents = r.agents.with(b.Agent, &next)
	return nil
}
