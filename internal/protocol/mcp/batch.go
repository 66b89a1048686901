package mcp

import (
	"errors"
	"net/http"
	"sync"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// batchVersion is the only revision of the protocol that has batches. It is
// also what a request without a field for the revision is of.
const batchVersion = "2025-03-26"

// maxBatch bounds the messages of a batch.
const maxBatch = 32

var (
	errBatchVersion = errors.New("only revision " + batchVersion + " has batches: send each message by itself")
	errBatchSize    = errors.New("a batch has between 1 and 32 messages")
	errBatchTwice   = errors.New("an id stands twice in the batch")
	errBatchAlone   = errors.New("this message stands in no batch: send it by itself")
)

// isBatch reports whether a text is a list, if it is JSON at all.
func isBatch(raw []byte) bool {
	i := space(raw, 0)
	return i < len(raw) && raw[i] == '['
}

// batchOf reads messages that came together.
func batchOf(raw []byte, h http.Header, maxID int) ([]*message, error) {
	if err := strict(raw); err != nil {
		return nil, err
	}
	if v := h["Mcp-Protocol-Version"]; len(v) > 1 || len(v) == 1 && v[0] != batchVersion {
		return nil, errBatchVersion
	}
	if h["Mcp-Method"] != nil || h["Mcp-Name"] != nil { // they can't be those of all
		return nil, errHeader
	}
	all := elements(raw)
	if len(all) == 0 || len(all) > maxBatch {
		return nil, errBatchSize
	}
	list, ids := make([]*message, 0, len(all)), make(map[string]bool)
	for _, one := range all {
		m, err := parseID(one, maxID)
		if err != nil {
			return nil, err
		}
		if m.method == "initialize" || m.version() != "" {
			return nil, errBatchAlone
		}
		if m.id != nil {
			kind := "asks " // an answer's id is one of the server's
			if m.isResponse() {
				kind = "answers "
			}
			if key := kind + idKey(m.id); ids[key] {
				return nil, errBatchTwice
			} else {
				ids[key] = true
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// batch serves messages that came together. Each is decided, recorded and passed
// on by itself, and only the answers go back together: what one of them may not
// do keeps none of the others from its way. Those without an answer keep their
// order; requests run beside each other, as JSON-RPC allows.
func (t *turn) batch(raw []byte) {
	list, err := batchOf(raw, t.r.Header, maxID)
	if err != nil {
		t.skip(nil, raw, http.StatusBadRequest, err)
		return
	}
	if _, ok := t.conversation(nil); !ok {
		t.skip(nil, raw, http.StatusNotFound, errNoSession)
		return
	}
	out := &outlet{w: t.w, write: t.write, many: true, limit: t.res.Message}
	answerAll(out, list, func(m *message) *reply {
		return within(t.ctx, t.r.Request, t.res.Message+maxFraming, t.p.log, func(w http.ResponseWriter, r *http.Request) {
			one, req := *t, *t.r
			req.Request = r
			req.Header = t.r.Header.Clone()
			one.w, one.r, one.ctx, one.whole = w, &req, r.Context(), true
			one.receive(m, m.raw)
		})
	})
}

// answerAll has each message of a batch served, and answers the batch.
func answerAll(out *outlet, list []*message, serve func(*message) *reply) {
	refused, asked := 0, false
	var running sync.WaitGroup
	for _, m := range list {
		if !m.isRequest() {
			if rep := serve(m); rep.status >= 300 {
				refused = rep.status
				rep.close()
			} else {
				rep.close()
			}
			continue
		}
		asked = true
		running.Go(func() {
			rep := serve(m)
			defer rep.close()
			passOn(out, m, rep)
		})
	}
	running.Wait()
	switch {
	case asked:
		out.end()
	case refused > 0:
		httpgate.Problem(out.w, &httpgate.Failure{Status: refused, Reason: "a message of the batch is not taken", Hint: "send each by itself to see why"})
	default:
		out.w.WriteHeader(http.StatusAccepted)
	}
}

// passOn passes on what answers one request of a batch. Ids of its events say
// nothing of the stream that they all stand in.
func passOn(out *outlet, asked *message, rep *reply) {
	if rep.stream {
		out.begin()
	}
	for {
		e, err := rep.next()
		if err != nil {
			return // a cancelled request has no answer, and of one that was cut off nothing may look like one
		}
		if len(e.data) == 0 {
			if rep.stream && !e.hasID {
				out.event(&event{})
			}
			continue
		}
		m, err := parse(e.data)
		switch {
		case err == nil && m.isResponse():
			out.answer(m.raw)
		case err == nil:
			out.event(&event{data: m.raw})
		default: // no message, but what refuses one
			p := &problem{code: codeInternal, message: "the message is not served"}
			out.answer(p.response(asked.id))
		}
	}
}
