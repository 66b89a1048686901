package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Disposed is a disposal with the place of its record.
type Disposed struct {
	evidence.DisposalBody
	At   evidence.Position `json:"at"`
	Time int64             `json:"time"`
}

// ErrEarly is wrapped when blocks would be deleted before their retention ends.
var ErrEarly = errors.New("is not past its retention")

// ErrGap is wrapped when a disposal doesn't go on where the one before ended,
// so that blocks could go without being named, or are named twice.
var ErrGap = errors.New("does not go on from the disposal before")

// maxDisposalBlocks bounds the lists of a disposal.
const maxDisposalBlocks = 1 << 16

// Disposals returns all disposals, in the order of their records.
func (r *Registry) Disposals() []Disposed { return slices.Clone(r.disposed) }

// Undisposed is the first block that no disposal has spoken of.
func (r *Registry) Undisposed() uint64 {
	if n := len(r.disposed); n > 0 {
		return r.disposed[n-1].Last + 1
	}
	return 0
}

// Kept returns the blocks without control records that disposals have kept so
// far, in order.
func (r *Registry) Kept() []uint64 {
	var kept []uint64
	for i := range r.disposed {
		d := &r.disposed[i]
		kept = slices.DeleteFunc(kept, func(n uint64) bool { return contains(d.Released, n) })
		kept = append(kept, d.Kept...)
	}
	return kept
}

func contains(sorted []uint64, n uint64) bool {
	_, found := slices.BinarySearch(sorted, n)
	return found
}

// DisposalDigest names what a disposal would delete: SHA-256, in hex, of its
// JSON as evidence.EncodeBody writes it.
func DisposalDigest(s evidence.DisposalScope) string {
	sum := sha256.Sum256(evidence.EncodeBody(s))
	return hex.EncodeToString(sum[:])
}

// disposable checks that blocks may be deleted at the time of a record.
func (r *Registry) disposable(h evidence.Head, s *evidence.DisposalScope) error {
	if hold := r.held(); hold != nil {
		return fmt.Errorf("what is in blocks %d to %d %w: %s, placed by %s", s.First, s.Last, ErrHeld, hold.ID, hold.By.Person.ID)
	}
	if err := cmp.Or(r.follows(s), r.expired(h, s)); err != nil {
		return err
	}
	if s.Reason == "" || s.Blocks == 0 {
		return fmt.Errorf("disposal %w: it needs a reason, and blocks to delete", ErrInvalid)
	}
	return nil
}

// follows checks that a disposal accounts for every block since the one before.
func (r *Registry) follows(s *evidence.DisposalScope) error {
	if next := r.Undisposed(); s.First != next || s.Last < s.First {
		return fmt.Errorf("disposal of blocks %d to %d %w: block %d is next", s.First, s.Last, ErrGap, next)
	}
	had := r.Kept()
	switch {
	case len(s.Kept)+len(had) > maxDisposalBlocks:
		return fmt.Errorf("disposal %w: it would keep more than %d blocks", ErrInvalid, maxDisposalBlocks)
	case !ascending(s.Kept) || len(s.Kept) > 0 && (s.Kept[0] < s.First || s.Kept[len(s.Kept)-1] > s.Last):
		return fmt.Errorf("disposal %w: the blocks that it keeps are not of its own, in order", ErrInvalid)
	case !ascending(s.Released) || slices.ContainsFunc(s.Released, func(n uint64) bool { return !contains(had, n) }):
		return fmt.Errorf("disposal %w: it deletes blocks that no disposal before has kept", ErrGap)
	}
	return nil
}

func ascending(list []uint64) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return false
		}
	}
	return true
}

// expired checks the retention: that of the configuration in force, which the
// time of the newest record in the blocks must be past. That the header is the
// log's is for who has the log.
func (r *Registry) expired(h evidence.Head, s *evidence.DisposalScope) error {
	var end struct {
		Block uint64 `json:"block"`
		To    int64  `json:"to"`
	}
	if err := json.Unmarshal([]byte(s.End), &end); err != nil || end.Block != s.Last || end.To < 0 {
		return fmt.Errorf("disposal %w: it ends with block %d and has not its header", ErrInvalid, s.Last)
	}
	keep := r.config.Retention
	switch {
	case keep <= 0:
		return fmt.Errorf("block %d %w: the configuration in force keeps the log for ever", s.Last, ErrEarly)
	case s.Retention != keep:
		return fmt.Errorf("disposal %w: it is by a retention of %d s, in force is one of %d s", ErrStale, s.Retention, keep)
	case (h.Time-end.To)/time.Second.Microseconds() <= keep:
		return fmt.Errorf("block %d %w: its newest record is of %s, and is kept for %d s", s.Last, ErrEarly, time.UnixMicro(end.To).UTC().Format(time.RFC3339), keep)
	}
	return nil
}

// dispose notes a disposal: what was approved, where rights need two people.
func (r *Registry) dispose(h evidence.Head, b evidence.DisposalBody) error {
	if err := cmp.Or(person(b.By), r.disposable(h, &b.DisposalScope)); err != nil {
		return err
	}
	if b.Size <= b.Last {
		return fmt.Errorf("disposal %w: a checkpoint of %d blocks does not cover block %d", ErrInvalid, b.Size, b.Last)
	}
	switch {
	case b.Request != "":
		a, err := r.approved(b.Request, evidence.ApproveDisposal, DisposalDigest(b.DisposalScope), h.Time)
		if err != nil {
			return err
		}
		r.use(a, h, h.Pos.String())
	case r.Separated():
		return fmt.Errorf("disposal of blocks %d to %d %w: it needs another person", b.First, b.Last, ErrNotApproved)
	}
	r.disposed = append(slices.Clone(r.disposed), Disposed{b, h.Pos, h.Time})
	return nil
}
