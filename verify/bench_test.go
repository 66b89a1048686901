package verify_test

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// pgbench is a pack like pgbench with 16 clients makes: 200,000 records in
// blocks of 4,000, each session asking the same few statements.
var pgbench = sync.OnceValues(func() ([]byte, *packtest.Gateway) {
	const clients, commands = 16, 6_250
	statements := []string{
		"BEGIN", "UPDATE public.pgbench_accounts SET abalance = abalance + ? WHERE aid = ?", "SELECT abalance FROM public.pgbench_accounts WHERE aid = ?",
		"UPDATE public.pgbench_tellers SET tbalance = tbalance + ? WHERE tid = ?", "UPDATE public.pgbench_branches SET bbalance = bbalance + ? WHERE bid = ?",
		"INSERT INTO public.pgbench_history (tid, bid, aid, delta, mtime) VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)", "COMMIT",
	}
	g := packtest.New()
	g.PerBlock = 4000
	g.Boot()
	var sessions []*packtest.Session
	for i := range clients {
		agent := fmt.Sprintf("bot-%d", i)
		g.Organise(agent, "writer")
		sessions = append(sessions, g.Open(agent, "orders"))
	}
	var open [clients]evidence.Position
	for i := range commands {
		for j, s := range sessions { // intents of all, then results of all
			open[j], _ = s.Ask(statements[(i+j)%len(statements)], "postgres:insert", "public.pgbench_accounts")
		}
		for j, s := range sessions {
			s.End(open[j], evidence.OK)
		}
	}
	for _, s := range sessions {
		s.Close()
	}
	g.Stop()
	var b bytes.Buffer
	if _, err := pack.Create(context.Background(), g.Source(), pack.Params{From: time.UnixMicro(1), To: time.UnixMicro(g.Now), By: packtest.Alice}, &b); err != nil {
		panic(err)
	}
	return b.Bytes(), g
})

func BenchmarkVerify(b *testing.B) {
	packed, g := pgbench()
	v, err := note.NewVerifier(g.VerifierKey())
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		verify func(fs.FS, verify.Trust) (*verify.Report, error)
	}{{"cache", func(pack fs.FS, t verify.Trust) (*verify.Report, error) { return verify.Pack(pack, t) }}, {"nocache", verify.PackWithoutMemo}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var records uint64
			for range b.N {
				z, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
				if err != nil {
					b.Fatal(err)
				}
				r, err := c.verify(z, verify.Trust{Log: []note.Verifier{v}})
				if err != nil || r.Verdict != "pass" {
					b.Fatal(err, r.Summary)
				}
				records += r.Pack.Range.Records
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(len(packed))/float64(records)*float64(b.N), "packbytes/record")
		})
	}
}
