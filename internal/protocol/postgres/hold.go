package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// patience is what lets an agent wait for people. Commands that may wait are
// begun in its context, which ends when the agent goes or cancels; the next one
// has another then.
type patience struct {
	wait func(request string, until time.Time) // of evidence.Command; made once

	mu      sync.Mutex
	ctx     context.Context
	give    context.CancelCauseFunc
	waiting bool
}

var (
	errCancelled = errors.New("the agent has cancelled the command")
	errGone      = errors.New("the agent has gone")
)

func (c *conn) initPatience(ctx context.Context) {
	p := &c.patience
	p.ctx, p.give = context.WithCancelCause(ctx)
	p.wait = func(request string, until time.Time) { c.wait(request, until) }
}

// wait tells the agent that its command waits. A notice changes nothing in the
// protocol, and says that the connection lives.
func (c *conn) wait(request string, until time.Time) {
	p := &c.patience
	p.mu.Lock()
	p.waiting = true
	p.mu.Unlock()
	n := &failure{
		severity: "NOTICE", code: codeSuccess,
		message: fmt.Sprintf("the access gateway holds this command until people have approved it: request %s, at most until %s", request, until.UTC().Format("2006-01-02 15:04:05 UTC")),
		hint:    fmt.Sprintf("People see what is asked with `exhibit approval show %s`. Cancel the command to stop waiting.", request),
	}
	if err := c.writeAgent(n.appendNotice(nil)); err != nil {
		c.giveUp(errGone)
	}
}

// giveUp ends the wait of the command at hand, and reports whether there was one.
func (c *conn) giveUp(cause error) bool {
	p := &c.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting {
		p.give(cause)
	}
	return p.waiting
}

// waits reports whether a command waits for people.
func (c *conn) waits() bool {
	p := &c.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// waited ends what wait began. It returns why the agent waits no more, if so.
func (c *conn) waited(ctx context.Context) error {
	p := &c.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.waiting {
		return nil
	}
	p.waiting = false
	cause := context.Cause(p.ctx)
	if cause != nil {
		p.ctx, p.give = context.WithCancelCause(ctx)
	}
	return cause
}

// alone reports whether the command at hand is the only one that the agent
// waits for, and stands in no transaction block: nobody holds locks while it
// waits, and nothing depends on what becomes of it.
func (a *agentSide) alone() bool {
	if len(a.cmds) != 1 || a.ends == 0 || a.open || a.skip != forwarding {
		return false
	}
	status, idle := a.c.q.idle()
	return idle && status == 'I'
}

// stopping is a command that is stopped at a limit of its decision.
type stopping struct {
	ex   protocol.Exchange
	why  *protocol.Excess
	done chan struct{} // closed when the server has been told
}

// stop stops the command that the server is at. Whoever reads from the server
// goes on meanwhile: it may wait for that.
func (c *conn) stop(ctx context.Context, ex protocol.Exchange, why *protocol.Excess) *stopping {
	s := &stopping{ex, why, make(chan struct{})}
	c.stops.Go(func() {
		defer close(s.done)
		if err := c.cancel(ctx, protocol.Note{Kind: "cancel", Gateway: true, Detail: why.Code + " of " + ex.Position().String()}); err != nil {
			c.p.cfg.Logger.Warn("a command past its limit cannot be cancelled", "session", c.sess.ID(), "err", err)
			c.end("a command past its limit cannot be cancelled", err)
		}
	})
	return s
}

// watchTime stops a command that takes longer than it may. The server is at one
// command at a time: until it is this one's turn, it waits for that.
func (c *conn) watchTime(ctx context.Context, ex protocol.Exchange) {
	longest, why := protocol.Longest(ex.Decision())
	if why == nil {
		return
	}
	timer := time.AfterFunc(longest, func() { c.late(context.WithoutCancel(ctx), ex, why) })
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timers == nil {
		q.timers = make(map[protocol.Exchange]*time.Timer)
	}
	q.timers[ex] = timer
}

// turnAfter is how often a late command looks whether it has its turn.
const turnAfter = 20 * time.Millisecond

func (c *conn) late(ctx context.Context, ex protocol.Exchange, why *protocol.Excess) {
	q := &c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	timer := q.timers[ex]
	switch {
	case timer == nil || q.closed: // it has ended
	case !q.isAt(ex):
		timer.Reset(turnAfter)
	case q.stopped == nil:
		q.stopped = c.stop(ctx, ex, why)
	}
}

// isAt reports whether the server is at a command; q.mu is held.
func (q *queue) isAt(ex protocol.Exchange) bool {
	return q.current == ex || q.current == nil && q.head < q.tail && q.ring[q.head%uint64(len(q.ring))].ex == ex
}

// inTime stops watching a command that has ended.
func (q *queue) inTime(ex protocol.Exchange) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.timers[ex]; t != nil {
		t.Stop()
		delete(q.timers, ex)
	}
}

// exceeds reports whether the message at hand would take the command past a
// limit, and stops it if so: once.
func (s *serverSide) exceeds(ctx context.Context, size int) bool {
	if !s.bound {
		return false
	}
	if s.over == nil {
		why := protocol.Exceeds(s.cur.ex.Decision(), s.cur.rows+1, s.cur.reply+uint64(size))
		if why == nil {
			return false
		}
		q := &s.c.q
		q.mu.Lock()
		if q.stopped == nil {
			q.stopped = s.c.stop(ctx, s.cur.ex, why)
		}
		q.mu.Unlock()
		s.over = why
	}
	return true
}

// drop takes a message that isn't for the agent out of the stream.
func (s *serverSide) drop(size int) error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.scanned > 0 || s.held >= 0 {
		return violation("a row of the upstream behind a command's completion")
	}
	for left := size; ; {
		n := min(left, s.out.w-s.out.r)
		s.out.r += n
		if left -= n; left == 0 {
			return nil
		}
		s.out.r, s.out.w = 0, 0
		n, err := s.c.up.Read(s.out.b)
		if n == 0 {
			return err
		}
		s.out.w = n
	}
}

// stopped returns why the command at hand was stopped, if the error that came of
// it is that.
func (s *serverSide) stopped(code string) *protocol.Excess {
	if !s.bound || code != codeCancelled {
		return nil
	}
	q := &s.c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped == nil || q.stopped.ex != s.cur.ex {
		return nil
	}
	return q.stopped.why
}

// told waits, at the end of a command that was stopped, until the server has
// been told: what comes next must not be cancelled in its place.
func (s *serverSide) told() {
	q := &s.c.q
	q.mu.Lock()
	st := q.stopped
	if st != nil && st.ex == s.cur.ex {
		q.stopped = nil
	} else {
		st = nil
	}
	q.mu.Unlock()
	if st != nil {
		<-st.done
	}
}

func limitFailure(why *protocol.Excess) *failure {
	hint := "Ask for less at once."
	if why.Code == protocol.ExcessTime {
		hint = "Ask for less at once, or for a longer limit."
	}
	return &failure{severity: "ERROR", code: codeProgramLimit, message: why.Error(), hint: hint}
}
