package e2e

import (
	"os"
	"strings"
	"testing"
)

// What pgbench says that it did is what the record says, to the command.
func TestPgbenchIsRecordedToTheCommand(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, w *world) {
		direct := "postgres://app:" + upstreamSecret + "@" + w.db.Addr + "/orders?sslmode=disable"
		if out, err := w.run("pgbench", "-i", "-q", direct); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		pipeline := w.path("pipeline.sql")
		w.ok(os.WriteFile(pipeline, []byte(`\set aid random(1, 1000)
\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid + 1;
\endpipeline
`), 0o644))
		url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
		reads, updates := 0, 0 // so far
		for _, run := range []struct {
			args           string
			reads, updates int // of a transaction
		}{
			{"-M simple", 1, 3},
			{"-M extended", 1, 3},
			{"-M prepared", 1, 3},
			{"-M simple -S -C", 1, 0},
			{"-M prepared -S -C", 1, 0},
			{"-M extended -N", 1, 1},
			{"-M extended -f " + pipeline, 2, 0},
			{"-M prepared -f " + pipeline, 2, 0},
		} {
			const transactions = 40
			args := append([]string{"pgbench", "-n", "-c", "4", "-t", "10"}, strings.Fields(run.args)...)
			out, err := w.run(append(args, url)...)
			if err != nil || !strings.Contains(out, "actually processed: 40/40") || !strings.Contains(out, "failed transactions: 0 ") {
				t.Errorf("%s: %v\n%s", run.args, err, out)
			}
			reads, updates = reads+transactions*run.reads, updates+transactions*run.updates
			gotReads, gotUpdates := 0, 0
			for _, d := range w.did("--agent", "bot") {
				switch {
				case d.Outcome != "ok" || d.Rows != "1": // a Parse yields no row
				case strings.HasPrefix(d.Text, "SELECT abalance"):
					gotReads++
				case strings.HasPrefix(d.Text, "UPDATE pgbench_"):
					gotUpdates++
				}
			}
			if gotReads != reads || gotUpdates != updates {
				t.Errorf("after %s: %d reads and %d updates are on record, pgbench made %d and %d", run.args, gotReads, gotUpdates, reads, updates)
			}
		}
		w.passes()
	})
}
