package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// spell is a shape in a line: its text, its class, the actions and objects that
// are checked, and some of the facts.
func spell(s *evidence.Shape, facts ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s | %s %s |", s.Text, s.Parse, s.Verb)
	for _, c := range s.Checks {
		fmt.Fprintf(&b, " %s(%s)", strings.TrimPrefix(c.Action, Name+":"), c.Object)
	}
	sep := " |"
	for _, f := range slices.Sorted(slices.Values(facts)) {
		if v, ok := s.Facts[f]; ok {
			fmt.Fprintf(&b, "%s %s=%v", sep, f, v)
			sep = ""
		}
	}
	return b.String()
}

const (
	core = "/api/v1"
	ns   = "/api/v1/namespaces/shop"
	apps = "/apis/apps/v1/namespaces/shop"
	rbac = "/apis/rbac.authorization.k8s.io/v1"
)

func TestWhatARequestIs(t *testing.T) {
	for _, c := range []struct{ request, want string }{
		// Verbs of the API.
		{"GET " + ns + "/pods/web", "get pods/shop/web | full read | get(pods/shop/web)"},
		{"HEAD " + ns + "/pods/web", "get pods/shop/web | full read | get(pods/shop/web)"},
		{"GET " + ns + "/pods", "list pods/shop | full read | list(pods/shop)"},
		{"GET " + core + "/pods", "list pods | full read | list(pods)"},
		{"GET " + core + "/nodes/n1", "get nodes//n1 | full read | get(nodes//n1)"},
		{"GET " + ns + "/pods?watch=1", "watch pods/shop | full read | watch(pods/shop)"},
		{"GET " + ns + "/pods?watch=true&fieldSelector=metadata.name=web", "watch pods/shop/web fieldSelector=metadata.name=web | full read | watch(pods/shop/web)"},
		{"GET " + ns + "/pods?watch=false", "list pods/shop | full read | list(pods/shop)"},
		{"GET " + ns + "/pods/web?watch=1", "get pods/shop/web | full read | get(pods/shop/web)"},
		{"DELETE " + apps + "/deployments/web", "delete deployments.apps/shop/web | full write | delete(deployments.apps/shop/web)"},
		{"DELETE " + ns + "/pods?labelSelector=app%3Dweb", "deletecollection pods/shop labelSelector=app=web | full write | deletecollection(pods/shop)"},
		{"PATCH " + apps + "/deployments/web/scale", "patch deployments.apps/shop/web/scale | full write | patch(deployments.apps/shop/web/scale)"},
		{"GET /api/v1/namespaces/shop", "get namespaces//shop | full read | get(namespaces//shop)"},
		{"DELETE /api/v1/namespaces/shop", "delete namespaces//shop | full write | delete(namespaces//shop)"},
		{"PUT /api/v1/namespaces/shop/finalize", "update namespaces//shop/finalize | full write | update(namespaces//shop/finalize)"},
		{"GET /apis/metrics.k8s.io/v1beta1/namespaces/shop/pods", "list pods.metrics.k8s.io/shop | full read | list(pods.metrics.k8s.io/shop)"},
		// What is an action of its own.
		{"GET " + ns + "/pods/web/log?follow=true", "log pods/shop/web | full read | log(pods/shop/web)"},
		{"POST " + ns + "/pods/web/exec?command=sh", "exec pods/shop/web | partial admin | exec(pods/shop/web)"},
		{"GET " + ns + "/pods/web/exec?command=sh", "exec pods/shop/web | partial admin | exec(pods/shop/web)"},
		{"GET " + ns + "/pods/web/attach", "attach pods/shop/web | partial admin | attach(pods/shop/web)"},
		{"POST " + ns + "/pods/web/portforward", "portforward pods/shop/web | opaque opaque | portforward(pods/shop/web)"},
		{"GET " + ns + "/services/web:80/proxy/private/token", "proxy services/shop/web:80 | opaque opaque | proxy(services/shop/web:80)"},
		{"DELETE " + core + "/nodes/n1/proxy/run/x", "proxy nodes//n1 | opaque opaque | proxy(nodes//n1)"},
		{"OPTIONS " + ns + "/pods/web/proxy", "proxy pods/shop/web | opaque opaque | proxy(pods/shop/web)"},
		{"PATCH " + ns + "/pods/web/ephemeralcontainers", "debug pods/shop/web | full admin | debug(pods/shop/web)"},
		{"GET " + ns + "/pods/web/ephemeralcontainers", "get pods/shop/web/ephemeralcontainers | full read | get(pods/shop/web/ephemeralcontainers)"},
		{"POST " + ns + "/pods/web/eviction", "evict pods/shop/web | full admin | evict(pods/shop/web)"},
		{"POST " + ns + "/pods/web/binding", "bind pods/shop/web | full admin | bind(pods/shop/web)"},
		{"POST " + ns + "/bindings", "create bindings/shop | full admin | bind(bindings/shop)"},
		{"POST " + ns + "/serviceaccounts/default/token", "token serviceaccounts/shop/default | full admin | token(serviceaccounts/shop/default)"},
		{"GET " + ns + "/secrets/key", "get secrets/shop/key | full admin | secret_read(secrets/shop/key)"},
		{"GET " + core + "/secrets?watch=1", "watch secrets | full admin | secret_read(secrets)"},
		{"PUT " + ns + "/secrets/key", "update secrets/shop/key | full admin | secret_write(secrets/shop/key)"},
		{"PATCH " + ns + "/secrets/key", "patch secrets/shop/key | full admin | secret_read(secrets/shop/key) secret_write(secrets/shop/key)"},
		{"DELETE " + ns + "/secrets", "deletecollection secrets/shop | full admin | secret_read(secrets/shop) secret_write(secrets/shop)"},
		{"POST " + rbac + "/clusterrolebindings", "create clusterrolebindings.rbac.authorization.k8s.io | full admin | rbac(clusterrolebindings.rbac.authorization.k8s.io)"},
		{"PATCH " + rbac + "/namespaces/shop/roles/r", "patch roles.rbac.authorization.k8s.io/shop/r | full admin | rbac(roles.rbac.authorization.k8s.io/shop/r)"},
		{"GET " + rbac + "/clusterroles", "list clusterroles.rbac.authorization.k8s.io | full read | list(clusterroles.rbac.authorization.k8s.io)"},
		{"DELETE /apis/apiextensions.k8s.io/v1/customresourcedefinitions/x.y", "delete customresourcedefinitions.apiextensions.k8s.io//x.y | full admin | crd(customresourcedefinitions.apiextensions.k8s.io//x.y)"},
		{"PUT /apis/apiregistration.k8s.io/v1/apiservices/v1.x/status", "update apiservices.apiregistration.k8s.io//v1.x/status | full admin | apiservice(apiservices.apiregistration.k8s.io//v1.x/status)"},
		{"POST /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "create mutatingwebhookconfigurations.admissionregistration.k8s.io | full admin | admission(mutatingwebhookconfigurations.admissionregistration.k8s.io)"},
		{"PUT /apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval", "update certificatesigningrequests.certificates.k8s.io//c/approval | full admin | certificate(certificatesigningrequests.certificates.k8s.io//c/approval)"},
		{"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "create selfsubjectaccessreviews.authorization.k8s.io | full session | review(selfsubjectaccessreviews.authorization.k8s.io)"},
		{"POST /apis/authorization.k8s.io/v1/subjectaccessreviews", "create subjectaccessreviews.authorization.k8s.io | full write | create(subjectaccessreviews.authorization.k8s.io)"},
		// Beside the API.
		{"GET /api", "get /api | full session | discover(/api)"},
		{"GET /apis/apps/v1", "get /apis/apps/v1 | full session | discover(/apis/apps/v1)"},
		{"GET /version", "get /version | full session | discover(/version)"},
		{"GET /openapi/v3/apis/apps/v1?hash=X", "get /openapi/v3/apis/apps/v1 | full session | discover(/openapi/v3/apis/apps/v1)"},
		{"GET /readyz/etcd", "get /readyz/etcd | full session | discover(/readyz/etcd)"},
		{"GET /", "get / | full session | discover(/)"},
		{"POST /version", "post /version | full admin | nonresource(/version)"},
		{"GET /metrics", "get /metrics | full admin | nonresource(/metrics)"},
		{"GET /debug/pprof/heap", "get /debug/pprof/heap | full admin | nonresource(/debug/pprof/heap)"},
		{"GET /logs/a%20secret", " | opaque opaque | nonresource() opaque()"},
		// Old and odd ways.
		{"GET /api/v1/watch/namespaces/shop/secrets/key", "watch secrets/shop/key | full admin | secret_read(secrets/shop/key)"},
		{"POST /api/v1/watch/namespaces/shop/secrets", "other secrets/shop | full admin | secret_read(secrets/shop) secret_write(secrets/shop)"},
		{"POST /api/v1/watch/pods", "other pods | opaque opaque | other(pods)"},
		{"GET /api/v1/proxy/namespaces/shop/services/web/private", "proxy services/shop/web | opaque opaque | proxy(services/shop/web)"},
		{"GET /api/v1/watch", " | opaque opaque | other() opaque()"},
		{"OPTIONS " + ns + "/pods", "other pods/shop | opaque opaque | other(pods/shop)"},
		{"QUERY " + ns + "/pods", "other pods/shop | opaque opaque | other(pods/shop)"},
		{"POST " + ns + "/pods/web/log", "create pods/shop/web/log | full write | create(pods/shop/web/log)"},
		{"GET " + ns + "/pods/", "list pods/shop | full read | list(pods/shop)"},
		{"GET " + ns + "/pods/%77eb", "get pods/shop/web | full read | get(pods/shop/web)"},
		{"GET " + ns + "/pods/a%20b", " | opaque opaque | get() opaque()"},
		{"GET " + ns + "/pods/" + strings.Repeat("x", 254), " | opaque opaque | get() opaque()"},
		{"GET " + ns + "/pods?watch=perhaps", "watch pods/shop | full read | watch(pods/shop)"},
		{"GET " + ns + "/pods?limit=x", "list pods/shop | opaque opaque | list(pods/shop) opaque(pods/shop)"},
		{"GET " + ns + "/pods?limit=x&watch=1", "watch pods/shop | opaque opaque | watch(pods/shop) opaque(pods/shop)"},
		{"GET " + ns + "/pods?labelSelector=a%20secret%20text", "list pods/shop | opaque opaque | list(pods/shop) opaque(pods/shop)"},
		{"GET " + ns + "/pods?labelSelector=a%3Db&labelSelector=c%3Dd", "list pods/shop labelSelector=a=b | opaque opaque | list(pods/shop) opaque(pods/shop)"},
		{"GET " + ns + "/pods?a;b", "list pods/shop | opaque opaque | list(pods/shop) opaque(pods/shop)"},
		{"GET /API/v1/pods", "get /API/v1/pods | full admin | nonresource(/API/v1/pods)"},
		{"GET /apis/v1/pods", "get /apis/v1/pods | full session | discover(/apis/v1/pods)"},
	} {
		s, err := Understand(c.request)
		if err != nil {
			t.Errorf("%s: %v", c.request, err)
			continue
		}
		if got := spell(s); got != c.want {
			t.Errorf("%s\nis   %s\nwant %s", c.request, got, c.want)
		}
	}
}

// What policy is told beside action and object.
func TestFacts(t *testing.T) {
	for _, c := range []struct{ request, want string }{
		{"PATCH " + apps + "/deployments/web?fieldManager=kubectl&force=true&dryRun=All",
			"dry_run=true field_manager=kubectl force=true group=apps name=web namespace=shop resource=deployments verb=patch version=v1"},
		{"DELETE " + ns + "/pods/web?propagationPolicy=Orphan&dryRun=All", "dry_run=true name=web namespace=shop propagation=Orphan resource=pods verb=delete version=v1"},
		{"DELETE " + ns + "/pods/web?orphanDependents=true", "name=web namespace=shop propagation=Orphan resource=pods verb=delete version=v1"},
		// The content outranks the query.
		{`DELETE ` + ns + `/pods/web?dryRun=All {"propagationPolicy":"Foreground"}`, "content_type=application/json name=web namespace=shop propagation=Foreground resource=pods verb=delete version=v1"},
		{`DELETE ` + ns + `/pods/web {"dryRun":["All"]}`, "content_type=application/json dry_run=true name=web namespace=shop resource=pods verb=delete version=v1"},
		// A dry run of what the server would do anyway is none.
		{"POST " + ns + "/pods/web/exec?dryRun=All&stdin=1&tty=0&container=app", "container=app name=web namespace=shop resource=pods stdin=true subresource=exec tty=false verb=create version=v1"},
		{"POST " + ns + "/services/web/proxy?dryRun=All", "name=web namespace=shop resource=services subresource=proxy verb=create version=v1"},
		{"POST " + ns + "/pods?dryRun=All&dryRun=None", "namespace=shop resource=pods verb=create version=v1"},
		{"POST " + ns + "/pods?dryRun=", "namespace=shop resource=pods verb=create version=v1"},
		{"GET " + ns + "/pods?labelSelector=app%20in%20(b,a)", "label_selector=app in (a,b) namespace=shop resource=pods verb=list version=v1"},
		{"GET /api/v1/namespaces/shop", "name=shop namespace=shop resource=namespaces verb=get version=v1"},
		{"GET /version", "verb=get"},
	} {
		s, err := Understand(c.request)
		if err != nil {
			t.Errorf("%s: %v", c.request, err)
			continue
		}
		var facts []string
		for _, f := range slices.Sorted(maps.Keys(s.Facts)) {
			facts = append(facts, fmt.Sprintf("%s=%v", f, s.Facts[f]))
			if _, known := Facts[f]; !known {
				t.Errorf("policy knows no fact %s", f)
			}
		}
		if got := strings.Join(facts, " "); got != c.want {
			t.Errorf("%s\nis   %s\nwant %s", c.request, got, c.want)
		}
	}
}

// Which object a content is, however it is written.
func TestContents(t *testing.T) {
	pod := `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"shop"},"spec":{"containers":[]}}`
	cbor, err := direct.Marshal(map[string]any{"kind": "Pod", "apiVersion": "v1", "metadata": map[string]any{"name": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	protobuf := func(kind, name string) string {
		raw, err := (&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: kind, APIVersion: "v1"}, Raw: raw}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return "k8s\x00" + string(b)
	}
	const made = "create pods/shop/web | full write | create(pods/shop/web) | kind=Pod"
	const unclear = "create pods/shop | opaque opaque | create(pods/shop) opaque(pods/shop)"
	for name, c := range map[string]struct{ method, path, media, content, want string }{
		"JSON":              {"POST", ns + "/pods", "application/json", pod, made},
		"no type":           {"POST", ns + "/pods", "", pod, made},
		"YAML":              {"POST", ns + "/pods", "application/yaml", "kind: Pod\nmetadata:\n  name: web\n", made},
		"CBOR":              {"POST", ns + "/pods", "application/cbor", string(cbor), made},
		"protobuf":          {"POST", ns + "/pods", "application/vnd.kubernetes.protobuf", protobuf("Pod", "web"), made},
		"update":            {"PUT", ns + "/pods/web", "application/json; charset=utf-8", pod, "update pods/shop/web | full write | update(pods/shop/web) | kind=Pod"},
		"generated":         {"POST", ns + "/pods", "application/json", `{"kind":"Pod","metadata":{"generateName":"web-"}}`, "create pods/shop | full write | create(pods/shop) | generate_name=true kind=Pod"},
		"apply":             {"PATCH", apps + "/deployments/web", "application/apply-patch+yaml", "kind: Deployment\nmetadata: {name: web}", "patch deployments.apps/shop/web | full write | patch(deployments.apps/shop/web) | kind=Deployment"},
		"merge":             {"PATCH", apps + "/deployments/web", "application/merge-patch+json", `{"spec":{"replicas":2}}`, "patch deployments.apps/shop/web | full write | patch(deployments.apps/shop/web)"},
		"JSON patch":        {"PATCH", apps + "/deployments/web", "application/json-patch+json", `[{"op":"remove","path":"/spec"}]`, "patch deployments.apps/shop/web | full write | patch(deployments.apps/shop/web)"},
		"delete, protobuf":  {"DELETE", ns + "/pods/web", "application/vnd.kubernetes.protobuf", protobufOptions(t), "delete pods/shop/web dryRun=All | full write | delete(pods/shop/web) | dry_run=true"},
		"evict":             {"POST", ns + "/pods/web/eviction", "application/json", `{"kind":"Eviction","metadata":{"name":"web"}}`, "evict pods/shop/web | full admin | evict(pods/shop/web) | kind=Eviction"},
		"last name counts":  {"POST", ns + "/pods", "application/json", `{"metadata":{"name":"other"},"metadata":{"name":"web"},"kind":"Pod"}`, made},
		"case counts":       {"POST", ns + "/pods", "application/json", `{"kind":"Pod","metadata":{"name":"web","Name":"other"}}`, made},
		"another namespace": {"POST", ns + "/pods", "application/json", `{"kind":"Pod","metadata":{"name":"web","namespace":"kube-system"}}`, "create pods/shop | opaque opaque | create(pods/shop) opaque(pods/shop) | kind=Pod"},
		"another name":      {"PUT", ns + "/pods/web", "application/json", `{"kind":"Pod","metadata":{"name":"db"}}`, "update pods/shop/web | opaque opaque | update(pods/shop/web) opaque(pods/shop/web) | kind=Pod"},
		"a secret as name":  {"POST", ns + "/pods", "application/json", `{"kind":"Pod","metadata":{"name":"a secret"}}`, " | opaque opaque | create() opaque() | kind=Pod"},
		"a secret as kind":  {"POST", ns + "/pods", "application/json", `{"kind":"a secret","metadata":{"name":"web"}}`, "create pods/shop/web | opaque opaque | create(pods/shop/web) opaque(pods/shop/web)"},
		"broken":            {"POST", ns + "/pods", "application/json", `{"kind":`, unclear},
		"two values":        {"POST", ns + "/pods", "application/json", pod + pod, unclear},
		"YAML as JSON":      {"POST", ns + "/pods", "application/json", "kind: Pod", unclear},
		"not protobuf":      {"POST", ns + "/pods", "application/vnd.kubernetes.protobuf", pod, unclear},
		"protobuf cut off":  {"POST", ns + "/pods", "application/vnd.kubernetes.protobuf", protobuf("Pod", "web")[:20], unclear},
		"another type":      {"POST", ns + "/pods", "text/plain", pod, unclear},
		"deep":              {"POST", ns + "/pods", "application/json", strings.Repeat("[", 100_000), unclear},
		"YAML bomb":         {"POST", ns + "/pods", "application/yaml", bomb(), unclear},
		"patch without one": {"PATCH", ns + "/pods/web", "application/json", `{}`, "patch pods/shop/web | opaque opaque | patch(pods/shop/web) opaque(pods/shop/web)"},
		"options not read":  {"DELETE", ns + "/pods/web", "application/json", `[1]`, "delete pods/shop/web | opaque opaque | delete(pods/shop/web) opaque(pods/shop/web)"},
		"a namespace":       {"POST", core + "/namespaces", "application/json", `{"kind":"Namespace","metadata":{"name":"new"}}`, "create namespaces//new | full write | create(namespaces//new) | kind=Namespace"},
	} {
		path, err := httpgate.NormalPath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got := spell(understand(&asked{method: c.method, path: path, media: mediaOf(c.media), content: []byte(c.content)}).Shape, "kind", "generate_name", "dry_run")
		if got != c.want {
			t.Errorf("%s\nis   %s\nwant %s", name, got, c.want)
		}
	}
}

func protobufOptions(t *testing.T) string {
	t.Helper()
	raw, err := (&metav1.DeleteOptions{DryRun: []string{"All"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(b)
}

// bomb is a YAML text that is billions of laughs long.
func bomb() string {
	b := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		b += fmt.Sprintf("%c: &%[1]c [*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c,*%[2]c]\n", c, c-1)
	}
	return b + "metadata: {name: web}\n"
}

// Whatever is asked, it is decided as something, and nothing of it that isn't a
// name stands where everybody may read.
func FuzzUnderstand(f *testing.F) {
	for _, seed := range []string{ns + "/pods/web", "/api/v1/watch/pods", "/apis/a/b/c/d/e/f", "/metrics", "/api/v1/proxy/x"} {
		f.Add("GET", seed, "watch=1", "application/json", []byte(`{"kind":"Pod","metadata":{"name":"web"}}`))
		f.Add("DELETE", seed, "dryRun=All", "application/yaml", []byte("kind: x"))
		f.Add("PATCH", seed, "a=b", "application/apply-patch+cbor", []byte("\xa1\x64kind\x63Pod"))
	}
	f.Fuzz(func(t *testing.T, method, path, query, media string, content []byte) {
		path, err := httpgate.NormalPath(path)
		if err != nil {
			return
		}
		s := understand(&asked{method: method, path: path, query: query, media: mediaOf(media), content: content}).Shape
		if len(s.Checks) == 0 {
			t.Fatal("nothing is decided")
		}
		for _, c := range s.Checks {
			if Actions[c.Action] == nil {
				t.Errorf("no action %s", c.Action)
			}
			if strings.ContainsAny(c.Object, " \n\"'{}") {
				t.Errorf("object %q", c.Object)
			}
		}
		for name, v := range s.Facts {
			if Facts[name] == "" {
				t.Errorf("no fact %s", name)
			}
			if v, ok := v.(string); ok && len(v) > maxText {
				t.Errorf("%s has %d bytes", name, len(v))
			}
		}
	})
}
