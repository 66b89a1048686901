package mcp

import (
	"bufio"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// readers are those of streams.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 8<<10) }}

// replyOf is a server's response, of which no message exceeds limit bytes.
func replyOf(resp *http.Response, limit int) *reply {
	r := &reply{status: resp.StatusCode, header: resp.Header, close: func() { resp.Body.Close() }}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if r.stream = err == nil && media == "text/event-stream" && resp.StatusCode == http.StatusOK; r.stream {
		s := &events{br: readers.Get().(*bufio.Reader), limit: limit}
		s.br.Reset(resp.Body)
		r.next = s.next
		r.come = func() bool { return s.br.Buffered() > 0 || httpgate.Come(resp.Body) }
		r.close = func() {
			s.br.Reset(nil)
			readers.Put(s.br)
			resp.Body.Close()
		}
		return r
	}
	read := false
	r.next = func() (*event, error) {
		if read {
			return nil, io.EOF
		}
		read = true
		b, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
		if err != nil {
			return nil, err
		}
		if len(b) > limit {
			return nil, errTooLarge
		}
		if len(b) == 0 {
			return nil, io.EOF
		}
		return &event{data: b}, nil
	}
	return r
}

// returned are the fields of responses that have a meaning in the protocol.
var returned = []string{"Content-Type", "Cache-Control", "Retry-After", "Allow", "Mcp-Session-Id", "Mcp-Protocol-Version"}

// copyFields passes on what a response says.
func copyFields(to, from http.Header) {
	for _, name := range returned {
		if v := from[name]; len(v) > 0 {
			to[name] = v[:1]
		}
	}
}

// validSession reports whether an id of a session is one that the protocol
// allows, and of a size that is kept.
func validSession(id string) bool {
	return id != "" && len(id) <= 256 && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}
