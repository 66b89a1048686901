package mcp

import (
	"slices"
	"strings"
)

// label is the name that a member has at an endpoint. It parts what members
// offer and ask: by its label alone one knows whose a thing is, and what the
// member itself calls it. A label is a letter and letters, digits and hyphens
// (see config), all in lower case.
type label string

// Behind a label stand
const (
	behindName = "__" // and a tool's or prompt's name. The first one ends the label, whatever the name holds.
	behindURI  = "+"  // and a URI, which so becomes one of a scheme of its own (RFC 3986 section 3.1)
	behindID   = "."  // and an id of the member's: "s" and a string, or "n" and an integer
)

// maxTagged bounds an id with a label.
const maxTagged = maxID + 64

func (l label) name(s string) string { return string(l) + behindName + s }
func (l label) uri(s string) string  { return string(l) + behindURI + s }

// id is an id or token of the member's as the agent sees it; nil for what is
// neither a string nor an integer.
func (l label) id(raw []byte) []byte {
	switch {
	case len(raw) > 0 && raw[0] == '"':
		return encode(string(l) + behindID + "s" + text(raw))
	case integer.Match(raw):
		return encode(string(l) + behindID + "n" + string(raw))
	}
	return nil
}

// whoseID returns whose an id is, and how the member spells it.
func whoseID(raw []byte) (l label, own []byte, ok bool) {
	name, rest, ok := strings.Cut(text(raw), behindID)
	if !ok || rest == "" {
		return "", nil, false
	}
	switch value := rest[1:]; rest[0] {
	case 's':
		return label(name), encode(value), true
	case 'n':
		return label(name), []byte(value), integer.MatchString(value)
	}
	return "", nil, false
}

// whose returns whose a labelled text is, and what stands behind the label.
func whose(s, behind string) (l label, own string, ok bool) {
	name, own, ok := strings.Cut(s, behind)
	return label(name), own, ok && name != "" && own != ""
}

// answer is a member's answer as the agent sees it: what stands in it for the
// agent to ask for bears the label.
func (l label) answer(raw []byte) []byte {
	raw = with(raw, "error", func(v []byte) []byte {
		return with(v, "data", func(v []byte) []byte {
			return with(v, "elicitations", func(v []byte) []byte { return each(v, func(v []byte) []byte { return with(v, "elicitationId", l.id) }) })
		})
	})
	return with(raw, "result", func(v []byte) []byte {
		return object(v, func(key string, v []byte) []byte {
			if slices.ContainsFunc(labelled, func(k string) bool { return k != key && strings.EqualFold(k, key) }) {
				return nil
			}
			switch key {
			case "content":
				return l.content(v)
			case "contents":
				return each(v, l.located)
			case "messages":
				return l.messages(v)
			case "inputRequests":
				return object(v, func(_ string, v []byte) []byte {
					method, _ := member(v, "method") // it was read before it was decided on
					return with(v, "params", func(v []byte) []byte { return l.params(text(method), v) })
				})
			}
			return v
		})
	})
}

// labelled are the members of results in which something bears a label.
var labelled = []string{"content", "contents", "messages", "inputRequests"}

// located is something that has a URI.
func (l label) located(v []byte) []byte {
	return with(v, "uri", func(v []byte) []byte { return encode(l.uri(text(v))) })
}

// messages are those of a prompt, or of what a model is asked.
func (l label) messages(v []byte) []byte {
	return each(v, func(v []byte) []byte { return with(v, "content", l.content) })
}

// content is what a model or a person is to read: one block, or several.
func (l label) content(v []byte) []byte {
	if elements(v) != nil {
		return each(v, l.content)
	}
	v = with(v, "type", func(v []byte) []byte { return v })
	kind, _ := member(v, "type")
	switch text(kind) {
	case "resource_link":
		return l.located(v)
	case "resource":
		return with(v, "resource", l.located)
	case "tool_result":
		return with(v, "content", l.content)
	}
	return v
}

// metaMember is the key in metadata under which an agent's client finds which
// member asks.
const metaMember = "exhibit/member"

// asked is what a member asks of the agent: by its id the answer finds its way
// back.
func (l label) asked(m *message) []byte {
	raw := with(m.raw, "id", l.id)
	if m.method == "ping" {
		return raw
	}
	return set(raw, "params", func(v []byte) []byte {
		if v == nil {
			v = []byte("{}")
		}
		return l.params(m.method, set(v, "_meta", func(v []byte) []byte {
			if v == nil {
				v = []byte("{}")
			}
			v = with(v, "progressToken", l.id)
			return set(v, metaMember, func([]byte) []byte { return encode(string(l)) })
		}))
	})
}

// params are those of something that a member asks.
func (l label) params(method string, v []byte) []byte {
	switch method {
	case "sampling/createMessage":
		return with(v, "messages", l.messages)
	case "elicitation/create": // a person reads the message, and must know whose it is
		v = with(v, "message", func(v []byte) []byte { return encode(string(l) + ": " + text(v)) })
		return with(v, "elicitationId", l.id)
	}
	return v
}

// said is a notification of a member's as the agent sees it; nil is none for it.
// Of progress the caller knows whether it is that of a request to the member.
func (l label) said(m *message) []byte {
	params := func(key string, f func([]byte) []byte) []byte {
		return with(m.raw, "params", func(v []byte) []byte { return set(v, key, f) })
	}
	switch {
	case stales[m.method] != nil, m.method == "notifications/progress":
		return m.raw
	case m.method == "notifications/message":
		return params("logger", func(v []byte) []byte {
			if logger := text(v); logger != "" {
				return encode(string(l) + "/" + logger)
			}
			return encode(string(l))
		})
	case m.method == "notifications/resources/updated":
		return params("uri", func(v []byte) []byte { return encode(l.uri(text(v))) })
	case m.method == "notifications/cancelled":
		return params("requestId", l.id)
	case m.method == "notifications/elicitation/complete":
		return params("elicitationId", l.id)
	}
	return nil
}

// object returns an object with each member as f makes it, nil for none. What is
// no object stays as it is.
func object(b []byte, f func(key string, v []byte) []byte) []byte {
	if i := space(b, 0); i >= len(b) || b[i] != '{' {
		return b
	}
	out := []byte{'{'}
	_ = members(b, func(key string, v []byte) error {
		if v = f(key, v); v == nil {
			return nil
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(appendText(out, key), ':'), v...)
		return nil
	})
	return append(out, '}')
}

// with returns an object with one member, if it has it, as f makes it. Members
// whose names differ only in case aren't there any more: a reader that sees no
// difference would take one for the other.
func with(b []byte, key string, f func([]byte) []byte) []byte {
	if v, err := member(b, key); err == nil && v == nil {
		return b
	}
	return object(b, func(k string, v []byte) []byte {
		switch {
		case k == key:
			return f(v)
		case strings.EqualFold(k, key):
			return nil
		}
		return v
	})
}

// set is with, and calls f with nil for a member that isn't there.
func set(b []byte, key string, f func([]byte) []byte) []byte {
	if v, err := member(b, key); err != nil || v != nil {
		return with(b, key, f)
	}
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return b
	}
	more := append(append(appendText([]byte{'{'}, key), ':'), f(nil)...)
	if b[space(b, i+1)] != '}' {
		more = append(more, ',')
	}
	return slices.Concat(more, b[i+1:])
}

// each returns a list with each element as f makes it. What is no list stays as
// it is.
func each(b []byte, f func([]byte) []byte) []byte {
	list := elements(b)
	if list == nil {
		return b
	}
	out := []byte{'['}
	for i, v := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, f(v)...)
	}
	return append(out, ']')
}
