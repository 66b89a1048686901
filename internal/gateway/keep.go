package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/keys"
)

// Holds implements api.Log.
func (g *Gateway) Holds(context.Context) ([]api.Hold, error) {
	list := []api.Hold{}
	for _, h := range g.registry().Holds() {
		list = append(list, apiHold(h))
	}
	return list, nil
}

func apiHold(h decision.Hold) api.Hold {
	out := api.Hold{ID: h.ID, Matter: h.Matter, Status: "standing", Placed: changeAt(h.Placed, h.PlacedAt, h.By, h.Reason)}
	if !h.Lifted.IsZero() {
		lifted := changeAt(h.Lifted, h.LiftedAt, h.LiftedBy, h.LiftedFor)
		out.Status, out.Lifted = "lifted", &lifted
	}
	return out
}

func changeAt(p evidence.Position, t int64, by evidence.By, reason string) api.Change {
	return api.Change{Position: p.String(), Time: time.UnixMicro(t).UTC(), By: by, Reason: reason}
}

// PlaceHold implements api.Log.
func (g *Gateway) PlaceHold(ctx context.Context, n api.NewHold, by evidence.By) (api.Hold, error) {
	pos, err := g.control(ctx, evidence.Head{Type: evidence.LogHold}, evidence.HoldBody{Change: evidence.HoldPlaced, Matter: n.Matter, Reason: n.Reason, By: by})
	if err != nil {
		return api.Hold{}, err
	}
	return g.holdWith(pos.String())
}

// LiftHold implements api.Log.
func (g *Gateway) LiftHold(ctx context.Context, id, reason string, by evidence.By) (api.Hold, error) {
	if _, err := g.control(ctx, evidence.Head{Type: evidence.LogHold}, evidence.HoldBody{Change: evidence.HoldLifted, Hold: id, Reason: reason, By: by}); err != nil {
		return api.Hold{}, err
	}
	return g.holdWith(id)
}

func (g *Gateway) holdWith(id string) (api.Hold, error) {
	for _, h := range g.registry().Holds() {
		if h.ID == id {
			return apiHold(h), nil
		}
	}
	return api.Hold{}, api.NotFound(fmt.Sprintf("there is no hold %.80q", id), "")
}

// Erase implements api.Log. That it is erased is on record before it is, so that
// no part is missing without a record; what a crash leaves undone the next boot
// does.
func (g *Gateway) Erase(ctx context.Context, e api.Erasure, by evidence.By) (api.Erased, error) {
	session, err := evidence.ParsePosition(e.Session)
	if err != nil {
		return api.Erased{}, api.Invalid(fmt.Sprintf("%.80q is no session", e.Session), "")
	}
	start, err := g.headAt(ctx, session)
	if err != nil {
		return api.Erased{}, err
	}
	if start.Type != evidence.SessionStart || start.Session != session {
		return api.Erased{}, api.Invalid(fmt.Sprintf("record %s starts no session", session), "")
	}
	live, err := g.Sessions(ctx)
	if err != nil {
		return api.Erased{}, err
	}
	for _, s := range live {
		if s.ID == e.Session {
			return api.Erased{}, api.Conflict("the session is open: it still seals what it does", "exhibit kill ends it")
		}
	}
	b := evidence.RedactionBody{Session: session, Slot: start.Key, Basis: e.Basis, Request: e.Request, By: by}
	if e.Request == "" && g.registry().Separated() {
		return g.askErasure(ctx, &start, &b)
	}
	pos, err := g.control(ctx, evidence.Head{Type: evidence.Redaction, Agent: start.Agent, Resource: start.Resource}, b)
	if err != nil {
		return api.Erased{}, err
	}
	if err := g.destroy(&b); err != nil {
		return api.Erased{}, err
	}
	return api.Erased{Session: e.Session, Position: pos.String()}, nil
}

// askErasure asks another person to approve an erasure.
func (g *Gateway) askErasure(ctx context.Context, start *evidence.Head, b *evidence.RedactionBody) (api.Erased, error) {
	scope := evidence.ErasureScope{Session: b.Session, Slot: b.Slot, Basis: b.Basis}
	pos, err := g.control(ctx, evidence.Head{Type: evidence.ApprovalRequest, Agent: start.Agent, Resource: start.Resource}, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveErasure, Digest: decision.ErasureDigest(scope), Erasure: &scope, Reason: b.Basis,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: g.requestEnds(), By: b.By,
	})
	if err != nil {
		return api.Erased{}, err
	}
	return api.Erased{Session: b.Session.String(), Request: pos.String()}, nil
}

// destroy destroys the secret of a session whose redaction is on record.
func (g *Gateway) destroy(b *evidence.RedactionBody) error {
	if err := g.keys.Shred(b.Session.Boot, b.Slot); err != nil && !errors.Is(err, keys.ErrShredded) {
		return fmt.Errorf("the erasure of session %s is on record and not done: %w; the next start does it", b.Session, err)
	}
	if err := g.packs.forget(); err != nil {
		return fmt.Errorf("session %s is erased, and interrupted packs that may have something of it are not: %w; remove the folder %s", b.Session, err, g.packs.dir)
	}
	return nil
}

// erase does what the records say was erased and a crash, or a backup of the
// keys that was put back, has left.
func (g *Gateway) erase() error {
	for _, e := range g.registry().Erased() {
		if err := g.destroy(&e.RedactionBody); err != nil {
			return err
		}
	}
	return nil
}
