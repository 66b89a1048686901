package session

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// exchange is one command on its way.
type exchange struct {
	s        *Session
	draft    evidence.Draft // of the intent
	pos      evidence.Position
	began    time.Time
	decision *evidence.Decision
	skipped  bool

	stream *stream // nil until something is observed
	end    evidence.Draft
	ends   [1]*evidence.Draft
}

// batch is what commands that begin together need. Most come alone: then all
// of it is one allocation.
type batch struct {
	exchanges []exchange
	drafts    []*evidence.Draft
	out       []protocol.Exchange

	want  *want // the command that needs people; nil when none does
	had   *want // the same, when an approval for it was found
	uses  []use // of approvals
	ahead counted

	one struct {
		exchange [1]exchange
		draft    [1]*evidence.Draft
		out      [1]protocol.Exchange
		sealed   [192]byte
	}
}

func newBatch(n int) *batch {
	b := &batch{}
	if n == 1 {
		b.exchanges, b.drafts, b.out = b.one.exchange[:], b.one.draft[:], b.one.out[:]
		return b
	}
	b.exchanges, b.drafts, b.out = make([]exchange, n), make([]*evidence.Draft, n), make([]protocol.Exchange, n)
	return b
}

// sealed is room for the sealed part of command i.
func (b *batch) sealed(i int) []byte {
	if i > 0 {
		return nil
	}
	return b.one.sealed[:0]
}

// stream is what was observed of content flowing within a command. The two
// directions are digested apart, since they interleave as they like.
type stream struct {
	mu      sync.Mutex
	bytes   [2]uint64
	digests [2]digest
	sum     [sha256.Size]byte // room for one of them

	kept    [2]uint64      // bytes of content that is kept
	keeps   bool           // there is such content
	keeping sync.WaitGroup // what of it is being recorded
}

// digest is a running one. A session keeps those that are done for its next
// commands: making one costs more than digesting a short content.
type digest interface {
	Write([]byte) (int, error)
	Sum([]byte) []byte
	Reset()
}

var _ protocol.Exchange = (*exchange)(nil)

// Decision implements protocol.Exchange.
func (x *exchange) Decision() *evidence.Decision { return x.decision }

// Skipped implements protocol.Exchange.
func (x *exchange) Skipped() bool { return x.skipped }

// Position implements protocol.Exchange.
func (x *exchange) Position() evidence.Position { return x.pos }

// Observe implements protocol.Exchange. The digest is keyed with the session's
// secret: a guess at the content can't be confirmed without it.
func (x *exchange) Observe(dir evidence.Direction, b []byte) error {
	x.s.mu.Lock()
	st := x.streamed()
	x.s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.digests[dir] == nil {
		st.digests[dir] = x.s.digest()
	}
	st.bytes[dir] += uint64(len(b))
	_, err := st.digests[dir].Write(b)
	return err
}

// streamed is where what is observed is summed up; s.mu is held.
func (x *exchange) streamed() *stream {
	if x.stream == nil {
		x.stream = &stream{}
	}
	return x.stream
}

// Keep implements protocol.Exchange. What comes when much is kept already is
// digested like the rest, and left out.
func (x *exchange) Keep(ctx context.Context, dir evidence.Direction, pieces ...evidence.Piece) error {
	s := x.s
	s.mu.Lock()
	if _, open := s.open[x]; !open {
		s.mu.Unlock()
		return errEnded
	}
	st := x.streamed()
	st.keeps = true
	st.keeping.Add(1) // so that it is on record before the end
	s.mu.Unlock()
	defer st.keeping.Done()

	body := evidence.ContentBody{To: "upstream"}
	durability := evidence.Power
	if dir == evidence.ToAgent {
		body.To, durability = "agent", evidence.Process
	}
	digest := s.digest()
	for _, p := range pieces {
		body.Bytes += uint64(len(p.Data))
		if _, err := digest.Write(p.Data); err != nil {
			return err
		}
	}
	body.Digest = base64.RawURLEncoding.EncodeToString(digest.Sum(nil))
	digest.Reset()
	s.digests.Put(digest)
	st.mu.Lock()
	st.kept[dir] += body.Bytes
	body.Left = st.kept[dir] > evidence.MaxContent
	st.mu.Unlock()
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.CommandContent, Agent: s.agent, Resource: s.resource, Of: x.pos},
		Body: evidence.EncodeBody(body),
	}
	if !body.Left {
		d.Sealed = evidence.EncodeBody(evidence.ContentSealed{Pieces: pieces})
	}
	return s.record(ctx, durability, d)
}

// errEnded is what a second End gets.
var errEnded = errors.New("the command has ended already")

// End implements protocol.Exchange.
func (x *exchange) End(ctx context.Context, o evidence.Outcome) error {
	s := x.s
	s.mu.Lock()
	if _, open := s.open[x]; !open {
		s.mu.Unlock()
		return errEnded
	}
	delete(s.open, x)
	if st := x.stream; st != nil && st.keeps {
		s.mu.Unlock()
		st.keeping.Wait()
		s.mu.Lock()
	}
	x.ends[0] = x.result(o)
	last := s.leaving != nil && s.idle()
	s.mu.Unlock()
	if last {
		defer time.AfterFunc(courtesy, s.depart)
	}
	failpoint.Hit("answered")
	if err := s.record(ctx, evidence.Process, x.ends[:]...); err != nil {
		return err
	}
	failpoint.Hit("ended")
	return nil
}

// result makes the record of how x ended; s.mu is held.
func (x *exchange) result(o evidence.Outcome) *evidence.Draft {
	now := x.s.gate.Now()
	d := &x.end
	*d = evidence.Draft{Head: evidence.Head{
		Type: evidence.CommandResult, Time: now.UnixMicro(), Of: x.pos,
		Outcome: o.Class, Code: o.Code, Rows: o.Rows, Reply: o.Reply,
		Micros: micros(now.Sub(x.began)),
	}}
	if x.stream != nil {
		x.stream.report(d, &x.s.digests)
	}
	if o.Detail != "" {
		d.Sealed = evidence.EncodeBody(evidence.ResultSealed{Detail: o.Detail})
	}
	return d
}

// digest returns a running digest keyed with the session's secret.
func (s *Session) digest() digest {
	if h, ok := s.digests.Get().(digest); ok {
		return h
	}
	return s.chain.Digester().New()
}

// report writes what was observed into the record of how the command ended, and
// gives the digests back. What is observed later is on no record.
func (st *stream) report(d *evidence.Draft, done *sync.Pool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	d.Head.Bytes = st.bytes[evidence.ToUpstream]
	digest := make([]byte, 0, 2*43) // a SHA-256 takes 43 in base64
	for i, h := range st.digests {
		if h != nil {
			digest = base64.RawURLEncoding.AppendEncode(digest, h.Sum(st.sum[:0]))
			h.Reset()
			done.Put(h)
			st.digests[i] = nil
		}
	}
	d.Body = evidence.AppendResultBody(make([]byte, 0, 128), st.bytes[evidence.ToUpstream]+st.bytes[evidence.ToAgent], digest)
}

// micros is a length of time; the wall clock may have been set back meanwhile.
func micros(d time.Duration) uint64 { return uint64(max(d, 0).Microseconds()) }

// use is that of an approval, by command i of a batch.
type use struct {
	i      int
	digest string
	draft  evidence.Draft
}

// placed are the drafts of a batch in order: each use directly after its intent.
func (b *batch) placed() []*evidence.Draft {
	if len(b.uses) == 0 {
		return b.drafts
	}
	all := make([]*evidence.Draft, 0, len(b.drafts)+len(b.uses))
	left := b.uses
	for i, d := range b.drafts {
		all = append(all, d)
		if len(left) > 0 && left[0].i == i {
			all = append(all, &left[0].draft)
			left = left[1:]
		}
	}
	return all
}

// decided is what policy said of a shape, and the body that says so.
type decided struct {
	counts   bool // towards the limits of an hour
	version  uint64
	at       int64 // when
	decision evidence.Decision
	body     []byte
}

// shapeCache remembers decisions by shape. An entry is good for one version of
// the registry, until the decision could change by itself and, should the clock
// be set back, from when it was made.
type shapeCache struct {
	mu sync.Mutex
	m  map[*evidence.Shape]*decided
}

// maxShapes bounds a session's cache; an agent that asks more different things
// starts over, which costs it decisions and nothing else.
const maxShapes = 128

func (c *shapeCache) decided(shape *evidence.Shape, version uint64, now int64, ask func() decided) *decided {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.m[shape]; d != nil && d.version == version && now >= d.at && (d.decision.Until == 0 || now < d.decision.Until) {
		return d
	}
	if c.m == nil || len(c.m) >= maxShapes {
		c.m = make(map[*evidence.Shape]*decided)
	}
	d := ask()
	d.version, d.at = version, now
	c.m[shape] = &d
	return &d
}
