// Package kubeserver runs a real Kubernetes API server in a folder of its own,
// for the demo, tests and the benchmark. In flows a folder; out flows an API
// server with RBAC on a free loopback port, its etcd, an audit log of every
// request, and, when asked for, a node whose pods run: kwok plays it, and what
// is executed in one of its pods is a local process, unless the caller brings a
// kubelet. Pods, services and other API servers that it leads to are where Lead
// says. All of it is gone when it is stopped.
package kubeserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// Server is a running API server.
type Server struct {
	Addr    string // host:port on loopback; it speaks TLS
	CA      string // path of the certificate that it is checked with, in PEM
	Admin   string // bearer token of a user of system:masters
	Account string // that of the user Gateway, who may do nothing until RBAC says so
	Audit   string // path of the audit log: the metadata of every request, one JSON object a line
	Kubectl string // path of the client of the server's version

	dir   string
	tools string
	parts []*part // in the order of their starts

	network *network
}

// Gateway is the user whose token is Account.
const Gateway = "exhibit"

// Node is the node that StartNode adds.
const Node = "node-0"

// part is a program that runs.
type part struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts an API server in dir, which must not exist. It is ready.
func Start(ctx context.Context, dir string) (_ *Server, err error) {
	tools, err := Programs()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Server{
		Admin: rand.Text(), Account: rand.Text(),
		CA: filepath.Join(dir, "apiserver.crt"), Audit: filepath.Join(dir, "audit.log"),
		Kubectl: filepath.Join(tools, "kubernetes", "kubectl"), dir: dir, tools: tools,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if s.network, err = startNetwork(ctx); err != nil {
		return nil, err
	}
	etcd, err := s.startEtcd()
	if err != nil {
		return nil, err
	}
	if err := s.startAPI(etcd); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	if err := s.writeKubeconfig(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) startEtcd() (url string, err error) {
	program, err := exec.LookPath("etcd")
	if err != nil {
		return "", fmt.Errorf("%w: etcd (Debian: apt-get install etcd-server)", ErrMissing)
	}
	clients, err := pgserver.FreeAddr()
	if err != nil {
		return "", err
	}
	peers, err := pgserver.FreeAddr()
	if err != nil {
		return "", err
	}
	url = "http://" + clients
	return url, s.start("etcd", program, "--data-dir", filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", "http://"+peers,
		"--initial-advertise-peer-urls", "http://"+peers, "--initial-cluster", "default=http://"+peers)
}

// policy has every request in the audit log, once it was answered: of one that
// streams also when it began.
const policy = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}], "omitStages": ["RequestReceived"]}`

func (s *Server) startAPI(etcd string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	tokens := fmt.Sprintf("%s,admin,1,system:masters\n%s,%s,2\n", s.Admin, s.Account, Gateway)
	for name, content := range map[string][]byte{
		"accounts.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"tokens.csv":   []byte(tokens),
		"audit.json":   []byte(policy),
		"egress.json":  fmt.Appendf(nil, egress, s.network.listener.Addr().String()),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	if s.Addr, err = pgserver.FreeAddr(); err != nil {
		return err
	}
	_, port, _ := strings.Cut(s.Addr, ":")
	accounts := filepath.Join(s.dir, "accounts.key")
	return s.start("kube-apiserver", filepath.Join(s.tools, "kubernetes", "kube-apiserver"),
		"--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+port,
		"--endpoint-reconciler-type=none", "--cert-dir="+s.dir, "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-key-file="+accounts, "--service-account-signing-key-file="+accounts,
		"--service-account-issuer=https://kubernetes.default.svc", "--disable-admission-plugins=ServiceAccount",
		"--token-auth-file="+filepath.Join(s.dir, "tokens.csv"), "--authorization-mode=RBAC",
		"--egress-selector-config-file="+filepath.Join(s.dir, "egress.json"),
		"--audit-policy-file="+filepath.Join(s.dir, "audit.json"), "--audit-log-path="+s.Audit, "--audit-log-mode=blocking-strict")
}

// start starts a program whose output is logged in the folder.
func (s *Server) start(name, program string, args ...string) error {
	p := &part{name: name, log: filepath.Join(s.dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not bound to a context: it ends by Stop, or with whoever started it.
	p.cmd = exec.CommandContext(context.Background(), program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.dir, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	return nil
}

// ready waits until the API server is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := s.ask(ctx)
		if err == nil {
			return nil
		}
		for _, p := range s.parts {
			select {
			case <-p.done:
				return p.ended()
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server isn't ready: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *part) ended() error {
	said, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s ended at once: %s", p.name, said[max(0, len(said)-2000):])
}

// ask asks the API server whether it is ready.
func (s *Server) ask(ctx context.Context) error {
	certificate, err := os.ReadFile(s.CA)
	if err != nil {
		return err // it makes one first
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		return errors.New("the API server's certificate is being written")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/readyz", nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+s.Admin)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// URL reaches the API server directly.
func (s *Server) URL() string { return "https://" + s.Addr }

// Kubeconfig is the path of a client's configuration that reaches the server
// directly, as the admin.
func (s *Server) Kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// kubeconfig is JSON, of which YAML is a superset.
const kubeconfig = `{"apiVersion": "v1", "kind": "Config", "current-context": "direct",
"clusters": [{"name": "direct", "cluster": {"server": %q, "certificate-authority": %q}}],
"users": [{"name": "admin", "user": {"token": %q}}],
"contexts": [{"name": "direct", "context": {"cluster": "direct", "user": "admin"}}]}
`

func (s *Server) writeKubeconfig() error {
	return os.WriteFile(s.Kubeconfig(), fmt.Appendf(nil, kubeconfig, s.URL(), s.CA, s.Admin), 0o600)
}

// Run runs kubectl as the admin, past the gateway, and returns what it prints.
func (s *Server) Run(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, "", args...)
}

// Apply makes objects be as they are described, in YAML or JSON.
func (s *Server) Apply(ctx context.Context, objects string) error {
	_, err := s.run(ctx, objects, "apply", "--validate=false", "-f", "-")
	return err
}

func (s *Server) run(ctx context.Context, in string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Kubectl, append([]string{"--kubeconfig", s.Kubeconfig(), "--cache-dir", filepath.Join(s.dir, "cache")}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, failed.String())
	}
	return out.String(), nil
}

// Stop ends all of it: first what uses the others.
func (s *Server) Stop() error {
	var errs []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		errs = append(errs, s.parts[i].stop())
	}
	s.parts = nil
	if s.network != nil {
		errs = append(errs, s.network.stop())
		s.network = nil
	}
	return errors.Join(errs...)
}

// stop kills a program and what it has started: nothing of the folder is used
// again.
func (p *part) stop() error {
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending %s: %w", p.name, err)
	}
	<-p.done
	return nil
}
