package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// readyFile holds the fold of the whole log that readiness is answered from, as
// it was a while ago. It is a cache: without it, or with one of another program
// or another log, the log is folded from its first record.
const readyFile = "ready.cache"

const (
	readyEvery = time.Minute      // between two looks at the log
	keepEvery  = 10 * time.Minute // between two writings of the cache
)

// readiness is a fold of the log that goes on with it.
type readiness struct {
	mu     sync.Mutex
	fold   *workpaper.Running // nil until somebody needs it
	reader *seal.Reader
	head   [sha256.Size]byte // of the newest record in it
	kept   evidence.Position // the newest record in the cache
	keptAt time.Time
}

// Readiness implements api.Readiness.
func (g *Gateway) Readiness(ctx context.Context, q api.ReadinessQuery, by evidence.By) (api.ReadinessReport, error) {
	upTo, err := g.read(ctx, "readiness", "readiness", by)
	if err != nil {
		return api.ReadinessReport{}, err
	}
	r := &g.readiness
	for at := (evidence.Position{}); at.Before(upTo); {
		var n int
		if n, at, err = g.readOn(ctx); err != nil {
			return api.ReadinessReport{}, err
		}
		if n == 0 {
			break
		}
	}
	ask := workpaper.Ask{Now: g.clock.now().UnixMicro(), Soon: q.Soon}
	if !q.From.IsZero() {
		ask.From = max(0, q.From.UnixMicro())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fold == nil {
		return api.ReadinessReport{}, api.Unavailable("the log is being read again", "ask once more")
	}
	found, err := r.fold.Readiness(ask)
	if err != nil {
		return api.ReadinessReport{}, fmt.Errorf("reading the log: %w", err)
	}
	return api.ReadinessReport{
		Ready: found.Ready(), From: moment(found.From), Position: found.Last.String(), Time: moment(found.At),
		Allowed: found.Allowed, Refused: found.Refused, Opaque: found.Opaque,
		Concerns: append([]workpaper.Concern{}, found.Concerns...), Criteria: found.Criteria, Tests: found.Tests,
	}, nil
}

// readOn folds the next block, or some of the journal, and returns how many
// records it had and the last of them. After an error the next call begins at
// the log's first; one that was broken off is gone on with.
func (g *Gateway) readOn(ctx context.Context) (n int, at evidence.Position, err error) {
	r := &g.readiness
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fold == nil {
		if err := g.beginReady(ctx); err != nil {
			return 0, at, err
		}
	}
	var last *evidence.Head
	n, err = r.reader.Next(ctx, func(rec *evidence.Record) error {
		last = &rec.Head
		return r.fold.Record(rec)
	})
	if last != nil {
		r.head = headDigest(last)
	}
	switch {
	case ctx.Err() != nil: // the reader knows which records it has handed out
		return n, r.fold.Last(), ctx.Err()
	case err != nil:
		r.fold, r.reader = nil, nil
		return n, at, fmt.Errorf("reading the log for readiness: %w", err)
	}
	return n, r.fold.Last(), nil
}

func headDigest(h *evidence.Head) [sha256.Size]byte {
	return sha256.Sum256(evidence.AppendHead(nil, h))
}

// beginReady goes on from the cache, or begins anew.
func (g *Gateway) beginReady(ctx context.Context) error {
	r := &g.readiness
	fold, reader, head, err := g.resumeReady(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			g.log.Info("readiness: the cache is of no use, the log is read again", "cause", err)
		}
		r.fold, r.reader = workpaper.NewRunning(), g.sealer.ReadFrom(evidence.Position{})
		return g.sealer.ScanOpening(ctx, r.fold.Opening)
	}
	r.fold, r.reader, r.head, r.kept, r.keptAt = fold, reader, head, fold.Last(), time.Now()
	return nil
}

// readyHeader says which program wrote a cache, and after which record.
type readyHeader struct {
	Binary string            `json:"binary"`
	Last   evidence.Position `json:"last"`
	Head   []byte            `json:"head"`  // digest of its head
	State  []byte            `json:"state"` // digest of what follows the header's line
}

var errOther = errors.New("it is of another program, another log, or damaged")

// resumeReady reads the cache. Its newest record must be the log's at that
// place: then it is a fold of what the log begins with.
func (g *Gateway) resumeReady(ctx context.Context) (*workpaper.Running, *seal.Reader, [sha256.Size]byte, error) {
	var head [sha256.Size]byte
	text, err := os.ReadFile(filepath.Join(g.opened.Data, readyFile))
	if err != nil {
		return nil, nil, head, fmt.Errorf("reading the cache: %w", err)
	}
	line, state, _ := bytes.Cut(text, []byte("\n"))
	var h readyHeader
	sum := sha256.Sum256(state)
	if json.Unmarshal(line, &h) != nil || h.Binary != g.opened.Binary || !bytes.Equal(h.State, sum[:]) {
		return nil, nil, head, errOther
	}
	fold, err := workpaper.Resume(bytes.NewReader(state))
	if err != nil {
		return nil, nil, head, err
	}
	reader := g.sealer.ReadFrom(h.Last)
	first := true
	_, err = reader.Next(ctx, func(rec *evidence.Record) error {
		if first {
			head = headDigest(&rec.Head)
			if first = false; rec.Head.Pos != h.Last || !bytes.Equal(head[:], h.Head) || fold.Last() != h.Last {
				return errOther
			}
			return nil
		}
		head = headDigest(&rec.Head)
		return fold.Record(rec)
	})
	if err == nil && first {
		err = errOther // the log ends before
	}
	return fold, reader, head, err
}

// keepCache writes the cache, as a whole or not at all. A crash may leave the
// old one, or one that its digest gives away.
func (g *Gateway) keepCache() error {
	r := &g.readiness
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fold == nil || r.fold.Last().IsZero() || r.fold.Last() == r.kept {
		return nil
	}
	var state bytes.Buffer
	if err := r.fold.Keep(&state); err != nil {
		return err
	}
	sum := sha256.Sum256(state.Bytes())
	header, err := json.Marshal(readyHeader{g.opened.Binary, r.fold.Last(), r.head[:], sum[:]})
	if err != nil {
		return err
	}
	path := filepath.Join(g.opened.Data, readyFile)
	if err := replaceCache(path, append(header, '\n'), state.Bytes()); err != nil {
		return err
	}
	r.kept, r.keptAt = r.fold.Last(), time.Now()
	return nil
}

// replaceCache writes a file that can be made again. It isn't synced: who reads
// it knows by its digest whether it is whole.
func replaceCache(path string, parts ...[]byte) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// keepReady keeps the fold near the log's end until ctx is done, and its cache
// near the fold. Nothing hangs on either: what fails is told to who asks.
func (g *Gateway) keepReady(ctx context.Context) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	r := &g.readiness
	failed := false
	for {
		select {
		case <-ctx.Done():
			g.noteCache(g.keepCache())
			return nil
		case <-tick.C:
		}
		r.mu.Lock()
		idle, due := failed && r.fold == nil, time.Since(r.keptAt) >= keepEvery
		r.mu.Unlock()
		if idle {
			continue // until somebody asks, and is told why
		}
		if err := g.catchUp(ctx); err != nil && ctx.Err() == nil {
			failed = true
			g.log.Warn("readiness: the log is not followed any more", "cause", err)
		}
		if due {
			g.noteCache(g.keepCache())
		}
	}
}

func (g *Gateway) noteCache(err error) {
	if err != nil {
		g.log.Warn("readiness: the cache is not written; after the next start the log is read again", "cause", err)
	}
}

// restFor is how long following the log rests for the time that it works:
// commands come first. A thirtieth of a core folds some 2,000 of them a second; what
// a busier hour leaves is folded later, or when somebody asks.
const restFor = 29

// catchUp folds what is new.
func (g *Gateway) catchUp(ctx context.Context) error {
	for {
		began := time.Now()
		n, _, err := g.readOn(ctx)
		if n == 0 || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(restFor * time.Since(began)):
		}
	}
}
