package packtest

import (
	"maps"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Retain puts a configuration in force by which blocks are kept for some days.
func (g *Gateway) Retain(days int64) {
	b := g.Registry.ConfigBody()
	b.Before, b.Retention, b.By = b.Digest, days*86_400, Alice
	b.Digest += "-retained-" + strconv.FormatInt(days, 10)
	b.Text += "log: {retention: " + strconv.FormatInt(days*24, 10) + "h}\n"
	g.Own(evidence.ConfigChange, b)
}

// Disposal is one of everything up to a block that no disposal has spoken of, by
// the retention in force.
func (g *Gateway) Disposal(last uint64) evidence.DisposalBody {
	cp := g.Checkpoint()
	s := evidence.DisposalScope{First: g.Registry.Undisposed(), Last: last, End: string(g.headers[last].Encode()), Retention: g.Registry.ConfigBody().Retention, Reason: "retention"}
	needed := g.referred(s.First, last)
	var digest ledger.TreeHasher
	for n := s.First; n <= last; n++ {
		h := &g.headers[n]
		digest.AddHash(h.Hash())
		switch {
		case h.Control:
		case needed[n]:
			s.Kept = append(s.Kept, n)
		default:
			s.Blocks, s.Records, s.Bytes = s.Blocks+1, s.Records+h.Count, s.Bytes+uint64(len(g.blocks[ledger.BlockPath(n)].Data))
		}
	}
	s.Digest = digest.Root()
	return evidence.DisposalBody{DisposalScope: s, Size: cp.Size, Root: cp.Root, By: Alice}
}

// referred are the blocks of what is open at the end of a run of them.
func (g *Gateway) referred(first, last uint64) map[uint64]bool {
	at := make(map[evidence.Position]uint64)
	var boot evidence.Position
	for n := first; n <= last; n++ {
		b, err := ledger.ParseBlock(g.blocks[ledger.BlockPath(n)].Data)
		must(err)
		for i := range b.Records {
			switch h := &b.Records[i].Head; {
			case h.Type == evidence.GatewayStart:
				delete(at, boot)
				boot = h.Pos
				at[boot] = n
			case h.Type == evidence.SessionStart && h.Effect == evidence.Allow, h.Type == evidence.CommandIntent && h.Outcome == "":
				at[h.Pos] = n
			case h.Type == evidence.SessionEnd:
				delete(at, h.Session)
			case h.Type == evidence.CommandResult:
				delete(at, h.Of)
			}
		}
	}
	needed := make(map[uint64]bool)
	for n := range maps.Values(at) {
		needed[n] = true
	}
	return needed
}

// AskDisposal asks for a disposal and has Bob approve it.
func (g *Gateway) AskDisposal(b *evidence.DisposalBody) {
	request := g.Own(evidence.ApprovalRequest, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveDisposal, Digest: decision.DisposalDigest(b.DisposalScope), Disposal: &b.DisposalScope, Reason: b.Reason,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: g.Now + Hour, By: Alice,
	})
	g.Approve(request, Bob)
	b.Request = request.String()
}

// Dispose records a disposal and deletes what it names.
func (g *Gateway) Dispose(b evidence.DisposalBody) evidence.Position {
	pos := g.Own(evidence.Disposal, b)
	g.Cut()
	for n := b.First; n <= b.Last; n++ {
		if _, kept := slices.BinarySearch(b.Kept, n); !kept && !g.headers[n].Control {
			delete(g.blocks, ledger.BlockPath(n))
		}
	}
	return pos
}
