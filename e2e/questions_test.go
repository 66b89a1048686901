package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestWhatWasAllowedThenIsAnsweredLater(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

// A session is followed as it happens, from what has been to its end, by one
// who is also told of what was refused, and reads as it did afterwards.
func TestASessionIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.connect()
	ctx := t.Context()
	var live []struct{ ID string }
	w.ok(json.Unmarshal([]byte(w.must("sessions", "--json")), &live))
	if len(live) != 1 {
		t.Fatalf("%d sessions are open", len(live))
	}
	run := func(wantCode, statement string) {
		t.Helper()
		if _, err := c.Exec(ctx, statement); sqlstate(err) != wantCode {
			t.Fatalf("%s: %v, want code %q", statement, err, wantCode)
		}
	}
	run("", "select 'before'")
	lines, ended := w.follow("did", live[0].ID, "--follow")
	await := func(want string) {
		t.Helper()
		for {
			select {
			case l, ok := <-lines:
				if !ok {
					t.Fatalf("it ended without %q", want)
				}
				if strings.Contains(l, want) {
					return
				}
			case <-time.After(60 * time.Second):
				t.Fatalf("waited in vain for %q", want)
			}
		}
	}
	await(live[0].ID + "  bot on orders")
	await("SELECT ?")
	run("42501", "drop table t")
	await("denied")
	await("postgres:drop")
	run("", "begin")
	await("BEGIN")
	run("", "insert into t values (1001, '"+literalSecret+"')")
	await("INSERT INTO t")
	run("", "rollback")
	await("ROLLBACK")
	await("rolled back: 3 commands")
	// A command that takes long is told before it has ended.
	slow, cancel := context.WithCancel(ctx)
	defer cancel()
	sleeping := make(chan error, 1)
	go func() { _, err := c.Exec(slow, "select pg_sleep(60)"); sleeping <- err }()
	await("running")
	cancel()
	if err := <-sleeping; err == nil {
		t.Error("a command that was cancelled ended well")
	}
	await("ended")
	if err := <-ended; err != nil {
		t.Errorf("following ended with %v", err)
	}

	out := w.must("did", live[0].ID)
	for _, want := range []string{"owner      alice@example.com", "ticket T-1", "process ", "ended ", "1 refused", "denied ", "INSERT INTO t"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if want := regexp.MustCompile(`(?m)^\+ .* BEGIN .*\n\| .* INSERT INTO t .*\n\| .* ROLLBACK .*\n\+ rolled back: 3 commands$`); !want.MatchString(out) {
		t.Errorf("no bracket around the block in\n%s", out)
	}
	undone := 0
	for _, c := range w.did(live[0].ID) {
		if c.Tx != "" && c.TxResult == "rollback" {
			undone++
		}
	}
	if undone != 3 {
		t.Errorf("%d commands of a block that was rolled back", undone)
	}
	if strings.Contains(out, literalSecret) {
		t.Errorf("a constant is shown:\n%s", out)
	}
	denied := w.did("--agent", "bot", "--denied")
	if len(denied) != 1 || denied[0].Outcome != "denied" || !strings.Contains(denied[0].Text, "DROP TABLE") {
		t.Fatalf("what was refused: %+v", denied)
	}
	// Any record of a session leads to it.
	if again := w.must("did", denied[0].ID); again != out {
		t.Errorf("by one of its records the session is\n%s\nand not\n%s", again, out)
	}
	if out, err := w.exhibit("did", "gw1.1.0"); err == nil || !strings.Contains(out, "belongs to no session") {
		t.Errorf("a record of no session: %v\n%s", err, out)
	}
	if out, err := w.exhibit("did", "gw1.9.9"); err == nil || !strings.Contains(out, "no record gw1.9.9") {
		t.Errorf("a record that isn't: %v\n%s", err, out)
	}
}

// Who follows an agent is told of its next session too, and that the gateway
// stops.
func TestAnAgentIsFollowedUntilTheGatewayStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lines, ended := w.follow("did", "--agent", "bot", "--follow", "--json")
	w.until(60*time.Second, "it is followed", func() bool {
		_, err := w.psql("-c", "select 1")
		w.ok(err)
		select {
		case l := <-lines:
			var e struct{ Session, Agent string }
			w.ok(json.Unmarshal([]byte(l), &e))
			return e.Agent == "bot" && e.Session != ""
		case <-time.After(time.Second):
			return false
		}
	})
	began := time.Now()
	w.stop(15)
	for range lines { //nolint:revive // what is left
	}
	if err := <-ended; err == nil {
		t.Error("following ended well though the gateway stopped")
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("a follower held the gateway up for %v", took)
	}
	w.start()
	w.passes()
}

// follow runs a verb that goes on, and returns its lines and how it ends.
func (w *world) follow(args ...string) (lines chan string, ended chan error) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), exhibit, args...)
	cmd.Env = append(os.Environ(), "EXHIBIT_SOCKET="+w.path("data/admin.sock"))
	out, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	w.ok(cmd.Start())
	lines, ended = make(chan string, 1000), make(chan error, 1)
	go func() { err := cmd.Wait(); _ = write.Close(); ended <- err }()
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines, ended
}
