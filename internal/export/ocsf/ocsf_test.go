package ocsf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// types are the constants of evidence/types.go.
func types(t *testing.T) (list []evidence.Type) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../../evidence/types.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Type" {
			v, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, evidence.Type(v))
		}
		return true
	})
	if len(list) < 30 {
		t.Fatalf("only %d types were found", len(list))
	}
	return list
}

// bodies are the types of body of the types of record.
var bodies = map[evidence.Type]any{
	evidence.GatewayStart: evidence.GatewayStartBody{}, evidence.GatewayStop: evidence.GatewayStopBody{},
	evidence.Heartbeat: evidence.HeartbeatBody{}, evidence.TimeStep: evidence.TimeStepBody{}, evidence.RecordingGap: evidence.GapBody{},
	evidence.Authn: evidence.AuthnBody{}, evidence.SessionStart: evidence.SessionStartBody{}, evidence.SessionUpstream: evidence.SessionUpstreamBody{},
	evidence.SessionNote: evidence.NoteBody{}, evidence.SessionEnd: evidence.SessionEndBody{}, evidence.SessionKill: evidence.KillBody{},
	evidence.CommandIntent: evidence.IntentBody{}, evidence.CommandResult: evidence.ResultBody{}, evidence.TxEnd: evidence.TxEndBody{}, evidence.CommandContent: evidence.ContentBody{},
	evidence.Resolution: evidence.ResolutionBody{}, evidence.AgentCreate: evidence.AgentBody{}, evidence.AgentDisable: evidence.DisableBody{},
	evidence.CredentialEnroll: evidence.CredentialBody{}, evidence.CredentialIssue: evidence.CredentialBody{}, evidence.CredentialRevoke: evidence.RevokeBody{},
	evidence.GrantCreate: evidence.GrantBody{}, evidence.GrantRemove: evidence.RevokeBody{}, evidence.ApprovalRequest: evidence.ApprovalRequestBody{},
	evidence.ApprovalDecision: evidence.ApprovalDecisionBody{}, evidence.ApprovalUse: evidence.ApprovalUseBody{}, evidence.PolicyChange: evidence.PolicyBody{},
	evidence.ConfigChange: evidence.ConfigBody{}, evidence.StateSnapshot: evidence.SnapshotBody{}, evidence.ImportSnapshot: evidence.ImportBody{},
	evidence.OwnerChange: evidence.OwnerBody{}, evidence.PersonLeave: evidence.LeaveBody{}, evidence.PersonReturn: evidence.LeaveBody{},
	evidence.OwnUpstream: evidence.OwnUpstreamBody{}, evidence.ReconRun: evidence.ReconBody{},
	evidence.Alert: evidence.AlertBody{}, evidence.AlertAck: evidence.AlertAckBody{}, evidence.EvidenceRead: evidence.ReadBody{},
	evidence.PackExport: evidence.ReadBody{}, evidence.PackMade: evidence.PackMadeBody{}, evidence.LogKey: evidence.LogKeyBody{}, evidence.LogHold: evidence.HoldBody{}, evidence.Redaction: evidence.RedactionBody{}, evidence.Disposal: evidence.DisposalBody{}, evidence.LogBackup: evidence.BackupBody{}, evidence.LogRestore: evidence.RestoreBody{},
}

// log is records that refer to each other.
type log struct {
	records []*evidence.Record
	at      map[evidence.Position]*evidence.Record
}

func (l *log) add(h evidence.Head, body any) evidence.Position {
	h.Pos = evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(len(l.records))}
	h.Time, h.HasBody = 1_767_225_600_000_000+int64(h.Pos.Seq), body != nil
	if h.Type == evidence.SessionStart && h.Outcome == "" {
		h.Session = h.Pos
	}
	r := &evidence.Record{Head: h, HeadBytes: evidence.AppendHead(nil, &h)}
	if body != nil {
		r.Body = evidence.EncodeBody(body)
	}
	if l.at == nil {
		l.at = make(map[evidence.Position]*evidence.Record)
	}
	l.records, l.at[h.Pos] = append(l.records, r), r
	return h.Pos
}

func (l *log) lookup(_ context.Context, pos evidence.Position) (*evidence.Record, error) {
	return l.at[pos], nil
}

// filled sets everything in v: texts to text, numbers to one, lists to one of each.
func filled(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem(), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[evidence.Position]() {
			v.Set(reflect.ValueOf(evidence.Position{Gateway: "gw1", Boot: 1, Seq: 3}))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				filled(v.Field(i), text)
			}
		}
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.Set(reflect.ValueOf(json.RawMessage(evidence.EncodeBody(text))))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		filled(v.Index(0), text)
	case reflect.Map:
		if v.Type() == reflect.TypeFor[evidence.Facts]() {
			v.Set(reflect.ValueOf(evidence.Facts{"fact": text}))
		}
	}
}

// everything is a log with every type of record, of every protocol, with all
// that a body can hold, with nothing in it, and without one.
func everything(t *testing.T, text string) *log {
	l := &log{}
	for _, protocol := range []string{"postgres", "http", "mcp", "unheard-of", ""} {
		start := evidence.SessionStartBody{
			Protocol: protocol, Agent: "reporter", Owner: evidence.Person{ID: "alice@example.com"}, Client: "192.0.2.7:5000", Upstream: "db.example.com:5432",
			Decision: evidence.Decision{Effect: evidence.Allow, Rules: []string{"roles.0"}, Policy: "p"},
		}
		sess := l.add(evidence.Head{Type: evidence.SessionStart, Agent: "reporter", Resource: "orders", Verb: evidence.VerbConnect, Effect: evidence.Allow}, start)
		for _, verb := range []string{evidence.VerbRead, evidence.VerbWrite, evidence.VerbAdmin, evidence.VerbOpaque, evidence.VerbSession} {
			for _, o := range []evidence.OutcomeClass{evidence.OK, evidence.Failed, evidence.Cancelled, evidence.InDoubt} {
				of := l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess, Agent: "reporter", Resource: "orders", Verb: verb, Effect: evidence.Allow, Frames: 1, Bytes: 2},
					evidence.IntentBody{Path: "simple", Text: text, Checks: []evidence.Check{{Action: protocol + ":delete", Object: text}}})
				l.add(evidence.Head{Type: evidence.CommandResult, Session: sess, Of: of, Outcome: o, Code: "404", Rows: 1, Reply: 2, Micros: 2500}, evidence.ResultBody{Streamed: 1})
				l.add(evidence.Head{Type: evidence.Resolution, Of: of}, evidence.ResolutionBody{Result: "committed"})
			}
			for _, e := range []evidence.Effect{evidence.Deny, evidence.Error} {
				l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess, Verb: verb, Effect: e, Outcome: evidence.Denied}, evidence.IntentBody{Parse: evidence.ParseOpaque, Decision: evidence.Decision{Reason: text}})
			}
		}
	}
	for _, typ := range types(t) {
		example, ok := bodies[typ]
		if !ok {
			t.Fatalf("%s: name the type of its body here", typ)
		}
		full := reflect.New(reflect.TypeOf(example)).Elem()
		filled(full, text)
		for _, b := range []any{full.Interface(), example, nil} {
			for _, h := range []evidence.Head{
				{Type: typ},
				{Type: typ, Agent: "reporter", Resource: "orders", Session: l.records[0].Head.Pos, Of: l.records[1].Head.Pos, Outcome: evidence.OK},
				{Type: typ, Effect: evidence.Deny, Outcome: evidence.Denied, Code: "42501", Of: evidence.Position{Gateway: "gw9", Boot: 7, Seq: 7}},
			} {
				l.add(h, b)
			}
		}
	}
	return l
}

// Promise: every type of record has a mapping, the page says the same, and what
// comes out is what the published schema asks for, whatever an agent wrote.
func TestEveryTypeHasAnEvent(t *testing.T) {
	s := published(t)
	page, err := os.ReadFile("../../../docs/spec/ocsf.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types(t) {
		m, ok := mappings[typ]
		if !ok {
			t.Errorf("%s has no event: add it to mappings", typ)
			continue
		}
		if !bytes.Contains(page, []byte("| `"+string(typ)+"` | "+strconv.Itoa(m.class.uid)+" ")) {
			t.Errorf("docs/spec/ocsf.md has no row for %s with class %d", typ, m.class.uid)
		}
	}
	for _, text := range []string{"plain", "", "\x00\u202e\"<script>\xff", strings.Repeat("ü", 20_000)} {
		t.Run(fmt.Sprintf("%.10q", text), func(t *testing.T) {
			l := everything(t, text)
			m := New("example.com/gw1", "1.2.3", l.lookup)
			for _, r := range l.records {
				line, err := m.Append(t.Context(), nil, r)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.check(line); err != nil {
					t.Fatalf("%s:\n%v\n%s", r.Head.Type, err, line)
				}
				if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
					t.Fatalf("%s isn't one line", line)
				}
				if len(line) > 1<<20 {
					t.Errorf("%s: an event of %d bytes", r.Head.Type, len(line))
				}
			}
		})
	}
}

// The check itself must be able to fail.
func TestTheSchemaRefuses(t *testing.T) {
	s := published(t)
	l := everything(t, "x")
	line, err := New("o", "v", l.lookup).Append(t.Context(), nil, l.records[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(line); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(map[string]any){
		"a required attribute is missing":   func(e map[string]any) { delete(e, "actor") },
		"nothing of what one is needed":     func(e map[string]any) { delete(e, "database") },
		"an unknown attribute":              func(e map[string]any) { e["agent"] = "x" },
		"an unknown value":                  func(e map[string]any) { e["severity_id"] = 50 },
		"an activity of another class":      func(e map[string]any) { e["activity_id"] = 44; e["type_uid"] = 600544 },
		"a type that isn't the activity's":  func(e map[string]any) { e["type_uid"] = 600501 },
		"a text for a number":               func(e map[string]any) { e["time"] = "now" },
		"a list for one":                    func(e map[string]any) { e["actor"] = []any{e["actor"]} },
		"an address that is none":           func(e map[string]any) { e["src_endpoint"] = map[string]any{"ip": "here"} },
		"a port out of range":               func(e map[string]any) { e["src_endpoint"] = map[string]any{"ip": "192.0.2.1", "port": 70000} },
		"an object without its own":         func(e map[string]any) { e["query_info"] = map[string]any{"uid": "x"} },
		"an attribute of a profile unnamed": func(e map[string]any) { delete(e["metadata"].(map[string]any), "profiles") },
	} {
		var e map[string]any
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		change(e)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if s.check(b) == nil {
			t.Errorf("%s: nobody minds\n%s", what, b)
		}
	}
}

// Promise: an event depends on the log alone. Whoever begins in the middle, or
// begins again, gets the same bytes.
func TestAnEventIsTheSameFromWherever(t *testing.T) {
	for name, l := range map[string]*log{"everything": everything(t, "x"), "a day": recorded(t, packtest.Day()), "a shop": func() *log { g, _ := packtest.Shop(); return recorded(t, g) }()} {
		s := published(t)
		m := New("o", "v", l.lookup)
		for _, r := range l.records {
			want, err := m.Append(t.Context(), nil, r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := New("o", "v", l.lookup).Append(t.Context(), nil, r)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %s %s alone is\n%s, and behind the others\n%s", name, r.Head.Pos, r.Head.Type, got, want)
			}
			if err := s.check(got); err != nil {
				t.Errorf("%s: %s: %v", name, r.Head.Pos, err)
			}
		}
	}
}

func recorded(t *testing.T, g *packtest.Gateway) *log {
	t.Helper()
	l := &log{at: make(map[evidence.Position]*evidence.Record)}
	err := g.Records(func(r *evidence.Record) error {
		kept := *r
		l.records, l.at[r.Head.Pos] = append(l.records, &kept), &kept
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What a command and its end say, spelled out.
func TestACommandAndItsEnd(t *testing.T) {
	l := &log{}
	sess := l.add(evidence.Head{Type: evidence.SessionStart, Agent: "reporter", Resource: "orders", Verb: evidence.VerbConnect, Effect: evidence.Allow}, evidence.SessionStartBody{
		Protocol: "postgres", Agent: "reporter", Client: "192.0.2.7:5000", Upstream: "/run/postgresql/.s.PGSQL.5432", Database: "shop", Credential: "gw1.1.9",
		Owner: evidence.Person{ID: "alice@example.com"}, Principal: "bob@example.com", Ticket: "T-1",
		Decision: evidence.Decision{Effect: evidence.Allow},
	})
	of := l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess, Agent: "reporter", Resource: "orders", Verb: evidence.VerbWrite, Effect: evidence.Allow, Bytes: 80}, evidence.IntentBody{
		Path: "extended", Parse: evidence.ParseFull, Text: "DELETE FROM orders WHERE id = $1", Checks: []evidence.Check{{Action: "postgres:select", Object: "public.orders"}, {Action: "postgres:delete", Object: "public.orders"}},
		Decision: evidence.Decision{Effect: evidence.Allow, Rules: []string{"clerk.0"}, Grants: []string{"gw1.1.4"}, Policy: "abc"},
	})
	l.add(evidence.Head{Type: evidence.CommandResult, Session: sess, Of: of, Outcome: evidence.Failed, Code: "23503", Micros: 4321}, nil)
	refused := l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess, Agent: "reporter", Resource: "orders", Verb: evidence.VerbAdmin, Effect: evidence.Deny, Outcome: evidence.Denied}, evidence.IntentBody{
		Text: "GRANT ALL ON orders TO x", Checks: []evidence.Check{{Action: "postgres:grant", Object: "public.orders"}}, Decision: evidence.Decision{Effect: evidence.Deny, Reason: "no rule allows it"},
	})
	events := make([]event, len(l.records))
	m := New("example.com/gw1", "1.2.3", l.lookup)
	for i, r := range l.records {
		line, err := m.Append(t.Context(), nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &events[i]); err != nil {
			t.Fatal(err)
		}
	}
	intent, result, denied := events[1], events[2], events[3]
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"an intent's type", intent.TypeUID, 600507},
		{"its activity is the strongest", intent.ActivityName, "Delete"},
		{"its status is not known yet", intent.StatusID, unknown},
		{"it was allowed", []int{*intent.ActionID, *intent.DispositionID}, []int{1, 1}},
		{"by a rule", intent.Authorizations[0].Policy.UID, "clerk.0"},
		{"of a bundle", intent.Policy.Version, "abc"},
		{"its text has no values", intent.Query.Text, "DELETE FROM orders WHERE id = $1"},
		{"who", intent.Actor.User.UID, "reporter"},
		{"from where", intent.SrcEndpoint.IP, "192.0.2.7"},
		{"on which database", intent.Database.Name, "shop"},
		{"the uid is the position", intent.Metadata.UID, of.String()},
		{"its grants", intent.Unmapped["grants"], []any{"gw1.1.4"}},
		{"the owner then", intent.Unmapped["owner"], "alice@example.com"},
		{"a result is of the same type", result.TypeUID, 600507},
		{"and leads to the intent", result.Metadata.Correlation, of.String()},
		{"and says how it ended", []any{result.StatusID, result.StatusCode, *result.Duration}, []any{failure, "23503", int64(4)}},
		{"a refusal", []int{denied.ActivityID, *denied.ActionID, *denied.DispositionID, denied.StatusID, denied.SeverityID}, []int{other, 2, 2, failure, low}},
		{"of what", denied.ActivityName, "postgres:grant"},
		{"and why", denied.StatusDetail, "no rule allows it"},
		{"its uid", denied.Metadata.UID, refused.String()},
		{"the head can be proven", []byte(intent.RawData), l.records[1].HeadBytes},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

// What is in memory doesn't grow with the log.
func TestMemoryIsBounded(t *testing.T) {
	l := &log{}
	for range mostRemembered + 10 {
		sess := l.add(evidence.Head{Type: evidence.SessionStart}, evidence.SessionStartBody{Protocol: "http"})
		l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess}, evidence.IntentBody{Text: strings.Repeat("x", 4<<10)})
	}
	m := New("o", "v", l.lookup)
	for _, r := range l.records {
		if _, err := m.Append(t.Context(), nil, r); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.sessions) > mostRemembered || len(m.commands) > mostRemembered {
		t.Errorf("%d sessions and %d commands are remembered", len(m.sessions), len(m.commands))
	}
}

func BenchmarkAppend(b *testing.B) {
	l := &log{}
	sess := l.add(evidence.Head{Type: evidence.SessionStart, Agent: "reporter", Resource: "orders"}, evidence.SessionStartBody{Protocol: "postgres", Client: "192.0.2.7:5000"})
	of := l.add(evidence.Head{Type: evidence.CommandIntent, Session: sess, Agent: "reporter", Resource: "orders", Verb: evidence.VerbRead, Effect: evidence.Allow, Bytes: 80}, evidence.IntentBody{
		Path: "extended", Parse: evidence.ParseFull, Text: "SELECT abalance FROM pgbench_accounts WHERE aid = $1", Checks: []evidence.Check{{Action: "postgres:select", Object: "public.pgbench_accounts"}},
		Decision: evidence.Decision{Effect: evidence.Allow, Rules: []string{"reader.0"}, Grants: []string{"gw1.1.4"}, Policy: strings.Repeat("a", 64)},
	})
	l.add(evidence.Head{Type: evidence.CommandResult, Session: sess, Of: of, Outcome: evidence.OK, Rows: 1, Reply: 88, Micros: 543}, nil)
	m := New("example.com/gw1", "1.2.3", l.lookup)
	var line []byte
	n := 0
	for b.Loop() {
		for _, r := range l.records[1:] {
			var err error
			if line, err = m.Append(context.Background(), line[:0], r); err != nil {
				b.Fatal(err)
			}
			n += len(line)
		}
	}
	b.SetBytes(int64(n / b.N))
	b.ReportMetric(float64(2*b.N)/b.Elapsed().Seconds(), "events/s")
}
