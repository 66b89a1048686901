package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// auditedEvery is a configuration in which the cluster's audit log is read, and says
// why its own parts may ask.
func auditedEvery(every string) string {
	return "    reconcile: {log: 'AUDIT', every: " + every + "}\n" +
		"    direct:\n      - {user: 'system:apiserver', from: 127.0.0.0/8, reason: the API server itself}\n      - {user: 'system:apiserver', from: '::1', reason: the API server itself}\n"
}

// withID sends an Audit-ID, as any client can.
type withID struct {
	http.RoundTripper
	id string
}

func (w withID) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Audit-ID", w.id)
	return w.RoundTripper.RoundTrip(r)
}

// around is a client that reaches the API server directly, as the admin or for
// somebody, with an audit id if there is one.
func (c *cluster) around(id, token string, as rest.ImpersonationConfig) kubernetes.Interface {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.kube.Kubeconfig())
	c.ok(err)
	config.Impersonate = as
	if token != "" {
		config.BearerToken = token
	}
	if id != "" {
		config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return withID{rt, id} })
	}
	client, err := kubernetes.NewForConfig(config)
	c.ok(err)
	return client
}

type reconciledCluster struct {
	reconciled
	Of       string
	Sessions []struct{ Class, Session, User, Text, Why string }
}

func (c *cluster) reconcileProd() (r reconciledCluster) {
	c.t.Helper()
	out, err := c.exhibit("reconcile", "prod", "--json") // fails when something is unexplained
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		c.t.Fatalf("exhibit reconcile: %v\n%s", err, out)
	}
	if r.Of != "requests" || r.Logged != r.Gateway+r.Own+r.Allowed+r.Unexplained {
		c.t.Errorf("it doesn't add up: %+v", r)
	}
	return r
}

// Hundreds of requests go through the gateway to a real API server, and some
// around it, two with an audit id of the gateway's: those, and no more, are found.
func TestRequestsAroundTheGatewayAreFound(t *testing.T) {
	t.Parallel()
	c := newCluster(t, auditedEvery("0s"))
	c.grant("bot", "kube-shop-deployer", "prod")
	c.reconcileProd() // from here on
	objects := c.clientGo(c.kubeconfig("bot"), "bot", "application/json").CoreV1().ConfigMaps("shop")

	const rounds, at = 80, 8
	ctx := t.Context()
	w, err := objects.Watch(ctx, metav1.ListOptions{})
	c.ok(err)
	var running sync.WaitGroup
	for n := range at {
		running.Go(func() {
			for i := range rounds / at {
				name := fmt.Sprintf("m-%d-%d", n, i)
				_, err := objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				if err == nil {
					_, err = objects.Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
				}
				if err == nil {
					_, err = objects.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
				}
				if err == nil {
					err = objects.Delete(ctx, name, metav1.DeleteOptions{})
				}
				if err == nil {
					_, err = objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "made-"}}, metav1.CreateOptions{})
				}
				if _, gone := objects.Get(ctx, name, metav1.GetOptions{}); err != nil || gone == nil {
					t.Errorf("%s: %v, %v", name, err, gone)
					return
				}
			}
		})
	}
	running.Wait()
	w.Stop()

	// Around it: an administrator; one who may ask as agents, as our agent, with the
	// id of a command that has been; and one who has stolen the gateway's token, with
	// the id of one that is to be.
	if _, err := c.kube.Run(ctx, "-n", "shop", "get", "--raw", "/api/v1/namespaces/shop/secrets"); err != nil {
		t.Fatal(err)
	}
	did := c.did()
	copied := did[slices.IndexFunc(did, func(d command) bool { return strings.HasPrefix(d.Text, "get configmaps/shop/m-") })]
	bot := rest.ImpersonationConfig{UserName: "exhibit:bot", Groups: []string{"exhibit:agents"}}
	_, object, _ := strings.Cut(copied.Text, "get configmaps/shop/")
	_, _ = c.around(copied.ID, "", bot).CoreV1().ConfigMaps("shop").Get(ctx, object, metav1.GetOptions{})
	_, err = c.around("gw1.1.99999999", c.kube.Account, bot).CoreV1().ConfigMaps("shop").List(ctx, metav1.ListOptions{})
	c.ok(err)

	r := c.reconcileProd()
	t.Logf("%+v", r)
	var found []string
	for _, s := range r.Sessions {
		found = append(found, fmt.Sprint(s.Class, " ", s.User, ": ", s.Text, " (", s.Why, ")"))
	}
	slices.Sort(found)
	want := []string{
		"unexplained admin: get configmaps/shop/" + object + " as exhibit:bot (another user carries its id)",
		"unexplained admin: list secrets/shop ()",
		"unexplained exhibit: list configmaps/shop as exhibit:bot (its id is of no command that the log lacks)",
	}
	if twice := strings.Replace(want[0], "another user carries its id", "its id is there twice", 1); slices.Contains(found, twice) {
		want[0] = twice // the log has the command itself before it
	}
	if !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
	if passed := 6*rounds + 2; r.Gateway < passed || r.Gateway > passed+20 || r.Allowed == 0 { // the watch has two entries
		t.Errorf("%d of agents, want %d and what the client asks besides", r.Gateway, passed)
	}
	c.until(20*time.Second, "an alert is raised", func() bool { return strings.Contains(c.must("alert", "list"), "upstream.bypass") })

	// A minute later every command that was answered was found in the log.
	time.Sleep(65 * time.Second)
	if r := c.reconcileProd(); r.Missing != 0 || r.Unexplained != 0 {
		t.Errorf("later: %+v", r)
	}
	report, err := c.pack()
	if err == nil || !strings.Contains(report, "import.connections") || !strings.Contains(report, "list secrets/shop") {
		t.Errorf("the pack: %v\n%s", err, report)
	}
	for _, wrong := range []string{"the records before it say", "NOT", "is not the file"} {
		if strings.Contains(report, wrong) {
			t.Errorf("the verifier finds more: %s", report)
		}
	}
	unexplained := 0
	for row := range c.rows("recon_requests") {
		if row["class"] == "unexplained" {
			unexplained++
		}
	}
	if unexplained != len(want) {
		t.Errorf("%d rows of the pack are unexplained", unexplained)
	}
}

// Somebody goes around the gateway to a cluster: within a minute there is an
// alert, though nobody asks.
func TestARequestAroundTheGatewayRaisesAnAlertByItself(t *testing.T) {
	t.Parallel()
	c := newCluster(t, auditedEvery("10s"))
	time.Sleep(15 * time.Second) // until the log was looked at once
	began := time.Now()
	_, err := c.kube.Run(t.Context(), "get", "--raw", "/api/v1/namespaces/shop/secrets")
	c.ok(err)
	c.until(time.Minute, "an alert is raised", func() bool { return strings.Contains(c.must("alert", "list"), "list secrets/shop") })
	t.Logf("an alert %v after the request", time.Since(began).Round(time.Millisecond))
}

// readRoles lets the gateway's account read the cluster's roles and bindings.
const readRoles = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: exhibit-reads-roles}
rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles, roles, clusterrolebindings, rolebindings], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: exhibit-reads-roles}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: exhibit-reads-roles}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: exhibit}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: builders, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:aggregate-to-edit"}
subjects: [{kind: ServiceAccount, name: builder, namespace: ci}]
`

// An agent that may only read by policy may do everything in the cluster: the
// pack says so, and who else may do what. The same comes from a file.
func TestWhatAClusterLetsAgentsDoIsShown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, auditedEvery("0s"))
	c.grant("bot", "kube-reader", "prod")
	c.reconcileProd()
	if out, err := c.exhibit("import", "roles", "prod"); err == nil || !strings.Contains(out, "may not list clusterroles.rbac.authorization.k8s.io") {
		t.Errorf("an account that may not read roles: %v\n%s", err, out)
	}
	c.ok(c.kube.Apply(t.Context(), readRoles))
	if out := c.must("import", "roles", "prod"); !strings.Contains(out, "kubernetes.rights") {
		t.Errorf("the import says\n%s", out)
	}
	if r := c.reconcileProd(); r.Own < 7 || r.Gateway != 0 || slices.ContainsFunc(r.Sessions, func(s struct{ Class, Session, User, Text, Why string }) bool { return s.User == "exhibit" }) {
		t.Errorf("the gateway's own requests: %+v", r) // a review and one that was refused, and five
	}
	check := func() {
		t.Helper()
		report, err := c.pack()
		if err == nil || !strings.Contains(report, "agent bot may only read prod, and the cluster lets it, as Group exhibit:agents, * *.*") {
			t.Errorf("the pack: %v\n%s", err, report)
		}
		found := map[string]bool{}
		for r := range c.rows("upstream_rights") {
			found[strings.Join([]string{r["subject_kind"], r["subject"], r["whose"], r["namespace"], r["resources"], r["flags"]}, "|")] = true
		}
		for _, want := range []string{
			"Group|exhibit:agents|agents||*.*|wildcard escalate bind impersonate secrets exec token write",
			"User|exhibit|gateway||users|impersonate",
			"Group|system:masters|||*.*|wildcard escalate bind impersonate secrets exec token write",
			"ServiceAccount|ci/builder||shop|secrets|secrets",
		} {
			if !slices.ContainsFunc(slices.Sorted(maps.Keys(found)), func(got string) bool { return matches(got, want) }) {
				t.Errorf("no row is like %s", want)
			}
		}
		listing, err := c.run("unzip", "-p", c.packed, "listings/access@closing.csv")
		if err != nil || !strings.Contains(listing, "exhibit:bot") || !strings.Contains(listing, "* *.*") {
			t.Errorf("the listing: %v\n%.2000s", err, listing)
		}
	}
	check()
	out, err := c.kube.Run(t.Context(), "get", "clusterroles,roles,clusterrolebindings,rolebindings", "-A", "-o", "json")
	c.ok(err)
	c.ok(os.WriteFile(c.path("rbac.json"), []byte(out), 0o600))
	c.must("import", "roles", "prod", "--file", c.path("rbac.json"), "--source", "kubectl")
	check()
}

// matches reports whether two rows have the same cells, but for resources, of
// which one has more.
func matches(got, want string) bool {
	g, w := strings.Split(got, "|"), strings.Split(want, "|")
	return slices.Equal(g[:4], w[:4]) && slices.Contains(strings.Fields(g[4]), w[4]) && strings.HasPrefix(g[5], w[5])
}
