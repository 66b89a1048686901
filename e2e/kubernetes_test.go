package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// cluster is a world with an API server behind the gateway, as the resource
// prod, and the example policies for it.
type cluster struct {
	*world
	kube *kubeserver.Server
	gate string // address of the gateway's listener
	tls  *authority
}

// accountRBAC is all that the gateway's account may do: ask for some agents.
const accountRBAC = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: exhibit-gateway}
rules:
- {apiGroups: [""], resources: [users], verbs: [impersonate], resourceNames: ["exhibit:bot"]}
- {apiGroups: [""], resources: [groups], verbs: [impersonate], resourceNames: ["exhibit:agents"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: exhibit-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: exhibit-gateway}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: exhibit}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agents}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "exhibit:agents"}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
`

// newCluster starts it. In the cluster agents may do everything, so that what is
// refused is refused by the gateway. More is put behind the resource.
func newCluster(t *testing.T, more ...string) *cluster {
	t.Helper()
	kube, err := kubeserver.Start(t.Context(), filepath.Join(t.TempDir(), "kube"))
	if errors.Is(err, kubeserver.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kube.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := kube.Apply(t.Context(), accountRBAC); err != nil {
		t.Fatal(err)
	}
	c := newClusterAt(t, kube.Addr, kube.CA, kube.Account, strings.ReplaceAll(strings.Join(more, ""), "AUDIT", kube.Audit))
	c.kube = kube
	return c
}

// newClusterAt starts one whose API server is at an address, proves itself by a
// certificate of ca, and takes a token.
func newClusterAt(t *testing.T, addr, ca, token string, more ...string) *cluster {
	t.Helper()
	c := &cluster{tls: newAuthority(t, t.TempDir())}
	c.tls.issue("gateway", &x509.Certificate{})
	var err error
	if c.gate, err = pgserver.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.tls.path("token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	c.world = newWorld(t, func(text string) string {
		return strings.Replace(text, "\nresources:\n", fmt.Sprintf(`
  - {name: kube, protocol: kubernetes, address: '%[1]s', tls: {cert: '%[2]s/gateway.pem', key: '%[2]s/gateway.key'}}

resources:
  - name: prod
    protocol: kubernetes
    upstream:
      address: '%[3]s'
      tls: {mode: verify-full, ca: '%[4]s'}
      header: {name: Authorization, prefix: 'Bearer ', value: {file: '%[2]s/token'}}
    kubernetes: {prefix: /prod, account: %[5]s}
%[6]s`, c.gate, c.tls.dir, addr, ca, kubeserver.Gateway, strings.Join(more, "")), 1)
	})
	examples := os.DirFS("../examples/kubernetes")
	files, err := fs.Glob(examples, "*.cedar")
	c.ok(err)
	for _, name := range files {
		text, err := fs.ReadFile(examples, name)
		c.ok(err)
		c.ok(os.WriteFile(c.path("policies/"+name), text, 0o644))
	}
	c.must("reload")
	return c
}

// kubeconfig writes an agent's, with what the token shall say.
func (c *cluster) kubeconfig(agent string, args ...string) (path string) {
	c.t.Helper()
	path = c.path(agent + strings.Join(args, "") + ".kubeconfig")
	c.must(append([]string{"kube", "config", "prod=https://" + c.gate + "/prod", "--key", c.path(agent + ".key"), "--ca", c.tls.path("ca.pem"), "--namespace", "shop", "--output", path}, args...)...)
	return path
}

// kubectl runs the client of the server's version. What begins with KUBECTL_ is a
// variable of its environment.
func (c *cluster) kubectl(config, in string, args ...string) (string, error) {
	env := append(os.Environ(), "XDG_CACHE_HOME="+c.path("cache"))
	if strings.HasPrefix(args[0], "KUBECTL_") {
		env, args = append(env, args[0]), args[1:]
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.kube.Kubectl, append([]string{"--kubeconfig", config, "--cache-dir", c.path("kube-cache")}, args...)...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// An unmodified kubectl works, with the rights that its agent has, and the
// record reads like what was typed.
func TestKubectlThroughTheGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("bot", "kube-shop-deployer", "prod")
	bot := c.kubeconfig("bot")
	const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: local, env: [{name: A, value: body-canary}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
`
	for _, step := range []struct {
		args string
		in   string
		want string // in what it prints
	}{
		{args: "version", want: "Server Version: v1."},
		{args: "api-resources", want: "deployments"},
		{args: "explain deployment.spec.replicas", want: "replicas <integer>"},
		{args: "auth can-i create pods", want: "yes"},
		{args: "auth whoami", want: "exhibit:bot"},
		{args: "get --raw /readyz", want: "ok"},
		{args: "apply -f -", in: web, want: "deployment.apps/web created"},
		{args: "apply -f -", in: web, want: "deployment.apps/web unchanged"},
		{args: "apply --server-side --force-conflicts -f -", in: web, want: "deployment.apps/web serverside-applied"},
		{args: "diff -f -", in: web},
		{args: "get deployments,configmaps -o wide", want: "settings"},
		{args: "get deployment web -o jsonpath={.metadata.name}", want: "web"},
		{args: "scale deployment web --replicas=2", want: "scaled"},
		{args: "label deployment web tier=front", want: "labeled"},
		{args: `patch deployment web -p {"spec":{"paused":true}}`, want: "patched"},
		{args: "create configmap large --from-file=x=/proc/self/exe --dry-run=server", want: "error"},
		{args: "delete configmap settings --dry-run=server", want: "server dry run"},
		{args: "delete configmap settings", want: "deleted"},
		{args: "delete deployments --all", want: `"web" deleted`},
		{args: "get events --watch-only --request-timeout=1s"},
	} {
		out, err := c.kubectl(bot, step.in, strings.Fields(step.args)...)
		if !strings.Contains(out, step.want) || err != nil && step.want != "error" && step.want != "" {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, out)
		}
	}
	for args, want := range map[string]string{
		"get pods -n default":   "this role ends at the namespace shop",
		"get secrets":           "Forbidden",
		"create token default":  "kube-guard-escalation",
		"delete namespace shop": "kube-guard-namespaces",
		"create clusterrolebinding x --clusterrole=cluster-admin --user=exhibit:bot": "kube-guard-escalation",
		"get pods --as=admin": "Impersonate-* is refused",
		"create secret generic s --from-literal=a=secret-canary": "kubernetes:secret_write on secrets/shop/s",
	} {
		out, err := c.kubectl(bot, "", strings.Fields(args)...)
		if err == nil || !strings.Contains(out, want) || !strings.Contains(out, "gateway") {
			t.Errorf("kubectl %s: %v\n%s", args, err, out)
		}
	}
	texts := map[string]command{}
	for _, d := range c.did() {
		texts[d.Text] = d
	}
	for _, text := range []string{
		"get /version", "create selfsubjectaccessreviews.authorization.k8s.io", "patch deployments.apps/shop/web", "patch deployments.apps/shop/web/scale",
		"get deployments.apps/shop/web", "list configmaps/shop", "create configmaps/shop/settings", "delete configmaps/shop/settings dryRun=All", "delete configmaps/shop/settings", "token serviceaccounts/shop/default", "list secrets/shop",
	} {
		if texts[text].ID == "" {
			t.Errorf("no record reads %q", text)
		}
	}
	if d := texts["list secrets/shop"]; d.Decision != "deny" || d.Verb != "admin" {
		t.Errorf("%+v", d)
	}
	if d := texts["delete configmaps/shop/settings"]; d.Outcome != "ok" || d.Code != "200" || d.Verb != "write" {
		t.Errorf("%+v", d)
	}
	c.audited()
	if out := c.must("explain", texts["list secrets/shop"].ID); !strings.Contains(out, "list secrets/shop") || !strings.Contains(out, "kubernetes:secret_read") {
		t.Errorf("explain:\n%s", out)
	}
	if out := c.must("explain", "--agent", "bot", "--resource", "prod", "GET /api/v1/namespaces/shop/pods/web"); !strings.Contains(out, "kube-deployer") {
		t.Errorf("explain:\n%s", out)
	}
	if out := c.must("who", "prod"); !strings.Contains(out, "bot") {
		t.Errorf("who:\n%s", out)
	}
	if out := c.must("allowed", "bot"); !strings.Contains(out, "kube-shop-deployer") {
		t.Errorf("allowed:\n%s", out)
	}
	c.passes()
	for _, secret := range []string{"body-canary", "secret-canary", c.kube.Account} {
		if out, err := c.run("grep", "-rl", secret, c.path("data"), c.path("gateway.log")); err == nil {
			t.Errorf("%q stands in %s", secret, out)
		}
	}
}

// What runs in pods: logs end and follow, programs run, and what leads elsewhere
// is refused.
func TestPodsThroughTheGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ok(c.kube.StartNode(t.Context(), ""))
	for _, namespace := range []string{"shop", "kube-system"} {
		c.ok(c.kube.StartPod(t.Context(), namespace, "web"))
	}
	c.ok(c.kube.Log("a line of the pod"))
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	for args, want := range map[string]string{
		"logs web":                          "a line of the pod\n",
		"exec web -- echo of-the-container": "of-the-container\n",
	} {
		for _, websocket := range []string{"true", "false"} {
			if out, err := c.kubectl(config, "", append([]string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + websocket}, strings.Fields(args)...)...); err != nil || out != want {
				t.Errorf("kubectl %s, WebSockets %s: %v\n%s", args, websocket, err, out)
			}
		}
	}
	for args, want := range map[string]string{
		"create --raw /api/v1/namespaces/kube-system/pods/web/exec?command=id -f -": "kube-guard-system-exec",
		"logs -n kube-system web":                           "no rule lets bot do kubernetes:get on pods/kube-system/web",
		"port-forward web 18080:80":                         "kube-guard-opaque",
		"get --raw /api/v1/namespaces/shop/pods/web/proxy/": "kube-guard-opaque",
		"debug web --image=local -- id":                     "kubernetes:debug",
		"drain node-0 --force --ignore-daemonsets":          "gateway",
	} {
		if out, err := c.kubectl(config, "", strings.Fields(args)...); err == nil || !strings.Contains(out, want) {
			t.Errorf("kubectl %s: %v\n%s", args, err, out)
		}
	}
	execs := 0
	for _, d := range c.did() {
		if d.Text == "exec pods/shop/web" && d.Decision == "allow" {
			execs++
			if d.Outcome != "ok" || d.Verb != "admin" {
				t.Errorf("%+v", d)
			}
		}
	}
	if execs != 2 {
		t.Errorf("%d programs were run", execs)
	}
	c.audited()
	c.passes()
}

// audited holds the records against the cluster's own audit log: each command
// that was allowed is there under its id, by the gateway's account for the agent,
// and no other is by that account.
func (c *cluster) audited() {
	c.t.Helper()
	type event struct {
		AuditID, RequestURI    string
		User, ImpersonatedUser struct{ Username string }
	}
	seen := map[string]event{}
	f, err := os.Open(c.kube.Audit)
	c.ok(err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e event
		c.ok(json.Unmarshal(lines.Bytes(), &e))
		if e.User.Username == kubeserver.Gateway {
			seen[e.AuditID] = e
		}
	}
	passed := 0
	for _, d := range c.did() {
		e, found := seen[d.ID]
		delete(seen, d.ID)
		switch {
		case d.Decision == "allow" && d.Outcome != "skipped" && d.Verb != "connect":
			passed++
			if !found && d.Outcome == "in_doubt" {
				continue // the gateway was killed before or after it passed on the request
			}
			if !found || e.ImpersonatedUser.Username != "exhibit:"+d.Agent {
				c.t.Errorf("%s (%s) is in the cluster's log as %+v", d.ID, d.Text, e)
			}
		case found:
			c.t.Errorf("%s (%s, %s) is in the cluster's log", d.ID, d.Text, d.Decision)
		}
	}
	for id, e := range seen {
		c.t.Errorf("the account asked for %s as %s, which no record names", e.RequestURI, id)
	}
	if passed == 0 {
		c.t.Error("nothing passed")
	}
}
