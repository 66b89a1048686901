package grammar

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// definitions are the statements that change definitions, and what they count
// as. Relations that stand directly in one are what it is about; those deeper
// in it are read.
var definitions = map[protoreflect.Name]string{
	"CreateSchemaStmt": "create", "CreateStmt": "create", "CreateForeignTableStmt": "create",
	"CreateTableSpaceStmt": "create", "CreateExtensionStmt": "create", "CreateFdwStmt": "create",
	"CreateForeignServerStmt": "create", "CreateUserMappingStmt": "create", "ImportForeignSchemaStmt": "create",
	"CreatePolicyStmt": "create", "CreateAmStmt": "create", "CreateTrigStmt": "create",
	"CreateEventTrigStmt": "create", "CreatePLangStmt": "create", "CreateRoleStmt": "create",
	"CreateSeqStmt": "create", "DefineStmt": "create", "CreateDomainStmt": "create",
	"CreateOpClassStmt": "create", "CreateOpFamilyStmt": "create", "IndexStmt": "create",
	"CreateStatsStmt": "create", "CreateFunctionStmt": "create", "RuleStmt": "create",
	"CompositeTypeStmt": "create", "CreateEnumStmt": "create", "CreateRangeStmt": "create",
	"ViewStmt": "create", "CreatedbStmt": "create", "CreateConversionStmt": "create",
	"CreateCastStmt": "create", "CreateTransformStmt": "create", "CreatePublicationStmt": "create",
	"CreateSubscriptionStmt": "create",

	"AlterTableStmt": "alter", "AlterCollationStmt": "alter", "AlterDomainStmt": "alter",
	"AlterTableSpaceOptionsStmt": "alter", "AlterTableMoveAllStmt": "alter", "AlterExtensionStmt": "alter",
	"AlterExtensionContentsStmt": "alter", "AlterFdwStmt": "alter", "AlterForeignServerStmt": "alter",
	"AlterUserMappingStmt": "alter", "AlterPolicyStmt": "alter", "AlterEventTrigStmt": "alter",
	"AlterRoleStmt": "alter", "AlterRoleSetStmt": "alter", "AlterSeqStmt": "alter",
	"AlterOpFamilyStmt": "alter", "CommentStmt": "alter", "SecLabelStmt": "alter",
	"AlterStatsStmt": "alter", "AlterFunctionStmt": "alter", "RenameStmt": "alter",
	"AlterObjectDependsStmt": "alter", "AlterObjectSchemaStmt": "alter", "AlterOwnerStmt": "alter",
	"AlterOperatorStmt": "alter", "AlterTypeStmt": "alter", "AlterEnumStmt": "alter",
	"AlterDatabaseStmt": "alter", "AlterDatabaseRefreshCollStmt": "alter", "AlterDatabaseSetStmt": "alter",
	"AlterSystemStmt": "alter", "AlterTSDictionaryStmt": "alter", "AlterTSConfigurationStmt": "alter",
	"AlterPublicationStmt": "alter", "AlterSubscriptionStmt": "alter",

	"DropStmt": "drop", "DropTableSpaceStmt": "drop", "DropUserMappingStmt": "drop",
	"DropRoleStmt": "drop", "DropdbStmt": "drop", "DropOwnedStmt": "drop", "DropSubscriptionStmt": "drop",

	"GrantStmt": "grant", "GrantRoleStmt": "grant", "AlterDefaultPrivilegesStmt": "grant", "ReassignOwnedStmt": "grant",

	"ClusterStmt": "maintenance", "VacuumStmt": "maintenance", "RefreshMatViewStmt": "maintenance",
	"ReindexStmt": "maintenance", "CheckPointStmt": "maintenance",

	"LoadStmt": "load",
}

// utility walks every statement but SELECT and the four that change rows.
func (w *walker) utility(m proto.Message) {
	switch m := m.(type) {
	case *pg.ExplainStmt:
		w.explain(m)
	case *pg.PrepareStmt:
		w.prepare(m)
	case *pg.ExecuteStmt:
		w.is("execute")
		w.effect(Effect{Kind: EffectExecute, Name: m.Name, Unsure: w.asleep})
		w.nodes(m.Params)
	case *pg.DeallocateStmt:
		w.is("deallocate")
		w.effect(Effect{Kind: EffectDeallocate, Name: m.Name})
	case *pg.DeclareCursorStmt:
		w.is("declare")
		w.use(Use{Action: "declare"})
		outer := w.later
		w.later = true
		w.dormant(m.Query)
		w.later = outer
	case *pg.FetchStmt:
		w.is("fetch")
	case *pg.ClosePortalStmt:
		w.is("close")
	case *pg.CopyStmt:
		w.copy(m)
	case *pg.CreateTableAsStmt:
		w.is("create")
		w.create(m.Into.GetRel())
		w.dormant(m.Query) // not run if the table exists, WITH NO DATA ...
		w.st.Limited = ""
	case *pg.TransactionStmt:
		w.transaction(m)
	case *pg.VariableSetStmt:
		w.set(m)
	case *pg.VariableShowStmt:
		w.is("show")
		if name := strings.ToLower(m.Name); name != "all" {
			w.use(Use{Action: "show", Kind: Setting, Name: name})
		}
	case *pg.ConstraintsSetStmt:
		w.is("set")
	case *pg.DiscardStmt:
		w.is("discard")
		w.discard(m)
	case *pg.LockStmt:
		w.is("lock")
		action := "lock"
		if m.Mode == accessShare {
			action = "select"
		}
		w.about(action, m)
	case *pg.TruncateStmt:
		w.is("truncate")
		w.about("truncate", m)
	case *pg.ListenStmt, *pg.UnlistenStmt:
		w.is("listen")
	case *pg.NotifyStmt:
		w.is("notify")
	case *pg.DoStmt:
		w.is("do")
		w.use(Use{Action: "do"})
		w.effect(Effect{Kind: EffectUnknowable})
		w.effect(Effect{Kind: EffectCatalogue})
	case *pg.CallStmt:
		w.is("call")
		schema, name := qualified(m.Funccall.GetFuncname())
		w.use(Use{Action: "call", Kind: Routine, Schema: schema, Name: name})
		w.effect(Effect{Kind: EffectUnknowable})
		w.children(m.Funccall, "funcname")
	default:
		w.definition(m)
	}
}

// dormant walks a statement that may succeed without being run: no call in it
// is sure to be made.
func (w *walker) dormant(n *pg.Node) {
	outer := w.asleep
	w.asleep = true
	w.statement(n)
	w.asleep = outer
}

// explain counts as what it explains when it may run it. Otherwise every
// relation below is explained: the plan says what statistics know of it.
func (w *walker) explain(m *pg.ExplainStmt) {
	if w.st.Action == "" {
		w.st.Action = "explain"
	}
	if !explainRuns(m) {
		outer, dry := w.reading, w.dry
		w.reading, w.dry = "explain", true
		defer func() { w.reading, w.dry = outer, dry }()
	}
	effects := len(w.st.Effects)
	w.dormant(m.Query)
	if w.dry { // it changes nothing; but what EXECUTE names must be known
		kept := w.st.Effects[:effects]
		for _, e := range w.st.Effects[effects:] {
			if e.Kind == EffectExecute {
				kept = append(kept, e)
			}
		}
		w.st.Effects = kept
	}
	w.st.Limited = ""
}

// explainRuns reports whether an EXPLAIN runs its statement: ANALYZE in any
// spelling but one that PostgreSQL takes for false.
func explainRuns(m *pg.ExplainStmt) bool {
	for _, n := range m.Options {
		d := n.GetDefElem()
		if !strings.EqualFold(d.GetDefname(), "analyze") && !strings.EqualFold(d.GetDefname(), "analyse") {
			continue
		}
		switch arg := unwrap(d.Arg).(type) {
		case *pg.Boolean:
			if !arg.Boolval {
				continue
			}
		case *pg.Integer:
			if arg.Ival == 0 {
				continue
			}
		case *pg.String:
			if s := strings.ToLower(arg.Sval); s == "false" || s == "off" {
				continue
			}
		}
		return true
	}
	return false
}

// prepare walks the inner statement twice: as part of this one, which is
// decided on all of its text, and by itself for a later EXECUTE.
func (w *walker) prepare(m *pg.PrepareStmt) {
	w.is("prepare")
	w.use(Use{Action: "prepare"})
	w.nodes(m.Argtypes)
	inner := &walker{text: w.text}
	inner.begin(&Statement{})
	inner.nodes(m.Argtypes)
	inner.statement(m.Query)
	inner.finish()
	outer := w.st
	w.st = &Statement{Action: "prepare", Uses: outer.Uses}
	w.dormant(m.Query)
	outer.Uses, outer.Columns, outer.Bounded = w.st.Uses, w.st.Columns, w.st.Bounded
	w.st = outer
	w.st.Inner = inner.st
	w.effect(Effect{Kind: EffectPrepare, Name: m.Name})
}

func (w *walker) copy(m *pg.CopyStmt) {
	action := "copy_out"
	if m.IsFrom {
		action = "copy_in"
	}
	w.is(action)
	switch {
	case m.IsProgram:
		w.use(Use{Action: "copy_program"})
	case m.Filename != "":
		w.use(Use{Action: "copy_file"})
	}
	if m.Relation != nil {
		w.relation(action, m.Relation)
		for _, n := range m.Attlist {
			w.column(n)
		}
		if len(m.Attlist) == 0 {
			w.columnNamed("*")
		}
	}
	if m.Query != nil {
		outer := w.reading
		w.reading = action
		w.statement(m.Query)
		w.reading = outer
		w.st.Limited = ""
	}
	w.visitNode(m.WhereClause)
	w.st.Action = action
}

func (w *walker) visitNode(n *pg.Node) {
	if n != nil {
		w.visit(n)
	}
}

func (w *walker) transaction(m *pg.TransactionStmt) {
	type kind struct {
		action string
		effect EffectKind
	}
	k, ok := map[pg.TransactionStmtKind]kind{
		pg.TransactionStmtKind_TRANS_STMT_BEGIN:             {"begin", EffectBegin},
		pg.TransactionStmtKind_TRANS_STMT_START:             {"begin", EffectBegin},
		pg.TransactionStmtKind_TRANS_STMT_COMMIT:            {"commit", EffectCommit},
		pg.TransactionStmtKind_TRANS_STMT_ROLLBACK:          {"rollback", EffectRollback},
		pg.TransactionStmtKind_TRANS_STMT_SAVEPOINT:         {"savepoint", EffectSavepoint},
		pg.TransactionStmtKind_TRANS_STMT_RELEASE:           {"savepoint", EffectRelease},
		pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:       {"savepoint", EffectRollbackTo},
		pg.TransactionStmtKind_TRANS_STMT_PREPARE:           {"two_phase", EffectCommit},
		pg.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:   {"two_phase", EffectCatalogue},
		pg.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED: {"two_phase", EffectTransaction},
	}[m.Kind]
	if !ok {
		w.is("opaque")
		return
	}
	w.is(k.action)
	w.effect(Effect{Kind: k.effect, Name: m.SavepointName, Chain: m.Chain})
}

// set walks SET and RESET. Roles are rights; everything else is a setting.
func (w *walker) set(m *pg.VariableSetStmt) {
	name := strings.ToLower(m.Name)
	action := "set"
	if name == "role" || name == "session_authorization" {
		action = "set_role"
		w.effect(Effect{Kind: EffectRole})
	}
	w.is(action)
	e := Effect{Kind: EffectSet, Name: name, Local: m.IsLocal}
	switch m.Kind {
	case pg.VariableSetKind_VAR_SET_VALUE:
		for _, n := range m.Args {
			c := n.GetAConst()
			if v, ok := literal(n); ok {
				e.Values = append(e.Values, v)
			} else if c == nil || c.GetIval() == nil && c.GetFval() == nil && name != "timezone" {
				e.Kind = EffectUnknowable
			}
		}
	case pg.VariableSetKind_VAR_SET_MULTI: // SET TRANSACTION, SET SESSION CHARACTERISTICS
		e = Effect{Kind: EffectTransaction}
	case pg.VariableSetKind_VAR_RESET, pg.VariableSetKind_VAR_SET_DEFAULT:
		e.Kind = EffectReset
	case pg.VariableSetKind_VAR_RESET_ALL:
		e = Effect{Kind: EffectReset}
	default:
		e = Effect{Kind: EffectUnknowable}
	}
	if name == "timezone" && e.Kind == EffectUnknowable {
		e = Effect{Kind: EffectTransaction} // SET TIME ZONE INTERVAL ...
	}
	if m.Kind != pg.VariableSetKind_VAR_SET_MULTI && m.Kind != pg.VariableSetKind_VAR_RESET_ALL {
		w.use(Use{Action: action, Kind: Setting, Name: name})
	}
	w.effect(e)
}

func (w *walker) discard(m *pg.DiscardStmt) {
	switch m.Target {
	case pg.DiscardMode_DISCARD_ALL:
		w.effect(Effect{Kind: EffectDiscard})
	case pg.DiscardMode_DISCARD_TEMP:
		w.effect(Effect{Kind: EffectCatalogue})
	}
}

// definition walks the statements that change definitions. One that isn't
// listed isn't understood.
func (w *walker) definition(m proto.Message) {
	if m == nil {
		w.is("opaque")
		return
	}
	action, ok := definitions[nameOf(m)]
	if !ok {
		// Perhaps within another that is understood: then neither is.
		w.use(Use{Action: "opaque"})
		w.is("opaque")
		return
	}
	w.is(action)
	if action != "maintenance" {
		w.effect(Effect{Kind: EffectCatalogue})
	}
	switch m := m.(type) {
	case *pg.CreateStmt:
		w.create(m.Relation)
		w.children(m, "relation")
		return
	case *pg.CreateForeignTableStmt:
		w.create(m.BaseStmt.GetRelation())
		w.children(m.BaseStmt, "relation")
		return
	case *pg.ViewStmt:
		w.create(m.View)
		w.children(m, "view")
		return
	case *pg.CreateSeqStmt:
		w.create(m.Sequence)
		w.children(m, "sequence")
		return
	case *pg.CompositeTypeStmt:
		w.create(m.Typevar)
		w.children(m, "typevar")
		return
	case *pg.CreateFunctionStmt:
		schema, name := qualified(m.Funcname)
		w.use(Use{Action: action, Kind: Creation, Schema: schema, Name: name})
	case *pg.CreateSchemaStmt:
		for _, n := range m.SchemaElts {
			w.statement(n)
		}
		w.use(Use{Action: action})
		return
	case *pg.AlterFunctionStmt:
		w.routine(action, m.Func)
	case *pg.DropStmt:
		w.drop(m)
		return
	case *pg.CommentStmt:
		w.named(action, m.Objtype, m.Object)
		return
	case *pg.SecLabelStmt:
		w.named(action, m.Objtype, m.Object)
		return
	case *pg.RuleStmt:
		w.relation(action, m.Relation)
		for _, n := range m.Actions {
			w.statement(n)
		}
		w.visitNode(m.WhereClause)
		w.st.Limited = ""
		return
	case *pg.RenameStmt:
		w.named(action, m.RenameType, m.Object)
		w.relation(action, m.Relation)
		return
	case *pg.AlterOwnerStmt:
		w.named(action, m.ObjectType, m.Object)
		w.relation(action, m.Relation)
		return
	case *pg.AlterObjectSchemaStmt:
		w.named(action, m.ObjectType, m.Object)
		w.relation(action, m.Relation)
		return
	}
	w.about(action, m)
}

// about uses the relations that stand directly in a statement, and walks the
// rest of it.
func (w *walker) about(action string, m proto.Message) {
	forEachChild(m, func(c proto.Message) { w.aboutOne(action, c) })
}

func (w *walker) aboutOne(action string, m proto.Message) {
	if n, ok := m.(*pg.Node); ok {
		m = unwrap(n)
	}
	switch m := m.(type) {
	case nil:
	case *pg.RangeVar:
		w.relation(action, m)
	case *pg.VacuumRelation:
		w.relation(action, m.Relation)
	case *pg.ObjectWithArgs:
		w.routine(action, m)
	case *pg.VariableSetStmt: // of ALTER ROLE, ALTER SYSTEM: of later sessions
	case *pg.PublicationObjSpec:
		w.relation(action, m.Pubtable.GetRelation())
		w.children(m)
	case *pg.GrantStmt: // of ALTER DEFAULT PRIVILEGES
	default:
		w.visit(m)
	}
}

func (w *walker) routine(action string, m *pg.ObjectWithArgs) {
	if schema, name := qualified(m.GetObjname()); name != "" {
		w.use(Use{Action: action, Kind: Routine, Schema: schema, Name: name})
	}
}

func (w *walker) drop(m *pg.DropStmt) {
	for _, n := range m.Objects {
		w.named("drop", m.RemoveType, n)
	}
}

// relational are the kinds of object whose names are those of relations.
var relational = map[pg.ObjectType]int{
	pg.ObjectType_OBJECT_TABLE: 0, pg.ObjectType_OBJECT_VIEW: 0, pg.ObjectType_OBJECT_MATVIEW: 0,
	pg.ObjectType_OBJECT_INDEX: 0, pg.ObjectType_OBJECT_SEQUENCE: 0, pg.ObjectType_OBJECT_FOREIGN_TABLE: 0,
	// The name of the thing follows that of its relation.
	pg.ObjectType_OBJECT_COLUMN: 1, pg.ObjectType_OBJECT_TRIGGER: 1, pg.ObjectType_OBJECT_RULE: 1,
	pg.ObjectType_OBJECT_POLICY: 1, pg.ObjectType_OBJECT_TABCONSTRAINT: 1,
}

// named is an object that a statement names by a list of names.
func (w *walker) named(action string, kind pg.ObjectType, n *pg.Node) {
	if n == nil {
		return
	}
	switch m := unwrap(n).(type) {
	case *pg.List:
		skip, ok := relational[kind]
		if ok && len(m.Items) > skip {
			schema, name := qualified(m.Items[:len(m.Items)-skip])
			w.use(Use{Action: action, Kind: Relation, Schema: schema, Name: name})
			return
		}
	case *pg.RangeVar:
		w.relation(action, m)
		return
	case *pg.ObjectWithArgs:
		w.routine(action, m)
		return
	}
	w.use(Use{Action: action})
}

// accessShare is the mode of a lock that every SELECT takes.
const accessShare = 1
