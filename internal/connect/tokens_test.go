package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// mint issues token-1, token-2 and so on, or fails.
type mint struct {
	life   time.Duration
	takes  time.Duration
	broken atomic.Bool
	issued atomic.Int64
	asked  atomic.Int64
}

var errMint = &Error{Reason: "the mint is closed", Hint: "come back later"}

func (m *mint) IssueToken(ctx context.Context) (Token, error) {
	m.asked.Add(1)
	select {
	case <-time.After(m.takes):
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
	if m.broken.Load() {
		return Token{}, errMint
	}
	return Token{Secret: fmt.Sprintf("token-%d", m.issued.Add(1)), Life: m.life}, nil
}

// inBubble runs a test with a clock that nobody waits for.
func inBubble(t *testing.T, m *mint, test func(t *testing.T, k *tokens)) {
	synctest.Test(t, func(t *testing.T) {
		k := newTokens(m, slog.New(slog.DiscardHandler))
		defer k.stop()
		test(t, k)
	})
}

func wants(t *testing.T, k *tokens, want string) {
	t.Helper()
	if got, err := k.get(t.Context()); got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestATokenServesAllUntilTwoThirdsOfItsLife(t *testing.T) {
	m := &mint{life: 15 * time.Minute, takes: 100 * time.Millisecond}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		var clients sync.WaitGroup
		for range 50 {
			clients.Go(func() { wants(t, k, "token-1") })
		}
		clients.Wait()
		time.Sleep(9 * time.Minute)
		wants(t, k, "token-1")
		if n := m.asked.Load(); n != 1 {
			t.Errorf("50 clients asked for %d tokens", n)
		}
		time.Sleep(2 * time.Minute) // past ten: it was used, so there is another
		wants(t, k, "token-2")
	})
}

func TestNobodyWaitsForARefreshAheadOfTime(t *testing.T) {
	m := &mint{life: 15 * time.Minute, takes: 10 * time.Second}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		wants(t, k, "token-1")
		time.Sleep(10*time.Minute - 5*time.Second)
		start := time.Now()
		wants(t, k, "token-1")
		if d := time.Since(start); d != 0 {
			t.Errorf("a client waited %s", d)
		}
		time.Sleep(time.Minute)
		wants(t, k, "token-2")
	})
}

func TestAnAgentThatRestsAsksForNoToken(t *testing.T) {
	m := &mint{life: 15 * time.Minute}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		wants(t, k, "token-1")
		time.Sleep(24 * time.Hour)
		if n := m.asked.Load(); n > 2 {
			t.Errorf("%d tokens were asked for in a day's rest", n)
		}
		n := m.issued.Load()
		wants(t, k, fmt.Sprintf("token-%d", n+1)) // what it had has expired
	})
}

func TestAnExpiredTokenIsNeverSent(t *testing.T) {
	m := &mint{life: time.Minute}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		wants(t, k, "token-1")
		m.broken.Store(true)
		for range 11 {
			time.Sleep(5 * time.Second)
			if k.age() < 55*time.Second {
				wants(t, k, "token-1")
			}
		}
		time.Sleep(time.Second) // 56 s: it could expire on its way
		token, err := k.get(t.Context())
		if token != "" || !errors.Is(err, errNoToken) || !errors.Is(err, errMint) {
			t.Errorf("got %q, %v", token, err)
		}
		var e *Error
		if !errors.As(err, &e) || e.Hint != errMint.Hint {
			t.Errorf("the hint is lost in %#v", e)
		}
	})
}

func TestFailuresAreFollowedByLongerAndLongerPauses(t *testing.T) {
	m := &mint{life: time.Minute}
	m.broken.Store(true)
	inBubble(t, m, func(t *testing.T, k *tokens) {
		for range 10 * 60 { // clients that don't give up, for ten minutes
			if _, err := k.get(t.Context()); !errors.Is(err, errNoToken) {
				t.Errorf("got %v", err)
			}
			time.Sleep(time.Second)
		}
		// 1, 2, 4, 8, 16, and then every 30 seconds.
		if n := m.asked.Load(); n < 20 || n > 26 {
			t.Errorf("%d tokens were asked for", n)
		}
		m.broken.Store(false)
		time.Sleep(maxBackoff)
		wants(t, k, "token-1")
		time.Sleep(41 * time.Second)
		wants(t, k, "token-2")
	})
}

func TestARefusedTokenIsReplacedAfterAMinute(t *testing.T) {
	m := &mint{life: time.Hour}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		wants(t, k, "token-1")
		k.refused("token-1")
		wants(t, k, "token-1")
		time.Sleep(time.Minute)
		k.refused("token-0")
		wants(t, k, "token-1")
		k.refused("token-1")
		wants(t, k, "token-2")
	})
}

func TestWhoWaitsForATokenCanLeave(t *testing.T) {
	m := &mint{life: time.Hour, takes: 10 * time.Second}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wants(t, k, "token-1") // the refresh went on
	})
}

func TestAnAnswerWithoutATokenIsAFailure(t *testing.T) {
	inBubble(t, &mint{life: 0}, func(t *testing.T, k *tokens) {
		if _, err := k.get(t.Context()); err == nil || !strings.Contains(err.Error(), "holds no token") {
			t.Errorf("got %v", err)
		}
	})
}

func TestNoTokenIsAskedForOnceStopped(t *testing.T) {
	m := &mint{life: time.Minute}
	inBubble(t, m, func(t *testing.T, k *tokens) {
		wants(t, k, "token-1")
		k.stop()
		time.Sleep(time.Hour)
		if token, err := k.get(t.Context()); err == nil {
			t.Errorf("got %q", token)
		}
		if n := m.asked.Load(); n != 1 {
			t.Errorf("%d tokens were asked for", n)
		}
	})
}
