package grammar_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case grammar.Argument:
			grammar.Main()
		case probeArgument:
			probe()
		case gatewayArgument:
			actAsGateway()
		}
	}
	os.Exit(m.Run())
}

// childOf is the command of a child that this test binary becomes.
func childOf(argument string) func() *exec.Cmd {
	return func() *exec.Cmd { return exec.CommandContext(context.Background(), "/proc/self/exe", argument) }
}

func start(t *testing.T, cfg grammar.Config) *grammar.Pool {
	t.Helper()
	if cfg.OnBare == nil {
		cfg.OnBare = func(reason string) { t.Errorf("a child runs outside its sandbox: %s", reason) }
	}
	p, err := grammar.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// The child's answer is what the grammar says in this process.
func TestAskIsParse(t *testing.T) {
	p := start(t, grammar.Config{})
	for _, text := range []string{
		"", "SELECT 1", "SELECT a.b AS c, 'x' FROM s.t AS a WHERE a.id = 7 AND note LIKE 'x%'",
		"WITH d AS (DELETE FROM t RETURNING *) SELECT set_config('role', 'x', true) FROM d",
		"PREPARE q AS INSERT INTO t VALUES ($1)", "UPDATE s.t SET a = 1, (b, c) = (DEFAULT, 2) WHERE id = 7", "SELEC 1", "CREATE TEMP TABLE x AS SELECT 1",
	} {
		got, err := p.Ask(context.Background(), text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if want := grammar.Parse(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got %+v\nwant %+v", text, got, want)
		}
	}
}

// most is a text that is as long as one may be, of a unit again and again;
// %d in it counts.
func most(head, unit, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; b.Len() < 256<<10-len(tail)-len(unit)-8; i++ {
		b.WriteString(strings.ReplaceAll(unit, "%d", strconv.Itoa(i)))
	}
	return b.String() + tail
}

// No text takes the pool with it: those that kill the grammar, outlast it or
// are no texts cost an error, those that say too much are refused, and the next
// text is answered.
func TestHostileTexts(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	var told atomic.Int32
	p := start(t, grammar.Config{Workers: 1, OnKill: func(string) { told.Add(1) }})
	for _, c := range []struct {
		name, text string
		want       error // nil: either way, but answered
	}{
		{"a chain that overflows the stack", "SELECT 1" + strings.Repeat("+1", 100_000), grammar.ErrKilled},
		{"brackets", "SELECT " + strings.Repeat("(", 50_000) + "1" + strings.Repeat(")", 50_000), nil},
		{"subselects", strings.Repeat("SELECT (", 20_000) + "1" + strings.Repeat(")", 20_000), nil},
		{"subselects in FROM", strings.Repeat("SELECT * FROM (", 1000) + "SELECT 1" + strings.Repeat(") a", 1000), nil},
		{"a chain of NOT", most("SELECT ", "NOT ", "true"), nil},
		{"unary minus", most("SELECT ", "- ", "x"), nil},
		{"arrays", "SELECT " + strings.Repeat("ARRAY[", 30_000) + "1" + strings.Repeat("]", 30_000), nil},
		{"CASE", "SELECT " + strings.Repeat("CASE WHEN true THEN ", 1000) + "1" + strings.Repeat(" END", 1000), nil},
		{"casts", most("SELECT 1", "::a", ""), nil},
		{"subscripts", most("SELECT a", "[1]", ""), nil},
		{"dots", most("SELECT a", ".a", ""), nil},
		{"an IN list", most("SELECT * FROM t WHERE id IN (1", ",1", ")"), nil},
		{"VALUES", most("INSERT INTO t VALUES (1)", ",(1)", ""), nil},
		{"joins", most("SELECT * FROM t", " JOIN t ON true", ""), nil},
		{"statements", most("", "SELECT 1;", ""), nil},
		{"unions", most("SELECT 1", " UNION SELECT 1", ""), nil},
		{"CTEs", most("WITH a AS (SELECT 1)", ",a%d AS(SELECT)", "SELECT 1"), nil},
		{"columns", most("SELECT 1", ",a%d", ""), nil},
		{"relations", most("SELECT FROM t", ",a%d", ""), nil},
		{"functions", most("SELECT 1", ",a%d()", ""), nil},
		{"dropped tables", most("DROP TABLE t", ",a%d", ""), nil},
		{"alternatives", most("DELETE FROM t WHERE a=0", " OR a=%d", ""), nil},
		{"an identifier", most("SELECT ", "x", ""), nil},
		{"a number", most("SELECT ", "9", ""), nil},
		{"a string", most("SELECT '", "x", "'"), nil},
		{"a pattern", most("SELECT FROM t WHERE a LIKE '", "%_", "'"), nil},
		{"an operator", most("SELECT 1 ", "@-", " 1"), nil},
		{"open comments", most("", "/*", ""), nil},
		{"open quotes", most("SELECT $a$", "$b$", ""), nil},
		{"a NUL", "SELECT 1\x00; DROP TABLE t", grammar.ErrText},
		{"no UTF-8", "SELECT '\xff'", grammar.ErrText},
		{"an overlong NUL", "SELECT '\xc0\x80'", grammar.ErrText},
		{"too long", strings.Repeat(" ", 256<<10+1), grammar.ErrSize},
		{"far too long", "SELECT '" + strings.Repeat("x", 10<<20) + "'", grammar.ErrSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := p.Ask(context.Background(), c.text)
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil && !errors.Is(err, grammar.ErrKilled) && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if f, err := p.Ask(context.Background(), "SELECT 1"); err != nil || len(f.Statements) != 1 {
				t.Fatalf("the next text: %+v, %v", f, err)
			}
		})
	}
	if told.Load() == 0 || p.Kills() != uint64(told.Load()) {
		t.Errorf("%d kills counted, %d told", p.Kills(), told.Load())
	}
}

// A child that hangs is stopped in time, once, and replaced, whether it uses
// the processor or waits.
func TestHang(t *testing.T) {
	for _, text := range []string{"hang", "sleep"} {
		t.Run(text, func(t *testing.T) {
			var told atomic.Int32
			p := start(t, grammar.Config{
				Command: childOf(probeArgument), Workers: 1, Timeout: 200 * time.Millisecond,
				OnKill: func(string) { told.Add(1) },
			})
			began := time.Now()
			if _, err := p.Ask(context.Background(), text); !errors.Is(err, grammar.ErrKilled) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if _, err := p.Ask(context.Background(), "environment"); err != nil {
				t.Errorf("after a hang: %v", err)
			}
			if told.Load() != 1 {
				t.Errorf("told %d times", told.Load())
			}
		})
	}
}

// What counts is the processor time that a text takes, and not how long others
// keep the processor.
func TestABusyMachineMakesNoTextOpaque(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only there it can be read")
	}
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1, Timeout: 200 * time.Millisecond})
	if f, err := p.Ask(context.Background(), "wait for others"); err != nil || f.Refused != "it worked" {
		t.Errorf("%+v, %v", f, err)
	}
}

// Answers that are no answers cost the child, not the gateway.
func TestNonsense(t *testing.T) {
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1})
	for _, text := range []string{"garbage", "huge", "short", "many values"} {
		if _, err := p.Ask(context.Background(), text); !errors.Is(err, grammar.ErrKilled) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// An agent that sends nothing but texts that hang doesn't hold up another's.
func TestSlowTextsHoldUpNobodyElse(t *testing.T) {
	p := start(t, grammar.Config{
		Command: childOf(probeArgument), Workers: 1, Quick: 20 * time.Millisecond, Timeout: time.Minute,
	})
	ctx, stop := context.WithCancel(context.Background())
	var hostile sync.WaitGroup
	for range 20 {
		hostile.Go(func() {
			if _, err := p.Ask(grammar.For(ctx, "hostile"), "hang"); err == nil {
				t.Error("a text that hangs was answered")
			}
		})
	}
	// The first may be answered before the others are there.
	for range 10 {
		patience, enough := context.WithTimeout(grammar.For(context.Background(), "other"), 30*time.Second)
		if f, err := p.Ask(patience, "environment"); err != nil || f.Refused != "refused" {
			t.Errorf("the other agent's text: %+v, %v", f, err)
		}
		enough()
	}
	stop()
	p.Close()
	hostile.Wait()
}

// A text that was sent away because others waited starts over, and is answered.
func TestPatientTextsAreAnswered(t *testing.T) {
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1, Quick: time.Millisecond, Timeout: time.Minute})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx := grammar.For(context.Background(), strconv.Itoa(i%4))
			if f, err := p.Ask(ctx, "take a while"); err != nil || f.Refused != "it worked" {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
	wg.Wait()
	if p.Kills() != 0 {
		t.Errorf("%d kills", p.Kills())
	}
}

// Where no child can be started texts fail at once, attempts become rare, and
// it is told once: when it begins, and when it is over.
func TestNoChildToBeHad(t *testing.T) {
	var broken atomic.Bool
	var started atomic.Int32
	told := make(chan error, 100)
	p := start(t, grammar.Config{
		Workers: 1,
		Command: func() *exec.Cmd {
			if started.Add(1); broken.Load() {
				return exec.CommandContext(context.Background(), "/nonexistent")
			}
			return childOf(probeArgument)()
		},
		OnDown: func(err error) { told <- err },
		OnKill: func(string) {},
	})
	broken.Store(true)
	if _, err := p.Ask(context.Background(), "short"); !errors.Is(err, grammar.ErrPool) {
		t.Errorf("with its only child gone: %v", err)
	}
	started.Store(0)
	for range 1000 {
		if _, err := p.Ask(context.Background(), "environment"); !errors.Is(err, grammar.ErrPool) {
			t.Fatalf("got %v", err)
		}
	}
	if n := started.Load(); n > 100 {
		t.Errorf("%d attempts to start a child over 1000 texts", n)
	}
	broken.Store(false)
	for {
		if _, err := p.Ask(context.Background(), "environment"); err == nil {
			break
		} else if !errors.Is(err, grammar.ErrPool) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(told) != 2 {
		t.Errorf("told %d times", len(told))
	}
	if down, up := <-told, <-told; down == nil || up != nil {
		t.Errorf("told %v, then %v", down, up)
	}
}

// A child has a life of so much processor time and is then replaced without
// anybody noticing.
func TestManyTexts(t *testing.T) {
	p := start(t, grammar.Config{Workers: 2})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if f, err := p.Ask(context.Background(), "SELECT * FROM t WHERE id = 1"); err != nil || len(f.Statements) != 1 {
					t.Errorf("%+v, %v", f, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if p.Kills() != 0 {
		t.Errorf("%d kills", p.Kills())
	}
}

func TestClosed(t *testing.T) {
	p := start(t, grammar.Config{})
	p.Close()
	if _, err := p.Ask(context.Background(), "SELECT 1"); !errors.Is(err, grammar.ErrPool) {
		t.Errorf("got %v", err)
	}
}

func TestWaitingEndsWithContext(t *testing.T) {
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1, Quick: time.Hour, Timeout: time.Hour})
	go p.Ask(context.Background(), "hang") //nolint:errcheck // it is to hang
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, err := p.Ask(ctx, "environment")
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil { // until then it comes before the one that hangs
			t.Fatal(err)
		}
	}
}

func BenchmarkAsk(b *testing.B) {
	p, err := grammar.Start(grammar.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for b.Loop() {
		if _, err := p.Ask(context.Background(), "SELECT abalance FROM pgbench_accounts WHERE aid = 12345"); err != nil {
			b.Fatal(err)
		}
	}
}
