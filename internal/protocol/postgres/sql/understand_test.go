package sql

import (
	"context"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func startGrammar(t testing.TB) *grammar.Pool {
	t.Helper()
	p, err := grammar.Start(grammar.Config{OnBare: func(reason string) { t.Errorf("the grammar runs outside its sandbox: %s", reason) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestTry(t *testing.T) {
	u := New(startGrammar(t), nil)
	env := NewSession("app", `"$user", public`).Env()
	for _, q := range []string{"SELECT a.relname AS foo, 'secret' FROM pg_class a JOIN t ON true WHERE a.oid = 12 /* hi */", "set search_path to x; select * from t", "select set_config('role','x',false), nextval('s.a'), lo_unlink(1)",
		"prepare a as update t set x=1; execute a", "execute b", "select (x).pg_read_file from t", "copy t to program 'x'", "select $$"} {
		t.Logf("%s\n%s", q, u.Understand(context.Background(), q, "simple", env))
	}
}

func BenchmarkTemplate(b *testing.B) {
	u := New(startGrammar(b), nil)
	env := NewSession("app", `"$user", public`).Env()
	texts := []string{"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;", "SELECT abalance FROM pgbench_accounts WHERE aid = 77;"}
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		u.Understand(ctx, texts[i&1], "simple", env)
	}
}

func BenchmarkExact(b *testing.B) {
	u := New(startGrammar(b), nil)
	env := NewSession("app", `"$user", public`).Env()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		u.Understand(ctx, "SELECT abalance FROM pgbench_accounts WHERE aid = $1", "simple", env)
	}
}
