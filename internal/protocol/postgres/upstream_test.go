package postgres_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
	"github.com/exhibit-gateway/exhibit/internal/upstream"
)

// castle is a server that asks each account for another proof.
type castle struct {
	*pgserver.Server
	dir string // of certificates, and of the unix socket
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

const castlePassword = "castle-secret-81ac"

// startCastle starts one; major is the version of its server, if it is to be a
// certain one.
func startCastle(t *testing.T, major string) *castle {
	t.Helper()
	dir, err := os.MkdirTemp("", "exhibit-castle-") //nolint:usetesting // the server runs as another user, whom t.TempDir keeps out
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { // the server makes its socket here
		t.Fatal(err)
	}
	c := &castle{dir: dir}
	c.ca, c.key = c.issue(t, "ca", nil)
	c.issue(t, "server", nil)
	c.issue(t, "account", nil)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	hba := strings.ReplaceAll(`
host    all       postgres  127.0.0.1/32  scram-sha-256
host    all       scram     127.0.0.1/32  scram-sha-256
host    all       md5       127.0.0.1/32  md5
host    all       clear     127.0.0.1/32  password
hostssl all       bound     127.0.0.1/32  scram-sha-256
hostssl all       account   127.0.0.1/32  cert
hostssl all       twofold   127.0.0.1/32  scram-sha-256 clientcert=verify-ca
local   all       ME                      peer
local   all       scram                   scram-sha-256
`, "ME", me.Username)
	if err := os.WriteFile(filepath.Join(dir, "hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Server, err = pgserver.StartVersion(t.Context(), major, filepath.Join(dir, "server"),
		"hba_file="+c.path("hba.conf"), "unix_socket_directories="+dir, "ssl=on", "log_connections=on",
		"ssl_cert_file="+c.path("server.pem"), "ssl_key_file="+c.path("server.key"), "ssl_ca_file="+c.path("ca.pem"))
	missing(t, err)
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	statements := []string{"create database app", "set password_encryption = 'md5'", "create role md5 login password '" + castlePassword + "'",
		"set password_encryption = 'scram-sha-256'", "create role account login"}
	for _, role := range []string{"scram", "clear", "bound", "twofold"} {
		statements = append(statements, "create role "+role+" login password '"+castlePassword+"'")
	}
	if me.Username != "postgres" {
		statements = append(statements, `create role "`+me.Username+`" login`)
	}
	if err := c.Exec(t.Context(), "postgres", statements...); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *castle) path(name string) string { return filepath.Join(c.dir, name) }

func (c *castle) socket() string {
	_, port, _ := strings.Cut(c.Addr, ":")
	return c.path(".s.PGSQL." + port)
}

// issue writes NAME.pem and NAME.key, which the server may read.
func (c *castle) issue(t *testing.T, name string, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: c.ca == nil, BasicConstraintsValid: true,
	}
	if change != nil {
		change(cert)
	}
	parent, signer := c.ca, c.key
	if parent == nil {
		parent, signer = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(c.path(name+".pem"), pemOf(der), 0o644),
		os.WriteFile(c.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 && name == "server" {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(c.path("server.key"), uid, gid)); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key
}

// target is where the gateway reaches the server as an account.
func (c *castle) target(account string, change func(*upstream.Config)) upstream.Config {
	cfg := upstream.Config{
		Address: c.Addr, Database: "app", User: account, Password: upstream.Secret{File: c.path("password")},
		TLS: upstream.TLS{Mode: upstream.VerifyFull, CA: c.path("ca.pem")},
	}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// startGatewayAt serves in front of what cfg leads to.
func (c *castle) startGatewayAt(t *testing.T, cfg upstream.Config) *gateway {
	t.Helper()
	if err := os.WriteFile(c.path("password"), []byte(castlePassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := upstream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	up, err := target.Upstream()
	if err != nil {
		t.Fatal(err)
	}
	return startGatewayTo(t, up, postgres.Config{})
}

// logged is what the server's log has gained since.
func (c *castle) logged(t *testing.T, since int) string {
	t.Helper()
	b, err := os.ReadFile(c.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[since:])
}

// plain is no TLS.
func plain(c *upstream.Config) { c.TLS = upstream.TLS{} }

func TestProofsThatServersAskFor(t *testing.T) {
	t.Parallel()
	c := startCastle(t, "")
	c.issue(t, "stranger", nil)
	client := func(name string) func(*upstream.Config) {
		return func(cfg *upstream.Config) { cfg.TLS.Cert, cfg.TLS.Key = c.path(name+".pem"), c.path(name+".key") }
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		account string
		change  func(*upstream.Config)
		method  string // that the server says it was; "" is that it lets nobody in
		tls     bool
	}{
		"md5":                             {"md5", nil, "md5", true},
		"md5, plain":                      {"md5", plain, "md5", false},
		"SCRAM":                           {"scram", nil, "scram-sha-256", true},
		"SCRAM, plain":                    {"scram", plain, "scram-sha-256", false},
		"in the clear, by TLS":            {"clear", nil, "password", true},
		"in the clear, plain":             {"clear", plain, "", false},
		"SCRAM bound to the channel":      {"bound", func(cfg *upstream.Config) { cfg.TLS.Bound = true }, "scram-sha-256", true},
		"md5 where binding is required":   {"md5", func(cfg *upstream.Config) { cfg.TLS.Bound = true }, "", false},
		"no TLS where it is due":          {"bound", plain, "", false},
		"certificate":                     {"account", client("account"), "cert", true},
		"none where one is due":           {"account", nil, "", false},
		"another's certificate":           {"account", client("stranger"), "", false},
		"certificate and password":        {"twofold", client("account"), "scram-sha-256", true},
		"password alone, where both are":  {"twofold", nil, "", false},
		"verify-ca, under another name":   {"scram", func(cfg *upstream.Config) { cfg.TLS.Mode, cfg.TLS.ServerName = upstream.VerifyCA, "x.test" }, "scram-sha-256", true},
		"verify-full, under another name": {"scram", func(cfg *upstream.Config) { cfg.TLS.ServerName = "x.test" }, "", false},
		"peer, by socket":                 {me.Username, func(cfg *upstream.Config) { plain(cfg); cfg.Address, cfg.Password = c.socket(), upstream.Secret{} }, "peer", false},
		"SCRAM, by socket":                {"scram", func(cfg *upstream.Config) { plain(cfg); cfg.Address = c.socket() }, "scram-sha-256", false},
		"3.2 of the protocol":             {"scram", func(cfg *upstream.Config) { cfg.Version = "3.2" }, "scram-sha-256", true},
	} {
		t.Run(name, func(t *testing.T) {
			g := c.startGatewayAt(t, c.target(tc.account, tc.change))
			since := len(c.logged(t, 0))
			out, err := g.psql(t, "-c", "select current_user, (select ssl from pg_stat_ssl where pid = pg_backend_pid())")
			if tc.method == "" {
				if err == nil || !strings.Contains(out, "cannot be reached") || strings.Contains(out, castlePassword) {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			if want := tc.account + "|" + map[bool]string{true: "t", false: "f"}[tc.tls]; err != nil || strings.TrimSpace(out) != want {
				t.Fatalf("%v: %q, want %q", err, out, want)
			}
			if log := c.logged(t, since); !strings.Contains(log, "method="+tc.method) {
				t.Errorf("the server logged\n%s, want method %s", log, tc.method)
			}
			if b := g.last(t).Connection(); (b.TLS != "") != tc.tls || (b.Peer != "") != tc.tls {
				t.Errorf("recorded %+v", b)
			}
		})
	}
}

// relay ends TLS before the server with a certificate, begins it anew behind,
// and remembers what the client said.
func (c *castle) relay(t *testing.T, name string) (address string, said func() string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.path(name+".pem"), c.path(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard bytes.Buffer
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	roots := x509.NewCertPool()
	roots.AddCert(c.ca)
	serve := func(in net.Conn) error {
		defer in.Close()
		out, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.Addr)
		if err != nil {
			return err
		}
		defer out.Close()
		request := make([]byte, 8)
		if _, err := io.ReadFull(in, request); err != nil {
			return err
		}
		answer := make([]byte, 1)
		if _, err := out.Write(request); err != nil {
			return err
		}
		if _, err := io.ReadFull(out, answer); err != nil {
			return err
		}
		if _, err := in.Write(answer); err != nil {
			return err
		}
		inner, outer := tls.Server(in, &tls.Config{Certificates: []tls.Certificate{pair}}), tls.Client(out, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		wg.Go(func() { _, _ = io.Copy(inner, outer); inner.Close() })
		_, err = io.Copy(outer, io.TeeReader(inner, writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return heard.Write(b)
		})))
		return err
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = serve(in) })
		}
	})
	return l.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return heard.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestTheLoginIsBoundToTheChannel(t *testing.T) {
	t.Parallel()
	c := startCastle(t, "")
	// The relay has the server's own certificate, so that binding to it holds,
	// and sees how the gateway logs in.
	address, said := c.relay(t, "server")
	g := c.startGatewayAt(t, c.target("bound", func(cfg *upstream.Config) { cfg.Address = address }))
	if out, err := g.psql(t, "-c", "select 1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s := said(); !strings.Contains(s, "SCRAM-SHA-256-PLUS\x00") || !strings.Contains(s, "p=tls-server-end-point,,") {
		t.Errorf("the gateway logged in by %q", s)
	}
	// An impostor may have a certificate of the right authority and relay all.
	c.issue(t, "impostor", nil)
	address, said = c.relay(t, "impostor")
	g = c.startGatewayAt(t, c.target("bound", func(cfg *upstream.Config) { cfg.Address = address }))
	if out, err := g.psql(t, "-c", "select 1"); err == nil || !strings.Contains(out, "cannot be reached") {
		t.Errorf("an impostor: %v\n%s", err, out)
	}
	if s := said(); !strings.Contains(s, "SCRAM-SHA-256-PLUS\x00") || strings.Contains(s, castlePassword) {
		t.Errorf("the gateway told the impostor %q", s)
	}
}

func TestCancelReachesTheServerByEveryWay(t *testing.T) {
	t.Parallel()
	c := startCastle(t, "")
	for name, change := range map[string]func(*upstream.Config){
		"plain":          plain,
		"TLS":            nil,
		"socket":         func(cfg *upstream.Config) { plain(cfg); cfg.Address = c.socket() },
		"3.2, by TLS":    func(cfg *upstream.Config) { cfg.Version = "3.2" },
		"3.2, by socket": func(cfg *upstream.Config) { plain(cfg); cfg.Address, cfg.Version = c.socket(), "3.2" },
	} {
		t.Run(name, func(t *testing.T) {
			g := c.startGatewayAt(t, c.target("scram", change))
			cancelsASleep(t, g, g.connect(t))
		})
	}
}

func TestDirectTLSAndLongCancelKeysOfAServer(t *testing.T) {
	t.Parallel()
	c := startCastle(t, "18")
	for _, version := range []string{"3.0", "3.2"} {
		g := c.startGatewayAt(t, c.target("bound", func(cfg *upstream.Config) { cfg.TLS.Direct, cfg.TLS.Bound, cfg.Version = true, true, version }))
		conn := g.connect(t)
		var secure bool
		if err := conn.QueryRow(t.Context(), "select ssl from pg_stat_ssl where pid = pg_backend_pid()").Scan(&secure); err != nil || !secure {
			t.Errorf("%v, TLS is %v", err, secure)
		}
		cancelsASleep(t, g, conn)
		key := 8
		if version == "3.2" {
			key = 4 + 32
		}
		notes := g.last(t).Notes()
		if n := notes[len(notes)-2]; n.Bytes != 8+key {
			t.Errorf("%s: the cancel request has %d bytes, want %d", version, n.Bytes, 8+key)
		}
	}
}

// A gateway before a gateway: it speaks as new a protocol as any server.
func TestDirectTLSWithTheUpstream(t *testing.T) {
	leg, client := testTLS(t)
	behind := startGateway(t, startServer(t), postgres.Config{TLS: leg})
	for _, version := range []string{"3.0", "3.2"} {
		g := startGatewayTo(t, protocol.Upstream{
			Address: behind.address, Database: "app", User: "agent-1", Password: prototest.Token, TLS: client, Direct: true, Version: version,
		}, postgres.Config{})
		c := g.connect(t)
		logins, _ := behind.Opened()
		if l := logins[len(logins)-1]; l.TLS == nil || l.TLS.NegotiatedProtocol != "postgresql" {
			t.Errorf("the server saw %+v", l)
		}
		cancelsASleep(t, g, c)
		behind.last(t)
	}
}

// A server that takes TLS for another protocol's gets no word of ours.
func TestDirectTLSWithAnotherProtocolsServer(t *testing.T) {
	leg, client := testTLS(t)
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", withALPN(leg, protocols...))
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				heard <- ""
				return
			}
			defer c.Close()
			b, _ := io.ReadAll(c)
			heard <- string(b)
		}()
		g := startGatewayTo(t, protocol.Upstream{
			Address: l.Addr().String(), Database: "app", User: "gateway", Password: "secret", TLS: client, Direct: true,
		}, postgres.Config{})
		if out, err := g.psql(t, "-c", "select 1"); err == nil || !strings.Contains(out, "cannot be reached") {
			t.Errorf("%v\n%s", err, out)
		}
		l.Close()
		if s := <-heard; s != "" {
			t.Errorf("it heard %q", s)
		}
	}
}

// An agent's cancel request comes by every way that its connection may.
func TestCancelComesByEveryWay(t *testing.T) {
	server, client := testTLS(t)
	s := startServer(t)
	inClear, overTLS := startGateway(t, s, postgres.Config{}), startGateway(t, s, postgres.Config{TLS: server})
	newest := func(c *pgx.ConnConfig) { c.MaxProtocolVersion = "3.2" }
	for name, c := range map[string]struct {
		g      *gateway
		client *tls.Config
		change func(*pgx.ConnConfig)
	}{
		"plain":           {inClear, nil, nil},
		"plain, 3.2":      {inClear, nil, newest},
		"TLS":             {overTLS, client, nil},
		"TLS, 3.2":        {overTLS, client, newest},
		"direct TLS":      {overTLS, withALPN(client, "postgresql"), direct},
		"direct TLS, 3.2": {overTLS, withALPN(client, "postgresql"), func(c *pgx.ConnConfig) { direct(c); newest(c) }},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := c.g.connectTLS(c.client, c.change)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			if n, long := len(conn.PgConn().SecretKey()), strings.Contains(name, "3.2"); n != 4 && !long || n != 32 && long {
				t.Errorf("the secret of the cancel key has %d bytes", n)
			}
			cancelsASleep(t, c.g, conn)
		})
	}
}

// cancelsASleep cancels a command of an agent's as its client does.
func cancelsASleep(t *testing.T, g *gateway, c *pgx.Conn) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, "select pg_sleep(60)")
		done <- err
	}()
	for err := error(nil); err == nil; {
		if err := c.PgConn().CancelRequest(ctx); err != nil { // before the command has begun, it does nothing
			t.Fatal(err)
		}
		select {
		case err = <-done:
			if code(err) != "57014" {
				t.Fatalf("the command: %v", err)
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.Close(ctx)
	notes := g.last(t).Notes()
	if n := notes[len(notes)-2]; n.Kind != "cancel" || n.Gateway {
		t.Errorf("the cancel is not on record: %+v", notes)
	}
}
