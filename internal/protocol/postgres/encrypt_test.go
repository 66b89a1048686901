package postgres_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// connectTLS connects as an agent, with pgx over TLS.
func (g *gateway) connectTLS(client *tls.Config, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(g.url())
	if err != nil {
		return nil, err
	}
	cfg.TLSConfig = client
	if change != nil {
		change(cfg)
	}
	ctx, cancel := patience()
	defer cancel()
	return pgx.ConnectConfig(ctx, cfg)
}

func direct(c *pgx.ConnConfig) { c.SSLNegotiation = "direct" }

// withALPN is c with application protocols.
func withALPN(c *tls.Config, protocols ...string) *tls.Config {
	c = c.Clone()
	c.NextProtos = protocols
	return c
}

func TestDirectTLS(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	c, err := g.connectTLS(withALPN(client, "postgresql"), direct)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var n int
	if err := c.QueryRow(t.Context(), "select 1").Scan(&n); err != nil || n != 1 {
		t.Errorf("%v, %d", err, n)
	}
	if credentials, _ := g.Opened(); credentials[0].TLS == nil || credentials[0].TLS.NegotiatedProtocol != "postgresql" {
		t.Errorf("credential is %+v", credentials[0])
	}
	c.Close(t.Context())
	g.last(t)
}

func TestApplicationProtocolOfTLS(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	for name, c := range map[string]struct {
		protocols []string
		direct    bool
		ok        bool
	}{
		"direct":                 {[]string{"postgresql"}, true, true},
		"direct, among others":   {[]string{"http/1.1", "postgresql"}, true, true},
		"direct, without":        {nil, true, false},
		"direct, another":        {[]string{"http/1.1"}, true, false},
		"SSLRequest":             {[]string{"postgresql"}, false, true},
		"SSLRequest, without":    {nil, false, true}, // as libpq before 17
		"SSLRequest, another":    {[]string{"h2"}, false, false},
		"direct, another's name": {[]string{"PostgreSQL"}, true, false},
	} {
		conn, err := g.connectTLS(withALPN(client, c.protocols...), func(cfg *pgx.ConnConfig) {
			if c.direct {
				direct(cfg)
			}
		})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			conn.Close(t.Context())
		}
	}
}

func TestDirectTLSWhereThereIsNone(t *testing.T) {
	_, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{})
	if c, err := g.connectTLS(withALPN(client, "postgresql"), direct); err == nil {
		c.Close(t.Context())
		t.Error("a gateway without TLS let direct TLS in")
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	server, client := testTLS(t)
	server.MinVersion = tls.VersionTLS10 // not even when told so
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		old := withALPN(client, "postgresql")
		old.MinVersion, old.MaxVersion = version, version
		for _, how := range []func(*pgx.ConnConfig){nil, direct} {
			c, err := g.connectTLS(old, how)
			if (err == nil) != ok {
				t.Errorf("%s: %v", tls.VersionName(version), err)
			}
			if err == nil {
				c.Close(t.Context())
			}
		}
	}
}

// hostile dials the gateway, says something and no more, and returns all that
// is answered until the gateway closes the connection.
func (g *gateway) hostile(t *testing.T, say []byte) []byte {
	t.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(say); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite() // the gateway may have closed it
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("%q: the connection stays open", say)
	}
	return answer
}

// What comes in the clear behind an SSLRequest must not count as encrypted
// (CVE-2021-23214, CVE-2021-23222).
func TestNothingInTheClearCountsAsEncrypted(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	startup := startupPacket(3<<16, "user\x00agent-1\x00database\x00app\x00\x00")
	for name, say := range map[string][]byte{
		"a startup behind it":      append(startupPacket(80877103, ""), startup...),
		"within the request":       startupPacket(80877103, "user\x00"),
		"SSLRequest behind it":     append(startupPacket(80877103, ""), startupPacket(80877103, "")...),
		"GSSENCRequest behind it":  append(startupPacket(80877103, ""), startupPacket(80877104, "")...),
		"a cancel request, behind": append(startupPacket(80877103, ""), startupPacket(80877102, "12345678")...),
	} {
		// Beyond the S may come a TLS alert, and nothing else.
		if answer := g.hostile(t, say); len(answer) > 1 && answer[1] != 21 {
			t.Errorf("%s: answered with %q", name, answer)
		}
	}
	// The same startup with the handshake right behind it.
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(append(startupPacket(80877103, ""), startup...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(c, client).HandshakeContext(t.Context()); err == nil {
		t.Error("the handshake succeeded behind bytes in the clear")
	}
	if credentials, _ := g.Opened(); len(credentials) != 0 {
		t.Errorf("%d logins", len(credentials))
	}
}

func TestRequestsAreAnsweredOnce(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	ssl, gss := startupPacket(80877103, ""), startupPacket(80877104, "")
	for name, c := range map[string]struct {
		say  []byte
		want string
	}{
		"SSLRequest twice":    {append(append([]byte{}, ssl...), ssl...), "N"},
		"GSSENCRequest twice": {append(append([]byte{}, gss...), gss...), "N"},
		"one of each, twice":  {append(append(append([]byte{}, gss...), ssl...), gss...), "NN"},
	} {
		if answer := g.hostile(t, c.say); string(answer) != c.want {
			t.Errorf("%s: answered with %q, want %q", name, answer, c.want)
		}
	}
}

func TestSSLRequestWithinTLS(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	d := tls.Dialer{Config: withALPN(client, "postgresql")}
	c, err := d.DialContext(t.Context(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(startupPacket(80877103, "")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("an SSLRequest within TLS was answered")
	}
}

func TestStartupPacketsOfOddSizes(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for size := range uint32(12) {
		for _, code := range []byte{0, 3} {
			say := append([]byte{0, 0, 0, byte(size), 0, code, 0, 0}, make([]byte, 12)...)
			if answer := g.hostile(t, say[:max(4, size)]); len(answer) > 0 && answer[0] != 'E' {
				t.Errorf("a packet of %d bytes: answered with %q", size, answer)
			}
		}
	}
	for _, head := range []string{"\x7f\xff\xff\xff", "\xff\xff\xff\xff", "\x80\x00\x00\x00", "\x00\x00\x27\x15", "\x15\x03\x01\x00", "\x17\x03\x03\x00", "\x16\x03\x01\xff"} {
		if answer := g.hostile(t, []byte(head+"\x00\x03\x00\x00")); len(answer) > 0 {
			t.Errorf("a packet of %x bytes: answered with %q", head, answer)
		}
	}
	// The longest that is taken, and one byte more.
	for size, want := range map[int]byte{10004: 'E', 10005: 0} {
		const begin, end = "user\x00agent-1\x00database\x00app\x00x\x00", "\x00\x00"
		rest := begin + strings.Repeat("y", size-8-len(begin)-len(end)) + end
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		f := &raw{t: t, conn: c}
		f.bytes(startupPacket(3<<16, rest)...).send()
		got := f.receive()
		if got == 'R' {
			f.bytes([]byte("p\x00\x00\x00\x1bprototest-token-9f31c2\x00")...).send()
			got = f.receive()
		}
		if got != want {
			t.Errorf("a startup packet of %d bytes: %q, want %q", size, got, want)
		}
		c.Close()
	}
}

func TestPsqlVerifiesTheGateway(t *testing.T) {
	server, _ := testTLS(t)
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pemOf(server.Certificates[0].Certificate[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	for options, ok := range map[string]bool{
		"sslmode=verify-full sslrootcert=" + root:                                         true,
		"sslmode=verify-full sslrootcert=" + root + " channel_binding=disable":            true,
		"sslmode=verify-full sslrootcert=" + root + " channel_binding=prefer":             true,
		"sslmode=verify-full sslrootcert=" + root + " gssencmode=prefer":                  true,
		"sslmode=require channel_binding=require":                                         false,
		"sslmode=verify-full sslrootcert=/nonexistent":                                    false,
		"sslmode=require ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1": false,
	} {
		out, err := g.psqlOf(t, options, "-c", "select 1")
		if (err == nil) != ok {
			t.Errorf("%s: %v\n%s", options, err, out)
		}
		if strings.Contains(out, prototest.Token) {
			t.Errorf("%s: psql printed the token", options)
		}
	}
}

// certificate is a client's, with a key of its own.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestLoginByCertificate(t *testing.T) {
	server, client := testTLS(t)
	known, stranger := certificate(t), certificate(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	g.Certificate = func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, known.Certificate[0]) }
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		token       string
		method      string // of the login; "" is none
		code        string
	}{
		"known":                         {&known, "", "certificate", ""},
		"known, with a wrong token":     {&known, "wrong", "certificate", ""},
		"unknown, with a token":         {&stranger, prototest.Token, "token", ""},
		"unknown, with a wrong token":   {&stranger, "wrong", "token", "28P01"},
		"none, with a token":            {nil, prototest.Token, "token", ""},
		"unknown, without any password": {&stranger, "", "token", "28P01"},
	} {
		before, _ := g.Opened()
		with := client.Clone()
		if c.certificate != nil {
			with.Certificates = []tls.Certificate{*c.certificate}
		}
		conn, err := g.connectTLS(with, func(cfg *pgx.ConnConfig) { cfg.Password = c.token })
		if err != nil && code(err) != c.code || err == nil && c.code != "" {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		if err == nil {
			conn.Close(t.Context())
		}
		logins, _ := g.Opened()
		if len(logins) != len(before)+1 || logins[len(before)].Method != c.method {
			t.Errorf("%s: the logins are %+v", name, logins[len(before):])
		}
	}
}

// A certificate proves only what the handshake proves: that its key is held.
func TestACertificateWithoutItsKeyIsNoLogin(t *testing.T) {
	server, client := testTLS(t)
	known, other := certificate(t), certificate(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	g.Certificate = func(*x509.Certificate) bool { return true }
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		thief := client.Clone()
		thief.MinVersion, thief.MaxVersion = version, version
		thief.Certificates = []tls.Certificate{{Certificate: known.Certificate, PrivateKey: other.PrivateKey}}
		if c, err := g.connectTLS(thief, nil); err == nil {
			c.Close(t.Context())
			t.Errorf("%s: a stolen certificate let in", tls.VersionName(version))
		}
	}
	if logins, _ := g.Opened(); len(logins) != 0 {
		t.Errorf("%d logins", len(logins))
	}
}

// A login that stands still anywhere ends, and keeps nobody else out.
func TestLoginsThatStandStill(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server, Limits: postgres.Limits{Login: 3 * time.Second}})
	hello := clientHello(t, withALPN(client, "postgresql"))
	startup := startupPacket(3<<16, "user\x00agent-1\x00database\x00app\x00\x00")
	ssl := startupPacket(80877103, "")
	var stalled []net.Conn
	for _, say := range [][]byte{
		nil, {0}, startup[:7], startup[:20], startup, append(bytes.Clone(startup), "p\x00\x00\x00\x20half a password"...),
		ssl, append(bytes.Clone(ssl), hello[:1]...), append(bytes.Clone(ssl), hello[:100]...), append(bytes.Clone(ssl), hello...),
		hello[:1], hello[:5], hello[:100], hello,
	} {
		for range 10 {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(say); err != nil {
				t.Fatal(err)
			}
			stalled = append(stalled, c)
		}
	}
	c, err := g.connectTLS(client, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	for i, c := range stalled {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("login %d stands still for ever", i)
		}
	}
}

// clientHello is how a client begins a handshake.
func clientHello(t *testing.T, c *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() { _ = tls.Client(near, c).HandshakeContext(t.Context()) }() // it never gets an answer
	b := make([]byte, 4096)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// A server that takes connections and says nothing holds up one login, for a
// while.
func TestAServerThatSaysNothing(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := startGatewayTo(t, startServer(t).at(l.Addr().String()), postgres.Config{Limits: postgres.Limits{Login: 2 * time.Second}})
	start := time.Now()
	if out, err := g.psql(t, "-c", "select 1"); err == nil || !strings.Contains(out, "cannot be reached") || time.Since(start) > 15*time.Second {
		t.Errorf("after %v: %v\n%s", time.Since(start), err, out)
	}
	g.last(t)
}

// A server that announces a message of a gigabyte gets no memory for it.
func TestAServerThatSaysTooMuch(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("E\x3f\xff\xff\xffSFATAL\x00"))
		_, _ = io.Copy(io.Discard, c)
	}()
	g := startGatewayTo(t, startServer(t).at(l.Addr().String()), postgres.Config{Limits: postgres.Limits{Login: 30 * time.Second}})
	start := time.Now()
	out, err := g.psql(t, "-c", "select 1")
	if took := time.Since(start); err == nil || !strings.Contains(out, "cannot be reached") || took > 20*time.Second {
		t.Errorf("after %v: %v\n%s", took, err, out)
	}
	g.last(t)
}
