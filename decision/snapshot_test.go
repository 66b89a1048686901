package decision

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// entry is a control record of a history.
type entry struct {
	head evidence.Head
	body []byte
}

// history is a random one of an organisation where rights need two people. What
// the registry refuses is no part of it, as it would be on record nowhere.
func history(t *rapid.T) (entries []entry) {
	r := New()
	now := noon
	try := func(typ evidence.Type, body any) {
		h := evidence.Head{Type: typ, Time: now, Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(len(entries))}}
		e := entry{h, evidence.EncodeBody(body)}
		next, err := r.Apply(e.head, e.body)
		if err == nil {
			r, entries = next, append(entries, e)
		}
	}
	one := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	config := func() {
		b := configBody(r, "orders", "stock")
		b.Digest = fmt.Sprint("config-", len(entries))
		b.Separation = one("separation", evidence.SeparationRequired, evidence.SeparationReported)
		b.People = []evidence.Member{{ID: "alice@example.com"}, {ID: "bob", Groups: []string{"dba"}}, {ID: "carol"}}
		try(evidence.ConfigChange, b)
	}
	config()
	try(evidence.PolicyChange, policyBody(r, obliged))
	for range rapid.IntRange(5, 60).Draw(t, "records") {
		now += rapid.Int64Range(0, hour).Draw(t, "later")
		agent := one("agent", "a1", "a2")
		scope := evidence.GrantScope{Agent: agent, Role: one("role", "reader", "writer"), Resource: one("resource", "orders", "stock"),
			Expires: now + rapid.SampledFrom([]int64{1, hour, 10 * hour}).Draw(t, "expires")}
		switch one("what", "agent", "retire", "ask", "ask", "say", "say", "grant", "grant", "remove", "propose", "activate", "back", "config", "hold", "snapshot", "leave", "leave", "return", "own") {
		case "agent":
			try(evidence.AgentCreate, agentBody(agent))
		case "leave":
			try(evidence.PersonLeave, evidence.LeaveBody{Person: one("gone", "alice@example.com", "bob", "carol"), Left: now - hour, By: evidence.By{Via: "import"}})
		case "return":
			try(evidence.PersonReturn, evidence.LeaveBody{Person: one("back", "alice@example.com", "bob", "carol"), By: evidence.By{Via: "import"}})
		case "own":
			try(evidence.OwnerChange, evidence.OwnerBody{Agent: agent, Owner: evidence.Person{ID: one("owner", "alice@example.com", "bob")},
				Backup: evidence.Person{ID: one("backup", "", "carol")}, Reason: "moved", By: alice})
		case "retire":
			try(evidence.AgentDisable, evidence.DisableBody{Agent: agent, Reason: "over", By: alice})
		case "ask":
			b := grantRequest(scope, "")
			b.Expires = now + 20*hour
			try(evidence.ApprovalRequest, b)
		case "hold":
			try(evidence.ApprovalRequest, evidence.ApprovalRequestBody{Kind: evidence.ApproveCommand, Digest: "keyed", Expires: now + hour, By: alice,
				Needs: []evidence.ApprovalNeed{{Group: "dba", Count: 1}}, Command: &evidence.HeldCommand{Agent: agent, Resource: "orders", Verb: "write"}})
		case "say":
			for _, a := range r.Approvals() {
				who := one("who", "bob", "carol", "alice@example.com")
				try(evidence.ApprovalDecision, evidence.ApprovalDecisionBody{Request: a.ID, Digest: a.Digest, By: by(who),
					Decision: one("says", evidence.Approved, evidence.Approved, evidence.Refused, evidence.Withdrawn), Groups: r.Groups(&a.ApprovalRequestBody, who)})
			}
		case "grant":
			try(evidence.GrantCreate, evidence.GrantBody{Agent: scope.Agent, Role: scope.Role, Resource: scope.Resource, Expires: scope.Expires, By: alice})
			for _, a := range r.Approvals() {
				if a.Grant != nil {
					try(evidence.GrantCreate, a.GrantOf(by("bob")))
				}
			}
		case "remove":
			for _, g := range r.Grants() {
				if rapid.Bool().Draw(t, "this") {
					try(evidence.GrantRemove, evidence.RevokeBody{ID: g.ID, Reason: "over", By: alice})
				}
			}
		case "propose":
			files := testFiles(one("policy", readers, writers, obliged))
			try(evidence.ApprovalRequest, evidence.ApprovalRequestBody{Kind: evidence.ApprovePolicy, Digest: Digest(files, testActions), Expires: now + 9*hour, By: alice,
				Needs:  []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}},
				Policy: &evidence.Proposal{Before: r.Policy(), Files: files, Actions: testActions}})
		case "activate":
			for _, a := range r.Approvals() {
				if a.Policy != nil {
					try(evidence.PolicyChange, evidence.PolicyBody{Digest: a.Digest, Before: r.Policy(), Files: a.Policy.Files, Actions: a.Policy.Actions, Request: a.ID, By: alice})
				}
			}
		case "back":
			b := policyBody(r, one("policy", readers, writers, obliged))
			if at, was := r.InForce(b.Digest); was {
				b.Back = at.String()
			}
			try(evidence.PolicyChange, b)
		case "config":
			config()
		case "snapshot":
			for _, part := range r.Snapshot() {
				try(evidence.StateSnapshot, part)
			}
		}
	}
	return entries
}

func same(t *rapid.T, what string, a, b *Registry, now int64) {
	t.Helper()
	x, y := a.Snapshot(), b.Snapshot()
	if len(x) != len(y) {
		t.Fatalf("%s: %d parts, and %d", what, len(x), len(y))
	}
	for i := range x {
		if !bytes.Equal(evidence.EncodeBody(x[i]), evidence.EncodeBody(y[i])) {
			t.Fatalf("%s: part %d\n%s\n%s", what, i+1, x[i].Data, y[i].Data)
		}
	}
	for _, agent := range []string{"a1", "a2"} {
		if r, ok := a.Agent(agent); ok && r.Disabled.IsZero() && r.Suspended.IsZero() && a.abandoned(r.Owner, r.Backup) {
			t.Fatalf("%s: %s goes on though %s left", what, agent, r.Owner.ID)
		}
		for _, resource := range []string{"orders", "stock"} {
			for _, action := range []string{"postgres:select", "postgres:delete", "postgres:insert"} {
				q := Request{Agent: agent, Resource: resource, Time: now, Checks: []evidence.Check{{Action: action, Object: "public.t"}}}
				da, db := a.Decide(q), b.Decide(q)
				if !bytes.Equal(evidence.EncodeBody(da), evidence.EncodeBody(db)) || da.Until != db.Until {
					t.Fatalf("%s: %+v is decided\n%+v\n%+v", what, q, da, db)
				}
			}
		}
	}
}

// Whatever happened: a registry is the same folded record by record, in place,
// from a snapshot anywhere within, or from its own snapshot.
func TestASnapshotIsWhatTheRecordsFoldTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := history(t)
		cut := rapid.IntRange(0, len(entries)).Draw(t, "cut")
		plain, fold := New(), NewFold(nil)
		var rest *Fold
		for i, e := range entries {
			if i == cut {
				from, err := Restore(plain.Snapshot())
				if err != nil {
					t.Fatal(err)
				}
				rest = NewFold(from)
			}
			next, err := plain.Apply(e.head, e.body)
			if err != nil {
				t.Fatal(err)
			}
			plain = next
			if err := fold.Apply(e.head, e.body); err != nil {
				t.Fatal(err)
			}
			if rest != nil {
				if err := rest.Apply(e.head, e.body); err != nil {
					t.Fatal(err)
				}
			}
		}
		now := entries[len(entries)-1].head.Time
		same(t, "in place", plain, fold.Registry(), now)
		if rest != nil {
			same(t, "from a snapshot", plain, rest.Registry(), now)
		}
		own, err := Restore(plain.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		same(t, "from its own snapshot", plain, own, now)
	})
}

func TestASnapshotThatIsNotTheStateIsRefused(t *testing.T) {
	b := obligedBook(t)
	parts := b.r.Snapshot()
	if err := b.try(evidence.StateSnapshot, parts[0]); err != nil {
		t.Fatal(err)
	}
	b.agent("other")
	for _, p := range parts {
		if err := b.try(evidence.StateSnapshot, p); err == nil {
			t.Errorf("part %d of an older state is taken", p.Part)
		}
	}
	forged := parts[1]
	forged.Data = bytes.Replace(forged.Data, []byte("bot"), []byte("bob"), 1)
	if _, err := Restore(append(append([]evidence.SnapshotBody{parts[0]}, forged), parts[2:]...)); err == nil {
		t.Error("a snapshot with a changed part is restored")
	}
	if _, err := Restore(parts[:len(parts)-1]); err == nil {
		t.Error("a snapshot without its last part is restored")
	}
}

// company is the history of 10,000 agents with ten grants each.
func company(tb testing.TB) (entries []entry) {
	tb.Helper()
	r := New()
	add := func(typ evidence.Type, agent string, body any) {
		entries = append(entries, entry{evidence.Head{Type: typ, Time: noon, Agent: agent, Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(len(entries))}}, evidence.EncodeBody(body)})
	}
	names := make([]string, 20)
	for i := range names {
		names[i] = fmt.Sprintf("db-%d", i)
	}
	add(evidence.ConfigChange, "", configBody(r, names...))
	add(evidence.PolicyChange, "", policyBody(r, obliged))
	for i := range 10_000 {
		id := fmt.Sprintf("agent-%d", i)
		add(evidence.AgentCreate, id, agentBody(id))
		for j := range 10 {
			add(evidence.GrantCreate, id, evidence.GrantBody{Agent: id, Role: "reader", Resource: names[(i+j)%len(names)], Ticket: "OPS-1", Reason: "to be measured", Expires: noon + hour, By: alice})
		}
	}
	return entries
}

func BenchmarkCompany(b *testing.B) {
	entries := company(b)
	f := NewFold(nil)
	start := time.Now()
	for _, e := range entries {
		if err := f.Apply(e.head, e.body); err != nil {
			b.Fatal(err)
		}
	}
	r := f.Registry()
	b.Logf("folding %d records: %v", len(entries), time.Since(start))
	b.Run("decide", func(b *testing.B) {
		q := Request{Agent: "agent-77", Resource: "db-0", Time: noon, Checks: []evidence.Check{{Action: "postgres:select", Object: "public.t"}}}
		q.Resource = "db-17"
		for b.Loop() {
			if d := r.Decide(q); d.Effect != evidence.Allow {
				b.Fatal(d)
			}
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, p := range r.Snapshot() {
				n += len(p.Data)
			}
			b.SetBytes(int64(n))
		}
	})
	parts := r.Snapshot()
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if _, err := Restore(parts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("grant", func(b *testing.B) {
		body := evidence.EncodeBody(evidence.GrantBody{Agent: "agent-77", Role: "reader", Resource: "db-0", Expires: noon + hour, By: alice})
		for b.Loop() {
			if _, err := r.Apply(evidence.Head{Type: evidence.GrantCreate, Time: noon, Pos: evidence.Position{Gateway: "gw1", Boot: 2}}, body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
