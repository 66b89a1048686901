package verify

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Workbook writes the parts of summary.xlsx, for who makes a pack and for who
// checks one: a tab per population and listing, and before them what the pack is
// of, an index, the tests, the control matrix and the exceptions.
type Workbook struct {
	book *workpaper.Book
	tabs []tab
}

type tab struct {
	path  string // of the table's files, without extension
	table string
	sheet *workpaper.Sheet
}

// NewWorkbook returns a workbook whose parts go where create says.
func NewWorkbook(create func(part string) (io.Writer, error)) *Workbook {
	return &Workbook{book: workpaper.NewBook(create)}
}

// Table begins the tab of a table.
func (w *Workbook) Table(path string, t *workpaper.Table) (*workpaper.Sheet, error) {
	s, err := w.book.Sheet(t)
	w.tabs = append(w.tabs, tab{path, t.Name, s})
	return s, err
}

// Rows is how many rows came of each tab.
func (w *Workbook) Rows() (rows []int) {
	for _, t := range w.tabs {
		_, total := t.sheet.Shown()
		rows = append(rows, total)
	}
	return rows
}

// Resume makes tabs that were begun go on behind so many rows of each, which are
// in their parts already; false is of other tabs.
func (w *Workbook) Resume(rows []int) bool {
	for i, t := range w.tabs[:min(len(w.tabs), len(rows))] {
		t.sheet.Resume(rows[i])
	}
	return len(rows) == len(w.tabs)
}

// Close writes what is left; digest gives the SHA-256 of a file, in hex.
func (w *Workbook) Close(m *Manifest, s *workpaper.Summary, digest func(path string) string) error {
	index := workpaper.Table{Name: "index", Columns: []workpaper.Column{
		{Name: "tab", Kind: workpaper.Name}, {Name: "rows", Kind: workpaper.Number}, {Name: "rows_in_tab", Kind: workpaper.Number},
		{Name: "file", Kind: workpaper.Name}, {Name: "sha256"}}}
	all := make(map[string]string)
	for _, t := range w.tabs {
		file := t.path + ".csv"
		shown, total := t.sheet.Shown()
		index.Rows = append(index.Rows, []string{t.table, strconv.Itoa(total), strconv.Itoa(shown), file, digest(file)})
		all[t.table] = file + ", SHA-256 " + digest(file)
	}
	for i := range s.Controls {
		t := &s.Controls[i]
		file, total := ControlPath(t.Name)+".csv", len(t.Rows)
		index.Rows = append(index.Rows, []string{t.Name, strconv.Itoa(total), strconv.Itoa(min(total, workpaper.MaxSheetRows)), file, digest(file)})
		all[t.Name] = file + ", SHA-256 " + digest(file)
	}
	readme := Readme(m, s)
	lead := slices.Concat([]workpaper.Table{readme.Flat("about"), index, workpaper.TestTable(s.Tests)}, s.Controls)
	return w.book.Close(readme.Title+": "+readme.Subtitle, lead, func(table string) string { return all[table] })
}

// book is the pack's summary.xlsx, held against the parts that are written.
// Nothing in it is parsed but the directory of the zip file that it is: a part
// that isn't the one expected, to the byte, is a finding, and so is one that
// isn't expected. Whatever a spreadsheet could be told to run, hide or fetch
// would have to be in one of them.
type book struct {
	files     *files
	check     *Check
	parts     map[string]*zip.File
	comparers []*comparer
	close     func() error
}

// openBook opens summary.xlsx. What keeps it from being read is a finding.
func openBook(f *files, c *Check) *book {
	b := &book{files: f, check: c, parts: make(map[string]*zip.File), close: func() error { return nil }}
	c.Population++
	file, err := f.open(SummaryFile)
	if err != nil {
		c.except("%.200s", err)
		return b
	}
	f.finish(file)
	r, closer, err := f.random(SummaryFile)
	if err != nil {
		c.except("%.200s", err)
		return b
	}
	b.close = closer.Close
	z, err := openZip(r, file.Bytes, maxBookDirectory)
	if err == nil {
		err = plainZip(r, file.Bytes, z)
	}
	if err != nil {
		c.except("%s: %.200s", SummaryFile, err)
		return b
	}
	for _, part := range z.File {
		if b.parts[part.Name] != nil {
			c.except("%s has two parts %.120q", SummaryFile, part.Name)
		}
		b.parts[part.Name] = part
	}
	return b
}

// create returns the comparer of a part.
func (b *book) create(name string) (io.Writer, error) {
	where := SummaryFile + "/" + name
	part := b.parts[name]
	if part == nil {
		b.check.except("%s is missing", where)
		return io.Discard, nil
	}
	delete(b.parts, name)
	r, err := part.Open()
	if err != nil {
		b.check.except("%s: %.200s", where, err)
		return io.Discard, nil
	}
	c := newComparer(where, r, b.check, func() { _ = r.Close() })
	b.comparers = append(b.comparers, c)
	return c, nil
}

// finish reports what is left of the workbook.
func (b *book) finish() {
	for _, c := range b.comparers {
		c.close()
	}
	for _, name := range sortedKeys(b.parts) {
		b.check.except("%s has a part %.120q, which is no table's", SummaryFile, name)
	}
}

// random opens a file for reading anywhere in it. In a zip file it must be
// stored, not compressed.
func (f *files) random(path string) (io.ReaderAt, io.Closer, error) {
	if z, ok := f.fs.(*zip.Reader); ok {
		for _, entry := range z.File {
			if entry.Name != path {
				continue
			}
			if entry.Method != zip.Store {
				return nil, nil, fmt.Errorf("%s is compressed within the pack, and must be stored as it is", path)
			}
			raw, err := entry.OpenRaw()
			if err != nil {
				return nil, nil, err
			}
			if r, ok := raw.(io.ReaderAt); ok {
				return r, io.NopCloser(nil), nil
			}
		}
		return nil, nil, fmt.Errorf("%s can't be read", path)
	}
	file, err := f.fs.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if r, ok := file.(io.ReaderAt); ok {
		return r, file, nil
	}
	return nil, nil, errors.Join(fmt.Errorf("%s can't be read at random", path), file.Close())
}

// plainZip wants a zip file to be one entry after the other, the directory and
// nothing else, so that every program that opens it sees the same: some go by
// the directory, others by what stands before each entry.
func plainZip(r io.ReaderAt, size int64, z *zip.Reader) error {
	at, directory := int64(0), int64(0)
	for _, f := range z.File {
		if f.Method != zip.Deflate || f.Flags != 8 || len(f.Extra)+len(f.Comment) > 0 || f.CompressedSize64 > 1<<32-2 || f.UncompressedSize64 > 1<<32-2 {
			return fmt.Errorf("%w: its entry %.120q is not a plain one", errZip, f.Name)
		}
		want := binary.LittleEndian.AppendUint32(nil, 0x04034b50)
		for _, v := range []uint16{20, f.Flags, f.Method, 0, 0, 0, 0, 0, 0, 0, 0, uint16(len(f.Name)), 0} {
			want = binary.LittleEndian.AppendUint16(want, v)
		}
		want = append(want, f.Name...)
		have := make([]byte, len(want))
		if _, err := r.ReadAt(have, at); err != nil || !bytes.Equal(have, want) {
			return fmt.Errorf("%w: entry %.120q is not where it should be", errZip, f.Name)
		}
		at += int64(len(want)) + int64(f.CompressedSize64) + 16
		directory += 46 + int64(len(f.Name))
	}
	if at+directory+22 != size || z.Comment != "" {
		return fmt.Errorf("%w: it holds more than its entries", errZip)
	}
	return nil
}
