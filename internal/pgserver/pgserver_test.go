package pgserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAServerStartsAnswersAndEnds(t *testing.T) {
	for _, version := range []string{"", "18"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Setenv("EXHIBIT_PG", version)
			startAnswerEnd(t, version)
		})
	}
}

func startAnswerEnd(t *testing.T, version string) {
	dir, err := os.MkdirTemp("", "pgserver") //nolint:usetesting // PostgreSQL runs as another user, whom t.TempDir keeps out
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // postgres runs as another user
		t.Fatal(err)
	}
	s, err := Start(t.Context(), filepath.Join(dir, "pg"))
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.Version, version) {
		t.Errorf("asked for %s, this is %s", version, s.Version)
	}
	if major, err := Major(t.Context()); err != nil || !strings.HasPrefix(s.Version, major+".") {
		t.Errorf("the major version of %s is %q, %v", s.Version, major, err)
	}
	if err := s.Exec(t.Context(), "postgres", "create table t (a int)", "insert into t values (1)"); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.Log)
	if err != nil || !strings.Contains(string(log), "insert into t values (1)") {
		t.Errorf("the server's log lacks the statement (%v)", err)
	}
}

func TestAVersionThatIsNotThereIsMissing(t *testing.T) {
	t.Setenv("EXHIBIT_PG", "7")
	if programs, err := Programs(); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "EXHIBIT_PG7") {
		t.Errorf("found %q, %v", programs, err)
	}
	t.Setenv("EXHIBIT_PG7", "/opt/seven")
	if programs, err := Programs(); err != nil || programs != "/opt/seven" {
		t.Errorf("found %q, %v", programs, err)
	}
}
