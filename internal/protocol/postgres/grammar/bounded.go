package grammar

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// restricts reports whether a WHERE clause looks as if it left rows out. It
// sees through what people write to satisfy a check for a WHERE: true, 1 = 1,
// id = id, x OR true, x IS NULL OR x IS NOT NULL, LIKE '%'. It is a guard
// against accidents; id > 0 passes it.
func (w *walker) restricts(n *pg.Node) bool { return w.leavesOut(n, false) }

// leavesOut is restricts for n, or for NOT n.
func (w *walker) leavesOut(n *pg.Node, not bool) bool {
	switch m := unwrap(n).(type) {
	case nil:
		return false
	case *pg.BoolExpr:
		leavesOut := func(a *pg.Node) bool { return w.leavesOut(a, not) }
		switch {
		case m.Boolop == pg.BoolExprType_NOT_EXPR:
			return len(m.Args) == 1 && w.leavesOut(m.Args[0], !not)
		case (m.Boolop == pg.BoolExprType_AND_EXPR) != not: // De Morgan
			return slices.ContainsFunc(m.Args, leavesOut)
		}
		return !complementary(m.Args) && !slices.ContainsFunc(m.Args, func(a *pg.Node) bool { return !leavesOut(a) })
	case *pg.CurrentOfExpr:
		return true
	case *pg.A_Expr:
		return w.compares(m)
	}
	return len(columns(n)) > 0
}

// compares reports whether a comparison involves a column and isn't one of the
// column with itself.
func (w *walker) compares(m *pg.A_Expr) bool {
	left, right := columns(m.Lexpr), columns(m.Rexpr)
	if len(left)+len(right) == 0 || maps.Equal(left, right) {
		return false
	}
	switch m.Kind {
	case pg.A_Expr_Kind_AEXPR_LIKE, pg.A_Expr_Kind_AEXPR_ILIKE, pg.A_Expr_Kind_AEXPR_SIMILAR:
		w.plain = false // what follows depends on a constant
		pattern, ok := literal(m.Rexpr)
		return !ok || strings.Trim(pattern, "%") != ""
	}
	return true
}

// complementary reports whether two of a disjunction's terms are each other's
// negation in so many words.
func complementary(terms []*pg.Node) bool {
	for i, a := range terms {
		for _, b := range terms[i+1:] {
			if negates(a, b) || negates(b, a) {
				return true
			}
		}
	}
	return false
}

func negates(a, b *pg.Node) bool {
	if not := b.GetBoolExpr(); not != nil && not.Boolop == pg.BoolExprType_NOT_EXPR && len(not.Args) == 1 {
		return sameNode(a, not.Args[0])
	}
	if x, y := a.GetNullTest(), b.GetNullTest(); x != nil && y != nil {
		return x.Nulltesttype != y.Nulltesttype && sameNode(x.Arg, y.Arg)
	}
	x, y := a.GetAExpr(), b.GetAExpr()
	if x == nil || y == nil || !sameNode(x.Lexpr, y.Lexpr) {
		return false
	}
	_, p := qualified(x.Name)
	_, q := qualified(y.Name)
	// x = 1 OR x <> 1, and x < 5 OR x >= 3 with whatever constants.
	return opposite[p] == q && q != ""
}

var opposite = map[string]string{"=": "<>", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "<>": "="}

func sameNode(a, b *pg.Node) bool {
	return bytes.Equal(shapeOf(a), shapeOf(b))
}

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

// columns are the columns that an expression names, as written.
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
		found[strings.Join(path, "\x00")] = true
		return
	case *pg.TypeName:
		return
	}
	forEachChild(m, func(c proto.Message) { collectColumns(c, found) })
}
