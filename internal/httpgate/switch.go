package httpgate

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Switch is another protocol that a request leads to (RFC 9110 section 7.8).
type Switch struct {
	Protocol string // as the upstream is asked for it
	// Carry passes on what flows once both sides have switched, until one of them
	// closes or ctx is done, and says how that ended: its outcome is recorded
	// then, unless it has called Tunnel.End. Nil copies and observes all of it,
	// and understands nothing.
	Carry func(ctx context.Context, t *Tunnel) evidence.Outcome
}

// Tunnel is an agent's connection and the upstream's, both of which have
// switched protocols. They are closed when the session must end, and when Carry
// has returned.
type Tunnel struct {
	Agent, Upstream io.ReadWriteCloser
	Request         *Request
	Response        *http.Response // with which the upstream switched
	Exchange        protocol.Exchange
	Session         *Session // to Count with

	ended bool
}

// End records how the command ended before the tunnel does: whoever sees the end
// in what flows has to record it first. Exactly once, if at all.
func (t *Tunnel) End(ctx context.Context, o evidence.Outcome) error {
	t.ended = true
	if cause := t.Session.Cause(); cause != nil {
		o.Class, o.Detail = evidence.Cancelled, cause.Error()
	}
	err := t.Exchange.End(context.WithoutCancel(ctx), o)
	if err != nil {
		t.Session.server.log.Error("the outcome of a command cannot be recorded", "command", t.Exchange.Position().String(), "error", err)
	}
	return err
}

// asked is the switch that a request asks for of those that are carried without
// being understood: to WebSocket.
func (n *Request) asked() *Switch {
	if !n.Upgrade {
		return nil
	}
	return &Switch{Protocol: webSocket}
}

// ForwardTo is Forward of a request without content that leads to another
// protocol, whether it asks for that by name or not.
func (s *Session) ForwardTo(w http.ResponseWriter, r *Request, cmd *evidence.Command, to Switch) {
	s.forward(w, r, nil, cmd, &to)
}

// tunnel passes on what flows once both sides have switched protocols.
func (s *Session) tunnel(ctx context.Context, w http.ResponseWriter, r *Request, resp *http.Response, ex protocol.Exchange, to *Switch) {
	agent, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		o := evidence.Outcome{Class: evidence.Cancelled, Detail: err.Error()}
		if ex.End(context.WithoutCancel(ctx), o) != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	defer agent.Close()
	t := &Tunnel{
		Agent: &hijacked{rw.Reader, agent}, Upstream: resp.Body.(io.ReadWriteCloser),
		Request: r, Response: resp, Exchange: ex, Session: s,
	}
	defer context.AfterFunc(ctx, func() { agent.Close(); t.Upstream.Close() })()
	head := make(http.Header)
	copyFields(head, resp.Header)
	head.Set("Connection", "Upgrade")
	head.Set("Upgrade", to.Protocol)
	answer := &http.Response{StatusCode: resp.StatusCode, ProtoMajor: 1, ProtoMinor: 1, Header: head, ContentLength: -1}
	o := evidence.Outcome{Class: evidence.OK, Code: strconv.Itoa(resp.StatusCode)}
	if err := writeHead(rw, answer); err == nil {
		carry := to.Carry
		if carry == nil {
			carry = carried
		}
		o = carry(ctx, t)
	}
	agent.Close()
	t.Upstream.Close()
	if !t.ended {
		_ = t.End(ctx, o) // said in the log
	}
}

// hijacked is an agent's connection with what was read of it already.
type hijacked struct {
	io.Reader
	io.WriteCloser
}

// carried copies both ways.
func carried(ctx context.Context, t *Tunnel) evidence.Outcome {
	o := evidence.Outcome{Class: evidence.OK, Code: strconv.Itoa(t.Response.StatusCode)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, _ := pump(t.Upstream, t.Agent, t.Exchange, evidence.ToUpstream) // as below
		t.Session.Count(0, int(n), 0)
	}()
	n, err := pump(t.Agent, t.Upstream, t.Exchange, evidence.ToAgent) // whoever closes first, it is over
	over := Late(ctx)
	if over != nil || errors.As(err, &over) {
		o.Class, o.Code = evidence.Cancelled, over.Code
	}
	o.Reply = uint64(n)
	t.Session.Count(0, 0, int(n))
	t.Agent.Close()
	t.Upstream.Close()
	<-done
	return o
}

// writeHead writes the head of a response without content.
func writeHead(rw *bufio.ReadWriter, r *http.Response) error {
	if _, err := rw.WriteString("HTTP/1.1 " + strconv.Itoa(r.StatusCode) + " " + http.StatusText(r.StatusCode) + "\r\n"); err != nil {
		return err
	}
	if err := r.Header.Write(rw); err != nil {
		return err
	}
	if _, err := rw.WriteString("\r\n"); err != nil {
		return err
	}
	return rw.Flush()
}

// pump copies, each piece observed before it goes, and ends the other side's
// reading when this one ends.
func pump(to io.WriteCloser, from io.Reader, ex protocol.Exchange, dir evidence.Direction) (n int64, err error) {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	for {
		m, err := from.Read(buf)
		if m > 0 {
			if e := protocol.Exceeds(ex.Decision(), 0, uint64(n)+uint64(m)); e != nil && dir == evidence.ToAgent {
				return n, e
			}
			if oerr := ex.Observe(dir, buf[:m]); oerr != nil {
				return n, oerr
			}
			w, werr := to.Write(buf[:m])
			if dir == evidence.ToUpstream {
				n += int64(m) // it counts as sent once it is on record
			} else {
				n += int64(w)
			}
			if werr != nil {
				return n, werr
			}
		}
		if err != nil {
			// WebSocket says goodbye in frames of its own: who closes without has gone.
			return n, errors.Join(err, to.Close())
		}
	}
}
