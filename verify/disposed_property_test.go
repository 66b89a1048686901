package verify_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// Whatever a log holds and wherever a disposal ends: what is left folds to the
// same tables, listings, transcripts and tests of what came after, byte for byte,
// and a verifier relies on it.
func TestWhatIsLeftFoldsToTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := packtest.New()
		g.PerBlock = rapid.IntRange(1, 5).Draw(rt, "records a block")
		g.Boot()
		g.Organise("billing-bot", "writer")
		randomWork(rt, g)
		g.Cut()
		last := uint64(rapid.IntRange(0, len(g.Headers())-1).Draw(rt, "last block disposed of"))
		g.Beat()
		randomWork(rt, g)
		g.Cut()
		from, to := time.UnixMicro(g.Headers()[last].To+1), time.UnixMicro(g.Now)
		g.Now += packtest.Second
		before := unpack(t, create(t, g, from, to))
		g.Retain(30)
		g.Dispose(g.Disposal(last))
		b := create(t, g, from, to)
		after := unpack(t, b)
		for name := range before {
			if strings.HasPrefix(name, "log/") || strings.HasPrefix(name, "manifest.") || strings.HasPrefix(name, "README") || strings.HasPrefix(name, "summary") || strings.HasPrefix(name, "raw/edges") {
				continue // of the tree, which grew, and of digests
			}
			if string(before[name]) != string(after[name]) {
				rt.Errorf("after a disposal up to block %d, %s is another", last, name)
			}
		}
		r, err := verify.Pack(openZip(t, b), trust(t, g))
		if err != nil {
			rt.Fatal(err)
		}
		for _, c := range r.Failed() {
			if c.Kind == verify.Integrity {
				rt.Errorf("%s: %v", c.ID, c.Exceptions)
			}
		}
	})
}

// randomWork is sessions that begin, go on and end, changes of rights, and boots.
func randomWork(rt *rapid.T, g *packtest.Gateway) {
	var open []*packtest.Session
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"open", "do", "do", "ask", "close", "grant", "beat"}).Draw(rt, "step") {
		case "open":
			open = append(open, g.Open("billing-bot", "orders"))
		case "do":
			if len(open) > 0 {
				open[rapid.IntRange(0, len(open)-1).Draw(rt, "session")].Do("SELECT ?", "postgres:select", "public.orders")
			}
		case "ask":
			if len(open) > 0 {
				s := open[rapid.IntRange(0, len(open)-1).Draw(rt, "session")]
				asked, _ := s.Ask("SELECT ?", "postgres:select", "public.orders")
				g.Beat()
				s.End(asked, evidence.OK)
			}
		case "close":
			if n := len(open); n > 0 {
				open[n-1].Close()
				open = open[:n-1]
			}
		case "grant":
			g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: "billing-bot", Role: "reader", Resource: "orders", Ticket: "OPS-3", Expires: g.Now + packtest.Hour, By: packtest.Alice})
		case "beat":
			g.Beat()
		}
	}
}
