package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// ReadSealed calls fn for the records from one on that are wanted, with their
// sealed parts, each proven to be the one that its record commits to. A part is
// nil where there is none, or where its key was destroyed. Only blocks are read:
// Flush comes first.
func (s *Sealer) ReadSealed(ctx context.Context, from evidence.Position, want func(*evidence.Head) bool, fn func(r *evidence.Record, part []byte) error) error {
	st := s.state()
	n, err := s.blockAt(&st, from)
	if err != nil {
		return fmt.Errorf("finding record %s: %w", from, err)
	}
	for ; n < st.blocks; n++ {
		b, err := s.blockOf(ctx, &st, n, ledger.NumSections)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		parts, err := s.parts(b, want)
		if err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
		for i := range b.Records {
			if r := &b.Records[i]; want(&r.Head) {
				if err := fn(r, parts[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// parts opens the sealed parts of a block that are wanted, by record.
func (s *Sealer) parts(b *ledger.Block, want func(*evidence.Head) bool) (map[int][]byte, error) {
	chunks, err := b.Chunks()
	if err != nil {
		return nil, err
	}
	parts := make(map[int][]byte)
	for _, c := range chunks {
		wanted := false
		for _, i := range c.Records {
			wanted = wanted || want(&b.Records[i].Head)
		}
		if !wanted {
			continue
		}
		key, err := s.keys.Scope(c.Boot, c.Slot)
		if errors.Is(err, keys.ErrShredded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		plain, err := key.OpenChunk(ledger.ChunkAAD(s.cfg.Origin, b.Block, c.Boot, c.Slot), c.Data)
		if err != nil {
			return nil, err
		}
		list, err := c.Parts(plain)
		if err != nil {
			return nil, err
		}
		for at, i := range c.Records {
			r := &b.Records[i]
			if err := r.CheckSealed(key.Sealed().Salt(r.Head.N), list[at]); err != nil {
				return nil, err
			}
			parts[i] = list[at]
		}
	}
	return parts, nil
}
