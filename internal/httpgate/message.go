package httpgate

import (
	"context"
	"io"
	"net/http"
)

// Outgoing is a request with all of its content, ready to go upstream. A
// Handler whose commands are messages and not requests has it made, begins the
// command, and sends it.
type Outgoing struct {
	o *outgoing
}

// Bytes is how many bytes go upstream.
func (m *Outgoing) Bytes() int { return len(m.o.head) + len(m.o.body) }

// Compose makes a request that goes upstream with content. The Failure says why
// it can't be made.
func (s *Session) Compose(ctx context.Context, r *Request, content []byte) (*Outgoing, *Failure) {
	o, _, err := s.compose(ctx, r, content)
	if err != nil {
		return nil, s.uncomposed(err)
	}
	o.content(int64(len(content)))
	return &Outgoing{o}, nil
}

// Send sends a request whose command has begun, or of which a note says that the
// gateway makes it. The content of the response is the caller's to close; an
// error is what Unanswered takes.
func (s *Session) Send(ctx context.Context, m *Outgoing) (*http.Response, error) {
	s.Count(1, m.Bytes(), 0)
	return s.up.do(ctx, m.o)
}

// Count adds to what the session's end says: requests or their like, bytes that
// went upstream, and bytes that went to the agent.
func (s *Session) Count(requests, sent, replied int) {
	s.requests.Add(uint64(requests))
	s.sent.Add(uint64(sent))
	s.replied.Add(uint64(replied))
}

// Refused is a refusal of the gate as a Failure.
func Refused(err error) *Failure { return refusalOf(err, "") }

// Ended returns a context that is done when the session must end, whatever its
// requests do.
func (s *Session) Ended() context.Context { return s.ctx }

// Come reports whether some of a response's content has come already, so that
// what is said before it needs no writing of its own.
func Come(content io.Reader) bool {
	b, ok := content.(interface{ Buffered() int })
	return ok && b.Buffered() > 0
}

// End ends a response of which all is written, if that can be done before its
// Handler returns, and otherwise flushes it.
func End(w http.ResponseWriter) error {
	if e, ok := w.(interface{ End() }); ok {
		e.End()
		return nil
	}
	return http.NewResponseController(w).Flush()
}
