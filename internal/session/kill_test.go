package session_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// A killed session begins nothing more, whatever its agent's rights are; the
// others go on.
func TestAKilledSessionIsOver(t *testing.T) {
	f := newFixture(t, session.Limits{})
	s, other := f.open(t), f.open(t)
	shape := selectShape("public.t")
	x := begin(t, s, &evidence.Command{Shape: shape})[0]
	cause := &protocol.Refusal{Kind: protocol.ErrDenied, Reason: "killed by a test"}
	f.gate.Kill(cause, s.ID(), "gw1.9.9")
	select {
	case <-s.Done():
	default:
		t.Fatal("it goes on")
	}
	if err := s.Cause(); err == nil || err.Error() != cause.Reason {
		t.Errorf("it ends for %v", err)
	}
	if _, err := s.Begin(t.Context(), &evidence.Command{Shape: shape}); !errors.Is(err, protocol.ErrDenied) {
		t.Errorf("a command after it: %v", err)
	}
	// What was under way has an end, and so has the session.
	if err := s.Close(protocol.SessionEnd{Reason: s.Cause().Error()}); err != nil {
		t.Fatal(err)
	}
	if err := x.End(t.Context(), evidence.Outcome{Class: evidence.OK}); err == nil {
		t.Error("a command ends after its session")
	}
	last := f.records[len(f.records)-1]
	if last.Head.Type != evidence.SessionEnd || !strings.Contains(string(last.Body), cause.Reason) {
		t.Errorf("the last record is %s: %s", last.Head.Type, last.Body)
	}
	begin(t, other, &evidence.Command{Shape: shape})
	if n := f.gate.OpenSessions(); n != 1 {
		t.Errorf("%d sessions are open", n)
	}
}
