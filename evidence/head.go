package evidence

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Effect is what policy said.
type Effect string

// An Effect of Error is a decision that could not be made; it refuses like Deny.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
	Error Effect = "error"
)

// OutcomeClass is how a command ended. Every intent ends exactly once.
type OutcomeClass string

// The classes of outcome.
const (
	OK        OutcomeClass = "ok"
	Failed    OutcomeClass = "error"     // the upstream said no
	Denied    OutcomeClass = "denied"    // the gateway said no; nothing went upstream
	Skipped   OutcomeClass = "skipped"   // a failure before it in its pipeline
	Cancelled OutcomeClass = "cancelled" // ended by a cancel request
	InDoubt   OutcomeClass = "in_doubt"  // nobody saw how it ended
)

// Head is the part of a record that is always disclosed. Zero fields are
// absent from its encoding. Times are microseconds since the Unix epoch, UTC.
type Head struct {
	Pos      Position
	Type     Type
	Time     int64    // wall clock at the gateway: a claim
	Session  Position // session it belongs to; on session.start its own position
	N        uint64   // ordinal in its key scope (session, or boot), from 1, without gaps
	Key      uint64   // on session.start: slot of the session's secret in the boot's key file
	Agent    string   // registered agent id
	Resource string   // resource name
	Verb     string   // verb class: read, write, admin, connect, opaque, session
	Effect   Effect
	Of       Position // the record this one is about: result to intent, end to start
	Outcome  OutcomeClass
	Code     string // SQLSTATE or the protocol's like
	Frames   uint64 // protocol frames towards the upstream
	Bytes    uint64 // bytes towards the upstream
	Rows     uint64 // rows returned or affected, as the upstream counted them
	Reply    uint64 // bytes towards the agent
	Micros   uint64 // duration in microseconds

	// Commitment binds body and sealed part. HasSealed tells its two spellings
	// apart: "c" has no sealed part, "cs" has one. A record with neither part
	// has no commitment.
	Commitment Hash
	HasBody    bool
	HasSealed  bool
}

// ErrHead is wrapped by every failure to parse a head.
var ErrHead = errors.New("not a record head")

const headPrefix = `{"v":1,"pos":"`

// AppendHead appends the one encoding of h to b: JSON, fixed order of keys, no
// spaces, no escapes. It does not validate; Check does.
func AppendHead(b []byte, h *Head) []byte {
	b = append(b, headPrefix...)
	b = h.Pos.append(b)
	b = appendStr(b, `","type":"`, string(h.Type))
	b = append(b, `","t":`...)
	b = strconv.AppendInt(b, h.Time, 10)
	if !h.Session.IsZero() {
		b = append(b, `,"sess":"`...)
		b = append(h.Session.append(b), '"')
	}
	b = appendUint(b, `,"n":`, h.N)
	b = appendUint(b, `,"key":`, h.Key)
	b = appendQuoted(b, `,"agent":"`, h.Agent)
	b = appendQuoted(b, `,"resource":"`, h.Resource)
	b = appendQuoted(b, `,"verb":"`, h.Verb)
	b = appendQuoted(b, `,"effect":"`, string(h.Effect))
	if !h.Of.IsZero() {
		b = append(b, `,"of":"`...)
		b = append(h.Of.append(b), '"')
	}
	b = appendQuoted(b, `,"outcome":"`, string(h.Outcome))
	b = appendQuoted(b, `,"code":"`, h.Code)
	b = appendUint(b, `,"frames":`, h.Frames)
	b = appendUint(b, `,"bytes":`, h.Bytes)
	b = appendUint(b, `,"rows":`, h.Rows)
	b = appendUint(b, `,"reply":`, h.Reply)
	b = appendUint(b, `,"us":`, h.Micros)
	switch {
	case h.HasSealed && h.HasBody:
		b = append(b, `,"cbs":"`...)
	case h.HasSealed:
		b = append(b, `,"cs":"`...)
	case h.HasBody:
		b = append(b, `,"cb":"`...)
	default:
		return append(b, '}')
	}
	b = base64.RawURLEncoding.AppendEncode(b, h.Commitment[:])
	return append(b, '"', '}')
}

func appendStr(b []byte, key, v string) []byte {
	b = append(b, key...)
	return append(b, v...)
}

func appendQuoted(b []byte, key, v string) []byte {
	if v == "" {
		return b
	}
	return append(appendStr(b, key, v), '"')
}

func appendUint(b []byte, key string, v uint64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), v, 10)
}

// Check reports whether every field of h can be encoded, so that AppendHead
// and ParseHead are inverses.
func (h *Head) Check() error {
	for _, s := range []struct{ name, v string }{
		{"type", string(h.Type)}, {"agent", h.Agent}, {"resource", h.Resource}, {"verb", h.Verb},
		{"effect", string(h.Effect)}, {"outcome", string(h.Outcome)}, {"code", h.Code},
	} {
		if s.v != "" && !ValidName(s.v) {
			return fmt.Errorf("%w: %s %.80q has a character a head cannot hold", ErrHead, s.name, s.v)
		}
	}
	if h.Type == "" || !ValidGateway(h.Pos.Gateway) || h.Time < 0 || h.Time > maxInt {
		return fmt.Errorf("%w: type, position or time is missing", ErrHead)
	}
	for _, n := range []uint64{h.Pos.Boot, h.Pos.Seq, h.N, h.Key, h.Frames, h.Bytes, h.Rows, h.Reply, h.Micros} {
		if n > maxInt {
			return fmt.Errorf("%w: a number exceeds 2^53-1", ErrHead)
		}
	}
	return nil
}

// ValidName reports whether s can stand in a head: 1 to 128 characters of
// A-Z, a-z, 0-9 and "._:@/+-". Agents, resources and codes are such names.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if !nameChar[s[i]] {
			return false
		}
	}
	return true
}

var nameChar = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/+-" {
		t[c] = true
	}
	return t
}()

// ParseHead parses the encoding that AppendHead writes and refuses every other
// spelling, so that a head has exactly one. The strings it returns are slices
// of s: parse a head out of a string that may live as long as they do.
func ParseHead(s string) (Head, error) {
	var h Head
	p := headParser{s: s}
	if !p.eat(headPrefix) {
		return Head{}, fmt.Errorf("%w: want %s at its start", ErrHead, headPrefix)
	}
	h.Pos = p.position()
	if !p.eat(`,"type":"`) {
		p.bad("type")
	}
	h.Type = Type(p.name())
	if !p.eat(`,"t":`) {
		p.bad("t")
	}
	h.Time = int64(p.uint(true))
	if p.eat(`,"sess":"`) {
		h.Session = p.position()
	}
	h.N = p.optUint(`,"n":`)
	h.Key = p.optUint(`,"key":`)
	h.Agent = p.optName(`,"agent":"`)
	h.Resource = p.optName(`,"resource":"`)
	h.Verb = p.optName(`,"verb":"`)
	h.Effect = Effect(p.optName(`,"effect":"`))
	if p.eat(`,"of":"`) {
		h.Of = p.position()
	}
	h.Outcome = OutcomeClass(p.optName(`,"outcome":"`))
	h.Code = p.optName(`,"code":"`)
	h.Frames = p.optUint(`,"frames":`)
	h.Bytes = p.optUint(`,"bytes":`)
	h.Rows = p.optUint(`,"rows":`)
	h.Reply = p.optUint(`,"reply":`)
	h.Micros = p.optUint(`,"us":`)
	switch {
	case p.eat(`,"cbs":"`):
		h.HasBody, h.HasSealed = true, true
	case p.eat(`,"cs":"`):
		h.HasSealed = true
	case p.eat(`,"cb":"`):
		h.HasBody = true
	}
	if h.HasBody || h.HasSealed {
		h.Commitment = p.hash()
	}
	if p.err == nil && p.s[p.i:] != "}" {
		p.bad("its end")
	}
	if p.err != nil {
		return Head{}, p.err
	}
	return h, nil
}

// headParser walks s from i; after the first error every step is a no-op.
type headParser struct {
	s   string
	i   int
	err error
}

func (p *headParser) bad(what string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s is missing or malformed at byte %d", ErrHead, what, p.i)
	}
}

func (p *headParser) eat(lit string) bool {
	if p.err == nil && strings.HasPrefix(p.s[p.i:], lit) {
		p.i += len(lit)
		return true
	}
	return false
}

// until returns the text before the next quote and steps past it.
func (p *headParser) until() string {
	if p.err != nil {
		return ""
	}
	n := strings.IndexByte(p.s[p.i:], '"')
	if n < 0 {
		p.bad("a closing quote")
		return ""
	}
	v := p.s[p.i : p.i+n]
	p.i += n + 1
	return v
}

func (p *headParser) name() string {
	at := p.i
	v := p.until()
	if p.err == nil && !ValidName(v) {
		p.i = at
		p.bad("a name")
	}
	return v
}

func (p *headParser) optName(key string) string {
	if !p.eat(key) {
		return ""
	}
	return p.name()
}

func (p *headParser) position() Position {
	at := p.i
	v := p.until()
	if p.err != nil {
		return Position{}
	}
	pos, err := ParsePosition(v)
	if err != nil {
		p.i = at
		p.bad("a position")
	}
	return pos
}

func (p *headParser) uint(zeroOK bool) uint64 {
	end := p.i
	for end < len(p.s) && p.s[end]-'0' <= 9 {
		end++
	}
	n, ok := parseUint(p.s[p.i:end])
	if !ok || n == 0 && !zeroOK {
		p.bad("a number")
		return 0
	}
	p.i = end
	return n
}

// optUint reads a number that is absent when zero.
func (p *headParser) optUint(key string) uint64 {
	if !p.eat(key) {
		return 0
	}
	return p.uint(false)
}

func (p *headParser) hash() (h Hash) {
	v := p.until()
	if p.err == nil && h.UnmarshalText([]byte(v)) != nil {
		p.bad("the commitment")
	}
	return h
}
