package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

func compiled(t testing.TB, text string) *decision.Policy {
	t.Helper()
	p, err := decision.Compile([]evidence.File{{Name: "roles.cedar", Text: text}}, packtest.Actions)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// replay gives every record of a synthetic log to f.
func replay(t testing.TB, g *packtest.Gateway, f func(*evidence.Record) error) {
	t.Helper()
	if err := g.Records(f); err != nil {
		t.Fatal(err)
	}
}

func TestABacktestFindsWhatABundleWouldChange(t *testing.T) {
	g := packtest.Day()
	// Readers see nothing any more; writers may drop.
	b := NewBacktest(compiled(t, `@id("connects") permit (principal in Role::"reader", action in Action::"connect", resource);
@id("writer") permit (principal in Role::"writer", action, resource);`), decision.New())
	replay(t, g, b.Record)
	if b.commands != 38 || b.differ != 5 {
		t.Errorf("%d commands, %d differ", b.commands, b.differ)
	}
	agents := b.Agents()
	if len(agents) != 1 || agents[0].Agent != "billing-bot" || agents[0].Refused != 5 || agents[0].Allowed != 0 {
		t.Fatalf("%+v", agents)
	}
	for _, e := range agents[0].Examples {
		if e.Was != evidence.Allow || e.Would != evidence.Deny || e.Reason == "" || e.Text == "" {
			t.Errorf("%+v", e)
		}
	}
	if len(agents[0].Examples) != 3 { // SELECT ?, SELECT pg_sleep(?) and a connection
		t.Errorf("%d examples", len(agents[0].Examples))
	}
}

// The bundle that was in force changes nothing, whatever was refused.
func TestABacktestOfWhatWasInForce(t *testing.T) {
	b := NewBacktest(compiled(t, packtest.Policy), decision.New())
	replay(t, packtest.Day(), b.Record)
	if b.differ != 0 || b.commands == 0 {
		t.Errorf("%d of %d differ: %+v", b.differ, b.commands, b.Agents())
	}
}

func TestABacktestOfTheLastPart(t *testing.T) {
	g := packtest.Day()
	var starts []evidence.Record
	registry := decision.New()
	from := packtest.Noon + 100*packtest.Second
	asked := 0
	var b *Backtest
	replay(t, g, func(r *evidence.Record) error {
		if r.Head.Time < from {
			if next, err := registry.Apply(r.Head, r.Body); err == nil {
				registry = next
			}
			if r.Head.Type == evidence.SessionStart {
				starts = append(starts, *r)
			}
			return nil
		}
		if b == nil {
			b = NewBacktest(compiled(t, `@id("none") permit (principal in Role::"reader", action in Action::"connect", resource);`), registry)
			b.From = from
			b.Start = func(p evidence.Position) (*evidence.Record, error) {
				asked++
				for i := range starts {
					if starts[i].Head.Pos == p {
						return &starts[i], nil
					}
				}
				return nil, nil
			}
		}
		return b.Record(r)
	})
	// The session that began before is looked up once.
	if asked != 1 || b.commands != 35 {
		t.Errorf("%d looked up, %d commands", asked, b.commands)
	}
	if agents := b.Agents(); len(agents) != 2 || agents[0].Agent != "report-bot" || agents[1].Refused != 3 {
		t.Errorf("%+v", agents)
	}
}

// Decisions that look at the clock are made again each hour.
func TestABacktestOnTheClock(t *testing.T) {
	g, s := packtest.Shop()
	for range 4 {
		s.Do("SELECT ?", "postgres:select", "public.orders")
		g.Now += packtest.Hour
	}
	b := NewBacktest(compiled(t, fmt.Sprintf(`@id("hours") permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource) when { context.time.hour < %d };
@id("writer") permit (principal in Role::"writer", action, resource) when { context.time.hour < %[1]d };`, time.UnixMicro(packtest.Noon).UTC().Hour()+2)), decision.New())
	replay(t, g, b.Record)
	if b.differ != 2 {
		t.Errorf("%d of %d differ", b.differ, b.commands)
	}
}
