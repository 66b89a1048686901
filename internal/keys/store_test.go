package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func newStore(t *testing.T) (*Store, string, *age.X25519Identity) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	st, err := Open(dir, id, []age.Recipient{auditor.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	return st, dir, auditor
}

func TestAScopeIsOnDiskBeforeItIsHandedOut(t *testing.T) {
	st, dir, _ := newStore(t)
	boot, err := st.NewBoot(1)
	if err != nil {
		t.Fatal(err)
	}
	if boot.Slot() != 0 {
		t.Fatalf("the boot's own scope has slot %d, want 0", boot.Slot())
	}
	for want := uint64(1); want <= 2*pool; want++ {
		s, err := st.New()
		if err != nil {
			t.Fatal(err)
		}
		if s.Slot() != want {
			t.Fatalf("slot %d handed out, want %d", s.Slot(), want)
		}
		// A second store, as after a crash, derives the same values from disk.
		again, err := Open(dir, st.identity.(*age.X25519Identity), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.Scope(1, want)
		if err != nil {
			t.Fatal(err)
		}
		if got.BodySeed() != s.BodySeed() {
			t.Fatalf("slot %d derives another seed after a restart", want)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestShreddingErasesOneScopeAndNoOther(t *testing.T) {
	st, _, _ := newStore(t)
	if _, err := st.NewBoot(3); err != nil {
		t.Fatal(err)
	}
	a, _ := st.New()
	b, _ := st.New()
	sealed := a.Seal(nil, 7, []byte("select 1"))
	if err := st.Shred(3, a.Slot()); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Scope(3, a.Slot()); !errors.Is(err, ErrShredded) {
		t.Errorf("a shredded scope gives %v, want ErrShredded", err)
	}
	other, err := st.Scope(3, b.Slot())
	if err != nil {
		t.Fatalf("the scope beside a shredded one: %v", err)
	}
	if _, err := other.Open(7, sealed); !errors.Is(err, ErrDecrypt) {
		t.Errorf("another scope opened a sealed part: %v", err)
	}
}

func TestSealedPartsOpenUnderTheirOwnOrdinalOnly(t *testing.T) {
	st, _, _ := newStore(t)
	if _, err := st.NewBoot(1); err != nil {
		t.Fatal(err)
	}
	s, _ := st.New()
	c := s.Seal(nil, 1, []byte("secret"))
	if got, err := s.Open(1, c); err != nil || string(got) != "secret" {
		t.Fatalf("Open = %q, %v", got, err)
	}
	if _, err := s.Open(2, c); !errors.Is(err, ErrDecrypt) {
		t.Errorf("record 2 opened the part of record 1: %v", err)
	}
	chunk, err := s.SealChunk([]byte("block 1"), []byte("rows"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.OpenChunk([]byte("block 1"), chunk); err != nil || string(got) != "rows" {
		t.Fatalf("OpenChunk = %q, %v", got, err)
	}
	if _, err := s.OpenChunk([]byte("block 2"), chunk); !errors.Is(err, ErrDecrypt) {
		t.Errorf("a chunk opened in another block: %v", err)
	}
	if _, err := s.OpenChunk(nil, chunk[:5]); !errors.Is(err, ErrDecrypt) {
		t.Errorf("a short chunk gives %v", err)
	}
}

func TestTheKeyDirectoryHoldsNoSecretInTheClear(t *testing.T) {
	st, dir, auditor := newStore(t)
	scope, err := st.NewBoot(1)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := os.ReadFile(filepath.Join(dir, "1.slots"))
	if err != nil {
		t.Fatal(err)
	}
	seed := scope.BodySeed()
	if bytes.Contains(slots, seed[:]) {
		t.Error("a derived value lies in the key file")
	}
	// Whoever holds neither the gateway's nor an auditor's identity gets nothing.
	stranger, _ := age.GenerateX25519Identity()
	thief, err := Open(dir, stranger, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := thief.Scope(1, 0); err == nil {
		t.Error("a stranger's identity opened a scope")
	}
	// The auditor's does.
	reader, err := Open(dir, auditor, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := reader.Scope(1, 0); err != nil || got.BodySeed() != seed {
		t.Errorf("the auditor's identity: %v", err)
	}
}

func TestSlotsCannotBeSwapped(t *testing.T) {
	st, dir, _ := newStore(t)
	if _, err := st.NewBoot(1); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "1.slots")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	swapped := bytes.Clone(b)
	copy(swapped[slotSize:], b[2*slotSize:3*slotSize])
	if err := os.WriteFile(name, swapped, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Scope(1, 1); !errors.Is(err, ErrDecrypt) {
		t.Errorf("a swapped slot gives %v, want ErrDecrypt", err)
	}
}

func TestABootNumberIsUsedOnce(t *testing.T) {
	st, dir, _ := newStore(t)
	if last, err := st.LastBoot(); err != nil || last != 0 {
		t.Fatalf("LastBoot of an empty store = %d, %v", last, err)
	}
	if _, err := st.NewBoot(9); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, st.identity.(*age.X25519Identity), nil)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := again.LastBoot(); err != nil || last != 9 {
		t.Fatalf("LastBoot = %d, %v, want 9", last, err)
	}
	if _, err := again.NewBoot(9); err == nil {
		t.Error("a boot's keys were made twice")
	}
}

// Whatever two records of whatever scopes: what is derived for one opens and
// salts nothing of the other, also with all that a pack discloses of both.
func TestNothingDerivedForOneRecordOpensAnother(t *testing.T) {
	st, _, _ := newStore(t)
	if _, err := st.NewBoot(1); err != nil {
		t.Fatal(err)
	}
	var scopes []*Scope
	for range 3 {
		s, err := st.New()
		if err != nil {
			t.Fatal(err)
		}
		scopes = append(scopes, s)
	}
	rapid.Check(t, func(t *rapid.T) {
		type place struct {
			s *Scope
			n uint64
		}
		draw := func(name string) place {
			return place{rapid.SampledFrom(scopes).Draw(t, name+"'s scope"), rapid.Uint64Range(0, 1<<20).Draw(t, name)}
		}
		a, b := draw("a"), draw("b")
		if a == b {
			t.Skip("one record")
		}
		plain := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "sealed")
		sealed := a.s.Seal(nil, a.n, plain)
		if _, err := b.s.Open(b.n, sealed); !errors.Is(err, ErrDecrypt) {
			t.Fatalf("b opens a: %v", err)
		}
		// No two values are equal: neither salts, nor those of bodies and of
		// sealed parts, nor what a pack discloses.
		seedA, seedB := a.s.BodySeed(), b.s.BodySeed()
		seen := map[string]string{string(seedA[:]): "a's seed", string(seedB[:]): "b's seed"}
		for name, salt := range map[string]evidence.Salt{
			"a's body": a.s.Body().Salt(a.n), "b's body": b.s.Body().Salt(b.n),
			"a's sealed part": a.s.Sealed().Salt(a.n), "b's sealed part": b.s.Sealed().Salt(b.n),
		} {
			if other, ok := seen[string(salt[:])]; ok {
				t.Fatalf("%s and %s are equal", name, other)
			}
			seen[string(salt[:])] = name
		}
		// None of them is a key of the sealed part.
		for value, name := range seen {
			block, err := aes.NewCipher([]byte(value))
			if err != nil {
				t.Fatal(err)
			}
			gcm, err := cipher.NewGCM(block)
			if err != nil {
				t.Fatal(err)
			}
			nonce := entryNonce(a.n)
			if _, err := gcm.Open(nil, nonce[:], sealed, nil); err == nil {
				t.Fatalf("%s opens a", name)
			}
		}
		// The salts of a disclosed seed are those of bodies and of no sealed part.
		if evidence.NewSalts(a.s.BodySeed()).Salt(a.n) != a.s.Body().Salt(a.n) {
			t.Fatal("a pack's reader can't check a body")
		}
		if evidence.NewSalts(a.s.BodySeed()).Salt(a.n) == a.s.Sealed().Salt(a.n) {
			t.Fatal("a body's seed gives the salt of the sealed part")
		}
	})
}

func TestDerivedKeysOutliveABootAndDifferByGatewayAndLabel(t *testing.T) {
	derive := func(id *age.X25519Identity, label string) [32]byte {
		t.Helper()
		st, err := Open(t.TempDir(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		key, err := st.Derive(label)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	a, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	first := derive(a, "x")
	if again := derive(a, "x"); first != again {
		t.Error("the key changes from one store to the next")
	}
	if first == derive(a, "y") || derive(a, "x") == derive(b, "x") {
		t.Error("two keys are the same")
	}
}
