package grammar

import (
	"maps"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// restricts reports whether a WHERE clause looks as if it left rows out. It
// sees through what people write to satisfy a check for a WHERE: true, 1 = 1,
// id = id, x OR true, x IS NULL OR x IS NOT NULL, LIKE '%', EXISTS (SELECT 1),
// id IN (SELECT id FROM the same table). It is a guard against accidents;
// id > 0 passes it.
func (w *walker) restricts(target *pg.RangeVar, n *pg.Node) bool {
	return bound{w, target}.leavesOut(n, false)
}

// bound looks at what bounds a change of target.
type bound struct {
	*walker
	target *pg.RangeVar
}

// leavesOut is restricts for n, or for NOT n.
func (w bound) leavesOut(n *pg.Node, not bool) bool {
	some := func(list []*pg.Node) bool {
		return slices.ContainsFunc(list, func(a *pg.Node) bool { return w.leavesOut(a, not) })
	}
	switch m := unwrap(n).(type) {
	case nil:
		return false
	case *pg.BoolExpr:
		switch {
		case m.Boolop == pg.BoolExprType_NOT_EXPR:
			return len(m.Args) == 1 && w.leavesOut(m.Args[0], !not)
		case (m.Boolop == pg.BoolExprType_AND_EXPR) != not: // De Morgan
			return some(m.Args)
		}
		return !complementary(m.Args) && !slices.ContainsFunc(m.Args, func(a *pg.Node) bool { return !w.leavesOut(a, not) })
	case *pg.BooleanTest:
		switch m.Booltesttype {
		case pg.BoolTestType_IS_FALSE, pg.BoolTestType_IS_NOT_TRUE:
			not = !not
		}
		return w.leavesOut(m.Arg, not)
	case *pg.CaseExpr:
		results := []*pg.Node{m.Defresult}
		for _, n := range m.Args {
			results = append(results, n.GetCaseWhen().GetResult())
		}
		return some(results) || slices.ContainsFunc(results, func(n *pg.Node) bool { return refuses(n, not) })
	case *pg.CoalesceExpr:
		return some(m.Args)
	case *pg.TypeCast:
		return w.leavesOut(m.Arg, not)
	case *pg.CurrentOfExpr:
		return true
	case *pg.A_Expr:
		return w.compares(m)
	case *pg.SubLink:
		if m.SubLinkType == pg.SubLinkType_ANY_SUBLINK {
			return w.picks(m.Testexpr, m)
		}
	}
	return len(columns(n)) > 0
}

// refuses reports whether a result of a CASE is null, or false, or true under
// a NOT.
func refuses(n *pg.Node, not bool) bool {
	c := n.GetAConst()
	return n == nil || c.GetIsnull() || c.GetBoolval() != nil && c.GetBoolval().Boolval == not
}

// compares reports whether a comparison involves a column and isn't one of the
// column with itself.
func (w bound) compares(m *pg.A_Expr) bool {
	if sub := m.Rexpr.GetSubLink(); len(sub.GetSubselect().GetSelectStmt().GetFromClause()) > 0 {
		return w.picks(m.Lexpr, sub)
	}
	left, right := columns(m.Lexpr), columns(m.Rexpr)
	if len(left)+len(right) == 0 || sameColumns(left, right) {
		return false
	}
	_, operator := qualified(m.Name)
	switch {
	case m.Kind == pg.A_Expr_Kind_AEXPR_LIKE, m.Kind == pg.A_Expr_Kind_AEXPR_ILIKE:
		return w.matches(m.Rexpr, "%")
	case m.Kind == pg.A_Expr_Kind_AEXPR_SIMILAR: // similar_to_escape(pattern)
		if call := m.Rexpr.GetFuncCall(); len(call.GetArgs()) > 0 {
			return w.matches(call.Args[0], "%")
		}
	case operator == "~", operator == "~*":
		return w.matches(m.Rexpr, "^.*$()")
	}
	return true
}

// matches reports whether a pattern is more than the characters given, of
// which any text is made.
func (w bound) matches(n *pg.Node, anything string) bool {
	w.plain = false // what follows depends on a constant
	pattern, ok := literal(n)
	return !ok || strings.Trim(pattern, anything) != ""
}

// picks reports whether comparing left with what a subquery selects leaves
// rows out: id IN (SELECT id FROM target) doesn't.
func (w bound) picks(left *pg.Node, sub *pg.SubLink) bool {
	names, q := columns(left), sub.Subselect.GetSelectStmt()
	if sub.SubLinkType != pg.SubLinkType_EXPR_SUBLINK && w.isTarget(q) {
		selected := make(map[string]bool)
		for _, n := range q.TargetList {
			collectColumns(n, selected)
		}
		return !maps.Equal(lastNames(names), lastNames(selected))
	}
	return len(names)+len(columns(sub.Subselect)) > 0
}

// isTarget reports whether a query is of all rows of the relation that is
// changed.
func (w bound) isTarget(q *pg.SelectStmt) bool {
	if len(q.GetFromClause()) != 1 || q.WhereClause != nil || q.HavingClause != nil || q.LimitCount != nil || q.LimitOffset != nil {
		return false
	}
	r := q.FromClause[0].GetRangeVar()
	return r.GetRelname() == w.target.GetRelname() && (r.GetSchemaname() == w.target.GetSchemaname() || r.GetSchemaname() == "" || w.target.GetSchemaname() == "")
}

// complementary reports whether two of a disjunction's terms are each other's
// negation in so many words: x and NOT x, x IS NULL and x IS NOT NULL, x = 1
// and x <> 1, x < 5 and x >= 3 with whatever constants.
func complementary(terms []*pg.Node) bool {
	seen := make(map[string]bool)
	for _, n := range terms {
		sign, shape := "", n
		against := []string{"NOT "}
		switch m := unwrap(n).(type) {
		case *pg.BoolExpr:
			if m.Boolop == pg.BoolExprType_NOT_EXPR && len(m.Args) == 1 {
				sign, shape, against = "NOT ", m.Args[0], []string{""}
			}
		case *pg.NullTest:
			sign, shape = m.Nulltesttype.String(), m.Arg
			against = []string{pg.NullTestType_IS_NULL.String(), pg.NullTestType_IS_NOT_NULL.String()}
			against = slices.DeleteFunc(against, func(s string) bool { return s == sign })
		case *pg.A_Expr:
			if _, operator := qualified(m.Name); opposite[operator] != "" && m.Lexpr != nil {
				key := string(shapeOf(m.Lexpr))
				if seen[opposite[operator]+key] {
					return true
				}
				seen[operator+key] = true
			}
		}
		key := string(shapeOf(shape))
		for _, s := range against {
			if seen[s+key] {
				return true
			}
		}
		seen[sign+key] = true
	}
	return false
}

var opposite = map[string]string{"=": "<>", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "<>": "="}

// shapeOf is a node's wire form without locations and constants: facts that
// compare shapes don't depend on constants.
func shapeOf(n *pg.Node) []byte {
	c := proto.Clone(n)
	clearValues(c.ProtoReflect())
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil
	}
	return b
}

// columns are the columns that an expression names, as written, without those
// of its own subqueries.
func columns(n *pg.Node) map[string]bool {
	found := make(map[string]bool)
	if n != nil {
		collectColumns(n, found)
	}
	return found
}

func collectColumns(m proto.Message, found map[string]bool) {
	switch m := m.(type) {
	case *pg.ColumnRef:
		var path []string
		for _, f := range m.Fields {
			path = append(path, f.GetString_().GetSval())
		}
		found[strings.Join(path, columnSep)] = true
	case *pg.TypeName:
	case *pg.SelectStmt:
		collectOuter(m, found)
	case *pg.SubLink:
		if q := m.Subselect.GetSelectStmt(); m.SubLinkType == pg.SubLinkType_EXISTS_SUBLINK && q != nil {
			collectOuter(q, found, "target_list") // which nobody looks at
			return
		}
		forEachChild(m, func(c proto.Message) { collectColumns(c, found) })
	default:
		forEachChild(m, func(c proto.Message) { collectColumns(c, found) })
	}
}

// columnSep joins the names of a column's path.
const columnSep = "\x00"

// collectOuter collects the columns in a query that it doesn't say to be of
// its own FROM. One that isn't qualified may be either's.
func collectOuter(q *pg.SelectStmt, found map[string]bool, except ...string) {
	all, own := make(map[string]bool), make(map[string]bool)
	forEachField(q, func(fd protoreflect.FieldDescriptor, c proto.Message) {
		if !slices.Contains(except, string(fd.Name())) {
			collectColumns(c, all)
		}
	})
	for _, n := range q.FromClause {
		collectAliases(n, own)
	}
	for c := range all {
		path := strings.Split(c, columnSep)
		if len(path) < 2 || !own[path[len(path)-2]] {
			found[c] = true
		}
	}
}

// collectAliases collects the names of what is in a FROM clause.
func collectAliases(m proto.Message, names map[string]bool) {
	switch m := m.(type) {
	case *pg.RangeVar:
		if m.Alias == nil {
			names[m.Relname] = true
		}
	case *pg.Alias:
		names[m.Aliasname] = true
		return
	case *pg.SelectStmt, *pg.FuncCall:
		return
	}
	forEachChild(m, func(c proto.Message) { collectAliases(c, names) })
}

// sameColumns reports whether two expressions name the same columns: o.id and
// id are one.
func sameColumns(a, b map[string]bool) bool {
	within := func(a, b map[string]bool) bool {
		for x := range a {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(b)), func(y string) bool {
				return x == y || strings.HasSuffix(x, columnSep+y) || strings.HasSuffix(y, columnSep+x)
			}) {
				return false
			}
		}
		return true
	}
	return within(a, b) && within(b, a)
}

func lastNames(columns map[string]bool) map[string]bool {
	names := make(map[string]bool)
	for c := range columns {
		names[c[strings.LastIndex(c, columnSep)+1:]] = true
	}
	return names
}
