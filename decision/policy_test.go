package decision

import (
	"errors"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func TestCompileRefuses(t *testing.T) {
	const reader = `@id("r") permit (principal in Role::"reader", action, resource)`
	for _, tc := range []struct{ name, text, says string }{
		{"what is not Cedar", "@id(\"r\")\npermit (principal in Role::\"r\", action resource);", `a.cedar:2:`},
		{"a text that never ends", `@id("r`, `a.cedar:1:`},
		{"a rule without id", `permit (principal in Role::"reader", action, resource);`, `a.cedar:1:1: a rule has no @id (hint: put @id`},
		{"an id that isn't a name", `@id("a b") permit (principal in Role::"reader", action, resource);`, `@id "a b" is not a name`},
		{"an id used twice", reader + ";\n" + reader + ";", `a.cedar:2:1: rule r: its @id is that of the rule at a.cedar:1`},
		{"an unknown annotation", `@mask("x")` + reader + ";", "rule r: unknown annotation @mask (hint: known are"},
		{"a permit for everyone", `@id("r") permit (principal, action, resource);`, "a permit does not name a role"},
		{"a permit for one agent", `@id("r") permit (principal == Agent::"a", action, resource);`, "a permit does not name a role"},
		{"a principal of no such type", `@id("r") forbid (principal == User::"a", action, resource);`, `can never match User::"a"`},
		{"a role as if it were an agent", `@id("r") forbid (principal == Role::"a", action, resource);`, `can never match Role::"a"`},
		{"a principal that is no agent", `@id("r") forbid (principal is Person, action, resource);`, "principal is Person"},
		{"an action misspelt", `@id("r") forbid (principal, action == Action::"postgres:selct", resource);`, `no action Action::"postgres:selct"`},
		{"one misspelt action of several", `@id("r") forbid (principal, action in [Action::"read", Action::"x"], resource);`, `no action Action::"x"`},
		{"a resource of no such type", `@id("r") forbid (principal, action, resource == Table::"x");`, `it is about Table::"x"`},
		{"a resource that is no resource", `@id("r") forbid (principal, action, resource is Table);`, "resource is Table"},
		{"an object without its resource", `@id("r") forbid (principal, action, resource == Object::"orders");`, `an object is named resource/object`},
		{"a resource with an object", `@id("r") forbid (principal, action, resource in Resource::"a/b");`, `a resource's name has no slash`},
		{"a role misspelt in a condition", reader + ` unless { principal in Role::"raeder" };`, `names role "raeder"`},
		{"a role misspelt in a set", reader + ` unless { principal in [Role::"reader", Role::"raeder"] };`, `names role "raeder"`},
		{"an action misspelt in a condition", reader + ` when { action in Action::"raed" };`, `names action "raed"`},
		{"an object that can't be, in a condition", reader + ` when { resource in Resource::"a/b" };`, "can never match"},
		{"an in about another entity", reader + ` when { Role::"reader" in Role::"reader" };`, `left side of an "in"`},
		{"an in about an attribute", reader + ` when { resource.owner in Role::"reader" };`, `left side of an "in"`},
		{"an in deep inside", reader + ` when { if true then [{a: (context.x in Role::"reader")}].contains(1) else false };`, `left side of an "in"`},
		{"an is-in about an attribute", reader + ` when { context.x is Agent in Role::"reader" };`, `left side of an "in"`},
		{"an in inside a function", reader + ` when { ip(if context.x in Role::"reader" then "1.1.1.1" else "::1").isIpv4() };`, `left side of an "in"`},
		{"brackets without end", `@id("r") forbid (principal, action, resource) when {` + strings.Repeat("(", 100_000), "nest deeper"},
		{"what is not UTF-8", reader + "; // \xff", "not UTF-8"},
		{"a file too long", "// " + strings.Repeat("x", MaxFile), "exceeds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Compile(testFiles(tc.text), testActions)
			var load *LoadError
			if !errors.Is(err, ErrPolicy) || !errors.As(err, &load) || load.File != "a.cedar" || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got  %v\nwant %s", err, tc.says)
			}
		})
	}
}

func TestCompileReportsEverythingAtOnce(t *testing.T) {
	_, err := Compile(testFiles(
		"permit (principal, action, resource);\n@id(\"b\") @x permit (principal in Role::\"r\", action == Action::\"nope\", resource);",
		"forbid principal;"), testActions)
	if err == nil {
		t.Fatal("a broken bundle was compiled")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, prefix := range []string{"a.cedar:1:1: a permit does not", "a.cedar:1:1: a rule has no", "a.cedar:2:1: rule b: no action", "a.cedar:2:1: rule b: unknown annotation", "b.cedar:1:"} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("line %d of\n%v\ndoes not begin with %s", i, err, prefix)
		}
	}
}

func TestCompileRefusesBundles(t *testing.T) {
	good := evidence.File{Name: "a.cedar", Text: readerPolicy}
	for name, tc := range map[string]struct {
		files   []evidence.File
		actions map[string][]string
	}{
		"files out of order":          {[]evidence.File{{Name: "b.cedar"}, {Name: "a.cedar"}}, testActions},
		"a file twice":                {[]evidence.File{{Name: "b.cedar"}, {Name: "b.cedar"}}, testActions},
		"a file without a name":       {[]evidence.File{{}}, testActions},
		"one id in two files":         {[]evidence.File{good, {Name: "b.cedar", Text: readerPolicy}}, testActions},
		"an action within itself":     {[]evidence.File{}, map[string][]string{"a": {"b"}, "b": {"a"}}},
		"an action that is no name":   {[]evidence.File{}, map[string][]string{"a b": nil}},
		"rules without their actions": {[]evidence.File{good}, nil},
	} {
		if _, err := Compile(tc.files, tc.actions); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompile(t *testing.T) {
	p, err := Compile(testFiles(readerPolicy, writerPolicy), testActions)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Roles(), " "); got != "reader writer" {
		t.Errorf("roles %s", got)
	}
	r, ok := p.Rule("bounded")
	if !ok || r.Effect != "forbid" || r.Hint != "add a WHERE clause" || r.File != "b.cedar" || r.Line != 7 || r.Role != "" || r.Description == "" {
		t.Errorf("rule %+v", r)
	}
	if len(p.Rules()) != 3 || p.Digest() != Digest(testFiles(readerPolicy, writerPolicy), testActions) {
		t.Errorf("rules %+v", p.Rules())
	}
	if got := strings.Join(p.Actions(), " "); got != "kubernetes:exec postgres:connect postgres:delete postgres:do postgres:drop postgres:insert postgres:select" {
		t.Errorf("actions %s", got)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(readerPolicy)
	f.Add(writerPolicy)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile(testFiles(text), testActions)
		if (p == nil) == (err == nil) {
			t.Error("want a policy or an error")
		}
	})
}
