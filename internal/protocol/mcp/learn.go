package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// names has the lists read that a message is understood by. The agent may not
// have asked for them, or not lately.
func (t *turn) names(c *conversation, m *message) *httpgate.Failure {
	for _, method := range lists[m.method] {
		if c.fresh(method) {
			continue
		}
		if f := t.learn(c, m, method); f != nil {
			return f
		}
	}
	return nil
}

const maxPages = 64 // of one list

// learn reads a list, on behalf of nobody: each page is a command of the
// gateway's own that whoever may connect may cause.
func (t *turn) learn(c *conversation, m *message, method string) *httpgate.Failure {
	c.learning.Lock()
	defer c.learning.Unlock()
	if c.fresh(method) { // another request has read it meanwhile
		return nil
	}
	var list []entry
	cursor := ""
	for range maxPages {
		result, ex, f := t.page(c, m, method, cursor)
		if f != nil || result == nil {
			return f
		}
		page, _, more, err := entriesOf(method, result)
		if err != nil || len(list)+len(page) > maxListed {
			return &httpgate.Failure{Status: http.StatusBadGateway, Reason: "what the resource offers cannot be read", Hint: "ask the gateway's operator"}
		}
		list = append(list, page...)
		if !more {
			return t.take(c, method, list, ex)
		}
		next, _ := member(result, "nextCursor") // entriesOf has read it
		cursor = text(next)
	}
	return &httpgate.Failure{Status: http.StatusBadGateway, Reason: "what the resource offers has no end", Hint: "ask the gateway's operator"}
}

// take takes in a list that was read to its end.
func (t *turn) take(c *conversation, method string, list []entry, ex protocol.Exchange) *httpgate.Failure {
	if method == "tools/list" {
		alert, err := t.tools(list, true)
		t.alert(ex, alert)
		if err != nil {
			t.p.log.Error("what a server offers cannot be recorded: nothing is passed to it", "resource", t.res.Resource, "cause", err)
			return &httpgate.Failure{Status: http.StatusServiceUnavailable, Reason: "what the resource offers cannot be recorded", Hint: "ask the gateway's operator"}
		}
	}
	c.learned(method, list, true)
	return nil
}

// ownIDs numbers the gateway's own requests.
var ownIDs atomic.Uint64

// page asks for one page of a list; nil is one that the server doesn't give.
func (t *turn) page(c *conversation, m *message, method, cursor string) (result []byte, ex protocol.Exchange, f *httpgate.Failure) {
	id := encode("exhibit-" + strconv.FormatUint(ownIDs.Add(1), 10))
	content := ownRequest(id, method, cursor, m)
	out, f := t.packet(c, http.MethodPost, content, &ownMessage{method})
	if f != nil {
		return nil, nil, f
	}
	exchanges, err := t.s.Begin(t.ctx, &evidence.Command{
		Shape: t.p.shapes.of(shapeKey{path: pathGateway, method: method, actions: Name + ":connect"}), Raw: content, Frames: 1, Bytes: out.bytes,
	})
	if err != nil {
		return nil, nil, httpgate.Refused(err)
	}
	ex = exchanges[0]
	if ex.Decision().Effect != evidence.Allow {
		return nil, nil, httpgate.Denial(ex)
	}
	rep, err := out.send(t.ctx)
	if err == nil {
		defer rep.close()
		result, err = t.pageOf(rep, id, ex)
	}
	o := evidence.Outcome{Class: evidence.OK}
	var said *serverError
	switch {
	case errors.As(err, &said):
		o = evidence.Outcome{Class: evidence.Failed, Code: said.code}
		result = []byte("{}") // it has no such things
		if said.code != codeNoMethod {
			result, f = nil, &httpgate.Failure{
				Status: http.StatusBadGateway, Reason: "what the resource offers cannot be read: it answers with the error " + said.code,
				Hint: "ask in another revision of the protocol, or the gateway's operator",
			}
		}
	case err != nil:
		o, f = t.s.Unanswered(ex, err)
	}
	if err := ex.End(context.WithoutCancel(t.ctx), o); err != nil {
		return nil, nil, httpgate.Refused(err)
	}
	return result, ex, f
}

// ownRequest is a request of the gateway's own, of the same revision as the
// agent's.
func ownRequest(id []byte, method, cursor string, m *message) []byte {
	b := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	b = appendText(append(b, `,"method":`...), method)
	b = append(b, `,"params":{`...)
	if cursor != "" {
		b = appendText(append(b, `"cursor":`...), cursor)
	}
	if meta, err := member(m.params, "_meta"); err == nil && m.version() != "" {
		if cursor != "" {
			b = append(b, ',')
		}
		b = append(b, `"_meta":{`...)
		first := true
		_ = members(meta, func(key string, v []byte) error {
			if key == "progressToken" {
				return nil
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(append(appendText(b, key), ':'), v...)
			return nil
		})
		b = append(b, '}')
	}
	return append(b, "}}"...)
}

// serverError is an error that a server answers with.
type serverError struct{ code string }

func (e *serverError) Error() string { return "the server answers with error " + e.code }

// codeNoMethod is how JSON-RPC spells that a method isn't there.
const codeNoMethod = "-32601"

var errUnsent = errors.New("nothing was sent")

// pageOf reads the answer to a request of the gateway's own.
func (t *turn) pageOf(rep *reply, id []byte, ex protocol.Exchange) ([]byte, error) {
	for {
		e, err := rep.next()
		switch {
		case errors.Is(err, io.EOF) && rep.status != http.StatusOK:
			return nil, &serverError{strconv.Itoa(rep.status)}
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case len(e.data) == 0:
			continue
		}
		m, err := parse(e.data)
		switch {
		case err != nil && rep.status != http.StatusOK:
			return nil, &serverError{strconv.Itoa(rep.status)}
		case err != nil:
			return nil, err
		case m.fail != nil && (m.id == nil || idKey(m.id) == idKey(id)):
			code, err := member(m.fail, "code")
			if err != nil || !integer.Match(code) {
				code = []byte("error")
			}
			return nil, &serverError{string(code)}
		case m.result == nil || m.id == nil || idKey(m.id) != idKey(id):
			continue
		}
		if err := ex.Observe(evidence.ToAgent, m.raw); err != nil {
			return nil, fmt.Errorf("observing: %w", err)
		}
		return m.result, nil
	}
}

// note accounts for a message of the gateway's own.
func (t *turn) note(ctx context.Context, kind string, bytes int) error {
	return t.s.Note(ctx, protocol.Note{Kind: kind, Gateway: true, Frames: 1, Bytes: bytes})
}
