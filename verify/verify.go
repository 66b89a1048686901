package verify

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// checks are those of integrity, in the order in which they are reported.
type checks struct {
	files, manifest, digests       Check
	checkpoint, keys               Check
	witnesses, known, tree, stamps Check
	leaf, block, follows, control  Check
	disposed                       Check
	edges, context                 Check
	commitments, sealed            Check
	tables, replay, meaning        Check
}

func (c *checks) all() []*Check {
	return []*Check{
		&c.files, &c.manifest, &c.digests, &c.checkpoint, &c.keys, &c.witnesses, &c.known, &c.tree, &c.stamps, &c.leaf, &c.block, &c.follows, &c.control, &c.disposed,
		&c.edges, &c.context, &c.commitments, &c.sealed, &c.tables, &c.replay, &c.meaning,
	}
}

func newChecks() *checks {
	check := func(id, of, title string) Check {
		return Check{Kind: Integrity, Test: workpaper.Test{ID: id, Of: of, Title: title}}
	}
	c := &checks{
		files:       check("pack.files", "files", "The pack holds the files that its manifest names, and no others"),
		manifest:    check("pack.manifest", "manifests", "The manifest is well-formed and signed by a key of the log"),
		digests:     check("pack.digests", "files", "Every file is the one in the manifest"),
		checkpoint:  check("log.checkpoint", "checkpoints", "The checkpoint is signed by a key of the log that you trust, or that one led to"),
		keys:        check("log.keys", "keys", "The key that signed is the one that the log's own records put in force"),
		witnesses:   check("log.witnesses", "cosignatures", "A quorum of witnesses has cosigned the checkpoint"),
		known:       check("log.known", "known checkpoints", "The log grew from the checkpoints that you kept"),
		tree:        check("log.tree", "leaves", "The log's tree, rebuilt from its tiles, has the checkpoint's root"),
		stamps:      check("log.stamps", "time stamps", "Time stamp authorities say when the log was there"),
		leaf:        check("log.leaf", "blocks", "Every block is in the log, at its number"),
		block:       check("log.block", "blocks", "Every block holds the records and sections that its header commits to"),
		follows:     check("log.follows", "blocks", "Every block follows the one before it; none is missing"),
		control:     check("log.control", "blocks before the range with control records", "No earlier change of rights is left out"),
		disposed:    check("log.disposed", "disposals", "Every disposal on record has the digest of the blocks that it names, and none of those is in the pack"),
		edges:       check("pack.range", "edges", "The range holds every block of the period"),
		context:     check("pack.context", "blocks before the range", "Blocks that the range refers to are there, in order"),
		commitments: check("record.commitment", "records with a body or a sealed part", "Every body is the one that its head commits to"),
		sealed:      check("record.sealed", "sealed parts", "Every sealed part is the one that its head commits to"),
		tables:      check("pack.tables", "files", "Every table, made again from the records, is the pack's byte for byte"),
		replay:      check("decision.replay", "decisions", "Every decision, made again from its inputs, is the recorded one"),
		meaning:     check("decision.facts", "statements", "The recorded checks are what the statement asks for"),
	}
	return c
}

// verifier is the checking of one pack.
type verifier struct {
	progress func(done, total uint64) // of records; nil tells nobody

	trust Trust
	c     *checks
	files *files
	m     *Manifest
	tree  *ledger.Tree
	seeds seeds
	fold  *workpaper.Fold
	sum   *workpaper.Summary // nil until the range was folded
	memo  memo
	out   tables

	stamped stamped

	leaves   []evidence.Hash // of the tile at leavesAt
	leavesAt uint64
	texts    map[string]bool
	before   []link   // of the context, in order
	controls []uint64 // blocks of the range with control records
	edge     [2]*ledger.Header
	cp       *ledger.Checkpoint
	keys     keyring

	encoded, signature []byte // the manifest and what signs it

	parts *sealedFile // of a pack of level L3

	samples                     []*Sampled
	drawn, sealedParts, ordered Check
}

// link is what is kept of a block of the context: its place in the chain of
// control blocks.
type link struct {
	block   uint64
	prev    int64
	control bool
}

// Pack checks a pack. The error is for what leaves nothing to report: trust
// that can't be used. Whatever is wrong with the pack is in the report, and with
// the samples that were drawn of it.
func Pack(pack fs.FS, t Trust, samples ...*Sampled) (*Report, error) {
	return verifyPack(pack, t, true, samples, nil)
}

// PackWith is Pack, and tells how many of the range's records have been read.
func PackWith(progress func(done, total uint64), pack fs.FS, t Trust, samples ...*Sampled) (*Report, error) {
	return verifyPack(pack, t, true, samples, progress)
}

func verifyPack(pack fs.FS, t Trust, remember bool, samples []*Sampled, progress func(done, total uint64)) (*Report, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	v := &verifier{progress: progress, trust: t, c: newChecks(), texts: make(map[string]bool), memo: newMemo(remember), leavesAt: 1}
	v.sampling(samples)
	v.files = &files{fs: pack, taken: make(map[string]bool), check: &v.c.digests}
	v.run()
	return v.report(), nil
}

// run goes through the pack until something makes the rest meaningless.
func (v *verifier) run() {
	v.readKeys()
	if !v.manifest() || !v.checkpoint() {
		return
	}
	v.knownCheckpoints()
	v.wholeTree()
	v.stamps()
	whole := v.readSeeds() && v.readContext() && v.readEdges() && v.readRange()
	if whole {
		v.conclude()
		v.concludeKeys()
		v.concludeSamples()
	}
	v.out.release()
	v.files.rest(&v.c.files, whole)
}

// manifest reads the manifest and its signature.
func (v *verifier) manifest() bool {
	c := &v.c.manifest
	c.made, v.c.files.made = true, true
	var err error
	if v.files.names, err = listFiles(v.files.fs, &v.c.files); err != nil {
		v.c.files.except("%.200s", err)
		return false
	}
	v.c.files.Population = uint64(len(v.files.names))
	encoded, err := readSmall(v.files.fs, ManifestFile, maxManifest)
	if err != nil {
		c.except("it can't be read: %.200s", err)
		return false
	}
	if v.m, err = parseManifest(encoded); err != nil {
		c.except("%.300s", err)
		return false
	}
	c.Population = 1
	sig, err := readSmall(v.files.fs, SignatureFile, maxSmall)
	if err == nil {
		err = openSignature(sig, encoded, v.m.Origin, v.keys.accepted)
	}
	if err != nil {
		c.except("its signature: %.200s", err)
		return false
	}
	v.files.manifest = make(map[string]File, len(v.m.Files))
	for _, f := range v.m.Files {
		v.files.manifest[f.Path] = f
	}
	v.c.digests.made = true
	v.encoded, v.signature = encoded, sig
	v.withheld()
	return true
}

// checkpoint opens the checkpoint and with it the tree.
func (v *verifier) checkpoint() bool {
	c := &v.c.checkpoint
	c.made = true
	msg, err := v.files.read(LogFolder+"/"+ledger.CheckpointPath, maxSmall)
	if err != nil {
		c.except("%.200s", err)
		return false
	}
	cp, err := ledger.OpenCheckpoint(msg, v.keys.accepted, v.trust.Witnesses, 0)
	if err != nil {
		c.except("%.200s", err)
		return false
	}
	c.Population = 1
	if cp.Origin != v.m.Origin || cp.Size != v.m.Tree.Size || !bytes.Equal(cp.Root[:], v.m.Tree.Root) {
		c.except("it is not the one in the manifest")
		return false
	}
	v.cp = &cp
	v.tree = ledger.NewTree(cp, &logFS{files: v.files, kept: make(map[string][]byte)})
	v.witnesses(&cp)
	return true
}

func (v *verifier) witnesses(cp *ledger.Checkpoint) {
	c := &v.c.witnesses
	c.made = true
	if len(v.trust.Witnesses) == 0 {
		c.State, c.Note = workpaper.NotTested, "No witness is trusted: operator-only integrity"
		return
	}
	c.Population = uint64(len(cp.Cosignatures))
	if len(cp.Cosignatures) < v.trust.Quorum {
		c.except("%d of the trusted witnesses cosigned it, %d are needed", len(cp.Cosignatures), v.trust.Quorum)
	}
}

// knownCheckpoints checks that the log grew from what the auditor kept.
func (v *verifier) knownCheckpoints() {
	c := &v.c.known
	c.made = true
	for _, old := range v.trust.Known {
		if old.Origin != v.cp.Origin {
			continue
		}
		c.Population++
		if err := v.tree.CheckConsistency(old); err != nil {
			c.except("%.300s", err)
		}
	}
	if c.Population == 0 {
		c.State, c.Note = workpaper.NotTested, "No checkpoint of this log was kept from an earlier visit"
	}
}

// wholeTree rebuilds the tree: every leaf tile, proven against the root.
func (v *verifier) wholeTree() {
	c := &v.c.tree
	c.made = true
	for at := uint64(0); at < v.cp.Size; at += 256 {
		leaves, err := v.tree.LeafHashes(at, min(at+256, v.cp.Size))
		if err != nil {
			c.except("%.200s", err)
			return
		}
		c.Population += uint64(len(leaves))
	}
	for level, n := 0, v.cp.Size; n > 0; level, n = level+1, n/256 {
		for i := uint64(0); i*256 < n; i++ {
			v.files.taken[LogFolder+"/"+ledger.TilePath(level, i, int(min(256, n-i*256)))] = true
		}
	}
}

// leaf checks that a header is in the log.
func (v *verifier) leaf(h *ledger.Header) bool {
	c := &v.c.leaf
	c.made = true
	c.Population++
	if h.Block >= v.cp.Size || h.Origin != v.cp.Origin {
		c.except("block %d of log %s is not in a log %s of %d blocks", h.Block, h.Origin, v.cp.Origin, v.cp.Size)
		return false
	}
	if at := h.Block &^ 255; at != v.leavesAt {
		leaves, err := v.tree.LeafHashes(at, min(at+256, v.cp.Size))
		if err != nil {
			c.except("leaf %d: %.200s", h.Block, err)
			return false
		}
		v.leaves, v.leavesAt = leaves, at
	}
	if v.leaves[h.Block&255] != h.Hash() {
		c.except("block %d is not the one in the log", h.Block)
		return false
	}
	return true
}

// eachBlock reads a file of blocks, all of which must be in the log.
func (v *verifier) eachBlock(path string, fn func(*ledger.Block) bool) bool {
	c := &v.c.block
	c.made = true
	f, err := v.files.open(path)
	if err != nil {
		v.c.files.except("%.200s", err)
		return false
	}
	defer v.files.finish(f)
	r := ledger.NewReader(f, Sections(v.m.Params.Level))
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return true
		}
		c.Population++
		if err != nil {
			c.except("%s: %.300s", path, err)
			return false
		}
		if !v.leaf(&b.Header) || !fn(b) {
			return false
		}
	}
}

// readContext folds the blocks before the range.
func (v *verifier) readContext() bool {
	v.out.begin(v.files, &v.c.tables, Populations(v.m.Params.Level))
	v.fold = newFold(v.m.Params.Level, &v.out)
	v.fold.Decided = v.decided
	if v.m.Params.Level != Heads {
		v.fold.Told = v.out.transcript
	}
	if _, there := v.files.manifest[ContextFile]; !there {
		return true // block 0 begins the range
	}
	return v.eachBlock(ContextFile, func(b *ledger.Block) bool {
		if n := len(v.before); b.Block >= v.m.Range.FirstBlock || n > 0 && v.before[n-1].block >= b.Block {
			v.c.context.except("block %d is out of order in the context", b.Block)
			return false
		}
		v.c.context.Population++
		v.before = append(v.before, link{b.Block, b.PrevControl, b.Control})
		for i := range b.Records {
			v.key(b.Block, &b.Records[i])
			v.disposal(&b.Records[i])
			if !v.commitment(&b.Records[i], true) || !v.text(&b.Records[i]) || !v.folded(v.fold.Opening(&b.Records[i])) {
				return false
			}
		}
		return true
	})
}

// readEdges reads the headers next to the range.
func (v *verifier) readEdges() bool {
	c := &v.c.edges
	c.made = true
	rng := v.m.Range
	var want []uint64
	if rng.FirstBlock > 0 {
		want = append(want, rng.FirstBlock-1)
	}
	if rng.LastBlock+1 < v.cp.Size {
		want = append(want, rng.LastBlock+1)
	}
	if len(want) == 0 {
		return true
	}
	data, err := v.files.read(EdgesFile, 2*(ledger.MaxHeader+1))
	if err != nil {
		c.except("%.200s", err)
		return false
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) != len(want)+1 || len(lines[len(want)]) != 0 {
		c.except("%s holds %d headers, want %d", EdgesFile, len(lines)-1, len(want))
		return false
	}
	for i, n := range want {
		h, err := ledger.ParseHeader(bytes.TrimSuffix(lines[i], []byte("\n")))
		if err != nil || h.Block != n {
			c.except("%s has no header of block %d in its place", EdgesFile, n)
			return false
		}
		if !v.leaf(&h) {
			return false
		}
		if n < rng.FirstBlock {
			v.edge[0] = &h
		} else {
			v.edge[1] = &h
		}
	}
	return true
}

// readRange folds the range and checks that it is whole.
func (v *verifier) readRange() bool {
	v.c.follows.made, v.c.context.made = true, true
	if !v.openSealed() {
		return false
	}
	prev, next, records := v.edge[0], v.m.Range.FirstBlock, uint64(0)
	for next <= v.m.Range.LastBlock {
		path, last := v.fileFrom(next)
		if path == "" {
			v.c.files.except("no file holds block %d", next)
			return false
		}
		ok := v.eachBlock(path, func(b *ledger.Block) bool {
			v.c.follows.Population++
			if b.Block != next {
				v.c.follows.except("block %d where block %d was due", b.Block, next)
				return false
			}
			if err := b.Follows(prev); err != nil {
				v.c.follows.except("%.300s", err)
				return false
			}
			if next == v.m.Range.FirstBlock && !v.opens(&b.Header) {
				return false
			}
			h := b.Header
			v.stamped.block(&h)
			v.fold.Stored(StoredBlock(&h))
			if h.Control {
				v.controls = append(v.controls, h.Block)
			}
			prev, next = &h, next+1
			records += b.Count
			if v.progress != nil {
				v.progress(records, v.m.Range.Records)
			}
			for i := range b.Records {
				v.key(b.Block, &b.Records[i])
				v.disposal(&b.Records[i])
				if !v.commitment(&b.Records[i], false) || !v.part(&b.Records[i]) || !v.text(&b.Records[i]) || !v.folded(v.fold.Record(&b.Records[i])) {
					return false
				}
			}
			return true
		})
		if !ok {
			return false
		}
		if next != last+1 {
			v.c.follows.except("%s ends before block %d", path, last)
			return false
		}
	}
	v.closes(prev, records)
	v.closeSealed()
	return true
}

// fileFrom returns the file whose first block is n, by the names in the
// manifest, and its last.
func (v *verifier) fileFrom(n uint64) (path string, last uint64) {
	prefix := "raw/" + strconv.FormatUint(n, 10) + "-"
	i, _ := slices.BinarySearchFunc(v.m.Files, prefix, func(f File, p string) int { return strings.Compare(f.Path, p) })
	if i == len(v.m.Files) || !strings.HasPrefix(v.m.Files[i].Path, prefix) {
		return "", 0
	}
	text, ok := strings.CutSuffix(strings.TrimPrefix(v.m.Files[i].Path, prefix), ".blocks")
	last, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil || last < n || last > v.m.Range.LastBlock || BlocksPath(n, last) != v.m.Files[i].Path {
		return "", 0
	}
	return v.m.Files[i].Path, last
}

// opens checks the range's beginning against its edge and the context.
func (v *verifier) opens(first *ledger.Header) bool {
	if first.FirstPosition() != v.m.Range.First {
		v.c.manifest.except("the range begins with %s, the manifest says %s", first.FirstPosition(), v.m.Range.First)
	}
	from, errFrom := time.Parse(time.RFC3339Nano, v.m.Params.From)
	to, errTo := time.Parse(time.RFC3339Nano, v.m.Params.To)
	if errFrom != nil || errTo != nil {
		v.c.manifest.except("its parameters from and to are not times")
		return false
	}
	v.c.edges.Population += 2
	if e := v.edge[0]; e != nil && e.To >= from.UnixMicro() {
		v.c.edges.except("block %d, before the range, is of the period", e.Block)
	}
	if e := v.edge[1]; e != nil && e.From <= to.UnixMicro() {
		v.c.edges.except("block %d, after the range, is of the period", e.Block)
	}
	if first.To < from.UnixMicro() {
		v.c.edges.except("block %d, the first, is not of the period", first.Block)
	}
	return v.controlChain(first)
}

// controlChain walks from the first block of the range to the log's first
// control record: every block on the way must be in the context.
func (v *verifier) controlChain(first *ledger.Header) bool {
	c := &v.c.control
	c.made = true
	start := *first
	start.Control = false // its own are in the range
	blocks, err := ledger.ControlBlocks(&start, func(n uint64) (ledger.Header, error) {
		i, ok := slices.BinarySearchFunc(v.before, n, func(l link, n uint64) int { return cmp.Compare(l.block, n) })
		if !ok {
			return ledger.Header{}, fmt.Errorf("block %d holds control records and is not in the context", n)
		}
		l := v.before[i]
		return ledger.Header{Origin: first.Origin, Block: l.block, PrevControl: l.prev, Control: l.control}, nil
	})
	c.Population = uint64(len(blocks))
	if err != nil {
		c.except("%.300s", err)
		return false
	}
	return true
}

// closes checks the range's end.
func (v *verifier) closes(last *ledger.Header, records uint64) {
	if e := v.edge[1]; e != nil {
		v.c.follows.Population++
		if err := e.Follows(last); err != nil {
			v.c.follows.except("%.300s", err)
		}
	}
	if last.LastPosition() != v.m.Range.Last || records != v.m.Range.Records || last.Gateway != v.m.Gateway {
		v.c.manifest.except("the range ends with %s after %d records, the manifest says %s after %d", last.LastPosition(), records, v.m.Range.Last, v.m.Range.Records)
	}
	if to, err := time.Parse(time.RFC3339Nano, v.m.Params.To); err == nil && last.From > to.UnixMicro() {
		v.c.edges.except("block %d, the last, is not of the period", last.Block)
	}
}

func (v *verifier) folded(err error) bool {
	if err != nil {
		v.c.tables.made = true
		v.c.tables.except("the records can't be folded: %.200s", err)
	}
	return err == nil
}

// commitment checks a record's body against its head. Records of the context
// may be of scopes that the pack discloses nothing of.
func (v *verifier) commitment(r *evidence.Record, context bool) bool {
	v.opened(r)
	if v.m.Params.Level == Heads {
		return true
	}
	if !r.Head.HasBody && !r.Head.HasSealed {
		return true
	}
	c := &v.c.commitments
	c.made = true
	salts, state := v.seeds.of(&r.Head)
	switch {
	case state == seedErased:
		v.seeds.untested++
		return true
	case state == seedMissing && context:
		v.seeds.foreign++
		return true
	case state == seedMissing:
		c.Population++
		c.Except(r.Head.Pos, "the pack has no seed of scope %s", ScopeOf(&r.Head))
		return true
	}
	c.Population++
	if err := r.CheckBody(salts); err != nil {
		c.Except(r.Head.Pos, "%.200s", err)
	}
	return true
}

// text compares the policies and configurations that a record brings.
func (v *verifier) text(r *evidence.Record) bool {
	for _, f := range workpaper.Texts(r) {
		if v.texts[f.Name] {
			continue
		}
		v.texts[f.Name] = true
		v.c.tables.made = true
		w := v.files.compare(f.Name, &v.c.tables)
		_, _ = io.WriteString(w, f.Text) // a comparer doesn't fail
		w.close()
	}
	return true
}

// conclude closes the fold and compares what it says with the pack.
func (v *verifier) conclude() {
	v.concludeDisposals()
	c := &v.c.tables
	c.made = true
	sum, err := v.fold.Close()
	if err != nil {
		c.except("%.200s", err)
		return
	}
	v.sum = sum
	for i := range sum.Listings {
		v.out.whole(ListingPath(sum.Listings[i].Name), &sum.Listings[i], true)
	}
	for i := range sum.Controls {
		v.out.whole(ControlPath(sum.Controls[i].Name), &sum.Controls[i], false)
	}
	v.out.close(v.m, sum)
	w := v.files.compare(TestsFile, c)
	if err := workpaper.WriteTests(w, sum.Tests); err != nil {
		c.except("%s: %.200s", TestsFile, err)
	}
	w.close()
	w = v.files.compare(ReadmeFile, c)
	_ = Readme(v.m, sum).WriteHTML(w) // a comparer doesn't fail
	w.close()
	v.derived(PrintFile)
}

// derived takes a file whose content proves nothing: if there is one it is that
// of the manifest, and a rendering of what was compared in another form.
func (v *verifier) derived(path string) {
	if _, there := v.files.manifest[path]; !there {
		return
	}
	f, err := v.files.open(path)
	if err != nil {
		v.c.files.except("%.200s", err)
		return
	}
	v.files.finish(f)
}

// report says how it went.
func (v *verifier) report() *Report {
	r := &Report{Manifest: v.m, Checkpoint: v.cp, Checks: v.c.all(), Integrity: v.integrity()}
	r.Stamped, r.Stamps = v.stampsReport()
	if n := v.seeds.untested; n > 0 {
		v.c.commitments.Note = fmt.Sprintf("%d records of erased scopes were not tested; block headers bind their bodies", n)
	}
	if n := v.seeds.foreign; n > 0 {
		v.c.commitments.Note = strings.TrimSpace(v.c.commitments.Note + fmt.Sprintf(" %d records of other sessions in the context were not tested; block headers bind their bodies.", n))
	}
	if v.sum != nil {
		for _, t := range v.sum.Tests {
			r.Checks = append(r.Checks, &Check{Kind: Control, Test: *t, made: true})
		}
	}
	r.Checks = append(r.Checks, v.sampleChecks()...)
	if v.m != nil && v.cp != nil {
		r.Pack = &PackInfo{v.m.Organisation, v.m.Origin, v.m.Gateway, v.m.Generator, v.m.Params, v.m.Range, v.m.Range.LastBlock - v.m.Range.FirstBlock + 1, v.cp.Size}
		r.Remember = v.cp.Text()
	}
	r.conclude()
	return r
}

// integrity says against whom the evidence stands.
func (v *verifier) integrity() string {
	switch {
	case v.cp == nil:
		return "none: there is no checkpoint to trust"
	case v.trust.Quorum > 0 && len(v.cp.Cosignatures) >= v.trust.Quorum:
		return fmt.Sprintf("witnessed by %d parties outside the gateway", len(v.cp.Cosignatures))
	case v.c.known.Population > 0 && v.c.known.Failed == 0:
		return "operator-only since the last checkpoint that you kept; proven against you before it"
	}
	return "operator-only: whoever holds the log's key could have written another log"
}
