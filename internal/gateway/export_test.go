package gateway

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// export returns the lines of the events of a range, and their uids.
func (w *world) export(r api.Range) (lines [][]byte, uids []string) {
	w.t.Helper()
	var b bytes.Buffer
	out, err := w.ExportOCSF(w.t.Context(), r, packtest.Alice, &b, func(api.Progress) {})
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range bytes.Lines(b.Bytes()) {
		var e struct {
			Metadata struct{ UID string }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			w.t.Fatal(err)
		}
		lines, uids = append(lines, line), append(uids, e.Metadata.UID)
	}
	if out.Events != uint64(len(lines)) {
		w.t.Fatalf("%d events are said to be there and %d are", out.Events, len(lines))
	}
	return lines, uids
}

// Promise: an export has every record of its range once, in order; parts of it
// are what the whole is; and it is itself on record.
func TestAnExportIsCompleteAndTheSameInParts(t *testing.T) {
	w := newWorld(t)
	c, start := w.open()
	for range 20 {
		w.do(c, "SELECT ?")
	}
	middle := w.recorder.Last()
	w.do(c, "SELECT ?")
	w.end(c, start)
	reads := w.count(evidence.EvidenceRead)

	all, uids := w.export(api.Range{})
	if n := w.count(evidence.EvidenceRead); n != reads+1 {
		t.Errorf("%d reads are on record, want %d", n, reads+1)
	}
	for i, uid := range uids {
		if want := (evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(i)}).String(); uid != want {
			t.Fatalf("event %d is of %s, want %s", i, uid, want)
		}
	}
	if err := w.sealer.Flush(t.Context()); err != nil { // now from blocks
		t.Fatal(err)
	}
	first, _ := w.export(api.Range{To: api.Moment{Position: middle}})
	rest, _ := w.export(api.Range{From: api.Moment{Position: middle}})
	if len(first) != int(middle.Seq) || len(first)+len(rest) < len(all) {
		t.Fatalf("%d and %d events of %d, parted at %s", len(first), len(rest), len(all), middle)
	}
	for i, want := range all {
		got := append(first, rest...)[i]
		if !bytes.Equal(got, want) {
			t.Errorf("event %d is\n%s in a part and\n%s in the whole", i, got, want)
		}
	}
	h, err := w.headAt(t.Context(), middle)
	if err != nil {
		t.Fatal(err)
	}
	since, _ := w.export(api.Range{From: api.Moment{Time: moment(h.Time)}})
	if !bytes.Equal(since[0], rest[0]) && len(since) < len(rest) {
		t.Errorf("since its time there are %d events, since its position %d", len(since), len(rest))
	}
}
