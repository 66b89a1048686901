package httpgate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Content reads a request's content when its length was said and is kept, so
// that it can be looked at before the request goes on. What streams is nil.
func (s *Session) Content(w http.ResponseWriter, r *Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > int64(s.server.cfg.Limits.Sealed) {
		return nil, nil
	}
	late := http.NewResponseController(w)
	if err := late.SetReadDeadline(time.Now().Add(s.server.cfg.Limits.Login)); err != nil {
		return nil, err
	}
	b := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, b); err != nil {
		return nil, err
	}
	return b, late.SetReadDeadline(time.Time{})
}

// Forward is a request's way: it has the command begun, passes the request on
// if it may, and the response back. Content is what Session.Content returned. The
// command's Shape is the Handler's; what is sealed, frames and bytes are filled
// in here.
func (s *Session) Forward(w http.ResponseWriter, r *Request, content []byte, cmd *evidence.Command) {
	s.forward(w, r, content, cmd, r.asked())
}

// forward is Forward of a request that may lead to another protocol.
func (s *Session) forward(w http.ResponseWriter, r *Request, content []byte, cmd *evidence.Command, to *Switch) {
	ctx, cancel := s.Context(r.Request)
	defer cancel()
	o, raw, err := s.compose(ctx, r, content)
	if err != nil {
		s.server.refuse(w, r.Request, s.uncomposed(err))
		return
	}
	cmd.Raw = o.head[:raw:raw]
	length := r.ContentLength
	if content != nil {
		cmd.Params = [][]byte{content}
	}
	if s.Route.HTTP2 && length == 0 && r.GRPC() {
		length = -1
	}
	if content == nil && length != 0 {
		o.trailer = declared(r.Trailer)
	}
	if to != nil {
		o.upgrade = to.Protocol
	}
	o.content(length)
	cmd.Frames, cmd.Bytes = 1, len(o.head)+len(content)
	cmd.Streams, cmd.Wait = content == nil && length != 0, silently
	exchanges, err := s.Begin(ctx, cmd)
	if err != nil {
		s.server.refuse(w, r.Request, refusalOf(err, ""))
		return
	}
	ex := exchanges[0]
	if ex.Decision().Effect != evidence.Allow {
		s.server.refuse(w, r.Request, Denial(ex))
		return
	}
	if longest, late := protocol.Longest(ex.Decision()); late != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, longest, late)
		defer stop()
	}
	if content == nil && length != 0 {
		content := &observed{Reader: r.Body, ex: ex, s: s, r: r, o: o}
		ex = &streaming{ex, content}
		o.stream = content
		o.abort = func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now()) } // it is the server's, and can
	}
	o.marked(ex.Position(), s.server.cfg.Mark)
	s.requests.Add(1)
	s.sent.Add(uint64(cmd.Bytes))
	resp, err := s.up.do(ctx, o)
	if err != nil {
		s.unanswered(ctx, w, r, ex, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		s.tunnel(ctx, w, r, resp, ex, to)
		return
	}
	s.reply(ctx, w, r, resp, ex)
}

// silently lets a request wait for people: its connection says that its agent
// does.
func silently(string, time.Time) {}

// uncomposed is why a request can't be made.
func (s *Session) uncomposed(err error) *Failure {
	s.server.log.Error("a request cannot be made", "resource", s.Route.Resource, "error", err)
	return &Failure{Status: http.StatusBadGateway, Reason: "the gateway has no credential for the resource", Hint: "ask the gateway's operator"}
}

// unanswered ends a command of which no response came.
func (s *Session) unanswered(ctx context.Context, w http.ResponseWriter, r *Request, ex protocol.Exchange, err error) {
	o, f := s.Unanswered(ex, err)
	if e := Late(ctx); e != nil && o.Class == evidence.InDoubt {
		o.Code, f = e.Code, Excess(e, ex)
	}
	if err := ex.End(context.WithoutCancel(ctx), o); err != nil {
		f = refusalOf(err, "")
	}
	s.server.refuse(w, r.Request, f)
}

// Late returns the limit of time for which a command's context is done, or nil.
func Late(ctx context.Context) (e *protocol.Excess) {
	errors.As(context.Cause(ctx), &e)
	return e
}

// Unanswered returns the outcome of a command of which no response came, and
// what to tell the agent.
func (s *Session) Unanswered(ex protocol.Exchange, err error) (evidence.Outcome, *Failure) {
	o := Lost(err)
	f := &Failure{Status: http.StatusBadGateway, Reason: "no response came from the resource: it may or may not have done what was asked", Hint: "find out before you repeat it", ID: ex.Position().String()}
	if errors.Is(err, errNotSent) {
		// The intent's bytes stay on record as those that were to go.
		o = evidence.Outcome{Class: evidence.Failed, Code: "unreachable", Detail: err.Error()}
		f.Reason, f.Hint = "the resource cannot be reached", "nothing was sent; try again later"
		if s.Cause() == nil {
			s.server.log.Warn("an upstream cannot be reached", "resource", s.Route.Resource, "error", err)
		}
	}
	return o, f
}

// observed is a request's content on its way: each byte is digested and counted
// before it goes. Once its command has an outcome no more goes.
type observed struct {
	io.Reader
	ex protocol.Exchange
	s  *Session
	r  *Request
	o  *outgoing

	mu    sync.Mutex
	ended bool
}

// streaming is a command whose content is on its way.
type streaming struct {
	protocol.Exchange
	content *observed
}

// End implements protocol.Exchange.
func (x *streaming) End(ctx context.Context, o evidence.Outcome) error {
	x.content.end()
	return x.Exchange.End(ctx, o)
}

// end keeps the rest of the content back.
func (b *observed) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

func (b *observed) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errAnswered
	}
	if n > 0 {
		if oerr := b.ex.Observe(evidence.ToUpstream, p[:n]); oerr != nil {
			return 0, oerr
		}
		b.s.sent.Add(uint64(n))
	}
	if err == io.EOF {
		for name := range b.o.trailer {
			b.o.trailer[name] = b.r.Trailer[name]
		}
	}
	return n, err
}

// errAnswered is why the rest of a content isn't passed on.
var errAnswered = errors.New("the request has been answered")

// declared is the trailer fields that a request announces and that may go on.
func declared(t http.Header) http.Header {
	var out http.Header
	for name := range t {
		if !hop[name] && !isClaim(name) {
			if out == nil {
				out = make(http.Header)
			}
			out[name] = nil
		}
	}
	return out
}

// buffers hold responses on their way.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// reply passes a response on. The agent sees its end only once the outcome is
// on record: the last bytes of a known length, and the end of any other, wait
// for that.
func (s *Session) reply(ctx context.Context, w http.ResponseWriter, r *Request, resp *http.Response, ex protocol.Exchange) {
	said := resp.Header.Get("Content-Length")
	h := fieldsFor(w, resp.Header)
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // a type that the service doesn't name is nobody's to guess
	}
	trailers := make([]string, 0, len(resp.Trailer))
	for name := range resp.Trailer {
		if !hop[name] {
			trailers = append(trailers, name)
		}
	}
	length := resp.ContentLength
	if r.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		length = 0
		if said != "" {
			h.Set("Content-Length", said)
		}
	} else if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	if len(trailers) > 0 {
		h.Set("Trailer", strings.Join(trailers, ", "))
	}
	o := evidence.Outcome{Class: evidence.OK, Code: strconv.Itoa(resp.StatusCode)}
	if resp.StatusCode >= 400 {
		o.Class = evidence.Failed
	}
	st := &stream{
		s: s, ex: ex, w: w, r: r, ctx: ctx, o: o, resp: resp, left: length,
	}
	err := st.run(resp.Body)
	if st.cut { // the outcome was not recorded, or the content broke off: nothing may look like an end
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		return
	}
	for name, values := range resp.Trailer {
		if hop[name] {
			continue
		}
		if !slices.Contains(trailers, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}

// fieldsFor makes a response's fields those of w, as copyFields would; a plain
// one takes them over.
func fieldsFor(w http.ResponseWriter, from http.Header) http.Header {
	p, ok := w.(*plainWriter)
	if !ok || p.header != nil {
		copyFields(w.Header(), from)
		return w.Header()
	}
	for name := range from {
		if hop[name] && name != "Connection" || strings.HasPrefix(name, identityPrefix) {
			delete(from, name)
		}
	}
	dropNamed(from)
	delete(from, "Connection")
	p.header = from
	return from
}

// copyFields copies a response's fields, less those of its connection and those
// that only the gateway may add.
func copyFields(to, from http.Header) {
	dropNamed(from)
	for name, values := range from {
		if !hop[name] && !strings.HasPrefix(name, identityPrefix) {
			to[name] = values
		}
	}
}

// dropNamed takes off the fields that Connection names.
func dropNamed(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			delete(h, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
}

// stream is a response's content on its way to the agent.
type stream struct {
	s    *Session
	ex   protocol.Exchange
	w    http.ResponseWriter
	r    *Request
	ctx  context.Context
	o    evidence.Outcome
	resp *http.Response
	left int64 // of a known length; -1 is unknown

	begun bool // the agent has seen the status
	cut   bool
}

// run passes the content on until it ends. Its error says that the end could
// not be recorded, or that the content broke off.
func (st *stream) run(body io.Reader) error {
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	if st.left < 0 && !Come(body) {
		// What comes may take a while, and the agent wait for the status.
		if err := st.write(nil, true); err != nil {
			return st.gone(err)
		}
	}
	if e := protocol.Exceeds(st.ex.Decision(), 0, uint64(max(st.left, 0))); e != nil {
		return st.end(e)
	}
	for {
		n := 0
		var err error
		if st.left == 0 {
			err = io.EOF
		} else if st.left > 0 && st.left <= int64(len(buf)) { // the last of it, in one piece
			n, err = io.ReadFull(body, buf[:st.left])
		} else {
			n, err = body.Read(buf)
		}
		if n > 0 {
			if e := protocol.Exceeds(st.ex.Decision(), 0, st.o.Reply+uint64(n)); e != nil {
				return st.end(e)
			}
			if oerr := st.ex.Observe(evidence.ToAgent, buf[:n]); oerr != nil {
				return st.end(oerr)
			}
			st.o.Reply += uint64(n)
			if st.left > 0 {
				st.left -= int64(n)
			}
		}
		if st.left == 0 && (err == nil || err == io.EOF) {
			if n > 0 {
				// A reader that is asked once more knows that it is at its end.
				if _, err := body.Read(buf[n:n]); err != nil && err != io.EOF {
					return st.end(err)
				}
			}
			if err := st.end(nil); err != nil {
				return err
			}
			return st.write(buf[:n], false)
		}
		if werr := st.write(buf[:n], st.left < 0 && err == nil && !Come(body)); werr != nil {
			return st.gone(werr)
		}
		if err == io.EOF {
			if st.left > 0 {
				return st.end(io.ErrUnexpectedEOF)
			}
			return st.end(nil)
		}
		if err != nil {
			return st.end(err)
		}
	}
}

// write writes to the agent.
func (st *stream) write(b []byte, flush bool) error {
	if !st.begun {
		st.begun = true
		st.w.WriteHeader(st.resp.StatusCode)
	}
	if len(b) > 0 {
		n, err := st.w.Write(b)
		st.s.replied.Add(uint64(n))
		if err != nil {
			return err
		}
	}
	if flush {
		return http.NewResponseController(st.w).Flush()
	}
	return nil
}

// gone ends the command of an agent that doesn't take all of its answer. What
// the service did is known by its status.
func (st *stream) gone(cause error) error {
	if st.o.Class == evidence.OK {
		st.o.Class = evidence.Cancelled
	}
	return st.end(cause)
}

// end records the outcome. Cause is why the content broke off, if it did.
func (st *stream) end(cause error) error {
	var over *protocol.Excess
	if cause != nil && !errors.As(cause, &over) {
		over = Late(st.ctx)
	}
	switch {
	case cause == nil:
	case over != nil: // what the service did is known by its status
		st.o.Class, st.o.Code = evidence.Cancelled, over.Code
	case st.ctx.Err() != nil && st.o.Class == evidence.OK: // the agent has gone, or its right
		st.o.Class = evidence.Cancelled
	case st.o.Class == evidence.OK:
		st.o.Class, st.o.Code = evidence.Failed, "truncated"
	}
	if cause != nil {
		st.o.Detail = "the content broke off: " + cause.Error()
	}
	if st.o.Class == evidence.OK && st.r.GRPC() {
		st.callEnded()
	}
	err := st.ex.End(context.WithoutCancel(st.ctx), st.o)
	failpoint.Hit("replied")
	switch {
	case err != nil && !st.begun:
		st.begun = true
		st.w.Header().Del("Content-Length")
		st.s.server.refuse(st.w, st.r.Request, refusalOf(err, ""))
		return err
	case over != nil && !st.begun:
		st.begun = true
		clear(st.w.Header())
		st.s.server.refuse(st.w, st.r.Request, Excess(over, st.ex))
		return cause
	case err != nil || cause != nil:
		st.cut = true
		return errors.Join(err, cause)
	}
	if st.left < 0 { // no content came, and none will
		return st.write(nil, false)
	}
	return nil
}

// callEnded takes in how a gRPC call ended: its status is among the trailers,
// or among the fields of a response that is nothing else.
func (st *stream) callEnded() {
	code := st.resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = st.resp.Header.Get("Grpc-Status")
	}
	n, err := strconv.ParseUint(code, 10, 8)
	switch {
	case err != nil:
		st.o.Class, st.o.Code = evidence.InDoubt, "grpc" // the specification demands a status
	case n != 0:
		st.o.Class = evidence.Failed
		fallthrough
	default:
		st.o.Code = "grpc:" + strconv.FormatUint(n, 10)
	}
}
