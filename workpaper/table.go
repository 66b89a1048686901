package workpaper

import (
	"io"
	"slices"
)

// Kind says what the cells of a column hold. Cells are text in every case; an
// empty one is a value that the record doesn't have.
type Kind uint8

// The kinds of cell.
const (
	Text   Kind = iota // as recorded; hostile
	Name               // ids, names and positions: characters that a head can hold
	Number             // decimal integer without sign
	Time               // ISO 8601 in UTC to the microsecond
)

// Column is a column of a table.
type Column struct {
	Name string
	Kind Kind
}

// Table is rows of text under named columns. Large tables travel as rows
// through an Out instead, and Rows stays empty.
type Table struct {
	Name    string
	Columns []Column
	Rows    [][]string
}

// Column returns the index of the column with a name, or -1.
func (t *Table) Column(name string) int {
	return slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
}

// Encoder writes the rows of one table. Its output is a function of the
// columns and the cells alone.
type Encoder interface {
	Row(cells []string) error
}

// WriteCSV writes t as CSV.
func (t *Table) WriteCSV(w io.Writer) error { return t.encode(NewCSV(w, t.Columns)) }

// WriteJSONL writes t as JSON lines.
func (t *Table) WriteJSONL(w io.Writer) error { return t.encode(NewJSONL(w, t.Columns)) }

func (t *Table) encode(e Encoder, err error) error {
	if err != nil {
		return err
	}
	for _, r := range t.Rows {
		if err := e.Row(r); err != nil {
			return err
		}
	}
	return nil
}

// columns makes columns of "name" (Text), "name:n" (Name), "name:#" (Number)
// and "name:t" (Time).
func columns(names ...string) []Column {
	kinds := map[string]Kind{":n": Name, ":#": Number, ":t": Time}
	cols := make([]Column, len(names))
	for i, n := range names {
		cols[i] = Column{Name: n}
		if k, ok := kinds[n[max(0, len(n)-2):]]; ok {
			cols[i] = Column{Name: n[:len(n)-2], Kind: k}
		}
	}
	return cols
}
