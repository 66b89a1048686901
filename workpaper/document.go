package workpaper

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"strings"
)

// Document is a text for people, apart from how it looks: the same one becomes
// HTML, PDF and a tab of a workbook. What is in it is hostile where records are;
// each rendering makes it visible and escapes it in its own way.
type Document struct {
	Title    string
	Subtitle string
	Blocks   []Block
}

// Block is a piece of a document. One of its fields is set.
type Block struct {
	Heading string
	Text    string
	Code    string
	List    []string
	Table   *Table // without a name: a column of names and one of values, and no head
}

// Add adds blocks.
func (d *Document) Add(b ...Block) { d.Blocks = append(d.Blocks, b...) }

// Flat is the document as a table, without its larger tables: those have files
// and tabs of their own.
func (d *Document) Flat(name string) Table {
	t := Table{Name: name, Columns: columns("section:n", "item:n", "text")}
	t.Rows = append(t.Rows, []string{d.Title, "", d.Subtitle})
	section := d.Title
	add := func(item, text string) { t.Rows = append(t.Rows, []string{section, item, text}) }
	for _, b := range d.Blocks {
		switch {
		case b.Heading != "":
			section = b.Heading
		case b.Text != "":
			add("", b.Text)
		case b.Code != "":
			add("", b.Code)
		case b.Table != nil && b.Table.Name == "":
			for _, r := range b.Table.Rows {
				add(r[0], r[1])
			}
		}
		for _, item := range b.List {
			add("", item)
		}
	}
	return t
}

// style is how documents and transcripts look, on a screen and on paper. It
// loads nothing.
const style = `
:root{color-scheme:light}
body{font:15px/1.5 "Helvetica Neue",Arial,"Liberation Sans",sans-serif;color:#1b1f24;background:#fff;max-width:60em;margin:2.5em auto;padding:0 1.5em}
body.wide{max-width:none}
h1{font-size:1.9em;line-height:1.2;color:#1f3a5f;margin:0}
.subtitle{font-size:1.2em;color:#57606a;margin:.2em 0 1.5em;padding-bottom:1em;border-bottom:3px solid #1f3a5f}
h2{font-size:1.2em;color:#1f3a5f;margin:2em 0 .5em;padding-bottom:.2em;border-bottom:1px solid #d0d7de}
pre,code,.code{font:13px/1.45 "DejaVu Sans Mono","Liberation Mono",Menlo,Consolas,monospace}
pre{background:#f6f8fa;border:1px solid #d0d7de;border-radius:4px;padding:.7em 1em;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:13px;margin:.8em 0}
th{background:#1f3a5f;color:#fff;text-align:left;font-weight:600}
th,td{border:1px solid #d0d7de;padding:.35em .6em;vertical-align:top;overflow-wrap:anywhere}
td.number{text-align:right;font-variant-numeric:tabular-nums}
table.facts th{background:#f6f8fa;color:#1b1f24;width:13em}
tr:nth-child(even) td{background:#fafbfc}
td.fail{background:#ffc7ce!important;color:#9c0006;font-weight:700}
td.not_tested,td.no_occurrence,td.open{background:#fff2cc!important}
.deny,.denied,.error{color:#9c0006}
.sealed{color:#57606a;white-space:nowrap}
li{margin:.25em 0}
@media print{body{margin:0;max-width:none;font-size:11px}h2{break-after:avoid}tr{break-inside:avoid}thead{display:table-header-group}}
`

// HTMLHead is what every page begins with. Its policy admits one style, by its
// digest, and nothing else: no script, no picture, no connection, no form. The
// parts of a page that records have a say in are escaped, and were they not,
// nothing would come of it.
func HTMLHead(w io.Writer, title, class string) error {
	sum := sha256.Sum256([]byte(style))
	_, err := io.WriteString(w, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-`+base64.StdEncoding.EncodeToString(sum[:])+`'; base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">
<title>`+HTMLText(title)+`</title>
<style>`+style+`</style></head>
<body class="`+class+`">
`)
	return err
}

// HTMLText is a text as HTML shows it: visible and escaped.
func HTMLText(s string) string { return escapeHTML.Replace(Visible(s)) }

var escapeHTML = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

// WriteHTML writes the document as one page that needs nothing else.
func (d *Document) WriteHTML(w io.Writer) error {
	if err := HTMLHead(w, d.Title+": "+d.Subtitle, "document"); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("<h1>" + HTMLText(d.Title) + `</h1><p class="subtitle">` + HTMLText(d.Subtitle) + "</p>\n")
	for i := range d.Blocks {
		d.Blocks[i].html(&b)
	}
	b.WriteString("</body></html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (k *Block) html(b *strings.Builder) {
	switch {
	case k.Heading != "":
		b.WriteString("<h2>" + HTMLText(k.Heading) + "</h2>\n")
	case k.Text != "":
		b.WriteString("<p>" + HTMLText(k.Text) + "</p>\n")
	case k.Code != "":
		b.WriteString("<pre>" + HTMLText(k.Code) + "</pre>\n")
	case k.List != nil:
		b.WriteString("<ul>\n")
		for _, item := range k.List {
			b.WriteString("<li>" + HTMLText(item) + "</li>\n")
		}
		b.WriteString("</ul>\n")
	case k.Table != nil && k.Table.Name == "":
		b.WriteString(`<table class="facts">` + "\n")
		for _, r := range k.Table.Rows {
			b.WriteString("<tr><th>" + HTMLText(r[0]) + "</th><td>" + HTMLText(r[1]) + "</td></tr>\n")
		}
		b.WriteString("</table>\n")
	case k.Table != nil:
		k.Table.html(b)
	}
}

func (t *Table) html(b *strings.Builder) {
	b.WriteString("<table><thead><tr>")
	for _, c := range t.Columns {
		b.WriteString("<th>" + HTMLText(strings.ReplaceAll(c.Name, "_", " ")) + "</th>")
	}
	b.WriteString("</tr></thead><tbody>\n")
	for _, r := range t.Rows {
		b.WriteString("<tr>")
		for i, cell := range r {
			switch class := CellClass(t.Columns[i], cell); class {
			case "":
				b.WriteString("<td>")
			default:
				b.WriteString(`<td class="` + class + `">`)
			}
			b.WriteString(HTMLText(cell) + "</td>")
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody></table>\n")
}

// CellClass says how a cell stands out: those of numbers, and those that say how
// something came out.
func CellClass(c Column, cell string) string {
	switch {
	case c.Kind == Number:
		return "number"
	case c.Name == "state" && State(cell) == Fail:
		return "fail"
	case c.Name == "state" && (State(cell) == NotTested || State(cell) == NoOccurrence):
		return cell
	}
	return ""
}
