package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/journal"
	"github.com/exhibit-gateway/exhibit/internal/pack"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/ledger"
	"github.com/exhibit-gateway/exhibit/verify"
)

// LogStatus implements api.Log.
func (g *Gateway) LogStatus(context.Context) (api.LogStatus, error) {
	st := g.sealer.Status()
	s := api.LogStatus{
		Origin: g.opened.Origin, Key: g.keyInForce(st.Checkpoint.Size), Blocks: st.Blocks,
		Root: st.Checkpoint.Root.String(), Published: st.Published.UTC(),
		Position: g.recorder.Last().String(), Sealed: st.Last.String(),
		UnsealedBytes: st.UnsealedBytes, UnsealedAge: st.UnsealedAge.Seconds(),
	}
	switch failed, full := g.journal.Err(), g.journal.Full(); {
	case failed != nil:
		s.Problem = failed.Error() + "; nothing is recorded, and so nothing let through: mend the disk, and start the gateway again"
	case full != nil:
		s.Problem = full.Error()
	case st.Err != nil:
		s.Problem = st.Err.Error()
	}
	s.Quorum, s.Witnessed = st.Witnessed.Quorum, st.Witnessed.Size
	for _, w := range st.Witnessed.Witnesses {
		out := api.Witness{Name: w.Name, URL: w.URL, Blocks: w.Size, Behind: w.Behind, Cosigned: w.Cosigned.UTC(), Since: w.Since.UTC()}
		if w.Err != nil {
			out.Problem = w.Err.Error()
		}
		if errors.Is(w.Err, seal.ErrNotKnown) {
			out.Hint = fmt.Sprintf("give the operator of %s the log %s with the key %s", w.Name, s.Origin, s.Key)
		}
		s.Witnesses = append(s.Witnesses, out)
	}
	s.Stamped, s.StampedAt = st.Stamped.Size, st.Stamped.At.UTC()
	for _, a := range st.Stamped.Authorities {
		out := api.Authority{URL: a.URL, Blocks: a.Size, Behind: a.Behind, Stamped: a.Stamped.UTC(), Since: a.Since.UTC()}
		if a.Err != nil {
			out.Problem = a.Err.Error()
		}
		s.Authorities = append(s.Authorities, out)
	}
	s.Sinks = g.apiSinks()
	if st.Witnessed.Err != nil && s.Problem == "" {
		s.Problem = "keeping the witnessed checkpoint: " + st.Witnessed.Err.Error()
	}
	return s, nil
}

// Flush implements api.Log.
func (g *Gateway) Flush(ctx context.Context) (api.LogStatus, error) {
	if err := g.sealer.Flush(ctx); err != nil {
		return api.LogStatus{}, err
	}
	return g.LogStatus(ctx)
}

// Fsck implements api.Log.
func (g *Gateway) Fsck(ctx context.Context, known []ledger.Checkpoint, progress func(api.Progress)) (api.FsckReport, error) {
	if err := g.sealer.Flush(ctx); err != nil {
		return api.FsckReport{}, err
	}
	return fsck(ctx, g.opened.Data, g.keyInForce(g.sealer.Status().Blocks), known, progress)
}

// Fsck checks the log of a data directory that no gateway need be running on,
// also against checkpoints that somebody kept.
func Fsck(ctx context.Context, data string, known []ledger.Checkpoint, progress func(api.Progress)) (api.FsckReport, error) {
	verifier, err := readVerifier(data)
	if err != nil {
		return api.FsckReport{}, err
	}
	return fsck(ctx, data, verifier, known, progress)
}

func fsck(ctx context.Context, data, verifier string, known []ledger.Checkpoint, progress func(api.Progress)) (api.FsckReport, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return api.FsckReport{}, fmt.Errorf("the log's verifier key: %w", err)
	}
	r, err := seal.Fsck{
		Log: v, Archive: os.DirFS(filepath.Join(data, archiveDir)), Tree: os.DirFS(filepath.Join(data, logDir)), Known: known, Stamps: os.DirFS(data),
		Progress: func(done, total uint64) {
			if progress != nil {
				progress(api.Progress{Stage: "checking blocks", Done: done, Total: total})
			}
		},
	}.Run(ctx)
	if err != nil {
		return api.FsckReport{}, err
	}
	out := api.FsckReport{Blocks: r.Blocks, Records: r.Records, Bytes: r.Bytes, Root: r.Root.String(), Disposed: r.Disposed}
	for _, f := range r.Findings {
		if f.Notice {
			continue
		}
		out.Problems = append(out.Problems, api.Finding{Where: f.Where, Message: f.Problem + ": " + f.Hint})
	}
	if r.More > 0 {
		out.Problems = append(out.Problems, api.Finding{Where: "and more", Message: fmt.Sprintf("%d findings were left out", r.More)})
	}
	return out, nil
}

// CreatePack implements api.Packs.
func (g *Gateway) CreatePack(ctx context.Context, r api.PackRequest, by evidence.By, w io.Writer, progress func(api.Progress)) (api.Pack, error) {
	from, to, err := g.period(ctx, r.From, r.To)
	if err != nil {
		return api.Pack{}, err
	}
	if r.Level == verify.Full && (strings.TrimSpace(r.Purpose) == "" || r.Recipient == "") {
		return api.Pack{}, api.Invalid("a pack with everything that is sealed needs a purpose, and an age recipient that it is encrypted to", "for some rows alone draw a sample: exhibit unseal")
	}
	sum := sha256.New()
	count := &counter{w: io.MultiWriter(w, sum)}
	sealed, err := encrypting(count, r.Recipient)
	if err != nil {
		return api.Pack{}, err
	}
	keep, done, err := g.packs.take(&r, by, time.Now())
	if err != nil {
		return api.Pack{}, err
	}
	defer done()
	exporter := &exporter{Signer: g.sealer.Signer(0), g: g}
	res, err := pack.Create(ctx, pack.Source{
		Archive: g.archive, Log: os.DirFS(filepath.Join(g.opened.Data, logDir)),
		Seeds: g.keys, Sealed: pack.SealedBy(g.keys), Signer: exporter, Gateway: exporter, Stamps: g.openStamps,
	}, pack.Params{
		From: from, To: to, By: by, Purpose: r.Purpose, Level: r.Level, Recipient: r.Recipient, Organisation: g.live.Load().Organisation,
		Generator: verify.Generator{Version: g.opened.Version, Binary: g.opened.Binary}, Keep: keep,
		Progress: func(p pack.Progress) {
			progress(api.Progress{Stage: p.Stage, Done: p.Done, Total: p.Total, Records: p.Records})
		},
	}, sealed)
	if err == nil {
		err = sealed.Close()
	}
	var gone *pack.DisposedError
	if errors.As(err, &gone) {
		return api.Pack{}, api.Invalid(gone.Error(), "everything from "+gone.From.Add(time.Microsecond).Format(time.RFC3339Nano)+" on is there: --from")
	}
	if err != nil {
		return api.Pack{}, err
	}
	m := res.Manifest
	made, err := g.packMadeRecord(ctx, exporter.pos, evidence.PackMadeBody{Manifest: res.Digest, Level: m.Params.Level, Records: m.Range.Records, By: by})
	if err != nil {
		return api.Pack{}, err
	}
	return api.Pack{
		Made: made.String(), Manifest: res.Digest,
		Cosignatures: exporter.cosignatures, Unwitnessed: exporter.unwitnessed, Stamps: res.Stamps, Resumed: res.Resumed, Again: res.Again,
		From: m.Range.First.String(), To: m.Range.Last.String(), Records: m.Range.Records,
		Blocks: m.Range.LastBlock - m.Range.FirstBlock + 1, Bytes: count.n, Digest: hex.EncodeToString(sum.Sum(nil)),
	}, nil
}

// openStamps opens what was stamped so far.
func (g *Gateway) openStamps() (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(g.opened.Data, ledger.StampsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, err
}

// period turns the ends of a request into times.
func (g *Gateway) period(ctx context.Context, from, to api.Moment) (time.Time, time.Time, error) {
	a, err := g.timeOf(ctx, from)
	if err != nil {
		return a, a, err
	}
	b, err := g.timeOf(ctx, to)
	if err != nil {
		return a, b, err
	}
	if b.IsZero() {
		b = g.clock.now()
	}
	if !a.Before(b) {
		return a, b, api.Invalid(fmt.Sprintf("the period ends (%s) before it begins (%s)", b.Format(time.RFC3339), a.Format(time.RFC3339)), "")
	}
	return a, b, nil
}

// errFound ends a scan that has what it wants.
var errFound = errors.New("found")

// timeOf returns the time of a moment; that of a position is its record's.
func (g *Gateway) timeOf(ctx context.Context, m api.Moment) (time.Time, error) {
	if m.Position.IsZero() {
		return m.Time, nil
	}
	h, err := g.headAt(ctx, m.Position)
	return time.UnixMicro(h.Time), err
}

// headAt returns the head of the record at a position, however new it is: what
// isn't synced yet can't be read.
func (g *Gateway) headAt(ctx context.Context, pos evidence.Position) (h evidence.Head, err error) {
	if pos.Boot == g.recorder.Boot() {
		if err := g.synced(); err != nil {
			return h, err
		}
	}
	r, err := g.recordAt(ctx, pos)
	if err != nil {
		return h, err
	}
	return r.Head, nil
}

// synced waits until everything recorded so far can be read.
func (g *Gateway) synced() error {
	if err := g.journal.Wait(g.journal.End(), journal.Synced); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// exporter records a pack and waits until its record is in the log, and the log
// with the witnesses and the time stamp authorities. It signs with the key of the checkpoint that it returned,
// also where that goes while the pack is made.
type exporter struct {
	note.Signer

	g            *Gateway
	pos          evidence.Position // of the record of the export
	cosignatures int
	unwitnessed  string // why there is no quorum of them
}

func (e *exporter) Export(ctx context.Context, b evidence.ReadBody) error {
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.PackExport}, Body: evidence.EncodeBody(b)}
	if _, err := e.g.recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return err
	}
	e.pos = d.Head.Pos
	return e.g.sealer.Flush(ctx)
}

// packWitnessing is how long a pack waits for time stamps, and then for witnesses.
const packWitnessing = 10 * time.Second

// Checkpoint returns the plain checkpoint rather than none: evidence that only
// its operator vouches for is better than no evidence, and says that it is.
func (e *exporter) Checkpoint(ctx context.Context) ([]byte, error) {
	// The stamp comes first, so that the checkpoint covers what was stamped.
	stamping, cancel := context.WithTimeout(ctx, packWitnessing)
	defer cancel()
	e.g.sealer.Stamp(stamping, true)
	waiting, cancel := context.WithTimeout(ctx, packWitnessing)
	defer cancel()
	cp, err := e.g.sealer.Witnessed(waiting)
	if err != nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e.unwitnessed = err.Error()
	}
	e.cosignatures, e.Signer = len(cp.Cosignatures), e.g.sealer.Signer(cp.Size)
	return cp.Note, nil
}

type counter struct {
	w io.Writer
	n uint64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += uint64(n)
	return n, err
}
