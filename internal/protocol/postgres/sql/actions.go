package sql

import (
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Prefix is that of all action ids of this protocol.
const Prefix = "postgres:"

// Actions is the tree of PostgreSQL's actions: each with the actions that it
// stands in. A policy that names a parent means all of its children.
var Actions = tree(map[string]string{
	"connect": "connect",

	"select": "read", "show": "read", "explain": "read", "fetch": "read", "listen": "read", "copy_out": "read",

	"insert": "write", "update": "write", "delete": "write", "merge": "write", "truncate": "write",
	"copy_in": "write", "select_for_update": "write", "lock": "write", "advisory_lock": "write",
	"sequence": "write", "notify": "write", "large_object": "write",

	"begin": "session", "commit": "session", "rollback": "session", "savepoint": "session",
	"set": "session", "prepare": "session", "execute": "session", "deallocate": "session", "discard": "session",
	"declare": "session", "close": "session", "empty": "session",

	"create": "admin", "alter": "admin", "drop": "admin", "grant": "admin", "set_role": "admin",
	"do": "admin", "call": "admin", "load": "admin", "function_write": "admin", "copy_program": "admin",
	"copy_file": "admin", "server_file": "admin", "maintenance": "admin", "cancel_backend": "admin",
	"two_phase": "admin",

	"opaque": "opaque",
})

func tree(classes map[string]string) map[string][]string {
	t := make(map[string][]string, len(classes))
	for action, class := range classes {
		t[Prefix+action] = []string{class}
	}
	return t
}

// strength orders the classes, weakest first.
var strength = map[string]int{
	evidence.VerbSession: 1, evidence.VerbConnect: 2, evidence.VerbRead: 3,
	evidence.VerbWrite: 4, evidence.VerbAdmin: 5, evidence.VerbOpaque: 6,
}

// Class is the class of an action id; what isn't in the tree is opaque.
func Class(action string) string {
	if parents := Actions[action]; len(parents) > 0 {
		return parents[0]
	}
	return evidence.VerbOpaque
}

// strongest is the class of the strongest check.
func strongest(checks []evidence.Check) string {
	verb := evidence.VerbSession
	for _, c := range checks {
		if class := Class(c.Action); strength[class] > strength[verb] {
			verb = class
		}
	}
	return verb
}

// special are the functions of pg_catalog that have actions of their own, by
// name or by prefix. The rest of those that aren't pure are function_write.
func special(name string) []string {
	switch name {
	case "nextval", "setval":
		return []string{"sequence"}
	case "currval":
		return []string{"select"}
	case "pg_notify":
		return []string{"notify"}
	case "pg_terminate_backend", "pg_cancel_backend":
		return []string{"cancel_backend"}
	case "lo_import", "lo_export":
		return []string{"large_object", "server_file"}
	case "loread", "lowrite":
		return []string{"large_object"}
	case "pg_read_file", "pg_read_binary_file", "pg_read_file_old", "pg_stat_file":
		return []string{"server_file"}
	}
	switch {
	case strings.HasPrefix(name, "lo_"):
		return []string{"large_object"}
	case strings.HasPrefix(name, "pg_ls_"):
		return []string{"server_file"}
	case strings.HasPrefix(name, "pg_advisory_"), strings.HasPrefix(name, "pg_try_advisory_"):
		return []string{"advisory_lock"}
	}
	return nil
}

// Facts are those that a statement may state, with their Cedar types. A text
// states those that it has something to say about.
var Facts = map[string]string{
	"statements": "Long", "bounded": "Bool", "limited": "Bool",
	"functions": "Set<String>", "columns": "Set<String>", "settings": "Set<String>",
}
