package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	yaml "github.com/goccy/go-yaml"
)

// Error is one thing that is wrong with a configuration file.
type Error struct {
	File         string
	Line, Column int // from 1
	Message      string
	Hint         string // what to do about it
}

// Error returns "file:line:column: message".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is all that is wrong with a configuration file, in its order.
type Errors []*Error

// Error returns one line per error, each followed by its hint.
func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
		if e.Hint != "" {
			b.WriteString("\n    hint: " + e.Hint)
		}
	}
	return b.String()
}

// decoder fills a Config from a YAML tree. The library's own decoder ends at
// the first error; this one goes on, and keeps where each value stood so that
// validation can point at it.
type decoder struct {
	file   string
	at     map[string]*token.Position // of each value and key by its path, like "people[0].uids"
	bad    map[string]bool            // paths whose value wasn't understood
	errs   Errors
	broken bool // not YAML at all
}

func decode(file string, text []byte, c *Config) *decoder {
	d := &decoder{file: file, at: make(map[string]*token.Position), bad: make(map[string]bool)}
	tree, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.broken = true
		d.syntax(err)
		return d
	}
	if len(tree.Docs) > 1 {
		d.broken = true
		pos := &token.Position{Line: 1, Column: 1}
		if start := tree.Docs[1].Start; start != nil {
			pos = start.Position
		}
		d.add(pos, "a second document", "a configuration is one document: remove the line ---")
		return d
	}
	d.at[""] = &token.Position{Line: 1, Column: 1}
	if len(tree.Docs) == 1 && tree.Docs[0].Body != nil {
		d.value(tree.Docs[0].Body, reflect.ValueOf(c).Elem(), "")
	}
	return d
}

func (d *decoder) syntax(err error) {
	pos := &token.Position{Line: 1, Column: 1}
	msg := err.Error()
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		msg = syntax.Message
		if syntax.Token != nil {
			pos = syntax.Token.Position
		}
	}
	d.add(pos, "not YAML: "+msg, "")
}

func (d *decoder) add(pos *token.Position, msg, hint string) {
	d.errs = append(d.errs, &Error{File: d.file, Line: pos.Line, Column: pos.Column, Message: msg, Hint: hint})
}

// reject reports a value that can't be understood; validation leaves it alone.
func (d *decoder) reject(n ast.Node, path, msg, hint string) {
	d.bad[path] = true
	d.add(n.GetToken().Position, msg, hint)
}

// fail reports what validation found at path, or at the nearest thing around
// it that the file has. What decoding rejected isn't reported twice.
func (d *decoder) fail(path, msg, hint string) {
	for p := path; ; p = parent(p) {
		if d.bad[p] {
			return
		}
		if pos, ok := d.at[p]; ok {
			d.add(pos, msg, hint)
			return
		}
	}
}

// has reports whether the file has a value at path.
func (d *decoder) has(path string) bool { return d.at[path] != nil }

func parent(path string) string {
	i := strings.LastIndexAny(path, ".[")
	return path[:max(i, 0)]
}

func (d *decoder) sorted() Errors {
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return d.errs
}

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeSize     = reflect.TypeFor[Size]()
	typeSecret   = reflect.TypeFor[Secret]()
)

// value decodes n into v. A key without a value leaves the default.
func (d *decoder) value(n ast.Node, v reflect.Value, path string) {
	switch n := n.(type) {
	case *ast.NullNode:
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.reject(n, path, "anchors, aliases and tags aren't read here", "write the value out")
		return
	}
	switch {
	case v.Type() == typeDuration:
		d.duration(n, v, path)
	case v.Type() == typeSize:
		d.size(n, v, path)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Map:
		d.labels(n, v, path)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, path)
	case v.Kind() == reflect.String:
		if s, ok := text(n); ok {
			v.SetString(s)
		} else {
			d.reject(n, path, "want text, not "+kind(n), "put it in quotes if it is meant as text")
		}
	case v.Kind() == reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			d.reject(n, path, "want true or false, not "+kind(n), "")
		}
	default:
		d.number(n, v, path)
	}
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		if v.Type() == typeSecret {
			d.reject(n, path, "a secret can't stand in this file, which is recorded", "write password: {file: PATH} or password: {env: NAME}, and change the secret: it may have been read here")
			return
		}
		d.reject(n, path, "want keys with values, not "+kind(n), "keys here: "+strings.Join(keys(v.Type()), ", "))
		return
	}
	fields := make(map[string]int)
	for i := range v.NumField() {
		if key, ok := v.Type().Field(i).Tag.Lookup("yaml"); ok {
			fields[key] = i
		}
	}
	for it := m.MapRange(); it.Next(); {
		key, p, ok := d.key(it, path)
		if !ok {
			continue
		}
		i, ok := fields[key]
		if !ok {
			d.add(it.Key().GetToken().Position, fmt.Sprintf("unknown key %q", key), suggest(key, keys(v.Type())))
			continue
		}
		d.value(it.Value(), v.Field(i), p)
	}
}

func (d *decoder) labels(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.reject(n, path, "want keys with values, not "+kind(n), "for example {env: production}")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for it := m.MapRange(); it.Next(); {
		key, p, ok := d.key(it, path)
		if !ok {
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(it.Value(), e, p)
		v.SetMapIndex(reflect.ValueOf(key), e)
	}
}

// key returns the key that it stands at and the path of its value.
func (d *decoder) key(it *ast.MapNodeIter, path string) (key, p string, ok bool) {
	node := it.Key()
	key, ok = text(node)
	if !ok {
		d.add(node.GetToken().Position, "a key must be plain text", "anchors, merges and numbers aren't read as keys")
		return "", "", false
	}
	p = strings.TrimPrefix(path+"."+key, ".")
	if d.at[p] != nil {
		d.add(node.GetToken().Position, fmt.Sprintf("the key %q is here twice", key), fmt.Sprintf("the first one is on line %d", d.at[p].Line))
		return "", "", false
	}
	d.at[p] = node.GetToken().Position
	return key, p, true
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, path string) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		d.reject(n, path, "want a list, not "+kind(n), `write each entry on a line of its own that begins with "- "`)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
	for i, e := range list.Values {
		p := fmt.Sprintf("%s[%d]", path, i)
		d.at[p] = begin(e)
		if _, null := e.(*ast.NullNode); null {
			d.reject(e, p, "an empty entry", "")
			continue
		}
		d.value(e, v.Index(i), p)
	}
}

func (d *decoder) duration(n ast.Node, v reflect.Value, path string) {
	s, ok := text(n)
	if dur, err := time.ParseDuration(s); ok && err == nil {
		v.SetInt(int64(dur))
		return
	}
	d.reject(n, path, "want a duration", "a number with a unit: 500ms, 10s, 15m or 1h")
}

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (d *decoder) size(n ast.Node, v reflect.Value, path string) {
	s, unit := n.GetToken().Value, Size(1)
	for _, u := range sizeUnits {
		if t, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(t), u.bytes
			break
		}
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if _, scalar := n.(ast.ScalarNode); !scalar || err != nil || i < 0 || i > math.MaxInt64/int64(unit) {
		d.reject(n, path, "want a number of bytes", "for example 65536, 64KiB, 16MiB or 1GiB")
		return
	}
	v.SetInt(i * int64(unit))
}

func (d *decoder) number(n ast.Node, v reflect.Value, path string) {
	_, ok := n.(*ast.IntegerNode)
	i, err := strconv.ParseInt(n.GetToken().Value, 10, 64)
	switch {
	case !ok || err != nil:
		d.reject(n, path, "want a whole number, not "+kind(n), "write decimal digits without quotes")
	case v.CanUint() && i >= 0 && !v.OverflowUint(uint64(i)):
		v.SetUint(uint64(i))
	case v.CanInt() && !v.OverflowInt(i):
		v.SetInt(i)
	default:
		d.reject(n, path, "the number is out of range", "")
	}
}

// text returns the value of a scalar that YAML reads as text.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode:
		return "a number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a fraction"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case ast.MapNode:
		return "keys with values"
	}
	return "this"
}

// begin is where an entry begins: a mapping's own token is its first colon.
func begin(n ast.Node) *token.Position {
	if m, ok := n.(ast.MapNode); ok {
		if it := m.MapRange(); it.Next() {
			return it.Key().GetToken().Position
		}
	}
	return n.GetToken().Position
}

func keys(t reflect.Type) []string {
	var list []string
	for i := range t.NumField() {
		if key, ok := t.Field(i).Tag.Lookup("yaml"); ok {
			list = append(list, key)
		}
	}
	return list
}

// suggest returns the key that was probably meant, or all there are.
func suggest(key string, keys []string) string {
	best, least := "", 3
	for _, k := range keys {
		if n := distance(strings.ToLower(key), k); n < least || n == least && strings.HasPrefix(k, key) {
			best, least = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "keys here: " + strings.Join(keys, ", ")
}

// distance is the Levenshtein distance.
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
