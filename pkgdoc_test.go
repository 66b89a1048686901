package exhibit_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A package's comment says what flows in and what flows out. Two of them
// contradict each other sooner or later, so there is exactly one.
func TestOnePackageComment(t *testing.T) {
	comments := make(map[string][]string) // folder to the files that hold one
	for _, file := range tree(t) {
		dir := filepath.Dir(file)
		if !strings.HasSuffix(file, ".go") || strings.Contains(file, "testdata/") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		if strings.HasSuffix(f.Name.Name, "_test") && hasCode(t, dir) {
			continue
		}
		if _, ok := comments[dir]; !ok {
			comments[dir] = nil
		}
		if f.Doc != nil && f.Doc.Text() != "" {
			comments[dir] = append(comments[dir], file)
			checkComment(t, file, f)
		}
	}
	for dir, files := range comments {
		switch len(files) {
		case 0:
			t.Errorf("%s: no package comment.\nhint: say in a few lines what flows in and what flows out", dir)
		case 1:
		default:
			slices.Sort(files)
			t.Errorf("%s: %d package comments (%s); keep one", dir, len(files), strings.Join(files, ", "))
		}
	}
}

// checkComment holds a comment to Go's own form, by which the tools find it.
func checkComment(t *testing.T, file string, f *ast.File) {
	want := "Package " + f.Name.Name + " "
	if f.Name.Name != "main" && !strings.HasPrefix(f.Doc.Text(), want) {
		t.Errorf("%s: the package comment begins with %q", file, want)
	}
}

// hasCode reports whether a folder has Go files besides tests.
func hasCode(t *testing.T, dir string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool { return !strings.HasSuffix(f, "_test.go") })
}

// homePath is an absolute path into somebody's home: /home/NAME, /Users/NAME
// or root's own.
var homePath = regexp.MustCompile(`(?:^|[^A-Za-z0-9._/-])(?:/home/[a-z]|/Users/[A-Za-z]|/root/[A-Za-z.])`)

// What is committed works on every machine, so it names none.
func TestNoPathOfThisMachine(t *testing.T) {
	var here [][]byte
	if wd, err := os.Getwd(); err == nil && strings.Count(wd, "/") > 1 {
		here = append(here, []byte(wd))
	}
	if home, err := os.UserHomeDir(); err == nil && strings.Count(home, "/") > 1 {
		here = append(here, []byte(home))
	}
	for _, file := range tree(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(b, 0) >= 0 || file == "pkgdoc_test.go" {
			continue // binary, or this test
		}
		for i, line := range bytes.Split(b, []byte("\n")) {
			if homePath.Match(line) || slices.ContainsFunc(here, func(p []byte) bool { return bytes.Contains(line, p) }) {
				t.Errorf("%s:%d names a path of one machine: %.120s", file, i+1, bytes.TrimSpace(line))
			}
		}
	}
}

// tree is the regular files that are committed or about to be: those git
// tracks, or, in an unpacked release, those that are there.
func tree(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "-z").Output()
	if err != nil {
		return walk(t)
	}
	var files []string
	for file := range strings.SplitSeq(string(out), "\x00") {
		if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files
}

func walk(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		if err == nil && d.IsDir() && (path == "bin" || path == ".cache") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
