package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// maxNesting bounds values within values in a message.
const maxNesting = 128

// Why a text isn't one that all readers read alike.
var (
	errNotJSON = errors.New("the message is not one JSON value in UTF-8")
	errTwice   = errors.New("a key stands twice in an object")
	errNested  = errors.New("the message is nested too deeply")
)

// strict reports what keeps a text from being JSON that all readers read alike:
// one value in UTF-8, with no key twice in an object.
func strict(b []byte) error {
	if !utf8.Valid(b) || !json.Valid(b) {
		return errNotJSON
	}
	_, err := distinct(b, space(b, 0), 0)
	return err
}

// distinct returns the end of the value at i, in which no object has a key
// twice. The functions below read only what is valid JSON.
func distinct(b []byte, i, depth int) (int, error) {
	if depth > maxNesting {
		return 0, errNested
	}
	switch b[i] {
	case '{':
		seen := make(map[string]bool)
		for i = space(b, i+1); b[i] != '}'; i = next(b, i) {
			k := end(b, i)
			key := text(b[i:k])
			if seen[key] {
				return 0, errTwice
			}
			seen[key] = true
			var err error
			if i, err = distinct(b, space(b, space(b, k)+1), depth+1); err != nil {
				return 0, err
			}
		}
		return i + 1, nil
	case '[':
		for i = space(b, i+1); b[i] != ']'; i = next(b, i) {
			var err error
			if i, err = distinct(b, i, depth+1); err != nil {
				return 0, err
			}
		}
		return i + 1, nil
	}
	return end(b, i), nil
}

// space returns where white space that begins at i ends.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// next returns where the next entry begins, or the bracket that ends the list,
// behind the value that ends at i.
func next(b []byte, i int) int {
	if i = space(b, i); b[i] == ',' {
		i = space(b, i+1)
	}
	return i
}

// end returns the end of the value that begins at i.
func end(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default: // a number, or a word
			if depth > 0 {
				continue
			}
			for i < len(b) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(b[i])) {
				i++
			}
			return i
		}
		if depth == 0 {
			return i + 1
		}
	}
	return i
}

// text is what a JSON string says; "" when b is none.
func text(b []byte) string {
	if len(b) < 2 || b[0] != '"' {
		return ""
	}
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1])
	}
	var s string
	if json.Unmarshal(b, &s) != nil {
		return ""
	}
	return s
}

// members calls f with each member of an object, and returns its first error.
// Of what is no object there are none.
func members(b []byte, f func(key string, value []byte) error) error {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return nil
	}
	for i = space(b, i+1); b[i] != '}'; i = next(b, i) {
		k := end(b, i)
		v := space(b, space(b, k)+1)
		e := end(b, v)
		if err := f(text(b[i:k]), b[v:e]); err != nil {
			return err
		}
		i = e
	}
	return nil
}

// elements returns the elements of a list; nil when b is none.
func elements(b []byte) [][]byte {
	i := space(b, 0)
	if i >= len(b) || b[i] != '[' {
		return nil
	}
	list := [][]byte{}
	for i = space(b, i+1); b[i] != ']'; i = next(b, i) {
		e := end(b, i)
		list = append(list, b[i:e])
		i = e
	}
	return list
}

// member returns the value of an object's member, nil when it has none. A key
// that differs only in case is an error: readers that see no difference would
// take one for the other.
func member(b []byte, name string) (value []byte, err error) {
	err = members(b, func(key string, v []byte) error {
		switch {
		case key == name:
			value = v
		case strings.EqualFold(key, name):
			return errFolded
		}
		return nil
	})
	return value, err
}

var errFolded = errors.New("a key differs only in case from one that has a meaning")
