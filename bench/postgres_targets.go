package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// startTargets starts all ways to the database. It returns those that it started
// even when it fails.
func startTargets(ctx context.Context, dir string, s *server, o options) ([]*target, error) {
	targets := []*target{{name: "direct", conn: s.conn()}}
	for _, start := range []func(context.Context, string, *server) (*target, error){startRelay, startHAProxy, startPgBouncer} {
		t, err := start(ctx, dir, s)
		if err != nil {
			return targets, err
		}
		targets = append(targets, t)
	}
	gateways, err := startGateways(ctx, dir, o, resource{
		protocol: "postgres", sessions: 2*o.plan().idle + 100,
		text:  fmt.Sprintf("upstream: {address: %q, database: %s, user: %s, password: {file: password}}", s.Addr, database, benchUser),
		files: map[string]string{"password": s.password},
	})
	return append(targets, gateways...), err
}

func startRelay(ctx context.Context, dir string, s *server) (*target, error) {
	return self(ctx, dir, "relay", "-relay", s.conn())
}

func startHAProxy(ctx context.Context, dir string, s *server) (*target, error) {
	bin, err := look("haproxy")
	if err != nil {
		return nil, err
	}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
	maxconn 4000
defaults
	mode tcp
	timeout connect 10s
	timeout client 1h
	timeout server 1h
listen postgres
	bind %s
	server postgres %s
`, addr, s.Addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	t, err := listen(ctx, dir, "haproxy", s.at(addr), bin, "-db", "-f", config)
	if err != nil {
		return nil, err
	}
	t.version = firstLine(ctx, bin, "-v")
	return t, nil
}

func startPgBouncer(ctx context.Context, dir string, s *server) (*target, error) {
	bin, err := look("pgbouncer")
	if err != nil {
		return nil, err
	}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addr)
	upHost, upPort, _ := net.SplitHostPort(s.Addr)
	users := filepath.Join(dir, "pgbouncer.users")
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
%s = host=%s port=%s
[pgbouncer]
listen_addr = %s
listen_port = %s
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = session
max_client_conn = 4000
default_pool_size = 2000
log_connections = 0
log_disconnections = 0
ignore_startup_parameters = extra_float_digits
`, database, upHost, upPort, host, port, users)
	if err := os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", benchUser, s.password), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	argv := []string{bin, config}
	if os.Getuid() == 0 {
		argv = []string{bin, "-u", "postgres", config} // it refuses root as the server does
	}
	t, err := listen(ctx, dir, "pgbouncer", s.at(addr), argv...)
	if err != nil {
		return nil, err
	}
	t.version = firstLine(ctx, bin, "--version")
	return t, nil
}
