package verify

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// memo remembers decisions that were made again. A decision is a function of
// registry, asker, the intent's body and time; what is remembered is whether
// the recorded one was right, and from when until when that holds. The body is
// told by the decision decoded from it, of which equal bodies have one.
type memo struct {
	on       bool
	version  uint64
	verdicts map[question]verdict
}

type question struct {
	asker    *workpaper.Asker
	recorded *evidence.Decision
}

type verdict struct {
	from, until int64  // until 0 is for ever
	wrong       string // "" when the recorded decision is the one made again
}

// maxMemo bounds what is remembered. Agents choose what they ask.
const maxMemo = 1 << 18

func newMemo(on bool) memo { return memo{on: on, verdicts: make(map[question]verdict)} }

// decided makes a recorded decision again.
func (v *verifier) decided(d *workpaper.Decided) error {
	c := &v.c.replay
	c.made = true
	c.Population++
	if wrong := v.memo.judge(d); wrong != "" {
		c.Except(d.Head.Pos, "%s", wrong)
	}
	return nil
}

func (m *memo) judge(d *workpaper.Decided) string {
	if !m.on {
		return judge(d).wrong
	}
	if m.version != d.Version || len(m.verdicts) >= maxMemo {
		clear(m.verdicts)
		m.version = d.Version
	}
	q := question{d.Asker, d.Recorded}
	known, ok := m.verdicts[q]
	if !ok || d.Head.Time < known.from || known.until != 0 && d.Head.Time >= known.until {
		known = judge(d)
		m.verdicts[q] = known
	}
	return known.wrong
}

func judge(d *workpaper.Decided) verdict {
	again := d.Registry.Decide(d.Request)
	return verdict{d.Head.Time, again.Until, differences(d.Recorded, &again)}
}

// differences says in what a recorded decision is not the one made again.
func differences(recorded, again *evidence.Decision) string {
	switch {
	case recorded.Effect != again.Effect:
		return fmt.Sprintf("says %s; made again it is %s: %.200s", recorded.Effect, again.Effect, again.Reason)
	case recorded.Policy != again.Policy:
		return fmt.Sprintf("cites policy %.80s; made again it rests on %.80s", recorded.Policy, again.Policy)
	case !slices.Equal(recorded.Rules, again.Rules):
		return fmt.Sprintf("cites rules %.200q; made again it rests on %.200q", recorded.Rules, again.Rules)
	case !slices.Equal(recorded.Grants, again.Grants):
		return fmt.Sprintf("cites grants %.200q; made again it rests on %.200q", recorded.Grants, again.Grants)
	case !reflect.DeepEqual(recorded.Obligations, again.Obligations):
		return fmt.Sprintf("has the obligations %s; made again it has %s", obligations(recorded), obligations(again))
	case recorded.Approval != again.Approval || recorded.Limit != again.Limit:
		return fmt.Sprintf("rests on approval %.80q and limit %.40q; made again on %.80q and %.40q", recorded.Approval, recorded.Limit, again.Approval, again.Limit)
	case recorded.Reason != again.Reason:
		return fmt.Sprintf("gives the reason %.200q; made again it is %.200q", recorded.Reason, again.Reason)
	}
	return ""
}

func obligations(d *evidence.Decision) []byte { return evidence.EncodeBody(d.Obligations) }
