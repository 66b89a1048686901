package pack_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

func at(seconds int64) time.Time {
	return time.UnixMicro(packtest.Noon + seconds*packtest.Second).UTC()
}

func params(t *testing.T) pack.Params {
	return pack.Params{From: at(0), To: at(3600), By: packtest.Alice, Organisation: "Example Ltd", Purpose: "audit", Temp: t.TempDir()}
}

// check verifies a pack and returns its report.
func check(t *testing.T, g *packtest.Gateway, b []byte) *verify.Report {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(g.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Pack(z, verify.Trust{Log: []note.Verifier{v}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != "pass" {
		var text bytes.Buffer
		_ = r.WriteText(&text)
		t.Errorf("the pack fails:\n%s", text.String())
	}
	return r
}

// exporter records the export in the synthetic log, as a gateway does.
type exporter struct {
	g   *packtest.Gateway
	err error
}

func (e *exporter) Export(_ context.Context, b evidence.ReadBody) error {
	if e.err == nil {
		e.g.Own(evidence.PackExport, b)
		e.g.Source()
	}
	return e.err
}

func (e *exporter) Checkpoint(context.Context) ([]byte, error) {
	return fs.ReadFile(e.g.Source().Log, ledger.CheckpointPath)
}

func TestPackUpToNowHoldsTheRecordOfItsMaking(t *testing.T) {
	g, s := packtest.Shop()
	s.Close()
	src := g.Source()
	src.Gateway = &exporter{g: g}
	p := params(t)
	p.To = at(1000)
	var b bytes.Buffer
	if _, err := pack.Create(t.Context(), src, p, &b); err != nil {
		t.Fatal(err)
	}
	check(t, g, b.Bytes())
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	totals, err := fs.ReadFile(z, "pop/totals.csv")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(totals), "evidence_access,exports,1\n") {
		t.Errorf("its totals are %s", totals)
	}
}

func TestNoExportNoPack(t *testing.T) {
	g, _ := packtest.Shop()
	src := g.Source()
	refused := errors.New("journal is full")
	src.Gateway = &exporter{err: refused}
	var b bytes.Buffer
	if _, err := pack.Create(t.Context(), src, params(t), &b); !errors.Is(err, refused) || b.Len() > 0 {
		t.Errorf("got %v and %d bytes", err, b.Len())
	}
}

// A log of many blocks has partial tiles, full ones, and several bundles.
func TestManyBlocks(t *testing.T) {
	g := packtest.New()
	g.PerBlock = 1
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	g.Source() // tiles of a smaller tree stay behind
	for range 300 {
		s.Do("SELECT ?", "postgres:select", "public.orders")
	}
	middle := g.Now
	for range 300 {
		s.Do("SELECT ?", "postgres:select", "public.orders")
	}
	s.Close()
	g.Stop()
	for _, c := range []struct {
		name     string
		from, to int64
	}{
		{"all", 0, 1 << 60},
		{"the second half", middle, 1 << 60},
		{"one record", middle, middle},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := params(t)
			if c.from > 0 { // else from ever
				p.From = time.UnixMicro(c.from)
			} else {
				p.From = time.Time{}
			}
			p.To = time.UnixMicro(min(c.to, 1<<52))
			var done, total uint64
			p.Progress = func(d, n uint64) {
				if d < done || d > n {
					t.Errorf("progress went from %d to %d of %d", done, d, n)
				}
				done, total = d, n
			}
			var b bytes.Buffer
			res, err := pack.Create(t.Context(), g.Source(), p, &b)
			if err != nil {
				t.Fatal(err)
			}
			r := check(t, g, b.Bytes())
			if r.Pack.Range != res.Manifest.Range || done != total || total != 2*r.Pack.Blocks {
				t.Errorf("packed %+v, verified %+v, progress %d of %d", res.Manifest.Range, r.Pack.Range, done, total)
			}
			if left, err := os.ReadDir(p.Temp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// failing replaces parts of a source with ones that don't work.
type failing struct {
	pack.Source
	block func(name string, data []byte) ([]byte, error)
}

func (f failing) Get(ctx context.Context, name string) ([]byte, error) {
	data, err := f.Archive.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return f.block(name, bytes.Clone(data))
}

type noSeeds struct{}

var errLost = errors.New("key file is lost")

func (noSeeds) BodySeed(uint64, uint64) ([32]byte, error) { return [32]byte{}, errLost }

type fullDisk struct{ left int }

var errFull = errors.New("no space left")

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.left -= len(b); d.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestWhatCannotBePackedIsAnErrorAndNotAPack(t *testing.T) {
	second := ledger.BlockPath(1)
	for name, c := range map[string]struct {
		change func(pack.Source) pack.Source
		out    io.Writer
		want   error
	}{
		"a block is lost": {change: func(s pack.Source) pack.Source {
			s.Archive = failing{s, func(name string, b []byte) ([]byte, error) {
				if name == second {
					return nil, fs.ErrNotExist
				}
				return b, nil
			}}
			return s
		}, want: fs.ErrNotExist},
		"a block is damaged": {change: func(s pack.Source) pack.Source {
			s.Archive = failing{s, func(name string, b []byte) ([]byte, error) {
				if name == second {
					b[len(b)-40] ^= 1
				}
				return b, nil
			}}
			return s
		}, want: ledger.ErrBlock},
		"seeds are lost": {change: func(s pack.Source) pack.Source {
			s.Seeds = noSeeds{}
			return s
		}, want: errLost},
		"the disk is full": {change: func(s pack.Source) pack.Source { return s }, out: &fullDisk{left: 10_000}, want: errFull},
	} {
		t.Run(name, func(t *testing.T) {
			g, s := packtest.Shop()
			s.Close()
			out := c.out
			if out == nil {
				out = io.Discard
			}
			p := params(t)
			if _, err := pack.Create(t.Context(), c.change(g.Source()), p, out); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if left, err := os.ReadDir(p.Temp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

func TestCancelledPack(t *testing.T) {
	g, _ := packtest.Shop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pack.Create(ctx, g.Source(), params(t), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCreate(b *testing.B) {
	g := packtest.New()
	g.PerBlock = 4000
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	for i := range 25_000 {
		s.Do(fmt.Sprintf("SELECT %d", i%20), "postgres:select", "public.orders")
	}
	s.Close()
	src := g.Source()
	b.ResetTimer()
	for range b.N {
		if _, err := pack.Create(b.Context(), src, pack.Params{From: at(0), To: at(36000), Temp: b.TempDir()}, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(50_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
