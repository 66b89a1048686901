package sql

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// shop is the database of the goldens.
func shop() *Catalogue {
	in := func(schema, name string) Qualified { return Qualified{schema, name} }
	table := func(schema, name string, columns ...string) RelationInfo {
		return RelationInfo{Qualified: in(schema, name), Kind: "r", Columns: columns}
	}
	return &Catalogue{
		Schemas: []string{"app", "desk", "information_schema", "pg_catalog", "public"},
		Relations: []RelationInfo{
			{Qualified: in("app", "Ids"), Kind: "S"},
			table("app", "audit", "order_id", "what"),
			{
				Qualified: in("desk", "accounts"), Kind: "r", Columns: []string{"id", "email"},
				SetsOff: []SetOff{
					{On: "delete", Action: "delete", Qualified: in("desk", "tickets")},
					{On: "truncate", Action: "truncate", Qualified: in("desk", "tickets")},
					{On: "update", Of: []string{"id"}, Action: "update", Qualified: in("desk", "tickets"), Sets: []string{"account"}},
					{On: "update", Of: []string{"email"}, Qualified: in("desk", "touch")},
				},
			},
			{Qualified: in("desk", "accounts_pkey"), Kind: "i"},
			{Qualified: in("desk", "board"), Kind: "v", Columns: []string{"id", "rating"}, Bases: []Qualified{in("desk", "tickets")}},
			{
				Qualified: in("desk", "mail"), Kind: "v", Columns: []string{"email", "id"}, Bases: []Qualified{in("desk", "accounts"), in("desk", "tickets")},
				SetsOff: []SetOff{{On: "insert", Qualified: in("desk", "touch"), Instead: true}},
			},
			{
				Qualified: in("desk", "replies"), Kind: "r", Columns: []string{"ticket", "body"},
				SetsOff: []SetOff{
					{On: "insert", Qualified: in("desk", "rated")}, {On: "truncate", Qualified: in("desk", "touch")}, {On: "update", Qualified: in("desk", "rated")},
				},
			},
			{Qualified: in("desk", "replies_rated"), Kind: "i"},
			{
				Qualified: in("desk", "tickets"), Kind: "r", Columns: []string{"id", "account", "ref", "rating"},
				SetsOff: []SetOff{
					{On: "delete", Action: "insert", Qualified: in("desk", "trail"), Planned: true}, {On: "delete", Action: "select", Qualified: in("desk", "accounts"), Planned: true},
					{On: "delete", Action: "update", Qualified: in("desk", "replies"), Sets: []string{"ticket"}},
					{On: "truncate", Action: "truncate", Qualified: in("desk", "replies")},
					{On: "default", Qualified: in("desk", "reference"), Planned: true},
					{On: "insert", Qualified: in("desk", "rated")}, {On: "update", Qualified: in("desk", "rated")},
				},
			},
			{Qualified: in("desk", "tickets_id_seq"), Kind: "S"},
			{Qualified: in("desk", "tickets_pkey"), Kind: "i"},
			table("desk", "trail", "what"),
			table("public", "Weird Table", "Weird Col"),
			table("public", "customers", "id", "email"),
			{Qualified: in("public", "order_ids"), Kind: "S"},
			{Qualified: in("public", "order_summary"), Kind: "v", Columns: []string{"id", "total", "email"}, Bases: []Qualified{in("public", "customers"), in("public", "orders")}},
			{Qualified: in("public", "order_totals"), Kind: "m", Columns: []string{"total"}, Bases: []Qualified{in("public", "order_summary")}},
			table("public", "orders", "id", "customer_id", "total", "note", "paid"),
			{Qualified: in("public", "orders_pkey"), Kind: "i"},
			table("public", "pgbench_accounts", "aid", "bid", "abalance", "filler"),
			table("public", "pgbench_history", "tid", "bid", "aid", "delta", "mtime", "filler"),
		},
		Functions: []Qualified{
			in("app", "hidden"), in("desk", "rated"), in("desk", "reference"), in("desk", "touch"), in("public", "evil"), in("public", "lower"),
		},
		Types: []TypeInfo{
			{in("public", "evil_type"), false}, {in("public", "mood"), true},
			{in("public", "nodomain"), true}, {in("public", "positive"), false},
		},
		Operators: []Qualified{in("public", "===")},
	}
}

// golden is one statement and what is understood of it.
type golden struct {
	SQL     string         `json:"sql"`
	Verb    string         `json:"verb"`
	Parse   evidence.Parse `json:"parse"`
	Text    string         `json:"text,omitempty"`
	Checks  []string       `json:"checks"`
	Facts   evidence.Facts `json:"facts,omitempty"`
	Effects []string       `json:"effects,omitempty"`
	Shared  bool           `json:"shared,omitempty"` // with statements of other constants
}

// TestGolden holds what is understood of many statements against
// testdata/*.json: review changes there like code.
func TestGolden(t *testing.T) {
	u := New(startGrammar(t), shop())
	env := PathEnv(`"$user", public`, "app_user")
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no goldens", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var cases []golden
			if err := json.Unmarshal(want, &cases); err != nil {
				t.Fatal(err)
			}
			for i := range cases {
				cases[i] = understood(u, cases[i].SQL, env)
				noSecret(t, cases[i])
			}
			got := encode(t, cases)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs: run with -update and review\n%s", file, firstDifference(got, want))
			}
		})
	}
}

func understood(u *Understander, text string, env Env) golden {
	un := u.Understand(context.Background(), text, "simple", env)
	g := golden{SQL: text, Verb: un.Shape.Verb, Parse: un.Shape.Parse, Text: un.Shape.Text, Facts: un.Shape.Facts, Shared: un.shareable}
	for _, c := range un.Shape.Checks {
		g.Checks = append(g.Checks, strings.TrimSpace(c.Action+" "+c.Object))
	}
	for _, e := range un.Effects {
		g.Effects = append(g.Effects, e.String())
	}
	return g
}

// noSecret holds that what a statement says in comments, constants, aliases or
// names of its own isn't in its text or facts. The goldens call all such
// things "secret".
func noSecret(t *testing.T, g golden) {
	t.Helper()
	facts, err := json.Marshal(g.Facts)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(g.Text), "secret") || strings.Contains(string(facts), "my.secret") {
		t.Errorf("%q gives away a secret: %q %s", g.SQL, g.Text, facts)
	}
}

func encode(t *testing.T, cases []golden) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	if err := e.Encode(cases); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			from := max(0, i-8)
			return "got\n" + strings.Join(g[from:min(len(g), i+4)], "\n") + "\nwant\n" + strings.Join(w[min(len(w), from):min(len(w), i+4)], "\n")
		}
	}
	return "got is a prefix of want"
}
