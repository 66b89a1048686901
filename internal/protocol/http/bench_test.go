package http_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	stdhttp "net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// The whole protocol with the real path behind it: decisions, records that are
// encrypted and appended to a journal on disk, and an upstream. Agents and
// upstream speak in prepared bytes, so that what is allocated is the gateway's.
func BenchmarkRequest(b *testing.B) {
	gate := newBenchGate(b, raw(b))
	p := newProtocol(b, http.Resource{}, slog.New(slog.DiscardHandler), time.Minute)
	address := accept(b, func(ctx context.Context, c net.Conn) {
		if err := p.Serve(ctx, c, gate); err != nil && ctx.Err() == nil {
			b.Error(err)
		}
	})
	b.Run("get", func(b *testing.B) { load(b, address, getBytes) })
	b.Run("post", func(b *testing.B) { load(b, address, postBytes) })
}

// The peer that passes requests on and looks at nothing.
func BenchmarkReverseProxy(b *testing.B) {
	to, pool := &url.URL{Scheme: "http", Host: raw(b)}, &bufferPool{}
	srv := &stdhttp.Server{ReadHeaderTimeout: time.Minute, Handler: &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:  &stdhttp.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
		BufferPool: pool,
	}}
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(l) //nolint:errcheck // it ends with the benchmark
	b.Cleanup(func() { srv.Close() })
	b.Run("get", func(b *testing.B) { load(b, l.Addr().String(), getBytes) })
	b.Run("post", func(b *testing.B) { load(b, l.Addr().String(), postBytes) })
}

// bufferPool keeps the buffers of a ReverseProxy.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }
func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

const (
	benchHead  = " HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer token\r\nUser-Agent: bench\r\nAccept: */*\r\n"
	benchReply = "HTTP/1.1 200 OK\r\nServer: raw\r\nDate: Thu, 26 Nov 2026 10:00:00 GMT\r\nContent-Type: application/octet-stream\r\n" +
		"Content-Length: 1024\r\nLast-Modified: Thu, 26 Nov 2026 09:00:00 GMT\r\nConnection: keep-alive\r\nEtag: \"1\"\r\nAccept-Ranges: bytes\r\n\r\n"
)

var (
	getBytes  = []byte("GET /things/7" + benchHead + "\r\n")
	postBytes = []byte("POST /things" + benchHead + "Content-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + `{"name":"` + strings.Repeat("x", 1013) + `"}`)
	rawReply  = append([]byte(benchReply), make([]byte, 1024)...)
)

// raw is an upstream that answers each request with 1 KiB.
func raw(b *testing.B) (address string) {
	return accept(b, func(_ context.Context, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			if err := skip(r); err != nil {
				return
			}
			if _, err := c.Write(rawReply); err != nil {
				return
			}
		}
	})
}

// skip reads a message: a head, and a content if it has a length.
func skip(r *bufio.Reader) error {
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte("Content-Length: 1024")) {
			length = 1024
		}
		if len(line) == 2 {
			_, err := r.Discard(length)
			return err
		}
	}
}

// accept serves connections until the benchmark ends.
func accept(b *testing.B, serve func(context.Context, net.Conn)) (address string) {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				serve(ctx, c)
			})
		}
	})
	b.Cleanup(func() { l.Close(); cancel(); wg.Wait() })
	return l.Addr().String()
}

// load asks over 16 connections per processor. CPU is what the whole process
// used, client and upstream included.
func load(b *testing.B, address string, request []byte) {
	b.SetParallelism(16)
	b.ReportAllocs()
	before := used(b)
	b.RunParallel(func(pb *testing.PB) {
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			if status, err := r.Peek(12); err != nil || string(status) != "HTTP/1.1 200" {
				b.Errorf("%q, %v", status, err)
				return
			}
			if err := skip(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64((used(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// used is the processor time of this process.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newBenchGate is a gate with a real recorder and journal, at which the agent
// bot may read and write.
func newBenchGate(b *testing.B, upstream string) *session.Gate {
	b.Helper()
	ok := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	id, err := age.GenerateX25519Identity()
	ok(err)
	store, err := keys.Open(b.TempDir(), id, nil)
	ok(err)
	scope, err := store.NewBoot(1)
	ok(err)
	j, err := journal.Open(b.TempDir(), journal.Options{})
	ok(err)
	b.Cleanup(func() { ok(j.Close()) })
	r := recorder.New(recorder.Config{Gateway: "gw1", Boot: 1, Journal: j, Keys: store, Scope: scope, Registry: decision.New()})
	by := evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}
	policy := evidence.PolicyBody{Actions: http.Actions, By: by, Files: []evidence.File{{Name: "rules.cedar", Text: `
@id("all") permit (principal in Role::"writer", action in [Action::"connect", Action::"read", Action::"write"], resource);`}}}
	policy.Digest = decision.Digest(policy.Files, policy.Actions)
	for _, d := range []*evidence.Draft{
		{Head: evidence.Head{Type: evidence.ConfigChange}, Body: evidence.EncodeBody(evidence.ConfigBody{
			Digest: "c1", Text: "x", By: by, Resources: []evidence.Resource{{Name: "svc", Protocol: http.Name, Durability: "process"}}})},
		{Head: evidence.Head{Type: evidence.PolicyChange}, Body: evidence.EncodeBody(policy)},
		{Head: evidence.Head{Type: evidence.AgentCreate}, Body: evidence.EncodeBody(evidence.AgentBody{Agent: "bot", Purpose: "test", Owner: by.Person, By: by})},
		{Head: evidence.Head{Type: evidence.GrantCreate}, Body: evidence.EncodeBody(evidence.GrantBody{
			Agent: "bot", Role: "writer", Resource: "svc", Expires: time.Now().Add(time.Hour).UnixMicro(), By: by})},
	} {
		ok(r.Control(b.Context(), d))
	}
	return session.NewGate(session.Config{
		Recorder: benchRecorder{r}, Authenticator: benchDoor{}, Upstreams: benchUpstream(upstream),
		Limits: session.Limits{Sessions: 10, SessionsPerAgent: 10},
	})
}

// benchRecorder is a recorder as sessions see it.
type benchRecorder struct{ *recorder.Recorder }

func (r benchRecorder) State() (*decision.Registry, uint64) {
	s := r.Recorder.State()
	return s.Registry, s.Version
}
func (r benchRecorder) Own() session.Chain               { return r.Recorder.Own() }
func (r benchRecorder) NewChain() (session.Chain, error) { return r.Recorder.NewChain() }

// benchDoor knows one token.
type benchDoor struct{}

func (benchDoor) Authenticate(c protocol.Credential, _ *decision.Registry, _ time.Time) (session.Principal, error) {
	if c.Secret != "token" {
		return session.Principal{}, errors.New("not the token")
	}
	return session.Principal{Agent: "bot", Credential: "tok_1", Type: "self"}, nil
}

type benchUpstream string

func (u benchUpstream) Upstream(string) (protocol.Upstream, error) {
	return protocol.Upstream{Address: string(u), User: "svc", Password: "secret"}, nil
}
