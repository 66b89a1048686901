package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
)

// protocolsOf returns how to make the protocol of a listener: a line for each.
func protocolsOf(c *config.Config, g *gateway.Gateway, log *slog.Logger) (make func(config.Listener, *tls.Config) (protocol.Protocol, error), stop func(), err error) {
	pool, err := grammarPool(g, log)
	if err != nil {
		return nil, nil, err
	}
	databases := postgres.NewDatabases(postgres.DatabasesConfig{
		Grammar: pool, Upstream: g.Upstream, Record: g.RecordImport, Logger: log,
		Unread: func(resource string) {
			go g.Alert("catalogue-unread", "medium", "the catalogue of "+resource+" cannot be read: once the one in use has lapsed, every statement is opaque")
		},
	})
	g.ExplainWith(databases)
	g.ResolveWith("postgres", postgres.Resolver{})
	return func(l config.Listener, t *tls.Config) (protocol.Protocol, error) {
		switch l.Protocol {
		case "postgres":
			return postgres.New(postgres.Config{
				Listener: l.Name, TLS: t, Understand: databases.Understand, Changed: databases.Changed, Logger: log,
				Limits: postgres.Limits{Message: int64(c.Limits.MessageBytes), Login: c.Limits.Handshake},
			}), nil
		}
		return nil, fmt.Errorf("no protocol %q", l.Protocol)
	}, pool.Close, nil
}
