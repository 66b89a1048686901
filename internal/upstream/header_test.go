package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// headerOf asks a target for the field that proves the account.
func headerOf(t *testing.T, cfg Config) func() (string, error) {
	t.Helper()
	cfg.Address = "127.0.0.1:1"
	target, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func() (string, error) {
		up, err := target.Upstream()
		if err != nil || up.Header == nil {
			return "", fmt.Errorf("no header: %w", err)
		}
		name, value, err := up.Header(context.Background())
		return name + ": " + value, err
	}
}

func TestAHeaderIsReadAnewWhenItsFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	header := headerOf(t, Config{Header: Header{Name: "X-Api-Key", Prefix: "Key ", Value: Secret{File: file}}})
	if got, err := header(); err != nil || got != "X-Api-Key: Key one" {
		t.Errorf("%q, %v", got, err)
	}
	write("another")
	if got, err := header(); err != nil || got != "X-Api-Key: Key another" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got, err := header(); err == nil || strings.Contains(err.Error(), "another") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTokensOfAnAuthorizationServer(t *testing.T) {
	var asked atomic.Int32
	secret := "first-secret"
	refuse := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		id, pw, _ := r.BasicAuth()
		switch {
		case refuse || id != "exhibit" || pw != secret:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"not with %s"}`, pw)
		case r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "read write" || r.FormValue("audience") != "billing":
			w.WriteHeader(http.StatusBadRequest)
		default:
			w.Header().Set("Content-Type", "application/json")
			err := json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d", asked.Load()), "token_type": "bearer", "expires_in": 3600})
			if err != nil {
				t.Error(err)
			}
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	header := headerOf(t, Config{OAuth: OAuth{
		TokenURL: server.URL, ClientID: "exhibit", ClientSecret: Secret{File: file}, Scopes: []string{"read", "write"}, Audience: "billing",
	}})
	for range 3 { // one token serves until it expires
		if got, err := header(); err != nil || got != "Authorization: Bearer token-1" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	// A rotated secret counts at once, and the token of the old one doesn't.
	secret = "second-secret"
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got, err := header(); err != nil || got != "Authorization: Bearer token-2" {
		t.Errorf("%q, %v", got, err)
	}
	refuse = true
	if err := os.WriteFile(file, []byte("wrong-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := header()
	if err == nil || strings.Contains(err.Error(), "wrong-secret") || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("%q, %v", got, err)
	}
}
