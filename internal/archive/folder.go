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

// ErrAway means that the directory, or the disk that is mounted on it, is not
// where it was. An archive that is put back is found again.
var ErrAway = errors.New("the archive is not where it was")

// Folder is an archive in a directory. Several processes may share it. Names are
// slash-separated paths as of io/fs, without elements that begin with a dot.
type Folder struct {
	path string // where it is

	mu    sync.Mutex
	place        // what was there last
	kept  string // name of an object that is in it; "" while none is known
}

// place is a directory that is an archive.
type place struct {
	root *os.Root  // keeps names, also by way of links, inside
	dirs *sync.Map // directories below it that are known to be durable
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
	f := &Folder{path: path, place: place{root, new(sync.Map)}}
	if err := removeTemporaries(root); err != nil {
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
func (f *Folder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.root.Close()
}

// at returns the directory, which must be the one at the path: what was moved or
// unmounted would take objects that nobody finds again. Another one there is
// the archive that was put back if it has what was kept last, and a mount point
// without its disk otherwise.
func (f *Folder) at() (place, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	there, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.place, fmt.Errorf("%w: there is no %s; put it back", ErrAway, f.path)
	}
	if err != nil {
		return f.place, err
	}
	if opened, err := f.root.Stat("."); err != nil || os.SameFile(opened, there) {
		return f.place, err
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return f.place, err
	}
	if _, err := root.Stat(filepath.FromSlash(f.kept)); f.kept != "" && err != nil {
		return f.place, errors.Join(fmt.Errorf("%w: the folder at %s is another one and lacks %s; put back the one that has it, or mount its disk", ErrAway, f.path, f.kept), root.Close())
	}
	before := f.root
	f.place = place{root, new(sync.Map)}
	return f.place, before.Close() // who is reading there gets an error, and may ask again
}

// keeps notes that an object is here: one that was put, or the first that was
// fetched.
func (f *Folder) keeps(name string, put bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if put || f.kept == "" {
		f.kept = name
	}
}

// FS is the archive as a file system. Temporary files of Puts that are under way
// or were interrupted show in its root, with names that begin with a dot.
func (f *Folder) FS() fs.FS { return files{f} }

type files struct{ *Folder }

// Open implements fs.FS.
func (f files) Open(name string) (fs.File, error) {
	p, err := f.at()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return p.root.FS().Open(name)
}

// Get returns what is kept under name, or an fs.ErrNotExist.
func (f *Folder) Get(ctx context.Context, name string) ([]byte, error) {
	err := errors.Join(ctx.Err(), checkName(name))
	var p place
	if err == nil {
		p, err = f.at()
	}
	if err == nil {
		var b []byte
		if b, err = p.root.ReadFile(filepath.FromSlash(name)); err == nil {
			f.keeps(name, false)
			return b, nil
		}
	}
	return nil, fmt.Errorf("fetching %s from the archive: %w", name, err)
}

// Put keeps data under name. When it returns nil the object survives power loss.
// The same bytes again are fine; others are ErrExists.
func (f *Folder) Put(ctx context.Context, name string, data []byte) error {
	err := errors.Join(ctx.Err(), checkName(name))
	for put := (place{}); err == nil; {
		var p place
		if p, err = f.at(); err != nil {
			break
		}
		if p == put { // it is still there
			f.keeps(name, true)
			return nil
		}
		put, err = p, p.put(filepath.FromSlash(name), data)
	}
	return fmt.Errorf("archiving %s: %w", name, err)
}

// Remove deletes objects for good; those that aren't there are fine. When it
// returns nil they don't come back after power loss. Nothing of it is undone
// when it fails half-way.
func (f *Folder) Remove(ctx context.Context, names ...string) error {
	p, err := f.at()
	dirs := make(map[string]bool)
	for _, name := range names {
		if err == nil {
			err = errors.Join(ctx.Err(), checkName(name))
		}
		if err != nil {
			break
		}
		f.forget(name)
		path := filepath.FromSlash(name)
		switch err = p.root.Remove(path); {
		case errors.Is(err, fs.ErrNotExist): // perhaps by a Remove that was interrupted
			if err = nil; !p.has(filepath.Dir(path)) {
				continue
			}
			fallthrough
		case err == nil:
			dirs[filepath.Dir(path)] = true
		}
	}
	for dir := range dirs {
		err = errors.Join(err, p.sync(dir))
	}
	if err != nil {
		return fmt.Errorf("removing from the archive: %w", err)
	}
	return nil
}

func (p place) has(dir string) bool {
	_, err := p.root.Stat(dir)
	return err == nil
}

// forget takes a name that goes for no sign of the archive any more.
func (f *Folder) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == name {
		f.kept = ""
	}
}

func (p place) put(name string, data []byte) error {
	dir := filepath.Dir(name)
	if err := p.makeDirs(dir); err != nil {
		return err
	}
	if err := p.same(name, data); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := p.writeTemporary(data)
	if err == nil {
		err = p.root.Link(tmp, name) // fails where a rename would replace what is there
	}
	if rerr := p.root.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if errors.Is(err, fs.ErrExist) {
		return p.same(name, data)
	}
	if err != nil {
		return err
	}
	return p.sync(dir)
}

// writeTemporary writes data to a new file, durably. Its name is returned also
// with an error.
func (p place) writeTemporary(data []byte) (string, error) {
	name := temporary + rand.Text()
	file, err := p.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
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
func (p place) same(name string, data []byte) error {
	had, err := p.root.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(had, data) {
		return ErrExists
	}
	return errors.Join(p.sync(name), p.sync(filepath.Dir(name)))
}

// makeDirs makes dir and its missing parents below the root, each durable in its
// own parent. One that is there may come from an interrupted Put and is synced
// as well, once.
func (p place) makeDirs(dir string) error {
	if _, made := p.dirs.Load(dir); made || dir == "." {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := p.makeDirs(parent); err != nil {
		return err
	}
	if err := p.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := p.sync(parent); err != nil {
		return err
	}
	p.dirs.Store(dir, true)
	return nil
}

func (p place) sync(name string) error { return syncDir(p.root.Open(name)) }

func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") {
		return fmt.Errorf("%w name of an archived object: %q", fs.ErrInvalid, name)
	}
	return nil
}

// removeTemporaries removes what Puts left behind that were interrupted long ago.
func removeTemporaries(root *os.Root) error {
	d, err := root.Open(".")
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
			errs = append(errs, root.Remove(e.Name()))
		}
	}
	return errors.Join(errs...)
}
