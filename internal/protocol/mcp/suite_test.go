package mcp_test

import (
	"context"
	"encoding/json"
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
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

func TestSuite(t *testing.T) {
	t.Run("a server", func(t *testing.T) { suite(t, "/", "") })
	t.Run("an endpoint", func(t *testing.T) { suite(t, "/all", "svc__") })
}

// suite runs the suite with an agent that asks at a path, where the names of
// tools begin with a prefix.
func suite(t *testing.T, path, prefix string) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result := `{"content":[{"type":"text","text":"done"}]}`
		if m.Method == "tools/list" {
			result = `{"tools":[{"name":"look","inputSchema":{"type":"object"}},{"name":"drop","inputSchema":{"type":"object"}}]}`
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}))
	defer up.Close()
	prototest.Run(t, prototest.Harness{
		New: func(_ *testing.T, log *slog.Logger) protocol.Protocol {
			return newProtocol(mcp.Resource{AcceptAll: true, Message: 1 << 20}, log, 300*time.Millisecond)
		},
		Upstream: func(*testing.T) protocol.Upstream {
			return protocol.Upstream{Address: up.Listener.Addr().String(), User: "svc", Password: "upstream-secret-4c"}
		},
		Login: func(conn net.Conn, token string) (prototest.Agent, error) {
			a := newAgent(conn, token)
			a.path, a.prefix = path, prefix
			got, err := a.do("GET", httpgate.SessionPath, "")
			if err == nil && got.status != http.StatusOK {
				err = fmt.Errorf("%d: %s", got.status, got.body)
			}
			if err != nil {
				return nil, errors.Join(err, a.Close(), conn.Close())
			}
			return a, nil
		},
		Denied:  func(c *evidence.Command) bool { return c.Checks[0].Object == "drop" },
		Content: "a-constant-77",
	})
}

// newProtocol is a Protocol with one resource.
func newProtocol(r mcp.Resource, log *slog.Logger, idle time.Duration) *mcp.Protocol {
	r.Resource, r.Endpoint = "svc", "/mcp"
	return mcp.New(mcp.Config{
		Resources: func() []mcp.Resource { return []mcp.Resource{r} },
		Endpoints: func() []mcp.Endpoint {
			return []mcp.Endpoint{{Prefix: "/all", Members: []mcp.Member{{Name: "svc", Resource: "svc"}}}}
		},
		Definitions: mcp.NewDefinitions(mcp.DefinitionsConfig{Record: func(context.Context, string, evidence.ImportBody) error { return nil }, Logger: log}),
		Limits:      httpgate.Limits{Idle: idle}, Logger: log,
	})
}

// agent is an HTTP client on one connection.
type agent struct {
	client *http.Client
	tr     *http.Transport
	token  string

	path, prefix string // of calls, and of tools' names there
}

func newAgent(conn net.Conn, token string) *agent {
	given := false
	tr := &http.Transport{DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		if given {
			return nil, errors.New("the connection has ended")
		}
		given = true
		return conn, nil
	}}
	return &agent{client: &http.Client{Transport: tr, Timeout: 10 * time.Second}, tr: tr, token: token, path: "/"}
}

// answer is a response with its content read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a *agent) do(method, path, content string, fields ...string) (answer, error) {
	var body io.Reader
	if content != "" {
		body = strings.NewReader(content)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://localhost"+path, body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
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

// call calls a tool; the error says how that was refused.
func (a *agent) call(tool, argument string) error {
	got, err := a.do("POST", a.path, fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":%q,"arguments":{"text":%q}}}`, a.prefix+tool, argument))
	switch {
	case err != nil:
		return err
	case got.status != http.StatusOK || strings.Contains(got.body, `"error"`) || strings.Contains(got.body, `"isError":true`):
		return fmt.Errorf("%d: %s", got.status, got.body)
	}
	return nil
}

func (a *agent) Allowed() error { return a.call("look", "a-constant-77") }
func (a *agent) Denied() error  { return a.call("drop", "a-constant-77") }
func (a *agent) Oversize() error {
	return a.call("look", strings.Repeat("x", 2<<20))
}

func (a *agent) Close() error {
	a.tr.CloseIdleConnections()
	return nil
}
