package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// target is one way to the database.
type target struct {
	name    string
	conn    conn
	proc    *process // nil for direct
	version string
	gateway *gateway // nil for what keeps no evidence
}

func (t *target) stop() {
	if t.proc != nil {
		t.proc.stop(syscall.SIGTERM)
	}
}

// startTargets starts all of them. It returns those that it started even when
// it fails.
func startTargets(ctx context.Context, dir string, s *server, o options) ([]*target, error) {
	targets := []*target{{name: "direct", conn: s.conn(), version: "PostgreSQL " + s.Version}}
	for _, start := range []func(context.Context, string, *server) (*target, error){startRelay, startHAProxy, startPgBouncer} {
		t, err := start(ctx, dir, s)
		if err != nil {
			return targets, err
		}
		targets = append(targets, t)
	}
	exhibit, err := filepath.Abs(o.exhibit)
	if err != nil {
		return targets, err
	}
	if _, err := os.Stat(exhibit); errors.Is(err, os.ErrNotExist) {
		progress("%s isn't built, leaving Exhibit out", o.exhibit)
		return targets, nil
	}
	for _, durability := range []string{"process", "power"} {
		t, err := startExhibit(ctx, dir, s, o.plan(), exhibit, durability)
		if err != nil {
			return targets, fmt.Errorf("exhibit (%s): %w", durability, err)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// listen starts a program that passes connections on addr on to the server.
func listen(ctx context.Context, dir, name, addr string, s *server, argv ...string) (*target, error) {
	proc, err := start(dir, name, argv...)
	if err != nil {
		return nil, err
	}
	c := s.conn()
	c.addr = addr
	t := &target{name: name, conn: c, proc: proc}
	if err := proc.ready(ctx, "tcp", addr); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

func startRelay(ctx context.Context, dir string, s *server) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := pgserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	return listen(ctx, dir, "relay", addr, s, self, "-relay", addr+"="+s.Addr)
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
	t, err := listen(ctx, dir, "haproxy", addr, s, bin, "-db", "-f", config)
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
	t, err := listen(ctx, dir, "pgbouncer", addr, s, argv...)
	if err != nil {
		return nil, err
	}
	t.version = firstLine(ctx, bin, "--version")
	return t, nil
}
