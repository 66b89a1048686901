package decision

import (
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const hoursPolicy = `
@id("writer-hours")
permit (principal in Role::"writer", action in Action::"write", resource)
when { context.time.weekday <= 5 && context.time.hour >= 8 && context.time.hour < 18 };

@id("writer-reads")
permit (principal in Role::"writer", action in Action::"read", resource);
`

func at(t *testing.T, s string) int64 {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.UnixMicro()
}

// The hour and the weekday are those of the request's own time, in UTC.
func TestRulesCanAskForTheTime(t *testing.T) {
	b := newBook(t)
	b.resources("orders-db")
	b.policy(hoursPolicy)
	b.agent("bot")
	b.grant("bot", "writer", "orders-db", noon+100*24*hour)
	for _, tc := range []struct {
		at  string
		may bool
	}{
		{"2027-01-15T08:00:00Z", true}, // a Friday
		{"2027-01-15T17:59:59.999999Z", true},
		{"2027-01-15T18:00:00Z", false},
		{"2027-01-16T12:00:00Z", false}, // Saturday
		{"2027-01-17T12:00:00Z", false}, // Sunday
		{"2027-01-18T07:59:59Z", false}, // Monday
		{"2027-01-18T08:00:00Z", true},
		{"2027-01-18T08:30:00+02:00", false}, // 06:30 in UTC
	} {
		q := ask("bot", "orders-db", "postgres:insert", "public.t")
		q.Time = at(t, tc.at)
		if d := b.r.Decide(q); (d.Effect == evidence.Allow) != tc.may || d.Effect == evidence.Error {
			t.Errorf("%s: %s %q", tc.at, d.Effect, d.Reason)
		}
	}
}

// A decision that looked at the clock holds until the full hour and no longer;
// one that didn't holds as long as its grants.
func TestADecisionOnTheClockHoldsForTheHour(t *testing.T) {
	b := newBook(t)
	b.resources("orders-db")
	b.policy(hoursPolicy)
	b.agent("bot")
	end := at(t, "2027-01-15T12:20:00Z")
	b.grant("bot", "writer", "orders-db", end)
	write, read := ask("bot", "orders-db", "postgres:insert", ""), ask("bot", "orders-db", "postgres:select", "")
	write.Time, read.Time = at(t, "2027-01-15T10:30:00.000001Z"), at(t, "2027-01-15T10:30:00Z")
	if d := b.r.Decide(write); d.Until != at(t, "2027-01-15T11:00:00Z") {
		t.Errorf("the write holds until %s", time.UnixMicro(d.Until).UTC())
	}
	if d := b.r.Decide(read); d.Until != end {
		t.Errorf("the read holds until %s", time.UnixMicro(d.Until).UTC())
	}
	write.Time = at(t, "2027-01-15T12:00:00Z")
	if d := b.r.Decide(write); d.Until != end {
		t.Errorf("past the last hour it holds until %s", time.UnixMicro(d.Until).UTC())
	}
	// A refusal changes at the full hour, too.
	write.Time = at(t, "2027-01-15T07:10:00Z")
	b.now = at(t, "2027-01-15T07:00:00Z")
	b.grant("bot", "writer", "orders-db", end)
	if d := b.r.Decide(write); d.Effect != evidence.Deny || d.Until != at(t, "2027-01-15T08:00:00Z") {
		t.Errorf("%s until %s", d.Effect, time.UnixMicro(d.Until).UTC())
	}
}

func TestTheClockIsFoundWhereverARuleLooksAtIt(t *testing.T) {
	for cond, timed := range map[string]bool{
		`context.time.hour > 3`:                                      true,
		`context has time && context.time.hour > 3`:                  true,
		`context has time.hour`:                                      true,
		`context["time"].hour > 3`:                                   true,
		`{"a": context}.a.time.hour > 3`:                             true,
		`context == {}`:                                              true,
		`if context has ticket then context.time.hour > 3 else true`: true,
		`["context"].contains(context.ticket)`:                       false,
		`context.ticket == "time"`:                                   false,
		`context has timer && context.timer == "x"`:                  false,
		`resource has time && resource.time == 1`:                    false,
	} {
		p, err := Compile(testFiles(`@id("r") permit (principal in Role::"r", action, resource) when { `+cond+` };`), testActions)
		if err != nil {
			t.Errorf("%s: %v", cond, err)
			continue
		}
		if p.timed != timed {
			t.Errorf("%s: timed is %t", cond, p.timed)
		}
	}
}

// What a protocol calls time is not the clock.
func TestNobodyStatesTheTime(t *testing.T) {
	b := newBook(t)
	b.resources("orders-db")
	b.policy(hoursPolicy)
	b.agent("bot")
	b.grant("bot", "writer", "orders-db", noon+hour)
	q := ask("bot", "orders-db", "postgres:insert", "")
	q.Command = evidence.Facts{"time": "always"}
	if d := b.r.Decide(q); d.Effect != evidence.Error {
		t.Errorf("%s %q", d.Effect, d.Reason)
	}
}

func TestHoursBeforeTheEpoch(t *testing.T) {
	if got := nextHour(-1); got != 0 {
		t.Error(got)
	}
	if got := nextHour(-hour); got != 0 {
		t.Error(got)
	}
}

// Another bundle decides over the same agents and grants, and the registry that
// it was made of stays as it was.
func TestWithAnotherBundle(t *testing.T) {
	b := shop(t)
	b.grant("billing-bot", "reader", "orders-db", noon+hour)
	p, err := Compile(testFiles(`@id("only-writes") permit (principal in Role::"reader", action in Action::"write", resource);`), testActions)
	if err != nil {
		t.Fatal(err)
	}
	other := b.r.With(p)
	for action, now := range map[string]evidence.Effect{"postgres:select": evidence.Allow, "postgres:insert": evidence.Deny} {
		q := ask("billing-bot", "orders-db", action, "public.t")
		before, after := b.r.Decide(q), other.Decide(q)
		if before.Effect != now || after.Effect == now || after.Policy != p.Digest() || b.r.Policy() == p.Digest() {
			t.Errorf("%s: %s, then %s", action, before.Effect, after.Effect)
		}
	}
}
