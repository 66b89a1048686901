package upstream

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeText = `
apiVersion: v1
kind: Config
current-context: here
clusters:
- {name: c, cluster: {server: 'SERVER', CLUSTER}}
contexts:
- {name: here, context: {cluster: c, user: u, namespace: shop}}
- {name: lost, context: {cluster: c, user: nobody}}
users:
- {name: u, user: {USER}}
`

// A kubeconfig says where the API server is, by whom its certificate was issued,
// and who the account is; of a token in a file the newest counts.
func TestAKubeconfigLeadsToItsServer(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", string(authority))
	write("token", "first\n")
	for cluster, user := range map[string]string{
		"certificate-authority-data: '" + base64.StdEncoding.EncodeToString(authority) + "'": "tokenFile: token",
		"certificate-authority: ca.pem": "token: first",
	} {
		write("config", strings.NewReplacer("SERVER", server.URL, "CLUSTER", cluster, "USER", user).Replace(kubeText))
		target, err := New(Config{Kubeconfig: Kubeconfig{File: filepath.Join(dir, "config")}})
		if err != nil {
			t.Fatal(err)
		}
		up, err := target.Upstream()
		if err != nil {
			t.Fatal(err)
		}
		c, err := (&tls.Dialer{Config: up.TLS}).DialContext(t.Context(), "tcp", up.Address)
		if err != nil {
			t.Fatalf("%s: %v", cluster, err)
		}
		c.Close()
		name, value, err := up.Header(t.Context())
		if err != nil || name != "Authorization" || value != "Bearer first" {
			t.Errorf("%s: %s: %s, %v", user, name, value, err)
		}
		write("token", "second\n")
		if _, value, err = up.Header(t.Context()); err != nil || strings.HasPrefix(user, "tokenFile") != (value == "Bearer second") {
			t.Errorf("%s, renewed: %s, %v", user, value, err)
		}
		write("token", "first\n")
	}
}

// What would weaken the account's leg, or needs a program, is refused; no error
// quotes the file.
func TestWhatAKubeconfigMayNotSay(t *testing.T) {
	for want, text := range map[string]string{
		"no https URL":                "http://127.0.0.1:1||token: hunter2",
		"has a path":                  "https://h/k8s||token: hunter2",
		"insecure-skip-tls-verify":    "https://h|insecure-skip-tls-verify: true|token: hunter2",
		"proxy-url":                   "https://h|proxy-url: http://p|token: hunter2",
		"no certificate in PEM":       "https://h|certificate-authority-data: aHVudGVyMg==|token: hunter2",
		"not by exec":                 "https://h||exec: {command: /bin/sh}",
		"auth-provider":               "https://h||auth-provider: {name: gcp}",
		"password":                    "https://h||username: a, password: hunter2",
		", password or as":            "https://h||token: hunter2, as: system:admin",
		"neither token nor":           "https://h||username: a",
		"don't fit":                   "https://h||client-certificate-data: aHVudGVyMg==, client-key-data: aHVudGVyMg==",
		"no such file":                "https://h||tokenFile: gone",
		"not a kubeconfig":            "https://h|server: hunter2|{",
		`there is no context "other"`: "other",
		"names a cluster or user that isn't there": "lost",
	} {
		file := filepath.Join(t.TempDir(), "config")
		parts := append(strings.Split(text, "|"), "", "")
		context := ""
		if len(parts) == 3 {
			context, parts[0] = parts[0], "https://h"
		}
		content := strings.NewReplacer("SERVER", parts[0], "CLUSTER", parts[1], "USER", parts[2]).Replace(kubeText)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		target, err := New(Config{Kubeconfig: Kubeconfig{File: file, Context: context}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := target.Upstream(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", want, err)
		}
	}
}
