package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/listener"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
	"github.com/exhibit-gateway/exhibit/internal/reconcile"
	"github.com/exhibit-gateway/exhibit/internal/seal"
	"github.com/exhibit-gateway/exhibit/internal/session"
	"github.com/exhibit-gateway/exhibit/internal/upstream"
	"github.com/exhibit-gateway/exhibit/ledger"
)

func newServe(a *app) *cobra.Command {
	var known string
	c := &cobra.Command{
		Use: "serve", Short: "Run the gateway", GroupID: groupGateway, Args: exactly(),
		Long: `Runs the gateway until it is interrupted (SIGINT, SIGTERM), and then ends in
good order: sessions are ended, everything is on record and sealed. SIGHUP reads
configuration and policies again, as exhibit reload does.

The log goes to standard error, one JSON object a line. It holds no secret and
nothing that agents sent; what they did is in the evidence.`,
		Example: `  exhibit serve --config /etc/exhibit/exhibit.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.serve(cmd.Context(), known, slog.New(slog.NewJSONHandler(a.err, nil)))
		},
	}
	c.Flags().StringVar(&known, "known", "", knownUsage)
	return c
}

// serve joins the packages into a running gateway.
func (a *app) serve(ctx context.Context, known string, log *slog.Logger) (err error) {
	file, err := a.configPath()
	if err != nil {
		return err
	}
	if err := forbidDumps(); err != nil {
		log.Warn("a crash of the gateway may leave its keys in a core dump", "cause", err)
	}
	var live atomic.Pointer[inForce]
	load := func() (gateway.Settings, error) {
		c, err := a.loadConfig()
		if err != nil {
			return gateway.Settings{}, err
		}
		return settingsOf(c, &live)
	}
	settings, err := load()
	if err != nil {
		return err
	}
	if settings.Known, err = knownOf(known); err != nil {
		return err
	}
	g, err := gateway.Open(ctx, settings, load, log)
	if err != nil {
		return err
	}
	c := live.Load().Config
	protocols, stop, err := protocolsOf(&live, g, log)
	if err != nil {
		return errors.Join(err, g.Abandon())
	}
	defer stop()
	// Metrics count the listeners, so those come first.
	if err := listen(c, g, protocols, log); err != nil {
		return errors.Join(err, g.Abandon())
	}
	admin, err := a.admin(ctx, c, file, g, &live, log)
	if err != nil {
		return errors.Join(err, g.Abandon())
	}
	return g.Run(ctx, append(admin, reloadOnHangup(g, log))...)
}

// settingsOf turns the configuration into what the gateway is told. Once that is
// in force live leads to it.
func settingsOf(c *config.Config, live *atomic.Pointer[inForce]) (gateway.Settings, error) {
	services, err := servicesOf(c)
	if err != nil {
		return gateway.Settings{}, hinted{err, "nothing was put in force"}
	}
	policies := policy.NewFolder(c.Policies, vocabulary)
	folder := func() (evidence.PolicyBody, error) {
		bundle, err := policies.Load()
		if err != nil {
			err = hinted{fmt.Errorf("the policies cannot be used:\n%w", err), "nothing was put in force"}
		}
		return bundle, err
	}
	bundle, unread := folder()
	recipients, err := c.Recipients()
	if err != nil {
		return gateway.Settings{}, err
	}
	binary, err := binaryDigest()
	if err != nil {
		return gateway.Settings{}, err
	}
	s := gateway.Settings{
		Name: c.Gateway, Organisation: c.Organisation, Origin: c.Log.Origin, Data: c.Data,
		Version: version(), Binary: binary, Recipients: recipients, Auditors: c.Auditors,
		Config: c.Evidence(), RequestTTL: c.Rights.RequestTTL,
		Policy: bundle, Unread: unread, Folder: folder, Vocabulary: vocabulary,
		Limits:   session.Limits{Sessions: c.Limits.Sessions, SessionsPerAgent: c.Limits.SessionsPerAgent},
		TokenTTL: c.Limits.TokenTTL, Grace: c.Limits.ShutdownGrace, Heartbeat: c.Sealing.Heartbeat,
		Sealing: gateway.Sealing{
			Interval: c.Sealing.Interval, BlockBytes: int(c.Sealing.BlockBytes),
			MaxUnsealedAge: c.Sealing.MaxUnsealedAge, MaxUnsealedBytes: int64(c.Sealing.MaxUnsealedBytes),
		},
		Listening: []string{c.Admin.Socket, c.Admin.HTTPS.Address, c.Metrics.Address},
		InForce:   func() { live.Store(&inForce{c, services, serversOf(c), endpointsOf(c), clustersOf(c)}) },
	}
	if s.Witnesses, err = witnessesOf(c.Log); err != nil {
		return gateway.Settings{}, err
	}
	s.Quorum = c.Log.Quorum
	if s.Stamping, err = stampingOf(c.Log.Timestamps); err != nil {
		return gateway.Settings{}, err
	}
	if s.Alerts, err = alertsOf(c.Alerts); err != nil {
		return gateway.Settings{}, err
	}
	s.Telling = fmt.Sprintf("%+v", c.Alerts)
	if s.Sinks, err = sinksOf(c.Sinks); err != nil {
		return gateway.Settings{}, err
	}
	s.Sinking = fmt.Sprintf("%+v", c.Sinks)
	for _, p := range c.People {
		s.People = append(s.People, p.Evidence())
	}
	for _, l := range c.Listeners {
		s.Listening = append(s.Listening, fmt.Sprintf("%+v", l))
	}
	for i, r := range c.EvidenceResources() {
		up, err := upstreamOf(c.Resources[i])
		if err != nil {
			return gateway.Settings{}, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		s.Resources = append(s.Resources, gateway.Resource{Resource: r, Upstream: up, Log: logOf(c.Resources[i].Reconcile)})
	}
	return s, nil
}

// logOf returns where a server logs its sessions.
func logOf(r config.Reconcile) gateway.UpstreamLog {
	formats := map[string]string{config.LogCSV: reconcile.CSV, config.LogJSON: reconcile.JSON, config.LogAudit: reconcile.Audit}
	return gateway.UpstreamLog{Files: r.Log, Format: formats[r.Format], Every: r.Every}
}

// upstreamOf returns where a resource is: an address, or a program that the
// gateway starts.
func upstreamOf(r config.Resource) (func() (protocol.Upstream, error), error) {
	if len(r.MCP.Command) > 0 {
		up := protocol.Upstream{Address: "stdio:" + filepath.Base(r.MCP.Command[0])}
		return func() (protocol.Upstream, error) { return up, nil }, nil
	}
	target, err := targetOf(r.Upstream)
	if err != nil {
		return nil, err
	}
	return target.Upstream, nil
}

// witnessesOf are those that cosign the log.
func witnessesOf(l config.Log) (list []seal.Witness, err error) {
	for i, w := range l.Witnesses {
		v, err := ledger.NewVerifier(w.Key)
		if err != nil {
			return nil, hinted{fmt.Errorf("log.witnesses[%d].key: %w", i, err), "nothing was put in force"}
		}
		list = append(list, seal.Witness{URL: w.URL, Key: v})
	}
	return list, nil
}

// stampingOf says who stamps the log.
func stampingOf(t config.Timestamps) (gateway.Stamping, error) {
	s := gateway.Stamping{Interval: t.Interval, Timeout: t.Timeout}
	for i, a := range t.Authorities {
		at := fmt.Sprintf("log.timestamps.authorities[%d]", i)
		pem, err := os.ReadFile(a.CA)
		if err != nil {
			return s, hinted{fmt.Errorf("%s.ca: %w", at, err), "nothing was put in force"}
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return s, hinted{fmt.Errorf("%s.ca: %s holds no certificate in PEM", at, a.CA), "nothing was put in force"}
		}
		authority := seal.Authority{URL: a.URL, Roots: roots}
		if a.Policy != "" {
			if authority.Policy, err = config.ParseOID(a.Policy); err != nil {
				return s, hinted{fmt.Errorf("%s.policy: %w", at, err), "nothing was put in force"}
			}
		}
		s.Authorities = append(s.Authorities, authority)
	}
	return s, nil
}

// targetOf is the upstream of a resource.
func targetOf(u config.Upstream) (*upstream.Target, error) {
	return upstream.New(upstream.Config{
		Address: u.Address, Database: u.Database, User: u.User,
		Password: secretOf(u.Password),
		TLS: upstream.TLS{
			Mode: u.TLS.Mode, CA: u.TLS.CA, ServerName: u.TLS.ServerName, Cert: u.TLS.Cert, Key: u.TLS.Key,
			Direct: u.TLS.Negotiation == config.NegotiationDirect, Bound: u.TLS.ChannelBinding == config.BindingRequire,
		},
		Version:    u.MaxProtocolVersion,
		Header:     upstream.Header{Name: u.Header.Name, Prefix: u.Header.Prefix, Value: secretOf(u.Header.Value)},
		Kubeconfig: upstream.Kubeconfig{File: u.Kubeconfig, Context: u.Context},
		OAuth: upstream.OAuth{
			TokenURL: u.OAuth.TokenURL, ClientID: u.OAuth.ClientID, ClientSecret: secretOf(u.OAuth.ClientSecret),
			Scopes: u.OAuth.Scopes, Audience: u.OAuth.Audience,
		},
	})
}

func secretOf(s config.Secret) upstream.Secret { return upstream.Secret{File: s.File, Env: s.Env} }

// binaryDigest is the SHA-256 of this program.
var binaryDigest = sync.OnceValues(func() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
})

// grammarPool starts the children that parse.
func grammarPool(g *gateway.Gateway, log *slog.Logger) (*grammar.Pool, error) {
	return grammar.Start(grammar.Config{
		OnKill: func(reason string) {
			log.Warn("a statement ended the grammar's process; it is opaque", "reason", reason)
		},
		OnBare: func(reason string) {
			log.Warn("the grammar's process is less confined than it could be", "reason", reason)
		},
		OnDown: func(err error) {
			if err == nil {
				log.Info("the grammar's process runs again")
				return
			}
			log.Error("no process that parses can be started; every statement is opaque until one can", "cause", err)
			go g.Alert("grammar-down", "high", "no process that parses can be started: every statement is opaque until one can")
		},
	})
}

// maxPending is how many connections of a listener may be without a session.
const maxPending = 256

// listen opens the listeners of the configuration.
func listen(c *config.Config, g *gateway.Gateway, protocols func(config.Listener, *tls.Config) (protocol.Protocol, error), log *slog.Logger) error {
	for _, l := range c.Listeners {
		t, err := listenTLS(l.TLS, log)
		if err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
		}
		p, err := protocols(l, t)
		if err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
		}
		inTLS, negotiates := t, false
		if l.Protocol == "postgres" { // its clients ask for TLS within the protocol
			inTLS, negotiates = nil, t != nil
		} else if t != nil {
			inTLS = httpgate.TLS(t)
		}
		ln, err := listener.Listen(listener.Config{
			Name: l.Name, Address: l.Address, TLS: inTLS, NegotiatesTLS: negotiates, Handshake: c.Limits.Handshake, Grace: c.Limits.ShutdownGrace,
			// Sessions are limited by the gate, which puts a refusal on record;
			// this bounds what hasn't come that far.
			MaxConns: c.Limits.Sessions + 2*maxPending, MaxPending: maxPending, Log: log,
		}, p, g.Gate())
		if err != nil {
			return err
		}
		g.Serve(ln)
		log.Info("listening", "listener", l.Name, "protocol", l.Protocol, "address", ln.Addr().String())
	}
	return nil
}

func listenTLS(l config.ListenTLS, log *slog.Logger) (*tls.Config, error) {
	if l.Cert == "" {
		return nil, nil
	}
	get, err := listener.Certificate(l.Cert, l.Key, log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get}, nil
}

// admin opens the API and what operators' tools read, and returns what serves
// them.
func (a *app) admin(ctx context.Context, c *config.Config, file string, g *gateway.Gateway, live *atomic.Pointer[inForce], log *slog.Logger) (serve []func(context.Context) error, err error) {
	registry := prometheus.NewRegistry()
	g.Metrics(registry)
	handler, err := api.New(api.Options{
		Services: g.Services(), People: livePeople{live},
		Version:    api.Version{Version: version(), Gateway: c.Gateway, Origin: c.Log.Origin},
		ConfigFile: file, Registerer: registry, Log: log,
	})
	if err != nil {
		return nil, err
	}
	on := func(l net.Listener, what string) {
		log.Info("listening", "listener", what, "address", l.Addr().String())
		h := handler
		if what == "metrics" {
			h = api.Ops(registry, g.Ready)
		}
		serve = append(serve, func(ctx context.Context) error { return api.Serve(ctx, l, h) })
	}
	socket := c.Admin.Socket
	if a.socket != "" {
		socket = a.socket
	}
	l, err := api.ListenUnix(ctx, socket)
	if err != nil {
		return nil, err
	}
	on(l, "admin")
	if h := c.Admin.HTTPS; h.Address != "" {
		l, err := listenHTTPS(ctx, h)
		if err != nil {
			return nil, err
		}
		on(l, "admin-https")
	}
	if c.Metrics.Address != "" {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Metrics.Address)
		if err != nil {
			return nil, fmt.Errorf("listening for metrics: %w", err)
		}
		on(l, "metrics")
	}
	return serve, nil
}

func listenHTTPS(ctx context.Context, h config.HTTPS) (net.Listener, error) {
	cert, err := tls.LoadX509KeyPair(h.Cert, h.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the API's certificate: %w", err)
	}
	ca, err := os.ReadFile(h.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("reading the people's authority: %w", err)
	}
	t, err := api.TLSConfig(cert, ca)
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", h.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for the API: %w", err)
	}
	return tls.NewListener(l, t), nil
}

// livePeople are the people of the configuration in force.
type livePeople struct {
	c *atomic.Pointer[inForce]
}

func (p livePeople) PersonByUID(uid uint32) (evidence.Person, bool) {
	return p.c.Load().PersonByUID(uid)
}

func (p livePeople) PersonByCertificate(emails, uris []string) (evidence.Person, bool) {
	return p.c.Load().PersonByCertificate(emails, uris)
}

// reloadOnHangup reloads on SIGHUP, in the name of nobody but the signal.
func reloadOnHangup(g *gateway.Gateway, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
			}
			if _, err := g.Reload(ctx, false, evidence.By{Via: "SIGHUP"}); err != nil {
				log.Error("reloading: nothing was changed", "cause", err)
				continue
			}
			log.Info("reloaded")
		}
	}
}
