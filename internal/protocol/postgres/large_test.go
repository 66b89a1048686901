package postgres_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// TestRowsPassInConstantMemory takes one row that no buffer holds, and many
// that none holds together.
func TestRowsPassInConstantMemory(t *testing.T) {
	g := startGateway(t, startServer(t), postgres.Config{})
	for name, text := range map[string]string{
		"one row":   "select repeat('x', 32000000)",
		"many rows": "select repeat('x', 1000) from generate_series(1, 32000)",
	} {
		f := dialRaw(t, g)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f.query(text).send()
		if n := skim(t, f.conn); n < 32_000_000 {
			t.Errorf("%s: %d bytes", name, n)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%s took %d bytes", name, n)
		}
		f.terminate()
		g.last(t)
	}
}

// skim reads messages up to a ReadyForQuery and keeps none of them. It returns
// how many bytes they had.
func skim(t testing.TB, conn net.Conn) (total int) {
	t.Helper()
	c := bufio.NewReader(conn)
	var head [5]byte
	for head[0] != 'Z' {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatal(err)
		}
		n, err := c.Discard(int(binary.BigEndian.Uint32(head[1:]) - 4))
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

// TestParametersUpToTheLimit takes one above the default.
func TestParametersUpToTheLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	const size = 100 << 20
	g := startGateway(t, startServer(t), postgres.Config{Limits: postgres.Limits{Message: size + 1<<10}})
	f := dialRaw(t, g)
	f.parse("", "select length($1::text)").bind("", "", []byte(strings.Repeat("x", size))).execute("", 0).sync().send()
	if n := skim(t, f.conn); n == 0 || g.Sessions()[0].Exchanges()[0].Outcome().Class != evidence.OK {
		t.Errorf("%d bytes, %+v", n, g.Sessions()[0].Exchanges()[0].Outcome())
	}
	f.terminate()
	g.last(t)
}
