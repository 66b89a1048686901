package decision

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// A reader who may delete what two dba have seen, and ten times an hour.
const obliged = `
@id("reader") @max_rows("1000") @max_time("30s") @max_commands_per_hour("100")
permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);
@id("reader-again") @max_rows("10") @max_bytes("1MiB")
permit (principal in Role::"reader", action in Action::"read", resource);
@id("cleaner") @approval("dba:2") @max_writes_per_hour("10")
permit (principal in Role::"reader", action == Action::"postgres:delete", resource);
@id("canary") @alert("canary")
forbid (principal, action, resource == Object::"orders/public.canary");
`

func obligedBook(t testing.TB) *book {
	b := separated(t, obliged)
	id := b.ask(wanted, "")
	if err := b.says("bob", id, evidence.Approved); err != nil {
		t.Fatal(err)
	}
	a, _ := b.r.Approval(id)
	b.do(evidence.GrantCreate, a.GrantOf(by("bob")))
	return b
}

func (b *book) command(action, object string) Request {
	return Request{Agent: "bot", Resource: "orders", Time: b.now, Path: "simple", Checks: []evidence.Check{{Action: action, Object: object}}}
}

func TestTheStrictestObligationWins(t *testing.T) {
	b := obligedBook(t)
	d := b.r.Decide(b.command("postgres:select", "public.t"))
	want := &evidence.Obligations{Rows: 10, Bytes: 1 << 20, Millis: 30_000, Commands: 100}
	if d.Effect != evidence.Allow || !reflect.DeepEqual(d.Obligations, want) {
		t.Errorf("%s %+v, want %+v", d.Effect, d.Obligations, want)
	}
	d = b.r.Decide(b.command("postgres:select", "public.canary"))
	if d.Effect != evidence.Deny || !reflect.DeepEqual(d.Obligations, &evidence.Obligations{Alert: []string{"canary"}}) {
		t.Errorf("%s %+v", d.Effect, d.Obligations)
	}
}

func TestALimitRefuses(t *testing.T) {
	b := obligedBook(t)
	q := b.command("postgres:select", "public.t")
	q.Limit = evidence.LimitCommands
	if d := b.r.Decide(q); d.Effect != evidence.Deny || d.Limit != q.Limit || !strings.Contains(d.Reason, "100 commands") {
		t.Errorf("%+v", d)
	}
	q.Limit = evidence.LimitWrites // which no rule sets for reads
	if d := b.r.Decide(q); d.Effect != evidence.Error {
		t.Errorf("%+v", d)
	}
	q = b.command("postgres:connect", "")
	q.Path = evidence.PathConnect
	if d := b.r.Decide(q); d.Effect != evidence.Allow {
		t.Errorf("connecting: %+v", d)
	}
}

func (b *book) hold(q Request, who ...string) string {
	b.t.Helper()
	id := b.do(evidence.ApprovalRequest, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveCommand, Digest: "keyed", Needs: b.r.Decide(q).Obligations.Approval,
		Command: &evidence.HeldCommand{Agent: q.Agent, Resource: q.Resource, Verb: "write", Checks: q.Checks},
		Expires: noon + hour, By: alice,
	})
	for _, p := range who {
		if err := b.says(p, id, evidence.Approved); err != nil {
			b.t.Fatal(err)
		}
	}
	return id
}

func (b *book) use(id string) error {
	b.seq++
	h := evidence.Head{Type: evidence.ApprovalUse, Time: b.now, Agent: "bot", Resource: "orders",
		Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: b.seq}, Of: evidence.Position{Gateway: "gw1", Boot: 1, Seq: b.seq - 1}}
	next, err := b.r.Apply(h, evidence.EncodeBody(evidence.ApprovalUseBody{Request: id, Digest: "keyed"}))
	if err == nil {
		b.r = next
	}
	return err
}

func TestACommandIsApprovedOnce(t *testing.T) {
	b := obligedBook(t)
	q := b.command("postgres:delete", "public.t")
	d := b.r.Decide(q)
	if d.Effect != evidence.Deny || d.Obligations == nil || len(d.Obligations.Approval) != 1 || d.Obligations.Approval[0] != (evidence.ApprovalNeed{Group: "dba", Count: 2}) {
		t.Fatalf("without an approval: %+v", d)
	}
	half := q
	half.Approval = b.hold(q, "carol")
	if d := b.r.Decide(half); d.Effect != evidence.Deny || b.use(half.Approval) == nil {
		t.Errorf("with one of two: %+v", d)
	}
	q.Approval = b.hold(q, "carol", "dave")
	if d := b.r.Decide(q); d.Effect != evidence.Allow || d.Approval != q.Approval {
		t.Errorf("with both: %+v", d)
	}
	other := b.command("postgres:delete", "public.u")
	other.Approval = q.Approval
	if d := b.r.Decide(other); d.Effect != evidence.Deny {
		t.Errorf("for another command: %+v", d)
	}
	if err := b.use(q.Approval); err != nil {
		t.Fatal(err)
	}
	if err := b.use(q.Approval); !errors.Is(err, ErrRetired) {
		t.Errorf("used again: %v", err)
	}
	if d := b.r.Decide(q); d.Effect != evidence.Deny {
		t.Errorf("asked again: %+v", d)
	}
	late := b.command("postgres:delete", "public.t")
	late.Approval = b.hold(late, "carol", "dave")
	late.Time = noon + hour
	if d := b.r.Decide(late); d.Effect != evidence.Deny {
		t.Errorf("after it expired: %+v", d)
	}
	prepare := b.command("postgres:delete", "public.t")
	prepare.Path = evidence.PathPrepare
	if d := b.r.Decide(prepare); d.Effect != evidence.Allow {
		t.Errorf("preparing it: %+v", d)
	}
}

func TestAnAnnotationMustMakeSense(t *testing.T) {
	for note, want := range map[string]string{
		`@max_rows("0")`: "at least 1", `@max_rows("many")`: "whole number", `@max_bytes("10MB")`: "KiB", `@max_time("soon")`: "duration",
		`@approval("dba:0")`: "1 to 16", `@approval("resource")`: "name of a group", `@ticket("please")`: "required", `@alert("no name")`: "a name", `@alert("denials.burst")`: "choose another",
		`@max_row("1")`: "unknown annotation",
	} {
		_, err := Compile(testFiles(note+` @id("r") permit (principal in Role::"reader", action, resource);`), testActions)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", note, err)
		}
	}
	_, err := Compile(testFiles(`@id("f") @max_rows("1") forbid (principal, action, resource);`), testActions)
	if err == nil || !strings.Contains(err.Error(), "forbids") {
		t.Errorf("a limit on a forbid: %v", err)
	}
}

func TestAGrantBeginsLater(t *testing.T) {
	b := separated(t, readers)
	s := wanted
	s.Starts = noon + hour
	id := b.ask(s, "")
	if err := b.says("bob", id, evidence.Approved); err != nil {
		t.Fatal(err)
	}
	a, _ := b.r.Approval(id)
	b.do(evidence.GrantCreate, a.GrantOf(by("bob")))
	q := b.command("postgres:select", "public.t")
	if d := b.r.Decide(q); d.Effect != evidence.Deny || d.Until != s.Starts {
		t.Errorf("before: %+v", d)
	}
	q.Time = s.Starts
	if d := b.r.Decide(q); d.Effect != evidence.Allow || d.Until != s.Expires {
		t.Errorf("then: %+v", d)
	}
}
