package verify_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// The specification names every check, test and column, so that another
// verifier can be written from it.
func TestSpecificationIsComplete(t *testing.T) {
	text, err := os.ReadFile("../docs/spec/pack.md")
	if err != nil {
		t.Fatal(err)
	}
	spec := string(text)
	g := finish(packtest.Shop())
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if !strings.Contains(spec, "`"+c.ID+"`") {
			t.Errorf("docs/spec/pack.md says nothing of %s", c.ID)
		}
	}
	kinds := map[workpaper.Kind]string{workpaper.Name: ":n", workpaper.Number: ":#", workpaper.Time: ":t"}
	for _, table := range slices.Concat(workpaper.Populations(), workpaper.Listings()[:1], workpaper.ControlTables()) {
		name, _, _ := strings.Cut(table.Name, "@")
		var columns []string
		for _, c := range table.Columns {
			columns = append(columns, "`"+c.Name+kinds[c.Kind]+"`")
		}
		_, line, found := strings.Cut(spec, "\n`"+name+"`")
		line, _, _ = strings.Cut(line, "\n")
		if !found || !strings.HasSuffix(line, ": "+strings.Join(columns, ", ")) {
			t.Errorf("docs/spec/pack.md has other columns of %s than %s", name, strings.Join(columns, ", "))
		}
	}
}
