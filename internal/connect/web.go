package connect

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"golang.org/x/sync/semaphore"
)

// maxRequests is how many requests of one local end may be under way.
const maxRequests = 4096

// web is a local end for HTTP, and for what is spoken over it: MCP, gRPC,
// WebSocket. It passes requests on with a fresh token in the place of whatever
// authorization the client sent, and answers as they come in.
type web struct {
	gateway *url.URL
	tokens  *tokens
	grace   time.Duration
	log     *slog.Logger

	work context.Context // of all requests, and of connections to the gateway
	cut  context.CancelFunc

	usual, http1, h2c *http.Transport
}

func newWeb(gateway *url.URL, config *tls.Config, t *tokens, grace time.Duration, log *slog.Logger) *web {
	w := &web{gateway: gateway, tokens: t, grace: grace, log: log}
	w.work, w.cut = context.WithCancel(context.Background())
	w.usual = w.speaks(config, func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) })
	w.http1 = w.speaks(config, func(p *http.Protocols) { p.SetHTTP1(true) })
	w.h2c = w.speaks(config, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	return w
}

// speaks makes a transport of some versions of HTTP. It goes to the gateway
// without a proxy, as a PostgreSQL client would.
func (w *web) speaks(config *tls.Config, speak func(*http.Protocols)) *http.Transport {
	var p http.Protocols
	speak(&p)
	return &http.Transport{
		Protocols: &p, TLSClientConfig: config.Clone(), TLSHandshakeTimeout: dialTimeout,
		DialContext:        w.dial,
		MaxIdleConns:       100,
		IdleConnTimeout:    time.Minute,
		DisableCompression: true, // the client's to ask for
		HTTP2:              &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// dial connects to the gateway, for no longer than there is work.
func (w *web) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &bound{Conn: c, free: context.AfterFunc(w.work, func() { c.Close() })}, nil
}

// bound is a connection that ends with a context.
type bound struct {
	net.Conn
	free func() bool
}

// Close implements net.Conn.
func (b *bound) Close() error {
	b.free()
	return b.Conn.Close()
}

// CloseWrite tells the other side that no more will come.
func (b *bound) CloseWrite() error { return closeWrite(b.Conn) }

// serve implements server. Requests have their time to end when ctx is done;
// streams, which may have no end, are then cut.
func (w *web) serve(ctx context.Context, l net.Listener) error {
	requests := semaphore.NewWeighted(maxRequests)
	// The server knows nothing of requests that took their connection over.
	defer func() { _ = requests.Acquire(context.Background(), maxRequests) }()
	defer w.cut()
	s := &http.Server{
		Handler:           bounded(requests, w.handler()),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: startupTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    256 << 10,
		BaseContext:       func(net.Listener) context.Context { return w.work },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, clientKey{}, c) },
		ErrorLog:          slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { stopped <- w.shutdown(s) })
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-stopped
}

// bounded serves no more requests at once than there is room for.
func bounded(room *semaphore.Weighted, h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !room.TryAcquire(1) {
			problem(rw, http.StatusServiceUnavailable, failure("", "too many requests are under way"))
			return
		}
		defer room.Release(1)
		h.ServeHTTP(rw, r)
	})
}

// clientKey is where a request's context has its client's connection.
type clientKey struct{}

func (w *web) shutdown(s *http.Server) error {
	grace, cancel := context.WithTimeout(context.Background(), w.grace)
	defer cancel()
	err := s.Shutdown(grace)
	w.cut()
	if errors.Is(err, context.DeadlineExceeded) {
		return s.Close()
	}
	return err
}

func (w *web) handler() http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: w.rewrite, Transport: w, ErrorHandler: w.failed,
		FlushInterval: -1, // nobody knows what will be waited for
		ErrorLog:      slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := fromHere(r); err != nil {
			w.log.Warn("a request was refused", "error", err)
			problem(rw, http.StatusForbidden, err)
			return
		}
		if c, ok := r.Context().Value(clientKey{}).(net.Conn); ok && r.Header.Get("Upgrade") != "" {
			// Nobody else closes a connection that was taken over.
			defer context.AfterFunc(w.work, func() { c.Close() })()
		}
		proxy.ServeHTTP(rw, r)
	})
}

// fromHere refuses what a web page elsewhere has a browser on this machine send,
// by a name that leads here or across origins: it would act as the agent.
func fromHere(r *http.Request) error {
	const hint = "agents are no browsers; call it by 127.0.0.1"
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && a.Network() == "tcp" {
		u := url.URL{Host: r.Host}
		if !loopback(u.Hostname()) {
			return failure(hint, "the request is for another host")
		}
	}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return failure(hint, "the request comes from a page of another site")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !loopback(u.Hostname()) {
			return failure(hint, "the request comes from a page of another site")
		}
	}
	return nil
}

// rewrite turns a client's request into one to the gateway.
func (w *web) rewrite(p *httputil.ProxyRequest) {
	p.SetURL(w.gateway)
	p.Out.URL.RawQuery = p.In.URL.RawQuery // as it was sent, malformed or not
	p.Out.Header.Del("Authorization")
	p.Out.Trailer.Del("Authorization")
}

// RoundTrip implements http.RoundTripper with the token of the moment.
func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := w.tokens.get(r.Context())
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := w.transport(r).RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		w.tokens.refused(token)
	}
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if c, ok := resp.Body.(io.ReadWriteCloser); ok {
			resp.Body = upgraded{c}
		}
	}
	return resp, err
}

// upgraded is a connection to the gateway that a request has become.
type upgraded struct{ io.ReadWriteCloser }

// CloseWrite tells the gateway that no more will come. It should end as well.
func (u upgraded) CloseWrite() error {
	time.AfterFunc(drain, func() { u.Close() })
	if half, ok := u.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// transport is the one for a request: only HTTP/1 can be upgraded, and without
// TLS nobody negotiates HTTP/2, so there it is spoken when the client does.
func (w *web) transport(r *http.Request) *http.Transport {
	switch {
	case r.Header.Get("Upgrade") != "":
		return w.http1
	case w.gateway.Scheme == "http" && r.ProtoMajor == 2:
		return w.h2c
	}
	return w.usual
}

// failed tells a client that its request didn't get to the gateway, or the
// answer not back.
func (w *web) failed(rw http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil { // nobody is there to be told
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	w.log.Warn("a request was not answered", "error", err)
	if errors.Is(err, errNoToken) {
		rw.Header().Set("Retry-After", "5")
		problem(rw, http.StatusServiceUnavailable, err)
		return
	}
	problem(rw, http.StatusBadGateway, unreachable(err))
}

// problem answers as RFC 9457 says.
func problem(rw http.ResponseWriter, status int, err error) {
	p := struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Hint   string `json:"hint,omitempty"`
	}{Title: http.StatusText(status), Status: status, Detail: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		p.Hint = e.Hint
	}
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(p) // the client may have gone
}
