package pack

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

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
	sealed, salt, err := u.part(b, i)
	if errors.Is(err, keys.ErrShredded) {
		return verify.Opened{Pos: pos, Absent: verify.AbsentErased}, nil
	}
	if err == nil {
		err = r.CheckSealed(salt, sealed)
	}
	if err != nil {
		return verify.Opened{}, fmt.Errorf("opening record %s: %w", pos, err)
	}
	return verify.NewOpened(pos, salt, bytes.Clone(sealed)), nil
}

// part decrypts the sealed part of record i of a block. One that is in no chunk
// had been erased when its block was made.
func (u *opener) part(b *ledger.Block, i int) ([]byte, evidence.Salt, error) {
	chunks, err := b.Chunks()
	if err != nil {
		return nil, evidence.Salt{}, err
	}
	for j := range chunks {
		c := &chunks[j]
		for k, of := range c.Records {
			if of != i {
				continue
			}
			s, err := u.scopes.Scope(c.Boot, c.Slot)
			if err != nil {
				return nil, evidence.Salt{}, err
			}
			plain, err := s.OpenChunk(ledger.ChunkAAD(b.Origin, b.Header.Block, c.Boot, c.Slot), c.Data)
			if err != nil {
				return nil, evidence.Salt{}, err
			}
			parts, err := c.Parts(plain)
			if err != nil {
				return nil, evidence.Salt{}, err
			}
			return parts[k], s.Sealed().Salt(b.Records[i].Head.N), nil
		}
	}
	return nil, evidence.Salt{}, keys.ErrShredded
}
