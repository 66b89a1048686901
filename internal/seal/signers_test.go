package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// newKey makes another key of the log.
func (w *world) newKey() (signer note.Signer, vkey string) {
	w.t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	check(w.t, err)
	signer, err = note.NewSigner(skey)
	check(w.t, err)
	return signer, vkey
}

// change is a change of keys after the newest checkpoint, signed by who must.
func (w *world) change(what, old, to string, by ...note.Signer) evidence.LogKeyBody {
	w.t.Helper()
	cp := w.sealer.Status().Checkpoint
	b := evidence.LogKeyBody{Change: what, Old: old, New: to, Size: cp.Size, Root: cp.Root, By: evidence.By{Via: "test"}}
	check(w.t, ledger.SignKeyChange(origin, &b, by...))
	return b
}

// rotate puts another key in the place of the world's, which that then is. The
// gateway has it in its keystore, beside the old one.
func (w *world) rotate() {
	w.t.Helper()
	next, vkey := w.newKey()
	w.config.Next = next
	w.sealer.Hold(next)
	w.flush()
	w.record(evidence.LogKey, string(evidence.EncodeBody(w.change(ledger.KeyRotated, w.vkey, vkey, w.signer, next))), "")
	var err error
	w.signer, w.vkey = next, vkey
	w.verifier, err = ledger.NewVerifier(vkey)
	check(w.t, err)
}

// promote makes the key in force the only one, as the gateway does once it has
// signed.
func (w *world) promote() { w.config.Signer, w.config.Next = w.signer, nil }

// signedBy is the id of the key that signed the published checkpoint.
func (w *world) signedBy() string {
	w.t.Helper()
	msg, err := os.ReadFile(w.config.Dir + "/checkpoint")
	check(w.t, err)
	_, err = note.Open(msg, note.VerifierList())
	var none *note.UnverifiedNoteError
	if !errors.As(err, &none) || len(none.Note.UnverifiedSigs) != 1 {
		w.t.Fatalf("a checkpoint of one signature: %v\n%s", err, msg)
	}
	return fmt.Sprintf("%08x", none.Note.UnverifiedSigs[0].Hash)
}

func TestTheKeyInForceSigns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.work(20)
	w.flush()
	first, before := w.verifier, w.sealer.Status().Checkpoint
	if got := w.signedBy(); got != ledger.KeyID(first) {
		t.Fatalf("signed by %s, want %s", got, ledger.KeyID(first))
	}
	w.rotate()
	w.work(20)
	w.checkLog()
	keys := w.sealer.Keys()
	turned := keys.Current().From.Block
	if got := w.signedBy(); got != ledger.KeyID(w.verifier) || len(keys.List()) != 2 || turned < before.Size {
		t.Errorf("signed by %s, want %s; %+v", got, ledger.KeyID(w.verifier), keys.Changes())
	}
	if keys.At(turned).Text == w.vkey || keys.At(turned+1).Text != w.vkey {
		t.Errorf("at %d it is %s, at %d %s", turned, keys.At(turned).ID(), turned+1, keys.At(turned+1).ID())
	}
	// What somebody kept before the change holds after it.
	w.config.Known = []ledger.Checkpoint{before}
	w.close()
	w.promote()
	w.open()
	w.work(2)
	w.checkLog()
	// An auditor who has only the first key, and one who has only the new one.
	for name, v := range map[string]note.Verifier{"first": first, "new": w.verifier} {
		report, err := Fsck{Log: v, Archive: w.archive.FS(), Tree: os.DirFS(w.config.Dir), Known: w.config.Known}.Run(t.Context())
		check(t, err)
		if len(report.Findings) > 0 || len(report.Keys.List()) != 2 {
			t.Errorf("%s key: %+v", name, report.Findings)
		}
	}
	_, stranger := w.newKey()
	v, err := ledger.NewVerifier(stranger)
	check(t, err)
	w.verifier = v
	if f := w.fsck().Findings; len(f) == 0 || !strings.Contains(f[0].Problem, "never had the key") {
		t.Errorf("a stranger's key: %+v", f)
	}
}

func TestARevocationNeedsTheKeyInForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.work(3)
	old, oldKey := w.vkey, w.signer
	w.rotate()
	w.flush()
	w.record(evidence.LogKey, string(evidence.EncodeBody(w.change(ledger.KeyRevoked, old, w.vkey, w.signer))), "")
	w.checkLog()
	if k := w.sealer.Keys().Find(old); k == nil || k.Revoked == nil || k.Until == nil {
		t.Errorf("the first key: %+v", k)
	}
	// What its keys do not allow no log goes on with.
	w.record(evidence.LogKey, string(evidence.EncodeBody(w.change(ledger.KeyRevoked, old, w.vkey, oldKey))), "")
	if err := w.sealer.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "has revoked") {
		t.Errorf("flush: %v", err)
	}
}

// The tree is made anew from the archive when the keys before the last are gone.
func TestTheTreeIsMadeAnewAfterRotations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.open()
	for range 2 {
		w.work(30)
		w.rotate()
		w.work(30)
		w.flush()
		w.promote()
	}
	before := w.sealer.Status().Checkpoint
	w.close()
	check(t, os.Rename(w.config.Dir, w.config.Dir+".away"))
	w.open()
	if after := w.sealer.Status().Checkpoint; string(before.Note) != string(after.Note) {
		t.Errorf("checkpoint\n%s\nwas\n%s", after.Note, before.Note)
	}
	w.work(3)
	w.checkLog()
}

// What fails while the key turns, and is tried again, leaves no trace.
func TestFaultsWhileTheKeyTurns(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"put", "add", "size"} {
		for at := 1; at <= 4; at++ {
			t.Run(fmt.Sprintf("%s %d", op, at), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.config.MaxBytes = 1 << 10
				w.open()
				w.work(5)
				w.rotate()
				w.faults.set(op, &fault{at: at, times: 2, after: at%2 == 0})
				w.work(10)
				w.checkLog()
				if got := w.signedBy(); got != ledger.KeyID(w.verifier) {
					t.Errorf("signed by %s, want %s", got, ledger.KeyID(w.verifier))
				}
			})
		}
	}
}

// A crash at any step of the sealing of a change leaves a log that goes on with
// the key that its records put in force.
func TestACrashWhileTheKeyTurns(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"put", "add", "size", "release"} {
		for at := 1; at <= 3; at++ {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %d %t", op, at, after), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					w.config.MaxBytes = 1 << 10
					w.open()
					w.work(5)
					w.rotate()
					w.faults.set(op, &fault{at: at, after: after, crash: true})
					w.work(10)
					for met := false; !met; { // a slow machine may seal all of that in one go
						select {
						case <-w.faults.plan[op].trigger:
							met = true
						case <-time.After(100 * time.Millisecond):
							w.work(2)
						}
					}
					w.crash()
					w.newBoot()
					w.open()
					w.work(2)
					w.checkLog()
					if got := w.signedBy(); got != ledger.KeyID(w.verifier) {
						t.Errorf("signed by %s, want %s", got, ledger.KeyID(w.verifier))
					}
					w.close()
					w.promote()
					w.open()
					w.checkLog()
				})
			}
		}
	}
}

func TestNoLogGoesOnWithoutItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.work(3)
	w.rotate()
	w.flush()
	w.close()
	w.config.Next = nil // and Signer is the key that went
	if err := w.tryOpen(); !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "newest keystore") {
		t.Errorf("opened with the old key alone: %v", err)
	}
	w.promote()
	w.open()
	w.checkLog()
}
