package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// UpstreamLog is where an upstream's server logs its sessions, and how often
// that is held against the gateway's. Zero is nowhere.
type UpstreamLog struct {
	Files  string        // pattern of its files, whose names sort by age
	Format string        // of reconcile
	Every  time.Duration // 0 is only when somebody asks
}

// Counter reads how many sessions an upstream's server has counted.
type Counter interface {
	Counters(ctx context.Context, resource string) ([]evidence.CounterRow, string, int64, error) // rows, query, time by the server's clock
}

// Account reads what the gateway's account at an upstream may do by itself, and
// how the upstream lets people in, as far as that account sees it.
type Account interface {
	Privileges(ctx context.Context, resource string) (role string, rows []evidence.PrivilegeRow, read int, query string, err error)
	ServerConfig(ctx context.Context, resource string) (rows []evidence.ConfigRow, unread map[string]string, query string, err error)
}

// AskWith says who asks upstreams of a protocol about the gateway's account. Call
// it before Run.
func (g *Gateway) AskWith(protocol string, a Account) {
	if g.accounts == nil {
		g.accounts = make(map[string]Account)
	}
	g.accounts[protocol] = a
}

// ImportPrivileges implements api.Imports.
func (g *Gateway) ImportPrivileges(ctx context.Context, resource, ticket string, by evidence.By) (api.Import, error) {
	r, ok := (*g.resources.Load())[resource]
	if !ok {
		return api.Import{}, api.NotFound(fmt.Sprintf("there is no resource %.80q", resource), "exhibit config show has all")
	}
	a := g.accounts[r.Protocol]
	if ticket != "" && a == nil {
		return api.Import{}, api.Invalid("a ticket is for changes of a server's configuration, and "+resource+" is of the protocol "+r.Protocol, "import it without a ticket")
	}
	if r.Protocol == clusterProtocol && g.rights != nil {
		return g.askRights(ctx, r, by)
	}
	if a == nil {
		return api.Import{}, api.Invalid(resource+" is of the protocol "+r.Protocol+", whose accounts can't be asked about", "")
	}
	role, rows, read, query, err := a.Privileges(ctx, resource)
	if err != nil {
		return api.Import{}, fmt.Errorf("asking the upstream of %s about the gateway's account: %w", resource, err)
	}
	privileges, err := reconcile.Privileges("catalogue of "+resource, query, role, rows, read)
	if err != nil {
		return api.Import{}, err
	}
	config, unread, query, err := a.ServerConfig(ctx, resource)
	if err != nil {
		return api.Import{}, fmt.Errorf("asking the upstream of %s how it lets people in: %w", resource, err)
	}
	configs, err := reconcile.Config("configuration of "+resource, query, config, unread)
	if err != nil {
		return api.Import{}, err
	}
	configs.Ticket = ticket
	list, err := g.recordOf(ctx, resource, by, &privileges, &configs)
	if err != nil {
		return api.Import{}, err
	}
	list[0].Config = &api.ConfigImport{Position: list[1].Position, Rows: list[1].Rows, Digest: list[1].Digest, Unread: unread}
	return list[0], nil
}

// recordOf records imports of a resource from which nothing follows, all or none.
func (g *Gateway) recordOf(ctx context.Context, resource string, by evidence.By, bodies ...*evidence.ImportBody) ([]api.Import, error) {
	drafts := make([]*evidence.Draft, len(bodies))
	for i, b := range bodies {
		b.By = by
		drafts[i] = &evidence.Draft{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: resource}, Body: evidence.EncodeBody(b)}
	}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, drafts...); err != nil {
		return nil, g.problem(err)
	}
	list := make([]api.Import, len(bodies))
	for i, b := range bodies {
		list[i] = api.Import{Position: drafts[i].Head.Pos.String(), Kind: b.Kind, Rows: b.Rows, Kept: cmp.Or(b.Kept, b.Rows), Digest: b.Digest, File: b.File}
	}
	return list, nil
}

// CountWith says who reads the counters of upstreams of a protocol. Call it
// before Run.
func (g *Gateway) CountWith(protocol string, c Counter) {
	if g.counters == nil {
		g.counters = make(map[string]Counter)
	}
	g.counters[protocol] = c
}

// RecordOwn records a connection that the gateway made for itself.
func (g *Gateway) RecordOwn(ctx context.Context, resource string, b evidence.OwnUpstreamBody) error {
	_, err := g.RecordOwnRequest(ctx, resource, b)
	return err
}

// RecordOwnRequest is RecordOwn for a request that is known upstream by the
// position of its record, which it returns.
func (g *Gateway) RecordOwnRequest(ctx context.Context, resource string, b evidence.OwnUpstreamBody) (position string, err error) {
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.OwnUpstream, Resource: resource}, Body: evidence.EncodeBody(b)}
	_, err = g.recorder.Own().Record(ctx, 0, evidence.Process, d)
	return d.Head.Pos.String(), err
}

const (
	// settle is how long after a moment the server's log has it, and the gateway's
	// journal.
	settle = 2 * time.Second
	// maxLogRead bounds what is read of a server's log at once; what is behind it
	// is read next.
	maxLogRead   = 64 << 20
	reconcileDir = "reconcile" // in the data directory: how far logs were read
)

// reconcileAll holds the logs of upstreams against the gateway's sessions, each
// as often as the configuration says, until ctx is done.
func (g *Gateway) reconcileAll(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	due, failing := make(map[string]time.Time), make(map[string]bool)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.stopping:
			return nil
		case <-tick.C:
		}
		for _, r := range *g.resources.Load() {
			if r.Log.Every == 0 || time.Now().Before(due[r.Name]) {
				continue
			}
			due[r.Name] = time.Now().Add(r.Log.Every)
			_, err := g.reconcile(ctx, r, evidence.By{})
			if err != nil && ctx.Err() == nil && !failing[r.Name] {
				g.log.Error("an upstream's sessions cannot be held against the gateway's", "resource", r.Name, "cause", err)
				g.Alert("upstream-unread", "high", fmt.Sprintf("whether anything went around the gateway to %s is not known: %.300s", r.Name, err))
			}
			failing[r.Name] = err != nil
		}
	}
}

// Reconcile implements api.Imports.
func (g *Gateway) Reconcile(ctx context.Context, resource string, by evidence.By) (api.Reconciliation, error) {
	r, ok := (*g.resources.Load())[resource]
	switch {
	case !ok:
		return api.Reconciliation{}, api.NotFound(fmt.Sprintf("there is no resource %.80q", resource), "exhibit config show has all")
	case r.Log.Files == "":
		return api.Reconciliation{}, api.Invalid(resource+" has no log to read", "say under reconcile of the resource where its server's log is, or import one: exhibit import connections")
	}
	out, err := g.reconcile(ctx, r, by)
	if errors.Is(err, reconcile.ErrInput) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return out, api.Invalid(err.Error(), "nothing was imported")
	}
	return out, err
}

// reconcile reads what is new in the log of a resource's upstream, and its
// counters, and records both with what the sessions were found to be.
func (g *Gateway) reconcile(ctx context.Context, r Resource, by evidence.By) (out api.Reconciliation, err error) {
	g.reconciling.Lock()
	defer g.reconciling.Unlock()
	if r.Protocol == clusterProtocol {
		return g.reconcileCluster(ctx, r, by)
	}
	until := g.clock.now().UnixMicro()
	var counters *evidence.ImportBody
	if c := g.counters[r.Protocol]; c != nil {
		rows, query, at, err := c.Counters(ctx, r.Name)
		if err != nil {
			g.log.Warn("an upstream's counters cannot be read", "resource", r.Name, "cause", err)
		} else {
			b, err := reconcile.Counters(r.Name, query, rows, at)
			if err != nil {
				return out, err
			}
			until, counters = at, &b
		}
	}
	if err := settled(ctx); err != nil {
		return out, err
	}
	file := filepath.Join(g.opened.Data, reconcileDir, r.Name+".json")
	at, err := readPlace(file)
	if err != nil {
		return out, err
	}
	if at.To != 0 && at.To < rememberedSince(g.clock.now().UnixMicro(), workpaper.KeptConnections) {
		at = place{} // what it says of then can't be told any more: it begins at the log's end, and the gap shows
	}
	in := reconcile.Input{Source: "log of " + r.Name, Format: r.Log.Format, Query: "lines that begin with \"connection authorized\""}
	data, parts, err := at.read(r.Log.Files, maxLogRead)
	if err != nil {
		return out, err
	}
	in.Data = data
	l, err := reconcile.Connections(in, until)
	if err != nil {
		return out, fmt.Errorf("%s from byte %d on: %w", at.File, at.Offset, err)
	}
	w := workpaper.Window{From: cmp.Or(at.To, until), To: until} // what was before the first nobody asked for
	if len(data) >= maxLogRead && l.Last != 0 {
		w.To = l.Last // the rest comes with the next
	}
	w.From = min(w.From, w.To)
	l.Body.Params = map[string]string{"from": at.at()}
	at.advance(parts, l.Read)
	at.To = w.To
	l.Body.Params["to"] = at.at()
	if out, err = g.recordRun(ctx, r, &l.Body, counters, w, by); err != nil {
		return out, err
	}
	return out, at.write(file)
}

// rememberedSince is from when on a log can be held against what the gateway
// remembers for that long: an hour less, so that nothing is forgotten meanwhile.
func rememberedSince(now, kept int64) int64 { return now - kept + time.Hour.Microseconds() }

// place is how far a server's log has been read. It can be lost: then reading
// begins at the log's end, and what lies between shows as not covered.
type place struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	To     int64  `json:"to"` // time
	// First is a digest of the file's first line, where files are renamed when a
	// new one begins; "" is unknown.
	First string `json:"first,omitempty"`
}

func readPlace(file string) (p place, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return p, fmt.Errorf("finding out how far a log was read (delete %s to begin at its end): %w", file, err)
	}
	return p, nil
}

func (p *place) write(file string) error {
	b, err := json.Marshal(p)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = replaceFile(file, b)
	}
	if err != nil {
		return fmt.Errorf("keeping how far a log was read: %w", err)
	}
	return nil
}

// part is what was read of one file.
type part struct {
	file string
	from int64
	size int

	first string // digest of its first line, where that is asked for
}

// read reads what is behind p: of the file at hand, and of those after it. The
// first time it begins at the end.
func (p *place) read(pattern string, most int) (data []byte, parts []part, err error) {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no file is named %s: %w", pattern, fs.ErrNotExist)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("looking for a server's log: %w", err)
	}
	slices.Sort(files)
	if p.File == "" {
		p.File = files[len(files)-1]
		info, err := os.Stat(p.File)
		if err == nil {
			p.Offset, err = lineAfter(p.File, max(0, info.Size()-1))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading a server's log: %w", err)
		}
	}
	first, _ := slices.BinarySearch(files, p.File)
	for _, name := range files[first:] {
		next := part{file: name}
		if name == p.File {
			next.from = p.Offset
			if info, err := os.Stat(name); err == nil && info.Size() < p.Offset {
				next.from = 0 // the server began it anew
			}
		}
		b, err := readFrom(name, next.from, most-len(data))
		if err != nil {
			return nil, nil, fmt.Errorf("reading a server's log: %w", err)
		}
		next.size = len(b)
		data, parts = append(data, b...), append(parts, next)
		if len(data) >= most {
			break
		}
	}
	return data, parts, nil
}

// advance goes on behind what was taken of what was read.
func (p *place) advance(parts []part, taken int) {
	for i, r := range parts {
		p.File, p.Offset = r.file, r.from+int64(min(taken, r.size))
		if taken -= r.size; taken < 0 || taken == 0 && i+1 == len(parts) {
			return
		}
	}
}

func (p *place) at() string { return fmt.Sprintf("%s:%d", filepath.Base(p.File), p.Offset) }

// lineAfter returns where the line behind an offset begins.
func lineAfter(name string, offset int64) (int64, error) {
	data, err := readFrom(name, offset, maxLogRead)
	if i := bytes.IndexByte(data, '\n'); err == nil && i >= 0 {
		return offset + int64(i) + 1, nil
	}
	return offset + int64(len(data)), err
}

func readFrom(name string, offset int64, most int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, offset, int64(most)))
}

// recordRun records an import of connections, with counters if there are any,
// and what the connections were found to be, all or none. The caller holds
// g.reconciling.
func (g *Gateway) recordRun(ctx context.Context, r Resource, b, counters *evidence.ImportBody, w workpaper.Window, by evidence.By) (api.Reconciliation, error) {
	if w.From < rememberedSince(g.clock.now().UnixMicro(), workpaper.KeptConnections) {
		return api.Reconciliation{}, api.Invalid(fmt.Sprintf("the log begins at %s, and sessions are remembered for two days", workpaper.FormatTime(w.From)), "import logs at least once a day")
	}
	connections, before, err := g.connections(ctx, r.Name, w.From)
	if err != nil {
		return api.Reconciliation{}, err
	}
	if g.counted == nil {
		g.counted = make(map[string]*workpaper.Upstream)
	}
	u := workpaper.Upstream{}
	if known := g.counted[r.Name]; known != nil {
		u = known.Clone()
	} else {
		u.Window = before
	}
	head := func(t evidence.Type) evidence.Head { return evidence.Head{Type: t, Resource: r.Name} }
	b.By = by
	drafts := []*evidence.Draft{{Head: head(evidence.ImportSnapshot), Body: evidence.EncodeBody(b)}}
	ok := u.Reads(&drafts[0].Head, b)
	if counters != nil {
		drafts = append(drafts, &evidence.Draft{Head: head(evidence.ImportSnapshot), Body: evidence.EncodeBody(counters)})
		ok = ok && u.Reads(&drafts[1].Head, counters)
	}
	if !ok {
		return api.Reconciliation{}, errors.New("an import can't be read again: this is a mistake in the gateway")
	}
	resource, _ := g.registry().Resource(r.Name)
	run, _ := u.Run(connections, resource, w)
	run.By = by
	drafts = append(drafts, &evidence.Draft{Head: head(evidence.ReconRun), Body: evidence.EncodeBody(run)})
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, drafts...); err != nil {
		return api.Reconciliation{}, g.problem(err)
	}
	g.counted[r.Name] = &u
	return api.Reconciliation{
		Position: drafts[len(drafts)-1].Head.Pos.String(), Resource: r.Name, Of: api.OfSessions, From: moment(run.From), To: moment(run.To),
		Logged: run.Logged, Gateway: run.Gateway, Own: run.Own, Allowed: run.Allowed, Unexplained: run.Unexplained, Missing: run.Missing,
		Tie: run.Tie, Counted: run.Counted, Compared: run.Compared, Sessions: append([]evidence.ReconKey{}, run.Keys...),
	}, nil
}

// connections are those that the gateway recorded since shortly before a time,
// marked as what earlier runs found in logs, and the window of the last of those
// runs.
func (g *Gateway) connections(ctx context.Context, resource string, from int64) (*workpaper.Connections, workpaper.Window, error) {
	var records []evidence.Record
	err := g.sealer.ScanSince(ctx, from-2*workpaper.ReconSkew, func(r *evidence.Record) error {
		switch r.Head.Type {
		case evidence.SessionUpstream, evidence.OwnUpstream, evidence.ReconRun, evidence.ImportSnapshot:
			records = append(records, evidence.Record{Head: r.Head, Body: bytes.Clone(r.Body)})
		}
		return nil
	})
	if err != nil {
		return nil, workpaper.Window{}, fmt.Errorf("reading the log: %w", err)
	}
	slices.SortFunc(records, func(a, b evidence.Record) int {
		return cmp.Or(cmp.Compare(a.Head.Pos.Boot, b.Head.Pos.Boot), cmp.Compare(a.Head.Pos.Seq, b.Head.Pos.Seq))
	})
	c, u := workpaper.NewConnections(), workpaper.Upstream{}
	res, _ := g.registry().Resource(resource)
	for i := range records {
		h, body := &records[i].Head, records[i].Body
		c.Observe(h, body)
		if h.Resource != resource {
			continue
		}
		switch h.Type {
		case evidence.ImportSnapshot:
			b := decoded[evidence.ImportBody](body)
			u.Reads(h, b)
		case evidence.ReconRun:
			b := decoded[evidence.ReconBody](body)
			u.Run(c, res, workpaper.Window{From: b.From, To: b.To})
		}
	}
	return c, u.Window, nil
}

// importConnections records a log of an upstream's sessions that somebody brings,
// with what they were found to be.
func (g *Gateway) importConnections(ctx context.Context, n api.NewImport, in reconcile.Input, by evidence.By) (api.Import, error) {
	r, ok := (*g.resources.Load())[n.Resource]
	if !ok || r.Protocol != "postgres" {
		return api.Import{}, api.Invalid(fmt.Sprintf("%.80q is no resource of the protocol postgres", n.Resource), "name the resource whose server wrote the log")
	}
	l, err := reconcile.Connections(in, 0)
	if err != nil {
		return api.Import{}, err
	}
	if l.First == 0 {
		return api.Import{}, fmt.Errorf("%w: it has no whole line", reconcile.ErrInput)
	}
	g.reconciling.Lock()
	defer g.reconciling.Unlock()
	l.Body.Extracted = micros(n.Extracted)
	run, err := g.recordRun(ctx, r, &l.Body, nil, workpaper.Window{From: l.First, To: l.Last}, by)
	if err != nil {
		return api.Import{}, err
	}
	out := api.Import{Position: run.Position, Kind: l.Body.Kind, Rows: l.Body.Rows, Kept: l.Body.Rows, Digest: l.Body.Digest, File: l.Body.File, Reconciled: &run}
	if l.Body.Kept > 0 || run.Logged == 0 {
		out.Kept = run.Logged
	}
	return out, nil
}
