package gateway

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/verify"
)

// setClock is a clock whose wall somebody sets. The other goes on.
type setClock struct {
	mu     sync.Mutex
	off    time.Duration
	frozen time.Time // where the wall stands still; zero is nowhere
}

func (c *setClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen.IsZero() {
		return c.frozen
	}
	return time.Now().Round(0).Add(c.off)
}

func (c *setClock) elapsed() time.Duration { return time.Since(booted) }

func (c *setClock) step(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += by
}

func (c *setClock) freeze() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = now
}

// steps is what the log says of the clock, in seconds, and the times of all its
// records in order.
func (w *world) steps() (steps []int64, times []int64) {
	w.t.Helper()
	err := w.sealer.Scan(w.t.Context(), 0, func(r *evidence.Record) error {
		times = append(times, r.Head.Time)
		if r.Head.Type != evidence.TimeStep {
			return nil
		}
		var b evidence.TimeStepBody
		err := evidence.DecodeBody(r.Body, &b)
		steps = append(steps, time.Duration(b.StepMicros*1000).Round(time.Second).Milliseconds()/1000)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return steps, times
}

func (w *world) until(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// agentKey enrolls a key of bot.
func (w *world) agentKey() ed25519.PrivateKey {
	w.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err == nil {
		_, err = w.EnrollKey(w.t.Context(), api.NewKey{Agent: "bot", PublicKey: base64.RawURLEncoding.EncodeToString(public)}, packtest.Alice)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// token asks for a token with an assertion of the given time.
func (w *world) token(key ed25519.PrivateKey, at time.Time) (string, error) {
	w.t.Helper()
	a, err := identity.Assert(key, "bot", w.opened.Name, at)
	if err != nil {
		w.t.Fatal(err)
	}
	t, err := w.IssueToken(w.t.Context(), api.TokenRequest{Assertion: a})
	return t.AccessToken, err
}

func (w *world) enter(token string) (protocol.Session, error) {
	return w.gate.Open(w.t.Context(), protocol.Credential{
		User: "bot", Secret: token, Method: "token", Client: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}, Listener: "pg",
	}, protocol.Target{Protocol: "postgres", Resource: "orders", Database: "orders"})
}

// clocked has a gateway live by c.
func clocked(c *setClock) func(*Settings) {
	return func(s *Settings) {
		s.clock, s.TokenTTL = c, 10*time.Minute
		s.Resources[0].Upstream = func() (protocol.Upstream, error) { return protocol.Upstream{Address: "127.0.0.1:5432"}, nil }
	}
}

var readAll = &evidence.Shape{
	Path: "simple", Parse: evidence.ParseFull, Verb: evidence.VerbRead, Text: "SELECT ?",
	Checks: []evidence.Check{{Action: "postgres:select", Object: "public.t"}}, Facts: evidence.Facts{"statements": int64(1)},
}

// A step of the clock is on record with its size. Tokens, assertions and grants
// are judged by the clock as it stands, no right comes of a step, the order of
// records doesn't care, and the verifier finds every decision again.
func TestTheClockIsSet(t *testing.T) {
	c := &setClock{}
	w := newWorld(t, clocked(c))
	ctx := t.Context()
	key := w.agentKey()
	grant := func(ends time.Time) {
		t.Helper()
		if _, err := w.AddGrant(ctx, api.NewGrant{Agent: "bot", Role: "reader", Resource: "orders", Expires: ends}, packtest.Alice); err != nil {
			t.Fatal(err)
		}
	}
	grant(c.now().Add(30 * time.Minute))
	first, err := w.token(key, c.now())
	if err != nil {
		t.Fatal(err)
	}
	effect := func(s protocol.Session) evidence.Effect {
		t.Helper()
		x, err := s.Begin(ctx, &evidence.Command{Shape: readAll, Raw: []byte("select 1"), Frames: 1, Bytes: 14})
		if err != nil {
			return evidence.Deny
		}
		if e := x[0].Decision().Effect; e != evidence.Allow {
			return e
		}
		if err := x[0].End(ctx, evidence.Outcome{Class: evidence.OK}); err != nil {
			t.Fatal(err)
		}
		return evidence.Allow
	}
	may := func(what, token string, want bool) protocol.Session {
		t.Helper()
		s, err := w.enter(token)
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil || !want {
			return nil
		}
		if got := effect(s); got != evidence.Allow {
			t.Errorf("%s: a command is decided %s", what, got)
		}
		return s
	}
	stepped := func(by time.Duration, n int) {
		t.Helper()
		c.step(by)
		w.until(5*time.Second, "the step is on record", func() bool { s, _ := w.steps(); return len(s) == n })
	}
	end := func(s protocol.Session, commands uint64) {
		t.Helper()
		if err := s.Close(protocol.SessionEnd{Reason: "terminate", Frames: map[string]uint64{"Q": commands}, Bytes: 14 * commands}); err != nil {
			t.Error(err)
		}
	}

	open := may("a new token", first, true)
	stepped(-time.Hour, 1) // before the token, the key and the gateway's start
	if got := effect(open); got != evidence.Allow {
		t.Errorf("an open session, an hour back: %s", got)
	}
	end(open, 2)
	may("a token that is not valid yet", first, false)
	if _, err := w.token(key, c.now()); problemStatus(err) == 0 {
		t.Errorf("an assertion of before the start: %v", err)
	}
	stepped(2*time.Hour, 2) // an hour ahead: behind the token and the grant
	may("a token that has expired", first, false)
	second, err := w.token(key, c.now())
	if err != nil {
		t.Fatal(err)
	}
	may("a grant that has expired", second, false)
	grant(c.now().Add(30 * time.Minute))
	late := may("a new grant", second, true)
	stepped(2*time.Hour, 3)
	w.until(5*time.Second, "the session whose grant is over has ended", func() bool {
		select {
		case <-late.Done():
			return true
		default:
			return false
		}
	})
	end(late, 1)
	stepped(-3*time.Hour, 4) // where it was
	end(may("the first token again", first, true), 1)

	steps, times := w.steps()
	if want := []int64{-3600, 7200, 7200, -10800}; !slices.Equal(steps, want) {
		t.Errorf("steps of %v seconds are on record, want %v", steps, want)
	}
	if slices.IsSorted(times) {
		t.Error("no record has an earlier time than the one before it: nothing was tested")
	}
	w.packPasses(c.now().Add(24*time.Hour), 20)
}

// packPasses makes a pack of everything until then, of some records at least,
// and verifies it.
func (w *world) packPasses(to time.Time, least uint64) {
	w.t.Helper()
	var b bytes.Buffer
	made, err := w.CreatePack(w.t.Context(), api.PackRequest{From: api.Moment{Time: to.AddDate(0, 0, -3)}, To: api.Moment{Time: to}}, packtest.Alice, &b, func(api.Progress) {})
	if err != nil {
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
	if r.Verdict != "pass" || made.Records < least {
		w.t.Errorf("a pack of %d records: %s", made.Records, r.Verdict)
		for _, c := range r.Checks {
			w.t.Logf("%+v", *c)
		}
	}
}

// A clock that stands still, runs at another speed or is set by little and
// little is one that steps: what it has come to is on record once it is over a
// second.
func TestAClockThatDrifts(t *testing.T) {
	for name, move := range map[string]func(c *setClock, stop <-chan struct{}){
		"stands still": func(c *setClock, _ <-chan struct{}) { c.freeze() },
		"is set back by little and little": func(c *setClock, stop <-chan struct{}) {
			for tick := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
					c.step(-80 * time.Millisecond)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, stop := &setClock{}, make(chan struct{})
			w := newWorld(t, clocked(c))
			var moving sync.WaitGroup
			moving.Go(func() { move(c, stop) })
			w.until(10*time.Second, "two steps back are on record", func() bool {
				steps, _ := w.steps()
				return len(steps) >= 2 && !slices.ContainsFunc(steps, func(s int64) bool { return s >= 0 })
			})
			close(stop)
			moving.Wait()
		})
	}
}

// A wall clock that is right leaves nothing on record.
func TestAClockThatIsRight(t *testing.T) {
	w := newWorld(t)
	time.Sleep(2500 * time.Millisecond) // two looks
	if steps, _ := w.steps(); len(steps) > 0 {
		t.Errorf("steps of %v", steps)
	}
}

// A gateway that starts with a clock behind the records it finds goes on from
// them: order is by position.
func TestAStartWithAClockThatIsBehind(t *testing.T) {
	c := &setClock{}
	var s Settings
	w := newWorld(t, clocked(c), func(settings *Settings) { s = *settings })
	key := w.agentKey()
	if _, err := w.AddGrant(t.Context(), api.NewGrant{Agent: "bot", Role: "reader", Resource: "orders", Expires: c.now().Add(time.Hour)}, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	c.step(-30 * time.Minute)
	g, err := Open(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	w = &world{Gateway: g, t: t}
	if _, err := w.token(key, c.now()); err == nil {
		t.Error("a key that is not valid yet gave a token")
	}
	c.step(30 * time.Minute)
	token, err := w.token(key, c.now())
	if err != nil {
		t.Fatal(err)
	}
	in, err := w.enter(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(protocol.SessionEnd{Reason: "terminate"}); err != nil {
		t.Error(err)
	}
	// Until then a pack would hold the leap and not what it was.
	w.until(5*time.Second, "the step is on record", func() bool { steps, _ := w.steps(); return len(steps) == 1 })
	if _, times := w.steps(); slices.IsSorted(times) {
		t.Error("no record has an earlier time than the one before it: nothing was tested")
	}
	w.packPasses(c.now().Add(24*time.Hour), 15)
}
