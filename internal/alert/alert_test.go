package alert

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leodido/go-syslog/v4/rfc5424"
)

var someone = Alert{
	Position: "gw1.2.3", Gateway: "gw1", Time: time.Date(2026, 11, 2, 3, 4, 5, 6000, time.UTC), Rule: "denials.burst",
	Severity: "medium", Agent: "bot", Trigger: "gw1.2.2", Text: "bot was refused 20 times in a minute",
}

func numbered(n int) Alert {
	a := someone
	a.Position = fmt.Sprint("gw1.2.", n)
	return a
}

func start(t *testing.T, targets ...Target) *Sender {
	t.Helper()
	s := NewSender(targets, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }() //nolint:errcheck // it has no error
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// scripted fails as often as it is told to.
type scripted struct {
	mu    sync.Mutex
	fails int
	got   []string
	block chan struct{}
}

func (s *scripted) Send(ctx context.Context, a Alert) error {
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return errors.New("down")
	}
	s.got = append(s.got, a.Position)
	return nil
}

func (s *scripted) taken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, " ")
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestASinkThatIsDownGetsAllInOrderOnceItIsBack(t *testing.T) {
	sink := &scripted{fails: 1}
	s := start(t, Target{Name: "down", Sink: sink})
	for i := range 3 {
		s.Tell(numbered(i))
	}
	until(t, "the failure shows", func() bool { return s.Status()[0].Problem == "down" && !s.Status()[0].Since.IsZero() })
	until(t, "all were taken", func() bool { return sink.taken() == "gw1.2.0 gw1.2.1 gw1.2.2" })
	until(t, "the failure is over", func() bool { st := s.Status()[0]; return st.Problem == "" && st.Sent == 3 && st.Waiting == 0 })
}

func TestASinkThatHangsHoldsUpNobody(t *testing.T) {
	stuck, fine := &scripted{block: make(chan struct{})}, &scripted{}
	s := start(t, Target{Name: "stuck", Sink: stuck}, Target{Name: "fine", Sink: fine})
	for i := range maxWaiting + 10 {
		s.Tell(numbered(i))
		until(t, "the other one takes it", func() bool { return s.Status()[1].Sent == uint64(i+1) })
	}
	st := s.Status()[0]
	if st.Waiting > maxWaiting || st.Dropped < 9 {
		t.Errorf("%+v", st)
	}
	close(stuck.block)
}

func TestASinkGetsWhatIsSevereEnough(t *testing.T) {
	high, all := &scripted{}, &scripted{}
	s := start(t, Target{Name: "high", Least: "high", Sink: high}, Target{Name: "all", Sink: all})
	for i, severity := range severities {
		a := numbered(i)
		a.Severity = severity
		s.Tell(a)
	}
	until(t, "all were told", func() bool { return all.taken() == "gw1.2.0 gw1.2.1 gw1.2.2" && high.taken() == "gw1.2.2" })
}

func TestAWebhook(t *testing.T) {
	var got Alert
	var header http.Header
	answer := http.StatusNoContent
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		if answer == http.StatusFound {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		}
		w.WriteHeader(answer)
	}))
	defer srv.Close()
	hook := Webhook(srv.URL+"/secret-in-path", func() (string, string, error) { return "Authorization", "Bearer x", nil })
	if err := hook.Send(t.Context(), someone); err != nil || got != someone {
		t.Errorf("%v, %+v", err, got)
	}
	if header.Get("Authorization") != "Bearer x" || header.Get("Idempotency-Key") != someone.Position {
		t.Errorf("%v", header)
	}
	for _, answer = range []int{http.StatusFound, http.StatusUnauthorized, http.StatusInternalServerError} {
		if err := hook.Send(t.Context(), someone); err == nil || !strings.Contains(err.Error(), strconv.Itoa(answer)) {
			t.Errorf("%d: %v", answer, err)
		}
	}
	srv.Close()
	if err := hook.Send(t.Context(), someone); err == nil || strings.Contains(err.Error(), "secret-in-path") {
		t.Errorf("nobody there: %v", err)
	}
}

// hostile has what an agent might write.
func hostile() Alert {
	a := someone
	a.Agent = `a"]b\`
	a.Text = "one\ntwo \x1b[31m \x00 three"
	return a
}

func check(t *testing.T, line []byte, want Alert) {
	t.Helper()
	m, err := rfc5424.NewParser().Parse(line)
	if err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	got := m.(*rfc5424.SyslogMessage)
	data := (*got.StructuredData)["exhibit@32473"]
	if *got.Priority != 13*8+4 || !got.Timestamp.Equal(want.Time) || *got.Appname != "exhibit" || *got.MsgID != "alert" ||
		data["position"] != want.Position || data["rule"] != want.Rule {
		t.Errorf("%q", line)
	}
	if strings.ContainsAny(*got.Message, "\n\x00\x1b") {
		t.Errorf("the message holds control characters: %q", *got.Message)
	}
}

func TestSyslog(t *testing.T) {
	t.Run("udp", func(t *testing.T) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // it ends with the test
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		datagram(t, c, "udp", c.LocalAddr().String())
	})
	t.Run("unix", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		c, err := net.ListenPacket("unixgram", path) //nolint:noctx // as above
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		datagram(t, c, "unix", path)
	})
	t.Run("tcp", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // as above
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		counted(t, l, "tcp", nil)
	})
	t.Run("tls", func(t *testing.T) {
		srv := httptest.NewUnstartedServer(nil)
		srv.StartTLS() // for its certificate
		defer srv.Close()
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		trusted := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		counted(t, l, "tls", trusted)
		sink, err := Syslog("tls", l.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		go l.Accept() //nolint:errcheck // the other side hangs up
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := sink.Send(ctx, someone); err == nil {
			t.Error("a server that nobody vouches for is told")
		}
	})
	if _, err := Syslog("carrier-pigeon", "", nil); err == nil {
		t.Error("an unknown network is taken")
	}
}

func datagram(t *testing.T, c net.PacketConn, network, address string) {
	t.Helper()
	sink, err := Syslog(network, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []Alert{someone, hostile()} {
		if err := sink.Send(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64<<10)
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		check(t, b[:n], a)
	}
}

// counted reads one octet-counted message.
func counted(t *testing.T, l net.Listener, network string, config *tls.Config) {
	t.Helper()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		size, err := r.ReadString(' ')
		n, err2 := strconv.Atoi(strings.TrimSpace(size))
		if err != nil || err2 != nil {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err == nil {
			got <- b
		}
	}()
	sink, err := Syslog(network, l.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(t.Context(), hostile()); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-got:
		check(t, b, hostile())
	case <-time.After(10 * time.Second):
		t.Fatal("nothing arrived")
	}
}
