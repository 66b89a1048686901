// Package policy turns a folder of Cedar files into a bundle.
//
// A folder flows in with the vocabulary of the gateway's protocols; the body of
// a policy.change record flows out, or everything that is wrong with the folder
// at once. What a bundle means is decided in package decision: this one reads,
// checks names and types, runs the tests that stand beside policies, compares
// and, for a new gateway, writes an example set.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/examples/guardrails"
	"github.com/exhibit-gateway/exhibit/examples/policies"
)

// Load reads the .cedar files of a folder, compiles and checks them, and returns
// the body of the record that puts them in force: Digest, Files and Actions are
// set. Its error joins a *decision.LoadError for each thing wrong; Problems takes
// it apart.
func Load(dir string, v Vocabulary) (evidence.PolicyBody, error) {
	// os.DirFS would follow a link to a folder elsewhere just as well; mounted
	// configuration consists of such links.
	return LoadFS(os.DirFS(dir), dir, v)
}

// LoadFS is Load of a file system, which errors call name.
func LoadFS(fsys fs.FS, name string, v Vocabulary) (evidence.PolicyBody, error) {
	files, err := filesOf(fsys, name)
	if err != nil {
		return evidence.PolicyBody{}, err
	}
	return Bundle(files, v)
}

func filesOf(fsys fs.FS, name string) ([]evidence.File, error) {
	names, err := list(fsys, name)
	if err != nil {
		return nil, err
	}
	var files []evidence.File
	total := 0
	for _, n := range names {
		text, err := read(fsys, n)
		if err != nil {
			return nil, fmt.Errorf("reading policy %s: %w", path.Join(name, n), err)
		}
		if total += len(text); total > decision.MaxBundle {
			return nil, fmt.Errorf("policies in %s exceed %d bytes", name, decision.MaxBundle)
		}
		files = append(files, evidence.File{Name: n, Text: text})
	}
	return files, nil
}

// Folder loads one folder again and again, and compiles only what has changed.
type Folder struct {
	dir   string
	words Vocabulary

	mu    sync.Mutex
	files []evidence.File // of the last load
	body  evidence.PolicyBody
	err   error
}

// NewFolder returns a folder that nobody has looked into yet.
func NewFolder(dir string, v Vocabulary) *Folder { return &Folder{dir: dir, words: v} }

// Load is Load of the folder.
func (f *Folder) Load() (evidence.PolicyBody, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := filesOf(os.DirFS(f.dir), f.dir)
	if err != nil {
		return evidence.PolicyBody{}, err
	}
	if f.files == nil || !slices.Equal(files, f.files) {
		f.files = files
		f.body, f.err = Bundle(files, f.words)
	}
	return f.body, f.err
}

// Bundle is Load of files that were read already.
func Bundle(files []evidence.File, v Vocabulary) (evidence.PolicyBody, error) {
	if _, err := decision.Compile(files, v.Actions); err != nil {
		return evidence.PolicyBody{}, err
	}
	if err := Check(files, v); err != nil {
		return evidence.PolicyBody{}, err
	}
	return evidence.PolicyBody{Digest: decision.Digest(files, v.Actions), Files: files, Actions: v.Actions}, nil
}

// list returns the names of the policy files, sorted. A folder within is an
// error: whoever put a forbid there believes it counts.
func list(fsys fs.FS, name string) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	var names []string
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "."): // editors' and mounts' own
		case e.IsDir():
			return nil, fmt.Errorf("reading policies: %s is a folder (hint: keep all policies in %s itself)", path.Join(name, e.Name()), name)
		case strings.HasSuffix(e.Name(), ".cedar"):
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("reading policies: %s has no .cedar files (hint: `exhibit init` writes an example set)", name)
	}
	slices.Sort(names)
	return names, nil
}

// read reads one file, and no more of it than a bundle may hold.
func read(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, decision.MaxFile+1))
	return string(b), err
}

// Problems returns what is wrong with a bundle, one by one, or nil when err is
// of another kind.
func Problems(err error) []*decision.LoadError {
	var one *decision.LoadError
	if !errors.As(err, &one) {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return append([]*decision.LoadError(nil), one)
	}
	var all []*decision.LoadError
	for _, e := range joined.Unwrap() {
		if errors.As(e, &one) {
			all = append(all, one)
		}
	}
	return all
}

// Diff returns what changed between two bundles as a unified diff, "" when
// nothing did. The action tree is diffed like a file.
func Diff(before, after evidence.PolicyBody) string {
	old, now := texts(before), texts(after)
	var names []string
	for n := range old {
		names = append(names, n)
	}
	for n := range now {
		if _, both := old[n]; !both {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var out bytes.Buffer
	for _, n := range names {
		a, b := "a/"+n, "b/"+n
		if _, there := old[n]; !there {
			a = "/dev/null"
		}
		if _, there := now[n]; !there {
			b = "/dev/null"
		}
		out.Write(diff.Diff(a, []byte(old[n]), b, []byte(now[n])))
	}
	return out.String()
}

// actionsFile is what the action tree is called in a diff. No file of a bundle
// is called so, since theirs end in .cedar.
const actionsFile = "actions"

func texts(b evidence.PolicyBody) map[string]string {
	m := make(map[string]string, len(b.Files)+1)
	for _, f := range b.Files {
		m[f.Name] = f.Text
	}
	var lines []string
	for action, in := range b.Actions {
		lines = append(lines, action+" in "+strings.Join(in, ", ")+"\n")
	}
	if len(lines) > 0 {
		slices.Sort(lines)
		m[actionsFile] = strings.Join(lines, "")
	}
	return m
}

// Example is the example role set: reader, writer, migrator and admin, with
// guardrails. It asks for little, so that the first hour goes well.
func Example() fs.FS { return policies.Files }

// Guardrails is the example set for production: with approvals, limits, hours
// and alerts.
func Guardrails() fs.FS { return guardrails.Files }

// WriteExample writes an example set with its tests into dir, which it makes if
// need be. It never overwrites a file.
func WriteExample(dir string, set fs.FS) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the policy folder: %w", err)
	}
	files, err := fs.ReadDir(set, ".")
	if err != nil {
		return fmt.Errorf("reading the example policies: %w", err)
	}
	for _, f := range files {
		text, err := fs.ReadFile(set, f.Name())
		if err != nil {
			return fmt.Errorf("reading the example policy %s: %w", f.Name(), err)
		}
		if err := create(filepath.Join(dir, f.Name()), text); err != nil {
			return fmt.Errorf("writing the example policy: %w", err)
		}
	}
	return nil
}

func create(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
