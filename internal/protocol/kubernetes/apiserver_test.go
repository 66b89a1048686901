package kubernetes_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// account is what the guide says that the gateway's own account needs, for the
// agent and the account of these tests.
func account(t *testing.T) string {
	t.Helper()
	guide, err := os.ReadFile("../../../docs/guides/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(guide), "## What its account needs")
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("the guide says nothing of the account's rights")
	}
	return strings.NewReplacer(`"exhibit:deployer", "exhibit:triage"`, `"exhibit:agent-1"`,
		"{kind: ServiceAccount, name: exhibit, namespace: exhibit}", "{apiGroup: rbac.authorization.k8s.io, kind: User, name: exhibit}").Replace(text)
}

// startCluster starts an API server with a gateway before it.
func startCluster(t *testing.T) (*kubeserver.Server, *gateway) {
	t.Helper()
	server, err := kubeserver.Start(t.Context(), filepath.Join(t.TempDir(), "kube"))
	if errors.Is(err, kubeserver.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Apply(t.Context(), account(t)); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(server.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return server, startGatewayTo(t, protocol.Upstream{
		Address: server.Addr, TLS: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}, Header: bearer(server.Account),
	}, kubernetes.Resource{})
}

// event is what an API server's audit log says of a request
// (https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/).
type event struct {
	AuditID   string `json:"auditID"`
	Verb      string `json:"verb"`
	ObjectRef struct {
		Resource, Subresource, Namespace, Name, APIGroup, APIVersion string
	} `json:"objectRef"`
	User, ImpersonatedUser struct {
		Username string
		Groups   []string
	}
	ResponseStatus struct{ Code int }
}

// audited finds what the cluster's log says of a command, or nothing.
func audited(t *testing.T, server *kubeserver.Server, id string) (e event, found bool) {
	t.Helper()
	f, err := os.Open(server.Audit)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), `"auditID":"`+id+`"`) {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		found = true
	}
	return e, found
}

// What the gateway decides is what the API server then does: its audit log,
// which isn't our code, says of each request the same as the record; and it
// never sees what the gateway doesn't decide.
func TestTheAPIServerReadsItTheSame(t *testing.T) {
	server, g := startCluster(t)
	for _, request := range []string{
		"GET /api/v1/namespaces/default/pods/web", "HEAD /api/v1/namespaces/default/pods/web", "GET /api/v1/namespaces/default/pods", "GET /api/v1/pods", "GET /api/v1/nodes/n1",
		"GET /api/v1/namespaces/default/pods?watch=1", "GET /api/v1/namespaces/default/pods?watch=false", "GET /api/v1/namespaces/default/pods?watch=perhaps",
		"GET /api/v1/namespaces/default/pods?watch=0&watch=1", "GET /api/v1/namespaces/default/pods?watch", "GET /api/v1/namespaces/default/pods?WATCH=1",
		"GET /api/v1/namespaces/default/pods/web?watch=1", "GET /api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb", "GET /api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dweb&limit=x",
		"GET /api/v1/namespaces/default/pods?limit=x&watch=1", "GET /api/v1/namespaces/default/pods?%77atch=1", "GET /api/v1/namespaces/default/pods?a;watch=1",
		"DELETE /api/v1/namespaces/default/pods", "DELETE /api/v1/namespaces/default/pods/web", "DELETE /api/v1/namespaces/default", "PUT /api/v1/namespaces/default/finalize",
		"PUT /api/v1/namespaces/default/status", "GET /api/v1/namespaces/default/other",
		"POST /api/v1/namespaces/default/pods/web/exec?command=sh", "GET /api/v1/namespaces/default/pods/web/exec?command=sh", "GET /api/v1/namespaces/default/pods/web/log",
		"POST /api/v1/namespaces/default/pods/web/log", "POST /api/v1/namespaces/default/pods/web/exec/more", "GET /api/v1/namespaces/default/pods/web/proxy/a/b?x=y",
		"PATCH /api/v1/namespaces/default/services/web:80/proxy/exec", "GET /api/v1/nodes/n1/proxy/logs/", "POST /api/v1/namespaces/default/pods/web/portforward",
		"GET /api/v1/watch/namespaces/default/secrets/key", "GET /api/v1/watch/pods", "POST /api/v1/watch/namespaces/default/pods", "DELETE /api/v1/watch/pods/x",
		"GET /api/v1/proxy/namespaces/default/services/web/private", "POST /api/v1/proxy/nodes/n1/run", "GET /api/v1/watch", "GET /api/v1/proxy",
		"GET /api/v1/namespaces/default/pods/", "GET /api/v1/namespaces/default/pods/%77eb", "GET /api/v1/namespaces/default/pods/a%20b", "GET /api/v1/namespaces/default/pods/web%3Aa",
		"GET /apis/apps/v1/namespaces/default/deployments/web/scale", "PATCH /apis/apps/v1/namespaces/default/deployments/web", "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/admin",
		"OPTIONS /api/v1/namespaces/default/pods", "QUERY /api/v1/namespaces/default/pods", "FOO /api/v1/namespaces/default/secrets/key",
		"GET /api", "GET /apis/apps", "GET /apis/apps/v1", "GET /API/v1/pods", "GET /apis/v1/pods", "GET /version", "POST /version", "GET /metrics", "GET /debug/pprof/heap", "GET /openapi/v3/apis/apps/v1", "GET /api/v2/pods/x",
		// What servers read in two ways.
		"GET //api/v1/namespaces/default/secrets/key", "GET /api/v1//namespaces/default/secrets/key", "GET /api/v1/namespaces/default/pods/../secrets/key", "GET /api/v1/namespaces/default/pods/%2e%2e/secrets/key",
		"GET /api/v1/namespaces/default%2Fsecrets/key", "GET /api/v1/namespaces/default/pods/x%2F..%2F..%2Fsecrets/key", "GET /version/../api/v1/secrets", "GET /./api/v1/secrets", "GET /api/v1/secrets%00",
		"GET /api/v1/namespaces/default/pods;x=y/web", "GET /api/v1/namespaces/default\\secrets/key", "GET http://other/api/v1/secrets", "CONNECT /api/v1/secrets",
	} {
		before := 0
		if s := g.Sessions(); len(s) > 0 {
			before = len(s[0].Exchanges())
		}
		method, target, _ := strings.Cut(request, " ")
		line := method + " " + target + " HTTP/1.1"
		if method == "HEAD" {
			g.head(line)
		} else {
			g.raw(line)
		}
		exchanges := g.Sessions()[0].Exchanges()
		if len(exchanges) != before+1 {
			t.Errorf("%s made %d records", request, len(exchanges)-before)
			continue
		}
		x := exchanges[before]
		e, seen := audited(t, server, x.Position().String())
		if x.Skipped() {
			if seen {
				t.Errorf("%s is refused by the gateway, and the server has seen it: %+v", request, e)
			}
			continue
		}
		if !seen && x.Shape.Text == "" && x.Outcome().Code == "500" {
			continue // it could not tell either, and said so before it wrote to its log
		}
		if !seen {
			t.Errorf("%s: the server's audit log does not name command %s", request, x.Position())
			continue
		}
		if e.User.Username != kubeserver.Gateway || e.ImpersonatedUser.Username != "exhibit:agent-1" || !strings.Contains(fmt.Sprint(e.ImpersonatedUser.Groups), "exhibit:agents") {
			t.Errorf("%s is by %+v for %+v", request, e.User, e.ImpersonatedUser)
		}
		fact := func(name string) string { s, _ := x.Shape.Facts[name].(string); return s }
		ours := fmt.Sprintf("%s %s/%s %s/%s/%s %s", fact("verb"), fact("group"), fact("version"), fact("namespace"), fact("resource"), fact("name"), fact("subresource"))
		o := e.ObjectRef
		theirs := fmt.Sprintf("%s %s/%s %s/%s/%s %s", e.Verb, o.APIGroup, o.APIVersion, o.Namespace, o.Resource, o.Name, o.Subresource)
		if opaque := x.Verb == "opaque" && x.Shape.Text == ""; ours != theirs && !opaque && (fact("verb") != "other" || !strings.HasSuffix(theirs, strings.TrimPrefix(ours, "other"))) {
			t.Errorf("%s\nis decided as %s\nand done as    %s", request, ours, theirs)
		}
	}
}

// The account may ask for the agents that it is to ask for, and nothing else.
func TestTheAccountMayOnlyAskForAgents(t *testing.T) {
	server, _ := startCluster(t)
	for args, want := range map[string]string{
		"get pods":                      `User "exhibit" cannot list resource "pods"`,
		"get secrets -A":                `User "exhibit" cannot list resource "secrets"`,
		"get pods --as=exhibit:agent-1": `User "exhibit:agent-1" cannot list resource "pods"`,
		"get pods --as=exhibit:agent-1 --as-group=exhibit:agents": `User "exhibit:agent-1" cannot list resource "pods"`,
		"get pods --as=exhibit:agent-2":                           `User "exhibit" cannot impersonate`,
		"get pods --as=admin":                                     `User "exhibit" cannot impersonate`,
		"get pods --as=exhibit:agent-1 --as-group=system:masters": `User "exhibit" cannot impersonate`,
		"get pods --as=system:serviceaccount:kube-system:default": `User "exhibit" cannot impersonate`,
		"get pods --as=exhibit:agent-1 --as-uid=1":                `User "exhibit" cannot impersonate`,
	} {
		if out, err := server.Run(t.Context(), append(strings.Fields(args), "--token", server.Account)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", args, out, err)
		}
	}
}

// The object that a content names is the one that the server makes or removes.
func TestTheServerMakesWhatTheContentSays(t *testing.T) {
	server, g := startCluster(t)
	if out, err := server.Run(t.Context(), "create", "clusterrolebinding", "agents", "--clusterrole=cluster-admin", "--group=exhibit:agents"); err != nil {
		t.Fatal(out, err)
	}
	cbor, err := direct.Marshal(map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "metadata": map[string]any{"name": "cbor"}})
	if err != nil {
		t.Fatal(err)
	}
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct{ method, path, media, content, text string }{
		{"POST", maps, "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"json"}}`, "create configmaps/default/json"},
		{"POST", maps, "", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"untyped"}}`, "create configmaps/default/untyped"},
		{"POST", maps, "application/yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: yaml}\n", "create configmaps/default/yaml"},
		{"POST", maps, "application/cbor", string(cbor), "create configmaps/default/cbor"},
		{"POST", maps, "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"first"},"metadata":{"name":"last"}}`, "create configmaps/default/last"},
		{"POST", maps, "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"lower","Name":"upper"}}`, "create configmaps/default/lower"},
		{"PATCH", maps + "/applied?fieldManager=x", "application/apply-patch+yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: applied}\n", "patch configmaps/default/applied"},
	} {
		got, err := g.agent(2).do(c.method, c.path, c.content, "Content-Type", c.media)
		x := g.last()
		if err != nil || x.Text != c.text {
			t.Errorf("%s: the record reads %q (%d, %v)", c.text, x.Text, got.Status, err)
			continue
		}
		name := c.text[strings.LastIndexByte(c.text, '/')+1:]
		out, err := server.Run(t.Context(), "get", "configmap", name, "-o", "name")
		if made := err == nil && strings.TrimSpace(out) == "configmap/"+name; made != (got.Status == http.StatusCreated) || got.Status >= 500 {
			t.Errorf("%s: the server answers %d %s; the object is there: %v", c.text, got.Status, got.Body, made)
		}
		if got.Status != http.StatusCreated && c.media != "application/cbor" {
			t.Errorf("%s: %d %s", c.text, got.Status, got.Body)
		}
	}
	// What would be gone is still there when it was a trial.
	for _, c := range []struct {
		query, content string
		dry            bool
	}{
		{"?dryRun=All", "", true},
		{"", `{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}`, true},
		{"?dryRun=All", `{"kind":"DeleteOptions","apiVersion":"v1"}`, false},
	} {
		got, err := g.agent(2).do("DELETE", maps+"/json"+c.query, c.content)
		_, gone := server.Run(t.Context(), "get", "configmap", "json")
		dry, _ := g.last().Shape.Facts["dry_run"].(bool)
		if err != nil || got.Status != http.StatusOK || dry != c.dry || dry != (gone == nil) {
			t.Errorf("%s %s: %d, a trial by the record: %v, it is gone: %v", c.query, c.content, got.Status, dry, gone != nil)
		}
	}
}

// head asks for fields alone.
func (g *gateway) head(line string) {
	g.t.Helper()
	conn := g.dial()
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\nHost: kube\r\nAuthorization: Bearer %s\r\n\r\n", line, prototest.Token)
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodHead, "http://kube/", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		g.t.Fatal(err)
	}
	resp.Body.Close()
}
