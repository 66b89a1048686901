package sql

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// PostgreSQL is the judge: whatever a session does with its search_path, the
// value that the server has is among those that Session thinks possible, and a
// name means what Session's Env makes of it.
func TestSessionFollowsSearchPath(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	u := New(&inProcess{}, shop())
	steps := []string{
		"SET search_path TO app", "SET search_path TO app, public", "SET search_path = 'app, public'", "SET SCHEMA 'app'",
		"SET LOCAL search_path TO app", "SET LOCAL search_path TO \"$user\", app", "SET SESSION search_path TO public",
		"SELECT set_config('search_path', 'app, public', false)", "SELECT set_config('search_path', 'app', true)",
		"SELECT set_config('search_path', 'app', false) WHERE false", "SELECT set_config('search_path', '', false)",
		"RESET search_path", "SET search_path TO DEFAULT", "RESET ALL", "DISCARD ALL",
		"BEGIN", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a",
		"SELECT 1", "SELECT 1/0", "syntax error",
		"SET search_path TO app; SELECT 1/0", "BEGIN; SET search_path TO app; COMMIT; SELECT 1/0", "SET LOCAL search_path TO app; SELECT 1",
		"BEGIN; SET search_path TO app; SAVEPOINT a; SET search_path TO public", "COMMIT; SET search_path TO app", "ROLLBACK; SET LOCAL search_path TO app",
		"EXPLAIN SELECT set_config('search_path', 'app', false)", "EXPLAIN (ANALYZE, ANALYZE off) SELECT set_config('search_path', 'app', false)",
		"EXPLAIN ANALYZE SELECT set_config('search_path', 'app', false)", "DEALLOCATE ALL; PREPARE q AS SELECT set_config('search_path', 'app', false)",
		"PREPARE r AS SELECT set_config('search_path', 'app', false); EXECUTE r; DEALLOCATE r",
		"DROP TABLE IF EXISTS made; CREATE TABLE made AS SELECT set_config('search_path', 'app', false)",
		"CREATE TABLE IF NOT EXISTS public.orders AS SELECT set_config('search_path', 'app', false)",
		"CREATE TABLE IF NOT EXISTS public.orders AS SELECT set_config('search_path', 'app', false) WITH NO DATA",
		"UPDATE pg_settings SET setting = 'app' WHERE name = 'search_path'", "SET search_path TO 'ÉCOLE', app", "SELECT set_config('search_path', 'ÉCOLE', false)",
		"SELECT set_config('search_path', 'app\u00a0', false)", "SET search_path TO '" + strings.Repeat("x", 70) + "'",
		"SET ROLE none", "DO 'BEGIN PERFORM set_config(''search_path'', ''app'', false); END'",
	}
	exact, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		if err := errors.Join(run(conn, "ROLLBACK"), run(conn, "DISCARD ALL")); err != nil {
			t.Fatal(err)
		}
		s := NewSession("postgres", show(t, conn))
		var done []string
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			text := rapid.SampledFrom(steps).Draw(t, "text")
			done = append(done, text)
			un := u.Understand(ctx, text, "simple", s.Env())
			if rapid.Bool().Draw(t, "more") {
				// What a name means later in the same text.
				later := u.Understand(ctx, text+"; SELECT * FROM audit", "simple", s.Env())
				if path, ok := showAfter(conn, text); ok {
					if want := auditIn(path); !strings.Contains(objects(later), want) && !strings.Contains(objects(later), "?.audit app.audit") {
						t.Fatalf("after %q search_path is %q and audit is %s, not one of %s", done, path, want, objects(later))
					}
				}
				un = u.Understand(ctx, text+"; SHOW search_path", "simple", s.Env())
				s.Sent(un)
				s.Done(un, lastOK)
				s.Ready(conn.PgConn().TxStatus())
				continue
			}
			s.Sent(un)
			err := run(conn, text)
			s.Done(un, err == nil)
			s.Ready(conn.PgConn().TxStatus())
			if conn.PgConn().TxStatus() == 'E' {
				continue // SHOW is refused
			}
			env, path := s.Env(), show(t, conn)
			want, ok := parsePath(path, "postgres")
			if all++; len(env.paths) == 1 {
				exact++
			}
			if len(env.paths) == 0 {
				continue // anything is possible
			}
			if !ok || !slices.ContainsFunc(env.paths, func(p []string) bool { return slices.Equal(p, want) }) {
				t.Fatalf("after %q search_path is %q, not of %q", done, path, env.paths)
			}
		}
	})
	if exact*2 < all {
		t.Errorf("the path was known for sure only %d times of %d", exact, all)
	}
}

var lastOK bool // of showAfter

// showAfter runs text and, in one message with it, asks for the search_path.
func showAfter(conn *pgx.Conn, text string) (string, bool) {
	results, err := conn.PgConn().Exec(context.Background(), text+"; SHOW search_path").ReadAll()
	lastOK = err == nil
	if err != nil {
		return "", false
	}
	return string(results[len(results)-1].Rows[0][0]), true
}

// auditIn is what the name audit means in a search_path, of the shop.
func auditIn(setting string) string {
	path, _ := parsePath(setting, "postgres")
	switch {
	case slices.Contains(path, "app"):
		return "app.audit"
	case slices.Contains(path, "public"):
		return "public.audit"
	}
	return "?.audit"
}

func run(conn *pgx.Conn, text string) error {
	_, err := conn.PgConn().Exec(context.Background(), text).ReadAll()
	return err
}

func show(t *rapid.T, conn *pgx.Conn) string {
	results, err := conn.PgConn().Exec(context.Background(), "SHOW search_path").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(results[0].Rows[0][0])
}

// After statements whose effect on the path is sure the path is known.
func TestSessionIsSure(t *testing.T) {
	u := New(&inProcess{}, shop())
	for _, c := range []struct{ texts, want string }{
		{"SET search_path TO app", "app.audit"},
		{"BEGIN|SET search_path TO app|COMMIT", "app.audit"},
		{"SET search_path TO app|BEGIN|SET LOCAL search_path TO public|COMMIT", "app.audit"},
		{"SET search_path TO app|BEGIN|SET search_path TO public|ROLLBACK", "app.audit"},
		{"SET search_path TO app|BEGIN|SELECT 1", "app.audit"},
		{"SET search_path TO public|SELECT set_config('search_path', 'app', false)", "app.audit"},
		{"SET search_path TO app|RESET search_path", "public.audit"},
		{"SET search_path TO app|DISCARD ALL", "public.audit"},
		{"BEGIN|SET LOCAL search_path TO app", "app.audit"},
		{"BEGIN|SET search_path TO app|SAVEPOINT a|SET search_path TO public|ROLLBACK TO a|COMMIT", "app.audit public.audit"}, // both are possible for us
		{"DO 'x'", "?.audit app.audit"},
	} {
		s := NewSession("app_user", `"$user", public`)
		status := byte('I')
		for text := range strings.SplitSeq(c.texts, "|") {
			un := u.Understand(context.Background(), text, "simple", s.Env())
			s.Sent(un)
			s.Done(un, true)
			switch text {
			case "BEGIN":
				status = 'T'
			case "COMMIT", "ROLLBACK":
				status = 'I'
			}
			s.Ready(status)
		}
		if got := objects(u.Understand(context.Background(), "SELECT * FROM audit", "simple", s.Env())); got != c.want {
			t.Errorf("after %s: %s, not %s", c.texts, got, c.want)
		}
	}
}

func objects(u *Understanding) string {
	var names []string
	for _, c := range u.Shape.Checks {
		names = append(names, c.Object)
	}
	return strings.Join(names, " ")
}

// What has been sent and not answered may or may not hold.
func TestSessionCountsWhatIsUnderway(t *testing.T) {
	u := New(&inProcess{}, shop())
	ctx := context.Background()
	s := NewSession("app_user", "public")
	set := u.Understand(ctx, "SET search_path TO app", "simple", s.Env())
	s.Sent(set)
	if got := objects(u.Understand(ctx, "SELECT * FROM audit", "simple", s.Env())); got != "app.audit public.audit" {
		t.Errorf("underway: %s", got)
	}
	s.Done(set, false)
	s.Ready('I')
	if got := objects(u.Understand(ctx, "SELECT * FROM audit", "simple", s.Env())); !strings.Contains(got, "public.audit") {
		t.Errorf("failed: %s", got)
	}
}

// A text that may set anything makes those behind it in a pipeline opaque: they
// may be lexed in another way.
func TestSessionLexingIsInDoubt(t *testing.T) {
	u := New(&inProcess{}, shop())
	ctx := context.Background()
	for _, text := range []string{
		"DO $$ BEGIN PERFORM set_config('standard_conforming_strings', 'off', false); END $$", "CALL p()", "DISCARD ALL", "RESET ALL", "SELEC 1",
		"UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'", "SELECT set_config(note, 'off', false) FROM orders",
	} {
		s := NewSession("app_user", "public")
		un := u.Understand(ctx, text, "simple", s.Env())
		s.Sent(un)
		if got := u.Understand(ctx, `SELECT '\'; DELETE FROM orders; --'`, "simple", s.Env()); got.Shape.Parse != evidence.ParseOpaque {
			t.Errorf("behind %s: %s", text, got)
		}
		s.Done(un, true)
		s.Ready('I')
		if got := u.Understand(ctx, "SELECT 1", "simple", s.Env()); got.Shape.Parse != evidence.ParseFull {
			t.Errorf("after %s: %s", text, got)
		}
	}
}

// A cursor's query runs when rows are fetched. One that sets something isn't
// understood: nobody could say from when on it holds.
func TestCursorThatSets(t *testing.T) {
	u := New(&inProcess{}, shop())
	for _, text := range []string{
		"DECLARE c CURSOR FOR SELECT set_config('search_path', 'app', false)",
		"EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT set_config('work_mem', '1MB', false)",
		"DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY set_config('search_path', 'app', false)",
	} {
		if un := understand(u, text); un.Shape.Verb != evidence.VerbOpaque {
			t.Errorf("%q: %s", text, un)
		}
	}
}

// Once texts may be lexed in another way they are opaque, until the server
// says that they aren't.
func TestSessionLexing(t *testing.T) {
	u := New(&inProcess{}, shop())
	ctx := context.Background()
	for _, text := range []string{"SET client_encoding TO 'SJIS'", "SET NAMES 'latin1'", "SET standard_conforming_strings TO off", "SELECT set_config('client_encoding', 'GBK', false)"} {
		s := NewSession("app_user", "public")
		un := u.Understand(ctx, text, "simple", s.Env())
		s.Sent(un)
		if got := u.Understand(ctx, "SELECT 1", "simple", s.Env()); got.Shape.Parse != evidence.ParseOpaque {
			t.Errorf("after %s: %s", text, got)
		}
		s.Parameter("client_encoding", "GBK")
		s.Done(un, true)
		s.Ready('I')
		if got := u.Understand(ctx, "SELECT 1", "simple", s.Env()); got.Shape.Parse != evidence.ParseOpaque {
			t.Errorf("after %s: %s", text, got)
		}
		s.Parameter("client_encoding", "UTF8")
		if got := u.Understand(ctx, "SELECT 1", "simple", s.Env()); got.Shape.Parse != evidence.ParseFull {
			t.Errorf("back again after %s: %s", text, got)
		}
	}
}

// EXECUTE is what it runs: by the path of the moment.
func TestExecute(t *testing.T) {
	u := New(&inProcess{}, shop())
	ctx := context.Background()
	s := NewSession("app_user", "public")
	do := func(text string) *Understanding {
		un := u.Execute(u.Understand(ctx, text, "simple", s.Env()), func(name string, env Env) *Understanding {
			if p := s.Prepared(name); p != nil {
				return u.Inner(p, env)
			}
			return nil
		})
		s.Sent(un)
		s.Done(un, true)
		s.Ready('I')
		return un
	}
	if un := do("EXECUTE q"); un.Shape.Verb != evidence.VerbOpaque {
		t.Errorf("unknown: %s", un)
	}
	do("PREPARE q AS DELETE FROM orders")
	do("SET search_path TO app, public")
	un := do("EXECUTE q")
	if un.Shape.Verb != evidence.VerbWrite || un.Shape.Parse != evidence.ParseFull || un.Shape.Facts["bounded"] != false || !strings.Contains(objects(un), "public.orders") {
		t.Errorf("known: %s", un)
	}
	if again := do("EXECUTE q"); again.Shape != un.Shape {
		t.Error("the same has another shape")
	}
	if un := do("EXPLAIN ANALYZE EXECUTE q"); un.Shape.Verb != evidence.VerbWrite {
		t.Errorf("explained and run: %s", un)
	}
	if un := do("PREPARE r AS UPDATE audit SET what = 'x'; EXECUTE r"); un.Shape.Verb != evidence.VerbWrite || !strings.Contains(objects(un), "app.audit") {
		t.Errorf("in one text: %s", un)
	}
	do("PREPARE m AS SELECT * FROM audit")
	if un := do("SET search_path TO public; EXECUTE m"); strings.Contains(objects(un), "app.audit") {
		t.Errorf("after the path has moved: %s", un)
	}
	if un := do("SET search_path TO app; EXECUTE m"); !strings.Contains(objects(un), "app.audit") {
		t.Errorf("after the path has moved back: %s", un)
	}
	if un := do(strings.Repeat("EXECUTE m;", maxExecutes)); un.Shape.Parse != evidence.ParseFull {
		t.Errorf("many: %s", un)
	}
	if un := do(strings.Repeat("EXECUTE m;", maxExecutes+1)); un.Shape.Verb != evidence.VerbOpaque {
		t.Errorf("too many: %s", un)
	}
	do("PREPARE mover AS SELECT set_config('search_path', 'app', false)")
	if un := do("EXECUTE mover; SELECT * FROM audit"); un.Shape.Verb != evidence.VerbOpaque {
		t.Errorf("behind what moves the path: %s", un)
	}
	if un := do("EXECUTE mover"); un.Shape.Verb == evidence.VerbOpaque || len(un.Effects) < 2 {
		t.Errorf("what moves the path: %s", un)
	}
	do("DEALLOCATE q")
	if un := do("EXECUTE q"); un.Shape.Verb != evidence.VerbOpaque {
		t.Errorf("gone: %s", un)
	}
	do("DISCARD ALL")
	if un := do("EXECUTE r"); un.Shape.Verb != evidence.VerbOpaque {
		t.Errorf("discarded: %s", un)
	}
}

// What a session prepares by name is bounded; past that names are unknown.
func TestSessionForgetsWhatIsTooMuch(t *testing.T) {
	u := New(&inProcess{}, shop())
	s := NewSession("app_user", "public")
	un := u.Understand(context.Background(), "PREPARE q AS SELECT * FROM orders", "simple", s.Env())
	for i := range 100_000 {
		s.Prepare(strconv.Itoa(i), un.Effects[0].Inner)
	}
	if n := len(s.prepared); n == 0 || n > 20_000 || s.held > maxPrepared {
		t.Errorf("%d names, %d bytes", n, s.held)
	}
	if s.Prepared("0") == nil || s.Prepared("99999") != nil {
		t.Error("not the first ones are kept")
	}
	for i := range 100_000 {
		s.Deallocate(strconv.Itoa(i))
	}
	if s.held != 0 {
		t.Errorf("%d bytes are still held", s.held)
	}
}
