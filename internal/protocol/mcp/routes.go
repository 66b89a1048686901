package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

var errNobodys = errors.New("no member of this endpoint has that: names are written MEMBER__NAME, and URIs MEMBER+URI, as they are listed")

// request serves a request: by the member that it names, or by all.
func (f *front) request(m *message) {
	f.x = &flight{key: idKey(m.id), token: progressOf(m)}
	if err := f.j.takeOff(f.x); err != nil {
		f.stray(m, m.raw, http.StatusBadRequest, err)
		return
	}
	defer f.j.land(f.x)
	switch m.method {
	case "tools/list", "prompts/list", "resources/list", "resources/templates/list":
		f.list(m)
	case "tools/call", "prompts/get":
		f.named(m, "name", behindName)
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		f.named(m, "uri", behindURI)
	case "completion/complete":
		f.complete(m)
	case "ping":
		f.toAll(m, "")
	case "logging/setLevel":
		f.setLevel(m)
	case "server/discover":
		f.discover(m)
	case "subscriptions/listen":
		f.subscribe(m)
	default:
		f.stray(m, m.raw, http.StatusOK, errors.New("an endpoint of several servers has no such method"))
	}
}

// progressOf is the token by which a request wants to be told of progress.
func progressOf(m *message) string {
	meta, err := member(m.params, "_meta")
	if err != nil {
		return ""
	}
	if token, err := member(meta, "progressToken"); err == nil && token != nil {
		return idKey(token)
	}
	return ""
}

// named has the member serve a request whose name or URI bears its label.
func (f *front) named(m *message, key, behind string) {
	v, err := member(m.params, key)
	l, own, ok := whose(text(v), behind)
	if err != nil || !ok {
		f.stray(m, m.raw, http.StatusOK, errNobodys)
		return
	}
	if l == OwnMember && m.method == "tools/call" {
		f.callOwn(m, own)
		return
	}
	leg := f.j.leg(l)
	if leg == nil {
		f.stray(m, m.raw, http.StatusOK, errNobodys)
		return
	}
	f.forward(leg, m, own, with(m.raw, "params", func(v []byte) []byte {
		v = with(v, key, func([]byte) []byte { return encode(own) })
		return with(v, "task", func([]byte) []byte { return nil }) // nobody has said that there are tasks here
	}))
}

// complete has the member serve a completion for a prompt or template of its.
func (f *front) complete(m *message) {
	ref, err := member(m.params, "ref")
	if err != nil {
		f.stray(m, m.raw, http.StatusOK, errNobodys)
		return
	}
	for key, behind := range map[string]string{"uri": behindURI, "name": behindName} {
		v, err := member(ref, key)
		if err != nil || v == nil {
			continue
		}
		l, own, ok := whose(text(v), behind)
		if leg := f.j.leg(l); ok && leg != nil {
			f.forward(leg, m, "", with(m.raw, "params", func(v []byte) []byte {
				return with(v, "ref", func(v []byte) []byte { return with(v, key, func([]byte) []byte { return encode(own) }) })
			}))
			return
		}
	}
	f.stray(m, m.raw, http.StatusOK, errNobodys)
}

// forward has a member serve a request, and passes its answer on.
func (f *front) forward(l *leg, m *message, name string, content []byte) {
	rep, fail := f.to(f.ctx, l, m.method, name, content)
	if fail != nil {
		f.refused(m, fail)
		return
	}
	defer rep.close()
	a, e, fail := f.relay(l, rep, m.id, false)
	switch {
	case fail != nil:
		f.refused(m, fail)
		return
	case a == nil: // cancelled, to be taken up where it broke off, or left by an agent that may still cancel it
		if f.j.opening != nil {
			f.j.halt(f.x)
		}
		f.out.end()
		return
	}
	if f.resumes && a.id != nil {
		f.j.answered(l, f.x.key)
	}
	b := l.label.answer(a.raw)
	if e.hasID {
		f.out.event(&event{id: e.id, hasID: true, retry: e.retry, data: b})
	} else {
		if rep.status >= http.StatusBadRequest {
			f.out.status = rep.status
		}
		f.out.answer(b)
	}
	f.out.end()
}

// setLevel tells members that log how much of it the agent wants.
func (f *front) setLevel(m *message) {
	level, err := member(m.params, "level")
	if err != nil {
		f.stray(m, m.raw, http.StatusOK, err)
		return
	}
	f.j.mu.Lock()
	f.j.quiet = slices.Contains([]string{"error", "critical", "alert", "emergency"}, text(level))
	f.j.mu.Unlock()
	f.toAll(m, "logging")
}

// notify passes a notification on to whom it concerns.
func (f *front) notify(m *message) {
	var to []*leg
	content := m.raw
	switch m.method {
	case "notifications/initialized":
		f.j.mu.Lock()
		f.j.begun = true
		f.j.mu.Unlock()
		to = f.up()
	case "notifications/roots/list_changed":
		to = f.up()
	case "notifications/cancelled":
		if id, err := member(m.params, "requestId"); err == nil && id != nil {
			to = f.j.gotBy(idKey(id))
			defer f.j.cancelled(idKey(id))
		}
	case "notifications/progress": // of what a member has asked
		token, err := member(m.params, "progressToken")
		if l, own, ok := whoseID(token); err == nil && ok && f.j.leg(l) != nil {
			to = []*leg{f.j.leg(l)}
			content = with(m.raw, "params", func(v []byte) []byte { return with(v, "progressToken", func([]byte) []byte { return own }) })
		}
	}
	if len(to) == 0 {
		f.stray(m, m.raw, http.StatusOK, errors.New("this notification concerns no member of the endpoint"))
		return
	}
	f.beside(func(ctx context.Context, _ int, l *leg) {
		if slices.Contains(to, l) {
			if rep, fail := f.to(ctx, l, m.method, "", content); fail == nil {
				rep.close()
			}
		}
	})
	f.w.WriteHeader(http.StatusAccepted)
}

// up are the legs that have a session.
func (f *front) up() (list []*leg) {
	for _, l := range f.j.legs {
		if _, up := l.isUp(); up {
			list = append(list, l)
		}
	}
	return list
}

// answer passes on what the agent says to something that a member has asked.
func (f *front) answer(m *message) {
	l, own, ok := whoseID(m.id)
	leg := f.j.leg(l)
	if !ok || leg == nil {
		f.stray(m, m.raw, http.StatusBadRequest, errors.New("no member of the endpoint waits for such an answer"))
		return
	}
	rep, fail := f.to(f.ctx, leg, "", "", with(m.raw, "id", func([]byte) []byte { return own }))
	if fail == nil && rep.status >= http.StatusMultipleChoices {
		fail = failureOf(rep)
	}
	if fail != nil {
		httpgate.Problem(f.w, fail)
		return
	}
	rep.close()
	f.w.WriteHeader(http.StatusAccepted)
}

// end ends the session, and with it those of all members.
func (f *front) end() {
	if f.j.opening == nil {
		f.stray(nil, nil, http.StatusNotFound, errNoSession)
		return
	}
	f.p.joints.remove(f.j)
	f.beside(func(ctx context.Context, _ int, l *leg) {
		session, up := l.isUp()
		if res := f.p.resource(l.Resource); up && res != nil {
			f.drop(ctx, res, session)
			l.lost(session)
		}
	})
	f.w.WriteHeader(http.StatusOK)
}

// listen opens the stream of what members say by themselves, or takes up one
// where it broke off: that is one member's.
func (f *front) listen() {
	if f.j.opening == nil {
		f.w.Header().Set("Allow", "POST")
		f.stray(nil, nil, http.StatusMethodNotAllowed, errors.New("there is a stream within a session only"))
		return
	}
	if last := f.r.Header["Last-Event-Id"]; len(last) > 0 {
		name, id, ok := strings.Cut(last[0], ":")
		l := f.j.leg(label(name))
		if !ok || len(last) > 1 || l == nil {
			f.stray(nil, nil, http.StatusBadRequest, errors.New("no member of the endpoint has sent such an event"))
			return
		}
		f.resume(l, id)
		return
	}
	f.hear()
}

// stream has a member open its stream.
func (f *front) stream(ctx context.Context, l *leg, session, last string) *reply {
	res := f.p.resource(l.Resource)
	if res == nil {
		return &reply{status: http.StatusForbidden, next: nothing, close: func() {}}
	}
	h := http.Header{"Accept": {"text/event-stream"}, sessionField: {session}}
	if session == "" {
		h.Del(sessionField)
	}
	if f.j.version > batchVersion {
		h.Set("Mcp-Protocol-Version", f.j.version)
	}
	if last != "" {
		h.Set("Last-Event-Id", last)
	}
	return f.ask(ctx, res, http.MethodGet, "", h, nil)
}

// resume takes up a stream of one member.
func (f *front) resume(l *leg, last string) {
	session, _ := l.isUp()
	rep := f.stream(f.ctx, l, session, last)
	if !rep.stream {
		httpgate.Problem(f.w, failureOf(rep))
		return
	}
	defer rep.close()
	f.out.begin()
	for {
		e, err := rep.next()
		if err != nil {
			f.out.end()
			return
		}
		if e.hasID {
			e.id = l.Name + ":" + e.id
		}
		if len(e.data) > 0 {
			m, err := parse(e.data)
			switch {
			case err != nil:
				continue
			case !m.isResponse():
				e.data = f.heard(l, m)
			case m.id != nil && f.j.answers(l, idKey(m.id)):
				e.data = l.label.answer(m.raw)
			default: // it may be another member's request
				e.data = nil
			}
			if e.data == nil && !e.hasID {
				continue
			}
			if e.data == nil {
				e.data = []byte{}
			}
		}
		f.out.event(e)
	}
}

// How a member is listened to.
const (
	listenAgain = time.Second // until a stream that has ended is opened again
	listenLate  = 5 * time.Second
	listenMost  = 30 * time.Second
)

// hear passes on what members say by themselves, until the agent leaves. A
// member that has no stream says nothing; where none has, there is none.
func (f *front) hear() {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	first := make(chan bool, len(f.j.legs))
	var all sync.WaitGroup
	for _, l := range f.j.legs {
		f.also(&all, func() { f.hearOne(ctx, cancel, l, first) })
	}
	opens, late := false, time.After(ownTimeout)
	for range f.j.legs {
		select {
		case ok := <-first:
			opens = opens || ok
		case <-late:
			opens = true // it may still come
		}
		if opens {
			break
		}
	}
	if !opens {
		cancel()
		all.Wait()
		f.w.Header().Set("Allow", "POST, DELETE")
		httpgate.Problem(f.w, &httpgate.Failure{Status: http.StatusMethodNotAllowed, Reason: "no member of the endpoint has a stream for this agent"})
		return
	}
	f.out.begin()
	all.Wait()
	f.out.end()
}

// hearOne listens to one member for as long as that can be done.
func (f *front) hearOne(ctx context.Context, over context.CancelFunc, l *leg, first chan<- bool) {
	last, said := "", false
	say := func(ok bool) {
		if !said {
			said = true
			first <- ok
		}
	}
	defer say(false)
	for ctx.Err() == nil {
		wait := listenLate
		if session, up := l.isUp(); up {
			rep := f.stream(ctx, l, session, last)
			switch {
			case rep.stream:
				say(true)
				last, wait = f.hearOut(l, rep, last)
			case rep.status == http.StatusUnauthorized: // for the others, too
				rep.close()
				over()
				return
			case rep.status == http.StatusNotFound && session != "":
				last = ""
				l.lost(session)
			default: // it has no stream, or none for this agent
				rep.close()
				return
			}
			rep.close()
		}
		say(false)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// hearOut passes on a stream until it ends, and returns where it does and how
// long its server wants to be left alone.
func (f *front) hearOut(l *leg, rep *reply, last string) (string, time.Duration) {
	wait := listenAgain
	for {
		e, err := rep.next()
		if err != nil {
			return last, wait
		}
		if e.hasID {
			last = e.id
		}
		if ms, err := time.ParseDuration(e.retry + "ms"); err == nil && e.retry != "" {
			wait = min(max(ms, listenAgain/10), listenMost)
		}
		if len(e.data) == 0 {
			f.out.event(&event{})
			continue
		}
		m, err := parse(e.data)
		if err != nil || m.isResponse() { // what was asked elsewhere is answered there
			continue
		}
		if b := f.heard(l, m); b != nil {
			f.out.event(&event{data: b})
		}
	}
}

// subscribe opens a stream of what is asked for, where requests stand for
// themselves. It begins with what the members will tell of, all told.
func (f *front) subscribe(m *message) {
	wanted, err := member(m.params, "notifications")
	if err != nil {
		f.stray(m, m.raw, http.StatusOK, err)
		return
	}
	uris, err := member(wanted, "resourceSubscriptions")
	of := make(map[*leg][]string)
	for _, uri := range texts(uris) {
		l, own, ok := whose(uri, behindURI)
		leg := f.j.leg(l)
		if err != nil || !ok || leg == nil {
			f.stray(m, m.raw, http.StatusOK, errNobodys)
			return
		}
		of[leg] = append(of[leg], own)
	}
	ack := newAcknowledged(len(f.j.legs))
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range f.j.legs {
		f.also(&all, func() {
			left := sync.OnceFunc(ack.spoken)
			defer left()
			content := with(m.raw, "params", func(v []byte) []byte {
				return with(v, "notifications", func(v []byte) []byte {
					return with(v, "resourceSubscriptions", func([]byte) []byte { return encode(append([]string{}, of[l]...)) })
				})
			})
			rep, fail := f.to(ctx, l, m.method, "", content)
			if fail != nil {
				return
			}
			defer rep.close()
			f.told(ctx, l, rep, ack, left)
		})
	}
	late := time.AfterFunc(ownTimeout, ack.end)
	defer late.Stop()
	select {
	case <-ack.done:
	case <-f.ctx.Done():
	}
	said, agreed := ack.message(m.id)
	if !agreed {
		cancel()
		all.Wait()
		f.refused(m, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "no member of the endpoint tells this agent of anything"})
		return
	}
	f.out.event(&event{data: said})
	close(ack.heard)
	all.Wait()
	if f.ctx.Err() == nil { // all of them have ended it
		f.out.answer(ownAnswer(m.id, map[string]any{"resultType": "complete", "_meta": map[string]any{metaSubscription: json.RawMessage(m.id)}}))
	}
	f.out.end()
}

// told passes on what a member tells within a subscription, once the agent knows
// what it will be told of.
func (f *front) told(ctx context.Context, l *leg, rep *reply, ack *acknowledged, spoken func()) {
	for {
		e, err := rep.next()
		if err != nil {
			return
		}
		if len(e.data) == 0 {
			select {
			case <-ack.heard:
				f.out.event(&event{})
			default:
			}
			continue
		}
		m, err := parse(e.data)
		if err != nil || m.isResponse() {
			return
		}
		if m.method == "notifications/subscriptions/acknowledged" {
			ack.agree(l.label, m)
			spoken()
			continue
		}
		spoken()
		select {
		case <-ack.heard:
		case <-ctx.Done():
			return
		}
		if b := f.heard(l, m); b != nil {
			f.out.event(&event{data: b})
		}
	}
}

const metaSubscription = "io.modelcontextprotocol/subscriptionId"

// acknowledged is what members agree to tell of within one subscription.
type acknowledged struct {
	mu     sync.Mutex
	left   int // members that haven't spoken yet
	done   chan struct{}
	ended  bool
	any    bool
	agreed map[string]bool
	uris   []string
	heard  chan struct{} // closed when the agent knows
}

func newAcknowledged(members int) *acknowledged {
	return &acknowledged{left: members, done: make(chan struct{}), agreed: make(map[string]bool), heard: make(chan struct{})}
}

// spoken counts a member that has agreed to something, or never will.
func (a *acknowledged) spoken() {
	a.mu.Lock()
	a.left--
	last := a.left == 0
	a.mu.Unlock()
	if last {
		a.end()
	}
}

// end ends the wait for members.
func (a *acknowledged) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.ended = true
		close(a.done)
	}
}

// agree takes in what a member agrees to.
func (a *acknowledged) agree(l label, m *message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.any = true
	to, err := member(m.params, "notifications")
	if err != nil {
		return
	}
	for _, key := range []string{"toolsListChanged", "promptsListChanged", "resourcesListChanged"} {
		if v, err := member(to, key); err == nil && string(v) == "true" {
			a.agreed[key] = true
		}
	}
	if uris, err := member(to, "resourceSubscriptions"); err == nil {
		for _, uri := range texts(uris) {
			a.uris = append(a.uris, l.uri(uri))
		}
	}
}

// message tells the agent what was agreed to. What a member agrees to later it
// isn't told, but it hears of it. It reports whether anybody agrees.
func (a *acknowledged) message(id []byte) ([]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	to := make(map[string]any)
	for key := range a.agreed {
		to[key] = true
	}
	if len(a.uris) > 0 {
		to["resourceSubscriptions"] = a.uris
	}
	return encode(map[string]any{"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": map[string]any{
		"_meta": map[string]any{metaSubscription: json.RawMessage(id)}, "notifications": to,
	}}), a.any
}
