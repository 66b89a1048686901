package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
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

func TestAReaderDumps(t *testing.T) {
	needs(t, "pg_dump", "pg_restore")
	w := newWorld(t)
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
}

func TestADumpIsRestored(t *testing.T) {
	slow(t)
	needs(t, "pg_dump", "pg_restore")
	w := newWorld(t)
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
		restore := append([]string{"pg_restore", "--exit-on-error", "--dbname=" + url, w.path("dump")}, options[1:]...)
		if options[0] == "plain" {
			restore = []string{"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname=" + url, "--file=" + w.path("dump")}
		}
		if out, err := w.run(restore...); err != nil {
			t.Fatalf("%v: %v\n%s", restore, err, out)
		}
		if got := w.dump(w.db.URL("orders"), "plain"); got != want {
			t.Errorf("%v: what was restored differs", options)
		}
	}
	w.passes()
}

// Tools that a writer has no use for are told why.
func TestToolsThatAreRefused(t *testing.T) {
	w := newWorld(t)
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
}
