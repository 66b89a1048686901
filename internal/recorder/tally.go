package recorder

import (
	"bytes"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Tally counts the commands of agents by hours of the clock (UTC), as
// docs/spec/record.md, "Approvals", says it. It is folded from records, live
// where they get their places, and at the start of a boot from the log.
type Tally struct {
	agents map[string]*counts
}

// counts are those of one agent, the hour that was counted last at the end.
type counts struct {
	hours []hour
}

type hour struct {
	n                int64 // since 1970
	commands, writes int64
}

// maxHours bounds what is kept of one agent: the hour at hand, and those that
// the clock may be set back to.
const maxHours = 8

// HourOf is the hour of the clock of a time in microseconds since 1970.
func HourOf(t int64) int64 { return t / time.Hour.Microseconds() }

// Add counts a record of the log, if it is of a command that counts.
func (t *Tally) Add(r *evidence.Record) {
	h := &r.Head
	if h.Type == evidence.CommandIntent && counted(h) && !unbound(r.Body) {
		t.of(h.Agent).at(HourOf(h.Time)).add(h.Verb)
	}
}

// unbound reads of an intent's body whether limits pass over it. A body begins
// with its path.
func unbound(body []byte) bool {
	rest, ok := bytes.CutPrefix(body, []byte(`{"path":"`))
	path, _, ended := bytes.Cut(rest, []byte{'"'})
	return ok && ended && evidence.Unbound(string(path))
}

func counted(h *evidence.Head) bool {
	return h.Effect == evidence.Allow && h.Outcome != evidence.Skipped
}

func (t *Tally) of(agent string) *counts {
	c := t.agents[agent]
	if c == nil {
		if t.agents == nil {
			t.agents = make(map[string]*counts)
		}
		c = &counts{}
		t.agents[agent] = c
	}
	return c
}

// at returns the counts of an hour.
func (c *counts) at(n int64) *hour {
	if last := len(c.hours) - 1; last >= 0 && c.hours[last].n == n {
		return &c.hours[last]
	}
	i := slices.IndexFunc(c.hours, func(h hour) bool { return h.n == n })
	h := hour{n: n}
	switch {
	case i >= 0:
		h = c.hours[i]
	case len(c.hours) == maxHours:
		i = 0
		for j := range c.hours {
			if c.hours[j].n < c.hours[i].n {
				i = j
			}
		}
	}
	if i >= 0 {
		c.hours = slices.Delete(c.hours, i, i+1)
	}
	c.hours = append(c.hours, h)
	return &c.hours[len(c.hours)-1]
}

func (h *hour) add(verb string) {
	h.commands++
	if writes(verb) {
		h.writes++
	}
}

// writes reports whether the limit of writes counts, and binds, commands of a
// verb class.
func writes(verb string) bool { return verb != evidence.VerbRead && verb != evidence.VerbSession }

// over reports whether a command of a verb class would exceed its limits.
func (h *hour) over(verb string, commands, most int64) bool {
	return commands > 0 && h.commands >= commands || most > 0 && writes(verb) && h.writes >= most
}

// tallied reports whether drafts were decided by what is counted up to here, and
// by each other; the recorder's lock is held. They are of one agent and one time.
func (r *Recorder) tallied(c *Chain, drafts []*evidence.Draft) bool {
	limited := func(d *evidence.Draft) bool { return d.Commands > 0 || d.Writes > 0 }
	first := slices.IndexFunc(drafts, limited)
	if first < 0 {
		return true
	}
	now := *r.hourOf(c, &drafts[first].Head)
	for _, d := range drafts {
		h := &d.Head
		if h.Outcome != evidence.Skipped && now.over(h.Verb, d.Commands, d.Writes) != d.OverLimit {
			return false
		}
		if d.Counts && counted(h) {
			now.add(h.Verb)
		}
	}
	return true
}

// count counts drafts that have got their places; the recorder's lock is held.
func (r *Recorder) count(c *Chain, drafts []*evidence.Draft) {
	for _, d := range drafts {
		if d.Counts && counted(&d.Head) {
			r.hourOf(c, &d.Head).add(d.Head.Verb)
		}
	}
}

// hourOf returns the counts that a command of a chain goes into. A chain is of
// one agent.
func (r *Recorder) hourOf(c *Chain, h *evidence.Head) *hour {
	if c.counts == nil {
		c.counts = r.tally.of(h.Agent)
	}
	return c.counts.at(HourOf(h.Time))
}

// Counted is how many commands of an agent, and how many writes among them, the
// hour of a time has so far.
func (r *Recorder) Counted(agent string, t int64) (commands, writes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.tally.of(agent).at(HourOf(t))
	return h.commands, h.writes
}
