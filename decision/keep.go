package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Hold is a legal hold: nothing that was sealed is erased while one stands.
type Hold struct {
	evidence.HoldBody
	ID        string            `json:"id"` // position of its record, as text
	Placed    evidence.Position `json:"placed"`
	PlacedAt  int64             `json:"placed_at"`
	Lifted    evidence.Position `json:"lifted,omitzero"` // zero while it stands
	LiftedAt  int64             `json:"lifted_at,omitempty"`
	LiftedBy  evidence.By       `json:"lifted_by,omitzero"`
	LiftedFor string            `json:"lifted_for,omitempty"`
}

// Erased is a session whose secret was destroyed.
type Erased struct {
	evidence.RedactionBody
	At   evidence.Position `json:"at"`
	Time int64             `json:"time"`
}

// ErrHeld is wrapped when something would be erased under a legal hold.
var ErrHeld = errors.New("is under a legal hold")

// Holds returns all legal holds, lifted ones too, in the order of their records.
func (r *Registry) Holds() []Hold { return slices.Clone(r.holds) }

// Erased returns the sessions that were erased, in the order of their records.
func (r *Registry) Erased() []Erased { return slices.Clone(r.erased) }

// ErasureDigest names what an erasure would destroy and why: SHA-256, in hex, of
// its JSON as evidence.EncodeBody writes it.
func ErasureDigest(s evidence.ErasureScope) string {
	sum := sha256.Sum256(evidence.EncodeBody(s))
	return hex.EncodeToString(sum[:])
}

func (r *Registry) hold(h evidence.Head, b evidence.HoldBody) error {
	if err := person(b.By); err != nil {
		return err
	}
	if b.Reason == "" {
		return fmt.Errorf("hold %w: it has no reason", ErrInvalid)
	}
	if b.Change == evidence.HoldPlaced && b.Hold == "" {
		r.holds = append(slices.Clone(r.holds), Hold{HoldBody: b, ID: h.Pos.String(), Placed: h.Pos, PlacedAt: h.Time})
		return nil
	}
	i := slices.IndexFunc(r.holds, func(old Hold) bool { return old.ID == b.Hold })
	switch {
	case b.Change != evidence.HoldLifted:
		return fmt.Errorf("hold %w: change %.40q", ErrInvalid, b.Change)
	case i < 0:
		return fmt.Errorf("hold %.80q %w", b.Hold, ErrUnknown)
	case !r.holds[i].Lifted.IsZero():
		return fmt.Errorf("hold %s %w: lifted by %s", b.Hold, ErrRetired, r.holds[i].Lifted)
	}
	r.holds = slices.Clone(r.holds)
	old := &r.holds[i]
	old.Lifted, old.LiftedAt, old.LiftedBy, old.LiftedFor = h.Pos, h.Time, b.By, b.Reason
	return nil
}

// held returns the first hold that stands.
func (r *Registry) held() *Hold {
	for i := range r.holds {
		if r.holds[i].Lifted.IsZero() {
			return &r.holds[i]
		}
	}
	return nil
}

// erasable checks that a session may be erased for a reason.
func (r *Registry) erasable(h evidence.Head, s evidence.ErasureScope) error {
	if s.Session.IsZero() || !s.Session.Before(h.Pos) || s.Basis == "" {
		return fmt.Errorf("erasure %w: it needs a session of before, and why it may be erased", ErrInvalid)
	}
	if hold := r.held(); hold != nil {
		return fmt.Errorf("session %s %w: %s, placed by %s", s.Session, ErrHeld, hold.ID, hold.By.Person.ID)
	}
	if i := slices.IndexFunc(r.erased, func(e Erased) bool { return e.Session == s.Session }); i >= 0 {
		return fmt.Errorf("session %s %w: erased by %s", s.Session, ErrDuplicate, r.erased[i].At)
	}
	return nil
}

// redact erases a session: what was approved, where rights need two people.
func (r *Registry) redact(h evidence.Head, b evidence.RedactionBody) error {
	scope := evidence.ErasureScope{Session: b.Session, Slot: b.Slot, Basis: b.Basis}
	if err := cmp.Or(person(b.By), r.erasable(h, scope)); err != nil {
		return err
	}
	switch {
	case b.Request != "":
		a, err := r.approved(b.Request, evidence.ApproveErasure, ErasureDigest(scope), h.Time)
		if err != nil {
			return err
		}
		r.use(a, h, b.Session.String())
	case r.Separated():
		return fmt.Errorf("erasure of session %s %w: it needs another person", b.Session, ErrNotApproved)
	}
	r.erased = append(slices.Clone(r.erased), Erased{b, h.Pos, h.Time})
	return nil
}
