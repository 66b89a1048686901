package decision

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// MaxChecks is how many checks one request may have. Commands are text of
// agents, and a decision is made while they wait.
const MaxChecks = 4096

// Request asks whether an agent may do all of Checks on a resource.
type Request struct {
	Agent    string
	Resource string
	Time     int64 // microseconds since the epoch; that of the record
	Checks   []evidence.Check
	Session  evidence.Facts // those of the session
	Command  evidence.Facts // those of the command
	Path     string         // how the command came; see evidence.Unbound
	Approval string         // the approved request that it would use
	Limit    string         // the limit that its agent has reached
}

// Explanation is a decision with how it came about.
type Explanation struct {
	evidence.Decision
	Roles  []string // that the agent holds on the resource, sorted
	Checks []CheckExplanation
}

// CheckExplanation is what policy said of one check.
type CheckExplanation struct {
	evidence.Check
	Effect   evidence.Effect
	Permits  []Rule      // that are satisfied, by id
	Forbids  []Rule      // that are satisfied, by id
	Missed   []Rule      // permits whose scope matches and whose conditions don't hold, by id
	Failures []RuleError // by id of the rule
}

// RuleError says why a rule could not be evaluated.
type RuleError struct {
	Rule Rule
	Text string // in Cedar's words; it may differ from one evaluation to the next
}

// Decide says whether q is allowed. It never panics; what cannot be decided has
// the effect Error, which refuses. Rules and Grants are sorted, so that equal
// requests to equal registries give equal bytes of evidence.EncodeBody.
//
// An allowed request cites every satisfied permit and every standing grant that
// puts the agent in the role of one. A refused one cites the rules that forbade
// it or failed, if any.
func (r *Registry) Decide(q Request) evidence.Decision {
	d, _, _ := r.decide(q)
	return d
}

// Explain is Decide with everything that a person wants to know about it.
func (r *Registry) Explain(q Request) Explanation {
	d, s, results := r.decide(q)
	e := Explanation{Decision: d, Checks: make([]CheckExplanation, len(results))}
	if s != nil {
		e.Roles = s.roles
	}
	for i, res := range results {
		c := CheckExplanation{Check: q.Checks[i], Effect: res.effect,
			Permits: publicRules(res.permits), Forbids: publicRules(res.forbids), Missed: publicRules(res.missed())}
		for _, f := range res.failures {
			c.Failures = append(c.Failures, RuleError{f.rule.Rule, f.text})
		}
		e.Checks[i] = c
	}
	return e
}

func publicRules(rules []*rule) []Rule {
	all := make([]Rule, len(rules))
	for i, r := range rules {
		all[i] = r.Rule
	}
	return all
}

func (r *Registry) decide(q Request) (d evidence.Decision, s *subject, results []result) {
	d.Policy = r.Policy()
	defer func() {
		// The evaluator is somebody else's and its inputs are agents': a mistake
		// in either must refuse a command and not end the gateway.
		if p := recover(); p != nil {
			d = evidence.Decision{Effect: evidence.Error, Policy: r.Policy(), Reason: "the decision failed"}
			results = nil
		}
	}()
	s, refused := r.subject(q)
	if refused != nil {
		d.Effect, d.Reason, d.Until = refused.effect, refused.reason, refused.until
		return d, s, nil
	}
	d.Until = s.until
	context, err := contextOf(&q, s.policy.timed)
	if err != nil {
		d.Effect, d.Reason = evidence.Error, plain(err.Error())
		return d, s, nil
	}
	results = make([]result, len(q.Checks))
	for i, c := range q.Checks {
		results[i] = s.check(c, context)
		if slices.ContainsFunc(results[i].asked, func(r *rule) bool { return r.timed }) {
			d.Until = sooner(d.Until, nextHour(q.Time))
		}
	}
	s.sum(&d, q.Checks, results)
	r.bind(&d, &q)
	return d, s, results
}

// sooner is the earlier of two times, of which 0 is never.
func sooner(a, b int64) int64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// subject is an agent on a resource at a time: what all checks of a request
// have in common.
type subject struct {
	policy   *Policy
	agent    *agentState
	resource *resourceState
	grants   []*Grant // that stand
	lapsed   *Grant   // the latest that does not, if none stands
	roles    []string // sorted
	keys     []string // of the index: any, the agent, its roles
	entity   cedar.Entity
	until    int64
}

// refusal is a request refused before any rule is asked.
type refusal struct {
	effect evidence.Effect
	reason string
	until  int64
}

func (r *Registry) subject(q Request) (*subject, *refusal) {
	deny := func(format string, args ...any) (*subject, *refusal) {
		return nil, &refusal{effect: evidence.Deny, reason: fmt.Sprintf(format, args...)}
	}
	a, ok := r.agents.get(q.Agent)
	if !ok { // the name is not repeated: it is whatever a peer claimed
		return deny("this agent is not registered")
	}
	if !a.Disabled.IsZero() {
		return deny("agent %s was retired", q.Agent)
	}
	if !a.Suspended.IsZero() {
		return deny("agent %s is suspended: nobody answers for it since %s left", q.Agent, plain(a.Owner.ID))
	}
	if !a.Active(q.Time) {
		return deny("agent %s expired at %s; ask its owner %s to register a new one", q.Agent, clock(a.Expires), plain(a.Owner.ID))
	}
	res, ok := r.resources[q.Resource]
	if !ok {
		return deny("this resource is not configured")
	}
	if r.policy == nil {
		return deny("no policy is in force")
	}
	switch {
	case len(q.Checks) == 0:
		// "All of nothing" would be allowed.
		return nil, &refusal{effect: evidence.Error, reason: "the command asks nothing that policy could decide"}
	case len(q.Checks) > MaxChecks:
		return nil, &refusal{effect: evidence.Error, reason: fmt.Sprintf("the command asks %d things, and at most %d are decided at once", len(q.Checks), MaxChecks)}
	}

	s := &subject{policy: r.policy, agent: a, resource: res, until: a.Expires}
	for _, g := range a.grants[q.Resource] { // the latest expiry first
		if q.Time < g.Starts {
			s.until = sooner(s.until, g.Starts)
			continue
		}
		if !g.Active(q.Time) {
			if len(s.grants) == 0 {
				s.lapsed = g
			}
			break
		}
		s.grants = append(s.grants, g)
		s.until = sooner(s.until, g.Expires)
		if i, held := slices.BinarySearch(s.roles, g.Role); !held {
			s.roles = slices.Insert(s.roles, i, g.Role)
		}
	}
	parents := make([]cedar.EntityUID, len(s.roles))
	s.keys = append(make([]string, 0, len(s.roles)+2), "", agentKey(q.Agent))
	for i, role := range s.roles {
		parents[i] = roleUID(role)
		s.keys = append(s.keys, roleKey(role))
	}
	s.entity = cedar.Entity{UID: agentUID(q.Agent), Parents: cedar.NewEntityUIDSet(parents...), Attributes: a.attributes}
	return s, nil
}

// result is what policy said of one check.
type result struct {
	effect   evidence.Effect
	reason   string  // why it could not be asked, when it could not
	asked    []*rule // those whose scope matches
	permits  []*rule // satisfied, by id; likewise below
	forbids  []*rule
	failures []failure
}

type failure struct {
	rule *rule
	text string
}

// check asks policy about one thing.
func (s *subject) check(c evidence.Check, context cedar.Record) (res result) {
	if !utf8.ValidString(c.Object) {
		return result{effect: evidence.Error, reason: "a name in the command is not UTF-8"}
	}
	action, known := s.policy.actions[c.Action]
	if !known {
		return result{effect: evidence.Deny, reason: "the policy in force knows no action " + plain(c.Action)}
	}
	w := world{principal: s.entity, action: action, target: s.resource.entity, resource: s.resource.entity}
	if c.Object != "" {
		w.target = object(s.resource, c.Object)
	}
	res.asked = s.policy.index.matching(nil, s.keys, s.resource.Name, c.Action, w.target.UID)
	said, why := cedar.Authorize(slice(res.asked), &w, cedar.Request{
		Principal: w.principal.UID, Action: action.UID, Resource: w.target.UID, Context: context,
	})
	res.read(why)
	switch {
	case len(res.failures) > 0:
		// Cedar skips a rule that fails: a forbid would forbid nothing.
		res.effect = evidence.Error
	case said == cedar.Allow:
		res.effect = evidence.Allow
	default:
		res.effect = evidence.Deny
	}
	return res
}

// read puts Cedar's diagnostic in order, which by itself has none.
func (res *result) read(why cedar.Diagnostic) {
	byID := make(map[string]*rule, len(res.asked))
	for _, r := range res.asked {
		byID[r.ID] = r
	}
	for _, reason := range why.Reasons {
		if r := byID[string(reason.PolicyID)]; r.permit {
			res.permits = append(res.permits, r)
		} else {
			res.forbids = append(res.forbids, r)
		}
	}
	for _, e := range why.Errors {
		res.failures = append(res.failures, failure{byID[string(e.PolicyID)], e.Message})
	}
	sortRules(res.permits)
	sortRules(res.forbids)
	slices.SortFunc(res.failures, func(a, b failure) int { return cmp.Compare(a.rule.ID, b.rule.ID) })
}

// missed returns the permits that would have been satisfied under other
// conditions: what an agent's developer can do something about. When a forbid
// is satisfied Cedar doesn't say which permits are, and there are none.
func (res *result) missed() []*rule {
	if len(res.forbids) > 0 {
		return nil
	}
	var missed []*rule
	for _, r := range res.asked {
		if r.permit && !slices.Contains(res.permits, r) && !res.failed(r) {
			missed = append(missed, r)
		}
	}
	sortRules(missed)
	return missed
}

func (res *result) failed(r *rule) bool {
	return slices.ContainsFunc(res.failures, func(f failure) bool { return f.rule == r })
}

func sortRules(rules []*rule) {
	slices.SortFunc(rules, func(a, b *rule) int { return cmp.Compare(a.ID, b.ID) })
}

// sum makes one decision of all checks: the worst effect, and what it rests on.
func (s *subject) sum(d *evidence.Decision, checks []evidence.Check, results []result) {
	d.Effect = evidence.Allow
	for _, res := range results {
		if severity(res.effect) > severity(d.Effect) {
			d.Effect = res.effect
		}
	}
	rules, roles := make(map[string]bool), make(map[string]bool)
	first, alike := -1, 0
	var obliges evidence.Obligations
	for i, res := range results {
		if res.effect != d.Effect {
			continue
		}
		if first < 0 {
			first = i
		}
		alike++
		switch d.Effect {
		case evidence.Allow:
			for _, r := range res.permits {
				rules[r.ID], roles[r.Role] = true, true
				combine(&obliges, &r.Obliges)
			}
		case evidence.Deny:
			for _, r := range res.forbids {
				rules[r.ID] = true
				combine(&obliges, &r.Obliges)
			}
		case evidence.Error:
			for _, f := range res.failures {
				rules[f.rule.ID] = true
			}
		}
	}
	d.Rules = sortedKeys(rules)
	if !none(&obliges) {
		d.Obligations = &obliges
	}
	if d.Effect != evidence.Allow {
		d.Reason = s.reason(checks[first], &results[first])
		if alike > 1 {
			d.Reason += fmt.Sprintf(" (and %d more)", alike-1)
		}
		return
	}
	for _, g := range s.grants {
		if roles[g.Role] {
			d.Grants = append(d.Grants, g.ID)
		}
	}
	slices.Sort(d.Grants)
}

func severity(e evidence.Effect) int {
	switch e {
	case evidence.Allow:
		return 0
	case evidence.Deny:
		return 1
	}
	return 2
}

// reason says why a check was refused, in words that an agent's developer can
// act on.
func (s *subject) reason(c evidence.Check, res *result) string {
	if res.reason != "" {
		return res.reason
	}
	what := plain(c.Action) + " on " + s.resource.Name
	if c.Object != "" {
		what = plain(c.Action) + " on " + plain(c.Object)
	}
	if len(res.failures) > 0 {
		// Cedar's own words are for Explain: their order can vary.
		ids := make([]string, len(res.failures))
		for i, f := range res.failures {
			ids[i] = f.rule.ID
		}
		return fmt.Sprintf("%s cannot be decided: %s failed; `exhibit explain` shows why", what, ruleNames(ids))
	}
	if len(res.forbids) > 0 {
		ids := make([]string, len(res.forbids))
		for i, r := range res.forbids {
			ids[i] = r.ID
		}
		return fmt.Sprintf("%s forbids %s%s", ruleNames(ids), what, hints(res.forbids))
	}
	return fmt.Sprintf("no rule lets %s do %s; %s%s", s.agent.Agent.Agent, what, s.standing(), hints(res.missed()))
}

// standing says what the agent holds on the resource.
func (s *subject) standing() string {
	switch {
	case len(s.roles) > 0:
		return "roles here: " + listNames(s.roles)
	case s.lapsed != nil:
		return fmt.Sprintf("its grant %s (%s) expired at %s", s.lapsed.ID, s.lapsed.Role, clock(s.lapsed.Expires))
	}
	return "it has no grant on " + s.resource.Name
}

func ruleNames(ids []string) string {
	if len(ids) == 1 {
		return "rule " + ids[0]
	}
	return "rules " + listNames(ids)
}

func hints(rules []*rule) string {
	var all []string
	for _, r := range rules {
		if r.Hint != "" && !slices.Contains(all, r.Hint) {
			all = append(all, r.Hint)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "; hint: " + strings.Join(all[:min(len(all), 3)], ", or ")
}

// plain makes text of agents fit to stand in a reason: short, on one line, and
// without anything that a terminal or a protocol would act on.
func plain(s string) string {
	const most = 128
	odd := func(c rune) bool { return !unicode.IsPrint(c) || c == utf8.RuneError }
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	if strings.ContainsFunc(s, odd) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

// clock is a time in words. The zone is part of it.
func clock(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02 15:04:05 UTC")
}

func sortedKeys(m map[string]bool) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
