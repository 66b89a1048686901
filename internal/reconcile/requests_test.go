package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// auditLine is a line as kube-apiserver 1.36 writes it.
func auditLine(id, user, from, stage string) string {
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":%q,"stage":%q,"requestURI":"/apis/apps/v1/namespaces/shop/deployments/web/scale?pretty=a-secret",`+
		`"verb":"get","user":{"username":%q,"groups":["system:authenticated","ops"]},"impersonatedUser":{"username":"exhibit:bot","groups":["exhibit:agents","system:authenticated"]},`+
		`"sourceIPs":["203.0.113.99",%q],"userAgent":"a-secret","objectRef":{"resource":"deployments","namespace":"shop","name":"web","apiGroup":"apps","apiVersion":"v1","subresource":"scale"},`+
		`"responseStatus":{"metadata":{},"code":200},"requestObject":{"kind":"Scale","items":["a-secret"]},"requestReceivedTimestamp":"2026-11-22T11:59:01.250000Z","stageTimestamp":"2026-11-22T11:59:02.000000Z","annotations":{"authorization.k8s.io/decision":"allow"}}`+"\n",
		id, stage, user, from)
}

var told = Told{
	Ours:    func(id string) bool { return strings.HasPrefix(id, "gw1.") },
	Allowed: func(r *evidence.RequestRow) bool { return r.User == "node" },
}

func requestsOf(t *testing.T, text string) ([]evidence.RequestRow, Log) {
	t.Helper()
	l, err := Requests(Input{Format: Audit, Data: []byte(text)}, told)
	if err != nil {
		t.Fatal(err)
	}
	var rows []evidence.RequestRow
	if err := evidence.DecodeBody(l.Body.Data, &rows); err != nil {
		t.Fatal(err)
	}
	return rows, l
}

func TestWhatIsKeptOfAnAuditLog(t *testing.T) {
	text := auditLine("gw1.4.12", "exhibit", "198.51.100.1", "ResponseComplete") +
		auditLine("gw1.4.13", "exhibit", "198.51.100.1", "RequestReceived") + // another line follows
		auditLine("gw1.4.13", "exhibit", "198.51.100.1", "ResponseStarted") +
		auditLine("a-1", "node", "192.0.2.20", "ResponseComplete") + "\n" + auditLine("a-2", "node", "192.0.2.20", "ResponseComplete") + auditLine("a-3", "node", "192.0.2.21", "ResponseComplete") +
		auditLine("gw1.1.1", "node", "192.0.2.20", "ResponseComplete") + // whoever may: the id is the gateway's
		auditLine("b-1", "admin", "203.0.113.9", "Panic") +
		`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[` + strings.TrimSpace(auditLine("b-2", "admin", "203.0.113.9", "ResponseComplete")) + "]}\n"
	rows, l := requestsOf(t, text)
	got := ""
	for _, r := range rows {
		got += fmt.Sprintln(r.ID, r.User, strings.Join(r.Groups, ","), r.As, strings.Join(r.AsGroups, ","), r.From, r.Verb, r.Object(), r.Stage, r.Code, r.N)
	}
	if want := "gw1.4.12 exhibit ops exhibit:bot exhibit:agents 198.51.100.1 get deployments.apps/shop/web/scale  200 0\n" +
		"gw1.4.13 exhibit ops exhibit:bot exhibit:agents 198.51.100.1 get deployments.apps/shop/web/scale ResponseStarted 200 0\n" +
		" node ops exhibit:bot exhibit:agents 192.0.2.20    0 2\n" +
		" node ops exhibit:bot exhibit:agents 192.0.2.21    0 1\n" +
		"gw1.1.1 node ops exhibit:bot exhibit:agents 192.0.2.20 get deployments.apps/shop/web/scale  200 0\n" +
		"b-1 admin ops exhibit:bot exhibit:agents 203.0.113.9 get deployments.apps/shop/web/scale Panic 200 0\n" +
		"b-2 admin ops exhibit:bot exhibit:agents 203.0.113.9 get deployments.apps/shop/web/scale  200 0\n"; got != want {
		t.Errorf("kept\n%swant\n%s", got, want)
	}
	if l.Body.Rows != 8 || l.Body.Kept != 7 || l.Read != len(text) || strings.Contains(string(l.Body.Data), "secret") || l.First != now-58_000_000 || rows[0].At != now-58_750_000 {
		t.Errorf("%d requests, %d kept, %d of %d bytes, from %d", l.Body.Rows, l.Body.Kept, l.Read, len(text), l.First)
	}
}

func TestAnAuditLogIsReadUpToAWholeLine(t *testing.T) {
	first := auditLine("b-1", "admin", "203.0.113.9", "ResponseComplete")
	for n := range len(first) {
		if rows, l := requestsOf(t, first+first[:n]); len(rows) != 1 || l.Read != len(first) {
			t.Fatalf("%d bytes of a second line: %d rows, %d bytes", n, len(rows), l.Read)
		}
	}
}

// However many ask, or however much they say, an import can be made: all are
// counted.
func TestTheRowsOfAnAuditLogAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 2 * maxStrangers {
		text.WriteString(auditLine(fmt.Sprint("x-", i), "admin", "203.0.113.9", "ResponseComplete"))
	}
	rows, l := requestsOf(t, text.String())
	if n := rows[len(rows)-1].N; len(rows) != maxStrangers+1 || n != maxStrangers || l.Body.Rows != 2*maxStrangers {
		t.Errorf("%d rows, the last of %d requests", len(rows), n)
	}
	text.Reset()
	for i := range 24_000 {
		text.WriteString(auditLine(fmt.Sprint("gw1.9.", i), strings.Repeat("x", 1000), "203.0.113.9", "ResponseComplete"))
	}
	rows, l = requestsOf(t, text.String())
	if size := len(l.Body.Data); size > maxData || l.Read >= text.Len() || len(rows[0].User) > maxAuditText+3 {
		t.Errorf("%d bytes of rows, %d of %d read", size, l.Read, text.Len())
	}
	if rest, l := requestsOf(t, text.String()[l.Read:]); rest[0].ID != fmt.Sprint("gw1.9.", len(rows)) {
		t.Errorf("the rest begins with %s, %d bytes", rest[0].ID, l.Read)
	}
}

func TestWhatIsNoAuditLog(t *testing.T) {
	good := auditLine("b-1", "admin", "203.0.113.9", "ResponseComplete")
	for text, want := range map[string]string{
		good + "{\n":                            "line 2",
		good + "{\"kind\":\"Pod\"}\n":           `line 2, column 1: a "Pod", want an Event`,
		good + "2026-11-22 LOG: hello\n":        "line 2",
		auditLine("b-1", "a", "b", "Completed"): `the stage "Completed" is not known`,
		strings.Replace(good, "2026-11-22T11:59:02.000000Z", "yesterday", 1): `stageTimestamp "yesterday" is no time`,
	} {
		if _, err := Requests(Input{Format: Audit, Data: []byte(text)}, told); !errors.Is(err, ErrInput) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
}

func FuzzRequests(f *testing.F) {
	f.Add(auditLine("gw1.1.1", "a", "b", "ResponseComplete"))
	f.Add(`{"kind":"EventList","items":[{"items":[]}]}` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Requests(Input{Format: Audit, Data: []byte(text)}, told)
		if err != nil {
			return
		}
		var rows []evidence.RequestRow
		if err := evidence.DecodeBody(l.Body.Data, &rows); err != nil {
			t.Fatalf("what was read can't be read again: %v", err)
		}
		n := 0
		for i := range rows {
			n += rows[i].Count()
		}
		if n != l.Body.Rows || l.Read > len(text) {
			t.Fatalf("%d requests of %d, %d bytes of %d", n, l.Body.Rows, l.Read, len(text))
		}
	})
}
