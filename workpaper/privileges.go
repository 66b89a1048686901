package workpaper

import (
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// account is what the gateway's account at an upstream may do there by itself.
type account struct {
	role    string
	itself  []string            // attributes, and roles that it is a member of, as role:member
	objects map[string][]string // privileges by object
	most    []string            // those of any object
	writes  []string            // objects that it owns or can write, in order
	rights  *rights             // of a cluster, in place of all that
}

func (f *Fold) importedPrivileges(h *evidence.Head, b *evidence.ImportBody) {
	list, ok := rows[evidence.PrivilegeRow](f, h, b)
	if !ok {
		return
	}
	f.tests.privileges.State, f.tests.privileges.Note = "", ""
	a := &account{role: b.Params["role"], objects: make(map[string][]string, len(list))}
	add := func(to *[]string, v string) {
		if !slices.Contains(*to, v) {
			*to = append(*to, v)
		}
	}
	for _, r := range list {
		if r.Object == "" {
			for _, p := range r.Privileges {
				if r.Role != a.role {
					p = r.Role + ":" + p
				}
				add(&a.itself, p)
			}
			continue
		}
		a.objects[r.Object] = r.Privileges
		for _, p := range r.Privileges {
			add(&a.most, p)
		}
		if slices.ContainsFunc(r.Privileges, func(p string) bool { return p != "select" }) {
			a.writes = append(a.writes, r.Object)
		}
	}
	slices.SortFunc(a.most, func(x, y string) int { return slices.Index(privilegeOrder, x) - slices.Index(privilegeOrder, y) })
	if f.outside.accounts == nil {
		f.outside.accounts = make(map[string]*account)
	}
	f.outside.accounts[h.Resource] = a
}

// privilegeOrder is in which order a listing names them.
var privilegeOrder = []string{"owner", "select", "insert", "update", "delete", "truncate"}

// policyOnly stands in a listing where nobody asked an upstream.
const policyOnly = "gateway policy only"

// cells are the upstream's role and privileges on an object, or on all, as an
// agent has them.
func (a *account) cells(agent, object string) (role, privileges string) {
	switch {
	case a == nil:
		return "", policyOnly
	case a.rights != nil:
		return a.rights.cells(agent)
	}
	list := slices.Clone(a.itself)
	if object != "" {
		list = append(list, a.objects[object]...)
	} else {
		list = append(list, a.most...)
	}
	return a.role, strings.Join(list, " ")
}

// superuser reports whether the account may do anything, by itself or by a role
// that it is a member of.
func (a *account) superuser() bool {
	return slices.ContainsFunc(a.itself, func(p string) bool { return p == "superuser" || strings.HasSuffix(p, ":superuser") })
}

// testPrivileges looks for agents that may only read by policy, through accounts
// that can do more.
func (f *Fold) testPrivileges() {
	type pair struct{ agent, resource string }
	may := make(map[pair]bool) // to whether it is more than reading
	var order []pair
	bundle, _ := f.registry.Bundle()
	for _, row := range f.registry.Access(f.lastTime) {
		p := pair{row.Agent, row.Resource}
		if f.outside.accounts[row.Resource] == nil || row.Effect == decision.AccessDeny {
			continue
		}
		if _, seen := may[p]; !seen {
			order = append(order, p)
		}
		may[p] = may[p] || !reads(bundle.Actions, row.Action)
	}
	for _, p := range order {
		a := f.outside.accounts[p.resource]
		f.tests.privileges.Population++
		switch {
		case a.rights != nil:
			a.rights.test(f, p.agent, p.resource, may[p])
		case may[p]:
		case a.superuser():
			f.tests.privileges.Except(f.last, "agent %s may only read %s, and the account %.100s there is a superuser or a member of one", p.agent, p.resource, a.role)
		case len(a.writes) > 0:
			f.tests.privileges.Except(f.last, "agent %s may only read %s, and the account %.100s there owns or can write %d objects, among them %.200s", p.agent, p.resource, a.role, len(a.writes), a.writes[0])
		}
	}
}

// reads reports whether an action changes nothing: it stands in read, connect or
// session of the tree of actions, and in nothing more.
func reads(tree map[string][]string, action string) bool {
	classes := append([]string{action}, tree[action]...)
	weak := []string{evidence.VerbRead, evidence.VerbConnect, evidence.VerbSession}
	strong := []string{evidence.VerbWrite, evidence.VerbAdmin, evidence.VerbOpaque}
	return slices.ContainsFunc(classes, func(c string) bool { return slices.Contains(weak, c) }) &&
		!slices.ContainsFunc(classes, func(c string) bool { return slices.Contains(strong, c) })
}
