package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority issues certificates for 127.0.0.1 into a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.path(name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return parsed, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// listenByTLS restarts the gateway with the certificate in tls/gateway.pem.
func (w *world) listenByTLS() {
	w.t.Helper()
	w.edit(func(c string) string {
		return strings.Replace(c, "# tls: {cert: gateway.pem, key: gateway.key}", "tls: {cert: tls/gateway.pem, key: tls/gateway.key}", 1)
	})
	w.stop(syscall.SIGTERM)
	w.start()
}

func TestTLSOnBothLegs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.path("tls"))
	ca.issue("gateway", &x509.Certificate{})
	ca.issue("server", &x509.Certificate{})
	ca.issue("app", &x509.Certificate{})
	w.serverTLS(ca)
	w.edit(func(c string) string {
		c = strings.Replace(c, "# tls: {cert: gateway.pem, key: gateway.key}", "tls: {cert: tls/gateway.pem, key: tls/gateway.key}", 1)
		return strings.Replace(c, "# tls: {mode: verify-full, ca: upstream-ca.pem}", "tls: {mode: verify-full, ca: tls/ca.pem, cert: tls/app.pem, key: tls/app.key, channel_binding: require}", 1)
	})
	w.stop(15)
	w.start()
	if out, _ := w.exhibit("doctor"); !strings.Contains(out, "certificate for orders: it expires at") || !strings.Contains(out, "ok    resource orders:") {
		t.Errorf("doctor says\n%s", out)
	}
	url := w.url("bot", "sslmode=verify-full&sslrootcert="+ca.path("ca.pem"))
	out, err := w.run("psql", "-X", url, "-c", `\conninfo`, "-c", "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()")
	if err != nil || !strings.Contains(out, "SSL connection (protocol: TLSv1.3") || !strings.Contains(out, "t   | TLSv1.3") {
		t.Errorf("%v\n%s", err, out)
	}
	// A server whose certificate is another authority's gets no credential.
	other := newAuthority(t, w.path("other"))
	other.issue("server", &x509.Certificate{})
	w.serverTLS(other)
	if out, err := w.run("psql", "-X", url, "-c", "select 1"); err == nil || !strings.Contains(out, "cannot be reached") {
		t.Errorf("an impostor of the upstream: %v\n%s", err, out)
	}
	w.serverTLS(ca)
	var sessions struct {
		Columns []string
		Rows    [][]string
	}
	w.ok(json.Unmarshal([]byte(w.must("who", "orders", "--json")), &sessions))
	if len(sessions.Rows) != 2 {
		t.Errorf("%d sessions are on record, want both", len(sessions.Rows))
	}
	w.passes()
}

// serverTLS gives the server a certificate and makes it read it.
func (w *world) serverTLS(a *authority) {
	w.t.Helper()
	data := w.path("postgres/data")
	for _, f := range []string{"server.pem", "server.key"} {
		b, err := os.ReadFile(a.path(f))
		w.ok(err)
		name := filepath.Join(data, f)
		w.ok(os.RemoveAll(name))
		w.ok(os.WriteFile(name, b, 0o600))
		if os.Getuid() == 0 {
			u, err := user.Lookup("postgres")
			w.ok(err)
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			w.ok(os.Chown(name, uid, gid))
		}
	}
	w.ok(w.db.Exec(w.t.Context(), "postgres",
		"alter system set ssl_cert_file = 'server.pem'", "alter system set ssl_key_file = 'server.key'", "alter system set ssl = on",
		"select pg_reload_conf()", "select pg_sleep(0.3)"))
}
