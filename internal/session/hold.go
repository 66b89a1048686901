package session

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Holds are the bounds of commands that need the approval of people. Zero values
// are the defaults.
type Holds struct {
	// Key is of the digests that requests name commands by. It has to be the same
	// in every boot, or what was approved in one isn't found in the next; without
	// one it is drawn.
	Key  [32]byte
	Open int           // requests of one agent that aren't used or refused; default 16
	Wait time.Duration // for an answer, while the agent waits; default 10 min
	Life time.Duration // of a request, and of an approval that isn't used; default 24 h
}

func (h Holds) withDefaults() Holds {
	if h.Key == [32]byte{} {
		rand.Read(h.Key[:])
	}
	h.Open = cmp.Or(h.Open, 16)
	h.Wait = cmp.Or(h.Wait, 10*time.Minute)
	h.Life = cmp.Or(h.Life, 24*time.Hour)
	return h
}

// maxHeld bounds the texts of held commands that are kept for people to read.
const maxHeld = 64 << 20

// holds is what a gate knows of the requests that commands have led to: which is
// whose, and what exactly it asks. The registry says where each stands.
type holds struct {
	mu       sync.Mutex
	read     bool // the registry has been looked through for those of earlier boots
	byDigest map[string]*held
	bytes    int // of their texts

	waking  sync.Mutex
	woken   chan struct{} // closed when something changed; nil while nobody waits
	version uint64        // of the registry when it was closed last
}

// held is one of them.
type held struct {
	request string
	agent   string
	known   bool // raw and params are there
	raw     []byte
	params  [][]byte
}

func (h *held) size() (n int) {
	n = len(h.raw)
	for _, p := range h.params {
		n += len(p)
	}
	return n
}

// Held returns the exact text and values of a command that a request asks for,
// for people who are to approve it. They are there while the request is open and
// only in the boot in which the command was asked: what was recorded is sealed.
func (g *Gate) Held(request string) (raw []byte, params [][]byte, ok bool) {
	h := &g.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.byDigest {
		if e.request == request && e.known {
			return e.raw, e.params, true
		}
	}
	return nil, nil, false
}

// labelCommand begins what is digested of a command.
const labelCommand = "exhibit/v1/approval/command"

// digest names a command by all that people approve. Each part is preceded by
// its length, so that no two commands are spelled alike.
func (g *Gate) digest(agent, resource string, c *evidence.Command) string {
	m := hmac.New(sha256.New, g.Holds.Key[:])
	put(m, []byte(labelCommand))
	for _, s := range []string{agent, resource, c.Verb, c.Text} {
		put(m, []byte(s))
	}
	count(m, len(c.Checks))
	for _, check := range c.Checks {
		put(m, []byte(check.Action))
		put(m, []byte(check.Object))
	}
	put(m, exact(c))
	count(m, len(c.Params))
	for _, p := range c.Params {
		if p == nil { // NULL is no empty value
			count(m, -1)
			continue
		}
		put(m, p)
	}
	put(m, c.Encoding) // the same bytes are another value otherwise
	return hex.EncodeToString(m.Sum(nil))
}

// exact is a command's text: where it says both, that which doesn't change when
// it is asked again.
func exact(c *evidence.Command) []byte {
	if c.Exact != nil {
		return c.Exact
	}
	return c.Raw
}

func put(h hash.Hash, b []byte) {
	count(h, len(b))
	h.Write(b)
}

func count(h hash.Hash, n int) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// find returns the request that stands for a command: one that is open, approved
// or, until it would have expired, refused.
func (g *Gate) find(registry *decision.Registry, digest string, needs []evidence.ApprovalNeed, c *evidence.Command, now int64) (a decision.Approval, state string) {
	h := &g.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	a, state = h.find(registry, digest, needs, now)
	if e := h.byDigest[digest]; state == decision.ApprovalPending && !e.known { // of an earlier boot
		h.keep(e, c)
	}
	return a, state
}

func (h *holds) find(registry *decision.Registry, digest string, needs []evidence.ApprovalNeed, now int64) (a decision.Approval, state string) {
	h.recall(registry)
	e := h.byDigest[digest]
	if e == nil {
		return a, ""
	}
	a, ok := registry.Approval(e.request)
	if !ok { // recorded after this registry
		return a, ""
	}
	switch state = registry.State(&a, now); {
	case state == decision.ApprovalDenied && now < a.Expires:
		return a, state
	case state != decision.ApprovalPending && state != decision.ApprovalApproved, !covers(a.Needs, needs):
		return a, ""
	}
	return a, state
}

// covers reports whether what a request asks of people is all that policy asks
// by now.
func covers(have, want []evidence.ApprovalNeed) bool {
	return !slices.ContainsFunc(want, func(n evidence.ApprovalNeed) bool {
		return !slices.ContainsFunc(have, func(h evidence.ApprovalNeed) bool { return h.Group == n.Group && h.Count >= n.Count })
	})
}

// recall finds, once, the requests of earlier boots; h.mu is held.
func (h *holds) recall(registry *decision.Registry) {
	if h.read {
		return
	}
	h.read, h.byDigest = true, make(map[string]*held)
	for _, a := range registry.Approvals() {
		if a.Kind == evidence.ApproveCommand {
			h.byDigest[a.Digest] = &held{request: a.ID, agent: a.Command.Agent}
		}
	}
}

// prune forgets the requests that nothing can come of any more, and returns how
// many of an agent's are open; h.mu is held.
func (h *holds) prune(registry *decision.Registry, agent string, now int64) (open int) {
	for digest, e := range h.byDigest {
		a, ok := registry.Approval(e.request)
		switch state := registry.State(&a, now); {
		case !ok || state == decision.ApprovalPending || state == decision.ApprovalApproved:
			if e.agent == agent {
				open++
			}
		case state != decision.ApprovalDenied || now >= a.Expires:
			h.forget(digest)
		}
	}
	return open
}

func (h *holds) forget(digest string) {
	if e := h.byDigest[digest]; e != nil {
		h.bytes -= e.size()
		delete(h.byDigest, digest)
	}
}

// keep keeps the text and values that a request asks for, if they fit.
func (h *holds) keep(e *held, c *evidence.Command) {
	n := len(exact(c))
	for _, p := range c.Params {
		n += len(p)
	}
	if n > evidence.MaxSealed || h.bytes+n > maxHeld {
		return
	}
	e.known, e.raw = true, slices.Clone(exact(c))
	for _, p := range c.Params {
		e.params = append(e.params, slices.Clone(p))
	}
	h.bytes += n
}

// errOpen is wrapped when an agent has too many open requests.
var errOpen = errors.New("open requests for approval")

// request records a request for the approval of a command, unless there is one
// by now.
func (s *Session) request(ctx context.Context, w *want, c *evidence.Command) error {
	g, h := s.gate, &s.gate.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	registry, _ := g.Recorder.State()
	now := g.Now()
	if _, state := h.find(registry, w.digest, w.needs, now.UnixMicro()); state != "" {
		return nil
	}
	if open := h.prune(registry, s.agent, now.UnixMicro()); open >= g.Holds.Open {
		return fmt.Errorf("%s has %d %w, its limit: wait for their answers", s.agent, open, errOpen)
	}
	agent, _ := registry.Agent(s.agent)
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.ApprovalRequest, Time: now.UnixMicro(), Agent: s.agent, Resource: s.resource},
		Body: evidence.EncodeBody(evidence.ApprovalRequestBody{
			Kind: evidence.ApproveCommand, Digest: w.digest, Needs: w.needs,
			Command: &evidence.HeldCommand{
				Session: s.start, Agent: s.agent, Resource: s.resource,
				Verb: c.Verb, Text: c.Text, Checks: c.Checks, Facts: c.Facts, Rules: w.rules,
			},
			Ticket: s.who.Ticket, Expires: now.Add(g.Holds.Life).UnixMicro(),
			By: evidence.By{Person: agent.Owner, Via: fmt.Sprintf("agent %s in session %s", s.agent, s.id)},
		}),
	}
	if _, err := g.Recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return err
	}
	h.forget(w.digest)
	h.byDigest[w.digest] = &held{request: d.Head.Pos.String(), agent: s.agent}
	h.keep(h.byDigest[w.digest], c)
	return nil
}

// want is a command of a batch that needs people.
type want struct {
	i      int // of the command
	digest string
	needs  []evidence.ApprovalNeed
	rules  []string
	asked  *decision.Approval // the request that stands for it, or stood
	state  string             // "" where none counts

	settled bool   // nothing more is asked or waited for
	waited  bool   // the agent has
	reason  string // why it isn't approved, for the agent
}

// seek sees to it that people are asked about a command and, where its agent can
// wait, waits for them. It reports whether the batch is to be decided again.
func (s *Session) seek(ctx context.Context, w *want, cmds []*evidence.Command) (again bool, err error) {
	c := cmds[w.i]
	switch {
	case w.settled:
		return false, nil
	case w.state == "" && w.waited:
		w.settled = true // another command of the agent's was quicker
		return false, nil
	case w.state == "" && c.Streams:
		w.settled, w.reason = true, "its content comes as a stream, which nobody can approve: send it as a whole, with its length said"
		return true, nil
	case w.state == "":
		switch err := s.request(ctx, w, c); {
		case errors.Is(err, errOpen), refusedByRegistry(err):
			w.settled, w.reason = true, err.Error()
			return true, nil
		default:
			return true, err
		}
	case w.state != decision.ApprovalPending || len(cmds) > 1 || c.Wait == nil || w.waited:
		w.settled = true
		return false, nil
	}
	w.waited = true
	w.reason = s.await(ctx, w, c)
	return true, nil
}

// refusedByRegistry reports whether a control record was not taken. Nothing was
// recorded, and the session can go on.
func refusedByRegistry(err error) bool {
	for _, kind := range []error{decision.ErrInvalid, decision.ErrStale, decision.ErrUnknown, decision.ErrRetired, decision.ErrDuplicate} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// await waits until people have answered a request, or nobody waits any more. It
// returns why the answer isn't there, if it isn't.
func (s *Session) await(ctx context.Context, w *want, c *evidence.Command) string {
	g, a := s.gate, w.asked
	now := g.Now()
	wait := min(g.Holds.Wait, time.UnixMicro(a.Expires).Sub(now))
	late := time.NewTimer(wait)
	defer late.Stop()
	c.Wait(a.ID, now.Add(wait))
	for {
		woken := g.holds.wait()
		registry, _ := g.Recorder.State()
		now, ok := registry.Approval(a.ID)
		switch {
		case !ok || registry.State(&now, g.Now().UnixMicro()) != decision.ApprovalPending:
			return ""
		case s.left():
			return "the session ends"
		case ctx.Err() != nil:
			return "its agent doesn't wait any more"
		}
		select {
		case <-woken:
		case <-s.done:
			return "the session ends"
		case <-ctx.Done():
			return "its agent doesn't wait any more"
		case <-late.C:
			return fmt.Sprintf("nobody has answered within %v", g.Holds.Wait)
		}
	}
}

// left reports whether the session is to end.
func (s *Session) left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended || s.leaving != nil
}

// wait returns what is closed when something changes that commands may wait for.
func (h *holds) wait() <-chan struct{} {
	h.waking.Lock()
	defer h.waking.Unlock()
	if h.woken == nil {
		h.woken = make(chan struct{})
	}
	return h.woken
}

// changed lets those who wait look at a version of the registry.
func (h *holds) changed(version uint64) {
	h.waking.Lock()
	defer h.waking.Unlock()
	if version != h.version {
		h.version = version
		h.wakeAll()
	}
}

// wake lets all who wait look again.
func (h *holds) wake() {
	h.waking.Lock()
	defer h.waking.Unlock()
	h.wakeAll()
}

func (h *holds) wakeAll() {
	if h.woken != nil {
		close(h.woken)
		h.woken = nil
	}
}

// words are what the agent is told of a command that isn't approved.
func (w *want) words(d *evidence.Decision) *evidence.Decision {
	told := *d
	if a := w.asked; a != nil {
		switch told.Approval = a.ID; w.state {
		case "":
			told.Reason += fmt.Sprintf("; request %s doesn't count any more", a.ID)
		case decision.ApprovalDenied:
			told.Reason += fmt.Sprintf("; %s has refused request %s%s", refuser(a), a.ID, because(a))
		case decision.ApprovalPending:
			told.Reason += fmt.Sprintf("; request %s asks for it", a.ID)
		}
	}
	if w.reason != "" {
		told.Reason += "; " + w.reason
	}
	return &told
}

func refuser(a *decision.Approval) string {
	for _, d := range a.Decisions {
		if d.Decision == evidence.Refused {
			return d.By.Person.ID
		}
	}
	return "somebody"
}

func because(a *decision.Approval) string {
	for _, d := range a.Decisions {
		if d.Decision == evidence.Refused && d.Reason != "" {
			return ": " + clip(d.Reason)
		}
	}
	return ""
}
