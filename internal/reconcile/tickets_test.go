package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func ticketsOf(t *testing.T, b evidence.ImportBody) string {
	t.Helper()
	var tickets []evidence.TicketRow
	if err := evidence.DecodeBody(b.Data, &tickets); err != nil {
		t.Fatal(err)
	}
	stamp := func(us int64) string {
		if us == 0 {
			return "-"
		}
		return time.UnixMicro(us).UTC().Format("01-02T15:04:05")
	}
	var list []string
	for _, r := range tickets {
		list = append(list, fmt.Sprintf("%s %s %s %s %s@%s by %s for %s with %s", r.ID, r.Status, stamp(r.Created), stamp(r.Closed), r.Approval, stamp(r.Approved),
			strings.Join(r.Approvers, "+"), r.Requester, r.Assignee))
		if len(r.Digest) != 64 {
			t.Errorf("%s: its digest is %q", r.ID, r.Digest)
		}
	}
	return strings.Join(list, "; ")
}

const jiraIssues = `{"startAt":0,"maxResults":50,"total":2,"issues":[
	{"id":"10001","key":"OPS-1","fields":{"summary":"give Carol's bot the salaries","status":{"name":"Done","id":"3"},"created":"2026-11-01T09:00:00.000+0100",
	 "resolutiondate":"2026-11-03T10:00:00.000+0000","reporter":{"emailAddress":"Alice@example.com","displayName":"Alice"},"assignee":null,
	 "customfield_10040":[{"emailAddress":"carol@example.com"},{"name":"bob"}]}},
	{"key":"OPS-2","fields":{"status":{"name":"Open"},"created":"2026-11-02T09:00:00.000+0000","resolutiondate":null,"reporter":{"accountId":"5b1"}}}]}`

func TestTicketsAreReadAndTheirTextsLeftOut(t *testing.T) {
	for _, c := range []struct {
		what, format, text string
		params             map[string]string
		want               string
	}{
		{"a table", CSV, "\ufeffid,summary,status,created_at,closed_at,requester,approver,assignee,approval,approved_at\r\n" +
			"OPS-2,\"secret\nplan, for Carol\",open,2026-11-02,,carol@example.com,,bob,requested,\r\n" +
			"OPS-1,secret,closed,2026-11-01T09:00:00Z,2026-11-03,Alice@example.com,bob@example.com; carol@example.com,,Approved,2026-11-01T10:00:00Z\r\n", nil,
			"OPS-1 closed 11-01T09:00:00 11-03T23:59:59 approved@11-01T10:00:00 by bob for alice@example.com with ; OPS-2 open 11-02T00:00:00 - pending@- by  for  with bob"},
		{"of other names, times in UTC", CSV, "number,opened_at,resolved_at,state,opened_by\nRITM1,2026-11-01 09:00:00,,3,bob\n",
			map[string]string{"id": "number", "created_at": "Opened_At", "closed_at": "resolved_at", "status": "state", "requester": "opened_by", "zone": "UTC"},
			"RITM1 3 11-01T09:00:00 - @- by  for bob with "},
		{"Jira's", Jira, jiraIssues, map[string]string{"approver": "fields.customfield_10040"},
			"OPS-1 Done 11-01T08:00:00 11-03T10:00:00 @- by bob for alice@example.com with ; OPS-2 Open 11-02T09:00:00 - @- by  for  with "},
		{"ServiceNow's", JSON, `{"result":[{"number":"RITM1","state":{"value":"3"},"opened_at":"2026-11-01 09:00:00","closed_at":"","approval":"approved","short_description":"secret"}]}`,
			map[string]string{"id": "number", "status": "state", "created_at": "opened_at", "zone": "UTC"}, "RITM1 3 11-01T09:00:00 - approved@- by  for  with "},
		{"a list with numbers for ids", JSON, ` [{"id":12345678901,"status":"x","created_at":"2026-11-01","closed_at":null,"approvers":["bob"]}]`, map[string]string{"approver": "approvers"},
			"12345678901 x 11-01T00:00:00 - @- by bob for  with "},
	} {
		in := Input{Source: "desk", Format: c.format, Query: "all", Params: c.params, Data: []byte(c.text)}
		b, err := Tickets(in, us)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if got := ticketsOf(t, b); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, got, c.want)
		}
		for _, leaked := range []string{"secret", "arol", "salaries", "5b1"} {
			if strings.Contains(string(b.Data), leaked) {
				t.Errorf("%s: %q is kept in %s", c.what, leaked, b.Data)
			}
		}
		if b.File != digest([]byte(c.text)) || b.Digest != digest(b.Data) {
			t.Errorf("%s: digests", c.what)
		}
	}
}

// The digest is of the row as the file has it, so that the one who has the file
// can show which it was.
func TestTheDigestOfATicketIsItsRows(t *testing.T) {
	row := "OPS-1,\"a \"\"plan\"\"\nof two lines\",open,2026-11-01,"
	b, err := Tickets(Input{Format: CSV, Data: []byte("id,summary,status,created_at,closed_at\r\n" + row + "\r\nOPS-2,,open,2026-11-01,\r\n")}, us)
	if err != nil {
		t.Fatal(err)
	}
	var list []evidence.TicketRow
	if err := evidence.DecodeBody(b.Data, &list); err != nil || len(list) != 2 || list[0].Digest != digest([]byte(row)) || list[1].Digest != digest([]byte("OPS-2,,open,2026-11-01,")) {
		t.Errorf("%+v, %v", list, err)
	}
	if b, err = Tickets(Input{Format: Jira, Data: []byte(jiraIssues)}, us); err != nil {
		t.Fatal(err)
	}
	issue := jiraIssues[strings.Index(jiraIssues, `{"key"`) : len(jiraIssues)-2]
	if err := evidence.DecodeBody(b.Data, &list); err != nil || list[1].Digest != digest([]byte(issue)) {
		t.Errorf("%+v, %v", list, err)
	}
}

// What is wrong is said with line and column, and nothing is imported.
func TestBadTicketsAreRefusedWhole(t *testing.T) {
	const head = "id,status,created_at,closed_at\n"
	for _, c := range []struct{ format, text, want string }{
		{CSV, "", "the file is empty"},
		{CSV, head, "no tickets in it"},
		{CSV, "id,status,created_at\n1,x,2026-11-01\n", `there is no column "closed_at"`},
		{CSV, head + "1,x,,\n", "line 2, column 5: a ticket that was never created"},
		{CSV, head + ",x,2026-11-01,\n", "line 2, column 1: a ticket without an id"},
		{CSV, head + "1,x,2026-11-01,\n1,x,2026-11-01,\n", `line 3, column 1: "1" is there twice`},
		{CSV, head + "1,x,01/11/2026,\n", `line 2, column 5: "01/11/2026" is no date`},
		{CSV, head + "1,x,2026-11-01 09:00:00,\n", "is no date"},
		{CSV, head + "1,\x1b[2J,2026-11-01,\n", "a control character"},
		{CSV, head + strings.Repeat("9", 1001) + ",x,2026-11-01,\n", "1001 bytes in one field"},
		{CSV, "id,status,created_at,closed_at,approval\n1,x,2026-11-01,,maybe\n", `line 2, column 17: approval "maybe": want one of`},
		{Jira, strings.Replace(jiraIssues, `"total":2`, `"total":3`, 1), "export all pages as one list"},
		{Jira, `{"isLast":false,"issues":[]}`, "export all pages as one list"},
		{Jira, "{\"issues\":[\n{\"key\":\"OPS-1\",\"fields\":{\"created\":\"2026-11-01\",\"status\":\"x\"}}]}", "line 2, column 1: fields.resolutiondate: it has none"},
		{JSON, "[1]", "a ticket is an object"},
		{JSON, `{"tickets":[`, "the file ends in the middle"},
		{SCIM, "{}", `tickets come as csv, json or jira, not as "scim"`},
	} {
		if b, err := Tickets(Input{Format: c.format, Data: []byte(c.text)}, us); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q: %v, %s\nwant %s", c.text, err, b.Data, c.want)
		}
	}
	if _, err := Tickets(Input{Format: CSV, Params: map[string]string{"zone": "PST"}, Data: []byte(head)}, us); !errors.Is(err, ErrInput) {
		t.Errorf("another zone: %v", err)
	}
	if _, err := Tickets(Input{Format: CSV, Params: map[string]string{"approver": "boss"}, Data: []byte(head + "1,x,2026-11-01,\n")}, us); !errors.Is(err, ErrInput) {
		t.Errorf("a column that is named and isn't there: %v", err)
	}
}
