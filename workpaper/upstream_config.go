package workpaper

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const upstreamConfigTable = "upstream_config"

// Classes of a row of upstream_config.
const (
	configAdded      = "added"
	configRemoved    = "removed"
	configChanged    = "changed"
	configMoved      = "moved"      // rules that both imports have stand in another order
	configUnreadable = "unreadable" // the gateway's account can't read it, or not all
)

const (
	maxConfigHeld  = 64 << 20 // bytes of the newest imports of all upstreams
	configOverhead = 128      // of a row
	maxConfigNotes = 5        // upstreams that the note names

	maxConfigUpstreams = 1 << 14
)

// upstreamConfigs are how upstreams let people in, by the newest imports.
type upstreamConfigs struct {
	of    map[string]map[string]*configSection // by resource and kind of row
	bytes int                                  // of the rows that are held
	most  int

	compared                             uint64 // sections held against the import before
	ticketed, unticketed, unread, unheld uint64
}

// configSection are the rows of one kind.
type configSection struct {
	at     evidence.Position // the newest import that has them; zero before there is one
	rows   []evidence.ConfigRow
	single bool   // nothing was compared yet
	gone   bool   // the newest import has none of it
	unread string // what the newest import couldn't read of it, and why
}

func newUpstreamConfigs() upstreamConfigs {
	return upstreamConfigs{of: make(map[string]map[string]*configSection), most: maxConfigHeld}
}

// difference is what two imports don't have alike.
type difference struct{ key, before, after, class string }

func (f *Fold) importedConfig(h *evidence.Head, b *evidence.ImportBody) error {
	list, ok := rows[evidence.ConfigRow](f, h, b)
	if !ok {
		return nil
	}
	byKind := make(map[string][]evidence.ConfigRow)
	for i := range list {
		byKind[list[i].Kind] = append(byKind[list[i].Kind], list[i])
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		if !slices.Contains(evidence.ConfigKinds(), kind) {
			f.tests.imports.Except(h.Pos, "has %d rows of the kind %.80q, which there is not", len(byKind[kind]), kind)
		}
	}
	for _, kind := range evidence.ConfigKinds() {
		if err := f.importedSection(h, b, kind, byKind[kind]); err != nil {
			return err
		}
	}
	return nil
}

// importedSection holds the rows of a kind against those of the import before,
// and keeps them in their place.
func (f *Fold) importedSection(h *evidence.Head, b *evidence.ImportBody, kind string, now []evidence.ConfigRow) error {
	s := &f.upstreamConfigs
	if s.of[h.Resource] == nil {
		if len(s.of) >= maxConfigUpstreams {
			s.unheld++
			return nil
		}
		s.of[h.Resource] = make(map[string]*configSection)
	}
	c := s.of[h.Resource][kind]
	if c == nil {
		c = &configSection{}
		s.of[h.Resource][kind] = c
	}
	why := b.Params[kind]
	gone := why != "" && len(now) == 0
	lost := gone && !c.gone && !c.at.IsZero() // a hole is a change, too
	c.gone, c.unread = gone, fmt.Sprintf("%.200s", why)
	if why != "" {
		s.unread++
		if err := f.configRow(h, b, c.at, kind, &difference{after: why, class: configUnreadable}); err != nil {
			return err
		}
		if lost {
			f.changedConfig(h, b, kind, &difference{class: configUnreadable})
		}
	}
	if gone {
		return nil
	}
	if c.at.IsZero() {
		c.single = true
	} else {
		s.compared++
		c.single = false
		for _, d := range differences(kind, c.rows, now) {
			f.changedConfig(h, b, kind, &d)
			if err := f.configRow(h, b, c.at, kind, &d); err != nil {
				return err
			}
		}
	}
	s.hold(c, h.Pos, now)
	return nil
}

// hold keeps rows as the newest, unless more is held than may be: then the next
// import has nothing to be held against.
func (s *upstreamConfigs) hold(c *configSection, at evidence.Position, now []evidence.ConfigRow) {
	s.bytes -= configSize(c.rows)
	c.at, c.rows = at, now
	if s.bytes += configSize(now); s.bytes > s.most {
		s.bytes -= configSize(now)
		c.at, c.rows = evidence.Position{}, nil
		s.unheld++
	}
}

func configSize(list []evidence.ConfigRow) (n int) {
	for i := range list {
		n += configOverhead + len(list[i].Key) + len(list[i].Value)
	}
	return n
}

// differences are those between the rows of a kind in two imports: what was
// added and changed in the order of the later, then what was removed in that of
// the earlier. Of rules the order counts: the first that fits decides.
func differences(kind string, before, after []evidence.ConfigRow) (list []difference) {
	ordered := kind == evidence.ConfigRule
	told := func(of []evidence.ConfigRow, i int) string {
		if ordered {
			return fmt.Sprintf("%s, rule %d of %d", of[i].Value, i+1, len(of))
		}
		return of[i].Value
	}
	was, is := placesOf(before), placesOf(after)
	for i := range after {
		r := &after[i]
		switch j, known := was[r.Key]; {
		case is[r.Key] != i: // a key that is there twice counts where it is last
		case !known:
			list = append(list, difference{r.Key, "", told(after, i), configAdded})
		case before[j].Value != r.Value:
			list = append(list, difference{r.Key, before[j].Value, r.Value, configChanged})
		}
	}
	for i := range before {
		if _, known := is[before[i].Key]; !known && was[before[i].Key] == i {
			list = append(list, difference{before[i].Key, told(before, i), "", configRemoved})
		}
	}
	if !ordered {
		return list
	}
	common := func(of []evidence.ConfigRow, in, other map[string]int) (keys []string) {
		for i := range of {
			if _, known := other[of[i].Key]; known && in[of[i].Key] == i {
				keys = append(keys, of[i].Key)
			}
		}
		return keys
	}
	older, newer := common(before, was, is), common(after, is, was)
	for i := range older {
		if older[i] != newer[i] {
			return append(list, difference{"", older[i], newer[i], configMoved}) // where the orders first differ
		}
	}
	return list
}

// placesOf says where each key stands.
func placesOf(list []evidence.ConfigRow) map[string]int {
	places := make(map[string]int, len(list))
	for i := range list {
		places[list[i].Key] = i
	}
	return places
}

// changedConfig tests that a difference was made under a ticket.
func (f *Fold) changedConfig(h *evidence.Head, b *evidence.ImportBody, kind string, d *difference) {
	t := &f.tests.config
	t.Population++
	if b.Ticket != "" {
		f.upstreamConfigs.ticketed++
		return
	}
	f.upstreamConfigs.unticketed++
	const no = "and the import names no ticket"
	switch what := fmt.Sprintf("%s %.200q of %s", kind, d.key, h.Resource); d.class {
	case configChanged:
		t.Except(h.Pos, "%s was changed from %.200q to %.200q, %s", what, d.before, d.after, no)
	case configMoved:
		t.Except(h.Pos, "the rules (%s) of %s stand in another order, %s", kind, h.Resource, no)
	case configUnreadable:
		t.Except(h.Pos, "rows of the kind %s of %s can't be read any more, %s", kind, h.Resource, no)
	default:
		t.Except(h.Pos, "%s was %s: %.200q, %s", what, d.class, d.before+d.after, no)
	}
}

func (f *Fold) configRow(h *evidence.Head, b *evidence.ImportBody, before evidence.Position, kind string, d *difference) error {
	return f.row(upstreamConfigTable, pos(h.Pos), FormatTime(h.Time), h.Resource, pos(before), kind, d.key, d.before, d.after, d.class, b.Ticket, b.By.Person.ID)
}

// configured says of the test what it couldn't be made over.
func (t *Test) configured(s *upstreamConfigs) {
	if s.compared > 0 {
		t.State, t.Note = "", ""
	}
	var single, unread []string
	for _, resource := range slices.Sorted(maps.Keys(s.of)) {
		alone := false
		for _, kind := range evidence.ConfigKinds() {
			c := s.of[resource][kind]
			alone = alone || c.single
			if c.unread != "" {
				unread = append(unread, fmt.Sprintf("%s of %s (%s)", kind, resource, c.unread))
			}
		}
		if alone {
			single = append(single, resource)
		}
	}
	notes := []string{t.Note}
	if len(single) > 0 {
		notes = append(notes, "imported once only, with nothing to compare: "+first(single))
	}
	if len(unread) > 0 {
		notes = append(notes, "not tested, since the gateway's account can't read it: "+first(unread))
	}
	if s.unheld > 0 {
		notes = append(notes, fmt.Sprintf("%d times more was imported than is held until the next import", s.unheld))
	}
	t.Note = strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

func first(list []string) string {
	if more := len(list) - maxConfigNotes; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:maxConfigNotes], ", "), more)
	}
	return strings.Join(list, ", ")
}

type keptConfigs struct {
	Sections                                       []keptSection
	Compared, Ticketed, Unticketed, Unread, Unheld uint64
}

type keptSection struct {
	Resource, Kind string
	At             evidence.Position
	Rows           []evidence.ConfigRow
	Single, Gone   bool
	Unread         string
}

func (s *upstreamConfigs) keep() keptConfigs {
	k := keptConfigs{Compared: s.compared, Ticketed: s.ticketed, Unticketed: s.unticketed, Unread: s.unread, Unheld: s.unheld}
	for _, resource := range slices.Sorted(maps.Keys(s.of)) {
		for _, kind := range evidence.ConfigKinds() {
			c := s.of[resource][kind]
			k.Sections = append(k.Sections, keptSection{resource, kind, c.at, c.rows, c.single, c.gone, c.unread})
		}
	}
	return k
}

func (k *keptConfigs) resume() upstreamConfigs {
	s := newUpstreamConfigs()
	s.compared, s.ticketed, s.unticketed, s.unread, s.unheld = k.Compared, k.Ticketed, k.Unticketed, k.Unread, k.Unheld
	for _, c := range k.Sections {
		if s.of[c.Resource] == nil {
			s.of[c.Resource] = make(map[string]*configSection)
		}
		s.of[c.Resource][c.Kind] = &configSection{c.At, c.Rows, c.Single, c.Gone, c.Unread}
		s.bytes += configSize(c.Rows)
	}
	return s
}
