package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is an error as the API tells it (RFC 9457), and as Client returns it.
type Problem struct {
	Title   string   `json:"title" doc:"the kind of problem" example:"Not Found"`
	Status  int      `json:"status" example:"404"`
	Message string   `json:"detail,omitempty" doc:"what happened" example:"there is no agent reporter"`
	Hint    string   `json:"hint,omitempty" doc:"what to do about it" example:"exhibit agent list shows all"`
	Details []Detail `json:"errors,omitempty" doc:"each thing that is wrong, when there are several"`
	Code    string   `json:"error,omitempty" doc:"at the token endpoint, the code of RFC 6749 section 5.2" example:"invalid_client"`
}

// Detail is one of several things that are wrong.
type Detail struct {
	Where   string `json:"where,omitempty" doc:"a field of the request, or file:line:column" example:"exhibit.yaml:12:5"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns what happened, with the details.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Message)
	if p.Message == "" {
		b.WriteString(p.Title)
	}
	for _, d := range p.Details {
		b.WriteString("\n  ")
		if d.Where != "" {
			b.WriteString(d.Where + ": ")
		}
		b.WriteString(d.Message)
		if d.Hint != "" {
			b.WriteString("\n    hint: " + d.Hint)
		}
	}
	return b.String()
}

// GetStatus and ContentType make a Problem an answer of huma's.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of RFC 9457.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func problem(status int, message, hint string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Message: message, Hint: hint}
}

// NotFound says that what a request names doesn't exist.
func NotFound(message, hint string) error { return problem(http.StatusNotFound, message, hint) }

// Conflict says that the state of things forbids a change.
func Conflict(message, hint string) error { return problem(http.StatusConflict, message, hint) }

// Forbidden says that this person may not.
func Forbidden(message, hint string) error { return problem(http.StatusForbidden, message, hint) }

// Unauthorized says that nobody is known to be asking.
func Unauthorized(message, hint string) error {
	return problem(http.StatusUnauthorized, message, hint)
}

// Unavailable says that the gateway can't do it now.
func Unavailable(message, hint string) error {
	return problem(http.StatusServiceUnavailable, message, hint)
}

// Invalid says that a request can't be done as it is, and what is wrong.
func Invalid(message, hint string, details ...Detail) error {
	p := problem(http.StatusUnprocessableEntity, message, hint)
	p.Details = details
	return p
}

// asProblem returns err as a problem. What isn't one already is a failure of
// the gateway, shown as it is: everyone who can ask is a person of the
// configuration. The token endpoint, open to strangers, doesn't use it.
func asProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return problem(http.StatusInternalServerError, err.Error(), "")
}

// huma makes its errors (a request of the wrong shape) through this variable,
// and documents the type that it returns. The values that a caller sent are
// left out: they may be secrets.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		p := problem(status, message, "")
		for _, err := range errs {
			var d *huma.ErrorDetail
			switch {
			case errors.As(err, &d):
				p.Details = append(p.Details, Detail{Where: d.Location, Message: d.Message})
			case err != nil:
				p.Details = append(p.Details, Detail{Message: err.Error()})
			}
		}
		return p
	}
}
