package e2e

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Node's pg sends what no other client does: unnamed statements without a
// Flush, cursors over portals, streams, queries queued one behind another.
func TestNodeClientsWork(t *testing.T) {
	t.Parallel()
	slow(t)
	needs(t, "node", "npm")
	onEachServer(t, func(t *testing.T, w *world) {
		modules := filepath.Join(w.tool("node-clients"), "node_modules")
		clients := func(url string) {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), "node", "testdata/node/clients.js")
			cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "DATABASE_URL="+url)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "ok\n") {
				t.Errorf("%v\n%s", err, out)
			}
		}
		clients(w.url("bot", "sslmode=disable", "--ticket", "T-1"))

		ca := newAuthority(t, w.path("tls"))
		ca.issue("gateway", &x509.Certificate{DNSNames: []string{"localhost"}}) // pg can't verify an address
		w.listenByTLS()
		clients(strings.Replace(w.url("bot", "sslmode=verify-full&sslrootcert="+ca.path("ca.pem"), "--ticket", "T-1"), "@127.0.0.1", "@localhost", 1))
		w.passes()
	})
}
