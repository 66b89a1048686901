package sql

import (
	_ "embed"
	"strings"
	"sync"
)

// builtinText lists what is in pg_catalog and information_schema, one section
// per kind. TestBuiltin makes it from a server.
//
//go:embed builtin.txt
var builtinText string

// builtinNames are the names that every server has.
type builtinNames struct {
	relations map[key]bool
	pure      map[string]bool // functions of pg_catalog that only compute, or read what anyone may
	impure    map[string]bool // the other functions of pg_catalog
	helpers   map[string]bool // pure functions of information_schema
	types     map[string]bool // of pg_catalog
	settings  map[string]bool
	words     map[string]bool // every name above, and of the columns
}

var builtin = sync.OnceValue(func() *builtinNames {
	b := &builtinNames{
		relations: make(map[key]bool), pure: make(map[string]bool), impure: make(map[string]bool),
		helpers: make(map[string]bool), types: make(map[string]bool), settings: make(map[string]bool),
		words: map[string]bool{"pg_catalog": true, "information_schema": true, "pg_temp": true, "public": true},
	}
	var into map[string]bool
	section, schema := "", ""
	for line := range strings.Lines(builtinText) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "= "); ok {
			section = title
			into, schema = map[string]map[string]bool{
				"pure": b.pure, "impure": b.impure, "helpers": b.helpers, "types": b.types, "settings": b.settings, "columns": {},
			}[section], strings.TrimPrefix(section, "relations ")
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, name := range strings.Fields(line) {
			if into == nil {
				b.relations[key{schema, name}] = true
			} else {
				into[name] = true
			}
			b.words[name] = true
			if section == "settings" { // PostgreSQL folds their case
				into[strings.ToLower(name)] = true
				b.words[strings.ToLower(name)] = true
			}
		}
	}
	// The grammar's own names, and collations.
	for _, name := range []string{"excluded", "old", "new", "default", "C", "POSIX", "ucs_basic"} {
		b.words[name] = true
	}
	for _, name := range strings.Fields(newer) {
		b.pure[name] = true
		b.words[name] = true
	}
	return b
})

// newer are pure functions of servers later than the one that the list was
// made from: PostgreSQL 16, 17 and 18.
const newer = `any_value array_sample array_shuffle date_add date_subtract erf erfc pg_input_is_valid
	pg_input_error_info random_normal system_user range_agg range_intersect_agg
	to_bin to_oct to_regtypemod uuid_extract_timestamp uuid_extract_version unicode_assigned unicode_version
	icu_unicode_version xmltext pg_basetype pg_column_toast_chunk_id pg_get_wal_summarizer_state
	array_reverse array_sort casefold crc32 crc32c gamma lgamma json_strip_nulls uuidv4 uuidv7
	pg_get_acl has_largeobject_privilege pg_numa_available`

// key is a name in a schema.
type key struct{ schema, name string }
