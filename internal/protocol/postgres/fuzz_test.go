package postgres

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// FuzzFrames holds the parsers of frames to two things: they don't panic, and
// what they call well formed lies within the frame.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x0dselect 1\x00"))
	f.Add([]byte("P\x00\x00\x00\x10s\x00select $1\x00\x00\x00"))
	f.Add([]byte("B\x00\x00\x00\x14\x00s\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00"))
	f.Add([]byte("B\x00\x00\x00\x12\x00s\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00"))
	f.Add([]byte("F\x00\x00\x00\x1b\x00\x00\x03\xbb\x00\x01\x00\x01\x00\x02\x00\x00\x00\x011\xff\xff\xff\xff\x00\x01"))
	f.Add([]byte("E\x00\x00\x00\x09\x00\x00\x00\x00\x02"))
	f.Add([]byte("D\x00\x00\x00\x06S\x00"))
	f.Add([]byte("E\x00\x00\x00\x20SERROR\x00C42501\x00Mno\x00\x00"))
	f.Add([]byte("C\x00\x00\x00\x0eSELECT 10\x00"))
	f.Add([]byte("d\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		size, err := checkFrontend(b, 1<<20)
		if err == nil && (size < headerSize || frontendFrames[b[0]].kind != copyFrame && size > 1<<20+headerSize) {
			t.Fatalf("%q has %d bytes", b[0], size)
		}
		body := b[headerSize:]
		if text, err := parseQuery(body); err == nil && (bytes.IndexByte(text, 0) >= 0 || len(text)+1 != len(body)) {
			t.Errorf("a Query of %q is %q", body, text)
		}
		if name, text, types, err := parseParse(body); err == nil && len(name)+len(text)+2+len(types) != len(body) {
			t.Errorf("a Parse of %q is %q, %q, %q", body, name, text, types)
		}
		within := func(what string, values [][]byte, err error) {
			n := 0
			for _, v := range values {
				n += 4 + len(v)
			}
			if err == nil && n > len(body) {
				t.Errorf("a %s of %d bytes holds values of %d", what, len(body), n)
			}
		}
		bound, values, err := parseBind(body, nil)
		within("Bind", append(values, bound.formats), err)
		oid, _, values, err := parseFunctionCall(body, nil)
		within("FunctionCall", values, err)
		spellCall(oid, len(values))
		_, _, _ = parseExecute(body)
		_, _, _ = parseObject(body)
		_, _, _ = parseParameterStatus(body)
		tagRows(body)
		if e := parseError(body); len(e.code) != 5 || len(e.detail) > maxDetail {
			t.Errorf("an error of %q is %+v", body, e)
		}
	})
}

// FuzzStartup holds the startup's parser to the same, and to a list of
// settings: whatever is sent, no other reaches the server.
func FuzzStartup(f *testing.F) {
	f.Add(uint32(3<<16), []byte("user\x00a\x00database\x00b\x00options\x00-c search_path=x --work-mem=1\x00\x00"))
	f.Add(uint32(3<<16|2), []byte("user\x00a\x00_pq_.x\x00y\x00replication\x00database\x00\x00"))
	f.Add(uint32(3<<16|9999), []byte("user\x00a\x00options\x00-c role\\=admin\x00\x00"))
	f.Fuzz(func(t *testing.T, code uint32, rest []byte) {
		s, err := parseStartup(code, rest)
		if err != nil {
			return
		}
		if s.user == "" || s.minor != 0 && s.minor != 2 {
			t.Errorf("%+v", s)
		}
		s.appendNegotiate(nil)
		params, refused := s.upstreamParams()
		if (params == nil) == (refused == nil) {
			t.Errorf("%v and %v", params, refused)
		}
		for name := range params {
			if !allowedParameters[name] {
				t.Errorf("%q reaches the server", name)
			}
		}
		if refused == nil && params["client_encoding"] != "UTF8" {
			t.Errorf("client_encoding is %q", params["client_encoding"])
		}
	})
}

// FuzzSession plays an agent and a server that say anything, whole frames or
// not, to one session. Whatever they say, the session ends, its record is
// closed and sound, and no mistake of ours is met.
func FuzzSession(f *testing.F) {
	const (
		query   = "Q\x00\x00\x00\x0dselect 1\x00"
		begin   = "Q\x00\x00\x00\x0abegin\x00"
		parse   = "P\x00\x00\x00\x10\x00select 1\x00\x00\x00"
		bind    = "B\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00"
		execute = "E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
		call    = "F\x00\x00\x00\x0e\x00\x00\x03\xbb\x00\x00\x00\x00\x00\x01"
		syncs   = "S\x00\x00\x00\x04"
		flush   = "H\x00\x00\x00\x04"
		data    = "d\x00\x00\x00\x06x\x0a"
		done    = "c\x00\x00\x00\x04"

		ready    = "Z\x00\x00\x00\x05I"
		open     = "Z\x00\x00\x00\x05T"
		failed   = "E\x00\x00\x00\x17SERROR\x00C42703\x00Mno\x00\x00"
		complete = "C\x00\x00\x00\x0dSELECT 1\x00"
		begun    = "C\x00\x00\x00\x0aBEGIN\x00"
		rolled   = "C\x00\x00\x00\x0dROLLBACK\x00"
		copyIn   = "G\x00\x00\x00\x07\x00\x00\x00"
		notice   = "N\x00\x00\x00\x05\x00"
		result   = "V\x00\x00\x00\x08\xff\xff\xff\xff"
	)
	f.Add([]byte(query+begin+query), []byte(complete+ready+begun+open+rolled+ready))
	f.Add([]byte(parse+bind+execute+syncs), []byte("1\x00\x00\x00\x042\x00\x00\x00\x04"+complete+notice+ready))
	f.Add([]byte(parse+bind+execute+query+syncs+bind+execute+syncs), []byte("1\x00\x00\x00\x04"+failed+ready+failed+ready))
	f.Add([]byte(parse+bind+execute+data+done+parse+syncs), []byte("1\x00\x00\x00\x042\x00\x00\x00\x04"+copyIn+complete+"1\x00\x00\x00\x04"+ready))
	f.Add([]byte(query+data+data+done+query), []byte(copyIn+failed+ready+complete+ready))
	f.Add([]byte(call+flush+call), []byte(result+ready+failed+ready))
	f.Add([]byte(begin+parse+"D\x00\x00\x00\x06S\x00C\x00\x00\x00\x06S\x00"+syncs+"X\x00\x00\x00\x04"), []byte(begun+open+"1\x00\x00\x00\x04t\x00\x00\x00\x06\x00\x00n\x00\x00\x00\x043\x00\x00\x00\x04"+open))
	f.Fuzz(func(t *testing.T, asked, answered []byte) {
		gate := &prototest.Gate{Decide: func(c *evidence.Command) evidence.Decision {
			if len(c.Raw)%3 == 2 {
				return evidence.Decision{Effect: evidence.Deny}
			}
			return evidence.Decision{Effect: evidence.Allow}
		}}
		sess, err := gate.Open(t.Context(), protocol.Credential{Secret: prototest.Token}, protocol.Target{})
		if err != nil {
			t.Fatal(err)
		}
		p := New(Config{
			Understand: func(string) Understander { return nobody{} },
			Limits:     Limits{Message: 1 << 16, Flight: 8, Drain: 10 * time.Millisecond},
		})
		agent, near := net.Pipe()
		up, far := net.Pipe()
		c := newConn(p, &leg{Conn: near, startup: &startup{database: "app"}}, sess)
		c.up, c.q.status, c.q.following = up, 'I', sql.NewSession("agent", "public")
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, agent) })
		wg.Go(func() { _, _ = io.Copy(io.Discard, far) })
		said := make(chan struct{})
		wg.Go(func() {
			defer close(said)
			_, _ = agent.Write(asked)
		})
		wg.Go(func() {
			_, _ = far.Write(answered)
			select {
			case <-said:
			case <-time.After(20 * time.Millisecond): // it waits for more than there is
			}
			agent.Close()
			far.Close()
		})
		if err := c.run(t.Context()); c.reason == "" || c.reason == "internal error" {
			t.Errorf("it ended because of %q: %v", c.reason, err)
		}
		agent.Close()
		far.Close()
		wg.Wait()
		for _, fault := range gate.Sessions()[0].Faults() {
			t.Error(fault)
		}
	})
}

// nobody understands nothing.
type nobody struct{}

func (nobody) Understand(_ context.Context, _, path string, _ sql.Env) *sql.Understanding {
	return opaque(path)
}

func (nobody) Execute(u *sql.Understanding, _ func(string, sql.Env) *sql.Understanding) *sql.Understanding {
	return u
}

func (nobody) Inner(*sql.Prepared, sql.Env) *sql.Understanding { return opaque(pathExecute) }
