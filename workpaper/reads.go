package workpaper

import (
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// readersPopulation is the population of who read evidence, exported it, or had sealed
// parts opened.
func readersPopulation() Table {
	return Table{Name: readersTable, Columns: columns("pos:n", "at:t", "kind:n", "level:n", "reader", "read_by", "read_via", "purpose", "object",
		"from", "to", "manifest", "sample", "recipient", "records:#", "unsealed")}
}

// evidenceRead writes the row of a reading or an export, and checks that what
// was opened went to somebody for something.
func (f *Fold) evidenceRead(r *evidence.Record) error {
	h := &r.Head
	var b evidence.ReadBody
	f.decode(r, &b)
	if h.Type == evidence.PackExport {
		f.counts.exports++
	} else {
		f.counts.reads++
	}
	f.tests.readers.Population++
	if b.By.Person.ID == "" || b.Object == "" {
		f.tests.readers.Except(h.Pos, "does not say who read what: by %.80q, of %.80q", b.By.Person.ID, b.Object)
	}
	reader, records := b.Reader, ""
	if reader == "" {
		reader = b.By.Person.ID
	}
	if b.Level == "L2" || b.Level == "L3" {
		f.tests.opened.Population++
		if strings.TrimSpace(b.Purpose) == "" || strings.TrimSpace(reader) == "" {
			f.tests.opened.Except(h.Pos, "opens sealed parts without a purpose, or for nobody")
		}
	}
	if len(b.Records) > 0 {
		records = count(uint64(len(b.Records)))
		f.counts.unsealed += uint64(len(b.Records))
	}
	names := make([]string, len(b.Records))
	for i, p := range b.Records {
		names[i] = pos(p)
	}
	return f.row(readersTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.Level, reader, b.By.Person.ID, b.By.Via, b.Purpose, b.Object,
		b.From, b.To, b.Manifest, b.Sample, b.Recipient, records, strings.Join(names, " "))
}

// packMade writes the row of a pack's digest.
func (f *Fold) packMade(r *evidence.Record) error {
	var b evidence.PackMadeBody
	f.decode(r, &b)
	f.counts.packs++
	return f.row(readersTable, pos(r.Head.Pos), f.clock.format(r.Head.Time), string(r.Head.Type), b.Level, "", b.By.Person.ID, b.By.Via, "", pos(r.Head.Of),
		"", "", b.Manifest, "", "", "", "")
}
