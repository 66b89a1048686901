package httpgate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Match returns what JSON pointers (RFC 6901) find in a content, as facts named
// by the pointers. It reports false when policy could be made to see another
// content than the upstream does, or a value that no fact can hold.
func Match(text []byte, pointers []string) (evidence.Facts, bool) {
	v, err := decode(text)
	if err != nil {
		return nil, false
	}
	facts := make(evidence.Facts)
	for _, p := range pointers {
		switch fact, found := lookup(v, p); {
		case found && fact == nil:
			return nil, false
		case found:
			facts[p] = fact
		}
	}
	return facts, true
}

// maxNesting bounds contents that are looked at.
const maxNesting = 64

// decode reads a JSON text that all readers read alike: with one value, in
// UTF-8, and no key twice in an object.
func decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something behind the value")
	}
	return v, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, errors.New("nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		m := make(map[string]any)
		folded := make(map[string]bool) // some readers see no difference in case
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, _ := k.(string)
			if folded[strings.ToLower(key)] {
				return nil, errors.New("a key stands twice in an object")
			}
			folded[strings.ToLower(key)] = true
			if m[key], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return m, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	return t, nil
}

// maxFact bounds a value that policy sees and records hold, bytes.
const maxFact = 256

// lookup returns what a JSON pointer finds, as a fact: strings, booleans,
// integers and lists of strings are themselves; other numbers are their text;
// null is not found. What no fact can hold is found and nil.
func lookup(v any, pointer string) (fact any, found bool) {
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch c := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = c[token]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(c) {
				return nil, false
			}
			v = c[i]
		default:
			return nil, false
		}
	}
	switch c := v.(type) {
	case string:
		return clip(c), true
	case bool:
		return c, true
	case json.Number:
		if n, err := c.Int64(); err == nil {
			return n, true
		}
		return clip(c.String()), true
	case []any:
		list := make([]string, 0, len(c))
		for _, e := range c {
			s, ok := e.(string)
			if !ok || len(list) == 64 {
				return nil, true
			}
			list = append(list, clip(s))
		}
		return list, true
	case map[string]any:
		return nil, true
	}
	return nil, false
}

// clip marks what was cut, so that no cut value equals a whole one.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxFact {
		return s
	}
	return strings.ToValidUTF8(s[:maxFact], "") + "…"
}
