package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// endless plays an API server whose answers are as long as it is asked for, and
// says what became of the last one.
type endless struct {
	written atomic.Int64  // bytes of it
	gone    chan struct{} // is sent to when its caller has left before the end
}

// The sizes that are asked for.
const (
	largeBytes  = 200 << 20
	largeEvents = 200_000
)

// ServeHTTP implements http.Handler: a list, a watch or a log.
func (e *endless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.written.Store(0)
	q := r.URL.Query()
	flush := http.NewResponseController(w).Flush
	var n int // how many pieces come
	var piece func(int) string
	each := func() error { return nil }
	switch {
	case strings.HasSuffix(r.URL.Path, "/log"):
		piece = func(i int) string { return fmt.Sprintf("%08d %s\n", i, strings.Repeat("a line of the log ", 56)) }
		n = largeBytes/len(piece(0)) + 1
	case q.Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		piece = func(i int) string {
			return fmt.Sprintf(`{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"shop","resourceVersion":"%d"},"data":{"a":%q}}}`+"\n", i, strings.Repeat("v", 200))
		}
		n, each = largeEvents, flush
	default:
		w.Header().Set("Content-Type", "application/json")
		item := strings.Repeat("w", 1000)
		piece = func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"c%d","namespace":"shop"},"data":{"a":%q}},`, i, item)
		}
		n = largeBytes/len(piece(0)) + 1
		_, _ = io.WriteString(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[`)
		defer func() { _, _ = io.WriteString(w, `{"metadata":{"name":"last"}}]}`) }()
	}
	for i := range n {
		if strings.HasSuffix(r.URL.RawQuery, "=breaks") && i == n/2 {
			panic(http.ErrAbortHandler) // as a server that ends in the middle
		}
		b, err := io.WriteString(w, piece(i))
		e.written.Add(int64(b))
		if err == nil {
			err = each()
		}
		if err != nil || r.Context().Err() != nil {
			e.gone <- struct{}{}
			panic(http.ErrAbortHandler)
		}
	}
}

// direct is what comes without the gateway, in digest and size.
func (e *endless) direct(ctx context.Context, path string) (string, int64) {
	h := sha256.New()
	rec := &discard{w: h, h: http.Header{}}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	e.ServeHTTP(rec, r)
	return hex.EncodeToString(h.Sum(nil)), rec.n
}

// discard is a response of which only the digest is of interest.
type discard struct {
	w io.Writer
	h http.Header
	n int64
}

func (d *discard) Header() http.Header { return d.h }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Flush()              {}
func (d *discard) Write(b []byte) (int, error) {
	d.n += int64(len(b))
	return d.w.Write(b)
}

// streams are what may be as long as its sender likes, by what asks for it.
var streams = map[string]string{
	"a list":  "/api/v1/namespaces/shop/configmaps",
	"a watch": "/api/v1/namespaces/shop/configmaps?watch=1",
	"a log":   "/api/v1/namespaces/shop/pods/web/log?follow=true",
}

// startEndless puts a gateway before it, with an agent who asks in a version of
// HTTP.
func startEndless(t *testing.T) (c *cluster, e *endless, ask func(ctx context.Context, version int, path string) (*http.Response, error)) {
	t.Helper()
	e = &endless{gone: make(chan struct{}, 100)}
	a := newAuthority(t, t.TempDir())
	a.issue("apiserver", &x509.Certificate{})
	pair, err := tls.LoadX509KeyPair(a.path("apiserver.pem"), a.path("apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(e)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	c = newClusterAt(t, server.Listener.Addr().String(), a.path("ca.pem"), "account")
	c.grant("bot", "kube-shop-deployer", "prod")
	c.listens(c.gate)
	pem, err := os.ReadFile(c.tls.path("ca.pem"))
	c.ok(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transports := map[int]*http.Transport{}
	for version := 1; version <= 2; version++ {
		p := new(http.Protocols)
		p.SetHTTP1(version == 1)
		p.SetHTTP2(version == 2)
		transports[version] = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Protocols: p, DisableCompression: true}
		t.Cleanup(transports[version].CloseIdleConnections)
	}
	token := c.token("bot")
	return c, e, func(ctx context.Context, version int, path string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.gate+"/prod"+path, nil)
		c.ok(err)
		r.Header.Set("Authorization", "Bearer "+token)
		return transports[version].RoundTrip(r)
	}
}

// resident reads the gateway's resident memory: now, and the most that it ever was.
func (w *world) resident() (now, most int64) {
	w.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.serve.Process.Pid))
	w.ok(err)
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "VmRSS:" && f[0] != "VmHWM:" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		w.ok(err)
		if f[0] == "VmRSS:" {
			now = kib << 10
		} else {
			most = kib << 10
		}
	}
	return now, most
}

// However much comes, the gateway holds little of it: whoever takes it slowly
// slows its sender down.
func TestWhatStreamsTakesNoMemory(t *testing.T) {
	const within = 32 << 20
	c, e, ask := startEndless(t)                 //nolint:bodyclose // who asks closes it
	resp, err := ask(t.Context(), 1, "/version") // of which it is warm
	c.ok(err)
	_, err = io.Copy(io.Discard, resp.Body)
	c.ok(err)
	resp.Body.Close()
	idle, before := c.resident()
	t.Logf("idle: %d MiB resident, at most %d MiB so far", idle>>20, before>>20)
	for what, path := range streams {
		want, size := e.direct(t.Context(), path)
		for version := 1; version <= 2; version++ {
			began := time.Now()
			resp, err := ask(t.Context(), version, path)
			c.ok(err)
			if resp.StatusCode != http.StatusOK || resp.ProtoMajor != version {
				t.Fatalf("%s: %s over %s", what, resp.Status, resp.Proto)
			}
			h := sha256.New()
			n, err := io.CopyN(h, resp.Body, 1<<20)
			c.ok(err)
			time.Sleep(time.Second) // its sender goes on as long as it can
			if ahead := e.written.Load() - n; ahead > 32<<20 {
				t.Errorf("%s over %s: the sender is %d MiB ahead of the agent", what, resp.Proto, ahead>>20)
			} else {
				t.Logf("%s over %s: while the agent waits its sender comes %d KiB ahead", what, resp.Proto, ahead>>10)
			}
			rest, err := io.Copy(h, resp.Body)
			c.ok(err)
			resp.Body.Close()
			if got := hex.EncodeToString(h.Sum(nil)); got != want || n+rest != size {
				t.Errorf("%s over %s: %d bytes came of %d", what, resp.Proto, n+rest, size)
			}
			now, most := c.resident()
			t.Logf("%s over %s: %d MiB in %v; %d MiB resident, at most %d MiB", what, resp.Proto, size>>20, time.Since(began).Round(time.Millisecond), now>>20, most>>20)
			if most > max(idle, before)+within {
				t.Fatalf("%s over %s: the gateway grew from %d to %d MiB", what, resp.Proto, idle>>20, most>>20)
			}
		}
	}
	for _, text := range []string{"list configmaps/shop", "watch configmaps/shop", "log pods/shop/web"} {
		list := c.ran(text)
		for _, d := range list {
			if d.Outcome != "ok" || d.Code != "200" {
				t.Errorf("%+v", d)
			}
		}
		if len(list) != 2 {
			t.Errorf("%d records read %q", len(list), text)
		}
	}
	c.passes()
}

// What streams ends well: an agent that leaves ends the server's work as well, and
// a server that breaks off is no end in good order. Either is on record.
func TestWhatStreamsEndsWell(t *testing.T) {
	t.Parallel()
	c, e, ask := startEndless(t) //nolint:bodyclose // who asks closes it
	last := func(text string) command {
		t.Helper()
		list := c.ran(text)
		return list[len(list)-1]
	}
	texts := map[string]string{"a list": "list configmaps/shop", "a watch": "watch configmaps/shop", "a log": "log pods/shop/web"}
	for what, path := range streams {
		for version := 1; version <= 2; version++ {
			ctx, leave := context.WithCancel(t.Context())
			resp, err := ask(ctx, version, path)
			c.ok(err)
			_, err = io.CopyN(io.Discard, resp.Body, 1<<20)
			c.ok(err)
			leave()
			resp.Body.Close()
			select {
			case <-e.gone:
			case <-time.After(30 * time.Second):
				t.Errorf("%s, HTTP/%d: the server goes on though the agent has left", what, version)
			}
			if d := last(texts[what]); d.Outcome != "cancelled" || d.Code != "200" {
				t.Errorf("%s, HTTP/%d: an agent who leaves makes %+v", what, version, d)
			}
			parameter, and := "labelSelector=breaks", texts[what]+" labelSelector=breaks"
			if what == "a log" {
				parameter, and = "container=breaks", texts[what]
			}
			if strings.Contains(path, "?") {
				parameter = "&" + parameter
			} else {
				parameter = "?" + parameter
			}
			resp, err = ask(t.Context(), version, path+parameter)
			c.ok(err)
			if n, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("%s, HTTP/%d: after %d bytes the agent sees an end in good order of what broke off", what, version, n)
			}
			resp.Body.Close()
			if d := last(and); d.Outcome != "error" || d.Code != "truncated" {
				t.Errorf("%s, HTTP/%d: a server that breaks off makes %+v", what, version, d)
			}
		}
	}
	c.passes()
}
