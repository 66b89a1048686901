package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// directory and file are what the journal asks of the file system.
type directory interface {
	list() ([]string, error)
	create(name string) (file, error)
	open(name string) (file, int64, error) // with its size
	rename(from, to string) error          // lasting once sync returns
	remove(name string) error
	sync() error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error               // of data and of what is needed to read it
	Allocate(size int64) error // gives the file that size and the space for it; new bytes are zero
}

type osDirectory struct{ path string }

func openDirectory(path string) (directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	// The entry must outlast a crash as the files in it do.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return osDirectory{path}, nil
}

func (d osDirectory) list() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d osDirectory) create(name string) (file, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	unpredicted(f)
	return osFile{f}, nil
}

func (d osDirectory) open(name string) (file, int64, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w: not a file", f.Name(), fs.ErrInvalid), f.Close())
	}
	return osFile{f}, info.Size(), nil
}

func (d osDirectory) rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d osDirectory) remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }

func (d osDirectory) sync() error { return syncDir(d.path) }

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// osFile keeps its *os.File reachable: a finaliser that closes it would let the
// next open reuse a number that a sync is still using.
type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }

func (f osFile) Allocate(size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= size {
		return nil
	}
	err = allocate(f.File, info.Size(), size)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return writeZeros(f.File, info.Size(), size)
}

// writeZeros allocates where the file system cannot do it by itself.
func writeZeros(f io.WriterAt, from, to int64) error {
	zeros := make([]byte, 1<<20)
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
