package sql

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// resolver turns the names of one text into objects. The search_path may
// change from one of its statements to the next.
type resolver struct {
	ix    *index
	env   Env
	facts *grammar.Facts

	paths [][]string // candidates at this point of the text
	seen  [][]string // all that the transaction has had
	any   bool       // any schema may be in the path

	checks    map[evidence.Check]struct{}
	functions map[string]struct{}
	settings  map[string]struct{}
	columns   map[string]struct{}
	effects   []Effect
	risky     bool         // a function was met whose arguments may matter
	excessive bool         // there are more checks than may be
	populates bool         // a function was met that makes values of its argument's row type
	executes  bool         // what EXECUTE names
	rows      []key        // row types with code of their own, of the relations
	acts      map[act]bool // of the statement
}

// resolve makes the Understanding of a text that the grammar accepts.
func resolve(ix *index, env Env, facts *grammar.Facts) *Understanding {
	r := &resolver{
		ix: ix, env: env, facts: facts, paths: env.paths, seen: slices.Concat(env.paths, env.seen), any: len(env.paths) == 0,
		checks: make(map[evidence.Check]struct{}), functions: make(map[string]struct{}), settings: make(map[string]struct{}),
		columns: make(map[string]struct{}),
	}
	u := &Understanding{Shape: &evidence.Shape{Path: paths[0], Parse: evidence.ParseFull}}
	var bounded, limited grammar.Bound
	for i := range facts.Statements {
		st := &facts.Statements[i]
		r.statement(st)
		if r.populates {
			r.functionWrite(r.rows)
		}
		r.populates, r.rows = false, nil
		bounded, limited = bounded.And(st.Bounded), limited.And(st.Limited)
	}
	if len(facts.Statements) == 0 {
		r.check("empty", "")
	}
	if len(r.checks) == 0 { // the grammar never says so, and no checks would be no hindrance
		r.checks[opaqueCheck] = struct{}{}
	}
	if r.excessive {
		o := opaque(fmt.Sprintf("it asks for more than %d things", maxChecks))
		o.Effects, o.unclear = append(o.Effects, r.effects...), true
		return o
	}
	if _, u.unclear = r.checks[opaqueCheck]; r.executes {
		r.checks[opaqueCheck] = struct{}{}
	}
	s := u.Shape
	s.Text = r.text()
	s.Checks = sortedChecks(r.checks)
	s.Verb = strongest(s.Checks)
	s.Facts = r.shapeFacts(bounded, limited)
	u.Effects = r.effects
	u.shareable = facts.Shareable && !r.risky && len(r.effects) == 0
	if _, ok := r.checks[opaqueCheck]; ok {
		s.Parse = evidence.ParsePartial
		if len(facts.Statements) == 1 {
			s.Parse, s.Text = evidence.ParseOpaque, ""
		}
	}
	return u
}

func (r *resolver) shapeFacts(bounded, limited grammar.Bound) evidence.Facts {
	f := evidence.Facts{"statements": int64(len(r.facts.Statements))}
	if bounded != "" {
		f["bounded"] = bounded == grammar.Bounded
	}
	if limited != "" {
		f["limited"] = limited == grammar.Bounded
	}
	if len(r.functions) > 0 {
		f["functions"] = sortedKeys(r.functions)
	}
	if len(r.columns) > 0 {
		f["columns"] = sortedKeys(r.columns)
	}
	if len(r.settings) > 0 {
		f["settings"] = sortedKeys(r.settings)
	}
	return f
}

// maxChecks bounds what one text may ask: policy decides on each, and the
// record holds them.
const maxChecks = 10_000

func (r *resolver) check(action, object string) {
	if r.excessive = len(r.checks) >= maxChecks; r.excessive {
		return
	}
	r.checks[evidence.Check{Action: Prefix + action, Object: object}] = struct{}{}
}

// defining are the actions upon which event triggers run, if not on all that
// they stand for.
var defining = map[string]bool{"create": true, "alter": true, "drop": true, "grant": true, "maintenance": true}

func (r *resolver) statement(st *grammar.Statement) {
	r.acts = make(map[act]bool)
	if slices.ContainsFunc(st.Uses, func(u grammar.Use) bool { return defining[u.Action] }) {
		for _, f := range r.ix.onDefine {
			r.run(f)
		}
	}
	for i := range st.Uses {
		u := &st.Uses[i]
		switch u.Kind {
		case grammar.Nothing:
			r.check(u.Action, "")
		case grammar.Relation:
			r.relation(u)
		case grammar.Creation:
			r.creation(u.Action, u.Schema, u.Name)
		case grammar.Routine:
			for _, object := range r.routines(u.Schema, u.Name) {
				r.check(u.Action, object)
				r.functions[object] = struct{}{}
			}
		case grammar.Function:
			r.function(u)
		case grammar.Operator:
			r.operator(u.Schema, u.Name)
		case grammar.Type:
			r.typ(u.Schema, u.Name)
		case grammar.Attribute:
			r.attribute(u.Name)
		case grammar.Setting:
			r.setting(u.Action, u.Name)
		default:
			r.checks[opaqueCheck] = struct{}{}
		}
	}
	r.columnsOf(st)
	for _, e := range st.Effects {
		r.effect(Effect{Effect: e}, st)
	}
}

// maxColumns bounds the columns in the facts of one text. One with more might
// as well take all.
const maxColumns = 256

// columnsOf notes the columns of a statement by their names. A name that isn't
// the database's own is the agent's, and not for the record.
func (r *resolver) columnsOf(st *grammar.Statement) {
	for _, name := range st.Columns {
		if name != "*" && !r.ix.known(name) {
			name = "?"
		}
		r.columns[name] = struct{}{}
	}
	if len(r.columns) > maxColumns {
		clear(r.columns)
		r.columns["*"] = struct{}{}
	}
}

// effect notes an effect, and follows the search_path for the statements after
// this one.
func (r *resolver) effect(e Effect, st *grammar.Statement) {
	switch e.Kind {
	case grammar.EffectSet:
		if e.Name == "search_path" {
			r.setPath(expandPath(e.Values, r.env.user), e.Unsure)
		}
	case grammar.EffectReset, grammar.EffectDiscard:
		if e.Name == "" || e.Name == "search_path" {
			if r.env.reset == nil {
				r.paths, r.any = nil, true
			} else {
				r.setPath(r.env.reset, false)
			}
		}
	case grammar.EffectUnknowable:
		r.paths, r.any = nil, true
	case grammar.EffectCommit, grammar.EffectRollback, grammar.EffectRollbackTo:
		// Back to a path of before, in this text or an earlier one.
		for _, p := range r.seen {
			r.setPath(p, true)
		}
	case grammar.EffectPrepare:
		if st.Inner != nil {
			e.Inner = &Prepared{&grammar.Facts{Statements: []grammar.Statement{*st.Inner}, Names: r.facts.Names}}
		}
	case grammar.EffectExecute:
		// What it runs isn't in the text: see Understander.Execute.
		r.executes = true
		e.env = newEnv(r.paths, nil, r.env.reset, r.env.user, r.env.raw)
		if r.any {
			e.env = newEnv(nil, nil, r.env.reset, r.env.user, r.env.raw)
		}
	}
	r.effects = append(r.effects, e)
}

// setPath follows the search_path to a value that it has now, or may have.
func (r *resolver) setPath(path []string, unsure bool) {
	r.seen = append(slices.Clip(r.seen), path)
	switch {
	case !unsure:
		r.paths, r.any = [][]string{path}, false
	case !r.any && !slices.ContainsFunc(r.paths, func(p []string) bool { return slices.Equal(p, path) }):
		r.paths = append(slices.Clone(r.paths), path)
	}
}

// act is what is done to a relation.
type act struct {
	action   string
	on       key
	sets     string // the columns that an update sets, each with a NUL; "" when it may be any
	defaults bool   // some of them to their defaults
	plans    string // what is planned, of an explain
}

// columnSet is the columns of an act.
func columnSet(names []string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString("\x00" + name + "\x00")
	}
	return b.String()
}

// event is what waits for an act: what a relation SetsOff is on it.
func (a act) event() string {
	if a.action == "copy_in" {
		return "insert"
	}
	return cmp.Or(a.plans, a.action)
}

// setsOff reports whether an act has something happen.
func (a act) setsOff(s *SetOff) bool {
	if a.plans != "" && !s.Planned {
		return false
	}
	if s.On == "default" {
		return a.defaults || a.event() == "insert"
	}
	return s.On == a.event() && (len(s.Of) == 0 || a.sets == "" ||
		slices.ContainsFunc(s.Of, func(column string) bool { return strings.Contains(a.sets, "\x00"+column+"\x00") }))
}

// relation checks an action on a relation, on what a view reads, and on what a
// write sets off.
func (r *resolver) relation(u *grammar.Use) {
	for _, object := range r.relations(u.Schema, u.Name) {
		r.act(act{u.Action, object, columnSet(u.Sets), u.Defaults, u.Plans})
	}
}

// throughViews are the actions that reach what a view reads.
var throughViews = map[string]bool{
	"select": true, "explain": true, "copy_out": true, "select_for_update": true, "lock": true,
	"insert": true, "update": true, "delete": true, "merge": true, "copy_in": true,
}

func (r *resolver) act(a act) {
	if r.acts[a] || r.excessive {
		return
	}
	r.acts[a] = true
	r.check(a.action, a.on.String())
	if a.action == "update" && a.on == (key{"pg_catalog", "pg_settings"}) {
		r.anySetting("set") // a rule of the view calls set_config, but for roles
	}
	if pure, known := r.ix.types[a.on]; known && !pure {
		r.rows = append(r.rows, a.on)
	}
	info := r.ix.relations[a.on]
	if info == nil {
		return
	}
	instead := r.follow(a, info)
	if !throughViews[a.action] {
		return
	}
	for _, f := range info.Runs {
		r.run(f)
	}
	if a.action == "update" && r.acts[act{action: "insert", on: a.on}] {
		instead = false // ON CONFLICT updates what the view reads, whatever an UPDATE does
	}
	below := act{action: a.action, defaults: a.defaults, plans: a.plans}
	if instead {
		if a.event() == "insert" {
			return
		}
		below = act{action: "select"} // of which rows, the view says
	}
	for _, b := range info.Bases {
		below.on = key{b.Schema, b.Name}
		r.act(below)
		if info.Locks && a.action == "select" {
			r.act(act{action: "select_for_update", on: key{b.Schema, b.Name}})
		}
	}
}

// follow checks what an act on a relation sets off, and reports whether that
// takes the place of writing what the relation is a view of.
func (r *resolver) follow(a act, info *RelationInfo) (instead bool) {
	for i := range info.SetsOff {
		s := &info.SetsOff[i]
		if !a.setsOff(s) {
			continue
		}
		instead = instead || s.Instead
		switch {
		case s.Action == "":
			r.run(s.Qualified)
		case s.Name == "": // NOTIFY
			r.check(s.Action, "")
		default:
			next := act{action: s.Action, on: key{s.Schema, s.Name}, sets: columnSet(s.Sets), defaults: s.Defaults}
			if a.plans != "" {
				next.action, next.plans = a.action, s.Action
			}
			r.act(next)
		}
	}
	return instead
}

// run checks code that comes in unseen.
func (r *resolver) run(f Qualified) {
	k := key{f.Schema, f.Name}
	if r.ix.types[k] && !slices.Contains(r.ix.functions[k.name], k.schema) {
		return // a type without code
	}
	r.functions[k.String()] = struct{}{}
	system := k.schema == "pg_catalog" && r.ix.systems(k.name)
	switch {
	case system && k.name == "set_config":
		r.anySetting("set_role")
	case system && special(k.name) != nil:
		r.specialFunction(k.name, &grammar.Use{})
	default:
		r.check("function_write", k.String())
	}
}

// relations are all that a relation's name may mean.
func (r *resolver) relations(schema, name string) []key {
	if schema != "" {
		if schema == "pg_temp" || strings.HasPrefix(schema, "pg_temp_") {
			schema = "pg_temp"
		}
		return []key{{schema, name}}
	}
	if r.any {
		return r.anywhere(name, r.ix.inSchemas[name], r.ix.builtinNames.relations[key{"pg_catalog", name}])
	}
	var found []key
	for _, path := range r.paths {
		found = append(found, r.relationsIn(path, name)...)
	}
	return compact(found)
}

func (r *resolver) relationsIn(path []string, name string) []key {
	if !slices.Contains(path, "pg_catalog") && r.ix.hasRelation("pg_catalog", name) {
		return []key{{"pg_catalog", name}}
	}
	for _, schema := range path {
		if r.ix.hasRelation(schema, name) {
			return []key{{schema, name}}
		}
	}
	return r.unknown(path, name)
}

// unknown are the candidates for a name that is in no schema that we know of:
// all that are in the path.
func (r *resolver) unknown(path []string, name string) []key {
	var found []key
	for _, schema := range path {
		if schema == "pg_catalog" || schema == r.env.user && !r.ix.schemas[schema] || r.ix.loaded && !r.ix.schemas[schema] && schema != "pg_temp" {
			continue
		}
		found = append(found, key{schema, name})
	}
	if found == nil && !r.ix.loaded {
		found = append(found, key{"public", name})
	}
	if found == nil {
		found = append(found, key{"?", name})
	}
	return found
}

// anywhere are the candidates for a name when any schema may be in the path.
func (r *resolver) anywhere(name string, schemas []string, system bool) []key {
	var found []key
	if system {
		found = append(found, key{"pg_catalog", name})
	}
	for _, s := range schemas {
		found = append(found, key{s, name})
	}
	if !system {
		found = append(found, key{"?", name})
	}
	return compact(found)
}

// creation checks the making of something: in the first schema of the path.
func (r *resolver) creation(action, schema, name string) {
	if schema != "" {
		r.check(action, r.relations(schema, name)[0].String())
		return
	}
	if r.any {
		r.check(action, key{"?", name}.String())
		return
	}
	for _, path := range r.paths {
		r.check(action, r.unknown(path, name)[0].String())
	}
}

// routines are all that the name of a function or procedure may mean.
func (r *resolver) routines(schema, name string) []string {
	if schema != "" {
		return []string{key{schema, name}.String()}
	}
	var found []key
	known := r.ix.functions[name]
	system := r.ix.pure[name] || r.ix.impure[name] || slices.Contains(known, "pg_catalog")
	if r.any {
		found = r.anywhere(name, known, system)
	}
	for _, path := range r.paths {
		before := len(found)
		for _, s := range path {
			if slices.Contains(known, s) {
				found = append(found, key{s, name})
			}
		}
		if system {
			found = append(found, key{"pg_catalog", name})
		}
		if len(found) == before {
			found = append(found, r.unknown(path, name)...)
		}
	}
	var objects []string
	for _, k := range compact(found) {
		objects = append(objects, k.String())
	}
	return objects
}

// function checks a function that an expression calls. Pure ones of
// pg_catalog pass; an overload in the path that the call could mean doesn't.
func (r *resolver) function(u *grammar.Use) {
	if r.harmless(u.Schema, u.Name) {
		r.populates = r.populates || populates[u.Name]
		return
	}
	r.risky = true
	objects := r.routines(u.Schema, u.Name)
	for _, object := range objects {
		r.functions[object] = struct{}{}
		name, system := strings.CutPrefix(object, "pg_catalog.")
		system = system && r.ix.systems(name)
		switch {
		case system && r.ix.pure[name]:
			delete(r.functions, object)
		case system && name == "set_config":
			r.setConfig(u, len(objects) == 1)
		case system && special(name) != nil:
			r.specialFunction(name, u)
		default:
			r.check("function_write", object)
		}
	}
}

// populates are the functions that read the columns of a row type off their
// data, so that the checks of domains run.
var populates = map[string]bool{
	"json_populate_record": true, "json_populate_recordset": true,
	"jsonb_populate_record": true, "jsonb_populate_recordset": true, "jsonb_populate_record_valid": true,
}

func (r *resolver) harmless(schema, name string) bool {
	switch schema {
	case "pg_catalog":
		return r.ix.harmless(name)
	case "information_schema":
		return r.ix.helpers[name]
	case "":
		return r.ix.harmless(name) && !r.inPath(r.ix.functions[name])
	}
	return false
}

// inPath reports whether one of the schemas may be searched.
func (r *resolver) inPath(schemas []string) bool {
	if r.any {
		return len(schemas) > 0
	}
	if slices.Contains(schemas, "pg_catalog") { // always searched
		return true
	}
	for _, path := range r.paths {
		for _, s := range schemas {
			if slices.Contains(path, s) {
				return true
			}
		}
	}
	return false
}

func (r *resolver) specialFunction(name string, u *grammar.Use) {
	for _, action := range special(name) {
		if grammar.ArgumentsMatter[name] == nil {
			r.check(action, "pg_catalog."+name)
			continue
		}
		if len(u.Args) == 0 || !u.Args[0].Literal {
			r.check(action, "")
			continue
		}
		path, ok := splitIdentifiers(u.Args[0].Value, '.')
		if !ok || len(path) == 0 || len(path) > 3 || isOID(u.Args[0].Value) {
			r.check(action, "")
			continue
		}
		schema := ""
		if len(path) > 1 {
			schema = path[len(path)-2]
		}
		r.relation(&grammar.Use{Action: action, Schema: schema, Name: path[len(path)-1]})
	}
}

// isOID reports whether regclass takes a text for a number and not for a name.
func isOID(s string) bool { return s == "-" || strings.Trim(s, "0123456789") == "" }

// setConfig is SET in the form of a function. It can be called anywhere: only
// when it is all that the statement does, and means no function but this one,
// is it sure to happen.
func (r *resolver) setConfig(u *grammar.Use, only bool) {
	if u.Later { // by a FETCH, of which nobody can say when it comes
		r.checks[opaqueCheck] = struct{}{}
	}
	if len(u.Args) < 3 || !u.Args[0].Literal {
		r.anySetting("set_role")
		return
	}
	name := strings.ToLower(u.Args[0].Value)
	// What compares equal under somebody's collation is no other setting's name.
	if u.Args[0].Compared && !builtin().settings[name] {
		r.anySetting("set_role")
		return
	}
	action := "set"
	if name == "role" || name == "session_authorization" {
		action = "set_role"
	}
	r.setting(action, name)
	e := grammar.Effect{Kind: grammar.EffectSet, Name: name, Unsure: !u.Alone || !only}
	switch {
	case action == "set_role":
		e = grammar.Effect{Kind: grammar.EffectRole, Unsure: e.Unsure}
	case !u.Args[1].Literal:
		e = grammar.Effect{Kind: grammar.EffectUnknowable, Unsure: true}
	case name == "search_path":
		values, ok := splitIdentifiers(u.Args[1].Value, ',')
		if !ok {
			e = grammar.Effect{Kind: grammar.EffectUnknowable, Unsure: true}
		}
		e.Values = values
	default:
		e.Values = []string{u.Args[1].Value}
	}
	if e.Kind == grammar.EffectSet {
		local := u.Args[2]
		e.Local = local.Literal && isTrue(local.Value)
		e.Unsure = e.Unsure || !local.Literal
	}
	r.effect(Effect{Effect: e}, nil)
}

// anySetting is the setting of something that the text doesn't name.
func (r *resolver) anySetting(action string) {
	r.check(action, "setting.?")
	r.effect(Effect{Effect: grammar.Effect{Kind: grammar.EffectUnknowable, Unsure: true}}, nil)
}

func isTrue(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "t", "tr", "tru", "true", "y", "ye", "yes", "on", "1":
		return true
	}
	return false
}

// operator checks an operator that may be somebody's own: its function runs.
func (r *resolver) operator(schema, name string) {
	switch {
	case schema == "pg_catalog" && grammar.Operators[name] && !slices.Contains(r.ix.operators[name], schema):
		return
	case schema != "":
		r.functionWrite([]key{{schema, name}})
	case !grammar.Operators[name]:
		var found []key
		for _, s := range r.ix.operators[name] {
			found = append(found, key{s, name})
		}
		if found == nil {
			found = []key{{"?", name}}
		}
		r.functionWrite(found)
	case r.inPath(r.ix.operators[name]):
		var found []key
		for _, s := range r.ix.operators[name] {
			if r.inPath([]string{s}) {
				found = append(found, key{s, name})
			}
		}
		r.functionWrite(found)
	}
}

func (r *resolver) functionWrite(objects []key) {
	for _, k := range objects {
		r.risky = true
		r.check("function_write", k.String())
		r.functions[k.String()] = struct{}{}
	}
}

// typ checks a type whose input, casts or constraints may be somebody's code.
func (r *resolver) typ(schema, name string) {
	name, _ = strings.CutSuffix(name, "[]")
	r.functionWrite(r.ix.casts[name])
	switch {
	case schema == "pg_catalog", schema == "information_schema":
		if schema == "information_schema" || r.ix.builtinNames.types[name] || r.ix.hasRelation(schema, name) {
			return
		}
		r.functionWrite([]key{{schema, name}})
	case schema != "":
		if !r.pureType(key{schema, name}) {
			r.functionWrite([]key{{schema, name}})
		}
	case r.ix.builtinNames.types[name]:
		// pg_catalog comes first unless the path names it later.
		var shadows []key
		for _, s := range r.ix.typeNames[name] {
			if k := (key{s, name}); r.inPath([]string{s}) && r.shadowed() && !r.pureType(k) {
				shadows = append(shadows, k)
			}
		}
		r.functionWrite(shadows)
	default:
		r.unqualifiedType(name)
	}
}

// shadowed reports whether a path names pg_catalog itself, so that what stands
// before it is found first.
func (r *resolver) shadowed() bool {
	return r.any || slices.ContainsFunc(r.paths, func(p []string) bool { return slices.Contains(p, "pg_catalog") })
}

func (r *resolver) unqualifiedType(name string) {
	found := false
	for _, s := range r.ix.typeNames[name] {
		if !r.inPath([]string{s}) {
			continue
		}
		found = true
		if k := (key{s, name}); !r.pureType(k) {
			r.functionWrite([]key{k})
		}
	}
	for _, k := range r.relations("", name) { // a table's row type
		if k.schema != "?" && r.ix.hasRelation(k.schema, k.name) && !slices.Contains(r.ix.typeNames[name], k.schema) {
			found = true
		}
	}
	if !found {
		r.functionWrite([]key{{"?", name}})
	}
}

// pureType reports whether a type runs no code of anybody's. What isn't known
// to be a type may be the row type of a relation made since.
func (r *resolver) pureType(k key) bool {
	pure, known := r.ix.types[k]
	return pure || !known && r.ix.relations[k] != nil
}

// attribute checks a name after a dot. When it isn't a column PostgreSQL
// takes it for a function called with what is before the dot.
func (r *resolver) attribute(name string) {
	if r.ix.impure[name] || r.inPath(r.ix.functions[name]) {
		r.function(&grammar.Use{Kind: grammar.Function, Name: name})
	}
}

func (r *resolver) setting(action, name string) {
	if !r.ix.builtinNames.settings[name] {
		name = "?" // the agent's own: it may be anything
	}
	r.check(action, "setting."+name)
	if action != "show" {
		r.settings[name] = struct{}{}
	}
}

// text spells the statements with the names that are the database's. Names
// that the agent chose for its own use are numbered; all others are "?".
func (r *resolver) text() string {
	var b strings.Builder
	locals := make(map[int]int)
	for i := range r.facts.Statements {
		if i > 0 {
			b.WriteString("; ")
		}
		grammar.ForEachPiece(r.facts.Statements[i].Text, func(lit string) { b.WriteString(lit) }, func(n int) {
			if n < 0 || n >= len(r.facts.Names) {
				return
			}
			switch name := r.facts.Names[n]; {
			case isOperator(name.Text):
				if !grammar.Operators[name.Text] && !r.ix.known(name.Text) {
					name.Text = "?"
				}
				b.WriteString(name.Text)
			case r.ix.known(name.Text):
				b.WriteString(quote(name.Text))
			case name.Local:
				if locals[n] == 0 {
					locals[n] = len(locals) + 1
				}
				b.WriteString("_")
				b.WriteString(strconv.Itoa(locals[n]))
			default:
				b.WriteByte('?')
			}
		})
	}
	return b.String()
}

func isOperator(name string) bool { return strings.Trim(name, "+-*/<>=~!@#%^&|`?") == "" }

func (k key) String() string { return k.schema + "." + k.name }
