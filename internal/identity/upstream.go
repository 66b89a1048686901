package identity

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// identityLife is how long a service may take a gateway's word for who asks.
const identityLife = time.Minute

// identityClaims tell a service for whom a gateway asks. The agent is the actor
// and its principal the subject, or the agent is the subject (RFC 8693 section
// 4.1).
type identityClaims struct {
	jwt.RegisteredClaims
	Act     *actor `json:"act,omitempty"`
	Ticket  string `json:"ticket,omitempty"`
	Session string `json:"sid"` // id of the gateway's session
}

// Identify returns a JWT that tells the service behind resource for which agent
// and principal the gateway asks, and until when it may be sent: for half of its
// life. It is no credential here.
func (a *Authority) Identify(agent, principal, ticket, session, resource string, now time.Time) (string, time.Time, error) {
	from := now.Truncate(time.Second)
	c := identityClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: a.gateway, Audience: jwt.ClaimStrings{resource}, Subject: agent, ID: random(16),
			IssuedAt: jwt.NewNumericDate(from), NotBefore: jwt.NewNumericDate(from), ExpiresAt: jwt.NewNumericDate(from.Add(identityLife)),
		},
		Ticket: ticket, Session: session,
	}
	if principal != "" {
		c.Subject, c.Act = principal, &actor{agent}
	}
	token, err := sign(a.key, typeIdentity, c)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("signing an identity: %w", err)
	}
	return token, now.Add(identityLife / 2), nil
}
