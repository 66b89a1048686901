package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// siem takes events, and now and then can't.
type siem struct {
	*httptest.Server
	mu     sync.Mutex
	lines  map[string]string // by uid
	taken  int
	differ []string // uids that came with other bytes
	down   bool
}

func newSiem(t *testing.T) *siem {
	s := &siem{lines: make(map[string]string)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil || s.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for line := range bytes.Lines(body) {
			var e struct{ Metadata struct{ UID string } }
			if err := json.Unmarshal(line, &e); err != nil {
				t.Errorf("not an event: %v: %s", err, line)
			}
			if was, twice := s.lines[e.Metadata.UID]; twice && was != string(line) {
				s.differ = append(s.differ, e.Metadata.UID)
			}
			s.lines[e.Metadata.UID] = string(line)
			s.taken++
		}
		if rand.N(20) == 0 { // it took them and can't say so
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *siem) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// TestASinkLosesNothing kills the gateway under load while it delivers, also
// between a delivery and the note of it, and lets the other side be down for a
// while. Everything that is on record arrives; what comes twice is the same.
func TestASinkLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSiem(t)
	w := newWorld(t, func(c string) string { return c + "\nsinks: [{name: siem, url: '" + s.URL + "'}]\n" })
	w.program = failing(t)
	w.prepareMarks()
	w.stop(syscall.SIGTERM)
	for _, at := range []string{"1", "2", "2"} {
		s.set(true) // down, and agents don't notice
		w.start()
		before := w.marks.Load()
		load := w.load(8)
		w.underWay(before)
		w.stop(syscall.SIGKILL)
		load()
		s.set(false)
		at = "EXHIBIT_FAILPOINT=sink delivered@" + at
		w.launch(at)
		w.dies(at)
	}
	for range 3 { // at no moment in particular
		w.start()
		before := w.marks.Load()
		load := w.load(8)
		w.underWay(before)
		time.Sleep(rand.N(time.Second))
		w.stop(syscall.SIGKILL)
		load()
	}
	w.start()
	w.must("log", "fsck") // everything is sealed
	w.until(120*time.Second, "the sink has caught up", func() bool {
		return w.metrics(t.Context())[`exhibit_sink_behind_records{sink="siem"}`] == 0
	})
	w.must("export", "ocsf", "-o", w.path("all.jsonl"))
	b, err := os.ReadFile(w.path("all.jsonl"))
	w.ok(err)
	want := make(map[string]string)
	for line := range bytes.Lines(b) {
		var e struct{ Metadata struct{ UID string } }
		w.ok(json.Unmarshal(line, &e))
		want[e.Metadata.UID] = string(line)
	}
	w.until(60*time.Second, "every record has arrived as the event that it is", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for uid, line := range want {
			if s.lines[uid] != line {
				return false
			}
		}
		return true
	})
	if strings.Contains(string(b), literalSecret) || strings.Contains(string(b), upstreamSecret) {
		t.Error("a secret is in an event")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.differ) > 0 {
		t.Errorf("%v came again as others", s.differ)
	}
	if s.taken == len(s.lines) {
		t.Error("nothing came twice: no kill came between a delivery and its note")
	}
	t.Logf("%d records arrived as %d events", len(want), s.taken)
	w.passes()
}
