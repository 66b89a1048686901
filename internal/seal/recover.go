package seal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// treeState is where Tessera keeps the size of the tree.
const treeState = ".state/treeState"

// checkDir looks at the tree's directory before Tessera does, which signs and
// publishes whatever it finds there, over the checkpoint that says otherwise:
// that checkpoint must be ours, and not of more leaves than there are. It finds
// out with which key.
func (s *Sealer) checkDir(ctx context.Context) error {
	var state struct {
		Size uint64 `json:"size"`
	}
	dir := s.cfg.Dir
	text, err := os.ReadFile(filepath.Join(dir, treeState))
	switch {
	case errors.Is(err, fs.ErrNotExist): // as if it were empty, which is what Tessera would make of it
	case err != nil:
		return fmt.Errorf("reading the state of the log: %w", err)
	default:
		if err := json.Unmarshal(text, &state); err != nil {
			return fmt.Errorf("reading the state of the log in %s: %w; move %s away: it is made anew from the archive", treeState, err, dir)
		}
	}
	if err := s.checkWhole(ctx, state.Size); err != nil {
		return err
	}
	if err := s.openSigners(ctx, state.Size); err != nil {
		return err
	}
	cp, _, err := s.published(os.DirFS(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if cp.Size > state.Size {
		return fmt.Errorf("%w: the log has %d leaves and has published a checkpoint of %d: %s was put back from an older copy, or in part; "+
			"put back a newer one, or move it away: it is made anew from the archive", ErrDiverged, state.Size, cp.Size, dir)
	}
	return nil
}

// lacks says that the archive is older than the tree.
func lacks(tree uint64, err error) error {
	return fmt.Errorf("%w: the log has %d blocks and the archive lacks block %d: %w: the archive was put back from an older copy, "+
		"or is another one; put back the one that belongs to this log", ErrDiverged, tree, tree-1, err)
}

// recover finds out how far the log is, from the tree's size alone, finishes
// what a crash left between the archive and the journal's release, and checks
// that tree, archive and journal are of one history.
func (s *Sealer) recover(ctx context.Context) error {
	size, err := s.tree.Size(ctx)
	if err != nil {
		return fmt.Errorf("asking for the size of the log: %w", err)
	}
	// A crash between integration and checkpoint: the tree publishes by itself.
	cp, at, err := s.awaitCheckpoint(ctx, size)
	if err != nil {
		return err
	}
	s.sealed = sealed{blocks: size, checkpoint: cp, at: at}
	var last *ledger.Block
	if size > 0 {
		if last, err = s.newest(ctx, cp); err != nil {
			return err
		}
		s.sealed.last = &last.Header
	}
	if last, err = s.readd(ctx, last); err != nil {
		return err
	}
	return s.skip(last)
}

// newest returns the block that is the last leaf of the tree.
func (s *Sealer) newest(ctx context.Context, cp ledger.Checkpoint) (*ledger.Block, error) {
	b, _, err := s.load(ctx, cp.Size-1, ledger.NumSections)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lacks(cp.Size, err)
	}
	if err != nil {
		return nil, err
	}
	return b, s.checkLeaves(cp, []*cutBlock{{header: b.Header}})
}

// readd adds to the tree the blocks that are in the archive and not in it, as
// they are: a few after a crash, all of them when the tree's directory was lost.
// It returns the last block of the log.
func (s *Sealer) readd(ctx context.Context, last *ledger.Block) (*ledger.Block, error) {
	for {
		var run []*cutBlock
		for len(run) < maxRun {
			b, file, err := s.load(ctx, s.state().blocks+uint64(len(run)), ledger.NumSections)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return nil, err
			}
			var before *ledger.Header
			if last != nil {
				before = &last.Header
			}
			if err := b.Follows(before); err != nil {
				return nil, fmt.Errorf("%w: %w; block %d in the archive is of another history than this log: "+
					"put back the archive that belongs to it", ErrDiverged, err, b.Block)
			}
			run, last = append(run, &cutBlock{header: b.Header, file: file, changes: keyChanges(b.Records)}), b
		}
		if len(run) == 0 {
			return last, nil
		}
		s.cfg.Logger.Info("adding blocks to the log that a crash had left out", "first", run[0].header.Block, "blocks", len(run))
		if err := s.sealBlocks(ctx, run); err != nil {
			return nil, err
		}
	}
}

// errSkipped ends reading at the first record that isn't sealed.
var errSkipped = errors.New("not sealed")

// skip finds where in the journal the unsealed records begin: at the first whose
// position is past the last block's. Positions are the only truth about it.
func (s *Sealer) skip(last *ledger.Block) error {
	pos := lastPosition(s.sealed.last)
	upTo, err := s.journal.Read(s.journal.First(), func(next journal.LSN, payload []byte) error {
		r, _, err := decode(bytes.Clone(payload))
		if err != nil {
			return fmt.Errorf("%w: journal before %d: %w", ErrDiverged, next, err)
		}
		if pos.IsZero() || pos.Before(r.Head.Pos) {
			if err := continues(pos, r.Head.Pos); err != nil {
				return err
			}
			s.oldest = oldest{max(r.Head.Time, 1), time.Now()}
			return errSkipped
		}
		return sameRecord(last, &r)
	})
	if err != nil && !errors.Is(err, errSkipped) {
		return fmt.Errorf("reading the journal: %w", err)
	}
	s.sealed.upTo = upTo
	s.release(upTo)
	return nil
}

// sameRecord checks a record of the journal against the block that holds it.
func sameRecord(b *ledger.Block, r *evidence.Record) error {
	p := r.Head.Pos
	if p.Gateway == b.Gateway && (p.Boot != b.Boot || p.Seq < b.First) {
		return nil // of an earlier block
	}
	if p.Gateway != b.Gateway || string(b.Records[p.Seq-b.First].HeadBytes) != string(r.HeadBytes) {
		return fmt.Errorf("%w: record %s of the journal is not the one in block %d: the journal is of another history; "+
			"put back the one that belongs to this log", ErrDiverged, p, b.Block)
	}
	return nil
}

// load reads a block from the archive.
func (s *Sealer) load(ctx context.Context, n uint64, sections int) (*ledger.Block, []byte, error) {
	file, err := s.archive.Get(ctx, ledger.BlockPath(n))
	if errors.Is(err, fs.ErrNotExist) && s.gone.may(n) {
		return nil, nil, s.gone.error(n)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("block %d: %w", n, err)
	}
	var b *ledger.Block
	if sections < ledger.NumSections { // a whole file is parsed whole: nothing may follow it
		file, err = ledger.Cut(file, sections)
	}
	if err == nil {
		b, err = ledger.ParseBlock(file)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: block %d in the archive: %w; run exhibit log fsck", ErrDiverged, n, err)
	}
	if b.Origin != s.cfg.Origin || b.Block != n {
		return nil, nil, fmt.Errorf("%w: block %d in the archive says that it is block %d of log %s", ErrDiverged, n, b.Block, b.Origin)
	}
	if !b.Control && s.gone.may(n) {
		return nil, nil, s.gone.error(n)
	}
	return b, file, nil
}
