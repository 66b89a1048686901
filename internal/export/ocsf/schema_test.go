package ocsf

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	update  = flag.Bool("update", false, "write the files that the tests compare with")
	sources = flag.String("ocsf-schema", "", "with -update: a checkout of ocsf-schema at "+Version)
)

// The facts of the published schema (Apache License 2.0) that events are held
// against, without its texts: which attributes a class or an object has, whether they are required,
// their types and the values they may have.
type schema struct {
	Version string           `json:"version"`
	Classes map[string]shape `json:"classes"` // by class_uid
	Objects map[string]shape `json:"objects"`
	Types   map[string]kind  `json:"types"`
}

type shape struct {
	Name       string               `json:"name"`
	AtLeastOne []string             `json:"at_least_one,omitempty"`
	JustOne    []string             `json:"just_one,omitempty"`
	Attributes map[string]attribute `json:"attributes"`
}

type attribute struct {
	Type     string   `json:"type"` // of the types, or an object
	Array    bool     `json:"array,omitempty"`
	Required bool     `json:"required,omitempty"`
	Profile  string   `json:"profile,omitempty"` // that an event must name to have it
	Enum     []string `json:"enum,omitempty"`
}

type kind struct {
	Base    string `json:"base,omitempty"`
	Pattern string `json:"pattern,omitempty"`
	Longest int    `json:"longest,omitempty"`
	Range   []int  `json:"range,omitempty"`
}

const schemaFile = "testdata/schema.json"

// published is the schema. With -update and a checkout of it the facts are taken
// from there again.
func published(t *testing.T) *schema {
	t.Helper()
	if *update && *sources != "" {
		b, err := json.Marshal(compile(t, os.DirFS(*sources)))
		if err != nil {
			t.Fatal(err)
		}
		// A line for each class, object and type, for who reads a change of it.
		b = regexp.MustCompile(`("(?:classes|objects|types)":\{|\}\},|"_?[a-z0-9_]+":\{"(?:name|base|pattern|longest)")`).ReplaceAll(b, []byte("\n$1"))
		if err := os.WriteFile(schemaFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.Version != Version {
		t.Fatalf("%s has version %s of the schema, and events are of %s", schemaFile, s.Version, Version)
	}
	return &s
}

// The files of the schema.
type (
	definition struct {
		UID         int
		Name        string
		Category    string
		Extends     string
		Attributes  map[string]json.RawMessage
		Constraints struct {
			AtLeastOne []string `json:"at_least_one"`
			JustOne    []string `json:"just_one"`
		}
	}
	entry struct {
		Type        string
		Array       bool `json:"is_array"`
		Requirement *string
		Profile     json.RawMessage
		Enum        map[string]json.RawMessage
	}
)

// compiler joins the files: what is inherited, what profiles bring in, and what
// the dictionary says of an attribute's name.
type compiler struct {
	t          *testing.T
	dir        fs.FS
	dictionary map[string]entry
	types      map[string]bool
	events     map[string]definition
	objects    map[string]definition
	out        schema
}

func compile(t *testing.T, dir fs.FS) schema {
	t.Helper()
	c := &compiler{t: t, dir: dir, types: make(map[string]bool), out: schema{Classes: make(map[string]shape), Objects: make(map[string]shape), Types: make(map[string]kind)}}
	var version struct{ Version string }
	c.read("version.json", &version)
	c.out.Version = version.Version
	var d struct {
		Attributes map[string]entry
		Types      struct {
			Attributes map[string]struct {
				Type  string
				Regex string
				Most  int `json:"max_len"`
				Range []int
			}
		}
	}
	c.read("dictionary.json", &d)
	c.dictionary = d.Attributes
	for name, k := range d.Types.Attributes {
		c.types[name] = true
		c.out.Types[name] = kind{Base: k.Type, Pattern: k.Regex, Longest: k.Most, Range: k.Range}
	}
	var categories struct {
		Attributes map[string]struct{ UID int }
	}
	c.read("categories.json", &categories)
	c.events, c.objects = c.folder("events"), c.folder("objects")
	wanted := make(map[int]bool)
	for _, m := range mappings {
		wanted[m.class.uid] = true
	}
	wanted[apiActivity.uid] = true
	for name, e := range c.events {
		uid := categories.Attributes[e.Category].UID*1000 + e.UID
		if name == "base_event" {
			uid = 0
		} else if e.UID == 0 {
			continue // only inherited from
		}
		if wanted[uid] {
			class := c.shape(c.events, name)
			for a, n := range map[string]int{"class_uid": uid, "category_uid": uid / 1000} {
				own := class.Attributes[a]
				own.Enum = []string{strconv.Itoa(n)}
				class.Attributes[a] = own
			}
			c.out.Classes[strconv.Itoa(uid)] = class
		}
	}
	return c.out
}

func (c *compiler) read(name string, v any) {
	c.t.Helper()
	b, err := fs.ReadFile(c.dir, name)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
}

func (c *compiler) folder(name string) map[string]definition {
	all := make(map[string]definition)
	err := fs.WalkDir(c.dir, name, func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		var d definition
		c.read(path, &d)
		if d.Category == "" && d.Extends == "" {
			d.Category = strings.TrimSuffix(filepath.Base(path), ".json")
		}
		all[d.Name] = d
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for name, d := range all { // a class is of its parent's category
		for up := d; d.Category == "" && up.Extends != ""; {
			up = all[up.Extends]
			d.Category = up.Category
		}
		all[name] = d
	}
	return all
}

// attributes are those of a definition with what it inherits.
func (c *compiler) attributes(of map[string]definition, name string) map[string]attribute {
	d, ok := of[name]
	if !ok {
		c.t.Fatalf("the schema has no %s", name)
	}
	out := make(map[string]attribute)
	if d.Extends != "" {
		out = c.attributes(of, d.Extends)
	}
	if include := d.Attributes["$include"]; include != nil {
		var files []string
		if err := json.Unmarshal(include, &files); err != nil {
			c.t.Fatal(err)
		}
		for _, file := range files {
			var p definition
			c.read(file, &p)
			for a, raw := range p.Attributes {
				if _, has := out[a]; !has {
					out[a] = c.attribute(attribute{Profile: p.Name}, a, raw)
				}
			}
		}
	}
	for a, raw := range d.Attributes {
		if a != "$include" {
			out[a] = c.attribute(out[a], a, raw)
		}
	}
	return out
}

// attribute is one as it is refined by a definition.
func (c *compiler) attribute(a attribute, name string, raw json.RawMessage) attribute {
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
	d := c.dictionary[name]
	a.Type, a.Array = d.Type, d.Array
	if e.Type != "" {
		a.Type = e.Type
	}
	if e.Requirement != nil {
		a.Required = *e.Requirement == "required"
	}
	if string(e.Profile) == "null" {
		a.Profile = ""
	} else if len(e.Profile) > 0 {
		_ = json.Unmarshal(e.Profile, &a.Profile) // a list of profiles is none in particular
	}
	enum := slices.Concat(a.Enum, slices.Collect(maps.Keys(d.Enum)), slices.Collect(maps.Keys(e.Enum)))
	if len(d.Enum)+len(e.Enum) > 0 {
		slices.Sort(enum)
		a.Enum = slices.Compact(enum)
	}
	if !c.types[a.Type] {
		c.object(a.Type)
	}
	return a
}

func (c *compiler) object(name string) {
	if _, done := c.out.Objects[name]; done || name == "" || name == "object" {
		return
	}
	c.out.Objects[name] = shape{} // it may hold its like
	c.out.Objects[name] = c.shape(c.objects, name)
}

func (c *compiler) shape(of map[string]definition, name string) shape {
	s := shape{Name: name, Attributes: c.attributes(of, name)}
	for up := name; up != ""; up = of[up].Extends {
		if l := of[up].Constraints; len(l.AtLeastOne)+len(l.JustOne) > 0 {
			s.AtLeastOne, s.JustOne = l.AtLeastOne, l.JustOne
			break
		}
	}
	return s
}

// check reports everything in which an event isn't what the schema says.
func (s *schema) check(line []byte) error {
	var e map[string]any
	d := json.NewDecoder(strings.NewReader(string(line)))
	d.UseNumber()
	if err := d.Decode(&e); err != nil {
		return err
	}
	uid := fmt.Sprint(e["class_uid"])
	class, ok := s.Classes[uid]
	if !ok {
		return fmt.Errorf("there is no class %s", uid)
	}
	profiles := []string{}
	if m, ok := e["metadata"].(map[string]any); ok {
		list, _ := m["profiles"].([]any)
		for _, p := range list {
			profiles = append(profiles, fmt.Sprint(p))
		}
	}
	errs := s.object(class.Name, class, e, profiles)
	number := func(name string) int {
		n, _ := strconv.Atoi(fmt.Sprint(e[name]))
		return n
	}
	if number("type_uid") != number("class_uid")*100+number("activity_id") || number("category_uid") != number("class_uid")/1000 {
		errs = append(errs, errors.New("class, category, activity and type do not fit together"))
	}
	return errors.Join(errs...)
}

func (s *schema) object(at string, of shape, v map[string]any, profiles []string) (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(at+": "+format, args...)) }
	for name, a := range of.Attributes {
		off := a.Profile != "" && !slices.Contains(profiles, a.Profile)
		if _, has := v[name]; !has && a.Required && !off {
			fail("%s is required", name)
		} else if has && off {
			fail("%s is of the profile %s, which the event doesn't name", name, a.Profile)
		}
	}
	have := func(names []string) (n int) {
		for _, name := range names {
			if _, ok := v[name]; ok {
				n++
			}
		}
		return n
	}
	if len(of.AtLeastOne) > 0 && have(of.AtLeastOne) == 0 {
		fail("one of %v is required", of.AtLeastOne)
	}
	if len(of.JustOne) > 0 && have(of.JustOne) != 1 {
		fail("just one of %v is wanted", of.JustOne)
	}
	for name, value := range v {
		a, ok := of.Attributes[name]
		if !ok {
			fail("there is no attribute %s", name)
			continue
		}
		list, isList := value.([]any)
		if isList != a.Array {
			fail("%s: array is %v, want %v", name, isList, a.Array)
			continue
		}
		if !isList {
			list = []any{value}
		}
		for _, one := range list {
			errs = append(errs, s.value(at+"."+name, a, one, profiles)...)
		}
	}
	return errs
}

func (s *schema) value(at string, a attribute, v any, profiles []string) []error {
	if len(a.Enum) > 0 && !slices.Contains(a.Enum, fmt.Sprint(v)) {
		return []error{fmt.Errorf("%s: %v is none of %v", at, v, a.Enum)}
	}
	k, scalar := s.Types[a.Type]
	if !scalar {
		o, ok := v.(map[string]any)
		switch {
		case !ok:
			return []error{fmt.Errorf("%s: %T is no %s", at, v, a.Type)}
		case a.Type == "object":
			return nil // anything
		}
		return s.object(at, s.Objects[a.Type], o, profiles)
	}
	base := a.Type
	if k.Base != "" {
		base = k.Base
		if up := s.Types[base]; up.Base != "" {
			base = up.Base
		}
	}
	switch x := v.(type) {
	case string:
		if base != "string_t" && base != "json_t" {
			return []error{fmt.Errorf("%s: a string is no %s", at, a.Type)}
		}
		if k.Longest > 0 && len(x) > k.Longest {
			return []error{fmt.Errorf("%s: longer than %d", at, k.Longest)}
		}
		if k.Pattern != "" && !pattern(k.Pattern).MatchString(x) {
			return []error{fmt.Errorf("%s: %q is no %s", at, x, a.Type)}
		}
	case json.Number:
		n, ok := new(big.Int).SetString(x.String(), 10)
		if !ok || base != "integer_t" && base != "long_t" || !n.IsInt64() {
			return []error{fmt.Errorf("%s: %s is no %s", at, x, a.Type)}
		}
		if len(k.Range) == 2 && (n.Int64() < int64(k.Range[0]) || n.Int64() > int64(k.Range[1])) {
			return []error{fmt.Errorf("%s: %s is out of range", at, x)}
		}
	case bool:
		if base != "boolean_t" {
			return []error{fmt.Errorf("%s: a bool is no %s", at, a.Type)}
		}
	default:
		return []error{fmt.Errorf("%s: %T is no %s", at, v, a.Type)}
	}
	return nil
}

// patterns are those of the schema's types, compiled: there are few.
var patterns = make(map[string]*regexp.Regexp)

func pattern(text string) *regexp.Regexp {
	if patterns[text] == nil {
		patterns[text] = regexp.MustCompile(text)
	}
	return patterns[text]
}
