package pack

import (
	"archive/zip"
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/klauspost/compress/flate"

	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// spools are the files of a pack that grow side by side, while a zip takes one
// after the other. They wait in a folder, compressed as they will be packed.
type spools struct {
	dir    string
	pops   []workpaper.Table
	opened int
	files  map[string]*spool // by path in the pack
	tables map[string]*tableSpool
	parts  []*spool // of summary.xlsx
	book   *verify.Workbook
	pieces *os.File // whole files, one after the other: too many for a spool of each
	end    int64    // of the pieces
	sum    uint32   // CRC-32 of them
	kept   bool     // files have names, so that an interrupted pack can go on
	piece  []piece
}

// piece is a file of the pack among others.
type piece struct {
	path     string
	from, to int64
}

// tableSpool is every form of a table.
type tableSpool struct {
	csv, jsonl *spool
	forms      []workpaper.Encoder
}

func newSpools(dir string, populations []workpaper.Table) *spools {
	s := &spools{dir: dir, pops: populations, files: make(map[string]*spool), tables: make(map[string]*tableSpool)}
	s.book = verify.NewWorkbook(func(part string) (io.Writer, error) {
		f := &spool{of: s, path: part}
		s.parts = append(s.parts, f)
		return f, nil
	})
	return s
}

// create makes a file in the folder. Unless it is kept it has no name from here
// on, where a system allows that: whatever becomes of the process, what it
// spooled is gone with it.
func (s *spools) create() (*os.File, error) {
	s.opened++
	f, err := os.OpenFile(filepath.Join(s.dir, strconv.Itoa(s.opened)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	if !s.kept {
		_ = os.Remove(f.Name()) // where it isn't allowed, the folder is removed at the end
	}
	return f, nil
}

func (s *spools) open(path string) *spool {
	f := s.files[path]
	if f == nil {
		f = &spool{of: s, path: path}
		s.files[path] = f
	}
	return f
}

// append appends bytes, which are so many rows, to the file of a path.
func (s *spools) append(path string, b []byte, rows int64) error {
	f := s.open(path)
	f.rows += rows
	_, err := f.Write(b)
	return err
}

// add takes a file of a path that is whole.
func (s *spools) add(path string, write func(io.Writer) error) error {
	if s.pieces == nil {
		f, err := s.create()
		if err != nil {
			return err
		}
		s.pieces = f
	}
	d := &offsetWriter{w: s.pieces, n: s.end, sum: s.sum}
	w := bufio.NewWriter(d)
	if err := errors.Join(write(w), w.Flush()); err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	s.piece = append(s.piece, piece{path, s.end, d.n})
	s.end, s.sum = d.n, d.sum
	return nil
}

type offsetWriter struct {
	w   io.WriterAt
	n   int64
	sum uint32
}

func (o *offsetWriter) Write(b []byte) (int, error) {
	n, err := o.w.WriteAt(b, o.n)
	o.n, o.sum = o.n+int64(n), crc32.Update(o.sum, crc32.IEEETable, b[:n])
	return n, err
}

// transcript spools the transcript of a session.
func (s *spools) transcript(t *workpaper.Transcript) error {
	return t.Each(func(name string, write func(io.Writer) error) error {
		return s.add(verify.TranscriptPath(name), write)
	})
}

// Row implements workpaper.Out.
func (s *spools) Row(table string, cells []string) error {
	if len(s.tables) == 0 {
		if err := s.beginTables(); err != nil {
			return err
		}
	}
	t, ok := s.tables[verify.TablePath(table)]
	if !ok {
		return fmt.Errorf("a row of table %q, which there is not", table)
	}
	return t.row(cells)
}

// beginTables begins the populations.
func (s *spools) beginTables() error {
	for _, t := range s.pops {
		if err := s.begin(verify.TablePath(t.Name), &t, true); err != nil {
			return err
		}
	}
	return nil
}

func (s *spools) begin(path string, t *workpaper.Table, tab bool) error {
	csv, jsonl := s.open(path+".csv"), s.open(path+".jsonl")
	toCSV, err := workpaper.NewCSV(csv, t.Columns)
	if err != nil {
		return err
	}
	toRow, err := workpaper.NewJSONL(jsonl, t.Columns)
	if err != nil {
		return err
	}
	forms := []workpaper.Encoder{toCSV, toRow}
	if tab {
		sheet, err := s.book.Table(path, t)
		if err != nil {
			return err
		}
		forms = append(forms, sheet)
	}
	s.tables[path] = &tableSpool{csv, jsonl, forms}
	return nil
}

func (t *tableSpool) row(cells []string) error {
	t.csv.rows++
	t.jsonl.rows++
	for _, form := range t.forms {
		if err := form.Row(cells); err != nil {
			return err
		}
	}
	return nil
}

// table writes a whole table; with a tab of its own, unless the workbook begins
// with it.
func (s *spools) table(path string, t *workpaper.Table, tab bool) error {
	if err := s.begin(path, t, tab); err != nil {
		return err
	}
	for _, r := range t.Rows {
		if err := s.tables[path].row(r); err != nil {
			return err
		}
	}
	return nil
}

// sorted returns the spooled files in order of their paths.
func (s *spools) sorted() []*spool {
	return slices.SortedFunc(maps.Values(s.files), func(a, b *spool) int { return cmp.Compare(a.path, b.path) })
}

// writeBook writes summary.xlsx, of which everything was spooled. What programs
// look for first was spooled last.
func (s *spools) writeBook(w io.Writer) error {
	z := zip.NewWriter(w)
	for _, f := range slices.Backward(s.parts) {
		if _, err := f.writeTo(z); err != nil {
			return err
		}
	}
	return z.Close()
}

func (s *spools) close() error {
	var errs []error
	for _, f := range slices.Concat(slices.Collect(maps.Values(s.files)), s.parts) {
		if f.packed != nil {
			errs = append(errs, f.packed.file.Close())
		}
	}
	if s.pieces != nil {
		errs = append(errs, s.pieces.Close())
	}
	return errors.Join(errs...)
}

// spool is a file that grows. It waits in memory while it is small, and then on
// disk, deflated.
type spool struct {
	of     *spools
	path   string
	rows   int64
	buf    []byte
	packed *packed
}

const spoolBuffer = 64 << 10

// packed is the part of a spool that was deflated.
type packed struct {
	file *os.File
	out  *bufio.Writer
	z    *flate.Writer
	size int64 // deflated
	n    int64 // before
	crc  hash.Hash32
	sum  hash.Hash
	disk hash.Hash32 // of what was deflated
}

// newPacked goes on at the end of a file.
func newPacked(file *os.File) (*packed, error) {
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	p := &packed{file: file, crc: crc32.NewIEEE(), sum: sha256.New(), disk: crc32.NewIEEE()}
	p.out = bufio.NewWriterSize(p, 32<<10)
	z, err := flate.NewWriter(p.out, deflateLevel)
	if err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	p.z = z
	return p, nil
}

// Write writes what was deflated.
func (p *packed) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.size += int64(n)
	p.disk.Write(b[:n])
	return n, err
}

// deflateLevel costs half of what archive/zip's own does, for files as large.
const deflateLevel = 5

// Write implements io.Writer.
func (f *spool) Write(b []byte) (int, error) {
	if len(f.buf)+len(b) > spoolBuffer {
		if err := f.deflate(); err != nil {
			return 0, err
		}
	}
	f.buf = append(f.buf, b...)
	return len(b), nil
}

// deflate moves what is in memory to disk.
func (f *spool) deflate() error {
	if f.packed == nil {
		file, err := f.of.create()
		if err != nil {
			return err
		}
		if f.packed, err = newPacked(file); err != nil {
			return err
		}
	}
	p := f.packed
	p.n += int64(len(f.buf))
	p.crc.Write(f.buf)
	p.sum.Write(f.buf)
	_, err := p.z.Write(f.buf)
	f.buf = f.buf[:0]
	if err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	return nil
}

// weight is about how many bytes are to be written yet.
func (f *spool) weight() int64 {
	if f.packed == nil {
		return int64(len(f.buf))
	}
	return f.packed.size
}

// writeTo writes the file as the next of a zip file. It ends the spool.
func (f *spool) writeTo(z *zip.Writer) (verify.File, error) {
	h := &zip.FileHeader{Name: f.path, Method: zip.Deflate}
	if f.packed == nil {
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write(f.buf)
		}
		sum := sha256.Sum256(f.buf)
		return verify.File{Path: f.path, Bytes: int64(len(f.buf)), SHA256: hex.EncodeToString(sum[:]), Rows: f.rows}, err
	}
	if err := f.deflate(); err != nil {
		return verify.File{}, err
	}
	p := f.packed
	if err := errors.Join(p.z.Close(), p.out.Flush()); err != nil {
		return verify.File{}, fmt.Errorf("spooling: %w", err)
	}
	// What archive/zip would write, had it deflated the file itself.
	h.CreatorVersion, h.ReaderVersion, h.Flags = 20, 20, 8
	h.CRC32, h.CompressedSize64, h.UncompressedSize64 = p.crc.Sum32(), uint64(p.size), uint64(p.n)
	w, err := z.CreateRaw(h)
	if err == nil {
		_, err = io.Copy(w, io.NewSectionReader(p.file, 0, p.size))
	}
	return verify.File{Path: f.path, Bytes: p.n, SHA256: hex.EncodeToString(p.sum.Sum(nil)), Rows: f.rows}, err
}

// digester passes bytes on, and counts and digests them.
type digester struct {
	w io.Writer
	h hash.Hash
	n int64
}

func newDigester(w io.Writer) *digester { return &digester{w: w, h: sha256.New()} }

func (d *digester) Write(b []byte) (int, error) {
	d.n += int64(len(b))
	d.h.Write(b)
	return d.w.Write(b)
}
