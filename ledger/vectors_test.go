package ledger_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// vectors is testdata/vectors.json.
type vectors struct {
	About  string   `json:"about"`
	Blocks []vector `json:"blocks"`
	Chunk  chunk    `json:"chunk"`
}

// vector is one block file.
type vector struct {
	File    string          `json:"file"`
	Refuse  string          `json:"refuse,omitempty"`  // why it must be refused
	Leaf    string          `json:"leaf,omitempty"`    // leaf hash of its header
	Header  json.RawMessage `json:"header,omitempty"`  // the header itself
	Present int             `json:"present,omitempty"` // sections it holds
	Records []vectorRecord  `json:"records,omitempty"`
	Chunks  []vectorChunk   `json:"chunks,omitempty"`
}

type vectorRecord struct {
	Hash   string  `json:"hash"`
	Body   *string `json:"body,omitempty"`
	Sealed string  `json:"sealed_hash,omitempty"`
}

type vectorChunk struct {
	Boot    uint64   `json:"boot"`
	Slot    uint64   `json:"slot"`
	Records []int    `json:"records"`
	Parts   []string `json:"parts"`
}

// chunk is the encryption of a chunk, which is outside the blocks' vectors.
type chunk struct {
	Secret string   `json:"secret"`
	AAD    string   `json:"aad"`
	Parts  []string `json:"parts"`
	Raw    uint64   `json:"raw"`
	Data   string   `json:"data"`
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs vectors
	if err := json.Unmarshal(data, &vs); err != nil {
		t.Fatal(err)
	}
	for _, v := range vs.Blocks {
		t.Run(strings.TrimSuffix(v.File, ".block"), func(t *testing.T) {
			file, err := os.ReadFile(filepath.Join("testdata", v.File))
			if err != nil {
				t.Fatal(err)
			}
			b, err := ledger.ParseBlock(file)
			if v.Refuse != "" {
				if err == nil || !strings.Contains(err.Error(), v.Refuse) {
					t.Errorf("error %v, want one about %q", err, v.Refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, want := mustJSON(describe(t, v.File, b)), mustJSON(v)
			if !bytes.Equal(got, want) {
				t.Errorf("read as\n%s\nwant\n%s", got, want)
			}
		})
	}
	t.Run("chunk", func(t *testing.T) { checkChunk(t, vs.Chunk) })
}

func describe(t *testing.T, file string, b *ledger.Block) vector {
	t.Helper()
	v := vector{File: file, Leaf: b.Hash().String(), Header: b.Encoded, Present: b.Present}
	for _, r := range b.Records {
		vr := vectorRecord{Hash: evidence.RecordHash(r.HeadBytes).String()}
		if r.Body != nil {
			body := string(r.Body)
			vr.Body = &body
		}
		if (r.SealedHash != evidence.Hash{}) {
			vr.Sealed = r.SealedHash.String()
		}
		v.Records = append(v.Records, vr)
	}
	if b.Present == ledger.NumSections {
		chunks, err := b.Chunks()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chunks {
			parts, err := c.Parts(c.Data) // in these vectors chunks are not encrypted
			if err != nil {
				t.Fatal(err)
			}
			vc := vectorChunk{Boot: c.Boot, Slot: c.Slot, Records: c.Records}
			for _, p := range parts {
				vc.Parts = append(vc.Parts, string(p))
			}
			v.Chunks = append(v.Chunks, vc)
		}
	}
	return v
}

func checkChunk(t *testing.T, v chunk) {
	secret, err1 := hex.DecodeString(v.Secret)
	data, err2 := hex.DecodeString(v.Data)
	if err1 != nil || err2 != nil || len(data) < chacha20poly1305.NonceSizeX {
		t.Fatal(err1, err2)
	}
	s := evidence.Secret(secret)
	k := s.Derive("exhibit/v1/chunk")
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		t.Fatal(err)
	}
	if got := string(ledger.ChunkAAD(origin, 7, 3, 12)); got != v.AAD {
		t.Errorf("additional data %q, want %q", got, v.AAD)
	}
	plain, err := aead.Open(nil, data[:chacha20poly1305.NonceSizeX], data[chacha20poly1305.NonceSizeX:], []byte(v.AAD))
	if err != nil {
		t.Fatal(err)
	}
	c := ledger.Chunk{Records: make([]int, len(v.Parts)), Raw: v.Raw}
	parts, err := c.Parts(plain)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		if string(p) != v.Parts[i] {
			t.Errorf("part %d is %q, want %q", i, p, v.Parts[i])
		}
	}
}

// refusal is a block file and a part of the reason why it is refused.
type refusal struct {
	file []byte
	want string
}

// refusals are blocks whose digests are all true and that are wrong all the
// same.
func refusals() map[string]refusal {
	records := func() []evidence.Record { return someRecords(0, 8) }
	swap := func(p *parts, section int, old, new string) {
		p.raw[section] = bytes.Replace(p.raw[section], []byte(old), []byte(new), 1)
	}
	list := map[string]refusal{}
	add := func(name, want string, change func(p *parts) []byte) {
		list[name] = refusal{change(rawParts(records())), want}
	}
	add("head-changed", "root", func(p *parts) []byte { swap(p, ledger.Heads, "billing-bot", "payment-bot"); return p.file() })
	add("head-malformed", "record 0", func(p *parts) []byte {
		swap(p, ledger.Heads, `,"type"`, `, "type"`)
		p.root()
		return p.file()
	})
	add("heads-swapped", "record 0 is", func(p *parts) []byte {
		lines := bytes.SplitAfter(p.raw[ledger.Heads], []byte("\n"))
		lines[0], lines[1] = lines[1], lines[0]
		p.raw[ledger.Heads] = bytes.Join(lines, nil)
		p.root()
		return p.file()
	})
	add("seq-hole", "record 1 is", func(p *parts) []byte {
		swap(p, ledger.Heads, "gw1.1.1\",\"type", "gw1.1.9\",\"type")
		p.root()
		return p.file()
	})
	add("boot-mixed", "record 1 is", func(p *parts) []byte {
		swap(p, ledger.Heads, "gw1.1.1\",\"type", "gw1.2.1\",\"type")
		p.root()
		return p.file()
	})
	add("head-missing", "7 heads", func(p *parts) []byte {
		p.raw[ledger.Heads] = p.raw[ledger.Heads][:bytes.LastIndexByte(bytes.TrimSpace(p.raw[ledger.Heads]), '\n')+1]
		return p.file()
	})
	add("head-more", "more heads", func(p *parts) []byte {
		p.raw[ledger.Heads] = append(p.raw[ledger.Heads], "{}\n"...)
		return p.file()
	})
	add("heads-unterminated", "7 heads", func(p *parts) []byte {
		p.raw[ledger.Heads] = bytes.TrimSuffix(p.raw[ledger.Heads], []byte("\n"))
		return p.file()
	})
	add("control-denied", "control", func(p *parts) []byte {
		return p.file(func(h *ledger.Header) { h.Control = true })
	})
	add("from-wrong", "times", func(p *parts) []byte { return p.file(func(h *ledger.Header) { h.From++ }) })
	add("to-wrong", "times", func(p *parts) []byte { return p.file(func(h *ledger.Header) { h.To++ }) })
	add("body-missing", "body of gw1.1.0", func(p *parts) []byte {
		p.raw[ledger.Bodies] = p.raw[ledger.Bodies][bytes.IndexByte(p.raw[ledger.Bodies], '\n'):]
		return p.file()
	})
	add("body-unasked", "body of gw1.1.1", func(p *parts) []byte {
		swap(p, ledger.Bodies, "\n\n", "\n{}\n")
		return p.file()
	})
	add("bodies-more", "more bodies", func(p *parts) []byte {
		p.raw[ledger.Bodies] = append(p.raw[ledger.Bodies], '\n')
		return p.file()
	})
	add("hash-missing", "hashes", func(p *parts) []byte {
		p.raw[ledger.Hashes] = p.raw[ledger.Hashes][32:]
		return p.file()
	})
	add("hash-zero", "zero", func(p *parts) []byte {
		clear(p.raw[ledger.Hashes][:32])
		return p.file()
	})
	add("digest-wrong", "digest", func(p *parts) []byte {
		return p.file(func(h *ledger.Header) { h.Sections[ledger.Bodies].Digest[0] ^= 1 })
	})
	add("raw-understated", "decompressing", func(p *parts) []byte {
		p.raw[ledger.Bodies] = make([]byte, 8<<20) // a bomb
		return p.file(func(h *ledger.Header) { h.Sections[ledger.Bodies].Raw = 64 })
	})
	add("raw-overstated", "decompressed to", func(p *parts) []byte {
		return p.file(func(h *ledger.Header) { h.Sections[ledger.Bodies].Raw++ })
	})
	add("count-overstated", "too short", func(p *parts) []byte {
		return p.file(func(h *ledger.Header) { h.Last, h.Count = ledger.MaxRecords-1, ledger.MaxRecords })
	})
	add("bytes-after", "bytes after", func(p *parts) []byte { return append(p.file(), 'x') })
	add("section-cut", "ends within", func(p *parts) []byte {
		f := p.file()
		return f[:len(f)-1]
	})
	add("section-not-zstd", "decompressing", func(p *parts) []byte {
		f := p.file()
		h := p.h
		body := bytes.Repeat([]byte{0xff}, int(h.Sections[ledger.Heads].Size))
		rest := f[bytes.IndexByte(f, '\n')+1+len(body):]
		h.Sections[ledger.Heads].Digest = sha(body)
		return bytes.Join([][]byte{h.Encode(), []byte("\n"), body, rest}, nil)
	})
	add("header-spaced", "one encoding", func(p *parts) []byte {
		return bytes.Replace(p.file(), []byte(`,"block"`), []byte(` ,"block"`), 1)
	})
	add("header-key-twice", "one encoding", func(p *parts) []byte {
		return bytes.Replace(p.file(), []byte(`"boot":1`), []byte(`"boot":1,"boot":1`), 1)
	})
	add("header-version", "version 2", func(p *parts) []byte {
		return bytes.Replace(p.file(), []byte(`"v":1`), []byte(`"v":2`), 1)
	})
	add("header-no-line", "no header line", func(p *parts) []byte { return bytes.Repeat([]byte("{"), 8<<10) })
	return list
}

func writeVectors(t *testing.T) {
	old, err := filepath.Glob("testdata/*.block")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	vs := vectors{About: "Blocks as in docs/spec/log.md. Chunks of the blocks hold their plaintext; the encryption of one is shown by chunk. " +
		"Written by go test ./ledger -run TestVectors -update."}
	write := func(name string, file []byte) string {
		if err := os.WriteFile(filepath.Join("testdata", name+".block"), file, 0o644); err != nil {
			t.Fatal(err)
		}
		return name + ".block"
	}
	good := func(name string, file []byte) ledger.Header {
		b, err := ledger.ParseBlock(file)
		if err != nil {
			t.Fatal(err)
		}
		vs.Blocks = append(vs.Blocks, describe(t, write(name, file), b))
		return b.Header
	}
	_, first := build(t, ledger.Header{}, []evidence.Record{record(0, evidence.GatewayStart, `{"version":"x"}`, "")})
	h := good("first", first)
	agent := record(1, evidence.AgentCreate, `{"agent":"billing-bot"}`, "")
	_, control := build(t, ledger.Header{Origin: origin, Block: 1, Prev: h.Hash(), PrevControl: -1}, []evidence.Record{agent})
	h = good("control", control)
	records := someRecords(2, 12)
	_, whole := build(t, ledger.Header{Origin: origin, Block: 2, Prev: h.Hash(), PrevControl: 1}, records, chunkOf(t, records))
	good("sealed", whole)
	for name, n := range map[string]int{"sealed-cut-to-heads": ledger.Heads + 1, "sealed-cut-to-hashes": ledger.Hashes + 1} {
		cut, err := ledger.Cut(whole, n)
		if err != nil {
			t.Fatal(err)
		}
		good(name, cut)
	}
	_, erased := build(t, ledger.Header{Origin: origin, Block: 2, Prev: h.Hash(), PrevControl: 1}, records)
	good("sealed-erased", erased)
	for name, r := range refusals() {
		vs.Blocks = append(vs.Blocks, vector{File: write("refuse-"+name, r.file), Refuse: r.want})
	}
	slices.SortFunc(vs.Blocks, func(a, b vector) int { return strings.Compare(a.File, b.File) })
	vs.Chunk = makeChunk(t)
	out, err := json.MarshalIndent(vs, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/vectors.json", append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func makeChunk(t *testing.T) chunk {
	var s evidence.Secret
	for i := range s {
		s[i] = byte(i)
	}
	v := chunk{Secret: hex.EncodeToString(s[:]), AAD: string(ledger.ChunkAAD(origin, 7, 3, 12)), Parts: []string{`{"raw":"U0VMRUNUIDE="}`, `{"detail":"no such table"}`}}
	var parts [][]byte
	for _, p := range v.Parts {
		parts = append(parts, []byte(p))
	}
	plain, raw := ledger.PackParts(parts)
	v.Raw = raw
	k := s.Derive("exhibit/v1/chunk")
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{0x42}, chacha20poly1305.NonceSizeX)
	v.Data = hex.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(v.AAD)))
	return v
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprint("encoding a vector: ", err))
	}
	return b
}
