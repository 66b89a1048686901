package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// watcher looks at every record as it gets its place: for causes of alerts, and
// for alerts, of which people outside are told.
type watcher struct {
	gateway string
	tell    *alert.Sender
	wake    chan struct{} // something is due
	raising sync.Mutex    // one raises at a time

	detector *workpaper.Detector // of who observes, one record after the other

	mu  sync.Mutex
	due []*workpaper.Detection
}

func newWatcher(gateway string, separated bool, tell *alert.Sender) *watcher {
	return &watcher{gateway: gateway, tell: tell, wake: make(chan struct{}, 1), detector: workpaper.NewDetector(separated)}
}

// observe is called in the order of the records, while the recorder waits.
func (w *watcher) observe(h *evidence.Head, body []byte) {
	if h.Type == evidence.Alert {
		w.news(h, body)
		return
	}
	d := w.detector.Observe(h, body)
	if d == nil {
		return
	}
	w.mu.Lock()
	w.due = append(w.due, d)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) news(h *evidence.Head, body []byte) {
	a := apiAlert(&evidence.Record{Head: *h, Body: body})
	w.tell.Tell(alert.Alert{
		Position: a.ID, Gateway: w.gateway, Time: a.Time, Rule: a.Rule, Severity: a.Severity,
		Agent: a.Agent, Resource: a.Resource, Session: a.Session, Trigger: a.Trigger, Text: workpaper.Visible(a.Text),
	})
}

func (w *watcher) take() []*workpaper.Detection {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := w.due
	w.due = nil
	return due
}

// raise records what is due. When it returns nothing is that was before.
func (g *Gateway) raise(ctx context.Context) error {
	g.watcher.raising.Lock()
	defer g.watcher.raising.Unlock()
	for _, d := range g.watcher.take() {
		draft := &evidence.Draft{
			Head: evidence.Head{Type: evidence.Alert, Agent: d.Agent, Resource: d.Resource},
			Body: evidence.EncodeBody(d.Alert),
		}
		if _, err := g.recorder.Own().Record(ctx, 0, evidence.Process, draft); err != nil {
			return fmt.Errorf("recording an alert: %w", err)
		}
	}
	return nil
}

// watch raises alerts until ctx is done.
func (g *Gateway) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.watcher.wake:
		}
		if err := g.raise(ctx); err != nil {
			return err
		}
	}
}

// Alerts implements api.Alerts.
func (g *Gateway) Alerts(ctx context.Context, r api.Range, open bool, by evidence.By) ([]api.Alert, error) {
	if _, err := g.read(ctx, "alerts", "alerts", by); err != nil {
		return nil, err
	}
	list, err := g.alerts(ctx, r)
	if err != nil {
		return nil, err
	}
	kept := []api.Alert{}
	for _, a := range list {
		if !open || a.Acknowledged == nil {
			kept = append(kept, a)
		}
	}
	return kept[max(0, len(kept)-most(r)):], nil
}

func (g *Gateway) alerts(ctx context.Context, r api.Range) ([]api.Alert, error) {
	from, to, err := g.times(ctx, r)
	if err != nil {
		return nil, err
	}
	var list []api.Alert
	at := make(map[string]int)
	err = g.sealer.Scan(ctx, 0, func(rec *evidence.Record) error {
		h := &rec.Head
		switch h.Type {
		case evidence.Alert:
			if h.Time < from || to != 0 && h.Time >= to {
				return nil
			}
			a := apiAlert(rec)
			at[a.ID] = len(list)
			list = append(list, a)
		case evidence.AlertAck:
			if i, ok := at[h.Of.String()]; ok {
				list[i].Acknowledged = apiAck(rec)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return list, nil
}

func apiAlert(r *evidence.Record) api.Alert {
	h, b := &r.Head, decoded[evidence.AlertBody](r.Body)
	a := api.Alert{ID: h.Pos.String(), Time: moment(h.Time), Rule: b.Rule, Severity: b.Severity, Agent: h.Agent, Resource: h.Resource, Text: b.Text}
	if !h.Session.IsZero() {
		a.Session = h.Session.String()
	}
	if !b.Trigger.IsZero() {
		a.Trigger = b.Trigger.String()
	}
	return a
}

func apiAck(r *evidence.Record) *api.Acknowledgement {
	b := decoded[evidence.AlertAckBody](r.Body)
	return &api.Acknowledgement{
		Disposition: b.Disposition, Incident: b.Incident,
		Change: api.Change{Position: r.Head.Pos.String(), Time: moment(r.Head.Time), By: b.By, Reason: b.Reason},
	}
}

// AcknowledgeAlert implements api.Alerts.
func (g *Gateway) AcknowledgeAlert(ctx context.Context, id string, n api.NewAcknowledgement, by evidence.By) (api.Alert, error) {
	pos, err := evidence.ParsePosition(id)
	if err != nil {
		return api.Alert{}, api.Invalid(err.Error(), "exhibit alert list shows the ids of alerts")
	}
	g.acknowledging.Lock() // two people must not both be the first
	defer g.acknowledging.Unlock()
	list, err := g.alerts(ctx, api.Range{})
	if err != nil {
		return api.Alert{}, err
	}
	i := slices.IndexFunc(list, func(a api.Alert) bool { return a.ID == id })
	switch {
	case i < 0:
		return api.Alert{}, api.NotFound(fmt.Sprintf("there is no alert %q", id), "exhibit alert list shows all")
	case list[i].Acknowledged != nil:
		return api.Alert{}, api.Conflict(fmt.Sprintf("alert %s was acknowledged by %s as %s", id, list[i].Acknowledged.By.Person.ID, list[i].Acknowledged.Disposition), "")
	}
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.AlertAck, Of: pos, Agent: list[i].Agent, Resource: list[i].Resource},
		Body: evidence.EncodeBody(evidence.AlertAckBody{Disposition: n.Disposition, Incident: n.Incident, Reason: n.Reason, By: by}),
	}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return api.Alert{}, g.problem(err)
	}
	list[i].Acknowledged = apiAck(&evidence.Record{Head: d.Head, Body: d.Body})
	return list[i], nil
}
