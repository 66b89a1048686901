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

// fill puts a backlog of n commands into a journal of the usual size.
func (w *world) fill(n int) {
	w.t.Helper()
	list := w.backlog(n)
	check(w.t, w.journal.Close()) // its segments are small
	var err error
	w.journal, err = journal.Open(w.t.TempDir(), journal.Options{})
	check(w.t, err)
	for i := 0; i < len(list); i += 1000 {
		lsn, err := w.journal.Append(list[i:min(i+1000, len(list))]...)
		check(w.t, err)
		check(w.t, w.journal.Wait(lsn, journal.Synced))
	}
}

// BenchmarkSealing seals a backlog of 50,000 commands.
func BenchmarkSealing(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.config.MaxBytes = 1 << 20
		w.fill(50_000)
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
			blk, _, err := w.sealer.load(b.Context(), n, ledger.NumSections)
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

// BenchmarkScan reads 50,000 commands back, as a start does (heads) and as
// questions do.
func BenchmarkScan(b *testing.B) {
	w := newWorld(b)
	w.config.MaxBytes = 4 << 20
	w.fill(50_000)
	w.open()
	w.flush()
	for name, scan := range map[string]func() (n int, err error){
		"heads": func() (n int, err error) {
			err = w.sealer.ScanHeads(b.Context(), 0, func(*evidence.Head) error { n++; return nil })
			return n, err
		},
		"bodies": func() (n int, err error) {
			err = w.sealer.Scan(b.Context(), 0, func(*evidence.Record) error { n++; return nil })
			return n, err
		},
	} {
		b.Run(name, func(b *testing.B) {
			records := 0
			for b.Loop() {
				n, err := scan()
				check(b, err)
				records += n
			}
			b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
