package gateway

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

func encoded(r *decision.Registry) (b []byte) {
	for _, p := range r.Snapshot() {
		b = append(b, evidence.EncodeBody(p)...)
	}
	return b
}

// A start goes on from the newest whole snapshot, and has what a start from the
// beginning has.
func TestAStartGoesOnFromASnapshot(t *testing.T) {
	before := snapshotEvery
	snapshotEvery = 10
	t.Cleanup(func() { snapshotEvery = before })
	w := newWorld(t)
	ctx := context.Background()
	add := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := w.AddAgent(ctx, api.NewAgent{ID: fmt.Sprint("agent-", i), Purpose: "test", Owner: packtest.Alice.Person.ID}, packtest.Alice); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(0, 5)
	if err := w.snapshot(ctx); err != nil || w.snapshotAt != 0 {
		t.Fatalf("a snapshot after a few changes: %v", err)
	}
	add(5, 15)
	if err := w.snapshot(ctx); err != nil || w.snapshotAt == 0 {
		t.Fatalf("no snapshot: %v", err)
	}
	add(15, 18)
	want := encoded(w.registry())
	// One that was broken off is passed over.
	part := evidence.EncodeBody(w.registry().Snapshot()[0])
	if err := w.recorder.Control(ctx, &evidence.Draft{Head: evidence.Head{Type: evidence.StateSnapshot}, Body: part}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	whole, err := w.foldRegistry(ctx)
	if err != nil || !bytes.Equal(encoded(whole.registry), want) {
		t.Errorf("with a broken one as the newest: %v", err)
	}
	add(18, 19)
	for _, p := range w.registry().Snapshot() {
		if err := w.recorder.Control(ctx, &evidence.Draft{Head: evidence.Head{Type: evidence.StateSnapshot}, Body: evidence.EncodeBody(p)}); err != nil {
			t.Fatal(err)
		}
	}
	add(19, 21)
	want = encoded(w.registry())
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	g, err := Open(ctx, *w.changed.Load(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close() })
	if got := encoded(g.registry()); !bytes.Equal(got, want) {
		t.Errorf("after a restart the registry is\n%s\nwant\n%s", got, want)
	}
	if f, err := g.foldRegistry(ctx); err != nil || f.since > 3 {
		t.Errorf("it folded %d records since the snapshot: %v", f.since, err)
	}
}

// BenchmarkStart starts a gateway of 10,000 agents with ten grants each, from
// the whole log and from a snapshot near its end.
func BenchmarkStart(b *testing.B) {
	for _, whole := range []bool{true, false} {
		name := "snapshot"
		if whole {
			name = "whole log"
		}
		b.Run(name, func(b *testing.B) {
			s := company(b, !whole)
			for b.Loop() {
				g, err := Open(context.Background(), s, nil, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if len(g.registry().Grants()) != 100_000 {
					b.Fatalf("%d grants", len(g.registry().Grants()))
				}
				if err := g.Abandon(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// company writes the log of one.
func company(tb testing.TB, snapshot bool) Settings {
	tb.Helper()
	s := settings(tb)
	ctx := context.Background()
	g, err := Open(ctx, s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range 10_000 {
		id := fmt.Sprint("agent-", i)
		drafts := []*evidence.Draft{{Head: evidence.Head{Type: evidence.AgentCreate, Agent: id},
			Body: evidence.EncodeBody(evidence.AgentBody{Agent: id, Purpose: "to be measured", Owner: packtest.Alice.Person, By: packtest.Alice})}}
		for range 10 {
			drafts = append(drafts, &evidence.Draft{Head: evidence.Head{Type: evidence.GrantCreate, Agent: id, Resource: "orders"},
				Body: evidence.EncodeBody(evidence.GrantBody{Agent: id, Role: "reader", Resource: "orders", Ticket: "OPS-1", Expires: forever.UnixMicro(), By: packtest.Alice})})
		}
		if err := g.recorder.Control(ctx, drafts...); err != nil {
			tb.Fatal(err)
		}
	}
	if snapshot {
		if err := g.snapshot(ctx); err != nil {
			tb.Fatal(err)
		}
	}
	if err := g.Abandon(); err != nil {
		tb.Fatal(err)
	}
	return s
}
