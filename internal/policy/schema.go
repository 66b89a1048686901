package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/ast"
)

// Vocabulary is what rules can speak of.
type Vocabulary struct {
	// Actions maps each action, like "postgres:select", to those that it stands in.
	Actions map[string][]string
	// Facts are, by protocol, the facts that its commands may state, with their
	// Cedar types: "String", "Long", "Bool" or "Set<String>".
	Facts map[string]map[string]string
	// Pointers are the protocols whose commands may also state what a resource's
	// match finds, under names that begin with a slash.
	Pointers []string
}

// sessionFacts are those that every command has, from its session
// (session.Facts).
var sessionFacts = map[string]string{
	"protocol": "String", "ticket": "String", "principal": "String", "principal_type": "String", "tls": "Bool",
}

// The attributes of what rules are about. Those marked with a question mark may
// be absent.
var (
	principalAttributes = map[string]string{"owner": "String", "env?": "String", "team?": "String"}
	resourceAttributes  = map[string]string{"protocol": "String"} // and labels
	objectAttributes    = map[string]string{"protocol": "String", "name": "String", "schema?": "String"}
	clockAttributes     = map[string]string{"hour": "Long", "weekday": "Long"}
)

var entityTypes = []string{"Action", "Agent", "Object", "Resource", "Role"}

// The names that schema and rules share.
const (
	clockFact   = "time"
	labels      = "labels"
	connectOnly = ":connect" // ends the actions that have the session's facts only
)

// open is what a bundle brings into its schema: it can ask for labels and
// pointers that only the configuration knows.
type open struct {
	labels   []string
	pointers map[string]string // name to type
}

// Schema returns the Cedar schema of a vocabulary. The labels of resources are
// those that the configuration has.
func (v Vocabulary) Schema(labels []string) (string, error) {
	text, err := v.schema(open{labels: labels}).MarshalCedar()
	if err != nil {
		return "", fmt.Errorf("writing the schema: %w", err)
	}
	return string(text), nil
}

func (v Vocabulary) schema(o open) *schema.Schema {
	labelled := make(ast.RecordType, len(o.labels))
	for _, name := range o.labels {
		labelled[types.String(name)] = ast.Attribute{Type: ast.String(), Optional: true}
	}
	of := func(attributes map[string]string) ast.RecordType {
		r := record(attributes)
		r[labels] = ast.Attribute{Type: labelled}
		return r
	}
	s := &ast.Schema{
		Entities: ast.Entities{
			"Role":     {},
			"Agent":    {ParentTypes: []ast.EntityTypeRef{"Role"}, Shape: record(principalAttributes)},
			"Resource": {Shape: of(resourceAttributes)},
			"Object":   {ParentTypes: []ast.EntityTypeRef{"Resource"}, Shape: of(objectAttributes)},
		},
		Actions: make(ast.Actions),
	}
	for action, in := range v.Actions {
		a := ast.Action{AppliesTo: &ast.AppliesTo{
			Principals: []ast.EntityTypeRef{"Agent"}, Resources: []ast.EntityTypeRef{"Object", "Resource"},
			Context: v.context(action, o),
		}}
		for _, class := range in {
			a.Parents = append(a.Parents, ast.ParentRefFromID(types.String(class)))
			if _, is := s.Actions[types.String(class)]; !is {
				s.Actions[types.String(class)] = ast.Action{}
			}
		}
		s.Actions[types.String(action)] = a
	}
	return schema.NewSchemaFromAST(s)
}

// context is what commands with an action state.
func (v Vocabulary) context(action string, o open) ast.RecordType {
	c := record(sessionFacts)
	c[clockFact] = ast.Attribute{Type: record(clockAttributes)}
	for name, kind := range v.facts(action) {
		c[types.String(name)] = ast.Attribute{Type: cedarType(kind), Optional: true}
	}
	if v.pointed(action) {
		for name, kind := range o.pointers {
			c[types.String(name)] = ast.Attribute{Type: cedarType(kind), Optional: true}
		}
	}
	return c
}

// facts are those of an action's protocol.
func (v Vocabulary) facts(action string) map[string]string {
	protocol, _, _ := strings.Cut(action, ":")
	if strings.HasSuffix(action, connectOnly) {
		return nil
	}
	return v.Facts[protocol]
}

func (v Vocabulary) pointed(action string) bool {
	protocol, _, _ := strings.Cut(action, ":")
	return !strings.HasSuffix(action, connectOnly) && slices.Contains(v.Pointers, protocol)
}

// under are the actions that a scope matches which names some, or all when it
// names none.
func (v Vocabulary) under(scope *scopeDoc) (list []string) {
	for action := range v.Actions {
		if scope.all() || scope.names(action) || scope.Op == "in" && slices.ContainsFunc(v.above(action), scope.names) {
			list = append(list, action)
		}
	}
	return list
}

// above are all that an action stands in.
func (v Vocabulary) above(action string) (list []string) {
	for _, up := range v.Actions[action] {
		list = append(append(list, up), v.above(up)...)
	}
	return list
}

// record is a record type of attributes.
func record(attributes map[string]string) ast.RecordType {
	r := make(ast.RecordType, len(attributes)+1)
	for name, kind := range attributes {
		plain, optional := strings.CutSuffix(name, "?")
		r[types.String(plain)] = ast.Attribute{Type: cedarType(kind), Optional: optional}
	}
	return r
}

func cedarType(kind string) ast.IsType {
	switch kind {
	case "Long":
		return ast.Long()
	case "Bool":
		return ast.Bool()
	case "Set<String>":
		return ast.Set(ast.String())
	case "Set<Long>":
		return ast.Set(ast.Long())
	}
	return ast.String()
}

// known are the names of attributes, sorted.
func known(attributes ...map[string]string) (names []string) {
	for _, m := range attributes {
		for name := range maps.Keys(m) {
			names = append(names, strings.TrimSuffix(name, "?"))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
