package mcp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// capabilityOf is the capability by which a server says that it has a list, by
// the member of results that it stands in.
var capabilityOf = map[string]string{
	"tools": "tools", "prompts": "prompts", "resources": "resources", "resourceTemplates": "resources",
}

// list answers with what all members list, each as the agent may see it. A
// member that doesn't answer has no part in it, and the answer says so.
func (f *front) list(m *message) {
	cursors, err := f.cursors(m)
	if err != nil {
		f.stray(m, m.raw, http.StatusOK, err)
		return
	}
	key := listKeys[m.method]
	parts, more := make([][]json.RawMessage, len(f.j.legs)), make(map[string]string)
	out := make(map[string]string)
	var first *httpgate.Failure
	answered := false
	var mu sync.Mutex
	f.beside(func(ctx context.Context, i int, l *leg) {
		if cursors != nil && cursors[l.Name] == "" || !l.offersAny(capabilityOf[key]) {
			return
		}
		part, next, fail := f.part(ctx, l, m, key, cursors[l.Name])
		mu.Lock()
		defer mu.Unlock()
		if fail != nil {
			if out[l.Name] = fail.Reason; first == nil {
				first = fail
			}
			return
		}
		answered, parts[i] = true, part
		if next != "" {
			more[l.Name] = next
		}
	})
	var entries []json.RawMessage
	size := 0
	for i, l := range f.j.legs {
		part := 0
		for _, e := range parts[i] {
			part += len(e) + 1
		}
		if size+part > f.out.limit {
			out[l.Name] = "with its part the list would be too large: ask it at its own address"
			delete(more, l.Name)
			continue
		}
		size += part
		entries = append(entries, parts[i]...)
	}
	if cursors == nil && key == "tools" {
		answered = true
		entries = append(entries, f.ownTools(m)...)
	}
	if !answered && first != nil {
		f.refused(m, first)
		return
	}
	f.tellOut(m, out)
	result := map[string]any{key: append([]json.RawMessage{}, entries...)}
	if len(more) > 0 {
		result["nextCursor"] = base64.RawURLEncoding.EncodeToString(encode(more))
	}
	f.result(m, result, out)
}

// cursors are where members' lists go on, by their names; nil is a list from its
// beginning. A cursor says for whom it holds each part.
func (f *front) cursors(m *message) (map[string]string, error) {
	v, err := member(m.params, "cursor")
	if err != nil || v == nil {
		return nil, err
	}
	errCursor := errors.New("the cursor is none of this endpoint's")
	b, err := base64.RawURLEncoding.DecodeString(text(v))
	if err != nil || strict(b) != nil {
		return nil, errCursor
	}
	cursors := make(map[string]string)
	if json.Unmarshal(b, &cursors) != nil || len(cursors) == 0 {
		return nil, errCursor
	}
	for name, cursor := range cursors {
		if f.j.leg(label(name)) == nil || cursor == "" {
			return nil, errCursor
		}
	}
	return cursors, nil
}

// part is what one member lists, with its label, and where that goes on.
func (f *front) part(ctx context.Context, l *leg, m *message, key, cursor string) ([]json.RawMessage, string, *httpgate.Failure) {
	l.mu.Lock()
	why, again := l.why, l.again
	l.mu.Unlock()
	if _, up := l.isUp(); !up && why != "" && time.Now().Before(again) {
		return nil, "", &httpgate.Failure{Status: http.StatusBadGateway, Reason: why}
	}
	content := with(m.raw, "params", func(v []byte) []byte {
		// Progress of several is none.
		v = with(v, "_meta", func(v []byte) []byte { return with(v, "progressToken", func([]byte) []byte { return nil }) })
		if cursor == "" {
			return v
		}
		return with(v, "cursor", func([]byte) []byte { return encode(cursor) })
	})
	a, fail := f.exchange(ctx, l, m, content, "")
	if fail != nil {
		if fail.Status >= http.StatusForbidden { // it isn't there, or not for this agent
			l.fails(fail.Reason)
		}
		return nil, "", fail
	}
	if a.fail != nil {
		if code, _ := member(a.fail, "code"); string(code) == codeNoMethod { // it has no such things
			return nil, "", nil
		}
		return nil, "", refusedBy(http.StatusBadGateway, a.raw)
	}
	list, next := l.label.listed(key, a.result)
	return list, next, nil
}

// listed are the entries of a list, with the label, and its cursor.
func (l label) listed(key string, result []byte) (list []json.RawMessage, next string) {
	v, _ := member(result, key) // it has been read on its way
	for _, one := range elements(v) {
		switch key {
		case "resources":
			one = l.located(one)
		case "resourceTemplates":
			one = with(one, "uriTemplate", func(v []byte) []byte { return encode(l.uri(text(v))) })
		default:
			one = with(one, "name", func(v []byte) []byte { return encode(l.name(text(v))) })
		}
		list = append(list, one)
	}
	cursor, _ := member(result, "nextCursor")
	return list, text(cursor)
}

// tellOut tells the agent once which members have no part in what it asked for.
// Where requests stand for themselves only their results may say so.
func (f *front) tellOut(m *message, out map[string]string) {
	f.j.mu.Lock()
	quiet := f.j.quiet || f.j.opening == nil
	f.j.mu.Unlock()
	for _, l := range f.j.legs {
		why := out[l.Name]
		l.mu.Lock()
		known := l.told == why
		l.told = why
		l.mu.Unlock()
		if known || why == "" || quiet {
			continue
		}
		f.out.event(&event{data: encode(map[string]any{
			"jsonrpc": "2.0", "method": "notifications/message", "params": map[string]any{
				"level": "warning", "logger": OwnMember, "data": l.Name + " has no part in " + m.method + ": " + why,
			},
		})})
	}
}

// toAll asks all members that are up the same, and answers with the first good
// answer.
func (f *front) toAll(m *message, capability string) {
	var mu sync.Mutex
	var good *message
	var bad *httpgate.Failure
	f.beside(func(ctx context.Context, _ int, l *leg) {
		if _, up := l.isUp(); !up && f.j.opening != nil || !l.offersAny(capability) {
			return
		}
		a, fail := f.exchange(ctx, l, m, m.raw, "")
		if fail == nil && a.fail != nil {
			fail = refusedBy(http.StatusBadGateway, a.raw)
		}
		mu.Lock()
		defer mu.Unlock()
		if fail != nil {
			bad = fail
		} else {
			good = a
		}
	})
	if good == nil && bad != nil {
		f.refused(m, bad)
		return
	}
	f.result(m, map[string]any{}, nil)
}
