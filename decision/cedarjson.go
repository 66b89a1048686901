package decision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
)

// policyDoc is the part of Cedar's documented JSON form of a policy that
// loading looks at. The form is a public standard, which the library's syntax
// tree is not.
// https://docs.cedarpolicy.com/policies/json-format.html
type policyDoc struct {
	Principal  scopeDoc `json:"principal"`
	Action     scopeDoc `json:"action"`
	Resource   scopeDoc `json:"resource"`
	Conditions []struct {
		Kind string          `json:"kind"`
		Body json.RawMessage `json:"body"`
	} `json:"conditions"`
}

type scopeDoc struct {
	Op         string      `json:"op"` // "All", "==", "in" or "is"
	Entity     *entityDoc  `json:"entity"`
	Entities   []entityDoc `json:"entities"`
	EntityType string      `json:"entity_type"`
	In         *struct {
		Entity *entityDoc `json:"entity"`
	} `json:"in"`
}

type entityDoc struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

func (s *scopeDoc) entity() *entityDoc {
	if s.In != nil {
		return s.In.Entity
	}
	return s.Entity
}

func readPolicy(p *cedar.Policy) (doc policyDoc, err error) {
	b, err := p.MarshalJSON()
	if err != nil {
		return doc, fmt.Errorf("reading the policy: %w", err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, fmt.Errorf("reading the policy: %w", err)
	}
	return doc, nil
}

// walk visits an expression. It calls entity, unless nil, for every entity
// named in it, and refuses what it doesn't know and every "in" whose left side
// is not principal, action or resource: only those carry all their ancestors,
// so anything else would be false where full Cedar says true.
func walk(node json.RawMessage, entity func(entityDoc)) error {
	var one map[string]json.RawMessage
	if err := json.Unmarshal(node, &one); err != nil || len(one) != 1 {
		return errors.New("an expression is not of a known form")
	}
	for op, arg := range one {
		switch op {
		case "Var":
			return nil
		case "Value":
			walkValue(arg, entity)
			return nil
		case "Set":
			return walkList(arg, entity)
		case "Record":
			return walkMap(arg, entity)
		}
		if arg = bytes.TrimSpace(arg); len(arg) > 0 && arg[0] == '[' { // a function: {"ip": [...]}
			return walkList(arg, entity)
		}
		return walkOperator(op, arg, entity)
	}
	return nil
}

func walkOperator(op string, arg json.RawMessage, entity func(entityDoc)) error {
	var operands map[string]json.RawMessage
	if err := json.Unmarshal(arg, &operands); err != nil {
		return fmt.Errorf("operator %q is not of a known form", op)
	}
	_, isIn := operands["in"]
	if (op == "in" || op == "is" && isIn) && !isVariable(operands["left"]) {
		return errors.New(`the left side of an "in" is not principal, action or resource`)
	}
	for name, operand := range operands {
		switch name {
		case "left", "right", "arg", "if", "then", "else", "in":
			if err := walk(operand, entity); err != nil {
				return err
			}
		case "attr", "pattern", "entity_type":
		default:
			return fmt.Errorf("operator %q has an operand %q that is not known", op, name)
		}
	}
	return nil
}

func walkList(arg json.RawMessage, entity func(entityDoc)) error {
	var list []json.RawMessage
	if err := json.Unmarshal(arg, &list); err != nil {
		return errors.New("a list is not of a known form")
	}
	for _, e := range list {
		if err := walk(e, entity); err != nil {
			return err
		}
	}
	return nil
}

func walkMap(arg json.RawMessage, entity func(entityDoc)) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(arg, &m); err != nil {
		return errors.New("a record is not of a known form")
	}
	for _, e := range m {
		if err := walk(e, entity); err != nil {
			return err
		}
	}
	return nil
}

// walkValue finds entities in a literal, which may be a set or record of them.
func walkValue(arg json.RawMessage, entity func(entityDoc)) {
	if entity == nil {
		return
	}
	var one struct {
		Entity *entityDoc `json:"__entity"`
	}
	if json.Unmarshal(arg, &one) == nil && one.Entity != nil {
		entity(*one.Entity)
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(arg, &list) == nil {
		for _, e := range list {
			walkValue(e, entity)
		}
		return
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(arg, &m) == nil {
		for _, e := range m {
			walkValue(e, entity)
		}
	}
}

// readsClock reports whether an expression looks at context.time, or at the
// context as a whole.
func readsClock(node any) bool {
	switch n := node.(type) {
	case []any:
		return slices.ContainsFunc(n, readsClock)
	case map[string]any:
		for op, arg := range n {
			switch {
			case op == "Value": // a literal
				continue
			case op == "Var":
				return arg == "context"
			}
			if operands, ok := arg.(map[string]any); ok && (op == "." || op == "has") && isContext(operands["left"]) {
				if operands["attr"] == clockFact {
					return true
				}
				continue
			}
			if readsClock(arg) {
				return true
			}
		}
	}
	return false
}

func isContext(node any) bool {
	v, ok := node.(map[string]any)
	return ok && v["Var"] == "context"
}

func isVariable(node json.RawMessage) bool {
	var one struct{ Var string }
	return json.Unmarshal(node, &one) == nil && (one.Var == "principal" || one.Var == "action" || one.Var == "resource")
}
