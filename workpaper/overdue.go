package workpaper

import (
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// What is overdue at the end of a range. The entity may promise less; these are
// times after which nobody calls it in hand.
const (
	MaxKeyAge  = 400 * dayMicros // a year, and a month to replace the key in
	MaxUnused  = 90 * dayMicros  // a quarter, after which a review takes a grant away
	MaxUnheard = 7 * dayMicros   // from an alert until somebody has looked
)

// oldKey checks the age of an enrolled key when it was last used.
func (f *Fold) oldKey(id string, enrolled int64, u *uses) {
	if u.n == 0 {
		return
	}
	f.tests.keyAge.Population++
	if age := u.at - enrolled; age > MaxKeyAge {
		f.tests.keyAge.Except(u.last, "rests on key %s, enrolled %d days before", id, age/dayMicros)
	}
}

// unusedGrant checks a grant that stands at the end of the range and had stood
// in it since began.
func (f *Fold) unusedGrant(at evidence.Position, id string, began int64, u *uses) {
	began = max(began, f.openedAt)
	if f.lastTime-began < MaxUnused {
		return // the range is too short to tell
	}
	f.tests.unused.Population++
	if quiet := f.lastTime - max(began, u.at); quiet >= MaxUnused {
		f.tests.unused.Except(at, "grant %s still stands and was not used for %d days", id, quiet/dayMicros)
	}
}

// unheard checks when somebody looked at an alert.
func (f *Fold) unheard(a *alertState) {
	if f.lastTime-a.at < MaxUnheard {
		return // there is time
	}
	f.tests.heard.Population++
	switch {
	case a.heard == 0:
		f.tests.heard.Except(a.pos, "raised by %s, and nobody has said what it was", a.rule)
	case a.heard-a.at > MaxUnheard:
		f.tests.heard.Except(a.pos, "raised by %s, and looked at %d days later", a.rule, (a.heard-a.at)/dayMicros)
	}
}

// local reports whether a connection's end is on the gateway's own machine, a
// socket without an address or a process among them: what goes there crosses no
// network.
func local(address string) bool {
	return address == "@" || strings.HasPrefix(address, "/") || strings.HasPrefix(address, "stdio:") || ownMachine(hostOf(address))
}
