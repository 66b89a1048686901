package workpaper

import (
	"fmt"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const rightsTable = "upstream_rights"

// rights are what a cluster's RBAC lets agents and the gateway's account do.
type rights struct {
	account, prefix string
	groups          []string
	of              map[string][]string // what subjects that concern agents may do, in short
	beyond          map[string]string   // of them: the first that is more than reading
	loose           []string            // what the account may do beyond asking for some agents by name
	others          int                 // subjects that can reach the cluster without the gateway, and do more than read
}

// maxRights bounds what is told in a cell of one subject.
const maxRights = 20

func (f *Fold) importedRights(h *evidence.Head, b *evidence.ImportBody) error {
	list, ok := rows[evidence.RightRow](f, h, b)
	if !ok {
		return nil
	}
	f.tests.privileges.State, f.tests.privileges.Note = "", ""
	c := evidence.Cluster{}
	if r, known := f.registry.Resource(h.Resource); known && r.Cluster != nil {
		c = *r.Cluster
	}
	r := &rights{account: b.Params["account"], prefix: c.Prefix, groups: c.Groups, of: make(map[string][]string), beyond: make(map[string]string)}
	if r.account == "" {
		r.account = c.Account
	}
	strangers := make(map[string]bool)
	for i := range list {
		row := &list[i]
		flags := flagsOf(row)
		whose := r.whose(row)
		switch {
		case whose == whoseGateway && !onlyAgents(row):
			r.loose = append(r.loose, inShort(row))
		case whose == whoseAgents:
			r.take(row)
		case whose == "" && len(flags) > 0:
			strangers[row.Kind+" "+row.Subject] = true
		}
		if err := f.row(rightsTable, pos(h.Pos), h.Resource, row.Kind, row.Subject, whose, row.Namespace, join(row.Verbs), join(row.Resources), join(row.Names),
			join(row.Paths), join(flags), row.By); err != nil {
			return err
		}
	}
	f.outside.rules += uint64(len(list))
	r.loose = r.loose[:min(len(r.loose), maxRights)]
	r.others = len(strangers)
	if f.outside.accounts == nil {
		f.outside.accounts = make(map[string]*account)
	}
	f.outside.accounts[h.Resource] = &account{rights: r}
	return nil
}

// Whose a right is.
const (
	whoseGateway = "gateway" // of its own account
	whoseAgents  = "agents"  // of an agent, or of a group that agents are in
)

func (r *rights) whose(row *evidence.RightRow) string {
	switch row.Kind {
	case evidence.SubjectUser:
		if row.Subject == r.account {
			return whoseGateway
		}
		if r.prefix != "" && strings.HasPrefix(row.Subject, r.prefix) {
			return whoseAgents
		}
	case evidence.SubjectAccount:
		if "system:serviceaccount:"+strings.Replace(row.Subject, "/", ":", 1) == r.account {
			return whoseGateway
		}
	case evidence.SubjectGroup:
		if row.Subject == anyone || slices.Contains(r.groups, row.Subject) {
			return whoseAgents
		}
	}
	return ""
}

// onlyAgents reports whether a rule lets its subject ask for users and groups by
// name, tell of them what the gateway tells, or read roles, and nothing else.
func onlyAgents(row *evidence.RightRow) bool {
	if onlyReads(row) && len(row.Paths) == 0 && !slices.ContainsFunc(row.Resources, func(r string) bool { return !strings.HasSuffix(r, rbacGroup) }) {
		return true
	}
	if !slices.Equal(row.Verbs, []string{"impersonate"}) || len(row.Paths) > 0 {
		return false
	}
	return len(row.Names) > 0 || !slices.ContainsFunc(row.Resources, func(r string) bool { return !strings.HasPrefix(r, "userextras.authentication.k8s.io/exhibit-") })
}

func (r *rights) take(row *evidence.RightRow) {
	subject, text := row.Kind+" "+row.Subject, inShort(row)
	if slices.Contains(r.of[subject], text) {
		return
	}
	if r.beyond[subject] == "" && !onlyReads(row) {
		r.beyond[subject] = text
	}
	if n := len(r.of[subject]); n < maxRights {
		r.of[subject] = append(r.of[subject], text)
	} else if n == maxRights {
		r.of[subject] = append(r.of[subject], "and more")
	}
}

// inShort is a rule in a few words.
func inShort(row *evidence.RightRow) string {
	t := strings.Join(row.Verbs, ",") + " " + strings.Join(slices.Concat(row.Resources, row.Paths), ",")
	if len(row.Names) > 0 {
		t += " named " + strings.Join(row.Names[:min(len(row.Names), 5)], ",")
	}
	if row.Namespace != "" {
		t += " in " + row.Namespace
	}
	if len(t) > 300 {
		t = strings.ToValidUTF8(t[:300], "") + "..."
	}
	return t
}

// subjects are those that the cluster takes an agent for.
func (r *rights) subjects(agent string) []string {
	list := []string{evidence.SubjectUser + " " + r.prefix + agent}
	for _, g := range r.groups {
		list = append(list, evidence.SubjectGroup+" "+g)
	}
	return append(list, evidence.SubjectGroup+" "+anyone)
}

func (r *rights) cells(agent string) (role, privileges string) {
	var list []string
	for _, s := range r.subjects(agent) {
		list = append(list, r.of[s]...)
	}
	return r.prefix + agent, strings.Join(list, "; ")
}

// test looks for an agent whom the cluster lets do more than policy, and for an
// account that can do more than ask for agents.
func (r *rights) test(f *Fold, agent, resource string, mayWrite bool) {
	t := &f.tests.privileges
	if len(r.loose) > 0 {
		t.Except(f.last, "agent %s reaches %s through the account %.100s, which may itself %.300s", agent, resource, r.account, r.loose[0])
	}
	if r.others > 0 {
		t.Note = fmt.Sprintf("%d subjects of clusters can do more than read without the gateway: upstream_rights has them", r.others)
	}
	if mayWrite {
		return
	}
	for _, s := range r.subjects(agent) {
		if text := r.beyond[s]; text != "" {
			t.Except(f.last, "agent %s may only read %s, and the cluster lets it, as %.200s, %.300s", agent, resource, s, text)
			return
		}
	}
}

// selfReviews are what anybody may ask of themselves.
var selfReviews = []string{"selfsubjectaccessreviews.authorization.k8s.io", "selfsubjectrulesreviews.authorization.k8s.io", "selfsubjectreviews.authentication.k8s.io"}

func reviewsOnly(row *evidence.RightRow) bool {
	return len(row.Resources) > 0 && !slices.ContainsFunc(row.Resources, func(r string) bool { return !slices.Contains(selfReviews, r) })
}

// onlyReads reports whether a rule lets its subject read what is no secret, and
// nothing else.
func onlyReads(row *evidence.RightRow) bool {
	reading := !slices.ContainsFunc(row.Verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" && v != "head" })
	return reviewsOnly(row) || reading && len(flagsOf(row)) == 0
}

// covers reports whether a resource of a rule, kind.group/subresource with * for
// any, is or includes another.
func covers(have, want string) bool {
	kind, group, sub := partsOf(have)
	k, g, s := partsOf(want)
	switch {
	case group != "*" && group != g:
		return false
	case kind == "*" && sub == "":
		return true
	}
	return (kind == "*" || kind == k) && (sub == s || sub == "*" && s != "")
}

func partsOf(resource string) (kind, group, sub string) {
	resource, sub, _ = strings.Cut(resource, "/")
	kind, group, _ = strings.Cut(resource, ".")
	return kind, group, sub
}

const rbacGroup = ".rbac.authorization.k8s.io"

// flagsOf are the reasons to look at a rule: what gives more than its verb says,
// and writing.
func flagsOf(row *evidence.RightRow) (flags []string) {
	verb := func(names ...string) bool {
		return slices.ContainsFunc(row.Verbs, func(v string) bool { return v == "*" || slices.Contains(names, v) })
	}
	resource := func(names ...string) bool {
		return slices.ContainsFunc(row.Resources, func(r string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return covers(r, n) })
		})
	}
	for _, f := range []struct {
		flag string
		yes  bool
	}{
		{"wildcard", slices.Contains(row.Verbs, "*") && (slices.Contains(row.Resources, "*.*") || slices.Contains(row.Paths, "*"))},
		{"escalate", verb("escalate") && resource("roles"+rbacGroup, "clusterroles"+rbacGroup)},
		{"bind", verb("bind") && resource("roles"+rbacGroup, "clusterroles"+rbacGroup)},
		{"impersonate", verb("impersonate") && resource("users", "groups", "serviceaccounts", "uids.authentication.k8s.io", "userextras.authentication.k8s.io")},
		{"secrets", verb("get", "list", "watch") && resource("secrets")},
		{"exec", verb("create", "get") && resource("pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy") || verb("update", "patch") && resource("pods/ephemeralcontainers")},
		{"token", verb("create") && resource("serviceaccounts/token")},
		{"write", len(row.Resources) > 0 && verb("create", "update", "patch", "delete", "deletecollection") && !reviewsOnly(row)},
	} {
		if f.yes {
			flags = append(flags, f.flag)
		}
	}
	return flags
}
