package seal

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// fakeAuthority stamps, and goes wrong when asked to.
type fakeAuthority struct {
	*stamptest.Authority
	name  string
	mu    sync.Mutex
	asked int
	wrong func(*http.Request, []byte) *reply // answers instead
}

func newFakeAuthority(name string) *fakeAuthority {
	return &fakeAuthority{Authority: stamptest.New(name, stamptest.Certificate{}), name: name}
}

func (f *fakeAuthority) set(wrong func(*http.Request, []byte) *reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = wrong
}

func (f *fakeAuthority) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// authorities routes requests to fakes by host.
type authorities map[string]*fakeAuthority

func (n authorities) RoundTrip(req *http.Request) (*http.Response, error) {
	f := n[req.URL.Host]
	request, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	wrong := f.wrong
	f.asked++
	f.mu.Unlock()
	var r *reply
	if wrong != nil {
		r = wrong(req, request)
	} else {
		r = respond(http.StatusOK, "application/timestamp-reply", string(f.Answer(request)))
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if r.status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: r.status, Header: r.header, Body: io.NopCloser(strings.NewReader(r.contents)), Request: req}, nil
}

// alerts collects them.
type alerts struct {
	mu   sync.Mutex
	list []string
}

func (a *alerts) add(url string, lied bool, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, fmt.Sprintf("%s %t %v", url, lied, cause))
}

func (a *alerts) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.list...)
}

const testStamping = 10 * time.Minute

// stamping runs the stamps of a log until the test ends.
func stamping(t *testing.T, g *growing, file string, edit func(*Stamping), fakes ...*fakeAuthority) (*stamps, *alerts) {
	t.Helper()
	net, told := authorities{}, &alerts{}
	cfg := Stamping{File: file, Alert: told.add, testingOnlyTransport: net}
	for _, f := range fakes {
		net[f.name] = f
		cfg.Authorities = append(cfg.Authorities, Authority{URL: "http://" + f.name, Roots: f.Roots()})
	}
	if edit != nil {
		edit(&cfg)
	}
	check(t, cfg.check())
	s := newStamps(cfg, slog.New(slog.DiscardHandler), g.newest)
	s.open()
	ctx, cancel := context.WithCancel(t.Context())
	go s.run(ctx)
	t.Cleanup(func() { cancel(); <-s.done })
	return s, told
}

// stampsIn reads a file of stamped checkpoints as a verifier would, and returns
// the sizes.
func stampsIn(t *testing.T, file string, log note.Verifier, roots *x509.CertPool) (sizes []uint64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	check(t, err)
	check(t, ledger.ReadStamps(bytes.NewReader(b), func(_ []byte, s *ledger.Stamped) error {
		cp, stamp, err := s.Open()
		check(t, err)
		_, err = ledger.OpenCheckpoint([]byte(s.Checkpoint), []note.Verifier{log}, nil, 0)
		check(t, err)
		check(t, stamp.Verify(roots))
		sizes = append(sizes, cp.Size)
		return nil
	}))
	return sizes
}

func TestStampsFollowTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f := newGrowing(t, "a", "b", "c"), newFakeAuthority("tsa.example")
		file := filepath.Join(t.TempDir(), ledger.StampsFile)
		s, told := stamping(t, g, file, nil, f)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := stampsIn(t, file, g.vkey, f.Roots()); fmt.Sprint(got) != "[3]" {
			t.Fatalf("stamped %v at the start, want the newest", got)
		}
		for i := range 100 { // one for all that comes in an interval
			g.add(fmt.Sprint(i))
			time.Sleep(testStamping / 50)
		}
		time.Sleep(testStamping)
		synctest.Wait()
		if got := stampsIn(t, file, g.vkey, f.Roots()); len(got) != 3 || got[2] != 103 {
			t.Errorf("stamped %v", got)
		}
		asked := f.requests()
		time.Sleep(24 * time.Hour)
		if f.requests() != asked {
			t.Error("a checkpoint is stamped over and over")
		}
		st := s.state(103)
		if a := st.Authorities[0]; st.Size != 103 || st.At.IsZero() || a.Size != 103 || a.Behind != 0 || a.Err != nil || a.Stamped.IsZero() {
			t.Errorf("status %+v", st)
		}
		if got := told.all(); len(got) > 0 {
			t.Errorf("alerts %q", got)
		}
	})
}

// A log that has only begun is not left without a stamp for an interval.
func TestTheFirstBlockIsStampedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f := newGrowing(t), newFakeAuthority("tsa.example")
		s, _ := stamping(t, g, filepath.Join(t.TempDir(), ledger.StampsFile), nil, f)
		time.Sleep(time.Minute)
		g.add("a")
		time.Sleep(firstStampWait)
		synctest.Wait()
		if st := s.state(1); st.Size != 1 || f.requests() != 1 {
			t.Errorf("status %+v after %d requests", st, f.requests())
		}
	})
}

// A gateway that starts over and over asks no more often than one that runs.
func TestStampsGoOnAfterARestart(t *testing.T) {
	g, f := newGrowing(t, "a", "b", "c"), newFakeAuthority("tsa.example")
	file := filepath.Join(t.TempDir(), ledger.StampsFile)
	begin := func() (*stamps, context.CancelFunc) {
		cfg := Stamping{File: file, Authorities: []Authority{{URL: "http://tsa.example", Roots: f.Roots()}}, testingOnlyTransport: authorities{"tsa.example": f}}
		check(t, cfg.check())
		s := newStamps(cfg, slog.New(slog.DiscardHandler), g.newest)
		s.open()
		ctx, cancel := context.WithCancel(t.Context())
		go s.run(ctx)
		return s, func() { cancel(); <-s.done }
	}
	s, end := begin()
	s.await(t.Context(), 3, true)
	end()
	g.add("d")
	s, end = begin()
	if st := s.state(4); st.Size != 3 || f.requests() != 1 {
		t.Errorf("after a restart: %d blocks are stamped, %d requests", st.Size, f.requests())
	}
	time.Sleep(50 * time.Millisecond)
	if f.requests() != 1 {
		t.Error("a restart asks at once")
	}
	s.await(t.Context(), 4, true) // unless somebody waits
	end()
	// A crash leaves half a line; it is written over.
	b, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(file, append(b, b[:99]...), 0o600))
	g.add("e")
	s, end = begin()
	s.await(t.Context(), 5, true)
	end()
	if got := stampsIn(t, file, g.vkey, f.Roots()); fmt.Sprint(got) != "[3 4 5]" {
		t.Errorf("stamped %v", got)
	}
	// What can't be read is left as it is, nothing is asked for, and the status
	// says why.
	check(t, os.WriteFile(file, []byte("not a line\n"), 0o600))
	asked := f.requests()
	s, end = begin()
	s.await(t.Context(), 5, true)
	end()
	st := s.state(5)
	if err := st.Authorities[0].Err; err == nil || !strings.Contains(err.Error(), "move it away") || f.requests() != asked {
		t.Errorf("a damaged file: %v, %d requests", err, f.requests()-asked)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "not a line\n" {
		t.Errorf("a damaged file is now %q, %v", b, err)
	}
}

func TestAStampThatCannotBeKept(t *testing.T) {
	g, f := newGrowing(t, "a"), newFakeAuthority("tsa.example")
	dir := filepath.Join(t.TempDir(), "gone")
	s, _ := stamping(t, g, filepath.Join(dir, ledger.StampsFile), nil, f)
	s.await(t.Context(), 1, true)
	if err := s.state(1).Authorities[0].Err; err == nil || !strings.Contains(err.Error(), "keeping the stamp") {
		t.Errorf("status %v", err)
	}
	check(t, os.Mkdir(dir, 0o700))
	s.await(t.Context(), 1, true)
	if st := s.state(1); st.Size != 1 || st.Authorities[0].Err != nil {
		t.Errorf("status %+v", st)
	}
}

// Whatever an authority answers, it is not believed, it is told to the operator,
// nothing is kept, and what is a lie raises an alert: one, until it is good
// again.
func TestAuthoritiesThatLie(t *testing.T) {
	other := stamptest.New("other.example", stamptest.Certificate{})
	as := func(change func(*stamptest.Draft)) func(*fakeAuthority) {
		return func(f *fakeAuthority) { f.Change = change }
	}
	answers := func(b []byte) func(*fakeAuthority) {
		return func(f *fakeAuthority) {
			f.wrong = func(*http.Request, []byte) *reply { return respond(200, "application/timestamp-reply", string(b)) }
		}
	}
	for name, c := range map[string]struct {
		how   func(*fakeAuthority)
		want  string
		fails bool // it doesn't lie, it fails
	}{
		"another digest": {how: as(func(d *stamptest.Draft) { d.Digest = bytes.Repeat([]byte{1}, 32) }), want: "of other bytes"},
		"another nonce":  {how: as(func(d *stamptest.Draft) { d.Nonce = big.NewInt(5) }), want: "nonce"},
		"no nonce":       {how: as(func(d *stamptest.Draft) { d.Nonce = nil }), want: "nonce"},
		"another policy": {how: as(func(d *stamptest.Draft) { d.Policy = asn1.ObjectIdentifier{1, 2, 9} }), want: "configured is 1.2.3.4.1"},
		"another signer": {how: func(f *fakeAuthority) { *f.Authority = *other }, want: "none of the authorities trusted"},
		"an expired certificate": {how: func(f *fakeAuthority) {
			*f.Authority = *stamptest.New("tsa.example", stamptest.Certificate{NotAfter: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)})
		}, want: "expired"},
		"a certificate for servers": {how: func(f *fakeAuthority) {
			*f.Authority = *stamptest.New("tsa.example", stamptest.Certificate{Usage: []asn1.ObjectIdentifier{stamptest.ServerAuth}})
		}, want: "incompatible key usage"},
		"a past time":      {how: as(func(d *stamptest.Draft) { d.Time = d.Time.Add(-2 * time.Minute) }), want: "one of them is wrong"},
		"a future time":    {how: as(func(d *stamptest.Draft) { d.Time = d.Time.Add(2 * time.Minute) }), want: "one of them is wrong"},
		"an absurd time":   {how: as(func(d *stamptest.Draft) { d.Time = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC) }), want: "one of them is wrong"},
		"a forged time":    {how: as(func(d *stamptest.Draft) { d.MessageDigest = make([]byte, 64) }), want: "not what was signed"},
		"a huge answer":    {how: answers(bytes.Repeat([]byte{0x30}, 1<<20)), want: "more than"},
		"garbage":          {how: answers([]byte("<html>hello</html>")), want: "not one of RFC 3161"},
		"nothing":          {how: answers(nil), want: "not one of RFC 3161"},
		"granted, no more": {how: answers([]byte{0x30, 5, 0x30, 3, 2, 1, 0}), want: "holds none"},
		"a refusal":        {how: answers(stamptest.Refusal(2, "no\nquota")), want: `it refuses (status 2): "no\nquota"`, fails: true},
		"a redirect": {how: func(f *fakeAuthority) {
			f.wrong = func(*http.Request, []byte) *reply { return redirect(nil) }
		}, want: "another address", fails: true},
		"an error": {how: func(f *fakeAuthority) {
			f.wrong = func(*http.Request, []byte) *reply { return respond(503, "text/plain", "") }
		}, want: "answers with 503", fails: true},
		"no answer ever": {how: func(f *fakeAuthority) {
			f.wrong = func(r *http.Request, _ []byte) *reply { return slow(time.Hour)(r) }
		}, want: "deadline", fails: true},
		"down": {how: func(f *fakeAuthority) {
			f.wrong = func(*http.Request, []byte) *reply { return &reply{} }
		}, want: "refused", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, f := newGrowing(t, "a", "b", "c"), newFakeAuthority("tsa.example")
				good, roots := *f.Authority, f.Roots()
				c.how(f)
				file := filepath.Join(t.TempDir(), ledger.StampsFile)
				s, told := stamping(t, g, file, func(c *Stamping) { c.Authorities[0].Roots, c.Authorities[0].Policy = roots, good.Policy }, f)
				time.Sleep(time.Minute)
				synctest.Wait()
				st := s.state(3).Authorities[0]
				if st.Err == nil || !strings.Contains(st.Err.Error(), c.want) || st.Since.IsZero() || st.Size != 0 || st.Behind != 3 {
					t.Errorf("status %+v, want %q", st, c.want)
				}
				if _, err := os.Stat(file); err == nil {
					t.Error("something was kept")
				}
				want := "http://tsa.example true"
				if c.fails {
					if got := told.all(); len(got) > 0 {
						t.Errorf("an alert at once: %q", got)
					}
					time.Sleep(missedStamps * testStamping)
					want = "http://tsa.example false"
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if got := told.all(); len(got) != 1 || !strings.HasPrefix(got[0], want) || !strings.Contains(got[0], c.want) {
					t.Errorf("alerts %q", got)
				}
				if n := f.requests(); n < 12 || n > 30 {
					t.Errorf("it was asked %d times in some hours", n)
				}
				*f.Authority = good
				f.set(nil)
				time.Sleep(testStamping + time.Second)
				synctest.Wait()
				if st := s.state(3).Authorities[0]; st.Err != nil || st.Size != 3 {
					t.Errorf("status of one that is good again %+v", st)
				}
				if got := stampsIn(t, file, g.vkey, roots); fmt.Sprint(got) != "[3]" {
					t.Errorf("stamped %v", got)
				}
			})
		})
	}
}

// Each authority is asked for itself; one that hangs holds up none.
func TestOneAuthorityIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, one, two := newGrowing(t, "a"), newFakeAuthority("one.example"), newFakeAuthority("two.example")
		two.set(func(r *http.Request, _ []byte) *reply { return slow(time.Hour)(r) })
		file := filepath.Join(t.TempDir(), ledger.StampsFile)
		s, _ := stamping(t, g, file, nil, one, two)
		time.Sleep(time.Second)
		synctest.Wait()
		st := s.state(1)
		if st.Size != 1 || st.Authorities[0].Size != 1 || st.Authorities[1].Size != 0 {
			t.Errorf("status %+v", st)
		}
		time.Sleep(time.Minute)
		// Who stops doesn't wait for one that failed; who packs does, and no
		// longer than it may take.
		g.add("b")
		began := time.Now()
		s.await(t.Context(), 2, false)
		if d := time.Since(began); d > time.Second || s.state(2).Authorities[0].Size != 2 {
			t.Errorf("waited for %v, status %+v", d, s.state(2))
		}
		g.add("c")
		began = time.Now()
		s.await(t.Context(), 3, true)
		if d := time.Since(began); d < 5*time.Second || d > 21*time.Second || s.state(3).Authorities[0].Size != 3 {
			t.Errorf("waited for %v, status %+v", d, s.state(3))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.await(ctx, 4, true) // and never longer than it is told
	})
}

// An authority that nobody here wrote is understood, by request and by answer.
func TestTheLogIsStampedByOpenSSL(t *testing.T) {
	o := stamptest.NewOpenSSL(t, "sha256", "sha256", "-newkey", "rsa:2048")
	pem, err := os.ReadFile(o.CA)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	g, file := newGrowing(t, "a", "b"), filepath.Join(t.TempDir(), ledger.StampsFile)
	cfg := Stamping{File: file, Authorities: []Authority{{URL: o.URL, Roots: roots, Policy: asn1.ObjectIdentifier{1, 2, 3, 4, 2}}}}
	check(t, cfg.check())
	s := newStamps(cfg, slog.New(slog.DiscardHandler), g.newest)
	s.open()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.run(ctx)
	s.await(ctx, 2, true)
	if st := s.state(2); st.Size != 2 || st.Authorities[0].Err != nil {
		t.Fatalf("status %+v", st.Authorities[0])
	}
	if got := stampsIn(t, file, g.vkey, roots); fmt.Sprint(got) != "[2]" {
		t.Errorf("stamped %v", got)
	}
	info, err := os.Stat(file)
	check(t, err)
	t.Logf("a stamped checkpoint takes %d bytes", info.Size())
	// What isn't served under another policy is refused by name.
	stamp, err := Authority{URL: o.URL, Roots: roots, Policy: asn1.ObjectIdentifier{1, 2, 3, 4, 9}}.Try(t.Context(), 10*time.Second)
	if err == nil || !strings.Contains(err.Error(), "it refuses (status 2)") {
		t.Errorf("policy of another: %+v, %v", stamp, err)
	}
	if stamp, err = (Authority{URL: o.URL, Roots: roots}).Try(t.Context(), 10*time.Second); err != nil || stamp.Authority != "CN=openssl TSA" {
		t.Errorf("%+v, %v", stamp, err)
	}
}
