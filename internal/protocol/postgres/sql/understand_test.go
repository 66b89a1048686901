package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

func startGrammar(t testing.TB) *grammar.Pool {
	t.Helper()
	p, err := grammar.Start(grammar.Config{OnBare: func(reason string) { t.Errorf("the grammar runs outside its sandbox: %s", reason) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// inProcess asks the grammar in this process and counts.
type inProcess struct{ asked atomic.Int64 }

func (g *inProcess) Ask(_ context.Context, text string) (*grammar.Facts, error) {
	g.asked.Add(1)
	return grammar.Parse(text), nil
}

var testEnv = PathEnv(`"$user", public`, "app_user")

// corpus is every statement of the goldens.
func corpus(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []golden
		if err := json.Unmarshal(b, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			texts = append(texts, c.SQL)
		}
	}
	return texts
}

func understand(u *Understander, text string) *Understanding {
	return u.Understand(context.Background(), text, "simple", testEnv)
}

// Equal statements have the very same shape, and so have those that differ in
// plain constants only; the grammar is asked once.
func TestSameShape(t *testing.T) {
	g := &inProcess{}
	u := New(g, shop())
	first := understand(u, "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;")
	for _, text := range []string{
		"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
		"SELECT abalance FROM pgbench_accounts WHERE aid = 7;",
		"SELECT abalance FROM pgbench_accounts WHERE aid = 999999999999999999;",
	} {
		if got := understand(u, text); got.Shape != first.Shape {
			t.Errorf("%q has a shape of its own", text)
		}
	}
	if n := g.asked.Load(); n != 1 {
		t.Errorf("the grammar was asked %d times", n)
	}
	understand(u, "UPDATE orders SET total = -2.5 WHERE total > 10.75")
	understand(u, "UPDATE orders SET total = -0.1 WHERE total > 999999.999999")
	if n := g.asked.Load(); n != 2 {
		t.Errorf("decimals: the grammar was asked %d times", n)
	}
	for _, text := range []string{ // other texts, equal shapes
		"SELECT abalance FROM pgbench_accounts WHERE aid = 1 -- x",
		"SELECT  abalance FROM PGBENCH_accounts WHERE aid = 1.5",
		"SELECT abalance FROM pgbench_accounts WHERE aid = E'1'",
	} {
		if got := understand(u, text); got.Shape != first.Shape {
			t.Errorf("%q has a shape of its own: %s", text, got)
		}
	}
	if got := first.On("extended").Shape; got.Path != "extended" || got != understand(u, "SELECT abalance FROM pgbench_accounts WHERE aid = 8").On("extended").Shape {
		t.Error("the same on another path has a shape of its own")
	}
}

// Statements whose facts depend on a constant don't share.
func TestConstantsThatMatter(t *testing.T) {
	u := New(&inProcess{}, shop())
	for _, pair := range [][2]string{
		{"SELECT set_config('role', 'a', true)", "SELECT set_config('work_mem', 'a', true)"},
		{"SELECT nextval('order_ids')", "SELECT nextval('app.other')"},
		{"DELETE FROM orders WHERE note LIKE '%'", "DELETE FROM orders WHERE note LIKE 'a'"},
		{"EXPLAIN (ANALYZE 0) DELETE FROM orders", "EXPLAIN (ANALYZE 1) DELETE FROM orders"},
		{"SET search_path TO 'app'", "SET search_path TO 'public'"},
		{"COPY orders TO '/a'", "COPY orders TO STDOUT"},
		{"SELECT CAST('1' AS float(5))", "SELECT CAST('1' AS float(50))"},
	} {
		a, b := understand(u, pair[0]), understand(u, pair[1])
		if reflect.DeepEqual(a.Shape, b.Shape) && reflect.DeepEqual(a.Effects, b.Effects) {
			t.Errorf("%q and %q are understood alike", pair[0], pair[1])
		}
	}
}

// Whatever constants a text is given, what the cache says of it is what the
// grammar says.
func TestTemplatesAgreeWithGrammar(t *testing.T) {
	texts := corpus(t)
	u := New(&inProcess{}, shop())
	ix := newIndex(shop())
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.SampledFrom(texts), rapid.Custom(statement)).Draw(t, "text")
		understand(u, text) // fills the cache
		other := otherConstants(t, text)
		got := understand(u, other)
		want := opaque("")
		if facts := grammar.Parse(other); facts.Refused == "" {
			want = resolve(ix, testEnv, facts)
		}
		if !reflect.DeepEqual(got.Shape, want.Shape) {
			t.Fatalf("%q, cached from %q:\n got %s\nwant %s", other, text, got, want)
		}
	})
}

// otherConstants replaces what Skeleton leaves out of a text by values that are
// drawn.
func otherConstants(t *rapid.T, text string) string {
	return replaceConstants(text, func(old string) string {
		switch {
		case old[0] == '\'':
			return "'" + rapid.StringMatching(`[^'\\\x00]{0,5}|role|search_path|%|analyze|public\.orders`).Draw(t, "string") + "'"
		case strings.Contains(old, "."):
			return rapid.SampledFrom([]string{"0.0", "1.5", "007.700", "12345678.12345678"}).Draw(t, "decimal")
		}
		return rapid.OneOf(rapid.Just("0"), rapid.Just("1"), rapid.Just("999999999999999999"), rapid.Just("007"),
			rapid.Custom(func(t *rapid.T) string { return strconv.Itoa(rapid.IntRange(0, 1<<40).Draw(t, "n")) })).Draw(t, "integer")
	})
}

// replaceConstants replaces what Skeleton leaves out of a text.
func replaceConstants(text string, by func(old string) string) string {
	var at []int
	if _, ok := grammar.Skeleton(nil, text, &at); !ok {
		return text
	}
	var b strings.Builder
	from := 0
	for _, i := range at {
		b.WriteString(text[from:i])
		if text[i] == '\'' {
			from = i + 1 + strings.IndexByte(text[i+1:], '\'') + 1
		} else {
			from = i + len(text[i:]) - len(strings.TrimLeft(text[i:], ".0123456789"))
		}
		b.WriteString(by(text[i:from]))
	}
	return b.String() + text[from:]
}

// statement draws a statement that PostgreSQL may or may not like.
func statement(t *rapid.T) string {
	switch rapid.IntRange(0, 4).Draw(t, "statement") {
	case 0:
		return "DELETE FROM orders WHERE " + expression(t, 3)
	case 1:
		return "UPDATE orders SET total = " + expression(t, 2) + " WHERE " + expression(t, 2)
	case 2:
		return "INSERT INTO orders (id, note) VALUES (" + expression(t, 2) + ", " + expression(t, 2) + ")"
	case 3:
		return "SELECT " + expression(t, 3) + " FROM orders o JOIN customers c ON " + expression(t, 2) + " ORDER BY " + expression(t, 1) + " LIMIT " + expression(t, 0)
	}
	return "SELECT " + expression(t, 4)
}

func expression(t *rapid.T, depth int) string {
	if depth <= 0 {
		return rapid.SampledFrom([]string{
			"1", "-5", "2.5", "-2.5", "1.5.2", "1..2", "3.", "4.5e6", "5.6x", "$1.5", "a.5", "'x'", "''", "'%'", "o.id", "id", "note", "$1", "true", "NULL", "1.5", ".5", "1e5", "1e-5", "E'x'", "B'1'", "0x1F", "U&'x'", "$$x$$",
			"interval '1' day", "interval(3) '1'", "float(24) '1'", "numeric(3, 2) '1'", "date '2000-01-01'", "'a' 'b'", "'a'\n'b'", "99999999999999999999", "now()", "a.b.c", "1 /* x */",
		}).Draw(t, "leaf")
	}
	e := func() string { return expression(t, depth-1) }
	switch rapid.IntRange(0, 14).Draw(t, "form") {
	case 0:
		return e() + " = " + e()
	case 1:
		return "(" + e() + " OR " + e() + ")"
	case 2:
		return "NOT " + e()
	case 3:
		return e() + " IS NOT NULL"
	case 4:
		return e() + " LIKE " + e()
	case 5:
		return e() + " IN (" + e() + ", " + e() + ")"
	case 6:
		return "(" + e() + ")::varchar(10)"
	case 7:
		return "evil(" + e() + ")"
	case 8:
		return "set_config(" + e() + ", " + e() + ", " + e() + ")"
	case 9:
		return "nextval(" + e() + ")"
	case 10:
		return "CASE WHEN " + e() + " THEN " + e() + " END"
	case 11:
		return "(" + e() + ").upper"
	case 12:
		return "(SELECT " + e() + " FROM customers LIMIT " + e() + ")"
	case 13:
		return e() + " AND " + e()
	}
	return e() + " - " + e()
}

// A text without constants and comments says no less than the one it is made
// from: read again it gives the same checks.
func TestTextReadsTheSame(t *testing.T) {
	u := New(&inProcess{}, shop())
	read := 0
	for _, text := range corpus(t) {
		un := understand(u, text)
		if !plainStatement(text) || un.Shape.Parse != evidence.ParseFull || un.Shape.Text == "SELECT" || strings.Contains(un.Shape.Text, "set_config") || strings.Contains(text, "currval") {
			continue
		}
		// A "?" is a constant; where none can stand, it is a name, and then a
		// column for all that can be told.
		ignore := ""
		again := understand(u, strings.ReplaceAll(un.Shape.Text, "?", "1"))
		if again.Shape.Parse == evidence.ParseOpaque {
			again, ignore = understand(u, strings.ReplaceAll(un.Shape.Text, "?", `"?"`)), Prefix+"select"
		}
		if again.Shape.Parse == evidence.ParseOpaque {
			continue // OPERATOR(?) and the like
		}
		read++
		if got, want := known(u, again, ignore), known(u, un, ignore); !reflect.DeepEqual(got, want) {
			t.Errorf("%q\nis %q\nand that reads %v, not %v", text, un.Shape.Text, got, want)
		}
	}
	if read < 150 {
		t.Errorf("only %d texts were read again", read)
	}
}

func plainStatement(text string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(text)+" ", " ")
	return slices.Contains([]string{"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE", "VALUES", "TABLE"}, strings.ToUpper(word))
}

// known are the checks on names that the catalogue has, without an action.
func known(u *Understander, un *Understanding, ignore string) []evidence.Check {
	ix := u.state.Load().index
	return slices.DeleteFunc(slices.Clone(un.Shape.Checks), func(c evidence.Check) bool {
		_, name, _ := strings.Cut(c.Object, ".")
		return c.Action == ignore || c.Action == Prefix+"sequence" || c.Object != "" && !ix.known(name)
	})
}

// Whatever it is given, an Understanding is one that can be decided on and
// recorded.
func FuzzUnderstand(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add(text)
	}
	u := New(startGrammar(f), shop())
	f.Fuzz(func(t *testing.T, text string) {
		un := understand(u, text)
		if err := sound(u, un); err != nil {
			t.Errorf("%q: %v\n%s", text, err, un)
		}
		if again := understand(u, text); again.Shape != un.Shape {
			t.Errorf("%q is understood twice", text)
		}
	})
}

// A statement and its normalized text agree: with any constant in the place of
// each "?" it asks for the same things, where constants don't matter.
func FuzzNormalizedText(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add(text)
	}
	u := New(startGrammar(f), shop())
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := agrees(u, text); err != nil {
			t.Error(err)
		}
	})
}

func TestNormalizedTextsAgree(t *testing.T) {
	u, compared := New(startGrammar(t), shop()), 0
	for _, text := range corpus(t) {
		ok, err := agrees(u, text)
		if err != nil {
			t.Error(err)
		}
		if ok {
			compared++
		}
	}
	if compared < 100 {
		t.Errorf("only %d texts could be compared", compared)
	}
}

// agrees compares a text with its normalized text, and reports whether it
// could: names that the database doesn't have are "?" too, and where a literal
// follows the name of its type neither constant fits.
func agrees(u *Understander, text string) (bool, error) {
	un := understand(u, text)
	if !un.shareable || un.Shape.Parse != evidence.ParseFull || strings.Contains(fmt.Sprint(un.Shape.Checks, un.Shape.Facts), "?") {
		return false, nil
	}
	for _, constant := range []string{"1", "'1'"} {
		again := understand(u, strings.ReplaceAll(un.Shape.Text, "?", constant))
		if again.Shape.Parse != evidence.ParseFull {
			continue
		}
		if again.Shape.Verb != un.Shape.Verb || !reflect.DeepEqual(asked(again), asked(un)) {
			return true, fmt.Errorf("%q is\n%s\nand its normalized text\n%s", text, un, again)
		}
		return true, nil
	}
	return false, nil
}

// asked is what a text asks for. A relation that the database doesn't have may
// be named like something that the text itself names, and then has its number.
func asked(un *Understanding) (list []evidence.Check) {
	for _, c := range un.Shape.Checks {
		if strings.Contains(un.Shape.Text, "_1") {
			c.Object = ""
		}
		list = append(list, c)
	}
	return slices.Compact(list)
}

// Whatever text fills the cache, what the cache says of it with other
// constants is what the grammar says.
func FuzzTemplate(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add(text)
	}
	g := startGrammar(f)
	u := New(g, shop())
	f.Fuzz(func(t *testing.T, text string) {
		understand(u, text)
		for _, constants := range [][3]string{{"'role'", "0.5", "7"}, {"'%'", "1.0", "0"}} {
			other := replaceConstants(text, func(old string) string {
				switch {
				case old[0] == '\'':
					return constants[0]
				case strings.Contains(old, "."):
					return constants[1]
				}
				return constants[2]
			})
			if got, want := understand(u, other), understand(New(g, shop()), other); !reflect.DeepEqual(got.Shape, want.Shape) || !reflect.DeepEqual(got.Effects, want.Effects) {
				t.Errorf("%q, cached from %q:\n got %s\nwant %s", other, text, got, want)
			}
		}
	})
}

func TestSound(t *testing.T) {
	for _, u := range []*Understander{New(&inProcess{}, shop()), New(&inProcess{}, nil)} {
		for _, text := range corpus(t) {
			for _, env := range []Env{testEnv, {}, PathEnv("app", "x"), PathEnv("", "x"), PathEnv("public, pg_catalog", "x")} {
				if err := sound(u, u.Understand(context.Background(), text, "simple", env)); err != nil {
					t.Errorf("%q: %v", text, err)
				}
			}
		}
	}
}

func sound(u *Understander, un *Understanding) error {
	s := un.Shape
	if len(s.Checks) == 0 {
		return errors.New("it asks for nothing")
	}
	for i, c := range s.Checks {
		if Actions[c.Action] == nil {
			return fmt.Errorf("%q isn't an action", c.Action)
		}
		if i > 0 && (c.Action < s.Checks[i-1].Action || c == s.Checks[i-1]) {
			return errors.New("its checks aren't sorted")
		}
		if strength[Class(c.Action)] > strength[s.Verb] {
			return fmt.Errorf("%s is stronger than %s", c.Action, s.Verb)
		}
	}
	if slices.Contains(s.Checks, opaqueCheck) != (s.Parse != evidence.ParseFull) {
		return fmt.Errorf("understood %s with those checks", s.Parse)
	}
	for k, v := range s.Facts {
		switch v.(type) {
		case bool, int64, []string:
		default:
			return fmt.Errorf("fact %s is a %T", k, v)
		}
	}
	if strings.ContainsAny(s.Text, "\x00\x01\x02\x03") {
		return fmt.Errorf("its text has marks: %q", s.Text)
	}
	text := s.Text
	for ix := u.state.Load().index; strings.Count(text, `"`) > 1; {
		before, rest, _ := strings.Cut(text, `"`)
		name, after, _ := strings.Cut(rest, `"`)
		if !ix.known(name) && !strings.Contains(name+after, `""`) {
			return fmt.Errorf("its text has %q", name)
		}
		text = before + after
	}
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
		if len(word) > 1 && !u.state.Load().index.known(word) && !ours(word) {
			return fmt.Errorf("its text has %q", word)
		}
	}
	return nil
}

// ours reports whether a word in a text is one that we put there.
func ours(word string) bool {
	return strings.Trim(strings.TrimPrefix(word, "_"), "0123456789") == "" || keywords[word] || grammarWords[word]
}

// grammarWords are what the grammar spells in lower case by itself.
var grammarWords = map[string]bool{"double": true, "precision": true, "varying": true, "with": true, "without": true, "zone": true, "year": true,
	"localtime": true, "localtimestamp": true, "day": true, "hour": true, "minute": true, "second": true, "month": true}

// An upsert changes at most the rows that it gives: those of the text itself, or
// whatever a query finds.
func TestUpsertsAreBoundedByTheirRows(t *testing.T) {
	u := New(&inProcess{}, shop())
	for text, want := range map[string]any{
		"INSERT INTO orders (id) VALUES (1), (2) ON CONFLICT (id) DO UPDATE SET total = excluded.total":                       true,
		"INSERT INTO orders DEFAULT VALUES ON CONFLICT (id) DO UPDATE SET total = 0":                                          true,
		"INSERT INTO orders (id) SELECT id FROM orders ON CONFLICT (id) DO UPDATE SET total = 0":                              false,
		"INSERT INTO orders (id) SELECT id FROM orders ON CONFLICT (id) DO UPDATE SET total = 0 WHERE orders.id = 7":          true,
		"INSERT INTO orders (id) (VALUES (1)) ON CONFLICT (id) DO UPDATE SET total = 0":                                       true,
		"INSERT INTO orders (id) (VALUES (1) UNION SELECT id FROM orders) ON CONFLICT (id) DO UPDATE SET total = 0":           false,
		"WITH x AS (UPDATE orders SET total = 0) INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET total = 0": false,
		"INSERT INTO orders (id) VALUES (1) ON CONFLICT DO NOTHING":                                                           nil,
	} {
		if got := understand(u, text).Shape.Facts["bounded"]; got != want {
			t.Errorf("%s: bounded is %v, want %v", text, got, want)
		}
	}
}

// A text that asks for more than anybody could decide on is opaque, and one
// with a condition of many terms is understood in time.
func TestLargeTexts(t *testing.T) {
	u := New(&inProcess{}, shop())
	tables := make([]string, maxChecks+1)
	for i := range tables {
		tables[i] = "t" + strconv.Itoa(i)
	}
	un := understand(u, "SELECT 1 FROM "+strings.Join(tables, ", "))
	if un.Shape.Parse != evidence.ParseOpaque || len(un.Shape.Checks) != 1 || un.Reason == "" {
		t.Errorf("%d checks, %s", len(un.Shape.Checks), un.Shape.Parse)
	}
	terms := make([]string, 4000)
	for i := range terms {
		terms[i] = "id = " + strconv.Itoa(i)
	}
	began := time.Now()
	if un := understand(u, "DELETE FROM orders WHERE "+strings.Join(terms, " OR ")); un.Shape.Facts["bounded"] != true {
		t.Errorf("many terms: %s", un.Shape.Parse)
	}
	if un := understand(u, "DELETE FROM orders WHERE "+strings.Join(terms, " OR ")+" OR id <> 7"); un.Shape.Facts["bounded"] != false {
		t.Errorf("many terms, and one of all others: %s", un.Shape.Parse)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A text that killed the grammar is opaque for a while, and asked about again
// after that.
func TestKilledTextIsRemembered(t *testing.T) {
	asked := 0
	u := New(askFunc(func(context.Context, string) (*grammar.Facts, error) {
		asked++
		return nil, fmt.Errorf("%w: so it is", grammar.ErrKilled)
	}), nil)
	a, b := understand(u, "SELECT 1"), understand(u, "SELECT 1")
	if asked != 1 || a.Shape != b.Shape || a.Shape.Parse != evidence.ParseOpaque || a.Reason == "" {
		t.Errorf("asked %d times: %s", asked, a)
	}
	h := hashOf("SELECT 1", testEnv)
	un, _ := u.state.Load().texts.get(h, "SELECT 1", testEnv.key)
	un.retry = time.Now().Add(-time.Second)
	if understand(u, "SELECT 1"); asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

// A failure that isn't the text's isn't remembered.
func TestFailureIsForgotten(t *testing.T) {
	fail := true
	u := New(askFunc(func(_ context.Context, text string) (*grammar.Facts, error) {
		if fail {
			return nil, context.DeadlineExceeded
		}
		return grammar.Parse(text), nil
	}), nil)
	if un := understand(u, "SELECT 1"); un.Shape.Parse != evidence.ParseOpaque {
		t.Errorf("got %s", un)
	}
	fail = false
	if un := understand(u, "SELECT 1"); un.Shape.Parse != evidence.ParseFull {
		t.Errorf("got %s", un)
	}
}

type askFunc func(context.Context, string) (*grammar.Facts, error)

func (f askFunc) Ask(ctx context.Context, text string) (*grammar.Facts, error) { return f(ctx, text) }

// A definition runs the functions of event triggers; nothing else does.
func TestDefinitionsRunEventTriggers(t *testing.T) {
	c := shop()
	c.EventTriggers = []Qualified{{"app", "hidden"}}
	u := New(&inProcess{}, c)
	runs := evidence.Check{Action: Prefix + "function_write", Object: "app.hidden"}
	for _, text := range []string{
		"CREATE TABLE made (id int)", "CREATE TEMP TABLE made AS SELECT 1", "SELECT 1 INTO made", "ALTER TABLE orders ADD n int", "DROP TABLE orders",
		"GRANT SELECT ON orders TO agent", "COMMENT ON TABLE orders IS 'x'", "REFRESH MATERIALIZED VIEW order_totals", "SELECT 1; DROP VIEW order_summary",
	} {
		if un := understand(u, text); !slices.Contains(un.Shape.Checks, runs) || !slices.Equal(un.Shape.Facts["functions"].([]string), []string{"app.hidden"}) {
			t.Errorf("%s: %s", text, un)
		}
	}
	for _, text := range []string{"SELECT 1", "INSERT INTO orders (id) VALUES (1)", "TRUNCATE orders", "SET work_mem = '5MB'", "EXPLAIN CREATE TABLE made AS SELECT 1"} {
		if un := understand(u, text); slices.Contains(un.Shape.Checks, runs) {
			t.Errorf("%s: %s", text, un)
		}
	}
}

// What writes set off may go round in circles, and may be more than anybody
// could decide on.
func TestWritesThatSetOffEachOther(t *testing.T) {
	c := shop()
	table := func(i int) Qualified { return Qualified{"public", "t" + strconv.Itoa(i)} }
	const circle = 50
	for i := range circle {
		c.Relations = append(c.Relations, RelationInfo{Qualified: table(i), Kind: "r", SetsOff: []SetOff{
			{On: "delete", Action: "delete", Qualified: table((i + 1) % circle)}, {On: "delete", Action: "update", Qualified: table((i + 7) % circle), Sets: []string{"id"}},
			{On: "update", Of: []string{"id"}, Action: "update", Qualified: table((i + 3) % circle), Sets: []string{"id"}, Defaults: i%2 == 0},
		}})
	}
	un := understand(New(&inProcess{}, c), "DELETE FROM t0")
	if len(un.Shape.Checks) != 2*circle {
		t.Errorf("%d checks of a circle of %d tables", len(un.Shape.Checks), circle)
	}
	many := RelationInfo{Qualified: Qualified{"public", "many"}, Kind: "r"}
	for i := range maxChecks + 1 {
		many.SetsOff = append(many.SetsOff, SetOff{On: "insert", Action: "insert", Qualified: table(i)})
	}
	c.Relations = append(c.Relations, many)
	if un := understand(New(&inProcess{}, c), "INSERT INTO many VALUES (1)"); un.Shape.Parse != evidence.ParseOpaque || un.Reason == "" {
		t.Errorf("%d checks, %s", len(un.Shape.Checks), un.Shape.Parse)
	}
}

// A catalogue counts from the call on, also for texts already understood.
func TestSetCatalogue(t *testing.T) {
	u := New(&inProcess{}, nil)
	before := understand(u, "SELECT note FROM orders")
	u.SetCatalogue(shop())
	after := understand(u, "SELECT note FROM orders")
	if before.Shape.Text != "SELECT ? FROM ?" || after.Shape.Text != "SELECT note FROM orders" {
		t.Errorf("%q, then %q", before.Shape.Text, after.Shape.Text)
	}
	if _, err := ParseCatalogue(shop().JSON()); err != nil {
		t.Error(err)
	}
}

// The caches hold what they are allowed and no more.
func TestCacheIsBounded(t *testing.T) {
	c := newCache[int](shards * 4096)
	for i := range 10_000 {
		text := strings.Repeat("x", i%100) + strconv.Itoa(i)
		c.put(hashOf(text, testEnv), text, "", i, 0)
	}
	total := 0
	for i := range c.shards {
		if c.shards[i].bytes > 4096 {
			t.Errorf("a shard holds %d bytes", c.shards[i].bytes)
		}
		total += len(c.shards[i].entries)
	}
	if total == 0 {
		t.Error("nothing is kept")
	}
	if v, ok := c.get(hashOf("xx9902", testEnv), "other", ""); ok {
		t.Errorf("another text's value %d", v)
	}
}

func TestHitsDontAllocate(t *testing.T) {
	u := New(&inProcess{}, shop())
	texts := []string{"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;", "SELECT abalance FROM pgbench_accounts WHERE aid = $1", "SELECT * FROM orders -- x"}
	for _, text := range texts {
		understand(u, text)
		if n := testing.AllocsPerRun(100, func() { understand(u, text) }); n != 0 {
			t.Errorf("%q allocates %v times", text, n)
		}
	}
}

func BenchmarkTemplate(b *testing.B) {
	u := New(&inProcess{}, shop())
	texts := [...]string{"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;", "SELECT abalance FROM pgbench_accounts WHERE aid = 77;"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		understand(u, texts[i&1])
	}
}

func BenchmarkExact(b *testing.B) {
	u := New(&inProcess{}, shop())
	b.ReportAllocs()
	for b.Loop() {
		understand(u, "SELECT abalance FROM pgbench_accounts WHERE aid = $1")
	}
}

func BenchmarkMiss(b *testing.B) {
	u := New(startGrammar(b), shop())
	for i := 0; b.Loop(); i++ {
		understand(u, "SELECT abalance FROM pgbench_accounts WHERE aid = "+strconv.Itoa(i)+" -- x")
	}
}
