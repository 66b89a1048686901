package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Fsck is a check of a log at rest or in use. It needs no secret, trusts nothing
// that it reads, and derives everything again from the blocks.
type Fsck struct {
	Log      note.Verifier       // of a key that the log has or had
	Archive  fs.FS               // blocks
	Tree     fs.FS               // tiles and checkpoint
	Known    []ledger.Checkpoint // that somebody kept
	Stamps   fs.FS               // where stamped checkpoints may lie; nil is nowhere
	Progress func(done, total uint64)
}

// Report is what Fsck found.
type Report struct {
	Blocks, Records, Bytes uint64        // read
	Disposed               uint64        // blocks that a disposal on record has deleted
	Root                   evidence.Hash // of the tree over the blocks read
	Checkpoint             ledger.Checkpoint
	Findings               []Finding // at most maxFindings
	More                   uint64    // findings beyond those
	Keys                   *ledger.Keys
}

// Finding is one thing that isn't as it should be.
type Finding struct {
	Where   string // "checkpoint", "block 12", "tile/entries/000"
	Problem string
	Hint    string // what to do
	Notice  bool   // explained by a gateway that runs or crashed; no damage
}

const maxFindings = 100

// What to do about a finding.
const (
	hintRestore  = "restore this file from a copy of the archive; the log proves whether the copy is right"
	hintTiles    = "stop the gateway and move the log directory away: it is made anew from the archive and must lead to the same root. Keep what you moved"
	hintKey      = "check that the verifier key is the one this log was begun with; if it is, treat the checkpoint as forged"
	hintKeys     = "the log's records and its keys disagree, which no crash explains: keep a copy of everything and ask who had the log's keys"
	hintKnown    = "do not run a gateway on this log; look for the newest copy of it, and for who wrote another"
	hintStamps   = "no pack is made with it: move the file away and keep it; time stamps begin anew"
	hintHeaders  = "stop the gateway and put the log directory back from the newest backup: blocks were disposed of, and the headers of those are there alone"
	hintTampered = "the archive and the signed log disagree: treat the archive as altered, keep a copy as evidence, and restore it from elsewhere"
	hintHistory  = "the signed log itself is not in order, which no crash explains: keep a copy of everything and ask who had the log's key"
)

// Run checks the log. The error is for what kept it from looking.
func (f Fsck) Run(ctx context.Context) (*Report, error) {
	k := &checker{Fsck: f, report: &Report{}}
	k.openCheckpoint()
	k.known()
	k.readDisposals()
	size := k.report.Checkpoint.Size
	var prev *ledger.Header
	for n := range size {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("checking the log: %w", err)
		}
		if n%bundle == 0 {
			k.openBundle(n)
		}
		prev = k.block(n, prev)
		if f.Progress != nil {
			f.Progress(n+1, size)
		}
	}
	k.report.Root = k.root.Root()
	k.concludeKeys()
	k.concludeDisposals()
	k.stamps()
	if k.root.Size() == size && k.signed && k.report.Root != k.report.Checkpoint.Root {
		k.found("checkpoint", "its root is not that of the blocks", hintTampered)
	}
	k.beyond(size, prev)
	return k.report, nil
}

const bundle = 256 // leaves in a bundle

// checker is the state of one run.
type checker struct {
	Fsck
	report *Report
	signed bool        // there is a checkpoint to hold the blocks against
	due    *ledger.Key // that signed it, where records say so

	disposals *disposals

	root    ledger.TreeHasher // over the blocks read, and the leaves of those that were disposed of
	leaves  []evidence.Hash   // proven, of the current bundle; nil when the tiles prove nothing
	entries [][]byte          // of the current bundle, as they lie there
}

func (k *checker) found(where, problem, hint string) {
	k.add(Finding{Where: where, Problem: problem, Hint: hint})
}

func (k *checker) add(f Finding) {
	if len(k.report.Findings) == maxFindings {
		k.report.More++
		return
	}
	k.report.Findings = append(k.report.Findings, f)
}

// tiles is what to do about the tree's files: an archive that blocks were
// disposed of doesn't make them anew.
func (k *checker) tiles() string {
	if _, err := fs.Stat(k.Archive, markDisposed); err == nil {
		return hintHeaders
	}
	return hintTiles
}

// stamps checks that what was stamped are checkpoints of this log. Whose word
// the stamps are is for who trusts somebody.
func (k *checker) stamps() {
	if k.Stamps == nil || !k.signed {
		return
	}
	f, err := k.Stamps.Open(ledger.StampsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		k.found(ledger.StampsFile, err.Error(), hintStamps)
		return
	}
	defer f.Close()
	ever := k.report.Keys.Verifiers() // that the log had
	if len(ever) == 0 {
		ever = []note.Verifier{k.Log}
	}
	tree, n := ledger.NewTree(k.report.Checkpoint, k.Tree), 0
	err = ledger.ReadStamps(f, func(_ []byte, s *ledger.Stamped) error {
		n++
		cp, _, err := s.Open()
		if err == nil {
			_, err = ledger.OpenCheckpoint([]byte(s.Checkpoint), ever, nil, 0)
		}
		if err == nil && cp.Size <= tree.Checkpoint.Size { // or the log went on since
			err = tree.CheckConsistency(cp)
		}
		if err != nil {
			k.found(fmt.Sprintf("%s, line %d", ledger.StampsFile, n), err.Error(), hintStamps)
		}
		return nil
	})
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // one that a crash cut off is written over
		k.found(ledger.StampsFile, err.Error(), hintStamps)
	}
}

// openCheckpoint finds out how many blocks there must be. Without a checkpoint
// to trust, all that are in the archive are read.
func (k *checker) openCheckpoint() {
	k.report.Keys = ledger.NewKeys(k.Log.Name())
	msg, err := fs.ReadFile(k.Tree, ledger.CheckpointPath)
	if err == nil {
		var cp ledger.Checkpoint
		var keys *ledger.Keys
		if cp, keys, err = OpenCheckpoint(k.Archive, k.Log, msg); err == nil {
			k.report.Checkpoint, k.signed, k.due = cp, true, keys.Current()
			return
		}
		k.found("checkpoint", err.Error(), hintKey)
	} else {
		k.found("checkpoint", err.Error(), k.tiles())
	}
	for {
		if _, err := fs.Stat(k.Archive, ledger.BlockPath(k.report.Checkpoint.Size)); err != nil {
			return
		}
		k.report.Checkpoint.Size++
	}
}

// OpenCheckpoint opens a log's checkpoint by a key that the log has or had: by
// that one or, where records in the archive put others in force, by the one
// that they say, with the history of keys that they make. What they say is
// unproven.
func OpenCheckpoint(archive fs.FS, log note.Verifier, msg []byte) (cp ledger.Checkpoint, keys *ledger.Keys, err error) {
	text, _, _ := strings.Cut(string(msg), "\n\n")
	claimed, err := ledger.ParseCheckpoint(text + "\n")
	if err != nil {
		return cp, nil, err
	}
	keys, err = readHistory(log.Name(), claimed.Size, func(n uint64, sections int) (*ledger.Block, error) {
		file, err := fs.ReadFile(archive, ledger.BlockPath(n))
		if err == nil {
			file, err = ledger.Cut(file, sections)
		}
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		return ledger.ParseBlock(file)
	})
	if err != nil || keys.Current() == nil { // what ails the blocks Fsck finds as it reads them
		cp, err = ledger.OpenCheckpoint(msg, []note.Verifier{log}, nil, 0)
		return cp, ledger.NewKeys(log.Name()), err
	}
	if !slices.ContainsFunc(keys.List(), func(have ledger.Key) bool { return sameKey(have.Verifier, log) }) {
		return cp, nil, fmt.Errorf("%w: the log never had the key %s", ledger.ErrCheckpoint, ledger.KeyID(log))
	}
	cp, err = keys.OpenCheckpoint(msg, nil, 0)
	return cp, keys, err
}

func sameKey(a, b note.Verifier) bool { return a.Name() == b.Name() && a.KeyHash() == b.KeyHash() }

// learn folds the changes of keys in a block.
func (k *checker) learn(where string, b *ledger.Block) {
	for _, r := range keyChanges(b.Records) {
		if err := k.report.Keys.Apply(b.Block, &r); err != nil {
			k.found(where, err.Error(), hintKeys)
		}
	}
}

// concludeKeys holds the key that signed against all that the blocks say.
func (k *checker) concludeKeys() {
	last := k.report.Keys.Current()
	differ := (last == nil) != (k.due == nil) || last != nil && k.due != nil && last.Text != k.due.Text
	if k.signed && differ && k.report.Blocks+k.report.Disposed == k.report.Checkpoint.Size {
		k.found("checkpoint", "it is signed by another key of the log than the one that the blocks put in force", hintKeys)
	}
	tree := ledger.NewTree(k.report.Checkpoint, k.Tree)
	for _, c := range k.report.Keys.Changes() {
		if !k.signed {
			return
		}
		cp := ledger.Checkpoint{Origin: k.report.Checkpoint.Origin, Size: c.Body.Size, Root: c.Body.Root}
		if err := tree.CheckConsistency(cp); err != nil {
			k.found(fmt.Sprintf("block %d", c.Block), fmt.Sprintf("the checkpoint that log.key %s names: %v", c.Pos, err), hintKeys)
		}
	}
}

// known holds the log against what others have seen of it.
func (k *checker) known() {
	if !k.signed {
		return
	}
	list, err := ofLog(k.report.Checkpoint.Origin, k.Known)
	if err != nil {
		k.found("known checkpoints", err.Error(), hintKnown)
	}
	tree := ledger.NewTree(k.report.Checkpoint, k.Tree)
	for _, known := range list {
		if err := checkKnown(tree, known, "a known checkpoint"); err != nil {
			k.found(fmt.Sprintf("known checkpoint of %d blocks", known.Size), err.Error(), hintKnown)
		}
	}
}

// openBundle reads the leaves from n on: what the tiles prove of them, and the
// copies of the headers in the bundle.
func (k *checker) openBundle(n uint64) {
	k.leaves, k.entries = nil, nil
	if !k.signed {
		return
	}
	cp := k.report.Checkpoint
	end := min(n+bundle, cp.Size)
	var err error
	if k.leaves, err = ledger.NewTree(cp, k.Tree).LeafHashes(n, end); err != nil {
		k.found(fmt.Sprintf("leaves %d to %d", n, end-1), err.Error(), k.tiles())
	}
	if k.entries, err = ledger.ReadEntries(k.Tree, n/bundle, cp.Size); err != nil {
		k.found(ledger.EntriesPath(n/bundle, int(end-n)), err.Error(), k.tiles())
	}
}

// block checks block n, and returns its header unless it can't be had.
func (k *checker) block(n uint64, prev *ledger.Header) *ledger.Header {
	where := fmt.Sprintf("block %d", n)
	file, err := fs.ReadFile(k.Archive, ledger.BlockPath(n))
	if errors.Is(err, fs.ErrNotExist) {
		return k.missing(where, n, prev)
	}
	if err != nil {
		k.found(where, err.Error(), hintRestore)
		return nil
	}
	b, err := ledger.ParseBlock(file)
	if err != nil {
		k.found(where, err.Error(), hintRestore)
		return nil
	}
	k.report.Blocks++
	k.report.Records += b.Count
	k.report.Bytes += uint64(len(file))
	k.root.AddHash(b.Hash())
	if !k.leaf(where, n, b) {
		return nil // what comes after it isn't held against it
	}
	k.learn(where, b)
	k.dispose(where, b)
	if !b.Control && k.disposals.of(n) {
		k.add(Finding{Where: where, Problem: "it was disposed of and is still there", Hint: "start the gateway, which deletes it", Notice: true})
	}
	if prev != nil || n == 0 {
		if err := b.Follows(prev); err != nil {
			k.found(where, err.Error(), hintHistory)
		}
	}
	if k.signed && b.Origin != k.report.Checkpoint.Origin {
		k.found(where, fmt.Sprintf("it is of log %s", b.Origin), hintTampered)
	}
	if b.Present < ledger.NumSections {
		k.found(where, fmt.Sprintf("it was cut after section %s", ledger.SectionNames[b.Present-1]), hintRestore)
	} else if _, err := b.Chunks(); err != nil {
		k.found(where, err.Error(), hintHistory)
	}
	return &b.Header
}

// leaf compares a block with its leaf, and reports whether it is that; then also
// with the copy of its header.
func (k *checker) leaf(where string, n uint64, b *ledger.Block) bool {
	i := int(n % bundle)
	if i < len(k.leaves) && k.leaves[i] != b.Hash() {
		problem := "it is not the block that the signed log has as its leaf"
		if b.Block != n {
			problem += fmt.Sprintf(": it says that it is block %d of %s", b.Block, b.Origin)
		}
		k.found(where, problem, hintTampered)
		return false
	}
	if i < len(k.entries) && !bytes.Equal(k.entries[i], b.Encoded) {
		k.found(where, fmt.Sprintf("the log's copy of its header in %s differs", ledger.EntriesPath(n/bundle, bundle)), k.tiles())
	}
	return true
}

// beyond looks for blocks that no checkpoint covers yet.
func (k *checker) beyond(size uint64, prev *ledger.Header) {
	if !k.signed {
		return
	}
	for n := size; ; n++ {
		file, err := fs.ReadFile(k.Archive, ledger.BlockPath(n))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		where := fmt.Sprintf("block %d", n)
		var b *ledger.Block
		if err == nil {
			b, err = ledger.ParseBlock(file)
		}
		if err == nil && (prev != nil || n == 0) {
			err = b.Follows(prev)
		}
		if err != nil {
			k.found(where, "it is in the archive and not in the log: "+err.Error(), hintTampered)
			return
		}
		k.add(Finding{
			Where: where, Problem: "it is in the archive and not in the log yet",
			Hint: "nothing: a running gateway is about to add it, and one that crashed adds it when it starts", Notice: true,
		})
		prev = &b.Header
	}
}
