package httpgate

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Failure is why an agent isn't served.
type Failure struct {
	Status int    // of HTTP
	Reason string // one sentence, for the agent
	Hint   string // what to do about it
	ID     string // of the command, when there is one
	Rules  []string
}

// refusalOf is a refusal of the gate as a failure. Reason takes the place of
// the gate's where its own would say less.
func refusalOf(err error, reason string) *Failure {
	var r *protocol.Refusal
	if !errors.As(err, &r) {
		if err == nil || errors.Is(err, protocol.ErrUnknownCertificate) {
			return &Failure{Status: http.StatusUnauthorized, Reason: "a token is needed", Hint: "the client certificate is of no enrolled key: send a token as Authorization: Bearer"}
		}
		return &Failure{Status: http.StatusServiceUnavailable, Reason: "the gateway cannot serve this request", Hint: "ask the gateway's operator"}
	}
	f := &Failure{Status: http.StatusServiceUnavailable, Reason: r.Reason, Hint: r.Hint}
	switch {
	case errors.Is(r.Kind, protocol.ErrAuthentication):
		f.Status, f.Hint = http.StatusUnauthorized, "get a fresh token with `exhibit token` and send it as Authorization: Bearer"
	case errors.Is(r.Kind, protocol.ErrDenied):
		f.Status = http.StatusForbidden
		if reason != "" {
			f.Reason = reason
		}
	case errors.Is(r.Kind, protocol.ErrTooMany):
		f.Status = http.StatusTooManyRequests
	}
	return f
}

// Denial is a decision that refuses a command as a failure.
func Denial(ex protocol.Exchange) *Failure {
	f := &Failure{Status: http.StatusForbidden, Rules: ex.Decision().Rules, ID: ex.Position().String()}
	f.Reason, f.Hint = protocol.Refused(ex)
	return f
}

// Excess is a command that was stopped at a limit of its decision as a failure.
func Excess(e *protocol.Excess, ex protocol.Exchange) *Failure {
	f := &Failure{Status: http.StatusRequestEntityTooLarge, Reason: e.Error(), Hint: "ask for less at once", Rules: ex.Decision().Rules, ID: ex.Position().String()}
	if e.Code == protocol.ExcessTime {
		f.Status, f.Hint = http.StatusGatewayTimeout, "find out what was done before you repeat it"
	}
	return f
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, f *Failure) {
	if f.Status == http.StatusUnauthorized && w.Header().Get("Www-Authenticate") == "" {
		w.Header().Set("Www-Authenticate", `Bearer realm="exhibit"`)
	}
	s.cfg.Handler.Refuse(w, r, f)
}

// Problem answers with a problem document (RFC 9457).
func Problem(w http.ResponseWriter, f *Failure) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(f.Status)
	b, err := json.Marshal(struct {
		Type   string   `json:"type"`
		Title  string   `json:"title"`
		Status int      `json:"status"`
		Detail string   `json:"detail"`
		Hint   string   `json:"hint,omitempty"`
		ID     string   `json:"command,omitempty"`
		Rules  []string `json:"rules,omitempty"`
	}{"about:blank", http.StatusText(f.Status), f.Status, f.Reason, f.Hint, f.ID, f.Rules})
	if err != nil {
		return // strings and an integer: it can't be
	}
	w.Write(append(b, '\n')) //nolint:errcheck // the agent has gone
}

// GRPCFailure answers a gRPC call that isn't made: a response of trailers only
// (the gRPC over HTTP/2 specification, "Responses").
func GRPCFailure(w http.ResponseWriter, f *Failure) {
	code := "14" // UNAVAILABLE
	switch f.Status {
	case http.StatusUnauthorized:
		code = "16" // UNAUTHENTICATED
	case http.StatusForbidden:
		code = "7" // PERMISSION_DENIED
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		code = "8" // RESOURCE_EXHAUSTED
	case http.StatusGatewayTimeout:
		code = "4" // DEADLINE_EXCEEDED
	case http.StatusBadRequest:
		code = "3" // INVALID_ARGUMENT
	}
	h := w.Header()
	h.Del("Www-Authenticate")
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", code)
	h.Set("Grpc-Message", percentEncode(f.Reason+"; "+f.Hint))
	w.WriteHeader(http.StatusOK)
}

// percentEncode writes a message as Grpc-Message has it.
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 0x20 && c <= 0x7e && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + string([]byte{upperHex[c>>4], upperHex[c&15]}))
		}
	}
	return b.String()
}

// Lost is the outcome of a request that may have gone upstream and of which
// nothing came back.
func Lost(err error) evidence.Outcome {
	return evidence.Outcome{Class: evidence.InDoubt, Detail: err.Error()}
}
