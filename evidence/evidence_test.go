package evidence_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

var update = flag.Bool("update", false, "rewrite testdata")

// vectors is testdata/vectors.json: what any implementation of
// docs/spec/record.md must reproduce.
type vectors struct {
	Heads []struct {
		Head evidence.Head `json:"-"`
		Text string        `json:"text"`
		Hash evidence.Hash `json:"hash"`
	} `json:"heads"`
	Refused     []string `json:"refused_heads"`
	Derivations []struct {
		Secret string `json:"secret"` // hex
		Label  string `json:"label"`
		Value  string `json:"value"` // hex
	} `json:"derivations"`
	Commitments []struct {
		Secret     string        `json:"secret"`
		N          uint64        `json:"n"`
		Body       string        `json:"body"`
		Sealed     string        `json:"sealed"`
		BodySalt   string        `json:"body_salt"` // hex
		BodyHash   evidence.Hash `json:"body_hash"`
		SealedSalt string        `json:"sealed_salt"`
		SealedHash evidence.Hash `json:"sealed_hash"`
		Commitment evidence.Hash `json:"commitment"`
	} `json:"commitments"`
}

func pos(boot, seq uint64) evidence.Position {
	return evidence.Position{Gateway: "gw1", Boot: boot, Seq: seq}
}

func sampleHeads() []evidence.Head {
	return []evidence.Head{
		{Pos: pos(1, 0), Type: evidence.GatewayStart, Time: 0, N: 1},
		{Pos: pos(3, 118), Type: evidence.CommandIntent, Time: 1795401578123456, Session: pos(3, 100), N: 4,
			Agent: "billing-bot", Resource: "orders", Verb: evidence.VerbRead, Effect: evidence.Allow,
			Frames: 5, Bytes: 120, Commitment: evidence.Hash{1, 2, 3}, HasBody: true, HasSealed: true},
		{Pos: pos(3, 119), Type: evidence.CommandResult, Time: 1795401578123999, Session: pos(3, 100), N: 5,
			Of: pos(3, 118), Outcome: evidence.OK, Rows: 1, Reply: 88, Micros: 543},
		{Pos: pos(3, 120), Type: evidence.Authn, Time: 1795401578124000, N: 9, Outcome: evidence.Denied, Code: "28P01",
			Commitment: evidence.Hash{9}, HasSealed: true},
		{Pos: evidence.Position{Gateway: "g", Boot: 1<<53 - 1, Seq: 1<<53 - 1}, Type: evidence.SessionStart, Time: 1<<53 - 1,
			Session: pos(1, 1), N: 1, Key: 12, Agent: "spiffe://example.com/agent/a+b", Commitment: evidence.Hash{255}, HasBody: true},
	}
}

var refused = []string{
	``,
	`{}`,
	`{"v":2,"pos":"gw1.1.0","type":"heartbeat","t":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1} `,
	`{"v":1, "pos":"gw1.1.0","type":"heartbeat","t":1}`,
	`{"v":1,"pos":"gw1.01.0","type":"heartbeat","t":1}`,
	`{"v":1,"pos":"GW1.1.0","type":"heartbeat","t":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heart\u0062eat","t":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"","t":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":01}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":-1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1.5}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":9007199254740992}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"n":0}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"n":1,"n":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"rows":1,"bytes":1}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"agent":""}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"agent":"a b"}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"other":"x"}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"cb":"AQ"}`,
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1,"cb":"AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"}`, // stray bits
	`{"v":1,"pos":"gw1.1.0","type":"heartbeat","t":1`,
}

func TestVectors(t *testing.T) {
	const name = "testdata/vectors.json"
	got := makeVectors()
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var want vectors
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for i := range got.Heads {
		got.Heads[i].Head = evidence.Head{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the vectors are no longer reproduced:\n got %+v\nwant %+v", got, want)
	}
}

func makeVectors() (v vectors) {
	for _, h := range sampleHeads() {
		b := evidence.AppendHead(nil, &h)
		v.Heads = append(v.Heads, struct {
			Head evidence.Head `json:"-"`
			Text string        `json:"text"`
			Hash evidence.Hash `json:"hash"`
		}{h, string(b), evidence.RecordHash(b)})
	}
	v.Refused = refused
	var secret evidence.Secret
	for i := range secret {
		secret[i] = byte(i)
	}
	for _, label := range []string{evidence.LabelBody, evidence.LabelSealed, evidence.LabelDigest, evidence.LabelEncrypt} {
		d := secret.Derive(label)
		v.Derivations = append(v.Derivations, struct {
			Secret string `json:"secret"`
			Label  string `json:"label"`
			Value  string `json:"value"`
		}{hex.EncodeToString(secret[:]), label, hex.EncodeToString(d[:])})
	}
	bodies, sealed := evidence.NewSalts(secret.Derive(evidence.LabelBody)), evidence.NewSalts(secret.Derive(evidence.LabelSealed))
	for n, parts := range [][2]string{{`{"a":1}`, ``}, {`{"a":1}`, `{"raw":"c2VsZWN0"}`}, {``, `{"detail":"x"}`}} {
		n := uint64(n + 1)
		bs, ss := bodies.Salt(n), sealed.Salt(n)
		var bh, sh evidence.Hash
		if parts[0] != "" {
			bh = evidence.BodyHash(bs, []byte(parts[0]))
		}
		if parts[1] != "" {
			sh = evidence.SealedHash(ss, []byte(parts[1]))
		}
		v.Commitments = append(v.Commitments, struct {
			Secret     string        `json:"secret"`
			N          uint64        `json:"n"`
			Body       string        `json:"body"`
			Sealed     string        `json:"sealed"`
			BodySalt   string        `json:"body_salt"`
			BodyHash   evidence.Hash `json:"body_hash"`
			SealedSalt string        `json:"sealed_salt"`
			SealedHash evidence.Hash `json:"sealed_hash"`
			Commitment evidence.Hash `json:"commitment"`
		}{hex.EncodeToString(secret[:]), n, parts[0], parts[1], hex.EncodeToString(bs[:]), bh,
			hex.EncodeToString(ss[:]), sh, evidence.Commit(bh, sh)})
	}
	return v
}

func TestAHeadHasOneEncoding(t *testing.T) {
	for _, h := range sampleHeads() {
		b := evidence.AppendHead(nil, &h)
		if !json.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
		if err := h.Check(); err != nil {
			t.Errorf("Check(%s): %v", b, err)
		}
		got, err := evidence.ParseHead(string(b))
		if err != nil {
			t.Errorf("ParseHead(%s): %v", b, err)
		} else if got != h {
			t.Errorf("%s\n got %+v\nwant %+v", b, got, h)
		}
	}
	for _, s := range refused {
		if h, err := evidence.ParseHead(s); !errors.Is(err, evidence.ErrHead) {
			t.Errorf("ParseHead(%q) = %+v, %v, want ErrHead", s, h, err)
		}
	}
}

func FuzzParseHead(f *testing.F) {
	for _, h := range sampleHeads() {
		f.Add(string(evidence.AppendHead(nil, &h)))
	}
	for _, s := range refused {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := evidence.ParseHead(s)
		if err != nil {
			return
		}
		if again := string(evidence.AppendHead(nil, &h)); again != s {
			t.Errorf("two encodings of one head:\n%s\n%s", s, again)
		}
		if err := h.Check(); err != nil {
			t.Errorf("parsed %s, but Check says %v", s, err)
		}
	})
}

func TestCheckRefusesWhatAHeadCannotHold(t *testing.T) {
	good := sampleHeads()[1]
	for name, bad := range map[string]func(*evidence.Head){
		"quote in agent":   func(h *evidence.Head) { h.Agent = `a"b` },
		"escape in code":   func(h *evidence.Head) { h.Code = "\x1b[31m" },
		"long resource":    func(h *evidence.Head) { h.Resource = strings.Repeat("a", 129) },
		"no type":          func(h *evidence.Head) { h.Type = "" },
		"number over 2^53": func(h *evidence.Head) { h.Bytes = 1 << 53 },
		"time before 1970": func(h *evidence.Head) { h.Time = -1 },
		"gateway missing":  func(h *evidence.Head) { h.Pos = evidence.Position{} },
	} {
		h := good
		bad(&h)
		if err := h.Check(); !errors.Is(err, evidence.ErrHead) {
			t.Errorf("%s: Check = %v, want ErrHead", name, err)
		}
	}
}

func TestARecordShowsItsPartsOrNothing(t *testing.T) {
	var secret evidence.Secret
	bodies, sealed := evidence.NewSalts(secret.Derive(evidence.LabelBody)), evidence.NewSalts(secret.Derive(evidence.LabelSealed))
	body, raw := []byte(`{"text":"SELECT ?"}`), []byte(`{"raw":"eA"}`)
	r := evidence.Record{
		Head:       evidence.Head{Pos: pos(1, 5), N: 5, HasBody: true, HasSealed: true},
		Body:       body,
		SealedHash: evidence.SealedHash(sealed.Salt(5), raw),
	}
	r.Head.Commitment = evidence.Commit(evidence.BodyHash(bodies.Salt(5), body), r.SealedHash)

	if err := r.CheckBody(bodies); err != nil {
		t.Errorf("its own body: %v", err)
	}
	if err := r.CheckSealed(sealed.Salt(5), raw); err != nil {
		t.Errorf("its own sealed part: %v", err)
	}
	altered := r
	altered.Body = []byte(`{"text":"DELETE ?"}`)
	if err := altered.CheckBody(bodies); !errors.Is(err, evidence.ErrCommitment) {
		t.Errorf("an altered body: %v", err)
	}
	stripped := r
	stripped.SealedHash = evidence.Hash{}
	if err := stripped.CheckBody(bodies); !errors.Is(err, evidence.ErrCommitment) {
		t.Errorf("a body without its sealed hash: %v", err)
	}
	if err := r.CheckSealed(sealed.Salt(6), raw); !errors.Is(err, evidence.ErrCommitment) {
		t.Errorf("another record's salt: %v", err)
	}
}

func TestABodyReadsOneWayOnly(t *testing.T) {
	b := evidence.EncodeBody(evidence.GrantBody{Agent: "a", Role: "reader", Resource: "r<&>", Expires: 5})
	if strings.Contains(string(b), `\u003c`) {
		t.Errorf("HTML escapes in %s", b)
	}
	var g evidence.GrantBody
	if err := evidence.DecodeBody(b, &g); err != nil || g.Resource != "r<&>" {
		t.Errorf("DecodeBody = %+v, %v", g, err)
	}
	for _, bad := range []string{
		`{"agent":"a","agent":"b"}`,
		`{"agent":"a","Agent":"b"}`,
		`{"agent":"a","by":{"via":"x","via":"y"}}`,
		`{"agent":"a","unknown":1}`,
		`{"expires":1.5}`,
		`{"agent":"a"}{}`,
		`{"agent":"a"`,
		strings.Repeat(`{"by":`, 40) + `1` + strings.Repeat(`}`, 40),
	} {
		if err := evidence.DecodeBody([]byte(bad), &g); !errors.Is(err, evidence.ErrBody) {
			t.Errorf("DecodeBody(%.60s) = %v, want ErrBody", bad, err)
		}
	}
}

func TestTheFastEncodingOfASealedCommandIsTheSlowOne(t *testing.T) {
	for _, c := range []evidence.Command{
		{Raw: []byte("select 'a\x00b'")},
		{Params: [][]byte{nil, {}, []byte("12"), {0xff, 0xfe}}},
		{Raw: []byte("x"), Params: [][]byte{[]byte("y")}, Name: "s\"1\u2028<"},
		{Params: [][]byte{[]byte("y")}, Encoding: []byte{0, 1, 0, 1}, Name: "s"},
		{Encoding: []byte{0, 1, 0, 1}},
		{Name: "only"},
	} {
		want := evidence.EncodeBody(evidence.IntentSealed{Raw: c.Raw, Params: c.Params, Encoding: c.Encoding, Name: c.Name})
		if got := evidence.AppendIntentSealed([]byte("x"), &c); string(got) != "x"+string(want) {
			t.Errorf("got %s, want %s", got[1:], want)
		}
	}
	if got := evidence.AppendIntentSealed(nil, &evidence.Command{}); got != nil {
		t.Errorf("nothing to seal gave %s", got)
	}
}

func TestAppendResultBody(t *testing.T) {
	for _, r := range []evidence.ResultBody{{}, {Streamed: 7}, {Digest: "AbC-_1"}, {Streamed: 1 << 63, Digest: "AbC-_1"}} {
		want := evidence.EncodeBody(r)
		if got := evidence.AppendResultBody([]byte("x"), r.Streamed, []byte(r.Digest)); string(got) != "x"+string(want) {
			t.Errorf("got %s, want %s", got[1:], want)
		}
	}
}

// What is too large to keep is left out whole, and its digest tells it from
// everything else that could have been asked.
func TestWhatIsTooLargeIsKeptAsADigest(t *testing.T) {
	digester := evidence.NewDigester(&evidence.Secret{1})
	large := bytes.Repeat([]byte("x"), evidence.MaxSealed)
	seen := map[string]string{}
	for name, c := range map[string]struct {
		command evidence.Command
		want    string // parts left out, with count and bytes
		raw     bool   // kept
	}{
		"a large value":        {evidence.Command{Raw: []byte("select $1"), Params: [][]byte{large}}, "params 1 4194304", true},
		"split otherwise":      {evidence.Command{Raw: []byte("select $1"), Params: [][]byte{large[:9], large[9:]}}, "params 2 4194304", true},
		"with a NULL":          {evidence.Command{Raw: []byte("select $1"), Params: [][]byte{large, nil}}, "params 2 4194304", true},
		"with an empty string": {evidence.Command{Raw: []byte("select $1"), Params: [][]byte{large, {}}}, "params 2 4194304", true},
		"a large text":         {evidence.Command{Raw: append(large, 'y')}, "raw 0 4194305", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := evidence.LeaveOut(&c.command, digester)
			got := ""
			for _, l := range s.Left {
				got += fmt.Sprintf("%s %d %d", l.Part, l.Count, l.Bytes)
				if other, ok := seen[l.Digest]; ok {
					t.Errorf("the digest is that of %s", other)
				}
				seen[l.Digest] = name
			}
			if got != c.want || len(s.Params) > 0 || (s.Raw != nil) != c.raw {
				t.Errorf("left out %q, want %q; kept %d bytes of text and %d values", got, c.want, len(s.Raw), len(s.Params))
			}
			if b := evidence.EncodeBody(s); len(b) > 1024 {
				t.Errorf("the sealed part has %d bytes", len(b))
			}
		})
	}
	a, b := evidence.LeaveOut(&evidence.Command{Params: [][]byte{large}}, digester), evidence.LeaveOut(&evidence.Command{Params: [][]byte{large}}, evidence.NewDigester(&evidence.Secret{2}))
	if a.Left[0].Digest == b.Left[0].Digest {
		t.Error("two scopes give one digest: a guess at the value can be confirmed without the key")
	}
}

func TestFactsKeepTheirTypes(t *testing.T) {
	in := evidence.IntentBody{Facts: evidence.Facts{"bounded": true, "statements": int64(2), "path": "simple", "functions": []string{"a", "b"}}}
	var out evidence.IntentBody
	if err := evidence.DecodeBody(evidence.EncodeBody(in), &out); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in.Facts, out.Facts) {
		t.Errorf("got %#v, want %#v", out.Facts, in.Facts)
	}
	for _, bad := range []string{`{"facts":{"x":{}}}`, `{"facts":{"x":[1]}}`, `{"facts":{"x":null}}`} {
		if err := evidence.DecodeBody([]byte(bad), &out); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func BenchmarkAppendHead(b *testing.B) {
	h := sampleHeads()[1]
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = evidence.AppendHead(buf[:0], &h)
	}
}

func BenchmarkParseHead(b *testing.B) {
	h := sampleHeads()[1]
	s := string(evidence.AppendHead(nil, &h))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := evidence.ParseHead(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	var secret evidence.Secret
	bodies, sealed := evidence.NewSalts(secret.Derive(evidence.LabelBody)), evidence.NewSalts(secret.Derive(evidence.LabelSealed))
	body, raw := []byte(strings.Repeat("b", 200)), []byte(strings.Repeat("s", 60))
	b.ReportAllocs()
	for b.Loop() {
		evidence.Commit(evidence.BodyHash(bodies.Salt(1), body), evidence.SealedHash(sealed.Salt(1), raw))
	}
}
