package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// ErrMissing means that this machine has no PostgreSQL server of the version
// that is asked for.
var ErrMissing = errors.New("no such PostgreSQL server is installed")

// Programs is the folder whose bin has initdb and postgres. EXHIBIT_PG chooses
// a major version; without it the newest wins that the system's packages have.
// EXHIBIT_PG18 says where version 18 is, and so on.
func Programs() (string, error) {
	if v := os.Getenv("EXHIBIT_PG"); v != "" {
		return ProgramsOf(v)
	}
	if found, newest := packaged("*"), 0; len(found) > 0 {
		var programs string
		for _, dir := range found {
			if v, _ := strconv.Atoi(filepath.Base(dir)); v >= newest {
				newest, programs = v, dir
			}
		}
		return programs, nil
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", fmt.Errorf("%w (Debian: apt-get install postgresql)", ErrMissing)
	}
	return filepath.Dir(filepath.Dir(initdb)), nil
}

// Major is the major version of the server that Start would start.
func Major(ctx context.Context) (string, error) {
	programs, err := Programs()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(programs, "bin", "initdb"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking initdb for its version: %w", err)
	}
	major := regexp.MustCompile(`\d+`).FindString(string(out)) // "initdb (PostgreSQL) 18.4"
	if major == "" {
		return "", fmt.Errorf("initdb calls its version %q", out)
	}
	return major, nil
}

// ProgramsOf is that folder for a major version, whatever EXHIBIT_PG says;
// without a version it is that of Programs.
func ProgramsOf(version string) (string, error) {
	if version == "" {
		return Programs()
	}
	if dir := os.Getenv("EXHIBIT_PG" + version); dir != "" {
		return dir, nil
	}
	if found := packaged(version); len(found) > 0 {
		return found[0], nil
	}
	tools, err := toolsDir()
	dir := filepath.Join(tools, "postgres-"+version)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "bin", "initdb"))
	}
	if err != nil {
		return "", fmt.Errorf("%w: PostgreSQL %s (scripts/setup.sh gets version 18 for x86-64 Linux; elsewhere let EXHIBIT_PG%s name the folder whose bin has initdb)", ErrMissing, version, version)
	}
	return dir, nil
}

// toolsDir is where scripts/tool.sh keeps what it has made.
func toolsDir() (string, error) {
	if tools := os.Getenv("EXHIBIT_TOOLS"); tools != "" {
		return tools, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "exhibit-tools"), err
}

// packaged are the servers of Debian's packages, which keep them out of PATH.
func packaged(version string) (dirs []string) {
	found, _ := filepath.Glob("/usr/lib/postgresql/" + version + "/bin/initdb")
	for _, initdb := range found {
		dirs = append(dirs, filepath.Dir(filepath.Dir(initdb)))
	}
	return dirs
}

// open reports whether every user gets into a folder. The cache of root is
// closed to the user that the server runs as.
func open(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
