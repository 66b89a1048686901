package mcp

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// message is one JSON-RPC 2.0 message. Its parts are those of raw.
type message struct {
	raw    []byte
	id     []byte // nil is none, or null
	method string // "" is a response
	params []byte
	result []byte
	fail   []byte // the error of a response
}

// keys are those of JSON-RPC 2.0.
var keys = []string{"jsonrpc", "id", "method", "params", "result", "error"}

// integer is how JSON spells one.
var integer = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,18})$`)

// Bounds of what a message names.
const (
	maxID   = 256
	maxName = 128 // of methods and tools
)

var (
	errMessage = errors.New("not a JSON-RPC 2.0 message")
	errID      = errors.New("the id is neither a string nor an integer, or is too long")
)

// parse reads a message that all readers read alike.
func parse(raw []byte) (*message, error) { return parseID(raw, maxID) }

// parseID is parse, with another bound of ids.
func parseID(raw []byte, maxID int) (*message, error) {
	if err := strict(raw); err != nil {
		return nil, err
	}
	m := &message{raw: raw}
	version, method, null := "", []byte(nil), false
	err := members(raw, func(key string, v []byte) error {
		switch key {
		case "jsonrpc":
			version = text(v)
		case "id":
			if null = string(v) == "null"; !null {
				m.id = v
			}
		case "method":
			method = v
		case "params":
			m.params = v
		case "result":
			m.result = v
		case "error":
			m.fail = v
		default:
			for _, k := range keys {
				if strings.EqualFold(key, k) {
					return errFolded
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.method = text(method)
	switch {
	case m.id != nil && (len(m.id) > maxID || m.id[0] != '"' && !integer.Match(m.id)), null && method != nil:
		return nil, errID
	case version != "2.0", method != nil && (m.method == "" || len(m.method) > maxName):
		return nil, errMessage
	case method != nil && (m.result != nil || m.fail != nil):
		return nil, errMessage
	case method == nil && (m.params != nil || (m.result == nil) == (m.fail == nil)):
		return nil, errMessage
	case m.params != nil && m.params[0] != '{' && m.params[0] != '[':
		return nil, errMessage
	}
	return m, nil
}

// isRequest, isNotification and isResponse are the three kinds of message.
func (m *message) isRequest() bool      { return m.method != "" && m.id != nil }
func (m *message) isNotification() bool { return m.method != "" && m.id == nil }
func (m *message) isResponse() bool     { return m.method == "" }

// idKey is an id as a key: "1" and 1 are two.
func idKey(id []byte) string {
	if len(id) > 0 && id[0] == '"' {
		return "s" + text(id)
	}
	return "n" + string(id)
}

// version is the revision of the protocol that a request says it is of, in the
// stateless form.
func (m *message) version() string {
	meta, err := member(m.params, "_meta")
	if err != nil {
		return ""
	}
	v, err := member(meta, "io.modelcontextprotocol/protocolVersion")
	if err != nil {
		return ""
	}
	return text(v)
}

// Codes of JSON-RPC errors.
const (
	codeParse    = -32700
	codeInvalid  = -32600
	codeMethod   = -32601
	codeParams   = -32602
	codeInternal = -32603
	codeDenied   = -32003
	codeHeader   = -32020 // a header and the message differ
)

// problem is a JSON-RPC error of the gateway's own.
type problem struct {
	code    int
	message string
	hint    string
	command string // id of the command, if there is one
	rules   []string
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte { return append(b, encode(s)...) }

// response is a JSON-RPC error response; without an id it has null.
func (p *problem) response(id []byte) []byte {
	if id == nil {
		id = []byte("null")
	}
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	b = append(b, `,"error":{"code":`...)
	b = strconv.AppendInt(b, int64(p.code), 10)
	b = appendText(append(b, `,"message":`...), p.message)
	b = append(b, `,"data":`...)
	b = append(b, encode(struct {
		Hint    string   `json:"hint,omitempty"`
		Command string   `json:"command,omitempty"`
		Rules   []string `json:"rules,omitempty"`
	}{p.hint, p.command, p.rules})...)
	return append(b, "}}"...)
}

// toolResult is a result of a tool call that says what went wrong, where a model
// reads it. Complete marks it as final, as the stateless revisions ask for.
func (p *problem) toolResult(id []byte, complete bool) []byte {
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	b = append(b, `,"result":{"content":[{"type":"text","text":`...)
	text := p.message
	if p.hint != "" {
		text += ". " + p.hint
	}
	b = append(appendText(b, text), `}],"isError":true`...)
	if complete {
		b = append(b, `,"resultType":"complete"`...)
	}
	return append(b, "}}"...)
}
