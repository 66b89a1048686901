package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestWhatWasAllowedThenIsAnsweredLater(t *testing.T) {
	w := newWorld(t)
	id := w.grant("idle", "reader")
	w.must("grant", "revoke", id, "--reason", "test")
	before := time.Now().UTC().Format(time.RFC3339Nano)
	rows := func(args ...string) int {
		t.Helper()
		var table struct{ Rows [][]string }
		w.ok(json.Unmarshal([]byte(w.must(append([]string{"allowed", "idle", "--json"}, args...)...)), &table))
		return len(table.Rows)
	}
	if n := rows(); n != 0 {
		t.Errorf("%d rights now, after the revocation", n)
	}
	if n := rows("--at", id); n == 0 {
		t.Error("no rights at the position of the grant")
	}
	w.grant("idle", "reader")
	if n := rows(); n == 0 {
		t.Error("no rights after a new grant")
	}
	if n := rows("--at", before); n != 0 {
		t.Errorf("%d rights at a time without a grant", n)
	}
	// A crash and a restart change no answer: they are folds over the log.
	w.stop(9)
	w.start()
	if n := rows("--at", id); n == 0 {
		t.Error("the answer about the past has changed")
	}
}

// An auditor who kept a checkpoint sees whether history before it was kept.
func TestTwoVisitsOfAnAuditor(t *testing.T) {
	w := newWorld(t)
	_, err := w.psql("-c", "select 1")
	w.ok(err)
	visit := func() (string, error) {
		t.Helper()
		name := w.path("visit-" + time.Now().Format("150405.000000") + ".zip")
		w.must("pack", "create", "--from", "2020-01-01", "--to", "2100-01-01", "-o", name)
		out, err := exec.CommandContext(t.Context(), exhibitVerify, name, "--trust", w.path("trust.json"), "--remember").CombinedOutput()
		return string(out), err
	}
	if out, err := visit(); err != nil || !strings.Contains(out, "operator-only") {
		t.Fatalf("the first visit: %v\n%s", err, out)
	}
	_, err = w.psql("-c", "select 2")
	w.ok(err)
	if out, err := visit(); err != nil || !strings.Contains(out, "log.known") {
		t.Fatalf("the second visit: %v\n%s", err, out)
	}
	// Somebody begins the log anew, with the same key.
	w.stop(15)
	for _, dir := range []string{"log", "archive", "journal", "keys"} {
		w.ok(os.RemoveAll(w.path("data/" + dir)))
	}
	w.start()
	out, err := visit()
	if err == nil || !strings.HasPrefix(out, "FAIL") || !strings.Contains(out, "log.known") {
		t.Errorf("a log begun anew: %v\n%s", err, out)
	}
}
