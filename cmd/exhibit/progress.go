package main

import (
	"fmt"
	"io"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// meter shows how far something is: on one line of a terminal, and elsewhere on
// a line now and then, so that a log of something long says that it goes on.
type meter struct {
	w        io.Writer
	terminal bool
	now      func() time.Time

	began, said time.Time
	before      api.Progress
	from        uint64 // done when it began
}

const (
	meterLines  = 30 * time.Second // between lines that aren't on a terminal
	meterWarmup = 2 * time.Second  // before there is an estimate
)

// tracker shows progress until done is called.
func (a *app) tracker() (progress func(api.Progress), done func()) {
	m := &meter{w: a.err, terminal: a.progress, now: time.Now}
	return m.show, m.done
}

func (m *meter) show(p api.Progress) {
	now := m.now()
	if m.began.IsZero() || p.Done < m.before.Done || p.Total != m.before.Total || p.Stage != m.before.Stage {
		m.began, m.from = now, p.Done // something else is measured from here, or something that takes another time
	}
	if m.said.IsZero() {
		m.said = now
	}
	m.before = p
	switch {
	case m.terminal:
		fmt.Fprintf(m.w, "\r\x1b[K%s", m.line(p, now.Sub(m.began)))
	case now.Sub(m.said) >= meterLines:
		m.said = now
		fmt.Fprintln(m.w, m.line(p, now.Sub(m.began)))
	}
}

func (m *meter) line(p api.Progress, elapsed time.Duration) string {
	s := workpaper.Visible(p.Stage) + ": "
	if p.Total > 0 {
		s += fmt.Sprintf("%d%%", 100*min(p.Done, p.Total)/p.Total)
	} else {
		s += fmt.Sprint(p.Done)
	}
	if p.Records > 0 {
		s += fmt.Sprintf(", %d records", p.Records)
	}
	if done := p.Done - min(m.from, p.Done); elapsed >= meterWarmup && 100*done >= p.Total && 0 < done && p.Done < p.Total {
		left := time.Duration(float64(elapsed) * float64(p.Total-p.Done) / float64(done))
		s += ", about " + left.Round(time.Second).String() + " left"
	}
	return s
}

func (m *meter) done() {
	if m.terminal {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
