package kubeserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// PodIP is the address of every pod in the cluster's network: one for
// documentation (RFC 5737), which leads nowhere but by Lead.
const PodIP = "192.0.2.10"

// stages says how nodes and pods become what they should be: ready at once, and
// gone when they are deleted.
const stages = `apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      conditions:
      {{ range NodeConditions }}
      - {type: {{ .type | Quote }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }}, message: {{ .message | Quote }}, lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}}
      {{ end }}
      addresses:
      - {type: InternalIP, address: {{ NodeIP | Quote }}}
      daemonEndpoints: {kubeletEndpoint: {Port: {{ NodePort }}}}
      allocatable: {cpu: "8", memory: 16Gi, pods: "100"}
      capacity: {cpu: "8", memory: 16Gi, pods: "100"}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-runs}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.phase, operator: In, values: [Pending]}
  next:
    statusTemplate: |
      phase: Running
      startTime: {{ Now | Quote }}
      conditions:
      {{ range $type := list "Initialized" "Ready" "ContainersReady" }}
      - {type: {{ $type }}, status: "True", lastTransitionTime: {{ Now | Quote }}}
      {{ end }}
      containerStatuses:
      {{ range .spec.containers }}
      - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, started: true, restartCount: 0, state: {running: {startedAt: {{ Now | Quote }}}}}
      {{ end }}
      hostIP: 127.0.0.1
      podIP: ` + PodIP + `
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-goes}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: Exists}
  next: {delete: true}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterExec
metadata: {name: local}
spec:
  execs:
  - local: {workDir: %[1]q}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterLogs
metadata: {name: local}
spec:
  logs:
  - {logsFile: %[2]q, follow: true}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterAttach
metadata: {name: local}
spec:
  attaches:
  - {logsFile: %[2]q}
`

// forward leads a port of each pod to an address.
const forward = `---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterPortForward
metadata: {name: local}
spec:
  forwards:
  - {target: {address: %q, port: %s}}
`

// StartNode adds a node. Pods that name it run, and so do processes that are
// executed in them: here, in the folder Work. (How one failed kwok reports as a
// failure of its own, without the exit code, and it doesn't close their input. Who
// attaches to one sees what is logged from then on, types nothing, and sees no
// end.) What they log is the file Logs.
// Their ports lead to the address behind, if there is one.
func (s *Server) StartNode(ctx context.Context, behind string) error {
	kubelet, err := pgserver.FreeAddr()
	if err != nil {
		return err
	}
	config := ""
	if host, port, ok := strings.Cut(behind, ":"); ok {
		config = fmt.Sprintf(forward, host, port)
	}
	return s.addNode(ctx, kubelet, kubelet, config)
}

// StartNodeOf adds a node whose pods run, and whose kubelet is at an address on
// loopback: the API server asks it for what they log, and leads to it who
// executes, attaches or forwards.
func (s *Server) StartNodeOf(ctx context.Context, kubelet string) error {
	// Without an address of its own kwok takes the kubelet's.
	aside, err := pgserver.FreeAddr()
	if err != nil {
		return err
	}
	return s.addNode(ctx, kubelet, aside, "")
}

// addNode has kwok keep a node, and waits until it is ready. The API server asks
// for the kubelet at one address, and kwok serves its own at another.
func (s *Server) addNode(ctx context.Context, kubelet, served, config string) error {
	if err := os.Mkdir(s.Work(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(s.Logs(), nil, 0o600); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "kwok.yaml")
	if err := os.WriteFile(path, []byte(fmt.Sprintf(stages, s.Work(), s.Logs())+config), 0o600); err != nil {
		return err
	}
	host, port, _ := strings.Cut(kubelet, ":")
	if err := s.start("kwok", filepath.Join(s.tools, "kwok"), "--kubeconfig", s.Kubeconfig(), "--config", path,
		"--manage-all-nodes", "--node-ip", host, "--node-port", port, "--server-address", served); err != nil {
		return err
	}
	if err := s.Apply(ctx, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": %q}}`, Node)); err != nil {
		return err
	}
	_, err := s.Run(ctx, "wait", "--for=condition=Ready", "--timeout=60s", "node/"+Node)
	return err
}

// Work is the folder in which processes of pods run.
func (s *Server) Work() string { return filepath.Join(s.dir, "work") }

// Logs is the file that all pods of the node log to.
func (s *Server) Logs() string { return filepath.Join(s.dir, "pods.log") }

// Log adds a line to what the pods have logged, as container runtimes write it.
func (s *Server) Log(line string) error {
	f, err := os.OpenFile(s.Logs(), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line)
	return err
}

// StartPod starts a pod on the node, and waits until it runs.
func (s *Server) StartPod(ctx context.Context, namespace, name string) error {
	if err := s.Apply(ctx, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": %q},
"spec": {"nodeName": %q, "containers": [{"name": "main", "image": "local"}]}}`, name, namespace, Node)); err != nil {
		return err
	}
	_, err := s.Run(ctx, "wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", "pod/"+name)
	return err
}
