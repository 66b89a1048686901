package httpgate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Most requests are plain: HTTP/1.1 as everybody writes it, and there as a whole
// once they are read, or nearly. Those are served here, for less than net/http's
// server takes for all that a request could be. Whatever isn't plain beyond doubt
// goes to net/http from its first byte on, and the rest of the connection with
// it: what is wrong with it, and what else HTTP/1.1 and HTTP/2 have, is
// net/http's to know.

const (
	maxPlain  = 8 << 10                // bytes of a plain request
	soon      = 100 * time.Millisecond // its content is there
	lookAfter = 10 * time.Millisecond  // an agent that may have left is looked for
)

// plain is an agent's connection while its requests are.
type plain struct {
	c     *connection
	agent net.Conn
	tls   *tls.ConnectionState // nil without
	addr  string
	life  *life
	br    *bufio.Reader
	begun bool      // it has had a request
	until time.Time // the read deadline; zero is none, or not known

	look *time.Timer // runs while a request is served

	mu      sync.Mutex // of what looks
	over    bool       // the request that it belongs to
	looking chan struct{}
	ahead   [1]byte // read by it
	has     bool
}

func newPlain(ctx context.Context, c *connection) *plain {
	p := &plain{
		c: c, agent: c.agent, addr: c.agent.RemoteAddr().String(),
		life: &life{Context: context.WithValue(ctx, http.LocalAddrContextKey, c.agent.LocalAddr())},
	}
	if t, ok := c.agent.(*tls.Conn); ok {
		state := t.ConnectionState()
		p.tls = &state
	}
	p.br = bufio.NewReaderSize(p, maxPlain)
	return p
}

// serve serves requests until the connection ends, which is nil, or one comes
// that isn't plain: then it returns the connection as it was before that.
func (p *plain) serve() net.Conn {
	defer p.life.leave()
	served := make(chan struct{})
	defer close(served)
	stop := context.AfterFunc(p.life, func() {
		p.agent.SetReadDeadline(past) //nolint:errcheck // it is closed, then
		select {
		case <-served:
		case <-time.After(courtesy):
			p.agent.Close()
		}
	})
	defer stop()
	for {
		q, err := p.await()
		if errors.Is(err, errNotPlain) {
			return p.rest()
		}
		if err != nil || !p.answer(q) || p.life.Err() != nil {
			return nil
		}
		p.begun = true
	}
}

// past is a deadline that makes reads return.
var past = time.Unix(1, 0)

// errNotPlain ends the serving of plain requests.
var errNotPlain = errors.New("not a plain request")

// await waits for a request, and for all of it.
func (p *plain) await() (q plainHead, err error) {
	if p.br.Buffered() == 0 {
		p.patience()
		if p.life.Err() != nil { // after the deadline was set, or before it was made past
			return q, p.life.Err()
		}
		if _, err := p.br.Peek(1); err != nil {
			return q, err
		}
	}
	b, _ := p.br.Peek(p.br.Buffered()) // no more than there is
	q, ok := readHead(b)
	if !ok || q.size > p.c.cfg.Limits.Header || q.size+q.length > maxPlain {
		return q, errNotPlain
	}
	if q.size+q.length > len(b) {
		p.expect(time.Now().Add(soon))
		if _, err := p.br.Peek(q.size + q.length); errors.Is(err, os.ErrDeadlineExceeded) && p.life.Err() == nil {
			return q, errNotPlain
		} else if err != nil {
			return q, err
		}
	}
	return q, nil
}

// patience sets how long the next request may take to come. It is set anew only
// when it makes a difference.
func (p *plain) patience() {
	now, wait := time.Now(), 2*p.c.cfg.Limits.Idle
	if !p.begun {
		wait = p.c.cfg.Limits.Login
	}
	if left := p.until.Sub(now); p.until.IsZero() || left > wait || left < wait*7/8 {
		p.expect(now.Add(wait))
	}
}

func (p *plain) expect(until time.Time) {
	p.until = until
	p.agent.SetReadDeadline(until) //nolint:errcheck // a read fails then, too
}

// answer serves one request, and reports whether another may follow.
func (p *plain) answer(q plainHead) bool {
	r, err := http.ReadRequest(p.br)
	if err != nil || r.ContentLength != int64(q.length) || r.Close {
		return false // it was plain: this is not to be
	}
	r.RemoteAddr, r.TLS = p.addr, p.tls
	w := &plainWriter{agent: p.agent, length: -1, head: r.Method == http.MethodHead, last: p.life, gone: p.c.cancel}
	p.watch()
	whole := p.handle(w, r.WithContext(p.life))
	p.unwatch()
	if !whole {
		w.release()
		return false
	}
	err = r.Body.Close() // which reads what nobody did: it is there
	return w.finish() && err == nil
}

// handle serves a request, and reports whether its answer is whole. What else a
// handler throws ends the connection, where listeners see to it.
func (p *plain) handle(w http.ResponseWriter, r *http.Request) (whole bool) {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // as it was thrown
			panic(v)
		}
	}()
	p.c.ServeHTTP(w, r)
	return true
}

// Read implements io.Reader, for what is buffered.
func (p *plain) Read(b []byte) (int, error) {
	if p.has && len(b) > 0 {
		p.has = false
		return copy(b, p.ahead[:]), nil
	}
	return p.agent.Read(b)
}

// watch has the agent looked for when its request takes a while.
func (p *plain) watch() {
	if p.look == nil {
		p.looking = make(chan struct{}, 1)
		p.look = time.AfterFunc(lookAfter, p.watching)
		return
	}
	p.over = false // nobody looks now
	p.look.Reset(lookAfter)
}

// watching ends the connection's requests when the agent has left. A byte that
// comes belongs to the next request; who sends that isn't looked for any more.
func (p *plain) watching() {
	defer func() { p.looking <- struct{}{} }()
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return
	}
	p.agent.SetReadDeadline(time.Time{}) //nolint:errcheck // a read fails then, too
	p.mu.Unlock()
	n, err := p.agent.Read(p.ahead[:])
	p.has = n > 0
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		p.c.cancel()
	}
}

// unwatch ends the looking.
func (p *plain) unwatch() {
	if p.look.Stop() {
		return
	}
	p.mu.Lock()
	p.over = true
	p.expect(past)
	p.mu.Unlock()
	<-p.looking
	p.until = time.Time{}
}

// rest is the connection with what was read of it and not served.
func (p *plain) rest() net.Conn {
	b, _ := p.br.Peek(p.br.Buffered())
	rest := &restConn{Conn: p.agent, read: io.MultiReader(bytes.NewReader(bytes.Clone(b)), p)}
	if p.tls != nil {
		return &secureRest{rest, *p.tls}
	}
	return rest
}

// restConn is a connection of which some was read.
type restConn struct {
	net.Conn
	read io.Reader
}

func (c *restConn) Read(b []byte) (int, error) { return c.read.Read(b) }

// CloseWrite lets the agent read what it was told before the connection ends.
func (c *restConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// secureRest is one with TLS.
type secureRest struct {
	*restConn
	state tls.ConnectionState
}

// ConnectionState is where net/http looks for TLS.
func (c *secureRest) ConnectionState() tls.ConnectionState { return c.state }

// life is the context of the requests of a connection that come one after the
// other. It is done when the agent has gone, or the connection must end.
type life struct {
	context.Context
	of    *Session // that the last request was in
	joint *joint   // of it
	part  context.CancelFunc
}

// with returns the context of a request in s.
func (l *life) with(s *Session) context.Context {
	if l.of != s {
		l.leave()
		ctx, part := s.join(l.Context)
		l.of, l.joint = s, &joint{Context: ctx}
		stop := context.AfterFunc(ctx, l.joint.cut)
		l.part = func() { stop(); part() }
	}
	return l.joint
}

func (l *life) leave() {
	if l.part != nil {
		l.part()
	}
}

// joint is a life within a session: done when that must end, too. It knows one
// connection to an upstream that is closed then, which costs less than to have
// each request see to its own.
type joint struct {
	context.Context
	mu sync.Mutex
	up io.Closer
}

func (j *joint) cut() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.up != nil {
		j.up.Close()
	}
}

// guard has a connection closed when j is done, unless there is another already.
func (j *joint) guard(up io.Closer) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.up != nil {
		return false
	}
	if j.up = up; j.Err() != nil {
		up.Close()
	}
	return true
}

// let lets go of it, and reports whether it is as it was.
func (j *joint) let() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.up = nil
	return j.Err() == nil
}

// plainHead is the length of a request's head, and of its content.
type plainHead struct{ size, length int }

// readHead finds where the head of a plain request ends that b begins with. It
// knows little, and nothing that two readers could understand differently: a
// path and no other target, lines that end with CRLF, printable ASCII, a content
// only by its length, no upgrade, and nothing that is expected first.
func readHead(b []byte) (q plainHead, ok bool) {
	line, n, ok := plainLine(b)
	if !ok {
		return q, false
	}
	method, rest, _ := bytes.Cut(line, space)
	target, version, _ := bytes.Cut(rest, space)
	if string(version) != "HTTP/1.1" || len(method) == 0 || len(target) == 0 || target[0] != '/' || string(method) == http.MethodConnect {
		return q, false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return q, false
		}
	}
	for i, c := range target {
		if c == '%' && (i+2 >= len(target) || !isHex(target[i+1]) || !isHex(target[i+2])) {
			return q, false
		}
	}
	host, length := false, false
	for q.size = n; ; q.size += n {
		if line, n, ok = plainLine(b[q.size:]); !ok {
			return q, false
		}
		if len(line) == 0 {
			q.size += n
			return q, host
		}
		name, value, colon := bytes.Cut(line, colon)
		if !colon || !isPlainName(name) {
			return q, false
		}
		switch {
		case is(name, "host"):
			if host || !isPlainHost(bytes.Trim(value, " ")) {
				return q, false
			}
			host = true
		case is(name, "content-length"):
			if length {
				return q, false
			}
			if q.length, length = plainLength(bytes.Trim(value, " ")); !length {
				return q, false
			}
		case is(name, "connection"):
			if !is(bytes.Trim(value, " "), "keep-alive") {
				return q, false
			}
		case is(name, "transfer-encoding"), is(name, "trailer"), is(name, "expect"), is(name, "upgrade"), is(name, "http2-settings"):
			return q, false
		}
	}
}

var space, colon = []byte(" "), []byte(":")

// plainLine returns the line that b begins with, and its length with its end.
func plainLine(b []byte) (line []byte, n int, ok bool) {
	for i, c := range b {
		if c >= ' ' && c <= '~' {
			continue
		}
		return b[:i], i + 2, c == '\r' && i+1 < len(b) && b[i+1] == '\n'
	}
	return nil, 0, false
}

// is reports whether b is a word, which is in lower case.
func is(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

func isPlainName(b []byte) bool {
	for _, c := range b {
		if !isLetterOrDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return len(b) > 0
}

func isPlainHost(b []byte) bool {
	for _, c := range b {
		if !isLetterOrDigit(c) && bytes.IndexByte([]byte("-_.:[]"), c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

func isLetterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// plainLength reads a length that can be plain.
func plainLength(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, len(b) > 0 && len(b) <= 4 && (b[0] != '0' || len(b) == 1)
}
