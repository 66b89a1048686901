package seal

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// disposals are what records say was disposed of. Blocks with control records
// never are.
type disposals struct {
	list []evidence.DisposalBody
	kept []uint64 // in order
	next uint64   // block after the last
}

func (d *disposals) add(s *evidence.DisposalBody) {
	d.kept = slices.DeleteFunc(d.kept, func(n uint64) bool {
		_, released := slices.BinarySearch(s.Released, n)
		return released
	})
	d.kept = append(d.kept, s.Kept...)
	slices.Sort(d.kept)
	d.list, d.next = append(d.list, *s), max(d.next, s.Last+1)
}

// of reports whether a block without control records was disposed of.
func (d *disposals) of(n uint64) bool {
	_, kept := slices.BinarySearch(d.kept, n)
	return n < d.next && !kept
}

func disposalsIn(records []evidence.Record) (list []evidence.DisposalBody, err error) {
	for i := range records {
		if r := &records[i]; r.Head.Type == evidence.Disposal {
			var b evidence.DisposalBody
			if err := evidence.DecodeBody(r.Body, &b); err != nil {
				return nil, fmt.Errorf("disposal %s: %w", r.Head.Pos, err)
			}
			list = append(list, b)
		}
	}
	return list, nil
}

// ReadDisposals folds the disposals in the first blocks of an archive, by the
// chain of their control records: the first block that none speaks of, and those
// before it that are kept besides blocks with control records. Nothing of it is
// proven.
func ReadDisposals(archive fs.FS, blocks uint64) (first uint64, kept []uint64, err error) {
	d, err := readDisposals(archive, blocks)
	if err != nil {
		return 0, nil, err
	}
	return d.next, d.kept, nil
}

func readDisposals(archive fs.FS, blocks uint64) (*disposals, error) {
	d := &disposals{}
	if blocks == 0 {
		return d, nil
	}
	found := make(map[uint64][]evidence.DisposalBody)
	look := func(n uint64) (ledger.Header, error) {
		file, err := fs.ReadFile(archive, ledger.BlockPath(n))
		if err == nil {
			file, err = ledger.Cut(file, ledger.Bodies+1)
		}
		if err != nil {
			return ledger.Header{}, fmt.Errorf("block %d: %w", n, err)
		}
		b, err := ledger.ParseBlock(file)
		if err != nil {
			return ledger.Header{}, fmt.Errorf("block %d: %w", n, err)
		}
		found[n], err = disposalsIn(b.Records)
		return b.Header, err
	}
	newest, err := look(blocks - 1)
	if err != nil {
		return nil, err
	}
	chain, err := ledger.ControlBlocks(&newest, look)
	if err != nil {
		return nil, err
	}
	for _, n := range chain {
		for i := range found[n] {
			d.add(&found[n][i])
		}
	}
	return d, nil
}

// readDisposals looks ahead for what explains that blocks are missing. The
// records that say so are checked as every other when their block's turn comes.
func (k *checker) readDisposals() {
	d, err := readDisposals(k.Archive, k.report.Checkpoint.Size)
	if err != nil { // what ails the blocks is found as they are read
		d = &disposals{}
	}
	k.disposals = d
}

// missing is a block that isn't there. That is right only for one that a disposal
// names, of which the tree has the header, and which had no control records.
func (k *checker) missing(where string, n uint64, prev *ledger.Header) *ledger.Header {
	lost := func(why, hint string) *ledger.Header {
		k.found(where, "it is missing from the archive: "+ledger.BlockPath(n)+why, hint)
		return nil
	}
	if !k.disposals.of(n) {
		return lost("", hintRestore)
	}
	i := int(n % bundle)
	if i >= len(k.leaves) || i >= len(k.entries) {
		return lost(", it was disposed of, and the log doesn't have its header", hintHeaders)
	}
	h, err := ledger.ParseHeader(k.entries[i])
	switch {
	case err != nil:
		return lost(", it was disposed of, and the log's copy of its header can't be read: "+err.Error(), hintHeaders)
	case h.Hash() != k.leaves[i] || h.Block != n || !bytes.Equal(h.Encode(), k.entries[i]):
		return lost(", it was disposed of, and the log's copy of its header is not its leaf", hintHeaders)
	case h.Control:
		return lost(", and it has control records, which no disposal deletes", hintRestore)
	}
	k.report.Disposed++
	k.root.AddHash(k.leaves[i])
	if prev != nil || n == 0 {
		if err := h.Follows(prev); err != nil {
			k.found(where, err.Error(), hintHistory)
		}
	}
	return &h
}

// dispose holds the disposals of a block that is in the log against those that
// explained what is missing.
func (k *checker) dispose(where string, b *ledger.Block) {
	list, err := disposalsIn(b.Records)
	if err != nil {
		k.found(where, err.Error(), hintHistory)
		return
	}
	for i := range list {
		if list[i].Last >= b.Block {
			k.found(where, fmt.Sprintf("its disposal is of block %d, which comes after it", list[i].Last), hintHistory)
		}
	}
}

// concludeDisposals checks that each disposal names the digest of its blocks.
func (k *checker) concludeDisposals() {
	if !k.signed {
		return
	}
	tree := ledger.NewTree(k.report.Checkpoint, k.Tree)
	for i := range k.disposals.list {
		b := &k.disposals.list[i]
		if err := tree.CheckDisposal(b); err != nil {
			k.found(fmt.Sprintf("disposal of blocks %d to %d", b.First, b.Last), err.Error(), hintHistory)
		}
	}
}
