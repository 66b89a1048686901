package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

var (
	now    = time.Date(2027, 1, 15, 8, 0, 0, 500_000_000, time.UTC)
	issuer = testKey(1)
	other  = testKey(2)
	bot    = testKey(3)
	alice  = evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "test"}
)

// testKey is a key from a seed: never the same for two seeds, always for one.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func thumb(k ed25519.PrivateKey) string { return Thumbprint(k.Public().(ed25519.PublicKey)) }

func request() TokenRequest {
	return TokenRequest{Agent: "billing-bot", Key: thumb(bot), Ticket: "OPS-17", TTL: 10 * time.Minute, By: alice}
}

func TestATokenSaysWhoAndForWhom(t *testing.T) {
	a := NewAuthority(issuer, "gw1", time.Hour)
	for name, tc := range map[string]struct {
		change func(*TokenRequest)
		want   Claims
		sub    string
		actor  any
	}{
		"for itself": {func(*TokenRequest) {},
			Claims{Agent: "billing-bot", Key: thumb(bot), Ticket: "OPS-17", PrincipalType: Self}, "billing-bot", nil},
		"for a person": {func(r *TokenRequest) { r.Principal, r.PrincipalType = "bob@example.com", Human },
			Claims{Agent: "billing-bot", Key: thumb(bot), Ticket: "OPS-17", Principal: "bob@example.com", PrincipalType: Human}, "bob@example.com", "billing-bot"},
		"without a ticket": {func(r *TokenRequest) { r.Ticket = "" },
			Claims{Agent: "billing-bot", Key: thumb(bot), PrincipalType: Self}, "billing-bot", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			tc.change(&r)
			token, body, err := a.Issue(r, now)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Verify(token, now)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.ID, tc.want.NotBefore, tc.want.Expires = body.ID, got.NotBefore, got.Expires
			if got != tc.want || !strings.HasPrefix(got.ID, decision.TokenPrefix) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if got.NotBefore.UnixMicro() != body.NotBefore || got.Expires.UnixMicro() != body.NotAfter || got.Expires.Sub(got.NotBefore) != 10*time.Minute {
				t.Errorf("times of token %v %v and record %+v differ", got.NotBefore, got.Expires, body)
			}
			if body.Agent != "billing-bot" || body.Kind != "token" || body.Issuer != "gw1" || body.Thumbprint != thumb(bot) || body.By != alice {
				t.Errorf("record %+v", body)
			}
			raw := payload(t, token) // RFC 8693 section 4.1
			act, _ := raw["act"].(map[string]any)
			if raw["sub"] != tc.sub || tc.actor != nil && act["sub"] != tc.actor || tc.actor == nil && act != nil {
				t.Errorf("claims %v", raw)
			}
		})
	}
}

func payload(t *testing.T, token string) map[string]any {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNoTokenOutlivesTheLimit(t *testing.T) {
	a := NewAuthority(issuer, "gw1", time.Hour)
	for asked, want := range map[time.Duration]time.Duration{
		0: time.Hour, -time.Second: time.Hour, 48 * time.Hour: time.Hour, time.Minute: time.Minute, time.Millisecond: time.Second, 90500 * time.Millisecond: 90 * time.Second,
	} {
		r := request()
		r.TTL = asked
		_, body, err := a.Issue(r, now)
		if got := time.Duration(body.NotAfter-body.NotBefore) * time.Microsecond; err != nil || got != want {
			t.Errorf("asked for %s, got %s, %v", asked, got, err)
		}
	}
}

func TestWhatIsNotIssued(t *testing.T) {
	a := NewAuthority(issuer, "gw1", time.Hour)
	for name, change := range map[string]func(*TokenRequest){
		"for no agent":                    func(r *TokenRequest) { r.Agent = "" },
		"for an agent that is no name":    func(r *TokenRequest) { r.Agent = "a b" },
		"without a key":                   func(r *TokenRequest) { r.Key = "" },
		"with a ticket of two lines":      func(r *TokenRequest) { r.Ticket = "A\nB" },
		"with a ticket that is not UTF-8": func(r *TokenRequest) { r.Ticket = "\xff" },
		"with a ticket too long":          func(r *TokenRequest) { r.Ticket = strings.Repeat("x", 257) },
		"with an unprintable principal":   func(r *TokenRequest) { r.Principal, r.PrincipalType = "\u202ebob", Human },
		"for itself with a principal":     func(r *TokenRequest) { r.Principal, r.PrincipalType = "bob", Self },
		"for a person nobody names":       func(r *TokenRequest) { r.PrincipalType = Human },
		"for a principal of no type":      func(r *TokenRequest) { r.Principal = "bob" },
	} {
		r := request()
		change(&r)
		if token, _, err := a.Issue(r, now); !errors.Is(err, ErrRequest) || token != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// forge signs claims as a token of gw1, after a change.
func forge(t *testing.T, method jwt.SigningMethod, key any, change func(header, claims map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": "gw1", "aud": "gw1", "sub": "billing-bot", "jti": "tok_1", "principal_type": "self",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Unix() + 60, "cnf": map[string]any{"jkt": thumb(bot)},
	}
	token := jwt.NewWithClaims(method, claims)
	token.Header["typ"], token.Header["kid"] = typeToken, thumb(issuer)
	if change != nil {
		change(token.Header, claims)
	}
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerifyRefuses(t *testing.T) {
	eddsa := func(change func(h, c map[string]any)) string { return forge(t, jwt.SigningMethodEdDSA, issuer, change) }
	claim := func(name string, value any) string {
		return eddsa(func(_, c map[string]any) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		})
	}
	header := func(name string, value any) string {
		return eddsa(func(h, _ map[string]any) { h[name] = value })
	}
	good := eddsa(nil)
	parts := strings.Split(good, ".")
	public := issuer.Public().(ed25519.PublicKey)
	for _, tc := range []struct{ name, token, code string }{
		{"nothing", "", CodeMalformed},
		{"two parts", "a.b", CodeMalformed},
		{"four parts", good + ".x", CodeMalformed},
		{"a password", "correct horse battery staple", CodeMalformed},
		{"nine kilobytes", strings.Repeat("x", 9<<10), CodeTooLarge},
		{"no algorithm", forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), CodeAlgorithm},
		{"an algorithm spelt another way", parts[0][:0] + segment(`{"alg":"NONE","typ":"at+jwt"}`) + "." + parts[1] + ".", CodeAlgorithm},
		{"the public key as a secret", forge(t, jwt.SigningMethodHS256, []byte(public), nil), CodeAlgorithm},
		{"the public key's text as a secret", forge(t, jwt.SigningMethodHS512, []byte(FormatPublicKey(public)), nil), CodeAlgorithm},
		{"a foreign issuer's key", forge(t, jwt.SigningMethodEdDSA, other, func(h, _ map[string]any) { h["kid"] = thumb(other) }), CodeUnknownKey},
		{"a foreign key under our key's name", forge(t, jwt.SigningMethodEdDSA, other, nil), CodeSignature},
		{"no key named", header("kid", nil), CodeUnknownKey},
		{"a key that is no text", header("kid", 7), CodeUnknownKey},
		{"a key of its own", forge(t, jwt.SigningMethodEdDSA, other, func(h, _ map[string]any) {
			h["jwk"] = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": FormatPublicKey(other.Public().(ed25519.PublicKey))}
		}), CodeSignature},
		{"an assertion's type", header("typ", typeAssertion), CodeMalformed},
		{"the usual type", header("typ", "JWT"), CodeMalformed},
		{"critical extensions", header("crit", []string{"b64"}), CodeMalformed},
		{"another payload", parts[0] + "." + segment(strings.Replace(string(unsegment(t, parts[1])), "billing-bot", "admin-bot", 1)) + "." + parts[2], CodeSignature},
		{"another header", segment(`{"alg":"EdDSA","kid":"`+thumb(issuer)+`","typ":"at+jwt" }`) + "." + parts[1] + "." + parts[2], CodeSignature},
		{"a signature cut short", good[:len(good)-4], CodeMalformed},
		{"no signature", parts[0] + "." + parts[1] + ".", CodeSignature},
		{"a signature spelt another way", respell(t, good), CodeMalformed},
		{"padding", good + "==", CodeMalformed},
		{"another issuer", claim("iss", "gw2"), CodeIssuer},
		{"no issuer", claim("iss", nil), CodeMalformed},
		{"another audience", claim("aud", "gw2"), CodeAudience},
		{"no audience", claim("aud", nil), CodeMalformed},
		{"a time to come", claim("nbf", now.Unix()+60), CodeNotYetValid},
		{"no beginning", claim("nbf", nil), CodeMalformed},
		{"a time gone by", claim("exp", now.Unix()), CodeExpired},
		{"no end", claim("exp", nil), CodeMalformed},
		{"an end that is no number", claim("exp", "tomorrow"), CodeMalformed},
		{"no agent", claim("sub", nil), CodeUnusableClaim},
		{"an agent that is no name", claim("sub", "a b"), CodeUnusableClaim},
		{"no id", claim("jti", nil), CodeUnusableClaim},
		{"no key behind it", claim("cnf", nil), CodeUnusableClaim},
		{"a ticket of two lines", claim("ticket", "a\nb"), CodeUnusableClaim},
		{"a person, and none named", claim("principal_type", "human"), CodeUnusableClaim},
		{"an actor that is nobody", claim("act", map[string]any{}), CodeUnusableClaim},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewAuthority(issuer, "gw1", time.Hour).Verify(tc.token, now)
			var e *Error
			if !errors.As(err, &e) || e.Code() != tc.code {
				t.Errorf("got %v (code %q), want code %s", err, code(err), tc.code)
			}
		})
	}
	if _, err := NewAuthority(issuer, "gw1", time.Hour).Verify(good, now); err != nil {
		t.Errorf("the token that all others are changed from: %v", err)
	}
}

func code(err error) string {
	if e, ok := err.(interface{ Code() string }); ok {
		return e.Code()
	}
	return ""
}

func segment(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func unsegment(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// respell changes bits of the last character that a lax decoder drops.
func respell(t *testing.T, token string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

func TestTokensOfAnEarlierKeyStayGood(t *testing.T) {
	token, _, err := NewAuthority(other, "gw1", time.Hour).Issue(request(), now)
	if err != nil {
		t.Fatal(err)
	}
	rotated := NewAuthority(issuer, "gw1", time.Hour, other.Public().(ed25519.PublicKey))
	if _, err := rotated.Verify(token, now); err != nil {
		t.Error(err)
	}
	if _, err := NewAuthority(issuer, "gw1", time.Hour).Verify(token, now); code(err) != CodeUnknownKey {
		t.Errorf("once the key is dropped: %v", err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(rotated.JWKS(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%s %v", rotated.JWKS(), err)
	}
	want := map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": thumb(issuer), "x": FormatPublicKey(issuer.Public().(ed25519.PublicKey))}
	if !maps.Equal(set.Keys[0], want) {
		t.Errorf("JWKS %v", set.Keys)
	}
}

// members is a registry of billing-bot and its key.
type members struct {
	agent   decision.Agent
	key     decision.Credential
	revoked []string
}

func newMembers() *members {
	at := func(d time.Duration) int64 { return now.Add(d).UnixMicro() }
	return &members{
		agent: decision.Agent{AgentBody: evidence.AgentBody{Agent: "billing-bot"}},
		key:   decision.Credential{CredentialBody: Enrollment("key-1", "billing-bot", bot.Public().(ed25519.PublicKey), at(-time.Hour), at(time.Hour), alice)},
	}
}

func (m *members) Agent(id string) (decision.Agent, bool) {
	return m.agent, id == m.agent.AgentBody.Agent
}
func (m *members) Key(t string) (decision.Credential, bool) {
	return m.key, t == m.key.Thumbprint
}
func (m *members) Revoked(id string) bool { return slices.Contains(m.revoked, id) }

var somewhere = evidence.Position{Gateway: "gw1", Boot: 1, Seq: 9}

func TestStandingIsAskedOfTheRegistry(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*members)
		code   string
	}{
		"all is well":            {func(*members) {}, ""},
		"the token was revoked":  {func(m *members) { m.revoked = []string{"tok_1"} }, CodeRevoked},
		"the key was revoked":    {func(m *members) { m.key.Revoked = somewhere }, CodeKeyRevoked},
		"the key is over":        {func(m *members) { m.key.NotAfter = now.UnixMicro() }, CodeKeyRevoked},
		"the key isn't good yet": {func(m *members) { m.key.NotBefore = now.UnixMicro() + 1 }, CodeKeyRevoked},
		"the key is another's":   {func(m *members) { m.key.Agent = "other-bot" }, CodeWrongAgent},
		"the key is gone":        {func(m *members) { m.key.Thumbprint = "" }, CodeUnknownKey},
		"the agent was retired":  {func(m *members) { m.agent.Disabled = somewhere }, CodeAgentRetired},
		"the agent has expired":  {func(m *members) { m.agent.Expires = now.UnixMicro() }, CodeAgentRetired},
		"the agent isn't there":  {func(m *members) { m.agent.AgentBody.Agent = "" }, CodeUnknownAgent},
	} {
		m := newMembers()
		tc.change(m)
		c := Claims{ID: "tok_1", Agent: "billing-bot", Key: thumb(bot)}
		if err := c.Standing(m, now); code(err) != tc.code || (err == nil) != (tc.code == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	a := NewAuthority(issuer, "gw1", time.Hour)
	// The same token in every process that fuzzes.
	token, err := sign(issuer, typeToken, tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: "gw1", Audience: jwt.ClaimStrings{"gw1"}, Subject: "billing-bot", ID: "tok_1",
			NotBefore: jwt.NewNumericDate(now.Add(-time.Second)), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
		},
		Confirmation: confirmation{thumb(bot)}, PrincipalType: Self,
	})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := a.Verify(token, now); err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := a.Verify(s, now); err == nil && s != token {
			t.Errorf("%q is good: %+v", s, c)
		}
	})
}
