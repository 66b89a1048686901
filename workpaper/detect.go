package workpaper

import (
	"fmt"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// The rules by which a gateway raises alerts of itself. Each is a function of
// the records of one boot, so that a verifier finds what the gateway found.
const (
	RuleDenials    = evidence.AlertDenials
	RuleAuthn      = evidence.AlertAuthn
	RuleShared     = evidence.AlertShared
	RuleGap        = evidence.AlertGap
	RuleClock      = evidence.AlertClock
	RuleSeparation = evidence.AlertSeparation
	RuleRollback   = evidence.AlertRollback
	RuleBypass     = evidence.AlertBypass
	RuleUntied     = evidence.AlertUntied
	RuleHandEdited = evidence.AlertHandEdited // it rests on no record
)

// Detected are the rules that rest on records alone.
var Detected = []string{RuleDenials, RuleAuthn, RuleShared, RuleGap, RuleClock, RuleSeparation, RuleRollback, RuleBypass, RuleUntied}

const (
	denialsBurst = 20
	authnBurst   = 20
)

// Detection is an alert that a rule asks for.
type Detection struct {
	Alert    evidence.AlertBody
	Agent    string
	Resource string
	// Since is when the window of the rule began, in microseconds since the
	// epoch: whoever hasn't seen all records since may have found it elsewhere.
	Since int64
}

// Detector looks for what a person should look at. It is fed every record, in
// order; what it remembers is bounded by the number of agents and keys.
type Detector struct {
	separated bool
	denials   map[string]*window // by agent
	authn     window
	keys      map[string]*seen
}

// window counts what happened in one minute or hour of the clock.
type window struct {
	id int64
	n  int
}

// seen is from where a key was used in an hour.
type seen struct {
	hour   int64
	host   string
	raised bool
}

// NewDetector returns a detector for records that follow; separated says
// whether rights need two people by then.
func NewDetector(separated bool) *Detector {
	d := &Detector{separated: separated}
	d.reset()
	return d
}

func (d *Detector) reset() {
	d.denials, d.keys, d.authn = make(map[string]*window), make(map[string]*seen), window{}
}

// Observe looks at the next record and returns what it asks for.
func (d *Detector) Observe(h *evidence.Head, body []byte) *Detection {
	switch h.Type {
	case evidence.CommandIntent, evidence.SessionStart:
		if h.Outcome == evidence.Denied && h.Agent != "" {
			return d.denied(h)
		}
	case evidence.Authn:
		if h.Outcome == evidence.OK {
			return d.proved(h, body)
		}
		return d.unproved(h)
	case evidence.GatewayStart:
		d.reset()
	case evidence.RecordingGap:
		return found(h, RuleGap, "high", h.Time, "something passed unrecorded, or may have")
	case evidence.TimeStep:
		return d.stepped(h, body)
	case evidence.ConfigChange:
		return d.configured(h, body)
	case evidence.ReconRun:
		return d.reconciled(h, body)
	case evidence.PolicyChange:
		var b evidence.PolicyBody
		if evidence.DecodeBody(body, &b) == nil && b.Back != "" {
			return found(h, RuleRollback, "medium", h.Time, "%.200s went back to an earlier policy alone", b.By.Person.ID)
		}
	}
	return nil
}

func found(h *evidence.Head, rule, severity string, since int64, format string, args ...any) *Detection {
	return &Detection{Agent: h.Agent, Resource: h.Resource, Since: since,
		Alert: evidence.AlertBody{Rule: rule, Severity: severity, Trigger: h.Pos, Text: fmt.Sprintf(format, args...)}}
}

const minuteMicros = int64(60_000_000)

// reaches counts one more in the minute of t and reports whether that makes n.
func (w *window) reaches(t int64, n int) bool {
	if id := t / minuteMicros; id != w.id {
		*w = window{id: id}
	}
	w.n++
	return w.n == n
}

func (d *Detector) denied(h *evidence.Head) *Detection {
	w := d.denials[h.Agent]
	if w == nil {
		w = &window{}
		d.denials[h.Agent] = w
	}
	if !w.reaches(h.Time, denialsBurst) {
		return nil
	}
	return found(h, RuleDenials, "medium", w.id*minuteMicros, "%s was refused %d times in a minute", h.Agent, denialsBurst)
}

func (d *Detector) unproved(h *evidence.Head) *Detection {
	if !d.authn.reaches(h.Time, authnBurst) {
		return nil
	}
	a := found(h, RuleAuthn, "medium", d.authn.id*minuteMicros, "%d attempts to prove an identity failed in a minute", authnBurst)
	a.Agent = "" // they were of anyone
	return a
}

// proved looks from where a key was used. Its hosts are told apart by address
// alone: ports differ with every connection.
func (d *Detector) proved(h *evidence.Head, body []byte) *Detection {
	var b evidence.AuthnBody
	if evidence.DecodeBody(body, &b) != nil || b.Key == "" {
		return nil
	}
	host := hostOf(b.Client)
	if ownMachine(host) {
		host = "the gateway's own machine" // where a token is got at its socket and used at its port
	}
	hour := h.Time / hourMicros
	s := d.keys[b.Key]
	if s == nil || s.hour != hour {
		d.keys[b.Key] = &seen{hour: hour, host: host}
		return nil
	}
	if s.host == host || s.raised {
		return nil
	}
	s.raised = true
	return found(h, RuleShared, "high", hour*hourMicros, "the key of %s was used from two hosts within an hour: %.100s and %.100s", h.Agent, s.host, host)
}

// hostOf is an address without its port.
func hostOf(address string) string {
	if colon := strings.LastIndexByte(address, ':'); colon > 0 {
		return address[:colon]
	}
	return address
}

// ownMachine reports whether a host is the gateway's own.
func ownMachine(host string) bool {
	return strings.HasPrefix(host, "unix") || strings.HasPrefix(host, "127.") || host == "[::1]"
}

func (d *Detector) stepped(h *evidence.Head, body []byte) *Detection {
	var b evidence.TimeStepBody
	if evidence.DecodeBody(body, &b) != nil {
		return nil
	}
	return found(h, RuleClock, "low", h.Time, "the wall clock was set by %d ms", b.StepMicros/1000)
}

func (d *Detector) reconciled(h *evidence.Head, body []byte) *Detection {
	var b evidence.ReconBody
	switch {
	case evidence.DecodeBody(body, &b) != nil:
		return nil
	case b.Unexplained > 0:
		first := evidence.ReconKey{}
		if len(b.Keys) > 0 {
			first = b.Keys[0]
		}
		if first.Text != "" {
			return found(h, RuleBypass, "high", h.Time, "%d requests to the cluster of %s did not come through the gateway, the first by user %.100s from %.100s: %.200s",
				b.Unexplained, h.Resource, first.User, first.Client, first.Text)
		}
		return found(h, RuleBypass, "high", h.Time, "%d sessions at the upstream of %s did not come through the gateway, the first of user %.100s from %.100s", b.Unexplained, h.Resource, first.User, orLocal(first.Client))
	case b.Missing > 0:
		return found(h, RuleUntied, "medium", h.Time, "the log of the upstream of %s lacks %d sessions or commands of the gateway's", h.Resource, b.Missing)
	case b.Tie == evidence.Untied:
		return found(h, RuleUntied, "medium", h.Time, "the upstream of %s counts %d sessions, and its log has %d", h.Resource, b.Counted, b.Compared)
	case b.Tie == evidence.TieReset:
		return found(h, RuleUntied, "medium", h.Time, "somebody set the counters of the upstream of %s back", h.Resource)
	}
	return nil
}

func orLocal(client string) string {
	if client == "" {
		return "a unix socket"
	}
	return client
}

func (d *Detector) configured(h *evidence.Head, body []byte) *Detection {
	var b evidence.ConfigBody
	if evidence.DecodeBody(body, &b) != nil {
		return nil
	}
	lowered := d.separated && b.Separation != evidence.SeparationRequired
	d.separated = b.Separation == evidence.SeparationRequired
	if !lowered {
		return nil
	}
	return found(h, RuleSeparation, "high", h.Time, "rights no longer need two people, by a configuration of %.200s", b.By.Person.ID)
}
