package postgres_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// Functions that libpq calls by OID, as every server has them.
const (
	loCreate = 715
	loOpen   = 952
	loRead   = 954
	loWrite  = 955
	pgSleep  = 2626
)

// call asks a FunctionCall with arguments in binary format.
func (f *raw) call(oid uint32, args ...[]byte) *raw {
	b := binary.BigEndian.AppendUint32(nil, oid)
	b = append(b, 0, 1, 0, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(len(args)))
	for _, a := range args {
		b = binary.BigEndian.AppendUint32(b, uint32(len(a)))
		b = append(b, a...)
	}
	b = append(b, 0, 1)
	f.out = binary.BigEndian.AppendUint32(append(f.out, 'F'), uint32(len(b)+4))
	f.out = append(f.out, b...)
	return f
}

func int4(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func TestFunctionsThatAreCalledByTheirOIDs(t *testing.T) {
	s := startServer(t)
	for oid, name := range postgres.Callable {
		if n := s.count(t, fmt.Sprintf("select count(*) from pg_proc where oid = %d and proname = '%s' and pronamespace = 'pg_catalog'::regnamespace", oid, name)); n != 1 {
			t.Errorf("the server doesn't know %s as %d", name, oid)
		}
	}
}

func TestFunctionCalls(t *testing.T) {
	s := startServer(t)
	s.sql(t, "select lo_unlink(oid) from pg_largeobject_metadata", "select lo_create(70001)")
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.ask("begin", "T")
	f.call(loOpen, int4(70001), int4(0x60000)).send()
	f.expect("V Z")
	f.call(loWrite, int4(0), []byte("a secret")).send()
	f.expect("V Z")
	f.ask("commit", "I")
	// What isn't known is opaque, and this policy refuses that; where there is
	// no block the server hears nothing of it.
	f.call(pgSleep, make([]byte, 8)).send()
	f.expect("E Z")
	if f.status() != "I" {
		t.Errorf("the status is %s", f.status())
	}
	// In a block, a refusal fails it. So does a failure.
	f.ask("begin", "T").call(pgSleep, make([]byte, 8)).send()
	f.expect("E Z")
	f.call(loCreate, int4(70002)).send()
	f.expect("E Z")
	if f.ask("rollback", "I").call(loOpen, int4(70001)).send(); f.receive() != 'E' {
		t.Error("a call with too few arguments succeeded")
	}
	f.expect("Z")
	f.run("select 1/0").call(loCreate, int4(70004)).sync().send()
	f.expect("1 E Z")
	f.terminate()
	session := g.last(t)
	want := `simple "begin": ok
function "SELECT pg_catalog.lo_open($1, $2)": ok
function "SELECT pg_catalog.lowrite($1, $2)": ok
simple "commit": ok
function "SELECT oid 2626($1)": denied
simple "begin": ok
function "SELECT oid 2626($1)": denied
function "SELECT pg_catalog.lo_create($1)": error 25P02
simple "rollback": ok
function "SELECT pg_catalog.lo_open($1)": error 08P01
extended "select 1/0": error 22012
function "SELECT pg_catalog.lo_create($1)": skipped
`
	if got := session.Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
	write := session.Exchanges()[2]
	if check := write.Checks[0]; check.Action != "postgres:large_object" || write.Verb != evidence.VerbWrite {
		t.Errorf("lowrite is %s: %+v", write.Verb, write.Checks)
	}
	if len(write.Params) != 2 || string(write.Params[1]) != "a secret" || strings.Contains(write.Text, "secret") {
		t.Errorf("lowrite of %q: %s", write.Params, write.Text)
	}
	if unknown := session.Exchanges()[4]; unknown.Verb != evidence.VerbOpaque || fmt.Sprint(unknown.Facts["functions"]) != "[oid 2626]" {
		t.Errorf("a function that nobody knows is %s: %+v", unknown.Verb, unknown.Facts)
	}
	if n := s.count(t, "select count(*) from pg_largeobject_metadata where oid in (70002, 70004)"); n != 0 {
		t.Errorf("%d large objects were made", n)
	}
}

func TestCallWithinAnUnsyncedPipeline(t *testing.T) {
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.run("select 1").call(loCreate, int4(0)).send()
	f.expect("1 2 D C V Z")
	f.run("select 1/0").call(loCreate, int4(0)).sync().send()
	f.expect("1 E Z")
	f.terminate()
	g.last(t)
}

func TestLargeObjectsOfPsql(t *testing.T) {
	s := startServer(t)
	s.sql(t, "select lo_unlink(oid) from pg_largeobject_metadata")
	g := understandingGateway(t)
	var denied atomic.Bool
	g.Decide = func(c *evidence.Command) evidence.Decision {
		for _, check := range c.Checks {
			if denied.Load() && check.Action == "postgres:large_object" {
				return evidence.Decision{Effect: evidence.Deny, Reason: "no large objects"}
			}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	content := make([]byte, 300<<10)
	rand.Read(content)
	if err := os.WriteFile(in, content, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := g.psql(t, "-c", `\lo_import `+in)
	if err != nil {
		t.Fatal(err, said)
	}
	oid := strings.TrimSpace(strings.TrimPrefix(said, "lo_import "))
	said, err = g.psql(t, "-c", `\lo_export `+oid+` `+out, "-c", `\lo_unlink `+oid)
	if err != nil {
		t.Fatal(err, said)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if n := s.count(t, "select count(*) from pg_largeobject_metadata"); n != 0 {
		t.Errorf("%d large objects are left", n)
	}
	if got := ends(g.last(t)); !strings.HasPrefix(got, "commit of block") {
		t.Errorf("the transactions: %s", got)
	}
	denied.Store(true)
	if said, err := g.psql(t, "-c", `\lo_import `+in); err == nil || !strings.Contains(said, "no large objects") {
		t.Errorf("%v, %s", err, said)
	}
	if n := s.count(t, "select count(*) from pg_largeobject_metadata"); n != 0 {
		t.Errorf("%d large objects are left", n)
	}
}

// TestResultOfACallIsStreamed takes one that no buffer holds.
func TestResultOfACallIsStreamed(t *testing.T) {
	s := startServer(t)
	const size = 8 << 20
	s.sql(t, "select lo_unlink(oid) from pg_largeobject_metadata", fmt.Sprintf("select lo_from_bytea(70005, decode(repeat('ab', %d), 'hex'))", size))
	g := understandingGateway(t)
	f := dialRaw(t, g)
	f.ask("begin", "T").call(loOpen, int4(70005), int4(0x40000)).send()
	f.expect("V Z")
	f.call(loRead, int4(0), int4(size)).send()
	f.expect("V")
	if len(f.last) != 4+size {
		t.Errorf("%d bytes came back", len(f.last))
	}
	f.expect("Z")
	f.ask("commit", "I").terminate()
	g.last(t)
}
