package workpaper

import (
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// log feeds a detector and returns the rules that asked for an alert.
type log struct {
	d     *Detector
	now   int64
	seq   uint64
	rules []string
}

func newLog() *log { return &log{d: NewDetector(false), now: 1_800_000_000_000_000} }

func (l *log) put(h evidence.Head, body any) *Detection {
	l.seq++
	h.Pos, h.Time = evidence.Position{Gateway: "gw1", Boot: 1, Seq: l.seq}, l.now
	d := l.d.Observe(&h, evidence.EncodeBody(body))
	if d != nil {
		l.rules = append(l.rules, d.Alert.Rule)
	}
	return d
}

func (l *log) refuse(agent string, n int) {
	for range n {
		l.put(evidence.Head{Type: evidence.CommandIntent, Agent: agent, Outcome: evidence.Denied}, nil)
	}
}

func (l *log) prove(key, client string) {
	l.put(evidence.Head{Type: evidence.Authn, Agent: "bot", Outcome: evidence.OK}, evidence.AuthnBody{Key: key, Client: client})
}

func TestTheRulesOfAlerts(t *testing.T) {
	const minute = minuteMicros
	for _, c := range []struct {
		name string
		log  func(*log)
		want []string
	}{
		{"nineteen refusals are no burst", func(l *log) { l.refuse("bot", 19) }, nil},
		{"twenty are, once a minute", func(l *log) { l.refuse("bot", 45) }, []string{RuleDenials}},
		{"those of two agents are apart", func(l *log) { l.refuse("bot", 19); l.refuse("other", 19) }, nil},
		{"and of two minutes", func(l *log) { l.refuse("bot", 19); l.now += minute; l.refuse("bot", 19) }, nil},
		{"and of two boots", func(l *log) {
			l.refuse("bot", 19)
			l.put(evidence.Head{Type: evidence.GatewayStart}, nil)
			l.refuse("bot", 1)
		}, nil},
		{"the next minute counts anew", func(l *log) { l.refuse("bot", 20); l.now += minute; l.refuse("bot", 20) }, []string{RuleDenials, RuleDenials}},
		{"strangers count together", func(l *log) {
			for range 25 {
				l.put(evidence.Head{Type: evidence.Authn, Outcome: evidence.Denied}, evidence.AuthnBody{})
			}
		}, []string{RuleAuthn}},
		{"a key on one host has many ports", func(l *log) { l.prove("k", "192.0.2.1:1"); l.prove("k", "192.0.2.1:2") }, nil},
		{"a key on two hosts", func(l *log) { l.prove("k", "192.0.2.1:1"); l.prove("k", "unix"); l.prove("k", "192.0.2.7:1") }, []string{RuleShared}},
		{"a key on the gateway's own machine", func(l *log) {
			for _, client := range []string{"unix", "unix uid=1000", "127.0.0.1:5", "127.0.0.2:5", "[::1]:7"} {
				l.prove("k", client)
			}
		}, nil},
		{"two keys on two hosts", func(l *log) { l.prove("k", "192.0.2.1:1"); l.prove("j", "192.0.2.2:1") }, nil},
		{"a key that moved within the day", func(l *log) { l.prove("k", "192.0.2.1:1"); l.now += 60 * minute; l.prove("k", "192.0.2.2:1") }, nil},
		{"a gap", func(l *log) { l.put(evidence.Head{Type: evidence.RecordingGap}, evidence.GapBody{Cause: "disk"}) }, []string{RuleGap}},
		{"a clock that was set", func(l *log) { l.put(evidence.Head{Type: evidence.TimeStep}, evidence.TimeStepBody{StepMicros: -5e6}) }, []string{RuleClock}},
		{"two people, then one, then still one", func(l *log) {
			for _, s := range []string{evidence.SeparationRequired, evidence.SeparationReported, ""} {
				l.put(evidence.Head{Type: evidence.ConfigChange}, evidence.ConfigBody{Separation: s})
			}
		}, []string{RuleSeparation}},
		{"a policy, and back", func(l *log) {
			l.put(evidence.Head{Type: evidence.PolicyChange}, evidence.PolicyBody{})
			l.put(evidence.Head{Type: evidence.PolicyChange}, evidence.PolicyBody{Back: "gw1.1.1"})
		}, []string{RuleRollback}},
		{"bodies that say nothing", func(l *log) {
			for _, typ := range []evidence.Type{evidence.Authn, evidence.TimeStep, evidence.ConfigChange, evidence.PolicyChange} {
				l.put(evidence.Head{Type: typ, Outcome: evidence.OK}, []string{"hostile"})
			}
		}, nil},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			l := newLog()
			c.log(l)
			if !slices.Equal(l.rules, c.want) {
				t.Errorf("alerts %q, want %q", l.rules, c.want)
			}
		})
	}
}

func TestAnAlertSaysWhoAndSince(t *testing.T) {
	l := newLog()
	l.refuse("bot", 19)
	d := l.put(evidence.Head{Type: evidence.CommandIntent, Agent: "bot", Resource: "orders", Outcome: evidence.Denied}, nil)
	if d == nil || d.Agent != "bot" || d.Resource != "orders" || d.Alert.Trigger.Seq != 20 || d.Since != l.now/minuteMicros*minuteMicros {
		t.Errorf("%+v", d)
	}
}
