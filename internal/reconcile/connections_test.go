package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Lines as PostgreSQL 15 writes them.
const (
	csvLet  = `2026-11-22 11:59:01.250 UTC,"app","orders",4711,"127.0.0.1:54321",65a1.1267,2,"authentication",2026-11-22 11:59:01 UTC,3/2,0,LOG,00000,"connection authorized: user=app database=orders",,,,,,,,,"","client backend",,0` + "\n"
	csvSaid = `2026-11-22 11:59:02.000 UTC,"app","orders",4711,"127.0.0.1:54321",65a1.1267,3,"SELECT",2026-11-22 11:59:01 UTC,3/3,0,LOG,00000,"statement: select 'connection authorized: ',` + "\n" +
		`  'a secret'",,,,,,,,,"psql","client backend",,0` + "\n"
	csvSocket = `2026-11-22 11:59:03.000 UTC,"postgres","postgres",4712,"[local]",65a2.1268,2,"authentication",2026-11-22 11:59:03 UTC,3/4,0,LOG,00000,"connection authorized: user=postgres database=postgres application_name=psql",,,,,,,,,"","client backend",,0` + "\n"
	csvSix    = `2026-11-22 11:59:04.000 UTC,"app","orders",4713,"::1:54322",65a3.1269,2,"authentication",2026-11-22 11:59:04 UTC,3/4,0,LOG,00000,"connection authorized: user=app database=orders",,,,,,,,,"","client backend",,0` + "\n"

	jsonLet    = `{"timestamp":"2026-11-22 11:59:01.250 UTC","user":"app","dbname":"orders","pid":4711,"remote_host":"127.0.0.1","remote_port":54321,"session_id":"65a1.1267","line_num":2,"session_start":"2026-11-22 11:59:01 UTC","error_severity":"LOG","message":"connection authorized: user=app database=orders","backend_type":"client backend","query_id":0}` + "\n"
	jsonSaid   = `{"timestamp":"2026-11-22 11:59:02.000 UTC","pid":4711,"session_id":"65a1.1267","session_start":"2026-11-22 11:59:01 UTC","message":"statement: select 'connection authorized: a secret'"}` + "\n"
	jsonSocket = `{"timestamp":"2026-11-22 11:59:03.000 UTC","user":"postgres","dbname":"postgres","pid":4712,"remote_host":"[local]","session_id":"65a2.1268","session_start":"2026-11-22 11:59:03 UTC","message":"connection authorized: user=postgres"}` + "\n"
	jsonSix    = `{"timestamp":"2026-11-22 11:59:04.000 UTC","user":"app","dbname":"orders","pid":4713,"remote_host":"::1","remote_port":54322,"session_id":"65a3.1269","session_start":"2026-11-22 11:59:04 UTC","message":"connection authorized: user=app"}` + "\n"
)

func TestOnlyWhoWasLetInIsKeptOfALog(t *testing.T) {
	for format, text := range map[string]string{CSV: csvLet + csvSaid + csvSocket + csvSix, JSON: jsonLet + jsonSaid + jsonSocket + jsonSix} {
		l, err := Connections(Input{Format: format, Data: []byte(text)}, 0)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		var rows []evidence.ConnectionRow
		if err := evidence.DecodeBody(l.Body.Data, &rows); err != nil {
			t.Fatal(err)
		}
		second := int64(1_000_000)
		noon := now
		want := []evidence.ConnectionRow{
			{Session: "65a1.1267", User: "app", Database: "orders", Client: "127.0.0.1:54321", PID: 4711, Start: noon - 59*second, At: noon - 59*second + 250_000},
			{Session: "65a2.1268", User: "postgres", Database: "postgres", PID: 4712, Start: noon - 57*second, At: noon - 57*second},
			{Session: "65a3.1269", User: "app", Database: "orders", Client: "[::1]:54322", PID: 4713, Start: noon - 56*second, At: noon - 56*second},
		}
		if fmt.Sprint(rows) != fmt.Sprint(want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", format, rows, want)
		}
		if l.Body.Rows != 4 || l.Body.Kept != 3 || l.Read != len(text) || strings.Contains(string(l.Body.Data), "secret") {
			t.Errorf("%s: %d lines, %d kept, %d of %d bytes", format, l.Body.Rows, l.Body.Kept, l.Read, len(text))
		}
		if l.First != noon-59*second+250_000 || l.Last != noon-56*second {
			t.Errorf("%s: it covers %d to %d", format, l.First, l.Last)
		}
	}
}

// What is still being written, and what is later than asked for, is left.
func TestALogIsReadUpToAWholeLine(t *testing.T) {
	for format, c := range map[string]struct{ first, rest string }{CSV: {csvLet, csvSaid + csvSocket}, JSON: {jsonLet, jsonSaid}} {
		text := c.first + c.rest
		for n := len(c.first); n < len(c.first)+strings.Index(c.rest, "\n"+map[string]string{CSV: "2026", JSON: ""}[format])+1; n++ {
			l, err := Connections(Input{Format: format, Data: []byte(text[:n])}, 0)
			if err != nil || l.Read != len(c.first) || l.Body.Rows != 1 {
				t.Fatalf("%s: of %q: %d bytes, %d lines, %v", format, text[len(c.first):n], l.Read, l.Body.Rows, err)
			}
		}
		l, err := Connections(Input{Format: format, Data: []byte(text)}, now-59*1_000_000+300_000)
		if err != nil || l.Read != len(c.first) {
			t.Errorf("%s: up to a time: %d bytes, %v", format, l.Read, err)
		}
	}
}

func TestABadLogIsRefused(t *testing.T) {
	for _, c := range []struct{ format, text, want string }{
		{CSV, csvLet + "a,b\n", "line 2, column 1: 2 fields"},
		{CSV, csvLet + strings.Replace(csvLet, "UTC,\"app\"", "PST,\"app\"", 1), "line 2, column 1: the zone PST"},
		{CSV, csvLet + strings.Replace(csvLet, ",4711,", ",x,", 1), `line 2, column 44: "x" is no process id`},
		{CSV, csvLet + "\"a\"b\n", "line 2"},
		{JSON, jsonLet + "nonsense\n", "line 2, column 1"},
		{JSON, jsonLet + "{\"timestamp\":\"soon\"}\n", "line 2, column 1: timestamp"},
		{"xml", "<log/>", "as csv (csvlog) or json (jsonlog)"},
	} {
		l, err := Connections(Input{Format: c.format, Data: []byte(c.text)}, 0)
		if !errors.Is(err, ErrInput) || !strings.Contains(fmt.Sprint(err), c.want) || l.Body.Data != nil {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzConnections(f *testing.F) {
	f.Add(CSV, []byte(csvLet+csvSaid+csvSocket))
	f.Add(JSON, []byte(jsonLet+jsonSaid))
	f.Fuzz(func(t *testing.T, format string, data []byte) {
		l, err := Connections(Input{Format: format, Data: data}, 0)
		if err != nil {
			return
		}
		var rows []evidence.ConnectionRow
		if err := evidence.DecodeBody(l.Body.Data, &rows); err != nil || l.Read > len(data) {
			t.Fatalf("%q is imported as %s: %v", data, l.Body.Data, err)
		}
	})
}
