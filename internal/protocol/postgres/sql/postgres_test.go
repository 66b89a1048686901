package sql

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/internal/pgserver"
)

// startPostgres starts a server of the test's own and returns how to reach it
// as its superuser.
func startPostgres(t *testing.T, settings ...string) string {
	t.Helper()
	return startPostgresOf(t, "", settings...)
}

// startPostgresOf starts one of a major version.
func startPostgresOf(t *testing.T, major string, settings ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "exhibit-sql") //nolint:usetesting // the server's user must get in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := pgserver.StartVersion(t.Context(), major, filepath.Join(dir, "postgres"), append(settings, "fsync=off", "log_statement=none")...)
	if errors.Is(err, pgserver.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s.URL("postgres")
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
