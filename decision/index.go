package decision

import (
	"iter"

	"github.com/cedar-policy/cedar-go"
)

// ruleIndex finds the rules whose scopes match a request: by principal key (""
// for any agent), then by name of the resource ("" for any). What a decision
// costs grows with the roles its agent holds there, and not with the
// organisation.
//
// Leaving the others out is exact: Cedar evaluates the scope before the
// conditions, so that a rule whose scope doesn't match is neither satisfied
// nor an error.
type ruleIndex map[string]map[string][]*rule

func newIndex(rules []*rule) ruleIndex {
	x := make(ruleIndex)
	for _, r := range rules {
		byResource := x[r.principal]
		if byResource == nil {
			byResource = make(map[string][]*rule)
			x[r.principal] = byResource
		}
		byResource[r.resource.name] = append(byResource[r.resource.name], r)
	}
	return x
}

func agentKey(id string) string  { return "agent " + id }
func roleKey(name string) string { return "role " + name }

// matching appends to rules those whose scopes match, in an order that depends
// on the arguments only.
func (x ruleIndex) matching(rules []*rule, principals []string, resource, action string, target cedar.EntityUID) []*rule {
	for _, principal := range principals {
		byResource := x[principal]
		for _, name := range [2]string{"", resource} {
			for _, r := range byResource[name] {
				if (r.actions == nil || r.actions[action]) && r.resource.matches(resource, target) {
					rules = append(rules, r)
				}
			}
		}
	}
	return rules
}

// resourceScope is the resource part of a rule's scope.
type resourceScope struct {
	op     string // "All", "==", "in" or "is"
	kind   string // entity type of an "is"
	entity cedar.EntityUID
	name   string // of the resource that it is about, "" for any
}

func (s *resourceScope) matches(resource string, target cedar.EntityUID) bool {
	if s.kind != "" && string(target.Type) != s.kind {
		return false
	}
	return s.entity.IsZero() || s.entity == target || s.op != "==" && s.entity == resourceUID(resource)
}

// slice is the rules of one evaluation, in the form that Cedar takes.
type slice []*rule

// All implements cedar.PolicyIterator.
func (s slice) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range s {
			if !yield(cedar.PolicyID(r.ID), r.policy) {
				return
			}
		}
	}
}
