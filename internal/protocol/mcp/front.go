package mcp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// front is one request of an agent's at an endpoint. It stands before the
// members: nothing is decided or recorded here, since all that comes of it are
// requests to members, each on its own way there.
type front struct {
	p   *Protocol
	e   *Endpoint
	w   http.ResponseWriter
	r   *http.Request
	by  *httpgate.Caller
	ctx context.Context

	j   *joint
	in  *Resource // the first member that let the agent in
	x   *flight   // the request, when it is one
	out *outlet

	resumes bool // the stream that answers it can be taken up again
}

// serve serves the request; rest is its path below the endpoint's.
func (f *front) serve(rest string) {
	known := f.find()
	if known != nil {
		defer known.leave()
	}
	if !f.door(known) {
		return
	}
	switch {
	case rest != "" && rest != "/" || f.r.URL.RawQuery != "":
		f.stray(nil, nil, http.StatusNotFound, errors.New("an endpoint has one address, and no query"))
		return
	case known == nil:
		f.stray(nil, nil, http.StatusNotFound, errNoSession)
		return
	}
	f.j = known
	f.out = &outlet{w: f.w, limit: f.limit(), write: f.write}
	switch f.r.Method {
	case http.MethodPost:
		f.post()
	case http.MethodGet:
		f.listen()
	case http.MethodDelete:
		f.end()
	default:
		f.w.Header().Set("Allow", "GET, POST, DELETE")
		f.stray(nil, nil, http.StatusMethodNotAllowed, errors.New("the method is none of the protocol's"))
	}
}

// find returns the joint that the request is of, with one more request in it;
// nil if there is none: a session belongs to the credential that it was made
// with.
func (f *front) find() *joint {
	key := jointKey{credential: f.by.Credential(), endpoint: f.e.Prefix}
	if ids := f.r.Header[sessionField]; len(ids) > 1 || len(ids) == 1 && ids[0] == "" {
		return nil
	} else if len(ids) == 1 {
		key.id = ids[0]
	}
	return f.p.joints.find(key, f.e, f.p.idle())
}

// door has one member after the other open a session for the agent, until one
// does. A credential that none takes reaches nothing here.
func (f *front) door(known *joint) bool {
	last := &httpgate.Failure{Status: http.StatusForbidden, Reason: "no member of the endpoint is configured any more", Hint: "ask the gateway's operator"}
	for _, m := range f.order(known) {
		res := f.p.resource(m.Resource)
		if res == nil {
			continue
		}
		rep := f.ask(f.ctx, res, http.MethodGet, httpgate.SessionPath, nil, nil)
		if rep.status == http.StatusOK {
			rep.close()
			if f.in = res; known != nil {
				known.mu.Lock()
				known.in = m.Name
				known.mu.Unlock()
			}
			return true
		}
		if last = failureOf(rep); last.Status == http.StatusUnauthorized {
			break
		}
	}
	f.p.Refuse(f.w, f.r, last)
	return false
}

// order are the members, those first that have let the agent in before.
func (f *front) order(known *joint) []Member {
	if known == nil {
		return f.e.Members
	}
	known.mu.Lock()
	in := known.in
	known.mu.Unlock()
	list := slices.Clone(f.e.Members)
	first := func(m Member) int {
		_, up := known.leg(label(m.Name)).isUp()
		switch {
		case m.Name == in:
			return 0
		case up:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(list, func(a, b Member) int { return cmp.Compare(first(a), first(b)) })
	return list
}

// limit is how large a message may be: what is too large for all members is for
// none.
func (f *front) limit() int {
	limit := 64 << 10
	for _, m := range f.e.Members {
		if res := f.p.resource(m.Resource); res != nil {
			limit = max(limit, res.Message)
		}
	}
	return limit
}

func (f *front) write(b []byte) {
	if _, err := f.w.Write(b); err == nil {
		_ = http.NewResponseController(f.w).Flush() // that the agent has gone shows in its context
	}
}

// post takes a message, or a batch.
func (f *front) post() {
	if media, _, err := mime.ParseMediaType(f.r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		f.stray(nil, nil, http.StatusUnsupportedMediaType, errors.New("the content is not application/json"))
		return
	}
	limit := f.limit()
	raw, err := io.ReadAll(io.LimitReader(f.r.Body, int64(limit)+1))
	switch {
	case err != nil: // the agent has gone, or says less than it promised
		panic(http.ErrAbortHandler)
	case len(raw) > limit:
		f.stray(nil, nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the message exceeds %d bytes", limit))
		return
	case isBatch(raw):
		f.batch(raw)
		return
	}
	m, err := parseID(raw, maxTagged)
	if err == nil && m.isRequest() && len(m.id) > maxID {
		err = errID
	}
	if err != nil {
		f.stray(nil, raw, http.StatusBadRequest, err)
		return
	}
	f.receive(m)
}

// batch serves messages that came together, each as if it had come by itself.
func (f *front) batch(raw []byte) {
	list, err := batchOf(raw, f.r.Header, maxTagged)
	if err != nil {
		f.stray(nil, raw, http.StatusBadRequest, err)
		return
	}
	f.out.many = true
	answerAll(f.out, list, func(m *message) *reply {
		return within(f.ctx, f.r, f.limit()+maxFraming, f.p.log, func(w http.ResponseWriter, r *http.Request) {
			one := *f
			one.w, one.r, one.ctx, one.x = w, r, r.Context(), nil
			one.out = &outlet{w: w, limit: f.out.limit, write: one.write}
			one.receive(m)
		})
	})
}

// receive serves a message.
func (f *front) receive(m *message) {
	h := f.r.Header.Clone()
	if err := headersAgree(h, m); err != nil {
		f.stray(m, m.raw, http.StatusBadRequest, err)
		return
	}
	switch {
	case m.isResponse():
		f.answer(m)
	case m.isNotification():
		f.notify(m)
	case m.method == "initialize":
		f.initialize(m)
	default:
		f.request(m)
	}
}

// stray is a message that is for no member, whatever it says. It is on record
// at the member that has let the agent in, and goes nowhere. A status of 200
// answers it in the protocol, others say so by themselves.
func (f *front) stray(m *message, raw []byte, status int, cause error) {
	ctx := context.WithValue(f.ctx, strayKey{}, &stray{m, raw, status, cause})
	f.by.Serve(f.w, f.made(ctx, f.in, http.MethodPost, "", nil, nil), f.in.Route)
}

type strayKey struct{}

type stray struct {
	m      *message
	raw    []byte
	status int
	cause  error
}

// stray puts a stray message on record.
func (t *turn) stray(s *stray) {
	if s.m == nil || s.status != http.StatusOK {
		t.skip(s.m, s.raw, s.status, s.cause)
		return
	}
	shape := t.p.shapes.of(shapeKey{path: pathHTTP, actions: Name + ":malformed"})
	exchanges, err := t.s.Begin(t.ctx, &evidence.Command{Shape: shape, Raw: s.raw, Frames: 1, Bytes: len(s.raw), Skip: true})
	if err != nil {
		t.fail(s.m, httpgate.Refused(err))
		return
	}
	id := exchanges[0].Position().String()
	t.part.remember(did{id, methodKnown(s.m), "refused: " + s.cause.Error()})
	p := &problem{code: codeParams, message: "refused by the access gateway: " + s.cause.Error(), command: id}
	switch {
	case s.m.method == "tools/call" && s.m.id != nil:
		t.json(http.StatusOK, p.toolResult(s.m.id, s.m.version() != ""))
	case s.m.isRequest():
		if methods[s.m.method] == "" || strings.HasPrefix(s.m.method, "tasks/") {
			p.code = codeMethod
		}
		t.json(http.StatusOK, p.response(s.m.id))
	default:
		t.w.WriteHeader(http.StatusAccepted)
	}
}

func methodKnown(m *message) string {
	if methods[m.method] == "" {
		return ""
	}
	return m.method
}

// made is a request to a member, as the agent would make it itself.
func (f *front) made(ctx context.Context, res *Resource, method, path string, h http.Header, content []byte) *http.Request {
	r := f.r.Clone(ctx)
	r.Method = method
	if path = res.Prefix + path; path == "" {
		path = "/"
	}
	r.URL, r.RequestURI = &url.URL{Path: path}, path
	if h == nil {
		h = make(http.Header)
	}
	if a := f.r.Header["Authorization"]; a != nil {
		h["Authorization"] = a
	}
	r.Header, r.Trailer, r.TransferEncoding = h, nil, nil
	r.Body, r.ContentLength = http.NoBody, int64(len(content))
	if len(content) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(content))
	}
	return r
}

// ask has a member serve a request.
func (f *front) ask(ctx context.Context, res *Resource, method, path string, h http.Header, content []byte) *reply {
	r := f.made(ctx, res, method, path, h, content)
	return within(ctx, r, res.Message+maxFraming, f.p.log, func(w http.ResponseWriter, r *http.Request) { f.by.Serve(w, r, res.Route) })
}

// fields are those of a message to a member: what the agent's say, of what the
// member knows things by.
func (f *front) fields(session, method, name string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if session != "" {
		h.Set(sessionField, session)
	}
	if v := f.r.Header.Get("Mcp-Protocol-Version"); v != "" {
		h.Set("Mcp-Protocol-Version", v)
	} else if f.j.version != "" && f.j.version > batchVersion {
		h.Set("Mcp-Protocol-Version", f.j.version)
	}
	if f.r.Header.Get("Mcp-Method") != "" {
		h.Set("Mcp-Method", method)
		if name != "" {
			h.Set("Mcp-Name", encoded(name))
		}
	}
	if method == "tools/call" {
		for name, v := range f.r.Header {
			if strings.HasPrefix(name, "Mcp-Param-") {
				h[name] = v
			}
		}
	}
	return h
}

// encoded is a field's value as the protocol has it (see decoded).
func encoded(v string) string {
	if visible(v) && !strings.HasPrefix(v, "=?") {
		return v
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(v)) + "?="
}

// to sends a message to a leg, in its session, which is made if there is none.
// A session that the member doesn't know any more is made once again.
func (f *front) to(ctx context.Context, l *leg, method, name string, content []byte) (*reply, *httpgate.Failure) {
	res := f.p.resource(l.Resource)
	if res == nil {
		return nil, &httpgate.Failure{Status: http.StatusForbidden, Reason: "the resource is not configured any more", Hint: "ask the gateway's operator"}
	}
	if f.x != nil {
		f.j.sent(f.x, l)
	}
	for again := false; ; again = true {
		session, fail := f.open(ctx, l, res)
		if fail != nil {
			return nil, fail
		}
		rep := f.ask(ctx, res, http.MethodPost, "", f.fields(session, method, name), content)
		if rep.status != http.StatusNotFound || session == "" || again {
			return rep, nil
		}
		rep.close()
		l.lost(session)
	}
}

// failureOf reads why a request isn't served, and closes the reply.
func failureOf(rep *reply) *httpgate.Failure {
	defer rep.close()
	f := &httpgate.Failure{Status: rep.status, Reason: fmt.Sprintf("the resource answers with status %d", rep.status)}
	e, err := rep.next()
	if err != nil {
		return f
	}
	return refusedBy(rep.status, e.data)
}

// refusedBy is a refusal of the gateway's own, as the agent would read it: a
// problem document or an error of JSON-RPC.
func refusedBy(status int, data []byte) *httpgate.Failure {
	f := &httpgate.Failure{Status: status, Reason: fmt.Sprintf("the resource answers with status %d", status)}
	var doc struct {
		Detail, Hint, Command string
		Rules                 []string
		Error                 struct {
			Message string
			Data    struct {
				Hint, Command string
				Rules         []string
			}
		}
	}
	if json.Unmarshal(data, &doc) != nil { // of a server's own texts only the status is told
		return f
	}
	switch {
	case doc.Detail != "":
		f.Reason, f.Hint, f.ID, f.Rules = doc.Detail, doc.Hint, doc.Command, doc.Rules
	case doc.Error.Message != "":
		f.Reason, f.Hint, f.ID, f.Rules = plain(doc.Error.Message), doc.Error.Data.Hint, doc.Error.Data.Command, doc.Error.Data.Rules
	}
	return f
}

// plain is a text that may be a server's: of what can be seen, and not too long.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	if runes := []rune(s); len(runes) > maxPlain {
		s = string(runes[:maxPlain]) + "…"
	}
	return s
}

const maxPlain = 300

// relay passes on what a member says until its answer to a request comes. Whole
// is an answer that becomes part of another one.
func (f *front) relay(l *leg, rep *reply, id []byte, whole bool) (*message, *event, *httpgate.Failure) {
	if rep.stream && !whole {
		f.out.begin()
	}
	for {
		e, err := rep.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, nil
		case err != nil:
			return nil, nil, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "the answer of " + l.Name + " broke off: it may or may not have done what was asked", Hint: "find out before you repeat it"}
		}
		if e.hasID && !whole && f.j.opening != nil {
			e.id, f.resumes = l.Name+":"+e.id, true
		} else {
			e.id, e.hasID, e.retry = "", false, ""
		}
		if len(e.data) == 0 {
			if rep.stream && !whole {
				f.out.event(e)
			}
			continue
		}
		m, err := parse(e.data)
		switch {
		case err != nil:
			return nil, nil, refusedBy(rep.status, e.data)
		case m.isResponse():
			if m.id == nil || id != nil && idKey(m.id) == idKey(id) {
				return m, e, nil
			}
			continue
		}
		if e.data = f.heard(l, m); e.data != nil {
			f.out.event(e)
		}
	}
}

// heard is what the agent hears of what a member says that is no answer.
func (f *front) heard(l *leg, m *message) []byte {
	if m.isRequest() {
		return l.label.asked(m)
	}
	if m.method == "notifications/progress" {
		token, err := member(m.params, "progressToken")
		if err != nil || token == nil || !f.j.expects(l, idKey(token)) {
			return nil
		}
	}
	return l.label.said(m)
}

// refused answers a request that no member serves.
func (f *front) refused(m *message, fail *httpgate.Failure) {
	if fail.Status == http.StatusUnauthorized && !f.out.begun() {
		f.p.Refuse(f.w, f.r, fail)
		return
	}
	p := &problem{code: codeInternal, message: fail.Reason, hint: fail.Hint, command: fail.ID, rules: fail.Rules}
	if fail.Status == http.StatusForbidden {
		p.code = codeDenied
	}
	if m.method == "tools/call" {
		f.out.answer(p.toolResult(m.id, m.version() != ""))
	} else {
		f.out.answer(p.response(m.id))
	}
	f.out.end()
}
