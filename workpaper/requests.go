package workpaper

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// AuditDelay is how long after its answer a request may take to stand in a
// cluster's audit log, where that is written in batches; and AuditLate after
// which it isn't waited for any more.
const (
	AuditDelay = 60 * int64(1_000_000)
	AuditLate  = 10 * minuteMicros
)

// KeptRequests is for how long a command is remembered that a cluster's log
// lacks, and how old a log may be that is held against them: a day.
const KeptRequests = dayMicros

// Requests are the commands for clusters that no audit log was held against yet.
// They are bounded: a command is forgotten once the log has its end, once it is
// waited for no longer, and the oldest where there are more than a log may lack.
type Requests struct {
	all  []request // in order of their positions
	most int       // that are remembered at once
}

// MaxRequests bounds the commands remembered at once, of some 100 bytes each.
const MaxRequests = 1 << 17

// request is a command, as small as can be matched.
type request struct {
	boot, seq uint64
	at, end   int64      // of its intent and its result; 0 is open
	received  int64      // by the cluster, once its log has it; 0 isn't yet
	who, name [8]byte    // digests: as whom it was asked, and its object's name; zero isn't known
	what      [16]byte   // of the rest
	resource  string     // shared
	own       string     // for what, if it is the gateway's own
	state     requestBit // more of it
}

type requestBit uint8

const (
	vague    requestBit = 1 << iota // what it asked for isn't known in the clear
	unlogged                        // its cluster leaves it out
	answered                        // by the cluster itself
	done                            // the log has its end
)

// NewRequests returns an empty list.
func NewRequests() *Requests { return &Requests{most: MaxRequests} }

// Full reports whether commands may have been forgotten for want of room.
func (q *Requests) Full() bool { return len(q.all) >= q.most-q.most/16 }

// Clone returns a copy, for a run that may come to nothing.
func (q *Requests) Clone() *Requests { return &Requests{slices.Clone(q.all), q.most} }

// Watched reports whether the commands for a resource are held against its
// cluster's log: it is said who the gateway is there.
func Watched(r *evidence.Resource) bool { return r.Cluster != nil && r.Cluster.Account != "" }

// Intent takes a command that goes on to a cluster.
func (q *Requests) Intent(h *evidence.Head, b *evidence.IntentBody, r *evidence.Resource) {
	if h.Effect != evidence.Allow || h.Outcome != "" || h.Verb == evidence.VerbConnect || !Watched(r) {
		return
	}
	n := request{boot: h.Pos.Boot, seq: h.Pos.Seq, at: h.Time, resource: r.Name, who: askedAs(r.Cluster.Prefix+h.Agent, r.Cluster.Groups)}
	fact := func(name string) string { s, _ := b.Facts[name].(string); return s }
	row := evidence.RequestRow{Verb: fact("verb"), Resource: inGroup(fact("resource"), fact("group")), Namespace: fact("namespace"), Name: fact("name"), Subresource: fact("subresource")}
	if row.Resource == "" && len(b.Checks) > 0 {
		row.Path = b.Checks[0].Object
	}
	if b.Text == "" || row.Verb == "other" || row.Resource == "" && row.Path == "" {
		n.state |= vague
	}
	n.about(&row)
	if isUnlogged(r.Cluster.Unlogged, &row) {
		n.state |= unlogged
	}
	q.add(n)
}

// Own takes a request that the gateway made for itself.
func (q *Requests) Own(h *evidence.Head, b *evidence.OwnUpstreamBody, r *evidence.Resource) {
	verb, resource, ok := strings.Cut(b.Text, " ")
	if !ok || !Watched(r) {
		return
	}
	n := request{boot: h.Pos.Boot, seq: h.Pos.Seq, at: h.Time, end: h.Time + AuditDelay, resource: r.Name, own: b.Purpose, who: askedAs("", nil)}
	n.about(&evidence.RequestRow{Verb: verb, Resource: resource})
	q.add(n)
}

// Result takes the end of a command.
func (q *Requests) Result(h *evidence.Head) {
	i, found := q.find(h.Of)
	if !found {
		return
	}
	n := &q.all[i]
	n.end = h.Time
	status, err := strconv.Atoi(h.Code)
	switch {
	case h.Outcome == evidence.Skipped, h.Outcome == evidence.Denied:
		q.all = slices.Delete(q.all, i, i+1)
	case h.Outcome == evidence.OK, h.Outcome == evidence.Failed && err == nil && status >= 100 && status < 600:
		n.state |= answered
	}
}

// Observe takes any record of a log, given how the resource in its head is
// configured. Who decodes bodies anyway calls the others.
func (q *Requests) Observe(h *evidence.Head, body []byte, r *evidence.Resource) {
	switch h.Type {
	case evidence.CommandIntent:
		var b evidence.IntentBody
		if h.Effect == evidence.Allow && Watched(r) && evidence.DecodeBody(body, &b) == nil {
			q.Intent(h, &b, r)
		}
	case evidence.CommandResult:
		q.Result(h)
	case evidence.OwnUpstream:
		var b evidence.OwnUpstreamBody
		if Watched(r) && evidence.DecodeBody(body, &b) == nil {
			q.Own(h, &b, r)
		}
	}
}

func (q *Requests) add(n request) {
	for len(q.all) > 0 && (q.all[0].at < n.at-KeptRequests || len(q.all) >= q.most) {
		q.all = q.all[1:] // what is before it goes when there is no more room behind
	}
	q.all = append(q.all, n)
}

// find returns where the command at a position is.
func (q *Requests) find(p evidence.Position) (int, bool) {
	return sort.Find(len(q.all), func(i int) int {
		n := &q.all[i]
		switch {
		case p.Boot != n.boot:
			return sign(p.Boot > n.boot)
		case p.Seq != n.seq:
			return sign(p.Seq > n.seq)
		}
		return 0
	})
}

func sign(more bool) int {
	if more {
		return 1
	}
	return -1
}

// about takes in what is asked for.
func (n *request) about(row *evidence.RequestRow) {
	n.what, n.name = askedFor(row), digest8(row.Name)
}

// askedFor is a digest of what a request is for, but for the object's name, which
// one side may not know: the server makes it, or a content has it.
func askedFor(row *evidence.RequestRow) (d [16]byte) {
	sum := digestOf(row.Verb, row.Resource, row.Namespace, row.Subresource, row.Path)
	return [16]byte(sum[:16])
}

func digest8(s string) (d [8]byte) {
	if s != "" {
		sum := digestOf(s)
		d = [8]byte(sum[:8])
	}
	return d
}

// anyone is a group that the server adds to every user that it knows.
const anyone = "system:authenticated"

// askedAs is a digest of as whom a request is made; the empty name is the
// account itself.
func askedAs(user string, groups []string) [8]byte {
	own := slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return g == anyone })
	slices.Sort(own)
	sum := digestOf(append([]string{user}, slices.Compact(own)...)...)
	return [8]byte(sum[:8])
}

func digestOf(parts ...string) [sha256.Size]byte {
	var b []byte
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return sha256.Sum256(b)
}

// inGroup is a resource with its API group, as kubectl writes it.
func inGroup(resource, group string) string {
	if resource == "" || group == "" {
		return resource
	}
	return resource + "." + group
}

func isUnlogged(rules []evidence.Unlogged, row *evidence.RequestRow) bool {
	return slices.ContainsFunc(rules, func(u evidence.Unlogged) bool {
		return (u.Verb == "" || u.Verb == row.Verb) && (u.Resource == "" || u.Resource == row.Resource || u.Resource == row.Path)
	})
}

// MatchedRequest is an entry of a cluster's audit log with what it was found to
// be.
type MatchedRequest struct {
	evidence.RequestRow
	Class  string
	Reason string            // of who may, what it was for, or why it isn't the gateway's
	Of     evidence.Position // the command, or the record of the gateway's own
}

// RequestRun is what holding a cluster's audit log against the gateway's commands
// gave.
type RequestRun struct {
	List     []MatchedRequest
	Missing  []evidence.ReconKey
	Unlogged int
}

// Match finds out what the entries of the audit log of a resource's cluster are,
// and which commands the log should have and hasn't. An entry is a command's if
// it carries its position as audit id, was asked by the gateway's account, as the
// agent, for the same, at the time, and is the first to say so; an entry with
// such an id that isn't is unexplained, whoever may ask directly. Since is from
// when on the log is known without a gap. What the log has the end of is
// forgotten.
func (q *Requests) Match(gateway string, r *evidence.Resource, w Window, since int64, rows []evidence.RequestRow) (out RequestRun) {
	out.List = make([]MatchedRequest, len(rows))
	for i := range rows {
		out.List[i] = q.match(gateway, r, &rows[i])
	}
	q.all = slices.DeleteFunc(q.all, func(n request) bool {
		if n.resource != r.Name {
			return false
		}
		if n.state&done != 0 {
			return true
		}
		due := n.received == 0 && n.end != 0 && n.end <= w.To-AuditDelay && n.at > since+ReconSkew
		switch {
		case due && n.state&unlogged != 0:
			out.Unlogged++
			return true
		case due && n.state&answered != 0 && n.state&vague == 0 && n.own == "":
			out.Missing = append(out.Missing, evidence.ReconKey{Class: evidence.ReconMissing, Of: evidence.Position{Gateway: gateway, Boot: n.boot, Seq: n.seq}})
			return true
		}
		return n.end != 0 && n.end <= w.To-AuditLate
	})
	return out
}

func (q *Requests) match(gateway string, r *evidence.Resource, row *evidence.RequestRow) MatchedRequest {
	m := MatchedRequest{RequestRow: *row, Class: evidence.ReconUnexplained}
	p, err := evidence.ParsePosition(row.ID)
	if err != nil || p.Gateway != gateway {
		if d := AllowedRequest(r, row); d != nil {
			m.Class, m.Reason = evidence.ReconAllowed, d.Reason
		}
		return m
	}
	i, found := q.find(p)
	if !found || q.all[i].resource != r.Name {
		m.Reason = "its id is of no command that the log lacks"
		return m
	}
	n := &q.all[i]
	if m.Reason = n.differs(r, row); m.Reason != "" {
		return m
	}
	n.received = row.At
	if row.Stage != evidence.StageStarted {
		n.state |= done
	}
	m.Class, m.Of = evidence.ReconGateway, p
	if n.own != "" {
		m.Class, m.Reason = evidence.ReconOwn, n.own
	}
	return m
}

// forbidden is the status of a request whose impersonation the cluster refused:
// its log then names nobody but the account.
const forbidden = 403

// differs says in what an entry isn't the command whose id it carries; "" in
// nothing.
func (n *request) differs(r *evidence.Resource, row *evidence.RequestRow) string {
	name := digest8(row.Name)
	switch {
	case n.state&done != 0:
		return "its id is there twice"
	case n.received != 0 && (n.received != row.At || row.Stage == evidence.StageStarted):
		return "its id is there twice"
	case row.Count() != 1 || r.Cluster == nil || row.User != r.Cluster.Account:
		return "another user carries its id"
	case n.who != askedAs(row.As, row.AsGroups) && (row.As != "" || row.Code != forbidden):
		return "it was asked as somebody else"
	case n.state&vague == 0 && (n.what != askedFor(row) || n.name != [8]byte{} && name != [8]byte{} && n.name != name):
		return "it asks for something else"
	case row.At < n.at-ReconSkew || n.end != 0 && row.At > n.end+ReconSkew:
		return "it was asked at another time"
	}
	return ""
}

// AllowedRequest returns the rule by which somebody may ask a cluster without the
// gateway, or nil. Nobody may as an agent.
func AllowedRequest(r *evidence.Resource, row *evidence.RequestRow) *evidence.Direct {
	if r.Cluster != nil && r.Cluster.Prefix != "" && strings.HasPrefix(row.As, r.Cluster.Prefix) {
		return nil
	}
	for i := range r.Direct {
		d := &r.Direct[i]
		if (d.User == "" || d.User == row.User) && (d.Group == "" || slices.Contains(row.Groups, d.Group)) && (d.From == "" || within(d.From, row.From)) {
			return d
		}
	}
	return nil
}

// within reports whether an address is one, or in a prefix.
func within(where, address string) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	if p, err := netip.ParsePrefix(where); err == nil {
		return p.Contains(addr)
	}
	want, err := netip.ParseAddr(where)
	return err == nil && want.Unmap() == addr
}

// Body makes the body of a run.
func (run *RequestRun) Body(w Window) evidence.ReconBody {
	b := evidence.ReconBody{From: w.From, To: w.To, Missing: len(run.Missing), Unlogged: run.Unlogged, Tie: evidence.TieNone}
	for i := range run.List {
		m := &run.List[i]
		n := m.Count()
		b.Logged += n
		switch m.Class {
		case evidence.ReconGateway:
			b.Gateway += n
		case evidence.ReconOwn:
			b.Own += n
		case evidence.ReconAllowed:
			b.Allowed += n
		default:
			b.Unexplained += n
			if len(b.Keys) < evidence.MaxReconKeys {
				b.Keys = append(b.Keys, m.key())
			}
		}
	}
	b.Keys = append(b.Keys, run.Missing[:min(len(run.Missing), evidence.MaxReconKeys-len(b.Keys))]...)
	return b
}

func (m *MatchedRequest) key() evidence.ReconKey {
	return evidence.ReconKey{Class: evidence.ReconUnexplained, Session: m.ID, User: m.User, Client: m.From, Text: m.text(), Why: m.Reason}
}

// text is what an entry says was asked.
func (m *MatchedRequest) text() string {
	t := strings.TrimSpace(m.Verb + " " + m.Object())
	if m.As != "" {
		t += " as " + m.As
	}
	if n := m.Count(); n > 1 {
		t += " (" + strconv.Itoa(n) + " requests)"
	}
	return t
}

// Trail is what is remembered of a cluster's audit log from run to run.
type Trail struct {
	Window Window // of the newest run
	Since  int64  // from when on the log is known without a gap; 0 without a run
	rows   []evidence.RequestRow
	begun  evidence.Position // the first run that a fold has seen
}

// Reads takes an import of requests; others it passes over. It reports whether
// there was anything in it to take.
func (t *Trail) Reads(b *evidence.ImportBody) bool {
	if b.Kind != evidence.ImportRequests {
		return false
	}
	t.rows = nil
	return evidence.DecodeBody(b.Data, &t.rows) == nil
}

// Run makes the run of what was taken, and goes on to the next.
func (t *Trail) Run(q *Requests, gateway string, r *evidence.Resource, w Window) RequestRun {
	if t.Window.To != w.From || t.Since == 0 {
		t.Since = w.From
	}
	run := q.Match(gateway, r, w, t.Since, t.rows)
	t.Window, t.rows = w, nil
	return run
}
