package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// freeze is what people put beside the example policies: nobody writes to t.
const freeze = `@id("freeze")
@description("Nothing is written while the books are closed.")
forbid (principal, action in Action::"write", resource is Object)
when { resource.name == "t" };
`

const freezeTest = `tests:
  - name: the books are closed
    roles: [writer]
    session: {ticket: T-1}
    do: postgres:insert public.t
    expect: %s
    rules: [freeze]
`

// propose proposes the configured folder as Alice and returns the request's id.
func (p *people) propose() string {
	p.t.Helper()
	var r struct{ Request string }
	p.ok(json.Unmarshal([]byte(p.must("policy", "propose", "--ticket", "SEC-1", "--reason", "end of the year", "--json")), &r))
	return r.Request
}

// load writes through live sessions until stop is called. Closed says that from
// now on nothing may get through; what does all the same is counted.
type load struct {
	closed           atomic.Bool
	written, refused atomic.Int64
	leaked           atomic.Int64
	stop             func()
}

func (p *people) load(sessions int) *load {
	p.t.Helper()
	l := &load{}
	var wg sync.WaitGroup
	var over atomic.Bool
	for range sessions {
		c := p.connect()
		wg.Go(func() {
			for !over.Load() {
				closed := l.closed.Load()
				_, err := c.Exec(p.t.Context(), "update t set v = v where id = 1")
				switch {
				case err == nil && closed:
					l.leaked.Add(1)
				case err == nil:
					l.written.Add(1)
				case sqlstate(err) == "42501":
					l.refused.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	l.stop = func() { over.Store(true); wg.Wait() }
	return l
}

// The life of a policy: edited, which counts for nothing; proposed by one person,
// with what it would change; approved by another; activated while agents work;
// taken back; and all of it in a pack that passes.
func TestPoliciesTakeTwoPeople(t *testing.T) {
	p := newPeople(t)
	c := p.connect()
	write := func() error {
		_, err := c.Exec(t.Context(), "insert into t values ($1, 'x') on conflict (id) do nothing", 1000)
		return err
	}
	p.ok(write())

	// A hand edit is not loaded, and the gateway says so, once.
	edit := func(expect string) {
		t.Helper()
		p.ok(os.WriteFile(p.path("policies/freeze.cedar"), []byte(freeze), 0o644))
		p.ok(os.WriteFile(p.path("policies/freeze.test.yaml"), []byte(strings.Replace(freezeTest, "%s", expect, 1)), 0o644))
	}
	edit("allow")
	if out := p.must("reload"); !strings.Contains(out, "is not loaded: another person must approve it") || !strings.Contains(out, "exhibit policy propose") {
		t.Errorf("reload says\n%s", out)
	}
	p.ok(write())
	if out := p.must("policy", "diff"); !strings.Contains(out, `+@id("freeze")`) {
		t.Errorf("the difference is\n%s", out)
	}

	// What fails its tests isn't proposed.
	if out, err := p.exhibit("policy", "propose"); err == nil || !strings.Contains(out, "it is deny, and allow was expected") {
		t.Errorf("a failing test: %v\n%s", err, out)
	}
	if out, err := p.exhibit("policy", "test"); err == nil || !strings.Contains(out, "--- FAIL: freeze.test.yaml:2: the books are closed") {
		t.Errorf("policy test: %v\n%s", err, out)
	}
	edit("deny")
	if out := p.must("policy", "test"); !strings.Contains(out, "21 tests") {
		t.Errorf("policy test:\n%s", out)
	}
	if out := p.must("policy", "backtest", "--days", "1"); !strings.Contains(out, "bot: ") || !strings.Contains(out, "INSERT INTO t") || strings.Contains(out, "'x'") {
		t.Errorf("it would change\n%s", out)
	}
	request := p.propose()
	p.refusedAs(0, "it has 0 of 1 of policy", "policy", "activate", request)
	p.refusedAs(0, "nobody approves their own request", "policy", "approve", request)
	if out := p.mustAs(bobUID, "approval", "show", request); !strings.Contains(out, `+@id("freeze")`) {
		t.Errorf("Bob sees\n%s", out)
	}
	p.mustAs(bobUID, "policy", "approve", request)

	// It counts for the next command of every session.
	l := p.load(4)
	p.until(20*time.Second, "sessions write", func() bool { return l.written.Load() > 50 })
	p.must("policy", "activate", request)
	l.closed.Store(true)
	p.until(20*time.Second, "sessions are refused", func() bool { return l.refused.Load() > 50 })
	l.stop()
	if n := l.leaked.Load(); n > 0 {
		t.Errorf("%d writes passed after the activation", n)
	}
	if err := write(); err == nil || !strings.Contains(err.Error(), "rule freeze forbids postgres:insert on public.t") {
		t.Errorf("a write under the new policy: %v", err)
	}
	p.refusedAs(0, "is used: record", "policy", "activate", request)

	// Why, also later.
	var denied command
	for _, d := range p.did("--agent", "bot", "--denied") {
		denied = d
	}
	if out, err := p.exhibit("explain", denied.ID); err != nil || !strings.Contains(out, "forbidden by freeze (freeze.cedar:1)  Nothing is written") {
		t.Errorf("explained: %v\n%s", err, out)
	}

	// One person goes back at once, and no start undoes it.
	if out := p.mustAs(bobUID, "policy", "rollback", "--reason", "payroll must run"); !strings.Contains(out, "In force: policy ") {
		t.Errorf("rollback says\n%s", out)
	}
	p.ok(write())
	p.stop(syscall.SIGTERM)
	p.start()
	c = p.connect()
	p.ok(write())
	if out, err := p.exhibit("explain", denied.ID); err != nil || !strings.Contains(out, "forbidden by freeze") {
		t.Errorf("explained after the rollback: %v\n%s", err, out)
	}
	out := p.must("policy", "list", "--csv")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || !strings.Contains(lines[2], "alice@example.com,bob@example.com") || !strings.Contains(lines[3], "in force") || !strings.Contains(lines[3], "bob@example.com") {
		t.Errorf("the history is\n%s", out)
	}

	// An edit while the gateway runs is noticed without anybody asking; one that
	// was there at the start, at the start.
	noticed := func() int {
		log, err := os.ReadFile(p.path("gateway.log"))
		p.ok(err)
		return strings.Count(string(log), "the policy folder was edited")
	}
	was := noticed()
	if was != 1 { // by the reload above; what was activated since is nobody's edit
		t.Errorf("%d alerts", was)
	}
	p.ok(os.WriteFile(p.path("policies/freeze.cedar"), []byte(strings.Replace(freeze, "write", "read", 1)), 0o644))
	p.until(time.Minute, "the edit is noticed", func() bool { return noticed() == was+1 })
	p.stop(syscall.SIGTERM)
	p.start()
	if noticed() != was+2 {
		t.Errorf("%d alerts after the start", noticed())
	}
	c = p.connect()
	p.ok(write())

	// What would be enough for the bot, in Cedar that can be used.
	suggested := p.must("suggest", "bot")
	for _, want := range []string{`principal in Role::"bot-orders"`, `resource == Object::"orders/public.t"`, `-@id("reader")`} {
		if !strings.Contains(suggested, want) {
			t.Errorf("no %s in\n%s", want, suggested)
		}
	}
	p.passes()
	edited := 0
	for _, a := range p.table("alerts") {
		if a["rule"] == "policy.edited" {
			edited++
		}
	}
	if edited != noticed() {
		t.Errorf("%d alerts on record, %d in the gateway's log", edited, noticed())
	}
}
