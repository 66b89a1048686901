package policy

import (
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
	body, err := LoadFS(Example(), "examples/policies", sql.Actions)
	if err != nil {
		t.Fatal(err)
	}
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
	apply(evidence.ConfigChange, evidence.ConfigBody{Digest: "d", Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres"}}, By: by})
	_, p := r.Bundle()
	if got := p.Roles(); !slices.Equal(got, []string{"admin", "migrator", "reader", "writer"}) {
		t.Fatalf("roles %v", got)
	}
	for _, role := range p.Roles() {
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
	if _, err := decision.Compile([]evidence.File{{Name: "guide.cedar", Text: text}}, sql.Actions); err != nil || text == "" {
		t.Errorf("its rule: %v", err)
	}
	rows := make(map[string]string) // class to its actions
	for line := range strings.Lines(string(guide)) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			rows[strings.Trim(cells[1], " `")] = cells[2]
		}
	}
	for action, classes := range sql.Actions {
		name := "`" + strings.TrimPrefix(action, sql.Prefix) + "`"
		if !strings.Contains(rows[classes[0]], name) {
			t.Errorf("%s is missing in class %s", name, classes[0])
		}
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
