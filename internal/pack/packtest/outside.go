package packtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Import records a snapshot of something outside.
func (g *Gateway) Import(kind, resource string, rows any, n int) evidence.Position {
	data := evidence.EncodeBody(rows)
	sum := sha256.Sum256(data)
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: resource}, Body: evidence.EncodeBody(evidence.ImportBody{
		Kind: kind, Source: "test", Query: "all of it", Rows: n, Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data), By: Alice,
	})}
	g.Record(g.own, d)
	return d.Head.Pos
}

// ImportPeople records an import of people with what follows from it.
func (g *Gateway) ImportPeople(people ...evidence.PersonRow) evidence.Position {
	at := g.Import(evidence.ImportPeople, "", people, len(people))
	for _, p := range people {
		typ := evidence.PersonReturn
		if p.Status == evidence.PersonLeft {
			typ = evidence.PersonLeave
		}
		if _, gone := g.Registry.Leaver(p.ID); gone == (typ == evidence.PersonLeave) {
			continue
		}
		g.Record(g.own, &evidence.Draft{Head: evidence.Head{Type: typ, Of: at}, Body: evidence.EncodeBody(evidence.LeaveBody{Person: p.ID, Left: p.Left, By: Alice})})
	}
	return at
}

// Left is Alice having left before, by seconds.
func (g *Gateway) Left(seconds int64) evidence.PersonRow {
	return evidence.PersonRow{ID: Alice.Person.ID, Status: evidence.PersonLeft, Left: g.Now - seconds*Second}
}

// Departure is a log in which who owns the agent leaves while it works: its
// session ends, it is refused, and goes on with another owner.
func Departure() *Gateway {
	g, s := Shop()
	g.ImportPeople(g.Left(3600))
	s.Close()
	g.Open("billing-bot", "orders") // refused
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.OwnerChange, Agent: "billing-bot"},
		Body: evidence.EncodeBody(evidence.OwnerBody{Agent: "billing-bot", Owner: Bob.Person, Reason: "Alice left", By: Bob})}
	g.Record(g.own, d)
	later := g.Open("billing-bot", "orders")
	later.Do("SELECT ?", "postgres:select", "public.orders")
	later.Close()
	return g
}
