package pack

import (
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
}

type spool struct {
	path string
	rows int64
	file *os.File
	w    *bufio.Writer
}

// tableSpool is both forms of a population.
type tableSpool struct {
	csv, jsonl   *spool
	toCSV, toRow workpaper.Encoder
}

func newSpools(dir string, populations []workpaper.Table) *spools {
	return &spools{dir: dir, pops: populations, files: make(map[string]*spool), tables: make(map[string]*tableSpool)}
}

func (s *spools) open(path string) (*spool, error) {
	if f, ok := s.files[path]; ok {
		return f, nil
	}
	file, err := os.OpenFile(filepath.Join(s.dir, strconv.Itoa(len(s.files))), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spooling: %w", err)
	}
	f := &spool{path: path, file: file, w: bufio.NewWriterSize(file, 64<<10)}
	s.files[path] = f
	return f, nil
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
	s.tables[path] = &tableSpool{csv, jsonl, toCSV, toRow}
	return nil
}

func (t *tableSpool) row(cells []string) error {
	t.csv.rows++
	t.jsonl.rows++
	if err := t.toCSV.Row(cells); err != nil {
		return err
	}
	return t.toRow.Row(cells)
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

func (s *spools) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.file.Close())
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
