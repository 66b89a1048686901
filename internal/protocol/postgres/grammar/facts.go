package grammar

// Facts is what the grammar says of a text that it accepts.
type Facts struct {
	// Refused is the grammar's complaint. It may quote the text.
	Refused    string      `json:"refused,omitempty"`
	Statements []Statement `json:"statements,omitempty"`
	// Names are those that the statements' texts refer to.
	Names []Name `json:"names,omitempty"`
	// Shareable is true when another text with an equal Skeleton has equal
	// facts: every constant that Skeleton leaves out is an operand of a plain
	// SELECT, INSERT, UPDATE, DELETE or MERGE, and none was looked at.
	Shareable bool `json:"shareable,omitempty"`
	// Last is set by a child that ends after this answer.
	Last bool `json:"last,omitempty"`
}

// Statement is one of the statements of a text.
type Statement struct {
	// Action is what the statement is at its outermost: "select", "update",
	// "explain", "create", ... or "opaque".
	Action string `json:"action"`
	// Uses are all that the statement does, at any depth.
	Uses []Use `json:"uses,omitempty"`
	// Text is rebuilt from the parse tree: '?' for a constant, and a reference
	// to Facts.Names (see ForEachPiece) for a name.
	Text string `json:"text"`
	// Columns are the names of the columns that it reads or writes, "*" where it
	// takes all of a relation's.
	Columns []string `json:"columns,omitempty"`
	Bounded Bound    `json:"bounded,omitempty"`
	Limited Bound    `json:"limited,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
	// Inner is the statement of a PREPARE.
	Inner *Statement `json:"inner,omitempty"`
}

// Bound says whether all of something are bounded. Its zero value is: there is
// nothing of the kind.
type Bound string

// The values of a Bound.
const (
	Bounded   Bound = "yes"
	Unbounded Bound = "no"
)

// And combines two bounds: unbounded wins.
func (b Bound) And(c Bound) Bound {
	if b == Unbounded || c == Unbounded {
		return Unbounded
	}
	return max(b, c)
}

// Kind is the kind of thing that a Use is of.
type Kind string

// The kinds of thing.
const (
	Nothing   Kind = ""         // the statement itself
	Relation  Kind = "relation" // table, view, sequence, index, ...
	Creation  Kind = "creation" // a relation or other thing that will be made in a schema
	Routine   Kind = "routine"  // function or procedure, as named by DDL or CALL
	Function  Kind = "function" // function called in an expression
	Operator  Kind = "operator"
	Type      Kind = "type"
	Attribute Kind = "attribute" // a.b: a column, or a function called by its name alone
	Setting   Kind = "setting"
)

// Use is one thing that a statement does to something.
type Use struct {
	Action string `json:"action,omitempty"` // "" for functions, operators, types and attributes
	Kind   Kind   `json:"kind,omitempty"`
	Schema string `json:"schema,omitempty"` // as written, or ""
	Name   string `json:"name,omitempty"`
	Args   []Arg  `json:"args,omitempty"`  // of the functions in ArgumentsMatter
	Alone  bool   `json:"alone,omitempty"` // of a call: the statement succeeds only if it was made
	Later  bool   `json:"later,omitempty"` // of a call: another statement makes it
	// Sets are the columns that an update sets; Defaults: some of them to their
	// defaults.
	Sets     []string `json:"sets,omitempty"`
	Defaults bool     `json:"defaults,omitempty"`
	// Plans is what an EXPLAIN that runs nothing plans to do to a relation.
	Plans string `json:"plans,omitempty"`
}

// Arg is an argument of a function; Literal when its value can be read off.
type Arg struct {
	Literal bool   `json:"literal,omitempty"`
	Value   string `json:"value,omitempty"`
	// Compared: it is a column that the statement's WHERE compares with the value.
	Compared bool `json:"compared,omitempty"`
}

// Name is an identifier that a statement's text refers to.
type Name struct {
	Text string `json:"text"`
	// Local names were chosen in the text itself: aliases, CTEs, windows.
	Local bool `json:"local,omitempty"`
}

// EffectKind is what a statement changes about its session.
type EffectKind string

// The effects that later statements of a session depend on.
const (
	EffectSet         EffectKind = "set"        // Name, Values; Local: until the transaction ends
	EffectReset       EffectKind = "reset"      // Name, or "" for all
	EffectDiscard     EffectKind = "discard"    // everything
	EffectPrepare     EffectKind = "prepare"    // Name; Statement.Inner
	EffectExecute     EffectKind = "execute"    // Name
	EffectDeallocate  EffectKind = "deallocate" // Name, or "" for all
	EffectBegin       EffectKind = "begin"
	EffectCommit      EffectKind = "commit"
	EffectRollback    EffectKind = "rollback"
	EffectSavepoint   EffectKind = "savepoint"   // Name
	EffectRelease     EffectKind = "release"     // Name
	EffectRollbackTo  EffectKind = "rollback_to" // Name
	EffectCatalogue   EffectKind = "catalogue"   // relations, functions or types changed
	EffectTemporary   EffectKind = "temporary"   // Name: a temporary relation was made
	EffectUnknowable  EffectKind = "unknowable"  // settings may have changed in a way the text doesn't tell
	EffectRole        EffectKind = "role"        // current user may have changed, and "$user" with it
	EffectTransaction EffectKind = "transaction" // SET TRANSACTION and the like
)

// Effect is one change of a session, in order of execution.
type Effect struct {
	Kind   EffectKind `json:"kind"`
	Name   string     `json:"name,omitempty"`
	Values []string   `json:"values,omitempty"`
	Local  bool       `json:"local,omitempty"`
	// Chain: a transaction ends, and the next begins at once.
	Chain bool `json:"chain,omitempty"`
	// Unsure: the statement may succeed without this effect.
	Unsure bool `json:"unsure,omitempty"`
}

// ArgumentsMatter are the functions of pg_catalog whose literal arguments say
// what they act on. Their uses carry Args.
var ArgumentsMatter = map[string][]string{
	"nextval":    {"regclass"},
	"currval":    {"regclass"},
	"setval":     {"regclass", "value", "is_called"},
	"set_config": {"setting_name", "new_value", "is_local"},
}
