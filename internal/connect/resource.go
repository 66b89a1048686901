package connect

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// The protocols of local ends.
const (
	Postgres = "postgres"
	HTTP     = "http"
)

// Resource is a resource with its two sides: where the gateway offers it, and
// where clients on this machine are to find it.
type Resource struct {
	Name     string
	Protocol string // Postgres or HTTP

	gateway          *url.URL // http or https for HTTP
	direct           bool     // TLS begins without being asked for
	network, address string   // of the local end
}

// form is how a resource is written.
const form = "write it like orders=postgres://gateway.example.com:6433,127.0.0.1:15432"

// ParseResource parses RESOURCE=GATEWAY[,LOCAL].
//
// GATEWAY is postgres://HOST:PORT, https://HOST[:PORT][/PATH], the same with mcp
// for https, or http:// of a gateway on this machine; a unix socket of a gateway
// is postgres:///PATH. LOCAL is HOST:PORT or PORT of loopback, port 0 for any
// free one, or a path: for PostgreSQL the folder that clients take for a host,
// otherwise the socket itself. Without it LOCAL is missing, see Default.
func ParseResource(s string) (Resource, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || name == "" || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == '/' }) {
		return Resource{}, failure(form, "%q does not begin with the name of a resource and =", shown(s))
	}
	gateway, local := rest, ""
	if i := strings.LastIndexByte(rest, ','); i >= 0 {
		gateway, local = rest[:i], rest[i+1:]
		if local == "" {
			return Resource{}, failure(form, "%s: nothing follows the comma", name)
		}
	}
	r := Resource{Name: name}
	if err := r.parseGateway(gateway); err != nil {
		return Resource{}, err
	}
	if local == "" {
		return r, nil
	}
	return r, r.SetLocal(local)
}

// shown is what may be repeated of a resource that was written wrongly: what
// stands before a place where there could be a password.
func shown(s string) string {
	if before, _, ok := strings.Cut(s, "://"); ok {
		return before + "://..."
	}
	return s
}

func (r *Resource) parseGateway(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.Fragment != "" {
		return failure(form, "%s: the gateway's address is not a URL", r.Name)
	}
	if u.User != nil {
		return failure("leave user and password out: the agent's key is the credential", "%s: the gateway's address holds a credential", r.Name)
	}
	r.gateway = u
	switch u.Scheme {
	case "postgres", "postgresql":
		r.Protocol = Postgres
		return r.checkPostgres()
	case "https", "http", "mcp":
		r.Protocol = HTTP
		return r.checkHTTP()
	}
	return failure("one of postgres, https, mcp and, on this machine, http", "%s: %q is no protocol that is spoken here", r.Name, u.Scheme)
}

func (r *Resource) checkPostgres() error {
	u := r.gateway
	for key, values := range u.Query() {
		if key != "sslnegotiation" || len(values) != 1 || values[0] != "direct" && values[0] != "postgres" {
			return failure("only sslnegotiation=direct can be asked for", "%s: the gateway's address has an option %q", r.Name, key)
		}
		r.direct = values[0] == "direct"
	}
	switch {
	case u.Host == "" && strings.Trim(u.Path, "/") != "":
		return nil // a unix socket
	case u.Hostname() == "" || u.Port() == "":
		return failure(form, "%s: the gateway's address has no host and port", r.Name)
	case strings.Trim(u.Path, "/") != "":
		return failure("the resource's name is the database; write no other", "%s: the gateway's address names a database", r.Name)
	}
	return nil
}

func (r *Resource) checkHTTP() error {
	u := r.gateway
	if u.Scheme == "mcp" {
		u.Scheme = "https"
	}
	switch {
	case u.Hostname() == "":
		return failure("write it like tools=https://gateway.example.com:8443", "%s: the gateway's address has no host", r.Name)
	case u.RawQuery != "":
		return failure("leave it out", "%s: the gateway's address has a query", r.Name)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return failure("use https://", "%s: tokens would cross the network in the clear", r.Name)
	}
	return nil
}

// HasLocal reports whether it is said where the local end is.
func (r *Resource) HasLocal() bool { return r.network != "" }

// SetLocal says where the local end is, as in ParseResource.
func (r *Resource) SetLocal(s string) error {
	if strings.ContainsRune(s, '/') {
		s, err := filepath.Abs(s) // libpq takes a host for a folder only if it begins with /
		if err != nil {
			return failure("give the whole path", "%s: finding the local end: %v", r.Name, err)
		}
		r.network, r.address = "unix", s
		if r.Protocol == Postgres && !strings.HasPrefix(filepath.Base(s), socketPrefix) {
			r.address = filepath.Join(s, socketPrefix+"5432")
		}
		return nil
	}
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		s = "127.0.0.1:" + s
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return failure("give a port, like 15432, or a path, like /run/reporter", "%s: %q is no local address", r.Name, s)
	}
	if !loopback(host) {
		return failure("use 127.0.0.1, ::1 or a unix socket", "%s: %s is not only of this machine, and whoever reaches it acts as the agent", r.Name, s)
	}
	if host == "localhost" { // which a name server could send elsewhere
		host = "127.0.0.1"
	}
	r.network, r.address = "tcp", net.JoinHostPort(host, port)
	return nil
}

// socketPrefix begins the name of a PostgreSQL server's socket; its port
// follows.
const socketPrefix = ".s.PGSQL."

// loopback reports whether a host is this machine and nobody else can reach it.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
