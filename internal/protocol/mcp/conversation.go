package mcp

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// part is what this protocol keeps for a session of the gateway: the sessions
// of the server that were made in it. One that another session shows is none.
type part struct {
	mu     sync.Mutex
	of     map[string]*conversation // by Mcp-Session-Id; "" is requests that need none
	closed bool
	last   []did // the newest requests

	starting sync.Mutex     // one process at a time
	closing  chan struct{}  // closed with the session
	ending   sync.WaitGroup // processes that are being ended, and commands that nobody waits for
}

const (
	maxConversations = 128              // in one session
	spared           = 10 * time.Second // in which one that was used isn't given up for another
	maxInFlight      = 256              // requests of one conversation, each way
	maxGone          = 1024             // ids that may still be answered, of requests that nobody waits for
	maxAge           = 5 * time.Minute  // of what is known of a list
	maxTemplates     = 256
	maxURI           = 8 << 10 // of one that is compared with templates
)

// conversation is a session of the server, or all requests that stand for
// themselves.
type conversation struct {
	id   string
	proc *process // the server, if the gateway has started it
	bye  func()   // tells the server that it is over; may be nil

	mu       sync.Mutex
	used     time.Time
	inFlight map[string]*call
	gone     []string         // ids of ended requests whose answer may still come
	asked    map[string]asked // what the server waits for, by its ids

	learning sync.Mutex
	known    known // under mu
}

// known is what the server has listed.
type known struct {
	tools     map[string]*Tool
	prompts   map[string]bool
	resources map[string]bool
	templates []template
	at        map[string]time.Time // when all of a list was read, by its method; none is never
}

// asked is something that the server asked and the agent was shown.
type asked struct {
	pos    evidence.Position
	action string
}

func newPart() *part {
	return &part{of: make(map[string]*conversation), closing: make(chan struct{})}
}

func newConversation(id string) *conversation {
	return &conversation{
		id: id, used: time.Now(), inFlight: make(map[string]*call), asked: make(map[string]asked),
		known: known{at: make(map[string]time.Time)},
	}
}

// did is a request of the agent's, as the agent is told of it.
type did struct {
	ID      string `json:"id" jsonschema:"on record"`
	Request string `json:"request"`
	Outcome string `json:"outcome"`
}

// maxDid bounds what is told of a session.
const maxDid = 100

// remember keeps a request that has ended.
func (p *part) remember(d did) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) == maxDid {
		p.last = p.last[:copy(p.last, p.last[1:])]
	}
	p.last = append(p.last, d)
}

// recent returns the newest requests.
func (p *part) recent() []did {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]did{}, p.last...)
}

// Close implements io.Closer: it ends the processes.
func (p *part) Close() error {
	p.mu.Lock()
	p.closed = true
	close(p.closing)
	all := p.of
	p.of = nil
	p.mu.Unlock()
	for _, c := range all {
		p.ending.Go(c.close)
	}
	p.ending.Wait()
	return nil
}

func (c *conversation) close() {
	switch {
	case c.proc != nil:
		c.proc.stop()
	case c.bye != nil:
		c.bye()
	}
}

// find returns a conversation; nil when the session has no such.
func (p *part) find(id string) *conversation {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of[id]
	if c == nil && id == "" && !p.closed {
		c = newConversation("")
		p.of[""] = c
	}
	if c != nil {
		c.touch()
	}
	return c
}

func (c *conversation) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = time.Now()
}

var errConversations = errors.New("too many sessions of the server")

// room reports whether there is room for one more conversation. When there isn't,
// the one that was used least of late makes it, if it isn't in use.
func (p *part) room() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	sessions := len(p.of)
	if p.of[""] != nil { // what stands for itself is none
		sessions--
	}
	if sessions < maxConversations {
		return true
	}
	var oldest *conversation
	since := time.Now().Add(-spared)
	for _, c := range p.of {
		c.mu.Lock()
		used, idle := c.used, len(c.inFlight) == 0
		c.mu.Unlock()
		if idle && c.id != "" && used.Before(since) {
			oldest, since = c, used
		}
	}
	if oldest == nil {
		return false
	}
	delete(p.of, oldest.id)
	p.ending.Go(oldest.close)
	return true
}

// add takes in a conversation for which there was room when it was asked for.
func (p *part) add(c *conversation) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.of[c.id] != nil {
		return errConversations
	}
	p.of[c.id] = c
	return nil
}

// put takes in a conversation with a process, in the place of one without.
func (p *part) put(c *conversation) error {
	if c.id != "" {
		return p.add(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errConversations
	}
	p.of[""] = c
	return nil
}

// processes is how many run.
func (p *part) processes() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.of {
		if c.proc != nil {
			n++
		}
	}
	return n
}

// remove forgets a conversation that has ended, as its server knows.
func (p *part) remove(c *conversation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if p.of[c.id] == c {
		delete(p.of, c.id)
	}
	if c.proc != nil {
		p.ending.Go(c.close)
	}
}

// call is a request of the agent's on its way.
type call struct {
	key    string // of its id
	method string
	all    bool // of a list, and from its beginning
	ex     protocol.Exchange
	once   sync.Once
	over   chan struct{} // closed with the end
	ended  func(did)     // told of it; may be nil
	text   string        // of the command

	mu   sync.Mutex
	done bool // it has an outcome, or is about to

	cancelled bool   // the agent says so; under the conversation's mu
	giveUp    func() // ends its wait for people; likewise
}

func newCall(ex protocol.Exchange) *call { return &call{ex: ex, over: make(chan struct{})} }

// end records the outcome, unless another end came first. It reports whether
// this one counts.
func (x *call) end(ctx context.Context, o evidence.Outcome) (first bool, err error) {
	x.once.Do(func() {
		first = true
		x.mu.Lock()
		x.done = true
		x.mu.Unlock()
		err = x.ex.End(context.WithoutCancel(ctx), o)
		close(x.over)
		if x.ended != nil {
			x.ended(did{x.ex.Position().String(), x.text, strings.TrimSpace(string(o.Class) + " " + o.Code)})
		}
	})
	return first, err
}

// observe digests what the agent gets within the command. It does nothing, and
// reports so, once that has ended: others may end it at any time.
func (x *call) observe(b []byte) (open bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done {
		return false, nil
	}
	return true, x.ex.Observe(evidence.ToAgent, b)
}

// cancelGrace is how long after an agent has left a request it may say that it
// has cancelled it.
const cancelGrace = 2 * time.Second

// abandon ends a request whose agent has left, in doubt unless the agent still
// says that it has cancelled it.
func (p *part) abandon(ctx context.Context, c *conversation, x *call, o evidence.Outcome, failed func(error)) {
	p.ending.Go(func() {
		late := time.NewTimer(cancelGrace)
		defer late.Stop()
		select {
		case <-x.over:
			return
		case <-late.C:
		case <-p.closing:
		}
		c.leave(x, false)
		if _, err := x.end(ctx, o); err != nil {
			failed(err)
		}
	})
}

var (
	errInFlight = errors.New("a request with this id is in flight already")
	errTooMany  = errors.New("too many requests are in flight")
)

// enter takes in a request. Requests that stand for themselves have answers of
// their own, so that their ids need not differ.
func (c *conversation) enter(x *call) error {
	if c.id == "" && c.proc == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[x.key] != nil {
		return errInFlight
	}
	if slices.Contains(c.gone, x.key) {
		return errInFlight
	}
	if len(c.inFlight) >= maxInFlight {
		return errTooMany
	}
	c.inFlight[x.key] = x
	return nil
}

// begin gives a request its command, by which others may end it from now on.
func (c *conversation) begin(x *call, ex protocol.Exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.ex = ex
}

// cancelling returns the request that a notification says is cancelled; nil when
// there is none, or it says something else.
func (c *conversation) cancelling(m *message) *call {
	id, err := member(m.params, "requestId")
	if m.method != "notifications/cancelled" || err != nil || id == nil {
		return nil
	}
	c.release(idKey(id))
	x := c.running(idKey(id))
	if x != nil {
		c.mu.Lock()
		x.cancelled = true
		c.mu.Unlock()
	}
	return x
}

func (c *conversation) isCancelled(x *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return x.cancelled
}

// leave takes out a request. Unanswered ones keep their id from being used again
// for a while: a late answer must not be taken for that to another request.
func (c *conversation) leave(x *call, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight[x.key] != x {
		return
	}
	delete(c.inFlight, x.key)
	if !answered {
		if len(c.gone) == maxGone {
			c.gone = c.gone[1:]
		}
		c.gone = append(c.gone, x.key)
	}
}

// running returns the request of an id that is in flight and has begun.
func (c *conversation) running(key string) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.inFlight[key]; x != nil && x.ex != nil {
		return x
	}
	return nil
}

// isGone reports whether an id is that of a request which nobody waits for.
func (c *conversation) isGone(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.gone, key)
}

// ask notes that the server waits for an answer of the agent's.
func (c *conversation) ask(key string, a asked) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.asked[key]; !again && len(c.asked) >= maxInFlight {
		return false
	}
	c.asked[key] = a
	return true
}

// waits returns what the server waits for under an id.
func (c *conversation) waits(key string) (asked, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.asked[key]
	return a, ok
}

func (c *conversation) answered(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, key)
}

// fresh reports whether a list is known well enough to name things by.
func (c *conversation) fresh(method string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.known.at[method]
	return ok && time.Since(at) < maxAge
}

// stale forgets that a list is known.
func (c *conversation) stale(methods ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range methods {
		delete(c.known.at, m)
	}
}

// learned takes in entries of a list: all there are, or some.
func (c *conversation) learned(method string, list []entry, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &c.known
	switch method {
	case "tools/list":
		if all || k.tools == nil {
			k.tools = make(map[string]*Tool)
		}
		for _, e := range list {
			if e.tool.unfit != heldName && len(k.tools) < maxListed {
				k.tools[e.tool.Name] = e.tool
			}
		}
	case "prompts/list":
		k.prompts = merge(k.prompts, list, all)
	case "resources/list":
		k.resources = merge(k.resources, list, all)
	case "resources/templates/list":
		if all {
			k.templates = nil
		}
		for _, e := range list {
			if t, ok := templateOf(e.name); ok && e.name != "" && len(k.templates) < maxTemplates {
				k.templates = append(k.templates, t)
			}
		}
	}
	delete(k.at, method)
	if all {
		k.at[method] = time.Now()
	}
}

func merge(m map[string]bool, list []entry, all bool) map[string]bool {
	if all || m == nil {
		m = make(map[string]bool)
	}
	for _, e := range list {
		if e.name != "" && len(m) < maxListed {
			m[e.name] = true
		}
	}
	return m
}

// tool returns a tool by its name, one that is held if the server doesn't list
// it.
func (c *conversation) tool(name string) *Tool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.known.tools[name]; t != nil {
		return t
	}
	return &Tool{unfit: heldUnknown}
}

// prompt returns the name of a prompt that the server lists, or "?".
func (c *conversation) prompt(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known.prompts[name] {
		return name
	}
	return "?"
}

// resource returns a URI that the server lists, or the template of its that the
// URI is of, or "?".
func (c *conversation) resource(uri string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known.resources[uri] {
		return uri
	}
	best := "?"
	for _, t := range c.known.templates {
		if uri == t.text {
			return uri
		}
		if len(uri) <= maxURI && t.uris.MatchString(uri) && (best == "?" || len(t.text) > len(best)) {
			best = t.text
		}
	}
	return best
}

// template is one of URIs (RFC 6570).
type template struct {
	text string
	uris *regexp.Regexp
}

// templateOf reads a template: what stands between its expressions is in a URI
// of it, in order, and each expression has a value, which has slashes only where
// the expression may.
func templateOf(s string) (template, bool) {
	var b strings.Builder
	b.WriteString("^")
	rest := s
	for {
		literal, more, found := strings.Cut(rest, "{")
		b.WriteString(regexp.QuoteMeta(literal))
		if !found {
			break
		}
		expr, behind, closed := strings.Cut(more, "}")
		if !closed || expr == "" {
			return template{}, false
		}
		value := "[^/]+"
		if strings.ContainsRune("+#/", rune(expr[0])) {
			value = ".+"
		}
		b.WriteString(value)
		rest = behind
	}
	re, err := regexp.Compile(b.String() + "$")
	return template{s, re}, err == nil
}
