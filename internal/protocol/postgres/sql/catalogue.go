package sql

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Catalogue is what a database held when it was read: names only, no data. It
// is immutable; its JSON is what the record keeps.
type Catalogue struct {
	Schemas   []string       `json:"schemas"`
	Relations []RelationInfo `json:"relations"`
	Functions []Qualified    `json:"functions"` // those that PostgreSQL didn't come with
	Types     []TypeInfo     `json:"types"`     // as above
	Operators []Qualified    `json:"operators"` // as above
	Casts     []CastInfo     `json:"casts,omitempty"`
	// EventTriggers are the functions that definitions run.
	EventTriggers []Qualified `json:"event_triggers,omitempty"`
}

// Qualified is a name in a schema.
type Qualified struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// RelationInfo is a table, view, sequence, index or the like. Those of
// pg_catalog and information_schema have no columns here.
type RelationInfo struct {
	Qualified
	Kind    string      `json:"kind"` // pg_class.relkind
	Columns []string    `json:"columns,omitempty"`
	Bases   []Qualified `json:"bases,omitempty"` // what a view reads, views included
	// Runs are the functions, and the types with code of their own, that come
	// in when it is used: of a view's query, of row security, of implicit
	// casts; and the handler of a foreign table.
	Runs  []Qualified `json:"runs,omitempty"`
	Locks bool        `json:"locks,omitempty"` // a view that is SELECT ... FOR UPDATE
	// SetsOff is what comes of writing it, by its rules, triggers, foreign keys
	// that refer to it, defaults, and whatever else is computed of a new row.
	SetsOff []SetOff `json:"sets_off,omitempty"`
}

// SetOff is one thing that a write of a relation sets off: a function runs, or
// another relation is read or written.
type SetOff struct {
	On     string   `json:"on"`               // insert, update, delete or truncate; default: a column takes its default
	Of     []string `json:"of,omitempty"`     // the columns without one of which an update doesn't
	Action string   `json:"action,omitempty"` // what happens to the relation; "" is a function's run
	Qualified
	Sets     []string `json:"sets,omitempty"`     // of an update: columns; without any it may be all
	Defaults bool     `json:"defaults,omitempty"` // of an update: to their defaults
	Instead  bool     `json:"instead,omitempty"`  // of a view: nothing else is written
	// Planned: an EXPLAIN of the write plans this, too. Functions then are asked
	// for like those in the text: the planner runs them if their authors say that
	// it may.
	Planned bool `json:"planned,omitempty"`
}

// TypeInfo is a type. One is pure when making a value of it runs no code that
// isn't PostgreSQL's own: enumerations, composites, domains without
// constraints, and whatever is made of these.
type TypeInfo struct {
	Qualified
	Pure bool `json:"pure,omitempty"`
}

// CastInfo is a cast that somebody made, by a function.
type CastInfo struct {
	Source   Qualified `json:"source"`
	Target   Qualified `json:"target"`
	Function Qualified `json:"function"`
	Implicit bool      `json:"implicit,omitempty"` // taken without being asked for
}

// JSON is the catalogue's one spelling, which is that of records: a digest of
// another would not be that of what they hold.
func (c *Catalogue) JSON() []byte { return evidence.EncodeBody(c) }

// ParseCatalogue reads what JSON wrote.
func ParseCatalogue(b []byte) (*Catalogue, error) {
	c := new(Catalogue)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("reading a catalogue: %w", err)
	}
	return c, nil
}

// Digest is the SHA-256 of the JSON, in hex.
func (c *Catalogue) Digest() string {
	sum := sha256.Sum256(c.JSON())
	return hex.EncodeToString(sum[:])
}

// index is a catalogue made ready for looking up, over the names that every
// server has.
type index struct {
	*builtinNames
	loaded    bool
	schemas   map[string]bool
	relations map[key]*RelationInfo
	inSchemas map[string][]string // relation name to its schemas, in the catalogue's order
	functions map[string][]string // function name to its schemas
	operators map[string][]string
	types     map[key]bool     // to whether it is pure
	casts     map[string][]key // name of a type to the functions that a mention of it may run
	typeNames map[string][]string
	columns   map[string]bool
	words     map[string]bool
	onDefine  []Qualified // event triggers' functions
}

func newIndex(c *Catalogue) *index {
	ix := &index{
		builtinNames: builtin(),
		schemas:      make(map[string]bool), relations: make(map[key]*RelationInfo), inSchemas: make(map[string][]string),
		functions: make(map[string][]string), operators: make(map[string][]string),
		types: make(map[key]bool), typeNames: make(map[string][]string),
		casts: make(map[string][]key), columns: make(map[string]bool), words: make(map[string]bool),
	}
	if c == nil {
		return ix
	}
	ix.loaded, ix.onDefine = true, c.EventTriggers
	for _, s := range c.Schemas {
		ix.schemas[s], ix.words[s] = true, true
	}
	for i := range c.Relations {
		r := &c.Relations[i]
		ix.relations[key{r.Schema, r.Name}] = r
		ix.inSchemas[r.Name] = append(ix.inSchemas[r.Name], r.Schema)
		ix.words[r.Name] = true
		for _, col := range r.Columns {
			ix.columns[col], ix.words[col] = true, true
		}
	}
	for _, f := range c.Functions {
		ix.functions[f.Name] = append(ix.functions[f.Name], f.Schema)
		ix.words[f.Name] = true
	}
	for _, o := range c.Operators {
		ix.operators[o.Name] = append(ix.operators[o.Name], o.Schema)
		ix.words[o.Name] = true
	}
	for _, t := range c.Types {
		ix.types[key{t.Schema, t.Name}] = t.Pure
		ix.typeNames[t.Name] = append(ix.typeNames[t.Name], t.Schema)
		ix.words[t.Name] = true
	}
	for _, cast := range c.Casts {
		f := key{cast.Function.Schema, cast.Function.Name}
		ix.casts[cast.Target.Name] = append(ix.casts[cast.Target.Name], f)
		if cast.Implicit {
			ix.casts[cast.Source.Name] = append(ix.casts[cast.Source.Name], f)
		}
	}
	return ix
}

// systems reports whether a function of pg_catalog is PostgreSQL's own: a
// superuser can put others there, also under the same name.
func (ix *index) systems(name string) bool {
	return !slices.Contains(ix.functions[name], "pg_catalog")
}

// harmless reports whether a function of pg_catalog only computes, or reads
// what anyone may.
func (ix *index) harmless(name string) bool { return ix.pure[name] && ix.systems(name) }

// known reports whether a name is one of the database's: only those stand in a
// normalized text.
func (ix *index) known(name string) bool { return ix.words[name] || ix.builtinNames.words[name] }

// hasRelation reports whether schema holds a relation of that name.
func (ix *index) hasRelation(schema, name string) bool {
	k := key{schema, name}
	return ix.relations[k] != nil || ix.builtinNames.relations[k]
}
