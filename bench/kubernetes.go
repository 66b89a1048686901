package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

var kubernetesSuite = suite{
	name: "Kubernetes", peer: "kubectl proxy", workloads: kubernetesWorkloads,
	method: `- **direct**: a real API server with etcd on loopback, TLS and a token, HTTP/2 as client-go speaks it. **kubectl proxy**: the field's own, plain HTTP to it. API server and client take most of the time, in every column.
- **exhibit (process)**, **exhibit (power)**: a bearer token with each request, plain HTTP to it, TLS to the API server, each request read by RequestInfo, decided, recorded and asked as the agent (impersonation).
- Get: an object of 1 KiB. List: 5,000 of them as JSON, the content dropped. Watch: 50 clients watch a namespace in which 4 others, who go past the targets, change objects 500 times; what counts is how many events arrive in a second until all have seen all.
`,
	start: func(ctx context.Context, dir string, o options) (*bed, error) {
		b := &bed{commands: func(ctx context.Context, t *target, n int) (int, error) {
			r, err := kubeGets(ctx, t, 16, smallObject, func(done int64) bool { return done < int64(n) })
			return r.requests, err
		}}
		server, err := kubeserver.Start(ctx, filepath.Join(dir, "kubernetes"))
		if err != nil {
			return b, err
		}
		b.stop = func() {
			if err := server.Stop(); err != nil {
				progress("%v", err)
			}
		}
		var version struct{ GitVersion string }
		said, err := server.Run(ctx, "get", "--raw", "/version")
		if err == nil {
			err = json.Unmarshal([]byte(said), &version)
		}
		if err != nil {
			return b, err
		}
		b.server = "Kubernetes " + version.GitVersion
		authority, err := os.ReadFile(server.CA)
		if err != nil {
			return b, err
		}
		direct := &target{name: "direct", conn: conn{addr: server.Addr, password: server.Admin, roots: x509.NewCertPool()}}
		direct.conn.roots.AppendCertsFromPEM(authority)
		b.targets = append(b.targets, direct)
		if err := populate(ctx, server, direct); err != nil {
			return b, err
		}
		addr, err := pgserver.FreeAddr()
		if err != nil {
			return b, err
		}
		_, port, _ := strings.Cut(addr, ":")
		proxy, err := listen(ctx, dir, "kubectl proxy", conn{addr: addr}, server.Kubectl, "--kubeconfig", server.Kubeconfig(), "proxy", "--port", port)
		if err != nil {
			return b, err
		}
		b.targets = append(b.targets, proxy)
		gateways, err := startGateways(ctx, dir, o, resource{
			protocol: "kubernetes", sessions: 100, files: map[string]string{"token": server.Account},
			text: fmt.Sprintf("upstream: {address: %q, tls: {mode: verify-full, ca: %q}, header: {name: Authorization, prefix: 'Bearer ', value: {file: token}}}", server.Addr, server.CA),
		})
		b.targets = append(b.targets, gateways...)
		for _, t := range b.targets {
			t.past = direct
		}
		return b, err
	},
}

// kubeRights lets the gateway's account ask for agents, who may do everything.
const kubeRights = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: gateway}, rules: [{apiGroups: [""], resources: [users, groups], verbs: [impersonate]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: gateway}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gateway}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: exhibit}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: agents}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "exhibit:agents"}]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: many}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: storm}}
`

// What is asked of the cluster.
const (
	manyObjects  = "/api/v1/namespaces/many/configmaps"
	smallObject  = manyObjects + "/c-7"
	stormObjects = "/api/v1/namespaces/storm/configmaps"

	objects  = 5000
	watchers = 50
	changers = 4
	changes  = 500
)

// populate makes the objects.
func populate(ctx context.Context, server *kubeserver.Server, direct *target) error {
	if err := server.Apply(ctx, kubeRights); err != nil {
		return err
	}
	value := strings.Repeat("x", 700)
	next := new(atomic.Int64)
	return together(16, func(int) error {
		client := direct.client()
		defer client.CloseIdleConnections()
		for {
			i := next.Add(1) - 1
			path := manyObjects
			if i >= objects {
				if path, i = stormObjects, i-objects; i >= changers {
					return nil
				}
			}
			if _, err := direct.ask(ctx, client, http.MethodPost, path, fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c-%d"},"data":{"v":%q}}`, i, value)); err != nil {
				return err
			}
		}
	})
}

// together runs f n times at once and returns the first error.
func together(n int, f func(i int) error) error {
	failed := make(chan error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// client is one client of the API, with connections of its own.
func (t *target) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: t.conn.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: watchers + 1, DisableCompression: true,
	}}
}

func (t *target) request(ctx context.Context, method, path, content string) (*http.Request, error) {
	scheme := "http://"
	if t.conn.roots != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, method, scheme+t.conn.addr+path, strings.NewReader(content))
	if err != nil {
		return nil, err
	}
	if content != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if t.conn.password != "" {
		r.Header.Set("Authorization", "Bearer "+t.conn.password)
	}
	return r, nil
}

// ask asks for something and drops what comes.
func (t *target) ask(ctx context.Context, client *http.Client, method, path, content string) (size int64, err error) {
	r, err := t.request(ctx, method, path, content)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return 0, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, said)
	}
	return io.Copy(io.Discard, resp.Body)
}

func kubernetesWorkloads(p plan) (w []workload) {
	during := func(f func(context.Context, *target, func(int64) bool) (tally, error)) func(context.Context, *target) ([]figure, error) {
		return func(ctx context.Context, t *target) ([]figure, error) {
			return metered(t, func() (tally, error) {
				end := time.Now().Add(time.Duration(p.seconds) * time.Second)
				return f(ctx, t, func(int64) bool { return time.Now().Before(end) })
			})
		}
	}
	for _, clients := range p.clients {
		w = append(w, workload{name: "Get, " + count(clients, "client"), rounds: p.rounds, run: during(func(ctx context.Context, t *target, more func(int64) bool) (tally, error) {
			return kubeGets(ctx, t, clients, smallObject, more)
		})})
	}
	return append(w,
		workload{name: "List of 5,000, 1 client", rounds: p.rounds, run: during(func(ctx context.Context, t *target, more func(int64) bool) (tally, error) {
			return kubeGets(ctx, t, 1, manyObjects, more)
		})},
		workload{name: "Watch, 50 clients", rounds: p.rounds, run: func(ctx context.Context, t *target) ([]figure, error) {
			return metered(t, func() (tally, error) { return watchStorm(ctx, t) })
		}})
}

// kubeGets has clients ask while more says so of the requests made so far.
func kubeGets(ctx context.Context, t *target, clients int, path string, more func(done int64) bool) (tally, error) {
	var begun, done atomic.Int64
	all := make([]*http.Client, clients)
	for i := range all {
		all[i] = t.client()
		defer all[i].CloseIdleConnections()
		if _, err := t.ask(ctx, all[i], http.MethodGet, smallObject, ""); err != nil { // it connects
			return tally{}, err
		}
	}
	begin := time.Now()
	err := together(clients, func(i int) error {
		for more(begun.Add(1) - 1) {
			if _, err := t.ask(ctx, all[i], http.MethodGet, path, ""); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
	n := int(done.Load())
	return tally{rate: float64(n) / time.Since(begin).Seconds(), requests: max(n, 1)}, err
}

// watchStorm has clients watch a namespace in which others change objects, until
// each has seen every change.
func watchStorm(ctx context.Context, t *target) (tally, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var ready sync.WaitGroup
	ready.Add(watchers)
	begin := make(chan time.Time, 1)
	changed := make(chan error, 1)
	go func() {
		ready.Wait()
		begin <- time.Now()
		changed <- together(changers, func(i int) error {
			client := t.past.client()
			defer client.CloseIdleConnections()
			for range changes / changers {
				stamp := fmt.Sprintf(`{"data":{"at":"%d"}}`, time.Now().UnixNano())
				if _, err := t.past.ask(ctx, client, http.MethodPatch, fmt.Sprintf("%s/c-%d", stormObjects, i), stamp); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	err := together(watchers, func(int) error {
		var once sync.Once
		defer once.Do(ready.Done)
		client := t.client()
		defer client.CloseIdleConnections()
		r, err := t.request(ctx, http.MethodGet, stormObjects+"?watch=1&resourceVersion=0", "")
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for seen := 0; seen < changes; {
			switch {
			case !lines.Scan():
				return errors.Join(fmt.Errorf("a watch ended after %d events", seen), lines.Err())
			case bytes.Contains(lines.Bytes(), []byte(`"type":"MODIFIED"`)):
				seen++
			case bytes.Contains(lines.Bytes(), []byte(fmt.Sprintf(`"name":"c-%d"`, changers-1))): // the last of what was there
				once.Do(ready.Done)
			}
		}
		return nil
	})
	began := <-begin
	took := time.Since(began)
	return tally{rate: watchers * changes / took.Seconds(), requests: watchers * changes}, errors.Join(err, <-changed)
}
