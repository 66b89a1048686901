package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// ErrDisposed is wrapped when records are asked for whose block was disposed of.
var ErrDisposed = errors.New("was disposed of")

// markDisposed is an object of the archive that says that blocks are missing
// from it on purpose: a tree that is lost can't be made anew from what is left.
const markDisposed = "disposed"

const markText = "Blocks of this archive were deleted when their retention ended. The records of the\n" +
	"log say which. Their headers are in the log's tree and nowhere else: keep it.\n"

// disposed is what disposals have deleted, as the log's records say.
type disposed struct {
	mu    sync.Mutex
	first uint64 // block after the last disposal
	kept  []uint64
}

// SetDisposed tells the sealer how far disposals have come, and which blocks
// before they kept besides those with control records.
func (s *Sealer) SetDisposed(first uint64, kept []uint64) {
	s.gone.mu.Lock()
	defer s.gone.mu.Unlock()
	s.gone.first, s.gone.kept = first, kept
}

// whole is the first block from which on none was disposed of.
func (d *disposed) whole() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.first
}

// may reports whether a block is gone unless it has control records.
func (d *disposed) may(n uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, kept := slices.BinarySearch(d.kept, n)
	return n < d.first && !kept
}

func (d *disposed) keeps() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept
}

func (d *disposed) error(n uint64) error {
	return fmt.Errorf("block %d %w when its retention ended; the log is whole from block %d on", n, ErrDisposed, d.whole())
}

// Whole returns the first block from which on none was disposed of, and the time
// of its first record in microseconds since the epoch; 0 and 0 where none was.
func (s *Sealer) Whole() (block uint64, from int64, err error) {
	block = s.gone.whole()
	st := s.state()
	if block == 0 || block >= st.blocks {
		return block, 0, nil
	}
	h, err := s.leaf(&st, block)
	if err != nil {
		return block, 0, fmt.Errorf("reading the log: %w", err)
	}
	return block, h.From, nil
}

// ScanOpening calls fn for the records of the blocks that disposals have left
// before what is whole: all control records, and what later ones refer to. With
// those a fold opens that goes on with Scan from there.
func (s *Sealer) ScanOpening(ctx context.Context, fn func(*evidence.Record) error) error {
	st := s.state()
	left, err := s.leftFrom(ctx, &st, 0)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	for _, n := range left {
		if err := s.eachOf(ctx, &st, n, ledger.NumSections, fn); err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
	}
	return nil
}

// leftFrom returns the blocks from one on that disposals have left before what
// is whole, in order.
func (s *Sealer) leftFrom(ctx context.Context, st *sealed, from uint64) ([]uint64, error) {
	whole := s.gone.whole()
	if from >= whole || whole >= st.blocks {
		return nil, nil
	}
	first, err := s.leaf(st, whole)
	if err != nil {
		return nil, err
	}
	first.Control = false // it is part of what is whole
	left, err := ledger.ControlBlocks(&first, func(n uint64) (ledger.Header, error) {
		b, err := s.blockOf(ctx, st, n, 1)
		if err != nil {
			return ledger.Header{}, err
		}
		return b.Header, nil
	})
	if err != nil {
		return nil, err
	}
	left = append(left, s.gone.keeps()...)
	slices.Sort(left)
	left = slices.Compact(left)
	at, _ := slices.BinarySearch(left, from)
	return left[at:], nil
}

// Disposable says what can be disposed of: the blocks after the last disposal
// whose records are all older than a time, in microseconds since the epoch, and
// those that disposals before had to keep and this one needn't. Kept are blocks
// that later records refer to: where sessions began that had not ended with its
// last block, commands that had not, and the boot. Blocks is 0 when nothing can.
// Retention and reason are the caller's to say.
func (s *Sealer) Disposable(ctx context.Context, before int64) (scope evidence.DisposalScope, oldest, newest int64, err error) {
	p := &plan{s: s, st: s.state(), sessions: make(map[evidence.Position]uint64), intents: make(map[evidence.Position]uint64)}
	if err := p.make(ctx, before); err != nil {
		return scope, 0, 0, fmt.Errorf("looking for what is past its retention: %w", err)
	}
	return p.scope, p.oldest, p.newest, nil
}

// maxDisposal is how many blocks one disposal decides about. What is left is for
// the next.
const maxDisposal = 1 << 20

// plan is a disposal in the making.
type plan struct {
	s     *Sealer
	st    sealed
	scope evidence.DisposalScope

	sessions, intents map[evidence.Position]uint64 // that are open, with their block
	boot              uint64                       // block of the last gateway.start
	booted            bool

	headers        bundleOf
	digest         ledger.TreeHasher
	oldest, newest int64 // times of what is deleted
}

func (p *plan) make(ctx context.Context, before int64) error {
	p.headers = bundleOf{s: p.s, st: &p.st}
	had := p.s.gone.keeps()
	for _, n := range had { // what was open then may have ended since
		if err := p.follow(ctx, n); err != nil {
			return err
		}
	}
	p.scope.First = p.s.gone.whole()
	end := p.scope.First
	for ; end+1 < p.st.blocks && end-p.scope.First < maxDisposal; end++ { // the newest block stays: the log goes on from it
		h, err := p.headers.get(end)
		if err != nil {
			return err
		}
		if h.To >= before {
			break
		}
		if err := p.follow(ctx, end); err != nil {
			return err
		}
		p.digest.AddHash(h.Hash())
		p.scope.Last, p.scope.End = end, string(h.Encode())
	}
	if end == p.scope.First {
		p.scope = evidence.DisposalScope{}
		return nil
	}
	p.scope.Digest = p.digest.Root()
	return p.sort(had)
}

// follow notes what begins and ends in a block.
func (p *plan) follow(ctx context.Context, n uint64) error {
	b, err := p.s.blockOf(ctx, &p.st, n, ledger.Heads+1)
	if err != nil {
		return err
	}
	for i := range b.Records {
		switch h := &b.Records[i].Head; {
		case h.Type == evidence.GatewayStart:
			p.boot, p.booted = n, true
		case h.Type == evidence.SessionStart && h.Effect == evidence.Allow:
			p.sessions[h.Pos] = n
		case h.Type == evidence.SessionEnd:
			delete(p.sessions, h.Session)
		case h.Type == evidence.CommandIntent && h.Outcome == "":
			p.intents[h.Pos] = n
		case h.Type == evidence.CommandResult:
			delete(p.intents, h.Of)
		}
	}
	return ctx.Err()
}

// sort parts the blocks into those that go and those that stay.
func (p *plan) sort(had []uint64) error {
	needed := make(map[uint64]bool)
	for _, n := range p.sessions {
		needed[n] = true
	}
	for _, n := range p.intents {
		needed[n] = true
	}
	if p.booted {
		needed[p.boot] = true
	}
	for _, n := range had {
		if !needed[n] {
			if err := p.goes(n); err != nil {
				return err
			}
			p.scope.Released = append(p.scope.Released, n)
		}
	}
	for n := p.scope.First; n <= p.scope.Last; n++ {
		h, err := p.headers.get(n)
		switch {
		case err != nil:
			return err
		case h.Control:
		case needed[n]:
			p.scope.Kept = append(p.scope.Kept, n)
		default:
			if err := p.goes(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// goes counts a block that is deleted.
func (p *plan) goes(n uint64) error {
	h, err := p.headers.get(n)
	if err != nil {
		return err
	}
	size := uint64(len(h.Encode()) + 1)
	for _, section := range h.Sections {
		size += section.Size
	}
	if p.scope.Blocks == 0 || h.From < p.oldest {
		p.oldest = h.From
	}
	p.newest = max(p.newest, h.To)
	p.scope.Blocks++
	p.scope.Records += h.Count
	p.scope.Bytes += size
	return nil
}

// bundleOf gives headers as the tree has them, from a bundle that it keeps. They
// are proven as leaves.
type bundleOf struct {
	s      *Sealer
	st     *sealed
	number uint64
	list   []ledger.Header
}

func (b *bundleOf) get(n uint64) (ledger.Header, error) {
	if b.list == nil || b.number != n/bundle {
		entries, err := ledger.ReadEntries(b.s.tree.FS(), n/bundle, b.st.checkpoint.Size)
		if err != nil {
			return ledger.Header{}, err
		}
		at := n - n%bundle
		leaves, err := ledger.NewTree(b.st.checkpoint, b.s.tree.FS()).LeafHashes(at, at+uint64(len(entries)))
		if err != nil {
			return ledger.Header{}, err
		}
		b.number, b.list = n/bundle, nil
		for i, e := range entries {
			h, err := ledger.ParseHeader(e)
			if err == nil && (h.Hash() != leaves[i] || h.Block != at+uint64(i)) {
				err = fmt.Errorf("%w: the log's copy of the header of block %d is not its leaf", ErrDiverged, at+uint64(i))
			}
			if err != nil {
				return ledger.Header{}, err
			}
			b.list = append(b.list, h)
		}
	}
	if n%bundle >= uint64(len(b.list)) {
		return ledger.Header{}, fmt.Errorf("the log has no block %d", n)
	}
	return b.list[n%bundle], nil
}

// removedAtOnce is how many blocks go between two syncs of their folders. It is a
// variable for tests.
var removedAtOnce = 1024

// Delete deletes what a disposal says, whose record must be in the published log.
// What is gone already is fine, so that it may be repeated after a crash.
func (s *Sealer) Delete(ctx context.Context, scope *evidence.DisposalScope) error {
	if err := s.archive.Put(ctx, markDisposed, []byte(markText)); err != nil {
		return fmt.Errorf("disposing of blocks: %w", err)
	}
	failpoint.Hit("disposal marked")
	st := s.state()
	headers := bundleOf{s: s, st: &st}
	var names []string
	remove := func(least int) error {
		if len(names) < least || len(names) == 0 {
			return nil
		}
		err := s.archive.Remove(ctx, names...)
		names = names[:0]
		failpoint.Hit("some disposed")
		return err
	}
	list := func(n uint64) error {
		h, err := headers.get(n)
		if err != nil || h.Control || n+1 >= st.blocks { // whatever a record says
			return err
		}
		names = append(names, ledger.BlockPath(n))
		return remove(removedAtOnce)
	}
	err := eachNumber(scope.Released, list)
	for n := scope.First; n <= scope.Last && err == nil; n++ {
		if _, kept := slices.BinarySearch(scope.Kept, n); !kept {
			err = list(n)
		}
	}
	if err == nil {
		err = remove(0)
	}
	if err != nil {
		return fmt.Errorf("disposing of blocks: %w", err)
	}
	return nil
}

func eachNumber(list []uint64, fn func(uint64) error) error {
	for _, n := range list {
		if err := fn(n); err != nil {
			return err
		}
	}
	return nil
}

// checkWhole refuses to make a tree anew from an archive that blocks are missing from.
func (s *Sealer) checkWhole(ctx context.Context, tree uint64) error {
	if tree > 0 {
		return nil
	}
	switch _, err := s.archive.Get(ctx, markDisposed); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: %s has no tree, and it can't be made anew: blocks were disposed of, and their headers are in the tree alone; "+
		"put back %s from the newest backup", ErrDiverged, s.cfg.Dir, s.cfg.Dir)
}
