package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxToken bounds what a peer may show, in bytes. Ours have some 600.
const maxToken = 8 << 10

// Types in the header (RFC 8725 section 3.11), so that a token of one kind is
// never taken for one of the other.
const (
	typeToken     = "at+jwt" // RFC 9068 section 2.1
	typeIdentity  = "exhibit-identity+jwt"
	typeAssertion = "client-authentication+jwt" // draft-ietf-oauth-rfc7523bis
)

// sign makes a JWT (RFC 7519) signed with EdDSA; kid is the key's thumbprint.
func sign(key ed25519.PrivateKey, typ string, claims jwt.Claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	t.Header["typ"] = typ
	t.Header["kid"] = Thumbprint(key.Public().(ed25519.PublicKey))
	return t.SignedString(key)
}

// expectation is what parse holds a token to.
type expectation struct {
	typ      string
	issuer   string // "" is checked by the caller
	audience string
	leeway   time.Duration
	key      func(kid string) (ed25519.PublicKey, *Error)
}

// parse checks signature, type, issuer, audience and times, and fills claims.
// One algorithm is accepted and the key is chosen by kid alone, so that nothing
// in a token can choose how it is verified.
func parse(token string, claims jwt.Claims, want expectation, now time.Time) *Error {
	if len(token) > maxToken {
		return refuse(CodeTooLarge, "a token of %d bytes; the longest allowed is %d", len(token), maxToken)
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithAudience(want.audience), jwt.WithLeeway(want.leeway),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }),
	}
	if want.issuer != "" {
		options = append(options, jwt.WithIssuer(want.issuer), jwt.WithNotBeforeRequired())
	}
	var refused *Error
	_, err := jwt.NewParser(options...).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		key, e := want.keyOf(t)
		if e != nil {
			refused = e
			return nil, e
		}
		return key, nil
	})
	switch {
	case err == nil:
		return nil
	case refused != nil:
		return refused
	}
	return refuse(codeOf(err), "%w", err)
}

func (want *expectation) keyOf(t *jwt.Token) (ed25519.PublicKey, *Error) {
	if typ, _ := t.Header["typ"].(string); typ != want.typ {
		return nil, refuse(CodeMalformed, "a token of type %.40q; want %s", typ, want.typ)
	}
	if _, critical := t.Header["crit"]; critical { // RFC 7515 section 4.1.11
		return nil, refuse(CodeMalformed, "the token has critical extensions, and none is known")
	}
	kid, _ := t.Header["kid"].(string)
	return want.key(kid)
}

// codeOf finds the code of the library's error. Where several things are wrong
// the one named is the first here.
func codeOf(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{jwt.ErrTokenMalformed, CodeMalformed},
		{jwt.ErrTokenInvalidIssuer, CodeIssuer},
		{jwt.ErrTokenInvalidAudience, CodeAudience},
		{jwt.ErrTokenRequiredClaimMissing, CodeMalformed},
		{jwt.ErrTokenNotValidYet, CodeNotYetValid},
		{jwt.ErrTokenExpired, CodeExpired},
		{jwt.ErrEd25519Verification, CodeSignature},
		{jwt.ErrTokenSignatureInvalid, CodeAlgorithm}, // before any key was asked
		{jwt.ErrTokenUnverifiable, CodeAlgorithm},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeMalformed
}

// random returns n random bytes in base64url.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}
