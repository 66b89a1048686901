// Package archive keeps objects for good: immutable bytes go in under a name,
// durable once Put returns, and come out again by that name. Folder does it with
// a directory.
package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ErrExists means that other bytes are kept under that name already.
var ErrExists = errors.New("other content is already archived under this name")

// Folder is an archive in a directory. Several processes may share it. Names are
// slash-separated paths as of io/fs, without elements that begin with a dot.
type Folder struct {
	root *os.Root // keeps names, also by way of links, inside
	dirs sync.Map // directories that are known to be durable
}

const (
	temporary = ".tmp-"
	abandoned = time.Hour // age at which a temporary file is nobody's any more
)

// OpenFolder opens the archive in dir, making it when it is missing.
func OpenFolder(dir string) (*Folder, error) {
	path, err := filepath.Abs(dir)
	if err == nil {
		err = makeDirs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening archive: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening archive: %w", err)
	}
	f := &Folder{root: root}
	if err := f.removeTemporaries(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening archive: %w", err), root.Close())
	}
	return f, nil
}

// makeDirs makes dir and its missing parents, each durable in its own parent.
func makeDirs(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDirs(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(os.Open(parent))
}

func syncDir(d *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close lets go of the directory.
func (f *Folder) Close() error { return f.root.Close() }

// FS is the archive as a file system. Temporary files of Puts that are under way
// or were interrupted show in its root, with names that begin with a dot.
func (f *Folder) FS() fs.FS { return f.root.FS() }

// Get returns what is kept under name, or an fs.ErrNotExist.
func (f *Folder) Get(ctx context.Context, name string) ([]byte, error) {
	err := errors.Join(ctx.Err(), checkName(name))
	if err == nil {
		var b []byte
		if b, err = f.root.ReadFile(filepath.FromSlash(name)); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("fetching %s from the archive: %w", name, err)
}

// Put keeps data under name. When it returns nil the object survives power loss.
// The same bytes again are fine; others are ErrExists.
func (f *Folder) Put(ctx context.Context, name string, data []byte) error {
	err := errors.Join(ctx.Err(), checkName(name))
	if err == nil {
		err = f.put(filepath.FromSlash(name), data)
	}
	if err != nil {
		return fmt.Errorf("archiving %s: %w", name, err)
	}
	return nil
}

func (f *Folder) put(name string, data []byte) error {
	dir := filepath.Dir(name)
	if err := f.makeDirs(dir); err != nil {
		return err
	}
	if err := f.same(name, data); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := f.writeTemporary(data)
	if err == nil {
		err = f.root.Link(tmp, name) // fails where a rename would replace what is there
	}
	if rerr := f.root.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if errors.Is(err, fs.ErrExist) {
		return f.same(name, data)
	}
	if err != nil {
		return err
	}
	return f.sync(dir)
}

// writeTemporary writes data to a new file, durably. Its name is returned also
// with an error.
func (f *Folder) writeTemporary(data []byte) (string, error) {
	name := temporary + rand.Text()
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return name, err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return name, errors.Join(err, file.Close())
}

// same compares what is kept under name with data. It may come from a Put that
// was interrupted before it was durable, so it is synced like a new one.
func (f *Folder) same(name string, data []byte) error {
	had, err := f.root.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(had, data) {
		return ErrExists
	}
	return errors.Join(f.sync(name), f.sync(filepath.Dir(name)))
}

// makeDirs makes dir and its missing parents below the root, each durable in its
// own parent. One that is there may come from an interrupted Put and is synced
// as well, once.
func (f *Folder) makeDirs(dir string) error {
	if _, made := f.dirs.Load(dir); made || dir == "." {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := f.makeDirs(parent); err != nil {
		return err
	}
	if err := f.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := f.sync(parent); err != nil {
		return err
	}
	f.dirs.Store(dir, true)
	return nil
}

func (f *Folder) sync(name string) error { return syncDir(f.root.Open(name)) }

func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") {
		return fmt.Errorf("%w name of an archived object: %q", fs.ErrInvalid, name)
	}
	return nil
}

// removeTemporaries removes what Puts left behind that were interrupted long ago.
func (f *Folder) removeTemporaries() error {
	d, err := f.root.Open(".")
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	errs := []error{err, d.Close()}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), temporary) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			errs = append(errs, f.root.Remove(e.Name()))
		}
	}
	return errors.Join(errs...)
}
