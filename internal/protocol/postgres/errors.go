package postgres

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// SQLSTATEs that the gateway itself sends (PostgreSQL documentation, appendix
// "PostgreSQL Error Codes").
const (
	codeTLSRequired    = "28000" // invalid_authorization_specification
	codePassword       = "28P01" // invalid_password
	codeDenied         = "42501" // insufficient_privilege
	codeNoStatement    = "26000" // invalid_sql_statement_name
	codeUnsupported    = "0A000" // feature_not_supported
	codeProtocol       = "08P01" // protocol_violation
	codeUnreachable    = "08006" // connection_failure
	codeUnknownOutcome = "08007" // transaction_resolution_unknown
	codeUnrecordable   = "58030" // io_error
	codeTooMany        = "53300" // too_many_connections
	codeEnded          = "57P01" // admin_shutdown
	codeUnavailable    = "57P03" // cannot_connect_now
	codeParameter      = "22023" // invalid_parameter_value
	codeUnknownCommand = "3D000" // invalid_catalog_name: no database named
	codeProgramLimit   = "54000" // program_limit_exceeded
	codeCancelled      = "57014" // query_canceled
	codeNoPortal       = "34000" // invalid_cursor_name
	codeSuccess        = "00000" // successful_completion
)

// failure is an error in the words of the protocol.
type failure struct {
	severity string // "ERROR", or "FATAL" when the session ends with it
	code     string
	message  string
	hint     string
}

func fatal(code, message, hint string) *failure {
	return &failure{severity: "FATAL", code: code, message: message, hint: hint}
}

func (f *failure) Error() string { return f.message }

// append appends f as an ErrorResponse.
func (f *failure) append(b []byte) []byte { return f.spell(b, 'E') }

// appendNotice appends f as a NoticeResponse.
func (f *failure) appendNotice(b []byte) []byte { return f.spell(b, 'N') }

func (f *failure) spell(b []byte, message byte) []byte {
	start := len(b)
	b = append(b, message, 0, 0, 0, 0)
	field := func(kind byte, v string) {
		if v != "" {
			b = append(b, kind)
			b = append(b, strings.ReplaceAll(v, "\x00", "")...)
			b = append(b, 0)
		}
	}
	field('S', f.severity)
	field('V', f.severity)
	field('C', f.code)
	field('M', f.message)
	field('H', f.hint)
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-1))
	return b
}

func appendReady(b []byte, status byte) []byte {
	return append(b, 'Z', 0, 0, 0, 5, status)
}

// refusal spells a refusal that ends the session, or keeps it from starting.
// All causes of a failed authentication look the same.
func refusal(err error) *failure {
	var r *protocol.Refusal
	if !errors.As(err, &r) {
		return fatal(codeUnrecordable, "the gateway cannot serve this session", "ask the gateway's operator")
	}
	code := codeUnrecordable
	switch {
	case errors.Is(r.Kind, protocol.ErrAuthentication):
		return fatal(codePassword, "authentication failed", "the user is the agent's id, and the password a token that is still valid")
	case errors.Is(r.Kind, protocol.ErrDenied):
		code = codeDenied
	case errors.Is(r.Kind, protocol.ErrTooMany):
		code = codeTooMany
	case errors.Is(r.Kind, protocol.ErrUnavailable):
		code = codeUnavailable
	}
	return fatal(code, r.Reason, r.Hint)
}

// denial spells a decision that refuses a command.
func denial(ex protocol.Exchange) *failure {
	reason, hint := protocol.Refused(ex)
	if d := ex.Decision(); len(d.Rules) > 0 {
		reason += " (" + strings.Join(d.Rules, ", ") + ")"
	}
	return &failure{severity: "ERROR", code: codeDenied, message: reason, hint: hint}
}
