package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// A server of MCP that the gateway starts: a person reviews its tools, an agent
// calls what its role allows, and all of it is in a pack that passes.
func TestToolsOfAServer(t *testing.T) {
	t.Parallel()
	address, err := pgserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(t.TempDir(), "everything-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", server, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server").CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	key := filepath.Join(t.TempDir(), "api-key")
	if err := os.WriteFile(key, []byte("api-key-canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c string) string {
		c = strings.Replace(c, "\nlisteners:\n", "\nlisteners:\n  - {name: tools, protocol: mcp, address: '"+address+"'}\n", 1)
		return strings.Replace(c, "\nresources:\n", `
resources:
  - name: everything
    protocol: mcp
    mcp:
      prefix: /everything
      command: [`+server+`]
      env: {API_KEY: {file: `+key+`}}
      # accepted
`, 1)
	})
	w.must("grant", "add", "--agent", "bot", "--role", "writer", "--resource", "everything", "--for", "1h")

	names := func(cs *mcp.ClientSession) (names []string) {
		tools, err := cs.ListTools(t.Context(), nil)
		w.ok(err)
		for _, tool := range tools.Tools {
			names = append(names, tool.Name)
		}
		return names
	}
	cs := w.mcp(address, "--ticket", "T-1")
	if got := names(cs); len(got) > 0 {
		t.Errorf("before anybody has accepted a tool the agent sees %v", got)
	}
	if got := w.callTool(cs, "test_simple_text"); !strings.Contains(got, "nobody has accepted this tool yet") {
		t.Errorf("a held tool: %s", got)
	}

	reviewed := w.must("mcp", "tools", "everything")
	lines := regexp.MustCompile(`(?m)^  (test_simple_text|test_error_handling): [0-9a-f]{64}$`).FindAllString(reviewed, -1)
	if len(lines) != 2 {
		t.Fatalf("exhibit mcp tools says\n%s", reviewed)
	}
	w.edit(func(c string) string {
		return strings.Replace(c, "      # accepted\n", "      tools:\n      "+strings.Join(lines, "\n      ")+"\n", 1)
	})
	w.must("reload")
	if got := names(cs); !slices.Equal(got, []string{"test_error_handling", "test_simple_text"}) {
		t.Errorf("once two are accepted the agent sees %v", got)
	}
	if got := w.callTool(cs, "test_simple_text"); !strings.Contains(got, "simple text response") {
		t.Errorf("an accepted tool: %s", got)
	}
	plain := w.mcp(address)
	if got := w.callTool(plain, "test_simple_text"); !strings.Contains(got, "refused by the access gateway") {
		t.Errorf("without a ticket: %s", got)
	}
	if got := w.must("explain", "--agent", "bot", "--resource", "everything", "--ticket", "T-1", "tools/call test_simple_text"); !strings.Contains(got, "mcp:call test_simple_text") {
		t.Errorf("explained: %s", got)
	}

	var seen []string
	for _, c := range w.did("--agent", "bot") {
		if strings.HasPrefix(c.Text, "tools/call") {
			seen = append(seen, c.Text+" "+c.Decision+" "+c.Outcome)
		}
		for _, secret := range []string{literalSecret, "api-key-canary"} {
			if strings.Contains(fmt.Sprint(c), secret) {
				t.Errorf("the secret %s shows in %+v", secret, c)
			}
		}
	}
	if want := []string{"tools/call test_simple_text deny skipped", "tools/call test_simple_text allow ok", "tools/call test_simple_text deny denied"}; !slices.Equal(seen, want) {
		t.Errorf("on record: %q", seen)
	}
	w.ok(cs.Close())
	w.ok(plain.Close())
	w.stop(15) // so that sessions end, with their totals
	w.start()
	w.passes()
	log, err := os.ReadFile(w.path("gateway.log"))
	w.ok(err)
	if strings.Contains(string(log), "api-key-canary") || strings.Contains(string(log), literalSecret) {
		t.Error("a secret is in the log")
	}
}

// mcp connects a client as bot.
func (w *world) mcp(address string, token ...string) *mcp.ClientSession {
	w.t.Helper()
	return w.mcpAt(address, "/everything", "bot", token...)
}

// callTool returns the text that a tool answers with.
func (w *world) callTool(cs *mcp.ClientSession, name string) (text string) {
	w.t.Helper()
	res, err := cs.CallTool(w.t.Context(), &mcp.CallToolParams{Name: name, Arguments: map[string]any{}, Meta: mcp.Meta{"note": literalSecret}})
	w.ok(err)
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			text += t.Text
		}
	}
	return text
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// Two servers are one endpoint: one over HTTP and one that the gateway starts.
// Each stays a resource of its own, in grants, sessions and evidence.
func TestServersAsOneEndpoint(t *testing.T) {
	address, err := pgserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := pgserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(t.TempDir(), "everything-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", server, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server").CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	remote := exec.CommandContext(t.Context(), server, "-http="+upstream, "-stateless=false")
	if err := remote.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = remote.Process.Kill(); _ = remote.Wait() }) // it ends no other way
	w := newWorld(t, func(c string) string {
		c = strings.Replace(c, "\nlisteners:\n", "\nlisteners:\n  - {name: tools, protocol: mcp, address: '"+address+"'}\n", 1)
		return strings.Replace(c, "\nresources:\n", `
endpoints:
  - {prefix: /all, members: {near: started, far: remote}}
resources:
  - name: started
    protocol: mcp
    mcp: {prefix: /started, command: [`+server+`], accept: all}
  - name: remote
    protocol: mcp
    upstream: {address: '`+upstream+`'}
    mcp: {prefix: /remote, accept: all}
`, 1)
	})
	w.until(20*time.Second, "the server listens", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", upstream)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	w.grant("bot", "writer", "started")
	w.grant("bot", "writer", "remote")
	w.grant("idle", "writer", "remote")

	names := func(cs *mcp.ClientSession) (names []string, leftOut string) {
		tools, err := cs.ListTools(t.Context(), nil)
		w.ok(err)
		for _, tool := range tools.Tools {
			names = append(names, tool.Name)
		}
		return names, fmt.Sprint(tools.Meta["exhibit/left_out"])
	}
	cs := w.mcpAt(address, "/all", "bot", "--ticket", "T-1")
	if got, _ := names(cs); !slices.Contains(got, "near__test_simple_text") || !slices.Contains(got, "far__test_simple_text") || !slices.Contains(got, "exhibit__whoami") {
		t.Errorf("the agent sees %v", got)
	}
	for _, tool := range []string{"near__test_simple_text", "far__test_simple_text"} {
		if got := w.callTool(cs, tool); !strings.Contains(got, "simple text response") {
			t.Errorf("%s: %s", tool, got)
		}
	}
	res, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "far__test_sampling", Arguments: map[string]any{"prompt": "x"}})
	w.ok(err)
	if got := res.Content[0].(*mcp.TextContent).Text; !res.IsError || !strings.Contains(got, "the access gateway refuses") {
		t.Errorf("what nobody's role allows a server to ask: %s", got)
	}
	if got := w.callTool(cs, "nobody__x"); !strings.Contains(got, "no member of this endpoint") {
		t.Errorf("of no member: %s", got)
	}
	if got := w.callTool(cs, "exhibit__what_did_i_do"); !strings.Contains(got, `"far":`) || !strings.Contains(got, "tools/call test_sampling") {
		t.Errorf("what the gateway says: %s", got)
	}
	other := w.mcpAt(address, "/all", "idle", "--ticket", "T-2")
	if got, leftOut := names(other); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "near") }) || !slices.Contains(got, "far__test_simple_text") || !strings.Contains(leftOut, "near:") {
		t.Errorf("an agent that may reach one of them sees %v, without %s", got, leftOut)
	}
	if got := w.callTool(other, "near__test_simple_text"); !strings.Contains(got, "started") && !strings.Contains(got, "permit") {
		t.Errorf("and is told %q of the other", got)
	}

	seen := make(map[string][]string)
	for _, c := range w.did("--agent", "bot") {
		if strings.HasPrefix(c.Text, "tools/call") || c.Verb == "opaque" || c.Verb == "admin" {
			seen[c.Session] = append(seen[c.Session], strings.TrimSpace(c.Text+" "+c.Decision+" "+c.Outcome))
		}
	}
	want := map[string][]string{
		"remote":  {"tools/call test_simple_text allow ok", "tools/call test_sampling allow error", "sampling/createMessage deny denied", "deny skipped"},
		"started": {"tools/call test_simple_text allow ok"},
	}
	for session, list := range seen {
		told := w.must("did", session)
		resource := "remote"
		if strings.Contains(told, "bot on started") {
			resource = "started"
		}
		if !slices.Equal(list, want[resource]) {
			t.Errorf("on record: %q, want %q\n%s", list, want[resource], told)
		}
		delete(want, resource)
	}
	if len(want) > 0 {
		t.Errorf("not on record: %v", want)
	}
	w.ok(cs.Close())
	w.ok(other.Close())
	w.stop(15)
	w.start()
	w.passes()
}

// mcpAt connects a client as an agent, to a path.
func (w *world) mcpAt(address, path, agent string, token ...string) *mcp.ClientSession {
	w.t.Helper()
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, nil).Connect(w.t.Context(), &mcp.StreamableClientTransport{
		Endpoint: "http://" + address + path, HTTPClient: &http.Client{Transport: bearer(w.token(agent, token...))},
	}, nil)
	w.ok(err)
	w.t.Cleanup(func() { _ = cs.Close() })
	return cs
}
