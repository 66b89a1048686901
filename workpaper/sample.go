package workpaper

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// RowID names a row within its population. It is the first cell, but for rows
// that take more to tell apart.
func RowID(t *Table, cells []string) string {
	if t.Name == sodTable {
		return cells[0] + " " + cells[t.Column("rule")]
	}
	return cells[0]
}

// RowRecords returns the records whose sealed parts belong to a row: the one
// that it is named for, the one that ended it, the command that it was prepared
// by, and the authentication that it rests on.
func RowRecords(t *Table, cells []string) (list []evidence.Position) {
	for i, c := range t.Columns {
		if i > 0 && c.Name != "end_pos" && c.Name != "of" && c.Name != "authn_pos" {
			continue
		}
		if p, err := evidence.ParsePosition(cells[i]); err == nil && !p.IsZero() && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, comparePositions)
	return list
}

// Strata that a population can be sampled by. StratumQuarter makes one of each
// quarter of the calendar (UTC).
const (
	StratumAll        = "all"
	StratumPrivileged = "privileged"
	StratumDenied     = "denied"
	StratumBreakGlass = "break-glass"
	StratumQuarter    = "quarter"
)

// ErrStratum is wrapped where a population can't be divided as asked.
var ErrStratum = errors.New("not a stratum of this population")

// stratum returns a function that names the stratum of a row by cells, "" for
// none.
func stratum(t *Table, name string) (func(cells []string) string, error) {
	is := func(column string, in func(string) bool) (func([]string) string, error) {
		i := t.Column(column)
		if i < 0 {
			return nil, fmt.Errorf("%w: %s has no column %s, which %s goes by", ErrStratum, t.Name, column, name)
		}
		return func(cells []string) string {
			if in(cells[i]) {
				return name
			}
			return ""
		}, nil
	}
	switch name {
	case StratumAll:
		return func([]string) string { return name }, nil
	case StratumPrivileged:
		return is("verb", func(v string) bool { return v == evidence.VerbAdmin || v == evidence.VerbOpaque })
	case StratumDenied:
		if t.Column("decision") < 0 {
			return is("outcome", func(v string) bool { return v != string(evidence.OK) })
		}
		return is("decision", func(v string) bool { return v != string(evidence.Allow) })
	case StratumBreakGlass:
		return is("breakglass", func(v string) bool { return v != "" })
	case StratumQuarter:
		i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Kind == Time })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s has no time that a quarter goes by", ErrStratum, t.Name)
		}
		return func(cells []string) string { return quarter(cells[i]) }, nil
	}
	return nil, fmt.Errorf("%w: %.40q; there are all, privileged, denied, break-glass and quarter", ErrStratum, name)
}

// quarter is that of a time as cells have it, "" without one.
func quarter(t string) string {
	if len(t) < len("2006-01") {
		return ""
	}
	return fmt.Sprintf("%s-Q%d", t[:4], (int(t[5]-'0')*10+int(t[6]-'0')+2)/3)
}

// Draw is what was drawn of one stratum.
type Draw struct {
	Stratum string   `json:"stratum"`
	Rows    uint64   `json:"rows"` // of the stratum
	IDs     []string `json:"ids"`  // by rank
}

// Sampler draws rows of a population: of each stratum those with the smallest
// ranks, where the rank of a row is HMAC-SHA256(seed, population digest || 0x00
// || row id). It takes rows in any order.
type Sampler struct {
	n      int
	seed   string
	prefix []byte
	by     []func(cells []string) string
	order  []string // strata as asked for
	kept   []map[string]*drawing
}

// drawing keeps the n smallest ranks of a stratum so far, in order.
type drawing struct {
	rows uint64
	best []ranked
}

type ranked struct {
	rank [sha256.Size]byte
	id   string
}

func compareRanks(a, b ranked) int { return slices.Compare(a.rank[:], b.rank[:]) }

// MaxSample is the most rows that are drawn of one stratum, and maxStrata the
// most strata: whoever wants more tests the whole population.
const (
	MaxSample = 10_000
	maxStrata = 1_000
)

// NewSampler returns the sampler of a population that is so digested.
func NewSampler(t *Table, digest [sha256.Size]byte, seed string, n int, strata []string) (*Sampler, error) {
	s := &Sampler{n: n, seed: seed, prefix: append(digest[:], 0), order: strata}
	for i, name := range strata {
		f, err := stratum(t, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(strata[:i], name) {
			return nil, fmt.Errorf("stratum %s is named twice", name)
		}
		s.by, s.kept = append(s.by, f), append(s.kept, make(map[string]*drawing))
	}
	return s, nil
}

// Row takes a row.
func (s *Sampler) Row(id string, cells []string) error {
	r := ranked{id: id}
	for i, f := range s.by {
		name := f(cells)
		if name == "" {
			continue
		}
		d := s.kept[i][name]
		if d == nil {
			if len(s.kept[i]) >= maxStrata {
				return fmt.Errorf("%w: more than %d strata", ErrTooMuch, maxStrata)
			}
			d = &drawing{}
			s.kept[i][name] = d
		}
		if r.rank == [sha256.Size]byte{} {
			r.rank = s.rank(id)
		}
		d.rows++
		if err := d.add(r, s.n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sampler) rank(id string) (rank [sha256.Size]byte) {
	m := hmac.New(sha256.New, []byte(s.seed))
	m.Write(s.prefix)
	m.Write([]byte(id))
	m.Sum(rank[:0])
	return rank
}

func (d *drawing) add(r ranked, n int) error {
	i, twice := slices.BinarySearchFunc(d.best, r, compareRanks)
	switch {
	case twice:
		return fmt.Errorf("the population has two rows %.200q", r.id)
	case i < n:
		d.best = slices.Insert(d.best[:min(len(d.best), n-1)], i, r)
	}
	return nil
}

// Draws returns what was drawn, stratum by stratum.
func (s *Sampler) Draws() (list []Draw) {
	for i := range s.order {
		var of []Draw
		for name, d := range s.kept[i] {
			ids := make([]string, len(d.best))
			for j := range d.best {
				ids[j] = d.best[j].id
			}
			of = append(of, Draw{Stratum: name, Rows: d.rows, IDs: ids})
		}
		if len(of) == 0 && s.order[i] != StratumQuarter { // that there is none says something
			of = []Draw{{Stratum: s.order[i], IDs: []string{}}}
		}
		slices.SortFunc(of, func(a, b Draw) int { return cmp.Compare(a.Stratum, b.Stratum) })
		list = append(list, of...)
	}
	return list
}

// Population returns the population with a name, without rows. Control totals
// are none: they are sums of the others.
func Population(name string) (*Table, error) {
	all := slices.DeleteFunc(Populations(), func(t Table) bool { return t.Name == totalsTable })
	names := make([]string, len(all))
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
		names[i] = all[i].Name
	}
	return nil, fmt.Errorf("there is no population %.40q; there are %s", name, strings.Join(names, ", "))
}
