package workpaper

import (
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Where more tickets are cited than are held the oldest make room, whatever an
// agent calls its own.
func TestTicketsAreHeldUpToABound(t *testing.T) {
	rows := make(map[string]int)
	f := NewFold(OutFunc(func(table string, cells []string) error {
		rows[cells[5]]++
		return nil
	}))
	f.tickets.most = 64
	cite := func(n int, id string) {
		t.Helper()
		h := &evidence.Head{Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(n)}, Time: 1_800_000_000_000_000 + int64(n)*1_000_000}
		if err := f.cite(h, id, ofSession, nil, nil); err != nil {
			t.Fatal(err)
		}
		if len(f.tickets.cited) > 64 {
			t.Fatalf("%d are held", len(f.tickets.cited))
		}
	}
	for i := range 1000 {
		cite(i, fmt.Sprintf("OPS-%d", i))
		cite(i, "OPS-0")
	}
	if f.tickets.cited["OPS-0"] == nil || f.tickets.cited["OPS-0"].uses[ofSession] != 1001 {
		t.Error("one that is used all the time was forgotten")
	}
	if rows["not_held"]+len(f.tickets.cited) != 1000 || f.tickets.sums[ticketNotHeld] != uint64(rows["not_held"]) {
		t.Errorf("%v rows and %d held", rows, len(f.tickets.cited))
	}
	f.tickets.imported, f.tickets.taken = true, 1_900_000_000_000_000
	for i := range 100 {
		cite(2000+i, fmt.Sprintf("new-%d", i))
	}
	if rows["unknown"] == 0 || f.tests.tickets.Failed != uint64(rows["unknown"]) {
		t.Errorf("what no import knew isn't excused by room: %v, %d", rows, f.tests.tickets.Failed)
	}
	cite(3000, strings.Repeat("x", 1<<20))
	n := 0
	for _, held := range f.tickets.cited {
		n += held.size()
	}
	if n != f.tickets.bytes || n > 64*(ticketOverhead+maxTicketText+8) {
		t.Errorf("%d bytes are held, counted as %d", n, f.tickets.bytes)
	}
}
