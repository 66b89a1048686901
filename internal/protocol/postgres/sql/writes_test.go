package sql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What a write sets off is among its checks: each table that a rule or a
// foreign key changes, and each function that a trigger, rule, default or the
// like runs. PostgreSQL's own counters say which they were.
func TestChecksCoverWhatWritesSetOff(t *testing.T) {
	t.Parallel()
	for _, version := range listed {
		t.Run(version, func(t *testing.T) {
			if testing.Short() && version != listed[0] {
				t.Skip("one version is enough for a short run")
			}
			t.Parallel()
			s := &stage{conn: connect(t, startPostgresOf(t, version, "track_functions=all"))}
			t.Run("written", s.testWritten)
			t.Run("drawn", s.testDrawn)
		})
	}
}

// stage is a database with one schema on which writes are tried.
type stage struct {
	conn      *pgx.Conn
	u         *Understander
	relations []RelationInfo
	ancestors map[string][]string // of a table, by name
	rows      string              // asks for the tables' numbers of rows
	ran       int                 // statements that PostgreSQL did
	beyond    map[string]bool     // what they set off
}

// set makes the schema anew.
func (s *stage) set(t require, script string) {
	t.Helper()
	ctx := context.Background()
	if err := run(s.conn, "DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; SET search_path TO s; SET client_min_messages TO error;"+script); err != nil {
		t.Fatalf("%v\n%.200s", err, script)
	}
	c, err := Load(ctx, s.conn)
	if err != nil {
		t.Fatalf("%v", err)
	}
	s.u, s.relations, s.ancestors = New(&inProcess{}, c), nil, make(map[string][]string)
	var counts []string
	for _, r := range c.Relations {
		if r.Schema != "s" || !strings.Contains("rpv", r.Kind) {
			continue
		}
		s.relations = append(s.relations, r)
		if r.Kind == "r" {
			counts = append(counts, fmt.Sprintf("SELECT 'truncate s.%[1]s', count(*) FROM ONLY s.%[1]s", r.Name))
		}
	}
	s.rows = strings.Join(counts, " UNION ALL ")
	rows, err := s.conn.Query(ctx, `WITH RECURSIVE heir(rel, ancestor) AS (SELECT inhrelid, inhparent FROM pg_inherits
		UNION SELECT h.rel, i.inhparent FROM heir h JOIN pg_inherits i ON i.inhrelid = h.ancestor)
		SELECT r.relname::text, a.relname::text FROM heir JOIN pg_class r ON r.oid = rel JOIN pg_class a ON a.oid = ancestor`)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var name, ancestor string
	if _, err := pgx.ForEachRow(rows, []any{&name, &ancestor}, func() error {
		s.ancestors[name] = append(s.ancestors[name], ancestor)
		return nil
	}); err != nil {
		t.Fatalf("%v", err)
	}
}

// require is what ends a test, or a case of rapid's.
type require interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// counters are how often the transaction has done what.
func (s *stage) counters(t require) map[string]int64 {
	t.Helper()
	const counted = `SELECT 'insert s.' || relname, n_tup_ins FROM pg_stat_xact_user_tables WHERE schemaname = 's'
		UNION ALL SELECT 'update s.' || relname, n_tup_upd FROM pg_stat_xact_user_tables WHERE schemaname = 's'
		UNION ALL SELECT 'delete s.' || relname, n_tup_del FROM pg_stat_xact_user_tables WHERE schemaname = 's'
		UNION ALL SELECT 'function_write ' || schemaname || '.' || funcname, calls FROM pg_stat_xact_user_functions UNION ALL `
	rows, err := s.conn.Query(context.Background(), counted+s.rows)
	if err != nil {
		t.Fatalf("%v", err)
	}
	counters := make(map[string]int64)
	var what string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&what, &n}, func() error {
		counters[what] = n
		return nil
	}); err != nil {
		t.Fatalf("%v", err)
	}
	return counters
}

// does runs a statement to its end, takes it back, and says what it has done.
// ok is false when PostgreSQL refuses it.
func (s *stage) does(t require, text string) (done []string, ok bool) {
	t.Helper()
	if err := run(s.conn, "BEGIN"); err != nil {
		t.Fatalf("%v", err)
	}
	defer run(s.conn, "ROLLBACK") //nolint:errcheck // the next BEGIN would say
	before := s.counters(t)
	if strings.HasPrefix(text, "COPY") {
		if _, err := s.conn.PgConn().CopyFrom(context.Background(), strings.NewReader("8\t8\n"), text); err != nil {
			return nil, false
		}
	} else if err := run(s.conn, text); err != nil {
		return nil, false
	}
	if run(s.conn, "SET CONSTRAINTS ALL IMMEDIATE") != nil {
		return nil, false
	}
	after := s.counters(t)
	for what, n := range after {
		action, table, _ := strings.Cut(what, " ")
		counted := func(action string) bool { return after[action+" "+table] != before[action+" "+table] }
		if n != before[what] && (action != "truncate" || !counted("insert") && !counted("delete")) {
			done = append(done, what)
		}
	}
	slices.Sort(done)
	return done, true
}

// holds holds a statement's checks against what PostgreSQL does.
func (s *stage) holds(t require, text string) {
	t.Helper()
	un := s.u.Understand(context.Background(), text, "simple", PathEnv("s", "postgres"))
	if un.Shape.Parse != evidence.ParseFull {
		t.Errorf("%s\nisn't understood: %s", text, un)
		return
	}
	done, ok := s.does(t, text)
	if !ok {
		return
	}
	s.ran++
	for _, what := range done {
		if name := what[strings.Index(what, ".")+1:]; !slices.Contains(strings.Fields(text), name) {
			s.beyond[what] = true
		}
		if !s.covers(un.Shape.Checks, what) {
			t.Errorf("%s\ndoes %q, which isn't among %s", text, what, un)
		}
	}
}

// permits holds that a role with the privileges of a statement's checks is
// refused nothing.
func (s *stage) permits(t *testing.T, text string) {
	t.Helper()
	checks := s.u.Understand(context.Background(), text, "simple", PathEnv("s", "postgres")).Shape.Checks
	var pg *pgconn.PgError
	if err := runAs(context.Background(), s.conn, privileges(checks), text); errors.As(err, &pg) && pg.Code == "42501" {
		t.Errorf("%s\nwith %v: %v", text, checks, err)
	}
}

// covers reports whether what has been done is among the checks. What is done
// to a partition or an heir is done to its ancestors, and an update there can
// move a row.
func (s *stage) covers(checks []evidence.Check, what string) bool {
	action, object, _ := strings.Cut(what, " ")
	has := func(action, object string) bool {
		return slices.Contains(checks, evidence.Check{Action: Prefix + action, Object: object})
	}
	if has(action, object) || action == "insert" && has("copy_in", object) {
		return true
	}
	for _, ancestor := range s.ancestors[strings.TrimPrefix(object, "s.")] {
		if has(action, "s."+ancestor) || action == "insert" && has("copy_in", "s."+ancestor) || action != "truncate" && has("update", "s."+ancestor) {
			return true
		}
	}
	return false
}

// writes are statements that write a relation in every way.
func writes(r RelationInfo) []string {
	first, last := r.Columns[0], r.Columns[len(r.Columns)-1]
	texts := []string{
		"INSERT INTO @ DEFAULT VALUES", "INSERT INTO @ (" + first + ") VALUES (50)", "INSERT INTO @ (" + first + ") SELECT 60", "INSERT INTO @ (" + first + ") VALUES (NULL)",
		"INSERT INTO @ (" + first + ") VALUES (1) ON CONFLICT DO NOTHING", "INSERT INTO @ (" + first + ", " + last + ") VALUES (1, DEFAULT) ON CONFLICT (" + first + ") DO UPDATE SET " + last + " = DEFAULT",
		"DELETE FROM @", "DELETE FROM @ WHERE " + first + " = 1", "DELETE FROM ONLY @ WHERE " + first + " = 2", "TRUNCATE @", "TRUNCATE @ CASCADE", "COPY @ (" + first + ", " + r.Columns[min(1, len(r.Columns)-1)] + ") FROM STDIN",
		"MERGE INTO @ USING (VALUES (1), (70)) m(m) ON " + first + " = m WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (" + first + ") VALUES (m)",
		"MERGE INTO @ USING (VALUES (1)) m(m) ON " + first + " = m WHEN MATCHED THEN UPDATE SET " + last + " = DEFAULT",
		"WITH w AS (DELETE FROM @ RETURNING *) SELECT count(*) FROM w", "EXPLAIN ANALYZE DELETE FROM @", "PREPARE p AS DELETE FROM @",
		"EXPLAIN DELETE FROM @", "EXPLAIN INSERT INTO @ DEFAULT VALUES", "EXPLAIN UPDATE @ SET " + last + " = DEFAULT",
	}
	for _, c := range r.Columns {
		texts = append(texts, "UPDATE @ SET "+c+" = "+c, "UPDATE @ SET "+c+" = DEFAULT", "UPDATE @ SET "+c+" = NULL WHERE "+first+" = 1",
			"UPDATE @ SET "+c+" = 90 WHERE "+first+" = 1", "UPDATE @ SET ("+c+") = ROW ('8') WHERE "+first+" = 2", "UPDATE @ SET "+c+" = '8'::text WHERE "+first+" = 1")
	}
	for i := range texts {
		texts[i] = strings.ReplaceAll(texts[i], "@", r.Name)
	}
	return texts
}

// Everything in testdata/sets_off.sql runs, but for what is switched off, and
// is seen.
func (s *stage) testWritten(t *testing.T) {
	script, err := os.ReadFile("testdata/sets_off.sql")
	if err != nil {
		t.Fatal(err)
	}
	s.set(t, string(script))
	if err := run(s.conn, `CREATE ROLE agent; GRANT USAGE ON SCHEMA s TO agent; REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA s FROM PUBLIC;
		GRANT USAGE ON SEQUENCE computed_id_seq TO agent`); err != nil { // the one right that a write needs and no check says
		t.Fatal(err)
	}
	s.beyond = make(map[string]bool)
	for _, r := range s.relations {
		for _, text := range writes(r) {
			s.holds(t, text)
			if !strings.HasPrefix(text, "COPY") { // which runAs doesn't feed
				s.permits(t, text)
			}
		}
	}
	for _, f := range s.u.Catalogue().Functions {
		if ran, off := s.beyond["function_write s."+f.Name], f.Name == "plain" || f.Name == "row_x"; f.Schema == "s" && ran == off {
			t.Errorf("function %s ran: %t", f.Name, ran)
		}
	}
	for _, what := range []string{
		"insert s.log_i", "update s.log_u", "delete s.log_d", "insert s.log_cte", "insert s.instead", "update s.ruled", "insert s.ruled", "delete s.ruled",
		"delete s.c_cascade", "update s.c_cascade", "update s.c_null", "update s.c_default", "delete s.c_deep", "update s.c_deeper", "delete s.c_part", "delete s.of_heir",
		"truncate s.c_cascade", "truncate s.c_deeper", "truncate s.c_part", "insert s.part1", "delete s.heir", "insert s.fired", "update s.fired", "update s.halved",
	} {
		if !s.beyond[what] {
			t.Errorf("nothing set off %q", what)
		}
	}
	for text, not := range map[string]string{
		"INSERT INTO fired VALUES (1)":             "function_write s.row_x",      // is disabled
		"UPDATE fired SET a = 1":                   "function_write s.row_u_of_b", // b isn't set
		"INSERT INTO ruled VALUES (5)":             "delete s.log_x",              // is disabled
		"INSERT INTO computed (a) VALUES (1)":      "sequence ",                   // nextval of a serial column
		"UPDATE top SET b = 1":                     "update s.c_cascade",          // no key is set
		"DELETE FROM top":                          "delete s.c_part",             // as its parent
		"INSERT INTO parent VALUES (1)":            "function_write s.at_heir",    // it isn't written
		"UPDATE computed SET a = 1":                "function_write s.by_default",
		"EXPLAIN DELETE FROM fired":                "function_write s.row_d",
		"INSERT INTO v_join VALUES (1)":            "insert s.fired", // the trigger is instead
		"SELECT * FROM ruled":                      "insert s.log_i",
		"UPDATE v_half SET a = 1":                  "update s.halved",
		"DELETE FROM v_join":                       "delete s.ruled",
		"SELECT * FROM v_ruled":                    "insert s.ruled",
		"WITH w AS (SELECT 1) SELECT * FROM fired": "function_write s.row_i",
	} {
		un := s.u.Understand(context.Background(), text, "simple", PathEnv("s", "postgres"))
		if action, object, _ := strings.Cut(not, " "); slices.Contains(un.Shape.Checks, evidence.Check{Action: Prefix + action, Object: object}) {
			t.Errorf("%s\nhas the check %q: %s", text, not, un)
		}
	}
}

// The same of schemas that are drawn.
func (s *stage) testDrawn(t *testing.T) {
	s.ran, s.beyond = 0, make(map[string]bool)
	statements := 0
	rapid.Check(t, func(t *rapid.T) {
		s.set(t, drawSchema(t))
		for range 12 {
			r := rapid.SampledFrom(s.relations).Draw(t, "relation")
			s.holds(t, rapid.SampledFrom(writes(r)).Draw(t, "statement"))
			statements++
		}
	})
	if s.ran < statements/4 || len(s.beyond) < 10 {
		t.Errorf("of %d statements %d ran, and set off %d things", statements, s.ran, len(s.beyond))
	}
}

// drawSchema draws tables that refer to each other, with code of their own
// everywhere.
func drawSchema(t *rapid.T) string {
	var b strings.Builder
	functions := 0
	function := func(arguments, returns, body string) string {
		functions++
		name := fmt.Sprintf("f%d", functions)
		label := rapid.SampledFrom([]string{"VOLATILE", "STABLE", "IMMUTABLE"}).Draw(t, "label")
		fmt.Fprintf(&b, "CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql %s AS 'BEGIN RETURN %s; END';\n", name, arguments, returns, label, body)
		return name
	}
	computing := func() string {
		functions++
		name := fmt.Sprintf("f%d", functions)
		fmt.Fprintf(&b, "CREATE FUNCTION %s(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';\n", name)
		return name
	}
	yes := func(what string) bool { return rapid.IntRange(0, 2).Draw(t, what) == 0 }
	n := rapid.IntRange(2, 5).Draw(t, "tables")
	any := func() string { return fmt.Sprintf("t%d", rapid.IntRange(0, n-1).Draw(t, "table")) }
	action := func() string {
		return rapid.SampledFrom([]string{"CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT"}).Draw(t, "action")
	}
	var later strings.Builder
	for i := range n {
		columns := []string{"id int", "a int", "b int"}
		if yes("default") {
			columns[1] += " DEFAULT " + function("", "int", "1") + "()"
		}
		if yes("default of a key") {
			columns[2] += " DEFAULT " + function("", "int", "1") + "()"
		}
		if yes("check") {
			columns = append(columns, "CHECK ("+function("int", "bool", "true")+"(a))")
		}
		if yes("generated") {
			columns = append(columns, "g int GENERATED ALWAYS AS ("+computing()+"(a)) STORED")
		}
		columns = append(columns, "PRIMARY KEY (id)")
		partitioned := yes("partitioned")
		fmt.Fprintf(&b, "CREATE TABLE t%d (%s)", i, strings.Join(columns, ", "))
		if partitioned {
			fmt.Fprintf(&b, " PARTITION BY RANGE (id); CREATE TABLE t%[1]dp PARTITION OF t%[1]d FOR VALUES FROM (0) TO (55); CREATE TABLE t%[1]dq PARTITION OF t%[1]d DEFAULT", i)
		}
		fmt.Fprintf(&b, ";\nINSERT INTO t%d (id, a, b) SELECT i, i, i FROM generate_series(1, 3) i;\n", i)
		if yes("index") {
			fmt.Fprintf(&later, "CREATE INDEX ON t%d (%s(a)) WHERE %s(b) > 0;\n", i, computing(), computing())
		}
		if yes("view") {
			fmt.Fprintf(&later, "CREATE VIEW v%d AS SELECT id, a, b FROM t%d;\n", i, i)
			if yes("instead of") {
				fmt.Fprintf(&later, "CREATE TRIGGER tr INSTEAD OF %s ON v%d FOR EACH ROW EXECUTE FUNCTION %s();\n", drawEvents(t, false), i, function("", "trigger", "coalesce(NEW, OLD)"))
			}
		}
		if partitioned && yes("trigger of a partition") {
			fmt.Fprintf(&later, "CREATE TRIGGER tp AFTER %s ON t%d%s FOR EACH ROW EXECUTE FUNCTION %s();\n",
				drawEvents(t, true), i, rapid.SampledFrom([]string{"p", "q"}).Draw(t, "partition"), function("", "trigger", "NULL"))
		}
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "keys") {
		fmt.Fprintf(&later, "ALTER TABLE %s ADD CONSTRAINT k%d FOREIGN KEY (b) REFERENCES %s ON DELETE %s ON UPDATE %s;\n", any(), i, any(), action(), action())
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "triggers") {
		each, timing := rapid.SampledFrom([]string{"ROW", "STATEMENT"}).Draw(t, "each"), rapid.SampledFrom([]string{"BEFORE", "AFTER"}).Draw(t, "timing")
		events := drawEvents(t, true)
		if each == "STATEMENT" && yes("truncate") {
			events += " OR TRUNCATE"
		}
		fmt.Fprintf(&later, "CREATE TRIGGER tr%d %s %s ON %s FOR EACH %s EXECUTE FUNCTION %s();\n", i, timing, events, any(), each, function("", "trigger", "coalesce(NEW, OLD)"))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "rules") {
		does := rapid.SampledFrom([]string{
			"INSERT INTO %s (id, a) VALUES (200 + %s(1), 1)", "UPDATE %s SET a = %s(7)", "UPDATE %s SET b = DEFAULT WHERE a > %s(0)", "DELETE FROM %s WHERE id = %s(1)",
			"UPDATE %s SET id = id + 1000 WHERE id = %s(1)",
		}).Draw(t, "rule")
		fmt.Fprintf(&later, "CREATE RULE r%d AS ON %s TO %s DO %s %s;\n", i, rapid.SampledFrom([]string{"INSERT", "UPDATE", "DELETE"}).Draw(t, "event"), any(),
			rapid.SampledFrom([]string{"ALSO", "INSTEAD"}).Draw(t, "also"), fmt.Sprintf(does, any(), computing()))
	}
	return b.String() + later.String()
}

// drawEvents draws the events of a trigger.
func drawEvents(t *rapid.T, columns bool) string {
	events := []string{"INSERT", "UPDATE", "DELETE", "INSERT OR DELETE", "UPDATE OR INSERT", "INSERT OR UPDATE OR DELETE"}
	if columns {
		events = append(events, "UPDATE OF a", "UPDATE OF b OR DELETE")
	}
	return rapid.SampledFrom(events).Draw(t, "events")
}
