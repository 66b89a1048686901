package packtest

import (
	"fmt"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Hostile is what an agent, or whoever writes for one, may put where a person
// will look: what a spreadsheet, a browser, a terminal or an eye would obey.
var Hostile = []string{
	`=HYPERLINK("http://example.com","total")`, `=1+1`, `+1+1`, `-1+1`, `@SUM(1,1)`, "\t=1+1", "\r=1+1", " =1+1", `'=1+1`, `"=1+1"`, "=cmd|' /C calc'!A0",
	`{=1+1}`, "x;=1+1", "x,=1+1", "x\n=1+1", `1e9`, `0012`, `2027-01-15`, `TRUE`, `#REF!`, "_x003D_1+1", "_x0007_", "_X202e_", "__x0041_",
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</td></table><h1>Certified</h1>`, `&lt;b&gt;`, `<!--`, `]]>`, `javascript:alert(1)`, `</style><style>*{display:none}`,
	"\x1b[2Jgone", "\x1b]0;title\a", "\x9b31m", "a\x08b", "line\r\nFAKE", "admin\u202eresu\u202c", "\u2066a\u2069", "pay\u200bpal", "\ufeffx", "a\u00a0b", "x\u2028y", "v\ufe0f", "\u3164", "\u00ad",
	"naïve Ωmega Жук", "名前", "עברית", "🙂", `back\slash`, "'quoted'", `"quoted"`, "a,b;c|d", "trailing ", "  ", "\xff\xfe",
}

// Liar is a log in which an agent says nothing but Hostile wherever it has a say,
// and so do people.
func Liar() *Gateway {
	g := New()
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	for i, text := range Hostile {
		g.Now += 4 * Second // slower than what asks for an alert
		by := Alice
		by.Person.Name = text
		g.Own(evidence.AgentCreate, evidence.AgentBody{Agent: fmt.Sprintf("bot-%d", i), Name: text, Purpose: text, Model: text, Team: text, Owner: by.Person, By: by})
		object := strings.ToValidUTF8(text, "?") // as objects are, or there is no decision
		s.Do(text, "postgres:select", object)
		s.Do(text+" DROP", "postgres:drop", object)
	}
	s.Close()
	g.Stop()
	return g
}
