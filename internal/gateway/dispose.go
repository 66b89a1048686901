package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/seal"
)

// PlanDisposal implements api.Log.
func (g *Gateway) PlanDisposal(ctx context.Context) (api.DisposalPlan, error) {
	g.disposing.Lock()
	defer g.disposing.Unlock()
	_, plan, err := g.planDisposal(ctx)
	return plan, err
}

// planDisposal says what is past its retention and may go, and what holds it.
func (g *Gateway) planDisposal(ctx context.Context) (scope evidence.DisposalScope, plan api.DisposalPlan, err error) {
	r := g.registry()
	for _, h := range r.Holds() {
		if h.Lifted.IsZero() {
			plan.Held = append(plan.Held, apiHold(h))
		}
	}
	plan.Retention = r.ConfigBody().Retention
	if plan.Retention == 0 {
		return scope, plan, nil
	}
	before := g.clock.now().Add(-time.Duration(plan.Retention) * time.Second)
	plan.Before = before.UTC()
	// The second is that of a clock that is set back between this and the record.
	scope, from, to, err := g.sealer.Disposable(ctx, before.Add(-time.Second).UnixMicro())
	if err != nil {
		return scope, plan, err
	}
	scope.Retention = plan.Retention
	plan.DisposalRun = apiRun(&scope)
	if scope.Blocks > 0 {
		plan.From, plan.To = moment(from), moment(to)
	}
	return scope, plan, nil
}

func apiRun(s *evidence.DisposalScope) api.DisposalRun {
	run := api.DisposalRun{Blocks: s.Blocks, Records: s.Records, Bytes: s.Bytes, Kept: uint64(len(s.Kept))}
	if s.End != "" {
		run.First, run.Last, run.Digest = s.First, s.Last, s.Digest.String()
		run.Control = s.Last - s.First + 1 + uint64(len(s.Released)) - s.Blocks - run.Kept
	}
	return run
}

// Dispose implements api.Log. The record is in a published checkpoint before the
// first block goes; what a crash leaves undone the next start does.
func (g *Gateway) Dispose(ctx context.Context, d api.Disposal, by evidence.By) (api.Disposed, error) {
	g.disposing.Lock()
	defer g.disposing.Unlock()
	if err := g.finishDisposal(ctx); err != nil {
		return api.Disposed{}, err
	}
	scope, err := g.disposalScope(ctx, &d)
	if err != nil {
		return api.Disposed{}, err
	}
	if d.Request == "" && g.registry().Separated() {
		return g.askDisposal(ctx, scope, by)
	}
	cp := g.sealer.Status().Checkpoint
	pos, err := g.control(ctx, evidence.Head{Type: evidence.Disposal}, evidence.DisposalBody{
		DisposalScope: *scope, Size: cp.Size, Root: cp.Root, Request: d.Request, By: by,
	})
	if err != nil {
		return api.Disposed{}, err
	}
	failpoint.Hit("disposal recorded")
	if err := g.finishDisposal(ctx); err != nil {
		return api.Disposed{}, err
	}
	return api.Disposed{DisposalRun: apiRun(scope), Position: pos.String()}, nil
}

// disposalScope is what is to be disposed of: what was approved, or what is past
// its retention now.
func (g *Gateway) disposalScope(ctx context.Context, d *api.Disposal) (*evidence.DisposalScope, error) {
	if d.Request != "" {
		a, ok := g.registry().Approval(d.Request)
		if !ok || a.Disposal == nil {
			return nil, api.NotFound(fmt.Sprintf("there is no request %.80q for a disposal", d.Request), "exhibit log dispose shows what can go; with --yes and --reason it asks for it")
		}
		return a.Disposal, nil
	}
	scope, plan, err := g.planDisposal(ctx)
	switch {
	case err != nil:
		return nil, err
	case plan.Retention == 0:
		return nil, api.Invalid("the configuration keeps the log for ever", "set log.retention, then exhibit reload")
	case scope.Blocks == 0:
		return nil, api.Conflict("nothing is past its retention", "exhibit log dispose shows what is kept, and until when")
	}
	scope.Reason = d.Reason
	return &scope, nil
}

// askDisposal asks another person to approve a disposal.
func (g *Gateway) askDisposal(ctx context.Context, scope *evidence.DisposalScope, by evidence.By) (api.Disposed, error) {
	pos, err := g.control(ctx, evidence.Head{Type: evidence.ApprovalRequest}, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveDisposal, Digest: decision.DisposalDigest(*scope), Disposal: scope, Reason: scope.Reason,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: g.requestEnds(), By: by,
	})
	if err != nil {
		return api.Disposed{}, err
	}
	return api.Disposed{DisposalRun: apiRun(scope), Request: pos.String()}, nil
}

// knowDisposals tells the log's readers what was disposed of.
func (g *Gateway) knowDisposals(r *decision.Registry) {
	g.sealer.SetDisposed(r.Undisposed(), r.Kept())
}

// finishDisposal deletes what the last disposal on record names. It is sealed
// first: a block that is gone without a published record would be a loss. Those
// before it were finished before it was recorded.
func (g *Gateway) finishDisposal(ctx context.Context) error {
	r := g.registry()
	list := r.Disposals()
	if len(list) == 0 {
		return nil
	}
	last := &list[len(list)-1]
	undone := func(err error) error {
		return fmt.Errorf("disposal %s is on record and not done: %w; it is done with the next start, or the next disposal", last.At, err)
	}
	if err := g.sealer.Flush(ctx); err != nil {
		return undone(err)
	}
	failpoint.Hit("disposal sealed")
	g.knowDisposals(r)
	if err := g.sealer.Delete(ctx, &last.DisposalScope); err != nil {
		return undone(err)
	}
	failpoint.Hit("disposed")
	return nil
}

// finishDisposals does at a start what a crash left of the last disposal, once
// the log is sealed so far. What fails is tried again with the next disposal.
func (g *Gateway) finishDisposals(ctx context.Context) error {
	g.disposing.Lock()
	defer g.disposing.Unlock()
	if err := g.finishDisposal(ctx); err != nil && ctx.Err() == nil {
		g.log.Error("blocks that were disposed of are still there", "cause", err)
	}
	return nil
}

// gone makes an answer of an error about what was disposed of.
func (g *Gateway) gone(err error) error {
	if !errors.Is(err, seal.ErrDisposed) {
		return err
	}
	hint := "exhibit log dispose says what is kept"
	if _, from, err := g.sealer.Whole(); err == nil && from > 0 {
		hint = "everything from " + moment(from).Add(time.Microsecond).Format(time.RFC3339Nano) + " on is there"
	}
	return api.NotFound(err.Error(), hint)
}
