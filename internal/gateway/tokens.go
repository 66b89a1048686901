package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/session"
)

// authenticator proves peers by the gateway's own tokens, or by certificates of
// enrolled keys.
type authenticator struct{ authority *identity.Authority }

// Authenticate implements session.Authenticator: the token must be this
// gateway's, in its time, neither it nor its key revoked, its agent in service,
// and the user name must be that agent. Of a certificate and its key the same is
// asked.
func (a authenticator) Authenticate(c protocol.Credential, registry *decision.Registry, now time.Time) (session.Principal, error) {
	if c.Method == "certificate" {
		return byCertificate(c, registry, now)
	}
	claims, err := a.authority.Verify(c.Secret, now)
	if err != nil {
		return session.Principal{}, err
	}
	if err := claims.Standing(registry, now); err != nil {
		return session.Principal{}, err
	}
	if c.User != "" && c.User != claims.Agent {
		return session.Principal{}, mismatch{}
	}
	sum := sha256.Sum256([]byte(c.Secret))
	return session.Principal{
		Agent: claims.Agent, Credential: claims.ID, Key: claims.Key,
		TokenHash: base64.RawURLEncoding.EncodeToString(sum[:]),
		Ticket:    claims.Ticket, OnBehalf: claims.Principal, Type: claims.PrincipalType,
		Expires: claims.Expires,
	}, nil
}

func byCertificate(c protocol.Credential, registry *decision.Registry, now time.Time) (session.Principal, error) {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return session.Principal{}, protocol.ErrUnknownCertificate
	}
	cert, err := identity.VerifyCertificate(c.TLS.PeerCertificates[0], c.User, registry, now)
	var coded *identity.Error
	switch {
	case errors.As(err, &coded) && coded.Code() == identity.CodeUnknownKey:
		return session.Principal{}, protocol.ErrUnknownCertificate
	case err != nil:
		return session.Principal{}, err
	}
	return session.Principal{Agent: cert.Agent, Credential: cert.ID, Key: cert.Key, Type: identity.Self, Expires: cert.Expires}, nil
}

// mismatch is a good token shown under another agent's name.
type mismatch struct{}

func (mismatch) Error() string { return "the token is another agent's" }
func (mismatch) Code() string  { return identity.CodeWrongAgent }

// IssueToken implements api.Tokens. The attempt is on record either way, and
// the token's own record is durable before the token leaves.
func (g *Gateway) IssueToken(ctx context.Context, r api.TokenRequest) (api.Token, error) {
	now := g.clock.now()
	proof, err := g.assertions.Verify(r.Assertion, g.registry(), now)
	if err != nil {
		return api.Token{}, g.refuseAssertion(ctx, r, err)
	}
	kind := ""
	if r.OnBehalfOf != "" {
		kind = principalType(r.OnBehalfOf, g.live.Load().People)
	}
	token, body, err := g.authority.Issue(identity.TokenRequest{
		Agent: proof.Agent, Key: proof.Thumb, Ticket: r.Ticket, Principal: r.OnBehalfOf, PrincipalType: kind,
		By: evidence.By{Via: "enrolled key " + proof.Key},
	}, now)
	if errors.Is(err, identity.ErrRequest) {
		return api.Token{}, api.Invalid(err.Error(), "")
	}
	if err != nil {
		return api.Token{}, err
	}
	_, err = g.recorder.Own().Record(ctx, 0, evidence.Power,
		&evidence.Draft{
			Head: evidence.Head{Type: evidence.Authn, Agent: proof.Agent, Outcome: evidence.OK},
			Body: evidence.EncodeBody(evidence.AuthnBody{
				Protocol: "api", Method: proof.Method, Credential: proof.Key, Key: proof.Thumb, Client: r.Client, Listener: "admin",
			}),
		},
		&evidence.Draft{
			Head: evidence.Head{Type: evidence.CredentialIssue, Agent: proof.Agent},
			Body: evidence.EncodeBody(body),
		})
	if err != nil {
		return api.Token{}, api.Unavailable("the token's record cannot be written, so there is no token", "exhibit log status says what keeps records from being written")
	}
	return api.Token{
		AccessToken: token, TokenType: "Bearer", ID: body.ID,
		ExpiresIn: (body.NotAfter - body.NotBefore) / int64(time.Second/time.Microsecond),
	}, nil
}

// refuseAssertion records a failed proof and tells the caller nothing but that
// a key that was proven asks too often.
func (g *Gateway) refuseAssertion(ctx context.Context, r api.TokenRequest, cause error) error {
	code := "rejected"
	var coded *identity.Error
	if errors.As(cause, &coded) {
		code = coded.Code()
	}
	_, err := g.recorder.Own().Record(ctx, 0, evidence.Process, &evidence.Draft{
		Head: evidence.Head{Type: evidence.Authn, Outcome: evidence.Denied, Code: code},
		Body: evidence.EncodeBody(evidence.AuthnBody{
			Protocol: "api", Method: "private_key_jwt", Client: r.Client, Listener: "admin", Failure: code,
		}),
		Sealed: evidence.EncodeBody(evidence.AuthnSealed{Detail: cause.Error()}),
	})
	if err != nil {
		return api.Unavailable("the attempt cannot be recorded", "")
	}
	session.Pause(ctx, session.DefaultFailurePause) // each attempt is a record
	if code == identity.CodeTooMany {
		return api.Unavailable("too many tokens were asked for with this key in a short time", "keep a token until it expires: it is good for any number of connections")
	}
	return api.Unauthorized("the assertion does not prove an enrolled key", "enroll the agent's key with `exhibit enroll`, and check that both clocks are right")
}

// principalType says what kind of thing an agent acts for: a person that the
// configuration names, or looks like one, or a system.
func principalType(id string, people []evidence.Person) string {
	for _, p := range people {
		if p.ID == id {
			return identity.Human
		}
	}
	if strings.Contains(id, "@") {
		return identity.Human
	}
	return identity.System
}
