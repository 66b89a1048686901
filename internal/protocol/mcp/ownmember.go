package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// The gateway's own tools are at an endpoint once, and about one member or
// another: which one, an argument says.

// argMember is the argument that names a member.
const argMember = "member"

// ownDefinition is one of the gateway's own tools, as it defines it.
type ownDefinition struct {
	name     string
	raw      []byte
	readOnly bool
}

// own asks the gateway itself, at a member. It is the same there as at any.
func (f *front) own(ctx context.Context, res *Resource, m *message, content []byte, name string) (*message, *httpgate.Failure) {
	rep := f.ask(ctx, res, http.MethodPost, OwnPath, f.fields("", m.method, name), content)
	defer rep.close()
	e, err := rep.next()
	if err != nil {
		return nil, &httpgate.Failure{Status: http.StatusBadGateway, Reason: "the gateway does not answer"}
	}
	a, err := parse(e.data)
	if err != nil || !a.isResponse() {
		return nil, refusedBy(rep.status, e.data)
	}
	return a, nil
}

// ownDefinitions are the gateway's own tools.
func (f *front) ownDefinitions(m *message) (list []ownDefinition) {
	ask := append([]byte(`{"jsonrpc":"2.0","id":"own","method":"tools/list","params":`), ownParams(m)...)
	h := &message{method: "tools/list"}
	a, fail := f.own(f.ctx, f.in, h, append(ask, '}'), "")
	if fail != nil || a.result == nil {
		return nil
	}
	tools, _ := member(a.result, "tools") // the gateway's own words
	for _, raw := range elements(tools) {
		name, _ := member(raw, "name")
		hints, _ := member(raw, "annotations")
		readOnly, _ := member(hints, "readOnlyHint")
		list = append(list, ownDefinition{text(name), raw, string(readOnly) == "true"})
	}
	return list
}

// ownParams are params of a request of the gateway's own, of the same revision
// as the agent's.
func ownParams(m *message) []byte {
	meta, err := member(m.params, "_meta")
	if err != nil || m.version() == "" {
		return []byte("{}")
	}
	return append(append([]byte(`{"_meta":`), with(meta, "progressToken", func([]byte) []byte { return nil })...), '}')
}

// ownTools are the gateway's own tools as the endpoint lists them.
func (f *front) ownTools(m *message) (list []json.RawMessage) {
	names := make([]string, 0, len(f.j.legs))
	for _, l := range f.j.legs {
		names = append(names, l.Name)
	}
	for _, tool := range f.ownDefinitions(m) {
		list = append(list, tool.listed(names))
	}
	return list
}

// listed is the definition as an endpoint lists it: with an argument that says
// which member it is about, which may be left out where nothing is changed. What
// it answers about several has another form.
func (d *ownDefinition) listed(members []string) []byte {
	about := "which part of this endpoint it is about"
	if d.readOnly {
		about += "; without it, each"
	}
	raw := with(d.raw, "name", func(v []byte) []byte { return encode(label(OwnMember).name(text(v))) })
	raw = with(raw, "outputSchema", func([]byte) []byte { return nil })
	return set(raw, "inputSchema", func(v []byte) []byte {
		if v == nil {
			v = []byte(`{"type":"object"}`)
		}
		v = set(v, "properties", func(v []byte) []byte {
			if v == nil {
				v = []byte("{}")
			}
			return set(v, argMember, func([]byte) []byte {
				return encode(map[string]any{"type": "string", "enum": members, "description": about})
			})
		})
		if d.readOnly {
			return v
		}
		return set(v, "required", func(v []byte) []byte { return encode(append(texts(v), argMember)) })
	})
}

// callOwn calls one of the gateway's own tools about a member, or about each.
func (f *front) callOwn(m *message, name string) {
	var tool *ownDefinition
	for _, d := range f.ownDefinitions(m) {
		if d.name == name {
			tool = &d
		}
	}
	arguments, err := member(m.params, "arguments")
	about, aerr := member(arguments, argMember)
	at := f.j.leg(label(text(about)))
	if err = errors.Join(err, aerr); err != nil || tool == nil || at == nil && (about != nil || !tool.readOnly) {
		f.stray(m, m.raw, http.StatusOK, errors.New("the gateway has no such tool, or the endpoint no such member"))
		return
	}
	content := with(m.raw, "params", func(v []byte) []byte {
		v = with(v, "name", func([]byte) []byte { return encode(name) })
		return with(v, "arguments", func(v []byte) []byte { return with(v, argMember, func([]byte) []byte { return nil }) })
	})
	if at != nil {
		a, fail := f.ownAt(f.ctx, at, m, content, name)
		if fail != nil {
			f.refused(m, fail)
			return
		}
		f.out.answer(a.raw)
		f.out.end()
		return
	}
	said := make([]any, len(f.j.legs))
	f.beside(func(ctx context.Context, i int, l *leg) {
		a, fail := f.ownAt(ctx, l, m, content, name)
		if fail != nil {
			said[i] = map[string]string{"error": fail.Reason}
			return
		}
		v, _ := member(a.result, "structuredContent") // the gateway's own words
		if v == nil {
			v = []byte("null")
		}
		said[i] = json.RawMessage(v)
	})
	all := make(map[string]any)
	for i, l := range f.j.legs {
		all[l.Name] = said[i]
	}
	f.result(m, map[string]any{
		"content": []any{map[string]string{"type": "text", "text": string(encode(all))}}, "structuredContent": all,
	}, nil)
}

// ownAt asks the gateway itself at a leg.
func (f *front) ownAt(ctx context.Context, l *leg, m *message, content []byte, name string) (*message, *httpgate.Failure) {
	res := f.p.resource(l.Resource)
	if res == nil {
		return nil, &httpgate.Failure{Status: http.StatusForbidden, Reason: "the resource is not configured any more"}
	}
	return f.own(ctx, res, m, content, name)
}
