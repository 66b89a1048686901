package packtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Cluster is a log whose agent may read a cluster, the resource prod, whose own
// parts may ask it directly. Its log leaves events out.
func Cluster() (*Gateway, *Session) {
	g := New()
	g.Boot()
	g.Organise("billing-bot", "reader")
	g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-cluster", Before: g.Registry.Config(), Text: "cluster\n", By: Alice,
		Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres", Durability: "power"}, {Name: "prod", Protocol: "kubernetes", Durability: "power",
			Direct:  []evidence.Direct{{Group: "system:nodes", From: "192.0.2.0/24", Reason: "kubelets"}, {User: "system:apiserver", Reason: "the API server itself"}},
			Cluster: &evidence.Cluster{Account: "exhibit", Prefix: "exhibit:", Groups: []string{"exhibit:agents"}, Unlogged: []evidence.Unlogged{{Resource: "events", Reason: "too many"}}}}}})
	g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: "billing-bot", Role: "reader", Resource: "prod", Ticket: "OPS-2", Expires: g.Now + 8*Hour, By: Alice})
	g.Now += 10 * Second
	return g, g.Open("billing-bot", "prod")
}

// Get asks a cluster for an object and returns what its audit log says of that.
func (s *Session) Get(resource, name string) evidence.RequestRow {
	g := s.g
	facts := evidence.Facts{"verb": "get", "resource": resource, "namespace": "shop", "name": name, "version": "v1"}
	row := evidence.RequestRow{User: "exhibit", As: "exhibit:" + s.Agent, AsGroups: []string{"exhibit:agents", "system:authenticated"}, From: "198.51.100.1",
		Verb: "get", Resource: resource, Namespace: "shop", Name: name, Code: 200, At: g.Now + Millisecond}
	checks := []evidence.Check{{Action: "postgres:select", Object: row.Object()}}
	d := g.Registry.Decide(decision.Request{Agent: s.Agent, Resource: s.Resource, Time: g.Now, Checks: checks, Session: s.facts, Command: facts, Path: "http"})
	s.commands++
	s.bytes += 120
	at := s.Record(&evidence.Draft{
		Head: evidence.Head{Type: evidence.CommandIntent, Agent: s.Agent, Resource: s.Resource, Verb: evidence.VerbRead, Effect: d.Effect, Frames: 1, Bytes: 120, Time: g.Now},
		Body: evidence.EncodeBody(evidence.IntentBody{Path: "http", Parse: evidence.ParseFull, Text: "get " + row.Object(), Checks: checks, Facts: facts, Decision: d}), Sealed: []byte(asked),
	})
	row.ID = at.String()
	s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Of: at, Outcome: evidence.OK, Code: "200", Reply: 88, Micros: 543}})
	return row
}

// Kubelet is what an audit log says of a node.
func (g *Gateway) Kubelet() evidence.RequestRow {
	return evidence.RequestRow{User: "system:node:n1", Groups: []string{"system:nodes"}, From: "192.0.2.20", At: g.Now, Until: g.Now + Second, N: 7}
}

// Direct is what it says of somebody who asks by themselves.
func (g *Gateway) Direct(user, from string) evidence.RequestRow {
	return evidence.RequestRow{ID: "6f0e", User: user, From: from, Verb: "delete", Resource: "pods", Namespace: "shop", Name: "web", Code: 200, At: g.Now}
}

// Audit records the audit log of prod since a time, with what its requests were
// found to be. What the run says Edit may change.
func (g *Gateway) Audit(from int64, rows []evidence.RequestRow, edit func(*evidence.ReconBody)) evidence.Position {
	if rows == nil {
		rows = []evidence.RequestRow{}
	}
	n := 0
	for i := range rows {
		n += rows[i].Count()
	}
	data := evidence.EncodeBody(rows)
	sum := sha256.Sum256(data)
	b := evidence.ImportBody{Kind: evidence.ImportRequests, Source: "test", Query: "all of it", Rows: n, Digest: hex.EncodeToString(sum[:]), Data: json.RawMessage(data)}
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: "prod"}, Body: evidence.EncodeBody(b)}
	g.trail.Reads(&b)
	w := workpaper.Window{From: from, To: g.Now}
	g.Record(g.own, d)
	r, _ := g.Registry.Resource("prod")
	run := g.trail.Run(g.requests, g.pos.Gateway, &r, w)
	body := run.Body(w)
	if edit != nil {
		edit(&body)
	}
	return g.OwnRecord(&evidence.Draft{Head: evidence.Head{Type: evidence.ReconRun, Resource: "prod", Of: d.Head.Pos}, Body: evidence.EncodeBody(body)})
}
