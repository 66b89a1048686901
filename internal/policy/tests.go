package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// testSuffix ends the names of files with tests, which stand beside policies.
const testSuffix = ".test.yaml"

// maxTests bounds how many tests are run at once.
const maxTests = 10_000

// Result is how one test went.
type Result struct {
	File  string            `json:"file"`
	Line  int               `json:"line"`
	Name  string            `json:"name"`
	Wrong string            `json:"wrong,omitempty"` // "" when it passed
	Said  evidence.Decision `json:"decision"`
}

// Report is how the tests of a bundle went.
type Report struct {
	Results  []Result `json:"results"`
	Failed   int      `json:"failed"`
	Untested []string `json:"untested,omitempty"` // rules that no decision rested on
}

// LoadTests reads the files with tests of a folder.
func LoadTests(dir string) ([]evidence.File, error) { return LoadTestsFS(os.DirFS(dir), dir) }

// LoadTestsFS is LoadTests of a file system, which errors call name.
func LoadTestsFS(fsys fs.FS, name string) ([]evidence.File, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("reading tests: %w", err)
	}
	var files []evidence.File
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() || !strings.HasSuffix(e.Name(), testSuffix) {
			continue
		}
		text, err := read(fsys, e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading tests %s: %w", path.Join(name, e.Name()), err)
		}
		files = append(files, evidence.File{Name: e.Name(), Text: text})
	}
	return files, nil
}

// Situation is what a command is decided in. What a test leaves out is as its
// file says, and else as below. It is exported since only such are read where
// they are embedded.
type Situation struct {
	Agent    *testAgent     `yaml:"agent"`
	Roles    []string       `yaml:"roles"`    // granted on the resource
	Resource *testResource  `yaml:"resource"` // "test", of the protocol of the first action
	Session  map[string]any `yaml:"session"`  // facts; no ticket, for the agent itself, over TLS
	Time     string         `yaml:"time"`     // a Monday noon
}

type testAgent struct {
	Env   string `yaml:"env"`
	Team  string `yaml:"team"`
	Owner string `yaml:"owner"`
}

type testResource struct {
	Name     string            `yaml:"name"`
	Protocol string            `yaml:"protocol"`
	Labels   map[string]string `yaml:"labels"`
}

type testFile struct {
	Situation `yaml:",inline"`
	Tests     []testCase `yaml:"tests"`
}

type testCase struct {
	Situation   `yaml:",inline"`
	Name        string            `yaml:"name"`
	Do          oneOrMore         `yaml:"do"`    // "postgres:update public.orders"
	Facts       map[string]any    `yaml:"facts"` // of the command
	Expect      string            `yaml:"expect"`
	Rules       []string          `yaml:"rules"`       // that the decision rests on, all of them
	Reason      string            `yaml:"reason"`      // part of it
	Obligations map[string]string `yaml:"obligations"` // all, as annotations have them

	file string
	line int
}

type oneOrMore []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (o *oneOrMore) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return unmarshal((*[]string)(o))
}

// Test runs the tests in files against a bundle. Its error joins a
// *decision.LoadError for each test that can't be understood.
func Test(b evidence.PolicyBody, files []evidence.File, v Vocabulary) (Report, error) {
	r := runner{v: v, cited: make(map[string]bool)}
	var cases []testCase
	var errs []error
	for _, f := range files {
		list, err := readTests(f)
		errs = append(errs, err)
		cases = append(cases, list...)
	}
	if err := errors.Join(errs...); err != nil {
		return Report{}, err
	}
	if len(cases) > maxTests {
		return Report{}, fmt.Errorf("there are %d tests, and at most %d are run", len(cases), maxTests)
	}
	b.By, b.Before, b.Diff, b.Request, b.Back = tester, "", "", "", ""
	base, err := decision.New().Apply(head(evidence.PolicyChange, 1, 0), evidence.EncodeBody(b))
	if err != nil {
		return Report{}, err
	}
	r.base = base
	_, r.policy = base.Bundle()
	report := Report{Results: []Result{}}
	for i := range cases {
		c := &cases[i]
		res, err := r.run(c)
		if err != nil {
			errs = append(errs, c.wrong(err))
			continue
		}
		if report.Results = append(report.Results, res); res.Wrong != "" {
			report.Failed++
		}
	}
	for _, rule := range r.policy.Rules() {
		if !r.cited[rule.ID] {
			report.Untested = append(report.Untested, rule.ID)
		}
	}
	return report, errors.Join(errs...)
}

// hinted is an error that says what to do.
type hinted struct{ text, hint string }

func (h *hinted) Error() string { return h.text }

func (c *testCase) wrong(err error) error {
	e := &decision.LoadError{File: c.file, Line: c.line, Column: 1, Text: err.Error()}
	var h *hinted
	if errors.As(err, &h) {
		e.Hint = h.hint
	}
	if c.Name != "" {
		e.Text = fmt.Sprintf("test %.80q: %s", c.Name, e.Text)
	}
	return e
}

// readTests reads one file.
func readTests(f evidence.File) ([]testCase, error) {
	bad := func(line, column int, text, hint string) error {
		return &decision.LoadError{File: f.Name, Line: line, Column: column, Text: text, Hint: hint}
	}
	if len(f.Text) > decision.MaxFile {
		return nil, bad(0, 0, fmt.Sprintf("the file exceeds %d bytes", decision.MaxFile), "")
	}
	located := func(err error) error {
		line, column, text := 0, 0, err.Error()
		var at yaml.Error
		if errors.As(err, &at) {
			text = at.GetMessage()
			if t := at.GetToken(); t != nil {
				line, column = t.Position.Line, t.Position.Column
			}
		}
		text, _, _ = strings.Cut(text, "\n")
		return bad(line, column, text, "docs/guides/policy.md says what a test has")
	}
	tree, err := parser.ParseBytes([]byte(f.Text), 0)
	if err != nil {
		return nil, located(err)
	}
	var list *ast.SequenceNode
	for _, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		var seen aliases
		ast.Walk(&seen, doc.Body)
		if seen {
			return nil, bad(0, 0, "it has anchors or aliases", "write it out, or as a default of the file")
		}
		list = testsOf(doc.Body)
	}
	var file testFile
	if err := yaml.UnmarshalWithOptions([]byte(f.Text), &file, yaml.Strict()); err != nil {
		return nil, located(err)
	}
	if len(tree.Docs) != 1 || len(file.Tests) == 0 || list == nil || len(list.Values) != len(file.Tests) {
		return nil, bad(0, 0, "it has no tests", "a file is one document with a list `tests`")
	}
	for i := range file.Tests {
		c := &file.Tests[i]
		c.file, c.line = f.Name, list.Values[i].GetToken().Position.Line
		c.inherit(&file.Situation)
	}
	return file.Tests, nil
}

// aliases finds what makes a short file long.
type aliases bool

// Visit implements ast.Visitor.
func (a *aliases) Visit(n ast.Node) ast.Visitor {
	if n == nil {
		return nil
	}
	if t := n.Type(); t == ast.AliasType || t == ast.AnchorType {
		*a = true
	}
	return a
}

// testsOf finds the list of tests in a document.
func testsOf(body ast.Node) *ast.SequenceNode {
	var pairs []*ast.MappingValueNode
	switch n := body.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	}
	for _, p := range pairs {
		if list, ok := p.Value.(*ast.SequenceNode); ok && p.Key.String() == "tests" {
			return list
		}
	}
	return nil
}

func (s *Situation) inherit(from *Situation) {
	if s.Agent == nil {
		s.Agent = from.Agent
	}
	if s.Roles == nil {
		s.Roles = from.Roles
	}
	if s.Resource == nil {
		s.Resource = from.Resource
	}
	if s.Session == nil {
		s.Session = from.Session
	}
	if s.Time == "" {
		s.Time = from.Time
	}
}

// runner runs tests against one bundle.
type runner struct {
	v      Vocabulary
	base   *decision.Registry
	policy *decision.Policy
	cited  map[string]bool // rules that a decision rested on
}

// tester does what a person must do.
var tester = evidence.By{Person: evidence.Person{ID: "tester"}, Via: "test"}

// testTime is when a test happens that doesn't say: Monday, 5 January 2026.
const testTime = "2026-01-05T12:00:00Z"

func head(t evidence.Type, seq uint64, at int64) evidence.Head {
	return evidence.Head{Type: t, Time: at, Pos: evidence.Position{Gateway: "test", Boot: 1, Seq: seq}}
}

func (r *runner) run(c *testCase) (Result, error) {
	q, registry, err := r.prepare(c)
	if err != nil {
		return Result{}, err
	}
	d := registry.Decide(q)
	for _, id := range d.Rules {
		r.cited[id] = true
	}
	res := Result{File: c.file, Line: c.line, Name: c.Name, Said: d}
	res.Wrong, err = c.judge(&d, r.policy)
	return res, err
}

// prepare makes the world of a test and its question.
func (r *runner) prepare(c *testCase) (q decision.Request, registry *decision.Registry, err error) {
	switch {
	case c.Name == "":
		return q, nil, &hinted{"it has no name", "say in `name` what it shows"}
	case len(c.Do) == 0:
		return q, nil, &hinted{"it does nothing", "name an action and an object in `do`: postgres:update public.orders"}
	}
	for _, do := range c.Do {
		action, object, _ := strings.Cut(strings.TrimSpace(do), " ")
		if _, known := r.v.Actions[action]; !known {
			return q, nil, &hinted{fmt.Sprintf("there is no action %.80q", action), r.actionHint(action)}
		}
		q.Checks = append(q.Checks, evidence.Check{Action: action, Object: strings.TrimSpace(object)})
		q.Path = "simple"
		if strings.HasSuffix(action, connectOnly) {
			q.Path = evidence.PathConnect
		}
	}
	at, err := time.Parse(time.RFC3339, def(c.Time, testTime))
	if err != nil {
		return q, nil, &hinted{fmt.Sprintf("time %.80q is not one", c.Time), "write it like 2026-01-05T12:00:00Z"}
	}
	q.Agent, q.Time = "agent", at.UnixMicro()
	res := evidence.Resource{}
	if c.Resource != nil {
		res.Name, res.Protocol, res.Labels = c.Resource.Name, c.Resource.Protocol, c.Resource.Labels
	}
	protocol, _, _ := strings.Cut(q.Checks[0].Action, ":")
	res.Name, res.Protocol = def(res.Name, "test"), def(res.Protocol, protocol)
	q.Resource = res.Name
	if q.Session, err = r.sessionFacts(c, res.Protocol); err != nil {
		return q, nil, err
	}
	if q.Command, err = r.commandFacts(c, res.Protocol); err != nil {
		return q, nil, err
	}
	registry, err = r.populate(c, res, q.Time)
	return q, registry, err
}

func (r *runner) actionHint(action string) string {
	if like := nearest(action, namesOf(r.v.Actions)); like != "" {
		return "did you mean " + like + "?"
	}
	return "`exhibit policy schema` lists them"
}

func namesOf(m map[string][]string) (names []string) {
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func def(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (r *runner) sessionFacts(c *testCase, protocol string) (evidence.Facts, error) {
	facts := evidence.Facts{"protocol": protocol, "ticket": "", "principal": "", "principal_type": "self", "tls": true}
	return fill(facts, "session", c.Session, func(name string) (string, bool) { k, ok := sessionFacts[name]; return k, ok })
}

func (r *runner) commandFacts(c *testCase, protocol string) (evidence.Facts, error) {
	return fill(evidence.Facts{}, "facts", c.Facts, func(name string) (string, bool) {
		if strings.HasPrefix(name, "/") && slices.Contains(r.v.Pointers, protocol) {
			return "", true
		}
		kind, ok := r.v.Facts[protocol][name]
		return kind, ok
	})
}

// fill puts facts of a file into others. kindOf says which there are.
func fill(facts evidence.Facts, where string, from map[string]any, kindOf func(string) (string, bool)) (evidence.Facts, error) {
	for name, v := range from {
		kind, ok := kindOf(name)
		if !ok {
			return nil, &hinted{fmt.Sprintf("%s has no fact %.80q", where, name), "docs/guides/policy.md lists the facts of each protocol"}
		}
		value, is := factOf(v)
		if kind != "" && is != kind {
			return nil, fmt.Errorf("%s: %s is a %s", where, name, kind)
		}
		if value == nil {
			return nil, fmt.Errorf("%s: %s is no fact: want a text, a whole number, true or false, or a list of texts", where, name)
		}
		facts[name] = value
	}
	return facts, nil
}

// factOf is a value of YAML as a fact, with its Cedar type.
func factOf(v any) (any, string) {
	switch v := v.(type) {
	case bool:
		return v, "Bool"
	case string:
		return v, "String"
	case int64:
		return v, "Long"
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v), "Long"
		}
	case int:
		return int64(v), "Long"
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, ""
			}
			list[i] = s
		}
		return list, "Set<String>"
	}
	return nil, ""
}

// populate puts the agent of a test in its roles on its resource.
func (r *runner) populate(c *testCase, res evidence.Resource, at int64) (*decision.Registry, error) {
	agent := evidence.AgentBody{Agent: "agent", Purpose: "test", Owner: tester.Person, By: tester}
	if c.Agent != nil {
		agent.Env, agent.Team = c.Agent.Env, c.Agent.Team
		agent.Owner.ID = def(c.Agent.Owner, agent.Owner.ID)
	}
	registry, seq := r.base, uint64(1)
	apply := func(t evidence.Type, body any) (err error) {
		seq++
		registry, err = registry.Apply(head(t, seq, at), evidence.EncodeBody(body))
		return err
	}
	err := errors.Join(
		apply(evidence.ConfigChange, evidence.ConfigBody{Digest: "test", Resources: []evidence.Resource{res}, By: tester}))
	if err == nil {
		err = apply(evidence.AgentCreate, agent)
	}
	for _, role := range c.Roles {
		if !r.policy.HasRole(role) {
			return nil, &hinted{fmt.Sprintf("no rule names the role %.80q", role), "there are " + strings.Join(r.policy.Roles(), ", ")}
		}
		if err == nil {
			err = apply(evidence.GrantCreate, evidence.GrantBody{
				Agent: "agent", Role: role, Resource: res.Name, Ticket: "test", Expires: at + time.Hour.Microseconds(), By: tester})
		}
	}
	return registry, err
}

// judge says what is wrong with a decision, or "".
func (c *testCase) judge(d *evidence.Decision, p *decision.Policy) (string, error) {
	because := ""
	if d.Reason != "" {
		because = ": " + d.Reason
	} else if len(d.Rules) > 0 {
		because = ", by " + strings.Join(d.Rules, ", ")
	}
	switch e := evidence.Effect(c.Expect); {
	case e != evidence.Allow && e != evidence.Deny && e != evidence.Error:
		return "", &hinted{fmt.Sprintf("it expects %.40q", c.Expect), "`expect` is allow, deny or error"}
	case d.Effect != e:
		return fmt.Sprintf("it is %s, and %s was expected%s", d.Effect, e, because), nil
	case !strings.Contains(d.Reason, c.Reason):
		return fmt.Sprintf("its reason is %q, and %q was expected in it", d.Reason, c.Reason), nil
	}
	if c.Rules != nil {
		want := slices.Sorted(slices.Values(c.Rules))
		for _, id := range want {
			if _, ok := p.Rule(id); !ok {
				return "", fmt.Errorf("there is no rule %.80q", id)
			}
		}
		if !slices.Equal(want, d.Rules) {
			return fmt.Sprintf("it rests on the rules %s, and on %s was expected%s", listed(d.Rules), listed(want), because), nil
		}
	}
	if c.Obligations == nil {
		return "", nil
	}
	want, err := obligationsOf(c.Obligations)
	if err != nil {
		return "", err
	}
	if got := d.Obligations; !reflect.DeepEqual(want, got) && (got != nil || !reflect.DeepEqual(*want, evidence.Obligations{})) {
		return fmt.Sprintf("its obligations are %s, and %s was expected", evidence.EncodeBody(got), evidence.EncodeBody(want)), nil
	}
	return "", nil
}

func listed(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}

// obligationsOf reads obligations as annotations say them, by a rule that has
// these. A list of approvals or alerts is separated by spaces.
func obligationsOf(notes map[string]string) (*evidence.Obligations, error) {
	out := &evidence.Obligations{}
	for name, values := range notes {
		for value := range strings.FieldsSeq(values) {
			text := fmt.Sprintf("@id(\"expected\") @%s(%q) permit (principal in Role::\"expected\", action, resource);", name, value)
			p, err := decision.Compile([]evidence.File{{Name: "expected", Text: text}}, nil)
			if err != nil {
				var e *decision.LoadError
				if errors.As(err, &e) {
					return nil, &hinted{"obligations: " + e.Text, e.Hint}
				}
				return nil, err
			}
			o := p.Rules()[0].Obliges
			out.Approval, out.Alert = append(out.Approval, o.Approval...), append(out.Alert, o.Alert...)
			out.Rows, out.Bytes, out.Millis = out.Rows+o.Rows, out.Bytes+o.Bytes, out.Millis+o.Millis
			out.Commands, out.Writes = out.Commands+o.Commands, out.Writes+o.Writes
		}
	}
	slices.SortFunc(out.Approval, func(a, b evidence.ApprovalNeed) int { return strings.Compare(a.Group, b.Group) })
	slices.Sort(out.Alert)
	return out, nil
}
