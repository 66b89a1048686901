package packtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/keys"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Origin is the origin of every synthetic log.
const Origin = "example.com/gw1"

// Times, in microseconds.
const (
	Millisecond = int64(1_000)
	Second      = 1000 * Millisecond
	Hour        = 3600 * Second
	Noon        = 1_800_000_000 * Second // 2027-01-15T08:00:00Z
)

// Bob approves what Alice asks for.
var Bob = evidence.By{Person: evidence.Person{ID: "bob@example.com", Name: "Bob Example", Email: "bob@example.com"}, Via: "unix peer uid 1001"}

// Alice does everything that a person must do.
var Alice = evidence.By{Person: evidence.Person{ID: "alice@example.com", Name: "Alice Example", Email: "alice@example.com"}, Via: "unix peer uid 1000"}

// Actions is the action tree of the synthetic policy.
var Actions = map[string][]string{
	"postgres:connect": {"connect"}, "postgres:select": {"read"}, "postgres:insert": {"write"},
	"postgres:drop": {"admin"}, "postgres:do": {"opaque"},
}

// Policy is the synthetic policy.
const Policy = `@id("reader")
permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);

@id("writer")
permit (principal in Role::"writer", action in [Action::"read", Action::"write", Action::"connect"], resource);

@id("cleaner")
@approval("dba")
permit (principal in Role::"cleaner", action in [Action::"write", Action::"connect"], resource);

@id("sampler")
@max_commands_per_hour("3")
permit (principal in Role::"sampler", action in [Action::"read", Action::"connect"], resource);
`

// Gateway writes one synthetic log.
type Gateway struct {
	Now      int64 // wall clock of the next record; advances by itself
	Registry *decision.Registry
	// Change, when set, may change each record before it is committed to.
	Change func(*evidence.Draft)
	Ticket string // that sessions are let in with
	// PerBlock is how many records make a block; Cut makes one earlier.
	PerBlock int
	// Stamped is what its checkpoints were stamped with (Stamp).
	Stamped []ledger.Stamped

	signer  note.Signer
	vkey    string
	pos     evidence.Position // of the next record
	own     *scope
	secrets map[[2]uint64]*evidence.Secret // by boot and slot
	erased  map[[2]uint64]bool
	slots   uint64
	pending []evidence.Record
	last    evidence.Position
	clean   bool
	config  string

	headers []ledger.Header
	blocks  fstest.MapFS
	save    func(name string, data []byte) // instead of into blocks
	tiles   fstest.MapFS
	stored  []tlog.Hash
	control int64
	grown   int // blocks in the tiles

	connections *workpaper.Connections
	upstream    workpaper.Upstream // of orders
	requests    *workpaper.Requests
	trail       workpaper.Trail // of prod
}

// scope is a key scope being written to.
type scope struct {
	body, sealed evidence.Salts
	slot         uint64
	session      evidence.Position
	n            uint64
}

// New returns a gateway that has never run.
func New() *Gateway {
	signer, vkey := LogKey("packtest log key")
	return &Gateway{
		Now: Noon, Registry: decision.New(), PerBlock: 64, signer: signer, vkey: vkey,
		secrets: make(map[[2]uint64]*evidence.Secret), erased: make(map[[2]uint64]bool),
		blocks: fstest.MapFS{}, tiles: fstest.MapFS{}, control: -1, config: "config-1", connections: workpaper.NewConnections(), requests: workpaper.NewRequests(),
	}
}

// LogKey is the key of the log that is made from a seed.
func LogKey(of string) (note.Signer, string) {
	seed := sha256.Sum256([]byte(of))
	key := ed25519.NewKeyFromSeed(seed[:])
	vkey, err := note.NewEd25519VerifierKey(Origin, key.Public().(ed25519.PublicKey))
	must(err)
	v, err := note.NewVerifier(vkey)
	must(err)
	skey := fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", Origin, v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...)))
	signer, err := note.NewSigner(skey)
	must(err)
	return signer, vkey
}

// Rotate puts the key made from a seed in force.
func (g *Gateway) Rotate(to string) evidence.Position {
	next, vkey := LogKey(to)
	b := evidence.LogKeyBody{Change: ledger.KeyRotated, Old: g.vkey, New: vkey, Reason: "yearly", By: Alice}
	pos := g.changeKeys(b, g.signer, next)
	g.signer, g.vkey = next, vkey
	return pos
}

// Revoke says that the key made from a seed is not to be believed any more.
func (g *Gateway) Revoke(of string) evidence.Position {
	_, vkey := LogKey(of)
	return g.changeKeys(evidence.LogKeyBody{Change: ledger.KeyRevoked, Old: vkey, New: g.vkey, Reason: "copied", By: Alice}, g.signer)
}

func (g *Gateway) changeKeys(b evidence.LogKeyBody, by ...note.Signer) evidence.Position {
	cp := g.Checkpoint()
	b.Size, b.Root = cp.Size, cp.Root
	must(ledger.SignKeyChange(Origin, &b, by...))
	return g.Own(evidence.LogKey, b)
}

// SignAs has checkpoints and packs signed by the key made from a seed from here
// on, whatever the records say.
func (g *Gateway) SignAs(of string) { g.signer, _ = LogKey(of) }

func must(err error) {
	if err != nil {
		panic("packtest: " + err.Error())
	}
}

// VerifierKey is the log's key in the form of a trust file.
func (g *Gateway) VerifierKey() string { return g.vkey }

// Signer is the log's key.
func (g *Gateway) Signer() note.Signer { return g.signer }

// Boot starts the gateway once more and ends what a crash left open.
func (g *Gateway) Boot() {
	g.Cut()
	g.pos = evidence.Position{Gateway: "gw1", Boot: g.pos.Boot + 1}
	g.slots = 0
	g.own = g.scope(0)
	g.Record(g.own, &evidence.Draft{Head: evidence.Head{Type: evidence.GatewayStart}, Body: evidence.EncodeBody(evidence.GatewayStartBody{
		Previous: g.last, Clean: g.clean, Version: "1.0.0", Binary: "b1", Config: g.config, Policy: decision.Digest(policyFiles(), Actions),
		FailMode: "closed", Heartbeat: 60, Host: "gw1.example.com", Origin: Origin, LogKey: g.vkey,
	})})
	g.clean = false
}

// Stop stops it in good order.
func (g *Gateway) Stop() {
	g.Own(evidence.GatewayStop, evidence.GatewayStopBody{Reason: "asked to"})
	g.clean = true
}

// Beat records a heartbeat.
func (g *Gateway) Beat() evidence.Position {
	return g.Own(evidence.Heartbeat, evidence.HeartbeatBody{})
}

// Own records something outside sessions and returns its position.
func (g *Gateway) Own(t evidence.Type, body any) evidence.Position {
	if b, ok := body.(evidence.PolicyBody); ok && b.Signature == "" {
		must(ledger.SignPolicy(Origin, &b, g.signer))
		body = b
	}
	d := &evidence.Draft{Head: evidence.Head{Type: t}, Body: evidence.EncodeBody(body)}
	switch b := body.(type) {
	case evidence.AgentBody:
		d.Head.Agent = b.Agent
	case evidence.GrantBody:
		d.Head.Agent, d.Head.Resource = b.Agent, b.Resource
	}
	g.Record(g.own, d)
	return d.Head.Pos
}

// OwnRecord records a draft outside sessions, for heads that say more.
func (g *Gateway) OwnRecord(d *evidence.Draft) evidence.Position {
	g.Record(g.own, d)
	return d.Head.Pos
}

func policyFiles() []evidence.File { return []evidence.File{{Name: "roles.cedar", Text: Policy}} }

// Organise brings configuration, policy, one agent with a key, and a grant on
// the resource orders, which it returns.
func (g *Gateway) Organise(agent, role string) (grant evidence.Position) {
	if g.Registry.Config() == "" {
		g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: g.config, Text: "resources: [orders]\n", By: Alice,
			Resources: []evidence.Resource{{Name: "orders", Protocol: "postgres", Durability: "power"}}})
		g.Own(evidence.PolicyChange, evidence.PolicyBody{Digest: decision.Digest(policyFiles(), Actions), Files: policyFiles(), Actions: Actions, By: Alice})
	}
	g.Own(evidence.AgentCreate, evidence.AgentBody{Agent: agent, Purpose: "pays bills", Owner: Alice.Person, By: Alice})
	public, thumbprint := key(agent)
	g.Own(evidence.CredentialEnroll, evidence.CredentialBody{ID: agent + "-key", Agent: agent, Kind: "key", PublicKey: public, Thumbprint: thumbprint,
		NotBefore: g.Now, NotAfter: g.Now + 24*Hour, By: Alice})
	return g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: agent, Role: role, Resource: "orders", Ticket: "OPS-1", Expires: g.Now + 8*Hour, By: Alice})
}

func key(agent string) (public, thumbprint string) {
	sum := sha256.Sum256([]byte("key of " + agent))
	public = base64.RawURLEncoding.EncodeToString(sum[:])
	thumbprint, err := decision.Thumbprint(public)
	must(err)
	return public, thumbprint
}

// Separate puts a configuration in force under which rights need two people:
// Bob approves.
func (g *Gateway) Separate() {
	g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-separated", Before: g.Registry.Config(), Text: "rights: {separation: required}\n", By: Alice,
		Resources:  []evidence.Resource{{Name: "orders", Protocol: "postgres", Durability: "power", Owner: Bob.Person.ID}},
		People:     []evidence.Member{{ID: Alice.Person.ID}, {ID: Bob.Person.ID, Groups: []string{"dba"}}},
		Separation: evidence.SeparationRequired,
	})
}

// Request asks for a grant on orders.
func (g *Gateway) Request(agent, role string) evidence.Position {
	s := evidence.GrantScope{Agent: agent, Role: role, Resource: "orders", Expires: g.Now + 8*Hour}
	return g.Own(evidence.ApprovalRequest, evidence.ApprovalRequestBody{
		Kind: evidence.ApproveGrant, Digest: decision.ScopeDigest(s), Grant: &s, Ticket: "OPS-7", Reason: "to be tested",
		Needs: []evidence.ApprovalNeed{{Group: evidence.GroupResource, Count: 1}}, Expires: g.Now + Hour, By: Alice,
	})
}

// Approve records that somebody approved a request.
func (g *Gateway) Approve(request evidence.Position, by evidence.By) evidence.Position {
	a, _ := g.Registry.Approval(request.String())
	groups := g.Registry.Groups(&a.ApprovalRequestBody, by.Person.ID)
	if groups == nil {
		groups = []string{a.Needs[0].Group} // a lie, which the registry doesn't take
	}
	return g.Own(evidence.ApprovalDecision, evidence.ApprovalDecisionBody{Request: a.ID, Digest: a.Digest, Decision: evidence.Approved, Groups: groups, By: by})
}

// Grant makes the grant of a request.
func (g *Gateway) Grant(request evidence.Position, by evidence.By) evidence.Position {
	a, _ := g.Registry.Approval(request.String())
	return g.Own(evidence.GrantCreate, a.GrantOf(by))
}

// Session is one open session.
type Session struct {
	g               *Gateway
	scope           *scope
	Agent, Resource string
	facts           evidence.Facts
	bytes           uint64
	commands        uint64
	denied          uint64
	decided         map[string]decided
}

type decided struct {
	body     []byte
	decision evidence.Decision
	registry *decision.Registry
}

// Token issues a token to an agent.
func (g *Gateway) Token(agent string) (id string) {
	_, thumbprint := key(agent)
	id = fmt.Sprintf("%s%d-%d", decision.TokenPrefix, g.pos.Boot, g.pos.Seq)
	g.Own(evidence.CredentialIssue, evidence.CredentialBody{ID: id, Agent: agent, Kind: "token", Thumbprint: thumbprint, Issuer: Origin,
		NotBefore: g.Now, NotAfter: g.Now + Hour, By: evidence.By{Via: "gateway"}})
	return id
}

// Open authenticates an agent and lets it in; nil means that it was refused.
func (g *Gateway) Open(agent, resource string) *Session {
	token := g.Token(agent)
	_, thumbprint := key(agent)
	authn := &evidence.Draft{Head: evidence.Head{Type: evidence.Authn, Agent: agent, Outcome: evidence.OK}, Body: evidence.EncodeBody(evidence.AuthnBody{
		Protocol: "postgres", Method: "token", Credential: token, Key: thumbprint, TokenHash: "h", Client: "192.0.2.7:40000", Listener: "postgres",
	})}
	g.Record(g.own, authn)
	owner, _ := g.Registry.Agent(agent)
	s := &Session{g: g, Agent: agent, Resource: resource, decided: make(map[string]decided), facts: evidence.Facts{"protocol": "postgres", "tls": true}}
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.SessionStart, Agent: agent, Resource: resource, Verb: evidence.VerbConnect, Time: g.Now}}
	body := evidence.SessionStartBody{
		Protocol: "postgres", Agent: agent, Owner: owner.Owner, PType: "self", Ticket: g.Ticket, Credential: token, Authn: authn.Head.Pos.String(),
		Client: "192.0.2.7:40000", Listener: "postgres", TLS: "TLS 1.3", Upstream: "db.example.com:5432", User: "app", Database: "orders",
		Durability: "power", Mode: "enforce", Context: s.facts, Checks: []evidence.Check{{Action: "postgres:connect"}},
	}
	body.Decision = g.Registry.Decide(decision.Request{Agent: agent, Resource: resource, Time: g.Now, Checks: body.Checks, Session: s.facts, Path: evidence.PathConnect})
	d.Head.Effect, d.Body = body.Effect, evidence.EncodeBody(body)
	if body.Effect != evidence.Allow {
		d.Head.Outcome = evidence.Denied
		g.Record(g.own, d)
		return nil
	}
	g.slots++
	s.scope = g.scope(g.slots)
	s.scope.session = g.pos
	d.Head.Key = g.slots
	g.Record(s.scope, d)
	s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.SessionUpstream, Agent: agent, Resource: resource}, Body: evidence.EncodeBody(evidence.SessionUpstreamBody{
		Local: fmt.Sprintf("198.51.100.1:%d", 1024+g.slots%60000), Remote: "198.51.100.9:5432", Server: "15.20", TLS: "TLS 1.3", System: "7000000000000000001", PID: uint32(g.slots),
	})})
	return s
}

// Record records something of the session.
func (s *Session) Record(d *evidence.Draft) evidence.Position {
	s.g.Record(s.scope, d)
	return d.Head.Pos
}

// ID is the session's.
func (s *Session) ID() evidence.Position { return s.scope.session }

// Ask records the intent of a command, and returns it with whether it was
// allowed.
func (s *Session) Ask(text, action, object string) (evidence.Position, bool) {
	return s.ask(text, action, object, "", "")
}

// AskLimited records a command that a limit refused.
func (s *Session) AskLimited(text, action, object, limit string) {
	s.ask(text, action, object, "", limit)
}

// AskApproved records a command that a request for an approval was for, and
// that it was used.
func (s *Session) AskApproved(text, action, object string, request evidence.Position) evidence.Position {
	p, _ := s.ask(text, action, object, request.String(), "")
	s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.ApprovalUse, Agent: s.Agent, Resource: s.Resource, Of: p},
		Body: evidence.EncodeBody(evidence.ApprovalUseBody{Request: request.String(), Digest: held})})
	return p
}

// held is the digest of every command that waits for an approval.
const held = "hmac-of-the-command"

// Hold asks people to approve a command of the session.
func (s *Session) Hold(text, action, object string) evidence.Position {
	return s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.ApprovalRequest, Agent: s.Agent, Resource: s.Resource}, Body: evidence.EncodeBody(evidence.ApprovalRequestBody{
		Kind: evidence.ApproveCommand, Digest: held, Needs: []evidence.ApprovalNeed{{Group: "dba", Count: 1}}, Expires: s.g.Now + Hour,
		By: evidence.By{Person: Alice.Person, Via: "agent " + s.Agent},
		Command: &evidence.HeldCommand{Session: s.scope.session, Agent: s.Agent, Resource: s.Resource, Verb: evidence.VerbWrite, Text: text,
			Checks: []evidence.Check{{Action: action, Object: object}}, Rules: []string{"cleaner"}},
	})})
}

func (s *Session) ask(text, action, object, approval, limit string) (evidence.Position, bool) {
	g := s.g
	known, ok := s.decided[text]
	if !ok || approval != "" || limit != "" || known.registry != g.Registry || known.decision.Until != 0 && g.Now >= known.decision.Until {
		checks := []evidence.Check{{Action: action, Object: object}}
		known = decided{registry: g.Registry, decision: g.Registry.Decide(decision.Request{
			Agent: s.Agent, Resource: s.Resource, Time: g.Now, Checks: checks, Session: s.facts, Path: "extended",
			Approval: approval, Limit: limit,
		})}
		known.body = evidence.EncodeBody(evidence.IntentBody{Path: "extended", Parse: evidence.ParseFull, Text: text, Checks: checks, Decision: known.decision})
		s.decided[text] = known
	}
	d := &evidence.Draft{
		Head: evidence.Head{Type: evidence.CommandIntent, Agent: s.Agent, Resource: s.Resource, Verb: evidence.VerbRead, Effect: known.decision.Effect, Frames: 5, Bytes: 120, Time: g.Now},
		Body: known.body, Sealed: []byte(asked),
	}
	s.commands++
	if known.decision.Effect != evidence.Allow {
		d.Head.Outcome = evidence.Denied
		s.denied++
		return s.Record(d), false
	}
	s.bytes += d.Head.Bytes
	return s.Record(d), true
}

// End records the outcome of a command.
func (s *Session) End(of evidence.Position, outcome evidence.OutcomeClass) {
	s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Of: of, Outcome: outcome, Rows: 1, Reply: 88, Micros: 543}})
}

// Do asks a command and, if it is allowed, ends it well.
func (s *Session) Do(text, action, object string) {
	if p, allowed := s.Ask(text, action, object); allowed {
		s.End(p, evidence.OK)
	}
}

// Block does a command between BEGIN and COMMIT and returns the first and the
// last intent of that transaction.
func (s *Session) Block(text, action, object string) (first, last evidence.Position) {
	ask := func(text, action, object string) evidence.Position {
		p, _ := s.Ask(text, action, object)
		s.End(p, evidence.OK)
		return p
	}
	first = ask("BEGIN", "postgres:select", "")
	ask(text, action, object)
	return first, ask("COMMIT", "postgres:select", "")
}

// Commit records that a transaction of three commands was committed.
func (s *Session) Commit(first, last evidence.Position) {
	s.Record(&evidence.Draft{
		Head: evidence.Head{Type: evidence.TxEnd, Agent: s.Agent, Resource: s.Resource, Of: first},
		Body: evidence.EncodeBody(evidence.TxEndBody{Result: "commit", Block: true, First: first, Last: last, Commands: 3}),
	})
}

// Resolve records what became of a command in doubt.
func (s *Session) Resolve(of evidence.Position) {
	s.g.Record(s.g.own, &evidence.Draft{
		Head: evidence.Head{Type: evidence.Resolution, Agent: s.Agent, Resource: s.Resource, Of: of},
		Body: evidence.EncodeBody(evidence.ResolutionBody{Result: "rolled_back", How: "its connection is gone and its transaction was not committed"}),
	})
}

// Close ends the session.
func (s *Session) Close() {
	s.Record(&evidence.Draft{
		Head: evidence.Head{Type: evidence.SessionEnd, Agent: s.Agent, Resource: s.Resource, Of: s.scope.session, Bytes: s.bytes, Micros: 1},
		Body: evidence.EncodeBody(evidence.SessionEndBody{Reason: "terminate", Commands: s.commands, Denied: s.denied}),
	})
}

// Lost ends the session as the boot after a crash does.
func (s *Session) Lost(open ...evidence.Position) {
	for _, p := range open {
		s.Record(&evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Of: p, Outcome: evidence.InDoubt}})
	}
	s.Record(&evidence.Draft{
		Head: evidence.Head{Type: evidence.SessionEnd, Agent: s.Agent, Resource: s.Resource, Of: s.scope.session, Outcome: evidence.InDoubt},
		Body: evidence.EncodeBody(evidence.SessionEndBody{Reason: "gateway crashed"}),
	})
}

// scope returns a new key scope of the boot.
func (g *Gateway) scope(slot uint64) *scope {
	id := [2]uint64{g.pos.Boot, slot}
	secret := secretOf(g.pos.Boot, slot)
	g.secrets[id] = &secret
	return &scope{slot: slot, body: evidence.NewSalts(secret.Derive(evidence.LabelBody)), sealed: evidence.NewSalts(secret.Derive(evidence.LabelSealed))}
}

// Erase destroys the secret of a session.
func (g *Gateway) Erase(s *Session) { g.erased[[2]uint64{s.scope.session.Boot, s.scope.slot}] = true }

// Record gives a draft its place and appends it to the log.
func (g *Gateway) Record(sc *scope, d *evidence.Draft) {
	h := &d.Head
	sc.n++
	h.Pos, h.Session, h.N = g.pos, sc.session, sc.n
	if h.Time == 0 {
		h.Time = g.Now
	}
	g.Now += Millisecond
	if g.Change != nil {
		g.Change(d)
	}
	r := evidence.Record{Body: d.Body}
	h.HasBody, h.HasSealed = len(d.Body) > 0, len(d.Sealed) > 0
	var body evidence.Hash
	if h.HasBody {
		body = evidence.BodyHash(sc.body.Salt(h.N), d.Body)
	}
	if h.HasSealed {
		r.SealedHash = evidence.SealedHash(sc.sealed.Salt(h.N), d.Sealed)
	}
	if h.HasBody || h.HasSealed {
		h.Commitment = evidence.Commit(body, r.SealedHash)
	}
	if next, err := g.Registry.Apply(*h, d.Body); err == nil {
		g.Registry = next
	}
	r.Head, r.HeadBytes = *h, evidence.AppendHead(nil, h)
	g.connections.Observe(h, d.Body)
	if resource, ok := g.Registry.Resource(h.Resource); ok || h.Type == evidence.CommandResult {
		g.requests.Observe(h, d.Body, &resource)
	}
	g.pending = append(g.pending, r)
	g.last = g.pos
	g.pos.Seq++
	if len(g.pending) >= g.PerBlock {
		g.Cut()
	}
}

// Cut seals what is pending into a block.
func (g *Gateway) Cut() {
	if len(g.pending) == 0 {
		return
	}
	h := ledger.Header{Origin: Origin, Block: uint64(len(g.headers)), PrevControl: g.control}
	if n := len(g.headers); n > 0 {
		h.Prev = g.headers[n-1].Hash()
	}
	sealed := []ledger.Chunk{}
	h, file, err := ledger.Build(h, g.pending, sealed)
	must(err)
	g.Seal(h, file)
	g.pending = nil
}

// Seal adds a block to the log, whatever it holds.
func (g *Gateway) Seal(h ledger.Header, file []byte) {
	if g.save != nil {
		g.save(ledger.BlockPath(h.Block), file)
	} else {
		g.blocks[ledger.BlockPath(h.Block)] = &fstest.MapFile{Data: file}
	}
	hashes, err := tlog.StoredHashes(int64(len(g.headers)), h.Encode(), g)
	must(err)
	g.stored = append(g.stored, hashes...)
	g.headers = append(g.headers, h)
	if h.Control {
		g.control = int64(h.Block)
	}
}

// ReadHashes implements tlog.HashReader.
func (g *Gateway) ReadHashes(index []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(index))
	for i, n := range index {
		list[i] = g.stored[n]
	}
	return list, nil
}

// Checkpoint is the log's as it stands.
func (g *Gateway) Checkpoint() ledger.Checkpoint {
	g.Cut()
	root, err := tlog.TreeHash(int64(len(g.headers)), g)
	must(err)
	return ledger.Checkpoint{Origin: Origin, Size: uint64(len(g.headers)), Root: evidence.Hash(root)}
}

// Headers are those of the blocks so far.
func (g *Gateway) Headers() []ledger.Header { return g.headers }

// Stamp has everything sealed so far stamped by token, which is given the signed
// checkpoint.
func (g *Gateway) Stamp(token func(checkpoint []byte) []byte) {
	cp := g.Checkpoint()
	signed, err := note.Sign(&note.Note{Text: cp.Text()}, g.signer)
	must(err)
	g.Stamped = append(g.Stamped, ledger.Stamped{Checkpoint: string(signed), Token: token(signed)})
}

// stamps is the file of stamped checkpoints.
func (g *Gateway) stamps() (io.ReadCloser, error) {
	var b bytes.Buffer
	for i := range g.Stamped {
		line, err := g.Stamped[i].Encode()
		must(err)
		b.Write(line)
	}
	return io.NopCloser(&b), nil
}

// Source seals everything and returns what a pack is made from. More signers
// are witnesses.
func (g *Gateway) Source(witnesses ...note.Signer) pack.Source {
	cp := g.Checkpoint()
	for _, t := range tlog.NewTiles(8, int64(g.grown), int64(cp.Size)) {
		data, err := tlog.ReadTileData(t, g)
		must(err)
		g.tiles[ledger.TilePath(t.L, uint64(t.N), t.W)] = &fstest.MapFile{Data: data}
	}
	for from := g.grown &^ 255; from < len(g.headers); from += 256 {
		var bundle []byte
		width := min(256, len(g.headers)-from)
		for _, h := range g.headers[from : from+width] {
			e := h.Encode()
			bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(e))), e...)
		}
		g.tiles[ledger.EntriesPath(uint64(from/256), width)] = &fstest.MapFile{Data: bundle}
	}
	g.grown = len(g.headers)
	signed, err := note.Sign(&note.Note{Text: cp.Text()}, append([]note.Signer{g.signer}, witnesses...)...)
	must(err)
	g.tiles[ledger.CheckpointPath] = &fstest.MapFile{Data: signed}
	return pack.Source{Archive: archive{g.blocks}, Log: g.tiles, Seeds: g, Sealed: sealed{g}, Signer: g.signer, Stamps: g.stamps}
}

// BodySeed implements pack.Seeds.
func (g *Gateway) BodySeed(boot, slot uint64) ([32]byte, error) {
	id := [2]uint64{boot, slot}
	if g.erased[id] {
		return [32]byte{}, keys.ErrShredded
	}
	s, ok := g.secrets[id]
	if !ok {
		return [32]byte{}, fmt.Errorf("no secret %d.%d", boot, slot)
	}
	return s.Derive(evidence.LabelBody), nil
}

type archive struct{ fs.FS }

func (a archive) Get(_ context.Context, name string) ([]byte, error) { return fs.ReadFile(a.FS, name) }
