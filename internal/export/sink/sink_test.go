package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/export/ocsf"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
)

// memory is a log that grows.
type memory struct {
	mu      sync.Mutex
	records []*evidence.Record
}

func newLog(t *testing.T) *memory {
	t.Helper()
	m := &memory{}
	err := packtest.Day().Records(func(r *evidence.Record) error {
		kept := *r
		m.records = append(m.records, &kept)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// first is the log when it had n records.
func (m *memory) first(n int) *memory { return &memory{records: m.records[:n]} }

func (m *memory) grow(r ...*evidence.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = slices.Concat(m.records, r)
}

func (m *memory) all() []*evidence.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records
}

type reader struct {
	m    *memory
	next int
}

func (r *reader) Next(_ context.Context, fn func(*evidence.Record) error) (n int, err error) {
	for _, rec := range r.m.all()[r.next:] {
		if err := fn(rec); err != nil {
			return n, err
		}
		if r.next, n = r.next+1, n+1; n == 7 { // a small block
			break
		}
	}
	return n, nil
}

func (m *memory) After(pos evidence.Position) Reader {
	i := 0
	if !pos.IsZero() {
		i = slices.IndexFunc(m.all(), func(r *evidence.Record) bool { return pos.Before(r.Head.Pos) })
		if i < 0 {
			i = len(m.all())
		}
	}
	return &reader{m, i}
}

func (m *memory) Since(t int64) (Reader, error) {
	i := slices.IndexFunc(m.all(), func(r *evidence.Record) bool { return r.Head.Time >= t })
	return &reader{m, max(0, i-3)}, nil // the beginning of its block
}

func (m *memory) At(_ context.Context, pos evidence.Position) (*evidence.Record, error) {
	for _, r := range m.all() {
		if r.Head.Pos == pos {
			return r, nil
		}
	}
	return nil, nil
}

func (m *memory) Behind(pos evidence.Position) (n uint64, err error) {
	for _, r := range m.all() {
		if pos.IsZero() || pos.Before(r.Head.Pos) {
			n++
		}
	}
	return n, nil
}

// events are those of all records, as they must arrive.
func (m *memory) events(t *testing.T) (lines []string) {
	t.Helper()
	mapper := ocsf.New(packtest.Origin, "v", m.At)
	for _, r := range m.all() {
		b, err := mapper.Append(t.Context(), nil, r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(b))
	}
	return lines
}

// siem collects lines over HTTP.
type siem struct {
	*httptest.Server
	mu      sync.Mutex
	lines   []string
	keys    []string
	answer  func(n int, body []byte) (status int, header map[string]string) // nil takes everything
	batches int
}

func newSiem(t *testing.T, answer func(n int, body []byte) (int, map[string]string)) *siem {
	s := &siem{answer: answer}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.batches++
		status := http.StatusNoContent
		switch {
		case err != nil || r.Header.Get("Content-Type") != "application/x-ndjson" || r.Header.Get("Authorization") != "Bearer s3cret":
			status = http.StatusBadRequest
		case s.answer != nil:
			var header map[string]string
			status, header = s.answer(s.batches, body)
			for k, v := range header {
				w.Header().Set(k, v)
			}
		}
		if status < 300 {
			s.lines = append(s.lines, split(body)...)
			s.keys = append(s.keys, r.Header.Get("Idempotency-Key"))
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

func split(b []byte) (lines []string) {
	for l := range bytes.Lines(b) {
		lines = append(lines, string(l))
	}
	return lines
}

func (s *siem) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func (s *siem) target() Target {
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	return Target{Name: "siem", To: "siem", Delivery: HTTP(s.URL+"/hidden-path", config, func() (string, string, error) { return "Authorization", "Bearer s3cret", nil })}
}

// runs delivers log to targets until the returned function is called.
func runs(t *testing.T, dir string, log Log, targets ...Target) (*Runner, func()) {
	t.Helper()
	r := New(Config{Dir: dir, Origin: packtest.Origin, Version: "v", Logger: slog.New(slog.DiscardHandler)}, log, targets)
	for _, l := range r.lines {
		l.first = 5 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: never", what)
		}
	}
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%d events arrived, want %d, or they are others", len(got), len(want))
	}
}

// collector reads octet-counted messages of RFC 5424 until the end of each
// connection, and then ends it.
type collector struct {
	net.Listener
	mu    sync.Mutex
	lines []string
	early bool // it hangs up before it has read everything
}

func newCollector(t *testing.T) *collector {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.take(conn)
		}
	}()
	return c
}

func (c *collector) take(conn net.Conn) {
	defer conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.early {
		c.early = false
		_ = conn.(*net.TCPConn).SetLinger(0) // as a process that dies does
		return
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		return
	}
	for len(b) > 0 {
		size, rest, _ := bytes.Cut(b, []byte(" "))
		n, err := strconv.Atoi(string(size))
		if err != nil || n > len(rest) {
			return
		}
		// <PRI>1 TIME HOST exhibit PID TYPE [exhibit@32473 position=...] {event}
		_, event, _ := strings.Cut(string(rest[:n]), "] ")
		c.lines, b = append(c.lines, event+"\n"), rest[n:]
	}
}

func (c *collector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// Promise: each target gets every event of the log, in its order and with the
// same bytes, and what comes later as it comes.
func TestEveryTargetGetsEverything(t *testing.T) {
	whole := newLog(t)
	log := whole.first(len(whole.records) - 5)
	s, c := newSiem(t, nil), newCollector(t)
	c.early = true // once
	dir := t.TempDir()
	name := filepath.Join(dir, "events.jsonl")
	sys, err := Syslog("tcp", c.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := runs(t, dir, log, s.target(), Target{Name: "lines", Delivery: File(name)}, Target{Name: "syslog", Delivery: sys})
	inFile := func() []string {
		b, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return split(b)
	}
	check := func() {
		t.Helper()
		want := log.events(t)
		until(t, "everything arrives", func() bool {
			for _, s := range r.Status() {
				if s.Records > 0 || s.Problem != "" {
					return false
				}
			}
			return true
		})
		same(t, s.got(), want)
		same(t, inFile(), want)
		same(t, c.got(), want)
	}
	check()
	log.grow(whole.records[len(whole.records)-5:]...)
	check()
	for _, s := range r.Status() {
		if s.Delivered != log.records[len(log.records)-1].Head.Pos || s.Lag != 0 || s.Events != uint64(len(log.records)) {
			t.Errorf("status %+v", s)
		}
	}
}

// Promise: what was taken is not forgotten by a restart, and what wasn't comes.
func TestARestartGoesOn(t *testing.T) {
	log := newLog(t)
	dir := t.TempDir()
	s := newSiem(t, func(n int, _ []byte) (int, map[string]string) {
		if n > 2 {
			return http.StatusServiceUnavailable, nil
		}
		return http.StatusOK, nil
	})
	r, stop := runs(t, dir, log, s.target())
	until(t, "it is refused", func() bool { return r.Status()[0].Problem != "" })
	st := r.Status()[0]
	if st.Records == 0 || st.Since.IsZero() || !strings.Contains(st.Problem, "503") {
		t.Errorf("a sink that takes nothing: %+v", st)
	}
	stop()
	had := len(s.got())
	if had == 0 || had == len(log.records) {
		t.Fatalf("%d events before the restart", had)
	}
	s.mu.Lock()
	s.answer = nil
	s.mu.Unlock()
	r, _ = runs(t, dir, log, s.target())
	until(t, "everything arrives", func() bool { return r.Status()[0].Records == 0 })
	same(t, s.got(), log.events(t))
}

// Promise: a batch that was taken by somebody who couldn't say so comes again,
// and can be told by its uids; nothing is left out.
func TestWhatWasTakenSilentlyComesTwice(t *testing.T) {
	log := newLog(t)
	var s *siem
	s = newSiem(t, func(n int, body []byte) (int, map[string]string) {
		if n == 2 {
			s.lines = append(s.lines, split(body)...)
			return http.StatusBadGateway, nil
		}
		return http.StatusOK, nil
	})
	r, _ := runs(t, t.TempDir(), log, s.target())
	until(t, "everything arrives", func() bool { return r.Status()[0].Records == 0 })
	seen := make(map[string]string)
	var once []string
	for _, l := range s.got() {
		var e struct{ Metadata struct{ UID string } }
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatal(err)
		}
		if was, twice := seen[e.Metadata.UID]; twice && was != l {
			t.Errorf("%s came as two different events", e.Metadata.UID)
		} else if !twice {
			once = append(once, l)
		}
		seen[e.Metadata.UID] = l
	}
	if len(s.got()) == len(once) {
		t.Error("nothing came twice: the test tests nothing")
	}
	same(t, once, log.events(t))
}

// Promise: who asks to be left alone is, and who finds a batch too large gets
// smaller ones.
func TestWishesOfTheOtherSide(t *testing.T) {
	log := newLog(t)
	var asked time.Time
	s := newSiem(t, func(n int, body []byte) (int, map[string]string) {
		switch {
		case n == 1:
			asked = time.Now()
			return http.StatusTooManyRequests, map[string]string{"Retry-After": "1"}
		case n == 2 && time.Since(asked) < 900*time.Millisecond:
			t.Errorf("asked again after %v", time.Since(asked))
		case bytes.Count(body, []byte("\n")) > 2:
			return http.StatusRequestEntityTooLarge, nil
		}
		return http.StatusOK, nil
	})
	r, _ := runs(t, t.TempDir(), log, s.target())
	until(t, "everything arrives", func() bool { return r.Status()[0].Records == 0 })
	same(t, s.got(), log.events(t))
}

// Promise: what waits for a target that is down stays in the log, and the target
// holds up no other.
func TestATargetThatHangsHoldsUpNobody(t *testing.T) {
	log := newLog(t)
	for len(log.records) < 3_000 {
		next := *log.records[len(log.records)-1]
		next.Head.Pos.Seq++
		next.HeadBytes = evidence.AppendHead(nil, &next.Head)
		log.records = append(log.records, &next)
	}
	hangs := func(ctx context.Context, events []Event) error {
		if len(events) > maxEvents {
			t.Errorf("a batch of %d", len(events))
		}
		<-ctx.Done()
		return ctx.Err()
	}
	name := filepath.Join(t.TempDir(), "events.jsonl")
	r, stop := runs(t, t.TempDir(), log, Target{Name: "hangs", Delivery: deliveryFunc(hangs)}, Target{Name: "lines", Delivery: File(name)})
	until(t, "the other one has everything", func() bool { return r.Status()[1].Records == 0 })
	if n := len(r.lines[0].batch); r.Status()[0].Records != 3_000 {
		t.Errorf("%+v, with %d in the batch", r.Status()[0], n)
	}
	stop()
}

type deliveryFunc func(context.Context, []Event) error

func (f deliveryFunc) Deliver(ctx context.Context, events []Event) error { return f(ctx, events) }

// Promise: no address or token of the other side gets into errors.
func TestErrorsHoldNoSecret(t *testing.T) {
	log := newLog(t)
	s := newSiem(t, func(int, []byte) (int, map[string]string) { return http.StatusForbidden, nil })
	var said bytes.Buffer
	r := New(Config{Dir: t.TempDir(), Logger: slog.New(slog.NewJSONHandler(&said, nil))}, log, []Target{s.target()})
	look := func(status string) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		until(t, "it fails", func() bool { return strings.Contains(r.Status()[0].Problem, status) })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if text := said.String() + r.Status()[0].Problem; strings.Contains(text, "s3cret") || strings.Contains(text, "hidden-path") {
			t.Errorf("a secret got out: %s", text)
		}
	}
	look("403")
	s.Close()
	look("refused")
}

// Promise: the lines of a file are whole, whatever a crash left at its end.
func TestATornLineIsCutOff(t *testing.T) {
	for _, before := range []string{"", "{}\n", "{}\n{\"torn", "torn", "{}\n" + strings.Repeat("x", 200_000)} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		f := File(name)
		for _, l := range []string{"{1}\n", "{2}\n"} {
			if err := f.Deliver(t.Context(), []Event{{Line: []byte(l)}}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		whole := before[:strings.LastIndexByte(before, '\n')+1]
		if string(got) != whole+"{1}\n{2}\n" {
			t.Errorf("behind %.20q: %.60q", before, got)
		}
		if err := os.Rename(name, name+".1"); err != nil { // as logrotate does
			t.Fatal(err)
		}
		if err := f.Deliver(t.Context(), []Event{{Line: []byte("{3}\n")}}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != "{3}\n" {
			t.Errorf("after it was renamed: %q, %v", got, err)
		}
	}
}

// Promise: a sink that is asked to begin later gets everything from then on.
func TestItBeginsWhereItIsAskedTo(t *testing.T) {
	log := newLog(t)
	i := len(log.records) / 2
	for log.records[i].Head.Time == log.records[i-1].Head.Time {
		i++
	}
	s := newSiem(t, nil)
	target := s.target()
	target.From = log.records[i].Head.Time
	r, _ := runs(t, t.TempDir(), log, target)
	until(t, "everything arrives", func() bool { return r.Status()[0].Records == 0 })
	same(t, s.got(), log.events(t)[i:])
}

// Promise: of a log that was restored from an older copy, and went another way
// since, nothing is taken for delivered.
func TestAnotherLogIsDeliveredWhole(t *testing.T) {
	log := newLog(t)
	dir := t.TempDir()
	s := newSiem(t, nil)
	r, stop := runs(t, dir, log, s.target())
	until(t, "everything arrives", func() bool { return r.Status()[0].Records == 0 })
	stop()
	had := len(s.got())
	for name, other := range map[string]*memory{"shorter": log.first(10), "different": func() *memory {
		m := log.first(len(log.records) - 1)
		last := *log.records[len(log.records)-1]
		last.Head.Time++
		last.HeadBytes = evidence.AppendHead(nil, &last.Head)
		m.grow(&last)
		return m
	}()} {
		b, err := os.ReadFile(filepath.Join(dir, "siem.json"))
		if err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		if err := os.WriteFile(filepath.Join(to, "siem.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, stop := runs(t, to, other, s.target())
		until(t, name+" arrives", func() bool { return len(s.got()) >= had+len(other.records) && r.Status()[0].Records == 0 })
		stop()
		same(t, s.got()[had:], other.events(t))
		had = len(s.got())
	}
}

// Over datagrams nobody knows what arrived.
func TestDatagramsAreRefused(t *testing.T) {
	for _, network := range []string{"udp", "unix", "pigeon"} {
		if _, err := Syslog(network, "127.0.0.1:1", nil); err == nil {
			t.Errorf("syslog over %s is taken", network)
		}
	}
}
