package oscal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// schema is NIST's JSON schema of assessment results and catalogues (a work in
// the public domain), less its texts.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	f, err := os.ReadFile("testdata/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource("oscal.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("oscal.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func check(t *testing.T, s *jsonschema.Schema, text []byte) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("%v\n%.2000s", err, text)
	}
}

// results makes the results of one of the verifier's packs.
func results(t *testing.T, pack string, edit ...func(*verify.Report)) ([]byte, error) {
	t.Helper()
	const dir = "../../../verify/testdata"
	text, err := os.ReadFile(filepath.Join(dir, "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := verify.ParseTrustFile(text)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := f.Trust()
	if err != nil {
		t.Fatal(err)
	}
	p, closer, err := verify.Open(filepath.Join(dir, pack))
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	r, err := verify.Pack(p, trust)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(r)
	}
	var b bytes.Buffer
	err = Results(&b, p, r)
	return b.Bytes(), err
}

// document is what the tests look at.
type document struct {
	Results struct {
		UUID     string
		Metadata struct{ Title, Remarks string }
		Plan     struct{ Href string } `json:"import-ap"`
		Results  []struct {
			Observations []struct {
				UUID, Title string
				Props       []struct{ Name, Value string }
				Evidence    []struct{ Href string } `json:"relevant-evidence"`
			}
			Findings []struct {
				Title  string
				Target struct {
					ID     string `json:"target-id"`
					Status struct{ State, Reason string }
				}
				Related []struct {
					UUID string `json:"observation-uuid"`
				} `json:"related-observations"`
			}
			Reviewed struct {
				Controls []struct {
					Include []struct {
						ID string `json:"control-id"`
					} `json:"include-controls"`
				} `json:"control-selections"`
				Objectives []struct {
					Include []struct {
						ID string `json:"objective-id"`
					} `json:"include-objectives"`
				} `json:"control-objective-selections"`
			} `json:"reviewed-controls"`
		}
		BackMatter struct {
			Resources []struct {
				UUID   string
				Title  string
				Base64 *struct{ Value string }
			}
		} `json:"back-matter"`
	} `json:"assessment-results"`
}

// Promise: what is written is OSCAL, by the published schema; every reference
// leads somewhere; and what had nothing to test has no finding.
func TestResultsAreOSCAL(t *testing.T) {
	s := schema(t)
	vectors := packs(t)
	if len(vectors) < 2 {
		t.Fatalf("%d packs of the verifier's can be told of", len(vectors))
	}
	for _, pack := range vectors {
		t.Run(pack, func(t *testing.T) {
			text, err := results(t, pack)
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, text)
			var d document
			if err := json.Unmarshal(text, &d); err != nil {
				t.Fatal(err)
			}
			look(t, s, &d)
		})
	}
}

// packs are vectors of the verifier's that are sound.
func packs(t *testing.T) (list []string) {
	t.Helper()
	b, err := os.ReadFile("../../../verify/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Pack, Finding string
		Trust         json.RawMessage
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]bool)
	for _, c := range workpaper.Controls() {
		for _, id := range c.Tests {
			tests[id] = true
		}
	}
	for _, v := range vectors {
		if v.Trust == nil && (v.Finding == "" || tests[v.Finding]) && len(list) < 12 {
			list = append(list, v.Pack)
		}
	}
	return list
}

// The schema itself must be able to refuse.
func TestTheSchemaRefuses(t *testing.T) {
	s := schema(t)
	text, err := results(t, packs(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"import-ap"`, `"import-plan"`}, {`"start": "`, `"start": "soon `}, {`"objective-id"`, `"test-id"`},
		{`"state": "satisfied"`, `"state": "fine"`}, {`"uuid": "`, `"uuid": "x`}, {`"collected"`, `"seen"`},
	} {
		broken := bytes.ReplaceAll(text, []byte(change[0]), []byte(change[1]))
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(broken))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(broken, text) || s.Validate(doc) == nil {
			t.Errorf("%s for %s: nobody minds", change[1], change[0])
		}
	}
}

func look(t *testing.T, s *jsonschema.Schema, d *document) {
	t.Helper()
	results := &d.Results
	if !strings.HasPrefix(results.Metadata.Title, "Management evidence") || !strings.Contains(results.Metadata.Remarks, "no opinion") {
		t.Errorf("the title is %q, the remarks %q", results.Metadata.Title, results.Metadata.Remarks)
	}
	resources := make(map[string]bool)
	var catalogue []byte
	for _, r := range results.BackMatter.Resources {
		if resources["#"+r.UUID] {
			t.Errorf("two resources have the id %s", r.UUID)
		}
		resources["#"+r.UUID] = true
		if r.Base64 != nil {
			var err error
			if catalogue, err = base64.StdEncoding.DecodeString(r.Base64.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !resources[results.Plan.Href] {
		t.Errorf("import-ap leads to %s, which isn't there", results.Plan.Href)
	}
	check(t, s, catalogue)
	r := &results.Results[0]
	observed := make(map[string]string)
	state := make(map[string]string)
	for _, o := range r.Observations {
		observed[o.UUID] = o.Title
		for _, p := range o.Props {
			if p.Name == "state" {
				state[o.Title] = p.Value
			}
		}
		for _, e := range o.Evidence {
			if !resources[e.Href] {
				t.Errorf("%s cites %s, which isn't there", o.Title, e.Href)
			}
		}
	}
	found := make(map[string]bool)
	for _, f := range r.Findings {
		found[f.Title] = true
		want := map[string]string{"pass": "satisfied", "fail": "not-satisfied"}[state[f.Title]]
		if f.Target.Status.State != want || want == "" {
			t.Errorf("%s is %s and its finding %s", f.Title, state[f.Title], f.Target.Status.State)
		}
		if len(f.Related) != 1 || observed[f.Related[0].UUID] != f.Title {
			t.Errorf("the finding of %s rests on no observation of it", f.Title)
		}
		if !bytes.Contains(catalogue, []byte(`"id": "`+f.Target.ID+`"`)) {
			t.Errorf("the catalogue has no objective %s", f.Target.ID)
		}
	}
	for id, s := range state {
		name := strings.ReplaceAll(id, `\_`, "_")
		if (s == "not_tested" || s == "no_occurrence") && found[id] {
			t.Errorf("%s is %s and has a finding", name, s)
		} else if (s == "pass" || s == "fail") && objectives()[name] && !found[id] {
			t.Errorf("%s is %s and has no finding", name, s)
		}
	}
	for _, selected := range r.Reviewed.Objectives[0].Include {
		if !bytes.Contains(catalogue, []byte(`"id": "`+selected.ID+`"`)) {
			t.Errorf("the catalogue lacks the objective %s", selected.ID)
		}
	}
	for _, selected := range r.Reviewed.Controls[0].Include {
		if !bytes.Contains(catalogue, []byte(`"id": "`+selected.ID+`"`)) {
			t.Errorf("the catalogue lacks the control %s", selected.ID)
		}
	}
}

// Promise: the same pack gives the same bytes, and another finding gives other
// ids.
func TestResultsHaveNoClock(t *testing.T) {
	pack := packs(t)[0]
	first, err := results(t, pack)
	if err != nil {
		t.Fatal(err)
	}
	again, err := results(t, pack)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, again) {
		t.Error("the same pack gave other bytes")
	}
	other, err := results(t, pack, func(r *verify.Report) {
		i := slices.IndexFunc(r.Checks, func(c *verify.Check) bool { return c.Kind == verify.Control && c.State == workpaper.Pass })
		r.Checks[i].State, r.Checks[i].Failed = workpaper.Fail, 1
	})
	if err != nil {
		t.Fatal(err)
	}
	var a, b document
	if err := errors.Join(json.Unmarshal(first, &a), json.Unmarshal(other, &b)); err != nil {
		t.Fatal(err)
	}
	if a.Results.UUID == b.Results.UUID {
		t.Error("two findings have one id")
	}
}

// Promise: nothing is said of a pack that is not to be relied on.
func TestAnUnsoundPackIsRefused(t *testing.T) {
	text, err := results(t, packs(t)[0], func(r *verify.Report) {
		i := slices.IndexFunc(r.Checks, func(c *verify.Check) bool { return c.ID == "log.checkpoint" })
		r.Checks[i].State = workpaper.Fail
	})
	if !errors.Is(err, ErrUnsound) || len(text) > 0 {
		t.Errorf("%v, and %d bytes were written", err, len(text))
	}
}

// What a table leaves open is absent, not empty.
func TestWhatIsNotKnownIsAbsent(t *testing.T) {
	m := &maker{pack: fstest.MapFS{
		"pop/agents.jsonl":   {Data: []byte(`{"agent_id":"a_b","purpose":null}` + "\n")},
		"pop/sessions.jsonl": {Data: []byte(`{"resource":"orders","protocol":null}` + "\n" + `{"resource":"orders"}` + "\n" + `{"resource":null}` + "\n")},
	}}
	agents, err := m.agents()
	if err != nil {
		t.Fatal(err)
	}
	systems, err := m.systems()
	if err != nil {
		t.Fatal(err)
	}
	exports, err := m.exports() // its table isn't there
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal([]any{agents, systems})
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 1 || len(systems) != 1 || len(exports) != 0 || bytes.Contains(b, []byte("null")) || bytes.Contains(b, []byte("props")) || !bytes.Contains(b, []byte(`"short-name":"a_b"`)) {
		t.Errorf("%s", b)
	}
}

// What people and agents wrote is no markup, and fits the schema.
func TestTextsAreTame(t *testing.T) {
	s := schema(t)
	for _, hostile := range []string{"<script>alert(1)</script>", "[x](javascript:y)", "a\nb", "\u202e", "  ", "{{ insert: param, x }}", "# h", "![](http://x)", "\x00"} {
		got := text(hostile)
		if strings.ContainsAny(strings.NewReplacer(`\\`, "", `\<`, "", `\[`, "", `\{`, "", `\!`, "", `\#`, "").Replace(got), "<[{!#\n\x00\u202e") {
			t.Errorf("%q became %q", hostile, got)
		}
		m := &maker{r: &verify.Report{}, m: &verify.Manifest{Organisation: hostile, Params: verify.Params{From: "2026-01-01T00:00:00.000000Z", To: "2026-07-01T00:00:00.000000Z"}}}
		var b bytes.Buffer
		doc := map[string]any{"assessment-results": map[string]any{
			"uuid": m.id("x"), "metadata": m.metadata("t " + hostile), "import-ap": map[string]any{"href": "#x"},
			"results": []any{map[string]any{"uuid": m.id("y"), "title": line(hostile), "description": text(hostile), "start": m.m.Params.From,
				"props": append(props("a", hostile), props("b", "x")...), "reviewed-controls": reviewed(map[string]bool{"agent.owner": true})}},
		}}
		if err := encode(&b, doc); err != nil {
			t.Fatal(err)
		}
		check(t, s, b.Bytes())
	}
}
