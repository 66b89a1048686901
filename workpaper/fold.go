package workpaper

import (
	"errors"
	"fmt"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// Out takes the rows of the populations as they are complete. The cells are
// the callee's until it returns.
type Out interface {
	Row(table string, cells []string) error
}

// OutFunc is a function as an Out.
type OutFunc func(table string, cells []string) error

// Row implements Out.
func (f OutFunc) Row(table string, cells []string) error { return f(table, cells) }

// Limits on what a fold holds. A gateway stays far below them; a forged pack
// ends with ErrTooMuch instead of the verifier's memory.
const (
	maxSessions = 1 << 18 // known at once
	maxCommands = 1 << 20 // open at once
	maxTokens   = 1 << 20 // unexpired at once
)

// ErrTooMuch is wrapped when more is open at once than a fold can hold.
var ErrTooMuch = errors.New("more is open at once than can be held")

// Decided is a decision as it was recorded, with everything that it was made
// from. It is what a replay needs.
type Decided struct {
	Head     *evidence.Head
	Registry *decision.Registry // at the record's own position
	Version  uint64             // number of registries before this one
	Request  decision.Request
	Recorded *evidence.Decision // the same pointer for intents with equal bodies
	Asker    *Asker             // the same pointer for sessions that ask alike
}

// Asker is what a session contributes to each of its decisions.
type Asker struct {
	Agent    string         `json:"agent"`
	Resource string         `json:"resource"`
	Facts    evidence.Facts `json:"facts"`
}

// Fold folds records into populations and tests.
type Fold struct {
	// Decided, when set, is called for each decision of the range.
	Decided func(*Decided) error
	// Told, when set, is given the transcripts of the sessions that have one, as
	// they end.
	Told func(*Transcript) error

	out      Out
	told     map[string][]string // of a fold of heads, by table; nil where bodies are there
	clock    clock
	registry *decision.Registry
	version  uint64
	opening  *decision.Registry // when the range begins; nil until then
	openedAt int64
	tests    *tests
	excepted uint64 // exceptions of all tests so far
	bodies   bodyCache

	first    evidence.Position // first record of the range
	last     evidence.Position // the last so far
	before   evidence.Position // the one before that
	lastTime int64
	records  uint64

	boot      *bootState
	sessions  map[evidence.Position]*session
	commands  map[evidence.Position]*command
	doubts    map[evidence.Position]doubt
	upstreams map[upstreamKey]evidence.Position
	authns    authns // successful ones that no session cites yet
	tokens    tokens
	activity  map[string]*activity // by agent
	grantUses map[string]*uses
	refusals  map[[2]string]uint64 // by agent and resource
	hours     hours
	approving *approving // the last record cites an approval
	alerts    []alertState
	alertAt   map[evidence.Position]int
	watch     watch
	outside   outside
	recon     reconState
	tickets   tickets

	upstreamConfigs upstreamConfigs

	retention  retention
	quarterEnd int64   // of the quarter that the newest record is in
	quarters   []Table // listings at the ends of those before
	keyUses    map[string]*uses
	askers     map[string]*Asker // by their encoding
	policies   map[string]bool   // digests recorded so far
	configs    map[string]bool
	counts     counts
	commandRow []string
	telling    telling

	sessionColumns, transcriptColumns []Column
	commandCells                      []int
}

// counts are the control totals.
type counts struct {
	sessionsCarried, sessionsStarted, sessionsRefused, sessionsEnded    uint64
	commandsCarried, commands, commandsEnded, commandsInDoubt, opaque   uint64
	allowed, denied, failed                                             uint64
	authnOK, authnFailed                                                uint64
	agentsCreated, agentsDisabled                                       uint64
	grantsCreated, grantsRemoved                                        uint64
	keysEnrolled, credentialsRevoked, tokensIssued                      uint64
	policyChanges, configChanges, boots, exports, alerts, gaps, crashed uint64
	keyChanges, backups, restores                                       uint64
	transactions, resolutions                                           uint64
	approvalsAsked, approvalsDecided, approvalsUsed                     uint64
	imports, suspended                                                  uint64
	violations, unseparated, kills, acks, down                          uint64
	reads, unsealed, packs, holds, erased                               uint64
	disposals, disposedBlocks                                           uint64
}

// NewFold returns a fold whose rows go to out.
func NewFold(out Out) *Fold {
	f := &Fold{
		out: out, registry: decision.New(), tests: newTests(), bodies: newBodyCache(),
		sessions: make(map[evidence.Position]*session),
		commands: make(map[evidence.Position]*command), doubts: make(map[evidence.Position]doubt), upstreams: make(map[upstreamKey]evidence.Position),
		authns: newAuthns(), tokens: newTokens(), activity: make(map[string]*activity),
		grantUses: make(map[string]*uses), keyUses: make(map[string]*uses),
		askers: make(map[string]*Asker), policies: make(map[string]bool), configs: make(map[string]bool),
		refusals: make(map[[2]string]uint64), hours: hours{byHour: make(map[int64]map[string]*hourCount)}, alertAt: make(map[evidence.Position]int),
		sessionColumns: columnsOf(sessionsTable), transcriptColumns: transcriptColumns(), commandCells: commandCells(),
		tickets: newTickets(), upstreamConfigs: newUpstreamConfigs(), watch: watch{detector: NewDetector(false), found: make(map[asked]bool)},
	}
	for _, t := range f.tests.all() {
		t.all = &f.excepted
	}
	return f
}

// Registry is the registry after the last record.
func (f *Fold) Registry() *decision.Registry { return f.registry }

// Opening folds a record from before the range, in log order. Those that the
// range needs are all control records, and the session.start, command.intent
// and gateway.start records that it refers to; others do no harm.
func (f *Fold) Opening(r *evidence.Record) error {
	h := &r.Head
	switch {
	case f.opening != nil:
		return fmt.Errorf("record %s of the opening comes after the range began", h.Pos)
	case h.Type.IsControl():
		f.control(r)
		f.watch.detector.Observe(h, r.Body)
	case h.Type == evidence.GatewayStart:
		f.boot = f.newBoot(r)
		f.boot.carried = true
	case h.Type == evidence.SessionStart && h.Effect == evidence.Allow:
		var b evidence.SessionStartBody
		readable := &b
		if !f.decode(r, &b) {
			readable = nil
		}
		if readable != nil || f.told != nil {
			s := f.newSession(r, readable)
			s.carried = true
			return f.addSession(s)
		}
	case h.Type == evidence.SessionEnd:
		delete(f.sessions, h.Session)
	case h.Type == evidence.CommandIntent && h.Outcome == "":
		return f.addCommand(&command{head: *h, intent: f.bodies.intent(r), carried: true})
	case h.Type == evidence.CommandResult:
		delete(f.commands, h.Of)
	}
	return nil
}

// Record folds the next record of the range.
func (f *Fold) Record(r *evidence.Record) error {
	before := f.excepted
	err := f.record(r)
	if f.excepted != before {
		f.place(&r.Head)
	}
	return err
}

// place gives new exceptions their context: that of the record at hand, or of
// what is open.
func (f *Fold) place(h *evidence.Head) {
	head := func(position string) *evidence.Head {
		if h != nil && position == h.Pos.String() {
			return h
		}
		p, err := evidence.ParsePosition(position)
		if err != nil {
			return nil
		}
		if c := f.commands[p]; c != nil {
			return &c.head
		}
		if s := f.sessions[p]; s != nil {
			return &s.head
		}
		return nil
	}
	for _, t := range f.tests.all() {
		t.place(head)
	}
}

func (f *Fold) record(r *evidence.Record) error {
	h := &r.Head
	if f.opening == nil {
		f.begin(h)
	}
	f.endQuarters(h.Time)
	if err := f.sequence(r); err != nil {
		return err
	}
	f.records++
	f.before, f.last, f.lastTime = f.last, h.Pos, h.Time
	f.watched(r)
	f.noticed(h)
	f.reconciledNext(h)
	f.recon.observe(h, r.Body)
	f.follow(r)
	if f.approving != nil || h.Type == evidence.ApprovalUse {
		f.used(r)
	}
	if h.Type.IsControl() {
		return f.controlInRange(r)
	}
	switch h.Type {
	case evidence.CommandIntent:
		return f.intent(r)
	case evidence.CommandResult:
		return f.result(r)
	case evidence.GatewayStart:
		return f.gatewayStart(r)
	case evidence.SessionStart:
		return f.sessionStart(r)
	case evidence.CommandContent:
		return f.content(r)
	case evidence.SessionUpstream, evidence.SessionNote, evidence.SessionEnd, evidence.TxEnd:
		return f.ofSession(r)
	case evidence.Authn:
		return f.authn(r)
	case evidence.CredentialIssue:
		return f.token(r)
	case evidence.GatewayStop:
		return f.gatewayStop(r)
	case evidence.RecordingGap:
		return f.gap(r)
	default:
		return f.other(r)
	}
}

// begin is called before the first record of the range.
func (f *Fold) begin(h *evidence.Head) {
	f.opening, f.openedAt, f.first = f.registry, h.Time, h.Pos
	if f.quarterEnd == 0 {
		f.quarterEnd = quarterAfter(h.Time)
	}
	if f.registry.Config() != "" { // the log began earlier, perhaps within the hour
		f.hours.from = h.Time/hourMicros + 1
	}
	// Commands and sessions of the opening show only if the range speaks of
	// them: whether the others were still open isn't known here.
}

// sequence checks the record's place against the one before, and the silence
// between the two.
func (f *Fold) sequence(r *evidence.Record) error {
	h := &r.Head
	f.tests.sequence.Population++
	if f.records > 0 && !continues(f.last, h.Pos) {
		f.tests.sequence.Except(h.Pos, "comes after %s", f.last)
	}
	if h.Type == evidence.GatewayStart {
		f.ordinal(h, 0)
		return nil
	}
	if f.boot == nil || f.boot.start.Boot != h.Pos.Boot {
		f.tests.boot.Except(h.Pos, "the gateway.start of boot %d is missing", h.Pos.Boot)
		if err := f.nextBoot(&bootState{start: evidence.Position{Gateway: h.Pos.Gateway, Boot: h.Pos.Boot}, at: h.Time, carried: true}); err != nil {
			return err
		}
	}
	f.silence(h)
	if h.Session.IsZero() {
		f.boot.n = f.ordinal(h, f.boot.n)
	} else if s := f.sessions[h.Session]; s != nil {
		s.n = f.ordinal(h, s.n)
	} else {
		f.ordinal(h, 0) // the first of its session, or of none that is open
	}
	return nil
}

// continues reports whether a record at next may come right after one at last.
func continues(last, next evidence.Position) bool {
	return last.Gateway == next.Gateway &&
		(next.Boot == last.Boot && next.Seq == last.Seq+1 || next.Boot > last.Boot && next.Seq == 0)
}

// ordinal checks that a record is the next of its key scope, whose last one is
// given, and returns its ordinal. A scope that began before the range may go on
// with any.
func (f *Fold) ordinal(h *evidence.Head, last uint64) uint64 {
	f.tests.scope.Population++
	first := h.Type == evidence.GatewayStart || h.Session == h.Pos
	if h.N == 0 || first && h.N != 1 || last != 0 && h.N != last+1 {
		f.tests.scope.Except(h.Pos, "ordinal %d follows %d in its scope", h.N, last)
	}
	return h.N
}

// decode decodes a record's body, and excepts it if that can't be done.
func (f *Fold) decode(r *evidence.Record, v any) bool {
	f.tests.bodies.Population++
	if err := evidence.DecodeBody(r.Body, v); err != nil {
		f.tests.bodies.Except(r.Head.Pos, "%.200s", err)
		return false
	}
	return true
}

// other folds records that concern no population.
func (f *Fold) other(r *evidence.Record) error {
	switch r.Head.Type {
	case evidence.PackExport, evidence.EvidenceRead:
		return f.evidenceRead(r)
	case evidence.PackMade:
		return f.packMade(r)
	case evidence.LogBackup:
		f.counts.backups++
	case evidence.LogRestore:
		f.counts.restores++
	case evidence.ImportSnapshot:
		return f.imported(r)
	case evidence.ReconRun:
		return f.reconRun(r)
	case evidence.OwnUpstream:
		var b evidence.OwnUpstreamBody
		if f.decode(r, &b) {
			f.ownRequest(&r.Head, &b)
		}
	case evidence.Alert:
		return f.alert(r)
	case evidence.AlertAck:
		f.acknowledged(r)
	case evidence.SessionKill:
		return f.killed(r)
	case evidence.Resolution:
		return f.resolution(r)
	case evidence.TimeStep:
		return f.timeStep(r)
	}
	return nil
}

func (f *Fold) controlInRange(r *evidence.Record) error {
	switch r.Head.Type {
	case evidence.AgentCreate:
		f.counts.agentsCreated++
	case evidence.AgentDisable:
		f.counts.agentsDisabled++
	case evidence.GrantCreate:
		f.counts.grantsCreated++
	case evidence.GrantRemove:
		f.counts.grantsRemoved++
	case evidence.CredentialEnroll:
		f.counts.keysEnrolled++
	case evidence.CredentialRevoke:
		f.counts.credentialsRevoked++
	case evidence.ApprovalRequest:
		f.counts.approvalsAsked++
	case evidence.ApprovalDecision:
		f.counts.approvalsDecided++
	case evidence.ApprovalUse:
		f.counts.approvalsUsed++
	}
	before := f.registry
	f.control(r)
	if f.registry != before {
		if err := errors.Join(f.separation(r, before), f.citing(r)); err != nil {
			return err
		}
	}
	switch r.Head.Type {
	case evidence.PolicyChange, evidence.ConfigChange, evidence.LogKey:
		return f.change(r)
	case evidence.LogHold, evidence.Redaction:
		return f.kept(r)
	case evidence.AgentDisable:
		return f.retired(r)
	case evidence.PersonLeave, evidence.PersonReturn:
		return f.leaves(r)
	case evidence.OwnerChange:
		f.resumed(r)
	case evidence.GrantRemove, evidence.CredentialRevoke:
		f.tests.afterRevoke.Population++
	}
	return nil
}

// control folds a control record into the registry.
func (f *Fold) control(r *evidence.Record) {
	f.tests.change.Population++
	next, err := f.registry.Apply(r.Head, r.Body)
	if r.Head.Type == evidence.Disposal {
		f.disposed(&r.Head, r.Body, f.registry, err)
		if err != nil {
			return
		}
	}
	if err != nil {
		f.refusedChange(&r.Head, err)
		return
	}
	f.registry = next
	f.version++
	if p := next.Policy(); p != "" {
		f.policies[p] = true
	}
	if c := next.Config(); c != "" {
		f.configs[c] = true
	}
}

func (f *Fold) row(table string, cells ...string) error {
	if f.told != nil && !f.headCells(table, cells) {
		return nil
	}
	if err := f.out.Row(table, cells); err != nil {
		return fmt.Errorf("writing a row of %s: %w", table, err)
	}
	return nil
}
