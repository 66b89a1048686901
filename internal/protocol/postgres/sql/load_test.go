package sql

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// shopServer starts a server that holds the shop.
func shopServer(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := connect(t, startPostgres(t))
	script, err := os.ReadFile("testdata/shop.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(context.Background(), string(script)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Load reads a database as it is: the shop's is the one of the goldens.
func TestLoad(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	c, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest() != again.Digest() {
		t.Error("two readings of one database differ")
	}
	back, err := ParseCatalogue(c.JSON())
	if err != nil || back.Digest() != c.Digest() {
		t.Errorf("read back from its JSON it is another: %v", err)
	}
	if body := c.Import("orders-db"); body.Digest != c.Digest() || body.Rows == 0 || len(body.Data) == 0 {
		t.Errorf("its record: %+v", body)
	}
	want := shop()
	if !slices.Equal(c.Schemas, want.Schemas) {
		t.Errorf("schemas %v", c.Schemas)
	}
	users := slices.DeleteFunc(slices.Clone(c.Relations), func(r RelationInfo) bool { return r.Schema == "pg_catalog" || r.Schema == "information_schema" })
	for i := range users {
		users[i].Columns = slices.DeleteFunc(users[i].Columns, func(string) bool { return false })
		if len(users[i].Columns) == 0 {
			users[i].Columns = nil
		}
	}
	if !reflect.DeepEqual(users, want.Relations) {
		t.Errorf("relations\n got %+v\nwant %+v", users, want.Relations)
	}
	want.Functions = append(want.Functions, Qualified{"public", "same"})
	if !slices.Equal(c.Functions, want.Functions) || !slices.Equal(c.Operators, want.Operators) {
		t.Errorf("functions %v, operators %v", c.Functions, c.Operators)
	}
	for _, w := range want.Types {
		if !slices.Contains(c.Types, w) {
			t.Errorf("types lack %+v: %v", w, c.Types)
		}
	}
}

// A catalogue that no record would hold isn't kept in part.
func TestLoadIsBounded(t *testing.T) {
	conn := shopServer(t)
	defer func(m int) { maxBytes = m }(maxBytes)
	maxBytes = 10_000
	if c, err := Load(context.Background(), conn); !errors.Is(err, ErrCatalogue) || c != nil {
		t.Errorf("got %v, %v", c, err)
	}
}

// Load needs no rights: whoever may connect reads what the superuser reads.
func TestLoadNeedsNoRights(t *testing.T) {
	dsn := startPostgres(t)
	conn := connect(t, dsn)
	ctx := context.Background()
	for _, file := range []string{"shop.sql", "hidden.sql"} {
		script, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := run(conn, string(script)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(conn, "CREATE ROLE nobody"); err != nil {
		t.Fatal(err)
	}
	if err := run(conn, "SET ROLE nobody"); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(ctx, conn); err != nil || got.Digest() != want.Digest() || len(got.EventTriggers) == 0 {
		t.Errorf("nobody reads another catalogue: %v", err)
	}
}

// A search_path that hides the system's names doesn't mislead Load.
func TestLoadInHostilePath(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	if _, err := conn.Exec(ctx, `CREATE TABLE public.pg_class (oid int); SET search_path TO public, pg_catalog`); err != nil {
		t.Fatal(err)
	}
	c, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(c.Relations, func(r RelationInfo) bool { return r.Qualified == Qualified{"public", "pg_class"} }) {
		t.Error("the table that hides pg_class isn't in the catalogue")
	}
	u := New(&inProcess{}, c)
	for setting, object := range map[string]string{"public, pg_catalog": "public.pg_class", "public": "pg_catalog.pg_class"} {
		un := u.Understand(ctx, "SELECT * FROM pg_class", "simple", PathEnv(setting, "x"))
		if want := []evidence.Check{{Action: Prefix + "select", Object: object}}; !slices.Equal(un.Shape.Checks, want) {
			t.Errorf("in %s: %v", setting, un.Shape.Checks)
		}
	}
}

// PostgreSQL itself is the judge of what a statement touches: a role that has
// the privileges of a statement's checks and no others is refused nothing.
func TestChecksCoverPrivileges(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	c, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	u := New(&inProcess{}, c)
	if _, err := conn.Exec(ctx, `CREATE ROLE agent; REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA public, app, desk FROM PUBLIC; GRANT USAGE ON SCHEMA public, app, desk TO agent;
		GRANT USAGE ON SEQUENCE desk.tickets_id_seq TO agent; SET statement_timeout = '5s'`); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, text := range corpus(t) {
		word, _, _ := strings.Cut(strings.ToUpper(text)+" ", " ")
		if !plainStatement(text) && word != "EXPLAIN" {
			continue
		}
		un := understand(u, text)
		if un.Shape.Verb == evidence.VerbOpaque || strings.Contains(text, ";") || touchesServer(un.Shape.Checks) {
			continue
		}
		ran++
		err := runAs(ctx, conn, privileges(un.Shape.Checks), text)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42501" && !strings.Contains(pg.Message, "schema") {
			t.Errorf("%q with %v: %v", text, un.Shape.Checks, err)
		}
	}
	if ran < 100 {
		t.Errorf("only %d statements ran", ran)
	}
}

// touchesServer reports whether a statement needs what no grant on an object
// gives.
func touchesServer(checks []evidence.Check) bool {
	return slices.ContainsFunc(checks, func(c evidence.Check) bool {
		switch strings.TrimPrefix(c.Action, Prefix) {
		case "sequence":
			return c.Object == "" // the text has its number, or none
		case "server_file", "cancel_backend", "set_role", "create", "large_object", "lock":
			return true
		case "function_write":
			return strings.HasPrefix(c.Object, "pg_catalog.")
		case "update", "delete":
			return strings.HasPrefix(c.Object, "pg_catalog.")
		}
		return false
	})
}

// privileges are the grants that checks amount to.
func privileges(checks []evidence.Check) []string {
	table := map[string]string{
		"select": "SELECT", "insert": "INSERT", "update": "UPDATE", "delete": "DELETE", "truncate": "TRUNCATE", "select_for_update": "UPDATE",
		"merge": "SELECT", "explain": "SELECT, INSERT, UPDATE, DELETE", "copy_out": "SELECT", "copy_in": "INSERT",
	}
	var grants []string
	for _, c := range checks {
		schema, name, ok := strings.Cut(c.Object, ".")
		if !ok || schema == "pg_catalog" || schema == "?" {
			continue
		}
		object := pgx.Identifier{schema, name}.Sanitize()
		switch action := strings.TrimPrefix(c.Action, Prefix); {
		case table[action] != "":
			grants = append(grants, "GRANT "+table[action]+" ON "+object+" TO agent")
		case action == "sequence":
			grants = append(grants, "GRANT USAGE, UPDATE ON SEQUENCE "+object+" TO agent")
		case action == "function_write":
			grants = append(grants, fmt.Sprintf(`DO $$ DECLARE f regprocedure; BEGIN
				FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = '%s'::regnamespace AND proname = '%s'
					OR oid IN (SELECT oprcode FROM pg_operator WHERE oprname = '%[2]s' AND oprnamespace = '%[1]s'::regnamespace)
				LOOP EXECUTE format('GRANT EXECUTE ON FUNCTION %%s TO agent', f); END LOOP; END $$`, schema, name))
		}
	}
	return grants
}

// runAs runs text as agent with the grants, and undoes everything.
func runAs(ctx context.Context, conn *pgx.Conn, grants []string, text string) error {
	run := func(sql string) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	if err := run("BEGIN"); err != nil {
		return err
	}
	defer run("ROLLBACK") //nolint:errcheck // the next BEGIN would say
	for _, g := range grants {
		// What isn't there can't be granted; the statement then fails by itself.
		_ = run("SAVEPOINT g")
		if run(g) != nil {
			_ = run("ROLLBACK TO g")
		}
	}
	if err := run("SET LOCAL ROLE agent"); err != nil {
		return err
	}
	return run(text)
}

// What is called a read changes nothing: PostgreSQL runs it in a transaction
// that may only read.
func TestReadsOnlyRead(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	c, err := Load(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	u := New(&inProcess{}, c)
	ran := 0
	for _, text := range corpus(t) {
		un := understand(u, text)
		if verb := un.Shape.Verb; verb != evidence.VerbRead && verb != evidence.VerbSession || strings.Contains(text, ";") || strings.HasPrefix(text, "COPY") {
			continue
		}
		ran++
		if err := run(conn, "BEGIN READ ONLY"); err != nil {
			t.Fatal(err)
		}
		err := run(conn, text)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "25006" {
			t.Errorf("%q is called a %s: %v", text, un.Shape.Verb, err)
		}
		_ = run(conn, "ROLLBACK") // it may have ended already
		if err := run(conn, "DISCARD ALL"); err != nil {
			t.Fatal(err)
		}
	}
	if ran < 100 {
		t.Errorf("only %d statements ran", ran)
	}
}

// The digest of a catalogue is that of what the record holds, whatever its names
// are: operators are made of characters that JSON may escape.
func TestTheDigestIsOfWhatTheRecordHolds(t *testing.T) {
	c := &Catalogue{Operators: []Qualified{{Schema: "public", Name: "<&>"}}}
	var b evidence.ImportBody
	if err := evidence.DecodeBody(evidence.EncodeBody(c.Import("orders")), &b); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(b.Data); hex.EncodeToString(sum[:]) != b.Digest {
		t.Errorf("digest %s is not that of %s", b.Digest, b.Data)
	}
}
