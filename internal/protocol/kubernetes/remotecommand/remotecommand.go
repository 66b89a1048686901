// Package remotecommand carries what flows in exec and attach.
//
// In flow both ends of a connection that has switched to SPDY/3.1 or WebSocket;
// out flow the same bytes, in both directions, and of what they say the content
// of the streams: what is typed and shown, terminal sizes, and how it ended.
//
// The bytes pass exactly as they come. They are read beside that, each piece
// before it goes on: content is on record first, and what can't be read doesn't
// go on and ends both sides. Only one reading of a frame is taken for right, the
// one that all servers share (see spdy.go and websocket.go).
package remotecommand

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// The streams of a command, as WebSocket numbers them.
const (
	stdin  = "stdin"
	stdout = "stdout"
	stderr = "stderr"
	failed = "error" // how it ended
	resize = "resize"
)

var channels = [...]string{stdin, stdout, stderr, failed, resize}

// errProtocol is wrapped by what can't be read.
var errProtocol = errors.New("the stream is not the protocol's")

// reader reads one direction of a connection. It is called with what comes, in
// order, and calls out with the content in it.
type reader interface {
	read(b []byte, out func(stream string, content []byte)) error
	// ended reports whether how the command ended has been said in full, in
	// protocols in which that shows by itself.
	ended() bool
}

// wire is the protocol of a connection, by what was asked for and answered.
type wire struct {
	up, down reader
	status   bool // how it ended is said as a Status; else only why it failed
	silent   bool // not even that
}

func wireOf(socket bool, r *http.Response) (*wire, error) {
	version := r.Header.Get("X-Stream-Protocol-Version")
	if socket {
		version = r.Header.Get("Sec-Websocket-Protocol")
		if r.Header.Get("Sec-Websocket-Extensions") != "" {
			return nil, errors.New("the upstream speaks WebSocket with extensions, which nobody asked for")
		}
	}
	v := versions[version]
	switch {
	case v == 0, !socket && (v > 4 || strings.Contains(version, "base64")), socket && (v == 2 || v == 3):
		return nil, errors.New("the upstream speaks a version of the protocol that the gateway doesn't know")
	case socket:
		encoded := strings.Contains(version, "base64")
		return &wire{up: newFrames(true, encoded, v), down: newFrames(false, encoded, v), status: v >= 4}, nil
	}
	s := &streams{kinds: make(map[uint32]string)}
	up, err := newSPDY(s, true, v)
	if err != nil {
		return nil, err
	}
	down, err := newSPDY(s, false, v)
	// Servers of version 1 reset the stream that would say it before they begin.
	return &wire{up: up, down: down, status: v >= 4, silent: v == 1}, err
}

// versions are those of the subprotocol, by name.
var versions = map[string]int{
	"": 1, "channel.k8s.io": 1, "v2.channel.k8s.io": 2, "v3.channel.k8s.io": 3, "v4.channel.k8s.io": 4, "v5.channel.k8s.io": 5,
	"base64.channel.k8s.io": 1, "v4.base64.channel.k8s.io": 4,
}

// Offered reports whether a request asks for no other subprotocols than those
// that can be carried. Another one could bring the agent's own credential along.
func Offered(h http.Header) bool {
	for _, name := range []string{"Sec-Websocket-Protocol", "X-Stream-Protocol-Version"} {
		for _, list := range h[name] {
			for v := range strings.SplitSeq(list, ",") {
				if versions[strings.TrimSpace(v)] == 0 {
					return false
				}
			}
		}
	}
	return true
}

// Carry implements what httpgate.Switch asks for.
func Carry(ctx context.Context, t *httpgate.Tunnel) evidence.Outcome {
	w, err := wireOf(t.Request.Upgrade, t.Response)
	if err != nil {
		return evidence.Outcome{Class: evidence.Failed, Code: "protocol", Detail: err.Error()}
	}
	c := &carrier{ctx: ctx, t: t, wire: w}
	return c.run()
}

// carrier is one command on its way.
type carrier struct {
	ctx  context.Context
	t    *httpgate.Tunnel
	wire *wire

	said status // how it ended, as far as it is said

	mu    sync.Mutex
	over  bool   // it is on record how it ended: nothing goes upstream any more
	reply uint64 // bytes towards the agent
	fault error  // why the gateway ends it
}

// run carries both directions until one of them ends, and returns how that was.
func (c *carrier) run() evidence.Outcome {
	done := make(chan struct{})
	left := false // the agent went first
	go func() {
		defer close(done)
		err := c.copy(evidence.ToUpstream)
		c.mu.Lock()
		left = err == nil
		c.mu.Unlock()
		if errors.Is(err, errOver) {
			_, _ = io.Copy(io.Discard, c.t.Agent) // until the agent has seen it
		}
		c.t.Upstream.Close()
	}()
	_ = c.copy(evidence.ToAgent) // how it ended is in c
	c.t.Upstream.Close()
	c.mu.Lock()
	left, over := left, c.over
	c.mu.Unlock()
	if !over {
		// Before the agent sees that the connection ends. Whoever records it says
		// why it can't.
		_ = c.end(c.outcome(left))
	}
	c.t.Agent.Close()
	<-done
	return evidence.Outcome{}
}

// errOver says that the command has ended and nothing more goes upstream.
var errOver = errors.New("the command has ended")

// size of what is read at once; a record of content holds no more.
const size = 32 << 10

// copy passes on one direction until its sender ends it. Its error says that the
// gateway does, or that the other side takes no more.
func (c *carrier) copy(dir evidence.Direction) error {
	from, to, r := c.t.Agent, c.t.Upstream, c.wire.up
	if dir == evidence.ToAgent {
		from, to, r = to, from, c.wire.down
	}
	buf := make([]byte, size)
	for {
		n, ended := from.Read(buf)
		if n > 0 {
			if err := c.pass(dir, r, to, buf[:n]); err != nil {
				c.blame(err)
				return err
			}
		}
		if ended != nil { // in good order or not: nothing more comes
			return nil
		}
	}
}

// blame keeps why the gateway itself ends a command.
func (c *carrier) blame(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == nil && !c.over {
		c.fault = err
	}
}

// What takes no more.
var (
	errAgentAway    = errors.New("the agent takes no more")
	errUpstreamAway = errors.New("the upstream takes no more")
)

// pass reads a piece, has its content recorded, and lets it go on.
func (c *carrier) pass(dir evidence.Direction, r reader, to io.Writer, b []byte) error {
	var pieces []evidence.Piece
	joined := false // the last one has bytes of its own
	err := r.read(b, func(stream string, content []byte) {
		if dir == evidence.ToAgent && stream == failed {
			c.said.add(content)
		}
		last := len(pieces) - 1
		if last < 0 || pieces[last].Stream != stream {
			pieces, joined = append(pieces, evidence.Piece{Stream: stream, Data: content}), false
			return
		}
		if !joined {
			pieces[last].Data, joined = bytes.Clone(pieces[last].Data), true
		}
		pieces[last].Data = append(pieces[last].Data, content...)
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	switch {
	case over && (dir == evidence.ToUpstream || len(pieces) > 0):
		return errOver // what comes behind the end is no part of it
	case len(pieces) > 0:
		if err := c.t.Exchange.Keep(c.ctx, dir, pieces...); err != nil {
			return err
		}
	}
	if err := c.count(dir, b); err != nil {
		return err
	}
	if dir == evidence.ToAgent && !over && (r.ended() || c.wire.status && c.said.whole()) {
		if err := c.end(c.outcome(false)); err != nil {
			return err
		}
	}
	switch _, err := to.Write(b); {
	case err == nil:
		return nil
	case dir == evidence.ToAgent:
		return errors.Join(errAgentAway, err)
	default:
		return errors.Join(errUpstreamAway, err)
	}
}

// count accounts for bytes before they go on.
func (c *carrier) count(dir evidence.Direction, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over && dir == evidence.ToUpstream:
		return errOver
	case c.over: // the goodbyes of the connection
		c.t.Session.Count(0, 0, len(b))
		return nil
	case dir == evidence.ToUpstream:
		c.t.Session.Count(0, len(b), 0)
	default:
		if e := protocol.Exceeds(c.t.Exchange.Decision(), 0, c.reply+uint64(len(b))); e != nil {
			return e
		}
		c.reply += uint64(len(b))
		c.t.Session.Count(0, 0, len(b))
	}
	return c.t.Exchange.Observe(dir, b)
}

// end records how the command ended.
func (c *carrier) end(o evidence.Outcome) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	o.Reply = c.reply
	return c.t.End(c.ctx, o)
}

// outcome is how the command ended, as far as that can be told now.
func (c *carrier) outcome(agentLeft bool) evidence.Outcome {
	c.mu.Lock()
	fault := c.fault
	c.mu.Unlock()
	var over *protocol.Excess
	if !errors.As(fault, &over) {
		over = httpgate.Late(c.ctx)
	}
	switch {
	case over != nil:
		return evidence.Outcome{Class: evidence.Cancelled, Code: over.Code}
	case errors.Is(fault, errProtocol):
		return evidence.Outcome{Class: evidence.Cancelled, Code: "protocol", Detail: fault.Error()}
	case c.wire.down.ended():
		return c.said.outcome(c.wire)
	case c.ctx.Err() != nil:
		return evidence.Outcome{Class: evidence.Cancelled, Detail: context.Cause(c.ctx).Error()}
	case fault != nil && !errors.Is(fault, errAgentAway) && !errors.Is(fault, errUpstreamAway):
		return evidence.Outcome{Class: evidence.Cancelled, Detail: fault.Error()}
	case c.said.text() != "":
		return c.said.outcome(c.wire)
	case agentLeft || errors.Is(fault, errAgentAway):
		return evidence.Outcome{Class: evidence.Cancelled, Code: "agent_left"} // the process may go on
	}
	return unsaid
}
