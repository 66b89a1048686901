package packtest

import (
	"encoding/hex"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

// asked is the sealed part of every command.
const asked = `{"params":["MQ=="]}`

// Made records that a pack was made.
func (g *Gateway) Made(manifest string) evidence.Position {
	return g.Own(evidence.PackMade, evidence.PackMadeBody{Manifest: manifest, Level: "L1", By: Alice})
}

// Asked records that a sample is answered.
func (g *Gateway) Asked(s *verify.Sample) evidence.Position {
	digest := s.Digest()
	b := evidence.ReadBody{Purpose: "fieldwork", Object: "sample " + s.ID, Level: "L2", By: Alice, Reader: "Audit LLP",
		Sample: hex.EncodeToString(digest[:]), Manifest: s.Pack.Manifest}
	for _, row := range s.Rows {
		b.Records = append(b.Records, row.Records...)
	}
	return g.Own(evidence.EvidenceRead, b)
}

// Answer is what a gateway would answer to a sample of a pack whose tree had so
// many blocks.
func (g *Gateway) Answer(s *verify.Sample, packSize uint64, made, read evidence.Position) (verify.AnswerHead, []verify.Opened) {
	src := g.Source()
	cp := g.Checkpoint()
	signed, err := note.Sign(&note.Note{Text: cp.Text()}, g.signer)
	must(err)
	tree := ledger.NewTree(cp, src.Log)
	digest := s.Digest()
	head := verify.AnswerHead{Version: 1, Sample: hex.EncodeToString(digest[:]), Manifest: s.Pack.Manifest, Checkpoint: string(signed)}
	head.Growth, err = tree.ConsistencyProof(packSize)
	must(err)
	for to, pos := range map[*ledger.RecordProof]evidence.Position{&head.Made: made, &head.Read: read} {
		b, i := g.find(pos)
		*to, err = tree.ProveRecord(b, i, g.salts(&b.Records[i].Head, evidence.LabelBody).Salt(b.Records[i].Head.N))
		must(err)
	}
	var lines []verify.Opened
	for _, row := range s.Rows {
		for _, pos := range row.Records {
			lines = append(lines, g.Opened(pos))
		}
	}
	return head, lines
}

// Opened is the line of an answer for one record.
func (g *Gateway) Opened(pos evidence.Position) verify.Opened {
	b, i := g.find(pos)
	h := &b.Records[i].Head
	if !h.HasSealed {
		return verify.Opened{Pos: pos, Absent: verify.AbsentNone}
	}
	line := verify.NewOpened(pos, g.salts(h, evidence.LabelSealed).Salt(h.N), []byte(asked))
	if h.HasBody {
		line.Body = evidence.BodyHash(g.salts(h, evidence.LabelBody).Salt(h.N), b.Records[i].Body)
	}
	return line
}

// sealed opens the sealed parts of a gateway's blocks.
type sealed struct{ g *Gateway }

// Open implements pack.Sealed.
func (s sealed) Open(b *ledger.Block) (map[int]pack.Part, error) {
	g := s.g
	parts := make(map[int]pack.Part)
	for i := range b.Records {
		if h := &b.Records[i].Head; h.HasSealed {
			parts[i] = pack.Part{Bytes: []byte(asked), Salt: g.salts(h, evidence.LabelSealed).Salt(h.N)}
		}
	}
	return parts, nil
}

// find returns a record's block and its index there.
func (g *Gateway) find(pos evidence.Position) (*ledger.Block, int) {
	for n := range g.headers {
		if h := &g.headers[n]; h.Boot == pos.Boot && h.First <= pos.Seq && pos.Seq <= h.Last {
			b, err := ledger.ParseBlock(g.blocks[ledger.BlockPath(h.Block)].Data)
			must(err)
			return b, int(pos.Seq - h.First)
		}
	}
	panic(fmt.Sprintf("packtest: no record %s", pos))
}

// salts are those of a record's scope.
func (g *Gateway) salts(h *evidence.Head, label string) evidence.Salts {
	id := [2]uint64{h.Pos.Boot, 0}
	if !h.Session.IsZero() {
		b, i := g.find(h.Session)
		id = [2]uint64{h.Session.Boot, b.Records[i].Head.Key}
	}
	return evidence.NewSalts(g.secrets[id].Derive(label))
}
