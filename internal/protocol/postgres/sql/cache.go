package sql

import (
	"hash/maphash"
	"sync"
)

func hashOf(text string, env Env) uint64 { return maphash.String(seed, text) ^ env.hash }

func hashOfBytes(text []byte, env Env) uint64 { return maphash.Bytes(seed, text) ^ env.hash }

const shards = 16

// cache is a least-recently-used cache, bounded in bytes. A hit allocates
// nothing.
type cache[V any] struct {
	shards [shards]shard[V]
}

type shard[V any] struct {
	mu      sync.Mutex
	entries map[uint64]*entry[V] // by hash; of two keys with one hash the later stays
	root    entry[V]             // of the ring: root.next is the newest
	bytes   int
	limit   int
}

type entry[V any] struct {
	prev, next *entry[V]
	hash       uint64
	text, env  string // what it is found by
	value      V
	cost       int
}

func newCache[V any](bytes int) *cache[V] {
	c := new(cache[V])
	for i := range c.shards {
		s := &c.shards[i]
		s.entries, s.limit = make(map[uint64]*entry[V]), bytes/shards
		s.root.prev, s.root.next = &s.root, &s.root
	}
	return c
}

func (c *cache[V]) get(h uint64, text, env string) (v V, ok bool) {
	s := &c.shards[h>>60]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[h]; e != nil && e.text == text && e.env == env {
		s.touch(e)
		return e.value, true
	}
	return v, false
}

// getBytes is get for a text that isn't a string yet.
func (c *cache[V]) getBytes(h uint64, text []byte, env string) (v V, ok bool) {
	s := &c.shards[h>>60]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[h]; e != nil && e.text == string(text) && e.env == env {
		s.touch(e)
		return e.value, true
	}
	return v, false
}

// put adds a value and returns it, or the one that was there before.
func (c *cache[V]) put(h uint64, text, env string, v V, cost int) V {
	s := &c.shards[h>>60]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[h]; e != nil {
		if e.text == text && e.env == env && !stale(e.value) {
			s.touch(e)
			return e.value
		}
		s.remove(e)
	}
	e := &entry[V]{hash: h, text: text, env: env, value: v, cost: cost + len(text) + 128}
	s.entries[h] = e
	s.insert(e)
	s.bytes += e.cost
	for s.bytes > s.limit && s.root.prev != e {
		s.remove(s.root.prev)
	}
	return v
}

// stale reports whether a value is one to be replaced.
func stale(v any) bool {
	u, ok := v.(*Understanding)
	return ok && !u.retry.IsZero()
}

func (s *shard[V]) touch(e *entry[V]) {
	if s.root.next == e {
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	s.insert(e)
}

func (s *shard[V]) insert(e *entry[V]) {
	e.prev, e.next = &s.root, s.root.next
	e.prev.next, e.next.prev = e, e
}

func (s *shard[V]) remove(e *entry[V]) {
	e.prev.next, e.next.prev = e.next, e.prev
	delete(s.entries, e.hash)
	s.bytes -= e.cost
}
