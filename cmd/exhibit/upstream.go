package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// resolveUpstream reads what the configuration of an upstream refers to. It is
// called for each session, so that a rotated password counts.
func resolveUpstream(u config.Upstream) (protocol.Upstream, error) {
	password, err := u.Password.Read()
	if err != nil {
		return protocol.Upstream{}, err
	}
	t, err := upstreamTLS(u)
	if err != nil {
		return protocol.Upstream{}, err
	}
	return protocol.Upstream{Address: u.Address, Database: u.Database, User: u.User, Password: password, TLS: t}, nil
}

func upstreamTLS(u config.Upstream) (*tls.Config, error) {
	if u.TLS.Mode == config.TLSDisable {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.TLS.ServerName}
	if t.ServerName == "" {
		host, _, err := net.SplitHostPort(u.Address)
		if err != nil {
			return nil, fmt.Errorf("reading the upstream's address: %w", err)
		}
		t.ServerName = host
	}
	if u.TLS.CA != "" {
		pem, err := os.ReadFile(u.TLS.CA)
		if err != nil {
			return nil, fmt.Errorf("reading the upstream's authority: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading the upstream's authority: %s holds no certificate", u.TLS.CA)
		}
	}
	if u.TLS.Mode == config.TLSVerifyCA {
		verifyChainOnly(t)
	}
	return t, nil
}

// verifyChainOnly makes t verify who issued the certificate, and not its name.
func verifyChainOnly(t *tls.Config) {
	roots := t.RootCAs
	t.InsecureSkipVerify = true //nolint:gosec // VerifyConnection does it, but for the name
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the upstream shows no certificate")
		}
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(o)
		return err
	}
}
