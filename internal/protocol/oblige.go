package protocol

import (
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Excess says that a command exceeded a limit that its decision sets, and was
// stopped for that. Its Code is that of the command's outcome.
type Excess struct {
	Code string
	text string
}

func (e *Excess) Error() string { return e.text }

// The codes of what exceeded a limit.
const (
	ExcessRows  = "limit_rows"
	ExcessBytes = "limit_bytes"
	ExcessTime  = "limit_time"
)

// Exceeds reports which limit of its decision a command exceeds with so many
// rows returned and bytes passed on to the agent; nil is none.
func Exceeds(d *evidence.Decision, rows, bytes uint64) *Excess {
	o := d.Obligations
	switch {
	case o == nil:
	case o.Rows > 0 && rows > uint64(o.Rows):
		return &Excess{ExcessRows, fmt.Sprintf("stopped by the access gateway: the answer exceeds the %d rows that one command may have%s", o.Rows, by(d))}
	case o.Bytes > 0 && bytes > uint64(o.Bytes):
		return &Excess{ExcessBytes, fmt.Sprintf("stopped by the access gateway: the answer exceeds the %d bytes that one command may have%s", o.Bytes, by(d))}
	}
	return nil
}

// Longest is how long a command may take, and what to say of one that takes
// longer; nil is no limit.
func Longest(d *evidence.Decision) (time.Duration, *Excess) {
	if d.Obligations == nil || d.Obligations.Millis == 0 {
		return 0, nil
	}
	most := time.Duration(d.Obligations.Millis) * time.Millisecond
	return most, &Excess{ExcessTime, fmt.Sprintf("stopped by the access gateway: the command has taken the %v that one may%s", most, by(d))}
}

func by(d *evidence.Decision) string {
	if len(d.Rules) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", d.Rules[0])
}

// Refused puts a decision that refuses a command into words for its agent.
func Refused(x Exchange) (reason, hint string) {
	d := x.Decision()
	if reason = d.Reason; reason == "" {
		reason = "no rule permits this command"
	}
	reason = "refused by the access gateway: " + reason
	switch {
	case d.Approval != "":
		hint = fmt.Sprintf("People see what is asked with `exhibit approval show %s`. Once they have approved it, ask for exactly the same again.", d.Approval)
	case d.Limit != "":
		hint = "Ask again after the full hour (UTC), or ask the resource's owner for a higher limit and name this refusal: " + x.Position().String()
	case d.Obligations != nil && len(d.Obligations.Approval) > 0:
		hint = "Wait until your other requests are answered, or ask the gateway's people and name this refusal: " + x.Position().String()
	default:
		hint = "If the work needs it, ask the resource's owner for a grant and name this refusal: " + x.Position().String()
	}
	return reason, hint
}
