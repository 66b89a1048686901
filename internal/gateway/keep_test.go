package gateway

import (
	"errors"
	"net/http"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// A session is erased on record, unless a legal hold stands or it is open; and
// what a crash left undone the next start does.
func TestASessionIsErasedOnRecord(t *testing.T) {
	w := newWorld(t)
	c, start := w.open()
	w.secretly(c, "select 'quince-4711'")
	w.end(c, start)
	e := api.Erasure{Session: start.String(), Basis: "request of the person concerned"}
	hold, err := w.PlaceHold(t.Context(), api.NewHold{Matter: "case 12", Reason: "litigation"}, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Erase(t.Context(), e, packtest.Alice); problemStatus(err) != http.StatusUnprocessableEntity {
		t.Errorf("under a legal hold: %v", err)
	}
	if _, err := w.keys.Scope(start.Boot, c.Key()); err != nil {
		t.Errorf("the key under a hold: %v", err)
	}
	if _, err := w.LiftHold(t.Context(), hold.ID, "closed", packtest.Alice); err != nil {
		t.Fatal(err)
	}
	for _, none := range []string{"gw1.1.0", "gw1.9.9", "none"} {
		if _, err := w.Erase(t.Context(), api.Erasure{Session: none, Basis: "b"}, packtest.Alice); problemStatus(err) == 0 {
			t.Errorf("%s is erased: %v", none, err)
		}
	}
	done, err := w.Erase(t.Context(), e, packtest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.keys.Scope(start.Boot, c.Key()); !errors.Is(err, keys.ErrShredded) {
		t.Errorf("the key of the erased session %s: %v", done.Session, err)
	}
	if n := w.count(evidence.Redaction); n != 1 {
		t.Errorf("%d erasures are on record", n)
	}
	if _, err := w.Erase(t.Context(), e, packtest.Alice); problemStatus(err) != http.StatusConflict {
		t.Errorf("again: %v", err)
	}
}

// What is on record as erased and, by a crash, isn't yet is erased at the start.
func TestAnErasureIsFinishedByTheNextStart(t *testing.T) {
	w := newWorld(t)
	c, start := w.open()
	w.secretly(c, "select 'quince-4711'")
	w.end(c, start)
	key := c.Key()
	if _, err := w.control(t.Context(), evidence.Head{Type: evidence.Redaction},
		evidence.RedactionBody{Session: start, Slot: key, Basis: "retention", By: packtest.Alice}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.keys.Scope(start.Boot, key); err != nil {
		t.Fatal(err)
	}
	if err := w.erase(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.keys.Scope(start.Boot, key); !errors.Is(err, keys.ErrShredded) {
		t.Errorf("its key: %v", err)
	}
}

// Where rights need two people, the first only asks.
func TestAnErasureIsAskedForAndApproved(t *testing.T) {
	w := newWorld(t, func(s *Settings) {
		s.People = []evidence.Person{packtest.Alice.Person, packtest.Bob.Person}
		s.Config.People = []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: packtest.Bob.Person.ID}}
		s.Config.Separation = evidence.SeparationRequired
	})
	c, start := w.open()
	w.end(c, start)
	e := api.Erasure{Session: start.String(), Basis: "retention"}
	asked, err := w.Erase(t.Context(), e, packtest.Alice)
	if err != nil || asked.Request == "" || asked.Position != "" {
		t.Fatalf("%+v, %v", asked, err)
	}
	e.Request = asked.Request
	if _, err := w.Erase(t.Context(), e, packtest.Alice); problemStatus(err) == 0 {
		t.Errorf("without an approval: %v", err)
	}
	if _, err := w.AnswerApproval(t.Context(), asked.Request, evidence.Approved, api.Answer{}, packtest.Alice); problemStatus(err) == 0 {
		t.Errorf("approved by who asked: %v", err)
	}
	if _, err := w.AnswerApproval(t.Context(), asked.Request, evidence.Approved, api.Answer{}, packtest.Bob); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Erase(t.Context(), e, packtest.Alice); err != nil {
		t.Fatal(err)
	}
	if _, err := w.keys.Scope(start.Boot, c.Key()); !errors.Is(err, keys.ErrShredded) {
		t.Errorf("its key: %v", err)
	}
}
