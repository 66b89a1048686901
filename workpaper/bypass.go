package workpaper

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const (
	reconTable     = "recon"
	reconRunsTable = "recon_runs"
)

// reconState is what the range says of upstreams' sessions.
type reconState struct {
	connections *Connections
	upstreams   map[string]*Upstream // by resource
	awaited     evidence.Position    // import of connections or requests whose run must follow
	gap         int64                // seconds between windows, all together
	requests    *Requests            // of clusters; nil before there are any
	trails      map[string]*Trail    // by resource
	requested   bool                 // awaited is an import of requests
	unlogged    uint64               // commands that clusters leave out

	runs uint64
	reconSums
	asked reconSums // of clusters
}

// reconSums are how many sessions or requests were found to be what.
type reconSums struct{ logged, ofAgents, own, allowed, unexplained, missing uint64 }

func (s *reconState) observe(h *evidence.Head, body []byte) {
	if s.connections == nil {
		s.connections, s.upstreams = NewConnections(), make(map[string]*Upstream)
	}
	s.connections.Observe(h, body)
}

func (s *reconState) upstream(resource string) *Upstream {
	u := s.upstreams[resource]
	if u == nil {
		u = &Upstream{}
		s.upstreams[resource] = u
	}
	return u
}

func (f *Fold) importedConnections(h *evidence.Head, b *evidence.ImportBody) {
	var ok bool
	if b.Kind == evidence.ImportConnections {
		_, ok = rows[evidence.ConnectionRow](f, h, b)
		f.recon.awaited, f.recon.requested = h.Pos, false
	} else {
		_, ok = rows[evidence.CounterRow](f, h, b)
	}
	if ok {
		f.recon.upstream(h.Resource).Reads(h, b)
	}
}

// reconciledNext checks that an import of connections is reconciled in the same
// write.
func (f *Fold) reconciledNext(h *evidence.Head) {
	s := &f.recon
	if s.awaited.IsZero() || h.Type == evidence.ReconRun || h.Type == evidence.ImportSnapshot && h.Of == s.awaited {
		return
	}
	f.tests.bypass.Except(s.awaited, "is a log of an upstream's sessions, and nothing held it against the gateway's")
	s.awaited, s.requested = evidence.Position{}, false
}

// reconRun makes a run again from the imports and the connections on record.
func (f *Fold) reconRun(r *evidence.Record) error {
	h, s := &r.Head, &f.recon
	var b evidence.ReconBody
	if !f.decode(r, &b) {
		return nil
	}
	t := &f.tests.bypass
	t.State, t.Note = "", ""
	if h.Of != s.awaited {
		t.Except(h.Pos, "is of import %q, and no log of an upstream's sessions stands before it", h.Of)
		return nil
	}
	if s.requested {
		return f.requestRun(h, &b)
	}
	s.awaited = evidence.Position{}
	resource, _ := f.registry.Resource(h.Resource)
	u := s.upstream(h.Resource)
	before, counted := u.Window, u.counters != nil
	own, list := u.Run(s.connections, resource, Window{b.From, b.To})
	// What lies before the range isn't known here: sessions let in then, windows and
	// counters read then.
	whole := f.watch.whole || b.From > f.openedAt+2*ReconSkew && before.To != 0
	if whole {
		own.By = b.By
		if !counted || b.Tie == evidence.TieNone { // a boot doesn't know what the one before counted
			own.Tie, own.Counted, own.Compared = b.Tie, b.Counted, b.Compared
		}
		if !bytes.Equal(evidence.EncodeBody(own), evidence.EncodeBody(b)) {
			t.Except(h.Pos, "says %s; the log and the records before it say %s", said(&b), said(&own))
		}
	}
	if err := f.reconRunRow(h, &b, before, len(list)+b.Missing); err != nil {
		return err
	}
	switch b.Tie {
	case evidence.Untied:
		t.Except(h.Pos, "the counters of the upstream of %s say %d sessions, its log has %d", h.Resource, b.Counted, b.Compared)
	case evidence.TieReset:
		t.Except(h.Pos, "the counters of the upstream of %s were set back", h.Resource)
	}
	return f.reconRows(h, &b, list, whole)
}

// reconRunRow counts a run, whose window follows another or none, and writes its
// row.
func (f *Fold) reconRunRow(h *evidence.Head, b *evidence.ReconBody, before Window, population int) error {
	s, t := &f.recon, &f.tests.bypass
	gap := ""
	if before.To != 0 {
		gap = strconv.FormatInt(max(0, (b.From-before.To)/1e6), 10)
		s.gap += max(0, (b.From-before.To)/1e6)
	}
	if s.gap > 0 {
		t.Note = fmt.Sprintf("of %d s between the windows nothing is known", s.gap)
	}
	if s.unlogged > 0 {
		if t.Note != "" {
			t.Note += "; "
		}
		t.Note += fmt.Sprintf("of %d commands clusters are said to log nothing", s.unlogged)
	}
	s.runs++
	t.Population += uint64(population)
	return f.row(reconRunsTable, pos(h.Pos), f.clock.format(h.Time), h.Resource, pos(h.Of), FormatTime(b.From), FormatTime(b.To), gap, strconv.Itoa(b.Logged), strconv.Itoa(b.Gateway),
		strconv.Itoa(b.Own), strconv.Itoa(b.Allowed), strconv.Itoa(b.Unexplained), strconv.Itoa(b.Missing), b.Tie,
		strconv.FormatInt(max(0, b.Counted), 10), strconv.FormatInt(b.Compared, 10), b.By.Person.ID)
}

func said(b *evidence.ReconBody) string {
	return fmt.Sprintf("%d logged, %d of agents, %d own, %d allowed, %d unexplained, %d missing, %s (%d to %d)",
		b.Logged, b.Gateway, b.Own, b.Allowed, b.Unexplained, b.Missing, b.Tie, b.Counted, b.Compared)
}

func (f *Fold) reconRows(h *evidence.Head, b *evidence.ReconBody, list []Matched, whole bool) error {
	s, t := &f.recon, &f.tests.bypass
	s.missing += uint64(b.Missing)
	for _, k := range b.Keys {
		if k.Class == evidence.ReconMissing {
			t.Except(h.Pos, "the log of the upstream of %s lacks %s, from %.100s with pid %d", h.Resource, k.Of, orLocal(k.Client), k.PID)
		}
	}
	claimed := make(map[string]bool) // unexplained, as the run says
	for _, k := range b.Keys {
		claimed[k.Session] = k.Class == evidence.ReconUnexplained
	}
	for i := range list {
		m := &list[i]
		if !whole && m.Class == evidence.ReconUnexplained && !claimed[m.Session] && m.At < f.openedAt+2*ReconSkew {
			m.Class = evidence.ReconGateway // of before the range: the run had it
		}
		s.logged++
		switch m.Class {
		case evidence.ReconGateway:
			s.ofAgents++
		case evidence.ReconOwn:
			s.own++
		case evidence.ReconAllowed:
			s.allowed++
		default:
			s.unexplained++
			t.Except(h.Pos, "user %.100s was let in to %.100s from %.100s at %s, and not through the gateway", m.User, m.Database, orLocal(m.Client), FormatTime(m.At))
		}
		if err := f.row(reconTable, pos(h.Pos), h.Resource, FormatTime(m.At), m.Session, m.User, m.Database, m.Client, strconv.FormatUint(uint64(m.PID), 10), FormatTime(m.Start),
			m.Class, m.Reason, pos(m.Of)); err != nil {
			return err
		}
	}
	return nil
}
