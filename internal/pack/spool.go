package pack

import (
	"archive/zip"
	"bufio"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// spools are the files of a pack that grow side by side, while a zip takes one
// after the other. They wait in a folder.
type spools struct {
	dir    string
	pops   []workpaper.Table
	files  map[string]*spool // by path in the pack
	tables map[string]*tableSpool
	parts  []*spool // of summary.xlsx
	book   *verify.Workbook

	transcripts *spool // one after the other
	sections    []section
}

// section is a file of the pack within a spool.
type section struct {
	path     string
	from, to int64
}

type spool struct {
	path string
	rows int64
	size int64 // of what came through Write
	file *os.File
	w    *bufio.Writer
}

// tableSpool is every form of a table.
type tableSpool struct {
	csv, jsonl *spool
	forms      []workpaper.Encoder
}

func newSpools(dir string, populations []workpaper.Table) *spools {
	s := &spools{dir: dir, pops: populations, files: make(map[string]*spool), tables: make(map[string]*tableSpool)}
	s.book = verify.NewWorkbook(s.part)
	return s
}

// part begins a part of summary.xlsx.
func (s *spools) part(name string) (io.Writer, error) {
	f, err := s.create(name, "part"+strconv.Itoa(len(s.parts)))
	if err != nil {
		return nil, err
	}
	s.parts = append(s.parts, f)
	return f.w, nil
}

func (s *spools) open(path string) (*spool, error) {
	if f, ok := s.files[path]; ok {
		return f, nil
	}
	f, err := s.create(path, strconv.Itoa(len(s.files)))
	if err == nil {
		s.files[path] = f
	}
	return f, err
}

func (s *spools) create(path, name string) (*spool, error) {
	file, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	return &spool{path: path, file: file, w: bufio.NewWriterSize(file, 64<<10)}, nil
}

// append appends bytes, which are so many rows, to the file of a path.
func (s *spools) append(path string, b []byte, rows int64) error {
	f, err := s.open(path)
	if err != nil {
		return err
	}
	f.rows += rows
	if _, err := f.w.Write(b); err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	return nil
}

// Row implements workpaper.Out.
func (s *spools) Row(table string, cells []string) error {
	if len(s.tables) == 0 {
		for _, t := range s.pops {
			if err := s.begin(verify.TablePath(t.Name), &t); err != nil {
				return err
			}
		}
	}
	t, ok := s.tables[verify.TablePath(table)]
	if !ok {
		return fmt.Errorf("a row of table %q, which there is not", table)
	}
	return t.row(cells)
}

func (s *spools) begin(path string, t *workpaper.Table) error {
	csv, err := s.open(path + ".csv")
	if err != nil {
		return err
	}
	jsonl, err := s.open(path + ".jsonl")
	if err != nil {
		return err
	}
	toCSV, err := workpaper.NewCSV(csv.w, t.Columns)
	if err != nil {
		return err
	}
	toRow, err := workpaper.NewJSONL(jsonl.w, t.Columns)
	if err != nil {
		return err
	}
	sheet, err := s.book.Table(path, t)
	if err != nil {
		return err
	}
	s.tables[path] = &tableSpool{csv, jsonl, []workpaper.Encoder{toCSV, toRow, sheet}}
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

// table writes a whole table.
func (s *spools) table(path string, t *workpaper.Table) error {
	if err := s.begin(path, t); err != nil {
		return err
	}
	for _, r := range t.Rows {
		if err := s.tables[path].row(r); err != nil {
			return err
		}
	}
	return nil
}

// transcript spools the transcript of a session. There are too many for a file
// of each.
func (s *spools) transcript(t *workpaper.Transcript) error {
	if s.transcripts == nil {
		f, err := s.create("", "transcripts")
		if err != nil {
			return err
		}
		s.transcripts = f
	}
	return t.Each(func(name string, write func(io.Writer) error) error {
		from := s.transcripts.size
		err := write(s.transcripts)
		s.sections = append(s.sections, section{verify.TranscriptPath(name), from, s.transcripts.size})
		return err
	})
}

// eachTranscript gives the files of transcripts.
func (s *spools) eachTranscript(fn func(path string, copyTo func(io.Writer) error) error) error {
	if s.transcripts == nil {
		return nil
	}
	if err := s.transcripts.w.Flush(); err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	for _, part := range s.sections {
		err := fn(part.path, func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(s.transcripts.file, part.from, part.to-part.from))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Write implements io.Writer.
func (f *spool) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	f.size += int64(n)
	return n, err
}

// finish returns the spooled files in order of their paths.
func (s *spools) finish() ([]*spool, error) {
	all := slices.SortedFunc(maps.Values(s.files), func(a, b *spool) int { return cmp.Compare(a.path, b.path) })
	for _, f := range all {
		if err := f.w.Flush(); err != nil {
			return nil, fmt.Errorf("spooling: %w", err)
		}
	}
	return all, nil
}

func (f *spool) copyTo(w io.Writer) error {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(w, f.file)
	return err
}

// writeBook writes summary.xlsx, of which everything was spooled. What programs
// look for first was spooled last.
func (s *spools) writeBook(w io.Writer) error {
	z := zip.NewWriter(w)
	for _, f := range slices.Backward(s.parts) {
		if err := f.w.Flush(); err != nil {
			return fmt.Errorf("spooling: %w", err)
		}
		part, err := z.CreateHeader(&zip.FileHeader{Name: f.path, Method: zip.Deflate})
		if err != nil {
			return err
		}
		if err := f.copyTo(part); err != nil {
			return err
		}
	}
	return z.Close()
}

func (s *spools) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.file.Close())
	}
	for _, f := range s.parts {
		errs = append(errs, f.file.Close())
	}
	if s.transcripts != nil {
		errs = append(errs, s.transcripts.file.Close())
	}
	return errors.Join(errs...)
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
