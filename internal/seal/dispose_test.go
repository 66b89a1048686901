package seal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// older is a log of several boots' worth of work, the first part of which is to
// be disposed of. A session and a command are open at the end of that part.
func older(t *testing.T) (w *world, open evidence.Position, cut int64) {
	w = newWorld(t)
	w.config.MaxBytes = 256 // many blocks
	w.open()
	for range 3 {
		w.work(2)
		w.flush()
	}
	open = w.record(evidence.SessionStart, `{"protocol":"postgres"}`, "")
	w.flush()
	w.record(evidence.SessionNote, `{}`, "")
	w.flush()
	w.record(evidence.CommandIntent, `{"path":"simple"}`, `{"raw":"select"}`)
	w.flush()
	time.Sleep(2 * time.Millisecond)
	cut = time.Now().UnixMicro()
	time.Sleep(2 * time.Millisecond)
	w.record(evidence.CommandResult, "", "")
	w.record(evidence.SessionEnd, `{"reason":"terminate"}`, "")
	w.work(3)
	w.flush()
	return w, open, cut
}

// record puts a disposal on record and in the log.
func (w *world) dispose(cut int64) evidence.DisposalBody {
	w.t.Helper()
	scope, _, _, err := w.sealer.Disposable(w.t.Context(), cut)
	check(w.t, err)
	if scope.Blocks == 0 {
		w.t.Fatal("nothing can be disposed of")
	}
	scope.Reason, scope.Retention = "retention", 1
	cp := w.sealer.Status().Checkpoint
	b := evidence.DisposalBody{DisposalScope: scope, Size: cp.Size, Root: cp.Root, By: evidence.By{Person: evidence.Person{ID: "alice"}}}
	w.record(evidence.Disposal, string(evidence.EncodeBody(b)), "")
	w.flush()
	return b
}

func (w *world) setDisposed() {
	w.t.Helper()
	first, kept, err := ReadDisposals(w.archive.FS(), w.sealer.Status().Blocks)
	check(w.t, err)
	w.sealer.SetDisposed(first, kept)
}

// left are the heads that a log still has after a disposal.
func (w *world) left(b *evidence.DisposalBody) (heads []string) {
	w.t.Helper()
	entries := bundleOf{s: w.sealer, st: new(sealed)}
	*entries.st = w.sealer.state()
	i := 0
	for n := range entries.st.blocks {
		h, err := entries.get(n)
		check(w.t, err)
		if n > b.Last || h.Control || slices.Contains(b.Kept, n) {
			heads = append(heads, w.heads[i:i+int(h.Count)]...)
		}
		i += int(h.Count)
	}
	return heads
}

// What is past its retention goes, but for what changes rights and what later
// records refer to. All digests stay: the log still proves what is left, and
// that it grew from what it was.
func TestBlocksAreDisposedOfAndTheLogStands(t *testing.T) {
	w, open, cut := older(t)
	before := w.sealer.Status().Checkpoint
	b := w.dispose(cut)
	w.setDisposed()
	check(t, w.sealer.Delete(t.Context(), &b.DisposalScope))
	check(t, w.sealer.Delete(t.Context(), &b.DisposalScope)) // again, as a start does
	if len(b.Kept) != 3 {
		t.Errorf("it keeps the blocks %d; want those of the boot, of the open session and of the open command", b.Kept)
	}

	check2 := func() {
		t.Helper()
		var all, ctl, opening []string
		check(t, w.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error { all = append(all, string(r.HeadBytes)); return nil }))
		same(t, "records left", all, w.left(&b))
		check(t, w.sealer.ScanControl(t.Context(), nil, func(r *evidence.Record) error { ctl = append(ctl, string(r.HeadBytes)); return nil }))
		same(t, "control records", ctl, w.ctl)
		check(t, w.sealer.ScanOpening(t.Context(), func(r *evidence.Record) error { opening = append(opening, string(r.HeadBytes)); return nil }))
		same(t, "records before what is whole", opening, all[:len(opening)])
		var since []string
		r, err := w.sealer.ReadSince(0)
		check(t, err)
		for n := 1; n > 0; {
			n, err = r.Next(t.Context(), func(r *evidence.Record) error { since = append(since, string(r.HeadBytes)); return nil })
			check(t, err)
		}
		same(t, "records of what is whole", since, all[len(opening):])
	}
	check2()
	for _, pos := range []evidence.Position{open, {Gateway: "gw1", Boot: 1, Seq: 3}} {
		_, err := w.sealer.ReadFrom(pos).Next(t.Context(), func(*evidence.Record) error { return nil })
		if gone := pos != open; gone != errors.Is(err, ErrDisposed) {
			t.Errorf("record %s: %v", pos, err)
		}
	}
	report := w.fsck()
	for _, f := range report.Findings {
		t.Errorf("fsck: %+v", f)
	}
	if report.Disposed != b.Blocks || report.Root != report.Checkpoint.Root || report.Blocks+report.Disposed != report.Checkpoint.Size {
		t.Errorf("fsck: %d disposed of, %d blocks, root %s; want %d, together %d, %s", report.Disposed, report.Blocks, report.Root, b.Blocks, report.Checkpoint.Size, report.Checkpoint.Root)
	}
	tree := ledger.NewTree(report.Checkpoint, os.DirFS(w.config.Dir))
	check(t, tree.CheckConsistency(before))
	check(t, tree.CheckDisposal(&b))

	// The next boot finds what is open by what is left.
	w.close()
	w.open()
	w.setDisposed()
	if _, err := w.sealer.LastBoot(t.Context()); err != nil {
		t.Error(err)
	}
	check2()

	// What the first one kept goes with the second, once it has ended.
	time.Sleep(2 * time.Millisecond)
	w.work(2)
	w.flush()
	second := w.dispose(time.Now().Add(time.Hour).UnixMicro())
	if second.First != b.Last+1 || len(second.Released) != 2 {
		t.Errorf("the second begins with block %d and releases %d of %d", second.First, second.Released, b.Kept)
	}
	w.setDisposed()
	check(t, w.sealer.Delete(t.Context(), &second.DisposalScope))
	if f := w.fsck().Findings; len(f) > 0 {
		t.Errorf("fsck: %+v", f)
	}
}

// A block that is missing is a fault unless a disposal names it; so is one with
// control records whatever a disposal says, and a disposal of other blocks.
func TestFsckTakesOnlyTheGapsThatADisposalNames(t *testing.T) {
	w, _, cut := older(t)
	b := w.dispose(cut)
	w.setDisposed()
	report := w.fsck()
	for _, f := range report.Findings {
		if !f.Notice || !strings.Contains(f.Problem, "still there") {
			t.Errorf("before it is done: %+v", f)
		}
	}
	if len(report.Findings) == 0 {
		t.Error("what is disposed of and still there is not noticed")
	}
	check(t, w.sealer.Delete(t.Context(), &b.DisposalScope))
	for what, n := range map[string]uint64{"kept": b.Kept[1], "later": b.Last + 1, "control": controlBlock(t, w, b.Last)} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(w.dir, "archive", ledger.BlockPath(n))
			check(t, os.Rename(path, path+".away"))
			defer func() { check(t, os.Rename(path+".away", path)) }()
			if f := w.fsck().Findings; len(f) == 0 || f[0].Notice {
				t.Errorf("block %d is away: %+v", n, f)
			}
		})
	}
	// A tree without its headers can't be made anew.
	w.close()
	check(t, os.Rename(w.config.Dir, w.config.Dir+".away"))
	if err := w.tryOpen(); !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("without its tree: %v", err)
	}
	check(t, os.RemoveAll(w.config.Dir))
	check(t, os.Rename(w.config.Dir+".away", w.config.Dir))
	w.open()
}

func controlBlock(t *testing.T, w *world, last uint64) uint64 {
	st := w.sealer.state()
	entries := bundleOf{s: w.sealer, st: &st}
	for n := last; ; n-- {
		h, err := entries.get(n)
		check(t, err)
		if h.Control {
			return n
		}
	}
}

// A disposal that is broken off between any two of its steps is finished by
// doing it again, and nothing that its record doesn't name is ever gone.
func TestADisposalThatIsBrokenOffIsFinished(t *testing.T) {
	all := removedAtOnce
	removedAtOnce = 2
	t.Cleanup(func() { removedAtOnce = all })
	for _, after := range []bool{false, true} {
		for op, times := range map[string]int{"put": 1, "remove": 2} {
			for at := 1; at <= times; at++ {
				w, _, cut := older(t)
				b := w.dispose(cut)
				w.setDisposed()
				w.faults.set(op, &fault{at: at, after: after, crash: true})
				err := w.sealer.Delete(t.Context(), &b.DisposalScope)
				if err == nil {
					t.Fatalf("%s %d did not fail", op, at)
				}
				w.crash()
				for _, f := range w.fsck().Findings {
					if !f.Notice {
						t.Errorf("%s %d: %+v", op, at, f)
					}
				}
				w.open()
				w.setDisposed()
				check(t, w.sealer.Delete(t.Context(), &b.DisposalScope))
				if f := w.fsck().Findings; len(f) > 0 {
					t.Errorf("%s %d: %+v", op, at, f)
				}
			}
		}
	}
}

// A reader that may goes on behind what was disposed of, wherever it is, and
// says once for each run of blocks how many it missed.
func TestAReaderGoesOnBehindWhatWasDisposedOf(t *testing.T) {
	w, _, cut := older(t)
	b := w.dispose(cut)
	w.setDisposed()
	check(t, w.sealer.Delete(t.Context(), &b.DisposalScope))
	var missed uint64
	var heads []string
	r := w.sealer.ReadFrom(evidence.Position{Gateway: "gw1", Boot: 1, Seq: 1}).Sealed().PastDisposed(func(blocks uint64) {
		if blocks == 0 {
			t.Error("told of nothing")
		}
		missed += blocks
	})
	for n := 1; n > 0; {
		var err error
		n, err = r.Next(t.Context(), func(r *evidence.Record) error { heads = append(heads, string(r.HeadBytes)); return nil })
		check(t, err)
	}
	left := w.left(&b)
	if missed != b.Blocks || len(heads) == 0 {
		t.Errorf("told of %d blocks that were missed; %d were disposed of", missed, b.Blocks)
	}
	same(t, "records left", heads, left[len(left)-len(heads):])
}

// The tree can't be made anew after a disposal, and nobody is told to try.
func TestNobodyIsToldToMakeADisposedTreeAnew(t *testing.T) {
	w, _, cut := older(t)
	damage := func() string {
		t.Helper()
		name := filepath.Join(w.config.Dir, ledger.CheckpointPath)
		kept, err := os.ReadFile(name)
		check(t, err)
		check(t, os.Remove(name))
		report := w.fsck()
		check(t, os.WriteFile(name, kept, 0o600))
		if len(report.Findings) == 0 {
			t.Fatal("a log without a checkpoint is in order")
		}
		return report.Findings[0].Hint
	}
	if hint := damage(); hint != hintTiles {
		t.Errorf("before: %s", hint)
	}
	b := w.dispose(cut)
	w.setDisposed()
	check(t, w.sealer.Delete(t.Context(), &b.DisposalScope))
	if hint := damage(); hint != hintHeaders {
		t.Errorf("after: %s", hint)
	}
}
