package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrCatalogue is wrapped when a database holds more names than we keep.
var ErrCatalogue = errors.New("the catalogue is too large")

// maxNames bounds each list of a catalogue.
const maxNames = 200_000

// maxBytes bounds what the server sends of a catalogue. One record holds it
// whole, and a journal takes no larger one.
var maxBytes = 12 << 20

// The queries of Load. They ask for names only, work on PostgreSQL 10 and
// later, and need no rights.
const (
	schemasQuery = `SELECT nspname::text COLLATE "C" FROM pg_namespace
	WHERE nspname !~ '^pg_(toast|temp)' ORDER BY 1`

	relationsQuery = `SELECT n.nspname::text COLLATE "C", c.relname::text COLLATE "C", c.relkind::text,
		COALESCE((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'c')
			AND n.nspname NOT IN ('pg_catalog', 'information_schema')), '{}')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname !~ '^pg_(toast|temp)' ORDER BY 1, 2`

	// What a rule names stands in its tree by number. Dependencies don't have
	// what PostgreSQL came with.
	viewsQuery = `SELECT DISTINCT vn.nspname::text COLLATE "C", v.relname::text COLLATE "C", bn.nspname::text COLLATE "C", b.relname::text COLLATE "C"
	FROM pg_rewrite r
	JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm') AND r.ev_type = '1'
	JOIN pg_namespace vn ON vn.oid = v.relnamespace
	JOIN LATERAL (
		SELECT d.refobjid AS base FROM pg_depend d
		WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
		UNION SELECT m[1]::oid FROM regexp_matches(r.ev_action::text, ' :relid ([0-9]+)', 'g') m) x ON true
	JOIN pg_class b ON b.oid = x.base AND b.oid <> v.oid
	JOIN pg_namespace bn ON bn.oid = b.relnamespace
	WHERE vn.nspname NOT IN ('pg_catalog', 'information_schema') AND vn.nspname !~ '^pg_(toast|temp)'
	ORDER BY 1, 2, 3, 4`

	locksQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", v.relname::text COLLATE "C"
	FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v' AND r.ev_type = '1' JOIN pg_namespace n ON n.oid = v.relnamespace
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
		AND r.ev_action::text ~ '{ROWMARKCLAUSE ' ORDER BY 1, 2`

	// code are the functions that count: somebody's own, wherever they are, and
	// those that aren't known to be pure, which $1 names.
	code = `code(id, nsp, name) AS (SELECT oid, pronamespace, proname FROM pg_proc
		WHERE oid >= 16384 OR pronamespace <> 'pg_catalog'::regnamespace OR proname::text <> ALL ($1))`

	runsQuery = `WITH RECURSIVE ` + code + `, tree(rel, t) AS (
		SELECT ev_class, ev_action::text FROM pg_rewrite WHERE ev_class >= 16384 AND ev_type = '1'
		UNION ALL SELECT polrelid, concat_ws(' ', polqual::text, polwithcheck::text) FROM pg_policy),
	ref(rel, what, id) AS (SELECT DISTINCT rel, m[1], m[2]::oid FROM tree,
		regexp_matches(t, ' :(funcid|opfuncid|aggfnoid|winfnoid|tsmhandler|resulttype) ([0-9]+)', 'g') m),
	heir(rel, ancestor) AS (SELECT ftrelid, ftrelid FROM pg_foreign_table
		UNION SELECT h.rel, i.inhparent FROM heir h JOIN pg_inherits i ON i.inhrelid = h.ancestor),
	implicit(source, target, func) AS (SELECT castsource, casttarget, castfunc FROM pg_cast
		WHERE castcontext = 'i' AND castfunc >= 16384),
	runs(rel, nsp, name) AS (
		SELECT rel, nsp, name FROM ref JOIN code USING (id) WHERE what <> 'resulttype'
		UNION SELECT rel, e.typnamespace, e.typname FROM ref JOIN pg_type t ON t.oid = id
			JOIN pg_type e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
			WHERE what = 'resulttype' AND e.oid >= 16384
		UNION SELECT h.ancestor, p.nsp, p.name FROM heir h JOIN pg_foreign_table f ON f.ftrelid = h.rel
			JOIN pg_foreign_server s ON s.oid = f.ftserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw JOIN code p ON p.id = w.fdwhandler
		UNION SELECT a.attrelid, p.nsp, p.name FROM implicit i JOIN pg_attribute a ON a.atttypid IN (i.source, i.target)
			AND (a.atttypid >= 16384 OR i.source < 16384 AND i.target < 16384 AND a.atttypid = i.source) AND NOT a.attisdropped
			JOIN code p ON p.id = i.func
		UNION SELECT t.typrelid, p.nsp, p.name FROM implicit i JOIN pg_type t ON t.oid IN (i.source, i.target) AND t.typrelid <> 0
			JOIN code p ON p.id = i.func)
	SELECT n.nspname::text COLLATE "C", c.relname::text COLLATE "C", fn.nspname::text COLLATE "C", r.name::text COLLATE "C"
	FROM runs r JOIN pg_class c ON c.oid = r.rel AND c.relkind <> 'm' JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_namespace fn ON fn.oid = r.nsp
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' ORDER BY 1, 2, 3, 4`

	// What the actions of rules do to which relations. The rights that the
	// server itself demands for them stand beside their numbers, as bits; those
	// of OLD and NEW ask for none of their own.
	rulesQuery = `WITH rule AS (SELECT oid, ev_class AS rel, CASE ev_type WHEN '2' THEN 'update' WHEN '3' THEN 'insert' ELSE 'delete' END AS event,
			ev_action::text || ' ' || ev_qual::text AS t FROM pg_rewrite WHERE ev_class >= 16384 AND ev_type <> '1' AND ev_enabled <> 'D'),
	touched AS (SELECT r.oid, m[1]::oid AS base, COALESCE(bit_or(m[2]::int), 2) AS rights
		FROM rule r, regexp_matches(t, ' :relid ([0-9]+)(?: [^{}]*:requiredPerms ([0-9]+))?', 'g') m GROUP BY 1, 2),
	does AS (SELECT r.rel, r.event, a.action, t.base, a.bit = 4 AND r.t ~ '{SETTODEFAULT ' AS defaults
		FROM rule r JOIN touched t USING (oid) JOIN (VALUES (1, 'insert'), (2, 'select'), (4, 'update'), (8, 'delete')) a(bit, action) ON t.rights & a.bit <> 0
		WHERE t.base <> r.rel OR a.bit <> 2 OR r.t ~ (' :relid ' || r.rel || ' [^{}]*:inFromCl true')
		UNION SELECT rel, event, 'notify', NULL, false FROM rule WHERE t ~ '{NOTIFY(STMT)? ')
	SELECT DISTINCT n.nspname::text COLLATE "C", c.relname::text COLLATE "C", d.event COLLATE "C", d.action COLLATE "C",
		COALESCE(bn.nspname::text, '') COLLATE "C", COALESCE(b.relname::text, '') COLLATE "C", d.defaults, d.base IS NOT NULL
	FROM does d JOIN pg_class c ON c.oid = d.rel JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_class b ON b.oid = d.base LEFT JOIN pg_namespace bn ON bn.oid = b.relnamespace
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' AND (b.oid IS NOT NULL OR d.base IS NULL)
	ORDER BY 1, 2, 3, 4, 5, 6, 7`

	heirs = `heir(rel, ancestor) AS (SELECT inhrelid, inhparent FROM pg_inherits
		UNION SELECT h.rel, i.inhparent FROM heir h JOIN pg_inherits i ON i.inhrelid = h.ancestor)`

	// What foreign keys do to the tables that refer to one. Without CASCADE the
	// server truncates no table that another refers to, unless that one is in
	// the statement as well. A partition's copy of its parent's key says nothing
	// new, but that CASCADE demands the right to truncate the partition, too.
	cascadesQuery = `WITH RECURSIVE ` + heirs + `,
	k AS (SELECT k.*, e.event, e.does FROM pg_constraint k, LATERAL (VALUES ('delete', confdeltype), ('update', confupdtype), ('truncate', 'c')) e(event, does)
		WHERE contype = 'f' AND does IN ('c', 'n', 'd')
			AND (event = 'truncate' OR NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = (to_jsonb(k) ->> 'conparentid')::oid AND p.confrelid = k.confrelid))),
	does(rel, event, cols, action, base, sets, defaults) AS (SELECT confrelid, event,
			CASE event WHEN 'update' THEN (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute a WHERE attrelid = confrelid AND attnum = ANY (confkey)
				HAVING bool_and(COALESCE(to_jsonb(a) ->> 'attgenerated', '') = '')) END,
			CASE WHEN event <> 'update' AND does = 'c' THEN event ELSE 'update' END, conrelid,
			CASE WHEN event = 'update' OR does <> 'c' THEN (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)) END,
			does = 'd' FROM k)
	SELECT DISTINCT n.nspname::text COLLATE "C", c.relname::text COLLATE "C", d.event COLLATE "C", d.cols, d.action COLLATE "C",
		bn.nspname::text COLLATE "C", b.relname::text COLLATE "C", d.sets, d.defaults
	FROM (SELECT * FROM does UNION SELECT h.ancestor, d.event, d.cols, d.action, d.base, d.sets, d.defaults FROM does d JOIN heir h ON h.rel = d.rel) d
	JOIN pg_class c ON c.oid = d.rel JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_class b ON b.oid = d.base JOIN pg_namespace bn ON bn.oid = b.relnamespace
	WHERE n.nspname !~ '^pg_(toast|temp)' AND bn.nspname !~ '^pg_(toast|temp)' ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9`

	// What writing a row runs: functions of triggers, rules, defaults, generated
	// columns, constraints (domains' too), indexes and partition keys, and casts
	// to a column's type. What goes on at a partition or an heir does so in a
	// write of its ancestors: inserts go to partitions only, and an update there
	// may take a row out of one and put it into another. The default of a serial
	// column takes a number, which is nothing that anybody would forbid by
	// itself.
	firesQuery = `WITH RECURSIVE ` + code + `, ` + heirs + `,
	col(rel, num, plain, t) AS (SELECT adrelid, adnum, COALESCE(to_jsonb(a) ->> 'attgenerated', '') = '', adbin::text
		FROM pg_attrdef JOIN pg_attribute a ON attrelid = adrelid AND attnum = adnum),
	part(rel, typ) AS (SELECT attrelid, atttypid FROM pg_attribute WHERE attrelid >= 16384 AND atttypid >= 16384 AND attnum > 0 AND NOT attisdropped
		UNION SELECT p.rel, x.id FROM part p, LATERAL (
			SELECT CASE WHEN typtype = 'd' THEN typbasetype ELSE typelem END FROM pg_type WHERE oid = p.typ
			UNION ALL SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
				WHERE t.oid = p.typ) x(id) WHERE x.id > 0),
	fired AS (SELECT t.*, e.event FROM pg_trigger t JOIN (VALUES (4, 'insert'), (8, 'delete'), (16, 'update'), (32, 'truncate')) e(bit, event) ON t.tgtype & e.bit <> 0
		WHERE (NOT tgisinternal OR tgfoid >= 16384) AND tgenabled <> 'D'),
	written(rel, planned, t) AS (
		SELECT rel, true, t FROM col WHERE NOT plain
		UNION ALL SELECT conrelid, false, conbin::text FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0
		UNION ALL SELECT p.rel, true, k.conbin::text FROM part p JOIN pg_constraint k ON k.contypid = p.typ AND k.contype = 'c'
		UNION ALL SELECT indrelid, false, concat_ws(' ', indexprs::text, indpred::text) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
		UNION ALL SELECT partrelid, false, partexprs::text FROM pg_partitioned_table
		UNION ALL SELECT h.rel, false, partexprs::text FROM pg_partitioned_table JOIN heir h ON h.ancestor = partrelid),
	tree(rel, event, spreads, planned, t) AS (
		SELECT w.rel, e.event, true, w.planned, w.t FROM written w, (VALUES ('insert'), ('update')) e(event)
		UNION ALL SELECT rel, 'default', false, true, t FROM col WHERE plain
		UNION ALL SELECT p.rel, 'default', false, true, t.typdefaultbin::text FROM part p JOIN pg_type t ON t.oid = p.typ
		UNION ALL SELECT tgrelid, event, true, false, tgqual::text FROM fired
		UNION ALL SELECT ev_class, CASE ev_type WHEN '2' THEN 'update' WHEN '3' THEN 'insert' ELSE 'delete' END, false, true, ev_action::text || ' ' || ev_qual::text
			FROM pg_rewrite WHERE ev_class >= 16384 AND ev_type <> '1' AND ev_enabled <> 'D'),
	ref(rel, event, spreads, planned, what, id) AS (SELECT DISTINCT rel, event, spreads, planned, m[1], m[2]::oid FROM tree,
		regexp_matches(t, ' :(funcid|opfuncid|aggfnoid|winfnoid|tsmhandler|resulttype) ([0-9]+)', 'g') m),
	runs(rel, event, cols, spreads, instead, nsp, name, planned) AS (
		SELECT rel, event, NULL::text[], spreads, false, nsp, name, planned FROM ref JOIN code USING (id)
			WHERE what <> 'resulttype' AND (event <> 'default' OR id <> 'nextval(regclass)'::regprocedure)
		UNION SELECT rel, event, NULL, spreads, false, e.typnamespace, e.typname, planned FROM ref JOIN pg_type t ON t.oid = id
			JOIN pg_type e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
			WHERE what = 'resulttype' AND e.oid >= 16384
		UNION SELECT x.rel, e.event, NULL, true, false, p.nsp, p.name, false FROM (SELECT attrelid, atttypid FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped UNION SELECT * FROM part) x(rel, typ)
			JOIN pg_cast k ON k.casttarget = x.typ AND k.castfunc >= 16384 AND k.castcontext IN ('a', 'i') AND (k.casttarget >= 16384 OR k.castsource < 16384)
			JOIN code p ON p.id = k.castfunc, (VALUES ('insert'), ('update')) e(event)
		UNION SELECT tgrelid, event, CASE WHEN event = 'update' AND tgattr::text <> '' AND NOT EXISTS (SELECT FROM col WHERE NOT plain AND rel = tgrelid AND num = ANY (tgattr))
				THEN (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute WHERE attrelid = tgrelid AND attnum = ANY (tgattr)) END,
			tgtype & 1 <> 0 OR event = 'truncate', tgtype & 64 <> 0, p.nsp, p.name, false FROM fired JOIN code p ON p.id = tgfoid)
	SELECT n.nspname::text COLLATE "C", c.relname::text COLLATE "C", r.event COLLATE "C", r.cols, fn.nspname::text COLLATE "C", r.name::text COLLATE "C", r.instead, bool_or(r.planned)
	FROM (SELECT rel, event, cols, instead, nsp, name, planned FROM runs
		UNION SELECT a.oid, e.event, r.cols, r.instead, r.nsp, r.name, r.planned FROM runs r JOIN heir h ON h.rel = r.rel AND r.spreads JOIN pg_class a ON a.oid = h.ancestor,
			LATERAL (SELECT r.event WHERE r.event <> 'insert' OR a.relkind = 'p'
				UNION SELECT 'update' WHERE r.event IN ('insert', 'delete') AND a.relkind = 'p') e(event)) r
	JOIN pg_class c ON c.oid = r.rel JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_namespace fn ON fn.oid = r.nsp
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7`

	// One at login has run before there is a statement.
	eventTriggersQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", p.proname::text COLLATE "C"
	FROM pg_event_trigger JOIN pg_proc p ON p.oid = evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE evtenabled <> 'D' AND evtevent <> 'login' ORDER BY 1, 2`

	// What isn't PostgreSQL's own has a number from 16384 on, wherever it is.
	functionsQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", p.proname::text COLLATE "C"
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE (n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.oid >= 16384) AND n.nspname !~ '^pg_temp' ORDER BY 1, 2`

	// Enumerations, and domains without CHECK, row types and arrays of such
	// and of types of pg_catalog run no code of anybody's.
	typesQuery = `WITH RECURSIVE part(whole, part) AS (
		SELECT oid, oid FROM pg_type WHERE oid >= 16384
		UNION SELECT p.whole, x.id FROM part p, LATERAL (
			SELECT CASE WHEN typtype = 'd' THEN typbasetype ELSE typelem END FROM pg_type WHERE oid = p.part
			UNION ALL SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
				WHERE t.oid = p.part) x(id) WHERE x.id >= 16384),
	pure(whole, so) AS (SELECT p.whole, bool_and(t.typtype IN ('e', 'c') OR t.typcategory = 'A' OR t.typtype = 'd'
			AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
		FROM part p JOIN pg_type t ON t.oid = p.part GROUP BY p.whole)
	SELECT n.nspname::text COLLATE "C", t.typname::text COLLATE "C", p.so
	FROM pure p JOIN pg_type t ON t.oid = p.whole JOIN pg_namespace n ON n.oid = t.typnamespace
	WHERE n.nspname !~ '^pg_(toast|temp)' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
	ORDER BY 1, 2`

	operatorsQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", o.oprname::text COLLATE "C"
	FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
	WHERE n.nspname <> 'pg_catalog' OR o.oid >= 16384 ORDER BY 1, 2`

	castsQuery = `SELECT sn.nspname::text COLLATE "C", s.typname::text COLLATE "C", n.nspname::text COLLATE "C", t.typname::text COLLATE "C",
		fn.nspname::text COLLATE "C", f.proname::text COLLATE "C", c.castcontext = 'i'
	FROM pg_cast c JOIN pg_type s ON s.oid = c.castsource JOIN pg_namespace sn ON sn.oid = s.typnamespace
	JOIN pg_type t ON t.oid = c.casttarget JOIN pg_namespace n ON n.oid = t.typnamespace
	JOIN pg_proc f ON f.oid = c.castfunc JOIN pg_namespace fn ON fn.oid = f.pronamespace
	WHERE c.castfunc >= 16384 ORDER BY 1, 2, 3, 4`
)

// Load reads the names of a database, in one snapshot and in its own order, so
// that equal databases have equal catalogues.
func Load(ctx context.Context, conn *pgx.Conn) (*Catalogue, error) {
	c := new(Catalogue)
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The queries mean the system's own names, whatever the user's path. To
		// compile them takes a server longer than they take.
		if _, err := tx.Exec(ctx, "SET LOCAL search_path TO pg_catalog, pg_temp"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT set_config(name, 'off', true) FROM pg_settings WHERE name = 'jit'"); err != nil {
			return err
		}
		return c.load(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	return c, nil
}

func (c *Catalogue) load(ctx context.Context, tx pgx.Tx) error {
	var schema, name, kind, base, baseName string
	var columns []string
	var pure bool
	var cast CastInfo
	var off SetOff
	qualified := func(list *[]Qualified) func() {
		return func() { *list = append(*list, Qualified{schema, name}) }
	}
	relations := make(map[Qualified]int)
	relation := func() *RelationInfo { return &c.Relations[relations[Qualified{schema, name}]] }
	size := 0
	setsOff := func() {
		r := relation()
		r.SetsOff = append(r.SetsOff, off)
		off = SetOff{}
		size += 48 // more than names in its JSON
	}
	for _, q := range []struct {
		query string
		into  []any
		add   func()
	}{
		{schemasQuery, []any{&name}, func() { c.Schemas = append(c.Schemas, name) }},
		{relationsQuery, []any{&schema, &name, &kind, &columns}, func() {
			relations[Qualified{schema, name}] = len(c.Relations)
			c.Relations = append(c.Relations, RelationInfo{Qualified: Qualified{schema, name}, Kind: kind, Columns: columns})
			columns = nil
		}},
		{viewsQuery, []any{&schema, &name, &base, &baseName}, func() {
			r := relation()
			r.Bases = append(r.Bases, Qualified{base, baseName})
		}},
		{locksQuery, []any{&schema, &name}, func() { relation().Locks = true }},
		{runsQuery, []any{&schema, &name, &base, &baseName}, func() {
			r := relation()
			r.Runs = append(r.Runs, Qualified{base, baseName})
		}},
		{rulesQuery, []any{&schema, &name, &off.On, &off.Action, &off.Schema, &off.Name, &off.Defaults, &off.Planned}, setsOff},
		{cascadesQuery, []any{&schema, &name, &off.On, &off.Of, &off.Action, &off.Schema, &off.Name, &off.Sets, &off.Defaults}, setsOff},
		{firesQuery, []any{&schema, &name, &off.On, &off.Of, &off.Schema, &off.Name, &off.Instead, &off.Planned}, setsOff},
		{eventTriggersQuery, []any{&schema, &name}, qualified(&c.EventTriggers)},
		{functionsQuery, []any{&schema, &name}, qualified(&c.Functions)},
		{typesQuery, []any{&schema, &name, &pure}, func() {
			c.Types = append(c.Types, TypeInfo{Qualified{schema, name}, pure})
		}},
		{operatorsQuery, []any{&schema, &name}, qualified(&c.Operators)},
		{castsQuery, []any{&cast.Source.Schema, &cast.Source.Name, &cast.Target.Schema, &cast.Target.Name,
			&cast.Function.Schema, &cast.Function.Name, &cast.Implicit}, func() { c.Casts = append(c.Casts, cast) }},
	} {
		var args []any
		if strings.Contains(q.query, code) {
			args = []any{slices.Sorted(maps.Keys(builtin().pure))}
		}
		rows, err := tx.Query(ctx, fmt.Sprintf("%s LIMIT %d", q.query, maxNames+1), args...)
		if err != nil {
			return err
		}
		n := 0
		if _, err := pgx.ForEachRow(rows, q.into, func() error {
			if n++; n > maxNames {
				return fmt.Errorf("%w: more than %d names of a kind", ErrCatalogue, maxNames)
			}
			for _, v := range rows.RawValues() {
				size += len(v)
			}
			if size > maxBytes {
				return fmt.Errorf("%w: more than %d bytes of names", ErrCatalogue, maxBytes)
			}
			q.add()
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Import is the record of a catalogue that was read from a source.
func (c *Catalogue) Import(source string) evidence.ImportBody {
	return evidence.ImportBody{
		Kind: "postgres.catalogue", Source: source,
		Query: strings.Join([]string{
			schemasQuery, relationsQuery, viewsQuery, locksQuery, runsQuery, rulesQuery, cascadesQuery, firesQuery, eventTriggersQuery,
			functionsQuery, typesQuery, operatorsQuery, castsQuery,
		}, ";\n"),
		Rows: len(c.Schemas) + len(c.Relations) + len(c.Functions) + len(c.Types) + len(c.Operators) + len(c.Casts) + len(c.EventTriggers),
		// The digest is of the data as written here.
		Digest: c.Digest(), Data: json.RawMessage(c.JSON()),
	}
}
