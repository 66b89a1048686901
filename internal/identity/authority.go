package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Registry is what the package asks about keys and agents; decision.Registry
// is one.
type Registry interface {
	Agent(id string) (decision.Agent, bool)
	Key(thumbprint string) (decision.Credential, bool)
	Revoked(credential string) bool
}

// On whose behalf an agent acts.
const (
	Self   = "self"   // its own
	Human  = "human"  // a person's
	System = "system" // another system's
)

// ErrRequest is wrapped when a token cannot be issued as asked.
var ErrRequest = errors.New("no such token is issued")

// Authority issues tokens and checks them: the issuer of one gateway, which is
// their audience too.
type Authority struct {
	gateway string
	key     ed25519.PrivateKey
	keys    map[string]ed25519.PublicKey // by thumbprint; the first and those before it
	public  []ed25519.PublicKey
	ttl     time.Duration
}

// NewAuthority returns the authority of a gateway. No token lives longer than
// ttl. Tokens by earlier keys are accepted until they expire, so that the key
// can be rotated.
func NewAuthority(key ed25519.PrivateKey, gateway string, ttl time.Duration, earlier ...ed25519.PublicKey) *Authority {
	a := &Authority{gateway: gateway, key: key, keys: make(map[string]ed25519.PublicKey), ttl: ttl}
	a.public = append([]ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, earlier...)
	for _, k := range a.public {
		a.keys[Thumbprint(k)] = k
	}
	return a
}

// TokenRequest is a token to issue.
type TokenRequest struct {
	Agent         string
	Key           string // thumbprint of the enrolled key that asked
	Ticket        string // that the agent works on, or ""
	Principal     string // on whose behalf, or "" for its own
	PrincipalType string // Human or System; Self without a principal
	TTL           time.Duration
	By            evidence.By
}

// Claims is what a good token says.
type Claims struct {
	ID            string // jti: the credential's id
	Agent         string
	Key           string // thumbprint of the enrolled key
	Ticket        string
	Principal     string // "" when the agent acts for itself
	PrincipalType string
	NotBefore     time.Time
	Expires       time.Time
}

// tokenClaims are the claims of a token. An agent that acts for itself is its
// subject; one that acts for somebody is the actor, and the subject is whom it
// acts for (RFC 8693 section 4.1).
type tokenClaims struct {
	jwt.RegisteredClaims
	Act           *actor       `json:"act,omitempty"`
	Confirmation  confirmation `json:"cnf"` // RFC 7800
	Ticket        string       `json:"ticket,omitempty"`
	PrincipalType string       `json:"principal_type"`
}

type actor struct {
	Subject string `json:"sub"`
}

type confirmation struct {
	Thumbprint string `json:"jkt"` // RFC 9449 section 6.1
}

// Issue returns a token and the body of the record about it, which must be
// durable before the token leaves. A TTL of zero, or over the authority's, is
// the authority's. Times are whole seconds, as those of a JWT are.
func (a *Authority) Issue(r TokenRequest, now time.Time) (token string, body evidence.CredentialBody, err error) {
	if r.PrincipalType == "" && r.Principal == "" {
		r.PrincipalType = Self
	}
	if err := r.check(); err != nil {
		return "", evidence.CredentialBody{}, err
	}
	if r.TTL <= 0 || r.TTL > a.ttl {
		r.TTL = a.ttl
	}
	from := now.Truncate(time.Second)
	until := from.Add(max(r.TTL.Truncate(time.Second), time.Second))
	c := tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: a.gateway, Audience: jwt.ClaimStrings{a.gateway}, Subject: r.Agent,
			ID: decision.TokenPrefix + random(16), IssuedAt: jwt.NewNumericDate(from),
			NotBefore: jwt.NewNumericDate(from), ExpiresAt: jwt.NewNumericDate(until),
		},
		Confirmation: confirmation{r.Key}, Ticket: r.Ticket, PrincipalType: r.PrincipalType,
	}
	if r.Principal != "" {
		c.Subject, c.Act = r.Principal, &actor{r.Agent}
	}
	token, err = sign(a.key, typeToken, c)
	if err != nil {
		return "", evidence.CredentialBody{}, fmt.Errorf("signing a token: %w", err)
	}
	if len(token) > maxToken {
		return "", evidence.CredentialBody{}, fmt.Errorf("%w: it would exceed %d bytes", ErrRequest, maxToken)
	}
	return token, evidence.CredentialBody{
		ID: c.ID, Agent: r.Agent, Kind: "token", Thumbprint: r.Key, Issuer: a.gateway,
		NotBefore: from.UnixMicro(), NotAfter: until.UnixMicro(),
		Ticket: r.Ticket, Principal: r.Principal, By: r.By,
	}, nil
}

func (r *TokenRequest) check() error {
	switch {
	case !evidence.ValidName(r.Agent):
		return fmt.Errorf("%w: agent %.80q is not a name", ErrRequest, r.Agent)
	case r.Key == "":
		return fmt.Errorf("%w: no enrolled key asks", ErrRequest)
	case !shortText(r.Ticket):
		return fmt.Errorf("%w: a ticket is at most %d bytes of printable text", ErrRequest, maxText)
	case !shortText(r.Principal):
		return fmt.Errorf("%w: a principal is at most %d bytes of printable text", ErrRequest, maxText)
	case r.PrincipalType != Self && r.PrincipalType != Human && r.PrincipalType != System,
		(r.PrincipalType == Self) != (r.Principal == ""):
		return fmt.Errorf("%w: principal type %.40q; want human or system with a principal, self without", ErrRequest, r.PrincipalType)
	}
	return nil
}

// maxText bounds tickets and principals, which stand in records and in policy's
// context.
const maxText = 256

func shortText(s string) bool {
	if len(s) > maxText || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

// Verify checks a token and returns what it says; any error is an *Error. It
// does not ask whether the token, its key or its agent still count: Standing
// does.
func (a *Authority) Verify(token string, now time.Time) (Claims, error) {
	var c tokenClaims
	want := expectation{typ: typeToken, issuer: a.gateway, audience: a.gateway,
		key: func(kid string) (ed25519.PublicKey, *Error) {
			if k, ok := a.keys[kid]; ok {
				return k, nil
			}
			return nil, refuse(CodeUnknownKey, "signed by key %.60q, which is not this gateway's", kid)
		}}
	if err := parse(token, &c, want, now); err != nil {
		return Claims{}, err
	}
	out := Claims{
		ID: c.ID, Agent: c.Subject, Key: c.Confirmation.Thumbprint, Ticket: c.Ticket,
		PrincipalType: c.PrincipalType, NotBefore: c.NotBefore.Time, Expires: c.ExpiresAt.Time,
	}
	if c.Act != nil {
		out.Agent, out.Principal = c.Act.Subject, c.Subject
	}
	// What a token of ours says was checked when it was issued; if it fails now,
	// somebody else holds the key, or an older version was laxer.
	again := TokenRequest{Agent: out.Agent, Key: out.Key, Ticket: out.Ticket, Principal: out.Principal, PrincipalType: out.PrincipalType}
	if err := again.check(); err != nil || !evidence.ValidName(out.ID) {
		return Claims{}, refuse(CodeUnusableClaim, "the token is signed but not one that this gateway issues")
	}
	return out, nil
}

// Standing reports whether a token's claims still count: neither it nor its key
// was revoked, and its agent is in service. Any error is an *Error.
func (c *Claims) Standing(r Registry, now time.Time) error {
	if r.Revoked(c.ID) {
		return refuse(CodeRevoked, "token %s was revoked", c.ID)
	}
	if err := standing(r, c.Agent, c.Key, now); err != nil {
		return err
	}
	return nil
}

func standing(r Registry, agent, thumbprint string, now time.Time) *Error {
	t := now.UnixMicro()
	key, ok := r.Key(thumbprint)
	switch {
	case !ok:
		return refuse(CodeUnknownKey, "key %.60q is not enrolled", thumbprint)
	case key.Agent != agent:
		return refuse(CodeWrongAgent, "key %s is enrolled for %s and not for %.80q", key.ID, key.Agent, agent)
	case !key.Active(t):
		return refuse(CodeKeyRevoked, "key %s was revoked or is out of its time", key.ID)
	}
	a, ok := r.Agent(agent)
	switch {
	case !ok:
		return refuse(CodeUnknownAgent, "agent %.80q is not registered", agent)
	case !a.Active(t):
		return refuse(CodeAgentRetired, "agent %s was retired or has expired", agent)
	}
	return nil
}

// JWKS returns the authority's public keys as a JWK set.
func (a *Authority) JWKS() []byte { return JWKS(a.public...) }
