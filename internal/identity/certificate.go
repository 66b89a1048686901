package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"time"
)

// certificatePrefix begins the id of a client certificate; its SHA-256
// fingerprint in hex follows.
const certificatePrefix = "crt_"

// Certificate is what a good client certificate proves.
type Certificate struct {
	ID    string // by its fingerprint
	Agent string
	Key   string // thumbprint of the enrolled key

	Expires time.Time
}

// VerifyCertificate checks the certificate by which a peer claims to be an
// agent, or "" to be the one whose key it is of; any error is an *Error, with CodeUnknownKey when nobody ever enrolled
// its key. That the peer holds the private key is what its TLS handshake has
// proven. Who issued the certificate doesn't matter: its key is what counts,
// and its own validity period.
func VerifyCertificate(cert *x509.Certificate, agent string, r Registry, now time.Time) (Certificate, error) {
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return Certificate{}, refuse(CodeUnknownKey, "a key of type %T is never enrolled", cert.PublicKey)
	}
	thumb := Thumbprint(key)
	if enrolled, ok := r.Key(thumb); ok && agent == "" {
		agent = enrolled.Agent
	}
	if err := standing(r, agent, thumb, now); err != nil {
		return Certificate{}, err
	}
	switch {
	case now.Before(cert.NotBefore):
		return Certificate{}, refuse(CodeNotYetValid, "the certificate is from the future")
	case now.After(cert.NotAfter):
		return Certificate{}, refuse(CodeExpired, "the certificate has expired")
	}
	sum := sha256.Sum256(cert.Raw)
	return Certificate{ID: certificatePrefix + hex.EncodeToString(sum[:]), Agent: agent, Key: thumb, Expires: cert.NotAfter}, nil
}

// certificateLead is how long before it is made a certificate begins: clocks of
// agents are not the gateway's.
const certificateLead = 5 * time.Minute

// IssueCertificate makes a client certificate that an agent signs itself, and
// returns its DER.
func IssueCertificate(key ed25519.PrivateKey, agent string, now, until time.Time) ([]byte, error) {
	c := &x509.Certificate{
		Subject:   pkix.Name{CommonName: agent},
		NotBefore: now.Add(-certificateLead), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return der, nil
}
