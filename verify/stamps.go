package verify

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// maxStamps is how many time stamps of a pack are read.
const maxStamps = 1 << 20

// clockError is how far the gateway's clock may be ahead of an authority's
// before the report says so.
const clockError = time.Minute

// Stamps is what trusted time stamp authorities say of the log.
type Stamps struct {
	Verified  uint64 `json:"verified"`
	Untrusted uint64 `json:"untrusted,omitempty"` // of authorities that aren't trusted

	Newest *Proof `json:"newest,omitempty"` // of the largest tree
	Whole  *Proof `json:"whole,omitempty"`  // the earliest of a tree that holds all of the range

	Unstamped uint64 `json:"unstamped_blocks"`             // of the range
	Wait      int64  `json:"longest_wait_seconds"`         // from a block's first record to its proof
	Later     uint64 `json:"blocks_dated_later,omitempty"` // than they were stamped
}

// Proof is that the log of so many blocks existed not later than a time.
type Proof struct {
	TreeSize  uint64    `json:"tree_size"`
	NotAfter  time.Time `json:"not_after"`
	Authority string    `json:"authority"` // subject of its certificate
}

// stamped finds the earliest proof that covers a block.
type stamped struct {
	proofs []Proof // by size of the tree, each the earliest of its size or more
	report Stamps
}

// stamps checks the checkpoints that were stamped: each of the log's own key,
// one that the tree grew from, and with a stamp of these bytes by an authority
// that is trusted. Without such an authority all but the last is checked.
func (v *verifier) stamps() {
	c := &v.c.stamps
	c.made = true
	_, there := v.files.manifest[StampsFile]
	if there {
		v.readStamps()
	}
	c.Population = uint64(len(v.stamped.proofs))
	switch r := &v.stamped.report; {
	case v.trust.TSA != nil && !there:
		c.except("the pack holds no time stamp")
	case v.trust.TSA != nil && c.Population == 0 && c.Failed == 0:
		c.except("none of the %d time stamps is of an authority that you trust", r.Untrusted)
	case v.trust.TSA != nil && r.Untrusted > 0:
		c.Note = fmt.Sprintf("%d more are of authorities that you don't trust", r.Untrusted)
	case v.trust.TSA != nil:
	case there:
		c.State, c.Note = workpaper.NotTested, "No time stamp authority is trusted: name those that you trust with --tsa-ca to have the pack's time stamps verified"
	default:
		c.State, c.Note = workpaper.NotTested, "No time stamp authority is trusted, and the pack holds no time stamp: when the log was is the operator's word"
	}
	v.stamped.sort()
}

func (v *verifier) readStamps() {
	c := &v.c.stamps
	f, err := v.files.open(StampsFile)
	if err != nil {
		c.except("%.200s", err)
		return
	}
	defer v.files.finish(f)
	n := 0
	err = ledger.ReadStamps(f, func(_ []byte, s *ledger.Stamped) error {
		if n++; n > maxStamps {
			return fmt.Errorf("there are more than %d", maxStamps)
		}
		p, err := v.stamp(s)
		switch {
		case errors.Is(err, ledger.ErrStampAuthority):
			v.stamped.report.Untrusted++
		case err != nil:
			c.except("line %d: %.300s", n, err)
		case p != nil:
			v.stamped.proofs = append(v.stamped.proofs, *p)
		}
		return nil
	})
	if err != nil {
		c.except("%s: %.300s", StampsFile, err)
	}
}

// stamp checks one; without trusted authorities it proves nothing.
func (v *verifier) stamp(s *ledger.Stamped) (*Proof, error) {
	cp, stamp, err := s.Open()
	if err != nil {
		return nil, err
	}
	if _, err := ledger.OpenCheckpoint([]byte(s.Checkpoint), v.trust.Log, nil, 0); err != nil {
		return nil, err
	}
	if err := v.tree.CheckConsistency(cp); err != nil {
		return nil, err
	}
	if v.trust.TSA == nil {
		return nil, nil
	}
	if err := stamp.Verify(v.trust.TSA); err != nil {
		return nil, fmt.Errorf("the time stamp of the log of %d blocks: %w", cp.Size, err)
	}
	return &Proof{cp.Size, stamp.NotAfter(), stamp.Authority}, nil
}

// sort makes each proof the earliest of those of its size or more: what a larger
// tree holds, a smaller one doesn't hold later.
func (s *stamped) sort() {
	if len(s.proofs) == 0 {
		return
	}
	s.report.Verified = uint64(len(s.proofs))
	slices.SortStableFunc(s.proofs, func(a, b Proof) int {
		return cmp.Or(cmp.Compare(a.TreeSize, b.TreeSize), b.NotAfter.Compare(a.NotAfter))
	})
	newest := s.proofs[len(s.proofs)-1]
	s.report.Newest = &newest
	for i := len(s.proofs) - 2; i >= 0; i-- {
		if s.proofs[i+1].NotAfter.Before(s.proofs[i].NotAfter) {
			s.proofs[i] = s.proofs[i+1]
		}
	}
}

// covering returns the earliest proof of a tree that holds a block.
func (s *stamped) covering(block uint64) *Proof {
	i, _ := slices.BinarySearchFunc(s.proofs, block+1, func(p Proof, size uint64) int { return cmp.Compare(p.TreeSize, size) })
	if i == len(s.proofs) {
		return nil
	}
	return &s.proofs[i]
}

// block counts a block of the range.
func (s *stamped) block(h *ledger.Header) {
	p := s.covering(h.Block)
	if p == nil {
		s.report.Unstamped++
		return
	}
	s.report.Wait = max(s.report.Wait, int64(p.NotAfter.Sub(time.UnixMicro(h.From))/time.Second)+1)
	if time.UnixMicro(h.To).After(p.NotAfter.Add(clockError)) {
		s.report.Later++
	}
}

// stampsReport says how far the range is stamped; nil without trusted
// authorities.
func (v *verifier) stampsReport() (text string, r *Stamps) {
	if v.trust.TSA == nil || v.m == nil || v.cp == nil {
		if v.files.manifest[StampsFile].Path != "" {
			return "not verified: name the authorities that you trust with --tsa-ca", nil
		}
		return "no: when the log was is the operator's word", nil
	}
	r = &v.stamped.report
	if r.Newest == nil {
		return "no: there is no time stamp of an authority that you trust", r
	}
	p := r.Newest
	if whole := v.stamped.covering(v.m.Range.LastBlock); whole != nil {
		r.Whole, p = whole, whole
	}
	text = fmt.Sprintf("the log of %d blocks existed not later than %s, by %s", p.TreeSize, p.NotAfter.UTC().Format(time.RFC3339Nano), p.Authority)
	switch {
	case v.sum == nil:
	case r.Unstamped > 0:
		text += fmt.Sprintf("; no stamp covers the last %s of the range", plural(int(r.Unstamped), "block", "blocks"))
	default:
		text += fmt.Sprintf("; each block of the range was stamped within %v of its first record", time.Duration(r.Wait)*time.Second)
	}
	if r.Later > 0 {
		v.c.stamps.Note = fmt.Sprintf("%d blocks say that they ended after they were stamped: the gateway's clock was ahead. %s", r.Later, v.c.stamps.Note)
	}
	return text, r
}
