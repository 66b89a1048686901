package verify_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// draw draws a sample that can be drawn.
func draw(t testing.TB, u unpacked, p verify.SampleParams) *verify.Sample {
	t.Helper()
	s, err := verify.DrawSample(u.fs(), p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The specification's five lines, and nothing of ours, draw the same rows.
func TestAnyoneDrawsTheSameRows(t *testing.T) {
	u := unpack(t, create(t, packtest.Day(), at(90), at(160)))
	s := draw(t, u, verify.SampleParams{Population: "commands", Seed: "beacon 4711", N: 5})
	file := u["pop/commands.jsonl"]
	digest := sha256.Sum256(file)
	rank := make(map[string]string)
	for line := range bytes.Lines(file) {
		var row struct {
			ID string `json:"command_id"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		m := hmac.New(sha256.New, []byte("beacon 4711"))
		fmt.Fprintf(m, "%s\x00%s", digest[:], row.ID)
		rank[row.ID] = hex.EncodeToString(m.Sum(nil))
	}
	ids := make([]string, 0, len(rank))
	for id := range rank {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(rank[a], rank[b]) })
	if got := s.Draws[0]; got.Stratum != "all" || got.Rows != uint64(len(ids)) || !slices.Equal(got.IDs, ids[:5]) {
		t.Errorf("drew %v of %d rows, want %v of %d", got.IDs, got.Rows, ids[:5], len(ids))
	}
	if s.Population.SHA256 != hex.EncodeToString(digest[:]) || s.Population.Rows != int64(len(ids)) {
		t.Errorf("the population is %+v", s.Population)
	}
}

// Each stratum is drawn apart, and what an auditor picks is marked.
func TestStrataAndPickedRows(t *testing.T) {
	u := unpack(t, create(t, packtest.Day(), at(0), at(3600)))
	rows := tableOf(t, u, "commands")
	denied, privileged := 0, 0
	for _, r := range rows {
		if r["decision"] != "allow" {
			denied++
		}
		if r["verb"] == "admin" || r["verb"] == "opaque" {
			privileged++
		}
	}
	picked := rows[3]["command_id"].(string)
	s := draw(t, u, verify.SampleParams{Population: "commands", Seed: "s", N: 2, Strata: []string{"denied", "privileged", "quarter", "all"}, Picked: []string{picked}})
	var names []string
	for _, d := range s.Draws {
		names = append(names, fmt.Sprintf("%s %d/%d", d.Stratum, len(d.IDs), d.Rows))
	}
	want := []string{fmt.Sprintf("denied 2/%d", denied), fmt.Sprintf("privileged %d/%d", min(2, privileged), privileged),
		fmt.Sprintf("2027-Q1 2/%d", len(rows)), fmt.Sprintf("all 2/%d", len(rows))}
	if !slices.Equal(names, want) {
		t.Errorf("drew %q, want %q", names, want)
	}
	found := false
	for _, r := range s.Rows {
		found = found || r.ID == picked && r.Judgmental
		if r.Judgmental != (r.ID == picked) || !r.Judgmental && len(r.Strata) == 0 {
			t.Errorf("row %s is marked %v and of %v", r.ID, r.Judgmental, r.Strata)
		}
	}
	if !found {
		t.Errorf("row %s is not marked as picked", picked)
	}
}

func tableOf(t testing.TB, u unpacked, name string) (rows []map[string]any) {
	t.Helper()
	for line := range bytes.Lines(u["pop/"+name+".jsonl"]) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return rows
}

// Rows of every population have ids of their own, so that all can be sampled.
func TestEveryPopulationCanBeSampled(t *testing.T) {
	u := unpack(t, create(t, packtest.Day(), at(0), at(3600)))
	for _, p := range workpaper.Populations() {
		if p.Name == "totals" {
			continue // sums of the others
		}
		n := len(tableOf(t, u, p.Name))
		s := draw(t, u, verify.SampleParams{Population: p.Name, Seed: "s", N: workpaper.MaxSample})
		if s.Draws[0].Rows != uint64(n) || len(s.Rows) != n {
			t.Errorf("of %s's %d rows %d were drawn", p.Name, n, len(s.Rows))
		}
	}
}

func TestWhatCannotBeSampled(t *testing.T) {
	u := unpack(t, create(t, packtest.Day(), at(0), at(3600)))
	for want, p := range map[string]verify.SampleParams{
		"there is no population":            {Population: "secrets", Seed: "s", N: 1},
		"there is no population \"totals\"": {Population: "totals", Seed: "s", N: 1},
		"needs a seed":                      {Population: "commands", N: 1},
		"1 to 10000":                        {Population: "commands", Seed: "s", N: 10_001},
		"neither a number":                  {Population: "commands"},
		"has no row":                        {Population: "commands", Picked: []string{"gw1.9.9"}},
		"picked twice":                      {Population: "commands", Picked: []string{"gw1.1.9", "gw1.1.9"}},
		"has no column verb":                {Population: "agents", Seed: "s", N: 1, Strata: []string{"privileged"}},
		"has no column breakglass":          {Population: "commands", Seed: "s", N: 1, Strata: []string{"break-glass"}},
		"there are all, privileged":         {Population: "commands", Seed: "s", N: 1, Strata: []string{"weekend"}},
		"named twice":                       {Population: "commands", Seed: "s", N: 1, Strata: []string{"all", "all"}},
		"strata and seed mean nothing":      {Population: "commands", Seed: "s", Picked: []string{"gw1.1.9"}},
	} {
		if s, err := verify.DrawSample(u.fs(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: drew %v, error %v, want %q", p, s, err, want)
		}
	}
	u["pop/commands.jsonl"] = append(u["pop/commands.jsonl"], u["pop/commands.jsonl"]...)
	if _, err := verify.DrawSample(u.fs(), verify.SampleParams{Population: "commands", Seed: "s", N: 1}); err == nil {
		t.Error("rows were drawn of another file than the manifest's")
	}
}

// The verifier draws samples again. Findings may be noted; nothing else of a
// sample may change, and what is wrong with one says nothing of the pack.
func TestSamplesAreDrawnAgain(t *testing.T) {
	g := packtest.Day()
	packed := create(t, g, at(0), at(3600))
	u := unpack(t, packed)
	others := unpack(t, create(t, g, at(90), at(160)))
	p := verify.SampleParams{Population: "commands", Seed: "s", N: 4, Strata: []string{"denied", "all"}, Picked: []string{tableOf(t, u, "commands")[0]["command_id"].(string)}}
	for _, c := range map[string]struct {
		change func(*verify.Sample)
		finds  bool
	}{
		"as it is":          {func(*verify.Sample) {}, false},
		"with findings":     {func(s *verify.Sample) { s.Rows[0].Result, s.Rows[0].Note = "exception", "no ticket" }, false},
		"another seed":      {func(s *verify.Sample) { s.Seed = "t" }, true},
		"a row swapped":     {func(s *verify.Sample) { s.Rows[0].ID = "gw1.1.9" }, true},
		"a row left out":    {func(s *verify.Sample) { s.Rows = s.Rows[1:] }, true},
		"a row added":       {func(s *verify.Sample) { s.Rows = append(s.Rows, s.Rows[0]) }, true},
		"drawn, not picked": {func(s *verify.Sample) { s.Judgmental = nil }, true},
		"more records":      {func(s *verify.Sample) { s.Rows[0].Records = append(s.Rows[0].Records, s.Rows[1].Records...) }, true},
		"another algorithm": {func(s *verify.Sample) { s.Algorithm = "the first ones" }, true},
		"another id":        {func(s *verify.Sample) { s.ID = "commands-0" }, true},
		"of another pack": {func(s *verify.Sample) {
			*s = *draw(t, others, verify.SampleParams{Population: "commands", Seed: "s", N: 4})
		}, true},
	} {
		s := draw(t, u, p)
		c.change(s)
		encoded, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := verify.ParseSample(encoded)
		if err != nil {
			t.Fatal(err)
		}
		r, err := verify.Pack(openZip(t, packed), trust(t, g), &verify.Sampled{Sample: read})
		if err != nil {
			t.Fatal(err)
		}
		if c.finds {
			expect(t, r, "sample.drawn")
		} else {
			expect(t, r, "")
		}
	}
}
