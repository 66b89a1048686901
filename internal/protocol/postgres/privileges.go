package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What the gateway asks a server about its own account there.
const (
	accountQuery = `SELECT r.rolname, r.rolname OPERATOR(pg_catalog.=) current_user, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolbypassrls, r.rolreplication ` +
		`FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(r.oid, 'MEMBER') ORDER BY 1`
	reachQuery = `SELECT (n.nspname::pg_catalog.text) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) (c.relname::pg_catalog.text), ` +
		`pg_catalog.pg_has_role(c.relowner, 'USAGE'), ` +
		`pg_catalog.has_any_column_privilege(c.oid, 'SELECT'), pg_catalog.has_any_column_privilege(c.oid, 'INSERT'), pg_catalog.has_any_column_privilege(c.oid, 'UPDATE'), ` +
		`pg_catalog.has_table_privilege(c.oid, 'DELETE'), pg_catalog.has_table_privilege(c.oid, 'TRUNCATE') ` +
		`FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace ` +
		`WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::"char"[]) AND n.nspname OPERATOR(pg_catalog.!~~) 'pg\_%' AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema' ` +
		`ORDER BY 1`
)

// maxReach bounds the objects that are read of one database.
const maxReach = 200_000

// errReach is returned for a database with more.
var errReach = errors.New("the database has more tables and views than are read")

// Privileges reads what the gateway's account at the server of a resource may do
// by itself, and how many roles and objects were looked at.
func (d *Databases) Privileges(ctx context.Context, resource string) (role string, list []evidence.PrivilegeRow, read int, query string, err error) {
	query = accountQuery + "; " + reachQuery
	ctx, cancel := context.WithTimeout(ctx, catalogueTimeout)
	defer cancel()
	conn, err := d.connect(ctx, resource, "privileges")
	if err != nil {
		return "", nil, 0, query, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	add := func(r evidence.PrivilegeRow, names []string, has []bool) {
		for i, h := range has {
			if h {
				r.Privileges = append(r.Privileges, names[i])
			}
		}
		if read++; len(r.Privileges) > 0 || r.Object == "" {
			list = append(list, r)
		}
	}
	var name string
	var own bool
	has := make([]bool, 6)
	rows, err := conn.Query(ctx, accountQuery)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&name, &own, &has[0], &has[1], &has[2], &has[3], &has[4]}, func() error {
			if own {
				role = name
			}
			has[5] = !own
			add(evidence.PrivilegeRow{Role: name, Privileges: []string{}}, []string{"superuser", "createrole", "createdb", "bypassrls", "replication", "member"}, has)
			return nil
		})
	}
	if err != nil {
		return "", nil, 0, query, fmt.Errorf("reading roles: %w", err)
	}
	rows, err = conn.Query(ctx, reachQuery)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&name, &has[0], &has[1], &has[2], &has[3], &has[4], &has[5]}, func() error {
			add(evidence.PrivilegeRow{Role: role, Object: name}, []string{"owner", "select", "insert", "update", "delete", "truncate"}, has)
			if read > maxReach {
				return errReach
			}
			return nil
		})
	}
	if err != nil {
		return "", nil, 0, query, fmt.Errorf("reading privileges: %w", err)
	}
	return role, list, read, query, nil
}
