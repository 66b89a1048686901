package grammar

import (
	"bufio"
	"cmp"
	"context"
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
	// are processors. One more has run past Quick.
	Workers int
	// Quick is how long a text may take while others wait for its place: 100
	// milliseconds. Then it goes on beside them.
	Quick time.Duration
	// Timeout is how much processor time a text may take in all: 2 seconds.
	// By the clock it may take Patience times as long, since on a busy machine
	// a child waits for others; where a child's processor time can't be read,
	// the clock is what counts.
	Timeout time.Duration
	// MaxText is how long a text may be, in bytes: 256 KiB.
	MaxText int
	// OnKill is called when a text killed a child or had to be stopped. It
	// must not block.
	OnKill func(reason string)
	// OnBare is called when children run without the sandbox, or with less of
	// it than the system could give; once per reason. It must not block.
	OnBare func(reason string)
	// OnDown is called with why no child can be started, and with nil once one
	// can again. It must not block.
	OnDown func(error)
}

func (c *Config) setDefaults() error {
	if c.Command == nil {
		exe, err := self()
		if err != nil {
			return fmt.Errorf("finding the executable: %w", err)
		}
		c.Command = func() *exec.Cmd { return exec.CommandContext(context.Background(), exe, Argument) }
	}
	if c.Workers <= 0 {
		c.Workers = max(1, runtime.NumCPU()-1)
	}
	if c.Quick <= 0 {
		c.Quick = 100 * time.Millisecond
	}
	if c.Timeout <= 0 {
		c.Timeout = 2 * time.Second
	}
	if c.MaxText <= 0 {
		c.MaxText = 256 << 10
	}
	if c.OnKill == nil {
		c.OnKill = func(string) {}
	}
	if c.OnBare == nil {
		c.OnBare = func(string) {}
	}
	if c.OnDown == nil {
		c.OnDown = func(error) {}
	}
	return nil
}

// Patience is how much longer than its Timeout a text may take by the clock.
const Patience = 5

// Why a text has no facts.
var (
	ErrText   = errors.New("not a text that PostgreSQL can read whole")
	ErrSize   = errors.New("text too long")
	ErrKilled = errors.New("text kills or outlasts the grammar")
	ErrPool   = errors.New("the grammar is not available")
)

// Pool asks the grammar in child processes. Its methods are safe for
// concurrent use.
//
// Texts wait for a place in the quick lane, by turns of the agents that they
// are from. One that takes long while others wait leaves it: for the slow lane,
// which has one place, with the child that it has, or to start over there when
// the place becomes free.
type Pool struct {
	cfg         Config
	ways        []func(*exec.Cmd) // to isolate a child, the best first
	quick, slow *lane
	spawn       chan spawnRequest
	ctx         context.Context // of the pool
	close       context.CancelFunc
	closing     sync.WaitGroup
	kills       atomic.Uint64
	bare        sync.Map // reasons already told

	mu    sync.Mutex
	idle  []*child
	busy  map[*child]struct{}
	down  error         // why the last start of a child failed, or nil
	until time.Time     // when to try again
	pause time.Duration // from then on, should it fail again
}

// Start starts a pool, and one child to see that it works.
func Start(cfg Config) (*Pool, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	p := &Pool{
		cfg: cfg, ways: isolations(), quick: newLane(cfg.Workers), slow: newLane(1),
		spawn: make(chan spawnRequest), busy: make(map[*child]struct{}),
	}
	p.ctx, p.close = context.WithCancel(context.Background())
	p.closing.Add(1)
	go p.spawner()
	first, err := p.start()
	if err != nil {
		p.Close()
		return nil, err
	}
	p.put(first)
	return p, nil // the others are started when first needed
}

// Kills counts the texts that killed a child or had to be stopped.
func (p *Pool) Kills() uint64 { return p.kills.Load() }

type agentKey struct{}

// For says from which agent the texts are that are asked about with the
// context: agents are served by turns.
func For(ctx context.Context, agent string) context.Context {
	return context.WithValue(ctx, agentKey{}, agent)
}

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
	facts, err := p.try(ctx, p.quick, text)
	var died *diedError
	if errors.As(err, &died) && !died.timeout {
		// Once more: something else may have killed the child, or others waited.
		facts, err = p.try(ctx, p.slow, text)
	}
	if errors.As(err, &died) {
		p.kills.Add(1)
		p.cfg.OnKill(died.Error())
		return nil, fmt.Errorf("%w: %w", ErrKilled, err)
	}
	return facts, err
}

// try asks one child. One that didn't answer is gone afterwards, and another
// is started on the time of who lost it.
func (p *Pool) try(ctx context.Context, l *lane, text string) (*Facts, error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(p.ctx, stop)()
	agent, _ := ctx.Value(agentKey{}).(string)
	if err := l.enter(waiting, agent); err != nil {
		return nil, cmp.Or(ctx.Err(), errClosed)
	}
	s := &stay{p: p, lane: l}
	defer s.end()
	c, err := p.take()
	if err != nil {
		return nil, err
	}
	s.begin(c)
	facts, err := c.ask(text, p.cfg.Timeout)
	moved := s.settle()
	if err == nil && !facts.Last && !moved {
		p.put(c)
		return facts, nil
	}
	p.drop(c)
	if err != nil {
		p.replace()
	}
	return facts, err
}

// stay is a text's time in a lane.
type stay struct {
	p *Pool

	mu    sync.Mutex
	lane  *lane
	child *child
	timer *time.Timer
	over  bool
}

// begin has the stay looked at every once in a while, if it is in the quick
// lane.
func (s *stay) begin(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = c
	if s.lane == s.p.quick {
		s.timer = time.AfterFunc(s.p.cfg.Quick, s.look)
	}
}

// look ends a stay that has become long while others wait.
func (s *stay) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || s.lane != s.p.quick:
	case !s.p.quick.wanted():
		s.timer.Reset(s.p.cfg.Quick)
	case s.p.slow.tryEnter():
		defer s.lane.leave()
		s.lane = s.p.slow
		yield(s.child.cmd.Process.Pid)
	default:
		s.child.stop()
	}
}

// settle ends the looking, and reports whether the text has moved on.
func (s *stay) settle() (moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.timer == nil {
		return false
	}
	s.timer.Stop()
	return s.lane != s.p.quick
}

// end gives back the place that the text has by now.
func (s *stay) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.lane.leave()
}

// Close ends the children. Texts that are being asked about fail.
func (p *Pool) Close() {
	p.close()
	p.closing.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.busy {
		c.stop() // whoever has it drops it
	}
	for _, c := range p.idle {
		c.kill()
	}
	p.idle = nil
}

var errClosed = fmt.Errorf("%w: it is closed", ErrPool)

// take returns a child for one text.
func (p *Pool) take() (*child, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.busy[c] = struct{}{}
		return c, nil
	}
	if p.down != nil && time.Now().Before(p.until) {
		return nil, p.down
	}
	p.mu.Unlock()
	c, err := p.start()
	p.mu.Lock()
	switch {
	case err != nil && p.ctx.Err() == nil:
		p.failed(err)
	case err == nil:
		p.busy[c] = struct{}{}
		p.worked()
	}
	return c, err
}

// longestPause is the most that passes between two attempts to start a child.
const longestPause = 10 * time.Second

// failed takes in that no child can be started; p.mu is held.
func (p *Pool) failed(err error) {
	if p.down == nil {
		p.pause = 50 * time.Millisecond
		p.cfg.OnDown(err)
	}
	p.down, p.until = err, time.Now().Add(p.pause)
	p.pause = min(2*p.pause, longestPause)
}

// worked takes in that one can; p.mu is held.
func (p *Pool) worked() {
	if p.down != nil {
		p.down = nil
		p.cfg.OnDown(nil)
	}
}

// put takes a child back.
func (p *Pool) put(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, c)
	if p.ctx.Err() != nil || len(p.idle) >= p.cfg.Workers {
		c.kill()
		return
	}
	p.idle = append(p.idle, c)
}

func (p *Pool) drop(c *child) {
	c.kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, c)
}

// replace sees to it that the next text finds a child.
func (p *Pool) replace() {
	if c, err := p.take(); err == nil {
		p.put(c)
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
		case <-p.ctx.Done():
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
	c := &child{cmd: cmd, in: in, out: out}
	c.r, c.w = bufio.NewReader(c), bufio.NewWriter(c)
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
	case <-p.ctx.Done():
		return errClosed
	}
}

// child is one process. One goroutine has it at a time; any may stop it.
type child struct {
	cmd     *exec.Cmd
	in, out *os.File // our ends
	r       *bufio.Reader
	w       *bufio.Writer
	bare    string // why it isn't in a sandbox

	timeout   time.Duration // of what it is asked now
	began     time.Time
	processor time.Duration // that it had used then
}

// startTimeout is how long a child may take to be ready: it is a whole gateway
// binary, on a busy machine.
const startTimeout = 4 * time.Second

func (c *child) hello() error {
	if err := c.allow(startTimeout); err != nil {
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

// allow gives the child so much processor time for what is exchanged from now
// on.
func (c *child) allow(timeout time.Duration) error {
	c.timeout, c.began, c.processor = timeout, time.Now(), processorTimeOf(c.cmd.Process.Pid)
	return c.pauseIn(timeout)
}

// pauseIn has reading and writing pause then, to see what the child has used.
func (c *child) pauseIn(d time.Duration) error {
	at := time.Now().Add(d)
	return errors.Join(c.in.SetWriteDeadline(at), c.out.SetReadDeadline(at))
}

// paused reports whether err is only a pause in an exchange that goes on.
func (c *child) paused(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	passed := time.Since(c.began)
	used := passed
	if now := processorTimeOf(c.cmd.Process.Pid); now > 0 {
		used = now - c.processor
	}
	left := min(c.timeout-used, Patience*c.timeout-passed)
	return left > 0 && c.pauseIn(left) == nil
}

// Read reads what the child says, while it has time.
func (c *child) Read(b []byte) (n int, err error) {
	for {
		if n, err = c.out.Read(b); !c.paused(err) {
			return n, err
		}
	}
}

// Write writes to the child, while it has time.
func (c *child) Write(b []byte) (done int, err error) {
	for {
		n, err := c.in.Write(b[done:])
		if done += n; !c.paused(err) {
			return done, err
		}
	}
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
	facts, err := c.exchange(text, timeout)
	if err != nil {
		return nil, &diedError{timeout: errors.Is(err, os.ErrDeadlineExceeded), err: err}
	}
	return facts, nil
}

func (c *child) exchange(text string, timeout time.Duration) (*Facts, error) {
	if err := c.allow(timeout); err != nil {
		return nil, err
	}
	if err := writeFrame(c.w, []byte(text)); err != nil {
		return nil, err
	}
	answer, err := readFrame(c.r, maxAnswer)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return decode(answer)
}

// stop has the one who asks the child see it dead.
func (c *child) stop() { _ = c.cmd.Process.Kill() }

func (c *child) kill() {
	c.in.Close()
	c.out.Close()
	// It may have died already; then there is nothing to kill.
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}
