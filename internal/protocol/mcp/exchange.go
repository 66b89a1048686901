package mcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// call is a request's way: understood, begun, passed on, and its answer back.
func (t *turn) call(c *conversation, m *message) {
	if f := t.names(c, m); f != nil {
		t.fail(m, f)
		return
	}
	if m.method == "initialize" && c.proc == nil && !t.part.room() {
		t.skip(m, m.raw, http.StatusTooManyRequests, errConversations)
		return
	}
	u, err := t.p.shapes.understand(t.res, c, m)
	x := newCall(nil)
	x.key, x.method, x.all = idKey(m.id), m.method, isWhole(m)
	if err == nil {
		err = c.enter(x)
	}
	if err != nil {
		t.skip(m, m.raw, http.StatusBadRequest, err)
		return
	}
	x.ended, x.text = t.part.remember, u.shape.Text
	out, ex := t.pass(c, m, u, evidence.Position{})
	if ex == nil {
		c.leave(x, true)
		if m.method == "initialize" && c.proc != nil {
			t.part.remove(c)
		}
		return
	}
	c.begin(x, ex)
	if longest, late := protocol.Longest(ex.Decision()); late != nil {
		ctx, stop := context.WithTimeoutCause(t.ctx, longest, late)
		defer stop()
		t.ctx = ctx
	}
	rep, err := out.send(t.ctx)
	if err != nil {
		t.unanswered(c, m, x, err)
		return
	}
	defer rep.close()
	if m.method == "initialize" {
		if c, err = t.begun(c, rep); err != nil {
			t.p.log.Warn("a session of a server is not taken in", "resource", t.res.Resource, "cause", err)
		}
	}
	(&flow{turn: t, c: c, m: m, x: x, told: t.streams}).run(rep)
}

// isWhole reports whether a request asks for a list from its beginning.
func isWhole(m *message) bool {
	cursor, err := member(m.params, "cursor")
	return err == nil && cursor == nil
}

// pass has a message's command begun. The exchange is nil when it may not go on;
// the agent has been told.
func (t *turn) pass(c *conversation, m *message, u understood, of evidence.Position) (*packet, protocol.Exchange) {
	out, f := t.packet(c, http.MethodPost, m.raw, nil)
	if f != nil {
		t.fail(m, f)
		return nil, nil
	}
	cmd := &evidence.Command{Shape: u.shape, Raw: m.raw, Frames: 1, Bytes: out.bytes, Of: of, Skip: u.held != ""}
	for _, p := range [][]byte{m.params, t.params()} {
		if p != nil {
			cmd.Params = append(cmd.Params, p)
		}
	}
	if !cmd.Skip && m.isRequest() {
		t.approvable(c, m, cmd)
	}
	if !cmd.Skip {
		return out, t.begin(m, cmd)
	}
	exchanges, err := t.s.Begin(t.ctx, cmd)
	if err != nil {
		t.fail(m, httpgate.Refused(err))
		return nil, nil
	}
	t.part.remember(did{exchanges[0].Position().String(), u.shape.Text, "refused: " + reasons[u.held]})
	t.deny(m, &httpgate.Failure{
		Reason: "refused by the access gateway: " + reasons[u.held], Hint: hintHeld(u.held), ID: exchanges[0].Position().String(),
	})
	return nil, nil
}

// params are the fields in which arguments go to the server once more.
func (t *turn) params() []byte {
	var b bytes.Buffer
	h := make(http.Header)
	for name, v := range t.r.Header {
		if len(name) > len("Mcp-Param-") && name[:len("Mcp-Param-")] == "Mcp-Param-" {
			h[name] = v
		}
	}
	if len(h) == 0 || h.Write(&b) != nil {
		return nil
	}
	return b.Bytes()
}

// alert raises what a person must look at.
func (t *turn) alert(ex protocol.Exchange, text string) {
	if text == "" {
		return
	}
	err := t.s.Alert(t.ctx, evidence.AlertBody{Rule: "mcp-tools-held", Severity: "medium", Trigger: ex.Position(), Text: text})
	if err != nil {
		t.p.log.Error("an alert cannot be recorded", "session", t.s.ID(), "cause", err)
	}
}

// begun takes in the session that a server has made for an initialize.
func (t *turn) begun(c *conversation, rep *reply) (*conversation, error) {
	if c.proc != nil {
		t.w.Header().Set(sessionField, c.id)
		return c, nil
	}
	ids := rep.header[sessionField]
	if len(ids) == 0 || rep.status != http.StatusOK {
		return c, nil
	}
	if ids[0] == c.id {
		return c, nil
	}
	made := newConversation(ids[0])
	if len(ids) > 1 || !validSession(made.id) {
		rep.header.Del(sessionField)
		return c, errors.New("its id is not one of the protocol")
	}
	made.bye = t.farewell(made)
	if err := t.part.add(made); err != nil {
		rep.header.Del(sessionField)
		return c, err
	}
	return made, nil
}

// byeTimeout bounds how long a server may take to end a session.
const byeTimeout = 500 * time.Millisecond

// farewell returns what ends a session of the server, once nobody can use it any
// more: the gateway's ends without the agent having ended it.
func (t *turn) farewell(c *conversation) func() {
	s, r := t.s, &httpgate.Request{Path: t.res.Endpoint}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), byeTimeout)
		defer cancel()
		r.Request = &http.Request{Method: http.MethodDelete, Header: http.Header{sessionField: {c.id}}, ProtoMajor: 1, ProtoMinor: 1}
		out, f := s.Compose(ctx, r, nil)
		if f != nil || s.Note(ctx, protocol.Note{Kind: "close", Gateway: true, Frames: 1, Bytes: out.Bytes()}) != nil {
			return // the server's session ends when it is idle
		}
		if resp, err := s.Send(ctx, out); err == nil {
			resp.Body.Close()
		}
	}
}

// unanswered ends a request of which nothing came back.
func (t *turn) unanswered(c *conversation, m *message, x *call, err error) {
	o, f := t.lost(x.ex, err)
	c.leave(x, o.Class != evidence.InDoubt)
	if _, err := x.end(t.ctx, o); err != nil {
		f = httpgate.Refused(err)
	}
	t.fail(m, f)
}

// lost is the outcome of a request whose answer didn't come, and what to tell the
// agent.
func (t *turn) lost(ex protocol.Exchange, err error) (evidence.Outcome, *httpgate.Failure) {
	o, f := t.s.Unanswered(ex, err)
	if e := httpgate.Late(t.ctx); e != nil && o.Class == evidence.InDoubt {
		o.Code, f = e.Code, httpgate.Excess(e, ex)
		f.Status = http.StatusBadGateway
	}
	return o, f
}

// notify passes a notification on.
func (t *turn) notify(c *conversation, m *message) {
	u, err := t.p.shapes.understand(t.res, c, m)
	if err != nil {
		t.skip(m, m.raw, http.StatusBadRequest, err)
		return
	}
	x := c.cancelling(m) // its answer may end before the server has taken this
	if taken := t.oneWay(c, m, u, evidence.Position{}); x != nil && taken {
		t.cancelled(c, x)
	}
}

// cancelled ends a request that the agent doesn't wait for any more.
func (t *turn) cancelled(c *conversation, x *call) {
	if _, err := x.end(t.ctx, evidence.Outcome{Class: evidence.Cancelled}); err != nil {
		t.p.log.Error("the outcome of a command cannot be recorded", "command", x.ex.Position().String(), "cause", err)
	}
	c.leave(x, false)
}

// answer passes on what the agent says to something that the server asked.
func (t *turn) answer(c *conversation, m *message) {
	key := idKey(m.id)
	a, ok := c.waits(key)
	if !ok || m.id == nil {
		t.skip(m, m.raw, http.StatusBadRequest, errors.New("the server waits for no such answer"))
		return
	}
	shape := t.p.shapes.of(shapeKey{path: pathAnswer, actions: a.action})
	if t.oneWay(c, m, understood{shape: shape}, a.pos) {
		c.answered(key)
	}
}

// oneWay passes on a message that has no answer, and reports whether the server
// has taken it.
func (t *turn) oneWay(c *conversation, m *message, u understood, of evidence.Position) bool {
	out, ex := t.pass(c, m, u, of)
	if ex == nil {
		return false
	}
	rep, err := out.send(t.ctx)
	if err != nil {
		o, f := t.s.Unanswered(ex, err)
		if err := ex.End(context.WithoutCancel(t.ctx), o); err != nil {
			f = httpgate.Refused(err)
		}
		t.fail(m, f)
		return false
	}
	defer rep.close()
	x := newCall(ex)
	return (&flow{turn: t, c: c, m: m, x: x}).status(rep)
}

// listen opens the server's stream, or takes one up where it broke off.
func (t *turn) listen() {
	c, ok := t.conversation(nil)
	if !ok {
		t.skip(nil, nil, http.StatusNotFound, errNoSession)
		return
	}
	if until := t.s.Identity().Expires; !until.IsZero() { // who may not ask any more isn't told any more
		ctx, cancel := context.WithDeadline(t.ctx, until)
		defer cancel()
		t.ctx = ctx
	}
	rep, x := t.plain(c, Name+":listen")
	if x == nil {
		return
	}
	defer rep.close()
	(&flow{turn: t, c: c, x: x, listens: true}).run(rep)
}

// end ends the server's session.
func (t *turn) end() {
	c, ok := t.conversation(nil)
	if !ok || c.id == "" {
		t.skip(nil, nil, http.StatusNotFound, errNoSession)
		return
	}
	rep, x := t.plain(c, Name+":close")
	if x == nil {
		return
	}
	defer rep.close()
	if rep.status < 300 || rep.status == http.StatusNotFound {
		t.part.remove(c)
	}
	(&flow{turn: t, c: c, x: x}).status(rep)
}

// plain passes on a request without a message.
func (t *turn) plain(c *conversation, action string) (*reply, *call) {
	var out *packet
	if c.proc != nil {
		out = c.proc.plain(t.r.Method)
	} else {
		var f *httpgate.Failure
		if out, f = t.packet(c, t.r.Method, nil, nil); f != nil {
			t.fail(nil, f)
			return nil, nil
		}
	}
	raw := []byte(t.r.Method)
	ex := t.begin(nil, &evidence.Command{
		Shape: t.p.shapes.of(shapeKey{path: pathHTTP, method: t.r.Method, actions: action}), Raw: raw, Frames: 1, Bytes: out.bytes,
	})
	if ex == nil {
		return nil, nil
	}
	rep, err := out.send(t.ctx)
	if err != nil {
		o, f := t.s.Unanswered(ex, err)
		if t.r.Method == http.MethodGet && t.ctx.Err() != nil { // nothing was done or left undone
			o.Class = evidence.Cancelled
		}
		if err := ex.End(context.WithoutCancel(t.ctx), o); err != nil {
			f = httpgate.Refused(err)
		}
		t.fail(nil, f)
		return nil, nil
	}
	return rep, newCall(ex)
}

// flow is what comes back from the server in one turn.
type flow struct {
	*turn
	c       *conversation
	m       *message // the agent's; nil when it listens
	x       *call    // its command
	listens bool

	told     bool // the agent has seen the status
	reply    int  // bytes to the agent
	resumes  bool // events have ids by which the stream can be taken up again
	answered bool
}

// status passes on a response that ends at once.
func (f *flow) status(rep *reply) bool {
	if f.refusedByServer(rep) {
		return false
	}
	var body []byte
	if rep.status >= 300 { // otherwise there is nothing to say
		e, err := rep.next()
		if err != nil && !errors.Is(err, io.EOF) {
			f.broken(err)
			return false
		}
		if e != nil {
			body = e.data
		}
	}
	o := outcomeOf(rep.status)
	if _, ok := f.observe(f.x, body); !ok || !f.done(f.x, o) {
		return false
	}
	f.tellStatus(rep, false)
	f.turn.last(body)
	return o.Class == evidence.OK
}

// outcomeOf is the outcome that a status of HTTP says.
func outcomeOf(status int) evidence.Outcome {
	o := evidence.Outcome{Class: evidence.OK, Code: strconv.Itoa(status)}
	if status >= 300 {
		o.Class = evidence.Failed
	}
	return o
}

// refusedByServer ends a turn in which the server refuses the gateway: who may
// ask for another credential there is not the agent.
func (f *flow) refusedByServer(rep *reply) bool {
	if rep.status != http.StatusUnauthorized && rep.status != http.StatusForbidden {
		return false
	}
	f.p.log.Error("a server refuses the gateway's credential", "resource", f.res.Resource, "status", rep.status)
	if f.done(f.x, outcomeOf(rep.status)) {
		f.fail(f.m, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "the resource refuses the gateway's credential", Hint: "ask the gateway's operator", ID: f.x.ex.Position().String()})
	}
	f.c.leave(f.x, true)
	return true
}

// run passes on what comes until it ends.
func (f *flow) run(rep *reply) {
	if f.refusedByServer(rep) {
		return
	}
	if rep.status == http.StatusNotFound && f.c.id != "" {
		f.part.remove(f.c) // the server has forgotten it
	}
	if !rep.stream {
		f.single(rep)
		return
	}
	f.tellStatus(rep, rep.come == nil || !rep.come())
	for {
		e, err := rep.next()
		if err != nil {
			f.ended(err)
			return
		}
		if len(e.data) > 0 && f.answered {
			continue // the command has ended, and nothing more belongs to it
		}
		if len(e.data) > 0 {
			out, ok := f.inspect(e.data)
			if !ok {
				return
			}
			if e.data = out; out == nil && !e.hasID {
				continue // it isn't for the agent
			}
			if out == nil {
				e.data = []byte{} // but where the stream stands is
			}
		}
		f.resumes = f.resumes || e.hasID && !f.whole
		if f.answered { // servers end the stream then, and the agent need not wait for it
			f.turn.last(e.append(nil))
			return
		}
		f.turn.write(e.append(nil))
	}
}

// single passes on a response that is one message, or none.
func (f *flow) single(rep *reply) {
	e, err := rep.next()
	if err != nil && !errors.Is(err, io.EOF) {
		f.broken(err)
		return
	}
	if e == nil {
		e = &event{}
	}
	body := e.data
	m, perr := parse(body)
	switch {
	case perr == nil && m.isResponse() && f.m != nil && (m.id == nil || idKey(m.id) == f.x.key):
		out, ok := f.answerOf(f.x, m)
		if !ok {
			return
		}
		body = out
	case rep.status < 300: // what isn't read here isn't passed on
		f.broken(fmt.Errorf("the server's answer is none: %w", errors.Join(perr, errMessage)))
		return
	default:
		if _, ok := f.observe(f.x, body); !ok || !f.done(f.x, outcomeOf(rep.status)) {
			return
		}
		f.c.leave(f.x, true)
		if f.streams {
			f.tell(&httpgate.Failure{Reason: fmt.Sprintf("the resource answers with the status %d", rep.status), ID: f.x.ex.Position().String()})
			return
		}
	}
	if body == nil && len(e.data) > 0 { // it was cancelled meanwhile
		body = []byte{}
	}
	f.tellStatus(rep, false)
	switch {
	case len(body) == 0:
	case f.streams:
		f.turn.last((&event{data: body}).append(nil))
	default:
		f.turn.last(body)
	}
}

// tellStatus tells the agent the status, and at once when what follows may take
// a while.
func (f *flow) tellStatus(rep *reply, now bool) {
	if f.told {
		return
	}
	f.told = true
	if rep.header.Get(sessionField) != f.c.id { // of no session that was made here
		rep.header.Del(sessionField)
	}
	copyFields(f.w.Header(), rep.header)
	f.w.WriteHeader(rep.status)
	if now {
		f.turn.write(nil)
	}
}

// observe digests what the agent gets within a command. That isn't open any more
// once it has an outcome.
func (f *flow) observe(x *call, b []byte) (open, ok bool) {
	if len(b) == 0 {
		return true, true
	}
	open, err := x.observe(b)
	if err != nil {
		f.unrecorded(err)
		return open, false
	}
	if open {
		f.reply += len(b)
	}
	return open, true
}

// done ends a command. It is false when that can't be recorded; then the agent
// is told of no success.
func (f *flow) done(x *call, o evidence.Outcome) bool {
	o.Reply = uint64(f.reply)
	if _, err := x.end(f.ctx, o); err != nil {
		f.unrecorded(err)
		return false
	}
	return true
}

// unrecorded tells the agent that what came of its message isn't on record.
func (f *flow) unrecorded(err error) {
	f.tell(httpgate.Refused(err))
}

// tell ends the turn with a failure, in a form that goes with what the agent has
// seen already.
func (f *flow) tell(failure *httpgate.Failure) {
	switch {
	case !f.told:
		f.fail(f.m, failure)
	case f.m != nil && f.m.id != nil && !f.answered:
		p := &problem{code: codeInternal, message: failure.Reason, hint: failure.Hint, command: failure.ID}
		f.turn.write((&event{data: p.response(f.m.id)}).append(nil))
	default:
		panic(http.ErrAbortHandler) // nothing may look like an end
	}
}

// broken ends a turn whose answer didn't come, or can't be passed on.
func (f *flow) broken(err error) {
	o, failure := f.lost(f.x.ex, err)
	if httpgate.Late(f.ctx) != nil {
		f.stop()
	}
	if f.ctx.Err() == nil {
		f.p.log.Warn("a server's answer is not passed on", "resource", f.res.Resource, "cause", err)
	}
	f.c.leave(f.x, false)
	if !f.done(f.x, o) {
		return
	}
	f.tell(failure)
}

// stop tells a server that doesn't see the agent leave.
func (f *flow) stop() {
	if f.c.proc == nil {
		return
	}
	b := append([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`), f.m.id...)
	if err := f.tellServer(append(b, "}}"...), "cancel"); err != nil {
		f.p.log.Warn("a server cannot be told that a request is cancelled", "resource", f.res.Resource, "cause", err)
	}
}

// ended is the end of a stream.
func (f *flow) ended(err error) {
	gone := f.r.Context().Err() != nil && f.s.Ended().Err() == nil && f.s.Cause() == nil // the agent, and nobody else
	switch {
	case f.listens:
		o := evidence.Outcome{Class: evidence.OK}
		if !errors.Is(err, io.EOF) && f.ctx.Err() == nil {
			o = evidence.Outcome{Class: evidence.Cancelled, Detail: err.Error()}
		}
		f.done(f.x, o)
	case f.answered:
	case f.c.id != "" && f.c.proc == nil && f.resumes && (gone || errors.Is(err, io.EOF)):
		// The agent may take up the stream where it broke off: the answer comes
		// there, and until then the command is open.
	case gone && f.m.version() != "":
		// In stateless revisions this is how a request is cancelled over HTTP.
		f.stop()
		f.c.leave(f.x, false)
		f.done(f.x, evidence.Outcome{Class: evidence.Cancelled, Detail: "the agent left before the answer"})
	case f.c.running(f.x.key) == nil && f.c.isGone(f.x.key): // cancelled
	case (gone || f.c.isCancelled(f.x)) && f.c.running(f.x.key) == f.x:
		f.part.abandon(f.ctx, f.c, f.x, httpgate.Lost(errors.New("the agent left before the answer")), func(err error) {
			f.p.log.Error("the outcome of a command cannot be recorded", "command", f.x.ex.Position().String(), "cause", err)
		})
	default:
		if errors.Is(err, io.EOF) {
			err = errors.New("the stream ended before the answer")
		}
		f.broken(err)
	}
}
