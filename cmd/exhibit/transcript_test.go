package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
)

var update = flag.Bool("update", false, "rewrite golden files")

// course is the transcript of one session that has had everything. Hostile,
// its texts are what a terminal would obey.
func course(hostileTexts bool) []api.Entry {
	text := func(s string) string {
		if hostileTexts {
			return hostile
		}
		return s
	}
	at := func(seq, millis int, e api.Entry) api.Entry {
		e.Position = evidence.Position{Gateway: "gw1", Boot: 3, Seq: uint64(seq)}.String()
		e.Session, e.Agent, e.Resource = "gw1.3.118", "reporter", "orders"
		e.Time = noon.Add(time.Duration(millis) * time.Millisecond)
		return e
	}
	did := func(outcome, verb, path, s string, micros uint64, change ...func(*api.Command)) api.Entry {
		c := &api.Command{Verb: verb, Path: path, Parse: evidence.ParseFull, Text: text(s), Decision: evidence.Allow, Outcome: outcome, Micros: micros}
		for _, f := range change {
			f(c)
		}
		return api.Entry{Command: c}
	}
	rows := func(n uint64) func(*api.Command) { return func(c *api.Command) { c.Rows = n } }
	check := func(action string) func(*api.Command) {
		return func(c *api.Command) { c.Checks = []evidence.Check{{Action: action}} }
	}
	return []api.Entry{
		at(118, 0, api.Entry{Start: &evidence.SessionStartBody{
			Owner: evidence.Person{ID: alice.ID, Name: text(alice.Name)}, Principal: text("bob@example.com"), PType: "human", Ticket: text("OPS-1"),
			Client: "127.0.0.1:51234", Listener: "agents", TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256",
			Upstream: "db.example.com:5432", User: "exhibit", Database: "orders",
			Decision: evidence.Decision{Effect: evidence.Allow, Rules: []string{"reader"}, Grants: []string{"gw1.1.20"}},
		}}),
		at(119, 4, api.Entry{Upstream: &evidence.SessionUpstreamBody{
			Local: "10.0.0.7:40022", Remote: "10.0.0.9:5432", Server: text("15.20"), System: "7412", PID: 4711, TLS: "TLS 1.3",
		}}),
		at(120, 5, api.Entry{Note: &evidence.NoteBody{Kind: "setup", Origin: "gateway", Detail: text("SELECT current_user")}}),
		at(121, 123, did("ok", "session", "simple", "BEGIN", 412, check("postgres:begin"))),
		at(123, 130, did("ok", "write", "extended", "INSERT INTO public.orders (customer, placed, total, note, region) VALUES ($1, $2, $3, $4, $5) RETURNING id", 1234, rows(1))),
		at(125, 140, did("error", "write", "execute", "UPDATE public.orders SET total = $1 WHERE id = $2", 900, func(c *api.Command) { c.Code = "40001" })),
		at(127, 151, did("ok", "session", "simple", "ROLLBACK", 300)),
		at(129, 152, api.Entry{Transaction: &api.Transaction{Result: "rollback", Block: true, First: "gw1.3.121", Last: "gw1.3.127", Commands: 4}}),
		at(130, 2000, did("denied", "admin", "simple", "DROP TABLE public.orders", 80, func(c *api.Command) {
			c.Decision, c.Rules, c.Reason = evidence.Deny, []string{"no-drops"}, text("no rule lets postgres:drop on public.orders; roles here: reader")
		})),
		at(131, 3000, did("ok", "read", "simple", "COPY public.orders TO STDOUT", 61_000_000, rows(250_000), func(c *api.Command) { c.Streamed = 12_345_678 })),
		at(133, 64_100, api.Entry{Note: &evidence.NoteBody{Kind: "sync", Origin: "agent"}}),
		at(134, 65_000, did("cancelled", "read", "simple", "SELECT pg_sleep(?)", 9_500_000)),
		at(136, 75_000, api.Entry{Note: &evidence.NoteBody{Kind: "cancel", Origin: "agent", Detail: "from 127.0.0.1:51300"}}),
		at(137, 43_200_000, did("in_doubt", "opaque", "simple", "", 0, func(c *api.Command) { c.Parse = evidence.ParseOpaque })),
		at(138, 43_200_400, api.Entry{Alert: &evidence.AlertBody{
			Rule: "grammar-killed", Severity: "medium", Trigger: evidence.Position{Gateway: "gw1", Boot: 3, Seq: 137}, Text: text("a statement ended the process that parses"),
		}}),
		at(139, 43_201_000, api.Entry{End: &evidence.SessionEndBody{Reason: text("upstream closed"), Commands: 8, Denied: 1}}),
		at(177, 43_260_000, api.Entry{Resolution: &api.Resolution{Of: "gw1.3.137", Result: "rolled_back", How: text("its connection is gone")}}),
	}
}

// another is the same of another session.
func another(entries []api.Entry) []api.Entry {
	for i := range entries {
		entries[i].Session = "gw1.3.218"
	}
	return entries
}

func printed(t *testing.T, a app, whole, live bool, entries []api.Entry) string {
	t.Helper()
	var b bytes.Buffer
	p := &printer{a: &a, w: &b, whole: whole, live: live}
	for i := range entries {
		if err := p.entry(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var terminal = app{terminal: true, unicode: true, width: 100}

func TestTranscripts(t *testing.T) {
	narrow := terminal
	narrow.width = 60
	for name, got := range map[string]string{
		"terminal": printed(t, terminal, true, false, course(false)),
		"narrow":   printed(t, narrow, true, false, course(false)),
		"file":     printed(t, app{}, true, false, course(false)),
		"several":  printed(t, terminal, false, false, append(course(false), another(course(false))...)),
		"followed": printed(t, terminal, true, true, course(false)),
		"hostile":  printed(t, terminal, true, false, course(true)),
	} {
		file := filepath.Join("testdata", "transcript", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: review it and run go test -update ./cmd/exhibit\n%s", file, got)
		}
	}
}

func TestLongStatementsAreCutOnATerminalOnly(t *testing.T) {
	entries := append(course(false)[:1], api.Entry{
		Position: "gw1.3.120", Session: "gw1.3.118", Time: noon,
		Command: &api.Command{Outcome: "ok", Text: strings.Repeat("SELECT ? UNION ", 100) + "ALL"},
	})
	if got := printed(t, terminal, true, false, entries); !strings.Contains(got, "lines more: --full") || strings.Contains(got, "ALL") {
		t.Errorf("on a terminal:\n%s", got)
	}
	if got := printed(t, app{}, true, false, entries); strings.Contains(got, "more") || !strings.Contains(got, "ALL") {
		t.Errorf("in a file:\n%s", got)
	}
	var b bytes.Buffer
	a := terminal
	p := &printer{a: &a, w: &b, whole: true, full: true}
	for i := range entries {
		if err := p.entry(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.close(); err != nil || strings.Contains(b.String(), "more") || !strings.Contains(b.String(), "ALL") {
		t.Errorf("all of it: %v\n%s", err, b.String())
	}
}

// COMMIT AND CHAIN ends a block and begins the next.
func TestABlockMayBeginWhereOneEnds(t *testing.T) {
	entries := course(false)[:1]
	add := func(seq uint64, e api.Entry) {
		e.Position, e.Session, e.Time = evidence.Position{Gateway: "gw1", Boot: 3, Seq: seq}.String(), entries[0].Session, entries[0].Time
		entries = append(entries, e)
	}
	did := func(text string) api.Entry { return api.Entry{Command: &api.Command{Outcome: "ok", Text: text}} }
	tx := func(result, first, last string) api.Entry {
		return api.Entry{Transaction: &api.Transaction{Result: result, Block: true, First: first, Last: last, Commands: 2}}
	}
	add(120, did("BEGIN"))
	add(122, did("COMMIT AND CHAIN"))
	add(124, tx("commit", "gw1.3.120", "gw1.3.122"))
	add(125, did("ROLLBACK"))
	add(127, tx("rollback", "gw1.3.122", "gw1.3.125"))
	add(128, did("SELECT ?"))
	var marks []string
	_, lines, _ := strings.Cut(printed(t, terminal, true, false, entries), "\n\n")
	for l := range strings.Lines(lines) {
		r, _ := utf8.DecodeRuneInString(l)
		marks = append(marks, string(r))
	}
	if got := strings.Join(marks, ""); got != "┌│├│└ " {
		t.Errorf("the margin is %q in\n%s", got, lines)
	}
}

func TestNoLineIsWiderThanTheTerminal(t *testing.T) {
	for width := 48; width <= 200; width += 7 {
		a := terminal
		a.width = width
		_, lines, _ := strings.Cut(printed(t, a, true, false, course(false)), "\n\n")
		for l := range strings.Lines(lines) {
			if n := utf8.RuneCountInString(strings.TrimRight(l, "\n")); n > width {
				t.Errorf("%d characters at a width of %d: %s", n, width, l)
			}
		}
	}
}

// Colours are the only thing that a terminal may obey, whatever a text says,
// and without them there is nothing else.
func TestTextsCantPlayWithTheTerminal(t *testing.T) {
	sgr := regexp.MustCompile("\x1b\\[[0-9]+m")
	a := terminal
	a.color = true
	for _, live := range []bool{false, true} {
		colored := printed(t, a, true, live, course(true))
		if !sgr.MatchString(colored) {
			t.Error("no colour where it was asked for")
		}
		plain := sgr.ReplaceAllString(colored, "")
		if plain != printed(t, terminal, true, live, course(true)) {
			t.Error("colours change the text")
		}
		for _, r := range plain {
			if r < ' ' && r != '\n' || r == 0x7f || r == 0x9b || r == 0x202e {
				t.Fatalf("%U reaches the terminal", r)
			}
		}
	}
	for _, r := range printed(t, app{}, true, false, course(false)) {
		if r > 0x7f {
			t.Errorf("%U in a file", r)
		}
	}
}

func TestUnicodeOnlyWhereTheLocaleHasIt(t *testing.T) {
	for _, tc := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "", false}, {"", "", "C", false}, {"", "", "de_DE.UTF-8", true}, {"C", "", "de_DE.UTF-8", false},
		{"", "C.utf8", "C", true}, {"", "", "de_DE@euro", false},
	} {
		t.Setenv("LC_ALL", tc.all)
		t.Setenv("LC_CTYPE", tc.ctype)
		t.Setenv("LANG", tc.lang)
		if got := unicodeLocale(); got != tc.want {
			t.Errorf("%+v: %t", tc, got)
		}
	}
}
