package verify_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// agoDays is when the logs below begin again, in days after noon.
const agoDays = 40

// aged is a log with a session that ended long ago, after which a configuration
// keeps blocks for some days. It returns the last block of then.
func aged(retention int64, before ...func(*packtest.Gateway)) (g *packtest.Gateway, last uint64) {
	g = packtest.New()
	g.PerBlock = 4
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	for range 6 {
		s.Do("SELECT ?", "postgres:select", "public.orders")
	}
	s.Close()
	for _, f := range before {
		f(g)
	}
	g.Stop()
	g.Cut()
	last = g.Checkpoint().Size - 1
	g.Now += 24 * agoDays * packtest.Hour
	g.Boot()
	g.Retain(retention)
	return g, last
}

// disposing is such a log, with a disposal.
func disposing(retention int64, before func(*packtest.Gateway), change func(*packtest.Gateway, *evidence.DisposalBody)) func() *packtest.Gateway {
	return func() *packtest.Gateway {
		var then []func(*packtest.Gateway)
		if before != nil {
			then = append(then, before)
		}
		g, last := aged(retention, then...)
		b := g.Disposal(last)
		if change != nil {
			change(g, &b)
		}
		g.Dispose(b)
		return finish(g, nil)
	}
}

func place(g *packtest.Gateway) {
	g.Own(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldPlaced, Matter: "case 12", Reason: "litigation", By: packtest.Alice})
}

// disposedLogs are logs with a disposal, and what a verifier must say of a pack of
// what came after.
var disposedLogs = []keyed{
	{"", "disposed", []string{firstKey}, disposing(30, nil, nil), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"", "disposed-as-approved", []string{firstKey}, disposing(30, (*packtest.Gateway).Separate, (*packtest.Gateway).AskDisposal), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.early", "ten-days-too-soon", []string{firstKey}, disposing(50, nil, nil), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.early", "kept-for-ever", []string{firstKey}, disposing(0, nil, nil), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.early", "by-a-shorter-retention", []string{firstKey}, disposing(50, nil, func(_ *packtest.Gateway, b *evidence.DisposalBody) { b.Retention = 86_400 }), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.held", "under-a-hold", []string{firstKey}, disposing(30, place, nil), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.approved", "by-one-person", []string{firstKey}, disposing(30, (*packtest.Gateway).Separate, nil), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.approved", "more-than-approved", []string{firstKey}, disposing(30, (*packtest.Gateway).Separate, func(g *packtest.Gateway, b *evidence.DisposalBody) {
		asked := *b
		asked.Records--
		g.AskDisposal(&asked)
		b.Request = asked.Request
	}), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"retention.segments", "block-unnamed", []string{firstKey}, disposing(30, nil, func(g *packtest.Gateway, b *evidence.DisposalBody) {
		b.First = 1
		b.Digest = runDigest(g, 1, b.Last)
	}), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"log.disposed", "another-digest", []string{firstKey}, disposing(30, nil, func(_ *packtest.Gateway, b *evidence.DisposalBody) { b.Digest[0] ^= 1 }), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"log.disposed", "another-header", []string{firstKey}, disposing(30, nil, func(g *packtest.Gateway, b *evidence.DisposalBody) {
		h := g.Headers()[b.Last]
		h.To--
		b.End = string(h.Encode())
	}), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"log.disposed", "another-history", []string{firstKey}, disposing(30, nil, func(_ *packtest.Gateway, b *evidence.DisposalBody) { b.Root[0] ^= 1 }), nil, agoDays*86_400 - 60, 40_000_000, nil},
	{"log.disposed", "still-there", []string{firstKey}, func() *packtest.Gateway {
		g, last := aged(30)
		g.Own(evidence.Disposal, g.Disposal(last)) // and not done
		return finish(g, nil)
	}, nil, 0, 40_000_000, nil},
}

func runDigest(g *packtest.Gateway, first, last uint64) evidence.Hash {
	var digest ledger.TreeHasher
	for _, h := range g.Headers()[first : last+1] {
		digest.AddHash(h.Hash())
	}
	return digest.Root()
}

// The tables of a pack say what was disposed of, by whom, and what is left of it.
func TestThePackSaysWhatWasDisposedOf(t *testing.T) {
	g := disposing(30, (*packtest.Gateway).Separate, (*packtest.Gateway).AskDisposal)()
	u := unpack(t, create(t, g, at(agoDays*86_400-60), at(40_000_000)))
	d := g.Registry.Disposals()[0]
	whole := g.Registry.Undisposed()
	kept := runDigest(g, whole, g.Checkpoint().Size-1)
	lines := string(u["pop/retention.csv"])
	want := []string{
		"0-" + uintText(d.Last) + ",disposed,", d.At.String(), packtest.Alice.Person.ID, packtest.Bob.Person.ID, d.Digest.String(),
		uintText(whole) + "-" + uintText(g.Checkpoint().Size-1) + ",kept,", ",none,", kept.String(),
	}
	for _, w := range want {
		if !strings.Contains(lines, w) {
			t.Errorf("pop/retention.csv lacks %q:\n%s", w, lines)
		}
	}
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }
