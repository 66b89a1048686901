package grammar

import (
	"slices"
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A statement's text refers to Facts.Names[n] as nameOpen n nameClose.
const (
	nameOpen  = '\x01'
	nameClose = '\x02'
)

// constantMark replaces every constant before a tree is spelled out.
const constantMark = "\x03"

// ForEachPiece calls lit for the runs of a statement's text and name for the
// references between them.
func ForEachPiece(text string, lit func(string), name func(int)) {
	for {
		open := strings.IndexByte(text, nameOpen)
		end := strings.IndexByte(text, nameClose)
		if open < 0 || end < open {
			break
		}
		lit(text[:open])
		if n, err := strconv.Atoi(text[open+1 : end]); err == nil {
			name(n)
		}
		text = text[end+1:]
	}
	lit(text)
}

// scrubber spells statements out without what an agent could hide in them.
type scrubber struct {
	facts   *Facts
	index   map[string]int
	version int32 // of the trees, which deparsing checks
}

func newScrubber(f *Facts, version int32) *scrubber {
	return &scrubber{f, make(map[string]int), version}
}

// statement sets s.Text, from the tree n, which it destroys.
func (s *scrubber) statement(st *Statement, n *pg.Node) {
	st.Text = s.spell(st, n)
	if st.Inner != nil {
		if p := n.GetPrepareStmt(); p != nil {
			st.Inner.Text = s.spell(st.Inner, p.Query)
			st.Text = "PREPARE ? AS " + st.Inner.Text
		}
	}
}

func (s *scrubber) spell(st *Statement, n *pg.Node) string {
	switch m := unwrap(n).(type) {
	case *pg.SelectStmt, *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
		if text, ok := s.deparse(n); ok {
			return text
		}
	case *pg.ExplainStmt:
		prefix := "EXPLAIN "
		if explainRuns(m) {
			prefix = "EXPLAIN (ANALYZE) "
		}
		return prefix + s.inner(m.Query)
	case *pg.DeclareCursorStmt:
		return "DECLARE ? CURSOR FOR " + s.inner(m.Query)
	case *pg.CopyStmt:
		return s.copy(m)
	case *pg.CreateTableAsStmt:
		what := "TABLE "
		if m.Objtype == pg.ObjectType_OBJECT_MATVIEW {
			what = "MATERIALIZED VIEW "
		}
		return "CREATE " + what + s.relation(m.Into.GetRel()) + " AS " + s.inner(m.Query)
	case *pg.ViewStmt:
		return "CREATE VIEW " + s.relation(m.View) + " AS " + s.inner(m.Query)
	case *pg.TransactionStmt:
		return s.transaction(m)
	case *pg.VariableSetStmt:
		return s.set(m)
	case *pg.VariableShowStmt:
		return "SHOW " + s.name(strings.ToLower(m.Name), false)
	case nil:
		return ""
	}
	return s.tag(st, n)
}

func (s *scrubber) inner(n *pg.Node) string {
	return s.spell(&Statement{}, n)
}

func (s *scrubber) copy(m *pg.CopyStmt) string {
	what := s.relation(m.Relation)
	if m.Query != nil {
		what = "(" + s.inner(m.Query) + ")"
	} else if len(m.Attlist) > 0 {
		names := make([]string, len(m.Attlist))
		for i, n := range m.Attlist {
			names[i] = s.name(n.GetString_().GetSval(), false)
		}
		what += " (" + strings.Join(names, ", ") + ")"
	}
	way, end := " TO ", "STDOUT"
	if m.IsFrom {
		way, end = " FROM ", "STDIN"
	}
	switch {
	case m.IsProgram:
		end = "PROGRAM ?"
	case m.Filename != "":
		end = "?"
	}
	return "COPY " + what + way + end
}

func (s *scrubber) transaction(m *pg.TransactionStmt) string {
	switch m.Kind {
	case pg.TransactionStmtKind_TRANS_STMT_BEGIN, pg.TransactionStmtKind_TRANS_STMT_START:
		return "BEGIN"
	case pg.TransactionStmtKind_TRANS_STMT_COMMIT:
		return "COMMIT"
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:
		return "ROLLBACK"
	case pg.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
		return "SAVEPOINT ?"
	case pg.TransactionStmtKind_TRANS_STMT_RELEASE:
		return "RELEASE ?"
	case pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
		return "ROLLBACK TO ?"
	case pg.TransactionStmtKind_TRANS_STMT_PREPARE:
		return "PREPARE TRANSACTION ?"
	case pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:
		return "COMMIT PREPARED ?"
	}
	return "ROLLBACK PREPARED ?"
}

func (s *scrubber) set(m *pg.VariableSetStmt) string {
	name := s.name(strings.ToLower(m.Name), false)
	switch m.Kind {
	case pg.VariableSetKind_VAR_RESET_ALL:
		return "RESET ALL"
	case pg.VariableSetKind_VAR_RESET:
		return "RESET " + name
	case pg.VariableSetKind_VAR_SET_MULTI:
		return "SET " + m.Name // one of two fixed texts of the grammar
	}
	if m.IsLocal {
		return "SET LOCAL " + name + " TO ?"
	}
	return "SET " + name + " TO ?"
}

// tag is the text of a statement that can't be spelled out safely: what it is,
// and the relations that it is about.
func (s *scrubber) tag(st *Statement, n *pg.Node) string {
	var b strings.Builder
	m := unwrap(n)
	b.WriteString(commandTag(m))
	sep := " "
	if standsOn[nameOf(m)] {
		sep = " ON "
	}
	for _, u := range st.Uses {
		if u.Name == "" || u.Kind != Relation && u.Kind != Creation && u.Kind != Routine || u.Action != st.Action {
			continue
		}
		b.WriteString(sep)
		b.WriteString(s.path(u.Schema, u.Name))
		sep = ", "
	}
	return b.String()
}

// tags are the statements whose names in the grammar aren't those in SQL.
var tags = map[protoreflect.Name]string{
	"CreateStmt": "CREATE TABLE", "IndexStmt": "CREATE INDEX", "RuleStmt": "CREATE RULE", "DefineStmt": "CREATE",
	"CreateTrigStmt": "CREATE TRIGGER", "CreateEventTrigStmt": "CREATE EVENT TRIGGER", "CreatePLangStmt": "CREATE LANGUAGE",
	"CreateSeqStmt": "CREATE SEQUENCE", "CreateStatsStmt": "CREATE STATISTICS", "CreatedbStmt": "CREATE DATABASE",
	"CreateAmStmt": "CREATE ACCESS METHOD", "CreateFdwStmt": "CREATE FOREIGN DATA WRAPPER", "CreateForeignServerStmt": "CREATE SERVER",
	"CompositeTypeStmt": "CREATE TYPE", "CreateEnumStmt": "CREATE TYPE", "CreateRangeStmt": "CREATE TYPE",
	"CreateOpClassStmt": "CREATE OPERATOR CLASS", "CreateOpFamilyStmt": "CREATE OPERATOR FAMILY", "CreateTableSpaceStmt": "CREATE TABLESPACE",
	"AlterSeqStmt": "ALTER SEQUENCE", "AlterStatsStmt": "ALTER STATISTICS", "AlterFdwStmt": "ALTER FOREIGN DATA WRAPPER",
	"AlterForeignServerStmt": "ALTER SERVER", "AlterRoleSetStmt": "ALTER ROLE SET", "AlterDatabaseSetStmt": "ALTER DATABASE SET",
	"AlterEventTrigStmt": "ALTER EVENT TRIGGER", "AlterOpFamilyStmt": "ALTER OPERATOR FAMILY", "AlterTableSpaceOptionsStmt": "ALTER TABLESPACE",
	"DropdbStmt": "DROP DATABASE", "DropOwnedStmt": "DROP OWNED", "DropTableSpaceStmt": "DROP TABLESPACE",
	"RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW", "CheckPointStmt": "CHECKPOINT", "SecLabelStmt": "SECURITY LABEL",
	"ConstraintsSetStmt": "SET CONSTRAINTS", "ClosePortalStmt": "CLOSE",
}

// standsOn are the statements that say ON before the relation.
var standsOn = map[protoreflect.Name]bool{
	"IndexStmt": true, "CreateTrigStmt": true, "RuleStmt": true, "CreatePolicyStmt": true, "AlterPolicyStmt": true,
	"CreateStatsStmt": true, "CreatePublicationStmt": true, "GrantStmt": true, "SecLabelStmt": true,
}

// commandTag makes "ALTER TABLE" of AlterTableStmt.
func commandTag(m proto.Message) string {
	switch m := m.(type) {
	case *pg.DropStmt:
		return "DROP " + objectKind(m.RemoveType)
	case *pg.RenameStmt:
		return "ALTER " + objectKind(m.RenameType) + " RENAME"
	case *pg.AlterOwnerStmt:
		return "ALTER " + objectKind(m.ObjectType) + " OWNER"
	case *pg.AlterObjectSchemaStmt:
		return "ALTER " + objectKind(m.ObjectType) + " SET SCHEMA"
	case *pg.AlterTableStmt:
		return "ALTER " + objectKind(m.Objtype)
	case *pg.DefineStmt:
		return "CREATE " + objectKind(m.Kind)
	case *pg.CommentStmt:
		return "COMMENT ON " + objectKind(m.Objtype)
	case *pg.CreateFunctionStmt:
		if m.IsProcedure {
			return "CREATE PROCEDURE"
		}
	case *pg.GrantStmt:
		if !m.IsGrant {
			return "REVOKE"
		}
	case *pg.GrantRoleStmt:
		if !m.IsGrant {
			return "REVOKE ROLE"
		}
	case *pg.VacuumStmt:
		if !m.IsVacuumcmd {
			return "ANALYZE"
		}
	case *pg.FetchStmt:
		if m.Ismove {
			return "MOVE"
		}
	}
	if tag, ok := tags[nameOf(m)]; ok {
		return tag
	}
	return spaced(strings.TrimSuffix(string(nameOf(m)), "Stmt"))
}

// objectKind makes "MATERIALIZED VIEW" of OBJECT_MATVIEW.
func objectKind(t pg.ObjectType) string {
	switch t {
	case pg.ObjectType_OBJECT_MATVIEW:
		return "MATERIALIZED VIEW"
	case pg.ObjectType_OBJECT_TABCONSTRAINT, pg.ObjectType_OBJECT_DOMCONSTRAINT:
		return "CONSTRAINT"
	}
	return strings.ReplaceAll(strings.TrimPrefix(t.String(), "OBJECT_"), "_", " ")
}

// spaced makes "ALTER TABLE" of AlterTable.
func spaced(name string) string {
	var b strings.Builder
	for i, c := range name {
		if i > 0 && c >= 'A' && c <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return strings.ToUpper(b.String())
}

func (s *scrubber) relation(r *pg.RangeVar) string {
	if r == nil {
		return "?"
	}
	return s.path(r.Schemaname, r.Relname)
}

func (s *scrubber) path(schema, name string) string {
	if schema == "" {
		return s.name(name, false)
	}
	return s.name(schema, false) + "." + s.name(name, false)
}

// name returns a reference to a name.
func (s *scrubber) name(text string, local bool) string {
	n, ok := s.index[text]
	if !ok {
		n = len(s.facts.Names)
		s.index[text] = n
		s.facts.Names = append(s.facts.Names, Name{Text: text})
	}
	s.facts.Names[n].Local = s.facts.Names[n].Local || local
	return string(nameOpen) + strconv.Itoa(n) + string(nameClose)
}

// deparse lets PostgreSQL's grammar spell a tree out after every string in it
// has been replaced: names by references, constants by a mark. A string is
// kept only where the grammar itself put it there.
func (s *scrubber) deparse(n *pg.Node) (string, bool) {
	if !s.scrub(n) {
		return "", false
	}
	text, err := pg.Deparse(&pg.ParseResult{Version: s.version, Stmts: []*pg.RawStmt{{Stmt: n}}})
	if err != nil {
		return "", false
	}
	text = strings.NewReplacer("'"+constantMark+"'", "?", "\""+constantMark+"\"", "?", constantMark, "?").Replace(text)
	for _, q := range []string{`"`, `'`} {
		text = strings.ReplaceAll(text, q+string(nameOpen), string(nameOpen))
		text = strings.ReplaceAll(text, string(nameClose)+q, string(nameClose))
	}
	return text, true
}

// scrub replaces what m and all below it hold of the text. It reports false
// for trees whose spelling isn't known to be safe after that.
func (s *scrubber) scrub(m proto.Message) bool {
	switch m := m.(type) {
	case *pg.A_Const:
		m.Val, m.Isnull = &pg.A_Const_Sval{Sval: &pg.String{Sval: constantMark}}, false
		return true
	case *pg.TypeName:
		m.Typmods = nil
		for _, n := range m.ArrayBounds {
			if i := n.GetInteger(); i != nil {
				i.Ival = -1
			}
		}
		if schema, name := qualified(m.Names); schema == "pg_catalog" && grammarTypes[name] {
			return true
		}
		return s.scrubFields(m, "array_bounds")
	case *pg.A_Expr:
		return s.scrubOperator(m.Name) && s.scrubFields(m, "name")
	case *pg.SubLink:
		return s.scrubOperator(m.OperName) && s.scrubFields(m, "oper_name")
	case *pg.SortBy:
		return s.scrubOperator(m.UseOp) && s.scrubFields(m, "use_op")
	case *pg.RangeVar:
		return s.scrubFields(m, "relpersistence")
	case *pg.JsonTable, *pg.JsonTablePathSpec, *pg.JsonFuncExpr, *pg.JsonBehavior,
		*pg.RangeTableFunc, *pg.XmlSerialize, *pg.BitString, *pg.Integer, *pg.Float:
		return false
	case *pg.Alias:
		s.local(m.Aliasname)
		s.localList(m.Colnames)
	case *pg.CommonTableExpr:
		s.local(m.Ctename)
		s.localList(m.Aliascolnames)
	case *pg.WindowDef:
		s.local(m.Name)
	case *pg.SelectStmt:
		for _, n := range m.TargetList {
			s.local(n.GetResTarget().GetName())
		}
	}
	return s.scrubFields(m)
}

func (s *scrubber) local(name string) {
	if name != "" {
		s.name(name, true)
	}
}

func (s *scrubber) localList(names []*pg.Node) {
	for _, n := range names {
		s.local(n.GetString_().GetSval())
	}
}

// scrubFields scrubs the fields of a message except for those named.
func (s *scrubber) scrubFields(m proto.Message, keep ...string) bool {
	r := m.ProtoReflect()
	ok := true
	if _, wrapped := m.(*pg.Node); wrapped {
		forEachChild(m, func(c proto.Message) { ok = s.scrub(c) })
		return ok
	}
	// In the order of the fields: Range's differs from process to process.
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case !r.Has(fd) || slices.Contains(keep, string(fd.Name())):
		case fd.Kind() == protoreflect.BytesKind, fd.Kind() == protoreflect.StringKind && fd.IsList():
			return false // the trees have none today
		case fd.Kind() == protoreflect.StringKind:
			if v := r.Get(fd).String(); v != "" {
				r.Set(fd, protoreflect.ValueOfString(s.name(v, false)))
			}
		}
	}
	forEachField(m, func(fd protoreflect.FieldDescriptor, c proto.Message) {
		ok = ok && (slices.Contains(keep, string(fd.Name())) || s.scrub(c))
	})
	return ok
}

// scrubOperator keeps the operators of pg_catalog and the words that the
// grammar uses for some.
func (s *scrubber) scrubOperator(names []*pg.Node) bool {
	for _, n := range names {
		op := n.GetString_()
		if op == nil {
			return false
		}
		if len(names) > 1 || !Operators[op.Sval] && !grammarOperators[op.Sval] {
			op.Sval = s.name(op.Sval, false)
		}
	}
	return true
}

// grammarTypes are the types that the grammar has words for.
var grammarTypes = words("bool int2 int4 int8 float4 float8 numeric bpchar varchar bit varbit interval time timetz timestamp timestamptz text json xml char")

// grammarOperators are the names that the grammar gives to expressions which
// aren't spelled as operators.
var grammarOperators = words("BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC")

// Operators are the operators of pg_catalog in PostgreSQL 17.
var Operators = words(`! !! !!= !~ !~* !~~ !~~* !~* # ## #- #< #<= #<> #= #> #>= #>> % & && &&& &< &<| &> * ** *< *<= *<> *= *> *>= + - -> ->> -|-
	/ < <-> << <<= <<| <= <> <@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^< ^<= ^= ^> ^>= ^@ | |/ |>> |&> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~*`)

// words makes a set of one list of words, or of several texts.
func words(lists ...string) map[string]bool {
	set := make(map[string]bool)
	if len(lists) > 1 {
		for _, w := range lists {
			set[w] = true
		}
		return set
	}
	for _, w := range strings.Fields(lists[0]) {
		set[w] = true
	}
	return set
}
