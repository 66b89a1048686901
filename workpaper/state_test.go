package workpaper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Everything that a fold holds is kept between runs, made again from what is
// kept, or of no matter to tests. A field that is new stands in one of these
// lists before it can be forgotten.
func TestEveryFieldOfAFoldIsKeptOrNot(t *testing.T) {
	kept := map[reflect.Type][]string{
		reflect.TypeFor[Fold](): {"registry", "version", "openedAt", "tests", "first", "last", "before", "lastTime", "records", "boot", "sessions", "commands",
			"doubts", "authns", "tokens", "grantUses", "hours", "approving", "alerts", "watch", "keyUses", "policies", "configs", "counts", "outside", "recon", "tickets", "upstreamConfigs"},
		reflect.TypeFor[session](): {"start", "at", "head", "body", "agent", "resource", "key", "carried", "active", "upstream", "n", "retired", "open", "transacted",
			"commands", "denied", "bytes", "checkedAt"},
		reflect.TypeFor[command]():         {"head", "carried"},
		reflect.TypeFor[bootState]():       {"start", "at", "body", "carried", "end", "last", "lastTime", "records", "silent", "longest", "jump", "from", "n", "checkedDigests"},
		reflect.TypeFor[jump]():            {"to", "at", "by"},
		reflect.TypeFor[doubt]():           {"agent", "resource", "session"},
		reflect.TypeFor[authns]():          {"young", "old"},
		reflect.TypeFor[authn]():           {"agent", "credential", "key"},
		reflect.TypeFor[token]():           {"head", "body"},
		reflect.TypeFor[tokens]():          {"byID", "due"},
		reflect.TypeFor[uses]():            {"n", "at", "last"},
		reflect.TypeFor[hours]():           {"byHour", "newest", "from"},
		reflect.TypeFor[hourCount]():       {"commands", "writes"},
		reflect.TypeFor[approving]():       {"pos", "request"},
		reflect.TypeFor[alertState]():      {"pos", "at", "rule", "heard", "cells"},
		reflect.TypeFor[watch]():           {"detector", "due", "found", "whole"},
		reflect.TypeFor[due]():             {"asked", "beats"},
		reflect.TypeFor[asked]():           {"rule", "trigger"},
		reflect.TypeFor[Detector]():        {"separated", "denials", "authn", "keys"},
		reflect.TypeFor[window]():          {"id", "n"},
		reflect.TypeFor[seen]():            {"hour", "host", "raised"},
		reflect.TypeFor[Test]():            {"ID", "Title", "State", "Of", "Population", "Failed", "Exceptions", "Note", "placed"},
		reflect.TypeFor[outside]():         {"people", "awaited", "said", "undated", "rules", "accounts"},
		reflect.TypeFor[tickets]():         {"cited", "imported", "taken", "sums"},
		reflect.TypeFor[ticket]():          {"id", "uses", "first", "last", "firstAt", "lastAt", "asked", "approved", "seen"},
		reflect.TypeFor[upstreamConfigs](): {"of", "compared", "ticketed", "unticketed", "unread", "unheld"},
		reflect.TypeFor[configSection]():   {"at", "rows", "single", "gone", "unread"},
		reflect.TypeFor[account]():         {"role", "itself", "objects", "most", "writes", "rights"},
		reflect.TypeFor[rights]():          {"account", "prefix", "groups", "of", "beyond", "loose", "others"},
		reflect.TypeFor[reconState]():      {"connections", "upstreams", "awaited", "gap", "runs", "reconSums", "asked", "requests", "trails", "requested", "unlogged"},
		reflect.TypeFor[reconSums]():       {"logged", "ofAgents", "own", "allowed", "unexplained", "missing"},
		reflect.TypeFor[Requests]():        {"all"},
		reflect.TypeFor[request]():         {"boot", "seq", "at", "end", "received", "who", "name", "what", "resource", "own", "state"},
		reflect.TypeFor[Trail]():           {"Window", "Since", "rows", "begun"},
		reflect.TypeFor[Connections]():     {"pages", "run"},
		reflect.TypeFor[connection]():      {"addr", "port", "own", "resource", "gateway", "boot", "seq", "at", "start", "pid", "run"},
		reflect.TypeFor[Upstream]():        {"Window", "counters", "since", "imported", "pending"},
		reflect.TypeFor[counts]():          {"unseparated", "opaque", "allowed", "denied", "failed"},
	}
	// Of rows and transcripts: a pack in the making keeps it beside, readiness
	// doesn't.
	rows := map[reflect.Type][]string{
		reflect.TypeFor[Fold]():        {"opening", "activity", "refusals", "upstreams", "telling", "retention", "quarterEnd", "quarters"},
		reflect.TypeFor[session]():     {"ending", "gap", "course", "skipped", "errors", "doubts", "opaque", "rows", "reply"},
		reflect.TypeFor[command]():     {"intent"},
		reflect.TypeFor[bootState]():   {"down", "reason", "gaps", "steps"},
		reflect.TypeFor[token]():       {"uses"},
		reflect.TypeFor[uses]():        {"actions"},
		reflect.TypeFor[alertState]():  {"ack"},
		reflect.TypeFor[outside]():     {"ended", "suspended"},
		reflect.TypeFor[activity]():    {"sessions", "commands", "denied", "last", "lastAllowed", "lastAllowedAt"},
		reflect.TypeFor[course]():      {"lines", "bytes", "left", "notable"},
		reflect.TypeFor[courseLine]():  {"at", "cells"},
		reflect.TypeFor[telling]():     {"held", "notable", "ordinary", "untold"},
		reflect.TypeFor[retention]():   {"segments"},
		reflect.TypeFor[segment]():     {"first", "last", "month", "from", "to", "pos", "records", "digest"},
		reflect.TypeFor[runDigest]():   {"n", "stack"},
		reflect.TypeFor[termination](): {"kind", "subject", "left", "pos", "at", "source", "owned", "stopped", "sessions", "lastEnd", "lastEndAt", "last", "lastAt", "limit"},
	}
	// Made again, or the caller's.
	not := map[reflect.Type][]string{
		reflect.TypeFor[Fold]():            {"Decided", "Told", "out", "clock", "excepted", "bodies", "alertAt", "askers", "commandRow", "told", "sessionColumns", "transcriptColumns", "commandCells"},
		reflect.TypeFor[session]():         {"asker", "connKey"},
		reflect.TypeFor[uses]():            {"newest"},
		reflect.TypeFor[Test]():            {"all"},
		reflect.TypeFor[Requests]():        {"most"},
		reflect.TypeFor[tickets]():         {"most", "bytes"},
		reflect.TypeFor[upstreamConfigs](): {"most", "bytes"},
		reflect.TypeFor[Connections]():     {"n", "names", "most"}, // made again with the pages
	}
	for typ, names := range rows {
		kept[typ] = append(kept[typ], names...)
	}
	if n := reflect.TypeFor[counts]().NumField(); n != len(new(counts).all()) {
		t.Errorf("%d control totals, %d are kept", n, len(new(counts).all()))
	}
	for typ, names := range kept {
		names = slices.Concat(names, not[typ])
		for i := range typ.NumField() {
			name := typ.Field(i).Name
			if typ == reflect.TypeFor[counts]() {
				continue // control totals, but for those that are kept
			}
			if !slices.Contains(names, name) {
				t.Errorf("%s.%s is neither kept nor said not to be: see state.go", typ.Name(), name)
			}
		}
		for _, name := range names {
			if _, ok := typ.FieldByName(name); !ok {
				t.Errorf("%s has no field %s", typ.Name(), name)
			}
		}
	}
}

// Where more connections come than are remembered the oldest make room.
func TestTheNewestConnectionsAreRemembered(t *testing.T) {
	c := NewConnections()
	c.most = 32
	var rows []evidence.ConnectionRow
	for i := range 100 {
		client := fmt.Sprintf("127.0.0.1:%d", 1024+i)
		at := int64(1_800_000_000_000_000 + i*1_000_000)
		c.Observe(&evidence.Head{Type: evidence.SessionUpstream, Resource: "orders", Time: at},
			evidence.EncodeBody(evidence.SessionUpstreamBody{Local: client, PID: uint32(i + 1)}))
		rows = append(rows, evidence.ConnectionRow{Client: client, PID: uint32(i + 1), Start: at})
	}
	if c.n > c.most || c.n < c.most/2 {
		t.Errorf("%d connections are remembered", c.n)
	}
	c.run = 1
	among := c.among(rows)
	for i := range rows {
		if found := c.find(among, &rows[i]) != nil; found != (i >= 100-c.n) {
			t.Errorf("connection %d: found %v", i, found)
		}
	}
}

// The connections of two days are held by every gateway at work.
func TestAConnectionIsRememberedIn64Bytes(t *testing.T) {
	if size := unsafe.Sizeof(connection{}); size != 64 {
		t.Errorf("a connection takes %d bytes", size)
	}
	c := NewConnections()
	at := int64(1_800_000_000_000_000)
	for i := range 3 * pageLen {
		c.add(&keptConnection{Pos: evidence.Position{Gateway: "gw", Boot: 1, Seq: uint64(i)}, At: at + int64(i), Resource: "orders", Client: "[::1]:4000", PID: uint32(i + 1)})
	}
	c.forget(at + pageLen + 7)
	if c.n != 2*pageLen-7 || len(c.pages) != 2 {
		t.Errorf("%d connections in %d pages are left", c.n, len(c.pages))
	}
	want := uint64(pageLen + 7)
	for n := range c.all {
		if got := c.kept(n); got.Pos.Seq != want || got.Client != "[::1]:4000" || got.Resource != "orders" {
			t.Fatalf("connection %d is kept as %+v", want, got)
		}
		want++
	}
	for i := range maxNames { // whoever makes up names gets no more memory
		c.add(&keptConnection{At: at + 5000, Resource: strconv.Itoa(i)})
	}
	if len(c.names.texts) > maxNames {
		t.Errorf("%d names", len(c.names.texts))
	}
}

// What is kept is written piece by piece, as encoding/json would as a whole.
func TestWhatIsKeptIsJSON(t *testing.T) {
	for _, v := range []any{
		(*keptFold)(nil), keptWhole{}, &keptRecon{Connections: []keptConnection{}},
		keptWhole{&keptFold{
			Tests: map[string]keptTest{"a": {Note: "<\u2028\"\\>"}}, Boot: &keptBoot{Last: evidence.Position{Boot: 1, Seq: 2}},
			Tokens: []keptToken{{Body: evidence.CredentialBody{ID: "x"}}, {}},
			Watch:  keptWatch{Due: []keptAsked{{Rule: "r"}, {Beats: 3}}},
		}, &keptRows{Quarters: []keptListing{{Name: "q", Rows: [][]string{nil, {"=1"}}}}, Counts: []uint64{1}}},
	} {
		var got, whole, want bytes.Buffer
		if err := writeJSON(&got, v); err != nil {
			t.Fatal(err)
		}
		e := json.NewEncoder(&whole)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&want, whole.Bytes()); err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got.Bytes()); err != nil || compact.String() != want.String() {
			t.Errorf("%v: written as\n%s\nshould be\n%s", err, &compact, &want)
		}
	}
	if err := writeJSON(failing{}, keptWhole{Rows: &keptRows{Counts: make([]uint64, 10_000)}}); err == nil {
		t.Error("a writer failed, and it was kept")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }
