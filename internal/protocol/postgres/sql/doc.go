// Package sql says what a statement does, in the words of package evidence.
//
// In go the exact text that an agent sent and what its session's search_path
// is; out comes an Understanding: a Shape for the decision and the record, and
// the effects on the session that its later statements depend on. In between
// the grammar (package grammar) says what the text names, and a Catalogue of
// the database says what those names are.
//
// Nothing here fails. What isn't understood is a Shape that says so: opaque,
// with one check that policy must allow by name. And nothing here forgives: a
// name that could mean two things must be allowed as both, a function that
// isn't known to be harmless counts as one that writes.
//
// Equal statements, and those that differ only in plain constants, give the
// very same *Shape, so that whoever decides on it can remember by its address.
package sql
