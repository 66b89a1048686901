package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

var postgresSuite = suite{
	name: "PostgreSQL", peer: "relay", workloads: postgresWorkloads,
	method: `- **direct**: pgbench to PostgreSQL, plain TCP on loopback, SCRAM authentication, synchronous commit.
- **relay**: two goroutines per connection in Go that look at nothing; what a proxy in Go costs before it does anything.
- **haproxy**: TCP mode, as many threads as CPUs. **pgbouncer**: session mode, one thread; it reuses server connections, and checks passwords by itself.
- **exhibit (process)**, **exhibit (power)**: token authentication, one upstream connection per session, each command parsed, decided and recorded before it is forwarded. *process*: what reads is forwarded once its record survives the gateway's end; *power*: once it survives power loss. What writes waits for the disk in both.
- select: pgbench's -S script; TPC-B-like: its default script. Latency: one client, one prepared select at a time. Memory: growth of the proxy's proportional set size (PSS), children included, over that many sessions that have each asked once.
`,
	start: func(ctx context.Context, dir string, o options) (*bed, error) {
		s, err := startServer(ctx, dir, o.plan())
		if err != nil {
			return &bed{}, err
		}
		b := &bed{server: "PostgreSQL " + s.Version, settle: s.settle, commands: selects, stop: s.stop}
		b.targets, err = startTargets(ctx, dir, s, o)
		return b, err
	},
}

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
func (s *server) conn() conn { return s.at(s.Addr) }

// at is how to reach it through what listens on addr.
func (s *server) at(addr string) conn { return conn{addr: addr, user: benchUser, password: s.password} }

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
