package sql

import (
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// Session follows what the meaning of a session's texts depends on: its
// search_path, how its texts are lexed, and what it has prepared by name. It
// keeps every value that may hold, and gives up one only when the server has
// said so. It isn't safe for concurrent use.
//
// The order of calls for each text is: Env and Understand, Sent when it goes
// upstream, Done when its outcome is known; Parameter and Ready when the
// server's messages of those kinds arrive.
type Session struct {
	user  string
	reset []string // the search_path that RESET restores

	begin  pathSet // when the transaction began
	kept   pathSet // when it commits now
	now    pathSet
	seen   pathSet // every value since the transaction began: ROLLBACK TO goes back to one
	failed bool    // the transaction can only roll back

	raw      map[string]bool // settings that make texts unreadable
	sent     []*Understanding
	prepared map[string]*Prepared
	held     int  // bytes that prepared holds on to
	confused bool // more is sent or prepared than we keep
}

// What a Session keeps at most. Past that it trusts no name and no path.
const (
	maxSent     = 1024
	maxPrepared = 8 << 20 // bytes
)

// NewSession follows a session that has just connected as user and whose
// search_path is the setting, as SHOW search_path spells it.
func NewSession(user, searchPath string) *Session {
	s := &Session{user: user, raw: make(map[string]bool), prepared: make(map[string]*Prepared)}
	if path, ok := parsePath(searchPath, user); ok {
		s.reset = path
		s.now = pathSet{paths: [][]string{path}}
	} else {
		s.now = pathSet{any: true}
	}
	s.begin, s.kept, s.seen = s.now, s.now, s.now
	return s
}

// Env is what the meaning of the next text depends on. It counts what has been
// sent and not answered.
func (s *Session) Env() Env {
	now, raw := s.now, len(s.raw) > 0
	for _, u := range s.sent {
		for _, e := range u.Effects {
			if v, ok := s.pathAfter(e); ok {
				now = now.or(v)
			}
			raw = raw || changesLexing(e)
		}
	}
	seen := s.seen
	if now.any || seen.any || s.confused {
		now, seen = pathSet{}, pathSet{}
	}
	if seen.equal(now) {
		seen = pathSet{} // as it mostly is: one Env for all of them
	}
	return newEnv(now.paths, seen.paths, s.reset, s.user, raw)
}

// Sent says that a text is on its way.
func (s *Session) Sent(u *Understanding) {
	if len(u.Effects) == 0 {
		return
	}
	if len(s.sent) >= maxSent {
		s.confused = true
		return
	}
	s.sent = append(s.sent, u)
}

// Done says how a text that was sent ended. ok false is: it failed, was
// skipped, or nobody knows.
func (s *Session) Done(u *Understanding, ok bool) {
	if len(u.Effects) == 0 {
		if !ok {
			s.failed = true
		}
		return
	}
	if i := slices.Index(s.sent, u); i >= 0 {
		s.sent = slices.Delete(s.sent, i, i+1)
	}
	for _, e := range u.Effects {
		s.apply(e, ok)
	}
	s.failed = s.failed || !ok
}

func (s *Session) apply(e Effect, ok bool) {
	if v, changes := s.pathAfter(e); changes {
		switch {
		case !ok || e.Unsure:
			s.now, s.kept = s.now.or(v), s.kept.or(v)
		case e.Local:
			s.now = v
		default:
			s.now, s.kept = v, v
		}
		s.seen = s.seen.or(v)
	}
	switch e.Kind {
	case grammar.EffectCommit:
		s.end(ok && !s.failed, ok)
	case grammar.EffectRollback:
		s.end(false, ok)
	case grammar.EffectRollbackTo:
		s.now, s.kept = s.now.or(s.seen), s.kept.or(s.seen)
		s.failed = s.failed && !ok
	case grammar.EffectPrepare:
		if ok || s.prepared[e.Name] == nil {
			s.Prepare(e.Name, e.Inner)
		}
	case grammar.EffectDeallocate:
		if ok {
			s.Deallocate(e.Name)
		}
	case grammar.EffectDiscard:
		if ok {
			s.Deallocate("")
		}
	}
}

// end ends a transaction, or may have.
func (s *Session) end(commits, sure bool) {
	after := s.begin
	if commits {
		after = s.kept
	}
	if !sure {
		after = s.begin.or(s.kept)
	}
	s.begin, s.kept, s.now, s.seen, s.failed = after, after, after, after, false
}

// pathAfter is the search_path after an effect, if the effect is on it.
func (s *Session) pathAfter(e Effect) (pathSet, bool) {
	switch e.Kind {
	case grammar.EffectSet:
		if e.Name == "search_path" {
			return pathSet{paths: [][]string{expandPath(e.Values, s.user)}}, true
		}
	case grammar.EffectReset, grammar.EffectDiscard:
		if e.Name == "" || e.Name == "search_path" {
			if s.reset == nil {
				return pathSet{any: true}, true
			}
			return pathSet{paths: [][]string{s.reset}}, true
		}
	case grammar.EffectUnknowable, grammar.EffectRole: // a role changes what "$user" is
		return pathSet{any: true}, true
	}
	return pathSet{}, false
}

// changesLexing reports whether texts may be lexed otherwise after an effect.
// The server's own word, in Parameter, settles it.
func changesLexing(e Effect) bool {
	switch e.Kind {
	case grammar.EffectSet, grammar.EffectReset:
		return e.Name == "" || lexing(e.Name) && (e.Kind == grammar.EffectReset || len(e.Values) != 1 || !readable(e.Name, e.Values[0]))
	case grammar.EffectUnknowable, grammar.EffectDiscard:
		return true
	}
	return false
}

func lexing(name string) bool {
	return name == "client_encoding" || name == "standard_conforming_strings"
}

// readable reports whether texts are read as we read them when a setting has
// that value.
func readable(name, value string) bool {
	switch value = strings.ToLower(value); name {
	case "client_encoding":
		return value == "utf8" || value == "utf-8" || value == "unicode"
	case "standard_conforming_strings":
		return value == "on" || value == "true" || value == "1" || value == "yes"
	}
	return true
}

// Parameter says that the server reported a setting (ParameterStatus).
func (s *Session) Parameter(name, value string) {
	switch {
	case name == "search_path": // reported since PostgreSQL 18
		if path, ok := parsePath(value, s.user); ok {
			s.now = pathSet{paths: [][]string{path}}
		}
	case readable(name, value):
		delete(s.raw, name)
	default:
		s.raw[name] = true
	}
}

// Ready says that the server is ready, with its transaction status: 'I', 'T'
// or 'E' (ReadyForQuery).
func (s *Session) Ready(status byte) {
	switch status {
	case 'I':
		// What COMMIT and ROLLBACK didn't settle, an implicit transaction has.
		s.begin, s.now, s.seen, s.failed = s.kept, s.kept, s.kept, false
	case 'E':
		s.failed = true
	}
}

// Prepare says that a name now stands for a statement.
func (s *Session) Prepare(name string, p *Prepared) {
	if p == nil {
		return
	}
	s.forget(name)
	if cost := p.cost() + len(name); s.held+cost <= maxPrepared {
		s.held += cost
		s.prepared[name] = p
	} // else it is unknown, and so opaque
}

// Deallocate says that a name is gone; "" is all of them.
func (s *Session) Deallocate(name string) {
	if name == "" {
		clear(s.prepared)
		s.held = 0
	}
	s.forget(name)
}

func (s *Session) forget(name string) {
	if p := s.prepared[name]; p != nil {
		s.held -= p.cost() + len(name)
		delete(s.prepared, name)
	}
}

// Prepared is what a name stands for, or nil when that isn't known.
func (s *Session) Prepared(name string) *Prepared {
	found := s.prepared[name]
	for _, u := range s.sent {
		for _, e := range u.Effects {
			if e.Kind != grammar.EffectPrepare || e.Name != name {
				continue
			}
			if found != nil && found != e.Inner {
				return nil
			}
			found = e.Inner
		}
	}
	if s.confused {
		return nil
	}
	return found
}

// pathSet are the values that a search_path may have.
type pathSet struct {
	paths [][]string
	any   bool
}

// maxPaths bounds the candidates that are told apart.
const maxPaths = 8

func (a pathSet) equal(b pathSet) bool {
	return a.any == b.any && slices.EqualFunc(a.paths, b.paths, slices.Equal)
}

func (a pathSet) or(b pathSet) pathSet {
	if a.any || b.any {
		return pathSet{any: true}
	}
	paths := slices.Clone(a.paths)
	for _, p := range b.paths {
		if !slices.ContainsFunc(paths, func(q []string) bool { return slices.Equal(p, q) }) {
			paths = append(paths, p)
		}
	}
	if len(paths) > maxPaths {
		return pathSet{any: true}
	}
	return pathSet{paths: paths}
}
