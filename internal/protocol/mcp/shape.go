package mcp

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// Paths of commands: how they came.
const (
	pathCall    = "call"    // a message of the agent's
	pathAnswer  = "answer"  // the agent's answer to what the server asked
	pathServer  = "server"  // what the server asks of the agent
	pathGateway = "gateway" // lists that the gateway asks for, to know what the server offers
	pathHTTP    = "http"    // a request without a message
)

// shapeKey is all that the shapes of messages without matched values depend on.
type shapeKey struct {
	path    string
	method  string // one that the protocol has
	actions string // joined by spaces
	object  string // that the server has listed
	held    string
	partial bool
}

// shapes keeps shapes, so that equal messages share one.
type shapes struct {
	mu sync.Mutex
	m  map[shapeKey]*evidence.Shape
}

// maxShapes bounds what is kept; who asks more different things starts over.
const maxShapes = 4096

func (c *shapes) of(k shapeKey) *evidence.Shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.m[k]
	if s == nil {
		if c.m == nil || len(c.m) >= maxShapes {
			c.m = make(map[shapeKey]*evidence.Shape)
		}
		s = k.shape()
		c.m[k] = s
	}
	return s
}

func (k *shapeKey) shape() *evidence.Shape {
	s := &evidence.Shape{Path: k.path, Parse: evidence.ParseFull, Text: k.method, Facts: evidence.Facts{"method": k.method}}
	for a := range strings.SplitSeq(k.actions, " ") {
		s.Checks = append(s.Checks, evidence.Check{Action: a, Object: k.object})
	}
	if k.object != "" {
		s.Text += " " + k.object
	}
	if k.held != "" {
		s.Facts["held"] = k.held
	}
	s.Verb = classOf(s.Checks)
	switch {
	case s.Verb == evidence.VerbOpaque:
		s.Parse = evidence.ParseOpaque
	case k.partial:
		s.Parse = evidence.ParsePartial
	}
	if k.method == "" {
		s.Facts = nil
	}
	return s
}

// understood is how a message of the agent's was understood.
type understood struct {
	shape *evidence.Shape
	held  string // why the tool it calls is held
}

// understand makes the shape of a request or notification. What it names must
// be known by now (see names).
func (c *shapes) understand(res *Resource, conv *conversation, m *message) (understood, error) {
	action := methods[m.method]
	k := shapeKey{path: pathCall, method: m.method, actions: action}
	if action == "" {
		return understood{shape: c.of(shapeKey{path: pathCall, actions: Name + ":opaque"})}, nil
	}
	asked, err := named(m)
	if err != nil {
		return understood{}, err
	}
	switch m.method {
	case "tools/call":
		return c.call(res, conv.tool(asked), m)
	case "prompts/get":
		k.object = conv.prompt(asked)
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		k.object = conv.resource(asked)
	case "completion/complete":
		if k.object = conv.prompt(asked); k.object == "?" {
			k.object = conv.resource(asked)
		}
	case "subscriptions/listen":
		return c.listen(conv, m)
	}
	k.partial = k.object == "?"
	return understood{shape: c.of(k)}, nil
}

// call is the shape of a tool's call.
func (c *shapes) call(res *Resource, t *Tool, m *message) (understood, error) {
	k := shapeKey{path: pathCall, method: m.method, object: t.Name, actions: Name + ":call", held: t.Held(res)}
	if k.held != "" {
		k.actions += " " + Name + ":held"
		if k.object == "" {
			k.object = "?"
		}
		return understood{c.of(k), k.held}, nil
	}
	if res.TrustAnnotations && t.readOnly {
		k.actions = Name + ":call_read"
	}
	if len(res.Match) == 0 {
		return understood{shape: c.of(k)}, nil
	}
	arguments, err := member(m.params, "arguments")
	if err != nil {
		return understood{}, err
	}
	if arguments == nil {
		arguments = []byte("{}")
	}
	facts, ok := httpgate.Match(arguments, res.Match)
	if !ok { // policy could be made to see other arguments than the tool does
		k.actions += " " + Name + ":opaque"
		return understood{shape: c.of(k)}, nil
	}
	s := *c.of(k)
	s.Facts = maps.Clone(s.Facts)
	maps.Copy(s.Facts, facts)
	return understood{shape: &s}, nil
}

// listen is the shape of a request for a stream that names what it wants to be
// told of.
func (c *shapes) listen(conv *conversation, m *message) (understood, error) {
	s := *c.of(shapeKey{path: pathCall, method: m.method, actions: Name + ":listen"})
	wanted, err := member(m.params, "notifications")
	if err != nil {
		return understood{}, err
	}
	uris, err := member(wanted, "resourceSubscriptions")
	if err != nil {
		return understood{}, err
	}
	list := elements(uris)
	if len(list) > 64 {
		return understood{}, errMessage
	}
	s.Checks = slices.Clone(s.Checks)
	for _, uri := range list {
		check := evidence.Check{Action: Name + ":subscribe", Object: conv.resource(text(uri))}
		if !slices.Contains(s.Checks, check) {
			s.Checks = append(s.Checks, check)
		}
	}
	s.Verb = classOf(s.Checks)
	return understood{shape: &s}, nil
}

// namedBy is the member of the params that names what a method is about.
var namedBy = map[string]string{
	"tools/call": "name", "prompts/get": "name",
	"resources/read": "uri", "resources/subscribe": "uri", "resources/unsubscribe": "uri",
}

// named returns what a message names.
func named(m *message) (string, error) {
	of, key := m.params, namedBy[m.method]
	if m.method == "completion/complete" {
		ref, err := member(m.params, "ref")
		if err != nil {
			return "", err
		}
		if of, key = ref, "name"; ref != nil {
			if uri, err := member(ref, "uri"); err != nil {
				return "", err
			} else if uri != nil {
				key = "uri"
			}
		}
	}
	if key == "" {
		return "", nil
	}
	v, err := member(of, key)
	return text(v), err
}

// lists are the lists that say what a method may name.
var lists = map[string][]string{
	"tools/call": {"tools/list"}, "prompts/get": {"prompts/list"},
	"resources/read": {"resources/list", "resources/templates/list"}, "resources/subscribe": {"resources/list", "resources/templates/list"},
	"resources/unsubscribe": {"resources/list", "resources/templates/list"},
	"completion/complete":   {"prompts/list", "resources/templates/list"},
	"subscriptions/listen":  {"resources/list", "resources/templates/list"},
}
