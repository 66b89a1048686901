package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixMicro()

// us knows two people, by id and address.
func us(name string) (string, bool) {
	id, ok := map[string]string{"alice@example.com": "alice@example.com", "bob": "bob", "bob@example.com": "bob"}[strings.ToLower(name)]
	return id, ok
}

func rowsOf(t *testing.T, b evidence.ImportBody) string {
	t.Helper()
	var people []evidence.PersonRow
	if err := evidence.DecodeBody(b.Data, &people); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, p := range people {
		list = append(list, fmt.Sprintf("%s %s %s", p.ID, p.Status, time.UnixMicro(p.Left).UTC().Format(time.DateOnly)))
	}
	return strings.Join(list, "; ")
}

func TestPeopleAreReadAndStrangersLeftOut(t *testing.T) {
	for _, c := range []struct{ what, format, text, want string }{
		{"with dates", CSV, "id,name,salary,left_at\nAlice@Example.com,Alice,1,\nbob@example.com,Bob,2,2026-11-20\ncarol@example.com,Carol,3,2026-01-01\n",
			"alice@example.com active 1970-01-01; bob left 2026-11-20"},
		{"with a status", CSV, "\ufeffstatus,id,left_at\nActive,alice@example.com,\nTerminated,bob,2026-11-20T17:00:00Z\nactive,x,\n",
			"alice@example.com active 1970-01-01; bob left 2026-11-20"},
		{"who leaves next week is here", CSV, "id,left_at\nalice@example.com,2026-11-29\nbob,\nx,\n",
			"alice@example.com active 1970-01-01; bob active 1970-01-01"},
		{"from SCIM", SCIM, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:ListResponse"],"totalResults":3,"Resources":[
			{"userName":"alice","emails":[{"value":"alice@example.com","primary":true}],"active":true},
			{"userName":"bob","active":false},{"userName":"x","nickName":"y"}]}`,
			"alice@example.com active 1970-01-01; bob left 1970-01-01"},
	} {
		b, err := People(Input{Source: "HR", Format: c.format, Query: "all", Data: []byte(c.text)}, us, now)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if got := rowsOf(t, b); got != c.want || b.Rows != 3 || b.Kept != 2 {
			t.Errorf("%s: %s, %d of %d\nwant %s", c.what, got, b.Kept, b.Rows, c.want)
		}
		if b.File != digest([]byte(c.text)) || b.Digest != digest(b.Data) || strings.Contains(string(b.Data), "carol") || strings.Contains(string(b.Data), "Alice,") {
			t.Errorf("%s: digests, or what is kept: %s", c.what, b.Data)
		}
	}
	columns := map[string]string{"id": "Work Email", "left_at": "Termination Date", "status": "State"}
	b, err := People(Input{Format: CSV, Params: columns, Data: []byte("Work Email,Termination Date,State\nbob,2026-11-01,inactive\n")}, us, now)
	if err != nil || rowsOf(t, b) != "bob left 2026-11-01" {
		t.Errorf("by names of columns: %s, %v", b.Data, err)
	}
}

// What is wrong is said with line and column, and nothing is imported.
func TestBadPeopleAreRefusedWhole(t *testing.T) {
	list := func(users string) string {
		return `{"schemas":["urn:ietf:params:scim:api:messages:2.0:ListResponse"],"totalResults":2,` + "\n" + `"Resources":[` + users + `]}`
	}
	for _, c := range []struct{ format, text, want string }{
		{CSV, "", "line 1, column 1: the file is empty"},
		{CSV, "id,left_at\n", "nobody in it"},
		{CSV, "name,left_at\nbob,\n", `line 1, column 1: there is no column "id"; there are name, left_at`},
		{CSV, "id,left_at\nbob,yesterday\n", `line 2, column 5: "yesterday" is no date`},
		{CSV, "id,left_at\nbob,2026-11-01 09:00:00 PST\n", "line 2, column 5: the zone PST"},
		{CSV, "id,left_at\nalice@example.com,\n,2026-01-01\n", "line 3, column 1: a person without an id"},
		{CSV, "id,left_at\nbob,\nbob@example.com,\n", `line 3, column 1: "bob@example.com" is there twice`},
		{CSV, "id,left_at,status\nbob,,gone fishing\n", `line 2, column 6: status "gone fishing"`},
		{CSV, "id,left_at\nbob\n", "line 2"},
		{CSV, "id,left_at\n\"bob,\n", "line 2"},
		{CSV, "id,left_at\n\"bo\tb\",\n", "line 2, column 1: a control character"},
		{CSV, "id,left_at\nb\xffb,\n", "line 2, column 2: not UTF-8"},
		{SCIM, "{\"schemas\":[],\n\"totalResults\":}", "line 2, column 16"},
		{SCIM, `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"bob"}`, "no SCIM 2.0 ListResponse"},
		{SCIM, list(`{"userName":"bob"}`), "export all pages"},
		{SCIM, list("{\"userName\":\"x\"},\n {\"active\":true}"), "line 3, column 2: a user without a name"},
		{SCIM, list("{\"userName\":\"bob\"},\n{\"userName\":\"bob\"}"), `line 3, column 1: "bob" is there twice`},
		{SCIM, list(`{"userName":1},{"userName":"bob"}`), "line 2"},
		{SCIM, "{", "the file ends in the middle"},
		{"xlsx", "PK", "people come as csv or scim"},
	} {
		b, err := People(Input{Format: c.format, Data: []byte(c.text)}, us, now)
		if !errors.Is(err, ErrInput) || !strings.Contains(fmt.Sprint(err), c.want) || b.Data != nil {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzPeople(f *testing.F) {
	f.Add(CSV, []byte("id,left_at\nbob,2026-11-20\n"))
	f.Add(SCIM, []byte(`{"schemas":["urn:ietf:params:scim:api:messages:2.0:ListResponse"],"totalResults":1,"Resources":[{"userName":"bob"}]}`))
	f.Fuzz(func(t *testing.T, format string, data []byte) {
		b, err := People(Input{Format: format, Data: data}, us, now)
		if err != nil {
			return
		}
		var people []evidence.PersonRow
		if err := evidence.DecodeBody(b.Data, &people); err != nil || !json.Valid(b.Data) {
			t.Fatalf("%q is imported as %s, which can't be read: %v", data, b.Data, err)
		}
	})
}
