package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// The types of entity that policies may name.
const (
	typeAgent    = "Agent"
	typeRole     = "Role"
	typeAction   = "Action"
	typeObject   = "Object"
	typeResource = "Resource"
)

// Bounds on a bundle. Cedar's parser and evaluator recurse, and a stack that
// overflows takes the process with it.
const (
	MaxFile    = 256 << 10 // bytes of one file
	MaxBundle  = 8 << 20   // bytes of all
	maxNesting = 100
)

// Policy is a compiled bundle. It is immutable.
type Policy struct {
	digest  string
	rules   []*rule // by id
	roles   []string
	actions map[string]cedar.Entity // with all that they stand in, at any depth
	leaves  []string                // actions that no other stands in
	index   ruleIndex
	timed   bool // some rule looks at the clock
}

// Rule is one Cedar policy of a bundle.
type Rule struct {
	ID          string               // its @id
	Effect      string               // "permit" or "forbid"
	Description string               // its @description
	Hint        string               // its @hint: what an agent's developer should do instead
	Role        string               // the role in its principal scope, or ""
	Obliges     evidence.Obligations // what it asks of commands, by its annotations
	File        string
	Line        int
	Text        string // as Cedar prints it
}

// LoadError is one thing wrong with a bundle. Compile joins all it finds.
type LoadError struct {
	File   string
	Line   int // from 1; 0 when the file as a whole is meant
	Column int
	Rule   string // @id, when it has one
	Text   string
	Hint   string
}

func (e *LoadError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	if e.Rule != "" {
		fmt.Fprintf(&b, ": rule %s", e.Rule)
	}
	b.WriteString(": " + e.Text)
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	return b.String()
}

// Unwrap makes every LoadError an ErrPolicy.
func (e *LoadError) Unwrap() error { return ErrPolicy }

// Digest names a bundle: SHA-256, in hex, of the JSON object {"files": [{"name",
// "text"} ...], "actions": {...}} without spaces, keys of actions sorted.
func Digest(files []evidence.File, actions map[string][]string) string {
	sum := sha256.Sum256(evidence.EncodeBody(struct {
		Files   []evidence.File     `json:"files"`
		Actions map[string][]string `json:"actions"`
	}{files, actions}))
	return hex.EncodeToString(sum[:])
}

// Compile reads a bundle. Files are sorted by name; actions maps each action to
// those that it stands in. Its error joins one *LoadError per thing wrong.
func Compile(files []evidence.File, actions map[string][]string) (*Policy, error) {
	c := compiler{p: &Policy{digest: Digest(files, actions)}, ids: make(map[string]*rule)}
	c.actionTree(actions)
	total := 0
	for i, f := range files {
		if total += len(f.Text); total > MaxBundle {
			c.errs = append(c.errs, &LoadError{File: f.Name, Text: fmt.Sprintf("the bundle exceeds %d bytes", MaxBundle)})
			break
		}
		if i > 0 && files[i-1].Name >= f.Name {
			c.errs = append(c.errs, &LoadError{File: f.Name, Text: "files are not sorted by name, or one is there twice"})
		}
		c.file(f)
	}
	c.rolesExist()
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, func(a, b *LoadError) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Text, b.Text))
		})
		joined := make([]error, len(c.errs))
		for i, e := range c.errs {
			joined[i] = e
		}
		return nil, errors.Join(joined...)
	}
	p := c.p
	slices.SortFunc(p.rules, func(a, b *rule) int { return cmp.Compare(a.ID, b.ID) })
	p.index = newIndex(p.rules)
	return p, nil
}

// Digest returns the digest of the bundle.
func (p *Policy) Digest() string { return p.digest }

// Roles returns the names of the roles that rules name, sorted.
func (p *Policy) Roles() []string { return slices.Clone(p.roles) }

// HasRole reports whether some rule names a role.
func (p *Policy) HasRole(name string) bool {
	_, ok := slices.BinarySearch(p.roles, name)
	return ok
}

// Rules returns all rules, by id.
func (p *Policy) Rules() []Rule {
	all := make([]Rule, len(p.rules))
	for i, r := range p.rules {
		all[i] = r.Rule
	}
	return all
}

// Rule returns the rule with an id.
func (p *Policy) Rule(id string) (Rule, bool) {
	i, ok := slices.BinarySearchFunc(p.rules, id, func(r *rule, id string) int { return cmp.Compare(r.ID, id) })
	if !ok {
		return Rule{}, false
	}
	return p.rules[i].Rule, true
}

// Actions returns the actions that no other action stands in, sorted.
func (p *Policy) Actions() []string { return slices.Clone(p.leaves) }

// rule is a Rule with what finding and evaluating it needs.
type rule struct {
	Rule
	policy    *cedar.Policy
	permit    bool
	principal string          // key in the index
	resource  resourceScope   //
	actions   map[string]bool // those it can match, or nil for all
	bare      bool            // it has no conditions
	timed     bool            // it looks at the clock
	ticket    bool            // a grant of its role needs one
	doc       policyDoc
}

// compiler collects rules and everything wrong with them.
type compiler struct {
	p    *Policy
	ids  map[string]*rule
	errs []*LoadError
}

// actionTree flattens the tree, so that evaluation never walks it.
func (c *compiler) actionTree(actions map[string][]string) {
	above := make(map[string]map[string]bool)
	inner := make(map[string]bool)
	var climb func(from, at string)
	climb = func(from, at string) {
		for _, up := range actions[at] {
			inner[up] = true
			if !above[from][up] {
				above[from][up] = true
				climb(from, up)
			}
		}
	}
	names := slices.Collect(maps.Keys(actions))
	for _, ups := range actions {
		names = append(names, ups...)
	}
	c.p.actions = make(map[string]cedar.Entity, len(names))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		above[name] = make(map[string]bool)
		climb(name, name)
		switch {
		case !evidence.ValidName(name):
			c.errs = append(c.errs, &LoadError{File: "actions", Text: fmt.Sprintf("action %.80q is not a name", name)})
		case above[name][name]:
			c.errs = append(c.errs, &LoadError{File: "actions", Text: fmt.Sprintf("action %s stands in itself", name)})
		}
		var parents []cedar.EntityUID
		for _, up := range slices.Sorted(maps.Keys(above[name])) {
			parents = append(parents, actionUID(up))
		}
		c.p.actions[name] = cedar.Entity{UID: actionUID(name), Parents: cedar.NewEntityUIDSet(parents...)}
	}
	for _, name := range slices.Sorted(maps.Keys(c.p.actions)) {
		if !inner[name] {
			c.p.leaves = append(c.p.leaves, name)
		}
	}
}

func (c *compiler) file(f evidence.File) {
	bad := func(line int, text string) {
		c.errs = append(c.errs, &LoadError{File: f.Name, Line: line, Column: min(line, 1), Text: text})
	}
	switch line := nestsDeeper(f.Text, maxNesting); {
	case f.Name == "":
		bad(0, "a file has no name")
	case len(f.Text) > MaxFile:
		bad(0, fmt.Sprintf("the file exceeds %d bytes", MaxFile))
		return
	case !utf8.ValidString(f.Text):
		bad(0, "the file is not UTF-8")
		return
	case line > 0:
		bad(line, fmt.Sprintf("brackets nest deeper than %d", maxNesting))
		return
	}
	list, err := cedar.NewPolicyListFromBytes(f.Name, []byte(f.Text))
	if err != nil {
		c.errs = append(c.errs, parseError(f.Name, err))
		return
	}
	for _, p := range list {
		c.rule(p)
	}
}

// nestsDeeper returns the line at which brackets nest deeper than most, or 0.
// It counts those in texts and comments too: a bundle that trips over it has
// no good reason to.
func nestsDeeper(text string, most int) int {
	depth, line := 0, 1
	for i := range len(text) {
		switch text[i] {
		case '(', '[', '{':
			if depth++; depth > most {
				return line
			}
		case ')', ']', '}':
			depth = max(depth-1, 0)
		case '\n':
			line++
		}
	}
	return 0
}

// cedarPosition is how Cedar's parser spells where it stumbled.
var cedarPosition = regexp.MustCompile(`^(?:parser error: )?(?:parse error at )?<input>:(\d+):(\d+):? ?`)

func parseError(file string, err error) *LoadError {
	e := &LoadError{File: file, Text: err.Error()}
	if m := cedarPosition.FindStringSubmatch(e.Text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Column, _ = strconv.Atoi(m[2])
		e.Text = "cannot be read as Cedar, near " + e.Text[len(m[0]):]
	}
	return e
}

// rule checks one policy and adds it to the bundle.
func (c *compiler) rule(p *cedar.Policy) {
	at := p.Position()
	notes := p.Annotations()
	r := &rule{policy: p, permit: p.Effect() == cedar.Permit, Rule: Rule{
		ID: string(notes["id"]), Effect: "forbid",
		Description: string(notes["description"]), Hint: string(notes["hint"]),
		File: at.Filename, Line: at.Line, Text: string(p.MarshalCedar()),
	}}
	if r.permit {
		r.Effect = "permit"
	}
	bad := func(hint, format string, args ...any) {
		e := &LoadError{File: at.Filename, Line: at.Line, Column: at.Column, Text: fmt.Sprintf(format, args...), Hint: hint}
		if evidence.ValidName(r.ID) {
			e.Rule = r.ID
		}
		c.errs = append(c.errs, e)
	}

	switch earlier := c.ids[r.ID]; {
	case r.ID == "":
		bad(`put @id("...") before it; decisions cite rules by id`, "a rule has no @id")
	case !evidence.ValidName(r.ID):
		bad("use 1 to 128 of A-Z a-z 0-9 . _ : @ / + -", "@id %.80q is not a name", r.ID)
	case earlier != nil:
		bad("", "its @id is that of the rule at %s:%d", earlier.File, earlier.Line)
	default:
		c.ids[r.ID] = r
	}
	texts := make(map[string]string, len(notes))
	for k, v := range notes {
		texts[string(k)] = string(v)
	}
	r.annotate(texts, bad)

	doc, err := readPolicy(p)
	if err != nil {
		bad("", "%v", err)
		return
	}
	r.doc, r.bare = doc, len(doc.Conditions) == 0
	c.principal(r, bad)
	c.action(r, bad)
	c.resource(r, bad)
	for _, cond := range doc.Conditions {
		if err := walk(cond.Body, nil); err != nil {
			bad("", "%v", err)
		}
		var body any
		if err := json.Unmarshal(cond.Body, &body); err != nil {
			bad("", "%v", err)
		}
		r.timed = r.timed || readsClock(body)
	}
	c.p.timed = c.p.timed || r.timed
	c.p.rules = append(c.p.rules, r)
	if r.Role != "" {
		if i, ok := slices.BinarySearch(c.p.roles, r.Role); !ok {
			c.p.roles = slices.Insert(c.p.roles, i, r.Role)
		}
	}
}

type badFunc func(hint, format string, args ...any)

func (c *compiler) principal(r *rule, bad badFunc) {
	s := r.doc.Principal
	e, kind := s.entity(), s.EntityType
	switch {
	case kind != "" && kind != typeAgent:
		bad("principals are agents", "principal is %s, which no principal is", kind)
	case e == nil:
		// Any agent.
	case e.Type == typeRole && s.Op != "==":
		if !evidence.ValidName(e.ID) {
			bad("use 1 to 128 of A-Z a-z 0-9 . _ : @ / + -", "role %.80q is not a name", e.ID)
		}
		r.Role, r.principal = e.ID, roleKey(e.ID)
	case e.Type == typeAgent:
		r.principal = agentKey(e.ID)
	default:
		bad(`write principal in Role::"..." or principal == Agent::"..."`, "its principal scope can never match %s::%q", e.Type, e.ID)
	}
	if r.permit && r.Role == "" {
		bad(`write permit (principal in Role::"...", ...), and grant the role: so that the list of grants is the whole list of who was let in`,
			"a permit does not name a role in its principal scope")
	}
}

// action finds which actions the scope can match. It stays nil for all.
func (c *compiler) action(r *rule, bad badFunc) {
	s := r.doc.Action
	if s.Op == "All" {
		return
	}
	named := s.Entities
	if e := s.entity(); e != nil {
		named = []entityDoc{*e}
	}
	r.actions = make(map[string]bool)
	for _, e := range named {
		if !c.isAction(e) {
			bad("there are "+listNames(slices.Sorted(maps.Keys(c.p.actions))), "no action %s::%q", e.Type, e.ID)
			continue
		}
		r.actions[e.ID] = true
		if s.Op != "in" {
			continue
		}
		for id, a := range c.p.actions {
			if a.Parents.Contains(actionUID(e.ID)) {
				r.actions[id] = true
			}
		}
	}
}

func (c *compiler) isAction(e entityDoc) bool {
	_, ok := c.p.actions[e.ID]
	return ok && e.Type == typeAction
}

func (c *compiler) resource(r *rule, bad badFunc) {
	s := r.doc.Resource
	r.resource = resourceScope{op: s.Op, kind: s.EntityType}
	if s.EntityType != "" && s.EntityType != typeObject && s.EntityType != typeResource {
		bad("resources are Object or Resource", "resource is %s, which no resource is", s.EntityType)
	}
	e := s.entity()
	if e == nil {
		return
	}
	r.resource.entity = cedar.NewEntityUID(cedar.EntityType(e.Type), cedar.String(e.ID))
	if text := wrongResource(*e); text != "" {
		bad(`write Resource::"orders-db" or Object::"orders-db/public.orders"`, "its resource scope can never match: %s", text)
	}
	r.resource.name, _, _ = strings.Cut(e.ID, "/")
}

// wrongResource says why no request can be about an entity, or "".
func wrongResource(e entityDoc) string {
	_, _, slash := strings.Cut(e.ID, "/")
	switch {
	case e.Type == typeResource && slash:
		return fmt.Sprintf("a resource's name has no slash: %.80q", e.ID)
	case e.Type == typeObject && !slash:
		return fmt.Sprintf("an object is named resource/object: %.80q", e.ID)
	case e.Type != typeResource && e.Type != typeObject:
		return fmt.Sprintf("it is about %s::%.80q", e.Type, e.ID)
	}
	return ""
}

// rolesExist looks at the entities that conditions name, once all roles are
// known: a role misspelt in a forbid would forbid nothing.
func (c *compiler) rolesExist() {
	for _, r := range c.p.rules {
		for _, cond := range r.doc.Conditions {
			// Its errors were reported when the rule was read.
			_ = walk(cond.Body, func(e entityDoc) {
				if text := c.wrongEntity(e); text != "" {
					c.errs = append(c.errs, &LoadError{File: r.File, Line: r.Line, Column: 1, Rule: r.ID, Text: text})
				}
			})
		}
	}
}

func (c *compiler) wrongEntity(e entityDoc) string {
	switch e.Type {
	case typeAgent:
		return ""
	case typeRole:
		if !c.p.HasRole(e.ID) {
			return fmt.Sprintf("its condition names role %.80q, which no principal scope names", e.ID)
		}
		return ""
	case typeAction:
		if !c.isAction(e) {
			return fmt.Sprintf("its condition names action %.80q, which is not there", e.ID)
		}
		return ""
	}
	if text := wrongResource(e); text != "" {
		return "its condition can never match: " + text
	}
	return ""
}
