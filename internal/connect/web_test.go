package connect

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// site is a gateway's HTTP listener that does as h says, and its resource.
func site(t *testing.T, c *Config, encrypted bool, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetHTTP2(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	if encrypted {
		cert, pool := certificate(t, "127.0.0.1")
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.EnableHTTP2 = true
		s.StartTLS()
		c.TLS = &tls.Config{RootCAs: pool}
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return "tools=" + s.URL
}

// browser is an HTTP client of some versions of it.
func browser(t *testing.T, two bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetUnencryptedHTTP2(two)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answer is one that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

func do(t *testing.T, c *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// versions runs a test with each version of HTTP on the client's leg, and with
// and without TLS on the gateway's.
func versions(t *testing.T, test func(t *testing.T, c *http.Client, encrypted bool)) {
	for _, two := range []bool{false, true} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP2=%t,TLS=%t", two, encrypted), func(t *testing.T) { test(t, browser(t, two), encrypted) })
		}
	}
}

func TestARequestGoesOnWithAFreshToken(t *testing.T) {
	versions(t, func(t *testing.T, c *http.Client, encrypted bool) {
		var config Config
		resource := site(t, &config, encrypted, func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(rw, "%s %s host=%t auth=%q proxy=%q for=%q ua=%q q=%q body=%q", r.Method, r.URL.EscapedPath(), r.Host == r.Context().Value(http.LocalAddrContextKey).(net.Addr).String(),
				r.Header.Values("Authorization"), r.Header.Values("Proxy-Authorization"), r.Header.Values("X-Forwarded-For"), r.UserAgent(), r.URL.RawQuery, body)
		})
		e, _ := open(t, config, resource+"/base,0")
		r := request(t, http.MethodPost, e.List()[0].URL()+"/a%2Fb?x=1;y=%zz", strings.NewReader("content"))
		r.Header["Authorization"] = []string{"Bearer stolen", "Basic more"}
		r.Header.Set("Proxy-Authorization", "Basic mine")
		r.Header.Set("User-Agent", "agent/1")
		got := do(t, c, r)
		want := `POST /base/a%2Fb host=true auth=["Bearer token-1"] proxy=[] for=[] ua="agent/1" q="x=1;y=%zz" body="content"`
		if got.status != http.StatusOK || got.body != want {
			t.Errorf("%d\n got %s\nwant %s", got.status, got.body, want)
		}
	})
}

func TestAnswersStream(t *testing.T) {
	versions(t, func(t *testing.T, c *http.Client, encrypted bool) {
		var config Config
		heard := make(chan struct{})
		resource := site(t, &config, encrypted, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(rw, "data: %d\n\n", i)
				_ = http.NewResponseController(rw).Flush()
				select { // the next only once the client has this one
				case <-heard:
				case <-r.Context().Done():
				}
			}
		})
		e, _ := open(t, config, resource+",0")
		resp, err := c.Do(request(t, http.MethodGet, e.List()[0].URL(), nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for i := 0; lines.Scan(); {
			if lines.Text() == fmt.Sprintf("data: %d", i) {
				i++
				heard <- struct{}{}
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
	})
}

// As gRPC does: both sides speak at once, and the status comes in the trailer.
func TestBothSidesStreamAndTrailersFollow(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		var config Config
		resource := site(t, &config, encrypted, func(rw http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
				t.Errorf("the gateway got %s, te %q", r.Proto, r.Header.Get("Te"))
			}
			rw.Header().Set("Content-Type", "application/grpc")
			rw.Header().Set("Trailer", "Grpc-Status")
			_ = http.NewResponseController(rw).Flush()
			in := bufio.NewScanner(r.Body)
			for in.Scan() {
				fmt.Fprintln(rw, strings.ToUpper(in.Text()))
				_ = http.NewResponseController(rw).Flush()
			}
			rw.Header().Set("Grpc-Status", "0")
			rw.Header().Set(http.TrailerPrefix+"Grpc-Message", "unannounced")
		})
		e, _ := open(t, config, resource+",0")
		body, say := io.Pipe()
		r := request(t, http.MethodPost, e.List()[0].URL()+"/pkg.Service/Chat", body)
		r.Header.Set("Te", "trailers")
		resp, err := browser(t, true).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		heard := bufio.NewReader(resp.Body)
		for _, word := range []string{"one", "two", "three"} {
			if _, err := io.WriteString(say, word+"\n"); err != nil {
				t.Fatal(err)
			}
			if got, err := heard.ReadString('\n'); got != strings.ToUpper(word)+"\n" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		say.Close()
		if _, err := io.ReadAll(heard); err != nil {
			t.Fatal(err)
		}
		if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "unannounced" {
			t.Errorf("the trailer is %v", resp.Trailer)
		}
	}
}

// upgrade opens a WebSocket's connection through an end.
func upgrade(t *testing.T, e *Ends) (net.Conn, *bufio.Reader) {
	t.Helper()
	client := dial(t, e)
	fmt.Fprintf(client, "GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(client)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v, %v", resp, err)
	}
	resp.Body.Close()
	return client, in
}

// echo upgrades and says back what it hears.
func echo(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer token-1" || r.Header.Get("Upgrade") != "websocket" {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	rw.Header().Set("Connection", "Upgrade")
	rw.Header().Set("Upgrade", "websocket")
	rw.WriteHeader(http.StatusSwitchingProtocols)
	c, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, buffered)
}

func TestAWebSocketPasses(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		var config Config
		resource := site(t, &config, encrypted, echo)
		e, stop := open(t, config, resource+",0")
		client, in := upgrade(t, e)
		write(t, client, []byte("\x81\x03any"))
		expects(t, in, []byte("\x81\x03any"))
		client.Close()

		_, in = upgrade(t, e)
		go stop() // what has no end is cut
		ends(t, in)
		stop()
	}
}

// Either side may stay when the other has gone, but not for long.
func TestAWebSocketEndsWithEitherSide(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	for _, encrypted := range []bool{false, true} {
		var config Config
		ended := make(chan struct{}, 2)
		resource := site(t, &config, encrypted, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Connection", "Upgrade")
			rw.Header().Set("Upgrade", "websocket")
			rw.WriteHeader(http.StatusSwitchingProtocols)
			c, in, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.Copy(io.Discard, in)
			for err == nil { // until the connection is gone, and not half of it
				time.Sleep(50 * time.Millisecond)
				_, err = c.Write([]byte("."))
			}
			ended <- struct{}{}
		})
		e, _ := open(t, config, resource+",0")
		client, _ := upgrade(t, e)
		if err := client.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("the gateway's side is left")
		}
	}
}

func TestRequestsHaveTheirTimeToEnd(t *testing.T) {
	config := Config{Grace: 10 * time.Second}
	begun, goOn := make(chan struct{}), make(chan struct{})
	resource := site(t, &config, false, func(rw http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-goOn
		_, _ = io.WriteString(rw, "done")
	})
	e, stop := open(t, config, resource+",0")
	go func() {
		<-begun
		go stop()
		time.Sleep(50 * time.Millisecond)
		close(goOn)
	}()
	if got := do(t, browser(t, false), request(t, http.MethodGet, e.List()[0].URL(), nil)); got.body != "done" {
		t.Errorf("got %q", got.body)
	}
}

func TestAnEndOnASocket(t *testing.T) {
	var config Config
	resource := site(t, &config, true, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("Authorization"))
	})
	path := socketFolder(t) + "/tools.sock"
	e, _ := open(t, config, resource+","+path)
	client := dial(t, e)
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(client)
	if err != nil || !strings.HasSuffix(string(b), "Bearer token-1") {
		t.Errorf("got %q, %v", b, err)
	}
	if u := e.List()[0].URL(); u != "unix://"+path {
		t.Errorf("clients find it at %s", u)
	}
}

// told reads a problem.
func told(t *testing.T, a answer) (p struct {
	Title, Detail, Hint string
	Status              int
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" || p.Status != a.status {
		t.Fatalf("%d: no problem but %q", a.status, a.body)
	}
	return p
}

func TestAWebClientIsToldWhy(t *testing.T) {
	m := &mint{life: time.Hour}
	config := Config{Issuer: m}
	resource := site(t, &config, true, func(http.ResponseWriter, *http.Request) {})
	e, _ := open(t, config, resource+",0", "gone=http://127.0.0.1:1,0")
	c := browser(t, false)

	got := do(t, c, request(t, http.MethodGet, e.List()[1].URL(), nil))
	if p := told(t, got); p.Status != http.StatusBadGateway || !strings.Contains(p.Detail, "the gateway cannot be reached") || p.Hint == "" {
		t.Errorf("without a gateway: %+v", p)
	}
	m.broken.Store(true)
	e.tokens.mu.Lock()
	e.tokens.token = Token{}
	e.tokens.mu.Unlock()
	got = do(t, c, request(t, http.MethodGet, e.List()[0].URL(), nil))
	if p := told(t, got); p.Status != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "no token") || p.Hint != errMint.Hint || got.header.Get("Retry-After") == "" {
		t.Errorf("without a token: %+v", p)
	}
}

func TestAnImpostorOfTheGatewayGetsNoToken(t *testing.T) {
	var config Config
	resource := site(t, &config, true, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
	_, config.TLS.RootCAs = certificate(t, "127.0.0.1")
	e, _ := open(t, config, resource+",0")
	got := do(t, browser(t, false), request(t, http.MethodGet, e.List()[0].URL(), nil))
	if p := told(t, got); p.Status != http.StatusBadGateway || !strings.Contains(p.Detail, "does not prove who it is") || !strings.Contains(p.Hint, "--ca") {
		t.Errorf("got %+v", p)
	}
}

func TestTheGatewaysAnswersAreItsOwn(t *testing.T) {
	var config Config
	resource := site(t, &config, false, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("WWW-Authenticate", "Bearer")
		rw.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(rw, "refused by the access gateway")
	})
	e, _ := open(t, config, resource+",0")
	e.tokens.mu.Lock()
	e.tokens.asked = e.tokens.asked.Add(-2 * minRefused)
	e.tokens.mu.Unlock()
	got := do(t, browser(t, false), request(t, http.MethodGet, e.List()[0].URL(), nil))
	if got.status != http.StatusUnauthorized || got.header.Get("WWW-Authenticate") != "Bearer" || got.body != "refused by the access gateway" {
		t.Errorf("%d: %s", got.status, got.body)
	}
	if next, err := e.tokens.get(t.Context()); next != "token-2" {
		t.Errorf("the next token is %q, %v", next, err)
	}
}

// A page that a browser on this machine shows must not act as the agent.
func TestAPageOfAnotherSiteIsRefused(t *testing.T) {
	var config Config
	resource := site(t, &config, false, func(http.ResponseWriter, *http.Request) {})
	e, _ := open(t, config, resource+",0")
	for name, c := range map[string]struct {
		host, header, value string
		want                int
	}{
		"an agent":                  {"", "", "", http.StatusOK},
		"by name":                   {"localhost:1", "", "", http.StatusOK},
		"a page of this machine":    {"", "Origin", "http://localhost:3000", http.StatusOK},
		"a name that leads here":    {"evil.example", "", "", http.StatusForbidden},
		"a page elsewhere":          {"", "Origin", "https://evil.example", http.StatusForbidden},
		"a page that hides":         {"", "Origin", "null", http.StatusForbidden},
		"a browser that tells more": {"", "Sec-Fetch-Site", "cross-site", http.StatusForbidden},
	} {
		r := request(t, http.MethodPost, e.List()[0].URL(), nil)
		r.Host = c.host
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		got := do(t, browser(t, false), r)
		if got.status != c.want {
			t.Errorf("%s: %d", name, got.status)
		}
		if c.want == http.StatusForbidden {
			told(t, got)
		}
	}
}
