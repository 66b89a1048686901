package keys

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ErrShredded means that a scope's secret was destroyed: what it sealed is
// erased for good.
var ErrShredded = errors.New("the key was destroyed")

// A slot is a mark byte, a nonce and the wrapped secret. Slots are padded to
// slotSize, so that none crosses a page.
const (
	slotSize = 128
	slotUsed = 0x01
	slotDead = 0x02
	wrapped  = chacha20poly1305.NonceSizeX + 32 + chacha20poly1305.Overhead
)

// pool is how many fresh secrets are synced ahead, so that a new session waits
// for no disk of its own.
const pool = 64

// Store holds the secrets of all boots in one directory: per boot "N.kek.age",
// the key-encryption key wrapped to every recipient, and "N.slots".
type Store struct {
	dir        string
	identity   age.Identity
	root       []byte // the identity, from which keys of the gateway itself derive
	recipients []age.Recipient

	mu    sync.Mutex
	boots map[uint64]*bootKeys
	boot  *bootKeys // the running one; nil before NewBoot
	ready []*Scope  // synced, not handed out
}

// bootKeys is the open key file of one boot.
type bootKeys struct {
	number uint64
	kek    cipher.AEAD
	slots  *os.File
	next   uint64 // first slot never written; only of the running boot
}

// Open opens the store in dir, which it creates when missing. The identity is
// the gateway's own; recipients are the auditors', whose identities are never
// on the gateway.
func Open(dir string, identity *age.X25519Identity, recipients []age.Recipient) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening key store: %w", err)
	}
	return &Store{
		dir:        dir,
		identity:   identity,
		root:       []byte(identity.String()),
		recipients: append([]age.Recipient{identity.Recipient()}, recipients...),
		boots:      make(map[uint64]*bootKeys),
	}, nil
}

// NewBoot makes the key-encryption key of a boot and its slot 0, the scope of
// records outside sessions. Both are durable when it returns.
func (st *Store) NewBoot(boot uint64) (*Scope, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.boot != nil {
		return nil, fmt.Errorf("key store: boot %d is already open", st.boot.number)
	}
	kek := make([]byte, chacha20poly1305.KeySize)
	if _, err := rand.Read(kek); err != nil {
		return nil, fmt.Errorf("drawing a key: %w", err)
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, st.recipients...)
	if err != nil {
		return nil, fmt.Errorf("wrapping the key of boot %d: %w", boot, err)
	}
	if _, err := w.Write(kek); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := writeNew(st.path(boot, "kek.age"), b.Bytes()); err != nil {
		return nil, fmt.Errorf("writing the key of boot %d: %w", boot, err)
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(st.path(boot, "slots"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the key file of boot %d: %w", boot, err)
	}
	bk := &bootKeys{number: boot, kek: aead, slots: f}
	st.boots[boot], st.boot = bk, bk
	if err := st.refill(); err != nil {
		return nil, err
	}
	if err := syncDir(st.dir); err != nil {
		return nil, err
	}
	return st.pop(), nil
}

// New returns a fresh scope of the running boot whose secret is already on
// disk.
func (st *Store) New() (*Scope, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.boot == nil {
		return nil, errors.New("key store: no boot is open")
	}
	if len(st.ready) == 0 {
		if err := st.refill(); err != nil {
			return nil, err
		}
	}
	return st.pop(), nil
}

func (st *Store) pop() *Scope {
	s := st.ready[0]
	st.ready = st.ready[1:]
	return s
}

// refill writes and syncs a batch of fresh slots.
func (st *Store) refill() error {
	bk := st.boot
	batch := make([]byte, 0, pool*slotSize)
	scopes := make([]*Scope, 0, pool)
	for i := range uint64(pool) {
		var secret evidence.Secret
		if _, err := rand.Read(secret[:]); err != nil {
			return fmt.Errorf("drawing a key: %w", err)
		}
		slot, err := bk.wrap(bk.next+i, &secret)
		if err != nil {
			return err
		}
		s, err := newScope(bk.next+i, &secret)
		if err != nil {
			return err
		}
		batch, scopes = append(batch, slot...), append(scopes, s)
	}
	if _, err := bk.slots.WriteAt(batch, int64(bk.next*slotSize)); err != nil {
		return fmt.Errorf("writing keys: %w", err)
	}
	if err := bk.slots.Sync(); err != nil {
		return fmt.Errorf("writing keys: %w", err)
	}
	bk.next += pool
	st.ready = append(st.ready, scopes...)
	return nil
}

// wrap returns the slot of a secret. Boot and slot number are authenticated,
// so that slots can't be swapped.
func (bk *bootKeys) wrap(slot uint64, secret *evidence.Secret) ([]byte, error) {
	b := make([]byte, 1+chacha20poly1305.NonceSizeX, slotSize)
	b[0] = slotUsed
	nonce := b[1:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	b = bk.kek.Seal(b, nonce, secret[:], bk.aad(slot))
	return b[:slotSize], nil
}

func (bk *bootKeys) aad(slot uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, bk.number)
	return binary.BigEndian.AppendUint64(b, slot)
}

// Derive makes a key of the gateway itself from its identity: the same in every
// boot, and of nothing that is ever disclosed.
func (st *Store) Derive(label string) ([32]byte, error) {
	key, err := hkdf.Key(sha256.New, st.root, nil, label, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("deriving the key %s: %w", label, err)
	}
	return [32]byte(key), nil
}

// LastBoot is the highest boot that ever made keys here, 0 for none. A boot
// that crashed before its first record used up its number.
func (st *Store) LastBoot() (uint64, error) {
	names, err := filepath.Glob(filepath.Join(st.dir, "*.kek.age"))
	if err != nil {
		return 0, err
	}
	var last uint64
	for _, name := range names {
		var boot uint64
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.kek.age", &boot); err != nil {
			return 0, fmt.Errorf("key store: unexpected file %s", name)
		}
		last = max(last, boot)
	}
	return last, nil
}

// Scope returns the scope of a slot of any boot. It is ErrShredded when the
// secret was destroyed.
func (st *Store) Scope(boot, slot uint64) (*Scope, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	bk, err := st.open(boot)
	if err != nil {
		return nil, err
	}
	b := make([]byte, slotSize)
	if _, err := bk.slots.ReadAt(b, int64(slot*slotSize)); err != nil {
		return nil, fmt.Errorf("reading key %d.%d: %w", boot, slot, err)
	}
	switch b[0] {
	case slotDead:
		return nil, fmt.Errorf("key %d.%d: %w", boot, slot, ErrShredded)
	case slotUsed:
	default:
		return nil, fmt.Errorf("key %d.%d was never written", boot, slot)
	}
	nonce := b[1 : 1+chacha20poly1305.NonceSizeX]
	p, err := bk.kek.Open(nil, nonce, b[1+chacha20poly1305.NonceSizeX:1+wrapped], bk.aad(slot))
	if err != nil {
		return nil, fmt.Errorf("key %d.%d: %w", boot, slot, ErrDecrypt)
	}
	secret := evidence.Secret(p)
	return newScope(slot, &secret)
}

// BodySeed returns what a pack of level L1 discloses of a scope.
func (st *Store) BodySeed(boot, slot uint64) ([32]byte, error) {
	s, err := st.Scope(boot, slot)
	if err != nil {
		return [32]byte{}, err
	}
	return s.BodySeed(), nil
}

// open returns the keys of a boot, opening its files on first use.
func (st *Store) open(boot uint64) (*bootKeys, error) {
	if bk := st.boots[boot]; bk != nil {
		return bk, nil
	}
	sealed, err := os.ReadFile(st.path(boot, "kek.age"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keys of boot %d: %w", boot, ErrShredded)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of boot %d: %w", boot, err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), st.identity)
	if err != nil {
		return nil, fmt.Errorf("unwrapping the key of boot %d: %w", boot, err)
	}
	kek, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unwrapping the key of boot %d: %w", boot, err)
	}
	aead, err := chacha20poly1305.NewX(kek)
	if err != nil {
		return nil, fmt.Errorf("key of boot %d: %w", boot, err)
	}
	f, err := os.OpenFile(st.path(boot, "slots"), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the key file of boot %d: %w", boot, err)
	}
	bk := &bootKeys{number: boot, kek: aead, slots: f}
	st.boots[boot] = bk
	return bk, nil
}

// Shred destroys a scope's secret: its slot is overwritten and synced. Copies
// made elsewhere (backups of this directory, packs already exported, blocks a
// copy-on-write file system kept) are beyond its reach.
func (st *Store) Shred(boot, slot uint64) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	bk, err := st.open(boot)
	if err != nil {
		return err
	}
	b := make([]byte, slotSize)
	b[0] = slotDead
	if _, err := bk.slots.WriteAt(b, int64(slot*slotSize)); err != nil {
		return fmt.Errorf("destroying key %d.%d: %w", boot, slot, err)
	}
	if err := bk.slots.Sync(); err != nil {
		return fmt.Errorf("destroying key %d.%d: %w", boot, slot, err)
	}
	return nil
}

// Close closes the store's files.
func (st *Store) Close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	var errs []error
	for _, bk := range st.boots {
		errs = append(errs, bk.slots.Close())
	}
	st.boots, st.boot, st.ready = map[uint64]*bootKeys{}, nil, nil
	return errors.Join(errs...)
}

func (st *Store) path(boot uint64, kind string) string {
	return filepath.Join(st.dir, fmt.Sprintf("%d.%s", boot, kind))
}

// writeNew creates a file that must not exist and syncs it.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
