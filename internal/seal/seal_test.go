package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/archive"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/ledger"
)

const origin = "exhibit.example.com/gw1"

// world is a gateway without its front: a journal that records go to, and what
// the sealer makes of it. It knows what was recorded.
type world struct {
	t        testing.TB
	dir      string
	signer   note.Signer
	vkey     string
	verifier note.Verifier
	identity *age.X25519Identity
	faults   *faults
	config   Config

	keys    *keys.Store
	journal *journal.Journal
	archive *archive.Folder
	sealer  *Sealer
	stop    func() error // stops Run

	boot, seq uint64
	scopes    map[evidence.Position]*scopeState // by session; the zero position is the boot's own
	session   evidence.Position
	intent    evidence.Position  // the last
	sink      func(entry []byte) // where records go instead of the journal, if set

	mu     sync.Mutex
	heads  []string                     // every record, in order
	sealed map[evidence.Position]string // sealed parts, by record
	erased map[scope]bool               // scopes whose keys were destroyed
	where  map[evidence.Position]scope  // scope of each record with a sealed part
	ctl    []string                     // heads of control records
}

type scopeState struct {
	scope *keys.Scope
	n     uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	check(t, err)
	signer, err := note.NewSigner(skey)
	check(t, err)
	verifier, err := ledger.NewVerifier(vkey)
	check(t, err)
	identity, err := age.GenerateX25519Identity()
	check(t, err)
	w := &world{
		t: t, dir: t.TempDir(), signer: signer, vkey: vkey, verifier: verifier, identity: identity, faults: &faults{},
		sealed: map[evidence.Position]string{}, erased: map[scope]bool{}, where: map[evidence.Position]scope{},
	}
	w.config = Config{
		Dir: filepath.Join(w.dir, "log"), Signer: signer, Interval: 10 * time.Millisecond, MaxBytes: 4 << 10,
		Logger:          slog.New(slog.DiscardHandler),
		testingOnlyTree: func(m merkleTree) merkleTree { return &faultyTree{m, w.faults} },
	}
	w.openJournal()
	w.newBoot()
	t.Cleanup(func() {
		w.crash()
		w.journal.Close()
		w.keys.Close()
		w.archive.Close()
	})
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) openJournal() {
	w.t.Helper()
	var err error
	w.journal, err = journal.Open(filepath.Join(w.dir, "journal"), journal.Options{SegmentBytes: 16 << 10, ReserveBytes: -1})
	check(w.t, err)
	w.archive, err = archive.OpenFolder(filepath.Join(w.dir, "archive"))
	check(w.t, err)
	w.keys, err = keys.Open(filepath.Join(w.dir, "keys"), w.identity, nil)
	check(w.t, err)
}

// newBoot begins the next boot with its gateway.start.
func (w *world) newBoot() {
	w.t.Helper()
	w.boot, w.seq, w.session = w.boot+1, 0, evidence.Position{}
	if w.boot > 1 { // a store opens one boot
		w.mu.Lock()
		check(w.t, w.keys.Close())
		var err error
		w.keys, err = keys.Open(filepath.Join(w.dir, "keys"), w.identity, nil)
		w.mu.Unlock()
		check(w.t, err)
	}
	own, err := w.keys.NewBoot(w.boot)
	check(w.t, err)
	if w.scopes == nil {
		w.scopes = map[evidence.Position]*scopeState{}
	}
	w.scopes[evidence.Position{}] = &scopeState{scope: own}
	w.record(evidence.GatewayStart, `{"version":"test"}`, "")
}

// Scope makes w the sealer's Keys.
func (w *world) Scope(boot, slot uint64) (*keys.Scope, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keys.Scope(boot, slot)
}

// record appends one record to the journal, of the current session if it is
// the kind that belongs to one.
func (w *world) record(typ evidence.Type, body, sealed string) evidence.Position {
	w.t.Helper()
	pos := evidence.Position{Gateway: "gw1", Boot: w.boot, Seq: w.seq}
	w.seq++
	h := evidence.Head{Pos: pos, Type: typ, Time: time.Now().UnixMicro(), HasBody: body != "", HasSealed: sealed != ""}
	switch typ {
	case evidence.SessionStart:
		s, err := w.keys.New()
		check(w.t, err)
		w.session, h.Key = pos, s.Slot()
		w.scopes[pos] = &scopeState{scope: s}
		h.Session, h.Effect = pos, evidence.Allow
	case evidence.SessionNote, evidence.SessionEnd, evidence.CommandIntent, evidence.CommandResult:
		h.Session = w.session
	}
	switch typ {
	case evidence.CommandIntent:
		w.intent = pos
	case evidence.CommandResult:
		h.Of = w.intent
	}
	sc := w.scopes[h.Session]
	sc.n++
	h.N = sc.n
	e := recorder.Entry{Slot: sc.scope.Slot()}
	var bodyHash evidence.Hash
	if h.HasBody {
		e.Body = []byte(body)
		bodyHash = evidence.BodyHash(sc.scope.Body().Salt(h.N), e.Body)
	}
	if h.HasSealed {
		e.SealedHash = evidence.SealedHash(sc.scope.Sealed().Salt(h.N), []byte(sealed))
		e.Cipher = sc.scope.Seal(nil, h.N, []byte(sealed))
	}
	if h.HasBody || h.HasSealed {
		h.Commitment = evidence.Commit(bodyHash, e.SealedHash)
	}
	e.Head = evidence.AppendHead(nil, &h)
	if w.sink != nil {
		w.sink(e.Append(nil))
	} else {
		w.append(&e)
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.heads = append(w.heads, string(e.Head))
	if h.HasSealed {
		w.sealed[pos], w.where[pos] = sealed, scopeOf(&h, e.Slot)
	}
	if typ.IsControl() {
		w.ctl = append(w.ctl, string(e.Head))
	}
	return pos
}

func (w *world) append(e *recorder.Entry) {
	w.t.Helper()
	lsn, err := w.journal.Append(e.Append(nil))
	check(w.t, err)
	check(w.t, w.journal.Wait(lsn, journal.Synced))
}

// work records a session with n commands and a control record in between.
func (w *world) work(n int) {
	w.t.Helper()
	w.record(evidence.SessionStart, `{"protocol":"postgres"}`, "")
	for i := range n {
		w.record(evidence.CommandIntent, `{"path":"simple"}`, fmt.Sprintf(`{"raw":"statement %d of boot %d"}`, i, w.boot))
		w.record(evidence.CommandResult, "", "")
	}
	w.record(evidence.AgentCreate, `{"agent":"billing-bot"}`, "")
	w.record(evidence.SessionEnd, `{"reason":"terminate"}`, "")
}

// open opens the sealer and runs it.
func (w *world) open() {
	w.t.Helper()
	check(w.t, w.tryOpen())
}

func (w *world) tryOpen() error {
	w.t.Helper()
	s, err := Open(w.t.Context(), w.config, &faultyJournal{w.journal, w.faults}, &faultyArchive{w.archive, w.faults}, w)
	if err != nil {
		return err
	}
	w.sealer = s
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-result })
	return nil
}

// close stops the sealer in good order.
func (w *world) close() {
	w.t.Helper()
	check(w.t, w.stop())
	check(w.t, w.sealer.Close())
	w.sealer = nil
}

// crash stops the sealer where it stands. The next one finds what is on disk.
func (w *world) crash() {
	if w.sealer == nil {
		return
	}
	_ = w.stop()
	w.sealer.tree.(*faultyTree).merkleTree.(*tesseraTree).cancel()
	w.sealer = nil
	w.faults.clear()
}

func (w *world) flush() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	check(w.t, w.sealer.Flush(ctx))
}

// erase destroys the keys of a session.
func (w *world) erase(session evidence.Position) {
	w.t.Helper()
	sc := scope{session.Boot, w.scopes[session].scope.Slot()}
	check(w.t, w.keys.Shred(sc.boot, sc.slot))
	w.erased[sc] = true
}

// checkLog checks everything there is: each record once and in order, the whole
// tree, and every sealed part whose key is left.
func (w *world) checkLog() {
	w.t.Helper()
	w.faults.clear()
	w.flush()
	w.checkScan()
	report := w.fsck()
	for _, f := range report.Findings {
		w.t.Errorf("fsck: %s: %s (%s)", f.Where, f.Problem, f.Hint)
	}
	if report.Records != uint64(len(w.heads)) || report.Root != report.Checkpoint.Root {
		w.t.Errorf("fsck: %d records, root %s; want %d and %s", report.Records, report.Root, len(w.heads), report.Checkpoint.Root)
	}
	w.checkSealedParts(report.Checkpoint.Size)
	// What Flush waits for is sealed a moment before the attempt is over.
	w.wait("the failure to be over", func() bool { return w.sealer.Status().Err == nil })
	if st := w.sealer.Status(); st.Blocks != report.Checkpoint.Size || st.UnsealedBytes != 0 || st.UnsealedAge != 0 || st.Err != nil {
		w.t.Errorf("status %+v", st)
	}
}

func (w *world) fsck() *Report {
	w.t.Helper()
	report, err := Fsck{Log: w.verifier, Archive: w.archive.FS(), Tree: os.DirFS(w.config.Dir)}.Run(w.t.Context())
	check(w.t, err)
	return report
}

func (w *world) checkScan() {
	w.t.Helper()
	var all, ctl []string
	check(w.t, w.sealer.Scan(w.t.Context(), 0, func(r *evidence.Record) error {
		all = append(all, string(r.HeadBytes))
		if r.Head.HasBody != (len(r.Body) > 0) {
			return fmt.Errorf("body of %s", r.Head.Pos)
		}
		return nil
	}))
	check(w.t, w.sealer.ScanControl(w.t.Context(), nil, func(r *evidence.Record) error {
		ctl = append(ctl, string(r.HeadBytes))
		return nil
	}))
	w.mu.Lock()
	defer w.mu.Unlock()
	same(w.t, "records", all, w.heads)
	same(w.t, "control records", ctl, w.ctl)
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%d %s, want %d; they differ from number %d on", len(got), what, len(want), i)
			return
		}
	}
}

func (w *world) checkSealedParts(blocks uint64) {
	w.t.Helper()
	found := map[evidence.Position]bool{}
	for n := range blocks {
		file, err := w.archive.Get(w.t.Context(), ledger.BlockPath(n))
		check(w.t, err)
		b, err := ledger.ParseBlock(file)
		check(w.t, err)
		chunks, err := b.Chunks()
		check(w.t, err)
		for _, c := range chunks {
			if w.erased[scope{c.Boot, c.Slot}] {
				continue
			}
			key, err := w.keys.Scope(c.Boot, c.Slot)
			check(w.t, err)
			plain, err := key.OpenChunk(ledger.ChunkAAD(origin, n, c.Boot, c.Slot), c.Data)
			check(w.t, err)
			parts, err := c.Parts(plain)
			check(w.t, err)
			for i, p := range parts {
				pos := b.Records[c.Records[i]].Head.Pos
				if found[pos] || string(p) != w.sealed[pos] {
					w.t.Errorf("sealed part of %s is %q, want %q once", pos, p, w.sealed[pos])
				}
				found[pos] = true
			}
		}
	}
	for pos := range w.sealed {
		if !found[pos] && !w.erased[w.where[pos]] {
			w.t.Errorf("sealed part of %s is nowhere", pos)
		}
	}
}

// faults make operations fail: before they do anything, or after they did it
// all. A crash lets nothing through from then on.
type faults struct {
	mu   sync.Mutex
	plan map[string]*fault
	dead bool
}

type fault struct {
	at      int // the how-manieth call, from 1
	times   int // how many fail; 0 is one
	after   bool
	crash   bool
	calls   int
	trigger chan struct{} // closed at the first
}

var errFault = errors.New("injected fault")

func (f *faults) set(op string, plan *fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	plan.trigger = make(chan struct{})
	f.plan = map[string]*fault{op: plan}
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.dead = nil, false
}

// do runs an operation under the plan.
func (f *faults) do(op string, run func() error) error {
	f.mu.Lock()
	p := f.plan[op]
	dead, hit := f.dead, false
	if p != nil && !dead {
		p.calls++
		hit = p.calls >= p.at && p.calls < p.at+max(p.times, 1)
	}
	if hit && p.calls == p.at {
		defer close(p.trigger)
	}
	f.dead = dead || hit && p.crash
	f.mu.Unlock()
	if dead || hit && !p.after {
		return errFault
	}
	if err := run(); err != nil {
		return err
	}
	if hit {
		return errFault
	}
	return nil
}

type faultyArchive struct {
	a *archive.Folder
	f *faults
}

func (a *faultyArchive) Put(ctx context.Context, name string, data []byte) error {
	return a.f.do("put", func() error { return a.a.Put(ctx, name, data) })
}

func (a *faultyArchive) Get(ctx context.Context, name string) (b []byte, err error) {
	err = a.f.do("get", func() error { b, err = a.a.Get(ctx, name); return err })
	return b, err
}

func (a *faultyArchive) Remove(ctx context.Context, names ...string) error {
	return a.f.do("remove", func() error { return a.a.Remove(ctx, names...) })
}

type faultyJournal struct {
	*journal.Journal
	f *faults
}

func (j *faultyJournal) Release(lsn journal.LSN) error {
	return j.f.do("release", func() error { return j.Journal.Release(lsn) })
}

func (j *faultyJournal) Read(from journal.LSN, fn func(journal.LSN, []byte) error) (next journal.LSN, err error) {
	err = j.f.do("read", func() error { next, err = j.Journal.Read(from, fn); return err })
	return next, err
}

type faultyTree struct {
	merkleTree
	f *faults
}

func (t *faultyTree) Size(ctx context.Context) (n uint64, err error) {
	err = t.f.do("size", func() error { n, err = t.merkleTree.Size(ctx); return err })
	return n, err
}

func (t *faultyTree) Add(ctx context.Context, leaf []byte) (n uint64, err error) {
	err = t.f.do("add", func() error { n, err = t.merkleTree.Add(ctx, leaf); return err })
	return n, err
}

func (t *faultyTree) FS() fs.FS { return faultyFS{t.merkleTree.FS(), t.f} }

type faultyFS struct {
	fs.FS
	f *faults
}

func (f faultyFS) Open(name string) (file fs.File, err error) {
	op := "tile"
	if name == ledger.CheckpointPath {
		op = "checkpoint"
	}
	err = f.f.do(op, func() error { file, err = f.FS.Open(name); return err })
	if err != nil && file != nil {
		_ = file.Close()
		file = nil
	}
	return file, err
}

func TestSealing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	for range 3 {
		w.work(20)
		w.checkLog()
	}
	if w.journal.First() == 0 {
		t.Error("the journal was never released")
	}
	st := w.sealer.Status()
	if st.Blocks < 3 || st.Last.Seq != w.seq-1 || time.Since(st.Published) > time.Minute {
		t.Errorf("status %+v", st)
	}
	w.close()
	w.open()
	w.checkLog()
}

func TestABlockIsCutByTimeAndBySize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Interval, w.config.MaxBytes = time.Hour, 2<<10
	w.open()
	w.work(100)
	w.wait("blocks cut by size", func() bool { return w.sealer.Status().Blocks > 5 })
	for n := range w.sealer.Status().Blocks {
		file, err := w.archive.Get(t.Context(), ledger.BlockPath(n))
		check(t, err)
		b, err := ledger.ParseBlock(file)
		check(t, err)
		if raw := b.Sections[ledger.Heads].Raw + b.Sections[ledger.Bodies].Raw; raw > 2<<10 {
			t.Errorf("block %d holds %d bytes", n, raw)
		}
	}
	w.close()
	w.config.Interval = 50 * time.Millisecond
	w.open()
	w.wait("the rest cut by time", func() bool { return w.sealer.Status().UnsealedBytes == 0 })
	w.checkLog()
}

func (w *world) wait(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for %s; status %+v", what, w.sealer.Status())
		}
	}
}

func TestABlockNeverMixesBoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Interval, w.config.MaxBytes = time.Hour, 1<<20
	for range 4 {
		w.work(3)
		w.newBoot()
	}
	w.open()
	w.checkLog()
	if n := w.sealer.Status().Blocks; n != 5 {
		t.Errorf("%d blocks for 5 boots", n)
	}
}

func TestARecordOfAnEarlierBootsSessionKeepsItsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.record(evidence.SessionStart, `{"protocol":"postgres"}`, "")
	w.record(evidence.CommandIntent, `{"path":"simple"}`, `{"raw":"in doubt"}`)
	session := w.session
	w.newBoot()
	w.session = session
	w.record(evidence.CommandResult, "", `{"detail":"nobody saw"}`)
	w.record(evidence.SessionEnd, `{"reason":"crash"}`, "")
	w.open()
	w.checkLog()
}

func TestErasedScopesAreLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work(5)
	gone := w.session
	w.work(5)
	w.erase(gone)
	w.open()
	w.checkLog()
	b, _, err := w.sealer.load(t.Context(), 0, ledger.NumSections)
	check(t, err)
	chunks, err := b.Chunks()
	check(t, err)
	for _, c := range chunks {
		if w.erased[scope{c.Boot, c.Slot}] {
			t.Errorf("chunk of %d.%d, which was erased", c.Boot, c.Slot)
		}
	}
	for _, r := range b.Records {
		if r.Head.HasSealed && r.SealedHash == (evidence.Hash{}) {
			t.Errorf("%s lost its sealed hash", r.Head.Pos)
		}
	}
}

// TestFaults lets every step fail, before and after it has taken effect, and
// either goes on or crashes there. In the end every record must be in the log,
// once.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"put", "size", "add", "checkpoint", "tile", "read", "release", "get"} {
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				for _, at := range []int{1, 3} {
					if op == "get" && !crash {
						continue // nothing is read back while sealing goes well
					}
					if at > 1 && testing.Short() {
						continue
					}
					when := map[bool]string{false: "before", true: "after"}[after]
					then := map[bool]string{false: "goes on", true: "crashes"}[crash]
					t.Run(fmt.Sprintf("%s %d fails %s it is done and %s", op, at, when, then), func(t *testing.T) {
						t.Parallel()
						testFault(t, op, &fault{at: at, after: after, crash: crash})
					})
				}
			}
		}
	}
}

func testFault(t *testing.T, op string, plan *fault) {
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.work(10)
	w.open()
	w.checkLog()
	if op == "get" {
		w.crash() // reopening reads back
		w.faults.set(op, plan)
		if err := w.tryOpen(); err == nil {
			w.crash()
		}
		w.faults.clear()
		w.open()
		w.work(5)
		w.checkLog()
		return
	}
	w.faults.set(op, plan)
	w.work(30)
	if plan.crash {
		select {
		case <-plan.trigger:
		case <-time.After(time.Second):
			t.Log("the fault was never met")
		}
		w.crash()
		w.newBoot()
		w.work(3)
		w.open()
	}
	w.checkLog()
	// A second start finds nothing left to do.
	w.crash()
	w.open()
	w.work(3)
	w.checkLog()
}

func TestALongFailureHoldsUpSealingOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxUnsealedBytes = 8 << 10
	w.open()
	w.checkLog()
	check(t, w.sealer.Ready())
	w.faults.set("put", &fault{at: 1, times: 1 << 30})
	w.work(50)
	w.wait("an error", func() bool { return w.sealer.Status().Err != nil })
	if err := w.sealer.Ready(); !errors.Is(err, errFault) {
		t.Errorf("with too much unsealed, ready: %v", err)
	}
	w.checkScan() // what waits can be read
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.sealer.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errFault) {
		t.Errorf("flush: %v", err)
	}
	w.checkLog()
	check(t, w.sealer.Ready())
}

func TestReadyCountsAJournalThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxUnsealedAge = 100 * time.Millisecond
	w.open()
	w.checkLog()
	w.faults.set("read", &fault{at: 1, times: 1 << 30})
	w.work(1)
	w.wait("too old a record", func() bool { return w.sealer.Ready() != nil })
	w.checkLog()
	check(t, w.sealer.Ready())
}

func TestReadyCountsTheOldestRecordsAge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxUnsealedAge = 100 * time.Millisecond
	w.faults.set("put", &fault{at: 1, times: 1 << 30})
	w.open()
	w.wait("too old a record", func() bool { return w.sealer.Ready() != nil })
	w.checkLog()
	check(t, w.sealer.Ready())
}

func TestScanWhileSealing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.open()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.work(3)
			}
		}
	})
	for range 20 {
		w.mu.Lock()
		least := len(w.heads)
		w.mu.Unlock()
		var got, ctl []string
		check(t, w.sealer.Scan(t.Context(), 0, func(r *evidence.Record) error {
			got = append(got, string(r.HeadBytes))
			return nil
		}))
		check(t, w.sealer.ScanControl(t.Context(), nil, func(r *evidence.Record) error {
			ctl = append(ctl, string(r.HeadBytes))
			return nil
		}))
		w.mu.Lock()
		if len(got) < least || len(got) > len(w.heads)+1 {
			t.Errorf("%d records, at least %d were there", len(got), least)
		}
		n := min(len(got), len(w.heads))
		same(t, "records", got[:n], w.heads[:n])
		n = min(len(ctl), len(w.ctl))
		same(t, "control records", ctl[:n], w.ctl[:n])
		w.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	writer.Wait()
	w.checkLog()
}

func TestScanFromABlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.work(30)
	w.flush()
	b, _, err := w.sealer.load(t.Context(), 1, ledger.NumSections)
	check(t, err)
	var first evidence.Position
	n := 0
	check(t, w.sealer.Scan(t.Context(), 1, func(r *evidence.Record) error {
		if n++; n == 1 {
			first = r.Head.Pos
		}
		return nil
	}))
	if first != b.FirstPosition() || n != len(w.heads)-int(b.First) {
		t.Errorf("%d records from %s on", n, first)
	}
	stopped := errors.New("enough")
	if err := w.sealer.Scan(t.Context(), 0, func(*evidence.Record) error { return stopped }); !errors.Is(err, stopped) {
		t.Errorf("a scan that was stopped: %v", err)
	}
}

// A reader goes on where it was, in blocks or in the journal, from any position,
// however far sealing and releasing have gone meanwhile.
func TestAReaderFollowsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.open()
	w.work(30)
	w.flush()
	w.work(30)

	read := func(r *Reader, upTo int) (heads []string) {
		t.Helper()
		for len(heads) < upTo {
			n, err := r.Next(t.Context(), func(rec *evidence.Record) error {
				heads = append(heads, string(rec.HeadBytes))
				return nil
			})
			check(t, err)
			if n == 0 {
				return heads
			}
		}
		return heads
	}
	positions := func() (list []evidence.Position) {
		for _, head := range w.heads {
			h, err := evidence.ParseHead(head)
			check(t, err)
			list = append(list, h.Pos)
		}
		return list
	}
	readers := make([]*Reader, len(w.heads))
	for i, pos := range positions() {
		same(t, "from "+pos.String(), read(w.sealer.ReadFrom(pos), len(w.heads)), w.heads[i:])
		// These stop after their first piece, wherever that ends.
		readers[i] = w.sealer.ReadFrom(pos)
		got := read(readers[i], 1)
		same(t, "the first piece from "+pos.String(), got, w.heads[i:i+len(got)])
	}
	had := len(w.heads)
	late := w.sealer.ReadFrom(evidence.Position{Gateway: "gw1", Boot: 1, Seq: uint64(had)})
	same(t, "from where nothing is yet", read(late, 1), nil)
	w.work(100) // more than the segments that the journal keeps
	w.newBoot()
	w.work(5)
	w.flush()
	if w.journal.First() == 0 {
		t.Fatal("the journal has released nothing")
	}
	for i, r := range readers {
		from := len(w.heads) - len(read(r, len(w.heads)))
		if from <= i || from > had {
			t.Fatalf("the reader from record %d went on with record %d", i, from)
		}
	}
	same(t, "what came since", read(late, len(w.heads)), w.heads[had:])
	same(t, "and then nothing", read(late, 1), nil)
	// A position behind the last record of its boot is that of the next boot.
	beyond := w.sealer.ReadFrom(evidence.Position{Gateway: "gw1", Boot: 1, Seq: 1 << 30})
	if got := read(beyond, 1); len(got) == 0 || !strings.HasPrefix(got[0], `{"v":1,"pos":"gw1.2.0"`) {
		t.Errorf("from behind boot 1: %.60q", got)
	}
	stopped := errors.New("enough")
	if _, err := w.sealer.ReadFrom(positions()[0]).Next(t.Context(), func(*evidence.Record) error { return stopped }); !errors.Is(err, stopped) {
		t.Errorf("a reader that was stopped: %v", err)
	}
}

// A reader of the sealed log sees nothing that no checkpoint covers, and how much
// it has before it is known without reading that.
func TestAReaderOfTheSealedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Interval, w.config.MaxBytes = time.Hour, 16<<20
	w.open()
	after := func(pos evidence.Position) uint64 {
		t.Helper()
		n, err := w.sealer.SealedAfter(pos)
		check(t, err)
		return n
	}
	if n := after(evidence.Position{}); n != 0 {
		t.Errorf("%d records are sealed before there are any", n)
	}
	var heads []string
	r := w.sealer.ReadFrom(evidence.Position{}).Sealed()
	read := func() {
		t.Helper()
		for {
			n, err := r.Next(t.Context(), func(rec *evidence.Record) error {
				heads = append(heads, string(rec.HeadBytes))
				return nil
			})
			check(t, err)
			if n == 0 {
				return
			}
		}
	}
	for range 3 {
		w.work(10)
		sealed := len(heads)
		if read(); len(heads) != sealed {
			t.Fatalf("%d records were read before they were sealed", len(heads)-sealed)
		}
		w.flush()
		read()
		same(t, "what is sealed", heads, w.heads)
		w.newBoot()
	}
	for i, head := range heads {
		h, err := evidence.ParseHead(head)
		check(t, err)
		if n := after(h.Pos); n != uint64(len(heads)-i-1) {
			t.Errorf("%d records come after %s, want %d", n, h.Pos, len(heads)-i-1)
		}
	}
	if n := after(evidence.Position{}); n != uint64(len(heads)) {
		t.Errorf("%d records in all, want %d", n, len(heads))
	}
	if n := after(evidence.Position{Gateway: "gw1", Boot: 99}); n != 0 {
		t.Errorf("%d records after the last", n)
	}
}

func TestLastBootIsWhereOpenSessionsMayBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.open()
	from := func() evidence.Position {
		t.Helper()
		n, err := w.sealer.LastBoot(t.Context())
		check(t, err)
		var first evidence.Position
		check(t, w.sealer.Scan(t.Context(), n, func(r *evidence.Record) error {
			if first.IsZero() {
				first = r.Head.Pos
			}
			return nil
		}))
		return first
	}
	w.work(20)
	w.flush()
	w.newBoot()
	w.work(20)
	w.flush()
	if got := from(); got.Boot != 2 || got.Seq != 0 {
		t.Errorf("after a boot that worked: from %s", got)
	}
	w.newBoot() // and dies before it has ended anything
	w.flush()
	w.newBoot() // so does this one
	if got := from(); got.Boot != 2 || got.Seq != 0 {
		t.Errorf("after boots that died at once: from %s", got)
	}
	w.flush()
	if got := from(); got.Boot != 2 || got.Seq != 0 {
		t.Errorf("the same, sealed: from %s", got)
	}

	// A boot that stopped in good order needn't be read again, whatever came of
	// the next.
	w.work(20)
	w.flush()
	stop := w.record(evidence.GatewayStop, `{"reason":"asked to","open":0}`, "")
	for _, what := range []string{"in the journal", "sealed", "and a boot that died at once", "sealed as well"} {
		if got := from(); got.Boot != stop.Boot || got.Seq == 0 || stop.Before(got) {
			t.Errorf("after a stop at %s, %s: from %s", stop, what, got)
		}
		if what == "sealed" {
			w.newBoot()
		} else {
			w.flush()
		}
	}
}

func TestTheTreeIsMadeAnewFromTheArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.MaxBytes = 1 << 10
	w.open()
	w.work(100)
	w.flush()
	before := w.sealer.Status().Checkpoint
	w.close()
	check(t, os.Rename(w.config.Dir, w.config.Dir+".away"))
	w.open()
	after := w.sealer.Status().Checkpoint
	if !bytes.Equal(before.Note, after.Note) {
		t.Errorf("checkpoint\n%s\nwas\n%s", after.Note, before.Note)
	}
	w.work(3)
	w.checkLog()
}

// TestRefusals: what the sealer must not open.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(w *world)
		want   string
	}{
		"another key": {func(w *world) {
			skey, _, err := note.GenerateKey(rand.Reader, origin)
			check(w.t, err)
			w.config.Signer, err = note.NewSigner(skey)
			check(w.t, err)
		}, "not signed by the key"},
		"a key of another name": {func(w *world) { w.config.Origin = "other.example.com" }, "is named"},
		"the archive is gone": {func(w *world) {
			w.move("archive")
		}, "archive lacks block"},
		"the archive is older than the log": {func(w *world) {
			blocks, err := filepath.Glob(filepath.Join(w.dir, "archive/blocks/*.block"))
			check(w.t, err)
			check(w.t, os.Remove(blocks[len(blocks)-1]))
		}, "archive lacks block"},
		"the last block is another": {func(w *world) {
			blocks, err := filepath.Glob(filepath.Join(w.dir, "archive/blocks/*.block"))
			check(w.t, err)
			check(w.t, os.Rename(blocks[0], blocks[len(blocks)-1]))
		}, "says that it is block"},
		"the log's state is older than its checkpoint": {func(w *world) {
			state := filepath.Join(w.config.Dir, ".state/treeState")
			check(w.t, os.WriteFile(state, []byte(`{"size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`), 0o600))
		}, "put back from an older copy"},
		"the log's state is gone": {func(w *world) {
			check(w.t, os.RemoveAll(filepath.Join(w.config.Dir, ".state")))
		}, "put back from an older copy"},
		"the journal begins later": {func(w *world) {
			w.seq += 3
			w.record(evidence.Heartbeat, "", "")
		}, "records between them are gone"},
		"the journal is of another gateway": {func(w *world) {
			h := evidence.Head{Pos: evidence.Position{Gateway: "gw2", Boot: 9}, Type: evidence.GatewayStart, Time: 1, N: 1}
			w.append(&recorder.Entry{Head: evidence.AppendHead(nil, &h)})
		}, "another history"},
		"journal and log are gone, half of it": {func(w *world) {
			w.move("archive")
			w.move("log")
		}, "the log is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.open()
			w.work(200) // enough that the journal has released its beginning
			w.checkLog()
			w.close()
			c.damage(w)
			before := w.fsck().Checkpoint
			for range 2 { // refusing doesn't change what is refused
				err := w.tryOpen()
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one about %q", err, c.want)
				}
				if now := w.fsck().Checkpoint; before.Note != nil && !bytes.Equal(now.Note, before.Note) {
					t.Errorf("the checkpoint was\n%s\nand is\n%s", before.Note, now.Note)
				}
			}
		})
	}
}

// move puts one of the directories out of the way.
func (w *world) move(name string) {
	w.t.Helper()
	check(w.t, os.Rename(filepath.Join(w.dir, name), filepath.Join(w.dir, name+".away")))
	if name == "archive" {
		var err error
		w.archive, err = archive.OpenFolder(filepath.Join(w.dir, name))
		check(w.t, err)
	}
}

func TestAHoleInTheJournalStopsSealing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.checkLog()
	w.seq++
	w.record(evidence.Heartbeat, "", "")
	err := w.sealer.Flush(t.Context())
	if !errors.Is(err, ErrDiverged) {
		t.Errorf("flush: %v", err)
	}
	if err := w.sealer.Ready(); !errors.Is(err, ErrDiverged) {
		t.Errorf("ready: %v", err)
	}
	if err := w.stop(); !errors.Is(err, ErrDiverged) {
		t.Errorf("run: %v", err)
	}
}

func TestASealedPartThatIsNotWhatWasCommittedIsNotSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := w.scopes[evidence.Position{}]
	h := evidence.Head{Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: 1}, Type: evidence.Authn, Time: 1, N: 2, HasSealed: true}
	e := recorder.Entry{SealedHash: evidence.Hash{1}, Cipher: own.scope.Seal(nil, 2, []byte("x"))}
	h.Commitment = evidence.Commit(evidence.Hash{}, e.SealedHash)
	e.Head = evidence.AppendHead(nil, &h)
	w.append(&e)
	w.open()
	w.wait("an error", func() bool { return errors.Is(w.sealer.Status().Err, evidence.ErrCommitment) })
}

func TestFsckSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(w *world)
		want   string
	}{
		"a block is gone":     {func(w *world) { check(w.t, os.Remove(w.block(1))) }, "missing from the archive"},
		"a block was altered": {func(w *world) { flip(w.t, w.block(1), -5) }, "digest"},
		"a block is in another's place": {func(w *world) {
			file, err := os.ReadFile(w.block(0))
			check(w.t, err)
			check(w.t, os.Remove(w.block(1)))
			check(w.t, os.WriteFile(w.block(1), file, 0o600))
		}, "it says that it is block 0"},
		"a header was altered": {func(w *world) { flip(w.t, w.block(1), 60) }, "block 1"},
		"a tile was altered":   {func(w *world) { flip(w.t, w.newestTile("0"), 3) }, "leaves 0 to"},
		"a bundle was altered": {func(w *world) { flip(w.t, w.newestTile("entries"), 30) }, "copy of its header"},
		"the checkpoint was altered": {func(w *world) {
			flip(w.t, filepath.Join(w.config.Dir, "checkpoint"), 26)
		}, "checkpoint"},
		"the checkpoint is gone": {func(w *world) { check(w.t, os.Remove(filepath.Join(w.config.Dir, "checkpoint"))) }, "checkpoint"},
		"a block was made anew": {func(w *world) {
			w.rebuild(1)
		}, "not the block that the signed log has"},
		"a block was cut": {func(w *world) {
			file, err := os.ReadFile(w.block(1))
			check(w.t, err)
			cut, err := ledger.Cut(file, ledger.Hashes+1)
			check(w.t, err)
			check(w.t, os.Remove(w.block(1)))
			check(w.t, os.WriteFile(w.block(1), cut, 0o600))
		}, "cut after section hashes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.open()
			w.work(60)
			w.checkLog()
			w.close()
			c.damage(w)
			var found []string
			for _, f := range w.fsck().Findings {
				if f.Hint == "" || f.Notice {
					t.Errorf("%+v", f)
				}
				found = append(found, f.Where+": "+f.Problem)
			}
			all := strings.Join(found, "\n")
			if !strings.Contains(all, c.want) {
				t.Errorf("found %q, want something about %q", all, c.want)
			}
			if strings.Contains(all, "does not continue") {
				t.Errorf("found %q: one file is blamed for another", all)
			}
		})
	}
}

func TestFsckKnowsABlockThatIsAboutToBeAdded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open()
	w.checkLog()
	plan := &fault{at: 1, crash: true}
	w.faults.set("add", plan)
	w.work(3)
	<-plan.trigger
	w.crash()
	report := w.fsck()
	if len(report.Findings) != 1 || !report.Findings[0].Notice {
		t.Errorf("findings %+v", report.Findings)
	}
	w.open()
	w.checkLog()
}

func (w *world) block(n uint64) string { return filepath.Join(w.dir, "archive", ledger.BlockPath(n)) }

func (w *world) newestTile(level string) string {
	w.t.Helper()
	size := w.fsck().Checkpoint.Size
	return filepath.Join(w.config.Dir, "tile", level, fmt.Sprintf("000.p/%d", size))
}

// rebuild replaces a block by one with the same header but for its records'
// times: what an operator with all the files could try.
func (w *world) rebuild(n uint64) {
	w.t.Helper()
	file, err := os.ReadFile(w.block(n))
	check(w.t, err)
	b, err := ledger.ParseBlock(file)
	check(w.t, err)
	r := &b.Records[0]
	r.Head.Time++
	r.HeadBytes = evidence.AppendHead(nil, &r.Head)
	_, file, err = ledger.Build(b.Header, b.Records, nil)
	check(w.t, err)
	check(w.t, os.Remove(w.block(n)))
	check(w.t, os.WriteFile(w.block(n), file, 0o600))
}

func flip(t testing.TB, name string, at int) {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	check(t, os.Remove(name))
	check(t, os.WriteFile(name, b, 0o600))
}
