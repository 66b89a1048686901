package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// ErrNoRecords is returned when the log holds nothing of the period.
var ErrNoRecords = errors.New("the log holds no records of the period")

// headers reads block headers from the log's entry bundles, the last few of
// which it keeps.
type headers struct {
	log     fs.FS
	size    uint64
	bundles map[uint64][]ledger.Header
}

// keepBundles is how many bundles of 256 headers are kept.
const keepBundles = 64

func (h *headers) get(n uint64) (ledger.Header, error) {
	bundle, ok := h.bundles[n/256]
	if !ok {
		entries, err := ledger.ReadEntries(h.log, n/256, h.size)
		if err != nil {
			return ledger.Header{}, err
		}
		for _, e := range entries {
			header, err := ledger.ParseHeader(e)
			if err != nil {
				return ledger.Header{}, fmt.Errorf("leaf of the log near %d: %w", n, err)
			}
			bundle = append(bundle, header)
		}
		if len(h.bundles) >= keepBundles {
			clear(h.bundles)
		}
		h.bundles[n/256] = bundle
	}
	if n%256 >= uint64(len(bundle)) || bundle[n%256].Block != n {
		return ledger.Header{}, fmt.Errorf("leaf %d of the log is not block %d", n, n)
	}
	return bundle[n%256], nil
}

// search returns the first block for which f holds, by bisection; f must hold
// for every block after one for which it does.
func (h *headers) search(f func(*ledger.Header) bool) (uint64, error) {
	var failed error
	n := sort.Search(int(h.size), func(i int) bool {
		if failed != nil {
			return true
		}
		header, err := h.get(uint64(i))
		failed = err
		return err != nil || f(&header)
	})
	return uint64(n), failed
}

// period returns the first and the last block of a period.
func (h *headers) period(from, to int64) (first, last uint64, err error) {
	if first, err = h.search(func(b *ledger.Header) bool { return b.To >= from }); err != nil {
		return 0, 0, err
	}
	after, err := h.search(func(b *ledger.Header) bool { return b.From > to })
	if err != nil {
		return 0, 0, err
	}
	if after <= first {
		return 0, 0, ErrNoRecords
	}
	return first, after - 1, nil
}

// holding returns the block that holds the record at p.
func (h *headers) holding(p evidence.Position) (uint64, error) {
	n, err := h.search(func(b *ledger.Header) bool { return p.Before(b.LastPosition()) || p == b.LastPosition() })
	if err != nil {
		return 0, err
	}
	if n == h.size {
		return 0, fmt.Errorf("no block holds record %s", p)
	}
	b, err := h.get(n)
	if err == nil && p.Before(b.FirstPosition()) {
		err = fmt.Errorf("no block holds record %s", p)
	}
	return n, err
}

// context returns the blocks before the range that it can't be read without.
func (m *maker) context(ctx context.Context) ([]uint64, error) {
	first, err := m.headers.get(m.first)
	if err != nil {
		return nil, err
	}
	blocks := make(map[uint64]bool)
	control, err := ledger.ControlBlocks(&first, m.headers.get)
	if err != nil {
		return nil, err
	}
	for _, n := range control {
		blocks[n] = n < m.first
	}
	refs, err := m.references(ctx, first.FirstPosition(), m.first)
	if err != nil {
		return nil, err
	}
	for p := range refs {
		n, err := m.headers.holding(p)
		if err != nil {
			return nil, err
		}
		blocks[n] = n < m.first
	}
	maps.DeleteFunc(blocks, func(_ uint64, before bool) bool { return !before })
	return slices.Sorted(maps.Keys(blocks)), nil
}

// references returns the records before the range that its records, from a block
// on, refer to:
// starts of their sessions, intents of their contents and results, and the start of the
// first boot.
func (m *maker) references(ctx context.Context, first evidence.Position, from uint64) (map[evidence.Position]bool, error) {
	refs := make(map[evidence.Position]bool)
	if first.Seq > 0 {
		refs[evidence.Position{Gateway: first.Gateway, Boot: first.Boot}] = true
	}
	for n := from; n <= m.last; n++ {
		b, _, err := m.block(ctx, n, ledger.Heads+1)
		if err != nil {
			return nil, err
		}
		for i := range b.Records {
			h := &b.Records[i].Head
			if !h.Session.IsZero() && h.Session.Before(first) && h.Type != evidence.Resolution {
				refs[h.Session] = true
			}
			if (h.Type == evidence.CommandResult || h.Type == evidence.CommandContent) && h.Of.Before(first) {
				refs[h.Of] = true
			}
		}
		m.progress("selecting blocks", selecting*(n-m.first+1))
	}
	return refs, nil
}

// DisposedError says that a period begins with what was disposed of.
type DisposedError struct {
	Block uint64
	By    evidence.Position // the disposal on record
	From  time.Time         // first record of what is whole
}

// Error says so.
func (e *DisposedError) Error() string {
	return fmt.Sprintf("the period begins before what is kept: block %d was disposed of, on record as %s", e.Block, e.By)
}

// missing says why a block isn't there: the newest disposal on record names it,
// or cause does.
func (m *maker) missing(ctx context.Context, n uint64, cause error) error {
	newest, err := m.headers.get(m.headers.size - 1)
	if err != nil {
		return errors.Join(cause, err)
	}
	control, err := ledger.ControlBlocks(&newest, m.headers.get)
	if err != nil {
		return errors.Join(cause, err)
	}
	for _, at := range slices.Backward(control) {
		if at <= n {
			break
		}
		file, err := m.src.Archive.Get(ctx, ledger.BlockPath(at))
		if err == nil {
			file, err = ledger.Cut(file, ledger.Bodies+1)
		}
		if err != nil {
			return errors.Join(cause, err)
		}
		b, err := ledger.ParseBlock(file)
		if err != nil {
			return errors.Join(cause, err)
		}
		for i := range b.Records {
			var d evidence.DisposalBody
			if r := &b.Records[i]; r.Head.Type != evidence.Disposal || evidence.DecodeBody(r.Body, &d) != nil || n > d.Last {
				continue
			}
			whole, err := m.headers.get(d.Last + 1)
			if err != nil {
				return errors.Join(cause, err)
			}
			return &DisposedError{n, b.Records[i].Head.Pos, time.UnixMicro(whole.From).UTC()}
		}
	}
	return cause
}

// block returns a block of the archive, checked and cut to its first sections,
// and the bytes of that.
func (m *maker) block(ctx context.Context, n uint64, sections int) (*ledger.Block, []byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	file, err := m.src.Archive.Get(ctx, ledger.BlockPath(n))
	if errors.Is(err, fs.ErrNotExist) {
		err = m.missing(ctx, n, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading block %d: %w", n, err)
	}
	if file, err = ledger.Cut(file, sections); err != nil {
		return nil, nil, err
	}
	b, err := ledger.ParseBlock(file)
	if err != nil {
		return nil, nil, err
	}
	header, err := m.headers.get(n)
	if err != nil {
		return nil, nil, err
	}
	if b.Header != header {
		return nil, nil, fmt.Errorf("block %d of the archive is not the one in the log", n)
	}
	return b, file, nil
}
