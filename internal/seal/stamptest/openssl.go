package stamptest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// OpenSSL is a time stamp authority that nobody here wrote: openssl ts behind a
// small HTTP server.
type OpenSSL struct {
	URL string
	CA  string // PEM file of its root

	t   testing.TB
	dir string
	mu  sync.Mutex // its file of serial numbers
}

const opensslConfig = `[tsa]
default_tsa = here
[here]
serial = serial
signer_cert = tsa.pem
certs = ca.pem
signer_key = tsa.key
signer_digest = %s
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.2
digests = sha256
accuracy = secs:1, millisecs:500
ess_cert_id_alg = %s
`

// NewOpenSSL starts one that ends with the test. Its key is made by openssl's
// arguments, for example -newkey rsa:2048; it signs with digest, and names its
// certificate by essDigest.
func NewOpenSSL(t testing.TB, digest, essDigest string, newkey ...string) *OpenSSL {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is missing; hint: scripts/setup.sh installs it")
		}
		t.Skip("openssl is missing; hint: scripts/setup.sh installs it")
	}
	o := &OpenSSL{t: t, dir: t.TempDir()}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tsa.cnf", fmt.Sprintf(opensslConfig, digest, essDigest))
	write("ext", "extendedKeyUsage = critical,timeStamping\nkeyUsage = digitalSignature\n")
	write("serial", "01\n")
	made := append([]string{"req", "-nodes"}, newkey...)
	o.run(append(made, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=openssl root", "-days", "3650")...)
	o.run(append(made, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=openssl TSA")...)
	o.run("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "7", "-extfile", "ext", "-days", "365", "-out", "tsa.pem")
	o.CA = filepath.Join(o.dir, "ca.pem")
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	o.URL = s.URL
	return o
}

func (o *OpenSSL) run(args ...string) {
	o.t.Helper()
	if out, err := o.exec(args...); err != nil {
		o.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (o *OpenSSL) exec(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(context.Background(), "openssl", args...)
	cmd.Dir = o.dir
	return cmd.CombinedOutput()
}

// ServeHTTP has openssl answer a request.
func (o *OpenSSL) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	request, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err == nil {
		err = os.WriteFile(filepath.Join(o.dir, "request.tsq"), request, 0o600)
	}
	if err == nil {
		_, err = o.exec("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "request.tsq", "-out", "reply.tsr")
	}
	reply, err2 := os.ReadFile(filepath.Join(o.dir, "reply.tsr"))
	if err != nil || err2 != nil {
		http.Error(w, "openssl does not answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(reply)
}

// Verifies reports whether openssl, too, finds that a token is of these bytes
// and of its own root.
func (o *OpenSSL) Verifies(token, stamped []byte, ca string) error {
	for name, b := range map[string][]byte{"check.tst": token, "check.data": stamped} {
		if err := os.WriteFile(filepath.Join(o.dir, name), b, 0o600); err != nil {
			return err
		}
	}
	out, err := o.exec("ts", "-verify", "-token_in", "-in", "check.tst", "-data", "check.data", "-CAfile", ca)
	if err != nil {
		return fmt.Errorf("openssl ts -verify: %w: %s", err, out)
	}
	return nil
}
