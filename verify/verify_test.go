package verify_test

import (
	"archive/zip"
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// at is a time of the synthetic log, in seconds after noon.
func at(seconds int64) time.Time {
	return time.UnixMicro(packtest.Noon + seconds*packtest.Second).UTC()
}

// create makes a pack of a synthetic log.
func create(t testing.TB, g *packtest.Gateway, from, to time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := pack.Create(context.Background(), g.Source(), pack.Params{
		From: from, To: to, By: packtest.Alice, Organisation: "Example Ltd", Generator: verify.Generator{Version: "1.0.0"}, Temp: t.TempDir(),
	}, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func trust(t testing.TB, g *packtest.Gateway) verify.Trust {
	t.Helper()
	tr, err := verify.NewTrustFile(g.VerifierKey()).Trust()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func openZip(t testing.TB, b []byte) *zip.Reader {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// day writes a day of a gateway: changes of rights before the period, sessions
// across both of its ends, a refusal, a crash, a retirement.
func day() *packtest.Gateway {
	g := packtest.New()
	g.PerBlock = 8
	g.Boot()
	grant := g.Organise("billing-bot", "reader")
	g.Organise("report-bot", "writer")
	early := g.Open("billing-bot", "orders")
	early.Do("SELECT ?", "postgres:select", "public.orders")
	carried, _ := early.Ask("SELECT pg_sleep(?)", "postgres:select", "public.orders")
	g.Now = packtest.Noon + 50*packtest.Second
	g.Beat()

	g.Now = packtest.Noon + 100*packtest.Second // here the period begins
	early.End(carried, evidence.OK)
	s := g.Open("report-bot", "orders")
	for range 20 {
		s.Do("INSERT INTO public.orders VALUES (?)", "postgres:insert", "public.orders")
	}
	early.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
	early.Do("SELECT ?", "postgres:select", "public.orders")
	s.Close()
	g.Own(evidence.GrantRemove, evidence.RevokeBody{ID: grant.String(), Reason: "no longer needed", By: packtest.Alice})
	early.Do("SELECT ?", "postgres:select", "public.orders")
	early.Close()
	g.Open("billing-bot", "orders") // refused: its grant is gone
	lost := g.Open("report-bot", "orders")
	open, _ := lost.Ask("SELECT ?", "postgres:select", "public.orders")

	g.Now = packtest.Noon + 130*packtest.Second // killed here
	g.Boot()
	lost.Lost(open)
	late := g.Open("report-bot", "orders")
	late.Ask("SELECT ?", "postgres:select", "public.orders")
	g.Now = packtest.Noon + 150*packtest.Second
	g.Beat()
	g.Cut()
	g.Now = packtest.Noon + 200*packtest.Second // here it ends
	late.Close()
	g.Stop()
	return g
}

func TestPackPasses(t *testing.T) {
	g := day()
	b := create(t, g, at(90), at(160))
	r, err := verify.Pack(openZip(t, b), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if r.ExitCode() != verify.ExitPass {
		t.Errorf("exit code %d", r.ExitCode())
	}
	t.Log(text.String())
}
