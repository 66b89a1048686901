package remotecommand

import (
	"encoding/json"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// status gathers what an upstream says of a command's end.
type status struct {
	said []byte
	full bool // more was said than is kept
}

// maxStatus bounds what is kept of it.
const maxStatus = 64 << 10

func (s *status) add(content []byte) {
	n := min(len(content), maxStatus-len(s.said))
	s.said = append(s.said, content[:n]...)
	s.full = s.full || n < len(content)
}

func (s *status) text() string { return string(s.said) }

// whole reports whether a Status has been said to its end.
func (s *status) whole() bool { return len(s.said) > 0 && (s.full || json.Valid(s.said)) }

// unsaid is the outcome of a command whose upstream leaves before its end.
var unsaid = evidence.Outcome{Class: evidence.InDoubt, Detail: "the upstream left and did not say how the command ended"}

// outcome is the outcome that was said. Before version 4 that is nothing, or why
// the command failed; since then it is a Status (k8s.io/apimachinery, meta/v1).
func (s *status) outcome(w *wire) evidence.Outcome {
	switch {
	case len(s.said) == 0 && (w.status || w.silent):
		return unsaid
	case len(s.said) == 0:
		return evidence.Outcome{Class: evidence.OK}
	case !w.status:
		return evidence.Outcome{Class: evidence.Failed, Code: "failed", Detail: s.text()}
	}
	var said struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(s.said, &said); err != nil || said.Status != "Success" && said.Status != "Failure" {
		return evidence.Outcome{Class: evidence.InDoubt, Detail: "the upstream said how the command ended in words that aren't the protocol's"}
	}
	if said.Status == "Success" {
		return evidence.Outcome{Class: evidence.OK, Code: "exit:0"}
	}
	o := evidence.Outcome{Class: evidence.Failed, Code: "failed", Detail: said.Message}
	if said.Reason != "" && evidence.ValidName(said.Reason) {
		o.Code = said.Reason
	}
	for _, c := range said.Details.Causes {
		if code := "exit:" + strings.TrimSpace(c.Message); c.Reason == "ExitCode" && evidence.ValidName(code) {
			o.Code = code
		}
	}
	return o
}
