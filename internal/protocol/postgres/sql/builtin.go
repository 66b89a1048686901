package sql

import (
	_ "embed"
	"strings"
	"sync"
)

// builtinText lists what is in pg_catalog and information_schema, one section
// per kind, of the servers that its first line names. TestBuiltin makes it.
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
	return b
})

// key is a name in a schema.
type key struct{ schema, name string }
