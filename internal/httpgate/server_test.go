package httpgate

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

type refuser struct{}

func (refuser) Serve(http.ResponseWriter, *Request, *Session) {}

func (refuser) Refuse(w http.ResponseWriter, _ *http.Request, f *Failure) { Problem(w, f) }

// Clients open connections before they need them, and keep them afterwards.
func TestAStoppingGatewayWaitsForNoIdleConnection(t *testing.T) {
	for name, first := range map[string]string{"unused": "", "kept": "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			s := New(Config{Protocol: "x", Handler: refuser{}, Logger: slog.New(slog.DiscardHandler)})
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			peer, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, conn, protocol.Gate(&prototest.Gate{})) }()
			if first != "" {
				if _, err := io.WriteString(peer, first); err != nil {
					t.Fatal(err)
				}
				if _, err := peer.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			select {
			case err := <-served:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("it waits")
			}
		})
	}
}

func TestWhereRequestsLead(t *testing.T) {
	type resource struct {
		name, prefix string
		hosts        []string
	}
	list := []resource{
		{name: "rest"}, {name: "a", prefix: "/a"}, {name: "ab", prefix: "/a/b"},
		{name: "host", hosts: []string{"h.test", "i.test"}}, {name: "host-a", prefix: "/a", hosts: []string{"h.test"}},
	}
	for asked, want := range map[string]string{
		"x.test/": "rest", "x.test/a": "a", "x.test/ab": "rest", "x.test/a/b/c": "ab", "x.test/a/bc": "a",
		"h.test/": "host", "h.test/a/b": "host-a", "i.test/a/b": "host",
	} {
		host, path, _ := strings.Cut(asked, "/")
		got := Find(list, func(r *resource) ([]string, string) { return r.hosts, r.prefix }, host, "/"+path)
		if got == nil || got.name != want {
			t.Errorf("%s leads to %+v, want %s", asked, got, want)
		}
	}
	if got := Find(list[3:], func(r *resource) ([]string, string) { return r.hosts, r.prefix }, "x.test", "/"); got != nil {
		t.Errorf("a host of nobody leads to %+v", got)
	}
}
