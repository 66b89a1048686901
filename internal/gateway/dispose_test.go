package gateway

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// retaining keeps blocks, one for each record, for an hour by a clock that is
// turned on: the least that a configuration asks for is no time for a test.
func retaining(s *Settings) {
	s.Sealing.BlockBytes, s.Config.Retention = 1, int64(time.Hour/time.Second)
}

// turned is a clock that can be turned on.
type turned struct {
	system
	by atomic.Int64
}

func (c *turned) now() time.Time { return c.system.now().Add(time.Duration(c.by.Load())) }
func (c *turned) elapsed() time.Duration {
	return c.system.elapsed() + time.Duration(c.by.Load())
}

// worked is a gateway with a session of before the retention, one that goes on
// over its end, and one after it.
func worked(t *testing.T, change ...func(*Settings)) (w *world, old, open evidence.Position, since time.Time) {
	clock := &turned{}
	w = newWorld(t, append([]func(*Settings){retaining, func(s *Settings) { s.clock = clock }}, change...)...)
	c, old := w.open()
	for range 5 {
		w.do(c, "select 1")
	}
	w.end(c, old)
	c, open = w.open()
	w.do(c, "select 2")
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.by.Add(int64(2 * time.Hour))
	since = w.clock.now()
	w.do(c, "select 3")
	w.end(c, open)
	c, start := w.open()
	w.do(c, "select 4")
	w.end(c, start)
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w, old, open, since
}

// packFiles are the files of a pack that records alone make.
func (w *world) packFiles(from, to time.Time) map[string]string {
	w.t.Helper()
	var b bytes.Buffer
	if _, err := w.CreatePack(w.t.Context(), api.PackRequest{From: api.Moment{Time: from}, To: api.Moment{Time: to}}, packtest.Alice, &b, func(api.Progress) {}); err != nil {
		w.t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		w.t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range z.File {
		if strings.HasPrefix(f.Name, "log/") || strings.HasPrefix(f.Name, "manifest.") || strings.HasPrefix(f.Name, "README") || strings.HasPrefix(f.Name, "summary") {
			continue // of the tree, or of when it was made
		}
		r, err := f.Open()
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			w.t.Fatal(err)
		}
		files[f.Name] = string(text)
	}
	return files
}

// packIsSound makes a pack and checks that a verifier relies on it. What the
// tests of controls find of records that were made up is no matter here.
func (w *world) packIsSound(from, to time.Time) {
	w.t.Helper()
	var b bytes.Buffer
	if _, err := w.CreatePack(w.t.Context(), api.PackRequest{From: api.Moment{Time: from}, To: api.Moment{Time: to}}, packtest.Alice, &b, func(api.Progress) {}); err != nil {
		w.t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := note.NewVerifier(w.material.log.verifier)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := verify.Pack(z, verify.Trust{Log: []note.Verifier{v}})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.Kind == verify.Integrity && c.Failed > 0 && c.ID != "decision.replay" {
			w.t.Errorf("%s: %+v", c.ID, c.Exceptions)
		}
	}
}

func sameFiles(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s: %s differs", what, name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d", what, len(got), len(want))
	}
}

// Blocks past their retention go, on record first. Every answer about what is
// kept is the one from before, byte for byte, also after a restart, and in a
// gateway restored from a backup; about what is gone there is a plain no.
func TestADisposalChangesNoAnswerAboutWhatIsKept(t *testing.T) {
	w, old, open, since := worked(t)
	to := w.clock.now()
	before := w.packFiles(since, to)
	allowed, err := w.Allowed(t.Context(), "bot", api.Moment{Time: to}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := w.PlanDisposal(t.Context())
	if err != nil || plan.Blocks == 0 || plan.Control == 0 || plan.Kept != 2 {
		t.Fatalf("the plan %+v, %v; want one that keeps the boot and the session that went on", plan, err)
	}
	done, err := w.Dispose(t.Context(), api.Disposal{Reason: "retention"}, packtest.Alice)
	if err != nil || done.Blocks != plan.Blocks || done.Digest != plan.Digest {
		t.Fatalf("%+v, %v; planned %+v", done, err, plan)
	}

	check := func(what string) {
		t.Helper()
		sameFiles(t, what, w.packFiles(since, to), before)
		again, err := w.Allowed(t.Context(), "bot", api.Moment{Time: to}, packtest.Alice)
		if err != nil || len(again.Rows) != len(allowed.Rows) {
			t.Errorf("%s: allowed %v, %v", what, again.Rows, err)
		}
		for name, ask := range map[string]func() error{
			"a pack from before": func() error {
				_, err := w.CreatePack(t.Context(), api.PackRequest{From: api.Moment{Time: since.Add(-3 * time.Hour)}, To: api.Moment{Time: to}}, packtest.Alice, io.Discard, func(api.Progress) {})
				return err
			},
			"what a session did": func() error {
				_, err := w.Did(t.Context(), api.Did{Session: old.String()}, packtest.Alice)
				return err
			},
		} {
			var p *api.Problem
			if err := ask(); !errors.As(err, &p) || !strings.Contains(p.Message, "disposed of") || !strings.Contains(p.Hint, "on is there") {
				t.Errorf("%s: %s: %v", what, name, err)
			}
		}
		if h, err := w.headAt(t.Context(), open); err != nil || h.Type != evidence.SessionStart {
			t.Errorf("%s: the session that went on: %v, %v", what, h, err)
		}
		r, err := w.Fsck(t.Context(), nil, nil)
		if err != nil || len(r.Problems) > 0 || r.Disposed != done.Blocks {
			t.Errorf("%s: fsck: %+v, %v", what, r, err)
		}
		if ready, err := w.Readiness(t.Context(), api.ReadinessQuery{}, packtest.Alice); err != nil || ready.Position == "" {
			t.Errorf("%s: readiness: %+v, %v", what, ready, err)
		}
		w.packIsSound(since, w.clock.now().Add(time.Hour))
	}
	check("after it")
	id := newIdentity(t)
	backup := w.backup(id.Recipient())
	data := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), RestoreParams{Data: data, Identity: []age.Identity{id}}, bytes.NewReader(backup))
	if err != nil || r.Fsck.Disposed == 0 {
		t.Errorf("restored %+v, %v", r, err)
	}
	w.restart()
	check("after a restart")
}

// A legal hold keeps everything, and the configuration may.
func TestNothingIsDisposedOfUnderAHold(t *testing.T) {
	w, _, _, _ := worked(t)
	hold, err := w.PlaceHold(t.Context(), api.NewHold{Reason: "litigation"}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if plan, err := w.PlanDisposal(t.Context()); err != nil || len(plan.Held) != 1 || plan.Held[0].ID != hold.ID {
		t.Errorf("the plan under a hold: %+v, %v", plan, err)
	}
	if _, err := w.Dispose(t.Context(), api.Disposal{Reason: "r"}, packtest.Alice); problemStatus(err) != http.StatusUnprocessableEntity {
		t.Errorf("under a hold: %v", err)
	}
	if r, err := w.Fsck(t.Context(), nil, nil); err != nil || r.Disposed != 0 || len(r.Problems) > 0 {
		t.Errorf("fsck: %+v, %v", r, err)
	}
	w = newWorld(t)
	if plan, err := w.PlanDisposal(t.Context()); err != nil || plan.Blocks != 0 || plan.Retention != 0 {
		t.Errorf("without a retention: %+v, %v", plan, err)
	}
	if _, err := w.Dispose(t.Context(), api.Disposal{Reason: "r"}, packtest.Alice); problemStatus(err) != http.StatusUnprocessableEntity {
		t.Errorf("without a retention: %v", err)
	}
}

// Where rights need two people, the first only asks; what the second approved is
// what goes.
func TestADisposalIsAskedForAndApproved(t *testing.T) {
	w, _, _, _ := worked(t, func(s *Settings) {
		s.People = []evidence.Person{packtest.Alice.Person, packtest.Bob.Person}
		s.Config.People = []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: packtest.Bob.Person.ID}}
		s.Config.Separation = evidence.SeparationRequired
	})
	asked, err := w.Dispose(t.Context(), api.Disposal{Reason: "retention"}, packtest.Alice)
	if err != nil || asked.Request == "" || asked.Position != "" {
		t.Fatalf("%+v, %v", asked, err)
	}
	d := api.Disposal{Request: asked.Request}
	if _, err := w.Dispose(t.Context(), d, packtest.Alice); problemStatus(err) == 0 {
		t.Errorf("without an approval: %v", err)
	}
	if _, err := w.AnswerApproval(t.Context(), asked.Request, evidence.Approved, api.Answer{}, packtest.Bob); err != nil {
		t.Fatal(err)
	}
	done, err := w.Dispose(t.Context(), d, packtest.Alice)
	if err != nil || done.Blocks != asked.Blocks || done.Position == "" {
		t.Fatalf("%+v, %v; asked for %+v", done, err, asked)
	}
	if _, err := w.Dispose(t.Context(), api.Disposal{Request: "gw1.1.0"}, packtest.Alice); problemStatus(err) != http.StatusNotFound {
		t.Errorf("by no request: %v", err)
	}
	if r, err := w.Fsck(t.Context(), nil, nil); err != nil || r.Disposed != done.Blocks || len(r.Problems) > 0 {
		t.Errorf("fsck: %+v, %v", r, err)
	}
}

// What is on record as disposed of and, by a crash, is still there goes with the
// next start.
func TestADisposalIsFinishedByTheNextStart(t *testing.T) {
	w, _, _, _ := worked(t)
	scope, _, err := w.planDisposal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scope.Reason = "retention"
	cp := w.sealer.Status().Checkpoint
	if _, err := w.control(t.Context(), evidence.Head{Type: evidence.Disposal}, evidence.DisposalBody{DisposalScope: scope, Size: cp.Size, Root: cp.Root, By: packtest.Alice}); err != nil {
		t.Fatal(err)
	}
	if r, err := w.Fsck(t.Context(), nil, nil); err != nil || r.Disposed != 0 || len(r.Problems) > 0 {
		t.Errorf("before: %+v, %v", r, err)
	}
	w.restart()
	w.until(10*time.Second, "it is done", func() bool {
		r, err := w.Fsck(t.Context(), nil, nil)
		return err == nil && r.Disposed == scope.Blocks && len(r.Problems) == 0
	})
}
