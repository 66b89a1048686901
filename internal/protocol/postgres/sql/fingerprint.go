package sql

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// fingerprinted are the system's tables that Load reads, or whose rows decide
// what it finds.
var fingerprinted = []string{
	"pg_namespace", "pg_class", "pg_attribute", "pg_depend", "pg_rewrite", "pg_policy", "pg_proc", "pg_type", "pg_range", "pg_constraint",
	"pg_operator", "pg_opclass", "pg_cast", "pg_aggregate", "pg_trigger", "pg_event_trigger", "pg_inherits", "pg_attrdef", "pg_index", "pg_partitioned_table",
	"pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table", "pg_extension",
}

// fingerprintQuery counts the rows and adds up the transactions that wrote
// them: a row that takes another's place is younger. The server's start and the
// database's id tell one server from another.
var fingerprintQuery = func() string {
	var parts []string
	for _, table := range fingerprinted {
		parts = append(parts, fmt.Sprintf("SELECT '%[1]s' AS t, count(*) AS n, sum(xmin::text::bigint) AS x FROM pg_catalog.%[1]s", table))
	}
	return "SELECT pg_catalog.pg_postmaster_start_time()::text || ' ' || (SELECT oid::text FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())" +
		" || ' ' || pg_catalog.string_agg(t || ':' || n::text || ':' || COALESCE(x::text, ''), ' ' ORDER BY t) FROM (" + strings.Join(parts, " UNION ALL ") + ") s"
}()

// Fingerprint is a text that differs from the one of before when what Load
// reads may have changed. It costs the server a scan and no transfer, and needs
// no rights.
func Fingerprint(ctx context.Context, conn *pgx.Conn) (f string, err error) {
	// The query means the system's own names, whatever the user's path.
	if _, err := conn.Exec(ctx, "SET search_path TO pg_catalog, pg_temp"); err != nil {
		return "", fmt.Errorf("reading the catalogue's fingerprint: %w", err)
	}
	if err := conn.QueryRow(ctx, fingerprintQuery).Scan(&f); err != nil {
		return "", fmt.Errorf("reading the catalogue's fingerprint: %w", err)
	}
	return f, nil
}
