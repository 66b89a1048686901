// Package recorder makes records: it gives each draft its place, commits to
// its parts, seals what is sealed, and says when it is durable.
//
// In flow drafts of records, by key scope; out flow journal entries, in the
// order of their positions, and the registry that the control records among
// them fold to. There is one place where positions are given, and it is also
// where the registry changes: a record made under an older registry than the
// one in force at its own position is turned back (stale), so that a
// revocation once recorded counts for every later command.
package recorder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
)

// Journal is where entries go.
type Journal interface {
	Append(payloads ...[]byte) (journal.LSN, error)
	AppendReserved(payloads ...[]byte) (journal.LSN, error)
	Wait(journal.LSN, journal.Level) error
}

// Keys makes scopes whose secrets are already on disk.
type Keys interface {
	New() (*keys.Scope, error)
}

// State is the registry in force and the number of control records that made
// it.
type State struct {
	Registry *decision.Registry
	Version  uint64
}

// ErrRefused is wrapped when a change of rights is not one that the registry
// can take; nothing was recorded.
var ErrRefused = errors.New("change refused")

// ErrStopped is returned for what comes after the gateway.stop of the boot.
var ErrStopped = errors.New("the gateway has stopped: its last record is written")

// Recorder gives records their places in one boot of one gateway.
type Recorder struct {
	gateway string
	boot    uint64
	journal Journal
	keys    Keys
	now     func() time.Time

	watch func(*evidence.Head, []byte)
	own   *Chain // of records outside sessions
	state atomic.Pointer[State]

	mu      sync.Mutex // gives out seq; held for no I/O
	seq     uint64
	stopped bool // a gateway.stop is recorded
	tally   Tally
}

// Config is what a recorder needs.
type Config struct {
	Gateway  string
	Boot     uint64
	Journal  Journal
	Keys     Keys
	Scope    *keys.Scope // slot 0 of the boot
	Registry *decision.Registry
	Version  uint64 // control records folded into Registry
	Tally    Tally  // of the hour at hand, from the boots before
	Now      func() time.Time
	// Watch is called for each record, in order, once the journal has it. It may
	// keep neither argument, and everything waits for it. Nil is nobody.
	Watch func(*evidence.Head, []byte)
}

// New returns a recorder whose next record is seq 0 of its boot.
func New(c Config) *Recorder {
	r := &Recorder{gateway: c.Gateway, boot: c.Boot, journal: c.Journal, keys: c.Keys, now: c.Now, watch: c.Watch, tally: c.Tally}
	if r.now == nil {
		r.now = time.Now
	}
	r.state.Store(&State{c.Registry, c.Version + 1}) // 0 is no version
	r.own = &Chain{r: r, scope: c.Scope}
	return r
}

// State returns the registry in force.
func (r *Recorder) State() *State { return r.state.Load() }

// Own is the chain of records outside sessions.
func (r *Recorder) Own() *Chain { return r.own }

// Boot is the boot that the recorder writes.
func (r *Recorder) Boot() uint64 { return r.boot }

// Last is the position of the newest record; zero before the first.
func (r *Recorder) Last() evidence.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seq == 0 {
		return evidence.Position{}
	}
	return evidence.Position{Gateway: r.gateway, Boot: r.boot, Seq: r.seq - 1}
}

// Count is the number of records of this boot.
func (r *Recorder) Count() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq
}

// NewChain returns the chain of a new session.
func (r *Recorder) NewChain() (*Chain, error) {
	scope, err := r.keys.New()
	if err != nil {
		return nil, fmt.Errorf("making a session's key: %w", err)
	}
	return &Chain{r: r, scope: scope}, nil
}

// Resume returns the chain of a session of an earlier boot, which had n
// records, so that what a crash left open can be ended in its own scope.
func (r *Recorder) Resume(scope *keys.Scope, session evidence.Position, n uint64) *Chain {
	return &Chain{r: r, scope: scope, session: session, n: n}
}

// Control records changes of rights and puts them in force, all or none: when
// it returns nil they survive the loss of power, and every record after them
// was decided with them. Their positions are in the drafts' heads.
func (r *Recorder) Control(ctx context.Context, drafts ...*evidence.Draft) error {
	for _, d := range drafts {
		if !d.Head.Type.IsControl() {
			return fmt.Errorf("%s is not a control record", d.Head.Type)
		}
	}
	// A control record depends on no registry but the one it is applied to,
	// which happens under the lock: it can't be stale.
	_, err := r.own.Record(ctx, 0, evidence.Power, drafts...)
	return err
}

// Chain is the records of one key scope, in order. It is safe for concurrent
// use; records of one chain are made one after the other.
type Chain struct {
	r     *Recorder
	scope *keys.Scope

	mu      sync.Mutex
	session evidence.Position // zero outside sessions and before session.start
	n       uint64            // ordinal of the last record
	counts  *counts           // of its agent's commands; under the recorder's lock

	// Scratch, so that a record costs no garbage.
	entries  []Entry
	ciphers  []byte
	head     []byte
	buf      []byte
	ends     []int
	payloads [][]byte
}

// Key is the slot of the chain's secret.
func (c *Chain) Key() uint64 { return c.scope.Slot() }

// Digester makes keyed digests in the chain's scope.
func (c *Chain) Digester() evidence.Digester { return c.scope.Digester() }

// Record records drafts next to each other and fills in their heads. Version
// is that of the State they were decided under, or 0 when they hold no
// decision; if another is in force by now, or their agent has reached a limit
// otherwise than they say, nothing is recorded and stale is true. An
// approval.use that names no command is of the intent before it, and what follows
// an import.snapshot is of that. When err is nil
// they are as durable as asked. After an error other than ErrRefused the journal
// is unusable.
func (c *Chain) Record(_ context.Context, version uint64, d evidence.Durability, drafts ...*evidence.Draft) (stale bool, err error) {
	lsn, stale, err := c.append(version, drafts)
	if stale || err != nil {
		return stale, err
	}
	failpoint.Hit("placed")
	level := journal.Written
	if d == evidence.Power {
		level = journal.Synced
	}
	if err := c.r.journal.Wait(lsn, level); err != nil {
		return false, fmt.Errorf("writing the journal: %w", err)
	}
	return false, nil
}

// append commits to the drafts' parts, which is most of the work and needs
// only the chain's own lock, and then gives them their places.
func (c *Chain) append(version uint64, drafts []*evidence.Draft) (lsn journal.LSN, stale bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.ciphers = c.entries[:0], c.ciphers[:0]
	for i, d := range drafts {
		c.entries = append(c.entries, c.commit(d, c.n+1+uint64(i)))
	}
	lsn, stale, err = c.r.place(c, version, drafts)
	if stale || err != nil {
		return 0, stale, err
	}
	c.n += uint64(len(drafts))
	return lsn, false, nil
}

// commit fills in what depends on the ordinal alone: ordinal and commitment.
func (c *Chain) commit(d *evidence.Draft, n uint64) Entry {
	h := &d.Head
	h.N, h.HasBody, h.HasSealed = n, len(d.Body) > 0, len(d.Sealed) > 0
	e := Entry{Body: d.Body, Slot: c.scope.Slot()}
	if !h.HasBody && !h.HasSealed {
		return e
	}
	var body evidence.Hash
	if h.HasBody {
		body = evidence.BodyHash(c.scope.Body().Salt(n), d.Body)
	}
	if h.HasSealed {
		e.SealedHash = evidence.SealedHash(c.scope.Sealed().Salt(n), d.Sealed)
		start := len(c.ciphers)
		c.ciphers = c.scope.Seal(c.ciphers, n, d.Sealed)
		e.Cipher = c.ciphers[start:]
	}
	h.Commitment = evidence.Commit(body, e.SealedHash)
	return e
}

// place gives the drafts of c their positions, folds the control records among
// them and appends their entries to the journal, all under one lock, so that
// order in the journal, order of positions and order of registries are one.
func (r *Recorder) place(c *Chain, version uint64, drafts []*evidence.Draft) (journal.LSN, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return 0, false, ErrStopped
	}
	state := r.state.Load()
	if version != 0 && (version != state.Version || !r.tallied(c, drafts)) {
		return 0, true, nil
	}
	next, session := *state, c.session
	c.buf, c.ends = c.buf[:0], c.ends[:0]
	reserved := true
	for i, d := range drafts {
		h := &d.Head
		h.Pos = evidence.Position{Gateway: r.gateway, Boot: r.boot, Seq: r.seq + uint64(i)}
		if h.Time == 0 {
			h.Time = r.now().UnixMicro()
		}
		if h.Type == evidence.SessionStart && h.Outcome == "" {
			session = h.Pos
		}
		h.Session = session
		switch {
		case i == 0:
		case h.Type == evidence.ApprovalUse:
			h.Of = drafts[i-1].Head.Pos
		case drafts[0].Head.Type == evidence.ImportSnapshot:
			h.Of = drafts[0].Head.Pos
		}
		if err := h.Check(); err != nil {
			return 0, false, fmt.Errorf("recording %s: %w", h.Type, err)
		}
		if h.Type.IsControl() {
			registry, err := next.Registry.Apply(*h, d.Body)
			if err != nil {
				return 0, false, fmt.Errorf("%w: %w", ErrRefused, err)
			}
			next = State{registry, next.Version + 1}
		}
		c.head = evidence.AppendHead(c.head[:0], h)
		c.entries[i].Head = c.head
		c.buf = c.entries[i].Append(c.buf)
		c.ends = append(c.ends, len(c.buf))
		reserved = reserved && h.Type.IsEnding()
	}
	lsn, err := r.send(c, reserved)
	if err != nil {
		return 0, false, fmt.Errorf("writing the journal: %w", err)
	}
	r.seq += uint64(len(drafts))
	r.stopped = len(drafts) > 0 && drafts[len(drafts)-1].Head.Type == evidence.GatewayStop
	r.count(c, drafts)
	if r.watch != nil {
		for _, d := range drafts {
			r.watch(&d.Head, d.Body)
		}
	}
	c.session = session
	if next.Version != state.Version {
		changed := next // which few records are: the others cost no garbage
		r.state.Store(&changed)
	}
	return lsn, false, nil
}

func (r *Recorder) send(c *Chain, reserved bool) (journal.LSN, error) {
	start := 0
	c.payloads = c.payloads[:0]
	for _, end := range c.ends {
		c.payloads = append(c.payloads, c.buf[start:end])
		start = end
	}
	if reserved {
		return r.journal.AppendReserved(c.payloads...)
	}
	return r.journal.Append(c.payloads...)
}
