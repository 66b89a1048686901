package verify

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Limits on files that are read whole.
const (
	maxManifest = 64 << 20
	maxSmall    = 64 << 10 // a signature, a checkpoint, a tile
	maxFiles    = 1 << 20
)

// Open opens a pack: a zip file or a folder.
func Open(path string) (fs.FS, io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the pack: %w", err)
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path) // no link leads out of it
		if err != nil {
			return nil, nil, fmt.Errorf("opening the pack: %w", err)
		}
		return root.FS(), root, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the pack: %w", err)
	}
	z, err := OpenZip(f, info.Size())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the pack: %w", err), f.Close())
	}
	return z, f, nil
}

// files gives the files of a pack by the manifest: each is read once, as a
// stream, and its size and digest are checked on the way.
type files struct {
	fs       fs.FS
	manifest map[string]File
	names    map[string]bool // that are there
	taken    map[string]bool // that were read, or asked for
	check    *Check
}

// listFiles lists a pack. What makes a name unfit is a finding.
func listFiles(pack fs.FS, c *Check) (map[string]bool, error) {
	names := make(map[string]bool)
	add := func(name string) error {
		switch {
		case !fs.ValidPath(name):
			c.except("a file has the path %.120q, which leads who knows where", name)
			return nil
		case names[name]:
			c.except("there are two files %.120q", name)
		case len(names) >= maxFiles:
			return fmt.Errorf("the pack has more than %d files", maxFiles)
		}
		names[name] = true
		return nil
	}
	if z, ok := pack.(*zip.Reader); ok { // its Open and ReadDir hide such names
		for _, f := range z.File {
			if f.FileInfo().IsDir() {
				continue
			}
			if err := add(f.Name); err != nil {
				return nil, err
			}
		}
		return names, nil
	}
	err := fs.WalkDir(pack, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			c.except("%.120q is not a regular file", path)
			return nil
		}
		return add(path)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pack: %w", err)
	}
	return names, nil
}

// readSmall reads a file that isn't in the manifest.
func readSmall(pack fs.FS, path string, limit int64) ([]byte, error) {
	f, err := pack.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// file is a file on its way through the digest.
type file struct {
	File
	r io.Reader
	c io.Closer
	h hash.Hash
	n int64
}

var errAbsent = errors.New("the manifest does not name it")

// open opens a file. Reading past the manifest's size is an error.
func (f *files) open(path string) (*file, error) {
	entry, ok := f.manifest[path]
	f.taken[path] = true
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, errAbsent)
	}
	if !f.names[path] {
		return nil, fmt.Errorf("%s is in the manifest and not in the pack", path)
	}
	r, err := f.fs.Open(path)
	if err != nil {
		return nil, err
	}
	return &file{File: entry, r: r, c: r, h: sha256.New()}, nil
}

func (f *file) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	f.n += int64(n)
	f.h.Write(b[:n])
	if f.n > f.Bytes {
		return 0, fmt.Errorf("%s is larger than the %d bytes in the manifest", f.Path, f.Bytes)
	}
	return n, err
}

// finish reads what is left, and reports whether the file was the manifest's.
func (f *files) finish(file *file) {
	defer file.c.Close()
	f.check.Population++
	if _, err := io.Copy(io.Discard, file); err != nil {
		f.check.except("%s can't be read to its end: %.200s", file.Path, err)
		return
	}
	if file.n != file.Bytes || hex.EncodeToString(file.h.Sum(nil)) != file.SHA256 {
		f.check.except("%s is not the file in the manifest: %d bytes, sha256 %x", file.Path, file.n, file.h.Sum(nil))
	}
}

// read reads a small file whole.
func (f *files) read(path string, limit int64) ([]byte, error) {
	file, err := f.open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	if err != nil {
		return nil, errors.Join(err, file.c.Close())
	}
	f.finish(file)
	return b, nil
}

// rest reports the files that the manifest doesn't name or the pack doesn't
// have and, once everything was read, those that nothing asked for.
func (f *files) rest(c *Check, all bool) {
	for _, path := range sortedKeys(f.names) {
		switch _, listed := f.manifest[path]; {
		case path == ManifestFile || path == SignatureFile:
		case !listed:
			c.except("%.120q is in the pack and not in the manifest", path)
		case all && !f.taken[path]:
			c.except("%.120q is not part of a pack of these parameters", path)
		}
	}
	for _, path := range sortedKeys(f.manifest) {
		if !f.names[path] {
			c.except("%.120q is in the manifest and not in the pack", path)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// logFS is the pack's log folder for readers of tiles. Tiles are asked for
// again and again, so the last ones are kept.
type logFS struct {
	files *files
	kept  map[string][]byte
}

// keepTiles is how many tiles of 8 KiB are kept.
const keepTiles = 64

// Open implements fs.FS.
func (l *logFS) Open(name string) (fs.File, error) {
	b, err := l.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return &openTile{Reader: bytes.NewReader(b)}, nil
}

// ReadFile implements fs.ReadFileFS.
func (l *logFS) ReadFile(name string) ([]byte, error) {
	if b, ok := l.kept[name]; ok {
		return b, nil
	}
	path := LogFolder + "/" + name
	if _, ok := l.files.manifest[path]; !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	b, err := l.files.read(path, maxSmall)
	if err != nil {
		return nil, err
	}
	if len(l.kept) >= keepTiles {
		clear(l.kept)
	}
	l.kept[name] = b
	return b, nil
}

// openTile makes a tile an fs.File; nobody asks it for its Stat.
type openTile struct{ *bytes.Reader }

func (openTile) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (openTile) Close() error               { return nil }

// comparer is a Writer that wants what is written to be what a reader gives.
type comparer struct {
	name   string
	r      *bufio.Reader
	check  *Check
	finish func()
	line   int64
	ended  bool // it differs, or isn't there
}

func newComparer(name string, r io.Reader, c *Check, finish func()) *comparer {
	return &comparer{name: name, r: bufio.NewReaderSize(r, 64<<10), check: c, finish: finish, line: 1}
}

// compare compares with a file of the pack.
func (f *files) compare(path string, c *Check) *comparer {
	c.Population++
	file, err := f.open(path)
	if err != nil {
		c.except("%.200s", err)
		return &comparer{ended: true}
	}
	return newComparer(path, file, c, func() { f.finish(file) })
}

// Write implements io.Writer. It never fails: what differs is a finding.
func (c *comparer) Write(b []byte) (int, error) {
	written := len(b)
	for len(b) > 0 && !c.ended {
		have, err := c.r.Peek(min(len(b), 4096))
		if same := commonPrefix(have, b); same == 0 || same < len(have) || err != nil && !errors.Is(err, io.EOF) {
			c.line += int64(bytes.Count(have[:same], []byte("\n")))
			c.differs()
			break
		}
		c.line += int64(bytes.Count(have, []byte("\n")))
		b = b[len(have):]
		if _, err := c.r.Discard(len(have)); err != nil {
			c.differs()
		}
	}
	return written, nil
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	if bytes.Equal(a[:n], b[:n]) {
		return n
	}
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func (c *comparer) differs() {
	c.ended = true
	c.check.except("%s differs from what its records say at line %d", c.name, c.line)
	c.finish()
}

// close reports whether the file held more than was written.
func (c *comparer) close() {
	if c.ended {
		return
	}
	c.ended = true
	if _, err := c.r.Peek(1); !errors.Is(err, io.EOF) {
		c.check.except("%s has lines that no record gives, from line %d", c.name, c.line)
	}
	c.finish()
}
