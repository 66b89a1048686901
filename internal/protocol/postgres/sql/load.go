package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrCatalogue is wrapped when a database holds more names than we keep.
var ErrCatalogue = errors.New("the catalogue is too large")

// maxNames bounds each list of a catalogue.
const maxNames = 200_000

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

	viewsQuery = `SELECT DISTINCT vn.nspname::text COLLATE "C", v.relname::text COLLATE "C", bn.nspname::text COLLATE "C", b.relname::text COLLATE "C"
	FROM pg_rewrite r
	JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
	JOIN pg_namespace vn ON vn.oid = v.relnamespace
	JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
	JOIN pg_class b ON b.oid = d.refobjid AND b.oid <> v.oid
	JOIN pg_namespace bn ON bn.oid = b.relnamespace
	WHERE vn.nspname NOT IN ('pg_catalog', 'information_schema') AND vn.nspname !~ '^pg_(toast|temp)'
	ORDER BY 1, 2, 3, 4`

	functionsQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", p.proname::text COLLATE "C"
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_temp' ORDER BY 1, 2`

	// Enumerations, row types, and domains without CHECK over types of
	// pg_catalog run no code of anybody's.
	typesQuery = `SELECT n.nspname::text COLLATE "C", t.typname::text COLLATE "C",
		t.typtype IN ('e', 'c') OR t.typtype = 'd'
			AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')
			AND EXISTS (SELECT FROM pg_type b WHERE b.oid = t.typbasetype AND b.typnamespace = 'pg_catalog'::regnamespace)
	FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
	WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
		AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
	ORDER BY 1, 2`

	operatorsQuery = `SELECT DISTINCT n.nspname::text COLLATE "C", o.oprname::text COLLATE "C"
	FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
	WHERE n.nspname <> 'pg_catalog' ORDER BY 1, 2`
)

// Load reads the names of a database, in one snapshot and in its own order, so
// that equal databases have equal catalogues.
func Load(ctx context.Context, conn *pgx.Conn) (*Catalogue, error) {
	c := new(Catalogue)
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The queries mean the system's own names, whatever the user's path.
		if _, err := tx.Exec(ctx, "SET LOCAL search_path TO pg_catalog, pg_temp"); err != nil {
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
	qualified := func(list *[]Qualified) func() {
		return func() { *list = append(*list, Qualified{schema, name}) }
	}
	relations := make(map[Qualified]int)
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
			r := &c.Relations[relations[Qualified{schema, name}]]
			r.Bases = append(r.Bases, Qualified{base, baseName})
		}},
		{functionsQuery, []any{&schema, &name}, qualified(&c.Functions)},
		{typesQuery, []any{&schema, &name, &pure}, func() {
			c.Types = append(c.Types, TypeInfo{Qualified{schema, name}, pure})
		}},
		{operatorsQuery, []any{&schema, &name}, qualified(&c.Operators)},
	} {
		rows, err := tx.Query(ctx, fmt.Sprintf("%s LIMIT %d", q.query, maxNames+1))
		if err != nil {
			return err
		}
		n := 0
		if _, err := pgx.ForEachRow(rows, q.into, func() error {
			if n++; n > maxNames {
				return fmt.Errorf("%w: more than %d names of a kind", ErrCatalogue, maxNames)
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
		Query: strings.Join([]string{schemasQuery, relationsQuery, viewsQuery, functionsQuery, typesQuery, operatorsQuery}, ";\n"),
		Rows:  len(c.Schemas) + len(c.Relations) + len(c.Functions) + len(c.Types) + len(c.Operators),
		// The digest is of the data as written here.
		Digest: c.Digest(), Data: json.RawMessage(c.JSON()),
	}
}
