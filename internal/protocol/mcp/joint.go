package mcp

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// opened is a session that a member has made.
type opened struct {
	session string
	version string
	result  []byte
}

// begin has a member make a session in a revision of the protocol. What it says
// meanwhile is not for the agent yet.
func (f *front) begin(ctx context.Context, res *Resource, l *leg, opening []byte, version string) (*opened, *httpgate.Failure) {
	m, err := parse(with(opening, "params", func(v []byte) []byte {
		v = set(v, "protocolVersion", func([]byte) []byte { return encode(version) })
		return with(v, "capabilities", func(v []byte) []byte { return with(v, "tasks", func([]byte) []byte { return nil }) })
	}))
	if err != nil { // what was parsed has been changed into something else
		return nil, &httpgate.Failure{Status: http.StatusBadRequest, Reason: err.Error()}
	}
	h := f.fields("", m.method, "")
	h.Del("Mcp-Protocol-Version")
	rep := f.ask(ctx, res, http.MethodPost, "", h, m.raw)
	defer rep.close()
	o := &opened{session: rep.header.Get(sessionField)}
	for {
		e, err := rep.next()
		if err != nil {
			return nil, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "no session was made: no answer came"}
		}
		a, err := parse(e.data)
		switch {
		case len(e.data) == 0 || err == nil && !a.isResponse():
			continue
		case err != nil || a.result == nil:
			return nil, refusedBy(rep.status, e.data)
		}
		v, err := member(a.result, "protocolVersion")
		if o.version, o.result = text(v), a.result; err != nil || o.version == "" {
			return nil, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "no session was made: the answer names no revision of the protocol"}
		}
		if o.version != version && !slices.Contains(legacy, o.version) { // no other member is asked for that
			f.drop(ctx, res, o.session)
			return nil, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "it speaks revision " + printable(o.version) + " of the protocol, which nobody asked for"}
		}
		return o, nil
	}
}

// drop ends a session of a member's.
func (f *front) drop(ctx context.Context, res *Resource, session string) {
	if session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	h := http.Header{sessionField: {session}}
	if f.j.version > batchVersion {
		h.Set("Mcp-Protocol-Version", f.j.version)
	}
	f.ask(ctx, res, http.MethodDelete, "", h, nil).close()
}

// take takes a session of a member's in.
func (l *leg) take(o *opened) {
	offers := make(map[string]bool)
	said, _ := member(o.result, "capabilities") // what can be read in two ways offers nothing
	for _, capability := range []string{"tools", "prompts", "resources", "completions", "logging"} {
		v, err := member(said, capability)
		offers[capability] = err == nil && v != nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.session, l.offers, l.why = true, o.session, offers, ""
}

// open returns the session at a member, which is made if there is none: a member
// may come late, or have forgotten it.
func (f *front) open(ctx context.Context, l *leg, res *Resource) (string, *httpgate.Failure) {
	if f.j.opening == nil {
		return "", nil
	}
	l.opening.Lock()
	defer l.opening.Unlock()
	if session, up := l.isUp(); up {
		return session, nil
	}
	o, fail := f.begin(ctx, res, l, f.j.opening, f.j.version)
	if fail == nil && o.version != f.j.version {
		f.drop(ctx, res, o.session)
		fail = &httpgate.Failure{Status: http.StatusBadGateway, Reason: "it speaks revision " + printable(o.version) + " of the protocol, and the session is of " + f.j.version}
	}
	if fail != nil {
		l.fails(fail.Reason)
		return "", fail
	}
	l.take(o)
	f.j.mu.Lock()
	begun := f.j.begun
	f.j.mu.Unlock()
	if begun {
		f.ask(ctx, res, http.MethodPost, "", f.fields(o.session, "notifications/initialized", ""), []byte(ownInitialized)).close()
	}
	return o.session, nil
}

// printable is a text of a server's in a message for the agent.
func printable(s string) string {
	if !visible(s) || len(s) > 32 {
		return "?"
	}
	return s
}

// initialize begins a session with all members that the agent may reach. They
// must agree on the revision of the protocol: that is the oldest that one of
// them asks for.
func (f *front) initialize(m *message) {
	if len(m.raw) > maxOpening { // it is kept for members that come late
		f.stray(m, m.raw, http.StatusRequestEntityTooLarge, errors.New("this message exceeds 64 KiB"))
		return
	}
	asked, err := member(m.params, "protocolVersion")
	if err != nil || f.j.key.id != "" || text(asked) == "" {
		f.stray(m, m.raw, http.StatusBadRequest, errors.New("a session begins once, with the revision of the protocol"))
		return
	}
	f.j = newJoint(jointKey{f.by.Credential(), f.e.Prefix, rand.Text()}, f.e)
	f.j.opening = m.raw
	all := make([]*opened, len(f.j.legs))
	begin := func(version string) {
		f.beside(func(ctx context.Context, i int, l *leg) {
			res := f.p.resource(l.Resource)
			if res == nil || all[i] != nil && all[i].version == version {
				return
			}
			if all[i] != nil {
				f.drop(ctx, res, all[i].session)
			}
			var fail *httpgate.Failure
			if all[i], fail = f.begin(ctx, res, l, m.raw, version); fail != nil {
				l.fails(fail.Reason)
			}
		})
	}
	begin(text(asked))
	for _, o := range all {
		if o != nil && (f.j.version == "" || o.version < f.j.version) {
			f.j.version = o.version
		}
	}
	if slices.ContainsFunc(all, func(o *opened) bool { return o != nil && o.version != f.j.version }) {
		begin(f.j.version)
	}
	up := make(map[*leg][]byte)
	for i, l := range f.j.legs {
		switch o := all[i]; {
		case o == nil:
		case o.version != f.j.version:
			l.fails("it speaks revision " + printable(o.version) + " of the protocol, and another member an older one")
			if res := f.p.resource(l.Resource); res != nil {
				f.drop(f.ctx, res, o.session)
			}
		default:
			l.take(o)
			up[l] = o.result
		}
	}
	if len(up) == 0 {
		f.refused(m, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "none of the endpoint's members can be reached: " + leftOut(f.absent()), Hint: "ask the gateway's operator"})
		return
	}
	if !f.p.joints.put(f.j, f.p.idle()) {
		f.refused(m, &httpgate.Failure{Status: http.StatusTooManyRequests, Reason: errConversations.Error(), Hint: "end one first"})
		return
	}
	result := f.merged(up)
	result["protocolVersion"], result["serverInfo"] = f.j.version, self
	f.w.Header().Set(sessionField, f.j.key.id)
	f.result(m, result, f.absent())
}

const (
	maxOpening      = 64 << 10
	maxInstructions = 64 << 10 // of all members
)

// self is who the agent speaks with.
var self = map[string]string{"name": OwnMember, "title": "Exhibit access gateway", "version": "1"}

// beside asks each member, beside each other and in bounded time.
func (f *front) beside(ask func(ctx context.Context, i int, l *leg)) {
	ctx, cancel := context.WithTimeout(f.ctx, ownTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i, l := range f.j.legs {
		f.also(&all, func() { ask(ctx, i, l) })
	}
	all.Wait()
}

// also runs one of several that serve the request. A fault in it is the end of
// that one, as it would be of a request.
func (f *front) also(all *sync.WaitGroup, run func()) {
	all.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				f.p.log.Error("a part of a request failed", "panic", v, "stack", string(debug.Stack()))
			}
		}()
		run()
	})
}

// absent are the members that aren't up, and why.
func (f *front) absent() map[string]string {
	out := make(map[string]string)
	for _, l := range f.j.legs {
		l.mu.Lock()
		if !l.up && f.j.opening != nil {
			out[l.Name] = l.why
		}
		l.mu.Unlock()
	}
	return out
}

func leftOut(why map[string]string) string {
	var list []string
	for name, reason := range why {
		list = append(list, name+": "+reason)
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// result answers with a result of the gateway's own making. Out are the members
// that have no part in it.
func (f *front) result(m *message, result map[string]any, out map[string]string) {
	meta := make(map[string]any)
	if len(out) > 0 {
		meta[metaLeftOut] = out
	}
	if m.version() != "" {
		result["resultType"] = "complete"
		if m.method == "server/discover" {
			meta["io.modelcontextprotocol/serverInfo"] = self
		}
		if m.method == "server/discover" || listKeys[m.method] != "" { // what one agent is shown is not for others
			result["ttlMs"], result["cacheScope"] = 0, "private"
		}
	}
	if len(meta) > 0 {
		result["_meta"] = meta
	}
	f.out.answer(ownAnswer(m.id, result))
	f.out.end()
}

// metaLeftOut is the key in a result's metadata that says which members have no
// part in it, and why.
const metaLeftOut = "exhibit/left_out"

func ownAnswer(id []byte, result map[string]any) []byte {
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	return append(append(append(b, `,"result":`...), encode(result)...), '}')
}

// merged are the capabilities and instructions of members as one. Of those that
// could be taken for another member's nothing is left, nor of tasks, whose ids
// say nothing of whose they are.
func (f *front) merged(of map[*leg][]byte) map[string]any {
	capabilities := map[string]map[string]bool{"tools": {}, "logging": {}} // the gateway has both
	said := "This endpoint is several servers. The names of tools and prompts begin with the server's: SERVER__NAME; so do the URIs of resources: SERVER+URI. Those of " + OwnMember + " are the access gateway's own, and tell what you may do here.\n"
	for _, l := range f.j.legs {
		result := of[l]
		offers, _ := member(result, "capabilities") // what can be read in two ways offers nothing
		for capability, switches := range map[string][]string{"tools": {"listChanged"}, "prompts": {"listChanged"}, "resources": {"listChanged", "subscribe"}, "completions": nil} {
			v, err := member(offers, capability)
			if err != nil || v == nil {
				continue
			}
			if capabilities[capability] == nil {
				capabilities[capability] = make(map[string]bool)
			}
			for _, key := range switches {
				if on, err := member(v, key); err == nil && string(on) == "true" {
					capabilities[capability][key] = true
				}
			}
		}
		if v, err := member(result, "instructions"); err == nil && text(v) != "" && len(said)+len(v) <= maxInstructions {
			said += "\n" + l.Name + " says:\n" + text(v) + "\n"
		}
	}
	return map[string]any{"capabilities": capabilities, "instructions": said}
}

// discover says what the endpoint is, where requests stand for themselves. It is
// of the revisions that all members have that answer: of an older one there
// is none without a session.
func (f *front) discover(m *message) {
	var mu sync.Mutex
	of, failed := make(map[*leg][]byte), make(map[string]string)
	var common []string
	modern := true
	f.beside(func(ctx context.Context, _ int, l *leg) {
		a, fail := f.exchange(ctx, l, m, m.raw, "")
		mu.Lock()
		defer mu.Unlock()
		versions := legacy
		if fail == nil && a.fail != nil {
			code, _ := member(a.fail, "code")
			switch string(code) {
			case codeVersion:
				data, _ := member(a.fail, "data")
				v, _ := member(data, "supported")
				versions = texts(v)
			case codeNoMethod, strconv.Itoa(codeInvalid):
			default:
				fail = refusedBy(http.StatusBadGateway, a.raw)
			}
		}
		switch {
		case fail != nil && fail.Status != http.StatusBadRequest && fail.Status != http.StatusNotFound && fail.Status != http.StatusMethodNotAllowed:
			failed[l.Name] = fail.Reason
			return
		case fail == nil && a.result != nil:
			of[l] = a.result
			v, _ := member(a.result, "supportedVersions")
			versions = texts(v)
		}
		if common == nil {
			common = versions
		} else {
			common = slices.DeleteFunc(slices.Clone(common), func(v string) bool { return !slices.Contains(versions, v) })
		}
		modern = modern && slices.Contains(versions, m.version())
	})
	switch {
	case len(of) == 0 && len(failed) == len(f.j.legs):
		f.refused(m, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "none of the endpoint's members can be reached: " + leftOut(failed), Hint: "ask the gateway's operator"})
	case !modern:
		b := append([]byte(`{"jsonrpc":"2.0","id":`), m.id...)
		b = append(b, `,"error":{"code":`+codeVersion+`,"message":"a member of the endpoint does not speak this revision of the protocol","data":`...)
		b = append(append(b, encode(map[string]any{"supported": append([]string{}, common...), "requested": m.version()})...), "}}"...)
		f.out.answer(b)
		f.out.end()
	default:
		result := f.merged(of)
		result["supportedVersions"] = common
		f.result(m, result, failed)
	}
}

// codeVersion is how a server says that it doesn't speak a revision.
const codeVersion = "-32022"

// legacy are the revisions that have sessions: those of servers that can't be
// asked for theirs.
var legacy = []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}

// texts are the strings of a list.
func texts(b []byte) (list []string) {
	for _, v := range elements(b) {
		list = append(list, text(v))
	}
	return list
}

// exchange asks a member and returns its answer; one that doesn't come is a
// failure. What the member says meanwhile is passed on.
func (f *front) exchange(ctx context.Context, l *leg, m *message, content []byte, name string) (*message, *httpgate.Failure) {
	rep, fail := f.to(ctx, l, m.method, name, content)
	if fail != nil {
		return nil, fail
	}
	defer rep.close()
	a, _, fail := f.relay(l, rep, m.id, true)
	if fail == nil && a == nil {
		fail = &httpgate.Failure{Status: http.StatusBadGateway, Reason: "no answer came"}
		if ctx.Err() != nil && f.ctx.Err() == nil {
			fail.Reason = "no answer came in time"
		}
	}
	return a, fail
}
