package connect

import (
	"net"
	"slices"
	"strings"
	"testing"
)

var (
	ordersEnd = End{Resource: "orders", Protocol: Postgres, Agent: "reporter", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 15432}}
	socketEnd = End{Resource: "old-orders", Protocol: Postgres, Agent: "reporter", Addr: &net.UnixAddr{Net: "unix", Name: "/run/my reporter/.s.PGSQL.5433"}}
	toolsEnd  = End{Resource: "tools.v2", Protocol: HTTP, Agent: "reporter", Addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 8080}}
)

func TestProgramsFindTheEndsInTheirEnvironment(t *testing.T) {
	base := []string{
		"HOME=/h", "PATH=/bin", "PGAPPNAME=report", "PGOPTIONS=-c a=b", "PGHOST=db", "PGPASSWORD=canary", "PGPASSFILE=canary", "PGSERVICE=canary",
		"PGSSLKEY=canary", "DATABASE_URL=postgres://canary", "ORDERS_DATABASE_URL=canary", "EXHIBIT_KEY=canary", "EXHIBIT_SOCKET=canary",
		"MY_KEY=/keys/reporter.key", "ARGS=--key /keys/reporter.key", "CREDENTIALS_DIRECTORY=/keys", "NO_PROXY=a.example,", "KEYS=/keys/other",
	}
	env, err := Environ(base, []End{ordersEnd, socketEnd, toolsEnd}, "/keys/reporter.key")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"HOME=/h", "PATH=/bin", "PGAPPNAME=report", "PGOPTIONS=-c a=b", "NO_PROXY=a.example,127.0.0.1,::1", "KEYS=/keys/other", "no_proxy=127.0.0.1,::1",
		"DATABASE_URL=postgres://reporter@127.0.0.1:15432/orders?sslmode=disable",
		"OLD_ORDERS_DATABASE_URL=postgres:///old-orders?host=%2Frun%2Fmy%20reporter&port=5433&sslmode=disable&user=reporter",
		"ORDERS_DATABASE_URL=postgres://reporter@127.0.0.1:15432/orders?sslmode=disable",
		"PGDATABASE=orders", "PGHOST=127.0.0.1", "PGPORT=15432", "PGSSLMODE=disable", "PGUSER=reporter",
		"TOOLS_V2_URL=http://[::1]:8080",
	}
	if !slices.Equal(env, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(env, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheEnvironmentOfAnotherProtocolIsLeft(t *testing.T) {
	env, err := Environ([]string{"PGPASSWORD=mine", "http_proxy=p"}, []End{toolsEnd}, "reporter.key")
	if err != nil || !slices.Contains(env, "PGPASSWORD=mine") || !slices.Contains(env, "TOOLS_V2_URL=http://[::1]:8080") {
		t.Errorf("got %q, %v", env, err)
	}
	env, err = Environ([]string{"NO_PROXY=x", "A=reporter.key", "B=reporter.key.txt"}, []End{socketEnd}, "reporter.key")
	if err != nil || !slices.Contains(env, "NO_PROXY=x") || !slices.Contains(env, "PGHOST=/run/my reporter") || !slices.Contains(env, "PGPORT=5433") ||
		slices.Contains(env, "A=reporter.key") || !slices.Contains(env, "B=reporter.key.txt") {
		t.Errorf("got %q, %v", env, err)
	}
}

func TestTwoResourcesCantHaveOneVariable(t *testing.T) {
	other := ordersEnd
	other.Resource = "ORDERS"
	if _, err := Environ(nil, []End{ordersEnd, other}, "k"); err == nil || !strings.Contains(err.Error(), "ORDERS_DATABASE_URL") {
		t.Errorf("got %v", err)
	}
}

func TestExamplesCanBeCopied(t *testing.T) {
	for want, e := range map[string]End{
		"psql -h 127.0.0.1 -p 15432 orders":                   ordersEnd,
		"psql -h '/run/my reporter' -p 5433 old-orders":       socketEnd,
		"curl http://[::1]:8080/":                             toolsEnd,
		`curl --unix-socket '/run/it'\''s' http://localhost/`: {Protocol: HTTP, Addr: &net.UnixAddr{Net: "unix", Name: "/run/it's"}},
		`psql -h 127.0.0.1 -p 15432 'a resource; rm -rf /'`:   {Resource: "a resource; rm -rf /", Protocol: Postgres, Addr: ordersEnd.Addr},
	} {
		if got := e.Example(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
