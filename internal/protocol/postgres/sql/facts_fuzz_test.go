package sql

import (
	"encoding/json"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// FuzzFacts holds the gateway to surviving whatever a child says that was taken
// over: it may lie about a text, it may not panic its reader.
func FuzzFacts(f *testing.F) {
	for _, text := range []string{
		"SELECT a.b, set_config('search_path', 'x', true), nextval('s.q') FROM t", "PREPARE p AS SELECT 1", "EXECUTE p",
		"SET search_path TO a, b", "CREATE TABLE s.t (a app.mood)", "SELECT 1; ROLLBACK TO s; RESET ALL",
	} {
		b, err := json.Marshal(grammar.Parse(text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"statements":[{"action":"select","uses":[{"kind":"function","name":"set_config","args":[{"literal":true,"value":"search_path"},{"literal":true}]}]}]}`))
	f.Add([]byte(`{"statements":[{}]}`))
	f.Add([]byte(`{"statements":[{"action":"prepare","text":"\u000199\u0002\u00010\u0002","effects":[{"kind":"prepare"},{"kind":"execute"}]}]}`))
	ix := newIndex(shop())
	f.Fuzz(func(t *testing.T, answer []byte) {
		facts := new(grammar.Facts)
		if json.Unmarshal(answer, facts) != nil {
			return
		}
		un := (&state{index: ix, shapes: newCache[*[len(paths)]*evidence.Shape](1 << 20)}).intern(resolve(ix, PathEnv("public", "x"), facts))
		if len(un.Shape.Checks) == 0 {
			t.Error("facts that ask for no right at all")
		}
	})
}
