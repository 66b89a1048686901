package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of assertions. Clocks of agents are not the gateway's.
const (
	assertionLife = time.Minute     // of those made here
	maxAssertion  = 5 * time.Minute // of those accepted
	clockSkew     = 30 * time.Second
	// maxOutstanding is how many unexpired assertions of one key are remembered;
	// beyond it the key waits until some have expired.
	maxOutstanding = 1024
)

// Assert makes an assertion by which an agent proves itself to audience, the
// gateway that is to issue a token: private_key_jwt as in RFC 7523 section 2.2.
func Assert(key ed25519.PrivateKey, agent, audience string, now time.Time) (string, error) {
	s, err := sign(key, typeAssertion, jwt.RegisteredClaims{
		Issuer: agent, Subject: agent, Audience: jwt.ClaimStrings{audience}, ID: random(16),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(assertionLife)),
	})
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	return s, nil
}

// Assertion is what a good assertion proves.
type Assertion struct {
	Agent  string
	Key    string // id of the enrolled key
	Thumb  string // its thumbprint
	Method string // "private_key_jwt"
}

// Assertions checks assertions, each of which is good once. It is safe for
// concurrent use.
type Assertions struct {
	audience string
	started  time.Time

	mu   sync.Mutex
	seen map[string]map[[32]byte]int64 // by key: hash of jti to when it stops counting, Unix seconds
}

// NewAssertions returns a checker for assertions to audience. Those made before
// started are refused, since what was used before it is not remembered.
func NewAssertions(audience string, started time.Time) *Assertions {
	return &Assertions{audience: audience, started: started.Truncate(time.Second), seen: make(map[string]map[[32]byte]int64)}
}

// Verify checks an assertion against the registry in force and uses it up. Any
// error is an *Error. What it remembers is bounded by the number of enrolled
// keys, since only their signatures get that far.
func (v *Assertions) Verify(assertion string, r Registry, now time.Time) (Assertion, error) {
	var c jwt.RegisteredClaims
	var thumb string
	want := expectation{typ: typeAssertion, audience: v.audience, leeway: clockSkew,
		key: func(kid string) (ed25519.PublicKey, *Error) {
			thumb = kid
			return enrolledKey(r, kid)
		}}
	if err := parse(assertion, &c, want, now); err != nil {
		return Assertion{}, err
	}
	switch {
	case c.Subject == "" || c.Issuer != c.Subject:
		return Assertion{}, refuse(CodeIssuer, "an agent asserts about itself: iss and sub are its id")
	case c.ID == "" || c.IssuedAt == nil:
		return Assertion{}, refuse(CodeMalformed, "an assertion needs jti and iat")
	case c.IssuedAt.After(now.Add(clockSkew)):
		return Assertion{}, refuse(CodeNotYetValid, "the assertion is from the future")
	case c.ExpiresAt.Sub(c.IssuedAt.Time) > maxAssertion:
		return Assertion{}, refuse(CodeLifetime, "the assertion lives longer than %s", maxAssertion)
	case c.IssuedAt.Before(v.started):
		return Assertion{}, refuse(CodeBeforeStart, "the assertion was made before this gateway started; make a new one")
	}
	if err := standing(r, c.Subject, thumb, now); err != nil {
		return Assertion{}, err
	}
	if err := v.use(thumb, c.ID, c.ExpiresAt.Add(clockSkew), now); err != nil {
		return Assertion{}, err
	}
	key, _ := r.Key(thumb)
	return Assertion{Agent: c.Subject, Key: key.ID, Thumb: thumb, Method: "private_key_jwt"}, nil
}

func enrolledKey(r Registry, thumb string) (ed25519.PublicKey, *Error) {
	c, ok := r.Key(thumb)
	if !ok {
		return nil, refuse(CodeUnknownKey, "key %.60q is not enrolled", thumb)
	}
	key, err := ParsePublicKey(c.PublicKey)
	if err != nil {
		return nil, refuse(CodeUnknownKey, "key %s: %w", c.ID, err)
	}
	return key, nil
}

// use remembers an assertion until it has expired.
func (v *Assertions) use(key, id string, until, now time.Time) *Error {
	v.mu.Lock()
	defer v.mu.Unlock()
	used := v.seen[key]
	if used == nil {
		used = make(map[[32]byte]int64)
		v.seen[key] = used
	}
	hash := sha256.Sum256([]byte(id))
	if end, again := used[hash]; again && now.Unix() <= end {
		return refuse(CodeReplayed, "the assertion was used before")
	}
	if len(used) >= maxOutstanding {
		for h, end := range used {
			if now.Unix() > end {
				delete(used, h)
			}
		}
	}
	if len(used) >= maxOutstanding {
		return refuse(CodeTooMany, "key %s made %d assertions that have not expired; keep the tokens they gave", key, len(used))
	}
	used[hash] = until.Unix()
	return nil
}
