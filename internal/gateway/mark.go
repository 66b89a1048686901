package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
)

// markFile holds a recorder.Mark: a start goes on from there.
const markFile = "mark"

// markPause is between two times that it is written.
const markPause = time.Minute

// marker folds what is cut into blocks, off the path of commands, and keeps the
// mark.
type marker struct {
	file string
	log  *slog.Logger

	mu   sync.Mutex
	mark *recorder.Mark // nil before the start is made, and when it is of no use
	at   time.Time      // when it was written
}

func newMarker(data string, log *slog.Logger) *marker {
	return &marker{file: filepath.Join(data, markFile), log: log}
}

func (m *marker) begin(mark *recorder.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark, m.at = mark, time.Now()
}

// cut takes the records of a block.
func (m *marker) cut(records []evidence.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mark == nil {
		return
	}
	for i := range records {
		if err := m.mark.Add(&records[i]); err != nil {
			m.log.Warn("the next start reads its boot from the beginning", "cause", err)
			m.mark = nil
			return
		}
	}
	if time.Since(m.at) >= markPause {
		m.write()
	}
}

// keep writes the mark as it is.
func (m *marker) keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mark != nil {
		m.write()
	}
}

func (m *marker) write() {
	m.at = time.Now()
	b := m.mark.Encode()
	if b == nil {
		return
	}
	if err := replaceCache(m.file, b); err != nil {
		m.log.Warn("the next start reads more than it would have to", "cause", err)
	}
}

// errElsewhere ends reading at a record that a mark is not of.
var errElsewhere = errors.New("the mark is of another log")

// resume returns what the boots before left, from the mark on; nil when there is
// none to go on from.
func (g *Gateway) resume(ctx context.Context) (*recorder.Mark, error) {
	b, err := os.ReadFile(g.marker.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the mark: %w", err)
	}
	m, err := recorder.DecodeMark(b)
	if err == nil {
		err = g.goOn(ctx, m)
	}
	if err != nil && ctx.Err() == nil {
		g.log.Info("reading the last boot from its beginning", "cause", err)
		return nil, nil
	}
	return m, err
}

// goOn folds what came after a mark.
func (g *Gateway) goOn(ctx context.Context, m *recorder.Mark) error {
	first := true
	err := g.readFrom(ctx, m.Past.Last, func(r *evidence.Record) error {
		if !first {
			return m.Add(r)
		}
		if first = false; !m.At(r) {
			return errElsewhere
		}
		return nil
	})
	if err == nil && first {
		return errElsewhere
	}
	return err
}

// recount returns the same without a mark.
func (g *Gateway) recount(ctx context.Context) (*recorder.Mark, error) {
	var past recorder.Past
	from, err := g.sealer.LastBoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding the last boot: %w", err)
	}
	if err = g.sealer.ScanHeads(ctx, from, func(h *evidence.Head) error { return past.Add(*h) }); err != nil {
		return nil, fmt.Errorf("reading the last boot: %w", err)
	}
	tally, err := g.tally(ctx)
	if err != nil || past.Last.IsZero() {
		return recorder.NewMark(past, tally, nil), err
	}
	last, err := g.recordAt(ctx, past.Last)
	if err != nil {
		return nil, err
	}
	return recorder.NewMark(past, tally, last), nil
}

// readFrom calls fn for each record from a position to the end of the log.
func (g *Gateway) readFrom(ctx context.Context, pos evidence.Position, fn func(*evidence.Record) error) error {
	for r := g.sealer.ReadFrom(pos); ; {
		if n, err := r.Next(ctx, fn); n == 0 || err != nil {
			return err
		}
	}
}
