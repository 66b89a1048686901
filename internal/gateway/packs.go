package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack"
)

// keptPacks are the packs that were interrupted: each in a folder of the data
// directory, named by its request, so that the same request goes on. They hold
// what the pack will, for a week at most, and not beyond an erasure.
type keptPacks struct {
	dir   string
	every time.Duration // between marks

	mu     sync.Mutex
	making map[string]bool // by name
	forgot uint64          // times that all were to be forgotten
}

const (
	packsDir  = "packs"
	packMarks = 30 * time.Second
	packKept  = 7 * 24 * time.Hour
	mostKept  = 4 // that nobody went on with
)

// take is where a pack is kept, nowhere if another maker is at the same one. Done
// is called at the end.
func (k *keptPacks) take(r *api.PackRequest, by evidence.By, now time.Time) (keep pack.Keeping, done func(), err error) {
	request := evidence.EncodeBody(struct{ From, To, Purpose, Level, Recipient, By string }{r.From.String(), r.To.String(), r.Purpose, r.Level, r.Recipient, by.Person.ID})
	sum := sha256.Sum256(request)
	name := hex.EncodeToString(sum[:16])
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.making[name] {
		return pack.Keeping{}, func() {}, nil
	}
	keep = pack.Keeping{Dir: filepath.Join(k.dir, name), Request: string(request), Every: k.every}
	if r.Restart {
		err = os.RemoveAll(keep.Dir)
	}
	if err := errors.Join(err, k.tidy(name, now)); err != nil {
		return pack.Keeping{}, nil, fmt.Errorf("interrupted packs: %w", err)
	}
	if k.making == nil {
		k.making = make(map[string]bool)
	}
	k.making[name] = true
	forgot := k.forgot
	return keep, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.making, name)
		if k.forgot != forgot { // something was erased meanwhile
			_ = os.RemoveAll(keep.Dir)
		}
	}, nil
}

// tidy removes what nobody went on with: what is too old, and the oldest of too
// many.
func (k *keptPacks) tidy(but string, now time.Time) error {
	for {
		entries, err := os.ReadDir(k.dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		oldest, at, kept := "", now, 0
		for _, e := range entries {
			i, err := e.Info()
			if err != nil || e.Name() == but || k.making[e.Name()] {
				continue
			}
			if kept++; i.ModTime().Before(at) {
				oldest, at = e.Name(), i.ModTime()
			}
		}
		if oldest == "" || kept < mostKept && now.Sub(at) < packKept {
			return nil
		}
		if err := os.RemoveAll(filepath.Join(k.dir, oldest)); err != nil {
			return err
		}
	}
}

// forget removes all: what was erased isn't to be found in them.
func (k *keptPacks) forget() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot++
	entries, err := os.ReadDir(k.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !k.making[e.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(k.dir, e.Name())))
		}
	}
	return err
}
