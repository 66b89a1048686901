package verify

import (
	"bufio"
	"bytes"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// seeds are the disclosed body seeds.
type seeds struct {
	lines    map[string]Seed
	live     map[evidence.Position]evidence.Salts // of scopes in use
	untested uint64
	foreign  uint64
}

type seedState uint8

const (
	seedThere seedState = iota
	seedErased
	seedMissing
)

// maxSeeds bounds the scopes of a pack, and maxSeedLine a line.
const (
	maxSeeds    = 1 << 22
	maxSeedLine = 256
)

// readSeeds reads seeds.jsonl.
func (v *verifier) readSeeds() bool {
	v.seeds.lines, v.seeds.live = make(map[string]Seed), make(map[evidence.Position]evidence.Salts)
	c := &v.c.commitments
	c.made = true
	f, err := v.files.open(SeedsFile)
	if err != nil {
		c.except("%.200s", err)
		return false
	}
	defer v.files.finish(f)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxSeedLine)
	for lines.Scan() {
		var s Seed
		if err := evidence.DecodeBody(lines.Bytes(), &s); err != nil || !bytes.Equal(append(lines.Bytes(), '\n'), s.Encode()) {
			c.except("%s has a line that is not a seed: %.120q", SeedsFile, lines.Text())
			return false
		}
		if _, twice := v.seeds.lines[s.Scope]; twice || len(v.seeds.lines) >= maxSeeds {
			c.except("%s names scope %.120q twice, or more than %d scopes", SeedsFile, s.Scope, maxSeeds)
			return false
		}
		v.seeds.lines[s.Scope] = s
	}
	if err := lines.Err(); err != nil {
		c.except("%s: %.200s", SeedsFile, err)
		return false
	}
	return true
}

// of returns the salts of the bodies of a record's scope.
func (s *seeds) of(h *evidence.Head) (evidence.Salts, seedState) {
	scope := h.Session
	if scope.IsZero() {
		scope = evidence.Position{Gateway: h.Pos.Gateway, Boot: h.Pos.Boot, Seq: 1<<64 - 1}
	}
	salts, ok := s.live[scope]
	if !ok {
		line, there := s.lines[ScopeOf(h)]
		switch {
		case !there:
			return salts, seedMissing
		case line.Erased:
			return salts, seedErased
		}
		salts = evidence.NewSalts(line.Seed)
		if len(s.live) >= maxLive {
			clear(s.live)
		}
		s.live[scope] = salts
	}
	if h.Type == evidence.SessionEnd {
		delete(s.live, scope)
	}
	return salts, seedThere
}

// maxLive is how many scopes are kept ready for use.
const maxLive = 1 << 14
