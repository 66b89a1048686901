package connect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// open opens and serves the local ends of resources until the test ends, and
// sees to it that nothing is left of them. It returns how to end them before.
func open(t *testing.T, c Config, resources ...string) (*Ends, func()) {
	t.Helper()
	before := runtime.NumGoroutine()
	for _, s := range resources {
		r, err := ParseResource(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Resources = append(c.Resources, r)
	}
	if c.Issuer == nil {
		c.Issuer = &mint{life: time.Hour}
	}
	c.Agent = "reporter"
	c.Log = slog.New(slog.NewTextHandler(&lines{t: t}, nil))
	ends, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ends.Serve(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("serving: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the ends don't end")
		}
	})
	t.Cleanup(func() {
		stop()
		settles(t, before)
	})
	return ends, stop
}

// settles waits until no more goroutines run than before.
func settles(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := make([]byte, 1<<20)
	t.Errorf("goroutines are left:\n%s", b[:runtime.Stack(b, true)])
}

// lines is the log; a secret in it fails the test.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "token-") {
		l.t.Errorf("a token is in the log: %s", b)
	}
	return len(b), nil
}

// dial connects a client to the first end.
func dial(t *testing.T, e *Ends) net.Conn {
	t.Helper()
	addr := e.List()[0].Addr
	c, err := net.Dial(addr.Network(), addr.String()) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// socketFolder is one whose path is short enough.
func socketFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "connect-") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// certificate makes a certificate for names, and the pool that trusts it.
func certificate(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestWithoutATokenNothingIsOpened(t *testing.T) {
	m := &mint{life: time.Hour}
	m.broken.Store(true)
	r, err := ParseResource("orders=postgres://127.0.0.1:1,0")
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	_, err = Open(t.Context(), Config{Agent: "reporter", Issuer: m, Resources: []Resource{r}})
	if err == nil || !strings.Contains(err.Error(), errMint.Reason) {
		t.Errorf("got %v", err)
	}
	settles(t, before)
}

func TestAnEndThatCantBeOpenedClosesTheOthers(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var c Config
	c.Issuer = &mint{life: time.Hour}
	folder := socketFolder(t)
	for _, s := range []string{"a=postgres://127.0.0.1:1," + folder, "b=postgres://127.0.0.1:1," + taken.Addr().String()} {
		r, err := ParseResource(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Resources = append(c.Resources, r)
	}
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "opening the local end") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(folder); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
