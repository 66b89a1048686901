package archive

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

const block = "blocks/x001/234.block"

func open(t *testing.T, dir string) *Folder {
	t.Helper()
	f, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestPutIsForGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f := open(t, dir)
	ctx := t.Context()
	if _, err := f.Get(ctx, block); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get before Put: %v, want fs.ErrNotExist", err)
	}
	for _, f := range []*Folder{f, f, open(t, dir)} {
		if err := f.Put(ctx, block, []byte("content")); err != nil {
			t.Fatal(err)
		}
		if err := f.Put(ctx, block, []byte("other")); !errors.Is(err, ErrExists) {
			t.Errorf("Put of other bytes: %v, want ErrExists", err)
		}
		if b, err := f.Get(ctx, block); err != nil || string(b) != "content" {
			t.Errorf("Get: %q, %v", b, err)
		}
	}
	if err := f.Put(ctx, "empty", nil); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(f.FS(), block, "empty"); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v (%v), want blocks and empty", entries, err)
	}
}

func TestPutsOfOneNameCannotBothWin(t *testing.T) {
	f := open(t, t.TempDir())
	var wg sync.WaitGroup
	won := make(chan byte, 8)
	for c := range byte(8) {
		wg.Go(func() {
			err := f.Put(t.Context(), block, bytes.Repeat([]byte{c}, 1<<16))
			if err == nil {
				won <- c
			} else if !errors.Is(err, ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d Puts of different bytes succeeded", len(won))
	}
	if b, err := f.Get(t.Context(), block); err != nil || b[0] != <-won {
		t.Errorf("kept %v, %v", b[0], err)
	}
}

func TestNamesStayInside(t *testing.T) {
	dir := t.TempDir()
	f := open(t, filepath.Join(dir, "archive"))
	for _, name := range []string{"", ".", "..", "../x", "/x", "a//b", "a/../b", ".tmp-x", "a/.b"} {
		if err := f.Put(t.Context(), name, []byte("x")); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Put(%q): %v, want fs.ErrInvalid", name, err)
		}
		if _, err := f.Get(t.Context(), name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Get(%q): %v, want fs.ErrInvalid", name, err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(dir, "archive", "out")); err != nil {
		t.Fatal(err)
	}
	if err := f.Put(t.Context(), "out/x", []byte("x")); err == nil {
		t.Error("Put went through a link out of the archive")
	}
}

func TestAbandonedTemporariesGo(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".tmp-old": 2 * abandoned, ".tmp-new": 0, "kept": 2 * abandoned} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o400); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
	for name, want := range map[string]bool{".tmp-old": false, ".tmp-new": true, "kept": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v, want kept: %v", name, err, want)
		}
	}
}

func TestPutFailsWhole(t *testing.T) {
	f := open(t, t.TempDir())
	if err := f.Put(t.Context(), "file", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := f.Put(t.Context(), "file/below", []byte("x")); err == nil {
		t.Error("an object was put below another")
	}
	if _, err := f.Get(t.Context(), "file/below"); err == nil {
		t.Error("it can be fetched")
	}
}

// An archive that is moved away takes nothing, wherever it is now, and takes
// more once it is back. What lies in its place meanwhile isn't taken for it.
func TestAnArchiveThatIsAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	f := open(t, dir)
	ctx := t.Context()
	if err := f.Put(ctx, "blocks/1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	away := func(what string) {
		t.Helper()
		_, got := f.Get(ctx, "blocks/1")
		_, read := fs.ReadFile(f.FS(), "blocks/1")
		for verb, err := range map[string]error{"Put": f.Put(ctx, "blocks/2", []byte("two")), "Get": got, "FS": read} {
			if !errors.Is(err, ErrAway) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s: %v, want ErrAway", what, verb, err)
			}
		}
	}
	move(dir, dir+".moved")
	away("moved")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	away("an empty folder in its place")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	// A copy is as good as the folder itself, also where directories are new.
	if err := os.CopyFS(dir, os.DirFS(dir+".moved")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blocks/2", "blocks/2", "more/3"} {
		if err := f.Put(ctx, name, []byte("two")); err != nil {
			t.Errorf("back again: %v", err)
		}
	}
	for name, want := range map[string]string{"blocks/1": "one", "blocks/2": "two", "more/3": "two"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	// One that lacks what was kept last is an old copy.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	move(dir+".moved", dir)
	away("an older copy")
}

// What is removed is gone, also by a second Remove, and everything else stays.
func TestRemove(t *testing.T) {
	f := open(t, t.TempDir())
	for _, name := range []string{"blocks/000.block", "blocks/001.block", "blocks/x001/000.block"} {
		if err := f.Put(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := f.Remove(t.Context(), "blocks/001.block", "blocks/x001/000.block", "blocks/x002/000.block"); err != nil {
			t.Fatal(err)
		}
	}
	for name, there := range map[string]bool{"blocks/000.block": true, "blocks/001.block": false, "blocks/x001/000.block": false} {
		if _, err := f.Get(t.Context(), name); there != (err == nil) || !there && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Remove(t.Context(), "../journal"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("outside: %v", err)
	}
}
