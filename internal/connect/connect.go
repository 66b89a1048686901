// Package connect is the agent's end of the way to a gateway: clients on the
// agent's own machine come in over loopback or a unix socket, in plain and
// without a credential, and the same goes out over TLS and with a fresh token.
//
// In flow the resources, where the gateway offers them, and an Issuer of
// tokens; out come local ends, one for each resource, and the environment in
// which an ordinary client finds them. What a client sends is passed on as it
// is but for who it says it is. Whoever reaches a local end acts as the agent,
// so it is never open beyond this machine.
package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Config says what to open.
type Config struct {
	Agent     string // its id
	Resources []Resource
	Issuer    Issuer
	TLS       *tls.Config   // whom to trust as the gateway; no server name means that of its address
	Demand    bool          // TLS, of a gateway on this machine too
	Grace     time.Duration // for requests to end by themselves when the ends do
	Log       *slog.Logger  // slog.DiscardHandler; holds no secret
}

// Ends are open local ends. Serve serves them.
type Ends struct {
	tokens *tokens
	ends   []*end
}

// server serves the clients of one local end until its context is done, and
// returns when none is left.
type server interface {
	serve(ctx context.Context, l net.Listener) error
}

type end struct {
	End
	listener net.Listener
	server   server
}

// Open gets a first token and opens the local ends: who can have no token gets
// no ends either.
func Open(ctx context.Context, c Config) (*Ends, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Ends{tokens: newTokens(c.Issuer, c.Log)}
	if _, err := e.tokens.get(ctx); err != nil {
		e.tokens.stop()
		return nil, err
	}
	for _, r := range c.Resources {
		if err := e.open(ctx, c, r); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return e, nil
}

func (e *Ends) open(ctx context.Context, c Config, r Resource) error {
	l, err := listen(ctx, r.network, r.address, c.Log.With("resource", r.Name))
	if err != nil {
		return err
	}
	e.ends = append(e.ends, &end{
		End:      End{Resource: r.Name, Protocol: r.Protocol, Agent: c.Agent, Addr: l.Addr()},
		listener: l, server: serverOf(c, r, e.tokens),
	})
	return nil
}

func serverOf(c Config, r Resource, t *tokens) server {
	log := c.Log.With("resource", r.Name)
	config := gatewayTLS(c.TLS, r.gateway.Hostname())
	if r.Protocol == HTTP {
		return newWeb(r.gateway, config, t, c.Grace, log)
	}
	return &postgres{
		agent: c.Agent, resource: r.Name, tokens: t, log: log,
		gateway: newGateway(r, config, c.Demand),
	}
}

// gatewayTLS is base for a gateway of a name.
func gatewayTLS(base *tls.Config, host string) *tls.Config {
	t := &tls.Config{}
	if base != nil {
		t = base.Clone()
	}
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	if t.ServerName == "" {
		t.ServerName = host
	}
	return t
}

// List returns the ends, in the order of the resources.
func (e *Ends) List() []End {
	list := make([]End, len(e.ends))
	for i, x := range e.ends {
		list[i] = x.End
	}
	return list
}

// Serve serves clients until ctx is done, and then lets what is under way come
// to its end for a little. It closes the ends.
func (e *Ends) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(e.ends))
	var serving sync.WaitGroup
	for i, x := range e.ends {
		serving.Go(func() {
			errs[i] = x.server.serve(ctx, x.listener)
			cancel() // an end that is lost ends all: half of them would look like none lost
		})
	}
	serving.Wait()
	return errors.Join(append(errs, e.Close())...)
}

// Close closes the ends that weren't served.
func (e *Ends) Close() error {
	e.tokens.stop()
	var errs []error
	for _, x := range e.ends {
		if err := x.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
