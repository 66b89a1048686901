package e2e

import (
	"context"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// chart is one of Helm's with a workload, its settings, and a key.
var chart = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: web\nversion: 0.1.0\n",
	"values.yaml": "color: red\nreplicas: 1\nkey: key-canary-55e1\n",
	"templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: main, image: local}]}
`,
	"templates/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {color: {{ .Values.color }}}\n",
	"templates/secret.yaml":    "apiVersion: v1\nkind: Secret\nmetadata: {name: {{ .Release.Name }}-key}\nstringData: {key: {{ .Values.key }}}\n",
}

// Helm installs, upgrades, rolls back and removes what its agent may, and keeps
// its releases, whose Secrets hold all of what was installed, in nobody's record.
func TestHelmThroughTheGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	helm := c.tool("helm")
	for name, text := range chart {
		path := c.path("chart/" + name)
		c.ok(os.MkdirAll(filepath.Dir(path), 0o755))
		c.ok(os.WriteFile(path, []byte(text), 0o644))
	}
	c.grant("bot", "kube-shop-deployer", "prod")
	config := c.kubeconfig("bot")
	run := func(args string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, helm, strings.Fields(args)...)
		cmd.Dir = c.dir
		cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "XDG_CACHE_HOME="+c.path("cache"),
			"HELM_CACHE_HOME="+c.path("helm"), "HELM_CONFIG_HOME="+c.path("helm"), "HELM_DATA_HOME="+c.path("helm"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("install other chart"); err == nil || !strings.Contains(out, "secrets/shop/other-key") || !strings.Contains(out, "gateway") {
		t.Errorf("a chart with a Secret that isn't the agent's: %v\n%s", err, out)
	}
	c.ok(os.WriteFile(c.path("policies/key.cedar"), []byte(`@id("web-key")
@description("Deployers of the shop make the key of its web server.")
permit (principal in Role::"kube-shop-deployer", action in [Action::"kubernetes:secret_read", Action::"kubernetes:secret_write"], resource is Object)
when { resource.name == "secrets/shop/web-key" };
`), 0o644))
	c.must("reload")
	release := ""
	for _, step := range []struct{ args, want, color string }{
		{"install web chart", "STATUS: deployed", "red"},
		{"list", "web", "red"},
		{"upgrade web chart --set color=green,replicas=2", "REVISION: 2", "green"},
		{"upgrade web chart --install --set color=blue --dry-run=server", "blue", "green"},
		{"get values web", "color: green", "green"},
		{"history web", "superseded", "green"},
		{"rollback web 1", "Rollback was a success", "red"},
		{"status web", "REVISION: 3", "red"},
		{"uninstall web", `release "web" uninstalled`, ""},
	} {
		out, err := run(step.args)
		if err != nil || !strings.Contains(out, step.want) {
			t.Errorf("helm %s: %v\n%s", step.args, err, out)
		}
		color, _ := c.kube.Run(t.Context(), "get", "configmap", "web", "-n", "shop", "-o", "jsonpath={.data.color}") // fails when it is gone
		if color != step.color {
			t.Errorf("after helm %s the color is %q", step.args, color)
		}
		if release == "" {
			release, err = c.kube.Run(t.Context(), "get", "secret", "sh.helm.release.v1.web.v1", "-n", "shop", "-o", "jsonpath={.data.release}")
			c.ok(err)
		}
	}
	if left, err := c.kube.Run(t.Context(), "get", "deployments,configmaps,secrets", "-n", "shop", "-o", "name"); err != nil || strings.Contains(left, "web") {
		t.Errorf("helm leaves %s, %v", left, err)
	}
	texts := map[string]command{}
	for _, d := range c.did() {
		texts[d.Text+" "+d.Decision] = d
	}
	for text, want := range map[string]string{
		"create secrets/shop/sh.helm.release.v1.web.v1 allow": "admin ok",
		"update secrets/shop/sh.helm.release.v1.web.v1 allow": "admin ok",
		"create secrets/shop/sh.helm.release.v1.web.v3 allow": "admin ok",
		"delete secrets/shop/sh.helm.release.v1.web.v2 allow": "admin ok",
		"delete deployments.apps/shop/web allow":              "write ok",
	} {
		if d := texts[text]; d.Verb+" "+d.Outcome != want {
			t.Errorf("%q is on record as %+v", text, d)
		}
	}
	c.audited()
	c.passes()
	plain, err := base64.StdEncoding.DecodeString(release)
	c.ok(err)
	for _, secret := range []string{"key-canary-55e1", base64.StdEncoding.EncodeToString([]byte("key-canary-55e1")), release[100:160], string(plain[100:160]), c.kube.Account} {
		if out, err := c.run("grep", "-rlF", "--", secret, c.path("data"), c.path("gateway.log")); err == nil {
			t.Errorf("%q stands in %s", secret, out)
		}
	}
}
