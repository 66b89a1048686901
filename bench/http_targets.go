package main

import (
	"context"
	"debug/buildinfo"
	"fmt"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// startWeb starts all ways to the site. It returns those that it started even
// when it fails.
func startWeb(ctx context.Context, dir string, s *site, o options) ([]*target, error) {
	direct := *s.direct
	direct.proc = nil // the server is nobody's proxy, and ended after all
	targets := []*target{&direct}
	for _, start := range []func(context.Context, string, *site, options) (*target, error){startNginxProxy, startCaddy, startReverse} {
		t, err := start(ctx, dir, s, o)
		if err != nil {
			return targets, err
		}
		if t != nil {
			targets = append(targets, t)
		}
	}
	gateways, err := startGateways(ctx, dir, o, resource{
		protocol: "http", sessions: 100,
		text: fmt.Sprintf("upstream: {address: %q}\n    http: {routes: %s}", direct.conn.addr, siteRoutes),
	})
	for _, g := range gateways {
		g.http2 = g.conn.addr
	}
	return append(targets, gateways...), err
}

func startNginxProxy(ctx context.Context, dir string, s *site, _ options) (*target, error) {
	addr, http2, err := twoAddrs()
	if err != nil {
		return nil, err
	}
	t, err := startNginx(ctx, dir, "nginx", s.nginx, addr, http2, fmt.Sprintf(`	upstream site { server %s; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 1h; }
	server {
		listen %s; listen %s http2;
		location / { proxy_pass http://site; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0; }
	}
`, s.direct.conn.addr, addr, http2))
	if err != nil {
		return nil, err
	}
	t.version = s.version
	return t, nil
}

// startCaddy starts Caddy, when there is one.
func startCaddy(ctx context.Context, dir string, s *site, o options) (*target, error) {
	if o.caddy == "" {
		progress("no -caddy, leaving Caddy out")
		return nil, nil
	}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`{
	admin off
	auto_https off
	persist_config off
	log {
		level ERROR
	}
	servers {
		protocols h1 h2c
	}
}
http://%s {
	reverse_proxy %s {
		transport http {
			compression off
			keepalive_idle_conns 1024
			keepalive_idle_conns_per_host 1024
		}
	}
}
`, addr, s.direct.conn.addr)
	if err := writeFiles(dir, map[string]string{"Caddyfile": config}); err != nil {
		return nil, err
	}
	// What it wants to keep belongs into our folder.
	t, err := listen(ctx, dir, "caddy", conn{addr: addr}, "env", "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, o.caddy, "run", "--config", "Caddyfile")
	if err != nil {
		return nil, err
	}
	t.http2 = addr
	// "caddy version" doesn't know it of a program that go install has built.
	info, err := buildinfo.ReadFile(o.caddy)
	if err != nil {
		t.stop()
		return nil, err
	}
	t.version = "Caddy " + info.Main.Version
	return t, nil
}

func startReverse(ctx context.Context, dir string, s *site, _ options) (*target, error) {
	t, err := self(ctx, dir, "reverse proxy", "-reverse", s.direct.conn)
	if err != nil {
		return nil, err
	}
	t.http2 = t.conn.addr
	return t, nil
}
