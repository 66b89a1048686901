package workpaper

import (
	"bufio"
	"container/heap"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
)

// A fold that goes on for years is kept between runs of the program: what
// follows is its state as it is written. It is a cache, and of one program: who
// can't read it folds the log again. What only rows are made of isn't kept
// (state_test.go has the list); the tests come out the same.

type keptFold struct {
	Registry        []evidence.SnapshotBody
	RegistryVersion uint64
	OpenedAt        int64
	First           evidence.Position
	Last            evidence.Position
	Before          evidence.Position
	LastTime        int64
	Records         uint64
	Tests           map[string]keptTest
	Boot            *keptBoot
	Sessions        []keptSession
	Commands        []keptCommand
	Doubts          map[evidence.Position]keptDoubt
	Authns          [2]map[string]keptAuthn // young, old
	Tokens          []keptToken
	GrantUses       map[string]keptUses
	KeyUses         map[string]keptUses
	Hours           keptHoursOf
	Approving       *keptApproving
	Alerts          []keptAlert
	Watch           keptWatch
	Outside         keptOutside
	Recon           keptRecon
	Tickets         keptTickets
	UpstreamConfigs keptConfigs
	Policies        []string
	Configs         []string
	Counts          keptCounts
}

type keptTest struct {
	State      State
	Note       string
	Population uint64
	Failed     uint64
	Exceptions []Exception
}

type keptBoot struct {
	Start    evidence.Position
	At       int64
	Body     evidence.GatewayStartBody
	Carried  bool
	End      string
	Last     evidence.Position
	LastTime int64
	Records  uint64
	Silent   uint64
	Longest  int64
	Jump     *keptJump
	From     int64
	N        uint64
	Checked  bool
}

type keptJump struct {
	To evidence.Position
	At int64
	By int64
}

type keptSession struct {
	Head       evidence.Head
	Body       json.RawMessage
	Upstream   *evidence.SessionUpstreamBody
	Key        string
	Carried    bool
	Active     bool
	N          uint64
	Retired    int64
	Open       []evidence.Position
	Transacted evidence.Position
	Commands   uint64
	Denied     uint64
	Bytes      uint64
	CheckedAt  uint64
}

type keptCommand struct {
	Head    evidence.Head
	Carried bool
}

type keptDoubt struct {
	Agent, Resource string
	Session         evidence.Position
}

type keptAuthn struct{ Agent, Credential, Key string }

type keptToken struct {
	Head evidence.Head
	Body evidence.CredentialBody
}

type keptUses struct {
	N    uint64
	At   int64
	Last evidence.Position
}

type keptHoursOf struct {
	ByHour map[int64]map[string][2]int64
	Newest int64
	From   int64
}

type keptApproving struct {
	Pos     evidence.Position
	Request string
}

type keptAlert struct {
	Pos   evidence.Position
	At    int64
	Rule  string
	Heard int64
	Cells []string
}

type keptAsked struct {
	Rule    string
	Trigger evidence.Position
	Beats   int `json:",omitempty"`
}

type keptWatch struct {
	Separated bool
	Denials   map[string][2]int64
	Authn     [2]int64
	Keys      map[string]keptSeen
	Due       []keptAsked
	Found     []keptAsked
	Whole     bool
}

type keptSeen struct {
	Hour   int64
	Host   string
	Raised bool
}

type keptOutside struct {
	People   evidence.Position
	Awaited  map[string]string
	Said     map[string]evidence.PersonRow
	Undated  uint64
	Rules    uint64
	Accounts map[string]keptAccount
}

type keptTickets struct {
	Cited    []keptTicket
	Imported bool
	Taken    int64
	Sums     [ticketClasses]uint64
}

type keptTicket struct {
	ID              string
	Uses            [4]uint64
	First, Last     evidence.Position
	FirstAt, LastAt int64
	Asked, Approved []string
	Seen            *ticketSeen
}

type keptAccount struct {
	Role    string
	Itself  []string
	Objects map[string][]string
	Most    []string
	Writes  []string
	Rights  *keptRights `json:",omitempty"`
}

type keptRights struct {
	Account, Prefix string
	Groups          []string
	Of              map[string][]string
	Beyond          map[string]string
	Loose           []string
	Others          int
}

type keptRecon struct {
	Used        bool
	Connections []keptConnection
	Run         uint32
	Upstreams   map[string]keptUpstream
	Awaited     evidence.Position
	Gap         int64
	Runs        uint64
	Sums        [2][6]uint64 // of sessions, of requests
	Requests    []keptRequest
	Trails      map[string]keptTrail
	Requested   bool
	Unlogged    uint64
}

type keptRequest struct {
	Boot, Seq         uint64
	At, End, Received int64
	Who, Name, What   []byte
	Resource, Own     string
	State             uint8
}

type keptTrail struct {
	Window Window
	Since  int64
	Rows   []evidence.RequestRow
	Begun  evidence.Position
}

func (s *reconSums) keep() [6]uint64 {
	return [6]uint64{s.logged, s.ofAgents, s.own, s.allowed, s.unexplained, s.missing}
}

func resumeSums(k [6]uint64) reconSums { return reconSums{k[0], k[1], k[2], k[3], k[4], k[5]} }

func (q *Requests) keep() (list []keptRequest) {
	if q == nil {
		return nil
	}
	for i := range q.all {
		n := &q.all[i]
		list = append(list, keptRequest{n.boot, n.seq, n.at, n.end, n.received, n.who[:], n.name[:], n.what[:], n.resource, n.own, uint8(n.state)})
	}
	return list
}

func resumeRequests(list []keptRequest) *Requests {
	q := NewRequests()
	names := make(map[string]string) // so that they are shared
	for i := range list {
		k := &list[i]
		n := request{boot: k.Boot, seq: k.Seq, at: k.At, end: k.End, received: k.Received, own: k.Own, state: requestBit(k.State)}
		copy(n.who[:], k.Who)
		copy(n.name[:], k.Name)
		copy(n.what[:], k.What)
		if _, ok := names[k.Resource]; !ok {
			names[k.Resource] = k.Resource
		}
		n.resource = names[k.Resource]
		q.all = append(q.all, n)
	}
	return q
}

type keptUpstream struct {
	Window            Window
	Counters, Pending *Counters
	Since, Imported   []evidence.ConnectionRow
}

type keptCounts struct{ Unseparated, Opaque, Allowed, Denied, Failed uint64 }

// keep is the state of a fold of which a record was folded.
func (f *Fold) keep() *keptFold {
	k := &keptFold{
		Registry: f.registry.Snapshot(), RegistryVersion: f.version, OpenedAt: f.openedAt, First: f.first, Last: f.last, Before: f.before,
		LastTime: f.lastTime, Records: f.records, Tests: make(map[string]keptTest), Doubts: make(map[evidence.Position]keptDoubt),
		GrantUses: keepUses(f.grantUses), KeyUses: keepUses(f.keyUses),
		Hours: keptHoursOf{ByHour: make(map[int64]map[string][2]int64), Newest: f.hours.newest, From: f.hours.from}, Watch: f.watch.keep(),
		Outside: f.outside.keep(), Recon: f.recon.keep(), Tickets: f.tickets.keep(), UpstreamConfigs: f.upstreamConfigs.keep(),
		Policies: slices.Sorted(maps.Keys(f.policies)), Configs: slices.Sorted(maps.Keys(f.configs)),
		Counts: keptCounts{f.counts.unseparated, f.counts.opaque, f.counts.allowed, f.counts.denied, f.counts.failed},
	}
	for _, t := range f.tests.all() {
		k.Tests[t.ID] = keptTest{t.State, t.Note, t.Population, t.Failed, t.Exceptions}
	}
	if b := f.boot; b != nil {
		k.Boot = &keptBoot{b.start, b.at, b.body, b.carried, b.end, b.last, b.lastTime, b.records, b.silent, b.longest, nil, b.from, b.n, b.checkedDigests}
		if b.jump != nil {
			k.Boot.Jump = &keptJump{b.jump.to, b.jump.at, b.jump.by}
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(f.sessions), comparePositions) {
		k.Sessions = append(k.Sessions, f.sessions[p].keep())
	}
	for _, p := range slices.SortedFunc(maps.Keys(f.commands), comparePositions) {
		k.Commands = append(k.Commands, keptCommand{f.commands[p].head, f.commands[p].carried})
	}
	for p, d := range f.doubts {
		k.Doubts[p] = keptDoubt{d.agent, d.resource, d.session}
	}
	for i, m := range []map[string]authn{f.authns.young, f.authns.old} {
		k.Authns[i] = make(map[string]keptAuthn, len(m))
		for p, a := range m {
			k.Authns[i][p] = keptAuthn{a.agent, a.credential, a.key}
		}
	}
	for _, t := range f.tokens.due {
		k.Tokens = append(k.Tokens, keptToken{t.head, t.body})
	}
	for hour, agents := range f.hours.byHour {
		k.Hours.ByHour[hour] = make(map[string][2]int64, len(agents))
		for agent, c := range agents {
			k.Hours.ByHour[hour][agent] = [2]int64{c.commands, c.writes}
		}
	}
	if a := f.approving; a != nil {
		k.Approving = &keptApproving{a.pos, a.request}
	}
	for i := range f.alerts {
		a := &f.alerts[i]
		k.Alerts = append(k.Alerts, keptAlert{a.pos, a.at, a.rule, a.heard, a.cells})
	}
	return k
}

func keepUses(m map[string]*uses) map[string]keptUses {
	kept := make(map[string]keptUses, len(m))
	for id, u := range m {
		kept[id] = keptUses{u.n, u.at, u.last}
	}
	return kept
}

func (s *session) keep() keptSession {
	k := keptSession{Head: s.head, Upstream: s.upstream, Key: s.key, Carried: s.carried, Active: s.active, N: s.n, Retired: s.retired,
		Open: s.open, Transacted: s.transacted, Commands: s.commands, Denied: s.denied, Bytes: s.bytes, CheckedAt: s.checkedAt}
	if s.body != nil {
		k.Body = evidence.EncodeBody(s.body)
	}
	return k
}

func (w *watch) keep() keptWatch {
	d := w.detector
	k := keptWatch{Separated: d.separated, Denials: make(map[string][2]int64), Authn: [2]int64{d.authn.id, int64(d.authn.n)},
		Keys: make(map[string]keptSeen), Whole: w.whole}
	for agent, of := range d.denials {
		k.Denials[agent] = [2]int64{of.id, int64(of.n)}
	}
	for key, s := range d.keys {
		k.Keys[key] = keptSeen{s.hour, s.host, s.raised}
	}
	for _, x := range w.due {
		k.Due = append(k.Due, keptAsked{x.rule, x.trigger, x.beats})
	}
	for x := range w.found {
		k.Found = append(k.Found, keptAsked{Rule: x.rule, Trigger: x.trigger})
	}
	return k
}

func (o *outside) keep() keptOutside {
	k := keptOutside{o.people, o.awaited, o.said, o.undated, o.rules, make(map[string]keptAccount, len(o.accounts))}
	for resource, a := range o.accounts {
		k.Accounts[resource] = keptAccount{a.role, a.itself, a.objects, a.most, a.writes, a.rights.keep()}
	}
	return k
}

func (s *tickets) keep() keptTickets {
	k := keptTickets{Imported: s.imported, Taken: s.taken, Sums: s.sums}
	for _, t := range slices.SortedFunc(maps.Values(s.cited), func(a, b *ticket) int { return comparePositions(a.first, b.first) }) {
		k.Cited = append(k.Cited, keptTicket{t.id, t.uses, t.first, t.last, t.firstAt, t.lastAt, t.asked, t.approved, t.seen})
	}
	return k
}

func (k *keptTickets) resume() tickets {
	s := newTickets()
	s.imported, s.taken, s.sums = k.Imported, k.Taken, k.Sums
	for _, t := range k.Cited {
		s.add(&ticket{t.ID, t.Uses, t.First, t.Last, t.FirstAt, t.LastAt, t.Asked, t.Approved, t.Seen})
	}
	return s
}

func (r *rights) keep() *keptRights {
	if r == nil {
		return nil
	}
	return &keptRights{r.account, r.prefix, r.groups, r.of, r.beyond, r.loose, r.others}
}

func (k *keptRights) resume() *rights {
	if k == nil {
		return nil
	}
	return &rights{k.Account, k.Prefix, k.Groups, k.Of, k.Beyond, k.Loose, k.Others}
}

func (k *keptOutside) resume() outside {
	o := outside{people: k.People, awaited: k.Awaited, said: k.Said, undated: k.Undated, rules: k.Rules}
	for resource, a := range k.Accounts {
		if o.accounts == nil {
			o.accounts = make(map[string]*account)
		}
		o.accounts[resource] = &account{a.Role, a.Itself, a.Objects, a.Most, a.Writes, a.Rights.resume()}
	}
	return o
}

func (s *reconState) keep() keptRecon {
	k := keptRecon{Used: s.connections != nil, Upstreams: make(map[string]keptUpstream, len(s.upstreams)), Awaited: s.awaited, Gap: s.gap,
		Runs: s.runs, Sums: [2][6]uint64{s.reconSums.keep(), s.asked.keep()}, Requests: s.requests.keep(), Trails: make(map[string]keptTrail, len(s.trails)),
		Requested: s.requested, Unlogged: s.unlogged}
	for resource, t := range s.trails {
		k.Trails[resource] = keptTrail{t.Window, t.Since, t.rows, t.begun}
	}
	if s.connections != nil {
		k.Run = s.connections.run
		for n := range s.connections.all {
			k.Connections = append(k.Connections, s.connections.kept(n))
		}
	}
	for resource, u := range s.upstreams {
		k.Upstreams[resource] = keptUpstream{u.Window, u.counters, u.pending, u.since, u.imported}
	}
	return k
}

func (k *keptRecon) resume() reconState {
	s := reconState{awaited: k.Awaited, gap: k.Gap, runs: k.Runs, reconSums: resumeSums(k.Sums[0]), asked: resumeSums(k.Sums[1]), requested: k.Requested, unlogged: k.Unlogged}
	if len(k.Requests) > 0 {
		s.requests = resumeRequests(k.Requests)
	}
	for resource, t := range k.Trails {
		*s.trail(resource) = Trail{t.Window, t.Since, t.Rows, t.Begun}
	}
	if !k.Used {
		return s
	}
	s.connections, s.upstreams = NewConnections(), make(map[string]*Upstream)
	s.connections.run = k.Run
	for i := range k.Connections {
		s.connections.add(&k.Connections[i])
	}
	for resource, u := range k.Upstreams {
		s.upstreams[resource] = &Upstream{u.Window, u.Counters, u.Since, u.Imported, u.Pending}
	}
	return s
}

// resume is a fold that goes on from k. Its rows go nowhere, since those of
// before are gone.
func (k *keptFold) resume() (*Fold, error) {
	f := NewFold(OutFunc(func(string, []string) error { return nil }))
	return f, k.into(f)
}

// into makes a new fold go on from k.
func (k *keptFold) into(f *Fold) error {
	registry, err := decision.Restore(k.Registry)
	if err != nil {
		return fmt.Errorf("going on with a fold: %w", err)
	}
	f.registry, f.version, f.opening, f.openedAt = registry, k.RegistryVersion, decision.New(), k.OpenedAt
	f.first, f.last, f.before, f.lastTime, f.records = k.First, k.Last, k.Before, k.LastTime, k.Records
	for _, t := range f.tests.all() {
		kept, ok := k.Tests[t.ID]
		if !ok {
			return fmt.Errorf("going on with a fold: nothing was kept of test %s", t.ID)
		}
		t.State, t.Note, t.Population, t.Failed, t.Exceptions, t.placed = kept.State, kept.Note, kept.Population, kept.Failed, kept.Exceptions, len(kept.Exceptions)
	}
	if b := k.Boot; b != nil {
		f.boot = &bootState{start: b.Start, at: b.At, body: b.Body, carried: b.Carried, end: b.End, last: b.Last, lastTime: b.LastTime, records: b.Records,
			silent: b.Silent, longest: b.Longest, from: b.From, n: b.N, checkedDigests: b.Checked}
		if b.Jump != nil {
			f.boot.jump = &jump{b.Jump.To, b.Jump.At, b.Jump.By}
		}
	}
	for i := range k.Sessions {
		s, err := f.resumeSession(&k.Sessions[i])
		if err != nil {
			return err
		}
		f.sessions[s.start] = s
	}
	for _, c := range k.Commands {
		f.commands[c.Head.Pos] = &command{head: c.Head, intent: &intent{}, carried: c.Carried}
	}
	for p, d := range k.Doubts {
		f.doubts[p] = doubt{d.Agent, d.Resource, d.Session}
	}
	for i, m := range []*map[string]authn{&f.authns.young, &f.authns.old} {
		*m = make(map[string]authn, len(k.Authns[i]))
		for p, a := range k.Authns[i] {
			(*m)[p] = authn{a.Agent, a.Credential, a.Key}
		}
	}
	for _, t := range k.Tokens {
		one := &token{head: t.Head, body: t.Body}
		heap.Push(&f.tokens.due, one)
		f.tokens.byID[one.body.ID] = one
	}
	resumeUses(f.grantUses, k.GrantUses)
	resumeUses(f.keyUses, k.KeyUses)
	f.hours.newest, f.hours.from = k.Hours.Newest, k.Hours.From
	for hour, agents := range k.Hours.ByHour {
		f.hours.byHour[hour] = make(map[string]*hourCount, len(agents))
		for agent, n := range agents {
			f.hours.byHour[hour][agent] = &hourCount{n[0], n[1]}
		}
	}
	if a := k.Approving; a != nil {
		f.approving = &approving{a.Pos, a.Request}
	}
	for i, a := range k.Alerts {
		f.alertAt[a.Pos] = i
		f.alerts = append(f.alerts, alertState{pos: a.Pos, at: a.At, rule: a.Rule, heard: a.Heard, cells: a.Cells})
	}
	k.Watch.resume(&f.watch)
	f.outside, f.recon, f.tickets, f.upstreamConfigs = k.Outside.resume(), k.Recon.resume(), k.Tickets.resume(), k.UpstreamConfigs.resume()
	for _, p := range k.Policies {
		f.policies[p] = true
	}
	for _, c := range k.Configs {
		f.configs[c] = true
	}
	c := &k.Counts
	f.counts = counts{unseparated: c.Unseparated, opaque: c.Opaque, allowed: c.Allowed, denied: c.Denied, failed: c.Failed}
	return nil
}

func (f *Fold) resumeSession(k *keptSession) (*session, error) {
	var b *evidence.SessionStartBody
	if len(k.Body) > 0 && string(k.Body) != "null" {
		b = &evidence.SessionStartBody{}
		if err := evidence.DecodeBody(k.Body, b); err != nil {
			return nil, fmt.Errorf("going on with a fold: session %s: %w", k.Head.Pos, err)
		}
	}
	s := f.newSession(&evidence.Record{Head: k.Head}, b)
	s.upstream, s.key, s.carried, s.active, s.n, s.retired = k.Upstream, k.Key, k.Carried, k.Active, k.N, k.Retired
	s.open, s.transacted, s.commands, s.denied, s.bytes, s.checkedAt = k.Open, k.Transacted, k.Commands, k.Denied, k.Bytes, k.CheckedAt
	if u := s.upstream; u != nil {
		s.connKey = upstreamKey{u.Local, u.Remote}
		if _, taken := f.upstreams[s.connKey]; u.Local != "" && !taken {
			f.upstreams[s.connKey] = s.start
		}
	}
	return s, nil
}

func resumeUses(m map[string]*uses, kept map[string]keptUses) {
	for id, u := range kept {
		m[id] = &uses{n: u.N, at: u.At, last: u.Last}
	}
}

func (k *keptWatch) resume(w *watch) {
	d := w.detector
	d.separated, d.authn, w.whole = k.Separated, window{k.Authn[0], int(k.Authn[1])}, k.Whole
	for agent, n := range k.Denials {
		d.denials[agent] = &window{n[0], int(n[1])}
	}
	for key, s := range k.Keys {
		d.keys[key] = &seen{s.Hour, s.Host, s.Raised}
	}
	for _, x := range k.Due {
		w.due = append(w.due, due{asked{x.Rule, x.Trigger}, x.Beats})
	}
	for _, x := range k.Found {
		w.found[asked{x.Rule, x.Trigger}] = true
	}
}

// writeJSON writes what encoding/json would make of v, which has no cycles, and
// never has the whole of it in memory: structs go a field at a time, and lists
// of them an element at a time.
func writeJSON(w io.Writer, v any) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := (&jsonWriter{b, e}).write(reflect.ValueOf(v)); err != nil {
		return err
	}
	return b.Flush()
}

type jsonWriter struct {
	*bufio.Writer
	whole *json.Encoder
}

func (w *jsonWriter) write(v reflect.Value) error {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil() && bare(v.Type().Elem()):
		return w.write(v.Elem())
	case v.Kind() == reflect.Struct && bare(v.Type()):
		return w.list("{", "}", v.NumField(), func(i int) error {
			if _, err := fmt.Fprintf(w, "%q:", v.Type().Field(i).Name); err != nil {
				return err
			}
			return w.write(v.Field(i))
		})
	case v.Kind() == reflect.Slice && !v.IsNil() && v.Type().Elem().Kind() == reflect.Struct:
		return w.list("[", "]", v.Len(), func(i int) error { return w.write(v.Index(i)) })
	}
	return w.whole.Encode(v.Interface())
}

func (w *jsonWriter) list(begin, end string, n int, item func(i int) error) error {
	before := begin
	for i := range n {
		if _, err := w.WriteString(before); err != nil {
			return err
		}
		if err := item(i); err != nil {
			return err
		}
		before = ","
	}
	if n == 0 {
		end = begin + end
	}
	_, err := w.WriteString(end)
	return err
}

// bare reports whether encoding/json makes of a type an object of all its
// fields, by their names.
func bare(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return false
	}
	for i := range t.NumField() {
		if f := t.Field(i); !f.IsExported() || f.Anonymous || f.Tag != "" {
			return false
		}
	}
	return true
}
