package httpgate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// seen is what a handler gets of a request.
type seen struct {
	Method, Target, Host, Proto, Body string
	Header                            http.Header
	Length                            int64
	Encoding                          []string
	Close                             bool
	Trailer                           http.Header
}

// watched is a server whose handler notes what it gets, and answers by the path.
type watched struct {
	*Server
	mu   sync.Mutex
	seen []seen
	over []error // of requests' contexts
}

func newWatched(l Limits) *watched {
	s := &watched{}
	s.Server = New(Config{Protocol: "x", Handler: refuser{}, Open: s.open, Limits: l, Logger: slog.New(slog.DiscardHandler)})
	return s
}

func (s *watched) open(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path == "/unread" {
		w.WriteHeader(http.StatusOK)
		return true
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	s.seen = append(s.seen, seen{r.Method, r.RequestURI, r.Host, r.Proto, string(body), r.Header.Clone(), r.ContentLength, r.TransferEncoding, r.Close, r.Trailer.Clone()})
	s.mu.Unlock()
	h := w.Header()
	h["Content-Type"] = nil
	switch name, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); name {
	case "status":
		status, err := strconv.Atoi(arg)
		if err != nil {
			panic(err)
		}
		h.Set("Content-Length", "4")
		w.WriteHeader(status)
		w.Write([]byte("text")) //nolint:errcheck // it may be one without
	case "write": // as many bytes as it says, in pieces as large as it says
		n, piece, _ := strings.Cut(arg, "x")
		left, _ := strconv.Atoi(n)
		size, _ := strconv.Atoi(piece)
		for ; left > 0; left -= size {
			if _, err := w.Write(bytes.Repeat([]byte("z"), min(left, size))); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	case "declared":
		h.Set("Content-Length", arg)
		io.WriteString(w, strings.Repeat("y", 100)) //nolint:errcheck // it may be too much
	case "flushed":
		rc := http.NewResponseController(w)
		for i := range 3 {
			fmt.Fprintf(w, "part %d;", i)
			if err := rc.Flush(); err != nil {
				panic(err)
			}
		}
	case "silent":
		if err := http.NewResponseController(w).Flush(); err != nil {
			panic(err)
		}
	case "trailers":
		h.Set("Trailer", "X-One, X-Two")
		io.WriteString(w, "content") //nolint:errcheck // the test sees
		h.Set("X-One", "1")
		h.Set(http.TrailerPrefix+"X-Late", "late")
	case "fields":
		h.Set("X-Split", "a\r\nX-Injected: b")
		h["bad name"] = []string{"x"}
		h.Set("X-Space", "  around  ")
		h.Add("X-Twice", "1")
		h.Add("X-Twice", "2")
		h.Set("Date", "Thu, 26 Nov 2026 10:00:00 GMT")
	case "close":
		h.Set("Connection", "close")
	case "abort":
		io.WriteString(w, "half of it") //nolint:errcheck // it is not to arrive
		panic(http.ErrAbortHandler)
	case "wait":
		<-r.Context().Done()
		s.mu.Lock()
		s.over = append(s.over, r.Context().Err())
		s.mu.Unlock()
		io.WriteString(w, "the end") //nolint:errcheck // nobody may be there
	case "slow":
		time.Sleep(5 * lookAfter)
		fmt.Fprint(w, r.Context().Err())
	}
	return true
}

// pair is a connection's both ends.
func pair(t testing.TB) (peer, agent net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peer, err = new(net.Dialer).DialContext(context.Background(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if agent, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return peer, agent
}

// serve serves a connection as the gateway does, or by net/http alone.
func (s *watched) serve(t testing.TB, agent net.Conn, alone bool) (served chan error, end context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served = make(chan error, 1)
	go func() {
		if !alone {
			served <- s.Serve(ctx, agent, &prototest.Gate{})
			return
		}
		c := &connection{Server: s.Server, agent: agent, cancel: cancel, closed: make(chan struct{})}
		served <- errors.Join(c.standard(ctx, agent), ignoreClosed(agent.Close()))
	}()
	t.Cleanup(cancel)
	return served, cancel
}

// told is an answer as an agent gets it.
type told struct {
	Status  int
	Header  http.Header
	Length  int64
	Body    string
	Trailer http.Header
	Broken  bool
}

const bye = "GET /bye HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n"

// ask sends pieces of text, and that the agent leaves, and reads all answers.
// When a connection is reset, since it ended with something unread, the last may
// be lost.
func (s *watched) ask(t testing.TB, alone bool, methods []string, pieces ...string) (answers []told, reset bool) {
	t.Helper()
	peer, agent := pair(t)
	served, _ := s.serve(t, agent, alone)
	pieces[len(pieces)-1] += bye
	for i, text := range pieces {
		if i > 0 {
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := io.WriteString(peer, text); err != nil {
			break // it was closed
		}
	}
	// Of half a request that is still waited for, there won't be more.
	defer time.AfterFunc(5*time.Second, func() { peer.(*net.TCPConn).CloseWrite() }).Stop() //nolint:errcheck // it was closed
	peer.SetReadDeadline(time.Now().Add(time.Minute))                                       //nolint:errcheck // reads fail, then
	br := bufio.NewReader(peer)
	for i := 0; ; i++ {
		asked := &http.Request{Method: http.MethodGet}
		if i < len(methods) {
			asked.Method = methods[i]
		}
		r, err := http.ReadResponse(br, asked)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%q: nothing more comes, and no end", pieces)
			}
			reset = errors.Is(err, syscall.ECONNRESET)
			break
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if reset = errors.Is(err, syscall.ECONNRESET); reset {
			break
		}
		if r.Header.Get("Date") != "" {
			r.Header.Set("Date", "a date")
		}
		if r.Close {
			r.Header.Set("Connection", "close")
		}
		answers = append(answers, told{r.StatusCode, r.Header, r.ContentLength, string(body), r.Trailer, err != nil})
		if err != nil {
			break
		}
	}
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%q: the connection is served without end", pieces)
	}
	return answers, reset
}

// compare has both ways take the same bytes.
func compare(t *testing.T, methods []string, pieces ...string) {
	t.Helper()
	l := Limits{Header: 1 << 10, Login: 5 * time.Second}
	ours, theirs := newWatched(l), newWatched(l)
	got, reset := ours.ask(t, false, methods, slices.Clone(pieces)...)
	want, again := theirs.ask(t, true, methods, slices.Clone(pieces)...)
	if reset || again {
		n := min(len(got), len(want))
		got, want = append([]told{}, got[:n]...), append([]told{}, want[:n]...)
	}
	if !reflect.DeepEqual(ours.seen, theirs.seen) {
		t.Errorf("%q:\nseen %+v\nwant %+v", pieces, ours.seen, theirs.seen)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\nanswered %+v\nwant     %+v", pieces, got, want)
	}
}

// What an agent can say, and how it may be said wrong: nothing of it is taken
// otherwise than by net/http.
func TestRequestsAreReadAsNetHTTPReadsThem(t *testing.T) {
	const end = "\r\nHost: h.test\r\n\r\n"
	next := "GET /next HTTP/1.1" + end
	for _, first := range []string{
		"GET /a HTTP/1.1" + end,
		"GET /a?b=c%20d&e HTTP/1.1" + end,
		"DELETE /a HTTP/1.1" + end,
		"PROPFIND /a HTTP/1.1" + end,
		"get /a HTTP/1.1" + end,
		"G=T /a HTTP/1.1" + end,
		"GET  /a HTTP/1.1" + end,
		"GET /a  HTTP/1.1" + end,
		"GET /a HTTP/1.1 " + end,
		"GET /a b HTTP/1.1" + end,
		"GET\t/a HTTP/1.1" + end,
		" GET /a HTTP/1.1" + end,
		"\r\nGET /a HTTP/1.1" + end,
		"GET /a HTTP/1.0" + end,
		"GET /a HTTP/1.0\r\nHost: h.test\r\nConnection: keep-alive\r\n\r\n",
		"GET /a HTTP/1.2" + end,
		"GET /a HTTP/2.0" + end,
		"GET /a HTTP/01.1" + end,
		"GET /a http/1.1" + end,
		"GET /a" + end,
		"GET http://other.test/a HTTP/1.1" + end,
		"GET * HTTP/1.1" + end,
		"OPTIONS * HTTP/1.1" + end,
		"GET a HTTP/1.1" + end,
		"GET //a HTTP/1.1" + end,
		"GET /%zz HTTP/1.1" + end,
		"GET /\x7f HTTP/1.1" + end,
		"GET /\xc3\xa4 HTTP/1.1" + end,
		"CONNECT h.test:443 HTTP/1.1" + end,
		"CONNECT /a HTTP/1.1" + end,
		"GET /a HTTP/1.1\nHost: h.test\n\n",
		"GET /a HTTP/1.1\r\nHost: h.test\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\n\n",
		"GET /a HTTP/1.1\r\r\nHost: h.test\r\n\r\n",
		"GET /a HTTP/1.1\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nHost: h.test\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test, i.test\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h test\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
		"GET /a HTTP/1.1\r\nhOST: H.test:80\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost : h.test\r\n\r\n",
		"GET /a HTTP/1.1\r\n Host: h.test\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: a\r\n b\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX:\r\n\tb\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: a\tb\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX:   a  \r\nX:b\r\nx_y: c\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: \xff\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: a\x00b\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: a\rb\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\n: x\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX(: y\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX!#$: y\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nConnection: keep-alive\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nConnection: keep-alive, X\r\nX: 1\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nPragma: no-cache\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\n\r\nbody",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4, 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: +4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: -4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 0x4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 04\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4 \r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: \r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length : 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent_Length: 4\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 99999999999999999999\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 3\r\nTransfer-Encoding:\tchunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: xchunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n4\r\nbody\r\n0\r\nX-T: 1\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nTrailer: X\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nExpect: something\r\nContent-Length: 4\r\n\r\nbody",
		"POST /unread HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\n\r\nbody",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: " + strings.Repeat("x", 1<<10) + "\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h.test\r\nX: " + strings.Repeat("x", 10<<10) + "\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 8100\r\n\r\n" + strings.Repeat("x", 8100),
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9000\r\n\r\n" + strings.Repeat("x", 9000),
		"POST /a HTTP/1.1\r\nHost: h.test\r\nContent-Length: 50\r\n\r\nless, and then the end",
		"GET /a HTTP/1.1\r\nHost: h.",
		"\x16\x03\x01\x02\x00",
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			compare(t, nil, first+next)
			compare(t, nil, next+first+next)
			half := len(first) / 2
			compare(t, nil, next, first[:half], first[half:]+next)
			if i := strings.Index(first, "\r\n\r\n"); i >= 0 {
				compare(t, nil, first[:i+4], first[i+4:]+next)
				compare(t, nil, first[:i+2], first[i+2:]+next)
			}
		})
	}
}

func TestAnswersAreWrittenAsNetHTTPWritesThem(t *testing.T) {
	for _, path := range []string{
		"/", "/status/200", "/status/201", "/status/204", "/status/304", "/status/404", "/status/599", "/status/799",
		"/write/1x1", "/write/2048x2048", "/write/2049x2049", "/write/4096x10", "/write/100000x100000", "/write/100000x1000", "/write/70000x7",
		"/declared/100", "/declared/0", "/declared/99", "/declared/101",
		"/flushed", "/silent", "/trailers", "/fields", "/close", "/abort",
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			t.Run(method+path, func(t *testing.T) {
				t.Parallel()
				text := method + " " + path + " HTTP/1.1\r\nHost: h.test\r\n\r\n"
				compare(t, []string{method, "GET"}, text+"GET /next HTTP/1.1\r\nHost: h.test\r\n\r\n")
			})
		}
	}
}

// A head over the limit is none of ours, though there is room for it.
func TestHeadsHaveALimit(t *testing.T) {
	compare(t, nil, "GET /a HTTP/1.1\r\nHost: h.test\r\nX: "+strings.Repeat("x", 6<<10)+"\r\n\r\n")
}

// A head that is taken for plain is one, by the standard library's word, and ends
// where that says.
func FuzzPlainHeads(f *testing.F) {
	for _, seed := range []string{
		"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "POST /a?b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody",
		"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, ok := readHead(b)
		if !ok {
			return
		}
		if q.size > len(b) || !bytes.HasSuffix(b[:q.size], []byte("\r\n\r\n")) || q.length < 0 {
			t.Fatalf("%q: %+v", b, q)
		}
		whole := append(bytes.Clone(b[:q.size]), make([]byte, q.length)...)
		br := bufio.NewReader(bytes.NewReader(append(whole, "GET"...)))
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		body, err := io.ReadAll(r.Body)
		rest, _ := io.ReadAll(br)
		if err != nil || len(body) != q.length || string(rest) != "GET" || r.ContentLength != int64(q.length) {
			t.Fatalf("%q: %+v: a content of %d bytes, %v; then %q", b, q, len(body), err, rest)
		}
		if r.Proto != "HTTP/1.1" || r.Close || len(r.TransferEncoding) > 0 || r.Trailer != nil || r.Host == "" || r.RequestURI[0] != '/' {
			t.Fatalf("%q: %+v", b, r)
		}
		for _, name := range slices.Collect(maps.Keys(r.Header)) {
			if !isToken(name) || hop[name] && name != "Connection" && name != "Content-Length" && name != "Authorization" &&
				name != "Keep-Alive" && name != "Proxy-Connection" && name != "Proxy-Authenticate" && name != "Proxy-Authorization" && name != "Te" {
				t.Fatalf("%q: %s", b, name)
			}
		}
	})
}

func TestAnAgentThatLeavesEndsItsRequest(t *testing.T) {
	s := newWatched(Limits{})
	peer, agent := pair(t)
	served, _ := s.serve(t, agent, false)
	fmt.Fprint(peer, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(2 * lookAfter) // it is being looked for
	peer.Close()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("its request goes on")
	}
	if len(s.over) != 1 || !errors.Is(s.over[0], context.Canceled) {
		t.Error(s.over)
	}
}

// A look that comes too late, when its request has been served, reads nothing of
// the next one.
func TestAnAgentIsLookedForDuringItsRequestOnly(t *testing.T) {
	peer, agent := pair(t)
	fmt.Fprint(peer, "next")
	p := newPlain(t.Context(), &connection{Server: newWatched(Limits{}).Server, agent: agent})
	p.looking, p.over = make(chan struct{}, 1), true
	p.watching()
	<-p.looking
	b := make([]byte, 8)
	if n, err := p.Read(b); err != nil || string(b[:n]) != "next" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// Whoever sends its next request before it has an answer to this one hasn't left.
func TestRequestsMayComeBeforeTheAnswer(t *testing.T) {
	s := newWatched(Limits{})
	peer, agent := pair(t)
	s.serve(t, agent, false)
	br := bufio.NewReader(peer)
	for range 3 {
		fmt.Fprint(peer, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
		time.Sleep(2 * lookAfter)
		fmt.Fprint(peer, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
		for range 2 {
			r, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r.Body); err != nil || string(b) != "<nil>" {
				t.Errorf("%s, %v", b, err)
			}
			r.Body.Close()
		}
	}
}

func TestConnectionsWithoutRequestsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		limits Limits
		first  string
	}{
		"that never had one": {Limits{Login: 50 * time.Millisecond, Idle: time.Hour}, ""},
		"that had some":      {Limits{Login: time.Hour, Idle: 25 * time.Millisecond}, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"},
		"with half a one":    {Limits{Login: 50 * time.Millisecond, Idle: time.Hour}, "GET /a HTTP/1.1\r\nHost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWatched(c.limits)
			peer, agent := pair(t)
			served, _ := s.serve(t, agent, false)
			fmt.Fprint(peer, c.first)
			select {
			case err := <-served:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("it stays")
			}
		})
	}
}

// When a connection must end, what is being answered still is.
func TestTheLastAnswerArrives(t *testing.T) {
	s := newWatched(Limits{})
	peer, agent := pair(t)
	served, end := s.serve(t, agent, false)
	fmt.Fprint(peer, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(2 * lookAfter)
	end()
	r, err := http.ReadResponse(bufio.NewReader(peer), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "the end" || !r.Close {
		t.Errorf("%q, %v, and is it the last: %v", b, err, r.Close)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// An agent that takes nothing keeps no connection open that must end.
func TestAnAgentThatTakesNothingIsLeft(t *testing.T) {
	s := newWatched(Limits{})
	peer, agent := pair(t)
	served, end := s.serve(t, agent, false)
	fmt.Fprint(peer, "GET /write/100000000x100000000 HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(100 * time.Millisecond)
	end()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * courtesy):
		t.Error("it stays")
	}
}

// The certificate that a connection began with counts for all of its requests,
// whoever serves them.
func TestTLSIsThatOfTheConnection(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	var states []*tls.ConnectionState
	s := New(Config{Protocol: "x", Handler: refuser{}, Logger: slog.New(slog.DiscardHandler), Open: func(_ http.ResponseWriter, r *http.Request) bool {
		states = append(states, r.TLS)
		return true
	}})
	for _, proto := range []string{"http/1.1", "h2"} {
		states = nil
		peer, agent := pair(t)
		secured := tls.Server(agent, TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}))
		served := make(chan error, 1)
		go func() {
			if err := secured.HandshakeContext(context.Background()); err != nil {
				t.Error(err)
			}
			served <- s.Serve(context.Background(), secured, &prototest.Gate{})
		}()
		client := tls.Client(peer, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}, NextProtos: []string{proto}})
		protocols := new(http.Protocols)
		protocols.SetHTTP1(proto != "h2")
		protocols.SetHTTP2(proto == "h2")
		tr := &http.Transport{Protocols: protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return client, client.HandshakeContext(context.Background())
		}}
		for _, body := range []io.Reader{nil, struct{ io.Reader }{strings.NewReader("in chunks")}, nil} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://h.test/a", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body) //nolint:errcheck // there is none
			resp.Body.Close()
		}
		client.Close() // with which the agent has gone
		if err := <-served; err != nil {
			t.Error(err)
		}
		if len(states) != 3 {
			t.Fatalf("%s: %d requests", proto, len(states))
		}
		for _, state := range states {
			if state == nil || len(state.PeerCertificates) != 1 || state.NegotiatedProtocol != proto {
				t.Errorf("%s: %+v", proto, state)
			}
		}
	}
}

// What a handler has more to do after its answer is nothing that the agent waits
// for.
func TestAnAnswerMayEndBeforeItsHandler(t *testing.T) {
	going := make(chan bool)
	s := New(Config{Protocol: "x", Handler: refuser{}, Logger: slog.New(slog.DiscardHandler), Open: func(w http.ResponseWriter, _ *http.Request) bool {
		io.WriteString(w, "the answer") //nolint:errcheck // the agent sees
		if err := End(w); err != nil {
			t.Error(err)
		}
		<-going
		if n, err := io.WriteString(w, "more"); err == nil {
			t.Errorf("wrote %d bytes behind the end", n)
		}
		return true
	}})
	peer, agent := pair(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), agent, &prototest.Gate{}) }()
	br := bufio.NewReader(peer)
	for range 2 {
		fmt.Fprint(peer, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "the answer" {
			t.Errorf("%q, %v", b, err)
		}
		r.Body.Close()
		going <- true
	}
	peer.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
