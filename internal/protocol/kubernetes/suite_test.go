package kubernetes_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

func TestSuite(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			select {
			case <-r.Context().Done():
			case <-time.After(4 * time.Second):
			}
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"kind":"ConfigMap","apiVersion":"v1","path":%q}`, r.URL.Path)
	}))
	defer up.Close()
	for name, version := range map[string]int{"HTTP1": 1, "HTTP2": 2} {
		t.Run(name, func(t *testing.T) {
			prototest.Run(t, prototest.Harness{
				New: func(_ *testing.T, log *slog.Logger) protocol.Protocol {
					return newProtocol(kubernetes.Resource{}, log, 300*time.Millisecond)
				},
				Upstream: func(*testing.T) protocol.Upstream {
					return protocol.Upstream{Address: up.Listener.Addr().String(), Header: func(context.Context) (string, string, error) {
						return "Authorization", "Bearer upstream-secret-4c", nil
					}}
				},
				Login:   func(conn net.Conn, token string) (prototest.Agent, error) { return login(conn, token, version) },
				Denied:  func(c *evidence.Command) bool { return c.Checks[0].Action == "kubernetes:delete" },
				Content: "a-constant-77",
			})
		})
	}
}

// newProtocol is a Protocol with one cluster.
func newProtocol(r kubernetes.Resource, log *slog.Logger, idle time.Duration) *kubernetes.Protocol {
	r.Resource = "prod"
	if r.UserPrefix == "" {
		r.UserPrefix, r.Groups = "exhibit:", []string{"exhibit:agents"}
	}
	list := []kubernetes.Resource{r}
	return kubernetes.New(kubernetes.Config{
		Resources: func() []kubernetes.Resource { return list },
		Limits:    httpgate.Limits{Idle: idle, Login: 3 * time.Second}, Logger: log,
	})
}

// agent is a client on one connection.
type agent struct {
	client *http.Client
	tr     *http.Transport
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
	protocols := new(http.Protocols)
	protocols.SetHTTP1(version == 1)
	protocols.SetUnencryptedHTTP2(version == 2)
	tr := &http.Transport{DialContext: dial, Protocols: protocols, TLSClientConfig: &tls.Config{}, DisableCompression: true}
	return &agent{client: &http.Client{Transport: tr, Timeout: 30 * time.Second}, tr: tr, token: token}
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
	Status int
	Header http.Header
	Body   string
}

// do asks for something.
func (a *agent) do(method, path, content string, fields ...string) (answer, error) {
	var body io.Reader
	if content != "" {
		body = strings.NewReader(content)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://gateway.test"+path, body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	if content != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

func (a *agent) ask(method, path, content string, fields ...string) error {
	got, err := a.do(method, path, content, fields...)
	if err == nil && got.Status >= 400 {
		err = fmt.Errorf("status %d: %s", got.Status, got.Body)
	}
	return err
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func (a *agent) Allowed() error {
	return a.ask("POST", configMaps, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"data":{"a":"a-constant-77"}}`)
}
func (a *agent) Denied() error { return a.ask("DELETE", configMaps+"/c", "") }
func (a *agent) Slow() error   { return a.ask("GET", configMaps+"/slow", "") }
func (a *agent) Oversize() error {
	return a.ask("GET", configMaps, "", "X-Large", strings.Repeat("x", 2<<20))
}
func (a *agent) Close() error {
	a.tr.CloseIdleConnections()
	return nil
}
