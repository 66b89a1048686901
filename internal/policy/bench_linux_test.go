package policy

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// Commands of 20 agents, with 200 shapes each, in blocks as the archive has them.
func BenchmarkBacktest(b *testing.B) {
	g := packtest.New()
	g.PerBlock = 4096
	g.Boot()
	const agents, shapes, commands = 20, 200, 100_000
	var sessions []*packtest.Session
	for i := range agents {
		id := fmt.Sprintf("bot-%d", i)
		g.Organise(id, "writer")
		sessions = append(sessions, g.Open(id, "orders"))
	}
	for i := range commands {
		n := i / agents % shapes
		sessions[i%agents].Do(fmt.Sprintf("SELECT a%d FROM t WHERE id = ?", n), "postgres:select", fmt.Sprintf("public.t%d", n))
	}
	bundle := compiled(b, `@id("reader") permit (principal in Role::"writer", action in Action::"connect", resource);`)
	var total uint64
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := cpu()
	for b.Loop() {
		bt := NewBacktest(bundle, decision.New())
		replay(b, g, bt.Record)
		if bt.differ != commands {
			b.Fatalf("%d differ", bt.differ)
		}
		total += bt.commands
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "commands/s")
	b.ReportMetric((cpu()-before).Seconds()/float64(total)*1e6, "CPU-s/million")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapInuse)/(1<<20), "MiB-heap")
}
