package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/config"
)

// verify-full wants the authority and the name, verify-ca the authority, and
// nothing accepts a certificate of an authority that wasn't named.
func TestUpstreamTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	address := server.Listener.Addr().String() // the certificate has 127.0.0.1
	for _, test := range []struct {
		name string
		tls  config.UpstreamTLS
		ok   bool
	}{
		{"full", config.UpstreamTLS{Mode: config.TLSVerifyFull, CA: ca}, true},
		{"full, another name", config.UpstreamTLS{Mode: config.TLSVerifyFull, CA: ca, ServerName: "other.test"}, false},
		{"full, another authority", config.UpstreamTLS{Mode: config.TLSVerifyFull}, false},
		{"ca, another name", config.UpstreamTLS{Mode: config.TLSVerifyCA, CA: ca, ServerName: "other.test"}, true},
		{"ca, another authority", config.UpstreamTLS{Mode: config.TLSVerifyCA}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := upstreamTLS(config.Upstream{Address: address, TLS: test.tls})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", address)
			if (err == nil) != test.ok {
				t.Errorf("connecting: %v", err)
			}
			if err == nil {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if c, err := upstreamTLS(config.Upstream{Address: address, TLS: config.UpstreamTLS{Mode: config.TLSDisable}}); c != nil || err != nil {
		t.Errorf("disabled: %v, %v", c, err)
	}
	if _, err := upstreamTLS(config.Upstream{Address: address, TLS: config.UpstreamTLS{Mode: config.TLSVerifyFull, CA: filepath.Join(t.TempDir(), "none")}}); err == nil {
		t.Error("an authority that isn't there was passed over")
	}
}
