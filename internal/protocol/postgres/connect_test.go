package postgres_test

import (
	"net"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// lateWriter is a connection whose writes take effect long before they return,
// as on a machine that has too much to do. Some are on time.
type lateWriter struct {
	net.Conn
	writes int
}

func (c *lateWriter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.writes++; c.writes < 6 {
		time.Sleep(300 * time.Millisecond)
	}
	return n, err
}

// While a write is late, pgconn reads from the server in the background. What
// it has begun to read must not be the answer to the agent.
func TestALateWriteToTheUpstreamTakesNothingFromTheAgent(t *testing.T) {
	postgres.WrapUpstreams(t, func(c net.Conn) net.Conn { return &lateWriter{Conn: c} })
	g := startGateway(t, startServer(t), postgres.Config{})
	f := dialRaw(t, g)
	f.query("select 1").send()
	f.expect("T D C Z")
	f.terminate()
	asked := 0
	for _, n := range g.last(t).Notes() {
		if n.Kind == "setup" {
			asked++
		}
	}
	if asked < 2 {
		t.Errorf("the server was asked %d times: no write was late", asked)
	}
}
