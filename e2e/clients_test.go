package e2e

import (
	"os"
	"testing"
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
