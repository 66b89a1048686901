package evidence

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Position says where a record stands in its gateway's sequence. Boot counts
// the gateway's starts from 1, Seq the records of one boot from 0. It is the
// only order that counts; wall time is a claim.
//
// Its text form, "gw1.3.118", is also how sessions, grants and commands are
// named: an id is the position of the record that made the thing.
type Position struct {
	Gateway string
	Boot    uint64
	Seq     uint64
}

// ErrPosition is wrapped by every failure to parse a position.
var ErrPosition = errors.New("not a position")

// IsZero reports whether p names no record.
func (p Position) IsZero() bool { return p.Gateway == "" }

// Before reports whether p stands before q in the sequence of one gateway.
func (p Position) Before(q Position) bool {
	return p.Boot < q.Boot || p.Boot == q.Boot && p.Seq < q.Seq
}

// String returns "gateway.boot.seq", or "" for the zero position.
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	return string(p.append(nil))
}

func (p Position) append(b []byte) []byte {
	b = append(b, p.Gateway...)
	b = append(b, '.')
	b = strconv.AppendUint(b, p.Boot, 10)
	b = append(b, '.')
	return strconv.AppendUint(b, p.Seq, 10)
}

// MarshalText implements encoding.TextMarshaler.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Position) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*p = Position{}
		return nil
	}
	*p, err = ParsePosition(string(b))
	return err
}

// ParsePosition parses the text form of a position.
func ParsePosition(s string) (Position, error) {
	gateway, rest, ok1 := strings.Cut(s, ".")
	bootText, seqText, ok2 := strings.Cut(rest, ".")
	boot, ok3 := parseUint(bootText)
	seq, ok4 := parseUint(seqText)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ValidGateway(gateway) {
		return Position{}, fmt.Errorf("%w: %.80q (want gateway.boot.seq, like gw1.3.118)", ErrPosition, s)
	}
	return Position{gateway, boot, seq}, nil
}

// ValidGateway reports whether s can name a gateway: 1 to 32 characters of
// a-z, 0-9 and "-", beginning with a letter.
func ValidGateway(s string) bool {
	if len(s) == 0 || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// maxInt is the largest integer that every JSON reader holds exactly (RFC 8259
// section 6, I-JSON).
const maxInt = 1<<53 - 1

// parseUint reads a decimal without sign or leading zero, at most maxInt.
func parseUint(s string) (uint64, bool) {
	if s == "" || len(s) > 16 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return n, n <= maxInt
}
