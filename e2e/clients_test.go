package e2e

import (
	"errors"
	"os"
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

// newer is the PostgreSQL that clients are tried with besides the system's.
const newer = "18"

// onEachServer runs a test with the system's PostgreSQL and with a newer one at
// once, each in a world of its own.
func onEachServer(t *testing.T, test func(t *testing.T, w *world), edit ...func(config string) string) {
	t.Helper()
	on(t, servers(t), test, edit...)
}

// onNewestServer is onEachServer for what takes minutes: without EXHIBIT_SLOW it
// is on the newest alone.
func onNewestServer(t *testing.T, test func(t *testing.T, w *world), edit ...func(config string) string) {
	t.Helper()
	all := servers(t)
	on(t, unlessSlow(all, all[len(all)-1]), test, edit...)
}

// onSystemsServer is that for what the system's PostgreSQL alone fits.
func onSystemsServer(t *testing.T, test func(t *testing.T, w *world), edit ...func(config string) string) {
	t.Helper()
	all := servers(t)
	on(t, unlessSlow(all, all[0]), test, edit...)
}

func unlessSlow(all []string, one string) []string {
	if os.Getenv("EXHIBIT_SLOW") != "" {
		return all
	}
	return []string{one}
}

func on(t *testing.T, majors []string, test func(t *testing.T, w *world), edit ...func(config string) string) {
	t.Helper()
	for _, major := range majors {
		t.Run("PostgreSQL "+major, func(t *testing.T) {
			t.Parallel()
			test(t, newWorldOn(t, major, edit...))
		})
	}
}

// servers are the major versions to be tried; EXHIBIT_PG chooses one.
func servers(t *testing.T) []string {
	t.Helper()
	major, err := pgserver.Major(t.Context())
	missing(t, err)
	if os.Getenv("EXHIBIT_PG") != "" || major == newer {
		return []string{major}
	}
	return []string{major, newer}
}

// missing fails a test, or skips it at home where no server is installed.
func missing(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, pgserver.ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
