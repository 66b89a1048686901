package verify

import (
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// StoredBlock is a block of the range as a fold takes it.
func StoredBlock(h *ledger.Header) *workpaper.Stored {
	return &workpaper.Stored{Number: h.Block, Records: h.Count, Last: h.LastPosition(), From: h.From, To: h.To, Leaf: h.Hash()}
}

// disposal holds a disposal against the leaves of what it names, which the pack
// has all of. That blocks may be disposed of is the fold's to say.
func (v *verifier) disposal(r *evidence.Record) {
	if r.Head.Type != evidence.Disposal || v.m.Params.Level == Heads {
		return
	}
	c := &v.c.disposed
	c.Population++
	var b evidence.DisposalBody
	if err := evidence.DecodeBody(r.Body, &b); err != nil {
		c.Except(r.Head.Pos, "%.200s", err)
		return
	}
	if err := v.tree.CheckDisposal(&b); err != nil {
		c.Except(r.Head.Pos, "%.300s", err)
	}
}

// concludeDisposals looks for blocks in the pack that were disposed of.
func (v *verifier) concludeDisposals() {
	c := &v.c.disposed
	c.made = true
	if v.m.Params.Level == Heads {
		return
	}
	end, kept := v.fold.Registry().Undisposed(), v.fold.Registry().Kept()
	there := func(n uint64) {
		if _, left := slices.BinarySearch(kept, n); !left {
			c.except("block %d was disposed of and is in the pack", n)
		}
	}
	for _, l := range v.before {
		if l.block < end && !l.control {
			there(l.block)
		}
	}
	for n := v.m.Range.FirstBlock; n < end && n <= v.m.Range.LastBlock; n++ {
		if _, control := slices.BinarySearch(v.controls, n); !control {
			there(n)
		}
	}
}
