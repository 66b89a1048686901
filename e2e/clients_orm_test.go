package e2e

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// introspection has the shapes of what object mappers and drivers ask about a
// schema.
var introspection = []string{
	`select current_schema(), current_schemas(true), current_database(), version(), current_setting('server_version_num')::int`,
	`select c.relname, n.nspname, c.relkind, obj_description(c.oid, 'pg_class'), pg_table_is_visible(c.oid) from pg_catalog.pg_class c
		left join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'v', 'p') and n.nspname not in ('pg_catalog', 'pg_toast')`,
	`select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum),
		(select collname from pg_collation where oid = a.attcollation) from pg_attribute a
		left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid = 'public.t'::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum`,
	`select i.relname, ix.indisunique, ix.indisprimary, am.amname, pg_get_indexdef(ix.indexrelid), pg_get_expr(ix.indpred, ix.indrelid),
		array(select pg_get_indexdef(ix.indexrelid, k + 1, true) from generate_subscripts(ix.indkey, 1) k order by k), array_position(ix.indkey, 1::int2)
		from pg_index ix join pg_class i on i.oid = ix.indexrelid join pg_am am on am.oid = i.relam where ix.indrelid = to_regclass('public.t')`,
	`select c.conname, c.contype, pg_get_constraintdef(c.oid, true), array(select attname from unnest(c.conkey) with ordinality k(n, i)
		join pg_attribute a on a.attnum = k.n and a.attrelid = c.conrelid order by k.i) from pg_constraint c where c.conrelid = 't'::regclass::oid`,
	`select (information_schema._pg_expandarray(i.indkey)).n, ci.relname from pg_index i join pg_class ci on ci.oid = i.indexrelid limit 5`,
	`select table_name, column_name, data_type, udt_name, is_nullable, column_default, character_maximum_length, is_identity
		from information_schema.columns where table_schema = any(current_schemas(false)) order by ordinal_position`,
	`select tc.constraint_name, kcu.column_name, rc.update_rule from information_schema.table_constraints tc
		join information_schema.key_column_usage kcu using (constraint_schema, constraint_name)
		left join information_schema.referential_constraints rc using (constraint_schema, constraint_name) where tc.table_name = 't'`,
	`select has_table_privilege(c.oid, 'select'), has_schema_privilege('public', 'usage'), pg_has_role(c.relowner, 'usage'), pg_get_userbyid(c.relowner),
		aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) from pg_class c where relname = 't'`,
	`select t.oid, t.typname, t.typelem, t.typdelim, t.typinput::text, r.rngsubtype, e.enumlabel from pg_type t
		left join pg_range r on r.rngtypid = t.oid left join pg_enum e on e.enumtypid = t.oid order by t.oid limit 20`,
	`select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), pg_get_function_identity_arguments(p.oid), l.lanname
		from pg_proc p join pg_language l on l.oid = p.prolang where p.pronamespace = 'public'::regnamespace`,
	`select schemaname, sequencename, last_value, increment_by from pg_sequences`,
	`select pg_get_serial_sequence('public.t', 'id'), pg_get_viewdef('pg_catalog.pg_tables'::regclass, true)`,
	`select t.tgname, pg_get_triggerdef(t.oid, true) from pg_trigger t where not t.tgisinternal`,
	`with recursive up as (select inhrelid, inhparent from pg_inherits union all select u.inhrelid, i.inhparent from up u join pg_inherits i on i.inhrelid = u.inhparent)
		select string_agg(quote_ident(inhrelid::regclass::text), ',') from up`,
	`select name, setting, unit, current_setting('search_path') from pg_settings where name in ('TimeZone', 'standard_conforming_strings')`,
	`select nsp.nspname, regexp_replace(nsp.nspname, '^pg_', ''), pg_encoding_to_char(d.encoding), shobj_description(d.oid, 'pg_database')
		from pg_namespace nsp, pg_database d where d.datname = current_database()`,
	`show transaction isolation level`, `show standard_conforming_strings`, `show server_version`,
	`set session characteristics as transaction isolation level read committed`,
	`set application_name = 'mapper'`, `set time zone 'UTC'`, `begin isolation level repeatable read read only`, `savepoint s1`, `release savepoint s1`, `commit`,
	`select n.nspname, e.extname, e.extversion from pg_extension e join pg_namespace n on n.oid = e.extnamespace`,
	`select pid, state, wait_event, query_start from pg_stat_activity where pid = pg_backend_pid()`,
}

func TestAReaderIntrospects(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		w.grant("idle", "reader")
		for name, mode := range map[string]pgx.QueryExecMode{"simple": pgx.QueryExecModeSimpleProtocol, "prepared": pgx.QueryExecModeCacheStatement} {
			t.Run(name, func(t *testing.T) {
				c, err := pgx.Connect(t.Context(), w.url("idle", "sslmode=disable"))
				w.ok(err)
				defer c.Close(context.Background())
				for _, query := range introspection {
					if _, err := c.Exec(t.Context(), query, mode); err != nil {
						t.Errorf("%v\n%s", err, query)
					}
				}
			})
		}
		for _, d := range w.did("--agent", "idle") {
			if d.Outcome != "ok" {
				t.Errorf("on record as %+v", d)
			}
		}
		w.passes()
	})
}
