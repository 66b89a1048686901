package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// understandingGateway is a gateway that understands SQL, in front of a server
// with the tables open.t and hidden.t. The checks of package sql decide:
// nothing of the schema "hidden" may be touched.
func understandingGateway(t *testing.T) *gateway {
	t.Helper()
	s := startServer(t)
	s.sql(t, "create schema if not exists open", "create schema if not exists hidden",
		"create table if not exists open.t (n int)", "create table if not exists hidden.t (n int)",
		"create table if not exists open.late (n int unique deferrable initially deferred)",
		"truncate open.t, hidden.t", "insert into open.t values (1)", "insert into hidden.t values (2)")
	pool, err := grammar.Start(grammar.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	conn, err := pgx.Connect(t.Context(), s.url("app"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	catalogue, err := sql.Load(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	u := sql.New(pool, catalogue)
	g := startGateway(t, s, postgres.Config{Understand: func(string) postgres.Understander { return u }})
	g.Decide = func(c *evidence.Command) evidence.Decision {
		for _, check := range c.Checks {
			if strings.HasPrefix(check.Object, "hidden") || check.Action == sql.Prefix+"opaque" {
				return evidence.Decision{Effect: evidence.Deny, Reason: check.Action + " " + check.Object}
			}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
	return g
}

func TestSearchPathIsFollowed(t *testing.T) {
	g := understandingGateway(t)
	f := dialRaw(t, g)
	say := func(text, want string) {
		t.Helper()
		f.query(text).send()
		f.expect(want)
	}
	say("set search_path = open", "C Z")
	say("select n from t", "T D C Z")
	say("begin", "C Z")
	say("set search_path = hidden", "C Z")
	say("select n from t", "E Z")
	say("rollback", "C Z")
	say("select n from t", "T D C Z")
	// In one message, in one pipeline, and in a pipeline of messages.
	say("set search_path = hidden; select n from t", "E Z")
	f.query("set search_path = hidden").query("select n from t").send()
	f.expect("C Z E Z")
	say("set search_path = open", "C Z")
	say("select n from t", "T D C Z")
	f.parse("", "set search_path = hidden").bind("", "").execute("", 0)
	f.parse("", "select n from t").bind("", "").execute("", 0).sync().send()
	f.expect("1 2 C E Z")
	f.terminate()
	g.last(t)
}

func TestPreparedStatementsMeanWhatTheyMeanNow(t *testing.T) {
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.query("set search_path = open").send()
	f.expect("C Z")
	f.parse("s", "select n from t").sync().send()
	f.expect("1 Z")
	f.bind("", "s").execute("", 0).sync().send()
	f.expect("2 D C Z")
	f.query("execute s").send()
	f.expect("T D C Z")
	// The server plans a statement anew by the search_path of the moment.
	f.query("prepare p as select n from t").query("execute p").send()
	f.expect("C Z T D C Z")
	f.query("set search_path = hidden").send()
	f.expect("C Z")
	f.bind("", "s").execute("", 0).sync().send()
	f.expect("E Z")
	f.query("execute s").query("execute p").send()
	f.expect("E Z E Z")
	f.query("set search_path = open").send()
	f.expect("C Z")
	f.query("execute s").query("execute p").send()
	f.expect("T D C Z T D C Z")
	// So it does within one text.
	f.query("set search_path = hidden; execute s").query("set search_path = hidden; execute p").send()
	f.expect("E Z E Z")
	f.query("prepare l as select n from t; set search_path = hidden; execute l").query("execute p").send()
	f.expect("E Z T D C Z")
	f.query("set search_path = hidden; set search_path = open; execute p").query("set search_path = hidden").send()
	f.expect("C C T D C Z C Z")
	// Nor does a path help that only lasts as long as a transaction.
	for _, say := range []struct{ text, want string }{
		{"begin", "C Z"}, {"set local search_path = open", "C Z"}, {"prepare q as select n from t", "C Z"},
		{"execute q", "T D C Z"}, {"rollback", "C Z"}, {"execute q", "E Z"},
	} {
		f.query(say.text).send()
		f.expect(say.want)
	}
	f.terminate()
	g.last(t)
}

func TestNamesThatSQLGivesAndTakes(t *testing.T) {
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.parse("s", "select n from open.t").sync().send()
	f.expect("1 Z")
	// Behind the protocol's back, the name comes to mean something else.
	f.parse("", "deallocate s").bind("", "").execute("", 0).bind("", "s").execute("", 0).sync().send()
	f.expect("1 2 C E Z")
	f.query("prepare s as select 1").send()
	f.expect("C Z")
	f.bind("", "s").execute("", 0).sync().send()
	f.expect("E Z")
	f.query("execute s").send()
	f.expect("T D C Z")
	f.terminate()
	g.last(t)
}

// A text that ends the grammar's process is opaque, raises an alert that
// doesn't quote it, and costs the session nothing else.
func TestATextThatKillsTheGrammarRaisesAnAlert(t *testing.T) {
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.query("select 'hunter2'" + strings.Repeat("+1", 100_000)).send()
	f.expect("E Z")
	f.query("select n from open.t").send()
	f.expect("T D C Z")
	f.terminate()
	s := g.last(t)
	x, alerts := s.Exchanges()[0], s.Alerts()
	if x.Shape.Verb != evidence.VerbOpaque || x.Shape.Text != "" {
		t.Errorf("recorded as %+v", x.Shape)
	}
	if len(alerts) != 1 || alerts[0].Rule != "grammar-killed" || alerts[0].Trigger != x.Position() || strings.Contains(alerts[0].Text, "hunter2") {
		t.Errorf("alerts %+v of %s", alerts, x.Position())
	}
}
