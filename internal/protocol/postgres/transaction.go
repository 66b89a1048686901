package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// transactions follows where transactions begin and end. The server says it in
// two ways: the tags of its CommandCompletes, which come once a COMMIT or
// ROLLBACK has been done, and the status in ReadyForQuery. What neither tells
// is "unknown".
type transactions struct {
	block bool // one that BEGIN or its like has begun is open
	first mark // of the transaction at hand; outside a block only of commands that ended well
	last  mark

	// Since the last Sync, or the end of a transaction if that was later.
	ender  mark // the command that ended a transaction
	chains bool // it may have begun the next: nobody understood it
	worked bool // something was done
	unsure bool // something was done that may have committed by itself
	failed bool
	by     mark // of the command that failed; none when that was the gateway's

	spans bool // it goes on behind a ReadyForQuery, and no block is open

	doubt bool                   // the server took leave in the middle of a command
	ended []protocol.Transaction // within the command at hand, whose outcome comes first
}

// mark is a command: the position of its intent and its number in the session.
type mark struct {
	pos evidence.Position
	n   int
}

func markOf(e *entry) mark { return mark{e.ex.Position(), e.n} }

// The results of transactions.
const (
	txCommit   = "commit"
	txRollback = "rollback"
	txPrepare  = "prepare"
	txUnknown  = "unknown"
)

// maxEnded bounds the transactions within one Query that are told apart.
const maxEnded = 1024

// completed takes in the tag of a statement of e's that is done.
func (t *transactions) completed(e *entry, tag []byte) {
	if e.ex == nil {
		return
	}
	switch string(tag) {
	case "BEGIN", "START TRANSACTION":
		t.begin(e)
	case "COMMIT":
		t.end(e, txCommit, e.ending())
	case "PREPARE TRANSACTION":
		t.end(e, txPrepare, e.ending())
	case "ROLLBACK":
		switch stmt := e.ending(); {
		case stmt.Kind == grammar.EffectRollbackTo:
			t.worked = true
		case stmt.Kind == grammar.EffectRollback, stmt.Kind == grammar.EffectCommit && t.block:
			t.end(e, txRollback, stmt)
		default:
			// A text that nobody understood may have gone back to a savepoint; and
			// PREPARE TRANSACTION outside a block says that it rolls back.
			t.end(e, txUnknown, stmt)
		}
	default:
		t.worked = true
		t.unsure = t.unsure || !e.sync && commitsItself(tag)
	}
}

// ending finds the next of e's statements that end transactions, or go back
// within one. Of a text that nobody understood it finds none.
func (e *entry) ending() grammar.Effect {
	for e.un != nil && e.endings < len(e.un.Effects) {
		stmt := e.un.Effects[e.endings].Effect
		e.endings++
		switch stmt.Kind {
		case grammar.EffectCommit, grammar.EffectRollback, grammar.EffectRollbackTo:
			return stmt
		}
	}
	return grammar.Effect{}
}

func (t *transactions) begin(e *entry) {
	if !t.block && t.first.n == 0 {
		t.first = markOf(e)
	}
	t.block = true
}

// end ends the transaction at hand by a statement of e's. One that no BEGIN
// began is worth telling of only if something was done in it.
func (t *transactions) end(e *entry, result string, stmt grammar.Effect) {
	last := markOf(e)
	first := t.first
	if first.n == 0 {
		first = last
	}
	if t.block || t.worked {
		t.add(result, t.block, first, last)
	}
	t.clear()
	if stmt.Chain {
		t.block, t.first, t.last = true, last, last
	} else {
		t.ender, t.chains = last, stmt.Kind == ""
	}
}

func (t *transactions) add(result string, block bool, first, last mark) {
	tx := protocol.Transaction{Result: result, Block: block, First: first.pos, Last: last.pos, Commands: last.n - first.n + 1}
	if len(t.ended) == maxEnded {
		tx = t.ended[maxEnded-1]
		tx.Result, tx.Last = txUnknown, last.pos
		t.ended = t.ended[:maxEnded-1]
	}
	t.ended = append(t.ended, tx)
}

// clear begins the next transaction.
func (t *transactions) clear() {
	*t = transactions{doubt: t.doubt, ended: t.ended}
}

// ran takes in a command that has its outcome. Outside a block those matter
// that ended well although the transaction goes on.
func (t *transactions) ran(e *entry, ok bool) {
	switch {
	case t.block:
		t.last = markOf(e)
	case ok && !e.sync && e.execute && e.n != t.ender.n:
		t.stands(e)
	}
}

// stands takes in that e stands if what comes behind it in the pipeline does.
func (t *transactions) stands(e *entry) {
	if e.ex == nil {
		return
	}
	t.last = markOf(e)
	if t.first.n == 0 {
		t.first = t.last
	}
}

// fails takes in an error, of e's or, if e has no command, of a refusal.
func (t *transactions) fails(e *entry, fatal bool) {
	t.failed, t.doubt = true, t.doubt || fatal
	if e.ex != nil {
		t.by = markOf(e)
		t.unsure = t.unsure || e.un != nil && slices.ContainsFunc(e.un.Effects, func(f sql.Effect) bool { return f.Kind == grammar.EffectUnknowable })
	}
}

// ready takes in the status that ReadyForQuery tells behind e.
func (t *transactions) ready(e *entry, status byte) {
	switch open := status != 'I'; {
	case t.block && open:
	case t.block:
		t.over()
		t.clear()
	case open && t.chains:
		first, last := t.ender, t.last
		t.clear()
		t.block, t.first, t.last = true, first, last
	case open:
		// In PostgreSQL 18 what brings its own Sync doesn't end a pipeline.
		t.stands(e)
		t.spans = true
		return
	case t.failed && t.first.n > 0:
		t.add(t.undone(), false, t.first, t.last)
		t.clear()
	case t.spans:
		// PostgreSQL 18.4 doesn't commit it here: it fails at the next command
		// ("unexpected state STARTED") and is rolled back.
		t.add(txUnknown, false, t.first, t.last)
		t.clear()
	case t.first.n > 0 || t.ender.n > 0:
		t.clear()
	}
	t.worked, t.unsure, t.failed, t.by = false, false, false, mark{}
}

// over ends a block whose end no tag told: its COMMIT failed.
func (t *transactions) over() {
	if t.failed && t.by.n > 0 {
		t.add(txRollback, true, t.first, t.by)
		return
	}
	t.add(txUnknown, true, t.first, t.last)
}

// undone says what a failure means to the commands of its pipeline before it.
func (t *transactions) undone() string {
	if t.unsure {
		return txUnknown
	}
	return txRollback
}

// leave ends the transaction that the session leaves open. flying is the last
// command that the server may still do, if there is one.
func (t *transactions) leave(flying mark, inFlight bool) {
	if t.first.n == 0 {
		return
	}
	result := t.undone()
	if t.block {
		result = txRollback
	}
	if inFlight || t.doubt {
		result = txUnknown
	}
	last := t.last
	if flying.n > last.n {
		last = flying
	}
	t.add(result, t.block, t.first, last)
}

// commitsItself reports whether a statement with that tag may commit what was
// done before it in a pipeline, or itself. An index may be made concurrently.
func commitsItself(tag []byte) bool {
	switch string(tag) {
	case "CALL", "DO", "VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "DISCARD ALL",
		"CREATE INDEX", "DROP INDEX", "ALTER TABLE", "ALTER SYSTEM",
		"CREATE DATABASE", "ALTER DATABASE", "DROP DATABASE", "CREATE TABLESPACE", "DROP TABLESPACE",
		"CREATE SUBSCRIPTION", "ALTER SUBSCRIPTION", "DROP SUBSCRIPTION":
		return true
	}
	return false
}

// tell records the transactions that have ended. The agent must not be told of
// an end that is not on record.
func (s *serverSide) tell(ctx context.Context) error {
	for i, tx := range s.tx.ended {
		if err := s.c.sess.EndTransaction(ctx, tx); err != nil {
			s.tx.ended = s.tx.ended[i+1:]
			return fmt.Errorf("recording the %s of a transaction: %w: %w", tx.Result, err,
				fatal(codeUnknownOutcome, "the end of the transaction could not be recorded: it may or may not have taken effect", "find out before you repeat it"))
		}
	}
	s.tx.ended = s.tx.ended[:0]
	return nil
}

// leave records the end of what the session leaves open; nobody reads from the
// server any more.
func (s *serverSide) leave(ctx context.Context) error {
	if s.busy && len(s.tx.ended) > 0 {
		// What has ended within the command is known all the same.
		if err := s.end(ctx, evidence.Outcome{Class: evidence.InDoubt}); err != nil {
			return err
		}
	}
	s.tx.leave(s.flying())
	return s.tell(ctx)
}

// flying returns the last command that awaits its outcome, and whether the
// server may still do anything at all.
func (s *serverSide) flying() (last mark, inFlight bool) {
	if s.busy && s.cur.ex != nil {
		last = markOf(&s.cur)
	}
	q := &s.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := q.head; i < q.tail; i++ {
		if e := &q.ring[i%uint64(len(q.ring))]; e.ex != nil {
			last = markOf(e)
		}
	}
	return last, s.busy || q.head < q.tail
}
