package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// RecordProof shows a record and its body, and proves that they are in a log, to
// who has the log's checkpoint and nothing else: not the block, nor any other
// record of it.
type RecordProof struct {
	Head   string          `json:"head"` // the exact bytes
	Body   string          `json:"body"` // likewise
	Salt   string          `json:"salt"` // of the body, base64url
	Sealed evidence.Hash   `json:"sealed_hash,omitzero"`
	Header string          `json:"header"` // of its block, the exact bytes
	Block  []evidence.Hash `json:"block_path"`
	Tree   []evidence.Hash `json:"tree_path"`
}

// ProveRecord proves record i of a block that has its bodies.
func (t *Tree) ProveRecord(b *Block, i int, salt evidence.Salt) (RecordProof, error) {
	r := &b.Records[i]
	p := RecordProof{Head: string(r.HeadBytes), Body: string(r.Body), Salt: base64.RawURLEncoding.EncodeToString(salt[:]), Sealed: r.SealedHash, Header: string(b.Encoded)}
	stored := leaves{}
	for j := range b.Records {
		hashes, err := tlog.StoredHashesForRecordHash(int64(j), tlog.Hash(evidence.RecordHash(b.Records[j].HeadBytes)), &stored)
		if err != nil {
			return p, fmt.Errorf("proving record %s: %w", r.Head.Pos, err)
		}
		stored = append(stored, hashes...)
	}
	path, err := tlog.ProveRecord(int64(b.Count), int64(i), &stored)
	if err != nil {
		return p, fmt.Errorf("proving record %s: %w", r.Head.Pos, err)
	}
	p.Block = hashes(path)
	if path, err = tlog.ProveRecord(int64(t.Checkpoint.Size), int64(b.Block), t.reader()); err != nil {
		return p, proofError(err)
	}
	p.Tree = hashes(path)
	return p, nil
}

// leaves are the stored hashes of a tree in memory.
type leaves []tlog.Hash

// ReadHashes implements tlog.HashReader.
func (l *leaves) ReadHashes(index []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(index))
	for i, n := range index {
		list[i] = (*l)[n]
	}
	return list, nil
}

func hashes(list []tlog.Hash) []evidence.Hash {
	out := make([]evidence.Hash, len(list))
	for i, h := range list {
		out[i] = evidence.Hash(h)
	}
	return out
}

func path(list []evidence.Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(list))
	for i, h := range list {
		out[i] = tlog.Hash(h)
	}
	return out
}

// Check returns the record, if the log of a verified checkpoint holds it, and
// the header of its block.
func (p *RecordProof) Check(cp *Checkpoint) (*evidence.Record, *Header, error) {
	head, err := evidence.ParseHead(p.Head)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	h, err := ParseHeader([]byte(p.Header))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if head.Pos.Gateway != h.Gateway || head.Pos.Boot != h.Boot || head.Pos.Seq < h.First || head.Pos.Seq > h.Last || h.Origin != cp.Origin || h.Block >= cp.Size {
		return nil, nil, fmt.Errorf("%w: record %s is not of block %d, or that not of this log", ErrProof, head.Pos, h.Block)
	}
	leaf := tlog.Hash(evidence.RecordHash([]byte(p.Head)))
	if tlog.CheckRecord(path(p.Block), int64(h.Count), tlog.Hash(h.Root), int64(head.Pos.Seq-h.First), leaf) != nil {
		return nil, nil, fmt.Errorf("%w: block %d does not hold record %s", ErrProof, h.Block, head.Pos)
	}
	if tlog.CheckRecord(path(p.Tree), int64(cp.Size), tlog.Hash(cp.Root), int64(h.Block), tlog.Hash(h.Hash())) != nil {
		return nil, nil, fmt.Errorf("%w: the log does not hold block %d", ErrProof, h.Block)
	}
	salt, err := base64.RawURLEncoding.Strict().DecodeString(p.Salt)
	if err != nil || len(salt) != len(evidence.Salt{}) {
		return nil, nil, fmt.Errorf("%w: the salt of record %s is none", ErrProof, head.Pos)
	}
	if !head.HasBody || evidence.Commit(evidence.BodyHash(evidence.Salt(salt), []byte(p.Body)), p.Sealed) != head.Commitment {
		return nil, nil, fmt.Errorf("%w: body of %s", evidence.ErrCommitment, head.Pos)
	}
	return &evidence.Record{Head: head, HeadBytes: []byte(p.Head), Body: []byte(p.Body), SealedHash: p.Sealed}, &h, nil
}

// CheckGrowth reports whether the log of a newer checkpoint grew from an older
// one, by a proof as of Tree.ConsistencyProof.
func CheckGrowth(proof []evidence.Hash, older, newer *Checkpoint) error {
	if older.Origin != newer.Origin || older.Size > newer.Size {
		return fmt.Errorf("%w: a log %s of %d blocks did not grow into %s of %d", ErrProof, older.Origin, older.Size, newer.Origin, newer.Size)
	}
	if older.Size == newer.Size {
		if older.Root != newer.Root {
			return fmt.Errorf("%w: two logs of %d blocks", ErrProof, older.Size)
		}
		return nil
	}
	if older.Size == 0 {
		return errors.New("an empty log proves nothing")
	}
	if tlog.CheckTree(path(proof), int64(newer.Size), tlog.Hash(newer.Root), int64(older.Size), tlog.Hash(older.Root)) != nil {
		return fmt.Errorf("%w: the log was rewritten: its first %d blocks are not those of the older checkpoint", ErrProof, older.Size)
	}
	return nil
}
