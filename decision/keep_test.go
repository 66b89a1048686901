package decision_test

import (
	"errors"
	"testing"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// keeping is a registry to which control records are applied one after another.
type keeping struct {
	t   *testing.T
	r   *decision.Registry
	pos evidence.Position
}

func (k *keeping) apply(typ evidence.Type, body any, want error) string {
	k.t.Helper()
	k.pos.Seq++
	next, err := k.r.Apply(evidence.Head{Type: typ, Pos: k.pos, Time: packtest.Noon + int64(k.pos.Seq)}, evidence.EncodeBody(body))
	if want == nil && err != nil || !errors.Is(err, want) {
		k.t.Errorf("%s at %s: %v, want %v", typ, k.pos, err, want)
	}
	if err == nil {
		k.r = next
	}
	return k.pos.String()
}

func keepingIn(t *testing.T, separation string) *keeping {
	k := &keeping{t, decision.New(), evidence.Position{Gateway: "gw1", Boot: 1, Seq: 10}}
	k.apply(evidence.ConfigChange, evidence.ConfigBody{Digest: "c", Text: "c", Separation: separation, By: packtest.Alice,
		People: []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: packtest.Bob.Person.ID}}}, nil)
	return k
}

// Nothing is erased under a legal hold, nor twice; a hold has a reason and is
// lifted once. A snapshot keeps what it held and erased.
func TestNothingIsErasedUnderAHold(t *testing.T) {
	k := keepingIn(t, evidence.SeparationReported)
	session := evidence.Position{Gateway: "gw1", Boot: 1, Seq: 3}
	erase := evidence.RedactionBody{Session: session, Slot: 1, Basis: "request of the person concerned", By: packtest.Alice}
	k.apply(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldPlaced, By: packtest.Alice}, decision.ErrInvalid)
	hold := k.apply(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldPlaced, Reason: "case 12", By: packtest.Alice}, nil)
	k.apply(evidence.Redaction, erase, decision.ErrHeld)
	k.apply(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldLifted, Hold: "gw1.1.2", Reason: "closed", By: packtest.Bob}, decision.ErrUnknown)
	lift := evidence.HoldBody{Change: evidence.HoldLifted, Hold: hold, Reason: "closed", By: packtest.Bob}
	k.apply(evidence.LogHold, lift, nil)
	k.apply(evidence.LogHold, lift, decision.ErrRetired)
	k.apply(evidence.Redaction, evidence.RedactionBody{Session: session, By: packtest.Alice}, decision.ErrInvalid)
	k.apply(evidence.Redaction, erase, nil)
	k.apply(evidence.Redaction, erase, decision.ErrDuplicate)
	again, err := decision.Restore(k.r.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if h, e := again.Holds(), again.Erased(); len(h) != 1 || h[0].LiftedFor != "closed" || len(e) != 1 || e[0].Session != session {
		t.Errorf("the snapshot has the holds %v and the erasures %v", h, e)
	}
}

// Where rights need two people, so does an erasure: of exactly what was approved.
func TestAnErasureNeedsTwoPeople(t *testing.T) {
	k := keepingIn(t, evidence.SeparationRequired)
	scope := evidence.ErasureScope{Session: evidence.Position{Gateway: "gw1", Boot: 1, Seq: 3}, Slot: 1, Basis: "retention"}
	erase := evidence.RedactionBody{Session: scope.Session, Slot: 1, Basis: "retention", By: packtest.Alice}
	k.apply(evidence.Redaction, erase, decision.ErrNotApproved)
	ask := evidence.ApprovalRequestBody{Kind: evidence.ApproveErasure, Digest: decision.ErasureDigest(scope), Erasure: &scope,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: packtest.Noon + packtest.Hour, By: packtest.Alice}
	wrong := ask
	wrong.Digest = "0"
	k.apply(evidence.ApprovalRequest, wrong, decision.ErrInvalid)
	request := k.apply(evidence.ApprovalRequest, ask, nil)
	erase.Request = request
	k.apply(evidence.Redaction, erase, decision.ErrNotApproved)
	yes := evidence.ApprovalDecisionBody{Request: request, Digest: ask.Digest, Decision: evidence.Approved, Groups: []string{evidence.GroupPolicy}, By: packtest.Alice}
	k.apply(evidence.ApprovalDecision, yes, decision.ErrSelfApproval)
	yes.By = packtest.Bob
	k.apply(evidence.ApprovalDecision, yes, nil)
	another := erase
	another.Session.Seq = 4
	k.apply(evidence.Redaction, another, decision.ErrStale)
	k.apply(evidence.Redaction, erase, nil)
	if a, _ := k.r.Approval(request); a.UsedBy != scope.Session.String() {
		t.Errorf("the request is used by %q", a.UsedBy)
	}
}
