package ledger_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/ledger"
)

func TestPaths(t *testing.T) {
	for got, want := range map[string]string{
		ledger.TilePath(0, 0, 256):        "tile/0/000",
		ledger.TilePath(0, 0, 5):          "tile/0/000.p/5",
		ledger.TilePath(3, 1234067, 256):  "tile/3/x001/x234/067",
		ledger.TilePath(1, 1000, 255):     "tile/1/x001/000.p/255",
		ledger.EntriesPath(1234067, 8):    "tile/entries/x001/x234/067.p/8",
		ledger.BlockPath(0):               "blocks/000.block",
		ledger.BlockPath(1234):            "blocks/x001/234.block",
		ledger.BlockPath(1234067):         "blocks/x001/x234/067.block",
		ledger.BlockPath(999_999_999_999): "blocks/x999/x999/x999/999.block",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// testTree grows a tree of headers the way a log does, writing its tiles.
type testTree struct {
	t       testing.TB
	tiles   fstest.MapFS
	stored  []tlog.Hash
	headers []ledger.Header
}

func (tt *testTree) ReadHashes(index []int64) ([]tlog.Hash, error) {
	var list []tlog.Hash
	for _, i := range index {
		list = append(list, tt.stored[i])
	}
	return list, nil
}

func (tt *testTree) grow(n int) ledger.Checkpoint {
	tt.t.Helper()
	old := int64(len(tt.headers))
	for range n {
		h := ledger.Header{Origin: origin, Block: uint64(len(tt.headers)), Gateway: "gw1", PrevControl: -1}
		hashes, err := tlog.StoredHashes(int64(len(tt.headers)), h.Encode(), tt)
		if err != nil {
			tt.t.Fatal(err)
		}
		tt.headers, tt.stored = append(tt.headers, h), append(tt.stored, hashes...)
	}
	size := int64(len(tt.headers))
	for _, tile := range tlog.NewTiles(8, old, size) {
		data, err := tlog.ReadTileData(tile, tt)
		if err != nil {
			tt.t.Fatal(err)
		}
		tt.tiles[ledger.TilePath(tile.L, uint64(tile.N), tile.W)] = &fstest.MapFile{Data: data}
	}
	root, err := tlog.TreeHash(size, tt)
	if err != nil {
		tt.t.Fatal(err)
	}
	return ledger.Checkpoint{Origin: origin, Size: uint64(size), Root: [32]byte(root)}
}

func TestTreeProvesLeavesAndGrowth(t *testing.T) {
	tt := &testTree{t: t, tiles: fstest.MapFS{}}
	var known []ledger.Checkpoint
	for _, n := range []int{0, 1, 1, 254, 1, 43, 700, 0, 70000} {
		if n == 0 && len(tt.headers) == 0 {
			known = append(known, ledger.Checkpoint{Origin: origin, Root: sha256.Sum256(nil)})
			continue
		}
		cp := tt.grow(n)
		tree := ledger.NewTree(cp, tt.tiles)
		for _, old := range known {
			if err := tree.CheckConsistency(old); err != nil {
				t.Errorf("from %d to %d leaves: %v", old.Size, cp.Size, err)
			}
			forked := old
			forked.Root[0]++
			if err := tree.CheckConsistency(forked); !errors.Is(err, ledger.ErrProof) {
				t.Errorf("a fork at %d leaves: %v", old.Size, err)
			}
			if err := proves(tree, old, cp); err != nil {
				t.Errorf("proof from %d to %d leaves: %v", old.Size, cp.Size, err)
			}
			if err := proves(tree, forked, cp); err == nil && old.Size > 0 {
				t.Errorf("a fork at %d leaves is proven consistent", old.Size)
			}
		}
		known = append(known, cp)
		for _, i := range []uint64{0, cp.Size / 2, cp.Size - 1} {
			h := tt.headers[i]
			if err := tree.CheckLeaf(&h); err != nil {
				t.Errorf("leaf %d of %d: %v", i, cp.Size, err)
			}
			h.Count++
			if err := tree.CheckLeaf(&h); !errors.Is(err, ledger.ErrProof) {
				t.Errorf("another block as leaf %d: %v", i, err)
			}
		}
		if err := ledger.NewTree(known[1], tt.tiles).CheckConsistency(cp); cp.Size > known[1].Size && !errors.Is(err, ledger.ErrProof) {
			t.Errorf("a log that shrank: %v", err)
		}
	}
	cp := known[len(known)-1]
	leaves, err := ledger.NewTree(cp, tt.tiles).LeafHashes(300, 900)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range leaves {
		if l != tt.headers[300+i].Hash() {
			t.Fatalf("leaf %d differs", 300+i)
		}
	}
}

// proves checks a proof as a witness does, who has no tiles.
func proves(tree *ledger.Tree, old, cp ledger.Checkpoint) error {
	hashes, err := tree.ConsistencyProof(old.Size)
	if err != nil || old.Size == 0 {
		return err
	}
	proof := make(tlog.TreeProof, len(hashes))
	for i, h := range hashes {
		proof[i] = tlog.Hash(h)
	}
	return tlog.CheckTree(proof, int64(cp.Size), tlog.Hash(cp.Root), int64(old.Size), tlog.Hash(old.Root))
}

func TestNoProofOfAnOlderTree(t *testing.T) {
	tt := &testTree{t: t, tiles: fstest.MapFS{}}
	cp := tt.grow(3)
	if _, err := ledger.NewTree(cp, tt.tiles).ConsistencyProof(4); !errors.Is(err, ledger.ErrProof) {
		t.Errorf("3 leaves prove that they grew from 4: %v", err)
	}
}

func TestTreeRefusesTilesThatWereTouched(t *testing.T) {
	tt := &testTree{t: t, tiles: fstest.MapFS{}}
	tt.grow(1000)
	cp := tt.grow(1)
	for name, f := range tt.tiles {
		if strings.Contains(name, ".p/") && !strings.HasSuffix(name, "/233") && !strings.HasSuffix(name, "/3") {
			continue // of an older size
		}
		f.Data[7] ^= 1
		_, err := ledger.NewTree(cp, tt.tiles).LeafHashes(0, cp.Size)
		if !errors.Is(err, ledger.ErrProof) {
			t.Errorf("%s changed: %v", name, err)
		}
		f.Data[7] ^= 1
	}
	delete(tt.tiles, "tile/0/002")
	if _, err := ledger.NewTree(cp, tt.tiles).LeafHashes(512, 513); !errors.Is(err, ledger.ErrProof) {
		t.Errorf("a tile is gone: %v", err)
	}
}

func TestTreeReadsFullTileWherePartialWasCleared(t *testing.T) {
	tt := &testTree{t: t, tiles: fstest.MapFS{}}
	old := tt.grow(100)
	tt.grow(200)
	delete(tt.tiles, "tile/0/000.p/100")
	if err := ledger.NewTree(old, tt.tiles).CheckLeaf(&tt.headers[99]); err != nil {
		t.Error(err)
	}
}

func TestReadEntries(t *testing.T) {
	f := fstest.MapFS{"tile/entries/000.p/2": {Data: []byte("\x00\x01a\x00\x03bcd")}, "tile/entries/001.p/1": {Data: []byte("\x00\x09a")}}
	got, err := ledger.ReadEntries(f, 0, 2)
	if err != nil || len(got) != 2 || string(got[0]) != "a" || string(got[1]) != "bcd" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range [][2]uint64{{0, 3}, {1, 257}, {2, 10}} {
		if _, err := ledger.ReadEntries(f, c[0], c[1]); err == nil {
			t.Errorf("bundle %d of %d leaves: read", c[0], c[1])
		}
	}
}

func newKey(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// witness makes C2SP tlog-cosignature signatures.
type witness struct {
	name string
	key  ed25519.PrivateKey
	time uint64
}

func newWitness(t testing.TB, name string) (*witness, note.Verifier) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{name, priv, 1_790_000_000}
	v, err := ledger.NewVerifier(fmt.Sprintf("%s+%08x+%s", name, w.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{4}, pub...))))
	if err != nil {
		t.Fatal(err)
	}
	return w, v
}

func (w *witness) Name() string { return w.name }
func (w *witness) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(w.name+"\n\x04"), w.key.Public().(ed25519.PublicKey)...))
	return binary.BigEndian.Uint32(sum[:])
}
func (w *witness) Sign(msg []byte) ([]byte, error) {
	sig := ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", w.time, msg))
	return append(binary.BigEndian.AppendUint64(nil, w.time), sig...), nil
}

func TestOpenCheckpoint(t *testing.T) {
	logS, logV := newKey(t, origin)
	otherS, otherV := newKey(t, "other.example.com")
	w1S, w1 := newWitness(t, "witness.example.org/1")
	w2S, w2 := newWitness(t, "witness.example.org/2")
	text := (&ledger.Checkpoint{Origin: origin, Size: 42, Root: [32]byte{1, 2}}).Text()
	sign := func(text string, s ...note.Signer) []byte {
		msg, err := note.Sign(&note.Note{Text: text}, s...)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	logs, witnesses := []note.Verifier{logV}, []note.Verifier{w1, w2}

	cp, err := ledger.OpenCheckpoint(sign(text, logS, w1S, w2S, otherS), logs, witnesses, 2)
	if err != nil {
		t.Fatal(err)
	}
	if cp.Size != 42 || cp.Origin != origin || cp.Root != [32]byte{1, 2} || len(cp.Cosignatures) != 2 || cp.Cosignatures[0].Time != 1_790_000_000 {
		t.Errorf("checkpoint %+v", cp)
	}
	if _, err := ledger.OpenCheckpoint(sign(text, logS), logs, nil, 0); err != nil {
		t.Errorf("without witnesses: %v", err)
	}

	double := sign(text, logS, w1S, w1S)
	forged := sign(text, logS, w1S)
	forged[len(forged)-10] ^= 1
	for name, c := range map[string]struct {
		msg    []byte
		log    []note.Verifier
		quorum int
	}{
		"nobody known signed":       {sign(text, otherS), logs, 0},
		"only a witness signed":     {sign(text, w1S), logs, 0},
		"too few witnesses":         {sign(text, logS, w1S), logs, 2},
		"one witness, twice":        {double, logs, 2},
		"a forged cosignature":      {forged, logs, 0},
		"signed by another log":     {sign(text, otherS), []note.Verifier{logV, otherV}, 0},
		"a text that was changed":   {[]byte(strings.Replace(string(sign(text, logS)), "42", "43", 1)), logs, 0},
		"a size with leading zero":  {sign(strings.Replace(text, "42", "042", 1), logS), logs, 0},
		"a size with sign":          {sign(strings.Replace(text, "42", "+42", 1), logS), logs, 0},
		"a short root":              {sign(origin+"\n1\nAAAA\n", logS), logs, 0},
		"no root":                   {sign(origin+"\n1\n", logS), logs, 0},
		"no note at all":            {[]byte("x"), logs, 0},
		"more than anyone signs":    {make([]byte, 1<<20), logs, 0},
		"an origin that isn't ours": {sign("x y\n1\n"+strings.Split(text, "\n")[2]+"\n", logS), logs, 0},
	} {
		if _, err := ledger.OpenCheckpoint(c.msg, c.log, witnesses, c.quorum); !errors.Is(err, ledger.ErrCheckpoint) {
			t.Errorf("%s: %v, want ErrCheckpoint", name, err)
		}
	}
}

func TestNewVerifierRefusesKeysThatDontFit(t *testing.T) {
	_, vkey, err := note.GenerateKey(rand.Reader, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a", "a+b+c", "b" + vkey[1:], strings.Replace(vkey, "+A", "+B", 1),
		"a+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{4}, make([]byte, 32)...)), "a+00000000+BA=="} {
		if _, err := ledger.NewVerifier(bad); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
}
