package gateway

import (
	"errors"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

func (w *world) importPeople(text string) (api.Import, error) {
	return w.Import(w.t.Context(), api.NewImport{Kind: evidence.ImportPeople, Format: "csv", Source: "HR", Query: "everyone", Data: []byte(text)}, packtest.Alice)
}

func withBob(s *Settings) {
	s.People = append(s.People, packtest.Bob.Person)
	s.Config.People = []evidence.Member{{ID: packtest.Alice.Person.ID}, {ID: packtest.Bob.Person.ID}}
}

func TestAnImportOfPeopleSuspendsWhatNobodyAnswersFor(t *testing.T) {
	w := newWorld(t, withBob)
	got, err := w.importPeople("id,left_at\nALICE@example.com,2026-11-20\nbob@example.com,\nstranger@example.com,2026-01-01\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Left) != 1 || got.Left[0].Person != packtest.Alice.Person.ID || strings.Join(got.Left[0].Suspended, " ") != "bot" || got.Rows != 3 || got.Kept != 2 {
		t.Errorf("imported %+v", got)
	}
	a, err := w.agent("bot")
	if err != nil || a.Status != "suspended" || a.Suspended.Position != got.Left[0].Position {
		t.Errorf("the agent is %+v, %v", a, err)
	}
	if l, _ := w.registry().Leaver(packtest.Alice.Person.ID); l.Import.String() != got.Position {
		t.Errorf("the leaver names import %s, it was %s", l.Import, got.Position)
	}
	// The same people again change nothing.
	if again, err := w.importPeople("id,left_at\nalice@example.com,2026-11-20\nbob@example.com,\n"); err != nil || len(again.Left)+len(again.Back) != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := w.AddAgent(t.Context(), api.NewAgent{ID: "next", Purpose: "x", Owner: packtest.Alice.Person.ID}, packtest.Bob); err == nil {
		t.Error("somebody who left owns a new agent")
	}
	if _, err := w.ChangeOwner(t.Context(), "bot", api.NewOwner{Owner: packtest.Alice.Person.ID, Reason: "x"}, packtest.Bob); err == nil {
		t.Error("somebody who left owns the agent again")
	}
	back, err := w.importPeople("id,left_at\nalice@example.com,\nbob@example.com,\n")
	if err != nil || len(back.Back) != 1 {
		t.Errorf("back: %+v, %v", back, err)
	}
	if a, _ := w.agent("bot"); a.Status != "suspended" {
		t.Error("a return resumes by itself")
	}
	if a, err := w.ChangeOwner(t.Context(), "bot", api.NewOwner{Owner: packtest.Bob.Person.ID, Reason: "taken over"}, packtest.Bob); err != nil || a.Status != "active" {
		t.Errorf("with another owner: %+v, %v", a, err)
	}
}

func TestAnImportOfTicketsKeepsWhoAndWhen(t *testing.T) {
	w := newWorld(t, withBob)
	text := "id,summary,status,created_at,closed_at,requester,approver\nOPS-1,secret plan,open,2026-11-01,,ALICE@example.com,stranger@example.com;bob@example.com\n"
	got, err := w.Import(t.Context(), api.NewImport{Kind: evidence.ImportTickets, Format: "csv", Source: "desk", Query: "everything", Data: []byte(text)}, packtest.Alice)
	if err != nil || got.Rows != 1 || got.Kept != 1 {
		t.Fatalf("imported %+v, %v", got, err)
	}
	at, err := evidence.ParsePosition(got.Position)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.recordAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	b := decoded[evidence.ImportBody](r.Body)
	var rows []evidence.TicketRow
	if err := evidence.DecodeBody(b.Data, &rows); err != nil || len(rows) != 1 || rows[0].Requester != packtest.Alice.Person.ID || strings.Join(rows[0].Approvers, " ") != packtest.Bob.Person.ID {
		t.Errorf("rows %+v, %v", rows, err)
	}
	if strings.Contains(string(r.Body), "secret") || strings.Contains(string(r.Body), "stranger") || b.Source != "desk" || b.Query != "everything" || b.By.Person.ID != packtest.Alice.Person.ID {
		t.Errorf("the record is %s", r.Body)
	}
}

func TestABadImportLeavesNoTrace(t *testing.T) {
	w := newWorld(t, withBob)
	before := w.recorder.Count()
	var p *api.Problem
	if _, err := w.importPeople("id,left_at\nalice@example.com,2026-11-20\nbob@example.com,soon\n"); !errors.As(err, &p) || !strings.Contains(p.Message, "line 3, column 17") {
		t.Errorf("the error is %v", err)
	}
	if n := w.recorder.Count(); n != before {
		t.Errorf("%d records of it", n-before)
	}
}
