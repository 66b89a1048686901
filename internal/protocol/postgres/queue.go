package postgres

import (
	"slices"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// entryKind says how the server answers what an entry stands for.
type entryKind uint8

const (
	queryEntry    entryKind = iota // Query: results, then ReadyForQuery
	callEntry                      // FunctionCall: its response, then ReadyForQuery
	extendedEntry                  // one answer to each frame of the extended protocol
	failingEntry                   // the gateway's own frame, answered with an error
)

// entry is what was forwarded together and is answered together: a command, or
// frames that belong to none.
type entry struct {
	ex      protocol.Exchange // nil: no command
	n       int               // its number in the session, from 1
	kind    entryKind
	pending int  // answers due before that to the Sync
	execute bool // one of them completes an Execute
	sync    bool // ends with ReadyForQuery
	parse   *prepared
	closes  []object           // in order
	un      *sql.Understanding // of what is run; nil where nothing is
	refusal *failure           // what the agent is told in place of a failing entry's error

	// How far the answer has come; the server's goroutine alone.
	ended  bool // the outcome is recorded, or there is none to record
	held   bool // it is complete but for what ReadyForQuery says
	rows   uint64
	counts uint64 // rows as its CommandCompletes count them
	reply  uint64

	endings int // of un's effects, so many have been looked at for ends of transactions
}

// defines reports whether names or settings may change when e is answered.
func (e *entry) defines() bool {
	return e.parse != nil || len(e.closes) > 0 || e.un != nil && len(e.un.Effects) > 0
}

// whole reports whether e is a command that brings its own Sync: a Query or a
// FunctionCall.
func (e *entry) whole() bool { return e.kind == queryEntry || e.kind == callEntry }

// lone reports whether e is a Sync and nothing else.
func (e *entry) lone() bool {
	return e.ex == nil && e.kind == extendedEntry && e.pending == 0 && e.sync
}

// prepared is a prepared statement, or a text that is asked but once.
type prepared struct {
	name   string
	text   string
	bytes  []byte            // the text once more, once it has been asked for
	types  []byte            // of its values, as the Parse names them; nil when it names none
	opaque bool              // its text isn't kept
	of     evidence.Position // of the intent that prepared it; zero until it is known
}

// exact returns the text as bytes, which it keeps. The agent's goroutine alone.
func (p *prepared) exact() []byte {
	if p.bytes == nil && p.text != "" {
		p.bytes = []byte(p.text)
	}
	return p.bytes
}

// binding is a portal: what it runs, and what that meant when it was bound.
type binding struct {
	portal string
	p      *prepared
	env    *sql.Env
}

// object names a statement ('S') or a portal ('P').
type object struct {
	kind byte
	name string
}

// queue is what awaits an answer, in the order sent, and what both goroutines
// of a connection know of its server.
type queue struct {
	mu   sync.Mutex
	cond sync.Cond // something below changed, and wait was set
	wait bool

	ring       []entry // a power of two long
	head, tail uint64  // numbers of the oldest entry not taken, and of the next
	done       uint64  // so many entries have been answered
	defining   int     // of the others, those that define
	status     byte    // of the transaction, at the last ReadyForQuery
	skipping   bool    // the server ignores everything up to a Sync
	closed     bool
	current    protocol.Exchange // of the entry that is being answered
	stopped    *stopping         // what is stopped at a limit
	timers     map[protocol.Exchange]*time.Timer
	leaving    string // why the agent has left; what it asked is still answered

	copying      protocol.Exchange // of the COPY whose content the agent may send
	copyExtended bool              // it came by the extended protocol
	copied       bool              // there was a COPY, and its outcome hasn't been waited for
	swallows     bool              // it may have swallowed Syncs
	strays       int               // Syncs that a COPY may have swallowed

	following  *sql.Session         // what the meaning of texts depends on
	env        *sql.Env             // what following says now; nil when that may have changed
	touched    bool                 // something had an effect since the last transaction
	unsettled  []*sql.Understanding // of the segment at hand, run: the Sync decides whether they stand
	statements map[string]*prepared // as the server knows them
	texts      int                  // bytes of their texts
	portals    map[string]binding
}

func (q *queue) init() {
	q.cond.L = &q.mu
	q.ring = make([]entry, 4)
}

// push adds entries; the caller has seen to it that there is room.
func (q *queue) push(e *entry) {
	if q.tail-q.head == uint64(len(q.ring)) {
		ring := make([]entry, 2*len(q.ring))
		for i := q.head; i < q.tail; i++ {
			ring[i%uint64(len(ring))] = q.ring[i%uint64(len(q.ring))]
		}
		q.ring = ring
	}
	q.ring[q.tail%uint64(len(q.ring))] = *e
	q.tail++
	if e.defines() {
		q.defining++
		if e.un != nil {
			q.following.Sent(e.un)
			q.unname(e.un)
			q.env = nil
		}
	}
}

// take moves the oldest entry into e and reports whether there was one.
func (q *queue) take(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == q.tail {
		return false
	}
	slot := &q.ring[q.head%uint64(len(q.ring))]
	*e = *slot
	*slot = entry{}
	q.head++
	q.current = e.ex
	return true
}

// answered counts an entry as answered, and as one after which the server
// ignores everything up to a Sync if it skips. Who waits learns both at once.
func (q *queue) answered(e *entry, skips bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done++
	q.current = nil
	q.skipping = q.skipping || skips
	if e.defines() {
		q.defining--
	}
	q.changed()
}

// changed wakes who waits; q.mu is held.
func (q *queue) changed() {
	if q.wait {
		q.wait = false
		q.cond.Broadcast()
	}
}

// until waits until ok or until the connection closes, and reports which; q.mu
// is held.
func (q *queue) until(ok func() bool) bool {
	for !ok() {
		if q.closed {
			return false
		}
		q.wait = true
		q.cond.Wait()
	}
	return true
}

// awaited reports whether somebody waits in until.
func (q *queue) awaited() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wait
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, t := range q.timers {
		t.Stop()
	}
	q.changed()
}

// ready takes in what ReadyForQuery says. Portals don't outlive a transaction.
func (q *queue) ready(status byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.status, q.skipping = status, false
	if status != 'T' && len(q.portals) > 0 {
		clear(q.portals)
	}
	q.settle(true)
	q.following.Ready(status)
	if q.touched {
		// Only an effect lets the end of a transaction change anything.
		q.env, q.touched = nil, status == 'T'
	}
	q.changed()
}

// settle says of what has run since the last Sync whether it stands; q.mu is
// held.
func (q *queue) settle(ok bool) {
	for _, un := range q.unsettled {
		q.following.Done(un, ok)
		q.env, q.touched = nil, true
	}
	q.unsettled = q.unsettled[:0]
}

// stray takes in a ReadyForQuery that no Sync of the queue asked for, and
// reports whether one of those that a COPY may have swallowed did.
func (q *queue) stray(status byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.strays == 0 {
		return false
	}
	q.strays--
	q.status, q.skipping = status, false
	q.changed()
	return true
}

// idle reports whether the server has nothing to do, and the true status of
// its transaction if so.
func (q *queue) idle() (status byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.status, q.quiet()
}

// quiet is idle with q.mu held.
func (q *queue) quiet() bool { return q.done == q.tail && !q.skipping }

// over reports whether the server is done with all that it won't ignore; q.mu
// is held.
func (q *queue) over() bool { return q.done == q.tail || q.ignores() }

// ignores reports whether the server ignores what comes next: no Sync that
// ends that is on its way. q.mu is held.
func (q *queue) ignores() bool {
	for i := q.head; i < q.tail && q.skipping; i++ {
		if e := &q.ring[i%uint64(len(q.ring))]; e.sync && !e.whole() {
			return false
		}
	}
	return q.skipping
}

// leave notes that the agent has left, and reports whether there is nothing
// more to wait for.
func (q *queue) leave(reason string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaving = reason
	return q.done == q.tail
}

// left returns why the agent has left, and whether all that it asked has been
// answered since.
func (q *queue) left() (reason string, settled bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.leaving, q.leaving != "" && q.done == q.tail
}

// add pushes one entry.
func (q *queue) add(e entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.push(&e)
}

// next is the number of the next entry.
func (q *queue) next() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tail
}

// bind notes what a portal is bound to; q.mu is held.
func (q *queue) bind(b binding) {
	if q.portals == nil {
		q.portals = make(map[string]binding)
	}
	if q.portals[b.portal] != b {
		q.portals[b.portal] = b
	}
}

// What is kept of one session's prepared statements. What doesn't fit isn't
// known, and so not run.
const (
	maxStatements = 16 << 10
	maxTexts      = 16 << 20 // bytes; those that are run by name are kept twice
)

// define makes p known: the server has it.
func (q *queue) define(p *prepared) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop(p.name)
	if len(q.statements) >= maxStatements || q.texts+len(p.text) > maxTexts {
		return
	}
	if q.statements == nil {
		q.statements = make(map[string]*prepared)
	}
	q.statements[p.name] = p
	q.texts += len(p.text)
}

// drop makes a statement unknown; q.mu is held.
func (q *queue) drop(name string) {
	if p := q.statements[name]; p != nil {
		q.texts -= len(p.text)
		delete(q.statements, name)
	}
}

// forget makes o unknown.
func (q *queue) forget(o object) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.kind == 'S' {
		q.drop(o.name)
	} else {
		delete(q.portals, o.name)
	}
}

// renames reports whether a text gives or takes names of statements.
func renames(un *sql.Understanding) bool {
	return slices.ContainsFunc(un.Effects, func(e sql.Effect) bool {
		return e.Kind == grammar.EffectDiscard || e.Kind == grammar.EffectDeallocate || e.Kind == grammar.EffectPrepare
	})
}

// unname makes those statements unknown whose names a text gives or takes, or
// may: SQL's PREPARE and the protocol's Parse share them. q.mu is held.
func (q *queue) unname(un *sql.Understanding) {
	for _, e := range un.Effects {
		switch {
		case e.Kind == grammar.EffectDiscard, e.Kind == grammar.EffectDeallocate && e.Name == "":
			clear(q.statements)
			q.texts = 0
		case e.Kind == grammar.EffectPrepare, e.Kind == grammar.EffectDeallocate:
			q.drop(e.Name)
		}
	}
}

// environment is what the meaning of the next text depends on.
func (q *queue) environment() *sql.Env {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.env == nil {
		env := q.following.Env()
		q.env = &env
	}
	return q.env
}

// report takes in a ParameterStatus.
func (q *queue) report(body []byte) {
	if name, value, ok := parseParameterStatus(body); ok {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.following.Parameter(name, value)
		q.env = nil
	}
}

// ran takes in what a command did to its session. When it has succeeded, that
// stands only if nothing up to the Sync fails.
func (q *queue) ran(un *sql.Understanding, ok bool) {
	if ok && len(un.Effects) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unname(un) // again: a Parse that went before it has been confirmed since
	if ok {
		q.unsettled = append(q.unsettled, un)
		return
	}
	q.settle(false)
	q.following.Done(un, false)
	if len(un.Effects) > 0 {
		q.env, q.touched = nil, true
	}
}

// takeSync takes a Sync that stands alone at the head of the queue, and
// reports whether there was one.
func (q *queue) takeSync() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == q.tail || !q.ring[q.head%uint64(len(q.ring))].lone() {
		return false
	}
	q.head++
	q.done++
	q.changed()
	return true
}

// startCopy lets the agent's goroutine send content for e. Nothing but Syncs
// may have been sent since: the server would read anything else as content, or
// not, depending on when it fails. Those Syncs may be answered or not.
func (q *queue) startCopy(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := q.head; i < q.tail; i++ {
		if !q.ring[i%uint64(len(q.ring))].lone() {
			return false
		}
	}
	q.strays += int(q.tail - q.head)
	q.swallows = q.tail > q.head || e.kind == extendedEntry && e.sync
	q.done += q.tail - q.head
	q.head = q.tail
	q.copying, q.copyExtended, q.copied = e.ex, e.kind == extendedEntry, true
	if q.copyExtended && e.sync {
		e.sync = false
		q.strays++
	}
	q.changed()
	return true
}

// endCopy stops the agent's content from being taken for ex's.
func (q *queue) endCopy(ex protocol.Exchange) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.copying == ex {
		q.copying = nil
		q.changed()
	}
}
