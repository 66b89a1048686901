package mcp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// within serves a request inside the gateway, and returns once its response has
// begun. The content is read as it is written. The reply must be closed before
// the request that it is made for has been served.
func within(ctx context.Context, r *http.Request, limit int, log *slog.Logger, serve func(http.ResponseWriter, *http.Request)) *reply {
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	in := &inner{header: make(http.Header), begun: make(chan struct{}), to: pw}
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
					log.Error("a request within the gateway failed", "panic", v, "stack", string(debug.Stack()))
				}
				pw.CloseWithError(errCut)
				in.WriteHeader(http.StatusBadGateway)
			}
		}()
		serve(in, r.WithContext(ctx))
		in.WriteHeader(http.StatusOK)
		pw.Close()
	}()
	<-in.begun
	rep := replyOf(&http.Response{StatusCode: in.status, Header: in.sent, Body: pr}, limit)
	rep.close = func() {
		pr.Close()
		late := time.NewTimer(innerGrace)
		defer late.Stop()
		select {
		case <-over:
		case <-ctx.Done():
		case <-late.C:
		}
		cancel()
		<-over
	}
	return rep
}

// innerGrace is how long a request within the gateway may take to end by itself
// once its answer has been read.
const innerGrace = time.Second

// errCut is how a response within the gateway ends that must not look whole.
var errCut = errors.New("the answer was cut off")

// inner is the response to a request within the gateway.
type inner struct {
	header http.Header
	once   sync.Once
	begun  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
	to     *io.PipeWriter
}

// Header implements http.ResponseWriter.
func (i *inner) Header() http.Header { return i.header }

// WriteHeader implements http.ResponseWriter.
func (i *inner) WriteHeader(status int) {
	i.once.Do(func() {
		i.status, i.sent = status, i.header.Clone()
		close(i.begun)
	})
}

// Write implements http.ResponseWriter.
func (i *inner) Write(b []byte) (int, error) {
	i.WriteHeader(http.StatusOK)
	if len(b) == 0 {
		return 0, nil
	}
	return i.to.Write(b)
}

// Flush implements http.Flusher: nothing is held back.
func (i *inner) Flush() { i.WriteHeader(http.StatusOK) }
