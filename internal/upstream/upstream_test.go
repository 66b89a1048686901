package upstream_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/upstream"
)

func TestPasswordIsReadAgainWhenItsFileChanges(t *testing.T) {
	name := filepath.Join(t.TempDir(), "password")
	target, err := upstream.New(upstream.Config{
		Address: "127.0.0.1:5432", Database: "app", User: "gateway", Password: upstream.Secret{File: name},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "other", "third one"} { // two of equal length
		if err := os.WriteFile(name, []byte(want+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			up, err := target.Upstream()
			if err != nil {
				t.Fatal(err)
			}
			if up.Password != want || up.User != "gateway" || up.Database != "app" || up.TLS != nil {
				t.Errorf("upstream is %+v, want the password %q and no TLS", up, want)
			}
		}
	}
}

func TestOldFileIsReadOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	target, err := upstream.New(upstream.Config{Address: "/run/s", Password: upstream.Secret{File: name}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.Upstream(); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := target.Upstream(); err != nil {
			t.Fatal(err)
		}
	}); n > 6 {
		t.Errorf("%v allocations for a file that hasn't changed", n)
	}
}

func TestPasswordFromTheEnvironment(t *testing.T) {
	t.Setenv("EXHIBIT_TEST_PASSWORD", "from env")
	target, err := upstream.New(upstream.Config{Address: "/run/s", Password: upstream.Secret{Env: "EXHIBIT_TEST_PASSWORD"}})
	if err != nil {
		t.Fatal(err)
	}
	up, err := target.Upstream()
	if err != nil || up.Password != "from env" {
		t.Errorf("password is %q, %v", up.Password, err)
	}
}

func TestErrorsNameThePlaceAndNotTheSecret(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, []byte(strings.Repeat("secret", 1<<18)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]upstream.Config{
		"no such file":        {Address: "/run/s", Password: upstream.Secret{File: filepath.Join(dir, "none")}},
		"no such variable":    {Address: "/run/s", Password: upstream.Secret{Env: "EXHIBIT_TEST_NONE"}},
		"file too large":      {Address: "/run/s", Password: upstream.Secret{File: huge}},
		"no such authorities": {Address: "db:1", TLS: upstream.TLS{CA: filepath.Join(dir, "none")}},
		"no certificate":      {Address: "db:1", TLS: upstream.TLS{CA: huge}},
	} {
		target, err := upstream.New(cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		up, err := target.Upstream()
		if err == nil || strings.Contains(err.Error(), "secret") || up.Password != "" {
			t.Errorf("%s: %v, %+v", name, err, up)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, cfg := range map[string]upstream.Config{
		"no port":           {Address: "db"},
		"no address":        {},
		"no host":           {Address: ":5432"},
		"unverified":        {Address: "db:1", TLS: upstream.TLS{Mode: "require"}},
		"TLS on a socket":   {Address: "/run/s", TLS: upstream.TLS{Mode: upstream.VerifyFull}},
		"password in two":   {Address: "db:1", Password: upstream.Secret{File: "a", Env: "B"}},
		"misspelled socket": {Address: "run/s"},
		"cert without key":  {Address: "db:1", TLS: upstream.TLS{Cert: "a"}},
		"key without cert":  {Address: "db:1", TLS: upstream.TLS{Key: "a"}},
		"plain and cert":    {Address: "127.0.0.1:1", TLS: upstream.TLS{Cert: "a", Key: "b"}},
		"plain and direct":  {Address: "/run/s", TLS: upstream.TLS{Direct: true}},
		"plain and bound":   {Address: "localhost:1", TLS: upstream.TLS{Bound: true}},
	} {
		if _, err := upstream.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTLSDefaultsToFullVerificationOffLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"db.example.com:5432": true, "10.0.0.1:5432": true, "127.0.0.1:5432": false, "[::1]:5432": false,
		"localhost:5432": false, "/run/postgresql/.s.PGSQL.5432": false,
	} {
		target, err := upstream.New(upstream.Config{Address: address})
		if err != nil {
			t.Fatal(err)
		}
		up, err := target.Upstream()
		if err != nil {
			t.Fatal(err)
		}
		if (up.TLS != nil) != want || want && up.TLS.InsecureSkipVerify {
			t.Errorf("%s: TLS is %v", address, up.TLS)
		}
	}
}

// TestTLSModesVerify shakes hands with a server whose certificate says
// "right.test".
func TestTLSModesVerify(t *testing.T) {
	server, ca := authority(t)
	_, otherCA := authority(t)
	for _, c := range []struct {
		mode, name, ca string
		ok             bool
	}{
		{upstream.VerifyFull, "right.test", ca, true},
		{upstream.VerifyFull, "wrong.test", ca, false},
		{upstream.VerifyFull, "right.test", otherCA, false},
		{upstream.VerifyFull, "right.test", "", false},
		{upstream.VerifyCA, "wrong.test", ca, true},
		{upstream.VerifyCA, "right.test", otherCA, false},
		{upstream.VerifyCA, "right.test", "", false},
	} {
		target, err := upstream.New(upstream.Config{
			Address: "127.0.0.1:5432", TLS: upstream.TLS{Mode: c.mode, CA: c.ca, ServerName: c.name},
		})
		if err != nil {
			t.Fatal(err)
		}
		up, err := target.Upstream()
		if err != nil {
			t.Fatal(err)
		}
		again, err := target.Upstream()
		if err != nil || c.ca == "" && again.TLS != up.TLS {
			t.Errorf("the TLS configuration isn't shared: %v", err)
		}
		if err := handshake(t, server, up.TLS); (err == nil) != c.ok {
			t.Errorf("%s for %s: %v", c.mode, c.name, err)
		}
	}
}

// TestWhatTLSNeedsIsReadAgainWhenItChanges: and what can't be used any more
// isn't used, rather than what was there before it.
func TestWhatTLSNeedsIsReadAgainWhenItChanges(t *testing.T) {
	_, ca := authority(t)
	cert, key := clientPair(t)
	target, err := upstream.New(upstream.Config{
		Address: "127.0.0.1:5432", TLS: upstream.TLS{Mode: upstream.VerifyFull, CA: ca, Cert: cert, Key: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	serial := func() []byte {
		t.Helper()
		up, err := target.Upstream()
		if err != nil {
			t.Fatal(err)
		}
		return up.TLS.Certificates[0].Certificate[0]
	}
	first := serial()
	replace := func(name, by string) {
		t.Helper()
		if err := os.Rename(by, name); err != nil {
			t.Fatal(err)
		}
	}
	newCert, newKey := clientPair(t)
	replace(key, newKey)
	for range 2 { // the certificate isn't of this key
		if _, err := target.Upstream(); err == nil {
			t.Error("a certificate is used with another's key")
		}
	}
	replace(cert, newCert)
	if bytes.Equal(serial(), first) {
		t.Error("the new certificate isn't used")
	}
	if err := os.WriteFile(ca, []byte("not a certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := target.Upstream(); err == nil {
			t.Error("an authority is trusted that is no longer there")
		}
	}
}

// clientPair writes a certificate and its key.
func clientPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func handshake(t *testing.T, server *tls.Config, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, c) // shakes hands
			c.Close()
		}
	}()
	d := tls.Dialer{Config: client}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err == nil {
		c.Close()
	}
	<-done
	return err
}

// authority returns a server's configuration and the file of its authority.
func authority(t *testing.T) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"right.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, name
}
