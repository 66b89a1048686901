package ledger_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

func TestHeaderHasOneEncoding(t *testing.T) {
	h, _ := build(t, ledger.Header{}, someRecords(0, 3))
	text := string(h.Encode())
	if got, err := ledger.ParseHeader([]byte(text)); err != nil || got != h {
		t.Fatalf("parsed %+v, %v", got, err)
	}
	for name, spelling := range map[string]string{
		"a space":            strings.Replace(text, `,"block"`, `, "block"`, 1),
		"an escape":          strings.Replace(text, "exhibit.", `\u0065xhibit.`, 1),
		"a key twice":        strings.Replace(text, `"block":0`, `"block":0,"block":0`, 1),
		"an unknown key":     strings.Replace(text, `"block":0`, `"block":0,"x":1`, 1),
		"other order":        strings.Replace(text, `"first":0,"last":2`, `"last":2,"first":0`, 1),
		"other case":         strings.Replace(text, `"block"`, `"Block"`, 1),
		"a missing key":      strings.Replace(text, `"first":0,`, "", 1),
		"a leading zero":     strings.Replace(text, `"last":2`, `"last":02`, 1),
		"an exponent":        strings.Replace(text, `"last":2`, `"last":2e0`, 1),
		"a negative":         strings.Replace(text, `"first":0`, `"first":-0`, 1),
		"trailing bytes":     text + " ",
		"another version":    strings.Replace(text, `"v":1`, `"v":2`, 1),
		"a section more":     strings.Replace(text, `]}`, `,{"name":"x","size":0,"raw":0,"sha256":"`+evidence.Hash{}.String()+`"}]}`, 1),
		"a line feed":        strings.Replace(text, `,"block"`, ",\n\"block\"", 1),
		"nothing":            "",
		"null":               "null",
		"no object":          "[]",
		"origin with a plus": strings.Replace(text, "exhibit.", "exhibit+", 1),
		"huge":               text + strings.Repeat(" ", ledger.MaxHeader),
	} {
		if _, err := ledger.ParseHeader([]byte(spelling)); !errors.Is(err, ledger.ErrHeader) {
			t.Errorf("%s: %v, want ErrHeader", name, err)
		}
	}
}

func TestHeaderStaysWithinItsLimit(t *testing.T) {
	h := ledger.Header{
		Origin: strings.Repeat("o", 128), Gateway: strings.Repeat("g", 32), Block: 1<<53 - 1, Boot: 1<<53 - 1,
		First: 1<<53 - 1 - 99, Last: 1<<53 - 1 + 0, Count: 100, From: 1<<53 - 1, To: 1<<53 - 1, PrevControl: 1<<53 - 2,
	}
	for i := range h.Sections {
		h.Sections[i] = ledger.Section{Name: ledger.SectionNames[i], Size: 3200, Raw: 3200}
	}
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	if n := len(h.Encode()); n > ledger.MaxHeader {
		t.Errorf("the largest header has %d bytes, the limit is %d", n, ledger.MaxHeader)
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	good, _ := build(t, ledger.Header{}, someRecords(0, 3))
	for name, change := range map[string]func(h *ledger.Header){
		"number past 2^53-1":       func(h *ledger.Header) { h.Boot = 1 << 53 },
		"time before 1970":         func(h *ledger.Header) { h.From = -1 },
		"gateway":                  func(h *ledger.Header) { h.Gateway = "GW" },
		"no records":               func(h *ledger.Header) { h.Count = 0 },
		"count":                    func(h *ledger.Header) { h.Count++ },
		"last before first":        func(h *ledger.Header) { h.First = 5; h.Count = math.MaxUint64 - 1 },
		"too many records":         func(h *ledger.Header) { h.Last, h.Count = ledger.MaxRecords, ledger.MaxRecords+1 },
		"later block as earlier":   func(h *ledger.Header) { h.PrevControl = 0 },
		"no block named as -2":     func(h *ledger.Header) { h.PrevControl = -2 },
		"block 0 with predecessor": func(h *ledger.Header) { h.Prev[0] = 1 },
		"huge section":             func(h *ledger.Header) { h.Sections[0].Raw = ledger.MaxSection + 1 },
		"section name":             func(h *ledger.Header) { h.Sections[1].Name = "x" },
		"hashes compressed":        func(h *ledger.Header) { h.Sections[2].Raw++ },
	} {
		h := good
		change(&h)
		if _, err := ledger.ParseHeader(h.Encode()); !errors.Is(err, ledger.ErrHeader) {
			t.Errorf("%s: %v, want ErrHeader", name, err)
		}
	}
}

func TestHeaderFollowsExactlyOneOther(t *testing.T) {
	first, _ := build(t, ledger.Header{}, someRecords(0, 3))
	next, _ := build(t, ledger.Header{Origin: origin, Block: 1, Prev: first.Hash(), PrevControl: -1}, someRecords(3, 3))
	if err := first.Follows(nil); err != nil {
		t.Error(err)
	}
	if err := next.Follows(&first); err != nil {
		t.Error(err)
	}
	later := next
	later.Boot, later.First, later.Last, later.Count = 5, 0, 2, 3
	if err := later.Follows(&first); err != nil {
		t.Errorf("a later boot: %v", err)
	}
	for name, change := range map[string]func(h *ledger.Header){
		"other origin":   func(h *ledger.Header) { h.Origin = "x" },
		"other gateway":  func(h *ledger.Header) { h.Gateway = "gw2" },
		"block skipped":  func(h *ledger.Header) { h.Block = 2 },
		"other prev":     func(h *ledger.Header) { h.Prev[3]++ },
		"hole":           func(h *ledger.Header) { h.First++ },
		"overlap":        func(h *ledger.Header) { h.First-- },
		"boot mid-way":   func(h *ledger.Header) { h.Boot++ },
		"boot backwards": func(h *ledger.Header) { h.Boot, h.First = 0, 0 },
		"control chain":  func(h *ledger.Header) { h.PrevControl = 0 },
	} {
		h := next
		change(&h)
		if err := h.Follows(&first); !errors.Is(err, ledger.ErrChain) {
			t.Errorf("%s: %v, want ErrChain", name, err)
		}
	}
	if err := next.Follows(nil); !errors.Is(err, ledger.ErrChain) {
		t.Errorf("block 1 as the first: %v", err)
	}
}

func TestControlChain(t *testing.T) {
	var headers []ledger.Header
	last := int64(-1)
	for n := range uint64(20) {
		h := ledger.Header{Origin: origin, Block: n, Control: n%7 == 2, PrevControl: last}
		if h.Control {
			last = int64(n)
		}
		headers = append(headers, h)
	}
	get := func(n uint64) (ledger.Header, error) { return headers[n], nil }
	for newest, want := range map[uint64][]uint64{0: nil, 2: {2}, 8: {2}, 19: {2, 9, 16}} {
		got, err := ledger.ControlBlocks(&headers[newest], get)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("up to %d: %v, %v, want %v", newest, got, err, want)
		}
	}
	headers[9].Control = false
	if _, err := ledger.ControlBlocks(&headers[19], get); !errors.Is(err, ledger.ErrChain) {
		t.Errorf("a broken chain: %v", err)
	}
}

func TestTreeHasher(t *testing.T) {
	// The tree hashes of RFC 6962 test data used by certificate transparency.
	leaves := []string{"", "\x00", "\x10", "\x20\x21", "\x30\x31", "\x40\x41\x42\x43",
		"\x50\x51\x52\x53\x54\x55\x56\x57", "\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var tree ledger.TreeHasher
	for i, l := range leaves {
		if got, want := tree.AddRecord([]byte(l)), evidence.RecordHash([]byte(l)); got != want {
			t.Errorf("leaf %d: %s, want %s", i, got, want)
		}
		root := tree.Root()
		if got := fmt.Sprintf("%x", root[:]); got != roots[i] {
			t.Errorf("root of %d leaves: %s, want %s", i+1, got, roots[i])
		}
	}
}
