package workpaper

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxCell is the most bytes of one CSV cell. Spreadsheets hold 32,767
// characters; what is longer is whole in the JSON lines.
const maxCell = 32_000

// CSV writes RFC 4180 with LF line ends for people and spreadsheets: what a
// spreadsheet would run is neutralised, and what the eye doesn't see is shown.
// It isn't lossless; JSONL is.
type CSV struct {
	w    io.Writer
	cols []Column
	buf  []byte
}

// NewCSV writes the header line and returns the encoder of the rows.
func NewCSV(w io.Writer, cols []Column) (*CSV, error) {
	c := &CSV{w: w, cols: cols}
	for i, col := range cols {
		if i > 0 {
			c.buf = append(c.buf, ',')
		}
		c.buf = append(c.buf, col.Name...)
	}
	c.buf = append(c.buf, '\n')
	_, err := w.Write(c.buf)
	return c, err
}

// Row implements Encoder.
func (c *CSV) Row(cells []string) error {
	if len(cells) != len(c.cols) {
		return fmt.Errorf("a row of %d cells in a table of %d columns", len(cells), len(c.cols))
	}
	c.buf = c.buf[:0]
	for i, cell := range cells {
		if i > 0 {
			c.buf = append(c.buf, ',')
		}
		c.buf = appendCSV(c.buf, cell)
	}
	c.buf = append(c.buf, '\n')
	_, err := c.w.Write(c.buf)
	return err
}

func appendCSV(b []byte, cell string) []byte {
	if cell == "" {
		return b
	}
	if !needsCare(cell) {
		return append(b, cell...)
	}
	cell = CSVText(cell)
	if !strings.ContainsAny(cell, `",`) {
		return append(b, cell...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(cell, `"`, `""`)...)
	return append(b, '"')
}

// plain marks the bytes that stand in a CSV cell as they are, anywhere.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != ','
	}
	return t
}()

func needsCare(cell string) bool {
	if len(cell) > maxCell || strings.IndexByte("=+-@", cell[0]) >= 0 {
		return true
	}
	for i := range len(cell) {
		if !plain[cell[i]] {
			return true
		}
	}
	return false
}

// CSVText is a cell as CSV shows it, before quoting: visible, cut to what
// spreadsheets hold, and with an apostrophe before = + - @ (TAB and CR, which
// some spreadsheets also take for a formula's start, have become visible).
func CSVText(cell string) string {
	visible := Visible(cell)
	if len(visible) > maxCell {
		visible = cutFrom(visible, maxCell, cell)
	}
	if visible != "" && strings.IndexByte("=+-@", visible[0]) >= 0 {
		return "'" + visible
	}
	return visible
}

// cut is a cell of at most so many bytes; of a longer one the end says what it
// was.
func cut(cell string, most int) string {
	if len(cell) <= most {
		return cell
	}
	return cutFrom(cell, most, cell)
}

// cutFrom cuts what shows the whole of a cell.
func cutFrom(shown string, most int, whole string) string {
	for !utf8.RuneStart(shown[most]) && most > 0 {
		most--
	}
	sum := sha256.Sum256([]byte(whole))
	return shown[:most] + " [cut: " + strconv.Itoa(len(whole)) + " bytes, sha256 " + hex.EncodeToString(sum[:]) + "]"
}

// Visible shows what the eye doesn't see as \u{hex}: control characters, line
// ends, invisible and bidirectional formatting, odd spaces, variation
// selectors, and bytes that aren't UTF-8 as \x{hex}. Terminals then have
// nothing to obey and two different texts look different.
func Visible(s string) string {
	clean := true
	for i := 0; clean && i < len(s); i++ {
		clean = s[i] >= ' ' && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && isBroken(s[i:]):
			fmt.Fprintf(&b, `\x{%02x}`, s[i])
		case hidden(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isBroken(s string) bool {
	_, n := utf8.DecodeRuneInString(s)
	return n <= 1
}

// hidden reports whether r has no picture of its own. unicode.IsGraphic admits
// all spaces; of those only U+0020 is what it looks like.
func hidden(r rune) bool {
	switch {
	case r == ' ':
		return false
	case !unicode.IsGraphic(r), unicode.IsSpace(r), unicode.Is(unicode.Zs, r):
		return true
	case unicode.Is(unicode.Variation_Selector, r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		return true
	}
	return r == 0x2800 // BRAILLE PATTERN BLANK
}

// JSONL writes one JSON object per row and line, keys in the columns' order.
// It is lossless but for bytes that aren't UTF-8, which become U+FFFD: numbers
// are JSON numbers, an empty cell is null, all else is a string. Characters
// that the eye doesn't see are escaped, so the file is safe to look at.
type JSONL struct {
	w    io.Writer
	keys []string // `{"first":`, `,"second":` ...
	cols []Column
	buf  []byte
}

// NewJSONL returns the encoder of rows under cols.
func NewJSONL(w io.Writer, cols []Column) (*JSONL, error) {
	j := &JSONL{w: w, cols: cols, keys: make([]string, len(cols))}
	for i, c := range cols {
		j.keys[i] = `,"` + c.Name + `":`
	}
	j.keys[0] = "{" + j.keys[0][1:]
	return j, nil
}

// Row implements Encoder.
func (j *JSONL) Row(cells []string) error {
	if len(cells) != len(j.cols) {
		return fmt.Errorf("a row of %d cells in a table of %d columns", len(cells), len(j.cols))
	}
	b := j.buf[:0]
	for i, cell := range cells {
		b = append(b, j.keys[i]...)
		switch {
		case cell == "":
			b = append(b, "null"...)
		case j.cols[i].Kind == Number:
			b = append(b, cell...)
		default:
			b = appendJSON(b, cell)
		}
	}
	j.buf = append(b, '}', '\n')
	_, err := j.w.Write(j.buf)
	return err
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case r > 0xffff && hidden(r):
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		case hidden(r):
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// WriteText writes t for a terminal: aligned columns, and nothing in it that a
// terminal obeys. Cells wider than width characters are cut; 0 cuts nothing.
func (t *Table) WriteText(w io.Writer, width int) error {
	rows := make([][]string, 0, len(t.Rows)+1)
	head := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		head[i] = strings.ToUpper(strings.ReplaceAll(c.Name, "_", " "))
	}
	rows = append(rows, head)
	widths := make([]int, len(t.Columns))
	for _, r := range t.Rows {
		shown := make([]string, len(t.Columns))
		for i := range min(len(r), len(shown)) {
			shown[i] = fit(Visible(r[i]), width)
		}
		rows = append(rows, shown)
	}
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		b.Reset()
		for i, cell := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if t.Columns[i].Kind == Number {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
			b.WriteString("  ")
		}
		if _, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func fit(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:width-1]) + "…"
}
