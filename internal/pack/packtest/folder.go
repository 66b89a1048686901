package packtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack"
)

// Folder holds a synthetic log on disk: one that would be too large for memory,
// or that another process is to read.
type Folder string

// New returns a gateway that has never run, whose blocks go to the folder. What
// is sealed at the end goes there by Save.
func (f Folder) New() *Gateway {
	g := New()
	g.save = func(name string, data []byte) { must(f.write(name, data)) }
	return g
}

// Save seals everything and writes the log's tiles and checkpoint.
func (f Folder) Save(g *Gateway) error {
	src := g.Source()
	return fs.WalkDir(src.Log, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(src.Log, path)
		return errors.Join(err, f.write(path, b))
	})
}

// Fill writes a log of so many commands: sessions of a hundred, each asking
// statements of its own among common ones, some of them refused.
func (f Folder) Fill(commands int) error {
	g := f.New()
	g.PerBlock = 4000
	g.Boot()
	g.Organise("billing-bot", "reader")
	var s *Session
	agent := "billing-bot"
	for i := range commands {
		if i%100 == 0 {
			if s != nil {
				s.Close()
			}
			if i%100_000 == 0 {
				agent = "bot-" + strconv.Itoa(i) // one now and then: grants end
				g.Organise(agent, "reader")
			}
			s = g.Open(agent, "orders")
		}
		switch {
		case i%1000 == 999:
			g.Now += 2 * Second // slower than what asks for an alert
			s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
		case i%10 == 0:
			s.Do(fmt.Sprintf("SELECT total FROM public.orders WHERE customer = ? AND region = ? -- %d", i), "postgres:select", "public.orders")
		default:
			s.Do(fmt.Sprintf("SELECT id, total FROM public.orders WHERE id = ? LIMIT %d", i%20), "postgres:select", "public.orders")
		}
	}
	s.Close()
	g.Stop()
	return f.Save(g)
}

// Source is what a pack is made from. Nothing of the log was erased.
func (f Folder) Source() pack.Source {
	g := New() // for its key
	return pack.Source{Archive: archive{os.DirFS(string(f))}, Log: os.DirFS(string(f)), Seeds: f, Signer: g.signer}
}

// BodySeed implements pack.Seeds.
func (f Folder) BodySeed(boot, slot uint64) ([32]byte, error) {
	s := secretOf(boot, slot)
	return s.Derive(evidence.LabelBody), nil
}

// secretOf is that of a key scope of every synthetic log.
func secretOf(boot, slot uint64) evidence.Secret {
	return evidence.Secret(sha256.Sum256(fmt.Appendf(nil, "secret %d.%d", boot, slot)))
}

func (f Folder) write(name string, data []byte) error {
	path := filepath.Join(string(f), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
