package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// memory is a directory whose crashes can be staged. It tells what was handed to
// it from what it was made to keep.
type memory struct {
	mu       sync.Mutex
	files    map[string]*memoryFile
	kept     map[string]*memoryFile // names as of the last sync
	capacity int64                  // bytes it has room for; 0 is endless
	calls    int
	// fault, when set, may fail a call before it has an effect. A write that
	// fails still stores as many bytes as it says.
	fault func(op, name string, call, size int) (int, error)
}

type memoryFile struct {
	d    *memory
	name string
	data []byte
	disk []byte // as of the last sync
}

func newMemory() *memory {
	return &memory{files: map[string]*memoryFile{}, kept: map[string]*memoryFile{}}
}

func (d *memory) begin(op, name string, size int) (int, error) {
	d.calls++
	if d.fault == nil {
		return size, nil
	}
	n, err := d.fault(op, name, d.calls, size)
	if err != nil {
		err = &fs.PathError{Op: op, Path: name, Err: err}
	}
	return n, err
}

func (d *memory) list() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.files)), nil
}

func (d *memory) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.begin("create", name, 0); err != nil {
		return nil, err
	}
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	d.files[name] = &memoryFile{d: d, name: name}
	return d.files[name], nil
}

func (d *memory) open(name string) (file, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return nil, 0, fs.ErrNotExist
	}
	return f, int64(len(f.data)), nil
}

func (d *memory) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.begin("rename", from, 0); err != nil {
		return err
	}
	d.files[to] = d.files[from]
	d.files[to].name = to
	delete(d.files, from)
	return nil
}

func (d *memory) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.begin("remove", name, 0); err != nil {
		return err
	}
	delete(d.files, name)
	return nil
}

func (d *memory) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.begin("syncdir", ".", 0); err != nil {
		return err
	}
	d.kept = maps.Clone(d.files)
	return nil
}

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n, err := f.d.begin("write", f.name, len(p))
	if more := off + int64(n) - int64(len(f.data)); more > 0 {
		f.data = append(f.data, make([]byte, more)...)
	}
	copy(f.data[off:], p[:n])
	return n, err
}

func (f *memoryFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if _, err := f.d.begin("sync", f.name, 0); err != nil {
		return err
	}
	f.disk = bytes.Clone(f.data)
	return nil
}

func (f *memoryFile) Allocate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if _, err := f.d.begin("allocate", f.name, 0); err != nil {
		return err
	}
	used := size
	for _, other := range f.d.files {
		if other != f {
			used += int64(len(other.data))
		}
	}
	if f.d.capacity > 0 && used > f.d.capacity {
		return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
	}
	if more := size - int64(len(f.data)); more > 0 {
		f.data = append(f.data, make([]byte, more)...)
	}
	return nil
}

func (f *memoryFile) Close() error { return nil }

// killed is what the next process finds after this one was killed: all that was
// written.
func (d *memory) killed() *memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newMemory()
	for name, f := range d.files {
		after.files[name] = &memoryFile{after, name, bytes.Clone(f.data), bytes.Clone(f.disk)}
	}
	for name, f := range d.kept {
		if after.kept[name] = after.files[f.name]; d.files[f.name] != f {
			after.kept[name] = &memoryFile{after, name, bytes.Clone(f.data), bytes.Clone(f.disk)}
		}
	}
	after.capacity = d.capacity
	return after
}

// unplugged is what the next boot finds after a power loss. keep is asked about
// each sector that was written and not synced, and about the names: it may keep
// any of them.
func (d *memory) unplugged(keep func() bool) *memory {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newMemory()
	after.capacity = d.capacity
	names := d.kept
	if keep() {
		names = d.files
	}
	const sector = 512
	for name, f := range names {
		b := make([]byte, len(f.data))
		copy(b, f.disk)
		for at := 0; at < len(b); at += sector {
			if to := min(at+sector, len(b)); !bytes.Equal(b[at:to], f.data[at:to]) && keep() {
				copy(b[at:to], f.data[at:to])
			}
		}
		after.files[name] = &memoryFile{after, name, b, bytes.Clone(b)}
	}
	after.kept = maps.Clone(after.files)
	return after
}

// crashed opens what a crash left in d of the journal whose lock is in dir.
func crashed(t testing.TB, d *memory, dir string, o Options) (*Journal, string, error) {
	t.Helper()
	next := t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	if err == nil {
		err = os.WriteFile(filepath.Join(next, stateName), b, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	o.dir = d
	j, err := Open(next, o)
	return j, next, err
}

func payload(i, size int) []byte {
	b := fmt.Appendf(nil, "%08d:", i)
	for len(b) < size {
		b = append(b, byte(i), byte(i>>8), byte(len(b)))
	}
	return b[:max(size, 9)]
}
