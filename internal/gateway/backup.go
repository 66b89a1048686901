package gateway

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// A backup is a tar file: what it is, then the log, the archive, the witnessed
// checkpoint and the stamped ones, and, if asked for, the keys as an encrypted
// tar file within.
const (
	backupInfo    = "backup.json"
	backupKeys    = "keys.age"
	backupVersion = 1

	treeState = ".state/treeState" // in the log's folder
)

// BackupInfo says what a backup holds.
type BackupInfo struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	Origin  string    `json:"origin"`
	LogKey  string    `json:"log_key"` // verifier key, for fsck; not to be trusted for being here
	Blocks  uint64    `json:"blocks"`
	Root    string    `json:"root"`
	Keys    bool      `json:"keys"`
}

// BackupParams says what to back up.
type BackupParams struct {
	Data     string
	Keys     []age.Recipient // the keys too, encrypted to them; none without
	Progress func(api.Progress)
}

// ErrBackup is wrapped by every refusal of a backup.
var ErrBackup = errors.New("not a usable backup")

// Backup writes a data folder to w. It may be in use: blocks and tiles never
// change, each is there before a checkpoint covers it, and so are its keys. So
// the checkpoint is read first, and what it covers after it.
func Backup(ctx context.Context, p BackupParams, w io.Writer) (BackupInfo, error) {
	b := &backup{BackupParams: p, out: tar.NewWriter(w), made: time.Now().UTC()}
	checkpoint, state, info, err := b.begin()
	if err != nil {
		return info, fmt.Errorf("backing up: %w", err)
	}
	if err := b.write(ctx, info, checkpoint, state); err != nil {
		return info, fmt.Errorf("backing up: %w", err)
	}
	return info, nil
}

type backup struct {
	BackupParams
	out  *tar.Writer
	made time.Time
	tree uint64 // leaves; the checkpoint may have fewer

	logKey logKey // that was in place before anything was copied
}

func (b *backup) begin() (checkpoint, state []byte, info BackupInfo, err error) {
	key, err := readVerifier(b.Data)
	if err != nil {
		return nil, nil, info, err
	}
	if len(b.Keys) > 0 { // before the log is read: what it is signed by then is in the keystore, or goes meanwhile
		if b.logKey, err = readLogKey(filepath.Join(b.Data, keystoreDirName), logKeyFile); err != nil {
			return nil, nil, info, err
		}
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, nil, info, fmt.Errorf("the log's verifier key: %w", err)
	}
	if checkpoint, err = os.ReadFile(filepath.Join(b.Data, logDir, ledger.CheckpointPath)); err != nil {
		return nil, nil, info, err
	}
	cp, _, err := seal.OpenCheckpoint(os.DirFS(filepath.Join(b.Data, archiveDir)), v, checkpoint)
	if err != nil {
		return nil, nil, info, err
	}
	if state, err = os.ReadFile(filepath.Join(b.Data, logDir, treeState)); err != nil {
		return nil, nil, info, err
	}
	var tree struct{ Size uint64 }
	if err := json.Unmarshal(state, &tree); err != nil {
		return nil, nil, info, fmt.Errorf("reading the state of the log: %w", err)
	}
	b.tree = max(tree.Size, cp.Size)
	return checkpoint, state, BackupInfo{
		Version: backupVersion, Made: b.made, Origin: cp.Origin, LogKey: key, Blocks: cp.Size, Root: cp.Root.String(), Keys: len(b.Keys) > 0,
	}, nil
}

func (b *backup) write(ctx context.Context, info BackupInfo, checkpoint, state []byte) error {
	about, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{backupInfo, about}, {logDir + "/" + ledger.CheckpointPath, checkpoint}, {logDir + "/" + treeState, state}} {
		if err := b.add(b.out, f.name, bytes.NewReader(f.data), int64(len(f.data))); err != nil {
			return err
		}
	}
	if err := b.tiles(info.Blocks); err != nil {
		return err
	}
	for n := range b.tree { // those that were disposed of are not there
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.block(n); err != nil {
			return err
		}
		if b.Progress != nil {
			b.Progress(api.Progress{Stage: "copying blocks", Done: n + 1, Total: b.tree})
		}
	}
	for _, name := range []string{witnessedFile, ledger.StampsFile} {
		if err := b.file(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(b.Keys) > 0 {
		if err := b.keys(); err != nil {
			return err
		}
	}
	return b.out.Close()
}

// block copies a block, unless a disposal that is in the copied log deleted it.
func (b *backup) block(n uint64) error {
	err := b.file(archiveDir + "/" + ledger.BlockPath(n))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	whole, _, readErr := seal.ReadDisposals(os.DirFS(filepath.Join(b.Data, archiveDir)), b.tree)
	switch {
	case readErr != nil:
		return errors.Join(err, readErr)
	case n >= whole:
		return fmt.Errorf("%w; if blocks are being disposed of, make the backup again", err)
	}
	return nil // whether it had to be there fsck says of what is restored
}

// tiles copies what the tree consists of, and the partial tiles that the
// checkpoint is proven from where it has fewer leaves.
func (b *backup) tiles(checkpoint uint64) error {
	err := eachTile(b.tree, b.tile)
	if err != nil || checkpoint == b.tree {
		return err
	}
	return eachTile(checkpoint, func(level int, n uint64, width int) error {
		if width == 256 || b.tree>>(8*level)-n*256 == uint64(width) {
			return nil // it is one of the tree's
		}
		err := b.partial(level, n, width)
		if errors.Is(err, fs.ErrNotExist) { // a full one has replaced it, and was copied
			return nil
		}
		return err
	})
}

// eachTile calls f for the tiles of a tree.
func eachTile(size uint64, f func(level int, n uint64, width int) error) error {
	for level, n := 0, size; n > 0; level, n = level+1, n/256 {
		for i := uint64(0); i*256 < n; i++ {
			if err := f(level, i, int(min(256, n-i*256))); err != nil {
				return err
			}
		}
	}
	return nil
}

// tile copies a tile, or the full one that has replaced it.
func (b *backup) tile(level int, n uint64, width int) error {
	err := b.partial(level, n, width)
	if errors.Is(err, fs.ErrNotExist) && width < 256 {
		return b.partial(level, n, 256)
	}
	return err
}

// partial copies a tile, and with one of the lowest level its leaves.
func (b *backup) partial(level int, n uint64, width int) error {
	if err := b.file(logDir + "/" + ledger.TilePath(level, n, width)); err != nil || level > 0 {
		return err
	}
	return b.file(logDir + "/" + ledger.EntriesPath(n, width))
}

// file copies one file of the data folder.
func (b *backup) file(name string) error { return b.copy(b.out, name) }

// copy copies a file as it is now; what is appended meanwhile isn't in it.
func (b *backup) copy(w *tar.Writer, name string) error {
	f, err := os.Open(filepath.Join(b.Data, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return b.add(w, name, f, info.Size())
}

func (b *backup) add(w *tar.Writer, name string, from io.Reader, size int64) error {
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: b.made, Format: tar.FormatPAX})
	if err == nil {
		_, err = io.CopyN(w, from, size)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// keys copies the keystore and the session keys, which must lie apart from what
// they open: hence encrypted, also where they wait for their size to be known.
// They come last, so that a file that was cut off has none.
func (b *backup) keys() error {
	f, err := os.CreateTemp("", "exhibit-backup-")
	if err != nil {
		return fmt.Errorf("encrypting the keys: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := b.encryptKeys(f); err != nil {
		return fmt.Errorf("encrypting the keys: %w", err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return b.add(b.out, backupKeys, f, size)
}

func (b *backup) encryptKeys(to io.Writer) error {
	w, err := age.Encrypt(to, b.Keys...)
	if err != nil {
		return err
	}
	inner := tar.NewWriter(w)
	for _, dir := range []string{keystoreDirName, keysDir} {
		entries, err := os.ReadDir(filepath.Join(b.Data, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := b.copy(inner, dir+"/"+e.Name()); err != nil {
				return err
			}
		}
	}
	// A key that took its place since then signs more of the log than is here,
	// and the one that signs this much is gone: no gateway would go on with it.
	if now, err := readLogKey(filepath.Join(b.Data, keystoreDirName), logKeyFile); err != nil || now.verifier != b.logKey.verifier {
		return errors.Join(err, fmt.Errorf("%w: the log's key was rotated while it was made; make it again", ErrBackup))
	}
	return errors.Join(inner.Close(), w.Close())
}

// RestoreParams says where to and with what.
type RestoreParams struct {
	Data     string              // a folder that isn't there, or is empty
	Identity []age.Identity      // of the keys; none restores without them
	Known    []ledger.Checkpoint // that the log must have grown from
	Progress func(api.Progress)
}

// Restored is what came of it.
type Restored struct {
	BackupInfo

	Keys bool           `json:"keys"` // were restored, too
	Fsck api.FsckReport `json:"fsck"`
}

// Restore makes a data folder of a backup: beside it, checked from end to end,
// and then renamed. So the folder is whole, or isn't there.
func Restore(ctx context.Context, p RestoreParams, from io.Reader) (Restored, error) {
	var r Restored
	if entries, err := os.ReadDir(p.Data); err == nil && len(entries) > 0 {
		return r, fmt.Errorf("restoring: %s is not empty: a log is never written over", p.Data)
	}
	part := strings.TrimSuffix(p.Data, "/") + ".restoring"
	if err := os.Mkdir(part, 0o700); errors.Is(err, fs.ErrExist) {
		return r, fmt.Errorf("restoring: %s is there: another restore is under way, or left it when it was interrupted; remove it then", part)
	} else if err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	err := restore(ctx, p, part, from, &r)
	if err == nil {
		if err = os.Remove(p.Data); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(part, p.Data)
	}
	if err != nil {
		return r, errors.Join(fmt.Errorf("restoring: %w", err), os.RemoveAll(part))
	}
	return r, nil
}

func restore(ctx context.Context, p RestoreParams, part string, from io.Reader, r *Restored) error {
	root, err := os.OpenRoot(part)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unpack(ctx, p, root, from, r); err != nil {
		return err
	}
	if r.BackupInfo.Keys && len(p.Identity) > 0 && !r.Keys {
		return fmt.Errorf("%w: it was cut off: it says that it holds keys, and has none", ErrBackup)
	}
	if !r.Keys { // enough for fsck
		if err := put(root, keystoreDirName+"/"+verifierFile, strings.NewReader(r.LogKey+"\n")); err != nil {
			return err
		}
	}
	r.Fsck, err = fsck(ctx, part, r.LogKey, p.Known, p.Progress)
	if err != nil {
		return err
	}
	if n := len(r.Fsck.Problems); n > 0 {
		return fmt.Errorf("%w: fsck has %d findings, the first of %s: %s", ErrBackup, n, r.Fsck.Problems[0].Where, r.Fsck.Problems[0].Message)
	}
	return r.note(root)
}

// note has the next start of a gateway record the restore.
func (r *Restored) note(root *os.Root) error {
	b := evidence.RestoreBody{
		Made: micros(r.Made), Restored: time.Now().UnixMicro(), Blocks: r.Fsck.Blocks + r.Fsck.Disposed, Keys: r.Keys,
		By: evidence.By{Via: fmt.Sprintf("exhibit restore, uid %d", os.Getuid())},
	}
	if err := b.Root.UnmarshalText([]byte(r.Fsck.Root)); err != nil {
		return err
	}
	return put(root, unrecordedFile, bytes.NewReader(noteLine(unrecorded{Restore: &b})))
}

// unpack writes the files of a backup below root, and no other.
func unpack(ctx context.Context, p RestoreParams, root *os.Root, from io.Reader, r *Restored) error {
	in := tar.NewReader(from)
	h, err := in.Next()
	if err != nil || h.Name != backupInfo {
		return fmt.Errorf("%w: it does not begin with %s", ErrBackup, backupInfo)
	}
	if err := json.NewDecoder(io.LimitReader(in, 1<<16)).Decode(&r.BackupInfo); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, backupInfo, err)
	}
	if r.Version != backupVersion {
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrBackup, r.Version, backupVersion)
	}
	if _, err := note.NewVerifier(r.LogKey); err != nil {
		return fmt.Errorf("%w: its log's verifier key: %w", ErrBackup, err)
	}
	for {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrBackup, err)
		case ctx.Err() != nil:
			return ctx.Err()
		case h.Name == backupKeys:
			if err := unpackKeys(p, root, in, r); err != nil {
				return err
			}
			continue
		case h.Name != witnessedFile && h.Name != ledger.StampsFile && !within(h.Name, logDir, archiveDir):
			return fmt.Errorf("%w: it holds %.80q", ErrBackup, h.Name)
		}
		if err := put(root, h.Name, in); err != nil {
			return err
		}
	}
}

func unpackKeys(p RestoreParams, root *os.Root, sealed io.Reader, r *Restored) error {
	if len(p.Identity) == 0 {
		return nil
	}
	plain, err := age.Decrypt(sealed, p.Identity...)
	if err != nil {
		return fmt.Errorf("%w: its keys: %w", ErrBackup, err)
	}
	for in := tar.NewReader(plain); ; {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			r.Keys = true
			return nil
		case err != nil:
			return fmt.Errorf("%w: its keys: %w", ErrBackup, err)
		case !within(h.Name, keystoreDirName, keysDir):
			return fmt.Errorf("%w: its keys hold %.80q", ErrBackup, h.Name)
		}
		if err := put(root, h.Name, in); err != nil {
			return err
		}
	}
}

// within reports whether a name is that of a file below one of the folders.
func within(name string, folders ...string) bool {
	first, rest, _ := strings.Cut(name, "/")
	for _, f := range folders {
		if first == f && rest != "" && fs.ValidPath(name) {
			return true
		}
	}
	return false
}

// put writes a new file, durably.
func put(root *os.Root, name string, from io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err) // also a name that is there twice
	}
	_, err = io.Copy(f, backupReader{from})
	return errors.Join(err, f.Sync(), f.Close())
}

// backupReader tells what is wrong with a backup from what is wrong with the
// disk that it is restored to.
type backupReader struct{ io.Reader }

func (r backupReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return n, err
}
