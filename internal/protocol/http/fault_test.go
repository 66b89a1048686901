package http_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	stdhttp "net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// hijacked answers by its own hand.
func hijacked(f func(net.Conn, *bufio.ReadWriter)) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		conn, rw, err := stdhttp.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		f(conn, rw)
	})
}

func TestAServiceThatBreaksOff(t *testing.T) {
	for name, answer := range map[string]string{
		"in a known length": "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\npart",
		"in chunks":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
		"in a short length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart",
	} {
		g := startGateway(t, hijacked(func(_ net.Conn, rw *bufio.ReadWriter) {
			fmt.Fprint(rw, answer)
			rw.Flush()
		}), http.Resource{})
		for version := 1; version <= 2; version++ {
			if got, err := g.agent(version).do("GET", "/things/1", ""); err == nil && got.Status == stdhttp.StatusOK {
				t.Errorf("%s, HTTP/%d: the agent sees a whole answer %+v", name, version, got)
			}
			if o := g.last().Outcome(); o.Class != evidence.Failed || o.Code != "truncated" {
				t.Errorf("%s, HTTP/%d: %+v", name, version, o)
			}
		}
	}
}

func TestAServiceThatAnswersNothing(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":                        "",
		"no HTTP":                        "SSH-2.0-x\r\n",
		"half a head":                    "HTTP/1.1 200 OK\r\nContent-Le",
		"two lengths":                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a head without end":             "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20),
		"an upgrade that nobody asks of": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	} {
		g := startGateway(t, hijacked(func(_ net.Conn, rw *bufio.ReadWriter) {
			fmt.Fprint(rw, answer)
			rw.Flush()
		}), http.Resource{})
		got, err := g.agent(1).do("POST", "/things", "x")
		if err != nil || got.Status != stdhttp.StatusBadGateway || !strings.Contains(got.Body, "may or may not") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if o := g.last().Outcome(); o.Class != evidence.InDoubt {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestAServiceThatIsNotThere(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		g := startGatewayTo(t, protocol.Upstream{Address: t.TempDir() + "/none.sock"}, http.Resource{Route: httpgate.Route{HTTP2: http2}})
		got, err := g.agent(1).do("POST", "/things", "x")
		if err != nil || got.Status != stdhttp.StatusBadGateway || !strings.Contains(got.Body, "nothing was sent") {
			t.Errorf("HTTP/2 %v: %+v, %v", http2, got, err)
		}
		if o := g.last().Outcome(); o.Class != evidence.Failed || o.Code != "unreachable" {
			t.Errorf("HTTP/2 %v: %+v", http2, o)
		}
	}
}

// A connection that the service has closed meanwhile costs nothing, and no
// request is sent twice.
func TestKeptConnections(t *testing.T) {
	var asked, dialed atomic.Int32
	g := startGateway(t, hijacked(func(conn net.Conn, rw *bufio.ReadWriter) {
		dialed.Add(1)
		for range 2 { // the first was read to get here
			asked.Add(1)
			fmt.Fprint(rw, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			rw.Flush()
			if _, err := stdhttp.ReadRequest(rw.Reader); err != nil {
				return
			}
		}
		asked.Add(1) // takes the third and breaks
	}), http.Resource{})
	a := g.agent(1)
	for i, want := range []int{200, 200, 502, 200} {
		got, err := a.do("GET", "/things/1", "")
		if err != nil || got.Status != want {
			t.Errorf("request %d: %+v, %v", i, got, err)
		}
	}
	if asked.Load() != 4 || dialed.Load() != 2 {
		t.Errorf("the service was asked %d times on %d connections", asked.Load(), dialed.Load())
	}
}

func TestAnAnswerBeforeTheRequestIsOver(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(stdhttp.StatusRequestEntityTooLarge)
	}), http.Resource{})
	pr, pw := io.Pipe()
	defer pw.Close()
	go fmt.Fprint(pw, "the beginning of something that never ends")
	r, err := stdhttp.NewRequestWithContext(t.Context(), "POST", "http://gateway.test/things", pr)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+prototest.Token)
	if got, err := g.agent(2).send(r); err != nil || got.Status != stdhttp.StatusRequestEntityTooLarge {
		t.Errorf("%+v, %v", got, err)
	}
	if o := g.last().Outcome(); o.Code != "413" {
		t.Errorf("%+v", o)
	}
}

func TestAgentsThatGo(t *testing.T) {
	arrived, over := make(chan bool), make(chan bool)
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if r.URL.Path == "/stream" {
			fmt.Fprint(w, "begun")
			stdhttp.NewResponseController(w).Flush()
		}
		arrived <- true
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		over <- true
	}), http.Resource{})
	for name, c := range map[string]struct {
		method, path string
		body         io.Reader
		want         evidence.OutcomeClass
	}{
		"before an answer":        {"GET", "/things/1", nil, evidence.InDoubt},
		"in the middle of one":    {"GET", "/stream", nil, evidence.Cancelled},
		"within their own upload": {"POST", "/things", struct{ io.Reader }{neverEnding{}}, evidence.InDoubt},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := stdhttp.NewRequestWithContext(ctx, c.method, "http://gateway.test"+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+prototest.Token)
		done, begun := make(chan error), make(chan bool, 1)
		go func() {
			resp, err := g.agent(1).client.Do(r)
			if err == nil {
				begun <- true
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			done <- err
		}()
		<-arrived
		if c.want == evidence.Cancelled {
			<-begun
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		<-over // the service learns of it
		if o := g.last().Outcome(); o.Class != c.want {
			t.Errorf("%s: %+v, want %s", name, o, c.want)
		}
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return copy(b, "more"), nil
}

// A slow reader slows the service down, and not the gateway's memory.
func TestSlowReaders(t *testing.T) {
	const size = 64 << 20
	var sent atomic.Int64
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		for sent.Load() < size {
			n, err := fmt.Fprintf(w, "%65536s", "")
			if err != nil {
				t.Error(err)
				return
			}
			sent.Add(int64(n))
		}
	}), http.Resource{})
	a := g.agent(1)
	r, err := stdhttp.NewRequestWithContext(t.Context(), "GET", "http://gateway.test/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+prototest.Token)
	resp, err := a.client.Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	time.Sleep(500 * time.Millisecond)
	if n := sent.Load(); n > size/2 {
		t.Errorf("the service has sent %d bytes that nobody has read", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Who promises a content and stalls is not waited for without end.
func TestSlowWriters(t *testing.T) {
	g := startGateway(t, stdhttp.NotFoundHandler(), http.Resource{})
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\nhalf", prototest.Token)
	began := time.Now()
	if err := c.SetReadDeadline(began.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("after %v: %q, %v", time.Since(began), b, err)
	}
	if n := len(g.Sessions()[0].Exchanges()); n != 0 {
		t.Errorf("%d commands", n)
	}
}

func TestSessionsOfManyConnections(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		fmt.Fprint(w, r.RemoteAddr)
	}), http.Resource{})
	g.Expires = time.Now().Add(2 * time.Second)
	upstreams := make(map[string]bool)
	for range 3 {
		got, err := g.agent(1).do("GET", "/things/1", "")
		if err != nil {
			t.Fatal(err)
		}
		upstreams[got.Body] = true
	}
	joined := 0
	for _, n := range g.Sessions()[0].Notes() {
		if n.Kind == "connection" {
			joined++
		}
	}
	if len(g.Sessions()) != 1 || joined != 2 || len(upstreams) != 1 {
		t.Errorf("%d sessions, %d more connections, %d to the service", len(g.Sessions()), joined, len(upstreams))
	}
	// Once the token has expired it opens nothing that is open.
	time.Sleep(time.Until(g.Expires))
	if _, err := g.agent(1).do("GET", "/things/1", ""); err != nil {
		t.Fatal(err)
	}
	if n := len(g.Sessions()); n != 2 {
		t.Errorf("%d sessions", n)
	}
}
