package http_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	stdhttp "net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// gateway is a Protocol before a service, and the gate that it asks.
type gateway struct {
	*prototest.Gate
	t       *testing.T
	address string
}

func startGateway(t *testing.T, service stdhttp.Handler, r http.Resource) *gateway {
	t.Helper()
	up := httptest.NewUnstartedServer(service)
	if r.HTTP2 {
		up.Config.Protocols = new(stdhttp.Protocols)
		up.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	up.Start()
	t.Cleanup(up.Close)
	return startGatewayTo(t, protocol.Upstream{Address: up.Listener.Addr().String()}, r)
}

func startGatewayTo(t *testing.T, up protocol.Upstream, r http.Resource) *gateway {
	t.Helper()
	g := &gateway{Gate: &prototest.Gate{Upstream: up}, t: t}
	p := newProtocol(t, r, slog.New(slog.DiscardHandler), time.Minute)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if err := p.Serve(ctx, c, g.Gate); err != nil {
					t.Logf("serve: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		for _, s := range g.Sessions() {
			s.Kill(context.Canceled)
			if _, err := s.Wait(10 * time.Second); err != nil {
				t.Error(err)
			}
			for _, f := range s.Faults() {
				t.Errorf("session %s: %s", s.ID(), f)
			}
		}
		l.Close()
		cancel()
		wg.Wait()
	})
	return g
}

func (g *gateway) agent(version int) *agent {
	g.t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	a := newAgent(conn, prototest.Token, version)
	g.t.Cleanup(func() { a.Close(); conn.Close() })
	return a
}

// last returns the newest command and waits until it has ended.
func (g *gateway) last() *prototest.Exchange {
	g.t.Helper()
	for range 1500 {
		if s := g.Sessions(); len(s) > 0 {
			if x := s[len(s)-1].Exchanges(); len(x) > 0 && x[len(x)-1].Outcome() != nil {
				return x[len(x)-1]
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	g.t.Fatalf("no command has ended:\n%s", stacks[:runtime.Stack(stacks, true)])
	return nil
}

func TestWhatTheServiceGetsIsWhatIsOnRecord(t *testing.T) {
	var got *stdhttp.Request
	var content []byte
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		got = r
		content, _ = io.ReadAll(r.Body)
		w.Header().Set("X-Kept", "1")
		w.Header().Set("Exhibit-Identity", "of the service's own making")
		w.WriteHeader(stdhttp.StatusCreated)
		fmt.Fprint(w, "made")
	}), http.Resource{})
	g.Upstream.User, g.Upstream.Password = "svc", "secret-of-the-gateway"
	for version := 1; version <= 2; version++ {
		seen, err := g.agent(version).do("POST", "/things?b=1&a=%41", `{"n":7}`, "Content-Type", "application/json", "X-Forwarded-For", "10.1.1.1", "Accept", "x/y")
		if err != nil || seen.Status != stdhttp.StatusCreated || seen.Body != "made" || seen.Header.Get("X-Kept") != "1" || seen.Header.Get("Exhibit-Identity") != "" {
			t.Errorf("HTTP/%d: the agent sees %+v, %v", version, seen, err)
		}
		user, password, _ := got.BasicAuth()
		if user != "svc" || password != "secret-of-the-gateway" || got.Header.Get("X-Forwarded-For") != "" || string(content) != `{"n":7}` || got.RequestURI != "/things?b=1&a=%41" {
			t.Errorf("HTTP/%d: the service got %s %v %q", version, got.RequestURI, got.Header, content)
		}
		x := g.last()
		head, want := string(x.Raw), "POST /things?b=1&a=%41 HTTP/1.1\r\nHost: "+g.Upstream.Address+"\r\nAccept: x/y\r\nContent-Type: application/json\r\n"
		if !strings.HasPrefix(head, want) || strings.Contains(head, prototest.Token) || strings.Contains(head, "Authorization") {
			t.Errorf("HTTP/%d: sealed is %q, want it to begin %q", version, head, want)
		}
		if len(x.Params) != 1 || string(x.Params[0]) != `{"n":7}` {
			t.Errorf("HTTP/%d: the sealed content is %q", version, x.Params)
		}
		if o := x.Outcome(); o.Class != evidence.OK || o.Code != "201" || o.Reply != 4 || x.Observed(evidence.ToAgent) != 4 {
			t.Errorf("HTTP/%d: the outcome is %+v", version, o)
		}
		if !slices.Equal(x.Facts["stripped"].([]string), []string{"x-forwarded-for"}) {
			t.Errorf("HTTP/%d: the facts are %v", version, x.Facts)
		}
	}
}

// What the gateway sends in its own name takes the place of what an agent sends
// under it, however that is spelt.
func TestFieldsOfTheGatewayReplaceTheAgents(t *testing.T) {
	var got stdhttp.Header
	service := stdhttp.HandlerFunc(func(_ stdhttp.ResponseWriter, r *stdhttp.Request) { got = r.Header })
	for _, http2 := range []bool{false, true} {
		g := startGateway(t, service, http.Resource{Route: httpgate.Route{HTTP2: http2}})
		g.Upstream.Header = func(context.Context) (string, string, error) { return "X-API-key", "the gateway's", nil }
		if err := g.agent(1).ask("GET", "/things/1", "", "X-Api-Key", "the agent's", "X_api_key", "another", "Via", "1.0 before"); err != nil {
			t.Fatal(err)
		}
		if key := got["X-Api-Key"]; len(key) != 1 || key[0] != "the gateway's" || got["X_api_key"] != nil {
			t.Errorf("HTTP/2 %v: the service got %v", http2, got)
		}
		if v := strings.Join(got["Via"], ", "); v != "1.0 before, 1.1 exhibit" {
			t.Errorf("HTTP/2 %v: Via is %q", http2, v)
		}
		x := g.last()
		if strings.Contains(strings.ToLower(string(x.Raw)), "api") {
			t.Errorf("HTTP/2 %v: sealed is %q", http2, x.Raw)
		}
		notes := fmt.Sprint(g.Sessions()[0].Notes())
		if !strings.Contains(notes, "to each request: Host, X-Api-Key, Via") {
			t.Errorf("HTTP/2 %v: noted is %s", http2, notes)
		}
		g.Upstream.Header = func(context.Context) (string, string, error) { return "X-Api-Key", "a\r\nX-Admin: 1", nil }
		if got, err := g.agent(1).do("GET", "/things/1", ""); err != nil || got.Status != stdhttp.StatusBadGateway {
			t.Errorf("HTTP/2 %v: a credential with a line break: %+v, %v", http2, got, err)
		}
	}
}

func TestTheServiceIsVerifiedAndSeesACertificate(t *testing.T) {
	up := httptest.NewUnstartedServer(stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	certificate, key := selfSigned(t)
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	up.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()
	ours := []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}}
	roots := x509.NewCertPool()
	roots.AddCert(up.Certificate())
	for _, http2 := range []bool{false, true} {
		r := http.Resource{Route: httpgate.Route{HTTP2: http2}}
		g := startGatewayTo(t, protocol.Upstream{Address: up.Listener.Addr().String(), TLS: &tls.Config{RootCAs: roots, ServerName: "example.com", Certificates: ours}}, r)
		if got, err := g.agent(1).do("GET", "/things/1", ""); err != nil || got.Body != "the gateway" {
			t.Errorf("HTTP/2 %v: %+v, %v", http2, got, err)
		}
		if c := g.Sessions()[0].Connection(); !strings.HasPrefix(c.TLS, "TLS 1.3") || len(c.Peer) != 64 || c.Remote != up.Listener.Addr().String() {
			t.Errorf("HTTP/2 %v: the connection on record is %+v", http2, c)
		}
		for name, cfg := range map[string]*tls.Config{
			"an authority that isn't trusted": {ServerName: "example.com", RootCAs: x509.NewCertPool(), Certificates: ours},
			"another name":                    {ServerName: "elsewhere.test", RootCAs: roots, Certificates: ours},
		} {
			g := startGatewayTo(t, protocol.Upstream{Address: up.Listener.Addr().String(), TLS: cfg}, r)
			if got, err := g.agent(1).do("GET", "/things/1", ""); err != nil || got.Status != stdhttp.StatusBadGateway || g.last().Outcome().Code != "unreachable" {
				t.Errorf("HTTP/2 %v, %s: %+v, %v", http2, name, got, err)
			}
		}
	}
}

// selfSigned is a client certificate of the gateway.
func selfSigned(t *testing.T) (*x509.Certificate, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the gateway"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func TestStatusesOfTheServiceAreOutcomes(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/things/"))
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
	}), http.Resource{})
	a := g.agent(1)
	for _, status := range []int{200, 204, 304, 404, 500} {
		if got, err := a.do("GET", fmt.Sprintf("/things/%d", status), ""); err != nil || got.Status != status {
			t.Errorf("%d: %+v, %v", status, got, err)
		}
		want := evidence.OK
		if status >= 400 {
			want = evidence.Failed
		}
		if o := g.last().Outcome(); o.Class != want || o.Code != fmt.Sprint(status) {
			t.Errorf("%d: %+v", status, o)
		}
	}
}

// An agent gets what a service says of its content, and nothing that is the
// connection's or only the gateway's to say.
func TestFieldsOfAnswers(t *testing.T) {
	g := startGateway(t, hijacked(func(_ net.Conn, rw *bufio.ReadWriter) {
		fmt.Fprint(rw, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"+
			"Proxy-Authenticate: Basic\r\nExhibit-Identity: forged\r\nUpgrade: h2c\r\nX-Twice: 1\r\nX-Twice: 2\r\nEtag: \"1\"\r\n\r\n")
		rw.Flush()
	}), http.Resource{})
	for name, c := range map[string]struct {
		version int
		close   bool
	}{"plain": {1, false}, "not plain": {1, true}, "HTTP/2": {2, false}} {
		r, err := stdhttp.NewRequestWithContext(t.Context(), stdhttp.MethodHead, "http://gateway.test/things/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Close = c.close
		r.Header.Set("Authorization", "Bearer "+prototest.Token)
		resp, err := g.agent(c.version).client.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		h := resp.Header
		if h.Get("Date") == "" {
			t.Errorf("%s: no date", name)
		}
		h.Del("Date")
		if want := (stdhttp.Header{"Content-Length": {"4"}, "Etag": {`"1"`}, "X-Twice": {"1", "2"}}); !reflect.DeepEqual(h, want) {
			t.Errorf("%s: %v, want %v", name, h, want)
		}
	}
}

func TestLargeContentsFlowAndAreDigested(t *testing.T) {
	const size = 4 << 20
	var received int64
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		var err error
		if received, err = io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		if r.URL.Query().Has("sized") {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		for range size >> 16 {
			fmt.Fprintf(w, "%65536s", "")
		}
	}), http.Resource{})
	for version := 1; version <= 2; version++ {
		for _, path := range []string{"/things", "/things?sized"} {
			got, err := g.agent(version).do("POST", path, strings.Repeat("y", size))
			if err != nil || len(got.Body) != size || received != size {
				t.Errorf("HTTP/%d: %d bytes back of %d received, %v", version, len(got.Body), received, err)
			}
			x := g.last()
			if x.Observed(evidence.ToUpstream) != size || x.Observed(evidence.ToAgent) != size || x.Params != nil || x.Outcome().Reply != size {
				t.Errorf("HTTP/%d: observed %d and %d, outcome %+v", version, x.Observed(evidence.ToUpstream), x.Observed(evidence.ToAgent), x.Outcome())
			}
		}
	}
}

func TestEventsArriveAsTheyHappen(t *testing.T) {
	next := make(chan string)
	defer func() {
		if t.Failed() {
			close(next)
		}
	}()
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		stdhttp.NewResponseController(w).Flush()
		for e := range next {
			fmt.Fprintf(w, "data: %s\n\n", e)
			stdhttp.NewResponseController(w).Flush()
		}
	}), http.Resource{})
	a := g.agent(1)
	r, err := stdhttp.NewRequestWithContext(t.Context(), "GET", "http://gateway.test/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+prototest.Token)
	resp, err := a.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, e := range []string{"one", "two"} {
		next <- e
		if line, err := lines.ReadString('\n'); err != nil || line != "data: "+e+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != "\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	x := g.Sessions()[0].Exchanges()[0]
	if x.Outcome() != nil {
		t.Error("it has ended already")
	}
	close(next)
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
	if o := g.last().Outcome(); o.Class != evidence.OK {
		t.Errorf("%+v", o)
	}
}

func TestTrailersPass(t *testing.T) {
	var got stdhttp.Header
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		got = r.Trailer
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "content")
		w.Header().Set("X-Sum", "7")
		w.Header().Set(stdhttp.TrailerPrefix+"X-Late", "8")
	}), http.Resource{})
	for version := 1; version <= 2; version++ {
		r, err := stdhttp.NewRequestWithContext(t.Context(), "POST", "http://gateway.test/things", struct{ io.Reader }{strings.NewReader("abc")})
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+prototest.Token)
		r.Trailer = stdhttp.Header{"X-Mine": {"1"}, "Exhibit-Identity": {"forged"}}
		seen, err := g.agent(version).send(r)
		if err != nil || seen.Trailer.Get("X-Sum") != "7" || seen.Trailer.Get("X-Late") != "8" {
			t.Errorf("HTTP/%d: the agent sees %v, %v", version, seen.Trailer, err)
		}
		if got.Get("X-Mine") != "1" || got.Get("Exhibit-Identity") != "" {
			t.Errorf("HTTP/%d: the service sees %v", version, got)
		}
	}
}

func TestWebSocket(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		sum := sha256.Sum256([]byte(r.Header.Get("Sec-Websocket-Key")))
		conn, rw, err := stdhttp.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\nhello", base64.StdEncoding.EncodeToString(sum[:20]))
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "you said "+line)
		rw.Flush()
	}), http.Resource{})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: a\r\n\r\n", prototest.Token)
	br := bufio.NewReader(conn)
	resp, err := stdhttp.ReadResponse(br, nil)
	if err == nil {
		defer resp.Body.Close()
	}
	if err != nil || resp.StatusCode != stdhttp.StatusSwitchingProtocols || resp.Header.Get("Sec-Websocket-Accept") == "" || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%+v, %v", resp, err)
	}
	fmt.Fprint(conn, "a frame\n")
	all, err := io.ReadAll(br)
	if string(all) != "helloyou said a frame\n" {
		t.Errorf("%q, %v", all, err)
	}
	x := g.last()
	if x.Parse != evidence.ParseOpaque || x.Verb != evidence.VerbOpaque || x.Observed(evidence.ToUpstream) != 8 || x.Observed(evidence.ToAgent) != 22 || x.Outcome().Code != "101" {
		t.Errorf("%s %s, %d and %d bytes, %+v", x.Parse, x.Verb, x.Observed(evidence.ToUpstream), x.Observed(evidence.ToAgent), x.Outcome())
	}
}

func TestOtherUpgradesAreNone(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		fmt.Fprintf(w, "%v", r.Header["Upgrade"])
	}), http.Resource{})
	if got, err := g.agent(1).do("GET", "/things/1", "", "Connection", "Upgrade", "Upgrade", "h2c"); err != nil || got.Body != "[]" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A gRPC call as gRPC's own libraries make it, without their help.
func TestCallsOfGRPC(t *testing.T) {
	g := startGateway(t, stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			t.Errorf("the service got %s %v", r.Proto, r.Header)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if strings.HasSuffix(r.URL.Path, "/Fail") {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		buf := make([]byte, 5)
		for { // a stream both ways
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				break
			}
			fmt.Fprintf(w, "%s", buf)
			stdhttp.NewResponseController(w).Flush()
		}
		w.Header().Set(stdhttp.TrailerPrefix+"Grpc-Status", "0")
	}), http.Resource{Route: httpgate.Route{HTTP2: true}})
	g.Decide = func(c *evidence.Command) evidence.Decision {
		if strings.HasSuffix(c.Checks[0].Object, "/Drop") {
			return evidence.Decision{Effect: evidence.Deny, Reason: "no"}
		}
		return evidence.Decision{Effect: evidence.Allow}
	}
	a := g.agent(2)
	pr, pw := io.Pipe()
	request := func(path string, body io.Reader) *stdhttp.Request {
		t.Helper()
		r, err := stdhttp.NewRequestWithContext(t.Context(), "POST", "http://gateway.test"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{"Authorization": "Bearer " + prototest.Token, "Content-Type": "application/grpc+proto", "Te": "trailers"} {
			r.Header.Set(k, v)
		}
		return r
	}
	call := func(path string) answer {
		t.Helper()
		got, err := a.send(request(path, strings.NewReader("\x00\x00\x00\x00\x00")))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	go fmt.Fprint(pw, "\x00\x00\x00\x00\x00")
	resp, err := a.client.Do(request("/shop.v1.Orders/Watch", pr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 5)
	for range 3 {
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			t.Fatal(err)
		}
		go fmt.Fprintf(pw, "%s", buf)
	}
	pw.CloseWithError(io.EOF)
	if _, err := io.ReadAll(resp.Body); err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("trailers %v, %v", resp.Trailer, err)
	}
	if x := g.last(); x.Outcome().Code != "grpc:0" || x.Outcome().Class != evidence.OK || x.Checks[0].Object != "shop.v1.Orders/Watch" || x.Observed(evidence.ToUpstream) == 0 {
		t.Errorf("%+v %+v", x.Checks, x.Outcome())
	}
	if resp := call("/shop.v1.Orders/Fail"); resp.Header.Get("Grpc-Status") != "5" {
		t.Errorf("%+v", resp)
	}
	if x := g.last(); x.Outcome().Code != "grpc:5" || x.Outcome().Class != evidence.Failed {
		t.Errorf("%+v", x.Outcome())
	}
	denied := call("/shop.v1.Orders/Drop")
	if denied.Status != stdhttp.StatusOK || denied.Header.Get("Grpc-Status") != "7" || !strings.Contains(denied.Header.Get("Grpc-Message"), "refused by the access gateway: no") {
		t.Errorf("%+v", denied)
	}
}

// What many requests at once needed is there for the next many.
func TestUpstreamConnectionsAreKept(t *testing.T) {
	const many = 100
	var connections atomic.Int64
	var together atomic.Pointer[sync.WaitGroup] // of all requests of a wave
	up := httptest.NewUnstartedServer(stdhttp.HandlerFunc(func(stdhttp.ResponseWriter, *stdhttp.Request) {
		together.Load().Done()
		together.Load().Wait()
	}))
	up.Config.ConnState = func(_ net.Conn, state stdhttp.ConnState) {
		if state == stdhttp.StateNew {
			connections.Add(1)
		}
	}
	up.Start()
	t.Cleanup(up.Close)
	g := startGatewayTo(t, protocol.Upstream{Address: up.Listener.Addr().String()}, http.Resource{})
	a := g.agent(2)
	for _, n := range []int{1, many, many, many} { // the first one connects
		var all, wave sync.WaitGroup
		wave.Add(n)
		together.Store(&wave)
		for range n {
			all.Go(func() {
				if err := a.ask("GET", "/things/1", ""); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := connections.Load(); n != many {
		t.Errorf("%d connections for %d requests at once", n, many)
	}
}
