package decision

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// The index leaves out rules, and entities carry their ancestors flattened.
// Neither may show: every decision is the one that Cedar makes of all rules
// over a plain entity tree.
func TestIndexIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBook(t)
		b.resources("db1", "db2")
		b.agent("a1")
		b.agent("a2")
		text := strings.Join(rapid.SliceOfN(rapid.Custom(randomRule), 1, 25).Draw(rt, "rules"), "\n")
		b.policy(numberRules(text))
		_, p := b.r.Bundle()
		roles := append(p.Roles(), "r0")
		for range rapid.IntRange(0, 5).Draw(rt, "grants") {
			role := rapid.SampledFrom(roles).Draw(rt, "role")
			if p.HasRole(role) {
				b.grant(rapid.SampledFrom([]string{"a1", "a2"}).Draw(rt, "agent"), role,
					rapid.SampledFrom([]string{"db1", "db2"}).Draw(rt, "resource"), noon+rapid.SampledFrom([]int64{1, hour}).Draw(rt, "expires"))
			}
		}
		q := Request{
			Agent:    rapid.SampledFrom([]string{"a1", "a2"}).Draw(rt, "who"),
			Resource: rapid.SampledFrom([]string{"db1", "db2"}).Draw(rt, "where"),
			Time:     noon + rapid.Int64Range(0, 2).Draw(rt, "when"),
			Checks: []evidence.Check{{
				Action: rapid.SampledFrom([]string{"postgres:select", "postgres:insert", "postgres:drop", "postgres:do", "read"}).Draw(rt, "action"),
				Object: rapid.SampledFrom([]string{"", "s.t", "t", `s."`, "db2/s.t"}).Draw(rt, "object"),
			}},
			Command: rapid.SampledFrom([]evidence.Facts{nil, {"x": "1"}, {"x": int64(1)}}).Draw(rt, "facts"),
		}
		got := b.r.Decide(q)
		effect, rules := decideByAll(b.r, q)
		if got.Effect != effect || !slices.Equal(got.Rules, rules) {
			rt.Fatalf("%s\n%+v\ngot  %s %v\nwant %s %v", text, q, got.Effect, got.Rules, effect, rules)
		}
		if got.Effect == evidence.Allow && len(got.Grants) == 0 {
			rt.Fatalf("%s\n%+v\nallowed without a grant", text, q)
		}
		// A rule is only missed for its conditions, or a hint would mislead.
		for _, rule := range b.r.Explain(q).Checks[0].Missed {
			if !strings.Contains(rule.Text, "when") && !strings.Contains(rule.Text, "unless") {
				rt.Fatalf("%s\n%+v\nmissed without a condition", rule.Text, q)
			}
		}
	})
}

func randomRule(t *rapid.T) string {
	one := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	effect := one("effect", "permit", "forbid")
	principal := `principal in Role::"` + one("role", "r1", "r2", "r3") + `"`
	if effect == "forbid" {
		principal = one("principal", principal, "principal", "principal is Agent", `principal == Agent::"a1"`,
			`principal in Agent::"a2"`, `principal is Agent in Role::"r1"`)
	}
	action := one("action", "action", `action == Action::"postgres:select"`, `action in Action::"read"`, `action in Action::"any"`,
		`action in [Action::"postgres:drop", Action::"write"]`, `action in []`, `action == Action::"read"`)
	resource := one("resource", "resource", "resource is Object", "resource is Resource", `resource == Resource::"db1"`,
		`resource in Resource::"db1"`, `resource in Resource::"db2"`, `resource == Object::"db1/s.t"`, `resource in Object::"db1/s.t"`,
		`resource is Object in Resource::"db1"`, `resource is Resource in Resource::"db1"`, `resource is Resource in Object::"db1/s.t"`)
	when := one("when", "", "", "", ` when { context.x == "1" }`, ` when { context has x }`, ` unless { context has x }`,
		` when { resource in Resource::"db1" }`, ` when { resource.name == "t" }`, ` when { resource has schema && resource.schema like "*s*" }`,
		` when { action in [Action::"any"] }`, ` when { principal in [Role::"keep"] }`, ` when { principal.owner == "alice@example.com" }`,
		` when { resource.labels.env == "prod" }`, ` when { context.x }`, ` when { context.time.hour > 6 }`, ` unless { resource == Resource::"db1" || principal is Agent in Role::"keep" }`)
	return fmt.Sprintf("@id(\"#\") %s (%s, %s, %s)%s;", effect, principal, action, resource, when)
}

// numberRules gives rules their ids and makes the role that conditions name.
func numberRules(text string) string {
	n := 0
	for strings.Contains(text, `"#"`) {
		text = strings.Replace(text, `"#"`, fmt.Sprintf(`"rule-%02d"`, n), 1)
		n++
	}
	return text + "\n@id(\"keep\") permit (principal in Role::\"keep\", action == Action::\"kubernetes:exec\", resource);"
}

// decideByAll decides one check as the Cedar manual says: all rules, and every
// entity with its direct parents only.
func decideByAll(r *Registry, q Request) (evidence.Effect, []string) {
	a, _ := r.agents.get(q.Agent)
	entities := cedar.EntityMap{}
	put := func(id cedar.EntityUID, attributes cedar.Record, parents ...cedar.EntityUID) {
		entities[id] = cedar.Entity{UID: id, Attributes: attributes, Parents: cedar.NewEntityUIDSet(parents...)}
	}
	var roles []cedar.EntityUID
	for _, g := range r.Grants() {
		if g.Agent == q.Agent && g.Resource == q.Resource && g.Active(q.Time) {
			roles = append(roles, roleUID(g.Role))
		}
	}
	put(agentUID(q.Agent), a.attributes, roles...)
	for id, ups := range testActions {
		var parents []cedar.EntityUID
		for _, up := range ups {
			parents = append(parents, actionUID(up))
		}
		put(actionUID(id), cedar.Record{}, parents...)
	}
	target := resourceUID(q.Resource)
	put(target, r.resources[q.Resource].entity.Attributes)
	if name := q.Checks[0].Object; name != "" {
		target = objectUID(q.Resource, name)
		put(target, object(r.resources[q.Resource], name).Attributes, resourceUID(q.Resource))
	}
	context, err := contextOf(&q, true)
	if err != nil {
		panic(err)
	}
	_, p := r.Bundle()
	said, why := cedar.Authorize(slice(p.rules), entities, cedar.Request{
		Principal: agentUID(q.Agent), Action: actionUID(q.Checks[0].Action), Resource: target, Context: context,
	})
	effect, rules := evidence.Deny, []string(nil)
	for _, reason := range why.Reasons {
		rules = append(rules, string(reason.PolicyID))
	}
	if said == cedar.Allow {
		effect = evidence.Allow
	}
	if len(why.Errors) > 0 {
		effect, rules = evidence.Error, nil
		for _, e := range why.Errors {
			rules = append(rules, string(e.PolicyID))
		}
	}
	slices.Sort(rules)
	return effect, rules
}

// Access may leave nothing out: whatever is allowed has a row, and rows that
// say allow or deny are right whatever the facts.
func TestAccessLeavesNothingOut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBook(t)
		b.resources("db1", "db2")
		b.agent("a1")
		b.policy(numberRules(strings.Join(rapid.SliceOfN(rapid.Custom(randomRule), 1, 12).Draw(rt, "rules"), "\n")))
		_, p := b.r.Bundle()
		for _, role := range p.Roles() {
			if rapid.Bool().Draw(rt, "grant "+role) {
				b.grant("a1", role, "db1", noon+hour)
			}
		}
		rows := b.r.Access(noon)
		for _, action := range p.Actions() {
			if strings.HasPrefix(action, "kubernetes:") {
				continue
			}
			for _, object := range []string{"", "s.t", "t"} {
				d := b.r.Decide(ask("a1", "db1", action, object))
				var may, must, never bool
				for _, row := range rows {
					if row.Action != action || row.Object != "" && row.Object != object {
						continue
					}
					may = may || row.Effect != AccessDeny
					must = must || row.Effect == AccessAllow
					never = never || row.Effect == AccessDeny
				}
				switch {
				case d.Effect == evidence.Allow && !may:
					rt.Fatalf("%s on %q is allowed and not listed: %+v\n%+v", action, object, d, rows)
				case d.Effect == evidence.Allow && never, d.Effect == evidence.Deny && must:
					rt.Fatalf("%s on %q is listed otherwise: %+v\n%+v", action, object, d, rows)
				}
			}
		}
	})
}
