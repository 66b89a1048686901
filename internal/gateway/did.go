package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// didColumns are those of the commands' workpaper, and what became of each
// later.
var didColumns = []string{"command_id", "at", "session_id", "agent_id", "resource", "verb", "text", "decision", "rules",
	"deny_reason", "outcome", "code", "rows", "duration_us", "path", "bytes_up", "bytes_down", "tx", "tx_result", "resolution"}

// Did implements api.Questions.
func (g *Gateway) Did(ctx context.Context, q api.Did, by evidence.By) (api.Table, error) {
	t := newTranscript(q)
	t.table = true
	_, err := g.gather(ctx, t, by)
	if err != nil {
		return api.Table{}, err
	}
	if err := t.close(); err != nil {
		return api.Table{}, err
	}
	return api.Table{Name: "did", Columns: didColumns, Rows: t.rows(), More: t.more}, nil
}

// Transcript implements api.Questions.
func (g *Gateway) Transcript(ctx context.Context, q api.Did, by evidence.By, tell func(api.Entry) error) (api.Transcript, error) {
	if q.Follow {
		if g.followers.Add(1) > maxFollowers {
			g.followers.Add(-1)
			return api.Transcript{}, api.Unavailable("too many follow already", "end one of them")
		}
		defer g.followers.Add(-1)
	}
	t := newTranscript(q)
	r, err := g.gather(ctx, t, by)
	if err != nil {
		return api.Transcript{}, err
	}
	if !q.Follow {
		if err := t.close(); err != nil {
			return api.Transcript{}, err
		}
	}
	if err := t.tellAll(tell); err != nil {
		return api.Transcript{}, err
	}
	stopped := false
	if q.Follow {
		if stopped, err = g.follow(ctx, t, r); err != nil {
			return api.Transcript{}, err
		}
	}
	return api.Transcript{More: t.more, Stopped: stopped}, nil
}

// gather reads what there is of what t is about. The reader goes on where it
// ends.
func (g *Gateway) gather(ctx context.Context, t *transcript, by evidence.By) (*seal.Reader, error) {
	if t.q.Agent != "" {
		if _, err := g.agent(t.q.Agent); err != nil {
			return nil, err
		}
	}
	if err := g.bound(ctx, t); err != nil {
		return nil, err
	}
	purpose := "question"
	if t.q.Follow {
		purpose = "follow"
	}
	upTo, err := g.read(ctx, purpose, "did "+cmp.Or(t.only.String(), t.q.Agent, "everything"), by)
	if err != nil {
		return nil, err
	}
	r := g.sealer.ReadFrom(t.only)
	for n := 1; n > 0 && !t.complete(); {
		n, err = r.Next(ctx, func(rec *evidence.Record) error {
			if upTo.Before(rec.Head.Pos) {
				return errFound
			}
			return t.record(rec)
		})
		if errors.Is(err, errFound) {
			break
		}
		if err != nil {
			return nil, g.gone(err)
		}
	}
	return r, nil
}

// bound finds the session and the times that t is about.
func (g *Gateway) bound(ctx context.Context, t *transcript) error {
	var err error
	if t.from, t.to, err = g.times(ctx, t.q.Range); err != nil {
		return err
	}
	if t.q.Session == "" {
		return nil
	}
	pos, err := evidence.ParsePosition(t.q.Session)
	if err != nil {
		return api.Invalid(err.Error(), "")
	}
	h, err := g.headAt(ctx, pos)
	if err != nil {
		return err
	}
	if t.only = h.Session; h.Type == evidence.SessionStart {
		t.only = pos // one that was refused is in no session
	}
	if t.only.IsZero() {
		return api.NotFound(fmt.Sprintf("record %s is a %s, which belongs to no session", pos, h.Type), "exhibit who and exhibit sessions show the ids of sessions")
	}
	return nil
}

// complete reports whether nothing more can come to the session asked for. The
// end of a command that is in doubt may be found out after the session's.
func (t *transcript) complete() bool { return t.ended && len(t.doubts) == 0 }

const (
	followPause  = 100 * time.Millisecond // between two looks at the journal
	maxFollowers = 32
)

// follow tells what comes until the session has ended or the gateway stops.
// It asks the journal, in which records appear without knowing of anybody who
// reads them; a slow follower reads later and holds nothing up.
func (g *Gateway) follow(ctx context.Context, t *transcript, r *seal.Reader) (stopped bool, err error) {
	for !t.ended {
		n, err := r.Next(ctx, t.record)
		switch {
		case err != nil:
			return stopped, err
		case n > 0:
			continue
		case stopped:
			return true, nil
		}
		if err := t.waiting(time.Now()); err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(followPause):
		case <-g.stopping:
			stopped = true
			time.Sleep(followPause) // what has just ended is synced meanwhile
		}
	}
	return stopped, nil
}

// rows are the commands that were gathered, in order.
func (t *transcript) rows() [][]string {
	rows := [][]string{}
	index := make(map[string]int) // of a command's row
	for _, l := range t.lines {
		switch {
		case l.cmd != nil:
			e := l.cmd.entry()
			index[e.Position] = len(rows)
			rows = append(rows, didRow(&e))
		case l.entry.Transaction != nil:
			// It follows its last command; others of it stand before that one.
			first, _ := evidence.ParsePosition(l.entry.Transaction.First) // made here
			for i := len(rows) - 1; i >= 0; i-- {
				p, _ := evidence.ParsePosition(rows[i][0])
				if p.Before(first) {
					break
				}
				if rows[i][2] == l.entry.Session {
					rows[i][17], rows[i][18] = l.entry.Position, l.entry.Transaction.Result
				}
			}
		case l.entry.Resolution != nil:
			if i, ok := index[l.entry.Resolution.Of]; ok {
				rows[i][19] = l.entry.Resolution.Result
			}
		}
	}
	return rows
}

func didRow(e *api.Entry) []string {
	c := e.Command
	row := []string{e.Position, workpaper.FormatTime(e.Time.UnixMicro()), e.Session, e.Agent, e.Resource, c.Verb, c.Text, string(c.Decision),
		strings.Join(c.Rules, " "), c.Reason, c.Outcome, c.Code, "", "", c.Path, count(c.BytesUp), "", "", "", ""}
	if c.Outcome != string(stillOpen) {
		row[12], row[13], row[16] = count(c.Rows), count(c.Micros), count(c.BytesDown)
	}
	return row
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }
