package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Reader reads the log from a position on, and goes on as it grows: the records
// in blocks, then those of the journal as far as they are synced. Between calls
// it holds nothing up. What the journal released meanwhile it finds in blocks,
// so a reader may be as slow as it likes. It is for one goroutine.
type Reader struct {
	s     *Sealer
	next  evidence.Position // records before it aren't wanted, or have been read
	block uint64            // where they go on, as long as the sealed log has it
	found bool              // block is known
	lsn   journal.LSN       // where they go on in the journal
	tail  bool              // lsn is known, and all blocks up to it were read

	sealed bool // the journal isn't read

	past func(blocks uint64) // told of blocks that were disposed of; nil has those be errors
	gone uint64              // such blocks, since past was told
}

// ReadFrom returns a reader of the records from pos on. It goes to their block
// by the tree's leaves, so its cost doesn't grow with what lies before. Leaves
// are looked up unproven and blocks are proven when they are read: a caller that
// must miss nothing checks that the first record is the one at pos.
// Zero is the first record of what is whole: where blocks were disposed of, the
// first after those. A position within those is an ErrDisposed.
func (s *Sealer) ReadFrom(pos evidence.Position) *Reader {
	if pos.IsZero() {
		return &Reader{s: s, block: s.gone.whole(), found: true}
	}
	return &Reader{s: s, next: pos}
}

// ReadSince returns a reader of the records from the block on in which time t
// falls, in microseconds since the epoch; 0 is all that is whole. The first may be older; where the
// clock was set back, newer ones may stand before.
func (s *Sealer) ReadSince(t int64) (*Reader, error) {
	if t <= 0 {
		return s.ReadFrom(evidence.Position{}), nil
	}
	st := s.state()
	n, err := s.firstBlock(&st, func(h *ledger.Header) bool { return h.To >= t })
	if err != nil {
		return nil, fmt.Errorf("finding the records of a time: %w", err)
	}
	return &Reader{s: s, block: n, found: true}, nil
}

// Sealed makes r read only what a published checkpoint covers. It returns r.
func (r *Reader) Sealed() *Reader {
	r.sealed = true
	return r
}

// PastDisposed makes r go on behind blocks that were disposed of, and tell how
// many there were in a row. It returns r.
func (r *Reader) PastDisposed(tell func(blocks uint64)) *Reader {
	r.past = tell
	return r
}

// maxRead is how many records of the journal one call of Next takes in.
const maxRead = 4096

// Next calls fn for the next records, a block of them or some of the journal,
// and returns their number; 0 means that there are no more yet. Bodies are
// there, sealed parts are not. A record is valid for as long as it is held, and
// may hold its whole block.
func (r *Reader) Next(ctx context.Context, fn func(*evidence.Record) error) (n int, err error) {
	for {
		if !r.tail {
			if n, err = r.blocks(ctx, fn); n > 0 || err != nil {
				return n, err
			}
			if r.sealed && r.atEnd() {
				return 0, nil
			}
			continue
		}
		n, err = r.journal(ctx, fn)
		if n > 0 || !errors.Is(err, journal.ErrReleased) {
			return n, err
		}
		r.tail, r.found = false, false // sealed and released since
	}
}

// blocks reads the next block, or finds that there is none and where the
// journal goes on.
func (r *Reader) blocks(ctx context.Context, fn func(*evidence.Record) error) (n int, err error) {
	st := r.s.state()
	if !r.found {
		if r.block, err = r.s.blockAt(&st, r.next); err != nil {
			return 0, fmt.Errorf("finding record %s: %w", r.next, err)
		}
		r.found = true
	}
	if r.block >= st.blocks {
		r.tellGone()
		r.lsn, r.tail = st.upTo, !r.sealed
		return 0, nil
	}
	b, err := r.s.blockOf(ctx, &st, r.block, ledger.Bodies+1)
	if r.past != nil && errors.Is(err, ErrDisposed) {
		r.block, r.gone = r.block+1, r.gone+1
		return 0, nil
	}
	r.tellGone()
	if err != nil {
		return 0, fmt.Errorf("reading the log: %w", err)
	}
	err = each(ctx, b.Records, func(rec *evidence.Record) error { return r.take(rec, &n, fn) })
	if err == nil {
		r.block++
	}
	return n, err
}

func (r *Reader) tellGone() {
	if r.gone > 0 {
		r.past(r.gone)
		r.gone = 0
	}
}

// atEnd reports whether all blocks have been read.
func (r *Reader) atEnd() bool { return r.block >= r.s.state().blocks }

// errEnough ends reading at a record that is for the next call.
var errEnough = errors.New("enough for one call")

func (r *Reader) journal(ctx context.Context, fn func(*evidence.Record) error) (n int, err error) {
	r.lsn, err = r.s.journal.Read(r.lsn, func(next journal.LSN, payload []byte) error {
		if n == maxRead {
			return errEnough
		}
		rec, _, err := decode(bytes.Clone(payload))
		if err != nil {
			return fmt.Errorf("%w: journal before %d: %w", ErrDiverged, next, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return r.take(&rec, &n, fn)
	})
	switch {
	case errors.Is(err, errEnough):
		return n, nil
	case errors.Is(err, journal.ErrReleased) && n > 0:
		return n, nil // the next call finds the rest in blocks
	case err != nil:
		return n, fmt.Errorf("reading the log: %w", err)
	}
	return n, nil
}

// take gives a record to fn unless it has had it.
func (r *Reader) take(rec *evidence.Record, n *int, fn func(*evidence.Record) error) error {
	pos := rec.Head.Pos
	if pos.Before(r.next) {
		return nil
	}
	if err := fn(rec); err != nil {
		return err
	}
	*n++
	r.next = evidence.Position{Gateway: pos.Gateway, Boot: pos.Boot, Seq: pos.Seq + 1}
	return nil
}

// blockAt is the first block with a record at or after pos, or the number of
// blocks.
func (s *Sealer) blockAt(st *sealed, pos evidence.Position) (uint64, error) {
	return s.firstBlock(st, func(h *ledger.Header) bool { return !h.LastPosition().Before(pos) })
}

// firstBlock is the first block with a header that is so, as are those behind
// it, or the number of blocks.
func (s *Sealer) firstBlock(st *sealed, so func(*ledger.Header) bool) (uint64, error) {
	var failed error
	leaves, held := [][]byte(nil), ^uint64(0)
	n := sort.Search(int(st.blocks), func(i int) bool {
		if failed != nil {
			return true
		}
		block := uint64(i)
		if block/bundle != held {
			held = block / bundle
			if leaves, failed = ledger.ReadEntries(s.tree.FS(), held, st.checkpoint.Size); failed != nil {
				return true
			}
		}
		h, err := ledger.ParseHeader(leaves[block%bundle])
		failed = err
		return err != nil || so(&h)
	})
	return uint64(n), failed
}

// SealedAfter returns how many records in blocks come after pos; zero is before
// the first. It asks the tree's leaves and no block.
func (s *Sealer) SealedAfter(pos evidence.Position) (n uint64, err error) {
	st := s.state()
	if st.last == nil {
		return 0, nil
	}
	boot, had := pos.Boot, pos.Seq+1
	if pos.IsZero() {
		first, err := s.leaf(&st, 0)
		if err != nil {
			return 0, fmt.Errorf("counting records: %w", err)
		}
		boot, had = first.Boot, first.FirstPosition().Seq
	}
	for {
		end, err := s.firstBlock(&st, func(h *ledger.Header) bool { return h.Boot > boot })
		if err != nil {
			return 0, fmt.Errorf("counting records: %w", err)
		}
		if end > 0 {
			last, err := s.leaf(&st, end-1)
			if err != nil {
				return 0, fmt.Errorf("counting records: %w", err)
			}
			if count := last.LastPosition().Seq + 1; last.Boot == boot && count > had {
				n += count - had
			}
		}
		if end >= st.blocks {
			return n, nil
		}
		next, err := s.leaf(&st, end)
		if err != nil {
			return 0, fmt.Errorf("counting records: %w", err)
		}
		boot, had = next.Boot, 0
	}
}

// leaf returns the header of a block, as the tree has it.
func (s *Sealer) leaf(st *sealed, block uint64) (ledger.Header, error) {
	leaves, err := ledger.ReadEntries(s.tree.FS(), block/bundle, st.checkpoint.Size)
	if err != nil {
		return ledger.Header{}, err
	}
	return ledger.ParseHeader(leaves[block%bundle])
}
