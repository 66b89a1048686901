package recorder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
)

// tape is a journal in memory.
type tape struct {
	mu       sync.Mutex
	payloads [][]byte
	reserved []bool
	waits    []journal.Level
	fail     error
}

func (t *tape) add(reserved bool, payloads [][]byte) (journal.LSN, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		return 0, t.fail
	}
	for _, p := range payloads {
		t.payloads, t.reserved = append(t.payloads, bytes.Clone(p)), append(t.reserved, reserved)
	}
	return journal.LSN(len(t.payloads)), nil
}
func (t *tape) Append(p ...[]byte) (journal.LSN, error)         { return t.add(false, p) }
func (t *tape) AppendReserved(p ...[]byte) (journal.LSN, error) { return t.add(true, p) }
func (t *tape) Wait(_ journal.LSN, l journal.Level) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits = append(t.waits, l)
	return t.fail
}

// records reads the tape back, checking every commitment.
func (t *tape) records(tb testing.TB, st *keys.Store) []evidence.Record {
	tb.Helper()
	var out []evidence.Record
	for _, p := range t.payloads {
		e, err := DecodeEntry(p)
		if err != nil {
			tb.Fatal(err)
		}
		h, err := evidence.ParseHead(string(e.Head))
		if err != nil {
			tb.Fatal(err)
		}
		boot := h.Pos.Boot
		if !h.Session.IsZero() {
			boot = h.Session.Boot
		}
		scope, err := st.Scope(boot, e.Slot)
		if err != nil {
			tb.Fatal(err)
		}
		r := evidence.Record{Head: h, HeadBytes: e.Head, Body: e.Body, SealedHash: e.SealedHash}
		if err := r.CheckBody(scope.Body()); err != nil {
			tb.Fatal(err)
		}
		if h.HasSealed {
			if r.Sealed, err = scope.Open(h.N, e.Cipher); err != nil {
				tb.Fatal(err)
			}
			if err := r.CheckSealed(scope.Sealed().Salt(h.N), r.Sealed); err != nil {
				tb.Fatal(err)
			}
		}
		out = append(out, r)
	}
	return out
}

func newRecorder(t testing.TB, boot uint64) (*Recorder, *keys.Store) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	st, err := keys.Open(t.TempDir(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newBoot(t, st, boot), st
}

func newBoot(t testing.TB, st *keys.Store, boot uint64) *Recorder {
	t.Helper()
	scope, err := st.NewBoot(boot)
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{
		Gateway: "gw1", Boot: boot, Journal: &tape{}, Keys: st, Scope: scope, Registry: decision.New(),
		Now: func() time.Time { return time.UnixMicro(1795401578000000) },
	})
}

var alice = evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}

func agentDraft(id string) *evidence.Draft {
	return &evidence.Draft{
		Head: evidence.Head{Type: evidence.AgentCreate},
		Body: evidence.EncodeBody(evidence.AgentBody{Agent: id, Purpose: "test", Owner: alice.Person, By: alice}),
	}
}

func mustRecord(t testing.TB, c *Chain, drafts ...*evidence.Draft) {
	t.Helper()
	if stale, err := c.Record(context.Background(), 0, evidence.Process, drafts...); err != nil || stale {
		t.Fatalf("Record: stale %t, %v", stale, err)
	}
}

func TestRecordsHavePlacesWithoutHolesAndPartsThatProveThemselves(t *testing.T) {
	r, st := newRecorder(t, 3)
	mustRecord(t, r.Own(), &evidence.Draft{Head: evidence.Head{Type: evidence.GatewayStart}, Body: []byte(`{}`)})
	s, err := r.NewChain()
	if err != nil {
		t.Fatal(err)
	}
	start := &evidence.Draft{Head: evidence.Head{Type: evidence.SessionStart, Key: s.Key(), Effect: evidence.Allow}, Body: []byte(`{"a":1}`)}
	mustRecord(t, s, start)
	mustRecord(t, s,
		&evidence.Draft{Head: evidence.Head{Type: evidence.CommandIntent}, Body: []byte(`{"b":1}`), Sealed: []byte(`{"raw":"eA=="}`)},
		&evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Rows: 1}})
	mustRecord(t, r.Own(), &evidence.Draft{Head: evidence.Head{Type: evidence.Authn}, Sealed: []byte(`{"user":"x"}`)})

	var got []string
	for _, rec := range r.journal.(*tape).records(t, st) {
		got = append(got, fmt.Sprintf("%s n=%d sess=%s", rec.Head.Pos, rec.Head.N, rec.Head.Session))
	}
	want := []string{
		"gw1.3.0 n=1 sess=", "gw1.3.1 n=1 sess=gw1.3.1", "gw1.3.2 n=2 sess=gw1.3.1", "gw1.3.3 n=3 sess=gw1.3.1", "gw1.3.4 n=2 sess=",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestARecordDecidedUnderAnOlderRegistryIsTurnedBack(t *testing.T) {
	r, _ := newRecorder(t, 1)
	old := r.State().Version
	if err := r.Control(context.Background(), agentDraft("bot")); err != nil {
		t.Fatal(err)
	}
	s, _ := r.NewChain()
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.CommandIntent}}
	if stale, err := s.Record(context.Background(), old, evidence.Process, d); err != nil || !stale {
		t.Fatalf("stale %t, %v", stale, err)
	}
	if stale, err := s.Record(context.Background(), r.State().Version, evidence.Process, d); err != nil || stale {
		t.Fatalf("under the registry in force: stale %t, %v", stale, err)
	}
	if d.Head.N != 1 || d.Head.Pos.Seq != 1 {
		t.Errorf("the turned-back record left a hole: n %d, seq %d", d.Head.N, d.Head.Pos.Seq)
	}
}

func TestAChangeThatTheRegistryRefusesIsNotRecorded(t *testing.T) {
	r, _ := newRecorder(t, 1)
	if err := r.Control(context.Background(), agentDraft("bot")); err != nil {
		t.Fatal(err)
	}
	before := r.State()
	if err := r.Control(context.Background(), agentDraft("new"), agentDraft("bot")); !errors.Is(err, ErrRefused) {
		t.Fatalf("a duplicate agent: %v", err)
	}
	if r.State() != before || len(r.journal.(*tape).payloads) != 1 {
		t.Error("a refused change left a trace")
	}
	d := agentDraft("new")
	if err := r.Control(context.Background(), d); err != nil || d.Head.Pos.Seq != 1 {
		t.Errorf("the change after it: %s, %v", d.Head.Pos, err)
	}
}

func TestOnlyEndingsMayUseTheReservedSpace(t *testing.T) {
	r, _ := newRecorder(t, 1)
	s, _ := r.NewChain()
	mustRecord(t, s, &evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult}}, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionEnd}})
	mustRecord(t, s, &evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult}}, &evidence.Draft{Head: evidence.Head{Type: evidence.CommandIntent}})
	if got := fmt.Sprint(r.journal.(*tape).reserved); got != "[true true false false]" {
		t.Errorf("reserved: %s", got)
	}
}

func TestDurabilityIsTheOneAskedFor(t *testing.T) {
	r, _ := newRecorder(t, 1)
	s, _ := r.NewChain()
	for _, d := range []evidence.Durability{evidence.Process, evidence.Power} {
		if _, err := s.Record(context.Background(), 0, d, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionNote}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.journal.(*tape).waits; fmt.Sprint(got) != fmt.Sprint([]journal.Level{journal.Written, journal.Synced}) {
		t.Errorf("waits %v", got)
	}
}

func TestAHeadThatCannotBeEncodedIsRefused(t *testing.T) {
	r, _ := newRecorder(t, 1)
	s, _ := r.NewChain()
	if _, err := s.Record(context.Background(), 0, evidence.Process, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionNote, Agent: "a\nb"}}); !errors.Is(err, evidence.ErrHead) {
		t.Fatalf("a newline in a head: %v", err)
	}
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.SessionNote}}
	mustRecord(t, s, d)
	if d.Head.Pos.Seq != 0 || d.Head.N != 1 {
		t.Errorf("the refused record left a hole: %s n=%d", d.Head.Pos, d.Head.N)
	}
}

func TestACrashLeavesDoubtsAndNothingOpen(t *testing.T) {
	r, st := newRecorder(t, 1)
	s, _ := r.NewChain()
	start := &evidence.Draft{Head: evidence.Head{Type: evidence.SessionStart, Key: s.Key(), Effect: evidence.Allow, Agent: "bot"}, Body: []byte(`{}`)}
	intent := func() *evidence.Draft {
		return &evidence.Draft{Head: evidence.Head{Type: evidence.CommandIntent, Effect: evidence.Allow}}
	}
	a, b, refused := intent(), intent(), intent()
	refused.Head.Effect, refused.Head.Outcome = evidence.Deny, evidence.Denied
	mustRecord(t, s, start)
	mustRecord(t, s, a, b, refused)
	mustRecord(t, s, &evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Of: a.Head.Pos, Outcome: evidence.OK}})
	ended, _ := r.NewChain()
	mustRecord(t, ended, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionStart, Key: ended.Key(), Effect: evidence.Allow}})
	mustRecord(t, ended, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionEnd}})

	var past Past
	for _, rec := range r.journal.(*tape).records(t, st) {
		if err := past.Add(rec.Head); err != nil {
			t.Fatal(err)
		}
	}
	if past.Open() != 1 || past.Clean || past.Last.Seq != 6 {
		t.Fatalf("open %d, clean %t, last %s", past.Open(), past.Clean, past.Last)
	}

	again, err := keys.Open(t.TempDir(), mustIdentity(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	next := newBoot(t, again, 2)
	doubts, err := next.Recover(context.Background(), &past, st)
	if err != nil || doubts != 1 {
		t.Fatalf("Recover = %d, %v", doubts, err)
	}
	var got []string
	for _, rec := range next.journal.(*tape).records(t, st) {
		got = append(got, fmt.Sprintf("%s %s of=%s %s sess=%s n=%d", rec.Head.Pos, rec.Head.Type, rec.Head.Of, rec.Head.Outcome, rec.Head.Session, rec.Head.N))
	}
	want := []string{
		fmt.Sprintf("gw1.2.0 command.result of=%s in_doubt sess=%s n=6", b.Head.Pos, start.Head.Pos),
		fmt.Sprintf("gw1.2.1 session.end of=%s in_doubt sess=%s n=7", start.Head.Pos, start.Head.Pos),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func mustIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAnEntryDecodesToWhatItWas(t *testing.T) {
	for _, e := range []Entry{
		{Head: []byte("h")},
		{Head: []byte("h"), Body: []byte("b"), Slot: 300},
		{Head: []byte("h"), Cipher: []byte("c"), SealedHash: evidence.Hash{1}, Slot: 1},
	} {
		b := e.Append(nil)
		got, err := DecodeEntry(b)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(e) {
			t.Errorf("got %v, %v, want %v", got, err, e)
		}
		for n := range b {
			if _, err := DecodeEntry(b[:n]); !errors.Is(err, ErrEntry) {
				t.Errorf("%d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := DecodeEntry(append(bytes.Clone(b), 0)); !errors.Is(err, ErrEntry) {
			t.Errorf("a byte too many: %v", err)
		}
	}
}

func TestManyWritersMakeOneSequence(t *testing.T) {
	r, st := newRecorder(t, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, err := r.NewChain()
			if err != nil {
				t.Error(err)
				return
			}
			for range 50 {
				mustRecord(t, c, &evidence.Draft{Head: evidence.Head{Type: evidence.SessionNote}, Body: []byte(`{}`)})
			}
		})
	}
	wg.Wait()
	for i, rec := range r.journal.(*tape).records(t, st) {
		if rec.Head.Pos.Seq != uint64(i) {
			t.Fatalf("entry %d has seq %d", i, rec.Head.Pos.Seq)
		}
	}
}

type null struct{ n journal.LSN }

func (j *null) Append(p ...[]byte) (journal.LSN, error)         { j.n++; return j.n, nil }
func (j *null) AppendReserved(p ...[]byte) (journal.LSN, error) { j.n++; return j.n, nil }
func (j *null) Wait(journal.LSN, journal.Level) error           { return nil }

func BenchmarkRecord(b *testing.B) {
	r, _ := newRecorder(b, 1)
	r.journal = &null{}
	c, _ := r.NewChain()
	body, sealed := bytes.Repeat([]byte("b"), 300), bytes.Repeat([]byte("s"), 60)
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.CommandIntent, Agent: "bot", Resource: "orders"}, Body: body, Sealed: sealed}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Record(context.Background(), 0, evidence.Process, d); err != nil {
			b.Fatal(err)
		}
	}
}

// What is busy while the gateway stops writes nothing behind its last record,
// which says that all ended well.
func TestNothingComesAfterTheStop(t *testing.T) {
	r, st := newRecorder(t, 1)
	mustRecord(t, r.Own(), &evidence.Draft{Head: evidence.Head{Type: evidence.GatewayStop}, Body: []byte(`{}`)})
	for _, typ := range []evidence.Type{evidence.OwnUpstream, evidence.Heartbeat, evidence.GatewayStop} {
		if _, err := r.Own().Record(t.Context(), 0, evidence.Process, &evidence.Draft{Head: evidence.Head{Type: typ}, Body: []byte(`{}`)}); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if n := len(r.journal.(*tape).records(t, st)); n != 1 {
		t.Errorf("%d records", n)
	}
}
