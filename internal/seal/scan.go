package seal

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Scan calls fn for every record from block from on, in order: those in blocks,
// then those in the journal that no block holds yet, as far as they are synced.
// It may run while sealing goes on, and misses and doubles nothing but blocks
// that were disposed of. Bodies are there, sealed parts are not. A record is valid during its call.
func (s *Sealer) Scan(ctx context.Context, from uint64, fn func(*evidence.Record) error) error {
	return s.scanFrom(ctx, from, ledger.NumSections, fn)
}

// ScanHeads is Scan for those who need no bodies: it neither decompresses nor
// checks them.
func (s *Sealer) ScanHeads(ctx context.Context, from uint64, fn func(*evidence.Head) error) error {
	return s.scanFrom(ctx, from, ledger.Heads+1, func(r *evidence.Record) error { return fn(&r.Head) })
}

// scanFrom is Scan with only the first sections of blocks.
func (s *Sealer) scanFrom(ctx context.Context, from uint64, sections int, fn func(*evidence.Record) error) error {
	next := from
	return s.scan(ctx, fn, func(st *sealed) error {
		left, err := s.leftFrom(ctx, st, next)
		if err != nil {
			return err
		}
		for _, n := range left {
			if err := s.eachOf(ctx, st, n, sections, fn); err != nil {
				return err
			}
			next = n + 1
		}
		for next = max(next, s.gone.whole()); next < st.blocks; next++ {
			if err := s.eachOf(ctx, st, next, sections, fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachOf calls fn for the records of a block.
func (s *Sealer) eachOf(ctx context.Context, st *sealed, n uint64, sections int, fn func(*evidence.Record) error) error {
	b, err := s.blockOf(ctx, st, n, sections)
	if err != nil {
		return err
	}
	return each(ctx, b.Records, fn)
}

// ScanSince calls fn for every record from a time on, and for some before it, in
// no order of blocks: it reads them from the newest back to one that is all of
// before. Where the clock was set back meanwhile it may stop too soon.
func (s *Sealer) ScanSince(ctx context.Context, t int64, fn func(*evidence.Record) error) error {
	seen := uint64(0) // blocks before are read
	return s.scan(ctx, fn, func(st *sealed) error {
		for n := st.blocks; n > max(seen, s.gone.whole()); n-- {
			b, err := s.blockOf(ctx, st, n-1, ledger.NumSections)
			if err != nil {
				return err
			}
			if err := each(ctx, b.Records, fn); err != nil {
				return err
			}
			if !slices.ContainsFunc(b.Records, func(r evidence.Record) bool { return r.Head.Time >= t }) {
				break
			}
		}
		seen = st.blocks
		return nil
	})
}

// ScanControl is Scan for the control records alone: from the first or, when
// begins is not nil, from the newest block that holds one for which it is true.
// It reads only the blocks that hold any.
func (s *Sealer) ScanControl(ctx context.Context, begins func(*evidence.Record) bool, fn func(*evidence.Record) error) error {
	control := func(r *evidence.Record) error {
		if !r.Head.Type.IsControl() {
			return nil
		}
		return fn(r)
	}
	next := uint64(0)
	return s.scan(ctx, control, func(st *sealed) error {
		if st.last == nil {
			return nil
		}
		if next > 0 {
			begins = nil // what was handed out is gone on from
		}
		list, err := s.controlBlocks(ctx, st, begins)
		if err != nil {
			return err
		}
		for _, n := range list[sort.Search(len(list), func(i int) bool { return list[i] >= next }):] {
			b, err := s.blockOf(ctx, st, n, ledger.NumSections)
			if err != nil {
				return err
			}
			if err := each(ctx, b.Records, control); err != nil {
				return err
			}
		}
		next = st.blocks
		return nil
	})
}

// controlBlocks returns the numbers of the blocks that hold control records,
// from the newest one on that holds a beginning.
func (s *Sealer) controlBlocks(ctx context.Context, st *sealed, begins func(*evidence.Record) bool) ([]uint64, error) {
	header := func(n uint64) (ledger.Header, error) {
		b, err := s.blockOf(ctx, st, n, ledger.NumSections)
		if err != nil {
			return ledger.Header{}, err
		}
		h := b.Header
		if begins != nil && slices.ContainsFunc(b.Records, func(r evidence.Record) bool { return begins(&r) }) {
			h.PrevControl = -1 // the walk ends here
		}
		return h, nil
	}
	newest := *st.last
	if newest.Control {
		var err error
		if newest, err = header(newest.Block); err != nil {
			return nil, err
		}
	}
	return ledger.ControlBlocks(&newest, header)
}

// scan calls blocks with the state of the log until it has seen all blocks, and
// then fn for the rest of the journal.
//
// Blocks are read without holding anything up; more may be sealed meanwhile. So
// the state is read again once the journal can't be released: if it hasn't
// moved, the journal from upTo on continues exactly where the blocks ended, and
// stays there however far sealing goes.
func (s *Sealer) scan(ctx context.Context, fn func(*evidence.Record) error, blocks func(*sealed) error) error {
	for {
		st := s.state()
		if err := blocks(&st); err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		done, err := s.tail(ctx, &st, fn)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		if done {
			return nil
		}
	}
}

// tail calls fn for the records after st, unless the log has moved past it.
func (s *Sealer) tail(ctx context.Context, st *sealed, fn func(*evidence.Record) error) (done bool, err error) {
	s.releasing.RLock()
	defer s.releasing.RUnlock()
	if s.state().blocks != st.blocks {
		return false, nil
	}
	last := lastPosition(st.last)
	_, err = s.journal.Read(st.upTo, func(next journal.LSN, payload []byte) error {
		r, _, err := decode(bytes.Clone(payload))
		if err != nil {
			return fmt.Errorf("%w: journal before %d: %w", ErrDiverged, next, err)
		}
		if err := continues(last, r.Head.Pos); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		last = r.Head.Pos
		return fn(&r)
	})
	return true, err
}

// blockOf loads the first sections of a block and proves that it is the one in
// the log.
func (s *Sealer) blockOf(ctx context.Context, st *sealed, n uint64, sections int) (*ledger.Block, error) {
	b, _, err := s.load(ctx, n, sections)
	if err != nil {
		return nil, err
	}
	tree := ledger.NewTree(st.checkpoint, s.tree.FS())
	if err := diverged(tree.CheckLeaf(&b.Header), fmt.Sprintf("block %d in the archive", n)); err != nil {
		return nil, err
	}
	return b, nil
}

func each(ctx context.Context, records []evidence.Record, fn func(*evidence.Record) error) error {
	for i := range records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(&records[i]); err != nil {
			return err
		}
	}
	return nil
}

// LastBoot returns the block from which to Scan to see every session that may
// still be open, which are those that the next boot has to end.
//
// A boot first ends what the ones before left open, and only then lets anyone
// in. So all sessions of earlier boots have ended once a boot has recorded
// anything else; one that died before that is passed over. A boot that stopped in
// good order has itself ended all of its own, however long it was.
func (s *Sealer) LastBoot(ctx context.Context) (uint64, error) {
	st := s.state()
	tail, err := s.settledInTail(ctx, &st)
	if err != nil || tail || st.last == nil {
		return st.blocks, err
	}
	for boot, end := st.last.Boot, st.blocks; ; {
		if end <= s.gone.whole() {
			return 0, nil // what was open is in what disposals have kept
		}
		newest, err := s.blockOf(ctx, &st, end-1, ledger.Heads+1)
		if err != nil {
			return 0, err
		}
		if newest.Records[len(newest.Records)-1].Head.Type == evidence.GatewayStop {
			return end - 1, nil
		}
		first, err := s.firstBlock(&st, func(h *ledger.Header) bool { return h.Boot >= boot })
		if err != nil {
			return 0, err
		}
		ok, err := s.settled(ctx, &st, max(first, s.gone.whole()), end)
		if err != nil || ok || first == 0 {
			return first, err
		}
		before, err := s.leaf(&st, first-1)
		if err != nil {
			return 0, err
		}
		boot, end = before.Boot, first
	}
}

// settledInTail reports whether a boot that begins in the journal's tail has
// let anyone in, or one has stopped there.
func (s *Sealer) settledInTail(ctx context.Context, st *sealed) (settled bool, err error) {
	begun := uint64(0)
	_, err = s.tail(ctx, st, func(r *evidence.Record) error {
		if r.Head.Pos.Seq == 0 {
			begun = r.Head.Pos.Boot
		}
		settled = settled || r.Head.Type == evidence.GatewayStop || r.Head.Pos.Boot == begun && settles(&r.Head)
		return nil
	})
	return settled, err
}

// settled reports whether blocks from..end-1 hold a record that settles.
func (s *Sealer) settled(ctx context.Context, st *sealed, from, end uint64) (bool, error) {
	for n := from; n < end; n++ {
		b, err := s.blockOf(ctx, st, n, ledger.Heads+1)
		if err != nil {
			return false, err
		}
		for i := range b.Records {
			if settles(&b.Records[i].Head) {
				return true, nil
			}
		}
	}
	return false, nil
}

// settles reports whether a record shows that its boot has ended the sessions
// of those before: it is the boot's own and not its first.
func settles(h *evidence.Head) bool {
	if h.Session.IsZero() {
		return h.Type != evidence.GatewayStart
	}
	return h.Session.Boot == h.Pos.Boot
}
