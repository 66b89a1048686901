package reconcile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Jira is the answer to a search for issues (REST API, version 2 or 3).
const Jira = "jira"

// Names of the columns of tickets, as params may change them. Of JSON they are
// paths into a ticket, with dots.
const (
	columnCreated    = "created_at"
	columnClosed     = "closed_at"
	columnRequester  = "requester"
	columnApprover   = "approver"
	columnAssignee   = "assignee"
	columnApproval   = "approval"
	columnApprovedAt = "approved_at"
)

// TicketColumns are their names, of which those up to columnClosed must be there.
var TicketColumns = []string{columnID, columnStatus, columnCreated, columnClosed, columnRequester, columnApprover, columnAssignee, columnApproval, columnApprovedAt}

const mustHave = 4

// jiraColumns are where Jira has them. What stands for an approval is the
// organisation's own.
var jiraColumns = map[string]string{
	columnID: "key", columnStatus: "fields.status", columnCreated: "fields.created", columnClosed: "fields.resolutiondate",
	columnRequester: "fields.reporter", columnAssignee: "fields.assignee",
}

// ParamZone says in which zone times are that name none: only "UTC".
const ParamZone = "zone"

// What systems call the state of an approval.
var approvals = map[string][]string{
	evidence.TicketApproved: {"approved", "granted", "accepted", "authorized", "yes", "true"},
	evidence.TicketPending:  {"pending", "requested", "waiting", "waiting for approval", "not yet requested", "in review", "no", "false"},
	evidence.TicketRefused:  {"rejected", "refused", "declined", "denied", "not approved"},
	"":                      {"", "not required", "none", "n/a"},
}

// Tickets reads tickets: nothing of them is kept but who, when and in which
// state, and a digest of the whole. Known tells the gateway's people.
func Tickets(in Input, known Known) (evidence.ImportBody, error) {
	if z, ok := in.Params[ParamZone]; ok && z != "UTC" {
		return evidence.ImportBody{}, fmt.Errorf("%w: times are in UTC or name their zone, not in %.40q", ErrInput, z)
	}
	r := ticketReader{known: known, utc: in.Params[ParamZone] != "", seen: make(map[string]bool)}
	var err error
	switch in.Format {
	case CSV:
		err = r.csv(in)
	case JSON, Jira:
		err = r.json(in)
	default:
		err = fmt.Errorf("%w: tickets come as %s, %s or %s, not as %q", ErrInput, CSV, JSON, Jira, in.Format)
	}
	if err != nil {
		return evidence.ImportBody{}, err
	}
	if len(r.rows) == 0 {
		return evidence.ImportBody{}, fmt.Errorf("%w: it has no tickets in it", ErrInput)
	}
	slices.SortFunc(r.rows, func(a, b evidence.TicketRow) int { return cmp.Compare(a.ID, b.ID) })
	return body(evidence.ImportTickets, in, len(r.rows), r.rows)
}

type ticketReader struct {
	known Known
	utc   bool
	seen  map[string]bool
	rows  []evidence.TicketRow
}

// fail says what is wrong with a column of a ticket.
type failing func(column string, format string, args ...any) error

// add adds the ticket whose fields get gives, each with all texts that stand
// there: of what isn't a person the first counts.
func (r *ticketReader) add(get func(column string) []string, whole []byte, fail failing) error {
	one := func(column string) (text string, err error) {
		if list := get(column); len(list) > 0 {
			text = strings.TrimSpace(list[0])
		}
		if bad := plain(text); bad != "" {
			return "", fail(column, "%s", bad)
		}
		return text, nil
	}
	t := evidence.TicketRow{Digest: digest(whole)}
	var approval string
	for _, c := range []struct {
		column string
		to     *string
	}{{columnID, &t.ID}, {columnStatus, &t.Status}, {columnApproval, &approval}} {
		var err error
		if *c.to, err = one(c.column); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		column string
		end    bool // a day stands for its end
		to     *int64
	}{{columnCreated, false, &t.Created}, {columnClosed, true, &t.Closed}, {columnApprovedAt, false, &t.Approved}} {
		text, err := one(c.column)
		if err != nil {
			return err
		}
		if *c.to, err = r.time(text, c.end); err != nil {
			return fail(c.column, "%v", err)
		}
	}
	var ok bool
	if t.Approval, ok = stateOf(approval); !ok {
		return fail(columnApproval, "approval %.80q: want one of %s, of %s, or of %s", approval, strings.Join(approvals[evidence.TicketApproved], ", "),
			strings.Join(approvals[evidence.TicketPending], ", "), strings.Join(approvals[evidence.TicketRefused], ", "))
	}
	switch {
	case t.ID == "":
		return fail(columnID, "a ticket without an id")
	case r.seen[t.ID]:
		return fail(columnID, "%.200q is there twice", t.ID)
	case t.Created == 0:
		return fail(columnCreated, "a ticket that was never created")
	case len(r.rows) >= maxRows:
		return fmt.Errorf("%w: more than %d tickets", ErrInput, maxRows)
	}
	r.seen[t.ID] = true
	t.Requester, t.Assignee = r.person(get(columnRequester)), r.person(get(columnAssignee))
	for _, names := range get(columnApprover) {
		for name := range strings.SplitSeq(names, ";") {
			if p := r.person([]string{name}); p != "" && len(t.Approvers) < maxApprovers && !slices.Contains(t.Approvers, p) {
				t.Approvers = append(t.Approvers, p)
			}
		}
	}
	r.rows = append(r.rows, t)
	return nil
}

// maxApprovers bounds those of one ticket.
const maxApprovers = 16

// person is the first whom the gateway knows.
func (r *ticketReader) person(names []string) string {
	for _, n := range names {
		if id, ok := r.known(strings.TrimSpace(n)); ok {
			return id
		}
	}
	return ""
}

// stateOf is what a word says of an approval.
func stateOf(word string) (string, bool) {
	for state, words := range approvals {
		if slices.Contains(words, strings.ToLower(word)) {
			return state, true
		}
	}
	return "", false
}

// time reads a time; where it is but a day, its first or its last moment.
func (r *ticketReader) time(s string, end bool) (int64, error) {
	const day = int64(86_400_000_000)
	if r.utc && len(s) == len("2006-01-02 15:04:05") && s[10] == ' ' {
		s += "Z"
	}
	us, err := moment(s)
	if err == nil && end && us != 0 && len(s) == len("2006-01-02") {
		us += day - 1
	}
	return us, err
}

func (r *ticketReader) csv(in Input) error {
	t, err := newTable(in.Data)
	if err != nil {
		return err
	}
	columns := make(map[string]int)
	for i, c := range TicketColumns {
		name, asked := in.Params[c]
		if n, err := t.column(cmp.Or(name, c)); err == nil {
			columns[c] = n
		} else if asked || i < mustHave {
			return err
		}
	}
	data := strings.TrimPrefix(string(in.Data), "\ufeff")
	for {
		from := t.r.InputOffset()
		if err := t.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		get := func(column string) []string {
			if n, ok := columns[column]; ok {
				return []string{t.row[n]}
			}
			return nil
		}
		row := strings.Trim(data[from:t.r.InputOffset()], "\r\n")
		fail := func(column, format string, args ...any) error { return t.fail(columns[column], format, args...) }
		if err := r.add(get, []byte(row), fail); err != nil {
			return err
		}
	}
}

// ticketLists are under which names an answer has its tickets: of Jira, of
// ServiceNow, and our own.
type ticketLists struct {
	Issues  items[json.RawMessage] `json:"issues"`
	Result  items[json.RawMessage] `json:"result"`
	Tickets items[json.RawMessage] `json:"tickets"`
	Total   *int                   `json:"total"`
	IsLast  *bool                  `json:"isLast"`
}

func (r *ticketReader) json(in Input) error {
	var list items[json.RawMessage]
	if trimmed := strings.TrimSpace(string(in.Data[:min(len(in.Data), 64)])); strings.HasPrefix(trimmed, "[") {
		if err := decode(in.Data, &list); err != nil {
			return err
		}
	} else {
		var of ticketLists
		if err := decode(in.Data, &of); err != nil {
			return err
		}
		list = slices.Concat(of.Issues, of.Result, of.Tickets)
		if of.Total != nil && *of.Total != len(list) || of.IsLast != nil && !*of.IsLast {
			return at(1, 1, "it has %d of the tickets, and says that there are more: export all pages as one list", len(list))
		}
	}
	path := func(column string) string {
		if in.Format == Jira {
			return cmp.Or(in.Params[column], jiraColumns[column])
		}
		return cmp.Or(in.Params[column], column)
	}
	for raw, wrong := range list.in(in.Data) {
		var ticket map[string]any // one at a time: what an export says at length isn't kept
		d := json.NewDecoder(bytes.NewReader(*raw))
		d.UseNumber()
		if err := d.Decode(&ticket); err != nil {
			return wrong("a ticket is an object: %v", err)
		}
		get := func(column string) []string { return texts(field(ticket, path(column))) }
		fail := func(column, format string, args ...any) error {
			return wrong("%s: %s", path(column), fmt.Sprintf(format, args...))
		}
		for _, c := range TicketColumns[:mustHave] {
			if _, ok := find(ticket, path(c)); !ok {
				return fail(c, "it has none")
			}
		}
		if err := r.add(get, *raw, fail); err != nil {
			return err
		}
	}
	return nil
}

// find returns what stands at a path of dots, and whether it is there.
func find(v any, path string) (any, bool) {
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, path != ""
}

func field(v any, path string) any {
	v, _ = find(v, path)
	return v
}

// texts are the texts that a value of JSON stands for: of an object those by
// which a person, or what it names, may be known.
func texts(v any) (list []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case bool:
		return []string{fmt.Sprint(v)}
	case json.Number:
		return []string{v.String()}
	case []any:
		for _, e := range v {
			list = append(list, texts(e)...)
		}
	case map[string]any:
		for _, name := range []string{"emailAddress", "email", "name", "value", "accountId"} {
			if s, ok := v[name].(string); ok && s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}
