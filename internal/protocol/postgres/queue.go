package postgres

import (
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// entryKind says how the server answers what an entry stands for.
type entryKind uint8

const (
	queryEntry    entryKind = iota // Query: results, then ReadyForQuery
	extendedEntry                  // one answer to each frame of the extended protocol
	failingEntry                   // the gateway's own frame, answered with an error
)

// entry is what was forwarded together and is answered together: a command, or
// frames that belong to none.
type entry struct {
	ex      protocol.Exchange // nil: no command
	kind    entryKind
	pending int  // answers due before that to the Sync
	execute bool // one of them completes an Execute
	sync    bool // ends with ReadyForQuery
	parse   *prepared
	closes  []object // in order
	effects []Effect // of a Query or Execute that succeeds
	refusal *failure // what the agent is told in place of a failing entry's error

	// How far the answer has come; the server's goroutine alone.
	ended  bool // the outcome is recorded, or there is none to record
	copied bool // a COPY of it has begun
	held   bool // it is complete but for what ReadyForQuery says
	rows   uint64
	counts uint64 // rows as its CommandCompletes count them
	reply  uint64
}

// defines reports whether names or settings may change when e is answered.
func (e *entry) defines() bool {
	return e.parse != nil || len(e.closes) > 0 || len(e.effects) > 0
}

// lone reports whether e is a Sync and nothing else.
func (e *entry) lone() bool {
	return e.ex == nil && e.kind == extendedEntry && e.pending == 0 && e.sync
}

// prepared is a prepared statement.
type prepared struct {
	name string
	st   *Statement
	of   evidence.Position // of the intent that prepared it; zero until it is known
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
	leaving    string // why the agent has left; what it asked is still answered

	copying      protocol.Exchange // of the COPY whose content the agent may send
	copyExtended bool              // it came by the extended protocol
	copied       bool              // there was a COPY, and its outcome hasn't been waited for
	strays       int               // Syncs that a COPY may have swallowed

	state      State
	statements map[string]*prepared // as the server knows them
	portals    map[string]*prepared
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
	return true
}

// answered counts an entry as answered.
func (q *queue) answered(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done++
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

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
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
	q.changed()
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

// skip notes that the server ignores everything up to a Sync.
func (q *queue) skip() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.skipping = true
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
		q.portals = make(map[string]*prepared)
	}
	if q.portals[b.portal] != b.p {
		q.portals[b.portal] = b.p
	}
}

// define makes p known: the server has it.
func (q *queue) define(p *prepared) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.statements == nil {
		q.statements = make(map[string]*prepared)
	}
	q.statements[p.name] = p
}

// forget makes o unknown.
func (q *queue) forget(o object) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.kind == 'S' {
		delete(q.statements, o.name)
	} else {
		delete(q.portals, o.name)
	}
}

// report takes in a ParameterStatus.
func (q *queue) report(body []byte) {
	if name, value, ok := parseParameterStatus(body); ok {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.state.report(name, value)
	}
}

// effects takes in what a statement changed about its session.
func (q *queue) effects(e *entry, ok bool) {
	if len(e.effects) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.state.apply(e.effects, ok)
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
