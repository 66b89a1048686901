package packtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Import records a snapshot of something outside.
func (g *Gateway) Import(kind, resource string, rows any, n int) evidence.Position {
	data := evidence.EncodeBody(rows)
	sum := sha256.Sum256(data)
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: resource}, Body: evidence.EncodeBody(evidence.ImportBody{
		Kind: kind, Source: "test", Query: "all of it", Rows: n, Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data), By: Alice, Extracted: g.Now,
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

// ImportTickets records an import of tickets that was taken so long ago.
func (g *Gateway) ImportTickets(ago int64, tickets ...evidence.TicketRow) evidence.Position {
	data := evidence.EncodeBody(tickets)
	sum := sha256.Sum256(data)
	return g.OwnRecord(&evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot}, Body: evidence.EncodeBody(evidence.ImportBody{
		Kind: evidence.ImportTickets, Source: "test", Query: "all of it", Rows: len(tickets), Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data),
		By: Alice, Extracted: g.Now - ago,
	})})
}

// Ticketed is a log whose grants are asked for by Alice and approved by Bob for
// the ticket OPS-7, beside what stands for OPS-1; a session works on OPS-9.
func Ticketed() *Gateway {
	g := New()
	g.PerBlock = 6
	g.Boot()
	g.Organise("billing-bot", "reader")
	g.Separate()
	request := g.Request("billing-bot", "writer")
	g.Approve(request, Bob)
	g.Grant(request, Bob)
	g.Ticket = "OPS-9"
	s := g.Open("billing-bot", "orders")
	s.Do("SELECT ?", "postgres:select", "public.orders")
	s.Close()
	g.Now += Second
	return g
}

// Tickets are the three of Ticketed, in order and nothing wrong with them.
func (g *Gateway) Tickets() []evidence.TicketRow {
	list := make([]evidence.TicketRow, 3)
	for i, id := range []string{"OPS-1", "OPS-7", "OPS-9"} {
		list[i] = evidence.TicketRow{ID: id, Status: "Done", Created: g.Now - 24*Hour, Approval: evidence.TicketApproved, Approved: g.Now - 2*Hour,
			Requester: Alice.Person.ID, Digest: fmt.Sprintf("%064d", i)}
	}
	list[1].Approvers = []string{Bob.Person.ID}
	return list
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

// Logged is the line of the upstream's log about a session that was just opened.
func (g *Gateway) Logged(s *Session) evidence.ConnectionRow {
	return g.LoggedFrom(fmt.Sprintf("198.51.100.1:%d", 1024+s.scope.slot%60000), uint32(s.scope.slot))
}

// LoggedFrom is the line about one from elsewhere.
func (g *Gateway) LoggedFrom(client string, pid uint32) evidence.ConnectionRow {
	return evidence.ConnectionRow{Session: fmt.Sprintf("65a1.%x", pid), User: "app", Database: "orders", Client: client, PID: pid, Start: g.Now / Second * Second, At: g.Now}
}

// OwnConnection records a connection that the gateway made for itself, and
// returns the upstream's line about it.
func (g *Gateway) OwnConnection(pid uint32) evidence.ConnectionRow {
	local := fmt.Sprintf("198.51.100.1:%d", 61000+pid%1000)
	row := g.LoggedFrom(local, pid)
	g.Record(g.own, &evidence.Draft{Head: evidence.Head{Type: evidence.OwnUpstream, Resource: "orders"},
		Body: evidence.EncodeBody(evidence.OwnUpstreamBody{Purpose: "catalogue", Local: local, Remote: "198.51.100.9:5432", PID: pid})})
	return row
}

// Reconcile records a log of the upstream of orders, with counters unless they
// are nil, and what its sessions were found to be. What the run says Edit may
// change.
func (g *Gateway) Reconcile(from int64, rows []evidence.ConnectionRow, counters []evidence.CounterRow, edit func(*evidence.ReconBody)) evidence.Position {
	if rows == nil {
		rows = []evidence.ConnectionRow{}
	}
	to := g.Now
	take := func(kind string, of evidence.Position, list any, n int) evidence.Position {
		data := evidence.EncodeBody(list)
		sum := sha256.Sum256(data)
		b := evidence.ImportBody{Kind: kind, Source: "test", Query: "all of it", Rows: n, Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data), Extracted: g.Now}
		d := &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: "orders", Of: of}, Body: evidence.EncodeBody(b)}
		g.upstream.Reads(&d.Head, &b)
		g.Record(g.own, d)
		return d.Head.Pos
	}
	at := take(evidence.ImportConnections, evidence.Position{}, rows, len(rows))
	if counters != nil {
		take(evidence.ImportCounters, at, counters, len(counters))
	}
	resource, _ := g.Registry.Resource("orders")
	run, _ := g.upstream.Run(g.connections, resource, workpaper.Window{From: from, To: to})
	if edit != nil {
		edit(&run)
	}
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.ReconRun, Resource: "orders", Of: at}, Body: evidence.EncodeBody(run)}
	g.Record(g.own, d)
	return d.Head.Pos
}

// Counted are counters of the upstream of orders.
func Counted(sessions, reset, started int64) []evidence.CounterRow {
	return []evidence.CounterRow{{Database: "orders", Sessions: sessions, Reset: reset, Started: started}}
}

// ImportPrivileges records what the account at the upstream of orders may do.
func (g *Gateway) ImportPrivileges(role string, rows []evidence.PrivilegeRow) evidence.Position {
	data := evidence.EncodeBody(rows)
	sum := sha256.Sum256(data)
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: "orders"}, Body: evidence.EncodeBody(evidence.ImportBody{
		Kind: evidence.ImportPrivileges, Source: "test", Query: "all of it", Params: map[string]string{"role": role}, Rows: len(rows),
		Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data), By: Alice,
	})}
	g.Record(g.own, d)
	return d.Head.Pos
}

// ImportConfig records how the upstream of orders lets people in, changed under
// a ticket or none. Unread says by kind of row what couldn't be read.
func (g *Gateway) ImportConfig(ticket string, unread map[string]string, rows ...evidence.ConfigRow) evidence.Position {
	if rows == nil {
		rows = []evidence.ConfigRow{}
	}
	data := evidence.EncodeBody(rows)
	sum := sha256.Sum256(data)
	return g.OwnRecord(&evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: "orders"}, Body: evidence.EncodeBody(evidence.ImportBody{
		Kind: evidence.ImportConfig, Source: "test", Query: "all of it", Params: unread, Rows: len(rows), Digest: hex.EncodeToString(sum[:]),
		Data: json.RawMessage(data), Ticket: ticket, By: Alice,
	})})
}
