package mcp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Command starts a server that speaks over its standard input and output.
type Command struct {
	Args []string
	Dir  string
	Env  func() ([]string, error) // all of its environment
}

// process is a server that the gateway has started, for one session of it.
type process struct {
	s     account
	cmd   *exec.Cmd
	in    *os.File
	limit int // bytes of a message
	log   *slog.Logger

	writing sync.Mutex

	mu        sync.Mutex
	waiting   map[string]*inbox // for the answer to a request, by its id
	order     []*inbox          // those, and those that listen; the newest last
	unread    []*event          // of nobody's yet
	stopping  bool
	exited    error
	read      chan struct{} // closed when nothing more comes
	gone      chan struct{} // closed when the process has ended and that is on record
	forgotten func()        // called when it ends
}

// account is where it is put down what a process does.
type account interface {
	Note(ctx context.Context, n protocol.Note) error
	Count(requests, sent, replied int)
}

// inbox is where messages of the server's arrive for one turn.
type inbox struct {
	ch   chan *event
	left chan struct{} // closed when nobody reads any more
	only bool          // takes the answer and nothing else
}

const (
	maxProcesses = 8 // in one session
	maxUnread    = 64
	termGrace    = 2 * time.Second
	writeTimeout = 10 * time.Second
)

// started returns a conversation with a process: a new one for an initialize,
// and otherwise that of requests which stand for themselves.
func (t *turn) started(initialize bool) (*conversation, error) {
	id := ""
	if initialize {
		id = rand.Text()
	}
	t.part.starting.Lock()
	defer t.part.starting.Unlock()
	if c := t.part.find(id); c != nil && c.proc != nil {
		return c, nil
	}
	if t.part.processes() >= maxProcesses {
		return nil, errConversations
	}
	c := newConversation(id)
	p, err := start(t.s, t.res, t.p.log.With("session", t.s.ID()))
	if err != nil {
		return nil, err
	}
	c.proc = p
	if err := t.part.put(c); err != nil {
		p.stop()
		return nil, err
	}
	p.mu.Lock()
	s := t.s
	p.forgotten = func() {
		t.part.remove(c)
		if c.id == "" { // no server is started again within a session
			s.End("the server's process has ended")
		}
	}
	over := p.exited != nil
	p.mu.Unlock()
	if over {
		p.forgotten()
	}
	facts := evidence.SessionUpstreamBody{
		Local: "stdio:" + strconv.Itoa(p.cmd.Process.Pid), Remote: p.name(), // a pair that no other session has
		PID: uint32(p.cmd.Process.Pid), Start: time.Now().UTC().Format(time.RFC3339),
	}
	if err := t.s.Reached(t.ctx, facts); err != nil {
		t.part.remove(c)
		return nil, err
	}
	return c, nil
}

func (p *process) name() string { return filepath.Base(p.cmd.Path) }

// start starts a server. It ends with the gateway (on Linux, whatever becomes of
// that), and is told of nothing but what is configured.
func start(s account, res *Resource, log *slog.Logger) (*process, error) {
	env, err := res.Command.Env()
	if err != nil {
		return nil, err
	}
	p := &process{
		s: s, limit: res.Message, log: log.With("resource", res.Resource),
		waiting: make(map[string]*inbox), read: make(chan struct{}), gone: make(chan struct{}),
	}
	p.cmd = exec.Command(res.Command.Args[0], res.Command.Args[1:]...) //nolint:noctx,gosec // the operator's own; it ends with the session
	p.cmd.Env, p.cmd.Dir, p.cmd.SysProcAttr = append([]string{}, env...), res.Command.Dir, apart()
	pipes, err := p.pipes()
	if err != nil {
		return nil, err
	}
	began := make(chan error)
	go p.run(began, pipes)
	return p, <-began
}

// pipes are the gateway's ends, to be read, of output and errors.
type pipes struct{ out, errs *os.File }

func (p *process) pipes() (pipes, error) {
	in, toServer, err := os.Pipe()
	if err != nil {
		return pipes{}, err
	}
	out, fromServer, err := os.Pipe()
	if err != nil {
		return pipes{}, errors.Join(err, in.Close(), toServer.Close())
	}
	errs, ofServer, err := os.Pipe()
	if err != nil {
		return pipes{}, errors.Join(err, in.Close(), toServer.Close(), out.Close(), fromServer.Close())
	}
	p.in = toServer
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, fromServer, ofServer
	return pipes{out, errs}, nil
}

// run is the process's life. It stays on one thread: the kernel ends a child
// whose starting thread ends.
func (p *process) run(began chan<- error, from pipes) {
	runtime.LockOSThread()
	err := p.cmd.Start()
	for _, f := range []any{p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr} {
		f.(*os.File).Close()
	}
	if err != nil {
		from.out.Close()
		from.errs.Close()
		p.in.Close()
		close(p.read)
		close(p.gone)
		began <- fmt.Errorf("starting the server: %w", err)
		return
	}
	began <- nil
	var reading sync.WaitGroup
	reading.Go(func() { p.messages(from.out) })
	reading.Go(func() { p.words(from.errs) })
	err = p.cmd.Wait()
	killGroup(p.cmd.Process, true) // what it has left behind
	p.in.Close()
	// What has left the group may hold the other ends for ever.
	late := time.AfterFunc(termGrace, func() { from.out.Close(); from.errs.Close() })
	reading.Wait()
	late.Stop()
	p.ended(err)
}

// ended puts the end on record.
func (p *process) ended(err error) {
	how := "exit status 0"
	if err != nil {
		how = err.Error()
	}
	p.mu.Lock()
	p.exited = errors.New("the server's process has ended: " + how)
	asked, forgotten := p.stopping, p.forgotten
	p.mu.Unlock()
	detail := p.name() + " ended by itself: " + how
	if asked {
		detail = p.name() + " was ended: " + how
	}
	if err := p.s.Note(context.Background(), protocol.Note{Kind: "process", Gateway: true, Detail: detail}); err != nil {
		p.log.Error("the end of a server cannot be recorded", "cause", err)
	}
	if !asked {
		p.log.Warn("a server has ended by itself", "how", how)
	}
	if forgotten != nil && !asked { // before anybody is told of it
		forgotten()
	}
	close(p.gone)
}

// stop ends the process, and waits until that is on record.
func (p *process) stop() {
	p.mu.Lock()
	p.stopping = true
	exited := p.exited != nil
	p.mu.Unlock()
	if exited {
		<-p.gone
		return
	}
	killGroup(p.cmd.Process, false)
	late := time.NewTimer(termGrace)
	defer late.Stop()
	select {
	case <-p.gone:
	case <-late.C:
		killGroup(p.cmd.Process, true)
		<-p.gone
	}
}

// messages reads what the server says, a message a line.
func (p *process) messages(out *os.File) {
	defer out.Close()
	defer close(p.read)
	br := bufio.NewReaderSize(out, 32<<10)
	for {
		line, err := bounded(br, p.limit)
		if errors.Is(err, errTooLarge) {
			p.log.Error("a server is ended: its message exceeds the limit", "bytes", p.limit)
			killGroup(p.cmd.Process, true)
			return
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			p.deliver(line)
		}
		if err != nil {
			return
		}
	}
}

// bounded reads a line of no more than limit bytes.
func bounded(br *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > limit+2 {
			return nil, errTooLarge
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// deliver gives a message to the turn that it is for. What is no message some
// servers print by mistake: it is dropped.
func (p *process) deliver(line []byte) {
	m, err := parse(line)
	if err != nil {
		p.log.Warn("a server's line is no message that is passed on", "cause", err)
		return
	}
	e := &event{data: line}
	p.mu.Lock()
	var to *inbox
	if m.isResponse() {
		if to = p.waiting[idKey(m.id)]; to == nil {
			p.mu.Unlock()
			return // nobody waits any more
		}
	} else if to = p.reader(); to == nil {
		if len(p.unread) < maxUnread {
			p.unread = append(p.unread, e)
		}
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	select {
	case to.ch <- e:
	case <-to.left:
	}
}

// reader is who reads what is no answer: the newest turn; p.mu is held.
func (p *process) reader() *inbox {
	for i := len(p.order) - 1; i >= 0; i-- {
		if !p.order[i].only {
			return p.order[i]
		}
	}
	return nil
}

// words logs what the server says of itself, in bounds.
func (p *process) words(errs *os.File) {
	defer errs.Close()
	br := bufio.NewReaderSize(errs, 4<<10)
	left, until := 0, time.Time{}
	for {
		line, tooLong, err := br.ReadLine()
		for tooLong && err == nil {
			_, tooLong, err = br.ReadLine()
		}
		if err != nil {
			return
		}
		if now := time.Now(); now.After(until) {
			left, until = maxWords, now.Add(time.Minute)
		}
		if left--; left >= 0 && len(line) > 0 {
			p.log.Info("a server says", "line", fmt.Sprintf("%.*q", maxWord, line))
		}
	}
}

const (
	maxWords = 60  // lines of a server in the log, a minute
	maxWord  = 512 // bytes of one
)

// packet makes a line of a message. Its line breaks are spaces between tokens.
func (p *process) packet(content []byte, own bool) *packet {
	line := append(bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, content), '\n')
	return &packet{bytes: len(line), send: func(ctx context.Context) (*reply, error) {
		m, err := parse(content)
		if err != nil {
			return nil, err
		}
		if !m.isRequest() {
			if err := p.write(line); err != nil {
				return nil, err
			}
			return &reply{status: http.StatusAccepted, next: nothing, close: func() {}}, nil
		}
		key := idKey(m.id)
		in := p.attach(key, own)
		if err := p.write(line); err != nil {
			p.detach(key, in)
			return nil, err
		}
		return p.reply(ctx, key, in), nil
	}}
}

func nothing() (*event, error) { return nil, io.EOF }

// plain is a request without a message: to listen, or to end.
func (p *process) plain(method string) *packet {
	return &packet{send: func(ctx context.Context) (*reply, error) {
		if method != http.MethodGet {
			return &reply{status: http.StatusOK, next: nothing, close: func() {}}, nil
		}
		return p.reply(ctx, "", p.attach("", false)), nil
	}}
}

func (p *process) reply(ctx context.Context, key string, in *inbox) *reply {
	return &reply{
		status: http.StatusOK, stream: true,
		header: http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-cache, no-transform"}},
		next: func() (*event, error) {
			select {
			case e := <-in.ch:
				return e, nil
			default:
			}
			select {
			case e := <-in.ch:
				return e, nil
			case <-ctx.Done():
			case <-p.gone:
			}
			return p.last(ctx, in)
		},
		close: func() { p.detach(key, in) },
	}
}

// last is what a turn reads that can't wait any longer. That the process has
// ended says more than that the session does because of it.
func (p *process) last(ctx context.Context, in *inbox) (*event, error) {
	select {
	case <-p.gone:
	default:
		return nil, context.Cause(ctx)
	}
	select {
	case e := <-in.ch:
		return e, nil
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return nil, p.exited
}

// attach makes an inbox. What nobody has read goes to the first that may have
// it.
func (p *process) attach(key string, only bool) *inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := &inbox{ch: make(chan *event, maxUnread), left: make(chan struct{}), only: only}
	if key != "" {
		p.waiting[key] = in
	}
	p.order = append(p.order, in)
	if !only {
		for _, e := range p.unread {
			in.ch <- e
		}
		p.unread = nil
	}
	return in
}

func (p *process) detach(key string, in *inbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(in.left)
	if p.waiting[key] == in {
		delete(p.waiting, key)
	}
	for i, o := range p.order {
		if o == in {
			p.order = append(p.order[:i:i], p.order[i+1:]...)
			break
		}
	}
}

// write writes a line. A server that doesn't read is ended.
func (p *process) write(line []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.in.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	p.s.Count(1, len(line), 0)
	if _, err := p.in.Write(line); err != nil {
		killGroup(p.cmd.Process, true)
		return fmt.Errorf("writing to the server: %w", err)
	}
	return nil
}
