package policy

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

const noon = int64(1_800_000_000_000_000)

// house is a registry with the example policies, one resource, and one agent
// per role, named after it.
func house(t *testing.T) *decision.Registry {
	t.Helper()
	body, err := LoadFS(Example(), "examples/policies", words)
	if err != nil {
		t.Fatal(err)
	}
	r := household(t, body, "admin", "migrator", "reader", "writer")
	_, p := r.Bundle()
	if got := p.Roles(); !slices.Equal(got, []string{"admin", "migrator", "reader", "writer"}) {
		t.Fatalf("roles %v", got)
	}
	return r
}

// household is a registry with policies, one resource in production, and an
// agent for each of some roles, named after it.
func household(t *testing.T, body evidence.PolicyBody, roles ...string) *decision.Registry {
	t.Helper()
	by := evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}
	body.By = by
	r := decision.New()
	seq := uint64(0)
	apply := func(typ evidence.Type, b any) {
		t.Helper()
		seq++
		next, err := r.Apply(evidence.Head{Type: typ, Time: noon, Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq}}, evidence.EncodeBody(b))
		if err != nil {
			t.Fatal(err)
		}
		r = next
	}
	apply(evidence.PolicyChange, body)
	apply(evidence.ConfigChange, evidence.ConfigBody{Digest: "d", By: by,
		Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres", Labels: map[string]string{"env": "production"}}}})
	for _, role := range roles {
		apply(evidence.AgentCreate, evidence.AgentBody{Agent: role, Purpose: "test", Owner: by.Person, By: by})
		apply(evidence.GrantCreate, evidence.GrantBody{Agent: role, Role: role, Resource: "orders", Expires: noon + 1, By: by})
	}
	return r
}

func TestTheExampleRoles(t *testing.T) {
	r := house(t)
	type row struct {
		action, object string
		ticket         string
		unbounded      bool
		may            string // roles that may
		says           string // in the reason for the others
	}
	const everyone = "admin migrator reader writer"
	for _, tc := range []row{
		{action: "connect", ticket: "T-1", may: everyone},
		{action: "connect", may: "migrator reader writer", says: "token that names the ticket"},
		{action: "select", object: "public.orders", ticket: "T-1", may: everyone},
		{action: "begin", ticket: "T-1", may: everyone},
		{action: "copy_out", object: "public.orders", ticket: "T-1", may: everyone},
		{action: "insert", object: "public.orders", ticket: "T-1", may: "admin migrator writer", says: "roles here: reader"},
		{action: "insert", object: "public.orders", says: "postgres:insert on public.orders"},
		{action: "update", object: "public.orders", ticket: "T-1", may: "admin migrator writer"},
		{action: "update", object: "public.orders", ticket: "T-1", unbounded: true, says: "rule guard-bounded forbids postgres:update on public.orders; hint: add a WHERE clause"},
		{action: "delete", object: "public.orders", ticket: "T-1", unbounded: true, says: "guard-bounded"},
		{action: "truncate", object: "public.orders", ticket: "T-1", may: "admin migrator writer"},
		{action: "create", object: "public.orders", ticket: "T-1", may: "admin migrator"},
		{action: "drop", object: "public.orders", may: "", says: "no rule lets"},
		{action: "maintenance", ticket: "T-1", may: "admin migrator"},
		{action: "do", ticket: "T-1", may: "admin"},
		{action: "function_write", object: "public.pay", ticket: "T-1", may: "admin"},
		{action: "grant", object: "public.orders", ticket: "T-1", says: "guard-rights"},
		{action: "set_role", ticket: "T-1", says: "guard-rights"},
		{action: "copy_program", ticket: "T-1", says: "guard-outside"},
		{action: "copy_file", ticket: "T-1", says: "guard-outside"},
		{action: "server_file", ticket: "T-1", says: "guard-outside"},
		{action: "load", ticket: "T-1", says: "guard-outside"},
		{action: "opaque", ticket: "T-1", says: "guard-opaque"},
		{action: "select", object: "pg_catalog.pg_class", ticket: "T-1", may: everyone},
		{action: "select", object: "pg_catalog.pg_authid", ticket: "T-1", says: "guard-credentials"},
	} {
		var may []string
		for _, a := range r.Agents() {
			d := r.Decide(decision.Request{
				Agent: a.Agent, Resource: "orders", Time: noon,
				Checks:  []evidence.Check{{Action: "postgres:" + tc.action, Object: tc.object}},
				Session: evidence.Facts{"ticket": tc.ticket, "principal": "", "principal_type": "self", "protocol": "postgres", "tls": true},
				Command: evidence.Facts{"path": "simple", "parse": "full", "statements": int64(1), "bounded": !tc.unbounded, "functions": []string{}},
			})
			switch {
			case d.Effect == evidence.Allow:
				may = append(may, a.Agent)
			case d.Effect != evidence.Deny || !strings.Contains(d.Reason, tc.says):
				t.Errorf("%s, %+v: %s %q", a.Agent, tc, d.Effect, d.Reason)
			}
		}
		if got := strings.Join(may, " "); got != tc.may {
			t.Errorf("%+v\nmay be done by %q", tc, got)
		}
	}
}

// Whatever facts a protocol forgets to state, no example rule may fail: a rule
// that fails refuses everything.
func TestTheExamplesNeverFail(t *testing.T) {
	r := house(t)
	_, p := r.Bundle()
	for _, action := range p.Actions() {
		for _, object := range []string{"", "orders", "public.orders", "pg_catalog."} {
			for _, facts := range []evidence.Facts{nil, {"bounded": false}, {"ticket": "T-1"}} {
				for _, a := range r.Agents() {
					d := r.Decide(decision.Request{Agent: a.Agent, Resource: "orders", Time: noon,
						Checks: []evidence.Check{{Action: action, Object: object}}, Command: facts})
					if d.Effect == evidence.Error {
						t.Errorf("%s does %s on %q: %s", a.Agent, action, object, d.Reason)
					}
				}
			}
		}
	}
}

// The guide's rule loads, and its table has every action in its class.
func TestTheGuideIsRight(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "```cedar\n")
	text, _, _ := strings.Cut(rest, "```")
	b, err := Bundle([]evidence.File{{Name: "guide.cedar", Text: text}}, words)
	if err != nil || text == "" {
		t.Fatalf("its rule: %v", err)
	}
	_, rest, _ = strings.Cut(string(guide), "```yaml\n")
	text, _, _ = strings.Cut(rest, "```")
	report, err := Test(b, []evidence.File{{Name: "guide.test.yaml", Text: text}}, words)
	if err != nil || report.Failed > 0 || len(report.Results) != 2 {
		t.Errorf("its tests: %+v, %v", report, err)
	}
	rows := make(map[string]string) // class to its actions
	for line := range strings.Lines(string(guide)) {
		if cells := strings.Split(line, "|"); len(cells) >= 4 { // a column for each protocol
			if name := strings.Trim(cells[1], " `"); rows[name] == "" { // other tables come later
				rows[name] = cells[2]
			}
		}
	}
	for action, classes := range sql.Actions {
		name := "`" + strings.TrimPrefix(action, sql.Prefix) + "`"
		if !strings.Contains(rows[classes[0]], name) {
			t.Errorf("%s is missing in class %s", name, classes[0])
		}
	}
}

// Each rule of PostgreSQL's guide loads by itself and does what is said of it.
func TestThePostgresGuidesRules(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	var files []evidence.File
	blocks := strings.Split(string(guide), "```cedar\n")[1:]
	for i, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		f := evidence.File{Name: fmt.Sprintf("block%d.cedar", i), Text: text}
		if _, err := decision.Compile([]evidence.File{f}, sql.Actions); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
		files = append(files, f)
	}
	example, err := LoadFS(Example(), "examples/policies", words)
	if err != nil {
		t.Fatal(err)
	}
	example.Files = append(example.Files, files...)
	slices.SortFunc(example.Files, func(a, b evidence.File) int { return strings.Compare(a.Name, b.Name) })
	example.Digest = decision.Digest(example.Files, words.Actions)
	r := household(t, example, "support", "refunds", "assistant", "backup", "writer")
	for _, tc := range []struct {
		agent, action, object string
		facts                 evidence.Facts // besides the usual ones
		may                   bool
	}{
		{"support", "connect", "", nil, true},
		{"support", "begin", "", nil, true},
		{"support", "select", "shop.orders", nil, true},
		{"support", "copy_out", "shop.revenue", nil, true},
		{"support", "select", "shop.customers", nil, false},
		{"support", "select", "public.orders", nil, false},
		{"support", "update", "shop.orders", nil, false},
		{"support", "select", "pg_catalog.pg_class", nil, true},
		{"support", "select", "pg_catalog.pg_authid", nil, false},
		{"refunds", "function_write", "shop.refund", evidence.Facts{"ticket": "CHG-7"}, true},
		{"refunds", "function_write", "shop.refund_all", evidence.Facts{"ticket": "CHG-7"}, false},
		{"writer", "insert", "shop.orders", nil, false}, // production, and no change ticket
		{"writer", "insert", "shop.orders", evidence.Facts{"ticket": "CHG-7"}, true},
		{"writer", "select", "shop.orders", nil, true},
		{"writer", "large_object", "", evidence.Facts{"ticket": "CHG-7"}, false},
		{"writer", "function_write", "shop.touch", evidence.Facts{"ticket": "CHG-7"}, true},
		{"writer", "function_write", "shop.other", evidence.Facts{"ticket": "CHG-7"}, true},
		{"writer", "function_write", "public.touch", evidence.Facts{"ticket": "CHG-7"}, false},
		{"assistant", "connect", "", nil, false},
		{"assistant", "connect", "", evidence.Facts{"principal_type": "human"}, true},
		{"assistant", "select", "shop.orders", evidence.Facts{"principal_type": "human"}, true},
		{"assistant", "select", "shop.orders", evidence.Facts{"principal_type": "human", "tls": false}, false},
		{"assistant", "select", "shop.orders", evidence.Facts{"principal_type": "human", "statements": int64(2)}, false},
		{"backup", "select", "shop.orders", nil, true},
		{"backup", "large_object", "", evidence.Facts{"ticket": "CHG-7"}, true},
		{"backup", "lock", "shop.orders", evidence.Facts{"ticket": "CHG-7"}, false},
		{"backup", "listen", "", nil, true},
		{"backup", "insert", "shop.orders", evidence.Facts{"ticket": "CHG-7"}, false},
	} {
		facts := evidence.Facts{"ticket": "OPS-1", "principal": "", "principal_type": "self", "protocol": "postgres", "tls": true,
			"path": "simple", "parse": "full", "statements": int64(1), "bounded": true, "functions": []string{}}
		maps.Copy(facts, tc.facts)
		d := r.Decide(decision.Request{Agent: tc.agent, Resource: "orders", Time: noon, Session: facts,
			Checks: []evidence.Check{{Action: "postgres:" + tc.action, Object: tc.object}}})
		if d.Effect == evidence.Error || (d.Effect == evidence.Allow) != tc.may {
			t.Errorf("%+v: %s %q", tc, d.Effect, d.Reason)
		}
	}
	if len(files) < 7 {
		t.Errorf("%d blocks", len(files))
	}
}

// Every rule of the examples explains itself, and every guardrail does
// something.
func TestTheExamplesAreDescribed(t *testing.T) {
	_, p := house(t).Bundle()
	for _, rule := range p.Rules() {
		if rule.Description == "" {
			t.Errorf("rule %s has no @description", rule.ID)
		}
	}
}
