package postgres_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

func TestSuite(t *testing.T) {
	for name, mode := range map[string]pgx.QueryExecMode{
		"Simple":   pgx.QueryExecModeSimpleProtocol,
		"Extended": pgx.QueryExecModeExec,
		"Prepared": pgx.QueryExecModeCacheStatement,
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			prototest.Run(t, prototest.Harness{
				New: func(_ *testing.T, log *slog.Logger) protocol.Protocol {
					return postgres.New(postgres.Config{
						Understand: func(string) postgres.Understander { return words{} },
						Limits:     postgres.Limits{Message: 1 << 20},
						Logger:     log,
					})
				},
				Upstream: func(*testing.T) protocol.Upstream { return s.upstream() },
				Login: func(conn net.Conn, token string) (prototest.Agent, error) {
					return login(conn, token, mode)
				},
				Denied:  func(c *evidence.Command) bool { return decide(c).Effect != evidence.Allow },
				Content: "a-constant-77",
			})
		})
	}
}

// pgxAgent is pgx as the suite's agent.
type pgxAgent struct {
	c    *pgx.Conn
	mode pgx.QueryExecMode
}

func login(conn net.Conn, token string, mode pgx.QueryExecMode) (prototest.Agent, error) {
	cfg, err := pgx.ParseConfig("postgres://agent-1@gateway.test/app?sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.Password = token
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	ctx, cancel := patience()
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &pgxAgent{c, mode}, nil
}

func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

func (a *pgxAgent) ask(text string) error {
	ctx, cancel := patience()
	defer cancel()
	rows, err := a.c.Query(ctx, text, a.mode, "a-constant-77")
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func (a *pgxAgent) Allowed() error { return a.ask("select $1::text") }
func (a *pgxAgent) Denied() error  { return a.ask("select $1::text, 'forbidden'") }
func (a *pgxAgent) Slow() error    { return a.ask("select $1::text from pg_sleep(4)") }
func (a *pgxAgent) Oversize() error {
	return a.ask("select $1::text, '" + strings.Repeat("x", 2<<20) + "'")
}

func (a *pgxAgent) Close() error {
	ctx, cancel := patience()
	defer cancel()
	return a.c.Close(ctx)
}
