package seal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// fakeWitness is a witness as the protocol has it, with callbacks to go wrong.
type fakeWitness struct {
	name string
	key  ed25519.PrivateKey
	log  note.Verifier

	mu    sync.Mutex
	size  int64
	root  tlog.Hash
	asked int
	wrong func(*http.Request) *reply // answers instead, unless it returns nil
	lie   func(text string) string   // signs this instead
}

func newFakeWitness(name string, log note.Verifier) *fakeWitness {
	seed := sha256.Sum256([]byte(name))
	return &fakeWitness{name: name, key: ed25519.NewKeyFromSeed(seed[:]), log: log}
}

// vkey is its verifier key (C2SP tlog-cosignature).
func (f *fakeWitness) vkey() string {
	key := append([]byte{4}, f.key.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(f.name+"\n"), key...))
	return fmt.Sprintf("%s+%08x+%s", f.name, binary.BigEndian.Uint32(sum[:]), base64.StdEncoding.EncodeToString(key))
}

func (f *fakeWitness) config(t testing.TB) Witness {
	t.Helper()
	v, err := ledger.NewVerifier(f.vkey())
	check(t, err)
	return Witness{URL: "https://" + f.name, Key: v}
}

func (f *fakeWitness) set(wrong func(*http.Request) *reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = wrong
}

func (f *fakeWitness) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// reply is what a fake answers; none at all without a status.
type reply struct {
	status   int
	header   http.Header
	contents string
}

func respond(status int, contentType, body string) *reply {
	return &reply{status, http.Header{"Content-Type": {contentType}}, body}
}

func conflict(size int64) *reply {
	return respond(http.StatusConflict, "text/x.tlog.size", fmt.Sprintf("%d\n", size))
}

func (f *fakeWitness) serve(req *http.Request) *reply {
	f.mu.Lock()
	wrong := f.wrong
	f.asked++
	f.mu.Unlock()
	if wrong != nil {
		if resp := wrong(req); resp != nil {
			return resp
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Method != http.MethodPost || req.URL.Path != "/add-checkpoint" {
		return respond(http.StatusNotFound, "", "")
	}
	body, _ := io.ReadAll(req.Body)
	head, msg, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return respond(http.StatusBadRequest, "", "")
	}
	cp, err := ledger.OpenCheckpoint(msg, []note.Verifier{f.log}, nil, 0)
	if err != nil {
		return respond(http.StatusForbidden, "", "")
	}
	lines := strings.Split(string(head), "\n")
	var old int64
	if _, err := fmt.Sscanf(lines[0], "old %d", &old); err != nil || old > int64(cp.Size) {
		return respond(http.StatusBadRequest, "", "")
	}
	if old != f.size {
		return conflict(f.size)
	}
	proof := make(tlog.TreeProof, len(lines)-1)
	for i, l := range lines[1:] {
		if proof[i], err = tlog.ParseHash(l); err != nil {
			return respond(http.StatusBadRequest, "", "")
		}
	}
	if old > 0 && tlog.CheckTree(proof, int64(cp.Size), tlog.Hash(cp.Root), old, f.root) != nil {
		return respond(http.StatusUnprocessableEntity, "", "")
	}
	f.size, f.root = int64(cp.Size), tlog.Hash(cp.Root)
	text := cp.Text()
	if f.lie != nil {
		text = f.lie(text)
	}
	return respond(http.StatusOK, "", f.sign(text))
}

// sign makes a cosignature line.
func (f *fakeWitness) sign(text string) string {
	now := time.Now().Unix()
	sig := binary.BigEndian.AppendUint64(nil, uint64(now))
	sig = append(sig, ed25519.Sign(f.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", now, text))...)
	hash := strings.Split(f.vkey(), "+")[1]
	var id uint32
	_, _ = fmt.Sscanf(hash, "%08x", &id)
	return fmt.Sprintf("— %s %s\n", f.name, base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, id), sig...)))
}

// network routes requests to fakes by host.
type network map[string]*fakeWitness

func (n network) RoundTrip(req *http.Request) (*http.Response, error) {
	r := n[req.URL.Host].serve(req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if r.status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: r.status, Header: r.header, Body: io.NopCloser(strings.NewReader(r.contents)), Request: req}, nil
}

// slow answers late, or not at all when asked to give up before.
func slow(d time.Duration) func(*http.Request) *reply {
	return func(req *http.Request) *reply {
		select {
		case <-time.After(d):
		case <-req.Context().Done():
		}
		return nil
	}
}

func down(*http.Request) *reply { return &reply{} }

// growing is a log in memory that witnesses are asked about.
type growing struct {
	t      *testing.T
	signer note.Signer
	vkey   note.Verifier

	mu     sync.Mutex
	stored []tlog.Hash
	leaves int64
}

func newGrowing(t *testing.T, leaves ...string) *growing {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), origin)
	check(t, err)
	signer, err := note.NewSigner(skey)
	check(t, err)
	v, err := ledger.NewVerifier(vkey)
	check(t, err)
	g := &growing{t: t, signer: signer, vkey: v}
	g.add(leaves...)
	return g
}

func (g *growing) ReadHashes(index []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(index))
	for i, x := range index {
		list[i] = g.stored[x]
	}
	return list, nil
}

func (g *growing) add(leaves ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range leaves {
		hashes, err := tlog.StoredHashes(g.leaves, []byte(l), g)
		check(g.t, err)
		g.stored = append(g.stored, hashes...)
		g.leaves++
	}
}

func (g *growing) newest() ledger.Checkpoint {
	g.mu.Lock()
	defer g.mu.Unlock()
	root, err := tlog.TreeHash(g.leaves, g)
	check(g.t, err)
	cp := ledger.Checkpoint{Origin: origin, Size: uint64(g.leaves), Root: evidence.Hash(root)}
	cp.Note, err = note.Sign(&note.Note{Text: cp.Text()}, g.signer)
	check(g.t, err)
	return cp
}

func (g *growing) prove(cp ledger.Checkpoint, old uint64) ([]evidence.Hash, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old == 0 || old == cp.Size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(cp.Size), int64(old), g)
	list := make([]evidence.Hash, len(proof))
	for i := range proof {
		list[i] = evidence.Hash(proof[i])
	}
	return list, err
}

// asking runs the witnesses of a log until the test ends, and returns them with
// what ended them.
func asking(t *testing.T, g *growing, quorum int, fakes ...*fakeWitness) (*witnesses, <-chan error) {
	t.Helper()
	net, cfg := network{}, Witnessing{Quorum: quorum, File: filepath.Join(t.TempDir(), "witnessed")}
	for _, f := range fakes {
		net[f.name] = f
		cfg.Witnesses = append(cfg.Witnesses, f.config(t))
	}
	cfg.testingOnlyTransport = net
	check(t, cfg.check())
	w := newWitnesses(cfg, slog.New(slog.DiscardHandler), g.newest, g.prove)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(cancel)
	return w, ended
}

// kept opens the file, as a verifier would.
func (w *witnesses) opened(t *testing.T, g *growing) ledger.Checkpoint {
	t.Helper()
	msg, err := os.ReadFile(w.cfg.File)
	check(t, err)
	cp, err := ledger.OpenCheckpoint(msg, []note.Verifier{g.vkey}, w.cfg.verifiers(), w.cfg.Quorum)
	check(t, err)
	return cp
}

func TestWitnessesFollowTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrowing(t, "a", "b", "c")
		one, two := newFakeWitness("one.example", g.vkey), newFakeWitness("two.example", g.vkey)
		w, _ := asking(t, g, 0, one, two)
		time.Sleep(witnessInterval + time.Millisecond)
		synctest.Wait()
		if cp := w.opened(t, g); cp.Size != 3 || len(cp.Cosignatures) != 2 {
			t.Errorf("kept %d blocks with %d cosignatures", cp.Size, len(cp.Cosignatures))
		}
		for i := range 20 { // not a question for each
			g.add(fmt.Sprint(i))
			time.Sleep(witnessInterval / 20)
		}
		time.Sleep(witnessInterval)
		synctest.Wait()
		if cp := w.opened(t, g); cp.Size != 23 {
			t.Errorf("kept %d blocks, want 23", cp.Size)
		}
		if n := one.requests(); n > 3 {
			t.Errorf("%d requests in three rounds", n)
		}
		asked := one.requests()
		time.Sleep(time.Hour)
		if one.requests() != asked {
			t.Error("a witness is asked again about what it has cosigned")
		}
		for _, s := range w.state(23).Witnesses {
			if s.Size != 23 || s.Behind != 0 || s.Err != nil || s.Cosigned.IsZero() {
				t.Errorf("status %+v", s)
			}
		}
	})
}

// A process that starts anew knows nothing of what witnesses have seen; they
// tell.
func TestAWitnessTellsWhatItHasSeen(t *testing.T) {
	g := newGrowing(t, "a", "b", "c", "d", "e")
	f := newFakeWitness("one.example", g.vkey)
	first := newWitness(f.config(t), network{f.name: f})
	_, err := first.ask(t.Context(), g.newest(), g.prove)
	check(t, err)
	g.add("f", "g", "h")
	line, err := newWitness(f.config(t), network{f.name: f}).ask(t.Context(), g.newest(), g.prove)
	check(t, err)
	if !strings.HasPrefix(line, "— one.example ") {
		t.Errorf("line %q", line)
	}
	if f.requests() != 3 {
		t.Errorf("%d requests, want 3: one, and one with the wrong size and one with the right one", f.requests())
	}
}

func TestAQuorumIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrowing(t, "a")
		one, two, three := newFakeWitness("one.example", g.vkey), newFakeWitness("two.example", g.vkey), newFakeWitness("three.example", g.vkey)
		two.set(down)
		three.set(slow(time.Hour))
		w, _ := asking(t, g, 1, one, two, three)
		time.Sleep(witnessInterval + time.Millisecond)
		synctest.Wait()
		if cp := w.opened(t, g); cp.Size != 1 {
			t.Errorf("kept %d blocks", cp.Size)
		}
		g.add("b")
		time.Sleep(2 * witnessInterval)
		synctest.Wait()
		st := w.state(2)
		if st.Size != 2 || st.Witnesses[0].Behind != 0 {
			t.Errorf("status %+v", st)
		}
		for _, s := range st.Witnesses[1:] {
			if s.Err == nil || s.Since.IsZero() || s.Behind != 2 {
				t.Errorf("status %+v", s)
			}
		}
		// Failures are far apart, and end when the witness comes back.
		asked := two.requests()
		time.Sleep(time.Hour)
		if n := two.requests() - asked; n < 5 || n > 20 {
			t.Errorf("a witness that is down was asked %d times in an hour", n)
		}
		two.set(nil)
		time.Sleep(lastWitnessWait + witnessInterval + time.Second)
		synctest.Wait()
		if s := w.state(2).Witnesses[1]; s.Err != nil || s.Size != 2 {
			t.Errorf("status %+v", s)
		}
		if cp := w.opened(t, g); len(cp.Cosignatures) != 2 {
			t.Errorf("%d cosignatures: who comes late isn't added", len(cp.Cosignatures))
		}
	})
}

func TestWhoWaitsIsAnsweredAtOnceOrTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrowing(t, "a")
		f := newFakeWitness("one.example", g.vkey)
		w, _ := asking(t, g, 1, f)
		began := time.Now()
		cp, err := w.await(t.Context(), 1)
		check(t, err)
		if cp.Size != 1 || time.Since(began) > time.Second {
			t.Errorf("%d blocks after %v", cp.Size, time.Since(began))
		}
		f.set(down)
		g.add("b")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := w.await(ctx, 2); !errors.Is(err, ErrNoQuorum) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("without a quorum: %v", err)
		}
		f.set(nil) // though it is to be left alone for a while yet
		began = time.Now()
		if _, err := w.await(t.Context(), 2); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Whatever a witness answers, it is not believed, it is told to the operator,
// and no file is written.
func TestWitnessesThatLie(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(*http.Request) *reply
		lie   func(f *fakeWitness) func(string) string
		want  string
	}{
		"down":              {wrong: down, want: "refused"},
		"slow":              {wrong: slow(time.Hour), want: "deadline"},
		"unknown log":       {wrong: always(404, "", ""), want: "does not know this log"},
		"other key":         {wrong: always(403, "", ""), want: "another key"},
		"empty proof":       {wrong: always(422, "", ""), want: "empty proof"},
		"server error":      {wrong: always(500, "", ""), want: "500"},
		"redirect":          {wrong: redirect, want: "another address"},
		"garbage":           {wrong: always(200, "", "\x00\xff garbage"), want: "no cosignature"},
		"nothing":           {wrong: always(200, "", ""), want: "no cosignature"},
		"huge":              {wrong: always(200, "", strings.Repeat("— one.example AAAA\n", 1<<16)), want: "more than"},
		"size as text":      {wrong: always(409, "text/plain", "3\n"), want: "does not say"},
		"size with a sign":  {wrong: always(409, "text/x.tlog.size", "+3\n"), want: "does not say"},
		"stale size":        {wrong: always(409, "text/x.tlog.size", "2\n"), want: "does not take it"},
		"another signature": {lie: func(*fakeWitness) func(string) string { return func(s string) string { return s + "x" } }, want: "no cosignature"},
		"another checkpoint": {lie: func(*fakeWitness) func(string) string {
			return func(s string) string { return strings.Replace(s, "\n3\n", "\n2\n", 1) }
		}, want: "no cosignature"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGrowing(t, "a", "b", "c")
				f := newFakeWitness("one.example", g.vkey)
				f.wrong = c.wrong
				if c.lie != nil {
					f.lie = c.lie(f)
				}
				w, ended := asking(t, g, 1, f)
				time.Sleep(witnessInterval + witnessTimeout + time.Second)
				synctest.Wait()
				s := w.state(3).Witnesses[0]
				if s.Err == nil || !strings.Contains(s.Err.Error(), c.want) || s.Since.IsZero() {
					t.Errorf("status %+v, want %q", s, c.want)
				}
				if _, err := os.Stat(w.cfg.File); err == nil {
					t.Error("a checkpoint was kept")
				}
				select {
				case err := <-ended:
					t.Errorf("asking ended: %v", err)
				default:
				}
			})
		})
	}
}

func always(status int, contentType, body string) func(*http.Request) *reply {
	return func(*http.Request) *reply { return respond(status, contentType, body) }
}

func redirect(*http.Request) *reply {
	r := respond(http.StatusTemporaryRedirect, "", "")
	r.header.Set("Location", "https://elsewhere.example/add-checkpoint")
	return r
}

// A witness that has seen another history is believed when it stays with it.
func TestAForkIsFinal(t *testing.T) {
	seen := []string{"a", "b", "c", "d", "e"}
	for name, here := range map[string][]string{
		"an old copy":                    seen[:3],
		"an empty one":                   nil,
		"an old copy that grew":          {"a", "b", "c", "x"},
		"one of the same size":           {"a", "b", "c", "d", "x"},
		"one that has overtaken":         {"a", "b", "c", "d", "x", "y", "z"},
		"one that has nothing in common": {"p", "q", "r", "s", "t", "u"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGrowing(t, seen...)
				f := newFakeWitness("one.example", g.vkey)
				_, err := newWitness(f.config(t), network{f.name: f}).ask(t.Context(), g.newest(), g.prove)
				check(t, err)

				fork := newGrowing(t, here...)
				_, ended := asking(t, fork, 1, f)
				time.Sleep(witnessInterval + time.Second)
				synctest.Wait()
				select {
				case err := <-ended:
					if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "restore") {
						t.Errorf("ended with %v", err)
					}
				default:
					t.Error("the fork goes on")
				}
			})
		})
	}
}

// One such answer may be an accident of the network.
func TestOneWrongAnswerIsNoFork(t *testing.T) {
	for name, wrong := range map[string]*reply{
		"larger size": conflict(99), "refused proof": respond(http.StatusUnprocessableEntity, "", ""),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrowing(t, "a", "b")
			f := newFakeWitness("one.example", g.vkey)
			w := newWitness(f.config(t), network{f.name: f})
			_, err := w.ask(t.Context(), g.newest(), g.prove)
			check(t, err)
			g.add("c")
			once := wrong
			f.set(func(*http.Request) *reply {
				r := once
				once = nil
				return r
			})
			if _, err := w.ask(t.Context(), g.newest(), g.prove); err != nil {
				t.Error(err)
			}
		})
	}
}

// The sealer asks when it opens and while it runs, and what it keeps is held
// against it.
func TestSealingWithWitnesses(t *testing.T) {
	w := newWorld(t)
	f := newFakeWitness("one.example", w.verifier)
	file := filepath.Join(w.dir, "witnessed")
	w.config.Witnessing = Witnessing{Witnesses: []Witness{f.config(t)}, File: file, testingOnlyTransport: network{f.name: f}}
	w.open()
	w.work(20)
	w.flush()
	cp, err := w.sealer.Witnessed(t.Context())
	check(t, err)
	if cp.Size != w.sealer.Status().Blocks || len(cp.Cosignatures) != 1 {
		t.Errorf("%d of %d blocks with %d cosignatures", cp.Size, w.sealer.Status().Blocks, len(cp.Cosignatures))
	}
	w.checkLog()

	f.set(down) // holds up nothing
	w.work(20)
	w.checkLog()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	plain, err := w.sealer.Witnessed(ctx)
	if !errors.Is(err, ErrNoQuorum) || plain.Size <= cp.Size {
		t.Errorf("%d blocks, %v", plain.Size, err)
	}
	check(t, w.sealer.Ready())
	w.close()
	w.open()
	w.work(1)
	w.checkLog()

	// It says what it has seen of a history that isn't this one.
	f.set(always(http.StatusConflict, "text/x.tlog.size", "4711\n"))
	if _, err := w.sealer.Witnessed(ctx); err == nil {
		t.Error("cosigned")
	}
	w.work(1)
	_, _ = w.sealer.Witnessed(t.Context())
	waitFor(t, "sealing stops", func() bool { return w.sealer.Ready() != nil })
	if err := w.sealer.Ready(); !errors.Is(err, ErrDiverged) {
		t.Errorf("ready: %v", err)
	}
	if err := w.stop(); !errors.Is(err, ErrDiverged) {
		t.Errorf("ended with %v", err)
	}
	w.crash()
	if err := w.tryOpen(); !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "4711") {
		t.Errorf("opened again: %v", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("waited in vain until %s", what)
}
