package verify

import (
	"fmt"
	"io"

	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// tables writes the populations again and compares every form of each with the
// pack's as they come.
type tables struct {
	files     *files
	check     *Check
	encoders  map[string][]workpaper.Encoder
	comparers []*comparer
	book      *book
	workbook  *Workbook
}

func (t *tables) begin(f *files, c *Check, populations []workpaper.Table) {
	t.files, t.check, t.encoders = f, c, make(map[string][]workpaper.Encoder)
	t.book = openBook(f, c)
	t.workbook = NewWorkbook(t.book.create)
	for _, p := range populations {
		t.table(TablePath(p.Name), &p, true)
	}
}

// table begins the comparison of a table in all of its forms; with a tab of its
// own, unless the workbook begins with it.
func (t *tables) table(path string, p *workpaper.Table, tab bool) {
	csv, jsonl := t.files.compare(path+".csv", t.check), t.files.compare(path+".jsonl", t.check)
	t.comparers = append(t.comparers, csv, jsonl)
	toCSV, err := workpaper.NewCSV(csv, p.Columns)
	t.failed(p, err)
	toJSONL, err := workpaper.NewJSONL(jsonl, p.Columns)
	t.failed(p, err)
	t.encoders[p.Name] = []workpaper.Encoder{toCSV, toJSONL}
	if tab {
		sheet, err := t.workbook.Table(path, p)
		t.failed(p, err)
		t.encoders[p.Name] = append(t.encoders[p.Name], sheet)
	}
}

func (t *tables) failed(p *workpaper.Table, err error) {
	if err != nil {
		t.check.except("%s: %.200s", p.Name, err)
	}
}

// Row implements workpaper.Out.
func (t *tables) Row(table string, cells []string) error {
	forms, ok := t.encoders[table]
	if !ok {
		return fmt.Errorf("a row of table %q, which there is not", table)
	}
	for _, form := range forms {
		if err := form.Row(cells); err != nil {
			return err
		}
	}
	return nil
}

// whole compares a table that has its rows.
func (t *tables) whole(path string, p *workpaper.Table, tab bool) {
	t.table(path, p, tab)
	for _, r := range p.Rows {
		if err := t.Row(p.Name, r); err != nil {
			t.failed(p, err)
			return
		}
	}
}

// transcript compares the transcript of a session.
func (t *tables) transcript(told *workpaper.Transcript) error {
	return told.Each(func(name string, write func(io.Writer) error) error {
		w := t.files.compare(TranscriptPath(name), t.check)
		defer w.close()
		return write(w)
	})
}

// close ends the comparison; what the tables are of stands in the manifest and
// the summary.
func (t *tables) close(m *Manifest, s *workpaper.Summary) {
	for _, c := range t.comparers {
		c.close()
	}
	err := t.workbook.Close(m, s, func(path string) string { return t.files.manifest[path].SHA256 })
	t.book.finish()
	if err != nil {
		t.check.except("%s: %.200s", SummaryFile, err)
	}
}

// release lets go of what is open, however far the comparison came.
func (t *tables) release() {
	if t.book != nil {
		_ = t.book.close() // it was only read
	}
}

// CutSize is the size of a block in a pack of a level: its header line and the
// sections that the level discloses.
func CutSize(h *ledger.Header, level string) uint64 {
	size := uint64(len(h.Encode()) + 1)
	for _, s := range h.Sections[:Sections(level)] {
		size += s.Size
	}
	return size
}
