package connect

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// Error is what keeps a client from its resource, or an end from being opened,
// and what helps. Clients are told both in the words of their protocol.
type Error struct {
	Reason string
	Hint   string // may be ""
	Err    error  // beneath; may be nil

	kind error // one of those below, or nil
}

// The kinds of errors that a protocol tells apart.
var (
	errNoToken     = errors.New("no token")
	errProtocol    = errors.New("protocol violation")
	errUnsupported = errors.New("not supported")
)

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

// Unwrap returns the error beneath.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the kind of e.
func (e *Error) Is(target error) bool { return e.kind != nil && target == e.kind }

func failure(hint, format string, args ...any) *Error {
	return &Error{Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// noToken says that the agent can prove itself to nobody now. What err knows of
// a way out is passed on.
func noToken(err error) *Error {
	e := &Error{Reason: "the agent has no token for the gateway", Err: err, kind: errNoToken}
	if inner := (*Error)(nil); errors.As(err, &inner) {
		e.Hint = inner.Hint
	}
	return e
}

// unreachable says why there is no way to the gateway.
func unreachable(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	e := &Error{Reason: "the gateway cannot be reached", Hint: "does it listen at the address that exhibit connect was given?", Err: err}
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		e.Reason = "the gateway's certificate does not prove who it is"
		e.Hint = "give exhibit connect the authority with --ca, or the certificate's name with --server-name"
	}
	return e
}
