package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"testing"
	"time"
)

func certificateOf(t *testing.T, key ed25519.PrivateKey, until time.Duration) *x509.Certificate {
	t.Helper()
	der, err := IssueCertificate(key, "billing-bot", now, now.Add(until))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestACertificateProvesAnEnrolledKey(t *testing.T) {
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key    ed25519.PrivateKey
		agent  string
		at     time.Duration
		change func(*members, *x509.Certificate)
		code   string
	}{
		"all is well":             {change: func(*members, *x509.Certificate) {}},
		"by an authority":         {change: func(_ *members, c *x509.Certificate) { c.Issuer.CommonName, c.Subject.CommonName = "CA", "bot.example" }},
		"a key nobody enrolled":   {key: other, code: CodeUnknownKey},
		"a key of another kind":   {change: func(_ *members, c *x509.Certificate) { c.PublicKey = &foreign.PublicKey }, code: CodeUnknownKey},
		"under another's name":    {agent: "admin-bot", code: CodeWrongAgent},
		"under no name":           {agent: "-", code: CodeWrongAgent},
		"the key was revoked":     {change: func(m *members, _ *x509.Certificate) { m.key.Revoked = somewhere }, code: CodeKeyRevoked},
		"the key is over":         {change: func(m *members, _ *x509.Certificate) { m.key.NotAfter = now.UnixMicro() }, code: CodeKeyRevoked},
		"the agent was retired":   {change: func(m *members, _ *x509.Certificate) { m.agent.Disabled = somewhere }, code: CodeAgentRetired},
		"the certificate is over": {at: 31 * time.Minute, code: CodeExpired},
		"it is from the future":   {at: -10 * time.Minute, code: CodeNotYetValid},
		"made on a slow clock":    {at: -4 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			key, agent, m := tc.key, tc.agent, newMembers()
			if key == nil {
				key = bot
			}
			if agent == "" {
				agent = "billing-bot"
			}
			cert := certificateOf(t, key, 30*time.Minute)
			if tc.change != nil {
				tc.change(m, cert)
			}
			got, err := VerifyCertificate(cert, agent, m, now.Add(tc.at))
			if code(err) != tc.code {
				t.Fatalf("got %v (code %q), want %q", err, code(err), tc.code)
			}
			sum := sha256.Sum256(cert.Raw)
			want := Certificate{ID: "crt_" + hex.EncodeToString(sum[:]), Agent: agent, Key: thumb(bot), Expires: cert.NotAfter}
			if err == nil && got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if anybody, aerr := VerifyCertificate(cert, "", m, now.Add(tc.at)); err == nil && (aerr != nil || anybody != want) {
				t.Errorf("without a name: got %+v, %v, want %+v", anybody, aerr, want)
			}
		})
	}
}

func TestACertificateIsForClientsAndNothingElse(t *testing.T) {
	c := certificateOf(t, bot, time.Hour)
	if err := c.CheckSignature(x509.PureEd25519, c.RawTBSCertificate, c.Signature); err != nil {
		t.Errorf("it is not signed by its own key: %v", err)
	}
	if c.IsCA || c.Subject.CommonName != "billing-bot" || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth ||
		c.SerialNumber.Cmp(big.NewInt(1<<32)) < 0 {
		t.Errorf("certificate is %+v", c)
	}
}
