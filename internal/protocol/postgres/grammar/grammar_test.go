package grammar_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == grammar.Argument {
		grammar.Main()
	}
	os.Exit(m.Run())
}

func TestAsk(t *testing.T) {
	p, err := grammar.Start(grammar.Config{Command: func() *exec.Cmd { c := exec.Command(os.Args[0], grammar.Argument); c.Stderr = os.Stderr; return c }, OnBare: func(r string) { t.Errorf("not in a sandbox: %s", r) }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, q := range []string{"SELECT a.x AS foo, 'secret' FROM t a WHERE a.id = 12 /* hi */ AND b IN (1,2,3) AND c LIKE 'x%' AND d = $1", "select 1", "insert into s.t values (1) on conflict do nothing returning *",
		"with x as (delete from t where a = a returning *) select count(*) from x", "explain (analyze) update t set a = 1", "create temp table foo as select 1", "select 'a'::varchar(10), x::mytype, now() at time zone 'utc', extract(year from d) from t for update",
		"set role admin", "select 1+"} {
		f, err := p.Ask(context.Background(), q)
		b, _ := json.Marshal(f)
		t.Logf("%s\n %v %s", q, err, b)
	}
}
