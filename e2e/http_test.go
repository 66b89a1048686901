package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// services is a world with nginx behind the gateway, as the resource site, and
// whatever a test adds.
type services struct {
	*world
	nginx string // address
	web   string // address of the gateway's listener
}

// nginxConf is a site that tells what it was asked.
const nginxConf = `daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log %[1]s/nginx.err; %[3]s
events { worker_connections 256; }
http {
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  log_format asked '$request_method $request_uri';
  access_log %[1]s/nginx.log asked;
  server {
    listen %[2]s;
    root %[1]s/www;
    location /api/echo { default_type text/plain; return 200 "$http_authorization|$http_x_forwarded_for|$http_x_http_method_override|$http_exhibit_identity|$request_uri|$host\n"; }
    location /api/ { alias %[1]s/www/; }
  }
}
`

func newServices(t *testing.T, more ...string) *services {
	t.Helper()
	needs(t, "nginx", "curl")
	s := &services{}
	var err error
	if s.nginx, err = pgserver.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	if s.web, err = pgserver.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	s.world = newWorld(t, func(c string) string {
		return strings.Replace(c, "\nresources:\n", fmt.Sprintf(`
  - {name: web, protocol: http, address: '%s'}

resources:
  - name: site
    protocol: http
    upstream: {address: '%s', user: svc, password: {file: pw}}
    http:
      prefix: /site
      base: /api
      identity: true
      routes: ["GET /echo/{id}?q", "GET /files/{name}", "HEAD /files/{name}", "POST /echo/{id}", "DELETE /echo/{id}", "PUT /files/{name}"]
%s`, s.web, s.nginx, strings.Join(more, "")), 1)
	})
	s.ok(os.MkdirAll(s.path("www/files"), 0o755))
	s.ok(os.WriteFile(s.path("www/files/large"), []byte(strings.Repeat("0123456789abcdef", 1<<20)), 0o644))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its temporary folders are ours
	}
	s.ok(os.WriteFile(s.path("nginx.conf"), fmt.Appendf(nil, nginxConf, s.dir, s.nginx, user), 0o644))
	s.background("nginx", "-c", s.path("nginx.conf"), "-e", s.path("nginx.err"))
	s.listens(s.nginx)
	s.grant("bot", "reader", "site")
	return s
}

// background runs a program until the test ends.
func (w *world) background(args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	w.ok(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
	})
}

// listens waits until something listens at an address.
func (w *world) listens(address string) {
	w.t.Helper()
	w.until(60*time.Second, address+" takes connections", func() bool {
		c, err := new(net.Dialer).DialContext(w.t.Context(), "tcp", address)
		return err == nil && c.Close() == nil
	})
}

// curl asks the gateway for something below /site and returns the status and
// what came.
func (s *services) curl(token, path string, args ...string) (status, body string) {
	s.t.Helper()
	out, err := s.run(append([]string{"curl", "-s", "--path-as-is", "-w", "\n%{http_code}", "-H", "Authorization: Bearer " + token, "http://" + s.web + path}, args...)...)
	if err != nil {
		s.t.Fatalf("curl %s: %v\n%s", path, err, out)
	}
	i := strings.LastIndexByte(out, '\n')
	return out[i+1:], out[:i]
}

// reached is what nginx was asked so far.
func (s *services) reached() []string {
	b, err := os.ReadFile(s.path("nginx.log"))
	s.ok(err)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func TestAServiceThroughTheGateway(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	token := s.token("bot", "--ticket", "T-1")
	for _, version := range []string{"--http1.1", "--http2-prior-knowledge"} {
		status, body := s.curl(token, "/site/echo/7?q=1", version, "-H", "X-Forwarded-For: 10.9.9.9", "-H", "Exhibit-Identity: forged")
		if status != "200" || !strings.HasPrefix(body, "Basic c3ZjOnVwc3RyZWFtLWNhbmFyeS03ZDFm|||ey") || !strings.HasSuffix(body, "|/api/echo/7?q=1|"+strings.Split(s.nginx, ":")[0]+"\n") {
			t.Errorf("%s: %s %q", version, status, body)
		}
		if out, err := s.run("curl", "-s", version, "-H", "Authorization: Bearer "+token, "http://"+s.web+"/site/files/large"); err != nil || len(out) != 16<<20 {
			t.Errorf("%s: %d bytes, %v", version, len(out), err)
		}
	}
	if status, body := s.curl(token, "/site/echo/7", "-X", "DELETE"); status != "403" || !strings.Contains(body, "no rule lets bot do http:delete on /echo/{id}") {
		t.Errorf("a denied request: %s %s", status, body)
	}
	if status, _ := s.curl("nonsense", "/site/echo/7"); status != "401" {
		t.Errorf("a wrong token: %s", status)
	}
	if status, _ := s.curl(s.token("idle"), "/site/echo/7"); status != "403" {
		t.Errorf("an agent without a grant: %s", status)
	}
	if status, _ := s.curl(token, "/nowhere"); status != "403" {
		t.Errorf("a path that leads nowhere: %s", status)
	}
	var texts []string
	sessions := map[string]bool{}
	for _, c := range s.did("--agent", "bot") {
		texts = append(texts, strings.TrimSpace(c.Text+" "+c.Outcome+" "+c.Code))
		sessions[c.Session] = true
	}
	slices.Sort(texts)
	want := []string{"DELETE /echo/{id} denied", "GET /echo/{id}?q ok 200", "GET /echo/{id}?q ok 200", "GET /files/{name} ok 200", "GET /files/{name} ok 200"}
	if !slices.Equal(texts, want) || len(sessions) != 1 {
		t.Errorf("on record, in %d sessions:\n%s\nwant\n%s", len(sessions), strings.Join(texts, "\n"), strings.Join(want, "\n"))
	}
	if got := s.must("who", "site"); !strings.Contains(got, "bot") || !strings.Contains(got, "idle") {
		t.Errorf("who:\n%s", got)
	}
	if got, err := s.exhibit("explain", "--agent", "bot", "--resource", "site", "PUT /files/a?x=1"); err == nil || !strings.Contains(got, "deny") || !strings.Contains(got, "http:put") {
		t.Errorf("explain:\n%s", got)
	}
	s.passes()
	for _, secret := range []string{upstreamSecret, token} {
		if log, err := os.ReadFile(s.path("gateway.log")); err != nil || strings.Contains(string(log), secret) {
			t.Errorf("the log holds a secret, %v", err)
		}
	}
}

// What policy saw is what the service gets: whatever an agent writes, each
// request that nginx has seen is an allowed one on record, and none besides.
func TestTricksLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	token := s.token("bot", "--ticket", "T-1")
	auth := "Host: x\r\nAuthorization: Bearer " + token + "\r\n"
	var all sync.WaitGroup
	for name, request := range map[string]string{
		"length and chunks":      "POST /site/echo/1 HTTP/1.1\r\n" + auth + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nDELETE /api/echo/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
		"two lengths":            "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Content-Length: 0\r\nContent-Length: 42\r\n\r\nDELETE /api/echo/smuggled HTTP/1.1\r\n\r\n",
		"a length with a sign":   "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Content-Length: +5\r\n\r\nhello",
		"chunks by another name": "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Transfer-Encoding: xchunked\r\n\r\n",
		"chunks in a fold":       "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"a folded field":         "GET /site/echo/1 HTTP/1.1\r\n" + auth + "X-A: b\r\n Authorization: c\r\n\r\n",
		"space before a colon":   "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Transfer-Encoding : chunked\r\n\r\n",
		"a bare LF":              "GET /site/echo/1 HTTP/1.1\n" + strings.ReplaceAll(auth, "\r\n", "\n") + "\n",
		"two hosts":              "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Host: y\r\n\r\n",
		"no version":             "GET /site/echo/smuggled\r\n\r\n",
		"a NUL in a field":       "GET /site/echo/1 HTTP/1.1\r\n" + auth + "X-A: a\x00b\r\n\r\n",
		"two credentials":        "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Authorization: Bearer x\r\n\r\n",
		"dots":                   "GET /site/files/../echo/smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"dots, encoded":          "GET /site/files/%2e%2e/echo/smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"dots out of the base":   "GET /site/../secret/smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"a slash, encoded":       "GET /site/files%2f..%2fecho/smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"slashes":                "GET /site//echo/smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"a backslash":            "GET /site/files\\..\\smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"a fragment":             "GET /site/echo/1#/../smuggled HTTP/1.1\r\n" + auth + "\r\n",
		"absolute":               "GET http://elsewhere/site/echo/1 HTTP/1.1\r\n" + auth + "\r\n",
		"another method":         "POST /site/echo/1 HTTP/1.1\r\n" + auth + "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n",
		"CONNECT":                "CONNECT elsewhere:443 HTTP/1.1\r\n" + auth + "\r\n",
		"TRACE":                  "TRACE /site/echo/1 HTTP/1.1\r\n" + auth + "\r\n",
		"another upgrade":        "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
		"a connection's own":     "GET /site/echo/1 HTTP/1.1\r\n" + auth + "Connection: Host, Content-Length\r\n\r\n",
		"a pipeline":             "GET /site/echo/1 HTTP/1.1\r\n" + auth + "\r\nDELETE /site/echo/smuggled HTTP/1.1\r\n" + auth + "\r\nGET /site/echo/2 HTTP/1.1\r\n" + auth + "Connection: close\r\n\r\n",
	} {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.web)
		s.ok(err)
		s.ok(c.SetDeadline(time.Now().Add(3 * time.Second)))
		_, err = io.WriteString(c, request)
		s.ok(err)
		all.Go(func() {
			got, _ := io.ReadAll(c) // until it is closed, or for long enough
			t.Logf("%s: %.40q", name, got)
			c.Close()
		})
	}
	all.Wait()
	var allowed []string
	for _, c := range s.did("--agent", "bot") {
		if c.Decision == "allow" && c.Outcome != "skipped" {
			allowed = append(allowed, c.Text)
		}
	}
	var reached []string
	for _, line := range s.reached() {
		if strings.Contains(line, "smuggled") || strings.HasPrefix(line, "DELETE") {
			t.Errorf("the service was asked %q", line)
		}
		reached = append(reached, regexp.MustCompile(`/api/echo/\w+`).ReplaceAllString(line, "/echo/{id}"))
	}
	slices.Sort(allowed)
	slices.Sort(reached)
	if !slices.Equal(allowed, reached) {
		t.Errorf("allowed %q\nreached %q", allowed, reached)
	}
	s.passes()
}

// The JWT by which a service learns who asks holds what the log does.
func TestServicesLearnWhoAsks(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	_, body := s.curl(s.token("bot", "--ticket", "T-9", "--for", "alice@example.com"), "/site/echo/1")
	fields := strings.Split(body, "|")
	if len(fields) < 4 {
		t.Fatal(body)
	}
	_, keys := s.curl("", "/.well-known/exhibit/jwks.json")
	var set struct {
		Keys []struct{ X string }
	}
	s.ok(json.Unmarshal([]byte(keys), &set))
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(jwt.WithAudience("site"), jwt.WithIssuer("gw1"), jwt.WithExpirationRequired(), jwt.WithValidMethods([]string{"EdDSA"})).ParseWithClaims(fields[3], claims, func(*jwt.Token) (any, error) {
		return keyOf(set.Keys[0].X)
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, fields[3])
	}
	if act, _ := claims["act"].(map[string]any); claims["sub"] != "alice@example.com" || act["sub"] != "bot" || claims["ticket"] != "T-9" || claims["sid"] != s.did("--agent", "bot")[0].Session {
		t.Errorf("claims %v", claims)
	}
}

func TestSecuredListenersTakeCertificates(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	ca := newAuthority(t, s.path("tls"))
	ca.issue("gateway", &x509.Certificate{})
	s.edit(func(c string) string {
		return strings.Replace(c, "address: '"+s.web+"'}", "address: '"+s.web+"', tls: {cert: tls/gateway.pem, key: tls/gateway.key}}", 1)
	})
	s.stop(syscall.SIGTERM)
	s.start()
	crt := s.certificate("bot")
	for _, version := range []string{"--http1.1", "--http2"} {
		out, err := s.run("curl", "-sS", version, "--cacert", ca.path("ca.pem"), "--cert", crt, "--key", s.path("bot.key"), "-w", "%{http_version}", "https://"+s.web+"/site/echo/1")
		if want := map[string]string{"--http1.1": "1.1", "--http2": "2"}[version]; err != nil || !strings.HasSuffix(out, "\n"+want) || !strings.Contains(out, "|/api/echo/1|") {
			t.Errorf("%s: %v %q", version, err, out)
		}
	}
	if out, err := s.run("curl", "-sS", "--cacert", ca.path("ca.pem"), "--cert", ca.path("gateway.pem"), "--key", ca.path("gateway.key"), "-w", "%{http_code}", "https://"+s.web+"/site/echo/1"); err != nil || !strings.HasSuffix(out, "401") {
		t.Errorf("a certificate of nobody: %v %q", err, out)
	}
	s.passes()
}

// What runs when a right ends, or when the gateway does, has an outcome.
func TestStreamsEndWithRightsAndWithTheGateway(t *testing.T) {
	t.Parallel()
	up, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			fmt.Fprint(w, "data: tick\n\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})}
	go srv.Serve(up) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { srv.Close() })
	s := newServices(t, fmt.Sprintf("  - {name: ticker, protocol: http, upstream: {address: '%s'}, http: {prefix: /ticker, routes: [GET /]}}\n", up.Addr()))
	grant := s.grant("bot", "reader", "ticker")
	follow := func() (line func() (string, error)) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.web+"/ticker/", nil)
		s.ok(err)
		r.Header.Set("Authorization", "Bearer "+s.token("bot"))
		resp, err := new(http.Transport).RoundTrip(r)
		s.ok(err)
		t.Cleanup(func() { resp.Body.Close() })
		lines := bufio.NewReader(resp.Body)
		return func() (string, error) { return lines.ReadString('\n') }
	}
	line := follow()
	if got, err := line(); err != nil || got != "data: tick\n" {
		t.Fatalf("%q, %v", got, err)
	}
	s.must("grant", "revoke", grant, "--reason", "over")
	began := time.Now()
	for ; err == nil; _, err = line() {
		if time.Since(began) > 3*time.Second {
			t.Fatal("the stream goes on without the right to it")
		}
	}
	s.until(60*time.Second, "the command has an outcome", func() bool {
		list := s.did("--agent", "bot")
		return list[len(list)-1].Outcome == "cancelled"
	})
	s.grant("bot", "reader", "ticker")
	if _, err := follow()(); err != nil {
		t.Fatal(err)
	}
	s.ok(s.serve.Process.Kill())
	<-s.served
	s.start()
	list := s.did("--agent", "bot")
	if last := list[len(list)-1]; last.Outcome != "in_doubt" {
		t.Errorf("after the crash: %+v", last)
	}
	s.passes()
}

// WebSocket and server-sent events by clients and a server of node's world.
func TestNodeServicesWork(t *testing.T) {
	t.Parallel()
	needs(t, "node", "npm")
	port := make(chan string)
	s := newServices(t)
	script, modules := "testdata/node/services.js", "NODE_PATH="+filepath.Join(s.tool("node-clients"), "node_modules")
	server := exec.CommandContext(context.Background(), "node", script, "server")
	server.Env = append(os.Environ(), modules)
	out, err := server.StdoutPipe()
	s.ok(err)
	s.ok(server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = server.Wait()
	})
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		port <- strings.TrimSpace(line)
	}()
	s.edit(func(c string) string {
		return strings.Replace(c, "\nresources:\n", fmt.Sprintf("\nresources:\n  - {name: live, protocol: http, upstream: {address: '127.0.0.1:%s'}, http: {prefix: /live, routes: [GET /ws, GET /events]}}\n", <-port), 1)
	})
	guardrails, err := os.ReadFile(s.path("policies/guardrails.cedar"))
	s.ok(err)
	// The example policies forbid whatever is opaque.
	s.ok(os.WriteFile(s.path("policies/guardrails.cedar"), bytes.Replace(guardrails, []byte(`forbid (principal, action in Action::"opaque", resource);`),
		[]byte(`forbid (principal, action in Action::"opaque", resource) unless { resource in Resource::"live" };
@id("live")
permit (principal in Role::"live", action in [Action::"connect", Action::"read", Action::"http:websocket"], resource in Resource::"live");`), 1), 0o644))
	s.must("reload")
	s.grant("bot", "live", "live")
	client := exec.CommandContext(t.Context(), "node", script, "client", "http://"+s.web+"/live")
	client.Env = append(os.Environ(), modules, "TOKEN="+s.token("bot"))
	if out, err := client.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "ok\n") {
		t.Errorf("%v\n%s", err, out)
	}
	var texts []string
	for _, c := range s.did("--agent", "bot") {
		texts = append(texts, c.Verb+" "+c.Text+" "+c.Outcome+" "+c.Code)
	}
	want := []string{"opaque GET /ws ok 101", "read GET /events ok 200", "read GET /events ok 200", "read GET /events cancelled 200"}
	if !slices.Equal(texts, want) {
		t.Errorf("on record %q, want %q", texts, want)
	}
	s.passes()
}

func TestGRPCThroughTheGateway(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	reflection.Register(srv)
	go srv.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(srv.Stop)
	s := newServices(t, fmt.Sprintf("  - {name: shop, protocol: http, upstream: {address: '%s'}, http: {hosts: [shop.test], http2: true}}\n", l.Addr()))
	grpcurl := s.tool("grpcurl")
	s.grant("bot", "reader", "shop")
	token := s.token("bot")
	call := func(args ...string) (string, error) {
		t.Helper()
		return s.run(append([]string{grpcurl, "-plaintext", "-authority", "shop.test", "-H", "Authorization: Bearer " + token}, args...)...)
	}
	if out, err := call(s.web, "list"); err != nil || !strings.Contains(out, "grpc.health.v1.Health") {
		t.Fatalf("list: %v\n%s", err, out)
	}
	if out, err := call("-d", `{"service":""}`, s.web, "grpc.health.v1.Health/Check"); err != nil || !strings.Contains(out, "SERVING") {
		t.Errorf("a unary call: %v\n%s", err, out)
	}
	if out, err := call("-d", `{"service":"none"}`, s.web, "grpc.health.v1.Health/Check"); err == nil || !strings.Contains(out, "NotFound") {
		t.Errorf("a call that fails: %v\n%s", err, out)
	}
	go func() {
		time.Sleep(500 * time.Millisecond)
		h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}()
	// Which of the two sees first that time is up decides what it is called.
	if out, err := call("-max-time", "2", "-d", `{"service":""}`, s.web, "grpc.health.v1.Health/Watch"); err == nil || !strings.Contains(out, "NOT_SERVING") ||
		!strings.Contains(out, "DeadlineExceeded") && !strings.Contains(out, "Canceled") {
		t.Errorf("a stream until its deadline: %v\n%s", err, out)
	}
	token = s.token("idle")
	if out, err := call("-d", `{"service":""}`, s.web, "grpc.health.v1.Health/Check"); err == nil || !strings.Contains(out, "PermissionDenied") {
		t.Errorf("an agent without a grant: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	for _, c := range s.did("--agent", "bot") {
		seen[c.Text+" "+c.Outcome+" "+c.Code] = true
	}
	for _, want := range []string{"grpc.reflection.v1.ServerReflection/ServerReflectionInfo ok grpc:0", "grpc.health.v1.Health/Check ok grpc:0", "grpc.health.v1.Health/Check error grpc:5"} {
		if !seen[want] {
			t.Errorf("not on record: %s; there are %v", want, seen)
		}
	}
	s.passes()
}

// The gateway's HTTP/2 is as good as that of the library that it is made of:
// h2spec finds the same in a server that is nothing else.
func TestHTTP2IsThatOfTheLibrary(t *testing.T) {
	if testing.Short() {
		t.Skip("it asks a gateway that was built without the race detector")
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bare := &http.Server{ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintln(w, strings.Repeat("x", 162))
	})}
	bare.ErrorLog = log.New(io.Discard, "", 0)
	bare.Protocols.SetHTTP1(true)
	bare.Protocols.SetUnencryptedHTTP2(true)
	go bare.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { bare.Close() })
	s := newServices(t)
	h2spec := s.tool("h2spec")
	failures := func(address string) []string {
		host, port, err := net.SplitHostPort(address)
		s.ok(err)
		out, _ := s.run(h2spec, "-h", host, "-p", port, "-o", "3") // it fails where a test does
		if !strings.Contains(out, "tests,") {
			t.Fatalf("h2spec: %s", out)
		}
		return regexp.MustCompile(`× \d+: .*`).FindAllString(out, -1)
	}
	// Some of its tests depend on whether an answer or the rest of its request is
	// faster, which a busy machine decides anew each time: what counts is what
	// the gateway fails every time and the library never.
	excess := failures(s.web)
	for range 5 {
		if len(excess) == 0 {
			return
		}
		known := failures(l.Addr().String())
		excess = slices.DeleteFunc(excess, func(f string) bool { return slices.Contains(known, f) })
		if len(excess) == 0 {
			return
		}
		again := failures(s.web)
		excess = slices.DeleteFunc(excess, func(f string) bool { return !slices.Contains(again, f) })
	}
	for _, f := range slices.Compact(excess) {
		t.Errorf("h2spec fails with the gateway and not with the library: %s", f)
	}
}

// keyOf reads the public key of a JWK (RFC 8037).
func keyOf(x string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.DecodeString(x)
	return ed25519.PublicKey(b), err
}
