// Package sink delivers the log to others as it grows, as OCSF events.
//
// In flow sealed records, read from the log's blocks; out flow batches of
// events, to each target in the log's order, again and again until it takes
// them. How far a target is stands in a file, written after it has taken a
// batch. So every event arrives at least once: after a crash, or a target that
// took a batch and couldn't say so, some arrive again, with the same bytes and the
// same metadata.uid. A target that is down or slow holds up nobody and nothing is
// kept for it: it catches up from the log. What is in memory is a block and a
// batch for each target.
package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/internal/export/ocsf"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
)

// Log is what is delivered. Its readers hand out sealed records only.
type Log interface {
	// After returns a reader of the records after a position; zero is all.
	After(evidence.Position) Reader
	// Since returns a reader of the records from the block on in which time t
	// falls, in microseconds since the epoch.
	Since(t int64) (Reader, error)
	// At returns the record at a position, nil where there is none, and ErrGone
	// where there was one.
	At(context.Context, evidence.Position) (*evidence.Record, error)
	// Behind returns how many sealed records come after a position.
	Behind(evidence.Position) (uint64, error)
}

// ErrGone says that a record was in the log and is kept no more.
var ErrGone = errors.New("the record is kept no more")

// Reader reads on: Next calls fn for the next records and returns their number,
// 0 when there are no more yet.
type Reader interface {
	Next(ctx context.Context, fn func(*evidence.Record) error) (int, error)
}

// Event is an event on one line.
type Event struct {
	Pos  evidence.Position
	Type evidence.Type
	Time int64 // of the record, microseconds since the epoch
	Line []byte
}

// Delivery takes events.
type Delivery interface {
	// Deliver returns nil once the other side has them for good. It gives up when
	// ctx is done. Its errors hold no secret.
	Deliver(context.Context, []Event) error
}

// Target is who is delivered to.
type Target struct {
	Name string // in metrics, status and the name of its file
	To   string // for people
	From int64  // time of the first record to deliver, microseconds since the epoch; 0 is all
	Delivery
}

// Config is what a Runner needs.
type Config struct {
	Dir     string // of the files that say how far targets are
	Origin  string // of the log
	Version string // of this program
	Logger  *slog.Logger
}

// Bounds of a batch, and pauses.
const (
	maxEvents  = 500
	maxBytes   = 1 << 20
	patience   = 30 * time.Second // for a batch to be taken
	poll       = 250 * time.Millisecond
	firstPause = time.Second
	maxPause   = time.Minute
)

// Runner delivers to all targets.
type Runner struct {
	lines []*line
}

// New returns a runner that delivers log to targets.
func New(cfg Config, log Log, targets []Target) *Runner {
	r := &Runner{}
	for _, t := range targets {
		r.lines = append(r.lines, &line{Target: t, cfg: cfg, log: log, first: firstPause})
	}
	return r
}

// Run delivers until ctx is done.
func (r *Runner) Run(ctx context.Context) error {
	var done sync.WaitGroup
	for _, l := range r.lines {
		done.Go(func() { l.run(ctx) })
	}
	done.Wait()
	return nil
}

// Drain waits until all targets that take events have all that is sealed, or ctx
// is done.
func (r *Runner) Drain(ctx context.Context) {
	for {
		waiting := false
		for _, s := range r.Status() {
			waiting = waiting || s.Problem == "" && s.Records > 0
		}
		if !waiting {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(poll / 5):
		}
	}
}

// Status is how it goes with one target.
type Status struct {
	Name, To  string
	Delivered evidence.Position // everything up to it is there
	Events    uint64            // delivered in this boot, those that came twice among them
	Records   uint64            // sealed ones that wait
	Lag       time.Duration     // age of the oldest record that is being delivered
	Problem   string            // why it takes nothing; "" while it does
	Since     time.Time         // when that began
}

// Status says how it goes with each target.
func (r *Runner) Status() []Status {
	list := make([]Status, len(r.lines))
	for i, l := range r.lines {
		list[i] = l.status()
	}
	return list
}

// line is the way to one target.
type line struct {
	Target
	cfg   Config
	log   Log
	first time.Duration // of the pauses

	// Of the goroutine that runs; cursor is written under mu.
	loaded bool
	events *ocsf.Mapper
	batch  []Event
	size   int
	last   cursor // of the batch

	mu      sync.Mutex
	cursor  cursor
	at      evidence.Position // delivered, or not wanted
	sent    uint64
	oldest  int64 // time of the first record of the batch; 0 without one
	problem error
	since   time.Time
}

// cursor is how far a target is. The hash tells a log that isn't the one that was
// delivered: a data folder that was restored from an older copy has other records
// at the same positions.
type cursor struct {
	Position evidence.Position `json:"position"`
	Hash     evidence.Hash     `json:"hash"` // of the record
}

// run delivers until ctx is done. What fails is tried again from the cursor.
func (l *line) run(ctx context.Context) {
	pause := l.first
	for ctx.Err() == nil {
		before := l.progress()
		err := l.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		l.fails(err)
		if l.progress() > before {
			pause = l.first
		}
		wait := pause
		var refused *alert.Refused
		if errors.As(err, &refused) {
			wait = max(wait, refused.After)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		pause = min(2*pause, maxPause)
	}
}

func (l *line) progress() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// follow reads from the cursor on and delivers, until something fails.
func (l *line) follow(ctx context.Context) error {
	reader, err := l.begin(ctx)
	if err != nil {
		return err
	}
	l.events = ocsf.New(l.cfg.Origin, l.cfg.Version, l.kept)
	l.batch, l.size = l.batch[:0], 0
	for {
		n, err := reader.Next(ctx, func(r *evidence.Record) error { return l.take(ctx, r) })
		if err == nil {
			err = l.flush(ctx)
		}
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// kept returns a record that others refer to, nil where there is none any more.
func (l *line) kept(ctx context.Context, pos evidence.Position) (*evidence.Record, error) {
	r, err := l.log.At(ctx, pos)
	if errors.Is(err, ErrGone) {
		return nil, nil
	}
	return r, err
}

// begin finds where to go on.
func (l *line) begin(ctx context.Context) (Reader, error) {
	if !l.loaded {
		c, err := l.load()
		if err != nil {
			return nil, err
		}
		l.reached(c, c.Position, 0)
		l.loaded = true
	}
	if c := l.cursor; !c.Position.IsZero() {
		switch r, err := l.log.At(ctx, c.Position); {
		case errors.Is(err, ErrGone): // its target has it, and nothing is left to compare
		case err != nil:
			return nil, err
		case r == nil || evidence.RecordHash(r.HeadBytes) != c.Hash:
			l.cfg.Logger.Warn("the log is not the one that was delivered, as after a backup was restored: all of it is delivered again", "sink", l.Name, "position", c.Position.String())
			l.reached(cursor{}, evidence.Position{}, 0)
		}
	}
	if l.cursor.Position.IsZero() && l.From > 0 {
		return l.log.Since(l.From)
	}
	return l.log.After(l.cursor.Position), nil
}

// take adds a record to the batch, and delivers the batch when it is full.
func (l *line) take(ctx context.Context, r *evidence.Record) error {
	h := &r.Head
	if h.Time < l.From && l.cursor.Position.IsZero() && len(l.batch) == 0 {
		l.reached(cursor{}, h.Pos, 0) // not wanted
		return nil
	}
	text, err := l.events.Append(ctx, nil, r)
	if err != nil {
		return err
	}
	if len(l.batch) == 0 {
		l.waits(h.Time)
	}
	l.batch = append(l.batch, Event{Pos: h.Pos, Type: h.Type, Time: h.Time, Line: text})
	l.size += len(text)
	l.last = cursor{h.Pos, evidence.RecordHash(r.HeadBytes)}
	if len(l.batch) < maxEvents && l.size < maxBytes {
		return nil
	}
	return l.flush(ctx)
}

// flush delivers the batch and then says in the file that it is there. A crash
// in between delivers it twice.
func (l *line) flush(ctx context.Context) error {
	if len(l.batch) == 0 {
		return nil
	}
	if err := l.deliver(ctx, l.batch); err != nil {
		return err
	}
	failpoint.Hit("sink delivered")
	l.reached(l.last, l.last.Position, uint64(len(l.batch)))
	l.drop()
	return l.works(l.store())
}

// deliver delivers events in one piece, or in smaller ones to who finds that too
// large.
func (l *line) deliver(ctx context.Context, events []Event) error {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := l.Deliver(within, events)
	var refused *alert.Refused
	if len(events) > 1 && errors.As(err, &refused) && refused.Status == http.StatusRequestEntityTooLarge {
		half := len(events) / 2
		if err := l.deliver(ctx, events[:half]); err != nil {
			return err
		}
		return l.deliver(ctx, events[half:])
	}
	return err
}

func (l *line) drop() {
	l.batch, l.size = l.batch[:0], 0
	l.waits(0)
}

// reached notes that a target has everything up to the cursor, n events more.
func (l *line) reached(c cursor, at evidence.Position, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cursor, l.at = c, at
	l.sent += n
}

// waits notes the time of the oldest record of the batch; 0 is that there is none.
func (l *line) waits(t int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.oldest = t
}

// works notes that a batch was taken. That the file can't be written keeps nobody
// from getting events: it costs that they come twice after a restart.
func (l *line) works(unwritten error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.problem != nil && unwritten == nil {
		l.cfg.Logger.Info("a sink takes events again", "sink", l.Name, "after", time.Since(l.since))
		l.problem, l.since = nil, time.Time{}
	}
	if unwritten != nil {
		l.note(fmt.Errorf("events are delivered, but how far cannot be kept: %w", unwritten))
	}
	return nil
}

// fails notes why nothing is taken.
func (l *line) fails(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(err)
}

// note keeps a problem, and logs when it begins. The caller holds mu.
func (l *line) note(err error) {
	if l.problem == nil {
		l.since = time.Now()
		l.cfg.Logger.Warn("a sink takes no events; it catches up from the log", "sink", l.Name, "to", l.To, "cause", err)
	}
	l.problem = err
}

func (l *line) status() Status {
	l.mu.Lock()
	s := Status{Name: l.Name, To: l.To, Delivered: l.cursor.Position, Events: l.sent, Since: l.since}
	if l.problem != nil {
		s.Problem = l.problem.Error()
	}
	if l.oldest != 0 {
		s.Lag = max(0, time.Since(time.UnixMicro(l.oldest)))
	}
	at := l.at
	l.mu.Unlock()
	n, err := l.log.Behind(at)
	if err != nil && s.Problem == "" {
		s.Problem = err.Error()
	}
	s.Records = n
	return s
}

func (l *line) file() string { return filepath.Join(l.cfg.Dir, l.Name+".json") }

func (l *line) load() (c cursor, err error) {
	b, err := os.ReadFile(l.file())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("reading how far a sink is: %w; remove %s to deliver everything again", err, l.file())
	}
	return c, nil
}

// store writes the file whole or not at all, and durably.
func (l *line) store() error {
	b, err := json.Marshal(l.cursor)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	part := l.file() + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, l.file()); err != nil {
		return err
	}
	dir, err := os.Open(l.cfg.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
