package mcp

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// inspect decides on one message of the server's. It returns what the agent gets
// of it, nil for nothing; when it isn't ok the turn has ended.
func (f *flow) inspect(data []byte) (out []byte, ok bool) {
	m, err := parse(data)
	switch {
	case err != nil:
		f.broken(err)
		return nil, false
	case m.isRequest():
		return f.ask(m)
	case m.isNotification():
		f.notified(m)
		open, ok := f.observe(f.x, data)
		if !open {
			return nil, ok
		}
		return data, ok
	}
	key := idKey(m.id)
	if !f.listens && (key == f.x.key || m.id == nil) {
		return f.answerOf(f.x, m)
	}
	if x := f.c.running(key); x != nil && f.listens {
		return f.answerOf(x, m)
	}
	if !f.listens || f.c.isGone(key) {
		return nil, true // nobody waits for it
	}
	// Of a stream that is taken up again: it may have been sent before.
	again := newCall(f.x.ex)
	again.key, again.method = key, methodOf(m)
	return f.answerOf(again, m)
}

// methodOf tells by a result of a list which list it is of.
func methodOf(m *message) string {
	for method, key := range listKeys {
		if v, err := member(m.result, key); err != nil || v != nil {
			return method
		}
	}
	return ""
}

// stales are the lists that a notification says have changed.
var stales = map[string][]string{
	"notifications/tools/list_changed": {"tools/list"}, "notifications/prompts/list_changed": {"prompts/list"},
	"notifications/resources/list_changed": {"resources/list", "resources/templates/list"},
}

func (f *flow) notified(m *message) { f.c.stale(stales[m.method]...) }

// answerOf decides on the answer to a request: what the agent gets of it, once
// that is on record.
func (f *flow) answerOf(x *call, m *message) (out []byte, ok bool) {
	out = m.raw
	if m.result != nil && listKeys[x.method] != "" {
		var alert string
		var err error
		if out, alert, err = f.list(x, m); err != nil {
			f.broken(err)
			return nil, false
		}
		f.alert(x.ex, alert)
	}
	o := f.result(m)
	if refused := f.input(x, m); refused != nil {
		out, o = refused.response(m.id), evidence.Outcome{Class: evidence.Failed, Code: "input_denied"}
	}
	return f.finish(x, out, o)
}

// finish puts an answer on record.
func (f *flow) finish(x *call, out []byte, o evidence.Outcome) ([]byte, bool) {
	if x.ex == f.x.ex && x != f.x { // sent again: the stream's command has it
		_, ok := f.observe(f.x, out)
		return out, ok
	}
	if f.c.running(x.key) == nil && f.c.isGone(x.key) { // cancelled meanwhile
		f.answered = f.answered || x == f.x
		return nil, true
	}
	if open, err := x.observe(out); err != nil {
		f.unrecorded(err)
		return nil, false
	} else if !open { // cancelled this very moment
		f.answered = f.answered || x == f.x
		return nil, true
	}
	if x == f.x {
		f.reply += len(out)
		o.Reply = uint64(f.reply)
	} else {
		o.Reply = uint64(len(out))
	}
	first, err := x.end(f.ctx, o)
	f.c.leave(x, true)
	if err != nil {
		f.unrecorded(err)
		return nil, false
	}
	f.answered = f.answered || x == f.x
	if !first {
		return nil, true
	}
	return out, true
}

// result is the outcome that an answer says.
func (f *flow) result(m *message) evidence.Outcome {
	if m.fail != nil {
		o := evidence.Outcome{Class: evidence.Failed, Code: "error"}
		if code, err := member(m.fail, "code"); err == nil && integer.Match(code) {
			o.Code = string(code)
		}
		if msg, err := member(m.fail, "message"); err == nil {
			o.Detail = text(msg)
		}
		return o
	}
	if v, err := member(m.result, "isError"); err != nil || string(v) == "true" {
		return evidence.Outcome{Class: evidence.Failed, Code: "tool_error"}
	}
	if v, err := member(m.result, "resultType"); err == nil && text(v) == "input_required" {
		return evidence.Outcome{Class: evidence.OK, Code: "input_required"}
	}
	return evidence.Outcome{Class: evidence.OK}
}

// list filters a list: what the agent isn't allowed isn't shown, and of tools
// only those that a person has accepted. What is shown is on record.
func (f *flow) list(x *call, m *message) (out []byte, alert string, err error) {
	list, span, more, err := entriesOf(x.method, m.result)
	if err != nil {
		return nil, "", err
	}
	all := x.all && !more
	if x.method == "tools/list" {
		if alert, err = f.tools(list, all); err != nil {
			return nil, "", err
		}
	}
	f.c.learned(x.method, list, all)
	if span == nil {
		return m.raw, alert, nil
	}
	key := listKeys[x.method]
	return cut(m.raw, span, list, func(e *entry) bool { return f.shown(key, e) }), alert, nil
}

// tools puts listed tools on record.
func (t *turn) tools(list []entry, all bool) (alert string, err error) {
	tools := make([]*Tool, 0, len(list))
	seen := make(map[string]bool)
	for _, e := range list {
		if seen[e.name] && e.tool.unfit == "" { // two of one name
			e.tool.unfit = heldUnread
		}
		seen[e.name] = true
		tools = append(tools, e.tool)
	}
	return t.p.cfg.Definitions.listed(context.WithoutCancel(t.ctx), t.res, tools, all)
}

// ask decides on what the server asks of the agent. What policy refuses the
// server is told by an error.
func (f *flow) ask(m *message) (out []byte, ok bool) {
	action := asks[m.method]
	if action == "" {
		action = Name + ":opaque"
	}
	key := idKey(m.id)
	shape := f.p.shapes.of(shapeKey{path: pathServer, method: knownAsk(m.method), actions: action})
	exchanges, err := f.s.Begin(f.ctx, &evidence.Command{Shape: shape, Raw: m.raw, Params: params(m), Frames: 1})
	if err != nil {
		f.unrecorded(err)
		return nil, false
	}
	ex := exchanges[0]
	if ex.Decision().Effect != evidence.Allow {
		f.refuse(m, "the access gateway refuses: "+ex.Decision().Reason, ex.Position().String())
		return nil, true
	}
	x := newCall(ex)
	if !f.c.ask(key, asked{ex.Position(), action}) {
		if _, err := x.end(f.ctx, evidence.Outcome{Class: evidence.Failed, Code: "too_many"}); err != nil {
			f.unrecorded(err)
			return nil, false
		}
		f.refuse(m, errTooMany.Error(), ex.Position().String())
		return nil, true
	}
	if err := ex.Observe(evidence.ToAgent, m.raw); err != nil {
		f.unrecorded(err)
		return nil, false
	}
	if _, err := x.end(f.ctx, evidence.Outcome{Class: evidence.OK, Reply: uint64(len(m.raw))}); err != nil {
		f.unrecorded(err)
		return nil, false
	}
	return m.raw, true
}

func params(m *message) [][]byte {
	if m.params == nil {
		return nil
	}
	return [][]byte{m.params}
}

func knownAsk(method string) string {
	if asks[method] == "" {
		return ""
	}
	return method
}

// refuse tells the server that the agent doesn't answer. A failure to do so is
// the server's loss.
func (f *flow) refuse(m *message, reason, command string) {
	p := &problem{code: codeDenied, message: reason, command: command}
	if err := f.tellServer(p.response(m.id), "denial"); err != nil {
		f.p.log.Warn("a server cannot be told that what it asked is refused", "resource", f.res.Resource, "cause", err)
	}
}

// ownTimeout bounds how long a message of the gateway's own may take.
const ownTimeout = 10 * time.Second

// tellServer sends a message of the gateway's own that has no answer.
func (f *flow) tellServer(content []byte, kind string) error {
	out, failure := f.packet(f.c, http.MethodPost, content, &ownMessage{})
	if failure != nil {
		return errUnsent
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), ownTimeout)
	defer cancel()
	if err := f.note(ctx, kind, out.bytes); err != nil {
		return err
	}
	rep, err := out.send(ctx)
	if err != nil {
		return err
	}
	rep.close()
	return nil
}

// input decides on what an answer asks of the agent before there is a final one.
// It returns the error that the agent gets in its place.
func (f *flow) input(x *call, m *message) *problem {
	asked, actions, err := inputOf(m)
	if err != nil {
		return &problem{code: codeInternal, message: "the server's answer cannot be read"}
	}
	if len(actions) == 0 {
		return nil
	}
	shape := f.p.shapes.of(shapeKey{path: pathServer, actions: strings.Join(actions, " ")})
	exchanges, err := f.s.Begin(f.ctx, &evidence.Command{Shape: shape, Raw: asked, Frames: 1, Of: x.ex.Position()})
	if err != nil {
		return &problem{code: codeInternal, message: err.Error()}
	}
	ex := exchanges[0]
	if d := ex.Decision(); d.Effect != evidence.Allow {
		return &problem{code: codeDenied, message: "the access gateway refuses what the server asks for: " + d.Reason, command: ex.Position().String(), rules: d.Rules}
	}
	if err := ex.End(context.WithoutCancel(f.ctx), evidence.Outcome{Class: evidence.OK}); err != nil {
		return &problem{code: codeInternal, message: err.Error()}
	}
	return nil
}

// codeElicitation is the error by which a server says that the agent's user must
// go to a page first.
const codeElicitation = "-32042"

// inputOf returns what an answer asks of the agent, and the actions of that,
// sorted.
func inputOf(m *message) (asked []byte, actions []string, err error) {
	if m.fail != nil {
		code, err := member(m.fail, "code")
		if err == nil && string(code) == codeElicitation {
			return m.fail, []string{Name + ":elicitation"}, nil
		}
		return nil, nil, err
	}
	if asked, err = member(m.result, "inputRequests"); err != nil {
		return nil, nil, err
	}
	err = members(asked, func(_ string, v []byte) error {
		method, err := member(v, "method")
		if err != nil {
			return err
		}
		action := asks[text(method)]
		if action == "" {
			action = Name + ":opaque"
		}
		if !slices.Contains(actions, action) {
			actions = append(actions, action)
		}
		return nil
	})
	slices.Sort(actions)
	return asked, actions, err
}
