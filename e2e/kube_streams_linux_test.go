package e2e

import (
	"archive/zip"
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// kubectlCmd is kubectl, to be run by whoever asks for it.
func (c *cluster) kubectlCmd(config string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), c.kube.Kubectl, append([]string{"--kubeconfig", config, "--cache-dir", c.path("kube-cache")}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+c.path("cache"))
	return cmd
}

// ran are the commands of a text that were allowed and have ended, in order.
func (c *cluster) ran(text string) (list []command) {
	c.t.Helper()
	c.until(30*time.Second, text+" has ended", func() bool {
		list = nil
		for _, d := range c.did() {
			if d.Outcome == "open" {
				return false
			}
			if d.Text == text && d.Decision == "allow" {
				list = append(list, d)
			}
		}
		return len(list) > 0
	})
	return list
}

// played are the events of a command's recording, by kind.
func (c *cluster) played(id string) (header map[string]any, events map[string]string) {
	c.t.Helper()
	lines := bufio.NewScanner(strings.NewReader(c.must("replay", id)))
	lines.Buffer(nil, 1<<20)
	events = make(map[string]string)
	for lines.Scan() {
		if header == nil {
			c.ok(json.Unmarshal(lines.Bytes(), &header))
			continue
		}
		var e [3]any
		c.ok(json.Unmarshal(lines.Bytes(), &e))
		events[e[1].(string)] += e[2].(string)
	}
	return header, events
}

// What is typed into a pod and what it shows is on record, sealed, and can be
// played: by pipes and at a terminal, over WebSocket and over SPDY.
func TestProgramsInPodsAreRecorded(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ok(c.kube.StartNode(t.Context(), ""))
	c.ok(c.kube.StartPod(t.Context(), "shop", "web"))
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	for _, websocket := range []string{"true", "false"} { // kwok doesn't tell programs that nothing more comes
		env := "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + websocket
		out, err := c.kubectl(config, "typed-canary\n", env, "exec", "-i", "web", "--", "sh", "-c", "head -n 1; echo shown-canary; echo failed >&2")
		if err != nil || !strings.Contains(out, "typed-canary\n") || !strings.Contains(out, "shown-canary\n") || !strings.Contains(out, "failed\n") {
			t.Errorf("exec, WebSockets %s: %v\n%s", websocket, err, out)
		}
		if out, err := c.kubectl(config, "", env, "exec", "web", "--", "sh", "-c", "exit 3"); err == nil || !strings.Contains(out, "exit status 3") {
			t.Errorf("exec of what fails, WebSockets %s: %v\n%s", websocket, err, out)
		}
		large := strings.Repeat("0123456789abcdef", 64<<10)
		if out, err := c.kubectl(config, large, env, "exec", "-i", "web", "--", "sh", "-c", fmt.Sprintf("head -c %d | wc -c", len(large))); err != nil || strings.TrimSpace(out) != fmt.Sprint(len(large)) {
			t.Errorf("exec with much to read, WebSockets %s: %v\n%.200s", websocket, err, out)
		}
		name := "copied-" + websocket
		c.ok(os.WriteFile(filepath.Join(c.kube.Work(), name), []byte("a file"), 0o600))
		if out, err := c.kubectl(config, "", env, "cp", "web:"+name, c.path(name)); err != nil {
			t.Errorf("cp, WebSockets %s: %v\n%s", websocket, err, out)
		}
		if b, err := os.ReadFile(c.path(name)); err != nil || string(b) != "a file" {
			t.Errorf("what was copied, WebSockets %s, is %q, %v", websocket, b, err)
		}
	}
	list := c.ran("exec pods/shop/web")
	for i := range 2 {
		_, events := c.played(list[i*len(list)/2].ID)
		if events["i"] != "typed-canary\n" || !strings.Contains(events["o"], "typed-canary\n") || !strings.Contains(events["o"], "shown-canary\n") || !strings.Contains(events["o"], "failed\n") {
			t.Errorf("%+v plays as %q", list[i*len(list)/2], events)
		}
		if d := list[i*len(list)/2]; d.Outcome != "ok" || d.Code != "exit:0" {
			t.Errorf("%+v", d)
		}
		if d := list[i*len(list)/2+1]; d.Outcome != "error" {
			t.Errorf("what failed is %+v", d)
		}
	}

	// A person at a terminal, who makes its window larger.
	p := c.sitAt(t, c.kubectlCmd(config, "exec", "-it", "web", "--", "sh"), "\x04")
	c.ok(unix.IoctlSetWinsize(int(p.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 132}))
	p.press("stty size; echo by-the-$((1+1))nd\n")
	p.expect("by-the-2nd")
	p.press("exit\n")
	list = c.ran("exec pods/shop/web")
	last := list[len(list)-1]
	if _, events := c.played(last.ID); !strings.Contains(events["i"], "echo by-the-") || !strings.Contains(events["o"], "by-the-2nd") || !strings.Contains(events["r"], "132x50") {
		t.Errorf("%+v plays as %q", last, events)
	}

	// Ending the session ends the program.
	p = c.sitAt(t, c.kubectlCmd(config, "exec", "-it", "web", "--", "sh", "-c", "echo begun; sleep 600"), "\x03")
	p.expect("begun")
	c.must("kill", "--agent", "bot", "--reason", "enough")
	list = c.ran("exec pods/shop/web")
	if last := list[len(list)-1]; last.Outcome != "cancelled" {
		t.Errorf("what was killed is %+v", last)
	}
	c.audited()
	c.passes()
	for _, secret := range []string{"typed-canary", "shown-canary", c.kube.Account} {
		if out, err := c.run("grep", "-rl", secret, c.path("data"), c.path("gateway.log")); err == nil {
			t.Errorf("%q stands in %s", secret, out)
		}
	}
}

// admit has policy let debuggers do what isn't understood.
func (c *cluster) admit(action string) {
	c.t.Helper()
	for name, change := range map[string][2]string{
		"kubernetes-guardrails": {fmt.Sprintf(`Action::%q, `, action), ""},
		"guardrails":            {`action in Action::"opaque", resource);`, fmt.Sprintf(`action in Action::"opaque", resource) unless { action == Action::%q };`, action)},
	} {
		path := c.path("policies/" + name + ".cedar")
		text, err := os.ReadFile(path)
		c.ok(err)
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if changed == string(text) {
			c.t.Fatalf("%s has no %q", path, change[0])
		}
		c.ok(os.WriteFile(path, []byte(changed), 0o644))
	}
	c.ok(os.WriteFile(c.path("policies/admitted.cedar"), fmt.Appendf(nil, `@id("admitted")
@description("Debuggers may do this, though nobody understands what flows in it.")
permit (principal in Role::"kube-debugger", action == Action::%q, resource);
`, action), 0o644))
	c.must("reload")
}

// uncovered packs, verifies, and expects that the pack says how many commands
// were allowed that nobody understood.
func (c *cluster) uncovered(n int) {
	c.t.Helper()
	c.passes()
	pack, err := zip.OpenReader(c.packed)
	c.ok(err)
	defer pack.Close()
	readme, err := fs.ReadFile(pack, "README.html")
	c.ok(err)
	if want := fmt.Sprintf("%d commands were allowed though not understood (opaque)", n); !strings.Contains(string(readme), want) {
		c.t.Errorf("the pack doesn't say that %s:\n%s", want, readme)
	}
}

// What leads through the cluster to somewhere else isn't understood: it needs a
// policy that says so, and is shown as uncovered.
func TestPortsAreForwardedOnlyWherePolicySaysSo(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	behind, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	c.ok(err)
	t.Cleanup(func() { behind.Close() })
	go func() {
		for {
			conn, err := behind.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReader(conn).ReadString('\n')
				fmt.Fprintf(conn, "heard %s", line)
			}()
		}
	}()
	c.ok(c.kube.StartNode(t.Context(), behind.Addr().String()))
	c.ok(c.kube.StartPod(t.Context(), "shop", "web"))
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	if out, err := c.kubectl(config, "", "port-forward", "web", "18080:80"); err == nil || !strings.Contains(out, "kube-guard-opaque") {
		t.Errorf("port-forward without a policy for it: %v\n%s", err, out)
	}
	c.admit("kubernetes:portforward")
	for _, websocket := range []string{"true", "false"} {
		local, err := pgserver.FreeAddr()
		c.ok(err)
		_, port, _ := net.SplitHostPort(local) // made here
		cmd := c.kubectlCmd(config, "port-forward", "web", port+":80")
		cmd.Env = append(cmd.Env, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+websocket)
		log, err := os.Create(c.path("forward-" + websocket + ".log"))
		c.ok(err)
		cmd.Stdout, cmd.Stderr = log, log
		c.ok(cmd.Start())
		said := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
		c.until(60*time.Second, "kubectl forwards, or says why not", func() bool { return said() != "" })
		if !strings.Contains(said(), "Forwarding from") {
			t.Errorf("port-forward, WebSockets %s:\n%s", websocket, said())
			_ = cmd.Wait() // as it said
			continue
		}
		c.listens(local)
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", local)
		c.ok(err)
		c.ok(conn.SetDeadline(time.Now().Add(30 * time.Second)))
		fmt.Fprintln(conn, "through-the-tunnel")
		if b, err := io.ReadAll(conn); string(b) != "heard through-the-tunnel\n" {
			t.Errorf("WebSockets %s: %q, %v\n%s", websocket, b, err, said())
		}
		conn.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // interrupted
		log.Close()
	}
	list := c.ran("portforward pods/shop/web")
	for _, d := range list {
		if d.Verb != "opaque" {
			t.Errorf("%+v", d)
		}
	}
	c.uncovered(len(list))
}

// What is followed comes as it happens, and ends with the right to it.
func TestWhatIsFollowedComesAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ok(c.kube.StartNode(t.Context(), ""))
	c.ok(c.kube.StartPod(t.Context(), "shop", "web"))
	c.grant("bot", "kube-shop-deployer", "prod")
	config := c.kubeconfig("bot")
	watch := c.sitAt(t, c.kubectlCmd(config, "get", "configmaps", "--watch", "-o", "name"), "\x03")
	logs := c.sitAt(t, c.kubectlCmd(config, "logs", "web", "--follow"), "\x03")
	for _, name := range []string{"first", "second"} {
		c.ok(c.kube.Apply(t.Context(), fmt.Sprintf(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": %q, "namespace": "shop"}}`, name)))
		watch.expect("configmap/" + name)
		c.ok(c.kube.Log("line " + name))
		logs.expect("line " + name)
	}
	c.must("kill", "--agent", "bot", "--reason", "enough")
	if d := c.ran("watch configmaps/shop"); d[0].Outcome != "cancelled" {
		t.Errorf("the watch is %+v", d)
	}
	c.audited()
	c.passes()
}

// Somebody who waits for a rollout sees it come to its end.
func TestRolloutsAreFollowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("bot", "kube-shop-deployer", "prod")
	config := c.kubeconfig("bot")
	c.ok(c.kube.Apply(t.Context(), `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 2,
"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "local"}]}}}}`))
	ready := func(n int) { // as the controller says it, which doesn't run here
		t.Helper()
		_, err := c.kube.Run(t.Context(), "patch", "deployment", "web", "-n", "shop", "--subresource=status", "--type=merge", "-p",
			fmt.Sprintf(`{"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": %[1]d, "availableReplicas": %[1]d}}`, n))
		c.ok(err)
	}
	rollout := c.sitAt(t, c.kubectlCmd(config, "rollout", "status", "deployment/web"), "\x03")
	rollout.expect("Waiting for deployment")
	ready(1)
	rollout.expect("1 of 2 updated replicas are available")
	ready(2)
	rollout.expect(`deployment "web" successfully rolled out`)
	for _, d := range c.ran("watch deployments.apps/shop/web fieldSelector=metadata.name=web") {
		if d.Outcome != "ok" && d.Outcome != "cancelled" {
			t.Errorf("%+v", d)
		}
	}
	c.audited()
	c.passes()
}
