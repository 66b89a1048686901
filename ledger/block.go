package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Block is a block file as it was read and checked.
type Block struct {
	Header
	Encoded []byte            // the header's bytes: leaf Block of the log
	Records []evidence.Record // Body is nil where there is none or its section was cut; Sealed is nil
	Present int               // number of leading sections that the file holds: NumSections, or less when it was cut
	sealed  []byte
}

// ParseBlock parses a block file, whole or cut after any section, and checks
// everything that it says of itself: section digests and sizes, the root over
// its records, sequence, boot, times and counts. What the block proves of other
// blocks is for Follows and Tree. The block aliases b.
func ParseBlock(b []byte) (*Block, error) {
	h, line, err := cutHeader(b)
	if err != nil {
		return nil, err
	}
	rest := b[len(line)+1:]
	blk := &Block{Header: h, Encoded: line}
	var sections [NumSections][]byte
	for i, s := range h.Sections {
		if len(rest) == 0 && s.Size > 0 && i > Heads {
			break // cut here
		}
		if uint64(len(rest)) < s.Size {
			return nil, fmt.Errorf("%w: block %d ends within section %s", ErrBlock, h.Block, s.Name)
		}
		sections[i], rest = rest[:s.Size], rest[s.Size:]
		if sha256.Sum256(sections[i]) != s.Digest {
			return nil, fmt.Errorf("%w: section %s of block %d does not have the digest in its header", ErrBlock, s.Name, h.Block)
		}
		blk.Present = i + 1
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after block %d", ErrBlock, len(rest), h.Block)
	}
	blk.sealed = sections[Sealed]
	if err := blk.parse(&sections); err != nil {
		return nil, fmt.Errorf("%w: block %d: %w", ErrBlock, h.Block, err)
	}
	return blk, nil
}

// cutHeader parses the header line that begins a block file.
func cutHeader(file []byte) (h Header, line []byte, err error) {
	line, _, ok := bytes.Cut(file[:min(len(file), MaxHeader+1)], []byte("\n"))
	if !ok {
		return Header{}, nil, fmt.Errorf("%w: no header line in its first %d bytes", ErrBlock, MaxHeader)
	}
	h, err = ParseHeader(line)
	return h, line, err
}

// parse fills Records from the sections that are present.
func (b *Block) parse(sections *[NumSections][]byte) error {
	heads, err := decompress(sections[Heads], b.Sections[Heads].Raw)
	if err != nil {
		return fmt.Errorf("section heads: %w", err)
	}
	// A head takes more than 40 bytes: this refuses a count that would make
	// room for records that can't be there.
	if uint64(len(heads)) < 40*b.Count {
		return errors.New("section heads is too short for its count")
	}
	b.Records = make([]evidence.Record, b.Count)
	if err := b.parseHeads(heads); err != nil {
		return err
	}
	if b.Present > Bodies {
		bodies, err := decompress(sections[Bodies], b.Sections[Bodies].Raw)
		if err != nil {
			return fmt.Errorf("section bodies: %w", err)
		}
		if err := b.parseBodies(bodies); err != nil {
			return err
		}
	}
	if b.Present > Hashes {
		return b.parseHashes(sections[Hashes])
	}
	return nil
}

func (b *Block) parseHeads(raw []byte) error {
	text := string(raw) // one string for all that heads hold, while they are parsed
	kept := make(headNames)
	var tree TreeHasher
	var sealed uint64
	control := false
	at := 0
	for i := range b.Records {
		n := strings.IndexByte(text[at:], '\n')
		if n < 0 {
			return fmt.Errorf("%d heads, its header says %d", i, b.Count)
		}
		r := &b.Records[i]
		r.HeadBytes = raw[at : at+n : at+n]
		var err error
		if r.Head, err = evidence.ParseHead(text[at : at+n]); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		kept.own(&r.Head)
		at += n + 1
		if p := r.Head.Pos; p.Gateway != b.Gateway || p.Boot != b.Boot || p.Seq != b.First+uint64(i) {
			return fmt.Errorf("record %d is %s, want %s.%d.%d", i, p, b.Gateway, b.Boot, b.First+uint64(i))
		}
		tree.AddRecord(r.HeadBytes)
		control = control || r.Head.Type.IsControl()
		if r.Head.HasSealed {
			sealed++
		}
	}
	switch {
	case at != len(text):
		return fmt.Errorf("more heads than the %d in its header", b.Count)
	case tree.Root() != b.Root:
		return errors.New("its records do not have the root in its header")
	case control != b.Control:
		return errors.New("its header is wrong on whether it holds control records")
	case b.From != b.Records[0].Head.Time || b.To != b.Records[len(b.Records)-1].Head.Time:
		return errors.New("its times are not those of its first and last record")
	case b.Sections[Hashes].Size != 32*sealed:
		return fmt.Errorf("%d records have a sealed part, section hashes has %d bytes", sealed, b.Sections[Hashes].Size)
	}
	return nil
}

// headNames are the strings of a block's heads, few as they are. A reader that keeps
// a head, or no more than a position of it, would otherwise keep the text of all
// heads of its block: over a year, of every block in which rights changed.
type headNames map[string]string

func (n headNames) own(h *evidence.Head) {
	for _, p := range []*evidence.Position{&h.Pos, &h.Session, &h.Of} {
		p.Gateway = n.of(p.Gateway)
	}
	h.Agent, h.Resource, h.Verb, h.Code = n.of(h.Agent), n.of(h.Resource), n.of(h.Verb), n.of(h.Code)
	h.Type, h.Effect, h.Outcome = evidence.Type(n.of(string(h.Type))), evidence.Effect(n.of(string(h.Effect))), evidence.OutcomeClass(n.of(string(h.Outcome)))
}

func (n headNames) of(s string) string {
	if s == "" {
		return ""
	}
	known, ok := n[s]
	if !ok {
		known = strings.Clone(s)
		n[known] = known
	}
	return known
}

func (b *Block) parseBodies(raw []byte) error {
	for i := range b.Records {
		n := bytes.IndexByte(raw, '\n')
		if n < 0 {
			return fmt.Errorf("%d bodies, want %d", i, b.Count)
		}
		r := &b.Records[i]
		if (n > 0) != r.Head.HasBody {
			return fmt.Errorf("body of %s is there and shouldn't be, or the other way round", r.Head.Pos)
		}
		if n > 0 {
			r.Body = raw[:n:n]
		}
		raw = raw[n+1:]
	}
	if len(raw) > 0 {
		return fmt.Errorf("more bodies than %d", b.Count)
	}
	return nil
}

// parseHashes relies on parseHeads having counted them.
func (b *Block) parseHashes(raw []byte) error {
	for i := range b.Records {
		r := &b.Records[i]
		if !r.Head.HasSealed {
			continue
		}
		r.SealedHash, raw = evidence.Hash(raw[:32]), raw[32:]
		if (r.SealedHash == evidence.Hash{}) {
			return fmt.Errorf("sealed hash of %s is zero", r.Head.Pos)
		}
	}
	return nil
}

// Build makes the file of a block. Of h it takes Origin, Block, Prev and
// PrevControl; the rest it derives from the records, which must be of one
// gateway and boot and without gaps. Bodies and sealed hashes must be there
// where heads say so. Chunks hold the sealed parts, and may leave out any.
func Build(h Header, records []evidence.Record, chunks []Chunk) (Header, []byte, error) {
	if len(records) == 0 || len(records) > MaxRecords {
		return Header{}, nil, fmt.Errorf("building block %d: %d records, want 1 to %d", h.Block, len(records), MaxRecords)
	}
	work := works.Get().(*work)
	defer works.Put(work)
	raw := work.sections(records)
	var tree TreeHasher
	first, last := &records[0].Head, &records[len(records)-1].Head
	h.Control = false
	for i := range records {
		r := &records[i]
		want := first.Pos
		want.Seq += uint64(i)
		switch {
		case r.Head.Pos != want:
			return Header{}, nil, fmt.Errorf("building block %d: record %s where %s was due", h.Block, r.Head.Pos, want)
		case r.Head.HasBody != (len(r.Body) > 0), bytes.IndexByte(r.Body, '\n') >= 0:
			return Header{}, nil, fmt.Errorf("building block %d: record %s needs a body of one line exactly if its head says so", h.Block, r.Head.Pos)
		case r.Head.HasSealed != (r.SealedHash != evidence.Hash{}):
			return Header{}, nil, fmt.Errorf("building block %d: record %s needs a sealed hash exactly if its head says so", h.Block, r.Head.Pos)
		}
		tree.AddRecord(r.HeadBytes)
		h.Control = h.Control || r.Head.Type.IsControl()
		raw[Heads] = append(append(raw[Heads], r.HeadBytes...), '\n')
		raw[Bodies] = append(append(raw[Bodies], r.Body...), '\n')
		if r.Head.HasSealed {
			raw[Hashes] = append(raw[Hashes], r.SealedHash[:]...)
		}
	}
	h.Gateway, h.Boot, h.First, h.Last = first.Pos.Gateway, first.Pos.Boot, first.Pos.Seq, last.Pos.Seq
	h.Count, h.From, h.To, h.Root = uint64(len(records)), first.Time, last.Time, tree.Root()

	var sealedRaw uint64
	raw[Sealed], sealedRaw = appendChunks(chunks)
	stored := [NumSections][]byte{work.compress(Heads), work.compress(Bodies), raw[Hashes], raw[Sealed]}
	for i, s := range stored {
		h.Sections[i] = Section{SectionNames[i], uint64(len(s)), uint64(len(raw[i])), sha256.Sum256(s)}
	}
	h.Sections[Sealed].Raw = sealedRaw
	if err := h.Check(); err != nil {
		return Header{}, nil, fmt.Errorf("building block %d: %w", h.Block, err)
	}
	line := h.Encode()
	file := make([]byte, 0, len(line)+1+len(stored[Heads])+len(stored[Bodies])+len(stored[Hashes])+len(stored[Sealed]))
	file = append(append(file, line...), '\n')
	for _, s := range stored {
		file = append(file, s...)
	}
	return h, file, nil
}

// work is memory that one block after the other is built in. Blocks take
// megabytes, and memory that is touched for the first time costs more than what
// is done in it.
type work struct {
	raw    [NumSections][]byte
	packed [NumSections][]byte
}

var works = sync.Pool{New: func() any { return new(work) }}

// sections returns empty sections that are as long as records will make them:
// growing by and by would copy them several times over.
func (w *work) sections(records []evidence.Record) *[NumSections][]byte {
	var size [NumSections]int
	for i := range records {
		r := &records[i]
		size[Heads] += len(r.HeadBytes) + 1
		size[Bodies] += len(r.Body) + 1
		if r.Head.HasSealed {
			size[Hashes] += len(r.SealedHash)
		}
	}
	for _, s := range []int{Heads, Bodies, Hashes} {
		w.raw[s] = slices.Grow(w.raw[s][:0], size[s])
	}
	w.raw[Sealed] = nil
	return &w.raw
}

func (w *work) compress(section int) []byte {
	w.packed[section] = encoder.EncodeAll(w.raw[section], w.packed[section][:0])
	return w.packed[section]
}

// Cut returns the beginning of a block file that holds only its first sections:
// Heads+1 withholds everything but heads, Hashes+1 the sealed parts. It aliases
// file, which is not checked further than its header.
func Cut(file []byte, sections int) ([]byte, error) {
	h, line, err := cutHeader(file)
	if err != nil {
		return nil, err
	}
	end := uint64(len(line) + 1)
	for _, s := range h.Sections[:sections] {
		end += s.Size
	}
	if end > uint64(len(file)) {
		return nil, fmt.Errorf("%w: block %d was already cut further than asked", ErrBlock, h.Block)
	}
	return file[:end:end], nil
}

// Encoder and decoder are safe for concurrent use through EncodeAll and
// DecodeAll. Level 1 compresses records as well as higher ones.
var (
	encoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true)))
	decoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxSection), zstd.WithDecodeAllCapLimit(true)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("ledger: " + err.Error()) // the options above are constants
	}
	return v
}

func compress(raw []byte) []byte { return encoder.EncodeAll(raw, nil) }

// decompress returns exactly size bytes, or an error; it never makes more.
func decompress(b []byte, size uint64) ([]byte, error) {
	if size > MaxSection {
		return nil, fmt.Errorf("%d bytes is more than %d", size, MaxSection)
	}
	raw, err := decoder.DecodeAll(b, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if uint64(len(raw)) != size {
		return nil, fmt.Errorf("decompressed to %d bytes, its header says %d", len(raw), size)
	}
	return raw, nil
}
