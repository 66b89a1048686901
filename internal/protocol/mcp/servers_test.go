package mcp_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// packaged is a server of npm, started by the gateway.
func packaged(t *testing.T, name string, args ...string) mcp.Resource {
	t.Helper()
	node, modules := nodeTools(t)
	script := filepath.Join(modules, "@modelcontextprotocol", name, "dist/index.js")
	return mcp.Resource{AcceptAll: true, Command: &mcp.Command{Args: append([]string{node, script}, args...), Env: func() ([]string, error) { return nil, nil }}}
}

func TestServerFilesystem(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := packaged(t, "server-filesystem", dir)
	r.Match, r.TrustAnnotations = []string{"/path"}, true
	g := startGateway(t, "", r)
	secret := filepath.Join(dir, "secret.txt")
	g.Decide = func(c *evidence.Command) evidence.Decision {
		if c.Facts["/path"] == secret {
			return evidence.Decision{Effect: evidence.Deny, Reason: "it is secret"}
		}
		return refuse("mcp:call")(c)
	}
	cs := connect(t, g, nil)
	tools, err := cs.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range tools.Tools {
		if !tool.Annotations.ReadOnlyHint {
			t.Errorf("the agent sees %s, which writes", tool.Name)
		}
	}
	for path, want := range map[string]string{filepath.Join(dir, "a.txt"): "hello", secret: "it is secret", "/etc/passwd": "Access denied"} {
		res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "read_text_file", Arguments: map[string]any{"path": path}})
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Content[0].(*sdk.TextContent).Text; !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "write_file", Arguments: map[string]any{"path": filepath.Join(dir, "b.txt"), "content": "x"}})
	if err != nil || !res.IsError {
		t.Errorf("it was written: %+v, %v", res, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "b.txt")); err == nil {
		t.Error("it was written")
	}
	g.has(`call read "tools/call read_text_file" mcp:call_read[read_text_file]: ok`)
	g.has(`call read "tools/call read_text_file" mcp:call_read[read_text_file]: denied`)
	g.has(`call write "tools/call write_file" mcp:call[write_file]: denied`)
}

func TestServerEverything(t *testing.T) {
	g := startGateway(t, "", packaged(t, "server-everything", "stdio"))
	g.Decide = refuse("get-env")
	cs := connect(t, g, &sdk.ClientOptions{})
	tools, err := cs.ListTools(t.Context(), nil)
	if err != nil || len(tools.Tools) < 5 {
		t.Fatalf("%+v, %v", tools, err)
	}
	echo, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: map[string]any{"message": "hi"}})
	if err != nil || !strings.Contains(echo.Content[0].(*sdk.TextContent).Text, "hi") {
		t.Errorf("echo: %+v, %v", echo, err)
	}
	for _, tool := range tools.Tools {
		if tool.Name == "get-env" {
			t.Error("the agent sees a tool that it may not call")
		}
	}
	if res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "get-env", Arguments: map[string]any{}}); err != nil || !res.IsError {
		t.Errorf("get-env: %+v, %v", res, err)
	}
	resources, err := cs.ListResources(t.Context(), nil)
	if err != nil || len(resources.Resources) == 0 {
		t.Fatalf("resources: %+v, %v", resources, err)
	}
	uri := resources.Resources[0].URI
	if _, err := cs.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri}); err != nil {
		t.Error(err)
	}
	prompts, err := cs.ListPrompts(t.Context(), nil)
	if err != nil || len(prompts.Prompts) == 0 {
		t.Errorf("prompts: %+v, %v", prompts, err)
	}
	g.has(`call read "resources/read ` + uri + `" mcp:read_resource[` + uri + `]: ok`)
	g.has(`call write "tools/call get-env" mcp:call[get-env]: denied`)
}

// Two servers of npm are one endpoint for the official client for TypeScript,
// which takes no answer that isn't in the form of the specification.
func TestAnotherClientAndOtherServersAtAnEndpoint(t *testing.T) {
	node, modules := nodeTools(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a.txt")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startEndpoint(t, map[string]string{"every": "", "files": ""}, map[string]mcp.Resource{
		"every": packaged(t, "server-everything", "stdio"), "files": packaged(t, "server-filesystem", dir),
	})
	out, err := exec.CommandContext(t.Context(), node, "testdata/node/endpoint.mjs", modules, g.url, prototest.Token, file).CombinedOutput()
	want := `every__echo true
files__read_text_file true
exhibit__whoami true
every__echo false "Echo: hi"
files__read_text_file false "hello"
read true every
prompt every true
link every 1
asked every
progress true
`
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
	g.of("r-every", `call write "tools/call echo" mcp:call[echo]: ok`)
	g.of("r-files", `call write "tools/call read_text_file" mcp:call[read_text_file]: ok`)
}
