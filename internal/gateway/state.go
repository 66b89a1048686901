package gateway

import (
	"context"
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

// errNoSnapshot is the end of a fold that found no whole snapshot to begin with.
var errNoSnapshot = errors.New("the log holds no whole snapshot")

// foldRegistry reads the registry from the log: from the newest snapshot on, or
// from the beginning. Since is the number of control records after it.
func (g *Gateway) foldRegistry(ctx context.Context) (registry *decision.Registry, since uint64, err error) {
	registry, since, err = g.foldFromSnapshot(ctx)
	if !errors.Is(err, errNoSnapshot) {
		return registry, since, err
	}
	fold := decision.NewFold(nil)
	since = 0
	err = g.sealer.ScanControl(ctx, nil, func(r *evidence.Record) error {
		since++
		return fold.Apply(r.Head, r.Body)
	})
	return fold.Registry(), since, err
}

func (g *Gateway) foldFromSnapshot(ctx context.Context) (*decision.Registry, uint64, error) {
	var fold *decision.Fold
	var parts []evidence.SnapshotBody
	since := uint64(0)
	begins := func(r *evidence.Record) bool { return snapshotPart(r).Part == 1 }
	err := g.sealer.ScanControl(ctx, begins, func(r *evidence.Record) (err error) {
		if fold != nil {
			since++
			return fold.Apply(r.Head, r.Body)
		}
		b := snapshotPart(r)
		switch {
		case b.Part == 0 && parts == nil:
			return nil // before it, in the same block
		case b.Part == 1:
			parts = nil
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
	if err == nil && fold == nil {
		err = errNoSnapshot
	}
	if err != nil {
		return nil, 0, err
	}
	return fold.Registry(), since, nil
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
