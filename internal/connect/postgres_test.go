package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// peer plays a gateway, one connection after the other.
type peer struct {
	t   *testing.T
	l   net.Listener
	tls *tls.Config // nil: it offers none
}

func newPeer(t *testing.T, config *tls.Config) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, l: l, tls: config}
}

func (p *peer) resource(local string) string {
	return "orders=postgres://" + p.l.Addr().String() + "," + local
}

// accept takes the next connection up to the packet that says what it wants.
func (p *peer) accept() (net.Conn, []byte) {
	p.t.Helper()
	c, err := p.l.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	p.ok(c.SetDeadline(time.Now().Add(20 * time.Second)))
	packet, err := readPacket(c)
	p.ok(err)
	if codeOf(packet) != sslRequest {
		p.t.Fatalf("no SSLRequest but %q", packet)
	}
	if p.tls == nil {
		_, err = c.Write([]byte{'N'})
	} else {
		_, err = c.Write([]byte{'S'})
		c = tls.Server(c, p.tls)
	}
	p.ok(err)
	packet, err = readPacket(c)
	p.ok(err)
	return c, packet
}

func (p *peer) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) say(c net.Conn, messages ...pgproto3.BackendMessage) (sent []byte) {
	p.t.Helper()
	for _, m := range messages {
		var err error
		sent, err = m.Encode(sent)
		p.ok(err)
	}
	_, err := c.Write(sent)
	p.ok(err)
	return sent
}

// password asks for one and returns it.
func (p *peer) password(c net.Conn) string {
	p.t.Helper()
	p.say(c, &pgproto3.AuthenticationCleartextPassword{})
	m, err := readMessage(c)
	p.ok(err)
	if m[0] != 'p' {
		p.t.Fatalf("no password but %q", m)
	}
	return string(bytes.TrimSuffix(m[5:], []byte{0}))
}

// login lets a client in, after an answer that it gets as it is.
func (p *peer) login(c net.Conn) []byte {
	p.t.Helper()
	if got := p.password(c); got != "token-1" {
		p.t.Errorf("the password is %q", got)
	}
	return p.say(c, &pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "server_version", Value: "18.0"},
		&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte("a key of any length")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
}

// packet makes a startup packet of a code and texts that end in NUL.
func packet(code uint32, texts ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), code)
	for _, s := range texts {
		b = append(append(b, s...), 0)
	}
	if code>>16 == protocolMajor {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// expects reads exactly what is wanted.
func expects(t *testing.T, c io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// refusal reads an ErrorResponse, and that nothing follows it.
func refusal(t *testing.T, c net.Conn) *pgproto3.ErrorResponse {
	t.Helper()
	m, err := readMessage(c)
	if err != nil || m[0] != 'E' {
		t.Fatalf("got %q, %v", m, err)
	}
	var e pgproto3.ErrorResponse
	if err := e.Decode(m[5:]); err != nil {
		t.Fatal(err)
	}
	ends(t, c)
	return &e
}

func ends(t *testing.T, c io.Reader) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("got %d bytes, %v, want the end", n, err)
	}
}

func TestTheClientsStartupIsTheAgents(t *testing.T) {
	v30, v32 := uint32(3<<16), uint32(3<<16|2)
	for name, c := range map[string]struct{ sent, want []byte }{
		"as psql does": {
			packet(v30, "user", "alice", "database", "postgres", "application_name", "psql", "client_encoding", "UTF8"),
			packet(v30, "user", "reporter", "database", "orders", "application_name", "psql", "client_encoding", "UTF8"),
		},
		"with a newer protocol, options and what nobody knows": {
			packet(v32, "options", "-c search_path=shop", "user", "alice", "_pq_.future", "1", "replication", "database"),
			packet(v32, "user", "reporter", "database", "orders", "options", "-c search_path=shop", "_pq_.future", "1", "replication", "database"),
		},
		"with nothing at all": {packet(v30), packet(v30, "user", "reporter", "database", "orders")},
		"with an empty value": {
			packet(v30, "user", "", "application_name", ""),
			packet(v30, "user", "reporter", "database", "orders", "application_name", ""),
		},
		"twice": {
			packet(v30, "user", "a", "user", "b", "DateStyle", "ISO", "DateStyle", "German"),
			packet(v30, "user", "reporter", "database", "orders", "DateStyle", "ISO", "DateStyle", "German"),
		},
		"with a version to come": {packet(3<<16|9, "user", "x"), packet(3<<16|9, "user", "reporter", "database", "orders")},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, nil)
			e, _ := open(t, Config{}, p.resource("0"))
			client := dial(t, e)
			write(t, client, c.sent)
			gateway, got := p.accept()
			if !bytes.Equal(got, c.want) {
				t.Errorf("the gateway got\n%q, want\n%q", got, c.want)
			}
			expects(t, client, p.login(gateway))
		})
	}
}

func TestBytesPassUntouched(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	for name, c := range map[string]struct {
		peer   *tls.Config
		config Config
		local  func() string
	}{
		"plain":                   {nil, Config{}, func() string { return "0" }},
		"over TLS":                {&tls.Config{Certificates: []tls.Certificate{cert}}, Config{TLS: &tls.Config{RootCAs: pool}}, func() string { return "0" }},
		"over TLS, from a socket": {&tls.Config{Certificates: []tls.Certificate{cert}}, Config{TLS: &tls.Config{RootCAs: pool}}, func() string { return socketFolder(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, c.peer)
			e, _ := open(t, c.config, p.resource(c.local()))
			client := dial(t, e)
			write(t, client, packet(gssRequest))
			expects(t, client, []byte{'N'})
			write(t, client, packet(sslRequest))
			expects(t, client, []byte{'N'})
			write(t, client, packet(3<<16, "user", "alice"))
			gateway, _ := p.accept()
			expects(t, client, p.login(gateway))
			// More than any buffer holds, both ways at once.
			blob := bytes.Repeat([]byte("\x00\xffany bytes"), 1<<20)
			go func() { _, _ = client.Write(blob) }()
			go func() { _, _ = gateway.Write(blob) }()
			expects(t, gateway, blob)
			expects(t, client, blob)
		})
	}
}

func TestTLSBeginsAtOnceWhereItIsAskedTo(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	p := newPeer(t, nil)
	e, _ := open(t, Config{TLS: &tls.Config{RootCAs: pool}}, "orders=postgres://"+p.l.Addr().String()+"?sslnegotiation=direct,0")
	client := dial(t, e)
	write(t, client, packet(3<<16))
	c, err := p.l.Accept()
	p.ok(err)
	gateway := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}})
	defer gateway.Close()
	_, err = readPacket(gateway)
	p.ok(err)
	if got := gateway.ConnectionState().NegotiatedProtocol; got != alpn {
		t.Errorf("the protocol is %q", got)
	}
	expects(t, client, p.login(gateway))
}

func TestAGatewayOnASocket(t *testing.T) {
	path := socketFolder(t) + "/gateway"
	l, err := net.Listen("unix", path) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, l: l}
	t.Cleanup(func() { l.Close() })
	e, _ := open(t, Config{}, "orders=postgres://"+path+",0")
	client := dial(t, e)
	write(t, client, packet(3<<16))
	gateway, err := l.Accept()
	p.ok(err)
	defer gateway.Close()
	_, err = readPacket(gateway) // without an SSLRequest before it
	p.ok(err)
	expects(t, client, p.login(gateway))
}

func TestWhatTheGatewaySaysBeforeTheSessionReachesTheClient(t *testing.T) {
	p := newPeer(t, nil)
	e, _ := open(t, Config{}, p.resource("0"))
	client := dial(t, e)
	write(t, client, packet(3<<16|9, "_pq_.x", ""))
	gateway, _ := p.accept()
	said := p.say(gateway, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3<<16 | 2, UnrecognizedOptions: []string{"_pq_.x"}},
		&pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "soon closed"})
	expects(t, client, append(said, p.login(gateway)...))
}

func TestARefusalReachesTheClientAsItWasSent(t *testing.T) {
	p := newPeer(t, nil)
	e, _ := open(t, Config{}, p.resource("0"))
	client := dial(t, e)
	write(t, client, packet(3<<16))
	gateway, _ := p.accept()
	p.password(gateway)
	said := p.say(gateway, &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "42501", Message: "reporter may not connect to this resource", Hint: "ask"})
	gateway.Close()
	expects(t, client, said)
	ends(t, client)
}

func TestARefusedTokenIsNotSentAgain(t *testing.T) {
	p := newPeer(t, nil)
	e, _ := open(t, Config{}, p.resource("0"))
	client := dial(t, e)
	e.tokens.mu.Lock()
	e.tokens.asked = e.tokens.asked.Add(-2 * minRefused)
	e.tokens.mu.Unlock()
	write(t, client, packet(3<<16))
	gateway, _ := p.accept()
	p.password(gateway)
	p.say(gateway, &pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "authentication failed"})
	if r := refusal(t, client); r.Code != "28P01" {
		t.Errorf("got %+v", r)
	}
	client = dial(t, e)
	write(t, client, packet(3<<16))
	gateway, _ = p.accept()
	if got := p.password(gateway); got != "token-2" {
		t.Errorf("the next password is %q", got)
	}
}

func TestACancelRequestPassesAsItIs(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	p := newPeer(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	e, _ := open(t, Config{TLS: &tls.Config{RootCAs: pool}}, p.resource("0"))
	for _, key := range []string{"\x00\x00\x00\x07four", "\x00\x00\x00\x07" + strings.Repeat("k", 32)} {
		client := dial(t, e)
		want := packet(cancelRequest)
		want = append(want, key...)
		binary.BigEndian.PutUint32(want, uint32(len(want)))
		write(t, client, want)
		gateway, got := p.accept()
		if !bytes.Equal(got, want) {
			t.Errorf("the gateway got %q, want %q", got, want)
		}
		gateway.Close()
		ends(t, client) // only once the gateway has acted
	}
}

func TestWithoutATokenTheClientIsToldWhy(t *testing.T) {
	p := newPeer(t, nil)
	m := &mint{life: time.Hour}
	e, _ := open(t, Config{Issuer: m}, p.resource("0"))
	m.broken.Store(true)
	e.tokens.mu.Lock()
	e.tokens.token = Token{}
	e.tokens.mu.Unlock()
	client := dial(t, e)
	write(t, client, packet(3<<16))
	gateway, _ := p.accept()
	p.say(gateway, &pgproto3.AuthenticationCleartextPassword{})
	r := refusal(t, client)
	if r.Severity != "FATAL" || r.Code != "28000" || r.Message != "the agent has no token for the gateway: the mint is closed" || r.Hint != errMint.Hint {
		t.Errorf("got %+v", r)
	}
	ends(t, gateway)
}

func TestWithoutAGatewayTheClientIsToldWhy(t *testing.T) {
	cert, pool := certificate(t, "gateway.example.com")
	_, others := certificate(t, "gateway.example.com")
	encrypted := &tls.Config{Certificates: []tls.Certificate{cert}}
	for name, c := range map[string]struct {
		peer        *tls.Config
		config      Config
		state, want string
	}{
		"no TLS where it is demanded": {nil, Config{Demand: true}, "08006", "the gateway offers no TLS"},
		"of another authority":        {encrypted, Config{TLS: &tls.Config{RootCAs: others, ServerName: "gateway.example.com"}}, "08006", "does not prove who it is"},
		"of another name":             {encrypted, Config{TLS: &tls.Config{RootCAs: pool}}, "08006", "does not prove who it is"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, c.peer)
			e, _ := open(t, c.config, p.resource("0"))
			client := dial(t, e)
			write(t, client, packet(3<<16))
			go func() { // it gets no further than the handshake
				if g, err := p.l.Accept(); err == nil {
					defer g.Close()
					_, _ = readPacket(g)
					if c.peer == nil {
						_, _ = g.Write([]byte{'N'})
						return
					}
					_, _ = g.Write([]byte{'S'})
					_ = tls.Server(g, c.peer).HandshakeContext(context.Background())
				}
			}()
			if r := refusal(t, client); r.Code != c.state || !strings.Contains(r.Message, c.want) || r.Hint == "" {
				t.Errorf("got %+v", r)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		p := newPeer(t, nil)
		p.l.Close()
		e, _ := open(t, Config{}, p.resource("0"))
		client := dial(t, e)
		write(t, client, packet(3<<16))
		if r := refusal(t, client); r.Code != "08006" || !strings.Contains(r.Message, "cannot be reached") || r.Hint == "" {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("it goes away", func(t *testing.T) {
		p := newPeer(t, nil)
		e, _ := open(t, Config{}, p.resource("0"))
		client := dial(t, e)
		write(t, client, packet(3<<16))
		gateway, _ := p.accept()
		gateway.Close()
		if r := refusal(t, client); r.Code != "08006" {
			t.Errorf("got %+v", r)
		}
	})
}

func TestATokenIsGivenForNothingElse(t *testing.T) {
	for name, asks := range map[string][]pgproto3.BackendMessage{
		"SCRAM":      {&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}},
		"MD5":        {&pgproto3.AuthenticationMD5Password{Salt: [4]byte{1}}},
		"rows":       {&pgproto3.DataRow{}},
		"once more":  {&pgproto3.AuthenticationCleartextPassword{}, &pgproto3.AuthenticationCleartextPassword{}},
		"no message": {&pgproto3.ReadyForQuery{TxStatus: 'I'}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, nil)
			e, _ := open(t, Config{}, p.resource("0"))
			client := dial(t, e)
			write(t, client, packet(3<<16))
			gateway, _ := p.accept()
			p.say(gateway, asks...)
			if r := refusal(t, client); r.Code != "08006" || !strings.Contains(r.Message, "something other than a token") {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestWhoSpeaksNoPostgreSQLIsToldSo(t *testing.T) {
	p := newPeer(t, nil)
	e, _ := open(t, Config{}, p.resource("0"))
	hello := append([]byte{0x16, 3, 1, 2, 0}, make([]byte, 512)...)
	for name, c := range map[string]struct {
		sent        []byte
		state, want string
		first       []byte
	}{
		"HTTP":              {[]byte("GET / HTTP/1.1\r\n\r\n"), "08P01", "a startup packet of", nil},
		"TLS at once":       {hello, "08P01", "begins with TLS", nil},
		"protocol 2":        {packet(2<<16, "user"), "0A000", "unsupported frontend protocol 2.0", nil},
		"no end":            {[]byte{0, 0, 0, 8, 0, 3, 0, 0}, "08P01", "malformed", nil},
		"a name alone":      {packet(3<<16, "user"), "08P01", "malformed", nil},
		"more behind":       {packet(3<<16, "", "user", "x"), "08P01", "malformed", nil},
		"requests for ever": {slices.Concat(packet(sslRequest), packet(sslRequest), packet(sslRequest), packet(sslRequest)), "08P01", "was expected", []byte("NNN")},
		"of a size":         {[]byte{0, 0, 0, 7, 0, 3, 0, 0}, "08P01", "of 7 bytes", nil},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, e)
			write(t, client, c.sent)
			expects(t, client, c.first)
			m, err := readMessage(client)
			if err != nil {
				t.Fatal(err)
			}
			var r pgproto3.ErrorResponse
			if err := r.Decode(m[5:]); err != nil || r.Code != c.state || !strings.Contains(r.Message, c.want) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}

// session opens one and returns both sides of it.
func session(t *testing.T, p *peer, e *Ends) (client, gateway net.Conn) {
	t.Helper()
	client = dial(t, e)
	write(t, client, packet(3<<16))
	gateway, _ = p.accept()
	expects(t, client, p.login(gateway))
	return client, gateway
}

func TestASideThatEndsEndsTheOther(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": {Certificates: []tls.Certificate{cert}}} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, config)
			e, _ := open(t, Config{TLS: &tls.Config{RootCAs: pool}}, p.resource("0"))

			client, gateway := session(t, p, e)
			write(t, client, []byte("X\x00\x00\x00\x04"))
			client.Close()
			expects(t, gateway, []byte("X\x00\x00\x00\x04"))
			ends(t, gateway)

			client, gateway = session(t, p, e)
			write(t, client, []byte("the gateway reads none of this"))
			said := p.say(gateway, &pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "the grant has ended"})
			gateway.Close()
			expects(t, client, said)
			ends(t, client)

			// A client that has nothing more to say still hears the end.
			client, gateway = session(t, p, e)
			if err := client.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			ends(t, gateway)
			write(t, gateway, []byte("the outcome"))
			gateway.Close()
			expects(t, client, []byte("the outcome"))
			ends(t, client)

			client, gateway = session(t, p, e)
			if err := client.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			client.Close() // by a reset
			ends(t, gateway)
		})
	}
}

func TestWhenTheEndsEndSessionsEndInGoodOrder(t *testing.T) {
	p := newPeer(t, nil)
	e, stop := open(t, Config{}, p.resource("0"))
	client, gateway := session(t, p, e)
	go stop()
	ends(t, gateway) // as if the client had gone
	write(t, gateway, []byte("the outcome"))
	gateway.Close()
	expects(t, client, []byte("the outcome"))
	ends(t, client)
	client.Close()
	stop()
	if c, err := net.Dial("tcp", e.List()[0].Addr.String()); err == nil { //nolint:noctx // a test's
		c.Close()
		t.Error("the end is still there")
	}
}

func TestClientsWaitForTheirTurn(t *testing.T) {
	p := newPeer(t, nil)
	e, _ := open(t, Config{}, p.resource("0"))
	l := e.ends[0].listener.(*local)
	for range maxClients - 1 { // and the one that is waited for
		l.slots <- struct{}{}
	}
	first, gateway := session(t, p, e)
	second := dial(t, e)
	write(t, second, packet(3<<16))
	p.ok(p.l.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond)))
	if _, err := p.l.Accept(); err == nil {
		t.Fatal("there was room")
	}
	p.ok(p.l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)))
	first.Close()
	gateway.Close()
	p.accept()
}

func FuzzAddressed(f *testing.F) {
	f.Add(packet(3<<16, "user", "alice", "database", "postgres"))
	f.Add(packet(3 << 16)[:8])
	f.Add(packet(3<<16|2, "_pq_.x", "", "options", "-c a=b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := readPacket(bytes.NewReader(b))
		if err != nil {
			return
		}
		out, err := addressed(in, "reporter", "orders")
		if err != nil {
			return
		}
		begin := packet(codeOf(in), "user", "reporter", "database", "orders")
		if !bytes.HasPrefix(out[8:], begin[8:len(begin)-1]) || int(binary.BigEndian.Uint32(out)) != len(out) {
			t.Fatalf("%q becomes %q", in, out)
		}
		if again, err := addressed(out, "reporter", "orders"); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q becomes %q, %v", out, again, err)
		}
	})
}
