package decision

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func TestAllowCitesRulesAndGrants(t *testing.T) {
	b := shop(t)
	first := b.grant("billing-bot", "reader", "orders-db", noon+hour)
	longer := b.grant("billing-bot", "reader", "orders-db", noon+2*hour)
	b.grant("billing-bot", "writer", "orders-db", noon+3*hour)
	b.grant("billing-bot", "reader", "hr-db", noon+second)

	d := b.r.Decide(ask("billing-bot", "orders-db", "postgres:select", "public.orders"))
	want := evidence.Decision{Effect: evidence.Allow, Rules: []string{"reader"}, Grants: []string{first, longer},
		Policy: b.r.Policy(), Until: noon + hour}
	slices.Sort(want.Grants)
	if !equal(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
}

func TestAnAgentIsRefused(t *testing.T) {
	b := shop(t)
	b.agent("idle-bot")
	b.agent("old-bot")
	b.do(evidence.AgentDisable, evidence.DisableBody{Agent: "old-bot", Reason: "done", By: alice})
	short := agentBody("short-bot")
	short.Expires = noon + second
	b.do(evidence.AgentCreate, short)
	lapsed := b.grant("billing-bot", "reader", "hr-db", noon+second)
	b.grant("billing-bot", "writer", "orders-db", noon+hour)
	b.grant("short-bot", "reader", "orders-db", noon+hour)

	later := noon + 2*second
	for _, tc := range []struct {
		name   string
		q      Request
		effect evidence.Effect
		rules  []string
		reason string
	}{
		{"that nobody registered", ask("'; DROP TABLE agents", "orders-db", "postgres:select", "t"), evidence.Deny, nil,
			"this agent is not registered"},
		{"that was retired", ask("old-bot", "orders-db", "postgres:select", "t"), evidence.Deny, nil, "agent old-bot was retired"},
		{"that expired", Request{Agent: "short-bot", Resource: "orders-db", Time: later, Checks: []evidence.Check{{Action: "postgres:select"}}}, evidence.Deny, nil,
			"agent short-bot expired at 2027-01-15 08:00:01 UTC; ask its owner alice@example.com to register a new one"},
		{"on a resource that is not configured", ask("billing-bot", "my-secret-db", "postgres:select", "t"), evidence.Deny, nil,
			"this resource is not configured"},
		{"without a grant", ask("idle-bot", "orders-db", "postgres:select", "public.orders"), evidence.Deny, nil,
			"no rule lets idle-bot do postgres:select on public.orders; it has no grant on orders-db"},
		{"whose grant is over", Request{Agent: "billing-bot", Resource: "hr-db", Time: later, Checks: []evidence.Check{{Action: "postgres:select"}}}, evidence.Deny, nil,
			"no rule lets billing-bot do postgres:select on hr-db; its grant " + lapsed + " (reader) expired at 2027-01-15 08:00:01 UTC"},
		{"whose role doesn't reach so far", ask("billing-bot", "orders-db", "postgres:drop", "public.orders"), evidence.Deny, nil,
			"no rule lets billing-bot do postgres:drop on public.orders; roles here: writer"},
		{"under a condition it doesn't meet", ask("billing-bot", "orders-db", "postgres:insert", "public.orders"), evidence.Deny, nil,
			"no rule lets billing-bot do postgres:insert on public.orders; roles here: writer; hint: present a ticket when you ask for a token"},
		{"by a rule that forbids", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon,
			Checks: []evidence.Check{{Action: "postgres:delete", Object: "public.orders"}}, Session: evidence.Facts{"ticket": "T-1"}, Command: evidence.Facts{"bounded": false}},
			evidence.Deny, []string{"bounded"}, "rule bounded forbids postgres:delete on public.orders; hint: add a WHERE clause"},
		{"with an action nobody knows", ask("billing-bot", "orders-db", "postgres:frobnicate", "t"), evidence.Deny, nil,
			"the policy in force knows no action postgres:frobnicate"},
		{"that asks nothing", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon}, evidence.Error, nil,
			"the command asks nothing that policy could decide"},
		{"that asks too much", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon, Checks: make([]evidence.Check, MaxChecks+1)}, evidence.Error, nil,
			"the command asks 4097 things, and at most 4096 are decided at once"},
		{"when two sources state one fact", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon,
			Checks: []evidence.Check{{Action: "postgres:insert"}}, Session: evidence.Facts{"ticket": ""}, Command: evidence.Facts{"ticket": "T-1"}},
			evidence.Error, nil, `fact "ticket": session and command both state it`},
		{"when a fact is of no known type", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon,
			Checks: []evidence.Check{{Action: "postgres:insert"}}, Command: evidence.Facts{"cost": 1.5}},
			evidence.Error, nil, `fact "cost": float64 is not a bool, string, int64 or list of strings`},
		{"when a name could not be recorded as it is", ask("billing-bot", "orders-db", "postgres:select", "a\xffb"), evidence.Error, nil,
			"a name in the command is not UTF-8"},
		{"when one of several things is refused", Request{Agent: "billing-bot", Resource: "orders-db", Time: noon, Session: evidence.Facts{"ticket": "T-1"},
			Checks: []evidence.Check{{Action: "postgres:insert", Object: "a"}, {Action: "postgres:drop", Object: "b"}, {Action: "postgres:drop", Object: "c"}}},
			evidence.Deny, nil, "no rule lets billing-bot do postgres:drop on b; roles here: writer (and 1 more)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := b.r.Decide(tc.q)
			if d.Effect != tc.effect || !slices.Equal(d.Rules, tc.rules) || d.Reason != tc.reason || d.Grants != nil {
				t.Errorf("got %+v\nwant %s %v %q", d, tc.effect, tc.rules, tc.reason)
			}
			if d.Policy != b.r.Policy() {
				t.Error("the decision doesn't name its policy")
			}
		})
	}
}

func TestARuleThatFailsRefuses(t *testing.T) {
	b := shop(t)
	b.policy(readerPolicy, `
		@id("careless") forbid (principal, action, resource) when { context.ticket == "bad" };
		@id("careless-too") permit (principal in Role::"reader", action, resource) when { context.nothing };`)
	b.grant("billing-bot", "reader", "orders-db", noon+hour)

	q := ask("billing-bot", "orders-db", "postgres:select", "public.orders")
	d := b.r.Decide(q)
	if d.Effect != evidence.Error || !slices.Equal(d.Rules, []string{"careless", "careless-too"}) {
		t.Errorf("got %+v", d)
	}
	if want := "postgres:select on public.orders cannot be decided: rules careless, careless-too failed; `exhibit explain` shows why"; d.Reason != want {
		t.Errorf("reason %q", d.Reason)
	}
	e := b.r.Explain(q)
	if got := e.Checks[0]; len(got.Failures) != 2 || !strings.Contains(got.Failures[0].Text, "ticket") || len(got.Permits) != 1 || got.Permits[0].ID != "reader" {
		t.Errorf("explanation %+v", e)
	}
}

func TestExplainShowsWhatWasMissed(t *testing.T) {
	b := shop(t)
	b.grant("billing-bot", "writer", "orders-db", noon+hour)
	b.grant("billing-bot", "reader", "orders-db", noon+hour)
	e := b.r.Explain(Request{Agent: "billing-bot", Resource: "orders-db", Time: noon,
		Checks: []evidence.Check{{Action: "postgres:select", Object: "a.b"}, {Action: "postgres:insert", Object: "a.b"}}})
	if !slices.Equal(e.Roles, []string{"reader", "writer"}) || e.Effect != evidence.Deny {
		t.Errorf("got %+v", e)
	}
	if c := e.Checks[0]; c.Effect != evidence.Allow || len(c.Permits) != 1 || c.Permits[0].ID != "reader" {
		t.Errorf("select: %+v", c)
	}
	if c := e.Checks[1]; c.Effect != evidence.Deny || len(c.Missed) != 1 || c.Missed[0].ID != "writer" || c.Missed[0].Hint == "" {
		t.Errorf("insert: %+v", c)
	}
}

func TestGrantsCountUntilTheyEnd(t *testing.T) {
	b := shop(t)
	q := ask("billing-bot", "orders-db", "postgres:select", "t")
	allowed := func(at int64) bool { q.Time = at; return b.r.Decide(q).Effect == evidence.Allow }

	b.grant("billing-bot", "reader", "orders-db", noon+hour)
	long := b.grant("billing-bot", "reader", "orders-db", noon+2*hour)
	if !allowed(noon+hour) || allowed(noon+2*hour) {
		t.Error("a grant counts until it expires, and not at that moment")
	}
	b.do(evidence.GrantRemove, evidence.RevokeBody{ID: long, Reason: "done", By: alice})
	if allowed(noon+hour) || !allowed(noon+hour-1) {
		t.Error("a removed grant doesn't count, another still does")
	}
	b.do(evidence.AgentDisable, evidence.DisableBody{Agent: "billing-bot", Reason: "done", By: alice})
	if allowed(noon) {
		t.Error("a retired agent does nothing")
	}
}

func TestUntilIsWhenADecisionCouldChange(t *testing.T) {
	b := shop(t)
	body := agentBody("short-bot")
	body.Expires = noon + hour
	b.do(evidence.AgentCreate, body)
	q := ask("short-bot", "orders-db", "postgres:drop", "t")
	for _, step := range []struct{ expires, want int64 }{
		{0, noon + hour}, {noon + 2*hour, noon + hour}, {noon + 3*second, noon + 3*second}, {noon + 9*second, noon + 3*second},
	} {
		if step.expires > 0 {
			b.grant("short-bot", "reader", "orders-db", step.expires)
		}
		if d := b.r.Decide(q); d.Until != step.want || d.Effect != evidence.Deny {
			t.Errorf("after %+v: %+v", step, d)
		}
	}
	q.Agent = "billing-bot"
	if d := b.r.Decide(q); d.Until != 0 {
		t.Errorf("nothing of billing-bot ends, yet %+v", d)
	}
}

// Names are values to Cedar: nothing in them can become policy, another entity
// or another resource.
func TestHostileNames(t *testing.T) {
	b := newBook(t)
	b.resources("orders-db", "hr-db")
	b.policy(`
		@id("one") permit (principal in Role::"reader", action, resource == Object::"orders-db/public.orders");
		@id("hr") permit (principal in Role::"reader", action, resource in Resource::"hr-db");
		@id("schema") permit (principal in Role::"auditor", action, resource is Object) when { resource.schema == "public" };`)
	b.agent("billing-bot")
	b.agent("audit-bot")
	b.grant("billing-bot", "reader", "orders-db", noon+hour)
	b.grant("audit-bot", "auditor", "orders-db", noon+hour)

	names := []string{
		`public.orders"`, `public.orders\`, `public.orders\u{0}`, "public.orders\x00", `x", Object::"orders-db/public.orders`,
		`/public.orders`, `../hr-db/public.orders`, `hr-db/public.orders`, "public.orders ", "Public.orders", "public.оrders",
		strings.Repeat("x", 1<<20), "*", "public.*", "\u202epublic.orders", "\x1b[2Jpublic.orders\r\n",
	}
	for _, name := range names {
		d := b.r.Decide(ask("billing-bot", "orders-db", "postgres:select", name))
		if d.Effect != evidence.Deny || d.Rules != nil {
			t.Errorf("%.40q: %+v", name, d)
		}
		if len(d.Reason) > 1024 || strings.ContainsAny(d.Reason, "\x00\r\n\x1b\u202e") {
			t.Errorf("%.40q: reason %q", name, d.Reason)
		}
	}
	if d := b.r.Decide(ask("billing-bot", "orders-db", "postgres:select", "public.orders")); d.Effect != evidence.Allow {
		t.Errorf("the plain name: %+v", d)
	}
	for name, want := range map[string]evidence.Effect{
		"public.a.b": evidence.Allow, "public.": evidence.Allow, ".public": evidence.Deny,
		`"public".a`: evidence.Deny, "public": evidence.Error,
	} {
		if d := b.r.Decide(ask("audit-bot", "orders-db", "postgres:select", name)); d.Effect != want {
			t.Errorf("schema of %q: %+v", name, d)
		}
	}
}

func TestDecisionsAreTheSameBytes(t *testing.T) {
	b := shop(t)
	many := ""
	for _, id := range []string{"z", "m", "a", "k", "b"} {
		many += `@id("` + id + `") permit (principal in Role::"reader", action, resource) when { context has ticket };
			@id("` + id + `-broken") permit (principal in Role::"writer", action, resource) when { {x: context.x1, y: context.x2}.x };`
	}
	b.policy(many)
	for range 5 {
		b.grant("billing-bot", "reader", "orders-db", noon+hour)
	}
	b.grant("billing-bot", "writer", "hr-db", noon+hour)
	for _, q := range []Request{
		{Agent: "billing-bot", Resource: "orders-db", Time: noon, Session: evidence.Facts{"ticket": "T"}, Checks: []evidence.Check{{Action: "postgres:select", Object: "a"}, {Action: "postgres:drop"}}},
		ask("billing-bot", "orders-db", "postgres:select", "a"),
		ask("billing-bot", "hr-db", "postgres:select", "a"),
		{Agent: "billing-bot", Resource: "hr-db", Time: noon, Checks: []evidence.Check{{Action: "postgres:select"}}, Command: evidence.Facts{"a": 1.5, "b": nil, "c": "\xff", "d": 3}},
	} {
		first := evidence.EncodeBody(b.r.Decide(q))
		for range 50 {
			if again := evidence.EncodeBody(b.r.Decide(q)); !bytes.Equal(first, again) {
				t.Fatalf("%s\n%s", first, again)
			}
		}
	}
}

func TestNoPolicyAllowsNothing(t *testing.T) {
	b := newBook(t)
	b.resources("orders-db")
	b.agent("billing-bot")
	d := b.r.Decide(ask("billing-bot", "orders-db", "postgres:select", "t"))
	if d.Effect != evidence.Deny || d.Reason != "no policy is in force" || d.Policy != "" {
		t.Errorf("got %+v", d)
	}
}

func equal(a, b evidence.Decision) bool {
	return a.Until == b.Until && bytes.Equal(evidence.EncodeBody(a), evidence.EncodeBody(b))
}
