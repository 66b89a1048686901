package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// headerSize is that of every frame after the startup: type and length.
const headerSize = 5

// errProtocol is wrapped by everything that a peer may not say.
var errProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// frontend says of each frame type that an agent may send what it is to us.
// Everything else ends the session.
type frontendKind uint8

const (
	unknownFrame  frontendKind = iota
	refusedFrame               // of the login
	commandFrame               // asks something, or is part of asking
	controlFrame               // closes, describes or synchronizes
	copyFrame                  // content of a COPY
	terminalFrame              // the last one
)

// frontendFrame is a row of the table of frames that a frontend may send.
type frontendFrame struct {
	name string
	kind frontendKind
	max  int // longest body, where the message limit doesn't decide; 0 is that limit, -1 streams
}

// frontendFrames is every frame of protocol 3.0 to 3.2 that may follow the
// startup. What isn't here, or of the login, ends the session.
var frontendFrames = [256]frontendFrame{
	'B': {"Bind", commandFrame, 0},
	'C': {"Close", controlFrame, maxNameFrame},
	'D': {"Describe", controlFrame, maxNameFrame},
	'E': {"Execute", commandFrame, maxNameFrame},
	'F': {"FunctionCall", commandFrame, 0},
	'H': {"Flush", controlFrame, -2},
	'P': {"Parse", commandFrame, 0},
	'Q': {"Query", commandFrame, 0},
	'S': {"Sync", controlFrame, -2},
	'X': {"Terminate", terminalFrame, -2},
	'c': {"CopyDone", copyFrame, -2},
	'd': {"CopyData", copyFrame, -1},
	'f': {"CopyFail", copyFrame, maxNameFrame},
	'p': {"PasswordMessage", refusedFrame, maxNameFrame}, // also SASLInitialResponse, SASLResponse and GSSResponse
}

// maxNameFrame bounds the frames that hold a name or a reason. PostgreSQL has
// the same limit (PQ_SMALL_MESSAGE_LIMIT).
const maxNameFrame = 10000

// backendKind is what a backend's message means to the matching of messages
// and commands.
type backendKind uint8

const (
	unknownMessage  backendKind = iota
	refusedMessage              // of the login, or of replication
	asyncMessage                // may come at any time and belongs to nothing
	rowMessage                  // content
	describeMessage             // announces content
	completeMessage             // answers one frame of the extended protocol
	copyMessage                 // starts a COPY
	copyDataMessage
	errorMessage
	readyMessage
)

type backendMessage struct {
	name string
	kind backendKind
}

// backendMessages is every message of protocol 3.0 to 3.2. Those that are
// refused, and what isn't named here, end the session.
var backendMessages = [256]backendMessage{
	'1': {"ParseComplete", completeMessage},
	'2': {"BindComplete", completeMessage},
	'3': {"CloseComplete", completeMessage},
	'A': {"NotificationResponse", asyncMessage},
	'C': {"CommandComplete", completeMessage},
	'D': {"DataRow", rowMessage},
	'E': {"ErrorResponse", errorMessage},
	'G': {"CopyInResponse", copyMessage},
	'H': {"CopyOutResponse", copyMessage},
	'I': {"EmptyQueryResponse", completeMessage},
	'N': {"NoticeResponse", asyncMessage},
	'S': {"ParameterStatus", asyncMessage},
	'T': {"RowDescription", describeMessage},
	'Z': {"ReadyForQuery", readyMessage},
	'c': {"CopyDone", copyDataMessage},
	'd': {"CopyData", copyDataMessage},
	'n': {"NoData", describeMessage},
	's': {"PortalSuspended", completeMessage},
	't': {"ParameterDescription", describeMessage},
	'V': {"FunctionCallResponse", completeMessage},
	'K': {"BackendKeyData", refusedMessage},
	'R': {"Authentication", refusedMessage},
	'W': {"CopyBothResponse", refusedMessage},
	'v': {"NegotiateProtocolVersion", refusedMessage},
}

// frameSize returns the whole size of the frame at the start of b, which holds
// at least a header. The length field counts itself (4) but not the type.
func frameSize(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b[1:headerSize])
	if n < 4 || n > 1<<30 {
		return 0, violation("frame %q says that it is %d bytes long", b[0], n)
	}
	return int(n) + 1, nil
}

// checkFrontend returns the size of an agent's frame, or why it may not be.
func checkFrontend(b []byte, maxMessage int) (int, error) {
	f := &frontendFrames[b[0]]
	switch f.kind {
	case unknownFrame:
		return 0, violation("unknown frame type %q", b[0])
	case refusedFrame:
		return 0, violation("%s after the login", f.name)
	}
	size, err := frameSize(b)
	if err != nil {
		return 0, err
	}
	limit := f.max
	switch limit {
	case -1:
		return size, nil
	case -2:
		limit = 0
	case 0:
		limit = maxMessage
	}
	if size-headerSize > limit {
		return 0, fmt.Errorf("%w: %s of %d bytes (at most %d)", errTooLarge, f.name, size-headerSize, limit)
	}
	return size, nil
}

var errTooLarge = fmt.Errorf("%w: frame too large", errProtocol)

// body is a cursor over a frame's body. After the first malformed field every
// step yields nothing and ok is false.
type body struct {
	b   []byte
	bad bool
}

func (p *body) fail() { p.b, p.bad = nil, true }

// cstring takes a string up to its NUL, without it.
func (p *body) cstring() []byte {
	for i, c := range p.b {
		if c == 0 {
			s := p.b[:i:i]
			p.b = p.b[i+1:]
			return s
		}
	}
	p.fail()
	return nil
}

func (p *body) byte() byte {
	if len(p.b) < 1 {
		p.fail()
		return 0
	}
	c := p.b[0]
	p.b = p.b[1:]
	return c
}

func (p *body) uint16() int {
	if len(p.b) < 2 {
		p.fail()
		return 0
	}
	n := binary.BigEndian.Uint16(p.b)
	p.b = p.b[2:]
	return int(n)
}

func (p *body) int32() int {
	if len(p.b) < 4 {
		p.fail()
		return 0
	}
	n := int32(binary.BigEndian.Uint32(p.b))
	p.b = p.b[4:]
	return int(n)
}

func (p *body) bytes(n int) []byte {
	if n < 0 || n > len(p.b) {
		p.fail()
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// values takes values with their count, and appends them; nil is NULL.
func (p *body) values(to [][]byte) [][]byte {
	for range p.uint16() {
		n := p.int32()
		if p.bad {
			break
		}
		if n == -1 {
			to = append(to, nil)
			continue
		}
		to = append(to, p.bytes(n))
	}
	return to
}

// done reports whether the body was well formed and is used up.
func (p *body) done() bool { return !p.bad && len(p.b) == 0 }

// parseQuery returns the text of a Query's body: it must end exactly at its
// NUL, or grammar and server would read two different things.
func parseQuery(b []byte) ([]byte, error) {
	p := body{b: b}
	text := p.cstring()
	if !p.done() {
		return nil, violation("a Query must end at its NUL")
	}
	return text, nil
}

// parseParse returns the name and text of a Parse's body.
func parseParse(b []byte) (name, text, types []byte, err error) {
	p := body{b: b}
	name, text = p.cstring(), p.cstring()
	types = p.b
	p.bytes(4 * p.uint16())
	if !p.done() {
		return nil, nil, nil, violation("malformed Parse")
	}
	return name, text, types, nil
}

// bound is the body of a Bind. All of it aliases that.
type bound struct {
	portal, statement []byte
	formats           []byte // of the values, behind their number
}

// parseBind returns what a Bind's body says. Its values, nil for NULL, are
// appended to params and alias b.
func parseBind(b []byte, params [][]byte) (_ bound, _ [][]byte, err error) {
	p := body{b: b}
	what := bound{portal: p.cstring(), statement: p.cstring()}
	what.formats = p.formats()
	params = p.values(params)
	p.bytes(2 * p.uint16())
	if !p.done() {
		return bound{}, params, violation("malformed Bind")
	}
	return what, params, nil
}

// formats returns format codes, behind their number.
func (p *body) formats() []byte {
	from := p.b
	p.bytes(2 * p.uint16())
	return from[:len(from)-len(p.b)]
}

// encoding says how values are to be read (evidence.Command): by format codes,
// and by types unless none are named. Text of types that the server finds out is
// the usual way.
func encoding(formats, types []byte) []byte {
	usual := len(types) < 2 || types[0] == 0 && types[1] == 0
	switch {
	case usual && !slices.ContainsFunc(formats[min(2, len(formats)):], func(b byte) bool { return b != 0 }):
		return nil
	case usual:
		return formats
	}
	return slices.Concat(formats, types)
}

// parseExecute returns the portal and the row limit of an Execute's body.
func parseExecute(b []byte) (portal []byte, rows int, err error) {
	p := body{b: b}
	portal, rows = p.cstring(), p.int32()
	if !p.done() {
		return nil, 0, violation("malformed Execute")
	}
	return portal, rows, nil
}

// parseFunctionCall returns the function's OID and the arguments of a
// FunctionCall's body; nil is NULL. The arguments are appended to params and
// alias b.
func parseFunctionCall(b []byte, params [][]byte) (oid uint32, formats []byte, _ [][]byte, err error) {
	p := body{b: b}
	oid = uint32(p.int32())
	formats = p.formats()
	params = p.values(params)
	p.uint16()
	if !p.done() {
		return 0, nil, params, violation("malformed FunctionCall")
	}
	return oid, formats, params, nil
}

// parseObject returns the kind ('S' or 'P') and name of a Describe's or
// Close's body.
func parseObject(b []byte) (kind byte, name []byte, err error) {
	p := body{b: b}
	kind, name = p.byte(), p.cstring()
	if !p.done() || kind != 'S' && kind != 'P' {
		return 0, nil, violation("malformed Describe or Close")
	}
	return kind, name, nil
}

// tagRows returns the count at the end of a CommandComplete's tag, such as
// "INSERT 0 5" or "SELECT 3"; 0 when it has none.
func tagRows(tag []byte) uint64 {
	var n, scale uint64 = 0, 1
	for i := len(tag) - 1; i >= 0; i-- {
		c := tag[i] - '0'
		if c > 9 {
			if tag[i] != ' ' {
				return 0
			}
			return n
		}
		n += uint64(c) * scale
		scale *= 10
	}
	return 0
}

// serverError is what we want to know of an ErrorResponse.
type serverError struct {
	severity string // not localized
	code     string
	detail   string // severity, code, message, detail and hint, to be sealed
}

// maxDetail bounds what is kept of a server's words.
const maxDetail = 8 << 10

// parseError reads an ErrorResponse's body, or as much of it as is there.
func parseError(b []byte) serverError {
	var e serverError
	var message, detail, hint []byte
	p := body{b: b}
	for {
		field := p.byte()
		if field == 0 {
			break
		}
		value := p.cstring()
		if p.bad {
			break
		}
		switch field {
		case 'S':
			if e.severity == "" { // before 9.6 there is no V
				e.severity = string(value)
			}
		case 'V':
			e.severity = string(value)
		case 'C':
			e.code = string(value)
		case 'M':
			message = value
		case 'D':
			detail = value
		case 'H':
			hint = value
		}
	}
	text := append([]byte(nil), message...)
	for _, more := range [][]byte{detail, hint} {
		if len(more) > 0 {
			text = append(append(text, '\n'), more...)
		}
	}
	e.detail = string(text[:min(len(text), maxDetail)])
	if len(e.code) != 5 {
		e.code = "XX000"
	}
	return e
}

func (e *serverError) fatal() bool { return e.severity == "FATAL" || e.severity == "PANIC" }
