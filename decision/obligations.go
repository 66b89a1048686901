package decision

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// The annotations that rules may have. Those of a permit oblige what it allows;
// those of all satisfied permits combine, and the strictest wins.
const (
	noteApproval = "approval"              // "dba", or "dba:2" for two people of the group
	noteRows     = "max_rows"              // of one command
	noteBytes    = "max_bytes"             // of one command: "1000000", "64KiB", "10MiB", "1GiB"
	noteTime     = "max_time"              // of one command: "30s"
	noteCommands = "max_commands_per_hour" // of the agent
	noteWrites   = "max_writes_per_hour"   // of the agent
	noteTicket   = "ticket"                // "required": a grant of the rule's role needs one
	noteAlert    = "alert"                 // the name of an alert to raise; also on rules that forbid
)

// ownAlerts are names that a verifier expects of the gateway's own rules alone.
var ownAlerts = []string{
	evidence.AlertDenials, evidence.AlertAuthn, evidence.AlertShared, evidence.AlertGap,
	evidence.AlertClock, evidence.AlertSeparation, evidence.AlertRollback, evidence.AlertHandEdited,
}

var annotations = []string{"id", "description", "hint", noteApproval, noteRows, noteBytes, noteTime, noteCommands, noteWrites, noteTicket, noteAlert}

// annotate reads the annotations of a rule that oblige.
func (r *rule) annotate(notes map[string]string, bad badFunc) {
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		switch {
		case !slices.Contains(annotations, key):
			bad("known are @"+strings.Join(annotations, ", @"), "unknown annotation @%s", key)
			continue
		case !r.permit && key != "id" && key != "description" && key != "hint" && key != noteAlert:
			bad("put it on the permit whose commands it should bind", "@%s stands on a rule that forbids", key)
			continue
		}
		if err := r.oblige(key, notes[key]); err != nil {
			bad("", "@%s(%.80q): %v", key, notes[key], err)
		}
	}
}

func (r *rule) oblige(key, value string) (err error) {
	o := &r.Obliges
	switch key {
	case noteApproval:
		var n evidence.ApprovalNeed
		n, err = readNeed(value)
		o.Approval = []evidence.ApprovalNeed{n}
	case noteRows:
		o.Rows, err = readCount(value)
	case noteBytes:
		o.Bytes, err = readBytes(value)
	case noteTime:
		var d time.Duration
		d, err = time.ParseDuration(value)
		if o.Millis = d.Milliseconds(); err == nil && o.Millis < 1 {
			err = fmt.Errorf("want at least a millisecond, like 30s")
		}
	case noteCommands:
		o.Commands, err = readCount(value)
	case noteWrites:
		o.Writes, err = readCount(value)
	case noteTicket:
		if r.ticket = value == "required"; !r.ticket {
			err = fmt.Errorf(`want "required"`)
		}
	case noteAlert:
		switch {
		case !evidence.ValidName(value):
			err = fmt.Errorf("want a name")
		case slices.Contains(ownAlerts, value):
			err = fmt.Errorf("the gateway raises alerts of this name by rules of its own; choose another")
		}
		o.Alert = []string{value}
	}
	return err
}

func readNeed(s string) (n evidence.ApprovalNeed, err error) {
	group, count, many := strings.Cut(s, ":")
	n = evidence.ApprovalNeed{Group: group, Count: 1}
	if many {
		n.Count, err = strconv.Atoi(count)
	}
	switch {
	case !evidence.ValidName(group) || group == evidence.GroupResource || group == evidence.GroupPolicy:
		return n, fmt.Errorf("want the name of a group of people, like dba, or dba:2 for two of them")
	case err != nil || n.Count < 1 || n.Count > 16:
		return n, fmt.Errorf("want 1 to 16 people, like dba:2")
	}
	return n, nil
}

func readCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("want a whole number of at least 1")
	}
	return n, nil
}

func readBytes(s string) (int64, error) {
	factor := int64(1)
	for unit, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			s, factor = rest, f
		}
	}
	n, err := readCount(s)
	if err != nil || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("want a number of bytes, like 65536, 64KiB or 10MiB")
	}
	return n * factor, nil
}

// combine makes one of two obligations: the stricter of each.
func combine(o *evidence.Obligations, with *evidence.Obligations) {
	o.Rows, o.Bytes, o.Millis = stricter(o.Rows, with.Rows), stricter(o.Bytes, with.Bytes), stricter(o.Millis, with.Millis)
	o.Commands, o.Writes = stricter(o.Commands, with.Commands), stricter(o.Writes, with.Writes)
	for _, n := range with.Approval {
		i, found := slices.BinarySearchFunc(o.Approval, n, func(a, b evidence.ApprovalNeed) int { return cmp.Compare(a.Group, b.Group) })
		if !found {
			o.Approval = slices.Insert(o.Approval, i, n)
		}
		o.Approval[i].Count = max(o.Approval[i].Count, n.Count)
	}
	for _, name := range with.Alert {
		if i, found := slices.BinarySearch(o.Alert, name); !found {
			o.Alert = slices.Insert(o.Alert, i, name)
		}
	}
}

// stricter is the lesser of two limits, of which 0 is none.
func stricter(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// wantsTicket reports whether a grant of a role needs a ticket.
func (p *Policy) wantsTicket(role string) bool {
	return slices.ContainsFunc(p.rules, func(r *rule) bool { return r.ticket && r.Role == role })
}

// none reports whether o obliges to nothing.
func none(o *evidence.Obligations) bool {
	return len(o.Approval) == 0 && len(o.Alert) == 0 && o.Rows == 0 && o.Bytes == 0 && o.Millis == 0 && o.Commands == 0 && o.Writes == 0
}

// bind holds an allowed command to its obligations: it may want an approval,
// or have reached a limit.
func (r *Registry) bind(d *evidence.Decision, q *Request) {
	o := d.Obligations
	refuse := func(format string, args ...any) {
		d.Effect, d.Reason = evidence.Deny, fmt.Sprintf(format, args...)
	}
	switch {
	case o == nil || d.Effect != evidence.Allow || evidence.Unbound(q.Path):
		if q.Approval != "" || q.Limit != "" {
			d.Effect, d.Reason = evidence.Error, "it cites an approval or a limit that policy asks nothing about"
		}
		return
	case q.Limit == evidence.LimitCommands && o.Commands > 0:
		d.Limit = q.Limit
		refuse("the limit of %d commands an hour is reached; it counts anew at the full hour (UTC)", o.Commands)
		return
	case q.Limit == evidence.LimitWrites && o.Writes > 0:
		d.Limit = q.Limit
		refuse("the limit of %d writes an hour is reached; it counts anew at the full hour (UTC)", o.Writes)
		return
	case q.Limit != "":
		d.Effect, d.Reason = evidence.Error, "it cites a limit that policy doesn't set"
		return
	case len(o.Approval) == 0:
		if q.Approval != "" {
			d.Effect, d.Reason = evidence.Error, "it cites an approval that policy doesn't ask for"
		}
		return
	case q.Approval == "":
		refuse("it needs the approval of %s", needs(o.Approval))
		return
	}
	if err := r.covered(q, o); err != nil {
		refuse("it needs the approval of %s: %v", needs(o.Approval), err)
		return
	}
	d.Approval = q.Approval
}

// covered checks that the approval which a request cites is one for it.
func (r *Registry) covered(q *Request, o *evidence.Obligations) error {
	asked, ok := r.approvals.get(q.Approval)
	if !ok {
		return fmt.Errorf("request %.80q %w", q.Approval, ErrUnknown)
	}
	a, err := r.approved(q.Approval, evidence.ApproveCommand, asked.Digest, q.Time)
	if err != nil {
		return err
	}
	c := a.Command
	if c.Agent != q.Agent || c.Resource != q.Resource || !slices.Equal(c.Checks, q.Checks) {
		return fmt.Errorf("request %s %w: it is about another command", a.ID, ErrInvalid)
	}
	for _, n := range o.Approval {
		if !slices.ContainsFunc(a.Needs, func(had evidence.ApprovalNeed) bool { return had.Group == n.Group && had.Count >= n.Count }) {
			return fmt.Errorf("request %s %w: policy asks for more by now", a.ID, ErrStale)
		}
	}
	return nil
}
