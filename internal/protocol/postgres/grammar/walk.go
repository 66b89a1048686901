package grammar

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Parse asks the grammar about text, in this process: the gateway asks through
// a Pool, which runs Parse in a child.
func Parse(text string) *Facts {
	tree, err := pg.Parse(text)
	if err != nil {
		return &Facts{Refused: err.Error()}
	}
	if len(tree.Stmts) > maxStatements {
		return &Facts{Refused: "too many statements in one text"}
	}
	f := &Facts{}
	scrub := newScrubber(f, tree.Version)
	w := walker{text: text, plain: true}
	for _, raw := range tree.Stmts {
		s := &Statement{}
		w.begin(s)
		w.statement(raw.Stmt)
		w.finish()
		scrub.statement(s, raw.Stmt)
		f.Statements = append(f.Statements, *s)
	}
	f.Shareable = w.shareable()
	return f
}

// maxStatements bounds the statements of one text: spelling each out costs.
const maxStatements = 2000

// walker collects the uses of one statement after another.
type walker struct {
	text string
	st   *Statement
	seen map[string]bool // uses already collected, by key

	ctes     []map[string]bool // names of the WITH clauses around, innermost last
	reading  string            // what reading a relation counts as: select, explain, copy_out
	locking  *locking          // of the FROM that this is in
	dry      bool              // under an EXPLAIN that runs nothing
	asleep   bool              // in a statement that isn't sure to run
	later    bool              // in a cursor's query, which FETCH runs
	alone    *pg.FuncCall      // the only thing that the statement does
	setting  *pg.FuncCall      // its first argument is a column that WHERE compares with
	compared string            // this constant

	plain     bool         // only plain statements so far, no constant looked at
	constants map[int]bool // offsets of constants that are plain operands
}

func (w *walker) begin(s *Statement) {
	w.st, w.seen, w.reading = s, make(map[string]bool), "select"
	if w.constants == nil {
		w.constants = make(map[int]bool)
	}
}

// finish gives a statement that touches nothing a use of its own.
func (w *walker) finish() {
	for _, u := range w.st.Uses {
		if u.Action != "" {
			return
		}
	}
	w.use(Use{Action: w.st.Action})
}

// shareable reports whether everything that Skeleton leaves out of the text is
// a constant that the grammar made a plain operand.
func (w *walker) shareable() bool {
	if !w.plain {
		return false
	}
	var at []int
	if _, ok := Skeleton(nil, w.text, &at); !ok {
		return false
	}
	for _, i := range at {
		if !w.constants[i] {
			return false
		}
	}
	return true
}

func (w *walker) use(u Use) {
	var key strings.Builder
	for _, s := range append([]string{u.Action, string(u.Kind), u.Schema, u.Name, u.Plans, strconv.FormatBool(u.Defaults)}, u.Sets...) {
		key.WriteString(s)
		key.WriteByte(0)
	}
	if u.Args == nil {
		if w.seen[key.String()] {
			return
		}
		w.seen[key.String()] = true
	}
	w.st.Uses = append(w.st.Uses, u)
}

func (w *walker) effect(e Effect) {
	if e.Kind == EffectCatalogue && slices.ContainsFunc(w.st.Effects, func(o Effect) bool { return o.Kind == e.Kind }) {
		return
	}
	w.st.Effects = append(w.st.Effects, e)
}

// statement walks a statement that stands by itself: of a text, or within an
// EXPLAIN, PREPARE, COPY and the like.
func (w *walker) statement(n *pg.Node) {
	m := unwrap(n)
	switch m := m.(type) {
	case *pg.SelectStmt:
		w.is("select")
		w.st.Limited = limited(m)
		if w.alone = nil; !w.asleep {
			w.alone = soleCall(m)
		}
		w.setting, w.compared = namedSetting(m)
		w.visit(m)
	case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		w.is(map[protoreflect.Name]string{"InsertStmt": "insert", "UpdateStmt": "update", "DeleteStmt": "delete", "MergeStmt": "merge"}[nameOf(m)])
		w.visit(m)
	default:
		w.plain = false
		w.utility(m)
	}
}

// is names the statement, unless what is around it has.
func (w *walker) is(action string) {
	if w.st.Action == "" {
		w.st.Action = action
	}
}

// visit walks any node. What it doesn't know it walks through, so that nothing
// below is missed.
func (w *walker) visit(m proto.Message) {
	switch m := m.(type) {
	case *pg.SelectStmt:
		w.selectStmt(m)
	case *pg.InsertStmt:
		w.insertStmt(m)
	case *pg.UpdateStmt:
		w.updateStmt(m)
	case *pg.DeleteStmt:
		w.deleteStmt(m)
	case *pg.MergeStmt:
		w.mergeStmt(m)
	case *pg.RangeVar:
		w.read(m)
	case *pg.FuncCall:
		w.call(m)
	case *pg.RangeSubselect:
		outer := w.locking
		w.locking = outer.within(m.Alias.GetAliasname())
		w.children(m)
		w.locking = outer
	case *pg.TypeName:
		w.typeName(m)
	case *pg.A_Expr:
		w.expr(m)
	case *pg.SubLink:
		w.operator(m.OperName)
		if m.SubLinkType == pg.SubLinkType_ANY_SUBLINK && len(m.OperName) == 0 { // IN
			w.equals()
		}
		w.children(m, "oper_name")
	case *pg.JoinExpr:
		if m.IsNatural || len(m.UsingClause) > 0 {
			w.equals()
		}
		w.children(m)
	case *pg.CaseExpr:
		if m.Arg != nil {
			w.equals()
		}
		w.children(m)
	case *pg.SortBy:
		w.operator(m.UseOp)
		w.children(m, "use_op")
	case *pg.ColumnRef:
		last := len(m.Fields) - 1
		if last > 0 {
			w.attribute(m.Fields[last])
		}
		if last >= 0 {
			w.column(m.Fields[last])
		}
	case *pg.A_Indirection:
		for _, n := range m.Indirection {
			w.attribute(n)
		}
		w.children(m)
	case *pg.RangeTableSample:
		schema, name := qualified(m.Method)
		w.use(Use{Kind: Function, Schema: schema, Name: name})
		w.children(m, "method")
	case *pg.A_Const:
		w.constant(m)
	case *pg.JsonTable, *pg.JsonTablePathSpec:
		w.plain = false // its paths are constants that aren't operands
		w.children(m)
	case *pg.LockingClause:
		// Its names are aliases; selectStmt has seen to the relations.
	case *pg.IntoClause:
		// statement and utility have seen to its relation.
	default:
		w.children(m)
	}
}

// children visits what a node holds, in the order of its fields, except for
// the fields named.
func (w *walker) children(m proto.Message, except ...string) {
	forEachField(m, func(fd protoreflect.FieldDescriptor, c proto.Message) {
		if !slices.Contains(except, string(fd.Name())) {
			w.visit(c)
		}
	})
}

func (w *walker) nodes(list []*pg.Node) {
	for _, n := range list {
		w.visit(n)
	}
}

// with walks a WITH clause and leaves its names in scope until the function
// that it returns is called. Names of a plain WITH are known to the clauses
// that follow, those of WITH RECURSIVE to all.
func (w *walker) with(c *pg.WithClause) (done func()) {
	if c == nil {
		return func() {}
	}
	scope := make(map[string]bool)
	w.ctes = append(w.ctes, scope)
	ctes := make([]*pg.CommonTableExpr, 0, len(c.Ctes))
	for _, n := range c.Ctes {
		if cte := n.GetCommonTableExpr(); cte != nil {
			ctes = append(ctes, cte)
			if c.Recursive {
				scope[cte.Ctename] = true
			}
		}
	}
	for _, cte := range ctes {
		w.children(cte)
		scope[cte.Ctename] = true
	}
	return func() { w.ctes = w.ctes[:len(w.ctes)-1] }
}

func (w *walker) isCTE(r *pg.RangeVar) bool {
	if r.Schemaname != "" || r.Catalogname != "" {
		return false
	}
	for _, scope := range w.ctes {
		if scope[r.Relname] {
			return true
		}
	}
	return false
}

// read is a relation in a FROM clause, or anywhere else where none is changed.
func (w *walker) read(r *pg.RangeVar) {
	if w.isCTE(r) {
		return
	}
	w.relation(w.reading, r)
	if name := r.Alias.GetAliasname(); w.locking.locks(cmp.Or(name, r.Relname)) {
		w.change("select_for_update", r)
	}
}

// change is a relation that a statement changes.
func (w *walker) change(action string, r *pg.RangeVar) {
	if r != nil {
		w.changed(Use{Action: action, Schema: r.Schemaname, Name: r.Relname})
	}
}

// update is a relation in which a statement sets the columns of targets. What
// that sets off depends on which they are.
func (w *walker) update(r *pg.RangeVar, targets []*pg.Node) {
	if r == nil {
		return
	}
	u := Use{Action: "update", Schema: r.Schemaname, Name: r.Relname}
	for _, n := range targets {
		u.Sets = append(u.Sets, n.GetResTarget().GetName())
		u.Defaults = u.Defaults || holds(n, isDefault)
	}
	w.changed(u)
}

// changed uses a relation that is changed. Under an EXPLAIN that runs nothing
// that is as harmless as reading, but for what planning it runs.
func (w *walker) changed(u Use) {
	if u.Kind = Relation; w.dry {
		u.Action, u.Plans = w.reading, u.Action
	}
	w.use(u)
}

func (w *walker) relation(action string, r *pg.RangeVar) {
	if r == nil {
		return
	}
	w.use(Use{Action: action, Kind: Relation, Schema: r.Schemaname, Name: r.Relname})
}

// create is a relation to be made.
func (w *walker) create(r *pg.RangeVar) {
	if r == nil {
		return
	}
	schema := r.Schemaname
	if r.Relpersistence == "t" || isTemporary(schema) {
		schema = "pg_temp"
		w.effect(Effect{Kind: EffectTemporary, Name: r.Relname})
	} else {
		w.effect(Effect{Kind: EffectCatalogue})
	}
	action := "create"
	if w.dry {
		action = w.reading
	}
	w.use(Use{Action: action, Kind: Creation, Schema: schema, Name: r.Relname})
}

// isTemporary reports whether a schema is that of a session's temporary
// relations.
func isTemporary(schema string) bool {
	return schema == "pg_temp" || strings.HasPrefix(schema, "pg_temp_")
}

func (w *walker) selectStmt(m *pg.SelectStmt) {
	if m == nil {
		return
	}
	defer w.with(m.WithClause)()
	if m.IntoClause != nil { // SELECT ... INTO, maybe as the first of a UNION
		w.plain = false
		w.st.Action, w.st.Limited = "create", ""
		w.create(m.IntoClause.Rel)
	}
	outer := w.locking
	w.locking = outer.and(m.LockingClause)
	w.nodes(m.FromClause)
	w.locking = outer
	w.children(m, "with_clause", "from_clause", "into_clause")
}

// locking is what FOR UPDATE and the like lock of a FROM: all, or what has one
// of the names.
type locking struct {
	all bool
	of  map[string]bool
}

func (l *locking) locks(name string) bool { return l != nil && (l.all || l.of[name]) }

// and adds the clauses of a SELECT to what is locked around it.
func (l *locking) and(clauses []*pg.Node) *locking {
	if len(clauses) == 0 {
		return l
	}
	sum := &locking{all: l != nil && l.all, of: make(map[string]bool)}
	for _, n := range clauses {
		rels := n.GetLockingClause().GetLockedRels()
		sum.all = sum.all || len(rels) == 0
		for _, r := range rels {
			sum.of[r.GetRangeVar().GetRelname()] = true
		}
	}
	return sum
}

// within is what is locked in a subquery of that name: all of it or nothing.
func (l *locking) within(name string) *locking {
	if l.locks(name) {
		return &locking{all: true}
	}
	return nil
}

func (w *walker) insertStmt(m *pg.InsertStmt) {
	defer w.with(m.WithClause)()
	w.change("insert", m.Relation)
	if m.OnConflictClause.GetAction() == pg.OnConflictAction_ONCONFLICT_UPDATE {
		w.update(m.Relation, m.OnConflictClause.TargetList)
		// It changes no more rows than are inserted, so those that the text itself
		// spells out bound it.
		rows := m.SelectStmt.GetSelectStmt()
		w.bounded(rows == nil || len(rows.ValuesLists) > 0 || w.restricts(m.Relation, m.OnConflictClause.WhereClause))
	}
	// As PostgreSQL has it, naming a column of the conflict reads it.
	if m.OnConflictClause.GetInfer() != nil || len(m.ReturningList) > 0 {
		w.relation(w.reading, m.Relation)
	}
	w.targets(m.Cols)
	if len(m.Cols) == 0 {
		w.columnNamed("*")
	}
	w.targets(m.OnConflictClause.GetTargetList())
	w.children(m, "with_clause", "relation")
}

// targets notes the columns that are set.
func (w *walker) targets(list []*pg.Node) {
	for _, n := range list {
		w.columnNamed(n.GetResTarget().GetName())
	}
}

// column notes a column that is named at the end of a reference.
func (w *walker) column(n *pg.Node) {
	if n.GetAStar() != nil {
		w.columnNamed("*")
		return
	}
	w.columnNamed(n.GetString_().GetSval())
}

func (w *walker) columnNamed(name string) {
	if key := "column " + name; name != "" && !w.seen[key] {
		w.seen[key] = true
		w.st.Columns = append(w.st.Columns, name)
	}
}

func (w *walker) updateStmt(m *pg.UpdateStmt) {
	defer w.with(m.WithClause)()
	w.update(m.Relation, m.TargetList)
	w.targets(m.TargetList)
	w.readsTarget(m.Relation, m.TargetList, m.ReturningList, []*pg.Node{m.WhereClause})
	w.bounded(w.restricts(m.Relation, m.WhereClause))
	w.children(m, "with_clause", "relation")
}

func (w *walker) deleteStmt(m *pg.DeleteStmt) {
	defer w.with(m.WithClause)()
	w.change("delete", m.Relation)
	w.readsTarget(m.Relation, m.ReturningList, []*pg.Node{m.WhereClause})
	w.bounded(w.restricts(m.Relation, m.WhereClause))
	w.children(m, "with_clause", "relation")
}

func (w *walker) mergeStmt(m *pg.MergeStmt) {
	defer w.with(m.WithClause)()
	w.change("merge", m.Relation)
	w.relation(w.reading, m.Relation)
	for _, n := range m.MergeWhenClauses {
		when := n.GetMergeWhenClause()
		w.targets(when.GetTargetList())
		switch when.GetCommandType() {
		case pg.CmdType_CMD_INSERT:
			w.change("insert", m.Relation)
			continue
		case pg.CmdType_CMD_UPDATE:
			w.update(m.Relation, when.GetTargetList())
		case pg.CmdType_CMD_DELETE:
			w.change("delete", m.Relation)
		default:
			continue
		}
		missed := when.MatchKind == pg.MergeMatchKind_MERGE_WHEN_NOT_MATCHED_BY_SOURCE
		w.bounded(bound{w, m.Relation}.leavesOut(m.JoinCondition, missed) || w.restricts(m.Relation, when.Condition))
	}
	w.children(m, "with_clause", "relation")
}

// readsTarget adds reading when the new rows, the condition or what is
// returned depend on rows of the relation that is changed, as PostgreSQL
// itself demands SELECT then: UPDATE ... RETURNING * shows a table.
func (w *walker) readsTarget(r *pg.RangeVar, lists ...[]*pg.Node) {
	for _, list := range lists {
		for _, n := range list {
			if n != nil && holds(n, isColumn) {
				w.relation(w.reading, r)
				return
			}
		}
	}
}

// holds reports whether a node is something or has it below.
func holds(m proto.Message, is func(proto.Message) bool) bool {
	if is(m) {
		return true
	}
	found := false
	forEachChild(m, func(c proto.Message) { found = found || holds(c, is) })
	return found
}

func isColumn(m proto.Message) bool {
	_, ok := m.(*pg.ColumnRef)
	return ok
}

func isDefault(m proto.Message) bool {
	_, ok := m.(*pg.SetToDefault)
	return ok
}

// bounded notes whether an UPDATE or DELETE is.
func (w *walker) bounded(is bool) {
	if w.dry {
		return
	}
	b := Unbounded
	if is {
		b = Bounded
	}
	w.st.Bounded = w.st.Bounded.And(b)
}

func (w *walker) call(m *pg.FuncCall) {
	schema, name := qualified(m.Funcname)
	u := Use{Kind: Function, Schema: schema, Name: name}
	if params, ok := ArgumentsMatter[name]; ok && (schema == "" || schema == "pg_catalog") {
		u.Args = literals(m, params)
		if m == w.setting && name == "set_config" {
			u.Args[0] = Arg{Literal: true, Value: w.compared, Compared: true}
		}
		u.Alone, u.Later = m == w.alone, w.later
		w.plain = false
	}
	w.use(u)
	w.children(m, "funcname")
}

// literals reads the arguments of a call in the order of the parameters.
func literals(m *pg.FuncCall, params []string) []Arg {
	args := make([]Arg, len(params))
	if m.FuncVariadic {
		return args
	}
	for i, n := range m.Args {
		if named := n.GetNamedArgExpr(); named != nil {
			n = named.Arg
			i = slices.Index(params, named.Name)
		}
		if i >= 0 && i < len(args) {
			args[i].Value, args[i].Literal = literal(n)
		}
	}
	return args
}

// literal reads a constant, perhaps cast to a type that keeps its text.
func literal(n *pg.Node) (string, bool) {
	if c := n.GetTypeCast(); c != nil {
		schema, name := qualified(c.TypeName.GetNames())
		if schema != "" && schema != "pg_catalog" || !textual[name] || len(c.TypeName.Typmods) > 0 || len(c.TypeName.ArrayBounds) > 0 {
			return "", false
		}
		return literal(c.Arg)
	}
	c := n.GetAConst()
	if c == nil || c.Isnull {
		return "", false
	}
	switch v := c.Val.(type) {
	case *pg.A_Const_Sval:
		return v.Sval.Sval, true
	case *pg.A_Const_Boolval:
		if v.Boolval.Boolval {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

var textual = map[string]bool{"text": true, "varchar": true, "regclass": true, "cstring": true, "bool": true}

func (w *walker) typeName(m *pg.TypeName) {
	if schema, name := qualified(m.Names); name != "" {
		w.use(Use{Kind: Type, Schema: schema, Name: name})
	}
	// Typmods are constants, or an error: nothing to see, and not operands.
}

func (w *walker) expr(m *pg.A_Expr) {
	switch m.Kind {
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN,
		pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		for _, op := range []string{"<", "<=", ">", ">="} {
			w.use(Use{Kind: Operator, Name: op})
		}
	default:
		w.operator(m.Name)
	}
	w.children(m, "name")
}

func (w *walker) operator(names []*pg.Node) {
	if schema, name := qualified(names); name != "" {
		w.use(Use{Kind: Operator, Schema: schema, Name: name})
	}
}

// equals is the operator that PostgreSQL looks up where the text has none.
func (w *walker) equals() { w.use(Use{Kind: Operator, Name: "="}) }

func (w *walker) attribute(n *pg.Node) {
	if s := n.GetString_(); s != nil {
		w.use(Use{Kind: Attribute, Name: s.Sval})
		return
	}
	w.visit(n)
}

// constant notes where a constant that is an operand stands. That of a
// negative number is its sign's.
func (w *walker) constant(m *pg.A_Const) {
	at := int(m.Location)
	if at < 0 || at >= len(w.text) || m.Isnull {
		return
	}
	if w.text[at] == '-' {
		at++
		for at < len(w.text) && class[w.text[at]] == classPlain {
			at++
		}
	}
	w.constants[at] = true
}

// qualified splits a list of names into the schema and the name.
func qualified(names []*pg.Node) (schema, name string) {
	if n := len(names); n > 0 {
		name = names[n-1].GetString_().GetSval()
		if n > 1 {
			schema = names[n-2].GetString_().GetSval()
		}
	}
	return schema, name
}

// soleCall returns the call of a statement that is SELECT f(...) and nothing
// else, so that its success means that f was called once.
func soleCall(m *pg.SelectStmt) *pg.FuncCall {
	only := &pg.SelectStmt{TargetList: m.TargetList, LimitOption: m.LimitOption, Op: m.Op}
	if len(m.TargetList) != 1 || !proto.Equal(m, only) {
		return nil
	}
	return m.TargetList[0].GetResTarget().GetVal().GetFuncCall()
}

// namedSetting finds the call in SELECT f(name, ...) FROM pg_settings WHERE
// name = 'a constant' and nothing else: how one sets what an older server may
// not have. pg_dump begins with it.
func namedSetting(m *pg.SelectStmt) (*pg.FuncCall, string) {
	only := &pg.SelectStmt{TargetList: m.TargetList, FromClause: m.FromClause, WhereClause: m.WhereClause, LimitOption: m.LimitOption, Op: m.Op}
	if len(m.TargetList) != 1 || len(m.FromClause) != 1 || !proto.Equal(m, only) {
		return nil, ""
	}
	call := m.TargetList[0].GetResTarget().GetVal().GetFuncCall()
	from, where := m.FromClause[0].GetRangeVar(), m.WhereClause.GetAExpr()
	if len(call.GetArgs()) == 0 || from.GetRelname() != "pg_settings" || from.GetAlias() != nil ||
		where.GetKind() != pg.A_Expr_Kind_AEXPR_OP || len(where.GetName()) != 1 || where.Name[0].GetString_().GetSval() != "=" ||
		!isName(call.Args[0]) || !isName(where.Lexpr) {
		return nil, ""
	}
	value, ok := literal(where.Rexpr)
	if !ok {
		return nil, ""
	}
	return call, value
}

// isName reports whether an expression is the column "name".
func isName(n *pg.Node) bool {
	fields := n.GetColumnRef().GetFields()
	return len(fields) == 1 && fields[0].GetString_().GetSval() == "name"
}

// limited says whether a SELECT from something has a LIMIT.
func limited(m *pg.SelectStmt) Bound {
	switch {
	case m.LimitCount != nil && !m.LimitCount.GetAConst().GetIsnull():
		return Bounded
	case m.Op == pg.SetOperation_SETOP_NONE && len(m.FromClause) == 0:
		return ""
	}
	return Unbounded
}

// unwrap returns the message in a node.
func unwrap(n *pg.Node) proto.Message {
	if n == nil {
		return nil
	}
	r := n.ProtoReflect()
	fd := r.WhichOneof(r.Descriptor().Oneofs().Get(0))
	if fd == nil {
		return nil
	}
	return r.Get(fd).Message().Interface()
}

func nameOf(m proto.Message) protoreflect.Name { return m.ProtoReflect().Descriptor().Name() }
