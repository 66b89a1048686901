package upstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// Header is a field of requests that proves the account.
type Header struct {
	Name   string
	Prefix string // put before the value
	Value  Secret
}

// OAuth is an authorization server that gives out tokens for the account (RFC
// 6749 section 4.4).
type OAuth struct {
	TokenURL, ClientID string
	ClientSecret       Secret
	Scopes             []string
	Audience           string
}

// tokenTimeout bounds a request for a token.
const tokenTimeout = 10 * time.Second

// oauth keeps the token in use.
type oauth struct {
	secret file
	of     [sha256.Size]byte // the secret that tokens is for
	tokens oauth2.TokenSource
}

// header returns what makes the field that proves the account, nil when none
// does.
func (t *Target) header() func(context.Context) (name, value string, err error) {
	switch {
	case t.cfg.Header.Name != "":
		return func(context.Context) (string, string, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			v, err := t.cfg.Header.Value.read(&t.value)
			if err != nil {
				return "", "", fmt.Errorf("reading the upstream's credential: %w", err)
			}
			return t.cfg.Header.Name, t.cfg.Header.Prefix + v, nil
		}
	case t.cfg.OAuth.TokenURL != "":
		return t.bearer
	}
	return nil
}

// bearer makes the field of an OAuth token (RFC 6750 section 2.1). A token
// serves all sessions until it expires.
func (t *Target) bearer(context.Context) (name, value string, err error) {
	tokens, err := t.tokens()
	if err != nil {
		return "", "", fmt.Errorf("reading the upstream's client secret: %w", err)
	}
	token, err := tokens.Token()
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused): // its text holds the server's answer, whatever that is
		return "", "", fmt.Errorf("the authorization server of the upstream gives no token: %s %s", refused.Response.Status, refused.ErrorCode)
	case err != nil:
		return "", "", fmt.Errorf("asking the authorization server of the upstream: %w", err)
	}
	return "Authorization", token.Type() + " " + token.AccessToken, nil
}

func (t *Target) tokens() (oauth2.TokenSource, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	secret, err := t.cfg.OAuth.ClientSecret.read(&t.oauth.secret)
	if err != nil {
		return nil, err
	}
	if of := sha256.Sum256([]byte(secret)); t.oauth.tokens == nil || t.oauth.of != of {
		c := clientcredentials.Config{
			ClientID: t.cfg.OAuth.ClientID, ClientSecret: secret, TokenURL: t.cfg.OAuth.TokenURL, Scopes: t.cfg.OAuth.Scopes,
		}
		if t.cfg.OAuth.Audience != "" {
			c.EndpointParams = url.Values{"audience": {t.cfg.OAuth.Audience}}
		}
		ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: tokenTimeout})
		t.oauth.tokens, t.oauth.of = c.TokenSource(ctx), of
	}
	return t.oauth.tokens, nil
}
