package decision

import (
	"errors"
	"slices"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

func by(person string) evidence.By {
	return evidence.By{Person: evidence.Person{ID: person}, Via: "test"}
}

// separated is a book of a gateway where rights need two people: bob owns the
// resource orders, carol and dave are dba, alice asks.
func separated(t testing.TB, rules string) *book {
	t.Helper()
	b := newBook(t)
	body := configBody(b.r, "orders", "stock")
	body.Separation = evidence.SeparationRequired
	body.Resources[0].Owner = "bob"
	body.Resources[0].Approvers = []string{"security"}
	body.People = []evidence.Member{{ID: "alice@example.com"}, {ID: "bob"}, {ID: "carol", Groups: []string{"dba"}}, {ID: "dave", Groups: []string{"dba", "security"}}}
	body.PolicyApprovers = []string{"security"}
	b.do(evidence.ConfigChange, body)
	b.policy(rules)
	b.agent("bot")
	return b
}

const readers = `@id("reader") permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);`

func (b *book) ask(scope evidence.GrantScope, ticket string) string {
	b.t.Helper()
	return b.do(evidence.ApprovalRequest, grantRequest(scope, ticket))
}

func grantRequest(s evidence.GrantScope, ticket string) evidence.ApprovalRequestBody {
	return evidence.ApprovalRequestBody{
		Kind: evidence.ApproveGrant, Digest: ScopeDigest(s), Grant: &s, Ticket: ticket,
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupResource, Count: 1}}, Expires: noon + 24*hour, By: alice,
	}
}

// says is what a person says of a request, for the groups they stand for.
func (b *book) says(who, request, what string) error {
	a, _ := b.r.Approval(request)
	body := evidence.ApprovalDecisionBody{Request: request, Digest: a.Digest, Decision: what, By: by(who)}
	if what != evidence.Withdrawn {
		body.Groups = b.r.Groups(&a.ApprovalRequestBody, who)
	}
	return b.try(evidence.ApprovalDecision, body)
}

func (b *book) state(request string) string {
	a, _ := b.r.Approval(request)
	return b.r.State(&a, b.now)
}

var wanted = evidence.GrantScope{Agent: "bot", Role: "reader", Resource: "orders", Expires: noon + 8*hour}

func TestAGrantNeedsTwoPeople(t *testing.T) {
	b := separated(t, readers)
	direct := evidence.GrantBody{Agent: "bot", Role: "reader", Resource: "orders", Expires: noon + hour, By: alice}
	if err := b.try(evidence.GrantCreate, direct); !errors.Is(err, ErrSeparation) {
		t.Errorf("a grant by one person: %v", err)
	}
	id := b.ask(wanted, "OPS-1")
	a, _ := b.r.Approval(id)
	if err := b.try(evidence.GrantCreate, a.GrantOf(by("bob"))); !errors.Is(err, ErrNotApproved) {
		t.Errorf("a grant before its approval: %v", err)
	}
	if err := b.says("alice@example.com", id, evidence.Approved); !errors.Is(err, ErrSelfApproval) {
		t.Errorf("self-approval: %v", err)
	}
	for _, who := range []string{"carol", "mallory"} {
		if err := b.says(who, id, evidence.Approved); !errors.Is(err, ErrNoApprover) {
			t.Errorf("%s approves: %v", who, err)
		}
	}
	if err := b.says("bob", id, evidence.Approved); err != nil {
		t.Fatal(err)
	}
	a, _ = b.r.Approval(id)
	wider := a.GrantOf(by("bob"))
	wider.Expires += hour
	if err := b.try(evidence.GrantCreate, wider); !errors.Is(err, ErrInvalid) {
		t.Errorf("a grant of more than was approved: %v", err)
	}
	b.do(evidence.GrantCreate, a.GrantOf(by("bob")))
	if got := b.state(id); got != ApprovalUsed {
		t.Errorf("the request is %s", got)
	}
	if err := b.try(evidence.GrantCreate, a.GrantOf(by("bob"))); !errors.Is(err, ErrRetired) {
		t.Errorf("a second grant of one request: %v", err)
	}
}

func TestAnApproverMayGiveLess(t *testing.T) {
	b := separated(t, readers)
	id := b.ask(wanted, "")
	a, _ := b.r.Approval(id)
	body := evidence.ApprovalDecisionBody{Request: id, Digest: a.Digest, Decision: evidence.Approved, Groups: []string{evidence.GroupResource}, By: by("dave")}
	body.Expires = wanted.Expires + 1
	if err := b.try(evidence.ApprovalDecision, body); !errors.Is(err, ErrInvalid) {
		t.Errorf("more than asked: %v", err)
	}
	body.Expires = noon + hour
	b.do(evidence.ApprovalDecision, body)
	a, _ = b.r.Approval(id)
	if got := a.GrantOf(by("dave")).Expires; got != noon+hour {
		t.Errorf("it ends at %d", got)
	}
	b.do(evidence.GrantCreate, a.GrantOf(by("dave")))
}

func TestARequestEnds(t *testing.T) {
	for _, c := range []struct {
		name, state string
		end         func(b *book, id string) error
	}{
		{"denied", ApprovalDenied, func(b *book, id string) error { return b.says("bob", id, evidence.Refused) }},
		{"withdrawn", ApprovalWithdrawn, func(b *book, id string) error { return b.says("alice@example.com", id, evidence.Withdrawn) }},
		{"expired", ApprovalExpired, func(b *book, _ string) error { b.now = noon + 24*hour; return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := separated(t, readers)
			s := wanted
			s.Expires = noon + 100*hour
			id := b.ask(s, "")
			if err := c.end(b, id); err != nil {
				t.Fatal(err)
			}
			if got := b.state(id); got != c.state {
				t.Errorf("it is %s, want %s", got, c.state)
			}
			if err := b.says("dave", id, evidence.Approved); !errors.Is(err, ErrRetired) {
				t.Errorf("approved afterwards: %v", err)
			}
		})
	}
}

func TestAnApproverWhoLeftHasNoSay(t *testing.T) {
	b := separated(t, readers)
	id := b.ask(wanted, "")
	if err := b.says("dave", id, evidence.Approved); err != nil {
		t.Fatal(err)
	}
	config := b.r.ConfigBody()
	config.Before, config.Digest = config.Digest, "without-dave"
	config.People = slices.DeleteFunc(slices.Clone(config.People), func(m evidence.Member) bool { return m.ID == "dave" })
	b.do(evidence.ConfigChange, config)
	a, _ := b.r.Approval(id)
	if err := b.try(evidence.GrantCreate, a.GrantOf(by("dave"))); !errors.Is(err, ErrNotApproved) || b.state(id) != ApprovalPending {
		t.Errorf("%v; the request is %s", err, b.state(id))
	}
}

func TestPolicyWantsATicketForARole(t *testing.T) {
	b := separated(t, `@id("reader") @ticket("required") permit (principal in Role::"reader", action, resource);`)
	if err := b.try(evidence.ApprovalRequest, grantRequest(wanted, "")); !errors.Is(err, ErrInvalid) {
		t.Errorf("without a ticket: %v", err)
	}
	b.ask(wanted, "OPS-1")
}

func (b *book) propose(text string) evidence.ApprovalRequestBody {
	files := testFiles(text)
	return evidence.ApprovalRequestBody{
		Kind: evidence.ApprovePolicy, Digest: Digest(files, testActions),
		Policy: &evidence.Proposal{Before: b.r.Policy(), Files: files, Actions: testActions},
		Needs:  []evidence.ApprovalNeed{{Group: evidence.GroupPolicy, Count: 1}}, Expires: noon + 24*hour, By: alice,
	}
}

func (b *book) activate(id string) error {
	a, _ := b.r.Approval(id)
	return b.try(evidence.PolicyChange, evidence.PolicyBody{
		Digest: a.Digest, Before: b.r.Policy(), Files: a.Policy.Files, Actions: a.Policy.Actions, Request: id, By: alice,
	})
}

const writers = readers + `@id("writer") permit (principal in Role::"writer", action, resource);`

func TestAPolicyNeedsTwoPeople(t *testing.T) {
	b := separated(t, readers)
	first := b.r.Policy()
	firstAt, _ := b.r.InForce(first)
	if err := b.try(evidence.PolicyChange, policyBody(b.r, writers)); !errors.Is(err, ErrSeparation) {
		t.Errorf("a policy by one person: %v", err)
	}
	id := b.do(evidence.ApprovalRequest, b.propose(writers))
	rival := b.do(evidence.ApprovalRequest, b.propose(writers+`@id("other") permit (principal in Role::"other", action, resource);`))
	if err := b.activate(id); !errors.Is(err, ErrNotApproved) {
		t.Errorf("before it is approved: %v", err)
	}
	if err := b.says("carol", id, evidence.Approved); !errors.Is(err, ErrNoApprover) {
		t.Errorf("carol approves: %v", err)
	}
	for _, r := range []string{id, rival} {
		if err := b.says("dave", r, evidence.Approved); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.activate(id); err != nil {
		t.Fatal(err)
	}
	if err := b.activate(rival); !errors.Is(err, ErrStale) {
		t.Errorf("a proposal for an older policy: %v", err)
	}
	back := evidence.PolicyBody{Digest: first, Before: b.r.Policy(), Files: testFiles(readers), Actions: testActions, Back: firstAt.String(), By: alice}
	b.do(evidence.PolicyChange, back)
	back = policyBody(b.r, `@id("all") permit (principal in Role::"reader", action, resource);`)
	back.Back = firstAt.String()
	if err := b.try(evidence.PolicyChange, back); !errors.Is(err, ErrInvalid) {
		t.Errorf("going back to what never was: %v", err)
	}
}
