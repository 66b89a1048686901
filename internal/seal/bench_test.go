package seal

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// backlog is the journal entries of n commands of 16 sessions, as pgbench -S
// makes them.
func (w *world) backlog(n int) [][]byte {
	w.t.Helper()
	var list [][]byte
	_, err := w.journal.Read(0, func(_ journal.LSN, b []byte) error { list = append(list, bytes.Clone(b)); return nil })
	check(w.t, err)
	w.sink = func(b []byte) { list = append(list, b) }
	defer func() { w.sink = nil }()
	var sessions []evidence.Position
	for range 16 {
		sessions = append(sessions, w.record(evidence.SessionStart, `{"protocol":"postgres"}`, ""))
	}
	const body = `{"path":"execute","parse":"full","text":"SELECT abalance FROM pgbench_accounts WHERE aid = $1",` +
		`"checks":[{"action":"postgres:select","object":"public.pgbench_accounts"}],"effect":"allow",` +
		`"rules":["readers"],"grants":["gw1.1.7"],"policy":"sha256:0123456789abcdef"}`
	for i := range n {
		w.session = sessions[i%len(sessions)]
		w.record(evidence.CommandIntent, body, fmt.Sprintf(`{"params":["%08d"]}`, i*7919%100000))
		w.record(evidence.CommandResult, "", "")
	}
	return list
}

// BenchmarkSealing seals a backlog of 50,000 commands.
func BenchmarkSealing(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.config.MaxBytes = 1 << 20
		list := w.backlog(50_000)
		check(b, w.journal.Close()) // its segments are small
		var err error
		w.journal, err = journal.Open(b.TempDir(), journal.Options{})
		check(b, err)
		for i := 0; i < len(list); i += 1000 {
			lsn, err := w.journal.Append(list[i:min(i+1000, len(list))]...)
			check(b, err)
			check(b, w.journal.Wait(lsn, journal.Synced))
		}
		b.StartTimer()
		start := time.Now()
		w.open()
		w.flush()
		b.ReportMetric(100_000/time.Since(start).Seconds(), "records/s")
		b.StopTimer()
		start = time.Now()
		r := w.fsck()
		b.ReportMetric(float64(r.Records)/time.Since(start).Seconds(), "fsck-records/s")
		b.ReportMetric(float64(r.Bytes)/50_000, "B/command")
		var section [ledger.NumSections]uint64
		for n := range r.Blocks {
			blk, _, err := w.sealer.load(b.Context(), n)
			check(b, err)
			for i, s := range blk.Sections {
				section[i] += s.Size
			}
		}
		for i, name := range ledger.SectionNames {
			b.ReportMetric(float64(section[i])/50_000, name+"-B/command")
		}
		b.StartTimer()
	}
}
