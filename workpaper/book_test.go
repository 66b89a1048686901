package workpaper_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// parts keeps the parts of a workbook.
type parts map[string]*bytes.Buffer

func (p parts) create(name string) (io.Writer, error) {
	p[name] = &bytes.Buffer{}
	return p[name], nil
}

// book writes a workbook of one table and what leads it.
func book(t *testing.T, table workpaper.Table, lead ...workpaper.Table) parts {
	t.Helper()
	p := make(parts)
	b := workpaper.NewBook(p.create)
	s, err := b.Sheet(&table)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		if err := s.Row(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close("A <title>", lead, func(table string) string { return "pop/" + table + ".csv" }); err != nil {
		t.Fatal(err)
	}
	for name, part := range p {
		for d := xml.NewDecoder(bytes.NewReader(part.Bytes())); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return p
}

// cells are those of a tab by their references, with their type.
func cells(t *testing.T, sheet []byte) map[string]string {
	t.Helper()
	var doc struct {
		Rows []struct {
			Cells []struct {
				Ref   string `xml:"r,attr"`
				Type  string `xml:"t,attr"`
				Text  string `xml:"is>t"`
				Value string `xml:"v"`
			} `xml:"c"`
		} `xml:"sheetData>row"`
	}
	if err := xml.Unmarshal(sheet, &doc); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, r := range doc.Rows {
		for _, c := range r.Cells {
			got[c.Ref] = c.Type + ":" + c.Text + c.Value
		}
	}
	return got
}

const firstSheet = "xl/worksheets/sheet1.xml"

func TestCellsAreTypedAndNothingIsRounded(t *testing.T) {
	table := workpaper.Table{Name: "t", Columns: []workpaper.Column{{Name: "id", Kind: workpaper.Name}, {Name: "rows", Kind: workpaper.Number}}}
	for _, n := range []string{"7", "0", "", "999999999999999", "9999999999999999", "18446744073709551615", "007", "1e9", "-1"} {
		table.Rows = append(table.Rows, []string{"0012", n})
	}
	got := cells(t, book(t, table)[firstSheet].Bytes())
	for ref, want := range map[string]string{
		"A1": "inlineStr:id", "B1": "inlineStr:rows", "A2": "inlineStr:0012", "B2": ":7", "B3": ":0", "B4": "", "B5": ":999999999999999",
		"B6": "inlineStr:9999999999999999", "B7": "inlineStr:18446744073709551615", "B8": "inlineStr:007", "B9": "inlineStr:1e9", "B10": "inlineStr:'-1",
	} {
		if got[ref] != want {
			t.Errorf("%s is %q, want %q", ref, got[ref], want)
		}
	}
}

func TestCellsSayWhatCSVSays(t *testing.T) {
	var table workpaper.Table
	table.Name, table.Columns = "t", []workpaper.Column{{Name: "a"}}
	for in := range hostile {
		if in != "" {
			table.Rows = append(table.Rows, []string{in})
		}
	}
	table.Rows = append(table.Rows, []string{strings.Repeat("ä", 40_000)}, []string{"_x0041_"}, []string{"__X00e9_<&>"})
	got := cells(t, book(t, table)[firstSheet].Bytes())
	for i, r := range table.Rows {
		// A spreadsheet reads _x005F_ as the underscore that it is.
		have := regexp.MustCompile(`_x005F_`).ReplaceAllString(got["A"+strconv.Itoa(i+2)], "_")
		if want := "inlineStr:" + workpaper.CSVText(r[0]); have != want {
			t.Errorf("%.80q reads as %.80q, want %.80q", r[0], have, want)
		}
		if len(have) > 32_767 {
			t.Errorf("a cell has %d bytes, more than spreadsheets hold", len(have))
		}
	}
}

func TestTabsOfLargeTablesEndAndSayWhereTheRestIs(t *testing.T) {
	table := workpaper.Table{Name: "t", Columns: []workpaper.Column{{Name: "a", Kind: workpaper.Number}}}
	for i := range workpaper.MaxSheetRows + 1 {
		table.Rows = append(table.Rows, []string{strconv.Itoa(i)})
	}
	sheet := book(t, table)[firstSheet].Bytes()
	last := strconv.Itoa(workpaper.MaxSheetRows + 2)
	if got, want := cells(t, sheet)["A"+last], "inlineStr:This tab shows the first 100000 of 100001 rows. All of them: pop/t.csv"; got != want {
		t.Errorf("the last row says %q, want %q", got, want)
	}
	if want := `<autoFilter ref="A1:A100001"/>`; !bytes.Contains(sheet, []byte(want)) {
		t.Errorf("the filter isn't %s", want)
	}
	table.Rows = table.Rows[1:]
	if got := cells(t, book(t, table)[firstSheet].Bytes())["A"+last]; got != "" {
		t.Errorf("a table that fits ends with %q", got)
	}
}

func TestLeadingTabsComeFirst(t *testing.T) {
	one := workpaper.Table{Name: "population", Columns: []workpaper.Column{{Name: "a"}}}
	two := workpaper.Table{Name: "odd [name]: of/a tab's, and much longer", Columns: []workpaper.Column{{Name: "state"}}, Rows: [][]string{{"fail"}}}
	p := book(t, one, two)
	text := p["xl/workbook.xml"].String()
	first, second := strings.Index(text, `name="odd -name-- of-a tab's, and muc"`), strings.Index(text, `name="population"`)
	if first < 0 || second < first {
		t.Errorf("the tabs are %s", text)
	}
	if !strings.Contains(text, `localSheetId="0">'odd -name-- of-a tab''s, and muc'!$1:$1<`) {
		t.Errorf("print titles are %s", text)
	}
	if _, ok := p["xl/worksheets/sheet2.xml"]; !ok || len(p) != 8 {
		t.Errorf("%d parts", len(p))
	}
}

func FuzzBook(f *testing.F) {
	for in := range hostile {
		f.Add(in)
	}
	f.Add("_x003D_1+1")
	f.Fuzz(func(t *testing.T, in string) {
		p := book(t, workpaper.Table{Name: in, Columns: []workpaper.Column{{Name: "a"}, {Name: "n", Kind: workpaper.Number}}, Rows: [][]string{{in, in}}})
		for ref, c := range cells(t, p[firstSheet].Bytes()) {
			text := strings.TrimPrefix(c, "inlineStr:")
			if ref[1] == '2' && text != "" && strings.HasPrefix(c, "inlineStr:") && strings.ContainsAny(text[:1], "=+-@\t\r") {
				t.Errorf("%q gives a cell that would run: %q", in, c)
			}
			if m := regexp.MustCompile(`_[xX][0-9A-Fa-f]{4}_`).FindAllString(text, -1); len(m) > 0 && strings.Contains(text, "_x005F_") == false {
				t.Errorf("%q gives a cell with an escape: %q", in, c)
			}
		}
	})
}
