package kubernetes

import (
	"encoding/json"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// reasons are those of the API by status; clients branch on them.
var reasons = map[int]metav1.StatusReason{
	http.StatusBadRequest:            metav1.StatusReasonBadRequest,
	http.StatusUnauthorized:          metav1.StatusReasonUnauthorized,
	http.StatusForbidden:             metav1.StatusReasonForbidden,
	http.StatusMethodNotAllowed:      metav1.StatusReasonMethodNotAllowed,
	http.StatusRequestEntityTooLarge: metav1.StatusReasonRequestEntityTooLarge,
	http.StatusTooManyRequests:       metav1.StatusReasonTooManyRequests,
	http.StatusBadGateway:            metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable:    metav1.StatusReasonServiceUnavailable,
	http.StatusGatewayTimeout:        metav1.StatusReasonTimeout,
}

// Refuse implements httpgate.Handler: a failure is a Status, as the API's own.
func (p *Protocol) Refuse(w http.ResponseWriter, _ *http.Request, f *httpgate.Failure) {
	s := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(f.Status), Reason: reasons[f.Status], Message: f.Reason,
	}
	if f.Hint != "" {
		s.Message += ". " + f.Hint
	}
	d := &metav1.StatusDetails{}
	if f.ID != "" {
		d.Causes = append(d.Causes, metav1.StatusCause{Type: "ExhibitCommand", Message: f.ID})
	}
	for _, rule := range f.Rules {
		d.Causes = append(d.Causes, metav1.StatusCause{Type: "ExhibitRule", Message: rule})
	}
	if len(d.Causes) > 0 {
		s.Details = d
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(f.Status)
	b, err := json.Marshal(s)
	if err != nil {
		return // strings and an integer: it can't be
	}
	w.Write(append(b, '\n')) //nolint:errcheck // the agent has gone
}
