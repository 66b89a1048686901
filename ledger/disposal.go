package ledger

import (
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// CheckDisposal checks what a disposal says of its blocks against the tree, which
// keeps their leaves: that its digest is theirs, that its header is the one of
// its last block, and that the tree grew from the checkpoint that it names.
func (t *Tree) CheckDisposal(b *evidence.DisposalBody) error {
	if b.First > b.Last || b.Last >= t.Checkpoint.Size || b.Size <= b.Last {
		return fmt.Errorf("%w: a disposal of blocks %d to %d, covered by %d, in a tree of %d", ErrProof, b.First, b.Last, b.Size, t.Checkpoint.Size)
	}
	h, err := ParseHeader([]byte(b.End))
	if err != nil {
		return fmt.Errorf("the header of block %d: %w", b.Last, err)
	}
	if h.Block != b.Last {
		return fmt.Errorf("%w: the header of block %d stands where that of block %d belongs", ErrProof, h.Block, b.Last)
	}
	if err := t.CheckLeaf(&h); err != nil {
		return err
	}
	digest, err := t.RunDigest(b.First, b.Last)
	if err != nil {
		return err
	}
	if digest != b.Digest {
		return fmt.Errorf("%w: the digest of blocks %d to %d is not that of their leaves", ErrProof, b.First, b.Last)
	}
	return t.CheckConsistency(Checkpoint{Origin: t.Checkpoint.Origin, Size: b.Size, Root: b.Root})
}

// RunDigest is the RFC 6962 tree hash over the leaves first to last: the digest of
// a run of blocks, which survives them.
func (t *Tree) RunDigest(first, last uint64) (evidence.Hash, error) {
	var run TreeHasher
	for at := first; at <= last; {
		end := min(at-at%tileWidth+tileWidth, last+1)
		leaves, err := t.LeafHashes(at, end)
		if err != nil {
			return evidence.Hash{}, err
		}
		for _, l := range leaves {
			run.AddHash(l)
		}
		at = end
	}
	return run.Root(), nil
}
