package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	clientapi "k8s.io/client-go/tools/clientcmd/api"
)

// quiet keeps what client-go logs, that it tries again, out of the tests' output.
var quiet sync.Once

// clientGo is a client as controllers are made with, of a kubeconfig, which speaks
// a content type. What it keeps of tokens is in a folder of its name.
func (c *cluster) clientGo(kubeconfig, name, contentType string) kubernetes.Interface {
	c.t.Helper()
	quiet.Do(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	c.ok(err)
	if config.ExecProvider != nil {
		config.ExecProvider.Env = append(config.ExecProvider.Env, clientapi.ExecEnvVar{Name: "XDG_CACHE_HOME", Value: c.path("cache-" + name)})
	}
	config.ContentType, config.QPS = contentType, -1
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(config, name))
	c.ok(err)
	return client
}

// restart ends the gateway and starts it again; meanwhile is what happens before.
func (c *cluster) restart(sig syscall.Signal, meanwhile func()) {
	c.t.Helper()
	c.stop(sig)
	meanwhile()
	c.start()
}

// versions are objects by name, as a version each.
type versions map[string]string

// follower is what a shared informer tells of ConfigMaps.
type follower struct {
	mu   sync.Mutex
	told versions // by its events alone
	errs []error
}

func (f *follower) OnAdd(o any, _ bool) { f.set(o, false) }
func (f *follower) OnUpdate(_, o any)   { f.set(o, false) }
func (f *follower) OnDelete(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok { // it went while nobody watched
		o = gone.Obj
	}
	f.set(o, true)
}

func (f *follower) set(o any, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := o.(*corev1.ConfigMap)
	switch {
	case !ok:
		f.errs = append(f.errs, fmt.Errorf("it told of a %T", o))
	case gone:
		delete(f.told, m.Name)
	default:
		f.told[m.Name] = m.ResourceVersion
	}
}

func (f *follower) now() (versions, []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.told), f.errs
}

// An informer, which is how controllers see a cluster, has exactly what the API
// server has, whatever becomes of the gateway meanwhile.
func TestInformersOutliveTheGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("bot", "kube-shop-deployer", "prod")
	admin := c.clientGo(c.kube.Kubeconfig(), "admin", runtime.ContentTypeJSON)
	config := c.kubeconfig("bot")

	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	followers := map[string]*follower{}
	stores := map[string]cache.Store{}
	var factories []informers.SharedInformerFactory
	for name, contentType := range map[string]string{"json": runtime.ContentTypeJSON, "protobuf": runtime.ContentTypeProtobuf} {
		factory := informers.NewSharedInformerFactoryWithOptions(c.clientGo(config, name, contentType), 0, informers.WithNamespace("shop"))
		informer := factory.Core().V1().ConfigMaps().Informer()
		f := &follower{told: versions{}}
		_, err := informer.AddEventHandler(f)
		c.ok(err)
		followers[name], stores[name] = f, informer.GetStore()
		factory.Start(ctx.Done())
		factories = append(factories, factory)
	}

	// change makes some objects, and changes and deletes some that were there.
	made := 0
	change := func() {
		c.t.Helper()
		objects := admin.CoreV1().ConfigMaps("shop")
		for range 8 {
			made++
			_, err := objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%d", made)}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
			c.ok(err)
			if made%2 == 0 {
				_, err := objects.Patch(ctx, fmt.Sprintf("m%d", made/2|1), types.MergePatchType, []byte(`{"data": {"a": "c"}}`), metav1.PatchOptions{})
				c.ok(err)
			}
			if made%4 == 1 && made > 4 {
				c.ok(objects.Delete(ctx, fmt.Sprintf("m%d", made-1), metav1.DeleteOptions{}))
			}
		}
	}
	same := func(when string) {
		c.t.Helper()
		list, err := admin.CoreV1().ConfigMaps("shop").List(ctx, metav1.ListOptions{})
		c.ok(err)
		want := versions{}
		for _, m := range list.Items {
			want[m.Name] = m.ResourceVersion
		}
		for name, f := range followers {
			c.until(2*time.Minute, fmt.Sprintf("the informer that speaks %s has what the server has %s", name, when), func() bool {
				told, errs := f.now()
				for _, err := range errs {
					t.Fatal(err)
				}
				kept := versions{}
				for _, o := range stores[name].List() {
					m := o.(*corev1.ConfigMap)
					kept[m.Name] = m.ResourceVersion
				}
				return maps.Equal(want, told) && maps.Equal(want, kept)
			})
		}
	}
	change()
	same("at first")
	change()
	same("after it watches")
	c.restart(syscall.SIGTERM, change)
	change()
	same("after a stop in good order")
	c.restart(syscall.SIGKILL, change)
	change()
	same("after a kill")

	cancel()
	for _, f := range factories {
		f.Shutdown()
	}
	outcomes := map[string]int{}
	for _, d := range c.ran("watch configmaps/shop") {
		outcomes[d.Outcome]++
	}
	t.Log(outcomes)
	if outcomes["in_doubt"] < len(factories) || outcomes["cancelled"]+outcomes["ok"]+outcomes["error"] < 2*len(factories) {
		t.Errorf("the watches ended as %v", outcomes)
	}
	c.audited()
	c.passes()
}

// candidates are those of an election, and what the test sees of them.
type candidates struct {
	mu    sync.Mutex
	leads map[string]bool
	terms int
	twice [][]string // who led at once
}

func (e *candidates) begins(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.terms++
	for other := range e.leads {
		e.twice = append(e.twice, []string{other, name})
	}
	e.leads[name] = true
}

func (e *candidates) ends(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.leads, name)
}

// leader is who leads; "" is nobody.
func (e *candidates) leader() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range e.leads {
		return name
	}
	return ""
}

// Two candidates elect a leader by a Lease, and go on to do so whatever becomes
// of the gateway: there are never two at once.
func TestLeadersAreElectedThroughTheGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("bot", "kube-shop-deployer", "prod")
	config := c.kubeconfig("bot")
	admin := c.clientGo(c.kube.Kubeconfig(), "admin", runtime.ContentTypeJSON)
	e := &candidates{leads: map[string]bool{}}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	resign := map[string]context.CancelFunc{}
	for name, contentType := range map[string]string{"a": runtime.ContentTypeJSON, "b": runtime.ContentTypeProtobuf} {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		resign[name] = cancel
		client := c.clientGo(config, name, contentType)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: "shop", Name: "leader"}, Client: client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 12 * time.Second, RenewDeadline: 8 * time.Second, RetryPeriod: 500 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					e.begins(name)
					<-ctx.Done()
					e.ends(name)
				},
				OnStoppedLeading: func() {},
			},
		})
		c.ok(err)
		running.Go(func() {
			for ctx.Err() == nil { // who lost it stands again
				elector.Run(ctx)
			}
		})
	}
	renewed := func() time.Time {
		c.t.Helper()
		lease, err := admin.CoordinationV1().Leases("shop").Get(t.Context(), "leader", metav1.GetOptions{})
		c.ok(err)
		return lease.Spec.RenewTime.Time
	}
	leads := func(when string) string {
		c.t.Helper()
		c.until(2*time.Minute, "somebody leads "+when, func() bool { return e.leader() != "" })
		began := renewed()
		c.until(2*time.Minute, "the leader renews its lease "+when, func() bool { return renewed().After(began) })
		return e.leader()
	}
	leads("at first")
	c.restart(syscall.SIGTERM, func() {})
	leads("after a stop in good order")
	c.restart(syscall.SIGKILL, func() {})
	leads("after a kill")
	first := ""
	c.until(2*time.Minute, "somebody can resign", func() bool { first = e.leader(); return first != "" })
	resign[first]()
	c.until(2*time.Minute, "it has resigned", func() bool { return e.leader() != first })
	if second := leads("after the first resigned"); second == first {
		t.Errorf("%s leads after it resigned", second)
	}
	for _, cancel := range resign {
		cancel()
	}
	running.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.twice) > 0 {
		t.Errorf("these led at once: %v", e.twice)
	}
	t.Logf("%d terms", e.terms)
	if len(c.ran("update leases.coordination.k8s.io/shop/leader")) < 3 {
		t.Error("the lease was hardly renewed")
	}
	c.audited()
	c.passes()
}
