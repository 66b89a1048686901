package httpgate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// plainWriter writes the response to a plain request, as net/http's server
// would, but that it makes up no Content-Type.
type plainWriter struct {
	agent  net.Conn
	header http.Header
	head   bool            // HEAD was asked: there is no content
	last   context.Context // when it is done, no other request follows
	gone   func()          // told when the agent takes no more

	buf      *[]byte // what isn't sent yet; nil before the head is written
	framing  int     // where in it the head says how the content comes; 0 once it does
	status   int     // 0 before the head is written
	length   int64   // of the content as it was announced; -1 is not
	written  int64   // of it
	chunked  bool
	trailers []string // announced
	close    bool
	ended    bool
	err      error // of a write to the agent
}

const (
	bufferBefore = 2 << 10 // bytes of a content are kept before it is sent in chunks
	keptRoom     = 8 << 10
)

var errEnded = errors.New("the response has ended")

var rooms = sync.Pool{New: func() any { b := make([]byte, 0, keptRoom); return &b }}

// Header implements http.ResponseWriter.
func (w *plainWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

// SetReadDeadline is there for who streams a request's content: a plain one is
// read already.
func (w *plainWriter) SetReadDeadline(time.Time) error { return nil }

func (w *plainWriter) release() {
	if w.buf != nil && cap(*w.buf) <= 2*keptRoom {
		*w.buf = (*w.buf)[:0]
		rooms.Put(w.buf)
	}
	w.buf = nil
}

// WriteHeader implements http.ResponseWriter.
func (w *plainWriter) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	w.buf = rooms.Get().(*[]byte)
	b := append(*w.buf, "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	b = append(b, crlf...)
	if n, err := strconv.ParseInt(first(w.header, "Content-Length"), 10, 64); err == nil && n >= 0 {
		w.length = n
	}
	w.close = listed(w.header["Connection"], "close") || w.last.Err() != nil
	b = w.fields(b)
	if w.close {
		b = append(b, "Connection: close\r\n"...)
	}
	w.framing = len(b)
	*w.buf = b
	switch {
	case !w.bodyAllowed():
		w.frame(nil)
	case w.length >= 0:
		w.frameLength(w.length)
	}
}

func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// fields appends the fields but for those that say how the content comes.
func (w *plainWriter) fields(b []byte) []byte {
	var few [32]string // most have no more
	names := few[:0]
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case name == "Content-Length", name == "Transfer-Encoding", name == "Connection", strings.HasPrefix(name, http.TrailerPrefix),
			name == "Content-Type" && w.status == http.StatusNotModified, !isToken(name):
			continue
		case name == "Trailer":
			for _, v := range w.header[name] {
				for t := range strings.SplitSeq(v, ",") {
					w.trailers = append(w.trailers, http.CanonicalHeaderKey(strings.TrimSpace(t)))
				}
			}
		}
		for _, v := range w.header[name] {
			b = field(b, name, oneLine(v))
		}
	}
	if _, ok := w.header["Date"]; !ok {
		b = append(time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat), crlf...)
	}
	return b
}

// oneLine is a field's value without what would end its line.
func oneLine(v string) string {
	if strings.ContainsAny(v, "\r\n") {
		v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
	}
	return strings.TrimSpace(v)
}

func (w *plainWriter) bodyAllowed() bool {
	return w.status >= 200 && w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// frameLength ends the head with the length of the content.
func (w *plainWriter) frameLength(n int64) {
	var line [48]byte
	w.frame(append(strconv.AppendInt(append(line[:0], "Content-Length: "...), n, 10), crlf...))
}

// frame ends the head with what says how the content comes.
func (w *plainWriter) frame(line []byte) {
	*w.buf = slices.Insert(slices.Insert(*w.buf, w.framing, crlf...), w.framing, line...)
	w.framing = 0
}

// Write implements http.ResponseWriter.
func (w *plainWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.ended {
		return 0, errEnded
	}
	w.written += int64(len(p))
	switch {
	case len(p) == 0:
		return 0, w.err
	case !w.bodyAllowed():
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written > w.length:
		return 0, http.ErrContentLength
	case w.framing > 0 && w.written <= bufferBefore: // it may be all
		if !w.head {
			*w.buf = append(*w.buf, p...)
		}
		return len(p), nil
	case w.framing > 0:
		w.chunk()
	}
	if w.head {
		return len(p), nil
	}
	if w.chunked {
		*w.buf = append(strconv.AppendInt(*w.buf, int64(len(p)), 16), crlf...)
	}
	if len(*w.buf)+len(p) <= keptRoom {
		*w.buf = append(*w.buf, p...)
	} else if err := w.send(p); err != nil {
		return 0, err
	}
	if w.chunked {
		*w.buf = append(*w.buf, crlf...)
	}
	return len(p), w.err
}

// chunk begins a content in chunks with what is kept of it. What HEAD asks for
// has none.
func (w *plainWriter) chunk() {
	if w.head {
		w.frame(nil)
		return
	}
	w.chunked = true
	if kept := len(*w.buf) - w.framing; kept > 0 {
		*w.buf = slices.Insert(append(*w.buf, crlf...), w.framing, []byte(strconv.FormatInt(int64(kept), 16)+"\r\n")...)
	}
	w.frame([]byte("Transfer-Encoding: chunked\r\n"))
}

// send sends what is kept, and p.
func (w *plainWriter) send(p []byte) error {
	if w.err != nil {
		return w.err
	}
	switch {
	case len(p) == 0:
		_, w.err = w.agent.Write(*w.buf)
	case len(*w.buf) == 0:
		_, w.err = w.agent.Write(p)
	default:
		all := net.Buffers{*w.buf, p}
		_, w.err = all.WriteTo(w.agent)
	}
	*w.buf = (*w.buf)[:0]
	if w.err != nil {
		w.gone()
	}
	return w.err
}

// Flush implements http.Flusher.
func (w *plainWriter) Flush() { _ = w.FlushError() }

// FlushError implements what http.ResponseController looks for.
func (w *plainWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.ended {
		return w.err
	}
	if w.framing > 0 {
		w.chunk()
	}
	if len(*w.buf) == 0 {
		return w.err
	}
	return w.send(nil)
}

// End ends the response for a handler that has more to do.
func (w *plainWriter) End() {
	if w.ended {
		return
	}
	w.ended = true
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.framing > 0 && (len(w.trailers) > 0 || w.prefixed()) {
		w.chunk()
	}
	switch {
	case w.framing > 0 && w.head && w.written == 0: // how much it would be isn't known
		w.frame(nil)
	case w.framing > 0:
		w.frameLength(w.written)
	case w.chunked:
		*w.buf = append(w.trailer(append(*w.buf, "0\r\n"...)), crlf...)
	}
	if len(*w.buf) > 0 {
		_ = w.send(nil)
	}
}

// finish ends the response, and reports whether another may follow.
func (w *plainWriter) finish() bool {
	w.End()
	w.release()
	whole := w.head || !w.bodyAllowed() || w.length < 0 || w.written == w.length
	return w.err == nil && whole && !w.close
}

func (w *plainWriter) prefixed() bool {
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// trailer appends the trailer fields.
func (w *plainWriter) trailer(b []byte) []byte {
	for _, name := range w.trailers {
		for _, v := range w.header[name] {
			b = field(b, name, oneLine(v))
		}
	}
	for name, values := range w.header {
		if rest, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && isToken(rest) {
			for _, v := range values {
				b = field(b, rest, oneLine(v))
			}
		}
	}
	return b
}
