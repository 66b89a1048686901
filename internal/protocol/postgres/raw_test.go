package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// raw is an agent that says exactly what a test tells it to.
type raw struct {
	t    testing.TB
	conn net.Conn
	out  []byte
	last []byte // body of the message received last

	about string // says what the test does, should the answer not come
}

func dialRaw(t testing.TB, g *gateway) *raw {
	t.Helper()
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f := &raw{t: t, conn: c}
	f.message(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "agent-1", "database": "app"}})
	f.send()
	f.expect("R")
	f.message(&pgproto3.PasswordMessage{Password: prototest.Token}).send()
	f.expectUntil('Z')
	return f
}

func (f *raw) message(m pgproto3.FrontendMessage) *raw {
	f.t.Helper()
	b, err := m.Encode(f.out)
	if err != nil {
		f.t.Fatal(err)
	}
	f.out = b
	return f
}

func (f *raw) query(text string) *raw { return f.message(&pgproto3.Query{String: text}) }
func (f *raw) parse(name, text string) *raw {
	return f.message(&pgproto3.Parse{Name: name, Query: text})
}
func (f *raw) bind(portal, name string, params ...[]byte) *raw {
	return f.message(&pgproto3.Bind{DestinationPortal: portal, PreparedStatement: name, Parameters: params})
}
func (f *raw) execute(portal string, rows uint32) *raw {
	return f.message(&pgproto3.Execute{Portal: portal, MaxRows: rows})
}
func (f *raw) close(kind byte, name string) *raw {
	return f.message(&pgproto3.Close{ObjectType: kind, Name: name})
}
func (f *raw) describe(kind byte, name string) *raw {
	return f.message(&pgproto3.Describe{ObjectType: kind, Name: name})
}
func (f *raw) data(s string) *raw   { return f.message(&pgproto3.CopyData{Data: []byte(s)}) }
func (f *raw) copyDone() *raw       { return f.message(&pgproto3.CopyDone{}) }
func (f *raw) sync() *raw           { return f.message(&pgproto3.Sync{}) }
func (f *raw) flush() *raw          { return f.message(&pgproto3.Flush{}) }
func (f *raw) bytes(b ...byte) *raw { f.out = append(f.out, b...); return f }

func (f *raw) send() {
	f.t.Helper()
	if _, err := f.conn.Write(f.out); err != nil {
		f.t.Fatal(err)
	}
	f.out = f.out[:0]
}

func (f *raw) terminate() {
	f.t.Helper()
	f.message(&pgproto3.Terminate{}).send()
	f.conn.Close()
}

// receive returns the type of the next message, 0 at the end.
func (f *raw) receive() byte {
	f.t.Helper()
	if err := f.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		f.t.Fatal(err)
	}
	var head [5]byte
	if _, err := io.ReadFull(f.conn, head[:]); err != nil {
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			f.t.Fatal("no answer ", f.about)
		}
		return 0
	}
	f.last = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	if _, err := io.ReadFull(f.conn, f.last); err != nil {
		f.t.Fatal(err)
	}
	return head[0]
}

// expect receives messages of the types given, separated by spaces; '.' is the
// end of the connection.
func (f *raw) expect(types string) {
	f.t.Helper()
	for _, want := range strings.Fields(types) {
		got := f.receive()
		for got == 'S' && want != "S" { // which settings are reported differs between servers
			got = f.receive()
		}
		if got == 0 {
			got = '.'
		}
		if got != want[0] {
			f.t.Fatalf("received %q %q, want %q of %q", got, f.last, want, types)
		}
	}
}

func (f *raw) expectUntil(t byte) {
	f.t.Helper()
	for {
		switch got := f.receive(); got {
		case t:
			return
		case 0, 'E':
			f.t.Fatalf("received %q %q, want %q", got, f.last, t)
		}
	}
}

// code is the SQLSTATE of the error received last.
func (f *raw) code() string {
	for _, field := range strings.Split(string(f.last), "\x00") {
		if strings.HasPrefix(field, "C") {
			return field[1:]
		}
	}
	return ""
}

// status is the transaction's, of the ReadyForQuery received last.
func (f *raw) status() string { return string(f.last) }
