package mcp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
)

// shell is a server that is a script of the shell.
func shell(script string, env ...string) mcp.Resource {
	return mcp.Resource{AcceptAll: true, Message: 4096, Command: &mcp.Command{Args: []string{"/bin/sh", "-c", script}, Env: func() ([]string, error) { return env, nil }}}
}

// answers makes a script answer each line with the value of a variable of it.
const answers = `while read -r line; do
  id=$(printf '%s' "$line" | /bin/sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  [ -n "$id" ] && printf '{"jsonrpc":"2.0","id":%s,"result":{"said":"%s"}}\n' "$id" "$SAYS"
done`

func TestAServersEnvironmentIsWhatIsConfigured(t *testing.T) {
	t.Setenv("SECRET_OF_THE_GATEWAY", "x")
	g := startGateway(t, "", shell(`SAYS="$(/usr/bin/env | /usr/bin/sort | /usr/bin/tr '\n' ' ')"; `+answers, "MINE=1"))
	got := g.agent().must(t, ask(1, "ping", "{}"))
	if !strings.Contains(got, "MINE=1") || strings.Contains(got, "SECRET") || strings.Contains(got, "HOME=") {
		t.Errorf("the server sees %s", got)
	}
	if up := g.Sessions()[0].Connection(); !strings.HasPrefix(up.Local, "stdio:") || up.Remote != "sh" || up.PID == 0 {
		t.Errorf("on record: %+v", up)
	}
}

// exists reports whether a process runs.
func exists(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

func TestAServerEndsWithItsSessionAndAllThatItHasStarted(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc")
	}
	dir := t.TempDir()
	// Neither it nor its child minds a signal.
	g := startGateway(t, "", shell(`trap '' TERM; (trap '' TERM; while :; do /bin/sleep 1; done) & echo $! >`+dir+`/child; SAYS=x; `+answers))
	g.agent().must(t, ask(1, "ping", "{}"))
	s := g.Sessions()[0]
	b, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	server := int(s.Connection().PID)
	if !exists(child) || !exists(server) {
		t.Fatal("they don't run")
	}
	if group, err := syscall.Getpgid(child); err != nil || group != server {
		t.Errorf("the child is in group %d, %v", group, err)
	}
	s.Kill(errors.New("the agent was retired"))
	if _, err := s.Wait(5 * time.Second); err != nil {
		t.Error(err)
	}
	for range 100 {
		if !exists(child) && !exists(server) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if exists(child) || exists(server) {
		t.Error("they still run")
	}
	if !strings.Contains(trace(s), "note process sh was ended: signal: killed") {
		t.Errorf("on record is\n%s", trace(s))
	}
}

func TestAServerThatSaysTooMuchIsEnded(t *testing.T) {
	g := startGateway(t, "", shell(`read -r line; SAYS=$(printf '%5000s' x); printf '{"jsonrpc":"2.0","id":1,"result":{"said":"%s"}}\n' "$SAYS"; read -r line`))
	if got := g.agent().must(t, ask(1, "ping", "{}")); !strings.Contains(got, "may or may not have done") {
		t.Errorf("the agent sees %s", got)
	}
	g.has(`call session "ping" mcp:ping[]: in_doubt`)
}

func TestWhatIsNoMessageIsDropped(t *testing.T) {
	g := startGateway(t, "", shell(`echo 'Listening on stdio'; echo '{"jsonrpc":"2.0","id":99,"result":{}}'; SAYS=hello; `+answers))
	if got := g.agent().must(t, ask(1, "ping", "{}")); !strings.Contains(got, `"said":"hello"`) || strings.Contains(got, "Listening") || strings.Contains(got, "99") {
		t.Errorf("the agent sees %s", got)
	}
}

func TestAServersWordsAreInBoundsInTheLog(t *testing.T) {
	var log bytes.Buffer
	r := shell(`i=0; while [ $i -lt 200 ]; do printf 'line %d \033[31m %600s\n' $i x >&2; i=$((i+1)); done; SAYS=x; ` + answers)
	r.Resource = "svc"
	tools, err := mcp.Fetch(t.Context(), r, protocol.Upstream{}) // its words go nowhere
	if err != nil || len(tools) > 0 {
		t.Errorf("%+v, %v", tools, err)
	}
	g := startGatewayLogging(t, "", r, slog.NewTextHandler(&lockedBuffer{b: &log}, nil))
	g.agent().must(t, ask(1, "ping", "{}"))
	time.Sleep(100 * time.Millisecond)
	g.Sessions()[0].Kill(context.Canceled)
	if _, err := g.Sessions()[0].Wait(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if n := strings.Count(text, "a server says"); n != 60 {
		t.Errorf("%d lines", n)
	}
	if strings.Contains(text, "\033") || strings.Contains(text, strings.Repeat(" ", 600)) {
		t.Error("it is neither escaped nor cut")
	}
}

func TestWhatAPersonReviewsIsWhatTheGatewaySees(t *testing.T) {
	for name, o := range map[string]*sdk.StreamableHTTPOptions{"2025-11-25": nil, "2026-07-28": {Stateless: true}, "JSON": {JSONResponse: true}} {
		t.Run(name, func(t *testing.T) {
			up := serve(t, sdkServer(), o)
			g := startGateway(t, up, mcp.Resource{AcceptAll: true})
			if _, err := connect(t, g, nil).ListTools(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			r := mcp.Resource{Endpoint: "/mcp", Tools: map[string]string{"echo": strings.Repeat("0", 64)}, Route: httpgate.Route{Resource: "svc"}}
			tools, err := mcp.Fetch(t.Context(), r, protocol.Upstream{Address: up})
			if err != nil || len(tools) != 7 {
				t.Fatalf("%+v, %v", tools, err)
			}
			for _, tool := range tools {
				want := "new"
				if tool.Name == "echo" {
					want = "changed"
				}
				if !strings.Contains(string(g.imports[0].Data), tool.Digest) || tool.Held(&r) != want {
					t.Errorf("%+v is %s, and on record is %s", tool, tool.Held(&r), g.imports[0].Data)
				}
			}
		})
	}
}

func TestWhatIsAskedIsExplained(t *testing.T) {
	r := mcp.Resource{Route: httpgate.Route{Resource: "svc"}, AcceptAll: true, Match: []string{"/path"}}
	d := mcp.NewDefinitions(mcp.DefinitionsConfig{Resources: func() []mcp.Resource { return []mcp.Resource{r} }})
	for asked, want := range map[string]string{
		"tools/call nothing":       "mcp:call ? mcp:held ?",
		"resources/read file:///a": "mcp:read_resource file:///a",
		"prompts/get greet":        "mcp:get_prompt greet",
		"tools/list":               "mcp:list",
		"x/y":                      "mcp:opaque",
	} {
		s, err := d.Explain(t.Context(), "svc", asked)
		if err != nil {
			t.Errorf("%s: %v", asked, err)
			continue
		}
		var got []string
		for _, c := range s.Checks {
			got = append(got, strings.TrimSpace(c.Action+" "+c.Object))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s asks for %s, want %s", asked, got, want)
		}
	}
	for _, asked := range []string{"", "tools/call a {", "tools/call a {} {}"} {
		if s, err := d.Explain(t.Context(), "svc", asked); err == nil {
			t.Errorf("%q: %+v", asked, s)
		}
	}
	if _, err := d.Explain(t.Context(), "other", "ping"); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
