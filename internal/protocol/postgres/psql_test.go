package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

func TestPsqlSeesTheServer(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	out, err := g.psql(t, "-c", "select 1+1", "-c", "select 'a' union select 'b' order by 1", "-c", "select 1; select 2", "-c", "")
	if err != nil {
		t.Fatal(err, out)
	}
	if want := "2\na\nb\n1\n2\n"; out != want {
		t.Errorf("psql printed %q, want %q", out, want)
	}
	want := `simple "select 1+1": ok rows=1
simple "select 'a' union select 'b' order by 1": ok rows=2
simple "select 1; select 2": ok rows=2
`
	if got := g.last(t).Trace(); !strings.HasPrefix(got, want) {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
}

func TestPgxSpeaksTheExtendedProtocol(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	for i := range 3 {
		var sum int
		if err := c.QueryRow(t.Context(), "select $1::int + $2", i, 10).Scan(&sum); err != nil {
			t.Fatal(err)
		}
		if sum != i+10 {
			t.Errorf("sum is %d", sum)
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `prepare "select $1::int + $2": ok
execute "": ok rows=1
execute "": ok rows=1
execute "": ok rows=1
`
	s := g.last(t)
	if got := s.Trace(); got != want {
		t.Errorf("trace:\n%swant:\n%s", got, want)
	}
	prepare, execute := s.Exchanges()[0], s.Exchanges()[2]
	if execute.Of != prepare.Position() {
		t.Errorf("execute is of %v, want %v", execute.Of, prepare.Position())
	}
	if len(execute.Params) != 2 {
		t.Errorf("%d params", len(execute.Params))
	}
}

// The same bytes are another value in another format or of another type: how
// they are to be read is part of the command.
func TestHowValuesAreToBeReadIsRecorded(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	types := func(oids ...uint32) *raw {
		return f.message(&pgproto3.Parse{Query: "select $1::text", ParameterOIDs: oids})
	}
	bind := func(formats ...int16) {
		f.message(&pgproto3.Bind{Parameters: [][]byte{[]byte("1234")}, ParameterFormatCodes: formats}).execute("", 0).sync().send()
		f.expectUntil('Z')
	}
	types()
	bind()
	types()
	bind(0)
	types()
	bind(1)
	types(25)
	bind(1)
	f.terminate()
	var got []string
	for _, x := range g.last(t).Exchanges() {
		got = append(got, fmt.Sprintf("%q %x", x.Params, x.Encoding))
	}
	want := []string{`["1234"] `, `["1234"] `, `["1234"] 00010001`, `["1234"] 00010001000100000019`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
