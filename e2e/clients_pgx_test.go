package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Why tests of pgx end otherwise through the gateway than they do directly.
const (
	itsOwnUser    = "the agent's name is no user of the server: that sees the resource's account"
	itsOwnVersion = "the gateway speaks protocol 3.2 itself, which servers before PostgreSQL 18 don't"
	wholeGroups   = "the gateway forwards up to a Sync or Flush at once: a pause between Parse and Describe isn't one for the server"
)

// pgxDifferences are those tests.
var pgxDifferences = map[string]string{
	"pgx/v5.TestConnect":                                                        itsOwnUser,
	"pgx/v5/pgconn.TestConnectProtocolVersion32":                                itsOwnVersion,
	"pgx/v5.TestPrepareHandlesTimeoutBetweenParseAndDescribe":                   wholeGroups,
	"pgx/v5.TestPrepareWithDigestedNameHandlesTimeoutBetweenParseAndDescribe":   wholeGroups,
	"pgx/v5.TestSendBatchHandlesTimeoutBetweenParseAndDescribe":                 wholeGroups,
	"pgx/v5.TestSendBatchHandlesTimeoutBetweenParseAndDescribe/cache_statement": wholeGroups,
	"pgx/v5.TestSendBatchHandlesTimeoutBetweenParseAndDescribe/cache_describe":  wholeGroups,
	"pgx/v5.TestSendBatchHandlesTimeoutBetweenParseAndDescribe/describe_exec":   wholeGroups,
	"pgx/v5.TestSendBatchHandlesTimeoutBetweenParseAndDescribe/exec":            wholeGroups,
}

// pgxDifferencesOf are those before a server of some version.
func pgxDifferencesOf(major int) map[string]string {
	known := maps.Clone(pgxDifferences)
	if major >= 18 {
		maps.DeleteFunc(known, func(_, reason string) bool { return reason == itsOwnVersion })
	}
	return known
}

// TestPgxPassesItsOwnTests runs the tests that pgx's authors wrote, directly and
// through the gateway, and compares test by test. It leaves out what pgx calls
// slow, unless EXHIBIT_SLOW is set.
func TestPgxPassesItsOwnTests(t *testing.T) {
	t.Parallel()
	slow(t)
	onNewestServer(t, func(t *testing.T, w *world) {
		w.permitAnything()
		w.ok(w.db.Exec(t.Context(), "postgres", "create database direct"))
		w.ok(w.db.Exec(t.Context(), "orders", "drop table t"))
		for _, database := range []string{"direct", "orders"} {
			w.ok(w.db.Exec(t.Context(), database, "create extension hstore", "create extension ltree", "create domain uint64 as numeric(20,0)"))
		}
		direct := w.pgxTests(w.db.URL("direct"))
		through := w.pgxTests(w.url("bot", "sslmode=disable"))
		differences, passed := pgxDifferencesOf(w.major()), 0
		for _, name := range slices.Sorted(maps.Keys(direct)) {
			if direct[name].result == "pass" {
				passed++
			}
			reason, known := differences[name]
			switch same := direct[name].result == through[name].result; {
			case !same && !known:
				t.Errorf("%s: %s directly, %s through the gateway\n%s", name, direct[name].result, through[name].result, through[name].output)
			case same && known:
				t.Errorf("%s no longer differs: %s", name, reason)
			}
		}
		t.Logf("%d tests pass directly; %d of %d differ through the gateway", passed, len(differences), len(direct))
		if passed < 500 {
			t.Errorf("only %d tests pass directly", passed)
		}
	}, func(c string) string { // its pools are as many as tests that run at once
		return strings.Replace(c, "sessions_per_agent: 64", "sessions_per_agent: 256", 1)
	})
}

// outcome is how one test ended, and what it said.
type outcome struct{ result, output string }

// pgxTests runs pgx's tests in a database. Their packages come from the module
// cache, and what only they need isn't in this module's go.mod.
func (w *world) pgxTests(url string) map[string]outcome {
	w.t.Helper()
	for _, file := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile("../" + file)
		w.ok(err)
		w.ok(os.WriteFile(w.path("pgx."+strings.TrimPrefix(file, "go.")), b, 0o644))
	}
	const pgx = "github.com/jackc/pgx/v5"
	cmd := exec.CommandContext(w.t.Context(), "go", "test", "-modfile="+w.path("pgx.mod"), "-mod=mod", "-json", "-count=1", "-timeout=20m", "-vet=off", "-ldflags=-s -w",
		"-short="+strconv.FormatBool(os.Getenv("EXHIBIT_SLOW") == ""),
		pgx, pgx+"/pgconn", pgx+"/pgtype", pgx+"/pgtype/zeronull", pgx+"/pgxpool", pgx+"/stdlib", pgx+"/tracelog", pgx+"/multitracer")
	cmd.Env = append(os.Environ(), "PGX_TEST_DATABASE="+url, "PGX_TEST_TCP_CONN_STRING="+url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output() // that some fail is what is looked at
	ended := map[string]outcome{}
	for line := range bytes.Lines(out) {
		var event struct{ Action, Package, Test, Output string }
		w.ok(json.Unmarshal(line, &event))
		if event.Test == "" || strings.Contains(event.Test, os.TempDir()) { // a package, or a name that changes
			continue
		}
		name := strings.TrimPrefix(event.Package, "github.com/jackc/") + "." + event.Test
		o := ended[name]
		switch event.Action {
		case "output":
			o.output += event.Output
		case "pass", "fail", "skip":
			o.result = event.Action
		}
		ended[name] = o
	}
	if len(ended) < 500 {
		w.t.Fatalf("pgx has %d tests only:\n%s", len(ended), stderr.Bytes())
	}
	return ended
}
