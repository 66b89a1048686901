package workpaper

import "github.com/exhibit-gateway/exhibit/evidence"

// kept writes the row of a change of what is kept: a legal hold, or an erasure.
func (f *Fold) kept(r *evidence.Record) error {
	h := &r.Head
	if h.Type == evidence.LogHold {
		var b evidence.HoldBody
		f.decode(r, &b)
		f.counts.holds++
		return f.row(changesTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), b.Hold, "", b.Change, b.Matter, b.Reason, b.By.Person.ID, b.By.Via,
			"", "", "", "", "", "", "", "", "", "", "")
	}
	var b evidence.RedactionBody
	f.decode(r, &b)
	f.counts.erased++
	a, _ := f.registry.Approval(b.Request)
	p := decidedBy(&a)
	return f.row(changesTable, pos(h.Pos), f.clock.format(h.Time), string(h.Type), pos(b.Session), "", "erase", "", b.Basis, b.By.Person.ID, b.By.Via,
		b.Request, FormatTime(a.AskedAt), a.By.Person.ID, FormatTime(p.at), pos(p.last), join(p.approvers), "", "", "", "", "")
}
