package pack

import (
	"archive/zip"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Archive gives block files by name.
type Archive interface {
	Get(ctx context.Context, name string) ([]byte, error)
}

// Seeds gives the body seed of a key scope; an error that wraps
// keys.ErrShredded means that it was erased.
type Seeds interface {
	BodySeed(boot, slot uint64) ([32]byte, error)
}

// Gateway records that a pack is made, and seals what is recorded. A gateway
// that doesn't run is none.
type Gateway interface {
	// Export records the body as pack.export and returns when it is in a
	// published checkpoint with everything before it.
	Export(context.Context, evidence.ReadBody) error
	// Checkpoint returns the checkpoint to pack, of the export's at least: with
	// the cosignatures of witnesses where they can be had in time.
	Checkpoint(context.Context) ([]byte, error)
}

// Source is what a pack is made from.
type Source struct {
	Archive Archive
	Log     fs.FS // of tlog-tiles: checkpoint, hash tiles, entries
	Seeds   Seeds
	Sealed  Sealed      // for level L3
	Signer  note.Signer // of the log
	Gateway Gateway     // nil packs what is sealed already, and leaves no record
	// Stamps opens the checkpoints that were stamped, as ledger.ReadStamps reads
	// them; nil is none. It is asked once the checkpoint to pack is there.
	Stamps func() (io.ReadCloser, error)
}

// Params says what to pack.
type Params struct {
	From, To     time.Time
	By           evidence.By
	Purpose      string
	Level        string // L0, L1 or L3; "" is L1
	Recipient    string // of a pack of level L3: the age recipient that who writes it encrypts to
	Organisation string
	Generator    verify.Generator
	Plain        bool           // without README.pdf, which nothing rests on
	Temp         string         // folder for spooling; "" is the system's
	Keep         Keeping        // where an interrupted pack is kept; the zero value keeps nothing
	Progress     func(Progress) // may be nil
}

// Progress is how far a pack is.
type Progress struct {
	Stage       string
	Done, Total uint64 // of the whole, in parts that take about as long
	Records     uint64 // folded
}

// What a block costs in each stage, in parts.
const (
	selecting = 1
	packing   = 6
	writing   = 3
)

// Result is what was packed.
type Result struct {
	Manifest *verify.Manifest
	Tests    []*workpaper.Test
	Digest   string // of the manifest: SHA-256, hex
	Stamps   int    // stamped checkpoints in it
	Resumed  uint64 // records of which it went on from a mark
	Again    string // why it began again, though something was kept
}

// maker is a pack in the making.
type maker struct {
	src         Source
	params      Params
	headers     headers
	first, last uint64 // blocks of the range
	zip         *zip.Writer
	spools      *spools
	fold        *workpaper.Fold
	records     uint64 // folded
	files       []verify.File
	seen        map[string]bool // texts and boots that were written already
	stamped     int             // checkpoints
	before      []uint64        // blocks of the context
	copied      hash.Hash       // of the blocks
	marked      time.Time
	resumed     *mark // that it went on from
	keys        []ledger.KeyChange
}

// Create writes a pack of a period to w. It says so in the log first, so that
// a pack up to now holds the record of its own making.
func Create(ctx context.Context, src Source, p Params, w io.Writer) (*Result, error) {
	p.Level = cmp.Or(p.Level, verify.Bodies)
	if p.Level == verify.Full && (p.Purpose == "" || p.Recipient == "") {
		return nil, errors.New("a pack with everything in it needs a purpose and a recipient")
	}
	if src.Gateway != nil {
		err := src.Gateway.Export(ctx, evidence.ReadBody{
			Purpose: p.Purpose, Object: "pack", Level: p.Level, From: formatTime(p.From), To: formatTime(p.To), By: p.By, Recipient: p.Recipient,
		})
		if err != nil {
			return nil, fmt.Errorf("recording the export: %w", err)
		}
	}
	checkpoint, err := src.checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	cp, err := parseCheckpoint(checkpoint)
	if err != nil {
		return nil, err
	}
	if p.Level == verify.Full {
		p.Keep = Keeping{} // what is sealed is nowhere in the clear
	}
	if p.Keep.Dir != "" {
		return createKept(ctx, src, p, w, cp, checkpoint)
	}
	dir, err := os.MkdirTemp(p.Temp, "exhibit-pack-")
	if err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	defer os.RemoveAll(dir)
	m := newMaker(src, p, w, dir, cp)
	res, err := m.make(ctx, cp, checkpoint, nil, nil)
	return res, errors.Join(err, m.spools.close())
}

func newMaker(src Source, p Params, w io.Writer, dir string, cp ledger.Checkpoint) *maker {
	return &maker{
		src: src, params: p, zip: zip.NewWriter(w), spools: newSpools(dir, verify.Populations(p.Level)), seen: make(map[string]bool), copied: sha256.New(),
		marked: time.Now(), headers: headers{log: src.Log, size: cp.Size, bundles: make(map[uint64][]ledger.Header)},
	}
}

// createKept makes a pack that goes on from where it was interrupted, and is
// kept when it is interrupted again.
func createKept(ctx context.Context, src Source, p Params, w io.Writer, cp ledger.Checkpoint, checkpoint []byte) (*Result, error) {
	k, state, again, err := prepare(&p)
	if err != nil {
		return nil, err
	}
	if k != nil {
		p.From, p.To = time.UnixMicro(k.From), time.UnixMicro(k.To)
	}
	m := newMaker(src, p, w, p.Keep.Dir, cp)
	m.spools.kept = true
	res, err := m.make(ctx, cp, checkpoint, k, state)
	if err = errors.Join(err, m.spools.close()); k != nil && m.resumed == nil && errors.Is(err, errMark) { // nothing was written yet
		again = err.Error()
		if err := empty(p.Keep.Dir); err != nil {
			return nil, err
		}
		m = newMaker(src, p, w, p.Keep.Dir, cp)
		m.spools.kept = true
		res, err = m.make(ctx, cp, checkpoint, nil, nil)
		err = errors.Join(err, m.spools.close())
	}
	if _, none := os.Lstat(filepath.Join(p.Keep.Dir, markFile)); err == nil || errors.Is(none, fs.ErrNotExist) {
		err = errors.Join(err, os.RemoveAll(p.Keep.Dir))
	}
	if err != nil {
		return nil, err
	}
	res.Again = again
	return res, nil
}

func (s *Source) checkpoint(ctx context.Context) ([]byte, error) {
	if s.Gateway != nil {
		return s.Gateway.Checkpoint(ctx)
	}
	return fs.ReadFile(s.Log, ledger.CheckpointPath)
}

// formatTime writes a bound of the period. No record is older than the epoch,
// so that an open beginning is the epoch.
func formatTime(t time.Time) string {
	return time.UnixMicro(max(0, t.UnixMicro())).UTC().Format("2006-01-02T15:04:05.000000Z")
}

// parseCheckpoint reads the gateway's own checkpoint, which it has signed.
func parseCheckpoint(msg []byte) (ledger.Checkpoint, error) {
	for i := 0; i+1 < len(msg); i++ {
		if msg[i] == '\n' && msg[i+1] == '\n' {
			return ledger.ParseCheckpoint(string(msg[:i+1]))
		}
	}
	return ledger.Checkpoint{}, errors.New("the log's checkpoint is not a signed note")
}

// make tells the whole story, in the order of the files.
func (m *maker) make(ctx context.Context, cp ledger.Checkpoint, checkpoint []byte, k *mark, state []byte) (*Result, error) {
	var err error
	if m.first, m.last, err = m.headers.period(m.params.From.UnixMicro(), m.params.To.UnixMicro()); err != nil {
		return nil, err
	}
	if m.params.Level == verify.Heads {
		m.fold = workpaper.NewHeadFold(m.spools)
	} else {
		m.fold = workpaper.NewFold(m.spools)
		m.fold.Told = m.spools.transcript
	}
	if k != nil {
		if err := m.resume(ctx, k, state); err != nil {
			return nil, err
		}
	}
	if err := m.blocks(ctx); err != nil {
		return nil, err
	}
	summary, err := m.fold.Close()
	if err != nil {
		return nil, err
	}
	if err := m.laterKeys(ctx, cp.Size); err != nil {
		return nil, err
	}
	if err := m.log(cp, checkpoint); err != nil {
		return nil, err
	}
	if err := m.stamps(cp.Size); err != nil {
		return nil, err
	}
	first, err := m.headers.get(m.first)
	if err != nil {
		return nil, err
	}
	last, err := m.headers.get(m.last)
	if err != nil {
		return nil, err
	}
	manifest := &verify.Manifest{
		Version: 1, Organisation: m.params.Organisation, Origin: cp.Origin, Gateway: first.Gateway, Generator: m.params.Generator,
		Params: verify.Params{From: formatTime(m.params.From), To: formatTime(m.params.To), Level: m.params.Level, By: m.params.By},
		Range:  verify.Range{FirstBlock: m.first, LastBlock: m.last, First: first.FirstPosition(), Last: last.LastPosition(), Records: summary.Records},
		Tree:   verify.Size{Size: cp.Size, Root: cp.Root[:]},
	}
	if err := m.tables(summary); err != nil {
		return nil, err
	}
	if err := m.summary(manifest, summary); err != nil {
		return nil, err
	}
	slices.SortFunc(m.files, func(a, b verify.File) int { return cmp.Compare(a.Path, b.Path) })
	manifest.Files = m.files
	digest, err := m.sign(manifest)
	if err != nil {
		return nil, err
	}
	if err := m.zip.Close(); err != nil {
		return nil, fmt.Errorf("writing the pack: %w", err)
	}
	m.written(1, 1)
	res := &Result{Manifest: manifest, Tests: summary.Tests, Digest: digest, Stamps: m.stamped}
	if m.resumed != nil {
		res.Resumed = m.resumed.Records
	}
	return res, nil
}

// sign writes the manifest and its signature, and returns its digest.
func (m *maker) sign(manifest *verify.Manifest) (digest string, err error) {
	encoded, err := manifest.Encode()
	if err != nil {
		return "", fmt.Errorf("encoding the manifest: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: verify.SignedText(manifest.Origin, encoded)}, m.src.Signer)
	if err != nil {
		return "", fmt.Errorf("signing the manifest: %w", err)
	}
	if err := m.add(verify.ManifestFile, zip.Deflate, encoded); err != nil {
		return "", err
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:]), m.add(verify.SignatureFile, zip.Deflate, signed)
}

// blocks writes the blocks and folds their records.
func (m *maker) blocks(ctx context.Context) error {
	if m.resumed == nil {
		before, err := m.context(ctx)
		if err != nil {
			return err
		}
		m.before = before
	}
	if len(m.before) > 0 {
		err := m.stream(verify.ContextFile, zip.Store, func(w io.Writer) error {
			for _, n := range m.before {
				if m.resumed != nil {
					if err := m.recopy(ctx, w, n); err != nil {
						return err
					}
					continue
				}
				if err := m.copyBlock(ctx, w, n, m.fold.Opening); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := m.edges(); err != nil {
		return err
	}
	var err error
	for n := m.first; n <= m.last; {
		if n, err = m.blocksFile(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// edges writes the headers of the blocks right before and after the range.
func (m *maker) edges() error {
	var lines []byte
	for _, n := range []uint64{m.first - 1, m.last + 1} { // 0 - 1 is beyond every log
		if n >= m.headers.size {
			continue
		}
		h, err := m.headers.get(n)
		if err != nil {
			return err
		}
		lines = append(append(lines, h.Encode()...), '\n')
	}
	if len(lines) == 0 {
		return nil
	}
	return m.add(verify.EdgesFile, zip.Store, lines)
}

// blocksFile writes one file of blocks of the range, from n, and returns the
// block that the next one begins with. Where the file ends, and so its name,
// depends on the sizes of blocks, which their headers say.
func (m *maker) blocksFile(ctx context.Context, n uint64) (uint64, error) {
	end, size := n, uint64(0)
	for ; end <= m.last && end-n < verify.MaxFileBlocks && size < verify.MaxFileBytes; end++ {
		h, err := m.headers.get(end)
		if err != nil {
			return 0, err
		}
		size += verify.CutSize(&h, m.params.Level)
	}
	return end, m.stream(verify.BlocksPath(n, end-1), zip.Store, func(w io.Writer) error {
		for i := n; i < end; i++ {
			if m.resumed != nil && i < m.resumed.Next {
				if err := m.recopy(ctx, w, i); err != nil {
					return err
				}
				m.progress("going on from the last mark", selecting*m.blocksOf()+packing*(i-m.first+1))
				continue
			}
			if err := m.copyBlock(ctx, w, i, m.fold.Record); err != nil {
				return err
			}
			if err := m.set(i + 1); err != nil {
				return err
			}
			m.progress("packing records", selecting*m.blocksOf()+packing*(i-m.first+1))
		}
		return nil
	})
}

func (m *maker) blocksOf() uint64 { return m.last - m.first + 1 }

func (m *maker) progress(stage string, done uint64) {
	if m.params.Progress != nil {
		m.params.Progress(Progress{stage, done, (selecting + packing + writing) * m.blocksOf(), m.records})
	}
}

// written tells of progress with what was spooled.
func (m *maker) written(done, total int64) {
	n := writing * m.blocksOf()
	m.progress("writing tables", (selecting+packing)*m.blocksOf()+uint64(float64(n)*float64(done)/float64(max(total, 1))))
}

// copyBlock writes of a block what the level discloses and folds its records.
func (m *maker) copyBlock(ctx context.Context, w io.Writer, n uint64, fold func(*evidence.Record) error) error {
	sections := verify.Sections(m.params.Level)
	open := m.params.Level == verify.Full && n >= m.first
	if open {
		sections = ledger.NumSections
	}
	b, file, err := m.block(ctx, n, sections)
	if err != nil {
		return err
	}
	if open {
		if err := m.sealed(b); err != nil {
			return err
		}
		if file, err = ledger.Cut(file, verify.Sections(m.params.Level)); err != nil {
			return err
		}
	}
	if m.keeps() {
		m.copied.Write(file)
	}
	if _, err := w.Write(file); err != nil {
		return fmt.Errorf("writing block %d: %w", n, err)
	}
	if n >= m.first {
		m.fold.Stored(verify.StoredBlock(&b.Header))
	}
	for i := range b.Records {
		r := &b.Records[i]
		if err := m.seed(&r.Head); err != nil {
			return err
		}
		if err := m.texts(r); err != nil {
			return err
		}
		if err := m.keyChange(n, r); err != nil {
			return err
		}
		if err := fold(r); err != nil {
			return fmt.Errorf("folding %s: %w", r.Head.Pos, err)
		}
		m.records++
	}
	return nil
}

// seed writes the body seed of a scope when its first record in the pack comes
// by: the session.start of a session, any record of a boot outside sessions.
func (m *maker) seed(h *evidence.Head) error {
	slot := uint64(0)
	switch {
	case m.params.Level == verify.Heads:
		return nil
	case h.Session.IsZero():
		if m.seen[verify.BootScope(h.Pos)] {
			return nil
		}
		m.seen[verify.BootScope(h.Pos)] = true
	case h.Type == evidence.SessionStart && h.Session == h.Pos:
		slot = h.Key
	default:
		return nil
	}
	line := verify.Seed{Scope: verify.ScopeOf(h)}
	seed, err := m.src.Seeds.BodySeed(h.Pos.Boot, slot)
	switch {
	case errors.Is(err, keys.ErrShredded):
		line.Erased = true
	case err != nil:
		return fmt.Errorf("body seed of %s: %w", line.Scope, err)
	default:
		line.Seed = seed
	}
	return m.spools.append(verify.SeedsFile, line.Encode(), 1)
}

// texts writes the policies and configurations that a record brought.
func (m *maker) texts(r *evidence.Record) error {
	for _, f := range workpaper.Texts(r) {
		if m.seen[f.Name] {
			continue
		}
		m.seen[f.Name] = true
		if err := m.spools.add(f.Name, func(w io.Writer) error { _, err := io.WriteString(w, f.Text); return err }); err != nil {
			return err
		}
	}
	return nil
}

// keyChange keeps the changes of the log's keys.
func (m *maker) keyChange(block uint64, r *evidence.Record) error {
	if r.Head.Type != evidence.LogKey || r.Body == nil {
		return nil
	}
	c := ledger.KeyChange{Pos: r.Head.Pos, Block: block, Time: r.Head.Time}
	if err := evidence.DecodeBody(r.Body, &c.Body); err != nil {
		return fmt.Errorf("record %s: %w", r.Head.Pos, err)
	}
	m.keys = append(m.keys, c)
	return nil
}

// laterKeys looks for changes of keys after the range: the checkpoint is signed
// by the key in force at its own size.
func (m *maker) laterKeys(ctx context.Context, size uint64) error {
	newest, err := m.headers.get(size - 1)
	if err != nil {
		return err
	}
	control, err := ledger.ControlBlocks(&newest, m.headers.get)
	if err != nil {
		return err
	}
	for _, n := range control {
		if n <= m.last && m.params.Level != verify.Heads { // those were kept on their way
			continue
		}
		b, _, err := m.block(ctx, n, ledger.Bodies+1)
		if err != nil {
			return err
		}
		for i := range b.Records {
			if err := m.keyChange(n, &b.Records[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// log writes the checkpoint, the changes of keys that lead to it, and the hash
// tiles of its tree.
func (m *maker) log(cp ledger.Checkpoint, checkpoint []byte) error {
	if err := m.add(verify.LogFolder+"/"+ledger.CheckpointPath, zip.Store, checkpoint); err != nil {
		return err
	}
	if len(m.keys) > 0 {
		if err := m.add(verify.KeysFile, zip.Deflate, verify.EncodeKeys(m.keys)); err != nil {
			return err
		}
	}
	for lvl, n := 0, cp.Size; n > 0; lvl, n = lvl+1, n/256 {
		for i := uint64(0); i*256 < n; i++ {
			width := int(min(256, n-i*256))
			tile, err := fs.ReadFile(m.src.Log, ledger.TilePath(lvl, i, width))
			if errors.Is(err, fs.ErrNotExist) { // a full one has replaced it
				tile, err = fs.ReadFile(m.src.Log, ledger.TilePath(lvl, i, 256))
			}
			if err != nil {
				return fmt.Errorf("reading a tile of the log: %w", err)
			}
			if len(tile) < width*32 {
				return fmt.Errorf("tile %s has %d bytes", ledger.TilePath(lvl, i, width), len(tile))
			}
			if err := m.add(verify.LogFolder+"/"+ledger.TilePath(lvl, i, width), zip.Store, tile[:width*32]); err != nil {
				return err
			}
		}
	}
	return nil
}

// stamps writes the stamped checkpoints that say something of the range: those
// that end in it, and of each authority the first that covers all of it.
func (m *maker) stamps(size uint64) error {
	if m.src.Stamps == nil {
		return nil
	}
	from, err := m.src.Stamps()
	if err != nil {
		return fmt.Errorf("reading the stamped checkpoints: %w", err)
	}
	defer from.Close()
	whole := make(map[string]bool) // by authority
	err = ledger.ReadStamps(from, func(line []byte, s *ledger.Stamped) error {
		cp, stamp, err := s.Open()
		if err != nil {
			return err
		}
		if cp.Size <= m.first || cp.Size > size || cp.Size > m.last && whole[stamp.Signer()] {
			return nil
		}
		whole[stamp.Signer()] = cp.Size > m.last
		m.stamped++
		return m.spools.append(verify.StampsFile, line, 1)
	})
	// A line that is being written, or was when the gateway crashed, is not there.
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading the stamped checkpoints: %w; move the file away to pack without", err)
	}
	return nil
}

// tables writes everything that was spooled, and what the fold said at its end.
func (m *maker) tables(s *workpaper.Summary) error {
	if m.params.Level == verify.Full {
		if err := m.spools.append(verify.SealedFile, nil, 0); err != nil { // also where there is none
			return err
		}
	}
	for i := range s.Listings {
		if err := m.spools.table(verify.ListingPath(s.Listings[i].Name), &s.Listings[i], true); err != nil {
			return err
		}
	}
	for i := range s.Controls {
		if err := m.spools.table(verify.ControlPath(s.Controls[i].Name), &s.Controls[i], false); err != nil {
			return err
		}
	}
	var done, total int64
	spooled := m.spools.sorted()
	for _, f := range spooled {
		total += f.weight()
	}
	for _, f := range spooled {
		file, err := f.writeTo(m.zip)
		if err != nil {
			return fmt.Errorf("writing %s: %w", f.path, err)
		}
		m.files = append(m.files, file)
		done += f.weight()
		m.written(min(done, total), total)
	}
	for _, p := range m.spools.piece {
		err := m.stream(p.path, zip.Deflate, func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(m.spools.pieces, p.from, p.to-p.from))
			return err
		})
		if err != nil {
			return err
		}
	}
	return m.stream(verify.TestsFile, zip.Deflate, func(w io.Writer) error { return workpaper.WriteTests(w, s.Tests) })
}

// summary writes what an auditor opens first: the page that says what the pack
// is, on screen and on paper, and the workbook.
func (m *maker) summary(manifest *verify.Manifest, s *workpaper.Summary) error {
	readme := verify.Readme(manifest, s)
	if err := m.stream(verify.ReadmeFile, zip.Deflate, readme.WriteHTML); err != nil {
		return err
	}
	if !m.params.Plain {
		paper := func(w io.Writer) error { return writePDF(w, readme, time.UnixMicro(s.EndedAt).UTC()) }
		if err := m.stream(verify.PrintFile, zip.Store, paper); err != nil {
			return err
		}
	}
	digests := make(map[string]string, len(m.files))
	for _, f := range m.files {
		digests[f.Path] = f.SHA256
	}
	if err := m.spools.book.Close(manifest, s, func(path string) string { return digests[path] }); err != nil {
		return fmt.Errorf("writing %s: %w", verify.SummaryFile, err)
	}
	return m.stream(verify.SummaryFile, zip.Store, m.spools.writeBook)
}

func (m *maker) add(path string, method uint16, data []byte) error {
	return m.stream(path, method, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// stream writes one file of the pack and its line of the manifest.
func (m *maker) stream(path string, method uint16, write func(io.Writer) error) error {
	w, err := m.zip.CreateHeader(&zip.FileHeader{Name: path, Method: method})
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	d := newDigester(w)
	if err := write(d); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	m.files = append(m.files, verify.File{Path: path, Bytes: d.n, SHA256: hex.EncodeToString(d.h.Sum(nil))})
	return nil
}
