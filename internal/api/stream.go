package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Event is one line of an answer that streams (application/x-ndjson). Exactly
// one field is set; the last line is a result or a problem. A stream that ends
// without either was cut off.
type Event struct {
	Progress *Progress `json:"progress,omitempty"`
	Data     []byte    `json:"data,omitempty" doc:"the next bytes, base64"`
	Entry    *Entry    `json:"entry,omitempty" doc:"the next line of a transcript"`

	Pack       *Pack       `json:"pack,omitempty" doc:"result of create-pack"`
	Unsealed   *Unsealed   `json:"unsealed,omitempty" doc:"result of unseal-sample"`
	Export     *Export     `json:"export,omitempty" doc:"result of export-ocsf"`
	Fsck       *FsckReport `json:"fsck,omitempty" doc:"result of log-fsck"`
	Transcript *Transcript `json:"transcript,omitempty" doc:"result of transcript"`
	Recording  *Recording  `json:"recording,omitempty" doc:"result of recording"`
	Problem    *Problem    `json:"problem,omitempty"`

	Proposed *Proposed       `json:"proposed,omitempty" doc:"result of propose-policy"`
	Backtest *BacktestReport `json:"backtest,omitempty" doc:"result of backtest-policy"`
}

const (
	ndjson       = "application/x-ndjson"
	maxData      = 64 << 10         // bytes in one data event
	writeTimeout = 30 * time.Second // for a client to take one event
	progressRate = 200 * time.Millisecond
)

// events writes an answer that streams. Until the first event the status is
// open, so that what is wrong with a request is told with a status of its own.
type events struct {
	mu    sync.Mutex
	ctx   huma.Context
	w     http.ResponseWriter
	rc    *http.ResponseController
	limit time.Duration // for a client to take one event
	began bool
	last  time.Time // of the newest progress
	event Event     // the result
}

// send writes one event. Its error means that the client has gone. The time
// between events is nobody's limit: HTTP/2 would end the stream of a deadline
// that passes, even if nothing is being written.
func (s *events) send(e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", ndjson)
		s.ctx.SetStatus(http.StatusOK)
	}
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.limit)); err != nil {
		return fmt.Errorf("streaming: %w", err)
	}
	if err := json.NewEncoder(s.w).Encode(e); err != nil {
		return fmt.Errorf("streaming: %w", err)
	}
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("streaming: %w", err)
	}
	if err := s.rc.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("streaming: %w", err)
	}
	return nil
}

// progress tells of progress, not too often. Nobody waits for it: that the
// client has gone shows at the next bytes, or at the end.
func (s *events) progress(p Progress) {
	s.mu.Lock()
	soon := time.Since(s.last) < progressRate
	if !soon {
		s.last = time.Now()
	}
	s.mu.Unlock()
	if !soon {
		_ = s.send(Event{Progress: &p})
	}
}

// Write sends b as data events.
func (s *events) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		chunk := b[n:min(n+maxData, len(b))]
		if err := s.send(Event{Data: chunk}); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

// stream registers an operation whose answer streams. f leaves its result in
// s.event.
func stream[I any](a *routes, op operation, f func(ctx context.Context, in *I, s *events) error) {
	schema := a.api.OpenAPI().Components.Schemas.Schema(typeEvent, true, "Event")
	handle(a, op, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			_, w := humago.Unwrap(hctx)
			s := &events{ctx: hctx, w: w, rc: http.NewResponseController(w), limit: writeTimeout}
			if err := f(ctx, in, s); err != nil {
				s.fail(asProblem(err))
				return
			}
			_ = s.send(s.event) // the client has gone; the cut stream tells it
		}}, nil
	})
	o := a.api.OpenAPI().Paths[op.path].Post
	if op.method == http.MethodGet {
		o = a.api.OpenAPI().Paths[op.path].Get
	}
	o.Responses["200"] = &huma.Response{
		Description: "Events, one per line",
		Content:     map[string]*huma.MediaType{ndjson: {Schema: schema}},
	}
}

func (s *events) fail(p *Problem) {
	s.mu.Lock()
	began := s.began
	s.mu.Unlock()
	if began {
		_ = s.send(Event{Problem: p}) // the client has gone; the cut stream tells it
		return
	}
	s.w.Header().Set("Content-Type", p.ContentType(""))
	s.ctx.SetStatus(p.Status)
	_ = json.NewEncoder(s.w).Encode(p) // likewise
}
