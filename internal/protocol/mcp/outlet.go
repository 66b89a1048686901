package mcp

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
)

// outlet is where several write what one request of an agent's is answered with:
// as one value if there is nothing but answers, and otherwise as a stream of
// events. It is safe for concurrent use.
type outlet struct {
	write func([]byte) // and flush
	w     http.ResponseWriter
	many  bool // answers stand in an array, as the messages did
	limit int  // bytes of answers that are held back until all are there

	mu        sync.Mutex
	status    int // of the one value
	held      [][]byte
	size      int
	streaming bool
	over      bool
}

// answer takes one answer.
func (o *outlet) answer(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	if o.streaming {
		o.write((&event{data: b}).append(nil))
		return
	}
	o.held = append(o.held, b)
	if o.size += len(b); o.size > o.limit && o.many {
		o.stream()
	}
}

// event takes what isn't an answer, or has an id by which the stream can be
// taken up again.
func (o *outlet) event(e *event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	o.stream()
	o.write(e.append(nil))
}

// begin begins the stream.
func (o *outlet) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.stream()
	}
}

// begun reports whether the stream has begun.
func (o *outlet) begun() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.streaming
}

// stream begins the stream, if that wasn't done yet; o.mu is held.
func (o *outlet) stream() {
	if o.streaming {
		return
	}
	o.streaming = true
	h := o.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	o.w.WriteHeader(http.StatusOK)
	o.write(nil)
	for _, b := range o.held {
		o.write((&event{data: b}).append(nil))
	}
	o.held = nil
}

// end writes what was held back. Without anything it is a stream that says
// nothing.
func (o *outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	if len(o.held) == 0 {
		o.stream()
	}
	o.over = true
	if o.streaming {
		return
	}
	b := o.held[0]
	if o.many {
		b = append(append([]byte{'['}, bytes.Join(o.held, []byte(","))...), ']')
	}
	h := o.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	if o.status == 0 {
		o.status = http.StatusOK
	}
	o.w.WriteHeader(o.status)
	o.write(b)
}
