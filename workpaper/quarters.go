package workpaper

import (
	"fmt"
	"math"
	"time"
)

// never is a quarter's end that no record is past.
const never = math.MaxInt64

// maxQuarters is how many ends of quarters of a range have a listing, the first
// ones: six years.
const maxQuarters = 24

// quarterAfter is the end of the quarter of the calendar (UTC) that a time is in:
// the first microsecond of the next.
func quarterAfter(t int64) int64 {
	at := time.UnixMicro(t).UTC()
	return time.Date(at.Year(), at.Month()-(at.Month()-1)%3+3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
}

// quarterName is that of the quarter that ends with a time.
func quarterName(end int64) string {
	at := time.UnixMicro(end - 1).UTC()
	return fmt.Sprintf("%04d-Q%d", at.Year(), (at.Month()+2)/3)
}

// endQuarters lists who could do what at the ends of quarters that lie before a
// record of the range and not before its first: the registry is that of the
// record before. A clock that is set back ends no quarter twice.
func (f *Fold) endQuarters(t int64) {
	for ; f.quarterEnd <= t; f.quarterEnd = quarterAfter(f.quarterEnd) {
		if len(f.quarters) == maxQuarters || f.told != nil {
			f.quarterEnd = never
			return
		}
		f.quarters = append(f.quarters, Table{
			Name: "access@" + quarterName(f.quarterEnd), Columns: accessColumns(), Rows: accessRows(f.registry, f.quarterEnd-1, f.outside.accounts),
		})
	}
}
