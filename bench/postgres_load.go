package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func (c conn) dial(ctx context.Context) (*pgx.Conn, error) {
	host, port, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, c.user, database))
	if err != nil {
		return nil, err
	}
	config.Password = c.password
	return pgx.ConnectConfig(ctx, config)
}

func postgresWorkloads(p plan) []workload {
	var w []workload
	for _, mode := range []string{"prepared", "simple"} {
		for _, clients := range p.clients {
			w = append(w, workload{name: fmt.Sprintf("select, %s, %s", mode, count(clients, "client")), rounds: p.rounds,
				run: throughput("commands/s", "-S", "-M", mode, "-c", strconv.Itoa(clients), "-T", strconv.Itoa(p.seconds))})
		}
	}
	return append(w,
		workload{name: "TPC-B-like, " + count(p.writers, "client"), rounds: p.rounds, writes: true,
			run: throughput("transactions/s", "-M", "prepared", "-c", strconv.Itoa(p.writers), "-T", strconv.Itoa(p.seconds))},
		workload{name: "connect for each select, " + count(p.churn, "client"), rounds: p.rounds,
			run: throughput("connections/s", "-C", "-S", "-c", strconv.Itoa(p.churn), "-T", strconv.Itoa(p.seconds))},
		workload{name: fmt.Sprintf("one result of %d MiB", p.bulkMiB), rounds: p.bulkRound, run: bulk(p.bulkMiB)},
		workload{name: "latency, 1 client", rounds: p.rounds, run: latency(p.queries)},
		workload{name: fmt.Sprintf("memory, %d idle sessions", p.idle), rounds: 1, run: idle(p.idle)},
	)
}

// throughput is pgbench's own figure.
func throughput(unit string, args ...string) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) ([]figure, error) {
		out, err := pgbench(ctx, t.conn, append([]string{"-n", "-j", "2"}, args...)...)
		if err != nil {
			return nil, err
		}
		tps, err := out.tps()
		return []figure{{unit: unit, more: true, value: tps}}, err
	}
}

// selects has n selects done and returns how many it were.
func selects(ctx context.Context, t *target, n int) (int, error) {
	const clients = 16
	each := n / clients
	_, err := pgbench(ctx, t.conn, "-n", "-S", "-M", "prepared", "-c", strconv.Itoa(clients), "-j", "2", "-t", strconv.Itoa(each))
	return each * clients, err
}

// output is what pgbench printed.
type output string

// pgbench runs the program of that name. One client can't use two threads, so
// -j is at most -c.
func pgbench(ctx context.Context, c conn, args ...string) (output, error) {
	host, port, err := net.SplitHostPort(c.addr)
	if err != nil {
		return "", err
	}
	if i, j := slices.Index(args, "-c"), slices.Index(args, "-j"); i >= 0 && j >= 0 && args[i+1] == "1" {
		args[j+1] = "1"
	}
	argv := append([]string{"-h", host, "-p", port, "-U", c.user}, args...)
	cmd := exec.CommandContext(ctx, "pgbench", append(argv, database)...)
	cmd.Env = append(os.Environ(), "PGSSLMODE=disable", "PGGSSENCMODE=disable", "PGPASSWORD="+c.password)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("pgbench %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return output(stdout.String()), nil
}

var (
	tpsLine    = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	failedLine = regexp.MustCompile(`(?m)^number of failed transactions: ([0-9]+)`)
)

// tps reads the transactions a second. A run with failed transactions
// measured something else.
func (o output) tps() (float64, error) {
	if m := failedLine.FindStringSubmatch(string(o)); m != nil && m[1] != "0" {
		return 0, fmt.Errorf("pgbench: %s transactions failed", m[1])
	}
	m := tpsLine.FindStringSubmatch(string(o))
	if m == nil {
		return 0, fmt.Errorf("pgbench printed no figure: %s", o)
	}
	return strconv.ParseFloat(m[1], 64)
}

// bulk reads one large result and drops it.
func bulk(mib int) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) (v []figure, err error) {
		db, err := t.conn.dial(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, db.Close(ctx)) }()
		begin := time.Now()
		n, err := discard(db.PgConn().Exec(ctx, fmt.Sprintf("select repeat('x', 1024) from generate_series(1, %d)", mib*1024)))
		if err != nil {
			return nil, err
		}
		if n != mib<<20 {
			return nil, fmt.Errorf("read %d bytes of %d", n, mib<<20)
		}
		return []figure{{unit: "MiB/s", more: true, value: float64(mib) / time.Since(begin).Seconds()}}, nil
	}
}

// discard reads a result to its end and counts the bytes of its values.
func discard(r *pgconn.MultiResultReader) (n int, err error) {
	for r.NextResult() {
		rows := r.ResultReader()
		for rows.NextRow() {
			for _, v := range rows.Values() {
				n += len(v)
			}
		}
	}
	return n, r.Close()
}

// latency asks for one row at a time, prepared, and keeps every duration.
func latency(queries int) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) (v []figure, err error) {
		db, err := t.conn.dial(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, db.Close(ctx)) }()
		warmUp := queries / 10
		took := make([]float64, 0, queries)
		for i := range queries + warmUp {
			var balance int
			begin := time.Now()
			err := db.QueryRow(ctx, "select abalance from pgbench_accounts where aid = $1", 1+rand.IntN(100_000)).Scan(&balance)
			if err != nil {
				return nil, err
			}
			if i >= warmUp {
				took = append(took, float64(time.Since(begin).Nanoseconds())/1000)
			}
		}
		slices.Sort(took)
		return []figure{{name: "p50", unit: "µs", value: quantile(took, 0.50)}, {name: "p99", unit: "µs", value: quantile(took, 0.99)}}, nil
	}
}

// idle opens sessions, lets each ask once, and weighs the proxy with and
// without them.
func idle(sessions int) func(context.Context, *target) ([]figure, error) {
	return func(ctx context.Context, t *target) (v []figure, err error) {
		if t.proc == nil {
			return []figure{{unit: "KiB/session"}}, nil // nothing stands between
		}
		before, err := memory(t.proc.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		open, err := openAll(ctx, t.conn, sessions)
		defer func() {
			for _, db := range open {
				err = errors.Join(err, db.Close(ctx))
			}
		}()
		if err != nil {
			return nil, err
		}
		after, err := memory(t.proc.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		return []figure{{unit: "KiB/session", value: float64(after-before) / float64(sessions)}}, nil
	}
}

// openAll opens n sessions, a few at a time. It returns those that it opened
// even when it fails.
func openAll(ctx context.Context, c conn, n int) ([]*pgx.Conn, error) {
	var (
		mu   sync.Mutex
		open []*pgx.Conn
		errs []error
		wg   sync.WaitGroup
	)
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				db, err := c.dial(ctx)
				if err == nil {
					_, err = discard(db.PgConn().Exec(ctx, "select 1"))
				}
				mu.Lock()
				if db != nil {
					open = append(open, db)
				}
				if err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return open, errors.Join(errs...)
}
