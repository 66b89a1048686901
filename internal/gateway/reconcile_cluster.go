package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// clusterProtocol is the protocol of resources whose upstreams are clusters.
const clusterProtocol = "kubernetes"

const (
	// maxAuditRead bounds what is read of an audit log at once, and so a line.
	maxAuditRead = 16 << 20
	// maxAuditRuns is how many times that is done at once.
	maxAuditRuns = 64
)

// clusterLog is what the log says of commands for clusters: a fold of its last day
// that goes on with it, so that a run costs no more than what is new.
type clusterLog struct {
	reader    *seal.Reader
	requests  *workpaper.Requests
	trails    map[string]*workpaper.Trail
	resources map[string]evidence.Resource // as configured at the newest record
}

// clusters returns the commands for clusters that no audit log was held against
// yet, up to now. The caller holds g.reconciling.
func (g *Gateway) clusters(ctx context.Context) (*clusterLog, error) {
	a := g.clusterLog
	g.clusterLog = nil // what was read in part is of no use
	if a == nil {
		from := g.clock.now().UnixMicro() - workpaper.KeptRequests
		a = &clusterLog{requests: workpaper.NewRequests(), trails: make(map[string]*workpaper.Trail)}
		before := func(r *evidence.Record) bool { return r.Head.Type == evidence.ConfigChange && r.Head.Time < from }
		err := g.sealer.ScanControl(ctx, before, func(r *evidence.Record) error {
			if before(r) {
				a.configured(r.Body)
			}
			return nil
		})
		if err == nil {
			a.reader, err = g.sealer.ReadSince(from)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
	}
	for {
		n, err := a.reader.Next(ctx, func(r *evidence.Record) error {
			a.take(r)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		if n == 0 {
			break
		}
	}
	g.clusterLog = a
	return a, nil
}

func (a *clusterLog) configured(body []byte) {
	a.resources = make(map[string]evidence.Resource)
	for _, r := range decoded[evidence.ConfigBody](body).Resources {
		a.resources[r.Name] = r
	}
}

func (a *clusterLog) take(r *evidence.Record) {
	h := &r.Head
	if h.Type == evidence.ConfigChange {
		a.configured(r.Body)
		return
	}
	resource := a.resources[h.Resource]
	a.requests.Observe(h, r.Body, &resource)
	if resource.Protocol != clusterProtocol {
		return
	}
	switch h.Type {
	case evidence.ImportSnapshot:
		a.trail(h.Resource).Reads(decoded[evidence.ImportBody](r.Body))
	case evidence.ReconRun:
		b := decoded[evidence.ReconBody](r.Body)
		a.trail(h.Resource).Run(a.requests, h.Pos.Gateway, &resource, workpaper.Window{From: b.From, To: b.To})
	}
}

func (a *clusterLog) trail(resource string) *workpaper.Trail {
	t := a.trails[resource]
	if t == nil {
		t = &workpaper.Trail{}
		a.trails[resource] = t
	}
	return t
}

// reconcileCluster reads what is new in the audit log of a resource's cluster,
// and records it with what the requests were found to be. The caller holds
// g.reconciling.
func (g *Gateway) reconcileCluster(ctx context.Context, r Resource, by evidence.By) (out api.Reconciliation, err error) {
	until := g.clock.now().UnixMicro()
	if err := settled(ctx); err != nil {
		return out, err
	}
	file := filepath.Join(g.opened.Data, reconcileDir, r.Name+".json")
	at, err := readPlace(file)
	if err != nil {
		return out, err
	}
	a, err := g.clusters(ctx)
	if err != nil {
		return out, err
	}
	if at.To != 0 && at.To < rememberedSince(until, workpaper.KeptRequests) || a.requests.Full() {
		at = place{} // what it says of then can't be told any more: it begins at the log's end, and the gap shows
	}
	for n := range maxAuditRuns {
		data, parts, lost, err := at.follow(r.Log.Files, maxAuditRead)
		if err != nil {
			return out, err
		}
		in := reconcile.Input{Source: "audit log of " + r.Name, Format: r.Log.Format, Query: "requests that were answered, or whose answer began", Data: data}
		l, err := reconcile.Requests(in, g.toldOf(r))
		if err != nil {
			return out, fmt.Errorf("%s from byte %d on: %w", at.File, at.Offset, err)
		}
		rest := bytes.LastIndexByte(data, '\n') + 1 - l.Read
		if l.Read == 0 && len(data) >= maxAuditRead {
			return out, fmt.Errorf("%s from byte %d on: %w: a line of more than %d bytes", at.File, at.Offset, reconcile.ErrInput, maxAuditRead)
		}
		w := workpaper.Window{From: cmp.Or(at.To, until), To: until}
		if lost {
			w.From = cmp.Or(l.First, until) // what stood behind what was read is gone
		}
		more := rest > 0 || len(data) >= maxAuditRead
		if more {
			w.To = min(w.To, max(l.Last, w.From)) // the rest comes with the next
		}
		w.From = min(w.From, w.To)
		l.Body.Params = map[string]string{"from": at.at()}
		at.goOn(parts, l.Read)
		at.To = w.To
		l.Body.Params["to"] = at.at()
		run, err := g.recordRequests(ctx, r, &l.Body, w, by)
		if err != nil {
			return out, err
		}
		if err := at.write(file); err != nil {
			return out, err
		}
		if out = together(out, run); !more || n+1 == maxAuditRuns {
			break
		}
	}
	return out, nil
}

// settled returns once what was recorded before can be read.
func settled(ctx context.Context) error {
	select {
	case <-time.After(settle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// together is what two runs of one log gave.
func together(a, b api.Reconciliation) api.Reconciliation {
	if a.Resource == "" {
		return b
	}
	b.From = a.From
	b.Logged, b.Gateway, b.Own, b.Allowed = a.Logged+b.Logged, a.Gateway+b.Gateway, a.Own+b.Own, a.Allowed+b.Allowed
	b.Unexplained, b.Missing, b.Unlogged = a.Unexplained+b.Unexplained, a.Missing+b.Missing, a.Unlogged+b.Unlogged
	b.Sessions = slices.Concat(a.Sessions, b.Sessions)
	b.Sessions = b.Sessions[:min(len(b.Sessions), evidence.MaxReconKeys)]
	return b
}

// toldOf says which requests to a resource are kept one by one.
func (g *Gateway) toldOf(r Resource) reconcile.Told {
	resource, _ := g.registry().Resource(r.Name)
	return reconcile.Told{
		Ours: func(id string) bool {
			p, err := evidence.ParsePosition(id)
			return err == nil && p.Gateway == g.opened.Name
		},
		Allowed: func(row *evidence.RequestRow) bool { return workpaper.AllowedRequest(&resource, row) != nil },
	}
}

// recordRequests records an import of requests with what they were found to be,
// all or none. The caller holds g.reconciling.
func (g *Gateway) recordRequests(ctx context.Context, r Resource, b *evidence.ImportBody, w workpaper.Window, by evidence.By) (out api.Reconciliation, err error) {
	if w.From < rememberedSince(g.clock.now().UnixMicro(), workpaper.KeptRequests) {
		return out, api.Invalid(fmt.Sprintf("the log begins at %s, and commands are remembered for a day", workpaper.FormatTime(w.From)), "import logs more often than once a day")
	}
	a, err := g.clusters(ctx)
	if err != nil {
		return out, err
	}
	if a.requests.Full() && b.Rows > 0 {
		return out, api.Unavailable(fmt.Sprintf("there are more commands than the %d of which it is remembered that an audit log should have them", workpaper.MaxRequests), "import logs more often")
	}
	resource := a.resources[r.Name]
	if !workpaper.Watched(&resource) {
		return out, api.Invalid("it isn't said who the gateway is at the cluster of "+r.Name, "kubernetes: {account: NAME} of the resource, as kubectl auth whoami says")
	}
	trail := *a.trail(r.Name)
	b.By = by
	if !trail.Reads(b) {
		return out, errors.New("an import can't be read again: this is a mistake in the gateway")
	}
	found := trail.Run(a.requests.Clone(), g.opened.Name, &resource, w)
	run := found.Body(w)
	run.By = by
	drafts := []*evidence.Draft{
		{Head: evidence.Head{Type: evidence.ImportSnapshot, Resource: r.Name}, Body: evidence.EncodeBody(b)},
		{Head: evidence.Head{Type: evidence.ReconRun, Resource: r.Name}, Body: evidence.EncodeBody(run)},
	}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, drafts...); err != nil {
		return out, g.problem(err)
	}
	return api.Reconciliation{
		Position: drafts[1].Head.Pos.String(), Resource: r.Name, Of: api.OfRequests, From: moment(run.From), To: moment(run.To),
		Logged: run.Logged, Gateway: run.Gateway, Own: run.Own, Allowed: run.Allowed, Unexplained: run.Unexplained, Missing: run.Missing, Unlogged: run.Unlogged,
		Tie: run.Tie, Sessions: append([]evidence.ReconKey{}, run.Keys...),
	}, nil
}

// importRequests records an audit log that somebody brings, with what its
// requests were found to be.
func (g *Gateway) importRequests(ctx context.Context, n api.NewImport, in reconcile.Input, by evidence.By) (api.Import, error) {
	r, ok := (*g.resources.Load())[n.Resource]
	if !ok || r.Protocol != clusterProtocol {
		return api.Import{}, api.Invalid(fmt.Sprintf("%.80q is no resource of the protocol kubernetes", n.Resource), "name the resource whose API server wrote the log")
	}
	g.reconciling.Lock()
	defer g.reconciling.Unlock()
	var logs []reconcile.Log
	for len(in.Data) > 0 {
		l, err := reconcile.Requests(in, g.toldOf(r))
		if err != nil {
			return api.Import{}, err
		}
		if l.Read == 0 {
			break // what is behind the last whole line
		}
		in.Data = in.Data[l.Read:]
		logs = append(logs, l)
	}
	if len(logs) == 0 || logs[0].First == 0 {
		return api.Import{}, fmt.Errorf("%w: it has no whole line", reconcile.ErrInput)
	}
	if err := settled(ctx); err != nil {
		return api.Import{}, err
	}
	var out api.Import
	var all api.Reconciliation
	from := logs[0].First
	for i := range logs {
		l := &logs[i]
		l.Body.Extracted = micros(n.Extracted)
		w := workpaper.Window{From: from, To: max(from, l.Last)}
		run, err := g.recordRequests(ctx, r, &l.Body, w, by)
		if err != nil {
			return api.Import{}, err
		}
		from, all = w.To, together(all, run)
		out = api.Import{Position: run.Position, Kind: l.Body.Kind, Rows: out.Rows + l.Body.Rows, Kept: out.Kept + cmp.Or(l.Body.Kept, l.Body.Rows), Digest: l.Body.Digest, File: l.Body.File}
	}
	out.Reconciled = &all
	return out, nil
}

// Rights reads who may do what in a cluster: who the gateway is there, and its
// roles and bindings as a List of the API, in JSON.
type Rights interface {
	Rights(ctx context.Context, resource string) (account string, list []byte, query string, err error)
}

// ReadRightsWith says who reads the rights of clusters. Call it before Run.
func (g *Gateway) ReadRightsWith(r Rights) { g.rights = r }

// askRights imports who may do what in a resource's cluster, as the gateway's own
// account sees it.
func (g *Gateway) askRights(ctx context.Context, r Resource, by evidence.By) (api.Import, error) {
	account, list, query, err := g.rights.Rights(ctx, r.Name)
	if err != nil {
		return api.Import{}, fmt.Errorf("asking the cluster of %s who may do what: %w", r.Name, err)
	}
	b, err := reconcile.Rights(reconcile.Input{Source: "RBAC of " + r.Name, Query: query, Data: list}, account)
	if err != nil {
		return api.Import{}, err
	}
	b.File = ""
	imported, err := g.recordOf(ctx, r.Name, by, &b)
	if err != nil {
		return api.Import{}, err
	}
	return imported[0], nil
}

// importRights records who may do what in a cluster, from a file.
func (g *Gateway) importRights(ctx context.Context, n api.NewImport, in reconcile.Input, by evidence.By) (api.Import, error) {
	r, ok := (*g.resources.Load())[n.Resource]
	if !ok || r.Protocol != clusterProtocol {
		return api.Import{}, api.Invalid(fmt.Sprintf("%.80q is no resource of the protocol kubernetes", n.Resource), "name the resource whose cluster it is of")
	}
	account := ""
	if r.Cluster != nil {
		account = r.Cluster.Account
	}
	b, err := reconcile.Rights(in, account)
	if err != nil {
		return api.Import{}, err
	}
	b.Extracted = micros(n.Extracted)
	list, err := g.recordOf(ctx, r.Name, by, &b)
	if err != nil {
		return api.Import{}, err
	}
	return list[0], nil
}

// errRotated means that files were renamed while they were read.
var errRotated = errors.New("the log was rotated while it was read")

// follow is read of a log whose file is renamed when a new one begins: where the
// file at hand is now is found by its first line. Lost says that it is nowhere,
// and reading begins with the newest file.
func (p *place) follow(pattern string, most int) (data []byte, parts []part, lost bool, err error) {
	for range 3 {
		at := *p
		if data, parts, lost, err = at.followOnce(pattern, most); !errors.Is(err, errRotated) {
			*p = at
			break
		}
	}
	return data, parts, lost, err
}

func (p *place) followOnce(pattern string, most int) (data []byte, parts []part, lost bool, err error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, nil, false, fmt.Errorf("looking for a server's log: %w", err)
	}
	slices.Sort(files)
	if p.First != "" {
		if lost, err = p.find(files); err != nil {
			return nil, nil, false, err
		}
	}
	if data, parts, err = p.read(pattern, most); err != nil {
		return nil, nil, false, err
	}
	for i := range parts {
		first, err := firstLine(parts[i].file)
		if err != nil {
			return nil, nil, false, err
		}
		if parts[i].first = first; parts[i].file == p.File && p.First != "" && first != p.First {
			return nil, nil, false, errRotated
		}
	}
	again, err := filepath.Glob(pattern)
	if slices.Sort(again); err == nil && !slices.Equal(files, again) {
		err = errRotated
	}
	return data, parts, lost, err
}

// find goes to where the file at hand is now.
func (p *place) find(files []string) (lost bool, err error) {
	at := slices.Index(files, p.File)
	for i := range len(files) + 1 { // mostly it is where it was, or else one of the newest
		name := p.File
		if i > 0 {
			name = files[len(files)-i]
		} else if at < 0 {
			continue
		}
		first, err := firstLine(name)
		if err != nil {
			return false, err
		}
		if first == p.First {
			p.File = name
			return false, nil
		}
	}
	if len(files) > 0 {
		p.File, p.Offset, p.First = files[len(files)-1], 0, ""
	}
	return true, nil
}

// goOn goes on behind what was taken of what was read. It stays with a file
// until the next has a line, by which that is known.
func (p *place) goOn(parts []part, taken int) {
	for len(parts) > 1 && parts[len(parts)-1].first == "" {
		parts = parts[:len(parts)-1]
	}
	p.advance(parts, taken)
	for i := range parts {
		if parts[i].file == p.File {
			p.First = parts[i].first
		}
	}
}

// maxFirst bounds what a file is known by.
const maxFirst = 4096

// firstLine is a digest of a file's first line, or of what of it is long enough
// to know it by; "" as long as neither is there.
func firstLine(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("reading a server's log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFirst))
	if err != nil {
		return "", fmt.Errorf("reading a server's log: %w", err)
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	} else if len(b) < maxFirst {
		return "", nil
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
