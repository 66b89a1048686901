// Package alert tells people outside of the gateway that they should look: by
// webhook and by syslog.
//
// In flow alerts that are on record already; out flow messages, to each sink in
// order, again and again until it takes them. A sink that is down or slow holds
// up nobody: what waits for it is bounded, and when that is full the oldest is
// dropped and counted. The record in the log is the alert; a message is news of
// it, and may come twice.
package alert

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Alert is news of an alert. Its JSON is what a webhook gets.
type Alert struct {
	Position string    `json:"position"` // of its record: the same for all tellings of it
	Gateway  string    `json:"gateway"`
	Time     time.Time `json:"time"`
	Rule     string    `json:"rule"`
	Severity string    `json:"severity"` // "low", "medium" or "high"
	Agent    string    `json:"agent,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Session  string    `json:"session,omitempty"`
	Trigger  string    `json:"trigger,omitempty"` // position of the record that it is about
	Text     string    `json:"text"`
}

// Sink takes alerts.
type Sink interface {
	// Send returns nil once the other side has taken a. It gives up when ctx is
	// done. Its errors hold no secret.
	Send(ctx context.Context, a Alert) error
}

// Target is a sink with what it wants.
type Target struct {
	Name  string // in status, metrics and the program's log
	Least string // severity; "" is all
	Sink  Sink
}

// severities, the least first.
var severities = []string{"low", "medium", "high"}

// Severities are the severities that there are, the least first.
func Severities() []string { return slices.Clone(severities) }

// Bounds on what a sink that doesn't answer holds up, and how long it is left
// alone after a failure.
const (
	maxWaiting = 256
	patience   = 10 * time.Second
	firstPause = time.Second
	maxPause   = time.Minute
)

// Sender tells all sinks. The zero value has none.
type Sender struct {
	lines []*line
	log   *slog.Logger
}

// line is what waits for one sink.
type line struct {
	Target
	wake chan struct{}

	mu      sync.Mutex
	waiting []Alert
	sent    uint64
	dropped uint64
	problem error // of the last attempt
	since   time.Time
}

// NewSender returns a sender to targets. Failures are logged when they begin
// and when they end.
func NewSender(targets []Target, log *slog.Logger) *Sender {
	s := &Sender{log: log}
	for _, t := range targets {
		s.lines = append(s.lines, &line{Target: t, wake: make(chan struct{}, 1)})
	}
	return s
}

// Tell passes a on, and never waits.
func (s *Sender) Tell(a Alert) {
	for _, l := range s.lines {
		if slices.Index(severities, a.Severity) >= slices.Index(severities, l.Least) {
			l.add(a)
		}
	}
}

func (l *line) add(a Alert) {
	l.mu.Lock()
	if len(l.waiting) == maxWaiting {
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.dropped++
	}
	l.waiting = append(l.waiting, a)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx is done, and then what waits still, once.
func (s *Sender) Run(ctx context.Context) error {
	var done sync.WaitGroup
	for _, l := range s.lines {
		done.Go(func() { l.run(ctx, s.log) })
	}
	done.Wait()
	return nil
}

func (l *line) run(ctx context.Context, log *slog.Logger) {
	pause := firstPause
	for {
		a, ok := l.first()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			}
			continue
		}
		if l.try(ctx, a, log) {
			pause = firstPause
			continue
		}
		select {
		case <-ctx.Done(): // the last attempt was this one
			return
		case <-time.After(pause):
			pause = min(2*pause, maxPause)
		}
	}
}

func (l *line) first() (Alert, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return Alert{}, false
	}
	return l.waiting[0], true
}

// try sends one alert. It outlasts the gateway's order to stop, but not its own
// patience: news of why a gateway stops is news too.
func (l *line) try(ctx context.Context, a Alert, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := l.Sink.Send(ctx, a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if l.problem == nil {
			l.since = time.Now()
			log.Warn("alerts cannot be sent", "to", l.Name, "cause", err)
		}
		l.problem = err
		return false
	}
	if l.problem != nil {
		log.Info("alerts are sent again", "to", l.Name, "after", time.Since(l.since))
	}
	l.problem, l.since = nil, time.Time{}
	l.sent++
	// What was sent may have been dropped meanwhile.
	if len(l.waiting) > 0 && l.waiting[0].Position == a.Position {
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
	return true
}

// Status is how it goes with one sink.
type Status struct {
	Name    string
	Waiting int
	Sent    uint64
	Dropped uint64
	Problem string    // why it takes nothing; "" while it does
	Since   time.Time // when that began
}

// Status returns how it goes with each sink.
func (s *Sender) Status() []Status {
	list := make([]Status, len(s.lines))
	for i, l := range s.lines {
		l.mu.Lock()
		list[i] = Status{Name: l.Name, Waiting: len(l.waiting), Sent: l.sent, Dropped: l.dropped, Since: l.since}
		if l.problem != nil {
			list[i].Problem = l.problem.Error()
		}
		l.mu.Unlock()
	}
	return list
}
