package sql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// Asker asks PostgreSQL's grammar. *grammar.Pool is one.
type Asker interface {
	Ask(ctx context.Context, text string) (*grammar.Facts, error)
}

// Understanding is what is known of a text. It is immutable.
type Understanding struct {
	// Shape is what the text does. Equal shapes have the same address.
	Shape *evidence.Shape
	// Effects change what later texts of the session mean, in order, if the
	// statement succeeds.
	Effects []Effect
	// Reason says why the text isn't understood. It may quote the text: it is
	// for the sealed part and for a person, not for the body.
	Reason string
	// Killed: the text ended the process that parses, or outlasted it.
	Killed bool

	shareable bool
	unclear   bool                       // it is opaque, whatever its EXECUTEs run
	retry     time.Time                  // when zero, never: asking again gives the same
	family    *[len(paths)]Understanding // the same on every path
}

// paths are those that a text commonly comes on. What a text is on one of them
// is remembered with the others.
var paths = [...]string{"simple", "prepare", "extended", "execute", "fetch", "function"}

// On is the same Understanding for a text that came on another path.
func (u *Understanding) On(path string) *Understanding {
	if u.Shape.Path == path {
		return u
	}
	if u.family != nil {
		for i := range paths {
			if paths[i] == path {
				return &u.family[i]
			}
		}
	}
	other := *u
	other.Shape = onPath(u.Shape, path)
	return &other
}

func onPath(s *evidence.Shape, path string) *evidence.Shape {
	other := *s
	other.Path = path
	return &other
}

// Effect is one effect on the session.
type Effect struct {
	grammar.Effect
	// Inner is what a PREPARE gives a name.
	Inner *Prepared

	env Env // by which an EXECUTE is understood
}

// Prepared is a statement that SQL's PREPARE has named. The server plans it
// anew whenever the search_path has moved, so what it does is known only where
// it is executed.
type Prepared struct {
	facts *grammar.Facts
}

// cost is about how many bytes a Prepared holds on to.
func (p *Prepared) cost() int {
	n := 1024
	for _, st := range p.facts.Statements {
		n += len(st.Text)
		for _, use := range st.Uses {
			n += 128 + len(use.Schema) + len(use.Name)
			for _, column := range use.Sets {
				n += 16 + len(column)
			}
		}
	}
	for _, name := range p.facts.Names {
		n += 32 + len(name.Text)
	}
	return n
}

// Inner says what a prepared statement does where it is executed by env.
func (u *Understander) Inner(p *Prepared, env Env) *Understanding {
	st := u.state.Load()
	return st.intern(resolve(st.index, env, p.facts))
}

// Executes reports whether the text runs statements that SQL-level PREPARE
// made: then it is opaque until Understander.Execute has put them in.
func (u *Understanding) Executes() bool {
	return slices.ContainsFunc(u.Effects, func(e Effect) bool { return e.Kind == grammar.EffectExecute })
}

// ChangesCatalogue reports whether the text makes, changes or drops things
// that a Catalogue holds: load it again after it has succeeded.
func (u *Understanding) ChangesCatalogue() bool {
	return slices.ContainsFunc(u.Effects, func(e Effect) bool { return e.Kind == grammar.EffectCatalogue })
}

// String explains an Understanding to a person.
func (u *Understanding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, understood: %s", u.Shape.Verb, u.Shape.Parse)
	if u.Reason != "" {
		fmt.Fprintf(&b, " (%s)", u.Reason)
	}
	if u.Shape.Text != "" {
		fmt.Fprintf(&b, "\n  text  %s", u.Shape.Text)
	}
	for _, c := range u.Shape.Checks {
		fmt.Fprintf(&b, "\n  check %s %s", c.Action, cmp.Or(c.Object, "(the resource)"))
	}
	for _, k := range slices.Sorted(maps.Keys(u.Shape.Facts)) {
		fmt.Fprintf(&b, "\n  fact  %s = %v", k, u.Shape.Facts[k])
	}
	for _, e := range u.Effects {
		fmt.Fprintf(&b, "\n  then  %s", e)
	}
	return b.String()
}

// String explains an effect to a person.
func (e Effect) String() string {
	s := string(e.Kind)
	if e.Name != "" {
		s += " " + e.Name
	}
	if len(e.Values) > 0 {
		s += " to " + strings.Join(e.Values, ", ")
	}
	if e.Local {
		s += " until the transaction ends"
	}
	if e.Unsure {
		s += ", perhaps"
	}
	return s
}

var opaqueCheck = evidence.Check{Action: Prefix + "opaque"}

// opaque is the understanding of what isn't understood.
func opaque(reason string) *Understanding {
	return &Understanding{
		Shape: &evidence.Shape{
			Path: paths[0], Parse: evidence.ParseOpaque, Verb: evidence.VerbOpaque,
			Checks: []evidence.Check{opaqueCheck}, Facts: evidence.Facts{},
		},
		Effects: []Effect{{Effect: grammar.Effect{Kind: grammar.EffectUnknowable, Unsure: true}}},
		Reason:  reason,
	}
}

// Understander understands the texts of one database. Its methods are safe for
// concurrent use.
type Understander struct {
	grammar Asker
	state   atomic.Pointer[state]
	set     sync.Mutex
}

// state is a catalogue and what was understood by it.
type state struct {
	catalogue *Catalogue
	index     *index
	texts     *cache[*Understanding] // by text
	skeletons *cache[*Understanding] // by skeleton, those that all texts of it share
	shapes    *cache[*[len(paths)]*evidence.Shape]
}

// The caches of one database hold this many bytes at most.
const (
	textBytes     = 32 << 20
	skeletonBytes = 16 << 20
	shapeBytes    = 16 << 20
)

// New returns an Understander by a catalogue, or by none: then only what every
// server has is known.
func New(g Asker, c *Catalogue) *Understander {
	u := &Understander{grammar: g}
	u.SetCatalogue(c)
	return u
}

// SetCatalogue puts a catalogue in force for the texts that come after.
func (u *Understander) SetCatalogue(c *Catalogue) {
	u.set.Lock()
	defer u.set.Unlock()
	u.state.Store(&state{
		catalogue: c, index: newIndex(c),
		texts: newCache[*Understanding](textBytes), skeletons: newCache[*Understanding](skeletonBytes),
		shapes: newCache[*[len(paths)]*evidence.Shape](shapeBytes),
	})
}

// Catalogue is the one in force, or nil.
func (u *Understander) Catalogue() *Catalogue { return u.state.Load().catalogue }

// retryAfter is how long a text that killed or outlasted the grammar stays
// opaque before it is asked about again.
const retryAfter = time.Minute

// Understand says what text does. path is how it came ("simple", "prepare",
// ...) and becomes the Shape's. It doesn't fail: what isn't understood is
// opaque. It doesn't keep text.
func (u *Understander) Understand(ctx context.Context, text, path string, env Env) *Understanding {
	st := u.state.Load()
	if env.raw {
		return st.intern(opaque("the session has changed how its texts are read")).On(path)
	}
	return u.lookup(ctx, st, text, env).On(path)
}

func (u *Understander) lookup(ctx context.Context, st *state, text string, env Env) *Understanding {
	h := hashOf(text, env)
	if un, ok := st.texts.get(h, text, env.key); ok && (un.retry.IsZero() || time.Now().Before(un.retry)) {
		return un
	}
	var stack [1024]byte
	skeleton, hasSkeleton := grammar.Skeleton(stack[:0], text, nil)
	var hs uint64
	if hasSkeleton {
		hs = hashOfBytes(skeleton, env)
		if un, ok := st.skeletons.getBytes(hs, skeleton, env.key); ok {
			return un
		}
	}
	un, keep := u.ask(ctx, st, text, env)
	switch {
	case !keep:
	case hasSkeleton && un.shareable:
		un = st.skeletons.put(hs, string(skeleton), env.key, un, costOf(un))
	default:
		un = st.texts.put(h, strings.Clone(text), env.key, un, costOf(un))
	}
	return un
}

// ask understands a text that no cache knows. It reports whether the answer
// may be kept.
func (u *Understander) ask(ctx context.Context, st *state, text string, env Env) (un *Understanding, keep bool) {
	facts, err := u.grammar.Ask(ctx, text)
	switch {
	case errors.Is(err, grammar.ErrKilled):
		un = opaque(err.Error())
		un.Killed = true
		un.retry = time.Now().Add(retryAfter)
		return st.intern(un), true
	case err != nil:
		return st.intern(opaque(err.Error())), false
	case facts.Refused != "":
		return st.intern(opaque("PostgreSQL's grammar refuses it: " + facts.Refused)), true
	}
	return st.intern(resolve(st.index, env, facts)), true
}

// maxExecutes bounds the EXECUTEs of one text that are understood.
const maxExecutes = 32

// Execute puts into an Understanding what its EXECUTEs run. prepared returns
// what a name that was prepared in this session does when it is executed by
// env, or nil. A name that isn't known leaves the text opaque.
func (u *Understander) Execute(un *Understanding, prepared func(name string, env Env) *Understanding) *Understanding {
	if !un.Executes() {
		return un
	}
	st := u.state.Load()
	local := make(map[string]*Prepared) // in this very text
	executes := 0
	checks := make(map[evidence.Check]struct{})
	for _, c := range un.Shape.Checks {
		checks[c] = struct{}{}
	}
	if !un.unclear {
		delete(checks, opaqueCheck)
	}
	shape := *un.Shape
	shape.Facts = maps.Clone(un.Shape.Facts)
	shape.Parse = evidence.ParseFull
	text := shape.Text
	out := &Understanding{Effects: un.Effects, Reason: un.Reason}
	for _, e := range un.Effects {
		switch e.Kind {
		case grammar.EffectPrepare:
			local[e.Name] = e.Inner
		case grammar.EffectExecute:
			if executes++; executes > maxExecutes {
				return un
			}
			var inner *Understanding
			if p := local[e.Name]; p != nil {
				inner = u.Inner(p, e.env)
			} else {
				inner = prepared(e.Name, e.env)
			}
			// What comes behind one that moves the path was understood without that.
			if inner == nil || len(inner.Effects) > 0 && un.Shape.Facts["statements"] != int64(1) {
				return un
			}
			for _, c := range inner.Shape.Checks {
				checks[c] = struct{}{}
			}
			mergeFacts(shape.Facts, inner.Shape.Facts)
			text = strings.TrimPrefix(text+"; EXECUTE: "+inner.Shape.Text, "; ")
			out.Effects = slices.Clip(out.Effects)
			for _, i := range inner.Effects {
				i.Unsure = i.Unsure || e.Unsure
				out.Effects = append(out.Effects, i)
			}
		}
	}
	shape.Text, shape.Checks = text, sortedChecks(checks)
	shape.Verb = strongest(shape.Checks)
	if _, ok := checks[opaqueCheck]; ok {
		shape.Parse = evidence.ParsePartial
	}
	out.Shape = &shape
	return st.intern(out).On(un.Shape.Path)
}

// mergeFacts puts the facts of a statement that is run into those of the one
// that runs it.
func mergeFacts(into, from evidence.Facts) {
	for k, v := range from {
		old, ok := into[k]
		switch v := v.(type) {
		case bool:
			if ok {
				v = v && old.(bool)
			}
			into[k] = v
		case []string:
			if ok {
				v = slices.Concat(v, old.([]string))
				slices.Sort(v)
				v = slices.Compact(v)
			}
			into[k] = v
		}
	}
}

// intern gives equal shapes one address, on each path, and un its family.
func (st *state) intern(un *Understanding) *Understanding {
	content := contentOf(un.Shape)
	shapes := new([len(paths)]*evidence.Shape)
	for i, path := range paths {
		shapes[i] = onPath(un.Shape, path)
	}
	shapes = st.shapes.put(hashOf(content, Env{}), content, "", shapes, 1024+2*len(content))
	family := new([len(paths)]Understanding)
	for i := range paths {
		family[i] = *un
		family[i].Shape, family[i].family = shapes[i], family
	}
	return &family[0]
}

// contentOf is a text that two shapes share when they are equal but for the
// path.
func contentOf(s *evidence.Shape) string {
	var b strings.Builder
	for _, p := range []string{string(s.Parse), s.Verb, s.Text} {
		b.WriteString(p)
		b.WriteByte(0)
	}
	for _, c := range s.Checks {
		b.WriteString(c.Action + "\x01" + c.Object + "\x00")
	}
	for _, k := range slices.Sorted(maps.Keys(s.Facts)) {
		fmt.Fprintf(&b, "%s\x01%q\x00", k, s.Facts[k])
	}
	return b.String()
}

// costOf is about how many bytes an Understanding holds on to.
func costOf(un *Understanding) int {
	n := 1024 + len(un.Reason) + len(un.Shape.Text)
	for _, c := range un.Shape.Checks {
		n += 32 + len(c.Object)
	}
	for _, v := range un.Shape.Facts {
		n += 64
		if list, ok := v.([]string); ok {
			for _, e := range list {
				n += 16 + len(e)
			}
		}
	}
	for _, e := range un.Effects {
		n += 128 + len(e.Name)
		for _, v := range e.Values {
			n += 16 + len(v)
		}
		if e.Inner != nil {
			n += e.Inner.cost()
		}
	}
	return n
}

func sortedChecks(set map[evidence.Check]struct{}) []evidence.Check {
	return slices.SortedFunc(maps.Keys(set), func(a, b evidence.Check) int {
		return cmp.Or(strings.Compare(a.Action, b.Action), strings.Compare(a.Object, b.Object))
	})
}

func sortedKeys(set map[string]struct{}) []string { return slices.Sorted(maps.Keys(set)) }

// compact sorts keys and drops those that are there twice.
func compact(keys []key) []key {
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(strings.Compare(a.schema, b.schema), strings.Compare(a.name, b.name))
	})
	return slices.Compact(keys)
}
