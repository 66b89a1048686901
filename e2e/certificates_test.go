package e2e

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// certificate makes a client certificate of an agent's key, as the agent would.
func (w *world) certificate(agent string) (file string) {
	w.t.Helper()
	file = w.path(agent + ".crt")
	pem := w.must("certificate", "--key", w.path(agent+".key"))
	w.ok(os.WriteFile(file, []byte(pem), 0o600))
	return file
}

func TestAgentsLogInByCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.path("tls"))
	ca.issue("gateway", &x509.Certificate{})
	ca.issue("stranger", &x509.Certificate{})
	w.listenByTLS()
	host, port, err := net.SplitHostPort(w.listen)
	w.ok(err)
	psql := func(user, cert, key, password string, args ...string) (string, error) {
		at := fmt.Sprintf("host=%s port=%s user=%s dbname=orders sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s password='%s'",
			host, port, user, ca.path("ca.pem"), cert, key, password)
		return w.run(append([]string{"psql", "-X", "-w", at}, args...)...)
	}
	crt, key := w.certificate("bot"), w.path("bot.key")
	if out, err := psql("bot", crt, key, "", "-Atc", "select count(*) from t"); err != nil || !strings.Contains(out, "100") {
		t.Fatalf("by certificate: %v\n%s", err, out)
	}
	// A stranger's is as none.
	token := w.token("bot")
	if out, err := psql("bot", ca.path("stranger.pem"), ca.path("stranger.key"), token, "-Atc", "select 1"); err != nil {
		t.Errorf("a stranger's certificate and a token: %v\n%s", err, out)
	}
	if out, err := psql("bot", ca.path("stranger.pem"), ca.path("stranger.key"), "", "-Atc", "select 1"); err == nil || !strings.Contains(out, "no password supplied") {
		t.Errorf("a stranger's certificate alone: %v\n%s", err, out)
	}
	// Another agent's, and one of long ago, are refused and on record.
	if out, err := psql("idle", crt, key, w.token("idle"), "-Atc", "select 1"); err == nil || !strings.Contains(out, "authentication failed") {
		t.Errorf("another agent's certificate: %v\n%s", err, out)
	}
	short := w.path("short.crt")
	w.ok(os.WriteFile(short, []byte(w.must("certificate", "--key", key, "--expires", "1s")), 0o600))
	time.Sleep(1500 * time.Millisecond)
	if out, err := psql("bot", short, key, token, "-Atc", "select 1"); err == nil || !strings.Contains(out, "authentication failed") {
		t.Errorf("an expired certificate: %v\n%s", err, out)
	}
	// Revoking the key ends a session that rests on it.
	ended := make(chan string)
	go func() {
		out, _ := psql("bot", crt, key, "", "-c", "select 'under way'", "-c", "select pg_sleep(60)")
		ended <- out
	}()
	w.until(60*time.Second, "the session sleeps", func() bool { return w.serverSaw("pg_sleep(60)") })
	var keys []struct{ ID, Agent string }
	w.ok(json.Unmarshal([]byte(w.must("credential", "list", "--json")), &keys))
	for _, k := range keys {
		if k.Agent == "bot" {
			w.must("credential", "revoke", k.ID, "--reason", "lost")
		}
	}
	if out := <-ended; !strings.Contains(out, "its credential was revoked") {
		t.Errorf("the session of a revoked key ended with\n%s", out)
	}
	if out, err := psql("bot", crt, key, "", "-Atc", "select 1"); err == nil || !strings.Contains(out, "authentication failed") {
		t.Errorf("a revoked key: %v\n%s", err, out)
	}
	report, err := w.pack()
	if err != nil {
		t.Errorf("the pack does not pass: %v\n%s", err, report)
	}
	var ok, refused int
	for _, row := range w.table("authn") {
		if row["method"] != "certificate" {
			continue
		}
		switch row["outcome"] {
		case "ok":
			ok++
			if !strings.HasPrefix(row["cred_id"], "crt_") || row["key_thumbprint"] == "" || row["agent_id"] != "bot" {
				t.Errorf("a login by certificate is %v", row)
			}
		case "denied":
			refused++
		}
	}
	if ok != 2 || refused != 3 {
		t.Errorf("%d logins by certificate and %d refused ones are on record, want 2 and 3", ok, refused)
	}
}
