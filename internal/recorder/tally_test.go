package recorder

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const hourMicros = int64(time.Hour / time.Microsecond)

func command(path, verb string, at int64) *evidence.Draft {
	return &evidence.Draft{
		Head:   evidence.Head{Type: evidence.CommandIntent, Time: at, Agent: "bot", Verb: verb, Effect: evidence.Allow},
		Body:   evidence.EncodeBody(evidence.IntentBody{Path: path, Parse: evidence.ParseFull}),
		Counts: !evidence.Unbound(path),
	}
}

// sessionOf begins a session of bot's.
func sessionOf(t *testing.T, r *Recorder) *Chain {
	t.Helper()
	c, err := r.NewChain()
	if err != nil {
		t.Fatal(err)
	}
	mustRecord(t, c, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionStart, Key: c.Key(), Effect: evidence.Allow, Agent: "bot"}, Body: []byte(`{}`)})
	return c
}

// What is counted live is what is folded of the log.
func TestCountsAreThoseOfTheLog(t *testing.T) {
	r, st := newRecorder(t, 1)
	c := sessionOf(t, r)
	hour := 1795400000 / 3600 * hourMicros
	denied, skipped := command("simple", "write", hour), command("simple", "write", hour)
	denied.Head.Effect, denied.Head.Outcome = evidence.Deny, evidence.Denied
	skipped.Head.Outcome = evidence.Skipped
	mustRecord(t, c,
		command("simple", "read", hour), command("extended", "write", hour), command("execute", "admin", hour+hourMicros-1), command("simple", "session", hour),
		command("prepare", "write", hour), command("fetch", "read", hour), command("connect", "connect", hour),
		denied, skipped,
		command("simple", "write", hour+hourMicros), command("simple", "write", hour-1))
	var folded Tally
	for _, rec := range r.journal.(*tape).records(t, st) {
		folded.Add(&rec)
	}
	for _, want := range []struct{ at, commands, writes int64 }{
		{hour, 4, 2}, {hour + hourMicros, 1, 1}, {hour - 1, 1, 1}, {hour + 5*hourMicros, 0, 0},
	} {
		live, written := r.Counted("bot", want.at)
		of := folded.of("bot").at(HourOf(want.at))
		if live != want.commands || written != want.writes || *of != (hourWith(want.at, want.commands, want.writes)) {
			t.Errorf("hour %d: live %d, %d, folded %+v, want %d, %d", HourOf(want.at), live, written, *of, want.commands, want.writes)
		}
	}
	if n, _ := r.Counted("another", hour); n != 0 {
		t.Errorf("another agent has %d", n)
	}
}

func hourWith(at, commands, writes int64) hour { return hour{HourOf(at), commands, writes} }

func TestADraftThatTheCountsContradictIsStale(t *testing.T) {
	r, _ := newRecorder(t, 1)
	c := sessionOf(t, r)
	version := r.State().Version
	record := func(drafts ...*evidence.Draft) bool {
		t.Helper()
		stale, err := c.Record(context.Background(), version, evidence.Process, drafts...)
		if err != nil {
			t.Fatal(err)
		}
		return stale
	}
	write := func(commands, writes int64, over bool) *evidence.Draft {
		d := command("simple", "write", 5*hourMicros)
		d.Commands, d.Writes, d.OverLimit = commands, writes, over
		if over {
			d.Head.Effect, d.Head.Outcome = evidence.Deny, evidence.Denied
		}
		return d
	}
	before := r.Count()
	if !record(write(0, 2, false), write(0, 2, false), write(0, 2, false)) || !record(write(2, 0, true)) || r.Count() != before {
		t.Fatalf("%d records of what can't be", r.Count()-before)
	}
	if record(write(0, 2, false), write(0, 2, false), write(0, 2, true)) {
		t.Error("what is right was turned back")
	}
	read := command("simple", "read", 5*hourMicros)
	read.Writes = 2
	if record(read) { // limits of writes bind writes
		t.Error("a read was held to a limit of writes")
	}
	if !record(write(3, 0, false)) || record(write(4, 0, false)) {
		t.Error("reads don't count as commands")
	}
}

func TestALimitIsExactHoweverManyAsk(t *testing.T) {
	r, _ := newRecorder(t, 1)
	version := r.State().Version
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		c := sessionOf(t, r)
		wg.Go(func() {
			for range 20 {
				d := command("simple", "write", 5*hourMicros)
				d.Commands = 50
				stale, err := c.Record(context.Background(), version, evidence.Process, d)
				if err != nil {
					t.Error(err)
				}
				if !stale {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n, _ := r.Counted("bot", 5*hourMicros); passed.Load() != 50 || n != 50 {
		t.Errorf("%d passed, %d counted", passed.Load(), n)
	}
}

// The clock may be set back; what is kept for that is bounded.
func TestHoursAreForgottenFromTheOldestOn(t *testing.T) {
	var c counts
	for h := range int64(100) {
		c.at(h).add("write")
	}
	if len(c.hours) != maxHours || c.at(99).commands != 1 || c.at(97).writes != 1 || len(c.hours) != maxHours {
		t.Errorf("%+v", c.hours)
	}
}

func TestTheUseOfAnApprovalIsOfTheIntentBeforeItOrNothingIsRecorded(t *testing.T) {
	r, _ := newRecorder(t, 1)
	c := sessionOf(t, r)
	before := r.Count()
	use := &evidence.Draft{Head: evidence.Head{Type: evidence.ApprovalUse}, Body: evidence.EncodeBody(evidence.ApprovalUseBody{Request: "gw1.1.1", Digest: "x"})}
	_, err := c.Record(context.Background(), r.State().Version, evidence.Power, command("simple", "write", 1), use)
	if !errors.Is(err, ErrRefused) || r.Count() != before {
		t.Errorf("%d records, %v", r.Count()-before, err)
	}
	if n, _ := r.Counted("bot", 1); n != 0 {
		t.Errorf("%d commands are counted that were not recorded", n)
	}
	if want := (evidence.Position{Gateway: "gw1", Boot: 1, Seq: before}); use.Head.Of != want {
		t.Errorf("the use is of %s, not %s", use.Head.Of, want)
	}
}
