package policy

import (
	"testing"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// What is suggested can be used as it stands, and allows what was done and
// nothing else, whatever the names are.
func TestASuggestionAllowsWhatWasUsed(t *testing.T) {
	u := &Used{Agent: "bot"}
	odd := "public.o\"d\\d\n\u202ename"
	for _, c := range []evidence.Check{
		{Action: "postgres:connect"}, {Action: "postgres:begin"},
		{Action: "postgres:select", Object: "public.a"}, {Action: "postgres:select", Object: "public.b"},
		{Action: "postgres:select", Object: odd}, {Action: "postgres:update", Object: odd},
	} {
		u.Add("orders", []evidence.Check{c})
	}
	files := []evidence.File{{Name: "suggested.cedar", Text: u.Cedar()}}
	b, err := Bundle(files, words)
	if err != nil {
		t.Fatalf("%v in\n%s", err, u.Cedar())
	}
	r := household(t, b, "bot-orders")
	for _, tc := range []struct {
		check evidence.Check
		may   bool
	}{
		{evidence.Check{Action: "postgres:connect"}, true},
		{evidence.Check{Action: "postgres:select", Object: "public.a"}, true},
		{evidence.Check{Action: "postgres:select", Object: "public.b"}, true},
		{evidence.Check{Action: "postgres:update", Object: odd}, true},
		{evidence.Check{Action: "postgres:update", Object: "public.a"}, false},
		{evidence.Check{Action: "postgres:select", Object: "public.c"}, false},
		{evidence.Check{Action: "postgres:commit"}, false},
		{evidence.Check{Action: "postgres:begin", Object: "public.a"}, false},
	} {
		d := r.Decide(decision.Request{Agent: "bot-orders", Resource: "orders", Time: noon, Checks: []evidence.Check{tc.check}})
		if (d.Effect == evidence.Allow) != tc.may || d.Effect == evidence.Error {
			t.Errorf("%+v: %s %q", tc.check, d.Effect, d.Reason)
		}
	}
	if u.Commands != 6 || len(u.Diff(mustCompile(t, files), nil)) == 0 {
		t.Errorf("%d commands", u.Commands)
	}
}

func mustCompile(t *testing.T, files []evidence.File) *decision.Policy {
	t.Helper()
	p, err := decision.Compile(files, words.Actions)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
