package verify

import (
	"bufio"
	"bytes"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// seeds are the disclosed body seeds.
type seeds struct {
	known    map[scope]seed
	live     map[scope]evidence.Salts // of scopes in use
	untested uint64
	foreign  uint64
}

// scope is a key scope of the gateway: a session by its start, or a boot.
type scope struct{ boot, seq uint64 }

// noSeq is the seq of a boot's own scope.
const noSeq = 1<<64 - 1

// seed is a line of seeds.jsonl; many wait at once.
type seed struct {
	seed   evidence.Hash
	erased bool
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
	v.seeds.known, v.seeds.live = make(map[scope]seed), make(map[scope]evidence.Salts)
	if v.m.Params.Level == Heads {
		return true
	}
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
		if err := evidence.DecodeBody(lines.Bytes(), &s); err != nil || !bytes.Equal(lines.Bytes(), bytes.TrimSuffix(s.Encode(), []byte("\n"))) {
			c.except("%s has a line that is not a seed: %.120q", SeedsFile, lines.Text())
			return false
		}
		id, ok := parseScope(s.Scope, v.m.Gateway)
		if !ok {
			c.except("%s names %.120q, which is not a scope of gateway %s", SeedsFile, s.Scope, v.m.Gateway)
			return false
		}
		if _, twice := v.seeds.known[id]; twice || len(v.seeds.known) >= maxSeeds {
			c.except("%s names scope %.120q twice, or more than %d scopes", SeedsFile, s.Scope, maxSeeds)
			return false
		}
		v.seeds.known[id] = seed{s.Seed, s.Erased}
	}
	if err := lines.Err(); err != nil {
		c.except("%s: %.200s", SeedsFile, err)
		return false
	}
	return true
}

// of returns the salts of the bodies of a record's scope.
func (s *seeds) of(h *evidence.Head) (evidence.Salts, seedState) {
	id := scope{h.Session.Boot, h.Session.Seq}
	if h.Session.IsZero() {
		id = scope{h.Pos.Boot, noSeq}
	}
	salts, ok := s.live[id]
	if !ok {
		line, there := s.known[id]
		switch {
		case !there:
			return salts, seedMissing
		case line.erased:
			return salts, seedErased
		}
		salts = evidence.NewSalts(line.seed)
		if len(s.live) >= maxLive {
			clear(s.live)
		}
		s.live[id] = salts
	}
	if h.Type == evidence.SessionEnd {
		delete(s.live, id)
	}
	return salts, seedThere
}

// maxLive is how many scopes are kept ready for use.
const maxLive = 1 << 14

// parseScope parses the name of a scope, as ScopeOf writes it.
func parseScope(s, gateway string) (scope, bool) {
	if p, err := evidence.ParsePosition(s); err == nil {
		return scope{p.Boot, p.Seq}, p.Gateway == gateway
	}
	p, err := evidence.ParsePosition(s + ".0")
	return scope{p.Boot, noSeq}, err == nil && p.Gateway == gateway
}
