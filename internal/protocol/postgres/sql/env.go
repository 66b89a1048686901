package sql

import (
	"hash/maphash"
	"slices"
	"strings"
)

// Env is what a statement's meaning depends on besides its text and the
// catalogue. Session makes it. The zero Env knows nothing: every schema may be
// in the search_path.
type Env struct {
	paths [][]string // candidates: one, unless the session's path isn't known for sure
	seen  [][]string // those of the transaction, which its end or a savepoint may bring back
	reset []string   // the path that RESET goes back to; nil when unknown
	user  string     // what "$user" is; "" when unknown
	raw   bool       // texts are lexed in a way that we don't
	key   string
	hash  uint64
}

var seed = maphash.MakeSeed()

func newEnv(paths, seen [][]string, reset []string, user string, raw bool) Env {
	var k strings.Builder
	if raw {
		k.WriteByte(1)
	}
	k.WriteString(user)
	for i, list := range [][][]string{paths, seen, {reset}} {
		k.WriteByte(byte(5 + i))
		for _, p := range list {
			k.WriteByte(2)
			for _, s := range p {
				k.WriteByte(3)
				k.WriteString(s)
			}
		}
	}
	if reset == nil {
		k.WriteByte(4)
	}
	s := k.String()
	return Env{paths, seen, reset, user, raw, s, maphash.String(seed, s)}
}

// PathEnv is the Env of a session whose search_path is just this setting, as
// SHOW search_path spells it, and whose user is user.
func PathEnv(setting, user string) Env {
	path, ok := parsePath(setting, user)
	if !ok {
		return Env{}
	}
	return newEnv([][]string{path}, nil, path, user, false)
}

// parsePath splits the value of search_path into schemas, as PostgreSQL's
// SplitIdentifierString does.
func parsePath(setting, user string) ([]string, bool) {
	names, ok := splitIdentifiers(setting, ',')
	if !ok {
		return nil, false
	}
	return expandPath(names, user), true
}

// expandPath puts the user's name for "$user". The path is never nil.
func expandPath(names []string, user string) []string {
	path := make([]string, 0, len(names))
	for _, n := range names {
		if n = truncate(n); n == "$user" {
			n = user
		}
		if n != "" && !slices.Contains(path, n) {
			path = append(path, n)
		}
	}
	return path
}

// splitIdentifiers splits a list of identifiers, which may be quoted; those
// that aren't are folded to lower case.
func splitIdentifiers(s string, sep byte) ([]string, bool) {
	const space = " \t\n\r\f" // to PostgreSQL's lexer
	var names []string
	if s = strings.Trim(s, space); s == "" {
		return nil, true
	}
	for {
		s = strings.TrimLeft(s, space)
		var name string
		if strings.HasPrefix(s, `"`) {
			var b strings.Builder
			i := 1
			for ; ; i++ {
				if i >= len(s) {
					return nil, false
				}
				if s[i] == '"' {
					if i+1 < len(s) && s[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			name, s = b.String(), s[i+1:]
		} else {
			end := strings.IndexAny(s, string(sep)+space)
			if end < 0 {
				end = len(s)
			}
			if end == 0 || strings.Contains(s[:end], `"`) {
				return nil, false
			}
			name, s = lower(s[:end]), s[end:]
		}
		names = append(names, truncate(name))
		s = strings.TrimLeft(s, space)
		if s == "" {
			return names, true
		}
		if s[0] != sep {
			return nil, false
		}
		s = s[1:]
	}
}

// lower folds an identifier as PostgreSQL does: what isn't ASCII stays.
func lower(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// truncate cuts an identifier to what PostgreSQL keeps of it.
func truncate(name string) string {
	const most = 63 // NAMEDATALEN - 1, bytes
	if len(name) <= most {
		return name
	}
	cut := most
	for cut > 0 && name[cut]&0xC0 == 0x80 {
		cut--
	}
	return name[:cut]
}
