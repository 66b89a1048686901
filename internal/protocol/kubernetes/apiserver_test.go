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

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// account is what the gateway's own account needs, and all that it does.
const account = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: exhibit-gateway}
rules:
- {apiGroups: [""], resources: [users], verbs: [impersonate], resourceNames: ["exhibit:agent-1"]}
- {apiGroups: [""], resources: [groups], verbs: [impersonate], resourceNames: ["exhibit:agents"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: exhibit-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: exhibit-gateway}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: exhibit}]
`

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
	if err := server.Apply(t.Context(), account); err != nil {
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
