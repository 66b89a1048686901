package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// The values that RFC 6749 and RFC 7523 fix.
const (
	grantType     = "client_credentials"
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// tokenForm is the form of a token request.
type tokenForm struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded"`
	client  string
}

// Resolve notes who asks.
func (f *tokenForm) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	f.client = clientOf(r)
	return nil
}

type tokenAnswer struct {
	CacheControl string `header:"Cache-Control"`
	Body         Token
}

func (a *routes) registerToken() {
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: "string", Description: doc} }
	huma.Register(a.api, huma.Operation{
		OperationID: "issue-token", Method: http.MethodPost, Path: "/v1/token", Tags: []string{"credentials"},
		Summary:     "Exchange an assertion of an enrolled key for a short-lived token",
		Description: "RFC 6749 section 4.4, the client authenticated as in RFC 7523 section 2.2. The assertion is a JWT signed with EdDSA: iss and sub are the agent's id, aud is the gateway's name, typ is client-authentication+jwt, kid the key's thumbprint; it needs iat, exp (at most five minutes later) and jti, and is good once.",
		Middlewares: huma.Middlewares{a.measure}, Security: []map[string][]string{},
		MaxBodyBytes: 64 << 10, BodyReadTimeout: -1, SkipValidateBody: true,
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}},
		Errors:      []int{http.StatusBadRequest, http.StatusUnauthorized},
	}, a.issueToken)
	a.api.OpenAPI().Paths["/v1/token"].Post.RequestBody.Content["application/x-www-form-urlencoded"].Schema = &huma.Schema{
		Type:     "object",
		Required: []string{"grant_type", "client_assertion_type", "client_assertion"},
		Properties: map[string]*huma.Schema{
			"grant_type":            {Type: "string", Enum: []any{grantType}},
			"client_assertion_type": {Type: "string", Enum: []any{assertionType}},
			"client_assertion":      text("the JWT"),
			"ticket":                text("ticket or run that the agent works on; stands in every session of the token"),
			"on_behalf_of":          text("whom the agent works for, a person's or a system's id"),
		},
	}
}

// issueToken answers strangers: whatever it says about a failure is the same
// for an unknown agent, an unknown key and a bad signature.
func (a *routes) issueToken(ctx context.Context, in *tokenForm) (*tokenAnswer, error) {
	r, p := parseTokenRequest(in.RawBody)
	if p != nil {
		return nil, p
	}
	r.Client = in.client
	t, err := a.Services.Tokens.IssueToken(ctx, r)
	if err != nil {
		return nil, a.tokenProblem(ctx, err)
	}
	return &tokenAnswer{CacheControl: "no-store", Body: t}, nil
}

func (a *routes) tokenProblem(ctx context.Context, err error) *Problem {
	var p *Problem
	if !errors.As(err, &p) {
		a.Log.ErrorContext(ctx, "issuing a token failed", "error", err)
		p = problem(http.StatusInternalServerError, "the token could not be issued", "the gateway's own log says why")
	}
	told := *p
	switch told.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		told.Code = "invalid_client"
	case http.StatusServiceUnavailable:
		told.Code = "temporarily_unavailable"
	case http.StatusInternalServerError:
		told.Code = "server_error"
	default:
		told.Code = "invalid_request"
	}
	return &told
}

func parseTokenRequest(form []byte) (TokenRequest, *Problem) {
	bad := func(code, message string) (TokenRequest, *Problem) {
		p := problem(http.StatusBadRequest, message, "exhibit token asks in the right way")
		p.Code = code
		return TokenRequest{}, p
	}
	v, err := url.ParseQuery(string(form))
	if err != nil {
		return bad("invalid_request", "the body is not a form")
	}
	for key, values := range v {
		if len(values) != 1 {
			return bad("invalid_request", "a parameter is there twice")
		}
		if key != "client_assertion" && len(values[0]) > 1000 {
			return bad("invalid_request", "a parameter is too long")
		}
	}
	switch {
	case v.Get("grant_type") != grantType:
		return bad("unsupported_grant_type", "grant_type must be "+grantType)
	case v.Get("client_assertion_type") != assertionType || v.Get("client_assertion") == "":
		return bad("invalid_request", "client_assertion_type must be "+assertionType+", with a client_assertion")
	}
	return TokenRequest{Assertion: v.Get("client_assertion"), Ticket: v.Get("ticket"), OnBehalfOf: v.Get("on_behalf_of")}, nil
}
