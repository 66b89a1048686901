package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

func TestStartupParameters(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for params, want := range map[string]string{
		"application_name=me&search_path=a,b&statement_timeout=1000": "",
		"options=-c%20statement_timeout%3D5s%20--work-mem%3D8MB":     "",
		"client_encoding=utf-8&timezone=UTC&extra_float_digits=2":    "",
		"client_encoding=LATIN1":                                     "22023",
		"role=gateway":                                               "42501",
		"session_authorization=gateway":                              "42501",
		"options=-c%20role%3Dgateway":                                "42501",
		"options=-c%20session_preload_libraries%3Dx":                 "42501",
		"options=-B":                           "08P01",
		"standard_conforming_strings=off":      "42501",
		"log_statement=none":                   "42501",
		"replication=database":                 "0A000",
		"replication=DATABASE":                 "0A000",
		"replication=1":                        "0A000",
		"replication=t":                        "0A000",
		"replication=yes":                      "0A000",
		"replication=%20on":                    "0A000",
		"replication=":                         "0A000",
		"Replication=true":                     "0A000",
		"replication=off":                      "",
		"options=-c%20replication%3Ddatabase":  "0A000",
		"options=-creplication%3Dtrue":         "0A000",
		"options=--replication%3Dtrue":         "0A000",
		"options=-c%20Replication%3D1":         "0A000",
		"options=%2Dc%20replic%5Cation%3Dtrue": "0A000",
		"options=-c%20user%3Dgateway":          "42501",
		"options=-c%20_pq_.x%3D1":              "42501",
	} {
		c, err := pgx.Connect(t.Context(), g.url()+"&"+params)
		if got := code(err); err != nil && got != want || err == nil && want != "" {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
		if err == nil {
			c.Close(t.Context())
		}
	}
	c, err := pgx.Connect(t.Context(), g.url()+"&search_path=a,b&options=-c%20statement_timeout%3D5s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var path, timeout string
	if err := c.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('statement_timeout')").Scan(&path, &timeout); err != nil {
		t.Fatal(err)
	}
	if path != "a,b" || timeout != "5s" {
		t.Errorf("search_path is %q, statement_timeout %q", path, timeout)
	}
}

// startupPacket is a packet of the startup phase.
func startupPacket(code uint32, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	b = binary.BigEndian.AppendUint32(b, code)
	return append(b, rest...)
}

func TestRequestsBeforeTheStartup(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := &raw{t: t, conn: c}
	for _, request := range []uint32{80877104, 80877103} { // GSSENCRequest, SSLRequest
		f.bytes(startupPacket(request, "")...).send()
		var answer [1]byte
		if _, err := c.Read(answer[:]); err != nil || answer[0] != 'N' {
			t.Fatalf("answer is %q, %v", answer, err)
		}
	}
	// A version of the future, with an option of the future.
	f.bytes(startupPacket(3<<16|9999, "user\x00agent-1\x00database\x00app\x00_pq_.future\x00x\x00\x00")...).send()
	f.expect("v")
	if want := "\x00\x03\x00\x02\x00\x00\x00\x01_pq_.future\x00"; string(f.last) != want {
		t.Errorf("NegotiateProtocolVersion is %q, want %q", f.last, want)
	}
	f.expect("R")
	f.bytes([]byte("p\x00\x00\x00\x1bprototest-token-9f31c2\x00")...).send()
	for {
		m := f.receive()
		if m == 'K' && len(f.last) != 4+32 {
			t.Errorf("the cancel key of protocol 3.2 has %d bytes", len(f.last)-4)
		}
		if m == 'Z' {
			break
		}
		if m == 0 || m == 'E' {
			t.Fatalf("received %q %q", m, f.last)
		}
	}
	f.terminate()
	g.last(t)
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Login: time.Second}})
	for name, b := range map[string][]byte{
		"HTTP":            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"protocol 2":      startupPacket(2<<16, "user\x00a\x00\x00"),
		"no user":         startupPacket(3<<16, "database\x00a\x00\x00"),
		"no end":          startupPacket(3<<16, "user\x00a"),
		"after the end":   startupPacket(3<<16, "user\x00a\x00\x00more"),
		"too long":        {0, 0, 255, 255, 0, 3, 0, 0},
		"half a packet":   {0, 0, 0, 50, 0, 3, 0, 0, 'u'}, // ended by the login's limit
		"unknown cancel":  startupPacket(80877102, "12345678"),
		"garbage in SSL":  append(startupPacket(80877103, ""), "user\x00"...),
		"a lone password": []byte("p\x00\x00\x00\x05x\x00"),
	} {
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var sink [512]byte
		for {
			if _, err = c.Read(sink[:]); err != nil {
				break
			}
		}
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		c.Close()
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// testTLS is a server's configuration and a client's that trusts it.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

func TestTLSWithTheAgent(t *testing.T) {
	server, client := testTLS(t)
	g := startGateway(t, startServer(t), postgres.Config{TLS: server})
	cfg, err := pgx.ParseConfig(g.url())
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLSConfig = client
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.QueryRow(t.Context(), "select 1").Scan(&n); err != nil || n != 1 {
		t.Errorf("%v, %d", err, n)
	}
	c.Close(t.Context())
	credentials, _ := g.Opened()
	if credentials[0].TLS == nil || credentials[0].User != "agent-1" {
		t.Errorf("credential is %+v", credentials[0])
	}
	g.last(t)
}

func TestUpstreamIsRecorded(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	c := g.connect(t)
	var pid uint32
	if err := c.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	var addr, start, system string
	if err := c.QueryRow(t.Context(), `select client_addr || ':' || client_port, to_char(backend_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
		(select system_identifier::text from pg_control_system()) from pg_stat_activity where pid = pg_backend_pid()`).Scan(&addr, &start, &system); err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	b := g.last(t).Connection()
	if b.PID != pid || strings.Replace(addr, "/32", "", 1) != b.Local || b.Start != start || b.System != system || b.Server == "" {
		t.Errorf("recorded %+v; the server says %d, %s, %s, %s", b, pid, addr, start, system)
	}
}

func TestUpstreamThatRefuses(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	g.Upstream.Password = "wrong-and-secret"
	_, err := pgx.Connect(t.Context(), g.url())
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != "08006" || strings.Contains(e.Message+e.Hint, "secret") || strings.Contains(e.Message, "gateway\"") {
		t.Errorf("the agent saw %v", err)
	}
	g.last(t)
}

// psql without a password hangs up when it is asked for one.
func TestHangingUpAtThePassword(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for range 3 {
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		m := pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "agent-1", "database": "db"}}
		b, err := m.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 9)); err != nil { // AuthenticationCleartextPassword
			t.Fatal(err)
		}
		c.Close()
	}
	g.connect(t).Close(t.Context())
	if n := len(g.Sessions()); n != 1 {
		t.Errorf("%d sessions, want that of the agent that came in", n)
	}
}

func TestPortCheck(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for range 3 {
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}
