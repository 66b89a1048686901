package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/ledger"
)

// Stamping says who is asked to stamp checkpoints, and how often.
type Stamping struct {
	Authorities []Authority
	Interval    time.Duration // between two stamps of one; 10 min
	Timeout     time.Duration // of one request; 10 s
	File        string        // where stamped checkpoints are kept (ledger.ReadStamps)

	// Alert is told what a person should look into: that an authority lied, which
	// is to answer with what is no stamp to trust, or that none has come for long.
	Alert func(url string, lied bool, cause error)

	testingOnlyTransport http.RoundTripper
}

const (
	firstStampWait = 5 * time.Second // after a failure, doubling up to the interval
	missedStamps   = 3               // intervals without a stamp, until that is an alert
)

func (c *Stamping) check() error {
	setDefault(&c.Interval, 10*time.Minute)
	setDefault(&c.Timeout, 10*time.Second)
	switch {
	case c.Interval < 0 || c.Timeout < 0:
		return errors.New("negative time")
	case len(c.Authorities) > 0 && c.File == "":
		return errors.New("no file to keep stamped checkpoints in")
	}
	return nil
}

// stamps has checkpoints stamped, by each authority for itself: each one's word
// stands alone, and whom an auditor will trust isn't known here.
type stamps struct {
	cfg    Stamping
	log    *slog.Logger
	newest func() ledger.Checkpoint
	file   stampsFile
	first  time.Time // when stamps are due first

	members []*stampMember
	done    chan struct{} // closed when run has returned

	mu      sync.Mutex
	status  []StampStatus // by member
	kept    uint64        // size of the newest checkpoint that is stamped
	keptAt  time.Time
	changed chan struct{} // closed and made anew with status
}

// stampMember is an authority among others. Its goroutine in run owns it.
type stampMember struct {
	*stamper
	number   int
	wake     chan struct{} // somebody waits: no back-off
	failures int
	since    time.Time // last good, or the start
	told     bool      // an alert was raised, and nothing has been good since
}

// StampStatus is how far an authority has stamped the log.
type StampStatus struct {
	URL     string
	Size    uint64    // of the newest checkpoint that it has stamped since the start
	Behind  uint64    // blocks since, or all
	Stamped time.Time // by its clock; zero: not by this process
	Err     error     // of the last question
	Since   time.Time // Err, or others before it

	failed uint64 // questions, so that who waits knows that one more did
}

// StampedStatus is how far the log is stamped.
type StampedStatus struct {
	Size        uint64    // of the newest checkpoint with a stamp
	At          time.Time // that it was there not later than; zero when another process had it stamped
	Authorities []StampStatus
}

func newStamps(cfg Stamping, log *slog.Logger, newest func() ledger.Checkpoint) *stamps {
	s := &stamps{
		cfg: cfg, log: log, newest: newest, done: make(chan struct{}), changed: make(chan struct{}),
		status: make([]StampStatus, len(cfg.Authorities)),
	}
	transport := cfg.testingOnlyTransport
	if transport == nil {
		transport = witnessTransport()
	}
	for i, a := range cfg.Authorities {
		s.members = append(s.members, &stampMember{stamper: newStamper(a, transport), number: i, wake: make(chan struct{}, 1)})
		s.status[i] = StampStatus{URL: a.URL}
	}
	return s
}

// open finds what was stamped before. Stamps begin an interval after the last
// one, so that starting over and over is no burden to an authority. A file that
// is damaged keeps stamps from being kept, and not the gateway from its work.
func (s *stamps) open() {
	if len(s.members) == 0 {
		return
	}
	size, at, err := s.file.open(s.cfg.File)
	if err != nil {
		s.log.Error("stamped checkpoints cannot be kept", "cause", err)
		return
	}
	if s.kept = size; size > 0 {
		s.first = at.Add(s.cfg.Interval)
	}
}

// run asks until ctx is done, and never fails: the log goes on without stamps.
func (s *stamps) run(ctx context.Context) {
	defer close(s.done)
	var asking sync.WaitGroup
	for _, m := range s.members {
		asking.Go(func() { s.follow(ctx, m) })
	}
	asking.Wait()
}

// follow is the work of one authority.
func (s *stamps) follow(ctx context.Context, m *stampMember) {
	defer m.client.CloseIdleConnections()
	m.since = time.Now()
	pause := min(max(time.Until(s.first), 0), s.cfg.Interval)
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-time.After(pause):
		}
		err := s.step(ctx, m)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			pause = min(firstStampWait<<min(m.failures, 20), s.cfg.Interval)
			m.failures++
		case s.newest().Size == 0: // the log has only begun
			pause = firstStampWait
		default:
			pause, m.failures = s.cfg.Interval, 0
		}
	}
}

// step has the newest checkpoint stamped, unless it is already.
func (s *stamps) step(ctx context.Context, m *stampMember) error {
	cp := s.newest()
	s.mu.Lock()
	stamped := s.status[m.number].Size
	s.mu.Unlock()
	if cp.Size == stamped {
		return nil
	}
	if err := s.file.err; err != nil {
		s.report(m, cp, nil, err)
		s.alert(m, err)
		return err
	}
	asked, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	token, stamp, err := m.ask(asked, cp.Note)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = s.keep(cp, token)
	}
	s.report(m, cp, stamp, err)
	s.alert(m, err)
	return err
}

func (s *stamps) keep(cp ledger.Checkpoint, token []byte) error {
	line, err := (&ledger.Stamped{Checkpoint: string(cp.Note), Token: token}).Encode()
	if err == nil {
		err = s.file.append(line)
	}
	if err != nil {
		return fmt.Errorf("keeping the stamp: %w", err)
	}
	return nil
}

// report keeps a result for Status, and logs when it changes between good and
// bad.
func (s *stamps) report(m *stampMember, cp ledger.Checkpoint, stamp *ledger.Stamp, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status[m.number]
	switch {
	case err == nil:
		if st.Err != nil {
			s.log.Info("a time stamp authority stamps again", "authority", st.URL)
		}
		st.Err, st.Since, st.Size, st.Stamped = nil, time.Time{}, cp.Size, stamp.Time
		if cp.Size >= s.kept {
			s.kept, s.keptAt = cp.Size, stamp.NotAfter()
		}
	case st.Err == nil:
		st.Since = time.Now()
		s.log.Warn("a time stamp authority does not stamp; it will be asked again", "authority", st.URL, "cause", err)
		fallthrough
	default:
		st.Err = err
		st.failed++
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// alert raises one for each time that an authority goes bad: at once when what
// it says is false, and when it has missed several stamps otherwise.
func (s *stamps) alert(m *stampMember, err error) {
	if err == nil {
		m.since, m.told = time.Now(), false
		return
	}
	var answer *falseAnswer
	lied := errors.As(err, &answer)
	if m.told || s.cfg.Alert == nil || !lied && time.Since(m.since) < missedStamps*s.cfg.Interval {
		return
	}
	m.told = true
	s.cfg.Alert(m.URL, lied, err)
}

// await has everything up to size stamped now, and returns when each authority
// has or has failed to. Patient also waits for those that failed lately.
func (s *stamps) await(ctx context.Context, size uint64, patient bool) {
	s.mu.Lock()
	begun := append([]StampStatus(nil), s.status...)
	s.mu.Unlock()
	for {
		var waiting []*stampMember
		s.mu.Lock()
		changed := s.changed
		for i, st := range s.status {
			if st.Size < size && st.failed == begun[i].failed && (patient || begun[i].Err == nil) {
				waiting = append(waiting, s.members[i])
			}
		}
		s.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		for _, m := range waiting { // also anew: what was stamped may be what was newest before
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
		select {
		case <-changed:
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *stamps) state(size uint64) StampedStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := StampedStatus{Size: s.kept, At: s.keptAt, Authorities: append([]StampStatus(nil), s.status...)}
	for i := range st.Authorities {
		st.Authorities[i].Behind = size - min(size, st.Authorities[i].Size)
	}
	return st
}

// stampsFile is the file of stamped checkpoints, to which is added only.
type stampsFile struct {
	mu   sync.Mutex
	name string
	end  int64 // of its last whole line
	err  error // of opening it; then nothing is added
}

// open finds the end of the last whole line, the size of the checkpoint in it,
// and when it was written.
func (f *stampsFile) open(name string) (size uint64, at time.Time, err error) {
	f.name = name
	if size, at, err = f.last(); err != nil {
		err = fmt.Errorf("keeping stamps in %s: %w; move it away to go on without", name, err)
	}
	f.err = err
	return size, at, err
}

func (f *stampsFile) last() (size uint64, at time.Time, err error) {
	file, err := os.Open(f.name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, at, nil
	}
	if err != nil {
		return 0, at, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, at, err
	}
	const most = 512 << 10 // more than two lines
	from := max(0, info.Size()-most)
	tail, err := io.ReadAll(io.NewSectionReader(file, from, most))
	if err != nil {
		return 0, at, err
	}
	tail = tail[:bytes.LastIndexByte(tail, '\n')+1] // a line that a crash cut off counts for nothing
	f.end = from + int64(len(tail))
	if len(tail) == 0 {
		if from > 0 {
			return 0, at, fmt.Errorf("%w: its end holds no line", ledger.ErrStampsFile)
		}
		return 0, at, nil
	}
	begin := bytes.LastIndexByte(tail[:len(tail)-1], '\n') + 1
	err = ledger.ReadStamps(bytes.NewReader(tail[begin:]), func(_ []byte, s *ledger.Stamped) error {
		cp, _, err := s.Open()
		size = cp.Size
		return err
	})
	return size, info.ModTime(), err
}

// append adds a line, durably. What a failed attempt left is written over.
func (f *stampsFile) append(line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = file.Truncate(f.end)
	if err == nil {
		_, err = file.WriteAt(line, f.end)
	}
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	f.end += int64(len(line))
	return nil
}
