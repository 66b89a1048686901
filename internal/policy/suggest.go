package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/rogpeppe/go-internal/diff"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Used are the actions on objects that an agent used.
type Used struct {
	Agent    string
	Commands uint64
	More     bool // there were more different ones than are told apart

	pairs map[Pair]uint64
}

// Pair is an action on an object of a resource, "" for the resource itself.
type Pair struct{ Resource, Action, Object string }

// maxPairs bounds how many pairs are told apart. Agents choose what they ask.
const maxPairs = 10_000

// Add counts an allowed command.
func (u *Used) Add(resource string, checks []evidence.Check) {
	if u.pairs == nil {
		u.pairs = make(map[Pair]uint64)
	}
	u.Commands++
	for _, c := range checks {
		p := Pair{resource, c.Action, c.Object}
		if _, known := u.pairs[p]; !known && len(u.pairs) >= maxPairs {
			u.More = true
			continue
		}
		u.pairs[p]++
	}
}

// Pairs are what was used, in order, with the number of commands.
func (u *Used) Pairs() (list []Pair, commands []uint64) {
	for p := range u.pairs {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Action, b.Action))
	})
	for _, p := range list {
		commands = append(commands, u.pairs[p])
	}
	return list, commands
}

// Cedar returns rules that allow what was used and nothing else: a role for each
// resource, and a rule for the objects that were used alike.
func (u *Used) Cedar() string {
	pairs, _ := u.Pairs()
	var b strings.Builder
	for len(pairs) > 0 {
		resource := pairs[0].Resource
		n := slices.IndexFunc(pairs, func(p Pair) bool { return p.Resource != resource })
		if n < 0 {
			n = len(pairs)
		}
		u.role(&b, resource, pairs[:n])
		pairs = pairs[n:]
	}
	return b.String()
}

func (u *Used) role(b *strings.Builder, resource string, pairs []Pair) {
	role := u.Agent + "-" + resource
	if !evidence.ValidName("suggested-" + role + "-00000") {
		role = "suggested"
	}
	actions := make(map[string][]string) // of an object
	for _, p := range pairs {
		actions[p.Object] = append(actions[p.Object], p.Action)
	}
	objects := make(map[string][]string) // that are used alike
	var order []string
	for _, p := range pairs {
		key := strings.Join(actions[p.Object], " ")
		if p.Object == "" {
			key = "" // the resource itself stands apart
		}
		if objects[key] == nil {
			order = append(order, key)
		}
		if !slices.Contains(objects[key], p.Object) {
			objects[key] = append(objects[key], p.Object)
		}
	}
	for i, key := range order {
		of := objects[key]
		fmt.Fprintf(b, "@id(%s)\npermit (\n  principal in Role::%s,\n  action in [%s],\n", quote(fmt.Sprintf("suggested-%s-%d", role, i+1)), quote(role),
			join("Action::", actions[of[0]], "", ", "))
		switch {
		case key == "":
			fmt.Fprintf(b, "  resource == Resource::%s\n);\n\n", quote(resource))
		case len(of) == 1:
			fmt.Fprintf(b, "  resource == Object::%s\n);\n\n", quote(resource+"/"+of[0]))
		default:
			fmt.Fprintf(b, "  resource is Object\n)\nwhen {\n  resource in [\n    %s\n  ]\n};\n\n", join("Object::", of, resource+"/", ",\n    "))
		}
	}
}

func join(kind string, ids []string, prefix, sep string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = kind + quote(prefix+id)
	}
	return strings.Join(list, sep)
}

// quote writes a text as Cedar does: names are what agents wrote.
func quote(s string) string { return string(types.String(s).MarshalCedar()) }

// Diff returns how the rules differ from those that roles have, as a unified
// diff.
func (u *Used) Diff(p *decision.Policy, roles []string) string {
	var has strings.Builder
	for _, r := range p.Rules() {
		if r.Effect == "permit" && slices.Contains(roles, r.Role) {
			has.WriteString(r.Text + "\n\n")
		}
	}
	return string(diff.Diff("has", []byte(has.String()), "used", []byte(u.Cedar())))
}
