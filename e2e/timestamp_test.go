package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
)

// stamps is what log status says of time stamps.
type stamps struct {
	Blocks      uint64
	Stamped     uint64
	Authorities []struct {
		Blocks, Behind uint64
		Problem        string
	} `json:"timestamp_authorities"`
}

func (w *world) stamps() (s stamps) {
	w.t.Helper()
	w.ok(json.Unmarshal([]byte(w.must("log", "status", "--json")), &s))
	return s
}

// everything asks for a pack of all there is.
func everything(path string) []string {
	return []string{"pack", "create", "--from", "2020-01-01", "--to", "2100-01-01", "-o", path}
}

// TestTimeStampsOfAnAuthority has the log stamped by openssl, lets that lie, hang
// and go away while an agent works, and verifies packs with and without it.
func TestTimeStampsOfAnAuthority(t *testing.T) {
	tsa := stamptest.NewOpenSSL(t, "sha256", "sha256", "-newkey", "rsa:2048")
	liar := stamptest.New("liar.e2e.example", stamptest.Certificate{})
	var behave atomic.Pointer[http.Handler] // what the way to the authority does
	as := func(h http.Handler) { behave.Store(&h) }
	as(tsa)
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*behave.Load()).ServeHTTP(w, r) }))
	defer way.Close()

	w := newWorld(t, func(c string) string {
		at := regexp.MustCompile(`(?m)^( +)origin: e2e\.example/gw1$`)
		return at.ReplaceAllString(c, fmt.Sprintf(
			"${1}origin: e2e.example/gw1\n${1}timestamps: {authorities: [{url: %q, ca: %q, policy: 1.2.3.4.1}], timeout: 2s}", way.URL, tsa.CA))
	})
	w.asks(1)
	if out := w.must("doctor"); !strings.Contains(out, "authority "+way.URL+": stamps, as CN=openssl TSA under policy 1.2.3.4.1") {
		t.Errorf("doctor:\n%s", out)
	}

	// A pack says by when its evidence was there, to whom trusts the authority.
	began := time.Now()
	pack := w.path("stamped.zip")
	said := w.must(everything(pack)...)
	if !strings.Contains(said, "with a time stamp") {
		t.Errorf("pack create:\n%s", said)
	}
	trust := w.path("trust.json")
	out, err := w.run(exhibitVerify, pack, "--trust", trust, "--tsa-ca", tsa.CA)
	m := regexp.MustCompile(`existed not later than (\S+), by CN=openssl TSA`).FindStringSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if at, err := time.Parse(time.RFC3339Nano, m[1]); err != nil || at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(5*time.Second)) {
		t.Errorf("existed not later than %s, made after %v: %v", m[1], began, err)
	}
	if out, err := w.run(exhibitVerify, pack, "--trust", trust); err != nil || !strings.Contains(out, "not verified: name the authorities that you trust with --tsa-ca") {
		t.Errorf("without a CA: %v\n%s", err, out)
	}
	w.ok(os.WriteFile(w.path("liar.pem"), liar.PEM(), 0o600))
	if out, err := w.run(exhibitVerify, pack, "--trust", trust, "--tsa-ca", w.path("liar.pem")); err == nil || !strings.Contains(out, "no time stamp of an authority that you trust") {
		t.Errorf("with another CA: %v\n%s", err, out)
	}

	// Whatever the authority does, the agent works, and the status says it.
	for _, c := range []struct {
		name, problem string
		h             http.Handler
	}{
		{"lies", "none of the authorities trusted", liar},
		{"hangs", "deadline", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or nobody notices that the gateway gives up
			<-r.Context().Done()
		})},
		{"is down", "answers with 503", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })},
	} {
		as(c.h)
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := w.exhibit(everything(w.path(strings.ReplaceAll(c.name, " ", "-") + ".zip"))...)
			done <- err
		}()
		w.asks(3)
		w.ok(<-done)
		t.Logf("three sessions and a pack while the authority %s: %v", c.name, time.Since(began))
		s := w.stamps()
		if len(s.Authorities) != 1 || !strings.Contains(s.Authorities[0].Problem, c.problem) || s.Authorities[0].Behind == 0 {
			t.Errorf("while it %s: %+v", c.name, s)
		}
	}
	if out := w.must("log", "status"); !strings.Contains(out, "not stamping since") {
		t.Errorf("log status:\n%s", out)
	}
	// What it stamped before is in a pack of now, which says what has no stamp.
	out, err = w.run(exhibitVerify, w.path("is-down.zip"), "--trust", trust, "--tsa-ca", tsa.CA)
	if err != nil || !strings.Contains(out, "no stamp covers the last") {
		t.Errorf("a pack without a new stamp: %v\n%s", err, out)
	}
	var alerts []string
	for _, r := range w.records(evidence.Alert) {
		var b evidence.AlertBody
		w.ok(evidence.DecodeBody(r.Body, &b))
		if strings.HasPrefix(b.Rule, "timestamp-") {
			alerts = append(alerts, b.Rule+" "+b.Severity)
		}
	}
	if len(alerts) != 1 || alerts[0] != "timestamp-false high" {
		t.Errorf("alerts %q", alerts)
	}

	// It comes back: the last checkpoint of a gateway that stops is stamped.
	as(tsa)
	w.must(everything(w.path("again.zip"))...)
	w.asks(1)
	w.stop(syscall.SIGTERM)
	w.start()
	if s := w.stamps(); s.Stamped == 0 || s.Stamped+10 < s.Blocks {
		t.Errorf("after a stop in good order %d of %d blocks are stamped", s.Stamped, s.Blocks)
	}
	w.passes()
}
