package workpaper_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/exhibit-gateway/exhibit/workpaper"
)

// hostile is what an agent may put where a person will look.
var hostile = map[string]string{
	"plain":                   "plain",
	"":                        "",
	`=HYPERLINK("x")`:         `'=HYPERLINK("x")`,
	"+1":                      "'+1",
	"-2+3":                    "'-2+3",
	"@SUM(A1)":                "'@SUM(A1)",
	"\t=1":                    `\u{9}=1`,
	"\r=1":                    `\u{d}=1`,
	"a\nb":                    `a\u{a}b`,
	"\x1b[2Jgone":             `\u{1b}[2Jgone`,
	"admin\u202eresu":         `admin\u{202e}resu`,
	"pay\u200bpal":            `pay\u{200b}pal`,
	"\ufeffx":                 `\u{feff}x`,
	"a\u00a0b":                `a\u{a0}b`,
	"\u2028":                  `\u{2028}`,
	"x\U000e0041":             `x\u{e0041}`,
	"v\ufe0f":                 `v\u{fe0f}`,
	"\xff\xfe":                `\x{ff}\x{fe}`,
	"\ufffd":                  "\ufffd",
	"naïve Ωmega 名前":          "naïve Ωmega 名前",
	`she said "no", and left`: `she said "no", and left`,
	"\u3164":                  `\u{3164}`,
}

func TestCSVShowsWhatIsThereAndRunsNothing(t *testing.T) {
	for in, want := range hostile {
		var b bytes.Buffer
		table := workpaper.Table{Name: "t", Columns: []workpaper.Column{{Name: "a"}, {Name: "b"}}, Rows: [][]string{{in, "x"}}}
		if err := table.WriteCSV(&b); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if rows[1][0] != want || rows[1][1] != "x" {
			t.Errorf("%q reads as %q, want %q", in, rows[1], want)
		}
	}
}

func TestLongCellsAreCutInCSVAlone(t *testing.T) {
	long := strings.Repeat("ä", 40_000)
	table := workpaper.Table{Columns: []workpaper.Column{{Name: "a"}}, Rows: [][]string{{long}}}
	var asCSV, asJSON bytes.Buffer
	if err := table.WriteCSV(&asCSV); err != nil {
		t.Fatal(err)
	}
	if err := table.WriteJSONL(&asJSON); err != nil {
		t.Fatal(err)
	}
	if asCSV.Len() > 32_767 || !strings.Contains(asCSV.String(), "[cut: 80000 bytes, sha256 ") {
		t.Errorf("%d bytes of CSV: ...%s", asCSV.Len(), asCSV.Bytes()[asCSV.Len()-120:])
	}
	if !strings.Contains(asJSON.String(), long) {
		t.Error("the JSON lines are cut too")
	}
}

func TestJSONLIsLosslessAndSafeToLookAt(t *testing.T) {
	columns := []workpaper.Column{{Name: "text"}, {Name: "n", Kind: workpaper.Number}}
	for in := range hostile {
		var b bytes.Buffer
		table := workpaper.Table{Columns: columns, Rows: [][]string{{in, "7"}}}
		if err := table.WriteJSONL(&b); err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSuffix(b.String(), "\n")
		for _, r := range line {
			if r != '\ufffd' && !unicode.IsGraphic(r) {
				t.Errorf("%q holds %U", line, r)
			}
		}
		var got struct {
			Text *string
			N    uint64
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := strings.ToValidUTF8(in, "\ufffd")
		switch {
		case in == "" && got.Text != nil, in != "" && got.Text == nil, got.N != 7:
			t.Errorf("%q reads as %+v", line, got)
		case in != "" && in != "\xff\xfe" && *got.Text != want:
			t.Errorf("%q reads as %q", in, *got.Text)
		}
	}
}

func TestTextForATerminal(t *testing.T) {
	table := workpaper.Table{
		Columns: []workpaper.Column{{Name: "agent_id"}, {Name: "rows", Kind: workpaper.Number}},
		Rows:    [][]string{{"billing-bot", "7"}, {"\x1b[31mred", "12345"}, {"a very long name", "1"}},
	}
	var b bytes.Buffer
	if err := table.WriteText(&b, 12); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"AGENT ID       ROWS\n" +
		"billing-bot       7\n" +
		"\\u{1b}[31mr…  12345\n" +
		"a very long…      1\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func FuzzEncode(f *testing.F) {
	for in := range hostile {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		table := workpaper.Table{Columns: []workpaper.Column{{Name: "a"}, {Name: "b"}}, Rows: [][]string{{in, "x"}}}
		var asCSV, asJSON bytes.Buffer
		if table.WriteCSV(&asCSV) != nil || table.WriteJSONL(&asJSON) != nil {
			t.Fatal("a buffer can't fail")
		}
		rows, err := csv.NewReader(bytes.NewReader(asCSV.Bytes())).ReadAll()
		if err != nil || len(rows) != 2 || len(rows[1]) != 2 || rows[1][1] != "x" {
			t.Fatalf("%q gives CSV %q: %v", in, asCSV.String(), err)
		}
		if cell := rows[1][0]; cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
			t.Errorf("%q gives a cell that runs: %q", in, cell)
		}
		var got map[string]*string
		if err := json.Unmarshal(asJSON.Bytes(), &got); err != nil || strings.Count(asJSON.String(), "\n") != 1 {
			t.Fatalf("%q gives JSON %q: %v", in, asJSON.String(), err)
		}
		if in != "" && strings.ToValidUTF8(in, "") == in && (got["a"] == nil || *got["a"] != in) {
			t.Errorf("%q gives JSON %q", in, asJSON.String())
		}
	})
}
