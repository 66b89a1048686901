package postgres

import (
	"context"
	"net"
	"testing"
)

// Callable are the functions that a FunctionCall may name and be understood.
var Callable = callable

// What is recorded of a server's configuration.
var (
	RuleOption = option
	Bounded    = bounded
)

// WrapUpstreams wraps connections to upstreams, until the test is over.
func WrapUpstreams(t testing.TB, wrap func(net.Conn) net.Conn) {
	t.Helper()
	plain := dial
	dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := plain(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
	t.Cleanup(func() { dial = plain })
}
