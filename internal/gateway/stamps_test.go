package gateway

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// stampedBy makes settings name an authority that is served by a handler.
func stampedBy(t *testing.T, roots *x509.CertPool, h http.Handler) func(*Settings) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return func(set *Settings) {
		set.Stamping = Stamping{Authorities: []seal.Authority{{URL: s.URL, Roots: roots}}, Interval: time.Minute, Timeout: 2 * time.Second}
	}
}

// packed makes a pack of everything and verifies it with these roots.
func (w *world) packed(roots *x509.CertPool) (api.Pack, *verify.Report) {
	w.t.Helper()
	var b bytes.Buffer
	made, err := w.CreatePack(w.t.Context(), api.PackRequest{From: api.Moment{Time: time.Now().Add(-time.Hour)}}, packtest.Alice, &b, func(api.Progress) {})
	if err != nil {
		w.t.Fatal(err)
	}
	z, err := verify.OpenZip(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		w.t.Fatal(err)
	}
	tr, err := verify.NewTrustFile(w.material.verifier).Trust()
	if err != nil {
		w.t.Fatal(err)
	}
	tr.TSA = roots
	r, err := verify.Pack(z, tr)
	if err != nil {
		w.t.Fatal(err)
	}
	return made, r
}

// stateOf is what a report says of the time stamps. Other checks find that these
// commands were made up.
func stateOf(r *verify.Report) workpaper.State {
	for _, c := range r.Checks {
		if c.ID == "log.stamps" {
			return c.State
		}
	}
	return ""
}

// alerts are those of a rule.
func (w *world) alerts(rule string) (texts []string) {
	w.t.Helper()
	err := w.sealer.Scan(w.t.Context(), 0, func(r *evidence.Record) error {
		var b evidence.AlertBody
		if r.Head.Type != evidence.Alert {
			return nil
		}
		if err := evidence.DecodeBody(r.Body, &b); err != nil {
			return err
		}
		if b.Rule == rule {
			texts = append(texts, b.Text)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return texts
}

func (w *world) metrics() string {
	w.t.Helper()
	r := prometheus.NewRegistry()
	w.Metrics(r)
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, "/", nil))
	b, err := io.ReadAll(rec.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// A gateway has its log stamped: when it packs, and when it stops. What it got is
// in its packs and in its backups.
func TestAGatewayHasItsLogStamped(t *testing.T) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	w := newWorld(t, stampedBy(t, a.Roots(), a))
	chain, start := w.open()
	w.do(chain, "select 1")
	w.end(chain, start)
	began := time.Now()
	made, r := w.packed(a.Roots())
	if made.Stamps == 0 || stateOf(r) != workpaper.Pass || r.Stamps == nil || r.Stamps.Verified == 0 {
		var b bytes.Buffer
		_ = r.WriteText(&b)
		t.Fatalf("%d stamps; %s", made.Stamps, b.String())
	}
	if d := r.Stamps.Newest.NotAfter.Sub(began); d < -2*time.Second || d > time.Minute || !strings.Contains(r.Stamped, "existed not later than") {
		t.Errorf("stamped %v after the pack was asked for: %s", d, r.Stamped)
	}
	st, err := w.LogStatus(t.Context())
	if err != nil || st.Stamped == 0 || st.StampedAt.IsZero() || len(st.Authorities) != 1 || st.Authorities[0].Problem != "" {
		t.Errorf("status %+v, %v", st, err)
	}
	url := st.Authorities[0].URL
	if m := w.metrics(); !strings.Contains(m, fmt.Sprintf("exhibit_timestamp_failing_seconds{authority=%q} 0", url)) || !strings.Contains(m, fmt.Sprintf("exhibit_log_stamped_blocks %d", st.Stamped)) {
		t.Errorf("metrics\n%s", m)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.opened.Data, ledger.StampsFile)
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	err = ledger.ReadStamps(bytes.NewReader(kept), func(_ []byte, s *ledger.Stamped) error {
		cp, _, err := s.Open()
		last = cp.Size
		return err
	})
	if blocks := w.sealer.Status().Blocks; err != nil || last != blocks {
		t.Errorf("it stopped with %d of %d blocks stamped, %v", last, blocks, err)
	}
	// A backup has them too.
	data := filepath.Join(t.TempDir(), "data")
	if _, err := Restore(t.Context(), RestoreParams{Data: data}, bytes.NewReader(w.backup())); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(data, ledger.StampsFile)); err != nil || !bytes.Equal(b, kept) {
		t.Errorf("restored stamps of %d bytes, want %d: %v", len(b), len(kept), err)
	}
}

// Whatever becomes of time stamps, sessions go on, records are sealed, packs are
// made and say what they lack, and the gateway stops in good order.
func TestTimeStampsHoldUpNobody(t *testing.T) {
	a, other := stamptest.New("tsa.example.org", stamptest.Certificate{}), stamptest.New("other.example.org", stamptest.Certificate{})
	for name, c := range map[string]struct {
		h     http.Handler
		lies  bool
		cause string
	}{
		"it is somebody else": {other, true, "none of the authorities trusted"},
		"it talks nonsense":   {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }), true, "not one of RFC 3161"},
		"it never ends": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}), true, "more than"},
		"it hangs": {http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}), false, "deadline"},
		"it is broken": {http.NotFoundHandler(), false, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, stampedBy(t, a.Roots(), c.h))
			w.until(30*time.Second, "it is asked", func() bool {
				st, err := w.LogStatus(t.Context())
				return err == nil && len(st.Authorities) == 1 && strings.Contains(st.Authorities[0].Problem, c.cause)
			})
			began := time.Now()
			chain, start := w.open()
			for range 50 {
				w.do(chain, "select 1")
			}
			w.end(chain, start)
			if _, err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("50 commands took %v", d)
			}
			if err := w.Ready(); err != nil {
				t.Errorf("the gateway is not ready: %v", err)
			}
			st, err := w.LogStatus(t.Context())
			if err != nil || st.Problem != "" || st.Authorities[0].Behind != st.Blocks || st.Authorities[0].Since.IsZero() {
				t.Errorf("status %+v, %v", st, err)
			}
			began = time.Now()
			made, r := w.packed(nil)
			if made.Stamps != 0 || stateOf(r) != workpaper.NotTested || !strings.Contains(r.Stamped, "operator's word") {
				t.Errorf("a pack with %d stamps: %s, %s", made.Stamps, stateOf(r), r.Stamped)
			}
			if _, r := w.packed(a.Roots()); stateOf(r) != workpaper.Fail {
				t.Errorf("where stamps are demanded it says %s: %s", stateOf(r), r.Stamped)
			}
			if d := time.Since(began); d > 30*time.Second {
				t.Errorf("two packs took %v", d)
			}
			got := w.alerts("timestamp-false")
			if c.lies && (len(got) != 1 || !strings.Contains(got[0], c.cause) || !strings.Contains(got[0], st.Authorities[0].URL)) || !c.lies && len(got) > 0 {
				t.Errorf("alerts %q", got)
			}
			began = time.Now()
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("it stopped in %v", d)
			}
			g, err := w.reopened(w.opened.Data)
			if err != nil {
				t.Fatal(err)
			}
			clean := false
			err = g.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
				var b evidence.GatewayStartBody
				if r.Head.Type == evidence.GatewayStart && r.Head.Pos.Boot == 2 {
					err := json.Unmarshal(r.Body, &b)
					clean = b.Clean
					return err
				}
				return nil
			})
			if err != nil || !clean {
				t.Errorf("the next start calls the stop clean: %t, %v", clean, err)
			}
			if err := g.Abandon(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A damaged file of stamps is for a person to mend, and until then no stamps are
// kept.
func TestADamagedFileOfStamps(t *testing.T) {
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	w := newWorld(t, stampedBy(t, a.Roots(), a), func(s *Settings) {
		if err := os.WriteFile(filepath.Join(s.Data, ledger.StampsFile), []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.sealer.Stamp(t.Context(), true)
	st, err := w.LogStatus(t.Context())
	if err != nil || !strings.Contains(st.Authorities[0].Problem, "move it away") {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := w.Ready(); err != nil {
		t.Error(err)
	}
	_, err = w.CreatePack(t.Context(), api.PackRequest{From: api.Moment{Time: time.Now().Add(-time.Hour)}}, packtest.Alice, io.Discard, func(api.Progress) {})
	if err == nil || !strings.Contains(err.Error(), "move the file away") {
		t.Errorf("a pack: %v", err)
	}
}
