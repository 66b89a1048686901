package remotecommand_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// process plays a container's: it says what it reads, up to a line, and what
// size its terminal has, and ends as it is told.
type process struct{ exit int }

func (p process) ExecInContainer(_ context.Context, _, _, _ string, cmd []string, in io.Reader, out, failed io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if tty {
		size := <-resize
		fmt.Fprintf(out, "%d columns\n", size.Width)
	}
	if cmd[0] == "hang" {
		_, err := io.Copy(out, in)
		return err
	}
	if in != nil {
		line := make([]byte, 64)
		n, _ := io.ReadAtLeast(in, line, 6)
		fmt.Fprintf(out, "read %s", line[:n])
	}
	if failed != nil {
		fmt.Fprintln(failed, "and an error")
	}
	if p.exit != 0 {
		return exec.CodeExitError{Err: errors.New("it failed"), Code: p.exit}
	}
	return nil
}

// world is a kubelet of the cluster's own code behind a gateway.
type world struct {
	t    *testing.T
	gate *prototest.Gate
	addr string
}

func newWorld(t *testing.T, p process) *world {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		options := &remotecommand.Options{Stdin: q.Has("stdin"), Stdout: true, Stderr: !q.Has("tty"), TTY: q.Has("tty")}
		remotecommand.ServeExec(w, r, p, "web", "", "main", q["command"], options, time.Minute, 10*time.Second, remotecommand.SupportedStreamingProtocols)
	}))
	return behind(t, up)
}

func behind(t *testing.T, up *httptest.Server) *world {
	t.Cleanup(up.Close)
	w := &world{t: t, gate: &prototest.Gate{Upstream: protocol.Upstream{Address: up.Listener.Addr().String()}}}
	list := []kubernetes.Resource{{Route: httpgate.Route{Resource: "prod"}, UserPrefix: "exhibit:"}}
	p := kubernetes.New(kubernetes.Config{
		Resources: func() []kubernetes.Resource { return list },
		Limits:    httpgate.Limits{Idle: time.Minute, Login: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler),
	})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { l.Close(); cancel() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.Serve(ctx, c, w.gate) //nolint:errcheck // the agent sees
		}
	}()
	w.addr = l.Addr().String()
	return w
}

const target = "/api/v1/namespaces/default/pods/web/exec?"

// clients are those of client-go, by the version that they ask for.
func (w *world) client(kind, version, query string) client.Executor {
	w.t.Helper()
	config := &rest.Config{Host: "http://" + w.addr, BearerToken: prototest.Token}
	u := &url.URL{Scheme: "http", Host: w.addr, Path: strings.TrimSuffix(target, "?"), RawQuery: query}
	var e client.Executor
	var err error
	if kind == "websocket" {
		e, err = client.NewWebSocketExecutorForProtocols(config, http.MethodGet, u.String(), version)
	} else {
		var tr http.RoundTripper
		var up spdy.Upgrader
		if tr, up, err = spdy.RoundTripperFor(config); err == nil {
			e, err = client.NewSPDYExecutorForProtocols(tr, up, http.MethodPost, u, version)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// command is the only command so far.
func (w *world) command() *prototest.Exchange {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if s := w.gate.Sessions(); len(s) == 1 {
			if x := s[0].Exchanges(); len(x) == 1 {
				return x[0]
			}
		}
	}
	w.t.Fatal("no command is on record")
	return nil
}

func (w *world) outcome() evidence.Outcome {
	w.t.Helper()
	x := w.command()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if o := x.Outcome(); o != nil {
			return *o
		}
	}
	w.t.Fatal("the command has no outcome")
	return evidence.Outcome{}
}

// typist types a line and then waits, as people do.
type typist struct {
	line io.Reader
	done <-chan struct{}
}

func (t typist) Read(b []byte) (int, error) {
	n, err := t.line.Read(b)
	if err == io.EOF {
		<-t.done
	}
	return n, err
}

type sizes struct{ sent bool }

func (s *sizes) Next() *client.TerminalSize {
	if s.sent {
		return nil
	}
	s.sent = true
	return &client.TerminalSize{Width: 132, Height: 50}
}

// In every version of the protocol what is typed, shown and said of the end is
// on record, and the client sees what it sees without the gateway.
func TestWhatFlowsIsOnRecord(t *testing.T) {
	for _, v := range []struct{ kind, version string }{
		{"spdy", "channel.k8s.io"}, {"spdy", "v2.channel.k8s.io"}, {"spdy", "v3.channel.k8s.io"}, {"spdy", "v4.channel.k8s.io"},
		{"websocket", "v4.channel.k8s.io"},
	} {
		for _, exit := range []int{0, 3} {
			t.Run(fmt.Sprintf("%s %s exit %d", v.kind, v.version, exit), func(t *testing.T) {
				w := newWorld(t, process{exit})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var out, failed bytes.Buffer
				err := w.client(v.kind, v.version, "command=sh&stdin=true&stdout=true&stderr=true").StreamWithContext(ctx, client.StreamOptions{
					Stdin: typist{strings.NewReader("typed\n"), ctx.Done()}, Stdout: &out, Stderr: &failed,
				})
				structured := v.version == "v4.channel.k8s.io"
				var code clientexec.CodeExitError
				switch {
				case exit == 0 && err != nil, exit != 0 && err == nil && v.version != "channel.k8s.io": // whose client may not look
					t.Errorf("the client is told %v", err)
				case exit != 0 && structured && (!errors.As(err, &code) || code.Code != exit):
					t.Errorf("the client is told %v", err)
				}
				if out.String() != "read typed\n" || failed.String() != "and an error\n" {
					t.Errorf("the client sees %q and %q", out.String(), failed.String())
				}
				o := w.outcome()
				x := w.command()
				if got := x.Kept(evidence.ToUpstream, "stdin"); got != "typed\n" {
					t.Errorf("typed is %q", got)
				}
				if a, b := x.Kept(evidence.ToAgent, "stdout"), x.Kept(evidence.ToAgent, "stderr"); a != "read typed\n" || b != "and an error\n" {
					t.Errorf("shown are %q and %q", a, b)
				}
				want := evidence.Outcome{Class: evidence.OK}
				if exit != 0 {
					want.Class, want.Code = evidence.Failed, "failed"
				}
				if v.version == "channel.k8s.io" && o.Class != evidence.OK { // it doesn't say of a success
					want.Class, want.Code = o.Class, o.Code
				}
				if structured {
					want.Code = fmt.Sprintf("exit:%d", exit)
				}
				if o.Class != want.Class || o.Code != want.Code {
					t.Errorf("the outcome is %+v, want %+v", o, want)
				}
				if x.Shape.Parse != evidence.ParsePartial || x.Observed(evidence.ToUpstream) == 0 || o.Reply == 0 {
					t.Errorf("parse %s, %d bytes up, %d down", x.Shape.Parse, x.Observed(evidence.ToUpstream), o.Reply)
				}
			})
		}
	}
}

func TestSizesOfTerminalsAreOnRecord(t *testing.T) {
	for _, kind := range []string{"spdy", "websocket"} {
		w := newWorld(t, process{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var out bytes.Buffer
		err := w.client(kind, "v4.channel.k8s.io", "command=sh&tty=true&stdin=true&stdout=true").StreamWithContext(ctx, client.StreamOptions{
			Stdin: typist{strings.NewReader("typed\n"), ctx.Done()}, Stdout: &out, Tty: true, TerminalSizeQueue: &sizes{},
		})
		cancel()
		if err != nil || !strings.HasPrefix(out.String(), "132 columns\n") {
			t.Errorf("%s: %q, %v", kind, out.String(), err)
		}
		if got := w.command().Kept(evidence.ToUpstream, "resize"); !strings.HasPrefix(got, `{"Width":132,"Height":50}`) {
			t.Errorf("%s: the sizes are %q", kind, got)
		}
	}
}

// What can't be recorded isn't typed.
func TestWhatCannotBeRecordedDoesNotGoOn(t *testing.T) {
	for _, kind := range []string{"spdy", "websocket"} {
		w := newWorld(t, process{})
		w.gate.Keep = func(_ *prototest.Exchange, d evidence.Direction, _ []evidence.Piece) error {
			if d == evidence.ToUpstream {
				return errors.New("no space")
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var out bytes.Buffer
		err := w.client(kind, "v4.channel.k8s.io", "command=sh&stdin=true&stdout=true").StreamWithContext(ctx, client.StreamOptions{
			Stdin: typist{strings.NewReader("typed\n"), ctx.Done()}, Stdout: &out,
		})
		cancel()
		if strings.Contains(out.String(), "typed") {
			t.Errorf("%s: the client sees %q, %v", kind, out.String(), err)
		}
		if o := w.outcome(); o.Class != evidence.Cancelled {
			t.Errorf("%s: the outcome is %+v", kind, o)
		}
	}
}

// The end is on record before the client sees it.
func TestTheEndIsRecordedFirst(t *testing.T) {
	for _, kind := range []string{"spdy", "websocket"} {
		w := newWorld(t, process{})
		w.gate.End = func(*prototest.Exchange, evidence.Outcome) error { return errors.New("no space") }
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := w.client(kind, "v4.channel.k8s.io", "command=sh&stdout=true").StreamWithContext(ctx, client.StreamOptions{Stdout: io.Discard})
		cancel()
		if err == nil {
			t.Errorf("%s: the client is told of success that nobody recorded", kind)
		}
	}
}

// A kill ends both sides at once; so does an agent that vanishes.
func TestBothSidesEnd(t *testing.T) {
	for _, kind := range []string{"spdy", "websocket"} {
		for _, how := range []string{"killed", "vanished"} {
			w := newWorld(t, process{})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			ended := make(chan error, 1)
			go func() {
				ended <- w.client(kind, "v4.channel.k8s.io", "command=hang&stdin=true&stdout=true").StreamWithContext(ctx, client.StreamOptions{
					Stdin: typist{strings.NewReader("typed\n"), ctx.Done()}, Stdout: io.Discard,
				})
			}()
			x := w.command()
			for x.Kept(evidence.ToAgent, "stdout") == "" && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			if how == "killed" {
				w.gate.Sessions()[0].Kill(errors.New("the session was ended by the operator"))
			} else {
				cancel()
			}
			began := time.Now()
			if o := w.outcome(); o.Class != evidence.Cancelled {
				t.Errorf("%s, %s: the outcome is %+v", kind, how, o)
			}
			if err := <-ended; err == nil {
				t.Errorf("%s, %s: the client is told of success", kind, how)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s, %s: that took %v", kind, how, took)
			}
			cancel()
		}
	}
}
