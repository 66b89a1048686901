package e2e

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// newerLibpq is the environment in which the system's clients use the libpq of
// the newer PostgreSQL: it is compatible with theirs.
func newerLibpq(t *testing.T) []string {
	t.Helper()
	programs, err := pgserver.ProgramsOf(newer)
	missing(t, err)
	libraries := filepath.Join(programs, "lib")
	if _, err := os.Stat(filepath.Join(libraries, "libpq.so.5")); err != nil {
		t.Skipf("this PostgreSQL %s brings no libpq that the system's clients could be given: %v", newer, err)
	}
	return append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
}

// A newer libpq knows what older ones don't: TLS at once, protocol 3.2 with its
// long cancel keys, ways of login that it insists on.
func TestClientsWithANewerLibpq(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		env := newerLibpq(t)
		ca := newAuthority(t, w.path("tls"))
		ca.issue("gateway", &x509.Certificate{})
		w.listenByTLS()
		_, port, _ := strings.Cut(w.listen, ":")
		token := w.token("bot", "--ticket", "T-1")
		client := func(options string, args ...string) *exec.Cmd {
			at := "host=127.0.0.1 port=" + port + " user=bot dbname=orders sslmode=verify-full sslrootcert=" + ca.path("ca.pem") + " " + options
			cmd := exec.CommandContext(t.Context(), args[0], append(args[1:], at)...)
			cmd.Env = append(env, "PGPASSWORD="+token)
			return cmd
		}
		for options, want := range map[string]string{
			"sslnegotiation=direct": "row 7",
			"sslnegotiation=postgres ssl_min_protocol_version=TLSv1.3": "row 7",
			"min_protocol_version=3.2":                                 "row 7",
			"max_protocol_version=latest":                              "row 7",
			"max_protocol_version=3.0":                                 "row 7",
			"require_auth=password":                                    "row 7",
			"require_auth=scram-sha-256":                               "authentication method requirement",
			"require_auth=!password":                                   "authentication method requirement",
			"sslcertmode=require":                                      "accepted connection without a valid SSL certificate",
			"sslcertmode=disable":                                      "row 7",
			"load_balance_hosts=random":                                "row 7",
		} {
			out, err := client(options, "psql", "-X", "-c", "select v from t where id = 7", "-d").CombinedOutput()
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: %v\n%s", options, err, out)
			}
		}
		for _, mode := range []string{"simple", "extended", "prepared"} {
			out, err := client("sslnegotiation=direct min_protocol_version=3.2", "pgbench", "-n", "-M", mode, "-c", "4", "-t", "10", "-f", w.scriptOfReads()).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "40/40") {
				t.Errorf("pgbench %s: %v\n%s", mode, err, out)
			}
		}
		for _, version := range []string{"3.0", "3.2"} {
			statement := `select pg_sleep(600) as "by ` + version + `"`
			w.cancels(statement, client("min_protocol_version="+version+" max_protocol_version="+version, "psql", "-X", "-c", statement, "-d"))
		}
		w.passes()
	})
}

// cancels interrupts psql once its statement runs.
func (w *world) cancels(statement string, psql *exec.Cmd) {
	w.t.Helper()
	var said strings.Builder
	psql.Stdout, psql.Stderr = &said, &said
	w.ok(psql.Start())
	w.until(60*time.Second, statement+" runs", func() bool { return w.serverSaw(statement) })
	w.ok(psql.Process.Signal(syscall.SIGINT))
	ended := make(chan struct{})
	go func() { _ = psql.Wait(); close(ended) }() // what it said is looked at
	select {
	case <-ended:
	case <-time.After(60 * time.Second):
		w.t.Fatalf("%s is not cancelled", statement)
	}
	if !strings.Contains(said.String(), "canceling statement due to user request") {
		w.t.Errorf("%s ends with:\n%s", statement, said.String())
	}
}

// scriptOfReads is a script for pgbench.
func (w *world) scriptOfReads() string {
	w.t.Helper()
	script := w.path("reads.sql")
	w.ok(os.WriteFile(script, []byte("\\set id random(1, 100)\nselect v from t where id = :id;\n"), 0o644))
	return script
}
