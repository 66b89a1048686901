package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
)

// What a pod or a service serves is reached through the cluster only where policy
// says so, by HTTP and by what connections switch to, and is shown as uncovered.
func TestProxiesLeadOnlyWherePolicySaysSo(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			line, _ := rw.ReadString('\n')
			fmt.Fprintf(conn, "heard %s", line)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s got %q for %q", r.Method, r.URL.RequestURI(), b, r.Header.Get("Authorization")+r.Header.Get("Impersonate-User"))
	}))
	t.Cleanup(behind.Close)
	c.ok(c.kube.StartNode(t.Context(), ""))
	c.ok(c.kube.StartPod(t.Context(), "shop", "web"))
	c.ok(c.kube.Apply(t.Context(), fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: shop}
subsets: [{addresses: [{ip: %s, targetRef: {kind: Pod, namespace: shop, name: web}}], ports: [{name: http, port: 8080}]}]
`, kubeserver.PodIP)))
	c.kube.Lead(kubeserver.PodIP+":8080", behind.Listener.Addr().String())
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	const pod, service = "/api/v1/namespaces/shop/pods/web:8080/proxy", "/api/v1/namespaces/shop/services/web:http/proxy"
	for _, args := range []string{"get --raw " + pod + "/a", "get --raw " + service + "/a", "create --raw " + service + "/a -f -", "delete --raw " + pod + "/a"} {
		if out, err := c.kubectl(config, "content", strings.Fields(args)...); err == nil || !strings.Contains(out, "kube-guard-opaque") {
			t.Errorf("kubectl %s without a policy for it: %v\n%s", args, err, out)
		}
	}
	c.admit("kubernetes:proxy")
	for args, want := range map[string]string{
		"get --raw " + pod + "/a/b?x=y":     `GET /a/b?x=y got "" for ""`,
		"get --raw " + service + "/a/b?x=y": `GET /a/b?x=y got "" for ""`,
	} {
		if out, code := c.both(config, "content", strings.Fields(args)...); out != want || code != 0 {
			t.Errorf("kubectl %s: exit %d, %s", args, code, out)
		}
	}
	if got := c.upgraded(config, service+"/socket"); got != "heard through-the-proxy\n" {
		t.Errorf("a connection that switches: %q", got)
	}
	n := 0
	for _, text := range []string{"proxy pods/shop/web:8080", "proxy services/shop/web:http"} {
		for _, d := range c.ran(text) {
			n++
			if d.Verb != "opaque" || d.Outcome != "ok" {
				t.Errorf("%+v", d)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d requests went by a proxy, of 3", n)
	}
	c.audited()
	c.uncovered(n)
}

// upgraded has a connection switch to a protocol that nobody knows, says a line,
// and returns what comes.
func (c *cluster) upgraded(config, path string) string {
	c.t.Helper()
	pem, err := os.ReadFile(c.tls.path("ca.pem"))
	c.ok(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}).DialContext(c.t.Context(), "tcp", c.gate)
	c.ok(err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /prod%s HTTP/1.1\r\nHost: kube\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", path, c.token("bot", "--ticket", "OPS-7"))
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	c.ok(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(resp.Body)
		c.t.Fatalf("%s: %s %v", resp.Status, b, err)
	}
	fmt.Fprintln(conn, "through-the-proxy")
	b, err := io.ReadAll(in)
	c.ok(err)
	return string(b)
}

// wares is an API server of another's, which a cluster's own leads to: it has a
// ware, and another one comes.
type wares struct {
	mu    sync.Mutex
	users map[string]bool // for whom it was asked
}

// ServeHTTP implements http.Handler.
func (a *wares) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.users[r.Header.Get("X-Remote-User")] = true
	a.mu.Unlock()
	const ware = `{"kind":"Ware","apiVersion":"wares.example.com/v1","metadata":{"name":%q,"namespace":"shop","resourceVersion":%q}}`
	w.Header().Set("Content-Type", "application/json")
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == "/apis/wares.example.com/v1":
		_, _ = io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wares.example.com/v1","resources":[{"name":"wares","singularName":"ware","namespaced":true,"kind":"Ware","verbs":["get","list","watch","create"]}]}`)
	case path == "/apis/wares.example.com":
		_, _ = io.WriteString(w, `{"kind":"APIGroup","apiVersion":"v1","name":"wares.example.com","versions":[{"groupVersion":"wares.example.com/v1","version":"v1"}],"preferredVersion":{"groupVersion":"wares.example.com/v1","version":"v1"}}`)
	case path == "/apis/wares.example.com/v1/namespaces/shop/wares" && r.Method == http.MethodPost:
		var o struct{ Metadata struct{ Name string } }
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, ware, o.Metadata.Name, "3")
	case path == "/apis/wares.example.com/v1/namespaces/shop/wares" && r.URL.Query().Has("watch"):
		fmt.Fprintf(w, `{"type":"ADDED","object":`+ware+"}\n", "cup", "2")
		_ = http.NewResponseController(w).Flush() // or nobody watches any more
		<-r.Context().Done()
	case path == "/apis/wares.example.com/v1/namespaces/shop/wares":
		fmt.Fprintf(w, `{"kind":"WareList","apiVersion":"wares.example.com/v1","metadata":{"resourceVersion":"1"},"items":[`+ware+`]}`, "plate", "1")
	case path == "/apis/wares.example.com/v1/namespaces/shop/wares/plate":
		fmt.Fprintf(w, ware, "plate", "1")
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	}
}

// APIs that the cluster leads on to servers of others are like its own: read,
// decided and recorded by their group, version and resource. Who may add one may
// see every request for it, so nobody's agent may.
func TestAggregatedAPIsAreLikeOthers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.tls.issue("wares", &x509.Certificate{DNSNames: []string{"wares.shop.svc"}})
	pair, err := tls.LoadX509KeyPair(c.tls.path("wares.pem"), c.tls.path("wares.key"))
	c.ok(err)
	api := &wares{users: map[string]bool{}}
	server := httptest.NewUnstartedServer(api)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	c.kube.Lead("wares.example.com:443", server.Listener.Addr().String())
	ca, err := os.ReadFile(c.tls.path("ca.pem"))
	c.ok(err)
	service := fmt.Sprintf(`{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.wares.example.com"}, "spec": {
"group": "wares.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15, "caBundle": %q, "service": {"name": "wares", "namespace": "shop", "port": 443}}}`,
		base64.StdEncoding.EncodeToString(ca))

	c.grant("bot", "kube-shop-deployer", "prod")
	bot := c.kubeconfig("bot")
	if out, err := c.kubectl(bot, service, "create", "--validate=false", "-f", "-"); err == nil || !strings.Contains(out, "kube-guard-escalation") {
		t.Errorf("an agent adds an API: %v\n%s", err, out)
	}
	c.ok(c.kube.Apply(t.Context(), `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wares", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "wares.example.com"}}`))
	c.ok(c.kube.Apply(t.Context(), service))
	_, err = c.kube.Run(t.Context(), "wait", "--for=condition=Available", "--timeout=60s", "apiservice/v1.wares.example.com")
	c.ok(err)

	for args, want := range map[string]string{
		"get wares":              "plate",
		"get ware plate -o name": "ware.wares.example.com/plate",
		"api-resources --api-group=wares.example.com": "Ware",
		"get wares -n default":                        "this role ends at the namespace shop",
	} {
		if out, err := c.kubectl(bot, "", strings.Fields(args)...); !strings.Contains(out, want) || (err != nil) != strings.Contains(args, "default") {
			t.Errorf("kubectl %s: %v\n%s", args, err, out)
		}
	}
	if out, err := c.kubectl(bot, `{"apiVersion": "wares.example.com/v1", "kind": "Ware", "metadata": {"name": "bowl"}}`, "create", "--validate=false", "-f", "-"); err != nil {
		t.Errorf("kubectl create: %v\n%s", err, out)
	}
	watch := c.sitAt(t, c.kubectlCmd(bot, "get", "wares", "--watch", "-o", "name"), "\x03")
	watch.expect("ware.wares.example.com/plate")
	watch.expect("ware.wares.example.com/cup")
	c.must("kill", "--agent", "bot", "--reason", "enough")
	c.ran("watch wares.wares.example.com/shop")

	texts := map[string]command{}
	for _, d := range c.did() {
		texts[d.Text] = d
	}
	for text, want := range map[string]string{
		"list wares.wares.example.com/shop":                               "read allow ok",
		"get wares.wares.example.com/shop/plate":                          "read allow ok",
		"create wares.wares.example.com/shop/bowl":                        "write allow ok",
		"watch wares.wares.example.com/shop":                              "read allow cancelled",
		"list wares.wares.example.com/default":                            "read deny denied",
		"create apiservices.apiregistration.k8s.io//v1.wares.example.com": "admin deny denied",
	} {
		d := texts[text]
		if got := strings.Join([]string{d.Verb, d.Decision, d.Outcome}, " "); got != want {
			t.Errorf("%q is on record as %q", text, got)
			continue
		}
		if out := c.must("explain", d.ID); strings.Contains(text, "wares.wares") && (!strings.Contains(out, "wares.example.com") || !strings.Contains(out, "v1")) {
			t.Errorf("explain %q:\n%s", text, out)
		}
	}
	api.mu.Lock()
	asked := api.users["exhibit:bot"]
	api.mu.Unlock()
	if !asked {
		t.Error("the other server isn't told for whom it is asked")
	}
	c.audited()
	c.passes()
}
