package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Check holds the rules of files that compile against the schema of a
// vocabulary: names and types of attributes, and that what may be absent is
// asked for first. Its error joins a *decision.LoadError for each thing wrong.
//
// A misspelt attribute is no error of Cedar's: `context has tiket` is false of
// every command, and a forbid with it forbids nothing.
func Check(files []evidence.File, v Vocabulary) error {
	c := &checker{v: v}
	for _, f := range files {
		list, err := cedar.NewPolicyListFromBytes(f.Name, []byte(f.Text))
		if err != nil {
			return fmt.Errorf("reading %s: %w", f.Name, err)
		}
		for _, p := range list {
			c.names(f, p)
		}
	}
	if len(c.errs) == 0 {
		c.types()
	}
	return errors.Join(c.errs...)
}

// checker collects what is wrong.
type checker struct {
	v      Vocabulary
	labels map[string]bool
	rules  []ruleDoc
	errs   []error
}

// ruleDoc is a rule as Check sees it.
type ruleDoc struct {
	file     evidence.File
	policy   *cedar.Policy
	pointers []string
	said     string // the last thing wrong
}

// policyDoc is the part of Cedar's JSON form of a policy that names are looked
// for in. https://docs.cedarpolicy.com/policies/json-format.html
type policyDoc struct {
	Action     scopeDoc `json:"action"`
	Conditions []struct {
		Body any `json:"body"`
	} `json:"conditions"`
}

type scopeDoc struct {
	Op       string      `json:"op"`
	Entity   *entityDoc  `json:"entity"`
	Entities []entityDoc `json:"entities"`
}

type entityDoc struct{ Type, ID string }

func (s *scopeDoc) all() bool { return s.Op == "All" }

func (s *scopeDoc) names(action string) bool {
	return s.Entity != nil && s.Entity.ID == action ||
		slices.ContainsFunc(s.Entities, func(e entityDoc) bool { return e.ID == action })
}

// bad reports something about a rule, at the first place in its text that
// mentions what, or at its beginning.
func (c *checker) bad(r *ruleDoc, what, hint, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == r.said {
		return // of the same name, a second time
	}
	r.said = text
	at := r.policy.Position()
	e := &decision.LoadError{File: r.file.Name, Line: at.Line, Column: at.Column,
		Rule: string(r.policy.Annotations()["id"]), Text: text, Hint: hint}
	if what != "" {
		e.Line, e.Column = mention(r.file.Text, at.Offset, what, at.Line, at.Column)
	}
	c.errs = append(c.errs, e)
}

// mention finds a name in a text from an offset on, and says at which line and
// column; where it finds none, at those given.
func mention(text string, from int, name string, line, column int) (int, int) {
	if from > len(text) {
		return line, column
	}
	pattern := regexp.QuoteMeta(name)
	if !strings.HasPrefix(name, "/") {
		pattern = `\b` + pattern + `\b`
	}
	found := regexp.MustCompile(`(?:\.\s*|\bhas\s+|\[\s*"|\bhas\s+")(` + pattern + `)`).FindStringSubmatchIndex(text[from:])
	if found == nil {
		return line, column
	}
	before := text[:from+found[2]]
	return strings.Count(before, "\n") + 1, len(before) - strings.LastIndexByte(before, '\n')
}

// names looks at every attribute that a rule names.
func (c *checker) names(f evidence.File, p *cedar.Policy) {
	r := ruleDoc{file: f, policy: p}
	var doc policyDoc
	b, err := p.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(b, &doc)
	}
	if err != nil {
		c.bad(&r, "", "", "cannot be checked: %v", err)
		return
	}
	actions := c.v.under(&doc.Action)
	for _, cond := range doc.Conditions {
		c.visit(&r, actions, cond.Body)
	}
	c.rules = append(c.rules, r)
}

// visit walks an expression in Cedar's JSON form.
func (c *checker) visit(r *ruleDoc, actions []string, node any) {
	switch n := node.(type) {
	case []any:
		for _, e := range n {
			c.visit(r, actions, e)
		}
	case map[string]any:
		for _, op := range slices.Sorted(maps.Keys(n)) {
			if op == "Value" {
				continue
			}
			if operands, ok := n[op].(map[string]any); ok && (op == "." || op == "has") {
				if attr, ok := operands["attr"].(string); ok {
					c.attribute(r, actions, operands["left"], attr)
				}
			}
			if is, ok := n[op].(map[string]any); ok && op == "is" && !slices.Contains(entityTypes, fmt.Sprint(is["entity_type"])) {
				c.bad(r, "", "there are "+strings.Join(entityTypes, ", "), "nothing is %s", is["entity_type"])
			}
			c.visit(r, actions, n[op])
		}
	}
}

// attribute looks at one name of an attribute.
func (c *checker) attribute(r *ruleDoc, actions []string, left any, attr string) {
	path := pathOf(left)
	var names []string
	switch path {
	case "principal":
		names = known(principalAttributes)
	case "resource":
		names = append(known(resourceAttributes, objectAttributes), labels)
	case "resource." + labels:
		if c.labels == nil {
			c.labels = make(map[string]bool)
		}
		c.labels[attr] = true
		return
	case "context." + clockFact:
		names = known(clockAttributes)
	case "context":
		all := []map[string]string{sessionFacts}
		pointed := false
		for _, a := range actions {
			all, pointed = append(all, c.v.facts(a)), pointed || c.v.pointed(a)
		}
		if strings.HasPrefix(attr, "/") && pointed {
			if !slices.Contains(r.pointers, attr) {
				r.pointers = append(r.pointers, attr)
			}
			return
		}
		names = append(known(all...), clockFact)
	default:
		return // of an entity or a record of its own: the types say
	}
	if slices.Contains(names, attr) {
		return
	}
	hint := "there are " + strings.Join(names, ", ")
	if like := nearest(attr, names); like != "" {
		hint = fmt.Sprintf("did you mean %s.%s?", path, like)
	}
	what := "no command that the rule is about"
	switch path {
	case "principal":
		what = "no agent"
	case "resource":
		what = "no resource"
	case "context." + clockFact:
		what = "no time"
	}
	c.bad(r, attr, hint, "%s has %s.%s", what, path, attr)
}

// pathOf is an expression as it is written, when it is a variable or attributes
// of one.
func pathOf(node any) string {
	n, ok := node.(map[string]any)
	if !ok {
		return ""
	}
	if v, ok := n["Var"].(string); ok {
		return v
	}
	if dot, ok := n["."].(map[string]any); ok {
		if left, attr := pathOf(dot["left"]), fmt.Sprint(dot["attr"]); left != "" {
			return left + "." + attr
		}
	}
	return ""
}

// nearest is the name that somebody who wrote another may have meant, or "".
func nearest(name string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := distance(name, n); d < least && d < len(n) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many letters it takes to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// pointerTypes are what a JSON pointer can find; most are texts.
var pointerTypes = []string{"String", "Long", "Bool", "Set<String>", "Set<Long>"}

// maxPointers bounds how many pointers of one rule are given types: each brings
// all types to all others. Of a rule with more only the names are checked.
const maxPointers = 3

// types lets Cedar's own validator type-check the rules.
func (c *checker) types() {
	names := slices.Sorted(maps.Keys(c.labels))
	plain, err := c.validator(open{labels: names})
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	for i := range c.rules {
		r := &c.rules[i]
		switch n := len(r.pointers); {
		case n == 0:
			c.complain(r, plain.Policy("", (*ast.Policy)(r.policy.AST())))
		case n <= maxPointers:
			c.complain(r, c.pointed(r, open{labels: names, pointers: make(map[string]string)}, r.pointers))
		}
	}
}

// pointed gives types to the pointers of a rule, which only its services know:
// it is well typed when it is with some. Its error is the shortest.
func (c *checker) pointed(r *ruleDoc, o open, pointers []string) (least error) {
	if len(pointers) == 0 {
		v, err := c.validator(o)
		if err != nil {
			return err
		}
		return v.Policy("", (*ast.Policy)(r.policy.AST()))
	}
	for _, kind := range pointerTypes {
		o.pointers[pointers[0]] = kind
		err := c.pointed(r, o, pointers[1:])
		if err == nil {
			return nil
		}
		if least == nil || strings.Count(err.Error(), "\n") < strings.Count(least.Error(), "\n") {
			least = err
		}
	}
	return least
}

func (c *checker) validator(o open) (*validate.Validator, error) {
	s, err := c.v.schema(o).Resolve()
	if err != nil {
		return nil, fmt.Errorf("making the schema: %w", err)
	}
	return validate.New(s), nil
}

// attributed finds the attribute that the validator speaks of.
var attributed = regexp.MustCompile("attribute `([^`]*)`")

// complain reports what the validator said of a rule, once: it looks at each
// kind of command by itself, and says the same of many.
func (c *checker) complain(r *ruleDoc, err error) {
	if err == nil {
		return
	}
	texts := strings.Split(err.Error(), "\n")
	slices.Sort(texts)
	seen := make(map[string]bool)
	for _, text := range texts {
		what, hint := "", "Cedar's types are String, Long, Bool, sets and entities; `exhibit policy schema` shows which is which"
		if m := attributed.FindStringSubmatch(text); m != nil {
			what = m[1][strings.LastIndexByte(m[1], '.')+1:]
			text, hint = fmt.Sprintf("%s may be absent, and then the rule fails", what), fmt.Sprintf("ask `has %s` first", what)
			if strings.HasPrefix(what, "/") {
				hint = fmt.Sprintf("ask `context has %q` first", what)
			}
		}
		if text != "" && !seen[text] {
			seen[text] = true
			c.bad(r, what, hint, "%s", text)
		}
	}
}
