package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// stock has some of everything that a dump has to bring back.
const stock = `
	create schema stock;
	create type stock.state as enum ('new', 'old');
	create domain stock.price as numeric check (value >= 0);
	create sequence stock.numbers start 7;
	create table stock.items (id bigint primary key default nextval('stock.numbers'), name text not null unique, cost stock.price,
		state stock.state default 'new', tags text[], data jsonb, at timestamptz default '2026-01-01Z', raw bytea);
	create table stock.parts (item bigint references stock.items, n int generated always as identity) partition by hash (item);
	create table stock.parts_0 partition of stock.parts for values with (modulus 1, remainder 0);
	create view stock.cheap as select id, name from stock.items where cost < 10;
	create materialized view stock.totals as select state, count(*) from stock.items group by state;
	create function stock.touch() returns trigger language plpgsql as $$ begin new.at := '2026-02-02Z'; return new; end $$;
	create trigger touch before update on stock.items for each row execute function stock.touch();
	create index items_data on stock.items using gin (data);
	create rule quiet as on delete to stock.cheap do instead nothing;
	comment on table stock.items is 'what there is';
	grant select on stock.items to public;
	insert into stock.items (name, cost, tags, data, raw) select 'item ' || i || e'\t\\', i, array['a', null], '{"k": [1]}', decode('00ff', 'hex') from generate_series(1, 500) i;
	insert into stock.parts select id from stock.items;
	refresh materialized view stock.totals`

// restrictKey is of each dump its own.
var restrictKey = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// tableNumber is of each table its own.
var tableNumber = regexp.MustCompile(`'\d+'::oid`)

// dump runs pg_dump and returns what would restore the database.
func (w *world) dump(url, format string, args ...string) string {
	w.t.Helper()
	name := w.path("dump")
	w.ok(os.RemoveAll(name))
	if out, err := w.run(append([]string{"pg_dump", "--format=" + format, "--file=" + name, "--dbname=" + url}, args...)...); err != nil {
		w.t.Fatalf("pg_dump %s %s: %v\n%s", format, args, err, out)
	}
	var text string
	if format == "plain" {
		b, err := os.ReadFile(name)
		w.ok(err)
		text = string(b)
	} else {
		out, err := w.run("pg_restore", "--file=-", name)
		if err != nil {
			w.t.Fatalf("pg_restore: %v\n%s", err, out)
		}
		text = out
	}
	return restrictKey.ReplaceAllString(text, "")
}

// dumps skips a test where pg_dump itself refuses to: the server is newer than
// it, and its catalogue may have what an older pg_dump would leave out. It says
// so of a gateway before that server, too. newerDump dumps it.
func (w *world) dumps() {
	w.t.Helper()
	direct, err := w.run("pg_dump", "--schema-only", "--dbname="+w.db.URL("orders"))
	if err == nil || !strings.Contains(direct, "server version mismatch") {
		return
	}
	if through, err := w.run("pg_dump", "--schema-only", "--dbname="+w.url("bot", "sslmode=disable")); err == nil || through != direct {
		w.t.Errorf("through the gateway pg_dump says %v:\n%s\ndirectly:\n%s", err, through, direct)
	}
	w.t.Skipf("no server of this version is dumped by this pg_dump, which says:\n%s", direct)
}

func TestAReaderDumps(t *testing.T) {
	t.Parallel()
	needs(t, "pg_dump", "pg_restore")
	onEachServer(t, func(t *testing.T, w *world) {
		w.dumps()
		w.ok(w.db.Exec(t.Context(), "orders", "grant create on database orders to app; set role app;"+stock))
		w.grant("idle", "reader")
		direct := "postgres://app:" + upstreamSecret + "@" + w.db.Addr + "/orders?sslmode=disable"
		for _, options := range [][]string{
			{"plain", "--no-blobs"},
			{"plain", "--data-only", "--no-blobs", "--inserts", "--serializable-deferrable", "--schema=stock"},
			{"custom", "--no-blobs"},
			{"tar", "--no-blobs"},
			{"directory", "--no-blobs"},
		} {
			want, got := w.dump(direct, options[0], options[1:]...), w.dump(w.url("idle", "sslmode=disable"), options[0], options[1:]...)
			if got != want {
				t.Errorf("%v: the dumps differ", options)
			}
			if !strings.Contains(got, `item 499`) {
				t.Errorf("%v: the data isn't there", options)
			}
		}
		w.passes()
	})
}

func TestADumpIsRestored(t *testing.T) {
	t.Parallel()
	slow(t)
	needs(t, "pg_dump", "pg_restore")
	onEachServer(t, func(t *testing.T, w *world) {
		w.dumps()
		w.permitAnything()
		w.ok(w.db.Exec(t.Context(), "orders", "set role app;"+stock, "select lo_from_bytea(4711, 'a large object')", "grant select on large object 4711 to public"))
		want := w.dump(w.db.URL("orders"), "plain")
		if !strings.Contains(want, "4711") {
			t.Error("the dump lacks the large object")
		}
		for _, options := range [][]string{{"plain"}, {"custom"}, {"directory", "--jobs=2"}} {
			url := w.url("bot", "sslmode=disable")
			if got := w.dump(url, options[0], options[1:]...); got != want {
				t.Errorf("%v: the dumps differ", options)
			}
			w.ok(w.db.Exec(t.Context(), "postgres", "drop database orders with (force)", "create database orders owner app"))
			w.restore(url, options[0], options[1:]...)
			if got := w.dump(w.db.URL("orders"), "plain"); got != want {
				t.Errorf("%v: what was restored differs", options)
			}
		}
		w.passes()
	})
}

// A dump of an older server is how a database comes to a newer one. What is
// there then is what the same dump leaves there without the gateway.
func TestADumpOfAnOlderServerIsRestored(t *testing.T) {
	t.Parallel()
	slow(t)
	needs(t, "pg_dump", "pg_restore")
	majors := servers(t)
	if len(majors) == 1 {
		t.Skip("there is one server only")
	}
	w := newWorldOn(t, majors[1])
	w.permitAnything()
	older, err := pgserver.StartVersion(t.Context(), majors[0], w.path("older"))
	w.ok(err)
	t.Cleanup(func() { w.ok(older.Stop()) })
	w.ok(older.Exec(t.Context(), "postgres", "create role app superuser"))
	w.ok(older.Exec(t.Context(), "postgres", "set role app;"+stock, "select lo_from_bytea(4711, 'a large object')"))
	direct := "postgres://app:" + upstreamSecret + "@" + w.db.Addr + "/direct?sslmode=disable"
	for _, options := range [][]string{{"plain"}, {"custom"}, {"directory", "--jobs=2"}} {
		w.dump(older.URL("postgres"), options[0], options[1:]...)
		w.ok(w.db.Exec(t.Context(), "postgres", "drop database if exists direct", "create database direct owner app",
			"drop database orders with (force)", "create database orders owner app"))
		w.restore(direct, options[0], options[1:]...)
		w.restore(w.url("bot", "sslmode=disable"), options[0], options[1:]...)
		want, got := w.described("direct"), w.described("orders")
		if got != want {
			t.Errorf("%v: %s", options, w.keep("restored", []byte(want), []byte(got)))
		}
		for _, text := range []string{"item 499", "stock.parts_0", "Partition of: stock.parts", "quiet AS", "4711", "a large object"} {
			if !strings.Contains(got, text) {
				t.Errorf("%v: %q isn't there:\n%s", options, text, got)
			}
		}
	}
	w.passes()
}

// restore restores what dump has dumped.
func (w *world) restore(url, format string, args ...string) {
	w.t.Helper()
	restore := append([]string{"pg_restore", "--exit-on-error", "--dbname=" + url, w.path("dump")}, args...)
	if format == "plain" {
		restore = []string{"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname=" + url, "--file=" + w.path("dump")}
	}
	if out, err := w.run(restore...); err != nil {
		w.t.Fatalf("%v: %v\n%s", restore, err, out)
	}
}

// described is what psql says of a database's stock.
func (w *world) described(database string) string {
	w.t.Helper()
	args := []string{"psql", "-X", "--dbname=" + w.db.URL(database)}
	for _, command := range []string{
		`\d+ stock.*`, `\dT+ stock.*`, `\dD+ stock.*`, `\df+ stock.*`, `\dp stock.*`, `\dn+`, `\lo_list`, `\copy (select convert_from(lo_get(4711), 'UTF8')) to stdout`,
		`table stock.items`, `table stock.parts`, `table stock.cheap`, `table stock.totals`,
	} {
		args = append(args, "-c", command)
	}
	out, err := w.run(args...)
	w.ok(err)
	return tableNumber.ReplaceAllString(out, "")
}

// newerDump runs the newer PostgreSQL's pg_dump and returns what would restore
// the database. There is one that npm has as a package: it is PostgreSQL's own,
// but for where it reads and writes, and always dumps as INSERTs, in plain.
func (w *world) newerDump(url string, args ...string) string {
	w.t.Helper()
	program, err := exec.CommandContext(w.t.Context(), "../scripts/tool.sh", "pg-dump-"+newer).Output()
	if err != nil {
		w.t.Fatalf("scripts/tool.sh pg-dump-%s: %v (it fetches a package with npm; hint: run it by hand to see why)", newer, err)
	}
	to, err := pgx.ParseConfig(url)
	w.ok(err)
	conninfo := fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable gssencmode=disable", to.Host, to.Port, to.User, to.Password, to.Database)
	command := []string{"node", "testdata/node/pg_dump.js", strings.TrimSpace(string(program)), to.Host, strconv.Itoa(int(to.Port)), conninfo, w.path("dump")}
	if out, err := w.run(append(command, args...)...); err != nil {
		w.t.Fatalf("pg_dump %s %s: %v\n%s", newer, args, err, out)
	}
	b, err := os.ReadFile(w.path("dump"))
	w.ok(err)
	return restrictKey.ReplaceAllString(string(b), "")
}

// What a newer pg_dump asks for is reading as well, of either server.
func TestAReaderDumpsWithANewerPgDump(t *testing.T) {
	t.Parallel()
	slow(t)
	needs(t, "node", "npm")
	onEachServer(t, func(t *testing.T, w *world) {
		w.ok(w.db.Exec(t.Context(), "orders", "grant create on database orders to app; set role app;"+stock))
		w.grant("idle", "reader")
		direct := "postgres://app:" + upstreamSecret + "@" + w.db.Addr + "/orders?sslmode=disable"
		for _, options := range [][]string{
			{"--no-large-objects"},
			{"--data-only", "--no-large-objects", "--serializable-deferrable", "--schema=stock"},
			{"--no-large-objects", "--statistics"},
		} {
			want, got := w.newerDump(direct, options...), w.newerDump(w.url("idle", "sslmode=disable"), options...)
			if got != want {
				t.Errorf("%v: %s", options, w.keep("dump", []byte(want), []byte(got)))
			}
			if !strings.Contains(got, `item 499`) {
				t.Errorf("%v: the data isn't there", options)
			}
		}
		w.passes()
	})
}

// The system's psql restores what a newer pg_dump has dumped, into a server
// that is as new.
func TestANewerDumpIsRestored(t *testing.T) {
	t.Parallel()
	slow(t)
	needs(t, "node", "npm")
	w := newWorldOn(t, newer)
	w.permitAnything()
	w.ok(w.db.Exec(t.Context(), "orders", "set role app;"+stock, "select lo_from_bytea(4711, 'a large object')", "grant select on large object 4711 to public"))
	want := w.newerDump(w.db.URL("orders"))
	if !strings.Contains(want, "4711") {
		t.Error("the dump lacks the large object")
	}
	if got := w.newerDump(w.url("bot", "sslmode=disable")); got != want {
		t.Error(w.keep("dump", []byte(want), []byte(got)))
	}
	w.ok(w.db.Exec(t.Context(), "postgres", "drop database orders with (force)", "create database orders owner app"))
	w.restore(w.url("bot", "sslmode=disable"), "plain")
	if got := w.newerDump(w.db.URL("orders")); got != want {
		t.Error("what was restored " + w.keep("restored", []byte(want), []byte(got)))
	}
	w.passes()
}

// Tools that a writer has no use for are told why.
func TestToolsThatAreRefused(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
		for tool, args := range map[string][]string{
			"vacuumdb": {"--dbname=" + url}, "reindexdb": {"--dbname=" + url}, "clusterdb": {"--dbname=" + url},
			"createdb": {"--maintenance-db=" + url, "more"}, "dropdb": {"--maintenance-db=" + url, "more"},
			"pg_dumpall": {"--dbname=" + url, "--globals-only"},
		} {
			needs(t, tool)
			out, err := w.run(append([]string{tool}, args...)...)
			if err == nil || !strings.Contains(out, "refused by the access gateway") && !strings.Contains(out, "may not connect to this resource") || !strings.Contains(out, "HINT:") {
				t.Errorf("%s: %v\n%s", tool, err, out)
			}
		}
	})
}
