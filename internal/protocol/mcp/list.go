package mcp

import (
	"bytes"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// listKeys are the members of results that lists stand in, by method.
var listKeys = map[string]string{
	"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources", "resources/templates/list": "resourceTemplates",
}

// entry is one thing that a server lists.
type entry struct {
	raw  []byte
	name string // "" is one that can't be named
	tool *Tool  // of a list of tools
}

// entriesOf reads a list. Next says whether there is more of it.
func entriesOf(method string, result []byte) (list []entry, span []byte, next bool, err error) {
	key := listKeys[method]
	if span, err = member(result, key); err != nil {
		return nil, nil, false, err
	}
	cursor, err := member(result, "nextCursor")
	if err != nil {
		return nil, nil, false, err
	}
	all := elements(span)
	if len(all) > maxListed {
		return nil, nil, false, fmt.Errorf("the server lists more than %d at once", maxListed)
	}
	for _, raw := range all {
		list = append(list, entryOf(key, raw))
	}
	return list, span, text(cursor) != "", nil
}

func entryOf(key string, raw []byte) entry {
	e := entry{raw: raw}
	by := "name"
	switch key {
	case "tools":
		e.tool = toolOf(raw)
		e.name = e.tool.Name
		return e
	case "resources":
		by = "uri"
	case "resourceTemplates":
		by = "uriTemplate"
	}
	v, err := member(raw, by)
	if name := text(v); err == nil && visible(name) {
		e.name = name
	}
	return e
}

// actionsOf are the actions of things listed, by the member they stand in.
var actionsOf = map[string]string{
	"prompts": Name + ":get_prompt", "resources": Name + ":read_resource", "resourceTemplates": Name + ":read_resource",
}

// shown reports whether an agent is shown an entry.
func (t *turn) shown(key string, e *entry) bool {
	switch {
	case e.name == "":
		return false
	case e.tool == nil:
		return t.s.May(evidence.Check{Action: actionsOf[key], Object: e.name})
	case e.tool.Held(t.res) != "":
		return false
	}
	plain := *t.res // arguments aren't known
	plain.Match = nil
	u, err := t.p.shapes.call(&plain, e.tool, &message{method: "tools/call"})
	return err == nil && t.s.May(u.shape.Checks...)
}

// cut returns a text in which only some elements of a list are left; span is
// the list in it.
func cut(raw, span []byte, list []entry, keep func(*entry) bool) []byte {
	var left [][]byte
	for i := range list {
		if keep(&list[i]) {
			left = append(left, list[i].raw)
		}
	}
	if len(left) == len(list) {
		return raw
	}
	at := offset(raw, span)
	out := make([]byte, 0, len(raw))
	out = append(append(out, raw[:at]...), '[')
	out = append(out, bytes.Join(left, []byte(","))...)
	out = append(out, ']')
	return append(out, raw[at+len(span):]...)
}

// offset is where part begins in whole, of which it is a slice.
func offset(whole, part []byte) int { return cap(whole) - cap(part) }
