package ledger_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

func TestBlockHoldsWhatItWasBuiltFrom(t *testing.T) {
	records := someRecords(0, 100)
	h, file := build(t, ledger.Header{}, records)
	b, err := ledger.ParseBlock(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.Header != h || !bytes.Equal(b.Encoded, h.Encode()) || b.Present != ledger.NumSections {
		t.Errorf("header %+v, want %+v", b.Header, h)
	}
	for i, r := range b.Records {
		want := records[i]
		if r.Head != want.Head || !bytes.Equal(r.HeadBytes, want.HeadBytes) || !bytes.Equal(r.Body, want.Body) || r.SealedHash != want.SealedHash {
			t.Fatalf("record %d is %+v, want %+v", i, r, want)
		}
		if err := r.CheckBody(bodySalts); err != nil {
			t.Error(err)
		}
	}
}

func TestBlockCutAfterAnySectionIsReadable(t *testing.T) {
	_, file := build(t, ledger.Header{}, someRecords(0, 10), chunkOf(t, someRecords(0, 10)))
	for sections := ledger.Heads + 1; sections <= ledger.NumSections; sections++ {
		cut, err := ledger.Cut(file, sections)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ledger.ParseBlock(cut)
		if err != nil {
			t.Fatalf("cut to %d sections: %v", sections, err)
		}
		if b.Present != sections || (b.Records[0].Body != nil) != (sections > ledger.Bodies) ||
			(b.Records[0].SealedHash != evidence.Hash{}) != (sections > ledger.Hashes) {
			t.Errorf("cut to %d sections it shows %d", sections, b.Present)
		}
		if _, err := b.Chunks(); (err == nil) != (sections == ledger.NumSections) {
			t.Errorf("cut to %d sections: sealed parts: %v", sections, err)
		}
	}
	for n := range file {
		if b, err := ledger.ParseBlock(file[:n]); err == nil && b.Present == ledger.NumSections {
			t.Fatalf("the first %d of %d bytes pass for the whole block", n, len(file))
		}
	}
}

func TestEveryFlippedByteIsNoticed(t *testing.T) {
	h, file := build(t, ledger.Header{}, someRecords(0, 6), chunkOf(t, someRecords(0, 6)))
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 1
		b, err := ledger.ParseBlock(bad)
		// What the block can't see by itself, its leaf in the log shows.
		if err == nil && b.Hash() == h.Hash() {
			t.Fatalf("byte %d of %d flipped and nothing noticed", i, len(file))
		}
	}
}

func TestBlocksThatAreRefused(t *testing.T) {
	for name, c := range refusals() {
		t.Run(name, func(t *testing.T) {
			_, err := ledger.ParseBlock(c.file)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
			if !errors.Is(err, ledger.ErrBlock) && !errors.Is(err, ledger.ErrHeader) {
				t.Errorf("error %v wraps neither ErrBlock nor ErrHeader", err)
			}
		})
	}
}

func TestBuildRefusesRecordsThatDontBelongTogether(t *testing.T) {
	for name, change := range map[string]func(r []evidence.Record) []evidence.Record{
		"none":        func(r []evidence.Record) []evidence.Record { return nil },
		"gap":         func(r []evidence.Record) []evidence.Record { return append(r[:1], r[2:]...) },
		"other boot":  func(r []evidence.Record) []evidence.Record { r[1].Head.Pos.Boot = 2; return r },
		"no body":     func(r []evidence.Record) []evidence.Record { r[0].Body = nil; return r },
		"two lines":   func(r []evidence.Record) []evidence.Record { r[0].Body = []byte("{\n}"); return r },
		"sealed hash": func(r []evidence.Record) []evidence.Record { r[0].SealedHash = evidence.Hash{}; return r },
	} {
		if _, _, err := ledger.Build(ledger.Header{Origin: origin, PrevControl: -1}, change(someRecords(0, 4)), nil); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}

func TestStreamOfBlocks(t *testing.T) {
	for _, sections := range []int{ledger.Heads + 1, ledger.Hashes + 1, ledger.NumSections} {
		var stream []byte
		prev, file := build(t, ledger.Header{}, someRecords(0, 5), chunkOf(t, someRecords(0, 5)))
		for n := uint64(1); n <= 3; n++ {
			cut, err := ledger.Cut(file, sections)
			if err != nil {
				t.Fatal(err)
			}
			stream = append(stream, cut...)
			prev, file = build(t, ledger.Header{Origin: origin, Block: n, Prev: prev.Hash(), PrevControl: -1}, someRecords(5*n, 5))
		}
		r := ledger.NewReader(bytes.NewReader(stream), sections)
		var last *ledger.Header
		for n := range 3 {
			b, err := r.Next()
			if err != nil {
				t.Fatalf("%d sections, block %d: %v", sections, n, err)
			}
			if err := b.Follows(last); err != nil {
				t.Error(err)
			}
			last = &b.Header
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("at its end: %v", err)
		}
		short := ledger.NewReader(bytes.NewReader(stream[:len(stream)-1]), sections)
		var err error
		for err == nil {
			_, err = short.Next()
		}
		if !errors.Is(err, ledger.ErrBlock) {
			t.Errorf("a stream cut short: %v", err)
		}
	}
}

// chunkOf packs the sealed parts of records; encryption is not the ledger's.
func chunkOf(t testing.TB, records []evidence.Record) ledger.Chunk {
	t.Helper()
	c := ledger.Chunk{Boot: 1, Slot: 7}
	var sealed [][]byte
	for i, r := range records {
		if r.Head.HasSealed {
			c.Records = append(c.Records, i)
			sealed = append(sealed, []byte("sealed "+r.Head.Pos.String()))
		}
	}
	c.Data, c.Raw = ledger.PackParts(sealed)
	return c
}

func TestSealedPartsByScope(t *testing.T) {
	records := someRecords(0, 12) // 0, 3, 4, 7, 8 and 11 have a sealed part
	pack := func(slot uint64, index ...int) ledger.Chunk {
		c := ledger.Chunk{Boot: 1, Slot: slot, Records: index}
		var list [][]byte
		for _, i := range index {
			list = append(list, []byte(records[i].Head.Pos.String()))
		}
		c.Data, c.Raw = ledger.PackParts(list)
		return c
	}
	_, file := build(t, ledger.Header{}, records, pack(3, 0, 4, 11), pack(0, 7)) // 3 and 8: scope erased
	b, err := ledger.ParseBlock(file)
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := b.Chunks()
	if err != nil || len(chunks) != 2 {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	for _, c := range chunks {
		list, err := c.Parts(c.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range list {
			if string(p) != records[c.Records[i]].Head.Pos.String() {
				t.Errorf("part %q for record %d of slot %d", p, c.Records[i], c.Slot)
			}
		}
	}

	for name, bad := range map[string][]ledger.Chunk{
		"a record in two chunks":       {pack(1, 0), pack(2, 0)},
		"a record without sealed part": {pack(1, 1)},
		"a record that isn't there":    {{Boot: 1, Records: []int{12}}},
		"a chunk without records":      {{Boot: 1}},
	} {
		_, file := build(t, ledger.Header{}, records, bad...)
		b, err := ledger.ParseBlock(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Chunks(); !errors.Is(err, ledger.ErrBlock) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoRecordOfABlockCostsGarbage(t *testing.T) {
	_, file := build(t, ledger.Header{}, someRecords(0, 5000))
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := ledger.ParseBlock(file); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 200 {
		t.Errorf("%.0f allocations for 5,000 records", allocs)
	}
}

func BenchmarkParseBlock(b *testing.B) {
	_, file := build(b, ledger.Header{}, someRecords(0, 10_000))
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ledger.ParseBlock(file); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkBuild(b *testing.B) {
	records := someRecords(0, 10_000)
	for b.Loop() {
		build(b, ledger.Header{}, records)
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "records/s")
}
