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
// itself. A gateway at work holds those of two days, so they are kept small: 64
// bytes each without a pointer, in pages, and an index only while a log is
// matched.
type Connections struct {
	pages [][]connection // in order of their records, each of up to pageLen
	n     int            // in all pages
	names names
	run   uint32 // number of the run that matches
	most  int    // that are remembered at once
}

// maxConnections bounds the connections remembered at once. Where there are more
// in two days the oldest make room: logs are held against the newest.
const maxConnections = 1 << 20

// pageLen is the length of a page, in connections: 64 KiB of them.
const pageLen = 1024

// connKey is what both sides know of a connection. The time tells apart those
// that had it one after the other.
type connKey struct {
	addr [16]byte // zero with the port for a unix socket
	port uint16
	pid  uint32
}

type connection struct {
	addr      [16]byte // as in its key, with port and pid
	port      uint16
	own       uint16 // for what, if it is the gateway's own
	resource  uint16
	gateway   uint16 // with boot and seq: the session, or the record of the gateway's own
	boot, seq uint64
	at        int64 // of its record
	start     int64 // of its backend
	pid       uint32
	run       uint32 // that matched it last; 0 is none
}

// names are texts that many connections share, by number. The empty one is 0.
type names struct {
	texts []string
	ids   map[string]uint16
}

// maxNames is how many names there can be.
const maxNames = 1 << 16

func newNames() names { return names{[]string{""}, map[string]uint16{"": 0}} }

// id returns the number of a name; ok is false if there are too many.
func (t *names) id(text string) (id uint16, ok bool) {
	if id, ok = t.ids[text]; ok || len(t.texts) == maxNames {
		return id, ok
	}
	id = uint16(len(t.texts)) //nolint:gosec // below maxNames
	t.texts = append(t.texts, text)
	t.ids[text] = id
	return id, true
}

// NewConnections returns an empty list.
func NewConnections() *Connections { return &Connections{names: newNames(), most: maxConnections} }

// Observe adds the connection of a record, if it is of one to a PostgreSQL.
func (c *Connections) Observe(h *evidence.Head, body []byte) {
	n := keptConnection{At: h.Time, Start: h.Time, Resource: h.Resource}
	switch h.Type {
	case evidence.SessionUpstream:
		var b evidence.SessionUpstreamBody
		if evidence.DecodeBody(body, &b) != nil || b.PID == 0 {
			return
		}
		if t, err := time.Parse("2006-01-02T15:04:05.999999Z07:00", b.Start); err == nil {
			n.Start = t.UnixMicro()
		}
		n.Pos, n.Client, n.PID = h.Session, b.Local, b.PID
	case evidence.OwnUpstream:
		var b evidence.OwnUpstreamBody
		if evidence.DecodeBody(body, &b) != nil || b.PID == 0 {
			return
		}
		n.Pos, n.Own, n.Client, n.PID = h.Pos, b.Purpose, b.Local, b.PID
	default:
		return
	}
	c.forget(h.Time - KeptConnections)
	c.add(&n)
}

// keptConnection is a connection in full, as records have it and as it is kept on disk.
type keptConnection struct {
	Pos       evidence.Position
	At, Start int64
	Resource  string
	Own       string `json:",omitempty"`
	Client    string // address:port, "" for a unix socket
	PID       uint32
	Run       uint32 `json:",omitempty"`
}

func (c *Connections) add(n *keptConnection) {
	if c.n >= c.most {
		c.forget(c.oldest(c.most / 16))
	}
	g, ok1 := c.names.id(n.Pos.Gateway)
	r, ok2 := c.names.id(n.Resource)
	o, ok3 := c.names.id(n.Own)
	if !ok1 || !ok2 || !ok3 { // bounded as connections are: the oldest make room, here all
		c.pages, c.n, c.names = nil, 0, newNames()
		c.add(n)
		return
	}
	if last := len(c.pages) - 1; last < 0 || len(c.pages[last]) == pageLen {
		c.pages = append(c.pages, make([]connection, 0, pageLen))
	}
	last := &c.pages[len(c.pages)-1]
	k := keyOf(n.Client, n.PID)
	*last = append(*last, connection{addr: k.addr, port: k.port, own: o, resource: r, gateway: g, boot: n.Pos.Boot, seq: n.Pos.Seq, at: n.At, start: n.Start, pid: k.pid, run: n.Run})
	c.n++
}

// all goes through the connections in order of their records.
func (c *Connections) all(yield func(*connection) bool) {
	for _, page := range c.pages {
		for i := range page {
			if !yield(&page[i]) {
				return
			}
		}
	}
}

// oldest is the time of the record of the i-th connection.
func (c *Connections) oldest(i int) int64 {
	for n := range c.all {
		if i--; i < 0 {
			return n.at
		}
	}
	return 0
}

func (c *Connections) pos(n *connection) evidence.Position {
	return evidence.Position{Gateway: c.names.texts[n.gateway], Boot: n.boot, Seq: n.seq}
}

func (c *Connections) kept(n *connection) keptConnection {
	return keptConnection{c.pos(n), n.at, n.start, c.names.texts[n.resource], c.names.texts[n.own], n.key().client(), n.pid, n.run}
}

// KeptConnections is for how long a connection is remembered, and how old a log
// may be that is held against it: two days.
const KeptConnections = 2 * dayMicros

func keyOf(client string, pid uint32) connKey {
	if a, err := netip.ParseAddrPort(client); err == nil {
		return connKey{a.Addr().As16(), a.Port(), pid}
	}
	return connKey{pid: pid}
}

func (n *connection) key() connKey { return connKey{n.addr, n.port, n.pid} }

// client is the address, in one spelling.
func (k connKey) client() string {
	if k.addr == [16]byte{} && k.port == 0 {
		return ""
	}
	return netip.AddrPortFrom(netip.AddrFrom16(k.addr).Unmap(), k.port).String()
}

// among returns the connections that rows may be of, by their keys.
func (c *Connections) among(rows []evidence.ConnectionRow) map[connKey][]*connection {
	found := make(map[connKey][]*connection, len(rows))
	for i := range rows {
		found[keyOf(rows[i].Client, rows[i].PID)] = nil
	}
	for n := range c.all {
		if of, asked := found[n.key()]; asked {
			found[n.key()] = append(of, n)
		}
	}
	return found
}

// find returns the connection of a session in a log, or nil.
func (c *Connections) find(among map[connKey][]*connection, row *evidence.ConnectionRow) *connection {
	for _, n := range among[keyOf(row.Client, row.PID)] {
		if d := row.Start - n.start; n.run != c.run && -ReconSkew <= d && d <= ReconSkew {
			return n
		}
	}
	return nil
}

// forget drops what was recorded before a time.
func (c *Connections) forget(before int64) {
	for len(c.pages) > 0 {
		page := c.pages[0]
		i := 0
		for i < len(page) && page[i].at < before {
			i++
		}
		c.n -= i
		if i < len(page) {
			c.pages[0] = page[i:]
			return
		}
		c.pages[0] = nil
		c.pages = c.pages[1:]
	}
	c.pages = nil
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
	among := c.among(rows)
	for i := range rows {
		m := Matched{ConnectionRow: rows[i], Class: evidence.ReconUnexplained}
		n := c.find(among, &rows[i])
		switch {
		case n != nil && n.own != 0:
			n.run, m.Class, m.Reason, m.Of = c.run, evidence.ReconOwn, c.names.texts[n.own], c.pos(n)
		case n != nil:
			n.run, m.Class, m.Of = c.run, evidence.ReconGateway, c.pos(n)
		default:
			if d := allowedDirect(r.Direct, &rows[i]); d != nil {
				m.Class, m.Reason = evidence.ReconAllowed, d.Reason
			}
		}
		list[i] = m
	}
	since := w.since(before)
	for n := range c.all {
		if c.names.texts[n.resource] == r.Name && n.run == 0 && n.at > since+ReconSkew && n.at > before.To-ReconSkew && n.at <= w.To-ReconSkew {
			missing = append(missing, evidence.ReconKey{Class: evidence.ReconMissing, Client: n.key().client(), PID: n.pid, Of: c.pos(n)})
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
