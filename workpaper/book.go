package workpaper

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Book writes the parts of a workbook (Office Open XML, ECMA-376: the file that
// spreadsheets call .xlsx): a tab per table, with the cells that CSV has. A part
// is a function of the tables alone, so that a verifier writes it again and
// compares it byte for byte; who packs the parts into a zip file decides where
// they wait.
//
// Nothing in it can be run: a cell is typed text or a number, and there are no
// formulas, links, macros, names but those of print titles, or hidden parts.
type Book struct {
	create func(part string) (io.Writer, error)
	sheets []*Sheet
}

// MaxSheetRows is how many rows of a table a tab shows. Spreadsheets take
// 1,048,576; long before that they take minutes to open one, and who needs all
// rows of such a table has it as CSV and JSON lines.
const MaxSheetRows = 100_000

// maxExact is the most digits of a number that a spreadsheet, which calculates
// in binary floating point, shows as it is.
const maxExact = 15

// NewBook returns a book whose parts are written to what create returns, which
// is called once for each. Several are written side by side.
func NewBook(create func(part string) (io.Writer, error)) *Book { return &Book{create: create} }

// Sheet is a tab being written. It implements Encoder.
type Sheet struct {
	name  string
	cols  []Column
	wrap  bool
	w     io.Writer
	refs  []string // "A", "B" ...
	buf   []byte
	total int // rows that came, shown or not
}

// Sheet begins a tab for the rows of t.
func (b *Book) Sheet(t *Table) (*Sheet, error) { return b.sheet(t, false) }

func (b *Book) sheet(t *Table, wrap bool) (*Sheet, error) {
	s := &Sheet{name: t.Name, cols: t.Columns, wrap: wrap}
	b.sheets = append(b.sheets, s)
	w, err := b.create(sheetPart(len(b.sheets)))
	if err != nil {
		return nil, err
	}
	s.w = w
	for i := range t.Columns {
		s.refs = append(s.refs, columnName(i))
	}
	return s, s.begin()
}

func sheetPart(n int) string { return "xl/worksheets/sheet" + strconv.Itoa(n) + ".xml" }

// columnName is the name of a column: A to Z, AA ...
func columnName(i int) string {
	if i < 26 {
		return string(rune('A' + i))
	}
	return columnName(i/26-1) + string(rune('A'+i%26))
}

const xmlHeader = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n"

// Indexes of cell styles; stylesPart has them in this order.
const (
	headStyle   = 1
	textStyle   = 2
	numberStyle = 3
	wrapStyle   = 4
	failStyle   = 5
	openStyle   = 6
)

func (s *Sheet) begin() error {
	b := append(s.buf[:0], xmlHeader+`<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">`+
		`<sheetPr><pageSetUpPr fitToPage="1"/></sheetPr>`+
		`<sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>`+
		`<sheetFormatPr defaultRowHeight="13"/><cols>`...)
	for i, c := range s.cols {
		n := strconv.Itoa(i + 1)
		b = append(b, `<col min="`+n+`" max="`+n+`" width="`+strconv.Itoa(s.width(c))+`" customWidth="1"/>`...)
	}
	b = append(b, `</cols><sheetData><row r="1">`...)
	for i, c := range s.cols {
		b = s.text(b, i, "1", headStyle, c.Name)
	}
	s.buf = append(b, "</row>\n"...)
	_, err := s.w.Write(s.buf)
	return err
}

// width is a column's, in characters.
func (s *Sheet) width(c Column) int {
	w := map[Kind]int{Text: 24, Name: 18, Number: 12, Time: 28}[c.Kind]
	switch {
	case s.wrap && c.Kind == Text:
		w = 70
	case s.wrap && c.Kind == Name:
		w = 30
	case c.Name == "text" || c.Name == "checks" || c.Name == "diff" || c.Name == "reason":
		w = 48
	}
	return max(w, len(c.Name)+4) // beside the filter's button
}

// height is that of a row whose text is wrapped, in points. Spreadsheets could
// tell by themselves, and not all do.
func (s *Sheet) height(cells []string) int {
	const line, most = 13, 400
	lines := 1
	for i, cell := range cells {
		lines = max(lines, (utf8.RuneCountInString(cell)+s.width(s.cols[i])-1)/s.width(s.cols[i]))
	}
	return min(lines*line, most)
}

// Resume goes on behind so many rows, which are in the part already.
func (s *Sheet) Resume(rows int) { s.total = rows }

// Row implements Encoder.
func (s *Sheet) Row(cells []string) error {
	if len(cells) != len(s.cols) {
		return fmt.Errorf("a row of %d cells in a table of %d columns", len(cells), len(s.cols))
	}
	if s.total++; s.total > MaxSheetRows {
		return nil
	}
	row := strconv.Itoa(s.total + 1)
	b := append(append(append(s.buf[:0], `<row r="`...), row...), '"')
	if s.wrap {
		b = append(b, ` ht="`+strconv.Itoa(s.height(cells))+`" customHeight="1"`...)
	}
	b = append(b, '>')
	for i, cell := range cells {
		switch {
		case cell == "":
		case s.cols[i].Kind == Number && exact(cell):
			b = s.cell(b, i, row, numberStyle)
			b = append(append(append(b, `><v>`...), cell...), `</v></c>`...)
		default:
			b = s.text(b, i, row, s.style(i, cell), CSVText(cell))
		}
	}
	s.buf = append(b, "</row>\n"...)
	_, err := s.w.Write(s.buf)
	return err
}

// exact reports whether a cell is a number that a spreadsheet doesn't round.
func exact(cell string) bool {
	for i := range len(cell) {
		if cell[i] < '0' || cell[i] > '9' {
			return false
		}
	}
	return len(cell) <= maxExact && (cell[0] != '0' || cell == "0")
}

func (s *Sheet) style(i int, cell string) int {
	switch {
	case !s.wrap:
		return textStyle
	case s.cols[i].Name == "state" && cell == string(Fail):
		return failStyle
	case s.cols[i].Name == "state" && cell != string(Pass):
		return openStyle
	}
	return wrapStyle
}

func (s *Sheet) cell(b []byte, i int, row string, style int) []byte {
	b = append(append(append(b, `<c r="`...), s.refs[i]...), row...)
	return append(append(b, `" s="`...), byte('0'+style), '"')
}

// text appends a cell of text, which has been made visible.
func (s *Sheet) text(b []byte, i int, row string, style int, text string) []byte {
	b = append(s.cell(b, i, row, style), ` t="inlineStr"><is><t xml:space="preserve">`...)
	return append(appendXML(b, text), `</t></is></c>`...)
}

// appendXML appends visible text as a spreadsheet's string. In those _xHHHH_
// stands for a character (ECMA-376 part 1, 22.9.2.19), so that what looks like
// one has its underscore written so.
func appendXML(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '&':
			b = append(b, "&amp;"...)
		case c == '<':
			b = append(b, "&lt;"...)
		case c == '>':
			b = append(b, "&gt;"...)
		case c == '"':
			b = append(b, "&quot;"...)
		case c == '_' && escapes(s[i:]):
			b = append(b, "_x005F_"...)
		default:
			b = append(b, c)
		}
	}
	return b
}

// escapes reports whether s begins as a character of a spreadsheet's string does.
func escapes(s string) bool {
	if len(s) < 7 || s[1]|0x20 != 'x' || s[6] != '_' {
		return false
	}
	for _, c := range []byte(s[2:6]) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f') {
			return false
		}
	}
	return true
}

// Shown is how many rows of the table the tab shows, and how many there are.
func (s *Sheet) Shown() (shown, total int) { return min(s.total, MaxSheetRows), s.total }

// end closes a tab. Where rows were left out the last line says so, below what
// filters and sorting move.
func (s *Sheet) end(source string) error {
	shown, total := s.Shown()
	b := s.buf[:0]
	if shown < total {
		row := strconv.Itoa(shown + 2)
		b = append(append(append(b, `<row r="`...), row...), `">`...)
		b = s.text(b, 0, row, headStyle, fmt.Sprintf("This tab shows the first %d of %d rows. All of them: %s", shown, total, source))
		b = append(b, "</row>\n"...)
	}
	b = append(b, `</sheetData><autoFilter ref="A1:`+columnName(len(s.cols)-1)+strconv.Itoa(shown+1)+`"/>`+
		`<pageMargins left="0.4" right="0.4" top="0.6" bottom="0.6" header="0.3" footer="0.3"/>`+
		`<pageSetup paperSize="9" orientation="landscape" fitToHeight="0"/>`+
		`<headerFooter><oddFooter>&amp;L&amp;A&amp;RPage &amp;P of &amp;N</oddFooter></headerFooter></worksheet>`...)
	_, err := s.w.Write(b)
	s.buf = nil
	return err
}

// Close ends the tabs and writes the parts that join them. The tables of lead
// come before all others, with their text wrapped; source says where all rows of
// a table are, for a tab that doesn't show them all.
func (b *Book) Close(title string, lead []Table, source func(table string) string) error {
	rest := b.sheets
	for i := range lead {
		s, err := b.sheet(&lead[i], true)
		if err != nil {
			return err
		}
		for _, r := range lead[i].Rows {
			if err := s.Row(r); err != nil {
				return err
			}
		}
	}
	for _, s := range b.sheets {
		if err := s.end(source(s.name)); err != nil {
			return err
		}
	}
	for _, part := range b.joints(title, len(rest)) {
		w, err := b.create(part.name)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, xmlHeader+part.text); err != nil {
			return err
		}
	}
	return nil
}

type part struct{ name, text string }

// joints are the parts that aren't tabs. Tabs from the one numbered lead on are
// shown first.
func (b *Book) joints(title string, lead int) []part {
	const (
		packages = "http://schemas.openxmlformats.org/package/2006/"
		document = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
		sheetml  = "application/vnd.openxmlformats-officedocument.spreadsheetml."
		main     = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
	)
	var types, tabs, titles, rels strings.Builder
	for i := range b.sheets {
		n := (lead + i) % len(b.sheets)
		s := b.sheets[n]
		name := string(appendXML(nil, tabName(s.name)))
		fmt.Fprintf(&types, `<Override PartName="/%s" ContentType="%sworksheet+xml"/>`, sheetPart(n+1), sheetml)
		fmt.Fprintf(&tabs, `<sheet name="%s" sheetId="%d" r:id="rId%d"/>`, name, n+1, n+1)
		fmt.Fprintf(&titles, `<definedName name="_xlnm.Print_Titles" localSheetId="%d">'%s'!$1:$1</definedName>`, i, strings.ReplaceAll(name, "'", "''"))
		fmt.Fprintf(&rels, `<Relationship Id="rId%d" Type="%s/worksheet" Target="worksheets/sheet%d.xml"/>`, n+1, document, n+1)
	}
	return []part{
		{"xl/workbook.xml", `<workbook xmlns="` + main + `" xmlns:r="` + document + `"><bookViews><workbookView activeTab="0"/></bookViews><sheets>` +
			tabs.String() + `</sheets><definedNames>` + titles.String() + `</definedNames></workbook>`},
		{"xl/_rels/workbook.xml.rels", `<Relationships xmlns="` + packages + `relationships">` + rels.String() +
			`<Relationship Id="rIdStyles" Type="` + document + `/styles" Target="styles.xml"/></Relationships>`},
		{"xl/styles.xml", styles},
		{"docProps/core.xml", `<cp:coreProperties xmlns:cp="` + packages + `metadata/core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>` +
			string(appendXML(nil, Visible(title))) + `</dc:title></cp:coreProperties>`},
		{"_rels/.rels", `<Relationships xmlns="` + packages + `relationships"><Relationship Id="rId1" Type="` + document + `/officeDocument" Target="xl/workbook.xml"/>` +
			`<Relationship Id="rId2" Type="` + packages + `relationships/metadata/core-properties" Target="docProps/core.xml"/></Relationships>`},
		{"[Content_Types].xml", `<Types xmlns="` + packages + `content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
			`<Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="` + sheetml + `sheet.main+xml"/>` +
			types.String() + `<Override PartName="/xl/styles.xml" ContentType="` + sheetml + `styles+xml"/>` +
			`<Override PartName="/docProps/core.xml" ContentType="application/vnd.openxmlformats-package.core-properties+xml"/></Types>`},
	}
}

// tabName makes a table's name one that a tab can have: spreadsheets refuse some
// characters, and more than 31.
func tabName(name string) string {
	name = strings.Map(func(r rune) rune {
		if strings.ContainsRune(`:\/?*[]`, r) {
			return '-'
		}
		return r
	}, Visible(name))
	if utf8.RuneCountInString(name) > 31 {
		name = string([]rune(name)[:31])
	}
	return name
}

// styles are the looks of cells, in the order of their indexes. Format 49 is
// text: a cell that somebody edits stays text, whatever it begins with.
const styles = `<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">` +
	`<fonts count="3"><font><sz val="10"/><name val="Arial"/></font><font><b/><sz val="10"/><color rgb="FFFFFFFF"/><name val="Arial"/></font>` +
	`<font><b/><sz val="10"/><color rgb="FF9C0006"/><name val="Arial"/></font></fonts>` +
	`<fills count="5"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill>` +
	`<fill><patternFill patternType="solid"><fgColor rgb="FF1F3A5F"/></patternFill></fill>` +
	`<fill><patternFill patternType="solid"><fgColor rgb="FFFFC7CE"/></patternFill></fill>` +
	`<fill><patternFill patternType="solid"><fgColor rgb="FFFFF2CC"/></patternFill></fill></fills>` +
	`<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>` +
	`<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>` +
	`<cellXfs count="7"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>` +
	`<xf numFmtId="49" fontId="1" fillId="2" borderId="0" xfId="0" applyNumberFormat="1" applyFont="1" applyFill="1" applyAlignment="1"><alignment vertical="top"/></xf>` +
	`<xf numFmtId="49" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1" applyAlignment="1"><alignment vertical="top"/></xf>` +
	`<xf numFmtId="3" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1" applyAlignment="1"><alignment vertical="top"/></xf>` +
	`<xf numFmtId="49" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1" applyAlignment="1"><alignment vertical="top" wrapText="1"/></xf>` +
	`<xf numFmtId="49" fontId="2" fillId="3" borderId="0" xfId="0" applyNumberFormat="1" applyFont="1" applyFill="1" applyAlignment="1"><alignment vertical="top"/></xf>` +
	`<xf numFmtId="49" fontId="0" fillId="4" borderId="0" xfId="0" applyNumberFormat="1" applyFill="1" applyAlignment="1"><alignment vertical="top"/></xf>` +
	`</cellXfs><cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>`
