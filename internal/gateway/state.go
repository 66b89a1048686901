package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
)

// snapshotEvery is how many control records are folded anew at a start, about:
// after that many the registry is recorded whole, and the next start goes on
// from there. It is a variable for tests.
var snapshotEvery = uint64(5000)

// errNoSnapshot is the end of a fold whose snapshot was broken off.
var errNoSnapshot = errors.New("the newest snapshot in the log is not whole")

// foldRegistry reads the registry from the log: from the newest snapshot on, or
// from the beginning.
func (g *Gateway) foldRegistry(ctx context.Context) (folded, error) {
	f, err := g.foldFrom(ctx, firstPart)
	if errors.Is(err, errNoSnapshot) {
		f, err = g.foldFrom(ctx, func(*evidence.Record) bool { return false })
	}
	return f, err
}

// folded is what the control records of the log fold to.
type folded struct {
	registry *decision.Registry
	since    uint64            // control records after the snapshot that it began with
	keys     []evidence.Record // of those, the changes of the log's keys
	from     evidence.Position // of the snapshot; zero is none
}

func (f *folded) add(r *evidence.Record) {
	f.since++
	if r.Head.Type == evidence.LogKey {
		f.keys = append(f.keys, *r)
	}
}

// foldFrom folds from the newest snapshot that begins where begins says, or from
// the beginning where there is none in a block.
func (g *Gateway) foldFrom(ctx context.Context, begins func(*evidence.Record) bool) (f folded, err error) {
	var fold *decision.Fold
	var parts []evidence.SnapshotBody
	found := false // before the first record is handed out
	look := func(r *evidence.Record) bool {
		is := begins(r)
		found = found || is
		return is
	}
	err = g.sealer.ScanControl(ctx, look, func(r *evidence.Record) (err error) {
		if fold == nil && !found {
			fold = decision.NewFold(nil)
		}
		if fold != nil {
			f.add(r)
			return fold.Apply(r.Head, r.Body)
		}
		b := snapshotPart(r)
		switch {
		case b.Part == 0 && parts == nil:
			return nil // before it, in the same block
		case b.Part == 1:
			parts, f.from = nil, r.Head.Pos
		case b.Part != len(parts)+1:
			return errNoSnapshot // it was broken off
		}
		if parts = append(parts, b); len(parts) < b.Parts {
			return nil
		}
		registry, err := decision.Restore(parts)
		if err == nil {
			fold, parts = decision.NewFold(registry), nil
		}
		return err
	})
	switch {
	case err != nil:
		return folded{}, err
	case fold == nil && found:
		return folded{}, errNoSnapshot
	case fold == nil:
		fold = decision.NewFold(nil)
	}
	f.registry = fold.Registry()
	return f, nil
}

// firstPart reports whether a record begins a snapshot, by the beginning of its
// body: what follows is large, and looked at when it is needed.
func firstPart(r *evidence.Record) bool {
	const first = `","part":1,`
	at := len(`{"digest":"`) + 2*sha256.Size
	return r.Head.Type == evidence.StateSnapshot && len(r.Body) > at && bytes.HasPrefix(r.Body[at:], []byte(first))
}

// snapshotPart is the body of a snapshot's record; zero for any other.
func snapshotPart(r *evidence.Record) (b evidence.SnapshotBody) {
	if r.Head.Type == evidence.StateSnapshot && evidence.DecodeBody(r.Body, &b) != nil {
		return evidence.SnapshotBody{}
	}
	return b
}

// snapshot records the registry whole, once enough has changed since the last
// time. A change in between breaks it off; the next one will do.
func (g *Gateway) snapshot(ctx context.Context) error {
	state := g.recorder.State()
	if state.Version-g.snapshotAt < snapshotEvery {
		return nil
	}
	for _, part := range state.Registry.Snapshot() {
		d := &evidence.Draft{Head: evidence.Head{Type: evidence.StateSnapshot}, Body: evidence.EncodeBody(part)}
		switch err := g.recorder.Control(ctx, d); {
		case errors.Is(err, recorder.ErrRefused):
			return nil
		case err != nil:
			return fmt.Errorf("recording the registry: %w", err)
		}
	}
	g.snapshotAt = g.recorder.State().Version
	return nil
}
