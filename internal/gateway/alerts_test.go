package gateway

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// inbox keeps the alerts that it is sent.
type inbox struct {
	mu  sync.Mutex
	got []alert.Alert
}

func (i *inbox) Send(_ context.Context, a alert.Alert) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, a)
	return nil
}

func (i *inbox) all() []alert.Alert {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]alert.Alert(nil), i.got...)
}

func TestABurstOfRefusalsRaisesAnAlertThatSomebodyAcknowledges(t *testing.T) {
	var told inbox
	w := newWorld(t, func(s *Settings) { s.Alerts = []alert.Target{{Name: "inbox", Sink: &told}} })
	c, start := w.open()
	var last evidence.Head
	// Twice as many: wherever the minute ends, one of the two has twenty.
	for range 40 {
		last = w.put(c, evidence.Head{Type: evidence.CommandIntent, Verb: evidence.VerbWrite, Effect: evidence.Deny, Outcome: evidence.Denied}, evidence.IntentBody{Text: "no"})
	}
	w.end(c, start)
	for end := time.Now().Add(20 * time.Second); len(told.all()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody was told")
		}
	}
	news := told.all()[0]
	trigger, err := evidence.ParsePosition(news.Trigger)
	if err != nil || news.Rule != workpaper.RuleDenials || news.Agent != "bot" || news.Resource != "orders" || !trigger.Before(last.Pos) {
		t.Errorf("the news is %+v", news)
	}
	ctx := t.Context()
	list, err := w.Alerts(ctx, api.Range{}, true, packtest.Alice)
	if err != nil || len(list) == 0 || list[0].ID != news.Position || list[0].Trigger != news.Trigger {
		t.Fatalf("alerts %+v, %v", list, err)
	}
	found := api.NewAcknowledgement{Disposition: evidence.AlertIncident, Incident: "INC-1", Reason: "a loop"}
	got, err := w.AcknowledgeAlert(ctx, news.Position, found, packtest.Alice)
	if err != nil || got.Acknowledged == nil || got.Acknowledged.Incident != "INC-1" || got.Acknowledged.By != packtest.Alice {
		t.Errorf("acknowledged %+v, %v", got, err)
	}
	for id, want := range map[string]string{news.Position: "conflict", "gw1.9.9": "not found", "nonsense": "invalid"} {
		if _, err := w.AcknowledgeAlert(ctx, id, found, packtest.Alice); err == nil {
			t.Errorf("%s: acknowledged, want %s", id, want)
		}
	}
	open, err := w.Alerts(ctx, api.Range{}, true, packtest.Alice)
	if err != nil || len(open) != len(list)-1 {
		t.Errorf("open alerts %+v, %v", open, err)
	}
	all, err := w.Alerts(ctx, api.Range{}, false, packtest.Alice)
	if err != nil || len(all) != len(list) || all[0].Acknowledged == nil || all[0].Acknowledged.Reason != "a loop" {
		t.Errorf("all alerts %+v, %v", all, err)
	}
	if w.count(evidence.AlertAck) != 1 {
		t.Errorf("%d acknowledgements are on record", w.count(evidence.AlertAck))
	}
}

// What asks for an alert in the last moment has it before the gateway's stop.
func TestAStopLeavesNoAlertOut(t *testing.T) {
	w := newWorld(t)
	if err := w.record(t.Context(), evidence.Process, evidence.RecordingGap, evidence.GapBody{Cause: "a test"}); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	s := *w.changed.Load()
	g, err := Open(t.Context(), s, nil, w.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.close() })
	w.Gateway = g
	if n := w.count(evidence.Alert); n != 1 {
		t.Errorf("%d alerts are on record, want 1", n)
	}
}
