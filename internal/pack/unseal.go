package pack

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

// Scopes gives the key scopes, as keys.Store does; an error that wraps
// keys.ErrShredded means that one was erased.
type Scopes interface {
	Scope(boot, slot uint64) (*keys.Scope, error)
}

// Opening says what is opened for a sample, and where the log says so. Made and
// Read are in the checkpoint, which is the log's.
type Opening struct {
	Sample     [32]byte // its digest
	Manifest   string   // of the pack, hex
	PackSize   uint64   // of the pack's tree
	Records    []evidence.Position
	Made, Read evidence.Position
	Checkpoint []byte
}

// Unseal writes the answer to a sample: the sealed parts of records with the
// salts of those alone, each checked against its record, and the proof of when
// the log had the pack and the sample. It is for the auditor's eyes: w encrypts.
func Unseal(ctx context.Context, archive Archive, log fs.FS, scopes Scopes, o Opening, w io.Writer) error {
	cp, err := parseCheckpoint(o.Checkpoint)
	if err != nil {
		return err
	}
	u := &opener{
		m:      maker{src: Source{Archive: archive, Log: log}, headers: headers{log: log, size: cp.Size, bundles: make(map[uint64][]ledger.Header)}},
		scopes: scopes, tree: ledger.NewTree(cp, log),
	}
	head := verify.AnswerHead{Version: 1, Sample: hex.EncodeToString(o.Sample[:]), Manifest: o.Manifest, Checkpoint: string(o.Checkpoint)}
	if head.Growth, err = u.tree.ConsistencyProof(o.PackSize); err != nil {
		return err
	}
	if head.Made, err = u.prove(ctx, o.Made); err != nil {
		return err
	}
	if head.Read, err = u.prove(ctx, o.Read); err != nil {
		return err
	}
	if _, err := w.Write(append(evidence.EncodeBody(&head), '\n')); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	for _, pos := range o.Records {
		line, err := u.open(ctx, pos)
		if err != nil {
			return err
		}
		if _, err := w.Write(line.Encode()); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return nil
}

// opener opens sealed parts.
type opener struct {
	m      maker
	scopes Scopes
	tree   *ledger.Tree
	block  *ledger.Block // the last one read, whole
}

// at returns the block that holds the record at pos, and its index there.
func (u *opener) at(ctx context.Context, pos evidence.Position) (*ledger.Block, int, error) {
	n, err := u.m.headers.holding(pos)
	if err != nil {
		return nil, 0, err
	}
	if u.block == nil || u.block.Block != n {
		if u.block, _, err = u.m.block(ctx, n, ledger.NumSections); err != nil {
			return nil, 0, err
		}
	}
	return u.block, int(pos.Seq - u.block.First), nil
}

// prove proves a record outside sessions.
func (u *opener) prove(ctx context.Context, pos evidence.Position) (p ledger.RecordProof, err error) {
	b, i, err := u.at(ctx, pos)
	if err != nil {
		return p, err
	}
	s, err := u.scopes.Scope(pos.Boot, 0)
	if err != nil {
		return p, fmt.Errorf("proving record %s: %w", pos, err)
	}
	return u.tree.ProveRecord(b, i, s.Body().Salt(b.Records[i].Head.N))
}

// open returns the line of a record: its sealed part with the salt of that
// record alone, which opens no other.
func (u *opener) open(ctx context.Context, pos evidence.Position) (verify.Opened, error) {
	b, i, err := u.at(ctx, pos)
	if err != nil {
		return verify.Opened{}, err
	}
	r := &b.Records[i]
	if !r.Head.HasSealed {
		return verify.Opened{Pos: pos, Absent: verify.AbsentNone}, nil
	}
	sealed, salt, body, err := u.part(b, i)
	if errors.Is(err, keys.ErrShredded) {
		return verify.Opened{Pos: pos, Absent: verify.AbsentErased}, nil
	}
	if err == nil {
		err = r.CheckSealed(salt, sealed)
	}
	if err != nil {
		return verify.Opened{}, fmt.Errorf("opening record %s: %w", pos, err)
	}
	line := verify.NewOpened(pos, salt, bytes.Clone(sealed))
	line.Body = body
	return line, nil
}

// part decrypts the sealed part of record i of a block, and returns the hash of
// its body too: with both the head can be checked. One that is in no chunk had
// been erased when its block was made.
func (u *opener) part(b *ledger.Block, i int) (sealed []byte, salt evidence.Salt, body evidence.Hash, err error) {
	chunks, err := b.Chunks()
	if err != nil {
		return nil, salt, body, err
	}
	r := &b.Records[i]
	for j := range chunks {
		if k := slices.Index(chunks[j].Records, i); k >= 0 {
			parts, s, err := openChunk(u.scopes, b, &chunks[j])
			if err != nil {
				return nil, salt, body, err
			}
			if r.Head.HasBody {
				body = evidence.BodyHash(s.Body().Salt(r.Head.N), r.Body)
			}
			return parts[k], s.Sealed().Salt(r.Head.N), body, nil
		}
	}
	return nil, salt, body, keys.ErrShredded
}

// openChunk decrypts the sealed parts of one scope in a block.
func openChunk(scopes Scopes, b *ledger.Block, c *ledger.Chunk) ([][]byte, *keys.Scope, error) {
	s, err := scopes.Scope(c.Boot, c.Slot)
	if err != nil {
		return nil, nil, err
	}
	plain, err := s.OpenChunk(ledger.ChunkAAD(b.Origin, b.Header.Block, c.Boot, c.Slot), c.Data)
	if err != nil {
		return nil, nil, err
	}
	parts, err := c.Parts(plain)
	return parts, s, err
}

// Sealed opens the sealed parts of a whole block, each by its record's index.
// Those that are left out were erased.
type Sealed interface {
	Open(b *ledger.Block) (map[int]Part, error)
}

// Part is a sealed part with its salt.
type Part struct {
	Bytes []byte
	Salt  evidence.Salt
}

// SealedBy opens sealed parts by the key scopes that sealed them.
func SealedBy(s Scopes) Sealed { return sealedBy{s} }

type sealedBy struct{ Scopes }

// Open implements Sealed.
func (s sealedBy) Open(b *ledger.Block) (map[int]Part, error) {
	chunks, err := b.Chunks()
	if err != nil {
		return nil, err
	}
	all := make(map[int]Part)
	for j := range chunks {
		parts, scope, err := openChunk(s, b, &chunks[j])
		if errors.Is(err, keys.ErrShredded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for k, i := range chunks[j].Records {
			all[i] = Part{parts[k], scope.Sealed().Salt(b.Records[i].Head.N)}
		}
	}
	return all, nil
}

// sealed writes the sealed parts of a block of the range, each checked against
// its record.
func (m *maker) sealed(b *ledger.Block) error {
	parts, err := m.src.Sealed.Open(b)
	if err != nil {
		return fmt.Errorf("opening block %d: %w", b.Header.Block, err)
	}
	for i := range b.Records {
		r := &b.Records[i]
		if !r.Head.HasSealed {
			continue
		}
		line := verify.Opened{Pos: r.Head.Pos, Absent: verify.AbsentErased}
		if p, ok := parts[i]; ok {
			if err := r.CheckSealed(p.Salt, p.Bytes); err != nil {
				return fmt.Errorf("opening record %s: %w", r.Head.Pos, err)
			}
			line = verify.NewOpened(r.Head.Pos, p.Salt, p.Bytes)
		}
		if err := m.spools.append(verify.SealedFile, line.Encode(), 1); err != nil {
			return err
		}
	}
	return nil
}
