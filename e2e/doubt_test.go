package e2e

import (
	"archive/zip"
	"encoding/csv"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// table reads a population of the newest pack.
func (w *world) table(name string) []map[string]string { return slices.Collect(w.rows(name)) }

// rows reads one, however long, row by row.
func (w *world) rows(name string) iter.Seq[map[string]string] {
	w.t.Helper()
	return func(yield func(map[string]string) bool) {
		w.t.Helper()
		z, err := zip.OpenReader(w.packed)
		w.ok(err)
		defer z.Close()
		f, err := z.Open("pop/" + name + ".csv")
		w.ok(err)
		defer f.Close()
		table := csv.NewReader(f)
		columns, err := table.Read()
		w.ok(err)
		for {
			cells, err := table.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			w.ok(err)
			row := make(map[string]string, len(cells))
			for i, c := range cells {
				row[columns[i]] = c
			}
			if !yield(row) {
				return
			}
		}
	}
}

// TestDoubtsOfACrashAreResolved kills the gateway while three commands run:
// one by itself, one in a block, and one that only reads. Of the first the
// server tells the transaction, the second can't have been committed, and the
// third changed nothing.
func TestDoubtsOfACrashAreResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alone, block, reader := w.connect(), w.connect(), w.connect()
	_, err := block.Exec(t.Context(), "begin")
	w.ok(err)
	running := func(c *pgx.Conn, text string) {
		go func() { _, _ = c.Exec(t.Context(), text) }() // killed in the middle
		w.until(60*time.Second, text+" runs", func() bool { return w.serverSaw(text) })
	}
	running(alone, "insert into t values (501, 'alone') returning pg_sleep(12)")
	running(block, "insert into t values (502, 'block') returning pg_sleep(12)")
	running(reader, "select count(*), pg_sleep(12) from t")
	w.stop(syscall.SIGKILL)
	w.start()

	resolved := map[string]string{}
	w.until(60*time.Second, "two commands are resolved", func() bool {
		w.passes()
		for _, r := range w.table("resolutions") {
			resolved[r["command_id"]] = r["result"] + ": " + r["how"]
		}
		return len(resolved) == 2
	})
	var got []string
	for _, d := range w.did("--agent", "bot") {
		if d.Outcome == "in_doubt" {
			got = append(got, d.Verb+" "+resolved[d.ID])
		}
	}
	slices.Sort(got)
	want := []string{
		"read ",
		"write committed: the server's own status of its transaction",
		"write rolled_back: its block was not committed, and the server rolls back the block of a client that has gone",
	}
	if !slices.Equal(got, want) {
		t.Errorf("in doubt and resolved:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	c := w.connect()
	found, err := c.Query(t.Context(), "select v from t where id > 500")
	w.ok(err)
	rows, err := pgx.CollectRows(found, pgx.RowTo[string])
	w.ok(err)
	if len(rows) != 1 || rows[0] != "alone" {
		t.Errorf("the server has %q", rows)
	}
}
