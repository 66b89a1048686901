package evidence

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What plainJSON takes checkTokens takes, whatever it is.
func TestPlainJSONTakesNothingElse(t *testing.T) {
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(rapid.Custom(jsonText).Draw(t, "json"))
		if rapid.Bool().Draw(t, "damage") && len(b) > 0 {
			at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			b[at] = rapid.SampledFrom([]byte(`"\{}[]:,0.e-a A`+"\x80\xc3\x00")).Draw(t, "byte")
		}
		if plainJSON(b) {
			taken++
			if err := checkTokens(b); err != nil {
				t.Fatalf("%s is taken: %v", b, err)
			}
		}
	})
	if taken == 0 {
		t.Error("it takes nothing")
	}
}

func FuzzPlainJSON(f *testing.F) {
	for _, s := range []string{`{"a":1,"A":2}`, `{"a":{"b":[1,-2,{"c":"\"}"}]},"b":"{"}`, `{"a":1}x`, `[9223372036854775807]`, `{"\u0061":1,"a":2}`, `"x`, `-`, `1e3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if plainJSON(b) {
			if err := checkTokens(b); err != nil {
				t.Errorf("%q is taken: %v", b, err)
			}
		}
	})
}

// jsonText draws JSON, some of it not what bodies may be.
func jsonText(t *rapid.T) string {
	var value func(depth int) string
	value = func(depth int) string {
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth > 20 {
			kind = 0
		}
		switch kind {
		case 0, 1:
			return rapid.SampledFrom([]string{"1", "-7", "0", "1.5", "1e3", "999999999999999999", "9223372036854775807", "92233720368547758070", "true", "null", `"x"`, `"\\\""`, `"}{"`, `"é"`}).Draw(t, "scalar")
		case 2, 3, 4:
			var members []string
			for range rapid.IntRange(0, 5).Draw(t, "members") {
				key := rapid.SampledFrom([]string{"a", "A", "b", "ab", "aB", `\u0061`, "é", "K", "k", ""}).Draw(t, "key")
				members = append(members, `"`+key+`":`+value(depth+1))
			}
			return "{" + strings.Join(members, ",") + "}"
		default:
			var items []string
			for range rapid.IntRange(0, 4).Draw(t, "items") {
				items = append(items, value(depth+1))
			}
			return "[" + strings.Join(items, rapid.SampledFrom([]string{",", " , "}).Draw(t, "comma")) + "]"
		}
	}
	return value(0)
}

// The bodies that a gateway writes are plain.
func TestUsualBodiesArePlain(t *testing.T) {
	for _, b := range [][]byte{
		EncodeBody(GrantBody{Agent: "bot", Role: "reader", Resource: "orders", Expires: 1_800_000_000_000_000, By: By{Person: Person{ID: "alice@example.com"}, Via: "unix peer uid 1000"}}),
		EncodeBody(IntentBody{Path: "simple", Text: "select \"x\" from t where n = ?", Checks: []Check{{"postgres:select", "public.t"}}, Facts: Facts{"bounded": true, "n": int64(-3)}}),
	} {
		if !json.Valid(b) || !plainJSON(b) {
			t.Errorf("%s is not plain", b)
		}
	}
}
