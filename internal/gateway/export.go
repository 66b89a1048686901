package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/export/ocsf"
	"github.com/exhibit-gateway/exhibit/internal/seal"
)

// ExportOCSF implements api.Packs.
func (g *Gateway) ExportOCSF(ctx context.Context, r api.Range, by evidence.By, w io.Writer, progress func(api.Progress)) (out api.Export, err error) {
	from, to, err := g.times(ctx, r)
	if err != nil {
		return out, err
	}
	until, err := g.read(ctx, "export", "ocsf", by)
	if err != nil {
		return out, err
	}
	reader := g.sealer.ReadFrom(r.From.Position)
	if r.From.Position.IsZero() && from != 0 {
		if reader, err = g.sealer.ReadSince(from); err != nil {
			return out, err
		}
	}
	buffered := bufio.NewWriterSize(w, 64<<10)
	events := ocsf.New(g.opened.Origin, g.opened.Version, g.lookup)
	var line []byte
	one := func(rec *evidence.Record) (err error) {
		h := &rec.Head
		switch {
		case !h.Pos.Before(until), !r.To.Position.IsZero() && !h.Pos.Before(r.To.Position):
			return errFound
		case r.From.Position.IsZero() && h.Time < from, r.To.Position.IsZero() && to != 0 && h.Time >= to:
			return nil
		}
		if line, err = events.Append(ctx, line[:0], rec); err != nil {
			return err
		}
		if _, err := buffered.Write(line); err != nil {
			return err
		}
		if out.Events++; out.From == "" {
			out.From = h.Pos.String()
		}
		out.To = h.Pos.String()
		return nil
	}
	for {
		n, err := reader.Next(ctx, one)
		switch {
		case errors.Is(err, errFound), err == nil && n == 0:
			return out, buffered.Flush()
		case err != nil:
			return out, g.gone(fmt.Errorf("exporting: %w", err))
		}
		progress(api.Progress{Stage: "exporting records", Done: out.Events})
	}
}

// lookup is recordAt for those to whom a record that isn't there is no failure.
func (g *Gateway) lookup(ctx context.Context, pos evidence.Position) (*evidence.Record, error) {
	rec, err := g.find(ctx, pos)
	if errors.Is(err, seal.ErrDisposed) {
		return nil, nil
	}
	return rec, err
}
