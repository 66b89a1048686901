package sql

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// world is a server, and all of its state that a statement could change.
type world struct {
	t         *testing.T
	dsn       string
	data      string            // the server's folder
	out       string            // a folder that the server's programs and files may write to
	foreign   bool              // it has the extensions of foreign.sql
	agent     *pgx.Conn         // runs the statements, as a superuser
	watch     *pgx.Conn         // looks
	bystander chan error        // ends with a session that does nothing to anybody
	heard     int               // notifications
	query     string            // asks for the state
	logged    string            // how far the server's log was when it was asked,
	tables    map[string]string // and what it said: nothing in a table changes without the log
	understander
}

type understander = *Understander

func newWorld(t *testing.T, major string) *world {
	w := &world{t: t}
	w.dsn = startPostgresOf(t, major, "wal_level=logical", "max_prepared_transactions=5", "max_replication_slots=200", "autovacuum=off", "max_locks_per_transaction=256")
	ctx := context.Background()
	setup := connect(t, w.dsn)
	do := func(text string) {
		t.Helper()
		if err := run(setup, text); err != nil {
			t.Fatalf("%v\n%.200s", err, text)
		}
	}
	if err := setup.QueryRow(ctx, "SHOW data_directory").Scan(&w.data); err != nil {
		t.Fatal(err)
	}
	w.out = w.data + "/out"
	do("COPY (SELECT 1) TO PROGRAM 'cat; mkdir " + w.out + "'")
	for _, file := range []string{"shop.sql", "hidden.sql", "foreign.sql"} {
		script, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if file == "foreign.sql" {
			if err := setup.QueryRow(ctx, "SELECT count(*) = 4 FROM pg_available_extensions WHERE name IN ('file_fdw', 'dblink', 'xml2', 'tablefunc')").Scan(&w.foreign); err != nil {
				t.Fatal(err)
			}
			if !w.foreign {
				break
			}
		}
		do(strings.ReplaceAll(string(script), "OUT", w.out))
	}
	c, err := Load(ctx, setup)
	if err != nil {
		t.Fatal(err)
	}
	w.understander = New(&inProcess{}, c)
	w.query = w.stateQuery(setup)
	w.agent = connect(t, w.dsn)
	cfg, err := pgx.ParseConfig(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { w.heard++ }
	if w.watch, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.watch.Close(ctx) })
	if err := run(w.watch, "LISTEN c"); err != nil {
		t.Fatal(err)
	}
	w.stand()
	return w
}

// stand lets a bystander do its nothing, until somebody ends it.
func (w *world) stand() {
	w.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, w.dsn+"&application_name=bystander")
	if err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- run(conn, "SELECT pg_sleep(3600)")
		conn.Close(ctx)
	}()
	w.bystander = ended
	asleep := "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1"
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var yes *bool
		if err := w.watch.QueryRow(ctx, asleep, conn.PgConn().PID()).Scan(&yes); err != nil {
			w.t.Fatal(err)
		}
		if yes != nil && *yes {
			return
		}
	}
	w.t.Fatal("the bystander doesn't sleep")
}

// stateQuery asks for a name and a digest of each thing.
func (w *world) stateQuery(conn *pgx.Conn) string {
	return strings.Join(names(w.t, conn, `SELECT format('SELECT %L, sum(hashtextextended(t::text, 0))::text FROM ONLY %s t', c.oid::regclass::text, c.oid::regclass)
		FROM pg_class c WHERE relkind IN ('r', 'm') AND relname NOT LIKE 'pg_statistic%' AND relname NOT LIKE 'sql_%' AND relpersistence <> 't'
			AND relnamespace <> 'information_schema'::regnamespace`), "\nUNION ALL ")
}

// moments asks for what isn't in a table.
var moments = func() string {
	var parts []string
	for name, query := range map[string]string{
		"advisory locks":       `SELECT string_agg(concat(classid, ' ', objid, ' ', mode), ',' ORDER BY classid, objid, mode) FROM pg_locks WHERE locktype = 'advisory'`,
		"replication slots":    `SELECT string_agg(s::text, ',' ORDER BY slot_name) FROM pg_replication_slots s`,
		"replication origins":  `SELECT string_agg(s::text, ',' ORDER BY local_id) FROM pg_replication_origin_status s`,
		"prepared transaction": `SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts`,
		"loaded settings":      `SELECT pg_conf_load_time()::text`,
		"statistics since": `SELECT concat((SELECT max(stats_reset) FROM pg_stat_database), (SELECT max(stats_reset) FROM pg_stat_bgwriter),
			(SELECT max(stats_reset) FROM pg_stat_wal), (SELECT max(stats_reset) FROM pg_stat_slru), (SELECT max(stats_reset) FROM pg_stat_archiver))`,
		// Logged in advance, so that the log doesn't tell.
		"sequences": `SELECT string_agg(concat(schemaname, sequencename, last_value), $$ $$ ORDER BY schemaname, sequencename) FROM pg_sequences`,
		"log":       `SELECT pg_current_wal_insert_lsn()::text`,
	} {
		parts = append(parts, fmt.Sprintf("SELECT '%s', (%s)", strings.ReplaceAll(name, "'", "''"), query))
	}
	return strings.Join(parts, "\nUNION ALL ")
}()

// state is the server's, and that of the agent's session.
func (w *world) state() map[string]string {
	w.t.Helper()
	s := w.ask(moments)
	if s["log"] != w.logged {
		w.tables, w.logged = w.ask(w.query), s["log"]
	}
	delete(s, "log")
	maps.Copy(s, w.tables)
	s["notifications"] = fmt.Sprint(w.heard)
	w.files(s)
	select {
	case err := <-w.bystander:
		s["bystander"] = fmt.Sprint("gone: ", err)
		w.bystander <- err
	default:
	}
	results, err := w.agent.PgConn().Exec(context.Background(), `SELECT current_user, session_user,
		(SELECT sum(pg_catalog.hashtextextended(name || setting, 0)) FROM pg_catalog.pg_settings)`).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	s["session's settings"] = fmt.Sprintf("%s", results[0].Rows[0])
	return s
}

func (w *world) ask(query string) map[string]string {
	w.t.Helper()
	results, err := w.watch.PgConn().Exec(context.Background(), query).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	s := make(map[string]string)
	for _, row := range results[0].Rows {
		s[string(row[0])] = string(row[1])
	}
	return s
}

// files adds the files that aren't the server's own business.
func (w *world) files(s map[string]string) {
	err := filepath.WalkDir(w.data, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // it went away
		case d.IsDir() && path != w.data && path != w.out && !slices.Contains([]string{"pg_replslot", "pg_snapshots", "pg_twophase", "pg_tblspc"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || d.Name() == "postmaster.pid":
			return nil
		}
		info, err := d.Info()
		if err == nil {
			s["file "+path] = fmt.Sprint(info.Size(), info.ModTime())
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// after runs a statement as the agent, to its end, and says what has changed.
func (w *world) after(before map[string]string, text string) (changed []string, now map[string]string, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if strings.HasPrefix(strings.ToUpper(text), "COPY") {
		_, err = w.agent.PgConn().CopyTo(ctx, io.Discard, text)
	} else {
		_, err = w.agent.PgConn().Exec(ctx, text).ReadAll()
	}
	_ = run(w.agent, "COMMIT")
	now = w.state()
	return differences(before, now), now, err
}

func differences(before, now map[string]string) (changed []string) {
	all := maps.Clone(before)
	maps.Copy(all, now)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if now[k] != before[k] {
			changed = append(changed, k)
		}
	}
	return changed
}

// writes holds that a statement changes something, if not at once.
func (w *world) writes(before map[string]string, text string) map[string]string {
	w.t.Helper()
	changed, _, err := w.after(before, text)
	for deadline := time.Now().Add(5 * time.Second); err == nil && len(changed) == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		changed = differences(before, w.state())
	}
	if err != nil || len(changed) == 0 {
		w.t.Errorf("%s\nchanges nothing: %v", text, err)
	}
	return w.fresh()
}

// fresh undoes what a statement did to the session and to the bystander.
func (w *world) fresh() map[string]string {
	w.t.Helper()
	if err := run(w.agent, "DISCARD ALL"); err != nil {
		w.t.Fatal(err)
	}
	if len(w.bystander) > 0 {
		w.stand()
	}
	return w.state()
}

func (w *world) understand(text string) *Understanding {
	un := w.Understand(context.Background(), text, "simple", PathEnv(`"$user", public`, "postgres"))
	return w.Execute(un, func(string, Env) *Understanding { return nil })
}

// reads holds that a statement is called a read, or less, and is one.
func (w *world) reads(before map[string]string, text string, mustRun bool) map[string]string {
	w.t.Helper()
	un := w.understand(text)
	if strength[un.Shape.Verb] > strength[evidence.VerbRead] {
		w.t.Errorf("%s\nis called more than a read: %s", text, un)
		return before
	}
	changed, now, err := w.after(before, text)
	if err != nil && mustRun {
		w.t.Errorf("%s\ndoesn't run: %v", text, err)
	}
	if slices.ContainsFunc(un.Shape.Checks, func(c evidence.Check) bool { return strings.HasPrefix(c.Object, "setting.") }) || len(un.Effects) > 0 {
		changed = slices.DeleteFunc(changed, func(k string) bool { return k == "session's settings" }) // it says so
	}
	if len(changed) > 0 {
		w.t.Errorf("%s\nis called a %s and has changed %q\n%s", text, un.Shape.Verb, changed, un)
	}
	if len(changed) > 0 || len(un.Effects) > 0 {
		return w.fresh()
	}
	return now
}

// atLeast holds that a statement is called at least a verb.
func (w *world) atLeast(t testing.TB, text, verb string) {
	t.Helper()
	if un := w.understand(text); strength[un.Shape.Verb] < strength[verb] {
		t.Errorf("%s\nis called less than a %s: %s", text, verb, un)
	}
}

// nasty is an expression that does more than it looks.
type nasty struct {
	expression, verb string
	unseen           bool // what it does isn't in a world's state, or would end the test
}

const (
	write = evidence.VerbWrite
	admin = evidence.VerbAdmin
)

var nasties = []nasty{
	{"nextval('trace_ids')", write, false}, {"pg_catalog.nextval('public.trace_ids'::regclass)", write, false},
	{"setval('trace_ids', (random() * 1e6)::bigint + 1)", write, false},
	{"nextval((SELECT oid FROM pg_class WHERE relname = 'trace_ids'))", write, false},
	{"pg_notify('c', 'x')", write, false},
	{"pg_advisory_lock(1)", write, false}, {"pg_try_advisory_lock_shared(2, 3)", write, false}, {"pg_try_advisory_xact_lock(1)", write, true},
	{"lo_creat(-1)", write, false}, {"lo_create(0)", write, false}, {"lo_from_bytea(0, 'x')", write, false}, {"lo_put(1, 0, 'x')", write, true},
	{"lo_import('/etc/passwd')", admin, false}, {"lo_export(4242, 'OUT/exported')", admin, false},
	{"pg_read_file('postgresql.conf')", admin, true}, {"pg_read_binary_file('postgresql.conf', 0, 5)", admin, true}, {"pg_ls_dir('.')", admin, true},
	{"pg_stat_file('postgresql.conf')", admin, true}, {"pg_ls_waldir()", admin, true}, {"pg_current_logfile()", admin, true},
	{"pg_terminate_backend((SELECT pid FROM pg_stat_activity WHERE application_name = 'bystander' AND state = 'active'))", admin, false},
	{"pg_cancel_backend((SELECT pid FROM pg_stat_activity WHERE application_name = 'bystander' AND state = 'active'))", admin, false},
	{"pg_reload_conf()", admin, true}, {"pg_rotate_logfile()", admin, true}, {"pg_promote()", admin, true}, {"pg_switch_wal()", admin, true},
	{"pg_create_restore_point('x')", admin, true}, {"pg_logical_emit_message(false, 'a', 'b')", admin, true}, {"pg_export_snapshot()", admin, true},
	{"pg_create_physical_replication_slot('s' || (random() * 1e9)::int)", admin, false}, {"pg_replication_origin_create('o' || random())", admin, false},
	{"pg_stat_reset()", admin, false}, {"pg_stat_reset_shared('bgwriter')", admin, false}, {"pg_import_system_collations('app')", admin, true},
	{"set_config('role', 'pg_monitor', false)", admin, false}, {"pg_catalog.set_config('RoLe', 'pg_monitor', false)", admin, false},
	{"set_config('ro' || 'le', 'pg_monitor', false)", admin, false}, {"set_config(U&'\\0072ole', 'pg_monitor', false)", admin, false},
	{"U&\"\\0073et_config\"('session_authorization', 'agent', false)", admin, true},
	{"query_to_xml('SELECT writes()', true, true, '')", admin, false}, {"query_to_xml_and_xmlschema('SELECT writes()', true, true, '')", admin, false},
	{"table_to_xml('v_writes', true, true, '')", admin, false}, {"schema_to_xml('app', true, true, '')", admin, true}, {"database_to_xml(true, true, '')", admin, true},
	{"cursor_to_xml('c', 1, true, true, '')", admin, true}, {"(SELECT count(*) FROM ts_stat('SELECT to_tsvector(writes()::text)'))", admin, false},
	{"ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, to_tsquery(writes()::text)')", admin, false},
	{"writes()", admin, false}, {"public.writes()", admin, false}, {"app.writes_too()", admin, false}, {"lies(1)", admin, false}, {"\"lies\"(1)", admin, false},
	{"U&\"l\\0069es\"(1)", admin, false}, {"u&\"l!0069es\" UESCAPE '!' (1)", admin, false}, {"lies/* (1) -- */\n(1)", admin, false},
	{"pg_catalog.isfinite(1)", admin, false}, {"isfinite(1)", admin, false}, {"newcomer()", admin, false}, {"pg_catalog.newcomer()", admin, false},
	{"(1).lies", admin, false}, {"(SELECT c.lies_of FROM customers c LIMIT 1)", admin, false}, {"(SELECT (c).lies_of FROM customers c LIMIT 1)", admin, false},
	{"(SELECT c.note FROM customers c LIMIT 1)", admin, false}, {"(SELECT customers.note FROM public.customers LIMIT 1)", admin, false},
	{"1 ==== 1", admin, false}, {"1 OPERATOR(public.====) 1", admin, false}, {"<<>> 1", admin, false}, {"1 ==== ANY (ARRAY[1])", admin, false},
	{"(1, 2) ==== (1, 2)", admin, true}, {"1 ==== ALL (SELECT 1)", admin, false},
	{"(SELECT agg_lies(id) FROM orders)", admin, false}, {"(SELECT agg_lies(id) OVER () FROM orders LIMIT 1)", admin, false},
	{"(SELECT ordered_lies() WITHIN GROUP (ORDER BY id) FROM orders)", admin, true},
	{"(SELECT sum(id) FILTER (WHERE lies(id) > 0) FROM orders)", admin, false}, {"(SELECT rank() OVER (ORDER BY lies(id)) FROM orders LIMIT 1)", admin, false},
	{"'1'::checked", admin, false}, {"CAST(1 AS checked)", admin, false}, {"checked '1'", admin, false}, {"1::rechecked", admin, false}, {"'{1}'::checked[]", admin, false},
	{"'(1,2)'::pair", admin, false}, {"ROW(1, 2)::pair", admin, false}, {"'(\"(1,2)\")'::nested", admin, false}, {"'(1,2)'::held", admin, false}, {"'{\"(1,2)\"}'::public.held[]", admin, false},
	{"domain_in('1', 'checked'::regtype::oid, -1)", admin, true}, {"array_in('{1}', 'checked'::regtype::oid, -1)", admin, true}, {"record_in('(1,2)', 'pair'::regtype::oid, -1)", admin, true},
	{"jsonb_populate_record(NULL::pair, '{\"a\": 1}')", admin, false}, {"(SELECT json_populate_record(r, '{\"c\": 1}') FROM (SELECT) x LEFT JOIN held r ON true)", admin, false},
	{"(SELECT count(a) FROM jsonb_populate_recordset(NULL::held, '[{\"c\": 1}]') a)", admin, false}, {"(SELECT a FROM jsonb_to_record('{\"a\": 1}') AS x(a checked))", admin, false},
	{"(SELECT a FROM XMLTABLE('/r' PASSING '<r><a>1</a></r>' COLUMNS a checked) x)", admin, false},
	{"(SELECT c::circle FROM customers c LIMIT 1)", admin, false}, {"(SELECT CAST(c AS circle) FROM customers c LIMIT 1)", admin, false},
	{"'good'::feeling::macaddr8", admin, false}, {"trunc('good'::feeling)", admin, false}, {"(SELECT trunc(f) FROM feelings)", admin, false},
	{"(SELECT 'good'::feeling = m FROM machines)", admin, false},
	{"binary_upgrade_set_next_pg_type_oid(1)", admin, true}, {"pg_nextoid('pg_class', 'oid', 'pg_class_oid_index')", admin, true},
	{"plpgsql_validator(1)", admin, true}, {"fmgr_sql_validator(1)", admin, true}, {"unknown_to_all(1)", admin, true},
	{"dblink('DSN', 'SELECT writes()')", admin, true}, {"dblink_exec('DSN', 'DELETE FROM trace')", admin, true},
	{"crosstab('SELECT writes()')", admin, true}, {"xpath_table('a', 'b', 'v_writes', '/', 'true')", admin, true},
}

// ordinary are expressions in the same places that do nothing.
var ordinary = []string{
	"1", "now()", "upper('X')", "(SELECT max(id) FROM orders)", "(SELECT c.email FROM customers c LIMIT 1)", "'x'::mood", "'x'::nodomain", "'(x,x)'::harmless_pair",
	"ARRAY['x']::mood[]", "current_setting('work_mem')", "set_bit('x'::bytea, 1, 1)", "(SELECT (o).total FROM orders o LIMIT 1)",
	"(SELECT o.upper FROM (SELECT 'a'::text AS upper) o)", "jsonb_populate_record(NULL::harmless_pair, '{\"a\": 1}')", "1 OPERATOR(pg_catalog.=) 1", "pg_size_pretty(10::bigint)",
	"(SELECT count(*) FILTER (WHERE id > 1) OVER (ORDER BY total) FROM orders LIMIT 1)", "(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM orders)",
	"xmlelement(name a, 1)", "to_tsvector('a b')", "'nextval(''trace_ids'')'", "$$writes()$$", "1 /* writes() */", "interval '1' day", "E'\\\\'", "(1, 2) = (1, 2)",
}

// places are where an expression may stand, %s, of any type.
var places = []string{
	"SELECT %s", "SELECT 1 WHERE (%s) IS NULL", "SELECT id FROM orders ORDER BY (%s) IS NULL, id", "SELECT id FROM orders LIMIT (SELECT count(*) FROM (SELECT %s) s)",
	"SELECT id FROM orders OFFSET (SELECT count(*) FROM (SELECT %s) s)", "SELECT count(*) FROM orders GROUP BY paid HAVING (%s) IS NOT NULL",
	"SELECT count(*) FROM orders GROUP BY GROUPING SETS ((paid), ((%s) IS NULL))",
	"WITH x AS (SELECT %s AS a) SELECT count(a) FROM x", "WITH x AS MATERIALIZED (WITH y AS (SELECT * FROM (WITH z AS (SELECT %s AS a) SELECT a FROM z) s) SELECT a FROM y) SELECT count(a) FROM x",
	"WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3 AND (%s) IS NOT NULL) SELECT * FROM r",
	"SELECT (SELECT count(*) FROM (SELECT (SELECT count(a) FROM (SELECT %s AS a) x)) y)", "SELECT EXISTS (SELECT 1 WHERE (%s) IS NOT NULL)",
	"SELECT 1 WHERE 1 IN (SELECT 1 WHERE (%s) IS NOT NULL)", "SELECT * FROM orders, LATERAL (SELECT %s AS a) l", "SELECT * FROM orders o JOIN customers c ON (%s) IS NOT NULL",
	"SELECT * FROM orders LEFT JOIN LATERAL (SELECT %s AS a) l ON true", "SELECT count(a) FROM (VALUES (%s)) v(a)", "VALUES (%s)", "TABLE orders UNION ALL SELECT 1, 1, 1, 'a', (%s) IS NULL",
	"SELECT 1 INTERSECT SELECT 1 WHERE (%s) IS NOT NULL", "SELECT 1 EXCEPT SELECT 2 WHERE (%s) IS NOT NULL", "SELECT DISTINCT ON ((%s) IS NULL) id FROM orders",
	"SELECT ARRAY[(%s) IS NULL]", "SELECT (ARRAY[1, 2])[CASE WHEN (%s) IS NULL THEN 1 ELSE 2 END]", "SELECT ROW(%s, 1) IS NULL", "SELECT CASE WHEN (%s) IS NULL THEN 1 ELSE 2 END",
	"SELECT CASE (%s) IS NULL WHEN true THEN 1 END", "SELECT coalesce((%s) IS NULL, true)", "SELECT nullif((%s) IS NULL, true)", "SELECT greatest((%s) IS NULL, false)",
	"SELECT NOT ((%s) IS NOT NULL AND true OR false)", "SELECT ((%s) IS NULL) IS TRUE", "SELECT ((%s) IS NULL) IS DISTINCT FROM NULL",
	"SELECT ((%s) IS NULL) BETWEEN false AND true", "SELECT ((%s) IS NULL)::text LIKE 't%%'", "SELECT (((%s) IS NULL)::text COLLATE \"C\") SIMILAR TO 't'",
	"SELECT count(id) FILTER (WHERE (%s) IS NOT NULL) FROM orders", "SELECT string_agg(note, ',' ORDER BY (%s) IS NULL) FROM orders",
	"SELECT count(*) OVER (PARTITION BY (%s) IS NULL) FROM orders", "SELECT sum(id) OVER w FROM orders WINDOW w AS (ORDER BY (%s) IS NULL)",
	"SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY (%s) IS NULL) FROM orders", "SELECT * FROM generate_series(1, CASE WHEN (%s) IS NULL THEN 1 ELSE 2 END)",
	"SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[(%s) IS NULL])) AS r(a, b)", "SELECT * FROM orders TABLESAMPLE bernoulli (CASE WHEN (%s) IS NULL THEN 5 ELSE 6 END)",
	"SELECT xmlelement(name a, (%s) IS NULL)", "SELECT xmlforest((%s) IS NULL AS a)", "SELECT * FROM XMLTABLE('/a' PASSING xmlelement(name a, (%s) IS NULL) COLUMNS b text PATH '.')",
	"SELECT json_build_object('a', (%s) IS NULL)", "SELECT make_interval(days => ((%s) IS NULL)::int)", "SELECT concat(VARIADIC ARRAY[((%s) IS NULL)::text])",
	"EXPLAIN ANALYZE SELECT %s", "EXPLAIN (ANALYZE, COSTS off) SELECT %s", "EXPLAIN (ANALYSE true) SELECT %s", "EXPLAIN (ANALYZE 1) SELECT %s", "EXPLAIN (\"analyze\" 'on') SELECT %s",
	"EXPLAIN SELECT %s", "EXPLAIN (ANALYZE false) SELECT %s", "EXPLAIN (ANALYZE 0, VERBOSE) SELECT %s", "PREPARE p AS SELECT %s", "PREPARE p AS SELECT %s; EXECUTE p", "PREPARE p AS SELECT %s; EXPLAIN ANALYZE EXECUTE p",
	"BEGIN; DECLARE c CURSOR FOR SELECT %s; FETCH ALL FROM c; COMMIT", "DECLARE c CURSOR WITH HOLD FOR SELECT %s", "COPY (SELECT %s) TO STDOUT", "COPY (SELECT %s) TO STDOUT WITH (FORMAT csv)",
	"SELECT 1; SELECT %s; SELECT 2", ";;SELECT %s;", "/* a /* b */ */ SELECT %s -- c", "BEGIN READ ONLY; SELECT %s; ROLLBACK", "SAVEPOINT a; SELECT %s",
	"SELECT 'a'\n'b', %s", "SELECT U&'\\0061', %s", "SELECT $a$ $b$ $a$, %s", "SELECT E'\\'', %s", "SELECT '\\', %s",
}

func (w *world) fill(text string) string {
	return strings.NewReplacer("OUT", w.out, "DSN", "dbname=postgres").Replace(text)
}

// What is called a read changes nothing, whoever runs it; and what changes
// something is called what it is, wherever it stands and hides.
func TestReadsChangeNothing(t *testing.T) {
	t.Parallel()
	for _, version := range listed {
		t.Run(version, func(t *testing.T) {
			if testing.Short() && version != listed[0] {
				t.Skip("one version is enough for a short run")
			}
			t.Parallel()
			w := newWorld(t, version)
			t.Run("nasty", w.in((*world).testNasties))
			t.Run("places", w.in((*world).testPlaces))
			t.Run("hidden", w.in((*world).testHidden))
			t.Run("goldens", w.in((*world).testGoldens))
			t.Run("functions", w.in((*world).testFunctions))
			t.Run("composed", w.in((*world).testComposed))
		})
	}
}

func (w *world) in(test func(*world)) func(*testing.T) {
	return func(t *testing.T) {
		outer := w.t
		w.t = t
		defer func() { w.t = outer }()
		test(w)
	}
}

// Each nasty does something that this test sees, or the rest would prove
// nothing; and none is ever called less than it is.
func (w *world) testNasties() {
	state := w.fresh()
	for _, n := range nasties {
		e := w.fill(n.expression)
		for _, place := range places {
			w.atLeast(w.t, fmt.Sprintf(place, e), n.verb)
		}
		if n.unseen {
			continue
		}
		state = w.writes(state, "SELECT "+e)
	}
}

// In every place an ordinary expression makes a read.
func (w *world) testPlaces() {
	state := w.fresh()
	for i, place := range places {
		for j, e := range ordinary {
			text := fmt.Sprintf(place, e)
			if un := w.understand(text); strength[un.Shape.Verb] > strength[evidence.VerbRead] {
				w.t.Errorf("%s\nis called more than a read: %s", text, un)
			} else if j == i%len(ordinary) {
				state = w.reads(state, text, !strings.HasPrefix(place, "SAVEPOINT"))
			}
		}
	}
	for _, e := range ordinary {
		state = w.reads(state, "SELECT "+e, true)
	}
}

// What a statement's objects bring with them.
func (w *world) testHidden() {
	state := w.fresh()
	type use struct {
		text, verb string
		unseen     bool
	}
	uses := []use{
		{"SELECT * FROM v_lock", write, true}, {"TABLE v_lock", write, true},
		{"SELECT * FROM guarded", admin, true}, {"SELECT * FROM v_guarded", admin, true}, {"COPY guarded TO STDOUT", admin, true},
		{"INSERT INTO busy DEFAULT VALUES", admin, false}, {"INSERT INTO busy VALUES (3)", admin, false}, {"UPDATE busy SET id = 4 WHERE id = 1", admin, false},
		{"DELETE FROM busy WHERE id = 4", admin, false}, {"EXPLAIN INSERT INTO busy DEFAULT VALUES", admin, true}, {"INSERT INTO inbox VALUES (1)", write, false}, {"COPY inbox FROM STDIN", write, true},
		{"COMMENT ON TABLE orders IS 'x'", admin, false}, {"REFRESH MATERIALIZED VIEW m_writes", admin, false}, {"CALL proc()", admin, false},
		{"DO 'BEGIN PERFORM writes(); END'", admin, false}, {"VALUES (1), (writes())", admin, false}, {"SELECT 1 INTO made", admin, false},
		{"CREATE TABLE made2 AS SELECT 1", admin, false}, {"CREATE TEMP TABLE passing2 (id int)", admin, true}, {"CREATE TABLE made3 AS TABLE v_writes", admin, false},
		{"WITH w AS (INSERT INTO trace VALUES (1) RETURNING at) SELECT * FROM w", write, false},
		{"WITH a AS (SELECT 1), b AS (WITH c AS (SELECT 2) SELECT * FROM c), d AS (DELETE FROM trace RETURNING at) SELECT 1", write, false},
		{"EXPLAIN ANALYZE INSERT INTO trace VALUES (1)", write, false}, {"EXPLAIN (ANALYZE) CREATE TABLE made4 AS SELECT 1", admin, false},
		{"PREPARE p AS INSERT INTO trace VALUES (1); EXPLAIN ANALYZE EXECUTE p", write, false}, {"PREPARE p AS INSERT INTO trace VALUES (1); EXECUTE p", write, false},
		{"PREPARE p AS SELECT writes(); CREATE TABLE made5 AS EXECUTE p", admin, false},
		{"COPY (INSERT INTO trace VALUES (1) RETURNING at) TO STDOUT", write, false}, {"COPY trace TO '" + w.out + "/copied'", admin, false},
		{"COPY (SELECT 1) TO PROGRAM 'cat > " + w.out + "/program'", admin, false}, {"COPY trace FROM PROGRAM 'echo 1'", admin, false}, {"COPY trace FROM '/dev/null' WITH (FREEZE)", admin, true},
		{"MERGE INTO trace USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT VALUES (7)", write, false},
		{"INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET total = random() RETURNING *", write, false},
		{"UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'", write, false}, {"UPDATE v_settings SET setting = '5MB' WHERE name = 'work_mem'", write, false},
		{"UPDATE pg_class SET reltuples = reltuples + 1 WHERE relname = 'trace'", write, false},
		{"SET ROLE pg_monitor", admin, false}, {"SET SESSION AUTHORIZATION agent", admin, true}, {"SET \"role\" = pg_monitor", admin, false}, {"BEGIN; SET LOCAL ROLE pg_monitor", admin, true},
		{"ALTER ROLE postgres SET work_mem = '5MB'", admin, false}, {"ALTER ROLE ALL IN DATABASE postgres SET role = 'x'", admin, true}, {"ALTER DATABASE postgres SET work_mem = '5MB'", admin, false},
		{"ALTER SYSTEM SET work_mem = '5MB'", admin, false}, {"ALTER SYSTEM RESET ALL", admin, false},
		{"SELECT 1; INSERT INTO trace VALUES (1)", write, false}, {"SELECT 1;;; -- \nINSERT INTO trace VALUES (1);", write, false}, {"SELECT '\\'; INSERT INTO trace VALUES (1); --'", write, false},
		{"SELECT E'\\'; --'; INSERT INTO trace VALUES (1); --'", write, false}, {"SELECT $$ ' $$; INSERT INTO trace VALUES (1); --'", write, false},
		{"SELECT 1 /* /* */ INSERT */; INSERT INTO trace VALUES (1)", write, false}, {"SELECT 'a' --'\n'b'; INSERT INTO trace VALUES (1); --'", write, false},
		{"BEGIN; INSERT INTO trace VALUES (1); PREPARE TRANSACTION 'x'", admin, false}, {"ROLLBACK PREPARED 'x'", admin, false},
		{"LOCK TABLE orders", write, true}, {"BEGIN; LOCK orders IN ROW SHARE MODE; COMMIT", write, true}, {"NOTIFY c", write, false}, {"SELECT * FROM orders FOR KEY SHARE", write, true},
		{"TRUNCATE trace", write, false}, {"VACUUM trace", admin, true}, {"ANALYZE trace", admin, true}, {"CHECKPOINT", admin, true}, {"LOAD 'plpgsql'", admin, true},
		{"CREATE ROLE made", admin, false}, {"GRANT pg_monitor TO made", admin, false}, {"SECURITY LABEL ON TABLE orders IS 'x'", admin, true},
	}
	for _, view := range []string{"writes", "deep", "nextval", "notify", "role", "operator", "aggregate", "window", "ordered", "domain", "rechecked", "array", "row", "cast", "limit", "lateral", "function", "case", "own"} {
		verb := admin
		if view == "nextval" || view == "notify" {
			verb = write
		}
		for _, text := range []string{"SELECT * FROM v_%s", "SELECT * FROM (TABLE public.v_%s) s", "WITH x AS (SELECT * FROM v_%s) SELECT * FROM x", "COPY (SELECT * FROM v_%s) TO STDOUT",
			"SELECT (SELECT count(v) FROM v_%s v)", "EXPLAIN ANALYZE SELECT * FROM v_%s", "SELECT * FROM orders WHERE EXISTS (SELECT * FROM v_%s v WHERE v IS NOT NULL)"} {
			uses = append(uses, use{fmt.Sprintf(text, view), verb, strings.Contains(text, "EXISTS") || view == "ordered"})
		}
	}
	if w.foreign {
		for _, text := range []string{"SELECT * FROM ft_program", "TABLE v_foreign", "SELECT * FROM parts", "SELECT count(*) FROM parts", "SELECT * FROM parent", "COPY (SELECT * FROM ft_program) TO STDOUT"} {
			uses = append(uses, use{text, admin, false})
		}
	}
	for _, u := range uses {
		w.atLeast(w.t, u.text, u.verb)
		if !u.unseen {
			state = w.writes(state, u.text)
		}
	}
	reads := []string{
		"SELECT * FROM v_plain", "SELECT * FROM v_enum", "SELECT * FROM order_summary", "SELECT * FROM m_writes", "SELECT * FROM fenced", "SELECT * FROM busy", "SELECT * FROM held", "SELECT * FROM holder",
		"SELECT * FROM inbox", "SELECT * FROM part1", "SELECT * FROM trace_ids", "SELECT h.c FROM held h", "SELECT to_jsonb(h) FROM held h", "SELECT * FROM pg_settings", "SELECT * FROM v_settings",
		"EXPLAIN DELETE FROM trace", "EXPLAIN (ANALYZE off) INSERT INTO trace DEFAULT VALUES", "EXPLAIN DELETE FROM busy", "EXPLAIN (ANALYZE 0) UPDATE orders SET total = 0", "PREPARE p AS SELECT 1; EXPLAIN ANALYZE EXECUTE p",
		"COPY orders TO STDOUT", "COPY (TABLE orders) TO STDOUT WITH (FORMAT binary)", "SHOW ALL", "SHOW work_mem", "LISTEN d", "UNLISTEN *",
		"SET work_mem = '5MB'", "SET LOCAL work_mem = '5MB'", "RESET ALL", "DISCARD ALL", "SET TIME ZONE 'UTC'", "SET CONSTRAINTS ALL IMMEDIATE", "BEGIN", "COMMIT", "ROLLBACK",
		"SELECT set_config('work_mem', '5MB', false)", "SELECT * FROM pg_stat_activity", "SELECT * FROM pg_locks", "SELECT * FROM information_schema.columns", "SELECT * FROM pg_stats",
		"SELECT relname FROM pg_class WHERE oid = 'orders'::regclass", "SELECT pg_get_viewdef('v_writes')", "SELECT pg_get_functiondef('writes'::regproc)", "SELECT has_table_privilege('trace', 'insert')",
		"SELECT 'writes'::regproc", "SELECT 'INSERT INTO trace VALUES (1)'", "SELECT $$; INSERT INTO trace VALUES (1); $$", "SELECT 1 -- ; INSERT INTO trace VALUES (1)", "SELECT \"at\" AS \"insert\" FROM trace",
	}
	for _, text := range reads {
		state = w.reads(state, text, true)
	}
	if un := w.understand("SELECT * FROM v_deep"); !slices.Equal(un.Shape.Facts["functions"].([]string), []string{"public.writes"}) ||
		!slices.Contains(un.Shape.Checks, evidence.Check{Action: Prefix + "function_write", Object: "public.writes"}) {
		w.t.Errorf("a view of a view that calls writes: %s", un)
	}
	if un := w.understand("COMMENT ON TABLE orders IS 'x'"); !slices.Contains(un.Shape.Checks, evidence.Check{Action: Prefix + "function_write", Object: "public.fires_on_ddl"}) {
		w.t.Errorf("a definition runs the event trigger, and asks for %v", un.Shape.Checks)
	}
	if un := w.understand("SELECT * FROM v_passwords"); !slices.Contains(un.Shape.Checks, evidence.Check{Action: Prefix + "select", Object: "pg_catalog.pg_authid"}) {
		w.t.Errorf("the view of passwords reads %v", un.Shape.Checks)
	}
}

// Every statement of the goldens that is called a read.
func (w *world) testGoldens() {
	state := w.fresh()
	ran := 0
	for _, text := range corpus(w.t) {
		un := w.understand(text)
		if strength[un.Shape.Verb] > strength[evidence.VerbRead] || strings.Contains(text, "pg_sleep") {
			continue
		}
		ran++
		state = w.reads(state, text, false)
	}
	if ran < 150 {
		w.t.Errorf("only %d statements ran", ran)
	}
}

// Every function that is called harmless, with arguments of its types.
func (w *world) testFunctions() {
	results, err := w.watch.PgConn().Exec(context.Background(), `SELECT proname, string_agg(CASE a.t
			WHEN 'text'::regtype THEN '''orders''' WHEN 'cstring'::regtype THEN '''1''' WHEN 'name'::regtype THEN '''orders''' WHEN 'oid'::regtype THEN '''orders''::regclass::oid'
			WHEN 'regclass'::regtype THEN '''orders''' WHEN 'bool'::regtype THEN 'true' WHEN 'json'::regtype THEN '''{"a":1}''::json' WHEN 'jsonb'::regtype THEN '''{"a":1}''::jsonb'
			WHEN 'anyelement'::regtype THEN '1' WHEN 'anyarray'::regtype THEN 'ARRAY[1]' WHEN '"any"'::regtype THEN '1' WHEN '"char"'::regtype THEN '''r''::"char"'
			ELSE format('%L::%s', CASE WHEN typcategory IN ('N', 'V') THEN '1' WHEN typcategory = 'D' THEN '2000-01-01' WHEN typcategory = 'T' THEN '1s' WHEN typcategory = 'A' THEN '{1}'
				WHEN typcategory = 'I' THEN '127.0.0.1' WHEN typcategory = 'R' THEN 'empty' WHEN typcategory = 'G' THEN '((1,1),(2,2))' ELSE '1' END, a.t::regtype) END, ', ' ORDER BY a.i)
		FROM pg_proc p LEFT JOIN LATERAL unnest(p.proargtypes) WITH ORDINALITY AS a(t, i) ON true LEFT JOIN pg_type t ON t.oid = a.t
		WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND 'internal'::regtype <> ALL (proargtypes) AND p.oid < 16384
		GROUP BY p.oid, proname ORDER BY proname, p.oid`).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	state := w.fresh()
	var batch []string
	called, worked := 0, 0
	flush := func() {
		for _, text := range batch {
			if _, err := w.agent.PgConn().Exec(context.Background(), text).ReadAll(); err == nil {
				worked++
			}
		}
		now := w.state()
		if !maps.Equal(now, state) { // which of them was it?
			for _, text := range batch {
				now = w.reads(w.fresh(), text, false)
			}
		}
		state, batch = now, nil
	}
	for _, row := range results[0].Rows {
		name := string(row[0])
		if !w.index().harmless(name) || strings.HasPrefix(name, "pg_sleep") {
			continue
		}
		called++
		if batch = append(batch, fmt.Sprintf("SELECT pg_catalog.%s(%s)", quote(name), row[1])); len(batch) == 100 {
			flush()
		}
	}
	flush()
	if called < 1500 || worked < called/2 {
		w.t.Errorf("%d functions were called, %d of these calls succeeded", called, worked)
	}
}

func (w *world) index() *index { return w.understander.state.Load().index }

// Expressions within expressions within places.
func (w *world) testComposed() {
	state := w.fresh()
	inner := []string{
		"(%s) IS NULL", "(SELECT %s)", "(SELECT count(a) FROM (SELECT %s AS a) s)", "CASE WHEN (%s) IS NULL THEN 1 END", "ARRAY[(%s) IS NULL]", "ROW((%s) IS NULL)", "coalesce((%s) IS NULL, true)",
		"(WITH x AS (SELECT %s AS a) SELECT count(a) FROM x)", "((%s) IS NULL)::text || 'x'", "EXISTS (SELECT FROM orders WHERE (%s) IS NOT NULL)", "((%s) IS NULL) IN (SELECT true)",
		"(SELECT max(id) FILTER (WHERE (%s) IS NULL) FROM orders)", "(SELECT row_number() OVER (ORDER BY (%s) IS NULL) FROM orders LIMIT 1)", "upper(((%s) IS NULL)::text)",
		"(SELECT x FROM generate_series(1, 1) x WHERE (%s) IS NOT NULL)", "jsonb_build_object('a', (%s) IS NULL) -> 'a'", "to_char(1, CASE WHEN (%s) IS NULL THEN '9' END)",
	}
	rapid.Check(w.t, func(t *rapid.T) {
		e, verb := rapid.SampledFrom(ordinary).Draw(t, "ordinary"), ""
		if rapid.Bool().Draw(t, "nasty") {
			n := rapid.SampledFrom(nasties).Draw(t, "expression")
			e, verb = w.fill(n.expression), n.verb
		}
		for range rapid.IntRange(0, 4).Draw(t, "depth") {
			e = fmt.Sprintf(rapid.SampledFrom(inner).Draw(t, "inner"), e)
		}
		text := fmt.Sprintf(rapid.SampledFrom(places).Draw(t, "place"), e)
		if verb != "" {
			if un := w.understand(text); strength[un.Shape.Verb] < strength[verb] {
				t.Fatalf("%s\nis called less than a %s: %s", text, verb, un)
			}
			return
		}
		un := w.understand(text)
		if strength[un.Shape.Verb] > strength[evidence.VerbRead] {
			t.Fatalf("%s\nis called more than a read: %s", text, un)
		}
		state = w.reads(state, text, false)
	})
}
