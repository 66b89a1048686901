package decision

import (
	"errors"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

var hr = evidence.By{Via: "import of people"}

func (b *book) leaves(person string) {
	b.t.Helper()
	b.do(evidence.PersonLeave, evidence.LeaveBody{Person: person, Left: b.now, By: hr})
}

// staffed is a registry with two people, and an agent that may read.
func staffed(t *testing.T, backup string) *book {
	b := newBook(t)
	c := configBody(b.r, "orders")
	c.People = []evidence.Member{{ID: "alice@example.com"}, {ID: "bob"}}
	b.do(evidence.ConfigChange, c)
	b.policy(readers)
	body := agentBody("bot")
	body.Backup.ID = backup
	b.do(evidence.AgentCreate, body)
	b.grant("bot", "reader", "orders", noon+hour)
	return b
}

func (b *book) mayRead() (bool, string) {
	d := b.r.Decide(ask("bot", "orders", "postgres:select", "public.t"))
	return d.Effect == evidence.Allow, d.Reason
}

func TestAnAgentThatNobodyAnswersForIsSuspended(t *testing.T) {
	b := staffed(t, "bob")
	b.leaves("alice@example.com")
	if may, why := b.mayRead(); !may {
		t.Fatalf("its backup owner is there: %s", why)
	}
	b.leaves("bob")
	if may, why := b.mayRead(); may || !strings.Contains(why, "suspended: nobody answers for it since alice@example.com left") {
		t.Fatalf("nobody answers for it: %t, %q", may, why)
	}
	if a, _ := b.r.Agent("bot"); a.Suspended.IsZero() || a.Active(noon) || !a.Registered(noon) {
		t.Errorf("the agent is %+v", a)
	}
	if len(b.r.Access(noon)) != 0 {
		t.Error("the listing says that it could do something")
	}
	// Coming back resumes nothing: somebody must say so.
	b.do(evidence.PersonReturn, evidence.LeaveBody{Person: "bob", By: hr})
	if may, _ := b.mayRead(); may {
		t.Error("a return resumes it")
	}
	b.do(evidence.OwnerChange, evidence.OwnerBody{Agent: "bot", Owner: evidence.Person{ID: "bob"}, Reason: "taken over", By: by("bob")})
	if may, why := b.mayRead(); !may {
		t.Errorf("it has an owner: %s", why)
	}
}

func TestRightsDoNotComeFromPeopleWhoLeft(t *testing.T) {
	b := staffed(t, "")
	b.leaves("alice@example.com")
	other := agentBody("other")
	for _, c := range []struct {
		what string
		typ  evidence.Type
		body any
		want error
	}{
		{"a new agent of theirs", evidence.AgentCreate, other, ErrRetired},
		{"an agent given to them", evidence.OwnerChange, evidence.OwnerBody{Agent: "bot", Owner: alice.Person, Reason: "back", By: by("bob")}, ErrRetired},
		{"an agent given to nobody", evidence.OwnerChange, evidence.OwnerBody{Agent: "bot", Reason: "x", By: by("bob")}, ErrInvalid},
		{"an owner without a reason", evidence.OwnerChange, evidence.OwnerBody{Agent: "bot", Owner: evidence.Person{ID: "bob"}, By: by("bob")}, ErrInvalid},
		{"an owner by nobody", evidence.OwnerChange, evidence.OwnerBody{Agent: "bot", Owner: evidence.Person{ID: "bob"}, Reason: "x", By: hr}, ErrInvalid},
		{"who left, again", evidence.PersonLeave, evidence.LeaveBody{Person: "alice@example.com", By: hr}, ErrRetired},
		{"a stranger", evidence.PersonLeave, evidence.LeaveBody{Person: "mallory", By: hr}, ErrUnknown},
		{"the return of who never left", evidence.PersonReturn, evidence.LeaveBody{Person: "bob", By: hr}, ErrUnknown},
	} {
		if err := b.try(c.typ, c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}
