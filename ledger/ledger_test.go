package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

const origin = "exhibit.example.com/gw1"

var (
	bodySalts   = evidence.NewSalts([32]byte{1})
	sealedSalts = evidence.NewSalts([32]byte{2})
)

// record makes record seq of boot 1: of a session if it is a command, and with
// the parts asked for.
func record(seq uint64, typ evidence.Type, body, sealed string) evidence.Record {
	h := evidence.Head{
		Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: seq}, Type: typ,
		Time: 1_790_000_000_000_000 + int64(seq)*250, N: seq + 1,
		HasBody: body != "", HasSealed: sealed != "",
	}
	if typ == evidence.CommandIntent || typ == evidence.CommandResult {
		h.Session = evidence.Position{Gateway: "gw1", Boot: 1, Seq: 1}
		h.Agent, h.Resource, h.Verb, h.Effect = "billing-bot", "ledger-db", evidence.VerbRead, evidence.Allow
	}
	var r evidence.Record
	var bodyHash evidence.Hash
	if h.HasBody {
		r.Body = []byte(body)
		bodyHash = evidence.BodyHash(bodySalts.Salt(h.N), r.Body)
	}
	if h.HasSealed {
		r.SealedHash = evidence.SealedHash(sealedSalts.Salt(h.N), []byte(sealed))
	}
	if h.HasBody || h.HasSealed {
		h.Commitment = evidence.Commit(bodyHash, r.SealedHash)
	}
	r.Head = h
	r.HeadBytes = evidence.AppendHead(nil, &h)
	return r
}

// someRecords are records with every combination of parts.
func someRecords(first uint64, n int) []evidence.Record {
	list := make([]evidence.Record, n)
	for i := range list {
		seq := first + uint64(i)
		switch i % 4 {
		case 0:
			list[i] = record(seq, evidence.CommandIntent, `{"path":"simple","parse":"full"}`, fmt.Sprintf(`{"raw":"%d"}`, seq))
		case 1:
			list[i] = record(seq, evidence.CommandResult, "", "")
		case 2:
			list[i] = record(seq, evidence.Heartbeat, `{"sessions":1}`, "")
		case 3:
			list[i] = record(seq, evidence.CommandResult, "", `{"detail":"no"}`)
		}
	}
	return list
}

func build(t testing.TB, h ledger.Header, records []evidence.Record, chunks ...ledger.Chunk) (ledger.Header, []byte) {
	t.Helper()
	if h.Origin == "" {
		h = ledger.Header{Origin: origin, PrevControl: -1}
	}
	h, file, err := ledger.Build(h, records, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return h, file
}

// parts are the raw bytes of a block, to be tampered with.
type parts struct {
	h   ledger.Header
	raw [ledger.NumSections][]byte
}

func rawParts(records []evidence.Record) *parts {
	h, _, err := ledger.Build(ledger.Header{Origin: origin, PrevControl: -1}, records, nil)
	if err != nil {
		panic(err)
	}
	p := &parts{h: h}
	for i := range records {
		p.raw[ledger.Heads] = append(append(p.raw[ledger.Heads], records[i].HeadBytes...), '\n')
		p.raw[ledger.Bodies] = append(append(p.raw[ledger.Bodies], records[i].Body...), '\n')
		if records[i].Head.HasSealed {
			p.raw[ledger.Hashes] = append(p.raw[ledger.Hashes], records[i].SealedHash[:]...)
		}
	}
	return p
}

// root makes the header's root that of the heads as they are now, so that a
// forgery must be caught by something else.
func (p *parts) root() {
	var t ledger.TreeHasher
	for _, head := range bytes.Split(bytes.TrimSuffix(p.raw[ledger.Heads], []byte("\n")), []byte("\n")) {
		t.AddRecord(head)
	}
	p.h.Root = t.Root()
}

// file writes the block with true digests and sizes, whatever it holds.
func (p *parts) file(adjust ...func(h *ledger.Header)) []byte {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	var stored [ledger.NumSections][]byte
	for i, raw := range p.raw {
		stored[i] = raw
		if i <= ledger.Bodies {
			stored[i] = enc.EncodeAll(raw, nil)
		}
		s := &p.h.Sections[i]
		s.Size, s.Raw, s.Digest = uint64(len(stored[i])), uint64(len(raw)), sha256.Sum256(stored[i])
	}
	for _, f := range adjust {
		f(&p.h)
	}
	return append(append(p.h.Encode(), '\n'), bytes.Join(stored[:], nil)...)
}

func sha(b []byte) evidence.Hash { return sha256.Sum256(b) }
