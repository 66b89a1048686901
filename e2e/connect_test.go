package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// encrypted gives the listener a certificate, and returns the authority's file.
func (w *world) encrypted() (ca string) {
	w.t.Helper()
	a := newAuthority(w.t, w.path("tls"))
	a.issue("gateway", &x509.Certificate{})
	w.edit(func(c string) string {
		return strings.Replace(c, "# tls: {cert: gateway.pem, key: gateway.key}", "tls: {cert: tls/gateway.pem, key: tls/gateway.key}", 1)
	})
	w.stop(syscall.SIGTERM)
	w.start()
	return a.path("ca.pem")
}

// localEnds starts exhibit connect as bot, under a ticket, and returns the URLs
// of the resources' local ends, and how to end it.
func (w *world) localEnds(args ...string) (urls map[string]string, end func()) {
	w.t.Helper()
	log, err := os.OpenFile(w.path("connect.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	w.ok(err)
	cmd := exec.CommandContext(context.Background(), exhibit, append([]string{"connect", "--json", "--key", w.path("bot.key"), "--ticket", "T-1"}, args...)...)
	cmd.Env = append(os.Environ(), "EXHIBIT_CONFIG="+w.path("exhibit.yaml"))
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	w.ok(err)
	w.ok(cmd.Start())
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		w.ok(cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("exhibit connect: %v", err)
		}
		said, _ := os.ReadFile(w.path("connect.log"))
		w.t.Logf("exhibit connect said:\n%s", said)
		if strings.Contains(string(said), "eyJ") { // as every token begins
			w.t.Error("a token is in the log")
		}
		_ = log.Close()
	}
	w.t.Cleanup(end)
	var list []struct{ Resource, URL string }
	if err := json.NewDecoder(out).Decode(&list); err != nil {
		_ = cmd.Wait()
		said, _ := os.ReadFile(w.path("connect.log"))
		w.t.Fatalf("exhibit connect: %v\n%s", err, said)
	}
	urls = map[string]string{}
	for _, e := range list {
		urls[e.Resource] = e.URL
	}
	return urls, end
}

func TestOrdinaryClientsNeedNoCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := w.encrypted()
	at := "=postgres://" + w.listen
	for name, local := range map[string]string{"a port": "0", "a socket": w.path("ends")} {
		t.Run(name, func(t *testing.T) {
			urls, end := w.localEnds("--ca", ca, "--server-name", "127.0.0.1", "orders"+at+","+local, "nowhere"+at)
			at, err := url.Parse(urls["orders"])
			w.ok(err)
			host, port := at.Hostname(), at.Port()
			if host == "" {
				host, port = at.Query().Get("host"), at.Query().Get("port")
			}
			// Whatever user and database a client names, it is the agent at the resource.
			out, err := w.run("psql", "-X", "-w", "-h", host, "-p", port, "-U", "somebody", "-d", "anything", "-Atc", `\conninfo`, "-c", "select count(*) from t")
			if err != nil || !strings.Contains(out, "100") {
				t.Errorf("psql: %v\n%s", err, out)
			}
			// More than fits in any buffer, and COPY both ways.
			out, err = w.run("psql", "-X", "-w", urls["orders"], "-Atc", "select sum(length(v)) from (select repeat('x', 1000) v from generate_series(1, 50000)) x",
				"-c", `\copy t to '`+w.path("rows.csv")+`' csv`, "-c", "delete from t where id > 0", "-c", `\copy t from '`+w.path("rows.csv")+`' csv`)
			if err != nil || !strings.Contains(out, "50000000") || !strings.Contains(out, "COPY 100") {
				t.Errorf("psql: %v\n%s", err, out)
			}
			w.pgxThrough(t, urls["orders"])
			// What the gateway refuses, it refuses in its own words.
			if out, err := w.run("psql", "-X", "-w", urls["orders"], "-c", "drop table t"); err == nil || !strings.Contains(out, "refused by the access gateway") {
				t.Errorf("a forbidden command: %v\n%s", err, out)
			}
			if out, err := w.run("psql", "-X", "-w", urls["nowhere"], "-c", "select 1"); err == nil || !strings.Contains(out, "may not connect") {
				t.Errorf("a resource that there is not: %v\n%s", err, out)
			}
			end()
			if out, err := w.run("psql", "-X", "-w", urls["orders"], "-c", "select 1"); err == nil {
				t.Errorf("after its end:\n%s", out)
			}
		})
	}
	var who struct {
		Columns []string
		Rows    [][]string
	}
	w.ok(json.Unmarshal([]byte(w.must("who", "orders", "--json")), &who))
	if text := fmt.Sprint(who.Rows); !strings.Contains(text, "T-1") {
		t.Errorf("sessions are on record without their ticket: %s", text)
	}
	w.passes()
}

// pgxThrough works as a program does: prepared, in a transaction, and cancelled.
func (w *world) pgxThrough(t *testing.T, url string) {
	t.Helper()
	for _, version := range []string{"3.0", "3.2"} {
		config, err := pgx.ParseConfig(url)
		w.ok(err)
		config.MaxProtocolVersion = version
		c, err := pgx.ConnectConfig(t.Context(), config)
		w.ok(err)
		var n int
		w.ok(c.QueryRow(t.Context(), "select count(*) from t where id <= $1", 10).Scan(&n))
		if n != 10 {
			t.Errorf("%s: %d rows", version, n)
		}
		mark := "pg_sleep(" + fmt.Sprint(600+time.Now().UnixNano()%1000) + ")"
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { _, err := c.Exec(ctx, "select "+mark); failed <- err }()
		w.until(60*time.Second, "the statement runs", func() bool { return w.serverSaw(mark) })
		w.ok(c.PgConn().CancelRequest(t.Context()))
		if err := <-failed; sqlstate(err) != "57014" {
			t.Errorf("%s: a cancelled statement: %v", version, err)
		}
		cancel()
		w.ok(c.Close(t.Context()))
	}
}

func TestARevokedKeyReachesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	urls, _ := w.localEnds("orders=postgres://" + w.listen)
	c, err := pgx.Connect(t.Context(), urls["orders"])
	w.ok(err)
	var keys []struct{ Credential, ID, Agent string }
	w.ok(json.Unmarshal([]byte(w.must("credential", "list", "--agent", "bot", "--json")), &keys))
	w.must("credential", "revoke", keys[0].ID, "--reason", "lost")
	w.until(60*time.Second, "the session ends", func() bool { return c.Ping(t.Context()) != nil })
	if out, err := w.run("psql", "-X", "-w", urls["orders"], "-c", "select 1"); err == nil || !strings.Contains(out, "authentication failed") {
		t.Errorf("with the token that was issued before: %v\n%s", err, out)
	}
	if out, err := w.exhibit("connect", "--key", w.path("bot.key"), "orders=postgres://"+w.listen); err == nil || !strings.Contains(out, "the agent has no token") {
		t.Errorf("for a new one: %v\n%s", err, out)
	}
}

func TestAnImpostorGetsNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.encrypted()
	other := newAuthority(t, w.path("other"))
	urls, _ := w.localEnds("--ca", other.path("ca.pem"), "orders=postgres://"+w.listen)
	out, err := w.run("psql", "-X", "-w", urls["orders"], "-c", "select 1")
	if err == nil || !strings.Contains(out, "certificate does not prove who it is") || !strings.Contains(out, "HINT:") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAProgramIsGivenItsResources(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := w.encrypted()
	run := func(args ...string) (string, int) {
		t.Helper()
		out, err := w.exhibit(append([]string{"run", "--key", w.path("bot.key"), "--ca", ca, "orders=postgres://" + w.listen, "--"}, args...)...)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return out, exit.ExitCode()
		}
		w.ok(err)
		return out, 0
	}
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"1\n", 0, []string{"psql", "-X", "-Atc", "select 1"}},
		{"100\n", 0, []string{"sh", "-c", `psql -X -At "$DATABASE_URL" -c "select count(*) from t"`}},
		{"100\n", 0, []string{"sh", "-c", `env -u PGHOST psql -X -At "$ORDERS_DATABASE_URL" -c "select count(*) from t"`}},
		{"refused by the access gateway", 1, []string{"psql", "-X", "-c", "drop table t"}},
		{"refused by the access gateway", 3, []string{"sh", "-c", `echo 'drop table t;' | psql -X -v ON_ERROR_STOP=1`}},
		{"", 143, []string{"sh", "-c", "kill -TERM $$"}},
	} {
		if out, code := run(c.args...); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%q: exit code %d, want %d\n%s", c.args, code, c.code, out)
		}
	}
	out, err := w.exhibit("run", "--tcp", "--key", w.path("bot.key"), "--ca", ca, "orders=postgres://"+w.listen, "--",
		"pgbench", "-n", "-c", "4", "-t", "25", "-f", w.script("select v from t where id = 7;"))
	if err != nil || !strings.Contains(out, "100/100") {
		t.Errorf("pgbench: %v\n%s", err, out)
	}
	w.passes()
}

// script writes a script for pgbench.
func (w *world) script(text string) string {
	w.t.Helper()
	w.ok(os.WriteFile(w.path("script.sql"), []byte(text+"\n"), 0o600))
	return w.path("script.sql")
}

// The services behind a gateway are reached by clients that know of no token.
func TestServicesNeedNoCredential(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	urls, _ := s.localEnds("site=http://"+s.web+"/site", "orders=postgres://"+s.listen)
	for name, args := range map[string][]string{
		"HTTP/1.1":                 {"--http1.1"},
		"HTTP/2":                   {"--http2-prior-knowledge"},
		"with an authorization":    {"-H", "Authorization: Bearer stolen"},
		"in the name of a gateway": {"-H", "X-Forwarded-For: 10.0.0.1"},
	} {
		out, err := s.run(append([]string{"curl", "-s", "-w", "\n%{http_code}", urls["site"] + "/echo/7?q=1"}, args...)...)
		if err != nil || !strings.Contains(out, "/api/echo/7?q=1") || !strings.HasSuffix(out, "\n200") || strings.Contains(out, "stolen") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	out, err := s.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", urls["site"]+"/files/large")
	if err != nil || out != fmt.Sprintf("200 %d", 16<<20) {
		t.Errorf("a large answer: %v, %s", err, out)
	}
	// What the gateway refuses, it refuses itself.
	out, err = s.run("curl", "-s", "-w", "\n%{http_code}", "-X", "DELETE", urls["site"]+"/echo/7")
	if err != nil || !strings.HasSuffix(out, "\n403") {
		t.Errorf("a forbidden request: %v\n%s", err, out)
	}
	// And a program finds them in its environment.
	out, err = s.exhibit("run", "--key", s.path("bot.key"), "site=http://"+s.web+"/site", "orders=postgres://"+s.listen, "--",
		"sh", "-c", `curl -s "$SITE_URL/echo/8" && psql -X -Atc "select count(*) from t"`)
	if err != nil || !strings.Contains(out, "/api/echo/8") || !strings.HasSuffix(out, "100\n") {
		t.Errorf("in a program: %v\n%s", err, out)
	}
	s.passes()
}
