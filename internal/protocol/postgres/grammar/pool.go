package grammar

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Config says how a Pool runs its children. Zero fields have the defaults.
type Config struct {
	// Command makes the command of a child, which must call Main. The default
	// runs this executable with Argument.
	Command func() *exec.Cmd
	// Workers is how many texts are asked about at once: one less than there
	// are processors.
	Workers int
	// Timeout is how long a text may take: 2 seconds.
	Timeout time.Duration
	// MaxText is how long a text may be, in bytes: 256 KiB.
	MaxText int
	// OnKill is called when a text killed a child or had to be stopped. It
	// must not block.
	OnKill func(reason string)
	// OnBare is called when children run without the sandbox, or with less of
	// it than the system could give; once per reason. It must not block.
	OnBare func(reason string)
}

// Why a text has no facts.
var (
	ErrText   = errors.New("not a text that PostgreSQL can read whole")
	ErrSize   = errors.New("text too long")
	ErrKilled = errors.New("text kills or outlasts the grammar")
	ErrPool   = errors.New("the grammar is not available")
)

// Pool asks the grammar in child processes. Its methods are safe for
// concurrent use.
type Pool struct {
	cfg     Config
	ways    []func(*exec.Cmd) // to isolate a child, the best first
	slots   chan *child // one per worker; nil is a worker without a child
	spawn   chan spawnRequest
	done    chan struct{}
	close   sync.Once
	closing sync.WaitGroup
	kills   atomic.Uint64
	bare    sync.Map // reasons already told
}

// Start starts a pool, and one child to see that it works.
func Start(cfg Config) (*Pool, error) {
	if cfg.Command == nil {
		exe, err := self()
		if err != nil {
			return nil, fmt.Errorf("finding the executable: %w", err)
		}
		cfg.Command = func() *exec.Cmd { return exec.CommandContext(context.Background(), exe, Argument) }
	}
	if cfg.Workers <= 0 {
		cfg.Workers = max(1, runtime.NumCPU()-1)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.MaxText <= 0 {
		cfg.MaxText = 256 << 10
	}
	if cfg.OnKill == nil {
		cfg.OnKill = func(string) {}
	}
	if cfg.OnBare == nil {
		cfg.OnBare = func(string) {}
	}
	p := &Pool{cfg: cfg, ways: isolations(), slots: make(chan *child, cfg.Workers), spawn: make(chan spawnRequest), done: make(chan struct{})}
	p.closing.Add(1)
	go p.spawner()
	first, err := p.start()
	if err != nil {
		p.Close()
		return nil, err
	}
	p.slots <- first
	for range cfg.Workers - 1 {
		p.slots <- nil // started when first needed
	}
	return p, nil
}

// Kills counts the texts that killed a child or had to be stopped.
func (p *Pool) Kills() uint64 { return p.kills.Load() }

// Ask returns what the grammar says of text. Its error wraps one of the Err
// values, or is ctx's.
func (p *Pool) Ask(ctx context.Context, text string) (*Facts, error) {
	switch {
	case len(text) > p.cfg.MaxText:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrSize, len(text), p.cfg.MaxText)
	case strings.IndexByte(text, 0) >= 0:
		return nil, fmt.Errorf("%w: it holds a NUL", ErrText)
	case !utf8.ValidString(text):
		return nil, fmt.Errorf("%w: it isn't UTF-8", ErrText)
	}
	for last := false; ; last = true {
		facts, err := p.try(ctx, text)
		var died *diedError
		if !errors.As(err, &died) {
			return facts, err
		}
		// Once more: something else may have killed the child.
		if last || died.timeout {
			p.kills.Add(1)
			p.cfg.OnKill(died.Error())
			return nil, fmt.Errorf("%w: %w", ErrKilled, err)
		}
	}
}

// try asks one child. A child that didn't answer is gone afterwards.
func (p *Pool) try(ctx context.Context, text string) (*Facts, error) {
	var c *child
	select {
	case c = <-p.slots:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, fmt.Errorf("%w: it is closed", ErrPool)
	}
	keep := c
	defer func() { p.slots <- keep }()
	if c == nil {
		var err error
		if c, err = p.start(); err != nil {
			return nil, err
		}
	}
	facts, err := c.ask(text, p.cfg.Timeout)
	if err != nil || facts.Last {
		c.kill()
		keep = nil
		return facts, err
	}
	keep = c
	return facts, nil
}

// Close ends the children. Texts that are being asked about fail.
func (p *Pool) Close() {
	p.close.Do(func() { close(p.done) })
	p.closing.Wait()
	for {
		select {
		case c := <-p.slots:
			if c != nil {
				c.kill()
			}
		default:
			return
		}
	}
}

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

// spawner starts all children from one thread that lives as long as the pool:
// the kernel ties "dies with its parent" to the thread that started it.
func (p *Pool) spawner() {
	defer p.closing.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case r := <-p.spawn:
			r.reply <- r.cmd.Start()
		case <-p.done:
			return
		}
	}
}

// start starts a child, as well isolated as the system lets it be.
func (p *Pool) start() (*child, error) {
	var refused error
	for i, isolate := range p.ways {
		c, err := p.startIn(isolate)
		if err != nil {
			refused = cmp.Or(refused, err)
			continue
		}
		if i > 0 {
			p.tellBare(fmt.Sprintf("less isolated: %v", refused))
		}
		if c.bare != "" {
			p.tellBare(c.bare)
		}
		return c, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrPool, refused)
}

func (p *Pool) tellBare(reason string) {
	if _, told := p.bare.LoadOrStore(reason, true); !told {
		p.cfg.OnBare(reason)
	}
}

func (p *Pool) startIn(isolate func(*exec.Cmd)) (*child, error) {
	cmd := p.cfg.Command()
	if cmd.Env == nil {
		cmd.Env = []string{} // nothing, not the gateway's
	}
	isolate(cmd)
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the grammar: %w", err)
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		childIn.Close()
		return nil, fmt.Errorf("starting the grammar: %w", err)
	}
	cmd.Stdin, cmd.Stdout = childIn, childOut
	err = p.run(cmd)
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("starting the grammar: %w", err)
	}
	c := &child{cmd: cmd, in: in, out: out, r: bufio.NewReader(out), w: bufio.NewWriter(in)}
	if err := c.hello(); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

func (p *Pool) run(cmd *exec.Cmd) error {
	r := spawnRequest{cmd, make(chan error, 1)}
	select {
	case p.spawn <- r:
		return <-r.reply
	case <-p.done:
		return ErrPool
	}
}

// child is one process. One goroutine has it at a time.
type child struct {
	cmd     *exec.Cmd
	in, out *os.File // our ends
	r       *bufio.Reader
	w       *bufio.Writer
	bare    string // why it isn't in a sandbox
}

// startTimeout is how long a child may take to be ready: it is a whole gateway
// binary, on a busy machine.
const startTimeout = 20 * time.Second

func (c *child) hello() error {
	if err := c.out.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("starting the grammar: %w", err)
	}
	b, err := readFrame(c.r, 1<<10)
	switch {
	case err != nil:
		return fmt.Errorf("starting the grammar: %w", err)
	case len(b) == 0 || b[0] != helloSandboxed && b[0] != helloBare:
		return errors.New("starting the grammar: the child says something else")
	}
	c.bare = string(b[1:])
	return nil
}

// diedError is a child that died, hung, or answered nonsense over a text.
type diedError struct {
	timeout bool
	err     error
}

func (e *diedError) Error() string {
	if e.timeout {
		return "the grammar did not answer in time"
	}
	return "the grammar died: " + e.err.Error()
}

func (c *child) ask(text string, timeout time.Duration) (*Facts, error) {
	facts, err := c.exchange(text, time.Now().Add(timeout))
	if err != nil {
		return nil, &diedError{timeout: errors.Is(err, os.ErrDeadlineExceeded), err: err}
	}
	return facts, nil
}

func (c *child) exchange(text string, deadline time.Time) (*Facts, error) {
	if err := c.in.SetWriteDeadline(deadline); err != nil {
		return nil, err
	}
	if err := c.out.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	if err := writeFrame(c.w, []byte(text)); err != nil {
		return nil, err
	}
	answer, err := readFrame(c.r, maxFrame)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	facts := new(Facts)
	if err := json.Unmarshal(answer, facts); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	return facts, nil
}

func (c *child) kill() {
	c.in.Close()
	c.out.Close()
	// It may have died already; then there is nothing to kill.
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}
