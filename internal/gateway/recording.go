package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
)

// Recording implements api.Questions. Who reads it is on record.
func (g *Gateway) Recording(ctx context.Context, command evidence.Position, by evidence.By, w io.Writer) (api.Recording, error) {
	h, err := g.headAt(ctx, command)
	if err != nil {
		return api.Recording{}, err
	}
	if h.Type != evidence.CommandIntent {
		return api.Recording{}, api.NotFound(fmt.Sprintf("record %s is a %s and no command", command, h.Type), "exhibit did --json shows the positions of commands")
	}
	if _, err := g.readAt(ctx, "L2", "recording", "command "+command.String(), by); err != nil {
		return api.Recording{}, err
	}
	if err := g.sealer.Flush(ctx); err != nil {
		return api.Recording{}, err
	}
	c := &cast{w: w, began: h.Time, told: api.Recording{Command: command.String(), Open: h.Outcome == ""}}
	of := func(h *evidence.Head) bool {
		return h.Of == command && (h.Type == evidence.CommandContent || h.Type == evidence.CommandResult)
	}
	err = g.sealer.ReadSealed(ctx, command, of, func(r *evidence.Record, part []byte) error {
		if r.Head.Type == evidence.CommandResult {
			c.told.Open = false
			return errFound
		}
		return c.content(r, part)
	})
	if err != nil && !errors.Is(err, errFound) {
		return api.Recording{}, err
	}
	if c.told.Pieces == 0 && c.told.Left == 0 {
		return api.Recording{}, api.NotFound(fmt.Sprintf("of command %s no content is kept", command), "it is of commands that run programs: exec and attach in Kubernetes")
	}
	return c.told, c.close()
}

// cast writes an asciicast, version 2: a heading, and then a line for each
// event with its time, in seconds since the command began.
type cast struct {
	w     io.Writer
	began int64 // microseconds since the epoch
	told  api.Recording

	headed  bool
	waiting []event // until the terminal's size is known, which comes first
	sizes   []byte  // of the terminal, as far as they have come
	text    [2]cut  // what is typed, and what is shown
	last    int64
}

// cut is the beginning of a character whose end is in the next piece.
type cut []byte

// event is a line of it.
type event struct {
	at         int64
	kind, data string
}

// usual is the size of a terminal that nobody said.
const usual = "80x24"

// content writes a record of content.
func (c *cast) content(r *evidence.Record, part []byte) error {
	c.last = max(r.Head.Time-c.began, c.last)
	var body evidence.ContentBody
	if err := evidence.DecodeBody(r.Body, &body); err != nil {
		return fmt.Errorf("record %s: %w", r.Head.Pos, err)
	}
	if part == nil {
		c.told.Left += body.Bytes
		return c.event("m", fmt.Sprintf("%d bytes were not kept", body.Bytes))
	}
	var sealed evidence.ContentSealed
	if err := json.Unmarshal(part, &sealed); err != nil {
		return fmt.Errorf("record %s: %w", r.Head.Pos, err)
	}
	for _, p := range sealed.Pieces {
		c.told.Pieces++
		if err := c.piece(p, body.To == "upstream"); err != nil {
			return err
		}
	}
	return nil
}

func (c *cast) piece(p evidence.Piece, typed bool) error {
	switch {
	case p.Stream == "resize":
		return c.resize(p.Data)
	case p.Stream == "error": // how it ended is in the outcome
		return nil
	case typed:
		return c.write("i", &c.text[0], p.Data)
	}
	return c.write("o", &c.text[1], p.Data)
}

// write writes text, whole characters at a time.
func (c *cast) write(kind string, rest *cut, b []byte) error {
	b = append(*rest, b...)
	end := len(b)
	for back := 1; back < utf8.UTFMax && back <= len(b); back++ {
		if at := len(b) - back; utf8.RuneStart(b[at]) {
			if !utf8.FullRune(b[at:]) {
				end = at
			}
			break
		}
	}
	*rest = bytes.Clone(b[end:])
	if end == 0 {
		return nil
	}
	return c.event(kind, string(b[:end]))
}

// resize writes sizes of the terminal, which stand there one behind another.
func (c *cast) resize(b []byte) error {
	c.sizes = append(c.sizes, b...)
	for {
		var size struct{ Width, Height uint16 }
		d := json.NewDecoder(bytes.NewReader(c.sizes))
		if err := d.Decode(&size); err != nil {
			if len(c.sizes) > 1<<10 { // that is no size
				c.sizes = nil
			}
			return nil
		}
		c.sizes = c.sizes[d.InputOffset():]
		if err := c.event("r", fmt.Sprintf("%dx%d", size.Width, size.Height)); err != nil {
			return err
		}
	}
}

// event writes a line, after the heading. The heading has the first size, which
// waits for no more than what is typed before anything is shown.
func (c *cast) event(kind, data string) error {
	e := event{c.last, kind, data}
	if c.headed {
		return c.line(e)
	}
	switch c.waiting = append(c.waiting, e); kind {
	case "r":
		return c.heading(data)
	case "i":
		return nil
	}
	return c.heading(usual)
}

func (c *cast) heading(size string) error {
	c.headed = true
	var width, height int
	if _, err := fmt.Sscanf(size, "%dx%d", &width, &height); err != nil {
		return err
	}
	b, err := json.Marshal(struct {
		Version   int    `json:"version"`
		Width     int    `json:"width"`
		Height    int    `json:"height"`
		Timestamp int64  `json:"timestamp"`
		Title     string `json:"title"`
	}{2, width, height, time.UnixMicro(c.began).Unix(), c.told.Command})
	if err != nil {
		return err
	}
	if _, err := c.w.Write(append(b, '\n')); err != nil {
		return err
	}
	for _, e := range c.waiting {
		if err := c.line(e); err != nil {
			return err
		}
	}
	c.waiting = nil
	return nil
}

func (c *cast) line(e event) error {
	b, err := json.Marshal([]any{json.Number(fmt.Sprintf("%d.%06d", e.at/1e6, e.at%1e6)), e.kind, e.data})
	if err != nil {
		return err
	}
	_, err = c.w.Write(append(b, '\n'))
	return err
}

// close writes what waits.
func (c *cast) close() error {
	if c.headed {
		return nil
	}
	return c.heading(usual)
}
