package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync/atomic"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres"
	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/sql"
)

// actions are those of all protocols.
var actions = func() map[string][]string {
	all := make(map[string][]string)
	for _, of := range []map[string][]string{sql.Actions, http.Actions, mcp.Actions, kubernetes.Actions} {
		maps.Copy(all, of)
	}
	return all
}()

// vocabulary is what policies can speak of.
var vocabulary = policy.Vocabulary{
	Actions:  actions,
	Facts:    map[string]map[string]string{"postgres": sql.Facts, http.Name: http.Facts, mcp.Name: mcp.Facts, kubernetes.Name: kubernetes.Facts},
	Pointers: []string{http.Name, mcp.Name},
}

// inForce is a configuration with what was read for it.
type inForce struct {
	*config.Config
	services  []http.Resource
	servers   []mcp.Resource
	endpoints []mcp.Endpoint
	clusters  []kubernetes.Resource
}

// protocolsOf returns how to make the protocol of a listener: a line for each.
func protocolsOf(live *atomic.Pointer[inForce], g *gateway.Gateway, log *slog.Logger) (make func(config.Listener, *tls.Config) (protocol.Protocol, error), stop func(), err error) {
	pool, err := grammarPool(g, log)
	if err != nil {
		return nil, nil, err
	}
	databases := postgres.NewDatabases(postgres.DatabasesConfig{
		Grammar: pool, Upstream: g.Upstream, Record: g.RecordImport, Own: g.RecordOwn, Logger: log,
		Unread: func(resource string) {
			go g.Alert("catalogue-unread", "medium", "the catalogue of "+resource+" cannot be read: once the one in use has lapsed, every statement is opaque")
		},
	})
	services := http.NewServices(http.ServicesConfig{
		InForce: func() *[]http.Resource { return &live.Load().services }, Record: g.RecordImport, Logger: log,
	})
	servers := func() []mcp.Resource { return live.Load().servers }
	clusters := kubernetes.Clusters(func() []kubernetes.Resource { return live.Load().clusters })
	definitions := mcp.NewDefinitions(mcp.DefinitionsConfig{Resources: servers, Record: g.RecordImport, Logger: log})
	g.ExplainWith("postgres", databases)
	g.ExplainWith(http.Name, services)
	g.ExplainWith(mcp.Name, definitions)
	g.ExplainWith(kubernetes.Name, clusters)
	g.ResolveWith("postgres", postgres.Resolver{Own: g.RecordOwn})
	g.CountWith("postgres", databases)
	g.AskWith("postgres", databases)
	g.ReadRightsWith(kubernetes.Account{Clusters: clusters, Upstream: g.Upstream, Own: g.RecordOwnRequest})
	c := live.Load()
	return func(l config.Listener, t *tls.Config) (protocol.Protocol, error) {
		switch l.Protocol {
		case "postgres":
			return postgres.New(postgres.Config{
				Listener: l.Name, TLS: t, Understand: databases.Understand, Changed: databases.Changed, Logger: log,
				Limits: postgres.Limits{Message: int64(c.Limits.MessageBytes), Login: c.Limits.Handshake},
			}), nil
		case http.Name:
			return http.New(http.Config{
				Listener: l.Name, Resources: services.Resources, Assert: g.Identify, Keys: g.Keys, Logger: log,
				Limits: httpgate.Limits{Idle: c.Limits.SessionIdle, Login: c.Limits.Handshake},
			}), nil
		case mcp.Name:
			return mcp.New(mcp.Config{
				Listener: l.Name, Resources: servers, Endpoints: func() []mcp.Endpoint { return live.Load().endpoints }, Definitions: definitions, Issuer: func() string { return live.Load().Issuer },
				Assert: g.Identify, Keys: g.Keys, Ask: wishesOf(g), Logger: log,
				Limits: httpgate.Limits{Idle: c.Limits.SessionIdle, Login: c.Limits.Handshake},
			}), nil
		case kubernetes.Name:
			return kubernetes.New(kubernetes.Config{
				Listener: l.Name, Resources: clusters, Logger: log,
				Limits: httpgate.Limits{Idle: c.Limits.SessionIdle, Login: c.Limits.Handshake},
			}), nil
		}
		return nil, fmt.Errorf("no protocol %q", l.Protocol)
	}, pool.Close, nil
}

// wishesOf passes on what agents ask people for.
func wishesOf(g *gateway.Gateway) func(context.Context, mcp.Wish) (mcp.Wished, error) {
	return func(ctx context.Context, w mcp.Wish) (mcp.Wished, error) {
		out, err := g.Wish(ctx, gateway.Wish(w))
		if hint := hintOf(err); hint != "" {
			err = fmt.Errorf("%w; %s", err, hint)
		}
		return mcp.Wished(out), err
	}
}

// servicesOf reads what the configuration says of resources that speak HTTP.
func servicesOf(c *config.Config) ([]http.Resource, error) {
	list := []http.Resource{}
	for _, r := range c.Resources {
		if r.Protocol != http.Name {
			continue
		}
		operations, err := operationsOf(r.HTTP)
		if err != nil {
			return nil, fmt.Errorf("resource %s: %w", r.Name, err)
		}
		h := r.HTTP
		list = append(list, http.Resource{
			Route: httpgate.Route{Resource: r.Name, Prefix: h.Prefix, Host: h.Host, Base: h.Base, HTTP2: h.HTTP2, Identity: h.Identity},
			Hosts: h.Hosts, Operations: operations, Match: h.Match,
		})
	}
	return list, nil
}

// clustersOf are the resources that speak Kubernetes.
func clustersOf(c *config.Config) []kubernetes.Resource {
	list := []kubernetes.Resource{}
	for _, r := range c.Resources {
		if r.Protocol != kubernetes.Name {
			continue
		}
		k := r.Kubernetes
		list = append(list, kubernetes.Resource{
			Route: httpgate.Route{Resource: r.Name, Prefix: k.Prefix, Host: k.Host},
			Hosts: k.Hosts, UserPrefix: k.UserPrefix, Groups: k.Groups, Extra: k.Extra,
		})
	}
	return list
}

// serversOf are the resources that speak MCP.
func serversOf(c *config.Config) []mcp.Resource {
	list := []mcp.Resource{}
	for _, r := range c.Resources {
		if r.Protocol == mcp.Name {
			list = append(list, serverOf(r))
		}
	}
	return list
}

// endpointsOf are servers that agents see as one.
func endpointsOf(c *config.Config) []mcp.Endpoint {
	list := []mcp.Endpoint{}
	for _, e := range c.Endpoints {
		joined := mcp.Endpoint{Prefix: e.Prefix, Hosts: e.Hosts}
		for _, name := range slices.Sorted(maps.Keys(e.Members)) {
			joined.Members = append(joined.Members, mcp.Member{Name: name, Resource: e.Members[name]})
		}
		list = append(list, joined)
	}
	return list
}

func serverOf(r config.Resource) mcp.Resource {
	m := r.MCP
	s := mcp.Resource{
		Route: httpgate.Route{Resource: r.Name, Prefix: m.Prefix, Host: m.Host, Identity: m.Identity},
		Hosts: m.Hosts, Endpoint: m.Endpoint, Tools: m.Tools, AcceptAll: m.Accept == config.AcceptAll,
		TrustAnnotations: m.TrustAnnotations, Match: m.Match, Message: int(m.MessageBytes),
	}
	if len(m.Command) > 0 {
		s.Command = &mcp.Command{Args: m.Command, Dir: m.Dir, Env: func() ([]string, error) { return environment(m.Env) }}
	}
	return s
}

// environment reads the variables of a process.
func environment(vars map[string]config.EnvVar) ([]string, error) {
	env := make([]string, 0, len(vars))
	for name, v := range vars {
		value := v.Value
		if s := v.Secret(); !s.IsZero() {
			var err error
			if value, err = s.Read(); err != nil {
				return nil, fmt.Errorf("variable %s: %w", name, err)
			}
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}

func operationsOf(h config.HTTP) (*http.Operations, error) {
	if h.OpenAPI == "" {
		return http.ParseRoutes(h.Routes)
	}
	info, err := os.Stat(h.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	if info.Size() > http.MaxDocument {
		return nil, fmt.Errorf("the OpenAPI document is larger than %d bytes", http.MaxDocument)
	}
	text, err := os.ReadFile(h.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	operations, err := http.ParseOpenAPI(text)
	if err != nil {
		return nil, fmt.Errorf("OpenAPI document %s: %w", h.OpenAPI, err)
	}
	return operations, nil
}
