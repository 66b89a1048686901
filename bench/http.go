package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

var httpSuite = suite{
	name: "HTTP", peer: "reverse proxy", workloads: httpWorkloads,
	method: `- **direct**: nginx, a file of 1 KiB, plain TCP on loopback, connections kept, no access log. It answers the POSTs by itself, too.
- **nginx**: proxy_pass with connections kept to the upstream. **caddy**: reverse_proxy. **reverse proxy**: the standard library's httputil.ReverseProxy, connections kept, with pooled buffers, and nothing else; what an HTTP proxy in Go costs before it does anything. nginx has a worker per CPU, as server and as proxy.
- **exhibit (process)**, **exhibit (power)**: a bearer token with each request, routes by name, each request decided and recorded before it is forwarded, each outcome before the agent sees the end, contents of responses digested. *process*: what reads is forwarded once its record survives the gateway's end; *power*: once it survives power loss. What writes (POST) waits for the disk in both.
- GET and POST: wrk, HTTP/1.1, each client a connection; POST sends 1 KiB of JSON. HTTP/2: h2load, prior knowledge without TLS, to the target; upstreams are asked in HTTP/1.1. A run with one answer that isn't 2xx counts as failed. p50 and p99 are of the line before them. CPU: what the proxy's processes used for a request, user and system (/proc/PID/stat). Download: one GET by Go's client, which drops the content.
`,
	start: func(ctx context.Context, dir string, o options) (*bed, error) {
		s, err := startSite(ctx, dir, o.plan())
		if err != nil {
			return &bed{}, err
		}
		b := &bed{server: s.version, commands: gets, stop: s.direct.stop}
		b.targets, err = startWeb(ctx, dir, s, o)
		return b, err
	},
}

// site is the nginx server behind all targets.
type site struct {
	direct  *target
	nginx   string // binary
	version string
}

// What is asked of the site.
const (
	smallFile = "/files/small"
	largeFile = "/files/large"
	postPath  = "/items"
)

// siteRoutes are the same as routes of Exhibit's configuration.
const siteRoutes = `["GET /files/{name}", "POST /items"]`

// nginxConf is the part that server and proxy have in common: the folder, the
// user and the servers. nginx 1.22 can't speak both versions of HTTP on one
// port without TLS, so each has one of its own.
const nginxConf = `daemon off; worker_processes auto; pid %[1]s/nginx.pid; error_log %[1]s/nginx.err; %[2]s
events { worker_connections 4096; }
http {
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	access_log off; sendfile on; tcp_nopush on; keepalive_timeout 1h; keepalive_requests 1000000000;
%[3]s}
`

// startNginx starts an nginx in a folder of its own.
func startNginx(ctx context.Context, dir, name, bin, addr, http2, servers string) (*target, error) {
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its temporary folders are ours
	}
	if err := writeFiles(dir, map[string]string{"nginx.conf": fmt.Sprintf(nginxConf, dir, user, servers)}); err != nil {
		return nil, err
	}
	t, err := listen(ctx, dir, name, conn{addr: addr}, bin, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "nginx.err"))
	if err == nil {
		t.http2 = http2
	}
	return t, err
}

// startSite starts the server with its files.
func startSite(ctx context.Context, dir string, p plan) (*site, error) {
	s := &site{}
	var err error
	if s.nginx, err = look("nginx"); err != nil {
		return nil, err
	}
	s.version = strings.TrimPrefix(firstLine(ctx, s.nginx, "-v"), "nginx version: ")
	www := filepath.Join(dir, "www", "files")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return nil, err
	}
	if err := writeFiles(www, map[string]string{"small": strings.Repeat("0123456789abcdef", 64), "large": ""}); err != nil {
		return nil, err
	}
	if err := largeAt(filepath.Join(www, "large"), p.bulkMiB); err != nil {
		return nil, err
	}
	addr, http2, err := twoAddrs()
	if err != nil {
		return nil, err
	}
	s.direct, err = startNginx(ctx, dir, "direct", s.nginx, addr, http2, fmt.Sprintf(`	server {
		listen %s; listen %s http2; root %s;
		location = %s { default_type application/json; return 200 '{"id":"1"}'; }
	}
`, addr, http2, filepath.Join(dir, "www"), postPath))
	return s, err
}

// largeAt makes a file without blocks on disk and reads it once: from then on it
// is in memory, for the first target as for the last.
func largeAt(path string, mib int) error {
	if err := os.Truncate(path, int64(mib)<<20); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}

func twoAddrs() (a, b string, err error) {
	if a, err = pgserver.FreeAddr(); err == nil {
		b, err = pgserver.FreeAddr()
	}
	return a, b, err
}
