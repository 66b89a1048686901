package postgres_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// What libpq's connection parameters do before a server, they do before the
// gateway (PostgreSQL documentation, "Parameter Key Words").
func TestConnectionParametersOfLibpq(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for options, c := range map[string]struct {
		ask, want string // want "" is that there is no connection
	}{
		"target_session_attrs=any":            {"select 1", "1"},
		"target_session_attrs=read-write":     {"select 1", "1"},
		"target_session_attrs=primary":        {"select 1", "1"},
		"target_session_attrs=prefer-standby": {"select 1", "1"},
		"target_session_attrs=standby":        {"select 1", ""},
		"target_session_attrs=read-only":      {"select 1", ""},
		"target_session_attrs=read-only options='-c default_transaction_read_only=on'":  {"select 1", "1"},
		"target_session_attrs=read-write options='-c default_transaction_read_only=on'": {"select 1", ""},
		"keepalives=1 keepalives_idle=5 keepalives_interval=1 keepalives_count=3":       {"select 1", "1"},
		"keepalives=0 tcp_user_timeout=20000 connect_timeout=30":                        {"select 1", "1"},
		"application_name='a reporter'":                                                 {"show application_name", "a reporter"},
		"fallback_application_name=fallback":                                            {"show application_name", "psql"},
		"client_encoding=auto":                                                          {"show client_encoding", "UTF8"},
		"options='-c statement_timeout=7s -c search_path=a\\\\,\\\\ b'":                 {"show search_path", "a, b"},
		"options='--work-mem=8MB -cgeqo=off'":                                           {"select current_setting('work_mem') || current_setting('geqo')", "8MBoff"},
		"gssencmode=disable":                                                            {"select 1", "1"},
		"sslmode=allow":                                                                 {"select 1", "1"},
		"sslmode=prefer":                                                                {"select 1", "1"},
		"sslmode=require":                                                               {"select 1", ""}, // this gateway has no TLS
		"channel_binding=disable":                                                       {"select 1", "1"},
		"channel_binding=require":                                                       {"select 1", ""},
		"passfile=/nonexistent":                                                         {"select 1", "1"}, // PGPASSWORD
		"replication=false":                                                             {"select 1", "1"},
		"hostaddr=127.0.0.1":                                                            {"select 1", "1"},
	} {
		out, err := g.psqlOf(t, options, "-c", c.ask)
		if got := strings.TrimSpace(out); c.want != "" && (err != nil || got != c.want) || c.want == "" && err == nil {
			t.Errorf("%s: %v: %q, want %q", options, err, out, c.want)
		}
	}
}

func TestWhereLibpqFindsAGateway(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	host, port, err := net.SplitHostPort(g.address)
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := pgserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, dead, _ := strings.Cut(nobody, ":")
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	service := file("service.conf", fmt.Sprintf("[orders]\nhost=%s\nport=%s\nuser=agent-1\ndbname=app\n", host, port))
	pass := file("pass", fmt.Sprintf("%s:%s:*:agent-2:wrong\n%s:%s:app:agent-1:%s\n", host, port, host, port, prototest.Token))
	password := []string{"PGPASSWORD=" + prototest.Token}
	for name, c := range map[string]struct {
		at  string
		env []string
	}{
		"a service file":    {"service=orders", append(password, "PGSERVICEFILE="+service)},
		"a password file":   {fmt.Sprintf("host=%s port=%s user=agent-1 dbname=app passfile=%s", host, port, pass), nil},
		"both":              {"service=orders", []string{"PGSERVICEFILE=" + service, "PGPASSFILE=" + pass}},
		"several hosts":     {fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%s,%s user=agent-1 dbname=app target_session_attrs=read-write", dead, port), password},
		"a URL":             {fmt.Sprintf("postgresql://agent-1@127.0.0.1:%s,127.0.0.1:%s/app?connect_timeout=30", dead, port), password},
		"the environment":   {"", append(password, "PGHOST="+host, "PGPORT="+port, "PGUSER=agent-1", "PGDATABASE=app", "PGAPPNAME=x", "PGOPTIONS=-c jit=off", "PGTZ=UTC", "PGDATESTYLE=ISO", "PGGEQO=off")},
		"a password in URL": {fmt.Sprintf("postgresql://agent-1:%s@%s/app", prototest.Token, g.address), nil},
	} {
		if out, err := psqlAt(t, c.at, c.env, "-c", "select 'found'"); err != nil || strings.TrimSpace(out) != "found" {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// What a server says of itself is what the agent gets to know.
func TestTheServersParametersAreTheAgents(t *testing.T) {
	s := startServer(t)
	g := startGateway(t, s, postgres.Config{})
	const as = "&application_name=me&timezone=Asia/Tokyo&default_transaction_read_only=on&client_encoding=UTF8"
	straight, err := pgx.Connect(t.Context(), s.url("app")+as)
	if err != nil {
		t.Fatal(err)
	}
	defer straight.Close(t.Context())
	through, err := pgx.Connect(t.Context(), g.url()+as)
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close(t.Context())
	for _, name := range []string{
		"server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization", "DateStyle",
		"IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings", "in_hot_standby", "default_transaction_read_only",
		"scram_iterations", "search_path",
	} {
		want, got := straight.PgConn().ParameterStatus(name), through.PgConn().ParameterStatus(name)
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// So is its process id, by which clients know their own notifications.
	var pid uint32
	if err := through.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil || pid != through.PgConn().PID() {
		t.Errorf("%v: the process id is %d, and %d by the key", err, pid, through.PgConn().PID())
	}
	if _, err := through.Exec(t.Context(), "set timezone = 'Europe/Paris'"); err != nil || through.PgConn().ParameterStatus("TimeZone") != "Europe/Paris" {
		t.Errorf("after a change: %v, %q", err, through.PgConn().ParameterStatus("TimeZone"))
	}
}
