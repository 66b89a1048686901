package gateway

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// hungUp is a client that goes away.
type hungUp struct{ left int }

var errHungUp = errors.New("the client went away")

func (h *hungUp) Write(b []byte) (int, error) {
	if h.left -= len(b); h.left < 0 {
		return 0, errHungUp
	}
	return len(b), nil
}

func TestAPackGoesOnWhenItIsAskedForAgain(t *testing.T) {
	w := newWorld(t, withBob)
	w.packs.every = 0
	r := api.PackRequest{From: api.Moment{Time: time.Now().Add(-time.Hour)}, To: api.Moment{Time: time.Now().Add(time.Hour)}}
	none := func(api.Progress) {}
	interrupt := func() {
		t.Helper()
		if _, err := w.CreatePack(t.Context(), r, packtest.Alice, &hungUp{}, none); !errors.Is(err, errHungUp) {
			t.Fatal(err)
		}
		if kept, err := os.ReadDir(w.packs.dir); err != nil || len(kept) != 1 {
			t.Fatalf("kept are %v, %v", kept, err)
		}
	}
	gone := func(what string) {
		t.Helper()
		if kept, err := os.ReadDir(w.packs.dir); err != nil || len(kept) != 0 {
			t.Errorf("%s: kept are %v, %v", what, kept, err)
		}
	}
	interrupt()
	var b bytes.Buffer
	other, err := w.CreatePack(t.Context(), r, packtest.Bob, &b, none)
	if err != nil || other.Resumed != 0 || other.Again != "" {
		t.Errorf("somebody else's: %+v, %v", other, err)
	}
	p, err := w.CreatePack(t.Context(), r, packtest.Alice, &b, none)
	if err != nil || p.Resumed == 0 || p.Records <= p.Resumed {
		t.Errorf("it went on: %+v, %v", p, err)
	}
	gone("made")

	interrupt()
	r.Restart = true
	if p, err := w.CreatePack(t.Context(), r, packtest.Alice, &b, none); err != nil || p.Resumed != 0 || p.Again != "" {
		t.Errorf("begun again on purpose: %+v, %v", p, err)
	}
	gone("made again")

	r.Restart = false
	interrupt()
	if err := w.packs.forget(); err != nil {
		t.Fatal(err)
	}
	gone("something was erased")
}

// Of two who make the same pack at once one keeps nothing; and what nobody went on
// with goes, the oldest first.
func TestKeptPacksAreFew(t *testing.T) {
	k := keptPacks{dir: t.TempDir()}
	now := time.Now()
	r := api.PackRequest{Purpose: "one"}
	first, done, err := k.take(&r, packtest.Alice, now)
	if err != nil || first.Dir == "" {
		t.Fatal(first, err)
	}
	if second, _, err := k.take(&r, packtest.Alice, now); err != nil || second.Dir != "" {
		t.Errorf("two at one: %+v, %v", second, err)
	}
	for i := range 6 {
		r.Purpose = string(rune('a' + i))
		keep, done, err := k.take(&r, packtest.Alice, now)
		at := now.Add(time.Duration(i-10) * time.Hour)
		if err := errors.Join(err, os.MkdirAll(keep.Dir, 0o700), os.Chtimes(keep.Dir, at, at)); err != nil {
			t.Fatal(err)
		}
		done()
	}
	if kept, err := os.ReadDir(k.dir); err != nil || len(kept) > mostKept {
		t.Errorf("%d are kept, %v", len(kept), err)
	}
	if err := os.MkdirAll(first.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Purpose = "much later"
	if _, _, err := k.take(&r, packtest.Alice, now.Add(8*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadDir(k.dir); err != nil || len(kept) != 1 { // but for what is being made
		t.Errorf("after a week there are %v, %v", kept, err)
	}
	if err := errors.Join(k.forget()); err != nil {
		t.Fatal(err)
	}
	done()
	if _, err := os.Lstat(first.Dir); err == nil {
		t.Error("what was being made when something was erased is kept")
	}
}
