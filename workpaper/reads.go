package workpaper

import "github.com/exhibit-gateway/exhibit/evidence"

// evidenceRead writes the row of a reading or an export of evidence.
func (f *Fold) evidenceRead(r *evidence.Record) error {
	h := &r.Head
	f.counts.exports++
	f.tests.readers.Population++
	var b evidence.ReadBody
	if !f.decode(r, &b) {
		return nil
	}
	if b.By.Person.ID == "" || b.Object == "" {
		f.tests.readers.Except(h.Pos, "does not say who read what: by %.80q, of %.80q", b.By.Person.ID, b.Object)
	}
	return f.row(readsTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.By.Person.ID, b.By.Via, b.Purpose, b.Object, b.Level, b.From, b.To)
}
