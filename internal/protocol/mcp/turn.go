package mcp

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// turn is one request of an agent's: a message to the server, or a wish to
// listen to it or to end.
type turn struct {
	p    *Protocol
	w    http.ResponseWriter
	r    *httpgate.Request
	s    *httpgate.Session
	res  *Resource
	part *part
	ctx  context.Context // done when the agent has gone or the session must end

	whole bool // the stream that answers it can't be taken up again
}

func partOf() io.Closer { return newPart() }

// sessionField names the server's session.
const sessionField = "Mcp-Session-Id"

func (t *turn) serve() {
	if t.r.Path == OwnPath {
		t.serveOwn()
		return
	}
	if t.r.Path != "/" || t.r.Query != "" {
		t.skip(nil, nil, http.StatusNotFound, errors.New("a resource has one address, and no query"))
		return
	}
	switch t.r.Method {
	case http.MethodPost:
		t.post()
	case http.MethodGet:
		t.listen()
	case http.MethodDelete:
		t.end()
	default:
		t.w.Header().Set("Allow", "GET, POST, DELETE")
		t.skip(nil, nil, http.StatusMethodNotAllowed, errors.New("the method is none of the protocol's"))
	}
}

// post takes a message.
func (t *turn) post() {
	if media, _, err := mime.ParseMediaType(t.r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		t.skip(nil, nil, http.StatusUnsupportedMediaType, errors.New("the content is not application/json"))
		return
	}
	raw, err := t.content()
	if err != nil { // the agent has gone, or says less than it promised
		panic(http.ErrAbortHandler)
	}
	if len(raw) > t.res.Message {
		t.skip(nil, nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the message exceeds %d bytes", t.res.Message))
		return
	}
	if isBatch(raw) {
		t.batch(raw)
		return
	}
	m, err := parse(raw)
	if err != nil {
		t.skip(m, raw, http.StatusBadRequest, err)
		return
	}
	t.receive(m, raw)
}

// receive serves a message.
func (t *turn) receive(m *message, raw []byte) {
	if err := headersAgree(t.r.Header, m); err != nil {
		t.skip(m, raw, http.StatusBadRequest, err)
		return
	}
	c, ok := t.conversation(m)
	switch {
	case !ok:
		t.skip(m, raw, http.StatusNotFound, errNoSession)
	case m.isResponse():
		t.answer(c, m)
	case m.isNotification():
		t.notify(c, m)
	default:
		t.call(c, m)
	}
}

// content reads the request's content, or one byte more than is taken.
func (t *turn) content() ([]byte, error) {
	most := int64(t.res.Message) + 1
	if n := t.r.ContentLength; n >= 0 && n < most { // it holds no more
		b := make([]byte, n)
		_, err := io.ReadFull(t.r.Body, b)
		return b, err
	}
	return io.ReadAll(io.LimitReader(t.r.Body, most))
}

var (
	errNoSession = errors.New("there is no such session here: begin with initialize")
	errHeader    = errors.New("a header field says something else than the message")
)

// headersAgree compares the fields that say again what the message says: who
// routes by them must not be told another thing than policy.
func headersAgree(h http.Header, m *message) error {
	if m.isResponse() {
		return nil
	}
	name, err := named(m)
	if err != nil {
		return err
	}
	if namedBy[m.method] == "" { // it would name nothing
		h.Del("Mcp-Name")
	}
	for field, want := range map[string]string{"Mcp-Method": m.method, "Mcp-Name": name} {
		if got := h[field]; len(got) > 1 || len(got) == 1 && decoded(got[0]) != want {
			return errHeader
		}
	}
	if v := m.version(); v != "" {
		if got := h["Mcp-Protocol-Version"]; len(got) > 1 || len(got) == 1 && got[0] != v {
			return errHeader
		}
	}
	return nil
}

// decoded is a field's value as the protocol has it: in base64 where a field
// can't hold it.
func decoded(v string) string {
	if b, ok := strings.CutPrefix(v, "=?base64?"); ok {
		if b, ok = strings.CutSuffix(b, "?="); ok {
			if plain, err := base64.StdEncoding.DecodeString(b); err == nil {
				return string(plain)
			}
		}
	}
	return v
}

// conversation returns the session of the server's that a message is of.
func (t *turn) conversation(m *message) (*conversation, bool) {
	ids := t.r.Header[sessionField]
	if len(ids) > 1 {
		return nil, false
	}
	id := ""
	if len(ids) == 1 {
		id = ids[0]
		if id == "" {
			return nil, false
		}
	}
	if id == "" && t.res.Command != nil {
		c, err := t.started(m != nil && m.method == "initialize")
		if err != nil {
			t.p.log.Error("a server cannot be started", "resource", t.res.Resource, "cause", err)
		}
		return c, err == nil
	}
	c := t.part.find(id)
	return c, c != nil
}

// packet is a message ready to go to the server.
type packet struct {
	bytes int
	send  func(context.Context) (*reply, error)
}

// reply is what comes back: nothing but a status, one message, or a stream.
type reply struct {
	status int
	header http.Header
	stream bool
	come   func() bool // some of what comes next is there; nil says nothing
	next   func() (*event, error)
	close  func()
}

// passed are the fields of requests and responses that have a meaning in the
// protocol. No others are passed on.
var passed = []string{"Content-Type", "Accept", "Last-Event-Id", "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"}

// ownMessage is a message that the gateway makes itself.
type ownMessage struct{ method string }

// packet makes what goes to the server: a message of the agent's, or an own one.
func (t *turn) packet(c *conversation, method string, content []byte, own *ownMessage) (*packet, *httpgate.Failure) {
	if c.proc != nil {
		return c.proc.packet(content, own != nil), nil
	}
	h := make(http.Header)
	for _, name := range passed {
		if v := t.r.Header[name]; len(v) > 0 {
			h[name] = v[:1]
		}
	}
	if own != nil {
		h.Set("Content-Type", "application/json")
		h.Set("Accept", "application/json, text/event-stream")
		h.Del("Last-Event-Id")
		h.Del("Mcp-Name")
		if h.Get("Mcp-Method") != "" {
			h.Set("Mcp-Method", own.method)
		}
	} else {
		for name, v := range t.r.Header {
			if strings.HasPrefix(name, "Mcp-Param-") {
				h[name] = v
			}
		}
	}
	r := &httpgate.Request{Request: &http.Request{Method: method, Header: h, ProtoMajor: 1, ProtoMinor: 1}, Path: t.res.Endpoint}
	out, f := t.s.Compose(t.ctx, r, content)
	if f != nil {
		return nil, f
	}
	return &packet{bytes: out.Bytes(), send: func(ctx context.Context) (*reply, error) {
		resp, err := t.s.Send(ctx, out) //nolint:bodyclose // the reply does
		if err != nil {
			return nil, err
		}
		return replyOf(resp, t.res.Message), nil
	}}, nil
}

// begin has a command begun. When it may not go on, the agent has been told, and
// nil is returned.
func (t *turn) begin(m *message, cmd *evidence.Command) protocol.Exchange {
	exchanges, err := t.s.Begin(t.ctx, cmd)
	if err != nil {
		t.fail(m, httpgate.Refused(err))
		return nil
	}
	if ex := exchanges[0]; ex.Decision().Effect != evidence.Allow {
		t.part.remember(did{ex.Position().String(), cmd.Text, "refused: " + ex.Decision().Reason})
		t.deny(m, httpgate.Denial(ex))
		return nil
	}
	return exchanges[0]
}

// skip records what is passed on in no case, whatever policy says, and tells the
// agent why.
func (t *turn) skip(m *message, raw []byte, status int, cause error) {
	if raw == nil {
		raw = []byte(t.r.Method + " " + t.r.Path)
	}
	shape := t.p.shapes.of(shapeKey{path: pathHTTP, actions: Name + ":malformed"})
	exchanges, err := t.s.Begin(t.ctx, &evidence.Command{Shape: shape, Raw: raw, Frames: 1, Bytes: len(raw), Skip: true})
	if err != nil {
		t.fail(m, httpgate.Refused(err))
		return
	}
	f := &httpgate.Failure{Status: status, Reason: cause.Error(), ID: exchanges[0].Position().String()}
	if status == http.StatusNotFound || m == nil && status != http.StatusBadRequest {
		httpgate.Problem(t.w, f) // clients begin anew when the answer is no message
		return
	}
	p := &problem{code: codeInvalid, message: f.Reason, command: f.ID}
	switch {
	case errors.Is(cause, errHeader):
		p.code = codeHeader
	case errors.Is(cause, errNotJSON):
		p.code = codeParse
	}
	t.json(status, p.response(idOf(m)))
}

func idOf(m *message) []byte {
	if m == nil {
		return nil
	}
	return m.id
}

// fail tells the agent that something keeps its message from being served.
func (t *turn) fail(m *message, f *httpgate.Failure) {
	p := &problem{code: codeInternal, message: f.Reason, hint: f.Hint, command: f.ID, rules: f.Rules}
	switch {
	case m == nil || m.id == nil || m.isResponse():
		httpgate.Problem(t.w, f)
	case f.Status == http.StatusBadGateway: // the server's failure and not that of the connection
		t.json(http.StatusOK, p.response(m.id))
	default:
		t.json(f.Status, p.response(m.id))
	}
}

// deny tells the agent that policy refuses what it asks: a call by a result that
// its model reads, another request by an error. Notifications have no answer.
func (t *turn) deny(m *message, f *httpgate.Failure) {
	p := &problem{code: codeDenied, message: f.Reason, hint: f.Hint, command: f.ID, rules: f.Rules}
	switch {
	case m == nil: // clients take it for a server that has no such thing
		t.w.Header().Set("Allow", "POST")
		f.Status = http.StatusMethodNotAllowed
		httpgate.Problem(t.w, f)
	case m.method == "tools/call" && m.id != nil:
		t.json(http.StatusOK, p.toolResult(m.id, m.version() != ""))
	case m.isRequest():
		t.json(http.StatusOK, p.response(m.id))
	default:
		t.w.WriteHeader(http.StatusAccepted)
	}
}

// json answers with one message.
func (t *turn) json(status int, b []byte) {
	h := t.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	t.w.WriteHeader(status)
	t.last(b)
}

// write writes to the agent. That it has gone shows elsewhere.
func (t *turn) write(b []byte) { t.send(b, http.NewResponseController(t.w).Flush) }

// last writes the last of a response.
func (t *turn) last(b []byte) { t.send(b, func() error { return httpgate.End(t.w) }) }

func (t *turn) send(b []byte, flush func() error) {
	n, err := t.w.Write(b)
	t.s.Count(0, 0, n)
	if err == nil {
		err = flush()
	}
	if err != nil && t.ctx.Err() == nil {
		t.p.log.Debug("an agent does not take its answer", "session", t.s.ID())
	}
}
