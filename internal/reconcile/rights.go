package reconcile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// rbacObject is a role or a binding, as the API writes it.
type rbacObject struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Rules    []rbacRule `json:"rules"` // of an aggregated role those that the server put together
	RoleRef  rbacName   `json:"roleRef"`
	Subjects []rbacName `json:"subjects"`
}

type rbacRule struct {
	Verbs     []string `json:"verbs"`
	Groups    []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Names     []string `json:"resourceNames"`
	Paths     []string `json:"nonResourceURLs"`
}

type rbacName struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// Rights reads who may do what in a cluster: a list of its ClusterRoles, Roles,
// ClusterRoleBindings and RoleBindings, as kubectl get -o json writes it. Each
// rule stands in the import once for each subject that it is bound to; roles that
// are bound to nobody give nobody anything. Account is the gateway's, "" where it
// isn't known.
func Rights(in Input, account string) (evidence.ImportBody, error) {
	var list struct {
		Kind  string            `json:"kind"`
		Items items[rbacObject] `json:"items"`
	}
	if err := decode(in.Data, &list); err != nil {
		return evidence.ImportBody{}, err
	}
	if list.Kind != "List" {
		return evidence.ImportBody{}, at(1, 1, "a %.40q, want a List: kubectl get clusterroles,roles,clusterrolebindings,rolebindings -A -o json", list.Kind)
	}
	if err := list.Items.check(in.Data); err != nil {
		return evidence.ImportBody{}, err
	}
	roles := make(map[rbacName][]rbacRule)
	var bindings []*rbacObject
	for i := range list.Items {
		o := &list.Items[i].value
		switch o.Kind {
		case "ClusterRole", "Role":
			roles[rbacName{o.Kind, o.Metadata.Name, o.Metadata.Namespace}] = o.Rules
		case "ClusterRoleBinding", "RoleBinding":
			bindings = append(bindings, o)
		default:
			return evidence.ImportBody{}, fmt.Errorf("%w: item %d is a %.40q, want roles and bindings", ErrInput, i+1, o.Kind)
		}
	}
	if len(roles) == 0 || len(bindings) == 0 {
		return evidence.ImportBody{}, fmt.Errorf("%w: %d roles and %d bindings: a cluster has some of both", ErrInput, len(roles), len(bindings))
	}
	var rows []evidence.RightRow
	for _, b := range bindings {
		role := b.RoleRef
		if role.Kind == "Role" {
			role.Namespace = b.Metadata.Namespace
		}
		by := short(b.Kind + "/" + b.Metadata.Name + " " + role.Kind + "/" + role.Name)
		for _, s := range b.Subjects {
			for _, rule := range roles[role] {
				row := rule.row(b.Metadata.Namespace)
				if row.Kind, row.Subject, row.By = s.Kind, short(s.Name), by; s.Kind == evidence.SubjectAccount {
					row.Subject = short(s.Namespace + "/" + s.Name)
				}
				if len(row.Resources)+len(row.Paths) > 0 {
					rows = append(rows, row)
				}
			}
			if len(rows) > maxRows {
				return evidence.ImportBody{}, fmt.Errorf("%w: more than %d rules of subjects", ErrInput, maxRows)
			}
		}
	}
	if account != "" {
		in.Params = map[string]string{"account": account}
	}
	b, err := body(evidence.ImportRights, in, len(list.Items), rows)
	b.Kept = len(rows)
	return b, err
}

// row is a rule in a namespace, "" is everywhere. In a namespace paths beside the
// API count for nothing.
func (r *rbacRule) row(namespace string) evidence.RightRow {
	row := evidence.RightRow{Namespace: short(namespace), Verbs: sorted(r.Verbs), Names: sorted(r.Names)}
	for _, group := range r.Groups {
		for _, resource := range r.Resources {
			kind, sub, nested := strings.Cut(resource, "/")
			if group != "" {
				kind += "." + group
			}
			if nested {
				kind += "/" + sub
			}
			row.Resources = append(row.Resources, kind)
		}
	}
	row.Resources = sorted(row.Resources)
	if namespace == "" {
		row.Paths = sorted(r.Paths)
	}
	return row
}

func sorted(list []string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, short(s))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
