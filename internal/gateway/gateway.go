// Package gateway is one running gateway: it opens a data directory, ends what
// a crash left open, serves agents, and answers people.
//
// In flow Settings, which cmd/ makes from the configuration; out flow records
// of everything that happens. The package joins the others and decides
// nothing: who may do what is decision's, what a record is is recorder's, when
// it is safe is journal's and seal's.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/archive"
	"github.com/exhibit-gateway/exhibit/internal/export/sink"
	"github.com/exhibit-gateway/exhibit/internal/failpoint"
	"github.com/exhibit-gateway/exhibit/internal/identity"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/listener"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/internal/session"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Settings are what a gateway is told. Config and Policy are the bodies of the
// records that put them in force; who did so and what was before is filled in.
type Settings struct {
	Name         string // in every position
	Organisation string
	Origin       string // of the log
	Data         string // directory
	Version      string
	Binary       string // SHA-256 of the executable, hex

	People     []evidence.Person
	Recipients []age.Recipient // auditors
	Auditors   []string        // the same, as written
	Config     evidence.ConfigBody
	Policy     evidence.PolicyBody                 // of the policy folder
	Unread     error                               // why there is none
	Folder     func() (evidence.PolicyBody, error) // reads the folder again; may be nil
	Vocabulary policy.Vocabulary                   // what policies can speak of
	Resources  []Resource

	Alerts  []alert.Target // told of alerts
	Telling string         // the same, as written

	Sinks   []sink.Target // delivered the log
	Sinking string        // the same, as written

	InForce func() // called once the settings are in force; may be nil

	Limits    session.Limits
	Listening []string // addresses, to say what a reload can't change
	TokenTTL  time.Duration

	RequestTTL time.Duration // how long a request for an approval waits; 0 is DefaultRequestTTL

	Grace     time.Duration // for sessions to end when the gateway stops
	Heartbeat time.Duration // longest silence in the log
	Sealing   Sealing
	Witnesses []seal.Witness
	Quorum    int // of them; 0 is all
	Stamping  Stamping
	Known     []ledger.Checkpoint // that somebody kept: the log must have grown from them

	clock clock // of tests; nil is the system's
}

// The parts of a data directory, with the keystore (material.go).
const (
	journalDir = "journal"
	archiveDir = "archive"
	logDir     = "log"
	keysDir    = "keys"

	witnessedFile = "witnessed" // the newest checkpoint with a quorum of cosignatures
)

// Stamping says who stamps checkpoints, and how often; zero values are seal's
// defaults.
type Stamping struct {
	Authorities       []seal.Authority
	Interval, Timeout time.Duration
}

// Equal reports whether two are the same.
func (s Stamping) Equal(o Stamping) bool {
	return s.Interval == o.Interval && s.Timeout == o.Timeout && slices.EqualFunc(s.Authorities, o.Authorities, seal.Authority.Equal)
}

// Sealing bounds how far the log may be behind the journal.
type Sealing struct {
	Interval         time.Duration
	BlockBytes       int
	MaxUnsealedAge   time.Duration
	MaxUnsealedBytes int64
}

// Resource is where a resource leads.
type Resource struct {
	evidence.Resource
	// Upstream resolves address and credential; it is called for each session,
	// so that a rotated password counts.
	Upstream func() (protocol.Upstream, error)
	Log      UpstreamLog
}

// Explainer says how a statement to an upstream is understood.
type Explainer interface {
	Explain(ctx context.Context, resource, statement string) (*evidence.Shape, error)
}

// Gateway is one boot of one gateway.
type Gateway struct {
	log    *slog.Logger
	reload func() (Settings, error)

	journal    *journal.Journal
	archive    *archive.Folder
	keys       *keys.Store
	sealer     *seal.Sealer
	marker     *marker
	recorder   *recorder.Recorder
	authority  *identity.Authority
	assertions *identity.Assertions
	material   *material
	gate       *session.Gate
	watcher    *watcher
	sender     *alert.Sender
	sinks      *sink.Runner
	clock      clock
	began      time.Time     // by the wall clock
	beganAt    time.Duration // by the other

	opened     Settings                     // as they were when the boot began; what a reload can't change
	explain    map[string]Explainer         // by protocol
	resolvers  map[string]protocol.Resolver // by protocol
	counters   map[string]Counter           // by protocol
	accounts   map[string]Account           // by protocol
	snapshotAt uint64                       // version of the registry as it was last recorded whole
	doubtful   []evidence.Head              // starts of sessions that a crash left with commands in doubt
	listeners  []*listener.Listener

	acknowledging sync.Mutex
	disposing     sync.Mutex                  // one disposal at a time
	changing      sync.Mutex                  // one change of configuration, policy or keys at a time
	stopping      chan struct{}               // closed when the gateway begins to
	followers     atomic.Int32                // of transcripts
	logKeys       atomic.Pointer[ledger.Keys] // by position: also what isn't sealed yet
	answering     sync.Mutex                  // one answer to a request at a time
	holds         Holds                       // commands that wait; nil is none
	wishes        wishes                      // of agents
	live          atomic.Pointer[Settings]
	resources     atomic.Pointer[map[string]Resource]
	folder        watched // the policy folder
	reconciling   sync.Mutex
	counted       map[string]*workpaper.Upstream // by resource: what is remembered from run to run; under reconciling
	rights        Rights                         // of clusters; nil is nobody
	clusterLog    *clusterLog                    // of clusters; under reconciling
	readiness     readiness
	packs         keptPacks
}

// Open opens the data directory of s, records the start of a boot, ends what
// the boot before left open, and puts configuration and policy in force.
// Reload reads both again. The gateway serves nobody before Run.
func Open(ctx context.Context, s Settings, reload func() (Settings, error), log *slog.Logger) (_ *Gateway, err error) {
	g := &Gateway{log: log, reload: reload, opened: s, clock: s.clock, packs: keptPacks{dir: filepath.Join(s.Data, packsDir), every: packMarks}, stopping: make(chan struct{}),
		folder: watched{seen: make(map[string]time.Duration), alerted: make(map[string]bool)}}
	if g.clock == nil {
		g.clock = system{}
	}
	g.began, g.beganAt = g.clock.now(), g.clock.elapsed()
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if err := g.openStores(ctx, s); err != nil {
		return nil, err
	}
	g.sinks = g.newSinks()
	mark, registry, version, err := g.fold(ctx)
	if err != nil {
		return nil, err
	}
	if err := usable(registry, &s); err != nil {
		return nil, err
	}
	g.opened.Policy, _ = standing(registry, &s)
	past := &mark.Past
	g.marker.begin(mark.Clone())
	if err := g.boot(ctx, past, registry, version, mark.Tally); err != nil {
		return nil, err
	}
	if err := g.recordNoted(ctx); err != nil {
		return nil, err
	}
	if err := g.recognise(past.Last.IsZero()); err != nil {
		return nil, err
	}
	if err := g.putInForce(ctx, s, evidence.By{Via: "gateway start"}); err != nil {
		return nil, err
	}
	g.compareFolder(&s, true)
	approvals, err := g.keys.Derive(labelApprovals)
	if err != nil {
		return nil, err
	}
	g.gate = session.NewGate(session.Config{
		Recorder:      sessionRecorder{g.recorder},
		Authenticator: authenticator{g.authority},
		Upstreams:     g,
		Ready:         g.sealer.Ready,
		Limits:        s.Limits,
		Holds:         session.Holds{Key: approvals},
		FailurePause:  session.DefaultFailurePause,
		Now:           g.clock.now,
	})
	g.holds = g.gate
	return g, nil
}

// labelApprovals names the key of the digests of commands that people approve.
// It outlives a boot: what was approved before it counts after.
const labelApprovals = "exhibit/v1/approval"

// Gate is where protocols open sessions.
func (g *Gateway) Gate() *session.Gate { return g.gate }

// Serve adds a listener to what Run serves. Call it before Run.
func (g *Gateway) Serve(l *listener.Listener) { g.listeners = append(g.listeners, l) }

// ExplainWith says who explains what is asked of resources of a protocol. Call
// it before Run.
func (g *Gateway) ExplainWith(protocol string, e Explainer) {
	if g.explain == nil {
		g.explain = make(map[string]Explainer)
	}
	g.explain[protocol] = e
}

// Identify tells an upstream for whom the gateway asks (identity.Authority).
func (g *Gateway) Identify(id protocol.Identity, session, resource string) (jwt string, until time.Time, err error) {
	return g.authority.Identify(id.Agent, id.Principal, id.Ticket, session, resource, g.clock.now())
}

// Keys are the public keys of the gateway's tokens and identities, as a JWK set
// (RFC 7517).
func (g *Gateway) Keys() []byte { return g.authority.JWKS() }

func (g *Gateway) openStores(ctx context.Context, s Settings) (err error) {
	if err := os.MkdirAll(s.Data, 0o700); err != nil {
		return fmt.Errorf("opening the data directory: %w", err)
	}
	// The journal comes first: it locks the directory.
	if g.journal, err = journal.Open(filepath.Join(s.Data, journalDir), journal.Options{}); errors.Is(err, journal.ErrLocked) {
		return fmt.Errorf("another gateway serves %s: end it first, or give this one a data folder of its own: %w", s.Data, err)
	} else if err != nil {
		return fmt.Errorf("opening the journal: %w", err)
	}
	if g.material, err = readMaterial(s.Data); err != nil {
		return err
	}
	if g.archive, err = archive.OpenFolder(filepath.Join(s.Data, archiveDir)); err != nil {
		return fmt.Errorf("opening the archive: %w", err)
	}
	if g.keys, err = keys.Open(filepath.Join(s.Data, keysDir), g.material.identity, s.Recipients); err != nil {
		return err
	}
	g.marker = newMarker(s.Data, g.log)
	g.authority = identity.NewAuthority(g.material.issuer, s.Name, s.TokenTTL)
	g.assertions = identity.NewAssertions(s.Name, g.began)
	g.sealer, err = seal.Open(ctx, seal.Config{
		Dir:              filepath.Join(s.Data, logDir),
		Origin:           s.Origin,
		Signer:           g.material.log,
		Next:             g.material.nextSigner(),
		Interval:         s.Sealing.Interval,
		MaxBytes:         s.Sealing.BlockBytes,
		MaxUnsealedAge:   s.Sealing.MaxUnsealedAge,
		MaxUnsealedBytes: s.Sealing.MaxUnsealedBytes,
		Witnessing:       seal.Witnessing{Witnesses: s.Witnesses, Quorum: s.Quorum, File: filepath.Join(s.Data, witnessedFile)},
		Stamping: seal.Stamping{
			Authorities: s.Stamping.Authorities, Interval: s.Stamping.Interval, Timeout: s.Stamping.Timeout,
			File: filepath.Join(s.Data, ledger.StampsFile), Alert: g.stampAlert,
		},
		Known:  s.Known,
		Logger: g.log,
		Cut:    g.marker.cut,
	}, g.journal, g.archive, g.keys)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	return nil
}

// fold reads what the boots before left: the registry, with the number of control
// records since its newest snapshot, and what is open.
func (g *Gateway) fold(ctx context.Context) (*recorder.Mark, *decision.Registry, uint64, error) {
	f, err := g.foldRegistry(ctx)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("folding the registry: %w", err)
	}
	g.knowDisposals(f.registry)
	if err := g.openKeys(f.from, f.keys); err != nil {
		return nil, nil, 0, err
	}
	if err := g.signedPolicy(f.registry); err != nil {
		return nil, nil, 0, err
	}
	mark, err := g.resume(ctx)
	if mark == nil && err == nil {
		mark, err = g.recount(ctx)
	}
	return mark, f.registry, f.since, err
}

// tally counts what agents have done in this hour, before this boot.
func (g *Gateway) tally(ctx context.Context) (t recorder.Tally, err error) {
	began := recorder.HourOf(g.began.UnixMicro()) * time.Hour.Microseconds()
	err = g.sealer.ScanSince(ctx, began, func(r *evidence.Record) error { t.Add(r); return nil })
	if err != nil {
		return t, fmt.Errorf("counting the commands of this hour: %w", err)
	}
	return t, nil
}

// boot starts the next boot: its keys, its first record, and the end of what a
// crash left open.
func (g *Gateway) boot(ctx context.Context, past *recorder.Past, registry *decision.Registry, version uint64, tally recorder.Tally) error {
	last, err := g.keys.LastBoot()
	if err != nil {
		return err
	}
	boot := max(last, past.Last.Boot) + 1
	scope, err := g.keys.NewBoot(boot)
	if err != nil {
		return err
	}
	failpoint.Hit("keys made")
	g.sender = alert.NewSender(g.opened.Alerts, g.log)
	g.watcher = newWatcher(g.opened.Name, registry.Separated(), g.sender)
	g.recorder = recorder.New(recorder.Config{
		Gateway: g.opened.Name, Boot: boot, Journal: g.journal, Keys: g.keys, Scope: scope,
		Registry: registry, Version: version, Tally: tally, Now: g.clock.now, Watch: g.watcher.observe,
	})
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("asking for the host's name: %w", err)
	}
	err = g.record(ctx, evidence.Power, evidence.GatewayStart, evidence.GatewayStartBody{
		Previous: past.Last, Clean: past.Clean || past.Last.IsZero(),
		Version: g.opened.Version, Binary: g.opened.Binary,
		Config: g.opened.Config.Digest, Policy: g.opened.Policy.Digest, FailMode: "closed",
		Heartbeat: int64(g.opened.Heartbeat / time.Second), Host: host,
		Origin: g.opened.Origin, LogKey: g.logKeys.Load().Current().Text,
	})
	if err != nil {
		return err
	}
	failpoint.Hit("boot recorded")
	open := past.Open()
	g.doubtful = past.Doubtful()
	doubts, err := g.recorder.Recover(ctx, past, g.keys)
	if err != nil {
		return err
	}
	if err := g.erase(); err != nil {
		return err
	}
	if open > 0 {
		g.log.Warn("the gateway did not stop in good order", "sessions_ended", open, "commands_in_doubt", doubts, "last", past.Last.String())
	}
	return nil
}

// record records something outside sessions.
func (g *Gateway) record(ctx context.Context, d evidence.Durability, t evidence.Type, body any) error {
	_, err := g.recorder.Own().Record(ctx, 0, d, &evidence.Draft{Head: evidence.Head{Type: t}, Body: evidence.EncodeBody(body)})
	return err
}

// errStopping is what agents are told when the gateway stops.
var errStopping = errors.New("the gateway is shutting down")

// Run serves until ctx is done, then ends in good order: no new sessions, the
// open ones ended, everything on record and sealed.
// With them it runs the other servers it is given.
func (g *Gateway) Run(ctx context.Context, others ...func(context.Context) error) error {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var tasks sync.WaitGroup
	failed := make(chan error, 5+len(g.listeners)+len(others))
	start := func(run func(context.Context) error, ctx context.Context) *sync.WaitGroup {
		var done sync.WaitGroup
		done.Add(1)
		tasks.Go(func() {
			defer done.Done()
			if err := run(ctx); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
		return &done
	}
	start(g.sealer.Run, background)
	start(func(ctx context.Context) error { g.gate.Run(ctx); return nil }, background)
	start(g.heartbeat, background)
	start(g.watch, background)
	start(g.watchFolder, background)
	start(g.sender.Run, background)
	start(g.sinks.Run, background)
	start(g.settleKeys, background)
	start(g.reconcileAll, background)
	start(g.keepReady, background)
	start(g.finishDisposals, background)
	accept, refuse := context.WithCancel(ctx)
	defer refuse()
	serving := []*sync.WaitGroup{start(g.resolve, accept)}
	for _, l := range g.listeners {
		serving = append(serving, start(l.Run, accept))
	}
	for _, run := range others {
		serving = append(serving, start(run, accept))
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
		g.log.Error("the gateway stops", "cause", cause)
	}
	open := g.gate.OpenSessions()
	g.gate.Stop(errStopping, g.opened.Grace)
	close(g.stopping)
	refuse()
	for _, s := range serving {
		s.Wait()
	}
	stop := g.stop(background, open, cause)
	g.deliverLast(background)
	cancel()
	tasks.Wait()
	return errors.Join(cause, stop, g.close())
}

// Abandon ends a gateway that never ran.
func (g *Gateway) Abandon() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.sealer.Run(ctx) }()
	close(g.stopping)
	stop := g.stop(ctx, 0, errors.New("could not start"))
	cancel()
	return errors.Join(stop, <-done, g.close())
}

// stop writes the last record of the boot and seals it. It says that nothing is
// open any more: what a later start needn't look for.
func (g *Gateway) stop(ctx context.Context, open int, cause error) error {
	if n := g.gate.OpenSessions(); n > 0 {
		return fmt.Errorf("%d sessions did not end: there is no stop on record, and the next start ends them", n)
	}
	reason := "asked to"
	if cause != nil {
		reason = "failure"
	}
	if err := g.raise(ctx); err != nil {
		return err
	}
	if err := g.record(ctx, evidence.Power, evidence.GatewayStop, evidence.GatewayStopBody{Reason: reason, Open: open}); err != nil {
		return fmt.Errorf("recording the stop: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, max(g.opened.Grace, 5*time.Second))
	defer cancel()
	if err := g.sealer.Flush(ctx); err != nil {
		// Nothing is lost: the journal has it, and the next boot seals it.
		g.log.Warn("the last records are not sealed yet; the next start seals them", "cause", err)
		return nil
	}
	stamping, cancel := context.WithTimeout(ctx, stopStamping)
	defer cancel()
	g.sealer.Stamp(stamping, false)
	return nil
}

// stopStamping is how long the end waits for a stamp of the last checkpoint,
// from authorities that stamped when last asked.
const stopStamping = 3 * time.Second

// stampAlert puts on record that time stamps need looking into. What comes while
// the gateway stops is in its log only: the last record is written.
func (g *Gateway) stampAlert(url string, lied bool, cause error) {
	select {
	case <-g.stopping:
		return
	default:
	}
	if lied {
		g.Alert("timestamp-false", "high", fmt.Sprintf("what time stamp authority %s answers is no time stamp to trust, and was not kept: %.300s", url, cause))
		return
	}
	g.Alert("timestamp-missing", "medium", fmt.Sprintf("time stamp authority %s has not stamped the log for long: %.300s", url, cause))
}

func (g *Gateway) close() error {
	var errs []error
	if g.sealer != nil {
		errs = append(errs, g.sealer.Close())
		g.marker.keep()
	}
	if g.journal != nil {
		errs = append(errs, g.journal.Close())
	}
	if g.keys != nil {
		errs = append(errs, g.keys.Close())
	}
	return errors.Join(errs...)
}

// Ready is nil while the gateway takes new sessions.
func (g *Gateway) Ready() error {
	if err := g.journal.Err(); err != nil {
		return err
	}
	return g.sealer.Ready()
}

// Alert records that a person should look.
func (g *Gateway) Alert(rule, severity, text string) {
	err := g.record(context.Background(), evidence.Process, evidence.Alert, evidence.AlertBody{Rule: rule, Severity: severity, Text: text})
	if err != nil {
		g.log.Error("an alert cannot be recorded", "rule", rule, "cause", err)
	}
}

// RecordImport records a snapshot of something outside.
func (g *Gateway) RecordImport(ctx context.Context, resource string, b evidence.ImportBody) error {
	_, err := g.recorder.Own().Record(ctx, 0, evidence.Process, &evidence.Draft{
		Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: resource}, Body: evidence.EncodeBody(b),
	})
	return err
}

// Services is what the API answers with.
func (g *Gateway) Services() api.Services {
	return api.Services{
		Agents: g, Credentials: g, Tokens: g, Grants: g, Questions: g,
		Log: g, Control: g, Packs: g, Sessions: g, Policies: g, Alerts: g, Approvals: g, Imports: g, Readiness: g,
	}
}

func (g *Gateway) accepted() (n uint64) {
	for _, l := range g.listeners {
		n += l.Stats().Accepted
	}
	return n
}

// Upstream implements session.Upstreams.
func (g *Gateway) Upstream(resource string) (protocol.Upstream, error) {
	r, ok := (*g.resources.Load())[resource]
	if !ok {
		return protocol.Upstream{}, fmt.Errorf("no resource %q is configured", resource)
	}
	return r.Upstream()
}

// sessionRecorder is a recorder as sessions see it.
type sessionRecorder struct{ r *recorder.Recorder }

func (s sessionRecorder) State() (*decision.Registry, uint64) {
	state := s.r.State()
	return state.Registry, state.Version
}

func (s sessionRecorder) Counted(agent string, t int64) (commands, writes int64) {
	return s.r.Counted(agent, t)
}

func (s sessionRecorder) Own() session.Chain { return s.r.Own() }

func (s sessionRecorder) NewChain() (session.Chain, error) { return s.r.NewChain() }
