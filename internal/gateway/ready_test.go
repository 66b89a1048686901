package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// whole is what a fold of the log from its first record says. Reading it
// records nothing.
func whole(t *testing.T, g *Gateway) string {
	t.Helper()
	fold := workpaper.NewFold(workpaper.OutFunc(func(string, []string) error { return nil }))
	if err := g.sealer.Scan(t.Context(), 0, fold.Record); err != nil {
		t.Fatal(err)
	}
	s, err := fold.Close()
	if err != nil {
		t.Fatal(err)
	}
	return testLines(t, s.Tests)
}

func testLines(t *testing.T, tests []*workpaper.Test) string {
	t.Helper()
	var b bytes.Buffer
	if err := workpaper.WriteTests(&b, tests); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Readiness comes of a cache, or of the log alone: deleted, damaged, of another
// log or of another program, the answer is that of the log.
func TestReadinessIsOfTheLogWhateverItsCache(t *testing.T) {
	var s Settings
	w := newWorld(t, func(settings *Settings) { s = *settings })
	c, start := w.open()
	w.do(c, "select 1")
	w.put(c, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbRead, Effect: evidence.Allow}, evidence.IntentBody{Text: "select 2"})
	w.end(c, start)
	first, err := w.Readiness(t.Context(), api.ReadinessQuery{Soon: time.Hour}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if first.Ready || !slices.ContainsFunc(first.Concerns, func(f workpaper.Concern) bool {
		return f.Kind == workpaper.ConcernTest && f.Subject == "command.pairing" && slices.Contains(f.Criteria, "PI1.3")
	}) {
		t.Errorf("a command without an end is not among the concerns: %+v", first.Concerns)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(s.Data, readyFile)
	kept, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err) // a gateway that stops keeps it
	}
	damaged := bytes.Replace(kept, []byte(`"Failed":1`), []byte(`"Failed":0`), 1)
	if bytes.Equal(damaged, kept) {
		t.Fatal("the cache doesn't know of the exception")
	}
	line, state, _ := bytes.Cut(kept, []byte("\n"))
	another := slices.Concat(bytes.Replace(line, []byte(`"head":"`), []byte(`"head":"AAAA`), 1), []byte("\n"), state)
	for _, c := range []struct {
		name   string
		cache  []byte // nil is none
		edit   func(*Settings)
		resume bool
	}{
		{"as it was kept", kept, func(*Settings) {}, true},
		{"none", nil, func(*Settings) {}, false},
		{"damaged", damaged, func(*Settings) {}, false},
		{"cut short", kept[:len(kept)/2], func(*Settings) {}, false},
		{"of another log", another, func(*Settings) {}, false},
		{"of another program", kept, func(s *Settings) { s.Binary = strings.Repeat("b", 64) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.Remove(cache); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if c.cache != nil {
				if err := os.WriteFile(cache, c.cache, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again := s
			c.edit(&again)
			g, err := Open(t.Context(), again, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			w.runs(g)
			got, err := w.Readiness(t.Context(), api.ReadinessQuery{}, packtest.Alice)
			if err != nil {
				t.Fatal(err)
			}
			if text, want := testLines(t, got.Tests), whole(t, g); text != want {
				t.Errorf("its tests are\n%s\nof the log\n%s", text, want)
			}
			if resumed := !g.readiness.kept.IsZero(); resumed != c.resume {
				t.Errorf("went on from the cache: %t", resumed)
			}
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Asking is reading evidence, which is on record with who asked; a second time
// reads on from the first.
func TestReadinessIsRecordedAndGoesOn(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		c, start := w.open()
		w.do(c, "select 1")
		w.end(c, start)
		got, err := w.Readiness(t.Context(), api.ReadinessQuery{}, packtest.Alice)
		if err != nil {
			t.Fatal(err)
		}
		if n := w.count(evidence.EvidenceRead); n != i+1 {
			t.Errorf("%d reads on record, %d were asked for", n, i+1)
		}
		if got.Allowed != uint64(2*(i+1)) {
			t.Errorf("%d decisions, there were %d", got.Allowed, 2*(i+1))
		}
	}
	later, err := w.Readiness(t.Context(), api.ReadinessQuery{From: time.Now().Add(48 * time.Hour)}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if later.Position == "" {
		t.Error("says nothing of how far it looked")
	}
}

// What a question costs on a log of a million commands on disk: without the
// cache, with it after a start, and again.
func BenchmarkReadiness(b *testing.B) {
	const commands, shapes = 1_000_000, 200
	var settings Settings
	w := newWorld(b, holding, func(s *Settings) {
		s.Vocabulary = policy.Vocabulary{Actions: packtest.Actions}
		s.Policy = bundleOf(files("")) // without limits
		s.Config.Resources[0].Durability = "process"
		settings = *s
	})
	w.grantAs("reader")
	s := w.session(w.agentKey())
	var asked [shapes]*evidence.Command
	for i := range asked {
		asked[i] = &evidence.Command{Shape: &evidence.Shape{
			Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbRead, Text: fmt.Sprintf("SELECT a FROM public.t%d WHERE id = ?", i),
			Checks: []evidence.Check{{Action: "postgres:select", Object: fmt.Sprintf("public.t%d", i)}},
		}, Raw: fmt.Appendf(nil, "select a from t%d where id = 1", i)}
	}
	for i := range commands {
		w.ask(s, asked[i%shapes])
	}
	if err := s.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		b.Fatal(err)
	}
	cache := filepath.Join(settings.Data, readyFile)
	ask := func(b *testing.B) {
		r, err := w.Readiness(b.Context(), api.ReadinessQuery{}, packtest.Alice)
		if err != nil || r.Allowed < commands {
			b.Fatalf("%d allowed, %v", r.Allowed, err)
		}
	}
	ask(b) // so that there is a cache
	if err := w.stop(); err != nil {
		b.Fatal(err)
	}
	started := func(b *testing.B) {
		b.Helper()
		g, err := Open(b.Context(), settings, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		w.runs(g)
	}
	for _, c := range []struct {
		name   string
		cached bool
	}{{"whole", false}, {"started", true}} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				if !c.cached {
					if err := os.Remove(cache); err != nil && !errors.Is(err, os.ErrNotExist) {
						b.Fatal(err)
					}
				}
				started(b)
				b.StartTimer()
				ask(b)
				b.StopTimer()
				if err := w.stop(); err != nil { // which keeps the cache
					b.Fatal(err)
				}
			}
		})
	}
	started(b)
	ask(b)
	b.Run("again", func(b *testing.B) {
		for range b.N {
			ask(b)
		}
	})
}
