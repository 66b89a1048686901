package gateway

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/export/sink"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// stubborn takes nothing until it is told to.
type stubborn struct {
	sink.Delivery
	takes atomic.Bool
}

func (s *stubborn) Deliver(ctx context.Context, events []sink.Event) error {
	if !s.takes.Load() {
		return errors.New("not today")
	}
	return s.Delivery.Deliver(ctx, events)
}

// Promise: what was disposed of before a sink took it keeps nothing else from it,
// and nothing is delivered again that it has.
func TestASinkGoesOnBehindADisposal(t *testing.T) {
	name, clock := filepath.Join(t.TempDir(), "events.jsonl"), &turned{}
	slow := &stubborn{Delivery: sink.File(name)}
	slow.takes.Store(true)
	w := newWorld(t, retaining, func(s *Settings) {
		s.clock = clock
		s.Sinks = []sink.Target{{Name: "slow", To: name, Delivery: slow}}
	})
	until := func(what string, so func(api.Sink) bool) {
		t.Helper()
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			st, err := w.LogStatus(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if so(st.Sinks[0]) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: never: %+v", what, st.Sinks)
			}
		}
	}
	work := func() {
		c, start := w.open()
		for range 5 {
			w.do(c, "SELECT ?")
		}
		w.end(c, start)
	}
	work()
	until("it has everything", func(s api.Sink) bool { return s.Records == 0 })
	slow.takes.Store(false)
	work()
	until("it is behind", func(s api.Sink) bool { return s.Records > 0 && s.Problem != "" })
	clock.by.Add(int64(2 * time.Hour))
	work()
	disposed, err := w.Dispose(t.Context(), api.Disposal{Reason: "retention"}, packtest.Alice)
	if err != nil || disposed.Blocks == 0 {
		t.Fatalf("%+v, %v", disposed, err)
	}
	slow.takes.Store(true)
	until("it has what is left", func(s api.Sink) bool { return s.Records == 0 && s.Problem == "" })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	slices.Sort(lines)
	// The first five commands and the last five, with their ends, and not the five between.
	if n := len(lines); n != len(slices.Compact(lines)) || strings.Count(string(b), `"SELECT ?"`) < 10 || strings.Count(string(b), `"SELECT ?"`) > 20 {
		t.Errorf("%d events, %d of them different, %d with a command", n, len(slices.Compact(lines)), strings.Count(string(b), `"SELECT ?"`))
	}
}

// Promise: a sink gets what an export has, while the gateway runs and after it
// ran; how far behind it is, is there to be seen.
func TestASinkGetsWhatAnExportHas(t *testing.T) {
	name := filepath.Join(t.TempDir(), "events.jsonl")
	slow := &stubborn{Delivery: sink.File(name + ".slow")}
	w := newWorld(t, func(s *Settings) {
		s.Sinks = []sink.Target{{Name: "lines", To: name, Delivery: sink.File(name)}, {Name: "slow", To: "nobody", Delivery: slow}}
	})
	c, start := w.open()
	for range 50 {
		w.do(c, "SELECT ?")
	}
	w.end(c, start)
	until := func(what string, so func(lines, slow api.Sink) bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			st, err := w.LogStatus(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if so(st.Sinks[0], st.Sinks[1]) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: never: %+v", what, st.Sinks)
			}
		}
	}
	if err := w.sealer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := w.recorder.Last().Seq + 1
	until("one has everything and the other nothing", func(lines, slow api.Sink) bool {
		return lines.Records == 0 && slow.Records >= n && strings.Contains(slow.Problem, "not today") && slow.Seconds > 0
	})
	registry := prometheus.NewRegistry()
	w.Metrics(registry)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if len(m.GetLabel()) == 0 || m.GetLabel()[0].GetName() != "sink" {
				continue
			}
			seen++
			late := m.GetLabel()[0].GetValue() == "slow"
			if v := m.GetGauge().GetValue(); m.GetGauge() != nil && late != (v > 0) {
				t.Errorf("%s of %v is %v", f.GetName(), m.GetLabel(), v)
			}
		}
	}
	if seen != 8 {
		t.Errorf("%d metrics of sinks, want 4 of each", seen)
	}
	slow.takes.Store(true)
	until("both have everything", func(lines, slow api.Sink) bool { return lines.Records == 0 && slow.Records == 0 && slow.Problem == "" })
	var exported bytes.Buffer
	if _, err := w.ExportOCSF(t.Context(), api.Range{}, evidence.By{}, &exported, func(api.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{name, name + ".slow"} {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(got, exported.Bytes()) {
			t.Errorf("%s does not begin with what was exported", filepath.Base(name))
		}
		if !bytes.Contains(got, []byte(`"event_code":"gateway.stop"`)) {
			t.Errorf("%s lacks the end of the gateway, which was the last to be delivered", filepath.Base(name))
		}
	}
}
