package e2e

import (
	"os"
	"os/exec"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// anything is a policy that admits everything, also what isn't understood: what
// differs from a direct connection then is no refusal.
const anything = `@id("anything") permit (principal in Role::"anything", action, resource);`

// permitAnything lets bot do what it likes, with a superuser upstream:
// clients' own test suites expect one.
func (w *world) permitAnything() {
	w.t.Helper()
	w.ok(w.db.Exec(w.t.Context(), "postgres", "alter role app superuser"))
	w.ok(os.Remove(w.path("policies/guardrails.cedar")))
	w.ok(os.WriteFile(w.path("policies/anything.cedar"), []byte(anything), 0o644))
	w.must("reload")
	w.grant("bot", "anything")
}

// slow skips a test of the quick run.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow")
	}
}

// TestOnPostgreSQL18 is a working day with a newer server than the one that most
// systems have: some of the tests here, again.
func TestOnPostgreSQL18(t *testing.T) {
	slow(t)
	if os.Getenv("EXHIBIT_PG") != "" {
		t.Skip("not within itself")
	}
	t.Setenv("EXHIBIT_PG", "18")
	if _, err := pgserver.Programs(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=5m",
		"-test.run=^Test(OrdinaryClientsWork|ARefusalLeavesNothingBehind|ACancelReachesItsStatement|AReaderIntrospects|NodeClientsWork)$").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
