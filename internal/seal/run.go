package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Attempts after a failure are this far apart, doubling.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Run seals until ctx is done, which is no error. What fails is tried again,
// with pauses, for as long as it takes; only when journal, archive and log have
// come apart, or witnesses know another history, does Run return an error, an
// ErrDiverged. With it runs the asking of witnesses and of time stamp
// authorities, which holds up nothing.
func (s *Sealer) Run(ctx context.Context) error {
	defer s.finish()
	ctx, cancel := context.WithCancel(ctx)
	asked := make(chan error, 1)
	go s.stamps.run(ctx)
	go func() {
		err := s.outside.run(ctx)
		if err != nil {
			err = fmt.Errorf("asking witnesses: %w", err)
			s.report(err)
			cancel() // nothing more is to be sealed
		}
		asked <- err
	}()
	err := s.seal(ctx)
	cancel()
	<-s.stamps.done
	return errors.Join(err, <-asked)
}

// seal is Run without the witnesses.
func (s *Sealer) seal(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-time.After(max(pause, s.poll())):
		}
		err := s.step(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an attempt that was cut short says nothing
		}
		s.report(err)
		switch {
		case errors.Is(err, ErrDiverged):
			return fmt.Errorf("sealing: %w", err)
		case err != nil:
			pause = min(max(2*pause, firstRetry), lastRetry)
		default:
			pause = 0
		}
	}
}

// poll is how often the journal is asked for more.
func (s *Sealer) poll() time.Duration {
	return min(max(s.cfg.Interval/10, time.Millisecond), 100*time.Millisecond)
}

// A run has at most this many blocks, so that what it holds stays small.
const maxRun = 16

// step seals every block that is due.
func (s *Sealer) step(ctx context.Context) error {
	for {
		for due := len(s.run) == 0; due && len(s.run) < maxRun; {
			var err error
			if due, err = s.fill(); err != nil {
				return err
			}
			if due {
				c, err := s.build(&s.batch)
				if err != nil {
					return err
				}
				s.run = append(s.run, c)
				if s.cfg.Cut != nil {
					s.cfg.Cut(s.batch.records)
				}
				s.batch.reset()
			}
		}
		if len(s.run) == 0 {
			return nil
		}
		if err := s.sealBlocks(ctx, s.run); err != nil {
			return err
		}
		s.run = nil
	}
}

// front is where cutting stands: the last block cut, nil before the first, and
// the journal's place after it.
func (s *Sealer) front() (last *ledger.Header, upTo journal.LSN) {
	if n := len(s.run); n > 0 {
		return &s.run[n-1].header, s.run[n-1].end
	}
	st := s.state()
	return st.last, st.upTo
}

// begins notes what an attempt now waits for.
func (s *Sealer) begins(at Part, what string, block uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work = work{at, fmt.Sprintf(what, block), time.Now()}
}

// fill reads on in the journal and reports whether the batch is due.
func (s *Sealer) fill() (due bool, err error) {
	last, upTo := s.front()
	next := uint64(0)
	if last != nil {
		next = last.Block + 1
	}
	s.begins(AtJournal, "reading the journal for block %d", next)
	full, err := s.batch.read(s.journal, last, upTo, s.cfg.MaxBytes)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.run) == 0 {
		s.oldest = s.batch.oldest()
	}
	if len(s.batch.records) == 0 {
		return false, nil
	}
	return full || time.Since(s.batch.seen) >= s.cfg.Interval || s.flushTo > upTo, nil
}

// report keeps an attempt's result for Status, and logs when it changes between
// good and bad.
func (s *Sealer) report(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, at := s.failure.err, s.work.at
	s.work = work{}
	switch {
	case s.failure.final:
		return
	case err == nil && was == nil:
		return
	case err == nil:
		s.failure = failure{}
		s.cfg.Logger.Info("sealing goes on")
		return
	case errors.Is(err, ErrDiverged):
		s.failure.since = time.Now()
		s.cfg.Logger.Error("sealing stops: the log is not the one that it should be", "cause", err)
	case was == nil:
		s.failure.since = time.Now()
		s.cfg.Logger.Error("sealing failed and will be tried again; sessions go on until too much waits", "cause", err)
	}
	s.failure.err, s.failure.at = err, at
	s.failure.final = errors.Is(err, ErrDiverged)
	s.broadcast()
}

func (s *Sealer) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.broadcast()
}

// Flush cuts now and returns nil once everything appended to the journal before
// the call is covered by a published checkpoint. Run must be running.
func (s *Sealer) Flush(ctx context.Context) error {
	target := s.journal.End()
	for {
		s.mu.Lock()
		s.flushTo = max(s.flushTo, target)
		upTo, failed, done, changed := s.sealed.upTo, s.failure, s.done, s.changed
		s.mu.Unlock()
		switch {
		case upTo >= target:
			return nil
		case done || failed.final:
			return fmt.Errorf("flushing: sealing has stopped: %w", errors.Join(errStopped, failed.err))
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-time.After(s.poll()): // the journal may not have synced it yet
		case <-ctx.Done():
			return fmt.Errorf("flushing: %w", errors.Join(ctx.Err(), failed.err))
		}
	}
}

var errStopped = errors.New("not running")

// Status is how far the log is.
type Status struct {
	Blocks     uint64            // sealed
	Last       evidence.Position // newest sealed record; zero before the first
	Checkpoint ledger.Checkpoint // newest published
	Published  time.Time         // when it was

	UnsealedBytes int64         // of the journal
	UnsealedAge   time.Duration // of the oldest record that waits

	Err   error     // of the last attempt, or that this one takes too long; nil when all is well
	At    Part      // Err comes from there
	Since time.Time // Err, or others before it, has been failing

	Witnessed WitnessedStatus
	Stamped   StampedStatus
}

// Status says how far the log is.
func (s *Sealer) Status() Status {
	end := s.journal.End()
	s.mu.Lock()
	defer s.mu.Unlock()
	failure := s.hangs(s.failure)
	return Status{
		Blocks:        s.sealed.blocks,
		Last:          lastPosition(s.sealed.last),
		Checkpoint:    s.sealed.checkpoint,
		Published:     s.sealed.at,
		UnsealedBytes: int64(end - min(end, s.sealed.upTo)),
		UnsealedAge:   s.age(end),
		Err:           failure.err,
		At:            failure.at,
		Since:         failure.since,
		Witnessed:     s.outside.state(s.sealed.checkpoint.Size),
		Stamped:       s.stamps.state(s.sealed.checkpoint.Size),
	}
}

// patience is how long an attempt may wait for one thing before that is a failure of
// its own: who hangs returns no error.
const patience = 10 * time.Second

// hangs returns the failure that an attempt is that takes too long. The caller
// holds mu.
func (s *Sealer) hangs(f failure) failure {
	if took := time.Since(s.work.since); f.err == nil && !s.work.since.IsZero() && took > patience {
		return failure{err: fmt.Errorf("%s has taken %v so far: the %s is slow, or hangs", s.work.what, took.Round(time.Second), s.work.at), at: s.work.at, since: s.work.since}
	}
	return f
}

// age is how long the oldest record has waited: by its own clock, so that a
// restart doesn't make it young, or by ours, so that a clock set back doesn't.
// When the journal could not even be read, it is as old as that failure. The
// caller holds mu.
func (s *Sealer) age(end journal.LSN) time.Duration {
	switch {
	case s.sealed.upTo >= end:
		return 0
	case s.oldest.t == 0 && s.failure.err != nil:
		return time.Since(s.failure.since)
	case s.oldest.t == 0:
		return 0
	}
	return max(time.Since(time.UnixMicro(s.oldest.t)), time.Since(s.oldest.seen), 0)
}

// Ready is nil while the log is near enough to the journal for new work to be
// let in.
func (s *Sealer) Ready() error {
	st := s.Status()
	s.mu.Lock()
	final := s.failure.final
	s.mu.Unlock()
	switch {
	case final:
		return fmt.Errorf("sealing has stopped: %w", st.Err)
	case st.UnsealedAge > s.cfg.MaxUnsealedAge:
		return s.behind(fmt.Sprintf("a record has waited %v for its block, at most %v are allowed", st.UnsealedAge.Round(time.Second), s.cfg.MaxUnsealedAge), &st)
	case st.UnsealedBytes > s.cfg.MaxUnsealedBytes:
		return s.behind(fmt.Sprintf("%d bytes wait for their blocks, at most %d are allowed", st.UnsealedBytes, s.cfg.MaxUnsealedBytes), &st)
	}
	return nil
}

func (s *Sealer) behind(what string, st *Status) error {
	if st.Err == nil {
		return fmt.Errorf("sealing is behind: %s", what)
	}
	return fmt.Errorf("sealing is behind: %s: %w", what, st.Err)
}
