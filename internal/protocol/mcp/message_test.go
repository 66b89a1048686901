package mcp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMessagesThatAreTaken(t *testing.T) {
	for raw, want := range map[string]string{
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`:                        "request n1 ping",
		` {"id":"a","method":"tools/call","jsonrpc":"2.0","params":{}} `:  "request sa tools/call",
		`{"jsonrpc":"2.0","id":-7,"method":"x","_note":1}`:                "request n-7 x",
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`:          "notification n notifications/initialized",
		`{"jsonrpc":"2.0","id":"1","result":{}}`:                          "response s1 ",
		`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}`:   "response n ",
		`{"jsonrpc":"2.0","id":"\u0061","method":"p\u0069ng"}`:            "request sa ping",
		`{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":{"A":[{}]}}}`: "request n1 x",
	} {
		m, err := parse([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		kind := map[bool]string{m.isRequest(): "request", m.isNotification(): "notification", m.isResponse(): "response"}[true]
		if got := kind + " " + idKey(m.id) + " " + m.method; got != want {
			t.Errorf("%s is %q, want %q", raw, got, want)
		}
	}
}

func TestMessagesThatAreRefused(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for raw, want := range map[string]error{
		``:  errNotJSON,
		`{`: errNotJSON,
		`{"jsonrpc":"2.0","id":1,"method":"a"}{}`:                                    errNotJSON,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}":                         errNotJSON,
		`[{"jsonrpc":"2.0","id":1,"method":"a"}]`:                                    errMessage,
		`{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}`:                         errTwice,
		`{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}`:                    errTwice,
		`{"jsonrpc":"2.0","id":1,"method":"a","params":{"arguments":{"x":1,"x":2}}}`: errTwice,
		`{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}`:                         errFolded,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"param\u017f\":{}}":         errFolded, // a long s
		`{"jsonrpc":"2.0","id":1.5,"method":"a"}`:                                    errID,
		`{"jsonrpc":"2.0","id":1e2,"method":"a"}`:                                    errID,
		`{"jsonrpc":"2.0","id":[1],"method":"a"}`:                                    errID,
		`{"jsonrpc":"2.0","id":true,"method":"a"}`:                                   errID,
		`{"jsonrpc":"2.0","id":null,"method":"a"}`:                                   errID,
		`{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 300) + `","method":"a"}`:     errID,
		`{"jsonrpc":"1.0","id":1,"method":"a"}`:                                      errMessage,
		`{"id":1,"method":"a"}`:                                                      errMessage,
		`{"jsonrpc":"2.0","id":1}`:                                                   errMessage,
		`{"jsonrpc":"2.0","id":1,"method":7}`:                                        errMessage,
		`{"jsonrpc":"2.0","id":1,"method":"a","result":{}}`:                          errMessage,
		`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`:                            errMessage,
		`{"jsonrpc":"2.0","id":1,"method":"a","params":7}`:                           errMessage,
		`{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":` + deep + `}}`:          errNested,
		`7`: errMessage,
	} {
		if m, err := parse([]byte(raw)); !errors.Is(err, want) {
			t.Errorf("%s is %+v, %v; want %v", raw, m, err, want)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1,"\"]",{}]}}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"a"},{"name":"b"}],"nextCursor":"c"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			return
		}
		for _, part := range [][]byte{m.params, m.result, m.fail} {
			if part != nil && strict(part) != nil {
				t.Errorf("%q has the part %q", raw, part)
			}
		}
		list, span, _, err := entriesOf("tools/list", m.result)
		if err != nil || span == nil {
			return
		}
		for _, keep := range []bool{true, false} {
			if out := cut(m.raw, span, list, func(*entry) bool { return keep }); strict(out) != nil || keep && !bytes.Equal(out, raw) {
				t.Errorf("%q becomes %q", raw, out)
			}
		}
	})
}

func TestOwnToolsOfAnEndpointSayWhichMemberTheyAreAbout(t *testing.T) {
	for def, want := range map[string]string{
		`{"name":"a","inputSchema":{"type":"object","properties":{"x":{}},"required":["x"]},"outputSchema":{}}`: `{"name":"exhibit__a","inputSchema":{"required":["x","member"],"type":"object","properties":{"member":M,"x":{}}}}`,
		`{"name":"b","annotations":{"readOnlyHint":true},"inputSchema":{"type":"object"}}`:                      `{"name":"exhibit__b","annotations":{"readOnlyHint":true},"inputSchema":{"properties":{"member":E},"type":"object"}}`,
	} {
		d := ownDefinition{raw: []byte(def), readOnly: strings.Contains(def, "readOnlyHint")}
		var got, wanted any
		m := `{"type":"string","enum":["left","right"],"description":"which part of this endpoint it is about`
		want = strings.NewReplacer(`:M`, ":"+m+`"}`, `:E`, ":"+m+`; without it, each"}`).Replace(want)
		if json.Unmarshal(d.listed([]string{"left", "right"}), &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil || !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s is listed as %s\nwant %s", def, d.listed([]string{"left", "right"}), want)
		}
	}
}

// Whatever a member says, what becomes of it is one value that all readers read
// alike, and nothing in it is another member's.
func FuzzLabels(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"resource_link","uri":"x"},{"type":"resource","resource":{"uri":"y"}},{"Type":"resource","type":"tool_result","content":[[]]}],"contents":[{"uri":1}],"Messages":[],"messages":[{"content":{}}],"inputRequests":{"a":{"method":"elicitation/create","params":{"message":"m","elicitationId":null}}}}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"","data":{"elicitations":[{"elicitationId":"a"},7]}}}`,
		`{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"_meta":{"progressToken":1.5},"messages":[{"content":[{"type":"resource"}]}]}}`,
		`{"jsonrpc":"2.0","id":7,"method":"roots/list"}`, `{"jsonrpc":"2.0","id":7,"method":"roots/list","params":[]}`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{}}`, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"URI":"left+a","uri":"b"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			return
		}
		l := label("right")
		var out []byte
		switch {
		case m.isResponse():
			out = l.answer(m.raw)
			for key := range map[string]bool{"tools": true, "resources": true, "resourceTemplates": true} {
				list, _ := l.listed(key, m.result)
				for _, one := range list {
					if strict(one) != nil {
						t.Errorf("%q lists %q", raw, one)
					}
				}
			}
		case m.isRequest():
			out = l.asked(m)
			if n, err := parseID(out, maxTagged); err != nil {
				t.Errorf("%q becomes %q: %v", raw, out, err)
			} else if whose, own, ok := whoseID(n.id); !ok || whose != l || idKey(own) != idKey(m.id) {
				t.Errorf("the id of %q becomes %q, which is %s of %s", raw, n.id, own, whose)
			}
		default:
			if out = l.said(m); out == nil {
				return
			}
		}
		if strict(out) != nil {
			t.Errorf("%q becomes %q", raw, out)
		}
	})
}

func TestStreamsOfEvents(t *testing.T) {
	for stream, want := range map[string]string{
		"data: a\n\n":                                 "[data: a||]",
		"data:a\r\n\r\ndata: b\r\n\r\n":               "[data: a||][data: b||]",
		"id: 7\nretry: 10\ndata: a\ndata: b\n\n":      "[id: 7|retry: 10|data: a|data: b||]",
		"id: 7\ndata:\n\n":                            "[id: 7|data: ||]",
		": still here\n\ndata: a\n\n":                 "[:||][data: a||]",
		"event: message\ndata: a\n\n":                 "[data: a||]",
		"event: endpoint\ndata: /evil\n\ndata: a\n\n": "[data: a||]",
		"Data: a\nx: y\n\n":                           "[:||]",
		"data: a\n":                                   "unexpected EOF",
		"data: a":                                     "unexpected EOF",
		"data: a\rdata: b\n\n":                        errStream.Error(), // some readers end lines there
		"\uFEFFdata: a\n\n":                           errStream.Error(), // some readers skip it
		"id: a\x00\n\n":                               errStream.Error(),
		"retry: x\n\n":                                errStream.Error(),
		"data: " + strings.Repeat("x", 200) + "\n\n":  errTooLarge.Error(),
	} {
		s := &events{br: bufio.NewReaderSize(strings.NewReader(stream), 16), limit: 100}
		got := ""
		for {
			e, err := s.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				got += err.Error()
				break
			}
			got += "[" + strings.ReplaceAll(string(e.append(nil)), "\n", "|") + "]"
		}
		if got != want {
			t.Errorf("%q is %q, want %q", stream, got, want)
		}
	}
}

func TestResourcesAreNamedByWhatTheServerLists(t *testing.T) {
	c := newConversation("")
	c.learned("resources/list", []entry{{name: "file:///a"}}, true)
	c.learned("resources/templates/list", []entry{{name: "note://{id}"}, {name: "note://{id}/text"}, {name: "tree:{+path}"}, {name: "x://{a}{b"}, {name: "db://t/{n}?q={q}"}}, true)
	for uri, want := range map[string]string{
		"file:///a": "file:///a", "file:///b": "?", "note://7": "note://{id}", "note://7/text": "note://{id}/text", "note://7/8/text": "?", "note://": "?",
		"tree:a/b": "tree:{+path}", "note://{id}": "note://{id}", "x://1": "?", "db://t/7?q=x": "db://t/{n}?q={q}", "db://t/7": "?",
		"note://" + strings.Repeat("a", 10<<10): "?",
	} {
		if got := c.resource(uri); got != want {
			t.Errorf("%.40s is %s, want %s", uri, got, want)
		}
	}
}

func TestDigestsAreOfWhatAModelIsShown(t *testing.T) {
	one := toolOf([]byte(`{"name":"a","description":"d","inputSchema":{"type":"object","b":1.0,"a":[]}}`))
	for def, same := range map[string]bool{
		`{ "inputSchema":{"a":[],"b":1.0,"type":"object"}, "description":"\u0064","name":"a","_meta":{"x":1},"icons":[] }`: true,
		`{"name":"a","description":"D","inputSchema":{"type":"object","b":1.0,"a":[]}}`:                                    false,
		`{"name":"a","description":"d","inputSchema":{"type":"object","b":1,"a":[]}}`:                                      false,
		`{"name":"a","title":"t","description":"d","inputSchema":{"type":"object","b":1.0,"a":[]}}`:                        false,
		`{"name":"a","description":"d","inputSchema":{"type":"object","b":1.0,"a":[]},"annotations":{}}`:                   false,
	} {
		if two := toolOf([]byte(def)); (two.Digest == one.Digest) != same || two.unfit != "" {
			t.Errorf("%s: %+v", def, two)
		}
	}
	for _, name := range []string{"", "a b", "a\u202eb", "re\u0430d", "\uff41", "a\u200b", "a\x00", "a\u0301", strings.Repeat("a", 129)} {
		def := append(append([]byte(`{"inputSchema":{},"name":`), encode(name)...), '}')
		if tool := toolOf(def); tool.unfit != heldName || tool.Digest != "" {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// MaxConversations is for tests from outside.
const MaxConversations = maxConversations

// Room for another session is made by the one that was used least of late, and
// never by one that is in use.
func TestTheSessionUsedLeastMakesRoom(t *testing.T) {
	p, now := newPart(), time.Now()
	for i := range maxConversations {
		c := newConversation(strconv.Itoa(i))
		if c.used = now.Add(-time.Duration(i) * time.Millisecond); i == 7 {
			c.used = now.Add(-time.Hour)
		}
		if i == 8 { // it waits for an answer
			c.used, c.inFlight["1"] = now.Add(-2*time.Hour), newCall(nil)
		}
		if err := p.add(c); err != nil {
			t.Fatal(err)
		}
	}
	if !p.room() || p.find("7") != nil || len(p.of) != maxConversations-1 {
		t.Error("the one of an hour ago makes no room")
	}
	if err := p.add(newConversation("new")); err != nil {
		t.Fatal(err)
	}
	if p.room() || p.find("8") == nil || len(p.of) != maxConversations {
		t.Error("one that is in use makes room")
	}
}

// The same of sessions at an endpoint: of one agent's, and no other's.
func TestTheEndpointsSessionUsedLeastMakesRoom(t *testing.T) {
	c, e, now := &joints{}, &Endpoint{}, time.Now()
	add := func(id string, credential byte, used time.Time, running int) bool {
		j := newJoint(jointKey{credential: [32]byte{credential}, id: id}, e)
		j.used, j.running = used, running
		return c.put(j, time.Hour)
	}
	add("of another", 2, now.Add(-30*time.Minute), 0)
	add("running", 1, now.Add(-50*time.Minute), 1)
	for i := range maxConversations - 2 {
		add(strconv.Itoa(i), 1, now, 0)
	}
	add("idle", 1, now.Add(-time.Minute), 0)
	if !add("new", 1, now, 0) || c.m[jointKey{credential: [32]byte{1}, id: "idle"}] != nil {
		t.Error("the idle one makes no room")
	}
	if add("newer", 1, now, 0) || len(c.m) != maxConversations+1 {
		t.Error("one that is in use makes room")
	}
}
