package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// signers signs checkpoints with the key of the log that is in force at their
// size. Which key that is the log's own records say (ledger.Keys), so that it
// is the same after a crash at any moment; the keys held are only those that
// may be needed yet.
type signers struct {
	name string

	mu   sync.Mutex
	held []note.Signer // the first is the log's when its records name none
	keys *ledger.Keys  // of all blocks in the archive
	now  note.Signer   // signs; turned before the block that brings another key is added
}

func newSigners(c *Config, keys *ledger.Keys) *signers {
	s := &signers{name: c.Origin, held: []note.Signer{c.Signer}, keys: keys, now: c.Signer}
	if c.Next != nil {
		s.held = append(s.held, c.Next)
	}
	return s
}

// Name implements note.Signer.
func (s *signers) Name() string { return s.name }

// KeyHash implements note.Signer.
func (s *signers) KeyHash() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.KeyHash()
}

// Sign signs the text of a checkpoint. It refuses a size at which another key is
// in force: then the tree publishes nothing and asks again. So a turn between
// KeyHash and Sign is no matter either, for the sizes on its two sides have
// different keys. An empty tree has nothing that a key could vouch for.
func (s *signers) Sign(text []byte) ([]byte, error) {
	cp, err := ledger.ParseCheckpoint(string(text))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	now, due := s.now, s.due(cp.Size)
	s.mu.Unlock()
	if cp.Size > 0 && due != now {
		return nil, fmt.Errorf("a checkpoint of %d blocks is for another key of the log than %08x to sign", cp.Size, now.KeyHash())
	}
	return now.Sign(text)
}

// due is the held key that is in force at a size; nil when it isn't held any
// more, or not yet. The caller holds mu.
func (s *signers) due(size uint64) note.Signer {
	k := s.keys.At(size)
	if k == nil {
		return s.held[0]
	}
	for _, h := range s.held {
		if h.KeyHash() == k.Verifier.KeyHash() {
			return h
		}
	}
	return nil
}

// at is due for who doesn't hold mu.
func (s *signers) at(size uint64) note.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due(size)
}

func (s *signers) signing() note.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *signers) turn(to note.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = to
}

// history is what the log's records say of its keys, to change apart.
func (s *signers) history() *ledger.Keys {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.Clone()
}

// learn takes in the changes of keys that a new block holds, once.
func (s *signers) learn(block uint64, changes []evidence.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.keys.Changes()); len(changes) == 0 || n > 0 && s.keys.Changes()[n-1].Block >= block {
		return nil
	}
	keys := s.keys.Clone()
	for i := range changes {
		if err := keys.Apply(block, &changes[i]); err != nil {
			return err
		}
	}
	s.keys = keys
	return nil
}

// open verifies a checkpoint of the log.
func (s *signers) open(msg []byte, witnesses []note.Verifier) (ledger.Checkpoint, error) {
	s.mu.Lock()
	keys, first := s.keys, s.held[0]
	s.mu.Unlock()
	if keys.Current() == nil {
		return ledger.OpenCheckpoint(msg, []note.Verifier{resigner{first}}, witnesses, 0)
	}
	return keys.OpenCheckpoint(msg, witnesses, 0)
}

// resigner verifies what a signer signed by signing it again: signatures of
// Ed25519 are deterministic (RFC 8032), and the signer keeps its key to itself.
type resigner struct{ note.Signer }

func (r resigner) Verify(msg, sig []byte) bool {
	again, err := r.Sign(msg)
	return err == nil && string(again) == string(sig)
}

// Changes of keys among the records of a block.
func keyChanges(records []evidence.Record) (list []evidence.Record) {
	for i := range records {
		if records[i].Head.Type == evidence.LogKey {
			r := records[i]
			r.HeadBytes, r.Body = bytes.Clone(r.HeadBytes), bytes.Clone(r.Body)
			list = append(list, r)
		}
	}
	return list
}

// turn lets the key sign that is in force once block c is in the tree. Sizes
// below are the key's that goes, so the last of them is published first. A key
// that went is no longer held: when the tree is made anew from the archive,
// nothing is published before it has come to sizes of a key that is.
func (s *Sealer) turn(ctx context.Context, c *cutBlock) error {
	n := c.header.Block
	if err := s.signers.learn(n, c.changes); err != nil {
		return fmt.Errorf("%w: block %d: %w; run exhibit log fsck", ErrDiverged, n, err)
	}
	due, now := s.signers.at(n+1), s.signers.signing()
	if due == now || due == nil && s.rebuilds(n+1) {
		return nil
	}
	if due == nil {
		return fmt.Errorf("%w: block %d puts key %s of the log in force, which the keystore does not have; put back the newest keystore", ErrDiverged, n, s.signers.history().At(n+1).ID())
	}
	if n > 0 && s.signers.at(n) == now {
		if _, _, err := s.awaitCheckpoint(ctx, n); err != nil {
			return err
		}
	}
	s.signers.turn(due)
	failpoint.Hit("key turned")
	return nil
}

// rebuilds reports whether a later block brings a key that is held, so that the
// tree need not be published at a size.
func (s *Sealer) rebuilds(size uint64) bool {
	k := s.signers.history()
	return k.At(size).Until != nil
}

// readHistory folds the changes of keys in the first blocks of an archive, by
// the chain of their control records. Nothing of it is proven.
func readHistory(origin string, blocks uint64, load func(n uint64, sections int) (*ledger.Block, error)) (*ledger.Keys, error) {
	keys := ledger.NewKeys(origin)
	if blocks == 0 {
		return keys, nil
	}
	holding := make(map[uint64]bool)
	look := func(n uint64) (ledger.Header, error) {
		b, err := load(n, ledger.Heads+1)
		if err != nil {
			return ledger.Header{}, err
		}
		if len(keyChanges(b.Records)) > 0 {
			holding[n] = true
		}
		return b.Header, nil
	}
	newest, err := look(blocks - 1)
	if err != nil {
		return nil, err
	}
	chain, err := ledger.ControlBlocks(&newest, look)
	if err != nil {
		return nil, err
	}
	for _, n := range chain {
		if !holding[n] {
			continue
		}
		b, err := load(n, ledger.Bodies+1)
		if err != nil {
			return nil, err
		}
		for _, r := range keyChanges(b.Records) {
			if err := keys.Apply(n, &r); err != nil {
				return nil, fmt.Errorf("block %d: %w", n, err)
			}
		}
	}
	return keys, nil
}

// stored is the number of blocks in the archive, given that there are those of
// the tree: by doubling and then halving, since a tree that is made anew has
// none and the archive all.
func (s *Sealer) stored(ctx context.Context, tree uint64) (uint64, error) {
	var failed error
	missing := func(more int) bool {
		if failed != nil {
			return true
		}
		_, err := s.archive.Get(ctx, ledger.BlockPath(tree+uint64(more)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
		return err != nil
	}
	step := 1
	for !missing(step - 1) {
		step *= 2
	}
	more := sort.Search(step, missing)
	if failed != nil {
		return 0, fmt.Errorf("looking for the newest block: %w", failed)
	}
	return tree + uint64(more), nil
}

// openSigners finds out from the archive which keys sign, before the tree is
// opened: it publishes a checkpoint by itself.
func (s *Sealer) openSigners(ctx context.Context, tree uint64) error {
	blocks, err := s.stored(ctx, tree)
	if err != nil {
		return err
	}
	keys, err := readHistory(s.cfg.Origin, blocks, func(n uint64, sections int) (*ledger.Block, error) {
		b, _, err := s.load(ctx, n, sections)
		return b, err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lacks(tree, err)
	case errors.Is(err, ledger.ErrKeys), errors.Is(err, evidence.ErrBody), errors.Is(err, ledger.ErrChain):
		return fmt.Errorf("%w: the keys of the log: %w; run exhibit log fsck", ErrDiverged, err)
	case err != nil:
		return err
	}
	s.signers = newSigners(&s.cfg, keys)
	now := s.signers.at(tree)
	if now == nil { // the tree is made anew, or is to grow to the key in force
		now = s.signers.at(blocks)
	}
	if now == nil {
		return fmt.Errorf("%w: the log's key in force is %s, and the keystore has %s; put back the newest keystore",
			ErrDiverged, keys.Current().ID(), s.signers.ids())
	}
	s.signers.turn(now)
	return nil
}

func (s *signers) ids() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, h := range s.held {
		list = append(list, fmt.Sprintf("%08x", h.KeyHash()))
	}
	return strings.Join(list, " and ")
}

// proveKeys checks that the blocks that the history came from are in the log.
func (s *Sealer) proveKeys(ctx context.Context) error {
	st := s.state()
	for _, c := range s.signers.history().Changes() {
		if c.Block >= st.blocks {
			continue
		}
		if _, err := s.blockOf(ctx, &st, c.Block, ledger.Heads+1); err != nil {
			return err
		}
	}
	return nil
}

// Hold adds a key that a log.key record may put in force. It must be held before
// the record is written.
func (s *Sealer) Hold(k note.Signer) {
	s.signers.mu.Lock()
	defer s.signers.mu.Unlock()
	s.signers.held = append(s.signers.held, k)
}

// Keys is the history of the log's keys, as the sealed records tell it. Of a
// log that never changed its key it is empty.
func (s *Sealer) Keys() *ledger.Keys { return s.signers.history() }

// Signer is the key that signs what goes with a checkpoint of a size.
func (s *Sealer) Signer(size uint64) note.Signer {
	if k := s.signers.at(size); k != nil {
		return k
	}
	return s.signers.signing()
}
