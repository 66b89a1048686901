package pgserver

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestAServerStartsAnswersAndEnds(t *testing.T) {
	for _, version := range []string{"", "18"} {
		t.Run("version "+version, func(t *testing.T) {
			startAnswerEnd(t, version)
		})
	}
}

// folder is one that PostgreSQL gets into: it runs as another user, whom
// t.TempDir keeps out.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgserver") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startAnswerEnd(t *testing.T, version string) {
	dir := folder(t)
	s, err := StartVersion(t.Context(), version, filepath.Join(dir, "pg"))
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.Version, version) {
		t.Errorf("asked for %s, this is %s", version, s.Version)
	}
	t.Setenv("EXHIBIT_PG", version)
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

// Where there is a folder for tools, clusters are copies of the first: equal at
// first, and each for itself from then on.
func TestClustersAreCopiesOfTheFirst(t *testing.T) {
	tools := t.TempDir()
	t.Setenv("EXHIBIT_TOOLS", tools)
	dir := folder(t)
	for i, damage := range []bool{false, false, true} {
		kept, err := filepath.Glob(filepath.Join(tools, "cluster-*", passwordFile))
		if err != nil || len(kept) != min(i, 1) {
			t.Fatalf("before server %d %v is kept, %v", i, kept, err)
		}
		if damage { // as by a copy that was interrupted
			if err := os.RemoveAll(kept[0]); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Start(t.Context(), filepath.Join(dir, strconv.Itoa(i)))
		if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Exec(t.Context(), "postgres", "create table t (a int)"); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
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

// A port that is given away for another purpose meanwhile is one that outgoing
// connections use: no address is among those, and none comes twice.
func TestFreeAddressesStayFree(t *testing.T) {
	lowest := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if lowest, err = strconv.Atoi(strings.Fields(string(b))[0]); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for range 500 {
		addr, err := FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1024 || n >= lowest || seen[addr] {
			t.Errorf("%s is given (%v); outgoing connections use those from %d; before: %v", addr, err, lowest, seen[addr])
		}
		seen[addr] = true
	}
}
