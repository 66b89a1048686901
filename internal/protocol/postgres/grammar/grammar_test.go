package grammar_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"reflect"
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
		"PREPARE q AS INSERT INTO t VALUES ($1)", "SELEC 1", "CREATE TEMP TABLE x AS SELECT 1",
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

// No text takes the pool with it: those that kill the grammar, or are no
// texts, cost an error, and the next text is answered.
func TestHostileTexts(t *testing.T) {
	var told atomic.Int32
	p := start(t, grammar.Config{Workers: 1, OnKill: func(string) { told.Add(1) }})
	for _, c := range []struct {
		name, text string
		want       error // nil: either way, but answered
	}{
		{"a chain that overflows the stack", "SELECT 1" + strings.Repeat("+1", 100_000), grammar.ErrKilled},
		{"deep brackets", "SELECT " + strings.Repeat("(", 50_000) + "1" + strings.Repeat(")", 50_000), nil},
		{"deep subselects", strings.Repeat("SELECT (", 20_000) + "1" + strings.Repeat(")", 20_000), nil},
		{"a chain of NOT", "SELECT " + strings.Repeat("NOT ", 60_000) + "true", nil},
		{"deep arrays", "SELECT " + strings.Repeat("ARRAY[", 30_000) + "1" + strings.Repeat("]", 30_000), nil},
		{"many joins", "SELECT * FROM t" + strings.Repeat(" JOIN t ON true", 15_000), nil},
		{"many statements", strings.Repeat("SELECT 1;", 25_000), nil},
		{"many unions", "SELECT 1" + strings.Repeat(" UNION SELECT 1", 15_000), nil},
		{"open comments", strings.Repeat("/*", 100_000), nil},
		{"a NUL", "SELECT 1\x00; DROP TABLE t", grammar.ErrText},
		{"no UTF-8", "SELECT '\xff'", grammar.ErrText},
		{"an overlong NUL", "SELECT '\xc0\x80'", grammar.ErrText},
		{"too long", strings.Repeat(" ", 256<<10+1), grammar.ErrSize},
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

// A child that hangs is stopped in time, once, and replaced.
func TestHang(t *testing.T) {
	var told atomic.Int32
	p := start(t, grammar.Config{
		Command: childOf(probeArgument), Workers: 1, Timeout: 200 * time.Millisecond,
		OnKill: func(string) { told.Add(1) },
	})
	began := time.Now()
	if _, err := p.Ask(context.Background(), "hang"); !errors.Is(err, grammar.ErrKilled) {
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
}

// Answers that are no answers cost the child, not the gateway.
func TestNonsense(t *testing.T) {
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1})
	for _, text := range []string{"garbage", "huge", "short"} {
		if _, err := p.Ask(context.Background(), text); !errors.Is(err, grammar.ErrKilled) {
			t.Errorf("%s: got %v", text, err)
		}
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
	p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1})
	go p.Ask(context.Background(), "hang") //nolint:errcheck // it is to hang
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Ask(ctx, "environment"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
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
