// Package seal turns the journal into the log: it cuts the journal's records
// into blocks, puts the blocks into the archive and their headers into the
// gateway's tree, and has the tree's checkpoints signed.
//
// In flow journal entries, in order, and the key scopes that their sealed parts
// are encrypted under. Out flow block files, tiles, a signed checkpoint, and the
// word to the journal that it may forget; and records again, to whoever folds
// them. Block n is leaf n, so the tree's size says where to go on after a crash,
// and nothing is sealed twice or left out. A failing archive or tree holds up
// the sealing and not the journal; Ready says when that has gone on too long.
package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/archive"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Journal is where records come from.
type Journal interface {
	First() journal.LSN
	End() journal.LSN
	Read(from journal.LSN, fn func(next journal.LSN, payload []byte) error) (journal.LSN, error)
	Release(before journal.LSN) error
}

// Archive is where blocks go. When Put returns nil the object survives power
// loss; putting the same bytes again does nothing, other bytes are an error.
type Archive interface {
	Put(ctx context.Context, name string, data []byte) error
	Get(ctx context.Context, name string) ([]byte, error) // fs.ErrNotExist
	Remove(ctx context.Context, names ...string) error    // for good; missing ones are fine
}

// Keys finds the scope of a slot of a boot; keys.ErrShredded when it is erased.
type Keys interface {
	Scope(boot, slot uint64) (*keys.Scope, error)
}

// Config says how to seal. Zero values mean the defaults.
type Config struct {
	Dir              string              // of the tree's tiles and checkpoint
	Origin           string              // name of the log; empty means the signer's
	Signer           note.Signer         // the log's key, Ed25519
	Next             note.Signer         // a key that takes its place when a log.key record says so; nil is none
	Interval         time.Duration       // a block is cut this long after its first record; 1 s
	MaxBytes         int                 // or once it holds this much of the journal; 4 MiB, at most 16 MiB
	MaxUnsealedAge   time.Duration       // Ready fails when a record waits longer; 1 h
	MaxUnsealedBytes int64               // or when more of the journal waits; 1 GiB
	Witnessing       Witnessing          // none by default
	Stamping         Stamping            // none by default
	Known            []ledger.Checkpoint // that somebody kept: Open refuses a log that didn't grow from them
	Logger           *slog.Logger        // slog.Default
	// Cut is called with the records of each block that is cut in this boot, in
	// order; it may keep none. They are synced in the journal. Nil is nobody.
	Cut func([]evidence.Record)

	testingOnlyTree func(merkleTree) merkleTree // wraps the tree to make it fail
}

func (c Config) withDefaults() (Config, error) {
	if c.Signer == nil {
		return c, errors.New("no key to sign checkpoints with")
	}
	setDefault(&c.Origin, c.Signer.Name())
	setDefault(&c.Interval, time.Second)
	setDefault(&c.MaxBytes, 4<<20)
	setDefault(&c.MaxUnsealedAge, time.Hour)
	setDefault(&c.MaxUnsealedBytes, 1<<30)
	setDefault(&c.Logger, slog.Default())
	switch {
	case c.Origin != c.Signer.Name():
		return c, fmt.Errorf("the log is %s and its key is named %s; give it the key that was made for this log", c.Origin, c.Signer.Name())
	case c.Next != nil && (c.Next.Name() != c.Origin || c.Next.KeyHash() == c.Signer.KeyHash()):
		return c, fmt.Errorf("the key to come is not another one of log %s", c.Origin)
	case !ledger.ValidOrigin(c.Origin):
		return c, fmt.Errorf("%q can't name a log; use letters, digits and ._:@/- only", c.Origin)
	case c.MaxBytes < 0 || c.MaxBytes > 16<<20:
		return c, fmt.Errorf("blocks of %d bytes: want at most 16 MiB", c.MaxBytes)
	case c.Interval < 0 || c.MaxUnsealedAge < 0 || c.MaxUnsealedBytes < 0:
		return c, errors.New("negative time or size")
	}
	err := errors.Join(c.Witnessing.check(), c.Stamping.check())
	return c, err
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// ErrDiverged means that journal, archive and tree can't all be of one history.
// It is never resolved by itself; the message says what to do.
var ErrDiverged = errors.New("journal, archive and log do not fit together")

// Sealer seals the journal of one gateway.
type Sealer struct {
	cfg     Config
	journal Journal
	archive Archive
	keys    Keys
	signers *signers
	tree    merkleTree
	outside *witnesses
	stamps  *stamps

	// Owned by the goroutine in Run, and by Open before it.
	batch batch       // records read and not yet cut
	run   []*cutBlock // the blocks that are being sealed; kept over retries, so that they put the same bytes

	mu      sync.Mutex
	sealed  sealed
	oldest  oldest        // record that waits
	failure failure       // of the last attempt
	work    work          // of this one
	flushTo journal.LSN   // someone waits for everything before it
	changed chan struct{} // closed and made anew when sealed or failure changes
	done    bool          // Run has returned

	gone disposed

	releasing sync.RWMutex // held for reading while a scan needs the journal as it is
	wake      chan struct{}
}

// sealed is how far the log is: everything in it is covered by the checkpoint.
type sealed struct {
	blocks     uint64
	last       *ledger.Header // nil before the first block
	upTo       journal.LSN    // the journal's frames below it are in blocks
	checkpoint ledger.Checkpoint
	at         time.Time // when the checkpoint was published
}

type oldest struct {
	t    int64     // microseconds since the epoch, as its head has it; 0 when nothing waits
	seen time.Time // by us
}

type failure struct {
	err   error
	at    Part
	since time.Time
	final bool
}

// Part is what sealing needs of others.
type Part string

// The parts.
const (
	AtJournal Part = "journal"
	AtArchive Part = "archive"
	AtLog     Part = "log" // tiles and checkpoint
)

// Parts are all of them.
var Parts = []Part{AtJournal, AtArchive, AtLog}

// work is what an attempt waits for.
type work struct {
	at    Part
	what  string
	since time.Time // zero between attempts
}

// Open opens the log, or begins it, and brings it to the state that a crash
// interrupted. It refuses when journal, archive and log are not of one history.
func Open(ctx context.Context, cfg Config, j Journal, a Archive, k Keys) (*Sealer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	s := &Sealer{
		cfg: cfg, journal: j, archive: a, keys: k,
		changed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	if err := s.checkDir(ctx); err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	tree, err := openTessera(ctx, cfg.Dir, s.signers, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	if cfg.testingOnlyTree != nil {
		tree = cfg.testingOnlyTree(tree)
	}
	s.tree = tree
	newest := func() ledger.Checkpoint { return s.state().checkpoint }
	s.outside = newWitnesses(cfg.Witnessing, cfg.Logger, newest, s.prove)
	s.stamps = newStamps(cfg.Stamping, cfg.Logger, newest)
	err = s.recover(ctx)
	if err == nil {
		err = s.proveKeys(ctx)
	}
	if err == nil {
		err = s.compare(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log: %w", err), tree.Close())
	}
	s.stamps.open()
	return s, nil
}

// compare holds the log against what others know of it.
func (s *Sealer) compare(ctx context.Context) error {
	tree := ledger.NewTree(s.sealed.checkpoint, s.tree.FS())
	list, err := ofLog(s.cfg.Origin, s.cfg.Known)
	if err != nil {
		return err
	}
	for _, known := range list {
		if err := checkKnown(tree, known, "a known checkpoint"); err != nil {
			return err
		}
	}
	return s.outside.open(ctx, s.signers, tree)
}

func (s *Sealer) prove(cp ledger.Checkpoint, old uint64) ([]evidence.Hash, error) {
	return ledger.NewTree(cp, s.tree.FS()).ConsistencyProof(old)
}

// Witnessed asks the witnesses and returns a checkpoint of everything that is
// sealed, cosigned by a quorum. When ctx is done first, or there are no
// witnesses, the checkpoint is the published one, and the error an ErrNoQuorum.
func (s *Sealer) Witnessed(ctx context.Context) (ledger.Checkpoint, error) {
	cp := s.state().checkpoint
	if len(s.cfg.Witnessing.Witnesses) == 0 {
		return cp, fmt.Errorf("%w: none is configured", ErrNoQuorum)
	}
	witnessed, err := s.outside.await(ctx, cp.Size)
	if err != nil {
		return cp, err
	}
	return witnessed, nil
}

// Stamp has everything that is sealed stamped, and returns when every time stamp
// authority has done so or failed to, or ctx is done. Patient also waits for
// those that failed when last asked; Status says what came of it.
func (s *Sealer) Stamp(ctx context.Context, patient bool) {
	s.stamps.await(ctx, s.state().checkpoint.Size, patient)
}

// Close closes the tree. Run must have returned.
func (s *Sealer) Close() error {
	if err := s.tree.Close(); err != nil {
		return fmt.Errorf("closing the log: %w", err)
	}
	return nil
}

// sealBlocks is the critical path: it makes a run of blocks part of the log for
// good. Open comes here with blocks that a crash left half-way, and every step
// is safe to repeat. A run is usually one block; behind a backlog it is more,
// since a checkpoint takes a while and covers any number.
func (s *Sealer) sealBlocks(ctx context.Context, run []*cutBlock) error {
	last := run[len(run)-1]
	for _, c := range run {
		// 1. The block is durable in the archive. Until now the journal alone
		// has its records: after a crash they are cut anew, perhaps at another
		// place. From here on block n is these bytes and no others: Open finds
		// it and goes on with step 2.
		if err := s.store(ctx, c); err != nil {
			return err
		}
		failpoint.Hit("block stored")

		// 2. Its header is leaf n. Where it brings another key of the log, that
		// one signs from here on; Open finds the block, and so the key. Adding
		// isn't exactly-once by itself; the size of the tree makes it so: an
		// attempt that failed may have come through, and so may one before a
		// crash. Leaves of others can't come between: this process alone adds,
		// and waits for every answer.
		if err := s.add(ctx, c, last.header.Block); err != nil {
			return err
		}
		failpoint.Hit("leaf added")
	}

	// 3. A signed checkpoint covers them. The tree publishes by itself, also
	// after a crash here. What it has published is what others will hold us
	// to, so it is checked before anything depends on it: that we signed it,
	// that it continues the checkpoint before, and that these blocks are in it.
	if s.signers.at(last.header.Block+1) == nil { // see turn: there is more to come
		before := s.state()
		s.setSealed(sealed{last.header.Block + 1, &last.header, last.end, before.checkpoint, before.at})
		return nil
	}
	s.begins(AtLog, "publishing a checkpoint of block %d", last.header.Block)
	cp, at, err := s.awaitCheckpoint(ctx, last.header.Block+1)
	if err != nil {
		return err
	}
	if err := s.checkLeaves(cp, run); err != nil {
		return err
	}
	failpoint.Hit("checkpoint published")

	// 4. The blocks count as sealed, for readers and for those to come. A crash
	// here loses nothing: Open finds the same by the size of the tree.
	s.setSealed(sealed{last.header.Block + 1, &last.header, last.end, cp, at})

	// 5. The journal may forget. A crash before it leaves records in both; Open
	// skips those in the journal, by their positions.
	s.release(last.end)
	failpoint.Hit("released")
	return nil
}

func (s *Sealer) store(ctx context.Context, c *cutBlock) error {
	n := c.header.Block
	s.begins(AtArchive, "storing block %d", n)
	err := s.archive.Put(ctx, ledger.BlockPath(n), c.file)
	if errors.Is(err, archive.ErrExists) {
		return fmt.Errorf("%w: the archive holds another block %d than the one due: %w; something else writes to this archive, "+
			"or it belongs to another log: stop the other gateway, or put back the right archive", ErrDiverged, n, err)
	}
	if err != nil {
		return fmt.Errorf("storing block %d: %w", n, err)
	}
	return nil
}

// add makes c's header a leaf, unless an earlier attempt at the run, which ends
// with block last, already did. That the leaf is this block is checked later.
func (s *Sealer) add(ctx context.Context, c *cutBlock, last uint64) error {
	n := c.header.Block
	s.begins(AtLog, "adding block %d to the log", n)
	size, err := s.tree.Size(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("asking for the size of the log: %w", err)
	case n < size && size <= last+1:
		return nil
	case size != n:
		return fmt.Errorf("%w: block %d is due and the log has %d leaves; something else writes to %s", ErrDiverged, n, size, s.cfg.Dir)
	}
	if err := s.turn(ctx, c); err != nil {
		return err
	}
	at, err := s.tree.Add(ctx, c.header.Encode())
	if err != nil {
		return fmt.Errorf("adding block %d to the log: %w", n, err)
	}
	if at != n {
		return fmt.Errorf("%w: block %d became leaf %d; something else writes to %s", ErrDiverged, n, at, s.cfg.Dir)
	}
	return nil
}

// checkLeaves checks that cp continues the checkpoint before and holds run.
func (s *Sealer) checkLeaves(cp ledger.Checkpoint, run []*cutBlock) error {
	tree := ledger.NewTree(cp, s.tree.FS())
	if before := s.state().checkpoint; before.Origin != "" {
		what := fmt.Sprintf("checkpoint of %d leaves after one of %d", cp.Size, before.Size)
		if err := diverged(tree.CheckConsistency(before), what); err != nil {
			return err
		}
	}
	for _, c := range run {
		if err := diverged(tree.CheckLeaf(&c.header), fmt.Sprintf("block %d", c.header.Block)); err != nil {
			return err
		}
	}
	return nil
}

// diverged makes a proof that failed final; tiles that could not be read may be
// readable at the next attempt.
func diverged(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ledger.ErrProof):
		return fmt.Errorf("%w: %s: %w; run exhibit log fsck", ErrDiverged, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// publishWait is how long a checkpoint may take; the tree publishes within
// checkpointInterval.
const publishWait = 10 * time.Second

// awaitCheckpoint waits for a published checkpoint of at least size leaves, and
// returns it with the time of its publication.
func (s *Sealer) awaitCheckpoint(ctx context.Context, size uint64) (ledger.Checkpoint, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	tick := time.NewTicker(checkpointInterval / 10)
	defer tick.Stop()
	for {
		cp, at, err := s.published(s.tree.FS())
		if err == nil && cp.Size >= size || errors.Is(err, ErrDiverged) {
			return cp, at, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ledger.Checkpoint{}, at, fmt.Errorf("waiting for a checkpoint of %d blocks: %w", size, errors.Join(ctx.Err(), err))
		}
	}
}

// published returns the checkpoint that is published, which must be ours.
func (s *Sealer) published(dir fs.FS) (cp ledger.Checkpoint, at time.Time, err error) {
	msg, err := fs.ReadFile(dir, ledger.CheckpointPath)
	if err != nil {
		return cp, at, fmt.Errorf("reading the checkpoint: %w", err)
	}
	info, err := fs.Stat(dir, ledger.CheckpointPath)
	if err != nil {
		return cp, at, fmt.Errorf("reading the checkpoint: %w", err)
	}
	cp, err = s.signers.open(msg, nil)
	if err != nil {
		return cp, at, fmt.Errorf("%w: the checkpoint in %s is not signed by the key of %s: %w; "+
			"put back the key that this log was begun with, or begin another log under another name", ErrDiverged, s.cfg.Dir, s.cfg.Origin, err)
	}
	return cp, info.ModTime(), nil
}

// release lets the journal forget what is sealed, unless a scan is reading
// there: then it will after the next block.
func (s *Sealer) release(upTo journal.LSN) {
	if upTo == 0 || !s.releasing.TryLock() {
		return
	}
	defer s.releasing.Unlock()
	if err := s.journal.Release(upTo); err != nil {
		// The block is sealed. What is released late costs space only, and the
		// journal itself reports what ails it.
		s.cfg.Logger.Warn("the journal did not release what is sealed; it will be asked again after the next block", "cause", err)
	}
}

func (s *Sealer) state() sealed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed
}

func (s *Sealer) setSealed(st sealed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = st
	s.broadcast()
}

// broadcast wakes all who wait in Flush. The caller holds mu.
func (s *Sealer) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// lastPosition is the position of a block's last record, zero without a block.
func lastPosition(h *ledger.Header) evidence.Position {
	if h == nil {
		return evidence.Position{}
	}
	return h.LastPosition()
}
