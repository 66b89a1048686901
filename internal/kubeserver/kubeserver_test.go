package kubeserver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T) *Server {
	t.Helper()
	s, err := Start(t.Context(), filepath.Join(t.TempDir(), "kubernetes"))
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestAServerStartsAnswersAndEnds(t *testing.T) {
	began := time.Now()
	s := start(t)
	t.Logf("ready in %v", time.Since(began))
	if err := s.Apply(t.Context(), `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}}`); err != nil {
		t.Error(err)
	}
	if out, err := s.Run(t.Context(), "get", "configmap", "kept", "-o", "jsonpath={.data.a}"); err != nil || out != "b" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := s.Run(t.Context(), "get", "configmap", "kept", "--token", s.Account); err == nil || !strings.Contains(err.Error(), `User "`+Gateway+`" cannot get`) {
		t.Errorf("the gateway's account may read without a role: %q, %v", out, err)
	}
	if log, err := os.ReadFile(s.Audit); err != nil || !strings.Contains(string(log), `"requestURI":"/api/v1/namespaces/default/configmaps/kept"`) {
		t.Errorf("the audit log lacks the request (%v)", err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("something listens still: %v, %v", c, err)
	}
}

func TestPodsRunLogAndExecute(t *testing.T) {
	s := start(t)
	if err := s.StartNode(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := s.StartPod(t.Context(), "default", "web"); err != nil {
		t.Fatal(err)
	}
	if err := s.Log("a line of the pod"); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Run(t.Context(), "logs", "web"); err != nil || out != "a line of the pod\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := s.Run(t.Context(), "exec", "web", "--", "sh", "-c", "pwd; exit 3"); err == nil || out != s.Work()+"\n" || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%q, %v", out, err)
	}
}

// Addresses of the cluster are where Lead says, and others are where they are.
func TestTheNetworkLeads(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "here")
			conn.Close()
		}
	}()
	n, err := startNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{network: n}
	s.Lead(PodIP+":80", l.Addr().String())
	for to, want := range map[string]string{
		PodIP + ":80":         "HTTP/1.1 200 OK\r\n\r\nhere",
		l.Addr().String():     "HTTP/1.1 200 OK\r\n\r\nhere",
		"nowhere.invalid:443": "HTTP/1.1 502 Bad Gateway\r\n\r\n",
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", n.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", to)
		if got, err := io.ReadAll(conn); err != nil || string(got) != want {
			t.Errorf("to %s: %q, %v", to, got, err)
		}
		conn.Close()
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is left: %v", err)
	}
}

func TestAMissingProgramIsSaid(t *testing.T) {
	t.Setenv("EXHIBIT_TOOLS", t.TempDir())
	if s, err := Start(t.Context(), filepath.Join(t.TempDir(), "kubernetes")); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make kube-tools") {
		t.Errorf("%v, %v", s, err)
	}
}
