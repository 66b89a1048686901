package http_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	stdhttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

func TestSuite(t *testing.T) {
	up := httptest.NewServer(stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if r.URL.Path == "/things/slow" {
			select {
			case <-r.Context().Done():
			case <-time.After(4 * time.Second):
			}
		}
		fmt.Fprintln(w, "here is", r.URL.Path)
	}))
	defer up.Close()
	for name, version := range map[string]int{"HTTP1": 1, "HTTP2": 2} {
		t.Run(name, func(t *testing.T) {
			prototest.Run(t, prototest.Harness{
				New: func(_ *testing.T, log *slog.Logger) protocol.Protocol {
					return newProtocol(t, http.Resource{}, log, 300*time.Millisecond)
				},
				Upstream: func(*testing.T) protocol.Upstream {
					return protocol.Upstream{Address: up.Listener.Addr().String(), User: "svc", Password: "upstream-secret-4c"}
				},
				Login:   func(conn net.Conn, token string) (prototest.Agent, error) { return login(conn, token, version) },
				Denied:  func(c *evidence.Command) bool { return c.Checks[0].Action == "http:delete" },
				Content: "a-constant-77",
			})
		})
	}
}

// newProtocol is a Protocol with one resource, which has some routes at least.
func newProtocol(t testing.TB, r http.Resource, log *slog.Logger, idle time.Duration) *http.Protocol {
	t.Helper()
	if r.Operations == nil {
		var err error
		if r.Operations, err = http.ParseRoutes([]string{"GET /things/{id}", "DELETE /things/{id}", "POST /things", "GET /stream", "GET /ws"}); err != nil {
			t.Fatal(err)
		}
	}
	r.Resource = "svc"
	list := []http.Resource{r}
	return http.New(http.Config{
		Resources: func() []http.Resource { return list },
		Limits:    httpgate.Limits{Idle: idle, Login: 3 * time.Second}, Logger: log,
	})
}

// agent is an HTTP client on one connection.
type agent struct {
	client *stdhttp.Client
	tr     *stdhttp.Transport
	token  string
}

func newAgent(conn net.Conn, token string, version int) *agent {
	given := false
	dial := func(context.Context, string, string) (net.Conn, error) {
		if given {
			return nil, errors.New("the connection has ended")
		}
		given = true
		return conn, nil
	}
	protocols := new(stdhttp.Protocols)
	protocols.SetHTTP1(version == 1)
	protocols.SetUnencryptedHTTP2(version == 2)
	tr := &stdhttp.Transport{DialContext: dial, Protocols: protocols, TLSClientConfig: &tls.Config{}, DisableCompression: true}
	return &agent{client: &stdhttp.Client{Transport: tr, Timeout: 30 * time.Second}, tr: tr, token: token}
}

func login(conn net.Conn, token string, version int) (prototest.Agent, error) {
	a := newAgent(conn, token, version)
	if err := a.ask("GET", httpgate.SessionPath, ""); err != nil {
		return nil, errors.Join(err, a.Close(), conn.Close())
	}
	return a, nil
}

// answer is a response that was read to its end.
type answer struct {
	Status          int
	Header, Trailer stdhttp.Header
	Body            string
}

// do asks for something.
func (a *agent) do(method, path, content string, fields ...string) (answer, error) {
	var body io.Reader
	if content != "" {
		body = strings.NewReader(content)
	}
	r, err := stdhttp.NewRequestWithContext(context.Background(), method, "http://gateway.test"+path, body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return a.send(r)
}

func (a *agent) send(r *stdhttp.Request) (answer, error) {
	resp, err := a.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, resp.Trailer, string(b)}, err
}

func (a *agent) ask(method, path, content string, fields ...string) error {
	got, err := a.do(method, path, content, fields...)
	if err == nil && got.Status >= 400 {
		err = fmt.Errorf("status %d: %s", got.Status, got.Body)
	}
	return err
}

func (a *agent) Allowed() error { return a.ask("GET", "/things/a-constant-77", "") }
func (a *agent) Denied() error  { return a.ask("DELETE", "/things/a-constant-77", "") }
func (a *agent) Slow() error    { return a.ask("GET", "/things/slow", "") }
func (a *agent) Oversize() error {
	return a.ask("GET", "/things/1", "", "X-Large", strings.Repeat("x", 2<<20))
}

func (a *agent) Close() error {
	a.tr.CloseIdleConnections()
	return nil
}
