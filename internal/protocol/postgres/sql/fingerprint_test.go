package sql

import (
	"context"
	"regexp"
	"slices"
	"testing"
)

// All that Load reads is in the fingerprint.
func TestFingerprintCoversLoad(t *testing.T) {
	found := regexp.MustCompile(`(?:FROM|JOIN) (?:pg_catalog\.)?(pg_\w+)`).FindAllStringSubmatch(new(Catalogue).Import("x").Query, -1)
	if len(found) < 10 {
		t.Fatalf("only %d tables in the queries", len(found))
	}
	for _, f := range found {
		if !slices.Contains(fingerprinted, f[1]) {
			t.Errorf("%s isn't in the fingerprint", f[1])
		}
	}
}

// A fingerprint differs after every kind of change to what Load reads, stays
// when nothing changes, and asks the system whatever the user's path.
func TestFingerprint(t *testing.T) {
	conn := shopServer(t)
	ctx := context.Background()
	take := func() string {
		t.Helper()
		f, err := Fingerprint(ctx, conn)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	before := take()
	for _, change := range []string{
		"CREATE SCHEMA other", "CREATE TABLE other.t (n int)", "ALTER TABLE other.t RENAME n TO m", "ALTER TABLE other.t DROP COLUMN m",
		"CREATE VIEW other.v AS SELECT 1 AS n", "CREATE OR REPLACE VIEW other.v AS SELECT 2 AS n",
		"CREATE FUNCTION other.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "ALTER FUNCTION other.f() VOLATILE",
		"CREATE DOMAIN other.d AS int", "ALTER DOMAIN other.d ADD CHECK (VALUE > 0)",
		"CREATE FUNCTION other.sum(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1'; SET search_path TO other, pg_catalog",
		"DROP TABLE other.t; CREATE TABLE other.t (n int PRIMARY KEY, m int)",
		"ALTER TABLE other.t ALTER m SET DEFAULT other.f()", "ALTER TABLE other.t ADD CHECK (other.f() > 0)", "CREATE INDEX ON other.t (n) WHERE m > 0",
		"CREATE TABLE other.r (n int CONSTRAINT r REFERENCES other.t)", "ALTER TABLE other.r DROP CONSTRAINT r, ADD CONSTRAINT r FOREIGN KEY (n) REFERENCES other.t ON DELETE CASCADE",
		"CREATE RULE r AS ON DELETE TO other.t DO ALSO NOTIFY x", "ALTER TABLE other.t DISABLE RULE r",
		"CREATE FUNCTION other.g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "CREATE TRIGGER g AFTER INSERT ON other.t EXECUTE FUNCTION other.g()", "ALTER TABLE other.t DISABLE TRIGGER g",
		"CREATE FUNCTION other.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'", "CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION other.e()", "ALTER EVENT TRIGGER e DISABLE",
		"CREATE TABLE other.p (n int) PARTITION BY RANGE (n)",
	} {
		if err := run(conn, change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		after := take()
		if after == before {
			t.Errorf("%s: no other fingerprint", change)
		}
		before = after
		if again := take(); again != before {
			t.Errorf("after %s it is first %s, then %s", change, before, again)
		}
	}
}
