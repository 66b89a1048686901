package workpaper

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const reconRequestsTable = "recon_requests"

// asksCluster takes a command that goes on to a cluster whose log is held against
// the gateway's commands.
func (f *Fold) asksCluster(h *evidence.Head, in *intent) {
	if !in.ok || in.Path != "http" || h.Outcome != "" || f.told != nil {
		return
	}
	if r, ok := f.registry.Resource(h.Resource); ok && Watched(&r) {
		f.recon.commands().Intent(h, &in.IntentBody, &r)
	}
}

func (f *Fold) ownRequest(h *evidence.Head, b *evidence.OwnUpstreamBody) {
	if r, ok := f.registry.Resource(h.Resource); ok && b.Text != "" {
		f.recon.commands().Own(h, b, &r)
	}
}

func (s *reconState) commands() *Requests {
	if s.requests == nil {
		s.requests = NewRequests()
	}
	return s.requests
}

func (s *reconState) trail(resource string) *Trail {
	t := s.trails[resource]
	if t == nil {
		t = &Trail{}
		if s.trails == nil {
			s.trails = make(map[string]*Trail)
		}
		s.trails[resource] = t
	}
	return t
}

func (f *Fold) importedRequests(h *evidence.Head, b *evidence.ImportBody) {
	f.recon.awaited, f.recon.requested = h.Pos, true
	var list []evidence.RequestRow
	if err := evidence.DecodeBody(b.Data, &list); err != nil {
		f.tests.imports.Except(h.Pos, "its data has no rows of the kind %.80q: %.200s", b.Kind, err)
		return
	}
	n := 0
	for i := range list {
		n += list[i].Count()
	}
	if n != b.Rows {
		f.tests.imports.Except(h.Pos, "says that it has %d requests and has %d", b.Rows, n)
	}
	f.recon.trail(h.Resource).rows = list
}

// requestRun makes a run over a cluster's requests again, from the import and the
// commands on record.
func (f *Fold) requestRun(h *evidence.Head, b *evidence.ReconBody) error {
	s, t := &f.recon, &f.tests.bypass
	s.awaited, s.requested = evidence.Position{}, false
	r, _ := f.registry.Resource(h.Resource)
	trail, w := s.trail(h.Resource), Window{b.From, b.To}
	before := trail.Window
	if before.To == 0 {
		trail.begun = h.Pos
	}
	run := trail.Run(s.commands(), h.Pos.Gateway, &r, w)
	if !f.watch.whole {
		f.adopt(&run, trail, b)
	}
	// Of the first run of a range that isn't the log's first the window before isn't
	// known, and what it says is missing can't be made again.
	if own := run.Body(w); f.watch.whole || before.To != 0 {
		own.By = b.By
		if !bytes.Equal(evidence.EncodeBody(own), evidence.EncodeBody(b)) {
			t.Except(h.Pos, "says %s; the log and the records before it say %s", said(b), said(&own))
		}
	}
	s.unlogged += uint64(b.Unlogged)
	if err := f.reconRunRow(h, b, before, b.Logged+b.Missing); err != nil {
		return err
	}
	s.asked.missing += uint64(b.Missing)
	for _, k := range b.Keys {
		if k.Class == evidence.ReconMissing {
			t.Except(h.Pos, "the audit log of %s lacks %s", h.Resource, k.Of)
		}
	}
	return f.requestRows(h, run.List)
}

// adopt takes over what a run says of commands that aren't known here, being from
// before the range, or of which it isn't known whether the log covered them.
func (f *Fold) adopt(run *RequestRun, trail *Trail, b *evidence.ReconBody) {
	claimed := make(map[evidence.ReconKey]string) // what doesn't fit, by the rest
	missing := slices.DeleteFunc(run.Missing, func(k evidence.ReconKey) bool { return k.Of.Before(trail.begun) })
	run.Missing = nil
	for _, k := range b.Keys {
		if k.Class == evidence.ReconMissing {
			if k.Of.Before(trail.begun) {
				run.Missing = append(run.Missing, k)
			}
			continue
		}
		why := k.Why
		k.Why = ""
		claimed[k] = why
	}
	run.Missing = append(run.Missing, missing...)
	run.Unlogged = b.Unlogged
	for i := range run.List {
		m := &run.List[i]
		p, err := evidence.ParsePosition(m.ID)
		if err != nil || p.Gateway != f.first.Gateway || !p.Before(f.first) {
			continue
		}
		k := m.key()
		k.Why = ""
		if why, ok := claimed[k]; ok {
			m.Reason = why
			delete(claimed, k)
			continue
		}
		m.Class, m.Reason, m.Of = evidence.ReconGateway, "", p
		if m.As == "" && m.Code != forbidden {
			m.Class = evidence.ReconOwn
		}
	}
}

func (f *Fold) requestRows(h *evidence.Head, list []MatchedRequest) error {
	s, t := &f.recon.asked, &f.tests.bypass
	for i := range list {
		m := &list[i]
		n := uint64(m.Count())
		s.logged += n
		switch m.Class {
		case evidence.ReconGateway:
			s.ofAgents += n
		case evidence.ReconOwn:
			s.own += n
		case evidence.ReconAllowed:
			s.allowed += n
		default:
			s.unexplained += n
			why := "and not through the gateway"
			if m.Reason != "" {
				why = m.Reason
			}
			t.Except(h.Pos, "user %.100s asked the cluster of %s from %.100s at %s for %.200s, %s", m.User, h.Resource, m.From, FormatTime(m.At), m.text(), why)
		}
		code := ""
		if m.Code != 0 {
			code = strconv.Itoa(m.Code)
		}
		if err := f.row(reconRequestsTable, pos(h.Pos), h.Resource, FormatTime(m.At), FormatTime(m.Until), m.ID, m.User, join(m.Groups), m.As, join(m.AsGroups), m.From,
			m.Verb, m.Object(), m.Stage, code, count(n), m.Class, m.Reason, pos(m.Of)); err != nil {
			return err
		}
	}
	return nil
}
