package sql

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Volatile functions of pg_catalog that only read what anyone may read, or
// change nothing but the answers of their own kind.
const volatileButPure = `bernoulli system clock_timestamp timeofday gen_random_uuid random setseed current_query lastval
	currtid2 pg_blocking_pids pg_safe_snapshot_blocking_pids pg_collation_actual_version pg_database_collation_actual_version
	pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system
	pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_size pg_tablespace_size pg_table_size
	pg_total_relation_size pg_relation_size pg_indexes_size pg_is_in_recovery pg_is_wal_replay_paused pg_get_wal_replay_pause_state
	pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp
	pg_lock_status pg_partition_ancestors pg_partition_tree pg_prepared_xact pg_sequence_last_value pg_notification_queue_usage
	pg_stat_get_recovery_prefetch pg_stat_get_xact_blocks_fetched pg_stat_get_xact_blocks_hit pg_stat_get_xact_function_calls
	pg_stat_get_xact_function_self_time pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans
	pg_stat_get_xact_tuples_deleted pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated
	pg_stat_get_xact_tuples_inserted pg_stat_get_xact_tuples_returned pg_stat_get_xact_tuples_updated pg_stat_have_stats
	pg_stat_clear_snapshot pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_xact_status txid_status
	pg_get_multixact_members pg_get_shmem_allocations pg_get_backend_memory_contexts pg_get_wal_resource_managers
	pg_isolation_test_session_is_blocked pg_show_replication_origin_status pg_sleep pg_sleep_for pg_sleep_until
	array_sample array_shuffle random_normal uuidv4 uuidv7 pg_get_aios pg_get_loaded_modules pg_get_sequence_data
	pg_get_shmem_allocations_numa pg_get_wait_events pg_get_wal_summarizer_state pg_stat_get_backend_io pg_stat_get_backend_wal
	pg_stat_get_io pg_stat_get_xact_tuples_newpage_updated`

// Functions that PostgreSQL calls stable or immutable and that run a query
// given as text or by name, or act outside their statement; and those that run
// the code of a type or function which their data names by number: domain_in
// runs a domain's checks.
const stableButImpure = `array_in array_recv domain_in domain_recv multirange_in multirange_recv range_in range_recv record_in record_recv
	fmgr_c_validator fmgr_internal_validator fmgr_sql_validator satisfies_hash_partition
	database_to_xml database_to_xml_and_xmlschema database_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema
	schema_to_xmlschema table_to_xml table_to_xml_and_xmlschema table_to_xmlschema query_to_xml query_to_xml_and_xmlschema
	query_to_xmlschema cursor_to_xml cursor_to_xmlschema ts_stat ts_rewrite`

// listed are the versions that the embedded list is made from.
var listed = []string{"15", "18"}

// TestBuiltin holds the embedded list against real servers. -update makes it
// anew. A server of a later minor version may have names that aren't listed:
// those are as unknown to the gateway as anybody's.
func TestBuiltin(t *testing.T) {
	have, madeFrom := sections(builtinText)
	all, from := map[string][]string{}, []string{}
	for _, major := range listed {
		t.Run(major, func(t *testing.T) {
			conn := connect(t, startPostgresOf(t, major))
			version := conn.PgConn().ParameterStatus("server_version")
			version, _, _ = strings.Cut(version, " ")
			from = append(from, version)
			for section, names := range serverNames(t, conn) {
				all[section] = append(all[section], names...)
				for _, name := range names {
					if !*update && section == "impure" && slices.Contains(have["pure"], name) {
						t.Errorf("%s is called harmless", name)
					}
					if !*update && slices.Contains(madeFrom, version) && !slices.Contains(have[section], name) && !slices.Contains(have["impure"], name) {
						t.Errorf("%q is no name of the list's %s; run with -update and review", name, section)
					}
				}
			}
		})
	}
	if *update && !t.Failed() {
		if err := os.WriteFile("builtin.txt", []byte(makeBuiltin(from, all)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sections reads the list.
func sections(text string) (names map[string][]string, madeFrom []string) {
	names = make(map[string][]string)
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			madeFrom = strings.FieldsFunc(comment, func(r rune) bool { return r == ' ' || r == ',' })
		} else if title, ok := strings.CutPrefix(line, "= "); ok {
			section = title
		} else {
			names[section] = append(names[section], strings.Fields(line)...)
		}
	}
	return names, madeFrom
}

// makeBuiltin writes the list. What one server calls impure is that on all.
func makeBuiltin(from []string, all map[string][]string) string {
	var b strings.Builder
	b.WriteString("# What is in pg_catalog and information_schema of PostgreSQL " + strings.Join(from, " and ") + ", made by TestBuiltin -update.\n")
	all["pure"] = slices.DeleteFunc(all["pure"], func(name string) bool { return slices.Contains(all["impure"], name) })
	for _, section := range []string{
		"pure", "impure", "helpers", "types", "relations pg_catalog", "relations information_schema", "columns", "settings",
	} {
		b.WriteString("= " + section + "\n")
		slices.Sort(all[section])
		width := 0
		for i, n := range slices.Compact(all[section]) {
			if width+len(n) > 110 {
				b.WriteByte('\n')
				width = 0
			} else if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(n)
			width += len(n) + 1
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// serverNames are the names that a server has, by section of the list.
func serverNames(t *testing.T, conn *pgx.Conn) map[string][]string {
	t.Helper()
	// A name is pure when all functions of that name are.
	isPure := `p.proname = ANY($1) OR bool_and(p.provolatile <> 'v') AND p.proname <> ALL($2)
		AND NOT bool_or(p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype))`
	functions := `SELECT p.proname::text FROM pg_proc p WHERE pronamespace = $3::regnamespace GROUP BY proname HAVING `
	pure, impure := strings.Fields(volatileButPure), strings.Fields(stableButImpure)
	relations := `SELECT relname::text FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'v')`
	return map[string][]string{
		"pure":                         names(t, conn, functions+"("+isPure+")", pure, impure, "pg_catalog"),
		"impure":                       names(t, conn, functions+"NOT ("+isPure+")", pure, impure, "pg_catalog"),
		"helpers":                      names(t, conn, functions+"("+isPure+")", pure, impure, "information_schema"),
		"types":                        names(t, conn, `SELECT typname::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'p', 'r', 'm') AND typname !~ '^_'`),
		"relations pg_catalog":         names(t, conn, relations, "pg_catalog"),
		"relations information_schema": names(t, conn, relations, "information_schema"),
		"columns": names(t, conn, `SELECT DISTINCT attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
			WHERE relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND relkind IN ('r', 'v') AND NOT attisdropped`),
		"settings": append(names(t, conn, `SELECT name FROM pg_settings`), "role", "session_authorization"),
	}
}

func names(t *testing.T, conn *pgx.Conn, query string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(context.Background(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	return list
}
