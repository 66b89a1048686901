package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestAnAssertionIsGoodOnce(t *testing.T) {
	v := NewAssertions("gw1", now.Add(-time.Hour))
	s, err := Assert(bot, "billing-bot", "gw1", now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(s, newMembers(), now)
	if want := (Assertion{Agent: "billing-bot", Key: "key-1", Thumb: thumb(bot), Method: "private_key_jwt"}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := v.Verify(s, newMembers(), now.Add(time.Second)); code(err) != CodeReplayed {
		t.Errorf("a second time: %v", err)
	}
	// It is remembered for as long as it would be accepted.
	for d := time.Duration(0); ; d += time.Second {
		if _, err := v.Verify(s, newMembers(), now.Add(d)); code(err) == CodeExpired {
			break
		} else if code(err) != CodeReplayed {
			t.Fatalf("after %s: %v", d, err)
		}
	}
}

func TestAnAssertionIsGoodOnceAmongMany(t *testing.T) {
	v := NewAssertions("gw1", now.Add(-time.Hour))
	s, err := Assert(bot, "billing-bot", "gw1", now)
	if err != nil {
		t.Fatal(err)
	}
	var good atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := v.Verify(s, newMembers(), now); err == nil {
				good.Add(1)
			}
		})
	}
	wg.Wait()
	if good.Load() != 1 {
		t.Errorf("good %d times", good.Load())
	}
}

func TestAssertionsRefused(t *testing.T) {
	make := func(method jwt.SigningMethod, key any, change func(h, c map[string]any)) string {
		return forge(t, method, key, func(h, c map[string]any) {
			h["typ"], h["kid"] = typeAssertion, thumb(bot)
			c["iss"], c["jti"] = "billing-bot", "1"
			delete(c, "nbf")
			if change != nil {
				change(h, c)
			}
		})
	}
	claim := func(name string, value any) string {
		return make(jwt.SigningMethodEdDSA, bot, func(_, c map[string]any) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		})
	}
	retired := newMembers()
	retired.agent.Disabled = somewhere
	stolen := newMembers()
	stolen.key.Revoked = somewhere
	for _, tc := range []struct {
		name, assertion string
		r               *members
		code            string
	}{
		{"good", make(jwt.SigningMethodEdDSA, bot, nil), newMembers(), ""},
		{"a key nobody enrolled", make(jwt.SigningMethodEdDSA, other, func(h, _ map[string]any) { h["kid"] = thumb(other) }), newMembers(), CodeUnknownKey},
		{"another key under this one's name", make(jwt.SigningMethodEdDSA, other, nil), newMembers(), CodeSignature},
		{"no algorithm", make(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), newMembers(), CodeAlgorithm},
		{"the public key as a secret", make(jwt.SigningMethodHS256, []byte(bot.Public().(ed25519.PublicKey)), nil), newMembers(), CodeAlgorithm},
		{"a token's type", make(jwt.SigningMethodEdDSA, bot, func(h, _ map[string]any) { h["typ"] = typeToken }), newMembers(), CodeMalformed},
		{"about another agent", make(jwt.SigningMethodEdDSA, bot, func(_, c map[string]any) { c["iss"], c["sub"] = "admin-bot", "admin-bot" }), newMembers(), CodeWrongAgent},
		{"by another agent", claim("iss", "admin-bot"), newMembers(), CodeIssuer},
		{"about nobody", make(jwt.SigningMethodEdDSA, bot, func(_, c map[string]any) { delete(c, "iss"); delete(c, "sub") }), newMembers(), CodeIssuer},
		{"for another gateway", claim("aud", "gw2"), newMembers(), CodeAudience},
		{"without an id", claim("jti", nil), newMembers(), CodeMalformed},
		{"without its time", claim("iat", nil), newMembers(), CodeMalformed},
		{"without an end", claim("exp", nil), newMembers(), CodeMalformed},
		{"expired", claim("exp", now.Add(-clockSkew).Unix()), newMembers(), CodeExpired},
		{"from the future", claim("iat", now.Add(time.Minute).Unix()), newMembers(), CodeNotYetValid},
		{"for a day", claim("exp", now.Add(24*time.Hour).Unix()), newMembers(), CodeLifetime},
		{"from before the start", claim("iat", now.Add(-3*time.Minute).Unix()), newMembers(), CodeBeforeStart},
		{"of a retired agent", make(jwt.SigningMethodEdDSA, bot, nil), retired, CodeAgentRetired},
		{"of a revoked key", make(jwt.SigningMethodEdDSA, bot, nil), stolen, CodeKeyRevoked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewAssertions("gw1", now.Add(-2*time.Minute)).Verify(tc.assertion, tc.r, now)
			if code(err) != tc.code {
				t.Errorf("got %v (code %q), want %q", err, code(err), tc.code)
			}
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("not an *Error: %v", err)
			}
		})
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	v := NewAssertions("gw1", now.Add(-time.Hour))
	for i := range maxOutstanding {
		if err := v.use("k", fmt.Sprint(i), now.Add(time.Minute), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.use("k", "one more", now.Add(time.Minute), now); err == nil || err.Code() != CodeTooMany {
		t.Errorf("got %v", err)
	}
	if err := v.use("other", "1", now.Add(time.Minute), now); err != nil {
		t.Errorf("one key's haste is not another's: %v", err)
	}
	later := now.Add(2 * time.Minute)
	if err := v.use("k", "one more", later.Add(time.Minute), later); err != nil || len(v.seen["k"]) != 1 {
		t.Errorf("once they expired: %v, %d remembered", err, len(v.seen["k"]))
	}
}
