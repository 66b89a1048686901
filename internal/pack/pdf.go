package pack

import (
	"fmt"
	"io"
	"strings"
	"time"

	"codeberg.org/go-fonts/liberation/liberationmonoregular"
	"codeberg.org/go-fonts/liberation/liberationsansbold"
	"codeberg.org/go-fonts/liberation/liberationsansregular"
	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/sfnt"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Measures of a page, in millimetres.
const (
	margin    = 18.0
	textWidth = 210 - 2*margin
	bottom    = 297 - 20.0
	padding   = 1.2
)

// page is a document on its way to paper. Its text is text: it can be selected
// and searched. Characters that the font hasn't are written \u{hex}, as those are
// that have no picture at all.
type page struct {
	*fpdf.Fpdf
	font *sfnt.Font
	buf  sfnt.Buffer
}

// writePDF writes a document as PDF. It bears the time that is given, and no
// other, so that equal documents are equal files.
func writePDF(w io.Writer, d *workpaper.Document, at time.Time) error {
	font, err := sfnt.Parse(liberationsansregular.TTF)
	if err != nil {
		return fmt.Errorf("reading the font: %w", err)
	}
	p := &page{Fpdf: fpdf.New("P", "mm", "A4", ""), font: font}
	p.SetCatalogSort(true)
	p.SetCreationDate(at)
	p.SetModificationDate(at)
	p.SetTitle(p.shown(d.Title+": "+d.Subtitle), true)
	p.SetLang("en")
	p.SetMargins(margin, margin, margin)
	p.SetCellMargin(0)
	p.SetAutoPageBreak(true, 297-bottom)
	p.AddUTF8FontFromBytes("sans", "", liberationsansregular.TTF)
	p.AddUTF8FontFromBytes("sans", "B", liberationsansbold.TTF)
	p.AddUTF8FontFromBytes("mono", "", liberationmonoregular.TTF)
	p.AliasNbPages("{pages}")
	p.SetFooterFunc(func() {
		p.SetY(-14)
		p.style("sans", "", 8, 0x57606a)
		p.CellFormat(textWidth/2, 5, p.fit(d.Title+": "+d.Subtitle, textWidth/2), "", 0, "L", false, 0, "")
		p.CellFormat(textWidth/2, 5, fmt.Sprintf("Page %d of {pages}", p.PageNo()), "", 0, "R", false, 0, "")
	})
	p.AddPage()
	p.style("sans", "B", 22, navy)
	p.MultiCell(0, 10, p.shown(d.Title), "", "L", false)
	p.style("sans", "", 13, 0x57606a)
	p.MultiCell(0, 7, p.shown(d.Subtitle), "", "L", false)
	p.fill(navy)
	p.Rect(margin, p.GetY()+1.5, textWidth, 0.8, "F")
	p.Ln(6)
	for i := range d.Blocks {
		p.block(&d.Blocks[i])
	}
	return p.Output(w)
}

const (
	navy = 0x1f3a5f
	ink  = 0x1b1f24
)

func (p *page) style(family, style string, size float64, color int) {
	p.SetFont(family, style, size)
	p.SetTextColor(color>>16, color>>8&0xff, color&0xff)
}

func (p *page) fill(color int) { p.SetFillColor(color>>16, color>>8&0xff, color&0xff) }

// shown is a text as the font can show it.
func (p *page) shown(s string) string {
	var b strings.Builder
	for _, r := range workpaper.Visible(s) {
		if i, err := p.font.GlyphIndex(&p.buf, r); err != nil || i == 0 || r > 0xffff {
			fmt.Fprintf(&b, `\u{%x}`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// fit cuts a text to a width.
func (p *page) fit(s string, width float64) string {
	s = p.shown(s)
	for r := []rune(s); p.GetStringWidth(s) > width && len(r) > 1; s = string(r) + "…" {
		r = r[:len(r)-1]
	}
	return s
}

func (p *page) block(k *workpaper.Block) {
	switch {
	case k.Heading != "":
		p.keep(22)
		p.Ln(4)
		p.style("sans", "B", 12.5, navy)
		p.MultiCell(0, 6, p.shown(k.Heading), "", "L", false)
		p.fill(0xd0d7de)
		p.Rect(margin, p.GetY()+0.5, textWidth, 0.3, "F")
		p.Ln(2.5)
	case k.Text != "":
		p.style("sans", "", 9.5, ink)
		p.lines(p.shown(k.Text), margin, textWidth, 4.7)
		p.Ln(1.8)
	case k.Code != "":
		p.style("mono", "", 9, ink)
		p.fill(0xf6f8fa)
		p.MultiCell(0, 7, "  "+p.shown(k.Code), "", "L", true)
		p.Ln(1.8)
	case k.List != nil:
		p.style("sans", "", 9.5, ink)
		for _, item := range k.List {
			p.keep(4.7)
			p.SetX(margin + 2)
			p.CellFormat(4, 4.7, "•", "", 0, "L", false, 0, "")
			p.lines(p.shown(item), margin+6, textWidth-6, 4.7)
			p.Ln(0.6)
		}
		p.Ln(1.2)
	case k.Table != nil:
		p.table(k.Table)
	}
}

// keep begins a new page if there is less room than height.
func (p *page) keep(height float64) {
	if p.GetY()+height > bottom {
		p.AddPage()
	}
}

// lines writes a text in a column of the page.
func (p *page) lines(s string, x, width, height float64) {
	for _, line := range p.SplitText(s, width) {
		p.keep(height)
		p.SetX(x)
		p.CellFormat(width, height, line, "", 1, "L", false, 0, "")
	}
}

const (
	tableFont   = 7.5
	tableHeight = 3.5
)

// table writes a table with its head on every page. One without a name has no
// head, and names in its first column.
func (p *page) table(t *workpaper.Table) {
	widths := p.widths(t)
	head := func() {
		names := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			names[i] = strings.ReplaceAll(c.Name, "_", " ")
		}
		p.row(t, widths, names, true)
	}
	if t.Name != "" {
		head()
	}
	for _, r := range t.Rows {
		if p.GetY()+p.height(widths, r) > bottom {
			p.AddPage()
			if t.Name != "" {
				head()
			}
		}
		p.row(t, widths, r, false)
	}
	p.Ln(2)
}

// widths gives names and numbers what their widest cell needs, and texts in
// proportion what is left of the page.
func (p *page) widths(t *workpaper.Table) []float64 {
	p.style("sans", "B", tableFont, ink)
	widths, rest, texts := make([]float64, len(t.Columns)), textWidth, 0.0
	for i, c := range t.Columns {
		most := 55.0
		if c.Kind == workpaper.Text {
			most = 80
		}
		widths[i] = p.GetStringWidth(strings.ReplaceAll(c.Name, "_", " "))
		for _, r := range t.Rows {
			widths[i] = max(widths[i], min(p.GetStringWidth(p.shown(r[i])), most))
		}
		widths[i] += 2*padding + 0.2
		if c.Kind == workpaper.Text {
			texts += widths[i]
		} else {
			rest -= widths[i]
		}
	}
	if t.Name == "" && len(widths) == 2 {
		return []float64{38, textWidth - 38}
	}
	for i, c := range t.Columns {
		if c.Kind == workpaper.Text {
			widths[i] *= max(rest, textWidth/4) / texts
		}
	}
	return widths
}

func (p *page) height(widths []float64, cells []string) float64 {
	p.style("sans", "B", tableFont, ink) // no narrower than what is written
	n := 1
	for i, cell := range cells {
		n = max(n, len(p.SplitText(p.shown(cell), widths[i]-2*padding)))
	}
	return min(float64(n)*tableHeight+2*padding, bottom-margin-20)
}

func (p *page) row(t *workpaper.Table, widths []float64, cells []string, head bool) {
	height := p.height(widths, cells)
	x, y := margin, p.GetY()
	p.SetDrawColor(0xd0, 0xd7, 0xde)
	for i, cell := range cells {
		background, style, color := 0xffffff, "", ink
		class := workpaper.CellClass(t.Columns[i], cell)
		switch {
		case head:
			background, style, color = navy, "B", 0xffffff
		case t.Name == "" && i == 0:
			background, style = 0xf6f8fa, "B"
		case class == string(workpaper.Fail):
			background, style, color = 0xffc7ce, "B", 0x9c0006
		case class == string(workpaper.NotTested), class == string(workpaper.NoOccurrence):
			background = 0xfff2cc
		}
		align := "L"
		if class == "number" && !head {
			align = "R"
		}
		p.fill(background)
		p.Rect(x, y, widths[i], height, "FD")
		p.style("sans", style, tableFont, color)
		lines := p.SplitText(p.shown(cell), widths[i]-2*padding)
		most := int((height - 2*padding + 0.01) / tableHeight)
		for n, line := range lines[:min(len(lines), most)] {
			p.SetXY(x+padding, y+padding+float64(n)*tableHeight)
			p.CellFormat(widths[i]-2*padding, tableHeight, line, "", 0, align, false, 0, "")
		}
		x += widths[i]
	}
	p.SetXY(margin, y+height)
}
