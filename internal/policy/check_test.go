package policy

import (
	"maps"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// words are those of two protocols.
var words = func() Vocabulary {
	all := maps.Clone(sql.Actions)
	maps.Copy(all, http.Actions)
	maps.Copy(all, kubernetes.Actions)
	return Vocabulary{Actions: all, Facts: map[string]map[string]string{"postgres": sql.Facts, "http": http.Facts, kubernetes.Name: kubernetes.Facts}, Pointers: []string{"http"}}
}()

func rule(condition string) []evidence.File {
	return []evidence.File{{Name: "a.cedar", Text: "// A rule.\n@id(\"r\")\npermit (principal in Role::\"r\", action, resource)\nwhen {\n  " + condition + "\n};\n"}}
}

func TestWhatTheSchemaRefuses(t *testing.T) {
	for condition, says := range map[string]string{
		// Misspelt, which Cedar takes for false of everybody.
		`context has tiket && context.tiket != ""`: `a.cedar:5:15: rule r: no command that the rule is about has context.tiket (hint: did you mean context.ticket?)`,
		`context.time.hours > 3`:                   `a.cedar:5:16: rule r: no time has context.time.hours (hint: did you mean context.time.hour?)`,
		`principal has tem`:                        `no agent has principal.tem (hint: did you mean principal.team?)`,
		`principal.created > 3`:                    `no agent has principal.created (hint: there are env, owner, team)`,
		`resource has label`:                       `no resource has resource.label (hint: did you mean resource.labels?)`,
		`resource is Tabel`:                        `nothing is Tabel (hint: there are Action, Agent, Object, Resource, Role)`,
		// Absent for some, which refuses everything.
		`context.statements > 1`:                            `a.cedar:5:11: rule r: statements may be absent, and then the rule fails (hint: ask ` + "`has statements` first)",
		`resource is Object && resource.schema == "public"`: `schema may be absent`,
		`resource.name == "orders"`:                         `name may be absent`,
		`resource.labels.env == "production"`:               `env may be absent`,
		`principal.team == "billing"`:                       `team may be absent`,
		`context["/amount"] < 5`:                            "hint: ask `context has \"/amount\"` first",
		// Of another type, which is an error or never true.
		`context.ticket > 3`:                              `saw String`,
		`principal.owner == 3`:                            `the types Long and String are not compatible`,
		`if context.tls then 3 else 4`:                    `expected Bool but saw Long`,
		`context has functions && context.functions == 1`: `not compatible`,
	} {
		err := Check(rule(condition), words)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\n got %v\nwant %s", condition, err, says)
			continue
		}
		if n := len(Problems(err)); n != 1 {
			t.Errorf("%s: %d problems\n%v", condition, n, err)
		}
	}
}

func TestWhatTheSchemaAccepts(t *testing.T) {
	for _, condition := range []string{
		`context.ticket like "CHG-*"`,
		`context has ticket && context.ticket != ""`,
		`context has statements && context.statements > 1`,
		`context has bounded && context.bounded`,
		`context has functions && context.functions.contains("shop.pay")`,
		`context.time.hour >= 8 && context.time.weekday <= 5`,
		`resource has schema && resource.schema == "public"`,
		`resource is Object && resource.name == "orders"`,
		`resource.labels has env && resource.labels.env == "production"`,
		`resource in [Object::"orders/public.a", Object::"orders/public.b"]`,
		`principal has team && principal.team == "billing"`,
		`context has "/amount" && context["/amount"] < 5`,
		`context has "/path" && context["/path"] like "/srv/*"`,
		`context has "/tags" && context["/tags"].contains("x")`,
		`context has "/a" && context has "/b" && context["/a"] < 5 && context["/b"]`,
		`context has method && context.method == "GET"`,
	} {
		if err := Check(rule(condition), words); err != nil {
			t.Errorf("%s\n%v", condition, err)
		}
	}
}

// A fact of one protocol is none of a rule that is about another's actions.
func TestFactsAreThoseOfTheRulesActions(t *testing.T) {
	text := "@id(\"r\") permit (principal in Role::\"r\", action in [Action::\"http:post\"], resource) when { context has bounded && context.bounded };"
	err := Check([]evidence.File{{Name: "a.cedar", Text: text}}, words)
	if err == nil || !strings.Contains(err.Error(), "no command that the rule is about has context.bounded") {
		t.Error(err)
	}
	text = strings.Replace(text, "http:post", "connect", 1)
	if err := Check([]evidence.File{{Name: "a.cedar", Text: text}}, words); err == nil {
		t.Error("connecting has no facts of a statement")
	}
}

// The facts that every session states are those that it does state.
func TestTheSessionsFacts(t *testing.T) {
	facts := session.Facts("postgres", session.Principal{}, true)
	for name, v := range facts {
		kind := map[bool]string{true: "Bool", false: "String"}[v == true]
		if sessionFacts[name] != kind {
			t.Errorf("%s is %v, in the schema %q", name, v, sessionFacts[name])
		}
	}
	if len(facts) != len(sessionFacts) {
		t.Errorf("%d facts, in the schema %d", len(facts), len(sessionFacts))
	}
}

func TestTheSchemaIsTheSameEachTime(t *testing.T) {
	first, err := words.Schema([]string{"env", "team"})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if again, _ := words.Schema([]string{"env", "team"}); again != first {
			t.Fatal("it differs")
		}
	}
	for _, part := range []string{"entity Agent in Role", `action "postgres:select" in read`, "bounded?: Bool", "weekday: Long"} {
		if !strings.Contains(first, part) {
			t.Errorf("no %s", part)
		}
	}
}
