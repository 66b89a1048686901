package ledger

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// TreeHasher computes the RFC 6962 tree hash of a growing list of leaves. It
// keeps one hash per level: the roots of the complete subtrees so far.
type TreeHasher struct {
	n     uint64
	stack []tlog.Hash
	buf   []byte
}

// AddRecord adds the leaf with these bytes and returns its leaf hash.
func (t *TreeHasher) AddRecord(b []byte) evidence.Hash {
	// The hash of evidence.RecordHash, through a buffer that is kept: this runs
	// for every record there is.
	t.buf = append(append(t.buf[:0], 0x00), b...)
	h := sha256.Sum256(t.buf)
	t.AddHash(h)
	return h
}

// AddHash adds the leaf with this leaf hash.
func (t *TreeHasher) AddHash(leaf evidence.Hash) {
	h := tlog.Hash(leaf)
	for n := t.n; n&1 == 1; n >>= 1 { // each set bit is a complete subtree to join
		top := len(t.stack) - 1
		h = tlog.NodeHash(t.stack[top], h)
		t.stack = t.stack[:top]
	}
	t.stack = append(t.stack, h)
	t.n++
}

// Root returns the tree hash of the leaves so far.
func (t *TreeHasher) Root() evidence.Hash {
	if len(t.stack) == 0 {
		return sha256.Sum256(nil) // RFC 6962 section 2.1
	}
	h := t.stack[len(t.stack)-1]
	for i := len(t.stack) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.stack[i], h)
	}
	return evidence.Hash(h)
}

// Size returns the number of leaves so far.
func (t *TreeHasher) Size() uint64 { return t.n }
