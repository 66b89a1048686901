package decision

import (
	"cmp"
	"maps"
	"slices"
)

// shardCount trades the copy of the table against the copy of a shard: at
// 100,000 entries a change copies 2 KiB and about 400 entries.
const shardCount = 256

// shards is a persistent map: with returns a changed copy and leaves the
// original as it was, so that snapshots share what they have in common. Its
// zero value is empty.
//
// One that is its holder's own is changed in place instead.
type shards[V any] struct {
	table *[shardCount]map[string]V
	own   bool
}

// thaw returns a copy that shares nothing and is changed in place.
func (s shards[V]) thaw() shards[V] {
	table := new([shardCount]map[string]V)
	if s.table != nil {
		for i, m := range s.table {
			table[i] = maps.Clone(m)
		}
	}
	return shards[V]{table, true}
}

func (s shards[V]) get(k string) (v V, ok bool) {
	if s.table == nil {
		return v, false
	}
	v, ok = s.table[shardOf(k)][k]
	return v, ok
}

func (s shards[V]) with(k string, v V) shards[V] {
	if s.own {
		m := &s.table[shardOf(k)]
		if *m == nil {
			*m = make(map[string]V)
		}
		(*m)[k] = v
		return s
	}
	var table [shardCount]map[string]V
	if s.table != nil {
		table = *s.table
	}
	i := shardOf(k)
	m := maps.Clone(table[i])
	if m == nil {
		m = make(map[string]V)
	}
	m[k] = v
	table[i] = m
	return shards[V]{table: &table}
}

// sorted returns the values in order.
func (s shards[V]) sorted(compare func(a, b V) int) []V {
	var all []V
	if s.table == nil {
		return nil
	}
	for _, m := range s.table {
		for _, v := range m {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, compare)
	return all
}

// where returns the values for which a condition holds, in no order.
func (s shards[V]) where(holds func(V) bool) (found []V) {
	if s.table == nil {
		return nil
	}
	for _, m := range s.table {
		for _, v := range m {
			if holds(v) {
				found = append(found, v)
			}
		}
	}
	return found
}

// shardOf is FNV-1a: keys are chosen by people with rights over the registry,
// so collisions need no secret.
func shardOf(k string) uint32 {
	h := uint32(2166136261)
	for i := range len(k) {
		h = (h ^ uint32(k[i])) * 16777619
	}
	return h % shardCount
}

func byID[T any](id func(T) string) func(a, b T) int {
	return func(a, b T) int { return cmp.Compare(id(a), id(b)) }
}
