package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// conn is one agent on one upstream connection.
type conn struct {
	p       *Protocol
	startup *startup
	sess    protocol.Session
	agent   net.Conn
	up      net.Conn
	upPID   uint32
	upKey   []byte      // the server's cancel key
	upTLS   *tls.Config // of the upstream leg; nil is plain
	key     []byte      // the agent's cancel key

	understand Understander // of the session's resource

	q      queue
	client agentSide
	server serverSide

	sent    atomic.Uint64 // bytes towards the upstream
	replied atomic.Uint64 // bytes towards the agent
	gone    atomic.Bool   // the agent takes no more
	frames  [64]uint64    // towards the upstream, by type less '@'; the agent's goroutine
	notes   sync.RWMutex  // held to note something; closing excludes it

	patience patience       // of the agent, with people
	stops    sync.WaitGroup // commands being stopped at their limits

	agentMu sync.Mutex // held to write one or more whole messages to the agent

	cancelling chan struct{} // holds one for each cancel request under way or waiting
	cancelMu   sync.Mutex    // held by the one under way

	ending sync.Once
	reason string // why the session ends, for its record
	err    error  // and for the log
	over   chan struct{}
	closed bool // under notes
}

func newConn(p *Protocol, l *leg, sess protocol.Session) *conn {
	c := &conn{p: p, startup: l.startup, sess: sess, agent: l.Conn, over: make(chan struct{}), cancelling: make(chan struct{}, 2),
		understand: p.cfg.Understand(l.database)}
	c.q.init()
	c.client.init(c)
	c.server.init(c)
	return c
}

// errEnded is an ending that the log need not hear of.
var errEnded = errors.New("the session ended")

// end says why the session ends; the first one to know is right.
func (c *conn) end(reason string, err error) {
	c.ending.Do(func() {
		c.reason = reason
		if !errors.Is(err, errEnded) {
			c.err = err
		}
		close(c.over)
	})
}

// run serves the session until its end.
func (c *conn) run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.initPatience(grammar.For(ctx, c.startup.user))
	defer func() { c.patience.give(errEnded) }()
	wg.Go(func() { c.contain(func() { c.watch(ctx) }) })
	// What the server says is recorded even while the gateway stops.
	wg.Go(func() { c.contain(func() { c.server.run(context.WithoutCancel(ctx)) }) })
	c.contain(func() { c.client.run(grammar.For(ctx, c.startup.user)) })
	c.settle()
	wg.Wait()
	c.stops.Wait()
	c.client.release()
	return c.close(c.reason, c.err)
}

// contain keeps a mistake of ours, met by one session's bytes, from ending all
// others: the session ends, and what was open in it is in doubt.
func (c *conn) contain(side func()) {
	defer func() {
		if r := recover(); r != nil {
			c.p.cfg.Logger.Error("a session met a mistake in the gateway", "session", c.sess.ID(), "panic", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			c.end("internal error", fmt.Errorf("a mistake in the gateway: %T", r))
		}
	}()
	side()
}

// watch ends the session when the gateway must, and closes the connections
// once it has ended, so that nobody waits for a peer.
func (c *conn) watch(ctx context.Context) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	var since time.Time // the agent has hung up
	agent, up := pulse{limit: c.p.cfg.Limits.Silence}, pulse{limit: c.p.cfg.Limits.Silence}
	for over := false; !over; {
		select {
		case <-c.over:
			over = true
		case <-c.sess.Done():
			c.ended(ctx, c.sess.Cause())
			over = true
		case <-ctx.Done():
			c.expel(context.WithoutCancel(ctx), "the gateway is stopping")
			over = true
		case now := <-look.C:
			gone := agent.lost(c.agent, now)
			up.lost(c.up, now)
			if c.waits() && (gone || hungUp(c.agent)) {
				c.giveUp(errGone)
			}
			since = c.deserted(since, now, gone)
		}
	}
	c.q.close()
	c.up.Close()
	c.agent.Close()
}

// deserted ends a session whose agent has hung up for a while, when nobody
// reads from it and so sees that: what the agent's side waits for, the server
// may never answer.
func (c *conn) deserted(since, now time.Time, gone bool) time.Time {
	switch {
	case !c.q.awaited() || !gone && !hungUp(c.agent):
		return time.Time{}
	case since.IsZero():
		return now
	case now.Sub(since) >= c.p.cfg.Limits.Drain:
		c.end("agent closed", errEnded)
	}
	return since
}

// ended is told that the session must end.
func (c *conn) ended(ctx context.Context, cause error) {
	if errors.Is(cause, protocol.ErrUnrecordable) {
		// Whoever wanted the record knows better what it means to the agent.
		select {
		case <-c.over:
			return
		case <-time.After(expelTimeout / 10):
		}
	}
	if cause == nil {
		cause = errors.New("the session was ended by the gateway")
	}
	c.expel(ctx, cause.Error())
}

// expelTimeout bounds the courtesies of an expulsion.
const expelTimeout = time.Second

// expel ends the session for a cause that isn't the agent's doing, and stops
// what the server still does for it.
func (c *conn) expel(ctx context.Context, cause string) {
	c.end(cause, errEnded)
	// A peer that doesn't read must not hold up the end.
	c.agent.SetWriteDeadline(time.Now().Add(expelTimeout)) //nolint:errcheck // it is closed next
	f := fatal(codeEnded, cause, "")
	for range 10 {
		if c.agentMu.TryLock() {
			c.agent.Write(f.append(nil)) //nolint:errcheck // a courtesy to a connection that ends
			c.agentMu.Unlock()
			break
		}
		time.Sleep(expelTimeout / 10)
	}
	if _, idle := c.q.idle(); !idle {
		ctx, stop := context.WithTimeout(ctx, expelTimeout)
		defer stop()
		if err := c.cancel(ctx, protocol.Note{Kind: "cancel", Gateway: true, Detail: cause}); err != nil {
			c.p.cfg.Logger.Warn("cancelling what an ended session runs", "session", c.sess.ID(), "err", err)
		}
	}
}

// settle lets the server finish what the agent has asked before it left, so
// that the outcomes are known; for a while.
func (c *conn) settle() {
	if c.q.leave(c.client.reason) {
		c.end(c.client.reason, c.client.err)
		return
	}
	c.up.SetReadDeadline(time.Now().Add(c.p.cfg.Limits.Drain)) //nolint:errcheck // a closed connection needs no deadline
}

// close records the end of the session. It returns err, or why the record
// could not be written.
func (c *conn) close(reason string, err error) error {
	if c.key != nil {
		c.p.cancels.drop(c.key)
	}
	if c.up != nil {
		c.up.Close()
	}
	c.notes.Lock()
	c.closed = true
	c.notes.Unlock()
	end := protocol.SessionEnd{
		Reason: reason,
		Frames: make(map[string]uint64),
		Bytes:  c.sent.Load(),
		Reply:  c.replied.Load(),
	}
	for i, n := range c.frames {
		if n > 0 {
			end.Frames[frontendFrames['@'+i].name] = n
		}
	}
	return errors.Join(err, c.server.leave(context.Background()), c.sess.Close(end))
}

// errClosed is what a note gets when the session's end is recorded already.
var errClosed = errors.New("the session is closed")

// note records frames that belong to no command, and counts their bytes. The
// caller forwards them next.
func (c *conn) note(ctx context.Context, n protocol.Note) error {
	c.notes.RLock()
	defer c.notes.RUnlock()
	if c.closed {
		return errClosed
	}
	if err := c.sess.Note(ctx, n); err != nil {
		return err
	}
	c.sent.Add(uint64(n.Bytes))
	return nil
}

// writeAgent writes whole messages to the agent.
func (c *conn) writeAgent(b []byte) error {
	c.agentMu.Lock()
	defer c.agentMu.Unlock()
	n, err := c.agent.Write(b)
	c.replied.Add(uint64(n))
	return err
}

// fail tells the agent that the session is over, and ends it.
func (c *conn) fail(f *failure, reason string, err error) {
	if werr := c.writeAgent(f.append(nil)); werr != nil && err == nil {
		err = werr
	}
	c.end(reason, err)
}

// hangup reports whether err is a peer's ordinary way to go.
func hangup(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}
