package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/ledger"
)

// Witnessing says who is asked to cosign checkpoints.
type Witnessing struct {
	Witnesses []Witness
	Quorum    int    // cosignatures that a checkpoint needs; 0 is all of them
	File      string // where the newest checkpoint that has them is kept

	testingOnlyTransport http.RoundTripper
}

const (
	witnessInterval  = 3 * time.Second // between two rounds of questions
	witnessTimeout   = 5 * time.Second // of one witness in one round
	firstWitnessWait = 5 * time.Second // after a failure, doubling
	lastWitnessWait  = 5 * time.Minute
)

func (c *Witnessing) check() error {
	if c.Quorum == 0 {
		c.Quorum = len(c.Witnesses)
	}
	switch {
	case c.Quorum < 0 || c.Quorum > len(c.Witnesses):
		return fmt.Errorf("a quorum of %d of %d witnesses", c.Quorum, len(c.Witnesses))
	case len(c.Witnesses) > 0 && c.File == "":
		return errors.New("no file to keep cosigned checkpoints in")
	}
	return nil
}

func (c *Witnessing) verifiers() []note.Verifier {
	list := make([]note.Verifier, len(c.Witnesses))
	for i, w := range c.Witnesses {
		list[i] = w.Key
	}
	return list
}

// witnesses has the newest checkpoint cosigned, in rounds: all are asked about
// the same one, for a quorum is one of one checkpoint. A round is over when it
// has its quorum or all have answered; who is late then is let finish, and
// misses what comes meanwhile.
type witnesses struct {
	cfg    Witnessing
	log    *slog.Logger
	newest func() ledger.Checkpoint
	prove  prover

	// Owned by the goroutine in run, and by Open before it.
	members []*member
	round   round
	results chan result
	urgent  bool // somebody waits: no back-off

	wake chan struct{}
	done chan struct{} // closed when run has returned

	mu      sync.Mutex
	status  []WitnessStatus // by member
	kept    ledger.Checkpoint
	fileErr error         // of keeping it
	changed chan struct{} // closed and made anew with kept
}

// member is a witness among others.
type member struct {
	*witness
	number   int
	asked    uint64 // size that it is being asked about
	busy     bool
	failures int
	next     time.Time // not before
}

// round is a checkpoint and the cosignatures that it has so far, by member.
type round struct {
	checkpoint ledger.Checkpoint
	lines      map[int]string
}

type result struct {
	member *member
	line   string
	err    error
}

// WitnessStatus is how far a witness has followed the log.
type WitnessStatus struct {
	Name     string
	URL      string
	Size     uint64    // blocks that it has seen
	Behind   uint64    // blocks that it hasn't
	Cosigned time.Time // last; zero: not by this process
	Err      error     // of the last question
	Since    time.Time // Err, or others before it
}

func newWitnesses(cfg Witnessing, log *slog.Logger, newest func() ledger.Checkpoint, prove prover) *witnesses {
	w := &witnesses{
		cfg: cfg, log: log, newest: newest, prove: prove,
		results: make(chan result, len(cfg.Witnesses)), // nobody who answers waits for us
		wake:    make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{}),
		status: make([]WitnessStatus, len(cfg.Witnesses)),
	}
	transport := cfg.testingOnlyTransport
	if transport == nil {
		transport = witnessTransport()
	}
	for i, c := range cfg.Witnesses {
		w.members = append(w.members, &member{witness: newWitness(c, transport), number: i})
		w.status[i] = WitnessStatus{Name: c.Key.Name(), URL: c.URL}
	}
	return w
}

// open reads the checkpoint that was kept, which the log must have grown from,
// and asks each witness once: before anything is written here, so that an old
// copy of the data folder is known for what it is while it is one still.
func (w *witnesses) open(ctx context.Context, log *signers, tree *ledger.Tree) error {
	if err := w.readKept(log, tree); err != nil {
		return err
	}
	w.start(ctx)
	for w.busy() {
		if err := w.take(<-w.results); err != nil {
			return err
		}
	}
	return nil
}

func (w *witnesses) readKept(log *signers, tree *ledger.Tree) error {
	if w.cfg.File == "" {
		return nil
	}
	msg, err := os.ReadFile(w.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the witnessed checkpoint: %w", err)
	}
	cp, err := log.open(msg, w.cfg.verifiers())
	if err != nil {
		return fmt.Errorf("%w: the checkpoint kept in %s is not this log's: %w", ErrDiverged, w.cfg.File, err)
	}
	if err := checkKnown(tree, cp, "the checkpoint that witnesses cosigned"); err != nil {
		return err
	}
	if w.cfg.Quorum > 0 && len(cp.Cosignatures) >= w.cfg.Quorum {
		w.kept = cp
	}
	return nil
}

// ofLog are those of the checkpoints that somebody kept that are of a log: the
// same person may follow others. None at all is a mistake, not a pass.
func ofLog(origin string, known []ledger.Checkpoint) (list []ledger.Checkpoint, err error) {
	for _, cp := range known {
		if cp.Origin == origin {
			list = append(list, cp)
		}
	}
	if len(known) > 0 && len(list) == 0 {
		return nil, fmt.Errorf("none of the known checkpoints is of log %s; name a file that has one", origin)
	}
	return list, nil
}

// checkKnown checks that a tree grew from a checkpoint that somebody kept.
func checkKnown(tree *ledger.Tree, known ledger.Checkpoint, what string) error {
	if known.Size > tree.Checkpoint.Size {
		return fmt.Errorf("%w: the log has %d blocks, and %s has %d: this data folder is an old copy; restore a newer one",
			ErrDiverged, tree.Checkpoint.Size, what, known.Size)
	}
	return diverged(tree.CheckConsistency(known), what)
}

// run asks until ctx is done, which is no error. An ErrDiverged is final.
func (w *witnesses) run(ctx context.Context) error {
	defer close(w.done)
	for len(w.members) > 0 {
		var due <-chan time.Time
		if !w.pending() {
			pause := witnessInterval
			if w.urgent {
				pause = 0
			}
			due = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-w.results:
			if err := w.take(r); err != nil && ctx.Err() == nil {
				return err
			}
		case <-w.wake:
			w.urgent = true
		case <-due:
			w.start(ctx)
		}
	}
	<-ctx.Done()
	return nil
}

// pending reports whether the round can still get the quorum that it lacks.
func (w *witnesses) pending() bool {
	if len(w.round.lines) >= w.cfg.Quorum {
		return false
	}
	for _, m := range w.members {
		if m.busy && m.asked == w.round.checkpoint.Size {
			return true
		}
	}
	return false
}

func (w *witnesses) busy() bool {
	for _, m := range w.members {
		if m.busy {
			return true
		}
	}
	return false
}

// start asks those who have not cosigned the newest checkpoint.
func (w *witnesses) start(ctx context.Context) {
	urgent := w.urgent
	w.urgent = false
	cp := w.newest()
	if w.round.lines == nil || w.round.checkpoint.Size != cp.Size {
		w.round = round{cp, make(map[int]string)}
	}
	for _, m := range w.members {
		if m.busy || w.round.lines[m.number] != "" || !urgent && time.Now().Before(m.next) {
			continue
		}
		m.busy, m.asked = true, cp.Size
		go func() {
			ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
			defer cancel()
			line, err := m.ask(ctx, cp, w.prove)
			w.results <- result{m, line, err}
		}()
	}
}

// take notes what a witness answered. It returns an ErrDiverged.
func (w *witnesses) take(r result) error {
	m := r.member
	m.busy = false
	w.report(r)
	switch {
	case errors.Is(r.err, ErrDiverged):
		return r.err
	case r.err == nil:
		m.failures, m.next = 0, time.Time{}
		if m.asked == w.round.checkpoint.Size {
			w.round.lines[m.number] = r.line
			w.keep()
		}
	default:
		m.next = time.Now().Add(min(firstWitnessWait<<min(m.failures, 10), lastWitnessWait))
		m.failures++
	}
	return nil
}

// report keeps a result for Status, and logs when it changes between good and
// bad.
func (w *witnesses) report(r result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.status[r.member.number]
	s.Size = r.member.size
	switch {
	case r.err == nil:
		if s.Err != nil {
			w.log.Info("a witness cosigns again", "witness", s.Name)
		}
		s.Err, s.Since, s.Cosigned = nil, time.Time{}, time.Now()
	case s.Err == nil:
		s.Since = time.Now()
		w.log.Warn("a witness does not cosign; it will be asked again", "witness", s.Name, "cause", r.err)
		fallthrough
	default:
		s.Err = r.err
	}
}

// keep writes the checkpoint down when it has its quorum, and again with each
// cosignature more.
func (w *witnesses) keep() {
	if len(w.round.lines) < w.cfg.Quorum {
		return
	}
	cp := w.round.cosigned(w.cfg.Witnesses)
	err := replaceFile(w.cfg.File, cp.Note)
	if err != nil {
		w.log.Error("a cosigned checkpoint cannot be kept; the next one will be tried", "cause", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept, w.fileErr = cp, err
	close(w.changed)
	w.changed = make(chan struct{})
}

// cosigned is the checkpoint with the cosignatures so far.
func (r *round) cosigned(of []Witness) ledger.Checkpoint {
	cp := r.checkpoint
	cp.Note = append([]byte(nil), cp.Note...)
	cp.Cosignatures = nil
	for i, w := range of {
		if line := r.lines[i]; line != "" {
			cp.Note = append(cp.Note, line...)
			cp.Cosignatures = append(cp.Cosignatures, ledger.Cosignature{Witness: w.Key.Name()})
		}
	}
	return cp
}

// replaceFile writes a file whole or not at all.
func replaceFile(name string, data []byte) error {
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ErrNoQuorum means that too few witnesses cosigned in time.
var ErrNoQuorum = errors.New("no quorum of witnesses")

// await returns a checkpoint of at least size blocks with a quorum. It asks at
// once, also witnesses that failed lately.
func (w *witnesses) await(ctx context.Context, size uint64) (ledger.Checkpoint, error) {
	for {
		w.mu.Lock()
		kept, changed := w.kept, w.changed
		w.mu.Unlock()
		if kept.Size >= size && len(kept.Note) > 0 {
			return kept, nil
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-time.After(time.Second): // and ask once more
		case <-w.done:
			return ledger.Checkpoint{}, w.noQuorum(size)
		case <-ctx.Done():
			return ledger.Checkpoint{}, w.noQuorum(size)
		}
	}
}

// noQuorum says who is missing.
func (w *witnesses) noQuorum(size uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := fmt.Errorf("%w: %d of %d must cosign %d blocks", ErrNoQuorum, w.cfg.Quorum, len(w.members), size)
	for _, s := range w.status {
		if s.Err != nil {
			err = fmt.Errorf("%w; %s: %w", err, s.Name, s.Err)
		}
	}
	return err
}

// WitnessedStatus is how far witnesses have followed the log.
type WitnessedStatus struct {
	Quorum    int
	Size      uint64 // of the newest checkpoint with a quorum
	Err       error  // of keeping it
	Witnesses []WitnessStatus
}

func (w *witnesses) state(size uint64) WitnessedStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := WitnessedStatus{
		Quorum: w.cfg.Quorum, Size: w.kept.Size, Err: w.fileErr, Witnesses: append([]WitnessStatus(nil), w.status...),
	}
	for i := range st.Witnesses {
		st.Witnesses[i].Behind = size - min(size, st.Witnesses[i].Size)
	}
	return st
}
