package workpaper

import (
	"strconv"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Formatting of cells. A zero value is an empty cell except for counts, where
// zero says something.

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func join(list []string) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0]
	}
	return strings.Join(list, " ")
}

// FormatTime is t, in microseconds since the epoch, as ISO 8601 in UTC.
func FormatTime(t int64) string {
	if t <= 0 {
		return ""
	}
	return time.UnixMicro(t).UTC().Format("2006-01-02T15:04:05.000000Z")
}

// clock formats times that come mostly in order: all but the digits below the
// second are those of the time before.
type clock struct {
	second int64
	prefix string // "2006-01-02T15:04:05."
}

func (c *clock) format(t int64) string {
	if t <= 0 {
		return ""
	}
	second, micros := t/1e6, t%1e6
	if second != c.second || c.prefix == "" {
		c.second = second
		c.prefix = time.Unix(second, 0).UTC().Format("2006-01-02T15:04:05.")
	}
	var b [32]byte
	copy(b[:], c.prefix)
	n := len(c.prefix)
	for i := n + 5; i >= n; i-- {
		b[i] = byte('0' + micros%10)
		micros /= 10
	}
	b[n+6] = 'Z'
	return string(b[:n+7])
}

func pos(p evidence.Position) string { return p.String() }
