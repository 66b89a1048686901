package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// runReverse is the standard library's reverse proxy, which looks at nothing.
// What an HTTP proxy in Go costs before it does anything is the difference
// between this and direct.
func runReverse(ctx context.Context, spec string) error {
	listen, upstream, ok := strings.Cut(spec, "=")
	if !ok {
		return fmt.Errorf("reverse %q: want listen=upstream", spec)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: reverseProxy(upstream), Protocols: protocols, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// reverseProxy keeps as many upstream connections as it ever used at once, and
// its buffers: by default it keeps two and none, which is slower.
func reverseProxy(upstream string) *httputil.ReverseProxy {
	to := &url.URL{Scheme: "http", Host: upstream}
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
		BufferPool: &buffers{},
	}
}

// buffers are those of ReverseProxy. Its interface takes slices, so that each
// is allocated anew in its header; the room behind it isn't.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
