package packtest

import (
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Day writes a day of a gateway: changes of rights before the period, sessions
// across both of its ends, a refusal, a crash, a retirement.
func Day() *Gateway {
	g := New()
	g.PerBlock = 8
	g.Boot()
	grant := g.Organise("billing-bot", "reader")
	g.Organise("report-bot", "writer")
	g.Cut()
	early := g.Open("billing-bot", "orders")
	early.Do("SELECT ?", "postgres:select", "public.orders")
	carried, _ := early.Ask("SELECT pg_sleep(?)", "postgres:select", "public.orders")
	g.Now = Noon + 50*Second
	g.Beat()

	g.Now = Noon + 100*Second // here the period begins
	early.End(carried, evidence.OK)
	s := g.Open("report-bot", "orders")
	for range 20 {
		s.Do("INSERT INTO public.orders VALUES (?)", "postgres:insert", "public.orders")
	}
	s.Commit(s.Block("INSERT INTO public.orders VALUES (?)", "postgres:insert", "public.orders"))
	early.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
	early.Do("SELECT ?", "postgres:select", "public.orders")
	s.Close()
	g.Own(evidence.GrantRemove, evidence.RevokeBody{ID: grant.String(), Reason: "no longer needed", By: Alice})
	early.Do("SELECT ?", "postgres:select", "public.orders")
	early.Close()
	g.Open("billing-bot", "orders") // refused: its grant is gone
	rights(g)
	lost := g.Open("report-bot", "orders")
	open, _ := lost.Ask("SELECT ?", "postgres:select", "public.orders")

	g.Now = Noon + 130*Second // killed here
	g.Boot()
	lost.Lost(open)
	lost.Resolve(open)
	g.Own(evidence.Alert, evidence.AlertBody{Rule: "grammar-killed", Severity: "medium", Trigger: open, Text: "a statement was not understood in time"})
	late := g.Open("report-bot", "orders")
	slow, _ := late.Ask("SELECT ?", "postgres:select", "public.orders")
	g.Now = Noon + 150*Second
	g.Beat()
	g.Cut()
	g.Now = Noon + 200*Second // here it ends
	late.End(slow, evidence.OK)
	late.Close()
	g.Stop()
	return g
}

// rights is how two people give an agent a role, approve one of its commands,
// and end its session; and what became of an alert.
func rights(g *Gateway) {
	g.Separate()
	clean, sample := g.Request("billing-bot", "cleaner"), g.Request("billing-bot", "sampler")
	for _, r := range []evidence.Position{clean, sample} {
		g.Approve(r, Bob)
		g.Grant(r, Bob)
	}
	s := g.Open("billing-bot", "orders")
	const text, action, object = "INSERT INTO public.orders VALUES (?)", "postgres:insert", "public.orders"
	s.Do(text, action, object) // nobody has approved it
	wanted := s.Hold(text, action, object)
	g.Approve(wanted, Bob)
	s.End(s.AskApproved(text, action, object, wanted), evidence.OK)
	s.Hold(text, action, object) // of which nobody says anything
	alert := g.Own(evidence.Alert, evidence.AlertBody{Rule: "denials", Severity: "low", Text: "many refusals"})
	g.Record(g.own, &evidence.Draft{Head: evidence.Head{Type: evidence.AlertAck, Of: alert}, Body: evidence.EncodeBody(evidence.AlertAckBody{
		Disposition: evidence.AlertExpected, Reason: "a test", By: Bob})})
	g.Own(evidence.SessionKill, evidence.KillBody{Agent: "billing-bot", Sessions: []evidence.Position{s.ID()}, Reason: "enough", By: Bob})
	s.Close()
	reads(g, wanted)
}

// reads is how evidence is looked at, exported, and opened for an auditor.
func reads(g *Gateway, record evidence.Position) {
	g.Own(evidence.EvidenceRead, evidence.ReadBody{Purpose: "question", Object: "who reached orders", Level: "L1", By: Alice})
	export := g.Own(evidence.PackExport, evidence.ReadBody{Purpose: "SOC 2", Object: "pack", Level: "L1", From: "2026-10-01T00:00:00.000000Z", To: "2027-01-01T00:00:00.000000Z", By: Alice})
	g.Record(g.own, &evidence.Draft{Head: evidence.Head{Type: evidence.PackMade, Of: export}, Body: evidence.EncodeBody(evidence.PackMadeBody{
		Manifest: "0f343b0931126a20f133d67c2b018a3b5bde7fd1ca1f9dae2e7b5d3c2f0a9c11", Level: "L1", Records: 4711, By: Alice})})
	g.Own(evidence.EvidenceRead, evidence.ReadBody{Purpose: "fieldwork", Object: "sample commands-000000000000", Level: "L2", By: Alice, Reader: "Audit LLP",
		Recipient: "age1auditor", Sample: "00", Manifest: "0f343b0931126a20f133d67c2b018a3b5bde7fd1ca1f9dae2e7b5d3c2f0a9c11", Records: []evidence.Position{record}})
}

// Shop is a small log: rights first, then one session with some commands.
func Shop() (*Gateway, *Session) {
	g := New()
	g.PerBlock = 6
	g.Boot()
	g.Organise("billing-bot", "reader")
	s := g.Open("billing-bot", "orders")
	s.Do("SELECT ?", "postgres:select", "public.orders")
	s.Do("DROP TABLE public.orders", "postgres:drop", "public.orders")
	return g, s
}

// Records calls fn for every record of the log, in order, as a pack of level L1
// has it.
func (g *Gateway) Records(fn func(*evidence.Record) error) error {
	g.Cut()
	for i := range g.headers {
		b, err := ledger.ParseBlock(g.blocks[ledger.BlockPath(uint64(i))].Data)
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		for j := range b.Records {
			if err := fn(&b.Records[j]); err != nil {
				return err
			}
		}
	}
	return nil
}
