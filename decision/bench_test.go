package decision

import (
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// organisation has n rules: five guardrails, and the rest permits of as many
// roles, of which billing-bot holds two.
func organisation(t testing.TB, n int) *book {
	b := newBook(t)
	b.resources("orders-db", "hr-db")
	var text strings.Builder
	for i := range 5 {
		fmt.Fprintf(&text, "@id(\"guard-%d\") forbid (principal, action in Action::\"write\", resource) when { context has bounded && !context.bounded };\n", i)
	}
	for i := range n - 5 {
		fmt.Fprintf(&text, "@id(\"rule-%d\") permit (principal in Role::\"role-%d\", action in Action::\"read\", resource) when { resource has schema && resource.schema == \"public\" };\n", i, i)
	}
	b.policy(text.String())
	b.agent("billing-bot")
	b.grant("billing-bot", "role-0", "orders-db", noon+hour)
	b.grant("billing-bot", "role-1", "orders-db", noon+hour)
	return b
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("%d rules", n), func(b *testing.B) {
			r := organisation(b, n).r
			q := ask("billing-bot", "orders-db", "postgres:select", "public.orders")
			q.Session = evidence.Facts{"ticket": "T-1", "principal": "self", "principal_type": "self", "protocol": "postgres", "tls": true}
			q.Command = evidence.Facts{"path": "simple", "parse": "full", "statements": int64(1), "bounded": true}
			b.ReportAllocs()
			for b.Loop() {
				if d := r.Decide(q); d.Effect != evidence.Allow {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

func BenchmarkApplyGrant(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d agents", n), func(b *testing.B) {
			k := shop(b)
			for i := range n {
				k.agent(fmt.Sprintf("agent-%d", i))
			}
			i := 0
			for b.Loop() {
				k.grant(fmt.Sprintf("agent-%d", i%n), "reader", "orders-db", noon+hour)
				i++
			}
		})
	}
}

func BenchmarkCompile1000(b *testing.B) {
	body, _ := organisation(b, 1000).r.Bundle()
	for b.Loop() {
		if _, err := Compile(body.Files, body.Actions); err != nil {
			b.Fatal(err)
		}
	}
}
