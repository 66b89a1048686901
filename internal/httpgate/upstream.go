package httpgate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// upstream makes requests of one session.
type upstream interface {
	// do sends a request and returns the response's fields; its content follows
	// in Body, to be closed. An error that wraps errNotSent means that nothing
	// went upstream.
	do(ctx context.Context, o *outgoing) (*http.Response, error)
	close()
}

// errNotSent means that nothing of a request went upstream.
var errNotSent = errors.New("the upstream cannot be reached")

// outgoing is a request as it goes upstream.
type outgoing struct {
	method, target string
	host           string
	header         http.Header // the agent's, and what the gateway adds
	head           []byte      // all of it but the content, as HTTP/1.1 spells it
	body           []byte      // the content, when it was read
	stream         io.Reader   // or what it is read from
	abort          func()      // makes a read of stream that waits return
	length         int64       // of stream; -1 is chunked
	trailer        http.Header // of stream, filled in at its end; nil for none
	upgrade        string      // the protocol to switch to; "" is none
	mark           int         // where head holds the command's position, if it does
}

const (
	dialTimeout   = 10 * time.Second
	maxIdle       = 90 * time.Second      // of an upstream connection
	maxResponse   = 1 << 20               // bytes of a response's fields
	maxKept       = 256                   // idle upstream connections of one session
	maxUndeclared = 256 << 10             // bytes of an unread response that are read to keep its connection
	lastWords     = 50 * time.Millisecond // in which they have to come
)

func newUpstream(s *Session) upstream {
	d := &dialer{s: s, up: s.Upstream()}
	if !s.Route.HTTP2 {
		return &pool{dial: d.dial}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(d.up.TLS != nil)
	protocols.SetUnencryptedHTTP2(d.up.TLS == nil)
	return &http2Upstream{scheme: d.scheme(), authority: d.up.Address, transport: &http.Transport{
		Protocols: protocols, DisableCompression: true, IdleConnTimeout: maxIdle, MaxResponseHeaderBytes: maxResponse,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx) },
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.dial(ctx, "h2")
		},
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second},
	}}
}

// dialer connects to a session's upstream.
type dialer struct {
	s  *Session
	up protocol.Upstream
}

func (d *dialer) scheme() string {
	if d.up.TLS != nil {
		return "https"
	}
	return "http"
}

// dial makes one connection and records it.
func (d *dialer) dial(ctx context.Context, alpn ...string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	network := "tcp"
	if strings.HasPrefix(d.up.Address, "/") {
		network = "unix"
	}
	c, err := new(net.Dialer).DialContext(ctx, network, d.up.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	facts := evidence.SessionUpstreamBody{Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String()}
	if d.up.TLS != nil {
		cfg := d.up.TLS.Clone()
		cfg.NextProtos = alpn
		t := tls.Client(c, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", errNotSent, err), c.Close())
		}
		state := t.ConnectionState()
		facts.TLS = tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
		sum := sha256.Sum256(state.PeerCertificates[0].Raw)
		facts.Peer = hex.EncodeToString(sum[:])
		c = t
	}
	if err := d.s.Reached(ctx, facts); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNotSent, err), c.Close())
	}
	return c, nil
}

// pool is the HTTP/1.1 connections of one session. It is not net/http's, which
// sends a request again when its connection breaks: each request that goes
// upstream is on record as one.
type pool struct {
	dial func(ctx context.Context, alpn ...string) (net.Conn, error)

	mu     sync.Mutex
	idle   []*upConn // the last one used first
	closed bool
}

// upConn is one connection to an upstream.
type upConn struct {
	net.Conn
	limit io.LimitedReader
	br    *bufio.Reader
	asked http.Request // what the response is read for: its method
	peer  *peer
	since time.Time // idle since
}

func (p *pool) get(ctx context.Context) (*upConn, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		if time.Since(c.since) < maxIdle && c.br.Buffered() == 0 && !c.peer.hungUp() {
			return c, nil
		}
		c.Close()
		p.mu.Lock()
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, errNotSent
	}
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &upConn{Conn: conn, peer: newPeer(conn)}
	c.limit.R = conn
	c.br = bufio.NewReaderSize(&c.limit, 4<<10)
	return c, nil
}

func (p *pool) put(c *upConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxKept {
		c.Close()
		return
	}
	c.since = time.Now()
	p.idle = append(p.idle, c)
	// The last one used is used first, so what a busy minute needed gathers at
	// the bottom: with each that comes back the oldest may go.
	if oldest := p.idle[0]; c.since.Sub(oldest.since) > maxIdle {
		oldest.Close()
		p.idle = slices.Delete(p.idle, 0, 1)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = nil
}

func (p *pool) do(ctx context.Context, o *outgoing) (*http.Response, error) {
	c, err := p.get(ctx)
	if err != nil {
		return nil, err
	}
	x := &exchange{pool: p, conn: c, abort: o.abort}
	if j, ok := ctx.(*joint); ok && j.guard(c.Conn) {
		x.joint = j
	} else {
		x.stop = context.AfterFunc(ctx, func() { c.Close() })
	}
	resp, err := x.do(o)
	if err != nil {
		x.unguard()
		x.abandon()
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, err
	}
	return resp, nil
}

// exchange is one request and its response on a connection.
type exchange struct {
	pool  *pool
	conn  *upConn
	joint *joint      // closes conn when the request must end; nil when
	stop  func() bool // something else does, which this ends
	sent  chan error  // of a streamed content; nil when it isn't one
	abort func()
	keep  bool // the connection, once the response is read
	body  io.ReadCloser
	eof   bool
	shut  atomic.Bool
}

// unguard ends that conn is closed with the request, and reports whether it was
// not.
func (x *exchange) unguard() bool {
	if x.joint != nil {
		return x.joint.let()
	}
	return x.stop()
}

func (x *exchange) do(o *outgoing) (*http.Response, error) {
	if len(o.body) > 0 {
		o.head = append(o.head, o.body...)
	}
	if _, err := x.conn.Write(o.head); err != nil {
		return nil, err
	}
	failpoint.Hit("forwarded")
	if o.stream != nil {
		sent := make(chan error, 1)
		x.sent = sent
		go func() {
			sent <- x.send(o)
			close(sent)
		}()
	}
	x.conn.asked.Method = o.method
	for {
		x.conn.limit.N = maxResponse
		resp, err := http.ReadResponse(x.conn.br, &x.conn.asked)
		if err != nil {
			if x.conn.limit.N <= 0 {
				err = fmt.Errorf("the upstream's fields exceed %d bytes", maxResponse)
			}
			return nil, err
		}
		x.conn.limit.N = 1<<63 - 1
		if resp.StatusCode == http.StatusSwitchingProtocols {
			if o.upgrade == "" {
				return nil, errors.New("the upstream switches protocols without being asked to")
			}
			resp.Body = &tunnel{x}
			return resp, nil
		}
		if resp.StatusCode < 200 { // informational: not passed on
			continue
		}
		x.keep = !resp.Close && o.upgrade == ""
		x.body = resp.Body
		resp.Body = x
		return resp, nil
	}
}

// send writes a content as it comes.
func (x *exchange) send(o *outgoing) error {
	buf := make([]byte, 32<<10)
	chunked := o.length < 0
	frame := make([]byte, 0, 64)
	for {
		n, err := o.stream.Read(buf)
		if n > 0 {
			bufs := net.Buffers{buf[:n]}
			if chunked {
				frame = append(strconv.AppendInt(frame[:0], int64(n), 16), "\r\n"...)
				bufs = net.Buffers{frame, buf[:n], crlf}
			}
			if _, werr := bufs.WriteTo(x.conn.Conn); werr != nil {
				return werr
			}
		}
		switch {
		case err == io.EOF && chunked:
			b := bytes.NewBufferString("0\r\n")
			if o.trailer != nil {
				if err := o.trailer.Write(b); err != nil {
					return err
				}
			}
			b.Write(crlf)
			_, werr := x.conn.Write(b.Bytes())
			return werr
		case err == io.EOF:
			return nil
		case err != nil:
			x.conn.Close() // or the upstream would wait for the rest
			return err
		}
	}
}

var crlf = []byte("\r\n")

// Read reads the response's content.
func (x *exchange) Read(b []byte) (int, error) {
	n, err := x.body.Read(b)
	if err == io.EOF {
		x.eof = true
	}
	return n, err
}

// Buffered is how much of the content, at least, can be read at once.
func (x *exchange) Buffered() int { return x.conn.br.Buffered() }

// Close gives the connection back, if it is in a state for that.
func (x *exchange) Close() error {
	if x.shut.Swap(true) {
		return nil
	}
	usable := x.unguard() && x.keep && x.wasSent()
	if !x.eof && usable { // a little that nobody wanted
		usable = x.conn.SetReadDeadline(time.Now().Add(lastWords)) == nil
		if n, err := io.CopyN(io.Discard, x.body, maxUndeclared); errors.Is(err, io.EOF) && n < maxUndeclared {
			x.eof = true
		}
		usable = usable && x.conn.SetReadDeadline(time.Time{}) == nil
	}
	if usable && x.eof {
		x.pool.put(x.conn)
		return nil
	}
	x.abandon()
	return nil
}

// wasSent reports whether all of the request went out. A service may answer
// before that.
func (x *exchange) wasSent() bool {
	if x.sent == nil {
		return true
	}
	select {
	case err := <-x.sent:
		x.sent = nil
		return err == nil
	default:
		return false
	}
}

// abandon closes the connection, and waits until nothing reads the agent's
// content any more.
func (x *exchange) abandon() {
	x.conn.Close()
	if x.sent != nil {
		x.abort()
		for range x.sent { // how that ended doesn't matter
		}
		x.sent = nil
	}
}

// tunnel is a connection that has switched protocols.
type tunnel struct{ x *exchange }

func (t *tunnel) Read(b []byte) (int, error)  { return t.x.conn.br.Read(b) }
func (t *tunnel) Write(b []byte) (int, error) { return t.x.conn.Write(b) }
func (t *tunnel) Close() error {
	t.x.unguard()
	return ignoreClosed(t.x.conn.Close())
}

// http2Upstream is an upstream that speaks HTTP/2. net/http sends a request
// again only when the upstream has said that it did nothing with it.
type http2Upstream struct {
	scheme, authority string
	transport         *http.Transport
}

func (u *http2Upstream) close() { u.transport.CloseIdleConnections() }

func (u *http2Upstream) do(ctx context.Context, o *outgoing) (*http.Response, error) {
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { wrote.Store(true) }})
	target, err := url.ParseRequestURI(o.target)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	target.Scheme, target.Host = u.scheme, u.authority
	r := (&http.Request{
		Method: o.method, URL: target, Host: o.host, Header: o.header, ContentLength: o.length, Trailer: o.trailer,
		Proto: "HTTP/2.0", ProtoMajor: 2,
	}).WithContext(ctx)
	switch {
	case o.stream != nil:
		r.Body = io.NopCloser(o.stream)
	case len(o.body) > 0:
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(o.body)), int64(len(o.body))
	}
	resp, err := u.transport.RoundTrip(r)
	if err != nil && !wrote.Load() {
		err = fmt.Errorf("%w: %w", errNotSent, err)
	}
	return resp, err
}

// compose makes an outgoing request, but for how its content comes: what the
// agent sent first, and behind it what the gateway adds. Raw is the length of the
// former.
func (s *Session) compose(ctx context.Context, r *Request, content []byte) (o *outgoing, raw int, err error) {
	up := s.Upstream()
	o = &outgoing{method: r.Method, target: r.target(s.Route.Base), host: s.Route.Host, header: r.Header, body: content}
	if r.Upgrade {
		o.upgrade = webSocket
	}
	if o.host == "" {
		o.host = up.Address
		if strings.HasPrefix(o.host, "/") {
			o.host = "localhost"
		}
	}
	added, err := s.added(ctx, up.Header)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errNotSent, err)
	}
	var few [32]string // most have no more
	names := few[:0]
	for name := range r.Header {
		if replaced(name, added) {
			delete(r.Header, name)
		} else {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	b := make([]byte, 0, 1<<10+len(content)) // which HTTP/1.1 writes behind it
	b = append(append(append(b, o.method...), ' '), o.target...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), o.host...), crlf...)
	for _, name := range names {
		for _, v := range r.Header[name] {
			b = field(b, name, v)
		}
	}
	raw = len(b)
	for _, f := range added {
		if f.name == s.server.cfg.Mark {
			o.mark = len(b) + len(f.name) + len(": ")
		}
		b = field(b, f.name, f.value)
		if s.Route.HTTP2 { // which is written from the fields
			o.header[f.name] = append(o.header[f.name], f.value)
		}
	}
	o.head = b
	return o, raw, nil
}

// addition is a field that the gateway adds to requests.
type addition struct {
	name, value string
	more        bool // behind those of that name that the agent sends
}

// added is what the gateway adds to each request. The first time it is noted
// which fields those are.
func (s *Session) added(ctx context.Context, header func(context.Context) (name, value string, err error)) ([]addition, error) {
	list := make([]addition, 0, 3)
	switch {
	case header != nil:
		name, value, err := header(ctx)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(value, "\r\n\x00") {
			return nil, errors.New("the upstream's credential holds a line break")
		}
		list = append(list, addition{name: http.CanonicalHeaderKey(name), value: value})
	case s.basic != "":
		list = append(list, addition{name: "Authorization", value: s.basic})
	}
	jwt, err := s.assertion()
	if err != nil {
		return nil, err
	}
	if jwt != "" {
		list = append(list, addition{name: IdentityField, value: jwt})
	}
	if s.server.cfg.Fields != nil {
		for _, f := range s.server.cfg.Fields(s) {
			if strings.ContainsAny(f.Value, "\r\n\x00") {
				return nil, fmt.Errorf("the value of %s holds a line break", f.Name)
			}
			list = append(list, addition{name: f.Name, value: f.Value})
		}
	}
	if mark := s.server.cfg.Mark; mark != "" {
		list = append(list, addition{name: mark, value: unmarked})
	}
	list = append(list, addition{name: "Via", value: via, more: true})
	if s.told.Swap(true) {
		return list, nil
	}
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.name
	}
	return list, s.Note(ctx, protocol.Note{Kind: "setup", Gateway: true, Detail: "to each request: Host, " + strings.Join(names, ", ")})
}

// webSocket is what a connection is asked to switch to (RFC 6455 section 4.1).
const webSocket = "websocket"

// unmarked holds the place of a position: spaces behind a field's value are no
// part of it (RFC 9110 section 5.5), so that the head's length is known before
// the position is.
var unmarked = strings.Repeat(" ", 80)

// marked puts a command's position in its place.
func (o *outgoing) marked(p evidence.Position, name string) {
	if o.mark == 0 {
		return
	}
	at := p.String()
	copy(o.head[o.mark:o.mark+len(unmarked)], at)
	if o.header != nil {
		o.header.Set(name, at)
	}
}

// via says that a gateway stands between (RFC 9110 section 7.6.3).
const via = "1.1 exhibit"

// replaced reports whether an agent's field gives way to one of the gateway's,
// also under a spelling that servers take for the same.
func replaced(name string, added []addition) bool {
	if strings.IndexByte(name, '_') >= 0 {
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	return slices.ContainsFunc(added, func(f addition) bool { return f.name == name && !f.more })
}

// basicOf is what a session with a user's name proves itself with (RFC 7617).
func basicOf(up protocol.Upstream) string {
	if up.User == "" && up.Password == "" {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(up.User+":"+up.Password))
}

// content says in the head how the content comes, and ends it.
func (o *outgoing) content(length int64) {
	o.length = length
	b := o.head
	switch {
	case o.upgrade != "":
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), o.upgrade...), crlf...)
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case length > 0 || o.method == http.MethodPost || o.method == http.MethodPut || o.method == http.MethodPatch:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), length, 10), crlf...)
	}
	o.head = append(b, crlf...)
}

func field(b []byte, name, value string) []byte {
	b = append(append(append(b, name...), ": "...), value...)
	return append(b, crlf...)
}
