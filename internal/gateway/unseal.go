package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack"
)

// UnsealSample implements api.Packs. That the parts leave is on record, and in
// the log, before the first of them is opened; in the clear they are here only.
func (g *Gateway) UnsealSample(ctx context.Context, r api.UnsealRequest, by evidence.By, w io.Writer) (api.Unsealed, error) {
	if strings.TrimSpace(r.Purpose) == "" || strings.TrimSpace(r.Reader) == "" {
		return api.Unsealed{}, api.Invalid("what is sealed opens for a named reader and a purpose, which stand in the record", "")
	}
	recipient, err := recipientOf(r.Recipient)
	if err != nil {
		return api.Unsealed{}, err
	}
	o, err := g.opening(ctx, &r)
	if err != nil {
		return api.Unsealed{}, err
	}
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.EvidenceRead}, Body: evidence.EncodeBody(evidence.ReadBody{
		Purpose: r.Purpose, Object: "sample " + r.ID, Level: "L2", By: by,
		Reader: r.Reader, Recipient: r.Recipient, Sample: r.Sample, Manifest: r.Manifest, Records: o.Records,
	})}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return api.Unsealed{}, api.Unavailable("the read cannot be recorded, so nothing is opened", "")
	}
	if err := g.sealer.Flush(ctx); err != nil {
		return api.Unsealed{}, err
	}
	o.Read = d.Head.Pos
	exporter := &exporter{Signer: g.sealer.Signer(0), g: g}
	if o.Checkpoint, err = exporter.Checkpoint(ctx); err != nil {
		return api.Unsealed{}, err
	}
	sealed, err := age.Encrypt(w, recipient)
	if err != nil {
		return api.Unsealed{}, fmt.Errorf("encrypting the answer: %w", err)
	}
	if err := pack.Unseal(ctx, g.archive, os.DirFS(filepath.Join(g.opened.Data, logDir)), g.keys, o, sealed); err != nil {
		return api.Unsealed{}, err
	}
	if err := sealed.Close(); err != nil {
		return api.Unsealed{}, fmt.Errorf("encrypting the answer: %w", err)
	}
	return api.Unsealed{Made: o.Made.String(), Read: o.Read.String(), Records: len(o.Records), Blocks: g.sealer.Status().Checkpoint.Size}, nil
}

// opening is what a request asks to be opened, with the record of its pack.
func (g *Gateway) opening(ctx context.Context, r *api.UnsealRequest) (o pack.Opening, err error) {
	digest, err := hex.DecodeString(r.Sample)
	if err != nil || len(digest) != len(o.Sample) {
		return o, api.Invalid("the sample's digest is none", "")
	}
	o = pack.Opening{Sample: [32]byte(digest), Manifest: r.Manifest, PackSize: r.TreeSize}
	seen := make(map[evidence.Position]bool, len(r.Records))
	for _, text := range r.Records {
		pos, err := evidence.ParsePosition(text)
		if err != nil || pos.Gateway != g.opened.Name || g.recorder.Last().Before(pos) {
			return o, api.Invalid(fmt.Sprintf("%.80q is no record of this gateway", text), "")
		}
		if !seen[pos] {
			seen[pos] = true
			o.Records = append(o.Records, pos)
		}
	}
	if o.PackSize > g.sealer.Status().Checkpoint.Size {
		return o, api.Invalid("the pack is of a longer log than this gateway's", "")
	}
	last, err := evidence.ParsePosition(r.Last)
	if err != nil {
		return o, api.Invalid(fmt.Sprintf("%.80q is no position", r.Last), "")
	}
	o.Made, err = g.packMade(ctx, last, r.Manifest)
	return o, err
}

// packMade finds the record of a pack. It stands behind the pack's last one.
func (g *Gateway) packMade(ctx context.Context, last evidence.Position, manifest string) (made evidence.Position, err error) {
	records := g.sealer.ReadFrom(last)
	for n := 1; n > 0 && err == nil; {
		n, err = records.Next(ctx, func(r *evidence.Record) error {
			var b evidence.PackMadeBody
			if r.Head.Type == evidence.PackMade && evidence.DecodeBody(r.Body, &b) == nil && b.Manifest == manifest {
				made = r.Head.Pos
				return errFound
			}
			return nil
		})
	}
	switch {
	case errors.Is(err, errFound):
		return made, nil
	case err != nil:
		return made, fmt.Errorf("looking for the record of the pack: %w", err)
	}
	return made, api.NotFound("this gateway has no record that it made that pack", "a sample is drawn of a pack that the gateway made while it ran: exhibit pack create")
}

// packMadeRecord says in the log which pack was made, so that its digests were
// there before anybody could draw of its populations.
func (g *Gateway) packMadeRecord(ctx context.Context, export evidence.Position, b evidence.PackMadeBody) (evidence.Position, error) {
	d := &evidence.Draft{Head: evidence.Head{Type: evidence.PackMade, Of: export}, Body: evidence.EncodeBody(b)}
	if _, err := g.recorder.Own().Record(ctx, 0, evidence.Power, d); err != nil {
		return evidence.Position{}, api.Unavailable("the pack cannot be recorded, so there is none", "")
	}
	return d.Head.Pos, g.sealer.Flush(ctx)
}

// recipientOf parses whom something is encrypted to.
func recipientOf(text string) (age.Recipient, error) {
	list, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(list) != 1 {
		return nil, api.Invalid("what is sealed leaves encrypted to one age recipient, and that is none", "the auditor makes one with age-keygen, and gives you the line that begins with age1")
	}
	return list[0], nil
}

// encrypting encrypts what is written to a recipient; to none, it passes it on.
func encrypting(w io.Writer, recipient string) (io.WriteCloser, error) {
	if recipient == "" {
		return plain{w}, nil
	}
	to, err := recipientOf(recipient)
	if err != nil {
		return nil, err
	}
	sealed, err := age.Encrypt(w, to)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, nil
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }
