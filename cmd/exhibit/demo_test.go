package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/demo"
)

// TestDemo plays the whole demo with the program itself: a real PostgreSQL,
// real clients, kill -9, pack and verifier.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("plays for several seconds")
	}
	for _, name := range []string{"psql", "pgbench", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skipf("%v (scripts/setup.sh installs it)", err)
		}
	}
	dir, err := os.MkdirTemp("", "exhibit-demo-test-") //nolint:usetesting // PostgreSQL runs as another user, whom t.TempDir keeps out
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "exhibit")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	var out bytes.Buffer
	if err := demo.Run(t.Context(), demo.Config{Program: program, Folder: filepath.Join(dir, "demo"), Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	for _, held := range []string{"in doubt", "the pack passes", "the verifier finds it", "Everything held"} {
		if !bytes.Contains(out.Bytes(), []byte(held)) {
			t.Errorf("the demo doesn't say %q", held)
		}
	}
}
