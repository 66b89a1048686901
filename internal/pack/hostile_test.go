package pack_test

import (
	"archive/zip"
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// hostilePack is a pack of a log of hostile texts, made by a hostile name, by
// its files.
func hostilePack(t *testing.T) map[string][]byte {
	t.Helper()
	g, p := packtest.Liar(), params(t)
	p.Organisation = `=1+1 <script>alert(1)</script> ` + "\x1b[2J\u202e Ωmega 名前"
	var b bytes.Buffer
	if _, err := pack.Create(t.Context(), g.Source(), p, &b); err != nil {
		t.Fatal(err)
	}
	check(t, g, b.Bytes())
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// rows reads CSV.
func rows(t *testing.T, b []byte) [][]string {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord = -1
	list, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func readable(name string) bool {
	for _, ext := range []string{".csv", ".html", ".txt", ".jsonl"} {
		if strings.HasSuffix(name, ext) && !strings.HasPrefix(name, "policies/") && !strings.HasPrefix(name, "config/") {
			return true
		}
	}
	return false
}

// Whoever opens a text of a pack, in whatever program, is told what is there,
// and nothing is done that stands there.
func TestNothingHostileReachesWhoReadsAPack(t *testing.T) {
	files := hostilePack(t)
	opened := 0
	for name, b := range files {
		if !readable(name) {
			continue
		}
		opened++
		for _, r := range string(b) {
			if r != '\n' && (!unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Variation_Selector, r)) {
				t.Errorf("%s holds %U, which nobody sees", name, r)
				break
			}
		}
		switch filepath.Ext(name) {
		case ".html":
			checkPage(t, name, b)
		case ".csv":
			for _, row := range rows(t, b) {
				for _, cell := range row {
					if cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
						t.Errorf("%s has the cell %q", name, cell)
					}
				}
			}
		}
	}
	if opened < 40 {
		t.Fatalf("only %d files were looked at", opened)
	}
}

// checkPage wants a page that a browser takes nothing from but text: elements of
// the few kinds that we write, without attributes that run, load or style, under
// a policy that admits none.
func checkPage(t *testing.T, name string, b []byte) {
	t.Helper()
	page := string(b)
	if !regexp.MustCompile(`<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]+'; base-uri 'none'; form-action 'none'">`).MatchString(page) {
		t.Errorf("%s has no strict policy", name)
	}
	allowed := strings.Fields("html head meta title style body h1 h2 p pre ul li table thead tbody tr th td br small")
	for _, m := range regexp.MustCompile(`<!?/?([A-Za-z0-9!-]*)([^>]*)>`).FindAllStringSubmatch(page[strings.Index(page, "<html"):], -1) {
		if !slices.Contains(allowed, m[1]) {
			t.Errorf("%s has the element %s", name, m[0])
		}
		if m[1] != "meta" && m[1] != "html" && m[2] != "" && !regexp.MustCompile(`^ class="[a-z_ ]*"$`).MatchString(m[2]) {
			t.Errorf("%s has the attributes %s", name, m[0])
		}
	}
}

// The workbook holds typed cells alone: no formula, no link, nothing outside.
func TestWorkbookHoldsNothingThatRuns(t *testing.T) {
	files := hostilePack(t)
	book := files["summary.xlsx"]
	z, err := zip.NewReader(bytes.NewReader(book), int64(len(book)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(r); ; {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			e, ok := tok.(xml.StartElement)
			if !ok {
				continue
			}
			if slices.Contains(strings.Fields("f hyperlink hyperlinks externalReference externalLink drawing legacyDrawing oleObject control"), e.Name.Local) {
				t.Errorf("%s has the element %s", f.Name, e.Name.Local)
			}
			for _, a := range e.Attr {
				if a.Name.Local == "TargetMode" || a.Name.Local == "hidden" || a.Name.Local == "state" && a.Value != "frozen" {
					t.Errorf("%s has %s=%q", f.Name, a.Name.Local, a.Value)
				}
			}
		}
	}
}

// office runs LibreOffice, which must say nothing against a file.
func office(t *testing.T, file string, filter ...string) (dir string) {
	t.Helper()
	if _, err := exec.LookPath("soffice"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("LibreOffice is missing; hint: scripts/setup.sh installs it")
		}
		t.Skip("LibreOffice is missing; hint: scripts/setup.sh installs it")
	}
	dir = t.TempDir()
	args := append([]string{"-env:UserInstallation=file://" + filepath.Join(dir, "profile"), "--headless", "--norestore"}, filter...)
	out, err := exec.CommandContext(t.Context(), "soffice", append(args, "--outdir", filepath.Join(dir, "out"), file)...).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("using filter")) {
		t.Fatalf("soffice: %v\n%s", err, out)
	}
	return filepath.Join(dir, "out")
}

// toCSV writes every sheet as it is calculated, cells not as they look.
const toCSV = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1"

// LibreOffice opens the workbook, sees the tables that the CSV files hold, and
// evaluates nothing.
func TestLibreOfficeReadsTheTablesAndEvaluatesNothing(t *testing.T) {
	files := hostilePack(t)
	file := filepath.Join(t.TempDir(), "summary.xlsx")
	if err := os.WriteFile(file, files["summary.xlsx"], 0o600); err != nil {
		t.Fatal(err)
	}
	out := office(t, file, "--convert-to", toCSV)
	tables := workpaper.Populations()
	for _, l := range workpaper.Listings() {
		tables = append(tables, workpaper.Table{Name: l.Name})
	}
	for _, table := range tables {
		got, err := os.ReadFile(filepath.Join(out, "summary-"+table.Name+".csv"))
		if err != nil {
			t.Errorf("no tab of %s: %v", table.Name, err)
			continue
		}
		path := "pop/" + table.Name + ".csv"
		if files[path] == nil {
			path = "listings/" + table.Name + ".csv"
		}
		sameRows(t, table.Name, rows(t, got), rows(t, files[path]))
	}
	for _, tab := range []string{"about", "index", "tests", "exceptions"} {
		if _, err := os.Stat(filepath.Join(out, "summary-"+tab+".csv")); err != nil {
			t.Error(err)
		}
	}
}

// The CSV files, opened as they are by a double click, say what they hold too.
func TestLibreOfficeEvaluatesNothingInCSV(t *testing.T) {
	files := hostilePack(t)
	file := filepath.Join(t.TempDir(), "agents.csv")
	if err := os.WriteFile(file, files["pop/agents.csv"], 0o600); err != nil {
		t.Fatal(err)
	}
	out := office(t, file, "--infilter=CSV:44,34,76,1", "--convert-to", "ods")
	ods := filepath.Join(out, "agents.ods")
	z, err := zip.OpenReader(ods)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	f, err := z.Open("content.xml")
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("table:formula")) {
		t.Error("it found a formula")
	}
	if !bytes.Contains(content, []byte("HYPERLINK")) {
		t.Error("the text of the formula isn't there either")
	}
}

// sameRows compares what a spreadsheet says with CSV. It leaves out what comes
// after the last cell of a row.
func sameRows(t *testing.T, table string, got, want [][]string) {
	t.Helper()
	trim := func(row []string) []string {
		for len(row) > 0 && row[len(row)-1] == "" {
			row = row[:len(row)-1]
		}
		return row
	}
	if len(got) != len(want) {
		t.Errorf("%s has %d rows, CSV %d", table, len(got), len(want))
		return
	}
	for i := range want {
		if g, w := trim(got[i]), trim(want[i]); !slices.Equal(g, w) {
			for j := range w {
				if j >= len(g) || g[j] != w[j] {
					t.Errorf("%s row %d is\n%q, CSV has\n%q", table, i, g[min(j, len(g)-1)], w[j])
					return
				}
			}
		}
	}
}

// README.pdf can be read and searched, whatever the names in it.
func TestPaperIsText(t *testing.T) {
	if _, err := exec.LookPath("pdftotext"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("pdftotext is missing; hint: scripts/setup.sh installs it")
		}
		t.Skip("pdftotext is missing; hint: scripts/setup.sh installs it")
	}
	file := filepath.Join(t.TempDir(), "README.pdf")
	if err := os.WriteFile(file, hostilePack(t)["README.pdf"], 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "pdftotext", "-layout", file, "-").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"Access evidence", `=1+1 <script>alert(1)</script> \u{1b}[2J\u{202e} Ωmega \u{540d}\u{524d}`, "Evidence boundary", "Known gaps",
		"Leaver population: not provided", "Complementary controls", "How to verify", "exhibit-verify PACK --trust trust.json", "decision.replay|command.pairing",
	} {
		if !slices.ContainsFunc(strings.Split(want, "|"), func(s string) bool { return strings.Contains(text, s) }) {
			t.Errorf("the PDF doesn't say %q:\n%s", want, text)
		}
	}
}
