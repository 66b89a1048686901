package ledger_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/exhibit-gateway/exhibit/ledger"
)

func FuzzParseHeader(f *testing.F) {
	h, _ := build(f, ledger.Header{}, someRecords(0, 3))
	f.Add(h.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ledger.ParseHeader(b)
		if err != nil {
			return
		}
		if err := h.Check(); err != nil {
			t.Errorf("parsed, and %v", err)
		}
		if !bytes.Equal(h.Encode(), b) {
			t.Errorf("%q parses and is written as %q", b, h.Encode())
		}
	})
}

func FuzzParseBlock(f *testing.F) {
	files, err := filepath.Glob("testdata/*.block")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		blk, err := ledger.ParseBlock(b)
		if err != nil {
			return
		}
		if uint64(len(blk.Records)) != blk.Count {
			t.Errorf("%d records, header says %d", len(blk.Records), blk.Count)
		}
		if blk.Present == ledger.NumSections {
			if chunks, err := blk.Chunks(); err == nil {
				for _, c := range chunks {
					_, _ = c.Parts(c.Data) // must not panic
				}
			}
		}
	})
}

// FuzzForgedBlock gets past the digests, to what they protect.
func FuzzForgedBlock(f *testing.F) {
	p := rawParts(someRecords(0, 8))
	f.Add(p.raw[0], p.raw[1], p.raw[2], p.raw[3], uint64(8))
	f.Fuzz(func(t *testing.T, heads, bodies, hashes, sealed []byte, count uint64) {
		p := rawParts(someRecords(0, 8))
		p.raw = [ledger.NumSections][]byte{heads, bodies, hashes, sealed}
		p.h.Count, p.h.Last = count, p.h.First+count-1
		p.root()
		b, err := ledger.ParseBlock(p.file(func(h *ledger.Header) { h.Sections[ledger.Sealed].Raw = 1 << 10 }))
		if err != nil {
			return
		}
		if chunks, err := b.Chunks(); err == nil {
			for _, c := range chunks {
				_, _ = c.Parts(c.Data) // must not panic
			}
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add((&ledger.Checkpoint{Origin: origin, Size: 42}).Text())
	f.Fuzz(func(t *testing.T, text string) {
		cp, err := ledger.ParseCheckpoint(text)
		if err == nil && cp.Text() != text {
			t.Errorf("%q parses and is written as %q", text, cp.Text())
		}
	})
}
