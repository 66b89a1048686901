package http

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func service(t *testing.T) Resource {
	t.Helper()
	o, err := ParseRoutes([]string{"GET /invoices?limit", "GET /invoices/{id}", "POST /invoices", "DELETE /invoices/{id}"})
	if err != nil {
		t.Fatal(err)
	}
	r := Resource{Operations: o}
	r.Resource = "billing"
	return r
}

// spell writes a shape as a line.
func spell(s *evidence.Shape) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %q", s.Path, s.Parse, s.Verb, s.Text)
	for _, c := range s.Checks {
		fmt.Fprintf(&b, " %s[%s]", c.Action, c.Object)
	}
	names := make([]string, 0, len(s.Facts))
	for k := range s.Facts {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		fmt.Fprintf(&b, " %s=%v", k, s.Facts[k])
	}
	return b.String()
}

func TestHowRequestsAreUnderstood(t *testing.T) {
	res := service(t)
	for text, want := range map[string]string{
		"GET /invoices":                     `http full read "GET /invoices" http:get[/invoices] method=GET route=/invoices`,
		"GET /invoices?limit=3&secret=x":    `http full read "GET /invoices?*&limit" http:get[/invoices] method=GET query=[* limit] route=/invoices`,
		"GET /invoices/7f3a":                `http full read "GET /invoices/{id}" http:get[/invoices/{id}] method=GET route=/invoices/{id}`,
		`POST /invoices {"amount":7}`:       `http full write "POST /invoices" http:post[/invoices] content_type=application/json method=POST route=/invoices`,
		"DELETE /invoices/7":                `http full write "DELETE /invoices/{id}" http:delete[/invoices/{id}] method=DELETE route=/invoices/{id}`,
		"GET /elsewhere/secret":             `http opaque opaque "" http:get[] http:opaque[] method=GET`,
		"BREW /invoices":                    `http opaque opaque "" http:other[] http:opaque[] method=other`,
		"GRPC /shop.v1.Orders/Place":        `grpc full write "shop.v1.Orders/Place" http:grpc[shop.v1.Orders/Place] method=POST`,
		"GRPC /grpc.health.v1.Health/Check": `grpc full read "grpc.health.v1.Health/Check" http:grpc_info[grpc.health.v1.Health/Check] method=POST`,
		"GRPC /a/b/c":                       `http opaque opaque "" http:post[] http:opaque[] method=POST`,
	} {
		s, err := Understand(res, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := spell(s); got != want {
			t.Errorf("%s\nis   %s\nwant %s", text, got, want)
		}
	}
}

func TestEqualRequestsShareAShape(t *testing.T) {
	res := service(t)
	var c shapes
	one := c.of(&res, &asked{method: "GET", path: "/invoices/1"})
	if two := c.of(&res, &asked{method: "GET", path: "/invoices/2"}); one != two {
		t.Error("two requests that differ in a parameter have two shapes")
	}
	if ws := c.of(&res, &asked{method: "GET", path: "/invoices/1", upgrade: true}); ws == one || ws.Verb != evidence.VerbOpaque {
		t.Errorf("a WebSocket is %s", spell(ws))
	}
	for i := range 2 * maxShapes {
		c.of(&res, &asked{method: "GET", path: "/invoices/1", stripped: fmt.Sprint(i)})
	}
	if len(c.m) > maxShapes {
		t.Errorf("%d shapes are kept", len(c.m))
	}
}

func TestValuesThatPolicySees(t *testing.T) {
	res := service(t)
	res.Match = []string{"/amount", "/customer/id", "/tags", "/lines/0", "/a~1b"}
	for content, want := range map[string]string{
		`{"amount":7,"customer":{"id":"c1"},"secret":"x"}`:  `/amount=7 /customer/id=c1`,
		`{"amount":7.50,"tags":["a","b"],"lines":[true]}`:   `/amount=7.50 /lines/0=true /tags=[a b]`,
		`{"a/b":1,"amount":null}`:                           `/a~1b=1`,
		`{"amount":1,"amount":2}`:                           "opaque", // readers differ in which one counts
		`{"amount":1,"Amount":2}`:                           "opaque",
		`{"amount":{"value":7}}`:                            "opaque",
		`{"tags":[1,2]}`:                                    "opaque",
		`{"amount":1} {}`:                                   "opaque",
		`{"amount":1`:                                       "opaque",
		strings.Repeat("[", 100) + strings.Repeat("]", 100): "opaque",
	} {
		s := new(shapes).of(&res, &asked{method: "POST", path: "/invoices", media: "application/json", content: []byte(content), length: int64(len(content))})
		got := "opaque"
		if s.Parse != evidence.ParseOpaque {
			var facts []string
			for k, v := range s.Facts {
				if k[0] == '/' {
					facts = append(facts, fmt.Sprintf("%s=%v", k, v))
				}
			}
			slices.Sort(facts)
			got = strings.Join(facts, " ")
		}
		if got != want {
			t.Errorf("%.80s\nis   %s\nwant %s", content, got, want)
		}
	}
	for name, a := range map[string]asked{
		"another type": {media: "text/plain", content: []byte(`{"amount":1}`), length: 12},
		"too large":    {media: "application/json", length: 1 << 20},
		"streamed":     {media: "application/json", length: -1},
	} {
		a.method, a.path = "POST", "/invoices"
		if s := new(shapes).of(&res, &a); s.Parse != evidence.ParseOpaque {
			t.Errorf("%s: %s", name, spell(s))
		}
	}
}
