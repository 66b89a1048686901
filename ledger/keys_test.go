package ledger_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

const keyOrigin = "example.com/gw1"

// namedKey is a key made from its name.
func namedKey(t testing.TB, origin, seed string) (note.Signer, string) {
	t.Helper()
	sum := sha256.Sum256([]byte(seed))
	vkey, err := note.NewEd25519VerifierKey(origin, ed25519.NewKeyFromSeed(sum[:]).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, sum[:]...))))
	if err != nil {
		t.Fatal(err)
	}
	return s, vkey
}

type keyStep struct {
	change, old, to string
	by              []string
	block           uint64
	spoil           func(*ledger.KeyChange)
}

func (s keyStep) made(t testing.TB, seq uint64) ledger.KeyChange {
	t.Helper()
	_, old := namedKey(t, keyOrigin, s.old)
	_, to := namedKey(t, keyOrigin, s.to)
	c := ledger.KeyChange{
		Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq}, Block: s.block,
		Body: evidence.LogKeyBody{Change: s.change, Old: old, New: to, Size: 1},
	}
	var by []note.Signer
	for _, name := range s.by {
		signer, _ := namedKey(t, keyOrigin, name)
		by = append(by, signer)
	}
	if err := ledger.SignKeyChange(keyOrigin, &c.Body, by...); err != nil {
		t.Fatal(err)
	}
	if s.spoil != nil {
		s.spoil(&c)
	}
	return c
}

func rotate(old, to string, block uint64) keyStep {
	return keyStep{change: "rotate", old: old, to: to, by: []string{old, to}, block: block}
}

func TestOneKeyIsInForceAtEachSize(t *testing.T) {
	keys := ledger.NewKeys(keyOrigin)
	if keys.At(5) != nil || keys.Current() != nil {
		t.Error("a key is in force before any is known")
	}
	for i, s := range []keyStep{rotate("a", "b", 4), {change: "revoke", old: "a", to: "b", by: []string{"b"}, block: 6}, rotate("b", "c", 6)} {
		if err := keys.Change(s.made(t, uint64(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	for size, want := range map[uint64]string{0: "a", 4: "a", 5: "b", 6: "b", 7: "c", 1 << 40: "c"} {
		if _, vkey := namedKey(t, keyOrigin, want); keys.At(size).Text != vkey {
			t.Errorf("at %d blocks it isn't %s", size, want)
		}
	}
	list := keys.List()
	if len(list) != 3 || list[0].Revoked == nil || list[0].Until == nil || list[1].Until == nil || list[1].Revoked != nil || list[2].Until != nil {
		t.Errorf("the keys are %+v", list)
	}
	if list[0].From != nil || list[1].From.Block != 4 || keys.Find(list[1].ID()) == nil || keys.Find("elsewhere") != nil {
		t.Errorf("the keys are %+v", list)
	}
}

func TestCheckpointsAreOfTheKeyInForce(t *testing.T) {
	keys := ledger.NewKeys(keyOrigin)
	if err := keys.Change(rotate("a", "b", 4).made(t, 1)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size uint64
		by   string
		good bool
	}{{4, "a", true}, {5, "b", true}, {5, "a", false}, {4, "b", false}, {5, "c", false}, {0, "b", true}} {
		signer, _ := namedKey(t, keyOrigin, c.by)
		cp := ledger.Checkpoint{Origin: keyOrigin, Size: c.size}
		msg, err := note.Sign(&note.Note{Text: cp.Text()}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = keys.OpenCheckpoint(msg, nil, 0); (err == nil) != c.good {
			t.Errorf("%d blocks, signed by %s: %v", c.size, c.by, err)
		}
	}
}

func TestChangesOfKeysThatNobodyNeedBelieve(t *testing.T) {
	spoiled := func(s keyStep, f func(*ledger.KeyChange)) keyStep { s.spoil = f; return s }
	_, foreign := namedKey(t, "example.com/gw2", "b")
	for name, c := range map[string]struct {
		step keyStep
		want string
	}{
		"the old key has not signed":      {keyStep{change: "rotate", old: "b", to: "c", by: []string{"c", "c"}, block: 5}, "has not signed it"},
		"the new key has not signed":      {keyStep{change: "rotate", old: "b", to: "c", by: []string{"b", "b"}, block: 5}, "has not signed it"},
		"one signature":                   {keyStep{change: "rotate", old: "b", to: "c", by: []string{"b"}, block: 5}, "1 signatures"},
		"back to an old key":              {rotate("b", "a", 5), "does not come back"},
		"to the same key":                 {rotate("b", "b", 5), "does not come back"},
		"from a key that went":            {rotate("a", "c", 5), "in force is"},
		"the key in force is revoked":     {keyStep{change: "revoke", old: "b", to: "b", by: []string{"b"}, block: 5}, "another has to take its place"},
		"a revocation by the revoked":     {keyStep{change: "revoke", old: "a", to: "b", by: []string{"a"}, block: 5}, "has not signed it"},
		"a revocation by a key that went": {keyStep{change: "revoke", old: "b", to: "a", by: []string{"a"}, block: 5}, "in force is"},
		"a stranger is revoked":           {keyStep{change: "revoke", old: "x", to: "b", by: []string{"b"}, block: 5}, "never had"},
		"another change":                  {keyStep{change: "praise", old: "b", to: "c", by: []string{"b", "c"}, block: 5}, "no change of keys"},
		"another tree than was signed":    {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.Root[0] ^= 1 }), "has not signed it"},
		"before the one before":           {rotate("b", "c", 3), "does not come after"},
		"the same record":                 {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Pos.Seq = 1 }), "does not come after"},
		"a checkpoint to come":            {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.Size = 6 }), "in block 5 itself"},
		"a key of another log":            {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.New = foreign }), "the log is"},
		"no key at all":                   {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.New = "c" }), "verifier key"},
		"a key in another spelling":       {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.New += "\n" }), "several lines"},
		"a note within a signature":       {spoiled(rotate("b", "c", 5), func(c *ledger.KeyChange) { c.Body.Signatures[0] += "\n" + c.Body.Signatures[1] }), "not a line"},
	} {
		keys := ledger.NewKeys(keyOrigin)
		if err := keys.Change(rotate("a", "b", 4).made(t, 1)); err != nil {
			t.Fatal(err)
		}
		err := keys.Change(c.step.made(t, 2))
		if !errors.Is(err, ledger.ErrKeys) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want one about %q", name, err, c.want)
		}
		if len(keys.List()) != 2 || len(keys.Changes()) != 1 {
			t.Errorf("%s: it left %+v", name, keys.List())
		}
	}
}

func TestThePolicyThatAKeyOfTheLogSigned(t *testing.T) {
	keys := ledger.NewKeys(keyOrigin)
	if err := keys.Change(rotate("a", "b", 4).made(t, 10)); err != nil {
		t.Fatal(err)
	}
	at := func(seq uint64) evidence.Position { return evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq} }
	signed := func(by string) evidence.PolicyBody {
		b := evidence.PolicyBody{Digest: "new", Before: "old", Request: "gw1.1.3"}
		signer, _ := namedKey(t, keyOrigin, by)
		if err := ledger.SignPolicy(keyOrigin, &b, signer); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		pos   evidence.Position
		by    string
		spoil func(*evidence.PolicyBody)
		good  bool
	}{
		"by the key in force":           {at(11), "b", nil, true},
		"by the key in force then":      {at(9), "a", nil, true},
		"by a key that was replaced":    {at(11), "a", nil, false},
		"by a key to come":              {at(9), "b", nil, false},
		"by a stranger":                 {at(11), "x", nil, false},
		"of another bundle":             {at(11), "b", func(b *evidence.PolicyBody) { b.Digest = "other" }, false},
		"in the place of another":       {at(11), "b", func(b *evidence.PolicyBody) { b.Before = "" }, false},
		"that nobody proposed":          {at(11), "b", func(b *evidence.PolicyBody) { b.Request = "" }, false},
		"that goes back":                {at(11), "b", func(b *evidence.PolicyBody) { b.Back = "gw1.1.2" }, false},
		"without a signature":           {at(11), "b", func(b *evidence.PolicyBody) { b.Signature = "" }, false},
		"with a note for its signature": {at(11), "b", func(b *evidence.PolicyBody) { b.Signature += "\n" + b.Signature }, false},
	} {
		b := signed(c.by)
		if c.spoil != nil {
			c.spoil(&b)
		}
		if err := keys.OpenPolicy(c.pos, &b); (err == nil) != c.good || err != nil && !errors.Is(err, ledger.ErrUnsigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := signed("a")
	if err := ledger.NewKeys(keyOrigin).OpenPolicy(at(11), &b); !errors.Is(err, ledger.ErrUnsigned) {
		t.Errorf("where no key is known: %v", err)
	}
}

// FuzzKeyChange: whatever a record says, a history either takes it whole or stays
// as it was.
func FuzzKeyChange(f *testing.F) {
	f.Add(evidence.EncodeBody(rotate("b", "c", 5).made(f, 2).Body), uint64(5))
	f.Add(evidence.EncodeBody(keyStep{change: "revoke", old: "a", to: "b", by: []string{"b"}, block: 5}.made(f, 2).Body), uint64(6))
	f.Fuzz(func(t *testing.T, body []byte, block uint64) {
		keys := ledger.NewKeys(keyOrigin)
		if err := keys.Change(rotate("a", "b", 4).made(t, 1)); err != nil {
			t.Fatal(err)
		}
		r := evidence.Record{Head: evidence.Head{Type: evidence.LogKey, Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: 2}}, Body: body}
		err := keys.Apply(block, &r)
		want := 2
		if err == nil {
			want = 3
			if keys.Changes()[1].Body.Change == ledger.KeyRevoked {
				want = 2
			}
		}
		if n := len(keys.List()); n != want || (len(keys.Changes()) == 2) != (err == nil) {
			t.Errorf("%d keys, %d changes: %v", n, len(keys.Changes()), err)
		}
	})
}
