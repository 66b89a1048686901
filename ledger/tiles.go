package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// A tile holds 2^8 hashes (C2SP tlog-tiles).
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// CheckpointPath is where a log's newest checkpoint lies.
const CheckpointPath = "checkpoint"

// TilePath is the path of a tile of hashes: level, number, and how many hashes
// it holds, 1 to 256.
func TilePath(level int, n uint64, width int) string {
	return fmt.Sprintf("tile/%d/%s", level, tileNumber(n, width))
}

// EntriesPath is the path of a bundle of 1 to 256 leaves.
func EntriesPath(n uint64, width int) string { return "tile/entries/" + tileNumber(n, width) }

// BlockPath is the name of the file of a block, numbered like a tile.
func BlockPath(n uint64) string { return "blocks/" + tileNumber(n, tileWidth) + ".block" }

// tileNumber writes n in groups of three digits, all but the last with an x:
// 1234067 is x001/x234/067. Partial tiles have their width after it.
func tileNumber(n uint64, width int) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	if width < tileWidth {
		s += fmt.Sprintf(".p/%d", width)
	}
	return s
}

// ErrProof is wrapped when tiles don't prove what they should.
var ErrProof = errors.New("the log's tiles do not prove it")

// Tree is the log's tree as a checkpoint has it. Whatever it returns is proven
// against that checkpoint; what lies in the tiles is not trusted.
type Tree struct {
	Checkpoint Checkpoint
	tiles      tileReader
}

// NewTree returns the tree of a verified checkpoint, read from tiles in C2SP
// tlog-tiles layout. Only the tiles that are asked about need to be there.
func NewTree(cp Checkpoint, tiles fs.FS) *Tree { return &Tree{cp, tileReader{tiles}} }

func (t *Tree) reader() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(t.Checkpoint.Size), Hash: tlog.Hash(t.Checkpoint.Root)}, t.tiles)
}

// LeafHashes returns the leaf hashes from..to-1 of the tree, for comparing with
// Header.Hash. It reads the tiles above them too: ask for many at once, best
// 256 from a multiple of 256.
func (t *Tree) LeafHashes(from, to uint64) ([]evidence.Hash, error) {
	if from > to || to > t.Checkpoint.Size {
		return nil, fmt.Errorf("%w: leaves %d to %d of a tree of %d", ErrProof, from, to, t.Checkpoint.Size)
	}
	if from == to {
		return nil, nil
	}
	index := make([]int64, to-from)
	for i := range index {
		index[i] = tlog.StoredHashIndex(0, int64(from)+int64(i))
	}
	hashes, err := t.reader().ReadHashes(index)
	if err != nil {
		return nil, proofError(err)
	}
	leaves := make([]evidence.Hash, len(hashes))
	for i, h := range hashes {
		leaves[i] = evidence.Hash(h)
	}
	return leaves, nil
}

// CheckLeaf reports whether h is in the tree, at the leaf of its number.
func (t *Tree) CheckLeaf(h *Header) error {
	if h.Origin != t.Checkpoint.Origin {
		return fmt.Errorf("%w: block %d is of log %s, the checkpoint of %s", ErrProof, h.Block, h.Origin, t.Checkpoint.Origin)
	}
	leaf, err := t.LeafHashes(h.Block, h.Block+1)
	if err != nil {
		return err
	}
	if leaf[0] != h.Hash() {
		return fmt.Errorf("%w: leaf %d is not this block", ErrProof, h.Block)
	}
	return nil
}

// CheckConsistency reports whether the tree is one that old grew into: same
// log, no leaf of it changed or taken away.
func (t *Tree) CheckConsistency(old Checkpoint) error {
	if old.Origin != t.Checkpoint.Origin {
		return fmt.Errorf("%w: checkpoints of logs %s and %s", ErrProof, old.Origin, t.Checkpoint.Origin)
	}
	if old.Size > t.Checkpoint.Size {
		return fmt.Errorf("%w: the log shrank from %d to %d leaves", ErrProof, old.Size, t.Checkpoint.Size)
	}
	root, err := t.RootAt(old.Size)
	if err != nil {
		return err
	}
	if root != old.Root {
		return fmt.Errorf("%w: the log was rewritten: its first %d leaves are not those of the older checkpoint", ErrProof, old.Size)
	}
	return nil
}

// RootAt returns the root that the tree had when it held size leaves.
func (t *Tree) RootAt(size uint64) (evidence.Hash, error) {
	switch size {
	case 0:
		return (&TreeHasher{}).Root(), nil
	case t.Checkpoint.Size:
		return t.Checkpoint.Root, nil
	}
	root, err := tlog.TreeHash(int64(size), t.reader())
	if err != nil {
		return evidence.Hash{}, proofError(err)
	}
	return evidence.Hash(root), nil
}

// ConsistencyProof returns the hashes that prove to who knows the root of the
// tree's first old leaves that it grew from them (RFC 6962 section 2.1.2). Who
// knows nothing, or the whole tree, needs none.
func (t *Tree) ConsistencyProof(old uint64) ([]evidence.Hash, error) {
	if old > t.Checkpoint.Size {
		return nil, fmt.Errorf("%w: %d leaves of a tree of %d", ErrProof, old, t.Checkpoint.Size)
	}
	if old == 0 || old == t.Checkpoint.Size {
		return nil, nil
	}
	hashes, err := tlog.ProveTree(int64(t.Checkpoint.Size), int64(old), t.reader())
	if err != nil {
		return nil, proofError(err)
	}
	proof := make([]evidence.Hash, len(hashes))
	for i, h := range hashes {
		proof[i] = evidence.Hash(h)
	}
	return proof, nil
}

// proofError tells a proof that fails from tiles that could not be read. A
// tile that isn't there proves nothing.
func proofError(err error) error {
	var read *readError
	if errors.As(err, &read) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrProof, err)
}

type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

// tileReader reads tiles from files.
type tileReader struct{ fs.FS }

func (tileReader) Height() int                     { return tileHeight }
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := readPartial(r.FS, TilePath(t.L, uint64(t.N), t.W), TilePath(t.L, uint64(t.N), tileWidth))
		if err != nil {
			return nil, &readError{err}
		}
		if len(b) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %s has %d bytes", TilePath(t.L, uint64(t.N), t.W), len(b))
		}
		data[i] = b[:t.W*tlog.HashSize]
	}
	return data, nil
}

// readPartial reads a partial tile, or the full one that has replaced it.
func readPartial(f fs.FS, partial, full string) ([]byte, error) {
	b, err := fs.ReadFile(f, partial)
	if errors.Is(err, fs.ErrNotExist) && partial != full {
		b, err = fs.ReadFile(f, full)
	}
	return b, err
}

// ReadEntries returns the leaves of bundle n of a log with size leaves, as they
// lie there, unproven.
func ReadEntries(f fs.FS, n, size uint64) ([][]byte, error) {
	if n*tileWidth >= size {
		return nil, fmt.Errorf("bundle %d of a log of %d leaves", n, size)
	}
	width := int(min(size-n*tileWidth, tileWidth))
	b, err := readPartial(f, EntriesPath(n, width), EntriesPath(n, tileWidth))
	if err != nil {
		return nil, fmt.Errorf("reading leaves: %w", err)
	}
	entries := make([][]byte, width)
	for i := range entries {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, fmt.Errorf("%s ends within leaf %d", EntriesPath(n, width), i)
		}
		size := int(binary.BigEndian.Uint16(b))
		entries[i], b = b[2:2+size], b[2+size:]
	}
	return entries, nil
}
