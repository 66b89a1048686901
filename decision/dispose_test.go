package decision_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

const retained = 30 * 86_400 // seconds

func (k *keeping) retain(separation string, seconds int64) {
	k.t.Helper()
	k.apply(evidence.ConfigChange, evidence.ConfigBody{Digest: fmt.Sprint("c", seconds), Before: k.r.Config(), Text: "c", Separation: separation, Retention: seconds, By: packtest.Alice,
		People: []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: packtest.Bob.Person.ID}}}, nil)
}

// disposalOf is a disposal of blocks whose newest record is that much older than
// noon, in seconds.
func disposalOf(first, last uint64, age int64) evidence.DisposalBody {
	return evidence.DisposalBody{DisposalScope: evidence.DisposalScope{
		First: first, Last: last, Blocks: last - first + 1, Retention: retained, Reason: "retention",
		End: fmt.Sprintf(`{"block":%d,"to":%d}`, last, packtest.Noon-age*1_000_000),
	}, Size: last + 5, By: packtest.Alice}
}

// Blocks go once their retention has ended, none is left out or told twice, and
// a snapshot keeps which went.
func TestBlocksGoAfterTheirRetentionAndInOrder(t *testing.T) {
	k := keepingIn(t, evidence.SeparationReported)
	k.apply(evidence.Disposal, disposalOf(0, 9, 100*86_400), decision.ErrEarly) // nothing says that anything may go
	k.retain(evidence.SeparationReported, retained)
	k.apply(evidence.Disposal, disposalOf(0, 9, retained-10), decision.ErrEarly)
	k.apply(evidence.Disposal, disposalOf(1, 9, retained+10), decision.ErrGap)
	for what, spoil := range map[string]func(*evidence.DisposalBody){
		"no reason":          func(b *evidence.DisposalBody) { b.Reason = "" },
		"nothing to delete":  func(b *evidence.DisposalBody) { b.Blocks = 0 },
		"another's header":   func(b *evidence.DisposalBody) { b.End = `{"block":8,"to":5}` },
		"no header":          func(b *evidence.DisposalBody) { b.End = "" },
		"keeps another's":    func(b *evidence.DisposalBody) { b.Kept = []uint64{10} },
		"keeps out of order": func(b *evidence.DisposalBody) { b.Kept = []uint64{3, 2} },
		"not covered":        func(b *evidence.DisposalBody) { b.Size = 9 },
		"nobody":             func(b *evidence.DisposalBody) { b.By = evidence.By{} },
	} {
		t.Run(what, func(t *testing.T) {
			b := disposalOf(0, 9, retained+10)
			spoil(&b)
			k.t = t
			k.apply(evidence.Disposal, b, decision.ErrInvalid)
		})
	}
	k.t = t
	other := disposalOf(0, 9, retained+10)
	other.Retention--
	k.apply(evidence.Disposal, other, decision.ErrStale)

	first := disposalOf(0, 9, retained+10)
	first.Kept = []uint64{3, 7}
	k.apply(evidence.Disposal, first, nil)
	k.apply(evidence.Disposal, first, decision.ErrGap)
	next := disposalOf(10, 12, retained+10)
	next.Released = []uint64{4}
	k.apply(evidence.Disposal, next, decision.ErrGap)
	next.Released, next.Kept = []uint64{3}, []uint64{11}
	k.apply(evidence.Disposal, next, nil)
	if kept := k.r.Kept(); !slices.Equal(kept, []uint64{7, 11}) || k.r.Undisposed() != 13 {
		t.Errorf("kept are %d, next is %d", kept, k.r.Undisposed())
	}
	again, err := decision.Restore(k.r.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if d := again.Disposals(); len(d) != 2 || d[1].Digest != next.Digest || again.Undisposed() != 13 {
		t.Errorf("the snapshot has the disposals %v", d)
	}
}

func TestNothingIsDisposedOfUnderAHold(t *testing.T) {
	k := keepingIn(t, evidence.SeparationReported)
	k.retain(evidence.SeparationReported, retained)
	hold := k.apply(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldPlaced, Reason: "case 12", By: packtest.Alice}, nil)
	k.apply(evidence.Disposal, disposalOf(0, 9, retained+10), decision.ErrHeld)
	k.apply(evidence.LogHold, evidence.HoldBody{Change: evidence.HoldLifted, Hold: hold, Reason: "closed", By: packtest.Bob}, nil)
	k.apply(evidence.Disposal, disposalOf(0, 9, retained+10), nil)
}

// Where rights need two people, so does a disposal: of exactly what was
// approved, once, and not once the configuration keeps it for longer.
func TestADisposalNeedsAnotherPerson(t *testing.T) {
	k := keepingIn(t, evidence.SeparationRequired)
	k.retain(evidence.SeparationRequired, retained)
	b := disposalOf(0, 9, retained+10)
	k.apply(evidence.Disposal, b, decision.ErrNotApproved)
	ask := evidence.ApprovalRequestBody{Kind: evidence.ApproveDisposal, Digest: decision.DisposalDigest(b.DisposalScope), Disposal: &b.DisposalScope,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: packtest.Noon + 1_000_000, By: packtest.Alice}
	other := ask
	other.Digest = "another"
	k.apply(evidence.ApprovalRequest, other, decision.ErrInvalid)
	b.Request = k.apply(evidence.ApprovalRequest, ask, nil)
	k.apply(evidence.Disposal, b, decision.ErrNotApproved)
	say := evidence.ApprovalDecisionBody{Request: b.Request, Digest: ask.Digest, Decision: evidence.Approved, Groups: []string{evidence.GroupPolicy}, By: packtest.Alice}
	k.apply(evidence.ApprovalDecision, say, decision.ErrSelfApproval)
	say.By = packtest.Bob
	k.apply(evidence.ApprovalDecision, say, nil)
	wider := b
	wider.Last, wider.End = 10, disposalOf(0, 10, retained+10).End
	k.apply(evidence.Disposal, wider, decision.ErrStale)
	k.retain(evidence.SeparationRequired, 2*retained)
	k.apply(evidence.Disposal, b, decision.ErrStale)
	k.retain(evidence.SeparationRequired, retained)
	k.apply(evidence.Disposal, b, nil)
	b.First, b.Last = 10, 19
	k.apply(evidence.Disposal, b, decision.ErrInvalid)
}
