package kubeserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// network is how the API server reaches nodes, pods, services and the servers of
// aggregated APIs: through a proxy that answers to CONNECT, as where a cluster's
// nodes are in a network of their own. An API server leads nobody to a loopback
// address, and nothing here listens on any other: the proxy leads those of the
// cluster to where the tests are.
type network struct {
	dir      string // of its socket, whose path must be short
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	leads map[string]string // by host:port
}

// egress has everything but etcd go through the proxy
// (https://kubernetes.io/docs/tasks/extend-kubernetes/setup-konnectivity/).
const egress = `{"apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration", "egressSelections": [
{"name": "cluster", "connection": {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": %q}}}}]}`

func startNetwork(ctx context.Context) (*network, error) {
	dir, err := os.MkdirTemp("", "kube-")
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, "network"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	n := &network{dir: dir, listener: l, leads: make(map[string]string)}
	n.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // it was closed
			}
			n.running.Go(func() { n.serve(conn) })
		}
	})
	return n, nil
}

// Lead has the API server find what it looks for at an address of the cluster
// (host:port) at another one.
func (s *Server) Lead(from, to string) {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	s.network.leads[from] = to
}

// serve leads one connection of the API server where it wants to go.
func (n *network) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	r, err := http.ReadRequest(in)
	if err != nil || r.Method != http.MethodConnect {
		return
	}
	n.mu.Lock()
	to, led := n.leads[r.Host]
	n.mu.Unlock()
	if !led {
		to = r.Host
	}
	far, err := new(net.Dialer).DialContext(r.Context(), "tcp", to)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n") // it is gone otherwise
		return
	}
	defer far.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, far) // until either of them goes
		conn.Close()
	})
	_, _ = io.Copy(far, in)
	far.Close()
	back.Wait()
}

// stop ends it, once the API server has.
func (n *network) stop() error {
	err := n.listener.Close()
	n.running.Wait()
	return errors.Join(err, os.RemoveAll(n.dir))
}
