package workpaper

import (
	"container/heap"
	"fmt"

	"github.com/exhibit-gateway/exhibit/evidence"
)

type authn struct {
	agent, credential, key string
}

// authns are authentications that wait for the session that they are for. Some
// wait in vain: they were for a token, or the peer went away. Those that many
// others have come after are forgotten.
type authns struct{ young, old map[string]authn } // by position

// maxAuthns is how many may come after one that is remembered.
const maxAuthns = 1 << 16

func newAuthns() authns { return authns{young: make(map[string]authn)} }

func (a *authns) add(position string, proof authn) {
	if len(a.young) >= maxAuthns {
		a.young, a.old = make(map[string]authn), a.young
	}
	a.young[position] = proof
}

// take returns the authentication at a position, which is good for one session.
func (a *authns) take(position string) (authn, bool) {
	for _, m := range []map[string]authn{a.young, a.old} {
		if proof, ok := m[position]; ok {
			delete(m, position)
			return proof, true
		}
	}
	return authn{}, false
}

func (f *Fold) authn(r *evidence.Record) error {
	h := &r.Head
	var b evidence.AuthnBody
	f.decode(r, &b)
	if h.Outcome == evidence.OK {
		f.counts.authnOK++
		f.tests.credential.Population++
		f.authns.add(pos(h.Pos), authn{h.Agent, b.Credential, b.Key})
		f.goodCredential(h, &b)
	} else {
		f.counts.authnFailed++
		f.tests.denials.Population++
		if err := f.row(denialsTable, pos(h.Pos), f.clock.format(h.Time), "authn", "", h.Agent, h.Resource, h.Verb, "", "",
			"deny", "", "", b.Failure, b.Client, "0"); err != nil {
			return err
		}
	}
	return f.row(authnTable, pos(h.Pos), f.clock.format(h.Time), string(h.Outcome), b.Failure, h.Agent, h.Resource, b.Protocol, b.Method,
		b.Credential, b.Key, b.TokenHash, b.Client, b.Listener)
}

// goodCredential checks that a success rests on a key that was good then, and
// counts the use of it and of its token.
func (f *Fold) goodCredential(h *evidence.Head, b *evidence.AuthnBody) {
	key, ok := f.registry.Key(b.Key)
	switch {
	case !ok:
		f.tests.credential.Except(h.Pos, "rests on key %.80q, which was never enrolled", b.Key)
		return
	case !key.Revoked.IsZero():
		f.tests.credential.Except(h.Pos, "rests on key %s, revoked by %s", key.ID, key.Revoked)
	case !key.Active(h.Time):
		f.tests.credential.Except(h.Pos, "rests on key %s, which is good from %s to %s", key.ID, FormatTime(key.NotBefore), FormatTime(key.NotAfter))
	case key.Agent != h.Agent:
		f.tests.credential.Except(h.Pos, "is of agent %s with the key of %s", h.Agent, key.Agent)
	}
	if b.Credential != key.ID && f.registry.Revoked(b.Credential) {
		f.tests.credential.Except(h.Pos, "rests on token %s, which was revoked", b.Credential)
	}
	f.useOf(f.keyUses, key.ID).add(h)
	if t := f.tokens.byID[b.Credential]; t != nil {
		t.uses.add(h)
		if h.Time >= t.body.NotAfter || h.Time < t.body.NotBefore {
			f.tests.credential.Except(h.Pos, "rests on token %s outside its time", b.Credential)
		}
	}
}

// token is an issued credential that may still be used.
type token struct {
	head evidence.Head
	body evidence.CredentialBody
	uses uses
}

// tokens are those not yet expired, the next to expire first.
type tokens struct {
	byID map[string]*token
	due  tokenHeap
}

func newTokens() tokens { return tokens{byID: make(map[string]*token)} }

type tokenHeap []*token

func (h tokenHeap) Len() int { return len(h) }
func (h tokenHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return a.body.NotAfter < b.body.NotAfter || a.body.NotAfter == b.body.NotAfter && a.head.Pos.Before(b.head.Pos)
}
func (h tokenHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *tokenHeap) Push(x any)   { *h = append(*h, x.(*token)) }
func (h *tokenHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}

// tokenGrace is how long a token is remembered after it expired: longer than
// any clock at the gateway is set back.
const tokenGrace = 3600 * 1e6

// token folds the issue of a token, and writes the rows of those that expired.
func (f *Fold) token(r *evidence.Record) error {
	t := &token{head: r.Head}
	f.counts.tokensIssued++
	f.decode(r, &t.body)
	for len(f.tokens.due) > 0 && f.tokens.due[0].body.NotAfter+tokenGrace < r.Head.Time {
		if err := f.tokenRow(f.tokens.next()); err != nil {
			return err
		}
	}
	if len(f.tokens.due) >= maxTokens {
		return fmt.Errorf("%w: %d unexpired tokens", ErrTooMuch, maxTokens)
	}
	heap.Push(&f.tokens.due, t)
	f.tokens.byID[t.body.ID] = t
	return nil
}

// next removes the token that expires next.
func (t *tokens) next() *token {
	next := heap.Pop(&t.due).(*token)
	if t.byID[next.body.ID] == next {
		delete(t.byID, next.body.ID)
	}
	return next
}

func (f *Fold) tokenRow(t *token) error {
	b, h := &t.body, &t.head
	revokedAt, revokedPos, revokedBy, reason := "", "", "", ""
	if c, ok := f.registry.Credential(b.ID); ok && !c.Revoked.IsZero() {
		revokedAt, revokedPos, revokedBy, reason = FormatTime(c.RevokedAt), pos(c.Revoked), c.RevokedBy.Person.ID, c.RevokedFor
	}
	return f.row(credentialsTable, b.ID, b.Agent, b.Kind, b.Thumbprint, b.Issuer, FormatTime(b.NotBefore), FormatTime(b.NotAfter),
		b.Principal, b.Ticket, FormatTime(h.Time), pos(h.Pos), b.By.Person.ID, b.By.Via,
		revokedAt, revokedPos, revokedBy, reason, count(t.uses.n), FormatTime(t.uses.at), pos(t.uses.last))
}

// uses counts how often a grant or a credential was used.
type uses struct {
	n    uint64
	at   int64
	last evidence.Position

	actions map[string]bool // that were used
	newest  *intent         // whose actions are in it already
}

// touch remembers the actions of a command. Those of an allowed one are the
// policy's, so that there are not many.
func (u *uses) touch(in *intent) {
	if u.newest != in {
		u.newest = in
		u.did(in.Checks)
	}
}

func (u *uses) did(checks []evidence.Check) {
	if u.actions == nil {
		u.actions = make(map[string]bool)
	}
	for _, c := range checks {
		u.actions[c.Action] = true
	}
}

func (u *uses) add(h *evidence.Head) { u.n, u.at, u.last = u.n+1, h.Time, h.Pos }

func (f *Fold) useOf(m map[string]*uses, id string) *uses {
	u := m[id]
	if u == nil {
		u = &uses{}
		m[id] = u
	}
	return u
}

// activity is what an agent did in the range.
type activity struct {
	sessions, commands, denied uint64
	last                       int64
	lastAllowed                evidence.Position // command
	lastAllowedAt              int64
}

// activityOf returns the activity of a registered agent; what others try is in
// the populations of sessions and authentications.
func (f *Fold) activityOf(agent string) *activity {
	a := f.activity[agent]
	if a == nil {
		a = &activity{}
		if _, ok := f.registry.Agent(agent); ok {
			f.activity[agent] = a
		}
	}
	return a
}
