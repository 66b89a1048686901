package connect

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Issuer gets tokens for the agent. An Error of it reaches clients with its
// hint.
type Issuer interface {
	IssueToken(ctx context.Context) (Token, error)
}

// Token is a credential, good for Life from when it was asked for.
type Token struct {
	Secret string
	Life   time.Duration
}

const (
	issueTimeout = 15 * time.Second
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	maxMargin    = 5 * time.Second // that a token must still be good for when it is sent
	minRefused   = time.Minute     // age at which a refused token is replaced
)

// tokens keeps one token for all clients, and keeps it fresh while they use it:
// each one issued is a record at the gateway, so an agent that rests asks for
// none.
type tokens struct {
	issuer Issuer
	log    *slog.Logger
	ctx    context.Context // of refreshes, which outlive the client that waits for one
	cancel context.CancelFunc
	issues sync.WaitGroup

	mu       sync.Mutex
	token    Token
	asked    time.Time     // when it was asked for
	used     bool          // since it came
	pending  chan struct{} // closed when the refresh under way has ended; nil when none is
	timer    *time.Timer   // to the next refresh
	failures int           // in a row
	retry    time.Time     // no refresh before it
	err      error         // why the last one failed
}

func newTokens(i Issuer, log *slog.Logger) *tokens {
	ctx, cancel := context.WithCancel(context.Background())
	return &tokens{issuer: i, log: log, ctx: ctx, cancel: cancel}
}

// get returns a token that is good. It waits for one only when there is none.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		t.used = true
		if age := t.age(); age < usable(t.token.Life) {
			if age >= renewal(t.token.Life) {
				_ = t.start() // there is time: who needs it more will hear of a failure
			}
			return t.token.Secret, nil
		}
		if err := t.start(); err != nil {
			return "", noToken(err)
		}
		if err := t.wait(ctx); err != nil {
			return "", noToken(err)
		}
	}
}

// wait waits for the refresh under way, without the lock.
func (t *tokens) wait(ctx context.Context) error {
	pending := t.pending
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-pending:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// usable is how old a token may be when it is sent, and renewal how old before
// another is asked for.
func usable(life time.Duration) time.Duration  { return life - min(maxMargin, life/10) }
func renewal(life time.Duration) time.Duration { return life * 2 / 3 }

// age is how old the token is. The monotonic clock stands still while a machine
// sleeps, and the other one may be set back: the larger difference counts.
func (t *tokens) age() time.Duration {
	now := time.Now()
	return max(now.Sub(t.asked), now.Round(0).Sub(t.asked.Round(0)))
}

// start starts a refresh unless one is under way. It fails while the failure of
// the last one is too recent.
func (t *tokens) start() error {
	switch {
	case t.pending != nil:
		return nil
	case t.ctx.Err() != nil:
		return errors.New("the local end is being closed")
	case time.Now().Before(t.retry):
		return t.err
	}
	t.pending = make(chan struct{})
	t.issues.Go(t.refresh)
	return nil
}

func (t *tokens) refresh() {
	ctx, cancel := context.WithTimeout(t.ctx, issueTimeout)
	defer cancel()
	asked := time.Now()
	token, err := t.issuer.IssueToken(ctx)
	if err == nil && (token.Secret == "" || token.Life <= 0) {
		err = errors.New("the gateway's answer holds no token")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.pending)
	t.pending = nil
	if err != nil {
		t.failed(err)
		return
	}
	if t.failures > 0 {
		t.log.Info("tokens are issued again")
	}
	t.token, t.asked, t.used = token, asked, false
	t.failures, t.retry, t.err = 0, time.Time{}, nil
	t.schedule(renewal(token.Life))
}

func (t *tokens) failed(err error) {
	if t.failures == 0 && t.ctx.Err() == nil { // told once, and again when it's over
		t.log.Warn("no fresh token", "error", err)
	}
	pause := min(firstBackoff<<min(t.failures, 10), maxBackoff)
	t.failures++
	t.retry, t.err = time.Now().Add(pause), err
	t.schedule(pause)
}

// schedule has the token looked at again after d.
func (t *tokens) schedule(d time.Duration) {
	if t.ctx.Err() != nil {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(d, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.used && t.age() < t.token.Life {
			_ = t.start() // a failure is in the log, and clients hear of it once the token is over
		}
	})
}

// refused notes that the gateway didn't take a token: it may have been revoked,
// or made by a key that the gateway no longer has. One that has just been issued
// isn't replaced, since the next would fare no better.
func (t *tokens) refused(secret string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.Secret == secret && t.age() >= minRefused {
		t.token = Token{}
	}
}

// stop ends refreshes, and is done when they are.
func (t *tokens) stop() {
	t.mu.Lock()
	t.cancel()
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	t.issues.Wait()
}
