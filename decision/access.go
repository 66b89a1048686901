package decision

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What an AccessRow says of an action.
const (
	AccessAllow       = "allow"       // whatever the facts of the command are
	AccessConditional = "conditional" // depending on facts or on the object
	AccessDeny        = "deny"        // the role would permit it, a rule forbids it
)

// AccessRow says what one role lets one agent do on a resource. Rows where no
// rule permits anything are absent: what isn't listed is refused.
type AccessRow struct {
	Agent    string
	Role     string
	Resource string
	Object   string // "" for the whole resource
	Action   string
	Effect   string   // AccessAllow, AccessConditional or AccessDeny
	Grants   []string // that give the role, sorted
	Permits  []string // rules that permit it, sorted
	Forbids  []string // rules that forbid it, or may, sorted
	// Obliges is what its permits ask of commands, the strictest of all: of those
	// that a command satisfies it may be less.
	Obliges evidence.Obligations
}

// Access lists what every agent could do at time t, in microseconds since the
// epoch, in order of agent, resource, role, object and action. It goes by the
// scopes of the rules and whether they have conditions, and evaluates none: a
// row that says allow or deny holds for every command, and none is missing.
func (r *Registry) Access(t int64) []AccessRow {
	var rows []AccessRow
	if r.policy == nil {
		return nil
	}
	for _, a := range r.agents.sorted(byID(func(a *agentState) string { return a.Agent.Agent })) {
		if !a.Active(t) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(a.grants)) {
			if res, ok := r.resources[name]; ok {
				rows = append(rows, r.policy.access(a, res, t)...)
			}
		}
	}
	return rows
}

// RoleActions returns the actions that rules permit a role on a resource, under
// whatever conditions, sorted.
func (r *Registry) RoleActions(role, resource string) []string {
	res, ok := r.resources[resource]
	if !ok || r.policy == nil {
		return nil
	}
	var actions []string
	for _, row := range r.policy.roleAccess(role, res) {
		actions = append(actions, row.Action)
	}
	slices.Sort(actions)
	return slices.Compact(actions)
}

// access lists one agent on one resource.
func (p *Policy) access(a *agentState, res *resourceState, t int64) []AccessRow {
	grants := make(map[string][]string) // by role
	for _, g := range a.grants[res.Name] {
		if g.Active(t) {
			grants[g.Role] = append(grants[g.Role], g.ID)
		}
	}
	roles := slices.Sorted(maps.Keys(grants))
	var forbids []*rule
	for _, key := range append([]string{"", agentKey(a.Agent.Agent)}, mapSlice(roles, roleKey)...) {
		for _, r := range p.index.about(key, res.Name) {
			if !r.permit {
				forbids = append(forbids, r)
			}
		}
	}
	var rows []AccessRow
	for _, role := range roles {
		slices.Sort(grants[role])
		for _, row := range p.roleAccess(role, res) {
			row.Agent, row.Grants = a.Agent.Agent, grants[role]
			row.forbid(forbids, res.Name)
			rows = append(rows, row)
		}
	}
	return rows
}

// roleAccess lists what the permits of a role cover on a resource.
func (p *Policy) roleAccess(role string, res *resourceState) []AccessRow {
	type key struct{ object, action string }
	found := make(map[key]*AccessRow)
	for _, r := range p.index.about(roleKey(role), res.Name) {
		if !r.permit {
			continue
		}
		for _, action := range p.leaves {
			if !protocolHas(res.Protocol, action) || r.actions != nil && !r.actions[action] {
				continue
			}
			k := key{r.resource.object(), action}
			row := found[k]
			if row == nil {
				row = &AccessRow{Role: role, Resource: res.Name, Object: k.object, Action: action, Effect: AccessConditional}
				found[k] = row
			}
			row.Permits = append(row.Permits, r.ID)
			combine(&row.Obliges, &r.Obliges)
			if r.bare && r.resource.whole() {
				row.Effect = AccessAllow
			}
		}
	}
	rows := make([]AccessRow, 0, len(found))
	for _, row := range found {
		slices.Sort(row.Permits)
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b AccessRow) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Action, b.Action))
	})
	return rows
}

// forbid takes away from a row what rules forbid.
func (row *AccessRow) forbid(forbids []*rule, resource string) {
	for _, r := range forbids {
		if r.actions != nil && !r.actions[row.Action] {
			continue
		}
		other := r.resource.object()
		if row.Object != "" && other != "" && row.Object != other {
			continue
		}
		row.Forbids = append(row.Forbids, r.ID)
		covers := r.resource.whole() && (other == "" || other == row.Object)
		switch {
		case r.bare && covers:
			row.Effect = AccessDeny
		case row.Effect == AccessAllow:
			row.Effect = AccessConditional
		}
	}
	slices.Sort(row.Forbids)
}

// about returns the rules for a principal that can be about a resource.
func (x ruleIndex) about(principal, resource string) []*rule {
	return slices.Concat(x[principal][""], x[principal][resource])
}

// object returns the one object that the scope is about, without its resource,
// or "".
func (s *resourceScope) object() string {
	if s.entity.Type != typeObject {
		return ""
	}
	_, object, _ := strings.Cut(string(s.entity.ID), "/")
	return object
}

// whole reports whether the scope takes in everything that it is about: objects
// and the resource itself.
func (s *resourceScope) whole() bool {
	return s.kind == "" && (s.op != "==" || s.entity.Type == typeObject)
}

// protocolHas reports whether an action is one of a protocol: "postgres:select"
// is, and an action without a prefix is one of all.
func protocolHas(protocol, action string) bool {
	prefix, _, has := strings.Cut(action, ":")
	return !has || prefix == protocol
}

func mapSlice[A, B any](s []A, f func(A) B) []B {
	out := make([]B, len(s))
	for i, v := range s {
		out[i] = f(v)
	}
	return out
}
