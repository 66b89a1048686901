package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// withBob is a second person, who has no account here, in a world where one
// person may do everything.
func withBob(c string) string {
	return strings.Replace(c, "\n  # - {id: bob@example.com, uids: [1001], groups: [dba]}", "\n  - {id: bob@example.com}", 1)
}

// The owner of an agent leaves: its session ends within a second, it is refused,
// and goes on once somebody else answers for it.
func TestAccessEndsWhenTheOwnerLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withBob)
	c := w.connect()
	if _, err := c.Exec(t.Context(), "select 1"); err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		w.ok(os.WriteFile(w.path(name), []byte(text), 0o600))
		return w.path(name)
	}
	yesterday := time.Now().Add(-2 * time.Hour).UTC().Format(time.RFC3339)
	people := file("people.csv", "email,name,left_at\nALICE@example.com,Alice,"+yesterday+"\nbob@example.com,Bob,\nmallory@example.com,Mallory,\n")
	url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = c.Exec(t.Context(), "select pg_sleep(60)")
		ended <- time.Now()
	}()
	time.Sleep(300 * time.Millisecond) // so that it is upstream
	if out, err := w.exhibit("import", "people", people, "--source", "HR"); err == nil || !strings.Contains(out, `there is no column "id"`) {
		t.Errorf("without the name of the column: %v\n%s", err, out)
	}
	out := w.must("import", "people", people, "--source", "HR", "--query", "all workers", "--column-id", "email")
	told := time.Now()
	if !strings.Contains(out, "alice@example.com left "+yesterday+". Suspended: bot, idle") || !strings.Contains(out, "3 rows of people (2 kept)") {
		t.Errorf("the import says\n%s", out)
	}
	select {
	case at := <-ended:
		if late := at.Sub(told); late > time.Second {
			t.Errorf("its session ended %v after the import", late)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("its session goes on")
	}
	if out, err := w.exhibit("token", "bot", "--key", w.path("bot.key")); err == nil {
		t.Errorf("a suspended agent gets a token:\n%s", out)
	}
	cmd := exec.CommandContext(t.Context(), "psql", "-X", url, "-c", "select 1")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a suspended agent is let in by the token that it has:\n%s", out)
	}
	w.must("agent", "owner", "bot", "--owner", "bob@example.com", "--reason", "Alice left")
	if out, err := w.psql("-c", "select 1"); err != nil {
		t.Errorf("with another owner: %v\n%s", err, out)
	}
	report, err := w.pack()
	if err != nil || !strings.Contains(report, "import.people") {
		t.Errorf("the pack: %v\n%s", err, report)
	}
	w.until(time.Second, "nothing of a stranger is kept", func() bool {
		out, _ := w.run("unzip", "-p", w.packed)
		return !strings.Contains(out, "mallory")
	})
}
