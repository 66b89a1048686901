package workpaper

import (
	"net/netip"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// ReconSkew is how far the clocks of a gateway and an upstream may be apart, and
// how long after a connection its record may come.
const ReconSkew = int64(5_000_000)

// Connections are those that a gateway made to upstreams, for agents and for
// itself.
type Connections struct {
	byKey map[connKey][]*connection
	all   []*connection // in order of their records
	run   int           // number of the run that matches
	most  int           // that are remembered at once
}

// maxConnections bounds the connections remembered at once. Where there are more
// in two days the oldest make room: logs are held against the newest.
const maxConnections = 1 << 20

// connKey is what both sides know of a connection. The time tells apart those
// that had it one after the other.
type connKey struct {
	client string
	pid    uint32
}

type connection struct {
	pos      evidence.Position // of the session, or of the record of the gateway's own
	at       int64             // of its record
	start    int64             // of its backend
	resource string
	own      string // for what, if it is the gateway's own
	key      connKey
	run      int // that matched it last; 0 is none
}

// NewConnections returns an empty list.
func NewConnections() *Connections {
	return &Connections{byKey: make(map[connKey][]*connection), most: maxConnections}
}

// Observe adds the connection of a record, if it is of one to a PostgreSQL.
func (c *Connections) Observe(h *evidence.Head, body []byte) {
	n := connection{at: h.Time, start: h.Time, resource: h.Resource}
	switch h.Type {
	case evidence.SessionUpstream:
		var b evidence.SessionUpstreamBody
		if evidence.DecodeBody(body, &b) != nil || b.PID == 0 {
			return
		}
		if t, err := time.Parse("2006-01-02T15:04:05.999999Z07:00", b.Start); err == nil {
			n.start = t.UnixMicro()
		}
		n.pos, n.key = h.Session, connKey{clientOf(b.Local), b.PID}
	case evidence.OwnUpstream:
		var b evidence.OwnUpstreamBody
		if evidence.DecodeBody(body, &b) != nil || b.PID == 0 {
			return
		}
		n.pos, n.own, n.key = h.Pos, b.Purpose, connKey{clientOf(b.Local), b.PID}
	default:
		return
	}
	c.forget(h.Time - KeptConnections)
	c.add(&n)
}

func (c *Connections) add(n *connection) {
	if len(c.all) >= c.most {
		c.forget(c.all[c.most/16].at)
	}
	c.byKey[n.key] = append(c.byKey[n.key], n)
	c.all = append(c.all, n)
}

// KeptConnections is for how long a connection is remembered, and how old a log
// may be that is held against it: two days.
const KeptConnections = 2 * dayMicros

// clientOf is one spelling of an address, "" for a unix socket.
func clientOf(addr string) string {
	if a, err := netip.ParseAddrPort(addr); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).String()
	}
	return ""
}

// find returns the connection of a session in a log, or nil.
func (c *Connections) find(row *evidence.ConnectionRow) *connection {
	for _, n := range c.byKey[connKey{clientOf(row.Client), row.PID}] {
		if d := row.Start - n.start; n.run != c.run && -ReconSkew <= d && d <= ReconSkew {
			return n
		}
	}
	return nil
}

// forget drops what was recorded before a time.
func (c *Connections) forget(before int64) {
	i := 0
	for ; i < len(c.all) && c.all[i].at < before; i++ {
		n := c.all[i]
		c.byKey[n.key] = slices.DeleteFunc(c.byKey[n.key], func(o *connection) bool { return o == n })
		if len(c.byKey[n.key]) == 0 {
			delete(c.byKey, n.key)
		}
	}
	c.all = slices.Delete(c.all, 0, i)
}

// Window is a stretch of time that an upstream's log covers.
type Window struct{ From, To int64 }

// since is from when on the log is known without a gap, given the window before.
func (w Window) since(before Window) int64 {
	if before.To == w.From && before.From != 0 {
		return before.From
	}
	return w.From
}

// Matched is a session in a log with what it was found to be.
type Matched struct {
	evidence.ConnectionRow
	Class  string
	Reason string            // of who may, or what it was for
	Of     evidence.Position // session, or record of the gateway's own
}

// Match finds out what the sessions in the log of a resource's upstream are, and
// which of the gateway's the log should have and hasn't. Before is the window of
// the run before, zero without. The answer is a function of the records before
// the run and of the rows alone.
func (c *Connections) Match(r evidence.Resource, w, before Window, rows []evidence.ConnectionRow) (list []Matched, missing []evidence.ReconKey) {
	c.run++
	list = make([]Matched, len(rows))
	for i := range rows {
		m := Matched{ConnectionRow: rows[i], Class: evidence.ReconUnexplained}
		n := c.find(&rows[i])
		switch {
		case n != nil && n.own != "":
			n.run, m.Class, m.Reason, m.Of = c.run, evidence.ReconOwn, n.own, n.pos
		case n != nil:
			n.run, m.Class, m.Of = c.run, evidence.ReconGateway, n.pos
		default:
			if d := allowedDirect(r.Direct, &rows[i]); d != nil {
				m.Class, m.Reason = evidence.ReconAllowed, d.Reason
			}
		}
		list[i] = m
	}
	since := w.since(before)
	for _, n := range c.all {
		if n.resource == r.Name && n.run == 0 && n.at > since+ReconSkew && n.at > before.To-ReconSkew && n.at <= w.To-ReconSkew {
			missing = append(missing, evidence.ReconKey{Class: evidence.ReconMissing, Client: n.key.client, PID: n.key.pid, Of: n.pos})
		}
	}
	return list, missing
}

func allowedDirect(rules []evidence.Direct, row *evidence.ConnectionRow) *evidence.Direct {
	for i := range rules {
		if d := &rules[i]; (d.User == "" || d.User == row.User) && (d.From == "" || cameFrom(d.From, row.Client)) {
			return d
		}
	}
	return nil
}

// DirectLocal stands for a unix socket.
const DirectLocal = "local"

func cameFrom(from, client string) bool {
	if from == DirectLocal {
		return client == ""
	}
	a, err := netip.ParseAddrPort(client)
	if err != nil {
		return false
	}
	addr := a.Addr().Unmap().WithZone("")
	if p, err := netip.ParsePrefix(from); err == nil {
		return p.Contains(addr)
	}
	want, err := netip.ParseAddr(from)
	return err == nil && want.Unmap() == addr
}

// Counters are the counts of an upstream's sessions as they were read.
type Counters struct {
	At   int64
	Rows []evidence.CounterRow
}

// tie compares what counters say of the time between two readings with the
// sessions that a log has of it. Those let in around either reading may be on
// either side of it.
func tie(before, after *Counters, rows []evidence.ConnectionRow) (how string, counted, compared int64) {
	if before == nil || after == nil {
		return evidence.TieNone, 0, 0
	}
	was := make(map[string]evidence.CounterRow)
	for _, c := range before.Rows {
		was[c.Database] = c
	}
	for _, c := range after.Rows {
		b, known := was[c.Database]
		switch {
		case known && b.Started != c.Started || len(before.Rows) > 0 && before.Rows[0].Started != c.Started:
			return evidence.TieRestarted, 0, 0
		case known && (b.Reset != c.Reset || c.Sessions < b.Sessions):
			return evidence.TieReset, 0, 0
		}
		counted += c.Sessions - b.Sessions
	}
	var unsure int64
	for i := range rows {
		at := rows[i].At
		if at <= before.At-ReconSkew || at > after.At+ReconSkew {
			continue
		}
		if at > before.At && at <= after.At {
			compared++
		}
		if near(at, before.At) || near(at, after.At) {
			unsure++
		}
	}
	if d := counted - compared; d > unsure || -d > unsure {
		return evidence.Untied, counted, compared
	}
	return evidence.Tied, counted, compared
}

func near(a, b int64) bool { return a-b <= ReconSkew && b-a <= ReconSkew }

// Recon makes the body of a run. Rows are those of its import; since holds those
// of the imports since counters were last read.
func Recon(w Window, list []Matched, missing []evidence.ReconKey, since []evidence.ConnectionRow, before, after *Counters) evidence.ReconBody {
	b := evidence.ReconBody{From: w.From, To: w.To, Logged: len(list), Missing: len(missing)}
	for i := range list {
		m := &list[i]
		switch m.Class {
		case evidence.ReconGateway:
			b.Gateway++
		case evidence.ReconOwn:
			b.Own++
		case evidence.ReconAllowed:
			b.Allowed++
		default:
			b.Unexplained++
			b.Keys = append(b.Keys, evidence.ReconKey{Class: evidence.ReconUnexplained, Session: m.Session, User: m.User, Client: m.Client, PID: m.PID})
		}
	}
	b.Keys = append(b.Keys, missing...)
	b.Keys = b.Keys[:min(len(b.Keys), evidence.MaxReconKeys)]
	b.Tie, b.Counted, b.Compared = tie(before, after, since)
	return b
}

// Reads takes an import of connections or of counters; others it passes over. It
// reports whether there was anything in it to take.
func (u *Upstream) Reads(h *evidence.Head, b *evidence.ImportBody) bool {
	switch b.Kind {
	case evidence.ImportConnections:
		var rows []evidence.ConnectionRow
		if evidence.DecodeBody(b.Data, &rows) != nil {
			return false
		}
		u.Rows(rows)
	case evidence.ImportCounters:
		var rows []evidence.CounterRow
		if evidence.DecodeBody(b.Data, &rows) != nil {
			return false
		}
		u.Count(&Counters{At: b.Extracted, Rows: rows})
	default:
		return false
	}
	return true
}

// Upstream is what is remembered of a resource's upstream from run to run.
type Upstream struct {
	Window   Window // of the newest run
	counters *Counters
	since    []evidence.ConnectionRow // let in since the counters were read, or about then
	imported []evidence.ConnectionRow // by the newest import
	pending  *Counters                // read with it
}

// maxSince bounds the sessions between two readings of counters.
const maxSince = 1 << 20

// Rows takes the rows of an import of connections.
func (u *Upstream) Rows(rows []evidence.ConnectionRow) {
	u.imported = rows
	if len(u.since)+len(rows) > maxSince {
		u.since, u.counters = nil, nil
	}
	u.since = append(u.since, rows...)
}

// Count takes counters that were read with it.
func (u *Upstream) Count(c *Counters) { u.pending = c }

// Clone returns a copy, for a run that may come to nothing.
func (u *Upstream) Clone() Upstream {
	c := *u
	c.since = slices.Clone(u.since)
	return c
}

// Run makes the run of what was taken, and goes on to the next.
func (u *Upstream) Run(c *Connections, r evidence.Resource, w Window) (evidence.ReconBody, []Matched) {
	list, missing := c.Match(r, w, u.Window, u.imported)
	b := Recon(w, list, missing, u.since, u.counters, u.pending)
	if u.pending != nil {
		u.counters = u.pending
		u.since = slices.DeleteFunc(u.since, func(row evidence.ConnectionRow) bool { return row.At <= u.counters.At-ReconSkew })
	}
	u.Window, u.imported, u.pending = w, nil, nil
	return b, list
}
