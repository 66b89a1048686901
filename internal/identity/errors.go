package identity

import "fmt"

// Error is why a credential was refused. Its code goes into the record of the
// attempt; its text may name what a peer claimed and is sealed there.
type Error struct {
	code string
	text string
	err  error
}

// The codes of an Error.
const (
	CodeMalformed     = "malformed"       // not a token of the expected kind
	CodeTooLarge      = "too_large"       // over 8 KiB
	CodeAlgorithm     = "bad_algorithm"   // signed with another algorithm than EdDSA, or with none
	CodeUnknownKey    = "unknown_key"     // by a key that nobody enrolled, or another issuer's
	CodeSignature     = "bad_signature"   //
	CodeIssuer        = "wrong_issuer"    //
	CodeAudience      = "wrong_audience"  // for somebody else
	CodeNotYetValid   = "not_yet_valid"   //
	CodeExpired       = "expired"         //
	CodeLifetime      = "lives_too_long"  // an assertion is good for minutes
	CodeReplayed      = "replayed"        // an assertion is good once
	CodeBeforeStart   = "before_start"    // made before this gateway knew which were used
	CodeTooMany       = "too_many"        // assertions by one key at once
	CodeUnknownAgent  = "unknown_agent"   //
	CodeAgentRetired  = "agent_retired"   // or expired
	CodeRevoked       = "revoked"         // the token itself
	CodeKeyRevoked    = "key_revoked"     // or expired
	CodeWrongAgent    = "wrong_agent"     // the key is enrolled for another
	CodeUnusableClaim = "unusable_claims" // signed, yet not what this gateway issues
)

func refuse(code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{code: code, text: err.Error(), err: err}
}

func (e *Error) Error() string { return e.text }

// Unwrap returns what lies beneath.
func (e *Error) Unwrap() error { return e.err }

// Code says which kind of failure it was, in one word for machines.
func (e *Error) Code() string { return e.code }
