package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// The database and its user. On Exhibit they are the resource and the agent.
const (
	database  = "bench"
	benchUser = "bench"
)

// server is the PostgreSQL server behind all targets.
type server struct {
	*pgserver.Server
	password string // of benchUser
}

// conn reaches the server directly.
func (s *server) conn() conn { return conn{addr: s.Addr, user: benchUser, password: s.password} }

// startServer starts PostgreSQL and makes the database, its user and pgbench's
// tables.
func startServer(ctx context.Context, dir string, p plan) (*server, error) {
	pg, err := pgserver.Start(ctx, filepath.Join(dir, "postgres"),
		"max_connections="+strconv.Itoa(2*p.idle+200), "shared_buffers=512MB", "max_wal_size=4GB", "log_statement=none",
		// Nothing in the background of one target's turn and not another's.
		"autovacuum=off", "checkpoint_timeout=1h")
	if err != nil {
		return nil, err
	}
	s := &server{pg, rand.Text()}
	if err := s.prepare(ctx, p); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *server) prepare(ctx context.Context, p plan) error {
	if err := s.Exec(ctx, "postgres",
		fmt.Sprintf("create role %s login password '%s'", benchUser, s.password),
		fmt.Sprintf("create database %s owner %s", database, benchUser),
	); err != nil {
		return err
	}
	_, err := pgbench(ctx, s.conn(), "-i", "-q", "-s", strconv.Itoa(p.scale))
	return err
}

func (s *server) stop() {
	if err := s.Stop(); err != nil {
		progress("PostgreSQL: %v", err)
	}
}

// settle puts writes to rest, so that nobody else's turn pays for them.
func (s *server) settle(ctx context.Context) error {
	return s.Exec(ctx, database, "vacuum pgbench_branches, pgbench_tellers", "checkpoint")
}

// look finds a program in the PATH or among the administrator's.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		return "", fmt.Errorf("%s isn't installed\nhint: scripts/setup.sh bench installs it", name)
	}
	return path, nil
}
