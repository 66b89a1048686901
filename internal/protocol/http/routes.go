package http

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
)

// Operation is one thing that a service offers.
type Operation struct {
	Method string
	Path   string   // template (OpenAPI 3.1 section 4.8.8): "/invoices/{id}"
	ID     string   // operationId; "" where it has none
	Query  []string // names of its parameters, sorted
}

// Operations finds the operation of a request. It is immutable.
type Operations struct {
	byMethod map[string]map[int][]*route // by number of segments
	all      []Operation
}

type route struct {
	Operation
	segments []segment
}

// segment is what one segment of a path must be: text, or a parameter between
// two texts.
type segment struct {
	before, behind string
	param          bool
}

func (s segment) matches(text string) bool {
	if !s.param {
		return text == s.before
	}
	return len(text) > len(s.before)+len(s.behind) && strings.HasPrefix(text, s.before) && strings.HasSuffix(text, s.behind)
}

// looseness orders segments: what matches less comes first.
func (s segment) looseness() int {
	switch {
	case !s.param:
		return 0
	case s.before+s.behind != "":
		return 1
	}
	return 2
}

// maxOperations bounds what a document may hold.
const maxOperations = 10_000

// NewOperations returns the Operations of a list. Two that match the same
// requests in the same way are an error.
func NewOperations(list []Operation) (*Operations, error) {
	if len(list) > maxOperations {
		return nil, fmt.Errorf("%d operations are more than %d", len(list), maxOperations)
	}
	o := &Operations{byMethod: make(map[string]map[int][]*route), all: list}
	for i := range list {
		r := &route{Operation: list[i]}
		if err := r.parse(); err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Method+" "+r.Path, err)
		}
		n := len(r.segments)
		of := o.byMethod[r.Method]
		if of == nil {
			of = make(map[int][]*route)
			o.byMethod[r.Method] = of
		}
		for _, other := range of[n] {
			if slices.Equal(other.segments, r.segments) {
				return nil, fmt.Errorf("route %q: %q matches the same requests", r.Method+" "+r.Path, other.Path)
			}
		}
		of[n] = append(of[n], r)
	}
	for _, of := range o.byMethod {
		for _, routes := range of {
			slices.SortStableFunc(routes, moreConcrete)
		}
	}
	return o, nil
}

// moreConcrete orders routes so that the first that matches is the one that
// OpenAPI means: where two differ first, the one that matches less.
func moreConcrete(a, b *route) int {
	for i := range a.segments {
		if c := a.segments[i].looseness() - b.segments[i].looseness(); c != 0 {
			return c
		}
	}
	return 0
}

func (r *route) parse() error {
	if r.Method == "" || strings.ToUpper(r.Method) != r.Method || actionOf(r.Method) == Name+":other" {
		return errors.New("a route begins with GET, HEAD, OPTIONS, QUERY, POST, PUT, PATCH or DELETE")
	}
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsFunc(r.Path, func(c rune) bool { return !unicode.IsPrint(c) || c == ' ' || c == '?' || c == '#' }) {
		return errors.New("a path begins with a slash, and holds no space, \"?\" or \"#\"")
	}
	if len(r.Path) > 1024 {
		return errors.New("the path is longer than 1,024 bytes")
	}
	parts := strings.Split(r.Path[1:], "/")
	for i, text := range parts {
		before, rest, opens := strings.Cut(text, "{")
		_, behind, shuts := strings.Cut(rest, "}")
		switch {
		case opens != shuts || strings.ContainsAny(before, "}") || strings.ContainsAny(behind, "{}"):
			return fmt.Errorf("segment %q: a segment holds at most one parameter, like {id}", text)
		case text == "" && i < len(parts)-1:
			return errors.New("an empty segment within the path")
		}
		r.segments = append(r.segments, segment{before, behind, opens})
	}
	return nil
}

// find returns the route of a request's method and path, in its normal form, or
// nil.
func (o *Operations) find(method, path string) *route {
	if o == nil {
		return nil
	}
	n := strings.Count(path, "/")
	for _, r := range o.byMethod[method][n] {
		if r.matches(path) {
			return r
		}
	}
	return nil
}

func (r *route) matches(path string) bool {
	rest := path[1:]
	for _, want := range r.segments {
		text, tail, _ := strings.Cut(rest, "/")
		if !want.matches(text) {
			return false
		}
		rest = tail
	}
	return true
}

// List returns the operations.
func (o *Operations) List() []Operation { return slices.Clone(o.all) }

// ParseRoutes returns the operations of lines like "GET /invoices/{id}?expand".
func ParseRoutes(lines []string) (*Operations, error) {
	list := make([]Operation, len(lines))
	for i, line := range lines {
		method, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, fmt.Errorf("route %q: want a method and a path, like GET /invoices/{id}", line)
		}
		path, query, _ := strings.Cut(strings.TrimSpace(path), "?")
		list[i] = Operation{Method: method, Path: path}
		if query != "" {
			list[i].Query = strings.Split(query, "&")
			slices.Sort(list[i].Query)
		}
	}
	return NewOperations(list)
}

// MaxDocument bounds an OpenAPI document, bytes.
const MaxDocument = 16 << 20

// ParseOpenAPI returns the operations of an OpenAPI 3 document, in JSON or
// YAML. References to other files are refused.
func ParseOpenAPI(text []byte) (*Operations, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("the document is larger than %d bytes", MaxDocument)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		return nil, fmt.Errorf("openapi is %q; want 3.x", doc.OpenAPI)
	}
	var list []Operation
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if method == http.MethodTrace || method == http.MethodConnect {
				continue // never passed on
			}
			o := Operation{Method: method, Path: path, ID: op.OperationID}
			for _, p := range append(slices.Clone(item.Parameters), op.Parameters...) {
				if p.Value != nil && p.Value.In == openapi3.ParameterInQuery && !slices.Contains(o.Query, p.Value.Name) {
					o.Query = append(o.Query, p.Value.Name)
				}
			}
			slices.Sort(o.Query)
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b Operation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	if len(list) == 0 {
		return nil, errors.New("the document names no paths")
	}
	return NewOperations(list)
}
