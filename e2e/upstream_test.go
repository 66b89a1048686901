package e2e

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestAServerThatCrashes kills a process of the server in the middle of a
// statement, which takes all of its sessions down while it recovers. Nobody is
// told of success, what nobody saw the end of is in doubt, the block is on
// record as rolled back, and the gateway goes on.
func TestAServerThatCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alone, block, stream := w.connect(), w.connect(), w.connect()
	_, err := block.Exec(t.Context(), "begin")
	w.ok(err)
	_, err = block.Exec(t.Context(), "insert into t values (602, 'block')")
	w.ok(err)
	var agents sync.WaitGroup
	fails := func(what string, run func() error) {
		agents.Go(func() {
			if err := run(); err == nil {
				t.Errorf("%s ended well", what)
			}
		})
	}
	fails("a write by itself", func() error {
		_, err := alone.Exec(t.Context(), "insert into t values (601, 'alone') returning pg_sleep(60)")
		return err
	})
	streaming := make(chan struct{})
	fails("a long result", func() error {
		rows, err := stream.Query(t.Context(), "select generate_series(1, 100000000)")
		if err != nil {
			return err
		}
		defer rows.Close()
		for n := 0; rows.Next(); n++ {
			if n == 1000 {
				close(streaming)
			}
		}
		return rows.Err()
	})
	<-streaming
	var pid int
	w.until(60*time.Second, "the write runs", func() bool {
		pid = w.count("select coalesce(max(pid), 0) from pg_stat_activity where state = 'active' and query like 'insert into t values (601%'")
		return pid != 0
	})
	w.ok(syscall.Kill(pid, syscall.SIGKILL))
	agents.Wait()
	fails("a command in the block", func() error { _, err := block.Exec(t.Context(), "select 1"); return err })
	agents.Wait()

	w.until(60*time.Second, "the server is back and agents with it", func() bool {
		c, err := pgx.Connect(t.Context(), w.url("bot", "sslmode=disable", "--ticket", "T-1"))
		if err != nil {
			return false
		}
		defer c.Close(context.Background())
		return c.Ping(t.Context()) == nil
	})
	w.passes()
	for _, c := range w.table("commands") {
		if c["path"] == "prepare" {
			continue
		}
		lost := strings.Contains(c["text"], "pg_sleep") || strings.Contains(c["text"], "generate_series")
		if got := c["outcome"]; lost && got != "in_doubt" || !lost && got == "in_doubt" {
			t.Errorf("%s: %s", c["text"], got)
		}
	}
	ends := w.table("transactions")
	if len(ends) != 1 || ends[0]["result"] != "rollback" || ends[0]["commands"] != strconv.Itoa(2) {
		t.Errorf("the ends of transactions: %v", ends)
	}
	if n := w.count("select count(*) from t where id > 600"); n != 0 {
		t.Errorf("%d rows are there", n)
	}
	if sessions := w.must("sessions"); strings.Contains(sessions, "bot") {
		t.Errorf("sessions are open:\n%s", sessions)
	}
}
