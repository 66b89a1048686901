package policy

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Every rule of the example sets is tested beside it, and the tests pass.
func TestTheExamplesPassTheirTests(t *testing.T) {
	for name, set := range map[string]fs.FS{"policies": Example(), "guardrails": Guardrails(), "kubernetes": os.DirFS("../../examples/kubernetes")} {
		b, err := LoadFS(set, name, words)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tests, err := LoadTestsFS(set, name)
		if err != nil {
			t.Fatal(err)
		}
		report, err := Test(b, tests, words)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, r := range report.Results {
			if r.Wrong != "" {
				t.Errorf("%s:%d: %s: %s", r.File, r.Line, r.Name, r.Wrong)
			}
		}
		if len(report.Untested) > 0 || len(report.Results) < 20 {
			t.Errorf("%s: %d tests; untested are %q", name, len(report.Results), report.Untested)
		}
	}
}

const testedPolicy = `@id("writer")
@approval("dba:2")
@max_rows("100")
@alert("wrote")
permit (principal in Role::"writer", action in Action::"write", resource)
when { context has statements && context.statements == 1 && principal has team && principal.team == "billing" };

@id("reader")
permit (principal in Role::"reader", action in Action::"read", resource in Resource::"orders");

@id("guard")
@hint("another name")
forbid (principal, action, resource is Object) when { resource.name == "secret" };
`

func tested(t *testing.T, tests string) (Report, error) {
	t.Helper()
	b, err := Bundle([]evidence.File{{Name: "a.cedar", Text: testedPolicy}}, words)
	if err != nil {
		t.Fatal(err)
	}
	return Test(b, []evidence.File{{Name: "a.test.yaml", Text: tests}}, words)
}

func TestWhatATestFinds(t *testing.T) {
	for _, tc := range []struct{ test, wrong string }{
		{"roles: [reader], resource: {name: orders}, do: postgres:select public.a, expect: allow, rules: [reader], obligations: {}", ""},
		{"roles: [reader], resource: {name: orders}, do: ['postgres:select public.a', 'postgres:select public.secret'], expect: deny, rules: [guard], reason: another name", ""},
		{"roles: [reader], resource: {name: others}, do: postgres:select public.a, expect: deny, rules: []", ""},
		{"roles: [writer], agent: {team: billing}, facts: {statements: 1}, do: postgres:insert public.a, expect: deny, obligations: {approval: \"dba:2\", max_rows: 100, alert: wrote}", ""},
		{"roles: [reader], resource: {name: orders}, do: postgres:select public.a, expect: deny", "it is allow, and deny was expected, by reader"},
		{"do: postgres:select public.a, expect: allow", "it is deny, and allow was expected: no rule lets agent do postgres:select on public.a; it has no grant on test"},
		{"roles: [reader], resource: {name: orders}, do: postgres:select public.secret, expect: deny, reason: later", `was expected in it`},
		{"roles: [reader], resource: {name: orders}, do: postgres:select public.a, expect: allow, rules: [guard]", "it rests on the rules reader, and on guard was expected"},
		{"roles: [reader], resource: {name: orders}, do: postgres:select public.a, expect: allow, obligations: {max_rows: 5}", `its obligations are null, and {"rows":5} was expected`},
		{"roles: [writer], agent: {team: billing}, facts: {statements: 1}, do: postgres:insert public.a, expect: deny, obligations: {approval: dba}", `was expected`},
	} {
		report, err := tested(t, "tests:\n  - {name: one, "+tc.test+"}\n")
		switch {
		case err != nil:
			t.Errorf("%s\n%v", tc.test, err)
		case tc.wrong == "" && report.Results[0].Wrong != "", !strings.Contains(report.Results[0].Wrong, tc.wrong):
			t.Errorf("%s\n got %q\nwant %q", tc.test, report.Results[0].Wrong, tc.wrong)
		case (report.Failed == 0) != (tc.wrong == ""):
			t.Errorf("%s: %d failed", tc.test, report.Failed)
		}
	}
}

// A test that can't be understood is an error, with its place: it would show
// nothing.
func TestWhatIsNoTest(t *testing.T) {
	for tests, says := range map[string]string{
		"":                                  "a.test.yaml: it has no tests",
		"tests: []":                         "it has no tests",
		"tests:\n  - name: a\n    dew: x\n": `a.test.yaml:3:5: unknown field "dew"`,
		"tests: [":                          "a.test.yaml:1:",
		"tests:\n  - name: a\n":             `a.test.yaml:2:`,
		"tests:\n  - do: postgres:select\n": "it has no name",
		"tests:\n  - {name: a, do: postgres:selct, expect: allow}":                            "did you mean postgres:select?",
		"tests:\n  - {name: a, do: postgres:select, expect: maybe}":                           "`expect` is allow, deny or error",
		"tests:\n  - {name: a, do: postgres:select, roles: [raeder], expect: deny}":           `no rule names the role "raeder" (hint: there are reader, writer)`,
		"tests:\n  - {name: a, do: postgres:select, session: {tiket: x}, expect: deny}":       `session has no fact "tiket"`,
		"tests:\n  - {name: a, do: postgres:select, facts: {bouned: true}, expect: deny}":     `facts has no fact "bouned"`,
		"tests:\n  - {name: a, do: postgres:select, facts: {bounded: 3}, expect: deny}":       "bounded is a Bool",
		"tests:\n  - {name: a, do: postgres:select, facts: {statements: 1.5}, expect: deny}":  "statements is a Long",
		"tests:\n  - {name: a, do: postgres:select, time: noon, expect: deny}":                `time "noon" is not one`,
		"tests:\n  - {name: a, do: postgres:select, expect: deny, rules: [nobody]}":           `there is no rule "nobody"`,
		"tests:\n  - {name: a, do: postgres:select, expect: deny, obligations: {max_row: 1}}": "unknown annotation @max_row",
		"x: &x [1]\ntests:\n  - {name: a, do: postgres:select, expect: deny}":                 "anchors or aliases",
		"tests:\n  - {name: a, do: postgres:select, expect: deny}\n---\ntests: [{name: b}]":   "one document",
		"tests:\n  - {name: a, do: postgres:select, resource: {name: a/b}, expect: deny}":     "resource name",
	} {
		_, err := tested(t, tests)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\n got %v\nwant %s", tests, err, says)
			continue
		}
		if len(Problems(err)) == 0 {
			t.Errorf("%s: an error without a place", tests)
		}
	}
}

func TestDefaultsOfAFileAndUntestedRules(t *testing.T) {
	report, err := tested(t, `
resource: {name: orders}
roles: [reader]
tests:
  - name: as the file says
    do: postgres:select public.a
    expect: allow
  - name: as the test says
    roles: []
    do: postgres:select public.a
    expect: deny
`)
	if err != nil || report.Failed > 0 || len(report.Results) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	if r := report.Results[1]; r.Line != 8 || r.File != "a.test.yaml" {
		t.Errorf("%s:%d", r.File, r.Line)
	}
	if got := strings.Join(report.Untested, " "); got != "guard writer" {
		t.Errorf("untested are %q", got)
	}
}
