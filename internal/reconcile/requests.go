package reconcile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Audit is the format of a Kubernetes API server's audit log: an event of
// audit.k8s.io/v1 on each line, or a list of them, as webhooks are sent.
const Audit = "audit"

// Told says which requests of an audit log are kept by number alone.
type Told struct {
	// Ours reports whether an audit id is the gateway's: such requests are kept one
	// by one, whoever made them.
	Ours func(id string) bool
	// Allowed reports whether somebody may ask without the gateway.
	Allowed func(*evidence.RequestRow) bool
}

const (
	maxRequestRows = 8 << 20 // bytes of the rows of one import; what is behind comes with the next
	maxStrangers   = 2000    // requests of one import that are kept one by one though they are nobody's who may
)

// auditEvent is what is read of an event.
type auditEvent struct {
	Kind       string       `json:"kind"`
	Items      []auditEvent `json:"items"` // of an EventList
	AuditID    string       `json:"auditID"`
	Stage      string       `json:"stage"`
	RequestURI string       `json:"requestURI"`
	Verb       string       `json:"verb"`
	User       auditUser    `json:"user"`
	As         auditUser    `json:"impersonatedUser"`
	SourceIPs  []string     `json:"sourceIPs"`
	Object     struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		Group       string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	Response struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Received string `json:"requestReceivedTimestamp"`
	At       string `json:"stageTimestamp"`
}

type auditUser struct {
	Username string   `json:"username"`
	Groups   []string `json:"groups"`
}

// Requests reads the requests that a Kubernetes API server's audit log has, of
// every level. Requests of those who may ask directly are kept as their number,
// by who asked from where; and so are those of others beyond maxStrangers, so
// that nobody can make an import too large to be made. A line that isn't whole
// yet, and what would be too much at once, is left for later.
func Requests(in Input, told Told) (Log, error) {
	var l Log
	var rows []evidence.RequestRow
	groups := make(map[string]int) // to its row
	size, entries, strangers, number := 0, 0, 0, 0
	for l.Read < len(in.Data) && size < maxRequestRows {
		n := bytes.IndexByte(in.Data[l.Read:], '\n')
		if n < 0 {
			break // still being written
		}
		number++
		line := bytes.TrimSpace(in.Data[l.Read : l.Read+n])
		var e auditEvent
		if len(line) > 0 {
			if err := json.Unmarshal(line, &e); err != nil {
				return Log{}, at(number, 1, "%v", err)
			}
		}
		events := e.Items
		switch {
		case len(line) > 0 && e.Kind == "Event":
			events = []auditEvent{e}
		case len(line) > 0 && e.Kind != "EventList":
			return Log{}, at(number, 1, "a %.40q, want an Event of audit.k8s.io/v1 or an EventList", e.Kind)
		}
		for i := range events {
			row, when, kept, err := events[i].row()
			if err != nil {
				return Log{}, at(number, 1, "%v", err)
			}
			if l.First == 0 {
				l.First = when
			}
			l.Last = max(l.Last, when)
			if !kept {
				continue
			}
			entries++
			if !told.Ours(row.ID) {
				allowed := told.Allowed(&row)
				if !allowed {
					strangers++
				}
				if allowed || strangers > maxStrangers {
					key := together(&row)
					if g, known := groups[key]; known {
						join(&rows[g], &row)
						continue
					}
					groups[key] = len(rows)
					row = alone(&row)
				}
			}
			rows = append(rows, row)
			size += len(evidence.EncodeBody(row))
		}
		l.Read += n + 1
	}
	taken := in
	taken.Data = in.Data[:l.Read]
	var err error
	l.Body, err = body(evidence.ImportRequests, taken, entries, rows)
	return l, err
}

// row is what is kept of an event, and its time. Of those who only say that a
// request came in nothing is kept: another follows.
func (e *auditEvent) row() (row evidence.RequestRow, when int64, kept bool, err error) {
	row = evidence.RequestRow{
		ID: short(e.AuditID), User: short(e.User.Username), Groups: shorts(e.User.Groups), As: short(e.As.Username), AsGroups: shorts(e.As.Groups), Verb: short(e.Verb),
		Resource: short(e.Object.Resource), Namespace: short(e.Object.Namespace), Name: short(e.Object.Name), Subresource: short(e.Object.Subresource), Code: e.Response.Code,
	}
	if len(e.SourceIPs) > 0 {
		row.From = short(e.SourceIPs[len(e.SourceIPs)-1]) // the connection's own; clients may say what they like in the others
	}
	if e.Object.Group != "" && row.Resource != "" {
		row.Resource += "." + short(e.Object.Group)
	}
	if row.Resource == "" {
		path, _, _ := strings.Cut(e.RequestURI, "?")
		if plain, err := url.PathUnescape(path); err == nil {
			path = plain
		}
		row.Path = short(path)
	}
	if row.At, err = moment(e.Received); err != nil || row.At == 0 {
		return row, 0, false, fmt.Errorf("requestReceivedTimestamp %.40q is no time", e.Received)
	}
	if when, err = moment(e.At); err != nil || when == 0 {
		return row, 0, false, fmt.Errorf("stageTimestamp %.40q is no time", e.At)
	}
	switch e.Stage {
	case "ResponseComplete":
	case evidence.StageStarted, evidence.StagePanic:
		row.Stage = e.Stage
	case "RequestReceived":
		return row, when, false, nil
	default:
		return row, 0, false, fmt.Errorf("the stage %.40q is not known", e.Stage)
	}
	return row, when, true, nil
}

// maxAuditText bounds a name in an audit log, bytes: those of the API are
// shorter, and a client may ask for any.
const maxAuditText = 300

// short is a name as a record holds it.
func short(s string) string {
	if len(s) > maxAuditText {
		s = s[:maxAuditText] + "..."
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// everyone are groups that say nothing of who is in them.
var everyone = []string{"system:authenticated", "system:unauthenticated"}

func shorts(list []string) (out []string) {
	for _, s := range list[:min(len(list), 50)] {
		if !slices.Contains(everyone, s) {
			out = append(out, short(s))
		}
	}
	return out
}

// together is the same for requests that are kept as a number: who asked, as
// whom, from where.
func together(row *evidence.RequestRow) string {
	return string(evidence.EncodeBody([]any{row.User, row.Groups, row.As, row.AsGroups, row.From}))
}

// alone is the row of several that has one.
func alone(row *evidence.RequestRow) evidence.RequestRow {
	return evidence.RequestRow{User: row.User, Groups: row.Groups, As: row.As, AsGroups: row.AsGroups, From: row.From, At: row.At, Until: row.At, N: 1}
}

// join adds a request to several.
func join(to, row *evidence.RequestRow) {
	to.N++
	to.At, to.Until = min(to.At, row.At), max(to.Until, row.At)
}
