package workpaper

import (
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// watch is what the rules of alerts ask of a gateway, against what it raised.
type watch struct {
	detector *Detector
	due      []due // what the gateway hasn't raised yet
	found    map[asked]bool
	whole    bool // the range begins with a boot: nothing was counted before
}

type asked struct {
	rule    string
	trigger evidence.Position
}

// due is an alert that is to come. Two heartbeats are longer than any gateway
// takes to raise it, whatever its wall clock does meanwhile.
type due struct {
	asked
	beats int
}

const maxBeats = 2

// watched feeds the rules with a record of the range.
func (f *Fold) watched(r *evidence.Record) {
	w, h := &f.watch, &r.Head
	switch h.Type {
	case evidence.GatewayStart:
		w.due = nil // of a boot that crashed; at a stop they were looked at
		w.whole = w.whole || f.records == 1
	case evidence.GatewayStop:
		f.overdue(0)
	case evidence.Heartbeat:
		for i := range w.due {
			w.due[i].beats++
		}
		f.overdue(maxBeats)
	}
	d := w.detector.Observe(h, r.Body)
	if d == nil || !w.whole && d.Since < f.openedAt || len(w.found) >= maxAlerts {
		return
	}
	f.tests.detected.Population++
	a := asked{d.Alert.Rule, d.Alert.Trigger}
	w.due, w.found[a] = append(w.due, due{asked: a}), true
}

// overdue excepts what should have been raised by now.
func (f *Fold) overdue(beats int) {
	f.watch.due = slices.DeleteFunc(f.watch.due, func(d due) bool {
		if d.beats < beats {
			return false
		}
		f.tests.detected.Except(d.trigger, "asks for an alert by %s, and none was raised", d.rule)
		return true
	})
}

// raised checks an alert by a rule that rests on records.
func (f *Fold) raised(h *evidence.Head, b *evidence.AlertBody) {
	w, a := &f.watch, asked{b.Rule, b.Trigger}
	if !slices.Contains(Detected, b.Rule) {
		return
	}
	w.due = slices.DeleteFunc(w.due, func(d due) bool { return d.asked == a })
	if !w.found[a] && (w.whole || h.Time > f.openedAt+hourMicros+minuteMicros) {
		f.tests.detected.Except(h.Pos, "raises an alert by %s about %s, which gives no cause for it", b.Rule, b.Trigger)
	}
	delete(w.found, a)
}

// alertState is an alert and what a person found it to be.
type alertState struct {
	pos   evidence.Position
	at    int64
	rule  string
	heard int64 // when somebody looked; 0 is not yet
	cells []string
	ack   [6]string // at, position, by, disposition, incident, reason
}

// maxAlerts bounds the alerts of one range.
const maxAlerts = 1 << 18

func (f *Fold) alert(r *evidence.Record) error {
	h := &r.Head
	f.counts.alerts++
	var b evidence.AlertBody
	if !f.decode(r, &b) {
		return nil
	}
	if len(f.alerts) >= maxAlerts {
		return fmt.Errorf("%w: %d alerts", ErrTooMuch, maxAlerts)
	}
	f.raised(h, &b)
	f.alertAt[h.Pos] = len(f.alerts)
	f.alerts = append(f.alerts, alertState{pos: h.Pos, at: h.Time, rule: b.Rule, cells: []string{pos(h.Pos), FormatTime(h.Time), b.Rule, b.Severity, pos(h.Session), h.Agent, h.Resource, pos(b.Trigger), b.Text}})
	return nil
}

// acknowledged folds what a person said of an alert; of one before the range
// nothing is known here.
func (f *Fold) acknowledged(r *evidence.Record) {
	h := &r.Head
	f.counts.acks++
	f.tests.acks.Population++
	var b evidence.AlertAckBody
	if !f.decode(r, &b) {
		return
	}
	i, ok := f.alertAt[h.Of]
	switch {
	case !ok && !h.Of.Before(f.first):
		f.tests.acks.Except(h.Pos, "is of %s, which is no alert", h.Of)
	case ok:
		f.alerts[i].heard = h.Time
		f.alerts[i].ack = [6]string{FormatTime(h.Time), pos(h.Pos), b.By.Person.ID, b.Disposition, b.Incident, b.Reason}
	}
}

func (f *Fold) alertRows() error {
	for i := range f.alerts {
		a := &f.alerts[i]
		f.unheard(a)
		if err := f.row(alertsTable, append(a.cells, a.ack[:]...)...); err != nil {
			return err
		}
	}
	return nil
}
