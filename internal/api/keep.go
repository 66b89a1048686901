package api

import (
	"context"
	"net/http"
	"time"
)

// NewHold is a legal hold to place.
type NewHold struct {
	Matter string `json:"matter,omitempty" maxLength:"200" doc:"the case or the like"`
	Reason string `json:"reason" minLength:"1" maxLength:"1000" doc:"stands in the record"`
}

// Hold is a legal hold: nothing is erased while one stands.
type Hold struct {
	ID     string  `json:"id" doc:"the position of its record"`
	Matter string  `json:"matter,omitempty"`
	Status string  `json:"status" enum:"standing,lifted"`
	Placed Change  `json:"placed"`
	Lifted *Change `json:"lifted,omitempty"`
}

// Erasure asks that what is sealed of a session be destroyed.
type Erasure struct {
	Session string `json:"session" minLength:"1" maxLength:"128"`
	Basis   string `json:"basis" minLength:"1" maxLength:"1000" doc:"why it may, or must, be erased; stands in the record"`
	Request string `json:"request,omitempty" maxLength:"128" doc:"the approved request for it, where two people are needed"`
}

// Erased is a session that was erased, or the request for it.
type Erased struct {
	Session  string `json:"session"`
	Position string `json:"position,omitempty" doc:"of the record; absent while another person must approve"`
	Request  string `json:"request,omitempty" doc:"that another person must approve first"`
}

func (a *routes) registerKeeping() {
	handle(a, operation{id: "list-holds", method: "GET", path: "/v1/log/holds", tag: "log", summary: "Legal holds, lifted ones too"},
		func(ctx context.Context, _ *struct{}) (*list[Hold], error) {
			return listOf(a.Services.Log.Holds(ctx))
		})
	handle(a, operation{id: "place-hold", method: "POST", path: "/v1/log/holds", tag: "log", summary: "Place a legal hold: nothing is erased while it stands"},
		func(ctx context.Context, in *body[NewHold]) (*body[Hold], error) {
			out, err := a.Services.Log.PlaceHold(ctx, in.Body, by(ctx))
			return &body[Hold]{out}, err
		})
	handle(a, operation{id: "lift-hold", method: "POST", path: "/v1/log/holds/{id}/lift", tag: "log", summary: "Lift a legal hold"},
		func(ctx context.Context, in *ending) (*body[Hold], error) {
			out, err := a.Services.Log.LiftHold(ctx, in.ID, in.Body.Reason, by(ctx))
			return &body[Hold]{out}, err
		})
	handle(a, operation{id: "erase-session", method: "POST", path: "/v1/log/erasures", tag: "log", summary: "Destroy what is sealed of a session, for good"},
		func(ctx context.Context, in *body[Erasure]) (*body[Erased], error) {
			out, err := a.Services.Log.Erase(ctx, in.Body, by(ctx))
			return &body[Erased]{out}, err
		})
}

// Holds returns legal holds, lifted ones too.
func (c *Client) Holds(ctx context.Context) ([]Hold, error) {
	return items[Hold](ctx, c, "/v1/log/holds")
}

// PlaceHold places a legal hold.
func (c *Client) PlaceHold(ctx context.Context, n NewHold) (Hold, error) {
	return call[Hold](ctx, c, http.MethodPost, "/v1/log/holds", n)
}

// LiftHold lifts a legal hold.
func (c *Client) LiftHold(ctx context.Context, id, why string) (Hold, error) {
	return call[Hold](ctx, c, http.MethodPost, "/v1/log/holds/"+segment(id)+"/lift", reason{why})
}

// Erase destroys what is sealed of a session, or asks for that.
func (c *Client) Erase(ctx context.Context, e Erasure) (Erased, error) {
	return call[Erased](ctx, c, http.MethodPost, "/v1/log/erasures", e)
}

// DisposalRun is a run of blocks, and what goes of it.
type DisposalRun struct {
	First   uint64 `json:"first" doc:"block that it begins with"`
	Last    uint64 `json:"last" doc:"block that it ends with"`
	Blocks  uint64 `json:"blocks" doc:"that go, of these and of those that disposals before had to keep; 0 is none"`
	Records uint64 `json:"records" doc:"in those"`
	Bytes   uint64 `json:"bytes" doc:"of their files"`
	Control uint64 `json:"control" doc:"blocks of the run that stay since they have control records"`
	Kept    uint64 `json:"kept" doc:"blocks of the run that stay since later records refer to them"`
	Digest  string `json:"digest,omitempty" doc:"of the headers of the run, which stay"`
}

// DisposalPlan is what can be disposed of now.
type DisposalPlan struct {
	DisposalRun

	Retention int64     `json:"retention_s" doc:"of the configuration in force, in seconds; 0 is for ever"`
	Before    time.Time `json:"before,omitzero" doc:"what is older is past its retention"`
	From      time.Time `json:"from,omitzero" doc:"oldest record that goes"`
	To        time.Time `json:"to,omitzero" doc:"newest record that goes"`
	Held      []Hold    `json:"held,omitempty" doc:"legal holds that stand: nothing goes"`
}

// Disposal asks that what is past its retention be deleted.
type Disposal struct {
	Reason  string `json:"reason,omitempty" maxLength:"1000" doc:"stands in the record; with a request it is the request's"`
	Request string `json:"request,omitempty" maxLength:"128" doc:"the approved request for it, where two people are needed"`
}

// Disposed is what was disposed of, or the request for it.
type Disposed struct {
	DisposalRun

	Position string `json:"position,omitempty" doc:"of the record; absent while another person must approve"`
	Request  string `json:"request,omitempty" doc:"that another person must approve first"`
}

func (a *routes) registerDisposal() {
	handle(a, operation{id: "plan-disposal", method: "GET", path: "/v1/log/disposals/plan", tag: "log", summary: "What is past its retention and can be deleted"},
		func(ctx context.Context, _ *struct{}) (*body[DisposalPlan], error) {
			out, err := a.Services.Log.PlanDisposal(ctx)
			return &body[DisposalPlan]{out}, err
		})
	handle(a, operation{id: "dispose", method: "POST", path: "/v1/log/disposals", tag: "log", summary: "Delete what is past its retention, for good"},
		func(ctx context.Context, in *body[Disposal]) (*body[Disposed], error) {
			if in.Body.Reason == "" && in.Body.Request == "" {
				return nil, Invalid("a disposal needs a reason", "")
			}
			out, err := a.Services.Log.Dispose(ctx, in.Body, by(ctx))
			return &body[Disposed]{out}, err
		})
}

// PlanDisposal says what can be disposed of.
func (c *Client) PlanDisposal(ctx context.Context) (DisposalPlan, error) {
	return call[DisposalPlan](ctx, c, http.MethodGet, "/v1/log/disposals/plan", nil)
}

// Dispose deletes what is past its retention, or asks for that.
func (c *Client) Dispose(ctx context.Context, d Disposal) (Disposed, error) {
	return call[Disposed](ctx, c, http.MethodPost, "/v1/log/disposals", d)
}
