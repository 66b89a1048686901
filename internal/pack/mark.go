package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

// Keeping is where a pack in the making is kept, so that an interrupted one goes
// on. Its folder holds what the pack will: nobody else may read it. It is gone
// once the pack is made.
type Keeping struct {
	Dir     string        // of this pack alone, and of one maker at a time
	Request string        // that the pack is of: what is kept of another isn't gone on with
	Every   time.Duration // at least, between two marks; 0 is after each block
}

// A mark says how far a pack is. What it names is durable before it is: what was
// spooled is flushed and synced, then the mark is written beside the one before
// and takes its place. Bytes that were spooled later are cut off again.
type mark struct {
	Format      int
	Request     string
	Generator   verify.Generator
	From, To    int64 // of the period, in microseconds
	First, Last uint64
	Next        uint64 // first block that isn't folded
	Header      []byte // of the one before, on which all headers before it rest
	Context     []uint64
	Copied      []byte // SHA-256 of the blocks that were copied, one after the other
	Records     uint64
	Seen        []string
	Keys        []ledger.KeyChange
	Spools      []markedSpool
	Parts       []markedSpool
	Tabs        []int // rows of each tab
	Tables      bool  // that there are such
	Pieces      string
	PiecesSum   uint32
	End         int64
	Piece       []markedPiece
	Opened      int
}

type markedSpool struct {
	Path string
	Rows int64
	Buf  []byte
	File string // "" while it is in memory
	Size int64
	Disk uint32 // CRC-32 of those bytes
	N    int64
	CRC  []byte
	Sum  []byte
}

type markedPiece struct {
	Path     string
	From, To int64
}

// markFormat is that of this version. Another program isn't believed anyway.
const markFormat = 1

// markFile holds the newest mark.
const markFile = "mark"

// errMark is wrapped where a mark can't be gone on from.
var errMark = errors.New("the mark doesn't fit")

// keeps reports whether what is spooled has a name and marks are set.
func (m *maker) keeps() bool { return m.params.Keep.Dir != "" }

// set writes a mark if it is time: after that many blocks, none is folded twice.
func (m *maker) set(next uint64) error {
	if !m.keeps() || time.Since(m.marked) < m.params.Keep.Every {
		return nil
	}
	header, err := m.headers.get(next - 1)
	if err != nil {
		return err
	}
	k := &mark{
		Format: markFormat, Request: m.params.Keep.Request, Generator: m.params.Generator, From: m.params.From.UnixMicro(), To: m.params.To.UnixMicro(),
		First: m.first, Last: m.last, Next: next, Header: header.Encode(), Context: m.before, Copied: m.copied.Sum(nil), Records: m.records, Keys: m.keys,
	}
	for name := range m.seen {
		k.Seen = append(k.Seen, name)
	}
	slices.Sort(k.Seen)
	if err := m.spools.mark(k); err != nil {
		return err
	}
	if err := m.writeMark(k); err != nil {
		return fmt.Errorf("marking how far the pack is: %w", err)
	}
	m.marked = time.Now()
	return nil
}

// writeMark writes a mark with the state of the fold, whole or not at all.
func (m *maker) writeMark(k *mark) error {
	name := filepath.Join(m.params.Keep.Dir, markFile)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	d := newDigester(f)
	err = errors.Join(json.NewEncoder(d).Encode(k), m.fold.Keep(d))
	if err == nil {
		_, err = fmt.Fprintf(f, "%x\n", d.h.Sum(nil))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncFolder(m.params.Keep.Dir)
}

// syncFolder makes the names in a folder durable.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readMark reads the newest mark, and the state of the fold behind it. None is
// nil.
func readMark(p *Params) (*mark, []byte, error) {
	b, err := os.ReadFile(filepath.Join(p.Keep.Dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading how far the pack was: %w", err)
	}
	const trailer = 2*sha256.Size + 1
	if len(b) < trailer {
		return nil, nil, fmt.Errorf("%w: it is cut off", errMark)
	}
	b, said := b[:len(b)-trailer], b[len(b)-trailer:]
	if sum := sha256.Sum256(b); string(said) != hex.EncodeToString(sum[:])+"\n" {
		return nil, nil, fmt.Errorf("%w: it is damaged", errMark)
	}
	k := &mark{}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(k); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errMark, err)
	}
	switch {
	case k.Format != markFormat || k.Generator != p.Generator:
		return nil, nil, fmt.Errorf("%w: another version made it", errMark)
	case k.Request != p.Keep.Request:
		return nil, nil, fmt.Errorf("%w: it is of another pack", errMark)
	}
	return k, b[d.InputOffset():], nil
}

// resume goes on from a mark: the log has to be the one that it was made of. It
// may have grown, as long as what is new asks for no other context.
func (m *maker) resume(ctx context.Context, k *mark, state []byte) error {
	header, err := m.headers.get(k.Next - 1)
	switch {
	case k.First != m.first || k.Last > m.last:
		return fmt.Errorf("%w: the period has other blocks now", errMark)
	case err != nil:
		return err
	case !bytes.Equal(header.Encode(), k.Header):
		return fmt.Errorf("%w: the log is another", errMark)
	}
	if err := m.grown(ctx, k); err != nil {
		return err
	}
	if err := m.spools.resume(k); err != nil {
		return err
	}
	if err := m.fold.Resume(bytes.NewReader(state)); err != nil {
		return fmt.Errorf("%w: %w", errMark, err)
	}
	for _, name := range k.Seen {
		m.seen[name] = true
	}
	m.before, m.keys, m.records, m.resumed = k.Context, k.Keys, k.Records, k
	return nil
}

// grown looks in the blocks that came since the mark for what its context lacks.
func (m *maker) grown(ctx context.Context, k *mark) error {
	first, err := m.headers.get(m.first)
	if err != nil {
		return err
	}
	refs, err := m.references(ctx, first.FirstPosition(), k.Last+1)
	if err != nil {
		return err
	}
	for p := range refs {
		n, err := m.headers.holding(p)
		if err != nil {
			return err
		}
		if n < m.first && !slices.Contains(k.Context, n) {
			return fmt.Errorf("%w: what the log has since refers to block %d", errMark, n)
		}
	}
	return nil
}

// recopy writes a block that was folded before the mark: its bytes are those of
// then, as the mark's digest of all of them says at the end.
func (m *maker) recopy(ctx context.Context, w io.Writer, n uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := m.src.Archive.Get(ctx, ledger.BlockPath(n))
	if err != nil {
		return fmt.Errorf("reading block %d: %w", n, err)
	}
	if file, err = ledger.Cut(file, verify.Sections(m.params.Level)); err != nil {
		return err
	}
	m.copied.Write(file)
	if n == m.resumed.Next-1 && !bytes.Equal(m.copied.Sum(nil), m.resumed.Copied) {
		return fmt.Errorf("block %d or one before it isn't what it was when the pack was begun", n)
	}
	if _, err := w.Write(file); err != nil {
		return fmt.Errorf("writing block %d: %w", n, err)
	}
	return nil
}

// mark says in k what was spooled, once it is durable.
func (s *spools) mark(k *mark) error {
	for _, f := range s.sorted() {
		one, err := f.mark()
		if err != nil {
			return err
		}
		k.Spools = append(k.Spools, one)
	}
	for _, f := range s.parts {
		one, err := f.mark()
		if err != nil {
			return err
		}
		k.Parts = append(k.Parts, one)
	}
	k.Tables, k.Opened, k.End, k.PiecesSum, k.Tabs = len(s.tables) > 0, s.opened, s.end, s.sum, s.book.Rows()
	for _, p := range s.piece {
		k.Piece = append(k.Piece, markedPiece{p.path, p.from, p.to})
	}
	if s.pieces != nil {
		k.Pieces = filepath.Base(s.pieces.Name())
		if err := s.pieces.Sync(); err != nil {
			return fmt.Errorf("spooling: %w", err)
		}
	}
	return nil
}

// mark flushes a spool to disk and says how it stands. What is deflated from
// here on is a stream of its own behind it, which readers don't notice.
func (f *spool) mark() (markedSpool, error) {
	k := markedSpool{Path: f.path, Rows: f.rows}
	p := f.packed
	if p == nil {
		k.Buf = bytes.Clone(f.buf)
		return k, nil
	}
	if err := errors.Join(f.deflate(), p.z.Flush(), p.out.Flush(), p.file.Sync()); err != nil {
		return k, fmt.Errorf("spooling: %w", err)
	}
	var err1, err2 error
	k.File, k.Size, k.Disk, k.N = filepath.Base(p.file.Name()), p.size, p.disk.Sum32(), p.n
	k.CRC, err1 = p.crc.(encoding.BinaryMarshaler).MarshalBinary()
	k.Sum, err2 = p.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return k, errors.Join(err1, err2)
}

// resume makes the spools those of a mark. What a later one had is cut off, or
// removed.
func (s *spools) resume(k *mark) error {
	s.opened = k.Opened
	if k.Tables {
		if err := s.beginTables(); err != nil {
			return err
		}
	}
	known := map[string]bool{markFile: true}
	for _, one := range k.Spools {
		known[one.File] = true
		if err := s.open(one.Path).resume(&one); err != nil {
			return err
		}
	}
	if len(s.parts) != len(k.Parts) || !s.book.Resume(k.Tabs) {
		return fmt.Errorf("%w: it has another workbook", errMark)
	}
	for i, one := range k.Parts {
		known[one.File] = true
		if err := s.parts[i].resume(&one); err != nil {
			return err
		}
	}
	for _, p := range k.Piece {
		s.piece = append(s.piece, piece{p.Path, p.From, p.To})
	}
	if k.Pieces != "" {
		known[k.Pieces] = true
		sum := crc32.NewIEEE()
		f, err := s.reopen(k.Pieces, k.End, sum)
		if err != nil {
			return err
		}
		if s.pieces, s.end, s.sum = f, k.End, k.PiecesSum; sum.Sum32() != k.PiecesSum {
			return fmt.Errorf("%w: %s is damaged", errMark, k.Pieces)
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return fmt.Errorf("spooling: %w", err)
			}
		}
	}
	return nil
}

// resume makes a spool the one of a mark.
func (f *spool) resume(k *markedSpool) error {
	f.rows, f.buf = k.Rows, slices.Clone(k.Buf)
	if k.File == "" {
		return nil
	}
	disk := crc32.NewIEEE()
	file, err := f.of.reopen(k.File, k.Size, disk)
	if err != nil {
		return err
	}
	if f.packed, err = newPacked(file); err != nil {
		return err
	}
	p := f.packed
	p.size, p.n, p.disk = k.Size, k.N, disk
	err = errors.Join(p.crc.(encoding.BinaryUnmarshaler).UnmarshalBinary(k.CRC), p.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(k.Sum))
	if err != nil || disk.Sum32() != k.Disk {
		return fmt.Errorf("%w: %s is damaged", errMark, k.File)
	}
	return nil
}

// reopen opens a file of a mark, cuts off what came later, and sums up the rest.
func (s *spools) reopen(name string, size int64, sum hash.Hash) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, filepath.Base(name)), os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMark, err)
	}
	n, err := io.CopyN(sum, f, size)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil || n != size {
		return nil, errors.Join(fmt.Errorf("%w: %s is cut off: %w", errMark, name, err), f.Close())
	}
	return f, nil
}

// prepare makes the folder of a pack in the making, and reads what is kept there
// of the same one. Why it begins again it says where something was kept.
func prepare(p *Params) (k *mark, state []byte, again string, err error) {
	if err := os.MkdirAll(p.Keep.Dir, 0o700); err != nil {
		return nil, nil, "", fmt.Errorf("spooling: %w", err)
	}
	k, state, err = readMark(p)
	if errors.Is(err, errMark) {
		again, err = err.Error(), nil
	}
	if k == nil && err == nil {
		err = empty(p.Keep.Dir)
	}
	return k, state, again, err
}

// empty removes everything in a folder.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	return nil
}
