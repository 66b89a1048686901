package recorder

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// Mark is what the next boot has to know of the records up to one of them: what
// is open, and how many commands each agent has had. A start goes on from there
// instead of reading a boot, or an hour, from its beginning. It is a cache: with
// none, or with one that is not of this log, the records say the same.
type Mark struct {
	Past  Past
	Tally Tally

	head []byte        // of the record that it stands at, while it is folded
	last evidence.Hash // the same record's, once it was read or made
	gap  bool          // records were missed: it is of no use any more
}

// errMark is why a mark is of no use.
var errMark = errors.New("not a mark that can be gone on from")

// Add folds the next record. Those that it has had are passed over; one that
// doesn't follow spoils it.
func (m *Mark) Add(r *evidence.Record) error {
	pos := r.Head.Pos
	switch last := m.Past.Last; {
	case m.gap:
		return errMark
	case last.IsZero():
	case !last.Before(pos):
		return nil
	case !ledger.Continues(last, pos):
		m.gap = true
		return fmt.Errorf("%w: record %s follows %s", errMark, pos, last)
	}
	if err := m.Past.Add(r.Head); err != nil {
		return err
	}
	m.Tally.Add(r)
	m.head = append(m.head[:0], r.HeadBytes...) // hashed when it is asked for: this is done for every record
	return nil
}

func (m *Mark) hash() evidence.Hash {
	if len(m.head) > 0 {
		return evidence.RecordHash(m.head)
	}
	return m.last
}

// At reports whether a record is the one that the mark stands at.
func (m *Mark) At(r *evidence.Record) bool {
	return r.Head.Pos == m.Past.Last && evidence.RecordHash(r.HeadBytes) == m.hash()
}

// Clone returns a mark that changes apart from m.
func (m *Mark) Clone() *Mark {
	c := &Mark{Past: Past{Last: m.Past.Last, Clean: m.Past.Clean}, last: m.hash(), gap: m.gap}
	for pos, s := range m.Past.sessions {
		if c.Past.sessions == nil {
			c.Past.sessions = make(map[evidence.Position]*openSession)
		}
		c.Past.sessions[pos] = &openSession{s.start, s.n, maps.Clone(s.intents)}
	}
	for agent, n := range m.Tally.agents {
		c.Tally.of(agent).hours = slices.Clone(n.hours)
	}
	return c
}

// The encoding: the SHA-256 of the rest on a line, and JSON. Heads are as
// records have them.
type (
	encodedMark struct {
		Version  int                 `json:"version"`
		Last     evidence.Position   `json:"last"`
		Record   evidence.Hash       `json:"record"`
		Clean    bool                `json:"clean"`
		Sessions []encodedSession    `json:"sessions"`
		Agents   map[string][]tallyH `json:"agents"`
	}
	encodedSession struct {
		Start   json.RawMessage   `json:"start"`
		N       uint64            `json:"n"`
		Intents []json.RawMessage `json:"intents,omitempty"`
	}
	tallyH struct {
		Hour     int64 `json:"hour"`
		Commands int64 `json:"commands"`
		Writes   int64 `json:"writes"`
	}
)

const markVersion = 1

// Encode returns the mark as bytes; nil when it is of no use.
func (m *Mark) Encode() []byte {
	if m.gap || m.Past.Last.IsZero() {
		return nil
	}
	e := encodedMark{Version: markVersion, Last: m.Past.Last, Record: m.hash(), Clean: m.Past.Clean, Agents: make(map[string][]tallyH)}
	for _, s := range inOrder(maps.Values(m.Past.sessions), func(s *openSession) evidence.Position { return s.start.Pos }) {
		out := encodedSession{Start: evidence.AppendHead(nil, &s.start), N: s.n}
		for _, h := range inOrder(maps.Values(s.intents), func(h evidence.Head) evidence.Position { return h.Pos }) {
			out.Intents = append(out.Intents, evidence.AppendHead(nil, &h))
		}
		e.Sessions = append(e.Sessions, out)
	}
	newest := int64(0)
	for _, c := range m.Tally.agents {
		for _, h := range c.hours {
			newest = max(newest, h.n)
		}
	}
	for agent, c := range m.Tally.agents {
		for _, h := range c.hours {
			if h.n > newest-maxHours { // as far back as the clock may be set
				e.Agents[agent] = append(e.Agents[agent], tallyH{h.n, h.commands, h.writes})
			}
		}
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic("recorder: a mark that can't be encoded: " + err.Error()) // of plain types and heads that were parsed
	}
	return append(fmt.Appendf(nil, "%x\n", sha256.Sum256(b)), b...)
}

// DecodeMark undoes Encode.
func DecodeMark(b []byte) (*Mark, error) {
	sum, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok || string(sum) != fmt.Sprintf("%x", sha256.Sum256(rest)) {
		return nil, fmt.Errorf("%w: it is not whole", errMark)
	}
	var e encodedMark
	if err := json.Unmarshal(rest, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", errMark, err)
	}
	if e.Version != markVersion {
		return nil, fmt.Errorf("%w: it is of version %d", errMark, e.Version)
	}
	m := &Mark{Past: Past{Last: e.Last, Clean: e.Clean}, last: e.Record}
	for _, s := range e.Sessions {
		start, err := evidence.ParseHead(string(s.Start))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMark, err)
		}
		open := &openSession{start: start, n: s.N, intents: make(map[evidence.Position]evidence.Head)}
		for _, text := range s.Intents {
			h, err := evidence.ParseHead(string(text))
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errMark, err)
			}
			open.intents[h.Pos] = h
		}
		if m.Past.sessions == nil {
			m.Past.sessions = make(map[evidence.Position]*openSession)
		}
		m.Past.sessions[start.Pos] = open
	}
	for agent, hours := range e.Agents {
		for _, h := range hours {
			*m.Tally.of(agent).at(h.Hour) = hour{h.Hour, h.Commands, h.Writes}
		}
	}
	return m, nil
}

// NewMark returns a mark of what was folded otherwise, at its last record; nil
// is of a log without any.
func NewMark(past Past, tally Tally, last *evidence.Record) *Mark {
	m := &Mark{Past: past, Tally: tally}
	if last != nil {
		m.last = evidence.RecordHash(last.HeadBytes)
	}
	return m
}
